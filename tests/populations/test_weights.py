"""Whole models as integers: the same bits again, one model in memory, scored as the model would be."""

import copy

import numpy as np
import pytest
import torch

from evonb.core import InputError, Seeds
from evonb.evolution.method import METHODS, Outcome
from evonb.evolution.noise import noise
from evonb.evolution.operators import diversity
from evonb.evolution.search import evolve
from evonb.populations import weights as weights_module
from evonb.populations.weights import NoisedWeights, WeightSpace
from evonb.tasks.backends import Backend, InProcess
from evonb.tasks.engine import Engine
from evonb.tasks.fitness import Fitness
from evonb.tasks.tasks import Choice, Prompt
from evonb.training.adapters import linear_shapes, random_adapter
from evonb.training.base import open_base
from evonb.training.gpt import GPTConfig, new_gpt
from evonb.training.limits import rounding
from evonb.training.weights import (
    check_room,
    low_rank_places,
    vector_places,
    weight_shapes,
    weights_in,
    weights_room,
)

pytestmark = pytest.mark.numerics


def model(seed=0, dtype=torch.float32, **changes):
    size = dict(vocab_size=50, n_layer=1, n_head=2, n_embd=8, block_size=32) | changes
    return new_gpt(GPTConfig(**size), Seeds(seed)).to(dtype)


def founders(base, n=2):
    return {f"e{i}": random_adapter(linear_shapes(base), 2, Seeds(i)) for i in range(n)}


def walked(space, n=6, rank=1, decay=0.1):
    "A genome some steps from the founders' sum, drawn back each time."
    begin = space.combine(space.start(), np.ones(len(space.names)))
    g = begin
    for i in range(n):
        g = space.shift(g, [2 * i, 2 * i + 1], [0.1, -0.05], begin, rank, decay)
    return begin, g


def same(a, b, genome):
    return all(torch.equal(a.tensor(genome, n), b.tensor(genome, n)) for n in a.shapes)


@pytest.mark.parametrize("rank", [None, 2])
def test_integers_give_the_same_bits_with_and_without_what_was_summed_before(rank):
    base = model()
    space, threads = WeightSpace(base, founders(base), rank), torch.get_num_threads()
    _, g = walked(space, rank=rank)
    near = [space.shift(g, [100 + i], [0.1], g, rank) for i in range(3)]
    first = [{n: space.tensor(x, n).clone() for n in space.shapes} for x in (g, *near)]
    fresh = WeightSpace(base, founders(base), rank)
    try:
        torch.set_num_threads(2)
        for x, tensors in reversed(list(zip((g, *near), first))):  # in another order
            stored = fresh.unpack(fresh.pack(x))
            assert fresh.digest(stored) == space.digest(x)
            assert all(torch.equal(fresh.tensor(stored, n), t) for n, t in tensors.items())
    finally:
        torch.set_num_threads(threads)


def test_a_centre_that_was_drawn_back_is_a_plain_sum():
    base = model()
    space = WeightSpace(base, founders(base))
    begin, g = walked(space, 5, 1, 0.25)
    for k, (name, shape) in enumerate(space.shapes.items()):
        own, unit = base.get_parameter(name).detach().double().numpy(), space.units[name]
        start = own.copy()
        if name.removesuffix(".weight") in space.experts["e0"].A:
            start += sum(a.delta(name.removesuffix(".weight")).double().numpy() for a in space.experts.values())
        x = start.copy()
        for i in range(5):
            one, two = (noise(shape, [2 * i + j, k], 1, np.float32).astype(float) for j in (0, 1))
            step = 0.1 * one - 0.05 * two
            x = x - 0.25 * (x - start) + unit * step
        assert np.allclose(space.tensor(g, name).numpy(), x, atol=1e-6), name
    assert g.scale == pytest.approx(0.75**5) and len(g.steps) == 10
    _, tired = walked(space, 60, 1, 0.5)  # scales that would vanish are written into the steps
    assert weights_module.SMALLEST_SCALE < tired.scale <= 1
    assert all(np.isfinite(space.change(tired, n)).all() for n in space.shapes)


