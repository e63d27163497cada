"""corpora: reading, splitting, tokenizing and keeping, against struct, transformers and plain loops."""

import functools
import hashlib
import http.server
import json
import os
import re
import struct
import subprocess
import sys
import threading
import types
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonb import core, datasets
from evonb.core import CorpusError, DamagedFileError, InputError, Seeds, Stopped, StopRequest
from evonb.datasets import MissingCorpusError, dataset_path
from evonb.text import corpora, formats
from evonb.text import tokens as text_tokens
from evonb.text.corpora import (
    CORPORA,
    FRACTIONS,
    SPLITS,
    Corpus,
    ShardError,
    cut_blocks,
    deal,
    load_corpus,
    pieces,
    split_corpus,
)
from evonb.text.tokens import (
    CorpusConfig,
    ShardWriter,
    TokenRow,
    Tokens,
    encode_texts,
    load_tokenizer,
    open_prepared,
    prepare,
    read_row,
    read_shard,
    save_prepared,
    tokenizer_fit,
    train_tokenizer,
    write_shard,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@functools.cache
def toy(): return load_corpus("toy-english", 200_000)


@functools.cache
def small_tokenizer(): return train_tokenizer(toy().documents, 400)


@functools.cache
def small(): return prepare(CorpusConfig(n_bytes=150_000, vocab_size=400), Seeds(0))


# Reading

def test_text_keeps_every_byte(tmp_path):
    data = "one\r\ntwo\rdéjà vu \u2028 end".encode()
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + data)
    corpus = load_corpus(tmp_path / "a.txt")
    assert corpus.documents[0].encode() == data and corpus.n_bytes == len(data)
    assert corpus.info["files"][0]["sha256"] == hashlib.sha256(b"\xef\xbb\xbf" + data).hexdigest()


def test_folder_glob_list_and_jsonl(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("text b\n")
    (tmp_path / "sub" / "a.md").write_text("text a\n")
    (tmp_path / "c.jsonl").write_text('{"text": "c1", "id": 1}\n\n{"text": "c2"}\n')
    (tmp_path / "ignored.csv").write_text("1,2\n")
    assert load_corpus(tmp_path).documents == ["text b\n", "c1", "c2", "text a\n"]
    assert load_corpus(str(tmp_path / "**" / "*.md")).documents == ["text a\n"]
    corpus = load_corpus([tmp_path / "sub", str(tmp_path / "c.jsonl")])
    assert corpus.documents == ["text a\n", "c1", "c2"]
    assert corpus.sources == [str(tmp_path / "sub" / "a.md")] + [str(tmp_path / "c.jsonl")] * 2


def test_n_bytes_limits_at_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("12345678\n" * 100)
    assert load_corpus(tmp_path / "a.txt", 50).documents == ["12345678\n" * 5]
    assert load_corpus(tmp_path / "a.txt", 10_000).n_bytes == 900


@pytest.mark.parametrize("name, data, message", [
    ("a.txt", b"ab\0cd", "a.txt is binary: a NUL byte at offset 2"),
    ("b.txt", b"\xef\xbb\xbfab\0", "offset 5"),
    ("c.txt", "dé".encode("latin1"), "c.txt isn't UTF-8: byte 0xe9 at offset 1"),
    ("d.txt", b"", "is empty"),
    ("e.txt", b" \n\n", "is empty"),
    ("f.jsonl", b"", "is empty"),
    ("g.jsonl", b'{"text": "a"}\n{"text": \n', "g.jsonl, line 2 isn't a JSON object"),
    ("h.jsonl", b'{"words": "a"}\n', "line 1 isn't a JSON object with the key 'text'"),
    ("i.jsonl", b'["text"]\n', "line 1 isn't a JSON object"),
    ("j.jsonl", b'{"text": 3}\n', "'text' is int, but must be a string"),
    ("k.jsonl", b'{"text": "a\\ud800"}\n', "isn't text"),
    ("l.jsonl", b'{"text": "a\\u0000"}\n', "isn't text"),
])
def test_bad_files(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError) as e: load_corpus(tmp_path / name)
    assert message in str(e.value)


def test_missing(tmp_path):
    for source in ("toy-englsh", tmp_path / "none.txt", str(tmp_path / "*.txt"), tmp_path):
        with pytest.raises(FileNotFoundError, match="toy-english, .*python-docs, childes.*folder or a glob") as e:
            load_corpus(source)
        assert isinstance(e.value, CorpusError) and str(source) in str(e.value)
    with pytest.raises(MissingCorpusError, match="at least one"): load_corpus([])
    with pytest.raises(InputError, match="n_bytes"): load_corpus("toy-english", 0)


def test_digest_against_a_plain_hash():
    h = hashlib.sha256(b"5:caf\xc3\xa91:x")
    assert Corpus("n", ["café", "x"], ["a", "a"]).digest == h.hexdigest()


def test_repr_is_escaped():
    corpus = Corpus("<script>", ["<i>text</i>"], ["<b>"])
    assert "<script>" in repr(corpus) and "11 B" in repr(corpus)
    page = corpus._repr_html_()
    assert not any(tag in page for tag in ("<script>", "<b>", "<i>"))
    assert all(text in page for text in ("&lt;script&gt;", "&lt;b&gt;", "&lt;i&gt;text"))


# The registry

@pytest.fixture
def served(tmp_path, monkeypatch):
    "A registry whose data set `tiny` is served on this machine; counts the requests."
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "t.txt").write_bytes(b"tiny text\n")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): requests.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path / "www"))
    threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
    entry = dict(kind="text", folder="tiny", how="Ask.", files={"t.txt": dict(
        sha256=hashlib.sha256(b"tiny text\n").hexdigest(), url=f"http://127.0.0.1:{server.server_port}/t.txt")})
    monkeypatch.setattr(datasets, "published", lambda: dict(tiny=entry))
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("EVONB_DATA", raising=False)
    CORPORA.add("tiny", lambda: dataset_path("tiny"), files=True)
    yield types.SimpleNamespace(entry=entry, requests=requests, folder=tmp_path)
    CORPORA.remove("tiny")
    server.shutdown()
    server.server_close()


def test_download_once_with_checksum(served):
    path = dataset_path("tiny")
    assert path.read_text() == "tiny text\n" and served.folder / "cache" in path.parents
    assert dataset_path("tiny") == path and len(served.requests) == 1
    assert load_corpus("tiny").name == "tiny"
    path.write_text("tampered!\n")
    with pytest.raises(DamagedFileError, match="t.txt has SHA-256"): dataset_path("tiny")


def test_download_refuses_what_was_not_published(served):
    served.entry["files"]["t.txt"]["sha256"] = "0" * 64
    with pytest.raises(DamagedFileError, match="isn't what was published"): dataset_path("tiny")


