"""Surprisal and hidden states of words and passages for any tokenizer, model and length; the localiser."""

import csv
import dataclasses
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, ttest_ind
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from evonb.alignment import features
from evonb.alignment.features import (
    ReadConfig,
    open_reading,
    read,
    read_key,
    token_surprisal,
    token_words,
    tokenize,
    windows,
    word_enders,
)
from evonb.alignment.localiser import localize, nonword, read_langloc, select_units, toy_langloc, welch
from evonb.core import DamagedFileError, InputError, Seeds, Stopped, StopRequest
from evonb.text.passages import Passage, character_words, join_words, locate_words, split_words
from evonb.text.toy_english import toy_documents
from evonb.training.base import begin_token, find_smollm2, new_base, open_base
from evonb.training.gpt import GPTConfig, new_gpt

pytestmark = pytest.mark.numerics

END = "<|endoftext|>"
RARE = "“Quotes,” — it's 'odd'… naïve café über 你好 世界 🦉 don't cannot (and) so-called.\n\nNew.\t"
CORPUS = toy_documents(30_000) + [RARE] * 3


# Tokenizers of every kind ------------------------------------------------------------------------------------------

def wrapped(backend):
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END, unk_token=END,
                                   clean_up_tokenization_spaces=False)


def byte_level(use_regex=True, trim=False, prefix=False):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    if trim:
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=600, special_tokens=[END], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return wrapped(backend)


def word_piece():
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=[END, "[UNK]"], show_progress=False))
    return wrapped(backend)


def unigram():
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=400, special_tokens=[END, "<unk>"], unk_token="<unk>", show_progress=False))
    return wrapped(backend)


KINDS = dict(byte_level=byte_level, trimmed=lambda: byte_level(trim=True), prefixed=lambda: byte_level(prefix=True),
             over_words=lambda: byte_level(use_regex=False), word_piece=word_piece, unigram=unigram)


@pytest.fixture(scope="module")
def tokenizers():
    return {name: make() for name, make in KINDS.items()}


ODD = st.text(st.one_of(st.sampled_from("abcd  \n\t.,'\"“”’—-()é你🦉\u00a0\u200b"),
                        st.characters(blacklist_categories=("Cs",))), min_size=1, max_size=40)


@st.composite
def passages(draw):
    "A text with words at random places."
    text = draw(ODD.filter(str.strip))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=10)))
    spans = [(a, b) for a, b in itertools.pairwise(cuts) if text[a:b].strip()]
    spans = [s for s in spans if draw(st.booleans())] or spans
    return Passage("odd", text, spans or [m.span() for m in re.finditer(r"\S+", text)])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(passages())
def test_each_character_belongs_to_one_word_or_none_by_the_documented_rule(p):
    owner = character_words(p)
    for i, (a, b) in enumerate(p.spans):
        assert (owner[a:b] == i).all()
    for k, c in enumerate(p.text):
        inside = [i for i, (a, b) in enumerate(p.spans) if a <= k < b]
        before = [i for i, (a, b) in enumerate(p.spans) if b <= k]
        after = [i for i, (a, b) in enumerate(p.spans) if a > k]
        glued_behind = before and not re.search(r"\s", p.text[p.spans[before[-1]][1]:k + 1])
        ahead = p.text[k:p.spans[after[0]][0]] if after else None
        glued_ahead = after and re.fullmatch(r"\s*\S*" if c.isspace() else r"\S*", ahead)
        expected = (inside or (before[-1:] if glued_behind else after[:1] if glued_ahead else [-1]))[0]
        assert owner[k] == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ODD.filter(str.strip))
def test_byte_level_tokens_of_a_word_are_its_bytes_exactly(text):
    tokenizer = _cached("byte_level")
    p = split_words("odd", text)
    (t,) = tokenize(tokenizer, [p])
    end = 0
    for i, (_, b) in enumerate(p.spans):
        assert tokenizer.decode(t.ids[t.word == i]) == text[end:b]  # with the white space before it
        end = b
    assert tokenizer.decode(t.ids[t.word == -1]) == text[end:] and t.spanning == 0


_TOKENIZERS = {}


def _cached(kind):
    if kind not in _TOKENIZERS:
        _TOKENIZERS[kind] = KINDS[kind]()
    return _TOKENIZERS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_is_accounted_for(kind):
    tokenizer = _cached(kind)

    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(passages())
    def check(p):
        found = tokenizer(p.text, add_special_tokens=False, return_offsets_mapping=True)
        offsets, owner = found["offset_mapping"], character_words(p)
        try:
            (t,) = tokenize(tokenizer, [p])
        except InputError as e:  # a word that the tokenizer drops whole
            i = int(re.search(r"Word (\d+)", str(e))[1])
            touched = {k for a, b in offsets for k in range(a, b) if not p.text[k].isspace()}
            assert not touched & set(range(*p.spans[i])) and "no token" in str(e)
            return
        assert len(t.word) == len(found["input_ids"])
        for (a, b), w in zip(offsets, t.word, strict=True):
            words = [owner[k] for k in range(a, b) if owner[k] >= 0 and not p.text[k].isspace()]
            if words:
                assert w == min(words)
            elif p.text[a:b].strip():
                assert w == -1
        seen = [{owner[k] for k in range(a, b) if owner[k] >= 0 and not p.text[k].isspace()} for a, b in offsets]
        assert t.spanning == sum(len(words) > 1 for words in seen)
        assert (t.holder >= 0).all() and (np.diff(t.word[t.word >= 0]) >= 0).all()

    check()


