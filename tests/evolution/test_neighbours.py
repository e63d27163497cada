"""Around and between individuals: a bowl's curvature, two minima's barrier, what can't be scored."""

import numpy as np
import pytest

from evonb.alignment.encoding import linear_cka
from evonb.core import InputError
from evonb.evolution.method import Outcome
from evonb.evolution.neighbours import barrier, look_around, sharpness, straight_path
from evonb.evolution.operators import ArraySpace

SPACE = ArraySpace(["a", "b", "c"])
BOTTOM = np.array([[1.0, -2.0, 3.0]])


def bowl(curvature):
    return lambda genomes: [Outcome(-0.5 * float((curvature * (g - BOTTOM) ** 2).sum())) for g in genomes]


@pytest.mark.parametrize("scale", [0.01, 0.3])
def test_sharpness_of_a_bowl_is_half_the_trace_times_the_step(scale):
    curvature, rng = np.array([1.0, 4.0, 10.0]), np.random.default_rng(0)
    found = sharpness(SPACE, bowl(curvature), BOTTOM, rng, scale, 4000)
    expected = 0.5 * scale**2 * np.mean(BOTTOM**2) * curvature.sum()
    assert found["low"] < expected < found["high"] and abs(found["mean"] / expected - 1) < 0.06
    assert sharpness(SPACE, bowl(3 * curvature), BOTTOM, np.random.default_rng(0), scale, 8)["mean"] == pytest.approx(
        3 * sharpness(SPACE, bowl(curvature), BOTTOM, np.random.default_rng(0), scale, 8)["mean"])


def test_barriers_of_known_hills():
    line = ArraySpace(["x"])
    valleys = lambda genomes: [Outcome(-float((g[0, 0] ** 2 - 1) ** 2)) for g in genomes]
    a, b = np.array([[-1.0]]), np.array([[1.0]])
    assert barrier(straight_path(line, valleys, a, b)) == 1 and barrier(straight_path(line, valleys, a, a)) == 0
    one_bowl = straight_path(SPACE, bowl(np.ones(3)), BOTTOM + 1, BOTTOM - 2)  # convex: the line is never above
    assert barrier(one_bowl) == 0
    assert np.isnan(barrier([1.0, 2, np.nan])) and barrier([1.0, np.nan, 1]) == 0


def test_likeness_is_that_of_the_features_and_what_is_wrong_is_refused():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 5))
    turned = x @ np.linalg.qr(rng.standard_normal((5, 5)))[0]
    features = np.stack([x, turned, rng.standard_normal((12, 5))])
    genomes = {n: BOTTOM + i for i, n in enumerate("pqr")}
    found = look_around(SPACE, bowl(np.ones(3)), genomes, rng, features=features, alike=linear_cka)
    assert np.isclose(found.likeness.sel(individual="p", other="q"), 1) and found.likeness.values[0, 2] < 0.7
    assert np.array_equal(found.path.values[0, 1], found.path.values[1, 0][::-1])
    failing = lambda genomes: [Outcome(np.nan, reason="never") for _ in genomes]
    with pytest.raises(InputError, match="can be scored"):
        sharpness(SPACE, failing, BOTTOM, rng)
    for wrong in (dict(scale=-1.0), dict(scale=np.inf), dict(n=1)):
        with pytest.raises(InputError):
            sharpness(SPACE, bowl(np.ones(3)), BOTTOM, rng, **wrong)
    with pytest.raises(InputError, match="n is 2"):
        straight_path(SPACE, bowl(np.ones(3)), BOTTOM, BOTTOM, 2)
