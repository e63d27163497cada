"""POET over a run's tasks: pairs, minimal criterion, transfer, what is told, kill and resume, and few tasks refused."""

import numpy as np
import pytest

from evonb.core import InputError, Seeds
from evonb.evolution.method import METHODS, Outcome, TaskResult
from evonb.evolution.operators import ArraySpace
from evonb.evolution.search import evolve, stored_history
from evonb.populations.breeding import BreedConfig

SPACE = ArraySpace(["a", "b", "c"])
GOALS = {n: np.where(np.arange(3) == i, 1, 0.6) for i, n in enumerate("abc")}


def three(genomes):
    "Each task likes its expert, and a little of the others."
    out = []
    for g in genomes:
        scores = {n: TaskResult(float(np.exp(-np.square(g.ravel() - goal).sum() / 2))) for n, goal in GOALS.items()}
        out.append(Outcome(float(np.mean([s.mean for s in scores.values()])), scores))
    return out


def method(seed=0, **settings):
    return METHODS["poet"](SPACE, dict(scale=0.3, high=0.95) | settings, Seeds(seed))


def worst(task, x):
    return min(x.scores[n] for n, on in zip("abc", task) if on)


def stepped(m, n):
    "Generations one by one: the pairs before and after each."
    for _ in range(n):
        before = list(m.pairs)
        asked = m.ask()
        m.tell(three([g for g, _ in asked]))
        yield before, list(m.pairs)


def test_tasks_alone_come_first_each_with_the_founder_that_does_it_best():
    m = method(every=99)
    next(stepped(m, 1))
    alone = [(t, x) for t, x in m.pairs if sum(t) == 1]
    assert [t for t, _ in alone] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert [int(x.genome.ravel().argmax()) for _, x in alone] == [0, 1, 2]


def test_pairs_only_get_better_and_new_tasks_meet_the_minimal_criterion():
    m, new = method(1, low=0.3, high=0.9, reproduce=0.5, transfer=False, capacity=4), 0
    for before, after in stepped(m, 25):
        old = {t: worst(t, x) for t, x in before}
        assert len(after) <= 4 and len({t for t, _ in after} | set(m.retired)) == len(after) + len(m.retired)
        for t, x in after:
            if t in old:
                assert worst(t, x) >= old[t]
            elif before:  # without transfer it is its parent's individual that was neither too bad nor too good
                assert 0.3 <= worst(t, x) <= 0.9 and any(x is y for _, y in after) and sum(t) > 0
                new += 1
    assert new >= 2 and m.retired


def test_transfer_gives_each_task_the_best_of_all():
    for transfer in (True, False):
        m = method(2, every=1, children=0, mutants=1, scale=0.01, transfer=transfer)
        next(stepped(m, 1))
        m.pairs = [(t, m.pairs[i - 1][1]) for i, (t, _) in enumerate(m.pairs)]  # each with another's individual
        [(_, after)] = stepped(m, 1)
        best = [worst(t, x) == max(worst(t, y) for _, y in after) for t, x in after]
        assert all(best) if transfer else not any(best)


def test_it_comes_to_ask_all_at_once_and_says_so(tmp_path):
    m = method()
    r = evolve(m, three, 300, tmp_path, show=False)
    assert (1, 1, 1) in [t for t, _ in m.pairs] and r.best.value > 0.9
    worth = max(worst(t, x) for t, x in m.pairs if sum(t) == 3)
    assert m.told().endswith(f"at least {worth:.2f} in each: a and b and c")
    assert r.history.attrs["told"] == stored_history(tmp_path).attrs["told"] == m.told()
    assert "none does its task" in (m2 := method(reproduce=1.0)).told() + evolve(m2, three, 9, show=False).method


def test_a_killed_search_goes_on_with_pairs_and_retired_tasks(tmp_path):
    whole, left = method(capacity=3), [0]
    r = evolve(whole, three, 150, show=False)

    class Killed(Exception):
        pass

    def dying(genomes):
        left[0] -= len(genomes)
        if left[0] < 0:
            raise Killed
        return three(genomes)

    for n in (3, 30, 47, 9, 150):
        left[0], again = n, method(capacity=3)
        try:
            found = evolve(again, dying, 150, tmp_path, chunk=4, show=False)
            break
        except Killed:
            continue
    assert found.history.identical(r.history) and again.retired == whole.retired and whole.retired
    assert [(t, x.digest) for t, x in again.pairs] == [(t, x.digest) for t, x in whole.pairs]


def test_bad_settings_and_single_tasks_are_refused():
    for wrong in (dict(capacity=0), dict(low=0.9, high=0.1), dict(gene_rate=2), dict(nonsense=1)):
        with pytest.raises(InputError, match=next(iter(wrong))):
            method(**wrong)
    with pytest.raises(InputError, match="above high"):  # before anything is scored
        BreedConfig("some", ("a", "b"), methods=("poet",), options=dict(poet=dict(low=0.9, high=0.1))).check()
    both = BreedConfig("some", ("skill:agreement", "skill:count_up"), methods=("poet",))
    assert both.check() is both
    with pytest.raises(InputError, match="'poet' needs 2 or more.*--task skill:agreement --task skill:count_up"):
        BreedConfig("some", ("skill:agreement,count_up",), methods=("poet",)).check()
