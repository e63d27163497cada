"""Milestones: fits with known corners, charts of nothing, charts with a known onset, and runs that have none."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from evonb.cli import main
from evonb.core import InputError, Seeds
from evonb.development.milestones import (
    MILESTONES,
    Milestone,
    chart_rows,
    chart_statement,
    development_chart,
    example_probes,
    ramp_corners,
    run_chart,
    stays_beyond,
)
from evonb.report import example_run, report_html
from evonb.store import open_run, read_dataset, write_dataset
from evonb.widgets.connectome import ConnectomeExplorer
from evonb.widgets.monitor import Life, Live, Picture

NULL = ("attention-logits-grow", "context-helps", "uses-repeats", "remembers")


def nothing(rng, memory, n_units, n_looks=12, lineages=False):
    "Four measures of two arms in which nothing happens, with noise that remembers."
    shape = (2, n_units, *([2] if lineages else []), n_looks, 4)
    x = rng.normal(0, 1 / np.sqrt(max(1 - memory**2, 0.1)), shape)
    for t in range(1, n_looks):
        x[..., t, :] = memory * x[..., t - 1, :] + rng.normal(0, 1, x[..., t, :].shape)
    dims = ("arm", *(("lineage", "seed") if lineages else ("seed",)), "probe_step", "measure")
    coords = dict(arm=["connectome", "random"], probe_step=10 * np.arange(n_looks),
                  measure=[MILESTONES[n].measure for n in NULL])  # fmt: skip
    return xr.Dataset(dict(probes=(dims, x)), coords, dict(tokens_per_step=1))


@pytest.mark.parametrize("memory, n_units, lineages", [
    (0, 4, False), (1, 4, False), (0.95, 3, True)])  # fmt: skip
def test_at_most_a_twentieth_of_charts_tells_of_nothing(memory, n_units, lineages):
    rng = np.random.default_rng(0)
    charts = [development_chart(nothing(rng, memory, n_units, 8, lineages), NULL) for _ in range(100)]
    told = sum(any(c["says"] == "reached" for c in chart) for chart in charts)
    assert told <= 9  # at .05 it is more in 3 of 100 such tests, and in one direction it is half as many


def test_one_life_gives_no_verdict_whatever_it_shows():
    for d in (example_probes(Seeds(0), n_seeds=1), nothing(np.random.default_rng(0), 0.9, 1)):
        chart = development_chart(d)
        assert {c["says"] for c in chart} == {"can't be told from one seed"}
        assert "No milestone is told" in chart_statement(chart)
    one = nothing(np.random.default_rng(0), 0.9, 1, lineages=True) + 10 * np.arange(12)[:, None]
    one.attrs["tokens_per_step"] = 1
    assert {c["says"] for c in development_chart(one)} == {"can't be told from one evolution"}


def test_intervals_of_onsets_hold_and_differences_are_found():
    hold, later = 0, 0
    for k in range(25):
        cells = {(c["milestone"], c["arm"]): c for c in development_chart(example_probes(Seeds(k), noise=0.01))}
        onset = cells["uses-repeats", "connectome"]["onset"]
        hold += onset["low"] - 250 <= 4000 <= onset["high"] + 250  # looks are 500 tokens apart
        later += "later" in dict(zip(*chart_rows(list(cells.values()))[:2]))["random"] or \
            cells["uses-repeats", "random"]["difference"]["p_adjusted"] < 0.05
    assert hold >= 21 and later >= 21


@pytest.mark.parametrize("first, last", [(0, 5), (3, 9), (10, 19), (18, 19)])
@pytest.mark.parametrize("sign", [1, -1])
def test_ramps_are_found_exactly(first, last, sign):
    t = np.arange(20) * 7.0
    y = sign * np.interp(t, [t[first], t[last]], [2.0, 5.0])
    assert ramp_corners(t, y, sign) == (t[first], t[last])
    assert np.isnan(ramp_corners(t, y, -sign)).all()


def test_a_ramp_against_a_plain_search():
    rng = np.random.default_rng(3)
    t = np.sort(rng.choice(100, 15, replace=False)).astype(float)
    y = rng.normal(size=15).cumsum()
    errors = {}
    for i in range(15):
        for j in range(i + 1, 15):
            x = np.stack([np.ones(15), np.clip((t - t[i]) / (t[j] - t[i]), 0, 1)], 1)
            fit, *_ = np.linalg.lstsq(x, y, rcond=None)
            if fit[1] > 0:
                errors[t[i], t[j]] = ((x @ fit - y) ** 2).sum()
    assert ramp_corners(t, y) == min(errors, key=errors.get)


def test_series_with_gaps_and_of_one_look():
    assert ramp_corners([0, 1, 2, 3, 4], [0, np.nan, 0, 1, 1]) == (2, 3)
    assert np.isnan([*ramp_corners([0], [1]), *ramp_corners([], []), stays_beyond([], [], 0)]).all()
    long = np.arange(1000)
    begins, ends = ramp_corners(long, np.clip((long - 400) / 200, 0, 1))
    assert abs(begins - 400) < 26 and abs(ends - 600) < 26


def test_a_milestone_that_some_do_not_reach_tells_how_many():
    d = example_probes(Seeds(0), noise=0.01)
    d.probes.loc[dict(arm="connectome", seed=0, measure="bigram_lead")] = -0.01
    cell = next(c for c in development_chart(d) if (c["milestone"], c["arm"]) == ("beyond-bigrams", "connectome"))
    assert (cell["reached"], cell["n"], cell["onset"]) == (4, 5, None) and cell["says"] == "reached"
    assert any("4 of 5 reach it" in row for row in chart_rows([cell]))


def test_a_failed_newborn_and_an_arm_that_lives_longer_are_left_out_where_they_are_not():
    d = example_probes(Seeds(0))
    whole = development_chart(d)
    d.probes.loc[dict(arm="random", seed=2)] = np.nan
    d.probes.loc[dict(arm="random", probe_step=slice(80, None))] = np.nan
    cells = development_chart(d)
    assert [c["n"] for c in cells if c["arm"] == "random"] == [4] * 3
    assert [c["change"]["mean"] for c in cells if c["arm"] == "connectome"] == \
        [c["change"]["mean"] for c in whole if c["arm"] == "connectome"]


def test_a_chart_is_in_the_terminal_the_report_and_the_explorer(tmp_path, capsys):
    path, plain = (example_run(tmp_path / n, Seeds(1), 1) for n in ("probed", "plain"))
    development = read_dataset(path / "development.zarr.zip")
    arms = {a: 40 if a == "connectome" else 60 for a in map(str, development.arm.values)}
    probes = example_probes(Seeds(0), arms, development.sizes["seed"])
    write_dataset(path / "development.zarr.zip", development.assign(probes=probes.probes).assign_attrs(probes.attrs))
    assert main(["milestones", str(path), "--only", "uses-repeats"]) == 0
    told = capsys.readouterr().out
    assert "The connectome reaches 1 of 1 milestones, first uses-repeats; its random control is later" in told
    cells = development_chart(read_dataset(path / "development.zarr.zip"))
    page = report_html(open_run(path))
    assert "<h2>Milestones</h2>" in page and chart_statement(cells) in page
    seen = ConnectomeExplorer(path)
    assert [v.name for v in seen.views.values() if v.tab == "Milestones"] == ["milestones", "probes"]
    assert "uses-repeats" in page
    onsets = {c["arm"]: c["onset"]["mean"] for c in cells if c["milestone"] == "uses-repeats"}
    drawn = {t.name: dict(zip([c[0] for c in t.customdata], t.x)).get("uses-repeats")
             for t in seen.figure("milestones").data}  # fmt: skip
    assert {a: drawn[a] for a in ("connectome", "random")} == {a: onsets[a] for a in ("connectome", "random")}
    assert len(seen.figure("probes").layout.annotations) == 3
    assert not [v for v in ConnectomeExplorer(plain).views.values() if v.tab == "Milestones"]
    assert "<h2>Milestones</h2>" not in report_html(open_run(plain))


def test_the_monitor_shows_what_probes_told_last():
    life = Life("a newborn")
    told = dict(step=3, steps=9, seconds=1.0, train_loss=[2.0], val_step=[], val_loss=[])
    life.hear(told | dict(probes=dict(induction=0.25, log_z=float("nan"))))
    live = Live("a life", "connectome", [], Picture(lives={"x": life}, now="x"))
    assert ("induction", "0.25") in live.facts(0.5) and "log z" not in dict(live.facts(0.5))


def test_milestones_that_cannot_be_are_refused(tmp_path, capsys):
    with pytest.raises(InputError, match="way is 'left'"):
        Milestone("induction", "left")
    with pytest.raises(InputError, match="milestone is 'indction-head'.*Did you mean induction-head"):
        development_chart(example_probes(Seeds(0)), ["indction-head"])
    with zipfile.ZipFile(Path(__file__).parents[1] / "runs" / "connectome.zip") as z:
        z.extractall(tmp_path / "connectome")
    with pytest.raises(InputError, match="weren't probed.*--probes default"):
        run_chart(tmp_path / "connectome")
    assert main(["milestones", str(tmp_path / "connectome")]) == 2
    assert "--probes default" in capsys.readouterr().err
    assert main(["run", "--out", str(tmp_path / "new"), "--probes", "indction"]) == 2
    assert "Did you mean induction" in capsys.readouterr().err and not (tmp_path / "new").exists()
