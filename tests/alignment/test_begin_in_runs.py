"""Alignments tell what stood before their texts, and leave out words whose surprisal isn't theirs."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evonb.alignment.features import ReadConfig, count_notes, read
from evonb.alignment.localiser import localize, toy_langloc
from evonb.alignment.reading import BehaviorConfig, ReadingTimes
from evonb.alignment.run import AlignConfig, align_run, as_before
from evonb.alignment.sources.toy_readers import toy_reading
from evonb.cli import main
from evonb.core import InputError, RunExistsError, Seeds, to_dict
from evonb.populations.experts import ExpertConfig
from evonb.report import write_report
from evonb.store import as_begun, changed_settings, open_run, read_dataset, read_json, write_json
from evonb.training.base import open_base, save_base

QUICK = BehaviorConfig(2, "plain", n_bootstrap=20, n_splits=4)


@pytest.fixture(scope="module")
def reading():
    "Two stories of simulated reading times."
    data, _ = toy_reading(Seeds(0))
    n = sum(data.sizes[:2])
    return ReadingTimes("two stories", data.passages[:2], data.time[:n])


def saved(folder, texts, over_words=False, adds=True):
    "A tiny base whose tokenizer puts <s> before a text, or merges over spaces."
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not over_words)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    if adds:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>",
                                                               special_tokens=[("<s>", 0), ("</s>", 1)])
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=400, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        num_key_value_heads=1, max_position_embeddings=512, initializer_range=.4, bos_token_id=0, eos_token_id=1))
    save_base(model, PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>"), folder)
    return str(folder)


@pytest.fixture(scope="module")
def bases(reading, tmp_path_factory):
    folder, texts = tmp_path_factory.mktemp("bases"), [p.text for p in reading.passages]
    return dict(adds=saved(folder/"adds", texts), merges=saved(folder/"merges", texts, True, False))


def aligned(path, source, data, **changes):
    config = AlignConfig(source, "two stories", untrained=1, n_bootstrap=20, behavior=QUICK)
    return align_run(path, replace(config, **changes), show=False, device="cpu", data=data, cache=path.parent/"cache")


@pytest.mark.parametrize("begin, told, first", [
    ("auto", "<s> stands before every text (auto)", 0),
    ("</s>", "</s> stands before every text (</s>)", 0),
    ("none", "nothing stands before a text, a first token isn't scored (none)", 2)])
def test_every_result_of_an_alignment_tells_the_rule(begin, told, first, bases, reading, tmp_path):
    run = aligned(tmp_path/"run", bases["adds"], reading, begin=begin)
    ds, summary = read_dataset(run.file("reading.zarr.zip")), read_json(run.file("summary.json"))
    scored = ~ds.arm.isin(["unigram", "bigram", "5-gram", "static-embeddings"])  # counts know no begin
    assert set(ds.begin.values[scored].tolist()) == {told} and told in summary["facts"]
    assert set(ds.first_tokens_not_scored.values[scored].tolist()) == {first}
    assert set(pd.read_csv(run.file("scores.csv")).begin.dropna()) == {told}
    assert any("nothing stands before 2 texts" in n for n in summary["notes"]) == bool(first)
    assert told.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#x27;") in write_report(run.path).read_text()
    base = open_base(bases["adds"], "cpu")
    bits = read(base, reading.passages, ReadConfig(layers="none", begin=begin)).surprisal.values
    assert np.allclose(ds.surprisal.values[0], bits, equal_nan=True, atol=1e-5)


def test_words_that_share_a_token_are_in_no_fit_and_everyone_is_told(bases, reading, tmp_path):
    base = open_base(bases["merges"], "cpu")
    found = read(base, reading.passages, ReadConfig(layers="none"))
    shared, lost = found.shared.values, np.isnan(found.surprisal.values)
    assert 20 < lost.sum() < shared.sum() < len(shared) / 2 and not (lost & ~shared).any()
    run = aligned(tmp_path/"run", bases["merges"], reading)
    ds, notes = read_dataset(run.file("reading.zarr.zip")), read_json(run.file("summary.json"))["notes"]
    assert not ds.used.values[shared].any() and not ds.fitted.values[shared].any()
    assert ds.used.values[~shared].all()
    assert ds.words_sharing_tokens.values[0] == shared.sum() and ds.words_without_token.values[0] == lost.sum()
    assert ds.spanning_tokens.values[0] == found.spanning_tokens > 0
    told = [n for n in notes if f"{shared.sum():,} words share a token" in n]
    assert told and f"{lost.sum():,} words have no token of their own" in " ".join(notes)
    assert told[0] in json.loads(ds.notes) and told[0].split(",")[0] in write_report(run.path).read_text()


def test_a_run_of_before_goes_on_by_the_rule_it_had(bases, reading, tmp_path):
    run = aligned(tmp_path/"run", bases["adds"], reading, begin=None)
    about = read_json(run.file("run.json"))
    del about["config"]["begin"]  # as runs of before are
    write_json(run.file("run.json"), about)
    run.file("summary.json").unlink()
    again = aligned(tmp_path/"run", bases["adds"], reading)
    told = "<s> stands before texts without context, nothing before a context (alone)"
    assert told in read_json(again.file("summary.json"))["facts"] and "begin" not in open_run(run.path).config
    run.file("summary.json").unlink()
    with pytest.raises(RunExistsError, match="begin: None there, 'none' asked"):
        aligned(tmp_path/"run", bases["adds"], reading, begin="none")


def test_only_what_is_missing_in_a_run_of_before_becomes_none(tmp_path):
    config = AlignConfig("a", "b")
    assert as_begun(tmp_path, config, begin="auto") == config  # no run there
    write_json(tmp_path/"run.json", dict(config=dict(source="a", inner=dict(x=1))))
    assert as_begun(tmp_path, config, begin="auto").begin is None
    assert as_begun(tmp_path, replace(config, begin="model"), begin="auto").begin == "model"  # asked for: compared
    assert as_begun(tmp_path, ExpertConfig(), "inner", begin="auto").begin is None
    write_json(tmp_path/"run.json", dict(config=dict(begin="none")))
    assert as_begun(tmp_path, config, begin="auto").begin == "auto"


def test_a_rule_that_is_none_is_refused_before_anything_is_read(bases, reading, tmp_path):
    with pytest.raises(InputError, match="begin is '<bos>', which is [0-9]+ tokens of this tokenizer"):
        aligned(tmp_path/"run", bases["adds"], reading, begin="<bos>")


def test_the_command_line_takes_the_rule(bases, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["align", bases["adds"], "--data", "toy-reading", "--untrained", "0", "--out", "run",
                 "--begin", "model", "--set", "behavior.n_bootstrap=20", "--set", "n_bootstrap=20"]) == 0
    assert open_run("run").config["begin"] == "model"
    assert "<s> stands before every text (model)" in capsys.readouterr().out


def test_a_localiser_tells_it_too(bases):
    base, (sentences, nonwords) = open_base(bases["adds"], "cpu"), toy_langloc(12)
    found = localize(base, sentences, nonwords, top=2, alpha=None, begin="none")
    assert found.begin == "nothing stands before a text, a first token isn't scored (none)"
    usual = localize(base, sentences, nonwords, top=2, alpha=None)
    assert usual.begin.startswith("<s> stands before every text") and not np.allclose(usual.t, found.t)


def test_notes_tell_what_happened_and_nothing_else():
    assert count_notes(dict(unknown_tokens=0, words_without_token=-1)) == []
    assert count_notes(dict(unknown_tokens=1234)) == [
        "1,234 tokens are the tokenizer's unknown token: the model doesn't see what stands there"]


def test_runs_of_before_keep_their_regression(tmp_path):
    "What was begun without outcomes goes on with mean times and two words of spillover; what was asked for is kept."
    old = to_dict(AlignConfig("base", "toy-reading"))
    old["behavior"] = {k: v for k, v in old["behavior"].items() if k != "outcome"} | dict(spillover=2, model="plain")
    write_json(tmp_path / "run.json", dict(config=old))
    found = as_before(tmp_path, AlignConfig("base", "toy-reading")).behavior
    assert (found.spillover, found.model, found.outcome) == (2, "plain", None)
    asked = as_before(tmp_path, AlignConfig("base", "toy-reading", behavior=BehaviorConfig(3, "mixed"))).behavior
    assert (asked.spillover, asked.model) == (3, "mixed")
    assert not changed_settings(old, to_dict(as_before(tmp_path, AlignConfig("base", "toy-reading"))))
    assert as_before(tmp_path / "new", AlignConfig("base", "toy-reading")).behavior == BehaviorConfig()
