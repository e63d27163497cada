"""What an alignment says: which tests, which family, which words; and how often it is wrong when there is nothing."""

import numpy as np
import pytest
from scipy import stats

from evonb.alignment.verdicts import (
    alignment_statement,
    compared,
    comparison_lines,
    judge_arms,
    judge_rows,
    over_blocks,
    turned,
)
from evonb.core import Seeds


def gains(rng, n_models, n_items, mean=0.0, models=1.0, items=1.0, rest=1.0):
    return mean + models * rng.normal(size=(n_models, 1)) + items * rng.normal(size=(1, n_items)) + rest * rng.normal(
        size=(n_models, n_items))


def test_an_arm_is_tested_over_models_and_people_and_the_table_is_a_family():
    rng = Seeds(0).numpy()
    arms = {a: gains(rng, n, 12, m) for a, n, m in (("connectome", 4, 3), ("random", 3, 1), ("untrained", 3, 0))}
    found = judge_arms(arms)
    g = arms["connectome"]
    over = {t["over"]: t["p"] for t in found["connectome"]["gain"]["tests"]}
    assert over["seed"] == pytest.approx(stats.ttest_1samp(g.mean(1), 0).pvalue)
    assert over["person"] == pytest.approx(stats.ttest_1samp(g.mean(0), 0).pvalue)
    d = found["random"]["difference"]
    over = {t["over"]: t["p"] for t in d["tests"]}
    assert over["seed"] == pytest.approx(stats.ttest_ind(arms["random"].mean(1), g.mean(1), equal_var=False).pvalue)
    assert over["person"] == pytest.approx(stats.ttest_rel(arms["random"].mean(0), g.mean(0)).pvalue)
    told = [v[k] for v in found.values() for k in ("gain", "difference", "learned") if v[k]]
    assert {x["family"] for x in told} == {6}  # three gains; random and untrained against the reference, and each other
    p = sorted({x["p"] for x in told})
    assert min(x["p_adjusted"] for x in told) == pytest.approx(6 * p[0])
    assert found["connectome"]["learned"] == turned(found["untrained"]["difference"])
    assert found["connectome"]["difference"] is None and found["untrained"]["learned"] is None


def test_a_published_model_is_itself_and_untrained_ones_are_a_sample():
    rng = Seeds(1).numpy()
    base, untrained = gains(rng, 1, 10, 2), gains(rng, 3, 10, 0)
    found = judge_arms(dict(base=base, untrained=untrained), single=("base",))
    assert found["base"]["gain"]["p"] == pytest.approx(stats.ttest_1samp(base[0], 0).pvalue)
    d = untrained - base
    tests = {t["over"]: t["p"] for t in found["untrained"]["difference"]["tests"]}
    assert tests["seed"] == pytest.approx(stats.ttest_1samp(d.mean(1), 0).pvalue)
    assert found["base"]["learned"]["mean"] == pytest.approx(-d.mean())
    counts = judge_rows(dict(connectome=untrained, unigram=base), {}, "story")["connectome"]["unigram"]
    assert counts["p"] == pytest.approx(found["untrained"]["difference"]["p"])
    assert counts["mean"] == pytest.approx(d.mean())  # counts of a training text are no sample either
    of_newborns = judge_arms(dict(connectome=base, random=base + 1))  # one newborn is no arm
    assert of_newborns["random"]["difference"]["p"] is None and of_newborns["random"]["gain"]["p"] is not None
    assert "whether controls differ can't be told from one seed" in alignment_statement("x", of_newborns)


def test_counts_of_a_text_are_rows_and_make_no_comparison_of_the_table_harder():
    rng = Seeds(5).numpy()
    arms = dict(connectome=gains(rng, 3, 12, 1), untrained=gains(rng, 3, 12))
    counts = dict(unigram=gains(rng, 1, 12), bigram=gains(rng, 1, 12))
    alone, beside = judge_arms(arms), judge_arms(arms | counts)
    assert {a: beside[a] for a in arms} == alone and beside["unigram"]["difference"] is None
    assert [beside[a]["gain"]["family"] for a in ("connectome", "unigram")] == [3, 2]
    assert set(judge_rows(arms | counts, {})["connectome"]) == {"untrained", *counts}
    evolutions = judge_arms(arms, model="evolution")
    assert evolutions["untrained"]["gain"]["units"] == dict(seed=3, person=12)  # they come of no evolution


