"""tasks: grading against plain loops, splits without leaks, the seal, published formats, bad input by name."""

import csv
import importlib.util
import json
import math
import pickle
import warnings

import numpy as np
import pytest

from evonb.core import DamagedFileError, InputError, Remark, Seeds
from evonb.datasets import MissingCorpusError, MissingExtraError
from evonb.tasks.tasks import (
    Choice,
    Grading,
    Item,
    Prompt,
    ScoreError,
    SealedTestError,
    SealedTestWarning,
    Task,
    TaskFileError,
    affordable,
    by_group,
    choice_credit,
    draw_splits,
    make_task,
    mix,
    normalise_text,
    open_test,
    parse_number,
    read_record,
    skill_task,
)
from evonb.text.toy_english import minimal_pairs

pytestmark = pytest.mark.numerics


def written(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def sums(n=60, **more):
    return [
        dict(prompt=f"{i} plus 1 is", options=[str(i + 1), f"about {i}"], answer=i % 2, group="ab"[i % 3 == 0], **more)
        for i in range(n)
    ]


def fake_outputs(task, split="validation", seed=0):
    rng = np.random.default_rng(seed)
    return [(-5 * rng.random(len(r.options)), rng.integers(1, 6, len(r.options))) for r in task.requests(split)]


# Grading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["none", "characters", "bytes", "tokens"])
def test_choices_are_graded_as_a_plain_loop_does(normalise):
    rng = np.random.default_rng(1)
    items = [
        Item(f"p{i}", tuple("é" * rng.integers(1, 9) + str(j) for j in range(rng.integers(2, 5))), 1) for i in range(50)
    ]
    task = Task("t", "choice", {"validation": items}, Grading(normalise=normalise))
    outputs, right = fake_outputs(task), []
    for item, (ll, count) in zip(items, outputs):
        sizes = dict(
            none=[1] * len(ll),
            characters=[len(o) for o in item.options],
            tokens=count,
            bytes=[len(o.encode()) for o in item.options],
        )[normalise]
        scores = [v / size for v, size in zip(ll, sizes)]
        right.append(float(scores.index(max(scores)) == item.answer))
    score = task.grade("validation", outputs)
    assert score.credit.tolist() == right and score.mean == np.mean(right) and score.n == 50
    assert score.se == pytest.approx(math.sqrt(np.var(right, ddof=1) / 50))
    assert all(r.absolute == (normalise != "none") for r in task.requests())


def test_ties_share_their_credit():
    scores = np.array([[0, 0, 0, 0], [1, 1, 0, np.nan], [-np.inf, -np.inf, np.nan, np.nan], [1, 0.95, 0, 0]])
    assert choice_credit(scores, [3, 0, 1, 1]).tolist() == [0.25, 0.5, 0.5, 0]
    assert choice_credit(scores, [3, 0, 1, 1], tolerance=0.1).tolist() == [0.25, 0.5, 0.5, 0.5]
    items = [Item(str(i), ("a", "b", "c", "d"), i % 4) for i in range(10)]
    task = Task("t", "choice", {"validation": items})
    assert task.grade("validation", [(np.zeros(4), np.ones(4))] * 10).mean == task.chance == 0.25


def test_scores_that_cant_be_graded_fail_the_individual():
    task = Task("t", "choice", {"validation": [Item("p", ("a", "b"), 0)] * 2})
    fine = (np.array([-1.0, -2.0]), np.array([1, 1]))
    for bad in (np.nan, np.inf):
        with pytest.raises(ScoreError, match="item 1 .*can't be scored"):
            task.grade("validation", [fine, (np.array([-1.0, bad]), np.array([1, 1]))])
    with pytest.raises(InputError, match="2 requests .*1 outputs"):
        task.grade("validation", [fine])
    with pytest.raises(InputError, match="item 0 has 3 log-likelihoods, but 2 options"):
        task.grade("validation", [(np.zeros(3), np.ones(3)), fine])


def test_perplexity_is_minus_bits_per_byte_and_higher_is_better():
    texts = ["abcd", "é" * 10, "some words"]
    task = Task("t", "perplexity", {"validation": [Item("", (t,), 0) for t in texts]})
    assert task.requests()[1] == Choice("", ("é" * 10,), True) and math.isnan(task.chance)
    nats = [-8.0, -20.0, -15.0]
    score = task.grade("validation", [(np.array([v]), np.array([3])) for v in nats])
    assert score.mean == pytest.approx(sum(nats) / math.log(2) / (4 + 20 + 10))
    better = task.grade("validation", [(np.array([v / 2]), np.array([3])) for v in nats])
    assert better.mean > score.mean and score.se > 0
    equal = task.grade("validation", [(np.array([-float(len(t.encode()))]), np.array([3])) for t in texts])
    assert equal.se == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "text, number",
    [
        ("1,000", "1000"),
        ("$5.00", "5"),
        ("The answer is 42.", "42"),
        ("50 %", "50"),
        ("50%", "50"),
        ("-3", "-3"),
        ("4 and then 1,234,567.80", "1234567.8"),
        ("1/2", "0.5"),
        ("€ 7", "7"),
        ("#### 12", "12"),
        ("3 apples", "3"),
        ("=-4", "-4"),
        ("9-4", "4"),
        ("1e3", "1000"),
        ("0.50", "1/2"),
        ("10 - 3", "3"),
        ("1 000", "1000"),
        ("1\u202f000", "1000"),
        ("1\u00a0000,5", "1000.5"),
        ("1.000,50", "1000.5"),
        ("1,000.50", "1000.5"),
        ("minus 2", "-2"),
        ("\u22122", "-2"),
        ("\u20132", "-2"),
        ("negative 3.5", "-3.5"),
        ("5 minus 2", "2"),
        ("3\u20135", "5"),
        ("5 kg", "5"),
        ("5kg.", "5"),
        ("about 5 m2", "5"),
        ("1'000", "1000"),
        ("1\u2019234\u2019567.8", "1234567.8"),
        ("1.000.000", "1000000"),
        ("1.000", "1"),
        ("0,5", "0.5"),
        ("12,5", "12.5"),
        ("1,2,3", "3"),
        ("100 200 300", "300"),
        ("1 234 567", "1234567"),
        ("1,00,000", "100000"),
        ("It is minus 1 000,5 degrees.", "-1000.5"),
        ("-1 000", "-1000"),
        ("1.234.567,89", "1234567.89"),
        ("\u22121.000,50", "-1000.5"),
        ("x2", "2"),
        ("12 500 people", "12500"),
    ],
)
def test_numbers_that_are_equal(text, number):
    assert parse_number(text) == parse_number(number)


