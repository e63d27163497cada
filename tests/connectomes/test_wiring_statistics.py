"""Statistics of wirings: equal to networkx or to counting by hand, kept by what must keep them, right about chance."""

import dataclasses
import importlib.util
import itertools
import math
import zipfile
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import spearmanr

from evonb.cli import main, wiring_text
from evonb.connectomes import statistics as st
from evonb.connectomes.arms import ARMS
from evonb.connectomes.controls import CONTROLS, control
from evonb.connectomes.graph import Edges, WiringGraph, from_networkx, wiring_graph
from evonb.connectomes.wiring import prune
from evonb.core import ConnectomeError, InputError, Seeds, Stopped, StopRequest
from evonb.store import open_run, read_dataset
from evonb.training.connectome import Connectome
from evonb.training.gpt import GPTConfig, new_gpt

RUN = Path(__file__).parents[1] / "runs" / "connectome.zip"
SMALL = GPTConfig(vocab_size=24, n_layer=1, n_head=2, n_embd=16, block_size=8)
seeds = pytest.mark.parametrize("seed", range(4))


def wiring_of(seed=0, fraction=0.7, config=SMALL):
    return prune(new_gpt(config, Seeds(seed)), fraction)


def random_loop(seed):
    "A small matrix from r to m and one back, with other densities and sizes for each seed."
    rng = np.random.default_rng(seed)
    n, m, p = rng.integers(5, 12), rng.integers(5, 12), rng.uniform(0.3, 0.6)

    def signs(shape): return rng.choice([-1, 0, 1], shape, p=[p / 2, 1 - p, p / 2]).astype(np.int8)

    edges = [Edges("f", "r", "m", signs((m, n))), Edges("p", "m", "r", signs((n, m)))]
    return edges, WiringGraph({"r": int(n), "m": int(m)}, edges)


# Each statistic beside networkx or a plain count ------------------------------------------------------------------


@seeds
def test_one_matrix_as_networkx_has_it(seed):
    (f, _), graph = random_loop(seed)
    g = WiringGraph(graph.sizes, [f]).to_networkx()
    assert st.wire_density([f]) == pytest.approx(g.number_of_edges() / f.signs.size)
    assert st.degree_assortativity([f]) == pytest.approx(nx.degree_assortativity_coefficient(g, "out", "in"))
    assert st.bipartite_clustering([f]) == pytest.approx(nx.bipartite.robins_alexander_clustering(g.to_undirected()))
    out, heard = np.abs(f.signs).sum(0), np.abs(f.signs).sum(1)
    for x, found in ((out, st.gini_out([f])), (heard, st.gini_in([f]))):
        assert found == pytest.approx(np.abs(x[:, None] - x).mean() / (2 * x.mean()))
    best = [np.flatnonzero(x >= sorted(x)[-math.ceil(len(x) / 10)]) for x in (out, heard)]
    club = g.subgraph([f"r:{i}" for i in best[0]] + [f"m:{i}" for i in best[1]])
    assert st.rich_club([f]) == pytest.approx(club.number_of_edges() / (len(best[0]) * len(best[1])))


@seeds
def test_butterflies_are_those_that_one_counts(seed):
    edges, _ = random_loop(seed)
    every = signed = paths = 0
    for s in (e.signs.astype(int) for e in edges):
        for (a, b), (i, j) in itertools.product(*(itertools.combinations(range(n), 2) for n in s.shape)):
            product = s[a, i] * s[a, j] * s[b, i] * s[b, j]
            every, signed = every + abs(product), signed + product
        wires = nx.from_edgelist([(f"t{t}", f"s{x}") for t, x in zip(*np.nonzero(s))])
        paths += sum((wires.degree(a) - 1) * (wires.degree(b) - 1) for a, b in wires.edges)
    assert st.butterflies(edges) == pytest.approx((every, signed, paths))
    if every: assert st.butterfly_balance(edges) == pytest.approx(signed / every)


