"""A run on its way: what is published stands alone, every change is found, and the run comes back."""

import json
import os
import shutil
import subprocess
from dataclasses import replace

import pytest

from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import preset
from evonb.core import DamagedFileError, InputError, Remark, RunExistsError
from evonb.training.gpt import ModelConfig
from evonb.travel import import_run, publish_run, verify_again, verify_folder
from evonb.widgets.explorers import parts

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


def test_a_name_that_leads_out_is_refused(copy):
    with open(copy / "SHA256SUMS", "a") as f:
        f.write("0" * 64 + "  ../secret\n")
    with pytest.raises(InputError, match="isn't a file of this folder"):
        verify_folder(copy, show=False)


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
    with pytest.raises(InputError, match="holds the run itself"):
        (run.path.parent / "SHA256SUMS").write_text("")
        publish_run(run.path, run.path.parent, creators="Curie, Marie", show=False)
    assert os.listdir(tmp_path) == ["mine"]


def test_nobody_named_is_told(run, tmp_path):
    with pytest.warns(Remark, match="Nobody is named"):
        out = publish_run(run.path, tmp_path / "out", models=False, show=False)
    assert "FILL IN" in (out / "CITATION.cff").read_text() and not (out / "models").exists() or not list(
        (out / "models").iterdir())  # fmt: skip
