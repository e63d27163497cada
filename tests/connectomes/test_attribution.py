"""Attribution: transplanted wirings, designs against known truth, runs that resume, planted parts, and refusals."""

import itertools
import shutil
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evonb import cli
from evonb.cli import main
from evonb.connectomes.arms import ARMS, find_arm
from evonb.connectomes.attribution import (
    PartsDesign,
    attribute,
    attribution_map,
    attribution_statement,
    contrasts,
    judged_effects,
    new_design,
)
from evonb.connectomes.controls import control
from evonb.connectomes.experiments import experiment, taken_up
from evonb.connectomes.generations import inherited_connectome, life_folder, read_life
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.connectomes.transplants import part_matrices
from evonb.connectomes.wiring import prune
from evonb.core import ConnectomeError, InputError, RunExistsError, Seeds, Stopped, StopRequest
from evonb.store import open_run, read_dataset, read_json, write_json
from evonb.text.tokens import CorpusConfig, prepare
from evonb.training.connectome import Connectome
from evonb.training.gpt import GPTConfig, ModelConfig, new_gpt
from evonb.training.lifetime import LifetimeConfig

pytestmark = pytest.mark.numerics

RUN = Path(__file__).parents[1] / "runs" / "connectome.zip"
LIFE = LifetimeConfig(steps=30, batch_size=16, context=16, lr=2e-2, warmup=4, eval_every=15, eval_windows=48)
HEAD, TABLE = "lm_head.weight", "transformer.wte.weight"


def tiny(**kw):
    config = ExperimentConfig(
        preset="tiny", corpus=CorpusConfig("toy-english", n_bytes=120_000, vocab_size=320), model=ModelConfig(1, 2, 16),
        evolution=EvolutionConfig(n_generations=1, prune_fraction=0.6, lifetime=LIFE),
        development=DevelopmentConfig(("connectome", "random"), 2, (2e-2,), test_windows=16, lifetime=LIFE))
    return replace(config, **kw)


@pytest.fixture
def run(tmp_path):
    with zipfile.ZipFile(RUN) as z:
        z.extractall(tmp_path / "run")
    return open_run(tmp_path / "run")


def lifetimes(run):
    return [line for line in run.file("log.jsonl").read_text().splitlines() if '"event": "lifetime"' in line]


GAINS = dict(a=3.0, b=1.0, c=-2.0)
TOGETHER = {frozenset("ab"): 2.0, frozenset("ac"): 0.0, frozenset("bc"): -1.0}


def known_losses(design, noise=0.0):
    "A loss whose parts and pairs are known: (n_seeds, n_windows) a subset."
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4, 1)) + rng.normal(size=(1, 30))  # what pairing takes away
    gain = lambda s: sum(GAINS[p] for p in s) + sum(v for k, v in TOGETHER.items() if k <= s)  # noqa: E731
    return {design.arm(s): 10 - gain(s) + shared + noise * rng.normal(size=(4, 30)) for s in design.subsets()}


@pytest.mark.parametrize("kind", ["factorial", "ends"])
def test_effects_are_those_that_were_put_in(kind):
    design = PartsDesign("random", ("a", "b", "c"), kind, True)
    told = judged_effects(design, known_losses(design))
    pairs = {p: sum(v for k, v in TOGETHER.items() if p in k) for p in GAINS}
    for p, g in GAINS.items():
        assert told["alone", p, ""]["mean"] == pytest.approx(g)
        assert told["last", p, ""]["mean"] == pytest.approx(g + pairs[p])
        assert told["main", p, ""]["mean"] == pytest.approx(g + pairs[p] / 2)
        if kind == "ends":
            assert told["interaction", p, "rest"]["mean"] == pytest.approx(pairs[p])
    for (a, b), v in {tuple(sorted(k)): v for k, v in TOGETHER.items()}.items():
        assert kind == "ends" or told["interaction", a, b]["mean"] == pytest.approx(v)
    assert told["total", "all", ""]["mean"] == pytest.approx(sum(GAINS.values()) + sum(TOGETHER.values()))
    noisy = judged_effects(design, known_losses(design, 0.5))
    main_effect = noisy["main", "a", ""]
    assert main_effect["p_adjusted"] < 0.05 and main_effect["low"] < GAINS["a"] + 1 < main_effect["high"]
    assert main_effect["family"] == 1 + 3 + 3 and noisy["alone", "a", ""]["family"] == 6
    says = attribution_statement(noisy)
    assert "carries a head start" in says and says.index("a +") < says.index("b +") < len(says)


