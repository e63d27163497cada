"""The graph of a wiring: which units matrices join, the same graph in networkx and in files, and samples of it."""

import json

import networkx as nx
import numpy as np
import pytest
import torch

from evonb.cli import main
from evonb.connectomes.graph import (
    Edges,
    Role,
    WiringGraph,
    from_networkx,
    joined_units,
    load_graph,
    sampled_wiring,
    wiring_graph,
)
from evonb.connectomes.wiring import prune
from evonb.core import ConnectomeError, DamagedFileError, InputError, Seeds
from evonb.store import content_digest
from evonb.training.connectome import Connectome, matrix_roles
from evonb.training.gpt import GPTConfig, new_gpt

CONFIG = GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=16, block_size=16)


def wiring_of(seed=0, fraction=0.6, **exempt):
    return prune(new_gpt(CONFIG, Seeds(seed)), fraction, **exempt)


def other_models():
    "Small decoders of transformers: name -> model, width, units of an MLP, whether its head is its own."
    from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, OPTConfig, Qwen3Config

    heads = dict(num_attention_heads=4, num_hidden_layers=2, vocab_size=50, hidden_size=32)
    found = dict(
        llama=LlamaConfig(**heads, num_key_value_heads=2, intermediate_size=48, tie_word_embeddings=False),
        qwen3=Qwen3Config(**heads, num_key_value_heads=4, head_dim=8, intermediate_size=48, tie_word_embeddings=True),
        gpt2=GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4, n_inner=32),  # square matrices
        opt=OPTConfig(**heads, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=16),
    )
    torch.manual_seed(0)
    made = {n: AutoModelForCausalLM.from_config(c) for n, c in found.items()}
    joined = AutoModelForCausalLM.from_config(GPTNeoXConfig(**heads, intermediate_size=48))
    return made, joined


def test_every_wire_leads_from_who_is_heard_to_who_hears():
    wiring = wiring_of()
    graph = wiring_graph(wiring)
    assert graph.n_wires == wiring.n_live and graph.n_units == 16 + 40 + 2 * (64 + 3 * 16)
    a, at = graph.adjacency().toarray(), graph.offsets()
    s = {n.removeprefix("transformer."): x.numpy() for n, x in wiring.signs.items()}

    def block(source, n, target, m):
        return a[at[source] : at[source] + n, at[target] : at[target] + m]

    assert (block("tokens", 40, "residual", 16) == s["wte.weight"]).all()
    assert (block("residual", 16, "tokens", 40) == s["lm_head.weight"].T).all()
    assert (block("residual", 16, "h.1.mlp", 64) == s["h.1.mlp.c_fc.weight"].T).all()
    assert (block("h.1.mlp", 64, "residual", 16) == s["h.1.mlp.c_proj.weight"].T).all()
    for i, part in enumerate("qkv"):
        joined = s["h.0.attn.c_attn.weight"][16 * i : 16 * (i + 1)]
        assert (block("residual", 16, f"h.0.attn.{part}", 16) == joined.T).all()
    assert not block("h.0.attn.q", 16, "residual", 16).any()


def test_exempt_parts_have_no_wires():
    graph = wiring_graph(wiring_of(exempt=("embeddings", "head")))
    assert "tokens" not in graph.sizes and len(graph.edges) == 2 * 6


def test_other_architectures_are_told_by_their_names():
    models, joined = other_models()
    for name, model in models.items():
        wiring = prune(model, 0.5)
        graph = wiring_graph(wiring)
        hidden = {n: v for n, v in graph.sizes.items() if n.endswith("mlp")}
        assert graph.sizes["residual"] == 32 and graph.sizes["tokens"] == 50, name
        assert set(hidden.values()) == {32 if name == "gpt2" else 48} and len(hidden) == 2, (name, graph.sizes)
        assert graph.n_wires == wiring.n_live and all("residual" in (e.source, e.target) for e in graph.edges)
        assert ("o" in {g.rpartition(".")[2] for g in graph.sizes}) == (name == "llama")  # grouped queries
    with pytest.raises(ConnectomeError, match="query_key_value.*head by head.*roles="):
        wiring_graph(prune(joined, 0.5))


