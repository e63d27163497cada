"""calibration: how often the sentences that runs print are wrong where there is nothing, and right where there is."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evonb.alignment.nested import nested_null
from evonb.calibration import (
    alignment_sentence,
    all_designs,
    arms_sentence,
    brain_sentences,
    calibrate,
    calibration_text,
    chain_designs,
    claim_rate,
    claims,
    claims_more,
    methods_sentences,
    null_layers,
    reading_sentence,
    says_adds,
)
from evonb.core import InputError, Seeds
from evonb.populations.breeding import BASELINES

BEGINS_WITH_GAINS = [d for d in all_designs() if not d.verdict.startswith(("one ", "whole chain"))]
N = 250  # simulated runs: at 5 % the standard error is 1.4 %, and the seed is fixed


@pytest.mark.parametrize("design", BEGINS_WITH_GAINS, ids=lambda d: f"{d.verdict}, {d.design}")
def test_no_sentence_claims_what_isnt_there(design):
    n = N if design.part == 1 else int(N * design.part / 2)  # those that take longer
    assert claim_rate(design.simulate, 0.0, n, Seeds(1)) <= (0.06 if "evolutions" in design.verdict else 0.07)


@pytest.mark.parametrize("design", [d for d in all_designs() if d.verdict.startswith("one ")],
                         ids=lambda d: f"{d.verdict}, {d.design}")  # fmt: skip
def test_one_unit_gives_no_claim_however_large_the_effect(design):
    for effect in (0.0, design.effect):
        rng = Seeds(2).numpy()
        for _ in range(20):
            said = design.simulate(rng, effect)
            said = list(said.values()) if isinstance(said, dict) else [said]
            assert not any(map(claims, said)) and any("can't be told from one" in x for x in said)


def test_what_is_there_is_claimed_in_its_direction():
    rng = Seeds(3).numpy()
    said = [arms_sentence(rng, 0.2, n_seeds=5) for _ in range(20)]
    assert all("the connectome's loss is lower than its random control's" in x for x in said)
    said = [arms_sentence(rng, -0.2, n_seeds=5) for _ in range(20)]
    assert all("the connectome's loss is higher than its random control's" in x for x in said)
    said = [methods_sentences(rng, 0.25, n_searches=5, sd=0.03)["genome"] for _ in range(10)]
    assert all("genome scores higher than best-expert and random-search and sum" in x for x in said)
    said = [alignment_sentence(rng, 2.0, n_models=5) for _ in range(20)]
    assert sum("connectome explains more than the baseline" in x for x in said) >= 18
    said = [alignment_sentence(rng, -2.0, n_models=5) for _ in range(20)]
    assert sum("connectome explains less than the baseline" in x for x in said) >= 18


def test_a_verdict_that_rests_on_a_bootstrap_is_found_out():
    "The count itself works: what the sentences of before did is wrong far more often than 7 %."
    from evonb.statistics import crossed_mean

    def naive(rng, effect):  # the items alone, as if models were no sample
        values = rng.normal(size=(2, 1)) + 0.3 * rng.normal(size=(2, 27))
        return "higher than" if crossed_mean(values, ("seed", "person"), ("seed",))["p"] < 0.05 else "the same"

    assert claim_rate(naive, 0.0, N, Seeds(4)) > 0.3


def test_counts_repeat_and_name_their_sizes():
    some = [d for d in all_designs() if d.design == "3 seeds x 40 windows"]
    rows = calibrate(some, n=20, seed=5, show=False)
    assert rows == calibrate(some, n=20, seed=5, show=False) and rows[0]["n"] == 20
    assert rows[0]["power"] > rows[0]["wrong"] and "0.1 nats/token" in calibration_text(rows)
    with pytest.raises(InputError, match="n is 0"):
        calibrate(some, n=0)
    said = methods_sentences(Seeds(0).numpy())
    assert set(said) == {"genome", "genome+", "coarse-to-fine", *BASELINES} - {"best-expert"}


def test_the_short_draw_of_a_null_is_of_the_same_distribution_as_the_whole_one():
    from scipy.stats import ks_2samp

    n_layers, n_permutations, n_folds, n_targets = shape = (9, 3000, 5, 4)
    rng = Seeds(6).numpy()
    own, shared = rng.normal(size=shape), rng.normal(size=shape[1:])
    whole, short = nested_null(list(own + shared)), nested_null(null_layers(rng, shape))
    assert whole.shape == short.shape == (n_permutations, n_targets)
    assert ks_2samp(whole[:, 0], short[:, 0]).pvalue > 0.05 and ks_2samp(whole.mean(1), short.mean(1)).pvalue > 0.05
    np.testing.assert_allclose(np.cov(whole.T), np.cov(short.T), atol=0.04)
    fewer = nested_null(null_layers(rng, (1, *shape[1:])))  # nothing to choose: a higher mean of the best must be seen
    assert whole.mean() - fewer.mean() < 0.02  # layers chosen on other folds gain nothing from the choice itself
    drawn = np.stack([layer() for layer in null_layers(rng, shape)])
    np.testing.assert_allclose(drawn.var(), 2, atol=0.1)


def test_a_design_that_takes_longer_gets_its_part_of_the_runs_and_says_so():
    some = [d for d in all_designs() if d.verdict == "alignment: significant targets"]
    assert [d.design for d in some[:2]] == ["6 targets x 13 layers", "162 targets x 31 layers"]
    assert some[2].part < some[1].part < some[0].part == 1
    rows = calibrate(some[:2], n=8, seed=5, show=False)
    p = rows[0]["wrong"]
    assert [r["n"] for r in rows] == [8, 3] and rows[0]["wrong_se"] == (p * (1 - p) / 8) ** 0.5
    said = calibration_text(rows).splitlines()
    assert said[0].split()[2] == "runs" and said[2].split()[3:9] == ["162", "targets", "x", "31", "layers", "3"]


@pytest.mark.parametrize("sentence", [brain_sentences, reading_sentence])
def test_the_whole_chain_finds_what_is_planted_and_nothing_else(sentence):
    brain, reading = dict(effect=0.9, n_scans=160, n_groups=2), dict(effect=15.0, n_stories=6)
    strong = brain if sentence is brain_sentences else reading
    small = {k: v for k, v in strong.items() if k != "effect"}
    def said(**settings):
        told = sentence(Seeds(1).numpy(), **settings)
        return told if isinstance(told, list) else [told]
    assert all(says_adds(x) and claims_more(x) for x in said(**strong))
    assert not any(says_adds(x) or claims_more(x) for x in said(**small))
    assert not any(map(says_adds, said(row=strong["effect"], **small)))  # it holds what a row holds


def test_a_chain_goes_through_the_functions_of_a_run():
    assert {d.wrong for d in chain_designs()} == {claims_more, says_adds} and all(d.part < 1 for d in chain_designs())
    for d in chain_designs(): inspect.signature(d.simulate.func).bind(None, d.effect, **d.simulate.keywords)
    assert "8 people, 5 blocks" in brain_sentences(Seeds(0).numpy(), n_scans=100, n_groups=1)[0]
    assert "(1 model" in reading_sentence(Seeds(0).numpy(), n_stories=4)
    said = reading_sentence(Seeds(0).numpy(), n_models=3, n_stories=4)
    assert "3 seeds, 4 stories" in said and "it can't be told from one model" not in said
    with_less = "On x, a explains less than the baseline; no control differs clearly"
    assert claims(with_less) and not claims_more(with_less)
    assert claims_more("On x, a isn't said to add: its gain beyond the baseline is clear, but not above that of b.")


def test_a_claim_is_told_from_its_absence():
    for x in ("genome scores lower than sum", "of the other arms' losses clearly higher: dense",
              "connectome explains more than the baseline"):  # fmt: skip
        assert claims(x)
    for x in ("x is not clearly different from sum", "whether it explains more than the baseline can't be told",
              "Whether the loss is lower than random's can't be told from one seed; x", "no control differs clearly"):
        assert not claims(x)


def test_the_command_keeps_what_it_counted_and_the_page_shows_it(tmp_path):
    root, out = Path(__file__).parents[1], tmp_path / "counts.json"
    kept = json.loads((root / "docs/results/calibration.json").read_text())
    assert [(r["verdict"], r["design"]) for r in kept["rows"]] == [(d.verdict, d.design) for d in all_designs()]
    assert kept["n"] >= 1000 and all(r["wrong"] <= 0.07 for r in kept["rows"])
    shutil.copy(root / "docs/results/calibration.json", out)
    some = [sys.executable, root / ".ci/calibrate.py", "--n", "2", "--only", "one ", "--out", out]
    done = subprocess.run(some, capture_output=True, text=True, cwd=root)
    rows = json.loads(out.read_text())["rows"]
    assert done.returncode == 0 and all(r["design"] in done.stdout for r in rows), done.stderr
    again = [r["verdict"].startswith("one ") for r in rows]
    assert sum(again) == 4 and all(r["n"] == 2 for r, new in zip(rows, again) if new)
    assert all(r == k for r, k, new in zip(rows, kept["rows"], again) if not new)