def test_contrasts_sum_to_nothing_and_designs_grow_as_they_say():
    for n, kind in itertools.product((2, 3, 5), ("factorial", "ends")):
        design = PartsDesign("random", tuple("abcde"[:n]), kind, True)
        kinds = 2**n if kind == "factorial" or n == 2 else 2 * n + 2
        assert len(design.subsets()) == len({*design.subsets()}) == kinds
        for key, coefficients in contrasts(design).items():
            assert sum(coefficients.values()) == pytest.approx(0) and coefficients, key
            assert set(coefficients) <= set(design.subsets())
    for shape in ((2, 5), (3, 2, 5)):  # seeds and windows; evolutions before them
        design = PartsDesign("random", ("a",), "factorial", True)
        noise = np.random.default_rng(0)
        told = judged_effects(design, {design.arm(s): noise.normal(size=shape) for s in design.subsets()})
        assert set(told) == {("total", "all", "")} and len(told["total", "all", ""]["units"]) == len(shape)


def test_arms_that_a_run_raises_anyway_are_not_raised_again():
    whole = PartsDesign("random", ("embedding", "head", "blocks"), "factorial", True)
    names = {whole.arm(s) for s in whole.subsets()}
    assert {"random", "connectome", "random+head", "random~head"} <= names and len(names) == 8
    part = PartsDesign("row_degree", ("head",), "factorial", False)
    assert [part.arm(s) for s in part.subsets()] == ["row_degree", "row_degree+head"]
    aspects = PartsDesign("random", ("mask", "signs"), "factorial", True)
    assert {aspects.arm(s) for s in aspects.subsets()} == {"random", "sign_shuffled", "random+signs", "connectome"}
    other = PartsDesign("other", ("head",), "factorial", False)
    assert other.arm(frozenset()) == "other+nothing" and find_arm("other+nothing").own


def test_transplants_are_wired_as_their_names_say(run):
    with taken_up(run.path, show=False) as exp:
        mine = inherited_connectome(run)
        null = exp.arm_wiring("random", 1)
        block = [n for n in mine.signs if ".h.0." in n]
        but = lambda *names: [n for n in mine.signs if n not in names]  # noqa: E731
        for arm, kept in {
            "random+head": [HEAD], "random~head": but(HEAD), "random+block0": block, "random+nothing": [],
            f"random~{TABLE}+block0": but(TABLE, *block), "random+attention+mlp": part_matrices(mine, "blocks"),
        }.items():  # fmt: skip
            made = exp.arm_wiring(arm, 1)
            for n, s in mine.signs.items():
                assert torch.equal(made.signs[n], (s if n in kept else null.signs[n]))
            assert made.info == dict(control=arm, of=mine.digest())
            assert not run.file("attribution", arm, "seed-1").exists()  # made of others, so not stored
        degrees = exp.arm_wiring("degree_preserving", 0)
        made = exp.arm_wiring("random+degrees+signs", 0)
        for n, s in mine.signs.items():
            both = (degrees.signs[n] != 0) & (s != 0)
            assert torch.equal(made.signs[n] != 0, degrees.signs[n] != 0)
            assert torch.equal(made.signs[n], torch.where(both, s, degrees.signs[n]))
        assert exp.arm_wiring("random+mask", 0).digest() == exp.arm_wiring("sign_shuffled", 0).digest()
        assert exp.arm_wiring("random~mask", 0).digest() == made.digest()  # all but the mask: degrees and signs
        assert "signed_degree" in exp.arm_wiring("signed_degree+head", 0).info["control"]


