"""What answers are worth: ties, log-odds, and the part of length."""

import numpy as np

from evonb.development.items import by_paradigm, credits, length_parts, log_odds


def test_ties_earn_what_guessing_earns_wherever_the_right_option_stands():
    for m in (2, 3, 5):
        for right in range(m):
            assert np.allclose(credits(np.full((7, m), -3.), [right] * 7), 1 / m)
    near = np.array([[-2., -2. - 1e-7], [-2., -2.1]])
    assert credits(near, [1, 1]).tolist() == [.5, 0]


def test_log_odds_are_those_of_the_softmax_for_any_number_of_options():
    rng = np.random.default_rng(0)
    sums, right = rng.normal(-40, 5, (50, 4)), rng.integers(4, size=50)
    sums[:10, 3], right[:10] = np.nan, 1
    for row, r, found in zip(sums, right, log_odds(sums, right)):
        p = np.exp(row[np.isfinite(row)])
        p /= p.sum()
        assert np.isclose(found, np.log(p[r] / (1 - p[r])))


def test_a_model_that_knows_length_only_is_seen_through():
    counts = np.array([[4, 6], [7, 5], [3, 3], [2, 9]])
    told = length_parts(-1. * counts, counts, [0, 0, 0, 1])
    assert told["shortest"].tolist() == [1, 0, .5, 0] and told["per_token"].tolist() == [.5] * 4
    assert np.nanmean(told["when_shorter"]) == 1 and np.nanmean(told["when_longer"]) == 0
    assert np.isnan(told["when_shorter"][2])


def test_paradigms_count_alike():
    found = by_paradigm([[1, 1, 1, 0], [0, 0, 0, np.nan]], ["a", "a", "a", "b"], ["b", "a"])
    assert found[0].tolist() == [0, 1] and found[1, 1] == 0 and np.isnan(found[1, 0])
