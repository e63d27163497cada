"""The population explorer in a real JupyterLab and as a page from disk: what it shows is what the run holds."""

import math

import numpy as np
import pytest

from evonb.connectomes.breeding import WiringsConfig, breed_wirings
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.core import Seeds
from evonb.evolution.aims import AimsConfig
from evonb.evolution.archives import division_of, elites_of
from evonb.evolution.method import METHODS, Outcome, TaskResult
from evonb.evolution.operators import ArraySpace
from evonb.evolution.search import evolve
from evonb.plots import examples as plots_examples
from evonb.plots import population as pp
from evonb.plots.style import label
from evonb.report import example_population_run
from evonb.store import create_run, read_dataset
from evonb.text.tokens import CorpusConfig
from evonb.training.connectome import Connectome
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig
from evonb.widgets.population import Evolutions, PopulationExplorer, stored_genomes

EVIL = "<img src=x onerror=alert(1)>"
PEAKS = {"agreement": np.array([1.0, 0, 0]), f"order {EVIL}": np.array([0, 1.0, 0])}


def score(genomes):
    out = []
    for g in genomes:
        credit = {t: float(0.5 + 0.5 * np.exp(-np.square(g[0] - p).sum())) for t, p in PEAKS.items()}
        failed = g[0, 2] < -0.4
        out.append(Outcome(math.nan, {}, f"the loss is {EVIL}") if failed else
                   Outcome(np.mean(list(credit.values())), {t: TaskResult(v) for t, v in credit.items()}))
    return out


def make_run(path):
    "A small run that holds three real evolutions and no sealed test yet."
    space = ArraySpace(["a", "b", "c"])
    settings = dict(methods=["genome+", "cma"], n_seeds=2, budget=60, n_validation=200)
    with create_run(path, settings, "population") as run:
        for method, seed in (("genome+", 0), ("genome+", 1), ("cma", 0)):
            evolve(METHODS[method](space, None, Seeds(seed)), score, 60, run.file("evolve", method, f"seed-{seed}"),
                   show=False)  # fmt: skip
    return path


def history_of(run, method="genome+", seed=0):
    return read_dataset(run / "evolve" / method / f"seed-{seed}" / "history.zarr.zip")


def family_of(run, method="genome+", seed=0):
    "Individuals and their parents' places, by a plain walk over the stored history."
    everyone, last, parents = pp.individuals(history_of(run, method, seed)), {}, []
    for i, who in enumerate(everyone.id):
        parents.append([last[p] for p in everyone.parents[i] or (who,) if p in last])
        last[who] = i
    return everyone, parents


def with_two_parents(everyone, parents):
    return max(i for i, ps in enumerate(parents) if len(set(ps)) == 2 and everyone.operator[i] == "crossover")


def ancestors(parents, i):
    found, left = set(), [i]
    while left:
        for p in parents[left.pop()]:
            if p not in found:
                found.add(p)
                left.append(p)
    return found


def canvas_of(shown):
    return shown.view("tree").locator("canvas").first


def point(page, shown, i):
    "Where individual i stands on the page, as the canvas itself says."
    canvas = canvas_of(shown)
    canvas.scroll_into_view_if_needed()
    box, (x, y) = canvas.bounding_box(), canvas.evaluate("(e, i) => e.evonbPlace(i)", i)
    return box["x"] + x, box["y"] + y


def hover(page, shown, i):
    "Brings the mouse to individual i, until the canvas knows it."
    shown.point("tree", lambda: point(page, shown, i), lambda: told(shown)["hovered"] == str(i))


def click(page, shown, i):
    "Clicks individual i."
    shown.click("tree", lambda: point(page, shown, i), lambda: told(shown)["hovered"] == str(i))


def told(shown):
    return shown.canvas("tree")


def wait_for(page, shown, **wanted):
    "Until the canvas says so."
    names = {k: str(v) for k, v in wanted.items()}
    handle = canvas_of(shown).element_handle()
    page.wait_for_function("([e, w]) => Object.entries(w).every(([k, v]) => e.dataset[k] === v)", arg=[handle, names])


