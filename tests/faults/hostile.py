"""Kinds of hostile input, each by name: what lies where a file belongs, and what no writer of ours would write.

Every case is a command line in a process of its own, with a bound on time and memory. It must end with 0, or with 2
and a line that names what was wrong: a traceback, a hang, a crash, an empty message, code that was run, or a value
that was misread is a fault.

    python tests/faults/hostile.py                       all kinds, and their counts
    python tests/faults/hostile.py --kind "zip bombs" -v one, with what was said"""

import argparse
import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path
from random import Random

if "numpy" not in sys.modules:  # a program of its own; whoever imports it keeps its own processes as they are
    os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
sys.path.insert(0, str(Path(__file__).resolve().parent))

import mutate as m  # noqa: E402
import numpy as np  # noqa: E402
import reachable  # noqa: E402

SECONDS = 20  # of computing, for one case
LONGER = {"a line without an end": 60}  # a text of 45 MB is learned from: half a minute where others are at work
WAITING = 120  # seconds that pass meanwhile, on a machine that others use, too
SPACE = 2e9  # bytes of address space beyond what the process begins with
KINDS = {}  # name -> (function of folder and rng that gives cases, what it is in a line)


def kind(name: str, line: str):
    "Register the cases of a kind: each a name, and words of a command or a function."
    def known(f):
        KINDS[name] = f, line
        return f
    return known


# What there is to spoil -----------------------------------------------------------------------------------------------

LOOKS = ("show", "show --json", "report", "explore")
TABLE = "word,time,order\n" + "".join(f"w{i},{300 + i},{i + 1}\n" for i in range(40))
TASK = "".join(json.dumps(dict(prompt=f"q {i}", options=["a", f"b{i}"], answer=i % 2)) + "\n" for i in range(8))
TEXT = "".join(f"The cat saw {i} dogs, and the dog saw {i} cats.\n" for i in range(400))


def run_of(folder: Path, kind="connectome") -> Path:
    "A run of before, and those that it knows."
    for k in (kind, *reachable.NEEDS.get(kind, ())):
        if not (folder / k).exists():
            with zipfile.ZipFile(reachable.RUNS / f"{k}.zip") as z:
                z.extractall(folder / k)
    return folder / kind


def looks(kind, only=LOOKS):
    "Words of commands that look at a run."
    return [[*w.split()[:1], kind, *w.split()[1:]] for w in only if not (kind == "experts" and w == "explore")]


def files_of(kind: str, folder: Path) -> list:
    "Each kind of file of a run, by its path."
    return [folder / kind / name for name in reachable.kinds_of_files(reachable.RUNS / f"{kind}.zip").values()]


def sealed(content: dict) -> bytes:
    "JSON as `write_json` writes it."
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=True).encode()).hexdigest()
    return json.dumps(content | {"sha256": digest}).encode()


def opened(path: Path) -> dict:
    content = json.loads(path.read_bytes())
    content.pop("sha256", None)
    return content


def evolving(*given):
    "Words that begin a small run with a text."
    return ["evolve", "--preset", "demo", "--out", "made", "--device", "cpu", *given, *(
        x for k in ("steps=2", "warmup=1", "eval_windows=2", "batch_size=2", "context=16", "eval_every=2") for x in (
            "--set", f"evolution.lifetime.{k}")), "--set", "evolution.n_generations=1", "--set", "model.n_layer=1",
        "--set", "model.n_embd=16", "--set", "model.n_head=1", "--set", "corpus.vocab_size=300",
        "--set", "development.lifetime.context=16"]  # fmt: skip


def aligning(data):
    return ["align", "connectome", "--data", data, "--untrained", "1", "--out", "aligned", "--device", "cpu",
            "--set", "n_permutations=20"]  # fmt: skip


def asking(file, form="choice"):
    return ["population", "experts", "--task", f"{form}:{file}", "--methods", "genome", "--budget", "2", "--seeds",
            "1", "--out", "bred", "--set", "n_individuals=2", "--set", "n_validation=2", "--set", "n_test=2",
            "--device", "cpu"]  # fmt: skip


