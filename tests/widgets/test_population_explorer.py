"""The population explorer's replies against brute force over the history: families, scores, distances, errors."""

import itertools
import json
import math

import numpy as np
import pytest

from evonb.core import EvonbError, InputError, Seeds
from evonb.evolution.method import METHODS, Outcome, TaskResult
from evonb.evolution.operators import ArraySpace
from evonb.evolution.search import evolve
from evonb.plots import examples
from evonb.plots import population as pp
from evonb.plots.style import NothingToPlot
from evonb.populations.merges import distance
from evonb.populations.spaces import AdapterFiles, AdapterSpace, StoredSpace
from evonb.report import example_population_run
from evonb.store import create_run, read_dataset, write_dataset, write_json
from evonb.training.adapters import random_adapter
from evonb.widgets.explorer import Reply, packed
from evonb.widgets.population import (
    Evolutions,
    PopulationExplorer,
    distance_unit,
    genome_distance,
    kept_genomes,
    run_evolutions,
    share_se,
    stored_genomes,
)

EVIL = "<img src=x onerror=alert(1)>"
PEAKS = {"agreement": np.array([1.0, 0, 0]), f"order {EVIL}": np.array([0, 1.0, 0])}
SPACE = ArraySpace(["a", "b", "c"])


def score(genomes):
    "Two hills; whoever goes far to the negative side fails."
    out = []
    for g in genomes:
        if g[0, 2] < -0.4:
            out.append(Outcome(math.nan, {}, f"the loss is {EVIL}"))
            continue
        credit = {t: float(0.5 + 0.5 * np.exp(-np.square(g[0] - p).sum())) for t, p in PEAKS.items()}
        out.append(Outcome(np.mean(list(credit.values())), {t: TaskResult(v) for t, v in credit.items()}))
    return out


def make_run(path, evolutions=(("genome+", 0), ("genome+", 1), ("cma", 0)), **config):
    settings = dict(methods=["genome+", "cma"], n_seeds=2, budget=60, n_validation=200) | config
    with create_run(path, settings, "population") as run:
        for method, seed in evolutions:
            evolve(METHODS[method](SPACE, None, Seeds(seed)), score, 60, run.file("evolve", method, f"seed-{seed}"),
                   show=False)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("population") / "run")


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    return example_population_run(tmp_path_factory.mktemp("complete") / "run", Seeds(2))


@pytest.fixture(scope="module")
def explorer(run):
    return PopulationExplorer(run)


def arrays_of(reply: Reply):
    named = {name: a for (name, _), a in zip(reply.content["arrays"], reply.arrays)}
    n, n_tasks = reply.content["n"], len(reply.content["tasks"])
    return named | {k: named[k].reshape(n, n_tasks) for k in ("score", "se")}


def brute_edges(history):
    "Parents by a plain walk over the history's rows: (place of the parent as last scored before, place of the child)."
    last, out, rows = {}, [], []
    for g in range(history.sizes["generation"]):
        for i in range(history.sizes["individual"]):
            if str(history.digest.values[g, i]):
                rows.append((str(history.digest.values[g, i]), str(history.parents.values[g, i]).split()))
    for place, (who, parents) in enumerate(rows):
        for p in parents or [who]:
            if p in last:
                out.append((last[p], place))
        last[who] = place
    return sorted(out), rows


@pytest.mark.parametrize("method,seed", [("genome+", 0), ("genome+", 1), ("cma", 0)])
def test_edges_are_the_historys_parents(explorer, method, seed):
    reply = explorer.ask("tree", method=method, seed=seed)
    a = arrays_of(reply)
    drawn = [(int(p), i) for i in range(reply.content["n"]) for p in a["parent"][a["start"][i] : a["start"][i + 1]]]
    wanted, rows = brute_edges(explorer.evolutions.history(method, seed))
    assert sorted(drawn) == wanted and reply.content["n"] == len(rows) == 60
    assert bool(wanted) == (method == "genome+")
    ids = bytes(reply.arrays[-1]).decode().split("\n")
    assert all(who.startswith(i) for i, (who, _) in zip(ids, rows)) and len(set(ids)) == len({w for w, _ in rows})


