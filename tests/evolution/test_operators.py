"""Operators: against plain loops, safe for odd fitness, the same under a seed."""

import numpy as np
import pytest

from evonb.core import InputError
from evonb.evolution.operators import (
    SELECTIONS,
    AllFailedError,
    ArraySpace,
    crossover,
    decayed,
    diversity,
    dominated,
    elites,
    mutate,
    parent_weights,
    roulette_shares,
    select,
    succession,
    succession_velocity,
    survivors,
    usable,
)

pytestmark = pytest.mark.numerics


@pytest.mark.parametrize("method", SELECTIONS)
def test_selection_is_deterministic_and_never_takes_failures(method):
    values = [0.3, np.nan, 0.9, np.inf, 0.1, 0.5]
    taken = [select(values, 3, np.random.default_rng(7), method).tolist() for _ in range(2)]
    assert taken[0] == taken[1]
    for seed in range(50):
        kept = select(values, 4, np.random.default_rng(seed), method)
        assert sorted(kept) == [0, 2, 4, 5]
        assert set(select(values, 9, np.random.default_rng(seed), method, replace=True)) <= {0, 2, 4, 5}


@pytest.mark.parametrize("method", SELECTIONS)
@pytest.mark.parametrize("value", [0.0, 0.7, -3.0])
def test_equal_fitness_is_a_uniform_choice(method, value):
    rng = np.random.default_rng(0)
    counts = np.bincount([select([value] * 5, 1, rng, method)[0] for _ in range(4000)], minlength=5)
    assert np.abs(counts / 4000 - 0.2).max() < 0.035  # 5.5 standard errors


@pytest.mark.parametrize("method", sorted(set(SELECTIONS) - {"truncation"}))
def test_better_ones_are_taken_more_often(method):
    rng = np.random.default_rng(0)
    values = [-0.2, 0.0, 0.4, 0.8]
    counts = np.bincount([select(values, 1, rng, method)[0] for _ in range(4000)], minlength=4)
    assert (np.diff(counts) >= 0).all() and counts[3] > counts[2] > counts[0]  # the worst never win a tournament


def test_truncation_takes_the_best():
    assert sorted(select([3.0, 1.0, 2.0, np.nan], 2, np.random.default_rng(0), "truncation")) == [0, 2]


def test_roulette_is_proportional_for_positive_fitness():
    assert np.allclose(roulette_shares([1, 2, 5]), [1 / 8, 2 / 8, 5 / 8])
    assert np.allclose(roulette_shares([1e-300, 1e-300]), 0.5)
    assert np.isfinite(roulette_shares([-1e300, 0, 1.0])).all()


def test_all_failed_says_why():
    with pytest.raises(AllFailedError, match=r"All 3 individuals failed.*out of memory \(2 times\); NaN"):
        select([np.nan] * 3, 1, np.random.default_rng(0), reasons=["out of memory", "NaN", "out of memory"])
    with pytest.raises(InputError, match="population is empty"):
        usable([])


def test_bad_names_and_counts():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="roulette, rank, truncation, tournament"):
        select([1.0], 1, rng, "lottery")
    with pytest.raises(InputError, match="n is -1"):
        select([1.0], -1, rng)
    with pytest.raises(InputError, match="needs at least two"):
        crossover(ArraySpace("ab"), [np.zeros((1, 2))], rng)


def test_elites_and_survivors():
    values = [0.1, 0.9, np.nan, 0.9, 0.5]
    assert elites(values, 0.01).tolist() == [1] and elites(values, 0.5).tolist() == [1, 3]
    for n_pool in range(20, 120):  # a tenth of 20 is 2, whatever the pool and its rounding
        best = survivors(np.arange(n_pool), 20, np.random.default_rng(0), "roulette")[:2]
        assert best.tolist() == [n_pool - 1, n_pool - 2]
    for seed in range(30):
        kept = survivors(values, 3, np.random.default_rng(seed), "roulette", 0.1)
        assert kept[0] == 1 and len(set(kept)) == 3 and 2 not in kept
    assert survivors(values, 10, np.random.default_rng(0)).size == 4


