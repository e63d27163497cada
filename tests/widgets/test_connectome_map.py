"""The map of a network, tokens in words, and what wires are called: against brute force, for any architecture."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

from evonb.core import InputError, Seeds
from evonb.plots import style as plots_style
from evonb.store import write_dataset
from evonb.text.tokens import CorpusConfig, prepare, save_prepared
from evonb.training.connectome import Connectome
from evonb.widgets import connectome as ce
from evonb.widgets.connectome import ConnectomeExplorer

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run with connectomes and a corpus whose vocabulary is the embedding's."
    path = ce.example_connectome_run(tmp_path_factory.mktemp("runs") / "run", Seeds(3), n_layers=2, width=32)
    n = ConnectomeExplorer(path).wiring(3).shapes["transformer.wte.weight"][0]
    (path / "corpus").mkdir()
    save_prepared(prepare(CorpusConfig(n_bytes=60_000, vocab_size=max(n, 280)), Seeds(0)), path / "corpus")
    return path


@pytest.fixture(scope="module")
def explorer(run):
    return ConnectomeExplorer(run)


def stored(run, generation):
    return Connectome.load(run / "evolution" / f"gen-{generation:02d}" / "connectome.safetensors")


def random_signs(rows, columns, density, seed=0):
    p = [density / 2, 1 - density, density / 2]
    return torch.from_numpy(np.random.default_rng(seed).choice(np.array([-1, 0, 1], np.int8), (rows, columns), p=p))


def named(explorer, generation, tint):
    "Matrix -> value of a tint of the map, and the tint."
    content = explorer.ask("network", generation=generation).content
    shown = next(t for t in content["tints"] if t["name"] == tint)
    return dict(zip([n["name"] for n in content["nodes"]], shown["values"])), shown


def test_the_map_tells_every_matrix_by_brute_force(run, explorer):
    last = stored(run, 2)
    density, positive = lambda s: 100 * (s != 0).mean(), lambda s: 100 * (s > 0).sum() / (s != 0).sum()
    for tint, one in (("density", density), ("positive", positive)):
        values, shown = named(explorer, 2, tint)
        assert values.keys() == last.signs.keys()
        for name, signs in last.signs.items():
            assert values[name] == pytest.approx(one(signs.numpy()))
        assert (shown["low"], shown["high"]) == (min(values.values()), max(values.values()))
    rng, name = np.random.default_rng(0), "transformer.h.0.attn.c_proj.weight"
    live = last.signs[name].numpy() != 0
    drawn = [rng.permutation(live.ravel()).reshape(live.shape) for _ in range(400)]
    known = np.mean([live.sum(i).std() / np.sqrt(np.mean([d.sum(i).var() for d in drawn])) for i in (0, 1)])
    assert named(explorer, 2, "spread")[0][name] == pytest.approx(known, rel=0.05)


def test_a_matrix_that_leaves_chance_no_choice_has_no_spread():
    full, none = torch.ones(4, 4, dtype=torch.int8), torch.zeros(4, 4, dtype=torch.int8)
    made = ConnectomeExplorer(Connectome({"a": full, "b": none}, {"a": (4, 4), "b": (4, 4)}))
    for tint in ("spread", "positive", "density"):
        values, _ = named(made, "this connectome", tint)
        assert values["b"] == (0 if tint == "density" else None) and (tint != "spread" or values["a"] is None)


def test_the_map_has_a_place_for_every_matrix_of_any_architecture():
    shapes = {"model.embed_tokens.weight": (30, 8), "lm_head.weight": (30, 8)}
    for b in (1, 0):
        shapes |= {f"model.layers.{b}.self_attn.{k}_proj.weight": (8, 8) for k in "qkvo"}
        shapes |= {f"model.layers.{b}.mlp.{k}_proj.weight": (16, 8) for k in ("gate", "up")}
    nodes, columns = ce.network_columns(shapes)
    assert [c["title"] for c in columns] == ["embeddings", "block 0", "block 1", "head"]
    assert {n["name"] for n in nodes} == set(shapes)
    assert sorted(i for c in columns for p in c["parts"] for i in p["nodes"]) == list(range(len(nodes)))
    parts = {p["title"]: [nodes[i]["text"] for i in p["nodes"]] for p in columns[1]["parts"]}
    assert parts == {"attention": ["q_proj", "k_proj", "v_proj", "o_proj"], "MLP": ["gate_proj", "up_proj"]}


def test_any_mapping_tints_the_map(run):
    names = list(stored(run, 3).signs)
    by_generation = {3: {names[0]: -0.5, names[1]: 0.25}, 0: {}}
    tints = [ce.Tint(EVIL, {names[2]: 7.0}), ce.Tint("each", by_generation, 0.0, " nats", "+.2f")]
    made = ConnectomeExplorer(run, tints=tints)
    assert made.controls["tint"].options[:2] == [["given:0", EVIL], ["given:1", "each"]]
    values, shown = named(made, 3, "given:0")
    assert made.values["tint"] == "given:0" and shown["low"] == shown["high"] == 7
    assert values[names[2]] == 7 and values[names[0]] is None
    values, shown = named(made, 3, "given:1")
    assert (values[names[0]], values[names[1]], values[names[2]]) == (-0.5, 0.25, None)
    assert "-0.50 nats" in shown["texts"] and "+0.25 nats" in shown["texts"] and shown["middle"] == 0
    assert named(made, 0, "given:1")[1]["low"] is None
    assert "<img" not in made.figure("network").layout.title.text
    with pytest.raises(plots_style.NothingToPlot, match="No value is known"):
        made.set(tint="given:1").figure("network", generation=0)


def test_what_an_attribution_left_in_the_run_tints_the_map(tmp_path):
    run = ce.example_connectome_run(tmp_path / "run", Seeds(1), n_generations=1, n_layers=1, width=8, arms=())
    names = list(stored(run, 0).signs)
    gain = xr.DataArray(np.linspace(-1, 2, len(names)), dims="matrix", attrs=dict(long_name="head start", units="nats"))
    other = xr.DataArray(np.zeros((len(names), 2)), dims=("matrix", "seed"))
    write_dataset(run / "attribution.zarr.zip",
                  xr.Dataset(dict(gain=gain, other=other, share=("matrix", np.arange(len(names)))), dict(matrix=names)))
    made = ConnectomeExplorer(run)
    assert [text for _, text in made.controls["tint"].options][:2] == ["head start", "share"]
    values, shown = named(made, 0, "given:0")
    assert values == pytest.approx(dict(zip(names, gain.values))) and shown["middle"] == 0 and shown["unit"] == " nats"
    assert named(made, 0, "given:1")[1]["middle"] is None


def test_a_panel_that_pruning_made_uniform_is_a_sentence():
    signs = {f"h.{i}.mlp.c_fc.weight": random_signs(8, 8, 0.5, 1) for i in range(3)}
    share = int((signs["h.0.mlp.c_fc.weight"] != 0).sum()) / 64
    made = ConnectomeExplorer({"a": Connectome(signs, {n: (8, 8) for n in signs})})
    with pytest.raises(plots_style.NothingToPlot, match=f"same share of every layer.*a {share:.1%}"):
        made.ask("layers")


def test_statistics_stand_beside_the_signs_once_they_are_measured(tmp_path):
    from evonb.connectomes.statistics import measure_run
    run = ce.example_connectome_run(tmp_path / "run", Seeds(1), n_generations=2, n_layers=1, width=8, arms=())
    made = ConnectomeExplorer(run)
    with pytest.raises(plots_style.NothingToPlot, match="haven't been measured.*evonb wiring"):
        made.ask("statistics")
    found = measure_run(run, ("random",), n_draws=3, last=True, show=False)
    z = made.figure("statistics", generation=1).data[0]
    assert set(z.y) <= set(map(str, found.statistic.values)) and np.isfinite(np.array(z.z, float)).any()
    assert [v.tab for v in made.views.values()].count("Statistics") == 2
    both = ConnectomeExplorer({"a": stored(run, 0)})
    assert "statistics" not in both.views


# Tokens


def test_tokens_are_told_with_how_often_they_occur(run, explorer):
    from evonb.text.tokens import open_prepared
    corpus = open_prepared(run / "corpus")
    ids = np.concatenate([np.asarray(t.ids) for t in corpus.splits.values()])
    for layer in ("wte", "lm_head"):
        reply = explorer.ask("mask", layer=layer, compare="own:0")
        told, n = json.loads(reply.arrays[reply.content["tokens"]]), reply.content["rows"]
        assert len(told["texts"]) == len(told["counts"]) == n and reply.content["tokens"] == 4
        assert told["counts"] == np.bincount(ids, minlength=n)[:n].tolist() and told["where"] == ""
    word = corpus.tokenizer.decode([int(ids[50])])
    assert told["texts"][int(ids[50])] == word
    assert "tokens" not in explorer.ask("mask", layer=0).content


def test_a_long_text_is_counted_in_its_beginning(run):
    facts = ce.corpus_tokens(run / "corpus", 300, most=1000)
    assert facts.counts.sum() == 1000 and facts.where == "its first 1,000 tokens" and len(facts.texts) == 300


def test_without_a_text_rows_are_numbers_and_a_damaged_one_is_named(tmp_path):
    path = ce.example_connectome_run(tmp_path / "run", Seeds(3), n_generations=1, n_layers=1, width=8, arms=())
    assert "tokens" not in ConnectomeExplorer(path).ask("mask", layer="wte").content
    (path / "corpus").mkdir()
    (path / "corpus" / "evolution.bin").write_bytes(b"nothing of the kind")
    content = ConnectomeExplorer(path).ask("mask", layer="wte").content
    assert "tokens" not in content and "What its tokens are can't be read: " in content["told"]


# What wires are called


@pytest.mark.parametrize("compare, words", [
    ("own:0", ["kept", "born", "died", "sign flipped"]),
    ("arm:random:0", ["both", "only in the connectome", "only in the control", "opposite sign"]),
    ("fresh:random", ["both", "only in the connectome", "only in the control", "opposite sign"])])  # fmt: skip
def test_only_generations_have_births_and_deaths(explorer, compare, words):
    content = explorer.ask("mask", layer=1, matrix="mlp.c_fc", compare=compare).content
    assert [w.partition(" (")[0] for w in content["words"].values()] == words
    table = explorer.ask("differences", layer=1, matrix="mlp.c_fc", compare=compare).content
    assert table["columns"][1:5] == words
    row = table["rows"][table["picked"]]
    assert row[1:5] == [f"{content['counts'][k]:,}" for k in ("kept", "born", "died", "flipped")]
    assert ("born" in table["note"]) == (compare == "own:0")


def test_connectomes_with_names_are_called_by_them():
    one, other = (Connectome({"w": random_signs(6, 8, 0.5, s)}, {"w": (6, 8)}) for s in (0, 1))
    made = ConnectomeExplorer({"mine": one, "theirs": other})
    words = made.ask("mask", generation="mine", compare="own:theirs").content["words"]
    assert words == dict(kept="both", born="only in mine", died="only in theirs", flipped="opposite sign")


# Controls, state and selection


def test_the_matrix_control_tells_what_stands_alone(explorer):
    told = next(c for c in explorer._spec["controls"] if c["name"] == "matrix")["instead"]
    assert told == dict(layer=dict(wte="wte, its only one", lm_head="lm_head, its only one"))


def test_the_code_opens_the_explorer_again(run):
    from evonb.widgets.explorers import explore
    made = explore(run)
    found = {}
    exec(made._spec["code"].replace("\nev.", "\nfound['e'] = ev."), dict(found=found))
    assert found["e"].values == made.values and isinstance(found["e"], ConnectomeExplorer)


def test_a_selection_of_sorted_rows_is_those_rows(explorer):
    name = "transformer.h.0.mlp.c_fc.weight"
    explorer.clicked = dict(view="mask", matrix=name, generation=2,
                            selection=dict(rows=[0, 2], columns=[1, 3], which=[9, 4, 30], live=1, positive=1))
    found = explorer.selection_arrays()
    assert (found["signs"] == explorer.signs(2, name)[[9, 4, 30], 1:4]).all() and found["rows"].tolist() == [9, 4, 30]
    wrong = dict(rows=[0, 1], columns=[0, 1], which=[-3, 4])
    explorer.clicked = dict(view="mask", matrix=name, generation=2, selection=wrong)
    with pytest.raises(InputError, match="names rows from -3 to 4, but"):
        explorer.selection_arrays()