@pytest.mark.parametrize("text, number", [("12,34", "1234"), ("50%", "0.5"), ("1.5", "15"), ("-3", "3"), ("1/2", "2")])
def test_numbers_that_differ(text, number):
    assert parse_number(text) != parse_number(number)


@pytest.mark.parametrize(
    "text, value",
    [("1 000,5", 1000.5), ("minus 1.000,50", -1000.5), ("12,5", 12.5), ("1 2", 2), ("1.000.000", 1_000_000)],
)
def test_numbers_by_their_value(text, value):
    assert parse_number(text) == value


def test_generated_answers_and_the_unparseable():
    items = [Item(f"q{i}", (), a) for i, a in enumerate(("1000", "5", "7", "0.3"))]
    task = Task("t", "numeric", {"validation": items}, Grading(max_new_tokens=9))
    assert task.requests()[0] == Prompt("q0", 9, ("\n",)) and task.chance == 0
    score = task.grade("validation", ["It is 1,000.", "$5.00", "no idea", "0.31"])
    assert score.credit.tolist() == [1, 1, 0, 0] and score.unparseable == 1 and score.texts[2] == "no idea"
    loose = Task("t", "numeric", {"validation": items}, Grading(tolerance=0.05))
    assert loose.grade("validation", ["1000", "5", "7", "0.31"]).mean == 1
    exact = Task("t", "exact", {"validation": [Item("q", (), "New York")] * 3})
    score = exact.grade("validation", [' "new  york." ', "York", "  . "])
    assert score.credit.tolist() == [1, 0, 0] and score.unparseable == 1
    assert normalise_text("U.S.") == normalise_text("u.s")


# Splits and the seal ---------------------------------------------------------------------------------------------


def test_splits_are_seeded_stratified_and_disjoint():
    items = [Item(str(i), ("a", "b"), 0, "g" + str(i % 10 == 0)) for i in range(1000)]
    dealt, copies = draw_splits({"": items}, Seeds(3), n_validation=200, n_train=100)
    assert {s: len(v) for s, v in dealt.items()} == dict(train=100, validation=200, test=700) and copies == 0
    assert len({i.prompt for v in dealt.values() for i in v}) == 1000
    assert [sum(i.group == "gTrue" for i in dealt[s]) for s in ("train", "validation", "test")] == [10, 20, 70]
    assert draw_splits({"": items}, Seeds(3), n_validation=200, n_train=100)[0] == dealt
    assert draw_splits({"": items}, Seeds(4), n_validation=200, n_train=100)[0] != dealt