def test_gpt2_of_transformers_is_stored_the_other_way_round():
    wiring = prune(other_models()[0]["gpt2"], 0.5)
    edges = {e.name: e for e in wiring_graph(wiring).edges}
    s = {n: x.numpy() for n, x in wiring.signs.items()}
    assert (edges["h.0.mlp.c_fc"].signs == s["transformer.h.0.mlp.c_fc.weight"].T).all()
    assert (edges["h.1.attn.c_attn|v"].signs == s["transformer.h.1.attn.c_attn.weight"][:, 64:].T).all()
    assert edges["h.1.attn.c_proj"].source == "h.1.attn.v"


@pytest.mark.parametrize("name,shape,what", [
    ("model.layers.0.mixer.in_proj.weight", (64, 16), "in_proj.*can't be told"),
    ("layers.0.attn.qkv_proj.weight", (40, 16), "other sizes"),
    ("layers.0.mlp.gate_up_proj.weight", (7, 16), "2 parts"),
    ("layers.0.attention.query_key_value.weight", (48, 16), "head by head"),
])  # fmt: skip
def test_what_names_do_not_tell_is_refused_and_can_be_said(name, shape, what):
    with pytest.raises(ConnectomeError, match=what): joined_units(name, matrix_roles({name: shape}), {name: shape})
    made = Connectome({name: torch.ones(shape, dtype=torch.int8)}, {name: shape})
    graph = wiring_graph(made, {name: [Role("residual", "mine")]})
    assert graph.sizes == {"mine": shape[0], "residual": shape[1]}
    with pytest.raises(InputError, match="roles names 'nobody'"): wiring_graph(made, {"nobody": []})


def test_a_square_matrix_that_may_be_turned_is_refused():
    shapes = {"wpe.weight": (8, 16), "h.0.mlp.c_fc.weight": (16, 16)}  # GPT-2's own or ours
    with pytest.raises(ConnectomeError, match="it is square"):
        joined_units("h.0.mlp.c_fc.weight", matrix_roles(shapes), shapes)


def test_groups_that_do_not_fit_are_refused():
    shapes = {"wte.weight": (9, 4), "lm_head.weight": (9, 5)}
    made = Connectome({n: torch.ones(s, dtype=torch.int8) for n, s in shapes.items()}, shapes)
    with pytest.raises(ConnectomeError, match="lm_head has 5 units of residual, another matrix 4"): wiring_graph(made)


@pytest.mark.parametrize("suffix", [".npz", ".graphml"])
def test_files_hold_the_same_graph(suffix, tmp_path):
    graph = wiring_graph(wiring_of())
    graph.save(tmp_path / f"w{suffix}")
    same = load_graph(tmp_path / f"w{suffix}")
    told, back = ({e.name: e for e in g.edges} for g in (graph, same))  # GraphML keeps no order of matrices
    assert same.sizes == graph.sizes and set(told) == set(back)
    assert all((told[n].signs == back[n].signs).all() and told[n].source == back[n].source for n in told)
    there, back = graph.to_networkx(), same.to_networkx()
    assert nx.utils.edges_equal(there.edges(data=True), back.edges(data=True), directed=True)