def test_individuals_carry_what_the_history_says(explorer):
    history, reply = explorer.evolutions.history("genome+", 0), explorer.ask("tree", method="genome+", seed=0)
    a, born = arrays_of(reply), history.digest.values.ravel() != ""
    value = history.value.values.ravel()[born]
    np.testing.assert_array_equal(a["value"], value.astype(np.float32))
    failed = history.failed.values.ravel()[born]
    assert failed.any() and np.array_equal(np.isnan(a["value"]), failed)
    reasons = [reply.content["reasons"][r] for r in a["reason"]]
    assert reasons == history.reason.values.ravel()[born].tolist() and f"the loss is {EVIL}" in reasons
    names = [reply.content["operators"][o]["name"] for o in a["operator"]]
    assert names == history.operator.values.ravel()[born].tolist()
    assert {"crossover", "mutation", "succession"} <= set(names)
    for o in reply.content["operators"]:
        assert o["count"] == names.count(o["name"])
    assert reply.content["best"] == int(np.nanargmax(value))
    np.testing.assert_array_equal(a["score"], history.score.values.reshape(-1, 2)[born].astype(np.float32))
    for g in np.unique(a["generation"]):  # ranks: 0, 1, ... and never a better one below a worse one
        at = np.flatnonzero(a["generation"] == g)
        by_rank = np.nan_to_num(value[at[np.argsort(a["rank"][at])]], nan=-np.inf)
        assert sorted(a["rank"][at]) == list(range(len(at))) and all(np.diff(by_rank) <= 0)


def test_distances_are_those_of_the_stored_weights(explorer, run):
    reply = explorer.ask("tree", method="genome+", seed=1)
    a, genomes = arrays_of(reply), stored_genomes(run / "evolve" / "genome+" / "seed-1")
    _, rows = brute_edges(explorer.evolutions.history("genome+", 1))
    assert {SPACE.digest(g) for g in genomes.values()} == set(genomes) and 2 < len(genomes) < 60
    best, known = rows[reply.content["best"]][0], 0
    for i, (who, _) in enumerate(rows):
        assert a["kept"][i] == (who in genomes)
        for k in range(a["start"][i], a["start"][i + 1]):
            parent = rows[a["parent"][k]][0]
            if who in genomes and parent in genomes:
                wanted = math.sqrt(sum((x - y) ** 2 for x, y in zip(genomes[who].ravel(), genomes[parent].ravel())))
                assert a["parent_distance"][k] == pytest.approx(wanted, abs=1e-6)
                known += 1
            else:
                assert math.isnan(a["parent_distance"][k])
        if who in genomes:
            assert a["best_distance"][i] == pytest.approx(np.linalg.norm(genomes[who] - genomes[best]), abs=1e-6)
        else:
            assert math.isnan(a["best_distance"][i])
    assert known and reply.content["distance"] == "distance of coefficients (Euclidean)"
    assert f"weights of {len(set(genomes) & {w for w, _ in rows})} of" in reply.content["weights"]
    everything = explorer.ask("tree", method="cma", seed=0)  # keeps all it asked for
    assert everything.content["weights"] == "" and arrays_of(everything)["kept"].all()


def test_adapters_are_compared_by_their_delta(tmp_path):
    shapes = {"h.0.mlp": (6, 5), "h.1.mlp": (5, 6)}
    experts = {n: random_adapter(shapes, 2, Seeds(3).child(n)) for n in "ab"}
    space = AdapterSpace(experts)
    value = lambda g: Outcome(1 / (1 + distance(g, experts["a"])), {})  # noqa: E731
    with create_run(tmp_path / "run", {}, "population") as run:
        method = METHODS["genome"](space, dict(population_size=4), Seeds(0))
        folder = run.file("evolve", "genome", "seed-0")
        result = evolve(method, lambda gs: list(map(value, gs)), 20, folder, show=False)
    found = stored_genomes(folder)
    assert {g.digest() for g in found.values()} == set(found) and result.best.digest in found
    reply = PopulationExplorer(tmp_path / "run").ask("tree")
    a, ids = arrays_of(reply), bytes(reply.arrays[-1]).decode().split("\n")
    full = lambda g: np.concatenate([g.delta(m).numpy().ravel() for m in sorted(shapes)])  # noqa: E731
    best = next(w for w in found if w.startswith(ids[reply.content["best"]]))
    for who, g in found.items():
        places = [i for i, short in enumerate(ids) if who.startswith(short)]
        for i in places:
            wanted = np.linalg.norm(full(g) - full(found[best]))
            assert a["best_distance"][i] == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert reply.content["distance"] == "distance of ΔW (Frobenius norm)" and a["score"].shape[1] == 0