def test_a_token_over_two_words_counts_for_the_first_and_is_reported(tiny):
    p = Passage("cannot", "the doctors sleep", [(0, 3), (4, 10), (10, 11), (12, 17)])
    (t,) = tokenize(tiny.tokenizer, [p])
    if t.spanning:
        found = read(tiny, [p])
        assert found.attrs["spanning_tokens"] == t.spanning == 1
        assert found.n_tokens[2] == 0 and np.isnan(found.surprisal[2])  # not 0: nothing is known of it alone
        assert found.shared.values.tolist() == [False, True, True, False]
        assert found.attrs["words_without_token"] == 1 and found.attrs["words_sharing_tokens"] == 2
        assert np.array_equal(found.hidden[:, 2], found.hidden[:, 1])
        assert np.isclose(found.surprisal.sum(), plain(tiny, p.text)[0].sum(), atol=1e-4)
    word, holder, spanning = token_words(p, [(0, 3), (3, 11), (11, 17)])
    assert word.tolist() == [0, 1, 3] and holder.tolist() == [0, 1, 1, 2] and spanning == 1


def test_text_that_is_no_word_is_counted_not_hidden(tiny):
    p = locate_words("dash", "He left — then  ", ["He", "left", "then"])
    found = read(tiny, [p])
    (t,) = tokenize(tiny.tokenizer, [p])
    outside = t.word == -1
    assert found.attrs["tokens_outside_words"] == outside.sum() > 0
    total = plain(tiny, p.text)[0]
    assert np.isclose(found.surprisal.sum(), total[~outside].sum(), atol=1e-4)


# Passages ----------------------------------------------------------------------------------------------------------

def test_words_joined_are_found_again():
    words = ["“Why,”", "said", "she,", "isn't", "it?"]
    p = join_words("a", words)
    assert p.words == words and split_words("a", p.text).words == words
    assert locate_words("a", p.text, words).spans.tolist() == p.spans.tolist()
    assert join_words("b", words, sep="").words == words


@pytest.mark.parametrize("make, message", [
    (lambda: split_words("a", ""), "is empty"),
    (lambda: split_words("a", " \n"), "is empty"),
    (lambda: split_words("a", None), "not a string"),
    (lambda: split_words("a", "x \ud800"), "lone surrogate at character 2"),
    (lambda: join_words("a", []), "is empty"),
    (lambda: join_words("a", ["b", " "]), "Word 1 of 'a' is ' '"),
    (lambda: Passage("a", "some text", []), "has no words"),
    (lambda: Passage("a", "some text", [(5, 9), (0, 4)]), "Word 1 .* must be in order"),
    (lambda: Passage("a", "some text", [(0, 4), (3, 9)]), "Word 1 .* not overlap"),
    (lambda: Passage("a", "some text", [(0, 40)]), "Word 0 .* must lie in the text of 9"),
    (lambda: Passage("a", "some text", [(2, 2)]), "Word 0 .* not be empty"),
    (lambda: Passage("a", "some text", [(4, 5)]), "nothing but white space"),
    (lambda: Passage("a", "some text", [(0., 4.)]), "whole numbers"),
    (lambda: locate_words("a", "The cat sleeps.", ["The", "dog"]), "Word 1 of 'a' is 'dog', .* ' cat sleeps.'"),
    (lambda: locate_words("a", "The cat sleeps.", ["The", "sleeps"]), "Word 1 of 'a' is 'sleeps'"),
    (lambda: locate_words("a", "The cat.", ["The", "cat", "cat"]), "Word 2 of 'a'"),
])
def test_a_bad_passage_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# Models ------------------------------------------------------------------------------------------------------------

def make_model(kind, n_vocab):
    torch.manual_seed(0)
    sizes = dict(vocab_size=n_vocab, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
                 initializer_range=0.4)
    if kind == "gpt":
        config = GPTConfig(vocab_size=n_vocab, n_layer=2, n_head=2, n_embd=24, block_size=48, initializer_range=0.4)
        return new_gpt(config, Seeds(0))
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=n_vocab, n_layer=2, n_head=2, n_embd=24, n_positions=48,
                                          initializer_range=0.4))
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=1, max_position_embeddings=48))
    if kind == "bloom":
        return BloomForCausalLM(BloomConfig(vocab_size=n_vocab, n_layer=2, n_head=2, hidden_size=24,
                                            initializer_range=0.4))
    return Gemma2ForCausalLM(Gemma2Config(**sizes, num_key_value_heads=1, head_dim=12, max_position_embeddings=48,
                                          final_logit_softcapping=5.0))


@pytest.fixture(scope="module")
def bases():
    tokenizer = _cached("byte_level")
    return {kind: new_base(make_model(kind, len(tokenizer)), tokenizer, kind)
            for kind in ("gpt", "gpt2", "llama", "gemma2", "bloom")}


@pytest.fixture(scope="module")
def tiny(bases):
    return bases["gpt"]


