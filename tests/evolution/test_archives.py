"""Archives, fronts and niches: against a plain loop, ribs and pymoo, over every space, resumed, and bad input."""

import itertools
import sys

import numpy as np
import pytest

from evonb.core import InputError, Seeds
from evonb.datasets import MissingExtraError
from evonb.evolution import archives
from evonb.evolution.archives import (
    Archive,
    ArchiveConfig,
    Axis,
    Division,
    archive_axes,
    archive_progress,
    cells_of,
    division_of,
    elites_of,
)
from evonb.evolution.landscape import SkillLandscape
from evonb.evolution.method import METHODS, Individual, Lineage, Outcome, TaskResult
from evonb.evolution.methods.niches import attraction, shares
from evonb.evolution.methods.pareto import front_progress, hypervolume, pareto_front
from evonb.evolution.methods.pareto_bred import standing_by_fronts
from evonb.evolution.operators import ArraySpace
from evonb.evolution.search import evolve, stored_history
from evonb.evolution.traits import TRAITS, space_traits, trait_of, trait_range

pytestmark = pytest.mark.numerics

SPACE = ArraySpace([f"e{i}" for i in range(4)], 2)
ARCHIVES = ("map-elites", "cma-me")


def some(n, seed=0, **more):
    "Individuals with numbers x and y around 0 to 1, a few failed or without a y."
    rng, out = np.random.default_rng(seed), []
    for i in range(n):
        scores = dict(x=rng.normal(0.5, 0.4), y=rng.normal(0.5, 0.4) if i % 7 else np.nan)
        value = round(rng.random(), 1) if i % 11 else np.nan
        out.append(Individual(rng.normal(size=(2, 4)), Lineage(), f"d{i}", i, value, scores=scores, **more))
    return out


def spaces():
    "A space of each kind, small."
    from evonb.populations.spaces import AdapterSpace, CoefficientSpace
    from evonb.training.adapters import random_adapter

    experts = {f"e{i}": random_adapter({"h.0": (6, 5), "h.1": (6, 5)}, 2, Seeds(i)) for i in range(3)}
    return dict(array=ArraySpace("abc", 2), coefficients=CoefficientSpace(experts, "layer"),
                adapters=AdapterSpace(experts))  # fmt: skip


def rated(space):
    "Two conflicting scores with items, from a genome's distances to the founders."
    founders = space.start()

    def evaluate(genomes):
        out = []
        for g in genomes:
            near = [float(np.exp(-space.distance(g, f) / 3)) for f in founders]
            items = [np.array([n > 0.1 * k for k in range(1, 9)], float) for n in near[:2]]
            scores = {t: TaskResult(float(c.mean()), credit=c) for t, c in zip("ab", items)}
            out.append(Outcome(float(np.mean(near)), scores))
        return out

    return evaluate


@pytest.mark.parametrize("kind", ["array", "coefficients", "adapters"])
@pytest.mark.parametrize("name", ["map-elites", "cma-me", "pareto-bred", "niches"])
def test_over_every_space_also_after_kills(name, kind, tmp_path):
    space = spaces()[kind]
    if METHODS[name].needs_vectors and space.size is None:
        with pytest.raises(InputError, match="Use a CoefficientSpace"):
            METHODS[name](space)
        return
    settings, score = dict(population_size=6), rated(space)
    whole = evolve(METHODS[name](space, settings, Seeds(0)), score, 30, show=False)
    left = [13]

    def dying(genomes):
        left[0] -= len(genomes)
        if left[0] < 0:
            raise KeyboardInterrupt
        return score(genomes)

    with pytest.raises(KeyboardInterrupt):
        evolve(METHODS[name](space, settings, Seeds(0)), dying, 30, tmp_path, chunk=2, show=False)
    stored_history(tmp_path)
    again = evolve(METHODS[name](space, settings, Seeds(0)), score, 30, tmp_path, chunk=2, show=False)
    assert again.history.identical(whole.history)
    assert [x.digest for x in again.population] == [x.digest for x in whole.population]
    assert again.history.attrs == whole.history.attrs == stored_history(tmp_path).attrs
    if name in ARCHIVES:
        places = elites_of(whole.history, division_of(whole.history))
        held = whole.history.digest.values.ravel()[whole.history.digest.values.ravel() != ""][list(places.values())]
        assert held.tolist() == [x.digest for x in whole.population]  # what ribs keeps is what the history gives


