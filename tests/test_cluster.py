# ruff: noqa: E402
"""Ray: the same scores and newborns as in one process, whatever dies; one local instance for the whole module."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

ray = pytest.importorskip("ray")

WINGS = [str(Path(__file__).parent / wing) for wing in ("", "connectomes", "tasks")]
sys.path += WINGS

from test_fitness import BASE, llama, llama_engine, pair_task, population, text_task  # noqa: E402
from test_generations import tiny  # noqa: E402

from evonb import cluster, datasets  # noqa: E402
from evonb.cluster import ClusterError, RayFleet, RayPool, backend_on, connect, fleet_on  # noqa: E402
from evonb.connectomes import generations
from evonb.connectomes import settings as cs
from evonb.connectomes.experiments import develop_run, experiment  # noqa: E402
from evonb.connectomes.generations import life_folder
from evonb.core import InputError, MachineError, RunBusyError, Stopped, StopRequest, listening  # noqa: E402
from evonb.store import open_run, read_dataset, read_json, write_json  # noqa: E402
from evonb.tasks.backends import InProcess
from evonb.tasks.fitness import Fitness  # noqa: E402
from evonb.tasks.tasks import Item, Task  # noqa: E402
from evonb.text import tokens as text_tokens

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("one_thread"),
              pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def here():
    "A cluster of this machine, with two CPUs whatever it has; its workers can import this file."
    with pytest.MonkeyPatch.context() as m:
        m.setenv("PYTHONPATH", os.pathsep.join([*WINGS, *filter(None, [os.environ.get("PYTHONPATH")])]))
        with connect("local", n_cpus=2) as joined:
            yield joined


def mortal_engine(folder=None, once=True, **options):
    "An engine that kills its process at an individual whose weights are marked: once, or each time; or that is slow."
    engine = llama_engine(**options)
    likelihoods = engine.loglikelihoods

    def fragile(adapters, choices):
        marks = {a.config.get("mark") for a in adapters}
        flag = Path(folder or tempfile.gettempdir()) / "died"
        if "deadly" in marks and not (once and flag.exists()):
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if "slow" in marks:
            time.sleep(60)
        return likelihoods(adapters, choices)

    engine.loglikelihoods = fragile
    return engine


@pytest.fixture(scope="module")
def pool(here, tmp_path_factory):
    "Two actors; where the base is opened once for most of the tests."
    with RayPool(partial(mortal_engine, str(tmp_path_factory.mktemp("mortal"))), timeout=20) as p:
        yield p


def marked(adapter, mark):
    return replace(adapter, config={**adapter.config, "mark": mark})


def expected(adapters, tasks):
    "What one process gives each individual alone; together in one pass, products of another shape round otherwise."
    fitness = Fitness(InProcess(llama_engine()), tasks)
    return [fitness([a])[0] for a in adapters]


def same(a, b):
    "The very same scores, item by item."
    assert a.reason == b.reason and (a.value == b.value or a.failed)
    for name in a.scores:
        x, y = a.scores[name], b.scores[name]
        np.testing.assert_array_equal(x.credit, y.credit)
        assert x.texts == y.texts
        if x.option_scores is not None:
            np.testing.assert_array_equal(x.option_scores, y.option_scores)


def test_a_pool_on_ray_gives_the_scores_of_one_process(pool, monkeypatch):
    "And no actor ever has more than two jobs; weights are put once each, and few are held."
    adapters, tasks = population(llama(), 7), [pair_task(), text_task()]
    broken = replace(adapters[0], A={m: a * math.nan for m, a in adapters[0].A.items()})
    adapters += [broken]
    held, puts, deal, put = [], [], RayPool._deal, ray.put

    def watched(self, todo, adapters, asked):
        deal(self, todo, adapters, asked)
        held.append([len(w.jobs) for w in self._workers])

    monkeypatch.setattr(RayPool, "_deal", watched)
    monkeypatch.setattr(ray, "put", lambda x: puts.append(x) or put(x))
    assert pool.digest() == InProcess(llama_engine()).digest() and pool.n_workers == 2
    found = Fitness(pool, tasks)(adapters)
    for a, b in zip(expected(adapters, tasks), found, strict=True):
        same(a, b)
    together = Fitness(InProcess(llama_engine()), tasks)(adapters)
    for a, b in zip(together, found, strict=True):
        assert a.reason == b.reason and (a.failed or abs(a.value - b.value) < 1e-5)
    assert found[-1].failed and found[-1].reason
    assert max(max(n) for n in held) == 2 and max(sum(n) for n in held) <= 4
    assert len(puts) == 1 + len(adapters)  # the requests, and each individual


def test_what_a_killed_actor_had_to_do_is_done_elsewhere(pool):
    "SIGKILL in mid-work, of the process that scores."
    adapters, tasks = population(llama(), 5), [pair_task()]
    adapters[2] = marked(adapters[2], "deadly")
    died = Path(pool.open_engine.args[0]) / "died"
    found = Fitness(pool, tasks)(adapters)
    assert died.exists()
    for a, b in zip(expected(adapters, tasks), found, strict=True):
        same(a, b)


@pytest.mark.faults
def test_actors_that_the_cluster_takes_away_while_idle_are_made_up_for(pool, monkeypatch):
    "Neither individuals nor their tasks are blamed, not even once."
    tasks, adapters = [pair_task()], population(llama(), 5)
    monkeypatch.setattr(pool.wait(), "max_tries", 1)
    for w in pool._workers:
        ray.kill(w.actor, no_restart=False)
        with pytest.raises(ray.exceptions.RayError):
            while True:
                ray.get(w.actor.opened.remote())
    for a, b in zip(expected(adapters, tasks), Fitness(pool, tasks)(adapters), strict=True):
        same(a, b)


@pytest.mark.faults
@pytest.mark.parametrize("mark, says", [("deadly", "a worker died, 2 times"), ("slow", "took longer than 2 s")])
def test_one_that_always_kills_its_worker_or_never_ends_breaks_the_work_off(here, pool, tmp_path, mark, says):
    "That is no individual's fitness; without it the rest is scored as ever."
    timeout = 60 if mark == "deadly" else 2
    pool.close()  # its CPUs are needed
    adapters, tasks = population(llama(), 4)[:4], [pair_task()]
    engine = partial(mortal_engine, str(tmp_path), once=False)
    with RayPool(engine, n_workers=2, timeout=timeout, max_tries=2) as mortal:
        fitness = Fitness(mortal, tasks)
        with pytest.raises(MachineError, match=says):
            fitness([marked(adapters[0], mark), *adapters[1:]])
        mortal.timeout = 60
        for a, b in zip(expected(adapters[1:], tasks), fitness(adapters[1:]), strict=True):
            same(a, b)


def test_a_pool_on_ray_says_what_it_cannot_do(here, pool, monkeypatch):
    long = [Item("", (" ".join(["the cat"] * 80), "the dog"), 0)]
    with pytest.raises(InputError, match="context is 96"):
        Fitness(pool, [Task("long", "pairs", dict(validation=long))])([BASE])
    with pytest.raises(ClusterError, match="has room for no actor of 3 CPUs"):
        RayPool(llama_engine, n_threads=3).open()
    late = RayPool(llama_engine, open_timeout=0.01)
    never = ray.remote(num_cpus=99)(print).remote()
    late._workers = [cluster._Worker(None, waking=never, since=time.monotonic() - 1)]
    with pytest.raises(ClusterError, match="no worker of the cluster has been there"):
        late._some_awake()
    ray.cancel(never)
    failed = cluster._Scorer(partial(llama_engine, method="fast"), 1).opened()
    late._workers = [cluster._Worker(late, waking=ray.put(failed))]
    monkeypatch.setattr(late, "close", lambda: None)
    with pytest.raises(InputError, match="couldn't open the base: InputError: method is 'fast'"):
        late._some_awake()
    late._digest = "another"
    late._workers = [cluster._Worker(late, waking=ray.put(("open", pool.digest(), "node-7")))]
    with pytest.raises(InputError, match="node-7 opened another base than the rest"):
        late._some_awake()
    with pytest.raises(ClusterError, match="An actor couldn't begin: No module named x. Install the same evonb"):
        late._asleep(late._workers[0], ray.exceptions.RayError("in its creation task\nNo module named x"))
    for wrong in (dict(timeout=0), dict(n_workers=0), dict(n_threads=True), dict(max_tries=0)):
        with pytest.raises(InputError, match=next(iter(wrong))):
            RayPool(llama_engine, **wrong)
    with pytest.raises(InputError, match="lock_timeout"):
        RayFleet(lock_timeout=-1)


def test_a_base_is_named_so_that_every_worker_finds_it(here, tmp_path, monkeypatch):
    "A relative path becomes absolute, since workers have another working folder; another name stays."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    monkeypatch.setattr(RayPool, "open", lambda self: self)
    with backend_on("local", 99) as opens:
        assert opens("base", "cpu").open_engine.args == (str(tmp_path / "base"), "cpu", 99)
        assert opens("base::random/0", "cuda:1").open_engine.args == (str(tmp_path / "base::random/0"), "cuda", 99)
        assert opens("toy", "cuda").n_gpus == 1 and opens("toy", "cpu").open_engine.args[0] == "toy"
    with backend_on(None) as nothing, fleet_on(None) as none:
        assert nothing is None and none is None


def small(**kw):
    "Two arms, one seed in the sweep of two rates, one more seed."
    config = tiny()
    return replace(config, evolution=replace(config.evolution, n_generations=1), **kw)


@pytest.fixture(scope="module")
def sequential(tmp_path_factory, one_thread):
    return experiment(tmp_path_factory.mktemp("one") / "run", small(), show=False)


@pytest.fixture
def room(here, pool):
    "CPUs for a fleet: the pool's actors would keep them."
    pool.close()


@pytest.fixture
def evolved(sequential, tmp_path):
    "The folder of a run whose evolution is over."
    unlike = shutil.ignore_patterns(
        "development", "development.json", "development.zarr.zip", "summary.json", "log.jsonl"
    )
    return Path(shutil.copytree(sequential.path, tmp_path / "run", ignore=unlike))


MEASURED = ("wall_time", "tokens_per_s")


def assert_same_runs(one, other):
    for name in ("evolution.zarr.zip", "development.zarr.zip"):
        a, b = (read_dataset(r.file(name)).drop_vars(MEASURED, errors="ignore") for r in (one, other))
        assert a.identical(b), name
    a, b = (read_json(r.file("summary.json")) for r in (one, other))
    assert a["arms"] == b["arms"] and a["statement"] == b["statement"]


def test_a_fleet_raises_what_one_machine_raises(room, sequential, evolved):
    "With the models, with its log in the run's log, and with workers' steps announced."
    heard = []
    with listening(lambda kind, values: heard.append((kind, values))):
        run = develop_run(evolved, show=False, fleet=RayFleet())
    assert_same_runs(sequential, run)
    lived = [e["folder"] for e in run.events() if e["event"] == "lifetime"]
    assert len([f for f in lived if "development" in f]) == 6  # 2 arms x (1 seed x 2 rates + 1 seed)
    steps = [v for kind, v in heard if kind == "step" and "lr" in v["label"]]
    assert steps and all(Path(v["folder"]).is_relative_to(run.path) for v in steps)
    assert not list(run.path.rglob("*.tmp")) and not list(run.path.rglob(".lived_in_by"))


class StopLater(StopRequest):
    "As when SIGTERM comes once the first newborn lives: its checkpoints may be gone before somebody looks."

    def __init__(self, folder):
        super().__init__()
        self.folder, self.asked = Path(folder), 0

    def __bool__(self):
        if self.reason is None and any(self.folder.glob("development/*/*/*")):
            self.set("SIGTERM")
        return self.reason is not None


def test_a_stopped_fleet_goes_on_here(room, sequential, evolved):
    with pytest.raises(Stopped, match=r"SIGTERM with \d of \d newborns raised"):
        develop_run(evolved, show=False, stop=StopLater(evolved), fleet=RayFleet())
    assert open_run(evolved).state()["status"] == "stopped"
    assert_same_runs(sequential, develop_run(evolved, show=False))


@pytest.mark.faults
def test_a_stopped_run_of_one_machine_goes_on_there(room, sequential, evolved):
    with pytest.raises(Stopped):
        develop_run(evolved, show=False, stop=StopLater(evolved))
    assert_same_runs(sequential, develop_run(evolved, show=False, fleet=RayFleet()))


@pytest.fixture
def given(evolved):
    "An experiment whose evolution is over, to raise newborns in."
    run = open_run(evolved)
    corpus = text_tokens.open_prepared(run.file("corpus"))
    return cs.Experiment(run, corpus, small(), show=False)


def test_a_lifetime_whose_worker_is_killed_goes_on_from_its_checkpoint(room, sequential, given):
    "SIGKILL of every process that lives a lifetime, once."
    key = ("connectome", 0, 2e-3)
    folder, killed = life_folder(given.run, *key), []

    def kill():
        while not killed:
            if list(folder.glob("checkpoint-*")) and (folder / ".lived_in_by").exists():
                text = (folder / ".lived_in_by").read_text()
                if "process" in text:
                    os.kill(int(text.split("process ")[1].rstrip(")")), signal.SIGKILL)
                    killed.append(text)
            time.sleep(0.002)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    RayFleet().raise_newborns(given, [key], needed=True)
    thread.join(5)
    lost = [e for e in given.run.events() if e["event"] == "worker lost"]
    assert killed and len(lost) == 1 and lost[0]["checkpoint"]
    mine, other = (generations.read_life(life_folder(r, *key)) for r in (given.run, sequential))
    for name in mine[0]:
        np.testing.assert_array_equal(mine[0][name], other[0][name])
    a, b = (life_folder(r, *key) / "model" / "model.safetensors" for r in (given.run, sequential))
    assert not b.exists() or a.read_bytes() == b.read_bytes()


def test_a_run_that_a_node_does_not_see_is_named(room, given):
    path = given.run.path / "run.json"
    path.with_name("moved.json").write_bytes(path.read_bytes())
    work = cluster._Work(RayFleet(), given, False, 1)
    write_json(path, read_json(path) | dict(created="another"))
    try:
        work.hand_out(cluster._Life(("connectome", 0, 2e-3)))
        with pytest.raises(InputError, match=f"{socket.gethostname()}.*has another run.json there.*all nodes share"):
            work.watch(None)
    finally:
        work.close()


def test_a_folder_that_is_lived_in_is_not_entered(room, given):
    key = ("random", 0, 4e-3)
    with cluster._living_in(life_folder(given.run, *key), 1):
        with pytest.raises(RunBusyError, match=f"is still lived in by .*process {os.getpid()}"):
            RayFleet(lock_timeout=0.2).raise_newborns(given, [key])


def test_one_that_dies_again_and_again_is_named(room, given):
    "Unless it gets further in between."
    work, folder = cluster._Work(RayFleet(max_tries=3), given, False, 1), life_folder(given.run, "random", 0, 2e-3)
    work.hand_out, out, life = lambda life: out.append(life), [], cluster._Life(("random", 0, 2e-3))
    folder.mkdir(parents=True)
    try:
        for step in (None, 6, 6, 12, 12):
            if step:
                (folder / f"checkpoint-{step:08d}.safetensors").touch()
            work.lost(life, "NodeDiedError")
        assert len(out) == 5 and work.error is None and life.lost == 2
        work.lost(life, "NodeDiedError")
        with pytest.raises(ClusterError, match="random seed 0 lr 0.002 died 3 times without getting further .NodeDied"):
            work.watch(None)
    finally:
        work.close()


def test_joining_says_what_is_wrong(here, monkeypatch):
    with connect("auto") as again:  # within another: that one's
        assert again.address == here.address and again.cpus == 2 and again.nodes == 1
    with pytest.raises(InputError, match="local, auto, or HOST:PORT"):
        cluster.check_address("ray://head")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        with pytest.raises(ClusterError, match="Nothing listens at 127.0.0.1.*ray start --head"):
            cluster.check_address(f"127.0.0.1:{s.getsockname()[1]}")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/some/token")
    assert "sought in /some/token" in cluster._why_not("10.0.0.1:6379", ConnectionError("no\nmore"))
    assert "No Ray cluster runs" in cluster._why_not("auto", ConnectionError("Could not find any running Ray instance"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(datasets.MissingExtraError, match=r"evonb\[cluster\]"):
        connect("local").__enter__()


def test_a_pool_and_a_fleet_need_a_cluster(given, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for needs in (RayPool(llama_engine).open, lambda: RayFleet().raise_newborns(given, [])):
        with pytest.raises(ClusterError, match="belongs to no cluster.*connect"):
            needs()


def test_the_command_line_names_the_cluster(here):
    from evonb.cli import _fleet, _scorers, parser
    from evonb.populations.breeding import BreedConfig

    args = parser().parse_args(["develop", "runs/mine", "--ray", "auto"])
    with _fleet(args) as fleet:
        assert isinstance(fleet, RayFleet)
    with _fleet(parser().parse_args(["demo"])) as fleet:
        assert fleet is None
    config = BreedConfig(max_tokens=77, begin="model")
    with _scorers(parser().parse_args(["population", "--ray", "local"]), config) as opens:
        assert opens.keywords == dict(max_tokens=77, begin="model")
    both = parser().parse_args(["population", "--ray", "local", "--server", "http://localhost:1"])
    with pytest.raises(InputError, match="--ray.*or by a server"):
        _scorers(both, config)


def test_signals_are_as_before(here):
    "Ray took none of them."
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN)


def may_unshare():
    "Whether this machine lets us have a network and processes of our own."
    wanted = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        done = subprocess.run([*wanted, "true"], capture_output=True, text=True)
    except FileNotFoundError as e:
        return [], str(e)
    return wanted, done.stderr


@pytest.mark.faults
@pytest.mark.slow
def test_a_lost_node_costs_nothing(evolved, tmp_path):
    "A head and a second node by Ray's own commands, with a token; the second is killed in mid-work, twice."
    alone, refused = may_unshare()
    if refused:
        pytest.skip(f"no network namespace of one's own here: {refused.strip()}")
    log, other = tmp_path / "log", shutil.copytree(evolved, tmp_path / "other")
    with open(log, "w") as out:
        code = subprocess.run([*alone, sys.executable, __file__, other, evolved], stdout=out,
                              stderr=subprocess.STDOUT, timeout=900).returncode  # fmt: skip
    assert code == 0, log.read_text()[-8000:]
    assert log.read_text().count("as in one process") == 3, log.read_text()


def lo_up():
    "Bring up the loopback of a new network namespace (SIOCSIFFLAGS of netdevice(7))."
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        flags = struct.unpack("16sh", fcntl.ioctl(s, 0x8913, struct.pack("16sh", b"lo", 0)))[1]
        fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", flags | 1))


def ray_start(*options):
    "A node, by Ray's own command; again if this machine is too busy for Ray's limit of 30 s."
    command = [Path(sys.executable).with_name("ray"), "start", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1",
               "--object-store-memory=100000000", "--disable-usage-stats", *options]  # fmt: skip
    for _ in range(3):
        piped = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        node = subprocess.Popen(command, start_new_session=True, **piped)
        for line in node.stdout:
            if "Ray runtime started" in line:
                threading.Thread(target=node.stdout.read, daemon=True).start()
                return node
            print("ray:", line, end="")
        node.wait()
    raise RuntimeError("the node doesn't start")


def kill_node(node):
    "SIGKILL everything in a node's session: raylet, workers and all."
    mine = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    for pid in mine:
        try:
            if os.getsid(pid) == node.pid:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    print("killed a node", flush=True)


def kill_when(node, ready):
    def wait():
        while not ready():
            time.sleep(0.01)
        kill_node(node)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def slow_engine():
    engine = llama_engine()
    likelihoods = engine.loglikelihoods
    engine.loglikelihoods = lambda *a: time.sleep(0.5) or likelihoods(*a)
    return engine


def on_two_nodes(other, evolved, folder):
    "What the test of a lost node does in its namespace."
    import torch

    torch.set_num_threads(1)
    lo_up()
    (folder / "token").write_text("0123456789abcdef" * 2)
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token"), OMP_NUM_THREADS="1",
                      PYTHONPATH=os.pathsep.join(WINGS), RAY_USAGE_STATS_ENABLED="0", HOME=str(folder))  # fmt: skip
    ray_start("--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={folder}")
    second = ray_start("--address=127.0.0.1:6379")
    adapters, tasks = population(llama(), 13), [pair_task()]
    with connect("127.0.0.1:6379") as joined:
        assert joined.nodes == 2 and joined.cpus == 2
        with RayPool(slow_engine) as pool:
            pool.wait()
            killing = kill_when(second, lambda: len(pool.history) > 2)
            found = Fitness(pool, tasks)(adapters)
            killing.join()
            assert len({h["worker"] for h in list(pool.history)[:4]}) == 2
        for a, b in zip(expected(adapters, tasks), found, strict=True):
            same(a, b)
        print("scores as in one process", flush=True)
        third = ray_start("--address=127.0.0.1:6379")
        while joined.cpus < 2:
            time.sleep(0.5)
        busy = lambda: len(list(evolved.glob("development/*/*/*/.lived_in_by"))) == 2  # noqa: E731
        killing = kill_when(third, lambda: busy() and list(evolved.glob("development/*/*/*/checkpoint-*")))
        long = dict(lifetime=replace(tiny().development.lifetime, steps=400, checkpoint_every=20))
        run = develop_run(evolved, long, show=False, fleet=RayFleet())
        killing.join()
        assert [e for e in run.events() if e["event"] == "worker lost"]
    assert_same_runs(develop_run(other, long, show=False), run)
    print("newborns as in one process", flush=True)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(folder / "wrong")
    (folder / "wrong").write_text("f" * 32)
    with pytest.raises(ClusterError, match="answers only to its own token"):
        connect("127.0.0.1:6379").__enter__()
    print("a wrong token is named, as in one process nothing of the home folder is touched:", flush=True)
    assert not (folder / ".ray").exists()


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="evonb-", dir="/tmp"))
    try:
        on_two_nodes(Path(sys.argv[1]), Path(sys.argv[2]), place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
