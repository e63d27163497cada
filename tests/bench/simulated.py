"""A cluster that is simulated: what `evonb.cluster` asks of Ray, answered by workers that only take time.

The driver's code is the real one. The clock is simulated: it goes on as simulated tasks end, and, where `charge` is
set, with the CPU seconds that the driver itself needs, so that a driver that can't keep up shows in the makespan.
Workers die at random, some are slow; what they were given then fails as it does in Ray.
"""

import heapq
import itertools
import pickle
import random
import time
from collections import Counter, deque
from contextlib import contextmanager
from functools import wraps
from types import SimpleNamespace
from unittest import mock

from evonb import cluster


class RayError(Exception):
    "As Ray's."


class RayTaskError(RayError):
    "As Ray's: an error of the task's own."


class RayActorError(RayError):
    "As Ray's: the actor died."


class Ref:
    "What will be known at some time; its bytes are in the store until nobody holds it."

    def __init__(self, ray, n_bytes=0):
        self.ray, self.n_bytes, self.done, self.value, self.error = ray, n_bytes, False, None, None
        ray.held += n_bytes
        ray.most_held = max(ray.most_held, ray.held)

    def __del__(self):
        self.ray.held -= self.n_bytes


def asked(method):
    "A call by the driver: the clock goes on by what the driver computed before, and by what the call costs in Ray."

    @wraps(method)
    def call(self, *args, **kw):
        own = time.process_time() - self.left
        self.driver_s += own
        self.calls[method.__name__] += 1
        cost = self.costs.get(method.__name__, 0.0)
        self.ray_s += cost
        self.pass_time(cost + own * self.charge)
        try:
            return method(self, *args, **kw)
        finally:
            self.left = time.process_time()

    return call


class SimulatedRay:
    "Workers, a store and a clock."

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, RayActorError=RayActorError)

    def __init__(self, n_workers, seconds, seed=0, deaths_per_hour=0.0, stragglers=0.0, slower=10.0, opening=20.0,
                 restart=10.0, costs=None, charge=False):  # fmt: skip
        self.n_workers, self.seconds, self.rng = n_workers, seconds, random.Random(seed)
        self.deaths_per_s, self.opening, self.restart = deaths_per_hour / 3600, opening, restart
        self.pace = [slower if self.rng.random() < stragglers else 1.0 for _ in range(n_workers)]
        self.costs, self.charge, self.now, self.heap, self.order = costs or {}, charge, 0.0, [], itertools.count()
        self.held = self.most_held = self.put_bytes = self.fetched_bytes = self.deaths = 0
        self.driver_s = self.ray_s = self.work_s = self.lost_s = 0.0
        self.calls, self.finished, self.longest = Counter(), Counter(), 0.0  # finished: task -> how often
        self.free, self.waiting, self.fresh = deque(range(n_workers)), deque(), []
        self.running, self.told_until, self.progress = {}, 0.0, {}
        self.on_death = lambda key, share: None  # a worker died over a lifetime whose checkpoint has this share
        self.left = time.process_time()

    # the clock

    def at(self, when, what):
        heapq.heappush(self.heap, (when, next(self.order), what))

    def pass_time(self, seconds):
        "Let this much time pass, and all happen that happens in it."
        until = self.now + seconds
        while self.heap and self.heap[0][0] <= until:
            self.happen()
        self.now = until

    def happen(self):
        self.now, _, what = heapq.heappop(self.heap)
        what()

    def settle(self, ref, value=None, error=None):
        ref.done, ref.value, ref.error = True, value, error
        self.fresh.append(ref)

    # what the driver asks

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": self.n_workers}

    available_resources = cluster_resources

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "0" * 56)

    @asked
    def put(self, value):
        ref = Ref(self, len(pickle.dumps(value)))
        self.put_bytes += ref.n_bytes
        self.settle(ref, value)
        return ref

    @asked
    def wait(self, refs, num_returns=1, timeout=None):
        self.pass_time(self.costs.get("wait_each", 0.0) * len(refs))
        self.ray_s += self.costs.get("wait_each", 0.0) * len(refs)
        until = float("inf") if timeout is None else self.now + timeout
        missing = {r for r in refs if not r.done}
        self.fresh.clear()
        while len(refs) - len(missing) < num_returns and self.heap and self.heap[0][0] <= until:
            self.happen()
            missing.difference_update(self.fresh)
            self.fresh.clear()
        if len(refs) - len(missing) < num_returns:
            if until == float("inf"):
                raise RuntimeError("The driver waits for what never comes.")
            self.now = max(self.now, until)
        ready = [r for r in refs if r.done][:num_returns]
        taken = set(ready)
        return ready, [r for r in refs if r not in taken]

    @asked
    def get(self, ref, timeout=None):
        while not ref.done:
            self.happen()
        if ref.error:
            raise ref.error
        return ref.value

    def kill(self, actor, no_restart=True):
        if isinstance(actor, Worker):
            actor.die(again=not no_restart)

    def cancel(self, ref, force=False):
        self.running.pop(ref, None)

    def remote(self, of):
        make = (lambda *a: Desk(self)) if of.__name__ == "Desk" else (
            (lambda *a: Worker(self)) if isinstance(of, type) else (lambda *a: self.submit(a)))  # fmt: skip
        made = SimpleNamespace(remote=make)
        made.options = lambda **kw: made
        return made

    # tasks of a fleet

    @asked
    def submit(self, args):
        ref = Ref(self)
        self.waiting.append((ref, args[3:]))
        self.begin_some()
        return ref

    def begin_some(self):
        while self.free and self.waiting:
            (ref, key), worker = self.waiting.popleft(), self.free.popleft()
            done = self.progress.get(key, 0.0)  # share that its newest checkpoint has
            whole = self.seconds(key)
            self.longest = max(self.longest, whole)
            self.running[ref] = key
            takes, dies = whole * self.pace[worker] * (1 - done), self.rng.expovariate(self.deaths_per_s or 1e-12)
            self.at(self.now + min(takes, dies), lambda r=ref, k=key, w=worker, t=takes, d=dies, h=whole, s=done:
                    self.end(r, k, w, t, d, h, s))  # fmt: skip

    def end(self, ref, key, worker, takes, dies, whole, done):
        if dies < takes:
            self.deaths += 1
            share = done + (1 - done) * dies / takes
            self.progress[key] = int(10 * share) / 10  # ten checkpoints a life
            self.lost_s += whole * (share - self.progress[key])
            self.on_death(key, self.progress[key])
            self.settle(ref, error=RayActorError("the worker died"))
            self.at(self.now + self.restart, lambda: (self.free.append(worker), self.begin_some()))
        else:
            self.work_s += whole
            self.finished[key] += 1
            self.settle(ref, ("raised", None))
            self.free.append(worker)
        self.running.pop(ref, None)
        self.begin_some()


