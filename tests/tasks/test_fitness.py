"""The scoring engine against PEFT and a plain loop; cache, failures, worker processes."""

import gc
import math
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evonb.core import InputError, MachineError, Seeds, Stopped
from evonb.populations.spaces import AdapterSpace, StoredSpace
from evonb.tasks import engine as engine_module
from evonb.tasks.backends import InProcess, Pool
from evonb.tasks.engine import Engine, PackedRow, encode_choices, merged_weight, pack, wanted
from evonb.tasks.fitness import Cache, Fitness
from evonb.tasks.tasks import (
    Choice,
    Grading,
    Item,
    Prompt,
    ScoreError,
    SealedTestError,
    SealedTestWarning,
    Task,
    TaskScore,
    open_test,
)
from evonb.text.tokens import train_tokenizer
from evonb.training.adapters import Adapter, linear_shapes, random_adapter
from evonb.training.base import begin_token
from evonb.training.gpt import GPTConfig, new_gpt
from evonb.training.linear import fast_linear, fast_products, patched

pytestmark = pytest.mark.numerics

WORDS = ("the a cat dog cats dogs sees see sleeps sleep big small red green that who near house tree and runs run to "
         "be or not is are was were of in under over with it").split()  # fmt: skip
BASE = Adapter({}, {}, {}, {})


def sentences(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 9))) + "." for _ in range(n)]


TOKENIZER = train_tokenizer(sentences(300), 300)


def llama(**changes):
    sizes = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=96, initializer_range=0.3, bos_token_id=0,
                 eos_token_id=0)  # fmt: skip
    torch.manual_seed(0)  # transformers draws from the global generator
    return LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval().requires_grad_(False)


def gpt():
    sizes = dict(vocab_size=300, n_layer=2, n_head=4, n_embd=32, block_size=96)
    config = GPTConfig(**sizes, initializer_range=0.3, eos_token_id=0)
    return new_gpt(config, Seeds(0)).eval().requires_grad_(False)


def llama_engine(**options):
    "At the top level, so that worker processes can open it."
    return Engine(llama(), TOKENIZER, **options)


MODELS = dict(llama=llama, gpt=gpt)


def population(model, n=4, head=False):
    "Individuals of different ranks and scales, one with few modules, and the base itself."
    shapes = linear_shapes(model, head=head)
    few = dict(list(shapes.items())[:3])
    made = [random_adapter(few if i == 1 else shapes, 2 + 3 * (i % 2), Seeds(i), size=1.0) for i in range(n)]
    return [*(replace(a, scale={m: 0.5 + 0.25 * i for m in a.A}) for i, a in enumerate(made)), BASE]


def pairs(n, seed=0):
    "Minimal pairs of whole sentences; their beginnings agree by chance only."
    s = sentences(2 * n, seed)
    return [Choice("", (a, b)) for a, b in zip(s[:n], s[n:], strict=True)]


CHOICES = [
    *pairs(12),
    Choice("the cat", (" sleeps", " sleep")),  # one token each, or nearly
    Choice("the cat sees the dog that", (" runs.", " runs", " runs. and", " sleeps")),  # one begins another
    Choice("the dog ", ("sleeps near it", "sleeps near it")),  # equal, and the context ends with a space
    Choice("the dogs", (" run to the house", "ish cats"), absolute=True),
    Choice("", ("it was the big red house near the tree",), absolute=True),
    Choice("the cat sees the dog that", (" was red", " were red", " is")),  # the same context again
]


def token_ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def plain_sums(model, choices):
    "One option at a time through the model's own forward: log-likelihoods of the option's tokens."
    found = []
    for c in choices:
        kept = c.context.rstrip()
        sums, counts = [], []
        for o in c.options:
            whole = token_ids(kept + c.context[len(kept) :] + o)
            n = len(token_ids(kept))
            if not kept:
                whole, n = [begin_token(TOKENIZER), *whole], 1
            logp = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            sums.append(sum(float(logp[j - 1, whole[j]]) for j in range(n, len(whole))))
            counts.append(len(whole) - n)
        found.append((np.array(sums), np.array(counts)))
    return found


def with_peft(model, adapters):
    "The same model under PEFT, and its adapters' names; the base is a disabled adapter."
    import peft

    wrapped = None
    for i, a in enumerate(adapters):
        if not a.A:
            continue
        ranks = {m: a.rank(m) for m in a.A}
        config = peft.LoraConfig(r=1, lora_alpha=1, target_modules=list(a.A), rank_pattern=ranks,
                                 alpha_pattern={m: a.scale[m] * r for m, r in ranks.items()})  # fmt: skip
        if wrapped is None:
            wrapped = peft.get_peft_model(model, config, f"a{i}")
        else:
            wrapped.add_adapter(f"a{i}", config)
        for m in a.A:
            layer = wrapped.base_model.model.get_submodule(m)
            layer.lora_A[f"a{i}"].weight.data.copy_(a.A[m])
            layer.lora_B[f"a{i}"].weight.data.copy_(a.B[m])
    return wrapped.eval()


