"""formats and folders: files of text as people have them, each with the documents that it holds."""

import base64
import bz2
import csv
import gzip
import io
import json
import lzma
import random
import sys
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonb.core import CorpusError, DamagedFileError, InputError, Remark, Seeds
from evonb.datasets import MissingCorpusError, MissingExtraError
from evonb.text import tokens
from evonb.text.corpora import load_corpus
from evonb.text.formats import json_kind
from evonb.text.tokens import CorpusConfig, open_prepared, prepare, save_prepared

TEXTS = [
    "The dogs near the door sleep, and a cat waits.\n",
    'She said "no"; he said\tnothing.\nA second line.\n',
    "Déjà vu, naïve: œuvre – 東京。",
    "One, two, three.",
    "The last of them isn't long.\n",
]


def documents(path, **options):
    "What both readers say that a file holds, which must be the same."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Remark)
        found = load_corpus(path, **options)
        config = CorpusConfig(str(path), vocab_size=257, block_bytes=16, **options)
        made = prepare(config, Seeds(0))
    assert made.info["digest"] == found.digest and made.info["provenance"] == found.info
    assert made.info["n_documents"] == len(found.documents)
    return found.documents


def table(texts, sep=",", head=("id", "text"), **how):
    out = io.StringIO()
    csv.writer(out, delimiter=sep, **how).writerows([head, *([i, t] for i, t in enumerate(texts))])
    return out.getvalue()


def lines(texts, key="text"):
    return "".join(json.dumps({"id": i, key: t}) + "\n" for i, t in enumerate(texts))


WRITTEN = {
    "a.jsonl": lines(TEXTS),
    "a.ndjson": lines(TEXTS),
    "lines.json": lines(TEXTS),
    "lines.txt": "\n" + lines(TEXTS),
    "array.json": json.dumps([dict(text=t) for t in TEXTS]),
    "array.txt": json.dumps([dict(text=t) for t in TEXTS], indent=1),
    "strings.json": json.dumps(TEXTS, ensure_ascii=False),
    "a.csv": table(TEXTS),
    "table.txt": table(TEXTS),
    "semicolon.csv": table(TEXTS, ";"),
    "a.tsv": table(TEXTS, "\t"),
    "tabs.csv": table(TEXTS, "\t"),
    "Upper.CSV": table(TEXTS, head=("Id", "Text")),
    "ndjson.csv": lines(TEXTS),
    "null.jsonl": lines(TEXTS) + '{"text": null}\n{"text": ""}\n',
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_record_is_a_document_whatever_the_file_is_called(tmp_path, name):
    (tmp_path / name).write_text(WRITTEN[name], encoding="utf-8")
    assert documents(tmp_path / name) == TEXTS


def test_what_was_taken_for_the_text_is_said(tmp_path):
    for name in ("b.csv", "a.csv"):
        (tmp_path / name).write_text(table([*TEXTS, name]))
    with pytest.warns(Remark, match="a.csv and 1 more: read as csv, a document each record, its text from 'text'"):
        corpus = load_corpus(str(tmp_path / "*.csv"))
    assert [f["format"] for f in corpus.info["files"]] == ["csv", "csv"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", Remark)
        (tmp_path / "plain.txt").write_text("Prose.\n")
        load_corpus(tmp_path / "plain.txt")


@pytest.mark.parametrize(
    "name, data",
    [
        ("a.csv", table(TEXTS, head=("id", "story"))),
        ("a.tsv", table(TEXTS, "\t", head=("id", "story"))),
        ("a.jsonl", lines(TEXTS, "story")),
        ("a.json", json.dumps([dict(story=t) for t in TEXTS])),
        ("a.txt", lines(TEXTS, "story")),
    ],
)
def test_another_field_is_named_and_missing_ones_are_listed(tmp_path, name, data):
    (tmp_path / name).write_text(data, encoding="utf-8")
    assert documents(tmp_path / name, field="story") == TEXTS
    for options in ({}, dict(field="stories")):
        with pytest.raises(CorpusError, match=r"'story'.*field=.*corpus\.field") as e:
            load_corpus(tmp_path / name, **options)
        assert name in str(e.value)


def test_long_words_are_looked_through_once():
    "A word of 64 kB of digits took a minute: a pattern looked from each of its places to the end."
    from evonb.text.formats import encoded_bytes

    assert not encoded_bytes("9" * 2**22) and not encoded_bytes("a" * 2**22)
    assert encoded_bytes("9" * 2**20 + "a") and encoded_bytes("a" * 2**20 + "9")


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACK)
def test_a_compressed_text_that_is_cut_off_anywhere_is_named(tmp_path, suffix):
    "Also behind the part that tells what it is, where a document is being read."
    whole = PACK[suffix]("".join(f"line {i} of {i * i}\n" for i in range(20_000)).encode())
    for share in (0.1, 0.5, 0.9, 0.999):
        path = tmp_path / f"cut.txt{suffix}"
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DamagedFileError, match="cut.txt.*can't be decompressed"):
            load_corpus(path)


