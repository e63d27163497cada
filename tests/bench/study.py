"""Which method finds the best individual, at 60, 160 and 500 evaluations: whole runs over several seeds.

Every seed trains its own experts of the toy base, deals its own items and evolves on its own; methods of one seed share
experts and items, so differences are paired over seeds. Nothing is selected on the test. A stopped run goes on.

    .venv/bin/python tests/bench/study.py --out runs/study --setting easy,hard --seeds 5
    .venv/bin/python tests/bench/study.py --out runs/apart --setting apart,negated --seeds 5 --steps 160
    .venv/bin/python tests/bench/study.py --out runs/study --table

`apart` takes coarse-to-fine apart, and sets methods beside it that came later. `negated` is a
family that it wasn't designed on: of six skills five are taught by no expert, but three experts teach their wrong
forms, so that the best individual subtracts them, away from sum, mean and all that a design begins with. The unit of a
verdict is a whole run: its experts, items and searches.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evonb.evolution.method import Method, register_method
from evonb.evolution.methods.baselines import RandomConfig, random_coefficients
from evonb.evolution.methods.coarse_to_fine import CoarseToFine, CoarseToFineConfig, structured_design
from evonb.populations.breeding import BreedConfig, breed
from evonb.populations.experts import ExpertConfig, ExpertsConfig, train_experts
from evonb.statistics import crossed_mean, judge_family, p_text, verdict

FRIENDLY = ("agreement", "reflexive", "count_up")
SKILLS = (*FRIENDLY, "adjective_first", "made_up_noun", "polarity", "tense", "opposite")
HARD = {s: f"skill:{s}" for s in SKILLS} | {
    "reflexive_again": "skill:reflexive",  # redundant
    "count_down": "skill:count_down",  # the opposite of count_up
    "spoiler_1": "skill:who_or_which-agreement-reflexive-count_up",  # teach one skill and break three others
    "spoiler_2": "skill:a_or_an-polarity-tense-made_up_noun",
}


NEGATED = ("spoiler_1", "spoiler_2", "count_down", "tense", "opposite", "adjective_first")  # of the hard setting's
UNTAUGHT = ("agreement", "reflexive", "count_up", "polarity", "made_up_noun", "tense")  # but the last


# Coarse-to-fine, each time without one of its parts -----------------------------------------------------------------


@register_method("coarse-to-fine-values")
class Values(CoarseToFine):
    "Without margins: one surrogate of the score."

    reads_margins = False

    def surrogate(self, known, by_margins):
        return super().surrogate(known, False)

    def choose(self, individuals):
        return Method.choose(self, individuals)


@register_method("coarse-to-fine-undesigned")
class Undesigned(CoarseToFine):
    "Without the design: as many random points, one coefficient an expert, to begin with."

    def propose(self):
        if self.generation:
            return super().propose()
        n = len(structured_design(self.space.start()))
        told = RandomConfig("uniform", shared=True, batch=n)
        return [(g, (), "draw") for g in random_coefficients(self.space.shape, told, self.rng())]


@register_method("coarse-to-fine-blind")
class Blind(CoarseToFine):
    "Without the surrogate: steps are drawn from the same boxes around the best point."

    def surrogate(self, known, by_margins):
        return None, None

    def steps(self, best, surrogate, gain):
        c, rng, (groups, experts) = self.config, self.rng(), self.space.shape
        boxes = [(b, 1) for b in c.coarse_boxes] + [(b, groups) for b in c.fine_boxes]
        return [(best.genome + b * rng.uniform(-1, 1, (n, experts)), [best], "blind step") for b, n in boxes]


@dataclass
class CoarseConfig(CoarseToFineConfig):
    coarse_boxes: tuple[float, ...] = (0.15, 0.3, 0.5, 0.6)
    fine_boxes: tuple[float, ...] = ()


@dataclass
class FineConfig(CoarseToFineConfig):
    coarse_boxes: tuple[float, ...] = ()


@register_method("coarse-only")
class Coarse(CoarseToFine):
    "One coefficient an expert to the end."

    config_class = CoarseConfig


@register_method("fine-only")
class Fine(CoarseToFine):
    "All coefficients from the first step on."

    config_class = FineConfig


APART = ("coarse-to-fine", "coarse-to-fine-values", "coarse-to-fine-undesigned", "coarse-to-fine-blind", "coarse-only",
         "fine-only")  # fmt: skip
LATER = ("es", "mezo", "niches", "scaled-sum")

VECTOR = ("genome", "genome+", "genome-released", "genome+-released", "model-swarms", "lorahub", "cma",
          "differential-evolution", "greedy-soup", "coarse-to-fine")  # fmt: skip
FEW = ("genome+", "lorahub", "cma", "coarse-to-fine")
OTHERS = ("coarse-to-fine", "genome", "genome+", "lorahub", "cma")
EASY_TASKS, HARD_TASKS, NEGATED_TASKS = (("skill:" + ",".join(names),) for names in (FRIENDLY, SKILLS, UNTAUGHT))


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
    "apart": {
        "layer-60": part("hard", HARD_TASKS, APART + LATER, 60),
        "layer-160": part("hard", HARD_TASKS, APART + LATER, 160),
    },
    "negated": {
        "layer-60": part("negated", NEGATED_TASKS, OTHERS + LATER, 60),
    },
    "conflict": {
        "layer-160": part("hard", ("skill:count_up", "skill:count_down"), ("pareto", "coarse-to-fine", "cma"), 160),
    },
}


def experts_of(out, kind, seed, steps):
    "The experts of a seed, trained once; other settings take some of the hard one's."
    path = out / f"experts-{seed}"
    config = ExpertsConfig(base="toy", experts=HARD, seed=seed, training=ExpertConfig(steps=steps))
    train_experts(path, config, resume=True, show=False)
    if kind == "hard":
        return path
    some = out / f"experts-{kind}-{seed}"
    some.mkdir(exist_ok=True)
    for name in dict(easy=FRIENDLY, negated=NEGATED)[kind]:
        if not (some / name).exists():
            (some / name).symlink_to((path / "experts" / name).resolve())
    return some


def parts_of(settings, only):  # -> [(setting, name, experts, options)]
    "What is run; `only` leaves out parts of other names."
    return [(s, name, *told) for s in settings for name, told in SETTINGS[s].items() if only in ("", name)]


def one_seed(out, parts, seed, steps):
    for setting, name, kind, options in parts:
        path = out / f"{setting}-{name}-{seed}"
        if (path / "summary.json").exists():
            continue
        experts = experts_of(out, kind, seed, steps)
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


def against(found, method, other):  # what `judged` tells
    "The difference over the runs that both have; a run has experts and items of its own, so it is the unit."
    seeds = sorted(set(found[method]) & set(found[other]))
    return crossed_mean(np.array([found[method][s] - found[other][s] for s in seeds]), ("run",))


def table(out, parts):
    "Scores, and Holm over all comparisons of a budget."
    for setting, name, *_ in parts:
        if not (found := scores(out, setting, name)):
            continue
        beside = [r for r in ("best-expert", "sum", "random-search", "coarse-to-fine") if r in found]
        told = {(m, r): against(found, m, r) for m in found for r in beside if m != r and (r, m) not in found}
        seen = set()
        told = {k: d for k, d in told.items() if frozenset(k) not in seen and not seen.add(frozenset(k))}
        told = judge_family(told)
        print(f"\n{setting} {name}: test score, mean ± sd over runs; Holm over {len(told)} comparisons\n")
        print(f"| method | test | {' | '.join('minus ' + r for r in beside)} |\n|---|---|{'---|' * len(beside)}")
        for m in sorted(found, key=lambda m: -np.mean(list(found[m].values()))):
            values = list(found[m].values())
            said = [in_words(told.get((m, r))) for r in beside]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            print(f"| {m} | {np.mean(values):.3f}{spread} ({len(values)}) | {' | '.join(said)} |")


def in_words(d):
    "A difference, its interval, p and verdict."
    if not d or d["low"] is None:
        return "" if not d or d["mean"] is None else f"{d['mean']:+.3f}"
    return (f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}], {p_text(d)}, "
            f"{verdict(d, 'higher', 'lower', 'not clear')}")  # fmt: skip


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("runs/study"))
    p.add_argument("--setting", default=",".join(SETTINGS))
    p.add_argument("--only", default="", help="a part of a setting, as in layer-60")
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--first", type=int, default=0, help="the first seed")
    p.add_argument("--steps", type=int, default=ExpertConfig().steps, help="of each expert's training")
    p.add_argument("--table", action="store_true", help="only print what is there")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    parts = parts_of(args.setting.split(","), args.only)
    for seed in range(args.first, args.first + args.seeds) if not args.table else ():
        one_seed(args.out, parts, seed, args.steps)
    table(args.out, parts)


if __name__ == "__main__":
    main()