def test_no_item_is_in_two_splits_even_as_a_copy():
    items = [Item(str(i // 2), ("a", "b"), 0) for i in range(100)]  # everything twice
    dealt, copies = draw_splits({"": items}, Seeds(0), n_validation=30)
    assert not {i.prompt for i in dealt["validation"]} & {i.prompt for i in dealt["test"]}
    assert len(dealt["test"]) == 70 - copies and copies > 0
    test = [Item(str(i), ("b", "a"), 1) for i in range(20)]  # a published test keeps its items
    dealt, copies = draw_splits({"train": items, "test": test}, Seeds(0), n_validation=30)
    assert len(dealt["test"]) == 20 and copies == 40 + 70 - 40 - len(dealt["train"])
    keys = [{i.prompt for i in dealt[s]} for s in ("train", "validation", "test")]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])


def test_fewer_items_than_asked_is_an_error(tmp_path):
    path = written(tmp_path / "t.jsonl", sums(60))
    with pytest.raises(InputError, match="60 items for validation, but 200 were asked.*n_validation"):
        Task.from_jsonl(path)
    with pytest.raises(InputError, match="20 items for test, but 21 were asked"):
        Task.from_jsonl(path, n_validation=40, n_test=21)
    with pytest.raises(InputError, match="for train, but 30"):
        Task.from_jsonl(path, n_validation=40, n_train=30)
    assert Task.from_jsonl(path, n_validation="all").splits == dict(validation=60)
    with pytest.raises(InputError, match="has the split 'dev'"):
        Task.from_jsonl(written(tmp_path / "d.jsonl", sums(60, split="dev")))


def test_the_test_split_is_sealed(tmp_path):
    task = Task.from_jsonl(written(tmp_path / "t.jsonl", sums()), n_validation=20)
    for look in (task.items, task.requests, task.groups, lambda s: task.grade(s, []), task.texts):
        with pytest.raises(SealedTestError, match="open_test"):
            look("test")
    assert task.n("test") == 40 and len(task.digest("test")) == 64
    record = tmp_path / "runs" / "first" / "sealed.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_test(task, record, "champion")
    assert len(opened.items("test")) == 40 and opened.grade("test", fake_outputs(opened, "test")).n == 40
    with pytest.raises(SealedTestError):
        task.items("test")  # only the opened view is open
    with pytest.warns(SealedTestWarning, match="opened 1 time"):
        open_test(task, record, "other", run="second")
    other = Task.from_jsonl(tmp_path / "t.jsonl", n_validation=20, seeds=Seeds(1))  # another test split
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_test(other, record, "champion")
    notes = read_record(record)
    assert [(n["individual"], n["run"], n["opened_before"]) for n in notes] == [
        ("champion", "first", 0),
        ("other", "second", 1),
        ("champion", "first", 0),
    ]
    assert notes[0]["digest"] == task.digest("test") and notes[0]["task"] == "t" and "time" in notes[0]


def test_a_damaged_record_isnt_taken_for_an_empty_one(tmp_path):
    task = Task.from_jsonl(written(tmp_path / "t.jsonl", sums()), n_validation=20)
    (tmp_path / "sealed.jsonl").write_text("{broken")
    with pytest.raises(DamagedFileError, match="still unseen"):
        open_test(task, tmp_path / "sealed.jsonl", "a")
    assert (tmp_path / "sealed.jsonl").read_text() == "{broken"
    with pytest.raises(InputError, match="no test items"):
        open_test(Task.from_jsonl(tmp_path / "t.jsonl", n_validation="all"), tmp_path / "s.jsonl", "a")


def test_the_digest_covers_what_decides_a_score():
    items = [Item(str(i), ("a", "b"), 0) for i in range(4)]
    base = Task("t", "choice", {"validation": items})
    others = [
        Task("t", "choice", {"validation": items[::-1]}),
        Task("t", "choice", {"validation": items}, Grading("tokens")),
        Task("t", "choice", {"validation": items}, preambles={"": "Answer: "}),
        Task("t", "pairs", {"validation": items}),
        Task("t", "choice", {"validation": [*items[:3], Item("3", ("a", "b"), 1)]}),
    ]
    digests = {t.digest("validation") for t in (base, *others)}
    assert len(digests) == 6
    assert Task("renamed", "choice", {"validation": items, "test": items}).digest("validation") == base.digest(
        "validation"
    )


# Files of one's own ----------------------------------------------------------------------------------------------

GOOD = dict(prompt="p", options=["a", "b"], answer="b")
BAD_CHOICE = [
    ({"options": ["a", "b"], "answer": 0}, "no key 'prompt'; it needs prompt, options, answer"),
    ({**GOOD, "answer": 2}, "answer is 2, but must be one of the options or an index from 0 to 1"),
    ({**GOOD, "answer": -1}, "answer is -1"),
    ({**GOOD, "answer": "c"}, "answer is 'c'"),
    ({**GOOD, "answer": True}, "answer is True"),
    ({**GOOD, "answer": None}, "answer is None"),
    ({**GOOD, "options": ["a", ""]}, "none empty"),
    ({**GOOD, "options": ["a"]}, "two or more"),
    ({**GOOD, "options": []}, "two or more"),
    ({**GOOD, "options": "ab"}, "must be a list of strings"),
    ({**GOOD, "options": ["a", 1]}, "must be a list of strings"),
    ({**GOOD, "options": ["b", "b"]}, "'b' is there twice"),
    ({**GOOD, "prompt": 3}, "prompt is 3, but must be a string"),
    ({**GOOD, "group": 3}, "group is 3"),
    ({**GOOD, "split": ["x"]}, "split is"),
    ("[1]", "is list, but must be a JSON object"),
    ("{oops", "isn't JSON"),
]


@pytest.mark.parametrize("row, message", BAD_CHOICE, ids=range(len(BAD_CHOICE)))
def test_a_bad_line_is_named_and_nothing_is_loaded(tmp_path, row, message):
    path = written(tmp_path / "t.jsonl", [GOOD, row, GOOD])
    with pytest.raises(TaskFileError) as e:
        Task.from_jsonl(path, n_validation=1)
    assert f"{path}, line 2" in str(e.value) and message in str(e.value)


def choices(*rows):
    return [dict(prompt=f"p{i}", options=list(o), answer=a) for i, (o, a) in enumerate(rows)]


def golds(path, rows, **options):
    task = Task.from_jsonl(written(path, rows), n_validation="all", **options)
    return [i.options[i.answer] for i in sorted(task.items(), key=lambda i: int(i.prompt[1:]))]


ARITHMETIC = [("012-", 1), ("1230", 2), ("2341", 3)]  # the case of tasks/arith.jsonl


@pytest.mark.parametrize(
    "rows, first, second",
    [
        (ARITHMETIC, "'index'", "'text'"),
        ([("321", 1)] * 3, "'index'", "'text'"),
        ([("BA", "A"), ("AB", "A")], "'text'", "'letter'"),
        ([("CAB", "B")], "'text'", "'letter'"),
    ],
)
def test_answers_with_two_readings_are_refused(tmp_path, rows, first, second):
    rows = choices(*rows)
    with pytest.raises(
        TaskFileError, match=rf"t.jsonl, line \d: answer is .* but also .* say labels={first} or {second}"
    ):
        Task.from_jsonl(written(tmp_path / "t.jsonl", rows), n_validation=1)


def test_declared_labels_decide(tmp_path):
    assert golds(tmp_path / "a", choices(*ARITHMETIC), labels="text") == ["1", "2", "3"]
    assert golds(tmp_path / "b", choices(*ARITHMETIC), labels="index") == ["1", "3", "1"]
    assert golds(tmp_path / "c", choices(*ARITHMETIC), labels="index from 1") == ["0", "2", "4"]
    assert golds(tmp_path / "d", choices(("BA", "A"), ("AB", "A")), labels="letter") == ["B", "A"]
    assert golds(tmp_path / "e", choices(*((o, str(a)) for o, a in ARITHMETIC))) == ["1", "2", "3"]  # strings are texts
    with pytest.raises(InputError, match="labels"):
        golds(tmp_path / "f", choices(*ARITHMETIC), labels="values")


def test_what_other_lines_rule_out_is_no_reading(tmp_path):
    words = [(["cat", "dog"], 0)] * 5
    with pytest.warns(Remark, match="1 of 6 answers are an index and another option's text as well"):
        assert golds(tmp_path / "a", choices(*words, ("210", 2)))[-1] == "0"
    with pytest.warns(Remark, match="each answer is read as the text of an option"):
        assert golds(tmp_path / "b", choices((["10", "20"], 20), (["1", "0"], 1))) == ["20", "1"]
    with pytest.warns(Remark, match="each answer is read as a letter from A"):
        assert golds(tmp_path / "c", choices((["cat", "dog"], "B"), (["A", "B"], "A"))) == ["dog", "A"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", Remark)
        assert golds(tmp_path / "d", choices(("0123", 0), ("0123", 2))) == ["0", "2"]  # both readings agree
        assert golds(tmp_path / "e", choices(("ABCD", "C"), ("ABCD", "A"))) == ["C", "A"]


def test_a_file_that_seems_to_count_from_one_is_said(tmp_path):
    rows = choices(*[(["cat", "dog", "owl"], 1 + i % 2) for i in range(9)])
    with pytest.warns(Remark, match="no answer is 0, the first option, in 9 lines.*labels='index from 1'"):
        assert set(golds(tmp_path / "a", rows)) == {"dog", "owl"}
    assert set(golds(tmp_path / "a", rows, labels="index from 1")) == {"cat", "dog"}
    with pytest.raises(TaskFileError, match="answer is 3, but must be .* Say labels='index from 1' if that is meant"):
        golds(tmp_path / "b", [*rows, *choices((["cat", "dog", "owl"], 3))])


@pytest.mark.parametrize(
    "sizes, asked, taken",
    [
        (dict(validation=50, test=80), 200, 50),
        (dict(validation=51), 200, 26),
        (dict(train=7), 200, 4),
        (dict(validation=500), 200, 200),
        (dict(validation=50), "all", "all"),
        (dict(validation=50, test=9), 20, 20),
    ],
)
def test_small_published_tasks_give_what_they_have(sizes, asked, taken):
    given = {s: [Item(f"{s} {i}", ("a", "b"), 0) for i in range(n)] for s, n in sizes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error" if asked == taken else "ignore", Remark)
        assert affordable(given, asked, "t") == taken
        task = make_task("t", "choice", given, n_validation=affordable(given, asked, "t"))
    if asked != "all":
        assert task.n() == taken and task.n("test") > 0


@pytest.mark.parametrize(
    "kind, row, message",
    [
        ("numeric", dict(prompt="p", answer="none"), "holds no number"),
        ("exact", dict(prompt="p", answer=" . "), "nothing can"),
        ("exact", dict(prompt="p", answer=3), "answer is 3, but must be a string"),
        ("exact", dict(prompt="p"), "no key 'answer'"),
        ("pairs", dict(sentence_good="a", sentence_bad="a"), "both sentences"),
        ("perplexity", dict(text=""), "option is empty"),
        ("pairs", dict(sentence_good="a"), "no key 'sentence_bad'"),
    ],
)
def test_a_bad_line_of_other_kinds(tmp_path, kind, row, message):
    path = written(tmp_path / "t.jsonl", [row])
    with pytest.raises(TaskFileError, match=f"line 1.*{message}"):
        Task.from_jsonl(path, kind, n_validation=1)


def test_files_that_cant_be_read(tmp_path):
    with pytest.raises(TaskFileError, match="is blank"):
        Task.from_jsonl(written(tmp_path / "t.jsonl", ["", " "]))
    with pytest.raises(MissingCorpusError, match="isn't a file"):
        Task.from_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="kind is 'quiz', but must be one of: choice"):
        Task.from_jsonl(tmp_path / "t.jsonl", "quiz")
    with pytest.raises(InputError, match="normalise is 'words', but must be one of: none, characters"):
        Task.from_jsonl(written(tmp_path / "s.jsonl", sums()), n_validation=9, normalise="words")
    with pytest.raises(InputError, match="some items have a split"):
        Task.from_jsonl(written(tmp_path / "m.jsonl", [*sums(30), *sums(30, split="test")]), n_validation=9)
    with pytest.raises(InputError, match="no validation items"):
        Task("t", "choice", {"test": [Item("p", ("a", "b"), 0)]})


def test_solved_examples_come_from_train_items_only(tmp_path):
    path = written(tmp_path / "t.jsonl", sums())
    task = Task.from_jsonl(path, n_validation=20, n_train=10, shots=2)
    again = Task.from_jsonl(path, n_validation=20, n_train=10, shots=2)
    assert [r.context for r in task.requests()] == [r.context for r in again.requests()]
    solved = set(task.texts("train"))
    for item, request in zip(task.items(), task.requests()):
        *shown, last = request.context.split("\n\n")
        assert len(shown) == 2 and set(shown) <= solved and last == item.prompt
    with pytest.raises(InputError, match="0 train items, but 2 shots"):
        Task.from_jsonl(path, n_validation=20, shots=2)
    with pytest.raises(InputError, match="shots need prompts"):
        Task.from_pairs(minimal_pairs(10), n_validation=20, n_train=10, shots=1)


# Published files -------------------------------------------------------------------------------------------------


def test_blimp(data_folder, monkeypatch):
    monkeypatch.setenv("EVONB_DATA", str(data_folder))
    names = ("anaphor_number_agreement", "wh_island")
    task = Task.from_pairs("blimp", names, n_validation=200)
    assert task.splits == dict(validation=200, test=1800) and task.groups() == list(names) and task.chance == 0.5
    rows = [json.loads(line) for n in names for line in (data_folder / "blimp" / f"{n}.jsonl").read_text().splitlines()]
    good = {(r["sentence_good"], r["sentence_bad"]) for r in rows}
    for item, request in zip(task.items(), task.requests()):
        assert request.context == "" and request.options == item.options
        assert (item.options[item.answer], item.options[1 - item.answer]) in good
    assert 70 < sum(i.answer for i in task.items()) < 130  # the good sentence isn't always first
    one = Task.from_pairs(data_folder / "blimp" / "wh_island.jsonl", n_validation="all")
    assert one.n() == 1000 and one.name == "wh_island"
    with pytest.raises(InputError, match="paradigm is 'nothing'"):
        Task.from_pairs("blimp", ["nothing"])


def test_pairs_from_a_folder_a_list_and_bad_ones(tmp_path):
    for name in "ab":
        written(tmp_path / f"{name}.jsonl", [dict(sentence_good=f"{name} {i}", sentence_bad="x") for i in range(5)])
    task = Task.from_pairs(tmp_path, n_validation=4)
    assert task.groups() == ["a", "b"] and task.n("test") == 6  # without UID the file's name is the paradigm
    assert Task.from_pairs([tmp_path / "a.jsonl"], n_validation="all").n() == 5
    with pytest.raises(TaskFileError, match="pair 1 has no key 'sentence_bad'"):
        Task.from_pairs([dict(sentence_good="a", sentence_bad="b"), dict(sentence_good="a")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingCorpusError, match="no files ending in .jsonl"):
        Task.from_pairs(tmp_path / "empty")


def hellaswag_row(i, **more):
    return dict(
        dict(
            ind=i,
            activity_label="Home and Garden",
            ctx_a=f"How to sew {i} [title] Choose  thread. [step] Wax it.",
            ctx_b="the thread",
            ctx=f"How to sew {i} [title] Choose  thread. [step] Wax it. the thread",
            label=i % 4,
            endings=[f"is {w}. [substeps] Cut." for w in ("red", "cut", "gone", "wet")],
            split="val",
            source_id=f"wikihow~{i}",
        ),
        **more,
    )


def test_hellaswag_in_both_styles(tmp_path):
    written(tmp_path / "hellaswag_val.jsonl", map(hellaswag_row, range(30)))
    task = Task.from_hellaswag(tmp_path / "hellaswag_val.jsonl", n_validation=10)
    item, request = task.items()[0], task.requests()[0]
    number = item.prompt.split("sew ")[1].split(".")[0]
    assert request.context == f"Home and Garden: How to sew {number}. Choose thread. Wax it. The thread"
    assert request.options[1] == " is cut. Cut." and item.answer == int(number) % 4 and request.absolute
    assert (
        task.grading.normalise == "characters" and task.splits == dict(validation=10, test=20) and task.chance == 0.25
    )
    paper = Task.from_hellaswag(tmp_path / "hellaswag_val.jsonl", "connectome", n_validation=10)
    row = hellaswag_row(int(paper.items()[0].prompt.split("sew ")[1].split(" ")[0]))
    assert paper.requests()[0].context == row["ctx"] and paper.grading.normalise == "tokens"
    assert paper.requests()[0].options == tuple(f" {e}" for e in row["endings"])
    written(tmp_path / "hellaswag_train.jsonl", [hellaswag_row(i) for i in range(20, 80)])  # ten are in val too
    both = Task.from_hellaswag(tmp_path, n_validation=10, n_train=15)
    assert both.splits == dict(train=15, validation=10, test=30) and both.info["copies_dropped"] == 10


def test_hellaswag_without_labels_or_endings(tmp_path):
    path = written(tmp_path / "hellaswag_test.jsonl", [hellaswag_row(0), hellaswag_row(1, label="")])
    with pytest.raises(TaskFileError, match="line 2: label is ''.*no labels; use hellaswag_val"):
        Task.from_hellaswag(path)
    with pytest.raises(TaskFileError, match="no key 'endings'"):
        Task.from_hellaswag(written(path, [dict(ctx="a", label=0)]), "connectome")
    with pytest.raises(TaskFileError, match="must be a list"):
        Task.from_hellaswag(written(path, [hellaswag_row(0, endings="abcd")]))
    with pytest.raises(InputError, match="style is 'mine', but must be one of: lm-eval, connectome"):
        Task.from_hellaswag(path, "mine")


@pytest.fixture
def mmlu(tmp_path):
    for split, n in (("dev", 5), ("val", 8), ("test", 12)):
        (tmp_path / split).mkdir()
        for subject in ("high_school_physics", "virology"):
            with open(tmp_path / split / f"{subject}_{split}.csv", "w", newline="") as f:
                csv.writer(f).writerows(
                    [f'{split} {i} of {subject},\nsays "who"? ', f"a{i}", f"b{i}", "same", "same", "ABCD"[i % 4]]
                    for i in range(n)
                )
    return tmp_path


def test_mmlu_in_both_styles(mmlu):
    task = Task.from_mmlu(mmlu, n_validation=10)
    assert task.splits == dict(train=10, validation=10, test=24) and task.groups() == [
        "high_school_physics",
        "virology",
    ]
    i, request = next((i, r) for i, r in enumerate(task.requests()) if "physics" in r.context)
    question = lambda split, i: (
        f'{split} {i} of high_school_physics,\nsays "who"?\nA. a{i}\nB. b{i}\nC. same\nD. same\nAnswer:'
    )
    number = int(task.items()[i].prompt.split(" ")[1])
    expected = (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        + "".join(f"{question('dev', j)} {'ABCD'[j % 4]}\n\n" for j in range(5))
        + question("val", number)
    )
    assert request.context == expected and request.options == (" A", " B", " C", " D")
    assert task.items()[i].answer == number % 4
    paper = Task.from_mmlu(mmlu, "connectome", ["virology"], n_validation=8)
    number = int(paper.items()[0].prompt.split(" ")[2])
    assert paper.requests()[0].context == f'Question: val {number} of virology,\nsays "who"? \n\nAnswer:'
    assert paper.requests()[0].options == (f" a{number}", f" b{number}", " same", " same")
    assert paper.grading.normalise == "tokens"


def test_mmlu_files_that_dont_fit(mmlu):
    with pytest.raises(InputError, match="5 items in dev, but 6 shots"):
        Task.from_mmlu(mmlu, shots=6, n_validation=10)
    with pytest.raises(InputError, match="subject is 'law', but must be one of: high_school_physics, virology"):
        Task.from_mmlu(mmlu, subjects=["law"])
    (mmlu / "val" / "virology_val.csv").write_text("a question,1,2,3,4,A\nanother,1,2,3,E\n")
    with pytest.raises(TaskFileError, match="virology_val.csv, record 2 has 5 fields and ends with .'E'"):
        Task.from_mmlu(mmlu)
    with pytest.raises(MissingCorpusError, match="no files SUBJECT_dev.csv"):
        Task.from_mmlu(mmlu / "val")


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-evaluation-harness is installed")
def test_the_absence_of_lm_eval_names_the_extra():
    with pytest.raises(MissingExtraError, match=r"pip install 'evonb\[lm-eval\]'"):
        Task.from_lm_eval("arc_easy")


def test_lm_eval(tmp_path):
    pytest.importorskip("lm_eval", reason="the extra lm-eval isn't installed")
    rows = [dict(question=f"{i} plus 1 is", choices=[str(i + 1), f"about {i}"], label=0) for i in range(30)]
    data = written(tmp_path / "rows.json", rows)
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{validation: {data}}}}}\n"
        'validation_split: validation\noutput_type: multiple_choice\ndoc_to_text: "Q: {{question}}\\nA:"\n'
        "doc_to_choice: choices\ndoc_to_target: label\nmetric_list: [{metric: acc}]\n"
    )
    task = Task.from_lm_eval("mine", include_path=tmp_path, n_validation=10, normalise="characters")
    assert task.splits == dict(validation=10, test=20) and task.kind == "choice"
    number = int(task.items()[0].prompt.split()[1])
    assert task.requests()[0] == Choice(f"Q: {number} plus 1 is\nA:", (f" {number + 1}", f" about {number}"), True)


