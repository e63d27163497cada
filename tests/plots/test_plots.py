"""Figures against independently computed numbers: bands, means, differences, densities, block shares."""

import base64
import json
import struct
import zlib

import numpy as np
import pytest
import xarray as xr

from evonb.core import EvonbError, InputError, Seeds
from evonb.plots import connectome as plots
from evonb.plots import examples
from evonb.plots import style as plots_style

ARMS = ["connectome", "random", "degree_preserving", "sign_shuffled", "dense", "dense_matched"]


@pytest.fixture(scope="module")
def development():
    return examples.example_development(Seeds(3), n_seeds=4)


@pytest.fixture(scope="module")
def evolution():
    return examples.example_evolution(Seeds(3), n_generations=4, n_layers=3)


def array(v):
    "A trace's values as numpy, also when plotly packed them."
    if isinstance(v, dict):
        flat = np.frombuffer(base64.b64decode(v["bdata"]), v["dtype"])
        return flat.reshape([int(n) for n in v["shape"].split(",")]) if "shape" in v else flat
    return np.array(v, float)


def curves(fig):
    return [t for t in fig.data if t.mode == "lines+markers"]


def figures(development, evolution):
    summary = {"ci": 0.95, "arms": {a: {"test_loss": dict(mean=2 + i / 10, low=1.9 + i / 10, high=2.2 + i / 10, n=4),
                                        "difference": None} for i, a in enumerate(ARMS)}}
    return dict(loss_curves=plots.loss_curves(development), train=plots.loss_curves(development, train=True),
                final_losses=plots.final_losses(summary), generation_curves=plots.generation_curves(evolution),
                training_curves=plots.training_curves(evolution), density_map=plots.density_map(evolution),
                mask_map=plots.mask_map(examples.example_signs(Seeds(0))), sweep_curve=plots.sweep_curve(development))


def test_examples_repeat_bit_for_bit_and_differ_by_seed():
    for make in (examples.example_development, examples.example_evolution):
        xr.testing.assert_identical(make(Seeds(5)), make(Seeds(5)))
        assert not make(Seeds(5)).equals(make(Seeds(6)))
    a, b = examples.example_signs(Seeds(5)), examples.example_signs(Seeds(5))
    assert all(np.array_equal(a[n], b[n]) for n in a)
    assert not all(np.array_equal(a[n], s) for n, s in examples.example_signs(Seeds(6)).items())


def test_band_is_mean_and_sd_of_the_seeds(development):
    fig = plots.loss_curves(development)
    bands = [t for t in fig.data if t.fill == "toself"]
    assert [t.legendgroup for t in bands] == [t.legendgroup for t in curves(fig)] == ARMS
    for arm, band, line in zip(ARMS, bands, curves(fig)):
        v = [[float(x) for x in row] for row in development.val_loss.sel(arm=arm).values]
        for i in range(len(v[0])):
            column = [row[i] for row in v]
            mean = sum(column) / 4
            sd = (sum((x - mean) ** 2 for x in column) / 3) ** 0.5
            assert line.y[i] == pytest.approx(mean)
            assert band.y[i] == pytest.approx(mean + sd) and band.y[-1 - i] == pytest.approx(mean - sd)
            assert line.x[i] == band.x[i] == band.x[-1 - i] == development.eval_step.values[i]
    assert "4 seeds" in fig.layout.title.subtitle.text and "± 1 sd" in fig.layout.title.subtitle.text


def test_band_of_two_is_their_range_and_of_one_a_line(development):
    two = plots.loss_curves(development.isel(seed=[0, 1]))
    band = next(t for t in two.data if t.fill == "toself")
    v = development.val_loss.sel(arm="connectome").values[:2]
    assert list(band.y) == [*v.max(0), *v.min(0)[::-1]] and "range of two" in two.layout.title.subtitle.text
    one = plots.loss_curves(development.isel(seed=[0]))
    assert not [t for t in one.data if t.fill] and one.layout.title.subtitle.text == "one seed"


def test_seeds_that_stopped_early_bend_no_curve(development):
    part = development.copy(deep=True)
    part.val_loss.loc[dict(arm="random", seed=3)][..., 5:] = np.nan
    part.val_loss.loc[dict(arm="dense")] = np.nan
    fig = plots.loss_curves(part)
    assert [t.name for t in curves(fig)] == ["connectome (4 seeds)", "random (3 seeds)", "degree-preserving (4 seeds)",
                                             "sign-shuffled (4 seeds)", "dense-matched (4 seeds)"]
    assert np.allclose(curves(fig)[1].y, part.val_loss.sel(arm="random").values[:3].mean(0))