def each_with_peft(build, adapters, run):
    "What `run(model)` gives under each adapter, through PEFT's set_adapter."
    wrapped, found = with_peft(build(), adapters), []
    for i, a in enumerate(adapters):
        if a.A:
            wrapped.set_adapter(f"a{i}")
            found.append(run(wrapped))
        else:
            with wrapped.disable_adapter():
                found.append(run(wrapped))
    return found


@pytest.fixture(scope="module", params=MODELS)
def reference(request):
    "A model's name, its population and what PEFT and a plain loop give."
    build = MODELS[request.param]
    adapters = population(build())
    return build, adapters, each_with_peft(build, adapters, partial(plain_sums, choices=CHOICES))


def assert_same(found, expected, choices=CHOICES, within=1e-4):
    "Sums alike, up to a constant an item where they aren't absolute; every decision alike."
    for mine, theirs in zip(found, expected, strict=True):
        for c, (sums, counts), (other, n) in zip(choices, mine, theirs, strict=True):
            assert counts.tolist() == n.tolist()
            off = sums - other
            assert np.abs(off if c.absolute else off - off[0]).max() < within
            if len(set(np.round(other, 4))) > 1:
                assert sums.argmax() == other.argmax()


OPTIONS = [
    dict(method="merged"),
    dict(method="batched"),
    dict(method="batched", max_tokens=40),
    dict(method="merged", max_tokens=40, row_tokens=16, head_rows=1),
    dict(method="batched", max_tokens=10_000, row_tokens=96, head_rows=3),
    dict(method="batched", linear="torch"),
    dict(method="merged", linear="torch"),
    dict(method="batched", packing="padded"),
    dict(method="merged", packing="padded"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sums_equal_peft_in_a_plain_loop(reference, options):
    build, adapters, expected = reference
    engine = Engine(build(), TOKENIZER, **options)
    assert engine.packing == options.get("packing", "tree")
    assert_same(engine.loglikelihoods(adapters, CHOICES), expected)


def test_any_memory_gives_the_same_sums():
    adapters = population(llama())
    engines = [llama_engine(max_tokens=n, row_tokens=r) for n, r in ((32, 32), (4096, 64))]
    found = [e.loglikelihoods(adapters, CHOICES) for e in engines]
    for a, b in zip(*found, strict=True):
        for (x, _), (y, _) in zip(a, b, strict=True):
            assert np.abs(x - y).max() < 2e-5


def test_the_same_call_gives_the_same_bits():
    adapters = population(llama())
    a, b = (llama_engine().loglikelihoods(adapters, CHOICES) for _ in range(2))
    assert all(np.array_equal(x[0], y[0]) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


def test_equal_options_tie_exactly():
    for method in ("batched", "merged"):
        found = llama_engine(method=method).loglikelihoods(population(llama()), [CHOICES[14]])
        assert all(sums[0] == sums[1] for ((sums, _),) in found)


def test_an_adapted_head_counts():
    model = llama(tie_word_embeddings=False)
    adapters = population(model, 3, head=True)
    assert "lm_head" in adapters[0].A
    expected = each_with_peft(partial(llama, tie_word_embeddings=False), adapters, partial(plain_sums, choices=CHOICES))
    for method in ("batched", "merged"):
        assert_same(Engine(model, TOKENIZER, method=method).loglikelihoods(adapters, CHOICES), expected)


def test_eager_attention_takes_trees_too():
    model = llama(attn_implementation="eager")
    engine = Engine(model, TOKENIZER)
    assert engine.packing == "tree" and model.config._attn_implementation == "eager"
    assert_same(engine.loglikelihoods([BASE], CHOICES), [plain_sums(llama(), CHOICES)])


def test_gpt2_with_transposed_weights():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=96, initializer_range=0.3)
    model = GPT2LMHeadModel(config).eval()
    adapters = population(model, 3)
    rows = []
    for a in adapters:
        other = GPT2LMHeadModel(config).eval()
        other.load_state_dict(model.state_dict())
        for m in a.A:
            other.get_submodule(m).weight.data += a.delta(m).T
        rows.append(plain_sums(other, CHOICES))
    for method in ("batched", "merged"):
        assert_same(Engine(model, TOKENIZER, method=method).loglikelihoods(adapters, CHOICES), rows)


class Deaf(LlamaForCausalLM):
    "A model that ignores attention masks of its caller's making."

    def __init__(self, config):
        super().__init__(config)
        plain = self.model.forward
        self.model.forward = lambda *a, attention_mask=None, **k: plain(*a, attention_mask=None, **k)


def test_a_model_that_ignores_masks_falls_back_and_says_so():
    torch.manual_seed(0)
    model = Deaf(llama().config).eval()
    engine = Engine(model, TOKENIZER)
    assert engine.packing == "padded" and "differ" in engine.why_padded and "differ" in repr(engine)
    assert_same(engine.loglikelihoods([BASE], CHOICES), [plain_sums(model, CHOICES)])
    with pytest.raises(InputError, match="can't score trees"):
        Engine(model, TOKENIZER, packing="tree")


def test_scoring_leaves_the_model_as_it_was():
    model = llama()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    for method in ("batched", "merged"):
        Engine(model, TOKENIZER, method=method).loglikelihoods(population(model), CHOICES)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_patched_restores_what_was_there_whatever_happens():
    model = llama()
    model.lm_head.forward = mine = model.lm_head.forward
    other = {"lm_head": None, "model.layers.0.mlp.up_proj": None}
    with pytest.raises(RuntimeError, match="inside"), patched(model, other):
        raise RuntimeError("inside")
    assert model.lm_head.forward == mine and "forward" not in model.model.layers[0].mlp.up_proj.__dict__


def test_merged_weight_is_base_plus_delta():
    a = population(llama(), 1)[0]
    name = a.modules[0]
    weight = llama().get_submodule(name).weight
    torch.testing.assert_close(merged_weight(weight, a, name), weight + a.delta(name))
    half = merged_weight(weight.bfloat16(), a, name)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, (weight.bfloat16().float() + a.delta(name)).bfloat16())


def test_onednn_only_where_it_fits():
    assert fast_linear(llama().bfloat16()) == "torch"
    assert fast_linear(llama()) == fast_products()


# Tokens and trees


def test_tokens_as_lm_evaluation_harness_makes_them():
    (joined, spaced, empty) = encode_choices(TOKENIZER, [Choice("the cat", (" sees",)), Choice("the cat ", ("sees",)),
                                                         Choice("", ("the cat",))])  # fmt: skip
    assert joined[0] == spaced[0] and list(joined[0].ids) == token_ids("the cat sees")
    assert joined[0].start == len(token_ids("the cat"))
    assert list(empty[0].ids) == [begin_token(TOKENIZER), *token_ids("the cat")] and empty[0].start == 1


def test_rows_hold_each_shared_beginning_once():
    sequences = encode_choices(TOKENIZER, [Choice("the cat sees", (" the dog.", " the dogs.", " a house."))])
    ids = [s.ids[:-1] for s in sequences[0]]
    row = PackedRow()
    paths = [row.add(i) for i in ids]
    prefixes = {i[:k] for i in ids for k in range(1, len(i) + 1)}
    assert len(row) == len(prefixes) < sum(map(len, ids)) and row.n_new(ids) == 0
    see = row.mask(len(row) + 2)
    for path in paths:
        for node in path:
            assert np.flatnonzero(see[node]).tolist() == sorted(path[: path.index(node) + 1])
    assert see.diagonal().all()  # also where the row is filled up, so that no softmax runs over nothing


def test_no_row_is_longer_than_asked_unless_one_sequence_is():
    encoded = encode_choices(TOKENIZER, pairs(40))
    items = [wanted(s, False, 2 * i) for i, s in enumerate(encoded)]
    longest = max(len(s.ids) - 1 for ss in encoded for s in ss)
    for n in (1, 20, 64):
        rows = pack(items, n)
        assert max(map(len, rows)) <= max(n, longest)
        expected = sorted((w.slot, w.ids[j]) for item in items for w in item for j in range(w.first, len(w.ids)))
        assert sorted((slot, token) for r in rows for _, token, slot, _ in r.queries) == expected


# Generation

PROMPTS = [Prompt("the cat sees", 12, ()), Prompt("a", 7, ()), Prompt("", 5, ()),
           Prompt("the big red dog near the", 12, ())]  # fmt: skip


@pytest.mark.parametrize("method", ["batched", "merged"])
@pytest.mark.parametrize("name", MODELS)
def test_generation_equals_generate_under_each_adapter(name, method):
    build = MODELS[name]
    adapters = population(build(), 2)

    def alone(model):
        texts = []
        for p in PROMPTS:
            ids = torch.tensor([token_ids(p.text) or [begin_token(TOKENIZER)]])
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=p.max_new_tokens,
                                 do_sample=False, pad_token_id=0)  # fmt: skip
            texts.append(TOKENIZER.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
        return texts

    for n in (40, 2048):
        found = Engine(build(), TOKENIZER, method=method, max_tokens=n).generate(adapters, PROMPTS)
        assert found == each_with_peft(build, adapters, alone)
    assert len({t for texts in found for t in texts}) > 4


def test_generation_ends_before_a_stop_string():
    engine, prompt = llama_engine(), PROMPTS[0]
    ((whole,),) = engine.generate([BASE], [prompt])
    stop = whole[3:5]
    assert engine.generate([BASE], [replace(prompt, stop=("\0", stop))]) == [[whole[: whole.index(stop)]]]


@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_whose_answers_are_complete_costs_nothing_more(name):
    build, n_prompts = MODELS[name], 6
    adapters = population(build(), 3)
    engine = Engine(build(), TOKENIZER, max_tokens=2048)
    prompts = [Prompt(f"the cat sees {'the dog ' * k}", 2 + 3 * k, ()) for k in range(n_prompts)]
    rows, forward = [], engine.model.forward

    def counted(**given):
        rows.append(len(given["input_ids"]))
        return forward(**given)

    engine.model.forward = counted
    together = engine.generate(adapters, prompts)
    assert rows[0] == len(adapters) * n_prompts and rows[-1] == len(adapters) and sorted(rows, reverse=True) == rows
    assert sum(rows) < 0.75 * rows[0] * len(rows)
    apart = [t for p in prompts for (t,) in engine.generate(adapters, [p])]
    assert [t for texts in zip(*together, strict=True) for t in texts] == apart


# Errors of the items


def test_items_that_cannot_be_scored_are_named():
    long = Choice("the cat", (" sees the dog" * 60, " runs"))
    with pytest.raises(InputError, match=r"Item 1 .*the model's context is 96"):
        llama_engine().loglikelihoods([BASE], [CHOICES[0], long])
    with pytest.raises(InputError, match=r"Item 0 .*max_tokens is 5"):
        llama_engine(max_tokens=5).loglikelihoods([BASE], CHOICES)
    with pytest.raises(InputError, match=r"Prompt 0 .*context is 96"):
        llama_engine().generate([BASE], [Prompt("a", 200)])
    with pytest.raises(InputError, match="item 0 has no token of its own"):
        llama_engine().loglikelihoods([BASE], [Choice("the cat", ("",))])


def test_an_empty_context_needs_a_begin_token():
    bare = train_tokenizer(sentences(300), 300)
    bare.bos_token = bare.eos_token = None
    with pytest.raises(InputError, match="neither a bos_token nor an eos_token"):
        Engine(llama(), bare).loglikelihoods([BASE], pairs(1))


def test_unknown_choices_name_the_known():
    for options in (dict(method="fast"), dict(packing="box"), dict(linear="mkl"), dict(max_tokens=0)):
        with pytest.raises(InputError, match=str(next(iter(options)))):
            llama_engine(**options)


def test_nothing_to_score_is_nothing():
    assert llama_engine().loglikelihoods([], CHOICES) == []
    assert llama_engine().loglikelihoods([BASE, BASE], []) == [[], []] and llama_engine().generate([BASE], []) == [[]]


# Fitness


def pair_task(n=12, name="pairs", **options):
    items = [Item("", c.options, i % 2) for i, c in enumerate(pairs(2 * n))]
    return Task(name, "pairs", dict(validation=items[:n], test=items[n:]), **options)


def text_task():
    items = [Item(s.partition(" ")[0], (), "dog") for s in sentences(3)]
    return Task("texts", "exact", dict(validation=items), Grading(max_new_tokens=4, stop=()))


def counted(backend):
    "A backend that notes how many individuals it was given."
    backend.seen, plain = [], backend.answers
    backend.answers = lambda adapters, *rest: backend.seen.append(len(adapters)) or plain(adapters, *rest)
    return backend


def test_fitness_is_the_weighted_mean_of_the_tasks():
    tasks, adapters = [pair_task(31), text_task()], population(llama())
    found = Fitness(InProcess(llama_engine()), tasks, weights=dict(pairs=3, texts=1))(adapters)
    expected = llama_engine().loglikelihoods(adapters, tasks[0].requests("validation"))
    for e, outputs in zip(found, expected, strict=True):
        score = tasks[0].grade("validation", outputs)
        assert e.scores["pairs"].mean == score.mean and not e.failed and e.reason == ""
        assert e.value == pytest.approx((3 * score.mean + e.scores["texts"].mean) / 4)
    assert len({e.value for e in found}) > 1


def test_nothing_is_scored_twice(tmp_path):
    adapters, backend = population(llama()), counted(InProcess(llama_engine()))
    fitness = Fitness(backend, [pair_task()], cache=tmp_path)
    first = fitness([*adapters, adapters[0], replace(adapters[1], config={})])
    assert backend.seen == [len(adapters)] and fitness.n_scored == len(adapters)
    assert first[0].value == first[5].value and first[1].value == first[6].value
    again = Fitness(backend, [pair_task()], cache=tmp_path)(adapters)
    assert backend.seen == [len(adapters)] and [e.value for e in again] == [e.value for e in first[:5]]
    for a, b in zip(first, again, strict=False):
        for k in ("credit", "option_scores"):
            assert np.array_equal(getattr(a.scores["pairs"], k), getattr(b.scores["pairs"], k))
    Fitness(backend, [pair_task(), text_task()], cache=tmp_path)(adapters[:2])  # the pairs are known, the texts are not
    assert backend.seen == [5, 2]


def test_nothing_is_stale(tmp_path):
    adapters, model = population(llama(), 1)[:1], llama()
    backend = counted(InProcess(Engine(model, TOKENIZER)))
    task = pair_task()
    score = lambda task=task: Fitness(backend, [task], cache=tmp_path)(adapters)[0].scores[task.name]
    before = score()
    adapters[0].B[adapters[0].modules[0]].data[0, 0] += 1.0  # an individual that moved
    moved = score()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1.0  # the base, behind autograd's back
    other = score()
    assert backend.seen == [1, 1, 1]
    scores = [s.option_scores.tobytes() for s in (before, moved, other)]
    assert len(set(scores)) == 3
    score(pair_task(grading=Grading(normalise="tokens")))
    score(pair_task(n=11))
    assert backend.seen == [1] * 5
    score()
    assert backend.seen == [1] * 5


def test_a_damaged_entry_is_said_and_computed_again(tmp_path):
    adapters, backend = population(llama(), 1)[:1], counted(InProcess(llama_engine()))
    first = Fitness(backend, [pair_task()], cache=tmp_path)(adapters)[0]
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="computed again"):
        again = Fitness(backend, [pair_task()], cache=tmp_path)(adapters)[0]
    assert backend.seen == [1, 1] and again.value == first.value
    Fitness(backend, [pair_task()], cache=tmp_path)(adapters)  # the entry was mended
    assert backend.seen == [1, 1]