def test_download_that_fails(served):
    served.entry["files"]["t.txt"]["url"] += ".gone"
    with pytest.raises(MissingCorpusError, match="can't be had.*set EVONB_DATA"): dataset_path("tiny")


def test_evonb_data_comes_first(served, monkeypatch):
    (served.folder / "tiny").mkdir()
    (served.folder / "tiny" / "t.txt").write_bytes(b"tiny text\n")
    monkeypatch.setenv("EVONB_DATA", str(served.folder))
    assert dataset_path("tiny") == served.folder / "tiny" / "t.txt" and not served.requests


def test_several_files_are_a_folder(served, monkeypatch):
    (served.folder / "tiny" / "sub").mkdir(parents=True)
    for name in ("t.txt", "sub/u.txt"): (served.folder / "tiny" / name).write_bytes(b"tiny text\n")
    served.entry["files"]["sub/u.txt"] = dict(served.entry["files"]["t.txt"], url=None)
    monkeypatch.setenv("EVONB_DATA", str(served.folder))
    assert dataset_path("tiny") == served.folder / "tiny"


def test_no_address(monkeypatch, tmp_path):
    monkeypatch.delenv("EVONB_DATA", raising=False)
    with pytest.raises(MissingCorpusError, match="Set EVONB_DATA to a folder.*AO-CHILDES"): load_corpus("childes")
    monkeypatch.setenv("EVONB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="it isn't in EVONB_DATA"): dataset_path("childes")
    with pytest.raises(MissingCorpusError, match="the registry has: .*childes"): dataset_path("nothing")


def test_registry_entries_are_complete():
    for name, entry in datasets.published().items():
        assert {"description", "licence", "citation", "homepage", "folder", "files", "how"} <= set(entry), name
        for file in entry["files"].values():
            told = "verified" in entry["how"] or entry.get("verified")
            if file["sha256"] is None: assert file["url"] is None and told, name  # put there by hand
            else: assert len(file["sha256"]) == 64 and "url" in file


def test_a_file_without_a_known_checksum_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("EVONB_DATA", str(tmp_path))
    with pytest.raises(MissingCorpusError, match="drive_suppress_brains"): dataset_path("tuckute2024")
    path = tmp_path / "tuckute2024" / "brain-lang-data_participant_20230728.csv"
    path.parent.mkdir()
    path.write_text("roi\n")
    assert dataset_path("tuckute2024") == path


# Blocks and splits

@given(TEXT, st.integers(16, 64))
def test_blocks_join_to_the_document(document, block_bytes):
    document *= 5
    blocks = cut_blocks(document, block_bytes)
    assert "".join(blocks) == document and all(0 < len(b.encode()) <= block_bytes for b in blocks)


def test_blocks_end_at_lines_then_at_whitespace():
    assert cut_blocks("aaa bbb\n" * 4, 17) == ["aaa bbb\naaa bbb\n"] * 2
    assert cut_blocks("aaaa bbbb cccc dddd eeee", 16) == ["aaaa bbbb cccc ", "dddd eeee"]
    assert cut_blocks("é" * 20, 16) == ["é" * 8] * 2 + ["é" * 4]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.lists(st.integers(0, 60), min_size=1, max_size=12)),
                min_size=4, max_size=40), st.integers(0, 5), st.sampled_from(["block", "source"]))
@settings(max_examples=60, deadline=None)
def test_no_leak_and_no_loss(rows, seed, split_by):
    documents = ["".join(f"line number {n:03}\n" for n in numbers) for _, numbers in rows]
    corpus = Corpus("random", documents, [source for source, _ in rows])
    try: splits = split_corpus(corpus, Seeds(seed), block_bytes=32, split_by=split_by)
    except CorpusError as e:
        assert "would be empty" in str(e)
        return
    sets = [set(b) for b in splits.values()]
    assert all(not sets[i] & sets[j] for i in range(4) for j in range(i))
    assert Counter(b for bs in splits.values() for b in bs) == Counter(b for d in documents for b in cut_blocks(d, 32))
    if split_by == "source":
        for source, document in zip(corpus.sources, documents):
            assert sum(bool(s & set(cut_blocks(document, 32))) for s in sets) == 1, source


def test_fractions_and_determinism():
    a, b, c = (split_corpus(toy(), Seeds(s), block_bytes=512) for s in (0, 0, 1))
    assert a == b != c
    for split, fraction in zip(SPLITS, FRACTIONS):
        assert sum(map(len, a[split])) / toy().n_bytes == pytest.approx(fraction, abs=.005)


def test_copies_go_together():
    corpus = Corpus("copies", toy().documents * 3, ["x"] * 3 * len(toy().documents))
    splits = split_corpus(corpus, Seeds(0))
    where = {b: split for split, blocks in splits.items() for b in blocks}
    assert all(where[b] == split for split, blocks in splits.items() for b in blocks)
    assert sum(map(len, splits.values())) == 3 * len(toy().documents)


def test_sources_stay_whole_and_ties_hold():
    documents = [f"text of {i // 2} part {i % 2}\n" * 9 for i in range(40)] + ["shared\n", "shared\n"]
    sources = [f"s{i // 2}" for i in range(40)] + ["s0", "s1"]
    splits = split_corpus(Corpus("c", documents, sources), Seeds(0), split_by="source")
    where = {s: {k for k, blocks in splits.items() for d, t in zip(documents, sources) if t == s and d in blocks}
             for s in set(sources)}
    assert all(len(w) == 1 for w in where.values()) and where["s0"] == where["s1"]


@pytest.mark.parametrize("seed", range(20))
def test_ties_against_networkx(seed):
    import networkx
    edges = np.random.default_rng(seed).integers(0, 200, (200, 2)).tolist() # (n_edges, 2) block and source
    graph = networkx.Graph((("block", b), ("source", s)) for b, s in edges)
    groups = corpora.tied_sources([b for b, _ in edges], [s for _, s in edges])
    components = {node: i for i, c in enumerate(networkx.connected_components(graph)) for node in c}
    expected = [components["source", s] for _, s in edges]
    assert len(set(zip(groups, expected))) == len(set(groups)) == len(set(expected))


@pytest.mark.parametrize("fractions, message", [
    ((.7, .2, .1, .1), "sums to 1.1"), ((.7, .2, .1), "four numbers"), ((1., .0, .0, .0), "between 0 and 1"),
    ((.9, .3, -.1, -.1), "between 0 and 1"), ((.7, .2, .06, "x"), "four numbers"), ((.2, .2, .2, .2), "sums to 0.8"),
])
def test_bad_fractions(fractions, message):
    with pytest.raises(CorpusError, match=message): split_corpus(toy(), Seeds(0), fractions)
    with pytest.raises(CorpusError, match=message): prepare(CorpusConfig(fractions=fractions), Seeds(0))


