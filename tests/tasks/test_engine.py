"""The engine over many architectures: whatever the layout, each text is read as if it stood alone."""

import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import transformers as T

from evonb.core import InputError
from evonb.tasks.engine import Engine, encode_choices
from evonb.tasks.tasks import Choice, Prompt
from evonb.text.tokens import train_tokenizer
from evonb.training import linear
from evonb.training.adapters import Adapter
from evonb.training.base import begin_token

pytestmark = pytest.mark.numerics

WORDS = "the a cat dog cats dogs sees see sleeps sleep big small red green that who near house tree and runs".split()
BASE = Adapter({}, {}, {}, {})


def sentence(n, seed):
    return " ".join(np.random.default_rng(seed).choice(WORDS, n))


TOKENIZER = train_tokenizer([sentence(8, i) for i in range(300)], 300)
ENDS = dict(bos_token_id=0, eos_token_id=0, initializer_range=0.3)
OLD = dict(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128, **ENDS)
NEW = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, **ENDS)
POS = dict(max_position_embeddings=128)
SIZES = NEW | POS | dict(num_key_value_heads=2, pad_token_id=None)
MAMBA = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=8, pad_token_id=0, **ENDS)

MODELS = dict(
    llama=(T.LlamaForCausalLM, T.LlamaConfig(**SIZES)),
    mistral=(T.MistralForCausalLM, T.MistralConfig(**SIZES, sliding_window=8)),
    qwen2=(T.Qwen2ForCausalLM, T.Qwen2Config(**SIZES, sliding_window=8, use_sliding_window=True, max_window_layers=1)),
    qwen2_unused=(T.Qwen2ForCausalLM, T.Qwen2Config(**SIZES, sliding_window=8, use_sliding_window=False)),
    phi3=(T.Phi3ForCausalLM, T.Phi3Config(**SIZES, sliding_window=8)),
    gemma2=(T.Gemma2ForCausalLM, T.Gemma2Config(**SIZES, sliding_window=8, head_dim=8)),
    gemma3=(T.Gemma3ForCausalLM, T.Gemma3TextConfig(**SIZES, sliding_window=8, head_dim=8)),
    sinks=(T.GptOssForCausalLM, T.GptOssConfig(**SIZES, sliding_window=8, head_dim=8, num_local_experts=4,
                                               num_experts_per_tok=2)),
    chunks=(T.Llama4ForCausalLM, T.Llama4TextConfig(**SIZES, attention_chunk_size=8, head_dim=8, no_rope_layers=[1, 0],
                                                    intermediate_size_mlp=48, num_local_experts=2, floor_scale=4,
                                                    attn_scale=0.5)),
    smollm3=(T.SmolLM3ForCausalLM, T.SmolLM3Config(**SIZES, use_sliding_window=True, sliding_window=8,
                                                   no_rope_layers=[1, 0])),
    gpt2=(T.GPT2LMHeadModel, T.GPT2Config(**OLD)),
    neo=(T.GPTNeoForCausalLM, T.GPTNeoConfig(vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, window_size=8,
                                             attention_types=[[["global", "local"], 1]], **POS, **ENDS)),
    neox=(T.GPTNeoXForCausalLM, T.GPTNeoXConfig(**NEW, **POS)),
    bloom=(T.BloomForCausalLM, T.BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4, **ENDS)),
    mpt=(T.MptForCausalLM, T.MptConfig(vocab_size=300, d_model=32, n_layers=2, n_heads=4, max_seq_len=128,
                                       initializer_range=0.3)),
    falcon_alibi=(T.FalconForCausalLM, T.FalconConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2,
                                                      num_attention_heads=4, alibi=True, **ENDS)),
    opt=(T.OPTForCausalLM, T.OPTConfig(vocab_size=300, hidden_size=32, ffn_dim=48, num_hidden_layers=2, **POS,
                                       num_attention_heads=4, word_embed_proj_dim=32, init_std=0.3, pad_token_id=1)),
    roberta=(T.RobertaForCausalLM, T.RobertaConfig(**NEW, **POS, type_vocab_size=1, is_decoder=True)),
    bart=(T.BartForCausalLM, T.BartConfig(vocab_size=300, d_model=32, decoder_ffn_dim=48, decoder_layers=2, **POS,
                                          decoder_attention_heads=4, init_std=0.3, is_decoder=True,
                                          is_encoder_decoder=False)),
    mamba=(T.MambaForCausalLM, T.MambaConfig(**MAMBA)),
    conv=(T.Lfm2ForCausalLM, T.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])),
    recurrent=(T.RecurrentGemmaForCausalLM, T.RecurrentGemmaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, lru_width=32, attention_window_size=8, bos_token_id=0, eos_token_id=0)),
    longrope=(T.Phi3ForCausalLM, T.Phi3Config(
        **SIZES, sliding_window=None, original_max_position_embeddings=16,
        rope_parameters=dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 4, long_factor=[3.0] * 4))),
)  # fmt: skip
TREES = {"llama", "qwen2_unused", "gpt2", "neox", "opt"}  # whose texts may share what they begin with, at any length


