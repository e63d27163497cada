"""Several evolutions of one run: the first is the run that had no other, others are added without a gap."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from evonb.connectomes.experiments import (
    develop_run,
    developed_config,
    experiment,
    grown_newborns,
    load_newborn,
    newborn_folder,
    newborn_table,
    open_newborn,
)
from evonb.connectomes.generations import inherited_connectome, life_folder, load_generation
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig, lineage_file
from evonb.core import InputError, RunExistsError
from evonb.plots import connectome as figures
from evonb.report import write_report
from evonb.store import open_run, read_dataset, read_json, write_json
from evonb.text.tokens import CorpusConfig
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig

pytestmark = pytest.mark.numerics
LIFE = LifetimeConfig(
    steps=6, batch_size=4, context=16, lr=4e-3, warmup=2, eval_every=3, eval_windows=8, checkpoint_every=3
)
ARMS = "connectome", "random", "dense"


def tiny(n=1):
    return ExperimentConfig(
        "tiny",
        corpus=CorpusConfig("toy-english", n_bytes=100_000, vocab_size=300),
        model=ModelConfig(1, 2, 16),
        evolution=EvolutionConfig(n_generations=2, prune_fraction=0.3, n_evolutions=n, lifetime=LIFE),
        development=DevelopmentConfig(ARMS, 2, (2e-3, 4e-3), test_windows=16, lifetime=LIFE),
    )


def models(folder):
    "Relative path -> digest of every grown model, wiring and test."
    kinds = ("model.safetensors", "connectome.safetensors", "tested.safetensors")
    found = [p for p in sorted(folder.rglob("*.safetensors")) if p.name in kinds]

    def digest(path):
        tensors = sorted(load_file(path).items())
        return hashlib.sha256(b"".join(k.encode() + t.numpy().tobytes() for k, t in tensors)).hexdigest()

    return {str(p.relative_to(folder)): digest(p) for p in found}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("one") / "run", tiny(), show=False)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("three") / "run", tiny(3), show=False)


def test_the_first_evolution_is_the_run_that_has_no_other(one, three):
    first = {k: v for k, v in models(three.path).items() if not k.startswith("lineage-")}
    assert first == models(one.path) and not list(one.path.glob("lineage-*"))
    a, b = (read_dataset(r.file("development.zarr.zip")) for r in (one, three))
    for name in ("train_loss", "val_loss", "window_loss", "test_window_loss", "final_test_loss", "unseen_test_loss"):
        assert np.array_equal(a[name], b[name].sel(lineage=0), equal_nan=True) and b[name].dims[:3] == (
            "arm", "lineage", "seed")  # fmt: skip
    assert np.array_equal(a.chosen_lr, b.chosen_lr) and "lineage" not in a.dims


def test_evolutions_share_text_and_nothing_else(three):
    wirings = [inherited_connectome(three, k) for k in range(3)]
    assert len({w.digest() for w in wirings}) == 3
    assert [w.info.get("lineage") for w in wirings] == [None, 1, 2]
    assert len({w.density for w in wirings}) == 1 and {w.info["corpus"] for w in wirings} == {wirings[0].info["corpus"]}
    lr = {a: x["lr"] for a, x in three.summary()["arms"].items()}
    losses = read_dataset(three.file("development.zarr.zip")).final_test_loss
    assert len(np.unique(losses.values)) == losses.size == 3 * 3 * 2  # no newborn is another one
    for k in range(3):
        born = life_folder(three, "connectome", 1, lr["connectome"], k) / "model"
        assert born.is_dir() and born == newborn_folder(three, "connectome", 1, k)
    assert not (life_folder(three, "random", 0, 2e-3, 1)).exists() or lr["random"] == 2e-3  # only the chosen rate


def test_a_finished_run_takes_more_evolutions_and_keeps_what_it_has(one, three, tmp_path):
    import shutil

    shutil.copytree(one.path, tmp_path / "run")
    run = develop_run(tmp_path / "run", n_evolutions=2, show=False)
    assert models(run.path) == {k: v for k, v in models(three.path).items() if not k.startswith("lineage-2")}
    assert run.summary()["n_evolutions"] == 2 and developed_config(run).n_lineages == 2
    before = (tmp_path / "run" / "development.zarr.zip").read_bytes()
    again = experiment(tmp_path / "run", tiny(), resume=True, show=False)  # its own settings still open it
    assert again.summary()["n_evolutions"] == 2
    assert read_dataset(again.file("development.zarr.zip")).sizes["lineage"] == 2 and before
    run = develop_run(tmp_path / "run", dict(n_seeds=3), n_evolutions=3, show=False)  # seeds and evolutions at once
    assert read_dataset(run.file("development.zarr.zip")).sizes == dict(
        read_dataset(run.file("development.zarr.zip")).sizes, lineage=3, seed=3
    )
    grown = {k: v for k, v in models(run.path).items() if "seed-2" not in k}
    assert grown == models(three.path)
    with pytest.raises(InputError, match="n_evolutions is 1, but .* has 3 already"):
        develop_run(run.path, n_evolutions=1, show=False)
    with pytest.raises(RunExistsError, match="evolution.n_evolutions"):
        experiment(run.path, tiny(3), resume=True, show=False)


def test_a_run_of_before_goes_on_with_its_one_evolution(one, tmp_path):
    import shutil

    shutil.copytree(one.path, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    about = read_json(path)
    del about["config"]["evolution"]["n_evolutions"]
    write_json(path, about)
    run = experiment(tmp_path / "run", tiny(), resume=True, show=False)
    assert run.summary()["n_evolutions"] == 1 and not list(run.path.glob("lineage-*"))


def test_verdicts_generalise_over_evolutions(one, three):
    alone, several = one.summary(), three.summary()
    assert "of one evolution)" in alone["statement"] and "components" not in alone["arms"]["random"]["test_difference"]
    assert "(3 evolutions x 2 newborns, 16 windows)" in several["statement"]
    d, ds = several["arms"]["random"]["test_difference"], read_dataset(three.file("development.zarr.zip"))
    gap = ds.test_window_loss.sel(arm="random") - ds.test_window_loss.sel(arm="connectome")
    assert d["units"] == dict(evolution=3, newborn=2, window=16) and d["mean"] == pytest.approx(float(gap.mean()))
    from scipy import stats

    means = gap.mean(("seed", "test_window")).values
    over = next(t for t in d["tests"] if t["over"] == "evolution")
    assert over["p"] == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert set(d["components"]) == {"evolution", "newborn", "window", "rest"}
    told = [(g["lineage"], g["generation"]) for g in several["generations"]]
    assert told == [(k, g) for k in range(3) for g in (0, 1)]
    assert json.loads(json.dumps(several))["n_evolutions"] == 3


def test_every_reader_knows_evolutions(three, tmp_path):
    table = newborn_table(three)
    assert list(table.columns[:3]) == ["arm", "lineage", "seed"] and len(table) == 18
    names = [(a, s) for a, s, _ in grown_newborns(three, ("random",))]
    assert names == [("random", k * 1000 + s) for k in range(3) for s in range(2)]
    source = grown_newborns(three, ("random",))[-1][2]
    opened = open_newborn(open_run(source.partition("::")[0]), source, "cpu")
    other = load_newborn(three, "random", 1, lineage=2)
    assert all((a == b).all() for a, b in zip(opened.model.state_dict().values(), other.state_dict().values()))
    with pytest.raises(InputError, match="no grown newborn random/5 of evolution 1"):
        load_newborn(three, "random", 5, lineage=1)
    with pytest.raises(InputError, match="lineage is 7"):
        load_generation(three, lineage=7)
    evolution, development = (read_dataset(three.file(f"{n}.zarr.zip")) for n in ("evolution", "development"))
    assert evolution.density.dims == ("lineage", "generation") and np.isfinite(evolution.final_val_loss).all()
    curves = figures.loss_curves(development, train=True)
    assert "mean over 3 evolutions" in curves.layout.title.subtitle.text
    names = {t.name for t in figures.generation_curves(evolution).data}
    assert len(figures.generation_curves(evolution).data) == 3 * len(names)
    assert "evolution 2" in figures.density_map(evolution, lineage=2).layout.title.text
    from evonb.widgets.connectome import find_source

    others = find_source(three.path).others
    assert {"random", "random of evolution 1", "connectome of evolution 2"} <= {a for a, _ in others}
    seen, last = others["connectome of evolution 2", 0](), load_generation(three, lineage=2)
    assert all((seen.signs(n) == s.numpy()).all() for n, s in last.signs.items())
    page = write_report(three.path).read_text()
    assert "3 evolutions x 2 newborns" in page and "evolution 2" in page
    from evonb.cli import results_text

    told = results_text(three.summary())
    assert told.count("\n0          ") >= 1 and "3 evolutions x 2 newborns" in told


def test_settings_that_can_not_be(one):
    for n in (0, -1, 1.5, True, "2"):
        with pytest.raises((InputError, TypeError)):
            replace(tiny(), evolution=replace(tiny().evolution, n_evolutions=n)).check()
    with pytest.raises(InputError, match="999"):
        many = replace(tiny(2).development, n_seeds=1000)
        replace(tiny(2), development=many).check()
    assert lineage_file(one, 0, "evolution") == one.file("evolution")
