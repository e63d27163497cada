"""Training against loops one would write: tokens/s and peak memory, dense and at 25 % density, and how both grow.

The plain loop does what the code of *Model connectomes* does: float masks, gradients and weights multiplied with them
at every step, AdamW over all weights, cross-entropy over all logits. It trains the same weights on the same batches
through plain torch operations. With one thread, CPU seconds are compared, which a busy machine disturbs least.
"""

import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timing import growth, paired, threads

from evonb.connectomes.planning import token_flops
from evonb.core import Seeds
from evonb.training.connectome import Connectome, inherit
from evonb.training.gpt import GPTConfig, new_gpt, rotate
from evonb.training.lifetime import Lifetime, LifetimeConfig, Windows, lr_factor, state_bytes
from evonb.training.linear import fast_products, rms_norm

# name -> layers, width, vocabulary, context, windows a step
SIZES = dict(small=(3, 64, 512, 48, 32), medium=(4, 128, 2048, 64, 64), large=(6, 384, 4096, 128, 16),
             weights=(12, 768, 8192, 64, 2))  # fmt: skip
SIZES |= {f"width {k}": (3, 48 * k, 512, 48, 32) for k in (1, 2, 4, 8)}
STEPS = dict(small=1, medium=1 / 3, large=1 / 6, weights=1 / 6)  # share of the steps asked for, at least one


def config(size):
    "The model of a size: heads of 32, or 64 from width 384 on."
    n_layer, width, vocab, context, _ = SIZES[size]
    return GPTConfig(vocab_size=vocab, n_layer=n_layer, n_head=width // (32 if width < 384 else 64), n_embd=width,
                     block_size=context)  # fmt: skip


def life(size):
    "How it is trained."
    *_, context, batch = SIZES[size]
    return LifetimeConfig(steps=10_000, batch_size=batch, context=context, lr=2e-3, eval_every=10**9,
                          eval_windows=8, checkpoint_every=10**9)  # fmt: skip


def ids(size):
    "Tokens to read."
    return np.random.default_rng(0).integers(0, SIZES[size][2], 300_000).astype(np.uint16)


def quarter(c):
    "A random wiring of 25 % density with random signs."
    rng, model = Seeds(0).child("wiring").torch(), new_gpt(c, Seeds(0))
    signs = {n: (torch.rand(p.shape, generator=rng) < 0.25) * p.detach().sign() for n, p in model.named_parameters()}
    return Connectome({n: s.to(torch.int8) for n, s in signs.items()}, {n: tuple(s.shape) for n, s in signs.items()})


def newborn(size, wiring):
    "The model both train."
    model = new_gpt(config(size), Seeds(1))
    return inherit(model, wiring) if wiring else model


def ours(size, wiring=None, settings=None):
    "A step of this library, and its lifetime."
    lived = Lifetime(newborn(size, wiring), ids(size), ids(size)[-5000:], settings or life(size), Seeds(2), wiring)
    return lived.one_step, lived


def plain_logits(model, x):
    "The forward pass in plain operations."
    trunk = model.transformer
    h, rotary = trunk.wte(x), trunk.rotary(x.shape[1], x.device)
    for block in trunk.h:
        b, t, c = h.shape
        qkv = block.attn.c_attn(rms_norm(h)).view(b, t, 3, block.attn.n_head, -1)
        q, k = rotate(qkv[:, :, :2], *rotary).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, qkv[:, :, 2].transpose(1, 2), is_causal=True)
        h = h + block.attn_scale * block.attn.c_proj(y.transpose(1, 2).reshape(b, t, c))
        h = h + block.mlp.c_proj(F.gelu(block.mlp.c_fc(rms_norm(h))))
    return model.lm_head(rms_norm(h))