def whatever_is_read(folder: Path, spoil, rng, names=("summary.json", "run.json", "log.jsonl", "state.json")):
    "Cases: one file of a run after another is spoilt, and each command that looks at it is asked."
    for name in names:
        for words in looks("connectome", (LOOKS[rng.randrange(4)], "develop" if rng.random() < 0.5 else "show")):
            def case(name=name):
                run = run_of(folder)
                spoil(run / name)
            yield f"{name}, {' '.join(words)}", case, words
    for what, words in (("text.txt", evolving("--corpus", "text.txt")), ("table.csv", aligning("table.csv")),
                        ("task.jsonl", asking("task.jsonl")), ("images.json", aligning("images.json"))):
        def case(what=what, words=words):
            run_of(folder, "experts")
            (folder / what).write_text(dict(text=TEXT, table=TABLE, task=TASK, images="{}")[Path(what).stem])
            spoil(folder / what)
        yield what, case, words


# What lies where a file belongs ---------------------------------------------------------------------------------------

def leaves(change, x):
    "What was read from JSON with all its leaves changed, in order."
    if isinstance(x, dict):
        return {k: leaves(change, v) for k, v in x.items()}
    return [leaves(change, v) for v in x] if isinstance(x, list) else change(x)


@kind("a pipe where a file belongs", "a FIFO that nobody writes to: to open it is to wait for ever")
def _(folder, rng):
    def spoil(path):
        path.unlink()
        os.mkfifo(path)
    yield from whatever_is_read(folder, spoil, rng)


@kind("a device where a file belongs", "links to /dev/zero, /dev/full and /dev/stdin")
def _(folder, rng):
    def spoil(path):
        path.unlink()
        path.symlink_to(rng.choice(("/dev/zero", "/dev/full", "/dev/zero")))
    yield from whatever_is_read(folder, spoil, rng)


@kind("a folder where a file belongs", "every kind of file of a run of every kind, and inputs")
def _(folder, rng):
    def spoil(path):
        path.unlink(missing_ok=True)
        path.mkdir()
        (path / "x").write_text("x")
    yield from whatever_is_read(folder, spoil, rng)
    for k in reachable.KINDS:
        for path in files_of(k, folder):
            def case(path=path, k=k):
                run_of(folder, k)
                spoil(path)
            yield f"{k}, {path.name}", case, rng.choice(looks(k))


@kind("a file where a folder belongs", "corpus, models, generations, caches")
def _(folder, rng):
    for k in ("connectome", "experts", "population"):
        run = run_of(folder, k)
        inside = sorted(p for p in run.rglob("*") if p.is_dir())
        for path in rng.sample(inside, min(6, len(inside))):
            def case(path=path, k=k):
                run_of(folder, k)
                shutil.rmtree(path, ignore_errors=True)
                path.write_text("x")
            yield f"{path.name}", case, rng.choice([*looks(k), ["develop", "connectome", "--device", "cpu"]])


@kind("links in circles", "a link to itself, to its own folder, to a folder above, two that name each other")
def _(folder, rng):
    circles = {"itself": lambda p: p.symlink_to(p), "its folder": lambda p: p.symlink_to("."),
               "above": lambda p: p.symlink_to(".."),
               "each other": lambda p: (p.symlink_to(p.name + "2"), p.with_name(p.name + "2").symlink_to(p.name))}
    for what, link in circles.items():
        for place in ("", "evolution", "development/random", "corpus"):
            words = rng.choice([*looks("connectome"), ["develop", "connectome", "--device", "cpu"]])

            def case(link=link, place=place):
                link(run_of(folder) / place / "gen-07")
            yield f"{what}, in {place or 'the run'}, {words[0]}", case, words

        def texts(link=link):
            (folder / "texts").mkdir()
            (folder / "texts" / "a.txt").write_text(TEXT)
            link(folder / "texts" / "more")
        yield f"{what}, in a folder of texts", texts, evolving("--corpus", "texts")


@kind("links that lead nowhere or out", "broken links, and links to files outside of the run")
def _(folder, rng):
    (folder / "outside").write_text("{}")
    for to in ("nowhere", folder / "outside", "/etc/hostname"):
        def spoil(path, to=to):
            path.unlink(missing_ok=True)
            path.symlink_to(to)
        for path in rng.sample(files_of("connectome", folder), 8):
            def case(path=path, spoil=spoil):
                run_of(folder)
                spoil(path)
            yield f"{path.name} to {to}", case, rng.choice([*looks("connectome"), ["develop", "connectome"]])


