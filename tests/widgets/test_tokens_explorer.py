"""The tokens explorer: surprisal and attention are the model's own, and what is written is read."""

import numpy as np
import pytest
import torch

from evonb.alignment.features import token_surprisal
from evonb.core import InputError
from evonb.plots.style import NothingToPlot
from evonb.store import create_run
from evonb.text.passages import split_words
from evonb.training.base import new_base
from evonb.widgets.tokens import TokensExplorer, pieces_of, read_sentence, sentence_ids, sentences_of, sentences_within

TEXT = "the cat sat on the mat."
EVIL = "<img src=x onerror=alert(1)>"


def llama_base(tokenizer):
    "A model of transformers' own, whose attention is closed until it is asked for."
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=270, hidden_size=16, intermediate_size=16, num_hidden_layers=3,
                         num_attention_heads=2, max_position_embeddings=64)
    return new_base(LlamaForCausalLM(config), tokenizer, "llama")


@pytest.fixture(scope="module")
def base(tiny_reader):
    return tiny_reader()


@pytest.fixture
def seen(base, tiny_reader):
    return TokensExplorer({"newborn": base, "another/1": tiny_reader(1)}, [TEXT, "a dog ran."])


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_surprisal_is_the_readers_and_attention_the_models(base, kind):
    base = llama_base(base.tokenizer) if kind == "llama" else base
    found = read_sentence(base, f"  {TEXT.replace(' ', '  ')} ")
    assert found.text == TEXT and "".join(found.pieces[found.n_begin:]) == TEXT
    own = token_surprisal(base, split_words("s", TEXT))
    n = found.n_begin
    known = np.isfinite(own.surprisal.values)
    assert np.allclose(found.bits[n:][known], own.surprisal.values[known], rtol=1e-4)
    assert found.word[n:].tolist() == own.word.values.tolist()
    assert np.allclose(found.attention.sum(-1), 1, atol=1e-5) and not np.triu(found.attention, 1).any()
    assert found.attention.shape[0] == base.model.config.num_hidden_layers
    assert all(p[0][1] >= p[1][1] >= p[2][1] > 0 for p in found.expected[1:])
    if kind == "llama":
        assert base.model.config._attn_implementation == "sdpa"  # closed again
        base.model.set_attn_implementation("eager")
        ids = torch.tensor([sentence_ids(base, TEXT)[0]])
        with torch.no_grad():
            wanted = base.model(input_ids=ids, output_attentions=True).attentions
        assert np.allclose(found.attention, torch.stack(wanted)[:, 0].numpy(), atol=1e-6)


def test_pieces_make_the_text_whatever_the_offsets():
    assert pieces_of("é x", [(0, 1), (0, 1), (2, 3)]) == ["é", "", " x"]  # a character of two tokens
    assert pieces_of("a b", [(0, 1), (1, 3)]) == ["a", " b"]


def test_bad_sentences_are_refused(base, seen):
    for text, message in (("", "is empty"), ("word " * 99, "at most 64 can be looked at"), (7, "not a string")):
        with pytest.raises(InputError, match=message):
            read_sentence(base, text)
    with pytest.raises(InputError, match="sentence is 'mine', but must be one of"):
        seen.set(sentence="mine")
    with pytest.raises(InputError, match="no model"):
        TokensExplorer({})
    with pytest.raises(InputError, match="isn't|no base model"):
        TokensExplorer("no/such/model")


def test_a_reply_holds_every_weight_and_every_bit(base, seen):
    read = read_sentence(base, TEXT)
    reply = seen.ask("tokens")
    assert np.array_equal(reply.arrays[0], (read.attention * 255).round().astype(np.uint8))
    tokens = reply.content["tokens"]
    assert tokens[0]["bits"] is None and np.allclose([t["bits"] for t in tokens[1:]], read.bits[1:])
    rows = seen.ask("words").content["rows"]
    assert [r[0] for r in rows] == TEXT.split()
    assert np.allclose([float(r[1]) for r in rows], read.word_bits(), atol=0.005)
    said = seen.ask("said").content["text"]
    assert f"needs {read.word_bits().sum():.1f} bits for 6 words" in said
    assert TEXT.split()[int(read.word_bits().argmax())] in said
    lines = {t.name: t for t in seen.figure("models").data}
    assert set(lines) == {"newborn", "another/1"} and np.allclose(lines["newborn"].y, read.word_bits())
    shown = seen.figure("heads", layer=2, head=1).data[0]
    assert shown.z.shape == read.attention.shape[2:]


def test_what_is_written_is_read_and_pages_hold_what_was_stored(seen):
    with pytest.raises(NothingToPlot, match="Nothing is written yet"):
        seen.ask("tokens", sentence="")
    assert "your own" not in seen.to_html()
    seen._heard(None, dict(type="written", text=f"  a {EVIL} "), [])
    assert seen.values["sentence"] == "" and [r[0] for r in seen.ask("words").content["rows"]] == f"a {EVIL}".split()
    page = seen.to_html(only=dict(sentence=[""], model=["newborn"]))
    assert EVIL not in page and page.count("\\u003cimg") > 0
    seen._heard(None, dict(type="written", text="x" * 5000), [])  # cut, and refused as too long
    with pytest.raises(InputError, match="at most 64"):
        seen.ask("tokens")


def test_sentences_come_from_the_data_at_hand(tmp_path):
    found = sentences_of("toy-reading", 3)
    assert len(found) == 3 and all(4 <= len(s.split()) <= 24 for s in found)
    with create_run(tmp_path / "run", dict(corpus=dict(source="toy-english")), "connectome") as run:
        pass
    assert sentences_within(run) == (found, "")
    with create_run(run.path / "alignment" / "gone", dict(data="no such data"), "alignment"):
        pass
    assert sentences_within(run)[1].startswith("No sentence of no such data")
    with pytest.raises(InputError, match="no sentence of 99 to 100 words"):
        sentences_of("toy-reading", words=(99, 100))


def test_controls_reach_the_largest_model_and_a_smaller_one_says_what_it_lacks(base):
    large = llama_base(base.tokenizer)
    for sources in (dict(small=base, large=large), dict(large=large, small=base)):
        seen = TokensExplorer(sources, [TEXT])
        assert [v for v, _ in seen.controls["layer"].options] == [1, 2, 3]
    seen.set(model="small", layer=3)
    with pytest.raises(InputError, match="layer is 3"):
        seen.ask("tokens" if seen.ask("heads").figure is None else "heads").figure()
    seen.set(model="large")
    assert "layer 3" in seen.ask("heads").figure().layout.title.text
