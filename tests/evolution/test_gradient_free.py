"""Noise that integers stand for, evolution strategies along known gradients, and spaces that can and can't."""

import numpy as np
import pytest
import torch

from evonb.core import InputError, Seeds
from evonb.evolution.landscape import SkillLandscape
from evonb.evolution.method import METHODS, Outcome
from evonb.evolution.methods.es import centred_ranks
from evonb.evolution.noise import moved, noise
from evonb.evolution.operators import ArraySpace
from evonb.evolution.search import evolve
from evonb.populations.spaces import AdapterSpace, CoefficientSpace, StoredSpace
from evonb.training.adapters import random_adapter

pytestmark = pytest.mark.numerics
SHAPES = {"h.0": (6, 5), "h.1": (7, 4)}


def experts():
    return {f"e{i}": random_adapter(SHAPES, 2, Seeds(i)) for i in range(3)}


@pytest.mark.parametrize("rank", [None, 1, 3])
def test_a_seed_is_its_noise_to_the_bit_and_each_entry_has_variance_1(rank):
    threads = torch.get_num_threads()
    first = noise((40, 30), [7, 1], rank, np.float32)
    try:
        torch.set_num_threads(2)
        assert np.array_equal(first, noise((40, 30), [7, 1], rank, np.float32)) and first.dtype == np.float32
    finally:
        torch.set_num_threads(threads)
    if rank:
        U, S, Vh = np.linalg.svd(first.astype(float))
        assert S[rank - 1] > 1 > 1e-4 > S[rank]
    many = np.stack([noise((6, 5), i, rank) for i in range(4000)])
    assert np.allclose(many.var(0), 1, atol=0.25) and np.abs(many.mean(0)).max() < 0.1
    assert np.isclose(many.var(0).mean(), 1, atol=0.04)


def test_a_step_is_a_plain_sum():
    x, anchor = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    by_hand = x - 0.25 * (x - anchor) + 0.5 * noise((2, 3), 3) - 2 * noise((2, 3), 9)
    assert np.allclose(moved(x, [3, 9], [0.5, -2.0], anchor, decay=0.25), by_hand)
    assert centred_ranks([5.0, 1.0, 1.0, 9.0]).tolist() == pytest.approx([1 / 6, -1 / 3, -1 / 3, 1 / 2])


@pytest.mark.parametrize("name", ["es", "mezo"])
@pytest.mark.parametrize("kind", ["array", "coefficients", "delta", "factors"])
def test_every_individual_is_rebuilt_from_its_row(name, kind):
    space = dict(array=lambda: ArraySpace("abc", 2), coefficients=lambda: CoefficientSpace(experts(), "layer"),
                 delta=lambda: AdapterSpace(experts()), factors=lambda: AdapterSpace(experts(), "factors"))[kind]()
    method = METHODS[name](space, dict(rank=2, start="uniform"), Seeds(3))
    by_chance = np.random.default_rng(0)
    for _ in range(3):  # generations
        asked = method.ask()
        place, anchor = method.centre.genome, method.anchor.genome
        for genome, lineage in asked:
            if lineage.operator != "centre":
                way = method.config.sigma * dict(plus=1, minus=-1)[lineage.operator]
                again = space.shift(place, [lineage.seed], [way], anchor, 2)
                assert space.digest(again) == space.digest(genome) != space.digest(place)
        method.tell([Outcome(v) for v in by_chance.random(len(asked))])
    assert method.drift() > 0


def test_the_cosine_with_the_known_gradient_grows_with_the_population():
    land = SkillLandscape(1, n_experts=6, n_groups=2)
    here = np.ones(land.space.shape)
    value = lambda g: -np.logaddexp(0, -land.margins(g)[:, 0]).mean()
    steps = 1e-4 * np.eye(12).reshape(12, 2, 6)
    gradient = np.array([value(here + d) - value(here - d) for d in steps])

    def cosine(n, seed):
        es = METHODS["es"](land.space, dict(population_size=n, sigma=0.05, decay=0.0), Seeds(seed))
        es.tell(land([g for g, _ in es.ask()]))
        assert es.members[0].value == max(x.value for x in es.last)
        step = (es.centre.genome - es.anchor.genome).ravel()
        return step @ gradient / np.linalg.norm(step) / np.linalg.norm(gradient)

    found = [np.mean([cosine(n, s) for s in range(6)]) for n in (2, 8, 32, 128)]
    assert (np.diff(found) > 0.05).all() and found[-1] > 0.85