@kind("sparse files of a terabyte", "a file that says it is 1 TB and holds nothing")
def _(folder, rng):
    def spoil(path):
        with path.open("r+b") as f:
            f.truncate(1 << 40)
    found = list(whatever_is_read(folder, spoil, rng))
    yield from (c for c in found if c[0] not in ("text.txt", "task.jsonl"))  # are hashed first, which takes its time
    for name in ("development.zarr.zip", "evolution.zarr.zip"):
        yield name, lambda name=name: spoil(run_of(folder) / name), rng.choice(looks("connectome", LOOKS[2:]))


@kind("odd names of files and folders", "line breaks, markup, right-to-left marks, 250 letters, no UTF-8")
def _(folder, rng):
    for name in ("a\nb", "<img src=x onerror=alert(1)>", "\u202etxt.exe", "n" * 250, b"\xff\xfe".decode(
            errors="surrogateescape"), " ", "-rf", "%s{0}", "CON", "a'b\"c`d$(x)"):
        def case(name=name):
            run_of(folder).rename(folder / name)
        for look in rng.sample(LOOKS, 2):
            words = look.split()
            path = f"./{name}" if name.startswith("-") else name
            yield f"{name!r:.40}, {look}", case, [words[0], path, *words[1:]]

        def text(name=name):
            (folder / f"{name}.txt"[-250:]).write_text(TEXT)
        yield f"a text called {name!r:.40}", text, evolving(f"--corpus=./{f'{name}.txt'[-250:]}")


@kind("names that differ in case only", "arms, columns, options and files as a system without case would mix them")
def _(folder, rng):
    for head in ("word,Word,time,order", "word,time,TIME,order", "word,time,order,Story,story"):
        n = head.count(",")
        rows = "".join(",".join([f"w{i}", str(300 + i), str(301 + i), str(i), "1"][: n + 1]) + "\n" for i in range(20))

        def table(rows=rows, head=head):
            run_of(folder)
            (folder / "t.csv").write_text(f"{head}\n{rows}")
        yield head, table, aligning("t.csv")
    for words in (["develop", "connectome", "--arms", "Random,random"], ["align", "connectome", "--data",
                  "Toy-Reading"], ["population", "experts", "--task", "Skill:agreement", "--out", "bred"],
                  ["show", "CONNECTOME"], ["Show", "connectome"]):  # fmt: skip
        yield " ".join(words), lambda: run_of(folder, "experts"), words

# JSON ----------------------------------------------------------------------------------------------------


def in_json(folder, rng, change, names=("run.json", "summary.json", "state.json", "development.json")):
    "Cases: a sealed JSON file of a run, changed as text, with a right checksum where it can be parsed."
    for k in ("connectome", "population", "alignment", "experts"):
        for name in names:
            if not (run_of(folder, k) / name).exists():
                continue

            def case(k=k, name=name):
                path = run_of(folder, k) / name
                path.write_bytes(change(path))
            yield f"{k}'s {name}", case, rng.choice(looks(k))


@kind("NaN and Infinity in JSON", "every number of a summary, of settings and of inputs is no number")
def _(folder, rng):
    def change(path):
        value = rng.choice((float("nan"), float("inf"), -float("inf")))

        def spoilt(x):
            return value if isinstance(x, (int, float)) and not isinstance(x, bool) and rng.random() < 0.5 else x
        return sealed(leaves(spoilt, opened(path)))
    yield from in_json(folder, rng, change)
    for what in ("NaN", "Infinity", "-Infinity", "1e400"):
        def task(what=what):
            run_of(folder, "experts")
            (folder / "t.jsonl").write_text(re.sub(r'"answer": \d', f'"answer": {what}', TASK))
        yield f"answers {what}", task, asking("t.jsonl")
        yield f"--set {what}", lambda: None, evolving("--set", f"evolution.prune_fraction={what}")