def test_attribution_of_a_run_is_told_resumed_shown_and_reported(run, capsys, monkeypatch):
    class Stop(StopRequest):
        def __bool__(self):
            return len(lifetimes(run)) - before > 2

    before, how = len(lifetimes(run)), dict(parts=("embedding", "head", "blocks"), show=False)
    developed = {p: p.read_bytes() for p in run.file("development").rglob("*") if p.is_file()}
    with pytest.raises(Stopped):
        attribute(run.path, stop=Stop(), **how)
    assert run.state()["status"] == "stopped"
    twin = run.path.parent / "twin"
    shutil.copytree(run.path, twin)
    attribute(run.path, **how)
    n_lives = len(lifetimes(run))
    attribute(run.path, **how)  # nothing is raised twice
    assert len(lifetimes(run)) == n_lives
    shutil.rmtree(twin / "attribution")
    attribute(twin, workers=2, **how)  # side by side, to the same bits
    ds, again = (read_dataset(p / "attribution.zarr.zip") for p in (run.path, twin))
    assert np.array_equal(ds.window_loss, again.window_loss) and np.array_equal(ds["mean"], again["mean"])
    assert_told_as_it_is(run, ds)
    for p, was in developed.items():
        assert p.read_bytes() == was or p.suffix == ".lock"  # what development holds stays
    # shown
    capsys.readouterr()
    assert main(["attribute", str(run.path), "--parts", "embedding,head,blocks"]) == 0
    out = capsys.readouterr().out
    assert read_json(run.file("attribution.json"))["statement"] in out and "main         head" in out
    assert_raised_by_a_cluster(run, capsys, monkeypatch)
    assert main(["report", str(run.path)]) == 0
    page = run.file("report.html").read_text()
    assert "What each part carries" in page and "can&#x27;t be shown" not in page and "can't be shown" not in page
    assert main(["develop", str(run.path), "--arms", "random+head"]) == 2
    assert "is raised by evonb attribute" in capsys.readouterr().err
    # another way of living isn't mixed in
    noted = read_json(run.file("attribution", "settings.json"))
    write_json(run.file("attribution", "settings.json"), noted | dict(lifetime=noted["lifetime"] | dict(steps=7)))
    with pytest.raises(RunExistsError, match="raised otherwise: lifetime.steps: 7 there"):
        attribute(run.path, **how)


def assert_raised_by_a_cluster(run, capsys, monkeypatch):
    "`--ray`: newborns are asked of the fleet, and local workers beside it are refused."

    class Fleet:  # as a cluster's: what it is asked for is raised before anything is told
        def raise_newborns(self, exp, items, needed=False):
            asked.extend(items)

    asked, own = [], cli.ability
    with monkeypatch.context() as m:
        m.setattr(cli, "ability", lambda k, n: (lambda a: nullcontext(Fleet())) if n == "fleet" else own(k, n))
        words = ["attribute", str(run.path), "--parts", "embedding,head,blocks", "--ray", "head:6379"]
        assert main(words) == 0 and main([*words, "--workers", "2"]) == 2
    assert ("random+head", 0) in {x[:2] for x in asked} and "leave one of them out" in capsys.readouterr().err


def assert_told_as_it_is(run, ds):
    "The dataset against what lifetimes left and effects by hand."
    arms = list(map(str, ds.arm.values))
    assert len(arms) == 8 and {"connectome", "random", "random+embedding", "random~embedding"} <= set(arms)
    lr = ds.chosen_lr.values[0]
    for arm, s in itertools.product(arms, (0, 1)):
        folder = life_folder(run, arm, s, float(ds.chosen_lr.sel(arm=arm)))
        assert folder.is_relative_to(run.file("attribution" if "+" in arm or "~" in arm else "development"))
        assert np.array_equal(ds.window_loss.sel(arm=arm, seed=s), read_life(folder)[0]["window_loss"].double())
        assert (folder / "model").is_dir() == (arm in ("connectome", "random"))
        assert not list(folder.glob("checkpoint-*"))
    loss = {a: ds.window_loss.sel(arm=a).values.mean() for a in arms}
    total = ds.sel(effect="total all")
    assert float(total["mean"]) == pytest.approx(loss["random"] - loss["connectome"]) and lr > 0
    inherits = {a: dict(zip(map(str, ds.part.values), ds.inherits.sel(arm=a).values)) for a in arms}
    head = np.mean([(-1 if inherits[a]["head"] else 1) * loss[a] for a in arms]) * 2
    assert float(ds["mean"].sel(effect="main head")) == pytest.approx(head)
    values, label = attribution_map(ds)
    assert values[HEAD] == pytest.approx(head) and "random" in label
    assert set(values) == set(inherited_connectome(run).signs)


