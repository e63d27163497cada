"""The connectome explorer's replies against brute force, its sizes and its errors."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from evonb.connectomes.controls import CONTROLS, random_control
from evonb.connectomes.wiring import compare
from evonb.core import DamagedFileError, InputError, Seeds
from evonb.plots import connectome as plots
from evonb.plots import style as plots_style
from evonb.store import create_run
from evonb.training.connectome import Connectome, unpack_signs
from evonb.widgets import connectome as ce
from evonb.widgets.connectome import ConnectomeExplorer
from evonb.widgets.explorer import packed

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ce.example_connectome_run(tmp_path_factory.mktemp("runs") / "run", Seeds(3), width=32, arms=("random", EVIL))


@pytest.fixture(scope="module")
def explorer(run):
    return ConnectomeExplorer(run)


def stored(run, generation):
    return Connectome.load(run / "evolution" / f"gen-{generation:02d}" / "connectome.safetensors")


def matrix(rows, columns, density, seed=0):
    rng = np.random.default_rng(seed)
    p = [density / 2, 1 - density, density / 2]
    return torch.from_numpy(rng.choice(np.array([-1, 0, 1], np.int8), (rows, columns), p=p))


def wired(name, signs):
    return Connectome({name: signs}, {name: tuple(signs.shape)})


def place(name):
    layer, kind = plots.matrix_place(name)
    return dict(layer=kind if layer is None else layer, matrix="attn.c_attn" if layer is None else kind)


@pytest.mark.parametrize("generation", [0, 3])
def test_planes_decode_to_the_stored_signs(run, explorer, generation):
    for name, signs in stored(run, generation).signs.items():
        reply = explorer.ask("mask", generation=generation, compare="nothing", **place(name))
        c, planes = reply.content, [torch.from_numpy(a) for a in reply.arrays]
        assert c["matrix"] == name and c["generation"] == generation
        assert torch.equal(unpack_signs(*planes, (c["rows"], c["columns"])), signs)
        assert c["live"] == int((signs != 0).sum())
        for axis, n in (("row_axis", c["rows"]), ("column_axis", c["columns"])):  # parts cover the axis without a gap
            assert [p[0] for p in c[axis]] == [0, *np.cumsum([p[1] for p in c[axis]])[:-1]]
            assert sum(p[1] for p in c[axis]) == n


def others(run, explorer):
    last = stored(run, 3)
    yield "own:1", last, stored(run, 1)
    for arm in ("random", EVIL):
        yield f"arm:{arm}:1", last, Connectome.load(run / "development" / arm / "seed-1" / "connectome.safetensors")


def test_differences_are_those_of_compare(run, explorer):
    for key, here, there in others(run, explorer):
        known = compare(there, here)
        for name in here.signs:
            reply, known_here = explorer.ask("mask", compare=key, **place(name)), known.sel(matrix=name)
            counts = reply.content["counts"]
            assert {k: counts[k] for k in ("born", "died", "flipped")} == {
                k: int(known_here[k]) for k in ("born", "died", "flipped")}
            assert counts["kept"] + counts["flipped"] == int(known_here.shared) and len(reply.arrays) == 4
            table = explorer.ask("differences", compare=key, **place(name)).content
            row = dict(zip(table["columns"], table["rows"][table["picked"]]))
            assert row["matrix"] == name and row["Jaccard index"] == f"{float(known_here.jaccard):.1%}"
            assert row["by chance"] == f"{float(known_here.chance_jaccard):.1%}"
            assert row["same sign"] == f"{float(known_here.sign_agreement):.1%}"


@pytest.mark.parametrize("kind", CONTROLS)
def test_fresh_controls_keep_what_they_promise_and_repeat(run, explorer, kind):
    signs = stored(run, 3).signs["transformer.h.1.mlp.c_fc.weight"].numpy()
    asked = dict(layer=1, matrix="mlp.c_fc", compare=f"fresh:{kind}")
    reply, again = (ConnectomeExplorer(run).ask("mask", **asked) for _ in range(2))
    assert all((a == b).all() for a, b in zip(reply.arrays, again.arrays))
    drawn = unpack_signs(*(torch.from_numpy(a) for a in reply.arrays[2:]), signs.shape).numpy()
    assert (drawn != signs).any() and (drawn > 0).sum() == (signs > 0).sum() and (drawn < 0).sum() == (signs < 0).sum()
    if kind == "degree_preserving":
        assert all(((drawn != 0).sum(i) == (signs != 0).sum(i)).all() for i in (0, 1))
    if kind == "sign_shuffled":
        assert ((drawn != 0) == (signs != 0)).all()
    other = ConnectomeExplorer(run, control_seed=1).ask("mask", **asked)
    assert "seed 1" in other.content["compared"]
    redrawn = unpack_signs(*(torch.from_numpy(a) for a in other.arrays[2:]), signs.shape).numpy()
    assert (redrawn != drawn).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 9), (64, 33)])
def test_counts_degrees_and_heads_by_brute_force(shape):
    for seed in range(4):
        signs = matrix(*shape, 0.4, seed)
        signs[0, 0] = 1
        w, s = ce.Wiring.of(wired("w", signs)), signs.numpy()
        assert (w.n_live("w"), w.n_positive("w")) == (np.count_nonzero(s), (s > 0).sum())
        into, out = w.degrees("w")
        assert into.tolist() == [np.count_nonzero(r) for r in s] and out.tolist() == [np.count_nonzero(c) for c in s.T]


def test_heads_are_cut_as_the_model_cuts_them():
    n_head, size = 3, 4
    n = n_head * size
    signs = {f"transformer.h.0.attn.{k}.weight": matrix(r, n, 0.5) for k, r in (("c_attn", 3 * n), ("c_proj", n))}
    w = ce.Wiring.of(Connectome(signs, {k: tuple(s.shape) for k, s in signs.items()}))
    found = ce.head_live(w, ce.layers_of(w.shapes)[0], n_head)
    live = (signs["transformer.h.0.attn.c_attn.weight"] != 0).numpy()
    by_head = live.reshape(3, n_head, size, n).sum((2, 3))  # as gpt.Attention views the rows
    assert all((found[p][0] == by_head[i]).all() for i, p in enumerate(("query", "key", "value")))
    columns = (signs["transformer.h.0.attn.c_proj.weight"] != 0).numpy()
    assert found["output"][0].tolist() == [columns[:, h * size:(h + 1) * size].sum() for h in range(n_head)]
    rows = ce.axis_parts("transformer.h.0.attn.c_attn.weight", (3 * n, n), n_head)[0]
    assert [p[3] for p in rows if p[0] <= n + 5 < p[0] + p[1]] == ["head 1 key dimension"]


def test_heads_of_other_families_are_cut_as_their_models_cut_them():
    "GPT-2 stores a row an input; Llama has a matrix each, and fewer heads for keys and values."
    d, n_head, size, n_kv = 12, 3, 4, 1
    shapes = {"transformer.wte.weight": (20, d), "transformer.wpe.weight": (8, d)}
    shapes |= {f"transformer.h.0.attn.{k}.weight": s for k, s in (("c_attn", (d, 3 * d)), ("c_proj", (d, d)))}
    signs = {k: matrix(*s, 0.5) for k, s in shapes.items()}
    w = ce.Wiring.of(Connectome(signs, shapes))
    found = ce.head_live(w, ce.layers_of(w.shapes)[0], n_head)
    live = (signs["transformer.h.0.attn.c_attn.weight"] != 0).numpy().reshape(d, 3, n_head, size).sum((0, 3))
    assert all((found[p][0] == live[i]).all() for i, p in enumerate(("query", "key", "value")))
    rows = (signs["transformer.h.0.attn.c_proj.weight"] != 0).numpy().reshape(n_head, size, d).sum((1, 2))
    assert (found["output"][0] == rows).all() and found["key"][3] == d * size
    told = ce.matrix_roles(shapes)["transformer.h.0.attn.c_attn.weight"]
    down, across = ce.axis_parts("transformer.h.0.attn.c_attn.weight", (d, 3 * d), n_head, told)
    assert down[0][3] == "residual dimension" and [p[3] for p in across][4] == "head 1 key dimension"
    names = dict(q_proj=(d, d), k_proj=(n_kv * size, d), v_proj=(n_kv * size, d), o_proj=(d, d))
    shapes = {f"model.layers.0.self_attn.{k}.weight": s for k, s in names.items()}
    signs = {k: matrix(*s, 0.5) for k, s in shapes.items()}
    w = ce.Wiring.of(Connectome(signs, shapes))
    found = ce.head_live(w, ce.layers_of(w.shapes)[0], n_head)
    for part, k, n in (("query", "q_proj", n_head), ("key", "k_proj", n_kv), ("value", "v_proj", n_kv)):
        wired_rows = (signs[f"model.layers.0.self_attn.{k}.weight"] != 0).numpy()
        assert found[part][0].tolist() == wired_rows.reshape(n, size, d).sum((1, 2)).tolist()
    assert len(ce.head_densities(found).data) == 8


def test_the_bands_hold_random_controls():
    c = wired("w", matrix(120, 80, 0.3))
    n_live, rng = c.n_live, np.random.default_rng(5)
    drawn = [(random_control(c, rng).signs["w"].numpy() != 0) for _ in range(150)]
    low, high = ce.chance_interval(n_live, 9600, 400)
    assert 0.93 <= np.mean([low <= d[:5].sum() <= high for d in drawn]) <= 1
    edges = ce.degree_edges(drawn[0].sum(1), n_live, 9600, 10)
    mean, low, high = ce.expected_degrees(edges, 120, n_live, 9600)
    found = np.array([np.histogram(d.sum(1), edges)[0] for d in drawn])
    assert np.abs(found.mean(0) - mean).max() < 1 and ((found >= low) & (found <= high)).mean() > 0.94
    assert mean.sum() == pytest.approx(120, abs=1.5)
    share = np.diff(stats.hypergeom.cdf(edges - 1, 9600, n_live, 80))
    assert np.allclose(mean, 120 * share) and low.tolist() == stats.binom.ppf(0.025, 120, share).tolist()
    assert high.tolist() == stats.binom.ppf(0.975, 120, share).tolist()


def test_figures_show_what_is_stored(run, explorer):
    last = stored(run, 3)
    z = explorer.figure("layers").data[0].z
    assert np.allclose(z[:3, 3], [last.layer_density()[f"h.{i}"] for i in range(3)])
    explorer.set(tint="density")
    first = explorer.figure("network").data[0]
    assert first.z[1][0] == pytest.approx(100 * last.matrix_density()["transformer.h.1.attn.c_attn.weight"])
    assert list(first.customdata[1][0]) == [1, "attn.c_attn"]
    explorer.set(tint="spread")
    signs, known = explorer.figure("signs"), last.summary()
    drawn = {tuple(p): y for t in signs.data for p, y in zip(t.customdata, t.y)}
    share = float(known.positive.sel(matrix="transformer.h.2.mlp.c_fc.weight"))
    assert drawn[2, "mlp.c_fc"] == pytest.approx(100 * share)
    bars = explorer.figure("in_degrees", layer=1, matrix="mlp.c_fc").data[0]
    assert sum(bars.y) == 128
    assert explorer.figure("mask", layer=1).layout.title.text.startswith("block 1")


def test_layer_densities_are_the_connectomes(run):
    last = stored(run, 3)
    mine = ce.layer_density(ce.read_wiring(run / "evolution" / "gen-03" / "connectome.safetensors"))
    for layer, share in mine.items():
        names = [n for n in last.signs if place(n)["layer"] == layer]
        assert share == sum(int((last.signs[n] != 0).sum()) for n in names) / sum(last.signs[n].numel() for n in names)


def test_a_large_mask_takes_little_room():
    made = ConnectomeExplorer(wired("transformer.h.0.mlp.c_proj.weight", matrix(768, 3072, 0.25)))
    reply = made.ask("mask")
    assert sum(map(len, packed(reply))) + len(json.dumps(reply.content)) <= 0.6e6


def test_files_are_read_once_until_they_change(tmp_path):
    path = tmp_path / "connectome.safetensors"
    wired("w", matrix(40, 30, 0.5)).save(path)
    first = ce.read_wiring(path)
    assert ce.read_wiring(path) is first
    wired("w", matrix(40, 30, 0.25, 1)).save(path)
    changed = ce.read_wiring(path)
    assert changed is not first and changed.n_live("w") == int((matrix(40, 30, 0.25, 1) != 0).sum())


def test_selection_arrays(explorer, tmp_path):
    explorer.clicked = dict(view="mask", matrix="transformer.h.0.mlp.c_fc.weight", generation=2,
                            selection=dict(rows=[3, 9], columns=[0, 4], live=1, positive=1))
    explorer.set(generation=0)  # what was selected stays what it was
    found = explorer.selection_arrays(tmp_path / "part.npz")
    whole = explorer.signs(2, "transformer.h.0.mlp.c_fc.weight")
    assert (found["signs"] == whole[3:10, :5]).all() and "compared" not in found
    with np.load(tmp_path / "part.npz") as kept:
        assert (kept["signs"] == found["signs"]).all() and kept["rows"].tolist() == list(range(3, 10))
    explorer.selection = {}
    explorer.set(layer=1, matrix="attn.c_proj", compare="own:1")
    both = explorer.selection_arrays()
    assert both["signs"].shape == both["compared"].shape == (32, 32)
    assert ce.change_counts(both["compared"], both["signs"]) == explorer.ask("mask").content["counts"]
    explorer.set(generation=3, compare="nothing", layer=0)


# Errors


def test_a_run_of_another_kind_is_named(tmp_path):
    with create_run(tmp_path / "pop", dict(), "population"):
        pass
    with pytest.raises(InputError, match="kind 'population'.*evolves no connectome.*evonb evolve"):
        ConnectomeExplorer(tmp_path / "pop")
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        ConnectomeExplorer(tmp_path / "nowhere")


def test_a_run_without_connectomes_says_how_to_go_on(tmp_path):
    ce.example_connectome_run(tmp_path / "run", Seeds(1), n_pruned=1, arms=(), n_layers=1, width=8)
    half = ConnectomeExplorer(tmp_path / "run")
    assert "1 of 4 generations are pruned; generation 1 isn't pruned yet" in half.subtitle
    assert [v for v, _ in half.controls["generation"].options] == [0]
    with pytest.raises(InputError, match="generation is 1, but must be one of: 0"):
        half.set(generation=1)
    shutil.rmtree(tmp_path / "run" / "evolution" / "gen-00")
    with pytest.raises(InputError, match="no connectome yet: generation 0 isn't pruned.*evonb evolve --out .*--resume"):
        ConnectomeExplorer(tmp_path / "run")


def test_what_is_out_of_range_is_refused_with_what_there_is(explorer):
    for values, said in ((dict(generation=9), "one of: 0, 1, 2, 3"), (dict(layer=7), "one of: 0, 1, 2, 'wte', 'lm_h"),
                         (dict(matrix="q_proj"), "'attn.c_attn'"), (dict(compare="arm:dense:0"), "'nothing'")):
        with pytest.raises(InputError, match=said):
            explorer.set(**values)
    with pytest.raises(InputError, match="no layer 9; the layers are: 0, 1, 2"):
        explorer.matrix_name(9, "mlp.c_fc")
    with pytest.raises(InputError, match="no generation 9; there are: 0, 1, 2, 3"):
        explorer.signs(9, "transformer.wte.weight")


@pytest.mark.parametrize("harm", ["flip", "cut", "text"])
def test_a_damaged_file_is_named(tmp_path, harm):
    run = ce.example_connectome_run(tmp_path / "run", Seeds(1), n_generations=2, n_layers=1, width=8, arms=())
    path = run / "evolution" / "gen-00" / "connectome.safetensors"
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[-3] ^= 1
    path.write_bytes(dict(flip=data, cut=data[:-9], text=b"nothing of the kind")[harm])
    made = ConnectomeExplorer(run)  # the last generation is sound
    made.ask("mask")
    with pytest.raises(DamagedFileError, match="gen-00.connectome.safetensors is damaged"):
        made.ask("mask", generation=0)


def test_planes_that_do_not_fit_are_refused(tmp_path):
    from evonb.store import write_tensors
    c = wired("w", matrix(5, 5, 0.5))
    planes, about, path = c.planes(), c.about(), tmp_path / "connectome.safetensors"
    for harmed, told in ((planes | {"w|wired": planes["w|wired"][:-1]}, "don't fit its shape"),
                         (planes | {"w|wired": planes["w|wired"] | 1}, "don't fit its shape"),
                         ({"w|wired": planes["w|wired"]}, "lacks")):
        write_tensors(path, harmed, about)
        with pytest.raises(DamagedFileError, match=told):
            ce.read_wiring(path)
    write_tensors(path, planes, about | dict(n_live=about["n_live"] + 1))
    with pytest.raises(DamagedFileError, match="live weights, not"):
        ce.read_wiring(path)
    write_tensors(path, planes, about | dict(kind="adapter"))
    with pytest.raises(InputError, match="holds no connectome.*'adapter'"):
        ce.read_wiring(path)


def test_a_mask_that_no_page_can_hold_is_refused():
    huge = torch.ones(1, dtype=torch.int8).expand(40_000, 20_000)  # takes no room
    made = ConnectomeExplorer(wired("w", huge))
    with pytest.raises(InputError, match="w has 800,000,000 weights, more than the 536,870,912 that a page can hold"):
        made.ask("mask")


def test_wrong_sources_are_refused(tmp_path):
    for given, told in (({}, "dictionary is empty"), (dict(a=3), "'a' is of type int"),
                        (3, "type int can't be explored"), (Connectome({}, {"w": (2, 2)}), "wires no matrix")):
        with pytest.raises(InputError, match=told):
            ConnectomeExplorer(given)
    c = wired("transformer.h.0.attn.c_attn.weight", matrix(6, 2, 0.5))
    with pytest.raises(InputError, match="give n_head"):
        ConnectomeExplorer(c).ask("heads")
    with pytest.raises(plots_style.NothingToPlot, match="no attention matrix that 4 heads share"):
        ConnectomeExplorer(c, n_head=4).ask("heads")
    with pytest.raises(InputError, match="n_head is 0"):
        ConnectomeExplorer(c, n_head=0)
    two = ConnectomeExplorer(dict(a=c, b=wired("transformer.h.0.attn.c_attn.weight", matrix(9, 3, 0.5))))
    with pytest.raises(InputError, match=r"\(6, 2\) here and \(9, 3\) in b, so they can't be compared"):
        two.ask("mask", generation="a", compare="own:b")
    c.save(tmp_path / "alone.safetensors")
    assert ConnectomeExplorer(tmp_path / "alone.safetensors").ask("mask").content["live"] == c.n_live


def test_a_given_connectome_can_be_looked_at(tmp_path):
    config = dict(connectome="elsewhere", evolution=dict(n_generations=4))
    with create_run(tmp_path / "run", config, "connectome") as run:
        wired("w", matrix(4, 4, 0.5)).save(run.file("evolution", "given", "connectome.safetensors"))
    made = ConnectomeExplorer(tmp_path / "run")
    assert made.values["generation"] == "given" and made.source.about == ""
    assert made.ask("mask").content["rows"] == 4


def test_names_with_html_are_text(run, tmp_path):
    c = wired(EVIL, matrix(6, 8, 0.5))
    made = ConnectomeExplorer({EVIL: c}, n_head=2)
    page = made.to_html(only=dict(compare=["nothing"]))
    assert EVIL not in page and "\\u003cimg" in page
    for view in ("layers", "network", "signs", "in_degrees"):
        text = json.dumps(json.loads(made.figure(view).to_json())["layout"])
        assert "<img" not in text, view
    assert f"arm {EVIL}, seed 0" in [t for _, t in ConnectomeExplorer(run).controls["compare"].options]


def test_static_pages_hold_each_mask_once(run, explorer):
    only = dict(layer=[0], matrix=["mlp.c_fc", "mlp.c_proj"], compare=["nothing", "own:0"])
    page = explorer.to_html(only=only)
    data = json.loads(page.split('-data">')[1].split("</script>")[0])
    masks = [r for k, r in data["replies"].items() if k.startswith("mask:")]
    assert len(masks) == 4 * 2 * 2 and len({i for r in masks for i in r["arrays"]}) == 4 * 2 * 2  # two planes each
    assert math.isclose(sum(len(r["arrays"]) for r in masks), 8 * 2 + 8 * 4)


# Importance


def stored_circuits(path, values, arms, numbers, share=0.25):
    "A dataset as `evonb circuits` stores it: two blocks of two heads and three units."
    import xarray as xr

    from evonb.store import write_dataset
    names = [f"{kind} {b}.{i}" for b in range(2) for kind, n in (("head", 2), ("unit", 3)) for i in range(n)]
    coords = dict(task=["one", "two"], place=names, arm=("model", arms), number=("model", numbers))
    write_dataset(path, xr.Dataset(dict(importance=(("model", "task", "place"), values)), coords, dict(share=share)))
    return names


def test_importances_are_the_means_of_the_shown_evolutions_heirs(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 2, 10))
    numbers = [0, 1, 1000, 0]  # the third is of another evolution, the fourth of another arm
    stored_circuits(tmp_path / "c.zarr.zip", values, ["connectome"] * 3 + ["random"], numbers)
    found = ce.read_importance(tmp_path / "c.zarr.zip")
    assert found.tasks == ["all tasks, on average", "one", "two"] and "2 newborns" in found.whose
    np.testing.assert_allclose(found.values[1:], values[:2].mean(0))
    np.testing.assert_allclose(found.values[0], values[:2].mean((0, 1)))
    best = np.argsort(-values[:2].mean(0)[0])[:2]  # a quarter of ten places, 2.5, is two
    assert sorted(np.flatnonzero(found.circuits[1])) == sorted(best)
    assert ce.read_importance(tmp_path / "c.zarr.zip", "dense") is None
    other = ce.read_importance(tmp_path / "c.zarr.zip", evolution=1)
    np.testing.assert_allclose(other.values[1:], values[2])
    assert ce.read_importance(tmp_path / "c.zarr.zip", evolution=2) is None


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    "A run of two evolutions, the second one a generation behind, and the second's as a run of its own."
    home = tmp_path_factory.mktemp("twice")
    first, second = (
        ce.example_connectome_run(home / n, Seeds(s), width=16, n_layers=2) for n, s in (("a", 1), ("b", 2)))
    shutil.copytree(second / "evolution", first / "lineage-1" / "evolution")
    shutil.rmtree(first / "lineage-1" / "evolution" / "gen-03")
    values = np.random.default_rng(1).normal(size=(2, 2, 10))
    stored_circuits(first / "circuits.zarr.zip", values, ["connectome"] * 2, [0, 1000])
    return first, second, values


def test_the_evolution_is_chosen_and_everything_is_that_ones(twice):
    first, second, values = twice
    both, alone = ConnectomeExplorer(first, n_head=2), ConnectomeExplorer(second, n_head=2)
    assert "evolution" not in alone.controls and [v for v, _ in both.controls["evolution"].options] == [0, 1]
    assert all("evolution" in v.needs for n, v in both.views.items() if "generation" in v.needs or n == "layers")
    asked = dict(generation=2, layer=1, matrix="mlp.c_fc", compare="own:0")
    mine, its = both.ask("mask", evolution=1, **asked), alone.ask("mask", **asked)
    assert packed(mine)[:4] == packed(its)[:4] and mine.content["counts"] == its.content["counts"]
    assert mine.content["generation"] == 2 and mine.content["generation_text"] == "generation 2 of evolution 1"
    assert packed(both.ask("mask", evolution=0, **asked))[:4] != packed(its)[:4]
    assert both.ask("differences", evolution=1, **asked).content["rows"] == its_rows(alone, asked)
    at = dict(generation=1, layer=0, matrix="attn.c_proj", compare="nothing")
    for evolution in (0, 1):
        told = both.ask("mask", evolution=evolution, **at)
        array = np.frombuffer(packed_array(told, told.content["importance"]["array"]), np.float32)
        np.testing.assert_allclose(array.reshape(3, -1)[1], np.repeat(values[evolution][0, :2], 8), rtol=1e-6)
    for view in ("network", "signs", "heads", "in_degrees"):
        wanted = alone.ask(view, **{k: v for k, v in at.items() if k in alone.views[view].needs})
        found = both.ask(view, evolution=1, **{k: v for k, v in at.items() if k in both.views[view].needs})
        assert json.dumps(found.content).replace(" of evolution 1", "") == json.dumps(wanted.content), view
    both.set(evolution=1, generation=1)
    name = both.matrix_name(both.values["layer"], both.values["matrix"])
    assert np.array_equal(both.selection_arrays()["signs"], alone.signs(1, name))
    with pytest.raises(InputError, match="no generation 3 of evolution 1; there are: 0, 1, 2"):
        both.ask("mask", evolution=1, **asked | dict(generation=3))


def its_rows(explorer, asked):
    return explorer.ask("differences", **asked).content["rows"]


def test_a_page_that_is_too_large_keeps_the_evolution_that_is_shown(twice, tmp_path):
    from evonb.widgets.explorers import small_page

    both = ConnectomeExplorer(twice[0])
    both.set(evolution=1)
    both.controls["compare"] = both.controls["compare"]._replace(options=[["nothing", "nothing"]])
    whole = small_page(both, tmp_path / "whole.html", 25).read_text()
    size = sum(map(len, stored_blobs(whole))) / 1e6
    with pytest.warns(UserWarning, match="evolution 1 only"):
        part = small_page(both, tmp_path / "part.html", 0.9 * size).read_text()
    assert len(stored_blobs(part)) < len(stored_blobs(whole)) and '["evolution 0"' not in part


def packed_array(reply, i):
    found = reply.arrays[i]
    return found if isinstance(found, bytes) else np.ascontiguousarray(found).tobytes()


def stored_blobs(page):
    data = page.partition('-data">')[2].partition("</script>")[0]
    return json.loads(data)["blobs"]


@pytest.mark.parametrize("name, shape, axis, lines", [
    ("transformer.h.1.attn.c_attn.weight", (12, 4), "row", ["head 1.0"] * 2 + ["head 1.1"] * 2),
    ("transformer.h.1.attn.c_proj.weight", (4, 4), "column", ["head 1.0"] * 2 + ["head 1.1"] * 2),
    ("transformer.h.1.mlp.c_fc.weight", (3, 2), "row", ["unit 1.0", "unit 1.1", "unit 1.2"]),
    ("transformer.h.1.mlp.c_proj.weight", (2, 3), "column", ["unit 1.0", "unit 1.1", "unit 1.2"])])
def test_a_matrix_tells_the_importance_of_its_lines(tmp_path, name, shape, axis, lines):
    values = np.random.default_rng(1).normal(size=(1, 2, 10))
    names = stored_circuits(tmp_path / "c.zarr.zip", values, ["connectome"], [0])
    known = ce.read_importance(tmp_path / "c.zarr.zip")
    made = ConnectomeExplorer(wired(name, matrix(*shape, 0.5)), n_head=2, importance=known)
    reply = made.ask("mask", layer=1)
    told = reply.content["importance"]
    lines = lines * (shape[0] // len(lines) if axis == "row" else 1)
    at = [names.index(n) for n in lines]
    assert (told["axis"], told["n"]) == (axis, len(set(lines)))
    np.testing.assert_array_equal(reply.arrays[told["array"]], known.values[:, at].astype(np.float32))
    np.testing.assert_array_equal(reply.arrays[told["array"] + 1], known.circuits[:, at])
    alike = [i for i, n in enumerate(names) if n.startswith(told["kind"])]  # one scale over blocks
    np.testing.assert_allclose(told["most"], np.abs(known.values[:, alike]).max(1))
    made.clicked = dict(view="mask", matrix=name, generation="this connectome", selection=dict(
        rows=[0, shape[0] - 1], columns=[0, shape[1] - 1], **{"which" if axis == "row" else "which_columns": [1]}))
    chosen = made.selection_arrays()["signs"]
    assert (chosen == made.signs("this connectome", name)[[1] if axis == "row" else slice(None)]
            [:, slice(None) if axis == "row" else [1]]).all()


def test_matrices_without_heads_or_units_say_so(tmp_path):
    stored_circuits(tmp_path / "c.zarr.zip", np.zeros((1, 2, 10)), ["connectome"], [0])
    known = ce.read_importance(tmp_path / "c.zarr.zip")
    made = ConnectomeExplorer(wired("transformer.wte.weight", matrix(5, 4, 0.5)), importance=known)
    assert "axis" not in made.ask("mask").content["importance"]
    assert "importance" not in ConnectomeExplorer(wired("transformer.wte.weight", matrix(5, 4, 0.5))).controls
