"""Plans against the runs they foresee, at three sizes: time, tokens, operations, disk and peak memory, as ratios.

Each row is a function of the number of pairs that returns a dict, as the rows of run.py do; its ratio is foreseen over
measured. Time is measured next to its calibration, in turn, because the machine is shared; the rest doesn't vary.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import evonb.training.gpt
from evonb.connectomes import planning
from evonb.connectomes.experiments import experiment
from evonb.connectomes.planning import ALLOCATOR, Device, _gpt_config, measure, plan
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.connectomes.wiring import prune
from evonb.core import Seeds
from evonb.store import folder_size
from evonb.text.tokens import CorpusConfig, open_prepared
from evonb.training.connectome import Connectome, inherit
from evonb.training.gpt import ModelConfig, new_gpt
from evonb.training.lifetime import Lifetime, LifetimeConfig


def _config(name, vocab, model, life, arms, generations, n_bytes):
    return ExperimentConfig(
        name, corpus=CorpusConfig("toy-english", n_bytes, vocab), model=ModelConfig(*model),
        evolution=EvolutionConfig(generations, 0.293, lifetime=life),
        development=DevelopmentConfig(arms, 2, (2e-3, 4e-3), test_windows=128, n_bootstrap=500, lifetime=life),
    )  # fmt: skip


def _life(steps, batch, micro, context):
    return LifetimeConfig(steps=steps, batch_size=batch, micro_batch_size=micro, context=context, lr=2e-3, warmup=4,
                          eval_every=20, eval_windows=64, checkpoint_every=40)  # fmt: skip


TWO = ("connectome", "random")
SIZES = dict(
    tiny=_config("tiny", 320, (2, 2, 32), _life(40, 8, 4, 16), TWO, 3, 120_000),
    demo=_config("demo", 512, (3, 4, 64), _life(80, 32, None, 48), (*TWO, "dense"), 3, 400_000),
    wide=_config("wide", 2048, (4, 4, 256), _life(20, 16, 8, 64), TWO, 2, 1_500_000),
)


def time_and_disk(name, clock=time.perf_counter):
    "A calibration, the plan that follows from it, and the run: seconds and bytes, foreseen and measured."
    config = SIZES[name]
    with patch.object(planning, "_clock", clock):
        here = measure(config, 3, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        began = clock()
        run = experiment(f"{folder}/run", config, show=False, device="cpu")
        took = clock() - began
        foreseen = plan(config, device=here, corpus=open_prepared(run.file("corpus")))
        lived = [e for e in run.events() if e["event"] == "lifetime"]
        assert len(lived) == foreseen.total().lifetimes
        return foreseen.total().seconds, took, foreseen.kept, folder_size(run.path)


def plain_head():
    "No fused head and no fused norms, which torch's counter doesn't know either."
    stack = ExitStack()
    for name in ("_pieces_pay", "fused_pays"):
        stack.enter_context(patch.object(evonb.training.gpt, name, lambda *args: False))
    return stack


def operations(name):
    "Operations of a newborn's lifetime as torch counts them, and as foreseen."
    config = SIZES[name]
    life = replace(config.evolution.lifetime, steps=4, eval_every=2, warmup=0)
    short = replace(config, evolution=replace(config.evolution, lifetime=life))
    foreseen, gpt = plan(short, device=1e9).stages[1], _gpt_config(short, life)
    ids = np.random.default_rng(0).integers(0, gpt.vocab_size, 5000).astype(np.uint16)
    plain = torch.backends.mkldnn.flags(enabled=False)  # torch's counter doesn't know oneDNN's products
    with plain, plain_head(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        lifetime = Lifetime(new_gpt(gpt, Seeds(0)), ids, ids, life, Seeds(0)).live(show=False)
        lifetime.window_losses()
    return foreseen.flops, counted.get_total_flops()


CHILD = """
import json, sys
sys.path[:0] = json.loads(sys.argv[3])
import planning_check
print(json.dumps(planning_check.grown(sys.argv[1], sys.argv[2])))
"""


def _kb(key):
    with open("/proc/self/status") as f:
        return int(next(x for x in f if x.startswith(key)).split()[1]) * 1024


def grown(name, wiring):
    "By how many bytes the peak of this process grows in a lifetime; `wiring` is a file of it, or empty."
    life = replace(SIZES[name].evolution.lifetime, steps=6, eval_every=3, warmup=0, checkpoint_every=3)
    gpt = _gpt_config(SIZES[name], life)
    ids = np.random.default_rng(0).integers(0, gpt.vocab_size, 50_000).astype(np.uint16)
    wired = Connectome.load(wiring) if wiring else None
    small = new_gpt(type(gpt)(vocab_size=260, n_layer=1, n_head=1, n_embd=8, block_size=8), Seeds(0))
    one = replace(life, steps=1, batch_size=2, micro_batch_size=None, context=8, eval_windows=2)
    with tempfile.TemporaryDirectory() as folder:
        Lifetime(small, ids % 260, ids % 260, one, Seeds(0), folder=folder).live(show=False)  # libraries are loaded
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak begins anew
    before = _kb("VmRSS")
    model = new_gpt(gpt, Seeds(1))
    if wired:
        inherit(model, wired)
    with tempfile.TemporaryDirectory() as folder:
        Lifetime(model, ids, ids, life, Seeds(0), wired, folder).live(show=False)
    return _kb("VmHWM") - before


LARGER = dict(
    demo=SIZES["demo"], wide=SIZES["wide"],
    batch=_config("batch", 2048, (4, 4, 128), _life(6, 64, None, 64), TWO, 4, 400_000),
    vocabulary=_config("vocabulary", 16_384, (4, 4, 256), _life(6, 16, None, 128), TWO, 4, 400_000),
)  # fmt: skip
SIZES.update(batch=LARGER["batch"], vocabulary=LARGER["vocabulary"])


def memory(name, wired=False):
    "Bytes foreseen for a lifetime, and by how many the peak of a process grew that lived one."
    config = SIZES[name]
    rows = plan(config, device=Device("cpu", measured=1e9, bf16=False, cpu=True)).stages
    with tempfile.TemporaryDirectory() as folder:
        file = ""
        if wired:
            file = f"{folder}/connectome.safetensors"
            prune(new_gpt(_gpt_config(config, config.evolution.lifetime), Seeds(0)), 0.293).save(file)
        here = os.path.dirname(os.path.abspath(__file__))
        env = os.environ | dict(OMP_NUM_THREADS=str(torch.get_num_threads()))
        told = [sys.executable, "-c", CHILD, name, file, json.dumps([here])]
        out = subprocess.run(told, capture_output=True, text=True, env=env)
        if out.returncode:
            raise RuntimeError(out.stderr)
    return rows[2 if wired else 1].memory, json.loads(out.stdout.splitlines()[-1])


def _row(pairs, **more):
    low, mid, high = np.quantile([a / b for a, b in pairs], [0.25, 0.5, 0.75])
    first, second = np.median(pairs, 0)
    return dict(ratio=mid, low=low, high=high, first_s=first, second_s=second, aim="0.75 to 1.25", **more)


def _of_time(name):
    def row(pairs, n=0):
        clocks = ((time.perf_counter, 5), (time.process_time, 3))
        wall, cpu = ([time_and_disk(name, c) for _ in range(n)] for c, n in clocks)
        found, cpu = np.array(wall), np.array(cpu)
        rest = dict(disk=found[:, 2] / found[:, 3], cpu=cpu[:, 0] / cpu[:, 1])
        return _row(found[:, :2], **{k: float(np.median(v)) for k, v in rest.items()})

    row.__doc__ = f"Total time of a whole run of the {name} size: foreseen after a calibration, over measured."
    return row


def _of_memory(name):
    def row(pairs, n=0):
        dense, wired = (memory(name, w) for w in (False, True))
        return dict(ratio=dense[0] / dense[1], wired=wired[0] / wired[1], bytes=dense[1], aim="0.75 to 1.25")

    row.__doc__ = f"Peak memory of a lifetime at the {name} size, in a process of its own: foreseen over measured."
    return row


def _of_operations(pairs, n=0):
    "Operations of a lifetime, foreseen over what torch's counter saw: the most wrong of three sizes."
    found = {k: a / b for k, (a, b) in ((k, operations(k)) for k in ("tiny", "demo", "wide"))}
    return dict(ratio=max(found.values(), key=lambda x: abs(x - 1)), **found, aim="exactly 1",
                reached=set(found.values()) == {1})  # fmt: skip


ROWS = {
    "plan_operations": _of_operations,
    **{f"plan_time_{k}": _of_time(k) for k in ("tiny", "demo", "wide")},
    **{f"plan_memory_{k}": _of_memory(k) for k in LARGER},
}

if __name__ == "__main__":
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, torch "
          f"{torch.__version__}, allocator factor {ALLOCATOR}")  # fmt: skip
    for name in sys.argv[1:] or ROWS:
        print(name, json.dumps(ROWS[name](1), default=float), flush=True)
