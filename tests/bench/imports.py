"""Seconds to import `evonb` and each of its modules in a fresh interpreter (`python -X importtime`)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import evonb

HERE = Path(evonb.__file__).parent
MODULES = sorted(".".join(p.relative_to(HERE).with_suffix("").parts)  # core, training.gpt
                 for p in HERE.rglob("*.py") if not p.name.startswith("_"))


def seconds(module):
    "What `import module` takes, everything it brings along included."
    run = subprocess.run([sys.executable, "-X", "importtime", "-c", f"import {module}"], capture_output=True, text=True,
                         check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})  # fmt: skip
    line = rf"import time:\s+\d+ \|\s+(\d+) \|\s*{re.escape(module)}\s*"  # self [us] | cumulative | name
    if (found := re.search(line + "$", run.stderr, re.M)) is None:
        raise RuntimeError(f"-X importtime says nothing of {module}: {run.stderr[-300:]!r}.")
    return int(found[1]) / 1e6


def import_evonb(pairs, n=0):
    "Seconds of `import evonb` over the 0.3 s it may take."
    took = np.quantile([seconds("evonb") for _ in range(max(5, pairs))], [0.25, 0.5, 0.75]) / 0.3
    low, mid, high = map(float, took)
    return dict(ratio=mid, low=low, high=high, seconds=0.3 * mid, aim="at most 1")


def import_modules(pairs=0, n=0):
    "Seconds to import each module with all that it needs (least of three); the ratio is the slowest's over torch's."
    took = {m: min(seconds(f"evonb.{m}") for _ in range(3)) for m in MODULES}
    torch = min(seconds("torch") for _ in range(3))
    return dict(ratio=max(took.values()) / torch, torch_s=torch, seconds=dict(sorted(took.items(), key=lambda x: x[1])),
                aim="reported")  # fmt: skip


ROWS = dict(import_evonb=import_evonb, import_modules=import_modules)
