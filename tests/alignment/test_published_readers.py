"""Published tables of reading times, on files written here in their formats with what is odd about them."""

import numpy as np
import pytest

from evonb.alignment.data import asked_for, open_data
from evonb.alignment.sources import published as p
from evonb.alignment.sources.dundee import dundee, fixation_times
from evonb.core import InputError
from evonb.datasets import MissingCorpusError

TEXT = "It’s true, they said; null and NA are words.".split()


def written(folder, rows, name="table.csv", sep=",", encoding="utf-8"):
    text = "\n".join(sep.join(map(str, r)) for r in rows) + "\n"
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def cells(words, people=("s1", "s2"), times=None, story=1):
    "person, story, place, word, time: one row each; times 200, 210, ... and 20 more for the second person."
    return [(s, story, i, w, 200 + 10 * i + 20 * k if times is None else times(i, k))
            for k, s in enumerate(people) for i, w in enumerate(words, 1)]


HEADS = {  # the publisher's columns: person, story, place, word, time; then what else a row has
    "provo": ("Participant_ID,Text_ID,IA_ID,IA_LABEL,IA_FIRST_RUN_DWELL_TIME", ",", {}),
    "meco": ("uniform_id,itemid,ianum,ia,firstrun.dur", ",", {"lang": "en"}),
    "geco": ("PP_NR,PART,WORD_ID_WITHIN_TRIAL,WORD,WORD_GAZE_DURATION", ",", {"TRIAL": 1}),
    "ucl_self_paced": ("subj_nr,sent_nr,word_pos,word,RT", "\t", {"correct": "c"}),
    "ucl_eye": ("subj_nr,sent_nr,word_pos,word,RTfirstpass", "\t", {"correct": "-"}),
    "brown": ("subject,text_id,text_pos,word,time", ",", {}),
}


def file_of(kind, folder, rows=None, encoding="utf-8", **beside):
    head, sep, more = HEADS[kind]
    more = more | beside
    rows = [['"' + str(c) + '"' if sep == "," and "," in str(c) else c for c in r] for r in rows or cells(TEXT)]
    return written(folder, [[*head.split(","), *more], *([*r, *more.values()] for r in rows)], sep=sep,
                   encoding=encoding)


@pytest.mark.parametrize("kind", HEADS)
def test_every_format_gives_the_words_and_each_persons_times(kind, tmp_path):
    words = [w for w in TEXT if kind != "meco" or w != "NA"]  # which is how R writes that there is none
    read = getattr(p, kind)(file_of(kind, tmp_path, cells(words)))
    assert read.word == words and read.readers.shape == (len(words), 2) and read.name == kind
    assert np.array_equal(read.readers[:, 1] - read.readers[:, 0], np.full(len(words), 20.))
    assert np.array_equal(read.time, 210 + 10. * np.arange(1, len(words) + 1))
    assert read.notes[0].startswith("measure: ")


@pytest.mark.parametrize("kind", HEADS)
def test_every_format_refuses_what_is_wrong(kind, tmp_path):
    read, (head, sep, more) = getattr(p, kind), HEADS[kind]
    other = ";" if sep == "," else ","
    bad = written(tmp_path, [(head.replace(",", sep),), *cells(TEXT)], "delimiter.csv", other)
    with pytest.raises(InputError, match="separated by another mark"): read(bad)
    bad = written(tmp_path, [[*head.split(",")[:-1], "speed", *more], *([*r, *more.values()] for r in cells(TEXT[2:]))],
                  "lacks.csv", sep)
    with pytest.raises(InputError, match=f"has no column '{head.split(',')[-1]}', its time"): read(bad)
    with pytest.raises(InputError, match="seem to be seconds"):
        read(file_of(kind, tmp_path, cells(TEXT, times=lambda i, k: .2 + .01 * i)))
    with pytest.raises(InputError, match="stands twice in story 1 of reader s1"):
        read(file_of(kind, tmp_path, [*cells(TEXT), ("s1", 1, 1, TEXT[0], 999)]))
    with pytest.raises(InputError, match="don't match one text"):
        read(file_of(kind, tmp_path, [*cells(TEXT), *cells(TEXT[::-1], ["s3"])]))
    with pytest.raises(InputError, match="is 'slow' in row"):
        read(file_of(kind, tmp_path, cells(TEXT, times=lambda i, k: "slow" if i == 3 else 300)))
    with pytest.raises(FileNotFoundError, match="EVONB_DATA as "): read(tmp_path / "nothing.csv")
    for packed in ("x.rda", "x.xlsx"):
        (tmp_path / packed).write_bytes(b"PK")
        with pytest.raises(InputError, match="isn't a table of text"): read(tmp_path / packed)