def test_crossover_is_the_weighted_mean():
    space, rng = ArraySpace("abc", 2), np.random.default_rng(0)
    parents = [rng.standard_normal(space.shape) for _ in range(3)]
    values = [0.2, 0.3, 0.5]
    child = crossover(space, parents, rng, parent_weights(values, rng))
    expected = np.zeros(space.shape)
    for v, p in zip(values, parents):
        expected += v * p
    assert np.allclose(child, expected)
    for by in ("fitness", "random", "equal"):
        assert np.isclose(parent_weights([-1, 0, 3], rng, by).sum(), 1)
    copies = crossover(space, [parents[0]] * 4, np.random.default_rng(1))
    assert np.allclose(copies, parents[0])


def test_mutation_is_sparse_relative_and_seeded():
    space = ArraySpace(range(400), 25)
    for size in (1e-3, 10.0):
        genome = np.full(space.shape, size)
        noise = mutate(space, genome, np.random.default_rng(0), 0.2, 0.3) - genome
        assert abs((noise != 0).mean() - 0.2) < 0.02 and abs(noise[noise != 0].std() / size - 0.3) < 0.02
    again = [mutate(space, genome, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*again) and not np.array_equal(again[0], mutate(space, genome, np.random.default_rng(4)))


def test_succession_against_a_plain_loop():
    space, rng = ArraySpace("abcd", 3), np.random.default_rng(0)
    x, v, own, best, worst = (rng.standard_normal(space.shape) for _ in range(5))
    phi, r = (0.2, 0.3, 0.4, 0.05), rng.random(4)
    expected = np.empty(space.shape)
    for i in np.ndindex(*space.shape):
        pulls = (v[i], own[i] - x[i], best[i] - x[i], -(worst[i] - x[i]))
        expected[i] = sum(f * a * p for f, a, p in zip(phi, r, pulls)) / sum(f * a for f, a in zip(phi, r))
    assert np.allclose(succession_velocity(space, x, v, own, best, worst, phi, r), expected)
    place, velocity = succession(space, x, v, own, best, worst, phi, np.random.default_rng(5), 0.5)
    assert np.allclose(place, x + 0.5 * velocity)
    other, _ = succession(space, x, v, own, best, worst, phi, np.random.default_rng(6), 0.5)
    assert not np.allclose(place, other)  # fresh coefficients
    with pytest.raises(InputError, match="sum must be positive"):
        succession_velocity(space, x, v, own, best, worst, (0, 0, 0, 0), r)


def test_decay_and_diversity():
    step = 0.5
    for n in range(20):
        assert np.isclose(decayed(0.5, n, 0.9), step)
        step *= 0.9
    space, rng = ArraySpace("abc"), np.random.default_rng(0)
    genomes = [rng.standard_normal(space.shape) for _ in range(5)]
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(genomes) for b in genomes[i + 1 :]]
    assert np.isclose(diversity(space, genomes), np.mean(pairs)) and np.isnan(diversity(space, genomes[:1]))


def test_dominated_against_a_plain_loop():
    points = np.random.default_rng(0).integers(0, 8, (60, 3)) / 8  # with ties
    found = dominated(points)
    for i, p in enumerate(points.tolist()):
        assert found[i] == any(all(a >= b for a, b in zip(q, p)) and q != p for q in points.tolist())
    assert dominated([[1, np.nan], [0, 0]]).tolist() == [False, False]


def test_arrays_cross_at_split_points():
    from evonb.evolution.operators import crossover, split_child

    space = ArraySpace("abc", 4)
    a, b = np.full(space.shape, 1.0), np.full(space.shape, 3.0)
    child = split_child([a, b], [0.5, 0.5], np.random.default_rng(3), lead=1.0).ravel()
    assert set(child) == {1.0, 3.0} and (np.diff(child) != 0).sum() == 1
    made = [crossover(space, [a, b], np.random.default_rng(s), None, "split_points") for s in (0, 0, 1)]
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])
    for seed in range(20):  # a parent of weight 0 has no stretch and no share
        child = split_child([a, b, a * 1e6], [0.5, 0.5, 0.0], np.random.default_rng(seed))
        assert child.max() < 1e3