def test_decay_holds_the_search_near_its_start_where_fitness_says_nothing():
    space, drawn = ArraySpace("abcdef", 4), np.random.default_rng(0)
    blind = lambda genomes: [Outcome(float(v)) for v in drawn.random(len(genomes))]
    far = []
    for decay in (0.0, 0.2):
        es = METHODS["es"](space, dict(decay=decay), Seeds(0))
        evolve(es, blind, 1000, show=False, measure_diversity=False)
        far.append(es.drift())
    assert far[1] < 0.5 * far[0]


def test_what_is_stored_does_not_grow_with_the_population(tmp_path):
    def stored(n):
        folder = tmp_path / str(n)
        space = StoredSpace(AdapterSpace(experts()), folder / "genomes", held_bytes=0)
        score = lambda genomes: [Outcome(9 - float((g.load().delta("h.0") - 1).square().mean())) for g in genomes]
        r = evolve(METHODS["es"](space, dict(population_size=n), Seeds(0)), score, 3 * (n + 1), folder, show=False)
        assert r.evaluations == 3 * (n + 1)
        return len(list((folder / "genomes").iterdir()))

    assert stored(4) == stored(40) <= 3  # start, centre and best


def test_a_pair_of_which_one_failed_says_nothing():
    space = ArraySpace("ab")
    es = METHODS["es"](space, dict(population_size=4, decay=0.0), Seeds(0))
    es.ask()
    es.tell([Outcome(0.0), Outcome(1.0), Outcome(np.nan, reason="lost"), Outcome(0.7), Outcome(0.2)])
    seed = es.last[3].lineage.seed
    direction = (es.centre.genome - es.anchor.genome) / noise(space.shape, seed)
    assert np.allclose(direction, direction[0, 0]) and direction[0, 0] > 0


def test_signs_of_wirings_are_learned_and_spaces_that_can_not_are_named(tmp_path):
    from evonb.connectomes.space import ConnectomeSpace
    from evonb.training.connectome import Connectome

    rng = np.random.default_rng(0)
    signs = {n: torch.tensor(rng.integers(-1, 2, (4, 6)), dtype=torch.int8) for n in ("a.weight", "b.weight")}
    first = Connectome(signs, {n: (4, 6) for n in signs}, 0.02, {})
    space = ConnectomeSpace(dict(first=first), "here")
    begin = space.start()[0]
    own = space.signs(begin)
    assert space.digest(space.with_signs(begin, own)) == space.digest(space.made(signs, [begin]))
    wanted = np.where(np.arange(len(own)) % 4, own, -own)
    score = lambda genomes: [Outcome(float((space.signs(g) == wanted).mean())) for g in genomes]

    def new():
        return METHODS["sign-es"](space, dict(learning_rate=2.0), Seeds(0))

    r = evolve(new(), score, 400, tmp_path / "whole", show=False)
    assert score([begin])[0].value < 0.8 and r.best.value > 0.9
    assert all(torch.equal(s != 0, signs[n] != 0) for n, s in r.best.genome.connectome.signs.items())
    calls = []

    def dying(genomes):
        calls.append(1)
        if len(calls) % 30 == 29:
            raise KeyError("killed")
        return score(genomes)

    for _ in range(20):
        try:
            again = evolve(new(), dying, 400, tmp_path / "killed", chunk=5, show=False)
            break
        except KeyError:
            continue
    assert again.history.identical(r.history) and again.best.digest == r.best.digest
    with pytest.raises(InputError, match="'es' can't search a ConnectomeSpace, whose genomes have no shift, settle"):
        METHODS["es"](space)
    with pytest.raises(InputError, match="'sign-es' can't search a AdapterSpace, whose genomes have no signs"):
        METHODS["sign-es"](AdapterSpace(experts()))
    with pytest.raises(InputError, match="no sign to turn"):
        evolve(METHODS["sign-es"](ArraySpace("ab"), dict(start="sum")), score_zero, 10, show=False)


def score_zero(genomes):
    for g in genomes:
        g[:] = 0
    return [Outcome(0.0) for _ in genomes]


def test_ranks_that_a_factor_can_not_have_are_named():
    with pytest.raises(InputError, match="rank is 3, but A of h.0 is 2 x 5, so its rank is at most 2"):
        METHODS["es"](AdapterSpace(experts()), dict(rank=3))
