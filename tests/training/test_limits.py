"""What a model can take: positions, sentinels, tables, windows; and that it never looks ahead."""

import copy

import pytest
import torch
import transformers as T

from evonb.core import InputError, Seeds
from evonb.text.tokens import train_tokenizer
from evonb.training.base import new_base
from evonb.training.gpt import GPTConfig, new_gpt
from evonb.training.limits import (
    Limits,
    attention_window,
    check_causal,
    check_context,
    check_finite_weights,
    check_vocabulary,
    look_ahead,
    model_limits,
    stated_context,
)

SIZES = dict(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
WIDE = SIZES | dict(intermediate_size=16)


TOKENIZER = train_tokenizer(["the cat sees the dog."] * 20, 260)


def made(kind, config):
    torch.manual_seed(0)
    return kind(config).eval()


def gpt():
    return new_gpt(GPTConfig(vocab_size=60, n_layer=1, n_head=2, n_embd=16, block_size=24), Seeds(0)).eval()


KNOWN = {
    "gpt": (gpt, 24),
    "llama": (lambda: made(T.LlamaForCausalLM, T.LlamaConfig(**WIDE, max_position_embeddings=24)), 24),
    "gpt2": (lambda: made(T.GPT2LMHeadModel, T.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2,
                                                          n_positions=24)), 24),
    "opt": (lambda: made(T.OPTForCausalLM, T.OPTConfig(**SIZES, ffn_dim=16, word_embed_proj_dim=16,
                                                       max_position_embeddings=24)), 24),
    "roberta": (lambda: made(T.RobertaForCausalLM, T.RobertaConfig(**WIDE, is_decoder=True, max_position_embeddings=24,
                                                                   pad_token_id=1)), 22),
    "roberta0": (lambda: made(T.RobertaForCausalLM, T.RobertaConfig(**WIDE, is_decoder=True, max_position_embeddings=24,
                                                                    pad_token_id=0)), 23),
    "mpt": (lambda: made(T.MptForCausalLM, T.MptConfig(vocab_size=60, d_model=16, n_layers=1, n_heads=2,
                                                       max_seq_len=24)), 24),
    "bloom": (lambda: made(T.BloomForCausalLM, T.BloomConfig(vocab_size=60, hidden_size=16, n_layer=1,
                                                             n_head=2)), None),
    "mamba": (lambda: made(T.MambaForCausalLM, T.MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1,
                                                             state_size=4)), None),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_the_longest_text_is_the_one_that_just_works(name):
    make, most = KNOWN[name]
    model = make()
    assert model_limits(model) == Limits(most, 60)
    ids = torch.full((1, most or 500), 5)
    assert torch.isfinite(model(ids).logits).all()
    if name in ("gpt2", "opt", "roberta", "roberta0", "gpt"):
        with pytest.raises((IndexError, RuntimeError, InputError)):
            model(torch.full((1, most + 1), 5))


def test_sentinels_state_nothing():
    class Config:
        def __init__(self, **stated):
            self.__dict__.update(stated)

    for nothing in (-1, 0, None, 10**30, True, "long", 1e5):
        assert stated_context(Config(max_position_embeddings=nothing)) is None
        assert stated_context(Config(max_position_embeddings=nothing, n_positions=7)) == 7
    assert stated_context(T.XLNetConfig()) is None


def test_a_tokenizers_word_counts_only_where_the_model_has_none():
    tokenizer = copy.deepcopy(TOKENIZER)
    bloom, gpt2 = KNOWN["bloom"][0](), KNOWN["gpt2"][0]()
    assert model_limits(bloom, tokenizer).context is None
    tokenizer.model_max_length = 100
    assert model_limits(bloom, tokenizer).context == 100 and model_limits(gpt2, tokenizer).context == 24


def test_what_doesnt_fit_is_refused():
    model = KNOWN["roberta"][0]()
    check_context(model, 22, "max_tokens", "it")
    with pytest.raises(InputError, match="max_tokens is 23, but it can read 22 tokens at once. Give at most 22"):
        check_context(model, 23, "max_tokens", "it")
    check_context(KNOWN["mamba"][0](), 10**6, "max_tokens", "it")


def test_the_vocabulary_is_the_smaller_one_of_embedding_and_head():
    model = made(T.LlamaForCausalLM, T.LlamaConfig(**WIDE | dict(vocab_size=260)))
    check_vocabulary(model, TOKENIZER, "it")
    model.lm_head = torch.nn.Linear(16, 250, bias=False)
    assert model_limits(model).n_vocab == 250
    with pytest.raises(InputError, match="it has 250 embeddings, for the ids 0 to 249"):
        check_vocabulary(model, TOKENIZER, "it")


def test_windows_by_whatever_name():
    assert attention_window(T.MistralConfig(sliding_window=9)) == 9
    assert attention_window(T.MistralConfig(sliding_window=None)) is None
    assert attention_window(T.Qwen2Config(sliding_window=9, use_sliding_window=False)) is None
    assert attention_window(T.Llama4TextConfig(attention_chunk_size=9)) == 9
    assert attention_window(T.RecurrentGemmaConfig(attention_window_size=9)) == 9
    assert attention_window(T.GPTNeoConfig(window_size=9)) == 9
    assert attention_window(T.GPTNeoConfig(attention_types=[[["global"], 24]], window_size=9)) is None
    assert attention_window(T.GPT2Config()) is attention_window(T.LlamaConfig()) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_looking_ahead_is_found_in_any_precision(dtype):
    config = dict(**WIDE, max_position_embeddings=64)
    bert = made(T.BertLMHeadModel, T.BertConfig(**config)).to(dtype)
    with pytest.raises(InputError, match="isn't a causal language model"):
        check_causal(bert, "bert")
    decoder = made(T.BertLMHeadModel, T.BertConfig(**config, is_decoder=True)).to(dtype)
    check_causal(decoder, "decoder", 64)
    assert look_ahead(decoder).n_tokens == 64  # the longest look is kept
    weak = made(T.BertLMHeadModel, T.BertConfig(**config, initializer_range=1e-3)).to(dtype)
    assert look_ahead(weak).ahead  # however little later tokens matter


def test_a_model_that_cant_be_run_is_told():
    model = KNOWN["llama"][0]()
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(3, 16)
    with pytest.raises(InputError, match="broken can't read a text of random tokens .RuntimeError"):
        check_causal(model, "broken")


def test_states_and_weights_that_are_no_numbers_are_refused():
    "Of NaN nothing can be told: neither that a model looks ahead nor that it doesn't."
    config = dict(**WIDE, max_position_embeddings=64)
    for kind, size in ((T.BertLMHeadModel, T.BertConfig), (T.LlamaForCausalLM, T.LlamaConfig)):
        model = made(kind, size(**config))
        model.get_input_embeddings().weight.data *= 1e8
        with pytest.raises(InputError, match="tiny makes states .* NaN or infinite.*torch.float16.*try float32"):
            check_causal(model.half(), "tiny")
    model = made(T.LlamaForCausalLM, T.LlamaConfig(**WIDE | dict(vocab_size=260)))
    check_finite_weights(model, "tiny")
    model.lm_head.weight.data[40, 3] = float("inf")  # a random text may never show it
    with pytest.raises(InputError, match="tiny has weights that are NaN or infinite: lm_head.weight"):
        new_base(model, TOKENIZER, "tiny")
