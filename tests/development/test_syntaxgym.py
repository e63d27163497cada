"""SyntaxGym: published formulas over regions, by a plain loop; bad files and formulas named."""

import json
import re

import numpy as np
import pytest
import torch

from evonb.core import DamagedFileError, InputError, Seeds
from evonb.development.scoring import ModelScorer
from evonb.development.suites import open_suite
from evonb.development.syntaxgym import evaluate_formula, parse_formula
from evonb.text.tokens import train_tokenizer
from evonb.text.toy_english import toy_documents
from evonb.training.base import new_base, text_begin
from evonb.training.gpt import GPTConfig, new_gpt

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module")
def base():
    tokenizer = train_tokenizer(toy_documents(40_000), 350)
    model = new_gpt(GPTConfig(vocab_size=len(tokenizer), n_embd=32, n_head=2, n_layer=2), Seeds(5), "cpu")
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # so that it has preferences
    return new_base(model, tokenizer, "small")


def plain_regions(base, regions):
    "Bits of each region: the sentence's tokens one after another, each given to the region its first letter is in."
    said = [(str(r["region_number"]), r["content"].strip()) for r in regions if r["content"].strip()]
    text, ends = " ".join(t for _, t in said), np.cumsum([len(t) + 1 for _, t in said])
    found = base.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor([[*text_begin(base.tokenizer, "auto", base.model).alone, *found["input_ids"]]])
    with torch.no_grad():
        nats = base.model(input_ids=ids).logits[0].double().log_softmax(-1)
    out = {str(r["region_number"]): 0. for r in regions}
    for i, (t, (a, b)) in enumerate(zip(found["input_ids"], found["offset_mapping"])):
        first = a + len(text[a:b]) - len(text[a:b].lstrip())
        out[said[int((ends <= first).sum())][0]] -= float(nats[i, t]) / np.log(2)
    return out


def plain_truth(formula, bits):
    "Python's own reading of a formula."
    text = re.sub(r"\(\s*(\d+)\s*;\s*%\s*([\w-]+)\s*%\s*\)", lambda m: repr(float(bits[m[1], m[2]])), formula)
    text = text.replace("[", "(").replace("]", ")").replace("&", " and ")
    text = re.sub(r"\(([^()]*)=([^()]*)\)", r"(abs((\1)-(\2)) <= 1e-3 + 1e-5 * abs(\2))", text)
    return eval(text)  # numbers and signs only


@pytest.mark.parametrize("name", ["number_orc", "fgd_hierarchy", "npz_obj", "cleft", "subordination"])
def test_published_formulas_by_a_plain_loop(name, base, data_folder):
    path = data_folder / "syntaxgym" / f"{name}.json"
    suite = open_suite(f"syntaxgym:{path}")
    graded = suite.grade(suite.ask(ModelScorer(base)))
    found = json.loads(path.read_text())
    k = len(found["predictions"])
    for i, item in enumerate(found["items"][:6]):
        bits = {(r, c["condition_name"]): v for c in item["conditions"]
                for r, v in plain_regions(base, c["regions"]).items()}
        truth = [plain_truth(p["formula"], bits) for p in found["predictions"]]
        assert graded["credit"][i * k:(i + 1) * k].tolist() == truth
        asked = suite.ask(ModelScorer(base), slice(i * k, i * k + 1))["bits"][0]
        case = suite.items[i * k]
        assert np.allclose(asked[:len(case.named())], [bits[n] for n in case.named()], atol=2e-3)


def test_all_thirty_suites_are_read(data_folder):
    suite = open_suite(f"syntaxgym:{data_folder / 'syntaxgym'}")
    whole = [json.loads(p.read_text()) for p in (data_folder / "syntaxgym").glob("*.json")]
    assert len(suite.files) == 30 and len(suite.names) == 32
    assert len(suite) == sum(len(w["items"]) * len(w["predictions"]) for w in whole) == 763
    chance = dict(zip(suite.names, suite.chance()))
    assert abs(chance["center_embed"] - .5) < .02 and abs(chance["number_orc"] - .25) < .02
    assert abs(chance["npi_orc_any"] - 5 / 24) < .02  # of 24 orders of four, those that fit
    assert chance["fgd_hierarchy/2"] < .01  # two reals are never equal


def test_ties_are_half_of_an_inequality():
    same = {(r, c): 2. for r in "12" for c in "ab"}
    for text, worth in (("(1;%a%) < (1;%b%)", .5), ("[(1;%a%)<(1;%b%)]&[(2;%a%)>(2;%b%)]", .25),
                        ("(1;%a%) = (1;%b%)", 1), ("[(1;%a%)<(1;%b%)]|[(2;%a%)>(2;%b%)]", .75), ("(*;%a%) > 3", 1)):
        assert evaluate_formula(parse_formula(text), same)[0] == worth


def test_files_and_formulas_that_are_wrong_are_named(tmp_path):
    regions = [dict(region_number=1, content="a"), dict(region_number=2, content="b")]
    made = dict(meta={}, region_meta={}, predictions=[dict(type="formula", formula="(1;%x%) < (3;%x%)")],
                items=[dict(item_number=7, conditions=[dict(condition_name="x", regions=regions)])])
    path = tmp_path / "own.json"
    path.write_text(json.dumps(made))
    with pytest.raises(InputError, match="own.json: the formula .* names region 3 of condition 'x', which item 7"):
        open_suite(f"syntaxgym:{path}")
    path.write_text("{")
    with pytest.raises(DamagedFileError, match="own.json is damaged"):
        open_suite(f"syntaxgym:{path}")
    path.write_text(json.dumps({"items": []}))
    with pytest.raises(DamagedFileError, match="lacks 'predictions'"):
        open_suite(f"syntaxgym:{path}")
    with pytest.raises(InputError, match="ends too early"):
        parse_formula("[(1;%a%)")
