"""Kill runs at chosen moments, go on with them, and compare them with the run that nobody killed.

    python tests/faults/kills.py                                     all stages
    python tests/faults/kills.py --stage evolve --trial 17 --seed 3  one trial again

Each trial kills its run one to four times, each time where its seed says: before the n-th change of a file ("file"),
before one with what was being written cut off at a random place ("torn"), or after a share of the time that the whole
run takes ("time"). The folder must be readable after each kill. A run is a forked process, for importing takes long."""

import argparse
import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # a process with threads can't be forked safely
os.environ |= dict(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import numpy as np  # noqa: E402

HERE = Path(__file__).resolve().parent
STOPPED, FAILED = 75, 1  # exit codes of a run that stopped on request, and of one that raised
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
AIMS = ("file", "file", "torn", "time")
ENDED = ("interrupted", "stopped", "complete")  # what a run says of itself after a kill
MOST_KILLS = 4  # of one trial
AT_LEAST = 40  # kills of each stage in the full suite


# Dying at a chosen moment ----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Kill:
    "When and how a run dies."
    aim: str  # "file", "torn" or "time"
    signal: str  # SIGKILL or SIGTERM, which asks
    at: float  # the n-th change of a file (of those that can be torn), or seconds
    share: float = 0.5  # of what was being written, that is left


class Watch:
    "Counts what this process is about to change below a folder, and dies where it is told."
    CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "open"}

    def __init__(self, root: Path, kill: Kill | None = None):
        self.root, self.kill, self.n, self.torn, self.asleep = f"{root}/", kill, 0, 0, False

    def __call__(self, event, args):
        "The audit hook: called before each change."
        if event not in self.CHANGES or self.asleep or not str(args[0]).startswith(self.root):
            return
        if event == "open" and not (args[1] is None or set(args[1]) & set("wax+")):
            return  # Python's own open, to read; os.open counts always: it is how a file is synchronised
        self.n += 1
        cut = self.cut_off(event, args)
        self.torn += cut is not None
        if not self.kill or self.kill.aim == "time" or (self.kill.aim == "torn" and cut is None):
            return
        if self.kill.at == (self.n if self.kill.aim == "file" else self.torn):
            self.asleep = True
            self.strike(cut)

    def strike(self, cut):
        "What happens then."
        if self.kill.aim == "torn":
            self.tear(cut)
        os.kill(os.getpid(), SIGNALS[self.kill.signal])

    def cut_off(self, event, args):
        "The file that could be written halfway now: what is about to be moved into its place, or a log."
        if event == "os.rename" and str(args[0]).endswith(".tmp"):
            return Path(args[0])
        return Path(args[0]) if event == "open" and args[1] and "a" in args[1] and args[0].endswith("l") else None

    def tear(self, path: Path):
        "Leave a share of a file, or of the last file of a folder; of a log's new line only its beginning."
        if path.suffix == ".jsonl":
            with path.open("ab") as f:
                f.write(b'{"time": "2026-01-0'[: max(1, round(19 * self.kill.share))])
            return
        whole = sorted(p for p in path.rglob("*") if p.is_file())[-1] if path.is_dir() else path
        os.truncate(whole, int(whole.stat().st_size * self.kill.share))


# Processes -------------------------------------------------------------------------------------------------------

def forked(function, *args, said: Path) -> int:
    "A child that calls a function, with all that it prints in a file; it exits with what the function returns."
    if pid := os.fork():
        return pid
    code = FAILED
    try:
        for n in (signal.SIGTERM, signal.SIGINT):
            signal.signal(n, signal.SIG_DFL)
        with said.open("a") as f:
            os.dup2(f.fileno(), 1)
            os.dup2(f.fileno(), 2)
        code = function(*args) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    "The exit code of a child; of one that died by a signal, the signal's number below zero."
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_work(stage, shared: Path, root: Path, kill: Kill | None, counts: Path | None = None) -> int:
    "What a child does: the stage, until it ends or dies."
    from evonb.core import Stopped

    watch = Watch(root, kill)
    sys.addaudithook(watch)
    try:
        stage.work(shared, root)
    except Stopped:
        return STOPPED
    finally:
        watch.asleep = True
    if counts:
        counts.write_text(json.dumps(dict(file=watch.n, torn=watch.torn, modules=list(sys.modules))))
    return 0