def test_provo_in_a_macs_letters_and_as_latin_1_read_them(tmp_path):
    mac = p.provo(file_of("provo", tmp_path, encoding="mac_roman"))
    wrong = p.provo(file_of("provo", tmp_path, cells([w.replace("’", "Õ") for w in TEXT])))
    assert mac.word == wrong.word == TEXT and any("Mac's apostrophe" in n for n in wrong.notes)


def test_words_that_were_not_looked_at_have_no_time(tmp_path):
    skipped = lambda i, k: {1: 0, 2: "NA", 3: ".", 4: ""}.get(i, 250)
    for kind in ("provo", "meco", "geco", "ucl_eye"):
        read = getattr(p, kind)(file_of(kind, tmp_path, cells(TEXT, times=skipped)))
        assert np.isnan(read.time[:4]).all() and (read.time[4:] == 250).all(), kind


def test_measures_are_chosen_by_name(tmp_path):
    rows = [("Participant_ID", "Text_ID", "IA_ID", "IA_LABEL", "IA_FIRST_RUN_DWELL_TIME", "IA_DWELL_TIME")]
    path = written(tmp_path, rows + [(*r, r[-1] + 100) for r in cells("a b c".split())])
    gaze, total = p.provo(path), p.provo(path, "total")
    assert np.array_equal(total.time, gaze.time + 100)
    with pytest.raises(InputError, match="measure of provo is 'speed'"): p.provo(path, "speed")
    with pytest.raises(InputError, match="no column 'IA_REGRESSION_PATH_DURATION'"): p.provo(path, "go_past")


def test_meco_takes_one_language_leaves_doubles_and_gaps_out(tmp_path):
    rows = cells(["The", "", "end."])
    head = "uniform_id,itemid,wordnum,word,firstrun.dur,lang".split(",")
    both = [(*r, "en") for r in rows] + [("d1", 1, 1, "Das", 300, "ge"), ("d1", 1, 2, "Ende.", 310, "ge")]
    path = written(tmp_path, [head, *both, *both[:3]])  # the first person stands twice, as da_16 does
    read, german = p.meco(path), p.meco(path, lang="ge")
    assert read.word == ["The", "end."] and german.word == ["Das", "Ende."]
    assert any("3 rows repeat" in n for n in read.notes) and any("2 rows hold no word" in n for n in read.notes)
    with pytest.raises(InputError, match="lang is 'fr'"): p.meco(path, lang="fr")


def test_geco_counts_words_anew_on_each_page(tmp_path):
    head = "PP_NR,PART,TRIAL,WORD_ID_WITHIN_TRIAL,WORD,WORD_GAZE_DURATION".split(",")
    rows = [(s, 1, page, i, w, 250 + i) for s in ("pp01", "pp02") for page in (2, 10, 1)
            for i, w in enumerate(f"page {page} here".split(), 1)]
    assert p.geco(written(tmp_path, [head, *rows])).passages[0].text == "page 1 here page 2 here page 10 here"


def test_a_slip_of_a_spreadsheet_is_mended_and_told(tmp_path):
    people = [f"s{i}" for i in range(60)]
    rows = [(s, st, i, "TRUE" if (s, i) == ("s3", 2) else w, t) for s, st, i, w, t in cells(["so", "true"], people)]
    read = p.brown(file_of("brown", tmp_path, rows))
    assert read.word == ["so", "true"] and any("1 of 120 rows have another word" in n for n in read.notes)


