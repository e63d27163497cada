"Two things measured side by side: the machine is shared and noisy, so only ratios of neighbouring measurements count."

import time
from contextlib import contextmanager

import numpy as np
import torch


def paired(first, second, pairs, clock=time.perf_counter, warm=1):
    "Median and quartiles of first/second over neighbouring measurements in alternating order, and both medians in s."
    for _ in range(warm):
        first(), second()
    took = []
    for i in range(pairs):
        order = (first, second) if i % 2 == 0 else (second, first)
        took.append({f: _measured(f, clock) for f in order})
    low, mid, high = np.quantile([t[first] / t[second] for t in took], [0.25, 0.5, 0.75])
    first_s, second_s = (float(np.median([t[f] for t in took])) for f in (first, second))
    return dict(ratio=float(mid), low=float(low), high=float(high), first_s=first_s, second_s=second_s)


def _measured(f, clock):
    began = clock()
    f()
    return clock() - began


def spread(run, times, clock=time.perf_counter):
    "Median and quartiles of one thing's seconds."
    low, mid, high = np.quantile([_measured(run, clock) for _ in range(times)], [0.25, 0.5, 0.75])
    return float(low), float(mid), float(high)


@contextmanager
def threads(n):
    "While inside, torch, NumPy and SciPy compute with n threads."
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with threadpool_limits(n):
            yield
    finally:
        torch.set_num_threads(before)


def growth(make, times=3, sizes=(1, 2, 4, 8), clock=time.process_time):
    """How time grows with the work: the slope of log seconds over log work, from each size's least time.

    `make(size)` returns what is to be measured at 1, 2, 4 and 8 times the work. 1 is in proportion.
    """
    runs = {size: make(size) for size in sizes}
    for run in runs.values():
        run()
    least = {size: min(_measured(run, clock) for _ in range(times)) for size, run in runs.items()}
    exponent = float(np.polyfit(np.log(sizes), np.log(list(least.values())), 1)[0])
    return dict(ratio=exponent, seconds={f"{k}x": v for k, v in least.items()}, is_exponent=True, aim="at most 1.05")
