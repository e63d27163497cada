"""The stages that the fault suite interrupts, each small: what they need, and how they are begun or gone on with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from evonb.alignment.encoding import RidgeConfig
from evonb.alignment.reading import BehaviorConfig
from evonb.alignment.run import AlignConfig, align_run
from evonb.alignment.sources.toy_brain import toy_brain
from evonb.alignment.sources.toy_readers import ToyReaders, toy_reading
from evonb.connectomes.experiments import develop_run, experiment
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.core import Seeds
from evonb.populations.breeding import BreedConfig, breed
from evonb.populations.experts import ExpertConfig, ExpertsConfig, ToyConfig, toy_base, train_experts
from evonb.text.passages import split_words
from evonb.text.tokens import CorpusConfig
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig

LIFE = LifetimeConfig(steps=20, batch_size=8, context=16, lr=4e-3, warmup=4, eval_every=8, eval_windows=24,
                      checkpoint_every=4)  # fmt: skip
QUIET = dict(show=False, device="cpu")


def tiny(**changes) -> ExperimentConfig:
    "Both loops in about two seconds."
    made = ExperimentConfig(
        preset="tiny", corpus=CorpusConfig("toy-english", n_bytes=60_000, vocab_size=300),
        model=ModelConfig(1, 2, 16),
        evolution=EvolutionConfig(n_generations=2, prune_fraction=0.3, inheritance="rewind", rewind_step=5,
                                  lifetime=LIFE),
        development=DevelopmentConfig(("connectome", "random"), 2, (2e-3, 4e-3), test_windows=16, n_bootstrap=50,
                                      lifetime=replace(LIFE, steps=12)))  # fmt: skip
    return replace(made, **changes)


@dataclass(frozen=True)
class Stage:
    "`prepare(shared)` makes what all trials share; `work(shared, root)` begins `root/run` or goes on with it."
    name: str
    prepare: Callable
    work: Callable
    copies: str | None = None  # a run of `shared` that each trial begins with a copy of
    keeps: Callable | None = None  # (shared, root) -> what the run doesn't hold any more of what it held at first


def _evolved(shared: Path):
    experiment(shared / "evolved", tiny(), stages=("evolve",), **QUIET)


def _evolve(shared: Path, root: Path):
    experiment(root / "run", tiny(), resume=True, stages=("evolve",), **QUIET)


def _develop(shared: Path, root: Path):
    develop_run(root / "run", **QUIET)


TOY = ToyConfig(
    n_documents=150, vocab_size=400, model=ModelConfig(n_layer=1, n_head=2, n_embd=16),
    lifetime=LifetimeConfig(steps=10, batch_size=8, context=32, warmup=2, eval_windows=8),
)  # fmt: skip


def _experts(shared: Path):
    base = toy_base(shared / "bases", TOY, device="cpu", show=False)
    quick = ExpertConfig(rank=2, steps=4, warmup=1, batch_size=4, lr=1e-2, held_out=8)
    skills = dict(agreement="skill:agreement", count="skill:count_up", tense="skill:tense")
    train_experts(shared / "experts", ExpertsConfig(base.name, skills, "neutral", 40, 0, quick), show=False, base=base)


def breeding(shared: Path) -> BreedConfig:
    "Three methods and the baselines with two seeds, in about two seconds."
    return BreedConfig(
        experts=str(shared / "experts"), tasks=("skill:agreement", "skill:tense"), held_out=("skill:echo",),
        methods=("genome", "genome+", "coarse-to-fine"), budget=12, n_individuals=4, n_seeds=1, n_validation=8,
        n_test=8, ensemble_size=2, n_bootstrap=50,
    )  # fmt: skip


def _breed(shared: Path, root: Path):
    breed(root / "run", breeding(shared), resume=True, **QUIET)


def _grown(shared: Path):
    experiment(shared / "grown", tiny(development=replace(tiny().development, arms=("connectome",), lrs=(4e-3,))),
               **QUIET)  # fmt: skip


def _aligned(data: str):
    def work(shared: Path, root: Path):
        config = AlignConfig(str(shared / "grown"), data, untrained=1, n_permutations=20, n_bootstrap=50,
                             ridge=RidgeConfig(n_folds=2, inner_folds=2), delays=(1, 2), block=8, trim=2,
                             behavior=BehaviorConfig(frequency=("toy-english",), n_bootstrap=50, n_splits=10))
        align_run(root / "run", config, True, data=DATA[data](), cache=root / "features", **QUIET)
    return work


DATA = {
    "toy-brain": lambda: toy_brain(Seeds(0), n_subjects=2, n_rois=3, n_sentences=40, ceiling=0.6, trivial=0)[0],
    "toy-reading": lambda: toy_reading(people=ToyReaders(n_readers=6), passages=passages())[0],
}


def passages():
    "Three short stories."
    from evonb.text.toy_english import Grammar

    grammar = Grammar(Seeds(5))
    return [split_words(f"story {i}", " ".join(grammar.sentence() for _ in range(40))) for i in range(3)]


STAGES = {s.name: s for s in (
    Stage("evolve", lambda shared: None, _evolve),
    Stage("develop", _evolved, _develop, copies="evolved"),
    Stage("population", _experts, _breed),
    Stage("align-brain", _grown, _aligned("toy-brain")),
    Stage("align-reading", _grown, _aligned("toy-reading")),
)}  # fmt: skip


# Finished runs that are asked for more: what was there must be there at every moment.

ARMS, MORE_ARMS = ("connectome", "random"), ("connectome", "random", "sign_shuffled")


def _finished(shared: Path):
    small = replace(tiny().development, arms=ARMS, n_seeds=2, lrs=(4e-3,))
    experiment(shared / "finished", tiny(development=small), **QUIET)


def _extend(shared: Path, root: Path):
    develop_run(root / "run", dict(arms=MORE_ARMS, n_seeds=4), **QUIET)


def _scored(shared: Path):
    _grown(shared)
    _aligned("toy-reading")(shared, shared / "before")
    develop_run(shared / "grown", dict(arms=ARMS, n_seeds=3), **QUIET)


def kept(shared: Path, root: Path) -> list:
    "What a run of newborns that is extended doesn't hold any more."
    from evonb.store import read_dataset, read_json

    names = ("train_loss", "val_loss", "window_loss", "test_window_loss", "final_test_loss", "final_val_loss")
    before = read_dataset(shared / "finished" / "development.zarr.zip").load()
    now = read_dataset(root / "run" / "development.zarr.zip").load()
    if not {*before.arm.values} <= {*now.arm.values}:
        return [f"of the arms {before.arm.values.tolist()} there are {now.arm.values.tolist()}"]
    now, told = now.sel(arm=before.arm, seed=before.seed), read_json(root / "run" / "summary.json")["arms"]
    out = [f"{n} isn't what it was" for n in names if not before[n].identical(now[n].drop_vars(
        [c for c in now[n].coords if c not in before[n].coords]))]
    return out + [f"{a} isn't told any more" for a in before.arm.values if a not in told]


def kept_scores(shared: Path, root: Path) -> list:
    "What an alignment that is extended doesn't hold any more."
    from evonb.store import read_dataset, read_json

    before = read_dataset(shared / "before" / "run" / "reading.zarr.zip").load()
    now = read_dataset(root / "run" / "reading.zarr.zip").load()
    if not {*before.model.values} <= {*now.model.values}:
        return [f"of the models {before.model.values.tolist()} there are {now.model.values.tolist()}"]
    now = now.sel(model=before.model)
    same = {n: before[n].values.tobytes() == now[n].values.tobytes() for n in ("pearson", "gain")}
    out = [f"{n} isn't what it was" for n in same if not same[n]]
    told = read_json(root / "run" / "summary.json")["arms"]
    return out + [f"{a} isn't told any more" for a in before.arm.values if a not in told]


EXTENSIONS = {s.name: s for s in (
    Stage("more arms and newborns", _finished, _extend, copies="finished", keeps=kept),
    Stage("more models aligned", _scored, _aligned("toy-reading"), copies="before/run", keeps=kept_scores),
)}  # fmt: skip


def for_servers(shared: Path):
    "Experts and their base, for what is scored by a server."
    _experts(shared)


def base_of_experts(shared: Path) -> Path:
    "The folder of the base that the experts were trained on."
    return next((shared / "bases").iterdir())


def warm_up():
    "Import what stages import when they work, so that no child has to."
    import scipy.optimize  # noqa: F401
    import scipy.stats  # noqa: F401
    import transformers.generation  # noqa: F401
    import xarray  # noqa: F401
    import zarr  # noqa: F401

    import evonb.cli  # noqa: F401
    import evonb.training.connectome  # noqa: F401
