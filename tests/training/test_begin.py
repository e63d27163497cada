"""What stands before a text: one rule for tokenizers of every kind, and for reading, scoring and training by it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evonb.alignment.features import ReadConfig, read, token_surprisal
from evonb.core import InputError, Seeds
from evonb.populations.experts import ExpertConfig, encode_text, lora_config, train_expert
from evonb.tasks.backends import InProcess, check_begin
from evonb.tasks.client import ServerBackend
from evonb.tasks.engine import Engine, encode_choices
from evonb.tasks.protocol import asked
from evonb.tasks.tasks import Choice, Prompt
from evonb.text.passages import split_words
from evonb.training.adapters import Adapter
from evonb.training.base import added_before, begin_token, new_base, text_begin
from evonb.training.gpt import GPTConfig, new_gpt

TEXTS = ["the cat sees the dog", "a dog sleeps here", "the dogs see a cat", "she gave him the book",
         "here is the house"]
BASE = Adapter({}, {}, {}, {})


def template(single):
    def made(backend):
        ids = [(t, backend.token_to_id(t)) for t in ("<s>", "</s>", "<u>") if t in single]
        return processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=ids)
    return made


POSTS = dict(  # name -> post-processor, what it puts before a text
    none=(lambda b: None, ()), empty=(template("$A"), ()), bos=(template("<s> $A"), ("<s>",)),
    both=(template("<s> $A </s>"), ("<s>",)), end=(template("$A </s>"), ()),
    two=(template("<u> <s> $A"), ("<u>", "<s>")),
    roberta=(lambda b: processors.RobertaProcessing(("</s>", b.token_to_id("</s>")), ("<s>", b.token_to_id("<s>"))),
             ("<s>",)),
    several=(lambda b: processors.Sequence([processors.ByteLevel(trim_offsets=False), template("<s> $A </s>")(b)]),
             ("<s>",)),
    bytes=(lambda b: processors.ByteLevel(trim_offsets=False), ()))


def tokenizer_with(post="none", **special):
    "A byte-level tokenizer with this post-processor."
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>", "<u>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    if made := POSTS[post][0](backend):
        backend.post_processor = made
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(dict(bos_token="<s>", eos_token="</s>") | special))


def llama(n_vocab=320, **more):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=n_vocab, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                         intermediate_size=40, num_key_value_heads=1, max_position_embeddings=64, initializer_range=.4,
                         **more)
    return LlamaForCausalLM(config).eval()


def ids_of(tokenizer, *tokens):
    return tuple(tokenizer.convert_tokens_to_ids(list(tokens)))


def bare(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def logprob(model, ids, start):
    "nats of ids[start:], from one plain pass."
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logp[i - 1, ids[i]]) for i in range(start, len(ids)))


# The rule ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("post", POSTS)
def test_what_a_post_processor_adds_before_a_text_is_found(post):
    tokenizer = tokenizer_with(post)
    expected = ids_of(tokenizer, *POSTS[post][1])
    assert added_before(tokenizer) == expected
    whole = tokenizer("the cat")["input_ids"]
    assert tuple(whole[:len(expected)]) == expected and whole[len(expected):][:2] == bare(tokenizer, "the cat")[:2]
    assert text_begin(tokenizer, "tokenizer").ids == text_begin(tokenizer, "tokenizer").alone == expected
    found = text_begin(tokenizer)
    assert found.ids == expected and found.alone == (expected or ids_of(tokenizer, "<s>"))


def test_a_stored_truncation_and_padding_hide_nothing():
    tokenizer = tokenizer_with("bos")
    tokenizer.backend_tokenizer.enable_padding(direction="left", length=12, pad_id=1, pad_token="</s>")
    assert added_before(tokenizer) == ids_of(tokenizer, "<s>")
    tokenizer = tokenizer_with("both")
    tokenizer.backend_tokenizer.enable_truncation(2, direction="left")
    assert added_before(tokenizer) == ids_of(tokenizer, "<s>")


def test_a_tokenizer_that_knows_none_of_the_usual_letters_is_looked_at_too():
    backend = Tokenizer(models.WordLevel({"<s>": 0, "Wort": 1, "zwei": 2}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert added_before(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="zwei")) == (0,)


@pytest.mark.parametrize("policy", ["auto", "tokenizer", "model", "none", "alone", "<u>"])
@pytest.mark.parametrize("post", ["none", "bos"])
def test_each_rule_in_full(policy, post):
    tokenizer = tokenizer_with(post)
    s, u = ids_of(tokenizer, "<s>", "<u>")
    model = llama(bos_token_id=u)
    added = (s,) if post == "bos" else ()
    ids, alone = dict(auto=(added, (s,)), tokenizer=(added, added), model=((u,), (u,)), none=((), ()), alone=((), (s,)),
                      **{"<u>": ((u,), (u,))})[policy]
    found = text_begin(tokenizer, policy, model)
    assert (found.ids, found.alone) == (ids, alone)
    assert f"({policy})" in found.told and ("nothing stands before a text" in found.told) == (not alone)
    assert found.before([5, 6]) == (*ids, 5, 6) and found.before([5, 6], context=False) == (*alone, 5, 6)
    assert text_begin(tokenizer, found, model) is found


def test_runs_of_before_had_no_rule_and_are_read_by_theirs():
    tokenizer = tokenizer_with("bos")
    assert text_begin(tokenizer, None) == text_begin(tokenizer, "alone")
    assert text_begin(tokenizer, None).alone == (begin_token(tokenizer),)


def test_a_models_own_token_is_its_begin_else_its_end():
    tokenizer = tokenizer_with()
    s, e, u = ids_of(tokenizer, "<s>", "</s>", "<u>")
    assert text_begin(tokenizer, "model", llama(bos_token_id=None, eos_token_id=e)).alone == (e,)
    assert text_begin(tokenizer, "model", llama(bos_token_id=None, eos_token_id=[u])).alone == (u,)
    for model, says in ((None, "only the tokenizer is here"), (llama(bos_token_id=999), "999"),
                        (llama(bos_token_id=None, eos_token_id=[e, u]), "end tokens"),
                        (llama(bos_token_id=None, eos_token_id=None), "names neither")):
        with pytest.raises(InputError, match=says):
            text_begin(tokenizer, "model", model)


def test_a_newborn_learned_behind_end_tokens_whatever_its_tokenizer_adds_for_others():
    tokenizer = tokenizer_with("bos")
    e = ids_of(tokenizer, "</s>")
    size = GPTConfig(vocab_size=320, n_layer=1, n_head=2, n_embd=16, block_size=32, eos_token_id=e[0])
    newborn = new_gpt(size, Seeds(0))
    assert (text_begin(tokenizer, "auto", newborn).ids, text_begin(tokenizer, "auto", newborn).alone) == ((), e)
    assert text_begin(tokenizer, "tokenizer", newborn).ids == ids_of(tokenizer, "<s>") # asked for, so it is done
    other = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_layer=1, n_head=2, n_embd=16, n_positions=32))
    assert text_begin(tokenizer, "auto", other).ids == ids_of(tokenizer, "<s>")


@pytest.mark.parametrize("token, says", [("<bos>", "tokens"), ("the cat", "2 tokens"), ("", "no token"),
                                         (3, "must be one of"), ("modell", "Did you mean model")])
def test_what_is_no_single_token_is_refused(token, says):
    with pytest.raises(InputError, match=says):
        text_begin(tokenizer_with(), token)


def test_a_token_may_be_named_as_text():
    tokenizer = tokenizer_with()
    assert text_begin(tokenizer, " the").alone == tuple(bare(tokenizer, " the"))
    unknown = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "</s>": 2}, unk_token="<unk>"))
    unknown = PreTrainedTokenizerFast(tokenizer_object=unknown, unk_token="<unk>", eos_token="</s>")
    with pytest.raises(InputError, match="no token"):
        text_begin(unknown, "zebra")


def test_a_tokenizer_without_any_begin_token_refuses_only_what_needs_one():
    tokenizer = tokenizer_with(bos_token=None, eos_token=None, pad_token="<u>")
    found = text_begin(tokenizer)
    assert found.before([5]) == (5,) and "refused" in found.told
    with pytest.raises(InputError, match="neither a bos_token nor an eos_token"):
        found.before([5], context=False)


# Scoring -----------------------------------------------------------------------------------------------------------

CHOICES = [Choice("the cat", (" sees the dog", " sleeps"), True), Choice("", ("the dog sleeps", "a dog sees"), True)]


@pytest.mark.parametrize("packing", ["tree", "padded"])
@pytest.mark.parametrize("policy", ["auto", "tokenizer", "model", "none", "<u>"])
@pytest.mark.parametrize("post", ["none", "both", "two"])
def test_options_are_scored_behind_what_stands_there(post, policy, packing):
    tokenizer = tokenizer_with(post)
    model = llama(bos_token_id=2)
    mark = text_begin(tokenizer, policy, model)
    found = Engine(model, tokenizer, packing=packing, begin=policy).loglikelihoods([BASE], CHOICES)[0]
    for choice, (sums, counts) in zip(CHOICES, found, strict=True):
        for option, nats, n in zip(choice.options, sums, counts, strict=True):
            lead = mark.ids if choice.context else mark.alone
            ids = [*lead, *bare(tokenizer, choice.context + option)]
            start = max(1, len(lead) + len(bare(tokenizer, choice.context)))
            assert n == len(ids) - start and np.isclose(nats, logprob(model, ids, start), atol=1e-4)
    if policy == "tokenizer":  # with what the tokenizer itself gives, less what it puts behind
        whole = tokenizer("the cat sees the dog")["input_ids"]
        whole = whole[:-1] if post == "both" else whole
        n = len(bare(tokenizer, " sees the dog"))
        assert np.isclose(found[0][0][0], logprob(model, whole, len(whole) - n), atol=1e-4)


def test_nothing_before_an_option_of_one_token_leaves_nothing_to_score():
    tokenizer = tokenizer_with()
    with pytest.raises(InputError, match="no token of its own"):
        encode_choices(tokenizer, [Choice("", (" the", " a cat"))], "none")


def test_a_begin_token_from_a_chat_template_isnt_doubled():
    tokenizer = tokenizer_with("bos")
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    chat = tokenizer.apply_chat_template([dict(role="user", content="the cat sees")], tokenize=False)
    assert chat.startswith("<s>")
    s = ids_of(tokenizer, "<s>")
    (told,), (plain,) = encode_choices(tokenizer, [Choice(chat, (" the dog",)), Choice("the cat sees", (" the dog",))])
    assert told == plain and told.ids.count(s[0]) == 1
    engine = Engine(llama(), tokenizer)
    ids = engine.encode_prompts([Prompt(chat, 4), Prompt("the cat sees", 4), Prompt("", 4)])
    assert ids[0] == ids[1] == (*s, *bare(tokenizer, "the cat sees")) and ids[2] == s
    alone = encode_choices(tokenizer, [Choice("", ("<s>the cat", "<s>a dog"))])[0]
    assert all(q.start == 1 and q.ids.count(s[0]) == 1 for q in alone)
    assert encode_text((chat, " the dog"), tokenizer) == encode_text(("the cat sees", " the dog"), tokenizer)
    assert encode_text(chat, tokenizer) == encode_text("the cat sees", tokenizer)


@pytest.mark.parametrize("post, policy", [("none", "auto"), ("bos", "auto"), ("bos", "none"), ("none", "<u>")])
def test_generation_goes_on_from_what_stands_before_a_prompt(post, policy):
    tokenizer = tokenizer_with(post)
    model = llama(eos_token_id=None)
    engine = Engine(model, tokenizer, begin=policy)
    text = engine.generate([BASE], [Prompt("the cat", 6)])[0][0]
    ids = torch.tensor([[*engine.begin.ids, *bare(tokenizer, "the cat")]])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0,
                         eos_token_id=list(engine.end_ids()))
    assert text == tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


def test_an_empty_prompt_with_nothing_before_it_is_refused():
    with pytest.raises(InputError, match="Prompt 1 is empty"):
        Engine(llama(), tokenizer_with(), begin="none").encode_prompts([Prompt("the", 4), Prompt("", 4)])


def test_scores_are_kept_apart_by_the_rule_and_those_of_before_are_found():
    "The digest names scores in caches: the default of a tokenizer that adds nothing has the digest of before."
    for post, same in (("none", ("auto", "alone", None)), ("bos", ("alone", None))):
        model, tokenizer = llama(bos_token_id=2), tokenizer_with(post)
        digests = {p: Engine(model, tokenizer, begin=p).digest()
                   for p in ("auto", "tokenizer", "model", "none", "alone", None)}
        assert len({digests[p] for p in same}) == 1
        rest = {digests[p] for p in ("model", "none")} - {digests[same[0]]}
        assert len(rest) == 2
    assert digests["auto"] == digests["tokenizer"] != digests["alone"]


def test_a_backend_that_scores_by_another_rule_is_refused():
    tokenizer = tokenizer_with("bos")
    backend = InProcess(Engine(llama(), tokenizer, begin="none"))
    assert check_begin(backend, text_begin(tokenizer, "none")) is backend
    with pytest.raises(InputError, match="scores by another rule: nothing stands before a text.*begin='auto'"):
        check_begin(backend, text_begin(tokenizer))

    class Own:
        "A backend that says nothing of it."

    assert check_begin(Own(), text_begin(tokenizer))
    with pytest.raises(InputError, match="doesn't say what it puts before texts"):
        check_begin(Own(), text_begin(tokenizer, "none"))


def test_a_server_is_sent_the_same_tokens_or_the_rule_is_refused(tmp_path):
    tokenizer = tokenizer_with("both")

    def made(**kw):
        return ServerBackend("http://127.0.0.1:1", tokenizer, adapters_folder=tmp_path, **kw)

    for policy in ("auto", "none", "<u>", "alone"):
        encoded, ids = made(begin=policy)._encode(CHOICES, [Prompt("the cat", 4)])
        engine = Engine(llama(), tokenizer, begin=policy)
        assert encoded == encode_choices(tokenizer, CHOICES, engine.begin)
        assert ids == engine.encode_prompts([Prompt("the cat", 4)])
    with pytest.raises(InputError, match="only the tokenizer is here"):
        made(begin="model")
    model = llama(bos_token_id=2)
    assert made(begin=text_begin(tokenizer, "model", model)).begin.ids == (2,)


def test_a_served_texts_begin_is_the_engines_and_token_ids_stay():
    tokenizer = tokenizer_with("bos")
    body = dict(model="m", prompt="the cat", max_tokens=1, temperature=0)

    def ask(prompt, begin="auto"):
        return asked(body | dict(prompt=prompt), tokenizer, 64, 320, text_begin(tokenizer, begin)).ids[0]

    assert ask("the cat") == [*ids_of(tokenizer, "<s>"), *bare(tokenizer, "the cat")] == ask("<s>the cat")
    assert ask("the cat", "none") == bare(tokenizer, "the cat") and ask([5, 6]) == [5, 6]


# Reading -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("policy", ["auto", "tokenizer", "model", "none", "alone", "<u>"])
@pytest.mark.parametrize("post", ["none", "both", "two"])
def test_words_are_read_behind_what_stands_there(post, policy):
    tokenizer = tokenizer_with(post)
    base = new_base(llama(bos_token_id=2), tokenizer, "tiny")
    mark = text_begin(tokenizer, policy, base.model)
    found = read(base, [split_words("a", "the cat sees a dog")], ReadConfig(begin=policy, units="nats"))
    words, before = ["the", " cat", " sees", " a", " dog"], list(mark.alone)
    for i, word in enumerate(words):
        ids = [*before, *bare(tokenizer, word)]
        start = len(before)
        value = float(found.surprisal[i])
        assert np.isnan(value) if not start else np.isclose(value, -logprob(base.model, ids, start), atol=1e-4)
        before = ids
    assert found.attrs["begin"] == mark.told and found.attrs["first_tokens_not_scored"] == (not mark.alone)
    expected = -1 if not mark.alone else mark.alone[0] if len(mark.alone) == 1 else list(mark.alone)
    assert found.attrs["begin_token"] == expected


def test_a_begin_that_a_text_has_already_isnt_doubled_and_is_no_word():
    base = new_base(llama(), tokenizer_with("bos"), "tiny")
    plain, told = (read(base, [split_words("a", t)]) for t in ("the cat sees", "<s>the cat sees"))
    assert np.allclose(plain.surprisal, told.surprisal, atol=1e-5)
    assert told.n_tokens.values.tolist() == plain.n_tokens.values.tolist()
    assert np.allclose(plain.hidden, told.hidden, atol=1e-5)
    whole = [read(base, [split_words("a", t)], ReadConfig(level="passage"))
             for t in ("the cat sees", "<s>the cat sees")]
    assert np.allclose(whole[0].surprisal, whole[1].surprisal, atol=1e-5)
    apart = read(base, [split_words("a", "<s> cat sees")])
    assert np.isnan(apart.surprisal[0]) and np.isfinite(apart.surprisal[1:]).all()
    assert read(base, [split_words("a", "cat sees")]).attrs["first_tokens_not_scored"] == 0


def test_long_texts_behind_two_begin_tokens_equal_a_slow_loop():
    tokenizer = tokenizer_with("two")
    base, text = new_base(llama(), tokenizer, "tiny"), " ".join(TEXTS)
    found = token_surprisal(base, split_words("a", text), ReadConfig(context=12, units="nats"))
    ids, mark = bare(tokenizer, text), ids_of(tokenizer, "<u>", "<s>")
    for i, (n, nats) in enumerate(zip(found.behind.values, found.surprisal.values, strict=True)):
        before = [*(mark if n == i else ()), *ids[i - n:i]]
        assert len(before) < 12 and np.isclose(nats, -logprob(base.model, [*before, ids[i]], len(before)), atol=1e-4)
    assert max(found.behind.values) >= 6
    with pytest.raises(InputError, match="2 tokens stand before a text. Give at least 6"):
        read(base, [split_words("a", text)], ReadConfig(context=4))


def test_words_without_a_token_of_their_own_have_no_surprisal():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(["of the cat and of the dog and of the house"] * 9, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["</s>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    base, text = new_base(llama(300), tokenizer, "merging"), "xy of the cat and of the dog"
    passage, offsets = split_words("a", text), tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    holds = [{i for i, (a, b) in enumerate(passage.spans) if any(a <= k < b for k in range(*o))} for o in offsets]
    first = [min(h) for h in holds if h]
    lost = [i for i in range(len(passage.spans)) if i not in first]
    shared = sorted({i for h in holds if len(h) > 1 for i in h})
    assert lost and len(shared) > len(lost)
    found = read(base, [passage])
    assert np.flatnonzero(np.isnan(found.surprisal)).tolist() == lost == np.flatnonzero(found.n_tokens == 0).tolist()
    assert np.flatnonzero(found.shared).tolist() == shared
    assert found.attrs["words_without_token"] == len(lost) and found.attrs["words_sharing_tokens"] == len(shared)
    assert found.attrs["spanning_tokens"] == sum(len(h) > 1 for h in holds)
    ids = [0, *bare(tokenizer, text)]
    assert np.isclose(found.surprisal.sum(), -logprob(base.model, ids, 1) / math.log(2), atol=1e-3)
    assert np.isfinite(found.hidden).all()


def test_unknown_tokens_and_texts_in_windows_are_counted():
    backend = Tokenizer(models.WordLevel({"</s>": 0, "<unk>": 1, "the": 2, "cat": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    base = new_base(llama(8), tokenizer, "words")
    found = read(base, [split_words("a", "the zebra cat " * 5), split_words("b", "the cat")], ReadConfig(context=8))
    assert found.attrs["unknown_tokens"] == 5 and found.attrs["texts_in_several_windows"] == 1


# Training ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("policy", ["auto", "tokenizer", "model", "none", "<u>"])
@pytest.mark.parametrize("post", ["none", "both"])
def test_training_texts_begin_as_scored_ones(post, policy):
    tokenizer = tokenizer_with(post)
    mark, e = text_begin(tokenizer, policy, llama(bos_token_id=2)), ids_of(tokenizer, "</s>")
    ids, start = encode_text("the cat sees", tokenizer, begin=mark)
    assert ids == (*mark.alone, *bare(tokenizer, "the cat sees"), *e) and start == max(1, len(mark.alone))
    (asked_,) = encode_choices(tokenizer, [Choice("the cat", (" sees",))], mark)
    assert encode_text(("the cat", " sees"), tokenizer, begin=mark) == (asked_[0].ids, asked_[0].start)
    (asked_,) = encode_choices(tokenizer, [Choice("", ("the cat sees",))], mark)
    assert encode_text(("", "the cat sees"), tokenizer, begin=mark) == (asked_[0].ids, asked_[0].start)


def test_the_rule_decides_what_an_expert_learns_from():
    tokenizer, losses = tokenizer_with("bos"), {}
    config = ExpertConfig(steps=2, batch_size=2, rank=2, warmup=0, eval_every=2, max_tokens=16, held_out=2)
    for policy in ("auto", "tokenizer", "none", None):
        base = new_base(llama(), tokenizer, "tiny")
        found = train_expert(base, TEXTS * 3, replace(config, begin=policy), Seeds(0), show=False)
        losses[policy] = found.digest()
    assert losses["auto"] == losses["tokenizer"] == losses[None] != losses["none"]
    assert lora_config(new_base(llama(), tokenizer, "tiny"), config).r == 2
