"""A resting brain as null: features that have nothing to do with it, under contiguous and under shuffled folds.

python tests/bench/resting.py WHEEL KIND FIRST LAST: a line of JSON for each seed. KIND is white, slow (autocorrelation
.9), or lm0, lm15, lm30: a layer of SmolLM2 that reads Natural Stories from the story of that number on. --no-null
leaves permutations out.
"""

import argparse
import json
from dataclasses import replace

import numpy as np

from evonb.alignment import ReadConfig, natural_stories, read
from evonb.alignment.encoding import RidgeConfig, encode, permutation_null
from evonb.alignment.parcels import near_points
from evonb.alignment.responses import design, nuisance_design
from evonb.alignment.rows import ROWS, when_taken
from evonb.alignment.scans import to_scans
from evonb.alignment.sources.resting import REST_TR, resting_brain
from evonb.alignment.sources.toy_brain import ar1_noise
from evonb.alignment.verdicts import judge_arms, judge_rows, unbeaten
from evonb.core import Seeds
from evonb.statistics import verdict
from evonb.text.passages import join_words
from evonb.training.base import open_base


def story(stories, k, n_scans):  # words, onsets and rows of Natural Stories from story k on, at the pace of toy English
    order = [(k + i) % 10 for i in range(10)]
    starts = np.r_[0, np.cumsum([len(p.spans) for p in stories.passages])]
    words = [w for i in order for w in stories.passages[i].words]
    rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order])
    rng = Seeds(k).child("times").numpy()
    lasts = 0.12 + 0.045 * np.array([len(w) for w in words]) + rng.uniform(0, 0.08, len(words))
    gap = np.where([w[-1] in ".?!\"'" for w in words], 0.6, 0.0) + rng.uniform(0, 0.03, len(words))
    onsets = 4 + np.cumsum(np.r_[0, (lasts + gap)[:-1]])
    keep = onsets < n_scans * REST_TR - 2
    return [w for w, q in zip(words, keep) if q], onsets[keep], rows[keep]


def study(rest, X, seed, null, text):  # one data set of features, as `evonb align` judges one person
    data, n, out = rest.cleaned(), len(rest.data), {}
    C = np.hstack(list(nuisance_design(data, None, delays=(1, 2, 3, 4)).values()))
    for folds in ("contiguous", "shuffled"):
        config = RidgeConfig(folds=folds, trim=5 * (folds == "contiguous"), seed=seed)
        given = dict(groups=data.groups, config=config, confounds=C)
        scores = encode(X, data.data, **given)
        out[f"{folds}_r"] = float(scores.r_mean.mean())
        if null:
            block = 20 if folds == "contiguous" else 1
            drawn = permutation_null(X, data.data, n_permutations=40, seed=seed, block=block, **given)
            out |= {f"{folds}_p05": float((drawn.p < 0.05).mean()), f"{folds}_any_q": bool((drawn.q < 0.05).any())}
        other = given | dict(config=replace(config, scale=False))
        rows = dict(autocorrelation=encode(when_taken(n), data.data, **other))
        out[f"{folds}_autocorrelation_r"] = float(rows["autocorrelation"].r_mean.mean())
        if text:
            for name, how in (("position", "average"), ("word-rate", "sum")):
                rows[name] = encode(design(data, ROWS[name](data.passages, None), how=how), data.data, **given)
        gain = {"model": scores.gain.mean("target").values[None]}
        versus = judge_rows(gain, {k: v.gain.mean("target").values for k, v in rows.items()}, "fold", ("model",))
        told = verdict(judge_arms(gain, "fold", ("model",))["model"]["gain"])
        out |= {f"{folds}_verdict": told, f"{folds}_unbeaten": unbeaten(versus["model"])}
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in dict(wheel=str, kind=str, first=int, last=int).items(): parser.add_argument(name, type=kind)
    parser.add_argument("--no-null", action="store_true")
    a = parser.parse_args()
    rest = resting_brain(a.wheel, parcels=near_points(42))
    n = len(rest.data)
    if a.kind.startswith("lm"):
        stories = natural_stories()
        config = ReadConfig(layers=(int(a.kind[2:]),), context=512)
        hidden = read(open_base("smollm2-135m-instruct"), stories.passages, config, show=False).hidden.values[0]
    for seed in range(a.first, a.last):
        brain = rest
        if a.kind.startswith("lm"):
            words, onsets, rows = story(stories, seed, n)
            rate = to_scans(np.ones((len(onsets), 1)), onsets, n, REST_TR, how="sum")
            brain = replace(rest, passages=[join_words("rest", words)], onsets=[onsets], nuisance={"word rate": rate})
            X = design(brain, hidden[rows].astype(np.float32))
        else: X = ar1_noise((n, 100), dict(white=0.0, slow=0.9)[a.kind], Seeds(seed).child("features").numpy())
        found = study(brain, X, seed, not a.no_null, brain is not rest)
        print(json.dumps(dict(kind=a.kind, seed=seed) | found), flush=True)


if __name__ == "__main__":
    main()
