"""Decoders of other families: their sizes, their fresh weights, lifetimes against plain loops, and what is refused."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from evonb.connectomes.controls import dense_matched_config
from evonb.connectomes.wiring import prune
from evonb.core import ConnectomeError, InputError, Seeds, Stopped, StopRequest
from evonb.training.architectures import (
    causal_loss,
    check_wirable,
    config_from,
    config_values,
    family_config,
    is_random,
    loss_of,
    model_settings,
    new_model,
    resized,
)
from evonb.training.base import load_model, save_model
from evonb.training.connectome import Connectome, inherit, matrix_roles, parameter_shapes, wired_parameters
from evonb.training.gpt import GPTConfig, ModelConfig, meta_model, n_parameters
from evonb.training.lifetime import (
    Compute,
    Lifetime,
    LifetimeConfig,
    load_checkpoint,
    lr_factor,
    own_state,
    window_losses,
)

pytestmark = pytest.mark.numerics

FAMILIES = (
    "gpt2 llama qwen3 mistral gemma3 gemma2 phi phi3 gpt_neox opt falcon bloom gpt_bigcode gptj olmo2 stablelm "
    "starcoder2 smollm3 cohere granite"
).split()
IDS = np.random.default_rng(0).integers(0, 40, 5000).astype(np.uint16)
LIFE = LifetimeConfig(steps=8, batch_size=8, context=16, lr=1e-2, warmup=3, eval_every=1000, eval_windows=8,
                      checkpoint_every=4)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def config_of(family, **more):
    return family_config(ModelConfig(2, 4, 32, family, more or None), vocab_size=40, context=16)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_takes_the_sizes_of_a_preset_and_as_many_weights_as_our_gpt(family):
    config = config_of(family)
    model, roles = meta_model(config), matrix_roles(meta_model(config))
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (2, 4, 32)
    assert config.vocab_size == 40 and {r["block"] for r in roles.values()} == {None, 0, 1}
    tokens = next(n for n, r in roles.items() if r["role"] == "tokens")
    assert parameter_shapes(model)[tokens] == (40, 32)
    inside = {n for n, r in roles.items() if r["block"] is not None}
    blocks = sum(s[0] * s[1] for n, s in parameter_shapes(model).items() if n in inside)
    assert 0.75 * 2 * 12 * 32**2 < blocks <= 1.05 * 2 * 12 * 32**2  # fewer where heads share keys and values
    assert not is_random(model)  # whatever dropout is the family's default


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_weights_follow_from_the_seeds_alone_and_come_back_from_disk(family, tmp_path):
    config, before = config_of(family), torch.random.get_rng_state()
    one, other = new_model(config, Seeds(1)), new_model(config, Seeds(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(weights(new_model(config, Seeds(1))), weights(one)) and one.training
    assert not torch.equal(weights(other), weights(one)) and one.dtype == torch.float32
    torch.random.set_rng_state(before)
    save_model(one, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert type(again) is type(one) and torch.equal(weights(again), weights(one))
    x = torch.from_numpy(IDS[:34].astype(np.int64)).view(2, 17)
    assert torch.equal(loss_of(again.eval())(x[:, :-1], x[:, 1:]), loss_of(one.eval())(x[:, :-1], x[:, 1:]))
    x = x[:, :16]
    assert torch.allclose(causal_loss(one, x[:, :-1], x[:, 1:]), one(x, labels=x).loss, atol=1e-6)  # as transformers


def plain_loop(model, connectome, steps, windows):
    "What one would write by hand: dense AdamW, float masks on gradients and weights."
    masks = {n: (s != 0).float() for n, s in connectome.signs.items()}
    opt = torch.optim.AdamW(model.parameters(), lr=LIFE.lr, betas=LIFE.betas, weight_decay=LIFE.weight_decay)
    losses = []
    for step in range(steps):
        x, y = windows.batch(step)
        opt.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(input_ids=x).logits.reshape(-1, 40), y.reshape(-1))
        loss.backward()
        params = dict(model.named_parameters())
        for n, m in masks.items():
            params[n].grad.mul_(m)
        torch.nn.utils.clip_grad_norm_(model.parameters(), LIFE.grad_clip)
        for g in opt.param_groups:
            g["lr"] = LIFE.lr * lr_factor(step, LIFE)
        opt.step()
        with torch.no_grad():
            for n, m in masks.items():
                params[n].mul_(m)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "gpt_neox"])
def test_a_lifetime_equals_a_plain_masked_loop(family):
    config = config_of(family)
    connectome = prune(new_model(config, Seeds(0)), 0.75)
    life = Lifetime(inherit(new_model(config, Seeds(1)), connectome), IDS, IDS[-600:], LIFE, Seeds(2), connectome)
    for _ in range(6):
        life.one_step()
    reference = inherit(new_model(config, Seeds(1)), connectome)
    losses = plain_loop(reference, connectome, 6, life.windows)
    assert np.allclose(life.train_loss, losses, atol=2e-5)
    for p, q in zip(life.model.parameters(), reference.parameters()):
        assert torch.allclose(p, q, atol=5e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi", "falcon"])
def test_fast_products_give_the_same_loss_and_gradients(family):
    "With biases, with Conv1D, and with linear maps of a class of their own; enough tokens that they pay."
    x = torch.from_numpy(IDS[: 32 * 17].astype(np.int64)).view(32, 17)
    found = []
    for fast in (False, True):
        model = new_model(config_of(family), Seeds(0))
        loss = loss_of(model, fast)(x[:, :-1], x[:, 1:])
        loss.backward()
        assert not any("forward" in vars(m) for m in model.modules())  # nothing is left behind
        found.append((loss.detach(), torch.cat([p.grad.reshape(-1) for p in model.parameters()])))
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(*found))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_blocks_that_are_computed_again_give_the_same(family):
    config = config_of(family)
    lives = [
        Lifetime(new_model(config, Seeds(1)), IDS, IDS[-600:], replace(LIFE, batch_size=32), Seeds(2), compute=c)
        for c in (Compute(), Compute(gradient_checkpointing=True))
    ]
    for life in lives:
        for _ in range(3):
            life.one_step()
    assert np.allclose(lives[0].train_loss, lives[1].train_loss, atol=1e-5)


@pytest.mark.parametrize("family, more", [("gpt2", dict(resid_pdrop=0.1, attn_pdrop=0.1)), ("llama", {})])
def test_a_lifetime_goes_on_to_the_same_bits_with_tied_heads_and_dropout(family, more, tmp_path):
    "A tied head is stored once; what dropout drops follows from the step."
    config = config_of(family, **more)
    connectome = prune(new_model(config, Seeds(0)), 0.5)

    def life(folder=None):
        newborn = inherit(new_model(config, Seeds(1)), connectome)
        return Lifetime(newborn, IDS, IDS[-600:], LIFE, Seeds(2), connectome, folder)

    whole, stop = life().live(show=False), StopRequest()
    assert life().random is bool(more)
    first = life(tmp_path)
    for _ in range(4):
        first.one_step()
    stop.set("a test")
    with pytest.raises(Stopped):
        first.live(show=False, stop=stop)
    stored = load_checkpoint(next(tmp_path.glob("checkpoint-*")))[0]
    names = {n.removeprefix("model.") for n in stored if n.startswith("model.")}
    assert names == set(own_state(first.model)) and ("lm_head.weight" in names) is (family == "llama")
    second = life(tmp_path)
    torch.manual_seed(9)  # the global random state has no say
    assert second.restore() and second.step == 4
    assert torch.equal(weights(second.live(show=False).model), weights(whole.model))
    assert second.train_loss == whole.train_loss


def test_without_seeds_of_its_own_dropout_would_differ():
    "That a step's drop is decided by the step is seen where two steps read the same."
    model = new_model(config_of("gpt2", resid_pdrop=0.5), Seeds(0))
    life = Lifetime(model, IDS, IDS[-600:], LIFE, Seeds(2))
    x, y = life.windows.batch(0)
    found = []
    for step in (0, 0, 1):
        life.step = step
        with life.chance():
            found.append(float(life.loss(x, y, step)))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_one_matrix_in_two_roles_is_wired_pruned_and_exempt_once(family):
    model = new_model(config_of(family), Seeds(0))
    tied = [n for n, r in matrix_roles(model).items() if r["tied"]]
    assert bool(tied) is (family == "gpt2")
    for exempt in (("embeddings",), ("head",), ("embeddings", "head")):
        assert not set(tied) & set(wired_parameters(model, exempt))
    wiring = prune(model, 0.5, exempt=("head",))
    assert n_parameters(model) == wiring.n_trainable + sum(int((s == 0).sum()) for s in wiring.signs.values())
    if family == "gpt2":
        assert "transformer.wpe.weight" in wiring.signs
        assert "transformer.wpe.weight" not in wired_parameters(model, ("embeddings",))  # a table, too


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "opt", "gpt_neox", "falcon", "phi3"])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_dense_model_as_large_has_the_family_and_the_head_size(family, share):
    config = config_of(family)
    aim = int(share * n_parameters(config))
    found = dense_matched_config(config, aim)
    assert type(found) is type(config) and abs(n_parameters(found) / aim - 1) <= 0.05
    size = [c.hidden_size / c.num_attention_heads for c in (found, config)]
    assert size[0] == size[1] and found.hidden_size <= config.hidden_size
    x = torch.from_numpy(IDS[:17].astype(np.int64))[None]
    assert torch.isfinite(loss_of(new_model(found, Seeds(0)))(x[:, :-1], x[:, 1:]))


def test_the_closest_dense_model_is_told_where_none_fits():
    "Bloom has no field for the width of its MLPs, so its weights come in steps."
    for family, aim in (("llama", 900), ("bloom", 5000)):
        with pytest.warns(UserWarning, match=f"No dense model of 40 tokens has about {aim} weights"):
            dense_matched_config(config_of(family), aim)


REFUSED = {  # what is asked for -> what is said
    "mamba": "mamba can't be wired: backbone.layers.0.mixer.A_log",
    "mixtral": "mixtral can't be wired: .* x .* experts|mixtral can't be wired: model.layers.0.mlp.gate",
    "llama4": "stacked experts",
    "jamba": "jamba can't be wired",
    "bert": "bert isn't a causal language model",
    "rwkv": "rwkv can't be wired",
    "zamba2": "zamba2 can't be made with 2 layers, 4 heads and a width of 32",
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_no_connectome_covers_is_refused_by_name(family):
    with pytest.raises(InputError, match=REFUSED[family]):
        new_model(config_of(family), Seeds(0))


@pytest.mark.parametrize("family, said", [
    ("lama", "isn't known to transformers. Did you mean llama"),
    ("vit", "isn't a decoder with a language model's head"),
    ("t5", "isn't a decoder with a language model's head"),
    ("", "isn't known to transformers"),
])  # fmt: skip
def test_what_is_no_decoder_is_refused(family, said):
    for ask in (lambda: config_of(family), lambda: model_settings(family or "x.y", ModelConfig())):
        with pytest.raises(InputError, match=said):
            ask()
        if not family:
            break


@pytest.mark.parametrize("more, said", [
    (dict(hidden_size=64), "--set model.n_embd=64"), (dict(num_hidden_layers=3), "--set model.n_layer=3"),
    (dict(vocab_size=9), "the vocabulary is the corpus's"), (dict(hiden_act="relu"), "Did you mean hidden_act"),
    (dict(max_position_embeddings=8), "but a window has 16 tokens"), (dict(attn_implementation="flash"), "sdpa, eager"),
    (dict(num_key_value_heads="two"), "can't be made")])  # fmt: skip
def test_fields_that_are_elsewhere_or_nowhere_are_refused(more, said):
    with pytest.raises(InputError, match=said):
        config_of("llama", **more)


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(InputError, match="which 3 heads can't share equally"):
        family_config(ModelConfig(2, 3, 32, "llama"), 40, 16)


def test_matrices_that_nothing_passes_through_are_refused():
    "Cross-attention of a decoder that has no encoder."
    config = config_of("gpt2", add_cross_attention=True)
    with pytest.raises(InputError, match="nothing passes through.*crossattention"):
        new_model(config, Seeds(0))


def test_a_model_without_a_head_is_refused():
    with torch.device("meta"):
        from transformers import AutoModel

        model = AutoModel.from_config(config_of("llama"))
    with pytest.raises(InputError, match="no head that gives each token its logit"):
        check_wirable(model, "llama")


FILE = dict(model_type="qwen3", hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, intermediate_size=96, vocab_size=151_936, max_position_embeddings=40_960, rope_theta=1e6,
            torch_dtype="bfloat16", bos_token_id=151_643, attention_dropout=0.0,
            architectures=["Qwen3ForCausalLM"])  # fmt: skip


def test_a_file_wins_over_a_preset_and_says_what_it_gave(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(FILE | dict(some_new_field=1)))
    for given in (path, tmp_path):  # the file, or the model's folder
        model, told = model_settings(str(given), ModelConfig(9, 9, 9))
        assert (model.n_layer, model.n_head, model.n_embd, model.family) == (3, 4, 48, "qwen3")
    assert any("the corpus decides" in t for t in told) and any("the context decides" in t for t in told)
    assert any("some_new_field" in t and "left out" in t for t in told)
    made, theirs = family_config(model, 40, 16), AutoConfig.for_model(**FILE)
    for name in ("head_dim", "num_key_value_heads", "intermediate_size", "rope_parameters", "hidden_act"):
        assert getattr(made, name) == getattr(theirs, name)
    assert (made.vocab_size, made.max_position_embeddings, made.bos_token_id) == (40, 16, None)
    assert new_model(made, Seeds(0)).dtype == torch.float32


@pytest.mark.parametrize("change, said", [
    (dict(model_type=None), "has no model_type"), (dict(model_type="vit"), "isn't a decoder"),
    (dict(model_type="mine", auto_map=dict(AutoConfig="code.Mine")), "needs code of its own")])  # fmt: skip
def test_files_that_describe_no_decoder_are_refused(tmp_path, change, said):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(FILE | change))
    with pytest.raises(InputError, match=said):
        model_settings(str(path), ModelConfig())


def test_a_file_that_is_not_there_or_not_json_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.json"):
        model_settings(str(tmp_path / "gone.json"), ModelConfig())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Exception, match="config.json is damaged"):
        model_settings(str(tmp_path), ModelConfig())


def test_our_gpt_is_what_it_was():
    for family in (None, "gpt", "evonb-gpt"):
        made = family_config(ModelConfig(2, 4, 32, family), 40, 16)
        assert made.to_dict() == GPTConfig(vocab_size=40, n_layer=2, n_head=4, n_embd=32, block_size=16).to_dict()
    assert model_settings("gpt", ModelConfig(2, 4, 32, "llama"))[0] == ModelConfig(2, 4, 32)
    made = family_config(ModelConfig(2, 4, 32, None, dict(rope_base=5e4)), 40, 16)
    assert made.rope_base == 5e4


def test_configurations_come_back_as_they_were():
    for family in ("gpt2", "gemma3", "opt", None):
        made = config_of(family)
        assert config_from(json.loads(json.dumps(config_values(made)))).to_dict() == made.to_dict()
    eager = config_of("llama", attn_implementation="eager")
    assert new_model(config_from(config_values(eager)), Seeds(0)).config._attn_implementation == "eager"
    longer = resized(config_of("gemma3"), num_hidden_layers=8)
    assert len(longer.layer_types) == 8 and meta_model(longer)


def test_a_connectome_of_another_family_is_refused_naming_both():
    wiring = prune(new_model(config_of("llama"), Seeds(0)), 0.5)
    for family in ("gpt2", None):
        with pytest.raises(ConnectomeError, match=f"llama, where the model is {family or 'gpt'}"):
            inherit(new_model(config_of(family), Seeds(0)), wiring)
    ours = prune(new_model(config_of(None), Seeds(0)), 0.5)
    assert "family" not in ours.info  # as in connectomes of before
    with pytest.raises(ConnectomeError, match="gpt, where the model is llama"):
        inherit(new_model(config_of("llama"), Seeds(0)), ours)
    assert isinstance(replace(ours, info={}), Connectome)


def test_losses_of_windows_do_not_depend_on_the_batch():
    model = new_model(config_of("gpt2", resid_pdrop=0.5), Seeds(0))
    x = torch.from_numpy(IDS[:170].astype(np.int64)).view(10, 17)
    one, many = (window_losses(model, x[:, :-1], x[:, 1:], n) for n in (1, 10))
    assert torch.allclose(one, many, atol=1e-5) and model.training  # nothing is dropped when losses are measured
