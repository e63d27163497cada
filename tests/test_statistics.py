"""statistics: against scipy, statsmodels and plain loops, and how often intervals and p-values are right."""

import math

import numpy as np
import pytest
from scipy import stats

from evonb.core import InputError, Seeds
from evonb.statistics import (
    bootstrap_interval,
    cluster_interval,
    compare_credits,
    contrast,
    describe,
    describe_credit,
    fdr,
    gain_verdict,
    p_values,
    paired_bootstrap,
    paired_difference,
    paired_test,
    wilson_interval,
)

# Newborns and texts


def test_the_interval_equals_a_plain_loop():
    values = np.random.default_rng(0).normal(3, 1, (4, 30))
    low, high = bootstrap_interval(values, np.random.default_rng(1), 4000)
    rng = np.random.default_rng(2)
    loop = [values[np.ix_(rng.integers(0, 4, 4), rng.integers(0, 30, 30))].mean() for _ in range(4000)]
    assert np.allclose([low, high], np.quantile(loop, [0.025, 0.975]), atol=0.03)


def test_paired_differences_find_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    base = rng.normal(3, 0.5, (5, 100))
    found = paired_difference(base + 0.05 + rng.normal(0, 0.01, base.shape), base, rng)
    assert found["low"] > 0 and found["p"] < 0.001 and found["mean"] == pytest.approx(0.05, abs=0.005)
    null = [paired_difference(base + rng.normal(0, 0.1, (5, 1)), base, rng, 50)["p"] for _ in range(300)]
    assert 0.01 < np.mean(np.array(null) < 0.05) < 0.1  # the t-test's p-values are calibrated


def test_failed_newborns_are_left_out_and_counted():
    losses, windows = np.array([3.0, np.nan, 3.2]), np.array([[3.0, 3.0], [np.nan, np.nan], [3.2, 3.2]])
    x = describe(losses, windows, np.random.default_rng(0))
    assert x["n"] == 2 and x["mean"] == pytest.approx(3.1)


def test_contrast_is_of_both_tests_the_more_careful():
    rng = Seeds(0).numpy()
    a, b = rng.normal(0.3, 1, (4, 30)), rng.normal(0, 1, (3, 30))
    found = contrast(a, b, rng)
    assert found["mean"] == pytest.approx(a.mean() - b.mean())
    assert found["p_models"] == pytest.approx(stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False).pvalue)
    assert found["p_items"] == pytest.approx(stats.ttest_rel(a.mean(0), b.mean(0)).pvalue)
    assert found["p"] == max(found["p_models"], found["p_items"])
    assert contrast(a[:1], b[:1, :], rng)["p_models"] is None
    assert gain_verdict(dict(mean=1, low=0.5, high=2, p=0.2)) == "not clearly different from zero"


def test_contrast_covers_what_is_not_there():
    rng, covered = Seeds(1).numpy(), 0
    for _ in range(200):
        people = rng.normal(0, 1, (1, 27))
        c = contrast(people + rng.normal(0, 1, (5, 27)), people + rng.normal(0, 1, (5, 27)), rng, 300)
        covered += c["low"] <= 0 <= c["high"]
    assert covered >= 180


# Credit on tasks


def plain_bootstrap(parts, rng, n):
    "Seeds and items drawn again with replacement, one loop a time."
    means = []
    for _ in range(n):
        rows = rng.integers(len(parts[0]), size=len(parts[0]))
        total = 0.0
        for p in parts:
            columns = rng.integers(p.shape[1], size=p.shape[1])
            total += np.mean([[p[r, c] for c in columns] for r in rows])
        means.append(total / len(parts))
    return np.array(means)


def simulated(rng, mean, n_seeds=6, n_items=(40, 25)):
    "Credit of items that are easier or harder, under seeds that are better or worse."
    seed = rng.normal(0, 0.05, (n_seeds, 1))
    return [np.clip(mean + seed + rng.normal(0, 0.2, n) + rng.normal(0, 0.1, (n_seeds, n)), -2, 3) for n in n_items]


