"""The short part of the fault suite (`make faults` is the whole): a few kills of each stage, and faults that are
injected: disks, bits, writers; scorers that answer rubbish; texts that change. Each fault that was found has a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evonb.connectomes import experiments as generations
from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.core import CorpusError, InputError, RunBusyError, Seeds, StoreError
from evonb.store import create_run, is_locked, locked, open_run, write_json
from evonb.tasks.backends import Backend
from evonb.tasks.fitness import Fitness
from evonb.tasks.tasks import Item, Task, open_test, read_record
from evonb.text.tokens import CorpusConfig
from evonb.training.adapters import Adapter
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig

HERE = Path(__file__).resolve().parent
LIFE = LifetimeConfig(steps=6, batch_size=4, context=8, lr=4e-3, warmup=2, eval_every=3, eval_windows=4,
                      checkpoint_every=2)  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_thread")


# Kills and what a machine does ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def found(tmp_path_factory):
    "The counts of the short suite, which has a process of its own: it forks."
    out = tmp_path_factory.mktemp("faults") / "faults.json"
    done = subprocess.run([sys.executable, HERE / "faults" / "suite.py", "--quick", "--out", out], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    assert out.exists(), done.stdout[-3000:]
    return json.loads(out.read_text()) | dict(said=done.stdout[-3000:], code=done.returncode)


def test_killed_runs_go_on_and_end_equal_to_the_bit(found):
    stages = found["stages"]
    assert set(stages) == {"evolve", "develop", "population", "align-reading"}
    assert all(s["kills"] and s["comparisons"] and not s["failures"] for s in stages.values()), found["said"]
    assert found["total"]["kills"] == sum(s["kills"] for s in stages.values()) >= 4


@pytest.mark.parametrize("fault", ["full_disk", "read_only", "clock_goes_back", "flipped_bit", "two_writers"])
def test_other_faults_are_named_and_leave_a_run_that_goes_on(found, fault):
    one = found["injected"][fault]
    if "skipped" in one:
        pytest.skip(f"this machine doesn't let us mount a disk: {one['skipped']}")
    assert one["tried"] and not one["failures"], found["said"]


def test_what_fails_around_a_run_ends_it_resumably_and_no_bit_is_lost(found):
    around = found["around"]
    assert {"open fails", "make fails", "write fails", "compute fails"} <= set(around) and around["largest_file"]
    assert all(f["tried"] and not f["failures"] for f in around.values()), found["said"]


@pytest.mark.parametrize("kind", [
    "more arms and newborns", "more models aligned", "readers beside a writer", "asked for what can't be added",
    "other spellings, moves and copies", "sweeps beside foreign writers", "servers under load, stopped or killed",
    "populations whose server dies"])  # fmt: skip
def test_runs_as_they_are_used_lose_nothing(found, kind):
    assert found["using"][kind]["tried"] and not found["using"][kind]["failures"], found["said"]


def test_hostile_input_of_every_kind_is_refused_or_read(found):
    kinds = found["hostile"]
    assert len(kinds) >= 24 and all(k["tried"] and k["line"] and not k["failures"] for k in kinds.values()), kinds


def test_the_suite_says_how_it_ended(found):
    assert found["code"] == 0 and "kills in all" in found["said"], found["said"]


# Runs ----------------------------------------------------------------------------------------------------------------

def tiny(source):
    return ExperimentConfig(
        "tiny", corpus=CorpusConfig(str(source), vocab_size=260, block_bytes=256), model=ModelConfig(1, 1, 8),
        evolution=EvolutionConfig(n_generations=1, prune_fraction=0.3, lifetime=LIFE),
        development=DevelopmentConfig(("connectome",), 1, (4e-3,), test_windows=4, n_bootstrap=20, lifetime=LIFE),
    )  # fmt: skip


def written(path, n=6000):
    from evonb.text.toy_english import Grammar

    grammar, text = Grammar(Seeds(1).child(path.name)), ""  # files alike would count once
    while len(text) < n:
        text += grammar.sentence() + "\n"
    path.write_text(text)
    return text


def test_a_corpus_file_that_changed_is_named_and_refused(tmp_path):
    "One letter of the second file; a file that is gone isn't needed, for the run has its tokens."
    texts = tmp_path / "texts"
    texts.mkdir()
    before = {name: written(texts / name) for name in ("a.txt", "b.txt")}
    config = tiny(texts)
    run = experiment(tmp_path / "run", config, stages=("evolve",), show=False, device="cpu")
    (texts / "b.txt").write_text("X" + before["b.txt"][1:])
    for go_on in (lambda: experiment(run.path, config, True, show=False, device="cpu"),
                  lambda: generations.develop_run(run.path, show=False, device="cpu")):  # fmt: skip
        with pytest.raises(CorpusError, match=r"b\.txt has changed since .*run began"):
            go_on()
    assert open_run(run.path).state()["status"] == "failed"
    (texts / "b.txt").write_text(before["b.txt"])
    (texts / "a.txt").unlink()
    done = experiment(run.path, config, True, show=False, device="cpu")
    assert done.state()["status"] == "complete" and done.file("development.zarr.zip").exists()


def test_a_corpus_file_is_not_read_again_when_it_was_just_prepared(tmp_path, monkeypatch):
    written(tmp_path / "a.txt")
    checked, whole = [], generations.file_sha256
    monkeypatch.setattr(generations, "file_sha256", lambda path: checked.append(path.name) or whole(path))
    config = tiny(tmp_path / "a.txt")
    for seen in ([], ["a.txt"]):
        experiment(tmp_path / "run", config, True, stages=(), show=False, device="cpu")
        assert checked == seen


class Died(BaseException):
    "Nothing catches this."


def test_a_kill_between_a_life_and_its_checkpoints_leaves_none_behind(tmp_path, monkeypatch):
    written(tmp_path / "text.txt")
    config, path = tiny(tmp_path / "text.txt"), tmp_path / "run"
    experiment(path, config, stages=("evolve",), show=False, device="cpu")
    with monkeypatch.context() as patch:
        unlink = Path.unlink

        def dies(self, *given, **more):
            if self.name.startswith("checkpoint-") and (self.parent / "lived.safetensors").exists():
                raise Died
            unlink(self, *given, **more)
        patch.setattr(Path, "unlink", dies)
        with pytest.raises(Died):
            experiment(path, config, True, show=False, device="cpu")
    assert list(path.rglob("checkpoint-*"))
    experiment(path, config, True, show=False, device="cpu")
    assert not list(path.rglob("checkpoint-*"))


def test_the_record_of_sealed_tests_is_whole_or_as_it_was(tmp_path, monkeypatch):
    "A disk that fills up while an opening is noted: the record can still be read, and the test wasn't opened."
    items = [Item("", (f"it is {w}", f"it are {w}"), 0) for w in ("one", "two", "three", "four")]
    task = Task("pairs", "pairs", dict(validation=items[:2], test=items[2:]))
    record = tmp_path / "sealed.jsonl"
    open_test(task, record, "first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StoreError, match="No room to write .*sealed.jsonl"):
            open_test(task, record, "second")
    assert [e["individual"] for e in read_record(record)] == ["first"]
    with pytest.warns(UserWarning, match="opened 1 time"):
        open_test(task, record, "third")
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


# The store -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [30, 13, 1])
def test_what_may_not_be_written_is_named(tmp_path, monkeypatch, number):
    write_json(tmp_path / "a.json", dict(x=1))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    with pytest.raises(StoreError, match=r"a\.json can't be written \(.*make the folder writable and resume"):
        write_json(tmp_path / "a.json", dict(x=2))
    assert json.loads((tmp_path / "a.json").read_text())["x"] == 1


def test_a_permission_that_another_file_lacks_is_not_blamed_on_the_run(tmp_path, monkeypatch):
    from evonb.store import replacing

    with pytest.raises(PermissionError, match="elsewhere"), replacing(tmp_path / "a.json"):
        raise PermissionError(13, "Permission denied", "/elsewhere/b.json")


def test_a_lock_that_can_only_be_read_still_tells(tmp_path, monkeypatch):
    "A run in a folder where nothing may be written, while its owner writes it and afterwards."
    import filelock

    with create_run(tmp_path / "run", {}) as run:
        pass
    held = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", held, run.path / ".lock"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)  # fmt: skip
    other.stdout.readline()
    monkeypatch.setattr(filelock.FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "read-only")))
    assert is_locked(run.path)
    other.communicate(b"\n")
    assert not is_locked(run.path) and open_run(run.path).state()["status"] == "complete"


def test_who_only_looks_turns_no_writer_away(tmp_path):
    "The monitor takes the lock for a moment to see whether it is held."
    import threading

    with create_run(tmp_path / "run", {}) as run:
        pass
    end = threading.Event()

    def looks():
        while not end.is_set():
            is_locked(run.path)
    watchers = [threading.Thread(target=looks) for _ in range(2)]
    for w in watchers: w.start()
    try:
        for _ in range(200):
            with locked(run.path): pass
    except RunBusyError as e:
        pytest.fail(str(e))
    finally:
        end.set()
        for w in watchers: w.join()


# Scorers -------------------------------------------------------------------------------------------------------------

class Scorer(Backend):
    "Prefers the first option by 1 nat; what `spoil` says is done to its answers."
    def __init__(self, spoil=lambda answers: answers): self.spoil = spoil
    def digest(self): return "scorer"
    def check(self, choices, prompts): pass

    def answers(self, adapters, choices, prompts):
        one = [(-np.arange(len(c.options), dtype=float), np.ones(len(c.options), int)) for c in choices]
        return self.spoil([(list(one), ["" for _ in prompts]) for _ in adapters])


def asked(spoil):
    "Evaluations of three individuals, of which the second's answer is spoiled, and what is kept."
    items = [Item("", (f"it is {w}", f"it are {w}"), 0) for w in ("one", "two", "three")]
    fitness = Fitness(Scorer(spoil), [Task("pairs", "pairs", dict(validation=items))])
    adapters = [Adapter({"w": torch.ones(1, 2) * i}, {"w": torch.ones(2, 1)}, {"w": 1.0}, {}) for i in range(3)]
    return fitness(adapters), fitness


def second(change):
    def spoil(answers):
        answers[1] = change(answers[1])
        return answers
    return spoil


NAN = (np.array([np.nan, 0.0]), np.ones(2, int))
RUBBISH = {
    "nan": lambda a: ([NAN] * 3, []), "none": lambda a: None, "a number": lambda a: 0.5, "one part": lambda a: a[:1],
    "too few": lambda a: (a[0][:2], a[1]), "too many": lambda a: (a[0] * 2, a[1]), "words": lambda a: (["x"] * 3, []),
    "wrong shape": lambda a: ([(np.zeros(3), np.ones(3))] * 3, []), "texts": lambda a: (a[0], ["what"]),
    "no texts": lambda a: (a[0], None), "strings": lambda a: ([(["a", "b"], ["c", "d"])] * 3, []),
}  # fmt: skip


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_is_the_failure_of_one_individual(kind):
    "The others are scored, and nothing of it is kept."
    evaluations, fitness = asked(second(RUBBISH[kind]))
    assert [e.failed for e in evaluations] == [False, True, False]
    assert evaluations[1].reason and evaluations[0].value == evaluations[2].value == 1.0
    assert len(fitness.cache) == 2


@pytest.mark.parametrize("change, says", [
    (lambda answers: answers[:2], "2 answers for 3"), (lambda answers: answers * 2, "6 answers for 3"),
    (lambda answers: None, "None for 3"), (lambda answers: "what", "'what' for 3")])  # fmt: skip
def test_answers_that_belong_to_nobody_are_refused(change, says):
    "Which individual they are of can't be told, so nothing is kept."
    with pytest.raises(InputError, match=f"Scorer.answers gave {says} individuals"):
        asked(change)


def test_a_scorer_that_raises_is_not_hidden():
    def raises(answers):
        raise ConnectionError("the scorer is gone")
    with pytest.raises(ConnectionError, match="the scorer is gone"):
        asked(raises)