@seeds
def test_loops_are_those_of_networkx(seed):
    edges, graph = random_loop(seed)
    g = graph.to_networkx()
    assert st.reciprocity(edges) == pytest.approx(nx.overall_reciprocity(g))
    two = [g.edges[a, b]["sign"] * g.edges[b, a]["sign"] for a, b in g.edges if g.has_edge(b, a)]
    assert st.self_feedback(edges) == pytest.approx(np.mean(two), nan_ok=True)
    four = [c for c in nx.simple_cycles(g, length_bound=4) if len(c) == 4]
    products = [math.prod(g.edges[a, b]["sign"] for a, b in zip(c, [*c[1:], c[0]])) for c in four]
    assert len(four) > 3 and st.loop_balance(edges) == pytest.approx(np.mean(products), abs=1e-6)


@seeds
def test_the_whole_graph_as_networkx_has_it(seed):
    graph = wiring_graph(wiring_of(seed, 0.85))
    g, n = graph.to_networkx(), graph.sizes["residual"]
    eigenvalues = np.linalg.eigvals(nx.to_numpy_array(g, weight="sign"))
    assert st.spectral_radius(graph.edges) == pytest.approx(np.abs(eigenvalues).max(), rel=1e-4)
    there = dict(nx.all_pairs_shortest_path_length(g))
    ways = [there[f"residual:{a}"].get(f"residual:{b}") for a, b in itertools.permutations(range(n), 2)]
    assert st.path_length(graph.edges) == pytest.approx(np.mean([w for w in ways if w]))
    assert st.reciprocity(graph.edges) == pytest.approx(nx.overall_reciprocity(g))
    degrees = [np.abs(e.signs).sum(0 if e.source == "residual" else 1) for e in graph.edges]
    pairs = [spearmanr(a, b).statistic for a, b in itertools.combinations(degrees, 2)]
    assert st.hub_agreement(graph.edges) == pytest.approx(np.mean(pairs))
    net = [abs(sum(d["sign"] for *_, d in g.out_edges(v, data=True))) for v in g]
    assert st.sign_consistency(graph.edges) == pytest.approx(sum(net) / g.number_of_edges())


@seeds
def test_modularity_is_that_of_the_division_and_no_worse_than_networkx_own(seed):
    (f, _), graph = random_loop(seed)
    g = WiringGraph(graph.sizes, [f]).to_networkx()
    q, centre, others = st.find_modules([f])
    inner = st.centre_of([f])
    (outer,) = others
    modules = [{f"{inner}:{i}" for i in np.flatnonzero(centre == m)} |
               {f"{outer}:{i}" for i in np.flatnonzero(others[outer] == m)} for m in range(8)]  # fmt: skip
    assert q == pytest.approx(nx.community.modularity(g, [m for m in modules if m]), abs=1e-5)
    greedy = nx.community.greedy_modularity_communities(g)
    assert q > nx.community.modularity(g, greedy) - 0.06
    assert st.find_modules([f])[0] == q


def test_an_animals_graph_is_measured_by_the_same_functions():
    g = nx.gnp_random_graph(24, 0.2, seed=3, directed=True)
    nx.set_edge_attributes(g, {e: 1 if sum(e) % 3 else -1 for e in g.edges}, "sign")
    graph = from_networkx(g)
    assert st.reciprocity(graph.edges) == pytest.approx(nx.overall_reciprocity(g))
    assert st.spectral_radius(graph.edges) == pytest.approx(
        np.abs(np.linalg.eigvals(nx.to_numpy_array(g, weight="sign"))).max())  # fmt: skip
    assert st.path_length(graph.edges) == pytest.approx(nx.average_shortest_path_length(g))
    assert st.degree_assortativity(graph.edges) == pytest.approx(nx.degree_assortativity_coefficient(g, "out", "in"))
    wiring, roles = graph.to_connectome()
    found = st.wiring_statistics(wiring, ("random", "random_rows"), 3, roles=roles, show=False)
    assert np.isfinite(found.p.sel(null="random", statistic="path_length", place="all")).all()
    assert "random_rows" in found.attrs["left_out"] and "called so" in found.attrs["left_out"]


@pytest.mark.skipif(importlib.util.find_spec("bct") is None, reason="bctpy isn't installed")
@seeds
def test_one_kind_of_unit_as_the_brain_connectivity_toolbox_has_it(seed):
    "Its assortativity takes both ends' degrees as one sample, which is right for undirected graphs only."
    import bct

    g = nx.gnp_random_graph(16, 0.3, seed=seed, directed=True)
    a, edges = nx.to_numpy_array(g), from_networkx(g).edges
    assert st.path_length(edges) == pytest.approx(bct.charpath(bct.distance_bin(a), include_diagonal=False)[0])
    assert st.reciprocity(edges) == pytest.approx((a * a.T).sum() / bct.density_dir(a)[2])
    assert np.count_nonzero(edges[0].signs) == bct.density_dir(a)[2]