@pytest.mark.parametrize("suffix", PACK)
def test_compressed_files_hold_what_they_hold(tmp_path, suffix):
    for name in ("a.jsonl", "a.csv", "array.json"):
        (tmp_path / (name + suffix)).write_bytes(PACK[suffix](WRITTEN[name].encode()))
        assert documents(tmp_path / (name + suffix)) == TEXTS
    text = "".join(f"line {i} of {i * i}\n" for i in range(4000))
    (tmp_path / ("long.txt" + suffix)).write_bytes(
        PACK[suffix](text[:9000].encode()) + PACK[suffix](text[9000:].encode())
    )
    (tmp_path / "misnamed.txt").write_bytes(PACK[suffix](text.encode()))
    for name in ("long.txt" + suffix, "misnamed.txt"):  # two members; a suffix that doesn't tell
        assert documents(tmp_path / name) == [text]
        assert (
            load_corpus(tmp_path / name, 5000).documents == [text[: 4991 + len(text[4991:].partition("\n")[0]) + 1]]
            or load_corpus(tmp_path / name, 5000).n_bytes <= 5000
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Remark)
        made = prepare(CorpusConfig(str(tmp_path / "misnamed.txt"), 5000, 257, 64), Seeds(0))
        assert (
            made.info["digest"] == load_corpus(tmp_path / "misnamed.txt", 5000).digest
            and 4900 < made.info["n_bytes"] <= 5000
        )
    whole = PACK[suffix](random.Random(0).randbytes(5000).hex().encode())
    (tmp_path / ("cut.jsonl" + suffix)).write_bytes(whole[: len(whole) // 2])
    with pytest.raises((DamagedFileError, CorpusError), match="cut.jsonl"):
        load_corpus(tmp_path / ("cut.jsonl" + suffix))


def test_a_truncated_archive_of_prose_is_refused(tmp_path):
    text = "".join(f"{random.Random(i).random()} and more\n" for i in range(20_000)).encode()
    for suffix, pack in PACK.items():
        (tmp_path / f"a.txt{suffix}").write_bytes(pack(text)[:-2000])
        for read in (load_corpus, lambda p: prepare(CorpusConfig(str(p), vocab_size=257), Seeds(0))):
            with pytest.raises(DamagedFileError, match="is truncated or damaged: it can't be decompressed"):
                read(tmp_path / f"a.txt{suffix}")


@pytest.mark.parametrize(
    "encoding, declared",
    [
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("latin-1", "latin-1"),
        ("cp1252", "windows-1252"),
        ("utf-8-sig", "utf-8"),
        ("utf-32", "utf-32"),
    ],
)
def test_encodings_by_declaration(tmp_path, encoding, declared):
    text = "".join(f"Zeile {i}: Größe, naïve, café.\n" for i in range(400))
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    (tmp_path / "a.csv").write_bytes(table([text, "Ö"]).encode(encoding))
    assert documents(tmp_path / "a.txt", encoding=declared) == [text]
    assert documents(tmp_path / "a.csv", encoding=declared) == [text, "Ö"]
    if declared != "utf-8":
        with pytest.raises(CorpusError, match="encoding|NUL"):
            load_corpus(tmp_path / "a.txt")
    with pytest.raises(InputError, match="encoding is 'utf8x'"):
        load_corpus(tmp_path / "a.txt", encoding="utf8x")


NOTEBOOK = dict(cells=[dict(cell_type="markdown", source=["Prose."])], nbformat=4, nbformat_minor=5, metadata={})
PAGE = "<p>One of <b>many</b> paragraphs.</p>\n<p>Another, with a <a href='x'>link</a>.</p>\n"


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.html", "<!DOCTYPE html>\n<html><body><p>Prose.</p></body></html>", "mark-up"),
        ("a.txt", PAGE * 9, "mark-up"),
        ("a.xml", "<?xml version='1.0'?>\n<TEI><p>Prose.</p></TEI>", "mark-up"),
        ("a.ipynb", json.dumps(NOTEBOOK), "a notebook"),
        ("b.txt", json.dumps(NOTEBOOK, indent=1), "a notebook"),
        ("a.pdf", b"%PDF-1.7\n%stuff", "a PDF"),
        ("c.txt", b"PK\x03\x04stuff", "an archive"),
        ("d.txt", b"\x89PNG\r\n\x1a\nstuff", "an image"),
        ("e.rtf", b"{\\rtf1 Prose.}", "RTF"),
        ("f.txt", base64.encodebytes(random.Random(0).randbytes(3000)), "base64"),
        ("g.txt", random.Random(0).randbytes(3000).hex(), "base64 or hexadecimal"),
        ("h.txt", "Prose\0and more", "a NUL byte at offset 5"),
        ("i.json", "[[1, 2], [3, 4]]", "record 1: the record is list"),
        ("j.json", json.dumps(dict(data=[dict(text="x")])), "one JSON object with 'data'|has 'data'"),
        ("k.json", "{broken", "isn't JSON"),
        ("l.txt", '[{"text": "a"}, ', "isn't JSON.*format='text'"),
        ("m.csv", "id,text\n0,one\n1,two,three\n", "record 3 has 3 cells"),
        (
            "n.txt",
            "".join(f"{i}\t{i * i}\tword\n" if i else "number\tsquare\tname\n" for i in range(30)),
            "no column 'text'",
        ),
        ("o.tar", b"\0" * 257 + b"ustar" + b"\0" * 300, "a tar archive"),
    ],
)
def test_what_is_not_prose_is_refused_with_the_way_forward(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    for read in (load_corpus, lambda p: prepare(CorpusConfig(str(p), vocab_size=257), Seeds(0))):
        with pytest.raises(CorpusError, match=message) as e:
            read(tmp_path / name)
        assert name in str(e.value)


@pytest.mark.parametrize(
    "text",
    [
        "[Laughter] So we went.\n[1] A note.\n" * 9,
        "{a} is a set, isn't it?\nYes.\n",
        "Well, yes.\nNo, not so, I think.\n" * 9,
        "# A page\n\nProse with <br> and a <!-- note --> here and there, and a [link](x).\n" * 5,
        "*MOT:\thello there .\n" * 30,
        "<|endoftext|>One document.<|endoftext|>Another with an <unk> word.\n" * 9,
        "東京は日本の首都です。" * 40,
        "ACGTACGTTTGACCA" * 20 + "\n",
        "if a<b then c>d\n" * 5,
        '"No," he said.\n"Yes."\n',
        "text\n",
        "Donaudampfschifffahrt\n",
    ],
)
def test_prose_stays_prose(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Remark)
        assert load_corpus(tmp_path / "a.txt").documents == [text]


def test_format_overrules_the_content(tmp_path):
    (tmp_path / "a.txt").write_text(PAGE * 9)
    assert documents(tmp_path / "a.txt", format="text") == [PAGE * 9]
    (tmp_path / "b.txt").write_text("text|id\nOne.|1\n")
    assert load_corpus(tmp_path / "b.txt", format="csv").documents == ["One."]
    with pytest.raises(InputError, match="format.*jsonl"):
        load_corpus(tmp_path / "a.txt", format="JSON lines")


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60),
        min_size=4,
        max_size=12,
        unique=True,
    )
)
@settings(deadline=None, max_examples=40)
def test_every_text_comes_back_from_every_format(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("t")
    (folder / "a.jsonl").write_text(lines(texts), encoding="utf-8")
    (folder / "b.json").write_text(json.dumps([dict(text=t) for t in texts]), encoding="utf-8")
    assert load_corpus(folder / "a.jsonl").documents == load_corpus(folder / "b.json").documents == texts
    assert (
        json_kind((folder / "b.json").read_text()) == "json" and json_kind((folder / "a.jsonl").read_text()) == "jsonl"
    )
    plain = [t.replace("\r", " ") for t in texts]  # csv writes a line end as it stands
    (folder / "c.csv").write_text(table(plain), encoding="utf-8", newline="")
    assert load_corpus(folder / "c.csv").documents == plain


def test_packages_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    for name, package in (("a.txt.zst", "zstandard"), ("a.parquet", "pyarrow")):
        with pytest.raises(MissingExtraError, match=rf'needs the package {package}: pip install "evonb\[formats\]"'):
            load_corpus(tmp_path / name)


def test_parquet_and_zstd_where_their_packages_are(tmp_path):
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    zstandard = pytest.importorskip("zstandard")
    parquet.write_table(arrow.table(dict(id=range(6), text=[*TEXTS, None])), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet") == TEXTS
    with pytest.raises(CorpusError, match="no column 'story'; it has 'id', 'text'"):
        load_corpus(tmp_path / "a.parquet", field="story")
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "a.jsonl.zst").write_bytes(pack(lines(TEXTS[:2]).encode()) + pack(lines(TEXTS[2:]).encode()))
    assert documents(tmp_path / "a.jsonl.zst") == TEXTS
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-30])
    with pytest.raises(DamagedFileError, match="b.parquet"):
        load_corpus(tmp_path / "b.parquet")


