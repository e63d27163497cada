"""Who fills an archive: cells and QD score of methods at equal evaluations on the built-in landscape, run by run.

Every run has a landscape and a search of its own seed; methods of one run share the landscape. The archive is made of
all that a method scored, in the same cells for all. Kept in docs/results/diversity.json.

    .venv/bin/python tests/bench/diversity.py --budget 1000 --runs 5
"""

import argparse
import json
from pathlib import Path

import numpy as np

from evonb.core import Seeds
from evonb.evolution.archives import ArchiveConfig, Division, archive_axes, archive_progress
from evonb.evolution.landscape import SkillLandscape
from evonb.evolution.method import METHODS
from evonb.evolution.search import evolve

PAIRS = {"skills": ("skill 0", "skill 1"), "genome": ("length", "balance")}
NAMES = ("map-elites", "cma-me", "pareto", "pareto-bred", "niches", "genome", "random-search")
ARCHIVES = ("map-elites", "cma-me")


def one_run(name, pair, budget, seed, cells):
    "Cells filled, QD score and best fitness of one search."
    land = SkillLandscape(seed, n_groups=2, by_skill=True)
    config = ArchiveConfig(PAIRS[pair], (cells,))
    settings = dict(descriptors=PAIRS[pair], cells=(cells,)) if name in ARCHIVES else {}
    result = evolve(METHODS[name](land.space, settings, Seeds(seed)), land, budget, show=False,
                    measure_diversity=False, traits=("length", "balance"))  # fmt: skip
    division = Division(archive_axes(config, land.space))
    coverage, score = archive_progress(result.history, division)
    return dict(pair=pair, method=name, seed=seed, cells=round(coverage[-1] * division.n_cells), qd=score[-1],
                best=result.best.value)  # fmt: skip


def table(rows):
    "Means over runs, and in how many of them each archive is ahead of every method without one."
    for pair in dict.fromkeys(r["pair"] for r in rows):
        print(f"\n{', '.join(PAIRS[pair])}")
        at = {(r["method"], r["seed"]): r for r in rows if r["pair"] == pair}
        seeds = sorted({s for _, s in at})
        for name in dict.fromkeys(m for m, _ in at):
            each = {k: np.array([at[name, s][k] for s in seeds]) for k in ("cells", "qd", "best")}
            ahead = [all(at[name, s][k] > at[m, s][k] for m, t in at if t == s and m not in ARCHIVES
                         for k in ("cells", "qd")) for s in seeds] if name in ARCHIVES else []  # fmt: skip
            told = f"  ahead of all others in {sum(ahead)} of {len(seeds)} runs" if ahead else ""
            print(f"  {name:14s} cells {each['cells'].mean():6.1f} ({each['cells'].min()}-{each['cells'].max()})  "
                  f"QD {each['qd'].mean():6.2f} ({each['qd'].min():.2f}-{each['qd'].max():.2f})  "
                  f"best {each['best'].mean():.3f}{told}")  # fmt: skip


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--budget", type=int, default=1000)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--cells", type=int, default=10, help="along each descriptor")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs" / "results" / "diversity.json")
    a = p.parse_args()
    rows = [one_run(m, pair, a.budget, s, a.cells) for pair in PAIRS for m in NAMES for s in range(a.runs)]
    a.out.write_text(json.dumps(dict(budget=a.budget, runs=a.runs, cells=a.cells, rows=rows), indent=1) + "\n")
    table(rows)


if __name__ == "__main__":
    main()
