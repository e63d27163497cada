"""The connectome's laws, as properties over random models, prunings and wirings."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evonb.connectomes import planning
from evonb.connectomes.controls import (
    CONTROLS,
    control,
    dense_matched_config,
    matched_width,
    occurring_weights,
)
from evonb.connectomes.deals import swap_edges, token_matrices
from evonb.connectomes.settings import preset
from evonb.connectomes.wiring import compare, prune, weakest
from evonb.core import ConnectomeError, DamagedFileError, InputError, Seeds
from evonb.store import read_tensors, write_tensors
from evonb.training.connectome import Connectome, check_sparse, inherit, pack_signs, unpack_signs, wired_parameters
from evonb.training.gpt import GPTConfig, n_parameters, new_gpt

pytestmark = pytest.mark.numerics

CONFIG = GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=16, block_size=16)
fast = settings(max_examples=40, deadline=None, derandomize=True)


def model_of(seed):
    return new_gpt(CONFIG, Seeds(seed))


def wiring_of(seed, fraction=0.6):
    return prune(model_of(seed), fraction)


@fast
@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=60), st.data())
def test_weakest_marks_exactly_n_and_none_stronger_than_what_stays(values, data):
    n = data.draw(st.integers(0, len(values)))
    strength = torch.tensor(values).abs()
    goes = weakest(strength, n)
    assert int(goes.sum()) == n
    if 0 < n < len(values):
        assert strength[goes].max() <= strength[~goes].min()


@fast
@given(st.integers(0, 9), st.floats(0.05, 0.6), st.integers(1, 5))
def test_density_after_k_prunings_is_known_beforehand(seed, fraction, k):
    parent, expected = None, {n: p.numel() for n, p in wired_parameters(model_of(seed)).items()}
    for g in range(k):
        grown = model_of(100 * seed + g)  # another generation's weights
        if parent:
            inherit(grown, parent)
            with torch.no_grad():  # what training does: live weights move
                for n, p in grown.named_parameters():
                    p.add_(parent.signs[n] * torch.rand(p.shape, generator=Seeds(seed).child(g, n).torch()))
        parent = prune(grown, fraction, parent)
        expected = {n: c - math.floor(fraction * c) for n, c in expected.items()}
    assert {n: int((s != 0).sum()) for n, s in parent.signs.items()} == expected
    assert parent.n_live == sum(expected.values())


@fast
@given(st.integers(0, 9), st.floats(0.1, 0.8))
def test_global_pruning_keeps_the_strongest_of_all(seed, fraction):
    model = model_of(seed)
    with torch.no_grad():  # make matrices comparable so that none is emptied
        for p in model.parameters():
            p.div_(p.std())
    wiring = prune(model, fraction, scope="global")
    weights = torch.cat([p.detach().abs().reshape(-1) for p in model.parameters()])
    alive = torch.cat([(wiring.signs[n] != 0).reshape(-1) for n, _ in model.named_parameters()])
    assert int(alive.sum()) == len(weights) - math.floor(fraction * len(weights))
    assert weights[alive].min() >= weights[~alive].max()


@fast
@given(st.integers(0, 9), st.floats(0.1, 0.9))
def test_heritability_and_idempotence(seed, fraction):
    wiring = wiring_of(seed, fraction)
    child = inherit(model_of(seed + 1), wiring)
    check_sparse(child, wiring)
    for n, p in child.named_parameters():  # the child expresses the wiring and nothing else, so it is heritable
        assert torch.equal(torch.sign(p).to(torch.int8), wiring.signs[n])
        assert torch.equal(p.abs(), wiring.signs[n].abs() * np.float32(wiring.magnitude))
    once = [p.clone() for p in child.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(once, inherit(child, wiring).parameters()))  # inheriting twice is once


def test_a_live_weight_that_training_brought_to_zero_stays_wired_with_its_sign():
    wiring = wiring_of(0)
    child = inherit(model_of(1), wiring)
    name = "transformer.h.0.attn.c_attn.weight"
    row, column = map(int, (wiring.signs[name] < 0).nonzero()[0])
    with torch.no_grad():
        dict(child.named_parameters())[name][row, column] = 0.0
        for n, p in child.named_parameters():  # all others get weaker in steps, so the zero is the weakest
            p.mul_(1 + torch.rand(p.shape, generator=Seeds(0).child(n).torch()))
    grandchild = prune(child, 1e-9, wiring)  # floor(1e-9 * n) = 0: nothing goes
    assert grandchild.signs[name][row, column] == -1 and grandchild.n_live == wiring.n_live


def test_exempt_parts_stay_dense_and_keep_their_random_start():
    model = model_of(0)
    wiring = prune(model, 0.5, exempt=("embeddings", "head"))
    assert wiring.exempt == ["transformer.wte.weight", "lm_head.weight"]
    child, fresh = inherit(model_of(1), wiring), model_of(1)
    assert torch.equal(child.lm_head.weight, fresh.lm_head.weight)
    assert wiring.n_trainable == wiring.n_live + 2 * 40 * 16
    assert prune(child, 0.5, parent=wiring).exempt == wiring.exempt  # the parent's choice is kept


def test_rewinding_takes_the_early_weights_of_the_survivors():
    early, wiring = model_of(3), wiring_of(0)
    child = inherit(model_of(1), wiring, dict(early.named_parameters()))
    for n, p in child.named_parameters():
        assert torch.equal(p, dict(early.named_parameters())[n] * wiring.signs[n].abs())


@fast
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
def test_bit_planes_are_small_and_lossless(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    signs = (rng.random((rows, columns)) < density) * rng.choice([-1, 1], (rows, columns))
    signs = torch.from_numpy(signs.astype(np.int8))
    planes = pack_signs(signs)
    assert torch.equal(unpack_signs(*planes, signs.shape), signs)
    assert 8 * sum(p.numel() for p in planes) <= 2 * signs.numel() + 14  # two planes, each padded to a byte


def test_save_and_load_give_the_same_connectome(tmp_path):
    wiring = prune(model_of(0), 0.7, generation=3)
    wiring.save(tmp_path / "c.safetensors")
    again = Connectome.load(tmp_path / "c.safetensors")
    assert again.digest() == wiring.digest() and again.info == wiring.info and again.shapes == wiring.shapes
    assert all(torch.equal(again.signs[n], wiring.signs[n]) for n in wiring.signs)
    n_weights = sum(s.numel() for s in wiring.signs.values())
    bits = 8 * sum(t.numel() for t in read_tensors(tmp_path / "c.safetensors")[0].values())
    assert bits / n_weights < 1 + wiring.density + 0.01


def test_a_file_whose_parts_disagree_is_refused(tmp_path):
    wiring, path = wiring_of(0), tmp_path / "c.safetensors"
    planes, about = wiring.planes(), wiring.about()
    name = next(iter(wiring.signs))
    broken = {
        "a plane is missing": ({k: v for k, v in planes.items() if k != f"{name}|wired"}, about),
        "a plane is too short": (planes | {f"{name}|positive": planes[f"{name}|positive"][:-1]}, about),
        "a shape is another": (planes, about | {"shapes": about["shapes"] | {name: [7, 7]}}),
        "the count is another": (planes, about | {"n_live": 3}),
        "a shape isn't numbers": (planes, about | {"shapes": about["shapes"] | {name: ["a", "b"]}}),
    }
    for tensors, meta in broken.values():
        write_tensors(path, tensors, meta)
        with pytest.raises(DamagedFileError, match="c.safetensors"):
            Connectome.load(path)
    write_tensors(path, planes, about | {"kind": "model"})
    with pytest.raises(ConnectomeError, match="holds no connectome"):
        Connectome.load(path)


@pytest.mark.parametrize("kind", CONTROLS)
def test_controls_keep_what_they_promise(kind):
    wiring = wiring_of(0, 0.7)
    made = control(wiring, kind, Seeds(0).numpy())
    assert made.info["control"] == kind and made.shapes == wiring.shapes
    for n, s in wiring.signs.items():
        c = made.signs[n]
        assert int((c != 0).sum()) == int((s != 0).sum()) and int((c > 0).sum()) == int((s > 0).sum())
        assert not torch.equal(c, s)
        if kind == "degree_preserving":
            assert torch.equal((c != 0).sum(0), (s != 0).sum(0)) and torch.equal((c != 0).sum(1), (s != 0).sum(1))
            assert not torch.equal(c != 0, s != 0)
        if kind == "sign_shuffled":
            assert torch.equal(c != 0, s != 0)
        if kind == "random_rows":
            assert torch.equal((c != 0).sum(1), (s != 0).sum(1)) == (n in ("transformer.wte.weight", "lm_head.weight"))
            assert not torch.equal(c != 0, s != 0)
    again = control(wiring, kind, Seeds(0).numpy())
    other = control(wiring, kind, Seeds(1).numpy())
    assert again.digest() == made.digest() != other.digest()


def test_swapped_edges_are_uniform_over_all_matrices_with_those_counts():
    "Of a 3 x 3 matrix with one wire a row and column there are six: each must come up a sixth of the time."
    rng, n = Seeds(0).numpy(), 3000
    seen = [swap_edges(np.eye(3, dtype=bool), rng, rounds=12).argmax(1) for _ in range(n)]
    counts = np.unique(np.array(seen), axis=0, return_counts=True)[1]
    assert len(counts) == 6
    chi2 = ((counts - n / 6) ** 2 / (n / 6)).sum()
    assert chi2 < 20.5  # 0.999 quantile of chi-squared with 5 degrees of freedom


def test_swapping_reaches_the_overlap_of_a_slow_reference():
    "Against single edge swaps, one at a time, many of them."
    rng = np.random.default_rng(0)
    wired = rng.random((24, 18)) < 0.05 + 0.5 * np.linspace(0, 1, 18)  # columns of unequal degree

    def reference(wired):
        wired = wired.copy()
        for _ in range(6000):
            (a, c), (b, d) = (divmod(i, wired.shape[1]) for i in rng.choice(np.flatnonzero(wired), 2))
            if not wired[a, d] and not wired[b, c]:
                wired[[a, b], [c, d]], wired[[a, b], [d, c]] = False, True
        return wired

    slow = np.mean([(reference(wired) & wired).sum() for _ in range(12)])
    quick = [(swap_edges(wired, rng) & wired).sum() for _ in range(200)]
    assert abs(np.mean(quick) - slow) < 3 * np.std(quick) * (1 / 12 + 1 / 200) ** 0.5 + 1


def test_swapping_is_the_same_whatever_the_chunk():
    wired = np.random.default_rng(0).random((64, 32)) < 0.3
    a, b = (swap_edges(wired, Seeds(0).numpy(), 3, chunk) for chunk in (2048, 2048))
    assert np.array_equal(a, b)
    c = swap_edges(wired, Seeds(0).numpy(), 3, 5)  # other draws, the same promise
    assert np.array_equal(c.sum(0), wired.sum(0)) and np.array_equal(c.sum(1), wired.sum(1))


@fast
@given(st.integers(0, 30), st.integers(0, 30))
def test_comparison_equals_sets(seed_a, seed_b):
    a, b = wiring_of(seed_a), wiring_of(seed_b, 0.8)
    ds = compare(a, b)
    for n in a.signs:
        one, other = set(map(tuple, a.signs[n].nonzero().tolist())), set(map(tuple, b.signs[n].nonzero().tolist()))
        row = ds.sel(matrix=n)
        assert row.shared == len(one & other) and row.born == len(other - one) and row.died == len(one - other)
        assert float(row.jaccard) == len(one & other) / len(one | other)
        agree = sum(a.signs[n][i] == b.signs[n][i] for i in one & other)
        assert float(row.sign_agreement) == pytest.approx(float(agree) / len(one & other))
        assert row.flipped == len(one & other) - agree


@pytest.mark.parametrize("name, changed", [("demo", 1), ("laptop", 1), ("paper", 0)])
def test_the_dense_opponent_of_every_preset_is_within_five_percent(name, changed):
    config = preset(name)
    live = planning._evolution(config, planning.find_device("H100"), 1)[1]
    big = planning._gpt_config(config, config.development.lifetime)
    n = round(planning._trainable(planning.matrix_sizes(big)[0], live))
    matched = dense_matched_config(big, n)
    assert abs(n_parameters(matched) / n - 1) <= 0.05 and matched.n_embd < big.n_embd
    assert (matched.n_layer != big.n_layer) + (matched.n_head != big.n_head) == changed  # no more than it takes
    assert sum(p.numel() for p in new_gpt(matched, Seeds(0)).parameters()) == n_parameters(matched) or name == "paper"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(257, 3000), st.integers(1, 8), st.integers(1, 8), st.integers(2, 20), st.floats(0.08, 0.9))
def test_a_dense_model_of_matched_size(vocab, n_layer, n_head, size, share):
    big = GPTConfig(vocab_size=vocab, n_layer=n_layer, n_head=n_head, n_embd=2 * size * n_head, block_size=8)
    n = int(share * n_parameters(big))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        matched = dense_matched_config(big, n)
    off = abs(n_parameters(matched) / n - 1)
    assert (off > 0.05) == bool(told) and matched.n_embd <= max(big.n_embd, 2)
    rigid = matched_width(big, n, n_layer, n_head)
    if abs(n_parameters(rigid) / n - 1) <= 0.05:  # depth and heads stay where the width alone will do
        assert matched.to_dict() == rigid.to_dict()
    every = (2 * vocab * w + 12 * n_layer * w**2 for w in range(2 * n_head, big.n_embd + 1, 2 * n_head))
    assert abs(n_parameters(rigid) - n) == min(abs(m - n) for m in every)


def test_a_dense_model_that_cannot_match_is_told_of():
    big = GPTConfig(vocab_size=5000, n_layer=2, n_head=2, n_embd=16, block_size=8)
    with pytest.warns(UserWarning, match="No dense model of 5000 tokens has about 900 weights: the closest has 20048"):
        dense_matched_config(big, 900)


def test_rows_of_tokens_are_known_by_name_in_other_models_too():
    names = ["model.embed_tokens.weight", "lm_head.weight", "gpt_neox.embed_in.weight"]
    assert token_matrices([*names, "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]) == names
    odd = Connectome(dict(table=torch.ones(2, 2, dtype=torch.int8)), dict(table=(2, 2)))
    with pytest.raises(ConnectomeError, match="table may be an embedding or a head.*wte.*'random'"):
        control(odd, "random_rows", Seeds(0).numpy())


def test_random_rows_keeps_every_token_what_it_has():
    config = GPTConfig(vocab_size=64, n_layer=1, n_head=2, n_embd=16, block_size=8)
    occurs = np.arange(64) % 3 > 0
    model = new_gpt(config, Seeds(0))
    with torch.no_grad():  # tokens that never occur don't grow, and are pruned first
        for name in ("transformer.wte.weight", "lm_head.weight"):
            model.get_parameter(name)[~occurs] *= 1e-3
    wiring = prune(model, 0.5)
    table = wiring.signs["transformer.wte.weight"]
    assert not table[~occurs].any()
    idle = {k: int(control(wiring, k, Seeds(1).numpy()).signs["transformer.wte.weight"][~occurs].count_nonzero())
            for k in ("random", "random_rows", "degree_preserving")}
    assert idle["random_rows"] == idle["degree_preserving"] == 0
    assert abs(idle["random"] / int(table.count_nonzero()) - 22 / 64) < 0.08
    used = {k: occurring_weights(config, control(wiring, k, Seeds(1).numpy()), occurs) for k in CONTROLS}
    assert used["random_rows"] == wiring.n_trainable == occurring_weights(config, wiring, occurs) > used["random"]
    exempt = prune(model, 0.5, exempt=("embeddings", "head"))
    assert occurring_weights(config, exempt, occurs) == exempt.n_trainable - 2 * 22 * 16
    assert occurring_weights(config, None, occurs) == n_parameters(config) - 2 * 22 * 16
    signs = control(exempt, "random_rows", Seeds(1).numpy()).signs
    assert set(signs) == set(exempt.signs)


BAD = [
    (lambda: prune(model_of(0), 0.0), InputError, "prune_fraction is 0.0"),
    (lambda: prune(model_of(0), 1.0), InputError, "between 0 and 1"),
    (lambda: prune(model_of(0), "a fifth"), InputError, "'a fifth'"),
    (lambda: prune(model_of(0), 0.2, scope="layer"), InputError, "matrix, global"),
    (lambda: prune(model_of(0), 0.2, exempt=("mlp",)), InputError, "embeddings, head"),
    (lambda: control(wiring_of(0), "shuffled", Seeds(0).numpy()), InputError, "degree_preserving"),
]


@pytest.mark.parametrize("call, error, says", BAD)
def test_bad_arguments_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_density_that_leaves_a_matrix_empty_is_refused():
    model = model_of(0)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-6)  # the weakest of all: a global pruning takes the whole head
    with pytest.raises(ConnectomeError, match="lm_head.weight empty"):
        prune(model, 0.1, scope="global")


def test_a_connectome_of_another_architecture_is_refused():
    for other in (dict(n_embd=32), dict(n_layer=1), dict(vocab_size=41)):
        with pytest.raises(ConnectomeError, match="another architecture"):
            inherit(new_gpt(GPTConfig(**{**CONFIG.to_dict(), **other}), Seeds(0)), wiring_of(0))
    with pytest.raises(ConnectomeError, match="can't be compared"):
        compare(wiring_of(0), prune(model_of(0), 0.5, exempt=("head",)))


def test_unsound_models_are_refused():
    model, wiring = model_of(0), wiring_of(0)
    with pytest.raises(ConnectomeError, match="weights that aren't zero"):
        check_sparse(model, wiring)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = math.nan
    with pytest.raises(ConnectomeError, match="lm_head.weight has weights that are NaN"):
        prune(model, 0.2)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    with pytest.raises(ConnectomeError, match="exactly zero"):
        prune(model, 0.2)
