"""Merging two rank-16 adapters of SmolLM2-135M's shapes: seconds, and ratios against full matrices and against PEFT.

Each row is a function of the number of pairs that returns a dict, as the rows of run.py do.
"""

import torch
from timing import paired, spread
from torch import nn

from evonb.core import Seeds
from evonb.populations.merges import merge
from evonb.training.adapters import new_config, random_adapter

RANK, LAYERS = 16, 30
WIDTH, KV, MLP = 576, 192, 1536
LAYER = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (KV, WIDTH), "self_attn.v_proj": (KV, WIDTH),
         "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (MLP, WIDTH), "mlp.up_proj": (MLP, WIDTH),
         "mlp.down_proj": (WIDTH, MLP)}  # fmt: skip


def parents(layers):
    "Two adapters of the first layers, 7 modules each, with Gaussian factors."
    shapes = {f"model.layers.{i}.{m}": s for i in range(layers) for m, s in LAYER.items()}
    return [random_adapter(shapes, RANK, Seeds(i)) for i in range(2)]


def ours(adapters):
    "The mean of ΔW, recompressed to rank 16 by QR of the factors and an SVD of the core."
    return merge(adapters, "linear", rank=RANK)


def by_full_svd(adapters):
    "The same through full matrices and their SVD."
    out = {}
    for m in adapters[0].modules:
        U, S, Vh = torch.linalg.svd(sum(a.delta(m) for a in adapters) / 2, full_matrices=False)
        out[m] = U[:, :RANK] * S[:RANK], Vh[:RANK]
    return out


class Modules(nn.Module):
    "Linear modules under the adapters' names, for PEFT to adapt."

    def __init__(self, shapes):
        super().__init__()
        for name, (n_out, n_in) in shapes.items():
            at = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(at, part):
                    at.add_module(part, nn.Module())
                at = getattr(at, part)
            at.add_module(last, nn.Linear(n_in, n_out, bias=False))

    def forward(self, x):
        return x


def peft_model(adapters):
    "A PEFT model that holds both adapters."
    from peft import LoraConfig, get_peft_model

    config = new_config({m: RANK for m in adapters[0].modules})
    make = lambda: LoraConfig(r=RANK, lora_alpha=RANK, target_modules=config["target_modules"])
    model = get_peft_model(Modules({m: adapters[0].shape(m) for m in adapters[0].modules}), make(), "0")
    model.add_adapter("1", make())
    with torch.no_grad():
        for name, a in zip("01", adapters):
            for m in a.modules:
                layer = model.get_submodule(f"base_model.model.{m}")
                layer.lora_A[name].weight.copy_(a.A[m])
                layer.lora_B[name].weight.copy_(a.B[m])
    return model


def by_peft(model):
    "PEFT's own merge by SVD, as it comes; the made adapter is removed for the next time."
    model.add_weighted_adapter(["0", "1"], [0.5, 0.5], "made", combination_type="svd", svd_rank=RANK)
    model.delete_adapter("made")


def merge_seconds(pairs, n=0):
    "Seconds to merge two rank-16 adapters of all 210 modules of SmolLM2-135M to rank 16; the ratio is to 0.5 s."
    adapters = parents(LAYERS)
    ours(adapters)
    low, mid, high = spread(lambda: ours(adapters), pairs)
    return dict(ratio=mid / 0.5, low=low / 0.5, high=high / 0.5, seconds=mid, modules=len(adapters[0].modules),
                aim="at most 1")  # fmt: skip


def merge_against_full_svd(pairs, n=0, layers=2):
    "Time of our merge over that of the full-matrix SVD way, on the 14 modules of two layers."
    adapters = parents(layers)
    full, small = by_full_svd(adapters), ours(adapters)
    for m, (B, A) in full.items():
        error = (small.delta(m) - B @ A).norm() / (B @ A).norm()
        if error > 1e-4:
            raise RuntimeError(f"{m}: the two ways differ by {error:.1e} of the norm, so their times don't compare.")
    found = paired(lambda: ours(adapters), lambda: by_full_svd(adapters), pairs)
    return found | dict(modules=len(full), aim="at most 0.1")


def merge_against_peft(pairs, n=0, layers=1):
    "Time of our merge over that of PEFT's add_weighted_adapter with svd, as it comes, on the 7 modules of one layer."
    adapters = parents(layers)
    model = peft_model(adapters)
    found = paired(lambda: ours(adapters), lambda: by_peft(model), pairs)
    return found | dict(modules=len(adapters[0].modules), aim="at most 0.1")


ROWS = dict(merge_seconds=merge_seconds, merge_against_full_svd=merge_against_full_svd,
            merge_against_peft=merge_against_peft)  # fmt: skip
