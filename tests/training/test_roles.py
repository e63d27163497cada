"""What each matrix does, over the families of decoders that transformers can build, against their own modules."""

import logging

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from evonb.core import Seeds
from evonb.training.connectome import Connectome, matrix_roles, parameter_shapes
from evonb.training.gpt import GPTConfig, new_gpt

QKV, SPLIT = {"fused_qkv", "o"}, {"q", "k", "v", "o"}
PLAIN, GATED = {"up", "down"}, {"gate", "up", "down"}
FAMILIES = {  # name -> roles within a block, whether its head is the embedding, further fields
    "gpt2": (QKV | PLAIN, True, dict(n_positions=16)),
    "openai-gpt": (QKV | PLAIN, True, {}),
    "gpt_bigcode": (QKV | PLAIN, True, {}),
    "gpt_neo": (SPLIT | PLAIN, True, dict(attention_types=[[["global"], 2]])),
    "gptj": (SPLIT | PLAIN, False, dict(rotary_dim=4)),
    "gpt_neox": (QKV | PLAIN, False, {}),
    "codegen": (QKV | PLAIN, False, dict(rotary_dim=4)),
    "bloom": (QKV | PLAIN, True, {}),
    "falcon": (QKV | PLAIN, True, {}),
    "mpt": (QKV | PLAIN, True, dict(d_model=32, n_heads=4, n_layers=2)),
    "opt": (SPLIT | PLAIN, True, dict(ffn_dim=64, word_embed_proj_dim=32)),
    "xglm": (SPLIT | PLAIN, True, dict(ffn_dim=64)),
    "biogpt": (SPLIT | PLAIN, True, {}),
    "llama": (SPLIT | GATED, False, {}),
    "mistral": (SPLIT | GATED, False, dict(num_key_value_heads=2)),
    "qwen2": (SPLIT | GATED, False, dict(num_key_value_heads=2)),
    "qwen3": (SPLIT | GATED, False, dict(num_key_value_heads=2, head_dim=8)),
    "gemma": (SPLIT | GATED, True, dict(num_key_value_heads=1, head_dim=8)),
    "gemma2": (SPLIT | GATED, True, dict(num_key_value_heads=2, head_dim=8)),
    "gemma3_text": (SPLIT | GATED, True, dict(num_key_value_heads=2, head_dim=8)),
    "olmo2": (SPLIT | GATED, False, {}),
    "granite": (SPLIT | GATED, False, {}),
    "smollm3": (SPLIT | GATED, True, dict(num_key_value_heads=2)),
    "phi": (SPLIT | PLAIN, False, {}),
    "phi3": (QKV | {"fused_gate_up", "down"}, False, dict(num_key_value_heads=2)),
    "stablelm": (SPLIT | GATED, False, {}),
    "starcoder2": (SPLIT | PLAIN, True, dict(num_key_value_heads=2)),
    "persimmon": (QKV | PLAIN, False, {}),
    "cohere": (SPLIT | GATED, True, dict(num_key_value_heads=2)),
    "ctrl": (SPLIT | PLAIN, True, dict(dff=64)),
    "bert": (SPLIT | PLAIN, True, dict(is_decoder=True)),
}
TURNED = ("gpt2", "openai-gpt")  # those with transformers' Conv1D


@pytest.fixture(scope="module")
def models():
    logging.disable(logging.WARNING)  # of transformers, on settings that only matter to generate()
    found = {"gpt": new_gpt(GPTConfig(vocab_size=50, n_layer=2, n_head=4, n_embd=32), Seeds(0), "meta")}
    for name, (_, _, more) in FAMILIES.items():
        sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
        if name == "mpt":
            sizes = dict(vocab_size=50)
        ends = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)
        with torch.device("meta"):
            found[name] = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**sizes, **ends, **more))
    logging.disable(logging.NOTSET)
    return found


