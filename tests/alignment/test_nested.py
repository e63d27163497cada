"""Layers chosen on other folds, the null of that choice, and families of tests: by hand, and when there is nothing."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from evonb.alignment.encoding import RidgeConfig, encode, permutation_null
from evonb.alignment.nested import arms_explained, choose_layers, least_together, map_q, nested_null
from evonb.core import InputError, Seeds
from evonb.statistics import fdr, p_values


def test_layers_are_chosen_on_other_folds():
    scores = np.array([[1.0, 0, 0, 0], [0.4, 0.3, 0.3, 0.3]])  # the first is best in its own fold only
    assert choose_layers(scores).tolist() == [1, 0, 0, 0]
    noise = Seeds(0).numpy().normal(size=(200, 40, 5))
    honest = [n[choose_layers(n), range(5)].mean() for n in noise]
    assert abs(np.mean(honest)) < 3 * np.std(honest) / 200**0.5 + 0.02 and noise.mean(2).max(1).mean() > 0.8
    assert choose_layers([[0.1, 0.1], [np.nan, np.nan]]).tolist() == [0, 0]
    assert choose_layers([[0.1, np.nan, 0.2], [0.3, np.nan, 0.1]]).tolist() == [0, 1, 1]  # one fold told nothing
    assert np.array_equal(choose_layers(noise.transpose(1, 0, 2)), [choose_layers(n) for n in noise])
    with pytest.raises(InputError, match="at least two"): choose_layers([[1.0]])
    with pytest.raises(InputError, match="No layer has a finite score"): choose_layers(np.full((2, 3), np.nan))


def test_the_null_of_a_choice_is_a_plain_loop():
    v = Seeds(1).numpy().normal(size=(4, 9, 5, 3))  # (n_layers, n_permutations, n_folds, n_targets)
    v[:, :, 1, 2] = np.nan  # a target that is left out in a fold
    v[:, :, :, 0] += np.arange(4)[:, None, None] / 9
    loop = np.zeros((9, 3))
    for i in range(9):
        for j in range(3):
            found = []
            for fold in range(5):
                others = [np.nanmean([np.nanmean(v[layer, i, f]) for f in range(5) if f != fold]) for layer in range(4)]
                found.append(v[int(np.argmax(others)), i, fold, j])
            loop[i, j] = np.nanmean(found)
    assert np.allclose(nested_null(list(v)), loop)
    assert np.array_equal(nested_null([lambda x=x: x for x in v]), nested_null(list(v)))
    v[..., 1] = np.nan
    assert np.isnan(nested_null(list(v))[:, 1]).all()


def test_families_are_all_that_can_be_shown():
    rng = Seeds(2).numpy()
    p = rng.uniform(size=(2, 5, 7))
    p[1, 4] = np.nan  # the second model has fewer layers
    q = map_q(p)
    assert np.allclose(q[0], false_discovery_control(p[0].ravel()).reshape(5, 7)) and np.isnan(q[1, 4]).all()
    assert np.allclose(q[1, :4], false_discovery_control(p[1, :4].ravel()).reshape(4, 7))
    gain = dict(a=rng.normal(size=(3, 7)), b=rng.normal(size=(2, 7)))
    null = {k: rng.normal(size=(len(v), 99, 7)) for k, v in gain.items()}
    told = arms_explained(gain, null)
    by_hand = {k: p_values(null[k].mean(0), gain[k].mean(0)) for k in gain}
    assert all(np.allclose(told[k]["p"], by_hand[k]) for k in gain)
    both = false_discovery_control(np.concatenate([by_hand["a"], by_hand["b"]]))
    assert np.allclose(np.concatenate([told["a"]["q"], told["b"]["q"]]), both)


def explained_by_nothing(rng, n_layers=13, n_targets=6, n=60, n_permutations=150):
    "q at the nested layer and of the map, through the same code as a run: features of nothing, layer after layer."
    Y, config = rng.standard_normal((n, n_targets)), RidgeConfig(alphas=(10.0, 1e3), n_folds=4, inner_folds=3)
    before, seen, nulls, p = rng.standard_normal((n, 4)), [], [], []
    for _ in range(n_layers):  # neighbouring layers resemble each other
        before = 0.8 * before + 0.6 * rng.standard_normal((n, 4))
        null = permutation_null(before, Y, None, config, n_permutations=n_permutations, by_fold=True)
        seen.append(encode(before, Y, None, config).gain.values)
        nulls.append(null.gain_fold.values)
        p.append(null.p_gain.values)
    seen = np.array(seen)  # (n_layers, n_folds, n_targets)
    best = seen[choose_layers(seen.mean(-1)), np.arange(4)].mean(0)
    told = arms_explained(dict(a=best[None]), dict(a=nested_null(nulls)[None]))["a"]["q"]
    return (told < 0.05).any(), (map_q(np.array(p)[None]) < 0.05).any()


def test_a_run_of_layers_without_anything_explains_nothing():
    found = np.array([explained_by_nothing(np.random.default_rng([3, i]), n_layers=5) for i in range(25)])
    assert found.sum(0).max() <= 4  # of 25 at 5 %: above that in one of 150 seeds

    rng, hits = Seeds(4).numpy(), 0  # and many more with scores that were drawn
    for _ in range(300):
        v = rng.normal(size=(13, 200, 5, 6)) + rng.normal(size=(1, 200, 5, 6))
        best = v[:, 0][choose_layers(v[:, 0].mean(-1)), np.arange(5)].mean(0)
        hits += (arms_explained(dict(a=best[None]), dict(a=nested_null(list(v[:, 1:]))[None]))["a"]["q"] < 0.05).any()
    assert hits / 300 <= 0.07


def test_what_is_there_is_found():
    rng = Seeds(5).numpy()
    v = rng.normal(size=(13, 200, 5, 6))
    v[4:7, 0, :, :2] += 3  # three layers explain two targets
    best = v[:, 0][choose_layers(v[:, 0].mean(-1)), np.arange(5)].mean(0)
    q = arms_explained(dict(a=best[None]), dict(a=nested_null(list(v[:, 1:]))[None]))["a"]["q"]
    assert (q < 0.05).tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("n_tests, n_permutations", [(162, 200), (162, 3300), (162, 3240), (6, 200), (12, 40), (1, 20)])
def test_so_few_can_pass_together_and_no_fewer(n_tests, n_permutations):
    def passing(k):  # k targets at the smallest p that there is, nothing in the others
        p = np.where(np.arange(n_tests) < k, 1 / (n_permutations + 1), 1.0)
        return int((fdr(p) < 0.05).sum())

    k = least_together(n_tests, n_permutations)
    assert passing(k) == k and all(passing(j) == 0 for j in range(k))
