"""Representational similarity: beside plain loops, with its ceiling, and refused where it is undefined."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from evonb.alignment.encoding import rdm
from evonb.alignment.geometry import RDM_COMPARISONS, geometry, geometry_ceiling, people_rdms, rdm_similarity, tau_a
from evonb.alignment.responses import Responses
from evonb.core import InputError
from evonb.text.passages import join_words


def items(data, n_people):
    n, k = data.shape
    rows = [(f"P{i} r{j}", f"r{j}", f"P{i}", *[np.nan] * 3) for i in range(n_people) for j in range(k // n_people)]
    table = pd.DataFrame(rows, columns=["target", "roi", "subject", "x", "y", "z"])
    return Responses("many", "items", data, table, np.arange(n), [join_words(f"i{i}", ["a"]) for i in range(n)])


@pytest.mark.parametrize("ties", [False, True])
def test_tau_a_is_that_of_a_plain_loop(ties):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5 if ties else 10**6, (2, 40)).astype(float)
    signs = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in itertools.combinations(range(40), 2)]
    assert np.isclose(tau_a(a, b), np.mean(signs)) and rdm_similarity(a, b, "kendall") == tau_a(a, b)
    assert np.isclose(rdm_similarity(a, b), spearmanr(a, b).statistic)
    assert np.isclose(rdm_similarity(a, b, "pearson"), np.corrcoef(a, b)[0, 1])


def test_dissimilarities_and_the_ceiling_are_those_of_plain_loops():
    rng = np.random.default_rng(1)
    data = rng.standard_normal((12, 15)) + np.tile(rng.standard_normal((12, 5)), 3)
    found = people_rdms(items(data, 3))
    for i, v in enumerate(found.values()):
        own = data[:, 5 * i : 5 * i + 5].astype(np.float32)
        wanted = [1 - np.corrcoef(own[a], own[b])[0, 1] for a, b in itertools.combinations(range(12), 2)]
        assert np.allclose(v, wanted, atol=1e-6)
    ranks = np.array([pd.Series(v).rank() for v in found.values()])
    lower = np.mean([spearmanr(ranks[i], np.delete(ranks, i, 0).mean(0)).statistic for i in range(3)])
    upper = np.mean([spearmanr(r, ranks.mean(0)).statistic for r in ranks])
    assert np.allclose(geometry_ceiling(found), (lower, upper)) and lower < upper
    assert np.isnan(geometry_ceiling(dict(one=found["P0"]))).all()


@pytest.mark.parametrize("how", RDM_COMPARISONS)
def test_the_layer_that_drives_people_is_found(how):
    rng = np.random.default_rng(2)
    hidden, other = rng.standard_normal((2, 50, 8))
    data = np.concatenate([hidden + rng.standard_normal((50, 8)) for _ in range(4)], 1)
    found = geometry(dict(drives=hidden, other=other), items(data, 4), how)
    assert float(found["mean"][0]) > float(found.lower) > 0.1 > 2 * abs(float(found["mean"][1]))
    theirs = people_rdms(items(data, 4))
    assert np.isclose(found.similarity.values[1, 2], rdm_similarity(rdm(other), theirs["P2"], how))


def test_what_is_undefined_is_refused_with_the_reason():
    rng = np.random.default_rng(3)
    with pytest.raises(InputError, match="P0 has 1 target an item, .* undefined for one"):
        people_rdms(items(rng.standard_normal((9, 1)), 1))
    with pytest.raises(InputError, match="P0 has 2 targets an item, .* always 1 or -1 for two"):
        people_rdms(items(rng.standard_normal((9, 2)), 1))
    good = items(rng.standard_normal((9, 4)), 1)
    with pytest.raises(InputError, match="the layer 'a' has 8 samples"):
        geometry(dict(a=rng.standard_normal((8, 4))), good)
    with pytest.raises(InputError, match="layer 'a' has 2 features"):
        geometry(dict(a=rng.standard_normal((9, 2))), good)
    with pytest.raises(InputError, match="how is 'tau'"):
        geometry(dict(a=rng.standard_normal((9, 4))), good, "tau")
    with pytest.raises(InputError, match="must be of the same items"):
        rdm_similarity(np.ones(3), np.ones(4))
    with pytest.raises(InputError, match="All dissimilarities are equal"):
        rdm_similarity(np.ones(3), np.arange(3.0))