def test_adapters_in_files_share_one_bound_on_memory(tmp_path, monkeypatch):
    experts = {n: random_adapter({"h.0": (6, 5)}, 2, Seeds(3).child(n)) for n in "abc"}
    space = StoredSpace(AdapterSpace(experts), tmp_path / "genomes")
    evolve(METHODS["genome"](space, None, Seeds(0)), lambda gs: [Outcome(g.load().norm()) for g in gs], 20, tmp_path,
           show=False)  # fmt: skip
    made = []
    small = lambda folder: made.append(AdapterFiles(folder, experts["a"].nbytes)) or made[-1]  # noqa: E731
    monkeypatch.setattr("evonb.populations.spaces.AdapterFiles", small)
    found = stored_genomes(tmp_path)
    assert len(found) > 5 and all(g.load().digest() == who for who, g in found.items())
    assert len(made) == 1 and made[0]._size <= experts["a"].nbytes
    kept, (a, b, *_) = kept_genomes(tmp_path), found  # what the explorer reads, without torch
    assert genome_distance(kept[a], kept[b]) == pytest.approx(genome_distance(found[a], found[b]), rel=1e-6)
    assert genome_distance(kept[a], kept[a]) == 0 and distance_unit(kept[a]) == distance_unit(found[a])


def test_standard_errors_are_those_of_the_items(complete):
    rng = np.random.default_rng(0)
    credit = (rng.random(150) < 0.7).astype(float)
    assert share_se(credit.mean(), 150) == pytest.approx(credit.std(ddof=1) / math.sqrt(150))
    assert np.isnan(share_se([1.2, -3.0], 100)).all() and np.isnan(share_se(0.5, 1)) and np.isnan(share_se(0.5, None))
    explorer = PopulationExplorer(complete, "genome")
    reply, a = explorer.ask("tree"), arrays_of(explorer.ask("tree"))
    assert [t["n"] for t in reply.content["tasks"]] == [200, 200] and reply.content["chance"] == 0.5
    i = reply.content["best"]
    se = [math.sqrt(p * (1 - p) / 199) for p in a["score"][i].tolist()]
    assert a["se"][i] == pytest.approx(se, rel=1e-5)
    assert a["value_se"][i] == pytest.approx(math.hypot(*se) / 2, rel=1e-5)
    assert "keeps no individual's weights" in reply.content["weights"] and reply.content["distance"] == ""


def test_every_view_replies_and_figures_follow_the_controls(complete):
    explorer = PopulationExplorer(complete, "genome")
    for view in explorer.views:
        json.dumps(explorer.ask(view).content, allow_nan=False)
    history = explorer.evolutions.history("genome-plus", 0)
    points = explorer.figure("fitness", method="genome-plus", colour="order").data
    drawn = {int(i): y for t in points if t.customdata is not None for i, y in zip(t.customdata, t.y)}
    value = history.value.values.ravel()
    assert len(drawn) == value.size
    assert all(y == value[i] for i, y in drawn.items() if np.isfinite(value[i]))
    pareto = explorer.figure("pareto", method="genome-plus", task_x="order", task_y="agreement")
    front = next(t for t in pareto.data if t.name == "front")
    pairs = [p for p in history.score.values.reshape(-1, 2)[:, ::-1].tolist() if np.isfinite(p).all()]
    beaten = lambda p: any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in pairs)  # noqa: E731
    assert sorted(map(list, zip(front.x, front.y))) == sorted(p for p in pairs if not beaten(p))
    diversity = explorer.figure("diversity", method="genome-plus").data[-1]
    assert np.array_equal(diversity.y, history.diversity)
    shown = explorer.figure("map", method="genome-plus").data[0]
    place = np.asarray(shown.customdata)[0]
    np.testing.assert_array_equal(np.asarray(shown.z).T, history.score.values.reshape(-1, 2)[place])
    ensemble = explorer.figure("ensemble", method="cma-es")
    votes = pp.of_method(explorer.evolutions.population, "cma-es").ensemble_test.sel(rule="vote").mean("seed")
    assert next(t for t in ensemble.data if t.name == "vote").y == pytest.approx(votes.values)
    assert explorer.figure("tree").data == pp.family_tree(explorer.evolutions.history("genome", 0)).data


