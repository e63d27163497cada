"""Methods: one contract for all of them, kill and resume anywhere, known truth reached, bad input refused."""

import json

import numpy as np
import pytest

from evonb.core import InputError, Seeds, Stopped, StopRequest, StoreError
from evonb.evolution import search
from evonb.evolution.landscape import SkillLandscape
from evonb.evolution.method import (
    METHODS,
    Individual,
    Lineage,
    Method,
    Objective,
    Outcome,
    TaskResult,
    log_right,
    margins,
    method_class,
    right_options,
)
from evonb.evolution.methods import pareto
from evonb.evolution.methods.coarse_to_fine import ItemSurrogate, expected_log_right
from evonb.evolution.methods.pareto import pareto_front
from evonb.evolution.methods.released import released_shares
from evonb.evolution.operators import AllFailedError, ArraySpace
from evonb.evolution.search import compare_methods, evolve, oracle_report, stored_history
from evonb.evolution.vectors import losses
from evonb.store import read_dataset
from evonb.tasks.tasks import skill_task

pytestmark = pytest.mark.numerics

SPACE = ArraySpace([f"e{i}" for i in range(4)], 2)
SEARCHES = sorted(set(METHODS) - {"best-expert", "uniform", "sum", "scaled-sum", "greedy-soup"})
BUDGET = 50


def two_tasks(genomes):
    "Two conflicting peaks, with options, so that every method can run on it."
    out = []
    for g in genomes:
        q = np.stack([np.sin(np.arange(8) * k + 1) for k in range(1, 11)])  # (n_items, n_coefficients)
        tasks = {}
        for name, far in (("a", 1.0), ("b", 0.3)):
            m = 1.5 - np.square(q @ (g.ravel() - far)) / 4  # (n_items,)
            credit = (m > 0).astype(float)
            tasks[name] = TaskResult(float(credit.mean()), np.c_[m * 0, -m], credit)
        out.append(Outcome((tasks["a"].mean + tasks["b"].mean) / 2, tasks))
    return out


def make(name, seed=0):
    return METHODS[name](SPACE, None, Seeds(seed))