def model_of(name):
    kind, config = MODELS[name]
    torch.manual_seed(0)  # transformers draws from the global generator
    return kind(config).eval().requires_grad_(False)


def choices(lengths):
    "Options behind contexts of these lengths in tokens, which share what they begin with."
    found = []
    for i, n in enumerate(lengths):
        context = TOKENIZER.decode(TOKENIZER(sentence(n, i % 2), add_special_tokens=False)["input_ids"][:n])
        found += [Choice(context, (" cat sees", " dog sees", " tree")), Choice(context, (" runs and",), absolute=True)]
    return [*found, Choice("", (sentence(5, 7), sentence(6, 8)))]


@torch.no_grad()
def alone(model, items):
    "One option at a time, as lm-evaluation-harness feeds it: everything but the last token."
    found = []
    for sequences in encode_choices(TOKENIZER, items):
        logp = [model(torch.tensor([s.ids[:-1]])).logits[0].double().log_softmax(-1) for s in sequences]
        found.append(np.array([float(sum(p[j - 1, s.ids[j]] for j in range(s.start, len(s.ids))))
                               for p, s in zip(logp, sequences, strict=True)]))  # fmt: skip
    return found


def worst(engine, items):
    "How far sums are from those of options that stand alone, in nats, up to a constant an item where that is allowed."
    found, off = engine.loglikelihoods([BASE], items)[0], 0
    for c, (sums, _), right in zip(items, found, alone(engine.model, items), strict=True):
        gap = sums - right
        off = max(off, np.abs(gap if c.absolute else gap - gap[0]).max())
    return off


def quiet(f):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return f()


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_is_scored_as_if_each_text_stood_alone(name):
    model = model_of(name)
    for packing in ("auto", "padded"):
        engine = Engine(model, TOKENIZER, packing=packing)
        for lengths in ((2, 3), (4, 5, 6, 7, 8, 9), (10, 30), (90,), (5, 16, 17, 40)):  # within the window, and beyond
            off = quiet(partial(worst, engine, choices(lengths)))
            assert off < 2e-4, (packing, lengths, off)
    assert (Engine(model, TOKENIZER).packing_for(60) == "tree") if name in TREES else True


