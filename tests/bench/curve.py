r"""The table *Newborn loss against tokens spent in evolution* of the page Findings, from runs of evonb breed:

    evonb breed --preset demo --tokens 4x --evolutions 3 --seeds 5 --lrs 0.032 --points 1 \
        --methods generational,finer,long-lives,litter --out runs/lines
    evonb breed --preset demo --tokens 4x --evolutions 3 --seeds 5 --lrs 0.032 --points 0.5,0.75,1 \
        --methods genome,random-search --out runs/kept
    evonb breed --preset demo --tokens 2x --evolutions 3 --seeds 5 --lrs 0.032 --points 1 \
        --methods finer,long-lives --out runs/half
    python tests/bench/curve.py runs/lines runs/kept runs/half

A line that spends less must be another line, for all are to end at the same density: so lines are points of several
runs. A method whose wirings have one density can be asked halfway. Wirings denser than the run's are left out. Runs of
one seed and corpus share starts, newborns' text and test windows, so everything is paired.
"""

import argparse

import numpy as np

from evonb.connectomes.breeding import newborn_losses
from evonb.connectomes.summary import newborn_units
from evonb.core import InputError, human_count
from evonb.statistics import describe, judge_family, p_text, paired_difference, verdict
from evonb.store import open_run, read_dataset, read_json

LINE = "generational"


def points_of(path):  # -> {(way, tokens spent): (n_evolutions, n_seeds, n_windows) test losses}
    "What newborns reached at every point of a run at which the wiring has the density it is to end with."
    run = open_run(path)
    dataset, density = read_dataset(run.file("wirings.zarr.zip")), read_json(run.file("summary.json"))["density"]
    found = {}
    for way in map(str, dataset.method.values):
        for p in range(dataset.sizes["point"]):
            one = dataset.sel({"method": way}).isel(point=p)
            if np.all(one.density.values < 1.02 * density):
                found[way, int(one.spent.mean())] = newborn_losses(dataset, way, p)
    return found


def gathered(paths):
    "Points of all runs; one that two runs have is told once."
    found, shapes = {}, {}
    for path in paths:
        for key, losses in points_of(path).items():
            found.setdefault(key, losses)
            shapes[np.shape(losses)] = path
    if len(shapes) > 1:
        sizes = "; ".join(f"{p}: {s}" for s, p in shapes.items())
        raise InputError(f"Runs differ in evolutions, newborns or test windows: {sizes}. Give runs of one size.")
    if not any(way == LINE for way, _ in found):
        raise InputError(f"No run has the published line ({LINE}), which others are held against. Name one that has.")
    return found


def gaps(found):
    "Every point minus the published line, corrected for their number."
    line = next(losses for (way, _), losses in found.items() if way == LINE)
    return judge_family({k: paired_difference(x, line, newborn_units(x)) for k, x in found.items() if k[0] != LINE})


def rows(found):  # -> lines of Markdown
    "By way, and by tokens within it."
    told, out = gaps(found), ["| way | tokens spent | newborns' test loss | minus the published line |",
                              "|---|---|---|---|"]  # fmt: skip
    for way, tokens in sorted(found, key=lambda k: (k[0] != LINE, *k)):
        one = describe(found[way, tokens], newborn_units(found[way, tokens]))
        gap = told.get((way, tokens))
        said = "" if gap is None else (f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}], {p_text(gap)}, "
                                       f"{verdict(gap)}")  # fmt: skip
        out.append(f"| `{way}` | {human_count(tokens)} | {one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}] | "
                   f"{said} |")  # fmt: skip
    return out


def main(words=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="+", help="finished runs of evonb breed, of one seed and corpus")
    found = gathered(p.parse_args(words).runs)
    print("\n".join([*rows(found), "", f"Holm over {len(found) - 1} comparisons"]))


if __name__ == "__main__":
    main()
