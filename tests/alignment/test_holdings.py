"""Which data sets are known and here, and what a folder holds."""

import pytest

from evonb.alignment.holdings import (
    about_text,
    by_columns,
    check_data_folder,
    check_text,
    holdings,
    holdings_text,
    key_of,
)
from evonb.cli import main
from evonb.core import InputError
from evonb.datasets import published

BROWN = ",subject,text_id,text_pos,word,time\n" + "".join(
    f"{i},{s},0,{i},{w},{300 + i}\n" for s in "ab" for i, w in enumerate("A bee left.".split()))


def test_every_data_set_is_listed_with_licence_size_and_how(tmp_path, monkeypatch):
    monkeypatch.setenv("EVONB_DATA", str(tmp_path))
    (tmp_path / "brown").mkdir()
    (tmp_path / "brown" / "brown_spr.csv").write_text(BROWN)
    rows = {r["name"]: r for r in holdings()}
    assert len(rows) == len(published()) and rows["brown"]["here"] and not rows["provo"]["here"]
    assert all(r["licence"] and r["size"] and r["line"] for r in rows.values())
    lines = holdings_text(list(rows.values())).splitlines()
    assert len(lines) == len(rows) + 1 and any(line.startswith("brown ") and " yes " in line for line in lines)
    for name in rows:
        assert published()[key_of(name)]["how"] in about_text(name) and "verified" in about_text(name)
    assert "format only" in about_text("provo") and "known checksums" in about_text("blimp")


def test_a_folder_is_known_by_its_files_and_opened(tmp_path):
    (tmp_path / "brown_spr.csv").write_text(BROWN)
    (row,) = check_data_folder(tmp_path)
    assert row["name"] == "brown" and row["right"] and not row["missing"] and "2 readers" in row["told"]
    (tmp_path / "brown_spr.csv").write_text(BROWN.replace("text_pos", "position"))
    (row,) = check_data_folder(tmp_path)
    assert not row["right"] and "no column 'text_pos'" in row["told"] and "wrong: " in check_text([row])


def test_a_table_of_another_name_is_known_by_its_columns(tmp_path):
    (tmp_path / "mine.csv").write_text(BROWN)
    assert by_columns(tmp_path / "mine.csv") == ["brown"] and check_data_folder(tmp_path / "mine.csv")[0]["right"]
    (tmp_path / "sp.txt").write_text("subj_nr\tsent_nr\tword_pos\tword\tRT\n1\t1\t1\ta\t300\n")
    assert by_columns(tmp_path / "sp.txt") == ["ucl_self_paced"]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no data set that is known by its files or columns; it has: other.csv"):
        check_data_folder(tmp_path / "other.csv")
    with pytest.raises(FileNotFoundError, match="no file or folder"): check_data_folder(tmp_path / "none")


def test_what_lacks_files_or_was_altered_is_said(tmp_path):
    for f in ("tx01wrdp.dat", "tx02wrdp.dat"): (tmp_path / f).write_text("no words\n")
    (row,) = check_data_folder(tmp_path)
    assert row["name"] == "dundee" and len(row["missing"]) == 18 and "0 files of readers" not in check_text([row])[:40]
    assert "lacks 18 files: tx03wrdp.dat" in check_text([row]) and not row["right"]
    folder = tmp_path / "syntaxgym"
    folder.mkdir()
    (folder / "cleft.json").write_text("{}")
    told = {r["name"]: r for r in check_data_folder(tmp_path)}
    assert "SHA-256" in told["syntaxgym"]["told"] and not told["syntaxgym"]["right"]


def test_real_folders_are_whole(data_folder):
    for name, folder in (("natural-stories", "natural_stories"), ("langloc", "langloc")):
        (row,) = check_data_folder(data_folder / folder)
        assert (row["name"], row["missing"], row["right"]) == (name, [], True)


def test_the_command(tmp_path, capsys):
    (tmp_path / "brown_spr.csv").write_text(BROWN)
    assert not main(["data", "check", str(tmp_path)]) and "brown in" in capsys.readouterr().out
    main(["data", "meco"])
    assert "write.csv" in capsys.readouterr().out
    (tmp_path / "brown_spr.csv").write_text(BROWN.replace("word,", "Word_,"))
    with pytest.raises(SystemExit) as ended: main(["data", "check", str(tmp_path)])
    assert ended.value.code == 1


def test_an_unknown_name_is_told_each_name_once():
    with pytest.raises(InputError) as told:
        about_text("nothere")
    names = str(told.value).partition("one of: ")[2].rstrip(".").split(", ")
    assert len(names) == len(published()) == len({n.replace("-", "_") for n in names})
    assert about_text("natural_stories") == about_text("natural-stories")
