"""The engine held to lm-evaluation-harness itself, an extra (`evonb[lm-eval]`): the same models, the same requests."""

import numpy as np
import pytest
import torch
import transformers as T

from evonb.core import Seeds
from evonb.tasks.engine import Engine
from evonb.tasks.skills import neutral_documents, skill_items
from evonb.tasks.tasks import Choice
from evonb.text.tokens import train_tokenizer
from evonb.training.adapters import Adapter
from evonb.training.gpt import GPTConfig, new_gpt

harness = pytest.importorskip("lm_eval", reason="the extra lm-eval isn't installed")

SIZES = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
ENDS = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)


def tokenizer():
    return train_tokenizer(neutral_documents(Seeds(0), 200), 300)


def made(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


MODELS = dict(
    llama=lambda: made(T.LlamaForCausalLM, T.LlamaConfig(**SIZES, **ENDS, max_position_embeddings=128)),
    gpt2=lambda: made(T.GPT2LMHeadModel, T.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128,
                                                      bos_token_id=0, eos_token_id=0)),
    window=lambda: made(T.MistralForCausalLM, T.MistralConfig(**SIZES, **ENDS, max_position_embeddings=128,
                                                              sliding_window=8, num_key_value_heads=2)),
    ours=lambda: new_gpt(GPTConfig(vocab_size=300, n_layer=2, n_head=4, n_embd=32, block_size=128, eos_token_id=0,
                                   initializer_range=0.3), Seeds(0)).eval(),
)  # fmt: skip


def choices():
    "Contexts that end in a space or don't, options that share tokens, an empty context, and lengths beyond a window."
    found = [Choice(i["prompt"].strip(), tuple(f" {o.strip()}" for o in i["options"]), absolute=True)
             for name in ("agreement", "opposite") for i in skill_items(name, Seeds(0), 12)]  # fmt: skip
    found += [Choice("the cat ", ("sees a dog", "sees a house"), absolute=True),
              Choice("the big red house and " * 4, ("sleeps.", "runs"), absolute=True),
              Choice("", ("the cat sleeps.", "the dog sleeps."), absolute=True)]  # fmt: skip
    return found


@pytest.mark.parametrize("name", MODELS)
def test_sums_of_options_are_the_harness_own(name):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    words, model, asked = tokenizer(), MODELS[name](), choices()
    theirs = HFLM(pretrained=model, tokenizer=words, batch_size=4, max_length=128)
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=(c.context, o), idx=0)
                for c in asked for o in c.options]  # fmt: skip
    right = np.array([p for p, _ in theirs.loglikelihood(requests, disable_tqdm=True)])
    engine = Engine(model, words)
    ours = np.concatenate([sums for sums, _ in engine.loglikelihoods([Adapter({}, {}, {}, {})], asked)[0]])
    assert right.shape == ours.shape and np.ptp(right) > 5
    np.testing.assert_allclose(ours, right, atol=1e-4, rtol=0)  # sums over up to some twenty tokens
