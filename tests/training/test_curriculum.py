"""Childhoods: the same windows in another order, exact shares, silence, and lives that go on to the bit."""

import json

import numpy as np
import pytest
import torch

from evonb.cli import main
from evonb.core import InputError, Seeds, Stopped, StopRequest, from_dict, to_dict
from evonb.training.curriculum import Childhood, CurriculumConfig, Surroundings, Windows
from evonb.training.gpt import GPTConfig, new_gpt
from evonb.training.lifetime import Lifetime, LifetimeConfig

CONFIG = GPTConfig(vocab_size=40, n_layer=1, n_head=2, n_embd=16, block_size=16)
IDS = np.random.default_rng(0).integers(0, 30, 5000).astype(np.uint16)
OTHER = (30 + IDS[:3000] % 10).astype(np.uint16)
ALL = CurriculumConfig(order="frequency", other="dyck", mixture=((0, 0.5), (1, 0)), rehearsal=0.25,
                       deprivation="silence", deprived=((0.25, 0.5),))  # fmt: skip


def lifetime(folder=None, curriculum=ALL, around=None, **kw):
    life = LifetimeConfig(steps=12, batch_size=8, context=16, lr=1e-2, warmup=3, eval_every=4, eval_windows=8,
                          checkpoint_every=5, curriculum=curriculum)  # fmt: skip
    around = around or Surroundings(OTHER, np.arange(40) == 3)
    return Lifetime(new_gpt(CONFIG, Seeds(1)), IDS, IDS[-600:], life, Seeds(2), None, folder, around=around, **kw)


def weights(life):
    return torch.cat([p.detach().reshape(-1) for p in life.model.parameters()])


def test_a_curriculum_by_chance_is_no_curriculum():
    plain = lifetime(curriculum=CurriculumConfig())
    assert type(plain.windows) is Windows
    life = Childhood(IDS, 16, 8, Seeds(2).child("order"), CurriculumConfig(), 12)
    assert all(torch.equal(a, b) for s in range(12) for a, b in zip(life.batch(s), plain.windows.batch(s), strict=True))


def test_settings_of_before_have_no_curriculum():
    before = to_dict(LifetimeConfig())
    del before["curriculum"]
    assert from_dict(LifetimeConfig, before) == LifetimeConfig() and LifetimeConfig().curriculum.by_chance


def test_nothing_is_learned_in_silence():
    life = lifetime()
    life.live(show=False, until=3)
    before, optimizer = weights(life), {k: t.clone() for k, t in life.optimizers.tensors().items()}
    life.one_step(), life.one_step()
    life.look()
    assert np.isnan(life.train_loss[-2:]).all() and np.isfinite(life.train_loss[:-2]).all()
    assert torch.equal(weights(life), before)
    assert all(torch.equal(t, optimizer[k]) for k, t in life.optimizers.tensors().items())
    life.one_step(), life.one_step()
    assert not torch.equal(weights(life), before)


@pytest.mark.parametrize("at", [2, 4, 9])
def test_a_stopped_childhood_goes_on_to_the_same_bit(tmp_path, at):
    whole, stop = lifetime().live(show=False), StopRequest()
    cut = lifetime(tmp_path)
    step = cut.one_step
    cut.one_step = lambda: (step(), stop.set("a test") if cut.step == at else None)
    with pytest.raises(Stopped):
        cut.live(show=False, stop=stop)
    again = lifetime(tmp_path)
    assert again.restore() and again.step == at
    assert torch.equal(weights(again.live(show=False)), weights(whole))
    assert np.array_equal(again.train_loss, whole.train_loss, equal_nan=True)


def test_a_process_of_several_reads_its_part_of_each_batch():
    life = lifetime().windows
    for step in range(12):
        x, _ = life.batch(step)
        assert torch.equal(torch.cat([life.batch(step, slice(0, 3))[0], life.batch(step, slice(3, 8))[0]]), x)


def test_shares_are_what_was_asked_for():
    steps = 400
    c = CurriculumConfig(other="dyck", mixture=((0, 0.3),), rehearsal=0.2)
    life = Childhood(IDS, 16, 8, Seeds(0), c, steps, Surroundings(OTHER))
    other = sum(int((life.batch(s)[0] >= 30).any(1).sum()) for s in range(steps))
    assert other == int(0.3 * 8 * steps) and abs(life.n_again.sum() - 0.2 * 0.7 * 8 * steps) <= 2
    assert life.n_new.sum() + life.n_again.sum() + other == 8 * steps


