"""What goes wrong around a run: memory that runs out for a moment, a disk or a table of files that is full, a signal.

Each trial lets one call fail at a random moment of a stage, goes on without the fault, and compares with the run that
nothing happened to. The stage must end in an error of ours (or the system's, which the command line tells in a line),
or not notice; whatever it was never becomes an individual's fitness."""

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kills
import numpy as np
from looking import compare, look

ENDED = ("interrupted", "failed", "stopped", "complete")
CALLS = {  # what fails -> how it fails
    "open": (errno.EMFILE, errno.EIO, errno.ENOMEM), "make": (errno.ENOSPC, errno.EIO),
    "write": (errno.ENOSPC, errno.EIO), "map": (errno.ENOMEM,), "fork": (errno.EAGAIN, errno.ENOMEM),
    "compute": ("can't allocate memory",), "array": ("Unable to allocate",)}  # fmt: skip
EVENTS = {"open": "open", "os.rename": "make", "os.mkdir": "make", "os.remove": "make", "mmap.__new__": "map",
          "os.fork": "fork", "subprocess.Popen": "fork"}  # fmt: skip


class Failing:
    "Counts the calls of this process that can fail, and lets the n-th of a kind fail."

    def __init__(self, root: Path, kind="", n=0, how=None):
        self.root, self.kind, self.n, self.how = f"{root}/", kind, n, how
        self.seen, self.asleep, self.struck = dict.fromkeys(CALLS, 0), False, False

    def count(self, kind: str, path=""):
        "A call; raises where it is to fail."
        if self.asleep:
            return
        self.seen[kind] += 1
        if kind == self.kind and self.seen[kind] == self.n:
            self.struck = True
            raise self.error(path)

    def error(self, path):
        "What the call raises."
        if self.kind == "compute":
            return RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
                                "memory: you tried to allocate 40894464 bytes. Error code 12 (Cannot allocate memory)")
        if self.kind == "array":
            return MemoryError("Unable to allocate 19.5 MiB for an array with shape (5120000,)")
        return OSError(self.how, os.strerror(self.how), path or None)

    def hook(self, event, args):
        "The audit hook: opens, renames and the like below the root; maps and forks anywhere."
        if (kind := EVENTS.get(event)) is None:
            return
        path = str(args[0]) if args else ""
        if kind in ("map", "fork") or path.startswith(self.root):
            self.count(kind, path if kind in ("open", "make") else "")

    def installed(self):
        "Let calls of this process pass by here; it is a child that does nothing else."
        import torch

        sys.addaudithook(self.hook)
        torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: self.count("compute"))
        softmax, fsync, watch = np.concatenate, os.fsync, self

        def concatenate(*given, **more):
            watch.count("array")
            return softmax(*given, **more)

        def synced(fd):  # what a write that didn't reach the disk says at the latest
            watch.count("write", os.readlink(f"/proc/self/fd/{fd}"))
            return fsync(fd)
        np.concatenate, os.fsync = concatenate, synced
        return self


def counted(ready, root: Path) -> dict:
    "How often each call happens in a run that nothing happens to."
    kills.begin(ready.stage, ready.shared, root)
    failing = Failing(root).installed()
    ready.stage.work(ready.shared, root)
    failing.asleep = True
    return failing.seen


def fails(ready, root: Path, kind: str, n: int, how) -> list:
    "Do a stage in which one call fails."
    from evonb.core import EvonbError

    kills.begin(ready.stage, ready.shared, root)
    failing, said = Failing(root, kind, n, how).installed(), []
    try:
        ready.stage.work(ready.shared, root)
    except (EvonbError, OSError) as e:
        if not str(e):
            said = [f"{type(e).__name__} says nothing"]
    except BaseException as e:
        said = [f"{type(e).__name__} instead of an error of ours: {str(e)[:200]}"]
    failing.asleep = True
    return said + ([] if failing.struck else ["it never came to that call"]) + look(root, ENDED)


