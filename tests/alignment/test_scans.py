"Words to scans: against plain loops and nilearn, and every bad input by its message."

import numpy as np
import pytest
from scipy.stats import gamma

from evonb.alignment.scans import (
    HRF_SECONDS,
    check_onsets,
    check_scans,
    convolved,
    delayed,
    drifts,
    hrf,
    scan_weights,
    to_scans,
)
from evonb.core import InputError, Seeds

pytestmark = pytest.mark.numerics

TR, N_SCANS, N_WORDS = 1.5, 60, 170
rng = Seeds(5).child("test scans").numpy()
ONSETS = np.sort(rng.uniform(0, N_SCANS * TR - 8, N_WORDS))
ONSETS[60:] += 6  # a silence of several scans
OFFSETS = ONSETS + rng.uniform(.05, 2.5, N_WORDS)
VALUES = rng.standard_normal((N_WORDS, 4))


def by_hand(values, how, offsets=None, lobes=3):
    "The definitions, one scan and one word at a time."
    out = np.zeros((N_SCANS, values.shape[1]))
    for k in range(N_SCANS):
        total = 0.
        for i, onset in enumerate(ONSETS):
            begin, end = k * TR, (k + 1) * TR
            if how == "lanczos":
                t = (begin + TR / 2 - (onset if offsets is None else (onset + offsets[i]) / 2)) / TR
                w = 0. if abs(t) > lobes else 1. if t == 0 else (
                    lobes * np.sin(np.pi * t) * np.sin(np.pi * t / lobes) / (np.pi**2 * t**2))
            elif offsets is None: w = float(begin <= onset < end)
            else: w = max(0., min(end, offsets[i]) - max(begin, onset)) / (offsets[i] - onset)
            out[k] += w * values[i]
            total += w
        if how == "average" and total > 0: out[k] /= total
    return out


@pytest.mark.parametrize("offsets", [None, OFFSETS], ids=["onsets", "offsets"])
@pytest.mark.parametrize("how", ["average", "sum", "lanczos"])
def test_equals_the_double_loop(how, offsets):
    got = to_scans(VALUES, ONSETS, N_SCANS, TR, how, offsets)
    np.testing.assert_allclose(got, by_hand(VALUES, how, offsets), atol=1e-12)


def test_lobes_reach_further():
    five = to_scans(VALUES, ONSETS, N_SCANS, TR, "lanczos", lobes=5)
    np.testing.assert_allclose(five, by_hand(VALUES, "lanczos", lobes=5), atol=1e-12)
    assert np.abs(five - to_scans(VALUES, ONSETS, N_SCANS, TR, "lanczos")).max() > .01


