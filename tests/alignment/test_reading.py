"""Reading times: readers of every format, scores against independent code, recovery of known slopes, bad input."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from evonb.alignment import reading as b
from evonb.alignment.sources import futrell2018 as futrell
from evonb.alignment.sources import natural_stories as stories
from evonb.alignment.sources import reading_tables as tables
from evonb.alignment.sources import toy_readers as toys
from evonb.core import DamagedFileError, InputError, Seeds, from_dict, to_dict
from evonb.datasets import MissingExtraError
from evonb.store import read_dataset, write_dataset
from evonb.text.corpora import Corpus, corpora_here
from evonb.text.passages import join_words

pytestmark = pytest.mark.numerics

QUICK = b.BehaviorConfig(spillover=2, model="plain", n_bootstrap=100, n_splits=40)


@pytest.fixture(scope="module")
def counts():
    words = [w for p in toys.toy_passages(Seeds(99)) for w in p.words]
    return b.count_words(Corpus("toy", [" ".join(words)], ["toy"]))


@pytest.fixture(scope="module")
def toy():
    return toys.toy_reading(Seeds(5))


@pytest.fixture(scope="module")
def scores(toy, counts):
    return b.behavior_scores(toy[0], toy[1]["surprisal"], QUICK, counts)


def means_only(reading):
    return replace(reading, readers=None)


# What is read ----------------------------------------------------------------------------------------------------

def test_natural_stories_is_whole_and_in_order(data_folder):
    reading = stories.natural_stories(data_folder / "natural_stories")
    assert len(reading.word) == 10_256 and reading.sizes == [1073, 990, 1040, 1085, 1013, 1099, 999, 980, 1038, 939]
    assert reading.word[:3] == ["If", "you", "were"] and reading.word[-1] == "Tourette's."
    assert [p.name for p in reading.passages] == [f"story {i}" for i in range(1, 11)]
    assert reading.position[1073] == 1 and reading.story[1073] == "story 2"
    assert reading.word == [w for p in reading.passages for w in p.words]
    lines = (data_folder / "natural_stories/processed_wordinfo.tsv").read_text().split("\n")
    rows = [line.split("\t") for line in lines]
    by_place = {(r[2], r[1]): float(r[4]) for r in rows[1:] if len(r) > 4}
    expected = [by_place[s.split()[1], str(p)] for s, p in zip(reading.story, reading.position)]
    assert np.array_equal(reading.time, expected)


def test_gpt3_has_every_word_but_the_first_and_sums_its_tokens(data_folder):
    "A token that begins with a space begins a word: another way to the same sums."
    folder = data_folder / "natural_stories"
    reading, bits = stories.natural_stories(folder), stories.gpt3_surprisal(folder)
    assert np.array_equal(np.isnan(bits), reading.position == 1)
    table = pd.read_csv(folder / "all_stories_gpt3.csv", keep_default_na=False, dtype=str)
    begins = table.token.str.startswith(" ") | (table.story != table.story.shift())
    nats = np.bincount(begins.cumsum() - 1, [-float(v or "nan") for v in table.logprob])
    assert np.allclose(bits, nats / math.log(2), equal_nan=True)


def test_gpt3_agrees_with_the_rough_check_from_outside(data_folder, counts):
    "r = 0.22 over 10,014 words was found by matching words up to the spelling that differs in story 2."
    reading, bits = (f(data_folder / "natural_stories") for f in (stories.natural_stories, stories.gpt3_surprisal))
    kept = np.isfinite(bits) & ~((reading.story == "story 2") & (reading.position >= 749))
    assert np.corrcoef(bits[kept], reading.time[kept])[0, 1] == pytest.approx(.2170, abs=5e-5)
    ds = b.behavior_scores(reading, bits, replace(QUICK, n_bootstrap=20), counts)
    there = np.isfinite(bits)
    assert float(ds.pearson_pooled) == pytest.approx(stats.pearsonr(bits[there], reading.time[there])[0], abs=1e-9)
    assert float(ds.pearson_pooled) == pytest.approx(.2121, abs=5e-5)
    assert ds.n_words.values.tolist() == [n - 1 for n in reading.sizes] and np.isnan(ds.ceiling)


def publisher_files(folder, extra=""):
    (folder / "all_stories.tok").write_text(
        "word\tzone\titem\n'Ah\t1\t1\n\"null\t2\t1\nNA\t3\t1\nSo\t1\t2\nit.\t2\t2\n")
    (folder / "processed_wordinfo.tsv").write_text(
        "word\tzone\titem\tnItem\tmeanItemRT\nit.\t2\t2\t80\t320\n'Ah\t1\t1\t80\t300\n\"null\t2\t1\t80\t310\n" + extra)
    return folder


def test_quotes_null_and_na_stay_words(tmp_path):
    reading = stories.natural_stories(publisher_files(tmp_path))
    assert reading.word == ["'Ah", '"null', "NA", "So", "it."]
    assert np.array_equal(reading.time, [300, 310, np.nan, np.nan, 320], equal_nan=True)
    assert any("2 of 5 words have no time" in n for n in reading.notes)


def test_single_readers_of_natural_stories(tmp_path):
    publisher_files(tmp_path)
    (tmp_path / "processed_RTs.tsv").write_text(
        "WorkerId\tword\tzone\titem\tRT\na\t'Ah\t1\t1\t300\nb\t'Ah\t1\t1\t320\na\tSo\t1\t2\t50\nb\tSo\t1\t2\t400\n")
    reading = stories.natural_stories(tmp_path, readers=True)
    assert reading.readers.shape == (5, 2) and reading.time[0] == 310 and reading.time[3] == 400
    assert any("1 of 4 single times" in n for n in reading.notes)


def test_files_of_different_releases_are_refused(tmp_path):
    publisher_files(tmp_path, "Sow\t1\t2\t80\t320\n")
    with pytest.raises(InputError, match="'Sow' at zone 1 of item 2, but all_stories.tok has 'So'"):
        stories.natural_stories(tmp_path)
    publisher_files(tmp_path, "So\t9\t2\t80\t320\n")
    with pytest.raises(InputError, match="no such zone"):
        stories.natural_stories(tmp_path)
    with pytest.raises(FileNotFoundError, match="all_stories.tok"):
        stories.natural_stories(tmp_path / "nowhere")


FIRST_STORY = ("'Ah", "", 0), (' "', -.5, 0), ("null", -.5, 0), (" N", -2, 0), ("A", -3, 0)


def gpt3_file(folder, *rows):
    pd.DataFrame([*FIRST_STORY, *rows], columns=["token", "logprob", "story"]).to_csv(
        folder / "all_stories_gpt3.csv", index=False)


def test_gpt3_tokens_are_held_against_the_text(tmp_path):
    gpt3_file(publisher_files(tmp_path), ("So", "", 1), (" it.", -1, 1))
    expected = np.array([np.nan, 1, 5, np.nan, 1]) / math.log(2)
    assert np.allclose(stories.gpt3_surprisal(tmp_path), expected, equal_nan=True)


@pytest.mark.parametrize("rows, message", [
    ([("So", "", 1)], "story 2: the tokens end at character 2 of 6"),
    ([("So", "", 1), (" if.", -1, 1)], "token 2 is ' if.', but the text has ' it.' at character 2"),
    ([("So", "", 1), (" it.", "", 1)], "lacks a logprob within story 2"),
    ([("So", "", 1), (" it.", "low", 1)], "logprob is 'low' in row 7")])
def test_gpt3_tokens_that_dont_fit_are_refused(tmp_path, rows, message):
    gpt3_file(publisher_files(tmp_path), *rows)
    with pytest.raises(InputError, match=message):
        stories.gpt3_surprisal(tmp_path)


def test_the_publishers_own_spelling_counts_for_gpt3(tmp_path):
    publisher_files(tmp_path)
    (tmp_path / "words.tsv").write_text("2.1.whole\tSow\n2.1.word\tSow\n2.2.whole\tit .\n")
    gpt3_file(tmp_path, ("Sow", "", 1), (" it.", -2, 1))
    assert stories.gpt3_surprisal(tmp_path)[-1] == pytest.approx(2 / math.log(2))


def test_a_token_over_two_words_is_refused():
    with pytest.raises(InputError, match="reaches over two words"):
        stories.tokens_to_words(join_words("x", ["New", "York"]), ["New York"], np.ones(1))


# Assemblies ------------------------------------------------------------------------------------------------------

def assembly(**change):
    "A file as Brain-Score's language package packs it: presentation x subject, coordinates along each."
    rng = Seeds(2).numpy()
    times = np.round(rng.normal(340, 60, (6, 4)).clip(150), 1)
    times[1, 2], times[4, 0], times[5, 1] = np.nan, 60, 3200
    coords = dict(word=("presentation", ["'The", "cat", "null", "sat.", "Änne", "slept."]),
                  word_core=("presentation", ["The", "cat", "null", "sat", "Änne", "slept"]),
                  story_id=("presentation", [1, 1, 1, 1, 2, 2]), word_id=("presentation", [1, 2, 3, 4, 1, 2]),
                  stimulus_id=("presentation", range(1, 7)), subject_id=("subject", list("abcd")),
                  correct=("subject", [5, 6, 6, 5]))
    return xr.DataArray(times, dims=("presentation", "subject"), coords=coords | change)


@pytest.mark.parametrize("form, engine", [("NETCDF3_64BIT", "scipy"), ("NETCDF3_CLASSIC", "scipy"), (None, "h5netcdf")])
@pytest.mark.parametrize("turned", [False, True])
def test_futrell2018_reads_an_assembly(tmp_path, form, engine, turned):
    data = assembly()
    (data.T if turned else data).to_netcdf(tmp_path / "a.nc", engine=engine, format=form)
    reading = futrell.futrell2018(tmp_path / "a.nc")
    expected = data.where((data >= 100) & (data <= 3000))
    assert np.array_equal(reading.readers, expected.values, equal_nan=True)
    assert np.allclose(reading.time, expected.mean("subject"))
    assert reading.word == ["'The", "cat", "null", "sat.", "Änne", "slept."]
    assert reading.story.tolist() == ["story 1"] * 4 + ["story 2"] * 2
    assert "2 of 23 single times" in reading.notes[0]


def test_presentations_are_put_in_order(tmp_path):
    mixed = assembly().isel(presentation=[3, 0, 2, 1, 5, 4])
    mixed.to_netcdf(tmp_path / "a.nc", engine="scipy")
    assert futrell.futrell2018(tmp_path / "a.nc").passages[0].text == "'The cat null sat."


def test_an_assembly_with_other_dims_is_refused(tmp_path):
    assembly().rename(presentation="words").to_netcdf(tmp_path / "a.nc", engine="scipy")
    with pytest.raises(InputError, match="one variable over presentation x subject, but holds: .*words.*subject"):
        futrell.futrell2018(tmp_path / "a.nc")
    assembly().drop_vars("story_id").to_netcdf(tmp_path / "b.nc", engine="scipy")
    with pytest.raises(InputError, match="no coordinate 'story_id' along presentation; it has: .*word_core"):
        futrell.futrell2018(tmp_path / "b.nc")


def test_a_netcdf4_file_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(xr.backends, "list_engines", lambda: {"scipy": None})
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(MissingExtraError, match="netCDF-4 file.*pip install h5netcdf"):
        futrell.futrell2018(tmp_path / "a.nc")


def test_no_assembly_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match="no assembly"):
        futrell.futrell2018(tmp_path / "a.nc")
    (tmp_path / "a.nc").write_text("word,time\n")
    with pytest.raises(InputError, match="isn't a netCDF file"):
        futrell.futrell2018(tmp_path / "a.nc")
    assembly().to_netcdf(tmp_path / "b.nc", engine="scipy")
    (tmp_path / "b.nc").write_bytes((tmp_path / "b.nc").read_bytes()[:300])
    with pytest.raises(DamagedFileError, match="b.nc"):
        futrell.futrell2018(tmp_path / "b.nc")


# Tables ----------------------------------------------------------------------------------------------------------

def table(**change):
    return pd.DataFrame(dict(word=["The", "cat", "sat.", "It", "slept."], time=[300, 320, 350, 290, 330],
                             order=[1, 2, 3, 1, 2], story=[1, 1, 1, 2, 2]) | change)


def test_a_table_is_sorted_by_its_order_column(tmp_path):
    shuffled = table().iloc[[2, 4, 0, 1, 3]]
    for path, options in ((tmp_path / "t.csv", {}), (tmp_path / "t.tsv", dict(sep="\t"))):
        shuffled.to_csv(path, index=False, **options)
        for source in (path, shuffled):
            reading = tables.reading_table(source, story="story")
            assert [p.text for p in reading.passages] == ["The cat sat.", "It slept."]
            assert reading.time.tolist() == [300, 320, 350, 290, 330] and reading.readers is None


def test_commas_and_quotes_in_a_csv_and_a_tsv(tmp_path):
    frame = table(word=['"Well,', "null", "NA", "'It", 'said"'])
    frame.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.tsv").write_text("\n".join("\t".join(map(str, r)) for r in [frame.columns, *frame.values]))
    for name in ("t.csv", "t.tsv"):
        assert tables.reading_table(tmp_path / name, story="story").word == frame.word.tolist()


def test_rows_of_single_readers_are_pivoted():
    rows = pd.concat([table(who="a"), table(who="b", time=[340, 20, 370, 310, 4000])]).iloc[:-2]
    reading = tables.reading_table(rows, story="story", reader="who")
    assert np.array_equal(reading.readers[:, 1], [340, np.nan, 370, np.nan, np.nan], equal_nan=True)
    assert reading.time.tolist() == [320, 320, 360, 290, 330]


def test_times_that_are_missing_are_no_error():
    for missing in ("", "NA", None, np.nan):
        assert np.isnan(tables.reading_table(table(time=[300, missing, 350, 290, 330]), story="story").time[1])


def test_gaps_in_the_order_are_noted():
    assert "1 places are missing" in tables.reading_table(table(order=[1, 2, 5, 1, 2]), story="story").notes[0]


BAD_TABLES = {
    "missing column": (dict(), dict(time="RT"), "lacks the column 'RT'; it has: word, time, order, story"),
    "not numbers": (dict(time=[300, "fast", 350, 290, 330]), dict(story="story"), "time is 'fast' in row 2"),
    "infinite": (dict(time=[300, np.inf, 350, 290, 330]), dict(story="story"), "time is 'inf' in row 2"),
    "negative": (dict(time=[300, -5, 350, 290, 330]), dict(story="story"), "word 2 is -5 ms"),
    "twice": (dict(order=[1, 2, 2, 1, 2]), dict(story="story"), "order 2 stands twice in story 1"),
    "forgotten story": (dict(), dict(columns=dict(story=None)), "order 1 stands twice .*story="),
    "no order": (dict(order=[1, "", 3, 1, 2]), dict(story="story"), "has no order in row 2"),
    "lost word": (dict(word=["The", np.nan, "sat.", "It", "slept."]), dict(story="story"),
                  "no word in row 2.*keep_default_na"),
    "empty": (dict(word=["The", " ", "sat.", "It", "slept."]), dict(story="story"), "no word in row 2"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_a_bad_table_says_what_is_wrong(kind):
    change, options, message = BAD_TABLES[kind]
    with pytest.raises(InputError, match=message):
        tables.reading_table(table(**change), **options)


def test_readers_of_different_texts_are_refused():
    rows = pd.concat([table(who="a"), table(who="b", word=["The", "dog", "sat.", "It", "slept."])])
    with pytest.raises(InputError, match="different words at 2 in story 1, one of them 'dog'"):
        tables.reading_table(rows, story="story", reader="who")


def test_tables_that_cant_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no table"):
        tables.reading_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(b"word,time\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="neither UTF-8 nor UTF-16"):
        tables.reading_table(tmp_path / "t.csv")
    with pytest.raises(InputError, match="has no rows"):
        tables.reading_table(table().iloc[:0])
    with pytest.raises(InputError, match="seem to be seconds"):
        tables.reading_table(table(who="a", time=[.3, .3, .3, .2, .3]), story="story", reader="who")


def test_reading_times_must_fit_their_words(toy):
    reading = toy[0]
    for change, message in ((dict(time=reading.time[1:]), "1500 words, but times of shape"),
                            (dict(readers=reading.readers[1:]), "readers of shape"), (dict(passages=[]), "no story"),
                            (dict(passages=reading.passages[:1] * 2), "two stories called 'story 1'")):
        with pytest.raises(InputError, match=message):
            replace(reading, **change)


# Frequency -------------------------------------------------------------------------------------------------------

def test_bigrams_equal_a_count_by_hand():
    "Pairs: a b, b a, b a, a c; none reaches over documents. Shares of words: 4, 3, 2, 2 of 12, and 1 for any other."
    found = b.count_bigrams("mine", ["a b A", "b. a c", "", "d"])
    assert found.frequencies.counts == dict(a=3, b=2, c=1, d=1) and found.pair_counts.sum() == 4
    share = lambda w: 2. ** -found.frequencies.surprisal([w])[0]
    assert [share(w) for w in "abcdx"] == pytest.approx([n / 12 for n in (4, 3, 2, 2, 1)])
    bits = found.surprisal(["a", "b", "a", "c", "x", "b", "d", "a"], np.array([1, 2, 3, 4, 5, 6, 1, 2]))
    by_hand = [4 / 12,  # first of its story
               (1 + 2 * 3 / 12) / (2 + 2),  # a, then b once of two, two kinds
               (2 + 1 * 4 / 12) / (2 + 1),  # b, then a always
               (1 + 2 * 2 / 12) / (2 + 2), 1 / 12,  # nothing follows c
               3 / 12, 2 / 12, 4 / 12]  # nothing is known of x; a story begins; nothing follows d
    assert 2. ** -bits == pytest.approx(by_hand)


def test_bigrams_of_a_large_text_equal_a_plain_loop():
    rng = Seeds(4).numpy()
    texts = [" ".join(f"w{i}" for i in rng.zipf(1.6, 400) % 300) for _ in range(600)]
    found, pairs, single, after = b.count_bigrams("large", texts), {}, {}, {}
    for text in texts:
        words = text.split()
        for w in words: single[w] = single.get(w, 0) + 1
        for v, w in zip(words, words[1:]):
            pairs[v, w] = pairs.get((v, w), 0) + 1
            after.setdefault(v, []).append(w)
    read = texts[0].split()[:200] + ["new", "w1", "w2"]
    p = [(single.get(w, 0) + 1) / (sum(single.values()) + len(single) + 1) for w in read]
    for i in range(len(read) - 1, 0, -1):
        v, kinds = read[i - 1], set(after.get(read[i - 1], ()))
        if kinds: p[i] = (pairs.get((v, read[i]), 0) + len(kinds) * p[i]) / (len(after[v]) + len(kinds))
    assert 2. ** -found.surprisal(read, np.arange(1, 204)) == pytest.approx(p)


def test_the_baseline_counts_what_a_unigram_model_counted(data_folder, monkeypatch):
    "Against python-docs alone the unigrams of CHILDES pass for a model of reading; against the union they are nothing."
    monkeypatch.setenv("EVONB_DATA", str(data_folder))
    assert set(corpora_here()) >= {"python-docs", "childes"}
    reading = stories.natural_stories(data_folder / "natural_stories")
    docs, childes = b.count_words("python-docs"), b.count_words("childes")
    union = b.baseline_counts(b.BehaviorConfig().frequency)
    models = dict(childes=childes.surprisal(reading.word), both=union.surprisal(reading.word))
    quick = replace(QUICK, n_bootstrap=2)
    alone, whole = (b.score_models(reading, models, quick, f) for f in (docs, union))
    assert (alone.gain_mean > .002).all() and (np.abs(whole.gain_mean) < 2e-4).all()
    assert docs.coverage(reading.word)[0] < .8 < alone.coverage_words + .1 and whole.coverage_words > .88
    assert whole.coverage_different_words == union.coverage(reading.word)[1] > .7
    assert (whole.gain_p > .05).all() or abs(float(whole.gain_mean.max())) < 1e-9


def test_frequencies_of_several_sources(toy, counts, monkeypatch):
    reading, truth = toy
    both = b.baseline_counts(("training", "training"), counts)
    assert both.counts == counts.counts  # named twice, counted once
    with pytest.raises(InputError, match="what the models were trained on isn't known"):
        b.baseline_counts(("training",))
    ds = b.score_models(reading, {"m": truth["surprisal"]}, replace(QUICK, frequency=("training",)), training=counts)
    assert ds.coverage_words == np.mean([b.core_form(w) in counts.counts for w in reading.word])
    assert b.core_form("Dog’s") == b.core_form("dog's,") == "dog's"
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(MissingExtraError, match=r"evonb\[wordfreq\]"): b.baseline_counts(("wordfreq",))


def test_wordfreqs_lists(monkeypatch):
    "As wordfreq gives them: a share of all words by word; here a list of four words in its form."
    kind = type(sys)("wordfreq")
    kind.available_languages = lambda: {"en": "x"}
    kind.get_frequency_dict = lambda language: {"the": .05, "cat": 1e-5, "Cat,": 1e-5, "rare": 1e-10}
    monkeypatch.setitem(sys.modules, "wordfreq", kind)
    found = b.baseline_counts(("wordfreq",))
    assert found.counts == {"the": 50_000_000, "cat": 20_000} and found.coverage(["The", "rare"]) == (.5, .5)
    with pytest.raises(InputError, match="language of wordfreq is 'xx'"): b.baseline_counts(("wordfreq:xx",))


def test_what_is_left_out_is_counted_by_story_and_reason(toy, counts):
    reading, truth = toy
    time = reading.time.copy()
    time[[5, 260]], time[reading.story == "story 3"] = np.nan, np.nan
    bits = np.where(np.arange(1500) == 600 + 255, np.nan, truth["surprisal"])
    ds = b.score_models(replace(reading, time=time, readers=None), {"m": bits}, replace(QUICK, drop_first=True), counts)
    table = ds.left_out.to_series().unstack("reason")
    assert ds.any_story.values.tolist() == [f"story {i}" for i in range(1, 7)] and "story 3" not in ds.story.values
    assert table["have no time"].tolist() == [1, 1, 250, 0, 0, 0]
    assert table["have no surprisal"].tolist() == [0, 0, 0, 1, 0, 0]
    assert table["follow a word without a surprisal of its own"].tolist() == [0, 0, 0, 2, 0, 0]
    assert table.to_numpy().sum() == ds.n_left_out == int((~ds.fitted).sum())
    readers = np.column_stack([reading.readers, np.full(1500, 50.)])
    times, notes, dropped = b.clean_readers(readers)
    assert dropped["readers"] == 1 and dropped["single_times"] >= 1500 and times.shape == reading.readers.shape
    assert reading.dropped["readers"] == 0


def test_frequency_is_a_smoothed_unigram_surprisal():
    found = b.count_words(Corpus("mine", ["The cat, the dog.", "'The' end"], ["a", "b"]))
    assert found.counts == {"the": 3, "cat": 1, "dog": 1, "end": 1} and found.n_words == 6
    assert np.allclose(found.surprisal(["THE,", "unheard"]), [-math.log2(4 / 11), -math.log2(1 / 11)])


def test_the_result_names_the_corpus_and_its_size(scores, counts):
    assert scores.frequency == "unigram surprisal with add-one smoothing from toy"
    assert scores.frequency_words == counts.n_words == 1500


def test_corpora_of_the_configuration_are_counted_together(toy, tmp_path):
    for name, text in (("a", "the cat"), ("b", "the dog the")):
        (tmp_path / f"{name}.txt").write_text(text + "\n")
    config = replace(QUICK, n_bootstrap=2, frequency=(str(tmp_path / "a.txt"), str(tmp_path / "b.txt")))
    assert b.behavior_scores(toy[0], toy[1]["surprisal"], config).frequency_words == 5


# Against independent code ----------------------------------------------------------------------------------------

def plain_design(reading, surprisal, counts, k=2):
    "The regression's columns, from a plain loop; None where a previous word is missing."
    bits, rows = counts.surprisal(reading.word), []
    for i, position in enumerate(reading.position):
        back = [i - j for j in range(k + 1)]
        marks = [len([c for c in reading.word[j] if c in ".,!?"]) for j in back]
        own = [1, *(len(reading.word[j]) for j in back), *bits[back], *marks, position, *surprisal[back]]
        rows.append(None if position <= k else own)
    return rows


def test_correlations_equal_scipys(scores, toy):
    reading, truth = toy
    for s in range(6):
        x, y = (v[reading.story == f"story {s + 1}"] for v in (truth["surprisal"], reading.time))
        assert float(scores.pearson[s]) == pytest.approx(stats.pearsonr(x, y)[0])
        assert float(scores.spearman[s]) == pytest.approx(stats.spearmanr(x, y)[0])
    assert float(scores.pearson_pooled) == pytest.approx(stats.pearsonr(truth["surprisal"], reading.time)[0])
    assert float(scores.spearman_pooled) == pytest.approx(stats.spearmanr(truth["surprisal"], reading.time)[0])


def test_gain_and_slopes_equal_a_plain_loop(scores, toy, counts):
    reading, truth = toy
    rows = plain_design(reading, truth["surprisal"], counts)
    kept = np.array([r is not None for r in rows])
    X, y, story = np.array([r for r in rows if r]), reading.time[kept], reading.story[kept]
    density = np.zeros((2, len(y)))
    for name in dict.fromkeys(story):
        test = story == name
        for which, columns in enumerate((X[:, :11], X)):
            beta, left, *_ = np.linalg.lstsq(columns[~test], y[~test], rcond=None)
            sigma = math.sqrt(left[0] / ((~test).sum() - columns.shape[1]))
            density[which, test] = stats.norm.logpdf(y[test], columns[test] @ beta, sigma)
    gain = density[1] - density[0]
    assert np.allclose(scores.gain_word.values[kept], gain, atol=1e-9)
    assert float(scores.gain_mean) == pytest.approx(gain.mean(), abs=1e-9)
    assert float(scores.gain_mean_bits) == pytest.approx(gain.mean() / math.log(2), abs=1e-9)
    assert np.allclose(scores.gain, [gain[story == f"story {i}"].mean() for i in range(1, 7)], atol=1e-9)
    assert np.allclose(scores.effect, np.linalg.lstsq(X, y, rcond=None)[0][-3:], atol=1e-9)


def test_intervals_equal_a_bootstrap_that_refits(toy, counts, scores):
    "Slopes of resampled stories, fitted anew with numpy on the rows that were drawn."
    reading, truth = toy
    rows = plain_design(reading, truth["surprisal"], counts)
    number = np.array([int(s.split()[1]) - 1 for s in reading.story])
    drawn = b.count_resamples(number, "stories", 100, Seeds(0).child("bootstrap", "stories").numpy())
    slopes = []
    for c in drawn:
        picked = [i for i in np.repeat(np.arange(len(rows)), c.astype(int)) if rows[i]]
        slopes.append(np.linalg.lstsq(np.array([rows[i] for i in picked]), reading.time[picked], rcond=None)[0][-3:])
    assert np.allclose(scores.effect_low[0], np.quantile(slopes, .025, axis=0), atol=1e-8)
    assert np.allclose(scores.effect_high[0], np.quantile(slopes, .975, axis=0), atol=1e-8)


def test_ranks_with_ties_in_resamples_equal_scipys():
    rng = Seeds(8).numpy()
    values, counts = rng.integers(0, 6, 50), b.count_resamples(np.arange(50) // 25, "words", 5, rng)
    for c, ranks in zip(counts, b.midranks(values, counts)):
        picked = np.repeat(np.arange(50), c.astype(int))
        assert np.array_equal(ranks[picked], stats.rankdata(values[picked]))


# Known truth -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("model", ["plain", "mixed"])
def test_slopes_are_recovered_without_bias(model, counts):
    "Over ten simulations the mean slope lies within three standard errors of the truth, and intervals hold it."
    config, found, held = replace(QUICK, model=model, n_bootstrap=40, n_splits=2), [], []
    people = toys.ToyReaders(n_readers=12)
    for seed in range(10):
        reading, truth = toys.toy_reading(Seeds(seed), people, toys.toy_passages(Seeds(seed), 5, 120))
        ds = b.behavior_scores(reading, truth["surprisal"], config, counts)
        found.append(ds.effect.values)
        held.append((ds.effect_low[1].values < people.slopes) & (people.slopes < ds.effect_high[1].values))
    error = np.std(found, axis=0, ddof=1) / math.sqrt(10)
    assert (np.abs(np.mean(found, axis=0) - people.slopes) < 3 * error).all() and (error < .25).all()
    assert np.mean(held) > .8


def test_surprisal_that_says_nothing_gains_nothing(counts):
    gains = []
    for seed in range(10):
        reading, truth = toys.toy_reading(Seeds(seed), passages=toys.toy_passages(Seeds(seed), 5, 120))
        noise = Seeds(seed).child("noise").numpy().permutation(truth["surprisal"])
        config = replace(QUICK, n_bootstrap=2, n_splits=2)
        gains.append(float(b.behavior_scores(means_only(reading), noise, config, counts).gain_mean))
    assert np.mean(gains) < 0 and max(gains) < .01


def test_the_gain_is_near_what_the_noise_allows(scores, toy):
    "Knowing the surprisal's share of the times is worth log(sd without / sd with) nats."
    truth, own = toy[1], math.log(80 / math.sqrt(30))
    assert .05 < float(scores.gain_mean) < math.log(toy[0].time.std()) - own
    assert float(scores.sigma) == pytest.approx(truth["noise"] / math.sqrt(truth["n_readers"]), rel=.08)


@pytest.mark.parametrize("missing", [0., .5])
def test_the_ceiling_is_the_true_one(missing, counts):
    reading, truth = toys.toy_reading(Seeds(3), toys.ToyReaders(missing=missing))
    ds = b.behavior_scores(reading, truth["surprisal"], replace(QUICK, n_bootstrap=2), counts)
    assert float(ds.ceiling) == pytest.approx(truth["ceiling"], abs=.03)
    assert float(ds.ceiling_low) < float(ds.ceiling) < float(ds.ceiling_high)
    perfect = np.corrcoef(truth["expected"], reading.time)[0, 1]
    assert float(ds.ceiling) == pytest.approx(perfect, abs=.04)


def test_the_mixed_model_finds_the_readers(toy, counts):
    ds = b.behavior_scores(toy[0], toy[1]["surprisal"], replace(QUICK, model="mixed", n_bootstrap=10), counts)
    assert ds.random_intercept == "reader" and float(ds.sigma) == pytest.approx(80, rel=.03)
    assert float(ds.intercept_sd) == pytest.approx(40, rel=.35)
    assert ds.n_times.values.tolist() == [int(n) for n in np.isfinite(toy[0].readers[ds.fitted.values])
                                          .sum(1).reshape(6, -1).sum(1)]


def test_means_get_an_intercept_by_story(toy, counts):
    reading = means_only(toy[0])
    shifted = replace(reading, time=reading.time + np.repeat([0, 60, -40, 20, 50, -30], reading.sizes))
    ds = b.behavior_scores(shifted, toy[1]["surprisal"], replace(QUICK, model="mixed", n_bootstrap=10), counts)
    assert ds.random_intercept == "story" and 15 < float(ds.intercept_sd) < 90
    plain = b.behavior_scores(shifted, toy[1]["surprisal"], replace(QUICK, n_bootstrap=10), counts)
    assert float(ds.sigma) < .6 * float(plain.sigma)
    assert np.isnan(ds.ceiling) and any("no noise ceiling" in n for n in json.loads(ds.notes))


# Comparing models ------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def compared(toy, counts):
    rng, bits = Seeds(1).numpy(), toy[1]["surprisal"]
    models = {"true": bits, "noisy": bits + rng.normal(0, 3, len(bits)), "none": rng.permutation(bits)}
    return b.score_models(toy[0], models, QUICK, counts)


def test_models_are_ordered_by_what_they_know(compared):
    gains = compared.gain_mean.values
    assert gains[0] > gains[1] > gains[2] and abs(gains[2]) < .01
    assert compared.gain_p[0] < .01 and compared.difference_p.sel(model="true", other="none") < .01
    assert (compared.difference_low.sel(model="true", other="none") > 0).all()


def test_differences_are_paired_over_stories(compared):
    a, c = compared.gain.values[0], compared.gain.values[1]
    assert float(compared.difference[0, 1]) == pytest.approx(float(compared.gain_mean[0] - compared.gain_mean[1]))
    assert float(compared.difference_p[0, 1]) == pytest.approx(stats.ttest_rel(a, c).pvalue)
    width = float((compared.difference_high - compared.difference_low).sel(over="stories", model="true", other="noisy"))
    apart = (compared.gain_mean_high - compared.gain_mean_low).sel(over="stories", model=["true", "noisy"])
    assert 0 < width < float(apart.sum())
    assert np.isnan(np.diag(compared.difference_p)).all() and (np.diag(compared.difference) == 0).all()


def test_a_model_alone_scores_as_in_company(compared, scores):
    for name in ("gain_mean", "pearson_pooled", "effect", "gain_mean_low", "effect_high", "spearman", "gain_word"):
        assert np.array_equal(compared[name].isel(model=0).values, scores[name].values, equal_nan=True), name


def test_models_are_held_to_the_same_words(toy, counts):
    "A model that can't score first words leaves them out for all."
    reading, truth = toy
    lame = np.where(reading.position == 1, np.nan, truth["surprisal"])
    ds = b.score_models(reading, {"whole": truth["surprisal"], "lame": lame}, QUICK, counts)
    assert (ds.n_words == 249).all() and (ds.n_times == 247).all()
    assert float(ds.gain_mean[0]) == float(ds.gain_mean[1]) and float(ds.difference[0, 1]) == 0


def test_scores_are_the_same_bit_for_bit_under_a_seed(toy, counts, scores):
    again = b.behavior_scores(toys.toy_reading(Seeds(5))[0], toy[1]["surprisal"], QUICK, counts)
    assert again.identical(scores)
    other = b.behavior_scores(toy[0], toy[1]["surprisal"], replace(QUICK, seed=1), counts)
    assert float(other.gain_mean) == float(scores.gain_mean) and not np.array_equal(other.effect_low, scores.effect_low)


def test_simulated_readers_are_the_same_bit_for_bit_under_a_seed(toy):
    again, other = toys.toy_reading(Seeds(5)), toys.toy_reading(Seeds(6))
    assert np.array_equal(again[0].readers, toy[0].readers, equal_nan=True) and again[0].word == toy[0].word
    assert not np.array_equal(other[1]["surprisal"], toy[1]["surprisal"])


def test_the_store_keeps_the_scores(compared, tmp_path):
    write_dataset(tmp_path / "reading.zarr.zip", compared)
    assert read_dataset(tmp_path / "reading.zarr.zip").identical(compared)


# Folds, exclusions, settings -------------------------------------------------------------------------------------

def test_no_fold_cuts_a_story():
    story = np.repeat([f"s{i}" for i in range(7)], [5, 9, 3, 4, 8, 6, 2])
    for n in (None, 2, 3, 7):
        fold = b.story_folds(story, n)
        assert len(set(fold)) == (n or 7) and (np.diff(fold) >= 0).all()
        assert all(len(set(fold[story == s])) == 1 for s in set(story))


def test_one_story_is_cut_into_blocks(counts):
    reading, truth = toys.toy_reading(Seeds(1), passages=toys.toy_passages(Seeds(1), 1, 300))
    ds = b.behavior_scores(reading, truth["surprisal"], QUICK, counts)
    assert ds.folds == "blocks of words" and ds.n_folds == 10 and float(ds.gain_mean) > 0
    assert np.isnan(ds.gain_mean_low.sel(over="stories")) and np.isfinite(ds.gain_mean_low.sel(over="words"))
    assert np.isnan(ds.gain_p) and any("one story" in n for n in json.loads(ds.notes))


def test_exclusions_are_made_and_noted(toy, counts):
    reading, truth = toy
    time = reading.time.copy()
    time[[10, 20]] = np.nan
    config = replace(QUICK, n_bootstrap=2, drop_first=True, drop_last=True)
    ds = b.behavior_scores(replace(reading, time=time, readers=None), truth["surprisal"], config, counts)
    assert ds.n_words.values.tolist() == [246, 248, 248, 248, 248, 248] and not ds.used.values[[0, 10, 20, 249]].any()
    notes = " | ".join(json.loads(ds.notes))
    assert "2 words have no time" in notes and "6 words are the first" in notes and "6 words are the last" in notes


def test_a_story_that_is_too_short_is_left_out(toy, counts):
    reading, truth = toy
    time = np.where((reading.story == "story 3") & (reading.position > 15), np.nan, reading.time)
    ds = b.behavior_scores(replace(reading, time=time, readers=None), truth["surprisal"], QUICK, counts)
    assert "story 3" not in ds.story.values and any("story 3 has 15 words left" in n for n in json.loads(ds.notes))


@pytest.mark.parametrize("spillover", [0, 1, 3])
def test_spillover_is_as_long_as_asked(toy, counts, spillover):
    ds = b.behavior_scores(toy[0], toy[1]["surprisal"], replace(QUICK, spillover=spillover, n_bootstrap=2), counts)
    assert len(ds.predictor) == spillover + 1 and (ds.n_times == 250 - spillover).all()
    assert len(json.loads(ds.baseline)) == 3 * (spillover + 1) + 1


def test_a_counter_of_tokens_passes_for_surprisal_where_the_baseline_knows_no_punctuation(toy, counts):
    "Readers who pause at full stops, and a model that only counts marks: punctuation in the baseline takes it back."
    reading, _ = toy
    stops = np.array([not w.isalnum() for w in reading.word], float)
    assert 0.02 < stops.mean() < 0.5
    pausing = replace(reading, time=reading.time + 40 * stops, readers=None)
    counter = 1 + stops + Seeds(0).numpy().normal(0, 0.01, len(stops))
    bare, full = (b.behavior_scores(pausing, counter, replace(QUICK, punctuation=p), counts) for p in (False, True))
    assert bare.gain_mean > 0.1 and full.gain_mean < bare.gain_mean / 20
    assert "punctuation" in full.baseline and "punctuation" not in bare.baseline


def test_a_text_without_punctuation_has_no_column_for_it(toy, counts):
    words = [w.strip(".") for w in toy[0].word[:60]]
    table = dict(word=words, time=toy[0].time[:60], order=np.arange(60))
    names, design = b.baseline_design(tables.reading_table(pd.DataFrame(table)), counts, 1)
    assert "punctuation" not in names and design.shape == (60, len(names))


def test_surprisal_equal_to_frequency_gains_nothing_and_says_so(toy, counts):
    ds = b.behavior_scores(toy[0], counts.surprisal(toy[0].word), replace(QUICK, n_bootstrap=2), counts)
    assert abs(float(ds.gain_mean)) < 1e-9 and np.isnan(ds.effect).all()
    assert any("can't be told from the baseline" in n for n in json.loads(ds.notes))


def test_the_configuration_comes_back_from_json():
    config = b.BehaviorConfig(spillover=1, model="mixed", n_folds=3, frequency=("childes", "python-docs"))
    assert from_dict(b.BehaviorConfig, json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(InputError, match="unknown key 'spill'"):
        from_dict(b.BehaviorConfig, dict(spill=1))


@pytest.mark.parametrize("bad", [
    dict(model="lmer"), dict(spillover=-1), dict(spillover=1.5), dict(n_folds=1), dict(min_words=1), dict(frequency=()),
    dict(frequency="childes"), dict(n_bootstrap=0), dict(n_splits=1)])
def test_bad_settings_are_named(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        b.BehaviorConfig(**bad)


# Bad input -------------------------------------------------------------------------------------------------------

def bent(bits, what):
    bits = bits.copy()
    if what == "infinite": bits[0] = np.inf
    if what == "short": bits = bits[:-1]
    if what == "constant": bits[:] = 3
    if what == "empty": bits[:] = np.nan
    return bits


@pytest.mark.parametrize("what, message", [
    ("infinite", "is inf at word 1 of story 1"),
    ("short", r"shape \(1499,\), but toy-reading has 1500 words"), ("constant", "is the same for every word"),
    ("empty", "surprisal of m is nan at every word")])
def test_bad_surprisals_are_named(toy, counts, what, message):
    with pytest.raises(InputError, match=message):
        b.score_models(toy[0], {"m": bent(toy[1]["surprisal"], what)}, QUICK, counts)


def test_words_whose_surprisal_isnt_known_are_left_out_and_told(toy, counts):
    reading, bits = toy[0], toy[1]["surprisal"].copy()
    bits[[7, 40]] = np.nan
    ds = b.score_models(reading, {"m": bits}, QUICK, counts)
    assert not ds.used.values[[7, 40]].any() and ds.used.values[[6, 8, 39, 41]].all()
    assert not ds.fitted.values[[7, 8, 9, 40, 41, 42]].any()  # words whose previous word isn't known aren't fitted, too
    assert ds.fitted.values[[6, 10, 39, 43]].all()
    assert any("2 words have no surprisal" in n for n in json.loads(ds.notes))


def test_more_folds_than_stories_is_an_error(toy, counts):
    with pytest.raises(InputError, match="n_folds is 7, but there are 6 stories"):
        b.behavior_scores(toy[0], toy[1]["surprisal"], replace(QUICK, n_folds=7), counts)


def test_no_story_with_enough_words_is_an_error(toy, counts):
    with pytest.raises(InputError, match="no story of toy-reading has 300 words"):
        b.behavior_scores(toy[0], toy[1]["surprisal"], replace(QUICK, min_words=300), counts)


def test_too_few_words_for_the_predictors_is_an_error(counts):
    reading, truth = toys.toy_reading(Seeds(1), passages=toys.toy_passages(Seeds(1), 2, 8))
    with pytest.raises(InputError, match="reading times can't be fitted by"):
        b.behavior_scores(reading, truth["surprisal"], replace(QUICK, min_words=4), counts)


def test_other_bad_input_is_named(toy, counts):
    reading, truth = toy
    with pytest.raises(InputError, match="no model was given"):
        b.score_models(reading, {}, QUICK, counts)
    with pytest.raises(InputError, match="at least 2 readers, but there is 1"):
        b.split_halves(reading.readers[:, :1], 3, Seeds(0).numpy())
    two = [p for p in reading.passages[:2]]
    few = b.ReadingTimes("few", two, reading.time[:500])
    with pytest.raises(InputError, match="for which 2 stories are too few"):
        b.behavior_scores(few, truth["surprisal"][:500], replace(QUICK, model="mixed"), counts)
    with pytest.raises(InputError, match="surprisal has shape"):
        toys.toy_reading(surprisal=np.ones(3))
    with pytest.raises(InputError, match="too few for 20 bins"):
        b.binned_times(np.arange(10), np.arange(10), 20)


def test_bins_hold_equally_many_words():
    rng = Seeds(0).numpy()
    x, y = rng.gamma(2, 2, 203), rng.normal(300, 10, 203)
    x[:3] = np.nan
    found, order = b.binned_times(x, y, 10), 3 + np.argsort(x[3:])
    assert (found["n"] == 20).all() and np.allclose(found["time"], y[order].reshape(10, 20).mean(1))
    assert np.allclose(found["high"] - found["time"], 1.96 * y[order].reshape(10, 20).std(1, ddof=1) / math.sqrt(20))


def test_simulated_readers_are_told_to_be_no_objective():
    from types import SimpleNamespace

    from evonb.alignment.objective import reading_scorer
    from evonb.core import Remark, Seeds

    about = SimpleNamespace(corpus="toy-english", texts=list, seeds=Seeds(0))
    with pytest.warns(Remark, match="no model can gain"):
        reading_scorer("", about)
