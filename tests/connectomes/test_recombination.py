"""Crossover and mutation of wirings: what they keep exactly, that draws are uniform, that agreement stays."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evonb.connectomes.recombination import (
    CROSSOVERS,
    MUTATIONS,
    drawn_places,
    drawn_sum,
    flipped_wires,
    inclusion,
    moved_wires,
    shared_counts,
    swapped_wires,
)
from evonb.core import InputError
from evonb.training.connectome import Connectome

SHAPES = {"wte.weight": (7, 4), "h.0.attn.c_attn.weight": (6, 4), "h.0.mlp.c_fc.weight": (5, 4),
          "h.1.mlp.c_fc.weight": (5, 4)}


def random_wiring(rng, live):
    "A wiring with so many live weights in each matrix."
    signs = {}
    for (name, shape), n in zip(SHAPES.items(), live):
        s = np.zeros(shape, np.int8)
        s.flat[rng.choice(s.size, n, False)] = rng.choice([-1, 1], n)
        signs[name] = torch.from_numpy(s)
    return Connectome(signs, dict(SHAPES))


def counts(signs):
    return [int(s.count_nonzero()) for s in signs.values()]


SAME = st.lists(st.integers(1, 20), min_size=4, max_size=4)


@settings(max_examples=25, deadline=None)
@given(SAME, st.integers(0, 2**32), st.integers(2, 4), st.sampled_from(sorted(CROSSOVERS)))
def test_a_child_has_what_parents_agree_on_at_their_density(live, seed, n_parents, name):
    rng = np.random.default_rng(seed)
    parents = [random_wiring(rng, live) for _ in range(n_parents)]
    weights = rng.dirichlet(np.ones(n_parents))
    child = CROSSOVERS[name](parents, weights, rng)
    assert counts(child) == live
    for n, c in child.items():
        stack = torch.stack([p.signs[n] for p in parents])
        agreed = (stack == stack[0]).all(0)
        assert (c[agreed] == stack[0][agreed]).all()  # a wire, or none
        assert ((c == 0) | (c == stack).any(0)).all()  # every wire is someone's
    for n, c in CROSSOVERS[name]([parents[0]] * n_parents, weights, rng).items():
        assert c.equal(parents[0].signs[n])


@settings(max_examples=25, deadline=None)
@given(st.lists(SAME, min_size=2, max_size=3), st.integers(0, 2**32), st.sampled_from(["uniform", "row", "vote"]))
def test_parents_of_different_densities_have_a_child_of_the_mean(lives, seed, name):
    rng = np.random.default_rng(seed)
    parents, w = [random_wiring(rng, live) for live in lives], rng.dirichlet(np.ones(len(lives)))
    child, mean = counts(CROSSOVERS[name](parents, w, rng)), w @ np.array(lives)
    assert np.abs(child - mean).max() < 1 and abs(sum(child) - mean.sum()) <= 0.5 + 1e-6


def test_whole_matrices_blocks_and_rows_come_from_one_parent():
    rng = np.random.default_rng(0)
    parents = [random_wiring(rng, [9, 8, 7, 7]) for _ in range(2)]
    took = Counter()
    for _ in range(60):
        owner = {}
        for name in ("matrix", "block"):
            child = CROSSOVERS[name](parents, [1, 1], rng)
            owner[name] = [[p.signs[n].equal(c) for p in parents].index(True) for n, c in child.items()]
        assert owner["block"][1] == owner["block"][2]  # both matrices of block 0
        took.update(["block 0 != block 1"] * (owner["block"][2] != owner["block"][3]))
        took.update(["within block 0"] * (owner["matrix"][1] != owner["matrix"][2]))
    assert 15 < took["block 0 != block 1"] < 45 and 15 < took["within block 0"] < 45
    a, b = (Connectome({"wte.weight": torch.eye(4, dtype=torch.int8)[list(o)]}, {"wte.weight": (4, 4)})
            for o in ((0, 1, 2, 3), (1, 2, 3, 0)))  # rows of one wire each, so no number needs to be put right
    (child,) = CROSSOVERS["row"]([a, b], [1, 1], rng).values()
    assert all((c == x).all() or (c == y).all() for c, x, y in zip(child, *a.signs.values(), *b.signs.values()))


def assert_uniform(drawn, possible):
    seen = Counter(m.numpy().tobytes() for m in drawn)
    assert set(seen) <= possible and len(possible) > 1
    assert stats.chisquare([seen[k] for k in possible]).pvalue > 1e-3, sorted(seen.values())


def test_uniform_crossover_is_uniform_by_enumeration():
    a, b = (Connectome({"x": torch.tensor(s, dtype=torch.int8)}, {"x": (2, 4)})
            for s in ([[1, 1, -1, 0], [0, 0, 1, 0]], [[1, 0, 0, -1], [1, 0, -1, 0]]))
    # both have a wire at 0 and at 6 (of other signs there); two of the four other places, with their signs, are drawn
    rng, possible = np.random.default_rng(0), set()
    own = {1: 1, 2: -1, 3: -1, 4: 1}
    for places in itertools.combinations(own, 2):
        for sixth in (-1, 1):
            m = np.zeros(8, np.int8)
            m[[0, 6, *places]] = [1, sixth, *(own[p] for p in places)]
            possible.add(m.tobytes())
    assert_uniform([CROSSOVERS["uniform"]([a, b], [1, 1], rng)["x"] for _ in range(1800)], possible)


def test_weights_are_shares():
    rng = np.random.default_rng(0)
    a, b = (Connectome({"x": torch.from_numpy(m)}, {"x": (40, 40)}) for m in np.eye(40, dtype=np.int8)[[
        range(40), np.roll(range(40), 1)]])
    child = [CROSSOVERS["uniform"]([a, b], [3, 1], rng)["x"] for _ in range(50)]
    assert abs(np.mean([(c * a.signs["x"]).sum() / 40 for c in child]) - 0.75) < 0.03
    assert CROSSOVERS["vote"]([a, b], [3, 1], rng)["x"].equal(a.signs["x"])


def test_a_vote_against_a_plain_loop():
    rng = np.random.default_rng(1)
    parents, w = [random_wiring(rng, [9, 8, 7, 7]) for _ in range(5)], rng.dirichlet(np.ones(5))
    for n, c in CROSSOVERS["vote"](parents, w, rng).items():
        votes = sum(float(x) * p.signs[n].double() for x, p in zip(w, parents))
        best = votes.abs().flatten().argsort(descending=True)[:int(c.count_nonzero())]
        expected = torch.zeros(votes.numel(), dtype=torch.int8)
        expected[best] = votes.flatten()[best].sign().to(torch.int8)
        assert expected.reshape(c.shape).equal(c)  # weights without ties


def test_moves_are_uniform_by_enumeration():
    start = torch.tensor([[1, 0, -1], [0, 0, 0]], dtype=torch.int8)
    possible = set()
    for gone in (0, 2):
        for new in (1, 3, 4, 5):
            m = start.flatten().clone()
            m[new], m[gone] = m[gone].clone(), 0
            possible.add(m.numpy().tobytes())
    rng = np.random.default_rng(0)
    assert_uniform([moved_wires(start, 1, rng) for _ in range(1600)], possible)


def test_swaps_reach_all_masks_with_these_degrees():
    start = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.int8)
    possible = {m.tobytes() for bits in itertools.product((0, 1), repeat=9)
                if ((m := np.array(bits, np.int8).reshape(3, 3)).sum(0) == 2).all() and (m.sum(1) == 2).all()}
    rng, s, drawn = np.random.default_rng(0), start, []
    for _i in range(1800):
        for _ in range(3): s = swapped_wires(s, 1, rng, rounds=1)
        drawn.append(s)
    assert len(possible) == 6 == len({m.numpy().tobytes() for m in drawn})
    seen = Counter(m.numpy().tobytes() for m in drawn)
    assert min(seen.values()) > 200 and max(seen.values()) < 400  # 300 each; draws of a chain hang together


@settings(max_examples=25, deadline=None)
@given(SAME, st.integers(0, 2**32), st.floats(0, 1), st.sampled_from(sorted(MUTATIONS)))
def test_what_a_mutation_keeps(live, seed, share, name):
    rng = np.random.default_rng(seed)
    parent = random_wiring(rng, live)
    before = {n: s.clone() for n, s in parent.signs.items()}
    made = MUTATIONS[name](parent.signs, share, rng)
    assert all(parent.signs[n].equal(s) for n, s in before.items())  # a parent is not changed
    assert sum(counts(made)) == sum(live) and min(counts(made)) >= 1
    if name != "hand": assert counts(made) == live
    for n, s in before.items():
        if name == "flip": assert (s != 0).equal(made[n] != 0)
        if name == "swap":
            assert all(((s != 0).sum(a)).equal((made[n] != 0).sum(a)) for a in (0, 1))
            assert s.sum(1).equal(made[n].sum(1))  # signs go along the row
    if share == 0: assert all(made[n].equal(s) for n, s in before.items())


def test_how_much_a_mutation_changes():
    s = torch.zeros(60, 60, dtype=torch.int8)
    s.view(-1)[::7] = 1  # 515 wires
    rng = np.random.default_rng(0)
    assert ((s != 0) & (moved_wires(s, 30, rng) == 0)).sum() == 30
    assert (flipped_wires(s, 30, rng) == -1).sum() == 30
    changed = ((s != 0) & (swapped_wires(s, 15, rng) == 0)).sum()
    assert 28 <= changed <= 30  # a swap may put a wire where another was
    assert moved_wires(torch.ones(2, 2, dtype=torch.int8), 3, rng).equal(torch.ones(2, 2, dtype=torch.int8))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0, 50.0]), min_size=1, max_size=12), st.integers(0, 12),
       st.integers(0, 99))
def test_drawn_places_are_as_many_as_asked(sizes, n, seed):
    p = inclusion(sizes, n)
    assert (p >= 0).all() and (p <= 1).all() and abs(p.sum() - min(n, np.count_nonzero(sizes))) < 1e-9
    free = (p > 0) & (p < 1)
    if free.any(): assert np.ptp(p[free] / np.array(sizes)[free]) < 1e-9  # in proportion
    places = drawn_places(p, np.random.default_rng(seed))
    assert len(set(places.tolist())) == len(places) == round(p.sum()) and (p[places] > 0).all()


def test_a_drawn_sum_is_on_average_the_sum():
    rng = np.random.default_rng(0)
    parents, w = [random_wiring(rng, [9, 8, 7, 7]) for _ in range(3)], [0.5, 0.3, 0.2]
    n = "wte.weight"
    total = sum(x * p.signs[n].double() for x, p in zip(w, parents))
    expected = total.sign().numpy() * inclusion(total.abs().flatten(), 9).reshape(total.shape)
    drawn = [drawn_sum(parents, w, {n: 9}, rng)[n] for _ in range(1500)]
    assert all(int(d.count_nonzero()) == 9 for d in drawn)
    assert np.abs(torch.stack(drawn).double().mean(0).numpy() - expected).max() < 0.06
    gone = drawn_sum([parents[0], parents[0]], [1, -1], {n: 9}, rng, fill=False)[n]
    assert not gone.any()


def test_counts_and_unknown_names():
    rng = np.random.default_rng(0)
    a, b = random_wiring(rng, [1, 2, 3, 4]), random_wiring(rng, [4, 3, 2, 1])
    assert sum(shared_counts([a, b], [1, 1]).values()) == 10
    assert list(shared_counts([a, b], [1, 0]).values()) == [1, 2, 3, 4]
    with pytest.raises(InputError, match="uniform"):
        CROSSOVERS["unifrom"]
    with pytest.raises(InputError, match="move"):
        MUTATIONS["moves"]
