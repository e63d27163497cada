"""Ceilings of few people, people predicted from people, parts of variance and profiles of layers: known truth."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV

from evonb.alignment.beside import layer_profiles, people_levels
from evonb.alignment.ceilings import by_region, ceiling_remark, group_bounds, group_ceilings, pair_correlations
from evonb.alignment.encoding import RidgeConfig, make_folds, r_squared_gain
from evonb.alignment.partition import band_sets, even_bands, split_parts, variance_parts
from evonb.alignment.profile import layer_profile, part_table, winning_layers
from evonb.alignment.shared import ACROSS, hyperaligned, predicted_across, procrustes, shared_response
from evonb.alignment.verdicts import judge_arms
from evonb.core import InputError


def people(n, share, n_samples, rng):
    shared, own = rng.standard_normal((1, n_samples, 2)), rng.standard_normal((n, n_samples, 2))
    return np.sqrt(share) * shared + np.sqrt(1 - share) * own


# Ceilings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_corrected_ceiling_has_no_bias_where_the_bounds_have(n, share):
    rng = np.random.default_rng(n)
    found = [group_ceilings(people(n, share, 1500, rng)) for _ in range(12)]
    mean = lambda k: float(np.mean([f[k] for f in found]))
    assert np.allclose([mean("lower"), mean("upper")], group_bounds(share, n), atol=0.02)
    assert abs(mean("corrected") - np.sqrt(share)) < 0.03
    assert mean("lower") < np.sqrt(share) - 0.005 and mean("upper") > np.sqrt(share) + 0.005


def test_its_interval_holds_the_truth():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(60):
        f = group_ceilings(people(6, 0.3, 200, rng))
        held += ((f.corrected_low <= 0.3**0.5) & (f.corrected_high >= 0.3**0.5)).values.tolist()
    assert 0.85 < np.mean(held)
    two = group_ceilings(people(2, 0.3, 200, rng))
    assert np.isnan(two.corrected_low).all() and "no interval" in ceiling_remark(two)


def test_ceilings_leave_out_what_is_left_out():
    rng = np.random.default_rng(1)
    data, folds = people(4, 0.5, 200, rng), make_folds(200, None, RidgeConfig(n_folds=4))
    gone = np.zeros((4, 4, 2), bool)
    gone[1, 2, 0] = True
    pairs = pair_correlations(data, folds, gone)
    by_fold = [np.corrcoef(data[0, t, 0], data[1, t, 0])[0, 1] for i, (_, t) in enumerate(folds) if i != 2]
    assert np.isclose(pairs[0, 1, 0], np.mean(by_fold)) and np.isnan(pairs[2, 2]).all()
    data[3, :, 1] = np.nan
    assert group_ceilings(data, folds).n_people.values.tolist() == [4, 3]
    for bad in (data[:1], data[0]):
        with pytest.raises(InputError, match="at least two subjects"):
            group_ceilings(bad)
    with pytest.raises(InputError, match="1 person"):
        group_bounds(0.2, 1)


# People from people -------------------------------------------------------------------------------------------------


def planted(rng, n_people=5, n_targets=8, noise=0.3):
    S = rng.standard_normal((240, 3))
    mix = [np.linalg.qr(rng.standard_normal((n_targets, 3)))[0] for _ in range(n_people)]
    return S, mix, np.stack([S @ w.T + noise * rng.standard_normal((240, n_targets)) for w in mix])


def test_a_planted_shared_space_is_found():
    S, mix, data = planted(np.random.default_rng(0), noise=0.05)
    found, courses = shared_response(list(data), 3)
    turn = procrustes(courses, S)  # known up to a rotation
    assert np.allclose(courses @ turn, S, atol=0.15) and np.corrcoef((courses @ turn).T, S.T)[0, 3] > 0.99
    assert all(np.allclose(w.T @ w, np.eye(3)) and np.allclose(w @ turn, m, atol=0.05) for w, m in zip(found, mix))
    errors = [sum(((x - s @ w.T) ** 2).sum() for x, w in zip(data, m))
              for m, s in (shared_response(list(data), 3, n) for n in (1, 2, 5, 20))]  # fmt: skip
    assert all(np.diff(errors) <= 1e-9 * errors[0])
    rng = np.random.default_rng(1)
    A = rng.standard_normal((60, 4))
    turned = [A @ np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(4)]
    rotations, template = hyperaligned(turned)
    assert all(np.allclose(x @ r, template) and np.allclose(r.T @ r, np.eye(4)) for x, r in zip(turned, rotations))


def test_ways_across_people_on_known_truth():
    rng = np.random.default_rng(2)
    _, _, data = planted(rng)
    folds = make_folds(240)
    reached = {how: np.nanmean(predicted_across(data, folds, how)) for how in ACROSS}
    assert min(reached[h] for h in ("srm", "ridge", "hyperalignment")) > 0.7 > 0.3 > abs(reached["mean"])
    noise = rng.standard_normal(data.shape)
    null = {how: np.nanmean(predicted_across(noise, folds, how)) for how in ACROSS}
    assert max(abs(v) for v in null.values()) < 0.06  # a leak would show


@pytest.mark.parametrize("how", ACROSS)
def test_a_persons_own_held_out_responses_change_nothing(how):
    _, _, data = planted(np.random.default_rng(3), n_targets=4)
    folds = make_folds(240)
    test, other = folds[2][1], data.copy()
    other[0, test] = other[0, test] * 3 + 7  # the same up to scale, which r doesn't see: predictions must be the same
    a, b = (predicted_across(d, folds, how)[0, 2] for d in (data, other))
    assert np.allclose(a, b)


def test_people_who_lack_targets():
    _, _, data = planted(np.random.default_rng(4), n_targets=4)
    data[1, :, 2] = np.nan
    for how in ACROSS:
        r = predicted_across(data, make_folds(240), how)
        assert np.isnan(r[1, :, 2]).all() and np.isfinite(r[1, :, 0]).all()
    with pytest.raises(InputError, match="as many targets"):
        hyperaligned([data[0], data[1][:, :2]])
    with pytest.raises(InputError, match="between 1 and"):
        shared_response(list(data[[0, 2]]), 9)
    with pytest.raises(InputError, match="how is 'sum'"):
        predicted_across(data, make_folds(240), "sum")
    with pytest.raises(InputError, match="at least two people"):
        predicted_across(data[:1], make_folds(240))


# Parts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_parts_are_areas_of_sets_and_add_up(k):
    rng, names = np.random.default_rng(k), "abcde"[:k]
    areas = {s: rng.standard_normal(3) for s in band_sets(names)}  # also below zero
    covered = {s: sum(v for t, v in areas.items() if set(s) & set(t)) for s in areas}
    parts = split_parts(covered, names)
    assert len(parts) == 2**k - 1 and all(np.allclose(parts[s], areas[s]) for s in areas)
    assert np.allclose(sum(parts.values()), covered[tuple(names)])


def test_parts_of_known_variance_also_below_zero():
    rng = np.random.default_rng(0)
    a, b, noise = rng.standard_normal((3, 300, 1))
    bands = dict(x=a, y=a + 0.5 * b)
    Y = np.hstack([a + b, b, 0.01 * b + noise])  # b alone: y suppresses a with x's help
    found = variance_parts(bands, Y).parts.mean("fold")
    assert found.sel(part="x & y")[1] < -0.1 and found.sel(part="y only")[1] > 0.9  # told, not hidden
    assert np.abs(found[:, 2]).max() < 0.1
    for band, scores in (("x", variance_parts(bands, Y).explained.sel(part="x only")),):
        Z = even_bands(bands)[band]
        for f, (train, test) in enumerate(make_folds(300)):
            mean = Y[train].mean(0)
            model = RidgeCV(np.logspace(-4, 3, 20) * 300, alpha_per_target=True).fit(Z[train], Y[train])
            gain = r_squared_gain(np.tile(mean, (len(test), 1)), model.predict(Z[test]) - mean, Y[test])
            assert np.allclose(scores[f], gain, atol=0.01)
    few = dict(n_random=0, band_alphas=(1e-4, 1e-2, 1, 100))
    banded = variance_parts(bands, Y, how="banded", **few).parts.mean("fold")
    assert np.allclose(banded, found, atol=0.1)


def test_bands_that_cannot_be_split():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((60, 2)), rng.standard_normal((60, 1))
    for names in ("a", "abcdef", "aa"):
        with pytest.raises(InputError, match="two to 5"):
            band_sets(names)
    with pytest.raises(InputError, match="'b' is constant"):
        variance_parts(dict(a=X, b=np.ones(60)), Y)
    with pytest.raises(InputError, match="how is 'sum'"):
        variance_parts(dict(a=X, b=X), Y, how="sum")
    found = variance_parts(dict(a=X, b=X[:, :1]), Y)
    alone = part_table([found], ["s1"])
    assert alone["a only"]["units"] == dict(fold=5)


# Layers, and tests over all at once ---------------------------------------------------------------------------------


def test_winning_layers_by_plain_draws():
    rng = np.random.default_rng(0)
    values = np.array([0, 0.04, 0.05])[None, :, None] + 0.05 * rng.standard_normal((3, 3, 7))
    wins, plain = winning_layers(values, 4000), np.zeros(3)
    for _ in range(3000):
        m, i = rng.integers(3, size=3), rng.integers(7, size=7)
        plain[values[m][:, :, i].mean((0, 2)).argmax()] += 1 / 3000
    assert np.allclose(wins, plain, atol=0.04) and np.isclose(wins.sum(), 1)
    assert (winning_layers(values, 200) == winning_layers(values, 200)).all()
    deep = np.concatenate([values, np.full((3, 1, 7), np.nan)], 1)
    assert winning_layers(deep)[3] == 0
    with pytest.raises(InputError, match="n_models, n_layers"):
        winning_layers(values[0])
    one = layer_profile(values[:1, :, :1], [3, 5, 7])
    assert one["low"] == [None] * 3 and one["best_low"] == one["best_high"] == one["best"]


def test_an_arm_counts_where_it_holds_over_people_and_over_stretches():
    rng = np.random.default_rng(5)
    table = lambda *more: 0.01 * rng.standard_normal((3, 12, 6)) + sum(more)  # (n_models, n_people, n_stretches)
    def p(a, b):  # of the difference
        gain, blocks = ({"connectome": x.mean(k), "random": y.mean(k)} for k, (x, y) in ((2, (a, b)), (1, (a, b))))
        return judge_arms(gain, blocks=blocks)["random"]["difference"]["p"]
    assert p(table(0.3), table()) < 1e-3
    assert p(table(0.6 * (np.arange(6) == 2)), table()) > 0.2  # all people, but one stretch
    assert p(table(1.2 * (np.arange(12) == 3)[:, None]), table()) > 0.2  # all stretches, but one person
    wrong = lambda: p(*(table(0.1 * rng.standard_normal(6)) for _ in range(2)))  # stretches differ by chance
    assert np.mean([wrong() < 0.05 for _ in range(150)]) < 0.1


def test_levels_and_profiles_of_a_simulated_brain():
    from evonb.alignment.sources.toy_brain import toy_brain
    from evonb.core import Seeds

    brain, _ = toy_brain(Seeds(0), n_subjects=4, n_rois=3, n_sentences=50, ceiling=0.5)
    folds = make_folds(len(brain.data), brain.groups)
    found = people_levels(brain, folds, np.zeros((5, 12), bool), tuple(ACROSS), config=RidgeConfig(),
                          groups=brain.groups)  # fmt: skip
    assert [r["n_people"] for r in found["regions"]] == [4] * 3 and set(found["across"]) == set(ACROSS)
    assert np.allclose([r["corrected"] for r in found["regions"]], 0.5**0.5, atol=0.3)  # half of the variance is shared
    courses, at = by_region(brain)
    assert np.array_equal(courses[2, :, 1], brain.data[:, at[2, 1]].astype(float))
    import xarray as xr

    gain = np.zeros((1, 2, 5, 12)) + np.array([0.1, 0.2])[None, :, None, None]
    ds = xr.Dataset(dict(gain_fold=(("model", "layer", "fold", "target"), gain)), dict(
        layer=[0, 1], arm=("model", ["a"]), subject=("target", brain.targets.subject.tolist())))  # fmt: skip
    assert layer_profiles(ds)["a"]["best"] == 1 and layer_profiles(ds)["a"]["wins"] == [0, 1]