def plain(size, wiring=None, fused=None):
    "A step of the plain loop; with what it holds."
    model, c = newborn(size, wiring), life(size)
    masks = {n: (s != 0).float() for n, s in wiring.signs.items()} if wiring else {}
    named = [(p, masks[n]) for n, p in model.named_parameters() if n in masks]
    opt = torch.optim.AdamW(model.parameters(), lr=c.lr, betas=c.betas, weight_decay=c.weight_decay, fused=fused)
    windows, count = Windows(ids(size), c.context, c.batch_size, Seeds(2).child("order")), iter(range(10**9))

    def step():
        i = next(count)
        x, y = windows.batch(i)
        opt.zero_grad()
        loss = F.cross_entropy(plain_logits(model, x).flatten(0, 1), y.flatten())
        loss.backward()
        for p, mask in named:
            p.grad.mul_(mask)
        torch.nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip)
        opt.param_groups[0]["lr"] = c.lr * lr_factor(i, c)
        opt.step()
        with torch.no_grad():
            for p, mask in named:
                p.mul_(mask)
        return loss.item()

    return step, model, opt, masks


def repeated(step, n):
    "Something that takes n steps."

    def run():
        for _ in range(n):
            step()

    return run


def check_same(size, step, lived, other):
    "Speeds of two loops compare only if they compute the same."
    for _ in range(2):
        step()
        if abs(lived.train_loss[-1] - (theirs := other())) > 1e-4:
            raise RuntimeError(f"{size}: the losses are {lived.train_loss[-1]} and {theirs}, so speeds don't compare.")


def tokens_per_s(size, first, second, pairs, n, clock):
    "Ratio of tokens/s, first over second."
    n = max(1, round(n * STEPS[size]))
    row = paired(repeated(second, n), repeated(first, n), pairs, clock)
    tokens = n * life(size).batch_size * life(size).context
    row["first_s"], row["second_s"] = row["second_s"], row["first_s"]
    return row | {f"{k}_tokens_per_s": tokens / row[f"{k}_s"] for k in ("first", "second")}


SAME = (
    "both multiply by torch's own library on this processor, and products are most of a step (the roofline's rows tell "
    "the share); with oneDNN at twice its pace, on the machine of 22 November, it was 1.4 to 2.0."
)


def against(size, sparse, fused=None, n_threads=1, aim="at least 1.3"):
    "A row: tokens/s over those of the plain loop."

    def row(pairs, n):
        with threads(n_threads or torch.get_num_threads()):
            wiring = quarter(config(size)) if sparse else None
            (step, lived), other = ours(size, wiring), plain(size, wiring, fused)[0]
            check_same(size, step, lived, other)
            clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
            return tokens_per_s(size, step, other, pairs, n, clock) | dict(
                aim=aim, threads=torch.get_num_threads(), clock=clock.__name__,
                **dict(why=SAME) if fast_products() == "torch" else {})  # fmt: skip

    n_layer, width, vocab, context, batch = SIZES[size]
    row.__doc__ = (
        f"Tokens/s over those of the plain {'masked ' * sparse}loop{' with a fused AdamW' * bool(fused)}, "
        f"{'at 25 % density' if sparse else 'dense'}, {n_layer} layers of width {width}, vocabulary {vocab:,}, "
        f"{batch} windows of {context}, {'one thread' if n_threads == 1 else 'all threads, by the wall'}."
    )
    return row


def trained_by_trainer(size, wiring, model=None):
    "n steps of transformers' Trainer on a model, ours by default; with a wiring, a callback masks as the plain loop."
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model, c = model or newborn(size, wiring), life(size)
    masks = {n: (s != 0).float() for n, s in wiring.signs.items()} if wiring else {}
    named = [(p, masks[n]) for n, p in model.named_parameters() if n in masks]
    rows = ids(size)[: 2000 * c.context].astype(np.int64).reshape(-1, c.context)

    class Masks(TrainerCallback):
        def on_pre_optimizer_step(self, *args, **kw):
            for p, mask in named:
                p.grad.mul_(mask)

        def on_optimizer_step(self, *args, **kw):
            with torch.no_grad():
                for p, mask in named:
                    p.mul_(mask)

    folder = tempfile.gettempdir() # nothing is saved there

    def run(n):
        args = TrainingArguments(folder, max_steps=n, per_device_train_batch_size=c.batch_size, learning_rate=c.lr,
                                 weight_decay=c.weight_decay, max_grad_norm=c.grad_clip, use_cpu=True, report_to=[],
                                 save_strategy="no", logging_strategy="no", disable_tqdm=True)  # fmt: skip
        data = [dict(input_ids=r, labels=r) for r in torch.from_numpy(rows)]
        Trainer(model, args, train_dataset=data, callbacks=[Masks()]).train()

    return run


