"""Mixed models of reading times: against statsmodels, least squares of each reader, dense normals, and known truth."""

import math

import numpy as np
import pytest
from scipy import stats

from evonb.alignment import mixed as m
from evonb.core import InputError, Seeds

pytestmark = pytest.mark.numerics


def example(missing=.3, n_readers=8, n_words=150):
    rng = Seeds(11).numpy()
    x = rng.gamma(2, 2, (n_words, 2))
    y = 300 + (x @ [5, -3])[:, None] + 40 * rng.normal(size=n_readers) + 50 * rng.normal(size=(n_words, n_readers))
    y = y + 4 * rng.normal(size=n_readers) * (x[:, :1] - 4)
    y[rng.random(y.shape) < missing] = np.nan
    return x, y


@pytest.mark.parametrize(("missing", "random"), [(0., (0,)), (.5, (0,)), (.4, (0, 1))])
def test_the_fit_equals_statsmodels(missing, random):
    import statsmodels.api as sm
    from statsmodels.regression.mixed_linear_model import MixedLMParams
    x, y = example(missing)
    word, reader = np.nonzero(np.isfinite(y))
    rows, n = m.make_rows(x, y), len(random)
    model = sm.MixedLM(y[word, reader], rows.X[word], groups=reader, exog_re=rows.X[word][:, list(random)])
    apart = MixedLMParams.from_components(fe_params=np.ones(3), cov_re=np.eye(n))  # deviations aren't correlated
    reference = model.fit(reml=True, gtol=1e-8, free=apart)
    found = m.fit(m.row_sums(rows, np.ones(len(x))), random)
    assert np.allclose(found["beta"], reference.fe_params, rtol=1e-4)
    assert np.allclose(np.sqrt(np.diag(found["cov"])), reference.bse_fe, rtol=1e-3)
    assert found["sigma"]**2 == pytest.approx(reference.scale, rel=1e-4)
    assert np.allclose(found["ratios"] * found["sigma"]**2, np.diag(np.atleast_2d(reference.cov_re)), rtol=3e-3)
    shifts = np.array([np.ravel(reference.random_effects[g]) for g in range(8)])
    assert np.allclose(found["deviations"], shifts, atol=.02)


def test_where_all_read_the_same_the_fit_is_a_t_test_over_readers():
    x, y = example(missing=0, n_readers=20)
    rows = m.make_rows(x[:, :1], y)
    found = m.fit(m.row_sums(rows, np.ones(len(x))), (0, 1))
    alone = np.linalg.lstsq(rows.X, y, rcond=None)[0][1]
    t, error = stats.ttest_1samp(alone, 0).statistic, math.sqrt(found["cov"][1, 1])
    assert found["beta"][1] / error == pytest.approx(t, rel=1e-4)
    assert found["beta"][1] == pytest.approx(alone.mean(), rel=1e-9)


def test_the_restricted_likelihood_is_highest_at_the_fit_and_its_climb_is_its_derivative():
    x, y = example()
    sums = m.row_sums(m.make_rows(x, y), np.ones(len(x)))
    found = m.fit(sums, (0, 1))
    for i in (0, 1):
        for f in (.5, .9, 1.1, 2):
            other = found["ratios"] * np.where(np.arange(2) == i, f, 1)
            assert m.solve(sums, other, (0, 1))["deviance"] > found["deviance"]
    at, step = np.array([.3, .05]), 1e-5
    up, down = (m.solve(sums, at + [0, s], (0, 1))["deviance"] for s in (step, -step))
    assert m.solve(sums, at, (0, 1))["climb"][1] == pytest.approx((up - down) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("random", [(0,), (0, 2)])
def test_held_out_densities_equal_a_dense_gaussian(random):
    "The predictive density of each time, from the joint normal of all training times of its reader."
    x, y = example(n_words=40)
    y[20:, 7] = np.nan
    y[:20, 6] = np.nan  # one whom the fit knows, one whom it has never met
    rows, fold = m.make_rows(x, y), (np.arange(40) >= 20).astype(int)
    fit = m.fit(m.row_sums(rows, (fold == 1).astype(float)), random)
    Z, total = rows.X[:, list(random)] * np.sqrt(fit["ratios"]) * fit["sigma"], np.zeros(40)
    for w, r in zip(*np.nonzero(np.isfinite(y))):
        if fold[w] == 1: continue
        known = np.flatnonzero((fold == 1) & np.isfinite(y[:, r]))
        cov = Z[known] @ Z[known].T + fit["sigma"]**2 * np.eye(len(known))
        weight = np.linalg.solve(cov, Z[known] @ Z[w]) if len(known) else np.zeros(0)
        mean = rows.X[w] @ fit["beta"] + weight @ (y[known, r] - rows.X[known] @ fit["beta"])
        left = Z[w] @ Z[w] + fit["sigma"]**2 - weight @ (Z[known] @ Z[w])
        total[w] += stats.norm.logpdf(y[w, r], mean, math.sqrt(left))
    assert np.allclose(m.held_out(rows, fold, random)[:20], total[:20], atol=1e-5)


def test_no_variance_between_groups_gives_the_plain_regression():
    rng = Seeds(4).numpy()
    x, y = rng.normal(size=(60, 1)), rng.normal(300, 20, (60, 4))
    y -= y.mean(0)  # readers alike
    sums = m.row_sums(m.make_rows(x, y + 300), np.ones(60))
    found, plain = m.fit(sums, (0,)), m.fit(sums)
    assert found["ratios"][0] < 1e-6 and np.allclose(found["beta"], plain["beta"])


def test_words_are_multiplied_in_pieces():
    x, y = example()
    rows, weights = m.make_rows(x, y), Seeds(2).numpy().integers(0, 3, len(x))
    one, many = (m.row_sums(rows, weights, n) for n in (10**6, 7))
    assert all(np.allclose(one[k], many[k], rtol=1e-12) for k in one)


def test_random_slopes_keep_their_false_positive_rate_where_one_slope_for_all_doesnt():
    "Readers react differently and on average not at all: p below .05 in 5 % of the cases, in far more by one slope."
    hits, n = np.zeros(2), 60
    for seed in range(n):
        rng = Seeds(seed).child("rate").numpy()
        x = rng.normal(size=(80, 1))
        y = 300 + 12 * rng.normal(size=15) * x + 30 * rng.normal(size=15) + 40 * rng.normal(size=(80, 15))
        sums = m.row_sums(m.make_rows(x, y), np.ones(80))
        for i, random in enumerate([(0, 1), (0,)]):
            f = m.fit(sums, random)
            hits[i] += 2 * stats.t.sf(abs(f["beta"][1]) / math.sqrt(f["cov"][1, 1]), 14) < .05
    assert hits[0] <= 8 and hits[1] >= 20  # 8 of 60 or fewer: 99 % of binomials of .05


def test_times_that_never_vary_are_refused():
    rows = m.make_rows(np.arange(20.)[:, None], np.full((20, 3), 300.))
    with pytest.raises(InputError, match="times that vary"): m.fit(m.row_sums(rows, np.ones(20)), (0,))
