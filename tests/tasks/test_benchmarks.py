"""Benchmarks: published files read with their oddities, answers extracted as published and right, bad files named."""

import csv
import json
import re

import pytest

from evonb.core import DamagedFileError, InputError, Remark, Seeds
from evonb.datasets import MissingCorpusError, MissingExtraError
from evonb.tasks import sandbox
from evonb.tasks.answers import letter_at, stated_answer, stated_letter, stated_number, task_source
from evonb.tasks.benchmarks import drop, emotions, flores, gsm8k, mbpp, mmlu_pro
from evonb.tasks.benchmarks.bbh import grade_bbh, open_bbh, read_bbh
from evonb.tasks.grading import Item, Prompt
from evonb.tasks.tasks import SealedTestError, TaskFileError, open_task

SIZES = dict(n_validation=4, n_test=3)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


def problem(i, answer):
    return dict(question=f"How many are {i}?", answer=f"So <<{i}={i}>>{i}.\n#### {answer}")


# What a text answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, number",
    [
        ("#### 18", 18),
        ("#### $1,234.50.", 1234.5),
        ("####-3", -3),
        ("The answer is -7.", -7),
        ("It is 5.\n\n#### 6\n7", 6),
        ("final answer: 3 * 4 = 12", 12),
        ("**Answer:** 20 dollars for 3 days", 20),
        ("5 and then 8", 8),
        ("#### none, 9", 9),
        ("The answer is $\\boxed{70,000}$", 70000),
        ("The answer is .5", 0.5),
        ("no number", None),
        ("####", None),
    ],
)
def test_numbers(text, number):
    assert stated_number(text) == number


@pytest.mark.parametrize(
    "text, letter",
    [
        ("The answer is (B).", "B"),
        ("the answer is B", "B"),
        ("Answer: B. Paris", "B"),
        (" B", "B"),
        ("(B) or so", "B"),
        ("I think it is (A). No: the answer is (B)", "B"),
        ("**B**", "B"),
        ("The answer is \\boxed{B}.", "B"),
        ("The answer is A house", None),
        ("I don't know", None),
        ("The answer is (Z)", None),
        ("Because of (A) it is (B)", "B"),
        ("the answer is option C", "C"),
        ("", None),
    ],
)
def test_letters(text, letter):
    assert stated_letter(text, "ABCI") == letter


def test_statements_and_sources():
    assert stated_answer("The answer is 4\nThe answer is 5") == "5" and letter_at("it's", "I") is None
    assert task_source("a b/c::x, y,shots=0", shots=3)[1:] == (["x", "y"], dict(shots=0))
    for wrong in ("f::shots=-1", "f::style=other", "f::unknown=3"):
        with pytest.raises(InputError):
            task_source(wrong, shots=3, style=("a", "b"))


# GSM8K and BIG-Bench-Hard ----------------------------------------------------------------------------------------


def test_gsm8k_of_both_files_is_sealed_and_seeded(tmp_path):
    write(tmp_path / "train.jsonl", [problem(i, f"{i},000") for i in range(1, 20)])
    write(tmp_path / "test.jsonl", [problem(i, f"-{i}") for i in range(30, 40)])
    task = open_task(f"gsm8k:{tmp_path}::shots=2", Seeds(0), **SIZES)
    assert task.splits == dict(train=15, validation=4, test=3)
    asked = task.requests()
    assert all(isinstance(r, Prompt) and r.text.count("Question: ") == 3 and r.stop == ("Question:",) for r in asked)
    with pytest.raises(SealedTestError):
        task.items("test")
    right = [re.sub(",", "", i.answer.split("####")[1]) + ".00" for i in task.items()]
    assert task.grade("validation", right).mean == 1 and task.grade("validation", ["x"] * 4).unparseable == 4
    other = open_task(f"gsm8k:{tmp_path}::shots=2", Seeds(1), **SIZES)
    again = open_task(f"gsm8k:{tmp_path}::shots=2", Seeds(0), **SIZES)
    assert again.digest() == task.digest() != other.digest()