def against_trainer(size, sparse):
    "A row: tokens/s over those of the Trainer."

    def row(pairs, n):
        with threads(1):
            wiring, n = quarter(config(size)) if sparse else None, max(4, n)
            step, theirs = ours(size, wiring)[0], trained_by_trainer(size, wiring)
            found = paired(lambda: theirs(n), repeated(step, n), pairs, time.process_time)
        tokens = n * life(size).batch_size * life(size).context
        speeds = dict(first_tokens_per_s=tokens / found["second_s"], second_tokens_per_s=tokens / found["first_s"])
        return found | speeds | dict(first_s=found["second_s"], second_s=found["first_s"], aim="at least 1")

    row.__doc__ = (f"Tokens/s over those of transformers' Trainer on the same model of size {size}, "
                   f"{'at 25 % density, with masks by a callback' if sparse else 'dense'}, one thread; the Trainer has "
                   "this model's fast products too.")  # fmt: skip
    return row


def _status(key):
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


def _settle():
    import ctypes

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def peak(kind, size, n=3):
    "Peak resident bytes over those of the process before, while n steps run."
    torch.set_num_threads(1)
    small = new_gpt(GPTConfig(vocab_size=64, n_layer=1, n_head=1, n_embd=32, block_size=32), Seeds(0))
    small.loss(*[torch.zeros(16, 32, dtype=torch.long)] * 2).backward() # what libraries load at their first use
    torch.optim.AdamW(small.parameters()).step()
    _settle()
    before = _status("VmRSS")
    wiring = quarter(config(size))
    step = (ours if kind == "ours" else plain)(size, wiring)[0]
    if kind == "plain":
        del wiring # masks are enough there; this library's lifetime keeps its connectome
    step()
    _settle()
    Path("/proc/self/clear_refs").write_text("5") # the high-water mark begins anew
    repeated(step, n)()
    return _status("VmHWM") - before


KERNELS = ("oneDNN compiles its kernels at run time: about 6 MB at the first product and 0.6 MB a kernel, 15 to 20 MB "
           "in all, which at this size is half of what training holds. They make the products twice as fast.")


FIXED = ("what both hold whatever the batch is: 6.8 against 8.2 MB with one window of 48 tokens, of 32 and 50 MB with "
         "32. Each further window takes 0.73 against 1.41 MB, 0.52 (one run each; 1, 8, 32 and 64 windows).")


def peak_memory(size, aim="at most 0.6", **more):
    "A row: peak memory over that of the plain masked loop, each in a process of its own."

    def row(pairs, n):
        if not Path("/proc/self/clear_refs").exists():
            return dict(skipped="peak memory is read from /proc, which this system hasn't")
        run = lambda kind: int(subprocess.run([sys.executable, __file__, kind, size], capture_output=True, text=True,
                                              check=True).stdout.split()[-1])  # fmt: skip
        took = [(run("ours"), run("plain")) for _ in range(min(pairs, 5))]
        low, mid, high = np.quantile([a / b for a, b in took], [0.25, 0.5, 0.75])
        first, second = (float(np.median(t)) for t in zip(*took))
        return dict(ratio=float(mid), low=float(low), high=float(high), first_bytes=first, second_bytes=second, aim=aim,
                    **{k: v[fast_products()] for k, v in more.items()})  # fmt: skip

    n_layer, width, vocab, context, batch = SIZES[size]
    row.__doc__ = (f"Peak memory of training at 25 % density over that of the plain masked loop: {n_layer} layers of "
                   f"width {width}, vocabulary {vocab:,}, {batch * context:,} tokens a step; one process each.")
    return row