def plain(base, text, begin=True):
    "Bits of each token and its hidden states (n_layers, n_tokens, n_features), the text read at once."
    ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        out = base.model(torch.tensor([[begin_token(base.tokenizer)] * begin + ids]), output_hidden_states=True)
    logp = out.logits[0].double().log_softmax(-1)
    bits = np.array([-logp[i + begin - 1, t] / math.log(2) if i + begin else np.nan for i, t in enumerate(ids)])
    return bits, torch.stack([h[0, int(begin):] for h in out.hidden_states]).numpy()


TEXTS = [" ".join(d.split()[:n]) for d, n in zip(CORPUS, (3, 12, 1, 7, 9, 5), strict=False)]


@pytest.mark.parametrize("kind", ["gpt", "gpt2", "llama", "gemma2", "bloom"])
def test_words_equal_a_plain_loop_in_any_model(bases, kind):
    base = bases[kind]
    found = read(base, [split_words(str(i), t) for i, t in enumerate(TEXTS)], ReadConfig(context=48))
    assert found.attrs["logits"] == ("model" if kind == "gemma2" else "head")
    for i, text in enumerate(TEXTS):
        bits, states = plain(base, text)
        assert len(bits) < 47
        (t,) = tokenize(base.tokenizer, [split_words("a", text)])
        mine = found.isel(item=np.flatnonzero(found.passage == str(i)))
        n = len(t.holder)
        assert mine.word.values.tolist() == text.split()
        assert np.allclose(mine.surprisal, [bits[t.word == w].sum() for w in range(n)], atol=1e-4)
        assert np.allclose(mine.hidden, states[:, t.holder], atol=1e-4)
        assert mine.n_tokens.values.tolist() == [(t.word == w).sum() for w in range(n)]


def test_the_plain_loop_would_notice_another_begin(tiny):
    bits, other = plain(tiny, TEXTS[1])[0], plain(tiny, TEXTS[1], begin=False)[0]
    assert np.abs(bits - other)[1:].max() > 1e-2


def test_batches_and_padding_change_nothing(tiny):
    ps = [split_words(str(i), t) for i, t in enumerate(TEXTS)]
    alone = xr.concat([read(tiny, [p]) for p in ps], "item", combine_attrs="drop")
    for budget in (1, 40, 100_000):
        together = read(tiny, ps, ReadConfig(max_tokens=budget))
        assert np.allclose(together.surprisal, alone.surprisal, atol=1e-4)
        assert np.allclose(together.hidden, alone.hidden, atol=1e-4)


def test_two_readings_are_the_same_bits(tiny):
    ps = [split_words(str(i), t) for i, t in enumerate(TEXTS)]
    assert read(tiny, ps).identical(read(tiny, ps))