def test_gsm8k_files_that_changed_are_named(tmp_path):
    with pytest.raises(MissingCorpusError, match="test.jsonl.*grade-school-math"):
        open_task(f"gsm8k:{tmp_path}", Seeds(0))
    for row, said in (
        (dict(question="a"), "no key 'answer'"),
        (problem(1, "none"), "no number"),
        (dict(question="a", answer="5"), "####"),
    ):
        write(tmp_path / "test.jsonl", [problem(0, 1), row])
        with pytest.raises(TaskFileError, match=f"line 2.*{said}"):
            gsm8k.read_gsm8k(tmp_path / "test.jsonl")


def test_gsm8k_as_published(data_folder):
    items = gsm8k.read_gsm8k(data_folder / "gsm8k" / "test.jsonl")
    assert len(items) == 1319 and stated_number(items[0].answer) == 18
    by_rule = [float(i.answer.split("####")[1].replace(",", "")) for i in items]
    assert [float(stated_number(i.answer)) for i in items] == by_rule
    task = open_task(f"gsm8k:{data_folder / 'gsm8k'}", Seeds(0))
    assert task.splits == dict(train=5, validation=200, test=300)
    assert task.grade("validation", [i.answer for i in task.items()]).mean == 1


def test_bbh_as_published_answers_its_own_targets(data_folder):
    with pytest.warns(Remark, match="left out"):
        task = open_task(f"bbh:{data_folder / 'bbh'}", Seeds(0), 200, None)
    assert len(task.groups()) == 27 and task.n() + task.n("test") + 27 * 3 == 6511 - 3 - task.info["copies_dropped"]
    for template in ("{}", " {}.", "Let's see: (Z) no.\nSo the answer is {}."):
        score = task.grade("validation", [template.format(i.answer) for i in task.items()])
        assert score.mean == 1, [(i.group, i.answer) for i, c in zip(task.items(), score.credit) if c < 1]
    assert all(r.text.count("Q: ") >= 4 for r in task.requests())
    wrong = task.grade("validation", ["The answer is qqq." for _ in task.items()])
    assert wrong.mean == 0
    some = open_task(f"bbh:{data_folder / 'bbh'}::navigate,snarks,shots=0", Seeds(0), 20, 20)
    assert some.groups() == ["navigate", "snarks"] and some.requests()[0].text.count("Q: ") == 1


@pytest.mark.parametrize(
    "target, text, right",
    [
        ("True", "true", True),
        ("True", "not False = True. So the answer is True.", True),
        ("No", "The answer is Yes.", False),
        ("valid", "invalid", False),
        ("valid", "The answer is valid.", True),
        ("-50", "The answer is -50", True),
        ("24", "240", False),
        ("} ]", "So the answer is }].", True),
        ("} ]", "}", False),
        ("a b c", "a, b, c", True),
        ("a b c", "a c b", False),
    ],
)
def test_bbh_answers_by_their_form(target, text, right):
    assert bool(grade_bbh(Item("Q: ...\nA:", (), target), text)) is right


def test_bbh_chains_of_thought_and_bad_files(tmp_path):
    rows = [dict(input=f"not {a} is", target="True") for a in range(9)]
    (tmp_path / "bbh").mkdir()
    (tmp_path / "bbh" / "boolean_expressions.json").write_text(json.dumps(dict(canary="", examples=rows)))
    with pytest.raises(MissingCorpusError, match="cot-prompts/boolean_expressions.txt"):
        open_bbh(f"{tmp_path}::style=cot", name="bbh", **SIZES)
    (tmp_path / "cot-prompts").mkdir()
    (tmp_path / "cot-prompts" / "boolean_expressions.txt").write_text(
        "canary\n-----\nSolve.\n\nQ: x\nA: Let's ... is True.\n"
    )
    asked = open_bbh(f"{tmp_path}::style=cot", name="bbh", **SIZES).requests()[0].text
    assert asked.startswith("Solve.\n\nQ: x\nA: Let's ... is True.\n\nQ: not") and asked.endswith(
        "A: Let's think step by step."
    )
    (tmp_path / "bad.json").write_text(json.dumps(dict(examples=[dict(input="a")])))
    with pytest.raises(TaskFileError, match="example 0.*target"):
        read_bbh(tmp_path / "bad.json")
    with pytest.raises(InputError, match="boolean_expressions"):
        open_bbh(f"{tmp_path}::navigat", name="bbh")
    with pytest.raises(MissingCorpusError, match="suzgunmirac"):
        open_bbh(str(tmp_path / "cot-prompts"), name="bbh")


