"""Inheritance: against plain loops and worked examples, known heritability found, what can't be told isn't."""

import itertools

import numpy as np
import pytest

from evonb.cli import genetics_text, main
from evonb.core import InputError, Seeds
from evonb.evolution.genetics import (
    KIN,
    among_peers,
    births,
    change_at_birth,
    depths,
    everyone,
    founders_of,
    genetics,
    genetics_told,
    heritability,
    kept_variance,
    kin_differences,
    measure_genetics,
    null_slopes,
    pair_differences,
    resemblance,
    siblings,
    simulated_herd,
    without_each_family,
)
from evonb.evolution.landscape import peak
from evonb.evolution.method import METHODS
from evonb.evolution.operators import ArraySpace
from evonb.evolution.search import evolve, history_of
from evonb.report import write_report
from evonb.store import create_run, read_dataset


def history(rows, **more):
    "A history of (generation, digest, parents, value)."
    rows = [dict(generation=g, number=i, value=v, smooth=np.nan, scores={}, failed=not np.isfinite(v), reason="",
                 parents=p.split(), operator="x", seed=0, digest=d) | more for i, (g, d, p, v) in enumerate(rows)]
    return history_of(rows, [np.nan] * (rows[-1]["generation"] + 1))


FAMILY = [(0, "a", "", 1.0), (0, "b", "", 3.0), (0, "c", "", 8.0), (1, "d", "a b", 2.5), (1, "e", "b a", 1.5),
          (1, "f", "b c", 5.0), (1, "a", "a", 1.0), (2, "g", "d", 3.0), (2, "h", "f stranger", 9.0),
          (2, "i", "f", np.nan), (2, "j", "f", 6.0)]  # fmt: skip


def test_births_have_all_parents_on_record_and_copies_are_none():
    b = births(history(FAMILY)).sel(trait="fitness")
    assert b.offspring.values[:4].tolist() == [2.5, 1.5, 5.0, 3.0] and b.sizes["birth"] == 6
    assert b.midparent.values.tolist() == [2, 2, 5.5, 2.5, 5, 5] and b.n_parents.values.tolist() == [2, 2, 2, 1, 1, 1]
    assert b.family.values.tolist() == [0, 0, 1, 2, 3, 3]  # the order of parents doesn't matter
    x = everyone(history(FAMILY))
    assert dict(zip(x.digest.values, x.depth.values)) == dict(a=0, b=0, c=0, d=1, e=1, f=1, g=2, h=2, i=2, j=2)
    assert founders_of(history(FAMILY), "g") == {"a", "b"}
    assert founders_of(history(FAMILY), "h") == {"b", "c", "stranger"}
    assert depths(["x"], ["x"]).tolist() == [0]


def test_the_slope_is_that_of_numpy_within_each_generation():
    b = births(simulated_herd(0.5, Seeds(0), 12, n_generations=3))
    y, x, g = b.offspring.values[:, 0], b.midparent.values[:, 0], b.generation.values
    design = np.c_[x, g[:, None] == np.arange(1, 4)]
    assert np.isclose(heritability(b), np.linalg.lstsq(design, y, rcond=None)[0][0])
    assert np.isclose(change_at_birth(b), (y - x).mean())


def test_siblings_are_as_alike_as_the_components_of_variance_say():
    rng = np.random.default_rng(0)
    family = rng.integers(8, size=40)
    y = rng.standard_normal(8)[family] + rng.standard_normal(40)
    groups = [y[family == f] for f in np.unique(family)]
    n, k = len(y), len(groups)
    between = sum(len(g) * (g.mean() - y.mean()) ** 2 for g in groups) / (k - 1)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (n - k)
    n0 = (n - sum(len(g) ** 2 for g in groups) / n) / (k - 1)
    variance = (between - within) / n0
    assert np.isclose(resemblance(y, family), variance / (variance + within))
    assert np.isnan(resemblance([1.0, 2], [0, 1])) and np.isnan(resemblance([1.0, 2], [0, 0]))


def test_kin_are_compared_pair_by_pair():
    v = np.random.default_rng(1).standard_normal(9)
    assert np.isclose(pair_differences(v)[0], sum(abs(a - b) for a, b in itertools.combinations(v, 2)))
    b = births(simulated_herd(0.6, Seeds(2), 5, 3, 2))
    y, x, f, g = b.offspring.values[:, 0], b.midparent.values[:, 0], b.family.values, b.generation.values
    pairs = [(i, j) for i, j in itertools.combinations(range(len(y)), 2) if g[i] == g[j]]
    brothers = [abs(y[i] - y[j]) for i, j in pairs if f[i] == f[j]]
    strangers = [abs(y[i] - y[j]) for i, j in pairs if f[i] != f[j]]
    assert np.allclose(kin_differences(b), [np.mean(brothers), np.abs(x - y).mean(), np.mean(strangers)])


