"""Where in learning a head start lies: against curves whose lead is known, and in the data, table and page of a run."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from evonb.cli import connectome_text, learning_text
from evonb.connectomes.learning import by_unit, learning_rows, steps_to_reach, where_in_learning
from evonb.plots import learning_gaps
from evonb.plots.style import NothingToPlot
from evonb.report import learning_html

RUN = Path(__file__).parents[1] / "runs" / "connectome.zip"
STEPS = np.arange(0, 101, 10)


def curves(shapes, n_seeds=5, n_lineages=None, noise=0.01, seed=0):
    rng, extra = np.random.default_rng(seed), () if n_lineages is None else (n_lineages,)
    shift = noise * rng.normal(size=(*extra, n_seeds, 1))  # shared by siblings: pairs take it away
    values = np.stack([shift + s + noise * rng.normal(size=(*extra, n_seeds, len(STEPS))) for s in shapes.values()])
    dims = ("arm", *(["lineage"] if extra else []), "seed", "eval_step")
    coords = dict(arm=list(shapes), eval_step=STEPS) | (dict(lineage=range(n_lineages)) if extra else {})
    c = xr.DataArray(values, dims=dims, coords=coords)
    return xr.Dataset(dict(val_loss=c, final_val_loss=c.isel(eval_step=-1, drop=True)))


LINE = 4 - STEPS / 100


def test_leads_and_times_are_those_that_were_put_in():
    shapes = dict(dense=LINE, ahead=LINE - 0.3, gone=np.where(STEPS <= 40, LINE - 0.3, LINE), behind=LINE + 0.3)
    found = where_in_learning(curves(shapes, seed=1))
    assert found["ahead"]["to_the_end"] and found["ahead"]["until"] == 100
    assert found["gone"]["until"] == 40 and not found["gone"]["to_the_end"]
    assert found["behind"]["until"] is None and found["behind"]["reach"] == dict(steps=None, reached=0, n=5)
    assert found["ahead"]["reach"]["steps"]["mean"] == pytest.approx(70, abs=3)
    assert found["dense"]["start"]["mean"] - found["ahead"]["start"]["mean"] == pytest.approx(0.3, abs=0.03)
    assert "lead" not in found["dense"] and found["dense"]["reach"]["reached"] == 5


def test_tests_are_paired_t_tests_over_newborns_or_over_means_of_evolutions():
    for n_lineages in (None, 4):
        ds = curves(dict(dense=LINE, other=LINE - 0.01), n_lineages=n_lineages)
        gap = (ds.val_loss.sel(arm="dense") - ds.val_loss.sel(arm="other")).sel(eval_step=30)
        values = gap.mean("seed").values if n_lineages else gap.values
        told = where_in_learning(ds)["other"]["lead"][30]
        assert told["mean"] == pytest.approx(values.mean()) and told["p"] == pytest.approx(
            stats.ttest_1samp(values, 0).pvalue
        )
        assert told["p_adjusted"] >= told["p"]
        assert by_unit(gap)[1] == (("evolution",) if n_lineages else ("seed",))


def test_nothing_is_clear_by_chance_or_from_one_newborn():
    wrong = sum(where_in_learning(curves(dict(dense=LINE, same=LINE), seed=k))["same"]["until"] is not None
                for k in range(30))  # fmt: skip
    assert wrong <= 4  # 5 % for all validations of a curve together, one-sided half of it
    one = where_in_learning(curves(dict(dense=LINE, ahead=LINE - 1), n_seeds=1))["ahead"]
    assert one["until"] is None and one["lead"][100]["one"] == "seed" and one["start"]["low"] is None
    assert learning_rows(dict(ahead=one), 10)[0][-1] == "never clear"


def test_failed_newborns_longer_lives_and_runs_without_step_0():
    ds = curves(dict(dense=LINE, longer=LINE - 0.3))
    ds.val_loss[0, :, 6:] = np.nan  # dense lives to step 50
    ds["final_val_loss"] = ds.final_val_loss.copy()
    ds.final_val_loss[0] = ds.val_loss[0, :, 5]
    ds.val_loss[1, 2], ds.final_val_loss[1, 2] = np.nan, np.nan  # a newborn that failed
    found = where_in_learning(ds)
    assert max(found["longer"]["lead"]) == 50 and found["longer"]["to_the_end"]
    assert found["longer"]["reach"]["n"] == found["longer"]["reach"]["reached"] == 4
    assert found["longer"]["reach"]["steps"]["mean"] == pytest.approx(20, abs=3)
    late = where_in_learning(ds.isel(eval_step=slice(1, None)))
    assert late["longer"]["start"] is None and learning_rows(late, 10)[0][1] == "–"
    assert where_in_learning(ds.sel(arm=["longer"])) == {}


def test_a_target_between_validations_and_at_birth():
    assert steps_to_reach([0, 10], [4.0, 2.0], 3.5) == 2.5
    assert steps_to_reach([0, 10, 20], [4.0, np.nan, 2.0], 3.0) == 10
    assert steps_to_reach([0, 10], [4.0, 2.0], 5) == 0 and np.isnan(steps_to_reach([0, 10], [4.0, 2.0], 1))


def test_figure_text_and_page_show_it_and_runs_of_before_do_without():
    ds = curves(dict(dense=LINE, ahead=LINE - 0.3), n_lineages=3).assign_attrs(tokens_per_step=1000)
    fig = learning_gaps(ds)
    line = next(t for t in fig.data if t.mode == "lines+markers")
    assert list(line.x) == [1000 * t for t in STEPS] and np.allclose(line.y, 0.3, atol=0.03)
    assert "evolutions" in fig.layout.title.subtitle.text
    with pytest.raises(NothingToPlot, match="nothing to hold against dense"):
        learning_gaps(ds.sel(arm=["ahead"]))
    found = json.loads(json.dumps(where_in_learning(ds)))  # as a run's summary holds it
    page = learning_html(told := dict(learning=dict(tokens_per_step=1000, arms=found)), ds)
    assert "ahead clearly until (tokens)" in page and "to the end" in page
    assert any("to the end" in line for line in learning_text(told))
    with zipfile.ZipFile(RUN) as z:
        before = json.loads(z.read("summary.json"))
    assert learning_text(before) == [] and learning_html(before, ds) is None and connectome_text(before)