def test_scores_survive_the_disk(tmp_path):
    score = TaskScore(0.5, math.nan, 1, np.array([0.5]), np.array([[1.0, np.nan]]), ["a\n", ""], 1)
    Cache(tmp_path).put("abcd", score)
    found = Cache(tmp_path).get("abcd")
    assert (found.mean, found.n, found.texts, found.unparseable) == (0.5, 1, ["a\n", ""], 1) and math.isnan(found.se)
    np.testing.assert_array_equal(found.option_scores, score.option_scores)


def failing_population():
    adapters = population(llama(), 3)
    bad = replace(adapters[0], B={m: b.clone() for m, b in adapters[0].B.items()})
    bad.B[bad.modules[2]][1, 1] = math.nan
    huge = replace(adapters[0], scale=dict.fromkeys(adapters[0].A, 1e30))
    where = "model.nowhere"
    foreign = Adapter({where: torch.ones(1, 3)}, {where: torch.ones(3, 1)}, {where: 1.0}, {})
    return [adapters[0], bad, adapters[1], foreign, huge, adapters[2]]


def test_a_failed_individual_has_a_reason_and_harms_nobody():
    adapters = failing_population()
    for method in ("batched", "merged"):
        make = lambda m=method: Fitness(InProcess(llama_engine(method=m)), [pair_task(), text_task()])
        found, alone = make()(adapters), make()([adapters[i] for i in (0, 2, 5)])
        assert [e.failed for e in found] == [False, True, False, True, True, False]
        assert [found[i].value for i in (0, 2, 5)] == [e.value for e in alone]
        assert "NaN or infinite" in found[1].reason and "lacks the adapter's modules" in found[3].reason
        assert "log-likelihood" in found[4].reason


