"""Ensembles: against plain loops; ranked by validation alone."""

import numpy as np
import pytest

from evonb.core import InputError
from evonb.populations.ensemble import (
    combined_support,
    ensemble_accuracy,
    oracle_credit,
    perplexity_weights,
    rank_members,
    text_vote_credit,
)
from evonb.tasks.tasks import choice_credit

pytestmark = pytest.mark.numerics

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((5, 40, 3))
ANSWERS = RNG.integers(3, size=40)


def plain_vote(scores, answers):
    credit = []
    for item, right in zip(np.moveaxis(scores, 1, 0), answers):
        counts = [sum(member.argmax() == o for member in item) for o in range(item.shape[1])]
        winners = [o for o, c in enumerate(counts) if c == max(counts)]
        credit.append((right in winners) / len(winners))
    return np.array(credit)


def test_vote_against_a_plain_loop():
    for n in range(1, 6):
        assert np.allclose(choice_credit(combined_support(SCORES[:n]), ANSWERS), plain_vote(SCORES[:n], ANSWERS))


def test_ties_split_the_credit():
    two = np.array([[[1.0, 0, 0]], [[0, 1.0, 0]]])
    assert [choice_credit(combined_support(two), [a])[0] for a in range(3)] == [0.5, 0.5, 0]
    assert np.allclose(choice_credit(np.zeros((1, 4)), [2]), 0.25)


def test_probability_average_against_a_plain_loop():
    expected = np.zeros(SCORES.shape[1:])
    for member in SCORES:
        for i, row in enumerate(member):
            expected[i] += np.exp(row) / np.exp(row).sum() / len(SCORES)
    assert np.allclose(combined_support(SCORES, "probability"), expected)
    nan = np.concatenate([SCORES, np.full((5, 40, 1), np.nan)], -1)
    assert np.allclose(combined_support(nan, "probability")[..., :3], expected)


def test_perplexity_weights():
    nll = np.array([1.0, 2.0, 4.0])
    assert np.allclose(perplexity_weights(nll, 2), np.exp(-nll / 2) / np.exp(-nll / 2).sum())
    sure = perplexity_weights(nll, 0.01)
    assert sure[0] > 0.999
    items = perplexity_weights(RNG.random((3, 40)))
    assert np.allclose(items.sum(0), 1)
    equal = combined_support(SCORES, "perplexity", np.full(5, 3.0))
    assert np.allclose(equal, combined_support(SCORES, "probability"))


def test_ranking_sees_validation_only():
    validation = [0.2, 0.9, np.nan, 0.5, 0.9]
    assert rank_members(validation).tolist() == [1, 4, 3, 0]
    curves = ensemble_accuracy(validation, SCORES, ANSWERS)
    perfect = SCORES.copy()
    perfect[0, np.arange(40), ANSWERS] = 99.0  # the last by validation is perfect on test: it still joins last
    other = ensemble_accuracy(validation, perfect, ANSWERS)
    assert curves.member.values.tolist() == other.member.values.tolist() == [1, 4, 3, 0]
    assert np.array_equal(curves.accuracy.sel(size=[1, 2, 3]), other.accuracy.sel(size=[1, 2, 3]))
    assert float(other.oracle[-1]) == 1.0


def test_curve_and_oracle():
    curves = ensemble_accuracy(np.arange(5), SCORES, ANSWERS, ("vote", "probability", "perplexity"), np.ones(5))
    order = [4, 3, 2, 1, 0]
    for n in range(1, 6):
        assert np.isclose(curves.accuracy.sel(how="vote", size=n), plain_vote(SCORES[order[:n]], ANSWERS).mean())
    right = (SCORES.argmax(-1) == ANSWERS).any(0)
    assert np.array_equal(oracle_credit(SCORES, ANSWERS), right) and np.isclose(curves.oracle[-1], right.mean())
    assert (curves.oracle.values >= curves.accuracy.max("how").values).all()
    se = curves.credit.sel(how="vote", size=3).std(ddof=1) / np.sqrt(40)
    assert np.isclose(curves.se.sel(how="vote", size=3), se)


def test_texts():
    texts = [["a", "b", "c"], ["a ", "c", "c"], ["b", "d", "d"]]
    right = ["a", "b", "d"]
    credit = text_vote_credit(texts, lambda t, i: float(t.strip() == right[i]))
    assert np.allclose(credit, [1, 1 / 3, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ensemble_accuracy([], [], ANSWERS), "ensemble is empty"),
        (lambda: ensemble_accuracy([1.0], SCORES, ANSWERS), "1 validation scores for 5 members"),
        (lambda: ensemble_accuracy(np.ones(5), SCORES, ANSWERS[:3]), "3 answers for 40 items"),
        (lambda: ensemble_accuracy(np.ones(5), SCORES, ANSWERS + 3), "outside the 3 options"),
        (lambda: ensemble_accuracy([np.nan] * 5, SCORES, ANSWERS), "No member has a validation score"),
        (lambda: ensemble_accuracy(np.ones(2), [SCORES[0], SCORES[1, :9]], ANSWERS), "same items"),
        (lambda: combined_support(SCORES, "mean"), "vote, probability, perplexity"),
        (lambda: combined_support(SCORES, "perplexity"), "need log_perplexity"),
        (lambda: perplexity_weights([1.0, np.inf]), "isn't finite"),
        (lambda: perplexity_weights([1.0], 0), "must be positive"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