def test_a_small_budget_for_logits_changes_nothing(tiny, monkeypatch):
    ps = [split_words(str(i), t) for i, t in enumerate(TEXTS)]
    whole, sizes = read(tiny, ps), []
    head = tiny.model.lm_head.register_forward_hook(lambda m, i, out: sizes.append(out.numel() // out.shape[-1]))
    monkeypatch.setattr(features, "fast_linear", lambda model: "torch")
    monkeypatch.setattr(features, "_HEAD_BYTES", 4 * len(tiny.tokenizer) * 3)
    try:
        few = read(tiny, ps)
    finally:
        head.remove()
    assert max(sizes[2:]) <= 3 and np.allclose(few.surprisal, whole.surprisal, atol=1e-4)


def test_pooling_levels_layers_and_units(tiny):
    p = split_words("a", TEXTS[1])
    (t,), (bits, states) = tokenize(tiny.tokenizer, [p]), plain(tiny, TEXTS[1])
    n, own = len(p.spans), [np.flatnonzero(t.word == w) for w in range(len(p.spans))]
    assert max(map(len, own)) > 1
    for pool, of in (("mean", np.mean), ("sum", np.sum)):
        expected = np.stack([of(states[:, k], axis=1) for k in own], 1)
        assert np.allclose(read(tiny, [p], ReadConfig(pool=pool)).hidden, expected, atol=1e-4)
        whole = read(tiny, [p], ReadConfig(level="passage", pool=pool))
        assert np.allclose(whole.hidden[:, 0], of(states, axis=1), atol=1e-3)
        assert np.isclose(whole.surprisal[0], bits.sum(), atol=1e-4) and whole.n_tokens[0] == len(bits)
    last = read(tiny, [p], ReadConfig(level="passage", layers=(2, 0)))
    assert np.allclose(last.hidden[:, 0], states[[2, 0], -1], atol=1e-4) and last.layer.values.tolist() == [2, 0]
    nats, none = read(tiny, [p], ReadConfig(units="nats")), read(tiny, [p], ReadConfig(layers="none"))
    assert np.allclose(nats.surprisal / math.log(2), none.surprisal, atol=1e-6) and "hidden" not in none
    assert nats.attrs["units"] == "nats" and none.sizes["item"] == n


def test_without_layers_no_hidden_states_are_asked_for(tiny, monkeypatch):
    asked = []
    inner = tiny.model.transformer.forward
    monkeypatch.setattr(tiny.model.transformer, "forward", lambda *a, **k: asked.append(k) or inner(*a, **k))
    read(tiny, [split_words("a", TEXTS[1])], ReadConfig(layers="none"))
    assert asked[-1]["output_hidden_states"] is False
    read(tiny, [split_words("a", TEXTS[1])], ReadConfig(layers=(1,)))
    assert asked[-1]["output_hidden_states"] is True


# Windows -----------------------------------------------------------------------------------------------------------

@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.integers(4, 70), st.sampled_from(["first", "every", "none"]))
def test_each_token_is_scored_once_with_half_the_context_behind_it(n, context, begin):
    cut = windows(n, context, begin)
    assert [t for w in cut for t in range(w.first, w.stop)] == list(range(n))
    assert all(len(w) <= context and w.stop > w.first for w in cut)
    assert all(w.first - w.start >= context / 2 for w in cut[1:]) and cut[0].start == 0
    assert [w.begin for w in cut] == [begin == "every" or (begin == "first" and i == 0) for i in range(len(cut))]


@pytest.mark.parametrize("context, begin", [(16, "first"), (17, "first"), (16, "every"), (16, "none"), (None, "first")])
def test_a_long_text_equals_a_slow_loop_that_gives_each_token_the_same_context(tiny, context, begin):
    p = split_words("long", " ".join(CORPUS[:3]))
    (t,) = tokenize(tiny.tokenizer, [p])
    ids, c = t.ids.tolist(), context or 48
    assert len(ids) > 100
    half, room = -(-c // 2), c - (begin != "none")
    step = c - half - (begin == "every")
    bits, states = [], []
    for i in range(len(ids)):
        start = 0 if i < room else room + (i - room) // step * step - half
        marked = begin == "every" or (begin == "first" and start == 0)
        before = [begin_token(tiny.tokenizer)] * marked + ids[start:i]
        with torch.no_grad():
            out = tiny.model(torch.tensor([[*before, ids[i]]]), output_hidden_states=True)
        logp = out.logits[0].log_softmax(-1)
        bits.append(-float(logp[-2, ids[i]]) / math.log(2) if before else np.nan)
        states.append(torch.stack([h[0, -1] for h in out.hidden_states]).numpy())
    found = read(tiny, [p], ReadConfig(context=context, begin=begin))
    expected = [np.sum(np.array(bits)[t.word == w]) for w in range(len(p.spans))]
    assert np.allclose(found.surprisal, expected, atol=1e-4, equal_nan=True)
    assert np.isnan(found.surprisal[0]) == (begin == "none") and np.isfinite(found.surprisal[1:]).all()
    assert np.allclose(found.hidden, np.stack(states, 1)[:, t.holder], atol=1e-4)


def test_token_by_token(tiny):
    p = split_words("a", TEXTS[1])
    found = token_surprisal(tiny, p)
    assert np.allclose(found.surprisal, plain(tiny, p.text)[0], atol=1e-4)
    assert "".join(found.text.values) == p.text and found.behind.values.tolist() == list(range(found.sizes["token"]))
    words = read(tiny, [p]).surprisal
    assert np.allclose(found.surprisal.groupby("word").sum(), words, atol=1e-6)
    long = token_surprisal(tiny, split_words("b", " ".join(CORPUS[:3])), ReadConfig(context=16))
    assert long.behind.values[15:].min() == 8 and long.behind.values.max() == 15


# Where a word ends -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def letters():
    "A model of texts of a, b and spaces, each a token; its whole vocabulary can be summed over."
    vocab = {END: 0, "a": 1, "b": 2, "Ġ": 3, ".": 4}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    config = GPTConfig(vocab_size=5, n_layer=1, n_head=1, n_embd=8, block_size=32, initializer_range=0.5)
    return new_base(new_gpt(config, Seeds(3)), wrapped(backend), "letters")


def next_token(base, text):
    "Probabilities of the next token behind a text."
    ids = [begin_token(base.tokenizer), *base.tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        return base.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1).numpy()


def prefix_mass(base, text, ended):
    "Probability that a text begins with these characters and, if asked for, that a word ends behind them."
    mass = math.prod(next_token(base, text[:i])[base.tokenizer.convert_tokens_to_ids(c.replace(" ", "Ġ"))]
                     for i, c in enumerate(text))
    return mass * next_token(base, text)[[0, 3]].sum() if ended else mass


def test_correction_equals_brute_force_over_the_vocabulary(letters):
    text = "ab. b aab."
    found = read(letters, [split_words("a", text)], ReadConfig(correction=True))
    ends = [m.end() for m in re.finditer(r"\S+", text)]
    masses = [1.0, *(prefix_mass(letters, text[:e], True) for e in ends)]
    expected = -np.log2(np.divide(masses[1:], masses[:-1]))
    assert np.allclose(found.surprisal, expected, atol=1e-4)
    without = read(letters, [split_words("a", text)])
    assert np.abs(found.surprisal - without.surprisal).min() > 1e-2 and found.attrs["unmarked_boundaries"] == 0


def test_corrected_probabilities_of_all_words_sum_to_one_and_others_do_not(letters):
    words = ["".join(w) for n in (1, 2, 3) for w in itertools.product("ab.", repeat=n)]
    ps = [split_words(w, f"a {w}") for w in words]
    bits = {c: read(letters, ps, ReadConfig(correction=c)).surprisal.values[1::2] for c in (True, False)}
    share = {c: np.exp2(-b).sum() for c, b in bits.items()}
    all_before = prefix_mass(letters, "a", True)
    empty = prefix_mass(letters, "a ", True)
    no_word = prefix_mass(letters, "a", False) * next_token(letters, "a")[0]
    longer = sum(prefix_mass(letters, "a " + "".join(w), False) for w in itertools.product("ab.", repeat=4))
    assert np.isclose(share[True] + (empty + no_word + longer) / all_before, 1, atol=1e-5)
    assert abs(share[False] / share[True] - 1) > 0.05


def test_correction_only_moves_surprisal_between_words_of_any_windows(tiny):
    p = split_words("long", "  " + " ".join(CORPUS[:2]).strip())
    config = dict(context=16, layers="none")
    found, moved = read(tiny, [p], ReadConfig(**config)), read(tiny, [p], ReadConfig(**config, correction=True))
    (t,) = tokenize(tiny.tokenizer, [p])
    last = windows(len(t.ids), 16)[-1]
    with torch.no_grad():
        logits = tiny.model(torch.tensor([t.ids[last.start:].tolist()])).logits[0, -1]
    cost = -float(torch.log2(logits.softmax(-1)[word_enders(tiny.tokenizer)].sum()))
    assert np.isclose(float((moved.surprisal - found.surprisal).sum()), cost, atol=1e-3)


def test_nothing_moves_where_no_space_stands_between_words(letters):
    p = Passage("a", "ab b", [(0, 1), (1, 2), (3, 4)])
    found = read(letters, [p], ReadConfig(correction=True))
    masses = [1.0, *(prefix_mass(letters, *a) for a in (("a", False), ("ab", True), ("ab b", True)))]
    assert np.allclose(found.surprisal, -np.log2(np.divide(masses[1:], masses[:-1])), atol=1e-4)
    assert found.attrs["unmarked_boundaries"] == 1


@pytest.mark.parametrize("kind", ["byte_level", "unigram", "prefixed"])
def test_word_enders_are_the_tokens_that_begin_with_white_space(kind):
    tokenizer = _cached(kind)
    enders = set(word_enders(tokenizer).tolist())
    for token, i in tokenizer.get_vocab().items():
        text = tokenizer.convert_tokens_to_string(["x", token])
        if i != tokenizer.eos_token_id and text[1:2] != "\ufffd":
            assert (i in enders) == text[1:2].isspace(), token
    assert tokenizer.eos_token_id in enders


def test_correction_needs_marked_beginnings(bases):
    base = new_base(make_model("gpt", 600), _cached("word_piece"), "pieces", "0")
    with pytest.raises(InputError, match="space before it"):
        read(base, [split_words("a", "the cat")], ReadConfig(correction=True))


# Stored readings ---------------------------------------------------------------------------------------------------

class AfterLooks(StopRequest):
    "Stops when it was looked at so many times."
    def __init__(self, n):
        super().__init__()
        self.left = n

    def __bool__(self):
        self.left -= 1
        if self.left < 0:
            self.set("a test")
        return super().__bool__()


MANY = [split_words(f"d{i}", d) for i, d in enumerate(CORPUS[:16])]


def left(folder):
    return sorted(p.suffix for p in folder.iterdir())


def test_an_end_that_a_full_disk_interrupted_leaves_nothing_in_the_store(tiny, tmp_path, monkeypatch):
    import zarr

    def interrupted(dataset, folder):  # xarray makes an array first and gives it its units after
        zarr.open_group(folder, mode="r+").create_array("surprisal", shape=(dataset.sizes["item"],), dtype="f8")
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(features, "_finish_store", interrupted)
        with pytest.raises(OSError, match="no space"):
            read(tiny, MANY, cache=tmp_path)
    found = read(tiny, MANY, cache=tmp_path)
    assert found.identical(read(tiny, MANY, cache=tmp_path / "other"))
    assert found.surprisal.attrs["units"] == "bits"


def test_a_stored_reading_is_lazy_the_same_and_found_again(tiny, tmp_path, monkeypatch):
    held = []
    read_block = features.read_block
    monkeypatch.setattr(features.make_blocks, "__defaults__", (8_000,))
    monkeypatch.setattr(features, "read_block", lambda *a: held.append(read_block(*a)) or held[-1])
    stored, memory = read(tiny, MANY, cache=tmp_path), read(tiny, MANY)
    assert len(held) > 10 and max(h.numel() * 4 for h in held) < 40_000 < memory.hidden.nbytes / 4
    assert not stored.hidden.variable._in_memory and stored.load().identical(memory)
    assert left(tmp_path) == [".lock", ".zarr"]
    n = len(held)
    again = read(tiny, MANY, cache=tmp_path)
    assert len(held) == n and again.identical(memory)
    assert (tmp_path/f"{read_key(tiny, MANY)}.zarr").is_dir()


def test_surprisal_alone_is_stored_too(tiny, tmp_path):
    config = ReadConfig(layers="none")
    assert read(tiny, MANY, config, cache=tmp_path).identical(read(tiny, MANY, config))


def test_long_rows_are_added_up_in_pieces():
    if features.fast_linear(torch.nn.Linear(2, 2)) != "onednn":
        pytest.skip("this machine multiplies with PyTorch's default")
    g = torch.Generator().manual_seed(0)
    w, b, x = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((50, 3000), (50,), (2, 40, 3000)))
    x[..., ::100] *= 300  # large activations, as real models have them
    exact = torch.nn.functional.linear(x, w, b)
    off = [float((features.exact_linear(w.float(), b.float(), x.float(), n) - exact).abs().max()) for n in (768, 10**6)]
    assert off[0] < off[1] and off[0] < 5e-3 and exact.abs().max() > 1e3


def test_other_models_texts_words_and_settings_are_other_readings(bases):
    p, q = split_words("a", "the cat"), Passage("a", "the cat", [(0, 7)])
    keys = [read_key(bases["gpt"], [p]), read_key(bases["llama"], [p]), read_key(bases["gpt"], [q]),
            *(read_key(bases["gpt"], [split_words(*a)]) for a in (("a", "the cats"), ("b", "the cat"))),
            *(read_key(bases["gpt"], [p], c) for c in (ReadConfig(pool="mean"), ReadConfig(context=16)))]
    assert len(set(keys)) == len(keys) and keys[0] == read_key(bases["gpt"], [p], ReadConfig())


@pytest.mark.parametrize("looks", [0, 1, 5, 9])
def test_a_stopped_reading_leaves_nothing_whole_and_goes_on_to_the_same_bits(tiny, tmp_path, looks):
    config = ReadConfig(max_tokens=64)
    with pytest.raises(Stopped, match=r"after \d+ of \d+ windows; they are kept in"):
        read(tiny, MANY, config, cache=tmp_path, stop=AfterLooks(looks))
    assert left(tmp_path) == [".lock", ".partial"]
    counted = AfterLooks(10**6)
    found = read(tiny, MANY, config, cache=tmp_path, stop=counted)
    fresh = AfterLooks(10**6)
    assert found.load().identical(read(tiny, MANY, config, stop=fresh)) and left(tmp_path) == [".lock", ".zarr"]
    assert counted.left == fresh.left  # one block: begun anew


def test_finished_blocks_are_not_read_again(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(features.make_blocks, "__defaults__", (8_000,))
    with pytest.raises(Stopped, match=r"after [1-9]\d* of"):
        read(tiny, MANY, ReadConfig(max_tokens=64), cache=tmp_path, stop=AfterLooks(12))
    looks = AfterLooks(10**6)
    found = read(tiny, MANY, ReadConfig(max_tokens=64), cache=tmp_path, stop=looks)
    fresh = AfterLooks(10**6)
    assert found.load().identical(read(tiny, MANY, ReadConfig(max_tokens=64), stop=fresh)) and looks.left > fresh.left


@pytest.mark.parametrize("harm", ["progress", "data"])
def test_a_damaged_partial_reading_starts_afresh_or_is_refused(tiny, tmp_path, monkeypatch, harm):
    monkeypatch.setattr(features.make_blocks, "__defaults__", (8_000,))
    with pytest.raises(Stopped):
        read(tiny, MANY, ReadConfig(max_tokens=64), cache=tmp_path, stop=AfterLooks(12))
    (folder,) = tmp_path.glob("*.partial")
    if harm == "progress":
        file = folder/"progress.safetensors"
        file.write_bytes(file.read_bytes()[:-5])
    else:
        for p in (folder/"data").rglob("*"):
            if p.is_file():
                p.unlink()
    found = read(tiny, MANY, ReadConfig(max_tokens=64), cache=tmp_path)
    assert found.load().identical(read(tiny, MANY, ReadConfig(max_tokens=64)))


def test_a_stop_without_a_cache_says_that_nothing_is_kept(tiny):
    with pytest.raises(Stopped, match="by a test after 0 of .* nothing was kept"):
        read(tiny, MANY, stop=AfterLooks(0))


@pytest.mark.parametrize("harm", ["missing", "short", "altered", "added"])
@pytest.mark.parametrize("name", ["hidden/c/0/0/0", "surprisal/c/0", "hidden/zarr.json", "zarr.json"])
def test_a_damaged_store_is_refused(tiny, tmp_path, harm, name):
    read(tiny, MANY[:2], cache=tmp_path)
    (path,) = tmp_path.glob("*.zarr")
    file, data = path / name, (path / name).read_bytes()
    if harm == "missing":
        file.unlink()
    elif harm == "added":
        file = file.with_name("stray")
        file.write_bytes(data)
    else:
        file.write_bytes(data[:-1] if harm == "short" else data.replace(data[-9:-8], bytes([data[-9] ^ 1])))
    with pytest.raises(DamagedFileError, match=re.escape(str(path))) as found:
        open_reading(path)
    assert "Delete the folder" in str(found.value) or name == "zarr.json"
    with pytest.raises(DamagedFileError):
        read(tiny, MANY[:2], cache=tmp_path)


def test_half_precision_is_kept_when_it_can_hold_the_states(tiny, tmp_path):
    found = read(tiny, MANY[:3], ReadConfig(dtype="float16"), cache=tmp_path)
    full = read(tiny, MANY[:3])
    assert found.hidden.dtype == np.float16 and np.allclose(found.hidden, full.hidden, rtol=1e-3, atol=1e-3)
    big = new_base(new_gpt(GPTConfig(vocab_size=600, n_layer=1, n_head=1, n_embd=8, block_size=32,
                                     initializer_range=1e5), Seeds(0)), tiny.tokenizer, "big", "0")
    with pytest.raises(InputError, match="float16 can't hold"):
        read(big, [split_words("a", "the cat")], ReadConfig(dtype="float16"))


# Bad input ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("config, message", [
    (dict(layers=(0, 3)), r"Layer 3 doesn't exist: gpt has the layers 0 \(embeddings\) to 2"),
    (dict(layers=(-1,)), "a layer is -1"), (dict(layers=()), "each layer once"),
    (dict(layers=(1, 1)), "each layer once"),
    (dict(layers="some"), "layers is 'some'"), (dict(level="token"), "level is 'token'"), (dict(pool="max"), "pool is"),
    (dict(begin="never"), "begin is"), (dict(units="dits"), "units is"), (dict(context=3), "at least 4"),
    (dict(context=49), "can read 48 tokens"), (dict(max_tokens=0), "max_tokens is 0"),
    (dict(dtype="int8"), "dtype is"), (dict(correction=True, level="passage"), "correction is of words"),
])
def test_bad_settings_are_refused_by_name(tiny, config, message):
    with pytest.raises(InputError, match=message):
        read(tiny, [split_words("a", "the cat")], ReadConfig(**config))