@pytest.mark.parametrize("centroids", [0, 12])
def test_an_archive_is_that_of_a_plain_loop(centroids):
    config = ArchiveConfig(("x", "y"), (4, 3), ((0.0, 1.0), (0.0, 1.0)), centroids)
    archive, everyone = Archive(config, SPACE), some(120)
    for i in range(0, 120, 17):
        archive.add(everyone[i:i + 17])
    plain = {}
    for x in everyone:
        m = np.array([x.number_of("x"), x.number_of("y")])
        if not (np.isfinite(m).all() and np.isfinite(x.value)):
            continue
        if centroids:
            cell = int(np.square(archive.centroids - m).sum(1).argmin())
        else:
            at = [min(max(int(np.floor(v * n + 1e-6)), 0), n - 1) for v, n in zip(m, (4, 3))]
            cell = at[0] * 3 + at[1]
        if cell not in plain or x.value > plain[cell].value:
            plain[cell] = x
    assert {c: x.number for c, x in archive.elites.items()} == {c: x.number for c, x in sorted(plain.items())}
    assert archive.coverage == len(plain) / 12 and np.isclose(archive.qd_score, sum(x.value for x in plain.values()))
    assert archive.n_unplaced == sum(not np.isfinite(x.number_of("y") + x.value) for x in everyone)
    measures = archive.measures(everyone)
    fit = np.isfinite(measures).all(1)
    own = cells_of(measures, archive.axes, archive.centroids)
    assert own[fit].tolist() == archive.store.index_of(archive.scaled(measures[fit])).tolist()  # as ribs counts


def test_progress_of_a_history_is_that_of_its_generations():
    land = SkillLandscape(0, n_groups=2, by_skill=True)
    r = evolve(METHODS["random-search"](land.space, None, Seeds(0)), land, 60, show=False, traits=("length",))
    division = Division([Axis("skill 0", 0.0, 1.0, 5), Axis("length", 0.0, 5.0, 4)], offset=0.1)
    coverage, score = archive_progress(r.history, division)
    held = elites_of(r.history, division)
    value = r.history.value.values.ravel()
    assert coverage[-1] == len(held) / 20 and np.isclose(score[-1], sum(value[i] - 0.1 for i in held.values()))
    with pytest.raises(InputError, match="no 'density'; it has: .*length"):
        elites_of(r.history, Division([Axis("density", 0.0, 1.0, 5)]))


def test_archives_fill_more_than_a_front_or_chance():
    "A small one of tests/bench/diversity.py, whose five runs stand in docs/results/diversity.json."
    pair, found = ("skill 0", "skill 1"), {}
    land = SkillLandscape(3, n_groups=2, by_skill=True, n_test=10)
    division = Division(archive_axes(ArchiveConfig(pair), land.space))
    for name in (*ARCHIVES, "pareto", "random-search"):
        settings = dict(descriptors=pair) if name in ARCHIVES else None
        r = evolve(METHODS[name](land.space, settings, Seeds(3)), land, 400, show=False, measure_diversity=False)
        found[name] = [v[-1] for v in archive_progress(r.history, division)]
    for name, other in itertools.product(ARCHIVES, ("pareto", "random-search")):
        assert found[name][0] > found[other][0] and found[name][1] > found[other][1], found


@pytest.mark.parametrize("name", ARCHIVES)
def test_descriptors_that_divide_nothing(name):
    flat = lambda genomes: [Outcome(0.5, {"x": TaskResult(0.3), "y": TaskResult(np.nan)}) for _ in genomes]

    def run(evaluate=flat, **settings):
        return evolve(METHODS[name](SPACE, settings, Seeds(0)), evaluate, 30, show=False)

    assert len(run(descriptors=("x",), cells=(5,)).population) == 1  # a constant one fills one cell
    for settings, said in [
        (dict(descriptors=()), "no descriptors"),
        (dict(descriptors=("x", "x")), "'x' is named twice"),
        (dict(descriptors=("y",)), "'y' is no number for any individual"),
        (dict(descriptors=("z",)), "'z' is no score or trait of these individuals.*x, y, fitness"),
        (dict(cells=(0,)), "cells of a descriptor"),
        (dict(cells=(2, 3, 4)), "for 2 descriptors"),
        (dict(cells=(2000,)), "too large"),
        (dict(ranges=((0.0, 1.0),)), "1 ranges for 2"),
        (dict(ranges=((0.0, 1.0), (1.0, 0.0))), "lead upwards"),
        (dict(ranges=((0.0, 1.0), (0.0, np.inf))), "must be finite"),
        (dict(centroids=1), "centroids is 1"),
    ]:
        with pytest.raises(InputError, match=said):
            run(**settings)
    with pytest.raises(InputError, match="nothing says its range"):
        run(lambda genomes: [Outcome(-7.0) for _ in genomes], descriptors=("fitness",))
    half = itertools.count()  # now and then nobody can say x: such ones have no place, and the search goes on
    spotty = lambda genomes: [Outcome(0.5, {"x": TaskResult(np.nan if next(half) % 2 else 0.5)}) for _ in genomes]
    assert run(spotty, descriptors=("x",)).evaluations == 30


def test_without_ribs_the_error_says_what_to_install(monkeypatch):
    archives.load_ribs.cache_clear()
    monkeypatch.setitem(sys.modules, "ribs", None)
    monkeypatch.setitem(sys.modules, "ribs.archives", None)
    with pytest.raises(MissingExtraError, match=r'pip install "evonb\[population\]"'):
        METHODS["map-elites"](SPACE)
    archives.load_ribs.cache_clear()


def test_emitters_need_two_individuals_each():
    with pytest.raises(InputError, match="each needs at least 2"):
        METHODS["cma-me"](SPACE, dict(population_size=5, emitters=3))