def test_too_short():
    with pytest.raises(CorpusError, match="too short: validation would be empty.*2 different blocks"):
        split_corpus(Corpus("few", ["a\n", "b\n", "b\n"], ["x"] * 3), Seeds(0))
    with pytest.raises(CorpusError, match="test would be empty.*3 sources"):
        split_corpus(Corpus("few", list("abcd"), list("xyzz")), Seeds(0), split_by="source")
    with pytest.raises(InputError, match="split_by is 'file'"): split_corpus(toy(), Seeds(0), split_by="file")
    with pytest.raises(InputError, match="block_bytes is 3"): split_corpus(toy(), Seeds(0), block_bytes=3)


# Built-in corpora

def test_toy_english_follows_its_seed():
    assert load_corpus("toy-english", 50_000).digest == load_corpus("toy-english", 50_000, Seeds(0)).digest
    assert load_corpus("toy-english", 50_000, Seeds(1)).digest != load_corpus("toy-english", 50_000).digest


def test_python_docs_is_large_distinct_and_prose():
    before = set(sys.modules)
    docs = load_corpus("python-docs")
    assert "idlelib" not in set(sys.modules) - before and "antigravity" not in sys.modules # parsed, not imported
    lines = "".join(docs.documents).splitlines()
    assert docs.n_bytes >= 1_500_000 and len(set(lines)) == len(lines) and len(set(docs.sources)) == len(docs.sources)
    assert all(line.split()[0] and line[-1] in ".!?" and ">>>" not in line and "{" not in line for line in lines)
    assert len([line for line in lines if " the " in f" {line.lower()} "]) > .6 * len(lines) # as English has it
    assert {s.split("/")[0] for s in docs.sources} >= {"topics", "python", "numpy", "metadata"}
    assert not any("evonb" in s for s in docs.sources)


def test_python_docs_is_deterministic_and_limited():
    first = load_corpus("python-docs", 100_000)
    corpora._python_docs_limited.cache_clear()
    again = load_corpus("python-docs", 100_000)
    assert first.digest == again.digest and first.documents is not again.documents and 95_000 < first.n_bytes <= 100_000


def test_childes(data_folder, monkeypatch):
    monkeypatch.setenv("EVONB_DATA", str(data_folder))
    prepared = prepare(CorpusConfig("childes"), Seeds(0))
    assert sum(t.n_bytes for t in prepared.splits.values()) == 4281925
    assert 1_300_000 < sum(map(len, prepared.splits.values())) < 1_450_000 and len(prepared.tokenizer) == 2048
    assert "book" in prepared.tokenizer.decode(prepared.splits["evolution"].ids)


# Tokenizer

@given(TEXT)
@settings(deadline=None)
def test_decode_gives_back_every_text(text):
    tokenizer = small_tokenizer()
    assert tokenizer.decode(encode_texts([text], tokenizer).ids[:-1]) == text


def test_special_tokens_and_size():
    t = small_tokenizer()
    assert len(t) == 400 and t.bos_token_id == t.eos_token_id == t.unk_token_id == 0
    assert t.convert_ids_to_tokens(0) == "<|endoftext|>"
    assert t("a<|endoftext|>b").input_ids[1] == 0


def test_training_is_deterministic_and_sees_evolution_only(tmp_path):
    splits = split_corpus(load_corpus("toy-english", 150_000, Seeds(0)), Seeds(0))
    again = train_tokenizer(splits["evolution"], 400)
    assert again.backend_tokenizer.to_str() == small().tokenizer.backend_tokenizer.to_str()
    other = train_tokenizer(splits["evolution"] + splits["test"] + splits["development"], 400)
    assert other.backend_tokenizer.to_str() != again.backend_tokenizer.to_str() # so the comparison can fail


def test_vocabulary_too_large():
    with pytest.raises(CorpusError, match=r"supports (\d+) entries") as e: train_tokenizer(["ab ab cd"] * 2, 300)
    n = int(str(e.value).split("supports ")[1].split()[0])
    assert 257 < n < 300 and len(train_tokenizer(["ab ab cd"] * 2, n)) == n
    with pytest.raises(CorpusError, match="larger than that of any tokenizer"): train_tokenizer(["ab"], 2**21 + 1)
    with pytest.raises(CorpusError, match="larger than"): prepare(CorpusConfig(vocab_size=2**30), Seeds(0))
    with pytest.raises(InputError, match="at least 257"): train_tokenizer(["ab"], 256)


def test_encode_against_transformers():
    texts = toy().documents[:50] + ["déjà vu\n", ""]
    tokens = encode_texts(texts, small_tokenizer())
    expected = [i for text in texts for i in [*small_tokenizer()(text).input_ids, 0]]
    assert tokens.ids.dtype == np.uint16 and tokens.ids.tolist() == expected
    assert tokens.n_documents == 52 and tokens.n_bytes == len("".join(texts).encode())
    assert tokens.bytes_per_token == tokens.n_bytes / len(expected) and len(tokens) == len(expected)
    with pytest.raises(CorpusError, match="no text"): encode_texts([], small_tokenizer())


def test_load_tokenizer(tmp_path):
    small_tokenizer().save_pretrained(tmp_path / "t")
    for path in (tmp_path / "t", str(tmp_path / "t" / "tokenizer.json")):
        loaded = load_tokenizer(path)
        assert loaded.eos_token_id == 0
        assert loaded("The dogs sleep.").input_ids == small_tokenizer()("The dogs sleep.").input_ids
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(CorpusError, match="broken.json isn't a tokenizer that can be read"):
        load_tokenizer(tmp_path / "broken.json")
    with pytest.raises(MissingCorpusError, match="holds one"): load_tokenizer(tmp_path)
    with pytest.raises(MissingCorpusError, match="gpt2 isn't a tokenizer"): load_tokenizer("gpt2")


def word_level(path, n, special=()):
    from tokenizers import Tokenizer, models
    tokenizer = Tokenizer(models.WordLevel({**{s: i for i, s in enumerate(special)},
                                            **{f"w{i}": len(special) + i for i in range(n)}}, "w0"))
    tokenizer.save(str(path))
    return path


def test_tokenizers_that_cannot_serve(tmp_path):
    with pytest.raises(CorpusError, match="names no token for the end"):
        load_tokenizer(word_level(tmp_path / "a.json", 5))
    assert load_tokenizer(word_level(tmp_path / "c.json", 5, ["<|endoftext|>"])).eos_token_id == 0


def altered(path, **changes):
    "A tokenizer.json of 400 byte-level entries with something changed in it."
    record = json.loads(small_tokenizer().backend_tokenizer.to_str())
    for key, value in changes.items():
        *way, last = key.split("__")
        place = record
        for w in way: place = place[w]
        place[last] = value
    path.write_text(json.dumps(record))
    return path


CUT = dict(direction="Right", max_length=32, strategy="LongestFirst", stride=0)
FILL = dict(strategy="BatchLongest", direction="Right", pad_to_multiple_of=None, pad_id=0, pad_type_id=0,
            pad_token="<|endoftext|>")