@kind("huge whole numbers", "400 and 5,000 digits, 2^63 and 2^64, where counts and seeds belong")
def _(folder, rng):
    numbers = (10**400, 2**63, 2**64, -(2**63) - 1, 10**19)

    def change(path):
        def spoilt(x):
            number = isinstance(x, (int, float)) and not isinstance(x, bool)
            return rng.choice(numbers) if number and rng.random() < 0.4 else x
        return sealed(leaves(spoilt, opened(path)))
    yield from in_json(folder, rng, change)
    for name in ("run.json", "summary.json"):
        def digits(name=name):
            path = run_of(folder) / name
            path.write_text(re.sub(r"\d+", "9" * 5000, path.read_text(), count=1))
        yield f"5,000 digits in {name}", digits, rng.choice(looks("connectome"))
    for name in ("evolution.n_generations", "seed", "model.n_embd", "corpus.vocab_size", "corpus.n_bytes"):
        yield f"--set {name}", lambda: None, evolving("--set", f"{name}={rng.choice(numbers)}")


@kind("the same key twice in JSON", "the first or the second, never a mixture and never silently")
def _(folder, rng):
    def change(path):
        text = path.read_text()
        key = rng.choice(re.findall(r'"(\w+)": ', text))
        return re.sub(rf'"{key}": ', f'"{key}": {json.dumps(rng.choice((None, 0, [], "x")))}, "{key}": ', text,
                      count=1).encode()
    yield from in_json(folder, rng, change)

    def task():
        run_of(folder, "experts")
        (folder / "t.jsonl").write_text(TASK.replace('"prompt"', '"prompt": "other", "prompt"'))
    yield "a task's lines", task, asking("t.jsonl")


@kind("nested a hundred thousand deep", "lists and objects, in all that is read as JSON")
def _(folder, rng):
    def spoil(path):
        path.write_text(rng.choice(("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000,
                                    "[" * 100_000)) + "\n")
    yield from whatever_is_read(folder, spoil, rng)


@kind("surrogates and NUL in texts", "half characters and NULs in names, settings, statements and log lines")
def _(folder, rng):
    bad = ("\ud800", "a\0b", "\udfff\ud800", "\ufffe")

    def change(path):
        def spoilt(x):
            return x + rng.choice(bad) if isinstance(x, str) and rng.random() < 0.5 else x
        return sealed(leaves(spoilt, opened(path)))
    yield from in_json(folder, rng, change)
    for name in ("log.jsonl",):
        def log(name=name):
            path = run_of(folder) / name
            path.write_text(path.read_text() + json.dumps(dict(event="x\ud800", time="\0")) + "\n")
        yield name, log, rng.choice(looks("connectome"))


@kind("blocks of NUL in files", "as a file system leaves them where the power went off")
def _(folder, rng):
    def spoil(path):
        data = bytearray(path.read_bytes())
        a = rng.randrange(len(data))
        b = min(len(data), a + 4096)
        data[a:b] = bytes(b - a)
        path.write_bytes(data)
    yield from whatever_is_read(folder, spoil, rng)


@kind("a line without an end", "one line of 100 MB in logs, tables, tasks and texts")
def _(folder, rng):
    def spoil(path):
        with path.open("a") as f:
            for _ in range(100):
                f.write(rng.choice(("x", "1,", '{"a"', '"')) * 250_000)
    yield from whatever_is_read(folder, spoil, rng, ("log.jsonl",))


# Letters and lines ----------------------------------------------------------------------------------------------------

