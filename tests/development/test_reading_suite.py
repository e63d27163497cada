"""Reading suites: BabyLM's scores equal to statsmodels' on a table in its format, stories, refusals, in a run."""

import csv
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from evonb.cli import main
from evonb.core import InputError, Seeds
from evonb.datasets import MissingCorpusError
from evonb.development.reading import COLUMNS, READING_MEASURES, TEXTS
from evonb.development.suites import open_suite
from evonb.kinds import open_run

RUN = Path(__file__).parents[1] / "runs" / "connectome.zip"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    "A table in BabyLM's format, of 30 sentences; some times are missing."
    rng, rows = np.random.default_rng(0), []
    words = "the old man saw a dog that ran to him".split()
    for s in range(30):
        order = [words[k] for k in rng.permutation(10)]
        for k in range(1, 8):
            row = dict(item=" ".join(order[:k]), word=order[k], prev_word=order[k - 1],
                       prev_item=" ".join(order[:k - 1]), sent_id=s, context_length=k, length=len(order[k]),
                       prev_length=len(order[k - 1]), Subtlex_log10=rng.normal(4, 1))
            row |= {t: round(rng.normal(300, 30), 1) for times, _ in READING_MEASURES.values() for t in times}
            rows.append(row | (dict(RTgopast="") if rng.random() < .2 else {}))
    path = tmp_path_factory.mktemp("reading") / "reading_data.csv"
    with path.open("w", newline="") as f:
        out = csv.DictWriter(f, (*TEXTS, *COLUMNS))
        out.writeheader()
        out.writerows(rows)
    return path


def partial_r2(data, time, known):
    "What the pipeline's formulas come to, in percent."
    pairs = [f"{a}:{b}" for i, a in enumerate(known) for b in known[i + 1:]]
    base = f"{time} ~ " + " + ".join([*known, *pairs])
    data = data[[time, *known, "pred"]].dropna()
    before, after = (smf.ols(f, data=data).fit().rsquared for f in (base, base + " + pred"))
    return 100 * (after - before) / (1 - before)


def test_scores_equal_the_pipelines_formulas(table):
    suite = open_suite(f"reading:{table}")
    sums = np.random.default_rng(1).normal(-6, 2, (len(suite), 2))
    sums[[len(i.options) == 1 for i in suite.items], 1] = np.nan
    found = suite.scores(suite.grade(dict(sums=sums)))
    data = pd.read_csv(table).assign(pred=-sums[:, 0], prev_pred=-sums[:, 1])
    known = ["Subtlex_log10", "length", "context_length"]
    eyes = [partial_r2(data, t, known) for t in ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound")]
    waits = partial_r2(data, "self_paced_reading_time", [*known, "prev_length", "prev_pred"])
    assert suite.names == ["self-paced reading", "eye tracking"]
    assert np.allclose(found["score"], [waits, np.mean(eyes)], rtol=1e-6)
    assert np.isfinite(found["held_out"]).all()


def test_words_are_asked_behind_what_was_read(table):
    suite = open_suite(f"reading:{table}")
    first, second = suite.items[:2]
    assert first.contexts == (second.contexts[1],) and first.options[0] == second.options[1]
    assert len({open_suite(f"reading:{table.parent}").digest(), suite.digest()}) == 1


def test_what_isnt_right_is_named(table, tmp_path, monkeypatch):
    monkeypatch.delenv("EVONB_DATA", raising=False)
    with pytest.raises(MissingCorpusError, match="reading aren't here.*osf.io/ryjfm"):
        open_suite("reading")
    text = table.read_text()
    for old, new, said in (("Subtlex_log10", "freq", "no column Subtlex_log10"), (",5,", ",five,", "no number")):
        (tmp_path / "reading_data.csv").write_text(text.replace(old, new))
        with pytest.raises(InputError, match=said):
            open_suite(f"reading:{tmp_path}")
    (tmp_path / "reading_data.csv").write_text("")
    with pytest.raises(InputError, match="no column item and no rows"):
        open_suite(f"reading:{tmp_path}")
    with pytest.raises(InputError, match="holds brain responses"):
        open_suite("reading-times:toy-brain", Seeds(0))


def test_newborns_are_examined_by_reading_times(table, tmp_path, monkeypatch):
    monkeypatch.setenv("EVONB_CACHE", str(tmp_path / "cache"))
    zipfile.ZipFile(RUN).extractall(tmp_path / "run")
    suites = f"reading:{table},reading-times:toy-reading"
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    assert main(["evaluate", run, "--suite", suites, "--untrained", "1", "--out", out]) == 0
    told = open_run(tmp_path / "out").summary()["suites"]
    assert told["reading"]["measure"] == "reading time explained (%)" and told["reading"]["chance"] is None
    score = told["reading-times"]["arms"]["connectome"]["score"]
    assert score["units"]["seed"] == 2 and score["units"]["story"] > 2
