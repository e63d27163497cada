"""Fuzzing of every reader: seeded changes of valid files, read in a child with a bound on memory and time.

`python tests/faults/fuzz.py` gives each reader 10,000 inputs and writes the counts to docs/results/fuzz.json;
`python tests/faults/fuzz.py --reader nifti --seed 123` repeats one input and shows what happened.
A reader may return, or raise evonb's own errors or FileNotFoundError. Anything else is a fault, and so are a crash,
an input that computes for longer than `SECONDS`, and memory that grows by more than `BOUND`.
"""

import argparse
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import mutate as m  # noqa: E402
import numpy as np  # noqa: E402
import reachable  # noqa: E402

SECONDS = 5  # of computing, for one input
WAITING = 90  # seconds that pass meanwhile, on a machine that others use, too
BOUND = 400e6  # bytes by which a reader's memory may grow over all inputs
SPACE = 1e9  # bytes of address space that an input may ask for
MAX_BYTES = 1e8  # what readers with a bound of their own are told
N = 10_000
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "fuzz.json"


@dataclass(frozen=True)
class Reader:
    make: Callable  # folder -> the file that is changed, with all that belongs to it beside it
    read: Callable  # that file
    kinds: tuple = (m.some_bytes,)  # how it is changed
    name: str = ""  # what the changed file is called in messages
    share: float = 1.0  # of the inputs that others get: a whole page takes a second
    apart: bool = False  # evonb reads it in a process of its own first, which may crash, hang or run out of memory
    family: object = None  # what reads the file, for readers that share a folder: see reachable.py


READERS = {}


def reader(name, *kinds):
    "Register make() and read() of a function that returns both."
    def known(f):
        READERS[name] = Reader(*f(), kinds or (m.some_bytes,), name)
        return f
    return known


def written(folder, name, content):
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- the run folder -------------------------------------------------------------------------------------------------


def _run(folder):
    from evonb.store import create_run

    with create_run(folder / "run", dict(seed=0, corpus=dict(source="toy-english", n_bytes=None)), "connectome") as run:
        run.log("generation", generation=1, density=0.5)
    return folder / "run"


def _see_run(path):
    from evonb.store import open_run

    run = open_run(path.parent)
    repr(run), run._repr_html_(), run.events(), run.file("a.json")
    return run


@reader("run.json", m.some_bytes, m.json_file, m.sealed_json, m.sealed_json)
def _(): return lambda f: _run(f) / "run.json", _see_run


@reader("state.json", m.some_bytes, m.json_file, m.sealed_json, m.sealed_json)
def _(): return lambda f: _run(f) / "state.json", _see_run


@reader("log.jsonl", m.some_lines, m.json_lines)
def _(): return lambda f: _run(f) / "log.jsonl", _see_run


@reader("tensors", m.some_bytes, m.tensor_header, m.sealed_tensors)
def _():
    def make(folder):
        import torch

        from evonb.store import write_tensors

        write_tensors(folder / "a.safetensors", dict(w=torch.arange(6.0).reshape(2, 3), n=torch.tensor([1, 2])),
                      dict(step=3, config=dict(lr=0.1, names=["a", "b"])))
        return folder / "a.safetensors"

    def read(path):
        from evonb.store import read_tensors

        return read_tensors(path)
    return make, read


@reader("dataset", m.some_bytes, m.sealed_archive)
def _():
    def make(folder):
        import xarray as xr

        from evonb.store import write_dataset

        ds = xr.Dataset({"loss": (("arm", "step"), np.arange(6.0).reshape(2, 3), dict(units="nats/token"))},
                        dict(arm=["connectome", "random"]), dict(notes="[]"))
        write_dataset(folder / "r.zarr.zip", ds)
        return folder / "r.zarr.zip"

    def read(path):
        from evonb.store import read_dataset

        return repr(read_dataset(path, MAX_BYTES))
    return make, read


@reader("files.json", m.some_bytes, m.json_file, m.sealed_json, m.sealed_json)
def _():
    def make(folder):
        from evonb.store import writing_folder

        with writing_folder(folder / "model") as t:
            (t / "config.json").write_text("{}")
            (t / "weights.bin").write_bytes(b"abc")
        return folder / "model" / "files.json"

    def read(path):
        from evonb.store import check_folder

        return check_folder(path.parent)
    return make, read


# --- connectomes, genomes, evolutions -------------------------------------------------------------------------------


def _connectome(folder):
    import torch

    from evonb.training.connectome import Connectome

    signs = dict(a=torch.tensor([[1, 0, -1, 0]], dtype=torch.int8).repeat(3, 1), b=torch.eye(5, dtype=torch.int8))
    Connectome(signs, dict(a=(3, 4), b=(5, 5), c=(7,)), 0.02, dict(generation=1)).save(folder / "c.safetensors")
    return folder / "c.safetensors"


@reader("connectome", m.some_bytes, m.tensor_header, m.sealed_tensors, m.sealed_tensors)
def _():
    def read(path):
        from evonb.training.connectome import Connectome

        c = Connectome.load(path)
        return c.density, c.n_trainable, c.digest(), c.summary()
    return _connectome, read


@reader("wiring", m.some_bytes, m.tensor_header, m.sealed_tensors, m.sealed_tensors)
def _():
    def read(path):
        from evonb.widgets.connectome import _read, read_wiring

        try:
            return read_wiring(path)
        finally:
            _read.clear()
    return _connectome, read


def _adapter(folder):
    from evonb.core import Seeds
    from evonb.training.adapters import random_adapter, write_adapter

    made = random_adapter({"h.0.q": (6, 4), "h.1.v": (4, 4)}, 2, Seeds(0), base="toy")
    write_adapter(made, folder / "adapter")
    (folder / "adapter" / "files.json").unlink()  # as PEFT writes it
    return folder / "adapter"


def _read_adapter(path):
    from evonb.training.adapters import read_adapter

    a = read_adapter(path.parent)
    return repr(a), a._repr_html_(), a.digest()


@reader("adapter_config.json", m.some_bytes, m.json_file, m.json_file, m.json_file)
def _(): return lambda f: _adapter(f) / "adapter_config.json", _read_adapter