CELLS = ["from evonb.widgets.population import PopulationExplorer",
         "explorer = PopulationExplorer('population-run', 'genome+')\n"
         "clicks = []\nexplorer.observe(lambda change: clicks.append(change['new']), 'clicked')\nexplorer"]


def check_first(page, shown, everyone, parents):
    "Everybody is drawn, with every link; names are text."
    first, best = told(shown), pp.best_place(everyone)
    assert int(first["individuals"]) == len(everyone.id) == 60 and int(first["failed"]) == everyone.failed.sum() > 0
    assert int(first["edges"]) == sum(map(len, parents)) and int(first["chosen"]) == int(first["best"]) == best
    assert int(first["ancestors"]) == len(ancestors(parents, best))
    assert EVIL in shown.text("pareto")
    assert page.locator(".evonb-explorer img").count() == 0


def check_controls(page, shown, run, everyone, parents):
    "A control moved changes what is drawn to the right thing."
    shown.set("until", 3)
    wait_for(page, shown, until=3, individuals=int((everyone.generation <= 3).sum()))
    assert int(told(shown)["edges"]) == sum(len(p) for i, p in enumerate(parents) if everyone.generation[i] <= 3)
    shown.set("until", int(shown.control("until").get_attribute("max")))
    shown.set("colour", "agreement")
    wait_for(page, shown, colour="agreement")
    shown.ready()
    values, text = pp.task_values(history_of(run), "agreement"), shown.text("tree")
    assert f"validation score on agreement: {np.nanmin(values):.3f}" in text and f"{np.nanmax(values):.3f}" in text


def check_click(page, shown, run_until, run, everyone, parents):
    "A click chooses: parents and distances on the page, the id in Python."
    child = with_two_parents(everyone, parents)
    click(page, shown, child)
    wait_for(page, shown, chosen=child, parents=" ".join(map(str, parents[child])))
    text, genomes = shown.text("tree"), stored_genomes(run / "evolve" / "genome+" / "seed-0")
    for p in parents[child]:
        assert f"#{p} {everyone.id[p][:8]}" in text and f"{everyone.value[p]:.3f}" in text
        ids = everyone.id[child], everyone.id[p]
        if all(i in genomes for i in ids):
            assert f"{np.linalg.norm(genomes[ids[0]] - genomes[ids[1]]):.3f}" in text
    run_until(page, "print(explorer.individual)", everyone.id[child])
    run_until(page, "c = clicks[-1]; print(c['view'], c['number'], c['operator'], c['parents'])",
              f"tree {child} crossover {parents[child]}")  # fmt: skip


def check_other_evolutions(page, shown, run):
    "Another method has its own individuals, the choice falls back to its best, and a seed that isn't there is told."
    shown.set("method", "cma")
    shown.ready()
    others, _ = family_of(run, "cma")
    wait_for(page, shown, individuals=len(others.id), edges=0, chosen=pp.best_place(others), evolution="cma 0")
    assert "nobody has a parent" in shown.note("tree")
    points = [t for t in shown.plot("fitness")["data"] if t["name"] == str(others.operator[0])]
    assert sorted(points[0]["y"]) == pytest.approx(sorted(others.value[~others.failed]))
    shown.set("seed", 1)
    shown.ready("tree", "error")
    assert "no evolution of 'cma' with seed 1; its seeds are: 0" in shown.alert("tree")
    shown.set("method", "genome+")
    shown.ready()
    assert int(told(shown)["edges"]) == sum(map(len, family_of(run, seed=1)[1]))


def test_in_a_notebook(notebook_page, run_more, run_until, explorer, assert_accessible, screenshot, lab):
    run = make_run(lab.root / "population-run")
    page = notebook_page(CELLS)
    shown = explorer(page).ready()
    everyone, parents = family_of(run)
    check_first(page, shown, everyone, parents)
    check_controls(page, shown, run, everyone, parents)
    screenshot(shown.root, "population_notebook")
    check_click(page, shown, run_until, run, everyone, parents)
    run_more(page, "explorer.choose(5); print('done')")  # and Python chooses too
    wait_for(page, shown, chosen=5)
    assert f"#5 {everyone.id[5][:8]}" in shown.text("tree")
    check_other_evolutions(page, shown, run)
    assert_accessible(page, ".evonb-explorer")