def test_a_search_keeps_one_sum_and_stores_integers(tmp_path):
    space = WeightSpace(model(n_embd=16), rank=1)
    n_weights = sum(int(np.prod(s)) for s in space.shapes.values())

    def run(folder, n):
        score = lambda genomes: [Outcome(-space.length(g)) for g in genomes]
        evolve(METHODS["es"](space, dict(population_size=n, rank=1), Seeds(0)), score, 2 * (n + 1), folder, show=False)
        return sum(p.stat().st_size for p in folder.glob("*.safetensors"))

    few, many = run(tmp_path / "few", 4), run(tmp_path / "many", 20)
    assert sum(x.nbytes for x in space._held[1].values()) == 4 * n_weights  # what is kept, however many there are
    assert max(few, many) < 4 * n_weights / 2  # a state is shorter than one model, though this one is tiny
    assert not any(isinstance(v, torch.Tensor | np.ndarray) for v in vars(walked(space)[1]).values())


@pytest.mark.parametrize("rank", [None, 1])
def test_the_cosine_with_the_known_gradient_grows_with_the_population(rank):
    base = torch.nn.Linear(6, 5)
    space = WeightSpace(base, rank=rank)
    gradient = {n: torch.randn(s, generator=Seeds(1).torch()) for n, s in space.shapes.items()}
    value = lambda g: sum(float((space.tensor(g, n) * t).sum()) for n, t in gradient.items())
    score = lambda genomes: [Outcome(value(g)) for g in genomes]
    wanted = np.concatenate([space.units[n] ** 2 * t.numpy().ravel() for n, t in gradient.items()])  # in steps' units

    def cosine(n, seed):
        es = METHODS["es"](space, dict(population_size=n, sigma=0.05, decay=0.0, rank=rank), Seeds(seed))
        es.tell(score([g for g, _ in es.ask()]))
        step = np.concatenate([space.change(es.centre.genome, n).ravel() for n in space.shapes])
        return step @ wanted / np.linalg.norm(step) / np.linalg.norm(wanted)

    found = [np.mean([cosine(n, s) for s in range(6)]) for n in (2, 8, 32, 128)]
    assert (np.diff(found) > 0.05).all() and found[-1] > 0.75


def test_distances_are_those_of_the_weights_and_roughly_what_noises_are_apart():
    base = model(n_embd=16)
    space = WeightSpace(base, founders(base))
    begin, g = walked(space, 4, None)
    by_hand = sum(float((space.tensor(g, n) - space.tensor(begin, n)).double().square().sum()) for n in space.shapes)
    assert space.distance(g, begin) == pytest.approx(by_hand**0.5, rel=1e-4) == space.distance(begin, g)
    assert space.rough_distance(g, begin) == pytest.approx(by_hand**0.5, rel=0.05)
    assert space.distance(g, g) == 0 == space.rough_distance(g, g)
    a, b = space.start()
    assert space.rough_distance(a, b) == pytest.approx(space.distance(a, b), rel=1e-5)  # founders have no noise
    assert space.similarity(a, a) == pytest.approx(1) and diversity(space, [a, b]) == space.rough_distance(a, b)


# scoring

@pytest.fixture(scope="module")
def tokenizer():
    from evonb.text.tokens import train_tokenizer

    return train_tokenizer(["a b ab ba aab bba " * 4], 260)


