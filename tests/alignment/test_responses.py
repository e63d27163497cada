"Responses: every bad input by its message; Alice's clock by the published predictors; the toy brain by its truth."

import csv
import html
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from evonb.alignment.responses import Responses, design, nuisance_design, varying_targets
from evonb.alignment.scans import convolved, delayed, to_scans
from evonb.alignment.sources.alice import ALICE_ROIS, alice, punctuated, read_textgrid, spoken_words
from evonb.alignment.sources.toy_brain import ToyBrainConfig, toy_brain, toy_story, word_vectors
from evonb.alignment.sources.tuckute2024 import TUCKUTE_ROIS, tuckute2024
from evonb.core import InputError, Seeds
from evonb.datasets import MissingCorpusError
from evonb.text.passages import join_words, locate_words

pytestmark = pytest.mark.numerics

# --- the class ------------------------------------------------------------------------------------------------------


def small(**changes):
    "Two runs of five scans with three words each; two targets."
    rng = Seeds(0).child("small").numpy()
    table = pd.DataFrame(dict(target=["a", "b"], roi=["LIFG", "LATL"], subject=["s1", "s2"], x=1., y=2., z=np.nan))
    parts = dict(name="small", kind="series", data=rng.standard_normal((10, 2)), targets=table,
                 groups=np.repeat(["run 1", "run 2"], 5), onsets=[[0, .4, 1.], [.2, .6, 3.]], tr=2.,
                 passages=[join_words("run 1", "the dog barked".split()), join_words("run 2", "a cat slept".split())],
                 nuisance=dict(rate=np.arange(10.), drift=np.ones((10, 2))), as_is=("drift",),
                 subject_nuisance=dict(s1=np.ones((10, 6)), s2=np.zeros((10, 6))))
    return Responses(**parts | changes)


def spoilt(value):
    data = small().data.copy()
    data[3, 1] = value
    return data


TABLE = small().targets


@pytest.mark.parametrize("changes, match", [
    (dict(kind="scan"), "kind is 'scan'.*series, items"),
    (dict(data=np.ones(10)), r"data has shape \(10,\)"),
    (dict(data=np.ones((1, 2))), "two samples or more"),
    (dict(data=np.ones((10, 2))), "2 of 2 targets are constant: a, b"),
    (dict(data=spoilt(np.nan)), "1 of 2 targets are NaN or infinite: b"),
    (dict(data=spoilt(np.inf)), "1 of 2 targets are NaN or infinite: b"),
    (dict(targets=TABLE.drop(columns="z")), "lacks the column 'z'"),
    (dict(targets=TABLE[:1]), "1 targets are named, but data has 2 columns"),
    (dict(targets=TABLE.assign(target="a")), "the target 'a' is named twice"),
    (dict(groups=np.repeat(["run 1", "run 2"], 4)), r"groups has shape \(8,\)"),
    (dict(groups=np.array(["run 1", "run 2"] * 5)), "the group 'run 1' comes back"),
    (dict(groups=np.repeat("run", 10)), "2 passages for 1 runs"),
    (dict(onsets=None), "give onsets.*2 runs"),
    (dict(onsets=[[0, .4, 1.]]), "give onsets"),
    (dict(onsets=[[0, .4], [.2, .6, 3.]]), "run 1: 2 onsets for 3 words"),
    (dict(onsets=[[0, .4, 1.], [.6, .2, 3.]]), r"run 2: word 2 \('cat'\) begins at 0.2 s, before the word"),
    (dict(onsets=[[0, .4, 10.], [.2, .6, 3.]]), r"run 1: word 3 \('barked'\) begins at 10 s, but the 5 scans end"),
    (dict(onsets=[[-1, .4, 1.], [.2, .6, 3.]]), r"run 1: word 1 \('the'\) begins at -1 s, before the first scan"),
    (dict(tr=None), "tr is None"),
    (dict(tr=0), "tr is 0"),
    (dict(offsets=[[.1, .5, 2.]]), "offsets must hold as many"),
    (dict(offsets=[[.1, .5, 2.], [.3, .5, 4.]]), "run 2: word 2 begins at 0.6 s and ends at 0.5 s"),
    (dict(nuisance=dict(rate=np.ones(9)), as_is=()), r"nuisance 'rate' has shape \(9, 1\).*\(10, k\)"),
    (dict(nuisance=dict(rate=np.full(10, np.nan)), as_is=()), "nuisance 'rate'.*all finite"),
    (dict(subject_nuisance=dict(s1=np.ones((9, 6)))), r"subject nuisance 's1' has shape \(9, 6\)"),
    (dict(as_is=("pupil",)), "as_is names 'pupil'"),
    (dict(kind="items"), "2 passages for 10 items"),
    (dict(kind="items", passages=small().passages * 5), "items have neither onsets nor a tr"),
])
def test_bad_responses(changes, match):
    with pytest.raises(InputError, match=match): small(**changes)


