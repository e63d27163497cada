#!/usr/bin/env python3
"""Runs pip, shows how far it is, and keeps all it says in a file. The standard library only: .venv isn't ready yet.

    .ci/installing.py LOG PYTHON PIP-ARGUMENT ...     as PYTHON -m pip install PIP-ARGUMENT ...

In a terminal it is one line that counts packages; elsewhere, a line at every quarter. If pip fails, its last lines and
the file's name are said, and its exit code is passed on.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

FETCHED = re.compile(r"\s*(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9][\w.-]*)")
FILE = re.compile(r"\s*(?:Downloading|Using cached) (\S+?)-\d\S* \(([\d.]+ [kMG]?B)\)")
ORDER = re.compile(r"\s*Installing collected packages: (.+)")
WIDTH, EVERY, LAST = 76, 0.2, 15  # characters of the line, seconds between its changes, lines said of a failure


def plain(name: str) -> str:
    "A package's name as packaging compares it."
    return re.sub(r"[-_.]+", "-", name).lower()


class Progress:
    "What pip has done so far, from what it says."

    def __init__(self, names=(), site: Path | None = None):
        self.names, self.site = {plain(n) for n in names}, site  # names: those that are asked for
        self.seen, self.order, self.now, self.size = set(), [], "", ""
        self.begun = self.since = time.time()

    def hear(self, line: str):
        "Take in one line of pip's."
        if found := FETCHED.match(line):
            self.seen.add(plain(found[1]))
            self.now, self.size, self.since = plain(found[1]), "", time.time()
        elif found := FILE.match(line):
            self.size = found[2]
        elif found := ORDER.match(line):
            self.order, self.begun = [plain(n.strip()) for n in found[1].split(",")], time.time()

    def installed(self) -> int:
        "How many of those that pip is installing are there; it writes INSTALLER after a package's files."
        if not self.site:
            return 0
        fresh = [p for p in self.site.glob("*.dist-info/INSTALLER") if p.stat().st_mtime >= self.begun - 1]
        return len({plain(p.parent.name.split("-")[0]) for p in fresh} & set(self.order))

    def counts(self) -> tuple[int, int]:
        "(done, of how many) in the present step."
        if self.order:
            return self.installed(), len(self.order)
        total = len(self.names)
        return (len(self.seen & self.names), total) if total > 1 else (len(self.seen), 0)

    def line(self) -> str:
        "What is going on, in a line."
        done, total = self.counts()
        what = "installing" if self.order else "fetching"
        said = f"   {what} {done}" + (f" of {total}" if total else "") if done or total else "   pip has begun"
        if not self.order and self.now:
            took = time.time() - self.since
            parts = [self.now, self.size, f"{took // 60:.0f}:{took % 60:02.0f}" if took >= 5 else ""]
            said += f": {', '.join(filter(None, parts))}"
        return said[:WIDTH]


class Teller:
    "Shows the line: over itself in a terminal, else at every quarter."

    def __init__(self, progress: Progress, out=sys.stdout):
        self.progress, self.out, self.told = progress, out, set()
        self.is_terminal, self.lock = out.isatty(), threading.Lock()

    def tell(self):
        "How far it is."
        with self.lock:
            if self.is_terminal:
                return self._write(f"\r{self.progress.line():<{WIDTH}}")
            done, total = self.progress.counts()
            step = (bool(self.progress.order), 4 * done // total if total else 0)
            if total and step[1] and step not in self.told:
                self.told.add(step)
                self._write(f"   {'installed' if step[0] else 'fetched'} {done} of {total}\n")

    def end(self):
        "Leave an empty line behind in a terminal."
        if self.is_terminal:
            self._write(f"\r{'':<{WIDTH}}\r")

    def _write(self, text: str):
        self.out.write(text)
        self.out.flush()


def asked_for(arguments: list[str]) -> list[str]:
    "The packages that pip's arguments name, those of a file of requirements too."
    names = []
    for before, text in zip(["", *arguments], arguments):
        if before == "-r":
            lines = Path(text).read_text(encoding="utf-8").splitlines()
            names += [m[0] for line in lines if (m := re.match(r"[A-Za-z0-9][\w.-]*", line))]
        elif not text.startswith("-") and text != ".":
            names += re.findall(r"^[A-Za-z0-9][\w.-]*", text)
    return names


def run(log: Path, python: str, arguments: list[str]) -> int:
    "Run pip; its exit code."
    sites = sorted(Path(python).parent.parent.glob("lib*/python*/site-packages"))
    progress = Progress(asked_for(arguments), sites[0] if sites else None)
    teller, ended = Teller(progress), threading.Event()
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-color",
               "--progress-bar", "off", *arguments]
    with log.open("a", encoding="utf-8") as kept:
        kept.write(f"$ {' '.join(command)}\n")
        pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                               env={**os.environ, "PYTHONUNBUFFERED": "1"})
        ticking = threading.Thread(target=tick, args=(teller, ended), daemon=True)
        ticking.start()
        try:
            for line in pip.stdout:
                kept.write(line)
                kept.flush()
                progress.hear(line)
                if not teller.is_terminal:
                    teller.tell()  # whatever the clock says: no quarter is missed
            return pip.wait()
        except KeyboardInterrupt:
            return 130
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
            ended.set()
            ticking.join()
            teller.end()


def tick(teller: Teller, ended: threading.Event):
    "Tell while pip is silent, too: a large file takes minutes."
    while not ended.wait(EVERY):
        teller.tell()
    teller.tell()


def last_lines(log: Path) -> str:
    "The end of the log, with what pip calls an error before it."
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    start = max((i for i, line in enumerate(lines) if line.startswith("$ ")), default=0)
    lines = lines[start + 1:]
    errors = [line for line in lines[:-LAST] if line.startswith("ERROR")]
    return "\n".join([*errors, *lines[-LAST:]])


def main(args: list[str]) -> int:
    if len(args) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    log = Path(args[0])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # pip is ended, too
    code = run(log, args[1], args[2:])
    if code and code != 130:
        print(f"{last_lines(log)}\n(all that pip said: {log})", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