def test_a_score_and_a_difference_agree_with_a_plain_bootstrap():
    rng = np.random.default_rng(3)
    a, b = simulated(rng, 0.6), simulated(rng, 0.55)
    d = [x - y for x, y in zip(a, b)]
    drawn = plain_bootstrap(d, np.random.default_rng(4), 1500)
    found = compare_credits(a, b, np.random.default_rng(5), 4000)
    assert found["mean"] == pytest.approx(np.mean([x.mean() for x in d])) and found["n"] == 6
    assert found["sd"] == pytest.approx(np.std(np.mean([x.mean(1) for x in d], 0), ddof=1))
    error = drawn.std() / math.sqrt(1500)  # of a mean; a tail's quantile has about three times that
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=12 * error)
    p = 2 * min((drawn <= 0).mean(), (drawn >= 0).mean())
    assert found["p"] == pytest.approx(p, abs=0.03)
    drawn, one = plain_bootstrap(a, np.random.default_rng(6), 1500), describe_credit(a, np.random.default_rng(7), 4000)
    assert one["se"] == pytest.approx(drawn.std(ddof=1), rel=0.08)
    error = drawn.std() / math.sqrt(1500)
    assert [one["low"], one["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=12 * error)
    assert describe_credit([x[:1] for x in a], np.random.default_rng(0), 50)["sd"] is None


def test_intervals_cover_the_truth_and_p_is_small_only_when_it_should_be():
    rng, hits, small = np.random.default_rng(8), 0, 0
    for _ in range(150):
        a, b = simulated(rng, 0.6, n_seeds=10), simulated(rng, 0.5, n_seeds=10)
        found = compare_credits(a, b, rng, 400)
        hits += found["low"] <= 0.1 <= found["high"]
        small += compare_credits(simulated(rng, 0.5, 10), simulated(rng, 0.5, 10), rng, 400)["p"] < 0.05
    assert 0.88 <= hits / 150 <= 1 and small / 150 < 0.12
    far = compare_credits(simulated(rng, 0.9), simulated(rng, 0.3), rng, 400)
    assert far["p"] == pytest.approx(2 / 401) and far["low"] > 0.4


def test_equal_credit_is_no_difference():
    a = [np.random.default_rng(0).integers(0, 2, (3, 50)) * 1.0]
    found = compare_credits(a, a, np.random.default_rng(1), 100)
    assert (found["mean"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)


def test_paired_bootstrap_against_the_normal_approximation():
    rng = np.random.default_rng(0)
    a, b = (rng.random(400) < 0.7).astype(float), (rng.random(400) < 0.6).astype(float)
    got, d = paired_bootstrap(a, b, np.random.default_rng(1)), a - b
    se = d.std(ddof=1) / 20
    assert got.difference == pytest.approx(d.mean()) and got.n == 400
    assert got.low == pytest.approx(d.mean() - 1.96 * se, abs=0.01) and got.high == pytest.approx(
        d.mean() + 1.96 * se, abs=0.01
    )
    assert got.p == pytest.approx(math.erfc(abs(d.mean()) / se / math.sqrt(2)), abs=0.02)
    assert got == paired_bootstrap(a, b, np.random.default_rng(1))
    assert paired_bootstrap(a, a, np.random.default_rng(1)).p == 1
    assert paired_bootstrap(b, a, np.random.default_rng(1)).difference == -got.difference
    with pytest.raises(InputError, match="of the same items"):
        paired_bootstrap(a, b[:9], np.random.default_rng(1))


def test_paired_bootstrap_is_calibrated():
    rng = np.random.default_rng(5)
    ps = [paired_bootstrap(rng.random(150) < 0.6, rng.random(150) < 0.6, rng, 400).p for _ in range(300)]
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.09


def test_few_items_prove_little():
    for n in (1, 2, 5):
        assert paired_bootstrap(np.ones(n), np.zeros(n), np.random.default_rng(0), 1000).p == 2.0 ** (1 - n)
    assert paired_bootstrap(np.ones(30), np.zeros(30), np.random.default_rng(0), 1000).p == pytest.approx(2 / 1001)


# People, stories and seeds


def test_interval_equals_scipys_for_equally_many_targets_a_person():
    people = np.random.default_rng(0).standard_normal(7)
    found = cluster_interval(np.repeat(people, 4), np.repeat(np.arange(7), 4))
    low, high = stats.t.interval(.95, 6, people.mean(), stats.sem(people))
    assert found.n == 7 and np.allclose(found, [people.mean(), low, high, 7])


def test_interval_of_unequal_clusters_equals_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(1)
    who = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    v = rng.standard_normal(6)[who] + rng.standard_normal(21)
    v[4] = np.nan
    ok = np.isfinite(v)
    fit = sm.OLS(v[ok], np.ones(ok.sum())).fit(cov_type="cluster", cov_kwds=dict(groups=who[ok]), use_t=True)
    found = cluster_interval(v, who)
    # statsmodels' small-sample factor is (G / (G - 1)) (N - 1) / (N - 1) for a mean
    assert np.allclose([found.low, found.high], fit.conf_int()[0], rtol=1e-9)


def test_interval_of_one_cluster_is_unknown():
    found = cluster_interval(np.ones((3, 4)), np.zeros(4))
    assert found.n == 1 and np.isnan(found.low).all() and (found.mean == 1).all()


def test_interval_covers_the_truth_as_often_as_it_says():
    rng, who = np.random.default_rng(2), np.repeat(np.arange(10), 3)
    v = rng.standard_normal((2000, 10))[:, who] + .5 * rng.standard_normal((2000, 30))
    i = cluster_interval(v, who)
    assert abs(((i.low < 0) & (i.high > 0)).mean() - .95) < .015


def test_paired_test_equals_scipys_and_leaves_out_what_is_unknown():
    a, b = np.random.default_rng(3).standard_normal((2, 9))
    a[2] = np.nan
    ok = np.isfinite(a)
    found, t = paired_test(a, b), stats.ttest_rel(a[ok], b[ok])
    assert found["n"] == 8 and np.isclose(found["p"], t.pvalue)
    assert np.allclose([found["low"], found["high"]], t.confidence_interval())
    assert paired_test([np.nan], [1.])["mean"] is None


# Counts, and families of tests


def test_wilson_is_scipys():
    for k, n in ((0, 5), (3, 10), (499, 1000)):
        known = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
        assert np.allclose(wilson_interval(k, n), (known.low, known.high), atol=1e-6)


def test_p_and_q():
    rng = np.random.default_rng(0)
    p = rng.random((4, 5))
    p[1, 2] = np.nan
    q = fdr(p)
    assert np.allclose(q[~np.isnan(p)], stats.false_discovery_control(p[~np.isnan(p)])) and np.isnan(q[1, 2])
    assert np.isnan(fdr([np.nan])).all()
    assert p_values([[0.0], [1.0], [np.nan]], [0.5])[0] == 0.5
