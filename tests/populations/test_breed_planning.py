"""Planning a population: memory and time against a plain count, what doesn't fit is said, presets in the command."""

import json
from types import SimpleNamespace

import pytest

from evonb import cli
from evonb.connectomes.planning import find_device
from evonb.core import InputError
from evonb.populations.breeding import BREED_PRESETS, BreedConfig
from evonb.populations.planning import (
    ASSUMED_TASK,
    BANDWIDTH,
    TokensAsked,
    asked_of,
    base_shape,
    plan_breeding,
    seconds_of,
)
from evonb.tasks.grading import Item
from evonb.tasks.tasks import make_task

CONFIG = BreedConfig(experts="e", tasks=("t",), **BREED_PRESETS["genome"])


def tiny_shape():
    from transformers import LlamaConfig

    return base_shape(LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
                                  num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False))  # fmt: skip


def test_the_shape_of_a_base():
    layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16  # q, k and v of one head of 4, o, mlp
    shape = tiny_shape()
    assert shape["multiplied"] == 2 * layer + 50 * 8 and shape["weights"] == 2 * layer + 2 * 50 * 8 + 8 * 5
    assert shape["kv"] == 2 * 2 * 1 * 4 and shape["rank_units"] == 2 * (16 + 12 + 12 + 16 + 24 + 24 + 24)


def test_seconds_by_hand():
    shape, device = dict(weights=1000, multiplied=500), SimpleNamespace(name="RTX 4090", speed=1e6)
    asked = TokensAsked(10, 1000, 200, 120)  # 20 tokens an answer
    reading, passes = 2 * 500 * 1200 / 1e6, 2 * 20  # 1200 tokens are two passes of 1000
    assert seconds_of(asked, shape, device, 1000) == pytest.approx(reading + passes * 1000 * 2 / BANDWIDTH["RTX 4090"])
    assert seconds_of(asked, shape, SimpleNamespace(name="cpu", speed=1e6), 1000) == pytest.approx(reading)


def test_a_plan_counts_what_a_run_scores():
    items = [Item(f"{i}" + "x" * 400, (), "y") for i in range(60)]
    task = make_task("t", "exact", {"": items}, n_validation=20, max_new_tokens=50)
    asked = asked_of(task, "validation", 20)
    assert asked.written == 1000 and 2000 <= asked.read <= 2050
    made = plan_breeding(CONFIG, find_device("RTX 4090"), [task], tiny_shape())
    rows = {r["stage"]: r for r in made.rows}
    assert (
        rows["baselines"]["evaluations"] == 22 and rows["genome, 5 seeds"]["evaluations"] == 500 and not made.problems()
    )
    assert "random-search, 5 seeds" not in rows  # adapters have no vector to draw
    assert made.seconds == pytest.approx(sum(r["seconds"] for r in made.rows)) and "RTX 4090" in repr(made)
    tight = SimpleNamespace(name="small", speed=1e9, memory=1e5, assumption="made up")
    assert "Lower max_tokens" in plan_breeding(CONFIG, tight, (), tiny_shape()).problems()[0]
    assert ASSUMED_TASK.items == 200


def test_presets_on_the_command_line(capsys, monkeypatch):
    assert cli.breed_preset(None) == {} and cli.breed_preset("genome")["n_individuals"] == 10
    with pytest.raises(InputError, match="genome"):
        cli.breed_preset("genom")
    from evonb.populations import planning

    shape = tiny_shape()
    monkeypatch.setattr(planning, "base_shape", lambda config=None: shape)
    assert cli.main(["plan", "--preset", "genome", "--task", "skill:agreement", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["device"] == "RTX 4090"
        and told["problems"] == []
        and [r["evaluations"] for r in told["stages"]][1:3] == [500, 500]
    )
    assert cli.main(["plan", "--preset", "demo", "--task", "skill:agreement"]) == 2
    assert "--preset genome" in capsys.readouterr().err