def test_what_all_people_share_is_tested_over_blocks_of_the_text_too():
    rng = Seeds(6).numpy()
    fold = 2 + rng.normal(size=(1, 12, 5)) + rng.normal(size=5)  # (n_models, n_people, n_blocks)
    arms, blocks = dict(base=fold.mean(2)), dict(base=fold.mean(1))
    found = judge_arms(arms, single=("base",), blocks=blocks)["base"]["gain"]
    p = {t["over"]: t["p"] for t in found["tests"]}
    assert p["person"] == pytest.approx(stats.ttest_1samp(fold.mean(2)[0], 0).pvalue)
    assert p["block"] == pytest.approx(stats.ttest_1samp(fold.mean(1)[0], 0).pvalue)
    assert found["p"] == max(p.values()) and "both" in p and found["units"] == dict(person=12, block=5)
    assert "(1 model, 12 people, 5 blocks)" in alignment_statement("x", dict(base=dict(gain=found, n_seeds=1,
                                                                                    difference=None)))  # fmt: skip
    one = judge_arms(dict(a=fold.mean(2)[:, :1]), blocks=dict(a=fold.mean(1)))["a"]["gain"]
    assert one["p"] is None and one["one"] == "person"  # blocks don't stand in for people
    row = judge_rows(arms, dict(position=fold.mean(2)[0] - 1), blocks=blocks | dict(position=fold.mean(1)[0] - 1))
    assert row["base"]["position"]["units"] == dict(person=12, block=5)


def test_people_who_agree_by_luck_of_one_text_are_no_verdict():
    rng, wrong = np.random.default_rng(13), np.zeros(2)
    for _ in range(400):
        fold = rng.normal(size=(1, 12, 5)) + rng.normal(size=5)
        told = compared(fold.mean(2), np.zeros((1, 12)), ("seed", "person"), (True, True))
        wrong += told["p"] < 0.05, over_blocks(told, fold.mean((0, 1)))["p"] < 0.05
    assert wrong[0] / 400 > 0.3 and wrong[1] / 400 <= 0.05


def test_readers_and_stories_are_tested_at_once():
    "Readers and stories that each differ: over one of both alone, too much is found."
    rng, wrong, names = np.random.default_rng(14), np.zeros(3), ("story", "person")
    for _ in range(400):
        cells = rng.normal(size=(12, 1)) + rng.normal(size=(1, 8)) + rng.normal(size=(12, 8))  # reader by story
        gain, blocks = dict(base=cells.mean(0)[None]), dict(base=cells.mean(1)[None])
        both = judge_arms(gain, "story", ("base",), blocks=blocks, block="person")["base"]["gain"]
        assert both["units"] == dict(story=8, person=12) and {t["over"] for t in both["tests"]} == {*names, "both"}
        alone = (judge_arms(g, u, ("base",))["base"]["gain"]["p"] for g, u in zip((gain, blocks), names))
        wrong += [p < 0.05 for p in (*alone, both["p"])]
    assert wrong[0] / 400 > 0.1 and wrong[1] / 400 > 0.1 and wrong[2] / 400 <= 0.05