# Folders


def tree(folder):
    for name, text in {
        "a.txt": "A.\n",
        "sub/b.md": "B.\n",
        "sub/deep/c.txt": "C.\n",
        ".hidden.txt": "H.\n",
        "sub/.git/x.txt": "G.\n",
        ".ipynb_checkpoints/a-checkpoint.txt": "A.\n",
        "copy/d.txt": "A.\n",
        "picture.png": "P",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_folders_and_globs_leave_out_the_same_and_say_so(tmp_path):
    data, other = tree(tmp_path / "data"), tmp_path / "other"
    other.mkdir()
    (other / "e.txt").write_text("E.\n")
    (data / "linked").symlink_to(other)  # its files belong to the corpus
    (data / "loop").symlink_to(data)
    (data / "sub" / "up").symlink_to(data / "sub")
    (data / "z-link.txt").symlink_to(data / "a.txt")
    (data / "broken.txt").symlink_to(tmp_path / "nothing")
    with pytest.warns(Remark, match="Left out: .*3 hidden"):
        corpus = load_corpus(data)
    assert corpus.documents == ["A.\n", "E.\n", "B.\n", "C.\n"]
    assert corpus.info["left_out"] == {
        "hidden": 3,
        "other kinds of files": 1,
        "broken links": 1,
        "links to a folder that is there": 2,
        "links to a file that is there, or its name again": 1,
        "copies of a file that is there": 1,
    }
    with pytest.warns(Remark):
        globbed = load_corpus([str(data / "**" / "*.txt"), str(data / "**" / "*.md")])
    assert sorted(globbed.documents) == sorted(corpus.documents)
    assert globbed.info["left_out"]["copies of a file that is there"] == 1 and globbed.info["left_out"]["hidden"] >= 3
    with pytest.warns(Remark):
        made = prepare(CorpusConfig(str(data), vocab_size=257, block_bytes=16), Seeds(0))
    assert made.info["provenance"] == corpus.info and any("3 hidden" in n for n in made.info["notes"])


def test_what_is_named_is_read(tmp_path):
    tree(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Remark)
        assert load_corpus(tmp_path / ".hidden.txt").documents == ["H.\n"]
        assert load_corpus(tmp_path / "sub" / ".git").documents == ["G.\n"]
        assert load_corpus(str(tmp_path / "sub" / ".git" / "*.txt")).documents == ["G.\n"]
    with pytest.warns(Remark, match="1 links to a file that is there, or its name again"):
        assert load_corpus([tmp_path / "a.txt", tmp_path / "sub" / ".." / "a.txt"]).documents == ["A.\n"]
    with pytest.raises(MissingCorpusError, match="none.txt doesn't exist"):
        load_corpus([tmp_path / "a.txt", tmp_path / "none.txt"])
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "t.csv").write_text("id,text\n")
    with pytest.raises(
        MissingCorpusError, match=r"left out: 1 other kinds of files\). Name files of other kinds by a glob"
    ):
        load_corpus(tmp_path / "only")