def test_train_loss_is_the_mean_of_blocks(development):
    fig = plots.loss_curves(development, train=True)
    thin = [t for t in fig.data if t.mode == "lines" and not t.fill][0]
    mean = development.train_loss.sel(arm="connectome").values.mean(0)
    size = int(np.ceil(len(mean) / 150))
    assert np.allclose(thin.y, [mean[i:i + size].mean() for i in range(0, len(mean), size)])
    assert f"means of {size} steps" in fig.layout.title.subtitle.text


def test_an_arm_looks_the_same_everywhere(development):
    styles = [plots_style.arm_style(a) for a in ARMS]
    assert len({s.colour for s in styles}) == len({s.dash for s in styles}) == len({s.symbol for s in styles}) == 6
    for fig in (plots.loss_curves(development), plots.sweep_curve(development),
                plots.loss_curves(development.sel(arm=ARMS[::-1]))):
        for t in curves(fig):
            style = plots_style.arm_style(t.legendgroup)
            assert (t.line.color, t.line.dash, t.marker.symbol) == style
    for arm in ("someone's own", "another"):
        assert plots_style.arm_style(arm).colour not in {s.colour for s in styles}


def test_arms_of_ones_own_look_different_and_the_same_in_every_figure(development):
    own = ["first", "second", "third", "fourth", "fifth", "sixth"]
    renamed = development.assign_coords(arm=own)
    alone = plots.sweep_curve(renamed.sel(arm=["fifth", "second"]))  # a part of the run, drawn first
    looks = {}
    for fig in (alone, plots.loss_curves(renamed), plots.sweep_curve(renamed),
                plots.loss_curves(renamed.sel(arm=["sixth"]))):
        for t in curves(fig):
            assert looks.setdefault(t.legendgroup, (t.line.color, t.line.dash, t.marker.symbol)) == (
                t.line.color, t.line.dash, t.marker.symbol)
    assert set(looks) == set(own)
    assert len({look[0] for look in looks.values()}) == 6 and len(set(looks.values())) == 6
    assert not {look[0] for look in looks.values()} & {plots_style.arm_style(a).colour for a in ARMS}


def test_every_figure_has_units_a_title_and_a_see_through_page(development, evolution):
    made = figures(development, evolution)
    for fig in made.values():
        assert fig.layout.title.text and fig.layout.height
        assert fig.layout.template.layout.paper_bgcolor == fig.layout.template.layout.plot_bgcolor == "rgba(0,0,0,0)"
        json.loads(fig.to_json())
    for name in ("loss_curves", "train", "training_curves", "sweep_curve"):
        assert made[name].layout.yaxis.title.text.endswith("loss (nats/token)")
    assert made["final_losses"].layout.xaxis.title.text == "test loss (nats/token)"
    for name in ("loss_curves", "training_curves"):
        assert made[name].layout.xaxis.title.text == "training step"
    panels = made["generation_curves"].layout
    assert "nats/token" in panels.yaxis.title.text and panels.yaxis2.title.text == "live weights (%)"
    assert panels.xaxis2.title.text == "generation" and panels.xaxis.matches == "x2"
    assert "learning rate" in made["sweep_curve"].layout.xaxis.title.text


def test_final_losses_are_sorted_with_intervals_and_differences(development):
    higher = dict(mean=0.2, low=0.1, high=0.3, p=0.01, p_adjusted=0.02, family=2)
    alone = dict(mean=-0.4, low=None, high=None, p=None, one="seed")
    found = (("connectome", 2.5, None), ("random", 2.7, higher), ("dense", 2.1, alone))
    told = ["-0.400, one seed", "+0.200 [+0.100, +0.300], p = 0.02"]
    arms = {a: {"test_loss": dict(mean=m, sd=0.1, n=4, low=m - 0.1, high=m + 0.2), "test_difference": d}
            for a, m, d in found}
    fig = plots.final_losses({"ci": 0.9, "arms": arms}, development)
    means = [t for t in fig.data if t.error_x.array is not None]
    assert [t.name for t in means] == ["dense", "connectome", "random"]
    assert list(fig.layout.yaxis.categoryarray) == ["random", "connectome", "dense"]  # drawn upwards
    for t, m in zip(means, (2.1, 2.5, 2.7)):
        assert t.x[0] == m
        assert t.error_x.array[0] == pytest.approx(0.2) and t.error_x.arrayminus[0] == pytest.approx(0.1)
    assert [a.text for a in fig.layout.annotations if a.visible] == told
    how = fig.layout.title.subtitle.text
    assert "90 % CI" in how and "corrected for 2 comparisons" in how
    points = next(t for t in fig.data if t.marker.symbol == "circle-open")
    assert np.array_equal(points.x, development.final_test_loss.sel(arm="connectome").values)
    old = {a: {"val_loss": v["test_loss"], "difference": v["test_difference"]} for a, v in arms.items()}
    fig = plots.final_losses({"ci": 0.9, "arms": old}, development, "val_loss")
    assert [a.text for a in fig.layout.annotations if a.visible] == told
    assert fig.layout.xaxis.title.text == "validation loss (nats/token)"