def test_an_individual_is_scored_as_the_model_with_its_weights(tokenizer):
    base = model(vocab_size=len(tokenizer)).eval()
    space = WeightSpace(base, founders(base), 1)
    _, g = walked(space)
    other = space.shift(g, [5], [0.3], g, 1)
    choices = [Choice("a b", (" ab", " ba")), Choice("b", (" a", " b"))]
    prompts = [Prompt("a b", max_new_tokens=3)]
    for method in ("batched", "merged"):
        engine = Engine(base, tokenizer, method=method)
        before = engine.digest()
        mixed = [space.experts["e0"], space.adapter(g), space.experts["e1"], space.experts["e0"], space.adapter(other)]
        told, texts = engine.loglikelihoods(mixed, choices), engine.generate(mixed, prompts)
        for i, genome in ((1, g), (4, other)):
            twin = copy.deepcopy(base)
            with torch.no_grad():
                for n, p in twin.named_parameters():
                    p.copy_(space.tensor(genome, n))
            alone = Engine(twin, tokenizer, method=method)
            nobody = [random_adapter({}, 1, Seeds(0))]
            for mine, theirs in zip(told[i], alone.loglikelihoods(nobody, choices)[0]):
                assert np.allclose(mine[0], theirs[0], rtol=1e-6)
            assert texts[i] == alone.generate(nobody, prompts)[0]
        lonely = engine.loglikelihoods([space.experts["e1"]], choices)[0]
        assert all(np.allclose(a[0], b[0], rtol=1e-5) for a, b in zip(told[2], lonely))
        assert engine.digest() == before  # the base is what it was


def test_tied_weights_change_together_and_come_back_after_a_failure():
    base = torch.nn.Module()
    base.a, base.b = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4, bias=False)
    base.b.weight = base.a.weight
    space = WeightSpace(base)
    assert list(space.shapes) == ["a.weight"]
    g, own = space.shift(space.start()[0], [1], [0.5], space.start()[0]), base.a.weight.detach().clone()
    with pytest.raises(KeyError), weights_in(base, space.adapter(g)):
        assert torch.equal(base.b.weight, space.tensor(g, "a.weight")) and not torch.equal(base.b.weight, own)
        raise KeyError
    assert torch.equal(base.a.weight, own) and base.a.weight is base.b.weight
    far = NoisedWeights((1.0,), ((1, 0, 1e38), (2, 0, 1e38), (3, 0, 3e38)))
    with pytest.raises(InputError, match="NaN or infinite in a.weight"), weights_in(base, space.adapter(far)):
        pass
    assert torch.equal(base.a.weight, own)


def test_an_individual_without_numbers_fails_alone(tokenizer):
    from evonb.tasks.tasks import skill_task

    base = model(vocab_size=len(tokenizer), block_size=64).eval()
    space = WeightSpace(base)
    sound, far = space.start()[0], NoisedWeights((1.0,), ((1, 0, 1e38), (2, 0, 3e38)))
    fitness = Fitness(InProcess(Engine(base, tokenizer)), [skill_task(["agreement"], Seeds(0), 4, 4)])
    good, bad = fitness([space.adapter(sound), space.adapter(far)])
    assert not good.failed and bad.failed and "NaN or infinite" in bad.reason
    with pytest.raises(InputError, match="which Elsewhere can't be sent"):
        Elsewhere().score([space.adapter(sound)], [], "validation")


class Elsewhere(Backend):
    "A backend that sends individuals away."


# what can't be searched


def test_steps_that_rounding_takes_are_refused():
    for dtype, sigma, fits in ((torch.bfloat16, 1e-6, 0.05), (torch.float16, 1e-7, 0.01), (torch.float32, 1e-9, 1e-4)):
        space = WeightSpace(model(dtype=dtype))
        (begin,) = space.start()
        with pytest.raises(InputError, match=f"sigma is {sigma:g}, but in {str(dtype)[6:]} such a step changes"):
            METHODS["es"](space, dict(sigma=sigma)).ask()
        near = space.shift(begin, [1], [fits], begin)
        assert space.tensor(near, "lm_head.weight").dtype == dtype and space.distance(near, begin) > 0
    with pytest.raises(InputError, match="sigma of 'es' is 0.0"):
        METHODS["es"](space, dict(sigma=0.0))


def test_what_no_search_can_change_or_hold_is_refused(monkeypatch, tmp_path):
    packed = torch.nn.Linear(4, 4)
    packed.weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="The toy is quantised: weight holds torch.int8"):
        WeightSpace(packed, name="The toy")
    awq = torch.nn.Linear(4, 4)
    awq.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))
    with pytest.raises(InputError, match="quantised: qweight"):
        weight_shapes(awq)
    base = model()
    monkeypatch.setattr("evonb.training.weights.free_memory", lambda: weights_room(base) - 1)
    with pytest.raises(InputError, match=r"weights \(.*B\), and an individual of all of them takes .* but .* are free"):
        WeightSpace(base)
    check_room(base, "A base", weights_room(base))
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="quantised model \\(GGUF\\)"):
        open_base(tmp_path / "small.gguf", "cpu")