@kind("mixed ends of lines", "\\n, \\r\\n, \\r and Unicode's separators give the words that \\n gives")
def _(folder, rng):
    def same(made, plain, mixed, what):
        def check():
            a, b = (made(folder, x) for x in (plain, mixed))
            if a != b:
                raise AssertionError(f"{what}: read otherwise: {str(a)[:80]} against {str(b)[:80]}")
        return check

    def table(folder, text):
        from evonb.alignment.sources.reading_tables import reading_table

        (folder / "t.csv").write_bytes(text.encode())
        read = reading_table(folder / "t.csv")
        return list(map(str, read.word)), read.time.tolist()

    def task(folder, text):
        from evonb.tasks.tasks import Task

        (folder / "t.jsonl").write_bytes(text.encode())
        return [(i.prompt, i.options, i.answer) for i in Task.from_jsonl(folder / "t.jsonl", "choice",
                                                                        n_validation=2).items("validation")]

    def records(folder, text):
        from evonb.text.corpora import load_corpus

        (folder / "c.jsonl").write_bytes(text.encode())
        return load_corpus(folder / "c.jsonl").documents
    lines = "".join(json.dumps(dict(text=f"The cat saw {i} dogs and more.")) + "\n" for i in range(30))
    for end in ("\r\n", "\r", "mixed"):
        def ends(text, end=end):
            if end != "mixed":
                return text.replace("\n", end)
            return "".join(x + rng.choice(("\n", "\r\n")) for x in text.splitlines())
        yield f"table, {end!r}", None, same(table, TABLE, ends(TABLE), f"a table with {end!r}")
        if end != "\r":  # which isn't an end in JSON lines: one line of several values is refused
            yield f"task, {end!r}", None, same(task, TASK, ends(TASK), f"a task with {end!r}")
            yield f"records, {end!r}", None, same(records, lines, ends(lines), f"JSON lines with {end!r}")
    for odd in ("\x0c", "\x1c", "\x85", "\u2028"):  # within a JSON text they are letters
        odd_task = TASK.replace("q 1", f"q{odd}1")

        def kept(odd=odd, odd_task=odd_task):
            found = task(folder, odd_task.replace("\\u", "\\u"))
            if not found:
                raise AssertionError("nothing was read")
        yield f"a task with {odd!r} in a text", None, kept


@kind("encodings with and without their mark", "UTF-8, UTF-16 and UTF-32 of both orders, for texts, tables, tasks")
def _(folder, rng):
    import codecs

    marks = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
             "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE}
    for encoding, mark in marks.items():
        for begin in (mark, b""):
            for what, text, words in (("text.txt", TEXT, evolving("--corpus", "text.txt")),
                                      ("table.csv", TABLE, aligning("table.csv")),
                                      ("task.jsonl", TASK, asking("task.jsonl"))):
                def case(what=what, text=text, encoding=encoding, begin=begin):
                    run_of(folder, "experts")
                    (folder / what).write_bytes(begin + text.encode(encoding))
                yield f"{what}, {encoding}{' with its mark' if begin else ''}", case, words


# Compressed, packed, pickled -----------------------------------------------------------------------------------------

@kind("cut off compressed texts", "gzip, bzip2, xz and zstd that end anywhere, go on with rubbish, hold several parts")
def _(folder, rng):
    from numcodecs.zstd import Zstd

    packs = dict(gz=gzip.compress, bz2=bz2.compress, xz=lzma.compress, zst=lambda b: bytes(Zstd().encode(b)))
    for suffix, pack in packs.items():
        whole = pack(TEXT.encode())
        for what in ("cut", "cut", "rubbish behind", "two parts", "a flipped bit", "empty"):
            data = dict(cut=whole[: rng.randrange(1, len(whole))], empty=whole[:0]).get(what, whole)
            data += dict([("rubbish behind", b"\0rubbish" * 20), ("two parts", whole)]).get(what, b"")
            if what == "a flipped bit":
                at = rng.randrange(len(data))
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]

            def text(data=data, suffix=suffix):
                (folder / f"t.txt.{suffix}").write_bytes(data)
            yield f"{suffix}: {what}", text, evolving("--corpus", f"t.txt.{suffix}")


