"""One contract for every method over every space: same again under a seed, kill and resume, lineage, refusals."""

import numpy as np
import pytest
import torch

from evonb.connectomes.space import ConnectomeSpace
from evonb.core import InputError, Seeds
from evonb.evolution.method import METHODS, Outcome, TaskResult
from evonb.evolution.operators import ArraySpace
from evonb.evolution.search import evolve
from evonb.populations.ranks import RankSpace
from evonb.populations.spaces import AdapterSpace, CoefficientSpace
from evonb.populations.weights import WeightSpace
from evonb.training.adapters import random_adapter
from evonb.training.connectome import Connectome

pytestmark = pytest.mark.numerics
BUDGET = 22
SHAPES = {"wte.weight": (8, 6), "h.0.attn.c_attn.weight": (9, 6), "h.0.mlp.c_fc.weight": (12, 6)}


def wiring(seed, n_shared=8, n_own=4):
    "As many wires in every matrix, some of which all seeds share."
    rng, common, signs = np.random.default_rng(seed), np.random.default_rng(99), {}
    for name, shape in SHAPES.items():
        order, s = common.permutation(int(np.prod(shape))), np.zeros(shape, np.int8)
        places = np.r_[order[:n_shared], rng.choice(order[n_shared:], n_own, False)]
        s.flat[places] = np.r_[common.choice([-1, 1], n_shared), rng.choice([-1, 1], n_own)]
        signs[name] = torch.from_numpy(s)
    return Connectome(signs, dict(SHAPES), info=dict(frame="one start"))


def experts():
    return {f"e{i}": random_adapter({"h.0": (6, 5), "h.1": (6, 5)}, 2, Seeds(i)) for i in range(4)}


def base():
    "Two matrices with biases, whose names experts know."
    model = torch.nn.Module()
    model.h = torch.nn.ModuleList([torch.nn.Linear(5, 6), torch.nn.Linear(5, 6)])
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, generator=Seeds(i).torch()))
    return model


def numbers(space, genome):
    "A genome as one vector, whatever it is of."
    if isinstance(space, WeightSpace):
        return np.concatenate([space.tensor(genome, n).numpy().ravel() for n in space.shapes]).astype(float)
    if isinstance(space, ConnectomeSpace):
        return np.concatenate([s.numpy().ravel() for s in space.check(genome).connectome.signs.values()]).astype(float)
    if isinstance(space, AdapterSpace):
        return np.concatenate([genome.load().delta(m).numpy().ravel() for m in ("h.0", "h.1")]).astype(float)
    return np.asarray(genome, float).ravel()


SPACES = dict(
    array=lambda: ArraySpace([f"e{i}" for i in range(4)], 2),
    coefficient=lambda: CoefficientSpace(experts(), by="module"),
    adapter=lambda: AdapterSpace(experts()),
    ranks=lambda: RankSpace(experts(), 10, grow=0.5),
    weights=lambda: WeightSpace(base(), experts(), rank=1),
    connectome=lambda: ConnectomeSpace({f"e{i}": wiring(i) for i in range(4)}, mutation=dict(move=2, flip=1, hand=1)))


@pytest.fixture(scope="module")
def spaces():
    return {name: make() for name, make in SPACES.items()}


def scored(space):
    "Two conflicting tasks with two options each, so that every method can run."
    width = len(numbers(space, space.start()[0]))
    q = np.random.default_rng(0).standard_normal((10, width)) / np.sqrt(width)  # (n_items, n_numbers)

    def evaluate(genomes):
        out = []
        for g in genomes:
            tasks = {}
            for name, far in (("a", 1.0), ("b", 0.3)):
                m = 0.6 - np.abs(q @ (numbers(space, g) - far))  # (n_items,)
                tasks[name] = TaskResult(float((m > 0).mean()), np.c_[m * 0, -m], (m > 0).astype(float))
            out.append(Outcome((tasks["a"].mean + tasks["b"].mean) / 2 + 0.1, tasks))
        return out

    return evaluate


class Killed(Exception):
    pass


def dying(evaluate, after):
    left = [after]

    def scores(genomes):
        left[0] -= len(genomes)
        if left[0] < 0:
            raise Killed
        return evaluate(genomes)

    return scores


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("of", [s for s in SPACES if s != "array"])  # on which test_methods does more than this
def test_every_method_over_every_space(of, name, spaces, tmp_path):
    space = spaces[of]
    if METHODS[name].needs_vectors and space.size is None and not (name == "random-search" and hasattr(space, "draw")):
        with pytest.raises(InputError, match=f"{name}.*vectors of coefficients, but the space's genomes are"):
            METHODS[name](space, None, Seeds(0))
        return
    if lacks := [n for n in METHODS[name].needs if not hasattr(space, n)]:
        with pytest.raises(InputError, match=f"{name}.*can't search a {type(space).__name__}.*{lacks[0]}"):
            METHODS[name](space, None, Seeds(0))
        return
    evaluate = scored(space)

    def run(evaluate=evaluate, seed=0, **more):
        return evolve(METHODS[name](space, None, Seeds(seed)), evaluate, BUDGET, show=False, **more)

    whole = run()
    known = {space.digest(g) for g in space.start()} | set(whole.history.digest.values.ravel())
    assert whole.evaluations <= BUDGET
    if name != "genome+-released":  # its moved individuals are never scored
        assert {whole.best.digest, *(p for row in whole.history.parents.values.ravel() for p in row.split())} <= known
    for after in (7, BUDGET):  # scored by each session before it dies
        try:
            again = run(dying(evaluate, after), folder=tmp_path, chunk=2)
            break
        except Killed:
            continue
    assert again.history.identical(whole.history)
    assert [x.digest for x in again.population] == [x.digest for x in whole.population]
    assert np.array_equal(numbers(space, again.best.genome), numbers(space, whole.best.genome))
    assert again.best.digest == whole.best.digest == space.digest(again.best.genome)


@pytest.mark.parametrize("of", SPACES)
def test_a_space_keeps_what_methods_rest_on(of, spaces):
    space, rng = spaces[of], np.random.default_rng(0)
    a, b, *_ = space.start()
    for g in (a, space.perturb(a, 0.3, 0.5, rng), space.combine([a, b], [0.5, 0.5]), space.combine([a, b], [1, -1])):
        assert space.digest(space.unpack(space.pack(g))) == space.digest(g)
    assert space.distance(a, a) == 0 < space.distance(a, b) == space.distance(b, a)
    assert space.digest(space.combine([a], [1])) == space.digest(a)
    assert np.allclose(numbers(space, space.merge([a, a, a])), numbers(space, a), atol=1e-6)
    assert space.digest(space.perturb(a, 0.0, 0.5, rng)) == space.digest(space.perturb(a, 0.0, 0.5, rng))
    one, other = (space.perturb(a, 0.5, 0.5, np.random.default_rng(s)) for s in (1, 1))
    assert space.digest(one) == space.digest(other) != space.digest(a)
