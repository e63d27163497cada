"""What a forge runs and asks: commands that exist, releases without a password, and what the doctor says."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted(p for p in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall("^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def jobs(path):
    return yaml.safe_load(path.read_text())["jobs"]


def commands(path):
    "Each command of a workflow as words; what the forge fills in stands as FILLED."
    steps = [s for job in jobs(path).values() for s in job["steps"]]
    lines = "\n".join(s["run"] for s in steps if "run" in s).splitlines()
    return [shlex.split(re.sub(r"\$\{\{.+?\}\}", "FILLED", line)) for line in lines]


def test_there_are_the_three_workflows_and_they_end_by_themselves():
    assert [p.stem for p in WORKFLOWS] == ["release", "site", "test"]
    for path in WORKFLOWS:
        told = yaml.safe_load(path.read_text())
        assert told["name"] == path.stem and told[True] and told["permissions"]["contents"] == "read"
        for job in told["jobs"].values():
            assert job["runs-on"] == "ubuntu-latest" and ("timeout-minutes" in job or job.get("needs"))
            assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", s["uses"]) for s in job["steps"] if "uses" in s)
            assert all(("uses" in s) != ("run" in s) for s in job["steps"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_the_commands_of_a_workflow_exist(path):
    for program, what, *rest in commands(path):
        if program == "make":
            assert what in TARGETS
        elif what != "-m":
            assert program in ("bash", "python") and (ROOT / what).is_file(), what
            if what == ".ci/installed.py":
                said = subprocess.run([sys.executable, ROOT / what, "--help"], capture_output=True, text=True).stdout
                assert all(o in said for o in rest if o.startswith("--"))


def test_the_test_workflow_runs_what_ci_runs_and_the_wheel_on_every_python_and_both_ends():
    path = next(p for p in WORKFLOWS if p.stem == "test")
    assert ["bash", ".ci/run"] in commands(path)
    tried = jobs(path)["installed"]["strategy"]["matrix"]
    assert all((ROOT / file).is_file() for file in tried["constraints"]) and len(tried["constraints"]) == 2
    assert min(tried["python"]) == PROJECT["requires-python"].removeprefix(">=")


def test_a_release_is_tested_first_and_keeps_no_password():
    path = next(p for p in WORKFLOWS if p.stem == "release")
    build, publish = jobs(path)["build"], jobs(path)["publish"]
    assert ["bash", ".ci/run"] in commands(path) and publish["needs"] == "build" and "permissions" not in build
    assert publish["permissions"] == {"id-token": "write"} and "environment" in publish
    told = [yaml.dump(yaml.safe_load(p.read_text())).replace("id-token:", "") for p in WORKFLOWS]
    assert not any(re.search(r"secrets\.|password|token:", t) for t in told)


@pytest.mark.parametrize("tag, code", [(f"v{PROJECT['version']}", 0), ("v9.9.9", 1), ("", 1)])
def test_a_tag_that_isnt_the_versions_is_refused(tag, code):
    command = [sys.executable, ROOT / ".ci" / "release.py", *filter(None, [tag])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and (not code or f"Tag it v{PROJECT['version']}" in done.stderr)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_a_question_brings_what_the_doctor_says(path):
    told = yaml.safe_load(path.read_text())
    assert told["name"] and told["description"] and all(part["attributes"]["label"] for part in told["body"])
    ids = [part["id"] for part in told["body"]]
    assert len(set(ids)) == len(ids) and "doctor" in ids
    doctor = told["body"][ids.index("doctor")]
    assert "evonb doctor" in doctor["attributes"]["label"] and doctor["attributes"]["render"] == "text"
    assert path.stem == "wish" or doctor["validations"] == {"required": True}


@pytest.mark.parametrize("name", ["oldest", "newest"])
def test_constraints_are_exact_and_within_what_pyproject_asks_for(name):
    lines = [x for x in (ROOT / ".ci" / f"{name}.txt").read_text().splitlines() if x and not x.startswith("#")]
    held = {r.name: r for r in map(Requirement, lines)}
    extras = PROJECT["optional-dependencies"]
    parts = [PROJECT["dependencies"], *(extras[e] for e in extras if e not in ("dev", "docs"))]
    asked = [Requirement(d) for part in parts for d in part]
    wanted = {r.name: r for r in asked if r.name in held}
    assert {"numpy", "pandas", "xarray", "zarr", "plotly", "transformers", "peft", "torch", "nibabel"} <= set(wanted)
    for package, requirement in held.items():
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{package} must be pinned"
        if package in wanted:
            assert wanted[package].specifier.contains(pin.version), f"{pin} isn't {wanted[package]}"
    if name == "oldest":  # the bounds of pyproject.toml are what is tried, torch aside
        low = {r.name: s.version for r in asked for s in r.specifier if s.operator == ">="}
        same = lambda p, r: Version(next(iter(r.specifier)).version) == Version(low[p])  # noqa: E731
        behind = {p: r for p, r in held.items() if p in low and not same(p, r)}
        assert set(behind) <= {"torch"}, behind
