"""The table *What is inherited* of the page Findings: newborns of every kind, from runs that were made before.

    evonb run --out runs/toy --seeds 5 --arms connectome,random,...
    evonb attribute runs/toy --parts embedding,head,blocks
    evonb run --out runs/kept --seeds 5 --arms connectome,random,sign_shuffled --set development.lifetime.signs=kept
    evonb run --out runs/shared --seeds 5 --arms connectome,random --set 'evolution.exempt=["embeddings","head"]' \\
        --set evolution.exempt_start=shared
    python tests/bench/inherited.py runs/toy --kept runs/kept --shared runs/shared

Losses are of validation windows, since attribution leaves the sealed test alone. Each p is the largest of tests over
evolutions, newborns within them, windows, and evolutions and windows; Holm over all rows of the table."""

import argparse
import re
from pathlib import Path

from evonb.connectomes.summary import newborn_units
from evonb.statistics import (
    components_text,
    describe,
    family_text,
    judge_family,
    p_text,
    paired_difference,
    units_text,
    verdict,
)
from evonb.store import read_dataset


def losses(run, name="development") -> tuple[dict, dict]:  # arm -> (n_lineages, n_seeds, n_windows), arm -> lr
    "What newborns came to, in nats a token."
    ds = read_dataset(Path(run) / f"{name}.zarr.zip")
    arms = [str(a) for a in ds.arm.values]
    return ({a: ds.window_loss.sel(arm=a).values for a in arms}, {a: float(ds.chosen_lr.sel(arm=a)) for a in arms})


def rows(run, kept=None, shared=None) -> dict:  # (what, which) -> its losses, those it is set beside, and its rate
    "Every newborn of the table and what it is compared with."
    found, rates = losses(run)
    if (Path(run) / "attribution.zarr.zip").exists():
        more, lrs = losses(run, "attribution")
        found, rates = more | found, lrs | rates
    out = {("", a): (x, found["connectome"] if a != "connectome" else None, rates[a]) for a, x in found.items()}
    if kept:
        more, lrs = losses(kept)
        out |= {("signs kept", a): (x, found[a], lrs[a]) for a, x in more.items()}
    if shared:
        more, lrs = losses(shared)
        beside = {a: more["connectome"] if a != "connectome" else None for a in more}
        out |= {("shared start", a): (x, beside[a], lrs[a]) for a, x in more.items()}
    return out


def in_words(arm):
    "An arm, and what its newborns inherit where its name doesn't say it to everybody."
    null, sign, parts = re.fullmatch(r"([a-z_]+)(?:([+~])(.+))?", arm).groups()
    if not sign:
        return f"`{arm}`"
    parts = parts.replace("+", " and ")
    return f"{'only' if sign == '+' else 'all but'} {parts} inherited (`{arm}`)"


def signs_matter_more(run, kept):  # what `judged` tells
    "Whether keeping signs lowers the connectome's loss more than that of its sign-shuffled control."
    free, held = losses(run)[0], losses(kept)[0]
    gain = {a: free[a] - held[a] for a in ("connectome", "sign_shuffled")}
    return paired_difference(gain["connectome"], gain["sign_shuffled"], newborn_units(gain["connectome"]))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--kept", help="the same with signs kept for life")
    parser.add_argument("--shared", help="blocks evolved, embeddings and head dense with one shared start")
    args = parser.parse_args(argv)
    table = rows(args.run, args.kept, args.shared)
    told = {k: None if b is None else paired_difference(x, b, newborn_units(x)) for k, (x, b, _) in table.items()}
    if args.kept and ("signs kept", "sign_shuffled") in table:
        told["interaction", "keeping signs: connectome against sign_shuffled"] = signs_matter_more(args.run, args.kept)
    told = judge_family(told)
    print("| newborn | validation loss | minus | difference [95 %] | verdict | lr |\n|---|---|---|---|---|---|")
    for key in sorted(told, key=lambda k: (k[0], k[1] != "connectome", table[k][0].mean() if k in table else 9)):
        d, (kind, arm) = told[key], key
        loss, lr = "", ""
        if key in table:
            about = describe(table[key][0], newborn_units(table[key][0]))
            loss, lr = f"{about['mean']:.3f} ± {about['sd']:.3f}", f"{table[key][2]:g}"
        beside = {"signs kept": "itself, free", "interaction": ""}.get(kind, "connectome") if d else ""
        said = "" if not d else verdict(d, "higher", "lower", "not clear")
        ends = "" if not d or d["low"] is None else f" [{d['low']:+.3f}, {d['high']:+.3f}]"
        number = "" if not d else f"{d['mean']:+.3f}{ends}, {p_text(d)}"
        name = arm if kind == "interaction" else in_words(arm)
        print(f"| {', '.join(filter(None, (name, kind)))} | {loss} | {beside} | {number} | {said} | {lr} |")
    some = next(d for d in told.values() if d)
    print(f"\n{units_text(some)}; {family_text(told.values())}")
    for key, d in told.items():
        if about := components_text(d): print(f"{' '.join(filter(None, key))}: {about}")


if __name__ == "__main__": main()
