"""Heritable rank: growth changes nothing, what is inherited is a parent's, budgets hold, unequal ranks merge."""

import numpy as np
import pytest
import torch

from evonb.core import InputError, Seeds
from evonb.evolution.method import METHODS, Outcome
from evonb.evolution.search import evolve
from evonb.populations.merges import MERGES, combine, distance
from evonb.populations.ranks import RankSpace, fitted, rank_importance, ranks_of, with_more_rank, within_budget
from evonb.populations.spaces import StoredSpace
from evonb.training.adapters import random_adapter, read_adapter, write_adapter

SHAPES = {"h.0": (6, 5), "h.1": (8, 5), "h.2": (4, 7)}


def expert(rank, seed=None, size=0.5):
    return random_adapter(SHAPES, rank, Seeds(rank if seed is None else seed), "toy", size)


@pytest.fixture
def space():
    return RankSpace(dict(a=expert(1), b=expert(2), c=expert(3)), 12, grow=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_growing_keeps_the_product_exactly_and_files_keep_the_ranks(dtype, tmp_path):
    before = expert(2).to(dtype=dtype)
    after = with_more_rank(before, {"h.0": 1, "h.2": 2}, np.random.default_rng(0))
    assert ranks_of(after) == {"h.0": 3, "h.1": 2, "h.2": 4}
    for m in SHAPES:
        assert torch.equal(after.B[m][:, 2:], torch.zeros(len(after.B[m]), after.rank(m) - 2, dtype=dtype))
        assert torch.equal(after.A[m][:2], before.A[m]) and torch.equal(after.B[m][:, :2], before.B[m])
        assert torch.allclose(after.delta(m), before.delta(m), atol=1e-6) and after.A[m].dtype == dtype
        assert torch.linalg.matrix_rank(after.A[m].double()) == after.rank(m)  # new directions are new
    again = read_adapter(write_adapter(after, tmp_path / "a"))
    assert again.digest() == after.digest() and len(again.config["rank_pattern"]) == 2 and again.scale == after.scale


def test_peft_reads_ranks_that_grew(tmp_path):
    peft = pytest.importorskip("peft")
    layers = torch.nn.ModuleDict({"h": torch.nn.ModuleList([torch.nn.Linear(5, 6), torch.nn.Linear(5, 8)])})
    layers.config = type("C", (dict,), {})()
    made = random_adapter({"h.0": (6, 5), "h.1": (8, 5)}, 2, Seeds(0), "toy")
    write_adapter(with_more_rank(made, {"h.1": 2}, np.random.default_rng(0)), tmp_path / "a")
    config = peft.LoraConfig.from_pretrained(tmp_path / "a")
    model = peft.inject_adapter_in_model(config, layers)
    weights = {m: (model["h"][int(m[2])].lora_A["default"].weight, model["h"][int(m[2])].scaling["default"])
               for m in ("h.0", "h.1")}
    assert {m: (len(w), s) for m, (w, s) in weights.items()} == {"h.0": (2, 1.0), "h.1": (4, 1.0)}


def test_importance_is_the_length_over_the_rank():
    a = expert(3)
    assert all(np.isclose(rank_importance(a)[m], float(a.delta(m).double().norm()) / 3) for m in SHAPES)
    twice = with_more_rank(a, {"h.0": 3}, np.random.default_rng(0))
    assert np.isclose(rank_importance(twice)["h.0"], rank_importance(a)["h.0"] / 2)


@pytest.mark.parametrize("name", [m for m in MERGES if MERGES[m].kind != "search"])
def test_every_merge_of_unequal_ranks_is_the_exact_one_at_inherited_ranks(name, space):
    parents, g = [space.experts[n] for n in "abc"], lambda: torch.Generator().manual_seed(3)
    child = space.merge(parents, None, name, g())
    assert child.digest() == space.merge(parents, None, name, g()).digest()
    exact = MERGES[name](parents, None, "delta", None, g())
    assert child.modules == exact.modules and all(child.rank(m) in (1, 2, 3) for m in child.modules)
    for m in child.modules:  # none of model stock's, which finds strangers and stays at the base
        S = torch.linalg.svdvals(exact.delta(m).double())
        lost = float((child.delta(m) - exact.delta(m)).double().norm())
        assert abs(lost - float(S[child.rank(m):].norm())) < 1e-4  # Eckart and Young: nothing is nearer at that rank


def test_ranks_are_drawn_by_what_parents_contribute(space):
    parents = [space.experts["a"], space.experts["c"]]
    drawn = [space.merge(parents, [0.9, 0.1], generator=torch.Generator().manual_seed(s)) for s in range(60)]
    share = np.mean([c.rank(m) == 1 for c in drawn for m in SHAPES])
    assert 0.8 < share < 0.97
    assert set(ranks_of(space.merge(parents, [0.9, 0.1])).values()) == {1}  # without a generator: who gives most
    assert distance(space.combine([parents[1]], [1.0]), parents[1]) == 0


def test_no_individual_exceeds_the_budget(space):
    g, rng = space.experts["a"], np.random.default_rng(0)
    for _ in range(20):
        g = space.perturb(g, 0.5, 0.3, rng)
    assert sum(ranks_of(g).values()) == 12 and all(g.rank(m) <= min(g.shape(m)) for m in SHAPES)
    a, b = (with_more_rank(expert(1), {m: 3}, rng) for m in ("h.0", "h.1"))
    other = RankSpace(dict(a=a, b=b), 6, grow=0.0)
    made = [other.merge(list(other.experts.values()), generator=torch.Generator().manual_seed(s)) for s in range(20)]
    assert max(sum(ranks_of(c).values()) for c in made) == 6
    assert within_budget(dict(p=4, q=4), dict(p=8.0, q=1.0), 5) == dict(p=4, q=1)


def test_growth_goes_where_much_is_changed(space):
    uneven = combine([expert(1)], {"h.0": [100.0], "h.1": [1.0], "h.2": [1.0]}, 1)
    grew = [space.growth(uneven, np.random.default_rng(s)) for s in range(40)]
    assert np.mean([c.rank("h.0") == 2 for c in grew]) > 0.9


@pytest.mark.parametrize("name", ["genome", "genome+", "es"])
def test_ranks_evolve_in_files_as_in_memory_and_grow_where_the_goal_needs_it(name, space, tmp_path):
    goal = expert(3, 77, 2.0)
    near = lambda genomes: [Outcome(-distance(g, goal)) for g in genomes]
    stored = StoredSpace(space, tmp_path / "genomes")
    runs = [evolve(METHODS[name](s, None, Seeds(1)), near, 40, folder, show=False, traits=("rank",))
            for s, folder in ((space, None), (stored, tmp_path))]
    assert runs[0].history.identical(runs[1].history) and runs[0].best.digest == runs[1].best.digest
    rank = runs[0].history.trait_value.sel(trait="rank")
    assert rank.max() <= 4 and (name == "es" or rank.isel(generation=-1).max() > 1)


def test_what_cannot_be_is_refused(space):
    with pytest.raises(InputError, match="budget is 3, but an expert has ranks of 9"):
        RankSpace(space.experts, 3)
    for wrong in (dict(grow=1.5), dict(step=0), dict(budget=0)):
        with pytest.raises(InputError, match=next(iter(wrong))):
            RankSpace(space.experts, **wrong)
    with pytest.raises(InputError, match="is no module"):
        with_more_rank(expert(1), {"nowhere": 1}, np.random.default_rng(0))
    with pytest.raises(InputError, match="h.0 has rank 1 here and 3 where the search began"):
        space.shift(space.experts["a"], [1], [0.1], space.experts["c"])
    with pytest.raises(InputError, match="grows by"):
        with_more_rank(expert(1), {"h.0": 0}, np.random.default_rng(0))
    assert fitted(expert(2), dict.fromkeys(SHAPES, 5)).digest() == expert(2).digest()
