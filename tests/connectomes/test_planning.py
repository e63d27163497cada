"""Plans against what really happens: operations counted by torch, files of a run, tensors of a training; bad input."""

import json
import math
import os
import struct
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evonb import cli
from evonb.connectomes import planning
from evonb.connectomes.experiments import experiment
from evonb.connectomes.planning import (
    DEVICES,
    Device,
    activation_bytes,
    checkpoint_bytes,
    duration,
    held_bytes,
    lifetime_tokens,
    live_weights,
    matrix_sizes,
    measure,
    plan,
    plan_figure,
    shrink_to_fit,
    token_flops,
)
from evonb.connectomes.settings import DEFAULT_ARMS, DevelopmentConfig, EvolutionConfig, ExperimentConfig, preset
from evonb.connectomes.wiring import prune
from evonb.core import InputError, Seeds
from evonb.store import folder_size
from evonb.text.tokens import CorpusConfig, open_prepared
from evonb.training.connectome import inherit
from evonb.training.gpt import GPTConfig, ModelConfig, n_parameters, new_gpt
from evonb.training.lifetime import Lifetime, LifetimeConfig, Optimizers, latest_checkpoint, state_bytes
from evonb.training.litter import MOST_SIBLINGS

pytestmark = pytest.mark.numerics

LIFE = LifetimeConfig(
    steps=10, batch_size=8, micro_batch_size=4, context=16, lr=4e-3, warmup=2, eval_every=4, eval_windows=12,
    checkpoint_every=5
)  # fmt: skip
SMALL = GPTConfig(vocab_size=320, n_layer=2, n_head=2, n_embd=32, block_size=16)


def tiny(**kw):
    config = ExperimentConfig(
        preset="tiny",
        corpus=CorpusConfig("toy-english", n_bytes=120_000, vocab_size=320),
        model=ModelConfig(2, 2, 32),
        evolution=EvolutionConfig(n_generations=3, prune_fraction=0.3, lifetime=LIFE),
        development=DevelopmentConfig(DEFAULT_ARMS, 2, (2e-3, 4e-3), test_windows=20, n_bootstrap=100, lifetime=LIFE),
    )
    return replace(config, **kw)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("planned") / "run", tiny(), show=False)


def payload(path):
    "Bytes of a safetensors file's tensors, its header aside."
    with open(path, "rb") as f:
        return path.stat().st_size - 8 - struct.unpack("<Q", f.read(8))[0]


