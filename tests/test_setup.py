"""`make install`: what it shows, what it keeps, and what it says of a failure; pip and Python are played by scripts."""

import importlib.util
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / ".ci" / "installing.py"

# Says what pip says, without a network: {many} packages, then what a test adds.
PIP = """
import os, pathlib, sys, time
site = pathlib.Path(sys.argv[0]).parents[1] / "lib" / "python3.11" / "site-packages"
print("argv", *sys.argv[1:])
names = [f"pack_{n}" for n in range(40)]
for n, name in enumerate(names):
    print(f"Collecting {name}==1.{n} (from -r requirements.lock (line {n}))")
    print(f"  Downloading {name}-1.{n}-py3-none-any.whl (706.8 MB)")
    time.sleep(float(os.environ.get("FAKE_SECONDS", 0)) / 40)
print("Requirement already satisfied: other<2 in somewhere (from pack-1==1.1) (1.0)")
if os.environ.get("FAKE_FAILS"):
    print("ERROR: No matching distribution found for pack_40", *["\\nnoise"] * 30)
    sys.exit(7)
print("Installing collected packages: " + ", ".join(names))
for n, name in enumerate(names):
    info = site / f"{name}-1.{n}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "INSTALLER").write_text("pip")
    time.sleep(float(os.environ.get("FAKE_SECONDS", 0)) / 40)
print("Successfully installed " + " ".join(names))
"""


@pytest.fixture
def venv(tmp_path):
    "A folder like .venv whose Python plays pip; and a lock of its packages."
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / ".venv" / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (python.parent / "pip.py").write_text(PIP)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$(dirname "$0")/pip.py" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "requirements.lock").write_text("# a lock\n" + "".join(f"pack-{n}==1.{n}\n" for n in range(40)))
    return tmp_path


COMMAND = [sys.executable, SCRIPT, ".venv/install.log", ".venv/bin/python", "-r", "requirements.lock"]


def in_a_terminal(command, cwd, **env):
    "What a command writes to a terminal of its own, and its exit code."
    master, slave = pty.openpty()
    done = subprocess.Popen(command, cwd=cwd, stdout=slave, stderr=slave, env={**os.environ, **env})
    os.close(slave)
    said = b""
    try:
        while part := os.read(master, 65536):
            said += part
    except OSError:  # the other side is closed
        pass
    os.close(master)
    return done.wait(), said.decode()


def test_without_a_terminal_there_are_a_few_plain_lines_and_the_whole_log(venv):
    done = subprocess.run(COMMAND, cwd=venv, capture_output=True, text=True, env={**os.environ, "FAKE_SECONDS": "4"})
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == "" and "\r" not in done.stdout and 2 <= len(lines) <= 8, done.stdout
    assert "   fetched 40 of 40" in lines and "   installed 40 of 40" == lines[-1], done.stdout
    log = (venv / ".venv" / "install.log").read_text()
    assert log.count("Collecting pack_") == 40 and "Successfully installed pack_0 pack_1" in log
    assert log.splitlines()[0].startswith("$ .venv/bin/python -m pip install --disable-pip-version-check --no-input")


def test_in_a_terminal_there_is_one_line_that_counts(venv):
    code, said = in_a_terminal(COMMAND, venv, FAKE_SECONDS="4")
    shown = [part.strip() for part in said.split("\r")]
    assert code == 0 and "\n" not in said and shown[-1] == "", "the line is taken away at the end"
    assert any(s.startswith("fetching") and "of 40: pack-" in s and "706.8 MB" in s for s in shown), shown
    installed = [int(s.split()[1]) for s in shown if s.startswith("installing")]
    assert installed[-1] == 40 and installed == sorted(installed) and any(0 < n < 40 for n in installed)
    assert max(map(len, shown)) <= 76


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failure_says_its_error_its_last_lines_and_where_the_log_is(venv, terminal):
    if terminal:
        code, said = in_a_terminal(COMMAND, venv, FAKE_FAILS="1")
    else:
        done = subprocess.run(COMMAND, cwd=venv, capture_output=True, text=True, env={**os.environ, "FAKE_FAILS": "1"})
        code, said = done.returncode, done.stderr
    assert code == 7 and "ERROR: No matching distribution found for pack_40" in said
    assert "(all that pip said: .venv/install.log)" in said and said.count("\n") < 25