def test_the_table_of_methods_is_the_summary(complete):
    explorer = PopulationExplorer(complete, "genome")
    content, summary = explorer.ask("methods").content, explorer.evolutions.summary
    best = max(summary["methods"], key=lambda m: summary["methods"][m]["test"]["mean"])
    assert content["rows"][0][0] == best and content["rows"][content["picked"]][0] == "genome"
    v = summary["methods"][best]["test"]
    assert content["rows"][0][2] == f"{v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]"
    assert content["columns"][2] == "test [95 % interval]"
    d = summary["methods"][best]["versus"]["best-expert"]
    told = f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}], p = {d['p_adjusted']:.2g}"
    assert content["rows"][0][3] == told and "corrected for" in content["note"]


def test_a_search_in_progress_shows_what_is_there(run, tmp_path):
    explorer = PopulationExplorer(run)
    text = explorer.ask("about").content["text"]
    assert "sealed test hasn't been opened" in text and "Not begun: cma with seed 1." in text and "--resume" in text
    assert not {"test", "methods", "ensemble"} & set(explorer.views)
    path = make_run(tmp_path / "cut", [("genome+", 0)])
    history = path / "evolve" / "genome+" / "seed-0" / "history.zarr.zip"
    before = PopulationExplorer(path).ask("tree")
    history.unlink()  # an evolution under way has only its state
    after = PopulationExplorer(path).ask("tree")
    assert before.content == after.content and all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
                                                   for x, y in zip(before.arrays[:-1], after.arrays[:-1]))  # fmt: skip
    history.write_bytes(b"half")
    with pytest.raises(EvonbError, match="history.zarr.zip is damaged"):
        PopulationExplorer(path)


def test_an_evolution_under_way_says_how_far_it_is():
    history = examples.example_history(Seeds(0)).assign_attrs(method="genome", budget=400, ended="")
    explorer = PopulationExplorer(history)
    assert "under way: 168 of 400 evaluations" in explorer.ask("about").content["text"]
    assert explorer.values["method"] == "genome" and "test" not in explorer.views


def test_what_holds_no_population_is_refused_by_name(tmp_path):
    for kind, says in (("connectome", "holds no population.*evonb population EXPERTS"),
                       ("experts", "holds no population.*evonb population .*experts")):  # fmt: skip
        with create_run(tmp_path / kind, {}, kind):
            pass
        with pytest.raises(InputError, match=f"of kind '{kind}'.*{says}"):
            PopulationExplorer(tmp_path / kind)
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        PopulationExplorer(tmp_path)
    with create_run(tmp_path / "empty", {}, "population"):
        pass
    with pytest.raises(InputError, match="holds no evolution yet.*evonb population --resume"):
        PopulationExplorer(tmp_path / "empty")
    with pytest.raises(InputError, match="no history of an evolution"):
        PopulationExplorer(examples.example_population(Seeds(0)))
    with pytest.raises(InputError, match="Got int"):
        PopulationExplorer(7)


def test_unknown_names_list_those_allowed(explorer, run):
    for wrong, says in ((dict(method="nothing"), "'genome\\+', 'cma'"), (dict(seed=9), "0, 1"),
                        (dict(colour="loss"), "'operator', 'fitness'"), (dict(until=1000), "0, 1, 2"),
                        (dict(individual=60), "must be one of: -1, 0"), (dict(task_x="none"), "'agreement'")):
        with pytest.raises(InputError, match=says):
            explorer.set(**wrong)
    with pytest.raises(InputError, match="no evolution of 'cma' with seed 1; its seeds are: 0"):
        explorer.ask("tree", method="cma", seed=1)
    with pytest.raises(InputError, match="Choose two different tasks"):
        explorer.ask("pareto", task_x="agreement", task_y="agreement")
    with pytest.raises(InputError, match="no evolution of 'x'; there are: genome\\+, cma"):
        PopulationExplorer(run, method="x")
    with pytest.raises(InputError, match="its seeds are: 0, 1"):
        PopulationExplorer(run, method="genome+", seed=5)
    for wrong in ("zzz", 60, -2, ""):
        with pytest.raises(InputError, match="place from 0 to 59"):
            explorer.choose(wrong)


def test_the_chosen_individual_is_known_by_its_id(run):
    explorer = PopulationExplorer(run, "genome+", 1)
    everyone = pp.individuals(explorer.evolutions.history("genome+", 1))
    best = pp.best_place(everyone)
    assert explorer.individual == everyone.id[best]
    explorer.choose(11)
    assert explorer.individual == everyone.id[11] and explorer.values["individual"] == 11
    place = list(everyone.id).index(everyone.id[30])
    assert explorer.choose(str(everyone.id[30])[:12]).individual == everyone.id[place]
    explorer.clicked = dict(view="tree", number=5)  # as the page reports it, before the control follows
    assert explorer.individual == everyone.id[5]
    explorer.set(method="cma", seed=0)
    assert explorer.individual in explorer.evolutions.history("cma", 0).digest.values
    explorer.choose("best")
    assert explorer.values["individual"] == -1