AROUND = dict(type="TemplateProcessing", single=[dict(SpecialToken=dict(id="<|endoftext|>", type_id=0)),
              dict(Sequence=dict(id="A", type_id=0)), dict(SpecialToken=dict(id="<|endoftext|>", type_id=0))],
              pair=[dict(Sequence=dict(id="A", type_id=0)), dict(Sequence=dict(id="B", type_id=1))],
              special_tokens={"<|endoftext|>": dict(id="<|endoftext|>", ids=[0], tokens=["<|endoftext|>"])})


@pytest.mark.parametrize("changes, said", [
    (dict(truncation=CUT), "holds truncation to 32 tokens; it is read without"),
    (dict(padding=FILL), "holds padding; it is read without"),
    (dict(truncation=CUT, padding=dict(FILL, strategy=dict(Fixed=64))), "truncation to 32 tokens and padding"),
    (dict(model__dropout=.3), "dropout of 0.3"),
    (dict(post_processor=AROUND), None)])
def test_what_a_tokenizer_stored_does_not_change_the_data(tmp_path, changes, said):
    path, texts = altered(tmp_path / "t.json", **changes), [*toy().documents[:40], "short", "a b c " * 200]
    if said is None: loaded = load_tokenizer(path)
    else:
        with pytest.warns(core.Remark, match=said): loaded = load_tokenizer(path)
    assert encode_texts(texts, loaded).ids.tolist() == encode_texts(texts, small_tokenizer()).ids.tolist()
    loaded.pad_token = loaded.eos_token
    loaded(["a", "b c d"], padding=True, truncation=True, max_length=2) # which leaves its state behind
    assert encode_texts(texts, loaded).ids.tolist() == encode_texts(texts, small_tokenizer()).ids.tolist()
    loaded.save_pretrained(tmp_path / "kept")
    with warnings.catch_warnings():
        warnings.simplefilter("error", core.Remark)
        assert load_tokenizer(tmp_path / "kept").backend_tokenizer.truncation is None


def spread(path, n, at):
    "A word-level tokenizer of n words and the end, whose ids are moved by a gap from `at`[0] on by `at`[1]."
    from tokenizers import Tokenizer, models, pre_tokenizers
    ids = [i + at[1] * (i >= at[0]) for i in range(n + 1)]
    words = ["<|endoftext|>", "[UNK]", *(f"w{i}" for i in range(n - 1))]
    tokenizer = Tokenizer(models.WordLevel(dict(zip(words, range(n + 1))), "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    stored = json.loads(tokenizer.to_str())  # its own `save` looks at every id up to the highest
    stored["model"]["vocab"] = dict(zip(words, ids))
    path.write_text(json.dumps(stored))
    return path


def test_gaps_in_ids_are_counted_and_said(tmp_path):
    text = tmp_path / "t.txt"
    text.write_text("".join(f"w{i % 99} w{i * 7 % 99} w3\n" for i in range(4000)))
    path = spread(tmp_path / "gap.json", 100, (60, 40))
    with pytest.warns(core.Remark, match="101 entries, but ids up to 140: the vocabulary counts 141, 40 of which"):
        made = prepare(CorpusConfig(str(text), tokenizer=str(path), block_bytes=256), Seeds(0))
    assert made.info["vocab_size"] == 141 > max(int(t.ids.max()) for t in made.splits.values()) == 140
    assert any("40 of which" in n for n in made.info["notes"])
    for gap in (400, 70_000, 2**31 - 200):
        with pytest.raises(CorpusError, match=r"101 entries, but ids up to \d+: a model would need a row for each"):
            load_tokenizer(spread(tmp_path / "far.json", 100, (60, gap)))


def test_more_ids_than_uint16_holds(tmp_path):
    path, text = spread(tmp_path / "many.json", 70_000, (0, 0)), tmp_path / "t.txt"
    text.write_text("".join(f"w{i * 37 % 69_999} w{i}\n" for i in range(69_000)))
    made = prepare(CorpusConfig(str(text), tokenizer=str(path)), Seeds(0), tmp_path)
    opened = open_prepared(save_prepared(made, tmp_path))
    row = np.concatenate([np.asarray(t.ids) for t in opened.splits.values()])
    assert row.dtype == np.uint32 and row.max() == 70_000 and opened.info["vocab_size"] == 70_001
    words = opened.tokenizer.decode(row[row > 0]).split()
    assert Counter(words) == Counter(text.read_text().split())


def test_a_tokenizer_that_fails_at_the_unknown_is_refused_before_work(tmp_path):
    from tokenizers import Tokenizer, models
    vocab = {"<|endoftext|>": 0, "a": 1, "b": 2}
    for name, model in dict(WordLevel=models.WordLevel(vocab, "[UNK]"),
                            WordPiece=models.WordPiece(vocab, unk_token="[UNK]"),
                            Unigram=models.Unigram([(w, -1.) for w in vocab], None)).items():
        Tokenizer(model).save(str(tmp_path / "t.json"))
        with pytest.raises(CorpusError, match=f"is a {name} tokenizer without a token for what it doesn't know"):
            load_tokenizer(tmp_path / "t.json")
    Tokenizer(models.BPE(vocab, [])).save(str(tmp_path / "t.json"))
    with pytest.warns(core.Remark, match="drops the characters that it doesn't know"):
        loaded = load_tokenizer(tmp_path / "t.json")
    fit = tokenizer_fit(loaded, ["ab xy", "a"])
    assert fit.dropped == pytest.approx(2 / 5) and fit.unknown == 0 and fit.bytes_per_token == 2


@pytest.mark.parametrize("known, refused", [(0, True), (.3, True), (.9, False)])
def test_mostly_unknown_text_is_refused_and_a_little_is_said(tmp_path, known, refused):
    rng = np.random.default_rng(0)
    text = tmp_path / "t.txt"
    text.write_text("".join(f"w{rng.integers(9)}\n" if rng.random() < known else f"x{rng.integers(9)}\n"
                            for _ in range(5000)))
    config = CorpusConfig(str(text), tokenizer=str(spread(tmp_path / "t.json", 20, (0, 0))), block_bytes=64)
    if refused:
        with pytest.raises(CorpusError, match=r"doesn't fit this text: \d+.\d% of the characters are unknown"):
            prepare(config, Seeds(0))
    else:
        with pytest.warns(core.Remark, match=r"(9|10|11)\.\d% of the characters are unknown"): prepare(config, Seeds(0))


def test_bytes_per_token_far_off_are_said(tmp_path):
    text = tmp_path / "t.txt"
    a, b = "antidisestablishmentarianism", "counterrevolutionaries"
    text.write_text("".join(f"{(a, b)[i % 2]} {(a, b)[i // 2 % 2]} {(a, b)[i // 4 % 2]}\n" for i in range(4000)))
    from tokenizers import Tokenizer, models, pre_tokenizers
    t = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "[UNK]": 1, a: 2, b: 3}, "[UNK]"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.save(str(tmp_path / "long.json"))
    with pytest.warns(core.Remark, match=r"a token stands for 2\d\.\d\d bytes"):
        prepare(CorpusConfig(str(text), tokenizer=str(tmp_path / "long.json"), block_bytes=300), Seeds(0))
    short = altered(tmp_path / "short.json", model__merges=[])
    with pytest.warns(core.Remark, match=r"a token stands for 1\.00 bytes"):
        prepare(CorpusConfig(str(text), tokenizer=str(short), block_bytes=300), Seeds(0))


def test_prepare_with_a_given_tokenizer(tmp_path):
    small_tokenizer().save_pretrained(tmp_path)
    prepared = prepare(CorpusConfig(n_bytes=50_000, tokenizer=str(tmp_path)), Seeds(3))
    assert prepared.info["vocab_size"] == 400 == len(prepared.tokenizer)


# Shards

def shard_bytes(ids, magic=20240520, version=1, count=None):
    header = struct.pack("<3i", magic, version, len(ids) if count is None else count).ljust(1024, b"\0")
    return header + struct.pack(f"<{len(ids)}H", *ids)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=50))
