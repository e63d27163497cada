"""BabyLM's submission by name: its keys of either year, what is left out, and what is refused."""

import json
import zipfile
from pathlib import Path

import pytest

from evonb.cli import main
from evonb.development.submission import KEYS

RUNS = Path(__file__).parents[1] / "runs"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submitted")
    zipfile.ZipFile(RUNS / "connectome.zip").extractall(folder / "run")
    (folder / "blimp").mkdir()
    pairs = [dict(sentence_good="The dog runs.", sentence_bad="The dog run.", UID="agreement"),
             dict(sentence_good="The dogs run.", sentence_bad="The dogs runs.", UID="agreement")]
    (folder / "blimp" / "agreement.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    boxes = [dict(input_prefix="Box 1 holds", options=[" a key.", b], numops=0) for b in (" a pen.", " nothing.")]
    (folder / "regular.jsonl").write_text("\n".join(map(json.dumps, boxes)))
    return folder


def submit(place, out, *more, model="::connectome/0"):
    return main(["evaluate", f"{place / 'run'}{model}", "--submission", str(out), "--suite",
                 f"blimp:{place / 'blimp'},entity-tracking:{place / 'regular.jsonl'}", *more])


@pytest.mark.parametrize("year, entity, boxes", [(2025, "entity_tracking", 2), (2026, "entity_tracking_filtered", 1)])
def test_the_keys_are_the_years(place, tmp_path, capsys, year, entity, boxes):
    assert submit(place, tmp_path / "a.json", "--year", str(year), "--fast", f"blimp:{place / 'blimp'}",
                  "--checkpoint", f"chck_2M={place / 'run'}::random/1", "--strict-small") == 0
    told = json.loads((tmp_path / "a.json").read_text())
    assert [k for k, v in told.items() if v] == ["blimp", entity, "fast_eval_results"]
    assert len(told[entity]["regular_0_ops"]["predictions"]) == boxes
    assert [p["pred"][:8] for p in told["blimp"]["agreement"]["predictions"]] == ["The dog ", "The dogs"]
    fast = told["fast_eval_results"]["blimp"]
    assert len([f for f in fast if f]) == 1 and len(fast) == (1 if year == 2025 else 19)
    assert fast[0 if year == 2025 else 1]["agreement"] in (0, 0.5, 1)
    out = capsys.readouterr().out
    assert f"keys of {year}" in out and "18: chck_1M, chck_3M, chck_4M, ..." in out and "glue" in out


@pytest.mark.parametrize("more, said", [
    (["--year", "2024"], "2024"), (["--checkpoint", "chck_15M=x"], "chck_15M=x"), (["--arms", "random"], "--arms"),
    (["--checkpoint", "chck_1M"], "NAME=MODEL"), (["--fast", "toy-agreement:3"], "toy-agreement")])
def test_what_babylm_hasnt_is_refused(place, tmp_path, capsys, more, said):
    assert submit(place, tmp_path / "a.json", *more) != 0
    assert said in capsys.readouterr().err and not (tmp_path / "a.json").exists()


def test_one_of_a_runs_models_is_asked_for(place, tmp_path, capsys):
    assert submit(place, tmp_path / "a.json", model="") != 0 and "::connectome/0" in capsys.readouterr().err
    assert submit(place, tmp_path) != 0 and "is a folder" in capsys.readouterr().err
    assert main(["evaluate", str(place / "run"), "--suite", "toy-agreement:3", "--fast", "blimp"]) != 0
    assert "--fast belongs to --submission" in capsys.readouterr().err
    assert "wug-adj" in KEYS[2025] and "wug-adj" not in KEYS[2026]