# Several tasks, comparison, looks --------------------------------------------------------------------------------


def test_mix_and_by_group():
    parts = [skill_task(n, Seeds(0), 20, 30) for n in ("agreement", "opposite")]
    both = mix(parts, "both")
    assert both.splits == dict(validation=40, test=60) and both.groups() == ["agreement", "opposite"]
    outputs = [fake_outputs(p, seed=i) for i, p in enumerate(parts)]
    scores = by_group(both, "validation", both.grade("validation", [*outputs[0], *outputs[1]]))
    for part, output in zip(parts, outputs):
        alone = part.grade("validation", output)
        assert scores[part.name].credit.tolist() == alone.credit.tolist() and scores[part.name].se == alone.se
    with pytest.raises(SealedTestError):
        both.items("test")
    with pytest.raises(InputError, match="graded differently"):
        mix([parts[0], Task.from_pairs(minimal_pairs(10), n_validation=20)])
    with pytest.raises(InputError, match="two tasks of one name"):
        mix([parts[0], parts[0]])
    with pytest.raises(InputError, match="the score covers 20"):
        by_group(both, "validation", parts[0].grade("validation", outputs[0]))


def test_mix_keeps_what_stands_before_prompts(mmlu):
    task, other = Task.from_mmlu(mmlu, n_validation=10), Task.from_mmlu(mmlu, n_validation=10, shots=1, name="one shot")
    assert [r.context for r in mix([task, other]).requests()] == [
        r.context for t in (task, other) for r in t.requests()
    ]


