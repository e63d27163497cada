#!/usr/bin/env python3
"""What users of the wheel do, in empty environments and outside the repository; minutes, and a gigabyte of disk.

    .ci/installed.py                      build sdist and wheel, look with the wheel alone, add the extra `train`: run,
                                          look, export; load and score the export where evonb isn't installed
                                          (lm_eval's own command); publish, verify, import
    .ci/installed.py --light              the first half: looking at stored runs, without torch; with --tests those that
                                          need none
    .ci/installed.py --constraints FILE   these versions: .ci/oldest.txt, .ci/newest.txt (default: requirements.lock)
    .ci/installed.py --python python3.12  environments of another Python; --tests adds a part of the tests
    .ci/installed.py --keep FOLDER        environments and what was made stay there, and are taken up the next time

Each step prints a line; the first that fails ends it with what was said.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIFE = dict(steps=12, batch_size=4, context=48, warmup=2, eval_every=4, eval_windows=8, checkpoint_every=6)
SMALL = ["corpus.n_bytes=60000", "corpus.vocab_size=300", "model.n_layer=2", "model.n_head=2", "model.n_embd=16",
         "evolution.n_generations=2", "development.test_windows=8", "development.n_bootstrap=50",
         *(f"{part}.lifetime.{k}={v}" for part in ("evolution", "development") for k, v in LIFE.items())]
DEMO = ["demo", "--out", "demo", "--arms", "connectome,random", "--seeds", "2", "--lrs", "0.016",
        *(word for s in SMALL for word in ("--set", s))]
TESTS = ["tests/test_store.py", "tests/test_registry.py", "tests/test_statistics.py", "tests/test_old_runs.py",
         "tests/connectomes/test_connectome.py", "tests/training/test_gpt.py", "tests/populations/test_genome.py"]
LIGHT_TESTS = ["tests/test_registry.py", "tests/test_statistics.py", "tests/text/test_ngrams.py",
               "tests/text/test_toy_english.py", "tests/plots/test_population_plots.py",
               "tests/plots/test_alignment_plots.py", "tests/widgets/test_explorer.py"]  # what needs no torch

LOOKS = """
import evonb.widgets, resource, sys, time
import evonb as ev
for kind in ("connectome", "alignment", "population"):
    shown = ev.explore(kind)
    shown.ask(next(iter(shown.views)))
