"""Circuits: in any decoder, of frozen models too, and of a run's newborns by the command."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from evonb.cli import main
from evonb.core import InputError, Seeds, Stopped, StopRequest
from evonb.development.circuits import (
    ablation,
    place_importance,
    places,
    text_task,
    unit_activity,
    wire_importance,
    without,
)
from evonb.development.newborn_circuits import measure_circuits, sharing
from evonb.store import read_dataset
from evonb.training.architectures import family_config, new_model
from evonb.training.gpt import ModelConfig

RUNS = Path(__file__).resolve().parents[1] / "runs"


@pytest.mark.parametrize("family", ["gpt", "gpt2", "llama", "qwen3"])
def test_first_order_is_what_taking_away_costs_where_weights_are_small(family):
    model = new_model(family_config(ModelConfig(2, 4, 32, family=family), 30, 24), Seeds(0))
    for p in model.parameters():
        p.requires_grad_(False).mul_(0.3 if p.ndim == 2 else 1)
    x = torch.randint(30, (6, 20), generator=torch.Generator().manual_seed(0))
    task, here = text_task(x[:, :-1], x[:, 1:]), places(model)[::7]
    whole = [p.clone() for p in model.parameters()]
    by_gradient, taken = place_importance(wire_importance(model, task), here), ablation(model, task, here)
    assert np.corrcoef(by_gradient, taken)[0, 1] > 0.9
    assert all(torch.equal(a, b) for a, b in zip(whole, model.parameters(), strict=True))
    assert not any(p.requires_grad for p in model.parameters())  # as it was


def test_a_head_taken_away_writes_nothing_and_comes_back_after_an_error():
    model = new_model(family_config(ModelConfig(1, 4, 32), 30, 24), Seeds(0))
    head, x = places(model)[2], torch.randint(30, (2, 9))
    before = model(input_ids=x).logits
    with pytest.raises(ZeroDivisionError), without(model, [head]):
        assert not torch.equal(model(input_ids=x).logits, before)
        raise ZeroDivisionError
    assert torch.equal(model(input_ids=x).logits, before)
    assert unit_activity(model, x, [head]).shape == (18, 1)


def test_a_model_without_such_matrices_is_refused():
    model = torch.nn.Linear(3, 3)
    model.config = None
    with pytest.raises((InputError, AttributeError)):
        places(model)


def stops_and_goes_on(run, found):
    "What was measured of a newborn is kept; what is damaged, or of other tasks, is measured again."
    kept = sorted((run / "circuits").rglob("*.safetensors"))
    assert len(kept) == found.sizes["model"]
    stop = StopRequest()
    stop.set("test")
    with pytest.raises(Stopped, match="after 0 of 4 newborns, which are kept"):
        measure_circuits(run, ("toy-agreement",), n_items=3, show=False, stop=stop)
    times = [p.stat().st_mtime_ns for p in kept]
    kept[1].write_bytes(kept[1].read_bytes()[:-9])
    again, _ = measure_circuits(run, ("toy-agreement",), share=0.2, n_items=3, show=False)
    assert again.identical(found)
    now = [p.stat().st_mtime_ns for p in kept]
    assert [a == b for a, b in zip(times, now)] == [True, False, True, True]
    other, _ = measure_circuits(run, ("toy-agreement",), ("random",), n_items=4, show=False)
    assert other.sizes["model"] == 2 and not np.array_equal(other.importance, found.importance[2:])


def test_the_command_tells_circuits_of_a_stored_run(tmp_path, capsys):
    with zipfile.ZipFile(RUNS / "connectome.zip") as z:
        z.extractall(tmp_path)
    run = next(p.parent for p in tmp_path.rglob("run.json"))
    assert main(["circuits", str(run), "--items", "3", "--share", "0.2"]) == 0
    out = capsys.readouterr().out
    assert "two tasks of one newborn" in out and "determiner_noun" in out
    found = read_dataset(run / "circuits.zarr.zip")
    assert found.sizes["task"] == 9 and set(found.attrs["suites"].split(",")) == {"toy-agreement"}
    assert np.isfinite(found.importance.values).all() and set(map(type, sharing(found, 0.2).values())) == {dict}
    stops_and_goes_on(run, found)
    assert main(["circuits", str(run), "--items", "0"]) != 0 and "n_items" in capsys.readouterr().err
    assert main(["circuits", str(run), "--share", "2"]) != 0 and "share" in capsys.readouterr().err
    assert main(["circuits", str(run), "--suite", "nothing"]) != 0 and "nothing" in capsys.readouterr().err
    assert main(["circuits", str(run), "--suite", "toy-words:2"]) != 0
    assert "toy-words has no items with two options" in capsys.readouterr().err.replace(":2", "")
