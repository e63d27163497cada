"""The tables of *Growing up* on the page Findings: milestones, suites, and what a childhood out of order costs.

    D=--set=development.lifetime.curriculum
    for W in wired dense kept; do           # --arms connectome,random --lrs 0.064; --arms dense --lrs 0.016;
        evonb run ... --out runs/toy-$W     # --arms connectome --lrs 0.064 --set development.lifetime.signs=kept
    done                                    # each of them with --probes default --set development.lifetime.keep=8,
                                            # and as toy-early-$W and toy-late-$W without them and with
                                            # $D.deprived=[[0,0.25]], [[0.5,0.75]];
                                            # as toy-silent-early-wired with $D.deprivation=silence
    python tests/bench/grown.py runs/toy

Losses are of validation windows. Each p is the largest of tests over evolutions, newborns within them where there are
several, windows, and evolutions and windows; Holm over all rows of the table of costs."""

import argparse
import json
from pathlib import Path

import xarray as xr

from evonb.connectomes.summary import newborn_units
from evonb.development.milestones import chart_notes, chart_rows, development_chart
from evonb.statistics import (
    crossed_mean,
    describe,
    family_text,
    judge_family,
    p_text,
    paired_difference,
    units_text,
    verdict,
)
from evonb.store import read_dataset

WAYS = ("wired", "dense", "kept")


def newborns(start, what=""):  # xarray Datasets of the runs that there are
    "Newborns of the runs START[-WHAT]-WAY; those with kept signs are an arm of their own."
    found = {}
    for way in WAYS:
        file = Path(f"{start}{'-' * bool(what)}{what}-{way}") / "development.zarr.zip"
        if file.exists():
            ds = read_dataset(file)
            found[way] = ds.assign_coords(arm=["signs kept"]) if way == "kept" else ds
    return found


def losses(start, what=""):  # arm -> (n_lineages, n_seeds, n_windows) nats a token
    "What newborns came to."
    return {str(a): ds.window_loss.sel(arm=a).values for ds in newborns(start, what).values() for a in ds.arm.values}


def costs(start) -> dict:  # (question, arm) -> what `judged` tells
    "What each deprivation costs each arm, what arms differ by, and late minus early."
    whole = losses(start)
    cost = {w: {a: x - whole[a] for a, x in losses(start, w).items()} for w in ("early", "late")}
    told = {}
    for w, of in cost.items():
        for a, c in of.items():
            told[w, a] = paired_difference(c, 0 * c, newborn_units(c))
            if a != "connectome":
                told[f"{w}, minus the connectome's", a] = paired_difference(c, of["connectome"], newborn_units(c))
    for a in cost["early"].keys() & cost["late"].keys():
        told["late minus early", a] = paired_difference(cost["late"][a], cost["early"][a], newborn_units(whole[a]))
    return judge_family(told)


def beside_silence(start):
    "What an early silence costs, and what disorder costs beyond it."
    whole, silent, early = (losses(start, w) for w in ("", "silent-early", "early"))
    pairs = {("silence", a): (x, whole[a]) for a, x in silent.items()}
    pairs |= {("disorder minus silence", a): (early[a], x) for a, x in silent.items()}
    for (what, a), d in judge_family({k: paired_difference(*v, newborn_units(v[0])) for k, v in pairs.items()}).items():
        print(f"{what}: {a} {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}], {p_text(d)}")


def after(start):
    "Losses forty steps after each window has ended, and what is between them."
    for early, late in zip(newborns(start, "early").values(), newborns(start, "late").values()):
        for a in early.arm.values:
            e, x = (ds.val_loss.sel(arm=a, eval_step=s).mean("seed").values for ds, s in ((early, 80), (late, 160)))
            d = crossed_mean(x - e, ("evolution",))
            about = f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}], {p_text(d)}"
            print(f"{a}: early {e.mean():.3f}, late {x.mean():.3f}, {about}")


def print_costs(start):
    "The table of costs."
    for what in ("", "early", "late"):
        for a, x in losses(start, what).items():
            about = describe(x, newborn_units(x))
            print(f"{what or 'nothing missed'}: {a} {about['mean']:.3f} ± {about['sd']:.3f}")
    told = costs(start)
    print("\n| question | arm | nats/token [95 %] | verdict |\n|---|---|---|---|")
    for (what, a), d in sorted(told.items()):
        said = verdict(d, "above zero", "below zero", "not clear")
        print(f"| {what} | {a} | {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}], {p_text(d)} | {said} |")
    print(units_text(next(iter(told.values()))), family_text(told.values()), sep="; ")


def print_milestones(start):
    "The development chart over all arms."
    probed = [ds[["probes"]] for ds in newborns(start).values()]
    chart = development_chart(xr.concat(probed, "arm", combine_attrs="override"))
    for row in chart_rows(chart): print(f"| {' | '.join(row)} |")
    print(chart_notes(chart))


def print_suites(start):
    "Every arm's scores, with floors, as each evaluation told them."
    for way in WAYS:
        for file in sorted(Path(f"{start}-{way}").glob("evaluation/*/summary.json")):
            for name, found in json.loads(file.read_text())["suites"].items(): print(way, name, scores_text(found))


def scores_text(found):
    "The scores of a suite in a line, and from which moment on they are what they are at the end."
    one = lambda d: f"{d['mean']:.3f}" + (f" [{d['low']:.3f}, {d['high']:.3f}]" if d["low"] is not None else "")
    ends = "; ".join(f"{a} {one(v['score'])}" for a, v in found["arms"].items())
    way = "; ".join(f"{a} " + ", ".join(f"{s}: {d['mean']:.3f}" for s, d in v["curve"].items())
                    for a, v in found["curves"].items())
    return f"{ends}\n    over steps: {way}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", help="what the names of the runs begin with, such as runs/toy")
    start = parser.parse_args().runs
    for told in (print_milestones, print_suites, print_costs, after, beside_silence): told(start)