@reader("adapter_model.safetensors", m.some_bytes, m.tensor_header, m.tensor_header)
def _(): return lambda f: _adapter(f) / "adapter_model.safetensors", _read_adapter


@reader("scores", m.some_bytes, m.tensor_header, m.sealed_tensors, m.sealed_tensors)
def _():
    key = "ab" + "0" * 62

    def make(folder):
        from evonb.tasks.fitness import Cache
        from evonb.tasks.tasks import mean_score

        Cache(folder).put(key, mean_score([1.0, 0.0, 1.0], option_scores=np.array([[0.0, -1.0]] * 3)))
        return next(folder.glob("*/*.safetensors"))

    def read(path):
        from evonb.tasks.fitness import Cache

        return repr(Cache(path.parents[1]).get(key))
    return make, read


@reader("score batch", m.some_bytes, m.tensor_header, m.sealed_tensors, m.sealed_tensors)
def _():
    def make(folder):
        from evonb.populations.breeding import RunCache
        from evonb.tasks.tasks import mean_score

        cache = RunCache(folder / "cache")
        for k in "ab":
            cache.put(k * 64, mean_score([1.0, 0.0], option_scores=np.array([[0.0, -1.0]] * 2)))
        cache.keep()
        return next((folder / "cache").glob("*.safetensors"))

    def read(path):
        from evonb.populations.breeding import RunCache

        return len(RunCache(path.parent))
    return make, read


def _evolution(folder, kind, unfinished=False):
    from evonb.core import Seeds
    from evonb.evolution.method import METHODS, Outcome, TaskResult
    from evonb.evolution.search import evolve
    from evonb.populations.spaces import AdapterSpace, CoefficientSpace
    from evonb.training.adapters import random_adapter

    experts = {n: random_adapter({"h.0.q": (6, 4)}, 2, Seeds(i)) for i, n in enumerate("abc")}
    space = CoefficientSpace(experts) if kind == "coefficients" else AdapterSpace(experts, "factors")
    left = [6 if unfinished else 99]

    def evaluate(genomes):
        left[0] -= len(genomes)
        if left[0] < 0:
            raise KeyboardInterrupt
        margins = [np.linspace(-1, 1, 4) + space.digest(g).count("a") / 9 for g in genomes]
        credit = [(x > 0).astype(float) for x in margins]
        return [Outcome(float(c.mean()), {"t": TaskResult(float(c.mean()), np.c_[x * 0, -x], c)})
                for x, c in zip(margins, credit)]

    method = METHODS["genome+" if kind == "coefficients" else "genome"](space, dict(population_size=4), Seeds(0))
    try:
        evolve(method, evaluate, 8, folder / "evolve" / "x" / "seed-0", chunk=2, show=False)
    except KeyboardInterrupt:
        pass
    return folder / "evolve" / "x" / "seed-0"


def _stored(path):
    from evonb.evolution.search import stored_history
    from evonb.widgets.population import stored_genomes

    return repr(stored_history(path.parent)), repr(stored_genomes(path.parent))


@reader("evolution of coefficients", m.some_bytes, m.sealed_tensors, m.sealed_tensors, m.sealed_tensors)
def _(): return lambda f: _evolution(f, "coefficients") / "method.safetensors", _stored


@reader("evolution of adapters", m.some_bytes, m.sealed_tensors, m.sealed_tensors, m.sealed_tensors)
def _(): return lambda f: _evolution(f, "adapters") / "method.safetensors", _stored


@reader("evolution's rows", m.some_bytes, m.some_lines, m.json_lines)
def _(): return lambda f: _evolution(f, "coefficients") / "rows.jsonl", _stored


@reader("evolution's individuals", m.some_bytes, m.tensor_header, m.sealed_tensors, m.sealed_tensors)
def _(): return lambda f: min(_evolution(f, "adapters").glob("individuals-*.safetensors")), _stored


def _resumed(path):
    "What `evolve` does first with a folder that holds an evolution."
    import types

    from evonb.core import Seeds
    from evonb.evolution.method import METHODS
    from evonb.evolution.search import Evolution
    from evonb.populations.spaces import CoefficientSpace
    from evonb.training.adapters import random_adapter

    experts = {n: random_adapter({"h.0.q": (6, 4)}, 2, Seeds(i)) for i, n in enumerate("abc")}
    method = METHODS["genome+"](CoefficientSpace(experts), dict(population_size=4), Seeds(0))
    run = Evolution(method, None, 8, path.parent, 2)
    run.about |= dict(tasks={}, weights={})
    run.check_settings = types.MethodType(lambda self, stored: None, run)
    run.resume()
    run.method.asked = list(run.method.asked or [])
    return run.unfinished()


@reader("evolution resumed", m.sealed_tensors)
def _(): return lambda f: _evolution(f, "coefficients", True) / "method.safetensors", _resumed


@reader("curves", m.some_bytes, m.tensor_header, m.sealed_tensors)
def _():
    def make(folder):
        import torch

        from evonb.store import write_tensors

        curves = {k: torch.arange(3.0) for k in ("train_loss", "val_step", "val_loss")}
        write_tensors(folder / "lived.safetensors", curves, dict(seconds=1.0))
        return folder / "lived.safetensors"

    def read(path):
        from types import SimpleNamespace

        from evonb.widgets.monitor import Picture, _store_life, read_curves

        assert Picture
        picture = SimpleNamespace(stored={}, lives={}, now="")
        _store_life(picture, "evolution/gen-0", path, "over")
        return read_curves(path)
    return make, read


# --- corpora --------------------------------------------------------------------------------------------------------


@reader("text", m.some_bytes, m.some_lines)
def _():
    def read(path):
        from evonb.core import Seeds
        from evonb.text.corpora import load_corpus, split_corpus

        corpus = load_corpus(path)
        repr(corpus), corpus._repr_html_()
        return split_corpus(corpus, Seeds(0), block_bytes=16)
    text = "".join(f"The cat saw {i} dogs.\r\nIt was é, one says.\n" for i in range(9))
    return lambda f: written(f, "a.txt", text), read


@reader("corpus.jsonl", m.some_lines, m.json_lines, m.json_lines)
def _():
    def read(path):
        from evonb.text.corpora import load_corpus

        corpus = load_corpus(path, n_bytes=64)
        return repr(corpus), corpus._repr_html_()
    text = "\n".join(json.dumps(dict(text=f"text {i} é", n=i)) for i in range(4))
    return lambda f: written(f, "a.jsonl", text), read


