"""Nulls: what each keeps, that it draws uniformly over all that keep it, refusals, and newborns raised with them."""

import itertools
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from evonb.cli import main
from evonb.connectomes.arms import ARMS, find_arm
from evonb.connectomes.controls import CONTROLS, control
from evonb.connectomes.deals import can_trade_signs, log_binomial, trade_signed_rows, trade_signs
from evonb.connectomes.nulls import frequency_signs
from evonb.connectomes.wiring import prune
from evonb.core import ConnectomeError, InputError, Seeds
from evonb.store import open_run, read_json
from evonb.text.tokens import open_prepared
from evonb.training.connectome import Connectome, inherit
from evonb.training.gpt import GPTConfig, new_gpt

RUN = Path(__file__).parents[1] / "runs" / "connectome.zip"
CONFIG = GPTConfig(vocab_size=80, n_layer=2, n_head=2, n_embd=16, block_size=16)
COUNTS = np.r_[3000 // (1 + np.arange(60)), np.zeros(20, int)]
KNOWN = dict(counts=COUNTS, config=CONFIG)
NULLS = ("row_degree", "signed_degree", "seen_tokens", "unigram", "block_random")


def wiring_of(seed, fraction=0.7):
    return prune(new_gpt(CONFIG, Seeds(seed)), fraction)


def signed(m, axis):
    return tuple(map(tuple, np.stack([(m > 0).sum(axis), (m < 0).sum(axis)]).tolist()))


def signed_counts(m):
    return signed(m, 0), signed(m, 1)


def every(shape):
    return (np.array(v, np.int8).reshape(shape) for v in itertools.product((-1, 0, 1), repeat=int(np.prod(shape))))


def assert_uniform(drawn, possible):
    "Each of the possible matrices comes as often as any other, and nothing else comes."
    seen = Counter(m.tobytes() for m in drawn)
    keys = [m.tobytes() for m in possible]
    assert set(seen) <= set(keys) and len(keys) > 1
    assert stats.chisquare([seen[k] for k in keys]).pvalue > 1e-3, sorted(seen.values())


@pytest.mark.parametrize("start", [
    [[1, -1, 0], [0, 1, -1], [-1, 0, 1]],  # the 12 Latin squares
    [[-1, 1, 0], [0, -1, 0], [1, 0, 0]],  # only trades of columns lead on
    [[-1, 0, 1], [1, -1, 0], [0, 0, 0]],
    [[1, -1, 0, 0, -1], [0, 1, 1, -1, 0]],
    [[1, 0], [-1, 0], [0, 1], [0, -1], [1, 1]],
])  # fmt: skip
def test_signed_trades_are_uniform_over_all_matrices_with_these_counts(start):
    start = np.array(start, np.int8)
    possible = [m for m in every(start.shape) if signed_counts(m) == signed_counts(start)]
    rng = Seeds(1).numpy()
    assert_uniform([trade_signs(start, rng) for _ in range(25 * len(possible) + 100)], possible)


def test_one_trade_of_two_rows_is_uniform_over_what_two_rows_can_be():
    "In one step, whichever of them it begins with: the trade is symmetric."
    a, b = np.array([1, 1, 0, -1, 0, 1], np.int8), np.array([0, -1, -1, 0, 1, 1], np.int8)
    possible = [np.stack([x, a + b - x]) for x in every((6,)) if np.isin(a + b - x, (-1, 0, 1)).all()]
    pairs = [m for m in possible if signed(m, 1) == signed(np.stack([a, b]), 1)
             and (np.sort(m, 0) == np.sort(np.stack([a, b]), 0)).all()]  # fmt: skip
    for begin in (pairs[0], pairs[-1]):
        one, other = trade_signed_rows(*(np.repeat(x[None], 60 * len(pairs), 0) for x in begin), Seeds(3).numpy())
        assert_uniform(np.ascontiguousarray(np.stack([one, other], 1)), pairs)


def test_trades_connect_all_3x3_matrices_with_the_same_counts():
    "Two matrices are neighbours when they differ in two rows or in two columns only."
    families = {}
    for m in every((3, 3)):
        families.setdefault(signed_counts(m), []).append(m)
    kinds = {}
    for ms in families.values():  # one of those that differ by the order of rows and columns only
        kinds.setdefault(tuple(tuple(sorted(zip(*c))) for c in signed_counts(ms[0])), ms)
    assert len(families) == 13825  # counted by hand in another language, too
    for ms in (f for f in kinds.values() if len(f) > 1):
        m = np.stack(ms)
        differ = m[:, None] != m[None]  # (n, n, 3, 3)
        near = np.minimum(differ.any(3).sum(2), differ.any(2).sum(2)) <= 2
        reached, before = near[0], None
        while before is None or (reached != before).any():
            reached, before = near[reached].any(0), reached
        assert reached.all(), ms[0]
        assert any(can_trade_signs(t[i + 1:], t[i]).any() for t in (m[0], m[0].T) for i in range(2))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_signed_trades_keep_every_count(rows, columns, density, positive, seed):
    rng = np.random.default_rng(seed)
    m = np.where(rng.random((rows, columns)) < density, np.where(rng.random((rows, columns)) < positive, 1, -1), 0)
    made = trade_signs(m.astype(np.int8), rng, 2)
    assert made.dtype == np.int8 and signed_counts(made) == signed_counts(m)
    small = trade_signs(m.astype(np.int8), rng, 2, chunk=1)
    assert signed_counts(small) == signed_counts(m)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 3000), st.integers(-3, 3003))
