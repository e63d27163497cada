"""Adapters in and out of PEFT's files, merges against their promises and references, and the two spaces."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evonb.core import DamagedFileError, InputError, RunExistsError, Seeds, StoreError
from evonb.evolution.method import METHODS, Lineage, Outcome
from evonb.evolution.search import evolve
from evonb.populations.merges import MERGES, combine, compress, distance, grams, merge, similarity
from evonb.populations.spaces import AdapterSpace, CoefficientSpace
from evonb.store import read_tensors, write_tensors
from evonb.training.adapters import (
    Adapter,
    applied,
    check_modules,
    config_rank_scale,
    linear_shapes,
    new_config,
    random_adapter,
    read_adapter,
    write_adapter,
)
from evonb.training.gpt import GPTConfig, new_gpt

pytestmark = pytest.mark.numerics

SHAPES = {"h.0.fc": (6, 8), "h.0.proj": (9, 5), "h.1.fc": (6, 8), "h.1.proj": (9, 5)}
IDS = torch.arange(10)[None] % 7


def some(n, rank=2, shapes=SHAPES, size=0.1):
    return [random_adapter(shapes, rank, Seeds(i), "a-base", size) for i in range(n)]


def whole(adapter):
    "All ΔWs in one vector, in double precision, by plain products."
    out = []
    for m in sorted(SHAPES):
        zero = torch.zeros(SHAPES[m], dtype=torch.float64)
        held = m in adapter.A
        out.append((adapter.scale[m] * adapter.B[m].double() @ adapter.A[m].double() if held else zero).flatten())
    return torch.cat(out)


def near(a, b, tolerance=1e-5):
    "Whether two adapters or vectors of ΔW agree, relative to the longer."
    a, b = (x if torch.is_tensor(x) else whole(x) for x in (a, b))
    return (a - b).norm() <= tolerance * max(a.norm(), b.norm())


def tiny_gpt():
    return new_gpt(GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=16, block_size=16), Seeds(0))


def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
        )
    ).eval()


def tiny_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()


MODELS = dict(gpt=tiny_gpt, llama=tiny_llama, gpt2=tiny_gpt2)
TARGETS = dict(gpt=["c_attn", "c_fc"], llama=["q_proj", "k_proj", "down_proj"], gpt2=["c_attn", "c_fc"])


def peft_saves(kind, folder, **more):
    "An adapter with random B that PEFT made and saved, and the tensors and configuration of its files."
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    settings = dict(r=4, lora_alpha=8, target_modules=TARGETS[kind], fan_in_fan_out=kind == "gpt2") | more
    model = get_peft_model(MODELS[kind](), LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(1)
    for n, p in model.named_parameters():
        if "lora_B" in n:
            p.data = 0.2 * torch.randn(p.shape, generator=generator)
    model.save_pretrained(folder)
    return load_file(folder / "adapter_model.safetensors"), json.loads((folder / "adapter_config.json").read_text())


def peft_logits(kind, folder):
    from peft import PeftModel

    model = PeftModel.from_pretrained(MODELS[kind](), folder).eval()
    with torch.no_grad():
        return model(IDS).logits, model


def our_logits(kind, adapter):
    model = MODELS[kind]()
    with torch.no_grad(), applied(model, adapter):
        return model(IDS).logits


VARIANTS = [
    ("gpt", {}),
    ("llama", {}),
    ("gpt2", {}),
    ("llama", dict(use_rslora=True)),
    ("llama", dict(rank_pattern={"q_proj": 2, "^model.layers.1.mlp.down_proj": 3}, alpha_pattern={"down_proj": 5})),
    ("llama", dict(layers_to_transform=[1], layers_pattern="layers")),
]


# --- PEFT's files ---


@pytest.mark.parametrize("kind,more", VARIANTS)
def test_what_peft_saved_comes_back_to_the_bit_and_scores_as_in_peft(tmp_path, kind, more):
    from safetensors.torch import load_file

    tensors, config = peft_saves(kind, tmp_path / "peft", **more)
    adapter = read_adapter(tmp_path / "peft")
    write_adapter(adapter, tmp_path / "ours")
    written = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[k], tensors[k]) and written[k].dtype == tensors[k].dtype for k in tensors)
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text()) == config
    theirs, _ = peft_logits(kind, tmp_path / "ours")
    assert (theirs - our_logits(kind, adapter)).abs().max() < 1e-4
    assert (theirs - our_logits(kind, Adapter({}, {}, {}, {}))).abs().max() > 1e-2  # and it does something


@pytest.mark.parametrize("kind", MODELS)
def test_merged_adapters_of_several_ranks_mean_in_peft_what_they_mean_here(tmp_path, kind):
    peft_saves(kind, tmp_path / "a", rank_pattern={TARGETS[kind][-1]: 2})
    peft_saves(kind, tmp_path / "b", r=3, use_rslora=True, target_modules=TARGETS[kind][:1])
    parents = [read_adapter(tmp_path / n) for n in "ab"]
    merged = merge(parents, weights=[2, 1])
    assert len({merged.rank(m) for m in merged.modules}) > 1
    write_adapter(merged, tmp_path / "merged")
    theirs, model = peft_logits(kind, tmp_path / "merged")
    assert (theirs - our_logits(kind, merged)).abs().max() < 1e-4
    found = {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if hasattr(m, "lora_A")}
    assert found.keys() == set(merged.modules)
    assert all(found[m].scaling["default"] == merged.scale[m] for m in found)
    assert all(found[m].r["default"] == merged.rank(m) for m in found)
    assert read_adapter(tmp_path / "merged").digest() == merged.digest()


def test_a_scale_changed_in_memory_is_written(tmp_path):
    [adapter] = some(1)
    louder = dataclasses.replace(adapter, scale={m: 2.5 + i for i, m in enumerate(adapter.modules)})
    assert read_adapter(write_adapter(louder, tmp_path / "a")).scale == louder.scale


def test_patterns_are_matched_as_peft_matches_them():
    from peft.utils.other import get_pattern_key

    patterns = {"fc": 1, "attn.c_proj": 2, "^h.0.c_proj": 3, "h.1\\..*": 4}
    names = ["h.0.fc", "fc", "h.0.xfc", "h.0.attn.c_proj", "h.0.c_proj", "x.h.0.c_proj", "h.1.q", "h.11.q", "a.h.1.q.k"]
    for name in names:
        theirs = patterns.get(get_pattern_key(patterns.keys(), name), 8)
        assert config_rank_scale(dict(r=8, lora_alpha=8, rank_pattern=patterns), name)[0] == theirs


REFUSED = [
    (dict(peft_type="LOHA"), "LOHA"),
    (dict(use_dora=True), "use_dora"),
    (dict(bias="all"), "bias"),
    (dict(lora_bias=True), "lora_bias"),
    (dict(modules_to_save=["lm_head"]), "modules_to_save"),
    (dict(init_lora_weights="pissa"), "pissa"),
    (dict(trainable_token_indices=[1]), "trainable_token_indices"),
    (dict(layer_replication=[[0, 1]]), "layer_replication"),
    (dict(r=3), "rank 3"),
    (dict(r=0), "r .or rank_pattern. is 0"),
    (dict(lora_alpha="16"), "lora_alpha"),
]


@pytest.mark.parametrize("change,named", REFUSED)
def test_more_than_plain_lora_is_refused_by_name(tmp_path, change, named):
    write_adapter(some(1)[0], tmp_path / "a")
    (tmp_path / "a" / "files.json").unlink()
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=named):
        read_adapter(tmp_path / "a")


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")  # PEFT warns of what is refused here
@pytest.mark.parametrize(
    "more,named",
    [
        (dict(use_dora=True), "use_dora"),
        (dict(target_modules=["embed_tokens"]), "adapted embedding"),
        (dict(lora_bias=True), "lora_bias"),
        (dict(modules_to_save=["lm_head"]), "modules_to_save"),
    ],
)
def test_what_peft_saved_with_more_is_refused(tmp_path, more, named):
    from peft import LoraConfig, get_peft_model

    get_peft_model(tiny_llama(), LoraConfig(**dict(target_modules=["q_proj"]) | more)).save_pretrained(tmp_path / "a")
    with pytest.raises(InputError, match=named):
        read_adapter(tmp_path / "a")


def rewrite(folder, change):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    (folder / "files.json").unlink(missing_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")


def test_damaged_and_foreign_files_are_refused(tmp_path):
    [adapter] = some(1)
    key = "base_model.model.h.0.fc.lora_{}.weight"
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(InputError, match="pickle"):
        read_adapter(tmp_path)
    for i, (change, named) in enumerate(
        [
            (lambda t: t.pop(key.format("A")), "only one of the two"),
            (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(2)}), "lm_head"),
            (lambda t: t.update({key.format("magnitude_vector"): torch.ones(2)}), "DoRA"),
            (lambda t: t.update({key.format("A"): torch.ones(2, 8, 1, 1)}), "convolutions"),
            (lambda t: t.update({key.format("A"): torch.ones(3, 8)}), "rank 2"),
        ]
    ):
        write_adapter(adapter, tmp_path / str(i))
        rewrite(tmp_path / str(i), change)
        with pytest.raises(InputError, match=named):
            read_adapter(tmp_path / str(i))
    write_adapter(adapter, tmp_path / "cut")
    data = (tmp_path / "cut" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "cut" / "adapter_model.safetensors").write_bytes(data[:-1])
    with pytest.raises(DamagedFileError, match="checksum"):
        read_adapter(tmp_path / "cut")
    (tmp_path / "cut" / "files.json").unlink()
    with pytest.raises(DamagedFileError, match="can't be read"):
        read_adapter(tmp_path / "cut")
    (tmp_path / "cut" / "adapter_config.json").write_text("{")
    with pytest.raises(DamagedFileError, match="whole JSON"):
        read_adapter(tmp_path / "cut")


def test_writing_replaces_adapters_only_and_whole_or_not_at_all(tmp_path, monkeypatch):
    import safetensors.torch

    first, second = some(2)
    write_adapter(first, tmp_path / "a")
    write_adapter(second, tmp_path / "a")
    assert read_adapter(tmp_path / "a").digest() == second.digest()

    def dies(*args):
        raise RuntimeError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(safetensors.torch, "save_file", dies)
        with pytest.raises(RuntimeError):
            write_adapter(first, tmp_path / "a")
    assert read_adapter(tmp_path / "a").digest() == second.digest()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    (tmp_path / "a" / "optimizer.pt").write_bytes(b"of someone else")
    with pytest.raises(RunExistsError, match="optimizer.pt"):
        write_adapter(first, tmp_path / "a")
    with pytest.raises(InputError, match="no module"):
        write_adapter(Adapter({}, {}, {}, {}), tmp_path / "b")


def test_digests_name_the_content_in_any_process(tmp_path):
    [adapter] = some(1)
    folder = write_adapter(adapter, tmp_path / "a")
    code = f"from evonb.training.adapters import read_adapter; print(read_adapter({str(folder)!r}).digest())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == adapter.digest()
    m = adapter.modules[0]
    others = [
        dataclasses.replace(adapter, scale=adapter.scale | {m: 2.0}),
        dataclasses.replace(adapter, A=adapter.A | {m: adapter.A[m] + 1e-6}),
        adapter.to(dtype=torch.bfloat16),
    ]
    assert len({a.digest() for a in [adapter, *others]}) == 4
    assert dataclasses.replace(adapter, config={}).digest() == adapter.digest()


# --- the promises of every merge ---


def options_for(name, condition=None):
    out = dict(condition if isinstance(condition, dict) else {})
    if name == "greedy_soup":
        out["evaluate"] = lambda xs: [-float(whole(x).abs().sum()) for x in xs]
    return out


def merged(name, parents, seed=0, rank=16, on="delta", weights=None, **options):
    return merge(parents, name, weights, on=on, rank=rank, generator=Seeds(seed).torch(), **options)


@pytest.mark.parametrize("on", ["delta", "factors"])
@pytest.mark.parametrize("name", MERGES)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(copies=st.integers(1, 5), seed=st.integers(0, 2**20), size=st.sampled_from([1e-3, 0.1, 10.0]))
def test_copies_of_one_parent_give_that_parent_where_promised(name, on, copies, seed, size):
    promise = MERGES[name].copies_give_parent
    parent = random_adapter(SHAPES, 2, Seeds(seed), "a-base", size)
    got = merged(name, [parent] * copies, on=on, **options_for(name, promise))
    if promise is False:
        assert name == "task_arithmetic" and (copies == 1 or not near(got, parent, 0.1))
    else:
        assert near(got, parent)


@pytest.mark.parametrize("on", ["delta", "factors"])
@pytest.mark.parametrize("name", MERGES)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(order=st.permutations(range(4)), seed=st.integers(0, 2**20))
def test_the_order_of_equal_parents_does_not_matter_where_promised(name, on, order, seed):
    promise = MERGES[name].symmetric
    parents = [random_adapter(SHAPES, 2, Seeds(seed).child(i), "a-base") for i in range(4)]
    a, b = (merged(name, ps, on=on, **options_for(name, promise)) for ps in (parents, [parents[i] for i in order]))
    assert promise is not False and near(a, b)


@pytest.mark.parametrize("name", MERGES)
def test_seeds_decide(name):
    parents = some(3)
    a, again, other = (merged(name, parents, seed, **options_for(name)) for seed in (0, 0, 1))
    assert a.digest() == again.digest()
    assert (a.digest() != other.digest()) == MERGES[name].random
    torch.manual_seed(5)  # nothing draws from the global generator
    before = torch.random.get_rng_state()
    merged(name, parents, **options_for(name))
    assert torch.equal(before, torch.random.get_rng_state())
    if MERGES[name].random:
        with pytest.raises(InputError, match="generator"):
            merge(parents, name)


@pytest.mark.parametrize("name", [n for n, m in MERGES.items() if m.copies_in_mean])
def test_random_merges_of_copies_give_the_parent_on_average(name):
    [parent] = some(1)
    draws = [merged(name, [parent] * 2, i, **MERGES[name].copies_in_mean) for i in range(400)]
    mean = torch.stack([whole(d) for d in draws]).mean(0)
    # one draw is off by |parent| / sqrt(2); the mean of 400 by a twentieth of that
    assert near(mean, parent, 0.06) and not near(draws[0], parent, 0.3)


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("on", ["delta", "factors"])
def test_bad_parents_are_refused_by_every_merge(name, on):
    first, second = some(2)
    m = first.modules[0]
    for value in (float("nan"), float("inf")):
        bad = dataclasses.replace(second, B=second.B | {m: second.B[m].clone().fill_(value)})
        with pytest.raises(InputError, match="Adapter 1 .*NaN or infinite"):
            merged(name, [first, bad], on=on)
    stranger = dataclasses.replace(second, config=second.config | dict(base_model_name_or_path="another"))
    with pytest.raises(InputError, match="a-base, another"):
        merged(name, [first, stranger], on=on)
    wide = random_adapter(SHAPES | {m: (7, 8)}, 2, Seeds(3), "a-base")
    with pytest.raises(InputError, match="shapes"):
        merged(name, [first, wide], on=on)
    with pytest.raises(InputError, match="no adapter"):
        merged(name, [], on=on)
    with pytest.raises(InputError, match="no option 'densty'"):
        merged(name, [first], on=on, densty=0.5)
    if "density" in MERGES[name].options:
        for density in (0, 1.5, -0.1, float("nan")):
            with pytest.raises(InputError, match="density"):
                merged(name, [first], density=density)


@pytest.mark.parametrize("name", MERGES)
def test_every_merge_keeps_the_parents_precision_and_promises_a_rank(name):
    parents = [a.to(dtype=torch.bfloat16) for a in some(3)]
    got = merge(parents, name, generator=Seeds(0).torch(), **options_for(name))
    assert {t.dtype for t in (*got.A.values(), *got.B.values())} == {torch.bfloat16}
    ranks = {got.rank(m) for m in got.modules}
    assert ranks == ({2} if MERGES[name].kind == "elementwise" else ranks)
    assert max(ranks) <= 6
    exact = merge(some(3), name, generator=Seeds(0).torch(), **options_for(name))
    assert similarity(got.to(dtype=torch.float32), exact) > 0.97


def test_factors_that_differ_in_rank_scale_or_modules_cannot_be_merged_apart():
    first, second = some(1)[0], some(1, rank=3)[0]
    with pytest.raises(InputError, match=r"ranks \[2, 3\]"):
        merge([first, second], on="factors")
    scaled = dataclasses.replace(first, scale=first.scale | {"h.0.fc": 2.0})
    with pytest.raises(InputError, match="scales"):
        merge([first, scaled], on="factors")
    fewer = random_adapter({"h.0.fc": (6, 8)}, 2, Seeds(1), "a-base")
    with pytest.raises(InputError, match="h.0.proj"):
        merge([first, fewer], on="factors")
    both = merge([first, second, scaled, fewer, Adapter({}, {}, {}, {})], "task_arithmetic")  # on ΔW all may differ
    assert near(both, sum(map(whole, (first, second, scaled, fewer))))
    for name in MERGES:  # a base given no name goes with any
        nameless = dataclasses.replace(fewer, config=fewer.config | dict(base_model_name_or_path=""))
        got = merged(name, [nameless, first], **options_for(name))
        assert got.config["base_model_name_or_path"] == "a-base"


def test_bad_weights_names_and_ranks_are_refused():
    parents = some(2)
    with pytest.raises(InputError, match="merge is 'ties2', but must be one of: linear, task_arithmetic.*pcb"):
        merge(parents, "ties2")
    for weights, named in (([1], "1 weights for 2"), ([1, np.nan], "finite"), ([1, -1], "sum to 0")):
        with pytest.raises(InputError, match=named):
            merge(parents, weights=weights)
    with pytest.raises(InputError, match="below 0"):
        merge(parents, "ties", weights=[2, -1])
    with pytest.raises(InputError, match="rank"):
        merge(parents, rank=0)
    with pytest.raises(InputError, match="delta, factors"):
        merge(parents, on="B")
    for weights, named in (([1.0], "1 weights for 2"), ([1.0, np.nan], "finite"), ({"h.0.fc": [1, 1]}, "h.0.proj")):
        with pytest.raises(InputError, match=named):
            combine(parents, weights)
    with pytest.raises(InputError, match="evaluate"):
        merge(parents, "greedy_soup")
    with pytest.raises(InputError, match="All parents failed"):
        merge(parents, "greedy_soup", evaluate=lambda xs: [float("nan")] * len(xs))


# --- against references ---


def test_weighted_sums_equal_full_matrices():
    parents = some(3)
    w = np.array([0.5, -1.2, 2.0])
    plain = sum(float(x) * whole(a) for x, a in zip(w, parents))
    assert near(merge(parents, "task_arithmetic", w), plain)
    assert near(merge(parents, "linear", w), plain / w.sum())
    assert near(merge(parents, "linear", w, scale=3.0), 3 * plain / w.sum())
    assert near(merge(parents, "uniform_soup", [5, 1, 1]), sum(map(whole, parents)) / 3)
    apart = merge(parents, "linear", [1, 1, 2], on="factors")
    m = apart.modules[0]
    assert torch.allclose(apart.A[m], sum(x * a.A[m] for x, a in zip((0.25, 0.25, 0.5), parents)), atol=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_recompression_is_the_best_of_its_rank(rank):
    parents = some(4, rank=3)
    got = combine(parents, [1, 2, -1, 0.5], rank)
    for m in got.modules:
        full = sum(w * a.delta(m) for w, a in zip((1, 2, -1, 0.5), parents)).double()
        U, S, Vh = torch.linalg.svd(full, full_matrices=False)
        assert torch.allclose(got.delta(m).double(), U[:, :rank] * S[:rank] @ Vh[:rank], atol=1e-6)
        assert got.rank(m) == rank and torch.allclose(got.A[m].norm(), got.B[m].norm(), rtol=1e-4)
    assert near(compress(combine(parents, [1, 2, -1, 0.5]), rank), got)


def test_elementwise_merges_equal_peft_where_it_is_followed():
    from peft.utils import merge_utils

    parents = some(3)
    for name, options in (("ties", dict(released=True)), ("magnitude_prune", {})):
        got = merged(name, parents, weights=[2, 1, 1], density=0.5, **options)
        for m in got.modules:
            tensors = [a.delta(m) for a in parents]
            theirs = getattr(merge_utils, name)(tensors, torch.tensor([0.5, 0.25, 0.25]), 0.5)
            assert torch.allclose(got.delta(m), theirs, atol=1e-6)


def test_ties_equals_a_plain_loop():
    parents, w, density = some(3), np.array([0.5, 0.3, 0.2]), 0.4
    got = merged("ties", parents, weights=w, density=density)
    for m in got.modules:
        X = np.array([a.delta(m).numpy() for a in parents])
        for x in X:
            x[np.abs(x) < np.sort(np.abs(x).ravel())[-round(density * x.size)]] = 0
        out = np.zeros(X.shape[1:])
        for i in np.ndindex(*out.shape):
            sign = np.sign((w * X[:, *i]).sum())
            agree = [k for k in range(3) if X[k, *i] != 0 and np.sign(X[k, *i]) == sign]
            out[i] = sum(w[k] * X[k, *i] for k in agree) / sum(w[k] for k in agree) if agree else 0
        assert np.allclose(got.delta(m), out, atol=1e-6)


def test_breadcrumbs_and_pcb_equal_plain_loops():
    parents, shares = some(2), np.array([0.75, 0.25])
    crumbs = merged("breadcrumbs", parents, weights=shares, density=0.5, outliers=0.1)
    balanced = merged("pcb_normalise_first", parents, weights=shares, density=0.3)
    for m in crumbs.modules:
        X = np.array([a.delta(m).double().numpy().ravel() for a in parents])
        n, order = X.shape[1], np.argsort(-np.abs(X), axis=1)
        kept = np.zeros_like(X)
        for x, k, o in zip(X, kept, order):
            middle = o[round(0.1 * n) : round(0.1 * n) + round(0.5 * n)]
            k[middle] = x[middle]
        assert np.allclose(crumbs.delta(m).numpy().ravel(), shares @ kept, atol=1e-6)
        unit = lambda x: (x - x.min(1, keepdims=True)) / (x.max(1, keepdims=True) - x.min(1, keepdims=True))
        score = np.exp(2 * unit(np.abs(X)) ** 2) * np.tanh(X * X.sum(0))
        s = unit(score) * (score >= np.sort(score, axis=1)[:, -round(0.3 * n)][:, None]) * shares[:, None]
        total = s.sum(0)
        expected = np.divide((s * X).sum(0), total, out=np.zeros(n), where=total > 0)
        assert np.allclose(balanced.delta(m).numpy().ravel(), expected, atol=1e-5)


def authors_pcb(X, ratio, extremes=1e-4):
    "PCB-Merging as its authors' code has it, in numpy: magnitudes and scores are clipped, then normalised."

    def clip(x, low, high):
        rows, n = np.sort(x, axis=1), x.shape[1]
        return np.clip(x, rows[:, [int(n * low)]], rows[:, [int(n * (1 - high) - 1)]])

    unit = lambda x: (x - x.min(1, keepdims=True)) / (x.max(1, keepdims=True) - x.min(1, keepdims=True))
    sizes = clip(np.abs(X), extremes, extremes)
    score = np.exp(len(X) * unit(sizes) ** 2) * np.tanh(X * X.sum(0))
    weight = unit(clip(score, 1 - ratio, 0))
    return (np.sign(X) * sizes * weight).sum(0) / np.maximum(weight.sum(0), 1e-12)


@pytest.mark.parametrize(
    "n, shape, density", [(2, (7, 5), 0.1), (3, (40, 33), 0.1), (5, (110, 100), 0.05), (2, (6, 9), 0.8)]
)
def test_pcb_is_that_of_its_authors(n, shape, density):
    x = torch.randn(n, *shape, generator=Seeds(n).torch(), dtype=torch.float64)
    expected = authors_pcb(x.flatten(1).numpy(), density).reshape(shape)
    got = MERGES["pcb"].function(x, np.full(n, 1 / n), density=density)
    assert np.allclose(got, expected, atol=1e-12)
    before = MERGES["pcb_normalise_first"].function(x, np.full(n, 1 / n), density=density)
    assert (before - got).norm() > 0.05 * got.norm()  # another merge


def test_pcb_is_finite_where_its_authors_divide_by_zero():
    alike, none = torch.full((1, 4, 4), 0.3, dtype=torch.float64), torch.zeros(1, 4, 4, dtype=torch.float64)
    function, half = MERGES["pcb"].function, np.full(2, 0.5)
    assert torch.allclose(function(torch.cat([alike, alike]), half), alike[0])  # one magnitude throughout
    some_parent = torch.randn(1, 4, 4, generator=Seeds(0).torch(), dtype=torch.float64)
    with_none = function(torch.cat([some_parent, none]), half)  # a parent without this module has no say
    assert np.allclose(with_none.flatten(), authors_pcb(some_parent.flatten(1).numpy(), 0.1), atol=1e-12)
    few = torch.tensor([[0.1, 0.9, 0.2]], dtype=torch.float64)  # fewer entries than 1 / density: the best alone stays
    assert function(few, np.ones(1), extremes=0.0).tolist() == [0.0, 0.9, 0.0]
    many = torch.randn(120, 5, 5, generator=Seeds(1).torch())  # e to the power of 120 isn't a float32
    assert function(many, np.full(120, 1 / 120)).isfinite().all()
    for bad in (-0.1, 0.5, "few"):
        with pytest.raises(InputError, match="extremes"):
            merged("pcb", some(2), extremes=bad)


@pytest.mark.parametrize("n, shape, density", [(2, (6, 8), 0.5), (3, (5, 7), 0.3), (4, (9, 4), 0.9), (3, (11,), 0.2)])
def test_dare_ties_is_that_of_peft_and_mergekit(n, shape, density, monkeypatch):
    from peft.utils import merge_utils

    x = torch.randn(n, *shape, generator=Seeds(n).torch())
    kept = torch.rand(x.shape, generator=Seeds(7).torch()) < density
    masks = iter([*kept.float()] * 2)
    monkeypatch.setattr(merge_utils, "random_pruning", lambda t, d, rescale: t * next(masks) / (d if rescale else 1))
    function, w = MERGES["dare_ties"].function, np.arange(1, n + 1) / sum(range(1, n + 1))
    equal = function(x, np.full(n, 1 / n), Seeds(7).torch(), density=density)
    assert torch.allclose(equal, merge_utils.dare_ties([*x], torch.ones(n), density), atol=1e-6)
    released = function(x, w, Seeds(7).torch(), density=density, released=True)
    assert torch.allclose(released, merge_utils.dare_ties([*x], torch.tensor(w).float(), density), atol=1e-6)
    shares = torch.tensor(w).float().view(-1, *[1] * len(shape))
    weighted = x * kept / density * shares  # mergekit: weighted survivors elect, and are added up or averaged
    agree = weighted.sign() == torch.where(weighted.sum(0) >= 0, 1, -1)
    total = (weighted * agree).sum(0)
    summed = function(x, w, Seeds(7).torch(), density=density, normalise=False)
    assert torch.allclose(summed, total, atol=1e-6)
    divided = total / torch.where((shares * agree).sum(0) == 0, 1.0, (shares * agree).sum(0))
    assert torch.allclose(function(x, w, Seeds(7).torch(), density=density), divided, atol=1e-5)
    first = MERGES["dare_ties_elect_first"].function(x, w, Seeds(7).torch(), density=density)
    assert not torch.allclose(first, divided, atol=1e-3)


@pytest.mark.parametrize("density", [0.2, 0.37, 0.5, 0.99])
def test_released_ties_keeps_as_many_entries_as_peft(density):
    from peft.utils import merge_utils

    x, w = torch.randn(3, 7, 11, generator=Seeds(2).torch()), np.array([0.5, 0.3, 0.2])
    got = MERGES["ties"].function(x, w, density=density, released=True)
    assert torch.allclose(got, merge_utils.ties([*x], torch.tensor(w).float(), density), atol=1e-6)


def test_what_was_defined_anew_names_what_it_was():
    renamed = {name: m.formerly for name, m in MERGES.items() if m.formerly}
    assert renamed == dict(dare_ties="dare_ties_elect_first", pcb="pcb_normalise_first")
    assert all(MERGES[was].formerly is None for was in renamed.values())


class KilledError(Exception):
    pass


@pytest.mark.parametrize("was, today", [("dare_ties", "dare_ties_elect_first"), ("pcb", "pcb_normalise_first")])
@pytest.mark.parametrize("i", [0, 3])
def test_a_search_of_before_goes_on_with_the_merge_it_was_computed_with(was, today, i, tmp_path):
    def search(called, folder, most):
        space, n = spaces()[i], iter(range(most))

        def score(genomes):
            if next(n, None) is None:
                raise KilledError
            return [Outcome(-space.adapter(g).norm()) for g in genomes]

        method = METHODS["genome"](space, dict(population_size=4, merge=called), Seeds(0))
        return evolve(method, score, 20, folder, show=False)

    whole_run = search(today, tmp_path / "whole", 99)
    for name, called in (("before", today), ("now", was)):
        with pytest.raises(KilledError):
            search(called, tmp_path / name, 2)
    path = tmp_path / "before" / "method.safetensors"  # as a folder of before has it: the old name, and no note
    tensors, meta = read_tensors(path)
    meta["settings"]["config"]["merge"] = was
    assert "merge" not in meta["settings"]["about"]
    write_tensors(path, tensors, meta)
    with pytest.raises(StoreError, match=f"called '{today}' today.*Resume it with merge='{today}'"):
        search(was, tmp_path / "before", 99)
    assert search(today, tmp_path / "before", 99).best.digest == whole_run.best.digest
    with pytest.raises(StoreError, match="config.merge"):
        search(today, tmp_path / "now", 99)  # what began with the new one isn't the old one
    assert search(was, tmp_path / "now", 99).evaluations == 20


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_of_two_is_shoemakers(t):
    a, b = some(2)
    got = merge([a, b], "slerp", [1 - t, t])
    for m in a.modules:
        x, y = a.delta(m).double(), b.delta(m).double()
        angle = torch.arccos((x * y).sum() / x.norm() / y.norm())
        expected = (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)
        assert torch.allclose(got.delta(m).double() if m in got.A else 0 * x, expected, atol=1e-6)


def test_slerp_where_there_is_no_arc():
    a = some(1)[0]
    opposite = dataclasses.replace(a, scale={m: -s for m, s in a.scale.items()})
    longer = dataclasses.replace(a, scale={m: 3 * s for m, s in a.scale.items()})
    none = Adapter({}, {}, {}, {})
    assert whole(merge([a, opposite], "slerp")).norm() < 1e-6  # opposite: the straight mean, which is zero
    assert near(merge([a, longer], "slerp"), 2 * whole(a))
    assert near(merge([a, none], "slerp"), 0.5 * whole(a))


def units_mean(units, shares, steps=200):
    "The Karcher mean on the sphere by a plain loop over whole vectors."
    u = (shares[:, None] * units).sum(0)
    u /= u.norm()
    for _ in range(steps):
        tangent = torch.zeros_like(u)
        for a, x in zip(shares, units):
            angle = torch.arccos((u @ x).clamp(-1, 1))
            if angle > 1e-9:
                tangent += a * angle / torch.sin(angle) * (x - (u @ x) * u)
        if (t := tangent.norm()) < 1e-13:
            break
        u = torch.cos(t) * u + torch.sin(t) * tangent / t
    return u / u.norm()


def test_karcher_is_the_mean_direction_at_the_mean_length():
    parents, w = some(3), np.array([0.5, 0.3, 0.2])
    parents[1] = dataclasses.replace(parents[1], scale={m: 4.0 for m in parents[1].scale})
    got, shares = merge(parents, "karcher", w), torch.tensor(w)
    for m in got.modules:
        X = torch.stack([a.delta(m).double().flatten() for a in parents])
        norms = X.norm(dim=1)
        expected = (shares @ norms) * units_mean(X / norms[:, None], shares)
        assert torch.allclose(got.delta(m).double().flatten(), expected, atol=1e-6)
    none = Adapter({}, {}, {}, {})
    assert near(merge([parents[0], none], "karcher"), 0.5 * whole(parents[0]))  # no direction, and length 0
    opposite = dataclasses.replace(parents[0], scale={m: -s for m, s in parents[0].scale.items()})
    assert whole(merge([parents[0], opposite], "karcher")).norm() < 1e-6


def test_model_stock_equals_its_formula_and_stays_at_the_base_where_parents_share_nothing():
    [common], noise = some(1), some(4)[1:]
    parents = [combine([common, n], [1, 0.7]) for n in noise]
    got = merge(parents, "model_stock")
    for m in got.modules:
        X = torch.stack([a.delta(m).double().flatten() for a in parents])
        cosines = [float(torch.cosine_similarity(X[i], X[j], 0)) for i in range(3) for j in range(i)]
        c = float(np.mean(cosines))
        t = 3 * c / (1 + 2 * c)
        assert 0.2 < t < 1 and torch.allclose(got.delta(m).double().flatten(), t * X.mean(0), atol=1e-6)
    opposite = dataclasses.replace(common, scale={m: -s for m, s in common.scale.items()})
    assert whole(merge([common, opposite], "model_stock")).norm() == 0
    assert near(merge([common], "model_stock"), common)


@pytest.mark.parametrize("density", [1.0, 0.4])
def test_sce_is_that_of_mergekit(density):
    lengths = torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1)
    x = torch.randn(3, 6, 7, generator=Seeds(3).torch(), dtype=torch.float64) * lengths
    X = x.flatten(1).numpy()
    kept = np.argsort(-X.var(0))[: int(density * X.shape[1])] if density < 1 else np.arange(X.shape[1])
    X = np.array([[v if j in kept else 0.0 for j, v in enumerate(row)] for row in X])
    energy = (X**2).mean(1) / (X**2).mean(1).sum()
    out = np.zeros(X.shape[1])
    for j in kept:
        agree = [i for i in range(3) if np.sign(X[i, j]) == np.sign(X[:, j].sum())]
        out[j] = sum(energy[i] * X[i, j] for i in agree) / sum(energy[i] for i in agree)
    got = MERGES["sce"].function(x, np.full(3, 1 / 3), density=density)
    assert np.allclose(got.flatten(), out, atol=1e-12)


@pytest.mark.parametrize("on", ["delta", "factors"])
def test_split_points_cross_the_flattened_order_at_the_angles_of_whole_parents(on):
    from evonb.evolution.operators import arc_coefficients, numpy_generator, split_shares
    from evonb.populations.merges import OnFactors

    parents, w = some(2), np.array([0.5, 0.5])
    got = merged("split_points", parents, 7, on=on)
    flat = lambda a: whole(a) if on == "delta" else torch.cat(
        [getattr(a, n)[m].double().flatten() for n, m in OnFactors(parents).tensors])
    X = torch.stack([flat(a) for a in parents])
    ends, shares = split_shares(X.shape[1], w, numpy_generator(Seeds(7).torch()))
    c = [arc_coefficients((X @ X.T).numpy(), s) for s in shares]
    split = ends[0]
    expected = torch.cat([c[k][0] * X[0, part] + c[k][1] * X[1, part]
                          for k, part in enumerate((slice(0, split), slice(split, None)))])
    assert 0 < split < X.shape[1] and near(flat(got), expected, 1e-5)
    with pytest.raises(InputError, match="lead is 1.5"):
        merged("split_points", parents, lead=1.5)


def test_the_released_variants_show_their_known_faults():
    [a] = some(1)
    full = dict(density=1.0)
    assert near(merged("ties", [a, a], released=True, **full), 0.5 * whole(a))
    draws = [whole(merged("dare_linear", [a, a], i, rescale=False, density=0.5)) for i in range(200)]
    assert near(torch.stack(draws).mean(0), 0.5 * whole(a), 0.1)
    draws = [whole(merged("dare_ties", [a, a, a], i, released=True, density=0.5)) for i in range(200)]
    assert not near(torch.stack(draws).mean(0), a, 0.2)
    first, second = some(2, size=0.1)
    apart = merge([first, second], on="factors")
    assert whole(apart).norm() < 0.8 * whole(merge([first, second])).norm()


def test_greedy_soup_adds_in_order_of_score_and_only_what_helps():
    parents, asked = some(4), []
    target = (whole(parents[1]) + whole(parents[3])) / 2

    def evaluate(xs):
        asked.append(len(xs))
        return [-float((whole(x) - target).norm()) for x in xs]

    assert near(merge(parents, "greedy_soup", evaluate=evaluate), target)
    assert asked == [4, 1, 1, 1]
    failed = lambda xs: [float("nan") if near(x, parents[0]) else 1.0 for x in xs]
    assert near(merge(parents, "greedy_soup", evaluate=failed), sum(map(whole, parents[1:])) / 3)


def test_distances_and_similarity_equal_full_matrices():
    a, b = some(2)
    a = dataclasses.replace(a, scale={m: 1.5 for m in a.scale})
    x, y = whole(a), whole(b)
    assert np.isclose(distance(a, b), float((x - y).norm()))
    assert np.isclose(similarity(a, b), float(x @ y / x.norm() / y.norm()))
    assert np.isclose(a.norm(), float(x.norm())) and distance(a, a) == 0
    only = {m: float(m == "h.0.fc") for m in SHAPES}
    assert np.isclose(distance(a, b, only), float((a.delta("h.0.fc") - b.delta("h.0.fc")).norm()))
    assert np.isnan(similarity(a, Adapter({}, {}, {}, {})))
    assert grams([a, b]).shape == (4, 2, 2)
    with pytest.raises(InputError, match="h.9"):
        distance(a, b, {"h.9": 1.0})
    with pytest.raises(InputError, match="negative"):
        distance(a, b, {"h.0.fc": -1.0})


# --- models ---


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_without_the_adapters_modules_is_refused_with_what_it_has(kind):
    model = MODELS[kind]()
    shapes = linear_shapes(model)
    check_modules(random_adapter(shapes, 2, Seeds(0)), model)
    assert not any("head" in m for m in shapes)
    with pytest.raises(InputError, match="lacks.*h.9.fc.*linear modules are"):
        check_modules(random_adapter({"h.9.fc": (2, 2)}, 1, Seeds(0)), model)
    m, (n_out, n_in) = next(iter(shapes.items()))
    with pytest.raises(InputError, match=f"{m} is .*{n_out + 1}"):
        check_modules(random_adapter({m: (n_out + 1, n_in)}, 1, Seeds(0)), model)


def test_the_base_is_exactly_what_it_was_even_after_an_error():
    model = tiny_llama()
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(KeyError), applied(model, random_adapter(linear_shapes(model), 2, Seeds(0))):
        raise KeyError
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


# --- spaces ---


def spaces():
    experts = dict(zip("abc", some(3)))
    return [
        AdapterSpace(experts),
        AdapterSpace(experts, rank=3),
        AdapterSpace(experts, on="factors"),
        *(CoefficientSpace(experts, by, rank) for by in ("expert", "layer", "module") for rank in (None, 3)),
    ]


@pytest.mark.parametrize("i", range(9))
def test_every_space_keeps_to_the_interface(i):
    space, again = spaces()[i], spaces()[i]
    genomes = space.start()
    assert len(genomes) == len(space.names) == 3
    for g, expert in zip(genomes, some(3)):
        assert near(space.adapter(g), expert)
        assert space.digest(g) == again.digest(again.unpack(space.pack(g)))
    a, b, c = genomes
    assert space.digest(space.combine(genomes, [0, 1, 0])) == space.digest(b)
    mutant = space.perturb(a, 0.5, 0.3, np.random.default_rng(1))
    assert space.digest(mutant) == space.digest(space.perturb(a, 0.5, 0.3, np.random.default_rng(1)))
    assert len({space.digest(g) for g in (*genomes, mutant)}) == 4
    assert space.digest(space.perturb(a, 0.0, 0.3, np.random.default_rng(1))) == space.digest(a)
    assert space.distance(a, a) < 1e-6 and np.isclose(space.similarity(a, a), 1)
    assert np.isclose(space.distance(a, b), distance(space.adapter(a), space.adapter(b)), rtol=1e-4)
    assert np.isclose(space.similarity(a, b), similarity(space.adapter(a), space.adapter(b)), atol=1e-4)
    w = {"h.0.fc": 2.0, "h.1.proj": 0.0}
    assert np.isclose(space.distance(a, b, w), distance(space.adapter(a), space.adapter(b), w), rtol=1e-4)
    packed = space.pack(mutant)
    assert all(torch.is_tensor(t) for t in packed.values())
    assert space.digest(space.unpack(packed)) == space.digest(mutant)


@pytest.mark.parametrize("i", range(9))
@pytest.mark.parametrize("name", MERGES)
def test_every_merge_works_in_every_space(i, name):
    space = spaces()[i]
    genomes, options = space.start(), {}
    if name == "greedy_soup":
        options["evaluate"] = lambda gs: [-space.adapter(g).norm() for g in gs]
    a, again = (space.merge(genomes, None, name, Seeds(0).torch(), **options) for _ in range(2))
    assert space.digest(a) == space.digest(again)
    promise = MERGES[name].copies_give_parent
    if promise is not False:
        options |= promise if isinstance(promise, dict) else {}
        copies = space.merge([genomes[0]] * 3, None, name, Seeds(0).torch(), **options)
        assert near(space.adapter(copies), space.adapter(genomes[0]))
    with pytest.raises(InputError, match="slerp"):
        space.merge(genomes, None, "slurp")


@pytest.mark.parametrize("by", ["expert", "layer", "module"])
def test_coefficients_are_realised_exactly(by):
    experts = dict(zip("abc", some(3))) | dict(d=random_adapter({"h.0.fc": (6, 8)}, 4, Seeds(9), "a-base"))
    space = CoefficientSpace(experts, by)
    rng = np.random.default_rng(0)
    for genome in (rng.normal(size=space.shape), rng.normal(size=space.shape) * (rng.random(space.shape) < 0.5)):
        row = {m: r for r, ms in zip(genome, space.groups.values()) for m in ms}
        made = space.adapter(genome)
        for m in SHAPES:
            held = [(w, a) for w, a in zip(row[m], experts.values()) if m in a.A and w != 0]
            assert (m in made.A) == bool(held)
            if held:
                full = sum(w * a.delta(m).double() for w, a in held)
                assert torch.allclose(made.delta(m).double(), full, atol=1e-6)
                assert made.rank(m) == sum(a.rank(m) for _, a in held)
        short = CoefficientSpace(experts, by, rank=2).adapter(genome)
        assert near(short, compress(made, 2))
    assert space.size == len(space.groups) * 4
    assert space.adapter(np.zeros(space.shape)).modules == []


def test_a_realised_genome_scores_in_peft_what_its_parts_add_up_to(tmp_path):
    shapes = linear_shapes(tiny_llama())
    experts = {n: random_adapter(shapes, r, Seeds(r), size=0.3) for n, r in (("x", 2), ("y", 3))}
    space = CoefficientSpace(experts, "layer")
    adapter = space.adapter([[1.2, 0.0], [-0.4, 0.9]])
    write_adapter(adapter, tmp_path / "a")
    model = tiny_llama()
    with torch.no_grad():
        for m, w in ((m, model.get_submodule(m).weight) for m in shapes):
            for c, e in zip(([1.2, 0.0], [-0.4, 0.9])[int(m.split(".")[2])], experts.values()):
                w += c * e.delta(m)
        assert (model(IDS).logits - peft_logits("llama", tmp_path / "a")[0]).abs().max() < 1e-4


def test_sums_in_a_space_are_plain():
    for space in spaces():
        total = space.combine(space.start(), [2.0, -1.0, 1.0])
        expected = 2 * whole(some(3)[0]) - whole(some(3)[1]) + whole(some(3)[2])
        if isinstance(space, CoefficientSpace):
            assert np.array_equal(total, np.tile([2.0, -1.0, 1.0], (space.shape[0], 1)))
        elif space.on == "delta":
            made = combine(some(3), [2, -1, 1])
            assert near(total, compress(made, space.rank)) and near(made, expected)
        else:
            m = "h.0.fc"
            assert torch.allclose(total.A[m], 2 * some(3)[0].A[m] - some(3)[1].A[m] + some(3)[2].A[m], atol=1e-6)


def test_mutation_is_sparse_and_relative_to_its_tensor():
    shapes = {"h.0.fc": (300, 200)}
    space = AdapterSpace(dict(a=random_adapter(shapes, 8, Seeds(0)), b=random_adapter(shapes, 8, Seeds(1))))
    a = space.start()[0]
    mutant = space.perturb(a, 0.2, 0.5, np.random.default_rng(0))
    for before, after in ((a.A["h.0.fc"], mutant.A["h.0.fc"]), (a.B["h.0.fc"], mutant.B["h.0.fc"])):
        noise = (after - before)[after != before]
        assert abs(len(noise) / before.numel() - 0.2) < 0.03
        assert abs(float(noise.std() / before.square().mean().sqrt()) - 0.5) < 0.05
    for rate, scale, named in ((1.5, 0.1, "rate"), (0.1, -1.0, "scale"), (0.1, float("nan"), "scale")):
        with pytest.raises(InputError, match=named):
            space.perturb(a, rate, scale, np.random.default_rng(0))


def test_bad_experts_and_genomes_are_refused():
    for kind in (AdapterSpace, CoefficientSpace):
        with pytest.raises(InputError, match="no experts"):
            kind({})
        with pytest.raises(InputError, match="nothing to evolve"):
            kind(dict(base=Adapter({}, {}, {}, {})))
        other = dataclasses.replace(some(1)[0], config=new_config({m: 2 for m in SHAPES}, "b"))
        with pytest.raises(InputError, match="different base models"):
            kind(dict(a=some(1)[0], b=other))
    with pytest.raises(InputError, match="ranks"):
        AdapterSpace(dict(a=some(1)[0], b=some(1, rank=3)[0]), on="factors")
    with pytest.raises(InputError, match="expert, layer, module"):
        CoefficientSpace(dict(a=some(1)[0]), "head")
    space = CoefficientSpace(dict(zip("ab", some(2))), "layer")
    with pytest.raises(InputError, match=r"shape \(2,\), but must be \(2, 2\)"):
        space.adapter([1.0, 2.0])
    for s in (space, AdapterSpace(space.experts)):
        with pytest.raises(InputError, match="1 weights for 2"):
            s.combine(s.start(), [1.0])
        with pytest.raises(InputError, match="h.9"):
            s.distance(*s.start(), {"h.9": 1.0})
    with pytest.raises(InputError, match="NaN"):
        space.adapter([[1.0, 2.0], [np.nan, 0.0]])


def test_lineage_travels_as_json():
    born = Lineage(("x", "y"), "ties", 3, 2)
    assert Lineage.from_dict(json.loads(json.dumps(born.to_dict()))) == born
    with pytest.raises(InputError, match="mother"):
        Lineage.from_dict(dict(mother="x"))


def test_a_transposed_factor_can_be_perturbed():
    a = random_adapter({"m": (6, 5)}, 3, Seeds(0))
    turned = Adapter({"m": a.A["m"].T.contiguous().T}, {"m": a.B["m"].T.contiguous().T}, a.scale, a.config)
    one, two = (AdapterSpace({"a": x}).perturb(x, 0.5, 0.5, np.random.default_rng(0)) for x in (a, turned))
    assert one.digest() == two.digest() != a.digest()


def test_numbers_are_asked_for():
    a = random_adapter({"m": (6, 5)}, 3, Seeds(0))
    with pytest.raises(InputError, match="density is 'half', but must be a number"):
        merge([a, a], "ties", density="half")
    with pytest.raises(InputError, match="must be numbers"):
        merge([a, a], "linear", ["a", "b"])


def test_bases_of_one_name_and_other_weights_are_told_apart():
    a, b = (random_adapter({"m": (6, 5)}, 2, Seeds(i), "toy") for i in range(2))
    a, b = (dataclasses.replace(x, config=x.config | dict(revision=d * 64)) for x, d in ((a, "a"), (b, "b")))
    with pytest.raises(InputError, match="different weights of toy: their bases have the digests aaaaaaaaaaaa, bbbb"):
        merge([a, b], "linear")
    free = dataclasses.replace(b, config=b.config | dict(revision="main"))  # a branch says nothing of the weights
    assert merge([a, free], "linear").modules == ["m"]