def test_words_that_do_not_match_the_text():
    with pytest.raises(InputError, match="'cat'.*the text goes on with"):
        small(passages=[locate_words("run 1", "the dog barked", ["the", "cat", "barked"]), small().passages[1]])


def test_what_it_says_of_itself():
    r = small(name="<b>", notes=["a <script>"])
    assert repr(small()) == ("Responses('small': 10 scans (TR 2 s) in 2 runs x 2 targets of 2 subjects and 2 regions; "
                             "6 words)")
    shown = r._repr_html_()
    assert "<b>" not in shown and "<script>" not in shown and html.escape("a <script>") in shown
    assert r.subjects == ["s1", "s2"] and r.rois == ["LIFG", "LATL"] and r.n_words == 6
    assert [(label, s.start, s.stop) for label, s in r.runs] == [("run 1", 0, 5), ("run 2", 5, 10)]
    assert r.data.dtype == np.float32


def test_select():
    one = small().select(subjects=["s2"])
    assert one.targets["target"].tolist() == ["b"] and list(one.subject_nuisance) == ["s2"]
    np.testing.assert_array_equal(one.data, small().data[:, 1:])
    assert small().select("LIFG").data.shape == (10, 1) and small().select().data.shape == (10, 2)
    with pytest.raises(InputError, match="roi is 'V1'.*LIFG, LATL"): small().select("V1")
    with pytest.raises(InputError, match="no target is of LIFG and of s2"): small().select("LIFG", "s2")


# --- designs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["average", "sum", "lanczos"])
def test_design_is_each_run_by_itself(how):
    values = Seeds(1).child("values").numpy().standard_normal((6, 3))
    r = small()
    want = np.concatenate([delayed(to_scans(values[3 * i:3 * i + 3], r.onsets[i], 5, 2., how), (1, 3)) for i in (0, 1)])
    np.testing.assert_allclose(design(r, values, how, (1, 3)), want)
    assert design(r, values, how, None).shape == (10, 3)
    assert design(r, values[:, 0], how, (0,)).shape == (10, 1)
    later = values.copy()
    later[:3] += 1  # the first run's words
    np.testing.assert_array_equal(design(r, later, how, (1, 3))[5:], want[5:])


def test_design_lanczos_takes_the_middle_of_a_word():
    with_ends = small(offsets=[[.4, 1., 4.], [.6, 3., 3.5]])
    got = design(with_ends, np.ones(6), "lanczos", None)[:5, 0]
    want = to_scans(np.ones(3), with_ends.onsets[0], 5, 2., "lanczos", with_ends.offsets[0])
    np.testing.assert_allclose(got, want)
    assert np.abs(got - design(small(), np.ones(6), "lanczos", None)[:5, 0]).max() > .01


def test_design_convolves_at_onsets_or_after():
    r, values = small(), np.arange(6.)
    at = np.concatenate([convolved(values[3 * i:3 * i + 3], 2., "spm", r.onsets[i], 5) for i in (0, 1)])
    np.testing.assert_array_equal(design(r, values, "sum", hrf="spm"), at)
    after = convolved(to_scans(values[:3], r.onsets[0], 5, 2.), 2., "spm")
    np.testing.assert_allclose(design(r, values, "average", hrf="spm")[:5], after)


@pytest.mark.parametrize("values", [np.ones((7, 2)), np.ones((5, 2)), np.ones((6, 2, 2)), 3.])
def test_a_wrong_number_of_features(values):
    with pytest.raises(InputError, match="the features have shape.*6 words"): design(small(), values)


def test_nuisance_design():
    got = nuisance_design(small(), delays=(0, 1))
    assert got["rate"].tolist()[4:7] == [[4, 3], [5, 0], [6, 5]]
    np.testing.assert_array_equal(got["drift"], np.ones((10, 2)))
    assert list(nuisance_design(small(), "drift")) == ["drift"]
    np.testing.assert_array_equal(nuisance_design(small(), delays=None)["rate"], np.arange(10.)[:, None])
    want = np.concatenate([convolved(np.arange(5.), 2., "glover"), convolved(np.arange(5., 10), 2., "glover")])
    np.testing.assert_allclose(nuisance_design(small(), hrf="glover")["rate"], want)
    with pytest.raises(InputError, match="nuisance is 'pupil'.*rate, drift"): nuisance_design(small(), ["pupil"])


# --- TextGrids ------------------------------------------------------------------------------------------------------