def planted(folder, seed, part):
    "A run that was given a wiring dealt at random, but for one part, whose wires are all of use: on tokens that occur."
    life = replace(LIFE, steps=60, eval_every=30)
    config = tiny(seed=seed)
    config.development = replace(config.development, lrs=(5e-2,), lifetime=life)
    corpus = prepare(config.corpus, Seeds(seed).child("corpus"))
    sparse = prune(new_gpt(GPTConfig(vocab_size=320, n_layer=1, n_head=2, n_embd=16, block_size=16), Seeds(seed)), 0.97)
    rng = Seeds(seed).child("planted").numpy()
    random, useful = (control(sparse, k, rng, counts=corpus.counts("development")) for k in ("random", "seen_tokens"))
    name = part_matrices(sparse, part)[0]
    made = replace(random, signs=random.signs | {name: useful.signs[name]}, info={})
    made.save(folder / "planted.safetensors")
    config.connectome = str(folder / "planted.safetensors")
    return experiment(folder / "run", config, stages=(), show=False)


def first_found(run):
    "The part with the strongest main effect."
    ds = read_dataset(attribute(run.path, changes=dict(n_seeds=3), show=False).file("attribution.zarr.zip"))
    found = dict(zip(ds.of.values[ds.kind == "main"], ds["mean"].values[ds.kind == "main"]))
    return str(max(found, key=found.get))


@pytest.mark.parametrize("seed, part", [(0, "head"), (1, "embedding")])
def test_the_one_part_that_informs_is_found_first(tmp_path, seed, part):
    "Ten of them, seeds 0 to 9, are run by tests/bench/planted.py."
    assert first_found(planted(tmp_path, seed, part)) == part


def test_parts_of_one_evolution_live_in_the_frame_of_another(tmp_path):
    two = tiny()
    two.evolution.n_evolutions = 2
    two.development = replace(two.development, n_seeds=1)
    run = experiment(tmp_path / "two", two, show=False)
    a, b = (inherited_connectome(run, k) for k in (0, 1))
    with taken_up(run.path, show=False) as exp:
        for one, mine, other in zip(exp.lineages, (a, b), (b, a)):
            made = one.arm_wiring("other+blocks", 0)
            for n, s in mine.signs.items():
                assert torch.equal(made.signs[n], (s if ".h." in n else other.signs[n]))
    attribute(run.path, parts=("blocks",), null="other", show=False)
    ds = read_dataset(run.file("attribution.zarr.zip"))
    assert ds.window_loss.dims == ("arm", "lineage", "seed", "window") and np.isfinite(ds.window_loss).all()
    assert list(ds.arm.values) == ["other+nothing", "other+blocks"]
    assert run.file("lineage-1", "attribution", "other+blocks").is_dir()
    # the whole connectome of evolution 1, raised in evolution 0, isn't its own newborn: it starts elsewhere
    assert not np.array_equal(ds.window_loss[0, 0], ds.window_loss[0, 1])
    # a connectome from elsewhere takes the same place
    one = experiment(tmp_path / "one", tiny(seed=1), stages=("evolve",), show=False)
    given = inherited_connectome(one)
    with pytest.raises(ConnectomeError, match="was evolved with another tokenizer"):
        attribute(run.path, parts=("blocks",), null=str(one.path), show=False)
    replace(b, info={}).save(tmp_path / "b.safetensors")
    attribute(run.path, parts=("blocks",), null=str(tmp_path / "b.safetensors"), show=False)
    name = f"given-{b.digest()[:12]}+blocks"
    assert name in read_dataset(run.file("attribution.zarr.zip")).arm.values
    same = [read_life(life_folder(run, arm, 0, 2e-2))[0]["train_loss"] for arm in (name, "other+blocks")]
    assert torch.equal(*same) and given.n_live == a.n_live
    small = prune(new_gpt(GPTConfig(vocab_size=320, n_layer=1, n_head=1, n_embd=8, block_size=8), Seeds(0)), 0.5)
    small.save(tmp_path / "small.safetensors")
    with pytest.raises(ConnectomeError, match="of another architecture: transformer.wte.weight is .320, 8. there"):
        attribute(run.path, parts=("blocks",), null=str(tmp_path / "small.safetensors"), show=False)


