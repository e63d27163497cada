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
    return against_sklearn(min(pairs, 5), FINE, theirs_options=svd, inner_folds="loo") | dict(aim="at least 3")


N_SCANS, N_WIDE, N_VERTICES, N_BLOCK = 3000, 4 * 768, 20_484, 512


@cache
def brain(n_targets):
    "Autocorrelated features at four delays, and responses of which a share follows them."
    rng = np.random.default_rng(1)
    words = np.apply_along_axis(np.convolve, 0, rng.standard_normal((N_SCANS, 768)), [1, 0.7, 0.4], "same")
    X = np.hstack([np.roll(words, d, 0) for d in (1, 2, 3, 4)]).astype(np.float32)
    W = rng.standard_normal((N_WIDE, n_targets)).astype(np.float32) / N_WIDE**0.5
    return X, X @ W + 3 * rng.standard_normal((N_SCANS, n_targets)).astype(np.float32)


def himalaya_scores(n_targets, config):
    "Mean r of himalaya's KernelRidgeCV, in single precision on the CPU, with the same folds and penalties."
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV

    from evonb.alignment.encoding import make_inner_folds, pearson

    X, Y = brain(n_targets)
    out, labels = [], np.zeros(N_SCANS, int)
    set_backend("torch")
    try:
        for i, (train, test) in enumerate(make_folds(N_SCANS, None, config)):
            mean, sd = X[train].mean(0), X[train].std(0)
            cv = [(np.setdiff1d(np.arange(len(train)), g), g[s])
                  for g, s in make_inner_folds(train, labels, config, i)]  # fmt: skip
            model = KernelRidgeCV(alphas=np.array(config.alphas), kernel="linear", cv=cv, fit_intercept=True)
            model.fit(torch.tensor((X[train] - mean) / sd), torch.tensor(Y[train]))
            P = model.predict(torch.tensor((X[test] - mean) / sd))
            out.append(pearson(P, torch.tensor(Y[test])).numpy())
    finally:
        set_backend("numpy")
    return np.mean(out, 0)


def encoding_himalaya(pairs, n=1):
    "himalaya's KernelRidgeCV over encode_whole: 3,000 scans x 3,072 features x 512 targets, 5 x 5 folds, single."
    from evonb.alignment.whole import encode_whole

    config, found = RidgeConfig(n_folds=N_FOLDS, dtype="float32"), {}
    X, Y = brain(N_BLOCK)
    run = lambda: found.update(ours=encode_whole(X, Y, config=config, show=False).r_mean.values)
    with threads(1):
        theirs = lambda: found.update(theirs=himalaya_scores(N_BLOCK, config))
        row = paired(theirs, run, min(pairs, 3), time.process_time, warm=0)
    apart = float(np.abs(found["ours"] - found["theirs"]).max())
    return row | dict(aim="reported", r_apart=apart, mean_r=[float(v.mean()) for v in found.values()], threads=1)


def encoding_whole_brain(pairs=0, n=0):
    "GiB at most beside features: 20,484 vertices on disk, blocks of 1 GiB, 3 penalties, 2 x 2 folds."
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    code = """if True:
        import sys, time, resource, numpy as np
        sys.path.insert(0, sys.argv[1])
        import torch; torch.set_num_threads(1)
        from encoding import brain, N_VERTICES, RidgeConfig
        from evonb.alignment.whole import encode_whole
        X, Y = brain(512)
        out = np.lib.format.open_memmap(sys.argv[2], "w+", np.float32, (len(Y), N_VERTICES))
        for a in range(0, N_VERTICES, 512): out[:, a:a + 512] = np.roll(Y, a // 512, 1)[:, :N_VERTICES - a]
        out.flush(); del out, Y
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        config = RidgeConfig(n_folds=2, inner_folds=2, alphas=(1e3, 1e4, 1e5), dtype="float32")
        ds = encode_whole(X, np.load(sys.argv[2], mmap_mode="r"), config=config, memory=1., show=False)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(time.process_time() - began, before / 2**20, peak / 2**20, ds.block, float(ds.r_mean.mean()))
    """
    with tempfile.TemporaryDirectory() as folder:
        given = [sys.executable, "-c", code, str(Path(__file__).parent), f"{folder}/brain.npy"]
        told = subprocess.run(given, capture_output=True, text=True, check=True).stdout.split()[-5:]
    seconds, before, peak, block, r = map(float, told)
    told = f"{seconds:,.0f} s of processor, {peak:.2f} GiB at most in all, {int(block):,} vertices at once"
    return dict(ratio=peak - before, told=told, mean_r=r, aim="at most 2")


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
                                encoding_sklearn_svd, encoding_himalaya, encoding_whole_brain,
                                encoding_growth_samples, encoding_growth_targets)}  # fmt: skip
