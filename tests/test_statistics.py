"""statistics: against scipy, statsmodels and plain loops, and how often intervals and p-values are right."""

import math

import numpy as np
import pytest
from scipy import stats

from evonb.core import InputError, Seeds
from evonb.statistics import (
    binomial,
    chance_interval,
    cluster_interval,
    crossed_contrast,
    crossed_mean,
    describe,
    fdr,
    holm,
    hypergeometric,
    judge_family,
    p_values,
    paired_difference,
    units_text,
    verdict,
    wilson_interval,
)

# What varies: models and items


def simulated(rng, n, m, sd=(1.0, 1.0, 1.0), mean=0.0):
    "Models (n) that differ, items (m) that differ, and what is left."
    return mean + sd[0] * rng.normal(size=(n, 1)) + sd[1] * rng.normal(size=(1, m)) + sd[2] * rng.normal(size=(n, m))


def test_each_factor_is_scipys_test_and_the_largest_p_counts():
    d = simulated(np.random.default_rng(0), 4, 12, mean=0.8)
    found = crossed_mean(d, ("seed", "story"))
    over = {t["over"]: t for t in found["tests"]}
    assert over["seed"]["p"] == pytest.approx(stats.ttest_1samp(d.mean(1), 0).pvalue)
    assert over["story"]["p"] == pytest.approx(stats.ttest_1samp(d.mean(0), 0).pvalue)
    # Clark (1973): min F' = F1 F2 / (F1 + F2), with (F1 + F2)^2 / (F1^2 / n2 + F2^2 / n1) degrees of freedom
    f1, f2 = (stats.ttest_1samp(d.mean(axis), 0).statistic ** 2 for axis in (1, 0))
    f, df = f1 * f2 / (f1 + f2), (f1 + f2) ** 2 / (f1**2 / 11 + f2**2 / 3)
    assert over["both"]["p"] == pytest.approx(stats.f.sf(f, 1, df)) and over["both"]["df"] == pytest.approx(df)
    assert found["p"] == max(t["p"] for t in over.values()) and found["units"] == dict(seed=4, story=12)


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_leaves_out_zero_where_the_test_is_passed_and_there_only(seed):
    rng = np.random.default_rng(seed)
    sd = rng.uniform(0, 1, 3)
    d = crossed_mean(simulated(rng, rng.integers(2, 7), rng.integers(2, 30), sd, 0.8), ("seed", "story"))
    assert (d["p"] < 0.05) == (d["low"] > 0 or d["high"] < 0) and d["low"] < d["mean"] < d["high"]


@pytest.mark.parametrize(
    "n, m, sd",
    [(2, 27, (1, 0.3, 1)), (3, 10, (1, 0.3, 1)), (3, 27, (1, 1, 1)), (5, 27, (1, 2.3, 1)), (10, 10, (1, 1, 0.3))],
)
def test_nothing_is_found_where_there_is_nothing(n, m, sd):
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(400):
        wrong += crossed_mean(simulated(rng, n, m, sd), ("seed", "story"))["p"] < 0.05
    assert wrong / 400 <= 0.07  # nominal 0.05, whose standard error here is 0.011


def test_what_is_there_is_found():
    rng = np.random.default_rng(0)
    base = rng.normal(3, 0.5, (5, 100))
    found = paired_difference(base + 0.05 + rng.normal(0, 0.01, base.shape), base, ("seed", "window"))
    assert found["low"] > 0 and found["p"] < 0.001 and found["mean"] == pytest.approx(0.05, abs=0.005)
    assert verdict(found) == "higher" and units_text(found) == "5 seeds, 100 windows"


def test_one_unit_is_named_and_gives_neither_p_nor_interval():
    rng = np.random.default_rng(0)
    for shape, unit in (((1, 9), "seed"), ((9, 1), "person"), ((1, 1), "seed")):
        found = crossed_mean(rng.normal(5, 0.1, shape), ("seed", "person"))
        assert found["p"] is found["low"] is found["high"] is None and found["one"] == unit
        assert verdict(found) == f"can't be told from one {unit}"
    alone = describe(rng.normal(5, 0.1, (1, 9)), ("seed", "person"))
    assert alone["low"] is alone["sd"] is alone["se"] is None and alone["mean"] == pytest.approx(5, abs=0.2)
    assert verdict(crossed_mean(np.full((3, 2), np.nan))) == "can't be told: there is no value"