def test_a_scan_without_words_is_zero_and_no_word_is_lost():
    for how in ("average", "sum"):
        silent = np.bincount((ONSETS // TR).astype(int), minlength=N_SCANS) == 0
        assert silent.sum() >= 3
        assert (to_scans(VALUES, ONSETS, N_SCANS, TR, how)[silent] == 0).all()
    np.testing.assert_allclose(to_scans(VALUES, ONSETS, N_SCANS, TR, "sum").sum(0), VALUES.sum(0))
    inside = OFFSETS < N_SCANS * TR
    shares = scan_weights(ONSETS, N_SCANS, TR, "sum", OFFSETS).sum(0)
    np.testing.assert_allclose(shares[inside], 1)


def test_precision_shape_and_repeatability():
    single = VALUES.astype(np.float32)
    a, b = (to_scans(single, ONSETS, N_SCANS, TR, "lanczos") for _ in range(2))
    assert a.dtype == np.float32 and a.tobytes() == b.tobytes()
    assert to_scans(VALUES[:, 0], ONSETS, N_SCANS, TR).shape == (N_SCANS,)
    assert to_scans(np.arange(N_WORDS), ONSETS, N_SCANS, TR).dtype == np.float64


def test_large_stays_sparse():
    onsets = np.linspace(0, 719, 2000)
    weights = scan_weights(onsets, 360, 2., "lanczos")
    assert weights.nnz <= 2000 * 6 + 2000  # six scans a word, seven at an edge: no dense scans x words matrix
    assert to_scans(np.ones((2000, 1000), np.float32), onsets, 360, 2., "lanczos").shape == (360, 1000)


@pytest.mark.parametrize("onsets, match", [
    ([0, 2., 1., 3.], r"word 3 \('C'\) begins at 1 s, before the word that precedes it"),
    ([-.5, 2., 2.5, 3.], r"word 1 \('A'\) begins at -0.5 s, before the first scan"),
    ([0, 2., 20., 30.], r"word 3 \('C'\) begins at 20 s, but the 10 scans end at 20 s"),
    ([0, 2., np.nan, 3.], "onsets isn't finite in row 2"),
    ([[0, 2.], [3., 4.]], r"shape \(2, 2\)"),
    ([], r"shape \(0,\)"),
])
def test_bad_onsets(onsets, match):
    with pytest.raises(InputError, match=match): check_onsets(onsets, 10, 2., list("ABCD"))
    with pytest.raises(InputError, match=match.replace(r" \('A'\)", "").replace(r" \('C'\)", "")):
        to_scans(np.zeros((len(onsets), 2)), onsets, 10, 2.)


def test_equal_onsets_are_in_order():
    assert check_onsets([0, 0, 19.99], 10, 2.).tolist() == [0, 0, 19.99]


@pytest.mark.parametrize("change, match", [
    (dict(tr=0.), "tr is 0.0"), (dict(tr=True), "tr is True"), (dict(tr=np.inf), "tr is inf"),
    (dict(tr="2"), "tr is '2'"), (dict(n_scans=0), "n_scans is 0"), (dict(n_scans=2.5), "n_scans is 2.5"),
    (dict(how="median"), "how is 'median'.*average, sum, lanczos"), (dict(how="lanczos", lobes=0), "lobes is 0"),
    (dict(values=VALUES[:-1]), r"values has shape \(169, 4\).*170 words"), (dict(values=3.), r"shape \(\)"),
    (dict(values=np.full((N_WORDS, 1), np.nan)), "values isn't finite in row 0"),
    (dict(offsets=OFFSETS[:3]), r"offsets has shape \(3,\)"),
    (dict(offsets=ONSETS - .1), "word 1 ends at .* but begins at"),
])
def test_bad_arguments(change, match):
    arguments = dict(values=VALUES, onsets=ONSETS, n_scans=N_SCANS, tr=TR) | change
    with pytest.raises(InputError, match=match): to_scans(**arguments)


def test_check_scans_gives_plain_numbers():
    assert check_scans(np.int64(4), np.float32(2)) == (4, 2.0)


def test_delayed_equals_a_loop():
    X, delays = rng.standard_normal((20, 3)), (2, 0, 5)
    got = delayed(X, delays)
    for i, d in enumerate(delays):
        for k in range(20):
            np.testing.assert_array_equal(got[k, 3 * i:3 * i + 3], X[k - d] if k >= d else 0)
    assert delayed(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("delays", [(), (1, 1), (-1,), (20,), (1.5,), ("1",)])
def test_bad_delays(delays):
    with pytest.raises(InputError, match="delay"): delayed(np.zeros((20, 2)), delays)


def test_bad_matrix():
    with pytest.raises(InputError, match="isn't finite in row 3"): delayed([0, 1, 2, np.inf, 4, 5])
    with pytest.raises(InputError, match=r"shape \(2, 3, 4\)"): delayed(np.zeros((2, 3, 4)))


def test_hrf_is_the_published_shape():
    t = np.linspace(0, HRF_SECONDS, 200)
    spm = gamma.pdf(t, 6) - gamma.pdf(t, 16) / 6  # Friston et al. 1998, SPM's double gamma
    assert np.corrcoef(hrf(t, "spm"), spm)[0, 1] > .999
    assert abs(t[np.argmax(hrf(t, "spm"))] - 5) < .25 and hrf(-1., "spm") == hrf(33., "spm") == 0
    for kind in ("glover", "spm"): assert abs(np.trapezoid(hrf(t, kind), t) - 1) < 5e-3


@pytest.mark.parametrize("kind", ["glover", "spm"])
def test_convolution_at_onsets_is_nilearns(kind):
    from nilearn.glm.first_level import compute_regressor
    got = convolved(VALUES, TR, kind, ONSETS, N_SCANS)
    for j in range(VALUES.shape[1]):
        events = ONSETS, np.zeros(N_WORDS), VALUES[:, j]
        oversampling = 400
        want = compute_regressor(events, kind, np.arange(N_SCANS) * TR, oversampling=oversampling)[0][:, 0]
        want *= oversampling  # nilearn's event lasts one step of its grid, ours has unit area in units of the TR
        assert np.abs(got[:, j] - want).max() < .02 * np.abs(want).max()
        assert np.corrcoef(got[:, j], want)[0, 1] > .9999


def test_convolution_of_scans_stands_at_their_middle():
    X = rng.standard_normal((N_SCANS, 2))
    at_middles = convolved(X, TR, "spm", (np.arange(N_SCANS) + .5) * TR, N_SCANS)
    np.testing.assert_array_equal(convolved(X, TR, "spm"), at_middles)
    loop = np.array([sum(X[j] * hrf((k - j - .5) * TR, "spm") * TR for j in range(k)) + 0 * X[0] for k in range(20)])
    np.testing.assert_allclose(convolved(X, TR, "spm")[:20], loop, atol=1e-12)
    assert not convolved(X, TR, "spm")[0].any()  # nothing answers before it was heard


@pytest.mark.parametrize("arguments, match", [
    (dict(hrf="gamma"), "hrf is 'gamma'.*glover, spm"), (dict(onsets=ONSETS), "without n_scans"),
    (dict(n_scans=3), "170 scans and n_scans is 3"), (dict(onsets=ONSETS[:5], n_scans=N_SCANS), "each of the 5 words"),
    (dict(onsets=ONSETS[::-1], n_scans=N_SCANS), "before the word that precedes it"), (dict(tr=-1), "tr is -1"),
])
def test_bad_convolution(arguments, match):
    with pytest.raises(InputError, match=match): convolved(VALUES, **dict(tr=TR) | arguments)


def test_drifts_are_the_slow_cosines():
    D = drifts(100, 2., .02)
    k = np.arange(1, D.shape[1] + 1)
    want = np.sqrt(2 / 100) * np.cos(np.pi / 100 * (np.arange(100)[:, None] + .5) * k)
    np.testing.assert_allclose(D, want, atol=1e-12)
    assert D.shape[1] == 8  # the fastest has half a period of 200 s / 8, which is 0.02 Hz


@pytest.mark.parametrize("high_pass", [0, 1e-4, .25, 1., "slow", np.nan])
def test_bad_drifts(high_pass):
    with pytest.raises(InputError, match="high_pass"): drifts(100, 2., high_pass)