@pytest.mark.parametrize("sizes", [(320, 2, 2, 32, 16), (700, 1, 4, 64, 48), (257, 5, 1, 16, 8)])
def test_the_formula_is_what_torch_counts(sizes):
    vocab, n_layer, n_head, width, context = sizes
    config = GPTConfig(vocab_size=vocab, n_layer=n_layer, n_head=n_head, n_embd=width, block_size=context)
    model, x = new_gpt(config, Seeds(0)), torch.zeros((4, context), dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as there:
        loss = model.loss(x, x)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as back:
        loss.backward()
    forward = x.numel() * token_flops(config, context, training=False)
    assert there.get_total_flops() == forward
    assert there.get_total_flops() + back.get_total_flops() == x.numel() * token_flops(config, context) == 3 * forward


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("wired", [False, True])
def test_memory_between_steps_is_what_the_tensors_hold(optimizer, wired):
    life = replace(LIFE, optimizer=optimizer)
    born, x = planning._newborn(SMALL, life), torch.zeros((2, 16), dtype=torch.long)
    model, wiring = new_gpt(SMALL, Seeds(0)), None
    if wired:
        wiring = prune(model, 0.3)
        inherit(model, wiring)
        born.live = live_weights(matrix_sizes(SMALL)[1], 0.3, 1)[0]
    opt = Optimizers(model, life, wiring)
    model.loss(x, x).backward()
    during = sum(p.grad.nbytes for p in opt.params if p.grad is not None)
    opt.step(1.0)
    expected = held_bytes(born.sizes, born.live, born.muon)
    real = state_bytes(model, opt)
    assert expected["gradients"] == during
    for what in ("weights", "optimizer", "wiring"):
        assert real[what] == expected[what], what
    if optimizer == "adamw":
        assert real == expected


def test_exempt_parts_keep_all_their_moments():
    sizes, wired = matrix_sizes(SMALL, exempt=("embeddings", "head"))
    assert set(sizes) - set(wired) == {"transformer.wte.weight", "lm_head.weight"}
    model = new_gpt(SMALL, Seeds(0))
    wiring = prune(model, 0.5, exempt=("embeddings", "head"))
    opt = Optimizers(inherit(model, wiring), LIFE, wiring)
    model.loss(x := torch.zeros((2, 16), dtype=torch.long), x).backward()
    opt.step(1.0)
    assert (
        held_bytes(sizes, live_weights(wired, 0.5, 1)[0])["optimizer"] == state_bytes(model, opt)["optimizer"]
    )


@pytest.mark.parametrize("scope", ["matrix", "global"])
def test_live_weights_are_those_that_pruning_leaves(scope):
    model, parent, wired = new_gpt(SMALL, Seeds(1)), None, matrix_sizes(SMALL)[1]
    foreseen = live_weights(wired, 0.23, 4, scope)
    for generation in range(4):
        parent = prune(model, 0.23, parent, scope)
        model = inherit(new_gpt(SMALL, Seeds(generation + 2)), parent)
        model.init_weights_(Seeds(9).torch())
        assert round(sum(foreseen[generation].values())) == parent.n_live
        if scope == "matrix":
            assert foreseen[generation] == {n: int((s != 0).sum()) for n, s in parent.signs.items()}


@pytest.mark.parametrize("bf16", [False, True])
def test_activations_are_near_what_autograd_saves(bf16):
    model, context = new_gpt(SMALL, Seeds(0)), 16

    def saved(n_windows):
        seen, kept, x = {}, [], torch.zeros((n_windows, context), dtype=torch.long)

        def pack(t):
            kept.append(t)
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            model.loss(x, x)
        return sum(seen.values())

    body = (saved(14) - saved(7)) / (7 * context) - 4 * SMALL.vocab_size # below the size from which steps are fused
    assert body / (SMALL.n_layer * SMALL.n_embd) == pytest.approx(
        planning.BYTES_KEPT["bf16" if bf16 else "fp32"], rel=0.1
    )
    if not bf16:
        body = (saved(64) - saved(32)) / (32 * context) # without logits
        assert body / (SMALL.n_layer * SMALL.n_embd) == pytest.approx(planning.BYTES_KEPT["cpu"], rel=0.1)
    assert activation_bytes(SMALL, 4096, chunked=True) < activation_bytes(SMALL, 4096)
    assert activation_bytes(SMALL, 64, bf16=True) > 2 * n_parameters(SMALL)


def test_lifetimes_and_tokens_are_those_of_the_run(run):
    p = plan(tiny())
    lived = [e for e in run.events() if e["event"] == "lifetime"]
    assert p.total().lifetimes == len(lived) == 3 + 6 * (2 + 1)
    for arm in DEFAULT_ARMS:
        mine = [e for e in lived if e["folder"].startswith(f"development/{arm}/")]
        assert next(s for s in p.stages if s.name == arm).lifetimes == len(mine)
    assert p.total("evolution").tokens == 3 * 10 * 8 * 16
    assert lifetime_tokens(LIFE) == (10 * 8 * 16, (1 + 3 + 1) * 12 * 16)  # before, at 4, 8 and 10, when stored


def test_validations_are_counted_as_they_happen(monkeypatch):
    looks = []
    real = Lifetime.window_losses
    monkeypatch.setattr(Lifetime, "window_losses", lambda self: looks.append(self.step) or real(self))
    ids = Seeds(0).numpy().integers(0, 320, 400).astype("uint16")
    for steps, every in ((10, 4), (8, 4), (3, 5)):
        looks.clear()
        life = replace(LIFE, steps=steps, eval_every=every)
        Lifetime(new_gpt(SMALL, Seeds(0)), ids, ids, life, Seeds(0)).live(show=False).window_losses()
        assert len(looks) * life.eval_windows * life.context == lifetime_tokens(life)[1]


def test_files_are_those_of_the_run(run):
    p = plan(tiny(), corpus=open_prepared(run.file("corpus")))
    for g in range(3):
        folder, row = run.file("evolution", f"gen-{g:02d}"), p.stages[1 + g]
        assert row.disk == payload(folder / "model" / "model.safetensors") + payload(folder / "connectome.safetensors")
    for arm in DEFAULT_ARMS:
        files = [
            f
            for name in ("model.safetensors", "connectome.safetensors")
            for f in run.file("development", arm).rglob(name)
        ]
        assert next(s for s in p.stages if s.name == arm).disk == sum(map(payload, files)), arm
    shards = list(run.file("corpus").glob("*.bin"))
    assert p.stages[0].disk == sum(f.stat().st_size - 1024 for f in shards)


def test_a_checkpoint_is_as_large_as_foreseen(tmp_path):
    model = new_gpt(SMALL, Seeds(0))
    wiring = prune(model, 0.4)
    ids = Seeds(0).numpy().integers(0, 320, 900).astype("uint16")
    life = Lifetime(inherit(model, wiring), ids, ids, LIFE, Seeds(0), wiring, tmp_path).live(show=False)
    sizes, wired = matrix_sizes(SMALL)
    curves = 8 * (len(life.train_loss) + 2 * len(life.val_loss) + sum(map(len, life.flips)))
    assert payload(latest_checkpoint(tmp_path)) - curves == checkpoint_bytes(sizes, live_weights(wired, 0.4, 1)[0])


def test_a_given_connectome_replaces_evolution(run):
    given = str(run.file("evolution", "gen-02", "connectome.safetensors"))
    whole, p = plan(tiny()), plan(tiny(connectome=given))
    assert not [s for s in p.stages if s.part == "evolution"]
    for arm in DEFAULT_ARMS:
        mine, theirs = (next(s for s in x.stages if s.name == arm) for x in (p, whole))
        assert mine == theirs


def test_time_is_operations_over_speed():
    slow, config = Device("slow", measured=2e9, bf16=False), tiny()
    p = plan(config, 4, slow)
    for s in p.stages:
        if s.flops:
            assert s.seconds == pytest.approx(s.flops / 8e9)
    gpt = GPTConfig(vocab_size=320, n_layer=2, n_head=2, n_embd=32, block_size=16)
    read, looked = lifetime_tokens(LIFE)
    by_hand = read * token_flops(gpt, 16) + looked * token_flops(gpt, 16, training=False)
    assert p.stages[1].flops == by_hand
    assert p.device_hours == pytest.approx(plan(config, 1, slow).device_hours)
    assert p.cost(2.5) == pytest.approx(2.5 * p.device_hours)
    assert plan(config, 1, 2e9).total().seconds == pytest.approx(4 * p.total().seconds)
    assert plan(config, device="L4").stages[1].seconds == pytest.approx(by_hand / (0.35 * 121e12))


def test_the_paper_size_is_the_papers():
    p = plan(preset("paper"))
    gpt = planning._gpt_config(preset("paper"), preset("paper").evolution.lifetime)
    assert planning.multiplied_weights(gpt) == 12 * 12 * 768**2 + 50_304 * 768  # 124M, untied from the embedding
    assert sum(s.part == "evolution" for s in p.stages) == 11
    assert p.stages[1].tokens == 7001 * 512 * 1024  # 3.67 billion a generation
    assert not p.problems() and p.total().state > 16 * n_parameters(gpt)


def test_what_will_not_fit_is_said_with_what_would():
    config = preset("paper")
    config.evolution.lifetime.micro_batch_size = 128
    said = plan(config, device="A10").problems()
    assert len(said) == 1 and "generation 0" in said[0] and "micro_batch_size to 16" in said[0]
    config.evolution.lifetime.micro_batch_size = 16
    assert not plan(config, device="A10").problems()
    nothing = plan(config, device=Device("toy", measured=1e12, memory=1e9)).problems()
    assert all("Take a larger device" in s for s in nothing) and len(nothing) == 2
    assert not plan(config, device=1e12).problems()  # a memory that isn't known is no problem that is known
    assert "can't share a batch" in plan(tiny(), 9, 1e12).problems()[-1]


def test_a_plan_is_shown_as_text_table_and_figure():
    p = plan(tiny(preset="<b>mine</b>"), 2, Device("<script>", measured=1e9, memory=1e9))
    page = p._repr_html_()
    assert "<script>" not in page and "<b>mine" not in page and "&lt;script&gt;" in page
    assert "evolution" in repr(p) and "measured" in repr(p) and "2 devices" in repr(p)
    frame = p.table()
    assert list(frame.index)[-1] == "all" and frame.loc["all", "tokens"] == frame.tokens[:-1].sum()
    assert len(p.table(detail=False)) == 6
    for by in ("time", "memory", "disk", "flops"):
        fig = plan_figure(p, by)
        assert fig.layout.xaxis.title.text and "<script>" not in fig.layout.title.text
        assert fig.layout.modebar.remove == ("sendChartToCloud",)  # what a plan says stays here, too
    x = sum(plan_figure(p, "time").data[0].x)
    assert x == pytest.approx(p.total().seconds / 3600)
    json.dumps(plan_figure(p, "memory").to_plotly_json()["layout"], default=str)


def test_a_measurement_says_what_it_measured():
    here = measure(tiny(), seconds=0.05, device="cpu", besides=False)
    assert here.measured > 0 and here.cpu and not here.bf16 and "training steps" in here.note
    assert "instead of" not in here.note or "windows" in here.note
    assert "measured" in plan(tiny(), device=here).notes[0]


def test_a_model_too_large_is_made_narrower_and_said(monkeypatch):
    monkeypatch.setattr(planning, "_best_speed", lambda device: 1e8)
    here = measure(tiny(), seconds=0.5, device="cpu", besides=False)  # at most 4e6 operations a step
    assert "instead of" in here.note
    assert here.measured > 0
    less, windows = shrink_to_fit(GPTConfig(), 16, 1e11, 1e12)
    assert windows == 1 and less.block_size < 1024 and (less.n_layer, less.n_embd) == (12, 768)
    small, windows = shrink_to_fit(GPTConfig(), 16, 1e18, 1.5e9)
    assert windows == 1 and small.n_embd == 768 and small.n_layer < 12
    with pytest.raises(InputError, match="Not even the smallest"):
        shrink_to_fit(GPTConfig(), 1, 10, 1e12)


def test_long_times_are_told_in_days_and_years():
    assert [duration(t) for t in (5.0, 3600, 170_000, 172_800, 86400 * 731)] == [
        "5.0 s", "1 h 00 min", "47 h 13 min", "2 days", "2 years"]  # fmt: skip


def test_nothing_is_left_of_a_measurement():
    state = torch.get_rng_state()
    measure(tiny(), seconds=0.01, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: plan("paper"), "must be an ExperimentConfig"),
        (lambda: plan(tiny(), 0), "devices is 0"),
        (lambda: plan(tiny(), 1.5), "devices is 1.5"),
        (lambda: plan(tiny(), device="H1000"), "must be one of: A10"),
        (lambda: plan(tiny(), device=None), "must be a Device"),
        (lambda: plan(tiny(), device=-3.0), "must be a number above 0"),
        (lambda: plan(tiny(), device=Device("x")), "neither a peak nor a measured speed"),
        (lambda: plan(tiny(), device=replace(DEVICES["L4"], utilisation=1.5)), "utilisation is 1.5"),
        (lambda: plan(tiny(evolution=EvolutionConfig(n_generations=0))), "n_generations is 0"),
        (lambda: plan(tiny()).cost("3"), "price is '3'"),
        (lambda: plan(tiny()).cost(math.nan), "price is nan"),
        (lambda: plan(tiny()).total("lunch"), "part is 'lunch'"),
        (lambda: plan_figure(plan(tiny()), "money"), "by is 'money'"),
        (lambda: measure(tiny(), seconds=0), "seconds is 0"),
        (lambda: measure(tiny(), device="abacus"), "Try cpu"),
    ],
)
def test_bad_input_is_refused_by_name(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_a_connectome_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plan(tiny(connectome="nowhere/connectome.safetensors"))


def test_repeated_reading_is_noted(run):
    corpus = open_prepared(run.file("corpus"))
    often = tiny()
    often.evolution.lifetime = replace(LIFE, steps=4000)
    notes = " ".join(plan(often, device=1e9, corpus=corpus).notes)
    assert "reads the evolution text" in notes
    occur = len(set().union(*(set(t.ids.tolist()) for t in corpus.splits.values())))
    assert f"{occur} of 320 tokens occur in the corpus" in notes and "random_rows" in notes
    small = replace(tiny(), model=ModelConfig(1, 2, 4), corpus=replace(tiny().corpus, vocab_size=2000))
    assert "No dense model of 2000 tokens" in " ".join(plan(small, device=1e9).notes)
    assert "should have" in " ".join(plan(often, device=1e9).notes)
    on_gpu, muon = plan(preset("demo"), device="A100-80GB"), preset("demo")
    muon.development.lifetime.optimizer = "muon"
    assert any(n.startswith(f"Up to {MOST_SIBLINGS} newborns learn in one batched step") for n in on_gpu.notes)
    for alone in (plan(muon, device="A100-80GB"), plan(preset("paper"), device="A100-80GB"), plan(often, device=1e9)):
        assert "batched" not in " ".join(alone.notes)


def bench():
    "The module that `make bench` measures plans with."
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "bench"))
    try:
        import planning_check
    finally:
        sys.path.pop(0)
    return planning_check


