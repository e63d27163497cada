"""How near training and scoring come to the machine: model FLOP/s over the measured peak, and where the rest goes.

Six floating-point operations a weight of a matrix and token in training, two in a forward pass; embeddings multiply
nothing, and attention's own products count as overhead. The peak is that of one core, by the library that evonb
takes here, the best of a square product and of those of the model's own shapes, measured between the steps.
"""

import os
import time

import numpy as np
import torch
from timing import threads
from training import SIZES, config, life, newborn, ours
from training import ids as tokens

from evonb.training.lifetime import window_losses
from evonb.training.linear import fast_products, product

AIMS = dict(small=0.55, medium=0.75, large=0.9)
ROUNDS = dict(small=(4, 16), medium=(1, 4), large=(1, 1))  # steps and forward passes a measurement
KINDS = {  # what an operation belongs to, by a part of its name; the first that fits
    "products": ("mm", "linear_pointwise", "mkl_linear", "linear_cross_entropy"), "attention": ("scaled_dot_product",),
    "GELU": ("gelu",), "optimiser": ("adamw", "foreach"),
    "loss": ("softmax", "amax", "aminmax", "gather", "scatter", "log_", "logsumexp", "nll_loss",
             "cross_entropy", "exp"),
    "embedding": ("embedding", "index"),
    "norms, rotation, residuals": ("mul", "add", "sub", "div", "sum", "norm", "rsqrt", "square", "pow", "copy", "cat",
                                   "roll", "clone", "fill", "zero", "to_copy", "mean", "where", "clamp", "eq", "ne")}


def n_matrix_weights(size):
    "Weights that multiply each token."
    c = config(size)
    return 12 * c.n_layer * c.n_embd**2 + c.vocab_size * c.n_embd


def shapes(size):
    "Tokens, inputs and outputs of the products to take for the peak: a square, and the model's largest."
    n_layer, width, vocab, context, batch = SIZES[size]
    return (1024, 1024, 1024), (batch * context, width, 4 * width), (512, width, vocab)


def peak(size, seconds=0.1):
    "GFLOP/s of the fastest of these products, the best of each counting."
    best, rng = 0.0, torch.Generator().manual_seed(0)
    for n, k, m in shapes(size):
        x, w = torch.randn(n, k, generator=rng), torch.randn(m, k, generator=rng)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.thread_time()
            product(x, w)
            best = max(best, 2e-9 * n * k * m / (time.thread_time() - began))
    return best


def kind_of(name):
    "What an operation of the profile belongs to; all that computes nothing is Python and dispatch."
    known = name.startswith(("aten::", "mkldnn::"))
    found = (kind for kind, parts in KINDS.items() if known and any(p in name for p in parts))
    return next(found, "Python and dispatch")


def profile(run):
    "Share of the time that each kind of operation takes itself, by torch's profiler."
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CPU]) as found:
        began = time.perf_counter()
        run()
        whole = time.perf_counter() - began
    took = dict.fromkeys([*KINDS, "Python and dispatch"], 0.0)
    for e in found.key_averages():
        took[kind_of(e.key)] += e.self_cpu_time_total / 1e6
    took["Python and dispatch"] += max(0.0, whole - sum(took.values()))  # between the operations
    return {k: v / sum(took.values()) for k, v in took.items()}


def measured(size, run, flops, pairs):
    "A row: the share of the peak, each measurement beside peaks of the same moment, and the profile."
    with threads(1), torch.no_grad():
        peak(size)
    run()
    shares, speeds, peaks = [], [], []
    with threads(1):
        for _ in range(pairs):
            with torch.no_grad():
                before = peak(size)
            began = time.process_time()
            run()
            speed = 1e-9 * flops / (time.process_time() - began)
            with torch.no_grad():
                top = max(before, peak(size))
            shares.append(speed / top), speeds.append(speed), peaks.append(top)
        parts = profile(run)
    low, mid, high = np.quantile(shares, [0.25, 0.5, 0.75])
    return dict(ratio=float(mid), low=float(low), high=float(high), gflops=float(np.median(speeds)),
                peak_gflops=max(peaks), parts=parts, library=fast_products(), threads=1, clock="process_time",
                load=round(os.getloadavg()[0], 1), why=why(float(mid), parts),
                aim=f"at least {AIMS[size]}")  # fmt: skip


def why(share, parts):
    "What remains, in words."
    rest = sorted(((v, k) for k, v in parts.items() if k != "products" and v >= 0.01), reverse=True)
    pace = share / parts["products"]
    said = ", ".join(f"{k} {v:.0%}" for v, k in rest)
    return (f"products take {parts['products']:.0%} of the time, then at {min(pace, 1):.0%} of the peak "
            f"(small matrices are slower); the rest is {said}.")


def training(size):
    "A row: a training step."

    def row(pairs, n):
        n, step = ROUNDS[size][0], ours(size)[0]
        c = life(size)
        flops = 6 * n_matrix_weights(size) * n * c.batch_size * c.context
        return measured(size, lambda: [step() for _ in range(n)], flops, pairs)

    row.__doc__ = said("Training", "6", size)
    return row


def forward(size):
    "A row: the losses of windows, as scoring and validation compute them."

    def row(pairs, n):
        n, model, c = ROUNDS[size][1], newborn(size, None).eval(), life(size)
        rows = torch.from_numpy(tokens(size)[: c.batch_size * (c.context + 1)].astype(np.int64))
        rows = rows.view(c.batch_size, c.context + 1)
        flops = 2 * n_matrix_weights(size) * n * c.batch_size * c.context
        run = lambda: [window_losses(model, rows[:, :-1], rows[:, 1:], c.batch_size) for _ in range(n)]
        return measured(size, run, flops, pairs)

    row.__doc__ = said("Scoring (a forward pass and the loss of each token)", "2", size)
    return row


def said(what, times, size):
    "A row's line."
    n_layer, width, vocab, context, batch = SIZES[size]
    return (f"{what}: {times} FLOPs a weight of a matrix and token, a second, over the measured peak of products "
            f"on one core; {n_layer} layers of width {width}, vocabulary {vocab:,}, {batch} windows of {context}.")


ROWS = {f"roofline_{kind}_{size}": make(size) for kind, make in (("training", training), ("forward", forward))
        for size in AIMS}  # fmt: skip
