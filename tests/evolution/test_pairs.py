"""Tasks that evolve along: stepping stones, the minimal criterion, transfer, kill and resume, what is refused."""

import numpy as np
import pytest

from evonb.core import InputError, Seeds
from evonb.evolution.method import METHODS, Outcome, TaskResult
from evonb.evolution.operators import ArraySpace
from evonb.evolution.pairs import Pair, PairSpace, Poet, SteppingStones, TaskRange, skills_together
from evonb.evolution.search import evolve

WORLD = SteppingStones()


def poet(seed=0, **settings):
    return Poet(PairSpace(WORLD.space, WORLD.tasks), settings, Seeds(seed))


@pytest.mark.parametrize("seed", [0])
def test_pairs_reach_what_cannot_be_climbed_to(seed):
    found = evolve(poet(seed), WORLD, 4000, show=False, measure_diversity=False)
    assert found.evaluations == 4000 and found.best.genome.task == (1.0,) and found.best.value > 0.7
    assert WORLD.alone([found.best.genome.individual])[0].value == found.best.value
    direct = evolve(METHODS["genome"](WORLD.space, None, Seeds(seed)), WORLD.alone, 600, show=False)
    assert direct.best.value <= 0.05 + 1e-9  # the lure


def test_new_tasks_meet_the_minimal_criterion_and_pairs_only_get_better():
    method, best = poet(0, low=0.2, high=0.8, capacity=2), {}
    while method.generation < 70:
        asked = [g for g, _ in method.ask()]
        before = {x.genome.task for x in method.members}
        method.tell(WORLD(asked))
        for x in method.members:
            if x.genome.task in before:
                assert x.value >= best[x.genome.task]
            elif before:  # after the founders
                assert 0.2 <= x.value <= 0.8 and x.lineage.operator == "task"
            best[x.genome.task] = x.value
        assert len(method.members) <= 2 and len({x.genome.task for x in method.members + method.archive}) == len(
            method.members) + len(method.archive)
    assert {o.lineage.operator for o in method.members} & {"mutation", "transfer"} and method.archive


def test_transfer_brings_the_better_individual():
    method = poet(0, mutants=1, every=1, children=0)
    method.tell([Outcome(0.5) for _ in method.ask()])
    a = method.members[0]
    other = method.new(Pair((0.3,), WORLD.place(0.3)), (), "task")
    other.value = 0.6
    method.members.append(other)
    asked = [(x.genome, x.lineage.operator, x.lineage.parents) for x in (method.ask(), method.asked)[1]]
    moved = [(p, by) for p, operator, by in asked if operator == "transfer"]
    assert [(p.task, by) for p, by in moved] == [((0.3,), (a.digest,)), ((0.0,), (other.digest,))]
    method.tell([Outcome(0.9 if operator == "transfer" and p.task == (0.3,) else 0.1) for p, operator, _ in asked])
    assert [x.value for x in method.members] == [0.5, 0.9]
    assert np.array_equal(method.members[1].genome.individual, a.genome.individual)


def test_a_killed_search_goes_on_with_pairs_and_archive(tmp_path):
    whole, left = evolve(poet(2, capacity=2), WORLD, 300, show=False), [0]

    class Killed(Exception):
        pass

    def dying(pairs):
        left[0] -= len(pairs)
        if left[0] < 0:
            raise Killed
        return WORLD(pairs)

    for n in (7, 40, 61, 3, 90, 400):
        left[0] = n
        try:
            again = evolve(poet(2, capacity=2), dying, 300, tmp_path, chunk=4, show=False)
            break
        except Killed:
            continue
    assert again.history.identical(whole.history) and again.best.digest == whole.best.digest
    assert [x.digest for x in again.population] == [x.digest for x in whole.population]


def test_failures_never_win_and_are_no_tasks():
    def half(pairs):
        return [Outcome(np.nan, reason="no") if p.task[0] > 0.15 else o for p, o in zip(pairs, WORLD(pairs))]

    found = evolve(poet(0), half, 400, show=False)
    assert {x.genome.task for x in found.population} <= {(0.0,), (0.1,)} and found.history.failed.any()


def test_skills_are_asked_together_by_the_worst():
    scores = dict(a=TaskResult(0.9), b=TaskResult(0.4), c=TaskResult(0.7))
    tasks, evaluate = skills_together(lambda genomes: [Outcome(0.6, scores) for _ in genomes], ["a", "b", "c"])
    found = evaluate([Pair(t, None) for t in ((1, 0, 0), (1, 0, 1), (1, 1, 1), (0, 0, 0))])
    assert [x.value for x in found[:3]] == [0.9, 0.7, 0.4] and found[3].reason == "no skill is asked"
    assert tasks.first.tolist() == [1, 0, 0] and all(set(tasks.mutate((1, 0, 0), np.random.default_rng(i))) <= {0, 1}
                                                     for i in range(9))
    failed = skills_together(lambda g: [Outcome(np.nan, reason="broken")], ["a", "b"])[1]([Pair((1, 0), None)])
    assert failed[0].reason == "broken" and np.isnan(failed[0].value)
    with pytest.raises(InputError, match="skill"):
        skills_together(lambda g: [Outcome(0.6, scores)], ["a", "x"])[1]([Pair((1, 0), None)])


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="can't search a ArraySpace"):
        Poet(ArraySpace(["a"]))
    for wrong in (dict(capacity=0), dict(low=0.9, high=0.1), dict(gene_rate=2), dict(nonsense=1)):
        with pytest.raises(InputError, match=next(iter(wrong))):
            poet(0, **wrong)
    for wrong in (dict(first=2), dict(step=0), dict(low=np.nan), dict(names=[])):
        with pytest.raises(InputError):
            TaskRange(**dict(names=["a"], low=0, high=1, first=0, step=0.1) | wrong)
    with pytest.raises(InputError, match="works on vectors of coefficients, but the space's genomes are pairs"):
        METHODS["cma"](PairSpace(WORLD.space, WORLD.tasks), None, Seeds(0))
    with pytest.raises(InputError, match="Name two"):
        skills_together(None, ["a"])