@settings(deadline=None)
def test_shards_against_struct(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("shards")
    assert write_shard(folder / "a.bin", ids).read_bytes() == shard_bytes(ids)
    (folder / "b.bin").write_bytes(shard_bytes(ids))
    read = read_shard(folder / "b.bin")
    assert isinstance(read, np.memmap) and read.dtype == np.uint16 and read.tolist() == ids


@pytest.mark.parametrize("data, message", [
    (shard_bytes([1, 2], magic=20240801), "version 1; of those that begin with 20240801 only version 7"),
    (shard_bytes([1, 2], magic=20240522), "begins with 20240522, not with 20240520 or 20240801"),
    (shard_bytes([1, 2], magic=20240801, version=7), "is truncated: 2 tokens take 1032 bytes"),
    (shard_bytes([1, 2], version=2), "version 2"),
    (shard_bytes([1, 2])[:-1], "is truncated: 2 tokens take 1028 bytes, but it has 1027"),
    (shard_bytes([1, 2]) + b"\0", "has trailing bytes"),
    (shard_bytes([1, 2])[:100], "too few for a token shard's header"),
    (b"", "too few"),
    (shard_bytes([]), "holds 0 tokens"),
    (shard_bytes([1], count=-5), "holds -5 tokens"),
])
def test_damaged_shards(tmp_path, data, message):
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(ShardError, match="a.bin") as e: read_shard(tmp_path / "a.bin")
    assert message in str(e.value) and isinstance(e.value, CorpusError) and isinstance(e.value, DamagedFileError)


@pytest.mark.parametrize("ids, message", [
    ([65_536], "uint16 holds 0 to 65535"), ([-1], "begin with 0"), ([], "one row of integers"),
    ([[1]], "one row of integers"), ([.5], "one row of integers"), (5, "one row of integers")])
def test_ids_that_do_not_fit(tmp_path, ids, message):
    with pytest.raises(CorpusError, match=message): write_shard(tmp_path / "a.bin", ids)
    assert not (tmp_path / "a.bin").exists()


def test_a_shard_that_changes_while_it_is_hashed_is_refused(tmp_path):
    path = write_shard(tmp_path / "a.bin", np.arange(1_200_000) % 500)
    def changed(n): # behind what was hashed by then, and of the same size
        with open(path, "r+b") as f: f.seek(1024); f.write(b"\7\0")
        os.utime(path, ns=(1, 1))
    shards = text_tokens._Shards(1024)
    shards.add(path, 512, changed)
    with pytest.raises(CorpusError, match="a.bin changed while it was read"): shards.check_unchanged()


def test_prepare_from_shards(tmp_path):
    rows = [np.random.default_rng(i).integers(0, 900, 20_000) for i in range(3)]
    for i, row in enumerate(rows): write_shard(tmp_path / f"{i}.bin", row)
    config = CorpusConfig(str(tmp_path / "*.bin"), vocab_size=900)
    prepared = prepare(config, Seeds(0))
    assert prepared.tokenizer is None and prepared.info["vocab_size"] == 900
    dealt = np.concatenate([t.ids for t in prepared.splits.values()])
    assert np.array_equal(np.sort(dealt), np.sort(np.concatenate(rows)))
    assert all(r["bytes"] is None for r in prepared.sizes()) and prepared.splits["test"].bytes_per_token is None
    assert prepare(CorpusConfig(str(tmp_path), vocab_size=900), Seeds(0)).sizes() == prepared.sizes()
    (tmp_path / "out").mkdir()
    opened = open_prepared(save_prepared(prepared, tmp_path / "out"))
    assert opened.tokenizer is None and opened.sizes() == prepared.sizes() and "text unknown" in repr(opened)
    with pytest.raises(CorpusError, match="token id 899, but the vocabulary has 500"):
        prepare(CorpusConfig(str(tmp_path / "*.bin"), vocab_size=500), Seeds(0))
    with pytest.raises(CorpusError, match="n_bytes"): prepare(CorpusConfig(config.source, n_bytes=99), Seeds(0))
    with pytest.raises(CorpusError, match="is a token shard"): load_corpus(tmp_path / "0.bin")


def wide_shard(path, ids):
    "As llm.c writes its llama-3 shards."
    path.write_bytes(struct.pack("<3i", 20240801, 7, len(ids)).ljust(1024, b"\0") + struct.pack(f"<{len(ids)}I", *ids))
    return path


def test_shards_of_uint32_beside_uint16(tmp_path):
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(0, 60_000, 6400), rng.integers(60_000, 128_256, 6400), rng.integers(0, 60_000, 640)
    write_shard(tmp_path / "a.bin", np.concatenate([a, c]))
    assert read_shard(wide_shard(tmp_path / "b.bin", [*b, *c])).dtype == np.uint32
    assert write_shard(tmp_path / "c", b, "<u4").read_bytes() == wide_shard(tmp_path / "d", b).read_bytes()
    config = CorpusConfig(str(tmp_path / "*.bin"), vocab_size=128_256, block_bytes=256)
    made = prepare(config, Seeds(0))
    row = np.concatenate([t.ids for t in made.splits.values()])
    assert row.dtype == np.uint32 and np.array_equal(np.sort(row), np.sort(np.concatenate([a, b, c, c])))
    runs = [{r.tobytes() for r in t.ids.reshape(-1, 64)} for t in made.splits.values()] # (n_blocks, 64)
    assert sum(map(len, runs)) == len(set().union(*runs)) # equal tokens in both kinds went together
    small = prepare(CorpusConfig(str(wide_shard(tmp_path / "e.bin", a)), vocab_size=60_000, block_bytes=256), Seeds(0))
    assert all(t.ids.dtype == np.uint16 for t in small.splits.values())
    with pytest.raises(CorpusError, match="but the vocabulary has 65536 entries"):
        prepare(CorpusConfig(str(tmp_path / "b.bin"), vocab_size=65_536), Seeds(0))


def test_equal_runs_of_tokens_go_together(tmp_path):
    row = np.random.default_rng(0).integers(0, 900, 64 * 50)
    for name in "ab": write_shard(tmp_path / f"{name}.bin", row)
    splits = prepare(CorpusConfig(str(tmp_path), block_bytes=256, vocab_size=900), Seeds(0)).splits
    runs = [{r.tobytes() for r in t.ids.reshape(-1, 64)} for t in splits.values()] # (n_blocks, 64)
    assert sum(map(len, runs)) == len(set().union(*runs)) == 50 and sum(map(len, splits.values())) == 2 * len(row)


# Prepared corpora

def test_prepare_is_deterministic_and_lossless():
    again = prepare(small().config, Seeds(0))
    assert again.info == small().info and all((again.splits[s].ids == small().splits[s].ids).all() for s in SPLITS)
    assert prepare(small().config, Seeds(1)).info["digest"] != small().info["digest"]
    blocks = [b for t in small().splits.values() for b in small().tokenizer.decode(t.ids).split("<|endoftext|>")[:-1]]
    assert sorted(blocks) == sorted(load_corpus("toy-english", 150_000, Seeds(0)).documents)


def test_the_default_corpus_can_be_prepared():
    prepared = prepare(CorpusConfig(), Seeds(0))
    assert len(prepared.tokenizer) == 2048 and len(prepared.splits["evolution"]) > 250_000


def test_check_window():
    n = len(small().splits["test"])
    assert small().check_window(n) is small()
    with pytest.raises(CorpusError, match=f"test has {n} tokens, but one window takes {n + 1}"):
        small().check_window(n + 1)


def test_config_round_trip():
    config = CorpusConfig("x", 5, fractions=(.4, .3, .2, .1), tokenizer="t")
    assert core.from_dict(CorpusConfig, json.loads(json.dumps(core.to_dict(config)))) == config
    with pytest.raises(InputError, match="sauce"): core.from_dict(CorpusConfig, dict(sauce="x"))


@pytest.fixture
def saved(tmp_path): return save_prepared(small(), tmp_path)


def test_open_gives_back_what_was_saved(saved):
    opened = open_prepared(saved)
    assert opened.config == small().config and opened.info == small().info and repr(opened) == repr(small())
    assert opened.tokenizer("The dogs sleep.").input_ids == small().tokenizer("The dogs sleep.").input_ids
    for split in SPLITS:
        assert isinstance(opened.splits[split].ids, np.memmap)
        assert np.array_equal(opened.splits[split].ids, small().splits[split].ids)
        digest = hashlib.sha256((saved / f"{split}.bin").read_bytes()).hexdigest()
        assert digest == json.loads((saved / "corpus.json").read_text())["files"][f"{split}.bin"]


def test_saving_twice_gives_the_same_bytes(tmp_path, saved):
    (tmp_path / "again").mkdir()
    again = save_prepared(prepare(small().config, Seeds(0)), tmp_path / "again")
    assert (again / "corpus.json").read_bytes() == (saved / "corpus.json").read_bytes()


def flip(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


DAMAGE = dict(truncated=lambda p: p.write_bytes(p.read_bytes()[:-3]), flipped=flip, missing=lambda p: p.unlink())


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["evolution.bin", "test.bin", "tokenizer/tokenizer.json"])
def test_damage_is_found_and_named(saved, name, how):
    DAMAGE[how](saved / name)
    with pytest.raises(DamagedFileError) as e: open_prepared(saved)
    assert str(saved / name) in str(e.value)


def test_damaged_record(saved):
    path, text = saved / "corpus.json", (saved / "corpus.json").read_text()
    path.write_text(text.replace('"n_documents": ', '"n_documents": 1', 1))
    with pytest.raises(DamagedFileError, match="corpus.json is altered"): open_prepared(saved)
    path.write_text(text[:-20])
    with pytest.raises(DamagedFileError, match="corpus.json is truncated or altered"): open_prepared(saved)
    path.unlink()
    with pytest.raises(MissingCorpusError, match="has no corpus.json"): open_prepared(saved)


def test_version_and_folder(saved, tmp_path):
    record = json.loads((saved / "corpus.json").read_text()) | dict(version=2)
    record["seal"] = text_tokens._seal(record)
    (saved / "corpus.json").write_text(json.dumps(record))
    with pytest.raises(core.StoreError, match="has version 2"): open_prepared(saved)
    with pytest.raises(MissingCorpusError, match="make it first"): save_prepared(small(), tmp_path / "none")


def test_prepared_repr():
    assert "PreparedCorpus('toy-english', vocabulary 400" in repr(small()) and "evolution" in repr(small())
    page = small()._repr_html_()
    assert page.startswith("<table>") and str(len(small().splits["test"])) in page
    corpora_info = dict(small().info, name="<img>")
    assert "<img>" not in text_tokens.PreparedCorpus(small().config, None, small().splits, corpora_info)._repr_html_()


# Streaming: the same as all at once, in bounded memory

PARTS = ["a", "dog", "the", "é", "日本", "x" * 40, "q" * 70, " " * 30]
PARTS += ["\u2028", "\x85", "\x1c", "\r", "\n", "\r\n", " ", "\t"]
WILD = st.lists(st.sampled_from(PARTS), max_size=60).map("".join)


def plain_pieces(document, block_bytes):
    "Of a document that is there as a whole."
    for line in document.splitlines(keepends=True):
        words = [line] if len(line.encode()) <= block_bytes else re.findall(r"\S+\s*|\s+", line)
        for word in words:
            step = len(word) if len(word.encode()) <= block_bytes else block_bytes // 4
            yield from (word[i:i + step] for i in range(0, len(word), step))


@given(WILD, st.integers(1, 90), st.sampled_from([16, 20, 32, 100]))
@settings(max_examples=400, deadline=None)
def test_pieces_of_chunks_are_those_of_the_whole(text, step, block_bytes):
    chunks = [text[i:i + step] for i in range(0, len(text), step)]
    expected = list(plain_pieces(text, block_bytes))
    assert list(pieces(chunks, block_bytes)) == list(pieces([text], block_bytes)) == expected


def plain_deal(groups, sizes, fractions, rng):
    "As it was written first: lists and a dict."
    members, got, dealt = {}, [0] * len(fractions), [[] for _ in fractions]
    for i, g in enumerate(groups): members.setdefault(g, []).append(i)
    members = list(members.values())
    for j in rng.permutation(len(members)):
        k = min(range(len(fractions)), key=lambda k: got[k] / fractions[k])
        dealt[k] += members[j]
        got[k] += sum(sizes[i] for i in members[j])
    return [[d[i] for i in rng.permutation(len(d))] for d in dealt]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5000)), min_size=1, max_size=200), st.integers(0, 99))