def test_a_link_before_its_file_gives_way_to_it(tmp_path):
    (tmp_path / "z.txt").write_text("Text.\n")
    (tmp_path / "a.txt").symlink_to(tmp_path / "z.txt")
    with pytest.warns(Remark, match="links to a file"):
        assert load_corpus(tmp_path).sources == [str(tmp_path / "z.txt")]
    for k in (1, 2):
        (tmp_path / f"same-size-{k}.txt").write_text(f"T{k}xt.\n")  # alike in size only
    with pytest.warns(Remark):
        assert len(load_corpus(tmp_path).documents) == 3


# Overlap


def test_overlap_against_plain_sets(tmp_path):
    rng = random.Random(0)
    text = [f"{rng.choice('ABCDEFGH')} {rng.choice('abcdefgh')} {i % 90}.\n" for i in range(4000)]
    (tmp_path / "t.txt").write_text("".join(text))
    made = prepare(CorpusConfig(str(tmp_path / "t.txt"), vocab_size=270, block_bytes=48), Seeds(0))
    decode = made.tokenizer.decode
    sets = {s: [x for x in decode(t.ids).replace("<|endoftext|>", "").split("\n") if x] for s, t in made.splits.items()}
    for row in made.info["overlap"]:
        own = sets[row["split"]]
        for name, known in (
            ("evolution", {*sets["evolution"]}),
            ("development", {*sets["development"]}),
            ("training", {*sets["evolution"], *sets["development"]}),
        ):
            assert row[f"also in {name}"] == pytest.approx(sum(x in known for x in own) / len(own), abs=1e-6)
        assert row["sentences"] == len(own)
    known = {*sets["evolution"], *sets["development"]}
    rest, marks, ids = [], made.unseen, made.splits["test"].ids
    assert len(marks) == len(ids) and marks[ids == 0].sum() == 0
    rest = "".join(decode(i) if m else "\n" for i, m in zip(ids.tolist(), marks))
    assert sorted(x for x in rest.split("\n") if x.strip()) == sorted(x for x in sets["test"] if x not in known)
    assert "sentences of test are in the training text word for word" in repr(made)
    (tmp_path / "kept").mkdir()
    opened = open_prepared(save_prepared(made, tmp_path / "kept"))
    assert opened.unseen.tolist() == marks.tolist() and opened.info == made.info