def _read_formats(path):
    from evonb.text.corpora import load_corpus

    return repr(load_corpus(path, n_bytes=64))


@reader("corpus.csv", m.some_bytes, m.some_lines)
def _():
    text = "id,text\n" + "".join(f'{i},"The cat saw {i} dogs, it ""said""."\n' for i in range(9))
    return lambda f: written(f, "a.csv", text), _read_formats


@reader("corpus in JSON", m.some_bytes)
def _():
    text = json.dumps([dict(text=f"text {i} é", n=i) for i in range(9)], indent=1)
    return lambda f: written(f, "a.json", text), _read_formats


@reader("corpus.txt.gz", m.some_bytes)
def _():
    import gzip

    def make(folder):
        (folder / "a.txt.gz").write_bytes(gzip.compress(b"The cat saw the dogs.\n" * 200))
        return folder / "a.txt.gz"
    return make, _read_formats


@reader("token shard")
def _():
    def make(folder):
        from evonb.text.tokens import write_shard

        return write_shard(folder / "a.bin", np.arange(300))

    def read(path):
        from evonb.text.tokens import read_shard

        return int(read_shard(path).max())
    return make, read


def _tokenizer(folder):
    from evonb.text.tokens import train_tokenizer

    train_tokenizer(["the cat saw the dog and the cat"] * 3, 260).save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


def _read_tokenizer(path):
    from evonb.text.tokens import load_tokenizer

    t = load_tokenizer(path.parent)
    return t.backend_tokenizer.encode("the cat").ids


@reader("tokenizer.json", m.some_bytes, m.json_file, m.json_file, m.json_file)
def _(): return lambda f: _tokenizer(f) / "tokenizer.json", _read_tokenizer


@reader("tokenizer_config.json", m.some_bytes, m.json_file, m.json_file, m.json_file)
def _(): return lambda f: _tokenizer(f) / "tokenizer_config.json", _read_tokenizer


@reader("corpus.json", m.some_bytes, m.json_file, m.sealed_corpus, m.sealed_corpus)
def _():
    def make(folder):
        from evonb.core import Seeds
        from evonb.text.tokens import CorpusConfig, prepare, save_prepared, write_shard

        write_shard(folder / "s.bin", np.arange(400) % 300)
        (folder / "corpus").mkdir()
        save_prepared(prepare(CorpusConfig(str(folder / "s.bin"), vocab_size=300, block_bytes=64), Seeds(0)),
                      folder / "corpus")
        return folder / "corpus" / "corpus.json"

    def read(path):
        from evonb.text.tokens import open_prepared

        p = open_prepared(path.parent)
        return repr(p), p._repr_html_()
    return make, read


# --- settings -------------------------------------------------------------------------------------------------------


@reader("settings", m.json_file)
def _():
    kinds = dict(generations="connectomes.settings:ExperimentConfig", experts="populations.experts:ExpertsConfig",
                 breeding="populations.breeding:BreedConfig", alignment="alignment.run:AlignConfig",
                 genome="evolution.method:Lineage")

    def made():
        import importlib

        places = {k: v.split(":") for k, v in kinds.items()}
        return {k: getattr(importlib.import_module(f"evonb.{module}"), name) for k, (module, name) in places.items()}

    def make(folder):
        from evonb.core import to_dict

        given = dict(breeding=dict(experts="x", tasks=("skill:reverse",)),
                     experts=dict(experts=dict(a="skill:reverse")),
                     alignment=dict(source="toy", data="toy-reading"))
        text = {k: to_dict(c(**given.get(k, {}))) for k, c in made().items()}
        return written(folder, "settings.json", json.dumps(text))

    def read(path):
        from evonb.core import InputError, from_dict

        try:
            given = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            raise InputError("not JSON") from None
        for k, c in made().items():
            if isinstance(given, dict) and k in given:
                config = from_dict(c, given[k])
                if hasattr(config, "check"):
                    config.check()
    return make, read


@reader("--set", m.some_lines)
def _():
    def read(path):
        from evonb.cli import with_settings
        from evonb.connectomes.settings import ExperimentConfig

        text = path.read_bytes().decode(errors="replace")
        return with_settings(ExperimentConfig(), text.split("\n"))
    return lambda f: written(f, "set", 'evolution.n_generations=6\ncorpus.source="x"\ndevelopment.lrs=[1,2]\n'
                                       "model.n_embd=64"), read


# --- tasks ----------------------------------------------------------------------------------------------------------


def _task_lines(name, kind, rows):
    def read(path):
        from evonb.tasks.tasks import Task

        task = Task.from_jsonl(path, kind, n_validation=2)
        return repr(task), task._repr_html_(), task.requests(), task.texts("validation")
    READERS[name] = Reader(lambda f: written(f, "t.jsonl", "\n".join(map(json.dumps, rows))), read,
                           (m.some_lines, m.json_lines, m.json_lines), name)


_task_lines("task: choice", "choice", [dict(prompt=f"q {i}", options=["a", f"b{i}"], answer=0, group="g") for i in
                                       range(4)])
_task_lines("task: pairs", "pairs", [dict(sentence_good=f"A {i}.", sentence_bad=f"B {i}.") for i in range(4)])
_task_lines("task: perplexity", "perplexity", [dict(text=f"Text {i}.") for i in range(4)])
_task_lines("task: exact", "exact", [dict(prompt=f"q {i}", answer=f"word {i}") for i in range(4)])
_task_lines("task: numeric", "numeric", [dict(prompt=f"q {i}", answer=x) for i, x in enumerate((1, "2/3", 1e9, "-4"))])


@reader("BLiMP", m.some_lines, m.json_lines, m.json_lines)
def _():
    rows = [dict(sentence_good=f"A {i}.", sentence_bad=f"B {i}.", UID="x", pairID=str(i)) for i in range(4)]

    def read(path):
        from evonb.tasks.tasks import Task

        return Task.from_pairs(path, n_validation=2)._repr_html_()
    return lambda f: written(f, "x.jsonl", "\n".join(map(json.dumps, rows))), read