def test_bad_passages_are_refused(tiny):
    p = split_words("a", "the cat")
    for passages, message in (([], "no passage"), (["the cat"], "is no Passage"), ([p, p], "Two passages .* 'a'")):
        with pytest.raises(InputError, match=message):
            read(tiny, passages)


def test_a_model_that_cannot_be_read_with_is_refused(tiny):
    class Slow:
        is_fast, bos_token_id, eos_token_id = False, 0, 0

    with pytest.raises(InputError, match="fast tokenizer"):
        tokenize(Slow(), [split_words("a", "the cat")])
    with pytest.raises(InputError, match="it has 60 embeddings"):
        new_base(make_model("gpt", 60), tiny.tokenizer, "small", "0")
    small = dataclasses.replace(tiny, model=make_model("gpt", 60).eval())  # not by way of new_base
    with pytest.raises(InputError, match="knows 60"):
        read(small, [split_words("a", "the doctors sleep")])
    broken = new_base(make_model("gpt", 600), tiny.tokenizer, "broken", "0")
    with torch.no_grad():
        broken.model.lm_head.weight[0, 0] = math.nan
    with pytest.raises(InputError, match="NaN"):
        read(broken, [split_words("a", "the cat")])
    endless = new_base(make_model("bloom", 600), tiny.tokenizer, "endless", "0")  # places by slopes, without an end
    with pytest.raises(InputError, match="Give the context"):
        read(endless, [split_words("a", "the cat")])
    assert read(endless, [split_words("a", "the cat")], ReadConfig(context=8)).sizes["item"] == 2


