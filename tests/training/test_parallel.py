"""Several processes live one lifetime: the same losses as one, the same run folder, and no process hangs."""

import functools
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import _muon as muon

from evonb import cli
from evonb.connectomes import generations
from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.core import EvonbError, InputError, Seeds, Stopped, StopRequest
from evonb.store import open_run, read_dataset, read_json
from evonb.text.tokens import CorpusConfig
from evonb.training import lifetime as training
from evonb.training import parallel
from evonb.training.connectome import Connectome
from evonb.training.gpt import GPTConfig, ModelConfig, new_gpt
from evonb.training.lifetime import Compute, Lifetime, LifetimeConfig, Windows, latest_checkpoint
from evonb.training.parallel import World, buckets, share

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("one_thread")]
LIFE = LifetimeConfig(steps=8, batch_size=7, micro_batch_size=None, context=16, lr=4e-3, warmup=2, eval_every=4,
                      eval_windows=9, checkpoint_every=3)
CONFIG = ExperimentConfig(
    "tiny", seed=1, corpus=CorpusConfig("toy-english", n_bytes=60_000, vocab_size=300), model=ModelConfig(2, 2, 16),
    evolution=EvolutionConfig(n_generations=2, prune_fraction=.3, lifetime=LIFE),
    development=DevelopmentConfig(("connectome",), 1, (2e-3, 4e-3), lifetime=LIFE))
PATIENCE = 60  # seconds until a group counts as hanging


# Dealing, without a group -----------------------------------------------------------------------------------------

@given(n=st.integers(0, 60), size=st.integers(1, 5))
def test_rows_are_dealt_once_each_and_evenly(n, size):
    shares = [list(range(n))[share(n, rank, size)] for rank in range(size)]
    assert sum(shares, []) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(max_examples=20)
@given(size=st.integers(1, 5), batch=st.integers(5, 11))
def test_processes_read_disjoint_windows_and_together_the_whole_batch(size, batch):
    windows = Windows(np.arange(2000), 10, batch, Seeds(0))
    seen = []
    for step in range(windows.n_windows // batch):
        parts = [windows.batch(step, World(rank, size).rows(batch)) for rank in range(size)]
        for whole, *dealt in zip(windows.batch(step), *parts):
            assert torch.equal(torch.cat(dealt), whole)
        seen += [x for x, _ in parts]
    seen = torch.cat(seen)
    assert seen.unique().numel() == seen.numel()  # over an epoch no token is read twice, by whomever


@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 60))
def test_buckets_keep_every_tensor_in_order_and_bound_what_travels_together(sizes, limit):
    tensors = [torch.empty(n) for n in sizes]
    made = buckets(tensors, limit)
    assert [id(t) for b in made for t in b] == [id(t) for t in tensors]
    assert all(len(b) == 1 or sum(4 * t.numel() for t in b) <= limit for b in made)


def test_without_a_launcher_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert parallel.world() == World() and parallel.launched() == (0, 1)
    tensor = torch.arange(3.)
    World().add_up([tensor])
    assert tensor.tolist() == [0, 1, 2]


def test_accelerate_without_mpi_is_told_to_take_another_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(InputError, match="torchrun --nproc-per-node N"):
        parallel.world()


def test_commands_for_one_process_refuse_a_group(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["show", "somewhere"]) == 2
    assert "works in one process, but 2 were launched" in capsys.readouterr().err


def test_a_device_of_ones_own_choice_is_refused_in_a_group():
    with pytest.raises(InputError, match="takes the GPU of its own number"):
        parallel._kind("cuda:1")


# How it is computed -----------------------------------------------------------------------------------------------

def lived(compute, tmp_path, name):
    model = new_gpt(GPTConfig(vocab_size=50, n_layer=2, n_head=2, n_embd=16, block_size=8), Seeds(0))
    ids = Seeds(1).numpy().integers(0, 50, 3000)
    config = replace(LIFE, batch_size=8, micro_batch_size=4, context=8, steps=4, eval_every=2)
    return Lifetime(model, ids, ids[:500], config, Seeds(2), folder=tmp_path / name, compute=compute).live(show=False)