def test_items_with_contexts_of_their_own():
    items = [Item("", ("fell.", "fell."), 1, "", (f"The sea {i}", f"The cup {i}")) for i in range(3)]
    task = Task("w", "choice", {"validation": items})
    assert task.requests()[:2] == [Choice("The sea 0", (" fell.",), True), Choice("The cup 0", (" fell.",), True)]
    outputs = [(np.array([v]), np.array([1])) for v in (-3, -2, -2, -3, -1, -1)]
    assert task.grade("validation", outputs).credit.tolist() == [1, 0, 0.5]


def test_subset_is_smaller_and_still_sealed():
    task = skill_task(["agreement", "tense", "echo"], Seeds(0), 60, 90)
    small = task.subset(["tense"], n_validation=10)
    assert small.splits == dict(validation=10, test=30) and small.groups() == ["tense"]
    with pytest.raises(SealedTestError):
        small.items("test")
    with pytest.raises(InputError, match="group is 'nothing'"):
        task.subset(["nothing"])
    with pytest.raises(InputError, match="20 items for validation, but 21"):
        task.subset(["tense"], n_validation=21)


def test_it_shows_itself_with_escaped_text():
    task = Task(
        "<b>", "choice", {"validation": [Item("<script>", ("<i>", "&"), 0)] * 3, "test": [Item("q", ("a", "b"), 0)]}
    )
    assert repr(task).startswith("Task('<b>', choice, accuracy, chance 0.5: validation 3, test 1 (sealed), digest ")
    shown = task._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "&lt;i&gt;" in shown and "<b>" not in shown
    text = Task("t", "numeric", {"validation": [Item("1 + 1 =", (), "2")]})
    assert "1 + 1 =" in text._repr_html_() and "chance 0" in repr(text)


