"""Methods that step along seeded noise, and niches, on a pretrained model: eight experts of eight paradigms of BLiMP.

Two experts contradict each other (a gap that is filled, a gap that isn't). What is asked of the eight paradigms is no
pair that an expert read; six others are held out, and asked once. A stopped run goes on.

    .venv/bin/python tests/bench/pretrained.py --out runs/pretrained
"""

import argparse
import json
from pathlib import Path

from genome import halved_base

from evonb.populations.breeding import BreedConfig, breed, method_table
from evonb.populations.experts import ExpertConfig, ExpertsConfig, train_experts
from evonb.store import open_run

ASKED = ("wh_vs_that_with_gap", "wh_vs_that_no_gap", "left_branch_island_echo_question", "principle_A_domain_2",
         "existential_there_quantifiers_2", "superlative_quantifiers_1", "complex_NP_island",
         "only_npi_scope")  # fmt: skip
HELD_OUT = ("wh_vs_that_with_gap_long_distance", "left_branch_island_simple_question", "principle_A_domain_3",
            "existential_there_quantifiers_1", "superlative_quantifiers_2", "wh_island")  # fmt: skip
METHODS = ("coarse-to-fine", "genome", "es", "mezo", "niches")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("runs/pretrained"))
    p.add_argument("--steps", type=int, default=16, help="of each expert's training")
    p.add_argument("--budget", type=int, default=60)
    p.add_argument("--seeds", type=int, default=2)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    base = halved_base(args.out / "base")
    learned = ExpertConfig(steps=args.steps, batch_size=8, alpha=16, lr=1e-3, warmup=5, replay=0, max_tokens=128,
                           held_out=16, eval_every=16)  # fmt: skip
    experts = {name: f"blimp:{name}" for name in ASKED}
    train_experts(args.out / "experts", ExpertsConfig(base=base, experts=experts, training=learned), resume=True)
    told = BreedConfig(experts=str(args.out / "experts"), base=base, tasks=tuple(f"blimp:{n}" for n in ASKED),
                       held_out=tuple(f"blimp:{n}" for n in HELD_OUT), methods=METHODS, space="coefficients",
                       by="expert", budget=args.budget, n_seeds=args.seeds, n_validation=15, n_test=30,
                       ensemble_size=1, max_tokens=4096)  # fmt: skip
    breed(args.out / "bred", told, resume=True)
    print(json.loads((args.out / "bred" / "summary.json").read_text())["statement"])
    print(method_table(open_run(args.out / "bred")))


if __name__ == "__main__":
    main()