@reader("HellaSwag", m.some_lines, m.json_lines, m.json_lines)
def _():
    rows = [dict(ctx_a=f"A man {i}", ctx_b="he", ctx=f"A man {i} he", activity_label="Run", endings=["a.", "b.", "c."],
                 label=i % 3, source_id="activitynet~x", split="val") for i in range(4)]

    def read(path):
        from evonb.tasks.tasks import Task

        return Task.from_hellaswag(path, n_validation=2)._repr_html_()
    return lambda f: written(f, "x.jsonl", "\n".join(map(json.dumps, rows))), read


@reader("MMLU", m.some_lines)
def _():
    text = "".join(f'"What, is {i}?",a{i},b,"c ""d""",d,{"ABCD"[i]}\n' for i in range(4))

    def make(folder):
        for split in ("dev", "val"):
            written(folder, f"mmlu/{split}/algebra_{split}.csv", text.replace("What", split))
        return written(folder, "mmlu/test/algebra_test.csv", text)

    def read(path):
        from evonb.tasks.tasks import Task

        return Task.from_mmlu(path.parents[1], shots=1, n_validation=2, n_test=2)._repr_html_()
    return make, read


@reader("record of opened tests", m.some_lines, m.json_lines, m.json_lines)
def _():
    row = dict(time="t", run="r", individual="i", task="t", digest="d", n_items=3, opened_before=0)

    def read(path):
        from evonb.tasks.tasks import read_record

        return sum(e["digest"] == "d" for e in read_record(path))
    return lambda f: written(f, "tests.jsonl", "".join(json.dumps(row) + "\n" for _ in range(3))), read


@reader("texts of an expert", m.some_lines, m.json_lines, m.json_lines)
def _():
    rows = [dict(text="a b"), dict(prompt="c", completion=" d"), dict(text="e f")]

    def read(path):
        from evonb.populations.experts import expert_texts

        return expert_texts(str(path), 10)
    return lambda f: written(f, "t.jsonl", "\n".join(map(json.dumps, rows))), read


# --- published models -----------------------------------------------------------------------------------------------


def _gpt():
    from evonb.core import Seeds
    from evonb.training.gpt import GPTConfig, new_gpt

    return new_gpt(GPTConfig(vocab_size=8, n_layer=1, n_head=1, n_embd=4, block_size=8), Seeds(0))


def _load_published(path):
    from evonb.training.gpt import load_published

    return load_published(path if path.suffix == ".pt" else path.parent)


def _published(folder, sharded=False):
    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in _gpt().state_dict().items()}
    folder = folder / "published"
    folder.mkdir()
    config = dict(model_type="GenerationalPruning.GPT", vocab_size=8, n_layer=1, n_head=1, n_embd=4, block_size=8)
    written(folder, "config.json", json.dumps(config))
    save_file(state, folder / ("a.safetensors" if sharded else "model.safetensors"))
    if sharded:
        index = dict(weight_map={k: "a.safetensors" for k in state})
        written(folder, "model.safetensors.index.json", json.dumps(index))
    return folder


@reader("model.pt", m.some_bytes, m.zipped(m.some_bytes), m.zipped(m.flip))
def _():
    def make(folder):
        import torch

        written(folder, "config.json", (_published(folder) / "config.json").read_bytes())
        torch.save(dict(model_state_dict=_gpt().state_dict()), folder / "model.pt")
        return folder / "model.pt"
    return make, _load_published


@reader("model_generation_1.pt", m.some_bytes, m.zipped(m.some_bytes), m.zipped(m.flip))
def _():
    def make(folder):
        from argparse import Namespace

        import numpy as np
        import torch

        state, file = _gpt().state_dict(), folder / "model_generation_1.pt"
        torch.save(dict(weights=state, mask={n: torch.ones_like(t) for n, t in state.items()}, cfg=dict(n_head=1),
                        args=Namespace(lr=.1), best_val_loss=np.float64(3)), file)
        return file

    def read(path):
        from evonb.training.connectome import Connectome
        return Connectome.load(path)
    return make, read


@reader("config.json", m.some_bytes, m.json_file, m.json_file, m.json_file)
def _(): return lambda f: _published(f) / "config.json", _load_published


@reader("model.safetensors", m.some_bytes, m.tensor_header)
def _(): return lambda f: _published(f) / "model.safetensors", _load_published


@reader("model.safetensors.index.json", m.some_bytes, m.json_file, m.json_file)
def _(): return lambda f: _published(f, True) / "model.safetensors.index.json", _load_published


# --- reading times and responses ------------------------------------------------------------------------------------

WORDS = "the cat saw a dog and then it ran off".split()


def _table(name, sep):
    rows = [f"word{sep}time{sep}order{sep}story{sep}reader"]
    rows += [sep.join((w, str(300 + 7 * i + r), str(i), "1", f"r{r}")) for r in range(2) for i, w in enumerate(WORDS)]

    def read(path):
        from evonb.alignment.sources.reading_tables import reading_table

        r = reading_table(path, story="story", reader="reader")
        return repr(r), r._repr_html_()
    READERS[f"table{Path(name).suffix}"] = Reader(lambda f: written(f, name, "\n".join(rows) + "\n"), read,
                                                  (m.some_lines, m.some_lines, m.some_bytes), name)


_table("t.csv", ",")
_table("t.tsv", "\t")


def _stories(folder):
    folder = folder / "stories"
    zones = list(enumerate(WORDS, 1))
    lines = {"all_stories.tok": ["word\tzone\titem", *(f"{w}\t{z}\t1" for z, w in zones)],
             "processed_wordinfo.tsv": ["word\tzone\titem\tmeanItemRT", *(f"{w}\t{z}\t1\t{300 + z}" for z, w in zones)],
             "processed_RTs.tsv": ["WorkerId\tword\tzone\titem\tRT",
                                   *(f"w{k}\t{w}\t{z}\t1\t{300 + z}" for k in range(2) for z, w in zones)],
             "words.tsv": [f"1.{z}.whole\t{w}" for z, w in zones],
             "all_stories_gpt3.csv": ["token,logprob,story", *(f"{' ' * (z > 1)}{w},-{z}.5,0" for z, w in zones)]}
    for name, rows in lines.items():
        written(folder, name, "\n".join(rows) + "\n")
    return folder


