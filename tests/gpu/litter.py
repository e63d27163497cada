"""A litter on a GPU, in two minutes: does it compute what newborns compute one by one, and what does it save?

    python tests/gpu/litter.py [--device cuda] [--siblings 1,4,16] [--steps 30]

On a CPU it is a smoke test. It prints one line of JSON a number of siblings: the largest difference of losses in
float32, tokens/s one by one and together, and the most memory each took.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
from training import config, ids, life, newborn, quarter  # noqa: E402

from evonb.core import Seeds  # noqa: E402
from evonb.training.lifetime import Lifetime  # noqa: E402
from evonb.training.litter import Siblings, sibling_bytes  # noqa: E402


def lives(size, k, device, precision):
    "Newborns of a size, each with a rate and a text of its own."
    wiring, how = quarter(config(size)), replace(life(size), precision=precision, warmup=2)
    return [Lifetime(newborn(size, wiring).to(device), ids(size), ids(size)[-5000:], how.at_rate(1e-3 * (1 + s / k)),
                     Seeds(s), wiring) for s in range(k)]  # fmt: skip


def timed(step, n, device):
    "Seconds of n steps, and the most bytes that the GPU held."
    gpu = device.startswith("cuda")
    step()
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for _ in range(n):
        step()
    if gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began, torch.cuda.max_memory_allocated() if gpu else None


def measure(size, k, steps, device):
    "One row."
    alone, together = lives(size, k, device, "fp32"), Siblings(lives(size, k, device, "fp32"))
    for _ in range(5):
        together.one_step()
        for x in alone:
            x.one_step()
    for x in (*alone, together):
        x.look()
    off = max(abs(a - b) for x, y in zip(alone, together.lives) for a, b in zip(x.train_loss, y.train_loss))
    alone, together = lives(size, k, device, "auto"), Siblings(lives(size, k, device, "auto"))
    one, alone_bytes = timed(lambda: [x.one_step() for x in alone], steps, device)
    all_at_once, bytes_together = timed(together.one_step, steps, device)
    n = k * steps * life(size).batch_size * life(size).context
    return dict(size=size, siblings=k, largest_difference=off, alone_tokens_per_s=round(n / one),
                litter_tokens_per_s=round(n / all_at_once), faster=round(one / all_at_once, 2), alone_bytes=alone_bytes,
                litter_bytes=bytes_together, planned_bytes=k * sibling_bytes(config(size), life(size)))  # fmt: skip


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--siblings", default="1,4,16")
    p.add_argument("--sizes", default="small,medium")
    p.add_argument("--steps", type=int, default=30)
    args = p.parse_args()
    wrong = 0
    for size in args.sizes.split(","):
        for k in map(int, args.siblings.split(",")):
            row = measure(size, k, args.steps, args.device)
            wrong += row["largest_difference"] > 1e-5
            print(json.dumps(row), flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