@kind("zip bombs", "results whose chunks or members inflate to gigabytes, with a right checksum")
def _(folder, rng):
    from numcodecs.zstd import Zstd

    def archive(files, deflated=False):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as z:
            for k, v in files.items():
                z.writestr(k, v)
            z.comment = b"0" * 64
        data = out.getvalue()[:-64]
        return data + hashlib.sha256(data).hexdigest().encode()

    def spoilt(name, how):
        path = run_of(folder) / name
        with zipfile.ZipFile(path) as z:
            files = {n: z.read(n) for n in z.namelist()}
        chunks = [n for n in files if "/c/" in n]
        chunk = rng.choice(chunks)
        zeros = bytes(1 << 28)
        if how == "chunk":
            files[chunk] = bytes(Zstd(level=1).encode(zeros)) * 8
        elif how == "frame":  # its header says 1 TB
            files[chunk] = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + bytes(40)
        elif how == "shape":
            meta = f"{chunk.split('/c/')[0]}/zarr.json"
            about = json.loads(files[meta])
            about["shape"] = [1 << 20] * len(about["shape"])
            files[meta] = json.dumps(about).encode()
        elif how == "chunks":
            meta = f"{chunk.split('/c/')[0]}/zarr.json"
            about = json.loads(files[meta])
            about["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 20] * len(about["shape"])
            files[meta] = json.dumps(about).encode()
        else:
            files["zarr.json"] = b" " * (1 << 28) + files["zarr.json"]
        path.write_bytes(archive(files, how == "member"))
    for name in ("development.zarr.zip", "evolution.zarr.zip"):
        for how in ("chunk", "frame", "shape", "chunks", "member"):
            yield f"{how} of {name}", lambda name=name, how=how: spoilt(name, how), rng.choice(
                looks("connectome", LOOKS[2:]))

    def bomb():
        (folder / "t.txt.gz").write_bytes(gzip.compress(b"a" * (300 << 20), 1))
    yield "a text in gz", bomb, evolving("--corpus", "t.txt.gz", "--set", "corpus.n_bytes=50000")


@kind("archives that lie", "zip members that are encrypted, doubled, elsewhere, or larger than they say")
def _(folder, rng):
    def spoilt(name, how):
        path = run_of(folder) / name
        data = bytearray(path.read_bytes()[:-64])
        central = [i.start() for i in re.finditer(b"PK\x01\x02", bytes(data))]
        local = [i.start() for i in re.finditer(b"PK\x03\x04", bytes(data))]
        at = rng.choice(central)
        if how == "encrypted":
            data[at + 8] |= 1
            data[local[0] + 6] |= 1
        elif how == "size":
            data[at + 24: at + 28] = struct.pack("<I", 2**32 - 2)
        elif how == "place":
            data[at + 42: at + 46] = struct.pack("<I", rng.randrange(2**31))
        elif how == "method":
            data[at + 10: at + 12] = struct.pack("<H", rng.choice((1, 6, 12, 14, 93, 99)))
        else:
            data[at + 46: at + 48] = b"\xff\xfe"
        path.write_bytes(bytes(data) + hashlib.sha256(bytes(data)).hexdigest().encode())
    for k, name in (("connectome", "development.zarr.zip"), ("connectome", "evolution.zarr.zip")):
        for how in ("encrypted", "size", "place", "method", "name"):
            yield f"{how}, {name}", lambda name=name, how=how: spoilt(name, how), rng.choice(looks(k, LOOKS[2:]))


class Runs:
    "What a pickle could do: this one leaves a file."

    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return open, (self.path, "w")


@kind("pickles", "in .npy, .npz, .pt and in files that are none by their name: nothing of them is ever run")
def _(folder, rng):
    import torch

    mark = folder / "ran"

    def written(name, how):
        run_of(folder, "experts")
        made = io.BytesIO()
        if how == "npy":
            np.save(made, np.array([Runs(mark)], object), allow_pickle=True)
        elif how == "npz":
            np.savez(made, a=np.array([Runs(mark)], object))
        elif how == "pt":
            torch.save(dict(model_state_dict=Runs(mark), mask={}), made)
        else:
            made.write(pickle.dumps(Runs(mark)))
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(made.getvalue())
    wrong = ("it was run", lambda: mark.exists())
    for how in ("npy", "npz", "pt", "pickle"):
        for name, words in (("w.pt", ["develop", "--connectome", "w.pt", "--out", "made", "--preset", "demo"]),
                            ("w.safetensors", ["develop", "--connectome", "w.safetensors", "--out", "made"]),
                            (f"t.{how}", evolving("--corpus", f"t.{how}")), ("t.csv", aligning("t.csv")),
                            ("t.jsonl", asking("t.jsonl")), ("base/pytorch_model.bin", ["experts", "--base", "base"]),
                            ("connectome/corpus/unseen.npy", ["develop", "connectome"])):  # fmt: skip
            yield f"{how} as {name}", lambda name=name, how=how: written(name, how), words, wrong


@kind("tensors that overlap", "safetensors whose offsets overlap, leave holes, point out, or come twice")
def _(folder, rng):
    def spoilt(path, how):
        run_of(folder, "experts")
        data = path.read_bytes()
        n = int.from_bytes(data[:8], "little")
        header = json.loads(data[8: 8 + n])
        names = [k for k in header if k != "__metadata__"]
        a, b = (names * 2)[:2] if len(names) == 1 else rng.sample(names, 2)
        if how == "overlap":
            header[a]["data_offsets"] = header[b]["data_offsets"]
        elif how == "hole":
            header[a]["data_offsets"] = [x + 8 for x in header[a]["data_offsets"]]
        elif how == "out":
            header[a]["data_offsets"] = [0, 2**50]
        elif how == "backwards":
            header[a]["data_offsets"] = header[a]["data_offsets"][::-1]
        elif how == "type":
            header[a]["dtype"] = rng.choice(("F4", "BOOL", "F8_E5M2", "C64", "U64"))
        else:
            header[a]["shape"] = [2**31, 2**31]
        text = json.dumps(header)
        if how == "twice":
            text = text[:-1] + f', "{a}": {json.dumps(header[a])}}}'
        path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + data[8 + n:])
    places = [p for k in ("connectome", "experts") for p in files_of(k, folder) if p.suffix == ".safetensors"]
    for how in ("overlap", "hole", "out", "backwards", "type", "shape", "twice"):
        for path in rng.sample(places, 3):
            words = rng.choice([["report", "connectome"], ["explore", "connectome"], ["develop", "connectome"],
                                ["show", "experts"], ["report", "experts"], ["population", "experts", "--out", "bred",
                                                                             "--budget", "2", "--seeds", "1"]])

            def case(path=path, how=how):
                spoilt(path, how)
            yield f"{how} in {path.parent.name}/{path.name}, {words[0]}", case, words


