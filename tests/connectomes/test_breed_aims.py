"""Objectives and descriptors of bred wirings: what each is, fronts and archives, kill and resume, bad input refused."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_breed import LIFE, TINY

from evonb.connectomes.breeding import breed_wirings, check_density, find_way, founding_densities, wirings_command
from evonb.connectomes.graph import wiring_graph
from evonb.connectomes.settings import preset
from evonb.connectomes.statistics import STATISTICS
from evonb.core import ConnectomeError, InputError, Stopped, StopRequest, listening
from evonb.evolution.aims import AimsConfig
from evonb.evolution.archives import division_of, elites_of, measured
from evonb.evolution.methods.pareto import pareto_front
from evonb.evolution.search import stored_state
from evonb.plots.population import individuals
from evonb.report import report_html
from evonb.store import read_dataset, read_json
from evonb.training.gpt import GPT, GPTConfig
from evonb.widgets.explorers import explore, explore_pages
from evonb.widgets.population import PopulationExplorer, genome_distance, kept_genomes, stored_genomes

LONG = replace(LIFE, context=24)
AIMED = replace(
    TINY, methods=("generational", "pareto-bred", "niches"), n_individuals=4, halving=(), points=(1.0,),
    tokens=11 * LONG.n_tokens, aims=AimsConfig(("loss", "density", "reading"), None, ("skill:agreement",), (4,)),
    experiment=replace(TINY.experiment, evolution=replace(TINY.experiment.evolution, lifetime=LONG)))  # fmt: skip
BOTH = replace(AIMED, methods=("map-elites",), tokens=10 * LONG.n_tokens,
               aims=AimsConfig(descriptors=("density", "self_feedback"), cells=(4,)))  # fmt: skip


def history(run, method):
    return read_dataset(run.file("evolve", method, "seed-0", "history.zarr.zip"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return breed_wirings(tmp_path_factory.mktemp("aims") / "run", AIMED, show=False, workers=1)


def test_a_front_is_that_of_the_scores(whole):
    found = history(whole, "pareto-bred")
    objectives = json.loads(found.attrs["objectives"])
    assert objectives == ["loss", "density", "reading"] and json.loads(found.attrs["lower"]) == ["loss", "density"]
    scores = measured(found, objectives) * [-1, -1, 1]
    here = found.digest.values.ravel() != ""
    assert set(np.flatnonzero(found.front.values.ravel()[here])) == set(pareto_front(scores))
    assert np.allclose(scores[:, 0], found.value.values.ravel()[here], equal_nan=True)
    assert np.isfinite(scores).all() and len(set(scores[:, 1].round(3))) > 2 and np.ptp(scores[:, 2]) > 0
    low, high = AIMED.span
    assert (-scores[:, 1] >= 0.95 * low).all() and (-scores[:, 1] <= 1.05 * high).all()


def test_other_ways_are_measured_too_so_that_all_can_be_drawn_together(whole):
    assert np.isfinite(measured(history(whole, "generational"), ["reading", "density", "skill:agreement"])).all()


def test_niches_share_the_items_of_the_task_alone(whole):
    assert set(history(whole, "niches").task.values) == {"loss", "reading", "skill:agreement"}
    tensors, _ = stored_state(whole.path / "evolve/niches/seed-0")
    assert {len(t) for k, t in tensors.items() if k.endswith("|credit|")} == {200}
    for p in whole.path.glob("evolve/niches/seed-0/lives/*/outcome.json"):
        told = read_json(p)["scores"]
        assert len(told["skill:agreement"]["credit"]) == 200 and told["loss"]["credit"] is None
        assert np.mean(told["skill:agreement"]["credit"]) == pytest.approx(told["skill:agreement"]["mean"])


def test_the_report_shows_front_and_the_command_makes_the_same_run(whole):
    page = report_html(whole)
    assert "<h2>The front</h2>" in page and "<h2>The archive</h2>" not in page
    preset_like = replace(AIMED, experiment=preset("demo"), tokens=None)
    words = wirings_command(preset_like)
    assert '--set=aims.objectives=["loss", "density", "reading"]' in words and "--set=aims.cells=[4]" in words


def test_what_is_compared_with_other_ways_is_no_denser_than_they_are(whole):
    found = read_dataset(whole.file("wirings.zarr.zip"))
    assert (found.density <= 1.01 * AIMED.density).all() and np.isfinite(found.test_window_loss).all()


def test_stopped_anywhere_and_resumed_it_finds_the_same(whole, tmp_path):
    for n in (9, 50):
        stop, left = StopRequest(), [n]

        def hear(kind, values, left=left, stop=stop):
            left[0] -= kind == "step"
            if left[0] < 0:
                stop.set("the test")

        with pytest.raises(Stopped), listening(hear):
            breed_wirings(tmp_path / "run", AIMED, resume=True, show=False, stop=stop, workers=1)
    run = breed_wirings(tmp_path / "run", AIMED, resume=True, show=False, workers=1)
    for m in AIMED.methods:
        one, two = history(run, m), history(whole, m)
        assert one.drop_attrs().identical(two.drop_attrs()) and one.attrs.get("archive") == two.attrs.get("archive")


def test_a_statistic_of_the_graph_divides_an_archive(tmp_path):
    run = breed_wirings(tmp_path / "run", BOTH, show=False, workers=1)
    found = history(run, "map-elites")
    axes = division_of(found).axes
    assert [a.name for a in axes] == ["density", "self_feedback"] and axes[0][1:3] == BOTH.span
    own, genomes = measured(found, ["self_feedback"])[:, 0], stored_genomes(run.path / "evolve/map-elites/seed-0")
    ids = [d for d in found.digest.values.ravel() if d]
    for digest, genome in genomes.items():
        wanted = STATISTICS["self_feedback"](wiring_graph(genome.connectome).edges)
        assert own[ids.index(digest)] == pytest.approx(wanted)
    assert len(genomes) >= len(elites_of(found, division_of(found))) > 1
    assert "<h2>The archive</h2>" in (page := report_html(run)) and "<h2>The front</h2>" not in page
    assert division_of(found).offset == -math.log(300)  # a QD score counts from chance
    opens_as_a_connectome(run, found)


def opens_as_a_connectome(run, found):
    everyone = individuals(found)
    child = next(i for i, p in enumerate(everyone.parents) if p)
    shown = explore(f"{run.path}::map-elites/0/{child}")
    assert [*shown.source.wirings][:2] == [f"#{child}", "what it handed on"] and len(shown.source.wirings) > 2
    kept, name = stored_genomes(run.path / "evolve/map-elites/seed-0"), "transformer.wte.weight"
    held = next(i for i, d in enumerate(everyone.id) if d in kept)
    mine = explore(f"{run.path}::{everyone.id[held][:12]}")
    wanted = kept[everyone.id[held]].connectome.signs[name]
    assert np.array_equal(mine.signs(next(iter(mine.source.wirings)), name), wanted)
    looked, (a, b, *_) = kept_genomes(run.path / "evolve/map-elites/seed-0"), kept  # as the explorer reads them
    far = genome_distance(kept[a], kept[b])
    assert far > 0 and genome_distance(looked[a], looked[b]) == pytest.approx(far)
    from_tree = PopulationExplorer(run.path).choose(child).connectome()
    assert from_tree.title == shown.title and f"#{child}" in shown.title
    (page,) = explore_pages(f"{run.path}::map-elites/0/best")
    assert page.name == "individual-map-elites-0-best.html" and page.parent == run.path / "explore"
    for wrong in ("map-elites/0/99", "genome/0/0", "zzzz", "map-elites/0/x", "/", ""):
        with pytest.raises(InputError, match="no individual|no explorer|explorers"):
            explore(f"{run.path}::{wrong}")


def test_tables_and_figures_for_findings(whole, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("front", Path(__file__).parents[1] / "bench" / "front.py")
    front = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(front)
    front.main([str(whole.path), "--figures", str(tmp_path)])
    said = capsys.readouterr().out
    assert all(f"`{m}`" in said for m in ("generational", "pareto-bred")) and "hypervolume over loss" in said
    n = int(history(whole, "pareto-bred").front.values.sum())
    assert said.count("::pareto-bred/0/") == n > 0 and "<img" in (tmp_path / "front-pareto-bred.html").read_text()


def test_founders_lie_between_the_densities():
    way = find_way(replace(AIMED, methods=("pareto-bred",)), "pareto-bred")
    low, high = AIMED.span
    assert founding_densities(way, 1.0) == pytest.approx([high * (low / high) ** (i / 3) for i in range(4)])
    assert max(founding_densities(way, 0.5)) == 0.5
    assert founding_densities(find_way(TINY, "genome"), 1.0) is None


@pytest.mark.parametrize("changes, said", [
    (dict(objectives=()), "objectives are \\(\\)"),
    (dict(objectives=("loss",)), "a front needs two"),
    (dict(objectives=("loss", "los")), "'los', which this run can't score.*Did you mean loss"),
    (dict(objectives=("loss", "skill:nothing")), "nothing"),
    (dict(objectives=("loss", "reading:nowhere.csv")), "no data set and no file"),
    (dict(objectives=("loss", "reading:toy-brain")), "no reading times"),
    (dict(lower=("density",), objectives=("loss", "reading")), "lower names 'density'"),
    (dict(objectives=None), "'pareto-bred' needs objectives"),
    (dict(descriptors=("",)), "descriptors are \\('',\\)"),
    (dict(descriptors=("density", "density")), "twice"),
    (dict(descriptors=("density",)), "'density' is no task"),
    (dict(cells=(3, 3)), "for 1 descriptors"),
    (dict(descriptors=None, objectives=("loss", "density"), lower=("fitness",)), "lower names 'fitness'"),
    (dict(ranges=((1.0, 0.0),)), "lead upwards"),
])  # fmt: skip
def test_aims_that_cannot_be_pursued_are_refused(changes, said, tmp_path):
    with pytest.raises(InputError, match=said):
        breed_wirings(tmp_path / "run", replace(AIMED, aims=replace(AIMED.aims, **changes)), show=False)
    assert not (tmp_path / "run").exists()


def test_less_than_a_generation_densities_and_short_contexts_are_refused(tmp_path):
    with pytest.raises(InputError, match="a generation of 4.*Give more"):
        replace(AIMED, tokens=8 * LONG.n_tokens).check()
    with pytest.raises(InputError, match="lowest and the highest"):
        replace(AIMED, densities=(0.5, 0.2)).check()
    with pytest.raises(InputError, match="neither an objective nor a descriptor"):
        replace(TINY, densities=(0.2, 0.5)).check()
    model = GPT(GPTConfig(vocab_size=300, n_layer=1, n_head=2, n_embd=16, block_size=16))
    with pytest.raises(ConnectomeError, match="as low as a search may go, leaves .* empty"):
        check_density(replace(AIMED, densities=(1e-4, 0.5)), model)
    short = replace(AIMED, experiment=TINY.experiment, tokens=11 * LIFE.n_tokens)
    with pytest.raises(InputError, match="the model's context is 16"):
        breed_wirings(tmp_path / "run", short, show=False, workers=1)
    assert not list((tmp_path / "run").rglob("lived.safetensors"))  # before anything was trained
