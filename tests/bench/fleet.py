"""From 10 to 10,000 workers, by simulation: the real driver of `evonb.cluster` over workers that only take time.

    python tests/bench/fleet.py costs      what calls of a real local Ray cost here, in seconds

Tasks take as long as was measured (docs/results/bench.json): a SmolLM2-135M individual on 64 minimal pairs, a lifetime
of the laptop's size; each times a random factor of 0.8 to 1.25. Two of a hundred workers are four times slower, and
each dies once in ten hours. The clock counts the CPU seconds of the driver's own code, and for calls of Ray what was
measured for `COSTS`.
"""

import gc
import json
import random
import resource
import sys
import tempfile
import time
from functools import cache

import torch
from results import FOLDER, stored
from simulated import SimulatedRay, simulated

from evonb.cluster import RayFleet, RayPool, connect
from evonb.connectomes.generations import life_folder
from evonb.connectomes.settings import Experiment, preset
from evonb.core import to_dict
from evonb.store import create_run
from evonb.training.adapters import Adapter

# seconds a call, as `fleet.py costs` measured them on 2 cores (AMD EPYC, load 4) with Ray on the same machine
COSTS = dict(put=2.2e-4, call_actor=2.3e-5, submit=3.1e-5, get=1.1e-5, wait=6.9e-5, wait_each=2.4e-7)
ROUGH = dict(deaths_per_hour=0.1, stragglers=0.02, slower=4.0)
TASKS = {10: 10, 100: 5, 1000: 2, 10_000: 2}  # workers -> tasks a worker


def measured_seconds(kind):
    "Seconds of one task, as kept rows tell them."
    rows = stored(FOLDER / "bench.json")
    if kind == "pool":
        row = rows["scoring_smol"][-1]
        return row["second_s"] / row["individuals"]
    life = preset("laptop").development.lifetime
    return life.n_tokens / rows["training_medium_quarter"][-1]["first_tokens_per_s"]


def seconds_of(kind, seed=0):
    "A function: task -> its seconds."
    mean = measured_seconds(kind)
    return lambda key: mean * 1.25 ** random.Random(f"{seed} {key}").uniform(-1, 1)


def individual(i, n=64):
    "A small adapter that knows its number."
    return Adapter({"m": torch.zeros(1, n)}, {"m": torch.zeros(n, 1)}, {"m": 1.0}, dict(member=i))


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pool(n_workers, n_tasks, kind="pool", **options):
    "Individuals scored through the real RayPool: the simulated cluster afterwards, and the answers."
    ray = SimulatedRay(n_workers, seconds_of(kind), **options)
    people = [individual(i) for i in range(n_tasks)]
    with simulated(ray), RayPool(None) as backend:
        found = backend.answers(people, [], [])
        ray.makespan = ray.now
        backend._workers = []
        ray.heap.clear()  # what would still happen holds references, and so do errors that were raised
    gc.collect()
    return ray, found


def fleet(n_workers, n_tasks, **options):
    "Lifetimes raised through the real RayFleet, in a run's folder of their own."
    config = preset("laptop")
    with tempfile.TemporaryDirectory() as folder:
        with create_run(f"{folder}/run", to_dict(config), "connectome") as run:
            ray = SimulatedRay(n_workers, seconds_of("fleet"), **options)

            def checkpoint(key, share):
                path = life_folder(run, *key[:3])
                path.mkdir(parents=True, exist_ok=True)
                if share:
                    (path / f"checkpoint-{int(share * 1000):08d}.safetensors").touch()

            ray.on_death = checkpoint
            exp = Experiment(run, None, config, show=False)
            with simulated(ray):
                RayFleet().raise_newborns(exp, [("random", i, 0.01) for i in range(n_tasks)])
                ray.makespan = ray.now
    return ray


def bound(ray):
    "The least seconds that any schedule takes: all work over all workers' pace, or the longest task."
    return max(ray.work_s / sum(1 / p for p in ray.pace), ray.longest)


def row(kind, n):
    "A row for a number of workers."

    def run(pairs, steps):
        make = dict(pool=lambda *a, **kw: pool(*a, **kw)[0], fleet=fleet)[kind]
        n_tasks, before = n * TASKS[n], resident()
        ray = make(n, n_tasks, costs=COSTS, charge=True, **ROUGH)
        calm = make(n, n_tasks, costs=COSTS, charge=True) if n <= 100 else None  # larger ones take minutes
        start = ray.opening * (kind == "pool")  # actors open the base first
        return dict(ratio=ray.makespan / (start + bound(ray)), calm=calm and calm.makespan / (start + bound(calm)),
                    makespan_s=ray.makespan, bound_s=start + bound(ray), workers=n, tasks=n_tasks, deaths=ray.deaths,
                    done_twice=sum(v > 1 for v in ray.finished.values()), driver_ms_a_task=1e3 * ray.driver_s / n_tasks,
                    ray_ms_a_task=1e3 * ray.ray_s / n_tasks, bytes_a_task=max(0, resident() - before) / n_tasks,
                    driver_busy=(ray.driver_s + ray.ray_s) / ray.makespan, calls=dict(ray.calls),
                    put_bytes=ray.put_bytes,
                    fetched_bytes=ray.fetched_bytes, most_held_bytes=ray.most_held, task_s=measured_seconds(kind),
                    costs=COSTS, aim="reported")  # fmt: skip

    what = dict(pool="scoring individuals", fleet="raising newborns")[kind]
    run.__doc__ = (f"Simulated: makespan of {what} on {n:,} workers, {TASKS[n]} each, with deaths and stragglers, over "
                   "the lower bound (all work over all workers' pace, or the longest task).")  # fmt: skip
    return run


@cache
def ray_costs(n=1000):
    "What calls of a real local Ray cost here, in seconds."
    import ray

    least = lambda f, times: min(f() for _ in range(times))

    def timed(f):
        began = time.perf_counter()
        f()
        return time.perf_counter() - began

    with connect("local", n_cpus=1):

        @ray.remote(num_cpus=0)
        class Sleeper:
            def now(self):
                return 1

            def late(self):
                time.sleep(1000)

        @ray.remote
        def never():
            time.sleep(1000)

        actor, sleeper = Sleeper.remote(), Sleeper.remote()
        ray.get(actor.now.remote())
        refs = [sleeper.late.remote() for _ in range(n)]
        out = dict(put=least(lambda: timed(lambda: ray.put(b"0" * 1000)), 50),
                   call_actor=least(lambda: timed(lambda: actor.now.remote()), 50),
                   submit=least(lambda: timed(lambda: never.remote()), 50))
        done = [actor.now.remote() for _ in range(50)]
        ray.wait(done, num_returns=50)
        out["get"] = min(timed(lambda r=r: ray.get(r)) for r in done)
        out["wait"] = least(lambda: timed(lambda: ray.wait(refs[:1], timeout=0)), 20)
        out["wait_each"] = (least(lambda: timed(lambda: ray.wait(refs, timeout=0)), 20) - out["wait"]) / n
    return out


ROWS = {f"simulated_{kind}_{n}": row(kind, n) for kind in ("pool", "fleet") for n in TASKS}

if __name__ == "__main__" and sys.argv[1:] == ["costs"]:
    print(json.dumps(ray_costs()))