# BabyLM's file ---------------------------------------------------------------------------------------------------

SENTENCES = ["Maria sat down with a cup.", "Then it rained."]
BABYLM = ["", "item", "word", "sentence", "context_length", "RTfirstpass", "self_paced_reading_time", *p.ERPS]


def babylm_file(folder, change=lambda rows: rows):
    rng = np.random.default_rng(3)
    rows = [[i, " ".join(s.split()[:k]), s.split()[k], s, k, 200 + k, 300 + k, *rng.normal(size=6).round(4)]
            for i, (s, k) in enumerate([(SENTENCES[0], 4), (SENTENCES[1], 1), (SENTENCES[0], 2), (SENTENCES[0], 3),
                                        (SENTENCES[1], 2), (SENTENCES[0], 5)])]
    return written(folder, [BABYLM, *change(rows)], "reading_data.csv"), rows


def test_babylm_rows_in_any_order_become_sentences(tmp_path):
    path, rows = babylm_file(tmp_path)
    read = p.babylm_reading(path)
    assert [q.text for q in read.passages] == SENTENCES
    assert np.array_equal(read.time, [np.nan, np.nan, 302, 303, 304, 305, np.nan, 301, 302], equal_nan=True)
    assert p.babylm_reading(tmp_path, "gaze").time[2] == 202
    heard = p.n400(path)
    assert [q.text for q in heard.passages] == ["Maria sat down", "Maria sat down with", "Maria sat down with a",
                                                SENTENCES[0], "Then it", SENTENCES[1]]
    by_word = {(r[3], r[4]): r[7:] for r in rows}
    keys = [(SENTENCES[0], k) for k in (2, 3, 4, 5)] + [(SENTENCES[1], k) for k in (1, 2)]
    assert np.allclose(heard.data, [by_word[k] for k in keys]) and list(heard.targets.target) == list(p.ERPS)
    assert [int(w.stop - w.start) for _, w in heard.runs] == [4, 2]


def test_babylm_rows_that_dont_fit_are_refused(tmp_path):
    def replaced(i, j, value): return lambda rows: [[value if (a, b) == (i, j) else c for b, c in enumerate(r)]
                                                    for a, r in enumerate(rows)]
    for change, message in ((replaced(0, 2, "the"), "row 1 has 'the' behind 4 words"),
                            (replaced(1, 4, 7), "has 'no word' there"),
                            (lambda rows: [*rows, rows[0]], "place 4 stands twice"),
                            (replaced(2, 6, "quick"), "self_paced_reading_time is 'quick'")):
        path, _ = babylm_file(tmp_path, change)
        with pytest.raises(InputError, match=message): p.babylm_reading(path)
    path, _ = babylm_file(tmp_path, replaced(2, 7, "NA"))
    assert len(p.n400(path).passages) == 5 and any("1 of 6 rows" in n for n in p.n400(path).notes)
    with pytest.raises(InputError, match="lacks|no column 'word'"):
        p.n400(written(tmp_path, [["item"], ["x"]], "reading_data.csv"))


# Dundee ----------------------------------------------------------------------------------------------------------

def dundee_folder(folder, words, seen, person="sa", text=1):
    (folder / f"tx{text:02d}wrdp.dat").write_text("\n".join(
        f"{w} {text} 1 1 {i} {i} 1 {len(w)} {len(w)} 0 0 0 {i} 99" for i, w in enumerate(words, 1)), encoding="latin-1")
    (folder / f"{person}{text:02d}ma1p.dat").write_text("\n".join(
        ["  WORD TEXT LINE OLEN WLEN XPOS WNUM FDUR OBLP WDLP LAUN TXFR",
         *(f" {w} {text} 1 {len(w)} {len(w)} 1 {n} {ms} 1 1 0 99" for w, n, ms in seen)]), encoding="latin-1")


