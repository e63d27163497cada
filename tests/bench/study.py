"""Which method finds the best individual, at 60, 160 and 500 evaluations: whole runs over several seeds.

Every seed trains its own experts of the toy base, deals its own items and evolves on its own; methods of one seed share
experts and items, so differences are paired over seeds. Nothing is selected on the test. A stopped run goes on.

    .venv/bin/python tests/bench/study.py --out runs/study --setting easy,hard --seeds 5
    .venv/bin/python tests/bench/study.py --out runs/study --table
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy import stats

from evonb.populations.breeding import BreedConfig, breed
from evonb.populations.experts import ExpertsConfig, train_experts

FRIENDLY = ("agreement", "reflexive", "count_up")
SKILLS = (*FRIENDLY, "adjective_first", "made_up_noun", "polarity", "tense", "opposite")
HARD = {s: f"skill:{s}" for s in SKILLS} | {
    "reflexive_again": "skill:reflexive",  # redundant
    "count_down": "skill:count_down",  # the opposite of count_up
    "spoiler_1": "skill:who_or_which-agreement-reflexive-count_up",  # teach one skill and break three others
    "spoiler_2": "skill:a_or_an-polarity-tense-made_up_noun",
}
VECTOR = ("genome", "genome+", "genome-released", "genome+-released", "model-swarms", "lorahub", "cma",
          "differential-evolution", "greedy-soup", "coarse-to-fine")  # fmt: skip
FEW = ("genome+", "lorahub", "cma", "coarse-to-fine")
EASY_TASKS, HARD_TASKS = ("skill:" + ",".join(FRIENDLY),), ("skill:" + ",".join(SKILLS),)


def part(experts, tasks, methods, budget, by="layer", space="coefficients"):
    return experts, dict(tasks=tasks, methods=methods, budget=budget, by=by, space=space)


SETTINGS = {
    "easy": {
        "expert-160": part("easy", EASY_TASKS, ("genome", "genome+", "cma", "coarse-to-fine"), 160, "expert"),
        "factors-160": part("easy", EASY_TASKS, ("genome", "genome+"), 160, space="factors"),
        "delta-160": part("easy", EASY_TASKS, ("genome", "genome+"), 160, space="delta"),
    },
    "hard": {
        "layer-60": part("hard", HARD_TASKS, VECTOR, 60),
        "layer-160": part("hard", HARD_TASKS, VECTOR, 160),
        "layer-500": part("hard", HARD_TASKS, FEW, 500),
    },
    "conflict": {
        "layer-160": part("hard", ("skill:count_up", "skill:count_down"), ("pareto", "coarse-to-fine", "cma"), 160),
    },
}


def experts_of(out, kind, seed):
    "The experts of a seed, trained once; the easy setting takes three of the hard one's."
    path = out / f"experts-{seed}"
    train_experts(path, ExpertsConfig(base="toy", experts=HARD, seed=seed), resume=True, show=False)
    if kind == "hard":
        return path
    easy = out / f"experts-easy-{seed}"
    easy.mkdir(exist_ok=True)
    for name in FRIENDLY:
        if not (easy / name).exists():
            (easy / name).symlink_to((path / "experts" / name).resolve())
    return easy


def one_seed(out, settings, seed):
    for setting in settings:
        for name, (kind, options) in SETTINGS[setting].items():
            path = out / f"{setting}-{name}-{seed}"
            if (path / "summary.json").exists():
                continue
            experts = experts_of(out, kind, seed)
            config = BreedConfig(experts=str(experts), base="toy", n_seeds=1, n_test=400, seed=seed, **options)
            breed(path, config, resume=True, show=False)
            print(path.name, json.loads((path / "summary.json").read_text())["statement"], flush=True)


def scores(out, setting, name, what="test"):
    "Method -> seed -> score."
    found = {}
    for path in sorted(out.glob(f"{setting}-{name}-*/summary.json")):
        seed = int(path.parent.name.rsplit("-", 1)[1])
        for method, m in json.loads(path.read_text())["methods"].items():
            found.setdefault(method, {})[seed] = m[what]["mean"]
    return found


def versus(a, b):
    "Mean difference over the seeds that both have, and the p of a paired t-test."
    seeds = sorted(set(a) & set(b))
    d = np.array([a[s] - b[s] for s in seeds])
    p = float(stats.ttest_1samp(d, 0).pvalue) if len(d) > 1 and d.std() > 0 else math.nan
    return f"{d.mean():+.3f} (p={p:.2g})"


def table(out, settings):
    for setting in settings:
        for name in SETTINGS[setting]:
            found = scores(out, setting, name)
            if not found:
                continue
            print(f"\n{setting} {name}: test score, mean ± sd over (n) seeds; paired differences")
            references = [r for r in ("best-expert", "sum", "random-search") if r in found]
            for method, v in sorted(found.items(), key=lambda x: -np.mean(list(x[1].values()))):
                sd = np.std(list(v.values()), ddof=1) if len(v) > 1 else math.nan
                row = [f"minus {r}: {versus(v, found[r])}" for r in references if r != method]
                print(f"  {method:24s} {np.mean(list(v.values())):.3f} ± {sd:.3f} ({len(v)})   " + "   ".join(row))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("runs/study"))
    p.add_argument("--setting", default=",".join(SETTINGS))
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--first", type=int, default=0, help="the first seed")
    p.add_argument("--table", action="store_true", help="only print what is there")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    settings = args.setting.split(",")
    for seed in range(args.first, args.first + args.seeds) if not args.table else ():
        one_seed(args.out, settings, seed)
    table(args.out, settings)


if __name__ == "__main__":
    main()
