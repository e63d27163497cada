"""Runs as people use them: read while they are written, moved and copied, named otherwise, one inside of another; a
server under load that is stopped. Each function returns how often it was tried and what went wrong."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import kills
import numpy as np
from looking import compare
from surroundings import noted

QUIET = dict(show=False, device="cpu")
PATIENCE = 400  # seconds, on a machine that others use, too


# Readers beside a writer --------------------------------------------------------------------------------------------

def command(*words) -> str:
    "What a command prints; it must end well."
    from evonb.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(list(map(str, words)))
    if code:
        raise AssertionError(f"evonb {words[0]} ended with {code}: {out.getvalue()[-300:]}")
    return out.getvalue()


def dataset(path: Path, engine: str):
    "A result as plain xarray opens it."
    import xarray as xr
    import zarr

    if engine == "netcdf":
        with xr.open_dataset(path) as ds:
            return ds.load()
    store = zarr.storage.ZipStore(path, mode="r")
    try:
        return xr.open_zarr(store, consolidated=False).load()
    finally:
        store.close()


READS = ("show", "report", "explore", "align", "netcdf", "zarr")


def one_read(read: str, run: Path, root: Path, number: int) -> list:
    "Read a run in one way: which arms it tells of, and the losses of newborns where it tells them."
    if read in ("show", "report", "explore"):
        said = command(read, run, *(["--json"] if read == "show" else []))
        return list(json.loads(said)["arms"]) if read == "show" else ["connectome", "random"]
    if read == "align":
        command("align", run, "--data", "toy-reading", "--untrained", "1", "--permutations", "20", "--arms",
                "connectome", "--out", root / f"aligned-{number}", "--device", "cpu")
        return ["connectome", "random"]
    ds = dataset(run / ("development.nc" if read == "netcdf" else "development.zarr.zip"), read)
    return ds.arm.values.tolist(), ds


def reads_beside(before: Path, run: Path, root: Path, seed: int, until: Path, reads=READS) -> list:
    "Read again and again, in a seeded order, until a file appears: each must be a state that holds what there was."
    os.environ["EVONB_CACHE"] = str(root / "cache")
    rng, was, out, n = random.Random(f"reads {seed}"), dataset(before / "development.zarr.zip", "zarr"), [], 0
    while True:
        over = until.exists()
        for read in rng.sample(reads, len(reads)) if not n else (rng.choice(reads),):
            n += 1
            try:
                told = one_read(read, run, root, n)
            except BaseException as e:
                out.append(f"{read}: {type(e).__name__}: {str(e)[:300]}")
                continue
            arms, ds = told if isinstance(told, tuple) else (told, None)
            if not {"connectome", "random"} <= set(arms):
                out.append(f"{read} tells of {arms}")
            elif ds is not None:
                now = ds.sel(arm=was.arm, seed=was.seed)
                out += [f"{read}: {k} isn't what it was" for k in ("val_loss", "test_window_loss")
                        if now[k].values.tobytes() != was[k].values.tobytes()]
        if over:
            return [n, *out]


def readers_beside(ready, place: Path, n: int, seed: int, say, reads=READS) -> dict:
    "Read a finished run while it gets more newborns: kinds of reads, and failures."
    found = dict(tried=0, failures=[])

    def reading(root, seed, over, answer):
        before = ready.shared / ready.stage.copies
        answer.write_text(json.dumps(reads_beside(before, root / "run", root, seed, over, reads)))

    def writing(root):
        ready.stage.work(ready.shared, root)
    for i in range(n):
        root, over = place / f"beside-{i}", place / f"over-{i}"
        answer = root.with_suffix(".read")
        kills.begin(ready.stage, ready.shared, root)
        pid = kills.forked(writing, root, said=root.with_suffix(".writer"))
        reader = kills.forked(reading, root, seed + i, over, answer, said=root.with_suffix(".said"))
        code = kills.ended(pid)
        over.touch()
        ended = kills.ended(reader)
        n_reads, *faults = json.loads(answer.read_text()) if not ended else (0, f"the reader ended with {ended}")
        faults += [f"the writer ended with {code}"] if code else []
        shutil.rmtree(root / "cache", ignore_errors=True)
        for p in (*root.glob("aligned-*"), root / "run" / "explore"):
            shutil.rmtree(p, ignore_errors=True)
        (root / "run" / "report.html").unlink(missing_ok=True)
        faults += kills.asked(compare, ready.whole, root, root=root)
        noted(found, faults, f"readers beside a writer, {i}: {n_reads} reads", say, max(1, n_reads))
        shutil.rmtree(root, ignore_errors=True)
    return found


# Other spellings, moves and copies ----------------------------------------------------------------------------------

def with_text(source, shared: Path):
    "A tiny experiment over a text of one's own."
    from stages import LIFE, tiny

    from evonb.text.tokens import CorpusConfig

    config = tiny(corpus=CorpusConfig(str(source), vocab_size=300))
    return replace(config, development=replace(config.development, arms=("connectome",), n_seeds=1, lrs=(4e-3,),
                                               lifetime=replace(LIFE, steps=8)))


def write_text(shared: Path):
    from evonb.core import Seeds
    from evonb.text.toy_english import Grammar

    grammar = Grammar(Seeds(3))
    (shared / "texts").mkdir(parents=True)
    for name in ("a.txt", "b.txt"):
        (shared / "texts" / name).write_text("".join(grammar.sentence() + "\n" for _ in range(700)))


def told_and_made(shared: Path, root: Path, how: str, seed: int):
    "Begin a run in its folder as everybody does, stop it, and say how it is called from now on."
    from evonb.connectomes.experiments import experiment

    os.chdir(root)
    shutil.copytree(shared / "texts", root / "texts")
    experiment(Path("run"), with_text("texts", shared), stages=("evolve",), **QUIET)
    rng = np.random.default_rng([seed, *how.encode()])
    run, texts = SPELLINGS[how](root, rng)
    return run, texts


def _link(path: Path, to: Path):
    path.symlink_to(to, target_is_directory=to.is_dir())
    return path


def _moved(root, what):
    (root / "elsewhere").mkdir()
    return Path(shutil.move(root / what, root / "elsewhere" / f"{what}-moved"))


def _copied(root, what):
    return Path(shutil.copytree(root / what, root / f"copy of {what}"))


SPELLINGS = {  # how a run and its text are called when it goes on -> (folder of the run, text)
    "run": lambda root, rng: ("run", "texts"),
    "./run": lambda root, rng: ("./run", "./texts"),
    "run/": lambda root, rng: ("run/", "texts/"),
    "$PWD/run": lambda root, rng: (root / "run", root / "texts"),
    "../x/run": lambda root, rng: (Path("..") / root.name / "run", Path("..") / root.name / "texts"),
    "run/.": lambda root, rng: ("run/.", "texts/."),
    "through a link": lambda root, rng: (_link(root / "linked", root / "run"), _link(root / "words", root / "texts")),
    "through a linked folder": lambda root, rng: (_link(root.parent / f"{root.name}-l", root) / "run",
                                                  root.parent / f"{root.name}-l" / "texts"),
    "run moved": lambda root, rng: (_moved(root, "run"), "texts"),
    "run copied": lambda root, rng: (_copied(root, "run"), "texts"),
    "text moved": lambda root, rng: ("run", _moved(root, "texts")),
    "text copied": lambda root, rng: ("run", _copied(root, "texts")),
    "both moved": lambda root, rng: (_moved(root, "run"), _copied(root, "texts")),
}  # fmt: skip


def goes_on(shared: Path, whole: Path, root: Path, how: str, seed: int) -> list:
    "A run under another spelling goes on without a refusal and with the same bits."
    from evonb.connectomes.experiments import experiment

    run, texts = told_and_made(shared, root, how, seed)
    experiment(run, with_text(texts, shared), resume=True, **QUIET)
    out = root.parent / f"{root.name} as run"
    shutil.copytree(Path(run).resolve(), out / "run")
    return compare(whole, out)


def other_content(shared: Path, root: Path, how: str, seed: int) -> list:
    "A text of which one letter is another one is refused, whatever it is called."
    from evonb.connectomes.experiments import experiment
    from evonb.core import EvonbError

    run, texts = told_and_made(shared, root, how, seed)
    rng = np.random.default_rng([seed, 1, *how.encode()])
    file = (Path(texts) / ("a.txt", "b.txt")[int(rng.integers(2))]).resolve()
    text = bytearray(file.read_bytes())
    at = int(rng.integers(len(text)))
    text[at] = text[at] ^ 1
    file.write_bytes(text)
    try:
        experiment(run, with_text(texts, shared), resume=True, **QUIET)
    except EvonbError as e:
        return [] if "texts" in str(e) or "text" in str(e) else [f"the refusal says: {e}"]
    return [f"{file.name} has another letter at {at}, and nobody noticed"]


def spellings(place: Path, hows, seed: int, say) -> dict:
    "Each spelling goes on; each with another content is refused."
    found, shared, whole = dict(tried=0, failures=[]), place / "shared", place / "whole"
    write_text(shared)
    whole.mkdir()

    def uninterrupted():
        from evonb.connectomes.experiments import experiment

        os.chdir(whole)
        shutil.copytree(shared / "texts", whole / "texts")
        experiment(Path("run"), with_text("texts", shared), **QUIET)
        shutil.rmtree(whole / "texts")
    if code := kills.ended(kills.forked(uninterrupted, said=place / "whole.said")):
        raise SystemExit(f"the run can't be made ({code}): {(place / 'whole.said').read_text()}")
    for i, how in enumerate(hows):
        for what in (goes_on, other_content):
            root = place / f"s{i}-{what.__name__}"
            root.mkdir()
            given = (shared, whole) if what is goes_on else (shared,)
            faults = kills.asked(what, *given, root, how, seed, root=root)
            if faults:
                say(root.with_suffix(".said").read_text()[-800:])
            noted(found, faults, f"{how}: {what.__name__.replace('_', ' ')}", say)
    return found


# Runs inside of runs, and writers that aren't this one --------------------------------------------------------------

def foreign(place: Path, outer: Path, case: int, go: Path, ready: Path):
    "A live writer that holds no lock of the outer run: it writes slowly, beside the run or in one inside of it."
    import xarray as xr

    from evonb.store import create_run, replacing, write_dataset, writing_folder

    def waits():
        ready.touch()
        until = time.monotonic() + PATIENCE
        while not go.exists() and time.monotonic() < until:
            time.sleep(0.005)

    if case == 0:  # as the report is written
        with replacing(outer / "report.html") as t:
            t.write_text("half")
            waits()
            t.write_text("whole")
    elif case == 1:  # as explorers are
        with writing_folder(outer / "explore") as t:
            (t / "page.html").write_text("whole")
            waits()
    elif case == 2:  # a run inside of the run, with its own lock
        with create_run(outer / "alignment" / "mine", dict(seed=0)) as run, replacing(run.file("x.json")) as t:
            t.write_text("{}")
            waits()
    else:  # a dataset, whose temporary folder has another name
        real, ds = os.replace, xr.Dataset(dict(a=("x", np.arange(3))))

        def replaces(a, b):
            waits()
            return real(a, b)
        os.replace = replaces
        write_dataset(outer / "more.zarr.zip", ds)


APPEARS = ("report.html", "explore/page.html", "alignment/mine/x.json", "more.zarr.zip")


def swept(place: Path, i: int, case: int) -> list:
    "Go on with a run beside a live foreign writer, and with what a dead one left: only the latter goes."
    from evonb.store import create_run, reopen_run

    outer, go, ready = place / f"outer-{i}", place / f"go-{i}", place / f"ready-{i}"
    with create_run(outer, dict(seed=0)) as run:
        run.file("done.json").write_text("{}")
    pid = kills.forked(foreign, place, outer, case, go, ready, said=place / f"foreign-{i}.said")
    until = time.monotonic() + PATIENCE
    while not ready.exists() and time.monotonic() < until:
        time.sleep(0.005)
    dead = kills.forked(lambda: 0, said=place / "dead.said")
    kills.ended(dead)
    left = outer / f".left.json.{dead}@{socket.gethostname()}.tmp"
    left.write_text("half")
    with reopen_run(outer):
        pass
    out = [f"{left.name} is still there"] if left.exists() else []
    go.touch()
    if code := kills.ended(pid):
        out.append(f"the other writer ended with {code}: {(place / f'foreign-{i}.said').read_text()[-300:]}")
    return out + ([] if (outer / APPEARS[case]).exists() else [f"{APPEARS[case]} never appeared"])


def foreign_writers(place: Path, n: int, seed: int, say) -> dict:
    "Sweeps beside live writers."
    found, rng = dict(tried=0, failures=[]), np.random.default_rng([seed, *b"foreign"])
    for i in range(n):
        case = i % 4 if n >= 4 else int(rng.integers(4))
        faults = kills.asked(swept, place, i, case, root=place / f"sweep-{i}")
        noted(found, faults, f"a foreign writer of {APPEARS[case]}, {i}", say)
    return found


# What can't be added ------------------------------------------------------------------------------------------------

def unaddable(place: Path, names, say) -> dict:
    "A finished run is asked for what can't be added: it refuses, and stays finished and what it was, to the bit."
    import looking
    import stages

    from evonb.core import EvonbError
    from evonb.populations.breeding import breed
    from evonb.store import open_run

    def more_generations(shared):
        stages.experiment(shared / "evolved", stages.tiny(evolution=replace(stages.tiny().evolution, n_generations=3)),
                          resume=True, **QUIET)

    def more_evaluations(shared):
        config = stages.breeding(shared)
        breed(shared / "bred" / "run", config, **QUIET) if not (shared / "bred").exists() else breed(
            shared / "bred" / "run", replace(config, budget=2 * config.budget), resume=True, **QUIET)

    def other_lifetimes(shared):
        stages.develop_run(shared / "finished", dict(test_windows=99), **QUIET)

    cases = dict(more_generations=(stages._evolved, more_generations, "evolved"),
                 other_lifetimes=(stages._finished, other_lifetimes, "finished"),
                 more_evaluations=(lambda s: (stages._experts(s), more_evaluations(s)), more_evaluations, "bred/run"))

    def ask(name):
        make, request, run = cases[name]
        make(shared := place / name)
        before = {k: p.read_bytes() for k, p in looking.files(shared / run).items()}
        try:
            request(shared)
        except EvonbError:
            after = {k: p.read_bytes() for k, p in looking.files(shared / run).items()}
            status = open_run(shared / run).state()["status"]
            return [f"{k} changed" for k in before.keys() | after.keys() if before.get(k) != after.get(k)] + (
                [] if status == "complete" else [f"the run is {status}"])
        return ["it wasn't refused"]
    found = dict(tried=0, failures=[])
    for name in names or cases:
        (place / name).mkdir(parents=True)
        noted(found, kills.asked(ask, name, root=place / f"{name}-asked"), name.replace("_", " "), say)
    return found


# A server under load ------------------------------------------------------------------------------------------------

TOKEN = "a-token-for-this-suite-only"


def served(base: Path, port: int, log: Path, adapters: Path):
    "A server process, ready."
    code = "import sys; from evonb import main; sys.exit(main())"
    words = ["serve", "--base", base, "--port", port, "--device", "cpu", "--name", "tiny", "--adapters", adapters]
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=log.open("w"),
                               stderr=subprocess.STDOUT, env=os.environ | dict(EVONB_SERVER_TOKEN=TOKEN))
    until = time.monotonic() + PATIENCE
    while "server:" not in log.read_text() or "token:" not in log.read_text():
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"the server didn't begin: {log.read_text()[-1500:]}")
        time.sleep(0.05)
    return process


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def asks(url: str, seed: int, over, told: list):
    "A client: requests of random size, some of which it leaves without waiting; what came of each."
    rng = random.Random(f"client {seed}")
    while not over.is_set():
        prompt = [[rng.randrange(200) for _ in range(rng.randrange(2, 14))] for _ in range(rng.randrange(1, 6))]
        body = dict(model="tiny", prompt=prompt, max_tokens=rng.choice((0, 1, 4)), temperature=0, logprobs=1)
        body |= dict(echo=True) if body["max_tokens"] == 0 else {}
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {
            "Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=0.05 if rng.random() < 0.15 else PATIENCE) as reply:
                choices = json.loads(reply.read())["choices"]
            told.append("answered" if len(choices) == len(prompt) else f"{len(choices)} of {len(prompt)} choices")
        except urllib.error.HTTPError as e:
            said = e.read()
            told.append("refused" if e.code in (429, 503) and b"error" in said else f"{e.code}: {said[:200]!r}")
        except (OSError, ValueError, EOFError) as e:  # no server, or one that went while it answered
            cut = isinstance(e, ValueError) and not over.is_set()
            told.append(f"half an answer: {e}" if cut else "no answer")
        except Exception as e:  # http.client.IncompleteRead and RemoteDisconnected
            told.append("no answer" if type(e).__module__ == "http.client" else f"{type(e).__name__}: {e}")
        if told[-1] == "no answer":
            time.sleep(0.1)


def under_load(base: Path, place: Path, i: int, seed: int, sent: int, after: float) -> tuple:
    "Clients ask, some leave, and the server is stopped or killed: how many requests, and what went wrong."
    log, over, told = place / f"server-{i}.log", threading.Event(), []
    process = served(base, port := free_port(), log, place)
    clients = [threading.Thread(target=asks, args=(f"http://127.0.0.1:{port}", 100 * seed + c, over, told))
               for c in range(8)]
    for c in clients:
        c.start()
    until = time.monotonic() + PATIENCE
    while "answered" not in told and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(after)
    process.send_signal(sent)
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        code = "hangs"
    over.set()
    for c in clients:
        c.join(PATIENCE)
    faults = [t for t in dict.fromkeys(told) if t not in ("answered", "refused", "no answer")]
    said = log.read_text()
    if code not in ((0, 130) if sent == signal.SIGTERM else (-sent,)):
        faults.append(f"the server ended with {code}: {said[-400:]}")
    if any(w in said for w in ("Traceback", "terminate called", "Fatal Python")):
        faults.append(f"the server said: {said[-600:]}")
    if "answered" not in told:
        faults.append(f"nothing was answered: {told[:5]}")
    return len(told), faults


def servers(base: Path, place: Path, n: int, seed: int, say) -> dict:
    "Servers under load, stopped or killed at random moments."
    found, rng = dict(tried=0, failures=[], requests=0), np.random.default_rng([seed, *b"servers"])

    def loads(i, sent, after, answer):
        answer.write_text(json.dumps(under_load(base, place, i, seed + i, sent, after)))
    for i in range(n):
        sent = (signal.SIGTERM, signal.SIGKILL)[i % 2 if n > 1 else 0]
        after = float(rng.uniform(0.3, 2.5))
        answer = place / f"load-{i}.answer"
        kills.ended(kills.forked(loads, i, sent, after, answer, said=place / f"load-{i}.said"))
        n_asked, faults = json.loads(answer.read_text()) if answer.exists() else (
            0, [f"the clients failed: {(place / f'load-{i}.said').read_text()[-600:]}"])
        found["requests"] += n_asked
        noted(found, faults, f"{sent.name} after {after:.1f} s, {n_asked} requests", say)
    return found


def bred_by(base: Path, shared: Path, root: Path, port: int, adapters: Path):
    "A population that is scored by a server; 75 when it was stopped by the server's end."
    from stages import breeding

    from evonb.core import EvonbError, Stopped
    from evonb.kinds import ability
    from evonb.populations.breeding import breed

    os.environ["EVONB_SERVER_TOKEN"] = TOKEN
    backend = ability("population", "server")(f"http://127.0.0.1:{port}", None, adapters, retries=0, timeout=PATIENCE)
    config = replace(breeding(shared), methods=("genome",))
    try:
        breed(root / "run", config, resume=True, open_backend=backend, **QUIET)
    except Stopped:
        return kills.STOPPED
    except EvonbError as e:
        print(type(e).__name__, e)
        return kills.STOPPED
    return 0


def killed_servers(shared: Path, base: Path, place: Path, n: int, seed: int, say) -> dict:
    "A population that is bred through a server that dies: it stops resumably, and ends as one whose server stayed."
    found, rng, adapters = dict(tried=0, failures=[]), np.random.default_rng([seed, *b"bred"]), place / "adapters"
    adapters.mkdir()
    port = free_port()

    def breeds(root, until=None, sent=signal.SIGKILL):
        process = served(base, port, root.with_suffix(".log"), adapters)
        pid = kills.forked(bred_by, base, shared, root, port, adapters, said=root.with_suffix(".said"))
        began = time.monotonic()
        if until:
            while time.monotonic() < began + until and not os.waitid(
                    os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                time.sleep(0.01)
            process.send_signal(sent)
        code, took = kills.ended(pid), time.monotonic() - began
        process.kill()
        process.wait()
        return code, took
    (place / "whole").mkdir()
    code, took = breeds(place / "whole")
    if code:
        raise SystemExit(f"breeding through a server fails: {(place / 'whole.said').read_text()[-1500:]}")
    for i in range(n):
        root, faults = place / f"killed-{i}", []
        root.mkdir()
        sent, until = (signal.SIGKILL, signal.SIGTERM)[i % 2], float(rng.uniform(0.3, 0.9)) * took
        code, _ = breeds(root, until, sent)
        if code not in (0, kills.STOPPED):
            faults.append(f"it ended with {code}: {root.with_suffix('.said').read_text()[-500:]}")
        elif (code := breeds(root)[0]):
            faults.append(f"it doesn't go on ({code}): {root.with_suffix('.said').read_text()[-500:]}")
        else:
            faults = kills.asked(compare, place / "whole", root, root=root)
        noted(found, faults, f"{sent.name} to the server after {until:.1f} s of {took:.1f}", say)
    return found