@pytest.mark.parametrize("what", ["scrambled", "noise"])
def test_a_whole_life_can_be_deprived(what):
    whole = CurriculumConfig(deprivation=what, deprived=((0, 1),))
    life, plain = (Childhood(IDS, 16, 8, Seeds(0), c, 20) for c in (whole, CurriculumConfig()))
    rows = [torch.cat([x[:, :1], y], 1) for x, y in map(life.batch, range(20))]
    own = [torch.cat([x[:, :1], y], 1) for x, y in map(plain.batch, range(20))]
    if what == "scrambled":  # the words that it would have read, out of order
        assert all(torch.equal(a.sort(1).values, b.sort(1).values) for a, b in zip(rows, own, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(rows, own, strict=True))
    assert len({tuple(r.tolist()) for batch in rows for r in batch}) == 160 and life.read[-1] == 0


def test_epochs_of_several_are_sorted_each():
    life = Childhood(IDS, 16, 8, Seeds(0), CurriculumConfig(order="given"), 100)
    first = [int(life.starts(0)[i]) for i in range(life.n_windows)]
    assert first == sorted(first) and sorted(life.starts(1)) == list(life.starts(1)) and list(life.starts(0)) == first


@pytest.mark.parametrize("settings, said", [
    (["curriculum.order=age"], "order"),
    (["curriculum.other=dyck"], "no window of it is read"),
    (["curriculum.other=toy-english", "curriculum.mixture=[[0,1]]"], "own text"),
    (["curriculum.other=nowhere.txt", "curriculum.mixture=[[0,1]]"], "nowhere.txt"),
    (["curriculum.deprived=[[0,0.001]]"], "less than a step"),
])  # fmt: skip
def test_childhoods_that_cannot_be_are_refused(tmp_path, capsys, settings, said):
    sets = [f"--set=development.lifetime.{s}" for s in settings]
    small = ["--set=corpus.n_bytes=40000", "--set=corpus.vocab_size=300", "--set=corpus.fractions=[0.4,0.3,0.2,0.1]"]
    assert main(["run", "--preset", "demo", "--out", str(tmp_path / "run"), *small, *sets]) != 0
    assert said in capsys.readouterr().err


def test_another_text_that_holds_the_test_text_is_refused(tmp_path, capsys):
    sentence = "the {} dog that nobody knew had seen the {} boat near the old {} again ."
    text = "\n".join(sentence.format(i, i * 7 % 91, i * 3 % 17) for i in range(900))
    (tmp_path / "mine.txt").write_text(text)
    (tmp_path / "other.txt").write_text(text + " and more")
    code = main(["run", "--preset", "demo", "--corpus", str(tmp_path / "mine.txt"), "--out", str(tmp_path / "run"),
                 "--set=corpus.vocab_size=300", "--set=corpus.fractions=[0.4,0.3,0.2,0.1]",
                 f"--set=development.lifetime.curriculum.other={tmp_path / 'other.txt'}",
                 "--set=development.lifetime.curriculum.mixture=[[0,1]]"])  # fmt: skip
    assert code != 0 and "newborns would read what they are judged by" in capsys.readouterr().err
    assert not (tmp_path / "run" / "curriculum").exists()


def test_a_run_tells_its_childhood(tmp_path, capsys):
    lives = [f"--set={loop}.lifetime.{s}" for loop in ("evolution", "development")
             for s in ("steps=6", "batch_size=4", "context=16", "warmup=2", "eval_windows=8")]  # fmt: skip
    asked = ("order=length", "other=emergent", "mixture=[[0,1],[0.5,0]]", "deprived=[[0.5,0.7]]", "deprivation=noise")
    more = [f"--set=development.lifetime.curriculum.{s}" for s in asked]
    assert main(["run", "--preset", "demo", "--out", str(tmp_path / "run"), "--evolutions", "1", "--seeds", "1",
                 "--arms", "connectome", "--lrs", "0.01", "--workers", "1", "--set=evolution.n_generations=1",
                 "--set=corpus.n_bytes=60000", "--set=corpus.vocab_size=300", "--set=model.n_embd=16",
                 *lives, *more]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "Childhood of newborns: its text in the order length; emergent beside it" in out
    assert "noise from 50% to 70% of life" in (tmp_path / "run" / "report.html").read_text()
    about = json.loads(next((tmp_path / "run" / "curriculum").glob("*/about.json")).read_text())
    assert about["name"] == "emergent" and about["n_tokens"] == 6 * 4 * 16 + 17


def test_a_childhood_without_its_text_is_refused():
    with pytest.raises(InputError, match="isn't there"):
        lifetime(around=Surroundings())
    with pytest.raises(InputError, match="has no tokenizer"):
        lifetime(curriculum=CurriculumConfig(order="length"), around=Surroundings(OTHER)).one_step()