def _natural(file, **options):
    def read(path):
        from evonb.alignment.sources.natural_stories import gpt3_surprisal, natural_stories

        if options.get("gpt3"):
            return gpt3_surprisal(path.parent)
        return natural_stories(path.parent, **options)._repr_html_()
    READERS[f"Natural Stories: {file}"] = Reader(lambda f: _stories(f) / file, read, (m.some_lines, m.some_bytes), file)


_natural("all_stories.tok")
_natural("processed_wordinfo.tsv")
_natural("processed_RTs.tsv", readers=True)
_natural("words.tsv", gpt3=True)
_natural("all_stories_gpt3.csv", gpt3=True)


def _assembly(form, engine):
    def make(folder):
        import xarray as xr

        times = np.arange(300.0, 320.0).reshape(10, 2)
        ds = xr.DataArray(times, dims=("presentation", "subject"), name="data", coords=dict(
            word=("presentation", WORDS), story_id=("presentation", np.repeat([1, 2], 5)),
            word_id=("presentation", np.arange(10)), subject_id=("subject", ["a", "b"]))).to_dataset()
        ds.to_netcdf(folder / "a.nc", engine=engine, format=form)
        return folder / "a.nc"

    def read(path):
        from evonb.alignment.sources import futrell2018 as behavior

        behavior._run_apart = lambda *_: ""  # this process is the other one; see `Reader.apart`
        return behavior.futrell2018(path, max_bytes=MAX_BYTES)._repr_html_()
    return make, read


@reader("netCDF 3", m.some_bytes, m.flip, m.number)
def _(): return _assembly("NETCDF3_64BIT", "scipy")


@reader("netCDF 4", m.some_bytes, m.flip, m.number)
def _(): return _assembly("NETCDF4", "h5netcdf")


READERS["netCDF 4"] = replace(READERS["netCDF 4"], apart=True)


@reader("TextGrid", m.some_lines, m.some_bytes)
def _():
    words = "\n".join(f'{i / 2}\n{i / 2 + 0.5}\n"{w}"' for i, w in enumerate(WORDS))
    text = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n5\n<exists>\n1\n"IntervalTier"\n"word"\n0\n5\n' \
           f"{len(WORDS)}\n{words}\n"

    def read(path):
        from evonb.alignment.sources.alice import spoken_words

        return spoken_words(path)
    return lambda f: written(f, "a.TextGrid", text), read


@reader("Alice: numbers", m.some_lines, m.some_bytes)
def _():
    def read(path):
        from evonb.alignment.sources.alice import number_table

        return number_table(path).shape
    return lambda f: written(f, "s1-rate.txt", "".join(f"{i / 7:.4f} {i}\n" for i in range(20))), read


@reader("Tuckute", m.some_lines, m.some_bytes)
def _():
    rows = ["response_target,roi,target_UID,item_id,sentence,cond"]
    rows += [f'{(i * 7 + p) % 5}.5,{roi},{p},{i},"Sentence {i}, it is.",B' for i in range(4) for p in (1, 2)
             for roi in ("lang_LH_IFG", "lang_LH_MFG")]

    def read(path):
        from evonb.alignment.sources.tuckute2024 import tuckute2024

        return tuckute2024(path, rois=None)._repr_html_()
    return lambda f: written(f, "t.csv", "\n".join(rows) + "\n"), read


@reader("data by its columns", m.some_lines, m.some_bytes)
def _():
    def read(path):
        from evonb.alignment.run import open_data

        return repr(open_data(path))
    rows = ["word,time,order", *(f"{w},{300 + i},{i}" for i, w in enumerate(WORDS))]
    return lambda f: written(f, "t.csv", "\n".join(rows) + "\n"), read


@reader("localiser", m.some_lines, m.some_bytes)
def _():
    def read(path):
        from evonb.alignment.localiser import read_langloc

        return read_langloc(path.parent)
    head = ",".join(f"stim{i}" for i in range(1, 15))
    rows = [head, *(",".join([str(i), *(f"W{j}" for j in range(12)), "SN"[i % 2]]) for i in range(4))]
    return lambda f: written(f, "loc/langloc_1.csv", "\n".join(rows) + "\n"), read


def _reading(folder):
    import xarray as xr

    from evonb.alignment.features import seal_store

    path = folder / "KEY.zarr"
    ds = xr.Dataset(dict(hidden=(("layer", "item", "feature"), np.zeros((2, 3, 4), "f4") + 1),
                         surprisal=("item", np.arange(3.0))), dict(item=np.array(["a", "b", "c"], object)))
    ds.to_zarr(path, zarr_format=3, consolidated=False)
    seal_store(path)
    return path


def _read_reading(path):
    from evonb.alignment.features import open_reading, seal_store

    folder = next(p for p in path.parents if p.suffix == ".zarr")
    try:  # the checksums that the store should have, made anew
        seal_store(folder)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return repr(open_reading(folder, MAX_BYTES))


@reader("stored reading: zarr.json", m.json_file, m.json_file, m.some_lines)
def _(): return lambda f: _reading(f) / "zarr.json", _read_reading


@reader("stored reading: hidden/zarr.json", m.json_file, m.json_file, m.some_lines)
def _(): return lambda f: _reading(f) / "hidden" / "zarr.json", _read_reading


@reader("stored reading: chunk", lambda data, r: m.zarr_part("c", data, r))
def _(): return lambda f: next((_reading(f) / "item").glob("c/*")), _read_reading


# --- brains ---------------------------------------------------------------------------------------------------------


def _volume(folder, name, shape=(3, 4, 5)):
    import nibabel as nib

    from evonb.alignment.volumes import make_volume, write_volume

    values = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    grid = nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1]))
    if len(shape) == 4:
        grid.header.set_xyzt_units("mm", "sec")
        grid.header["pixdim"][4] = 2
        nib.save(grid, folder / name)
    else:
        write_volume(folder / name, make_volume(values, grid, "score"))
    return folder / name


def _read_volume(path):
    from evonb.alignment.volumes import read_volume

    return read_volume(path, max_bytes=MAX_BYTES).label


@reader("NIfTI", m.some_bytes, m.header_number, m.header_number, m.flip)
def _(): return lambda f: _volume(f, "a.nii"), _read_volume


