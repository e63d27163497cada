"""Speed and memory as ratios against named baselines, side by side in one run: `make bench`.

Machines are shared and noisy, so every figure is the median of ratios of neighbouring measurements, with its quartiles.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import encoding
import features
import imports
import looking
import merging
import numpy as np
import scoring
import torch
import tree
import wirings
from results import FOLDER, keep, machine, reached
from timing import paired

from evonb.connectome import inherit, prune
from evonb.core import Seeds
from evonb.gpt import GPTConfig, new_gpt
from evonb.training import Lifetime, LifetimeConfig, Windows, lr_factor, state_bytes

PROBE = GPTConfig(vocab_size=2048, n_layer=4, n_head=4, n_embd=128, block_size=64)
LIFE = LifetimeConfig(steps=10_000, batch_size=64, context=64, lr=2e-3, eval_every=10**9, checkpoint_every=10**9)
IDS = np.random.default_rng(0).integers(0, PROBE.vocab_size, 300_000).astype(np.uint16)
TOKENS = LIFE.batch_size * LIFE.context


def quarter():
    "A wiring of 25 % density, as four prunings of 29.3 % give it."
    wiring, model = None, new_gpt(PROBE, Seeds(0))
    for _ in range(4):
        wiring = prune(model, 0.293, wiring)
    return wiring


def ours(wiring):
    "A step of this library."
    model = new_gpt(PROBE, Seeds(1))
    life = Lifetime(inherit(model, wiring) if wiring else model, IDS, IDS[-5000:], LIFE, Seeds(2), wiring)
    return life.one_step, life


def plain(wiring, masks_as_float=True):
    "The loop one would write: dense AdamW, and with a wiring float masks on gradients and weights at every step."
    model = new_gpt(PROBE, Seeds(1))
    masks = {}
    if wiring:
        inherit(model, wiring)
        masks = {n: (s != 0).float() for n, s in wiring.signs.items()}
    opt = torch.optim.AdamW(model.parameters(), lr=LIFE.lr, betas=LIFE.betas, weight_decay=LIFE.weight_decay)
    windows, count = Windows(IDS, LIFE.context, LIFE.batch_size, Seeds(2).child("order")), iter(range(10**9))

    def step():
        i = next(count)
        x, y = windows.batch(i)
        opt.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x).logits.view(-1, PROBE.vocab_size), y.reshape(-1))
        loss.backward()
        for n, p in model.named_parameters():
            if n in masks:
                p.grad.mul_(masks[n])
        torch.nn.utils.clip_grad_norm_(model.parameters(), LIFE.grad_clip)
        for g in opt.param_groups:
            g["lr"] = LIFE.lr * lr_factor(i, LIFE)
        opt.step()
        with torch.no_grad():
            for n, p in model.named_parameters():
                if n in masks:
                    p.mul_(masks[n])
        loss.item()

    return step, model, opt, masks


def seconds(step, n):
    "Wall seconds of n steps."
    began = time.perf_counter()
    for _ in range(n):
        step()
    return time.perf_counter() - began


def steps(first, second, pairs, n):
    "Ratio of the times of n steps, and both speeds."
    row = paired(lambda: seconds(first, n), lambda: seconds(second, n), pairs)
    return row | {f"{k}_tokens_per_s": n * TOKENS / row[f"{k}_s"] for k in ("first", "second")}


def masked_step(pairs, n):
    "Time of a step at 25 % density over time of a dense one, both this library's."
    wiring = quarter()
    return steps(ours(wiring)[0], ours(None)[0], pairs, n) | dict(aim="at most 1.03")


def against_masked_loop(pairs, n):
    "Time of a step at 25 % density over that of the plain loop with float masks."
    wiring = quarter()
    return steps(ours(wiring)[0], plain(wiring)[0], pairs, n) | dict(aim="at most 1")


def against_dense_loop(pairs, n):
    "Time of a dense step over that of the plain dense loop."
    return steps(ours(None)[0], plain(None)[0], pairs, n) | dict(aim="at most 1")


def training_state(pairs, n):
    "Bytes held at 25 % density over dense weights, AdamW's moments and float masks (gradients not counted there)."
    wiring = quarter()
    step, life = ours(wiring)
    other, model, opt, masks = plain(wiring)
    seconds(step, 1), seconds(other, 1)
    held = state_bytes(life.model, life.optimizers)
    moments = [s[k] for s in opt.state.values() for k in ("exp_avg", "exp_avg_sq")]
    size = lambda ts: sum(t.numel() * t.element_size() for t in ts)
    base = size(model.parameters()) + size(moments) + size(masks.values())
    grads = size(p.grad for p in model.parameters())
    return dict(ratio=sum(held.values()) / base, with_their_gradients=sum(held.values()) / (base + grads), bytes=held,
                baseline_bytes=base, aim="at most 0.6")  # fmt: skip


ROWS = dict(masked_step=masked_step, against_masked_loop=against_masked_loop, against_dense_loop=against_dense_loop,
            training_state=training_state)  # fmt: skip
for part in (merging, scoring, features, encoding, wirings, imports, looking, tree):
    ROWS |= part.ROWS


def told(row):
    "A row as a line."
    if "skipped" in row:
        return f"skipped: {row['skipped']}"
    out = f"{row['ratio']:.3f}" + ", the exponent of growth" * row.get("is_exponent", False)
    if "low" in row:
        out += f" (quartiles {row['low']:.3f} to {row['high']:.3f})"
    out += f", aim {row['aim']}"
    if (met := reached(row)) is not None:
        out += ", reached" if met else ", NOT reached"
    if "first_tokens_per_s" in row:
        out += f"; {row['first_tokens_per_s']:,.0f} against {row['second_tokens_per_s']:,.0f} tokens/s"
    elif "first_s" in row:
        out += f"; {row['first_s']:.3g} against {row['second_s']:.3g} s"
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--pairs", type=int, default=9, help="measurements of each pair")
    p.add_argument("--steps", type=int, default=6, help="training steps a measurement")
    p.add_argument("--out", type=Path, default=FOLDER / "bench.json", help="the file that rows are kept in as JSON")
    p.add_argument("rows", nargs="*", metavar="ROW", help=f"only these: {', '.join(ROWS)}")
    args = p.parse_args()
    print(json.dumps(machine()))
    for name in args.rows or ROWS:
        row = ROWS[name](args.pairs, args.steps)
        print(f"{name:28s} {told(row)}\n    {ROWS[name].__doc__}", flush=True)
        if "skipped" not in row:
            keep(args.out, {name: dict(row, what=ROWS[name].__doc__, part=ROWS[name].__module__)}, ROWS)
    print(f"written to {args.out}; `make docs` shows it as a page")


if __name__ == "__main__":
    sys.exit(main())
