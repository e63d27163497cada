"""Feature extraction by `read` against scoring each sentence alone, a batch of one."""

import math
import time

import numpy as np
import torch
from scoring import blimp, generated, or_reason, small, smol
from timing import growth, paired, threads

from evonb.alignment.features import ReadConfig, read, tokenize
from evonb.text.passages import split_words
from evonb.training.base import begin_token, new_base

N_SENTENCES = 128


def sentences(n=N_SENTENCES):
    "n sentences and where they come from."
    choices = blimp(n)
    source = "BLiMP" if choices else "generated skills"
    return [(c.context + c.options[0]).strip() for c in choices or generated(n)], source


@torch.inference_mode()
def alone(base, passages):
    "Word surprisal (bits) and hidden states at each word's last token, sentence by sentence."
    bits, states = [], []
    for p, t in zip(passages, tokenize(base.tokenizer, passages), strict=True):
        ids = torch.tensor([[begin_token(base.tokenizer), *t.ids.tolist()]])
        out = base.model(ids, output_hidden_states=True, use_cache=False)
        logp = out.logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]  # (n_tokens,)
        words = torch.zeros(len(p.spans)).index_add_(0, torch.from_numpy(t.word), -logp / math.log(2))
        bits.append(words.numpy())
        states.append(torch.stack([h[0, 1 + t.holder] for h in out.hidden_states]).numpy())
    return np.concatenate(bits), np.concatenate(states, 1)  # (n_words,), (n_layers, n_words, n_features)


def against_alone(opened, pairs, n_threads=1, **config):
    "CPU seconds of one sentence after another over those of `read`, and how far their results are apart."
    base = new_base(*opened, "base", "bench")
    texts, source = sentences()
    passages = [split_words(str(i), t) for i, t in enumerate(texts)]
    ours = lambda: read(base, passages, ReadConfig(**config), show=False)
    with threads(n_threads):
        found, (bits, states) = ours(), alone(base, passages)
        row = paired(lambda: alone(base, passages), ours, pairs, time.process_time, warm=0)
    apart = np.abs(found.surprisal.values - bits).max(), np.abs(found.hidden.values - states).max()
    return row | dict(sentences=len(texts), source=source, words=len(bits), layers=len(states), threads=n_threads,
                      linear=found.attrs["linear"], bits_apart=float(apart[0]), states_apart=float(apart[1]),
                      largest_state=float(np.abs(states).max()))  # fmt: skip


@or_reason
def features_smol(pairs, n=1):
    "Each sentence alone over `read`: surprisal and 31 layers of 128 sentences, SmolLM2-135M, one thread."
    return against_alone(smol(), min(pairs, 5)) | dict(aim="at least 3")


def features_small(pairs, n=1):
    "The same with a GPT of 4 layers, 128 wide."
    return against_alone(small(), pairs) | dict(aim="reported")


def features_growth(pairs=0, n=0):
    "How the time of `read` grows with the sentences, 64 to 512, a GPT of 4 layers, 128 wide."
    base = new_base(*small(), "base", "bench")

    def make(size):
        passages = [split_words(str(i), t) for i, t in enumerate(sentences(64 * size)[0])]
        return lambda: read(base, passages, ReadConfig(), show=False)

    with threads(1):
        return growth(make)


ROWS = dict(features_smol=features_smol, features_small=features_small, features_growth=features_growth)