@reader("NIfTI.gz", m.some_bytes, m.gzipped(m.header_number), m.gzipped(m.some_bytes))
def _(): return lambda f: _volume(f, "a.nii.gz"), _read_volume


@reader("NIfTI run", m.some_bytes, m.header_number, m.header_number)
def _():
    def read(path):
        from evonb.alignment.images import header_tr, measured_mask

        return measured_mask(path, MAX_BYTES), header_tr
    return lambda f: _volume(f, "run.nii", (3, 4, 2, 5)), read


@reader("GIFTI", m.some_lines, m.some_bytes, m.text_number, m.word)
def _():
    def make(folder):
        from evonb.alignment.surfaces import Surface, write_surface

        return write_surface(folder / "a.gii", Surface("left", np.arange(10242, dtype="f4") % 7, "score"))

    def read(path):
        from evonb.alignment.surfaces import read_surface

        return read_surface(path, "left").label
    return make, read


@reader("CIFTI", m.some_bytes, m.header_number, m.word, m.text_number)
def _():
    def make(folder):
        import nibabel as nib
        from nibabel.cifti2 import BrainModelAxis, SeriesAxis

        axis = BrainModelAxis.from_surface(np.arange(4), 10, "CortexLeft")
        nib.Cifti2Image(np.arange(20, dtype="f4").reshape(5, 4), (SeriesAxis(0, 2, 5), axis)).to_filename(
            folder / "a.dtseries.nii")
        return folder / "a.dtseries.nii"

    def read(path):
        from evonb.alignment.images import run_signals

        return run_signals(path, str(path), max_bytes=MAX_BYTES).tr
    return make, read


@reader("events.tsv", m.some_lines, m.some_bytes)
def _():
    def read(path):
        from evonb.alignment.images import read_events

        return read_events(path, "The events")
    rows = ["onset\tduration\tword", *(f"{i / 2}\t0.4\t{w}" for i, w in enumerate(WORDS))]
    return lambda f: written(f, "events.tsv", "\n".join(rows) + "\n"), read


@reader("confounds.tsv", m.some_lines, m.some_bytes)
def _():
    def read(path):
        from evonb.alignment.images import read_confounds

        return read_confounds(path, None, 10, "The confounds")
    rows = ["trans_x\trot_x", "n/a\t0", *(f"{i / 2}\t{-i}" for i in range(9))]
    return lambda f: written(f, "confounds.tsv", "\n".join(rows) + "\n"), read


@reader("images.json", m.some_bytes, m.json_file, m.json_file)
def _():
    def make(folder):
        _volume(folder, "run.nii", (3, 4, 2, 5))
        import nibabel as nib

        labels = np.ones((3, 4, 2), "i2")
        labels[1:] = 2
        nib.save(nib.Nifti1Image(labels, np.diag([2.0, 2, 2, 1])), folder / "atlas.nii")
        written(folder, "events.tsv", "onset\tword\n" + "".join(f"{i / 2}\t{w}\n" for i, w in enumerate(WORDS)))
        return written(folder, "images.json", json.dumps(dict(images=["run.nii"], events=["events.tsv"],
                                                              atlas="atlas.nii", tr=2.0, labels={"1": "a", "2": "b"})))

    def read(path):
        from evonb.alignment.run import open_data

        return open_data(path)._repr_html_()
    return make, read


# --- servers: what a server answers, and what a server is asked -----------------------------------------------------


def _backend(folder):
    "A client of a server that answers every request with what stands in a file."
    from evonb.tasks.client import ServerBackend
    from evonb.tasks.protocol import received
    from evonb.text.tokens import load_tokenizer

    class OfFile(ServerBackend):
        async def _send(self, path, body):
            return 200, {}, received(self.file.read_bytes())
    return OfFile("http://127.0.0.1:1", load_tokenizer(folder / "tokenizer"), adapters_folder=folder)


def _answered(make, ask):
    "A reader of a server's answer: make() is the answer, and ask(backend) is what asks for it."
    def of_folder(folder):
        _tokenizer(folder)
        return written(folder, "answer.json", json.dumps(make()))

    def read(path):
        import asyncio

        backend = _backend(path.parent)
        backend.file = path
        return asyncio.run(ask(backend))
    return of_folder, read


@reader("server's models", m.some_bytes, m.json_file, m.json_file)
def _():
    card = dict(id="base", object="model", root="base", parent=None, max_model_len=64)
    return _answered(lambda: dict(object="list", data=[card, card | dict(id="a", parent="base")]), lambda b: b._card())


@reader("server's log-probabilities", m.some_bytes, m.json_file, m.json_file)
def _():
    told = dict(tokens=["a", "b", "c"], token_logprobs=[None, -1.5, -2.0], top_logprobs=None, text_offset=[0, 1, 2])
    choices = [dict(index=i, text="abc", logprobs=told, finish_reason="length") for i in (0, 1)]
    return _answered(lambda: dict(choices=choices, usage=dict(prompt_tokens=6, total_tokens=6)),
                     lambda b: b._logprobs("base", [(5, 6, 7), (5, 6, 8)], 0))


@reader("server's texts", m.some_bytes, m.json_file, m.json_file)
def _():
    from evonb.tasks.tasks import Prompt

    choices = [dict(index=i, text="abc. d", logprobs=None, finish_reason="stop") for i in (0, 1)]
    prompts = [Prompt("", 4, (".",))] * 2
    return _answered(lambda: dict(choices=choices), lambda b: b._continue("base", prompts, [(5,), (6,)]))


@reader("server's chat completion", m.some_bytes, m.json_file, m.json_file)
def _():
    from evonb.tasks.grading import Prompt

    said = dict(index=0, message=dict(role="assistant", content="abc. d"), finish_reason="stop")
    return _answered(lambda: dict(choices=[said], usage=dict(prompt_tokens=5)),
                     lambda b: b._continue("base", [Prompt("a", 4, (".",))], [None], "chat"))


@reader("server's echo", m.some_bytes, m.json_file, m.json_file)
def _():
    def make():
        told = dict(tokens=["%", "&", "'"], token_logprobs=[None, -1.5, -2.0], text_offset=[0, 1, 2])
        return dict(choices=[dict(index=0, text="ab", logprobs=told)], usage=dict(prompt_tokens=3))

    return _answered(make, lambda b: b._logprobs("base", [(5, 6, 7)], 0, (), check=True))