# The others ------------------------------------------------------------------------------------------------------


def test_mmlu_pro(tmp_path):
    row = dict(
        options=["1", "2", "N/A"],
        answer="B",
        answer_index=1,
        category="math",
        cot_content="A: Let's think step by step. So (B).",
    )
    write(tmp_path / "data" / "test.jsonl", [row | dict(question=f"{i}?") for i in range(9)])
    write(tmp_path / "data" / "validation.jsonl", [row | dict(question="v?")])
    task = open_task(f"mmlu-pro:{tmp_path}::shots=1", Seeds(0), **SIZES)
    text = task.requests()[0].text
    assert "N/A" not in text and "Let's think step by step. So (B).\n\nQuestion:" in text and "about math." in text
    assert task.grade("validation", ["the answer is (B)", "B. 2", "The answer is (A).", "I guess"]).credit.tolist() == [
        1,
        1,
        0,
        0,
    ]
    with pytest.raises(InputError, match="1 solved examples, but 5"):
        open_task(f"mmlu-pro:{tmp_path}", Seeds(0))
    write(tmp_path / "data" / "test.jsonl", [row | dict(question="q", answer="C")])
    with pytest.raises(TaskFileError, match="line 1.*'C' of 2"):
        open_task(f"mmlu-pro:{tmp_path}::shots=1", Seeds(0))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises((MissingExtraError, InputError), match="a.parquet"):
        mmlu_pro.read_records(tmp_path / "a.parquet", ("question",))


def plain_f1(said, wanted):
    said, wanted = drop.normal_words(said).split(), drop.normal_words(wanted).split()
    common = len(set(said) & set(wanted))
    return 2 * common / (len(set(said)) + len(set(wanted))) if common else 0.0


@pytest.mark.parametrize(
    "said, wanted, em, f1",
    [
        ("Bears", ["the Bears"], 1, 1),
        ("3.0", ["3"], 1, 1),
        ("12,000", ["12000"], 1, 1),
        ("about 3", ["3"], 0, 0.67),
        ("4 yards", ["3 yards"], 0, 0),
        ("New York City", ["New York"], 0, 0.8),
        ("Bears, Lions", ["Lions", "Bears"], 1, 1),
        ("Bears and Colts", ["Lions", "Bears"], 0, 0.5),
        ("8 May 1945", ["May 8 1945"], 0, 1),
        ("twenty-two", ["twenty two"], 1, 1),
    ],
)
def test_drop_scores(said, wanted, em, f1):
    item = Item("", ("\n".join(wanted),), ", ".join(wanted))
    assert (drop.match_drop(item, said), drop.grade_drop(item, said)) == (em, f1)
    if len(wanted) == 1 and f1:
        assert f1 == round(plain_f1(said, wanted[0]), 2)


def test_drop_files(tmp_path):
    asked = [
        dict(
            question="When?",
            answer=dict(number="", date=dict(day="", month="May", year="1945"), spans=[]),
            validated_answers=[],
        ),
        dict(question="Empty?", answer=dict(number="", date=dict(day="", month="", year=""), spans=[])),
    ]
    for split, n in (("train", 9), ("dev", 3)):
        found = {f"{split}_{i}": dict(passage=f"{split} {i}.", qa_pairs=asked) for i in range(n)}
        (tmp_path / f"drop_dataset_{split}.json").write_text(json.dumps(found))
    task = open_task(f"drop:{tmp_path}::shots=1", Seeds(0), **SIZES)
    assert task.splits == dict(train=5, validation=4, test=3) and task.requests()[0].text.count("Passage:") == 2
    em = open_task(f"drop:{tmp_path}::shots=1,metric=em", Seeds(0), **SIZES)
    said = ["1945 May", "May, 1945.", "in May 1945", ""]
    assert em.grade("validation", said).credit.tolist() == [1, 1, 0, 0] and em.digest() != task.digest()
    assert task.grade("validation", said).credit.tolist() == [1, 1, 0.8, 0]
    (tmp_path / "drop_dataset_dev.json").write_text(json.dumps({"p": dict(passage="x", qa_pairs=[dict(question="q")])}))
    with pytest.raises(DamagedFileError, match="p is damaged: it lacks 'answer'"):
        open_task(f"drop:{tmp_path}", Seeds(0))