# The localiser -----------------------------------------------------------------------------------------------------

def test_welch_equals_scipy_and_knows_constants():
    rng = np.random.default_rng(0)
    for n1, n2 in ((2, 2), (30, 17), (240, 240)):
        a, b = rng.normal(1, 2, (n1, 4, 6)), rng.normal(0, .5, (n2, 4, 6))
        t, p = welch(a, b)
        expected = ttest_ind(a, b, equal_var=False)
        assert np.allclose(t, expected.statistic, rtol=1e-10) and np.allclose(p, expected.pvalue, rtol=1e-8)
    t, p = welch(np.full((3, 2), .1), np.array([[.1, .2]] * 7))
    assert t.tolist() == [0, -np.inf] and p.tolist() == [1, 0]


def test_the_localiser_equals_scipy_on_states_of_a_plain_loop(tiny):
    sentences, nonwords = ([t[:24] for t in texts] for texts in toy_langloc(25, Seeds(1)))
    found = localize(tiny, sentences, nonwords[:20], top=5, pool="mean", alpha=None)
    a, b = (np.stack([plain(tiny, t)[1].mean(1) for t in texts]) for texts in (sentences, nonwords[:20]))
    expected = ttest_ind(a[:, 1:].astype(np.float64), b[:, 1:].astype(np.float64), equal_var=False)
    assert np.allclose(found.t, expected.statistic, rtol=1e-3, atol=1e-3)
    assert np.allclose(found.q, false_discovery_control(expected.pvalue.ravel()).reshape(found.q.shape), atol=1e-3)
    assert found.layer.values.tolist() == [1, 2] and int(found.selected.sum()) == 5
    best = np.argsort(-expected.statistic.ravel())[:5]
    assert set(np.flatnonzero(found.selected.values.ravel())) == set(best)
    magnitudes = localize(tiny, sentences, nonwords[:20], top=5, pool="mean", alpha=None, absolute=True)
    expected = ttest_ind(np.abs(a[:, 1:]), np.abs(b[:, 1:]), equal_var=False)
    assert np.allclose(magnitudes.t, expected.statistic, rtol=1e-3, atol=1e-3)