@kind("other programs' files under our names", "Parquet, HDF5, netCDF, SQLite, images, PDF, tar and ELF as texts, "
      "tables, tasks, results")
def _(folder, rng):
    starts = dict(parquet=b"PAR1" + bytes(200) + b"PAR1", hdf5=b"\x89HDF\r\n\x1a\n" + bytes(500), netcdf=b"CDF\x01" +
                  bytes(100), sqlite=b"SQLite format 3\0" + bytes(400), png=b"\x89PNG\r\n\x1a\n" + bytes(100),
                  pdf=b"%PDF-1.7\n" + bytes(100), tar=b"x" * 257 + b"ustar" + bytes(300), elf=b"\x7fELF" + bytes(100),
                  zip=m.archive({"a.txt": b"text"}), gguf=b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60))
    for what, data in starts.items():
        def spoil(path, data=data):
            path.write_bytes(data)
        yield from ((f"{what}: {label}", *case) for label, *case in rng.sample(
            list(whatever_is_read(folder, spoil, rng)), 4))


@kind("locks that are none", "a run's lock that is a folder, a pipe, a broken link, or another user's")
def _(folder, rng):
    def make(how):
        lock = run_of(folder) / ".lock"
        lock.unlink(missing_ok=True)
        dict(folder=lock.mkdir, pipe=lambda: os.mkfifo(lock), broken=lambda: lock.symlink_to("no/where"),
             circle=lambda: lock.symlink_to(".lock"), mode=lambda: (lock.touch(), lock.chmod(0)))[how]()
    for how in ("folder", "pipe", "broken", "circle", "mode"):
        for words in (["show", "connectome"], ["report", "connectome"], ["develop", "connectome", "--device", "cpu"]):
            yield f"{how}, {words[0]}", lambda how=how: make(how), words


# Running --------------------------------------------------------------------------------------------------------------

class Hang(BaseException):
    pass