def test_commonsense_qa(tmp_path):
    choices = [dict(label=c, text=f"thing {c}") for c in "ABCDE"]
    for split, n in (("train", 8), ("dev", 3)):
        rows = [dict(answerKey="C", question=dict(stem=f"{split} {i}?", choices=choices)) for i in range(n)]
        write(tmp_path / f"{split}_rand_split.jsonl", rows)
    task = open_task(f"csqa:{tmp_path}", Seeds(0), **SIZES)
    assert (
        task.requests()[0].context.endswith("E. thing E\nAnswer:")
        and task.items()[0].answer == 2
        and task.chance == 0.2
    )
    write(tmp_path / "dev_rand_split.jsonl", [dict(question=dict(stem="no answer", choices=choices))])
    with pytest.raises(TaskFileError, match="test file has no answers"):
        open_task(f"csqa:{tmp_path}", Seeds(0), **SIZES)
    write(tmp_path / "dev_rand_split.jsonl", [dict(question="a string")])
    with pytest.raises(DamagedFileError, match="line 1 is damaged"):
        open_task(f"csqa:{tmp_path}", Seeds(0), **SIZES)


def able():
    try:
        sandbox.check_sandbox()
    except InputError as e:
        return str(e)
    return ""


def test_mbpp_runs_nothing_unless_asked(tmp_path, monkeypatch):
    tests = ["assert f(1) == 2", "assert f(2) == 3", "assert f(0) == 1"]
    rows = [
        dict(task_id=n, text=f"Add {n}.", code="def f(x):\r\n    return x + 1", test_list=tests)
        for n in (2, 3, 4, 11, 12, *range(511, 520))
    ]
    write(tmp_path / "mbpp.jsonl", rows)
    monkeypatch.setattr(mbpp, "check_sandbox", lambda: None)
    ran = []
    monkeypatch.setattr(mbpp, "run_program", lambda code: ran.append(code) or sandbox.Ran(True))
    with pytest.raises(InputError, match="::run-code"):
        open_task(f"mbpp:{tmp_path}", Seeds(0))
    task = open_task(f"mbpp:{tmp_path}::run-code", Seeds(0), 4, 2)
    assert task.splits == dict(train=5, validation=4, test=2) and ran == []
    assert task.requests()[0].text.count("[DONE]") == 3 and task.requests()[0].text.endswith("[BEGIN]\n")
    assert task.grade("validation", ["```python\nx\n```", "", "y\n[DONE] z", "w"]).unparseable == 1
    assert ran == ["\n".join(["", code, *tests]) for code in ("x", "y\n", "w")]
    few = [dict(r, prompt=r.pop("text"), test_imports=["import math"]) for r in rows[1:]]
    (tmp_path / "mbpp.jsonl").unlink()
    (tmp_path / "sanitized-mbpp.json").write_text(json.dumps(few))
    with pytest.raises(InputError, match="2 problems of the published prompt"):
        open_task(f"mbpp:{tmp_path}::run-code", Seeds(0))
    found = mbpp.read_mbpp(tmp_path / "sanitized-mbpp.json")
    assert found["test"][0].options == ("import math", "\n".join(tests))


@pytest.mark.parametrize(
    "code, reason",
    [
        ("", ""),
        ("import math, re, heapq, collections\nassert math.pi", ""),
        ("assert False", "AssertionError"),
        ("x =", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(0)", "its process ended early"),
        ("'x' * (1 << 40)", "MemoryError"),
        ("import os; os.fork()", "BlockingIOError"),
        ("open('/tmp/evonb-sandbox', 'w')", "OSError"),
        ("import os; os.remove(os.__file__)", "OSError"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "OSError"),
        ("import os; assert os.listdir('/proc')", "AssertionError"),
        ("while True: pass", "time"),
    ],
)
def test_a_program_is_kept_apart(code, reason):
    if why := able():
        pytest.skip(why)
    ran = sandbox.run_program(code, seconds=1)
    assert (ran.passed, ran.reason) == (not reason, reason)


def test_a_machine_without_namespaces_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox, "_CHILD", "print('hole:namespaces: Operation not permitted')")
    with pytest.raises(InputError, match="can't keep a program apart: namespaces"):
        sandbox.check_sandbox()
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(InputError, match="on Linux only"):
        sandbox.check_sandbox()


