"""A run on its way: what is published stands alone, every change is found, and the run comes back."""

import json
import os
import shutil
import subprocess
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import evonb as ev
from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import preset
from evonb.core import DamagedFileError, InputError, Remark, RunExistsError, StoreError
from evonb.report import write_report
from evonb.store import open_run, read_json
from evonb.training.base import open_base
from evonb.training.gpt import ModelConfig
from evonb.travel import import_run, publish_run, verify_again, verify_folder
from evonb.travel.export import open_exported
from evonb.travel.publish import copy_run, imported_from
from evonb.widgets.explorers import explore_pages, parts

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = preset("demo")
    config.corpus.n_bytes, config.model = 150_000, ModelConfig(1, 2, 16)
    for life in (config.evolution.lifetime, config.development.lifetime):
        life.steps, life.warmup = 6, 2
    config.evolution.n_generations = 1
    config.development = replace(config.development, n_seeds=1, lrs=(0.01,), arms=("connectome", "random"))
    return experiment(tmp_path_factory.mktemp("run") / "small", config, show=False)


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    place = tmp_path_factory.mktemp("published") / "out"
    return publish_run(run.path, place, "A title: with a colon", "Curie, Marie; Noether, Emmy", show=False)


@pytest.fixture
def copy(published, tmp_path):
    return shutil.copytree(published, tmp_path / "copy")


def test_it_says_what_it_is(run, published):
    import yaml

    cited = yaml.safe_load((published / "CITATION.cff").read_text())
    assert cited["title"] == "A title: with a colon" and cited["authors"][1]["family-names"] == "Noether"
    asked = json.loads((published / ".zenodo.json").read_text())
    assert asked["creators"] == [dict(name="Curie, Marie"), dict(name="Noether, Emmy")]
    readme = (published / "README.md").read_text()
    assert run.summary()["statement"] in readme and "toy-english" in readme
    assert sorted(p.name for p in (published / "models").iterdir()) == ["connectome-0", "random-0"]
    assert "torch==" in (published / "environment.lock").read_text()
    assert (published / "again.sh").read_text().splitlines()[-1].startswith("evonb run --preset demo")


def test_no_path_of_the_machine_travels(run, published):
    "Text that a reader meets names no folder of whoever made it."
    home = str(run.path.parent)
    told = [p for p in published.rglob("*") if p.suffix in (".md", ".cff", ".sh", ".csv") and home in p.read_text()]
    assert told == []


def test_tables_hold_the_results(run, published):
    import pandas as pd

    from evonb.store import read_dataset

    data = read_dataset(run.file("development.zarr.zip"))
    tables = sorted((published / "results").glob("development-*.csv"))
    (path,) = [p for p in tables if "window_loss" in pd.read_csv(p, nrows=1).columns]
    table = pd.read_csv(path)
    found = table.groupby("arm").window_loss.mean()
    for arm in ("connectome", "random"):
        assert abs(found[arm] - float(data.window_loss.sel(arm=arm).mean())) < 1e-5


def test_sha256sum_knows_it_without_us(published):
    found = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=published, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, ""), found.stderr


@pytest.mark.parametrize("spoil, said", [
    (lambda d: (d / "run" / "summary.json").unlink(), "missing: run/summary.json"),
    (lambda d: (d / "results" / "development.nc").write_bytes(b""), "changed: results/development.nc"),
    (lambda d: (d / ".zenodo.json").write_text("{}"), "changed: .zenodo.json"),
    (lambda d: shutil.rmtree(d / "models"), "missing: models/connectome-0/README.md, .* and 1"),
])  # fmt: skip
def test_every_change_is_found(copy, spoil, said, tmp_path):
    spoil(copy)
    with pytest.raises(DamagedFileError, match=said):
        verify_folder(copy, show=False)
    with pytest.raises(DamagedFileError):
        import_run(copy, tmp_path / "back", show=False)
    assert not (tmp_path / "back").exists()


def test_what_was_added_is_told(copy):
    (copy / "notes.txt").write_text("mine")
    with pytest.warns(Remark, match="notes.txt"):
        verify_folder(copy, show=False)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "run/../../secret", "./README.md", ""])
