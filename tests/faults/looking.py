"""What a run folder must be after a fault: readable; and after it was gone on with: the same as without the fault."""

import json
import re
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from evonb.core import EvonbError
from evonb.store import open_run, read_dataset, read_json, read_tensors
from evonb.training.connectome import Connectome

CLOCKS = {"seconds", "tokens_per_s", "wall_time", "created", "updated", "time", "pid", "host", "sha256"}
LEFT = re.compile(r"\..*\.tmp|\.tmp\w{6}|.*\.partial")


def files(root: Path) -> dict:
    "Path below the root -> file, of all that says what a run found."
    skip = {".lock", "log.jsonl", "state.json"}
    found = (p for p in sorted(root.rglob("*")) if p.is_file())
    return {p.relative_to(root).as_posix(): p for p in found if p.name not in skip and p.suffix != ".lock"}


def read(path: Path):
    "A file's content as plain values and arrays; damage raises."
    if path.name.endswith(".zarr.zip"):
        return {k: v.values for k, v in read_dataset(path).variables.items()}
    if path.suffix == ".nc":
        return {k: v.values for k, v in xr.load_dataset(path, engine="h5netcdf").variables.items()}
    if path.suffix == ".safetensors" and (path.parent / "files.json").exists():
        from safetensors.torch import load_file

        return load_file(path)
    if path.suffix == ".safetensors":
        tensors, meta = read_tensors(path)
        return dict(tensors=tensors, meta=meta)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        return read_json(path) if "sha256" in content else content
    return path.read_bytes()


def readable(*paths) -> list:
    "Contents; of a file that can't be read, why."
    out = []
    for path in paths:
        try:
            out.append(read(path))
        except (EvonbError, ValueError, OSError) as e:
            out.append(f"can't be read: {e}")
    return out


def differences(a, b, where="") -> list:
    "Where two contents differ, but for times."
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: {sorted(map(str, a.keys() ^ b.keys()))} in one only"]
        return [d for k in a if k not in CLOCKS for d in differences(a[k], b[k], f"{where}/{k}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{where}[{i}]")]
    if torch.is_tensor(a) and torch.is_tensor(b):
        a, b = a.numpy(), b.numpy()
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and same_bits(a, b)
        return [] if same else [f"{where}: other values"]
    return [] if a == b or (a != a and b != b) else [f"{where}: {str(a)[:60]} against {str(b)[:60]}"]


def same_bits(a, b) -> bool:
    return a.tolist() == b.tolist() if a.dtype.kind in "OUT" else a.tobytes() == b.tobytes()


# What a population's batches hold is compared score by score, for a kill changes what is scored together; and what is
# noted of sealed tests by who opened what, for a run that was killed while testing opens them again.

def scores(root: Path) -> dict:
    "Key -> score, of all batches of a run."
    from evonb.populations.breeding import RunCache
    from evonb.tasks.fitness import pack_score

    cache = RunCache(root / "run" / "cache")
    keys = {k for p in (root / "run" / "cache").glob("*.safetensors") for k in read_tensors(p)[1]["keys"]}
    return {k: pack_score(cache.get(k)) for k in keys}


def openings(path: Path) -> list:
    return sorted({(e["task"], e["digest"], e["individual"]) for e in read(path)}) if path.exists() else []


def compare(whole: Path, other: Path) -> list:
    "How a run that was killed differs from the one that wasn't."
    a, b = files(whole), files(other)
    out = [f"{n} is left over" for n in b if LEFT.search(n)]
    apart = {n for n in a.keys() | b.keys() if n.startswith("run/cache/") or n.endswith("sealed.jsonl")}
    out += [f"{n} is in one only" for n in sorted((a.keys() ^ b.keys()) - apart)]
    for name in sorted((a.keys() & b.keys()) - apart):
        if name.endswith("connectome.safetensors"):
            out += differences(*(Connectome.load(r[name]).digest() for r in (a, b)), name)
        out += differences(*readable(a[name], b[name]), name)
    out += differences(scores(whole), scores(other), "scores")
    out += differences(*(openings(r / "run" / "sealed.jsonl") for r in (whole, other)), "sealed.jsonl")
    run = open_run(other / "run")
    if run.state()["status"] != "complete" or run.events()[-1]["event"] != "complete":
        out.append(f"the run is {run.state()['status']}")
    return out


def look(root: Path, allowed: tuple) -> list:
    "What can't be read in a folder that a fault left, where only some states are allowed."
    path, out = root / "run", []
    if not (path / "run.json").exists():
        return []  # killed before there was a run
    run = open_run(path)
    status, log = run.state()["status"], run.events()
    if status not in allowed:
        out.append(f"the run is {status}")
    if not isinstance(log, list) or not repr(run) or not run._repr_html_():
        out.append("the run doesn't show itself")
    for name, file in files(root).items():
        if any(part.endswith((".tmp", ".partial")) for part in Path(name).parts):
            continue  # swept when the run goes on
        try:
            read(file)
        except (EvonbError, ValueError, OSError) as e:
            out.append(f"{name}: {e}")
    return out + report(run)


def report(run) -> list:
    "The tables of the page; nothing before there is a summary."
    if not run.file("summary.json").exists():
        return []
    from evonb.cli import results_text

    return [] if results_text(read_json(run.file("summary.json"))) else ["there is no table of results"]