@reader("llama.cpp's texts", m.some_bytes, m.json_file, m.json_file)
def _():
    from evonb.tasks.grading import Prompt

    kept = json.loads((ROOT / "tests" / "tasks" / "llama_cpp.json").read_text())
    prompts = [Prompt("", 4, (".",))] * 2
    return _answered(lambda: kept["ids"]["reply"], lambda b: b._continue("base", prompts, [(5,), (6,)]))


@reader("probes.json", m.some_bytes, m.json_file, m.sealed_json, m.sealed_json)
def _():
    seen = dict(name="base", root="base", room=64, values=[[0.0, -1.5], [0.0, -2.0, -3.0]])

    def make(folder):
        _tokenizer(folder)
        _backend(folder)._known_probe(seen)
        return folder / "probes.json"
    return make, lambda path: _backend(path.parent)._known_probe(seen)


@reader("server's request", m.some_bytes, m.json_file, m.json_file, m.json_file)
def _():
    wanted = dict(model="base", prompt=[[5, 6, 7], [5, 8]], max_tokens=4, temperature=0, stop=["."], echo=True,
                  logprobs=1)  # fmt: skip

    def make(folder):
        _tokenizer(folder)
        return written(folder, "request.json", json.dumps(wanted))

    def read(path):
        from evonb.tasks.protocol import asked, read_body
        from evonb.text.tokens import load_tokenizer

        headers = {"Content-Length": str(path.stat().st_size)}
        with path.open("rb") as f:
            return asked(read_body(headers, f, 8 << 20), load_tokenizer(path.parent / "tokenizer"), 64, 260)
    return make, read


# --- whatever a command line can reach ------------------------------------------------------------------------------

READERS |= reachable.readers(Reader)


def inputs_of(n, names):
    "Reader -> inputs of n that it gets, one at least; in short runs where that is less, every eighth of its kind one."
    found, seen = {}, {}
    for name in names:
        r = READERS[name]
        found[name] = round(n * r.share) or int(n >= 1000)
        if not found[name]:
            seen[r.family] = seen.get(r.family, -1) + 1
            found[name] = int(seen[r.family] % 8 == 0)
    return found


# --- running --------------------------------------------------------------------------------------------------------


class Hang(BaseException):
    pass


def allowed(error):
    from evonb.core import EvonbError

    return isinstance(error, (EvonbError, FileNotFoundError))


def quiet():
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda *_: None  # h5netcdf's files that were never opened, in __del__
    import logging

    logging.disable(logging.CRITICAL)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one(r, path, data, seed):
    "Read one input: an empty text when it was read, None when it was refused, else what went wrong."
    path.write_bytes(m.make(r.kinds, data, r.name, seed))
    if r.family and seed % 2:
        r.family.sealed(path)
    signal.setitimer(signal.ITIMER_PROF, SECONDS * (6 if r.family and r.family.changes else 1))  # which computes anew
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    try:
        r.read(path)
        return ""
    except Hang as e:
        files = {Path(f.filename).name for f in traceback.extract_tb(e.__traceback__)}
        return "" if r.family and files & reachable.AT_WORK else f"took longer than {SECONDS} s"
    except BaseException as e:
        if not allowed(e):
            place = next((f for f in reversed(traceback.extract_tb(e.__traceback__)) if "/evonb/" in f.filename), None)
            where = f" at {Path(place.filename).name}:{place.lineno} {place.name}" if place else ""
            return f"{type(e).__name__}{where}: {str(e)[:150]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def prepared(name, folder, known=None):
    "The reader, its file and the valid content, which it reads; readers of a family read it once."
    r = READERS[name]
    path = r.make(folder)
    data = path.read_bytes()
    if r.family is None or known is None or r.family not in known:
        r.read(path)
    if r.family and known is not None:
        known.add(r.family)
        path = r.make(folder)
    return r, path, data


def _bound_memory(space):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = int(pages * mmap.PAGESIZE + space)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def child(jobs, folder, shared, out):
    "Read all inputs of some readers; each fault goes to `out` as a line, and `shared` tells the job at work."
    quiet()

    def ring(*_):
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    signal.signal(signal.SIGPROF, ring)
    known, number, own, bounded = set(), 0, Path(os.getcwd()), False
    for name, seeds in jobs:
        shared[:32] = struct.pack("<qdqq", number, time.time() + 600, 0, 1)
        r, path, data = prepared(name, folder, known)
        os.chdir(folder)
        if not bounded:
            for fd in (1, 2):  # libraries print what they think of a file, and panics
                os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
            _bound_memory(4 * MAX_BYTES + 2**28 if r.apart else SPACE)  # as behavior._tried has it
            bounded = True
        number = of_reader(r, path, data, name, seeds, folder, shared, out, number)
    os.chdir(own)
    print(json.dumps(dict(done=True)), file=out, flush=True)


