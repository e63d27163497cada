"""What a run leaves opens in one call, says where it comes from, and is read by those who don't have evonb."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import evonb
from evonb.connectomes.experiments import experiment
from evonb.connectomes.generations import load_generation
from evonb.connectomes.graph import wiring_graph
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.kinds import write_results
from evonb.store import create_run, open_run, read_dataset, write_dataset, write_netcdf
from evonb.text.tokens import CorpusConfig
from evonb.training.connectome import Connectome
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "pages" / "formats.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.+?)```", PAGE, re.S)
LIFE = LifetimeConfig(steps=4, batch_size=4, context=16, lr=4e-3, warmup=1, eval_every=2, eval_windows=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("made") / "RUN", ExperimentConfig(
        preset="demo", corpus=CorpusConfig("toy-english", n_bytes=60_000, vocab_size=300), model=ModelConfig(1, 2, 16),
        evolution=EvolutionConfig(n_generations=2, prune_fraction=0.3, lifetime=LIFE),
        development=DevelopmentConfig(("connectome", "random"), 2, (4e-3,), n_bootstrap=50, lifetime=LIFE)),
        show=False)  # fmt: skip


def alone(folder, code):
    "What a fresh interpreter prints that may not import evonb."
    code = "import sys\nsys.modules['evonb'] = None\n" + code
    done = subprocess.run([sys.executable, "-I", "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_result_opens_in_one_call_and_says_where_it_comes_from(run):
    for name in ("evolution", "development"):
        ds, checked = xr.open_dataset(run.file(f"{name}.nc")), read_dataset(run.file(f"{name}.zarr.zip"))
        xr.testing.assert_equal(ds, checked)
        for k, v in checked.variables.items():
            assert ds[k].attrs.get("units") == v.attrs.get("units") and ds[k].dtype.kind in (v.dtype.kind, "O")
        assert ds.attrs["evonb"] == evonb.__version__ and ds.attrs["seed"] == 0 and ds.attrs["run"] == "RUN"
        assert ds.attrs["command"].startswith("evonb run ") and json.loads(ds.attrs["settings"]) == run.config
        assert ds.attrs["created"] == run.about["created"]
    assert "evonb run" in alone(run.path.parent, BLOCKS[0])


def test_plain_values_are_read_as_the_page_says(run):
    assert "connectome" in alone(run.path.parent, BLOCKS[1])


def test_a_connectome_is_read_by_numpy_as_the_page_says(run):
    for g in (0, 1):
        path = run.file("evolution", f"gen-{g:02d}", "connectome.safetensors")
        shutil.copy(path, run.file("connectome.safetensors"))
        code = BLOCKS[2] + "\nnp.savez('signs.npz', **signs)"
        assert "torch" not in code and not alone(run.path.parent, code)
        mine, made = Connectome.load(path), np.load(run.path.parent / "signs.npz")
        assert set(made) == set(mine.signs)
        assert all(np.array_equal(made[k], s.numpy()) for k, s in mine.signs.items())


def test_a_graph_is_read_by_numpy_as_the_page_says(run):
    wiring = load_generation(run)
    wiring_graph(wiring).save(run.path.parent / "FILE.npz")
    code = BLOCKS[3] + "        print(name, source, target, signs.sum())"
    said = [line.split() for line in alone(run.path.parent, code).splitlines()]
    assert [s[:3] for s in said] == [[e.name, e.source, e.target] for e in wiring_graph(wiring).edges]
    assert [int(s[3]) for s in said] == [e.signs.sum() for e in wiring_graph(wiring).edges]


def test_zarr_opens_as_the_page_says(run):
    path = run.file("development.zarr.zip")
    code = re.search(r"`(xr.open_zarr\(.+?\))` opens it", PAGE)[1]
    said = alone(run.path.parent, f"import xarray as xr, zarr\nprint(float({code}.final_val_loss.mean()))")
    assert float(said) == float(read_dataset(path).final_val_loss.mean())
    with zipfile.ZipFile(path) as z:
        assert len(z.comment) == 64


def test_what_was_read_can_be_written_in_any_format(run, tmp_path):
    "Compressors of zarr 3 that stay in the encoding would make zarr 2 fail."
    ds = read_dataset(run.file("development.zarr.zip"))
    assert not any(v.encoding for v in ds.variables.values())
    ds.to_zarr(tmp_path / "two.zarr", zarr_format=2)
    ds.to_netcdf(tmp_path / "x.nc")
    write_dataset(tmp_path / "x.zarr.zip", ds)
    assert read_dataset(tmp_path / "x.zarr.zip").identical(ds)
    xr.testing.assert_equal(xr.open_dataset(tmp_path / "x.nc"), ds)


def test_any_dataset_of_ours_is_written_as_netcdf(tmp_path):
    "Truth values, texts of other alphabets, empty dimensions, nothing at all."
    ds = xr.Dataset(dict(ok=("a", [True, False]), text=("a", ["ü 漢", ""]), n=("a", np.arange(2, dtype=np.uint8)),
                         x=(("a", "none"), np.zeros((2, 0))), one=((), 1.5)), dict(a=["p", "q"]),
                    dict(told="yes", missing=None))  # fmt: skip
    write_netcdf(tmp_path / "x.nc", ds)
    back = xr.open_dataset(tmp_path / "x.nc")
    xr.testing.assert_equal(back, ds)
    assert back.ok.dtype == bool and back.attrs == dict(told="yes")
    write_netcdf(tmp_path / "none.nc", xr.Dataset())
    with create_run(tmp_path / "plain", {}) as run:
        write_results(run, "found", ds.drop_attrs())
    assert xr.open_dataset(open_run(tmp_path / "plain").file("found.nc")).attrs["command"] == ""
