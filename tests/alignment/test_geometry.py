"""Representational similarity: beside plain loops, with its ceiling, and refused where it is undefined."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from evonb.alignment.encoding import RidgeConfig, rdm
from evonb.alignment.features import ReadConfig, read
from evonb.alignment.geometry import (
    RDM_COMPARISONS,
    block_parts,
    check_geometry,
    chosen_parts,
    geometry,
    geometry_ceiling,
    item_blocks,
    people_rdms,
    rdm_similarity,
    row_distances,
    tau_a,
)
from evonb.alignment.responses import Responses
from evonb.alignment.run import AlignConfig, align_run, as_before
from evonb.alignment.sources.assemblies import pereira2018
from evonb.alignment.sources.toy_brain import toy_brain
from evonb.alignment.sources.toy_readers import toy_reading
from evonb.cli import main
from evonb.core import InputError, RunExistsError, Seeds
from evonb.report import write_report
from evonb.statistics import crossed_mean, verdict
from evonb.store import read_dataset, read_json, write_json
from evonb.text.passages import join_words
from evonb.text.tokens import train_tokenizer
from evonb.text.toy_english import toy_stream
from evonb.training.base import open_base, save_base
from evonb.training.gpt import GPTConfig, new_gpt


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


def subsets(blocks, half, without):
    return [i for i, b in enumerate(blocks) if b % 2 == half and b != without]


@pytest.mark.parametrize("how", RDM_COMPARISONS)
def test_a_block_counts_what_is_missing_without_it(how):
    rng = np.random.default_rng(4)
    X, Y, blocks = rng.standard_normal((21, 6)), rng.standard_normal((21, 4)), np.repeat(np.arange(7), 3)
    found = block_parts([lambda at: rdm(X[at])], [lambda at: rdm(Y[at])], blocks, how)[0, 0]
    for b in range(7):
        every, rest, k = subsets(blocks, b % 2, None), subsets(blocks, b % 2, b), 4 - b % 2
        whole, without = (rdm_similarity(rdm(X[at]), rdm(Y[at]), how) for at in (every, rest))
        assert np.isclose(found[b], k * whole - (k - 1) * without)


def test_a_layer_is_not_chosen_where_it_is_scored():
    rng, chosen, best = np.random.default_rng(5), [], []
    blocks = np.repeat(np.arange(10), 4)
    for _ in range(60):
        Y, layers = rng.standard_normal((40, 5)), rng.standard_normal((8, 40, 5))
        parts = block_parts([lambda at, X=X: rdm(X[at]) for X in layers], [lambda at, Y=Y: rdm(Y[at])], blocks)
        kept, of = chosen_parts(parts)
        assert all(np.array_equal(kept[:, h::2], parts[of[h]][:, h::2]) for h in (0, 1))
        chosen.append(kept.mean())
        best.append(parts.mean((1, 2)).max())
    spread = np.std(chosen) / 60**0.5
    assert abs(np.mean(chosen)) < 3 * spread < 10 * spread < np.mean(best)  # the best of eight is above zero by choice


def test_intervals_by_block_hold_what_neighbours_share():
    "Items of a passage are alike in both, for reasons of their own: pairs as a sample would find much."
    rng, blocks, p, naive = np.random.default_rng(6), np.repeat(np.arange(12), 5), [], []
    for _ in range(150):
        X, Y = (np.repeat(rng.standard_normal((12, 6)), 5, 0) + 0.5 * rng.standard_normal((60, 6)) for _ in range(2))
        at = np.arange(60)
        between = [lambda at, v=v: between_blocks(v, at) for v in (X, Y)]
        parts = block_parts(between[:1], between[1:], blocks)[0]
        p.append(crossed_mean(parts, ("", "block"), ("",))["p"])
        naive.append(spearmanr(*(f(at) for f in between)).pvalue)
    assert np.mean(np.array(naive) < 0.05) > 0.3 and np.mean(np.array(p) < 0.05) < 0.13


def between_blocks(X, at):
    "Dissimilarities of items of different passages."
    i, j = np.triu_indices(len(at), 1)
    return rdm(X[at])[at[i] // 5 != at[j] // 5]


# In an alignment ----------------------------------------------------------------------------------------------------

HEARD = dict(kind="items", n_sentences=60, n_subjects=3, n_rois=5, trivial=0)


def grouped(data, size=5):
    return replace(data, groups=np.repeat(np.arange(len(data.data) // size), size))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "small"
    tokenizer = train_tokenizer([next(toy_stream(Seeds(1))) for _ in range(60)], 300)
    save_base(new_gpt(GPTConfig(vocab_size=300, n_layer=2, n_head=2, n_embd=16, block_size=128), Seeds(0)), tokenizer,
              folder)
    return folder


@pytest.fixture(scope="module")
def heard(base):
    "People whose regions answer to a layer of the base, twelve passages of five sentences."
    texts = toy_brain(Seeds(0), **HEARD)[0].passages
    asked = ReadConfig(level="passage", layers=(2,))
    own = read(open_base(base, "cpu"), texts, asked, show=False).hidden.values[0]
    return grouped(toy_brain(Seeds(0), features=own, ceiling=0.8, **HEARD)[0])


def aligned(path, base, data, **changes):
    few = dict(untrained=2, n_permutations=20, across=(), ridge=RidgeConfig(n_folds=3))
    config = AlignConfig(str(base), "toy-brain", **few | changes)
    return align_run(path, config, show=False, device="cpu", data=data, cache=path.parent / "cache")


def test_an_alignment_compares_dissimilarities_where_it_is_asked_to(tmp_path, base, heard, capsys):
    run = aligned(tmp_path / "run", base, heard, geometry="spearman")
    ds, summary = read_dataset(run.file("geometry.zarr.zip")), read_json(run.file("summary.json"))
    hidden = read(open_base(base, "cpu"), heard.passages, ReadConfig(level="passage", layers="all"), show=False).hidden
    known = geometry({k: v for k, v in zip(hidden.layer.values.tolist(), hidden.values)}, heard)
    assert np.allclose(ds.similarity.sel(model="small/0"), known.similarity, equal_nan=True)
    assert np.isnan(known.similarity[0]).all()  # the embedding of the last word, a full stop, is the same for all
    assert any("tell no two items apart are left out: small/0 0" in x for x in summary["geometry"]["said"])
    assert np.isclose(ds.lower, known.lower) and ds.attrs["block"] == "one passage" and ds.sizes["block"] == 12
    arm = summary["geometry"]["arms"]["small"]
    assert arm["gain"]["units"] == dict(person=3, block=12) and np.isclose(arm["gain"]["mean"], ds.part[0].mean())
    assert {"autocorrelation", "position", "nuisance length", "untrained"} <= set(arm["rows"])
    length = rdm_similarity(row_distances(heard.nuisance["length"])(np.arange(60)), people_rdms(heard)["s1"])
    assert np.isclose(ds.row_similarity.sel(row="nuisance length", subject="s1"), length)
    assert verdict(arm["gain"]) == "higher" and arm["gain"]["mean"] > arm["rows"]["untrained"]["mean"] > 0
    assert main(["show", str(run.path)]) in (0, None) and "geometry (Spearman's rank" in capsys.readouterr().out
    assert "Are sentences that are alike" in write_report(run.path).read_text()
    run.file("geometry.zarr.zip").unlink()
    run.file("summary.json").unlink()
    assert ds.equals(read_dataset(aligned(run.path, base, heard, geometry="spearman").file("geometry.zarr.zip")))


def test_runs_that_did_not_ask_stay_as_they_were(tmp_path, base, heard):
    run = aligned(tmp_path / "run", base, heard, layers=(2,))
    assert "geometry" not in read_json(run.file("summary.json")) and not run.file("geometry.zarr.zip").exists()
    stored = read_json(run.path / "run.json")
    del stored["config"]["geometry"]  # as an older version noted it
    write_json(run.path / "run.json", stored)
    run.file("summary.json").unlink()
    aligned(tmp_path / "run", base, heard, layers=(2,))
    assert as_before(run.path, AlignConfig()).geometry is None
    with pytest.raises(RunExistsError, match="geometry"):
        aligned(tmp_path / "run", base, heard, layers=(2,), geometry="pearson")


def test_one_person_has_blocks_and_no_ceiling(tmp_path, base, heard):
    run = aligned(tmp_path / "run", base, heard.select(subjects="s2"), geometry="kendall", layers=(2,))
    found = read_json(run.file("summary.json"))["geometry"]
    assert found["lower"] is None and found["arms"]["small"]["gain"]["units"] == dict(block=12)
    assert any("ceiling of one person unknown" in x for x in found["said"])


def test_an_assembly_as_published_is_compared(tmp_path, base):
    from test_assemblies import written

    n = 48
    shown = dict(sentence=[f"Sentence {i} of a passage on bees number {i * i}." for i in range(n)],
                 experiment=["384sentences"] * n, passage_label=[f"passage {i // 4}" for i in range(n)])  # fmt: skip
    voxels = dict(neuroid_id=[f"{i}" for i in range(8)], subject=["S1"] * 4 + ["S2"] * 4, roi=["language"] * 8)
    data = pereira2018(written(tmp_path, shown, voxels)[0])
    run = aligned(tmp_path / "run", base, data, geometry="pearson", layers=(2,))
    found = read_json(run.file("summary.json"))["geometry"]
    assert found["block"] == "one passage" and found["n_blocks"] == 12
    assert verdict(found["arms"]["small"]["gain"]) == "not clearly different"  # noise


def test_an_alignment_refuses_at_once_what_has_no_dissimilarities(tmp_path, base, heard):
    series = toy_brain(Seeds(0), n_sentences=40, n_runs=2, n_subjects=1)[0]
    reading = toy_reading(Seeds(0))[0]
    for data, message in (
            (series, "is a series; items, such as sentences"), (reading, "reading times, one number a word"),
            (heard.select(rois=heard.rois[0]), "s1 has 1 target an item"),
            (replace(heard, groups=np.repeat(np.arange(6), 10)), "60 items in 6 blocks .each one passage.*eight")):
        with pytest.raises(InputError, match=message):
            aligned(tmp_path / "no", base, data, geometry="spearman")
        assert not (tmp_path / "no").exists()
    with pytest.raises(InputError, match="geometry is 'cosine'.*spearman"):
        AlignConfig("a", "b", geometry="cosine").check()
    assert check_geometry(replace(heard, groups=np.arange(60))) is None
    assert item_blocks(replace(heard, groups=np.arange(60)))[1] == "1.5 neighbouring items"
