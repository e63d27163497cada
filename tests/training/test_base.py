"""Bases from folders: whole or not at all, causal, with tokens that they know; adapters beside and below them."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from evonb.core import EvonbError, InputError, Seeds, file_sha256
from evonb.populations.experts import check_base, load_experts
from evonb.store import read_json, write_json
from evonb.text.tokens import train_tokenizer
from evonb.training.adapters import adapter_folders, linear_shapes, random_adapter, read_adapter, write_adapter
from evonb.training.base import load_model, new_base, open_base, save_base, save_model
from evonb.training.gpt import GPTConfig, load_published, new_gpt
from evonb.training.loading import load_whole

WORDS = "the cat sees a dog that runs near the big red house and sleeps."
N = 280
SIZES = dict(vocab_size=N, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)


def tokenizer():
    return train_tokenizer([WORDS] * 30, N)


def made(kind, config):
    torch.manual_seed(0)
    return kind(config).eval()


MODELS = dict(
    llama=lambda: made(LlamaForCausalLM, LlamaConfig(**SIZES, num_key_value_heads=1, max_position_embeddings=32)),
    tied=lambda: made(GPT2LMHeadModel, GPT2Config(vocab_size=N, n_layer=2, n_head=2, n_embd=16, n_positions=32)),
    experts=lambda: made(MixtralForCausalLM, MixtralConfig(**SIZES, num_key_value_heads=1, num_local_experts=2)),
    gpt=lambda: new_gpt(GPTConfig(vocab_size=N, n_layer=2, n_head=2, n_embd=16, block_size=32), Seeds(0)),
)
IDS = torch.arange(12)[None] * 7


def stored(model, folder, **options):
    model.save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return Path(folder)


def renamed(folder, rename):
    "Save the weights anew under other names; every file of a sharded model."
    for file in folder.glob("model*.safetensors"):
        save_file({rename(n): t for n, t in load_file(file).items()}, file, dict(format="pt"))
    index = folder / "model.safetensors.index.json"
    if index.exists():
        about = json.loads(index.read_text())
        about["weight_map"] = {rename(n): f for n, f in about["weight_map"].items()}
        index.write_text(json.dumps(about))


# A whole model -----------------------------------------------------------------------------------------------------

WRAPPED = {
    "compiled": lambda n: f"_orig_mod.{n}",
    "ddp": lambda n: f"module.{n}",
    "peft": lambda n: f"base_model.model.{n}",
    "nested": lambda n: f"module.base_model.model._orig_mod.{n}",
    "lightning": lambda n: f"model.{n}",
    "layers_compiled": lambda n: n.replace("layers.0.", "layers.0._orig_mod.").replace("h.1.", "h.1._orig_mod."),
    "checkpointed": lambda n: n.replace("mlp.", "_checkpoint_wrapped_module.mlp."),
}
PARTS = ("module", "_orig_mod", "base_model", "model.transformer", "model.model")


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("kind", MODELS)
def test_names_of_a_wrapper_are_mended_or_the_model_isnt_opened(kind, wrapper, tmp_path):
    model = MODELS[kind]()
    folder = stored(model, tmp_path / "base")
    digest = open_base(folder, "cpu").digest
    renamed(folder, WRAPPED[wrapper])
    before = {p: p.read_bytes() for p in folder.iterdir()}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        base = open_base(folder, "cpu")
    assert base.digest == digest
    assert torch.equal(base.model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    native = wrapper == "lightning" and kind in ("llama", "experts")  # transformers takes these names as they are
    native |= not any(p in n for f in folder.glob("*.safetensors") for n in load_file(f) for p in PARTS)
    assert native or any("wrapper's names" in str(w.message) for w in told)


@pytest.mark.parametrize("wrapper", ["compiled", "ddp"])
def test_shards_are_mended_too_even_if_only_some_are_wrapped(wrapper, tmp_path):
    model = MODELS["llama"]()
    folder = stored(model, tmp_path / "base", max_shard_size="20kB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    digest = open_base(folder, "cpu").digest
    first = sorted(load_file(sorted(folder.glob("model-*.safetensors"))[0]))
    renamed(folder, lambda n: WRAPPED[wrapper](n) if n in first else n)
    with pytest.warns(UserWarning, match="wrapper's names"):
        assert open_base(folder, "cpu").digest == digest


BROKEN = {
    "head": (lambda s: {n: t for n, t in s.items() if "lm_head" not in n}, "lm_head.weight"),
    "layer": (lambda s: {n: t for n, t in s.items() if "layers.1.mlp" not in n}, "model.layers.1.mlp.down_proj.weight"),
    "foreign": (lambda s: {f"teacher.{n}": t for n, t in s.items()}, "teacher.lm_head.weight"),
    "more": (lambda s: s | {"v_head.weight": torch.zeros(2)}, "v_head.weight"),
    "lora": (lambda s: {f"base_model.model.{n}": t for n, t in s.items()}
             | {"base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight": torch.ones(2, 16)}, "lora_A"),
    "twice": (lambda s: s | {f"_orig_mod.{n}": t + 1 for n, t in s.items()}, "_orig_mod."),
    "shape": (lambda s: s | {"lm_head.weight": torch.zeros(N - 1, 16)}, r"lm_head.weight has the shape \(279, 16\)"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_what_isnt_whole_is_refused_by_name(broken, tmp_path):
    folder = stored(MODELS["llama"](), tmp_path / "base")
    change, name = BROKEN[broken]
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, dict(format="pt"))
    with pytest.raises(InputError, match=f"doesn't hold the LlamaForCausalLM.*{name}"):
        open_base(folder, "cpu")


def test_tied_heads_and_computed_buffers_arent_missed(tmp_path):
    folder = stored(MODELS["tied"](), tmp_path / "gpt2")
    state = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in state
    state |= {"transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32), "transformer.h.0.attn.masked_bias": torch.ones(())}
    save_file(state, folder / "model.safetensors", dict(format="pt"))  # as older versions of transformers saved it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(open_base(folder, "cpu").model(IDS).logits, MODELS["tied"]()(IDS).logits)


def test_a_stored_newborn_is_whole_or_refused(tmp_path):
    model = MODELS["gpt"]()
    save_model(model, tmp_path / "m")
    assert torch.equal(load_model(tmp_path / "m")(IDS).logits, model(IDS).logits)
    file = tmp_path / "m" / "model.safetensors"
    state = load_file(file)
    shutil.copytree(tmp_path / "m", tmp_path / "n")
    (tmp_path / "n" / "files.json").unlink()
    save_file({f"_orig_mod.{n}": t for n, t in state.items()}, tmp_path / "n" / "model.safetensors", dict(format="pt"))
    from evonb.training.gpt import GPT

    with pytest.warns(UserWarning, match="wrapper's names"):
        assert torch.equal(load_whole(GPT, tmp_path / "n")(IDS).logits, model(IDS).logits)
    state.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(state, file, dict(format="pt"))
    with pytest.raises(EvonbError, match="model.safetensors"):
        load_model(tmp_path / "m")  # its checksum tells first
    with pytest.raises(InputError, match="transformer.h.1.mlp.c_fc.weight"):
        save_file(state, tmp_path / "n" / "model.safetensors", dict(format="pt"))
        load_whole(GPT, tmp_path / "n")


@pytest.mark.parametrize("file, spoil", [
    ("config.json", lambda b: b.replace(b'"n_head": 4', b'"n_head": ["GPT"]')),
    ("config.json", lambda b: b.replace(b'"pad_token_id": null', b'"pad_token_id": ["GPT"]')),
    ("model.safetensors", lambda b: b.replace(b'"data_offsets":[0,', b'"data_offsets":[1,')),
    ("model.safetensors", lambda b: b.replace(b'"F32"', b'"F33"', 1)),
])  # fmt: skip
def test_damage_that_checksums_agree_with_is_named(tmp_path, file, spoil):
    "Who changed a file by hand and its checksum, too."
    config = GPTConfig(vocab_size=300, n_layer=1, n_head=4, n_embd=16, block_size=32)
    save_model(new_gpt(config, Seeds(0)), tmp_path / "m")
    path, listed = tmp_path / "m" / file, tmp_path / "m" / "files.json"
    before = path.read_bytes()
    path.write_bytes(spoil(before))
    assert path.read_bytes() != before
    write_json(listed, read_json(listed) | {file: file_sha256(path)})
    with pytest.raises(EvonbError, match="m is damaged|n_head"):
        load_model(tmp_path / "m")


def test_warnings_of_transformers_are_seen(tmp_path, caplog):
    folder = stored(MODELS["llama"](), tmp_path / "base")
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | dict(tie_word_embeddings=True)))  # but the file has two
    import logging

    logger = logging.getLogger("transformers")
    was, logger.propagate = logger.propagate, True
    try:
        with caplog.at_level("WARNING"):
            open_base(folder, "cpu")
    finally:
        logger.propagate = was
    assert "tie" in caplog.text and "LOAD REPORT" not in caplog.text


# Causal, and with tokens that it knows -----------------------------------------------------------------------------


def bidirectional(kind):
    if kind == "xlnet":
        return made(XLNetLMHeadModel, XLNetConfig(vocab_size=N, d_model=16, n_layer=2, n_head=2, d_inner=24))
    if kind == "bert":
        return made(BertLMHeadModel, BertConfig(**SIZES))
    return made(RobertaForCausalLM, RobertaConfig(**SIZES, max_position_embeddings=34, type_vocab_size=1))


@pytest.mark.parametrize("kind, dtype", [(k, d) for k in ("bert", "roberta", "xlnet")
                                         for d in (torch.float32, torch.bfloat16)][:-1])  # fmt: skip
def test_a_bidirectional_model_is_no_base(kind, dtype, tmp_path):  # transformers can't compute XLNet in bfloat16
    folder = stored(bidirectional(kind).to(dtype), tmp_path / "base")
    with pytest.raises(InputError, match="isn't a causal language model.*reads in both directions"):
        open_base(folder, "cpu")


def test_one_that_was_made_a_decoder_is(tmp_path):
    config = RobertaConfig(**SIZES, max_position_embeddings=34, type_vocab_size=1, is_decoder=True)
    assert open_base(stored(made(RobertaForCausalLM, config), tmp_path / "base"), "cpu").tokenizer


@pytest.mark.parametrize("kind", MODELS)
def test_a_token_beyond_the_embedding_is_found_when_the_base_is_opened(kind, tmp_path):
    folder, more = stored(MODELS[kind](), tmp_path / "base"), tokenizer()
    more.add_special_tokens(dict(pad_token="[PAD]"))
    more.save_pretrained(folder)
    told = rf"it has {N} embeddings.*'\[PAD\]' \({N}\).*resize_token_embeddings\({N + 1}\)"
    with pytest.raises(InputError, match=told):
        open_base(folder, "cpu")
    with pytest.raises(InputError, match=r"\[PAD\]"):
        new_base(MODELS[kind](), more, "mine")


# Adapters beside a model, and several in a folder ------------------------------------------------------------------


def some_adapter(seed, model=None):
    return random_adapter(linear_shapes(model or MODELS["llama"]()), 2, Seeds(seed), size=2.0)


def test_a_model_beside_an_adapter_must_be_meant(tmp_path):
    model = MODELS["llama"]()
    folder = stored(model, tmp_path / "both")
    digest = open_base(folder, "cpu").digest
    write_adapter(some_adapter(0), tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, folder / name)
    with pytest.raises(InputError, match=r"holds a model and an adapter.*twice.*both::model"):
        open_base(folder, "cpu")
    base = open_base(f"{folder}::model", "cpu")
    assert base.digest == digest and torch.equal(base.model(IDS).logits, model(IDS).logits)
    assert base.model.generation_config.to_dict() == model.generation_config.to_dict()
    with pytest.raises(InputError, match="holds an adapter and no model of its own"):
        open_base(tmp_path / "adapter", "cpu")


def test_all_adapters_that_peft_saved_in_one_folder_are_seen(tmp_path):
    import peft

    model, config = MODELS["llama"](), dict(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**config))
    for name in ("second", "third"):
        wrapped.add_adapter(name, peft.LoraConfig(**config))
    wrapped.save_pretrained(tmp_path / "a")
    assert list(adapter_folders(tmp_path / "a")) == ["default", "second", "third"]
    with pytest.raises(InputError, match="holds the adapters default, second, third. Name the one"):
        read_adapter(tmp_path / "a")
    for name in ("default", "second", "third"):
        own = wrapped.base_model.model.model.layers[1].self_attn.q_proj.lora_A[name].weight
        assert torch.equal(read_adapter(tmp_path / "a", name).A["model.layers.1.self_attn.q_proj"], own)
    with pytest.raises(InputError, match="'fourth', but must be one of: default, second, third"):
        read_adapter(tmp_path / "a", "fourth")
    with pytest.warns(UserWarning, match="default, second, third, and all of them"):
        every = load_experts(tmp_path / "a")
    assert list(every) == ["default", "second", "third"] and len({a.digest() for a in every.values()}) == 3
    picked = load_experts(f"{tmp_path / 'a'}::third,second")
    assert {n: a.digest() for n, a in picked.items()} == {n: every[n].digest() for n in ("third", "second")}
    with pytest.raises(InputError, match="'fourth'"):
        load_experts(f"{tmp_path / 'a'}::fourth")


NAMES = {
    "compiled": lambda n: f"_orig_mod.{n}",
    "inside": lambda n: n.replace("base_model.model.", "base_model.model._orig_mod."),
    "ddp": lambda n: f"module.{n}",
    "raw": lambda n: n.replace(".weight", ".default.weight"),
    "doubled": lambda n: f"base_model.model.{n}",
    "bare": lambda n: n.removeprefix("base_model.model."),
}


@pytest.mark.parametrize("how", NAMES)
def test_an_adapters_names_are_mended_too(how, tmp_path):
    adapter = some_adapter(1)
    file = write_adapter(adapter, tmp_path / "a") / "adapter_model.safetensors"
    (tmp_path / "a" / "files.json").unlink()
    save_file({NAMES[how](n): t for n, t in load_file(file).items()}, file, dict(format="pt"))
    with pytest.warns(UserWarning, match="wrapper's names"):
        assert read_adapter(tmp_path / "a").digest() == adapter.digest()


def test_a_factor_that_is_there_twice_or_not_at_all(tmp_path):
    adapter, base = some_adapter(1), new_base(MODELS["llama"](), tokenizer(), "b")
    file = write_adapter(adapter, tmp_path / "a") / "adapter_model.safetensors"
    (tmp_path / "a" / "files.json").unlink()
    state = load_file(file)
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    save_file(state | {f"module.{key}": state[key] * 2}, file, dict(format="pt"))
    with pytest.raises(InputError, match="lora_A of model.layers.0.mlp.up_proj twice"):
        read_adapter(tmp_path / "a")
    save_file({n: t for n, t in state.items() if "layers.1.mlp" not in n}, file, dict(format="pt"))
    with pytest.raises(InputError, match="The expert a: .*no factors for model.layers.1.mlp.down_proj"):
        check_base(load_experts(tmp_path / "a"), base)
    save_file(state, file, dict(format="pt"))
    check_base(load_experts(tmp_path / "a"), base)


def test_a_base_that_save_base_wrote_is_opened_without_a_word(tmp_path):
    save_base(MODELS["gpt"](), tokenizer(), tmp_path / "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_base(tmp_path / "b", "cpu")


# What no weight's shape tells -------------------------------------------------------------------------------------

CHANGED = [("gpt", "n_head", 1), ("gpt", "rope_base", 500.0), ("llama", "num_attention_heads", 1),
           ("llama", "rms_norm_eps", 0.1), ("llama", "hidden_act", "relu"), ("tied", "n_head", 4),
           ("llama", "rope_parameters", dict(rope_type="default", rope_theta=50.0)),
           ("tied", "activation_function", "relu"), ("tied", "layer_norm_epsilon", 0.1)]  # fmt: skip


def change(folder, **said):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))


@pytest.mark.parametrize("name, field, value", CHANGED)
def test_a_configuration_that_was_changed_since_its_base_was_saved_is_refused(tmp_path, name, field, value):
    save_base(MODELS[name](), tokenizer(), tmp_path / "b")
    change(tmp_path / "b", **{field: value})
    with pytest.raises(InputError, match=f"config.json was changed since the model was saved: {field}"):
        open_base(tmp_path / "b", "cpu")


def test_of_a_base_of_before_the_checksum_tells_that_its_configuration_was_changed(tmp_path):
    save_base(MODELS["llama"](), tokenizer(), tmp_path / "b")
    about = read_json(tmp_path / "b" / "base.json")
    del about["config"]  # as they were written before
    write_json(tmp_path / "b" / "base.json", about)
    assert open_base(tmp_path / "b", "cpu").digest == about["digest"]
    change(tmp_path / "b", num_attention_heads=1)
    with pytest.raises(InputError, match="its checksum differs. .*Restore it"):
        open_base(tmp_path / "b", "cpu")


def test_what_concerns_text_alone_may_be_changed(tmp_path):
    save_base(MODELS["llama"](), tokenizer(), tmp_path / "b")
    change(tmp_path / "b", bos_token_id=5, transformers_version="9.9")
    assert open_base(tmp_path / "b", "cpu").model.config.bos_token_id == 5


@pytest.mark.parametrize("field, value", [("n_head", 1), ("rope_base", 500.0), ("rope_theta", 500.0),
                                          ("rms_norm_eps", 0.1), ("hidden_act", "relu")])  # fmt: skip
def test_our_own_model_in_a_plain_folder_tells_it_too(tmp_path, field, value):
    folder = stored(MODELS["gpt"](), tmp_path / "g")
    open_base(folder, "cpu")
    load_published(folder)
    change(folder, **{field: value})
    for read in (lambda: open_base(folder, "cpu"), lambda: GPTConfig.from_pretrained(folder)):
        with pytest.raises(InputError, match=rf"{field}|rope_base|base of the rotary"):
            read()
    if field in ("n_head", "rope_base"):
        with pytest.raises(InputError, match=f"{field} is .*the model was saved with"):
            load_published(folder)


def test_a_configuration_that_is_changed_in_memory_is_saved_as_it_is_then(tmp_path):
    config = GPTConfig(vocab_size=N, n_layer=1, n_head=2, n_embd=16)
    config.n_head = 4
    config.save_pretrained(tmp_path)
    assert GPTConfig.from_pretrained(tmp_path).n_head == 4
    assert "_computes" not in config.to_dict() and "_computes" not in GPTConfig.from_pretrained(tmp_path).to_dict()
