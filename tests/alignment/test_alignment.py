"""Alignment of a run: every arm, seed and layer on human data; what is chosen, kept, resumed and refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats
from threadpoolctl import threadpool_info

from evonb.alignment import run as runs
from evonb.alignment.data import DATA, data_forms, image_arguments, open_data
from evonb.alignment.encoding import RidgeConfig, encode, make_folds
from evonb.alignment.features import ReadConfig, read
from evonb.alignment.parcels import near_points
from evonb.alignment.profile import part_table
from evonb.alignment.reading import BehaviorConfig, core_form
from evonb.alignment.responses import Responses, design, nuisance_design
from evonb.alignment.run import (
    AlignConfig,
    Candidate,
    align_run,
    alignment_command,
    candidates,
    ceilings,
    data_digest,
    default_place,
    fresh_base,
    open_candidate,
    training_counts,
)
from evonb.alignment.sources.toy_brain import toy_brain
from evonb.alignment.surfaces import read_surface
from evonb.alignment.volumes import read_volume, roi_table
from evonb.cli import main, with_settings
from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import preset
from evonb.core import InputError, RunExistsError, Seeds, Stopped, StopRequest, from_dict
from evonb.plots.style import NothingToPlot
from evonb.report import write_report
from evonb.store import open_run, read_dataset, read_json
from evonb.text.tokens import open_prepared
from evonb.training.base import open_base
from evonb.widgets.alignment import AlignmentExplorer

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    "A small connectome run with two arms of two newborns."
    tiny = preset("demo")
    tiny.model.n_layer, tiny.model.n_embd, tiny.corpus.n_bytes, tiny.corpus.vocab_size = 2, 32, 60_000, 300
    tiny.evolution.n_generations, tiny.evolution.rewind_step, tiny.evolution.n_evolutions = 1, 0, 1
    tiny.development.arms, tiny.development.n_seeds, tiny.development.lrs = ("connectome", "random"), 2, (0.016,)
    for life in (tiny.evolution.lifetime, tiny.development.lifetime):
        life.steps, life.batch_size, life.context = 20, 8, 64
    path = tmp_path_factory.mktemp("grown") / "run"
    experiment(path, tiny, show=False, device="cpu")
    return path


@pytest.fixture(scope="module")
def driven(grown):
    "A brain that responds to what the first newborn's second layer holds."
    people = dict(n_subjects=3, n_rois=4, n_sentences=120, ceiling=0.6, trivial=0)
    heard, _ = toy_brain(Seeds(3), **people)
    base = open_base(f"{grown}::connectome/0", "cpu")
    hidden = read(base, heard.passages, ReadConfig(layers=(2,)), show=False).hidden.values[0]
    return toy_brain(Seeds(3), features=hidden, **people)


def config(grown, **changes):
    return replace(AlignConfig(str(grown), "toy-brain", untrained=1, n_permutations=40, n_bootstrap=200), **changes)


def align(path, grown, data=None, **changes):
    return align_run(path, config(grown, **changes), show=False, device="cpu", data=data, cache=path.parent / "cache")


@pytest.fixture(scope="module")
def aligned(grown, driven, tmp_path_factory):
    return align(tmp_path_factory.mktemp("aligned") / "run", grown, driven[0])


def test_the_model_that_drives_a_brain_explains_it_best_and_beyond_the_nuisances(aligned, driven):
    ds = read_dataset(aligned.file("brain.zarr.zip"))
    assert set(ds.model.values) == {"connectome/0", "connectome/1", "random/0", "random/1", "untrained/0"}
    gain = ds.gain_best.mean("target").to_series()
    assert gain.idxmax() == "connectome/0" and gain["connectome/0"] > 0.05
    one = ds.sel(model="connectome/0", layer=2)
    assert float(one.r.mean()) > float(one.null_high) and (one.q_best < 0.05).mean() > 0.8
    for m in ds.model.values:  # all that a map can show is one family
        p = ds.p.sel(model=m).values
        assert np.allclose(ds.q.sel(model=m), stats.false_discovery_control(p.ravel()).reshape(p.shape))
    arms = read_json(aligned.file("summary.json"))["arms"]
    assert arms["connectome"]["significant"] == (ds.q_arm.sel(model="connectome/0") < 0.05).sum() > 0
    assert arms["connectome"]["n_targets"] == ds.sizes["target"]
    assert (one.r < driven[1].ceiling ** 0.5 + 0.1).all()
    assert np.isfinite(ds.ceiling).all() and (ds.ceiling < 1).all()


def test_parts_of_variance_are_kept_of_every_region_and_seen_there(grown, driven, tmp_path):
    few = dict(parts=("model", "position", "nuisance"), across=(), arms=("connectome",), layers=(2,), untrained=0)
    run = align(tmp_path / "run", grown, driven[0], **few)
    kept, told = read_dataset(run.file("parts.zarr.zip")), read_json(run.file("summary.json"))["people"]["parts"]
    assert kept.sizes == dict(model=2, part=7, fold=5, target=12) and kept.model.values[0] == "connectome/0"
    whole = part_table([kept.isel(model=i) for i in range(2)], kept.subject.values)
    assert list(whole) == list(told) == kept.part.values.tolist()
    assert all(np.isclose(whole[p]["mean"], told[p]["mean"], atol=1e-6) for p in told)
    seen = AlignmentExplorer(run)
    roi = driven[0].rois[1]
    bars = seen.figure("parts", region=roi).data[0]
    here = kept.isel(target=kept.roi.values == roi)
    assert np.allclose(bars.y, here.parts.mean(("model", "fold", "target")), atol=1e-6)
    assert np.allclose(seen.figure("parts").data[0].y, [v["mean"] for v in told.values()])
    assert seen.views["rois"].click == dict(region="key2") and seen.figure("rois").data[0].customdata[1][2] == roi
    assert "No parts of variance" not in seen.told
    run.file("parts.zarr.zip").unlink()
    older = AlignmentExplorer(run)
    assert older.ask("parts").figure is not None
    with pytest.raises(NothingToPlot, match="older version, which kept no parts of single regions"):
        older.ask("parts", region=roi)


def test_regions_that_are_parcels_fill_their_vertices(grown, driven, tmp_path):
    parcels = near_points(12)
    names = [name for *_, name in parcels.rows()]
    renamed = {r: names[i] for r, i in zip(driven[0].rois, (3, 7, 15, 20))}
    table = driven[0].targets.assign(roi=[renamed[r] for r in driven[0].targets.roi], x=np.nan, y=np.nan, z=np.nan)
    few = dict(across=(), arms=("connectome",), layers=(2,), untrained=0)
    run = align(tmp_path / "run", grown, replace(driven[0], targets=table, parcels=parcels, illustrative=False), **few)
    ds = read_dataset(run.file("brain.zarr.zip"))
    numbers = [names.index(n) for n in renamed.values()]
    assert ds.attrs["parcels_of"] == "fsaverage5" and ds.parcel_name.values.tolist() == names
    left = read_surface(run.file("maps", "connectome-gain.left.gii"))
    for roi, i in zip(renamed.values(), numbers):
        side = i // 12
        assert np.array_equal(ds.parcel.values[side] == i, parcels.labels[["left", "right"][side]] == i % 12 + 1)
        if side == 0:
            score = float(ds.gain_best[:, ds.roi.values == roi].mean())
            assert np.allclose(left.values[parcels.labels["left"] == i + 1], score, atol=1e-6)
    assert np.isfinite(left.values).sum() == np.isin(parcels.labels["left"], [4, 8]).sum()
    seen = AlignmentExplorer(run)
    part = next(iter(seen.found.brain.values()))
    assert "slices" not in seen.views and part.places.roi.tolist() == list(renamed.values())
    places, scores = part.vertex_places()[1], seen.ask("map").arrays[0][part.measures.index("gain"), 0, 0]
    assert np.array_equal(np.unique(places), [-1, 2, 3])
    assert np.array_equal(places == 3, parcels.labels["right"] == 9) and np.isclose(
        scores[3], ds.gain.isel(layer=0, target=ds.roi.values == names[20]).mean(), rtol=1e-5)
    assert "parcels of a surface" not in seen.figure("map").layout.title.text and "slices" not in seen.views
    with pytest.raises(NothingToPlot, match="parcels of a surface"): part.map_reply("volume")


def test_every_part_is_written_and_says_where_it_comes_from(aligned):
    summary = read_json(aligned.file("summary.json"))
    assert summary["kind"] == "alignment" and set(summary["arms"]) == {"connectome", "random", "untrained"}
    assert summary["arms"]["connectome"]["difference"] is None
    said = summary["statement"]
    assert said.startswith("On toy-brain, connectome ") and "3 people, 5 blocks)" in said
    assert summary["item"] == "person" and any("random minus connectome" in x for x in summary["comparisons"])
    assert any("mean of a fold's test samples" in x for x in summary["facts"])
    volume = read_volume(aligned.file("maps", "connectome-gain.nii.gz"))
    assert volume.illustrative and volume.provenance["arm"] == "connectome"
    left = read_surface(aligned.file("maps", "connectome-gain.left.gii"))
    assert left.illustrative and np.isfinite(left.values).any() and left.provenance["arm"] == "connectome"
    ds = read_dataset(aligned.file("brain.zarr.zip"))
    rows = ds.isel(model=ds.arm.values == "connectome")  # of layers chosen on other folds
    known = roi_table(volume).set_index("roi")["value"]
    for roi in known.index:
        assert known[roi] == pytest.approx(float(rows.gain_best[:, ds.roi.values == roi].mean()), 1e-4)
    assert volume.provenance["layer"] == "chosen on the other folds"
    assert not list(aligned.path.glob("layers/*"))
    page = write_report(aligned.path).read_text(encoding="utf-8")
    assert "Brain: layer by layer" in page and "illustrative" in page and "Not yet run" not in page


def test_rows_are_scored_in_the_same_folds_and_judged(aligned, driven):
    ds, summary = read_dataset(aligned.file("brain.zarr.zip")), read_json(aligned.file("summary.json"))
    rows = ["autocorrelation", "position", "word-rate", "unigram", "bigram", "5-gram", "static-embeddings"]
    assert ds.row.values.tolist() == rows and np.isfinite(ds.row_gain_fold).all()
    data = driven[0].cleaned()
    places = np.concatenate([np.linspace(0, 1, len(p.spans)) for p in data.passages])
    X = design(data, np.column_stack([places, places**2, np.linspace(0, 1, len(places))]))
    confounds = np.hstack(list(nuisance_design(data).values()))
    config = RidgeConfig(trim=5, scale=False)
    by_hand = encode(X, data.data, groups=data.groups, config=config, confounds=confounds)
    position = ds.row_gain_fold.sel(row="position").transpose("fold", "target")
    np.testing.assert_allclose(position, by_hand.gain, atol=1e-9)
    versus = summary["arms"]["connectome"]["rows"]
    assert set(versus) == {*rows, "untrained"} and all(d["family"] == 8 for d in versus.values())
    people = data.targets.subject.to_numpy()
    gain = lambda v: np.array([v[..., people == p].mean() for p in dict.fromkeys(people)])
    mean = np.mean(gain(ds.gain_best.values[:2]) - gain(position.values))
    assert versus["position"]["mean"] == pytest.approx(mean)
    assert any("rows that a model must beat" in x for x in summary["facts"])


def test_shuffled_folds_are_a_demonstration_without_a_verdict(grown, driven, tmp_path):
    few = dict(arms=("connectome",), layers=(2,), untrained=0, n_permutations=20)
    run = align(tmp_path / "run", grown, driven[0], ridge=RidgeConfig(folds="shuffled"), **few)
    summary = read_json(run.file("summary.json"))
    assert summary["statement"].startswith("A demonstration on toy-brain, no result") and not summary["comparisons"]
    arm = summary["arms"]["connectome"]
    assert all(d["p"] is None and d["low"] is None for d in (arm["gain"], arm["r"], *arm["rows"].values()))
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "No verdict is given" in page
    told = " ".join(summary["facts"])
    assert "no intervals, tests or verdicts" in told and "clear gain" not in told and "can be clear" not in told
    assert "significant" not in arm and "family" not in arm["gain"]


def test_ceilings_are_of_the_folds_that_are_scored(aligned, driven):
    ds, people = read_dataset(aligned.file("brain.zarr.zip")), driven[0].cleaned()
    folds = make_folds(len(people.data), people.groups, RidgeConfig(trim=5 if people.kind == "series" else 0))
    t = people.targets.reset_index(drop=True)
    for j in range(len(t)):
        others = t.index[(t.roi == t.roi[j]) & (t.index != j)]
        by_hand = [stats.pearsonr(people.data[test, j], people.data[test][:, others].mean(1))[0] for _, test in folds]
        assert float(ds.ceiling[j]) == pytest.approx(np.mean(by_hand), abs=1e-5)
    assert not np.allclose(ds.ceiling, ceilings(people), atol=1e-3)  # not of all scans at once


@pytest.mark.parametrize("n_people", [2, 1])
def test_a_region_that_is_constant_for_a_while_is_left_out_there_by_name(n_people, grown, tmp_path):
    heard, _ = toy_brain(Seeds(3), n_subjects=n_people, n_rois=2, n_sentences=80)
    data, folds = heard.data.copy(), make_folds(len(heard.data), heard.groups)
    data[folds[0][1], 1] = 4.5  # the fold's test samples
    few = dict(arms=("random",), layers=(0,), untrained=0, n_permutations=20)
    run = align(tmp_path / "run", grown, replace(heard, data=data), **few)
    ds, summary = read_dataset(run.file("brain.zarr.zip")), read_json(run.file("summary.json"))
    name, gone = heard.targets["target"].iloc[1], ds.left_out.values
    assert gone[:, 1].tolist() == [True, False, False, False, False] and not np.delete(gone, 1, 1).any()
    assert np.array_equal(np.isnan(ds.gain_fold[0, 0].transpose("fold", "target")), gone)
    assert np.isfinite(ds.gain_best).all() and np.isfinite(summary["arms"]["random"]["gain"]["mean"])
    for told in (summary["facts"], json.loads(ds.notes)): assert any("1 of" in x and name in x for x in told), told
    assert name in write_report(run.path).read_text(encoding="utf-8")
    data[folds[1][0], 1] = 4.5  # the second fold's training samples, so the test samples of all others
    run = align(tmp_path / "more", grown, replace(heard, data=data), **few)
    ds, summary = read_dataset(run.file("brain.zarr.zip")), read_json(run.file("summary.json"))
    assert np.isnan(ds.gain_best[0, 1]) and np.isfinite(np.delete(ds.gain_best[0], 1)).all()
    assert summary["arms"]["random"]["n_targets"] == ds.sizes["target"] - 1
    assert any(f"{name} in every fold" in x for x in summary["facts"])
    assert np.isfinite(summary["arms"]["random"]["gain"]["mean"])


def test_a_region_without_data_keeps_its_place_in_maps_and_is_counted(grown, tmp_path):
    heard, _ = toy_brain(Seeds(3), n_subjects=1, n_rois=2, n_sentences=60)
    place = dict(target="empty", roi="empty", subject=heard.subjects[0], x=20.0, y=-70.0, z=30.0)
    gone = pd.DataFrame([place | dict(place=1, why="have no voxel")])
    notes = ["1 of 3 targets have no voxel and are left out: empty"]
    few = dict(arms=("random",), layers=(0,), untrained=0, n_permutations=20, block=5)
    run = align(tmp_path / "run", grown, replace(heard, left_out=gone, notes=notes), **few)
    ds = read_dataset(run.file("brain.zarr.zip"))
    assert ds.attrs["n_targets_left_out"] == 1 and json.loads(ds.targets_left_out) == {"have no voxel": 1}
    assert ds.target_left_out.values.tolist() == ["empty"] and ds.why_left_out.values.tolist() == ["have no voxel"]
    assert ds.sizes["target"] == 2 and np.isfinite(ds.gain_best).all()
    volume = read_volume(run.file("maps", "random-gain.nii.gz"))
    table = roi_table(volume).set_index("roi")
    assert np.isnan(table.value["empty"]) and table.value.notna().sum() == 2 and table.x["empty"] == 20
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "have no voxel and are left out: empty" in page


def test_vertices_keep_their_places_in_maps(grown, tmp_path):
    heard, _ = toy_brain(Seeds(3), n_subjects=2, n_rois=2, n_sentences=60)
    names = [f"{p} {v}" for p in heard.subjects for v in ("left vertex 5", "right vertex 9")]
    vertices = heard.targets.assign(target=names, roi=["cortex left", "cortex right"] * 2, x=-40.0, y=-20.0, z=10.0)
    few = dict(arms=("random",), layers=(0,), untrained=0, n_permutations=20, block=5)
    run = align(tmp_path / "run", grown, replace(heard, targets=vertices), **few)
    ds = read_dataset(run.file("brain.zarr.zip"))
    for side, at in (("left", 5), ("right", 9)):
        found = read_surface(run.file("maps", f"random-gain.{side}.gii"))
        scores = ds.gain_best.values[:, ds.target.str.endswith(f"{side} vertex {at}")]  # models and people
        assert scores.shape == (2, 2) and found.values[at] == pytest.approx(scores.mean(), abs=1e-6)
        assert np.isfinite(found.values).sum() == 1 and found.name == "random gain"
    assert not list(run.path.glob("maps/*.nii.gz"))  # two means over whole hemispheres would say nothing


def test_a_region_of_nothing_but_drift_is_left_out_by_name():
    heard, _ = toy_brain(Seeds(3), n_subjects=2, n_rois=2, n_sentences=60)
    slow = np.concatenate([np.linspace(-1, 1, w.stop - w.start) for _, w in heard.runs])[:, None]
    data = heard.data.copy()
    data[:, 1:2] = 100 + 3 * slow
    clean = replace(heard, data=data, nuisance=heard.nuisance | dict(drift=slow)).cleaned()
    gone = heard.targets["target"].iloc[1]
    assert clean.targets["target"].tolist() == [t for t in heard.targets["target"] if t != gone]
    assert clean.data.shape[1] == 3 and gone in clean.notes[-1]


class StopAfter(StopRequest):
    "Asks for a stop at its n-th look."
    def __init__(self, n): super().__init__(); self.left = n
    def __bool__(self):
        self.left -= 1
        if self.left == 0: self.set("test")
        return super().__bool__()


def test_without_nuisances_the_gain_is_all_of_it(aligned, grown, driven, tmp_path):
    few = dict(arms=("connectome",), layers=(2,), untrained=0, n_permutations=20)
    run = align(tmp_path / "run", grown, driven[0], nuisance=("none",), **few)
    ds, full = (read_dataset(r.file("brain.zarr.zip")) for r in (run, aligned))
    arm = read_json(run.file("summary.json"))["arms"]["connectome"]
    assert np.isnan(ds.r_confounds).all() and "r_beyond" not in arm
    assert float(ds.gain.mean()) > float(full.gain.sel(model="connectome/0", layer=2).mean())
    assert "Not yet run" not in write_report(run.path).read_text(encoding="utf-8")


@pytest.mark.parametrize("n", [2, 5, 9])
def test_a_stopped_run_goes_on_and_ends_with_the_same_numbers(n, aligned, grown, driven, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(Stopped):
        align_run(path, config(grown), True, False, StopAfter(n), "cpu", driven[0], tmp_path / "c")
    assert open_run(path).state()["status"] == "stopped" and not (path / "summary.json").exists()
    again = align(path, grown, driven[0])
    a, b = (read_dataset(r.file("brain.zarr.zip")) for r in (again, aligned))
    xr.testing.assert_identical(a, b)


def test_a_killed_command_goes_on_and_ends_with_the_same_numbers(grown, tmp_path):
    "SIGKILL after the second layer's scores, SIGTERM after the first model's; then to the end."
    few = dict(data="toy-brain", untrained=0, n_permutations=20, n_bootstrap=100, arms=("random",))
    whole = align_run(tmp_path / "whole", replace(config(grown), **few), show=False, device="cpu", cache=tmp_path / "c")
    path, words = tmp_path / "run", alignment_command(replace(config(grown), **few))
    n = next(i["num_threads"] for i in threadpool_info() if i["internal_api"] == "openblas")
    threads = {f"{k}_NUM_THREADS": str(n) for k in ("OMP", "OPENBLAS", "MKL")}  # others round otherwise

    def sent(what, pattern, n):
        p = subprocess.Popen([Path(sys.executable).parent / "evonb", *words[1:], f"--out={path}", "--device=cpu"],
                             stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             env=os.environ | threads | dict(EVONB_CACHE=str(tmp_path / "cache")))  # fmt: skip
        while p.poll() is None and len(list(path.glob(pattern))) < n: time.sleep(0.001)
        p.send_signal(what)
        return p.communicate()[1], p.returncode

    assert sent(signal.SIGKILL, "layers/*/*.zarr.zip", 2)[1] == -signal.SIGKILL
    assert open_run(path).state()["status"] == "interrupted"
    err, code = sent(signal.SIGTERM, "models/*.zarr.zip", 1)
    assert code == 130 and "SIGTERM" in err and open_run(path).state()["status"] == "stopped", err
    again = align_run(path, replace(config(grown), **few), show=False, device="cpu", cache=tmp_path / "c")
    a, b = (read_dataset(r.file("brain.zarr.zip")) for r in (again, whole))
    xr.testing.assert_identical(a, b)
    assert [p.relative_to(path).as_posix() for p in path.rglob("*.tmp")] == []


def test_newborns_that_came_later_are_scored_too_and_the_others_only_once(grown, tmp_path):
    source, few = tmp_path / "grown", dict(data="toy-brain", untrained=0, n_permutations=20, layers=(1,))
    shutil.copytree(grown, source)
    shutil.move(source / "development" / "random" / "seed-1", tmp_path / "later")
    settings = replace(config(source), **few)
    run = align_run(tmp_path / "run", settings, show=False, device="cpu", cache=tmp_path / "cache")
    before = {p.name: p.stat().st_mtime_ns for p in run.path.glob("models/*")}
    assert len(before) == 3 and "random/1" not in read_dataset(run.file("brain.zarr.zip")).model
    shutil.move(tmp_path / "later", source / "development" / "random" / "seed-1")
    run = align_run(tmp_path / "run", settings, show=False, device="cpu", cache=tmp_path / "cache")
    after = {p.name: p.stat().st_mtime_ns for p in run.path.glob("models/*")}
    assert len(after) == 4 and before.items() <= after.items()
    assert "random/1" in read_dataset(run.file("brain.zarr.zip")).model
    assert read_json(run.file("summary.json"))["arms"]["random"]["n_seeds"] == 2


def test_reading_times_of_every_arm(grown, tmp_path):
    behavior = BehaviorConfig(2, frequency=("toy-english", "training"), n_bootstrap=200, drop_last=True)
    settings = config(grown, data="toy-reading", behavior=behavior)
    run = align_run(tmp_path / "run", settings, show=False, device="cpu", cache=tmp_path / "cache")
    ds, summary = read_dataset(run.file("reading.zarr.zip")), read_json(run.file("summary.json"))
    assert ds.surprisal.shape == (9, ds.sizes["word"])
    counted = ["unigram", "bigram", "5-gram", "static-embeddings"]
    assert ds.arm.values.tolist() == [*["connectome"] * 2, *["random"] * 2, "untrained", *counted]
    assert set(summary["arms"]["random"]["rows"]) == {*counted, "untrained"} and not summary["arms"]["unigram"]["rows"]
    words = np.isfinite(ds.time.values)
    by_hand = [stats.pearsonr(s[words & ds.used.values], ds.time.values[words & ds.used.values])[0]
               for s in ds.surprisal.values]
    np.testing.assert_allclose(ds.pearson_pooled.values, by_hand, atol=1e-10)
    assert summary["modality"] == "reading" and summary["arms"]["random"]["difference"]["p"] is not None
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "Word by word" in page and "ms per bit" in page and "gain over readers" in page
    assert "Reading times" in page and "lack a previous word" in page and "are the last of their story" in page
    assert summary["left_out"]["story 1"] == {"are the last of their story": 1, "lack a previous word": 2}
    assert int(ds.left_out.sum()) == ds.n_left_out == (~ds.fitted.values).sum() == 3 * 6
    assert summary["dropped"] == dict(single_times=summary["dropped"]["single_times"], readers=0)
    random = summary["arms"]["random"]
    assert ds.reading_model == "slopes" and random["reader_gain"]["units"] == dict(seed=2, person=30, story=6)
    assert random["gain"]["units"] == random["difference"]["units"] == dict(seed=2, story=6, person=30)
    over = {t["over"]: t for t in random["gain"]["tests"]}
    mean, readers = random["gain"]["mean"], ds.reader_gain.values[ds.arm.values == "random"].mean(0)
    t = mean / (readers.std(ddof=1) / len(readers) ** 0.5)
    assert over["person"]["p"] == pytest.approx(2 * stats.t.sf(abs(t), len(readers) - 1)) and "both" in over
    assert random["gain"]["p"] == max(t["p"] for t in over.values())
    assert set(random["slope"]["units"]) == {"seed", "person", "story"} and random["curve"]["family"] == 7
    assert "On log times" in summary["statement"] and "Over 30 people and 6 stories at once" in summary["statement"]
    facts = " | ".join(summary["facts"])
    assert "single times of 30 people" in facts and "spillover: 2 previous words, as was asked" in facts
    assert "cover 100.0% of the words read" in facts and "18 of 1,500 words are in no regression" in facts
    assert pd.read_csv(run.file("scores.csv")).n_left_out.tolist() == [3] * 54


def test_what_a_run_was_trained_on_is_counted(grown, tmp_path):
    "The text comes back from the tokens to the letter; its unigrams add nothing to a baseline that counts it."
    counts, run = training_counts(str(grown)), open_run(grown)
    corpus = open_prepared(run.file("corpus"))
    blocks = [*corpus.texts("evolution"), *corpus.texts("development")]
    n_bytes = sum(corpus.splits[s].n_bytes for s in ("evolution", "development"))
    assert sum(len(t.encode()) for t in blocks) == n_bytes
    by_hand = Counter(core_form(w) for t in blocks for w in t.split())
    assert counts.frequencies.counts == by_hand and training_counts(f"{grown}::random/0").name == counts.name
    behavior = BehaviorConfig(2, "plain", frequency=("training",), n_bootstrap=20)
    settings = config(grown, data="toy-reading", behavior=behavior, arms=("random",), untrained=0)
    run = align_run(tmp_path / "run", settings, show=False, device="cpu", cache=tmp_path / "cache")
    ds = read_dataset(run.file("reading.zarr.zip"))
    assert abs(float(ds.gain_mean.sel(model="unigram/0"))) < 1e-9 and counts.name in ds.frequency
    assert "the slopes of unigram/0 can't be told from the baseline's" in ds.notes
    assert training_counts("smollm2-135m-instruct") is None


def test_a_table_is_described_on_the_command_line(grown, tmp_path):
    rows = ["subject;item;zone;word;RT;again",
            *(f"{p};{1 + i // 30};{i};w{i % 7};0,{300 + 7 * (i % 5) + 20 * p};9" for p in range(3) for i in range(60))]
    (tmp_path / "their times.CSV").write_text("\n".join(rows), encoding="utf-8")
    fast = ["--set", 'behavior.frequency=["training"]', "--set", "behavior.n_bootstrap=20"]
    command = ["align", str(grown), "--data", str(tmp_path / "their times.CSV"), "--arms", "random", "--untrained", "0",
               "--device", "cpu", *fast, "--out"]
    assert main([*command, str(tmp_path / "ms")]) == 2  # seconds, and said to be so
    assert main([*command, str(tmp_path / "s"), "--set", "table.unit=s", "--set", 'columns={"time":"RT"}']) == 0
    run = open_run(tmp_path / "s")
    summary, data = read_json(run.file("summary.json")), read_json(run.file("data.json"))
    assert data["name"] == summary["data"] == "their times"
    assert any("time = 'RT', order = 'zone', story = 'item', reader = 'subject'" in n for n in summary["notes"])
    again = alignment_command(from_dict(AlignConfig, run.config))
    assert '--set=columns={"time": "RT"}' in again and "--set=table.unit=s" in again
    assert with_settings(AlignConfig(*again[2:5:2]), [w[6:] for w in again if w.startswith("--set=")]) == from_dict(
        AlignConfig, run.config)


def test_untrained_models_depend_on_their_seed_alone(grown):
    made = candidates(config(grown, untrained=2))[-2:]
    a, b = (open_candidate(c, 0, "cpu").digest for c in made)
    assert a != b and open_candidate(made[0], 0, "cpu").digest == a != open_candidate(made[0], 1, "cpu").digest
    base = open_base(f"{grown}::random/1", "cpu")
    assert fresh_base(base, Seeds(5)).digest != base.digest


def test_where_it_goes(grown):
    assert default_place(str(grown), "alice") == grown / "alignment" / "alice"
    assert default_place("smollm2-135m-instruct", "x/my times.csv").as_posix() == (
        "runs/align-smollm2-135m-instruct-my-times")


def test_other_data_or_settings_are_refused(aligned, grown, driven, tmp_path):
    with pytest.raises(RunExistsError, match="n_permutations: 40 there, 60 asked"):
        align(aligned.path, grown, driven[0], n_permutations=60)
    other = replace(driven[0], data=driven[0].data + 1)
    with pytest.raises(InputError, match="began with other data"): align(aligned.path, grown, other)
    assert data_digest(other) != data_digest(driven[0])


def test_a_source_under_another_path_is_the_same_run(aligned, grown, driven, tmp_path, monkeypatch):
    shutil.copytree(grown, tmp_path / "moved")
    shutil.copytree(aligned.path, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    for source in ("moved", "./moved/", str(tmp_path / "moved")):
        again = align_run("run", config(source), show=False, device="cpu", data=driven[0], cache=tmp_path / "cache")
        assert again.config["source"] == str(grown) and again.state()["status"] == "complete"
    with pytest.raises(InputError, match="began with other data"):
        align_run("run", config("moved"), show=False, data=replace(driven[0], data=driven[0].data + 1))
    assert open_run("run").state()["status"] == "complete"  # what was refused is no failure of the run
    renamed = replace(driven[0], name="called otherwise")
    assert align_run("run", config("moved"), show=False, data=renamed).state()["status"] == "complete"


@pytest.mark.parametrize("changes, message", [
    (dict(source=""), "source is empty"),
    (dict(data=""), "data is empty"),
    (dict(data="nothing"), "is no data set and no file"),
    (dict(arms=("dense",)), "must be one of: connectome, random"),
    (dict(layers=(9,)), "9"),
    (dict(nuisance=("weather",)), "weather"),
    (dict(how="median"), "average, sum, lanczos"),
    (dict(delays=()), "delays are"),
    (dict(n_permutations=3), "at least 20"),
    (dict(source="no/such/run"), "is no base model"),
])
def test_bad_settings(changes, message, grown, tmp_path):
    with pytest.raises((InputError, FileNotFoundError), match=message):
        align_run(tmp_path / "run", config(grown, **changes), show=False, device="cpu", cache=tmp_path / "cache")
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_path_is_opened_by_what_it_says(tmp_path):
    rows = ["word,time,order,story", *(f"w{i},{300 + 7 * (i % 5)},{i},{1 + i // 30}" for i in range(60))]
    (tmp_path / "times.csv").write_text("\n".join(rows))
    reading = open_data(str(tmp_path / "times.csv"))
    assert len(reading.passages) == 2 and reading.time[0] == 300
    (tmp_path / "images.json").write_text(json.dumps(dict(images=["a.nii.gz"])))
    with pytest.raises(InputError, match=r"must be like [{][^{}]*[}][.]$"): open_data(str(tmp_path / "images.json"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="isn't of a kind"): open_data(str(tmp_path / "notes.txt"))


def test_images_are_named_by_their_paths_and_regions_by_their_names(tmp_path):
    import nibabel as nib
    rng, affine, path = Seeds(0).numpy(), np.diag([2., 2, 2, 1]), tmp_path / "images.json"
    run = nib.Nifti1Image(rng.random((3, 4, 2, 5), np.float32), affine)
    run.header.set_xyzt_units("mm", "sec")
    run.header["pixdim"][4] = 2
    nib.save(run, tmp_path / "run.nii")
    labels = np.ones((3, 4, 2), np.int16)
    labels[1:] = 2
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "atlas.nii")
    (tmp_path / "events.tsv").write_text("onset\tword\n" + "".join(f"{i / 2}\tw{i}\n" for i in range(12)))
    given = dict(images=["run.nii"], events=["events.tsv"], atlas="atlas.nii", labels={"1": "left", "2": "right"})
    path.write_text(json.dumps(given))
    assert open_data(str(path)).targets["roi"].tolist() == ["left", "right"] # not paths
    path.write_text(json.dumps(given | dict(images=dict(left="run.nii", right="atlas.nii")))) # as hemispheres
    assert image_arguments(path)["images"] == dict(left=tmp_path / "run.nii", right=tmp_path / "atlas.nii")
    for changes, message in ((dict(events=["none.tsv"]), "none.tsv, as named by events in .*images.json"),
                             (dict(mask="x" * 999), "no file .*x, as named by mask"),
                             (dict(events=[["events.tsv"]]), "an item of events in .* must be a string"),
                             (dict(images=dict(left=7, right="run.nii")), "images in .* is 7, but must be a string"),
                             (dict(confound_columns=[{}]), "an item of confound_columns .* must be a string"),
                             (dict(mask=7), "mask in .* must be a string or null"), (dict(masks="a"), "a key of")):
        path.write_text(json.dumps(given | changes))
        with pytest.raises((InputError, FileNotFoundError), match=message): open_data(str(path))


def test_one_model_beside_untrained_ones(grown, tmp_path):
    found = candidates(config(grown, source="toy", untrained=2))
    assert [c.name for c in found] == ["toy/0", "untrained/0", "untrained/1"] and not found[0].fresh
    with pytest.raises(InputError, match="single model"): candidates(config(grown, source="toy", arms=("connectome",)))


def test_toy_data_need_nothing(monkeypatch):
    monkeypatch.delenv("EVONB_DATA", raising=False)
    assert isinstance(open_data("toy-brain"), Responses) and open_data("toy-reading").readers is not None
    assert data_digest(open_data("toy-brain", Seeds(1))) != data_digest(open_data("toy-brain", Seeds(2)))
    assert set(data_forms()) >= {"natural-stories", "alice", "tuckute2024", "TABLE.csv"} and "alice" in DATA


def test_a_model_called_as_what_stands_beside_it_keeps_its_own_row(grown, tmp_path, monkeypatch):
    for name in ("untrained", "unigram", "bigram"):
        found = candidates(config(grown, source=str(tmp_path / name), untrained=1))
        assert [c.name for c in found] == [f"{name}-model/0", "untrained/0"]


def test_an_arm_called_as_what_stands_beside_it_is_refused(grown, monkeypatch):
    monkeypatch.setattr(runs, "grown", lambda run, arms: [Candidate("unigram", 0, "x"), Candidate("random", 0, "y")])
    with pytest.raises(InputError, match="has an arm called 'unigram'.*another name"): candidates(config(grown))


def test_a_folder_that_one_stands_in_has_its_own_name(grown, tmp_path, monkeypatch):
    (tmp_path / "my-model" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "my-model")
    for spelled, called in (
        (".", "my-model"),
        ("./", "my-model"),
        ("..", tmp_path.name),
        ("below/..", "my-model"),
        (".::model", "my-model::model"),
        ("below", "below"),
    ):
        assert candidates(config(grown, source=spelled))[0].arm == called
    assert candidates(config(grown, source=str(tmp_path / "my-model")), ".")[0].arm == "my-model"  # as it was noted
    assert default_place(".", "toy-brain") == Path("runs/align-my-model-toy-brain")
    assert default_place("toy", ".") == Path("runs/align-toy-my-model")
