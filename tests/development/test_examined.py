"""An evaluation of a run that was stored before: floors, verdicts, resuming, changed files, what to set."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evonb.cli import main
from evonb.core import InputError, Stopped, StopRequest
from evonb.development.evaluation import EvaluationConfig, evaluate_run, examined
from evonb.kinds import open_run
from evonb.store import read_dataset
from evonb.text.toy_english import minimal_pairs

RUNS = Path(__file__).parents[1] / "runs"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A run with two arms of two newborns, and 30 pairs of two paradigms in BLiMP's format."
    folder = tmp_path_factory.mktemp("evaluated")
    zipfile.ZipFile(RUNS / "connectome.zip").extractall(folder / "connectome")
    (folder / "pairs").mkdir()
    for name in ("agreement_simple", "determiner_noun"):
        rows = minimal_pairs(15, phenomena=[name])
        (folder / "pairs" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def config(place):
    return EvaluationConfig(str(place / "connectome"), (f"blimp:{place / 'pairs'}",), untrained=2)


@pytest.fixture(scope="module")
def run(place, config):
    return evaluate_run(place / "out", config, show=False, cache=place / "cache")


def test_every_newborn_stands_beside_floors(run):
    ds = read_dataset(run.file("blimp.zarr.zip"))
    assert ds.arm.values.tolist() == ["connectome"] * 2 + ["random"] * 2 + ["untrained"] * 2 + ["unigram", "bigram",
                                                                                             "5-gram"]
    assert ds.kind.values.tolist() == ["newborn"] * 4 + ["untrained"] * 2 + ["counts"] * 3
    assert ds.step.values[:4].tolist() == [12] * 4 and ds.tokens.values[0] == 12 * 4 * 48
    assert ds.sizes["paradigm"] == 2 and ds.n_items.values.tolist() == [15, 15] and ds.credit.shape == (9, 30)
    means = np.stack([ds.credit.values[:, ds.item_paradigm.values == p].mean(1) for p in ds.paradigm.values], 1)
    assert np.allclose(ds.score, means, atol=1e-6) and ds.attrs["measure"] == "accuracy"
    summary = run.summary()
    arms = summary["suites"]["blimp"]["arms"]
    assert arms["random"]["difference"]["units"] == dict(seed=2, pair=30) and arms["connectome"]["difference"] is None
    assert arms["5-gram"]["learned"] is None and arms["connectome"]["beyond_counts"]["family"] == 5
    assert "keep=10" in summary["notes"][0] and "On blimp, connectome comes to" in summary["statement"]
    assert len(run.scores()) == 18 and run.file("blimp.nc").exists()
    each = [ds.item_log_odds.values[ds["last"].values == i].mean() for i in range(9)]  # paradigms are equally large
    own = {a: np.mean([x for x, arm in zip(each, ds.arm.values) if arm == a]) for a in arms}
    assert np.allclose([arms[a]["log_odds"] for a in own], list(own.values()), atol=1e-5)
    assert arms["5-gram"]["log_odds"] != arms["connectome"]["log_odds"] and "log_odds" in run.scores()
    assert run.state()["status"] == "complete"


def test_the_same_again_asks_nobody(run, place, config, monkeypatch):
    from evonb.development import suites
    monkeypatch.setattr(suites.Suite, "ask", lambda *a: pytest.fail("asked"))
    assert evaluate_run(place / "out", config, show=False).summary() == run.summary()
    again = evaluate_run(place / "again", config, show=False, cache=place / "cache")
    assert again.summary() == run.summary()


def test_a_runs_report_tells_of_its_evaluations(run):
    from evonb.report import connectome_page, examined_html

    found = examined_html([run.file("summary.json")])
    assert next(iter(run.summary()["suites"].values()))["statement"] in found and "class='plot'" in found
    assert "Examined" in [part.title for part in connectome_page] and examined_html(None) is None


def test_a_stopped_evaluation_goes_on(run, place, config):
    stop = StopRequest()
    stop.set("here")
    with pytest.raises(Stopped):
        evaluate_run(place / "stopped", config, show=False, stop=stop, cache=place / "other")
    assert open_run(place / "stopped").state()["status"] == "stopped"
    found = evaluate_run(place / "stopped", config, show=False, cache=place / "other")
    assert found.summary() == run.summary()


def test_changed_files_and_other_mistakes_are_named(run, place, config):
    shutil.copytree(place / "pairs", place / "changed")
    moved = EvaluationConfig(config.source, (f"blimp:{place / 'changed'}",), untrained=2)
    assert evaluate_run(place / "out", moved, show=False).summary() == run.summary()  # the same items elsewhere
    file, whole = place / "pairs" / "determiner_noun.jsonl", (place / "pairs" / "determiner_noun.jsonl").read_text()
    file.write_text("\n".join(whole.split("\n")[:-1]))
    with pytest.raises(InputError, match="other items of blimp than there are now: determiner_noun.jsonl is changed"):
        evaluate_run(place / "out", config, show=False)
    file.rename(place / "kept.jsonl")
    with pytest.raises(InputError, match="determiner_noun.jsonl is missing. Restore the files"):
        evaluate_run(place / "out", config, show=False)
    file.write_text(whole)
    for given, said in ((dict(source=""), "source is empty"), (dict(suites=()), "suites is empty"),
                        (dict(suites=("blymp",)), "suite is 'blymp'"), (dict(untrained=-1), "untrained is -1"),
                        (dict(arms=("connectom",)), "arm of .* is 'connectom'"), (dict(ngrams=(0,)), "of n-grams")):
        with pytest.raises(InputError, match=said):
            evaluate_run(place / "bad", EvaluationConfig(**dict(source=config.source, suites=config.suites) | given))
    with pytest.raises(InputError, match="single model"):
        examined(EvaluationConfig(f"{config.source}::random/1", config.suites, arms=("random",)))


def test_from_a_terminal(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("EVONB_CACHE", str(place / "own"))
    command = ["evaluate", "connectome::random/1", "--suite", "blimp:pairs", "--untrained", "1"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "connectome::random-1" in said or "connectome::random/1" in said
    assert "30 items in 2 paradigms that count alike" in said and "guessing earns 0.500" in said
    folder = next((place / "runs").iterdir())
    assert "Every paradigm" in (folder / "report.html").read_text() and main(["show", str(folder)]) == 0
    assert main(command) == 0 and main(["evaluate", "connectome", "--suite", "comps:nowhere"]) == 2
    assert "The files of comps aren't here" in capsys.readouterr().err


def test_a_paradigm_of_one_item_leaves_the_suite_its_verdict():
    from evonb.development.judging import judge_suite

    rng = np.random.default_rng(0)
    names, numbers = np.repeat(["a", "b"], 20), np.arange(4)
    values = {"connectome": rng.random((4, 40)) + 0.4, "untrained": rng.random((4, 40))}
    one = {k: np.c_[v, np.ones(4)] for k, v in values.items()}
    numbers = {k: numbers for k in values}
    without = judge_suite(values, numbers, names)
    found = judge_suite(one, numbers, [*names, "c"])
    assert found["connectome"]["score"] == without["connectome"]["score"]
    assert found["connectome"]["learned"] == without["connectome"]["learned"]
    assert without["connectome"]["learned"]["p"] < 0.05


def test_the_figure_counts_the_paradigms_that_means_are_over(run):
    from evonb.plots.development import suite_scores

    found = next(iter(run.summary()["suites"].values()))
    n = len(found["paradigms"])
    assert f"mean over {n} paradigm" in suite_scores(found).layout.title.subtitle.text
    less = found | dict(alone=["one"], paradigms=found["paradigms"] | {"one": 1})
    assert f"mean over {n} paradigm" in suite_scores(less).layout.title.subtitle.text
