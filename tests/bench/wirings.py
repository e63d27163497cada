"""Connectomes against float masks in files of torch.save: bytes, and seconds to save, load and compare.

Each row is a function of the number of pairs that returns a dict, as the rows of run.py do.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from timing import growth, paired

from evonb.connectomes.wiring import compare
from evonb.training.connectome import Connectome

WIDTH, LAYERS, DENSITY = 512, 6, 0.25


def wiring(seed, layers=LAYERS):
    "Random signs at 25 % density for the matrices of a GPT, 512 wide: 3.1M weights a layer."
    rng, shapes = np.random.default_rng(seed), {}
    for i in range(layers):
        shapes |= {f"h.{i}.{n}": (WIDTH, k * WIDTH) for n, k in (("qkv", 3), ("out", 1), ("up", 4), ("down", 4))}
    made = {}
    for name, shape in shapes.items():
        live = rng.random(shape, dtype=np.float32) < DENSITY
        made[name] = torch.from_numpy(np.where(live, np.where(rng.random(shape) < 0.5, -1, 1), 0).astype(np.int8))
    return Connectome(made, shapes)


def floats(connectome):
    "The same as signed float masks, which is what one would save without thinking of it."
    return {n: s.float() for n, s in connectome.signs.items()}


def both_in(folder):
    "A connectome and its float masks, with where each goes."
    made = wiring(0)
    return made, floats(made), Path(folder) / "connectome.safetensors", Path(folder) / "masks.pt"


def saved(folder):
    "As `both_in`, both saved."
    made, masks, ours, theirs = both_in(folder)
    made.save(ours)
    torch.save(masks, theirs)
    return ours, theirs


def connectome_size(pairs=0, n=0):
    "Bytes of a stored connectome over those of its float masks, 18.9M weights at 25 % density."
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (p.stat().st_size for p in saved(folder))
    return dict(ratio=ours / theirs, bytes=ours, baseline_bytes=theirs, aim="at most 0.0625")


def connectome_save(pairs, n=0):
    "Seconds to save a connectome, checksum and fsync included, over those of torch.save of its float masks."
    with tempfile.TemporaryDirectory() as folder:
        made, masks, ours, theirs = both_in(folder)
        return paired(lambda: made.save(ours), lambda: torch.save(masks, theirs), pairs) | dict(aim="reported")


def connectome_load(pairs, n=0):
    "Seconds to load a connectome, fully checked, over those of torch.load of its float masks, which checks nothing."
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = saved(folder)
        theirs_run = lambda: torch.load(theirs, weights_only=True)
        return paired(lambda: Connectome.load(ours), theirs_run, pairs) | dict(aim="reported")


def by_floats(a, b):
    "Shared wires and sign agreement of each matrix from float masks, as one would write it."
    out = []
    for name, x in a.items():
        shared = (x.abs() * b[name].abs()).sum()
        same = (x * b[name] > 0).sum()
        born, died = ((b[name] != 0) & (x == 0)).sum(), ((x != 0) & (b[name] == 0)).sum()
        out.append([float(v) for v in (shared, same / shared, born, died, (x * b[name] < 0).sum())])
    return out


def connectome_compare(pairs, n=0):
    "Seconds to compare two connectomes matrix by matrix over those of the same counts from float masks."
    a, b = wiring(0), wiring(1)
    masks = floats(a), floats(b)
    found = compare(a, b)
    shared = [row[0] for row in by_floats(*masks)]
    if not np.array_equal(found.shared.values, shared):
        raise RuntimeError("The two ways count other shared wires, so their times don't compare.")
    return paired(lambda: compare(a, b), lambda: by_floats(*masks), pairs) | dict(aim="at most 1")


def connectome_growth(pairs=0, n=0):
    "How the time to save, load and compare grows with the number of layers, 2 to 16."
    with tempfile.TemporaryDirectory() as folder:

        def make(size):
            made, other = wiring(0, 2 * size), wiring(1, 2 * size)
            path = Path(folder) / f"{size}.safetensors"
            return lambda: (made.save(path), compare(Connectome.load(path), other))

        return growth(make)


ROWS = {f.__name__: f for f in (connectome_size, connectome_save, connectome_load, connectome_compare,
                                connectome_growth)}  # fmt: skip
