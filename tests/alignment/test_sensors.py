"""EEG and MEG through MNE: files as it writes them, with what is easily misread; response functions beside its own."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evonb.alignment.data import open_data
from evonb.alignment.encoding import RidgeConfig, encode, make_folds
from evonb.alignment.response_functions import delayed_groups, response_functions
from evonb.alignment.responses import design, nuisance_design
from evonb.alignment.run import AlignConfig, paced
from evonb.alignment.sources import sensors as source
from evonb.alignment.sources.sensors import SensorConfig, events_name, files_of_people, sensor_files, sensor_responses
from evonb.core import InputError
from evonb.datasets import MissingCorpusError

mne = pytest.importorskip("mne", reason="EEG and MEG need the extra meg: pip install 'evonb[meg]'")

WORDS = "the cat that the dog had seen sat on a mat and slept until noon came by".split()
NAMES = ["Fz", "Cz", "Pz", "Oz", "C3", "C4"]


def eeg(rate=100.0, seconds=30, first=0, seed=0, sd=1e-5, extra=("EOG",), montage="standard_1005"):
    "A recording in volts whose first stored sample is number `first` of its acquisition."
    rng = np.random.default_rng(seed)
    info = mne.create_info(NAMES + list(extra), rate, ["eeg"] * len(NAMES) + ["eog"] * len(extra))
    data = sd * rng.standard_normal((len(info["ch_names"]), int(rate * seconds)))
    raw = mne.io.RawArray(data, info, first_samp=first, verbose="ERROR")
    return raw.set_montage(montage, verbose="ERROR") if montage else raw


def words_every(gap=1.5, start=1.0, n=17):
    return pd.DataFrame(dict(onset=start + gap * np.arange(n), duration=0.3, word=WORDS[:n]))


def saved(folder, raw, name="sub-01_task-story_eeg.fif", table=None):
    folder.mkdir(exist_ok=True, parents=True)
    raw.save(folder / name, overwrite=True, verbose="ERROR")
    if table is not None:
        table.to_csv(folder / events_name(name), sep="\t", index=False)
    return folder


def plain(**more):
    return SensorConfig(**dict(rate=100.0, band=None) | more)


# Where words are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dated", [False, True])
@pytest.mark.parametrize("first", [0, 1234])
def test_annotations_count_from_the_acquisition_and_words_from_the_first_sample(tmp_path, first, dated):
    raw, table = eeg(first=first), words_every()
    if dated:
        raw.set_meas_date(1_600_000_000)
    raw.set_annotations(mne.Annotations(table.onset, table.duration, table.word))  # relative to the first sample
    raw.annotations.append(raw.first_time + 3, 1, "BAD_blink")
    found = sensor_responses(saved(tmp_path / "a", raw), plain())
    assert found.passages[0].words == WORDS and "annotated as bad and left out: 101 of 3,000 samples" in found.notes[0]
    again = mne.io.read_raw(tmp_path / "a" / "sub-01_task-story_eeg.fif", verbose="ERROR")
    events, names = mne.events_from_annotations(again, regexp="^(?!BAD)", verbose="ERROR")  # MNE's own samples
    samples = events[:, 0] - again.first_samp
    assert np.array_equal(np.floor(found.onsets[0] * 100), samples) and again.first_samp == first
    assert np.array_equal(np.flatnonzero(found.nuisance["onset"][:, 0]), samples)
    in_table = sensor_responses(saved(tmp_path / "b", eeg(first=first), table=table), plain())
    assert np.allclose(in_table.onsets[0], found.onsets[0], atol=1e-6)


@pytest.mark.parametrize("unit, scale", [("ms", 1000), ("samples", 100)])
def test_onsets_in_other_units_are_refused_with_the_unit_that_fits(tmp_path, unit, scale):
    table = words_every()
    folder = saved(tmp_path / "a", eeg(), table=table.assign(onset=table.onset * scale))
    with pytest.raises(InputError, match=rf"with onsets in s .*17 of 17 words are outside of the 30 s.*unit='{unit}'"):
        sensor_responses(folder, plain())
    found = sensor_responses(folder, plain(unit=unit))
    assert np.allclose(found.onsets[0], table.onset + 0.005)


def test_onsets_that_count_from_the_acquisition_are_told_and_taken(tmp_path):
    table = words_every()
    folder = saved(tmp_path / "a", eeg(first=5000), table=table.assign(onset=100 * table.onset + 5000))
    with pytest.raises(InputError, match="unit='samples', from_acquisition=True.*first_samp 5000"):
        sensor_responses(folder, plain())
    found = sensor_responses(folder, plain(unit="samples", from_acquisition=True))
    assert np.allclose(found.onsets[0], table.onset + 0.005)


def test_words_outside_of_the_recording_are_refused_or_cut(tmp_path):
    folder = saved(tmp_path / "a", eeg(seconds=20), table=words_every())
    with pytest.raises(InputError, match="4 of 17 words are outside of the 20 s of the recording.*cut=True"):
        sensor_responses(folder, plain())
    found = sensor_responses(folder, plain(cut=True))
    assert found.passages[0].words == WORDS[:13] and "4 outside of the recording left out" in found.notes[0]
    crowded = saved(tmp_path / "b", eeg(), table=words_every(gap=0.001))
    with pytest.raises(InputError, match="words would follow each other every 1 ms"):
        sensor_responses(crowded, plain())


def test_a_recording_without_words_says_where_they_are_sought(tmp_path):
    raw = eeg()
    with pytest.raises(InputError, match="has no words: it has no annotations.*sub-01_task-story_events.tsv beside it"):
        sensor_responses(saved(tmp_path / "a", raw), plain())
    raw.set_annotations(mne.Annotations([1, 2], [0, 0], ["Stimulus/S  1", "BAD_x"]))
    with pytest.raises(InputError, match="its 2 annotations are like 'Stimulus/S  1'"):
        sensor_responses(saved(tmp_path / "b", raw), plain())
    folder = saved(tmp_path / "c", eeg(), table=words_every().rename(columns=dict(word="value")))
    with pytest.raises(InputError, match="lacks the column 'word'; it has: onset, duration, value"):
        sensor_responses(folder, plain())
    triggers = words_every().assign(word=["n/a", *WORDS[1:]])
    found = sensor_responses(saved(tmp_path / "d", eeg(), table=triggers), plain())
    assert found.passages[0].words == WORDS[1:]


# Channels and units -------------------------------------------------------------------------------------------------


def test_units_bad_channels_others_and_reference_are_as_told(tmp_path):
    raw = eeg()
    raw.info["bads"] = ["Oz"]
    raw.set_annotations(mne.Annotations(words_every().onset, 0.3, WORDS))
    found = sensor_responses(saved(tmp_path / "a", raw), plain())
    assert found.targets.target.tolist() == ["Fz", "Cz", "Pz", "C3", "C4"] and found.tr == 0.01
    volts = raw.get_data()[[0, 1, 2, 4, 5]]
    assert np.allclose(found.data.T, 1e6 * (volts - volts.mean(1, keepdims=True)), atol=1e-3)  # µV
    for told in ("unit: µV", "1 bad channel left out: Oz", "not used: 1 eog", "EEG reference: as recorded"):
        assert told in found.notes[0]
    average = sensor_responses(tmp_path / "a", plain(reference="average"))
    assert np.allclose(average.data.mean(1), 0, atol=1e-4) and "EEG reference: average" in average.notes[0]
    one = sensor_responses(tmp_path / "a", plain(reference="Pz"))
    assert "Pz" not in one.rois and np.allclose(one.data[:, 0], found.data[:, 0] - found.data[:, 2], atol=1e-3)
    loc = mne.channels.make_standard_montage("standard_1005").get_positions()["ch_pos"]["Fz"]
    assert found.targets.sensor_y[0] > 0.05 and np.isclose(np.linalg.norm(loc), 0.1, atol=0.03)


def test_projections_are_applied_and_told(tmp_path):
    raw = eeg()
    raw.set_annotations(mne.Annotations(words_every().onset, 0.3, WORDS))
    raw.set_eeg_reference("average", projection=True, verbose="ERROR")
    found = sensor_responses(saved(tmp_path / "a", raw), plain())
    assert "1 projection (SSP): 0 applied before" in found.notes[0] and np.allclose(found.data.mean(1), 0, atol=1e-4)


def meg(tmp_path, kinds, table=True):
    rng = np.random.default_rng(0)
    names, scale = [f"MEG{i:04}" for i in range(len(kinds))], dict(mag=2e-13, grad=5e-12, eeg=1e-5)
    info = mne.create_info(names, 100.0, kinds)
    for i, c in enumerate(info["chs"]):
        c["loc"][:3] = 0.1 * np.array([np.cos(i), np.sin(i), 1])
    data = np.array([scale[k] for k in kinds])[:, None] * rng.standard_normal((len(kinds), 3000))
    raw = mne.io.RawArray(data, info, verbose="ERROR")
    return saved(tmp_path, raw, "sub-01_task-story_meg.fif", words_every()), data


def test_kinds_of_sensors_are_never_mixed(tmp_path):
    folder, data = meg(tmp_path / "sub-01", ["mag", "grad", "grad", "mag"])
    with pytest.raises(InputError, match=r"several kinds, whose units differ: 2 mag \(fT\), 2 grad \(fT/cm\)"):
        sensor_responses(folder, plain())
    (tmp_path / "mags.json").write_text(json.dumps(dict(path="sub-01", channels="mag", rate=100.0, band=None)))
    found = open_data(f"mne:{tmp_path / 'mags.json'}")
    assert found.rois == ["MEG0000", "MEG0003"] and np.allclose(found.data.std(0), 200, atol=20)  # fT
    assert sensor_responses(folder, plain(channels="grad")).data.std() == pytest.approx(50, rel=0.1)  # fT/cm
    with pytest.raises(InputError, match="channels is 'eeg', but must be one of: mag, grad"):
        sensor_responses(folder, plain(channels="eeg"))


def test_numbers_in_a_unit_that_cant_be_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"varies by .*e\+0[67] µV.*aren't in the unit"):  # µV that were stored as V
        sensor_responses(saved(tmp_path / "a", eeg(sd=10.0), table=words_every()), plain())
    with pytest.raises(InputError, match="all 6 eeg channels are marked as bad"):
        raw = eeg()
        raw.info["bads"] = NAMES
        sensor_responses(saved(tmp_path / "b", raw, table=words_every()), plain())


def test_sensors_without_places_need_a_montage(tmp_path):
    folder = saved(tmp_path / "a", eeg(montage=None), table=words_every())
    with pytest.raises(InputError, match="6 sensors have no place: Fz, Cz.*standard_1005"):
        sensor_responses(folder, plain())
    known = sensor_responses(folder, plain(montage="standard_1005"))
    assert np.isfinite(known.targets.sensor_x).all()
    assert np.isnan(sensor_responses(folder, plain(montage="none")).targets.sensor_x).all()
    with pytest.raises(InputError, match="the montage 'GSN-HydroCel-32' doesn't fit"):
        sensor_responses(folder, plain(montage="GSN-HydroCel-32"))


def test_filters_and_rates(tmp_path):
    rate, t = 500.0, np.arange(15000) / 500
    raw = eeg(rate=rate)
    for i, hertz in enumerate((3, 40, 0.05)):  # kept, filtered as an alias would be, filtered as drift
        raw._data[i] = 1e-5 * np.sin(2 * np.pi * hertz * t)
    folder = saved(tmp_path / "a", raw, table=words_every())
    found = sensor_responses(folder)
    assert found.tr == 1 / 25 and len(found.data) == 750 and found.pace["delays"] == tuple(range(16))
    middle = found.data[100:-100, :3].std(0)
    assert middle[0] == pytest.approx(10 / 2**0.5, rel=0.02) and middle[1] < 0.05 and middle[2] < 0.5
    wanted = 10 * np.sin(2 * np.pi * 3 * np.arange(750) / 25)
    assert np.abs(found.data[100:-100, 0] - wanted[100:-100]).max() < 0.3
    assert "resampled from 500 to 25 Hz" in found.notes[0] and "0.5 to 8 Hz" in found.notes[0]
    with pytest.raises(InputError, match="rate is 1000 Hz, but .* has 500 samples a second"):
        sensor_responses(folder, SensorConfig(rate=1000))
    with pytest.raises(InputError, match="band is .* below half of the rate"):
        SensorConfig(band=(1, 20))


def test_an_alignment_takes_the_rhythm_of_the_data(tmp_path):
    found = sensor_responses(saved(tmp_path / "a", eeg(), table=words_every()))
    config = paced(AlignConfig("toy", "mne"), found)
    assert config.delays == tuple(range(16)) and config.trim == 15 + 83 and config.block == 100
    own = paced(AlignConfig("toy", "mne", delays=(2, 3), block=7), found)
    assert own.delays == (2, 3) and own.block == 7
    train, test = make_folds(len(found.data), found.groups, RidgeConfig(trim=config.trim))[2]
    assert min(np.abs(train[:, None] - test).min(1)) > config.trim


# Files --------------------------------------------------------------------------------------------------------------


def test_which_files_are_read(tmp_path):
    for name, told in (("sub-01_task-x_split-01_meg.fif", "sub-01_task-x_events.tsv"), ("a_raw.fif", "a_events.tsv"),
                       ("b-raw_sss.fif.gz", "b_events.tsv"), ("sub-2_eeg.vhdr", "sub-2_events.tsv")):
        assert events_name(name) == told
    folder = tmp_path / "ds"
    names = ("sub-01_task-x_split-01_meg.fif", "sub-01_task-x_split-02_meg.fif", "sub-01_run-2_eeg.fif", "notes.fif")
    for name in names:
        (folder / "sub-01" / "meg").mkdir(exist_ok=True, parents=True)
        (folder / "sub-01" / "meg" / name).write_bytes(b"x")
    assert [p.name for p in sensor_files(folder)] == ["sub-01_run-2_eeg.fif", "sub-01_task-x_split-01_meg.fif"]
    (folder / "sub-02_eeg.fif").write_bytes(b"x")
    people = files_of_people(sensor_files(folder), folder)
    assert {p: [f.name for f in own] for p, own in people.items()} == {"sub-01": sorted(names[:1] + names[2:3]),
                                                                      "sub-02": ["sub-02_eeg.fif"]}  # fmt: skip
    assert list(files_of_people(sensor_files(folder / "sub-01"), folder / "sub-01")) == ["one"]
    (folder / "sub-01" / "meg" / "x-epo.fif").write_bytes(b"x")
    with pytest.raises(InputError, match="recordings that go on .* and epochs"):
        sensor_files(folder / "sub-01")
    with pytest.raises(MissingCorpusError, match="There is no file or folder"):
        sensor_files(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingCorpusError, match="holds no recording"):
        sensor_files(tmp_path / "empty")


def test_two_recordings_share_their_good_channels(tmp_path):
    for i in (1, 2):
        raw = eeg(seed=i)
        raw.info["bads"] = [NAMES[i]]
        saved(tmp_path / "a", raw, f"sub-01_run-{i}_eeg.fif", words_every(n=9))
    found = sensor_responses(tmp_path / "a", plain())
    assert found.rois == ["Fz", "Oz", "C3", "C4"] and len(found.runs) == 2
    assert any("2 channels that some recording lacks left out: Cz, Pz" in n for n in found.notes)


def test_brainvision_is_read_as_it_says(tmp_path):
    rng, table = np.random.default_rng(0), words_every()
    values = rng.integers(-200, 200, (1500, 2)).astype("<i2")
    (tmp_path / "sub-01_task-a_eeg.eeg").write_bytes(values.tobytes())
    channels = "\n".join(f"Ch{i}={n},,0.5,µV" for i, n in ((1, "Fz"), (2, "Cz")))
    (tmp_path / "sub-01_task-a_eeg.vhdr").write_text(
        "BrainVision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=sub-01_task-a_eeg.eeg\nMarkerFile=sub-01_task-a_eeg.vmrk\nDataFormat=BINARY\n"
        "DataOrientation=MULTIPLEXED\nNumberOfChannels=2\nSamplingInterval=20000\n[Binary Infos]\n"
        f"BinaryFormat=INT_16\n[Channel Infos]\n{channels}\n", encoding="utf-8")
    (tmp_path / "sub-01_task-a_eeg.vmrk").write_text(
        "BrainVision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=sub-01_task-a_eeg.eeg\n[Marker Infos]\nMk1=New Segment,,1,1,0,0\n", encoding="utf-8")
    table.to_csv(tmp_path / "sub-01_task-a_events.tsv", sep="\t", index=False)
    found = sensor_responses(tmp_path, plain(rate=50.0, montage="standard_1005"))
    wanted = 0.5 * values  # µV by the header's resolution
    assert np.allclose(found.data, wanted - wanted.mean(0), atol=1e-3) and found.passages[0].words == WORDS


def written_edf(path, names, microvolts, rate, marks):
    "EDF+ of one-second records: 16 bits over 3276.7 µV to each side, and a channel of annotations."
    n, per = len(names) + 1, [rate] * len(names) + [120]
    seconds = microvolts.shape[1] // rate
    field = lambda values, width: "".join(f"{v!s:<{width}}" for v in values)
    head = field(["0"], 8) + field(["X X X X", "Startdate 02-JAN-2020 X X X"], 80) + field(["02.01.20", "10.00.00"], 8)
    head += field([256 * (n + 1)], 8) + field(["EDF+C"], 44) + field([seconds, 1], 8) + field([n], 4)
    signals = len(names)
    head += field([*names, "EDF Annotations"], 16) + field([""] * n, 80) + field(["uV"] * signals + [""], 8)
    head += field(["-3276.7"] * signals + ["-1"], 8) + field(["3276.7"] * signals + ["1"], 8)
    head += field(["-32767"] * n, 8) + field(["32767"] * n, 8) + field([""] * n, 80)
    head += field(per, 8) + field([""] * n, 32)
    out = [head.encode("ascii")]
    for s in range(seconds):
        out.append(np.round(10 * microvolts[:, s * rate:(s + 1) * rate]).astype("<i2").tobytes())
        told = f"+{s}\x14\x14\x00" + "".join(f"+{on:g}\x15{d:g}\x14{word}\x14\x00" for on, d, word in marks
                                            if s <= on < s + 1)  # fmt: skip
        out.append(told.encode().ljust(240, b"\0"))
    path.write_bytes(b"".join(out))


def test_edf_is_read_as_it_says(tmp_path):
    rng, table = np.random.default_rng(0), words_every()
    values = np.round(rng.normal(0, 20, (3, 3000)), 1)  # µV, to the tenth that 16 bits hold here
    marks = [*table.itertuples(index=False), (20.2, 1.1, "BAD_move")]
    written_edf(tmp_path / "sub-01_task-a_eeg.edf", ["Fz", "Cz", "Pz"], values, 100, marks)
    found = sensor_responses(tmp_path, plain(montage="standard_1005"))
    good = np.concatenate(found.kept)
    assert found.passages[0].words == WORDS and np.allclose(found.onsets[0], table.onset + 0.005)
    assert np.flatnonzero(~good).tolist() == [*range(2020, 2131)] and len(found.data) == 3000 - 111
    wanted = values[:, good].T
    assert np.allclose(found.data, wanted - wanted.mean(0), atol=2e-3) and found.rois == ["Fz", "Cz", "Pz"]


@pytest.mark.parametrize("apart", [False, True])
def test_eeglab_is_read_as_it_says(tmp_path, apart):
    from scipy.io import savemat

    rng, table = np.random.default_rng(0), words_every()
    values = rng.normal(0, 20, (3, 3000)).astype(np.float32)  # µV
    if apart:
        (tmp_path / "sub-01_task-a_eeg.fdt").write_bytes(values.T.tobytes())
    kinds = [(n, object) for n in ("labels", "type", "X", "Y", "Z")]
    places = [("Fz", "EEG", 60.0, 0.0, 60.0), ("Cz", "EEG", 0.0, 0.0, 85.0), ("Pz", "EEG", -60.0, 0.0, 60.0)]
    events = [(100 * r.onset + 1, 30.0, r.word) for r in table.itertuples()]  # samples, from 1
    eeg = dict(setname="a", nbchan=3, trials=1, pnts=3000, srate=100.0, xmin=0.0, xmax=29.99, icawinv=[], icaweights=[],
               icasphere=[], chanlocs=np.array(places, kinds), chaninfo=dict(nosedir="+X"), epoch=[], ref="common",
               event=np.array(events, [("latency", object), ("duration", object), ("type", object)]),
               data="sub-01_task-a_eeg.fdt" if apart else values)  # fmt: skip
    savemat(tmp_path / "sub-01_task-a_eeg.set", dict(EEG=eeg), appendmat=False)
    found = sensor_responses(tmp_path, plain())
    assert found.passages[0].words == WORDS and np.allclose(found.onsets[0], table.onset + 0.005)
    wanted = values.T.astype(float)
    assert np.allclose(found.data, wanted - wanted.mean(0), atol=1e-3) and found.kept is None
    x, y = found.targets.sensor_x, found.targets.sensor_y
    assert np.isfinite(x).all() and y[0] > 0.03 > abs(x[0])


# Bad stretches ------------------------------------------------------------------------------------------------------


def spoilt(folder, damage, seconds=60):
    raw, table = eeg(seconds=seconds), words_every(gap=0.6, n=17)
    table = pd.concat([table.assign(onset=table.onset + 12 * i) for i in range(4)])
    raw.set_annotations(mne.Annotations([20.0, 24.03], [2.0, 0.5], ["BAD_move", "bad blink"]))
    if damage is not None:
        for on, end in ((2000, 2200), (2403, 2453)):
            raw._data[:6, on:end] = damage
    return saved(folder, raw, table=table)


@pytest.mark.parametrize("config", [SensorConfig(), plain(), SensorConfig(reference="average")])
def test_what_is_in_a_bad_stretch_changes_nothing(tmp_path, config):
    clean, loud, gone = (sensor_responses(spoilt(tmp_path / n, d), config)
                         for n, d in (("a", None), ("b", 0.05), ("c", np.nan)))  # fmt: skip
    assert np.array_equal(clean.data, loud.data) and np.array_equal(clean.data, gone.data)
    times = np.arange(len(clean.kept[0])) * clean.tr
    half = clean.tr / 2
    inside = (times > 20 - half) & (times < 22 + half) | (times > 24.03 - half) & (times < 24.53 + half)
    assert np.array_equal(~clean.kept[0], inside) and len(clean.data) == (~inside).sum()
    assert f"annotated as bad and left out: {inside.sum()} of" in clean.notes[0]


def test_damage_in_a_bad_stretch_changes_no_score(tmp_path, tiny_reader):
    from evonb.alignment.brain_objective import BrainScore

    base, config = tiny_reader(0), AlignConfig("x", "mne", layers=(1,))
    scores = [BrainScore(sensor_responses(spoilt(tmp_path / str(i), d)), config) for i, d in enumerate((None, 0.05))]
    assert scores[0](base) == scores[1](base)
    of = scores[0].of
    X = of.layer_design(scores[0].hidden(base).values[0])
    assert len(X) == len(of.data.data) == len(of.given["confounds"]) == len(of.given["groups"]) < 1500
    rows = of.row_design("word-rate", None)
    assert len(rows) == len(X)


def test_delays_reach_over_a_bad_stretch(tmp_path):
    found = sensor_responses(spoilt(tmp_path / "a", None))
    whole = replace(found, kept=None, data=np.random.default_rng(0).standard_normal((1500, 6)), groups=np.zeros(1500))
    values = np.random.default_rng(1).standard_normal((found.n_words, 2))
    ask = dict(delays=found.pace["delays"])
    assert np.array_equal(design(found, values, **ask), design(whole, values, **ask)[found.kept[0]])
    both = (nuisance_design(x, **ask)["onset"] for x in (found, whole))
    assert np.array_equal(next(both), next(both)[found.kept[0]])


def test_a_recording_that_is_bad_throughout_is_refused(tmp_path):
    raw = eeg()
    raw.set_annotations(mne.Annotations([0], [40], ["BAD_all"]))
    with pytest.raises(InputError, match="annotated as bad throughout"):
        sensor_responses(saved(tmp_path / "a", raw, table=words_every()), plain())


# Several people -----------------------------------------------------------------------------------------------------


def person(folder, i, name, start, rate=100.0, **more):
    table = words_every(start=start)
    raw = eeg(rate=rate, seconds=30, seed=0, **more)
    drive = np.zeros(raw.n_times)
    drive[np.round(table.onset * rate).astype(int)] = [len(w) for w in WORDS]
    raw._data[:6] = 1e-5 * (drive + 0.1 * np.random.default_rng(i).standard_normal((6, raw.n_times)))
    return saved(folder, raw, name, table)


def test_several_people_stand_side_by_side_at_the_same_moments(tmp_path):
    for i, start in ((1, 1.0), (2, 2.5), (3, 1.2)):
        person(tmp_path / "ds" / f"sub-{i:02}" / "eeg", i, f"sub-{i:02}_task-story_eeg.fif", start)
    found = open_data(f"mne:{tmp_path / 'ds'}")
    assert found.subjects == ["sub-01", "sub-02", "sub-03"] and found.targets.target[0] == "sub-01 Fz"
    assert len(found.runs) == 1 and found.passages[0].words == WORDS and found.rois == NAMES
    found = sensor_responses(tmp_path / "ds", plain())
    at = np.floor(found.onsets[0] * 100).astype(int)  # letters stand at the samples of their words, in everyone
    lengths = [len(w) for w in WORDS]
    assert all(np.corrcoef(found.data[at, j], lengths)[0, 1] > 0.99 for j in range(18))
    assert np.isclose(found.onsets[0][0], 1.005) and len(found.data) == round(100 * (1 + 30 - 2.5))
    assert all(n.startswith("sub-0") for n in found.notes[:3])
    one = sensor_responses(tmp_path / "ds" / "sub-02", plain())
    assert one.subjects == ["one"] and one.targets.target[0] == "Fz"


def test_bad_stretches_of_anyone_are_left_out_of_all(tmp_path):
    for i in (1, 2):
        folder = person(tmp_path / "ds", i, f"sub-0{i}_eeg.fif", 1.0 + i)
    path = folder / "sub-02_eeg.fif"
    raw = mne.io.read_raw(path, preload=True, verbose="ERROR")
    raw.set_annotations(mne.Annotations([10.0], [1.0], ["BAD_x"])).save(path, overwrite=True, verbose="ERROR")
    found = sensor_responses(tmp_path / "ds", plain())
    assert np.flatnonzero(~found.kept[0]).tolist() == [*range(900, 1001)]  # one second less lies before the first word
    assert "samples that are bad for anyone are left out: 101" in found.notes


def test_a_folder_for_each_person_and_who_cant_be_put_together(tmp_path):
    for who in ("anna", "bert"):
        person(tmp_path / "ds" / who, 1, "story_raw.fif", 1.0)
    assert sensor_responses(tmp_path / "ds", plain()).subjects == ["one"]  # two recordings of one person, as before
    (tmp_path / "both.json").write_text(json.dumps(dict(path="ds", rate=100.0, band=None, people="folders")))
    assert open_data(f"mne:{tmp_path / 'both.json'}").subjects == ["anna", "bert"]
    for name, table, message in (
            ("words", words_every().assign(word=WORDS[::-1]), "sub-02 met other words than sub-01"),
            ("times", words_every(gap=1.4), "up to 1.6 s earlier or later than sub-01")):  # fmt: skip
        person(tmp_path / name, 1, "sub-01_eeg.fif", 1.0)
        saved(tmp_path / name, eeg(), "sub-02_eeg.fif", table)
        with pytest.raises(InputError, match=message):
            sensor_responses(tmp_path / name)
    person(tmp_path / "more", 1, "sub-01_run-1_eeg.fif", 1.0)
    person(tmp_path / "more", 1, "sub-01_run-2_eeg.fif", 1.0)
    person(tmp_path / "more", 2, "sub-02_run-1_eeg.fif", 1.0)
    with pytest.raises(InputError, match="different numbers of recordings: .*'sub-01': 2"):
        sensor_responses(tmp_path / "more")
    person(tmp_path / "whose", 1, "sub-01_eeg.fif", 1.0)
    person(tmp_path / "whose", 1, "other_eeg.fif", 1.0)
    with pytest.raises(InputError, match="sub-01, but whose is .*other_eeg.fif"):
        sensor_responses(tmp_path / "whose")


def test_epochs_of_several_people(tmp_path):
    for i in (1, 2):
        epoched(tmp_path / "ds" / f"sub-0{i}")
    found = sensor_responses(tmp_path / "ds", SensorConfig(bins=0.2))
    assert found.data.shape == (16, 2 * 18) and found.subjects == ["sub-01", "sub-02"]
    epoched(tmp_path / "ds" / "sub-02", n=12)
    with pytest.raises(InputError, match=r"sub-02 has other epochs than sub-01 \(12 and 16\)"):
        sensor_responses(tmp_path / "ds")


def test_without_mne_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mne", None)
    with pytest.raises(ImportError, match=re.escape('pip install "evonb[meg]"')):
        source.load_mne()
    with pytest.raises(MissingCorpusError, match="mne has no data of its own"):
        open_data("mne")
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(InputError, match="must name a path"):
        open_data(f"mne:{tmp_path / 'x.json'}")


# Epochs -------------------------------------------------------------------------------------------------------------


def epoched(folder, gap=100, n=16, meta=True, tmax=0.5, **more):
    rng = np.random.default_rng(0)
    info = mne.create_info(NAMES, 100.0, "eeg")
    events = np.c_[1000 + gap * np.arange(n), np.zeros(n, int), np.arange(n)]
    data = 1e-5 * rng.standard_normal((n, len(NAMES), int(100 * (tmax + 0.1)) + 1))
    about = pd.DataFrame(dict(word=WORDS[:n], sentence=np.repeat(np.arange(n // 4), 4))) if meta else None
    ids = {f"{i} {w}" if not meta else str(i): i for i, w in enumerate(WORDS[:n])}
    epochs = mne.EpochsArray(data, info, events, -0.1, ids, metadata=about, verbose="ERROR", **more)
    epochs.set_montage("standard_1005")
    folder.mkdir(exist_ok=True, parents=True)
    epochs.save(folder / "words-epo.fif", overwrite=True, verbose="ERROR")
    return data


def test_epochs_are_items_with_a_target_each_sensor_and_time(tmp_path):
    data = epoched(tmp_path / "a")
    found = sensor_responses(tmp_path / "a", SensorConfig(bins=0.2))
    assert found.kind == "items" and found.data.shape == (16, 6 * 3) and len(found.rois) == 6
    assert found.targets.target[:2].tolist() == ["Fz 0 ms", "Cz 0 ms"]
    assert found.targets.time.tolist()[-1] == pytest.approx(0.5)
    assert np.allclose(found.data[:, 6], 1e6 * data[:, 0, 30:50].mean(1), atol=1e-3)  # Fz, 200 to 400 ms
    assert found.passages[2].text == "the cat that" and found.passages[4].text == WORDS[4]
    assert found.groups.tolist() == [str(i // 4) for i in range(16)]


def test_epochs_that_share_samples_are_refused_unless_folds_keep_them_together(tmp_path):
    epoched(tmp_path / "a", gap=30)
    with pytest.raises(InputError, match="15 of 16 epochs overlap with the next.*0.6 s and begin 0.3 s after"):
        sensor_responses(tmp_path / "a")
    epoched(tmp_path / "b", gap=30, meta=False)
    with pytest.raises(InputError, match="and no column says which"):
        sensor_responses(tmp_path / "b")
    path = tmp_path / "c"
    epoched(path)
    epochs = mne.read_epochs(path / "words-epo.fif", verbose="ERROR")
    epochs.events[:, 0] = 1000 + 30 * np.arange(16) + 400 * (np.arange(16) // 4)
    epochs.save(path / "words-epo.fif", overwrite=True, verbose="ERROR")
    assert "12 epochs overlap with the next of their group" in sensor_responses(path).notes[0]


def test_epochs_without_words_are_refused(tmp_path):
    epoched(tmp_path / "a")
    epochs = mne.read_epochs(tmp_path / "a" / "words-epo.fif", verbose="ERROR")
    epochs.metadata = epochs.metadata.rename(columns=dict(word="value"))
    epochs.save(tmp_path / "a" / "words-epo.fif", overwrite=True, verbose="ERROR")
    with pytest.raises(InputError, match="metadata lack the column 'word'; they have: value, sentence"):
        sensor_responses(tmp_path / "a")
    epochs.metadata = None
    epochs.save(tmp_path / "a" / "words-epo.fif", overwrite=True, verbose="ERROR")
    with pytest.raises(InputError, match="has no words: its events are numbers, such as '0'"):
        sensor_responses(tmp_path / "a")


# Response functions beside MNE's ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.1, 10.0, 1000.0])
def test_response_functions_are_those_of_mne(alpha):
    from mne.decoding import ReceptiveField
    from sklearn.linear_model import Ridge

    rng, n, rate, delays = np.random.default_rng(0), 900, 25.0, range(0, 11)
    X, Y = rng.standard_normal((n, 2)), rng.standard_normal((n, 3))
    for part in (X[:600], X[600:]):  # MNE takes the mean out before delays, we after: the same where edges are silent
        part[-10:] = 0
        part[:-10] -= part[:-10].mean(0)
    Y[5:] += X[:-5, :1] * [1, 0.5, 0] - 0.7 * X[2:-3, 1:]
    config = RidgeConfig(alphas=(alpha,), scale=False, n_folds=3)
    found = response_functions(X, Y, ["a", "b"], rate, delays, None, config)
    field = ReceptiveField(0, 0.4, rate, ["a", "b"], Ridge(alpha), scoring="r2")
    field.fit(X, Y)  # coef_: (n_outputs, n_predictors, n_delays)
    assert np.allclose(found.weights.values, field.coef_.transpose(1, 2, 0), rtol=1e-9, atol=1e-12)
    assert np.allclose(found.delay, field.delays_ / rate)
    train, test = make_folds(n, None, config)[2]  # the last third: what stands before it is there for its delays
    assert test.tolist() == [*range(600, 900)]
    held = encode(delayed_groups(X, delays), Y, None, config).prediction.values[test]
    field.fit(X[train], Y[train])
    assert np.allclose(held, field.predict(X)[test], rtol=1e-9, atol=1e-12)


def test_known_response_functions_come_back_and_predictors_are_named():
    rng, n = np.random.default_rng(1), 4000
    X = rng.standard_normal((n, 2))
    kernel = np.exp(-((np.arange(8) - 3) ** 2))
    Y = np.convolve(X[:, 1], kernel)[:n, None] + 0.1 * rng.standard_normal((n, 1))
    found = response_functions(X, Y, ["a", "b"], 25, range(8))
    assert np.abs(found.weights.sel(predictor="b").values[:, 0] - kernel).max() < 0.02
    assert np.abs(found.weights.sel(predictor="a").values).max() < 0.02 and float(found.r.mean()) > 0.95
    with pytest.raises(InputError, match="a column for each of the 1 predictors"):
        response_functions(X, Y, ["a"], 25, range(8))


# A run --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listened(tmp_path_factory, tiny_reader):
    "An alignment with a person whose sensors follow the number of letters 320 ms after a word, most at Pz."
    from evonb.alignment.run import align_run
    from evonb.training.base import save_base

    folder, rng = tmp_path_factory.mktemp("heard"), np.random.default_rng(0)
    words = (WORDS * 8)[:110]
    onsets = 1 + np.cumsum(rng.uniform(0.35, 0.8, len(words)))
    raw = eeg(rate=50.0, seconds=int(onsets[-1]) + 4, first=777)
    drive = np.zeros(raw.n_times + 40)
    drive[(50 * onsets).round().astype(int) + 16] = [len(w) for w in words]
    shape = np.exp(-((np.arange(-8, 9) / 50) ** 2) / 0.004)
    weight = 2e-5 * np.array([0.2, 0.5, 1, 0.4, 0.3, 0.3])[:, None]
    raw._data[:6] += weight * np.convolve(drive, shape, "same")[: raw.n_times]
    saved(folder, raw, table=pd.DataFrame(dict(onset=onsets, duration=0.2, word=words)))
    base = tiny_reader(0)
    save_base(base.model, base.tokenizer, folder / "base")
    config = AlignConfig(str(folder / "base"), f"mne:{folder}", untrained=1, layers=(1,), n_permutations=20,
                         across=(), nuisance=("onset",))
    return align_run(folder / "run", config, show=False, device="cpu", cache=folder / "cache")


def test_a_run_keeps_places_and_how_responses_unfold(listened):
    from evonb.store import read_dataset, read_json

    ds, trf = (read_dataset(listened.file(f"{n}.zarr.zip")) for n in ("brain", "trf"))
    assert ds.roi.values.tolist() == NAMES and np.isfinite(ds.sensor_z).all() and np.isfinite(ds.gain_best).all()
    assert trf.weights.dims == ("model", "predictor", "delay", "target") and trf.sizes["delay"] == 16
    letter = trf.weights.sel(predictor="letter").isel(model=0)
    assert NAMES[int(np.abs(letter).max("delay").argmax())] == "Pz"
    assert abs(float(letter.delay[int(letter.sel(target="Pz").argmax())]) - 0.32) < 0.05
    assert not list(listened.path.glob("maps/*"))
    assert any("resampled from 50 to 25 Hz" in n for n in read_json(listened.file("summary.json"))["notes"])


def test_explorer_and_report_show_the_head_instead_of_a_cortex(listened, tmp_path):
    from evonb.report import write_report
    from evonb.widgets.alignment import AlignmentExplorer

    seen = AlignmentExplorer(listened)
    assert {"sensors", "trf"} <= set(seen.views) and not {"map", "strip", "slices"} & set(seen.views)
    assert seen.views["sensors"].click == dict(region="key") and "when" not in seen.controls
    dots = seen.figure("sensors", measure="r", layer=1).data[-1]
    part = next(iter(seen.found.brain.values()))
    wanted = {t: float(part.ds.r.isel(layer=0, model=0).sel(target=t)) for t in NAMES}
    assert all(np.isclose(wanted[n], v) for n, v in zip(dots.customdata, dots.marker.color))
    assert "Cz in blue" in seen.figure("trf", region="Cz").layout.title.subtitle.text
    page = seen.to_html(tmp_path / "page.html", only=dict(measure=["r"], seed=["mean"], layer=[1], region=["", "Cz"]))
    assert "How responses unfold" in page.read_text()
    told = write_report(listened.path).read_text()
    assert "Brain: sensors" in told and "Brain: how responses unfold" in told and "Brain: the map" not in told
