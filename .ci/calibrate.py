#!/usr/bin/env python3
"""Counts how often each verdict is wrong on simulated runs without a difference, and its power on others.

    .ci/calibrate.py [--n 4000] [--seed 0]   prints the table and keeps it in docs/results/calibration.json
    .ci/calibrate.py --only 'whole chain'    counts these verdicts again, the others stay as they are

The page *Calibration* of the site is made of that file.
"""

import argparse
import json
from pathlib import Path

from evonb.calibration import all_designs, calibrate, calibration_text

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "calibration.json"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--n", type=int, default=4000, help="simulated runs of each design, without and with an effect")
    p.add_argument("--seed", type=int, default=0, help="decides what is simulated")
    p.add_argument("--out", type=Path, default=RESULTS, help="where the counts are kept")
    p.add_argument("--only", default="", help="how the verdicts begin that are counted; the others are kept")
    a = p.parse_args()
    designs, key = all_designs(), lambda r: (r["verdict"], r["design"])
    counted = {key(r): r for r in calibrate([d for d in designs if d.verdict.startswith(a.only)], a.n, a.seed)}
    if a.only: counted = {key(r): r for r in json.loads(a.out.read_text(encoding="utf-8"))["rows"]} | counted
    rows = [counted[d.verdict, d.design] for d in designs]
    kept = json.dumps(dict(n=a.n, seed=a.seed, rows=rows), indent=1, ensure_ascii=False)
    a.out.write_text(f"{kept}\n", encoding="utf-8")
    print(calibration_text(rows))
    if wrong := [r for r in rows if r["wrong"] > 0.07]:
        raise SystemExit(f"{len(wrong)} of {len(rows)} verdicts are wrong more often than in 7 % of runs.")


if __name__ == "__main__":
    main()
