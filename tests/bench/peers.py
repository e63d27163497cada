"""Training beside what people would use today for a model of this size, all dense, all in one run: tokens/s.

Each trains 4 layers of width 128 on the same tokens with AdamW and clipped gradients: a loop and a model as nanochat
writes them (queries and keys normed, squared ReLU, capped logits), litgpt's model and loss, and transformers' Trainer
with its own GPT-NeoX. They take turns, so that each ratio is of neighbouring steps.
"""

import importlib.util
import math
import os
import time
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from timing import threads
from torch import nn
from training import config, ids, life, ours, repeated, trained_by_trainer

from evonb.core import Seeds
from evonb.training.gpt import rotary_table, rotate
from evonb.training.lifetime import Windows, lr_factor

SIZE = "medium"


def normed(x):
    "RMSNorm without parameters."
    return F.rms_norm(x, (x.shape[-1],))


class NanoBlock(nn.Module):
    "Attention with normed queries and keys, and a squared ReLU."

    def __init__(self, width, n_head):
        super().__init__()
        linear = lambda n, m: nn.Linear(n, m, bias=False)
        self.n_head = n_head
        self.q, self.k, self.v, self.o = (linear(width, width) for _ in range(4))
        self.up, self.down = linear(width, 4 * width), linear(4 * width, width)

    def forward(self, x, rotary):
        b, t, c = x.shape
        h = normed(x)
        q, k, v = (m(h).view(b, t, self.n_head, c // self.n_head) for m in (self.q, self.k, self.v))
        q, k = (normed(rotate(a, *rotary)) for a in (q, k))
        y = F.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v)), is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.relu(self.up(normed(x))).square())


class Nano(nn.Module):
    "A model as nanochat's, of the sizes of `config`."

    def __init__(self, c):
        super().__init__()
        self.wte, self.head = nn.Embedding(c.vocab_size, c.n_embd), nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.blocks = nn.ModuleList(NanoBlock(c.n_embd, c.n_head) for _ in range(c.n_layer))
        self.table = [t[:, None] for t in rotary_table(torch.arange(c.block_size), c.n_embd // c.n_head)]

    def forward(self, x):
        h, rotary = normed(self.wte(x)), [t[: x.shape[1]] for t in self.table]
        for block in self.blocks:
            h = block(h, rotary)
        return 15 * torch.tanh(self.head(normed(h)).float() / 15)


def by_hand(model, loss_of):
    "A loop around a model: n steps on the tokens that this library reads."
    c = life(SIZE)
    opt = torch.optim.AdamW(model.parameters(), lr=c.lr, betas=c.betas, weight_decay=c.weight_decay, fused=True)
    windows, count = Windows(ids(SIZE), c.context, c.batch_size, Seeds(2).child("order")), iter(range(10**9))

    def step():
        i = next(count)
        x, y = windows.batch(i)
        loss = loss_of(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip)
        opt.param_groups[0]["lr"] = c.lr * lr_factor(i, c)
        opt.step()
        opt.zero_grad(set_to_none=True)
        return loss.item()

    return lambda n: repeated(step, n)()


def nanochat():
    "A loop and a model as nanochat writes them."
    torch.manual_seed(0)
    return by_hand(Nano(config(SIZE)), lambda z, y: F.cross_entropy(z.flatten(0, 1), y.flatten()))


def litgpt():
    "litgpt's model and its loss in chunks; None where it isn't installed."
    if importlib.util.find_spec("litgpt") is None:
        return None
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    torch.manual_seed(0)
    c = config(SIZE)
    model = GPT(Config(n_layer=c.n_layer, n_embd=c.n_embd, n_head=c.n_head, vocab_size=c.vocab_size,
                       padded_vocab_size=c.vocab_size, block_size=c.block_size, bias=False, rotary_percentage=1.0,
                       norm_class_name="RMSNorm", parallel_residual=False, intermediate_size=4 * c.n_embd))  # fmt: skip
    return by_hand(model, lambda z, y: chunked_cross_entropy(z, y))


def trainer():
    "transformers' Trainer with its GPT-NeoX."
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    c = config(SIZE)
    made = GPTNeoXConfig(vocab_size=c.vocab_size, hidden_size=c.n_embd, num_hidden_layers=c.n_layer,
                         num_attention_heads=c.n_head, intermediate_size=4 * c.n_embd, attention_bias=False,
                         max_position_embeddings=c.block_size, rotary_pct=1.0)  # fmt: skip
    return trained_by_trainer(SIZE, None, GPTNeoXForCausalLM(made))


PEERS = dict(nanochat=nanochat, litgpt=litgpt, trainer=trainer)


@cache
def in_turn(pairs, n):
    "CPU seconds of n steps of each, in as many rounds as pairs; each round in another order. With the first losses."
    with threads(1):
        lived = ours(SIZE)[1]
        runs = dict(ours=lambda n: repeated(lived.one_step, n)(), **{k: make() for k, make in PEERS.items()})
        runs = {k: run for k, run in runs.items() if run}
        for run in runs.values():
            run(1)
        took = {k: [] for k in runs}
        for i in range(pairs):
            names = list(runs)[i % len(runs):] + list(runs)[: i % len(runs)]
            for k in names:
                began = time.process_time()
                runs[k](n)
                took[k].append(time.process_time() - began)
    return took


def beside(name):
    "A row: tokens/s of this library over those of a peer."

    def row(pairs, n):
        n = max(3, n // 2)
        took = in_turn(pairs, n)
        if name not in took:
            return dict(skipped=f"{name} isn't installed: pip install {name}", ratio=math.nan, aim="skipped")
        low, mid, high = np.quantile(np.divide(took[name], took["ours"]), [0.25, 0.5, 0.75])
        first, second = (float(np.median(took[k])) for k in ("ours", name))
        tokens = n * life(SIZE).tokens_per_step
        return dict(ratio=float(mid), low=float(low), high=float(high), first_s=first, second_s=second,
                    first_tokens_per_s=tokens / first, second_tokens_per_s=tokens / second, aim="at least 1.3",
                    threads=1, clock="process_time", load=round(os.getloadavg()[0], 1),
                    **dict(why=WHY[name]) if name in WHY else {})  # fmt: skip

    what = dict(nanochat="a plain loop and model as nanochat writes them", litgpt="litgpt's model and chunked loss",
                trainer="transformers' Trainer with its GPT-NeoX")[name]  # fmt: skip
    row.__doc__ = f"Tokens/s over those of {what}; dense, 4 layers of width 128, one thread, all peers in one run."
    return row


WHY = dict(litgpt="both multiply by the same library here, and litgpt's model has few steps between its products, too. "
                  "Products took 68 % of our step (CPU time of each operation of six steps, load 3), so for 1.3 times "
                  "litgpt's speed all else would have to take 40 % less.")  # fmt: skip
ROWS = {f"peers_{name}": beside(name) for name in PEERS}