class Moody(Engine):
    "Raises an error for any group with an individual whose config says so."

    def loglikelihoods(self, adapters, choices):
        for a in adapters:
            if error := a.config.get("raises"):
                raise error
        return super().loglikelihoods(adapters, choices)


def test_the_culprit_of_a_batch_is_found():
    adapters = population(llama(), 3)
    guilty = replace(adapters[1], config=dict(raises=ScoreError("out of numbers")))
    found = Fitness(InProcess(Moody(llama(), TOKENIZER)), [pair_task()])([adapters[0], guilty, adapters[2]])
    assert found[1].reason == "ScoreError: out of numbers" and not found[0].failed and not found[2].failed


MACHINE = (MemoryError("can't allocate memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
           OSError(5, "Input/output error"), torch.OutOfMemoryError("CUDA out of memory"),
           RuntimeError("CUDA error: device-side assert"), TimeoutError("late"))  # fmt: skip


@pytest.mark.parametrize("error", MACHINE, ids=lambda e: type(e).__name__)
def test_a_machines_failure_is_no_individuals_fitness(error):
    "It ends the work by name, and nothing is noted; the same individual is scored once the machine is well again."
    adapters = population(llama(), 3)
    fitness = Fitness(InProcess(Moody(llama(), TOKENIZER)), [pair_task()])
    with pytest.raises(MachineError, match=f"Scoring broke off .{type(error).__name__}.*no individual's.*resume"):
        fitness([adapters[0], replace(adapters[1], config=dict(raises=error)), adapters[2]])
    assert len(fitness.cache) == 0
    assert not any(e.failed for e in fitness(adapters))


def test_memory_that_runs_out_for_a_batch_alone_costs_nothing():
    class Narrow(Engine):
        def loglikelihoods(self, adapters, choices):
            if len(adapters) > 1:
                raise MemoryError("can't allocate memory")
            return super().loglikelihoods(adapters, choices)

    adapters = population(llama(), 3)
    found = Fitness(InProcess(Narrow(llama(), TOKENIZER)), [pair_task()])(adapters)
    alone = [Fitness(InProcess(llama_engine()), [pair_task()])([a])[0].value for a in adapters]
    assert [e.value for e in found] == alone


def test_memory_that_runs_out_once_changes_no_bit():
    "Asked again in company: alone, individuals round otherwise."
    class Once(Engine):
        calls = 0

        def loglikelihoods(self, adapters, choices):
            self.calls += 1
            if self.calls == 1:
                raise MemoryError("can't allocate memory")
            return super().loglikelihoods(adapters, choices)

    adapters = population(llama(), 3)
    found, whole = (Fitness(InProcess(e(llama(), TOKENIZER)), [pair_task()])(adapters) for e in (Once, Engine))
    for a, b in zip(found, whole, strict=True):
        assert a.value == b.value and np.array_equal(a.scores["pairs"].option_scores, b.scores["pairs"].option_scores)


@pytest.mark.parametrize("trial", ["try_head", "states"])
def test_memory_that_runs_out_while_a_model_is_tried_says_nothing_of_it(monkeypatch, trial):
    "Else it would be scored option by option from then on, and round otherwise."
    engine, home = llama_engine(), Engine if trial == "try_head" else engine_module

    def fails(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40 bytes")
    with monkeypatch.context() as patch:
        patch.setattr(home, trial, fails)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            engine.packing_for(8)
    assert engine.packing_for(8) == "tree" and not engine.why_padded


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped("on request")])
def test_stopping_is_not_failing(error):
    guilty = replace(population(llama(), 1)[0], config=dict(raises=error))
    fitness = Fitness(InProcess(Moody(llama(), TOKENIZER)), [pair_task()])
    with pytest.raises(type(error)):
        fitness([BASE, guilty])
    assert len(fitness.cache) == 0