@pytest.fixture(scope="module")
def runs():
    return {name: evolve(make(name), two_tasks, BUDGET, show=False) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_contract(name, runs):
    r = runs[name]
    again = evolve(make(name), two_tasks, BUDGET, show=False)
    assert again.history.identical(r.history)  # bit for bit
    assert r.evaluations == int((r.history.number >= 0).sum()) <= BUDGET
    if name in SEARCHES:
        assert r.evaluations == BUDGET
        other = evolve(make(name, 1), two_tasks, BUDGET, show=False)
        assert not np.array_equal(other.history.digest.values, r.history.digest.values) or name == "coarse-to-fine"
    known = set(r.history.digest.values.ravel()) | {SPACE.digest(g) for g in SPACE.start()}
    if name != "genome+-released":  # its moved individuals are never scored
        assert {p for row in r.history.parents.values.ravel() for p in row.split()} <= known
    assert (np.diff(r.history.best) >= 0).all() and r.best.digest in known
    assert name in repr(r) and "<table>" in r._repr_html_()


class Killed(Exception):
    pass


def killed_after(n, asked):
    "An evaluation that dies when it is asked for more than n individuals; notes those it scored."
    left = [n]

    def evaluate(genomes):
        left[0] -= len(genomes)
        if left[0] < 0:
            raise Killed
        asked.extend(genomes)
        return two_tasks(genomes)

    return evaluate


@pytest.mark.parametrize("name", METHODS)
def test_kill_and_resume_anywhere(name, runs, tmp_path):
    whole, asked = runs[name], []
    for n in (1, 4, 3, 9, 2, 14, 60):  # each session scores n individuals more, then dies
        try:
            r = evolve(make(name), killed_after(n, asked), BUDGET, tmp_path, chunk=2, show=False)
            break
        except Killed:
            continue
    assert r.history.identical(whole.history)
    assert r.best.digest == whole.best.digest and np.array_equal(r.best.genome, whole.best.genome)
    assert [x.digest for x in r.population] == [x.digest for x in whole.population]
    assert [x.digest for x in r.front] == [x.digest for x in whole.front]
    assert len(asked) == whole.evaluations  # what was scored in an unfinished generation is kept
    assert read_dataset(tmp_path / "history.zarr.zip").digest.values.tolist() == whole.history.digest.values.tolist()


@pytest.mark.parametrize("dies_at", ["write_tensors", "drop_unfinished"])
def test_a_kill_within_the_last_save_leaves_the_history_and_nothing_unfinished(dies_at, runs, tmp_path, monkeypatch):
    whole = runs["random-search"]
    with monkeypatch.context() as m:
        place = search if dies_at == "write_tensors" else search.Evolution
        real = getattr(place, dies_at)

        def dying(*args):
            if (tmp_path / "history.zarr.zip").exists():  # the last save has begun
                raise Killed
            return real(*args)

        m.setattr(place, dies_at, dying)
        with pytest.raises(Killed):
            evolve(make("random-search"), two_tasks, BUDGET, tmp_path, chunk=2, show=False)
    assert (tmp_path / "unfinished.safetensors").exists()
    again = evolve(make("random-search"), two_tasks, BUDGET, tmp_path, chunk=2, show=False)
    assert again.history.identical(whole.history) and again.best.digest == whole.best.digest
    assert read_dataset(tmp_path / "history.zarr.zip").digest.values.tolist() == whole.history.digest.values.tolist()
    assert not (tmp_path / "unfinished.safetensors").exists()


@pytest.mark.parametrize("name", METHODS)
def test_all_equal(name):
    flat = lambda genomes: [Outcome(0.5, {"a": TaskResult(0.5), "b": TaskResult(0.5)}) for _ in genomes]
    r = evolve(make(name), flat, 30, show=False)
    assert r.best.value == 0.5


@pytest.mark.parametrize("name", METHODS)
def test_all_zero(name):
    zero = lambda genomes: [Outcome(0.0, {"a": TaskResult(0.0), "b": TaskResult(0.0)}) for _ in genomes]
    if "released" in name:
        with pytest.raises(InputError, match="released roulette divides"):
            evolve(make(name), zero, 30, show=False)
    else:
        assert evolve(make(name), zero, 30, show=False).best.value == 0


@pytest.mark.parametrize("name", METHODS)
def test_all_failed(name):
    failing = lambda genomes: [Outcome(np.nan, reason="out of memory") for _ in genomes]
    with pytest.raises(AllFailedError, match="out of memory"):
        evolve(make(name), failing, 30, show=False)


@pytest.mark.parametrize("name", METHODS)
def test_a_failed_individual_is_never_selected(name):
    seen = {}

    def half(genomes):
        out = []
        for g, found in zip(genomes, two_tasks(genomes)):
            fails = int(SPACE.digest(g), 16) % 3 == 0 and name not in ("sum", "uniform")
            seen[SPACE.digest(g)] = fails
            out.append(Outcome(np.nan, reason="timeout") if fails else found)
        return out

    r = evolve(make(name), half, BUDGET, show=False)
    failed = {d for d, bad in seen.items() if bad}
    h = r.history
    assert r.best.digest not in failed and not {x.digest for x in r.front} & failed
    assert set(h.digest.values[h.failed.values]) == failed and set(h.reason.values[h.failed.values]) <= {"timeout"}
    if name in ("genome", "genome-scaled", "genome+", "genome-released"):  # nor does it live on or have children
        assert not {x.digest for x in r.population} & failed
        crossed = h.parents.values[h.operator.values == "crossover"]
        assert not {p for row in crossed for p in row.split()} & failed


@pytest.mark.parametrize("name", SEARCHES)
def test_budget_is_never_exceeded(name):
    for budget in (1, 7, 23):
        asked = []
        evolve(make(name), killed_after(1000, asked), budget, show=False)
        assert len(asked) == budget


def sphere(genomes):
    target = np.linspace(-0.4, 1.2, 8).reshape(SPACE.shape)
    return [Outcome(-float(np.square(g - target).sum())) for g in genomes]


@pytest.mark.parametrize(
    ("name", "budget", "least"),
    [("cma", 600, -1e-4), ("differential-evolution", 1500, -2e-2), ("coarse-to-fine", 120, -1e-2),
     ("lorahub", 300, -0.5), ("es", 600, -1e-2), ("mezo", 600, -0.1), ("model-swarms", 1000, -3.0),
     ("genome", 1000, -1.5), ("genome+", 1000, -1.5)],
)
def test_reaches_the_top_of_a_sphere(name, budget, least):
    assert evolve(make(name), sphere, budget, show=False, measure_diversity=False).best.value > least


def along_the_sum(best):
    "Fitness that only the length of the sum of all experts decides; the best is `best` times it."
    return lambda genomes: [Outcome(-abs(float(g.mean()) - best) - float(g.std())) for g in genomes]


@pytest.mark.parametrize("best", [0.1, 0.3, 0.6, 1.0, 1.5])
def test_the_scaled_sum_finds_the_length_in_ten_evaluations(best):
    asked = []
    r = evolve(make("scaled-sum"), lambda gs: asked.extend(gs) or along_the_sum(best)(gs), BUDGET, show=False)
    assert r.evaluations == len(asked) == 10 and np.allclose(r.best.genome, best)
    assert all(np.ptp(g) == 0 for g in asked)  # one factor for all experts and groups
    short = evolve(make("scaled-sum"), along_the_sum(best), 3, show=False)
    assert short.evaluations == 3  # the budget counts it, too
    with pytest.raises(InputError, match="scales of 'scaled-sum'"):
        METHODS["scaled-sum"](SPACE, dict(scales=(1.0, -1.0)))


def test_a_free_scale_lets_genome_leave_the_hull_of_its_experts():
    quiet, names = dict(individual_rate=0.0), ("genome", "genome-scaled")
    hull, free = (evolve(make(n), along_the_sum(1.0), 600, show=False).best.genome for n in names)
    made = (METHODS[n](SPACE, quiet, Seeds(0)) for n in names)  # no mutation: what merges alone can reach
    merged, scaled = (evolve(m, along_the_sum(1.0), 600, show=False).best.genome for m in made)
    assert np.allclose(merged.sum(1), 1) and (scaled.sum(1) > 2.5).all()
    assert abs(free.sum() / 8 - 1) < abs(hull.sum() / 8 - 1)
    rigid = METHODS["genome-scaled"](SPACE, quiet | dict(spread=1.0), Seeds(0))
    assert np.allclose(evolve(rigid, along_the_sum(1.0), 100, show=False).best.genome.sum(1), 1)
    with pytest.raises(InputError, match="spread of 'genome-scaled'"):
        METHODS["genome-scaled"](SPACE, dict(spread=0.5))


def test_coarse_to_fine_beats_all_on_the_landscape():
    reached = {}
    for name in ("coarse-to-fine", "sum", "random-search", "best-expert", "cma", "genome"):
        lands = [SkillLandscape(s, n_groups=3) for s in range(3)]
        best = [evolve(METHODS[name](x.space, seeds=Seeds(1)), x, 60, show=False).best for x in lands]
        reached[name] = np.mean([x.accuracy(b.genome) for x, b in zip(lands, best)])
    assert max(reached, key=reached.get) == "coarse-to-fine"
    assert reached["coarse-to-fine"] > reached["best-expert"] + 0.2
    assert reached["coarse-to-fine"] > max(reached["sum"], reached["random-search"]) + 0.03


def test_without_margins_the_value_is_learned():
    land = SkillLandscape(0, n_groups=2)
    bare = lambda genomes: [Outcome(e.value) for e in land(genomes)]
    r = evolve(METHODS["coarse-to-fine"](land.space), bare, 80, show=False)
    assert np.isnan(r.history.smooth.values).all() and r.best.value >= bare([sum(land.space.start())])[0].value


def test_margins_and_objective():
    rng = np.random.default_rng(0)
    s, answers = rng.standard_normal((20, 3)), rng.integers(3, size=20)
    s[:5, 2], answers[:5] = np.nan, 1
    m = margins(s, answers)
    for row, a, got in zip(s, answers, log_right(m)):
        ok = row[~np.isnan(row)]
        assert np.isclose(got, row[a] - np.log(np.exp(ok).sum()))
    found = Outcome(0.5, {"x": TaskResult(0.5, s), "y": TaskResult(0.5, s[5:])})
    objective = Objective({"x": answers, "y": answers[5:]}, {"x": 3.0, "y": 1.0})
    assert np.isclose(objective.smooth(found), 0.75 * log_right(m).mean() + 0.25 * log_right(m[5:]).mean())
    assert np.isnan(Objective().smooth(found))  # three options and nobody says which is right
    credit = rng.integers(2, size=9).astype(float)
    inferred = Objective().smooth(Outcome(0.5, {"z": TaskResult(0.5, s[5:14, :2], credit)}))
    right = np.where(credit == 1, s[5:14, :2].argmax(1), s[5:14, :2].argmin(1))
    assert np.isclose(inferred, log_right(margins(s[5:14, :2], right)).mean())


def test_surrogate_gradients():
    rng = np.random.default_rng(0)
    live = rng.random((7, 2)) < 0.8
    live[:, 0] = True
    w = rng.dirichlet(np.ones(7))
    m = rng.standard_normal(14)
    value, slope = expected_log_right(m, (7, 2), live, w)
    assert np.isclose(value, w @ log_right(np.where(live, m.reshape(7, 2), np.nan)))
    near = [expected_log_right(m + h, (7, 2), live, w)[0] - expected_log_right(m - h, (7, 2), live, w)[0]
            for h in 1e-5 * np.eye(14)]
    assert np.allclose(slope, np.array(near) / 2e-5, atol=1e-8)
    X = rng.standard_normal((30, 4))
    y, _ = ItemSurrogate(X, np.c_[X.sum(1), np.sin(X).sum(1)])(X[3])
    assert np.allclose(y, [X[3].sum(), np.sin(X[3]).sum()], atol=0.02)


def test_released_faults_are_reproduced_and_ours_are_without():
    class Counted(ArraySpace):
        pass

    space, scored = Counted("abcd", 2), set()

    def evaluate(genomes):
        scored.update(space.digest(g) for g in genomes)
        return two_tasks(genomes)

    ours = METHODS["genome+"](space, None, Seeds(0))
    evolve(ours, evaluate, 80, show=False)
    assert {x.digest for x in ours.members} <= scored  # everybody was scored where he is
    assert any(not np.array_equal(x.memory["own"], x.genome) for x in ours.members if "own" in x.memory)
    for x in ours.members:
        assert np.isclose(x.value, two_tasks([x.genome])[0].value)
    assert ours.moves == sum(g % 2 for g in range(ours.generation))  # the step shrinks once a move

    scored.clear()
    theirs = METHODS["genome+-released"](space, None, Seeds(0))
    evolve(theirs, evaluate, 80, show=False)
    assert {x.digest for x in theirs.members} - scored  # moved, never scored: stale fitness
    assert theirs.moves > theirs.generation  # the step shrinks per individual
    assert METHODS["genome-released"](space, dict(population_size=9)).n_elite([]) == 0
    with pytest.raises(InputError, match="released roulette divides"):
        released_shares([0.0, 0.0])
    assert oracle_report([0.2, np.nan, 0.7]) == 0.7


def test_patience_and_time_and_stop(tmp_path):
    flat = lambda genomes: [Outcome(0.5) for _ in genomes]
    r = evolve(make("genome"), flat, 1000, patience=3, show=False)
    assert r.ended == "patience" and r.history.sizes["generation"] == 4
    r = evolve(make("genome"), flat, 10**6, max_seconds=0.2, show=False)
    assert r.ended == "time" and r.evaluations < 10**6
    with pytest.raises(InputError, match="Nothing was scored"):
        evolve(make("genome"), flat, 10, max_seconds=0, show=False)
    stop = StopRequest()

    def stopping(genomes):
        stop.set("the test")
        return two_tasks(genomes)

    with pytest.raises(Stopped, match="the test after 2 evaluations"):
        evolve(make("cma"), stopping, BUDGET, tmp_path, chunk=2, show=False, stop=stop)
    r = evolve(make("cma"), two_tasks, BUDGET, tmp_path, chunk=2, show=False)
    assert r.history.identical(evolve(make("cma"), two_tasks, BUDGET, show=False).history)


def test_time_out_then_resume_is_the_same(tmp_path, runs):
    for seconds in (0.1, 0.2):
        try:
            evolve(make("genome+"), two_tasks, BUDGET, tmp_path, chunk=1, max_seconds=seconds, show=False)
        except InputError:
            pass
    r = evolve(make("genome+"), two_tasks, BUDGET, tmp_path, chunk=1, show=False)
    assert np.array_equal(r.history.digest.values, runs["genome+"].history.digest.values)


def test_pareto_front_against_a_plain_loop(runs):
    scores = np.random.default_rng(0).random((60, 3)).round(1)
    dominated = [any((b >= a).all() and (b > a).any() for b in scores) for a in scores]
    front = scores[pareto_front(scores)]
    assert {tuple(s) for s in front} == {tuple(s) for s, d in zip(scores, dominated) if not d}
    assert len(front) == len({tuple(s) for s in front})
    assert runs["pareto"].front and not runs["genome"].front
    with pytest.raises(InputError, match="at least two"):
        evolve(make("pareto"), sphere, 40, show=False)


def test_greedy_soup_against_a_plain_loop(runs):
    experts = SPACE.start()
    value = lambda g: two_tasks([g])[0].value
    order = sorted(range(4), key=lambda i: (-value(experts[i]), i))
    kept = [order[0]]
    for i in order[1:]:
        trial = np.mean([experts[j] for j in kept + [i]], 0)
        if value(trial) >= value(np.mean([experts[j] for j in kept], 0)):
            kept.append(i)
    r = runs["greedy-soup"]
    top = value(np.mean([experts[j] for j in kept], 0))
    assert r.ended == "finished" and r.evaluations == 7 and np.isclose(r.best.value, max(top, *map(value, experts)))


def test_compare(tmp_path):
    table, results = compare_methods(["sum", "cma"], SPACE, two_tasks, 20, [0, 1], tmp_path, show=False)
    assert table.best.shape == (2, 2, 20) and (table.best.diff("evaluation") >= 0).all()
    assert table.evaluations.values.tolist() == [[1, 1], [20, 20]]
    assert np.array_equal(table.genome.sel(label="cma", seed=1), results["cma", 1].best.genome)
    never = lambda genomes: 1 / 0  # nothing is scored again
    again, _ = compare_methods(["sum", "cma"], SPACE, never, 20, [0, 1], tmp_path, show=False)
    assert again.identical(table)


@pytest.mark.parametrize("name", ["genome", "genome+", "genome+-released", "model-swarms", "greedy-soup", "es", "mezo"])
def test_whole_adapters_kill_and_resume(name, tmp_path):
    from evonb.populations.spaces import AdapterSpace
    from evonb.training.adapters import random_adapter

    space = AdapterSpace({f"e{i}": random_adapter({"h.0": (6, 5), "h.1": (6, 5)}, 2, Seeds(i)) for i in range(4)})

    def score(genomes):
        return [Outcome(9 - float((space.adapter(g).delta("h.0") - 1).square().mean())) for g in genomes]

    def new(): return METHODS[name](space, None, Seeds(0))

    whole, calls = evolve(new(), score, 40, show=False), []

    def dying(genomes):
        calls.append(len(genomes))
        if len(calls) % 7 == 6: raise Killed
        return score(genomes)

    for _ in range(20):
        try: r = evolve(new(), dying, 40, tmp_path, chunk=2, show=False)
        except Killed: continue
        break
    assert r.history.identical(whole.history) and r.best.digest == whole.best.digest


def test_right_options():
    class Item:
        def __init__(self, answer): self.answer = answer

    class Task:
        def __init__(self, name, kind, answers): self.name, self.kind, self.answers = name, kind, answers
        def items(self, split): return [Item(a) for a in self.answers if split == "validation"]

    tasks = [Task("a", "choice", [0, 2]), Task("b", "exact", ["x"]), Task("c", "pairs", [0])]
    assert {k: v.tolist() for k, v in right_options(tasks).items()} == {"a": [0, 2], "c": [0]}
    assert losses([np.nan, np.nan]) == [0.0, 0.0]


class Whole(ArraySpace):
    "Stands for a space of whole adapters."

    def __init__(self):
        super().__init__("abc")
        self.size = None


@pytest.mark.parametrize("name", METHODS)
def test_vectors_are_asked_for_where_needed(name):
    if METHODS[name].needs_vectors:
        with pytest.raises(InputError, match="Use a CoefficientSpace"):
            METHODS[name](Whole())
    else:
        flat = lambda gs: [Outcome(1.0, {"a": TaskResult(1.0), "b": TaskResult(1.0)}) for _ in gs]
        assert evolve(METHODS[name](Whole()), flat, 12, show=False).best.value == 1


@pytest.mark.parametrize("name", [n for n in METHODS if hasattr(METHODS[n].config_class(), "population_size")])
@pytest.mark.parametrize("size", [0, 1, -3])
def test_population_too_small(name, size):
    with pytest.raises(InputError, match="needs at least"):
        METHODS[name](SPACE, dict(population_size=size))


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="genome\\+-released"):
        method_class("simulated-annealing")
    with pytest.raises(InputError, match="unknown key 'sigmas'"):
        METHODS["cma"](SPACE, dict(sigmas=1))
    with pytest.raises(InputError, match="budget is 0"):
        evolve(make("cma"), two_tasks, 0, show=False)
    with pytest.raises(InputError, match="1 evaluations for"):
        evolve(make("cma"), lambda g: two_tasks(g[:1]), 20, show=False)
    m = make("genome")
    with pytest.raises(InputError, match="Call ask before tell"):
        m.tell([Outcome(1.0)])
    m.ask()
    with pytest.raises(InputError, match="0 evaluations for 10"):
        m.tell([])
    with pytest.raises(InputError, match="asked for and not told"):
        m.state()
    evolve(make("genome"), two_tasks, 20, tmp_path, show=False)
    with pytest.raises(StoreError, match="budget: 20 there, 30 asked"):
        evolve(make("genome"), two_tasks, 30, tmp_path, show=False)
    with pytest.raises(InputError, match="no expert"):
        ArraySpace([])
    with pytest.raises(InputError, match="at least two experts"):
        evolve(METHODS["genome"](ArraySpace(["one"])), sphere, 10, show=False)
    with pytest.raises(NotImplementedError, match="doesn't say how it proposes"):
        Method(SPACE).ask()


