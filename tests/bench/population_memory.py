"""What a population costs as it grows: memory of scoring whole adapters, and CPU time at 1, 2, 4 and 8 times the work.

The ratio of a growth row is the exponent p of time ~ work**p, fitted on logarithms: 1 is in proportion to the work.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from merging import parents
from scoring import generated, or_reason, small, smol
from timing import growth, threads

from evonb.core import Seeds
from evonb.evolution.method import METHODS, Outcome
from evonb.evolution.search import evolve
from evonb.populations.merges import merge
from evonb.populations.spaces import AdapterSpace, CoefficientSpace, StoredSpace
from evonb.tasks.backends import InProcess
from evonb.tasks.engine import Engine
from evonb.tasks.fitness import Fitness
from evonb.tasks.tasks import skill_task
from evonb.training.adapters import linear_shapes, random_adapter

TIMES = (1, 2, 4, 8)


def grown(run, pairs):
    "The exponent of run(k)'s time over k."
    with threads(1):
        return growth(lambda k: lambda: run(k), min(pairs, 3))


def scoring_growth(pairs, n=1):
    "Exponent of scoring 8, 16, 32 and 64 rank-4 individuals on 16 items, GPT of 4 layers, 128 wide."
    model, tokenizer = small()
    engine, choices = Engine(model, tokenizer), generated(16)
    shapes = linear_shapes(model)
    people = [random_adapter(shapes, 4, Seeds(i)) for i in range(8 * TIMES[-1])]
    return grown(lambda k: engine.loglikelihoods(people[: 8 * k], choices), pairs)


def generation_growth(pairs, n=1):
    "Exponent of three generations of GENOME (ask, score, tell, store) with 10, 20, 40 and 80 coefficient genomes."
    model, tokenizer = small()
    shapes = linear_shapes(model)
    space = CoefficientSpace({f"e{i}": random_adapter(shapes, 4, Seeds(i)) for i in range(6)}, by="layer")
    task = skill_task(["agreement"], Seeds(0), n_validation=8, n_test=2)
    backend = InProcess(Engine(model, tokenizer))

    def generations(k):
        fitness, size = Fitness(backend, [task]), 10 * k
        score = lambda genomes: fitness([space.adapter(g) for g in genomes])
        with tempfile.TemporaryDirectory() as folder:
            method = METHODS["genome"](space, dict(population_size=size), Seeds(0))
            evolve(method, score, 3 * size, folder, show=False)

    return grown(generations, pairs)


def adapter_generation_growth(pairs, n=1):
    "Exponent of the same with whole adapters in files (merges, mutants, distances, checkpoints; scored by a formula)."
    shapes = {f"h.{i}.fc": (128, 128) for i in range(4)}
    experts = {f"e{i}": random_adapter(shapes, 4, Seeds(i)) for i in range(6)}
    score = lambda genomes: [Outcome(-abs(float(g.load().A["h.0.fc"].sum()))) for g in genomes]

    def generations(k):
        with tempfile.TemporaryDirectory() as folder:
            space = StoredSpace(AdapterSpace(experts), Path(folder) / "genomes")
            method = METHODS["genome"](space, dict(population_size=20 * k), Seeds(0))
            evolve(method, score, 60 * k, folder, show=False)

    return grown(generations, pairs)


def search_growth(pairs, n=1):
    "Exponent of a random search over 250, 500, 1,000 and 2,000 evaluations that stores its state after every 10."
    space = CoefficientSpace({f"e{i}": random_adapter({"h.0.fc": (8, 8)}, 1, Seeds(i)) for i in range(4)})
    score = lambda genomes: [Outcome(-float(np.square(g).sum())) for g in genomes]

    def search(k):
        with tempfile.TemporaryDirectory() as folder:
            evolve(METHODS["random-search"](space, dict(batch=10), Seeds(0)), score, 250 * k, folder, show=False,
                   measure_diversity=False)  # fmt: skip

    return grown(search, pairs)


def merging_growth(pairs, n=1):
    "Exponent of merging two rank-16 adapters of 7, 14, 28 and 56 modules of SmolLM2-135M's shapes."
    of = {k: parents(k) for k in TIMES}
    return grown(lambda k: merge(of[k], "linear", rank=16), pairs)


ALLOCATOR = (
    "what is in use doesn't grow: glibc's mallinfo2 has 457 MB in use and 6 MB mapped after 15, 25, 50 and 120 "
    "individuals are made. What grows are freed blocks that the allocator doesn't give back: 24, 25, 30 and 47 MB."
)


def score_adapters(n):
    "In a process of its own: score n rank-16 individuals of SmolLM2-135M on two items; peak bytes before and after."
    model, tokenizer = smol()
    engine = Engine(model, tokenizer, max_tokens=256)
    task = skill_task(["agreement"], Seeds(0), n_validation=2, n_test=2)
    shapes = linear_shapes(model)
    space = AdapterSpace({k: random_adapter(shapes, 16, Seeds(i), size=0.01) for i, k in enumerate("ab")})
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before, rng = peak(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        stored = StoredSpace(space, folder)
        people = [stored.perturb(space.start()[0], 0.01, 0.1, rng) for _ in range(n)]
        Fitness(InProcess(engine), [task])(people)
    print(before, peak())


@or_reason
def scoring_memory(pairs, n=1):
    "Peak memory above the base of scoring 200 rank-16 individuals (3.9 GB) on SmolLM2-135M over that of 25."
    smol()
    found = {}
    for size in (25, 200):
        code = f"import population_memory as p; p.score_adapters({size})"
        made = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True,
                              check=True)  # fmt: skip
        before, after = map(int, made.stdout.split()[-2:])
        found[size] = after - before
    few, many = found.values()
    return dict(ratio=many / few, bytes=found, aim="at most 1.1", why=ALLOCATOR)


ROWS = {f.__name__: f for f in (scoring_growth, generation_growth, adapter_generation_growth, search_growth,
                                merging_growth, scoring_memory)}  # fmt: skip