def test_an_item_nobody_can_answer_is_the_tasks_error():
    items = [Item("", (" ".join(["the cat"] * 80), "the dog"), 0)]
    with pytest.raises(InputError, match="context is 96"):
        Fitness(InProcess(llama_engine()), [Task("long", "pairs", dict(validation=items))])([BASE])


def test_the_test_split_is_sealed(tmp_path):
    backend, task = InProcess(llama_engine()), pair_task()
    with pytest.raises(SealedTestError):
        Fitness(backend, [task], split="test")
    opened = open_test(task, tmp_path / "sealed.jsonl", "an individual")
    (e,) = Fitness(backend, [opened], split="test")([BASE])
    assert e.scores["pairs"].n == 12 and (tmp_path / "sealed.jsonl").read_text().count("\n") == 1
    with pytest.warns(SealedTestWarning):
        open_test(task, tmp_path / "sealed.jsonl", "another")


def test_weights_and_tasks_are_checked():
    backend = InProcess(llama_engine())
    for tasks, weights, said in (([], None, "at least one"), ([pair_task()] * 2, None, "no two of a name"),
                                 ([pair_task()], dict(pear=1), "weights are for"),
                                 ([pair_task()], dict(pairs=0), "not all 0"),
                                 ([pair_task()], dict(pairs=math.nan), "finite")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            Fitness(backend, tasks, weights=weights)


# Worker processes


class Fragile(Engine):
    "Dies or hangs where an individual's config says so."

    def loglikelihoods(self, adapters, choices):
        for a in adapters:
            if "die" in a.config:
                with Path(a.config["die"]).open("a") as f:
                    f.write("x")
                os._exit(3)
            if "hang" in a.config:
                time.sleep(600)
        return super().loglikelihoods(adapters, choices)


def fragile_engine():
    return Fragile(llama(), TOKENIZER)


@pytest.fixture(scope="module")
def pool():
    with Pool(fragile_engine, n_workers=2, timeout=2.0, n_threads=1) as p:
        yield p


def test_a_pool_gives_what_one_process_gives(pool):
    adapters, tasks = failing_population(), [pair_task(), text_task()]
    assert pool.digest() == InProcess(llama_engine()).digest()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        mine = Fitness(InProcess(llama_engine()), tasks)(adapters)
    finally:
        torch.set_num_threads(threads)
    theirs = Fitness(pool, tasks)(adapters)
    for a, b in zip(mine, theirs, strict=True):
        assert a.reason == b.reason
        if not a.failed:
            assert a.value == b.value and a.scores["texts"].texts == b.scores["texts"].texts
            np.testing.assert_allclose(a.scores["pairs"].option_scores, b.scores["pairs"].option_scores, atol=1e-5)


@pytest.mark.parametrize("config, says", [("die", "its worker process died"), ("hang", "it took longer than 2 s")])
def test_a_worker_that_dies_or_hangs_is_no_individuals_failure(pool, tmp_path, config, says):
    "Its batch's members are tried one by one; what is lost again ends the work, and the pool goes on to serve."
    adapters = population(llama(), 3)[:3]
    adapters[1] = replace(adapters[1], config={config: str(tmp_path / "deaths")})
    with pytest.raises(MachineError, match=f"Scoring broke off .{says}"):
        Fitness(pool, [pair_task()])(adapters)
    if config == "die":
        assert (tmp_path / "deaths").read_text() == "xxx"  # in company, alone, and once more
    assert not Fitness(pool, [pair_task()])([adapters[0]])[0].failed


def test_a_pool_says_what_it_cannot_do(pool):
    with pytest.raises(InputError, match="can't be sent"):
        Pool(lambda: None)
    with pytest.raises(InputError, match="couldn't open the base: InputError: method is 'fast'"):
        Pool(partial(llama_engine, method="fast"), n_workers=1).digest()
    with pytest.raises(InputError, match="timeout is 0"):
        Pool(llama_engine, timeout=0)
    items = [Item("", (" ".join(["the cat"] * 80), "the dog"), 0)]
    with pytest.raises(InputError, match="context is 96"):
        Fitness(pool, [Task("long", "pairs", dict(validation=items))])([BASE])
    with pytest.raises(InputError, match="n_threads is 0"):
        Pool(llama_engine, n_threads=0)


def test_workers_that_died_while_idle_are_replaced(pool):
    "All of them, and no individual is blamed."
    score = lambda: [e.value for e in Fitness(pool, [pair_task()])(population(llama(), 2)[:2])]
    before = score()
    assert len(pool.open()._workers) == 2
    for process, _ in pool._workers:
        process.kill()
        process.join()
    assert score() == before


def test_what_a_new_worker_says_is_heard_while_another_is_at_work(pool, monkeypatch):
    pool.open()._end(pool._workers[1])
    monkeypatch.setattr(pool, "open_engine", partial(llama_engine, method="fast"))
    with pytest.raises(InputError, match="couldn't open the base: InputError: method is 'fast'"):
        pool.answers(population(llama(), 2)[:2], CHOICES[:1], [])
    assert not pool._workers


def test_individuals_are_adapters():
    fitness = Fitness(InProcess(llama_engine()), [pair_task()])
    with pytest.raises(InputError, match=r"Give \[adapter\]"):
        fitness(BASE)
    with pytest.raises(InputError, match="An individual is ndarray, but must be an Adapter"):
        fitness([np.zeros((1, 2))])


def test_a_plan_is_made_anew_for_other_bounds():
    engine = llama_engine(max_tokens=2048)
    wide, _ = engine.plan(CHOICES)
    engine.row_tokens = max(map(len, wide)) // 2
    assert len(engine.plan(CHOICES)[0]) > len(wide)


# memory


def alive():
    "Adapters in memory."
    gc.collect()
    return sum(type(o) is Adapter for o in gc.get_objects())


def stored_people(folder, n=24):
    model = llama()
    experts = {k: random_adapter(linear_shapes(model), 2, Seeds(i)) for i, k in enumerate("ab")}
    space, rng = AdapterSpace(experts), np.random.default_rng(0)
    stored = StoredSpace(space, folder, held_bytes=2 * experts["a"].nbytes)
    whole = [space.perturb(experts["a"], 0.5, 1.0, rng) for _ in range(n)]
    rng = np.random.default_rng(0)
    return whole, [stored.perturb(experts["a"], 0.5, 1.0, rng) for _ in range(n)]


class Counting(Engine):
    "Notes how many adapters are in memory while it scores."

    def loglikelihoods(self, adapters, choices):
        self.most = max(getattr(self, "most", 0), alive())
        return super().loglikelihoods(adapters, choices)


def test_only_individuals_being_scored_are_in_memory(tmp_path):
    whole, stored = stored_people(tmp_path)
    room, most, values = 3 * whole[0].nbytes, [], []
    for people in (whole, stored):
        if people is stored:
            whole.clear()
        before = alive() - len(whole)
        engine = Counting(llama(), TOKENIZER, method="merged")
        found = Fitness(InProcess(engine), [pair_task()], held_bytes=room)(people)
        values.append([e.value for e in found])
        most.append(engine.most - before)
    assert most[0] >= 24 and most[1] <= 3 + 2 + 1  # all; a batch, what the space holds, and the next one
    assert values[0] == values[1]


def test_a_kill_loses_at_most_one_batch(tmp_path):
    whole, stored = stored_people(tmp_path / "genomes", 10)
    room = 4 * whole[0].nbytes
    full = [e.value for e in Fitness(InProcess(llama_engine()), [pair_task()], held_bytes=room)(whole)]

    backend, plain = InProcess(llama_engine()), InProcess.answers
    calls = []

    def dies(adapters, *rest):
        calls.append(len(adapters))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(backend, adapters, *rest)

    backend.answers = dies
    with pytest.raises(KeyboardInterrupt):
        Fitness(backend, [pair_task()], cache=tmp_path / "cache", held_bytes=room)(whole)
    again = Fitness(InProcess(llama_engine()), [pair_task()], cache=tmp_path / "cache", held_bytes=room)
    assert [e.value for e in again(whole)] == full
    assert calls == [4, 4, 2] and again.n_scored == 2


def test_a_cache_with_a_folder_holds_few_scores_and_finds_all(tmp_path):
    cache = Cache(tmp_path, held=3)
    for i in range(10):
        cache.put(f"{i:064d}", TaskScore(i / 10, 0.1, 1, np.array([i / 10])))
    assert len(cache) == 3
    assert [cache.get(f"{i:064d}").mean for i in range(10)] == [i / 10 for i in range(10)] and len(cache) == 3


def test_a_tensor_that_begins_anywhere_in_its_memory_has_a_digest():
    engine, whole = llama_engine(), torch.arange(9.0)
    engine.model.register_buffer("part", whole[1:])
    before = engine.digest()
    whole[8] = 0.0
    assert engine.digest() != before


def test_the_base_is_hashed_again_only_when_it_changed(monkeypatch):
    engine, hashed, place = llama_engine(), [], Engine.digest.__globals__  # the engine's own module
    plain = place["tensors_digest"]
    monkeypatch.setitem(place, "tensors_digest", lambda *about: hashed.append(1) or plain(*about))
    fitness = Fitness(InProcess(engine), [pair_task()])
    fitness([BASE])
    fitness(population(llama(), 1))
    assert len(hashed) == 1
    weight = engine.model.model.layers[0].mlp.up_proj.weight
    digests = {engine.digest()}
    data = weight.data  # writes to it are not counted by PyTorch
    for change in (lambda: data[0, 0].add_(1e-6), lambda: data.copy_(data.flip(0)), lambda: data.copy_(data.flip(1)),
                   lambda: data[0, :2].copy_(data[0, :2].flip(0).clone()), lambda: data[1, 1].neg_()):  # fmt: skip
        change()
        digests.add(engine.digest())
    with torch.no_grad():
        weight.add_(0)  # counted, and nothing changed: the digest is the same
    assert engine.digest() in digests and len(digests) == 6 and len(hashed) == 7
    engine.model.config.rope_parameters = dict(engine.model.config.rope_parameters or {}, rope_theta=5.0)
    assert engine.digest() not in digests