def test_units_that_are_fixed_are_no_sample():
    d = simulated(np.random.default_rng(2), 1, 15, mean=0.5)
    found, plain = crossed_mean(d, ("model", "story"), fixed=("model",)), stats.ttest_1samp(d[0], 0)
    assert found["p"] == pytest.approx(plain.pvalue) and found["units"] == dict(story=15)
    assert [found["low"], found["high"]] == pytest.approx(list(plain.confidence_interval()))
    assert crossed_mean(d[0], ("story",)) == found | dict(n=15, sd=pytest.approx(d[0].std(ddof=1)))


def test_units_that_agree_exactly_tell_no_more_than_their_signs():
    for n in (2, 3, 5):
        found = crossed_mean(np.tile([[0.1, 0.2, 0.15, 0.12, 0.17]], (n, 1)), ("search", "question"))
        assert found["p"] == 2.0 ** (1 - n) and found["low"] is found["high"] is None
        assert verdict(found) == "not clearly different"
    same = crossed_mean(np.zeros((3, 8)))
    assert same["p"] == 1 and same["low"] is None and same["mean"] == 0
    noise = crossed_mean(np.array([[0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2]]))  # they differ by rounding only
    assert noise["p"] == 0.5 and noise["low"] is None


def test_failed_models_are_left_out_and_counted():
    windows = np.array([[3.0, 3.0, 3.3], [np.nan] * 3, [3.2, 3.2, np.nan]])
    x = describe(windows, ("seed", "window"))
    assert x["n"] == 2 and x["mean"] == pytest.approx(3.1) and x["units"] == dict(seed=2, window=2)
    other = np.array([[2.9, 3.0, 3.3], [3.0, 3.0, 3.0], [np.nan] * 3])
    assert paired_difference(windows, other, ("seed", "window"))["one"] == "seed"


def test_several_tasks_are_averaged_and_each_adds_its_own_error():
    rng = np.random.default_rng(3)
    parts = [simulated(rng, 6, m, (0.05, 0.3, 0.3), 0.6) for m in (40, 25)]
    found = crossed_mean(parts, ("search", "question"))
    assert found["mean"] == pytest.approx(np.mean([x.mean() for x in parts])) and found["units"]["question"] == 65
    assert found["sd"] == pytest.approx(np.std(np.mean([x.mean(1) for x in parts], 0), ddof=1))
    of_items = math.sqrt(sum(x.mean(0).var(ddof=1) / x.shape[1] for x in parts)) / 2
    assert found["tests"][1]["se"] == pytest.approx(of_items)
    one_item = [parts[0], parts[1][:, :1]]
    assert verdict(crossed_mean(one_item, ("search", "question"))) == "can't be told from one question"
    with pytest.raises(InputError, match="the same models in each part"):
        crossed_mean([parts[0], parts[1][:3]])


def test_a_contrast_of_other_models_is_welchs_and_the_paired_test():
    rng = Seeds(0).numpy()
    a, b = rng.normal(0.3, 1, (4, 30)), rng.normal(0, 1, (3, 30))
    found = crossed_contrast(a, b, ("seed", "person"))
    over = {t["over"]: t for t in found["tests"]}
    assert found["mean"] == pytest.approx(a.mean() - b.mean()) and found["n"] == 3
    assert over["seed"]["p"] == pytest.approx(stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False).pvalue)
    assert over["person"]["p"] == pytest.approx(stats.ttest_rel(a.mean(0), b.mean(0)).pvalue)
    assert found["p"] == max(t["p"] for t in over.values())
    assert verdict(crossed_contrast(a[:1], b, ("seed", "person"))) == "can't be told from one seed"
    with pytest.raises(InputError, match="of the same items"):
        crossed_contrast(a, b[:, :9])