@pytest.mark.parametrize("suffix", [".npz", ".graphml"])
def test_damaged_files_are_refused_by_name(suffix, tmp_path):
    wiring_graph(wiring_of()).save(path := tmp_path / f"w{suffix}")
    whole = path.read_bytes()
    for data in (b"", b"nothing", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(DamagedFileError, match="w" + suffix): load_graph(path)
    with pytest.raises(FileNotFoundError, match="no file"): load_graph(tmp_path / f"nobody{suffix}")
    with pytest.raises(InputError, match=r"\.npz, \.graphml"): load_graph(tmp_path / "w.csv")


@pytest.mark.parametrize("change", ["sizes", "units", "signs", "kind", "sha256"])
def test_an_npz_whose_parts_do_not_fit_is_refused(change, tmp_path):
    wiring_graph(wiring_of()).save(tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz") as found: parts = dict(found)
    about = json.loads(str(parts["about"]))
    if change == "sizes": about["sizes"]["residual"] = 3
    if change == "kind": about["kind"] = "other"
    about["sha256"] = content_digest({k: v for k, v in about.items() if k != "sha256"})
    if change == "sha256": about["info"] = dict(x=1)
    if change == "units": parts["wires_0"] = parts["wires_0"] - 1
    if change == "signs": parts["signs_0"] = parts["signs_0"] * 2
    parts["about"] = np.array(json.dumps(about))
    np.savez(tmp_path / "w.npz", **parts)
    with pytest.raises(DamagedFileError, match="w.npz"): load_graph(tmp_path / "w.npz")


def test_any_graph_of_networkx_is_a_wiring():
    club = from_networkx(nx.karate_club_graph())
    assert club.n_wires == 156 and club.sizes == {"units": 34}
    signed = nx.DiGraph()
    signed.add_edge("a", "b", sign=-2.5)
    signed.add_edge("b", "c")
    assert from_networkx(signed).adjacency().toarray().tolist() == [[0, -1, 0], [0, 0, 1], [0, 0, 0]]
    with pytest.raises(InputError, match="156 wires.*npz"): club.to_networkx(max_wires=100)
    with pytest.raises(InputError, match="parallel edges"): from_networkx(nx.MultiDiGraph(signed))
    signed.add_edge("a", "c", sign="minus")
    with pytest.raises(InputError, match="'minus'"): from_networkx(signed)
    same, roles = club.to_connectome()
    assert (wiring_graph(same, roles).adjacency() != club.adjacency()).nnz == 0
    twice = WiringGraph({"a": 1}, [Edges("x", "a", "a", np.ones((1, 1), np.int8))] * 2)
    with pytest.raises(InputError, match="the same name"): twice.to_connectome()


def test_a_sample_keeps_the_same_units_in_all_matrices():
    wiring = wiring_of()
    for i in range(2):  # each wire of an MLP gets its return
        s, name = wiring.signs, f"transformer.h.{i}.mlp.c_"
        s[f"{name}proj.weight"] = s[f"{name}fc.weight"].T.contiguous()
    part, roles = sampled_wiring(wiring, 10, Seeds(0).numpy())
    graph = wiring_graph(part, roles)
    edges = {e.name: e.signs for e in graph.edges}
    assert set(graph.sizes.values()) == {10} and part.shapes["transformer.h.0.attn.c_attn.weight"] == (30, 10)
    assert all((edges[f"h.{i}.mlp.c_fc"] == edges[f"h.{i}.mlp.c_proj"].T).all() for i in range(2))
    again, _ = sampled_wiring(wiring, 10, Seeds(0).numpy())
    assert again.digest() == part.digest() != sampled_wiring(wiring, 10, Seeds(1).numpy())[0].digest()


def test_the_command_writes_a_graph(tmp_path, capsys):
    wiring_of().save(tmp_path / "c.safetensors")
    assert main(["wiring", str(tmp_path / "c.safetensors"), "--nulls", "random", "--draws", "1",
                 "--graph", str(tmp_path / "g.npz")]) == 0  # fmt: skip
    assert load_graph(tmp_path / "g.npz").n_wires == wiring_of().n_live
    assert main(["wiring", str(tmp_path / "c.safetensors"), "--graph", str(tmp_path / "g.csv")]) == 2
    assert "suffix is '.csv'" in capsys.readouterr().err