@pytest.mark.parametrize("name", ["gpt", *FAMILIES])
def test_every_matrix_has_its_block_part_and_role(models, name):
    model, (roles, tied, _) = models[name], FAMILIES.get(name, (QKV | PLAIN, False, {}))
    found = matrix_roles(model)
    matrices = {n: p for n, p in model.named_parameters() if p.ndim == 2}
    assert set(found) == set(matrices)
    for block in (0, 1):
        own = {n: r for n, r in found.items() if r["block"] == block}
        assert {r["role"] for r in own.values()} == roles and len(own) == len(roles)
        assert all(r["part"] == ("attention" if r["role"] in SPLIT | QKV else "mlp") for r in own.values())
    read, written = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert tied is (read is written)
    for n, p in matrices.items():
        if p is read:
            assert found[n] | dict(tied=tied) == dict(
                block=None, layer=None, part="embedding", role="tokens", transposed=False, tied=tied
            )
        elif p is written:
            assert (found[n]["part"], found[n]["role"], found[n]["tied"]) == ("head", "head", False)
        elif found[n]["block"] is None:
            assert found[n]["role"] in ("positions", "types", "projection")
        else:
            assert found[n]["layer"] in n and found[n]["layer"].endswith(f".{found[n]['block']}")


@pytest.mark.parametrize("name", ["gpt", *FAMILIES])
def test_a_row_is_an_output_unless_said(models, name):
    "Asked of the modules themselves: how many numbers go in."
    model, found = models[name], matrix_roles(models[name])
    for n, r in found.items():
        module = model.get_submodule(n.rpartition(".")[0])
        if isinstance(module, torch.nn.Embedding):
            assert not r["transposed"]
        elif isinstance(module, torch.nn.Linear):
            assert module.in_features == module.weight.shape[1] and not r["transposed"]
        else:
            assert module.nf == module.weight.shape[1] and r["transposed"] and name in TURNED


@pytest.mark.parametrize("name", ["gpt", *FAMILIES])
def test_shapes_and_a_connectome_tell_the_same_as_the_model(models, name):
    shapes = parameter_shapes(models[name])
    assert matrix_roles(shapes) == matrix_roles(models[name])
    signs = {
        n: torch.ones(s, dtype=torch.int8) for n, s in shapes.items() if len(s) == 2 and n.endswith("o_proj.weight")
    }
    assert matrix_roles(Connectome(signs, shapes)) == matrix_roles(models[name])


@pytest.mark.parametrize("name", ["gpt", *FAMILIES])
def test_names_alone_tell_all_but_how_gpt_2_is_turned(models, name):
    found, by_name = matrix_roles(models[name]), matrix_roles(list(parameter_shapes(models[name])))
    assert set(by_name) == set(found)
    for n, r in by_name.items():
        unsure = r["transposed"] is None
        assert r == found[n] | (dict(transposed=None) if unsure else {})
        assert not unsure or name in ("gpt2", "openai-gpt", "gpt_bigcode", "gpt_neo")


def test_layers_have_a_density_by_the_names_of_any_family(models):
    shapes = parameter_shapes(models["llama"])
    signs = {n: torch.ones(s, dtype=torch.int8) for n, s in shapes.items() if len(s) == 2}
    for s in (signs["model.layers.1.mlp.up_proj.weight"], signs["lm_head.weight"]):
        s[: len(s) // 2] = 0
    found = Connectome(signs, shapes).layer_density()
    n = sum(s.numel() for k, s in signs.items() if ".layers.1." in k)
    assert found == {"model.embed_tokens.weight": 1, "layers.0": 1, "layers.1": 1 - 24 * 32 / n, "lm_head.weight": 0.5}
    ours = models["gpt"]
    wired = {n: torch.ones(p.shape, dtype=torch.int8) for n, p in ours.named_parameters()}
    assert list(Connectome(wired, parameter_shapes(ours)).layer_density()) == [
        "transformer.wte.weight",
        "h.0",
        "h.1",
        "lm_head.weight",
    ]
