"""Prompts as genomes: nothing of the text is lost, operators keep masks, a planted distraction goes first."""

import numpy as np
import pytest

from evonb.core import InputError, Seeds
from evonb.evolution.method import METHODS, TaskResult
from evonb.evolution.search import evolve
from evonb.tasks.backends import Backend
from evonb.tasks.grading import Item
from evonb.tasks.prompts import PromptFitness, PromptSpace, prompt_pieces, prompted
from evonb.tasks.tasks import SealedTestError, make_task

GOOD, BAD = "Answer with one word.", "Yesterday cats slept inside."
SPACE = PromptSpace(f"{GOOD} {BAD}")
TASK = make_task("t", "choice", {"": [Item(f"Q{i}?", ("a", "b"), 0) for i in range(45)]}, Seeds(0), 40, 5)


class Distracted(Backend):
    "The more of the good words and the less of the bad it reads, the more items are right; counts what it is asked."

    def __init__(self):
        self.n = 0

    def digest(self):
        return "distracted"

    def check(self, choices, prompts):
        pass

    def answers(self, adapters, choices, prompts):
        self.n += 1
        there = lambda words, text: sum(w in text for w in words.split())
        right = [
            k < len(choices) * (0.5 + (there(GOOD, c.context) - there(BAD, c.context)) / 8)
            for k, c in enumerate(choices)
        ]
        return [([(np.array([r, 1.0 - r]), np.ones(2)) for r in right], []) for _ in adapters]


@pytest.mark.parametrize("text", ["one two", " a\n\nb  c ", "Is it? Yes! Well. No end"])
def test_pieces_are_the_text(text):
    for by in ("word", "sentence"):
        if by == "word" or "?" in text:
            assert "".join(prompt_pieces(text, by)) == text
    with pytest.raises(InputError, match="1 pieces"):
        prompt_pieces("word")


def test_tokens_of_a_tokenizer_are_pieces():
    def tokenizer(text, **options):
        return dict(offset_mapping=[(0, 3), (3, 3), (4, 6), (6, 9)])  # an empty one, and a gap

    assert prompt_pieces("the cats s", tokenizer) == ["the ", "ca", "ts s"]


def test_operators():
    whole, rng = SPACE.start()[0], np.random.default_rng(0)
    assert SPACE.text(whole) == f"{GOOD} {BAD}" and len(SPACE.start()) == 9
    flipped = np.mean([SPACE.mask(SPACE.perturb(whole, 0.25, 1.0, rng)).mean() for _ in range(400)])
    assert 0.72 < flipped < 0.78  # a quarter is dropped
    none = np.zeros(8)
    restored = np.mean([SPACE.mask(SPACE.perturb(none, 0.25, 1.0, rng)).mean() for _ in range(400)])
    assert 0.29 < restored < 0.34  # one piece always stays: 7 quarters and 1 of 8, less where it is dropped again
    assert SPACE.mask(none).sum() == 1 and SPACE.text(none) == "Answer "
    a, b = np.array([1, 1, 1, 1, 0, 0, 0, 0.0]), np.array([1, 1, 0, 0, 1, 1, 0, 0.0])
    child = SPACE.merge([a, b], [1, 1])
    assert (child[:2] == 1).all() and (child[6:] == 0).all() and np.array_equal(SPACE.merge([a, a]), a)
    assert np.array_equal(SPACE.unpack(SPACE.pack(a * 0.3)), a * 0.3) and SPACE.digest(a) == SPACE.digest(a * 0.9)
    with pytest.raises(InputError, match="must be .8,."):
        SPACE.check(np.ones(3))
    for text, least in (("a b", 2), ("a b", 0)):
        with pytest.raises(InputError, match="least is"):
            PromptSpace(text, least=least)


class Priced(PromptFitness):
    "With a second objective, for methods that need two: how much was dropped."

    def one(self, genome):
        found = super().one(genome)
        found.scores["short"] = TaskResult(1 - float(self.space.mask(genome).mean()))
        return found


def fits(name):
    return not METHODS[name].needs_vectors and all(hasattr(SPACE, n) for n in METHODS[name].needs)


@pytest.mark.parametrize("name", [n for n in METHODS if fits(n)])
def test_every_method_without_vectors_searches_prompts_and_resumes(name, tmp_path):
    fitness, budget = Priced(Distracted(), SPACE, TASK), 20
    whole = evolve(METHODS[name](SPACE, None, Seeds(0)), fitness, budget, show=False)
    assert whole.best.value >= 0.5 and fitness.backend.n == len(fitness.known)  # no prompt is asked twice
    if name not in ("genome", "genome+", "model-swarms"):
        return
    left = [13]

    def dying(genomes):
        left[0] -= len(genomes)
        if left[0] < 0:
            raise ZeroDivisionError
        return fitness(genomes)

    with pytest.raises(ZeroDivisionError):
        evolve(METHODS[name](SPACE, None, Seeds(0)), dying, budget, tmp_path, chunk=3, show=False)
    again = evolve(METHODS[name](SPACE, None, Seeds(0)), fitness, budget, tmp_path, chunk=3, show=False)
    assert again.history.identical(whole.history)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_planted_distraction_is_pruned_away_first(seed):
    r = evolve(METHODS["genome"](SPACE, None, Seeds(seed)), PromptFitness(Distracted(), SPACE, TASK), 160, show=False)
    left = SPACE.text(r.best.genome)
    assert (
        r.best.value >= 0.87 and sum(w in left for w in BAD.split()) <= 1 and sum(w in left for w in GOOD.split()) >= 3
    )
    first = r.history.value.values[0]
    assert np.nanmax(first) > 0.5 and r.best.value > np.nanmax(first)


def test_prices_failures_and_the_seal():
    class Failing(Distracted):
        def answers(self, adapters, choices, prompts):
            return ["out of range" for _ in adapters]

    whole = SPACE.start()[0]
    assert PromptFitness(Distracted(), SPACE, TASK, price=0.2)([whole])[0].value == pytest.approx(0.3)
    failed = PromptFitness(Failing(), SPACE, TASK)([whole])[0]
    assert np.isnan(failed.value) and "out of range" in failed.reason
    other = prompted(TASK, "Say. ")
    assert other.requests()[0].context.startswith("Say. Q") and other.digest() != TASK.digest()
    with pytest.raises(SealedTestError):
        other.items("test")