def run(stage, shared: Path, root: Path, kill: Kill | None = None, counts=None) -> int:
    "Begin a run or go on with it, in a child that dies as told; its exit code."
    pid = forked(at_work, stage, shared, root, kill, counts, said=root.with_suffix(".said"))
    if kill and kill.aim == "time":
        until = time.monotonic() + kill.at
        while time.monotonic() < until and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, SIGNALS[kill.signal])
    return ended(pid)


# Trials ----------------------------------------------------------------------------------------------------------

@dataclass
class Prepared:
    "What the trials of a stage share: its folder, the run that nobody killed, and how much that run did."
    stage: object
    shared: Path
    whole: Path
    size: dict  # file: changes of files, torn: of these, that can be torn; time: seconds; modules: what it imported


def begin(stage, shared: Path, root: Path):
    "The folder of a trial, with a copy of the run that it begins with."
    root.mkdir(parents=True)
    if stage.copies:
        shutil.copytree(shared / stage.copies, root / "run")


def uninterrupted(stage, shared: Path, root: Path, counts: Path):
    "The run that nobody kills, and how much it did."
    begin(stage, shared, root)
    began = time.monotonic()
    code = run(stage, shared, root, None, counts)
    if code:
        raise SystemExit(f"{stage.name} fails without a fault:\n{root.with_suffix('.said').read_text()}")
    counts.write_text(json.dumps(json.loads(counts.read_text()) | dict(time=time.monotonic() - began)))


def prepared(stage, place: Path, other_process=True) -> Prepared:
    "Prepare a stage; the run to compare with comes from another process, which hashes strings otherwise."
    shared, whole, counts = place / "shared", place / "whole", place / "counts.json"
    shared.mkdir(parents=True)
    if ended(forked(stage.prepare, shared, said=place / "prepare.said")):
        raise SystemExit(f"{stage.name} can't be prepared:\n{(place / 'prepare.said').read_text()}")
    if other_process:
        command = [sys.executable, __file__, "--stage", stage.name, "--whole", str(place)]
        subprocess.run(command, check=True, env=os.environ | dict(PYTHONHASHSEED="1"))
    else:
        uninterrupted(stage, shared, whole, counts)
    return Prepared(stage, shared, whole, known(json.loads(counts.read_text())))


def known(size: dict) -> dict:
    "Import here what a run imports, so that its children needn't; they share what is in memory by now."
    import xarray as xr

    for module in size["modules"]:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    xr.backends.list_engines()
    gc.collect()
    gc.freeze()
    if (n := len(os.listdir("/proc/self/task"))) > 1:
        raise SystemExit(f"this process has {n} threads, so it can't be forked safely")
    return size


def draw(rng, size: dict, left: float) -> Kill:
    "A moment of what is left of a run."
    aim = AIMS[rng.integers(len(AIMS))]
    sent = "SIGKILL" if rng.random() < 0.5 or aim == "torn" else "SIGTERM"  # what is torn was never finished
    at = rng.uniform(0, 0.9 * left) * size[aim]
    return Kill(aim, sent, round(at, 4) if aim == "time" else 1 + int(at), round(float(rng.random()), 3))


def trial(stage: Prepared, number: int, seed: int, place: Path) -> dict:
    "Kill a run, go on with it, and compare: what was done, and what went wrong."
    from looking import compare, look

    rng = np.random.default_rng([seed, number, *stage.stage.name.encode()])
    root, kills, faults, left = place / "trial", [], [], 1.0
    begin(stage.stage, stage.shared, root)
    goal = int(rng.integers(1, MOST_KILLS + 1))
    while len(kills) < goal:
        kill = draw(rng, stage.size, left)
        left = max(0.15, left - kill.at / max(1, stage.size[kill.aim]))
        code = run(stage.stage, stage.shared, root, kill)
        if code == 0:
            break
        kills.append(asdict(kill) | dict(ended=code))
        if code not in (STOPPED, -SIGNALS[kill.signal]):
            faults.append(f"after {kill}: the run failed with {code}")
            break
        faults += asked(look, root, ("stopped",) if code == STOPPED else ENDED, root=root)
        if stage.stage.keeps:
            faults += asked(stage.stage.keeps, stage.shared, root, root=root)
    if not faults and (code := run(stage.stage, stage.shared, root)):
        faults.append(f"the resumed run failed with {code}")
    if not faults:
        faults += asked(compare, stage.whole, root, root=root)
    told = root.with_suffix(".said").read_text()[-2000:] if faults else ""
    shutil.rmtree(root)
    root.with_suffix(".said").unlink()
    return dict(trial=number, seed=seed, kills=kills, faults=faults, told=told)


