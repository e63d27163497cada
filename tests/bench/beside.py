"""Lifetimes side by side against one after another, and one lifetime on a machine that others keep busy."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np
import training
from timing import threads

from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import Experiment, preset
from evonb.connectomes.workers import LocalFleet
from evonb.core import PASSIVE, to_dict
from evonb.store import create_run
from evonb.text.tokens import open_prepared
from evonb.training.parallel import cores, lifetime_threads

STEPS = 60  # of a lifetime, so that one takes seconds


def demo():
    "The demo, its lifetimes shortened, with one evolution of one generation."
    config = preset("demo")
    e, d = config.evolution, config.development
    short = replace(d.lifetime, steps=STEPS, checkpoint_every=STEPS)
    return replace(config, evolution=replace(e, n_generations=1, n_evolutions=1, lifetime=short),
                   development=replace(d, lifetime=short, arms=("random",), lrs=(0.016,), n_seeds=1))  # fmt: skip


def sweep(pairs, n):
    "Newborns of demo size a second, one process a core, against one after another with one thread"
    config, k = demo(), cores()
    if k < 2:
        return dict(skipped="there is one core")
    with tempfile.TemporaryDirectory() as folder, threads(1):
        made = experiment(f"{folder}/run", config, show=False, workers=1)
        seeds, times = iter(range(1, 10**6)), {1: [], k: []}

        def raised(exp, number):
            items = [("random", next(seeds), 0.016) for _ in range(number)]
            began = time.perf_counter()
            if exp.fleet:
                exp.fleet.raise_newborns(exp, items)
            else:
                for x in items:
                    exp.raise_arm(*x)
            return (time.perf_counter() - began) / number

        with LocalFleet(k, 1) as fleet, create_run(made.path, to_dict(config), "connectome", True) as run:
            alone = Experiment(run, open_prepared(run.file("corpus")), config, show=False)
            beside = replace(alone, fleet=fleet)
            raised(beside, k)  # processes are there
            for _ in range(max(3, pairs // 3)):
                times[1].append(raised(alone, 2))
                times[k].append(raised(beside, 2 * k))
    ratios = np.array(times[1]) / np.array(times[k])
    low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return dict(ratio=ratio, low=low, high=high, pairs=len(ratios), first_s=float(np.median(times[k])),
                second_s=float(np.median(times[1])), threads=k, clock="perf_counter",
                aim="at least 1.75" if k == 2 else f"at least {.85 * k:.3g}")  # fmt: skip


def spin():
    "Keep a core busy."
    while True:
        pass


def its_threads(size):
    "Threads that a lifetime of a size has by itself."
    n_layer, width, vocab, context, batch = training.SIZES[size]
    return lifetime_threads(6 * (2 * width * vocab + 12 * n_layer * width**2) * context * batch)


def speed(size, seconds):
    "tokens/s of one lifetime in a program of its own, with as many threads as it takes by itself."
    told = subprocess.run([sys.executable, __file__, size, str(seconds)], capture_output=True, text=True, check=True,
                          env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | PASSIVE)  # fmt: skip
    return float(told.stdout)


def busy(size):
    "A row for a size."

    def row(pairs, n):
        mine, k, others = its_threads(size), cores(), 2 * cores()
        share, ratios, found = min(1.0, k / (others + mine)), [], []
        for _ in range(max(3, pairs // 3)):
            alone = speed(size, 4)
            spinning = [multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(others)]
            for p in spinning:
                p.start()
            time.sleep(2)
            try:
                beside = speed(size, 8)
            finally:
                for p in spinning:
                    p.terminate()
            ratios.append(beside / (alone * share))
            found.append((beside, alone * share))
        low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        first, second = np.median(found, 0)
        return dict(ratio=ratio, low=low, high=high, pairs=len(ratios), threads=mine, clock="perf_counter",
                    aim="at least 0.7", first_tokens_per_s=first, second_tokens_per_s=second)  # fmt: skip

    row.__doc__ = (f"Tokens/s at {size} size beside two busy processes a core, against a fair share of what it makes "
                   "alone")  # fmt: skip
    return row


ROWS = {"sweep on all cores": sweep, "busy machine": busy("small"), "busy machine, medium": busy("medium")}


def main(size, seconds):
    "tokens/s, printed."
    import torch

    life = training.life(size)
    torch.set_num_threads(its_threads(size))
    step, _ = training.ours(size)
    for _ in range(3):
        step()
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        n += 1
    print(n * life.batch_size * life.context / (time.perf_counter() - began))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