def training_state(pairs, n):
    "Bytes held at 25 % density over dense weights, AdamW's moments and float masks (gradients not counted there)."
    wiring = quarter(config("medium"))
    (step, lived), (other, model, opt, masks) = ours("medium", wiring), plain("medium", wiring)
    step(), other()
    held = state_bytes(lived.model, lived.optimizers)
    moments = [s[k] for s in opt.state.values() for k in ("exp_avg", "exp_avg_sq")]
    size = lambda ts: sum(t.numel() * t.element_size() for t in ts)
    base = size(model.parameters()) + size(moments) + size(masks.values())
    grads = size(p.grad for p in model.parameters())
    return dict(ratio=sum(held.values()) / base, with_their_gradients=sum(held.values()) / (base + grads), bytes=held,
                baseline_bytes=base, aim="at most 0.6")  # fmt: skip


def masked_step(pairs, n):
    "Time of a step at 25 % density over time of a dense one, both this library's."
    with threads(1):
        n, first, second = max(1, n // 3), ours("medium", quarter(config("medium")))[0], ours("medium")[0]
        return paired(repeated(first, n), repeated(second, n), pairs, time.process_time) | dict(aim="at most 1.03")


def probes(pairs, n):
    "Time of a look of the default probes over that of the steps between two looks, small size, one thread."
    c = LifetimeConfig(**{**vars(life("small")), "probes": ("default",)})
    with threads(1):
        lived = Lifetime(new_gpt(config("small"), Seeds(1)), ids("small"), ids("small")[:20_000], c, Seeds(2))
        lived.one_step()
        return paired(lived.probe, repeated(lived.one_step, c.probe_every), pairs, time.process_time) | dict(
            aim="at most 0.05")  # fmt: skip


def growth_steps(pairs, n):
    "How the time of a lifetime of the small size grows with its steps (1 to 8 times 4), one thread."
    with threads(1):
        return growth(lambda k: repeated(ours("small", quarter(config("small")))[0], 4 * k))


def growth_batch(pairs, n):
    "How the time of a step of the small size grows with its windows (1 to 8 times 16), one thread."
    c = vars(life("small"))
    wiring = quarter(config("small"))
    with threads(1):
        return growth(lambda k: ours("small", wiring, LifetimeConfig(**{**c, "batch_size": 16 * k}))[0])


def growth_width(pairs, n):
    "How the time of a step grows with its FLOPs as the width grows (1 to 8 times 48), 3 layers, one thread."
    with threads(1):
        found = growth(lambda k: ours(f"width {k}", quarter(config(f"width {k}")))[0])
    flops = [token_flops(config(f"width {k}"), SIZES[f"width {k}"][3]) for k in (1, 2, 4, 8)]
    slope = np.polyfit(np.log(flops), np.log(list(found["seconds"].values())), 1)[0]
    return found | dict(ratio=float(slope), flops_per_token=flops)


ROWS = {f"training_{size}_{'quarter' if sparse else 'dense'}": against(size, sparse)
        for size in ("small", "medium", "large") for sparse in (True, False)}  # fmt: skip
ROWS |= dict(
    training_medium_fused=against("medium", True, fused=True),
    training_medium_threads=against("medium", True, n_threads=None),
    training_trainer_dense=against_trainer("medium", False),
    training_trainer_quarter=against_trainer("medium", True),
    training_memory_small=peak_memory("small", why=dict(onednn=KERNELS, torch=FIXED)),
    training_memory_medium=peak_memory("medium"),
    training_memory_weights=peak_memory("weights"), training_state=training_state, masked_step=masked_step,
    training_probes=probes,
    training_growth_steps=growth_steps, training_growth_batch=growth_batch, training_growth_width=growth_width,
)  # fmt: skip

if __name__ == "__main__":
    print(peak(*sys.argv[1:3]))
