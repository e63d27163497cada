"""Two texts, one tokenizer: what each split holds, what the tokenizer saw, refused overlap, runs that know it."""

from dataclasses import replace

import numpy as np
import pytest

from evonb.cli import main, unseen_text
from evonb.connectomes.experiments import experiment
from evonb.connectomes.planning import plan
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.core import CorpusError, Seeds
from evonb.report import corpora_html, write_report
from evonb.store import open_run
from evonb.text.corpora import SPLITS, deal_across
from evonb.text.tokens import CorpusConfig, open_prepared, prepare, save_prepared
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig


def sentences(word, n, seed):
    rng = np.random.default_rng(seed)
    return [f"the {word} {a} saw {b} of {c} {word}s ." for a, b, c in rng.integers(0, 10_000, (n, 3))]


@pytest.fixture
def texts(tmp_path):
    for k, word in enumerate(("walrus", "quince")):
        (tmp_path / f"{word}.txt").write_text("\n".join(sentences(word, 900, k)) + "\n")
    return tmp_path / "walrus.txt", tmp_path / "quince.txt"


def config(a, b, **kw):
    return CorpusConfig(str(a), vocab_size=320, block_bytes=256, development=str(b), **kw)


def test_evolution_reads_all_of_one_text_and_the_rest_is_dealt_from_the_other(texts, tmp_path):
    made = prepare(config(*texts), Seeds(0))
    own = {s: list(made.texts(s)) for s in SPLITS}
    assert sorted("".join(own["evolution"])) == sorted(texts[0].read_text())
    rest = sum((own[s] for s in SPLITS[1:]), [])
    assert sorted("".join(rest)) == sorted(texts[1].read_text()) and len(set(rest)) == len(rest)
    sizes = np.array([made.splits[s].n_bytes for s in SPLITS[1:]])
    assert np.allclose(sizes / sizes.sum(), np.array([0.2, 0.06, 0.04]) / 0.3, atol=0.02)
    words = made.tokenizer.get_vocab()
    assert any("Ġquince" in t for t in words) and any("wal" in t for t in words)
    assert {r["split"]: r["also in evolution"] for r in made.info["overlap"]} == dict(validation=0, test=0)
    (tmp_path / "kept").mkdir()
    again = open_prepared(save_prepared(made, tmp_path / "kept"))
    assert again.config == made.config and again.info["across"] == made.info["across"]
    assert [f["path"] for f in again.info["provenance"]["files"]] == list(map(str, texts))
    twin = prepare(config(*texts), Seeds(0))
    assert all(np.array_equal(made.splits[s].ids, twin.splits[s].ids) for s in SPLITS)
    turned = prepare(config(*texts[::-1]), Seeds(0))
    assert turned.info["digest"] != made.info["digest"] != prepare(config(*texts), Seeds(1), None).splits["test"]


def test_n_bytes_limits_each_and_one_text_alone_is_as_it_was(texts):
    made = prepare(config(*texts, n_bytes=9000), Seeds(0))
    assert all(8000 < x["n_bytes"] <= 9000 for x in made.info["across"].values())
    alone = prepare(replace(config(*texts), development=None), Seeds(0))
    assert "across" not in alone.info and alone.info["name"] == str(texts[0])


def test_a_given_tokenizer_must_fit_both(texts, tmp_path):
    prepare(config(*texts), Seeds(0)).tokenizer.save_pretrained(tmp_path / "t")
    made = prepare(config(*texts, tokenizer=str(tmp_path / "t")), Seeds(0))
    assert made.info["vocab_size"] == 320


