"""EvoLLM: what a model is shown, what it answers and what stands in when that can't be read."""

import numpy as np
import pytest

from evonb.core import InputError, Remark, Seeds
from evonb.evolution.landscape import SkillLandscape, peak
from evonb.evolution.method import METHODS
from evonb.evolution.methods import evollm
from evonb.evolution.methods.evollm import (
    WRITERS,
    TooLong,
    continued,
    discretised,
    open_writer,
    ranking_prompt,
    read_steps,
)
from evonb.evolution.operators import ArraySpace
from evonb.evolution.search import compare_methods, evolve

SPACE = ArraySpace([f"e{i}" for i in range(3)], 2)


@pytest.fixture
def writer():
    "Register what is given as a writer, and note the prompts."
    asked = []

    def known(write):
        WRITERS.add("scripted", lambda what: lambda prompt, n: (asked.append(prompt), write(prompt))[1])
        return asked

    yield known
    WRITERS.known.pop("scripted", None)


def method(seed=0, **settings):
    return METHODS["evollm"](SPACE, dict(model="scripted", resolution=30) | settings, Seeds(seed))


def test_whole_numbers_and_back():
    v = np.linspace(-1, 2, 31)
    assert np.allclose(continued(discretised(v, -1, 2, 30), -1, 2, 30), v) and discretised([-9, 9], -1, 2, 30) == [
        0,
        30,
    ]


def test_the_prompt_has_the_worst_first_and_the_best_at_80():
    lines = ranking_prompt([(0.5, [1, 2]), (0.1, [3, 4]), (0.3, [5, 6])], 30).splitlines()[1:]
    assert lines == ["quality 0: 3, 4", "quality 40: 5, 6", "quality 80: 1, 2", "quality 100:"]
    assert ranking_prompt([(0.5, [1]), (0.5, [2])], 30).count("quality 80") == 2


@pytest.mark.parametrize(
    "text, steps, why",
    [(" 1, 2\nquality 9: 3, 4", [1, 2], ""), ("(1 2)", [1, 2], ""), ("1, 2, 3", None, "another number of numbers"),
     ("", None, "no number"), ("none", None, "no number"), ("1.5, 2", None, "not whole"),
     ("31, 2", None, "out of range"),
     ("-1, 2", None, "out of range"), ("quality 100: 1, 2", [1, 2], "")],
)  # fmt: skip
def test_answers(text, steps, why):
    assert read_steps(text, 2, 30) == (steps, why)


def test_a_model_that_knows_the_answer_is_followed(writer):
    asked = writer(lambda prompt: " " + ", ".join(["20"] * prompt.splitlines()[1].count(",") + ["20"]))
    m = method(start="zero", block=4)
    r = evolve(m, peak, 15, show=False)
    assert r.best.value == 1 and np.allclose(r.best.genome, 1)  # 20 of 30 steps from -1 to 2
    assert [p.splitlines()[-2].count(",") for p in asked] == [3, 1] * 2 and m.told().endswith(
        "0 answers couldn't be read"
    )
    assert r.history.operator.values.ravel().tolist() == ["start"] * 5 + ["proposal"] * 10
    shown = [int(line.split()[1][:-1]) for line in asked[-1].splitlines()[1:-1]]
    assert shown == sorted(shown) and shown[-1] == 80 and len(shown) == 10


def test_nonsense_falls_back_on_the_best_and_is_told_and_counted(writer):
    writer(lambda prompt: "I would choose a larger one.")
    m = method(sigma=0.1)
    with pytest.warns(Remark, match="can't be read .no number.") as told:
        r = evolve(m, peak, 20, show=False)
    assert len([w for w in told if issubclass(w.category, Remark)]) == 1
    assert r.history.operator.values.ravel().tolist() == ["start"] * 5 + ["fallback"] * 15
    assert m.unread == {"no number": 6} and m.n_prompts == 6 and "6 answers couldn't be read (6 no number)" in m.told()
    best = r.history.value.values[0].argmax()
    assert r.history.value.values[1, 0] == r.history.value.values[0, best]  # its numbers stand in, unrounded


def test_where_the_context_is_short_the_worst_are_not_shown(writer):
    def short(prompt):
        if prompt.count("quality") > 4:
            raise TooLong("a prompt of 300 tokens doesn't fit into 256")
        return " 20, 20, 20, 20"[: 3 + 4 * (prompt.splitlines()[1].count(","))]

    asked = writer(short)
    with pytest.warns(Remark, match="no room in the context of scripted.*300 tokens") as told:
        r = evolve(method(start="zero"), peak, 15, show=False)
    assert len([w for w in told if issubclass(w.category, Remark)]) == 1 and r.best.value == 1
    read = [p for p in asked if p.count("quality") <= 4]
    assert len(asked) > len(read) > 0 and {p.count("quality") for p in read} == {4}  # three, and the one to write
    assert all("quality 80:" in p for p in read) and r.history.operator.values.ravel()[-1] == "proposal"

    def never(prompt):
        raise TooLong("no room at all")

    WRITERS.known.pop("scripted")
    writer(never)
    with pytest.raises(TooLong, match="Not even 2 individuals.*block is 4.*no room at all"), pytest.warns(Remark):
        evolve(method(start="zero"), peak, 15, show=False)


@pytest.mark.filterwarnings("ignore::evonb.core.Remark")
def test_a_killed_search_goes_on_and_counts_on(writer, tmp_path):
    writer(lambda prompt: " 20, 20, 20, 20" if len(prompt) % 2 else "no")
    whole, left = method(), [12]
    r = evolve(whole, peak, 30, tmp_path / "a", show=False)

    def dying(genomes):
        left[0] -= len(genomes)
        if left[0] < 0:
            raise ZeroDivisionError
        return peak(genomes)

    with pytest.raises(ZeroDivisionError):
        evolve(method(), dying, 30, tmp_path / "b", chunk=2, show=False)
    again = method()
    assert evolve(again, peak, 30, tmp_path / "b", chunk=2, show=False).history.identical(r.history)
    assert (again.n_prompts, again.unread) == (whole.n_prompts, whole.unread) and whole.unread


def test_beside_others_on_the_landscape():
    land = SkillLandscape(0)
    found, _ = compare_methods(["evollm", "cma", "random-search"], land.space, land, 25, (0,), show=False)
    assert (found.chosen.sel(label="evollm") > 0.5).all()  # half is chance


def test_bad_settings():
    for name, said in (
        ("nobody", "names no writer"),
        ("base", "base:NAME"),
        ("mean:x", "names no writer"),
        ("bas:x", "base"),
    ):
        with pytest.raises(InputError, match=said):
            open_writer(name)
    with pytest.raises(InputError, match="low must be the smaller"):
        METHODS["evollm"](SPACE, dict(low=2.0, high=1.0))
    assert set(WRITERS) >= {"base", "server", "mean"} and evollm.EvoLLMConfig().model == "mean"
