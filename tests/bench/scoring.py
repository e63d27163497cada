"""Scoring a population of LoRA individuals: ratios of CPU seconds against PEFT and against fewer of them."""

import copy
import json
import os
import random
import time
from functools import cache, wraps
from pathlib import Path

import numpy as np
import torch
from timing import paired, threads

from evonb.core import Seeds
from evonb.populations.weights import WeightSpace
from evonb.tasks.engine import Engine, encode_choices
from evonb.tasks.tasks import Choice, skill_task
from evonb.text.tokens import train_tokenizer
from evonb.training.adapters import linear_shapes, random_adapter
from evonb.training.gpt import GPTConfig, new_gpt

N_ITEMS, CHUNK = 64, 16
SMOL = "smollm2-135m-instruct"


class Unavailable(Exception):
    "What a row needs isn't on this machine; the message says what."


def blimp(n):
    "n minimal pairs drawn from all paradigms of BLiMP; None without the data."
    root = Path(os.environ.get("EVONB_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    files = sorted((root / "blimp").glob("*.jsonl"))
    if not files:
        return None
    lines = [line for f in files for line in f.read_text(encoding="utf-8").splitlines()]
    rows = map(json.loads, random.Random(0).sample(lines, n))
    return [Choice("", (r["sentence_good"], r["sentence_bad"])) for r in rows]


def generated(n):
    "n items of generated skills, for machines without BLiMP."
    return skill_task(["agreement", "agreement_far"], Seeds(0), n_validation=n, n_test=1).requests("validation")


def items(n=N_ITEMS):
    "The items to score and where they come from."
    real = blimp(n)
    return (real, "BLiMP") if real else (generated(n), "generated skills")


@cache
def small():
    "A GPT of 4 layers, 128 wide, and a tokenizer."
    choices, _ = items(2000)
    tokenizer = train_tokenizer([c.context + o for c in choices for o in c.options], 1024)
    config = GPTConfig(vocab_size=1024, n_layer=4, n_head=4, n_embd=128, block_size=256)
    return new_gpt(config, Seeds(0)).eval().requires_grad_(False), tokenizer


@cache
def smol():
    "SmolLM2-135M-Instruct, or why it can't be had."
    try:
        from evonb.training.base import open_base

        base = open_base(SMOL)
    except (ImportError, OSError, ValueError) as e:
        raise Unavailable(f"{SMOL} can't be opened: {e}") from e
    return base.model, base.tokenizer


def population(model, n, rank):
    "n random individuals that change every linear module but the head."
    shapes = linear_shapes(model)
    return [random_adapter(shapes, rank, Seeds(i), size=0.1) for i in range(n)]


def with_peft(model, adapters, rank):
    "A copy of the model with all individuals as adapters of PEFT."
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(adapters[0].A))
    wrapped = peft.get_peft_model(copy.deepcopy(model), config, "0")
    for i in range(1, len(adapters)):
        wrapped.add_adapter(str(i), config)
    for i, a in enumerate(adapters):
        for m in a.A:
            layer = wrapped.base_model.model.get_submodule(m)
            layer.lora_A[str(i)].weight.data.copy_(a.A[m])
            layer.lora_B[str(i)].weight.data.copy_(a.B[m])
    return wrapped.eval().requires_grad_(False)


@torch.inference_mode()
def one_after_another(wrapped, n, tokenizer, choices):
    "The baseline: set_adapter, then every option in full, in padded batches of CHUNK items."
    encoded, found = encode_choices(tokenizer, choices), []
    for i in range(n):
        wrapped.set_adapter(str(i))
        for k in range(0, len(encoded), CHUNK):
            found += padded_batch(wrapped, [s for e in encoded[k : k + CHUNK] for s in e])
    return np.array(found).reshape(n, -1)


def padded_batch(model, sequences):
    "Log-likelihoods of options, each computed from its beginning."
    longest = max(len(s.ids) for s in sequences)
    ids = torch.tensor([s.ids + (0,) * (longest - len(s.ids)) for s in sequences])
    mask = torch.tensor([[1] * len(s.ids) + [0] * (longest - len(s.ids)) for s in sequences])
    logp = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    logp = logp.gather(-1, ids[:, 1:, None])[..., 0]  # (n_sequences, longest - 1)
    return [float(row[s.start - 1 : len(s.ids) - 1].sum()) for s, row in zip(sequences, logp, strict=True)]


def against_peft(opened, pairs, rank=8, n=10, n_threads=1, n_items=N_ITEMS, **options):
    "CPU seconds of PEFT's set_adapter over those of the engine, and whether both decide alike."
    model, tokenizer = opened
    (choices, source), adapters = items(n_items), population(model, n, rank)
    wrapped, engine = with_peft(model, adapters, rank), Engine(model, tokenizer, **options)

    def ours():
        engine._plans.clear()  # tokenising and packing count, as they do in the baseline
        return engine.loglikelihoods(adapters, choices)

    theirs = lambda: one_after_another(wrapped, n, tokenizer, choices)
    with threads(n_threads):
        sums, expected = ours(), theirs() if pairs > 3 else None
        row = paired(theirs, ours, pairs, time.process_time, warm=0)
    if expected is not None:
        row |= agreement(sums, expected)
    return row | dict(individuals=n, items=len(choices), source=source, rank=rank, threads=n_threads,
                      linear=engine.linear, packing=engine.packing)  # fmt: skip


def agreement(sums, expected):
    "How far margins between two options are apart, and how many decisions differ."
    mine = np.array([[s[0] - s[1] for s, _ in row] for row in sums])  # (n_individuals, n_items)
    theirs = expected[:, ::2] - expected[:, 1::2]
    differ = (mine > 0) != (theirs > 0)
    return dict(margins_apart=float(np.abs(mine - theirs).max()), decisions_differ=int(differ.sum()))


def forty_against_ten(opened, pairs, rank=8, n_threads=1):
    "CPU seconds of 40 individuals over those of 10."
    model, tokenizer = opened
    (choices, source), engine = items(), Engine(model, tokenizer)
    forty = population(model, 40, rank)
    score = lambda adapters: engine.loglikelihoods(adapters, choices)
    with threads(n_threads):
        score(forty[:2])
        row = paired(lambda: score(forty), lambda: score(forty[:10]), pairs, time.process_time, warm=0)
    return row | dict(items=len(choices), source=source, rank=rank, threads=n_threads)


def or_reason(row):
    "A row that says why it is missing instead of failing."

    @wraps(row)
    def run(pairs, n=1):
        try:
            return row(pairs, n)
        except Unavailable as e:
            return dict(ratio=float("nan"), skipped=str(e), aim="skipped")
    return run


def scoring_small(pairs, n=1):
    "PEFT's set_adapter over the engine: 10 individuals x 64 two-option items, GPT of 4 layers, 128 wide, one thread."
    return against_peft(small(), pairs) | dict(aim="at least 3")


def scoring_small_two_threads(pairs, n=1):
    "The same with two threads."
    return against_peft(small(), pairs, n_threads=2) | dict(aim="at least 3")


def scoring_small_torch_linear(pairs, n=1):
    "The same with one thread and PyTorch's own matrix products in the engine, too."
    return against_peft(small(), pairs, linear="torch") | dict(aim="at least 2.6")


NEAR = (
    "products alone, 2.2 TFLOP for 869 tokens each of ten individuals, take 22 of the engine's 31 s at 100 GFLOP/s, "
    "the peak of a core here; PEFT reads 1,357 tokens and what it pads."
)


@or_reason
def scoring_smol(pairs, n=1):
    "PEFT's set_adapter over the engine: 10 individuals x 64 two-option items, SmolLM2-135M, one thread."
    return against_peft(smol(), min(pairs, 5)) | dict(aim="at least 3", why=NEAR)


@or_reason
def scoring_smol_two_threads(pairs, n=1):
    "The same with two threads."
    return against_peft(smol(), min(pairs, 5), n_threads=2) | dict(aim="at least 3")


@or_reason
def scoring_smol_torch_linear(pairs, n=1):
    "The same with one thread and PyTorch's own matrix products in the engine, too."
    return against_peft(smol(), min(pairs, 5), linear="torch") | dict(aim="at least 2.2")


def forty_small(pairs, n=1):
    "40 individuals over 10, GPT of 4 layers, 128 wide."
    return forty_against_ten(small(), pairs) | dict(aim="at most 4.2")


@or_reason
def forty_smol(pairs, n=1):
    "40 individuals over 10, SmolLM2-135M."
    return forty_against_ten(smol(), min(pairs, 5)) | dict(aim="at most 4.2")


@cache
def demo_model():
    "A model as large as the demo's newborns, and its tokenizer."
    from evonb.connectomes.settings import preset
    from evonb.text.corpora import load_corpus

    config, life = preset("demo"), preset("demo").development.lifetime
    corpus = load_corpus(config.corpus.source, n_bytes=200_000)
    tokenizer = train_tokenizer(corpus.documents, config.corpus.vocab_size)
    m = config.model
    made = GPTConfig(vocab_size=len(tokenizer), n_layer=m.n_layer, n_head=m.n_head, n_embd=m.n_embd,
                     block_size=life.context)  # fmt: skip
    return new_gpt(made, Seeds(0)).eval().requires_grad_(False), tokenizer


def blimp_sized():
    "BLiMP, or where its files aren't at hand as many generated pairs of about its length; and which."
    from evonb.development.suites import Suite, open_suite
    from evonb.tasks.grading import Item
    from evonb.text.toy_english import minimal_pairs

    if blimp(1):
        root = Path(os.environ.get("EVONB_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
        return open_suite(f"blimp:{root / 'blimp'}"), "BLiMP"
    rows = [(k, r) for k in range(67) for r in minimal_pairs(120, Seeds(k))[:1000]]
    pairs = [Item("", (r["sentence_good"], r["sentence_bad"]), 0, f"paradigm {k}") for k, r in rows]
    return Suite("generated", tuple(pairs)), "generated pairs"


def examined_blimp(pairs, n=1):
    "Seconds over 60: all 67 paradigms of BLiMP x 1,000 pairs, one model of the demo's size, one thread."
    from evonb.development.scoring import PART, ModelScorer
    from evonb.training.base import new_base

    (suite, source), base = blimp_sized(), new_base(*demo_model(), "demo")
    scorer = ModelScorer(base)
    with threads(1):
        suite.ask(scorer, slice(PART))  # the engine looks at the model once
        wall, cpu = time.perf_counter(), time.process_time()
        for k in range(0, len(suite), PART):
            suite.ask(scorer, slice(k, k + PART))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return dict(ratio=wall / 60, aim="at most 1", first_s=wall, second_s=60, cpu_s=cpu, items=len(suite), source=source,
                threads=1, load=round(os.getloadavg()[0], 1))  # fmt: skip


def weights_around_centre(pairs, n=1):
    "Twenty individuals of all weights (es, rank 1) around one centre, 16 items: one by one over in one pass."
    (model, tokenizer), (choices, source) = small(), items(16)
    space = WeightSpace(model, None, 1)
    centre = space.shift(space.start()[0], [1, 2, 3], [0.01] * 3, space.start()[0], 1)
    around = [space.shift(centre, [i], [s * 0.02], centre, 1) for i in range(10) for s in (1, -1)]
    whole = [space.adapter(g) for g in around]
    alone, auto = Engine(model, tokenizer, "merged"), Engine(model, tokenizer)
    with threads(1):
        one, other = (e.loglikelihoods(whole, choices) for e in (alone, auto))
        row = paired(lambda: alone.loglikelihoods(whole, choices), lambda: auto.loglikelihoods(whole, choices), pairs,
                     time.process_time)  # fmt: skip
    apart = max(float(np.abs(a - b).max()) for x, y in zip(one, other) for (a, _), (b, _) in zip(x, y))
    tokens = sum(map(len, auto.plan(choices)[0]))
    return row | dict(individuals=20, items=16, tokens=tokens, source=source, apart=apart, threads=1, aim="at least 1")


ROWS = {f.__name__: f for f in (scoring_small, scoring_small_two_threads, scoring_small_torch_linear, forty_small,
                                scoring_smol, scoring_smol_two_threads, scoring_smol_torch_linear,
                                forty_smol, examined_blimp, weights_around_centre)}  # fmt: skip