def test_ending_it_ends_pip(venv):
    done = subprocess.Popen(COMMAND, cwd=venv, stdout=subprocess.DEVNULL, env={**os.environ, "FAKE_SECONDS": "600"})
    log = venv / ".venv" / "install.log"
    while not (log.exists() and "Collecting" in log.read_text()): time.sleep(0.05)
    found = subprocess.run(["pgrep", "-f", str(venv / ".venv")], capture_output=True, text=True).stdout.split()
    done.send_signal(signal.SIGTERM)
    assert done.wait(20) == 143
    for pid in found:
        assert not Path(f"/proc/{pid}").exists(), "pip goes on"


def test_what_pip_is_asked_for_is_counted():
    spec = importlib.util.spec_from_file_location("installing", SCRIPT)
    installing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installing)
    assert installing.asked_for(["torch==2.13.0"]) == ["torch"] and installing.asked_for(["--no-deps", "-e", "."]) == []
    names = installing.asked_for(["-r", str(ROOT / "requirements.lock")])
    assert len(names) > 100 and {"torch", "PyYAML", "about-time"} <= set(names)
    seen = installing.Progress(["PyYAML", "charset_normalizer"])
    assert seen.line() == "   fetching 0 of 2" and installing.Progress().line() == "   pip has begun"
    for line in ("Collecting pyyaml==6.0.3 (from -r x (line 1))", "  Using cached PyYAML-6.0.3-cp311.whl (757 kB)"):
        seen.hear(line)
    assert seen.line() == "   fetching 1 of 2: pyyaml, 757 kB"
    seen.hear("Requirement already satisfied: charset-normalizer<4,>=2 in ./x (from requests) (3.4)")
    assert seen.counts() == (2, 2)


# All of .ci/setup ------------------------------------------------------------------------------------------------

PYTHON = """#!/bin/sh
# Plays a Python: makes a .venv of itself, and pip by the script beside it; all else is real.
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin .venv/lib/python3.11/site-packages
                   cp "$0" .venv/bin/python; cp "$(dirname "$0")/pip.py" .venv/bin/; exit 0;;
  "-m pip --version") test -e .venv/bin/pip.py; exit;;
  "-m pip check") if [ -n "${FAKE_UNFIT:-}" ]; then echo "a 1 has requirement b>2"; exit 1; fi; exit 0;;
  "-m pip install"*) exec {python} "$(dirname "$0")/pip.py" "$@";;
  -) case "$(cat)" in *requirements.lock*) exit 1;; *) exit 0;; esac;;
  *) exec {python} "$@";;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    "A project with .ci/setup, and a Python that plays."
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "requirements.lock").write_text("torch==2.0\n" + "".join(f"pack-{n}==1.{n}\n" for n in range(40)))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip.py").write_text(PIP)
    python = tmp_path / "bin" / "python"
    python.write_text(PYTHON.replace("{python}", sys.executable))
    python.chmod(0o755)
    return tmp_path


def setup(checkout, **env):
    "What `make install` does: (exit code, what it printed, its errors)."
    done = subprocess.run([".ci/setup"], cwd=checkout, capture_output=True, text=True,
                          env={**os.environ, "PYTHON": str(checkout / "bin" / "python"), **env})
    return done.returncode, done.stdout, done.stderr


def test_make_install_says_little_and_keeps_everything(checkout):
    code, said, errors = setup(checkout)
    assert code == 0 and errors == "", errors
    assert said.endswith("== Environment ready in .venv\n")
    assert len(said.splitlines()) <= 16 and "Collecting" not in said
    log = (checkout / ".venv" / "install.log").read_text()
    asked = [line for line in log.splitlines() if line.startswith("$ ")]
    assert [a.split("--progress-bar off ")[1] for a in asked] == [
        "torch==2.0", "-r requirements.lock", "--no-deps --no-build-isolation --force-reinstall -e ."]
    assert setup(checkout) == (0, "", ""), "nothing changed, nothing said"


def test_make_install_names_the_log_when_it_fails(checkout):
    code, _, errors = setup(checkout, FAKE_FAILS="1")
    assert code == 1 and "ERROR: No matching distribution found" in errors
    assert "setup: installing torch failed; see .venv/install.log, and run make again to go on." in errors
    code, _, errors = setup(checkout, FAKE_UNFIT="1")
    assert code == 1 and "a 1 has requirement b>2" in errors and "don't fit each other" in errors
    assert not (checkout / ".venv" / ".stamp").exists()
    assert setup(checkout)[0] == 0