def test_flores(tmp_path):
    for split, n in (("dev", 9), ("devtest", 3)):
        for code, line in dict(eng_Latn="Cat {}.", fra_Latn="Chat {}.").items():
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / split / f"{code}.{split}").write_text(
                "".join(line.format(f"{split}{k}") + "\n" for k in range(n))
            )
    task = open_task(f"flores:{tmp_path}::eng_Latn-fra_Latn,shots=2", Seeds(0), **SIZES)
    assert task.splits == dict(train=5, validation=4, test=3) and task.requests()[0].text.endswith("\nFrench:")
    said = [i.answer for i in task.items()]
    assert task.grade("validation", said).mean == 1 and task.grade("validation", ["", *said[1:]]).unparseable == 1
    import sacrebleu

    one = flores.grade_chrf(task.items()[0], "Chat noir.")
    assert (
        one == pytest.approx(sacrebleu.sentence_chrf("Chat noir.", [task.items()[0].answer]).score / 100)
        and 0 < one < 1
    )
    (tmp_path / "devtest" / "fra_Latn.devtest").write_text("one\n")
    with pytest.raises(TaskFileError, match="3 lines in eng_Latn, but 1"):
        open_task(f"flores:{tmp_path}::eng_Latn-fra_Latn", Seeds(0), **SIZES)
    for pair, said in (("", "one pair"), ("::eng-fra", "eng.dev")):
        with pytest.raises(InputError if not pair else MissingCorpusError, match=said):
            open_task(f"flores:{tmp_path}{pair}", Seeds(0), **SIZES)


def test_meld_and_emorynlp(tmp_path):
    names = ["Sr No.", "Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"]
    for split in ("train", "dev", "test"):
        with open(tmp_path / f"{split}_sent_emo.csv", "w", newline="") as f:
            csv.writer(f).writerows(
                [names]
                + [
                    [i, f'He\x92s "{split}"\n{i}', "Ross", "joy", d, n]
                    for i, (d, n) in enumerate([(0, 1), (0, 0), (1, 0), (1, 1)])
                ]
            )
    task = open_task(f"meld:{tmp_path}", Seeds(0), **SIZES)
    assert task.splits == dict(train=4, validation=4, test=3) and len(task.items()[0].options) == 7
    first = next(i for i in task.items() if 'dev" 0' in i.prompt and 'dev" 1' in i.prompt)
    assert first.prompt == 'Ross: He’s "dev" 1\nRoss: He’s "dev" 0\nThe emotion of Ross\'s last words is'
    text = (tmp_path / "dev_sent_emo.csv").read_text()
    (tmp_path / "dev_sent_emo.csv").write_text(text.replace("joy", "glee", 1))
    with pytest.raises(TaskFileError, match="dev_sent_emo.csv.*'glee'"):
        open_task(f"meld:{tmp_path}", Seeds(0), **SIZES)
    (tmp_path / "dev_sent_emo.csv").write_text("Utterance,Emotion\nhi,joy\n")
    with pytest.raises(TaskFileError, match="record 2 must have"):
        open_task(f"meld:{tmp_path}", Seeds(0), **SIZES)
    with pytest.raises(MissingCorpusError, match="emotion-detection-trn.json or emorynlp_train_final.csv"):
        open_task(f"emorynlp:{tmp_path}", Seeds(0))
    head = "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode\n"
    for split in ("train", "dev", "test"):
        rows = [f"{split} {e},['Joey Tribbiani'],Peaceful,1,{k},1,{e}\n" for e in (3, 2) for k in (2, 1)]
        (tmp_path / f"emorynlp_{split}_final.csv").write_text(head + "".join(rows))
    said = emotions.table_utterances(tmp_path / "emorynlp_dev_final.csv")
    assert [d[1] for d, *_ in said] == ["3", "3", "2", "2"] and said[0][1] == "Joey Tribbiani"
    assert open_task(f"emorynlp:{tmp_path}", Seeds(0), 1, 1).items()[0].answer == 3
