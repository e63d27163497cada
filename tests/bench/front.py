r"""The tables and figures *A front of wirings* of the page Findings, from a run with objectives and archives:

    evonb breed --preset demo --methods generational,finer,pareto-bred,map-elites \
        --objectives loss,density,reading --descriptors density,self_feedback --out runs/front
    python tests/bench/front.py runs/front --figures figures

Each way's individuals of one evolution are held against the same reference, the worst that any way of it had, in each
objective; so hypervolumes of one evolution can be compared. Archives are made of all that a way tried, in the cells of
the run's own archive. Means over evolutions, the lowest and highest in brackets; no verdict is given.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from evonb.core import InputError, check_choice
from evonb.evolution.archives import archive_progress, division_of, measured
from evonb.evolution.methods.pareto import hypervolume
from evonb.evolution.operators import dominated
from evonb.kinds import RUN_KINDS
from evonb.plots.picture import figure_image
from evonb.plots.population import archive_map, front_view, individuals
from evonb.plots.style import NothingToPlot, figure_words
from evonb.store import open_run, read_dataset


def histories(run):  # -> {evolution: {way: history}}
    "Every evolution that is over."
    found = {}
    for path in sorted(Path(run).glob("evolve/*/seed-*/history.zarr.zip")):
        found.setdefault(int(path.parent.name.removeprefix("seed-")), {})[path.parents[1].name] = read_dataset(path)
    if not found:
        raise InputError(f"{run} holds no evolution that is over. Resume it.")
    return found


def told(values, spec=".3f"):
    "Mean, and lowest to highest where there are several."
    v = np.asarray(values, float)
    ends = f" ({v.min():{spec}} to {v.max():{spec}})" if len(v) > 1 else ""
    return f"{v.mean():{spec}}{ends}"


def rows_of(head, rows):  # -> lines of Markdown
    return ["| " + " | ".join(map(str, r)) + " |" for r in (head, ["---"] * len(head), *rows)]


def directed(history, names, lower):  # -> (n, n_objectives) higher is better; those that failed or lack one left out
    found = measured(history, names) * np.where(np.isin(names, lower), -1, 1)
    return found[np.isfinite(found).all(1) & ~individuals(history).failed]


def fronts(found, names, lower):  # -> {way: [(hypervolume, of its first generation, tried, on the joint front)]}
    "What each way's individuals cover in each evolution, and how many of the front of all ways are its."
    out = {}
    for ways in found.values():
        points = {m: directed(h, names, lower) for m, h in ways.items()}
        every = np.concatenate(list(points.values()))
        owner = np.concatenate([[m] * len(p) for m, p in points.items()])
        joint, worst = owner[~dominated(every)], every.min(0)
        for m, p in points.items():
            first = directed(ways[m].isel(generation=slice(1)), names, lower)
            volumes = (hypervolume(p, worst), hypervolume(first, worst))
            out.setdefault(m, []).append((*volumes, len(p), int((joint == m).sum())))
    return out


def front_table(found, names, lower):
    rows = []
    for m, each in sorted(fronts(found, names, lower).items(), key=lambda x: -np.mean([e[0] for e in x[1]])):
        volume, first, tried, joint = zip(*each)
        rows.append((f"`{m}`", told(volume, ".4g"), told(first, ".4g"), told(tried, "g"), told(joint, "g")))
    head = ("way", f"hypervolume over {', '.join(names)}", "of its first generation", "tried",
            "on the front of all ways")  # fmt: skip
    return rows_of(head, rows)


def member_table(found, names, run):
    "Who is on the front of a method that has one."
    rows = []
    for k, ways in found.items():
        for m, h in ways.items():
            if "front" not in h:
                continue
            here = h.digest.values.ravel() != ""
            points, ids = measured(h, names), individuals(h).id
            rows += [(k, f"`{run}::{m}/{k}/{i}`", ids[i][:8], *(f"{x:.4f}" for x in points[i]))
                     for i in np.flatnonzero(h.front.values.ravel()[here])]  # fmt: skip
    head = ("evolution", "individual, as `evonb explore` takes it", "id", *names)
    return rows_of(head, sorted(rows, key=lambda r: (r[0], float(r[3]))))


def archive_table(found):
    "Cells and QD score of every way, in the cells of the run's archive; ways that weren't measured are left out."
    out = {}
    for ways in found.values():
        division = next((d for h in ways.values() if (d := division_of(h))), None)
        for m, h in ways.items() if division else ():
            try:
                coverage, score = archive_progress(h, division)
            except InputError:
                continue
            out.setdefault(m, []).append((coverage[-1] * division.n_cells, score[-1]))
    rows = [(f"`{m}`", told([c for c, _ in each], "g"), told([s for _, s in each])) for m, each in out.items()]
    return rows_of(("way", "cells with someone", "QD score"), rows) if rows else []


def figures(found, folder):
    "The first evolution's front and archive, as pictures in HTML."
    folder.mkdir(parents=True, exist_ok=True)
    ways = found[min(found)]
    made = {f"front-{m}": front_view(h, {k: x for k, x in ways.items() if k != m}) for m, h in ways.items()
            if "front" in h}  # fmt: skip
    for m, h in ways.items():
        try:
            made[f"archive-{m}"] = archive_map(h)
        except NothingToPlot:
            continue
    for name, fig in made.items():
        (folder / f"{name}.html").write_text(figure_image(fig, figure_words(fig.to_dict()), 300), encoding="utf-8")
    return list(made)


def main(words=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", help="a finished run of evonb breed")
    p.add_argument("--over", help="only these of the run's objectives, as in loss,density")
    p.add_argument("--figures", type=Path, help="where figures go")
    args = p.parse_args(words)
    run = open_run(args.run)
    config = RUN_KINDS["wirings"].settings_of(run)
    found = histories(args.run)
    if config.aims.objectives:
        fronted = next(h for ways in found.values() for h in ways.values() if "front" in h)
        names, lower = list(config.aims.objectives), json.loads(fronted.attrs.get("lower", "[]"))
        over = [check_choice(x, names, "--over") for x in args.over.split(",")] if args.over else names
        print("\n".join([*front_table(found, over, lower), "", *member_table(found, names, args.run), ""]))
    print("\n".join(archive_table(found)))
    if args.figures:
        print("\nfigures:", ", ".join(figures(found, args.figures)))


if __name__ == "__main__":
    main()