def test_skill_tasks():
    task = skill_task(["agreement", "opposite", "echo"], Seeds(0))
    assert (
        task.splits == dict(validation=200, test=300)
        and task.digest() == skill_task(["agreement", "opposite", "echo"], Seeds(0)).digest()
    )
    assert task.digest() != skill_task(["agreement", "opposite", "echo"], Seeds(1)).digest()
    counts = [sum(i.group == g for i in task.items()) for g in task.groups()]
    assert max(counts) - min(counts) <= 1
    with pytest.raises(InputError, match="skill is 'juggling', but must be one of"):
        skill_task("juggling", Seeds(0))
    with pytest.raises(InputError, match="one or more names"):
        skill_task([], Seeds(0))


def test_by_group_grades_as_the_whole_does():
    texts = Task("t", "perplexity", dict(validation=[Item("", ("word " * k,), 0, "one") for k in range(1, 9)]))
    whole = texts.grade("validation", [(np.array([-3.0 * k - 1]), np.array([k])) for k in range(1, 9)])
    one = by_group(texts, "validation", whole)["one"]
    assert one.mean == pytest.approx(whole.mean, abs=1e-12) and one.se == pytest.approx(whole.se, abs=1e-12)
    assert one.mean != pytest.approx(whole.credit.mean(), abs=1e-3)  # texts count by their length
    items = [Item(f"q{i}", (), str(i), "even" if i % 2 == 0 else "odd") for i in range(6)]
    for kind in ("numeric", "exact"):
        asked = Task("n", kind, dict(validation=items))
        found = asked.grade("validation", ["0", "", "2", "", "9", "5"])
        parts = by_group(asked, "validation", found)
        assert found.unparseable == 2 and parts["even"].unparseable == 0 and parts["odd"].unparseable == 2
        assert parts["even"].mean == pytest.approx(2 / 3) and parts["odd"].texts == ["", "", "5"]


