"""Faults that aren't kills: a full disk, a read-only folder, a clock that goes back, two writers, flipped bits.

Each returns how often it was tried and what went wrong. Disks and read-only folders are real ones, mounted where no
other process sees them; where that isn't allowed they are skipped, and it is said why."""

import ctypes
import datetime
import os
import shutil
import time
import warnings
from dataclasses import replace
from pathlib import Path

import kills
import numpy as np
from looking import compare, look

MOUNT = dict(readonly=1, remount=32, bind=4096, recursive=16384, private=1 << 18)
OWN_MOUNTS = 0x00020000


# Mounts of this process alone -------------------------------------------------------------------------------------

def _call(name, *args):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*args):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def own_mounts():
    "From here on no other process sees what this one mounts."
    _call("unshare", OWN_MOUNTS)
    _call("mount", b"none", b"/", None, MOUNT["recursive"] | MOUNT["private"], None)


def disk(folder: Path, size: int, again=False):
    "A file system of so many bytes at a folder; again: another size."
    _call("mount", b"tmpfs", bytes(folder), b"tmpfs", MOUNT["remount"] * again, b"size=%d" % size)


def read_only(folder: Path):
    "A folder that can't be written, until `writable`."
    _call("mount", bytes(folder), bytes(folder), None, MOUNT["bind"], None)
    _call("mount", b"none", bytes(folder), None, MOUNT["bind"] | MOUNT["remount"] | MOUNT["readonly"], None)


def writable(folder: Path):
    _call("umount2", bytes(folder), 2)


def why_not(place: Path) -> str:
    "Why this machine doesn't let us mount; empty where it does."
    folder = place / "mount"
    folder.mkdir(exist_ok=True)

    def tries():
        own_mounts()
        disk(folder, 1 << 16)
    said = place / "mount.said"
    return "" if kills.ended(kills.forked(tries, said=said)) == 0 else said.read_text().strip().splitlines()[-1]


