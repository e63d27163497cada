"""Ways of evolving wirings: equal tokens, the published line to the bit, kill and resume, bad input refused."""

from dataclasses import replace

import numpy as np
import pytest

from evonb.connectomes.breeding import WiringsConfig, breed_wirings, check_density, find_way
from evonb.connectomes.experiments import experiment
from evonb.connectomes.generations import load_generation
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.connectomes.workers import LocalFleet
from evonb.core import ConnectomeError, InputError, Stopped, StopRequest, listening
from evonb.store import read_dataset
from evonb.text.tokens import CorpusConfig
from evonb.training.connectome import Connectome
from evonb.training.gpt import GPT, GPTConfig, ModelConfig
from evonb.training.lifetime import LifetimeConfig

LIFE = LifetimeConfig(
    steps=4, batch_size=4, context=16, lr=4e-3, warmup=1, eval_every=4, eval_windows=8, checkpoint_every=2)  # fmt: skip
TINY = WiringsConfig(
    ExperimentConfig("tiny", corpus=CorpusConfig("toy-english", n_bytes=80_000, vocab_size=300),
                     model=ModelConfig(1, 2, 16),
                     evolution=EvolutionConfig(n_generations=2, n_evolutions=1, prune_fraction=0.3, lifetime=LIFE),
                     development=DevelopmentConfig(n_seeds=2, lrs=(4e-3,), test_windows=8, lifetime=LIFE)),
    methods=("generational", "genome", "sign-es", "random-search"), points=(0.5, 1.0), n_individuals=2, n_siblings=2,
    halving=((2, 0.5),))  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return breed_wirings(tmp_path_factory.mktemp("wirings") / "run", TINY, show=False, workers=1)


def last_wirings(run):
    return {p.relative_to(run.path).as_posix(): Connectome.load(p).digest() for p in run.path.glob("wirings/*/*")}


def test_every_way_spends_no_more_than_the_others_and_ends_at_one_density(whole):
    told, found = whole.summary(), read_dataset(whole.file("wirings.zarr.zip"))
    assert set(told["methods"]) == set(TINY.methods) and (found.spent <= found.point).all()
    assert all(m["density"] == pytest.approx(TINY.density, abs=0.01) for m in told["methods"].values())
    assert np.isfinite(found.test_window_loss.isel(point=-1)).all()
    assert "on the sealed test" in told["statement"] and len(whole.scores()) == 4 * 2 * 2


def test_the_line_is_the_published_one(whole, tmp_path):
    run = experiment(tmp_path / "line", TINY.experiment, stages=("evolve",), show=False, workers=1)
    assert load_generation(run).digest() == last_wirings(whole)["wirings/generational/evolution-0.safetensors"]


def test_stopped_anywhere_and_resumed_it_finds_the_same(whole, tmp_path):
    for n in (3, 20, 45):
        stop, left = StopRequest(), [n]

        def hear(kind, values, left=left, stop=stop):
            left[0] -= kind == "step"
            if left[0] < 0:
                stop.set("the test")

        with pytest.raises(Stopped), listening(hear):
            breed_wirings(tmp_path / "run", TINY, resume=True, show=False, stop=stop, workers=1)
    run = breed_wirings(tmp_path / "run", TINY, resume=True, show=False, workers=1)
    assert last_wirings(run) == last_wirings(whole)
    one, two = (read_dataset(r.file("wirings.zarr.zip")) for r in (run, whole))
    assert one.test_window_loss.equals(two.test_window_loss) and one.spent.equals(two.spent)


@pytest.mark.parametrize("changes, said", [
    (dict(tokens=100), "the published line alone reads 512"),
    (dict(tokens=600, methods=("genome",)), "3 lives for its first 2 wirings"),
    (dict(tokens=600, methods=("litter",)), "fewer than the line's 2"),
    (dict(methods=("cma",)), "works on vectors"),
    (dict(methods=("es",)), "needs shift"),
    (dict(methods=("line",)), "method is 'line'"),
    (dict(methods=()), "methods is empty"),
    (dict(points=(0.5,)), "end with 1"),
    (dict(halving=((4, 0.5),)), "below the 4 of a whole life"),
    (dict(n_siblings=1), "n_siblings"),
])  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_written(changes, said, tmp_path):
    with pytest.raises(InputError, match=said):
        breed_wirings(tmp_path / "run", replace(TINY, **changes), show=False)
    assert not (tmp_path / "run").exists()


def test_a_density_that_leaves_a_matrix_empty_is_refused():
    thin = replace(TINY, experiment=replace(TINY.experiment, evolution=EvolutionConfig(40, 0.3, lifetime=LIFE)))
    with pytest.raises(ConnectomeError, match="leaves .* empty"):
        check_density(thin, GPT(GPTConfig(vocab_size=300, n_layer=1, n_head=2, n_embd=16, block_size=16)))
    assert find_way(thin, "finer").plan.density == thin.density


def test_fewer_searches_than_workers_share_each_generation_and_find_the_same(whole, tmp_path, monkeypatch):
    carried, carry_out = [], LocalFleet.carry_out

    def noted(self, exp, orders):
        carried.append([type(o).__name__ for o in orders])
        carry_out(self, exp, orders)

    monkeypatch.setattr(LocalFleet, "carry_out", noted)
    run = breed_wirings(tmp_path / "run", replace(TINY, methods=("genome",)), show=False, workers=2)
    assert carried[0] == [] and carried[1] == carried[2] == ["LifeOrder"] * 2  # litter of founders, first generation
    one, two = (r.file("evolve", "genome", "seed-0", "history.zarr.zip") for r in (run, whole))
    assert read_dataset(one).identical(read_dataset(two))
    name = "wirings/genome/evolution-0.safetensors"
    assert last_wirings(run)[name] == last_wirings(whole)[name]