def test_an_unknown_option_of_a_task_is_named():
    items = [Item(str(i), ("a", "b"), 0) for i in range(9)]
    with pytest.raises(InputError, match="option of t is 'normalize', but must be one of: .*normalise"):
        make_task("t", "choice", {"": items}, n_validation=4, normalize="none")


def test_a_subset_keeps_the_shares_of_groups():
    task = skill_task(["echo", "tense", "opposite"], Seeds(0), 30, 30)  # one group after another
    small = task.subset(n_validation=9, n_test=6)
    assert [i.group for i in small.items()].count("echo") == 3 and len(small.groups()) == 3
    assert [i for i in small.items() if i.group == "tense"] == [i for i in task.items() if i.group == "tense"][:3]


@pytest.mark.parametrize(
    "before, now, names",
    [
        ("tasks", "grading", "Item Choice Prompt ScoreError TaskScore Grading mean_score TASK_KINDS parse_number"),
        ("serving", "client", "ServerBackend served_by servable"),
        ("serving", "protocol", "ServerError Refused Asked asked retry_pause received"),
    ],
)
def test_what_moved_is_found_where_it_was(before, now, names):
    "Pickles of before name the module that something stood in."
    for name in names.split():
        old, new = (pickle.loads(f"cevonb.tasks.{module}\n{name}\n.".encode()) for module in (before, now))
        assert old is new