@pytest.mark.parametrize("h2", [0.0, 0.5, 1.0])
def test_a_known_heritability_is_recovered_and_its_interval_holds_it(h2):
    found = genetics(dict(herd={s: simulated_herd(h2, Seeds(s), 40, 4, 2) for s in range(6)}), n_draws=60)
    one = found.isel(trait=0, **{"method": 0})
    low, high = float(one.heritability_low), float(one.heritability_high)
    assert abs(float(one.heritability) - h2) < 0.12 and low < h2 < high and high - low < 0.5
    assert abs(float(one.siblings) - h2 / 2) < 0.1 and one.units.item() == "6 searches"
    assert (float(one.null_p) < 0.02) == (h2 > 0) and one.null_low < 0 < one.null_high


def test_selection_leaves_the_slope_and_takes_siblings_likeness():
    whole, few = ([births(h) for h in hs] for hs in (
        [simulated_herd(0.6, Seeds(s), 150, n_generations=1, share=p) for s in range(4)] for p in (1.0, 0.2)))
    h, t = (np.array([[f(b) for b in bs] for bs in (whole, few)]).mean(1) for f in (heritability, siblings))
    assert np.abs(h - 0.6).max() < 0.15
    k = 0.781  # what the best fifth of a normal trait loses of its variance
    between = 0.3 * (1 - 0.6 * k)
    assert abs(t[1] - between / (between + 0.3 + 0.4)) < 0.06 and t[1] < t[0] - 0.05
    herd = simulated_herd(0.6, Seeds(0), 150, n_generations=1, share=0.2)
    assert kept_variance(herd) < 0.4 < 0.8 < kept_variance(simulated_herd(0.6, Seeds(0), 150, n_generations=1))


def test_one_parent_hands_on_all_of_its_breeding_value():
    bs = [births(simulated_herd(0.5, Seeds(s), 60, 4, 2, n_parents=1)) for s in range(4)]
    assert abs(np.mean([heritability(b) for b in bs]) - 0.5) < 0.1
    assert abs(np.mean([siblings(b) for b in bs]) - 0.5) < 0.1  # a family shares it whole


def test_the_null_keeps_siblings_together_and_its_p_is_rarely_small_without_inheritance():
    p = [genetics(dict(h={0: simulated_herd(0.0, Seeds(s), 15, 3, 2)}), n_draws=40).null_p.item() for s in range(12)]
    assert np.mean(np.array(p) < 0.1) <= 1 / 3
    b = births(simulated_herd(0.9, Seeds(0), 15, 3, 2))
    null = null_slopes(b, "fitness", np.random.default_rng(0), 100)
    assert np.array_equal(null, null_slopes(b, "fitness", np.random.default_rng(0), 100)) and abs(null.mean()) < 0.1


def test_a_single_search_is_told_by_its_families():
    b = births(simulated_herd(0.5, Seeds(3), 20, 3, 2))
    parts = without_each_family(heritability, b, "fitness")
    assert len(parts) == len(np.unique(b.family)) and abs(parts.mean() - heritability(b)) < 0.1
    found = genetics(dict(herd={0: simulated_herd(0.5, Seeds(3), 20, 3, 2)}), n_draws=20)
    assert found.units.item() == f"{len(parts)} families" and found.heritability.item() == heritability(b)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    space = ArraySpace(["a", "b", "c"], 2)
    with create_run(tmp_path_factory.mktemp("genetics") / "run", dict(seed=1), "wirings") as made:
        for name in ("genome", "niches", "uniform"):
            for s in range(2):
                evolve(METHODS[name](space, None, Seeds(s)), peak, 40, made.file("evolve", name, f"seed-{s}"),
                       show=False, traits=("length",))  # fmt: skip
    return made


def test_a_run_is_told_in_terminal_and_report(run, capsys):
    assert main(["genetics", str(run.path), "--draws", "30"]) == 0
    said = capsys.readouterr().out
    assert "Without births on record: uniform." in said and "niches" in said and "over 2 searches" in said
    found = read_dataset(run.file("genetics.zarr.zip"))
    assert found.sizes["method"] == 2 and list(found.trait.values) == ["fitness", "length"]
    assert list(found.kin.values) == list(KIN) and genetics_text(found) in said
    assert found.identical(measure_genetics(run.path, 30))  # the same draws
    page = write_report(run.path).read_text()
    assert "Inheritance" in page and "Heritability of fitness" in page


def test_whatever_notes_no_births_is_told_so(tmp_path, capsys):
    lone = history([(0, "a", "", 1.0), (0, "b", "", 2.0), (1, "c", "a b", 1.5)])
    found = genetics(dict(m={0: lone}), n_draws=10)
    assert np.isnan(found.heritability.item())
    assert genetics_told(found) == ["m: too few births with parents that differ."]
    with pytest.raises(InputError, match="No individual of m has parents on record"):
        genetics(dict(m={0: history(FAMILY[:3])}))
    with pytest.raises(InputError, match="no history of a search: it has no number, value"):
        everyone(found)
    with create_run(tmp_path / "run", {}, "population"):
        pass
    assert main(["genetics", str(tmp_path / "run")]) == 2 and "holds no search yet" in capsys.readouterr().err
    for wrong in (-0.1, 1.5):
        with pytest.raises(InputError, match="h2 is"):
            simulated_herd(wrong, Seeds(0))
    assert among_peers(np.zeros(0), []).size == 0