def test_traits_are_read_and_refused_by_name():
    assert {"departure", "mixture", "length", "density", "balance"} <= set(TRAITS)
    rng = np.random.default_rng(0)
    for space in spaces().values():
        genomes = [*space.start(), space.merge(space.start(), None, "linear")]
        for name in space_traits(space):
            low, high = trait_range(space, name)
            found = [trait_of(space, name)(g) for g in genomes]
            assert low <= min(found) and max(found) <= high, (type(space).__name__, name, found)
        assert trait_of(space, "departure")(genomes[0]) == pytest.approx(0, abs=1e-3)
    with pytest.raises(InputError, match="'density' can't be read from genomes of AdapterSpace"):
        trait_of(spaces()["adapters"], "density")
    with pytest.raises(InputError, match="can't be read"):
        evolve(METHODS["random-search"](SPACE), lambda gs: [Outcome(1.0) for _ in gs], 5, show=False, traits=("x",))
    r = evolve(METHODS["genome"](SPACE, None, Seeds(0)), lambda gs: [Outcome(rng.random()) for _ in gs], 20, show=False,
               traits=("density",))  # fmt: skip
    assert r.history.trait.values.tolist() == ["density"] and np.isfinite(r.best.traits["density"])


def test_fronts_over_any_objectives_with_directions(tmp_path):
    land = SkillLandscape(1, n_groups=2, n_test=10)
    settings = dict(objectives=("fitness", "balance"), lower=("balance",), population_size=8)
    for name in ("pareto", "pareto-bred"):
        r = evolve(METHODS[name](land.space, settings, Seeds(0)), land, 80, tmp_path / name, show=False)
        points = np.array([[x.value, -x.traits["balance"]] for x in r.front])
        value, balance = r.history.value.values.ravel(), r.history.trait_value.values.ravel()
        everyone = np.c_[value, -balance][value == value]
        mine = set(map(tuple, everyone[pareto_front(everyone)]))
        assert set(map(tuple, points)) == mine  # the front of all that were told
        volume = front_progress(r.history, ("fitness", "balance"), ("balance",), (0.0, 1.0))
        assert (np.diff(volume) >= 0).all() and np.isclose(volume[-1], hypervolume(points, [0, -1]))
        again = evolve(METHODS[name](land.space, settings, Seeds(0)), land, 80, tmp_path / name, show=False)
        assert [x.digest for x in again.front] == [x.digest for x in r.front]
    for wrong, said in [
        (dict(objectives=("fitness", "densty")), "'densty' is no number.*skills, fitness"),
        (dict(objectives=("fitness",)), "at least two objectives"),
        (dict(objectives=("fitness", "balance"), lower=("length",)), "lower names 'length'"),
        ({}, "at least two objectives"),
    ]:
        for name in ("pareto", "pareto-bred"):
            with pytest.raises(InputError, match=said):
                evolve(METHODS[name](land.space, wrong, Seeds(0)), land, 30, show=False)


def test_the_hypervolume_is_that_of_many_points():
    rng = np.random.default_rng(0)
    points = rng.random((6, 3))
    inside = (rng.random((200_000, 3))[:, None] <= points).all(2).any(1).mean()
    assert hypervolume(points, np.zeros(3)) == pytest.approx(inside, abs=0.005)


def test_who_lives_on_is_decided_by_fronts_then_by_room():
    rng = np.random.default_rng(0)
    s = rng.random((30, 2))
    place, left, before = standing_by_fronts(s), np.arange(30), 0
    while len(left):  # front by front, by the plain definition
        outer = left[pareto_front(s[left])]
        assert set(place[outer]) == set(range(before, before + len(outer)))
        left, before = np.setdiff1d(left, outer), before + len(outer)


def test_sharing_and_attraction_by_hand():
    credit = np.array([[1, 0, 1, 0.5], [1, 1, 1, 0], [0, 0, 1, 0]])  # held by 2, 1, 3 and 0.5
    assert np.allclose(shares(credit).sum(1), [1 / 2 + 1 / 3 + 1, 1 / 2 + 1 + 1 / 3, 1 / 3])
    assert np.allclose(attraction(credit, 0), [0, 1, 0]) and np.allclose(attraction(credit, 2), [1.5, 1.5, 0])
    root = shares(credit, 0.5)
    assert np.allclose(root[:, 0], [1 / 2**0.5, 1 / 2**0.5, 0]) and np.array_equal(shares(credit, 0), credit)


def test_a_niche_keeps_who_answers_what_nobody_else_does():
    space = ArraySpace("ab", 1)

    def one(number, credit):
        return Individual(np.ones((1, 2)), Lineage(), str(number), number, float(np.mean(credit)),
                          credit=np.array(credit, float))  # fmt: skip

    method = METHODS["niches"](space, dict(population_size=2), Seeds(0))
    for x in (one(0, [1, 1, 1, 0, 0]), one(1, [1, 1, 1, 0, 0]), one(2, [0, 0, 0, 1, 1])):
        method.settle(x)
    assert [x.number for x in method.members] == [0, 2]  # of two alike the newer goes, however good it is
    with pytest.raises(InputError, match="compares them item by item"):
        method.settle(one(3, [1, 1]))