SHORT = '''File type = "ooTextFile"
Object class = "TextGrid"

0
2
<exists>
2
"IntervalTier"
"word"
0
2
3
0
0.5
"sp"
0.5
1
"say ""3 4"" – now"
1
2
"done "
"TextTier"
"clicks"
0
2
1
1.5
"click"
'''
LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "word"
        xmin = 0
        xmax = 2
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "sp"
        intervals [2]:
            xmin = 0.5
            xmax = 1
            text = "say ""3 4"" – now"
        intervals [3]:
            xmin = 1
            xmax = 2
            text = "done "
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 2
        points: size = 1
        points [1]:
            number = 1.5
            mark = "click"
'''


@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_textgrid(tmp_path, text, encoding):
    path = tmp_path / "a.TextGrid"
    path.write_text(text, encoding=encoding)
    assert read_textgrid(path) == dict(word=[(0, .5, "sp"), (.5, 1, 'say "3 4" – now'), (1, 2, "done ")],
                                       clicks=[(1.5, 1.5, "click")])
    words, onsets, offsets = spoken_words(path, "word", start=.25)
    assert words == ['say "3 4" – now', "done"] and onsets.tolist() == [.25, .75] and offsets.tolist() == [.75, 1.75]


def test_bad_textgrids(tmp_path):
    path = tmp_path / "b.TextGrid"
    with pytest.raises(MissingCorpusError, match="b.TextGrid isn't a file"): read_textgrid(path)
    for text, match in ((LONG[:-120], "ends too early"), ("hello", "ends too early"),
                        (LONG.replace('"TextGrid"', '"PitchTier"'), "its head is another one"),
                        (LONG.replace("xmin = 0.5", 'xmin = "x"'), "isn't a TextGrid")):
        path.write_text(text)
        with pytest.raises(InputError, match=match): read_textgrid(path)
    path.write_text(LONG)
    assert spoken_words(path)[0] == spoken_words(path, "word")[0]  # the only tier of that name
    path.write_text(LONG.replace('"word"', '"phones"'))
    with pytest.raises(InputError, match="has the tiers phones, clicks"): spoken_words(path)
    path.write_text(LONG)
    with pytest.raises(InputError, match="tier is 'phone'"): spoken_words(path, "phone")
    path.write_text(LONG.replace('say ""3 4"" – now', "sp").replace("done ", ""))
    with pytest.raises(InputError, match="has no words"): spoken_words(path, "word")
    path.write_bytes(b"\xff\x00\xfa")
    with pytest.raises(InputError, match="neither UTF-8 nor UTF-16"): read_textgrid(path)


# --- spoken words and their book ------------------------------------------------------------------------------------

BOOK = """
   *    *    *

'Well!' thought Alice (she'd never--ever--fallen), 'I daren't!
The daisy-chain's heavy.' So she said 'no'.
"""


def spoken(text): return punctuated("p", text.split(), BOOK)


def test_punctuation_and_case_are_the_books():
    passage, told = spoken("well thought alice she 'd never ever fallen I dare n't the daisy chain 's heavy so she "
                           "said no")
    assert passage.text == ("'Well!' thought Alice (she'd never--ever--fallen), 'I daren't! The daisy-chain's heavy.' "
                            "So she said 'no'.")
    assert passage.words == ["'Well!'", "thought", "Alice", "(she", "'d", "never--", "ever--", "fallen),", "'I", "dare",
                             "n't!", "The", "daisy-", "chain", "'s", "heavy.'", "So", "she", "said", "'no'."]
    assert told == ["20 of 20 spoken words are the book's; where they differ, the spoken word stands."]


def test_differences_are_named_and_no_word_is_lost():
    words = "well thought Alice um she never ever fell I dare n't the daisy chain 's very heavy".split()
    passage, told = punctuated("p", words, BOOK)
    assert len(passage.words) == len(words)
    assert [w.strip("'!(),.-").lower() for w in passage.words] == [w.strip("'").lower() for w in words]
    assert "".join(passage.words) == passage.text.replace(" ", "")  # every character belongs to a word
    assert passage.words[7] == "fell),"  # the punctuation around a word that was read otherwise stays
    joined = " ".join(told)
    assert "13 of 17" in joined and "'fell' for 'fallen'" in joined
    assert "'um she' for \"she'd\"" in joined and "Spoken, but not printed there: 'very'" in joined
    assert "goes on for 4 words" in joined


def test_the_wrong_book():
    with pytest.raises(InputError, match="only 0 of 4 spoken words are in the book"): spoken("quite other words here")
    with pytest.raises(InputError, match="no words to align: 0 spoken"): spoken("")
    with pytest.raises(InputError, match="0 printed"): punctuated("p", ["a"], " * * ")


# --- Alice ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alice_folder(data_folder):
    if not (folder := data_folder / "alice_fmri").is_dir(): pytest.skip(f"no alice_fmri in {data_folder}")
    return folder


@pytest.fixture(scope="module")
def heard(alice_folder): return alice(alice_folder)


def test_alice_is_as_published(heard):
    assert heard.data.shape == (362, 162) and heard.tr == 2. and heard.kind == "series" and heard.illustrative
    assert len(heard.subjects) == 27 and "s33" not in heard.subjects and heard.rois == list(ALICE_ROIS)
    assert heard.n_words == 2127 and len(heard.onsets[0]) == len(heard.offsets[0]) == 2127
    assert heard.targets["target"].tolist()[:2] == ["s18 LATL", "s18 RATL"]
    assert set(heard.subject_nuisance) == set(heard.subjects)
    assert {k: v.shape for k, v in heard.subject_nuisance.items()} == dict.fromkeys(heard.subjects, (362, 6))


def test_alice_columns_are_the_files(heard, alice_folder):
    table = np.loadtxt(alice_folder / "6mm" / "s45-timecourses.txt")
    np.testing.assert_allclose(heard.select(subjects="s45").data, table, rtol=1e-6)
    movement = np.loadtxt(next(alice_folder.glob("s45-rp_*")))[10:]
    np.testing.assert_allclose(heard.subject_nuisance["s45"], movement / movement.std(0))
    np.testing.assert_allclose(heard.nuisance["word rate"].std(), 1)
    power = np.loadtxt(alice_folder / "s45-sndpwr.txt")
    assert np.corrcoef(power, heard.nuisance["sound power"][:, 0])[0, 1] > .9999
    assert heard.nuisance["word count"].sum() == 2127  # no word falls outside of the scans


def shifted_correlations(published, onsets, shifts):
    "Correlation of a published word rate with ours, convolved, when all onsets are shifted by so many seconds."
    out = {}
    for s in shifts:
        moved = onsets + s
        kept = moved[(moved >= 0) & (moved < 724)]
        out[s] = np.corrcoef(published, convolved(np.ones(len(kept)), 2., "spm", kept, 362)[:, 0])[0, 1]
    return out


def test_alice_clock_by_each_persons_rate_file(heard, alice_folder):
    files = sorted(alice_folder.glob("s*-rate.txt"))
    assert len(files) == 28
    for path in files:
        r = shifted_correlations(np.loadtxt(path), heard.onsets[0], (-4, -2, 0, 2, 4))
        assert r[0] > .98 and max(r[-2], r[2]) < .9 and max(r[-4], r[4]) < .6


def test_alice_clock_to_half_a_second(heard):
    r = shifted_correlations(heard.nuisance["word rate"][:, 0], heard.onsets[0], (-1, -.5, 0, .5, 1))
    assert max(r, key=r.get) == 0 and r[0] > .985 and r[-1] < r[-.5] < r[0] > r[.5] > r[1]


def test_alice_clock_by_the_generic_predictors(heard, alice_folder):
    "These still have the ten first rows: row k is scan k of the TextGrid's clock."
    rate = np.loadtxt(alice_folder / "sept18-generic-predictors-under-hrf-with-logfrqhal.txt")[:, 0]
    assert len(rate) == 372 and abs(rate[:10]).max() < 1e-6 < rate.max()  # silence
    r = shifted_correlations(rate[10:], heard.onsets[0], (-2, 0, 2))
    assert r[0] > .98 and max(r[-2], r[2]) < .9


def test_alice_text(heard, alice_folder):
    passage = heard.passages[0]
    assert passage.text.startswith("Alice was beginning to get very tired of sitting by her sister on the bank, and")
    assert "'and what's the use of a book,' thought Alice 'without pictures or conversation?'" in passage.text
    bare = alice(alice_folder, text="spoken").passages[0]
    assert bare.text.startswith("Alice was beginning to get very tired of sitting by her sister on the bank and")
    letters = lambda words: ["".join(c for c in w.lower() if c.isalpha()) for w in words]
    assert letters(passage.words) == letters(bare.words)  # not a word changed, dropped or added
    words = spoken_words(next(alice_folder.glob("*.TextGrid")), start=20)
    assert letters(words[0]) == letters(passage.words) and words[1].tolist() == heard.onsets[0].tolist()
    assert "".join(passage.words) == passage.text.replace(" ", "")


def test_alice_notes_tell_all(heard):
    notes = " ".join(heard.notes)
    for part in ("s33 is excluded: all its time courses are constant", "sound power in s33's file differs",
                 "list of excluded pairs of person and region isn't in the data", "2,106 of 2,127 spoken words",
                 "'happpens' for 'happens'", "first 10 volumes aren't in the data", "illustrative"):
        assert part in notes


@pytest.fixture
def copied(alice_folder, tmp_path):
    "A folder with the files of two people, to spoil."
    (tmp_path / "6mm").mkdir()
    for name in ("s18", "s22"):
        for f in [*alice_folder.glob(f"{name}-*"), alice_folder / "6mm" / f"{name}-timecourses.txt"]:
            shutil.copyfile(f, tmp_path / f.relative_to(alice_folder))
    for f in (*alice_folder.glob("*.TextGrid"), alice_folder / "alice-gutenberg.txt"):
        shutil.copyfile(f, tmp_path / f.name)
    return tmp_path


@pytest.mark.parametrize("pattern, match", [
    ("s22-rp_*", "head movement of s22: no file s22-rp_"), ("s22-sndpwr.txt", "sound power of s22"),
    ("s22-rate.txt", "word rate of s22"), ("6mm/s22-*", "time courses of s22: no file s22-timecourses.txt"),
    ("*.TextGrid", "the word onsets: no file"), ("alice-gutenberg.txt", "the book: no file"),
])
def test_a_missing_file_is_named_with_its_person(copied, pattern, match):
    next(copied.glob(pattern)).unlink()
    with pytest.raises(MissingCorpusError, match=match): alice(copied)


def test_alice_elsewhere(copied):
    with pytest.raises(MissingCorpusError, match="has no folder 10mm"): alice(copied, radius=10)
    with pytest.raises(InputError, match="text is 'audio'"): alice(copied, text="audio")
    (copied / "s22-rp_second.txt").write_text("0")
    with pytest.raises(MissingCorpusError, match="head movement of s22: 2 files"): alice(copied)
    for f in copied.glob("*s*"):
        if f.is_file(): f.unlink()
    for f in copied.glob("6mm/*"): f.unlink()
    with pytest.raises(MissingCorpusError, match="has no files of people"): alice(copied)


def spoil(path, change):
    table = np.loadtxt(path, ndmin=2)
    np.savetxt(path, change(table))


def constant(t): t[:, 2] = 7.; return t


def holed(t): t[5, 1] = np.nan; return t


@pytest.mark.parametrize("pattern, change, note, n_targets", [
    ("6mm/s22-*", constant, "s22 LPTL is excluded: constant", 11),
    ("6mm/s22-*", holed, "s22 RATL is excluded: not finite", 11),
    ("6mm/s22-*", lambda t: t[:-1], r"s22 is excluded: its data has shape \(361, 6\)", 6),
    ("s22-rp_*", lambda t: t[10:], r"s22 is excluded: its movement has shape \(362, 6\) rather than \(372, 6\)", 6),
    ("s22-rp_*", holed, "s22 is excluded: its movement isn't finite", 6),
    ("s22-rate.txt", lambda t: t[:-5], r"s22 is excluded: its rate has shape \(357, 1\)", 6),
])
def test_exclusions_are_made_and_noted(copied, pattern, change, note, n_targets):
    spoil(next(copied.glob(pattern)), change)
    left = alice(copied)
    assert left.data.shape[1] == n_targets
    assert re.search(note, " ".join(left.notes))
    assert set(left.subject_nuisance) == set(left.subjects)


def test_a_table_that_is_none(copied):
    (copied / "s22-rate.txt").write_text("0.1\nabc\n")
    with pytest.raises(InputError, match="s22-rate.txt isn't a table of numbers"): alice(copied)


def test_nothing_left(copied):
    for f in copied.glob("6mm/*"): spoil(f, np.zeros_like)
    with pytest.raises(InputError, match="no time course of Alice can be used: s18 is excluded"): alice(copied)


# --- Tuckute2024 ----------------------------------------------------------------------------------------------------

SENTENCES = ["Taste that fowl, and those fish.", 'He said "no" to us, twice.', "None", "They can't go.",
             "It’s so, isn't it?"]
PEOPLE = ("848", "853", "865", "797")


def published(path, missing=(), extra=(), drop=None):
    "A table in the published format; `missing` are (participant, item) without rows."
    rng = Seeds(0).child("tuckute").numpy()
    columns = ["response_target", "roi", "target_UID", "item_id", "sentence", "cond", "cond_approach"]
    rows = [[repr(float(rng.normal())), roi, uid, f"B.{i}", s, "D" if i == 4 else "B", "B"]
            for uid in PEOPLE for i, s in enumerate(SENTENCES) for roi in (*TUCKUTE_ROIS, "lang_LH_netw")]
    rows = [r for r in rows if (r[2], r[3]) not in missing] + [list(r) for r in extra]
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow([c for c in columns if c != drop])
        writer.writerows([v for c, v in zip(columns, r) if c != drop] for r in rows)
    return path, pd.DataFrame(rows, columns=columns).assign(response_target=[float(r[0] or "nan") for r in rows])


def test_tuckute_average(tmp_path):
    path, table = published(tmp_path / "t.csv", missing={("797", "B.0"), ("797", "B.1"), ("865", "B.0")})
    r = tuckute2024(path)
    assert r.kind == "items" and r.data.shape == (4, 5) and r.rois == list(TUCKUTE_ROIS) and r.illustrative
    assert [p.text for p in r.passages] == SENTENCES[:4] and r.passages[1].words[2] == '"no"'
    assert sorted(r.groups) == ["B.0", "B.1", "B.2", "B.3"]
    for i, item in enumerate(r.groups):
        for j, roi in enumerate(r.rois):
            cell = table[(table["item_id"] == item) & (table["roi"] == roi)]["response_target"]
            np.testing.assert_allclose(r.data[i, j], cell.mean(), rtol=1e-5)
    assert any("Averaged over 2 to 4 participants a cell" in n for n in r.notes)
    assert r.nuisance["length"].tolist()[1] == [6, sum(c.isalpha() for c in SENTENCES[1])]


def test_tuckute_each_and_its_rule(tmp_path):
    missing = {("797", "B.0"), ("797", "B.1"), ("797", "B.2"), ("865", "B.3")}
    path, table = published(tmp_path / "t.csv", missing=missing)
    r = tuckute2024(path, "each")
    assert r.data.shape == (3, 15) and r.subjects == ["848", "853", "865"]
    assert "Participant 797 is left out: only 25% of the sentences." in r.notes
    assert "1 sentence left out: not seen by all who are kept." in r.notes
    row = table[(table["target_UID"] == "853") & (table["item_id"] == "B.2") & (table["roi"] == "lang_LH_MFG")]
    where = r.targets.index[r.targets["target"] == "853 lang_LH_MFG"][0]
    np.testing.assert_allclose(r.data[2, where], row["response_target"].iloc[0], rtol=1e-6)


def test_tuckute_filters(tmp_path):
    path, _ = published(tmp_path / "t.csv")
    assert tuckute2024(path, cond=None).data.shape == (5, 5)
    assert tuckute2024(path, rois=None).rois[-1] == "lang_LH_netw"
    assert np.isnan(tuckute2024(path, rois="lang_LH_netw").targets["x"]).all()
    assert tuckute2024(path, "each", who=[848, 797], rois=["lang_LH_MFG"]).targets["target"].tolist() == [
        "848 lang_LH_MFG", "797 lang_LH_MFG"]
    for wrong, match in ((dict(cond="Z"), "cond is 'Z'.*B, D"), (dict(rois="V1"), "roi is 'V1'"),
                         (dict(who=1), "target_UID is '1'"), (dict(cond="D"), "only 1 sentences are left"),
                         (dict(participants="all"), "participants is 'all'.*average, each")):
        with pytest.raises(InputError, match=match): tuckute2024(path, **wrong)


def test_tuckute_missing_responses(tmp_path):
    extra = [["", roi, u, "B.9", "A new one.", "B", "B"] for u in PEOPLE for roi in TUCKUTE_ROIS]
    path, _ = published(tmp_path / "t.csv", extra=extra)
    r = tuckute2024(path)
    assert r.data.shape == (4, 5) and "B.9" not in r.groups
    assert any("20 of 100 rows have no response" in n for n in r.notes)


def test_tuckute_bad_files(tmp_path):
    path = tmp_path / "t.csv"
    with pytest.raises(MissingCorpusError, match="t.csv isn't a file"): tuckute2024(path)
    for column in ("response_target", "roi", "target_UID", "item_id", "sentence", "cond"):
        published(path, drop=column)
        with pytest.raises(InputError, match=f"lacks the column '{column}'"): tuckute2024(path)
    for extra, match in (
            ([".1", "lang_LH_MFG", "848", "B.1", SENTENCES[1], "B", "B"], r"two rows.*\(848, lang_LH_MFG, B.1\)"),
            ([".1", "lang_LH_MFG", "999", "B.1", "Another.", "B", "B"], "the item 'B.1' has several sentences"),
            ([".1", "lang_LH_MFG", "999", "B.1", "", "B", "B"], "line 122 has a blank")):
        published(path, extra=[extra])
        with pytest.raises(InputError, match=match): tuckute2024(path)
    text = published(path)[0].read_text(encoding="utf-8")
    path.write_text(text.replace("lang_LH_MFG", "x", 1) + "many,lang_LH_MFG,9,B.1,s,B,B\n", encoding="utf-8")
    with pytest.raises(InputError, match="response_target is 'many' in row 121"): tuckute2024(path)


# --- the toy brain --------------------------------------------------------------------------------------------------


def fit(X, y):
    "Least squares with a constant, without the constant's weight; and the prediction."
    X = np.c_[X, np.ones(len(X))]
    w = np.linalg.lstsq(X, y, rcond=None)[0]
    return w[:-1], X @ w


def test_toy_brain_is_bitwise_repeatable():
    (a, ta), (b, tb), (c, _) = (toy_brain(Seeds(s), n_sentences=40, n_runs=2) for s in (4, 4, 5))
    assert a.data.tobytes() == b.data.tobytes() and ta.weights.tobytes() == tb.weights.tobytes()
    assert [p.text for p in a.passages] == [p.text for p in b.passages] and a.onsets[1].tolist() == b.onsets[1].tolist()
    assert [p.text for p in a.passages] != [p.text for p in c.passages]


@pytest.mark.parametrize("settings", [dict(), dict(kind="items"), dict(hrf="spm"), dict(ceiling=(.1, .3, .6, .9)),
                                      dict(delays=(0, 2, 4, 5), autocorrelation=.8)], ids=str)
def test_ceiling_is_exact(settings):
    brain, truth = toy_brain(Seeds(2), n_sentences=120, **settings)
    for t in range(8):
        r = np.corrcoef(truth.signal[:, t], brain.data[:, t])[0, 1]
        np.testing.assert_allclose(r, truth.expected_r[t], atol=1e-6)
        np.testing.assert_allclose(truth.signal[:, t].var() / brain.data[:, t].astype(float).var(), truth.ceiling[t],
                                   rtol=1e-5)
    assert truth.expected_r.tolist() == np.sqrt(truth.ceiling).tolist()
    if "ceiling" in settings: assert truth.ceiling.tolist() == [.1, .3, .6, .9] * 2


@pytest.mark.parametrize("settings", [dict(), dict(hrf="glover"), dict(delays=(0, 3))], ids=str)
def test_design_times_true_weights_is_the_signal(settings):
    brain, truth = toy_brain(Seeds(2), n_sentences=60, **settings)
    delays = truth.config.delays
    X = design(brain, truth.features, "sum", delays, truth.config.hrf)
    T = design(brain, truth.trivial_features, "sum", delays, truth.config.hrf)
    trivial = (truth.response[:, None, None] * truth.trivial_weights).reshape(-1, 8)
    np.testing.assert_allclose(X @ truth.fir() + T @ trivial, truth.signal, atol=1e-10)
    assert (truth.weights[:, truth.trivial] == 0).all() and (truth.trivial_weights[:, ~truth.trivial] == 0).all()
    assert truth.trivial.tolist() == [False, False, False, True] * 2


def test_recovery_of_weights_and_delays():
    brain, truth = toy_brain(Seeds(7), n_sentences=500, ceiling=.6, delays=(1, 2, 3, 4))
    X = design(brain, truth.features, "sum", (0, 1, 2, 3, 4, 5))
    for t in np.flatnonzero(~truth.trivial):
        found = fit(X, brain.data[:, t])[0].reshape(6, 8)  # delay x feature
        response = found @ truth.weights[:, t] / (truth.weights[:, t] @ truth.weights[:, t])
        np.testing.assert_allclose(response, [0, *truth.response, 0], atol=.15)
        direction = truth.response @ found[1:5]
        cosine = direction @ truth.weights[:, t] / np.linalg.norm(direction) / np.linalg.norm(truth.weights[:, t])
        assert cosine > .97


def test_trivial_targets_answer_to_trivial_features_only():
    brain, truth = toy_brain(Seeds(8), n_sentences=600, ceiling=.5, trivial=2)
    T = np.concatenate([*nuisance_design(brain, delays=(1, 2, 3)).values()], 1)
    X = design(brain, truth.features, "sum", (1, 2, 3))
    half = len(T) // 2
    for t in range(8):
        y = brain.data[:, t]
        r = [np.corrcoef(np.c_[F[half:], np.ones(len(F) - half)] @ np.r_[fit(F[:half], y[:half])[0], 0], y[half:])[0, 1]
             for F in (T, X)]
        if truth.trivial[t]: assert r[0] > .6 and r[1] < .25
        else: assert r[0] < .25 and r[1] > .55


@pytest.mark.parametrize("phi", [0., .3, .7])
def test_noise_has_its_autocorrelation(phi):
    brain, truth = toy_brain(Seeds(9), n_sentences=900, n_runs=1, autocorrelation=phi, ceiling=.2, n_subjects=6)
    noise = brain.data - truth.signal
    noise = noise - noise.mean(0)
    r = [(noise[1:, t] * noise[:-1, t]).sum() / (noise[:, t]**2).sum() for t in range(noise.shape[1])]
    assert abs(np.mean(r) - phi) < .02
    between = np.corrcoef(noise.T)[np.triu_indices(noise.shape[1], 1)]
    assert abs(between.mean()) < .02  # people and regions share no noise


def test_people_share_the_signal():
    brain, truth = toy_brain(Seeds(9), n_sentences=60, n_subjects=3)
    np.testing.assert_array_equal(truth.signal[:, :4], truth.signal[:, 8:])
    assert brain.subjects == ["s1", "s2", "s3"] and len(brain.rois) == 4 and brain.illustrative


def test_own_features_and_the_story():
    runs, onsets, offsets = toy_story(Seeds(3), 40, 2)
    words = [w for run in runs for s in run for w in s.split()]
    mine = np.array([[len(w), w.count("e")] for w in words], float)
    brain, truth = toy_brain(Seeds(3), n_sentences=40, n_runs=2, features=mine, trivial=0)
    assert [w for p in brain.passages for w in p.words] == words and truth.features.tolist() == mine.tolist()
    for a, b, c in zip(onsets, offsets, brain.onsets):
        assert (a == c).all() and (b > a).all() and (a[1:] >= b[:-1] - 1e-9).all()
    shared = fit(design(brain, mine, "sum", (1, 2, 3)), truth.signal[:, 0])[1]
    np.testing.assert_allclose(shared, truth.signal[:, 0], atol=1e-8)


def test_word_vectors_belong_to_the_form():
    v = word_vectors(["The", "dog,", "the", "dogs"], 50, Seeds(0))
    assert (v[0] == v[2]).all() and not np.isclose(v[1], v[3]).any()
    assert (word_vectors(["dog"], 50, Seeds(0))[0] == v[1]).all()  # whatever the text around
    assert not (word_vectors(["dog"], 50, Seeds(1))[0] == v[1]).any()


def test_items_of_a_toy_brain():
    brain, truth = toy_brain(Seeds(3), kind="items", n_sentences=50)
    assert brain.data.shape == (50, 8) and len(brain.passages) == 50 and brain.tr is None
    want = truth.features @ truth.weights + truth.trivial_features @ truth.trivial_weights
    np.testing.assert_allclose(want, truth.signal, atol=1e-10)
    assert brain.nuisance["length"][:, 0].tolist() == [len(p.words) for p in brain.passages]
    np.testing.assert_array_equal(design(brain, truth.features), truth.features)
    with pytest.raises(InputError, match="there are 50 items"): design(brain, truth.features[:-1])


@pytest.mark.parametrize("settings, match", [
    (dict(kind="voxels"), "kind is 'voxels'"), (dict(trivial=5), "trivial is 5, but there are 4 regions"),
    (dict(ceiling=1.), "ceiling is 1.0"), (dict(ceiling=(.5, .5)), "ceiling has 2 numbers"),
    (dict(autocorrelation=1.), "autocorrelation is 1.0"), (dict(autocorrelation=-.1), "autocorrelation is -0.1"),
    (dict(hrf="fir"), "hrf is 'fir'"), (dict(tr=0), "tr is 0"), (dict(n_rois=0), "n_rois is 0"),
    (dict(n_sentences=2), "n_sentences is 2, fewer than the 4 runs"), (dict(delays=()), "delays"),
    (dict(delays=(1, 1)), "delays"), (dict(noise=1), "no setting 'noise'"),
    (dict(features=np.ones((5, 2))), r"features has shape \(5, 2\)"),
    (dict(features="zeros", trivial=0), "a signal that is constant"),
])
def test_bad_toy_brains(settings, match):
    if isinstance(settings.get("features"), str):
        words = sum(len(s.split()) for run in toy_story(Seeds(0), 200, 4)[0] for s in run)
        settings = settings | dict(features=np.zeros((words, 2)))
    with pytest.raises(InputError, match=match): toy_brain(Seeds(0), **settings)


def test_a_config_can_be_given_and_changed():
    config = ToyBrainConfig(n_sentences=30, n_runs=3, n_subjects=1)
    brain, truth = toy_brain(Seeds(0), config, n_rois=2)
    assert brain.data.shape[1] == 2 and truth.config.n_runs == 3 and len(brain.runs) == 3


def test_a_region_that_never_varies_is_left_out_of_images_by_name():
    data = np.arange(12.0).reshape(4, 3)
    data[:, 1] = 7
    table = pd.DataFrame(dict(target=["a", "b", "c"]))
    kept, rows, notes = varying_targets(data, table)
    assert kept.shape == (4, 2) and rows.target.tolist() == ["a", "c"] and rows.index.tolist() == [0, 1]
    assert notes == ["1 of 3 targets never vary and are left out: b"]
    assert varying_targets(data * 0, table)[0].shape == (4, 3)  # what is left to refuse