def test_one_seed_has_no_interval():
    fig = plots.final_losses({"ci": 0.95, "arms": {"connectome": {"test_loss": dict(mean=2.0, sd=None, n=1)}}})
    assert len(fig.data) == 1 and fig.data[0].error_x.array is None


def test_generations(evolution):
    loss, born, after = plots.generation_curves(evolution).data
    assert np.array_equal(loss.y, evolution.final_val_loss) and (loss.yaxis, born.yaxis) == ("y", "y2")
    assert np.allclose(born.y, 100 * 0.8 ** np.arange(4)) and np.allclose(after.y, 100 * 0.8 ** np.arange(1, 5))


def test_training_curves_are_ordered_along_the_ramp(evolution):
    lines = curves(plots.training_curves(evolution))
    assert [t.line.color for t in lines] == [plots.ramp_colour(i / 3) for i in range(4)]
    for t, g in zip(lines, range(4)):
        assert np.array_equal(t.y, evolution.val_loss.sel(generation=g))


def test_density_map_puts_each_matrix_in_its_place(evolution):
    fig = plots.density_map(evolution, generation=2)
    body, outside = fig.data
    assert not fig.layout.sliders and "generation 2" in fig.layout.title.text
    for i in range(3):
        for j, kind in enumerate(("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")):
            name = f"transformer.h.{i}.{kind}.weight"
            assert body.z[i][j] == float(evolution.matrix_density.sel(generation=2, matrix=name))
    assert list(outside.x) == ["wte", "lm_head"]
    assert outside.z[0][1] == float(evolution.matrix_density.sel(generation=2, matrix="lm_head.weight"))


def test_density_slider_holds_every_generation(evolution):
    part = evolution.copy(deep=True)
    part.matrix_density[3] = np.nan
    fig = plots.density_map(part)
    steps = fig.layout.sliders[0].steps
    assert [s.label for s in steps] == ["0", "1", "2"] and fig.layout.sliders[0].active == 2
    for g, s in enumerate(steps):
        assert np.array_equal(s.args[0]["z"][0], plots.density_map(part, generation=g).data[0].z)
    assert np.array_equal(fig.data[0].z, steps[2].args[0]["z"][0])