def test_a_name_that_leads_out_is_refused(copy, name, tmp_path):
    with open(copy / "SHA256SUMS", "a") as f:
        f.write("0" * 64 + f"  {name}\n")
    for take in (verify_folder, lambda folder, show: import_run(folder, tmp_path / "back", show)):
        with pytest.raises(InputError, match="isn't a file of this folder"):
            take(copy, show=False)
    assert not (tmp_path / "back").exists()


def write_sums(folder):
    from evonb.travel.publish import write_sums

    (folder / "SHA256SUMS").unlink(missing_ok=True)
    write_sums(folder)


def about(folder, **changed):
    from evonb.store import read_json, write_json

    write_json(folder / "run" / "run.json", read_json(folder / "run" / "run.json") | changed)
    write_sums(folder)


def moved_behind_a_link(folder):
    shutil.move(folder / "run" / "corpus", folder.parent / "elsewhere")
    (folder / "run" / "corpus").symlink_to(folder.parent / "elsewhere")


def in_place_of_summary(make):
    return lambda d: ((d / "run" / "summary.json").unlink(), make(d / "run" / "summary.json"))


@pytest.mark.parametrize("spoil, said", [
    (lambda d: (d / "SHA256SUMS").write_text(""), "it is empty"),
    (lambda d: (d / "SHA256SUMS").write_text("hello"), "a line has no SHA-256: hello"),
    (lambda d: (d / "SHA256SUMS").write_bytes(b"\xff\xfe"), "SHA256SUMS is damaged"),
    (lambda d: (d / "SHA256SUMS").write_text(2 * (d / "SHA256SUMS").read_text()), "names a file twice"),
    (lambda d: (shutil.rmtree(d / "run"), write_sums(d)), "holds no run"),
    (lambda d: ((d / "run" / "run.json").write_text("hello"), write_sums(d)), "it isn't whole JSON"),
    (lambda d: ((d / "run" / "run.json").write_text(""), write_sums(d)), "it isn't whole JSON"),
    (lambda d: about(d, format=99), "written by a newer evonb"),
    (moved_behind_a_link, "missing: run/corpus/corpus.json"),
    (in_place_of_summary(os.mkfifo), "missing: run/summary.json"),
    (in_place_of_summary(os.mkdir), "missing: run/summary.json"),
    (in_place_of_summary(lambda p: p.symlink_to("/etc/passwd")), "changed: run/summary.json"),
])  # fmt: skip
def test_what_only_looks_like_a_published_run_is_refused_and_leaves_nothing(copy, spoil, said, tmp_path):
    spoil(copy)
    (tmp_path / "in").mkdir()
    with pytest.raises((InputError, StoreError), match=said):
        import_run(copy, tmp_path / "in" / "back", show=False)
    assert os.listdir(tmp_path / "in") == []


def test_only_what_was_published_is_taken_up(copy, tmp_path):
    "What somebody laid beside it, be it by a link that leads elsewhere, is told and stays where it is."
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("mine")
    (copy / "run" / "notes.json").write_text("{}")
    (copy / "run" / "way-out").symlink_to(secret)
    (copy / "run" / "key").symlink_to(secret / "key")
    (copy / "run" / "round").symlink_to("..")
    with pytest.warns(Remark, match="run/key, run/notes.json, run/round, run/way-out"):
        back = import_run(copy, tmp_path / "back", show=False)
    was = {p.relative_to(copy / "run") for p in (copy / "run").rglob("*") if p.is_file() and not p.is_symlink()}
    now = {p.relative_to(back.path) for p in back.path.rglob("*") if p.is_file()}
    assert now - was == {Path("imported.json")} and was - now == {Path("notes.json")}


def test_where_it_is_from_is_noted(published, tmp_path):
    back = import_run(published, tmp_path / "back", show=False)
    assert imported_from(back).startswith("out, taken up 20") and str(published.parent) not in imported_from(back)
    again = publish_run(back.path, tmp_path / "again", creators="Curie, Marie", models=False, show=False)
    assert "It comes from out, taken up" in (again / "README.md").read_text()
    twice = import_run(again, tmp_path / "twice", show=False)
    assert read_json(twice.path / "imported.json")["before"]["source"] == "out"


def test_of_two_that_import_at_once_one_is_refused(published, tmp_path, monkeypatch):
    from evonb.travel import publish

    def overtaken(folder, out):
        copy_run(folder, out)
        if not (tmp_path / "back").exists():
            shutil.copytree(out, tmp_path / "back")

    monkeypatch.setattr(publish, "copy_run", overtaken)
    with pytest.raises(RunExistsError, match="is there already"):
        import_run(published, tmp_path / "back", show=False)
    assert os.listdir(tmp_path) == ["back"]