def plain_measures(words, durations):
    "The same by looking at each word on its own."
    seen = [(w, d) for w, d in zip(words, durations) if w > 0]
    gaze, past = {}, {}
    for i, (w, _) in enumerate(seen):
        if w in past or any(v >= w for v, _ in seen[:i]): continue
        j = next((k for k in range(i, len(seen)) if seen[k][0] != w), len(seen))
        gaze[w] = sum(d for _, d in seen[i:j])
        j = next((k for k in range(i, len(seen)) if seen[k][0] > w), len(seen))
        past[w] = sum(d for _, d in seen[i:j])
    return gaze, past


def test_fixations_become_times_as_the_definitions_say():
    rng = np.random.default_rng(0)
    for _ in range(50):
        words, durations = rng.integers(-1, 8, 30), rng.integers(80, 400, 30)
        found, (gaze, past) = fixation_times(words, durations), plain_measures(words, durations)
        assert found["gaze"] == gaze and found["go_past"] == past
        assert found["total"] == {w: durations[words == w].sum() for w in set(words[words > 0].tolist())}


def test_dundee_reader_by_reader(tmp_path):
    words = "Château-bottled (mostly) is 'nice'.".split()
    dundee_folder(tmp_path, words, [(words[0], 1, 210), ("*Off-screen", 0, 900), (words[2], 3, 250)])
    dundee_folder(tmp_path, words, [(words[0], 1, 230), ("*Blink", -99, 120), (words[0], 1, 100), (words[1], 2, 40)],
                  "sb")
    read = dundee(tmp_path)
    assert read.word == words and read.readers.shape == (4, 2)
    assert np.array_equal(read.time, [270, np.nan, 250, np.nan], equal_nan=True)  # 40 ms is no reading
    assert dundee(tmp_path, "first_fixation").time[0] == 220


def test_dundee_files_that_dont_fit_are_refused(tmp_path):
    words = "one two three".split()
    with pytest.raises(MissingCorpusError, match="0 texts .* and 0 files"): dundee(tmp_path)
    for seen, message in (([("one", 1, 210), ("three", 2, 220)], "name another word than the text"),
                          ([("four", 4, 210)], "is of word 4, but its text has 3 words"),
                          ([("one", 1, "long")], "line 2 must hold whole numbers")):
        dundee_folder(tmp_path, words, seen)
        with pytest.raises(InputError, match=message): dundee(tmp_path)
    dundee_folder(tmp_path, words, [("one", 1, 210)], text=2)
    (tmp_path / "tx02wrdp.dat").unlink()
    (tmp_path / "sa01ma1p.dat").unlink()
    with pytest.raises(MissingCorpusError, match="tx02wrdp.dat isn't there"): dundee(tmp_path)
    (tmp_path / "tx02wrdp.dat").write_text("one,2,1\n")
    with pytest.raises(InputError, match="line 1 has no number of a word"): dundee(tmp_path)


# By name ---------------------------------------------------------------------------------------------------------

def test_a_name_takes_a_path_or_a_choice_behind_a_colon(tmp_path, monkeypatch):
    path, _ = babylm_file(tmp_path)
    assert np.array_equal(open_data(f"babylm-reading:{path}").time, p.babylm_reading(path).time, equal_nan=True)
    (tmp_path / "babylm_reading").mkdir()
    path.rename(tmp_path / "babylm_reading" / "reading_data.csv")
    monkeypatch.setenv("EVONB_DATA", str(tmp_path))
    assert open_data("babylm-reading:gaze").time[2] == 202 and open_data("n400").kind == "items"
    with pytest.raises(InputError, match="measure of babylm_reading is 'speed'"): open_data("babylm-reading:speed")
    with pytest.raises(InputError, match="n400 has nothing to choose"): open_data("n400:speed")
    for nowhere in ("provo:/no/such.csv", "n400:no/such.csv", "provo:"):
        with pytest.raises(InputError, match="no such file or folder"): open_data(nowhere)
    with pytest.raises(InputError, match="toy-reading is simulated"): open_data("toy-reading:7")
    with pytest.raises(MissingCorpusError, match="osf.io/sjefs"): open_data("provo")
    assert asked_for("C:/mine.csv") == ("C:/mine.csv", {})