WRONG = [
    ("genome", dict(parents=1), "parents of 'genome' is 1, but must be 2 or more"),
    ("genome", dict(crossover_rate=2.0), "crossover_rate of 'genome' is 2.0, but must be from 0 to 1"),
    ("genome", dict(elite=-0.1), "elite of 'genome'"),
    ("genome", dict(selection="best"), "selection of 'genome' is 'best', but must be one of: roulette"),
    ("genome+", dict(phi=(0.2, 0.2)), "phi has 2 numbers"),
    ("genome+", dict(step=-1.0), "step of 'genome\\+'"),
    ("genome+-released", dict(start_size=1), "start_size"),
    ("model-swarms", dict(restart=0), "restart of 'model-swarms' is 0, but must be 1 or more"),
    ("random-search", dict(batch=0), "batch of 'random-search' is 0"),
    ("random-search", dict(distribution="normal"), "distribution of 'random-search'"),
    ("cma", dict(sigma=0.0), "sigma of 'cma'"),
    ("cma", dict(objective="loss"), "objective of 'cma' is 'loss', but must be one of: value, smooth"),
    ("lorahub", dict(bound=0.0), "bound of 'lorahub'"),
    ("lorahub", dict(start="sum", bound=0.5), "outside bound=0.5"),
    ("differential-evolution", dict(dither=(1.0, 0.5)), "dither is \\(1.0, 0.5\\)"),
    ("pareto", dict(low=2.0), "low is 2, but must be below high"),
    ("es", dict(sigma=0.0), "sigma of 'es' is 0.0, but must be"),
    ("es", dict(sigma=float("nan")), "sigma of 'es' is nan"),
    ("es", dict(population_size=7), "population_size is 7, but individuals of 'es' come in pairs"),
    ("es", dict(rank=3), "rank is 3, but coefficients is 2 x 4, so its rank is at most 2"),
    ("es", dict(decay=1.5), "decay of 'es'"),
    ("mezo", dict(learning_rate=-1.0), "learning_rate of 'mezo'"),
    ("sign-es", dict(rate=2.0), "rate of 'sign-es'"),
    ("coarse-to-fine", dict(coarse_boxes=(), fine_boxes=()), "both empty"),
    ("coarse-to-fine", dict(batch=0), "batch of 'coarse-to-fine'"),
]