def page_of(run, tmp_path):
    return PopulationExplorer(run, "genome+").to_html(
        tmp_path / "page.html", only=dict(task_x=["agreement"], task_y=[f"order {EVIL}"]))


def test_walking_by_keyboard(offline_page, explorer, tmp_path):
    run = make_run(tmp_path / "run")
    page = offline_page(page_of(run, tmp_path))
    shown = explorer(page).ready("tree")
    everyone, parents = family_of(run)
    children = [[c for c, ps in enumerate(parents) if i in ps] for i in range(len(everyone.id))]
    value = np.where(everyone.failed, -np.inf, everyone.value)
    at = with_two_parents(everyone, parents)
    click(page, shown, at)
    wait_for(page, shown, chosen=at)
    canvas = canvas_of(shown)
    canvas.focus()
    canvas.press("ArrowLeft")  # the better parent
    to = max(parents[at], key=lambda p: value[p])
    wait_for(page, shown, hovered=to, chosen=at)
    assert f"#{to} {everyone.id[to][:8]}" in shown.note("tree")
    canvas.press("ArrowRight")  # its best child
    best = max(children[to], key=lambda c: value[c])
    wait_for(page, shown, hovered=best)
    canvas.press("Enter")
    wait_for(page, shown, chosen=best, parents=" ".join(map(str, parents[best])),
             ancestors=len(ancestors(parents, best)))
    assert shown.control("individual").get_attribute("data-value") == str(best)  # the control follows
    canvas.press("Home")
    wait_for(page, shown, hovered=pp.best_place(everyone))
    founder = next(i for i, p in enumerate(parents) if not p and children[i])
    click(page, shown, founder)
    wait_for(page, shown, chosen=founder)
    canvas.press("Escape")
    canvas.press("ArrowLeft")
    page.wait_for_function("e => e.textContent.startsWith('No parent')",
                           arg=shown.view("tree").locator(".evonb-note").first.element_handle())  # fmt: skip
    _, rank = pp.family_places(everyone)
    row = [i for i in np.flatnonzero(everyone.generation == everyone.generation[founder]) if not parents[i]]
    row = sorted(row, key=lambda i: rank[i])
    key, to = ("ArrowDown", 1) if founder != row[-1] else ("ArrowUp", -1)
    canvas.press(key)  # a sibling: founders have none but each other
    wait_for(page, shown, hovered=row[row.index(founder) + to])
    canvas.press("+")
    page.wait_for_function("e => +e.dataset.zoom > 1.2", arg=canvas.element_handle())
    canvas.press("0")
    wait_for(page, shown, zoom="1.000")