def wiring(exempt=()):
    return prune(new_gpt(GPTConfig(vocab_size=40, n_layer=1, n_head=2, n_embd=16, block_size=16), Seeds(0)), 0.7,
                 exempt=exempt)  # fmt: skip


TIED = Connectome(*({n: s for n, s in x.items() if n != HEAD} for x in (wiring().signs, wiring().shapes)))
REFUSED = [
    (dict(parts=("haed",)), InputError, "part is 'haed', but this connectome has: embedding, head.*Did you mean head"),
    (dict(parts=("block7",)), InputError, "part is 'block7'"),
    (dict(parts=()), InputError, "Attribution needs a part"),
    (dict(parts=("head", "head")), InputError, "names the same twice"),
    (dict(parts=("attention", "block0")), InputError, "parts overlap: transformer.h.0.attn.c_attn.weight"),
    (dict(parts=("head", "mask")), InputError, "part is 'mask'|mask.*places|is a place"),
    (dict(parts="parts", kind="half"), InputError, "design is 'half'.*ends, factorial"),
    (dict(parts="matrices", kind="factorial"), InputError, "64 kinds|at most 6|A factorial of"),
    (dict(null="dense"), InputError, "dense deals no wiring"),
    (dict(null="connectome"), InputError, "connectome deals no wiring"),
    (dict(null="radnom"), InputError, "arm is 'radnom'.*Did you mean random"),
]


@pytest.mark.parametrize("asked, error, says", REFUSED)
def test_what_cannot_be_attributed_is_refused_before_anything_is_raised(asked, error, says):
    w = prune(new_gpt(GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=16, block_size=16), Seeds(0)), 0.7)
    with pytest.raises(error, match=says):
        new_design(w, **dict(parts=("head",)) | asked)


def test_parts_that_an_architecture_does_not_have_are_refused_with_the_reason():
    with pytest.raises(ConnectomeError, match="tied to the embedding"):
        new_design(TIED, ("head",))
    with pytest.raises(ConnectomeError, match="embedding .transformer.wte.weight. was exempt from pruning"):
        new_design(wiring(("embeddings",)), ("embedding",))
    assert new_design(TIED).parts == ("embedding", "attention", "mlp") and new_design(TIED).whole
    assert new_design(wiring(("embeddings", "head"))).parts == ("attention", "mlp")


def test_runs_that_cannot_be_attributed_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="has only one. Add one: evonb develop .* --evolutions 2"):
        attribute(run.path, parts=("head",), null="other", show=False)
    with pytest.raises(InputError, match="lifetime can't be changed here"):
        attribute(run.path, changes=dict(lifetime=LIFE), show=False)
    with pytest.raises(FileNotFoundError):
        attribute(tmp_path / "none", show=False)
    shutil.rmtree(run.file("evolution", "gen-01"))
    with pytest.raises(ConnectomeError, match="of . generations. Resume `evonb evolve` first"):
        attribute(run.path, show=False)
    assert not run.file("attribution").exists() and "random" in ARMS
