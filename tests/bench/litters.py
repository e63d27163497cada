"Newborns in one batched step against one by one, and how the work of an attribution grows with its parts."

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import growth, paired, threads
from training import STEPS, ours, quarter, repeated
from training import config as sizes

from evonb.connectomes.attribution import attribute
from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.store import read_json
from evonb.text.tokens import CorpusConfig
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig
from evonb.training.litter import Siblings

SIBLINGS = 4


def litter(size):
    "A row for a size."

    def row(pairs, n):
        wiring, n = quarter(sizes(size)), max(1, round(n * STEPS[size]))
        alone, others = ([ours(size, wiring)[1] for _ in range(SIBLINGS)] for _ in range(2))
        together = Siblings(others)
        check_same(alone, together)

        def one_by_one():
            for life in alone:
                repeated(life.one_step, n)()

        with threads(1):
            row = paired(one_by_one, repeated(together.one_step, n), pairs, time.process_time)
        return row | dict(siblings=SIBLINGS, aim="above 1, or a CPU makes no litters unless asked")

    row.__doc__ = (f"CPU seconds of {SIBLINGS} newborns at {size} size and 25 % density trained one by one, over those "
                   "of the same in one batched step; one thread.")  # fmt: skip
    return row


def check_same(alone, together):
    "Times of two ways compare only if they compute the same."
    for _ in range(2):
        for life in alone:
            life.one_step()
        together.one_step()
    for a, b in zip(alone, together.lives):
        if not np.allclose(a.train_loss, b.train_loss, atol=1e-5):
            raise RuntimeError(f"The losses are {a.train_loss} and {b.train_loss}, so times don't compare.")


def parts(pairs, n):
    "How CPU seconds of `evonb attribute` grow with 1, 2, 4 and 8 parts: a tiny model of 6 blocks, one seed and rate."
    life = LifetimeConfig(steps=10 * n, batch_size=8, context=16, lr=4e-3, warmup=5, eval_every=10 * n, eval_windows=16,
                          checkpoint_every=10 * n)  # fmt: skip
    config = ExperimentConfig("tiny", corpus=CorpusConfig("toy-english", n_bytes=100_000, vocab_size=300),
                              model=ModelConfig(6, 2, 16), evolution=EvolutionConfig(1, lifetime=life),
                              development=DevelopmentConfig(("connectome", "random"), 1, (4e-3,),
                                                            lifetime=life))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, threads(1):
        run = experiment(f"{folder}/run", config, show=False, device="cpu", workers=1, stages=("evolve",))
        layers, kinds = ["embedding", *(f"block{i}" for i in range(6)), "head"], {}

        def attributed(k):
            path = Path(folder, "copy")
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(run.path, path)
            attribute(path, layers[:k], design="ends", show=False, device="cpu", workers=1)
            kinds[k] = read_json(path / "attribution.json")["n_arms"]

        found = growth(lambda k: lambda: attributed(k), times=max(1, pairs // 5))
    return found | dict(kinds_of_newborns={f"{k}x": v for k, v in kinds.items()}, aim="0.8 to 1.2")


ROWS = {"litter": litter("small"), "litter, medium": litter("medium"), "growth of attribution with parts": parts}