def test_overlap_of_a_sample_is_told_and_marks_nothing(monkeypatch):
    whole = prepare(CorpusConfig(n_bytes=150_000, vocab_size=300), Seeds(0))
    monkeypatch.setattr(tokens, "TRAINED_BYTES", 40_000)
    part = prepare(CorpusConfig(n_bytes=150_000, vocab_size=300), Seeds(0))
    assert part.unseen is None and whole.unseen is not None
    for a, b in zip(part.info["overlap"], whole.info["overlap"]):
        assert a["sentences"] == b["sentences"] and 0 < a["also in training"] < b["also in training"] < 0.5


def test_a_tr_overrules_a_header_that_cannot_be():
    from evonb.alignment.images import check_tr

    with pytest.warns(Remark, match="TR of 2000 s, which can't be; tr=2 s is taken"):
        assert check_tr(2000.0, 2, "run 1") == 2
    with pytest.raises(InputError, match="tr is 3 s, but the header"):
        check_tr(2.0, 3, "run 1")
    with pytest.raises(InputError, match="Give tr= in seconds"):
        check_tr(2000.0, None, "run 1")


def test_lists_are_set_with_commas():
    from evonb.alignment.run import AlignConfig
    from evonb.cli import with_settings

    for text in ("delays=1,2", "delays=[1,2]"):
        assert [*with_settings(AlignConfig(), [text]).delays] == [1, 2]


@pytest.mark.parametrize(
    ("name", "whole", "message"),
    [
        ("c.ndjson", lines(TEXTS), r"c.ndjson, line 2 isn't a JSON object with the key 'text'"),
        ("c.json", lines(TEXTS), r"c.json, line 2 isn't a JSON object with the key 'text'"),
        ("c.csv", 'id,text\n0,"A whole one."\n1,"one that is cut off"\n', r"c.csv can't be read as a table"),
    ],
)
def test_records_that_are_cut_off_are_refused_and_never_read_as_prose(tmp_path, name, whole, message):
    data = whole if isinstance(whole, bytes) else whole.encode()
    second = data.index(b"\n", data.index(b"\n") + 1) if name.endswith("csv") else data.index(b"\n")
    (tmp_path / name).write_bytes(data[: second + 14])
    with pytest.raises(CorpusError, match=message):
        load_corpus(str(tmp_path / name))