def asked(question, *args, root: Path) -> list:
    "What a function that returns faults says; a child asks, so that this process stays without threads."
    answer = root.with_suffix(".answer")
    answer.unlink(missing_ok=True)

    def ask():
        answer.write_text(json.dumps(question(*args)))
    code = ended(forked(ask, said=root.with_suffix(".said")))
    return json.loads(answer.read_text()) if code == 0 else [f"{question.__name__} failed with {code}"]


# Suites ----------------------------------------------------------------------------------------------------------

def trials_of(stage: Prepared, place: Path, seed: int, at_least: int, only: int | None, say) -> list:
    "Trials until there were so many kills, or one alone."
    done, number = [], 0 if only is None else only
    while not done or (only is None and sum(len(t["kills"]) for t in done) < at_least):
        done.append(trial(stage, number, seed, place))
        again = f"python tests/faults/kills.py --stage {stage.stage.name} --trial {number} --seed {seed}"
        kills = ", ".join(f"{k['signal']} {k['aim']} {k['at']:g}" for k in done[-1]["kills"])
        say(f"{stage.stage.name} {number}: {kills or 'not killed'}: {'FAILED' if done[-1]['faults'] else 'the same'}")
        if done[-1]["faults"]:
            say("\n".join([*done[-1]["faults"], done[-1]["told"], f"again: {again}"]))
        number += 1
    return done


def counted(trials: list) -> dict:
    "The counts of a stage."
    kills = [k for t in trials for k in t["kills"]]
    return dict(
        kills=len(kills), by_signal=dict(Counter(k["signal"] for k in kills)),
        by_moment=dict(Counter(k["aim"] for k in kills)), stopped=sum(k["ended"] == STOPPED for k in kills),
        comparisons=sum(bool(t["kills"]) for t in trials), failures=[t for t in trials if t["faults"]],
    )  # fmt: skip


def suite(names, seed: int, at_least: int, only=None, other_process=True, say=print, injected=None) -> dict:
    "All trials of some stages, and faults that are injected: their counts."
    import torch

    torch.set_num_threads(1)
    from stages import EXTENSIONS, STAGES, warm_up

    stages = STAGES | EXTENSIONS

    warm_up()
    began, found, others = time.monotonic(), {}, {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"evonb-{name}-") as folder:
            ready = prepared(stages[name], Path(folder), other_process)
            found[name] = counted(trials_of(ready, Path(folder), seed, at_least, only, say))
            found[name]["changes_of_files"] = ready.size["file"]
            if injected:
                others[name] = injected(ready, Path(folder), seed, say)
    total = {k: sum(s[k] for s in found.values()) for k in ("kills", "comparisons", "stopped")}
    total["failures"] = sum(len(s["failures"]) for s in found.values())
    about = dict(seed=seed, python=sys.version.split()[0], torch=str(torch.__version__))
    return about | dict(total=total, stages=found, injected=others, seconds=round(time.monotonic() - began))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stage", action="append", help="only this one; may be given again")
    parser.add_argument("--trial", type=int, help="only this one")
    parser.add_argument("--seed", type=int, default=0, help="decides when runs are killed")
    parser.add_argument("--kills", type=int, default=AT_LEAST, help="at least so many of each stage")
    parser.add_argument("--one-process", action="store_true", help="compare with a run of the same process")
    parser.add_argument("--out", type=Path, help="a file for the counts (JSON)")
    parser.add_argument("--whole", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    sys.path.insert(0, str(HERE))
    from stages import EXTENSIONS, STAGES

    given, stages = arguments(), STAGES | EXTENSIONS
    if given.whole:
        import torch

        torch.set_num_threads(1)
        uninterrupted(stages[given.stage[0]], *(given.whole / n for n in ("shared", "whole", "counts.json")))
        return 0
    found = suite(given.stage or list(STAGES), given.seed, given.kills, given.trial, not given.one_process,
                  lambda text: print(text, flush=True))  # fmt: skip
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    for name, stage in found["stages"].items():
        print(f"{name}: {stage['kills']} kills ({stage['by_signal']}, {stage['by_moment']}), {stage['comparisons']} "
              f"resumed runs compared, {len(stage['failures'])} failures")  # fmt: skip
    print(f"in all {found['total']} in {found['seconds']} s, seed {given.seed}")
    return bool(found["total"]["failures"])


if __name__ == "__main__":
    sys.exit(main())