@settings(deadline=None)
def test_deal_against_plain_lists(rows, seed):
    groups, sizes = [f"g{g}" for g, _ in rows], [n for _, n in rows]
    a, b = (f(groups, sizes, FRACTIONS, np.random.default_rng(seed)) for f in (deal, plain_deal))
    assert a == b


def whole(config, seeds):
    "Everything in memory, one step after the other, with the plain deal."
    corpus = load_corpus(config.source, config.n_bytes, seeds)
    cut = [(b, s) for d, s in zip(corpus.documents, corpus.sources) for b in cut_blocks(d, config.block_bytes)]
    texts, sizes = [b for b, _ in cut], [len(b.encode()) for b, _ in cut]
    groups = texts if config.split_by == "block" else corpora.tied_sources(texts, [s for _, s in cut]).tolist()
    dealt = plain_deal(groups, sizes, config.fractions, seeds.child("corpus", "split").numpy())
    splits = {s: [texts[i] for i in d] for s, d in zip(SPLITS, dealt)}
    tokenizer = train_tokenizer(splits["evolution"], config.vocab_size)
    return corpus, tokenizer, {s: encode_texts(t, tokenizer) for s, t in splits.items()}


@pytest.mark.parametrize("seed", range(12))
def test_a_streamed_corpus_is_the_same_bit_for_bit(tmp_path, tmp_path_factory, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(text_tokens, "_CHUNK", 257)
    monkeypatch.setattr(formats, "CHUNK", 257)
    def wild(n): return "".join(rng.choice([*PARTS, *["\n", " "] * 4, *map(str, rng.integers(0, 10**6, 40))], n))
    for k in range(3):
        mark = b"\xef\xbb\xbf" * int(rng.integers(2))
        (tmp_path / f"{k}.txt").write_bytes(mark + wild(900).encode())
        (tmp_path / f"{k}.jsonl").write_text("\n".join(json.dumps(dict(text=wild(30))) for _ in range(20)))
    limit, by = int(rng.integers(24_000, 30_000)) if seed % 2 else None, ("block", "source")[seed // 2 % 2]
    block_bytes = 200 if by == "source" else (16, 48)[seed % 2]
    config = CorpusConfig(str(tmp_path), limit, 262, block_bytes, by, (.4, .3, .2, .1))
    corpus, tokenizer, splits = whole(config, Seeds(seed))
    out = tmp_path_factory.mktemp("out")
    for made in (prepare(config, Seeds(seed)), prepare(config, Seeds(seed), out)):
        assert made.info["digest"] == corpus.digest and made.info["provenance"] == corpus.info
        assert made.info["n_documents"] == len(corpus.documents) and made.info["n_bytes"] == corpus.n_bytes
        assert made.tokenizer.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
        for s in SPLITS:
            assert np.array_equal(made.splits[s].ids, splits[s].ids)
            assert (made.splits[s].n_documents, made.splits[s].n_bytes) == (splits[s].n_documents, splits[s].n_bytes)
    assert isinstance(made.splits["test"].ids, np.memmap)
    opened = open_prepared(save_prepared(made, out))
    assert opened.info == made.info and np.array_equal(opened.splits["evolution"].ids, splits["evolution"].ids)


@pytest.mark.parametrize("name, data, message", [
    ("a.txt", b"\xef\xbb\xbf" + b"x\n" * 400 + b"\0", "a.txt is binary: a NUL byte at offset 803"),
    ("b.txt", b"x\n" * 400 + "dé".encode("latin1"), "b.txt isn't UTF-8: byte 0xe9 at offset 801"),
    ("c.txt", "é".encode() * 300 + b"\xc3", "c.txt isn't UTF-8: byte 0xc3 at offset 600"),
    ("d.txt", b" \n" * 300, "d.txt is empty"),
    ("e.jsonl", b'{"text": "a"}\n' * 40 + b'{"text": \n', "e.jsonl, line 41 isn't a JSON object"),
    ("f.jsonl", b'{"text": "a"}\n' * 40 + b'{"text": "\xe9"}\n', "f.jsonl isn't UTF-8: byte 0xe9 at offset 570"),
])
def test_bad_files_are_named_while_they_are_streamed(tmp_path, monkeypatch, name, data, message):
    monkeypatch.setattr(formats, "CHUNK", 101)
    (tmp_path / name).write_bytes(data)
    for read in (load_corpus, lambda path: prepare(CorpusConfig(str(path)), Seeds(0))):
        with pytest.raises(CorpusError) as e: read(tmp_path / name)
        assert message in str(e.value)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("line of text\n" * 500)
    class Growing(StopRequest): # is asked after each megabyte
        def __bool__(self):
            if path.stat().st_size == 6500: path.write_text("line of text\n" * 501)
            return False
    with pytest.raises(CorpusError, match="a.txt changed while it was read: 6500 bytes were there, 6513 came"):
        prepare(CorpusConfig(str(path)), Seeds(0), stop=Growing())
    write_shard(tmp_path / "a.bin", np.arange(5000) % 300)
    real = text_tokens._Shards.read
    def writing(self, *args):
        yield from real(self, *args)
        os.utime(self.paths[0], ns=(0, 0))
    monkeypatch.setattr(text_tokens._Shards, "read", writing)
    with pytest.raises(CorpusError, match="a.bin changed while it was read"):
        prepare(CorpusConfig(str(tmp_path / "a.bin"), vocab_size=300, block_bytes=256), Seeds(0))


@pytest.mark.parametrize("label", ["reading text", "training the tokenizer", "tokenizing"])
def test_preparing_stops_when_asked_and_leaves_nothing(tmp_path, monkeypatch, label):
    real, stop = text_tokens.progress, StopRequest()
    def progress(total, what, *args):
        if what == label: stop.set("SIGTERM")
        return real(total, what, *args)
    monkeypatch.setattr(text_tokens, "progress", progress)
    with pytest.raises(Stopped, match="SIGTERM while the corpus was prepared; nothing of it was kept"):
        prepare(CorpusConfig(n_bytes=100_000, vocab_size=300), Seeds(0), tmp_path, stop)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".bin"]  # the text had no name; shards go with the folder


def test_a_tokenizer_of_a_large_corpus_is_trained_on_a_sample(monkeypatch):
    made = prepare(CorpusConfig(n_bytes=150_000, vocab_size=400), Seeds(0))
    assert "tokenizer_bytes" not in made.info
    monkeypatch.setattr(text_tokens, "TOKENIZER_BYTES", 40_000)
    less = prepare(CorpusConfig(n_bytes=150_000, vocab_size=400), Seeds(0))
    assert 35_000 < less.info["tokenizer_bytes"] <= 40_000 and less.info["digest"] == made.info["digest"]
    assert less.tokenizer.backend_tokenizer.to_str() != made.tokenizer.backend_tokenizer.to_str()


def test_a_row_of_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(text_tokens, "_MOST", 100)
    ids = np.random.default_rng(0).integers(0, 900, 950).astype(np.uint16)
    writer = ShardWriter(tmp_path / "evolution.bin")
    for part in np.split(ids, [3, 3 + 250, 700]): writer.add(part)
    assert len(writer.close()) == 10 and writer.n_tokens == 950
    row = read_row(tmp_path / "evolution.bin")
    assert isinstance(row, TokenRow) and len(row) == 950 and np.array_equal(np.asarray(row), ids)
    for a, b in np.random.default_rng(1).integers(-20, 1000, (300, 2)).tolist(): # (300, 2)
        assert np.array_equal(row[a:b], ids[a:b]), (a, b)
    assert np.shares_memory(row[10:90], row.parts[0]) and row[-1] == ids[-1] and row[100] == ids[100]
    with pytest.raises(IndexError): row[950]
    with pytest.raises(IndexError, match="step 1"): row[::2]
    from evonb.training.lifetime import Windows, validation_windows
    for x, y in zip(Windows(row, 64, 8, Seeds(0)).batch(3), Windows(ids, 64, 8, Seeds(0)).batch(3)): assert x.equal(y)
    assert validation_windows(row, 64, 5)[0].equal(validation_windows(ids, 64, 5)[0])


def test_a_folder_is_saved_into_itself_by_another_name(tmp_path, monkeypatch):
    "Rewriting the shards would cut the files that are mapped: a bus error, and nothing left of them."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    made = prepare(small().config, Seeds(0), tmp_path / "made")
    before = (tmp_path / "made" / "test.bin").stat()
    assert open_prepared(save_prepared(made, "made")).sizes() == small().sizes()
    after = (tmp_path / "made" / "test.bin").stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


def test_a_split_longer_than_a_shard_is_kept_and_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(text_tokens, "_MOST", 9_000)
    made = prepare(small().config, Seeds(0), tmp_path)
    opened = open_prepared(save_prepared(made, tmp_path))
    assert isinstance(opened.splits["evolution"].ids, TokenRow) and opened.sizes() == small().sizes()
    assert all(np.array_equal(opened.splits[s].ids, small().splits[s].ids) for s in SPLITS)
    flip(tmp_path / "evolution.2.bin")
    with pytest.raises(DamagedFileError, match="evolution.2.bin"): open_prepared(tmp_path)


MEASURED = """
import json, sys
from pathlib import Path
import numpy as np
from evonb.text.tokens import CorpusConfig, prepare, write_shard
from evonb.core import Seeds
from evonb.text import tokens
from tokenizers import Tokenizer, models
kind, mb, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
rng, out, tokenizer = np.random.default_rng(0), folder / "out", str(folder / "tokenizer.json")
Tokenizer(models.WordLevel({"<|endoftext|>": 0, "w": 1}, "w")).save(tokenizer)
tokens.check_fit = lambda *args: [] # a text is one unknown token, which is quick, and refused otherwise
out.mkdir()
for i in range(mb):
    if kind == "bin": write_shard(folder / f"{i}.bin", rng.integers(0, 2, 2**19)); continue
    words = rng.integers(0, 10**6, (12_500, 12)) # (n_lines, words a line)
    text = "\\n".join(" ".join(map(str, line)) for line in words.tolist())[:10**6]
    with open(folder / f"a.{kind}", "a") as f: f.write(text if kind == "txt" else json.dumps(dict(text=text)) + "\\n")
def peak(): return int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) / 1024
prepare(CorpusConfig("toy-english", 50_000, tokenizer=tokenizer), Seeds(0))
before = peak()
made = prepare(CorpusConfig(str(folder / f"*.{kind}"), tokenizer=tokenizer), Seeds(0), out)
print(json.dumps([sum(t.n_documents for t in made.splits.values()), peak() - before]))
"""


def grown(kind, mb, folder):
    "Blocks, and by how many MB the peak of memory grew while a corpus was prepared in a process of its own."
    folder.mkdir()
    out = subprocess.run([sys.executable, "-c", MEASURED, kind, str(mb), str(folder)], capture_output=True, text=True,
                         timeout=300, check=True)
    return json.loads(out.stdout)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("kind, small, large", [
    ("bin", 16, 64), ("txt", 16, 64), pytest.param("jsonl", 32, 256, marks=pytest.mark.faults)])
def test_memory_does_not_grow_with_the_corpus(tmp_path, kind, small, large):
    (a, less), (b, more) = (grown(kind, mb, tmp_path / str(mb)) for mb in (small, large))
    assert b == pytest.approx(a * large / small, rel=.05) and more - less < 10 * max(1, large / 64)


def test_tokens_that_occur_are_counted_wherever_they_lie(tmp_path):
    made = prepare(CorpusConfig("toy-english", n_bytes=60_000, vocab_size=300), Seeds(0))
    expected = np.isin(np.arange(300), np.concatenate([t.ids for t in made.splits.values()]))
    assert np.array_equal(made.occurring(), expected) and made.info["n_occurring"] == expected.sum() < 300
    (folder := tmp_path / "corpus").mkdir()
    again = open_prepared(save_prepared(made, folder))
    assert np.array_equal(again.occurring(), expected)
    parts = [(7, 9, 9), (11, 250), (3,)]  # several shards, and maps that begin and end within a file
    for i, ids in enumerate(parts):
        write_shard(tmp_path / f"{i}.bin", np.array(ids))
    maps = [read_shard(tmp_path / f"{i}.bin") for i in range(3)]
    for rows, occur in ((maps, {7, 9, 11, 250, 3}), ([maps[0][:1], maps[1][1:]], {7, 250})):
        corpus = replace(again, splits=dict(evolution=Tokens(TokenRow(rows), 1, None)))
        assert set(np.flatnonzero(corpus.occurring())) == occur


MEMORY = """
import ctypes, gc, sys, tempfile
from pathlib import Path
from evonb.core import Seeds
from evonb.text.tokens import CorpusConfig, prepare

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

folder, config = Path(tempfile.mkdtemp()), CorpusConfig("toy-english", n_bytes=120_000, vocab_size=320)
for i in range(36):
    if i == 12: before = resident()
    (folder / str(i)).mkdir()
    prepare(config, Seeds(0), folder / str(i))
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from Linux' /proc")
def test_preparing_many_corpora_in_one_process_takes_no_more_memory():
    "tokenizers 0.23 keeps 0.4 MB of words for each tokenizer that is made: 10 MB here."
    out = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(out.stdout) < 4, out.stdout
