"""A brain whose truth is known, through the whole chain: design, encoding, ceilings, nulls; each with its bound."""

import numpy as np
import pytest
from scipy import stats

from evonb.alignment.encoding import (
    RidgeConfig,
    across_subject_ceiling,
    encode,
    partition,
    permutation_null,
    ridge_weights,
)
from evonb.alignment.responses import design, nuisance_design
from evonb.alignment.sources.toy_brain import toy_brain, word_vectors
from evonb.core import Seeds

CONFIG = RidgeConfig(trim=5)
DELAYS = (1, 2, 3)


@pytest.fixture(scope="module")
def brain():
    "Four people, five regions, the last of which answers only to word rate and length."
    return toy_brain(Seeds(0), n_subjects=4, n_rois=5, n_sentences=300, ceiling=0.5, trivial=1, delays=DELAYS)


@pytest.fixture(scope="module")
def confounds(brain):
    return np.hstack(list(nuisance_design(brain[0], delays=DELAYS).values()))


@pytest.fixture(scope="module")
def fitted(brain, confounds):
    made, truth = brain
    return encode(design(made, truth.features, delays=DELAYS), made.data, made.groups, CONFIG, confounds)


def test_the_direction_of_the_weights_is_found(brain):
    "Cosine of at least 0.9 with the true response over features and delays."
    made, truth = brain
    found = ridge_weights(design(made, truth.features, delays=DELAYS), made.data, made.groups, CONFIG).weights.values
    true = truth.fir()
    cosine = (found * true).sum(0) / (np.linalg.norm(found, axis=0) * np.linalg.norm(true, axis=0) + 1e-12)
    assert (cosine[~truth.trivial] > 0.9).all()


def test_the_delays_are_found(brain):
    "Of delays 0 to 6, weights lie on the true ones: their profile correlates with the true response above 0.95."
    made, truth = brain
    n_features = truth.features.shape[1]
    found = ridge_weights(design(made, truth.features, delays=range(7)), made.data, made.groups, CONFIG).weights.values
    size = np.linalg.norm(found.reshape(7, n_features, -1)[:, :, ~truth.trivial], axis=(1, 2))  # (n_delays,)
    true = np.zeros(7)
    true[list(DELAYS)] = np.abs(truth.response)
    assert np.corrcoef(size, true)[0, 1] > 0.95 and size[[0, 5, 6]].max() < 0.5 * size[list(DELAYS)].max()


def test_scores_come_close_to_what_is_possible_and_not_beyond(brain, fitted):
    "Within 15 % below and 5 % above the correlation of signal and response."
    r, possible = fitted.r_mean.values, brain[1].expected_r
    assert (r[~brain[1].trivial] > 0.85 * possible[~brain[1].trivial]).all() and (r < 1.05 * possible).all()


def test_the_ceiling_is_found(brain):
    "A person against the mean of the others, within 0.05 of what the share of signal makes it."
    made, truth = brain
    n, c = 4, truth.ceiling[0]
    expected = c / np.sqrt(c + (1 - c) / (n - 1))  # shared variance over the sd of one (1) and of the others' mean
    for roi in made.rois:
        at = np.flatnonzero((made.targets.roi == roi).to_numpy())
        found = across_subject_ceiling(made.data[:, at].T[..., None])
        assert abs(float(found["mean"][0]) - expected) < 0.05


def test_only_regions_that_know_the_features_gain_beyond_the_nuisances(brain, fitted):
    "The trivial region's gain lies within 0.03 of zero; the others gain more than 0.2."
    gain = fitted.gain_mean.values
    assert (np.abs(gain[brain[1].trivial]) < 0.03).all() and (gain[~brain[1].trivial] > 0.2).all()


def test_a_model_that_knows_only_trivial_features_scores_zero_beyond_them(brain, confounds):
    "A model that counts words and letters gains below 0.03 in every target, within 0.01 on average; its r is high."
    made, truth = brain
    rng = Seeds(1).numpy()
    known = truth.trivial_features
    counts = known @ rng.normal(size=(2, 12)) + 0.01 * rng.normal(size=(len(known), 12))
    X = design(made, counts, delays=DELAYS)
    alone = encode(X, made.data, made.groups, CONFIG)
    beyond = encode(X, made.data, made.groups, CONFIG, confounds)
    assert alone.r_mean.values[truth.trivial].min() > 0.2
    assert beyond.gain_mean.values.max() < 0.03 and abs(beyond.gain_mean.values.mean()) < 0.01


def test_variance_is_shared_out_as_it_was_made(brain, confounds):
    made, truth = brain
    X, first = design(made, truth.features, delays=DELAYS), slice(0, 5)
    bands = dict(model=X, nuisance=confounds)
    found = partition(bands, made.data[:, first], made.groups, RidgeConfig(trim=5), n_random=4)
    unique = found.unique.sel(band="model").values
    assert (unique[:4] > 0.2).all() and abs(unique[4]) < 0.05


def test_null_p_values_are_uniform():
    "Word vectors of another brain, 240 noisy responses: Kolmogorov-Smirnov p above 0.01, 2 to 8 % of p below 0.05."
    people = dict(n_subjects=60, n_rois=4, n_sentences=120, ceiling=0.01, trivial=0, autocorrelation=0.3)
    made, _ = toy_brain(Seeds(7), **people)
    words = [w for p in made.passages for w in p.words]
    X = design(made, word_vectors(words, 8, Seeds(99)), delays=DELAYS)
    null = permutation_null(X, made.data, made.groups, CONFIG, n_permutations=99, block=10)
    p = null.p.values
    assert stats.kstest(p, "uniform").pvalue > 0.01 and 0.02 <= (p <= 0.05).mean() <= 0.08