@pytest.mark.parametrize("name", ["tiny", "demo", "wide"])
def test_operations_of_a_lifetime_are_exactly_those_that_torch_counts(name):
    foreseen, counted = bench().operations(name)
    assert foreseen == counted > 1e7


def test_the_folder_of_a_finished_run_is_as_large_as_foreseen(run):
    p = plan(tiny(), corpus=open_prepared(run.file("corpus")))
    assert p.kept == pytest.approx(folder_size(run.path), rel=0.1)
    assert p.total().disk == p.kept + p.total("checkpoints").disk


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is read from /proc")
@pytest.mark.parametrize("name, wired", [("demo", False), ("wide", True)])
def test_the_peak_of_memory_is_within_a_quarter(name, wired):
    foreseen, grown = bench().memory(name, wired)
    assert 0.75 < foreseen / grown < 1.25


COSTS = planning.Costs(1e9, 5e8, 2e9, 1e-8, 2e-8, 1e-9, 0.5, 1.5, 2.0, 1e-6, n_parameters(SMALL))


def test_measured_costs_are_added_up_as_they_come():
    here = Device("here", measured=1e9, bf16=False, cpu=True, costs=COSTS)
    one, two = plan(tiny(), 1, here), plan(tiny(), 2, here)
    read, looked = lifetime_tokens(LIFE)
    sizes, wired = matrix_sizes(SMALL)
    live = live_weights(wired, 0.3, 3)
    passes, looks = read * token_flops(SMALL, 16), looked * token_flops(SMALL, 16, training=False) / 2e9
    first = passes / 1e9 + looks + 10 * sum(sizes.values()) * 1e-8 + checkpoint_bytes(sizes) * 1e-9 + 0.5 + 1.5
    assert one.stages[1].seconds == pytest.approx(first)
    second = passes / 5e8 + looks + 10 * sum(live[0].values()) * 2e-8 + checkpoint_bytes(sizes, live[0]) * 1e-9 + 2.0
    assert one.stages[2].seconds == pytest.approx(second)
    assert one.stages[1].seconds - two.stages[1].seconds == pytest.approx((passes / 1e9 + looks) / 2)
    assert one.stages[0].seconds == pytest.approx(120_000 * 1e-6)
    assert "isn't counted" not in " ".join(one.notes)