def test_only_a_planted_unit_is_found():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (60, 3, 50)), rng.normal(0, 1, (60, 3, 50))
    a[:, 1, 7] += 2
    b[:, 2, 9] += 2  # responds to nonwords: never selected
    t, p = welch(a, b)
    q = false_discovery_control(p.ravel()).reshape(p.shape)
    assert np.argwhere(select_units(t, q, .01)).tolist() == [[1, 7]]
    assert select_units(t, q, .1, alpha=None).sum() == 15 and not select_units(t, q, 149, alpha=None)[2, 9]


def test_two_sets_of_one_kind_select_nothing(tiny):
    sentences, _ = toy_langloc(60, Seeds(2))
    with pytest.raises(InputError, match="No unit is selected: of 48 units the largest t"):
        localize(tiny, sentences[::2], sentences[1::2], pool="mean")


@pytest.mark.parametrize("given, message", [
    (dict(sentences=[]), "set of sentences is empty"), (dict(nonwords=[]), "set of nonwords is empty"),
    (dict(sentences=["one text"]), "one text in sentences"), (dict(nonwords="a string"), "one string"),
    (dict(nonwords=["ba do", " "]), "'nonwords 1' is empty"), (dict(top=0), "top is 0"), (dict(top=1.5), "top is 1.5"),
    (dict(top=10**6), "there are 48 units"), (dict(layers=(3,)), "Layer 3 doesn't exist"),
    (dict(pool="max"), "pool is"),
])
def test_a_localiser_that_cannot_work_is_refused(tiny, given, message):
    sentences, nonwords = toy_langloc(4, Seeds(2))
    with pytest.raises(InputError, match=message):
        localize(tiny, **dict(sentences=sentences, nonwords=nonwords) | given)


