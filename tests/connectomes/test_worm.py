"""The worm's connectome: signs of synapses, laid into a model by a fixed rule, and cect where it is installed."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from evonb.connectomes.controls import control
from evonb.connectomes.graph import Edges, WiringGraph, load_graph, wiring_graph
from evonb.connectomes.statistics import wiring_statistics
from evonb.connectomes.worm import cell_graph, worm_connectome, worm_data_sets, worm_graph
from evonb.core import InputError, Seeds
from evonb.datasets import MissingExtraError
from evonb.training.connectome import check_sparse, inherit
from evonb.training.gpt import GPTConfig, new_gpt

CONFIG = GPTConfig(vocab_size=60, n_layer=1, n_head=2, n_embd=16, block_size=8)


def cells(n=30, seed=0):
    "A made-up animal in cect's form: chemical synapses, every fifth cell with GABA, and symmetric gap junctions."
    rng = np.random.default_rng(seed)
    wires = (rng.random((n, n)) < 0.2) * rng.integers(1, 9, (n, n))
    gaps = np.triu(rng.random((n, n)) < 0.05, 1)
    inhibits = np.arange(n)[:, None] % 5 == 0
    return SimpleNamespace(nodes=[f"C{i}" for i in range(n)], connections=dict(
        Acetylcholine=wires * ~inhibits, GABA=wires * inhibits, Generic_GJ=(gaps | gaps.T).astype(float)))  # fmt: skip


def test_signs_are_those_of_the_sum_over_synapses():
    data = cells()
    graph, order = cell_graph(data), list(range(30))
    signs = graph.edges[0].signs  # (receivers, senders)
    assert graph.info["cells"].split() == data.nodes
    for i, j in np.random.default_rng(1).integers(0, 30, (200, 2)):
        total = sum((-1 if k == "GABA" else 1) * v[j][i] for k, v in data.connections.items())
        assert signs[order.index(i), order.index(j)] == np.sign(total)
    only = cell_graph(data, classes=("GABA",)).edges[0].signs
    assert (only <= 0).all() and only.any()


def test_cells_that_do_not_take_part_are_left_out_or_chosen():
    data = cells()
    for v in data.connections.values(): v[3] = 0  # sends nothing
    assert "C3" not in cell_graph(data).info["cells"].split() and cell_graph(data).n_units == 29
    assert cell_graph(data, ["C3", "C7", "nobody"]).info["cells"] == "C3 C7"
    with pytest.raises(InputError, match="None of the cells"): cell_graph(data, ["nobody"])
    with pytest.raises(InputError, match="class of synapses is 'Dopamine'"): cell_graph(data, classes=("Dopamine",))


@pytest.mark.parametrize("change", ["shape", "nan", "none"])
def test_data_that_do_not_fit_are_refused(change):
    data = cells()
    if change == "shape": data.connections = dict(GABA=np.ones((3, 3)))
    if change == "nan": data.connections["GABA"] = data.connections["GABA"] * np.nan
    if change == "none": data.connections = {}
    with pytest.raises(InputError, match="odd has 30 cells"): cell_graph(data, name="odd")


def test_the_rule_lays_the_core_into_small_matrices_and_tiles_large_ones():
    animal, model = cell_graph(cells(), name="mine"), new_gpt(CONFIG, Seeds(0))
    wires, made = animal.edges[0].signs, worm_connectome(animal, model, magnitude=0.05)
    degree = np.abs(wires).sum(0) + np.abs(wires).sum(1)
    order = sorted(range(30), key=lambda i: (-degree[i], i))
    for s in made.signs.values():
        for i, j in np.random.default_rng(2).integers(0, 60, (60, 2)):
            i, j = i % s.shape[0], j % s.shape[1]
            assert s[i, j] == wires[order[i % 30], order[j % 30]]
    assert made.magnitude == 0.05 and made.info == dict(animal="mine", n_cells=30)
    check_sparse(inherit(model, made), made)
    assert made.digest() == worm_connectome(animal, new_gpt(CONFIG, Seeds(1)), magnitude=0.05).digest()
    assert worm_connectome(animal, model, ("embeddings", "head")).exempt == ["transformer.wte.weight", "lm_head.weight"]
    assert control(made, "random", Seeds(0).numpy()).n_live == made.n_live


def test_what_is_no_animal_is_refused():
    two = WiringGraph({"a": 2, "b": 2}, [Edges("x", "a", "b", np.ones((2, 2), np.int8))])
    with pytest.raises(InputError, match="one kind of cell"): worm_connectome(two, new_gpt(CONFIG, Seeds(0)))


def test_an_animal_is_kept_in_a_file_and_measured(tmp_path):
    animal = cell_graph(cells(), name="mine")
    animal.save(tmp_path / "a.npz")
    same = load_graph(tmp_path / "a.npz")
    assert same.info == animal.info and (same.edges[0].signs == animal.edges[0].signs).all()
    wiring, roles = same.to_connectome()
    assert wiring_graph(wiring, roles).n_wires == animal.n_wires
    found = wiring_statistics(wiring, ("random",), 3, roles=roles, show=False)
    assert np.isfinite(found.p.sel(null="random", statistic=["modularity", "sign_consistency"], place="synapses")).all()


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cect", None)
    with pytest.raises(MissingExtraError, match=r"evonb\[worm\]"): worm_graph()


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    "A package with cect's interface: readers that give cells, one with a cache, one without, and one of no data."
    (tmp_path / "WithReader.py").write_text("")
    (tmp_path / "PlainReader.py").write_text("")
    (tmp_path / "BaseReader.py").write_text("")
    asked = []

    def get_instance(from_cache=False):
        asked.append(from_cache)
        return cells()

    made = {"cect": dict(__path__=[]), "cect.readers": dict(__path__=[str(tmp_path)]), "cect.readers.BaseReader": {},
            "cect.Cells": dict(is_any_neuron=lambda name: name != "C4"),
            "cect.readers.WithReader": dict(get_instance=get_instance),
            "cect.readers.PlainReader": dict(get_instance=lambda: cells(seed=1))}  # fmt: skip
    for name, content in made.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_data_sets_of_cect_are_read_by_its_interface(stand_in):
    assert worm_data_sets() == ["BaseReader", "PlainReader", "WithReader"]
    graph = worm_graph("WithReader")
    assert graph.info["name"] == "WithReader" and "C4" not in graph.info["cells"].split() and stand_in == [True]
    assert worm_graph("PlainReader", neurons=False).info["cells"].split() == cells().nodes
    with pytest.raises(InputError, match="no data set of its own"): worm_graph("BaseReader")
    with pytest.raises(InputError, match="data_set is 'WithReade'.*WithReader"): worm_graph("WithReade")


@pytest.mark.skipif(importlib.util.find_spec("cect") is None, reason="cect isn't installed (extra `worm`)")
def test_the_worm_itself():
    graph = worm_graph()
    signs = graph.edges[0].signs
    assert graph.n_units == 302 and 4000 < graph.n_wires < 6000 and 0 < (signs < 0).sum() < (signs > 0).sum()
    assert {"AVAL", "AVAR", "VD1"} <= set(graph.info["cells"].split())
    assert torch.equal(*(worm_connectome(graph, new_gpt(CONFIG, Seeds(s))).signs["lm_head.weight"] for s in (0, 1)))
