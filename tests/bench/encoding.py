"""Encoding models: scikit-learn's RidgeCV per layer and fold against `encode`, with the same folds and 60 penalties."""

import os
import time
from functools import cache

import numpy as np
import torch
from timing import growth, paired, threads

from evonb.alignment.encoding import RidgeConfig, decompose, encode, make_folds

N_LAYERS, N_SENTENCES, N_FEATURES, N_TARGETS, N_FOLDS = 13, 1000, 768, 5, 5
FINE = tuple(np.logspace(-2, 8, 60))
DECADES = tuple(10.0 ** np.arange(-30, 30))  # 1e-30 to 1e29


@cache
def sentences():
    "Layers of correlated features, and targets that one in the middle predicts best."
    rng = np.random.default_rng(0)
    layers, drift = [], np.linspace(0, 1, N_LAYERS)
    first, last = (rng.standard_normal((N_SENTENCES, N_FEATURES)) for _ in range(2))
    mix = rng.standard_normal((N_FEATURES, N_FEATURES)) * np.arange(1, N_FEATURES + 1)[:, None] ** -0.5
    for d in drift:
        layers.append(((1 - d) * first + d * last) @ mix)
    signal = layers[N_LAYERS // 2] @ rng.standard_normal((N_FEATURES, N_TARGETS))
    noise = rng.standard_normal((N_SENTENCES, N_TARGETS))
    return layers, signal / signal.std(0) + 1.5 * noise


def theirs(alphas, **options):
    "Mean r (layer, target) of scikit-learn's RidgeCV, which leaves out one sample at a time to choose."
    from sklearn.linear_model import RidgeCV

    layers, Y = sentences()
    out = np.zeros((len(layers), N_FOLDS, N_TARGETS))
    folds = make_folds(N_SENTENCES, None, RidgeConfig(n_folds=N_FOLDS))
    for i, X in enumerate(layers):
        for j, (train, test) in enumerate(folds):
            mean, sd = X[train].mean(0), X[train].std(0)
            model = RidgeCV(alphas=alphas, alpha_per_target=True, **options).fit((X[train] - mean) / sd, Y[train])
            P = model.predict((X[test] - mean) / sd)
            out[i, j] = [np.corrcoef(P[:, k], Y[test][:, k])[0, 1] for k in range(N_TARGETS)]
    return out.mean(1)


def ours(alphas, **options):
    "Mean r (layer, target) of this library."
    layers, Y = sentences()
    config = RidgeConfig(alphas=alphas, n_folds=N_FOLDS, **options)
    return np.array([encode(X, Y, config=config).r_mean.values for X in layers])


def parts():
    "Where the time of one layer and fold goes, in ms."
    X = torch.tensor(sentences()[0][N_LAYERS // 2][:800])
    Z, Q = (X - X.mean(0)) / X.std(0), X.new_full((800, 1), 800**-0.5)
    found = {}
    for name, f in (("decompose", lambda: decompose(Z, Z[:200], Q)), ("eigh", lambda: torch.linalg.eigh(Z.T @ Z))):
        f(), (began := time.perf_counter()), f()
        found[name + "_ms"] = 1000 * (time.perf_counter() - began)
    return found


def against_sklearn(pairs, alphas, n_threads=1, theirs_options=None, **options):
    "Wall seconds of scikit-learn over ours, how far mean r are apart, and both best layers."
    expected, found = {}, {}
    run_theirs = lambda: expected.update(r=theirs(alphas, **(theirs_options or {})))
    run_ours = lambda: found.update(r=ours(alphas, **options))
    with threads(n_threads):
        row = paired(run_theirs, run_ours, pairs, warm=0) | parts()
    apart = np.abs(found["r"].mean(1) - expected["r"].mean(1))  # (n_layers,)
    best = dict(best_layer=[int(v["r"].mean(1).argmax()) for v in (expected, found)])
    return row | best | dict(r_apart=float(apart.max()), mean_r=[float(v["r"].mean()) for v in (expected, found)],
                             threads=n_threads, cores=os.cpu_count())  # fmt: skip


def encoding_sklearn(pairs, n=1):
    "RidgeCV over encode, 13 layers x 1,000 sentences x 768 features x 5 targets, 5 folds, 60 penalties, leave-one-out."
    return against_sklearn(min(pairs, 5), FINE, inner_folds="loo") | dict(aim="at least 10")


def encoding_sklearn_blocks(pairs, n=1):
    "The same, encode choosing by five contiguous inner folds, as it does by default."
    return against_sklearn(min(pairs, 5), FINE) | dict(aim="at least 10")


def encoding_sklearn_decades(pairs, n=1):
    "The same with the published 60 penalties, 1e-30 to 1e29, both leave-one-out."
    return against_sklearn(min(pairs, 5), DECADES, inner_folds="loo") | dict(aim="at least 10")


def encoding_sklearn_svd(pairs, n=1):
    "The first row against RidgeCV(gcv_mode='svd'), which is faster here than scikit-learn's default."
    svd = dict(gcv_mode="svd")
    return against_sklearn(min(pairs, 5), FINE, theirs_options=svd, inner_folds="loo") | dict(aim="reported")


def grown(make):
    "The exponent of `encode`'s time over data that `make(size)` gives."
    rng = np.random.default_rng(0)

    def at(size):
        n, p, q = make(size)
        X, Y = rng.standard_normal((n, p)), rng.standard_normal((n, q))
        return lambda: encode(X, Y, config=RidgeConfig(n_folds=N_FOLDS))

    with threads(1):
        return growth(at)


def encoding_growth_samples(pairs=0, n=0):
    "How the time of `encode` grows with the samples, 400 to 3,200, 128 features, 50 targets."
    return grown(lambda size: (400 * size, 128, 50))


def encoding_growth_targets(pairs=0, n=0):
    "How the time of `encode` grows with the targets, 500 to 4,000, 400 samples, 256 features."
    return grown(lambda size: (400, 256, 500 * size))


ROWS = {f.__name__: f for f in (encoding_sklearn, encoding_sklearn_blocks, encoding_sklearn_decades,
                                encoding_sklearn_svd, encoding_growth_samples, encoding_growth_targets)}  # fmt: skip
