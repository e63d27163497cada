"""Suites: published formats, what guessing earns, and the rule of lm-evaluation-harness item by item."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from evonb.core import InputError, Seeds
from evonb.datasets import MissingCorpusError
from evonb.development.scoring import ModelScorer, NGramScorer, answers_of
from evonb.development.suites import SUITES, RatedSuite, Suite, open_suite
from evonb.tasks.grading import Item
from evonb.text.ngrams import NGrams
from evonb.text.passages import join_words
from evonb.text.tokens import train_tokenizer
from evonb.text.toy_english import minimal_pairs, toy_documents
from evonb.training.adapters import Adapter
from evonb.training.base import new_base
from evonb.training.gpt import GPTConfig, new_gpt

pytestmark = pytest.mark.numerics
TEXT = toy_documents(40_000)
TOKENIZER = train_tokenizer(TEXT, 350)


@pytest.fixture(scope="module")
def base():
    config = GPTConfig(vocab_size=len(TOKENIZER), n_embd=32, n_head=2, n_layer=2)
    model = new_gpt(config, Seeds(3), "cpu")
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # so that it has preferences
    return new_base(model, TOKENIZER, "small")


@pytest.fixture(scope="module")
def blimp(tmp_path_factory):
    "Pairs of toy English in BLiMP's files, one of them twice the same sentence, as in passive_1."
    folder = tmp_path_factory.mktemp("blimp")
    for name in ("agreement_simple", "determiner_noun"):
        rows = minimal_pairs(12, phenomena=[name])
        rows[3] |= dict(sentence_bad=rows[3]["sentence_good"])
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return open_suite(f"blimp:{folder}")


def plain_sums(base, texts, mark):
    "Sums of log-probabilities, one text and one token after another."
    out = []
    for text in texts:
        ids = torch.tensor([[*mark, *TOKENIZER(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            logits = base.model(input_ids=ids).logits[0].double().log_softmax(-1)
        out.append(sum(float(logits[i, t]) for i, t in enumerate(ids[0, 1:])))
    return out


def test_each_pair_as_the_harness_scores_it(base, blimp):
    scorer = ModelScorer(base)
    found = blimp.ask(scorer)
    plain = np.array([plain_sums(base, i.options, scorer.begin.alone) for i in blimp.items])
    assert np.allclose(found["sums"], plain, atol=2e-4)
    credit = blimp.grade(found)["credit"]
    tied = np.array([i.options[0] == i.options[1] for i in blimp.items])
    assert tied.sum() == 2 and (credit[tied] == .5).all()
    assert credit[~tied].tolist() == (plain[~tied, 0] > plain[~tied, 1]).tolist()
    assert np.allclose(blimp.grade(found)["log_odds"], plain[:, 0] - plain[:, 1], atol=4e-4)


@pytest.mark.parametrize("options", [dict(packing="padded"), dict(row_tokens=200), dict(max_tokens=64, row_tokens=32),
                                     dict(linear="torch")], ids=str)
def test_padding_and_batches_change_nothing(base, blimp, options):
    usual, other = (blimp.ask(ModelScorer(base, **o)) for o in ({}, options))
    assert np.allclose(usual["sums"], other["sums"], atol=2e-4) and np.array_equal(usual["counts"], other["counts"])
    assert np.array_equal(blimp.grade(usual)["credit"], blimp.grade(other)["credit"])


class Constant:
    "Finds every token equally likely."
    name, digest = "constant", "0"

    def options(self, choices):
        n = [np.array([len(TOKENIZER(o)["input_ids"]) for o in c.options]) for c in choices]
        return [(-2. * np.ones(len(k)), k) for k in n]


def test_a_constant_model_gets_what_guessing_does(blimp, files):
    for suite in (blimp, *(open_suite(f"{name}:{p}") for name, p in files.items() if not name.startswith("wug"))):
        graded = suite.grade(suite.ask(Constant()))
        assert np.allclose(suite.scores(graded)["score"], suite.chance()) and np.allclose(
            graded["log_odds"], [-np.log(len(i.options) - 1) for i in suite.items])
    wug = open_suite(f"wug-past:{files['wug-past']}")
    assert wug.scores(wug.grade(wug.ask(Constant())))["score"].tolist() == [0]


ROWS = dict(
    supplement=[dict(sentence_good="Is it red?", sentence_bad="It is red?")] * 3,
    ewok=[dict(Context1="The box is heavy.", Context2="The box is light.", Target1="He can't lift it.",
               Target2="He can lift it.", Domain="physical-relations", ContextType="direct", ContextDiff="antonym",
               TargetDiff="negation")] * 2,
    comps=[dict(prefix_acceptable="A robin", prefix_unacceptable="A shark", property_phrase="can fly.")],
    **{"entity-tracking": [dict(input_prefix="Box 0 contains", options=[" a key", " a hat", " nothing"], numops=n)
                           for n in (0, 0, 2)],
       "wug-past": [dict(sentences=f"They {w}ed.\tThey {w}t.", ratio=r)
                    for w, r in (("splin", "0.9"), ("gretch", .2), ("fli", .5))]})  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("babylm")
    stems = dict(supplement="hypernym", comps="comps_wugs_dist-before", **{"entity-tracking": "regular"})
    out = {}
    for name, rows in ROWS.items():
        out[name] = folder / f"{stems.get(name, name)}.jsonl"
        out[name].write_text("\n".join(map(json.dumps, rows)))
    return out


def test_published_formats_as_babylm_reads_them(files, base):
    made = {name: open_suite(f"{name}:{p}") for name, p in files.items()}
    assert {n: s.names for n, s in made.items()} == dict(
        supplement=["hypernym"], ewok=["physical-relations"], comps=["wugs_dist_before"],
        **{"entity-tracking": ["regular_0_ops", "regular_2_ops"], "wug-past": ["wug_past"]})
    asked = made["ewok"].items[0]
    assert asked.prompt == "The box is heavy." and asked.options[1] == " He can lift it."
    assert isinstance(made["wug-past"], RatedSuite) and made["wug-past"].ratings == (.9, .2, .5)
    found = made["comps"].ask(ModelScorer(base))["sums"][0]  # of one property behind two concepts, begun by nothing
    for got, prefix in zip(found, ("A robin", "A shark")):
        whole, before = plain_sums(base, [f"{prefix} can fly.", prefix], ())
        assert abs(got - (whole - before)) < 2e-4
    both = open_suite(f"ewok-contexts:{files['ewok']}")
    assert len(both) == 4 and both.items[1].contexts == ("The box is light.", "The box is heavy.")


def test_ratings_are_correlated_by_rank():
    items = tuple(Item("", (f"{w}ness", f"{w}ity"), 0, "wug") for w in "abcde")
    suite = RatedSuite("wug", items, ratings=(.1, .9, .5, .2, .7))
    sums = np.log(np.array([[.3, .7], [.8, .2], [.6, .4], [.2, .8], [.7, .3]]))
    from scipy.stats import spearmanr
    assert np.isclose(suite.scores(suite.grade(dict(sums=sums)))["score"][0],
                      spearmanr([.3, .8, .6, .2, .7], suite.ratings)[0])


def test_what_isnt_there_or_isnt_right_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("EVONB_DATA", raising=False)
    for name in ("ewok", "comps", "entity-tracking", "wug-adj", "supplement"):
        with pytest.raises(MissingCorpusError, match="EVONB_DATA isn't set.*osf.io/ryjfm.*FOLDER"):
            open_suite(name)
    with pytest.raises(MissingCorpusError, match="looked for .*nowhere"):
        open_suite("comps:nowhere")
    with pytest.raises(InputError, match="suite is 'blymp'.*Did you mean blimp"):
        open_suite("blymp")
    bad = tmp_path / "bad.jsonl"
    for name, row, said in (("blimp", dict(sentence_good="a"), "no key 'sentence_bad'"),
                            ("ewok", ROWS["ewok"][0] | dict(Target1=3), "Target1 is 3"),
                            ("entity-tracking", ROWS["entity-tracking"][0] | dict(options=["a"]), "two or more"),
                            ("wug-past", dict(sentences="one", ratio=1), "holds 1 texts"),
                            ("wug-past", dict(sentences="a\tb", ratio="x"), "ratio is 'x'")):
        bad.write_text(json.dumps(row))
        with pytest.raises(InputError, match=f"bad.jsonl, line 1.*{said}"):
            open_suite(f"{name}:{bad}")
    with pytest.raises(InputError, match="has no items"):
        Suite("empty", ())


def test_counts_answer_as_a_model_does(base, blimp):
    ids = np.array(TOKENIZER("".join(TEXT), verbose=False)["input_ids"])
    scorer = NGramScorer(NGrams(ids, len(TOKENIZER), 2), TOKENIZER, "bigram")
    good = blimp.items[0].options[0]
    tokens = (*scorer.begin.alone, *TOKENIZER(good, add_special_tokens=False)["input_ids"])
    expected = scorer.ngrams.log_probs(tokens, len(scorer.begin.alone)).sum()
    assert np.isclose(blimp.ask(scorer)["sums"][0, 0], expected)
    words = scorer.words([join_words("it", good.split())])[0]
    assert len(words) == len(good.split()) and np.isclose(words.sum(), -expected / np.log(2))


def test_answers_are_kept_by_content_and_taken_up(base, blimp, tmp_path, monkeypatch):
    from evonb.core import Stopped, StopRequest
    from evonb.development import scoring
    monkeypatch.setattr(scoring, "PART", 5)
    scorer, asked, stop = ModelScorer(base), [], StopRequest()
    options = scorer.options

    def counting(choices, then=None):
        asked.append(len(choices))
        if then and len(asked) == then:
            stop.set("here")
        return options(choices)
    scorer.options = partial(counting, then=2)
    with pytest.raises(Stopped, match="after 10 of 24 items; they are kept"):
        answers_of(scorer, blimp, tmp_path, False, stop)
    scorer.options = counting
    found = answers_of(scorer, blimp, tmp_path, False)
    assert asked == [5, 5, 5, 5, 4] and np.allclose(found["sums"], blimp.ask(ModelScorer(base))["sums"], atol=2e-4)
    again = answers_of(scorer, blimp, tmp_path, False)
    assert asked == [5, 5, 5, 5, 4] and all(np.array_equal(found[k], again[k]) for k in found)
    file = next(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:200])  # damaged: asked again
    assert np.allclose(answers_of(scorer, blimp, tmp_path, False)["sums"], found["sums"]) and len(asked) == 10


def test_every_suite_says_what_it_is():
    for name in SUITES:
        assert SUITES.entry(name).line and SUITES.entry(name).spelled.startswith(name)


def hellaswag_line(i):
    endings = ["stops.", "goes on and on with it.", "sleeps", "the dogs run to the house"]
    return dict(ind=i, activity_label="Sewing", ctx_a=f"She sews {i} seams.", ctx_b="then she", ctx=f"She sews {i}",
                endings=endings, label=i % 4)  # fmt: skip


@pytest.mark.parametrize("unit", ["none", "bytes", "tokens"])
def test_a_task_is_a_suite_with_the_credit_that_the_task_gives(base, tmp_path, unit, monkeypatch):
    from evonb.tasks.engine import Engine
    from evonb.tasks.tasks import Task

    path = tmp_path / "hellaswag_val.jsonl"
    path.write_text("\n".join(json.dumps(hellaswag_line(i)) for i in range(12)))
    monkeypatch.setattr("evonb.tasks.tasks.STYLES", {"lm-eval": unit})
    suite = open_suite(f"task:hellaswag:{path}")
    task = Task.from_hellaswag(path, n_validation="all", name=f"hellaswag:{path}",
                               seeds=Seeds(0).child("suite", "task"))  # fmt: skip
    assert len(suite) == task.n() == 12 and ("divided by" in suite.rule) == (unit != "none")
    graded = suite.grade(suite.ask(ModelScorer(base)))
    engine = Engine(base.model, base.tokenizer)
    (outputs,) = engine.loglikelihoods([Adapter({}, {}, {}, {})], task.requests())
    assert sorted(graded["credit"]) == sorted(task.grade("validation", outputs).credit)
    assert suite.digest() != open_suite(f"task:choice:{choices(tmp_path)}").digest()


def choices(folder):
    path = folder / "mine.jsonl"
    path.write_text("\n".join(json.dumps(dict(prompt=f"{i}", options=["a", "b"], answer=0)) for i in range(4)))
    return path


def test_tasks_that_are_answered_freely_are_refused(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(json.dumps(dict(prompt=f"{i}+1=", answer=str(i + 1))) for i in range(4)))
    with pytest.raises(InputError, match="of the kind numeric, whose answers aren't options"):
        open_suite(f"task:numeric:{path}")
    with pytest.raises(InputError, match="names no task"):
        open_suite("task:helaswag")