def test_hover_zoom_and_pan(offline_page, explorer, tmp_path):
    run = make_run(tmp_path / "run")
    page = offline_page(page_of(run, tmp_path))
    shown = explorer(page).ready("tree")
    everyone, _ = family_of(run)
    failed = int(np.flatnonzero(everyone.failed)[0])
    hover(page, shown, failed)
    tip = shown.view("tree").locator(".evonb-tip").inner_text()
    assert f"failed: the loss is {EVIL}" in tip and f"generation {everyone.generation[failed]}" in tip
    shown.root.get_by_label("Zoom into the tree").click()
    shown.root.get_by_label("Zoom into the tree").click()
    page.wait_for_function("e => +e.dataset.zoom > 1.9", arg=canvas_of(shown).element_handle())
    before, (x, y) = told(shown), point(page, shown, failed)
    middle = canvas_of(shown).bounding_box()
    start = middle["x"] + middle["width"] / 2, middle["y"] + middle["height"] / 2
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 60, start[1] + 30, steps=4)
    page.mouse.up()
    page.wait_for_function("([e, x]) => e.dataset.panX !== x", arg=[canvas_of(shown).element_handle(), before["panX"]])
    moved = point(page, shown, failed)
    assert moved[0] - x == pytest.approx(60, abs=5) and moved[1] - y == pytest.approx(30, abs=5)
    assert told(shown)["chosen"] == before["chosen"]  # a drag chooses nobody
    shown.root.get_by_label("Show the whole tree").click()
    wait_for(page, shown, zoom="1.000", panX="0.0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_complete_run_from_disk(offline_page, explorer, assert_accessible, screenshot, tmp_path, scheme):
    run = example_population_run(tmp_path / "run", Seeds(5))
    made = PopulationExplorer(run, "genome")
    page = offline_page(made.to_html(tmp_path / "page.html"), color_scheme=scheme)
    shown = explorer(page).ready()
    rows = made.ask("methods").content["rows"]
    text = shown.text("methods")
    assert all(str(cell) in text for cell in rows[0])
    assert "keeps no individual's weights" in shown.text("tree") and "± " in shown.text("tree")
    votes = pp.of_method(made.evolutions.population, "cma-es").ensemble_test.sel(rule="vote").mean("seed").values
    shown.set("method", "cma-es")
    shown.ready()
    drawn = next(t for t in shown.plot("ensemble")["data"] if t["name"] == "vote")
    assert drawn["y"] == pytest.approx(votes.tolist())
    shown.set("method", "genome-plus")
    shown.ready()
    history = made.evolutions.history("genome-plus", 0)
    line = shown.plot("diversity")["data"][-1]
    assert line["y"] == pytest.approx(history.diversity.values.tolist())
    shown.set("task_x", "order").set("task_y", "order")
    shown.ready("pareto", "error")
    assert "Choose two different tasks" in shown.alert("pareto")
    shown.set("task_y", "agreement").ready()
    front = next(t for t in shown.plot("pareto")["data"] if t["name"] == "front")
    wanted = next(t for t in made.figure("pareto", method="genome-plus", task_x="order", task_y="agreement").data
                  if t.name == "front")
    assert front["x"] == pytest.approx(list(wanted.x)) and front["y"] == pytest.approx(list(wanted.y))
    shown.set("method", "genome").ready()
    assert_accessible(page)
    screenshot(page, f"population_{scheme}")
    page.set_viewport_size(dict(width=400, height=900))
    shown.ready()
    assert canvas_of(shown).bounding_box()["width"] <= 400
    screenshot(page, f"population_{scheme}_narrow")


def test_a_click_on_a_point_of_a_figure_chooses_its_individual(offline_page, explorer, tmp_path):
    history = plots_examples.example_history(Seeds(3))
    page = offline_page(PopulationExplorer(history).to_html(tmp_path / "page.html"))
    shown = explorer(page).ready()
    everyone = pp.individuals(history)
    i = int(np.nanargmin(everyone.value))
    name = label(str(everyone.operator[i]))
    shown.click_plot(
        "fitness",
        """(e, [name, i]) => {
        const of = t => Array.from(t.customdata ?? []);
        const t = e._fullData.findIndex(t => t.name === name && of(t).includes(i));
        const d = e.calcdata[t][of(e._fullData[t]).indexOf(i)];
        return [d.x, d.y]; }""",
        [name, i],
    )
    wait_for(page, shown, chosen=i)


def test_two_thousand_are_drawn_and_walked(offline_page, explorer, screenshot, tmp_path):
    history = plots_examples.example_history(Seeds(0), 50, 40, moves=True)
    page = offline_page(PopulationExplorer(history).to_html(tmp_path / "page.html"))
    shown = explorer(page).ready("tree")
    assert told(shown)["individuals"] == "2000"
    assert int(told(shown)["edges"]) == len(pp.family_edges(pp.individuals(history)))
    screenshot(shown.view("tree"), "population_tree_2000")


def test_an_archive_opens_who_holds_a_cell(offline_page, explorer, assert_accessible, screenshot, tmp_path):
    space = ArraySpace(["a", "b", "c"])
    run = lambda m: evolve(METHODS[m](space, None, Seeds(0)), score, 60, show=False, traits=("length", "balance"))
    found = {m: {0: run(m).history} for m in ("map-elites", "genome")}
    made = PopulationExplorer(Evolutions(found), "map-elites")
    page = offline_page(made.to_html(tmp_path / "page.html", only=dict(
        task_x=["length"], task_y=["fitness"], colour=["operator"])))  # fmt: skip
    shown = explorer(page).ready()
    held = {(h["row"], h["column"]): h["place"] for h in made.ask("archive").content["held"]}
    assert page.locator(".evonb-cell-held").count() == len(held) > 5
    best = pp.best_place(pp.individuals(found["map-elites"][0]))
    (row, column), place = next((cell, i) for cell, i in held.items() if i != best)
    page.locator(f'.evonb-cell-held[data-place="{place}"]').click()
    wait_for(page, shown, chosen=place)  # the tree shows its family
    other = next(c for c in held if c != (row, column))
    up, right = other[0] - row, other[1] - column
    keys = ["ArrowUp" if up > 0 else "ArrowDown"] * abs(up)
    for key in keys + ["ArrowRight" if right > 0 else "ArrowLeft"] * abs(right):
        page.keyboard.press(key)
    assert "length" in shown.note("archive") and "balance" in shown.note("archive")
    page.keyboard.press("Enter")
    wait_for(page, shown, chosen=held[other])
    assert_accessible(page)
    screenshot(page.locator(".evonb-cells-frame"), "population_archive")
    shown.set("method", "genome").ready()
    assert "keeps no archive" in shown.text("archive")


LIFE = LifetimeConfig(steps=4, batch_size=4, context=16, lr=4e-3, warmup=1, eval_every=4, eval_windows=8)


def breed_tiny(path):
    "A small run of wirings with an archive."
    return breed_wirings(path, WiringsConfig(
        ExperimentConfig("tiny", corpus=CorpusConfig("toy-english", n_bytes=80_000, vocab_size=300),
                         model=ModelConfig(2, 2, 32),
                         evolution=EvolutionConfig(2, 0.3, n_evolutions=1, lifetime=LIFE),
                         development=DevelopmentConfig(n_seeds=1, lrs=(4e-3,), test_windows=8, lifetime=LIFE)),
        methods=("map-elites",), points=(1.0,), n_individuals=4, tokens=13 * LIFE.n_tokens,
        aims=AimsConfig(descriptors=("density", "self_feedback"), cells=(4,))), show=False, workers=1)  # fmt: skip


def test_a_cell_of_wirings_opens_its_connectome(notebook_page, explorer, screenshot, assert_accessible, lab):
    run = breed_tiny(lab.root / "bred")
    page = notebook_page(["import evonb as ev\nev.explore('bred')"])
    shown = explorer(page).ready()
    history = read_dataset(run.file("evolve", "map-elites", "seed-0", "history.zarr.zip"))
    everyone = pp.individuals(history)
    place = next(i for i in elites_of(history, division_of(history)).values() if i != pp.best_place(everyone))
    page.locator(f'.evonb-cell-held[data-place="{place}"]').click()
    wait_for(page, shown, chosen=place)
    assert f"evonb explore 'bred::map-elites/0/{place}'" in shown.text("tree")
    page.get_by_role("button", name="Open its connectome").click()
    below = explorer(page, 1).ready("network")
    assert f"Individual #{place} of map-elites in bred" in below.root.inner_text()
    kept = Connectome.load(run.file("evolve", "map-elites", "seed-0", "lives", everyone.id[place][:20],
                                    "wiring.safetensors"))  # fmt: skip
    name = "transformer.h.0.attn.c_attn.weight"
    live = int((kept.signs[name] != 0).sum())
    below.set("layer", 0).ready("differences")
    assert f"{live:,}" in below.text("differences")
    screenshot(below.root, "population_wiring_below")
    screenshot(shown.root, "population_wiring")
    assert_accessible(page, ".evonb-explorer")
