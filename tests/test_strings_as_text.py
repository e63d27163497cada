"""Whatever stands in a run's files stays text in the pages that show it: an HTML parser finds no tag of it."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from evonb import core, store
from evonb.alignment import reading as behavior
from evonb.core import Seeds
from evonb.tasks import tasks
from evonb.text import corpora, passages
from evonb.text import tokens as text_tokens
from evonb.training import adapters as genome
from evonb.training.connectome import Connectome

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&<svg/onload=alert(1)>"


class Tags(HTMLParser):
    "Tags, attributes that run code, and text; a script's data is text only where it's JSON."

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.handlers, self.text, self.scripts, self.inside = [], [], "", [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [k for k, v in attrs if k.startswith("on") or "javascript:" in (v or "")]
        self.inside = tag
        if tag == "script":
            self.scripts.append(["", dict(attrs).get("type")])

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1][0] += data
        else:
            self.text += data


def check_text(page, shows=True):
    "No tag of EVIL is a tag, and it is there as text."
    found = Tags(page)
    assert not {"img", "script", "svg"} & set(found.tags) and not found.handlers
    assert not shows or EVIL in found.text


def test_the_parser_sees_what_a_browser_would():
    found = Tags(f"<p title='{EVIL}'>{EVIL}")
    assert {"img", "script", "svg"} <= set(found.tags) and "onerror" in found.handlers


def shown():
    "What shows itself in a notebook, with EVIL in each of its strings."
    import torch

    corpus = corpora.Corpus(EVIL, [EVIL * 3] * 4, [EVIL] * 4, {EVIL: EVIL})
    yield "Corpus", corpus
    tokens = text_tokens.Tokens(np.arange(5, dtype=np.uint16), 1, 5)
    info = dict(name=EVIL, digest=EVIL, vocab_size=5)
    yield "PreparedCorpus", text_tokens.PreparedCorpus(text_tokens.CorpusConfig(), None, {EVIL: tokens}, info)
    yield "Connectome", Connectome({EVIL: torch.ones(2, 2, dtype=torch.int8)}, {EVIL: (2, 2)}, 0.02, {EVIL: EVIL})
    yield "Adapter", genome.random_adapter({EVIL: (3, 3)}, 1, Seeds(0), base=EVIL)
    yield "Task", tasks.Task(EVIL, "choice", dict(validation=[tasks.Item(EVIL, (EVIL, "b"), 0, EVIL)] * 2))
    told = [passages.Passage(EVIL, "a b", [(0, 1), (2, 3)])]
    yield "ReadingTimes", behavior.ReadingTimes(EVIL, told, np.array([300.0, 310.0]), None, [EVIL])
    yield "facts", type("Facts", (), dict(_repr_html_=lambda self: core.facts_html({EVIL: EVIL})))()


@pytest.mark.parametrize("name", ["Corpus", "PreparedCorpus", "Connectome", "Adapter", "Task", "ReadingTimes", "facts"])
def test_what_a_notebook_shows_is_text(name):
    made = next(x for n, x in shown() if n == name)
    check_text(made._repr_html_(), shows=name != "Connectome")


def test_an_individual_is_text():
    from evonb.evolution.method import Individual, Lineage

    one = Individual(np.zeros(2), Lineage((EVIL,), EVIL), EVIL, 0, scores={EVIL: 0.5}, reason=EVIL)
    check_text(one._repr_html_())


def test_a_run_is_text(tmp_path):
    folder = tmp_path / EVIL.replace("/", "⁄")  # a folder can't be called </script>
    with pytest.raises(RuntimeError):
        with store.create_run(folder, {EVIL: EVIL}, EVIL) as run:
            run.log(EVIL, **{EVIL: EVIL})
            raise RuntimeError(EVIL)
    run = store.open_run(folder)
    assert run.state()["message"] == f"RuntimeError: {EVIL}"
    check_text(run._repr_html_())
    assert "<img" not in run._repr_html_()


def test_an_explorer_is_text():
    "Its page holds data as JSON in one script; no string of it ends the script, and titles are escaped."
    from evonb.widgets.explorer import Explorer, Reply, View, choice

    class Names(Explorer):
        def reply(self, view, values):
            if values["a"] == EVIL:
                raise core.InputError(EVIL)
            return Reply.of_text(EVIL)

    page = Names(EVIL, [choice("a", EVIL, [("x", EVIL), (EVIL, "y")])],
                 [View("t", "text", EVIL, needs=("a",))]).to_html()
    found = Tags(page)
    assert not {"img", "svg"} & set(found.tags) and not found.handlers
    data = [json.loads(text) for text, kind in found.scripts if kind == "application/json"]
    assert data and EVIL in json.dumps(data, ensure_ascii=False).replace('\\"', '"')
    assert not any("alert(1)" in text for text, kind in found.scripts if kind != "application/json")