def test_what_a_killed_import_or_publish_left_goes_with_the_next(run, published, tmp_path):
    for name in ("back", "pub"):
        left = tmp_path / f".{name}.999999999.tmp"
        left.mkdir()
        (left / "half").write_text("half")
    import_run(published, tmp_path / "back", show=False)
    publish_run(run.path, tmp_path / "pub", creators="Curie, Marie", models=False, show=False)
    assert sorted(os.listdir(tmp_path)) == ["back", "pub"]


@pytest.mark.parametrize("step", ["first_models", "write_tables", "readme_text", "write_sums"])
def test_an_interruption_leaves_what_was_there(run, tmp_path, monkeypatch, step):
    from evonb.travel import publish

    out = publish_run(run.path, tmp_path / "pub", creators="Curie, Marie", models=False, show=False)
    sums = (out / "SHA256SUMS").read_text()

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, step, stop)
    for place in (out, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            publish_run(run.path, place, creators="Curie, Marie", show=False)
    assert os.listdir(tmp_path) == ["pub"] and (out / "SHA256SUMS").read_text() == sums and verify_folder(out, False)


def test_a_run_that_goes_on_meanwhile_is_not_published(run, tmp_path, monkeypatch):
    from evonb.store import reopen_run
    from evonb.travel import publish

    copy = shutil.copytree(run.path, tmp_path / "run")

    def meanwhile(run, folder):
        with reopen_run(copy):
            pass

    monkeypatch.setattr(publish, "write_tables", meanwhile)
    with pytest.raises(InputError, match="was written meanwhile"):
        publish_run(copy, tmp_path / "pub", creators="Curie, Marie", models=False, show=False)
    with reopen_run(copy), pytest.raises(InputError, match="is being written"):
        publish_run(copy, tmp_path / "pub", creators="Curie, Marie", show=False)
    assert os.listdir(tmp_path) == ["run"]


def test_the_run_comes_back_and_goes_on(run, published, tmp_path):
    from evonb.connectomes.experiments import develop_run

    back = import_run(published, tmp_path / "back", show=False)
    assert back.summary() == run.summary() and parts(back) == parts(run)
    develop_run(back.path, dict(n_seeds=2), show=False, workers=1)
    assert back.summary()["n_seeds"] == 2
    verify_folder(published, show=False)  # what was published stays as it was


def test_a_newborn_raised_again_is_the_same_and_a_changed_one_is_not(published, copy):
    assert verify_again(published, show=False) == ("connectome/0", 0)
    changed = copy / "run" / "run.json"
    was = changed.read_text()
    changed.write_text(was.replace('"seed": 0', '"seed": 1', 1))
    assert changed.read_text() != was
    with pytest.raises(DamagedFileError, match="run/run.json"):
        verify_again(copy, show=False)


KINDS = sorted((Path(__file__).parent.parent / "runs").glob("*.zip"))


@pytest.mark.parametrize("stored", KINDS, ids=[p.stem for p in KINDS])
def test_every_kind_of_run_comes_back_finished_or_not(stored, tmp_path):
    with zipfile.ZipFile(stored) as z:
        z.extractall(tmp_path / "run")
    out = publish_run(tmp_path / "run", tmp_path / "out", creators="Curie, Marie", models=False, show=False)
    back = import_run(out, tmp_path / "back", show=False)
    was = {p.relative_to(tmp_path / "run"): p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    came = {p.relative_to(back.path): p.read_bytes() for p in back.path.rglob("*") if p.is_file()}
    gone = {p for p in was if p.suffix == ".lock" or p.parts[0] == "cache"}
    assert came.pop(Path("imported.json")) and came == {k: v for k, v in was.items() if k not in gone}
    assert parts(back) == parts(tmp_path / "run") and write_report(back.path).is_file()
    if stored.stem != "connectome":
        said = "is interrupted and holds 0 newborns" if stored.stem == "stopped-connectome" else "of kind 'connectome'"
        with pytest.raises(InputError, match=said):
            verify_again(out, show=False)


@pytest.mark.parametrize("left", [(), ("corpus", "source.json"), ("corpus", "source.json", "evolution")])
def test_a_run_is_published_however_far_it_came(left, tmp_path):
    with zipfile.ZipFile(next(p for p in KINDS if p.stem == "stopped-connectome")) as z:
        z.extractall(tmp_path / "run")
    for p in (tmp_path / "run").iterdir():
        if p.name not in ("run.json", "state.json", "log.jsonl", *left):
            shutil.rmtree(p) if p.is_dir() else p.unlink()
    with warnings.catch_warnings(record=True) as told:
        out = publish_run(tmp_path / "run", tmp_path / "out", creators="Curie, Marie", show=False)
    said = [str(w.message) for w in told if "The explorers are left out" in str(w.message)]
    shown = "evolution" in left
    assert [s for s in said if "has no connectome yet" in s] == said and bool(said) != shown
    assert verify_folder(out, False) and ("explore/" in (out / "README.md").read_text()) == shown
    assert (out / "explore").is_dir() == shown
    assert import_run(out, tmp_path / "back", show=False).state()["status"] == "interrupted"


@pytest.mark.parametrize("name", ["a::b", "::", "of::random/0"])
def test_a_run_whose_name_holds_the_mark_of_parts_is_found(run, name, tmp_path):
    "RUN::ARM/SEED: what is there comes first, so nothing else is taken for the run, and no part for a place."
    home = shutil.copytree(run.path, tmp_path / name)
    assert ev.explore(str(home)).title.endswith(home.name)
    assert {p.name for p in explore_pages(str(home), tmp_path / "pages")} >= {"connectome.html"}
    assert verify_folder(publish_run(str(home), tmp_path / "out", creators="Curie, Marie", show=False), False)
    for part in ("random/0", "connectome/0"):
        one, same = (open_base(f"{place}::{part}", "cpu") for place in (home, run.path))
        assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), same.model.parameters(), strict=True))
        assert open_exported(f"{home}::{part}").source == f"{home.name}::{part}"
    with pytest.raises(InputError, match="rndom"): open_base(f"{home}::rndom/0", "cpu")