def stage_faults(ready, place: Path, seed: int, n: int, say) -> dict:
    "Faults of a stage: kind of call -> tried, failures, and how often the call happens."
    rng, found = np.random.default_rng([seed, *b"around", *ready.stage.name.encode()]), {}
    root = place / "around"
    seen = kills.asked(counted, ready, root, root=root)
    shutil.rmtree(root)
    if not isinstance(seen, dict):
        raise SystemExit(f"{ready.stage.name}: {seen}")
    for kind, hows in CALLS.items():
        if not seen[kind]:
            continue
        one = found.setdefault(f"{kind} fails", dict(tried=0, failures=[]))
        for _ in range(n):
            at, how = 1 + int(rng.integers(seen[kind])), hows[rng.integers(len(hows))]
            faults = kills.asked(fails, ready, root, kind, at, how, root=root) or kills.asked(
                resumed, ready, root, root=root)
            told = how if isinstance(how, str) else errno.errorcode[how]
            noted(one, faults, f"{ready.stage.name}, {kind} {at} of {seen[kind]} fails ({told})", say)
            shutil.rmtree(root, ignore_errors=True)
    return found


def resumed(ready, root: Path) -> list:
    ready.stage.work(ready.shared, root)
    return compare(ready.whole, root)


def noted(found: dict, faults: list, what: str, say, n=1):
    "Count a fault and what came of it."
    found["tried"] += n
    found["failures"] += [f"{what}: {f}" for f in faults]
    say(f"{what}: {'FAILED: ' + '; '.join(map(str, faults))[:900] if faults else 'as it should'}")


# A signal while the command is still importing ----------------------------------------------------------------------

def interrupted_imports(place: Path, n: int, seed: int, say) -> dict:
    "The command gets a signal within its first seconds: a line, no traceback, and nothing half made."
    rng, found = np.random.default_rng([seed, *b"imports"]), dict(tried=0, failures=[])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what runs behind ignore it, children too
    for i in range(n):
        sent, after = (signal.SIGINT, signal.SIGTERM)[int(rng.integers(2))], float(rng.uniform(0.02, 2.5))
        out = place / f"imports-{i}"
        command = [sys.executable, "-c", "import sys; from evonb import main; sys.exit(main())", "run", "--preset",
                   "demo", "--device", "cpu", "--out", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(after)
        process.send_signal(sent)
        try:
            said, _ = process.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
        faults = [] if process.returncode in (130, -sent) else [f"it ended with {process.returncode}: {said[-300:]}"]
        began_python = not re.search(r"<frozen (site|importlib|zipimport)|Fatal Python error: init_", said)
        if "Traceback" in said and began_python and "evonb" in said:
            faults.append(f"a traceback: {said[-500:]}")
        left = [p.name for p in out.glob("*")] if out.is_dir() else []
        if left and "run.json" not in left and set(left) - {".lock"}:
            faults.append(f"it left {left}")
        noted(found, faults, f"{sent.name} {after:.2f} s after the command began", say)
    return found


# A file that can't be written in the middle -------------------------------------------------------------------------

def short_write(path: Path, limit: int):
    "Files of this process may be so large and no larger: what is written beyond fails with EFBIG."
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def limited(ready, root: Path, limit: int) -> list:
    "Do a stage with a limit on the size of files; it must end in an error of ours."
    from evonb.core import EvonbError

    kills.begin(ready.stage, ready.shared, root)
    out = io.StringIO()
    sys.stdout = sys.stderr = out  # what it prints goes to a file, which is limited, too
    short_write(root, limit)
    try:
        ready.stage.work(ready.shared, root)
    except (EvonbError, OSError):
        pass
    except BaseException as e:
        return [f"{type(e).__name__} instead of an error of ours: {str(e)[:200]}"]
    return []


def limits(ready, place: Path, seed: int, n: int, say) -> dict:
    "A limit of a file's size that the run's files reach at a random place."
    rng, found = np.random.default_rng([seed, *b"limits", *ready.stage.name.encode()]), dict(tried=0, failures=[])
    sizes = [p.stat().st_size for p in ready.whole.rglob("*") if p.is_file() and p.stat().st_size > 600]
    for _ in range(n):
        root, limit = place / "limited", int(rng.choice(sizes)) - int(rng.integers(1, 100))
        faults = kills.asked(limited, ready, root, limit, root=root)
        faults = faults or kills.asked(look, root, ENDED, root=root) or kills.asked(resumed, ready, root, root=root)
        noted(found, faults, f"{ready.stage.name}, no file above {limit} bytes", say)
        shutil.rmtree(root, ignore_errors=True)
    return found
