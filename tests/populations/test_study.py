"""Advice before a merge, and the study of how likely merges help: against full matrices and counts by hand."""

import dataclasses

import numpy as np
import pytest
import torch

from evonb.core import InputError, Seeds, Stopped, StopRequest
from evonb.evolution.method import Outcome
from evonb.populations.advice import advise, expert_facts, sign_conflict, subspace_overlap
from evonb.populations.study import advice_agreement, draw_subsets, merge_odds, merge_study, odds_figure
from evonb.training.adapters import Adapter, random_adapter

pytestmark = pytest.mark.numerics
SHAPES = {"h.0": (9, 7), "h.1": (6, 8)}


def experts(n=4, **scales):
    made = {f"e{i}": random_adapter(SHAPES, 2, Seeds(i), "a-base") for i in range(n)}
    return {k: dataclasses.replace(a, scale=dict.fromkeys(SHAPES, scales.get(k, 1.0))) for k, a in made.items()}


def test_facts_equal_those_of_full_matrices():
    a, b = experts(2, e1=2.5).values()
    f = expert_facts(dict(a=a, b=b))
    x, y = (torch.cat([e.delta(m).double().flatten() for m in SHAPES]) for e in (a, b))
    assert f.n == 2 and np.allclose([f.norms["a"], f.norms["b"]], [x.norm(), y.norm()])
    assert np.isclose(f.norm_ratio, max(x.norm() / y.norm(), y.norm() / x.norm()))
    assert np.isclose(f.cosine, torch.cosine_similarity(x, y, 0))
    assert np.isclose(f.growth, (x + y).norm() / ((x.norm() + y.norm()) / 2))
    assert np.isclose(f.conflict, (x * y)[x * y < 0].abs().sum() / (x * y).abs().sum(), atol=1e-6)
    shares = []
    for m in SHAPES:
        for p, q in ((a.A[m].T, b.A[m].T), (a.B[m], b.B[m])):
            P, Q = (torch.linalg.svd(t.double(), full_matrices=False)[0] for t in (p, q))
            shares.append(float(torch.linalg.svdvals(P.T @ Q).square().mean()))  # squared cosines of principal angles
    assert np.isclose(f.overlap, np.mean(shares), atol=1e-5) and np.isclose(subspace_overlap(a, b), f.overlap)
    few = sign_conflict(a, b, n_rows=5)
    assert 0 < few < 1 and few != sign_conflict(a, b)


def test_what_gets_no_advice():
    with pytest.raises(InputError, match="1 experts"):
        advise(experts(1))
    silent = experts(2, e1=0.0)
    with pytest.raises(InputError, match="e1 changes nothing"):
        advise(silent)
    apart = dict(a=random_adapter({"h.0": (9, 7)}, 2, Seeds(0)), b=random_adapter({"h.1": (6, 8)}, 2, Seeds(1)))
    assert advise(apart).merge == "task_arithmetic" and np.isnan(advise(apart).facts.conflict)
    bad = experts(2)
    bad["e0"].A["h.0"][0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        advise(bad)


def score(adapters):
    "How near the sum of all is; one merge in a while fails."
    truth = sum(e.delta("h.0") for e in experts().values())
    out = [-float((truth - (a.delta("h.0") if a.modules else 0)).norm()) for a in adapters]
    return [Outcome(v, reason="") if v > -0.16 else Outcome(np.nan, reason="too far") for v in out]


def test_odds_are_counts_and_draws_do_not_depend_on_how_many_there_are():
    merges, size = ("linear", "task_arithmetic", "ties", "karcher", "dare_ties"), (2, 3)
    truth = sum(e.delta("h.0") for e in experts().values())
    far = lambda a: float((truth - (a.delta("h.0") if a.modules else 0)).norm())
    free = lambda adapters: [Outcome(-far(a)) for a in adapters]
    study = merge_study(experts(), free, merges, 8, size, Seeds(1), show=False)
    assert study.member.sum("expert").values.tolist() == [2, 3] * 4
    fewer = merge_study(experts(), free, merges, 3, size, Seeds(1), show=False)
    assert fewer.score.equals(study.score[:3])
    odds = merge_odds(study).set_index("merge")
    for m in merges:
        wins = study.score.sel(merge=m).values > study.best.values
        assert odds.beats_best[m] == wins.mean() and odds.beats_best_low[m] <= wins.mean() <= odds.beats_best_high[m]
    for i in range(8):
        own = [n for n, inside in zip(study.expert.values, study.member[i].values) if inside]
        assert study.best[i] == max(float(study.alone.sel(expert=n)) for n in own)
        assert str(study.advice[i].values) == advise({n: experts()[n] for n in own}).merge
    figure = odds_figure(study)
    assert len(figure.data) == 2 and figure.layout.modebar.remove == ("sendChartToCloud",)
    told = advice_agreement(study)
    best = study.score.max("merge")
    others = [study.score.drop_sel(draw=i).idxmax("merge").values.tolist() for i in range(8)]
    usual = [max(merges, key=o.count) for o in others]
    right = [float(study.score[i].sel(merge=m)) == float(best[i]) for i, m in enumerate(usual)]
    assert told["most_frequent"]["right"] == np.mean(right)
    assert told["advice"]["lost"] >= 0 and told["n_draws"] == 8


def test_failures_never_win_and_bad_input_is_named():
    study = merge_study(experts(), score, ("linear", "task_arithmetic", "ties", "karcher"), 6, (2,), show=False)
    odds = merge_odds(study)
    assert np.isnan(study.score.values).any() and (odds.beats_base <= 1).all()
    lost = study.score.isnull().all("draw")
    assert all(odds.set_index("merge").beats_best[str(m)] == 0 for m in study["merge"].values[lost.values])
    for sizes in ((1,), (9,), ()):
        with pytest.raises(InputError, match="subsets have from 2 to 4"):
            draw_subsets(4, 3, sizes, Seeds(0))
    with pytest.raises(InputError, match="merge is 'average'"):
        merge_study(experts(), score, ("average",), show=False)
    with pytest.raises(InputError, match="n_draws is 0"):
        merge_study(experts(), score, n_draws=0, show=False)
    with pytest.raises(InputError, match="Study it, too"):
        advice_agreement(study.assign(advice=("draw", ["sce"] * 6)))
    stop = StopRequest()
    stop.set("the test")
    with pytest.raises(Stopped, match="the test after 0 draws"):
        merge_study(experts(), score, ("linear",), 3, show=False, stop=stop)
    assert Adapter({}, {}, {}, {}).modules == []