def test_one_task_leaves_the_views_of_two_out(tmp_path):
    history = examples.example_history(Seeds(4)).isel(task=[0])
    explorer = PopulationExplorer(history.assign(value=history.score.isel(task=0)))
    assert not {"pareto", "profiles"} & set(explorer.views) and "task_x" not in explorer.controls
    assert "one task" in explorer.ask("about").content["text"]


def test_when_all_failed_there_is_no_best():
    history = examples.example_history(Seeds(4))
    history = history.assign(value=history.value * math.nan, score=history.score * math.nan)
    explorer = PopulationExplorer(history)
    reply = explorer.ask("tree")
    assert reply.content["best"] == -1 and np.isnan(arrays_of(reply)["value"]).all() and explorer.individual == ""
    with pytest.raises(NothingToPlot, match="All individuals failed"):
        explorer.figure("tree")


def test_two_thousand_travel_compactly():
    large = examples.example_history(Seeds(1), 50, 40, moves=True)
    assert large.identical(examples.example_history(Seeds(1), 50, 40, moves=True))
    made = set(large.operator.values.ravel())
    assert made == {"expert", "crossover", "mutation", "succession"} and large.failed.any()
    reply = PopulationExplorer(large).ask("tree")
    a = arrays_of(reply)
    assert reply.content["n"] == 2000 and len(a["parent"]) > 2000
    assert a["parent"].dtype == np.int32 and a["operator"].dtype == np.uint8 and a["value"].dtype == np.float32
    assert sum(map(len, packed(reply))) < 100_000


def test_names_stay_text_in_page_and_figures(run):
    explorer = PopulationExplorer(run)
    page = explorer.to_html(only=dict(method=["genome+"], seed=[0], task_x=["agreement"], task_y=[f"order {EVIL}"]))
    assert "onerror" in page and "<img" not in page  # in the stored data, escaped
    for view in ("fitness", "pareto", "profiles", "map"):
        told = json.dumps(explorer.figure(view).to_plotly_json(), default=str)
        assert "<img" not in told, view
    odd = Evolutions({EVIL: {0: examples.example_history(Seeds(0))}}, name=EVIL)
    assert "<img" not in PopulationExplorer(odd).to_html()


def test_replies_are_the_same_bit_for_bit(run):
    one, two = (PopulationExplorer(run) for _ in range(2))
    for view in one.views:
        assert one.ask(view).content == two.ask(view).content and packed(one.ask(view)) == packed(two.ask(view))


def test_a_run_with_other_seeds_by_method_keeps_its_order(run):
    evolutions = run_evolutions(run)
    assert evolutions.all() == [("genome+", 0), ("genome+", 1), ("cma", 0)]
    sizes = [evolutions.history(m, s).sizes["generation"] for m, s in evolutions.all()]
    explorer = PopulationExplorer(run)
    assert [v for v, _ in explorer.controls["until"].options] == list(range(max(sizes)))
    assert [v for v, _ in explorer.controls["individual"].options] == list(range(-1, 60))


def test_stored_files_read_as_they_were_written(tmp_path):
    history = examples.example_history(Seeds(6))
    with create_run(tmp_path / "run", dict(methods=["genome"]), "population") as made:
        write_dataset(made.file("evolve", "genome", "seed-3", "history.zarr.zip"), history)
        write_json(made.file("summary.json"), dict(kind="population", ci=0.95, n_seeds=1, tasks=[], methods={}))
    explorer = PopulationExplorer(tmp_path / "run")
    assert explorer.values["seed"] == 3 and explorer.values["method"] == "genome"
    stored = read_dataset(tmp_path / "run" / "evolve" / "genome" / "seed-3" / "history.zarr.zip")
    wanted, _ = brute_edges(stored)
    a = arrays_of(explorer.ask("tree"))
    pairs = itertools.chain.from_iterable(
        [(int(p), i) for p in a["parent"][a["start"][i] : a["start"][i + 1]]] for i in range(len(a["value"])))
    assert sorted(pairs) == wanted
