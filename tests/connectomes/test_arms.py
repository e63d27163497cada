"""Arms: what each newborn is made of, refusals, and arms of one's own from the command line to the explorer."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evonb.cli import main
from evonb.connectomes.arms import ARMS, find_arm
from evonb.connectomes.controls import CONTROLS, control, dense_matched_config, random_control
from evonb.connectomes.planning import plan
from evonb.connectomes.settings import DEFAULT_ARMS, DevelopmentConfig, preset
from evonb.connectomes.wiring import prune
from evonb.core import InputError, Seeds
from evonb.registry import Entry
from evonb.store import open_run, read_dataset, read_json
from evonb.training.base import load_model
from evonb.training.connectome import Connectome
from evonb.training.gpt import GPTConfig, n_parameters, new_gpt
from evonb.widgets.connectome import ConnectomeExplorer

RUN = Path(__file__).parents[1] / "runs" / "connectome.zip"
PLUGIN = '''
from dataclasses import replace
from evonb.connectomes import ARMS, Arm
from evonb.training.gpt import GPTConfig

@ARMS.register("inverted", "the same wires, every sign turned round")
def inverted(connectome, rng): return replace(connectome, signs={n: -s for n, s in connectome.signs.items()})

def one_layer(config, n_trainable): return GPTConfig(**config.to_dict() | dict(n_layer=1))

ARMS.add("shallow", Arm(config=one_layer), "a dense newborn of one layer")
'''


@pytest.fixture
def wiring():
    return prune(new_gpt(GPTConfig(vocab_size=96, n_layer=2, n_head=2, n_embd=32, block_size=32), Seeds(0)), 0.5)


@pytest.fixture
def mine():
    "A registered arm that is forgotten after the test."
    made = []

    def add(name, thing):
        ARMS.add(name, thing)
        made.append(name)

    yield add
    for name in made:
        ARMS.remove(name)


def test_the_arms_of_before_are_there_in_their_order_and_compared_unless_told_otherwise():
    assert tuple(ARMS)[:6] == DEFAULT_ARMS == DevelopmentConfig().arms
    assert DEFAULT_ARMS == ("connectome", "random", "degree_preserving", "sign_shuffled", "dense", "dense_matched")
    assert list(CONTROLS)[:3] == ["random", "degree_preserving", "sign_shuffled"] and "dense" not in CONTROLS
    assert CONTROLS["random"] is random_control and len(CONTROLS) >= 3
    assert all(ARMS.lines()[arm] for arm in DEFAULT_ARMS)
    assert {a: (find_arm(a).wiring is not None, find_arm(a).own) for a in DEFAULT_ARMS} == dict(
        connectome=(True, False), random=(True, True), degree_preserving=(True, True), sign_shuffled=(True, True),
        dense=(False, False), dense_matched=(False, False))
    assert find_arm("dense_matched").config is dense_matched_config


def test_a_control_of_ones_own_is_noted_as_what_it_is(wiring, mine):
    mine("empty_head", lambda c, rng: replace(c, signs={n: s * (n != "lm_head.weight") for n, s in c.signs.items()}))
    mine("shuffled_twice", lambda c, rng: random_control(random_control(c, rng), rng))
    for name in ("empty_head", "shuffled_twice"):
        assert control(wiring, name, Seeds(0).numpy()).info == dict(control=name, of=wiring.digest())
    made = control(wiring, "random", Seeds(0).numpy())
    same = random_control(wiring, Seeds(0).numpy())
    assert made.digest() == same.digest() and made.info == same.info


DRAWN = dict(  # checksums of what this wiring's controls were before deals were NumPy's
    random="1beab38da43695a5", degree_preserving="5f30d4ae1dfd23ef", sign_shuffled="53fd44edff3d0040",
    random_rows="a75dcc78e2ea545d", row_degree="d8f61619ed687b70", signed_degree="24339ff217ef8d2e")


@pytest.mark.parametrize("name", [n for n in ARMS if "deal" in ARMS.entry(n).about])
def test_what_an_arm_does_to_one_matrix_is_what_its_control_does_to_all(name):
    sizes, rng = {"wte.weight": (40, 16), "h.0.mlp.c_fc.weight": (64, 16)}, np.random.default_rng(0)
    signs = {n: torch.from_numpy(rng.choice(np.int8([-1, 0, 1]), s, p=[0.2, 0.5, 0.3])) for n, s in sizes.items()}
    wiring = Connectome(signs, sizes)
    deal, rng = Entry(name, ARMS.entry(name).about["deal"]).load(), Seeds(0).numpy()
    made = control(wiring, name, Seeds(0).numpy())
    assert all(np.array_equal(made.signs[n].numpy(), deal(n, s.numpy(), rng)) for n, s in wiring.signs.items())
    assert made.digest()[:16] == DRAWN[name]


@pytest.mark.parametrize("thing", [3, ["random"], None])
def test_what_makes_no_newborn_is_refused_by_name(thing, mine):
    mine("odd", thing)
    with pytest.raises(InputError, match="The arm 'odd' .*must be a function"):
        find_arm("odd")


def test_an_arm_that_cannot_be_loaded_is_nobody_elses_trouble(wiring, mine):
    ARMS.add("gone", "no_module_of_this_name:arm")
    try:
        assert control(wiring, "random", np.random.default_rng(0)).info["control"] == "random"
        with pytest.raises(InputError, match="The arm 'gone' of .*no_module_of_this_name"):
            control(wiring, "gone", np.random.default_rng(0))
    finally: ARMS.remove("gone")


def test_wrong_arms_and_controls_say_what_is_there(wiring, mine):
    with pytest.raises(InputError, match="arm is 'dense_match', .*connectome, random.*Did you mean dense_matched"):
        preset("demo", development=DevelopmentConfig(arms=("dense_match",))).check()
    with pytest.raises(InputError, match="control is 'dense', but must be one of: random, degree_preserving"):
        control(wiring, "dense", Seeds(0).numpy())
    mine("signs_only", lambda connectome, rng: connectome.signs)
    with pytest.raises(InputError, match="'signs_only' gave an object of type dict"):
        control(wiring, "signs_only", Seeds(0).numpy())


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setenv("EVONB_PLUGINS", "")
    (tmp_path / "mine.py").write_text(PLUGIN)
    yield str(tmp_path / "mine.py")
    for name in {"inverted", "shallow"} & set(ARMS):
        ARMS.remove(name)


def test_arms_of_a_plugin_are_raised_planned_summarised_reported_and_explored(plugin, tmp_path, capsys):
    with zipfile.ZipFile(RUN) as z:
        z.extractall(tmp_path / "run")
    with pytest.raises(SystemExit):
        main(["develop", "--help", "--plugin", plugin])
    assert "the same wires, every sign turned round" in capsys.readouterr().out
    assert main(["develop", str(tmp_path / "run"), "--arms", "inverted,shallow", "--plugin", plugin]) == 0
    run = open_run(tmp_path / "run")
    found = read_json(run.file("summary.json"))["arms"]
    assert list(found) == ["connectome", "random", "inverted", "shallow"]
    assert found["inverted"]["density"] == found["connectome"]["density"] < 1 == found["shallow"]["density"]
    assert found["inverted"]["difference"]["n"] == found["shallow"]["difference"]["n"] == 2
    # born as they say
    own = Connectome.load(run.file("development", "inverted", "seed-1", "connectome.safetensors"))
    last = Connectome.load(run.file("evolution", "gen-01", "connectome.safetensors"))
    assert all(torch.equal(own.signs[n], -s) for n, s in last.signs.items()) and own.info["control"] == "inverted"
    assert not list(run.file("development", "shallow").glob("seed-*/connectome.safetensors"))
    model = load_model(run.file("development", "shallow", "seed-0", "lr-0.016", "model"))
    assert model.config.n_layer == 1 and n_parameters(model) == found["shallow"]["n_live"]
    assert np.isfinite(read_dataset(run.file("development.zarr.zip")).final_test_loss).all()
    # seen
    capsys.readouterr()
    assert main(["show", str(run.path)]) == main(["report", str(run.path)]) == 0
    assert "inverted" in capsys.readouterr().out
    assert all(arm in run.file("report.html").read_text() for arm in ("inverted", "shallow"))
    explorer = ConnectomeExplorer(run)
    explorer.values = explorer.values | dict(compare="arm:inverted:1")
    assert {"arm:inverted:0", "fresh:inverted"} <= set(dict(explorer.controls["compare"].options))
    # planned
    config = preset("demo", development=DevelopmentConfig(arms=(*DEFAULT_ARMS, "inverted", "shallow")))
    rows = {s.name: s for s in plan(config).stages}
    assert rows["inverted"].disk == rows["random"].disk > rows["connectome"].disk
    assert rows["shallow"].flops < rows["dense"].flops
    # without the plugin what is stored is read all the same, but not gone on with
    for name in ("inverted", "shallow"):
        ARMS.remove(name)
    assert main(["show", str(run.path)]) == main(["report", str(run.path)]) == 0
    assert "arm:inverted:0" in dict(ConnectomeExplorer(run).controls["compare"].options)
    capsys.readouterr()
    assert main(["develop", str(run.path)]) == 2 and "arm is 'inverted', but must be" in capsys.readouterr().err


def test_newborns_of_an_evolution_share_one_random_wiring(tmp_path):
    with zipfile.ZipFile(RUN) as z:
        z.extractall(tmp_path / "run")
    assert main(["develop", str(tmp_path / "run"), "--arms", "random_shared"]) == 0
    run = open_run(tmp_path / "run")
    one, two = (Connectome.load(run.file("development", "random_shared", f"seed-{k}", "connectome.safetensors"))
                for k in (0, 1))
    last = Connectome.load(run.file("evolution", "gen-01", "connectome.safetensors"))
    assert one.digest() == two.digest() != last.digest() and one.info["control"] == "random_shared"
    assert all(int((one.signs[n] > 0).sum()) == int((s > 0).sum()) for n, s in last.signs.items())
    apart = [Connectome.load(run.file("development", "random", f"seed-{k}", "connectome.safetensors")).digest()
             for k in (0, 1)]
    assert len({one.digest(), *apart}) == 3 and "random_shared" not in CONTROLS