def test_ranks_merges_and_methods_that_the_space_lacks_are_named():
    base = model()
    space = WeightSpace(base, founders(base))
    with pytest.raises(InputError, match="rank is 9, but .* is 50 x 8, so its rank is at most 8"):
        WeightSpace(base, rank=9)
    with pytest.raises(InputError, match="rank is 9"):
        METHODS["es"](space, dict(rank=9))
    for name in ("ties", "dare_linear", "split_points"):
        with pytest.raises(InputError, match="looks at single weights"):
            space.merge(space.start(), name=name, generator=Seeds(0).torch())
    for name in ("genome", "genome+", "niches", "map-elites", "model-swarms", "pareto-bred"):
        with pytest.raises(InputError, match=f"'{name.replace('+', '[+]')}' crosses founders, but the space has 1"):
            METHODS[name](WeightSpace(base))
    with pytest.raises(InputError, match="shares of 1 founders, but there are 2: e0, e1"):
        space.check(NoisedWeights((1.0,)))
    with pytest.raises(InputError, match="NaN or infinite"):
        space.adapter(NoisedWeights((1.0, 1.0), ((1, 0, np.nan),)))
    with pytest.raises(InputError, match="is of type ndarray"):
        space.digest(np.ones(2))
    assert WeightSpace(base).digest(WeightSpace(base).start()[0]) != WeightSpace(model(1)).digest(NoisedWeights((1.0,)))


@pytest.mark.parametrize("tied", [False, True])
def test_individuals_around_one_centre_are_scored_together_as_one_by_one(tied, tokenizer):
    base = model(vocab_size=len(tokenizer), n_embd=16, n_layer=2, initializer_range=0.3)
    if tied:
        base.lm_head.weight = base.transformer.wte.weight
    space = WeightSpace(base, founders(base), 2)
    begin, g = walked(space, rank=2)
    drawn_back = space.shift(g, [70, 71], [0.02, 0.03], begin, 2, 0.3)
    genomes = [g, *(space.shift(p, [90 + i], [s * 0.3], begin, 2) for p in (g, drawn_back) for i in range(2)
                    for s in (1, -1)), space.shift(g, [99], [0.1], begin, None)]  # fmt: skip
    whole = [space.adapter(x) for x in genomes]
    assert [x.centre is not None for x in whole] == [True] * 9 + [False]
    choices = [Choice("the cat", (" sees", " see"), True), Choice("", ("the dog", "a dog")), Choice("a", (" x", " y"))]
    prompts, alone, together = [Prompt("the", 4), Prompt("a dog", 3)], [], []
    for found, method in ((alone, "merged"), (together, "batched")):
        engine, groups = Engine(base, tokenizer, method=method), []
        real = engine.groups
        engine.groups = lambda *a, real=real, groups=groups: (groups.append(s) or s for s in real(*a))
        found += [engine.loglikelihoods(whole, choices), engine.generate(whole, prompts)]
        sizes = [s.stop - s.start for s in groups[: len(groups) // 2]]
        assert sizes == ([1] * 10 if method == "merged" else [1, 4, 4, 1])
    for one, other in zip(alone[0], together[0], strict=True):
        for (a, n), (b, m) in zip(one, other, strict=True):
            assert np.abs(a - b).max() < 1e-5 and (n == m).all()
    assert alone[1] == together[1] and np.ptp([x[0][0][0] for x in alone[0]]) > 1e-2
    assert torch.equal(base.lm_head.weight, space.weights[next(reversed(space.weights))]) or tied  # all is put back


def llama(tokenizer, **changes):
    "A model of SmolLM2's kind, whose norms have weights; the biases of its attention aren't zero."
    from transformers import LlamaConfig, LlamaForCausalLM

    size = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.3,
                                        attention_bias=True, **size | changes)).eval()  # fmt: skip
    for p in made.parameters():
        if p.dim() == 1:
            torch.nn.init.uniform_(p, 0.5, 1.5)
    return made


