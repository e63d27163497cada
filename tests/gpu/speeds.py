"""Parts of `tests/gpu/run.sh`: the device, losses beside the CPU's, bf16, compile, batched LoRA; JSON a row."""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
from training import config, ids, life, newborn, quarter  # noqa: E402

from evonb.core import Seeds  # noqa: E402
from evonb.tasks.engine import Engine  # noqa: E402
from evonb.training.lifetime import Compute, Lifetime  # noqa: E402


def best_device():
    "The best there is, or what DEVICE names."
    mps = torch.backends.mps.is_available()
    return os.environ.get("DEVICE") or ("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")


def settled(device):
    "All that was asked of the device is done."
    if device != "cpu":
        getattr(torch, device.partition(":")[0]).synchronize()


def lived(size, device, precision="fp32", compile=False, wired=True):
    "A lifetime at its beginning."
    wiring = quarter(config(size)) if wired else None
    how = replace(life(size), precision=precision, warmup=2)
    return Lifetime(newborn(size, wiring).to(device), ids(size), ids(size)[-5000:], how, Seeds(2), wiring,
                    compute=Compute(device=device, compile=compile))  # fmt: skip


def tokens_per_s(one, steps, device):
    "Tokens a second of some steps, after two."
    for _ in range(2):
        one.one_step()
    settled(device)
    began = time.perf_counter()
    for _ in range(steps):
        one.one_step()
    settled(device)
    return steps * one.config.tokens_per_step / (time.perf_counter() - began)


def machine(device, sizes, steps):
    "What it is, and the peak of its products."
    n = 512 if device == "cpu" else 8192
    for dtype in (torch.float32, torch.bfloat16):
        a, b, best = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype), 0.0
        for _ in range(5):
            settled(device)
            began = time.perf_counter()
            a @ b
            settled(device)
            best = max(best, 2 * n**3 / (time.perf_counter() - began))
        name = torch.cuda.get_device_name() if device.startswith("cuda") else device
        yield dict(device=name, torch=str(torch.__version__), dtype=str(dtype), peak_tflops=best / 1e12)


def losses(device, sizes, steps):
    "How far losses of the same steps are from the CPU's, in float32 and bf16."
    for size in sizes:
        for precision in ("fp32", "bf16"):
            there, here = lived(size, device, precision), lived(size, "cpu")
            for _ in range(steps):
                there.one_step(), here.one_step()
            there.look(), here.look()
            off = [abs(a - b) for a, b in zip(there.train_loss, here.train_loss)]
            yield dict(size=size, precision=precision, steps=steps, largest_difference=max(off),
                       loss=here.train_loss[-1], fine=max(off) < (1e-3 if precision == "fp32" else 0.1))  # fmt: skip


def precision(device, sizes, steps):
    "Training in float32 and in bf16, dense and at 25 % density."
    for size in sizes:
        for wired in (False, True):
            fp32, bf16 = (tokens_per_s(lived(size, device, p, wired=wired), steps, device) for p in ("fp32", "bf16"))
            yield dict(size=size, wired=wired, fp32_tokens_per_s=fp32, bf16_tokens_per_s=bf16, faster=bf16 / fp32)


def compile(device, sizes, steps):
    "torch.compile against none, with the seconds that compiling takes."
    for size in sizes:
        plain = tokens_per_s(lived(size, device, "auto"), steps, device)
        one, began = lived(size, device, "auto", compile=True), time.perf_counter()
        one.one_step()
        settled(device)
        compiling = time.perf_counter() - began
        fast = tokens_per_s(one, steps, device)
        yield dict(size=size, tokens_per_s=plain, compiled_tokens_per_s=fast, faster=fast / plain, seconds=compiling)


def lora(device, sizes, steps):
    "Batched scoring of LoRA individuals against PEFT's set_adapter; on the device and on the CPU the same sums."
    import scoring

    model, tokenizer = scoring.small()
    n, (choices, _) = (2, scoring.items(4)) if steps < 5 else (10, scoring.items())
    adapters = scoring.population(model, n, 8)
    here = Engine(model, tokenizer).loglikelihoods(adapters, choices)
    wrapped = scoring.with_peft(model, adapters, 8).to(device)
    there = Engine(model.to(device), tokenizer)
    with torch.device(device):  # the baseline makes its batches where the model is
        theirs = lambda: scoring.one_after_another(wrapped, n, tokenizer, choices)
        theirs()
        settled(device)
        began = time.perf_counter()
        theirs()
        settled(device)
    slow, found = time.perf_counter() - began, there.loglikelihoods(adapters, choices)
    settled(device)
    began = time.perf_counter()
    there.loglikelihoods(adapters, choices)
    settled(device)
    fast = time.perf_counter() - began
    off = max(float(abs(a - b).max()) for x, y in zip(here, found) for (a, _), (b, _) in zip(x, y))
    yield dict(individuals=n, items=len(choices), peft_s=slow, engine_s=fast, faster=slow / fast,
               largest_difference=off, fine=off < 1e-2)  # fmt: skip


def main():
    parts = dict(machine=machine, losses=losses, precision=precision, compile=compile, lora=lora)
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("part", choices=parts)
    p.add_argument("--smoke", action="store_true", help="tiny, on the CPU")
    args = p.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    device, sizes, steps = ("cpu", ["small"], 2) if args.smoke else (best_device(), ["small", "medium", "large"], 20)
    wrong = 0
    for row in parts[args.part](device, sizes, steps):
        wrong += not row.get("fine", True)
        print(json.dumps(row), flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