loaded = sorted({"torch", "transformers", "peft", "accelerate"} & set(sys.modules))
assert not loaded, f"looking loads {loaded}"
print(f"{time.process_time():.2f} s of processor, "
      f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB for three explorers")
"""

SCORES = """
import json, sys
import numpy as np
from evonb.tasks.engine import Engine
from evonb.tasks.skills import skill_items
from evonb.tasks.tasks import Choice
from evonb.core import Seeds
from evonb.training.adapters import Adapter
from evonb.training.base import open_base
base = open_base("demo::connectome/0")
items = skill_items("agreement", Seeds(0), 40)
asked = [Choice(i["prompt"].strip(), tuple(f" {o.strip()}" for o in i["options"])) for i in items]
found = Engine(base.model, base.tokenizer).loglikelihoods([Adapter({}, {}, {}, {})], asked)[0]
chosen = [int(np.argmax(sums)) for sums, _ in found]
with open("items.jsonl", "w") as f:
    for c, i in zip(asked, items):
        print(json.dumps(dict(context=c.context, options=list(c.options), answer=i["answer"])), file=f)
right = [k == i["answer"] for k, i in zip(chosen, items)]
print(json.dumps(dict(acc=float(np.mean(right)), n=len(items))))
"""

ELSEWHERE = """
import importlib.util
assert importlib.util.find_spec("evonb") is None, "evonb can be imported here"
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("stock").eval()
words = AutoTokenizer.from_pretrained("stock")
ids = words("the cat sees a dog", return_tensors="pt").input_ids
with torch.no_grad(): loss = model(ids, labels=ids).loss
print(f"{type(model).__name__}, loss {loss:.6f}, says {words.decode(model.generate(ids, max_new_tokens=5)[0])!r}")
"""

HERE = """
import torch
from evonb.training.base import open_base
base = open_base("demo::connectome/0")
ids = base.tokenizer("the cat sees a dog", return_tensors="pt").input_ids
with torch.no_grad(): print(f"loss {base.model.eval()(ids, labels=ids).loss:.6f}")
"""

TASK = """
task: local_agreement
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: multiple_choice
target_delimiter: ""
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


class Place:
    "A folder of environments and of what is made there."

    def __init__(self, folder: Path, args):
        self.folder, self.args, self.work = folder, args, folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "EVONB_DATA", "EVONB_PLUGINS")}
        self.env |= dict(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", NO_COLOR="1",
                         XDG_CACHE_HOME=str(folder / "cache"), HF_HOME=str(folder / "hf"))

    def run(self, said: str, *command, cwd: Path | None = None) -> str:
        "Run a step; its output."
        start = time.monotonic()
        done = subprocess.run(list(map(str, command)), cwd=cwd or self.work, env=self.env, capture_output=True,
                              text=True)
        print(f"{'FAIL' if done.returncode else 'ok  '} {time.monotonic() - start:6.1f} s  {said}", flush=True)
        if done.returncode:
            sys.exit(f"$ {shlex.join(map(str, command))[:400]}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout

    def venv(self, name: str, *wanted):
        "An environment with these packages, within the constraints; its folder of commands."
        where = self.folder / name
        if not (where / "bin" / "python").exists():
            self.run(f"an empty environment, {name}", self.args.python, "-m", "venv", where, cwd=self.folder)
        pip = [where / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if any("train" in str(w) or "lm-eval" in str(w) for w in wanted):  # first, and alone: as .ci/setup does
            torch = next(c for c in self.args.constraints.read_text().splitlines() if c.startswith("torch=="))
            self.run(f"{torch} into {name}", *pip, torch, cwd=self.folder)
        if not any("[" in str(w) for w in wanted):  # a wheel of the same version would be left as it was
            self.run(f"no older evonb in {name}", *pip[:3], "uninstall", "--quiet", "--yes", "evonb", cwd=self.folder)
        names = ", ".join(Path(str(w)).name for w in wanted)
        self.run(f"pip install {names} into {name}", *pip, *wanted, "-c", self.args.constraints, cwd=self.folder)
        return where / "bin"


def built(place: Place) -> Path:
    "The wheel, made of the sdist."
    where = place.args.dist or place.folder / "dist"
    for old in where.glob("evonb-*"):
        old.unlink()
    place.run("sdist, and a wheel of it", sys.executable, "-m", "build", "--no-isolation", "-o", where, ".", cwd=ROOT)
    wheel, = where.glob("*.whl")
    return wheel.resolve()


def look(place: Place, wheel: Path) -> Path:
    "The wheel alone: stored runs are looked at without torch; commands that need more say what."
    bin = place.venv("evonb", wheel)
    for kind in ("connectome", "alignment", "experts", "population"):
        with zipfile.ZipFile(ROOT / "tests" / "runs" / f"{kind}.zip") as z:
            z.extractall(place.work / kind)
    for command in (["show", "connectome"], ["report", "population"], ["runs", "."]):
        place.run(f"evonb {' '.join(command)}", bin / "evonb", *command)
    for kind in ("connectome", "alignment", "population"):
        place.run(f"evonb explore {kind}", bin / "evonb", "explore", kind)
    print(place.run("explorers in Python, without torch", bin / "python", "-c", LOOKS).strip())
    print(place.run("evonb doctor", bin / "evonb", "doctor").strip())
    return bin


def train(place: Place, wheel: Path) -> Path:
    "With the extra: a small run, and all that is made of it."
    bin = place.venv("evonb", f"{wheel}[train]")
    place.run("evonb demo, small", bin / "evonb", *DEMO)
    for command in ("show", "report", "explore"):
        place.run(f"evonb {command} demo", bin / "evonb", command, "demo")
    print(place.run("evonb doctor", bin / "evonb", "doctor").strip())
    place.run("evonb export", bin / "evonb", "export", "demo::connectome/0", "--out", "stock")
    return bin


def score_elsewhere(place: Place, bin: Path):
    "The export, where evonb isn't: the same loss, and the same score by lm_eval's own command."
    there = place.venv("elsewhere", "lm-eval[hf]>=0.4.13") if not place.args.elsewhere else place.args.elsewhere
    mine = place.run("its loss, with evonb", bin / "python", "-c", HERE).split()[1]
    said = place.run("its loss, by transformers alone", there / "python", "-I", "-c", ELSEWHERE)
    print(said.strip())
    if abs(float(mine) - float(said.split("loss ")[1].split(",")[0])) > 1e-4:
        sys.exit(f"The export's loss isn't the newborn's, {mine}.")
    own = json.loads(place.run("40 items, scored by evonb", bin / "python", "-c", SCORES).splitlines()[-1])
    (place.work / "tasks").mkdir(exist_ok=True)
    task = TASK.format(items=place.work / "items.jsonl")
    (place.work / "tasks" / "local.yaml").write_text(task, encoding="utf-8")
    place.run("lm_eval --model hf", there / "lm_eval", "run", "--model", "hf", "--model_args", "pretrained=stock",
              "--tasks", "local_agreement", "--include_path", "tasks", "--device", "cpu", "--output_path", "scores")
    found = max((place.work / "scores").rglob("results_*.json"), key=lambda p: p.stat().st_mtime)
    theirs = json.loads(found.read_text())["results"]["local_agreement"]["acc,none"]
    print(f"accuracy on {own['n']} items: {theirs} by lm_eval, {own['acc']} by evonb")
    if abs(theirs - own["acc"]) > 1e-9:
        sys.exit("The two scores differ.")


def travel(place: Place, bin: Path):
    "Publish, verify, import, and look again."
    place.run("evonb publish", bin / "evonb", "publish", "demo", "--out", "published", "--creators", "Noether, Emmy")
    place.run("sha256sum -c SHA256SUMS", "sha256sum", "--quiet", "-c", "SHA256SUMS", cwd=place.work / "published")
    place.run("evonb verify", bin / "evonb", "verify", "published")
    place.run("evonb verify --again", bin / "evonb", "verify", "published", "--again")
    shutil.rmtree(place.work / "back", ignore_errors=True)  # of an earlier time
    place.run("evonb import", bin / "evonb", "import", "published", "--out", "back")
    place.run("evonb explore back", bin / "evonb", "explore", "back")


def tests(place: Place, bin: Path, files: list):
    "A part of the tests, on what is installed rather than on the checkout."
    place.run("pytest", bin / "python", "-m", "pip", "install", "--quiet", "pytest", "hypothesis", "-c",
              place.args.constraints)
    copy = place.folder / "checked"
    copy.mkdir(exist_ok=True)
    if not (copy / "tests").exists():
        os.symlink(ROOT / "tests", copy / "tests")
    said = place.run(f"tests: {' '.join(files)}", bin / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider",
                     "-c", ROOT / "pyproject.toml", "--rootdir", copy, *files, cwd=copy)
    print(said.strip().splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--light", action="store_true", help="looking only, without torch")
    p.add_argument("--tests", action="store_true", help="a part of the tests, too")
    p.add_argument("--constraints", type=Path, default=ROOT / "requirements.lock", help="versions, one a line")
    p.add_argument("--python", default=sys.executable, help="what makes the environments")
    p.add_argument("--elsewhere", type=Path, help="the bin/ of an environment with lm-eval and without evonb")
    p.add_argument("--dist", type=Path, help="a folder where sdist and wheel stay")
    p.add_argument("--keep", type=Path, help="a folder for all of it")
    args = p.parse_args()
    args.constraints = args.constraints.resolve()
    with tempfile.TemporaryDirectory(prefix="evonb-installed-") as folder:
        place = Place((args.keep or Path(folder)).resolve(), args)
        wheel = built(place)
        bin = look(place, wheel)
        if args.light and args.tests:
            tests(place, bin, LIGHT_TESTS)
        if not args.light:
            bin = train(place, wheel)
            score_elsewhere(place, bin)
            travel(place, bin)
            if args.tests:
                tests(place, bin, TESTS)
    print("installed: all steps passed")


if __name__ == "__main__":
    main()