def siblings(space, n=4, rank=2, sigma=0.2):
    "Steps from one place, as `es` takes them."
    begin, g = walked(space, 3, rank)
    return [space.shift(g, [90 + i], [s * sigma], begin, rank) for i in range(n // 2) for s in (1, -1)]


@pytest.mark.parametrize("packing", ["tree", "padded"])
@pytest.mark.parametrize("tied", [True, False])
def test_norms_and_biases_are_each_individuals_own_in_one_pass(tied, packing, tokenizer):
    base = llama(tokenizer, tie_word_embeddings=tied)
    space = WeightSpace(base, founders(base), 2)
    whole = [space.adapter(g) for g in siblings(space)]
    assert set(space.places) | set(space.vectors) == set(space.shapes) and len(space.vectors) > 5
    choices = [Choice("the cat", (" sees", " see"), True), Choice("", ("the dog", "a dog")), Choice("a", (" x", " y"))]
    prompts, alone, together = [Prompt("the", 4), Prompt("a dog", 3)], [], []
    for found, method in ((alone, "merged"), (together, "batched")):
        engine = Engine(base, tokenizer, method=method, packing=packing)
        found += [engine.loglikelihoods(whole, choices), engine.generate(whole, prompts)]
    for one, other in zip(alone[0], together[0], strict=True):
        assert all(np.abs(a - b).max() < 1e-4 for (a, _), (b, _) in zip(one, other, strict=True))
    assert alone[1] == together[1] and np.ptp([x[0][0][0] for x in alone[0]]) > 1e-2
    engine.forwards = lambda group, method, vectors=(), real=engine.forwards: real(group, method)  # without their own
    without = engine.loglikelihoods(whole, choices)
    assert max(np.abs(a[0][0] - b[0][0]).max() for a, b in zip(alone[0], without)) > 1e-2


def test_in_bf16_one_pass_differs_by_no_more_than_rounding(tokenizer):
    base = llama(tokenizer).to(torch.bfloat16)
    space = WeightSpace(base, None, 2)
    whole = [space.adapter(g) for g in siblings(space)]
    assert all(x.centre for x in whole)
    choices = [Choice("the cat", (" sees", " see")), Choice("a b ab ba", (" aab bba", " b"))]
    told = {m: Engine(base, tokenizer, method=m).loglikelihoods(whole, choices) for m in ("merged", "batched")}
    for one, other in zip(told["merged"], told["batched"], strict=True):
        for (a, n), (b, m) in zip(one, other, strict=True):
            assert (n == m).all() and (np.abs(a - b) < rounding(base) * np.maximum(np.abs(a), n)).all()
    assert np.ptp([x[0][0][0] for x in told["batched"]]) > 0.1


def test_what_fits_neither_way_is_scored_alone():
    base = model()
    assert set(low_rank_places(base)) == set(dict(base.named_parameters()))
    zero = torch.nn.Linear(3, 3)
    torch.nn.init.zeros_(zero.bias)  # zeros have no unit, so no noise moves them
    assert low_rank_places(torch.nn.Sequential(zero)) == {"0.weight": ["0"]} and not vector_places(zero)
    assert low_rank_places(torch.nn.Sequential(zero, torch.nn.Conv1d(2, 2, 1))) is None

    class Gated(torch.nn.Module):  # a norm of two inputs, which rows of individuals can't be told of
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, x, gate):
            return self.weight * x * gate

    assert low_rank_places(torch.nn.Sequential(Gated())) is None
    for dtype in (torch.float32, torch.bfloat16):
        space = WeightSpace(model(dtype=dtype), None, 1)
        g = space.shift(space.start()[0], [5], [0.2], space.start()[0], 1)
        apart, own = space.last_step(g), space.weights
        for name, modules in space.places.items():
            by = own[name].float() + apart.delta(modules[0])
            near = dict(atol=1e-6) if dtype == torch.float32 else dict(rtol=2**-8, atol=1e-6)
            assert torch.allclose(by, space.tensor(g, name).float(), **near)