def test_planted_modules_are_found_as_they_were_planted():
    rng = np.random.default_rng(0)
    same = np.arange(30)[:, None] % 3 == np.arange(50) % 3
    signs = (rng.random((30, 50)) < np.where(same, 0.6, 0.05)).astype(np.int8)
    q, centre, others = st.find_modules([Edges("x", "a", "b", signs)])
    found = [set(np.flatnonzero(centre == m) % 3) for m in np.unique(centre)]
    assert sorted(found, key=min) == [{0}, {1}, {2}] and q > 0.5


def test_nothing_is_told_of_what_is_empty():
    edges = [Edges("f", "r", "m", np.zeros((3, 4), np.int8)), Edges("p", "m", "r", np.zeros((4, 3), np.int8))]
    values = st.measure_graph(WiringGraph({"r": 4, "m": 3}, edges))
    told = dict(zip(st.STATISTICS, values[:, -1]))
    assert told["spectral_radius"] == 0 and math.isnan(told["path_length"]) and math.isnan(told["modularity"])
    apart = [Edges(*x, np.eye(3, dtype=np.int8)) for x in ("xab", "ycd")]
    with pytest.raises(InputError, match="no group of units in common"): st.find_modules(apart)


# What controls keep, and what their draws say ----------------------------------------------------------------------

UNSIGNED = ["density", "gini_out", "gini_in", "assortativity", "rich_club", "clustering", "modularity", "reciprocity",
            "path_length", "small_world", "hub_agreement"]  # fmt: skip