@pytest.mark.parametrize("shape", [(48, 48), (96, 192), (50, 97), (5, 3), (1, 1), (49, 200)])
@pytest.mark.parametrize("n_cells", [1, 7, 48])
def test_block_share_against_a_plain_loop(shape, n_cells):
    signs = np.random.default_rng(sum(shape) + n_cells).integers(-1, 2, shape).astype(np.int8)
    share, net = plots.block_share(signs, n_cells)
    rows, columns = (min(n, n_cells) for n in shape)
    assert share.shape == net.shape == (rows, columns)
    seen = 0
    for r in range(rows):
        for c in range(columns):
            block = [int(signs[i, j]) for i in range(r * shape[0] // rows, (r + 1) * shape[0] // rows)
                     for j in range(c * shape[1] // columns, (c + 1) * shape[1] // columns)]
            live = sum(x != 0 for x in block)
            assert share[r, c] == live / len(block) and net[r, c] == (sum(block) / live if live else 0)
            seen += len(block)
    assert seen == signs.size  # each weight in one block


def test_block_share_counts_more_weights_than_int8_holds():
    share, net = plots.block_share(np.ones((300, 300), np.int8), 1)
    assert share.tolist() == [[1]] and net.tolist() == [[1]]


def decode(source):
    "The RGBA pixels of a PNG data URI without filters, read by hand."
    data, out, at = base64.b64decode(source.split(",")[1]), b"", 8
    while at < len(data):
        (n,), kind = struct.unpack(">I", data[at:at + 4]), data[at + 4:at + 8]
        body = data[at + 8:at + 8 + n]
        assert struct.unpack(">I", data[at + 8 + n:at + 12 + n])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
        out += body if kind == b"IDAT" else b""
        at += 12 + n
    return np.frombuffer(zlib.decompress(out), np.uint8).reshape(height, 1 + 4 * width)[:, 1:].reshape(height, width, 4)


def test_mask_map_shows_share_as_opacity_and_sign_as_hue():
    dead, half, minus = np.zeros((32, 32), np.int8), np.ones((32, 32), np.int8), -np.ones((32, 32), np.int8)
    half[:, ::2] = 0
    fig = plots.mask_map({"transformer.h.0.attn.c_attn.weight": dead, "transformer.h.0.mlp.c_fc.weight": half,
                          "transformer.h.1.attn.c_attn.weight": minus, "lm_head.weight": minus}, n_cells=8)
    image = next(t for t in fig.data if t.type == "image")
    pixels = decode(image.source)
    tile = lambda r, c: pixels[r * 11:r * 11 + 8, c * 11:c * 11 + 8].reshape(-1, 4)
    assert not tile(0, 0)[:, 3].any()                                      # nothing is live
    assert np.unique(tile(0, 1), axis=0).tolist() == [[213, 94, 0, 128]]   # half is live, all positive
    assert np.unique(tile(1, 0), axis=0).tolist() == [[0, 114, 178, 255]]  # all live, all negative
    assert not tile(1, 1)[:, 3].any()                                      # there is no such matrix
    assert np.array_equal(tile(2, 0), tile(1, 0)) and fig.layout.annotations[0].text == "lm_head"
    hover = array(image.to_plotly_json()["customdata"])
    assert hover[0, 11].tolist() == [50, 100] and hover[11, 0].tolist() == [100, -100]


def test_origin_bars_are_shares_of_a_childs_wires():
    n = dict(both=[6, 1], mother=[2, 0], father=[0, 3], neither=[0, 0])
    origin = xr.Dataset({k: ("matrix", v) for k, v in n.items()}, dict(matrix=["transformer.wte.weight", "<b>"]))
    fig = plots.origin_bars(origin, ("Ann", "<i>Bo</i>"))
    found = {t.name: array(t.x).tolist() for t in fig.data}
    assert found == {"both parents": [0.75, 0.25], "only Ann": [0.25, 0.0], "only &lt;i&gt;Bo&lt;/i&gt;": [0.0, 0.75]}
    assert list(fig.data[0].y) == ["wte", "&lt;b&gt;"]
    with pytest.raises(plots_style.NothingToPlot, match="no wire"):
        plots.origin_bars(origin * 0)


def test_mask_map_of_a_big_model_stays_small():
    rng = np.random.default_rng(0)
    signs = {n: rng.integers(-1, 2, (96, 384)).astype(np.int8) for n in examples.example_names(12)}
    assert len(plots.mask_map(signs).to_json()) < 1e6


def test_mask_map_takes_tensors():
    import torch
    signs = examples.example_signs(Seeds(0), 1)
    assert plots.mask_map(signs) == plots.mask_map({n: torch.from_numpy(s) for n, s in signs.items()})


def test_sweep_rings_the_chosen_rate(development):
    part = development.copy(deep=True)
    part.sweep_val_loss.loc[dict(arm="random")] = [np.nan, 3.0, 2.0, np.nan]
    part.chosen_lr.loc[dict(arm="random")] = 3e-3
    line, ring = (t for t in plots.sweep_curve(part).data if t.legendgroup == "random")
    assert list(line.x) == [1e-3, 3e-3] and list(line.y) == [3.0, 2.0]
    assert list(ring.x) == [3e-3] and list(ring.y) == [2.0] and ring.marker.symbol == "circle-open"


def test_names_are_text_not_html(development):
    odd = development.isel(arm=[0]).assign_coords(arm=["<a href='x'>arm</a>"])
    for fig in (plots.loss_curves(odd), plots.sweep_curve(odd)):
        assert [t.name for t in curves(fig)] == ["&lt;a href='x'&gt;arm&lt;/a&gt;"]


def test_what_cannot_be_plotted_is_refused_by_name(development, evolution):
    for make, data, name in (
            (plots.loss_curves, development, "val_loss"), (plots.sweep_curve, development, "sweep_val_loss"),
            (plots.training_curves, evolution, "val_loss"), (plots.density_map, evolution, "matrix_density"),
            (plots.generation_curves, evolution, "final_val_loss")):
        with pytest.raises(plots_style.NothingToPlot, match=f"no variable '{name}'"):
            make(data.drop_vars(name))
        with pytest.raises(plots_style.NothingToPlot, match=f"{name} holds no finite value"):
            make(data.assign({name: data[name] * np.nan}))
    with pytest.raises(plots_style.NothingToPlot, match="no arm with a test_loss"):
        plots.final_losses({"ci": 0.95, "arms": {}})
    with pytest.raises(InputError, match="val_loss, test_loss"):
        plots.final_losses({"ci": 0.95, "arms": {}}, measure="loss")
    with pytest.raises(InputError, match="generation is 9"):
        plots.density_map(evolution, generation=9)
    with pytest.raises(plots_style.NothingToPlot, match="wires no matrix"):
        plots.mask_map({})
    for bad in (np.zeros(3, np.int8), np.zeros((0, 4), np.int8)):
        with pytest.raises(InputError, match="must be a matrix"):
            plots.block_share(bad)
    with pytest.raises(EvonbError, match="n_cells is 0"):
        plots.block_share(np.ones((2, 2), np.int8), 0)
