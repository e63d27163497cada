"""n-grams: the recursion by hand, sums of one, contexts that weren't met."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from evonb.core import InputError
from evonb.text.ngrams import NGrams, discount_of


def by_hand(text, n_vocab, order, context, w):
    "Interpolated Kneser-Ney by counting, one probability."
    p = 1 / n_vocab
    for k in range(1, order + 1):
        if k - 1 > len(context):
            break
        grams = [tuple(text[i:i + k]) for i in range(len(text) - k + 1)]
        longer = {tuple(text[i:i + k + 1]) for i in range(len(text) - k)}
        counts = Counter(grams) if k == order else Counter(g[1:] for g in longer)
        follow = defaultdict(dict)
        for g, c in counts.items():
            follow[g[:-1]][g[-1]] = c
        own = follow.get(tuple(context[len(context) - k + 1:]))
        if not own:
            continue
        d = discount_of(np.array(list(counts.values())))
        p = (max(own.get(w, 0) - d, 0) + d * len(own) * p) / sum(own.values())
    return p


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_recursion_by_hand(order):
    rng = np.random.default_rng(order)
    text = rng.zipf(1.6, 400).clip(max=9) - 1
    model = NGrams(text, 10, order)
    contexts = [tuple(text[i:i + order - 1]) for i in (0, 17, 230)] + [(9,) * (order - 1), (0, 9, 0, 1)[:order - 1]]
    for c in contexts:
        expected = [by_hand(text.tolist(), 10, order, list(c), w) for w in range(10)]
        assert np.allclose(model.distribution(c), expected) and np.isclose(sum(expected), 1)
        assert np.allclose(model.probabilities([c] * 10, range(10)), expected)


def test_a_text_begins_without_a_context():
    text = np.random.default_rng(0).integers(0, 6, 300)
    model = NGrams(text, 8, 4)
    own = model.log_probs([3, 1, 4, 1, 5])
    assert np.allclose(own, np.log([by_hand(text.tolist(), 8, 4, [3, 1, 4, 1, 5][max(0, i - 3):i], w)
                                    for i, w in enumerate([3, 1, 4, 1, 5])]))
    sums, flat = model.sums([(3, 1, 4, 1, 5), (2, 2)], [1, 1])
    assert np.allclose(sums, [own[1:].sum(), flat[-1]]) and len(flat) == 5


def test_all_distributions_sum_to_one_and_nothing_is_impossible():
    text = np.random.default_rng(1).integers(0, 5, 60)
    model = NGrams(text, 7, 3)
    for a in range(7):
        for b in range(7):
            p = model.distribution((a, b))
            assert np.isclose(p.sum(), 1) and p.min() > 0


def test_what_cant_be_counted_is_refused():
    for ids, given in (([1], {}), ([[1, 2]], {}), ([1, 2, 3], dict(order=0))):
        with pytest.raises(InputError):
            NGrams(ids, 5, **given)
    with pytest.raises(InputError, match="tokens from 0 to 9, but n_vocab is 5"):
        NGrams([0, 9, 1, 2, 3], 5)