def test_ways_to_choose_are_counted_as_scipy_counts_them(n, k):
    whole, taken, left = (special.gammaln(x + 1.0) for x in (n, max(k, 0), max(n - k, 0)))
    known = whole - taken - left if 0 <= k <= n else -np.inf
    assert np.allclose(log_binomial(n, k), known, rtol=1e-12, atol=1e-9)


def test_signed_trades_mix_as_single_swaps_do():
    "Against a slow chain of 2 x 2 exchanges of any two values, on a matrix far from random."
    rng = np.random.default_rng(0)
    m = np.zeros((16, 12), np.int8)
    m[:, :4], m[:8, 4:6], m[8:, 6:9] = 1, -1, -1

    def reference(m):
        m = m.copy()
        for _ in range(9000):
            i, k, j, q = *rng.choice(16, 2, replace=False), *rng.choice(12, 2, replace=False)
            if m[i, j] == m[k, q] and m[i, q] == m[k, j]:
                m[i, j], m[i, q], m[k, j], m[k, q] = m[i, q], m[i, j], m[k, q], m[k, j]
        return m

    def shared(x):
        return int(((x == m) & (m != 0)).sum())

    slow, quick = [shared(reference(m)) for _ in range(12)], [shared(trade_signs(m, rng)) for _ in range(150)]
    assert abs(np.mean(quick) - np.mean(slow)) < 4 * np.std(quick) * (1 / 12 + 1 / 150) ** 0.5


@pytest.mark.parametrize("kind", NULLS)
def test_nulls_keep_what_they_promise_and_change_the_rest(kind):
    wiring = wiring_of(0)
    made = control(wiring, kind, Seeds(0).numpy(), **KNOWN)
    assert made.info == dict(control=kind, of=wiring.digest()) and made.shapes == wiring.shapes
    tokens = ("transformer.wte.weight", "lm_head.weight")
    for n, s in wiring.signs.items():
        c, s = made.signs[n].numpy(), s.numpy()
        assert c.dtype == np.int8 and set(np.unique(c)) == {-1, 0, 1}
        assert (c > 0).sum() == (s > 0).sum() and (c < 0).sum() == (s < 0).sum() and (c != s).any()
        if kind == "row_degree":
            assert ((c != 0).sum(1) == (s != 0).sum(1)).all() and ((c != 0).sum(0) != (s != 0).sum(0)).any()
        if kind == "signed_degree":
            assert signed_counts(c) == signed_counts(s)
        if kind == "seen_tokens" and n in tokens:
            assert not c[60:].any() and s[60:].any()
        if kind == "unigram" and n == "transformer.wte.weight":
            assert (c[:60] > 0).all(0).sum() >= 2
        if kind == "block_random":
            axis = 1 if n.endswith("c_proj.weight") else 0
            size = 8 if ".attn." in n else 1
            for sign in (1, -1):
                by = [np.add.reduceat((m == sign).sum(1 - axis), np.arange(0, m.shape[axis], size)) for m in (c, s)]
                assert (by[0] == by[1]).all() and ((c == sign).sum(axis) != (s == sign).sum(axis)).any()
    again, other = (control(wiring, kind, Seeds(k).numpy(), **KNOWN) for k in (0, 1))
    assert again.digest() == made.digest() != other.digest()


