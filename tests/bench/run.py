"""Speed and memory as ratios against named baselines, side by side in one run: `make bench`.

Machines are shared and noisy, so every figure is the median of ratios of neighbouring measurements, with its quartiles.
"""

import argparse
import json
import sys
from pathlib import Path

import beside
import clients
import encoding
import features
import fleet
import imports
import litters
import looking
import merging
import peers
import planning_check
import population_memory
import roofline
import scoring
import training
import tree
import wirings
from results import FOLDER, keep, machine, reached

ROWS = {}
for part in (roofline, peers, training, beside, litters, population_memory, scoring, clients, merging, encoding,
             features, wirings, planning_check, fleet, looking, tree, imports):
    ROWS |= part.ROWS


def told(row):
    "A row as a line."
    if "skipped" in row:
        return f"skipped: {row['skipped']}"
    out = f"{row['ratio']:.3f}" + ", the exponent of growth" * row.get("is_exponent", False)
    if "low" in row:
        out += f" (quartiles {row['low']:.3f} to {row['high']:.3f})"
    out += f", aim {row['aim']}"
    if (met := reached(row)) is not None:
        out += ", reached" if met else ", NOT reached"
    if "first_tokens_per_s" in row:
        out += f"; {row['first_tokens_per_s']:,.0f} against {row['second_tokens_per_s']:,.0f} tokens/s"
    elif "first_s" in row:
        out += f"; {row['first_s']:.3g} against {row['second_s']:.3g} s"
    return out + f"; {row['told']}" if "told" in row else out


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--pairs", type=int, default=9, help="measurements of each pair")
    p.add_argument("--steps", type=int, default=6, help="training steps a measurement")
    p.add_argument("--out", type=Path, default=FOLDER / "bench.json", help="the file that rows are kept in as JSON")
    p.add_argument("rows", nargs="*", metavar="ROW", help=f"only these: {', '.join(ROWS)}")
    args = p.parse_args()
    print(json.dumps(machine()))
    for name in args.rows or ROWS:
        row = ROWS[name](args.pairs, args.steps)
        print(f"{name:28s} {told(row)}\n    {ROWS[name].__doc__}", flush=True)
        if "skipped" not in row:
            keep(args.out, {name: dict(row, what=ROWS[name].__doc__, part=ROWS[name].__module__)}, ROWS)
    print(f"written to {args.out}; `make docs` shows it as a page")


if __name__ == "__main__":
    sys.exit(main())
