"""Signs for life: kept, exponentiated or free, against plain loops, through stops, and from the command line."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evonb.cli import main
from evonb.connectomes.experiments import experiment
from evonb.connectomes.generations import load_generation, read_life
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig, preset
from evonb.connectomes.wiring import elect_units, prune
from evonb.core import ConnectomeError, InputError, Seeds, Stopped, StopRequest, from_dict
from evonb.store import open_run, read_dataset, read_json, read_tensors, write_tensors
from evonb.text.tokens import CorpusConfig
from evonb.training.base import load_model
from evonb.training.connectome import inherit, matrix_roles, sign_flips
from evonb.training.gpt import GPTConfig, ModelConfig, new_gpt
from evonb.training.lifetime import Lifetime, LifetimeConfig, Optimizers, latest_checkpoint

pytestmark = pytest.mark.numerics

RUN = Path(__file__).parents[1] / "runs" / "connectome.zip"
CONFIG = GPTConfig(vocab_size=40, n_layer=1, n_head=2, n_embd=16, block_size=16)
IDS = np.random.default_rng(0).integers(0, 40, 5000).astype(np.uint16)
LIFE = LifetimeConfig(steps=12, batch_size=8, context=16, lr=1e-2, warmup=3, eval_every=4, eval_windows=8,
                      checkpoint_every=5)  # fmt: skip


def wiring(exempt=()):
    return prune(new_gpt(CONFIG, Seeds(0)), 0.7, exempt=exempt)


def lifetime(connectome, folder=None, **changes):
    model = inherit(new_gpt(CONFIG, Seeds(1)), connectome) if connectome else new_gpt(CONFIG, Seeds(1))
    return Lifetime(model, IDS, IDS[-600:], replace(LIFE, **changes), Seeds(2), connectome, folder)


class StopAt(StopRequest):
    def __init__(self, life, step):
        self.life, self.step, self.reason = life, step, "a test"

    def __bool__(self):
        return self.life.step >= self.step


def weights(life):
    return {n: p.detach().clone() for n, p in life.model.named_parameters()}


def assert_same(a, b):
    assert all(torch.equal(a[n], b[n]) for n in a)


def steps_of(signs, optimizer="adamw", n=8, seed=0):
    "Random gradients, step by step: what the optimizers make of them, and what was wired."
    c = wiring()
    model = inherit(new_gpt(CONFIG, Seeds(1)), c)
    opt = Optimizers(model, replace(LIFE, signs=signs, optimizer=optimizer, weight_decay=0.1), c)
    rng = Seeds(seed).torch()
    gradients = [{m: torch.randn(p.shape, generator=rng) for m, p in model.named_parameters()} for _ in range(n)]
    seen = []
    for grads in gradients:
        sum((p * grads[m]).sum() for m, p in model.named_parameters()).backward()
        opt.step(0.5)
        seen.append({m: p.detach().clone() for m, p in model.named_parameters()})
    opt.close()
    return c, gradients, seen


def test_kept_is_a_plain_masked_adamw_whose_flips_are_set_to_zero():
    c, gradients, seen = steps_of("kept")
    plain = inherit(new_gpt(CONFIG, Seeds(1)), c)
    opt = torch.optim.AdamW(plain.parameters(), lr=0.5 * LIFE.lr, betas=LIFE.betas, weight_decay=0.1)
    came_back = at_zero = 0
    was = weights_of = {n: p.detach().clone() for n, p in plain.named_parameters()}
    for grads, found in zip(gradients, seen):
        for n, p in plain.named_parameters():
            p.grad = grads[n] * c.signs[n].abs()
        opt.step()
        with torch.no_grad():
            for n, p in plain.named_parameters():
                p[p * c.signs[n] <= 0] = 0
                assert torch.allclose(p, found[n], atol=1e-6)
                came_back += int(((was[n] == 0) & (found[n] != 0)).sum())
                at_zero += int(((found[n] == 0) & (c.signs[n] != 0)).sum())
                assert not (found[n] * c.signs[n] < 0).any()
        was = found
    assert came_back > 20 and at_zero > 100 and weights_of is not was  # zero is no grave


def test_exponentiated_steps_are_those_of_adamw_on_logarithms_along_the_sign():
    c, gradients, seen = steps_of("exponentiated")
    named = {n: s for n, s in c.signs.items()}
    logs = {n: torch.full(s.shape, c.magnitude).log().requires_grad_() for n, s in named.items()}
    opt = torch.optim.AdamW(logs.values(), lr=0.5 * LIFE.lr, betas=LIFE.betas, weight_decay=0.0)
    for grads, found in zip(gradients, seen):
        with torch.no_grad():
            for u in logs.values():
                u.sub_(0.5 * LIFE.lr * 0.1)  # decay of |weight| in the same share
        for n, u in logs.items():
            u.grad = grads[n] * named[n]
        opt.step()
        for n, u in logs.items():
            assert torch.allclose(named[n] * u.exp(), found[n], rtol=1e-4, atol=0)
            assert torch.equal(torch.sign(found[n]).to(torch.int8), named[n])
    first = {n: (x.abs()[named[n] != 0] / c.magnitude).log() for n, x in seen[0].items()}
    assert all((u.abs() < 1.2 * 0.5 * LIFE.lr).all() for u in first.values())  # at most the rate, a step


def test_muon_keeps_signs_too_and_cannot_be_exponentiated():
    c, _, seen = steps_of("kept", "muon")
    free = steps_of("free", "muon")[2]
    body = "transformer.h.0.mlp.c_fc.weight"
    for found in seen:
        assert all(not (found[n] * s < 0).any() and not found[n][s == 0].any() for n, s in c.signs.items())
    assert (free[-1][body] * c.signs[body] < 0).any() and (seen[-1][body] == 0).sum() > (c.signs[body] == 0).sum()
    with pytest.raises(InputError, match="signs is 'exponentiated', but the optimizer is muon.*signs=kept"):
        LifetimeConfig(signs="exponentiated", optimizer="muon").check()


@pytest.mark.parametrize("signs, optimizer, exempt", [
    ("kept", "adamw", ()), ("exponentiated", "adamw", ("embeddings",)), ("kept", "muon", ("head",)),
    ("free", "adamw", ()),
])  # fmt: skip
def test_signs_through_stop_and_resume_bit_for_bit(tmp_path, signs, optimizer, exempt):
    c, how = wiring(exempt), dict(signs=signs, optimizer=optimizer, lr=5e-2)
    whole = lifetime(c, **how).live(show=False)
    for stop_at in (3, 7):
        life = lifetime(c, tmp_path / str(stop_at), **how)
        with pytest.raises(Stopped):
            life.live(show=False, stop=StopAt(life, stop_at))
        assert signs == "free" or not any(sign_flips(life.model, c).values())
        again = lifetime(c, tmp_path / str(stop_at), **how)
        assert again.restore() and again.step == stop_at
        again.live(show=False)
        assert_same(weights(whole), weights(again))
        assert whole.val_loss == again.val_loss and whole.flips == again.flips
    assert np.shape(whole.flips) == (len(whole.val_step), len(c.signs)) and whole.val_step == [0, 4, 8, 12]
    by_hand = [float((whole.model.get_parameter(n) * s < 0).sum() / (s != 0).sum()) for n, s in c.signs.items()]
    assert np.allclose(whole.flips[-1], by_hand) and not any(whole.flips[0])
    assert (max(by_hand) > 0.02) == (signs == "free") == (np.max(whole.flips) > 0)


def test_dense_newborns_and_exempt_parts_inherit_no_signs_and_are_free():
    assert_same(*(weights(lifetime(None, signs=s).live(show=False)) for s in ("free", "kept")))
    assert lifetime(None, signs="kept").live(show=False).flips == []
    c = wiring(("head",))
    life = lifetime(c, signs="kept", lr=5e-2)
    was = weights(life)["lm_head.weight"]
    assert (weights(life.live(show=False))["lm_head.weight"] * was < 0).any()


def test_a_pruned_life_with_kept_signs_hands_on_signs_it_inherited():
    c = wiring()
    life = lifetime(c, signs="kept", lr=5e-2).live(show=False)
    assert any((p == 0).sum() > (c.signs[n] == 0).sum() for n, p in life.model.named_parameters())
    made = prune(life.model, 0.2, parent=c)
    assert all((made.signs[n] * s >= 0).all() for n, s in c.signs.items())


def test_a_checkpoint_of_before_goes_on_and_tells_flips_from_then_on(tmp_path):
    c = wiring()
    whole = lifetime(c).live(show=False)
    life = lifetime(c, tmp_path)
    for _ in range(5):
        if not life.val_step:
            life.validate()
        life.one_step()
        life._after_step()
    path = latest_checkpoint(tmp_path)
    tensors, about = read_tensors(path)
    del tensors["curve.flips"], about["config"]["signs"]
    write_tensors(path, tensors, about)
    again = lifetime(c, tmp_path)
    assert again.restore() and np.isnan(again.flips).all() and len(again.flips) == len(again.val_step) == 2
    again.live(show=False)
    assert_same(weights(whole), weights(again))
    assert np.isnan(again.flips[:2]).all() and again.flips[2:] == whole.flips[2:]
    with pytest.raises(InputError, match="another lifetime: .*signs"):
        lifetime(c, tmp_path, signs="kept").restore()


def test_signs_that_a_newborn_was_not_born_with_cannot_be_kept():
    c = wiring()
    model = inherit(new_gpt(CONFIG, Seeds(1)), c)
    with torch.no_grad():
        model.lm_head.weight[:20].neg_()
    for signs in ("kept", "exponentiated"):
        with pytest.raises(ConnectomeError, match="50% of the live weights of lm_head.weight|of lm_head.weight have"):
            Lifetime(model, IDS, IDS[-600:], replace(LIFE, signs=signs), Seeds(2), c)
    Lifetime(model, IDS, IDS[-600:], LIFE, Seeds(2), c).optimizers.close()


def tiny(evolution=None, life=None, lrs=(4e-2,)):
    life = replace(LIFE, **dict(steps=10, eval_every=5) | (life or {}))
    return ExperimentConfig(
        preset="tiny", corpus=CorpusConfig("toy-english", n_bytes=120_000, vocab_size=320),
        model=ModelConfig(1, 2, 16),
        evolution=EvolutionConfig(n_generations=2, prune_fraction=0.4, lifetime=life, **(evolution or {})),
        development=DevelopmentConfig(("connectome", "random", "dense"), 1, lrs, test_windows=8, lifetime=life))


def test_a_run_keeps_signs_and_tells_flips_by_matrix(tmp_path):
    kept = experiment(tmp_path / "kept", tiny(life=dict(signs="kept", lr=4e-2)), show=False)
    free = experiment(tmp_path / "free", tiny(life=dict(lr=4e-2)), show=False)
    for run, turns in ((kept, False), (free, True)):
        for name, one in (("evolution", dict(generation=1)), ("development", dict(arm="connectome", seed=0))):
            flips = read_dataset(run.file(f"{name}.zarr.zip")).flips.sel(one)
            assert flips.dims == ("eval_step", "matrix")
            assert list(flips.matrix.values) == list(load_generation(run).signs)
            assert (float(flips[-1].max()) > 0.02) == turns and not flips[0].any()
        assert np.isnan(read_dataset(run.file("evolution.zarr.zip")).flips.sel(generation=0)).all()
        assert np.isnan(read_dataset(run.file("development.zarr.zip")).flips.sel(arm="dense")).all()
    first, last = (load_generation(kept, g) for g in (0, 1))
    assert all((first.signs[n] * s >= 0).all() for n, s in last.signs.items())


def test_an_exempt_start_is_shared_by_all_generations_and_newborns_and_fresh_otherwise(tmp_path):
    table = "transformer.wte.weight"
    starts = {}
    for how in ("own", "shared"):
        change = dict(exempt=("embeddings", "head"), exempt_start=how)
        still = tiny(change, dict(steps=1, warmup=0, lr=1e-9), (1e-9,))  # nothing is learned
        run = experiment(tmp_path / how, still, show=False)
        grown = [run.file("evolution", "gen-00", "model"), run.file("evolution", "gen-01", "model"),
                 *(next(run.file("development", arm).glob("seed-0/lr-*/model"))
                   for arm in ("connectome", "random", "dense"))]  # fmt: skip
        starts[how] = [load_model(f).get_parameter(table).detach() for f in grown]
    near = {how: [bool((s - x[0]).abs().max() < 1e-6) for s in x] for how, x in starts.items()}
    assert near["shared"] == [True] * 4 + [False]  # dense newborns have starts of their own
    assert near["own"] == [True] + [False] * 4


def test_units_elect_their_sign_by_what_survives():
    model = new_gpt(CONFIG, Seeds(0))
    for exempt in ((), ("embeddings",)):
        free, dale = (prune(model, 0.6, exempt=exempt, dale=d) for d in (False, True))
        for n, s in dale.signs.items():
            w = model.get_parameter(n).detach() * free.signs[n].abs()
            s, w = (s, w) if n == "transformer.wte.weight" else (s.T, w.T)  # units stand in rows
            for unit, strengths in zip(s, w):
                mine = unit[unit != 0]
                assert torch.equal(unit != 0, strengths != 0)
                assert (mine == (1 if strengths.double().sum() >= 0 else -1)).all()
        assert dale.info["dale"] and "dale" not in free.info
    one = dict(w=torch.tensor([[1, -1], [-1, 0]], dtype=torch.int8))
    roles = matrix_roles(["h.0.mlp.c_fc.weight"])["h.0.mlp.c_fc.weight"]
    for turned, expected in ((False, [[1, -1], [1, 0]]), (True, [[1, 1], [-1, 0]])):
        weights = dict(w=torch.tensor([[3.0, -1.0], [-2.0, 5.0]]))
        assert elect_units(one, weights, dict(w=roles | dict(transposed=turned)))["w"].tolist() == expected


def test_bad_settings_of_signs_are_named():
    e, d = preset("demo").evolution, preset("demo").development
    bad = [
        (dict(development=replace(d, lifetime=replace(d.lifetime, signs="keep"))), "signs is 'keep'.*free, kept"),
        (dict(evolution=replace(e, exempt_start="shared")), "exempt_start is 'shared', but nothing is exempt"),
        (dict(evolution=replace(e, exempt_start="same")), "exempt_start is 'same'.*own, shared"),
        (dict(evolution=replace(e, dale=True, inheritance="rewind")), "has dale, but inheritance is 'rewind'"),
        (dict(evolution=replace(e, lifetime=replace(e.lifetime, signs="kept"), inheritance="rewind")), "signs=kept"),
    ]
    for change, says in bad:
        with pytest.raises(InputError, match=says):
            preset("demo", **change).check()


def test_a_run_of_before_is_taken_up_and_another_rule_is_asked_for_on_the_command_line(tmp_path, capsys):
    with zipfile.ZipFile(RUN) as z:
        z.extractall(tmp_path / "run")
    run = open_run(tmp_path / "run")
    before = read_json(run.file("run.json"))
    assert "signs" not in before["config"]["evolution"]["lifetime"]
    config = from_dict(ExperimentConfig, before["config"])
    config.development = from_dict(DevelopmentConfig, read_json(run.file("development.json")))
    again = experiment(run.path, from_dict(ExperimentConfig, before["config"]), resume=True, show=False)
    assert read_json(again.file("run.json")) == before
    changed = from_dict(ExperimentConfig, before["config"])
    changed.development.lifetime.signs = "kept"
    with pytest.raises(OSError, match="development.lifetime.signs: None there, 'kept' asked"):
        experiment(run.path, changed, resume=True, show=False)
    life = ["development.lifetime.signs=kept", "evolution.n_evolutions=1", "evolution.n_generations=1",
            "corpus.n_bytes=120000", "corpus.vocab_size=320"]  # fmt: skip
    for stage in ("evolution", "development"):
        life += [f"{stage}.lifetime.{k}" for k in ("steps=6", "warmup=1", "batch_size=4", "context=16", "eval_every=3")]
    ask = [x for s in life for x in ("--set", s)]
    assert main(["run", "--preset", "demo", "--arms", "connectome,random", "--seeds", "1", "--lrs", "0.03",
                 "--out", str(tmp_path / "new"), *ask]) == 0  # fmt: skip
    assert read_json(tmp_path / "new" / "run.json")["config"]["development"]["lifetime"]["signs"] == "kept"
    lived = next((tmp_path / "new").glob("development/connectome/seed-0/lr-*"))
    assert not read_life(lived)[0]["flips"].any()
    capsys.readouterr()
    ask = ["--set", "evolution.lifetime.signs=clamp"]
    assert main(["run", "--preset", "demo", "--out", str(tmp_path / "no"), *ask]) == 2
    assert "signs is 'clamp', but must be one of: free, kept, exponentiated" in capsys.readouterr().err
    assert not (tmp_path / "no" / "evolution").exists()