def assert_same_life(a, b):
    assert np.allclose(a.train_loss, b.train_loss, rtol=0, atol=1e-5)
    assert np.allclose(a.val_loss, b.val_loss, rtol=0, atol=1e-5)
    assert list(a.model.state_dict()) == list(b.model.state_dict())
    assert all(torch.allclose(t, b.model.state_dict()[n], atol=1e-5) for n, t in a.model.state_dict().items())


def test_gradient_checkpointing_changes_no_result_and_computes_blocks_again(tmp_path, monkeypatch):
    from evonb.training.gpt import MLP

    calls, forward = [], MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda *args, **kw: calls.append(1) or forward(*args, **kw))
    plain = lived(Compute(), tmp_path, "plain")
    n_plain = len(calls)
    again = lived(Compute(gradient_checkpointing=True), tmp_path, "again")
    assert_same_life(plain, again)
    n_training = 4 * 2 * 2  # steps x micro-batches x blocks, once more each
    assert len(calls) - n_plain == n_plain + n_training


def test_compiling_changes_no_result_and_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(training.torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    assert_same_life(lived(Compute(), tmp_path, "plain"), lived(Compute(compile=True), tmp_path, "compiled"))


@pytest.mark.faults
def test_inductor_changes_no_result(tmp_path):
    try:
        Compute(compile=True).check()
    except InputError as e:
        pytest.skip(str(e))
    compute = Compute(compile=True, gradient_checkpointing=True)
    assert_same_life(lived(Compute(), tmp_path, "plain"), lived(compute, tmp_path, "compiled"))


def test_a_missing_compiler_is_named_before_anything_is_written(tmp_path, monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(InputError, match="torch.compile doesn't work here on cpu.*C\\+\\+ compiler"):
        experiment(tmp_path / "run", CONFIG, show=False, device="cpu", compute=Compute(compile=True))
    assert not (tmp_path / "run").exists()


# Real groups of processes -----------------------------------------------------------------------------------------

def run_one(rank, work, said, environment, args):
    "A process of a group, as a launcher starts it."
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        code = work(rank, *args)
    except Stopped as e:
        print(e, flush=True)
        code = 130
    except EvonbError as e:
        print(f"{type(e).__name__}: {e}", flush=True)
        code = 2
    sys.exit(code)


class Group:
    "Processes that work together; what each printed stands in a file."
    def __init__(self, folder, size, work, *args):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["evonb.connectomes.generations", "accelerate", "xarray", "zarr", "scipy.stats",
                                        "transformers.tokenization_utils_tokenizers", __name__])
        self.files = [Path(folder) / f"said-{rank}.txt" for rank in range(size)]
        shared = dict(WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
        self.processes = []
        for rank, file in enumerate(self.files):
            env = shared | dict(RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size))
            self.processes.append(context.Process(target=run_one, args=(rank, work, str(file), env, args)))
            self.processes[-1].start()

    def wait(self):
        "The exit codes; a group that hangs is ended and fails the test."
        until = time.monotonic() + PATIENCE
        for p in self.processes:
            p.join(max(0, until - time.monotonic()))
        hung = [p for p in self.processes if p.is_alive()]
        for p in hung:
            p.kill()
            p.join()
        said = [f.read_text() if f.exists() else "" for f in self.files]
        assert not hung, said
        return [p.exitcode for p in self.processes], said


def at_step(n, act):
    "Do something in this process when the n-th step of all is over."
    done, one_step = [], Lifetime.one_step

    def stepping(self):
        one_step(self)
        done.append(1)
        if len(done) == n:
            act()
    Lifetime.one_step = stepping


def evolving(rank, out, resume=False, who=None, step=None, signal_number=None, **kw):
    if who == rank:
        at_step(step, lambda: os.kill(os.getpid(), signal_number))
    run = experiment(out, kw.pop("config", CONFIG), resume, ("evolve",), show=rank == 0, device="cpu", **kw)
    return 0 if run.path == Path(out) else 1


def evolution(out):
    "Losses of a run's generations and the signs that they left."
    run = open_run(out)
    ds = read_dataset(run.file("evolution.zarr.zip"))
    wirings = [Connectome.load(generations.generation_folder(run, g) / "connectome.safetensors") for g in (0, 1)]
    return ds, wirings


def assert_same_evolution(a, b):
    (x, wx), (y, wy) = evolution(a), evolution(b)
    for name in ("train_loss", "val_loss"):
        assert x[name].shape[0] == 2 and np.abs(x[name] - y[name]).max() < 1e-4, name
    for c, d in zip(wx, wy):
        assert all(torch.equal(c.signs[n], d.signs[n]) for n in c.signs)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "What one process makes of it."
    return experiment(tmp_path_factory.mktemp("alone") / "run", CONFIG, show=False, device="cpu").path


def test_three_processes_with_unequal_shares_are_one(tmp_path, alone):
    codes, said = Group(tmp_path, 3, evolving, tmp_path / "run").wait()
    assert codes == [0, 0, 0], said
    assert_same_evolution(alone, tmp_path / "run")
    assert "generation 1: validation loss" in said[0] and said[1:] == ["", ""]
    assert [e["processes"] for e in open_run(tmp_path / "run").events() if e["event"] == "lifetime"] == [3, 3]


def stopped_at(path):
    return open_run(path).state()["status"], int(latest_checkpoint(path / "evolution" / "gen-01").stem[-8:])


@pytest.mark.filterwarnings("ignore:Resuming under other conditions")
def test_a_signal_to_any_process_stops_all_after_the_same_step_and_one_goes_on(tmp_path, alone):
    run = tmp_path / "run"
    codes, said = Group(tmp_path, 2, functools.partial(evolving, who=1, step=8 + 5, signal_number=signal.SIGTERM), run
                        ).wait()
    assert codes == [130, 130] and "Stopped by a signal to another process after step" in said[0], said
    assert stopped_at(run) == ("stopped", 6)  # the flag of the follower's sixth step
    experiment(run, CONFIG, True, ("evolve",), show=False, device="cpu")
    assert_same_evolution(alone, run)


def test_what_one_began_two_go_on_with_and_the_leaders_signal_counts_as_well(tmp_path, alone, monkeypatch):
    run, request, one_step = tmp_path / "run", StopRequest(), Lifetime.one_step

    def stepping(self):
        one_step(self)
        if self.step == 5:
            request.set("the test")
    monkeypatch.setattr(Lifetime, "one_step", stepping)
    with pytest.raises(Stopped):
        experiment(run, CONFIG, False, ("evolve",), show=False, device="cpu", stop=request)
    half = functools.partial(evolving, resume=True)
    interrupted = functools.partial(half, who=0, step=3 + 4, signal_number=signal.SIGINT)
    codes, said = Group(tmp_path, 2, interrupted, run).wait()
    assert codes == [130, 130] and "Stopped by SIGINT" in said[0] and stopped_at(run) == ("stopped", 5), said
    codes, said = Group(tmp_path, 2, half, run).wait()
    assert codes == [0, 0], said
    assert_same_evolution(alone, run)


@pytest.mark.filterwarnings("ignore:Resuming under other conditions")
@pytest.mark.parametrize("who", [0, 1])
def test_a_killed_process_ends_the_others_with_an_error_and_the_run_goes_on(tmp_path, alone, who):
    run = tmp_path / "run"
    codes, said = Group(tmp_path, 2, functools.partial(evolving, who=who, step=8 + 5, signal_number=signal.SIGKILL), run
                        ).wait()
    assert codes[who] == -signal.SIGKILL and codes[1 - who] == 2, said
    assert f"Process {1 - who} on" in said[1 - who] and "lost another one" in said[1 - who]
    assert latest_checkpoint(run / "evolution" / "gen-01").stem[-8:] == "00000003"
    experiment(run, CONFIG, True, ("evolve",), show=False, device="cpu")
    assert_same_evolution(alone, run)


def test_when_the_leader_cannot_begin_the_others_go_home(tmp_path, alone):
    codes, said = Group(tmp_path, 2, evolving, alone).wait()  # there is a run already, and no resume
    assert codes == [2, 2], said
    assert "RunExistsError" in said[0] and said[1] == "ProcessLostError: Process 0 failed; its own message says why.\n"


def test_more_processes_than_rows_are_refused_before_anything_is_written(tmp_path):
    few = replace(CONFIG, evolution=replace(CONFIG.evolution, lifetime=replace(LIFE, batch_size=1)))
    codes, said = Group(tmp_path, 2, functools.partial(evolving, config=few), tmp_path / "run").wait()
    assert codes == [2, 2] and "2 processes are to share it" in said[0]
    assert not (tmp_path / "run").exists()


def diverging(step, config, factor=training.lr_factor):
    return 1e30 if config.lr == 2e-3 else factor(step, config)


def orthogonalised(gradient, coefficients, n_steps, eps):
    """Muon's Newton-Schulz iteration as torch writes it, but in float32.

    In bf16, as Muon does it, one more rounding is 2^-8 of a value and grows up to 3.4-fold in each of five iterations:
    what two ways of adding up a gradient then differ by says nothing about them, and is another on each processor.
    """
    a, b, c = coefficients
    x = gradient.T if gradient.shape[0] > gradient.shape[1] else gradient.clone()
    x = x / x.norm().clamp(min=eps)
    for _ in range(n_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if gradient.shape[0] > gradient.shape[1] else x


def developing(rank, out):
    "A rate that diverges on every process, then one that doesn't; Muon's whole matrices are added up as well."
    training.lr_factor, muon._zeropower_via_newtonschulz = diverging, orthogonalised
    config = replace(CONFIG, connectome=None)
    config.development = replace(config.development, lifetime=replace(LIFE, optimizer="muon", grad_clip=0.0))
    experiment(out, config, True, show=False, device="cpu", compute=Compute(gradient_checkpointing=True))
    return 0


def test_a_newborn_that_fails_fails_for_all_and_the_next_one_is_raised(tmp_path, monkeypatch):
    def results(out):
        ds = read_dataset(open_run(out).file("development.zarr.zip"))
        return ds.train_loss.values, ds.final_test_loss.values, ds.chosen_lr.values.tolist()

    codes, said = Group(tmp_path, 2, developing, tmp_path / "two").wait()
    assert codes == [0, 0], said
    monkeypatch.setattr(training, "lr_factor", diverging)
    monkeypatch.setattr(muon, "_zeropower_via_newtonschulz", orthogonalised)
    assert developing(0, tmp_path / "one") == 0
    (a, b, lr), (c, d, _) = results(tmp_path / "two"), results(tmp_path / "one")
    assert lr == [4e-3] and np.abs(a - c).max() < 1e-5 and np.abs(b - d).max() < 1e-5
    failed = list((tmp_path / "two").rglob("failed.json"))
    assert len(failed) == 1 and "The training loss is" in read_json(failed[0])["reason"]


def being_slow(rank, out):
    parallel.STEP_WAIT = parallel.timedelta(seconds=3)
    if rank:
        at_step(2, lambda: time.sleep(8))
    return evolving(rank, out)


@pytest.mark.faults
def test_a_process_that_answers_no_more_counts_as_lost(tmp_path):
    codes, said = Group(tmp_path, 2, being_slow, tmp_path / "run").wait()
    assert codes[0] == 2 and "lost another one" in said[0]


def test_the_command_under_accelerate(tmp_path, alone):
    changes = {"corpus.n_bytes": 60_000, "corpus.vocab_size": 300, "model.n_layer": 2, "model.n_head": 2,
               "model.n_embd": 16, "evolution.n_generations": 2, "evolution.n_evolutions": 1,
               "evolution.prune_fraction": .3}
    life = {k: getattr(LIFE, k) for k in ("steps", "batch_size", "context", "lr", "warmup", "eval_every",
                                          "eval_windows", "checkpoint_every")}
    changes |= {f"{part}.lifetime.{k}": v for part in ("evolution", "development") for k, v in life.items()}
    bin = Path(sys.executable).parent
    launch = [bin / "accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0",
              "--no_python", bin / "evonb", "evolve", "--device", "cpu", "--preset", "demo", "--seed", "1",
              "--gradient-checkpointing", "--out", tmp_path / "run", *(f"--set={k}={v}" for k, v in changes.items())]
    if not all(shutil.which(x) for x in (launch[0], launch[8])):
        pytest.skip("evonb and accelerate aren't installed as commands beside this Python")
    done = subprocess.run(list(map(str, launch)), capture_output=True, text=True, timeout=PATIENCE * 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("left density") == 1 and done.stderr.count("evonb: working in") == 1
    assert_same_evolution(alone, tmp_path / "run")
