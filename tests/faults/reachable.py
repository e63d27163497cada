"""Whatever a command line can reach, by construction: every kind of file in a run, through every command that reads it.

The runs are those of tests/runs, ended and stopped at work, that know each other by relative names. Files that differ
only in numbers, or in the arm, method, seed or rate whose folder they lie in, are one kind of file: the largest stands
for them. A kind of run, a file or a command that comes later is here without being named."""

import contextlib
import io
import json
import os
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import mutate as m

RUNS = Path(__file__).resolve().parents[1] / "runs"
KINDS = tuple(sorted(p.stem for p in RUNS.glob("*.zip")))
LOOKS = {"show": ("show {}", "show {} --json"), "report": ("report {}",), "explore": ("explore {}",)}
EXPERTS = "--set training.steps=8 --set training.warmup=2 --set training.max_tokens=48"
GOES_ON = {  # as README of tests/runs has it: the command that made a run, again
    "connectome": "develop connectome",
    "alignment": "align connectome --data toy-reading --untrained 1 --out alignment --set n_bootstrap=20 "
                 "--set n_permutations=20",
    "experts": "experts --base connectome --expert skill:agreement --expert skill:count_up --out experts --resume "
               + EXPERTS,
    "population": "population experts --task skill:agreement,count_up --methods genome --budget 8 --seeds 2 "
                  "--out population --set n_validation=20 --set n_test=20 --resume",
    "stopped-connectome": "develop stopped-connectome --workers 1",
    "stopped-experts": "experts --base connectome --expert skill:agreement --out stopped-experts --resume "
                       "--set training.checkpoint_every=4 " + EXPERTS,
    "stopped-population": "population experts --task skill:agreement,count_up --methods genome --budget 24 --seeds 1 "
                          "--out stopped-population --set n_validation=20 --set n_test=20 --resume"}  # fmt: skip
BUILDS = {  # more in a run, and runs that are made of others
    "connectome": ("develop connectome --seeds 3 --arms connectome,random,sign_shuffled",
                   "align connectome --data toy-reading --untrained 1 --out made --set n_permutations=20",
                   f"experts --base connectome --expert skill:agreement --out made {EXPERTS}"),
    "experts": ("population experts --task skill:agreement --methods genome --budget 4 --seeds 1 --out made "
                "--set n_validation=4 --set n_test=4 --set n_individuals=2",)}  # fmt: skip
NEEDS = {"alignment": ("connectome",), "experts": ("connectome",), "population": ("connectome", "experts"),
         "stopped-experts": ("connectome",), "stopped-population": ("connectome", "experts")}  # fmt: skip
CHANGES = {".zip": (m.some_bytes, m.sealed_archive, m.sealed_archive), ".jsonl": (m.some_lines, m.json_lines),
           ".bin": (m.some_bytes,), ".csv": (m.some_lines,), ".html": ()}  # fmt: skip
SHARES = {"show": 0.1, "report": 0.003, "explore": 0.001, "goes on": 0.0006, "builds": 0.0004}
AT_WORK = {"lifetime.py", "engine.py", "features.py", "experts.py", "reading.py", "fitness.py", "parallel.py"}


def some_json(data, r):
    "A changed JSON file, sealed as its writer seals it."
    content = json.loads(data)
    sealed = m.sealed_json if "sha256" in content else m.sealed_corpus if "seal" in content else m.json_file
    return r.choice((sealed, sealed, sealed, m.json_file, m.some_bytes))(data, r)


def some_tensors(data, r):
    "A changed safetensors file, sealed where evonb wrote it."
    sealed = m.sealed_tensors if b'"evonb"' in data[:4096] else m.tensor_header
    return r.choice((sealed, sealed, sealed, m.tensor_header, m.some_bytes))(data, r)


CHANGES |= {".json": (some_json,), ".safetensors": (some_tensors,)}


def kinds_of_files(packed: Path) -> dict:
    "What a kind of file is called -> the largest file of that kind."
    found = {}
    with zipfile.ZipFile(packed) as z:
        for f in z.infolist():
            path = Path(f.filename)
            if f.is_dir() or path.suffix not in CHANGES:
                continue
            name = re.sub(r"\d+", "#", path.name) if path.suffix != ".bin" else "*.bin"
            label = name if len(path.parts) == 1 else f"{path.parts[0]}/{'…/' * (len(path.parts) > 2)}{name}"
            found.setdefault(label, []).append((f.file_size, f.filename))
    return {label: max(files)[1] for label, files in sorted(found.items())}


@dataclass(frozen=True)
class Family:
    "What readers share: the folder with a run and those that it knows, and what is asked of it."
    kind: str  # of the run
    what: str  # "show", "report", "explore", "goes on" or "builds"
    commands: tuple  # words; {} stands for the run

    @property
    def changes(self): return self.what in ("goes on", "builds")

    def __str__(self): return f"evonb {self.commands[0].split()[0]}" + {"goes on": " again"}.get(self.what, "")

    def open(self, folder: Path) -> Path:
        "The folder that holds the runs, made anew where a command changes them."
        template, root = folder / f"{self.kind} template", folder / f"{self.kind}, {self.what}"
        if not template.is_dir():
            for kind in (self.kind, *NEEDS.get(self.kind, ())):
                with zipfile.ZipFile(RUNS / f"{kind}.zip") as z:
                    z.extractall(template / kind)
        if not root.is_dir() or self.changes:
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(template, root)
        return root

    def ask(self, path: Path):
        "Do the commands; errors are as they are raised."
        from evonb.cli import COMMANDS, parser

        root = next(p for p in path.parents if p.name == f"{self.kind}, {self.what}")
        os.environ["EVONB_CACHE"] = str(root / ".cache")
        os.chdir(root)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for words in self.commands:
                words = words.format(self.kind).split()
                more = ["--device", "cpu"] if self.changes else []
                COMMANDS[words[0]](parser().parse_args([*words, *more]))

    def sealed(self, path: Path):
        "The folder's list of checksums says what the file holds now."
        from evonb.core import file_sha256
        from evonb.store import read_json, write_json

        for folder in (path.parent, path.parent.parent):
            if (listed := folder / "files.json").is_file() and listed != path:
                files = read_json(listed)
                if (name := str(path.relative_to(folder))) in files:
                    write_json(listed, files | {name: file_sha256(path)})
                    return listed


def families(kind: str) -> list:
    "All that is asked of runs of a kind."
    looks = [Family(kind, what, commands) for what, commands in LOOKS.items()
             if not (what == "explore" and kind.endswith("experts"))]  # which have nothing to explore
    builds = [Family(kind, "builds", (words,)) for words in BUILDS.get(kind, ())]
    return [*looks, Family(kind, "goes on", (GOES_ON[kind],)), *builds]


def readers(make_reader) -> dict:
    "Name -> reader: each kind of file through each command."
    found = {}
    for kind in KINDS:
        for family in families(kind):
            for label, name in kinds_of_files(RUNS / f"{kind}.zip").items():
                share = SHARES[family.what] * (1 if "/" not in label or family.what in ("goes on", "builds") else 0.1)
                found[f"{family}: {kind}'s {label}"] = make_reader(
                    lambda folder, family=family, name=name: family.open(folder) / family.kind / name, family.ask,
                    CHANGES[Path(name).suffix], f"{family.what}/{kind}/{label}", share=share, family=family)
    return found
