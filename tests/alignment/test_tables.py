"""Tables as people have them: every spelling of one table gives the same words, stories and times, or is refused."""

import numpy as np
import pandas as pd
import pytest

from evonb.alignment import tables as t
from evonb.alignment.data import open_data
from evonb.alignment.images import label_names, read_events
from evonb.alignment.sources.reading_tables import joined_marks, reading_table
from evonb.alignment.sources.tuckute2024 import TUCKUTE_ROIS, tuckute2024
from evonb.core import InputError

WORDS = "The dog's null NA None sat . And nan left".split()
ROWS = [(1 + i // 5, 1 + i % 5, w, 300.5 + 7 * i) for i, w in enumerate(WORDS)]  # story, order, word, time


def lines(sep=",", head="story{0}order{0}word{0}time", rows=ROWS, end="\n", decimal=".", cell="{}"):
    cells = ([cell.format(str(v).replace(".", decimal) if isinstance(v, float) else v) for v in r] for r in rows)
    return end.join([head.format(sep), *(sep.join(c) for c in cells)]) + end


def written(folder, text, name="mine.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def facts(reading):
    return reading.word, reading.story.tolist(), np.round(reading.time, 6).tolist()


RIGHT = WORDS, ["story 1"] * 5 + ["story 2"] * 5, [r[3] for r in ROWS]
SAME = {
    "plain": (lines(), "a.csv", "utf-8"),
    "byte order mark": (lines(), "a.csv", "utf-8-sig"),
    "UTF-16": (lines("\t"), "a.csv", "utf-16"),
    "carriage returns": (lines(end="\r\n"), "a.csv", "utf-8-sig"),
    "old Mac": (lines(end="\r"), "a.csv", "utf-8"),
    "capitals": (lines(head="STORY{0}Order{0}Word{0}TIME"), "a.csv", "utf-8"),
    "blanks in the head": (lines(head="story {0} order{0} word {0}\u00a0time"), "a.csv", "utf-8-sig"),
    "blanks around cells": (lines(cell=" {} "), "a.csv", "utf-8"),
    "no-break and zero-width blanks": (lines(cell="\u00a0{}\u200b"), "a.csv", "utf-8"),
    "semicolons, decimal commas": (lines(";", decimal=","), "a.csv", "utf-8"),
    "tabs, decimal commas": (lines("\t", decimal=","), "a.tsv", "utf-8"),
    "tabs in a csv": (lines("\t"), "a.csv", "utf-8"),
    "commas in a tsv": (lines(), "a.tsv", "utf-8"),
    "bars": (lines("|"), "a.csv", "utf-8"),
    "upper suffix": (lines(), "a.CSV", "utf-8"),
    "upper tsv": (lines("\t"), "a.TSV", "utf-8"),
    "quoted": (lines(head='"story"{0}"order"{0}"word"{0}"time"', cell='"{}"'), "a.csv", "utf-8"),
    "quoted, tabs": (lines("\t", '"story"{0}"order"{0}"word"{0}"time"', cell='"{}"'), "a.tsv", "utf-8"),
    "quotes doubled where a cell holds some": (lines("\t", rows=[(*r[:2], r[2].replace("sat", '"""sat"""'), r[3])
                                                                   for r in ROWS]), "a.tsv", "utf-8"),
    "names of rows": (lines(head='""{0}"story"{0}"order"{0}"word"{0}"time"', rows=[(7, *r) for r in ROWS]), "a.csv",
                      "utf-8"),
    "names of rows without one of their own": (lines(rows=[(7, *r) for r in ROWS]), "a.csv", "utf-8"),
    "separators at ends": (lines(rows=[(*r, "") for r in ROWS]), "a.csv", "utf-8"),
    "empty rows": (lines(rows=[*ROWS[:3], ("", "", "", ""), (" ", "", "", " "), *ROWS[3:]]) + "\n\n", "a.csv", "utf-8"),
    "said by Excel": ("sep=;\n" + lines(";"), "a.csv", "utf-8"),
    "unsorted": (lines(rows=[ROWS[0], *ROWS[:0:-1]]), "a.csv", "utf-8"),
    "Story ID": (lines(head="Story ID{0}Word Number{0}Token{0}Reading time (ms)"), "a.csv", "utf-8"),
    "usual names": (lines(head="item{0}zone{0}word{0}RT"), "a.csv", "utf-8"),
    "one column twice": (lines(head="story{0}order{0}word{0}time{0}time", rows=[(*r, r[3]) for r in ROWS]), "a.csv",
                         "utf-8"),
    "columns that say nothing": (lines(head="story{0}order{0}word{0}time{0}pos{0}", rows=[(*r, "N", "") for r in ROWS]),
                                 "a.csv", "utf-8"),
    "thousands": (lines(rows=[(*r[:3], f'"{r[3] + 1000:,}"') for r in ROWS]), "a.csv", "utf-8"),
    "thousands and decimal commas": (lines(";", rows=[(*r[:3], f"1.{r[3]:05.1f}".replace(".", "x").replace("x", ".", 1)
                                                       .replace("x", ",")) for r in ROWS]), "a.csv", "utf-8"),
}


@pytest.mark.parametrize("kind", SAME)
def test_one_table_in_many_spellings(kind, tmp_path):
    text, name, encoding = SAME[kind]
    reading = open_data(str(written(tmp_path, text, name, encoding)))
    words, stories, times = facts(reading)
    if kind.startswith("quotes"): assert words[5] == '"sat"'
    words = [w.strip('"') for w in words]
    if kind.startswith("thousands"): times = [x - 1000 for x in times]
    assert (words, stories, times) == RIGHT and reading.name == "a"
    assert [p.text.replace('"', "") for p in reading.passages] == ["The dog's null NA None", "sat . And nan left"]
    assert any(n.startswith("columns: word = ") for n in reading.notes)


def shared(data_folder, name):
    path = data_folder.parent / "cases" / "tables" / name
    if not path.exists(): pytest.skip(f"no cases of tables: {path} isn't there")
    return path


@pytest.mark.parametrize("name", ["Story_case.csv", "bom_story_first.csv", "comma_dec.tsv", "semicolon.csv",
                                  "spaced_head.csv", "trailing_space.csv", "upper_ext.CSV"])
def test_the_cases_that_went_wrong_are_as_the_plain_one(name, data_folder):
    right = facts(open_data(str(shared(data_folder, "plain.csv"))))
    assert facts(open_data(str(shared(data_folder, name)))) == right and len(set(right[1])) == 3


def test_the_other_cases(data_folder):
    who = open_data(str(shared(data_folder, "participant.csv")))
    assert who.readers.shape == (len(who.word), 5) and len(who.passages) == 3 and who.name == "participant"
    assert any("reader = 'participant'" in n for n in who.notes)
    with pytest.raises(InputError, match="seem to be seconds.*table.unit=s"):
        open_data(str(shared(data_folder, "one_story_sec.csv")))
    seconds = open_data(str(shared(data_folder, "one_story_sec.csv")), table=t.TableConfig(unit="s"))
    assert np.allclose(seconds.time, open_data(str(shared(data_folder, "plain.csv"))).time)
    marks = shared(data_folder, "punct_rows.csv")
    plain = open_data(str(shared(data_folder, "plain.csv")))
    assert any("30 rows are punctuation alone, so models read 'and .'" in n for n in open_data(str(marks)).notes)
    joined = open_data(str(marks), table=t.TableConfig(join_punctuation=True))
    assert len(joined.word) == len(plain.word) and [w.rstrip(".") for w in joined.word] == plain.word
    assert np.array_equal(joined.time, plain.time, equal_nan=True) and "and." in joined.passages[0].text
    assert open_data(str(shared(data_folder, "null_story.csv"))).passages[0].name in ("null", "NA", "None")
    assert len(open_data(str(shared(data_folder, "one_story.csv"))).passages) == 1


def test_what_has_two_readings_is_refused(tmp_path):
    for head, message in (("story,order,word,RT,reading time", "columns that may be its time: RT, reading time"),
                          ("story,order,word,time,RT", "several columns that may be its time: time, RT"),
                          ("item,text,word,time,zone", "several columns that may be its story: item, text"),
                          ("subject,participant,word,time,zone", "several columns that may be its reader"),
                          ("story,order,word,time,time", "two columns that are called 'time'"),
                          ("story,order,word,speed,x", "lacks the column 'time'; it has: story, order, word, speed")):
        path = written(tmp_path, head + "\n1,1,a,300,310\n1,2,b,300,320\n")
        with pytest.raises(InputError, match=message): open_data(str(path))
    path = written(tmp_path, "item,text,word,time,zone\n1,1,a,300,1\n1,2,b,310,2\n")
    for given in (dict(story="item"), dict(story="ITEM "), dict(story=None)):
        assert len(open_data(str(path), columns=given).passages) == 1
    assert len(open_data(str(path), columns=dict(story="text")).passages) == 2
    for given, message in ((dict(story="book"), "lacks the column 'book'"), (dict(chapter="text"), "chapter")):
        with pytest.raises(InputError, match=message): open_data(str(path), columns=given)
    with pytest.raises(InputError, match="has columns of its own|columns of its own"):
        open_data("toy-reading", columns=dict(story="x"))


@pytest.mark.parametrize("extra", [{}, dict(subject=list("aabb"))])
def test_times_that_cant_be_ms_are_refused(extra):
    items = [1, 1, 1, 1] if extra else [1, 1, 2, 2]
    frame = pd.DataFrame(dict(word=list("abab"), zone=[1, 2, 1, 2], item=items) | extra)
    for factor, unit in ((.001, "seconds"), (1e6, "microseconds")):
        with pytest.raises(InputError, match=f"seem to be {unit}"):
            reading_table(frame.assign(RT=np.array([300, 320, 310, 330]) * factor))
    ms = reading_table(frame.assign(RT=[.3, .32, .31, .33]), config=t.TableConfig(unit="s"))
    assert np.allclose(ms.time[:2], [305, 325] if extra else [300, 320])


def test_items_that_begin_anew_and_sentences(tmp_path):
    "Places count within sentences; stories come back for every reader."
    rows = [(p, s, k, z, f"w{s}{k}{z}", 300 + z) for p in "ab" for s in (1, 2) for k in (1, 2, 3) for z in (1, 2)]
    path = written(tmp_path, lines(head="WorkerId{0}item{0}sentence{0}zone{0}word{0}RT", rows=rows))
    reading = open_data(str(path))
    texts = [" ".join(f"w{s}{k}{z}" for k in (1, 2, 3) for z in (1, 2)) for s in (1, 2)]
    assert [p.text for p in reading.passages] == texts
    assert reading.readers.shape == (12, 2) and not any("missing from the order" in n for n in reading.notes)
    for bad in ([("a", "", 1, 1, "x", 300)], [("", 1, 1, 1, "x", 300)]):
        path = written(tmp_path, lines(head="WorkerId{0}item{0}sentence{0}zone{0}word{0}RT", rows=rows + bad))
        with pytest.raises(InputError, match="is empty in row 25"): open_data(str(path))


def test_marks_go_to_their_words():
    def joined(*words, between=" "): return joined_marks(pd.DataFrame(dict(word=words, story="1")), between)[0]
    assert joined("He", "said", ":", '"', "No", ",", "(", "thanks", ")", "!", '"') == [
        "He", "said:", '"No,', "(thanks)!\""]
    assert joined("„", "Nein", "“", ",", "sagte", "er", ".") == ["„Nein“,", "sagte", "er."]
    assert joined("``", "Well", "''", "-", "known", "—", "then", "...") == ["``Well''-", "known —", "then..."]
    assert joined("...", "and", "5", "%", "&", "so") == ["...and", "5", "%", "&", "so"]
    assert joined("我", "去", "。", between="") == ["我", "去。"]
    two = pd.DataFrame(dict(word=["(", "a", ".", "b", ")"], story=["1", "1", "1", "2", "2"]))
    assert joined_marks(two)[0] == ["(a.", "b)"]


def test_words_without_spaces_between(tmp_path):
    rows = [(1, i + 1, w, 300 + i) for i, w in enumerate(["我们", "今天", "去", "学校"])]
    path = written(tmp_path, lines(rows=rows))
    spaced = open_data(str(path))
    assert spaced.passages[0].text == "我们 今天 去 学校" and any("without spaces" in n for n in spaced.notes)
    close = open_data(str(path), table=t.TableConfig(between=""))
    assert close.passages[0].text == "我们今天去学校" and close.word == spaced.word
    assert not any("without spaces" in n for n in close.notes)


NUMBERS = [(["341,5", "1.234,5", "7"], {}, [341.5, 1234.5, 7]), (["341.5", "1,234.5"], {}, [341.5, 1234.5]),
           (["1,234", "341", "12,345,678"], {}, [1234, 341, 12345678]), (["1 234", "341"], {}, [1234, 341]),
           (["1\u202f234,5", "341"], {}, [1234.5, 341]), (["1'234.5", "12"], {}, [1234.5, 12]),
           (["341.123", "341.125"], {}, [341.123, 341.125]), (["341,123", "341,125"], {}, [341.123, 341.125]),
           (["310,125", "300"], dict(likely=(10, 6e4)), [310.125, 300]),
           (["310.125", "300"], dict(likely=(10, 6e4)), [310.125, 300]),
           (["1.234", "341"], dict(likely=(10, 6e4)), [1234, 341]),
           (["1,234", "341"], dict(likely=(10, 6e4)), [1234, 341]),
           (["0,341", "1,234"], {}, [.341, 1.234]), (["1.234", "2500"], {}, [1.234, 2500]),
           (["1.234", "341"], dict(decimal=","), [1234, 341]), (["−5", "+5", "1e3", ".5"], {}, [-5, 5, 1000, .5]),
           (["NA", "n/a", "NULL", "", ".", "–", "300"], {}, [np.nan] * 6 + [300])]


@pytest.mark.parametrize("cells, how, values", NUMBERS)
def test_numbers_as_people_write_them(cells, how, values):
    assert np.array_equal(t.number_column(pd.Series(cells), "x", **how), values, equal_nan=True)


def test_numbers_that_arent():
    for cells, message in ((["300", "fast"], "'fast' in row 2"), (["1,2,3"], "'1,2,3' in row 1"),
                           (["1.234", "341"], "of decimals or"), (["1.234", "1,234"], "of decimals or"),
                           (["341,5", "341.5"], "must be a number"), (["12,34,567"], "must be a number")):
        with pytest.raises(InputError, match=message): t.number_column(pd.Series(cells), "x")
    mixed = pd.Series([300, "n/a", 310.25, None], dtype=object)
    assert np.array_equal(t.number_column(mixed, "x"), [300, np.nan, 310.25, np.nan], equal_nan=True)


def test_other_encodings_are_named(tmp_path):
    path = written(tmp_path, lines(rows=[(1, 1, "café", 300.), (1, 2, "noir", 310.)]), encoding="latin-1")
    with pytest.raises(InputError, match="neither UTF-8 nor UTF-16.*name its encoding"): open_data(str(path))
    assert open_data(str(path), table=t.TableConfig(encoding="latin-1")).word == ["café", "noir"]
    with pytest.raises(InputError, match="encoding is 'klingon'"):
        open_data(str(path), table=t.TableConfig(encoding="klingon"))
    with pytest.raises(InputError, match="NUL characters.*utf-16-le"):
        open_data(str(written(tmp_path, lines("\t"), "a.tsv", "utf-16-le")))
    assert open_data(str(tmp_path / "a.tsv"), table=t.TableConfig(encoding="utf-16-le")).word == WORDS
    for bad in (dict(unit="min"), dict(decimal=";")):
        with pytest.raises(InputError, match=next(iter(bad))): t.TableConfig(**bad)


def test_tuckutes_table_in_other_spellings(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for uid in ("848", "865"):
        rows += [(round(float(rng.normal()), 3), roi, uid, f"B.{i}", s, "B")
                 for i, s in enumerate(("One two.", "None.")) for roi in TUCKUTE_ROIS]
    head = "response_target{0}roi{0}target_UID{0}item_id{0}sentence{0}cond"
    plain = tuckute2024(written(tmp_path, lines(head=head, rows=rows)))
    for text, encoding in ((lines(";", head.upper(), rows, "\r\n", ","), "utf-8-sig"),
                           (lines("\t", head.replace("_", " "), rows, cell="{} "), "utf-16")):
        path = written(tmp_path, text, "theirs.CSV", encoding)
        other = open_data(str(path))
        assert np.array_equal(other.data, plain.data) and other.name == "theirs"
        assert [p.text for p in other.passages] == ["One two.", "None."]


EVENTS = [(1.0, .3, "the"), (2.171, .3, "cat"), (3.342, .3, "null"), (4.513, .3, "on")]


def test_events_in_other_spellings(tmp_path):
    head = "onset{0}duration{0}word"
    ends = [(a, round(a + b, 3), w) for a, b, w in EVENTS]
    for text, name, encoding in ((lines("\t", head, EVENTS), "e.tsv", "utf-8"),
                                 (lines(";", head, EVENTS, decimal=","), "e.csv", "utf-8-sig"),
                                 (lines("\t", "Onset{0} Duration{0}Word", EVENTS, "\r\n"), "e.TSV", "utf-16"),
                                 (lines(",", "start{0}end{0}token", ends), "e.csv", "utf-8")):
        words, on, off, notes = read_events(written(tmp_path, text, name, encoding), "run 1")
        assert words == ["the", "cat", "null", "on"] and np.allclose(on, [r[0] for r in EVENTS]), text
        assert np.allclose(off - on, .3) and ("onset = 'start'" in "".join(notes)) == ("start" in text)
    with pytest.raises(InputError, match="several columns that may be its onset: start, begin"):
        read_events(written(tmp_path, "start,begin,word\n1,1,a\n"), "run 1")
    assert read_events(written(tmp_path, "start,begin,word\n1,2,a\n"), "run 1", columns=dict(onset="begin"))[1] == [2]


def test_durations_of_none_are_impulses(tmp_path):
    def read(*durations): return read_events(written(tmp_path, lines(
        "\t", "onset{0}duration{0}word", [(r[0], d, r[2]) for r, d in zip(EVENTS, durations)])), "run 1")
    assert read(0, 0, 0, 0)[2] is None and read(*["n/a"] * 4)[2] is None and read(0, "n/a", 0, 0)[2] is None
    words, on, off, notes = read("n/a", .3, 0, .3)
    assert np.allclose(off - on, [0, .3, 0, .3]) and "2 of 4 words have no duration" in notes[-1]
    with pytest.raises(InputError, match="row 2 lasts -0.3 s"): read(.3, -.3, .3, .3)


def test_an_impulse_falls_into_the_scan_of_its_onset():
    from evonb.alignment.scans import to_scans
    on, values = np.array([0., .5, 2., 3.9]), np.arange(1., 5)[:, None]
    for how in ("sum", "average", "lanczos"):
        assert np.allclose(to_scans(values, on, 3, 2., how, on), to_scans(values, on, 3, 2., how)), how
    mixed = to_scans(values, on, 3, 2., "sum", on + np.array([0, 3, 0, 0]))
    assert np.allclose(mixed[:, 0], [1 + 2 * .5, 3 + 4 + 2 * .5, 0])


def test_labels_that_are_missing_are_called_by_their_number(tmp_path):
    path = written(tmp_path, "index\tname\n1\tA\n7\tn/a\n42\tC\n", "labels.tsv")
    assert label_names(path, [1, 7, 42]) == ["A", "label 7", "C"]
    assert label_names({1: "A", 7: None, 42: " C "}, [1, 7, 42]) == ["A", "label 7", "C"]


HEAD = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n'
SHORT = (HEAD + '2\n"IntervalTier"\n"phones"\n0\n2\n1\n0\n2\n'
         '"x"\n"IntervalTier"\n"Words"\n0\n2\n3\n0\n0.4\n""\n0.4\n0.9\n"say ""null"""\n0.9\n2\n"cat"\n')


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_textgrid_gives_events(tmp_path, encoding):
    path = written(tmp_path, SHORT, "run1.TextGrid", encoding)
    words, on, off, _ = read_events(path, "run 1")
    assert words == ['say "null"', "cat"] and on.tolist() == [.4, .9] and off.tolist() == [.9, 2]
    with pytest.raises(InputError, match="tier is 'words'"): read_events(path, "run 1", tier="words")
    points = HEAD + '1\n"TextTier"\n"w"\n0\n2\n2\n0.5\n"a"\n1.5\n"b"\n'
    words, on, off, _ = read_events(written(tmp_path, points, "p.TextGrid"), "run 1")
    assert words == ["a", "b"] and on.tolist() == [.5, 1.5] and off is None
