"""What benchmarks found is kept in docs/results, row by row and processor by processor, with where and when it was."""

import datetime
import json
import os
import platform
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results"


def machine():
    "What figures are measured on."
    import torch

    from evonb.training.linear import fast_products

    cpu = re.search(r"^model name\s*: (.+)$", _text("/proc/cpuinfo"), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+) kB$", _text("/proc/meminfo"), re.M)
    return dict(
        processor=cpu[1] if cpu else platform.processor() or platform.machine(), cores=os.cpu_count(),
        memory_gb=round(int(memory[1]) / 2**20) if memory else None, gpu=torch.cuda.is_available(),
        threads=torch.get_num_threads(), torch=str(torch.__version__), python=platform.python_version(),
        system=platform.system(), load=round(os.getloadavg()[0], 1), products=fast_products(),
    )  # fmt: skip


def _text(path):
    return Path(path).read_text() if Path(path).is_file() else ""


def reached(row):
    "Whether a row's ratio meets its aim, unless it says itself; None where the aim isn't a number."
    if "reached" in row:
        return bool(row["reached"])
    aim = str(row["aim"])
    if between := re.fullmatch(r"([\d.]+) to ([\d.]+)", aim):
        return bool(float(between[1]) <= row["ratio"] <= float(between[2]))
    if not (found := re.fullmatch(r"at (least|most) ([\d.]+)", aim)):
        return None
    return bool(row["ratio"] >= float(found[2]) if found[1] == "least" else row["ratio"] <= float(found[2]))


def stored(path):
    "By name the rows of a file, one a processor; none where there is no file."
    return json.loads(path.read_text())["rows"] if path.is_file() else {}


def keep(path, found, order):
    "Put rows into a file in this order, in place of those of the same processor; a row that no longer exists goes."
    here = dict(machine=machine(), date=datetime.date.today().isoformat())
    rows = stored(path)
    for name, row in found.items():
        others = [r for r in rows.get(name, []) if r["machine"]["processor"] != here["machine"]["processor"]]
        rows[name] = [*others, dict(row, reached=reached(row), **here)]
    rows = {name: rows[name] for name in order if name in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(rows=rows), indent=1, default=float) + "\n")