def test_states_that_are_not_finite_are_refused(tiny):
    broken = new_base(make_model("gpt", 600), tiny.tokenizer, "broken", "0")
    with torch.no_grad():
        broken.model.transformer.h[0].mlp.c_proj.weight[3] = math.inf
    with pytest.raises(InputError, match="NaN"):
        localize(broken, *toy_langloc(4, Seeds(2)))


def test_generated_stimuli_are_matched_and_deterministic():
    sentences, nonwords = toy_langloc(50, Seeds(7))
    assert (sentences, nonwords) == toy_langloc(50, Seeds(7)) and nonwords != toy_langloc(50, Seeds(8))[1]
    shape = lambda text: re.sub("[b-df-hj-np-tv-z]", "c", re.sub("[aeiou]", "v", text.lower()))
    assert [shape(s) for s in sentences] == [shape(s) for s in nonwords]
    known = {w.strip(".,").lower() for s in sentences for w in s.split()}
    assert not any(w.strip(".,").lower() in known for s in nonwords for w in s.split() if len(w.strip(".,")) > 1)
    with pytest.raises(InputError, match="known word"):
        nonword("a", np.random.default_rng(0), known=set("aeiou"))


def test_the_real_stimuli(data_folder):
    sentences, nonwords = read_langloc(data_folder/"langloc")
    assert len(sentences) == len(nonwords) == 240
    assert sentences[0] == "just the barest suggestion of a heel is found on teenage pumps"
    assert all(len(s.split()) == 12 for s in sentences)
    assert read_langloc(data_folder/"langloc", lower=False)[1][0].isupper()


def test_stimulus_files_in_another_form_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .csv"):
        read_langloc(tmp_path)
    with open(tmp_path/"langloc_x.csv", "w", newline="") as f:
        csv.writer(f).writerows([[f"stim{i}" for i in range(1, 15)], [1, *"abcdefghijkl", "Q"]])
    with pytest.raises(InputError, match="langloc_x.csv, row 1, must have twelve words"):
        read_langloc(tmp_path)


# The real model ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def smol():
    if find_smollm2() is None:
        pytest.skip("SmolLM2 isn't here: make models")
    return open_base("smollm2-135m-instruct", "cpu")


def test_smollm2_reads_like_a_plain_loop(smol, data_folder):
    with open(data_folder/"natural_stories"/"all_stories.tok", encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
    words = [[r["word"] for r in rows if r["item"] == i][:n] for i, n in (("1", 60), ("2", 25), ("3", 9))]
    ps = [join_words(f"story {i + 1}", w) for i, w in enumerate(words)]
    found = read(smol, ps)
    assert found.attrs["spanning_tokens"] == 0 and found.attrs["tokens_outside_words"] == 0
    for p in ps:
        bits, states = plain(smol, p.text)
        (t,) = tokenize(smol.tokenizer, [p])
        mine = found.isel(item=np.flatnonzero(found.passage == p.name))
        assert np.allclose(mine.surprisal, [bits[t.word == w].sum() for w in range(len(p.spans))], atol=1e-4)
        scale = np.abs(states).max((1, 2), keepdims=True)
        assert np.abs((mine.hidden - states[:, t.holder]) / scale).max() < 1e-4
    assert json.loads(found.attrs["config"])["units"] == "bits" and 5 < found.surprisal.mean() < 9


@pytest.mark.parametrize("context, begin, n_begin", [
    (-1, "first", 1), (0, "none", 1), (3, "every", 1), (5, "every", 2)])
def test_windows_that_could_never_end_are_refused(context, begin, n_begin):
    with pytest.raises(InputError, match="context is"):
        windows(50, context, begin, 0, n_begin)
    assert windows(50, max(4, 2 * n_begin + 2), begin, 0, n_begin)[-1].stop == 50