@pytest.mark.parametrize("name", ["mistral", "qwen2", "phi3", "gemma3", "sinks", "smollm3"])
def test_texts_within_the_window_are_packed_and_longer_ones_arent(name):
    engine = Engine(model_of(name), TOKENIZER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine.packing_for(8) == "tree"
    with pytest.warns(UserWarning, match="option by option.*attention looks back over 8 tokens.*has 9"):
        assert engine.packing_for(9) == "padded"
    with warnings.catch_warnings():  # it is told once
        warnings.simplefilter("error")
        assert engine.packing_for(20) == "padded" and engine.packing_for(7) == "tree"
    assert "looks back over 8" in repr(engine)
    with pytest.raises(InputError, match="can't score trees: attention looks back over 8"):
        Engine(model_of(name), TOKENIZER, packing="tree").loglikelihoods([BASE], choices([20]))


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_a_window_of_512_at_620_and_1200_tokens(name):
    kind, config = MODELS[name]
    torch.manual_seed(0)
    model = kind(type(config)(**config.to_dict() | dict(sliding_window=512, max_position_embeddings=2048))).eval()
    for n in (400, 620, 1200):
        engine = Engine(model, TOKENIZER)
        assert quiet(partial(worst, engine, choices([n]))) < 5e-4
        assert engine.packing_for(n) == ("tree" if n < 512 else "padded")


def test_a_window_that_no_configuration_tells_is_found_at_the_lengths_that_are_used():
    kind, config = MODELS["neo"]
    torch.manual_seed(0)
    model = kind(type(config)(**config.to_dict() | dict(window_size=40))).eval()
    vars(model.config).update(window_size=None, attention_layers=None)  # its masks were made, nothing tells of them
    engine = Engine(model, TOKENIZER)
    assert engine.packing == "tree" or engine.why_padded  # eight tokens are within it; a row of them may not be
    for rows in (34, 64, 90):
        engine = Engine(model, TOKENIZER, row_tokens=rows)
        assert max(quiet(partial(worst, engine, choices([n]))) for n in (20, 38, 60, 90)) < 2e-4
    assert engine.packing_for(60) == "padded" and "states in a tree differ" in engine.why_padded


class Aligned(T.LlamaForCausalLM):
    "Later tokens of long texts are seen: as with blocks of attention that begin at some length."

    def __init__(self, config):
        super().__init__(config)
        plain = self.model.forward

        def forward(input_ids, attention_mask=None, **options):
            n = input_ids.shape[1]
            if n > 40 and attention_mask is None:
                attention_mask = torch.zeros(1, 1, n, n)  # everything sees everything
            return plain(input_ids=input_ids, attention_mask=attention_mask, **options)

        self.model.forward = forward


def test_a_model_that_looks_ahead_in_long_texts_only_is_refused_there():
    torch.manual_seed(0)
    engine = Engine(Aligned(T.LlamaConfig(**SIZES)).eval(), TOKENIZER)
    assert worst(engine, choices([20])) < 2e-4
    with pytest.raises(InputError, match="isn't a causal language model.*a text of [0-9]+ tokens"):
        engine.loglikelihoods([BASE], choices([60]))
    with pytest.raises(InputError, match="isn't a causal language model"):
        engine.generate([BASE], [Prompt("the cat", 70)])


def test_models_that_cant_be_scored_are_refused_when_the_engine_is_made():
    with pytest.raises(InputError, match="isn't a causal language model"):
        Engine(T.BertLMHeadModel(T.BertConfig(**NEW, **POS)), TOKENIZER)
    more = train_tokenizer([sentence(8, i) for i in range(300)], 300)
    more.add_tokens(["[PAD]", "[SEP]"])
    with pytest.raises(InputError, match=r"'\[PAD\]' \(300\), '\[SEP\]' \(301\)"):
        Engine(model_of("llama"), more)


CONTEXTS = dict(llama=128, gpt2=128, opt=128, roberta=126, mpt=128, bart=128)


@pytest.mark.parametrize("name", CONTEXTS)
def test_the_longest_text_is_scored_and_one_token_more_is_refused(name):
    engine = Engine(model_of(name), TOKENIZER)
    n = CONTEXTS[name]
    ids = TOKENIZER(sentence(300, 3), add_special_tokens=False)["input_ids"]
    fits, longer = (Choice("", (TOKENIZER.decode(ids[:k]),), absolute=True) for k in (n, n + 1))
    assert len(encode_choices(TOKENIZER, [fits])[0][0].ids) == n + 1  # the last token is only predicted
    assert quiet(partial(worst, engine, [fits])) < 1e-3
    with pytest.raises(InputError, match=f"the model's context is {n}"):
        engine.loglikelihoods([BASE], [longer])


@pytest.mark.parametrize("name", ["bloom", "falcon_alibi", "mamba", "recurrent", "bart", "chunks"])
def test_what_a_model_cant_do_is_told_in_words(name):
    engine = quiet(partial(Engine, model_of(name), TOKENIZER))
    assert engine.packing == "padded"
    for why in filter(None, (engine.why_padded, engine.why_plain)):
        assert not re.search(r"Error|tensor|unpack|dimension|object|attribute", why) and len(why.split()) > 5
    told = dict(bloom="no position_ids", mamba="no position_ids", falcon_alibi="attention mask of pairs").get(name)
    assert told is None or told in engine.why_padded
    assert name != "mamba" or "keeps no keys and values" in engine.why_plain


def test_memory_that_runs_out_is_no_trait_of_the_model(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Engine, "run_rows", full)
    with pytest.raises(torch.OutOfMemoryError):
        Engine(model_of("llama"), TOKENIZER)


@pytest.mark.parametrize("name", ["bloom", "mamba", "recurrent"])
def test_without_an_end_of_its_own_a_pass_bounds_the_text(name):
    engine = Engine(model_of(name), TOKENIZER, max_tokens=200)
    assert engine.limits.context is None
    assert quiet(partial(worst, engine, choices([100]))) < 1e-3
    with pytest.raises(InputError, match="max_tokens is 200"):
        engine.loglikelihoods([BASE], choices([300]))


@pytest.mark.parametrize("name, method", [("llama", "merged"), ("llama", "batched"), ("gpt2", "merged"),
                                          ("mamba", "batched")])  # fmt: skip
def test_rows_go_through_in_as_many_passes_as_caches_want_and_say_the_same(monkeypatch, name, method):
    seen, run = [], Engine.run_rows
    spied = lambda engine, rows, n, packing: seen.append(n * len(rows) * len(rows[0])) or run(engine, rows, n, packing)
    monkeypatch.setattr(Engine, "run_rows", spied)
    engine, items = Engine(model_of(name), TOKENIZER, method=method), choices([20, 30, 40, 50, 60])
    whole, most = engine.loglikelihoods([BASE, BASE], items), max(seen)
    monkeypatch.setattr(linear, "PASS_TOKENS", 8)  # of models as narrow as these, 32
    seen.clear()
    for once, parts in zip(whole, engine.loglikelihoods([BASE, BASE], items), strict=True):
        for (a, n), (b, m) in zip(once, parts, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
            assert (n == m).all()
    assert max(seen) < most and len(seen) > 2


PROMPTS = [Prompt("the cat sees", 9, ()), Prompt("a", 7, ()), Prompt("", 5, ()), Prompt("the big red dog near", 14, ())]


@torch.no_grad()
def continued(model, prompt, ends):
    ids, new = TOKENIZER(prompt.text, add_special_tokens=False)["input_ids"] or [begin_token(TOKENIZER)], []
    while len(new) < prompt.max_new_tokens and not (new and new[-1] in ends):
        new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return TOKENIZER.decode(new, skip_special_tokens=True)


ANSWERING = ["llama", "gemma3", "bloom", "opt", "roberta", "bart", "mamba", "recurrent", "longrope"]


@pytest.mark.parametrize("name", ANSWERING)
def test_answers_equal_those_of_a_prompt_read_anew_for_every_token(name):
    engine = Engine(model_of(name), TOKENIZER)
    right = [continued(engine.model, p, engine.end_ids()) for p in PROMPTS]
    assert engine.generate([BASE, BASE], PROMPTS) == [right, right]