def one_matrix(name, m):
    return Connectome({name: torch.tensor(m, dtype=torch.int8)}, {name: np.shape(m)})


@pytest.mark.parametrize("kind, name, m, keeps", [
    ("row_degree", "h.0.mlp.c_fc.weight", [[1, -1, 0], [0, 1, 0]],
     lambda m: ((m != 0).sum(1).tolist(), int((m > 0).sum()))),
    ("block_random", "h.0.mlp.c_proj.weight", [[1, 0], [0, -1], [0, 0]], lambda m: signed(m, 0)),
    ("block_random", "h.0.attn.c_attn.weight", [[1, 0], [0, -1], [0, 1], [0, 0]],
     lambda m: [[(m[i:i + 2] == s).sum() for s in (1, -1)] for i in (0, 2)]),
    ("seen_tokens", "wte.weight", [[1, 0], [0, -1], [0, 1]],
     lambda m: (bool(m[1].any()), (m > 0).sum(), (m < 0).sum())),
    ("random", "wte.weight", [[1, 0], [0, -1], [0, 1]], lambda m: ((m > 0).sum(), (m < 0).sum())),
    ("sign_shuffled", "wte.weight", [[1, 0], [-1, -1], [0, 1]], lambda m: ((m != 0).tolist(), (m > 0).sum())),
])  # fmt: skip
def test_nulls_are_uniform_over_all_that_keep_the_same(kind, name, m, keeps):
    wiring, rng = one_matrix(name, m), Seeds(0).numpy()
    known = dict(counts=np.array([3, 0, 1]), config=GPTConfig(vocab_size=8, n_layer=1, n_head=1, n_embd=2))
    start = np.array(m, np.int8)
    if kind == "seen_tokens":
        start = np.array([[1, 0], [0, 0], [-1, 1]], np.int8)  # no wire in the row of a token that never occurs
    possible = [x for x in every(start.shape) if keeps(x) == keeps(start)]
    if kind == "block_random" and "c_attn" in name:
        assert len(possible) == 12 * 4
    drawn = [control(wiring, kind, rng, **known).signs[name].numpy() for _ in range(40 * len(possible))]
    assert_uniform(drawn, possible)