def of_reader(r, path, data, name, seeds, folder, shared, out, number):
    "Read all inputs of one reader; the number of the next job."
    before = at = peak()
    slowest, worst, n_read = (0.0, -1), (0, -1), 0
    listed = next((f for f in (path.parent / "files.json", path.parent.parent / "files.json") if f.is_file()), None)
    checksums = listed.read_bytes() if listed and listed != path else None
    for seed in seeds:
        if r.family and r.family.changes:
            path = r.make(folder)
        shared[:32] = struct.pack("<qdqq", number, time.time(), n_read, 0)
        began = time.process_time()
        wrong = one(r, path, data, seed)
        took = time.process_time() - began
        number += 1
        slowest, n_read = max(slowest, (took, seed)), n_read + (wrong == "")
        shared[16:24] = struct.pack("<q", n_read)
        if (new := peak()) > at:
            worst = max(worst, (new - at, seed))
            at = new
        if wrong:
            print(json.dumps(dict(reader=name, seed=seed, error=wrong)), file=out, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if checksums:
        listed.write_bytes(checksums)
    grown = at - before
    if grown > BOUND and not r.apart:
        print(json.dumps(dict(reader=name, seed=worst[1], error=f"memory grew by {grown / 1e6:.0f} MB, "
                              f"{worst[0] / 1e6:.0f} of them with this input")), file=out, flush=True)
    print(json.dumps(dict(reader=name, read=n_read, slowest=round(slowest[0], 4), grown=grown)), file=out, flush=True)
    return number


def fuzz(jobs, most=20):
    "Read many inputs of readers in a child process; what came out. A child that crashes or hangs is replaced."
    jobs = [(name, list(seeds)) for name, seeds in jobs]
    found = {name: dict(inputs=len(seeds), read=0, ended_apart=0, faults=0, first=[], slowest_s=0.0, grown_mb=0.0,
                        seconds=0.0) for name, seeds in jobs}
    while jobs:
        began = time.time()
        jobs, lines, died = _in_a_child(jobs)
        for x in lines:
            f = found[x["reader"]]
            if "error" in x:
                f["faults"] += 1
                f["first"] = [*f["first"], dict(seed=x["seed"], error=x["error"])][:most]
            else:
                f["read"] += x["read"]
                f["slowest_s"], f["grown_mb"] = max(f["slowest_s"], x["slowest"]), max(f["grown_mb"],
                                                                                       round(x["grown"] / 1e6, 1))
        name = died and died[0]
        if died and READERS[name].apart:
            found[name]["ended_apart"] += 1
        elif died:
            found[name]["faults"] += 1
            found[name]["first"].append(dict(seed=died[1], error=f"the process ended with {died[2]}"))
        if died:
            found[name]["read"] += died[3]
        for name in found:
            found[name]["seconds"] = round(found[name]["seconds"] + (time.time() - began) / len(found), 1)
    return found


def _in_a_child(jobs):
    "The jobs that are left, the lines that a child wrote, and where it died: reader, seed, exit code, inputs read."
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    shared = mmap.mmap(-1, 4096)
    shared[:32] = struct.pack("<qdqq", 0, time.time() + 600, 0, 1)
    lines = tempfile.TemporaryFile("w+")
    pid = os.fork()
    if not pid:
        try:
            child(jobs, folder, shared, lines)
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            print(json.dumps(dict(broken=traceback.format_exc())), file=lines, flush=True)
            code = 3
        os._exit(code)
    status = _wait(pid, shared, 2 if READERS[jobs[0][0]].apart else 2 * WAITING)
    lines.seek(0)
    found = [json.loads(x) for x in lines]
    shutil.rmtree(folder, ignore_errors=True)
    if any("done" in f for f in found):
        return [], [f for f in found if "reader" in f], None
    number, _, n_read, preparing = struct.unpack("<qdqq", shared[:32])
    flat = [(name, seed) for name, seeds in jobs for seed in seeds]
    name, seed = flat[number]
    code = os.waitstatus_to_exitcode(status)
    if preparing or any("broken" in f for f in found):
        raise RuntimeError(f"the valid file of {name} can't be read ({code}), or the harness is broken: {found[-1:]}")
    left = {}
    for n, s in flat[number + 1:]:
        left.setdefault(n, []).append(s)
    return list(left.items()), [f for f in found if "reader" in f], (name, seed, code, n_read)


def _wait(pid, shared, seconds):
    "Wait for a child; one whose input hangs where no alarm reaches it is killed."
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if time.time() - struct.unpack("<qd", shared[:16])[1] > seconds:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def again(name, seed):
    "Repeat one input here, with its traceback."
    folder = Path(tempfile.mkdtemp())
    r, path, data = prepared(name, folder)
    path.write_bytes(made := m.make(r.kinds, data, r.name, seed))
    print(f"{name}, seed {seed}: {len(made)} bytes in {path}\n{made[:300]!r}")
    before, began = peak(), time.perf_counter()
    try:
        print(f"it was read: {str(r.read(path))[:300]}")
    except BaseException as e:
        if not allowed(e):
            raise
        print(f"refused: {type(e).__name__}: {e}")
    print(f"{time.perf_counter() - began:.3f} s, {(peak() - before) / 1e6:.0f} MB")


def warm():
    "Import what readers need, once for all children."
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in ("alignment.run", "alignment.images", "populations.breeding", "cli", "widgets.connectome",
                 "widgets.monitor", "widgets.population"):
        importlib.import_module(f"evonb.{name}")
    for name in ("h5netcdf", "nibabel.cifti2", "nilearn.surface", "nilearn.maskers", "safetensors.torch", "zarr"):
        importlib.import_module(name)


def keep(path, found):
    "Write the counts; those of readers that didn't run now stay."
    before = json.loads(path.read_text())["readers"] if path.exists() else {}
    readers = {k: (before | found)[k] for k in READERS if k in before | found}
    about = dict(seconds_per_input=SECONDS, bound_mb=BOUND / 1e6, max_bytes=MAX_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(about=about, readers=readers), indent=1))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--reader", action="append", help="only these readers", choices=list(READERS), metavar="NAME")
    p.add_argument("--seed", type=int, help="repeat this one input")
    p.add_argument("-n", type=int, default=N, help=f"inputs of each reader ({N:,})")
    p.add_argument("--out", default=None, help="where the counts go (docs/results/fuzz.json when all run in full); "
                   "with --reader, the other readers' counts in that file stay")
    args = p.parse_args()
    if args.seed is not None:
        quiet()
        return again(args.reader[0], args.seed)
    warm()
    found, out = {}, args.out or (RESULTS if args.n >= N else None)
    names, groups = args.reader or list(READERS), {}
    for name, n in inputs_of(args.n, names).items():
        groups.setdefault(READERS[name].family or name, []).append((name, range(n)))
    for jobs in groups.values():
        jobs = [job for job in jobs if job[1]]
        found |= (now := fuzz(jobs) if jobs else {})
        for name, f in now.items():
            print(f"{name:36} {f['inputs']:6} inputs, {f['read']:5} read, {f['faults']:3} faults, slowest "
                  f"{f['slowest_s']:.2f} s, memory +{f['grown_mb']:.0f} MB, {f['seconds']:.1f} s", flush=True)
            for x in f["first"][:6]:
                print(f"    seed {x['seed']}: {x['error']}", flush=True)
        if out:
            keep(Path(out), found)
    sys.exit(any(f["faults"] for f in found.values()))


if __name__ == "__main__":
    main()