def test_texts_that_overlap_are_refused_whether_blocks_or_only_sentences_are_shared(texts, tmp_path):
    a, b = texts
    with pytest.raises(CorpusError, match="that is the text of evolution, too"):
        prepare(config(a, a), Seeds(0))
    copy = tmp_path / "copy.txt"
    copy.write_text(a.read_text())
    with pytest.raises(CorpusError, match=r"blocks of .*copy.txt are in .*walrus.txt, too"):
        prepare(config(a, copy), Seeds(0))
    shifted = a.read_text().splitlines()
    copy.write_text("\n".join(shifted[::-1]) + "\n")
    with pytest.raises(CorpusError, match="of the sentences of .* are in .*walrus.txt, too, word for word"):
        prepare(config(a, copy, n_bytes=None), Seeds(0))
    copy.write_text("\n".join(shifted[::9] + b.read_text().splitlines()) + "\n")  # some: counted, and told
    made = prepare(config(a, copy), Seeds(0))
    assert 0 < made.info["overlap"][1]["also in evolution"] < 0.5
    told = unseen_text(dict(corpus=made.info, arms={}))
    assert told[0].startswith(f"Evolved on {a}; raised") and "in that of evolution" in told[-1]
    with pytest.raises(CorpusError, match="is a token shard"):
        (tmp_path / "x.bin").write_bytes(b"")
        prepare(config(a, tmp_path / "x.bin"), Seeds(0))
    short = tmp_path / "short.txt"
    short.write_text("one block only .\n")
    with pytest.raises(CorpusError, match="short.txt is too short"):
        prepare(config(a, short), Seeds(0))
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(CorpusError, match="empty.txt is empty"):
        prepare(config(a, tmp_path / "empty.txt"), Seeds(0))


@pytest.mark.parametrize("split_by", ["block", "source"])
def test_deal_is_a_partition(split_by):
    rng = np.random.default_rng(0)
    keys, sizes = np.arange(60), rng.integers(1, 50, 60)
    sources = np.where(np.arange(60) < 20, 0, rng.integers(1, 12, 60))
    dealt = deal_across(("a", "b"), keys, sizes, sources, 20, Seeds(0), (0.7, 0.2, 0.06, 0.04), split_by)
    assert sorted(np.concatenate(list(dealt.values()))) == list(range(60)) and set(dealt["evolution"]) == set(range(20))
    if split_by == "source":
        of = [set(sources[dealt[s]]) for s in SPLITS]
        assert not any(of[i] & of[j] for i in range(4) for j in range(i))


def test_a_run_across_corpora_tells_both_and_refuses_a_changed_file(texts, tmp_path, capsys):
    life = LifetimeConfig(steps=4, batch_size=4, context=16, warmup=1, eval_every=2, eval_windows=4, checkpoint_every=4)
    settings = ExperimentConfig(
        "tiny", corpus=config(*texts), model=ModelConfig(1, 2, 16),
        evolution=EvolutionConfig(n_generations=1, prune_fraction=0.5, lifetime=life),
        development=DevelopmentConfig(("connectome", "dense_joint"), 1, (2e-3,), test_windows=4, lifetime=life),
    )  # fmt: skip
    run = experiment(tmp_path / "run", settings, show=False)
    main(["show", str(run.path)])
    assert f"Evolved on {texts[0]}; raised, validated and tested on {texts[1]}." in capsys.readouterr().out
    assert f"Evolution read {texts[0]}" in corpora_html(run.summary()) and write_report(run.path).is_file()
    assert open_run(run.path).config["corpus"]["development"] == str(texts[1])
    assert "two corpora together" in plan(settings).text()
    texts[1].write_text("changed\n")
    with pytest.raises(CorpusError, match="quince.txt has changed"):
        experiment(run.path, settings, resume=True, show=False)


def test_the_command_line_takes_two_corpora(texts, tmp_path, capsys):
    main(["plan", "--preset", "demo", "--corpus", str(texts[0]), "--develop-on", str(texts[1])])
    assert "two corpora together" in capsys.readouterr().out
    assert main(["develop", str(tmp_path), "--develop-on", "childes"]) == 2
    assert "--corpus A --develop-on B" in capsys.readouterr().err