def test_frequencies_are_told_by_their_logarithm():
    assert frequency_signs([0, 10, 100, 1000], 4).tolist() == [-4, -1, 2, 4]
    assert frequency_signs([7, 7, 7], 4).tolist() == [0, 0, 0]
    counts, wiring = COUNTS, wiring_of(0)

    def told(kind, seed):
        model = inherit(new_gpt(CONFIG, Seeds(seed)), control(wiring, kind, Seeds(seed).numpy(), **KNOWN)).eval()
        ids = torch.randint(0, 60, (16, 16), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return stats.spearmanr(model(ids).logits.mean((0, 1)), counts).statistic

    assert min(told("unigram", s) for s in range(3)) > 0.75
    assert max(abs(told(k, s)) for k in ("random", "seen_tokens") for s in range(3)) < 0.45


def turned(wiring):
    "As GPT-2 of transformers has its matrices: (inputs, outputs)."
    signs = {n: s if "wte" in n or "head" in n else s.T.contiguous() for n, s in wiring.signs.items()}
    return Connectome(signs, {n: tuple(s.shape) for n, s in signs.items()})


def test_heads_are_found_in_matrices_that_are_the_other_way_round():
    wiring = wiring_of(0)
    one, other = (control(w, "block_random", Seeds(0).numpy(), config=CONFIG) for w in (wiring, turned(wiring)))
    for n in wiring.signs:
        assert torch.equal(turned(one).signs[n], other.signs[n])


REFUSED = [
    ("signed_degree", one_matrix("a", [[1, 1], [0, -1]]), {}, "a .2 x 2, 3 live weights. is too small or too full"),
    ("signed_degree", one_matrix("a", [[1, 0, -1]]), {}, "only matrix with its positive and negative counts"),
    ("degree_preserving", one_matrix("a", [[1, 1], [0, -1]]), {}, "only matrix with its row and column counts"),
    ("degree_preserving", one_matrix("a", np.ones((4, 5))), {}, "4 x 5, 20 live weights"),
    ("seen_tokens", one_matrix("wte.weight", np.ones((3, 2))), dict(counts=np.array([1, 1, 0])), "6 live.*room for 4"),
    ("seen_tokens", one_matrix("wte.weight", np.eye(3)), dict(counts=np.ones(4)), "has 3 rows, but counts.*shape .4,"),
    ("seen_tokens", one_matrix("wte.weight", np.eye(3)), {}, "needs how often each token occurs"),
    ("unigram", one_matrix("wte.weight", np.eye(3)), dict(counts=np.ones(3)), "a wired head.*only has|has wte.weight"),
    ("unigram", prune(new_gpt(CONFIG, Seeds(0)), 0.5, exempt=("head",)), KNOWN, "but this connectome has .*wte.weight"),
    ("unigram", Connectome(dict(wte=torch.eye(3, dtype=torch.int8), lm_head=torch.eye(3, dtype=torch.int8)),
                           dict(wte=(3, 3), lm_head=(3, 3))), dict(counts=np.array([9, 3, 1])), "too few live weights"),
    ("block_random", one_matrix("h.0.mlp.experts.weight", np.eye(4)), KNOWN, "no heads or units that are known here"),
    ("block_random", one_matrix("h.0.attn.c_attn.weight", np.eye(12)), KNOWN, "which heads of 8 don't divide"),
    ("block_random", wiring_of(0), {}, "needs the model's configuration.*config=.*--arms block_random"),
]  # fmt: skip


@pytest.mark.parametrize("kind, wiring, known, says", REFUSED)
def test_a_null_that_cannot_be_made_is_refused_by_name(kind, wiring, known, says):
    with pytest.raises((ConnectomeError, InputError), match=says):
        control(wiring, kind, Seeds(0).numpy(), **known)


def test_a_matrix_with_two_arrangements_is_not_refused_when_it_comes_out_as_it_was():
    wiring, same = one_matrix("a", [[1, 0], [0, 1]]), 0
    for seed in range(20):
        for kind in ("signed_degree", "degree_preserving"):
            same += torch.equal(control(wiring, kind, Seeds(seed).numpy()).signs["a"], wiring.signs["a"])
    assert 5 < same < 35


def test_nulls_are_arms_and_those_that_need_the_text_are_no_controls_of_a_connectome_alone():
    assert set(NULLS) < set(ARMS) and all(ARMS.lines()[a] and find_arm(a).own for a in NULLS)
    assert {"row_degree", "signed_degree"} < set(CONTROLS)
    assert not {"seen_tokens", "unigram", "block_random"} & set(CONTROLS)


def test_newborns_are_raised_with_every_null_and_know_the_text_of_evolution(tmp_path, capsys):
    with zipfile.ZipFile(RUN) as z:
        z.extractall(tmp_path / "run")
    run = open_run(tmp_path / "run")
    last = Connectome.load(sorted(run.file("evolution").glob("gen-*/connectome.safetensors"))[-1])
    corpus = open_prepared(run.file("corpus"))
    counts = np.bincount(corpus.splits["evolution"].ids, minlength=corpus.info["vocab_size"])
    assert np.array_equal(corpus.counts("evolution"), counts)
    fits = [a for a in NULLS if a != "seen_tokens" or last.density < (counts > 0).mean()]
    assert main(["develop", str(run.path), "--arms", ",".join(fits)]) == 0
    m = run.config["model"]
    config = GPTConfig(vocab_size=len(counts), n_layer=m["n_layer"], n_head=m["n_head"], n_embd=m["n_embd"])
    for arm in fits:
        own = Connectome.load(run.file("development", arm, "seed-1", "connectome.safetensors"))
        rng = Seeds(run.config["seed"]).child("development", "control", arm, 1).numpy()
        assert own.digest() == control(last, arm, rng, counts=counts, config=config).digest()
    assert set(fits) < set(read_json(run.file("summary.json"))["arms"])