@pytest.mark.parametrize(
    ("mean", "says"),
    [(5, "connectome explains more than the baseline"), (-5, "connectome explains less than the baseline"),
     (0, "connectome isn't clearly different from the baseline")],
)  # fmt: skip
def test_the_sentence_says_one_thing(mean, says):
    rng = Seeds(2).numpy()
    arms = dict(connectome=gains(rng, 3, 27, mean, 0.1), random=gains(rng, 3, 27, mean, 0.1))
    assert alignment_statement("toy", judge_arms(arms)) == (
        f"On toy, {says}; no control differs clearly (3 seeds, 27 people).")
    arms["dense"] = gains(rng, 3, 27, mean + 9, 0.1)
    arms["untrained"] = gains(rng, 3, 27, mean - 9, 0.1)
    more = alignment_statement("toy", judge_arms(arms))
    assert "; dense explains more than connectome, untrained explains less than connectome (" in more
    assert "adds" not in more and "random" not in more
    lines = comparison_lines(judge_arms(arms), "ΔR²")
    assert lines[0].startswith("connectome beyond the baseline: ")
    assert "(Holm, 9 comparisons), 3 seeds, 27 people" in lines[0]
    assert sum(" minus connectome: " in x for x in lines) == 3 and sum(" minus untrained: " in x for x in lines) == 2


def test_one_story_and_one_person_and_one_model():
    rng = Seeds(3).numpy()
    story = judge_arms(dict(connectome=gains(rng, 3, 1, 9), random=gains(rng, 3, 1)), "story")
    said = alignment_statement("one", story)
    assert said == ("On one, whether connectome explains more than the baseline can't be told from one story; "
                    "whether controls differ can't be told from one story (3 seeds, 1 story).")
    assert all(story[a]["gain"][k] is None for a in story for k in ("low", "high", "p"))
    assert "[" not in comparison_lines(story, "nats/word")[0]
    person = alignment_statement("scans", judge_arms(dict(base=gains(rng, 1, 5, 9, 0, 0.1, 0.1)), "fold", ("base",)))
    assert person == ("On scans, base explains more than the baseline (1 model, 5 folds of one person). It is told of "
                      "this one model and this one person: of others it can't be told from one model and one person.")
    several = alignment_statement("scans", judge_arms(dict(connectome=gains(rng, 3, 5, 9, 0.1, 0.1, 0.1)), "fold"))
    assert "(3 seeds, 5 folds of one person). It is told of this one person:" in several


def test_people_that_lack_everything_are_left_out_and_counted():
    g = gains(Seeds(4).numpy(), 3, 8, 5, 0.1)
    g[:, 2] = np.nan  # all of a person's targets were constant
    found = judge_arms(dict(connectome=g, random=g - 1))
    assert found["connectome"]["gain"]["units"] == dict(seed=3, person=7)
    assert "(3 seeds, 7 people)" in alignment_statement("x", found)


NULLS = [("1 model x 5 folds", 1, 5, (0, 0, 1), "fold"), ("3 x 5 folds", 3, 5, (0.3, 1, 1), "fold"),
         ("3 x 10 stories", 3, 10, (0.3, 1, 1), "story"), ("3 x 27 people", 3, 27, (0.3, 1, 1), "person"),
         ("3 x 10, models differ more", 3, 10, (1, 0.3, 1), "story"),
         ("2 x 27, models differ more", 2, 27, (1, 0.3, 1), "person")]  # fmt: skip


@pytest.mark.parametrize("name, n_models, n_items, sd, item", NULLS, ids=[n[0] for n in NULLS])
def test_the_sentence_is_wrong_no_more_often_than_it_may(name, n_models, n_items, sd, item):
    rng, wrong = np.random.default_rng(11), 0
    for _ in range(600):
        arms = judge_arms(dict(connectome=gains(rng, n_models, n_items, 0, *sd)), item)
        wrong += "isn't clearly different" not in alignment_statement("nothing", arms)
    assert wrong / 600 <= 0.07  # nominal 0.05, whose standard error here is 0.009


def test_a_whole_table_is_wrong_no_more_often_than_it_may():
    rng, wrong = np.random.default_rng(12), 0
    for _ in range(400):
        people = rng.normal(size=(1, 12))
        arms = {a: gains(rng, 3, 12, 0, 0.7, 0.3) + people for a in ("connectome", "random", "dense", "untrained")}
        said = alignment_statement("nothing", judge_arms(arms))
        wrong += "isn't clearly different from the baseline; no control differs clearly" not in said
    assert wrong / 400 <= 0.07