class Worker:
    "An actor that holds the base: answers one after another, is away while it restarts."

    def __init__(self, ray):
        self.ray, self.number, self.jobs, self.up, self.epoch, self.busy = ray, ray.calls["worker"], deque(), 0, 0, 0
        self.knows = set()
        ray.calls["worker"] += 1
        for name in ("opened", "check", "answer"):
            setattr(self, name, SimpleNamespace(remote=lambda *args, what=name: self.ask(what, args)))
        self.rise(ray.opening * ray.rng.uniform(0.5, 1.5))

    def rise(self, seconds):
        "Come up, and perhaps die later."
        self.epoch += 1
        self.up, mine = None, self.epoch

        def open():
            if self.epoch == mine:
                self.up = True
                self.work()

        self.ray.at(self.ray.now + seconds, open)
        if self.ray.deaths_per_s:
            lives = seconds + self.ray.rng.expovariate(self.ray.deaths_per_s)
            self.ray.at(self.ray.now + lives, lambda: self.epoch == mine and self.die())

    def die(self, again=True):
        self.ray.deaths += 1
        jobs, self.jobs, self.busy, self.knows, self.up = self.jobs, deque(), 0, set(), False
        for ref, *_ in jobs:
            self.ray.settle(ref, error=RayActorError("the actor died"))
        self.epoch += 1
        if again:
            self.rise(self.ray.restart + self.ray.opening * self.ray.rng.uniform(0.5, 1.5))
            self.up = False  # what is asked meanwhile fails; at the first start it waits

    def ask(self, what, args):
        ref = SimulatedRay.call_actor(self.ray)
        if self.up is False:
            self.ray.at(self.ray.now + 0.01, lambda: self.ray.settle(ref, error=RayActorError("restarting")))
        else:
            self.jobs.append((ref, what, args))
            self.work()
        return ref

    def work(self):
        if not self.up or self.busy or not self.jobs:
            return
        self.busy, mine = 1, self.epoch
        ref, what, args = self.jobs[0]
        whole = 0.001
        if what == "answer":
            whole = self.ray.seconds(args[0].value[3]["member"])
            self.ray.longest = max(self.ray.longest, whole)
            self.ray.fetched_bytes += args[0].n_bytes + args[1].n_bytes * (id(args[1]) not in self.knows)
            self.knows.add(id(args[1]))
        takes = whole * self.ray.pace[self.number]
        self.ray.at(self.ray.now + takes, lambda: self.epoch == mine and self.finish(ref, what, args, whole))

    def finish(self, ref, what, args, whole):
        self.jobs.popleft()
        self.busy = 0
        name = f"node-{self.number}"
        if what == "answer":
            self.ray.work_s += whole
            member = args[0].value[3]["member"]
            self.ray.finished[member] += 1
            value = ("ok", member)
        else:
            value = ("ok", None) if what == "check" else ("open", ("digest", None), name)
        self.ray.settle(ref, value)
        self.work()


class Desk:
    "What workers of a fleet tell arrives here: each of them twice a second how far it is."

    def __init__(self, ray):
        self.collect = SimpleNamespace(remote=self.told)
        self.ray = ray

    def told(self, reason):
        ray = self.ray
        ref = SimulatedRay.call_actor(ray)
        n = int(len(ray.running) * (ray.now - ray.told_until) / 0.5)
        ray.told_until = ray.now
        ray.calls["told"] += n
        ray.settle(ref, [("announce", "step", dict(label="a life", step=1))] * n)
        return ref


@asked
def _call(self):
    return Ref(self)


SimulatedRay.call_actor = _call


@contextmanager
def simulated(ray):
    "While inside, `evonb.cluster` talks to this Ray, by its clock."
    clock = SimpleNamespace(monotonic=lambda: ray.now, sleep=lambda s: ray.pass_time(s))
    with mock.patch.object(cluster, "_ray", lambda: ray), mock.patch.object(cluster, "time", clock):
        ray.left = time.process_time()
        yield ray
