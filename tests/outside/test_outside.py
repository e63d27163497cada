"""A package of one's own: what the page of recipes adds is seen in help, errors, runs, reports and explorers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evonb import registry
from evonb.cli import main
from evonb.core import InputError
from evonb.registry import KINDS, Registry, load_plugin

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "pages" / "recipes.md"
ADDED = {"arm": ("thinned",), "merge": ("middle",), "method": ("blends",), "task": ("capitals",),
         "corpus": ("weather", "diary"), "data-set": ("breakfast", "evening"), "explorer": ("newborns",)}
TINY = ["model.n_layer=1", "model.n_head=2", "model.n_embd=16", "corpus.n_bytes=60000", "corpus.vocab_size=270",
        "evolution.n_generations=1", "evolution.rewind_step=0", "evolution.n_evolutions=1", *(
            f"{part}.lifetime.{setting}" for part in ("evolution", "development")
            for setting in ("steps=20", "batch_size=4", "context=256", "warmup=5"))]
pytestmark = pytest.mark.usefixtures("one_thread")


def recipes() -> str:
    "The code of the page, one recipe after the other."
    return "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))


def settings(*pairs): return [f"--set={pair}" for pair in pairs]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    "The recipes as a file of one's own, which this process forgets again after these tests."
    path = tmp_path_factory.mktemp("mine") / "mine.py"
    path.write_text(recipes(), encoding="utf-8")
    before = os.environ.get("EVONB_PLUGINS")
    known = {kind: dict(KINDS[kind].known) for kind in KINDS}
    opened = registry._doors.opened
    load_plugin(path)
    yield path
    for kind, entries in known.items():
        KINDS[kind].known.clear()
        KINDS[kind].known.update(entries)
    registry._doors.opened, registry._doors.read = opened, None
    os.environ.pop("EVONB_PLUGINS")
    if before is not None: os.environ["EVONB_PLUGINS"] = before


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    "The recipes as an installed package: a module, and what an installer writes beside it; the folder."
    folder = tmp_path_factory.mktemp("site")
    (folder / "outside_things.py").write_text(recipes(), encoding="utf-8")
    info = folder / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[evonb]\nthings = outside_things\n")
    return folder


EVONB = "import sys; from evonb.cli import main; sys.exit(main())"  # the command, of the package that is tested


def python(*words, **environment):
    "What another process prints."
    path = os.pathsep.join(filter(None, [str(ROOT), environment.pop("path", "")]))
    clean = {k: v for k, v in os.environ.items() if k != "EVONB_PLUGINS"}
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=300,
                          env={**clean, "PYTHONPATH": path, "COLUMNS": "200", **environment})


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    "A small experiment on one's own corpus with one's own arm, aligned with one's own data sets."
    path = tmp_path_factory.mktemp("runs") / "run"
    common = ["--device", "cpu"]
    assert main(["run", "--preset", "demo", "--corpus", "weather", "--arms", "connectome,thinned", "--seeds", "2",
                 "--lrs", "0.016", "--out", str(path), *common, *settings(*TINY)]) == 0
    for data in ADDED["data-set"]:
        assert main(["align", str(path), "--data", data, "--untrained", "1", "--permutations", "20", *common,
                     *settings("n_bootstrap=50", 'behavior.frequency=["weather"]')]) == 0
    assert main(["explore", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def bred(run):
    "Experts of one of its newborns, and a population of them that one's own method breeds on one's own task."
    experts, path = run.parent / "experts", run.parent / "population"
    named = [word for skill in ("agreement", "count_up", "tense") for word in ("--expert", f"skill:{skill}")]
    assert main(["experts", "--base", f"{run}::connectome/0", *named, "--out", str(experts), "--device", "cpu",
                 *settings("training.steps=6", "training.warmup=2", "n_texts=60")]) == 0
    assert main(["population", str(experts), "--task", "capitals:Lyon", "--methods", "blends", "--budget", "6",
                 "--seeds", "1", "--out", str(path), "--device", "cpu",
                 *settings("n_validation=6", "n_test=6", "n_bootstrap=50")]) == 0
    assert main(["explore", str(path)]) == 0
    return path


# Known

def test_the_page_has_a_recipe_for_each_kind_and_its_code_registers_it(file):
    headings = re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), re.M)
    for kind in ("arm", "merge", "method", "task", "corpus", "data set", "explorer"):
        assert any(kind in h.split(" of ")[0].split() or h.startswith(f"A {kind}") for h in headings), kind
    for kind, names in ADDED.items():
        for name in names:
            entry = KINDS[kind].entry(name)
            assert entry.origin == str(file) and entry.line and KINDS[kind][name] is not None


def test_a_package_is_found_by_its_entry_point(package):
    code = ("from evonb.registry import KINDS\n"
            f"for kind, names in {ADDED!r}.items():\n"
            "    for name in names: print(kind, name, KINDS[kind].entry(name).origin)")
    done = python("-c", code, path=str(package))
    told = [f"{kind} {name} outside" for kind, names in ADDED.items() for name in names]
    assert done.stdout.splitlines() == told, done.stderr
    gone = python("-c", code)
    assert gone.returncode and "must be one of" in gone.stderr  # only where it is installed


# Help and errors

def test_each_is_in_the_help_of_the_commands_that_take_it(package, file):
    seen = {"run": ("thinned", "weather"), "develop": ("thinned",), "evolve": ("weather",), "align": ADDED["data-set"],
            "population": ("blends", "capitals:WRONG_TOWN"), "explore": ("newborns",)}
    each = ("from contextlib import suppress\nfrom evonb.cli import main\n"
            f"for command in {list(seen)}:\n    with suppress(SystemExit): main([command, '--help'])\n"
            "    print('\\f')")
    done = python("-c", each, path=str(package))
    for (command, names), page in zip(seen.items(), done.stdout.split("\f"), strict=False):
        for name in names:
            assert re.search(rf"{name} [^(]*\(from\s+outside\)", page), (command, name, done.stderr)
    done = python("-c", EVONB, "--plugin", file, "population", "--help")
    assert "(from mine.py)" in done.stdout and "blends" in done.stdout, done.stderr


def test_each_is_in_the_list_of_an_error(file, tmp_path):
    from evonb.alignment import open_data
    from evonb.connectomes import find_arm
    from evonb.core import Seeds
    from evonb.datasets import MissingCorpusError
    from evonb.evolution.method import method_class
    from evonb.populations.merges import merge
    from evonb.tasks import open_task
    from evonb.text import load_corpus
    from evonb.widgets.explorers import EXPLORERS

    for ask, names in ((lambda: find_arm("thined"), ADDED["arm"]), (lambda: merge([], "midle"), ADDED["merge"]),
                       (lambda: method_class("blend"), ADDED["method"]),
                       (lambda: open_task("capital:Lyon", Seeds(0)), ("capitals:WRONG_TOWN",)),
                       (lambda: load_corpus("wether"), ADDED["corpus"]),
                       (lambda: open_data("brekfast"), ADDED["data-set"]),
                       (lambda: EXPLORERS["newborn"], ADDED["explorer"])):
        with pytest.raises((InputError, MissingCorpusError)) as e: ask()
        for name in names: assert name in str(e.value), name
    with pytest.raises(InputError, match="Did you mean thinned"): find_arm("thined")


# Runs

def test_an_arm_and_a_corpus_of_ones_own_are_in_run_report_and_explorer(run):
    from evonb.store import open_run, read_dataset
    from evonb.training import load_model

    stored = open_run(run)
    arms = read_dataset(stored.file("development.zarr.zip"))
    assert list(arms.arm.values) == ["connectome", "thinned"] and stored.config["corpus"]["source"] == "weather"
    density = {str(a): float(arms.density.sel(arm=a)) for a in arms.arm.values}
    assert density["thinned"] == pytest.approx(density["connectome"] / 2, rel=.1)
    model = load_model(next(run.glob("development/thinned/seed-0/*/model")))
    unwired = [float((p == 0).float().mean()) for n, p in model.named_parameters() if "mlp" in n]
    assert unwired and min(unwired) > .5  # and stays so while it learns
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "thinned" in page and "weather" in page
    assert "thinned" in (run / "explore" / "connectome.html").read_text(encoding="utf-8")


def test_data_sets_of_ones_own_are_in_run_report_and_explorer(run):
    from evonb.store import open_run, read_dataset, read_json

    kinds = {"breakfast": "reading.zarr.zip", "evening": "brain.zarr.zip"}
    for data, name in kinds.items():
        aligned = open_run(run / "alignment" / data)
        assert aligned.state()["status"] == "complete" and read_json(aligned.file("data.json"))["name"] == data
        scores = read_dataset(aligned.file(name))
        assert {"connectome/0", "thinned/1", "untrained/0"} <= set(scores.model.values.tolist())
        page = (aligned.path / "report.html").read_text(encoding="utf-8")
        assert data in page and "thinned" in page
    page = (run / "explore" / "alignment.html").read_text(encoding="utf-8")
    assert "breakfast" in page and "evening" in page


def test_a_method_a_merge_and_a_task_of_ones_own_are_in_run_report_and_explorer(bred):
    from evonb.store import open_run, read_json

    stored = open_run(bred)
    summary = read_json(stored.file("summary.json"))
    assert stored.state()["status"] == "complete"
    assert "blends" in str(summary["methods"]) and "capitals:Lyon" in str(summary)
    assert (bred / "tasks.json").read_text().count("capitals:Lyon") == 1
    page = (bred / "report.html").read_text(encoding="utf-8")
    assert "blends" in page and "capitals:Lyon" in page
    page = (bred / "explore" / "population.html").read_text(encoding="utf-8")
    assert "blends" in page and "capitals:Lyon" in page and "middle" in page  # the merge, as who made the first one


def test_a_merge_of_ones_own_merges_and_keeps_its_promises(bred):
    import torch

    from evonb.populations import load_experts, merge

    experts = list(load_experts(bred.parent / "experts").values())
    merged, one = merge(experts, "middle"), experts[0]
    module = one.modules[0]
    stack = torch.stack([e.delta(module) for e in experts])
    assert torch.linalg.matrix_norm(merged.delta(module) - stack.median(0).values) < torch.linalg.matrix_norm(
        one.delta(module) - stack.median(0).values)  # the best of its rank
    torch.testing.assert_close(merge([one] * 3, "middle").delta(module), one.delta(module), atol=1e-6, rtol=1e-4)


def test_an_explorer_of_ones_own_is_opened_and_written(run):
    from evonb import explore
    from evonb.widgets.explorers import parts

    assert "newborns" in parts(run)
    opened = explore(run, "newborns")
    assert "thinned" in opened.ask("words", arm="thinned").content["text"]
    assert len(opened.figure("losses", arm="connectome").data[0].y) == 2
    page = (run / "explore" / "newborns.html").read_text(encoding="utf-8")
    assert "Newborns of run" in page and "thinned" in page


def test_a_run_says_what_is_missing_without_its_plugin(run, tmp_path):
    done = python("-c", EVONB, "develop", run, "--arms", "thinned", "--seeds", "3", "--device", "cpu")
    assert done.returncode == 2 and "thinned" in done.stderr and "must be one of" in done.stderr


# All registries

def test_every_entry_loads_and_says_what_it_is():
    for kind in KINDS:
        assert isinstance(KINDS[kind], Registry) and KINDS.entry(kind).line
        for name in KINDS[kind]:
            entry = KINDS[kind].entry(name)
            assert KINDS[kind][name] is not None and entry.line, (kind, name)
            assert len(entry.line) < 200 and "\n" not in entry.line, (kind, name)
