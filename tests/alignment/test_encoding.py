"""Encoding models: against scikit-learn, himalaya, SciPy and plain loops; recovery and calibration on known truth."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV

from evonb.alignment.encoding import (
    RidgeConfig,
    across_subject_ceiling,
    autocorrelated_baseline,
    banded,
    beyond,
    encode,
    left_out_targets,
    left_out_text,
    linear_cka,
    make_folds,
    make_inner_folds,
    normalised,
    partition,
    pearson,
    permutation_null,
    permuted_rows,
    r_squared,
    r_squared_gain,
    ridge_weights,
    rsa,
    split_half_ceiling,
)
from evonb.core import InputError, from_dict, to_dict

pytestmark = pytest.mark.numerics


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def smooth(noise, rho):
    out = noise.copy()
    for i in range(1, len(out)):
        out[i] = rho * out[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    return out


def simulated(n=150, p=30, n_targets=6, noise=1.0, rho=0.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * np.exp(-np.arange(p) / p) + 3
    W = rng.standard_normal((p, n_targets)) / np.sqrt(p)
    return X, X @ W + noise * smooth(rng.standard_normal((n, n_targets)), rho) + 50, W


GROUPS = np.repeat(np.arange(5), 30)


def scaled(X, train):
    sd = X[train].std(0)
    return (X - X[train].mean(0)) / np.where(sd > 0, sd, np.inf)


# Ridge --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [8, 30, 200])
@pytest.mark.parametrize("scale", [True, False])
def test_equal_to_scikit_learn_at_the_same_folds_and_penalties(p, scale):
    X, Y, _ = simulated(p=p)
    X[:, 3] = 7.0  # a constant feature
    config = RidgeConfig(scale=scale)
    found = encode(X, Y, GROUPS, config)
    for i, (train, test) in enumerate(make_folds(len(X), GROUPS, config)):
        Z = scaled(X, train) if scale else X - X[train].mean(0)
        model = Ridge(alpha=found.alpha.values[i], solver="cholesky").fit(Z[train], Y[train])
        P = model.predict(Z[test])
        assert np.allclose(found.prediction[test], P, atol=1e-5)
        assert np.allclose(found.r[i], [stats.pearsonr(P[:, j], Y[test, j])[0] for j in range(6)], atol=1e-5)
        assert np.allclose(found.r2[i], r_squared(P, Y[test]), atol=1e-5)
    assert np.allclose(found.r_mean, found.r.mean("fold"))


@pytest.mark.parametrize("p", [20, 200])
def test_leave_one_out_chooses_as_ridgecv(p):
    X, Y, _ = simulated(p=p, noise=2)
    alphas = np.logspace(-1, 5, 25)
    config = RidgeConfig(alphas=alphas, inner_folds="loo", search="full")
    found, fast = encode(X, Y, GROUPS, config), encode(X, Y, GROUPS, RidgeConfig(alphas=alphas, inner_folds="loo"))
    for i, (train, test) in enumerate(make_folds(len(X), GROUPS, config)):
        Z = scaled(X, train)
        model = RidgeCV(alphas=alphas, alpha_per_target=True).fit(Z[train], Y[train])
        assert np.allclose(found.alpha[i], model.alpha_)
        assert np.allclose(found.prediction[test], model.predict(Z[test]), atol=1e-6)
    assert np.abs(found.r_mean - fast.r_mean).max() < 1e-2 and abs(float((found.r_mean - fast.r_mean).mean())) < 1e-3


def inner_errors(X, Y, C, train, inner, alphas):
    "Refit for every inner fold; features scaled by the training set's deviation, everything else within."
    Z, out = scaled(X, train)[train], np.zeros((len(alphas), Y.shape[1]))
    for left, scored in inner:
        kept = np.setdiff1d(np.arange(len(train)), left)
        held = left[scored]
        for a, alpha in enumerate(alphas):
            D = Z if C is None else np.c_[Z, C[train]]
            P = np.diag([alpha] * Z.shape[1] + [1e-9] * (D.shape[1] - Z.shape[1]))
            Dm, Ym = D[kept].mean(0), Y[train][kept].mean(0)
            B = np.linalg.solve((D[kept] - Dm).T @ (D[kept] - Dm) + P, (D[kept] - Dm).T @ (Y[train][kept] - Ym))
            out[a] += ((Y[train][held] - Ym - (D[held] - Dm) @ B) ** 2).mean(0) / len(inner)
    return out


@pytest.mark.parametrize("p", [10, 150])
@pytest.mark.parametrize("trim", [0, 3])
@pytest.mark.parametrize("with_confounds", [False, True])
def test_penalties_are_those_of_refitting_every_inner_fold(p, trim, with_confounds):
    X, Y, _ = simulated(p=p, noise=2, n_targets=60)  # more targets than features in one case, fewer in the other
    C = np.random.default_rng(1).standard_normal((150, 2)) if with_confounds else None
    config = RidgeConfig(alphas=(0.1, 1, 10, 100, 1000), n_folds=3, inner_folds=3, trim=trim, search="full")
    found = encode(X, Y, None, config, confounds=C)
    for i, (train, _) in enumerate(make_folds(150, None, config)):
        error = inner_errors(X, Y, C, train, make_inner_folds(train, np.zeros(150, int), config, i), config.alphas)
        assert np.array_equal(np.array(config.alphas)[error.argmin(0)], found.alpha.values[i])


@pytest.mark.parametrize("p", [20, 200])
def test_solvers_agree(p):
    from himalaya.backend import get_backend

    X, Y, _ = simulated(p=p)
    a, b = (encode(X, Y, GROUPS, RidgeConfig(**k)) for k in (dict(search="full"), dict(solver="himalaya")))
    assert (a.alpha == b.alpha).all() and np.allclose(a.prediction, b.prediction, atol=1e-6)
    assert get_backend().name == "numpy" and json.loads(b.attrs["config"])["solver"] == "himalaya"


def test_himalaya_backend_is_restored_after_an_error():
    from himalaya.backend import get_backend

    from evonb.alignment.encoding import himalaya_backend

    with pytest.raises(KeyError), himalaya_backend():
        raise KeyError
    assert get_backend().name == "numpy"
    with pytest.raises(InputError, match="no backend for the device 'meta'"), himalaya_backend("meta"):
        pass


def test_fast_search_is_nearly_as_good_as_the_full_one():
    for seed, p in enumerate((20, 100, 300)):
        X, Y, _ = simulated(p=p, n_targets=40, noise=2, rho=0.5, seed=seed)
        alphas = tuple(np.logspace(-2, 8, 60))
        full, fast = (encode(X, Y, None, RidgeConfig(alphas=alphas, search=s)) for s in ("full", "fast"))
        assert abs(float(full.r_mean.mean() - fast.r_mean.mean())) < 1e-3
        assert (np.abs(np.log10(full.alpha / fast.alpha)) < 0.4).mean() > 0.9


def test_chunks_precision_and_determinism():
    X, Y, _ = simulated(n_targets=40)
    C = np.random.default_rng(0).standard_normal((150, 2))
    one, again = (encode(X, Y, GROUPS, confounds=C) for _ in range(2))
    assert one.identical(again)
    full = encode(X, Y, GROUPS, RidgeConfig(search="full"), confounds=C)
    for chunk in (3, 36):
        other = encode(X, Y, GROUPS, RidgeConfig(chunk=chunk, search="full"), confounds=C)
        assert np.allclose(other.prediction, full.prediction, atol=1e-9) and (other.alpha == full.alpha).all()
        fast = encode(X, Y, GROUPS, RidgeConfig(chunk=chunk), confounds=C)  # near ties are decided in single precision
        assert np.abs(fast.r_mean - one.r_mean).max() < 1e-3
    single = encode(X, Y, GROUPS, RidgeConfig(dtype="float32"), confounds=C)
    assert np.abs(single.r - one.r).max() < 0.02 and abs(float((single.r - one.r).mean())) < 1e-3
    kw = dict(n_permutations=9, block=3, seed=4)
    a, b = (permutation_null(X, Y, GROUPS, RidgeConfig(chunk=c, search="full"), **kw) for c in (60, 10**4))
    assert np.allclose(a.r, b.r, atol=1e-9)
    a, b = (permutation_null(X, Y, GROUPS, **kw) for _ in range(2))
    assert a.identical(b)


@pytest.mark.parametrize("p", [60, 200])  # fewer features than samples, and more
def test_a_decomposition_in_single_precision_gives_what_double_gives(p, monkeypatch):
    from evonb.alignment.encoding import GramSolver

    X, Y, _ = simulated(p=p, noise=2, n_targets=4)
    C = np.random.default_rng(1).standard_normal((150, 2))
    took, quick = [], GramSolver.quick
    monkeypatch.setattr(GramSolver, "quick", lambda *a: took.append(quick(*a)) or took[-1])
    config = RidgeConfig(alphas=np.logspace(-2, 6, 40), inner_folds="loo")
    for more in (dict(), dict(confounds=C)):
        fast = encode(X, Y, GROUPS, config, **more)
        with monkeypatch.context() as m:
            m.setattr(GramSolver, "quick", lambda *_: None)
            slow = encode(X, Y, GROUPS, config, **more)
        assert (fast.alpha == slow.alpha).all() and np.allclose(fast.prediction, slow.prediction, atol=1e-11)
        assert np.allclose(fast.r, slow.r, atol=1e-12)
    assert sum(found is not None for found in took) >= 6 and len(took) == 10  # 5 folds twice


def test_where_single_precision_cannot_tell_double_does():
    from evonb.alignment.encoding import _search

    x = np.arange(0, 4.5, 0.5)
    curve = lambda least: np.exp((x - least)[:, None] ** 2 / 10)
    search = lambda v, *more: _search(x, lambda at, cols: v[np.ix_(at, cols)], v.shape[1], *more)
    values = np.hstack([curve(2.0), curve(1.25), curve(0.5)])  # clear; halfway between two; below what is allowed
    best, sure = search(values, 1e-5, 2)
    assert best.tolist() == [4, 2, 1] and sure.tolist() == [True, False, False]
    beside = curve(3.0)
    beside[0] = 1.001  # as good where single precision sees little
    assert search(beside, 1e-5, 2)[1].tolist() == [False] and search(beside)[1].tolist() == [True]
    X, Y, _ = simulated(p=60, noise=0.0, n_targets=3)  # no noise: the least penalty is the best
    found, full = (encode(X, Y, GROUPS, RidgeConfig(inner_folds="loo", search=s)) for s in ("fast", "full"))
    assert (found.alpha == full.alpha).all() and np.allclose(found.prediction, full.prediction, atol=1e-9)


def test_products_that_folds_share():
    from evonb.alignment.encoding import SharedGram, scaling

    X = torch.tensor(simulated(p=12)[0]) + 1e4
    X[:40, 2] += 1e7 * torch.arange(40)  # nearly all of a column's variation lies outside the training set
    train = np.arange(40, 150)
    for scale in (True, False):
        Z, mean, by = scaling(X, train, scale)
        assert torch.allclose(SharedGram(X).of(train, Z, mean, by), Z.T @ Z, rtol=1e-9, atol=1e-7)


def test_extreme_penalties():
    X, Y, _ = simulated(p=200)
    found = encode(X, Y, GROUPS, RidgeConfig(alphas=[1e-30]))
    for train, test in make_folds(150, GROUPS):
        Z = scaled(X, train)
        least_norm = np.linalg.pinv(Z[train], rcond=1e-9) @ (Y[train] - Y[train].mean(0))
        assert np.allclose(found.prediction[test], Z[test] @ least_norm + Y[train].mean(0), atol=1e-4)
    none = encode(X, Y, GROUPS, RidgeConfig(alphas=[1e29]))
    assert np.abs(none.prediction - np.concatenate([np.repeat(Y[tr].mean(0)[None], len(te), 0)
                                                    for tr, te in make_folds(150, GROUPS)])).max() < 1e-3
    assert np.isfinite(encode(X, Y, GROUPS, RidgeConfig(alphas=10.0 ** np.arange(-30, 30))).r).all()


@pytest.mark.parametrize("p", [12, 200])
def test_a_whole_brain_in_blocks_is_the_same(p, tmp_path):
    from evonb.alignment.whole import encode_whole

    X, Y, _ = simulated(p=p, n_targets=23)
    Y[30:60, 5] = 50.0  # constant in one held-out block
    C = np.random.default_rng(1).standard_normal((150, 2))
    np.save(tmp_path / "y.npy", Y)
    on_disk, config, looks = np.load(tmp_path / "y.npy", mmap_mode="r"), RidgeConfig(search="full"), []
    whole = encode(X, Y, GROUPS, config, confounds=C)
    small = encode_whole(X, on_disk, GROUPS, config, C, memory=7e-5, show=False, stop=lambda: looks.append(1))
    assert small.block < 6 and len(looks) >= 5 * 23 // 6
    for k in ("r", "r2", "gain", "r_confounds", "alpha"):
        assert np.allclose(small[k], whole[k], atol=1e-9, equal_nan=True)
    assert (small.left_out == whole.left_out).all() and bool(small.left_out[1, 5])
    assert np.allclose(small.r_mean, whole.r_mean, atol=1e-9)
    with pytest.raises(InputError, match="positive number of GiB"):
        encode_whole(X, Y, memory=-1)


# Precisions and solvers ---------------------------------------------------------------------------------------------

WIDE = tuple(10.0 ** np.arange(-8, 12.5, 1))


def hard(n, p, noise, offset=0.0, unit=1.0, n_targets=12):
    "Features of unequal use far from zero, responses in any unit; most noise is more than can be predicted through."
    rng = np.random.default_rng([n, p])
    X = rng.standard_normal((n, p)) * np.exp(-3 * np.arange(p) / p)
    Y = X @ rng.standard_normal((p, n_targets)) / np.sqrt(p) + noise * rng.standard_normal((n, n_targets))
    return 10 * X + offset, (Y + offset) * unit, rng.standard_normal((n, 2))


@pytest.mark.parametrize(("n", "p"), [(120, 40), (60, 100), (126, 100), (30, 300)])
@pytest.mark.parametrize("noise", [0.3, 1e4])
@pytest.mark.parametrize("alphas", [tuple(10.0 ** np.arange(-1, 8.5, 0.5)), WIDE, (1e29,)])
def test_both_precisions_and_both_solvers_tell_the_same(n, p, noise, alphas):
    X, Y, C = hard(n, p, noise, offset=1e3)
    tell = lambda confounds=None, **k: encode(X, Y, None, RidgeConfig(alphas=alphas, **k), confounds=confounds)
    full = tell(search="full")
    assert (full.r != 0).all() and np.isfinite(full.r).all()
    for k in (dict(dtype="float32"), dict(solver="himalaya"), dict(solver="himalaya", dtype="float32")):
        other = tell(**dict(search="full") | k)
        assert np.abs(other.r - full.r).max() < 0.02 and np.abs(other.gain - full.gain).max() < 0.02, k
    for k in (dict(), dict(confounds=C), dict(inner_folds="loo", search="full")):
        double, single = (tell(**k, dtype=d) for d in ("float64", "float32"))
        assert np.abs(double.r - single.r).max() < 0.02 and np.abs(double.r_mean - single.r_mean).mean() < 1e-3, k


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("solver", ["gram", "himalaya"])
def test_what_a_large_penalty_shrinks_still_correlates(solver, dtype):
    X, Y, _ = hard(120, 40, 3)
    config = RidgeConfig(alphas=(1e8,), solver=solver, dtype=dtype)
    found = encode(X, Y, None, config)
    for i, (train, test) in enumerate(make_folds(120)):
        Z = scaled(X, train)
        shape = Z[test] @ Z[train].T @ (Y[train] - Y[train].mean(0))  # that of an infinite penalty
        by_hand = [stats.pearsonr(shape[:, j], Y[test, j])[0] for j in range(12)]
        assert np.allclose(found.r[i], by_hand, atol=1e-4)
    one_unit = encode(X, Y * 1e-13, None, config)  # a magnetometer's, in tesla
    assert np.allclose(one_unit.r, found.r, atol=1e-4) and np.allclose(one_unit.gain, found.gain, rtol=1e-3, atol=1e-7)
    assert np.allclose(one_unit.prediction, found.prediction * 1e-13, rtol=1e-3, atol=1e-17)
    steady = X.copy()
    steady[96:] = steady[:1]  # features that don't vary in the last fold predict a constant there
    assert (encode(steady, Y, None, config).r[4] == 0).all()


def test_precisions_of_bands_and_scores():
    X, Y, C = hard(60, 30, 30)
    a, b = (banded(dict(model=X, rest=C), Y, None, RidgeConfig(dtype=d), n_random=2) for d in ("float64", "float32"))
    assert (b.r != 0).all() and np.abs(a.r - b.r).max() < 0.02 and np.abs(a.r2 - b.r2).max() < 0.02
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 50, 1))
    truth = stats.pearsonr(x[:, 0], y[:, 0])[0]
    for kind in (np.float64, np.float32):
        assert all(pearson((s * x).astype(kind), y.astype(kind)).item() == pytest.approx(truth, abs=1e-6)
                   for s in (1e30, 1, 1e-9, 1e-30))
        rounding = 7 + np.finfo(kind).eps * rng.standard_normal((50, 1))
        assert pearson(rounding.astype(kind), y.astype(kind)).item() == 0
        assert np.isnan(pearson(y.astype(kind), rounding.astype(kind)).item())
    assert r_squared_gain(x, y / 9, y).item() == pytest.approx(r_squared(x + y / 9, y).item() - r_squared(x, y).item())


# Targets that don't vary for a while --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_target_is_left_out_where_it_is_constant(dtype):
    X, Y, _ = simulated()
    Y[:30, 1], Y[30:, 3] = 5, 7  # constant in the first fold; in all training samples of the first
    config = RidgeConfig(dtype=dtype, search="full")
    found, names = encode(X, Y, GROUPS, config, targets=list("abcdef")), list("abcdef")
    gone = np.zeros((5, 6), bool)
    gone[0, 1] = gone[:, 3] = True
    assert np.array_equal(found.left_out, gone) and np.array_equal(left_out_targets(Y, make_folds(150, GROUPS)), gone)
    for k in ("r", "r2", "gain", "r_confounds", "r2_confounds"): assert np.array_equal(np.isnan(found[k]), gone), k
    assert "2 of 6 targets" in found.attrs["left_out"] and "b in fold 0; d in every fold" in found.attrs["left_out"]
    rest = encode(X, Y[:, [0, 2, 4, 5]], GROUPS, config)
    assert np.allclose(found.r[:, [0, 2, 4, 5]], rest.r, atol=1e-5)
    assert float(found.r_mean[1]) == pytest.approx(float(found.r[1:, 1].mean())) and np.isnan(found.r_mean[3])
    null = permutation_null(X, Y, GROUPS, config, n_permutations=19, targets=names, by_fold=True)
    assert np.array_equal(np.isnan(null.gain_fold).any("permutation"), gone) and np.isnan(null.q[3])
    assert np.isfinite(null.q[[0, 1, 2, 4, 5]]).all() and np.isfinite(null.r_mean_p)
    assert np.allclose(null.gain_fold.mean("fold"), null.gain, atol=1e-5, equal_nan=True)
    bands = banded(dict(x=X), Y, GROUPS, config, band_alphas=[1.0])
    assert np.array_equal(np.isnan(bands.r2), gone) and np.array_equal(np.isnan(bands.r2_band[:, 0]), gone)


def test_what_was_constant_before_something_was_taken_out_is_left_out():
    X, Y, _ = simulated()
    Y[:30, 1] = 5
    slope = np.tile(np.linspace(-1, 1, 30), 5)[:, None]
    cleaned = Y - slope @ (slope.T @ Y) / (slope**2).sum()  # varies in the first run, by what was taken out
    assert not left_out_targets(cleaned, make_folds(150, GROUPS)).any()
    assert encode(X, cleaned, GROUPS, measured=Y).left_out.sum() == 1
    null = permutation_null(X, cleaned, GROUPS, n_permutations=9, measured=Y, by_fold=True)
    assert np.isnan(null.gain_fold[:, 0, 1]).all()
    with pytest.raises(InputError, match="measured has the shape"): encode(X, cleaned, GROUPS, measured=Y[:, :3])
    assert left_out_text(np.zeros((5, 3), bool), "abc") == ""
    many = left_out_text(np.ones((2, 30), bool), range(30))
    assert many.startswith("30 of 30 targets") and many.endswith("9 in every fold; and 20 more")


def test_r_squared_is_against_the_mean_of_the_test_block():
    X, Y, _ = simulated(noise=1, n_targets=1)
    Y = Y + np.repeat([0, 0, 0, 0, 40.0], 30)[:, None]  # an offset of one block, which training can't know
    found = encode(X, Y, GROUPS)
    test = Y[120:, 0]
    by_hand = 1 - ((test - Y[:120, 0].mean()) ** 2).sum() / ((test - test.mean()) ** 2).sum()
    assert float(found.r2_confounds[4, 0]) == pytest.approx(by_hand) and by_hand < -100
    assert float(found.gain[4, 0]) == pytest.approx(float(found.r2[4, 0] - found.r2_confounds[4, 0]))
    assert "mean of each fold's test samples" in found.attrs["r2"]


# Confounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [10, 200])
def test_confounds_are_an_unpenalised_band(p):
    X, Y, _ = simulated(p=p)
    C = np.random.default_rng(2).standard_normal((150, 3)) * [1, 100, 0.01] + 5
    Y = Y + C @ np.random.default_rng(3).standard_normal((3, 6))
    found = encode(X, Y, GROUPS, RidgeConfig(alphas=[25.0]), confounds=C)
    for i, (train, test) in enumerate(make_folds(150, GROUPS)):
        Z, c = scaled(X, train), scaled(C, train)
        D = np.c_[np.ones(150), c, Z]
        P = np.diag([0.0] * 4 + [25.0] * p)
        B = np.linalg.solve(D[train].T @ D[train] + P, D[train].T @ Y[train])
        assert np.allclose(found.prediction[test], D[test] @ B, atol=1e-6)
        alone = LinearRegression().fit(C[train], Y[train]).predict(C[test])
        assert np.allclose(found.r2_confounds[i], r_squared(alone, Y[test]))
    assert np.allclose(found.gain, found.r2 - found.r2_confounds)


def test_a_confound_of_one_run_only_does_no_harm():
    X, Y, _ = simulated()
    drifts = (GROUPS[:, None] == np.arange(5)) * np.linspace(-1, 1, 150)[:, None]
    found = encode(X, Y + 3 * drifts.sum(1, keepdims=True), GROUPS, confounds=drifts)
    assert np.isfinite(found.r).all() and float(found.r_mean.mean()) > 0.3


def test_target_confounds_use_training_coefficients_only():
    X, Y, _ = simulated()
    rng = np.random.default_rng(5)
    moved = {"a": rng.standard_normal((150, 2)), "b": rng.standard_normal((150, 1))}
    sets = np.array(list("aababa"))
    dirty = Y + np.stack([moved[s] @ rng.standard_normal(moved[s].shape[1]) * 5 for s in sets], 1)
    found = encode(X, dirty, GROUPS, RidgeConfig(alphas=[10.0]), target_confounds=moved, target_sets=sets)
    for i, (train, test) in enumerate(make_folds(150, GROUPS)):
        for j, s in enumerate(sets):
            slope = LinearRegression().fit(moved[s][train], dirty[train, j]).coef_
            clean = dirty[:, j] - (moved[s] - moved[s][train].mean(0)) @ slope
            Z = scaled(X, train)
            P = Ridge(alpha=10.0).fit(Z[train], clean[train]).predict(Z[test])
            assert np.isclose(found.r[i, j], stats.pearsonr(P, clean[test])[0], atol=1e-6)
    assert found.r_mean.mean() > encode(X, dirty, GROUPS).r_mean.mean() + 0.1
    null = permutation_null(X, dirty, GROUPS, RidgeConfig(alphas=[10.0]), target_confounds=moved, target_sets=sets,
                            n_permutations=19)
    assert np.allclose(null.r_observed, found.r_mean) and (null.p == 0.05).all()


def test_no_leak_from_test_samples():
    X, Y, _ = simulated()
    before = encode(X, Y, GROUPS)
    train, test = make_folds(150, GROUPS)[2]
    changed, y = X.copy(), Y.copy()
    changed[test] *= 1e3
    y[test] -= 1e3
    after = encode(changed, y, GROUPS, confounds=None)
    assert (after.alpha[2] == before.alpha[2]).all()
    steady = X.copy()
    steady[:, 0] = np.where(np.isin(np.arange(150), test), 99.0, 1.0)  # constant in training: weight zero
    zero = X.copy()
    zero[:, 0] = 0
    a, b = encode(steady, Y, GROUPS), encode(zero, Y, GROUPS)
    assert np.allclose(a.prediction[test], b.prediction[test], atol=1e-9)


# Folds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "config"),
    [
        (None, RidgeConfig()),
        (GROUPS, RidgeConfig()),
        (np.repeat([0, 1], [60, 90]), RidgeConfig(trim=4)),
        (np.repeat(range(40), [1] * 20 + [5] * 10 + [8] * 10), RidgeConfig(n_folds=7)),
        (np.repeat(range(6), [100, 10, 10, 10, 10, 10]), RidgeConfig()),
        (None, RidgeConfig(folds="shuffled")),
    ],
)
def test_folds_are_a_partition(groups, config):
    folds = make_folds(150, groups, config)
    assert len(folds) == config.n_folds
    assert sorted(np.concatenate([t for _, t in folds])) == list(range(150))
    for train, test in folds:
        assert not set(train) & set(test) and len(test)
        if groups is not None and len(set(groups)) >= config.n_folds:
            assert not set(groups[train]) & set(groups[test])
        for i in train if config.trim else ():
            assert not any(abs(i - j) <= config.trim and groups[i] == groups[j] for j in test)


def test_contiguous_is_the_default_and_shuffled_is_recorded():
    X, Y, _ = simulated()
    kinds = ({}, dict(folds="shuffled"), dict(folds="shuffled", seed=1))
    a, b, c = (encode(X, Y, None, RidgeConfig(**k)) for k in kinds)
    assert (a.attrs["folds"], b.attrs["folds"]) == ("contiguous", "shuffled")
    assert (np.diff(a.fold_of_sample) >= 0).all() and not (b.fold_of_sample == c.fold_of_sample).all()
    assert b.identical(encode(X, Y, None, RidgeConfig(folds="shuffled")))
    assert encode(X, Y, GROUPS).attrs["held_out"] == "whole groups"
    assert encode(X, Y, np.repeat([0, 1], 75)).attrs["held_out"] == "blocks of each group"
    config = RidgeConfig(trim=2, inner_folds="loo")
    assert from_dict(RidgeConfig, to_dict(config)) == config


# Recovery and nulls -------------------------------------------------------------------------------------------------


def test_weights_and_penalties_are_recovered():
    X, Y, W = simulated(n=600, p=30, noise=0.5)
    found = ridge_weights(X, Y, np.repeat(range(6), 100))
    cosine = (found.weights.values * W).sum(0) / np.linalg.norm(found.weights, axis=0) / np.linalg.norm(W, axis=0)
    assert cosine.min() > 0.97
    noise = np.random.default_rng(9).standard_normal(Y.shape)
    noisy, clean = (float(np.log10(ridge_weights(X, X @ W + s * noise).alpha).mean()) for s in (3, 0.1))
    assert noisy > clean + 0.5
    ours = ridge_weights(X, Y, None, RidgeConfig(alphas=[10.0]))
    theirs = Ridge(alpha=10.0).fit(scaled(X, np.arange(600)), Y)
    assert np.allclose(ours.weights * X.std(0)[:, None], theirs.coef_.T, atol=1e-6)


def test_scores_reach_the_ceiling_of_the_noise():
    X, Y, W = simulated(n=1000, p=20, noise=1.0)
    signal = (X @ W).var(0)
    assert np.abs(encode(X, Y).r_mean - np.sqrt(signal / (signal + 1))).max() < 0.06


def under_null(rho, block, how="blocks", n_sets=50, n=100, confounds=False):
    "p-values of independent data sets without any effect; the targets of a set share its features."
    out = []
    for i in range(n_sets):
        rng = np.random.default_rng([7, i])
        X, Y = smooth(rng.standard_normal((n, 5)), rho), smooth(rng.standard_normal((n, 5)), rho)
        C = smooth(rng.standard_normal((n, 1)), rho) if confounds else None
        if confounds:
            X[:, :1], Y = X[:, :1] * 0.3 + C, Y + 2 * C
        config = RidgeConfig(alphas=(1.0, 30.0, 1000.0), n_folds=4, inner_folds=3)
        null = permutation_null(X, Y, None, config, C, n_permutations=79, block=block, how=how, seed=i)
        out.append((null.p_gain if confounds else null.p).values)
    return np.concatenate(out)


@pytest.mark.parametrize(
    ("case", "alpha"),
    [(dict(rho=0, block=1), 0.01), (dict(rho=0.7, block=12), 0.01), (dict(rho=0.7, block=5, how="shift"), 0.01),
     (dict(rho=0, block=1, confounds=True), 0.01)],
)  # fmt: skip
def test_p_values_are_uniform_under_the_null(case, alpha):
    p = under_null(**case)
    assert stats.kstest(p, "uniform").pvalue > alpha
    assert 0.02 < (p <= 0.05).mean() < 0.085


def test_naive_shuffling_is_not_calibrated_on_autocorrelated_data():
    p = under_null(rho=0.9, block=1)
    assert (p <= 0.05).mean() > 0.12 and stats.kstest(p, "uniform").pvalue < 1e-4


def test_null_finds_what_is_there_and_its_band_holds_the_null():
    X, Y, _ = simulated(noise=0.7)
    Y[:, 3:] = np.random.default_rng(1).standard_normal((150, 3))
    null = permutation_null(X, Y, GROUPS, n_permutations=99, targets=list("abcdef"))
    assert (null.p.sel(target=["a", "b", "c"]) == 0.01).all() and (null.q[:3] < 0.05).all()
    means = null.r.mean("target")
    assert float(((means >= null.r_low) & (means <= null.r_high)).mean()) > 0.93
    assert float(null.r_observed.mean()) > float(null.r_high) and float(null.r_mean_p) == 0.01
    one = permuted_rows(None, np.random.default_rng(0), 1, n_samples=150)
    assert sorted(one) == list(range(150))
    assert np.allclose(null.r_observed, encode(X, Y, GROUPS).r_mean)


def test_permuted_scores_are_those_of_encoding_permuted_responses():
    from evonb.core import Seeds

    X, Y, _ = simulated()
    config = RidgeConfig(search="full")
    null = permutation_null(X, Y, GROUPS, config, n_permutations=3, block=4, seed=2)
    for i in range(3):
        rows = permuted_rows(GROUPS, Seeds(2).child("permutations", i).numpy(), 4)
        assert np.array_equal(GROUPS[rows], GROUPS)
        assert np.allclose(null.r[i], encode(X, Y[rows], GROUPS, config).r_mean)


def test_freedman_lane_by_hand():
    from evonb.core import Seeds

    X, Y, _ = simulated()
    C = np.random.default_rng(0).standard_normal((150, 2))
    config = RidgeConfig(search="full")
    null = permutation_null(X, Y, GROUPS, config, confounds=C, n_permutations=2)
    fit, alone = LinearRegression().fit(C, Y).predict(C), encode(X, Y, GROUPS, config, confounds=C).r_confounds_mean
    for i in range(2):
        rows = permuted_rows(GROUPS, Seeds(0).child("permutations", i).numpy())
        by_hand = encode(X, fit + (Y - fit)[rows], GROUPS, config, confounds=C)
        added = by_hand.r_mean - by_hand.r_confounds_mean
        assert np.allclose(null.gain[i], by_hand.gain_mean) and np.allclose(null.r[i], alone + added)


# Ceilings -----------------------------------------------------------------------------------------------------------


def test_ceilings_on_known_noise():
    rng = np.random.default_rng(0)
    size = np.array([2, 1, 0.5, 0])
    people = rng.standard_normal((1, 2000, 4)) * size + rng.standard_normal((12, 2000, 4))
    found = split_half_ceiling(people, seed=1)
    var = size[:3] ** 2
    assert np.allclose(found.ceiling[:3], np.sqrt(var / (var + 1 / 12)), atol=0.02) and np.isnan(found.ceiling[3])
    assert found.identical(split_half_ceiling(people, seed=1))
    across = across_subject_ceiling(people)
    assert np.allclose(across.ceiling[:3], var / np.sqrt((var + 1) * (var + 1 / 11)), atol=0.02)
    assert np.isnan(across.ceiling[3]) and (across.upper > across["mean"]).all()
    by_hand = stats.pearsonr(people[3, :, 1], np.delete(people, 3, 0)[:, :, 1].mean(0))[0]
    assert np.isclose(across.r[3, 1], by_hand)
    people[2, :, 0] = np.nan
    some = across_subject_ceiling(people)
    assert np.isnan(some.r[2, 0]) and np.isfinite(some.ceiling[0])
    assert np.isclose(some.r[3, 0], stats.pearsonr(people[3, :, 0], np.delete(people, [2, 3], 0)[:, :, 0].mean(0))[0])
    assert np.isnan(normalised(0.2, 0.0)) and np.isclose(normalised(0.2, 0.4), 0.5)


def test_few_independent_samples_give_no_ceiling():
    rng = np.random.default_rng(3)
    data = smooth(rng.standard_normal((60, 8)), 0.97)[None] * 0.6 + rng.standard_normal((6, 60, 8))
    assert np.isnan(split_half_ceiling(data, block=12).ceiling).sum() > np.isnan(split_half_ceiling(data).ceiling).sum()


# Bands --------------------------------------------------------------------------------------------------------------


def test_one_band_is_ridge():
    X, Y, _ = simulated()
    a = banded(dict(only=X), Y, GROUPS, band_alphas=[0.01])
    for i, (train, test) in enumerate(make_folds(150, GROUPS)):
        Z = scaled(X, train)
        P = Ridge(alpha=0.01 * 30).fit(Z[train], Y[train]).predict(Z[test])  # the mean diagonal of the kernel is 30
        assert np.allclose(a.r[i], [stats.pearsonr(P[:, j], Y[test, j])[0] for j in range(6)], atol=1e-6)
        assert np.allclose(a.r2[i], r_squared(P, Y[test]), atol=1e-6)


def test_bands_are_scaled_apart_and_repeatable():
    rng = np.random.default_rng(0)
    good, junk = rng.standard_normal((150, 5)), rng.standard_normal((150, 200))
    Y = good @ rng.standard_normal((5, 4)) + rng.standard_normal((150, 4))
    a, b = (banded(dict(good=good, junk=junk), Y, GROUPS, n_random=4, seed=1) for _ in range(2))
    assert a.identical(b) and a.r2_mean.mean() > encode(np.c_[good, junk], Y, GROUPS).r2_mean.mean() + 0.1
    assert (a.scale.sel(band="good") > a.scale.sel(band="junk")).mean() > 0.9
    assert float(a.r2_band.sel(band="junk").mean()) < 0.05


def test_partition_of_known_variance():
    rng = np.random.default_rng(1)
    a, b, c = rng.standard_normal((3, 500, 1))
    Y = a + b + c + rng.standard_normal((500, 3))  # variance 4
    config = RidgeConfig(n_folds=3, inner_folds=2)
    parts = partition(dict(ab=np.c_[a, b], bc=np.c_[b, c]), Y, None, config, n_random=0, band_alphas=(1e-4, 1e-2, 1))
    r2 = lambda *columns: r_squared(LinearRegression().fit(D := np.hstack(columns), Y).predict(D), Y).numpy()
    whole, ab, bc = r2(a, b, c), r2(a, b), r2(b, c)  # of this very sample
    assert np.allclose(parts.unique, [whole - bc, whole - ab], atol=0.03)
    assert np.allclose(parts.shared, ab + bc - whole, atol=0.05)
    assert np.allclose(parts.together, whole, atol=0.03) and np.allclose(parts.alone, [ab, bc], atol=0.03)


def test_a_model_of_trivial_features_adds_nothing():
    rng = np.random.default_rng(2)
    runs = np.repeat(range(4), 60)
    rate, extra = smooth(rng.standard_normal((240, 1)), 0.8), rng.standard_normal((240, 5))
    copies = rate @ rng.standard_normal((1, 20)) + 0.5 * rng.standard_normal((240, 20))
    base = 2 * rate + smooth(rng.standard_normal((240, 6)), 0.8)
    Y = np.c_[base, base[:, :3] + 0.6 * extra @ rng.standard_normal((5, 3))]
    config = RidgeConfig(n_folds=4, inner_folds=3)
    trivial = beyond(copies, dict(rate=rate), Y, runs, config, n_random=0)
    assert float(trivial.alone.sel(band="model").mean()) > 0.3
    assert np.abs(trivial.unique.sel(band="model")[:6]).max() < 0.03
    more = beyond(np.c_[copies, extra], dict(rate=rate), Y, runs, config, n_random=0).unique.sel(band="model")
    assert np.abs(more[:6]).max() < 0.06 and (more[6:] > 0.1).all()
    assert beyond(copies, {}, Y, runs, config, n_random=0).band.values.tolist() == ["model", "autocorrelation"]


def test_autocorrelated_baseline():
    B = autocorrelated_baseline(12, np.repeat([0, 1], 6), sigma=1.5)
    assert (B[:6, 6:] == 0).all() and np.allclose(B, B.T) and (np.diag(B) == 1).all()
    assert np.isclose(B[2, 4], np.exp(-0.5 * (2 / 1.5) ** 2))
    Y = smooth(np.random.default_rng(0).standard_normal((120, 10)), 0.95)
    when = autocorrelated_baseline(120)
    score = lambda folds: float(encode(when, Y, None, RidgeConfig(folds=folds)).r_mean.mean())
    shuffled, blocks = score("shuffled"), score("contiguous")
    assert shuffled > 0.8 and blocks < 0.5


# Similarity ---------------------------------------------------------------------------------------------------------


def test_rsa_and_cka_against_direct_formulas():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((20, 7)), rng.standard_normal((20, 4))
    upper = [(i, j) for i in range(20) for j in range(i + 1, 20)]
    a, b = ([1 - np.corrcoef(A[i], A[j])[0, 1] for i, j in upper] for A in (X, Y))
    assert np.isclose(rsa(X, Y), stats.spearmanr(a, b)[0]) and np.isclose(rsa(X, Y, "pearson"), stats.pearsonr(a, b)[0])
    x, y = X - X.mean(0), Y - Y.mean(0)
    frobenius = lambda A, B: np.linalg.norm(A.T @ B) ** 2
    assert np.isclose(linear_cka(X, Y), frobenius(x, y) / np.sqrt(frobenius(x, x) * frobenius(y, y)))

    def u_statistic(K, L):  # the mean over all quadruples of different samples, spelt out (n = 8)
        from itertools import permutations

        out = [K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in permutations(range(len(K)), 4)]
        return np.mean(out)

    X, Y = X[:8], Y[:8]
    K, L = X @ X.T, Y @ Y.T
    direct = u_statistic(K, L) / np.sqrt(u_statistic(K, K) * u_statistic(L, L))
    assert np.isclose(linear_cka(X, Y, debiased=True), direct)


def test_bias_of_cka():
    rng = np.random.default_rng(0)
    pairs = [rng.standard_normal((2, 30, 100)) for _ in range(20)]
    assert np.mean([linear_cka(x, y) for x, y in pairs]) > 0.6
    assert abs(np.mean([linear_cka(x, y, True) for x, y in pairs])) < 0.02
    assert abs(np.mean([rsa(x, y) for x, y in pairs])) < 0.03
    x = pairs[0][0]
    spun = 2 * x @ np.linalg.qr(rng.standard_normal((100, 100)))[0] + 5
    assert np.isclose(linear_cka(x, spun), 1) and np.isclose(linear_cka(x, spun, True), 1)


# Bad input ----------------------------------------------------------------------------------------------------------

X0, Y0, _ = simulated(n=40, p=4, n_targets=3)


def put(A, where, value):
    A = A.copy()
    A[where] = value
    return A


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encode(X0[:-1], Y0), "Y has 40 samples, but X has 39"),
        (lambda: encode(X0, Y0, targets=["a", "b"]), "2 names of targets for 3"),
        (lambda: encode(X0, put(Y0, (slice(None), 1), 2.0), targets=list("abc")), "constant in target b"),
        (lambda: encode(X0, put(Y0, (3, 2), np.nan)), "NaN or infinite in target 2"),
        (lambda: encode(put(X0, (3, 1), np.nan), Y0), "X has values that are NaN or infinite in column 1"),
        (lambda: encode(put(X0, (3, slice(None)), np.inf), Y0), "columns 0, 1, 2, 3"),
        (lambda: encode(X0[:, :0], Y0), "at least one column"),
        (lambda: encode(X0[None], Y0), "X has the shape"),
        (lambda: encode(X0[:4], Y0[:4]), "4 samples in 1 groups .* 5 folds"),
        (lambda: encode(X0[:6], Y0[:6]), "5 folds"),
        (lambda: encode(X0, Y0, np.repeat([0, 1], [37, 3])), "the smallest has 3"),
        (lambda: encode(X0, Y0, np.arange(40) % 2), "scattered"),
        (lambda: encode(X0, Y0, np.arange(39)), "one label for each of the 40"),
        (lambda: encode(X0, Y0, None, RidgeConfig(trim=40)), "trim=40 leaves 0 samples"),
        (lambda: encode(X0, Y0, None, dict(alphas=[1])), "must be a RidgeConfig"),
        (lambda: encode(X0, Y0, confounds=np.ones((39, 1))), "confounds has 39 samples"),
        (lambda: encode(X0, Y0, confounds=np.random.default_rng(0).standard_normal((40, 39))), "Use fewer"),
        (lambda: encode(X0, Y0, target_confounds={"a": X0}), "target_sets"),
        (lambda: encode(X0, Y0, target_confounds={"a": X0}, target_sets=["a", "b", "a"]), "lacks the set 'b'"),
        (lambda: encode(X0, Y0, device="mps"), "mps has no float64"),
        (lambda: RidgeConfig(alphas=[0, 1]), "positive and finite"),
        (lambda: RidgeConfig(alphas=[-1]), "positive and finite"),
        (lambda: RidgeConfig(alphas=[]), "positive and finite"),
        (lambda: RidgeConfig(alphas=[np.nan]), "positive and finite"),
        (lambda: RidgeConfig(n_folds=1), "n_folds"),
        (lambda: RidgeConfig(inner_folds="all"), "inner_folds"),
        (lambda: RidgeConfig(solver="svd"), "gram, himalaya"),
        (lambda: RidgeConfig(folds="random"), "contiguous, shuffled"),
        (lambda: RidgeConfig(dtype="float16"), "float64, float32"),
        (lambda: RidgeConfig(search="best"), "fast, full"),
        (lambda: RidgeConfig(trim=1, folds="shuffled"), "contiguous"),
        (lambda: RidgeConfig(chunk=0), "chunk"),
        (lambda: permutation_null(X0, Y0, n_permutations=0), "n_permutations"),
        (lambda: permutation_null(X0, Y0, block=21), "nothing could be permuted"),
        (lambda: permutation_null(X0, Y0, np.arange(40)), "nothing could be permuted"),
        (lambda: permutation_null(X0, Y0, how="rows"), "blocks, shift"),
        (lambda: split_half_ceiling(Y0), "at least two repetitions"),
        (lambda: split_half_ceiling(put(np.stack([Y0, Y0]), (0, 1, 1), np.nan)), "NaN"),
        (lambda: across_subject_ceiling(Y0[None]), "at least two subjects"),
        (lambda: across_subject_ceiling(put(np.stack([Y0, Y0]), (0, 1, 1), np.nan)), "NaN"),
        (lambda: banded({}, Y0), "no bands"),
        (lambda: banded(dict(a=X0, b=X0[:-1]), Y0), "different numbers of samples"),
        (lambda: banded(dict(a=X0, b=put(X0, (0, 0), np.nan)), Y0), "band 'b' has values"),
        (lambda: partition(dict(a=X0), Y0), "at least two"),
        (lambda: autocorrelated_baseline(10, sigma=0), "sigma"),
        (lambda: rsa(X0, Y0[:-1]), "Y has 39 samples"),
        (lambda: rsa(X0, np.ones((40, 3))), "constant over features"),
        (lambda: rsa(X0, Y0, "kendall"), "spearman, pearson"),
        (lambda: rsa(np.outer(np.arange(1, 41), [0.3, -1.7, 0.9]), Y0), "samples of X are as far apart"),
        (lambda: rsa(X0, np.outer(np.arange(2, 42), [0.3, -1.7, 0.9]), "pearson"), "samples of Y are as far apart"),
        (lambda: linear_cka(np.full((40, 3), 0.1), Y0), "no variation"),
        (lambda: linear_cka(X0, np.full((40, 3), 1 / 3)), "no variation"),
        (lambda: linear_cka(X0, np.ones((40, 3))), "no variation"),
        (lambda: linear_cka(X0[:3], Y0[:3]), "at least 4"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