def size_of(root: Path) -> int:
    "Bytes in pages, as a file system in memory counts them: folders take none."
    return sum(4096 * (1 + p.stat().st_size // 4096) for p in root.rglob("*") if p.is_file())


# A full disk, and a folder that becomes read-only -------------------------------------------------------------------

ENDED = ("interrupted", "failed", "stopped", "complete")


def refused(ready, root: Path, says: str) -> list:
    "Do the stage, which must fail with our own error; what is left must be readable."
    from evonb.core import StoreError

    try:
        ready.stage.work(ready.shared, root)
    except StoreError as e:
        return ([] if says in str(e) and str(root) in str(e) else [f"the error says: {e}"]) + look(root, ENDED)
    except BaseException as e:
        return [f"{type(e).__name__} instead of an error of ours: {e}"]
    return ["no error"]


def full_disk(ready, root: Path, share: float) -> list:
    "The disk is full after a share of what a run needs; with room it goes on, and ends as the others."
    own_mounts()
    root.mkdir()
    copied = size_of(ready.shared / ready.stage.copies) if ready.stage.copies else 0
    disk(root, 20_480 + int(copied + share * (size_of(ready.whole) - copied)))
    if ready.stage.copies:
        shutil.copytree(ready.shared / ready.stage.copies, root / "run")
    out = refused(ready, root, "No room")
    disk(root, 1 << 28, again=True)
    return out or resumed(ready, root)


def resumed(ready, root: Path) -> list:
    ready.stage.work(ready.shared, root)
    return compare(ready.whole, root)


def becomes_read_only(ready, root: Path, share: float) -> list:
    "The run's folder can't be written any more after a share of the changes."
    own_mounts()
    kills.begin(ready.stage, ready.shared, root)
    (root / "run").mkdir(exist_ok=True)
    watch = kills.Watch(root, kills.Kill("file", "SIGKILL", 1 + int(share * ready.size["file"])))
    watch.strike = lambda cut: read_only(root / "run")
    kills.sys.addaudithook(watch)
    out = refused(ready, root, "can't be written")
    watch.asleep = True
    out += [] if out else refused(ready, root, "can't be written")  # nor can it be begun there
    writable(root / "run")
    return out or resumed(ready, root)


# A clock that goes back ---------------------------------------------------------------------------------------------

def clock_goes_back(ready, root: Path, share: float) -> list:
    "An hour back at each look, a run that was killed, files that are newer than the clock: all the same."
    def back(shared, where):
        from evonb import store
        from evonb.tasks import tasks

        real, asked = time.time, iter(range(1, 1 << 30))
        class Back(datetime.datetime):
            @classmethod
            def now(cls, tz=None): return cls.fromtimestamp(real() - 3600 * next(asked), tz)
        time.time, tasks.datetime = lambda: real() - 3600 * next(asked), Back
        store.now = lambda: Back.now(datetime.UTC).isoformat(timespec="seconds")
        ready.stage.work(shared, where)
    kills.begin(ready.stage, ready.shared, root)
    kill = kills.Kill("file", "SIGKILL", 1 + int(share * ready.size["file"]))
    if (code := kills.run(replace(ready.stage, work=back), ready.shared, root, kill)) not in (-9, 0):
        return [f"the first session ended with {code}"]
    for i, path in enumerate(sorted(root.rglob("*"))):  # later first, some in the future
        os.utime(path, (2_000_000_000 - i, 2_000_000_000 - i))
    if code := kills.run(replace(ready.stage, work=back), ready.shared, root):
        return [f"the second session ended with {code}: {root.with_suffix('.said').read_text()[-500:]}"]
    return kills.asked(compare, ready.whole, root, root=root)


# Two writers --------------------------------------------------------------------------------------------------------

def one_writer(path: Path, at: float, answer: Path):
    "Begin a run at a moment; what became of it."
    from evonb.core import RunBusyError
    from evonb.store import create_run, write_json

    while time.monotonic() < at:
        pass
    try:
        with create_run(path, dict(seed=0), resume=True) as run:
            for i in range(20):
                write_json(run.file(f"part-{i}.json"), dict(pid=os.getpid()))
                time.sleep(0.03)
        answer.write_text("won")
    except RunBusyError as e:
        answer.write_text(str(e))


def two_writers(root: Path) -> list:
    "Two processes begin one run at once: one does, the other is told who."
    root.mkdir()
    answers, at = [root / "a.txt", root / "b.txt"], time.monotonic() + 0.3
    pids = [kills.forked(one_writer, root / "run", at, a, said=root / "said") for a in answers]
    codes = [kills.ended(p) for p in pids]
    said = [a.read_text() if a.exists() else "nothing" for a in answers]
    winner = pids[said.index("won")] if "won" in said else None
    right = codes == [0, 0] and said.count("won") == 1 and any(f"pid {winner}" in s for s in said)
    if not right:
        return [f"they ended with {codes} and said {said}"]
    whole = [look(root, ("complete",)), [p for p in (root / "run").glob("part-*") if str(winner) not in p.read_text()]]
    return [str(w) for w in whole if w]


# Flipped bits -------------------------------------------------------------------------------------------------------

def opens(path: Path):
    "What reads a file when a run goes on."
    from evonb.alignment.features import open_reading
    from evonb.store import check_folder, read_dataset, read_json, read_tensors
    from evonb.text.tokens import open_prepared
    from evonb.training.base import load_model
    from evonb.training.connectome import Connectome
    from evonb.training.lifetime import load_checkpoint

    if (store := next((p for p in path.parents if p.suffix == ".zarr"), None)) is not None:
        return lambda: open_reading(store)
    if "corpus" in path.parts:
        return lambda: open_prepared(check_folder(path.parent))
    if path.parent.name == "model":
        return lambda: load_model(path.parent)
    if path.name.startswith("checkpoint-"):
        return lambda: load_checkpoint(path)
    if path.name == "connectome.safetensors":
        return lambda: Connectome.load(path)
    kinds = {".zip": read_dataset, ".json": read_json, ".safetensors": read_tensors}
    return lambda: kinds[path.suffix](path)


def known_scores(path: Path):
    "A batch of scores that can't be read is named and computed again: nothing of it is known."
    from evonb.core import DamagedFileError
    from evonb.populations.breeding import RunCache

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        known = len(RunCache(path.parent))
    if said:
        raise DamagedFileError(str(said[0].message)) if known == 0 else ValueError("some of it is known")


def flip(path: Path, read, rng, n: int) -> list:
    "Bits of a file flipped one by one: each must be an error of ours that names it (or its store) and what to do."
    from evonb.core import EvonbError

    out, good = [], path.read_bytes()
    named = next((p for p in path.parents if p.suffix == ".zarr"), path)
    read()
    for _ in range(n):
        data, at = bytearray(good), int(rng.integers(len(good)))
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            read()
            out.append(f"{path.name}: a flipped bit of byte {at} isn't noticed")
        except EvonbError as e:
            if str(named) not in str(e) or not any(w in str(e) for w in ("elete", "estore", "again")):
                out.append(f"{path.name}: byte {at}: {e}")
        except Exception as e:
            out.append(f"{path.name}: byte {at}: {type(e).__name__}: {e}")
    path.write_bytes(good)
    read()
    return out


FLIPPED = {  # kind -> the stage that makes it, where it lies
    "connectome": ("develop", "run/evolution/gen-01/connectome.safetensors"),
    "dataset": ("develop", "run/development.zarr.zip"),
    "summary": ("develop", "run/summary.json"),
    "model": ("develop", "run/development/connectome/seed-0/*/model/model.safetensors"),
    "finished life": ("develop", "run/development/connectome/seed-0/*/lived.safetensors"),
    "corpus": ("develop", "run/corpus/evolution.bin"),
    "checkpoint": ("evolve", "run/evolution/*/checkpoint-*.safetensors"),
    "population": ("population", "run/evolve/genome/seed-0/method.safetensors"),
    "population history": ("population", "run/evolve/genome/seed-0/history.zarr.zip"),
    "batch of scores": ("population", "run/cache/batch-*.safetensors"),
    "brain scores": ("align-brain", "run/models/*.zarr.zip"),
    "features, chunk": ("align-brain", "features/*.zarr/hidden/c/0/0/0"),
    "features, words": ("align-brain", "features/*.zarr/surprisal/c/0"),
    "features, about": ("align-brain", "features/*.zarr/zarr.json"),
}


def flips(kind: str, whole: Path, seed: int, n: int) -> list:
    "Flip bits of a file of a kind, one after another."
    paths = sorted(whole.glob(FLIPPED[kind][1]))
    if not paths:
        return [f"there is no {FLIPPED[kind][1]}"]
    path, rng = paths[-1], np.random.default_rng([seed, *kind.encode()])
    if kind == "batch of scores":  # alone in a folder, so that what is known is this batch's
        alone = whole.parent / "alone"
        alone.mkdir(exist_ok=True)
        path = Path(shutil.copy(path, alone / "batch-000000.safetensors"))
    out = flip(path, (lambda: known_scores(path)) if kind == "batch of scores" else opens(path), rng, n)
    return out + (last_good_one(paths) if kind == "checkpoint" else [])


def last_good_one(paths) -> list:
    "Of a damaged checkpoint the one before is offered."
    from evonb.core import DamagedFileError

    good = paths[-1].read_bytes()
    paths[-1].write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        opens(paths[-1])()
    except DamagedFileError as e:
        paths[-1].write_bytes(good)
        return [] if f"Delete it to go on from {paths[-2]}" in str(e) else [f"no other checkpoint is offered: {e}"]
    return ["a damaged checkpoint isn't noticed"]


def with_checkpoints(ready, root: Path) -> Path:
    "A run that was killed before its third checkpoint came into its place."
    def works():
        asked = iter(range(3))

        def hook(event, args):
            if event == "os.rename" and Path(args[1]).name.startswith("checkpoint-") and next(asked) == 2:
                os.kill(os.getpid(), kills.SIGNALS["SIGKILL"])
        kills.sys.addaudithook(hook)
        ready.stage.work(ready.shared, root)
    kills.begin(ready.stage, ready.shared, root)
    if kills.ended(kills.forked(works, said=root.with_suffix(".said"))) != -kills.SIGNALS["SIGKILL"]:
        raise SystemExit("the run never has three checkpoints")
    return root


# All of them --------------------------------------------------------------------------------------------------------

ON_STAGES = dict(full_disk=full_disk, read_only=becomes_read_only, clock_goes_back=clock_goes_back)


def on_stage(ready, place: Path, seed: int, n: int, n_flips: int, say) -> dict:
    "All faults of a stage: name -> tried, failures."
    rng, found, skip = np.random.default_rng([seed, *ready.stage.name.encode()]), {}, why_not(place)
    for name in ON_STAGES:
        found[name] = dict(tried=0, failures=[])
        shares = np.round(rng.uniform(0.03, 0.9, n), 3).tolist()
        if skip and name != "clock_goes_back":
            found[name]["skipped"] = skip
            continue
        for share in shares:
            faults = once(ready, place / "injected", name, share, say)
            noted(found[name], faults, f"{ready.stage.name}, {name} after {share:.0%}", say)
    for kind, (stage, _) in FLIPPED.items():
        if stage != ready.stage.name:
            continue
        whole = with_checkpoints(ready, place / "cut") if kind == "checkpoint" else ready.whole
        faults = kills.asked(flips, kind, whole, seed, n_flips, root=place / "flips")
        of_kind = found.setdefault("flipped_bit", dict(tried=0, failures=[]))
        noted(of_kind, faults, f"{n_flips} bits of: {kind}", say, n_flips)
    return found


def once(ready, root: Path, name: str, share: float, say) -> list:
    "One fault on a stage; what it prints is shown only where it went wrong."
    fault = ON_STAGES[name]
    forks = name == "clock_goes_back"  # it starts processes of its own
    faults = fault(ready, root, share) if forks else kills.asked(fault, ready, root, share, root=root)
    if faults:
        say(root.with_suffix(".said").read_text()[-1500:])
    shutil.rmtree(root, ignore_errors=True)
    root.with_suffix(".said").unlink(missing_ok=True)
    return faults


def noted(found: dict, faults: list, what: str, say, n=1):
    "Count a fault and what came of it."
    found["tried"] += n
    found["failures"] += [f"{what}: {f}" for f in faults]
    say(f"{what}: {'FAILED: ' + '; '.join(map(str, faults))[:600] if faults else 'as it should'}")


def writers(place: Path, n: int, say) -> dict:
    "Two writers, again and again."
    found = dict(tried=0, failures=[])
    for i in range(n):
        noted(found, two_writers(place / f"writers-{i}"), f"two writers, {i}", say)
    return found