WHOLE = ["wte", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj", "lm_head"]  # matrices that aren't joined ones
KEPT = [("random", ["density", "positive"], WHOLE), ("sign_shuffled", UNSIGNED, None),
        ("degree_preserving", ["density", "positive", "gini_out", "gini_in"], WHOLE),
        ("random_rows", ["density", "positive"], WHOLE), ("random_rows", ["gini_out"], ["wte"])]  # fmt: skip


@pytest.fixture(scope="module")
def found():
    return st.wiring_statistics(wiring_of(), tuple(sorted({n for n, *_ in KEPT})), 9, show=False)


@pytest.mark.parametrize("null,names,places", KEPT)
def test_a_control_keeps_what_it_promises(null, names, places, found):
    at = found.sel(null=null, statistic=names, generation=0)
    at = at if places is None else at.sel(place=places)
    there = np.isfinite(at.value)
    assert there.any() and at.kept.where(there, True).all() and not np.isfinite(at.p.where(there)).any()


def test_a_control_mixes_what_it_does_not_keep(found):
    for null, names in (("random", ["gini_in", "modularity", "reciprocity"]),
                        ("degree_preserving", ["assortativity", "clustering", "self_feedback"]),
                        ("sign_shuffled", ["sign_consistency", "balance", "self_feedback", "spectral_radius"])):
        at = found.sel(null=null, statistic=names, generation=0)
        assert not at.kept.where(np.isfinite(at.value), False).any(), null


def test_p_counts_draws_and_is_never_below_what_their_number_gives():
    draws = np.array([[0.0, 5, 1, np.nan], [1, 5, 2, np.nan], [-1, 5, np.nan, np.nan]])
    p, kept = st.null_p([10.0, 5, 1, 3], draws)
    assert p[0] == 1 / 4 and np.isnan(p[[1, 3]]).all() and kept.tolist() == [False, True, False, False]
    assert st.null_p(-10.0, draws[:, 0])[0] == 1 / 4  # two-sided
    assert st.null_p(0.0, draws[:, 0])[0] == 1 == p[2]  # of 1, 1 and 2 all lie as far from their middle as 1, or more
    rng, n = np.random.default_rng(0), 19
    p, _ = st.null_p(rng.standard_normal(4000), rng.standard_normal((n, 4000)))
    assert p.min() == 1 / (n + 1) and all(abs((p <= a).mean() - a) < 0.02 for a in (0.05, 0.2, 0.5))


def test_random_wirings_are_called_peculiar_no_more_often_than_promised():
    significant = tested = low = 0
    for seed in range(6):
        base = control(wiring_of(seed), "random", Seeds(seed).numpy())
        found = st.wiring_statistics(base, ("random", "degree_preserving"), 29, seed, show=False)
        told = np.isfinite(found.p.values)
        significant += (found.q.values[told] < 0.05).sum()
        low += (found.p.values[told] <= 0.05).sum()
        tested += told.sum()
    assert tested > 800 and significant / tested <= 0.06 and low / tested <= 0.075


def planted(kind):
    "A random wiring with one thing planted in it."
    larger = GPTConfig(vocab_size=48, n_layer=1, n_head=2, n_embd=32, block_size=8)
    wiring = control(wiring_of(3, 0.75, larger if kind == "modules" else SMALL), "random", Seeds(3).numpy())
    rng, signs = Seeds(5).numpy(), {n: s.clone() for n, s in wiring.signs.items()}
    for name, s in signs.items():
        if kind == "modules":
            inside = np.arange(s.shape[0])[:, None] % 2 == np.arange(s.shape[1]) % 2
        if kind == "hubs":  # the first residual units have more wires in every matrix
            columns = "c_proj" not in name
            inside = np.zeros(s.shape, bool)
            inside[(slice(None), slice(4)) if columns else (slice(4), slice(None))] = True
        if kind in ("modules", "hubs"):
            share = rng.random(s.shape) < np.where(inside, 0.45, 0.1)
            signs[name] = torch.from_numpy(share * rng.choice([-1, 1], s.shape)).to(torch.int8)
    if kind in ("returns", "feedback"):
        a, b = (signs[f"transformer.h.0.mlp.c_{n}.weight"] for n in ("fc", "proj"))
        if kind == "returns": b[:] = a.T * torch.from_numpy(rng.choice([-1, 1], b.shape)).to(torch.int8)
        b[:] = torch.where((b != 0) & (a.T != 0), a.T, b) if kind == "feedback" else b
    return dataclasses.replace(wiring, signs=signs)


@pytest.mark.parametrize("kind,statistic,place,null", [
    ("modules", "modularity", "h.0.mlp.c_fc", "degree_preserving"), ("hubs", "hub_agreement", "all", "random"),
    ("returns", "reciprocity", "h.0.mlp", "degree_preserving"),
    ("feedback", "self_feedback", "h.0.mlp", "sign_shuffled"),
])  # fmt: skip
def test_what_was_planted_is_found(kind, statistic, place, null):
    found = st.wiring_statistics(planted(kind), (null,), 99, show=False)
    judged = st.judge_wiring(found, (statistic,)).sel(null=null, generation=0, statistic=statistic, place=place)
    assert judged.p == 0.01 and judged.q < 0.05 and judged.value > judged.null_high
    if kind == "modules": assert (found.q.sel(statistic=statistic) < 0.05).any()  # among all statistics, too


# Draws one after another, in files and runs ------------------------------------------------------------------------


def test_draws_are_the_same_in_whatever_pieces_they_are_made(tmp_path):
    wiring, nulls = wiring_of(), ("random", "sign_shuffled")
    wiring.save(tmp_path / "c.safetensors")
    stop, seen = StopRequest(), []

    def hear(found):
        seen.append(found)

    class Early(StopRequest):
        def __bool__(self):
            self.reason = "test" if len(drawn) > 4 else None
            return super().__bool__()

    drawn, one = [], st.draw_null

    def counted(*a, **k):
        drawn.append(a[1:3])
        return one(*a, **k)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(st, "draw_null", counted)
        with pytest.raises(Stopped):
            st.wiring_statistics(wiring, nulls, 6, keep=hear, stop=Early(), show=False)
        assert len(drawn) == 5 and int(np.isfinite(seen[-1].null_value).any(("statistic", "place")).sum()) == 5
        whole = st.wiring_statistics(wiring, nulls, 6, found=seen[-1], show=False, stop=stop)
        assert len(drawn) == 12 == len(set(drawn))  # none twice
        more = st.wiring_statistics(wiring, ("random", "degree_preserving"), 3, found=whole, show=False)
        assert len(drawn) == 15 and list(more.null.values) == ["random", "sign_shuffled", "degree_preserving"]
        other = st.wiring_statistics(wiring_of(1), nulls, 1, found=whole, show=False)  # another wiring
        assert len(drawn) == 17 and int(other.n_draws.max()) == 1
    xr.testing.assert_identical(whole, st.wiring_statistics(wiring, nulls, 6, show=False))


def test_a_run_keeps_its_statistics_generation_by_generation(tmp_path, capsys):
    with zipfile.ZipFile(RUN) as z: z.extractall(tmp_path / "run")
    run, before = open_run(tmp_path / "run"), (tmp_path / "run" / "state.json").read_bytes()
    n = len(list(run.file("evolution").glob("gen-*/connectome.safetensors")))
    assert main(["wiring", str(tmp_path / "run"), "--nulls", "random", "--draws", "3"]) == 0
    found = read_dataset(tmp_path / "run" / "wiring.zarr.zip")
    assert n > 1 and found.sizes["generation"] == n and found.n_draws.sel(null="random").values.max() == 3
    assert (tmp_path / "run" / "state.json").read_bytes() == before  # a run that is measured isn't changed
    with xr.open_dataset(tmp_path / "run" / "wiring.nc") as told:
        assert told.attrs["run"] == "run" and told.unit.sel(statistic="path_length") == "wires"
        np.testing.assert_array_equal(told.value, found.value)
        assert told.z.attrs["units"] == "standard deviations" and "long_name" in told.q.attrs
    shown = capsys.readouterr().out
    assert f"Generation {n - 1};" in shown and "No p is below 0.25" in shown and "self_feedback" in shown
    assert wiring_text(found, 0).startswith("Generation 0;")
    assert main(["wiring", str(tmp_path / "run"), "--nulls", "random", "--draws", "3", "--last"]) == 0


def test_the_table_says_how_many_draws_would_do():
    "Benjamini & Hochberg: of m comparisons k at the smallest p are clear from m / (alpha k) draws on."
    found = st.wiring_statistics(planted("feedback"), ("sign_shuffled",), 19, show=False)
    p = found.p.values[np.isfinite(found.p.values)]
    m, k = len(p), int((p < 1.01 / 20).sum())
    assert k and not (found.q < 0.05).any()
    told = f"sign_shuffled: {k} of {m} comparisons have it, clear from about {math.ceil(m / (0.05 * k))} draws on."
    assert told in wiring_text(found) and "farthest" not in wiring_text(found)
    clear = found.copy(deep=True)
    clear.q.loc[dict(statistic="self_feedback", place="h.0.mlp")] = 0.01
    assert "farthest from sign_shuffled: self_feedback of h.0.mlp 1 (control " in wiring_text(clear)


def test_rows_say_what_the_dataset_says(found):
    rows = st.wiring_table(found, "sign_shuffled")
    assert len(rows) == int(np.isfinite(found.value).sum())
    assert {r["verdict"] for r in rows} <= {"kept", "higher", "lower", "not clearly different", ""}
    one = next(r for r in rows if (r["statistic"], r["place"]) == ("density", "lm_head"))
    assert one["value"] == pytest.approx(one["null_mean"]) and one["verdict"] == "kept" and one["kind"] == "matrix"
    with pytest.raises(InputError, match="null is 'nobody'"): st.wiring_table(found, "nobody")
    with pytest.raises(InputError, match="generation is 7"): st.wiring_table(found, generation=7)


def test_large_wirings_are_sampled_and_say_so():
    wiring = wiring_of(config=GPTConfig(vocab_size=64, n_layer=1, n_head=2, n_embd=16, block_size=8))
    found = st.wiring_statistics(wiring, ("random",), 1, max_units=12, show=False)
    assert "at most 12 units" in str(found.measured.values[0]) and "12 of 64 tokens" in str(found.measured.values[0])
    assert str(st.wiring_statistics(wiring, ("random",), 1, max_units=0, show=False).measured.values[0]) == "nothing"
    assert st.wiring_to_measure(wiring, None, 0)[2] == "nothing"


@pytest.mark.parametrize("words,told", [
    (["nobody"], "no wiring nobody"), (["{run}", "--nulls", "dense"], "null is 'dense'"),
    (["{run}", "--nulls", "random,random"], "the same twice"), (["{run}", "--draws", "0"], "n_draws"),
    (["{run}", "--out", "x.zarr.zip"], "stored in it"), (["{run}/run.json"], "run.json"),
    (["{run}/evolution/gen-00/connectome.safetensors", "--out", "x.nc"], "must end in .zarr.zip"),
    (["{run}/evolution/gen-00/connectome.safetensors", "--last"], "--last goes with a run"),
    (["{run}", "--max-units", "-3"], "max_units"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(words, told, tmp_path, capsys):
    with zipfile.ZipFile(RUN) as z: z.extractall(tmp_path / "run")
    assert main(["wiring", *(w.format(run=tmp_path / "run") for w in words)]) == 2
    assert told in capsys.readouterr().err


def test_a_control_that_cannot_be_made_is_left_out_with_its_reason():
    def refuses(connectome, rng): raise ConnectomeError("too small to swap")

    ARMS.add("refusing", refuses, "can't be made")
    try: found = st.wiring_statistics(wiring_of(), ("random", "refusing"), 2, show=False)
    finally: ARMS.remove("refusing")
    assert "too small to swap" in found.attrs["left_out"] and not np.isfinite(found.p.sel(null="refusing")).any()
    assert "refusing can't be made of this wiring: too small to swap" in wiring_text(found)
    assert np.isfinite(found.p.sel(null="random")).any()


def test_a_control_that_wires_other_matrices_is_left_out():
    def fewer(connectome, rng): return dataclasses.replace(connectome, signs=dict(list(connectome.signs.items())[1:]))

    ARMS.add("fewer", fewer, "without the embedding")
    try: found = st.wiring_statistics(wiring_of(), ("fewer",), 1, show=False)
    finally: ARMS.remove("fewer")
    assert "wires other matrices" in found.attrs["left_out"] and not np.isfinite(found.p).any()


def test_a_statistic_of_ones_own_is_measured_like_ours():
    with pytest.raises(InputError, match="must be a function"):
        st.STATISTICS.add("three", 3, of=("whole",), unit="")
        try: st.STATISTICS["three"]
        finally: st.STATISTICS.remove("three")
    st.STATISTICS.add("n_wires", lambda edges: float(sum(np.count_nonzero(e.signs) for e in edges)), "wires",
                      of=("whole",), unit="wires")
    try: found = st.wiring_statistics(wiring_of(), ("random",), 1, show=False)
    finally: st.STATISTICS.remove("n_wires")
    assert found.value.sel(statistic="n_wires", place="all") == wiring_of().n_live and found.unit.values[-1] == "wires"


def test_every_control_of_the_registry_is_a_null():
    assert st.check_nulls(None) == list(CONTROLS) and len(CONTROLS) >= 4
    assert isinstance(wiring_of(), Connectome)


def test_statistics_over_evolutions_are_paired_tests_and_stand_in_text_and_page(tmp_path):
    from scipy import stats

    from evonb.cli import lineages_text
    from evonb.report import peculiar_html

    found = [st.wiring_statistics(planted("feedback"), ("random",), 3, seed, show=False) for seed in range(2)]
    found.append(st.wiring_statistics(wiring_of(1), ("random",), 3, show=False))
    rows = {(r["statistic"], r["null"]): r for r in st.over_evolutions(found)}
    row = rows["self_feedback", "random"]
    differences = np.subtract(row["values"], row["null_values"])
    at = [f.isel(generation=-1).sel(null="random", statistic="self_feedback") for f in found]
    assert np.allclose(row["values"], [float(a.value.mean()) for a in at])
    assert row["judged"]["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert row["judged"]["family"] == len(rows) and row["judged"]["units"] == dict(evolution=3)
    assert lineages_text(list(rows.values()))[0].startswith("All 3 evolutions") and lineages_text([]) == []
    one = st.over_evolutions(found[:1])
    assert one[0]["judged"]["p"] is None and one[0]["judged"]["one"] == "evolution"
    paths = [tmp_path / f"{k}.zarr.zip" for k in range(2)]
    for path, ds in zip(paths, found[1:]):
        st.write_dataset(path, ds)
    page = peculiar_html(found[0], paths)
    assert page.count("<figure>") == 3 and "self_feedback" in page and peculiar_html(None, None) is None
