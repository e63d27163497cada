"""claims on trial: planted ones come out as they must, bounds, caching by content, failures on record, bad input."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evonb.claims import court
from evonb.claims.breeding import DARE
from evonb.claims.court import (
    claim_rows,
    claims_figure,
    code_digest,
    content_of_trial,
    missing,
    reached,
    rows_text,
    try_claim,
    try_claims,
    write_rows,
)
from evonb.claims.names import CLAIMS
from evonb.claims.planted import TRUE, planted
from evonb.claims.trial import VERDICTS, Claim, against, needed_text, ruling, units_needed
from evonb.cli import main
from evonb.core import InputError, RunExistsError, Seeds, Stopped, StopRequest
from evonb.statistics import crossed_contrast, crossed_mean, nested_mean
from evonb.store import content_digest, create_run, read_json

try_it = partial(try_claim, show=False)


def made_of(function):  # a trial that rests on the code of the planted ones, not on all that this file imports
    function.__module__ = planted.__module__
    return replace(TRUE, run=function)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_says_what_counts_before_it_runs(name):
    c = CLAIMS[name]
    assert isinstance(c, Claim) and CLAIMS.entry(name).line.endswith(".")
    assert all([c.source, c.effect, c.unit, c.why, c.over, c.controls, "toy" in c.sizes]) and np.isfinite(c.bound)
    assert set(c.costs) == set(c.sizes) and {how for _, how in c.costs.values()} <= {"measured", "estimated"}
    assert c.planted in ("", "holds", "doesn't") and (c.planted or c.limits)
    assert all(court.is_module(m) for m in c.rests_on)
    json.dumps(c.sizes)


def test_planted_claims_come_out_as_they_must(tmp_path):
    found = try_claims(["planted-true", "planted-false"], out=tmp_path, show=False)
    assert [ruling(k["found"]) for k in found] == ["holds", "doesn't"]


def test_a_bound_is_the_same_as_shifting_what_was_measured():
    rng = Seeds(0).numpy()
    flat, nested = .3 + rng.normal(size=(4, 30)) / 3, .3 + rng.normal(size=(3, 2, 30)) / 3
    for mean, values in ((crossed_mean, flat), (nested_mean, nested)):
        found, shifted = against(mean(values), .2), mean(values - .2)
        np.testing.assert_allclose([found["p"], found["mean"]], [shifted["p"], shifted["mean"] + .2])
        np.testing.assert_allclose([t["p"] for t in found["tests"]], [t["p"] for t in shifted["tests"]])
    a, b = flat, rng.normal(size=(3, 30)) / 3
    found, shifted = against(crossed_contrast(a, b), .2), crossed_contrast(a - .2, b)
    np.testing.assert_allclose([found["p"], found["mean"]], [shifted["p"], shifted["mean"] + .2])
    found, shifted = against(crossed_mean(.5 + flat / 9), .2), crossed_mean(.5 + flat / 9 - .2)
    np.testing.assert_allclose([found["low"], found["high"]], [shifted["low"] + .2, shifted["high"] + .2])


def test_a_bound_decides_and_one_unit_never():
    close = .01 * Seeds(0).numpy().normal(size=(5, 40))
    say = lambda effect, bound, rows=5: ruling(against(crossed_mean(effect + close[:rows]), bound))  # noqa: E731
    assert say(.2, .1) == "holds" and say(.05, .1) == "doesn't" and say(-.2, .1) == "doesn't"
    assert say(0, -.02) == "holds" and say(-.1, -.02) == "doesn't"  # nothing is lost, and much is
    assert say(.2, .1, rows=1) == "can't be told from one seed"
    nothing = against(crossed_mean(np.full((2, 3), np.nan)), .1)
    assert ruling(nothing) == "can't be told: there is no value" and needed_text(nothing) == ""


def test_so_many_more_units_would_decide_it():
    rng = Seeds(3).numpy()
    values = .15 + rng.normal(size=(4, 1)) / 5 + rng.normal(size=(4, 200)) / 100
    found = against(crossed_mean(values), 0)
    assert ruling(found) == "undecided"
    n = units_needed(found)["seed"]
    sd = values.mean(1).std(ddof=1)
    half = lambda n: sd / n**.5 * stats.t.ppf(.975, n - 1)  # noqa: E731
    assert half(n) < found["mean"] < half(.9 * n - 1)
    assert units_needed(against(crossed_mean(values[:1]), 0)) == {"seed": 2}
    assert units_needed(found | dict(bound=found["mean"])) == {} and "at the bound" in needed_text(
        found | dict(bound=found["mean"]))


def test_a_claim_is_tried_once_for_each_content(tmp_path):
    calls = []

    def counting(trial):
        calls.append(trial.seed)
        return planted(trial)

    one = "mine", made_of(counting)
    first = try_it(one, out=tmp_path)
    assert try_it(one, out=tmp_path) == first and calls == [0]
    try_it(one, out=tmp_path, seed=1)
    try_it(("mine", replace(made_of(counting), bound=.4)), out=tmp_path)
    assert calls == [0, 1, 0] and len(list(tmp_path.glob("mine-toy-*"))) == 3


def test_content_is_the_code_that_is_reached_without_comments(monkeypatch):
    reach = reached([DARE.run.__module__, *DARE.rests_on])
    assert {"evonb.populations.merges", "evonb.statistics"} <= reach
    assert not reach & {"evonb.cli", "evonb.claims.court", "evonb.claims.names", "evonb.connectomes.experiments"}
    before, read = code_digest(TRUE), court.code_of
    added = lambda more: lambda m: read(m) + more * (m == "evonb.statistics")  # noqa: E731
    monkeypatch.setattr(court, "code_of", added("\n# a comment\n"))
    assert code_digest(TRUE) == before
    monkeypatch.setattr(court, "code_of", added("\nx = 1\n"))
    assert code_digest(TRUE) != before


def test_what_fails_is_on_record_and_is_tried_again(tmp_path):
    broken = "broken", made_of(lambda trial: 1 / 0)
    kept = try_it(broken, out=tmp_path)
    assert kept["status"] == "failed" and kept["reason"].startswith("ZeroDivisionError")
    (path,) = tmp_path.glob("broken-toy-*")
    assert read_json(path / "result.json")["reason"] == kept["reason"]
    assert read_json(path / "state.json")["status"] == "failed"
    assert try_it(broken, out=tmp_path)["status"] == "failed"


def test_a_stopped_trial_goes_on_where_it_was(tmp_path):
    def half(trial):
        mark = trial.run.file("half")
        if not mark.exists():
            mark.write_text("done")
            raise Stopped("stopped in the middle")
        return planted(trial)

    one = "halved", made_of(half)
    with pytest.raises(Stopped):
        try_it(one, out=tmp_path)
    (path,) = tmp_path.glob("halved-toy-*")
    assert read_json(path / "state.json")["status"] == "stopped" and not (path / "result.json").exists()
    assert ruling(try_it(one, out=tmp_path)["found"]) == "holds"
    request = StopRequest()
    request.set("a test")
    with pytest.raises(Stopped, match="before planted-true"):
        try_claims(["planted-true"], out=tmp_path, show=False, stop=request)


def test_a_half_done_folder_of_other_settings_is_refused(tmp_path):
    config = content_of_trial(TRUE, "toy", 0)
    path = tmp_path / f"planted-true-toy-{content_digest(config)[:10]}"
    with create_run(path, config | dict(seed=7, claim="planted-true", size="toy"), "claim") as run:
        run.file("half").write_text("done")
    with pytest.raises(RunExistsError, match="with other settings: seed"):
        try_it("planted-true", out=tmp_path)
    with create_run(tmp_path / "own", {}, "connectome"):
        pass
    with pytest.raises(InputError, match="is a run itself"):
        try_it("planted-true", out=tmp_path / "own")


def test_bad_input_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="connectome-loss.*Did you mean"):
        try_it("conectome-loss", out=tmp_path)
    with pytest.raises(InputError, match="size is 'huge'.*toy.*small"):
        try_it("planted-true", "huge", tmp_path)
    with pytest.raises(InputError, match="must be an evonb.claims.trial.Claim"):
        CLAIMS.add("odd", print, "nothing.")
        try:
            CLAIMS["odd"]
        finally:
            CLAIMS.remove("odd")
    monkeypatch.setenv("EVONB_DATA", str(tmp_path))
    kept = try_it("connectome-hellaswag", out=tmp_path)
    assert kept["status"] == "not run" and "github.com/rowanz/hellaswag" in kept["reason"]
    assert "childes" in " ".join(missing(CLAIMS["connectome-reading"]))
    assert not list(tmp_path.glob("connectome*"))


def test_the_table_and_its_figure_tell_all(tmp_path):
    try_claims(["planted-true", "planted-false"], out=tmp_path, show=False)
    rows = claim_rows(tmp_path)
    assert [r["name"] for r in rows] == list(CLAIMS)
    fig = claims_figure(rows)
    assert {t.name for t in fig.data if t.name} == set(VERDICTS)
    mean = next(t for t in fig.data if t.name == "holds").x
    assert len(mean) == 1 and 0 < mean[0] <= 1 and next(t for t in fig.data if t.name == "doesn't").x[0] < 0
    assert "planted-false" in rows_text(rows) and "doesn't" in rows_text(rows)
    kept = tmp_path / "claims.json"
    write_rows(kept, rows)
    write_rows(kept, claim_rows(tmp_path / "elsewhere"))  # what wasn't run takes no one's place
    told = {r["name"]: r for r in read_json(kept)["rows"]}
    assert told["planted-true"]["verdict"] == "holds" and told["planted-true"]["stale"]


def test_from_a_terminal(tmp_path, capsys):
    out = ["--out", str(tmp_path / "runs")]
    assert main(["claims"]) == 0 and "untrained-brain" in capsys.readouterr().out
    assert main(["claims", "dare-accuracy"]) == 0 and "below -0.02 of questions" in capsys.readouterr().out
    assert main(["claims", "run", "planted-true", "planted-false", *out]) == 0
    assert "doesn't" in capsys.readouterr().out
    assert main(["claims", "table", *out, "--results", str(tmp_path / "claims.json")]) == 0
    assert (tmp_path / "claims.json").is_file()
    assert main(["claims", "run", "planted-tru", *out]) == 2 and "planted-true" in capsys.readouterr().err
    assert main(["claims", "table", "planted-true", *out]) == 2


def test_the_committed_table_is_of_these_claims():
    kept = Path(__file__).parents[2] / "docs/results/claims.json"
    rows = {r["name"]: r for r in read_json(kept)["rows"]}
    assert set(rows) == set(CLAIMS)
    assert all(r["verdict"] == r["planted"] for r in rows.values() if r["planted"])
    assert all(r["reason"] for r in rows.values() if r["status"] != "tried")


def test_a_list_imports_no_trial():
    code = "import sys, evonb.claims.names as n; n.CLAIMS.text(); print([m for m in sys.modules if 'torch' in m][:1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.faults
@pytest.mark.parametrize("name", [n for n in CLAIMS if not CLAIMS.entry(n).name.startswith("planted")])
def test_every_trial_runs_at_a_tiny_size(name, tmp_path, data_folder):
    c = CLAIMS[name]
    tiny = c.sizes["toy"] | dict(steps=4, seeds=2, evolutions=2, budget=6, searches=2, individuals=3, questions=8,
                                 trainings=2, draws=1, untrained=1, pairs=2, n_bytes=60_000)
    if "changes" in tiny:
        tiny |= dict(model=(1, 2, 16), lrs=[.01], changes=dict(steps=4, n_generations=1, warmup=1, eval_every=4,
                                                               eval_windows=8, checkpoint_every=4))  # fmt: skip
    if missing(c):
        pytest.skip(missing(c)[0])
    kept = try_it((name, replace(c, sizes=dict(toy=tiny))), out=tmp_path)
    assert kept["status"] == "tried", kept["reason"]
    assert set(kept["found"]["units"]) == set(c.over)
