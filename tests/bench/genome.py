"""The paper's setting at SmolLM2's size: ten experts, 200 items a task, individuals that are merged on A and B apart.

Two tasks of BIG-Bench-Hard are asked without solved examples: short questions with short answers, so that one core
suffices. Eight experts learn from other tasks' published items, two from made-up questions of the two tasks' kind, of
which none is in the files. Only generations are fewer than in the paper. A stopped run goes on.

    .venv/bin/python tests/bench/genome.py --data FOLDER/bbh --out runs/genome
"""

import argparse
import json
from pathlib import Path

from evonb.core import Seeds
from evonb.populations.breeding import BREED_PRESETS, BreedConfig, breed
from evonb.populations.experts import ExpertConfig, ExpertsConfig, train_experts
from evonb.training.base import open_base

ASKED = ("boolean_expressions", "object_counting")
READ = ("sports_understanding", "hyperbaton", "web_of_lies", "navigate", "snarks", "multistep_arithmetic_two",
        "dyck_languages", "word_sorting")  # fmt: skip
KINDS = {
    "musical instruments": "flute piano trombone violin accordion clarinet drum trumpet guitar harp cello oboe",
    "fruits": "banana orange peach plum apple grape strawberry nectarine blackberry raspberry mango pear",
    "vegetables": "carrot potato onion cabbage cauliflower yam turnip radish leek pumpkin bean pea",
    "animals": "cat dog cow goat pig rabbit snail frog chicken duck bear mouse donkey snake fish",
    "objects": "table chair car bed fridge stove oven lamp couch microwave toaster",
}
NUMBERS = "zero one two three four five".split()


def boolean(rng, depth=3):  # -> str
    "A random expression."
    if not depth or rng.random() < 0.25:
        return str(rng.choice(["True", "False"]))
    kind = rng.integers(4)
    if kind == 0:
        return f"not {boolean(rng, depth - 1)}"
    if kind == 1:
        return f"( {boolean(rng, depth - 1)} )"
    return f"{boolean(rng, depth - 1)} {('and', 'or')[kind - 2]} {boolean(rng, depth - 1)}"


def boolean_expressions(rng):
    said = f"{boolean(rng)} {rng.choice(['and', 'or'])} {boolean(rng)}"
    return f"{said} is", str(eval(said))  # of this file's own making


def object_counting(rng):
    kind, other = rng.choice(list(KINDS), 2, replace=False)
    picked = [(kind, n) for n in rng.choice(KINDS[kind].split(), rng.integers(2, 9), replace=False)]
    others = 0 if kind == "objects" else rng.integers(0, 3)
    picked += [(other, n) for n in rng.choice(KINDS[other].split(), others, replace=False)]
    counts = [int(rng.integers(2, 5)) if rng.random() < 0.2 else 1 for _ in picked]
    article = lambda n: "an" if n[0] in "aeiou" else "a"
    said = [f"{article(n)} {n}" if c == 1 else f"{NUMBERS[c]} {n}s" for c, (_, n) in zip(counts, picked)]
    said = [said[i] for i in rng.permutation(len(said))]
    total = sum(c for c, (k, _) in zip(counts, picked) if k == kind)
    return f"I have {', '.join(said[:-1])}, and {said[-1]}. How many {kind} do I have?", str(total)


def write_texts(data, out, n=400):
    "What each expert reads: a question and its answer a line."
    out.mkdir(parents=True, exist_ok=True)
    for name in (*ASKED, *READ):
        items = [(e["input"], e["target"]) for e in json.loads((data / f"{name}.json").read_text())["examples"]]
        if name in ASKED:
            asked, rng, made = {q for q, _ in items}, Seeds(0).child("texts", name).numpy(), {}
            while len(made) < n:
                q, a = globals()[name](rng)
                made |= {} if q in asked else {q: a}
            items = list(made.items())
        rows = [json.dumps(dict(prompt=f"Q: {q}\nA:", completion=f" {a}\n\n")) for q, a in items if len(q) < 220]
        (out / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def halved_base(out):
    "The base in bf16, which one core multiplies faster."
    if not (out / "config.json").exists():
        import torch

        base = open_base("smollm2-135m-instruct", "cpu")
        base.model.to(torch.bfloat16).save_pretrained(out)
        base.tokenizer.save_pretrained(out)
    return str(out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="the folder bbh")
    p.add_argument("--out", type=Path, default=Path("runs/genome"))
    p.add_argument("--steps", type=int, default=16, help="of each expert's training")
    p.add_argument("--budget", type=int, default=20)
    p.add_argument("--seeds", type=int, default=1)
    args = p.parse_args()
    write_texts(args.data, args.out / "texts")
    base = halved_base(args.out / "base")
    learned = ExpertConfig(steps=args.steps, batch_size=8, alpha=16, lr=1e-3, warmup=5, replay=0, max_tokens=128,
                           held_out=16, eval_every=16)  # fmt: skip
    experts = {n: str(args.out / "texts" / f"{n}.jsonl") for n in (*ASKED, *READ)}
    train_experts(args.out / "experts", ExpertsConfig(base=base, experts=experts, training=learned), resume=True)
    tasks = tuple(f"bbh:{args.data}::{n},shots=0" for n in ASKED)
    told = dict(experts=str(args.out / "experts"), base=base, tasks=tasks, budget=args.budget, n_seeds=args.seeds,
                n_test=50, ensemble_size=1, max_tokens=8192)  # fmt: skip
    preset = BREED_PRESETS["genome"] | told
    beside = told | dict(space="coefficients", by="expert", methods=("random-search",))
    for name, options in dict(bred=preset, beside=beside).items():
        breed(args.out / name, BreedConfig(**options), resume=True)
        summary = json.loads((args.out / name / "summary.json").read_text())
        print(f"\n{name}: {summary['statement']}\nbase: {[t['base'] for t in summary['tasks']]}")
        for m, d in summary["methods"].items():
            by = {t: round(x["mean"], 3) for t, x in d["by_task"].items()}
            print(f"{m}: validation {d['validation']['mean']:.3f}, test {d['test']['mean']:.3f} {by}, "
                  f"{d['evaluations']:.0f} evaluations, {d['seconds']:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