def test_places_in_the_way_are_told(published, run, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for make in (lambda out: import_run(published, out, show=False),
                 lambda out: publish_run(run.path, out, creators="Curie, Marie", models=False, show=False)):
        for name in ("file", "file/run", "nowhere", "x" * 250):
            with pytest.raises(StoreError, match="can't be made|there already|isn't a published run"):
                make(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "nowhere"] and (tmp_path / "file").read_text() == "mine"


def test_places_that_hold_something_else_are_refused(run, published, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunExistsError, match="isn't a published run"):
        publish_run(run.path, tmp_path / "mine", show=False)
    with pytest.raises(RunExistsError, match="there already"):
        import_run(published, tmp_path / "mine", show=False)
    with pytest.raises(InputError, match="Family, Given"):
        publish_run(run.path, tmp_path / "new", creators="Marie Curie", show=False)
    with pytest.raises(InputError, match="no SHA256SUMS"):
        verify_folder(tmp_path / "mine", show=False)
    with pytest.raises(InputError, match=f"such as {published}"):
        verify_folder(published.parent, show=False)
    with pytest.raises(InputError, match="there is no such folder"):
        verify_folder(tmp_path / "nowhere", show=False)
    with pytest.raises(InputError, match="is a file. Unpack it"):
        verify_folder(published / "README.md", show=False)
    with pytest.raises(InputError, match="it is a run"):
        verify_folder(run.path, show=False)
    with pytest.raises(InputError, match="is a published run. Take it up first: evonb import"):
        open_run(published)
    with pytest.raises(InputError, match="is on the hub.* evonb import hf:a/b --out RUN"):
        open_run("hf:a/b")
    with pytest.raises(InputError, match="holds the run itself"):
        (run.path.parent / "SHA256SUMS").write_text("")
        publish_run(run.path, run.path.parent, creators="Curie, Marie", show=False)
    assert os.listdir(tmp_path) == ["mine"]


def test_nobody_named_is_told(run, tmp_path):
    with pytest.warns(Remark, match="Nobody is named"):
        out = publish_run(run.path, tmp_path / "out", models=False, show=False)
    assert "FILL IN" in (out / "CITATION.cff").read_text() and not (out / "models").exists() or not list(
        (out / "models").iterdir())  # fmt: skip