def test_a_contrast_covers_what_is_not_there():
    rng, covered = Seeds(1).numpy(), 0
    for _ in range(300):
        people = rng.normal(0, 1, (1, 27))
        c = crossed_contrast(people + rng.normal(0, 1, (5, 27)) + rng.normal(0, 1, (5, 1)),
                             people + rng.normal(0, 1, (3, 27)) + rng.normal(0, 1, (3, 1)))
        covered += c["low"] <= 0 <= c["high"]
    assert covered / 300 >= 0.93


# Families


def test_holm_equals_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.uniform(0, 0.1, rng.integers(1, 9))
        assert np.allclose(holm(p)[0], multitest.multipletests(p, method="holm")[1])
    assert np.allclose(holm([0.01, 0.04, 0.03, 0.005])[0], [0.03, 0.06, 0.06, 0.02])  # worked by hand


def test_a_familys_intervals_agree_with_its_verdicts():
    rng, seen = np.random.default_rng(4), set()
    for _ in range(60):
        found = {m: crossed_mean(simulated(rng, 4, 20, (0.2, 0.2, 0.5), m)) for m in (0, 0.4, 0.8, 1.5)}
        for d in judge_family(found | dict(none=None)).values():
            if d is None:
                continue
            clear = verdict(d) != "not clearly different"
            assert clear == (d["low"] > 0 or d["high"] < 0) == (d["p_adjusted"] < 0.05)
            assert d["p_adjusted"] >= d["p"] and d["family"] == 4 and d["level"] >= 0.95
            seen.add((clear, d["p"] < 0.05))
    assert seen == {(True, True), (False, True), (False, False)}


def test_what_cant_be_told_isnt_counted_in_a_family():
    rng = np.random.default_rng(5)
    found = dict(a=crossed_mean(simulated(rng, 3, 9)), b=crossed_mean(simulated(rng, 1, 9)), c=None)
    judged = judge_family(found)
    assert judged["a"]["family"] == 1 and judged["a"] == found["a"]
    assert judged["b"] is found["b"] and judged["c"] is None


def test_what_an_older_version_stored_is_told_by_its_p():
    old = dict(mean=0.1, low=0.05, high=0.15, n=3)
    assert verdict(dict(old, p=0.01)) == "higher" and verdict(dict(old, p=0.2)) == "not clearly different"
    assert verdict(dict(old, p=None)) == "can't be told from one seed" and units_text(old) == ""


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
    same = cluster_interval(np.full(4, .3), np.array([0, 0, 1, 1]))
    assert same.n == 2 and np.isnan([same.low, same.high]).all()


def test_interval_covers_the_truth_as_often_as_it_says():
    rng, who = np.random.default_rng(2), np.repeat(np.arange(10), 3)
    v = rng.standard_normal((2000, 10))[:, who] + .5 * rng.standard_normal((2000, 30))
    i = cluster_interval(v, who)
    assert abs(((i.low < 0) & (i.high > 0)).mean() - .95) < .015


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
    for ties in (rng.choice([0.01, 0.2, 0.9], 40), rng.random(1), []):
        assert np.allclose(fdr(ties), stats.false_discovery_control(ties) if len(ties) else [], rtol=1e-15, atol=0)


@pytest.mark.parametrize("seed", range(40))
def test_chance_of_live_weights_is_scipys(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 200_000))
    live, block = int(rng.integers(0, n + 1)), int(rng.integers(1, min(n, 2000) + 1))
    numbers, sums = hypergeometric(live, n, block)
    assert np.allclose(sums, stats.hypergeom.cdf(numbers, n, live, block), atol=1e-9)
    for level in (0.95, 0.999):
        wanted = stats.hypergeom.ppf([(1 - level) / 2, (1 + level) / 2], n, live, block)
        assert chance_interval(live, n, block, level) == tuple(wanted)


@pytest.mark.parametrize("n, share", [(0, 0.5), (1, 0.3), (50, 0.0), (50, 1.0), (50, 1e-9), (3000, 0.02), (3000, 0.7)])
def test_the_binomial_is_scipys(n, share):
    assert np.allclose(binomial(n, share), stats.binom.cdf(np.arange(n + 1), n, share), atol=1e-9)