def test_a_measurement_times_what_comes_with_training():
    costs = measure(tiny(), seconds=0.05, device="cpu").costs
    assert costs.weights == n_parameters(SMALL) and min(costs.dense, costs.wired, costs.evaluating) > 0
    assert min(costs.dense_update, costs.wired_update, costs.saving, costs.text) > 0
    assert measure(tiny(), seconds=0.05, device="cpu", besides=False).costs is None


def test_the_command_prints_a_plan_and_says_what_will_not_fit(capsys, tmp_path):
    page = tmp_path / "plan.html"
    words = ["plan", "--preset", "paper", "--devices", "8", "--device", "L4", "--price", "2", "--html", str(page)]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "generation 0 to 10, each" in out and "Everything fits." in out and "Cost at 2 a device-hour" in out
    assert page.read_text().count("<tr>") == 1 + len(plan(preset("paper")).stages) + 1
    assert cli.main([*words[:7], "--set", "evolution.lifetime.micro_batch_size=128"]) == 0
    told = capsys.readouterr().out.strip().splitlines()
    assert any(line.startswith("Won't fit: generation 0 needs about") for line in told)
    assert cli.main([*words[:7], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stages"]["all"]["tokens"] == plan(preset("paper")).total().tokens and told["problems"] == []
    assert cli.main(["plan", "--device", "H1000"]) == 2 and "A100-80GB" in capsys.readouterr().err


def test_the_command_takes_what_a_run_takes(capsys):
    words = ["plan", "--preset", "demo", "--device", "A100-80GB", "--json"]
    assert cli.main([*words, "--evolutions", "2", "--seeds", "4", "--arms", "connectome,random", "--lrs", "0.01"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert stages["connectome"]["lifetimes"] == stages["random"]["lifetimes"] == 2 * 4 and "dense" not in stages
    assert stages["1 more evolution"]["lifetimes"] == 4
    assert cli.main([*words, "--arms", "nonsense"]) == 2 and "nonsense" in capsys.readouterr().err


def test_the_command_measures_this_machine(capsys, monkeypatch):
    monkeypatch.setattr(planning, "measure", lambda config, seconds, device: Device("here", measured=1e9, costs=COSTS))
    assert cli.main(["plan", "--preset", "demo", "--seconds", "0.1"]) == 0
    told = capsys.readouterr()
    assert "measuring this machine" in told.err and "1 x here" in told.out and "isn't known" in told.out