def ask(words, folder: Path, seconds=SECONDS) -> str:
    "Do a command: what went wrong, or nothing."
    from evonb.cli import main

    os.chdir(folder)
    os.environ["EVONB_CACHE"] = str(folder / ".cache")
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if callable(words):
                words()
                return ""
            code = main(list(words))
    except Hang:
        place = traceback.extract_tb(sys.exc_info()[2])[-1]
        return f"takes longer than {seconds} s, at {Path(place.filename).name}:{place.lineno}"
    except SystemExit as e:  # argparse
        code = e.code
    except BaseException as e:
        from evonb.core import EvonbError

        if callable(words) and isinstance(e, EvonbError):
            return ""
        place = next((f for f in reversed(traceback.extract_tb(e.__traceback__)) if "/evonb/" in f.filename), None)
        where = f" at {Path(place.filename).name}:{place.lineno}" if place else ""
        return f"{type(e).__name__}{where}: {str(e)[:200]}"
    said = err.getvalue().strip()
    if code not in (0, 2):
        return f"it ended with {code}: {said[-200:]}"
    if code == 2 and len(said) < 20:
        return f"it was refused without a word: {said!r}"
    print(f"    {code}: {said[-300:] or out.getvalue().strip()[:100]}", file=sys.__stdout__)
    return ""


def child(name: str, number: int, seed: int, folder: Path, say: Path):
    "One case, in this process."
    import torch

    torch.set_num_threads(1)

    def ring(*_):
        raise Hang
    signal.signal(signal.SIGALRM, ring)
    signal.signal(signal.SIGPROF, ring)
    label, make, words, *more = cases(name, seed, folder)[number]
    with contextlib.suppress(FileExistsError):
        if make:
            make()
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (int(pages + SPACE),) * 2)
    signal.setitimer(signal.ITIMER_PROF, seconds := LONGER.get(name, SECONDS))
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    wrong = ask(words, folder, seconds)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for what, happened in more:
        wrong = what if happened() else wrong
    say.write_text(wrong)


def cases(name: str, seed: int, folder: Path) -> list:
    "All cases of a kind, the same for a seed."
    folder.mkdir(exist_ok=True)
    return list(KINDS[name][0](folder, Random(f"{name}/{seed}")))


def one(name: str, number: int, seed: int, place: Path, verbose=False) -> str:
    "Do a case in a process of its own: what went wrong, or nothing."
    folder, say = place / "case", place / "said"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    say.unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        try:
            if not verbose:
                for fd in (1, 2):
                    os.dup2(os.open(place / "printed", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
            child(name, number, seed, folder, say)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
    until = time.monotonic() + 2 * WAITING
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hangs where no alarm reaches it"
        time.sleep(0.01)
    code = os.waitstatus_to_exitcode(done[1])
    if code:
        printed = place / "printed"
        said_last = printed.read_text(errors="replace")[-400:] if printed.exists() else ""
        return f"the process ended with {code}: {said_last}"
    return say.read_text()


def warm():
    "Import what the commands need, once for all children."
    import fuzz

    fuzz.warm()
    for name in ("evonb.populations.breeding", "evonb.widgets.explorers", "evonb.report", "evonb.alignment.run"):
        __import__(name)


def all_kinds(names=None, seed=0, share=1.0, say=print, verbose=False) -> dict:
    "Kind -> what it is, tried, failures."
    warm()
    found = {}
    for name in names or KINDS:
        place = Path(tempfile.mkdtemp(prefix="hostile-"))
        labels = [c[0] for c in cases(name, seed, place / "case")]
        chosen = list(range(len(labels)))
        if share < 1:
            chosen = sorted(Random(seed).sample(chosen, max(1, round(share * len(chosen)))))
        one_kind = found[name] = dict(line=KINDS[name][1], tried=0, failures=[])
        began = time.monotonic()
        for number in chosen:
            if verbose:
                say(f"{name} {number}: {labels[number]!r}")
            wrong = one(name, number, seed, place, verbose)
            one_kind["tried"] += 1
            if wrong:
                one_kind["failures"].append(f"{labels[number]!r}: {wrong}")
                say(f"{name} {number}, {labels[number]!r}: {wrong}")
        say(f"{name}: {len(chosen)} tried, {len(one_kind['failures'])} faults, {time.monotonic() - began:.0f} s")
        shutil.rmtree(place, ignore_errors=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", action="append", choices=list(KINDS), metavar="NAME", help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the cases of each kind")
    parser.add_argument("-v", action="store_true", help="say what each command said")
    given = parser.parse_args()
    found = all_kinds(given.kind, given.seed, given.share, lambda text: print(text, flush=True), given.v)
    return any(k["failures"] for k in found.values())


if __name__ == "__main__":
    sys.exit(main())