@pytest.mark.parametrize("name, settings, said", WRONG)
def test_settings_that_cannot_work(name, settings, said):
    with pytest.raises(InputError, match=said):
        evolve(METHODS[name](SPACE, settings, Seeds(0)), two_tasks, 25, show=False)


def test_what_evaluate_gives_is_checked():
    with pytest.raises(InputError, match="Outcome\\(number\\)"):
        evolve(make("genome"), lambda gs: [0.5 for _ in gs], 20, show=False)
    with pytest.raises(InputError, match="1 evaluations for 10"):
        evolve(make("genome"), lambda gs: None, 20, show=False)
    with pytest.raises(InputError, match="max_seconds is -1"):
        evolve(make("genome"), two_tasks, 20, max_seconds=-1, show=False)


def test_other_experts_or_items_are_not_resumed(tmp_path):
    def two(names, seed):
        return dict(space=ArraySpace(names, 8 // len(names)), tasks=[skill_task(["agreement"], Seeds(seed), 4, 4)])

    def run(folder, space, tasks, score=two_tasks, chunk=None):
        method = METHODS["genome"](space, dict(population_size=4), Seeds(0))
        return evolve(method, score, 12, folder, tasks=tasks, chunk=chunk, show=False)

    run(tmp_path / "whole", **two("abcd", 0))
    with pytest.raises(StoreError, match="about.tasks"):
        run(tmp_path / "whole", **two("abcd", 1))
    with pytest.raises(StoreError, match="about.space"):
        run(tmp_path / "whole", **two("ab", 0))
    with pytest.raises(Killed):  # within the first generation
        run(tmp_path / "part", **two("abcd", 0), score=killed_after(2, []), chunk=1)
    with pytest.raises(StoreError, match="about.tasks"):
        run(tmp_path / "part", **two("abcd", 1), chunk=1)


def test_all_failed_then_mended(tmp_path):
    failing = lambda genomes: [Outcome(np.nan, reason="no memory") for _ in genomes]
    with pytest.raises(AllFailedError, match="no memory"):
        evolve(make("genome"), failing, 25, tmp_path, chunk=3, show=False)
    mended = evolve(make("genome"), two_tasks, 25, tmp_path, chunk=3, show=False)
    assert not mended.history.failed.any() and mended.history.identical(
        evolve(make("genome"), two_tasks, 25, chunk=3, show=False).history)


def test_the_front_is_stored(tmp_path):
    r = evolve(make("pareto"), two_tasks, 60, tmp_path, show=False)
    scores = r.history.score.values
    mine = {x.digest for x in r.front}
    stored = read_dataset(tmp_path / "history.zarr.zip")
    assert set(stored.digest.values[stored.front.values]) == mine and stored_history(tmp_path).identical(r.history)
    for score in scores[stored.front.values]:
        assert not ((scores >= score).all(-1) & (scores > score).any(-1)).any()
    assert "front" not in evolve(make("genome"), two_tasks, 20, show=False).history


def test_the_front_of_each_generation_is_that_of_all_and_compares_only_what_is_new(monkeypatch):
    compared, whole = [], pareto.pareto_front

    def counting(scores):
        compared.append(len(scores))
        return whole(scores)

    monkeypatch.setattr(pareto, "pareto_front", counting)
    method = make("pareto")
    for _ in range(12):
        asked = method.ask()
        method.tell([Outcome(np.nan, reason="no memory") if i == 3 else e
                     for i, e in enumerate(two_tasks([g for g, _ in asked]))])  # fmt: skip
        everyone = whole([[x.scores.get(t, np.nan) for t in "ab"] for x in method.members])
        assert [x.number for x in method.front()] == [method.members[i].number for i in everyone]
    assert len(method.members) > 200 and max(compared) < 100


def test_one_that_goes_back_is_a_child_of_its_own_best():
    rng = np.random.default_rng(0)
    drawn = lambda genomes: [Outcome(float(v)) for v in rng.random(len(genomes))]
    r = evolve(METHODS["model-swarms"](SPACE, dict(population_size=6, restart=1), Seeds(0)), drawn, 90, show=False)
    value = dict(zip(r.history.digest.values.ravel(), r.history.value.values.ravel()))
    parents, own = r.history.parents.values, {}
    for g, row in enumerate(r.history.digest.values):  # with restart=1 every move begins at the best of one's line
        for digest, parent in zip(row, parents[g]):
            own[digest] = max((digest, own.get(parent, digest)), key=value.get)
            assert g == 0 or own[parent] == parent


def test_an_individual_shows_itself_as_text():
    bad = "<img src=x onerror=alert(1)>"
    lineage = Lineage(("aaaa1111bbbb", "cccc2222dddd"), "crossover", generation=3)
    shown = Individual(None, lineage, "ffff" * 16, 7, .75, scores={bad: .5})._repr_html_()
    assert "crossover" in shown and "aaaa1111, cccc2222" in shown and ">0.750<" in shown and ">0.500<" in shown
    assert "<img" not in shown
    failed = Individual(None, lineage, "ffff" * 16, 7, reason=bad)._repr_html_()
    assert "failed: &lt;img" in failed and "<img" not in failed


# what is stored is written once, what isn't used isn't in memory


def whole_space():
    from evonb.populations.spaces import AdapterSpace
    from evonb.training.adapters import random_adapter

    return AdapterSpace({f"e{i}": random_adapter({"h.0": (6, 5), "h.1": (6, 5)}, 2, Seeds(i)) for i in range(4)})


def near_one(genomes):
    return [Outcome(9 - float((g.load().delta("h.0") - 1).square().mean())) for g in genomes]


@pytest.mark.parametrize("name", ["genome", "genome+", "genome+-released", "model-swarms", "greedy-soup", "es", "mezo"])
def test_genomes_in_files_are_the_same_genomes_also_after_kills(name, tmp_path):
    from evonb.populations.spaces import StoredAdapter, StoredSpace

    whole, calls = evolve(METHODS[name](whole_space(), None, Seeds(0)), near_one, 40, show=False), []

    def dying(genomes):
        calls.append(len(genomes))
        if len(calls) % 6 == 5:
            raise Killed
        return near_one(genomes)

    def run(evaluate, folder):
        space = StoredSpace(whole_space(), folder / "genomes", held_bytes=0)
        return evolve(METHODS[name](space, None, Seeds(0)), evaluate, 40, folder, chunk=2, show=False)

    for _ in range(20):
        try:
            r = run(dying, tmp_path / "killed")
        except Killed:
            continue
        break
    again = run(near_one, tmp_path / "plain")
    for other in (r, again):
        assert other.history.identical(whole.history) and other.best.digest == whole.best.digest
        assert [x.digest for x in other.population] == [x.digest for x in whole.population]
        assert other.best.genome.load().digest() == whole.best.digest
    files = [sorted(p.relative_to(f) for p in f.rglob("*")) for f in (tmp_path / "killed", tmp_path / "plain")]
    assert files[0] == files[1]  # nothing is left of what kills interrupted
    assert (tmp_path / "killed" / "rows.jsonl").read_bytes() == (tmp_path / "plain" / "rows.jsonl").read_bytes()
    last = run(lambda genomes: 1 / 0, tmp_path / "killed")
    assert all(isinstance(x.genome, StoredAdapter) for x in last.population)
    kept = {p.stem.partition("-")[0] for p in (tmp_path / "killed" / "genomes").iterdir()}
    assert {x.digest for x in last.population} <= kept


def test_a_missing_or_damaged_genome_is_named(tmp_path):
    from evonb.core import DamagedFileError
    from evonb.populations.spaces import StoredSpace

    def run(budget=20):
        space = StoredSpace(whole_space(), tmp_path / "genomes", held_bytes=0)
        return evolve(METHODS["genome"](space, None, Seeds(0)), near_one, budget, tmp_path, show=False)

    best = run().best.genome
    (path,) = (tmp_path / "genomes").glob(f"{best.digest()}*")
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedFileError, match=path.name):
        run().best.genome.load()
    path.unlink()
    with pytest.raises(DamagedFileError, match=f"{path.name} is missing.*resume"):
        run()


@pytest.mark.parametrize("name", ["random-search", "genome"])
def test_what_is_stored_grows_with_the_work_and_not_faster(name, tmp_path, monkeypatch):
    written = [0]
    tensors, line = search.write_tensors, search.append

    def count(path, *rest):
        tensors(path, *rest)
        written[0] += path.stat().st_size

    def count_line(path, data, at):
        written[0] += len(data)
        line(path, data, at)

    monkeypatch.setattr(search, "write_tensors", count)
    monkeypatch.setattr(search, "append", count_line)
    total = []
    for budget in (200, 400, 800):
        written[0] = 0
        config = dict(batch=5) if name == "random-search" else None
        evolve(METHODS[name](SPACE, config, Seeds(0)), sphere, budget, tmp_path / str(budget), show=False,
               measure_diversity=False)  # fmt: skip
        total.append(written[0])
    assert total[1] < 2.2 * total[0] and total[2] < 2.2 * total[1]


def test_rows_that_a_kill_left_half_written_do_not_count_and_damage_is_named(tmp_path, runs):
    from evonb.core import DamagedFileError

    asked = []
    with pytest.raises(Killed):
        evolve(make("genome"), killed_after(15, asked), BUDGET, tmp_path, chunk=2, show=False)
    rows = tmp_path / "rows.jsonl"
    whole = rows.read_bytes()
    assert len(stored_history(tmp_path).generation) >= 1
    rows.write_bytes(whole + b'{"rows": [{"gener')
    r = evolve(make("genome"), two_tasks, BUDGET, tmp_path, chunk=2, show=False)
    assert r.history.identical(runs["genome"].history)
    assert stored_history(tmp_path).value.equals(r.history.value)
    data = bytearray(rows.read_bytes())
    data[40] ^= 1
    rows.write_bytes(bytes(data))
    for read in (lambda: stored_history(tmp_path), lambda: evolve(make("genome"), two_tasks, BUDGET, tmp_path)):
        with pytest.raises(DamagedFileError, match="rows.jsonl is damaged"):
            read()


def test_states_of_before_in_one_file_are_resumed(tmp_path, runs):
    from evonb.evolution.method import pack_individuals
    from evonb.evolution.search import Evolution, stored_state
    from evonb.store import write_tensors

    def told_some(method):
        run = Evolution(method, two_tasks, BUDGET, tmp_path, chunk=2)
        for _ in range(2):
            method.tell(two_tasks([g for g, _ in method.ask()]))
            run.note(method.last)
        return run

    run = told_some(make("genome+"))
    run.about |= dict(tasks={}, weights={})
    tensors, values = run.method.state()
    kept, rows = pack_individuals(run.method.space, [run.best])
    meta = dict(settings=run.settings(), method=values, rows=run.rows, best=rows, diversity=run.diversity,
                without_gain=run.without_gain, seconds=1.0, ended="", front=[])  # fmt: skip
    write_tensors(tmp_path / "method.safetensors", tensors | {f"best|{k}": t for k, t in kept.items()}, meta)
    assert stored_state(tmp_path)[1] == json.loads(json.dumps(meta))
    assert stored_history(tmp_path).sizes["generation"] == 2
    r = evolve(make("genome+"), two_tasks, BUDGET, tmp_path, chunk=2, show=False)
    assert r.history.identical(runs["genome+"].history)


def test_diversity_of_a_large_population_is_near_that_over_all_pairs():
    from evonb.evolution.operators import diversity

    rng = np.random.default_rng(0)
    crowd = [rng.normal(size=SPACE.shape) * rng.uniform(0.5, 2) for _ in range(120)]
    pairs = [SPACE.distance(a, b) for i, a in enumerate(crowd) for b in crowd[:i]]
    assert abs(diversity(SPACE, crowd) / np.mean(pairs) - 1) < 0.05
    few = crowd[:21]
    exact = [SPACE.distance(a, b) for i, a in enumerate(few) for b in few[:i]]
    assert diversity(SPACE, few) == float(np.mean(exact))
    asked = []
    counting = type("Counting", (), dict(distance=lambda self, a, b: asked.append(1) or 1.0))()
    diversity(counting, list(range(200)))
    assert len(asked) == 2000
