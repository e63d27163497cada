"""The command line, as a newcomer meets it: what works prints results, what doesn't says what to do in one line."""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evonb import core
from evonb.alignment.data import DATA
from evonb.alignment.run import AlignConfig
from evonb.cli import COMMANDS, default_out, flat_settings, main, parser, results_text, settled, spelled, with_settings
from evonb.connectomes.arms import ARMS
from evonb.connectomes.settings import preset
from evonb.connectomes.wiring import prune
from evonb.core import EvonbError, InputError, Seeds, Stopped, to_dict
from evonb.evolution.method import METHODS
from evonb.populations.breeding import BASELINES, BreedConfig
from evonb.populations.experts import ExpertsConfig, ToyConfig, toy_base
from evonb.store import create_run, open_run, read_dataset, read_json, write_json
from evonb.tasks.tasks import TASKS
from evonb.text.corpora import CORPORA
from evonb.training.base import BASES
from evonb.training.gpt import GPTConfig, ModelConfig, new_gpt
from evonb.training.lifetime import LifetimeConfig
from evonb.widgets.explorers import EXPLORERS

EVONB = str(Path(sys.executable).with_name("evonb"))  # the installed command
SMALL = ["corpus.vocab_size=320", "model.n_layer=1", "model.n_head=2", "model.n_embd=16", "evolution.n_generations=2"]
SMALL += ["evolution.n_evolutions=1"]
LIFE = ["steps=20", "batch_size=8", "context=16", "warmup=2", "eval_every=10", "eval_windows=16", "checkpoint_every=5"]
SMALL += [f"{loop}.lifetime.{x}" for loop in ("evolution", "development") for x in LIFE]
SMALL += ["development.n_seeds=2", "development.lrs=[0.004]", "development.n_bootstrap=100"]


def small(*more):
    return [f"--set={x}" for x in (*SMALL, *more)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    "Real sentences, enough for a small run."
    import this

    folder = tmp_path_factory.mktemp("corpus")
    words = "".join(this.d.get(c, c) for c in this.s).split()
    lines = [" ".join(words[i % 97 : i % 97 + 5 + i % 7]) for i in range(3000)]
    (folder / "zen.txt").write_text("\n".join(lines))
    return folder / "zen.txt"


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(scope="module")
def done(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["demo", "--corpus", str(text), "--out", str(path), "--arms", "connectome,random,dense", *small()]) == 0
    return path


def test_demo_prints_a_table_and_a_page_and_is_quick_the_second_time(done, text, capsys):
    before = open_run(done).events()
    code, out, _ = run(capsys, "demo", "--corpus", text, "--out", done, "--arms", "connectome,random,dense", *small())
    assert code == 0
    assert {e["event"] for e in open_run(done).events()[len(before) :]} == {"start", "complete", "generation", "result"}
    page = re.search(r"report: (.*report\.html)", out)[1]
    assert os.path.getsize(page) > 1e6 and "validation loss" in out
    for arm, x in read_json(done / "summary.json")["arms"].items():
        row = next(line for line in out.splitlines() if line.startswith(arm))
        assert f"{x['val_loss']['mean']:.3f} ± {x['val_loss']['sd']:.3f}" in row
    assert "95 % interval over seeds and windows" in out and "corrected for 2 comparisons (Holm)" in out
    said = read_json(done / "summary.json")["statement"]
    assert "sealed test text" in said and "2 seeds" in said and out.index(said) < out.index("validation loss")


def test_what_stands_before_a_text_is_told_by_table_page_and_summary(done, capsys):
    told = read_json(done / "summary.json")["begin"]
    assert told.startswith("<|endoftext|> stands between blocks of text") and "first token isn't scored" in told
    assert told[1:] in run(capsys, "show", done)[1]
    assert "stands between blocks of text" in (done / "report.html").read_text()


CONFIGS = dict(run=preset("demo"), experts=ExpertsConfig(experts=dict(a="skill:agreement")),
               population=BreedConfig("x", ("skill:agreement",)), align=AlignConfig("x", "toy-brain"))  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_whatever_setting_is_wrong_the_error_spells_it_as_the_command_line_does(name):
    n_wrong, config = 0, CONFIGS[name]
    for key, value in flat_settings(to_dict(config)).items():
        if isinstance(value, bool) or not isinstance(value, (int, float, str, list)):
            continue
        for bad in ("[-1]", '["nonsense"]') if isinstance(value, list) else ("nonsense", "-1"):
            args = argparse.Namespace(set=[f"{key}={bad}"])
            try:
                settled(args, config).check()
            except EvonbError as e:
                n_wrong += 1
                assert f"--set {key}=" in spelled(e, args), str(e)
    assert n_wrong > 20


def test_an_error_of_two_settings_is_spelled_where_both_have_the_values_it_tells(capsys, tmp_path):
    out = ["--out", tmp_path / "x"]
    code, _, err = run(capsys, "demo", *out, "--set", "evolution.lifetime.steps=4")
    assert code == 2 and "warmup 20 is more than the 4 steps there are. Shorten it" in err
    assert err.strip().endswith("On the command line: --set evolution.lifetime.warmup=4.")
    code, _, err = run(capsys, "demo", *out, "--set", "development.lifetime.steps=60", "--set",
                       "development.lifetime.schedule=hold", "--set", "development.lifetime.cooldown=50")  # fmt: skip
    assert code == 2 and "warmup 20 and cooldown 50 are together more than the 60 steps there are. Shorten them" in err
    assert err.strip().endswith("On the command line: --set development.lifetime.warmup=10.")
    code, _, err = run(capsys, "experts", *out, "--set", "training.steps=15")
    assert code == 2 and err.strip().endswith("--set training.warmup=15.")
    assert not (tmp_path / "x").exists()


def test_experts_of_a_newborn_that_reads_little_are_told_what_to_give(done, capsys, tmp_path):
    words = ["experts", "--base", done, "--expert", "skill:agreement", "--out", tmp_path / "e", "--device", "cpu"]
    words += [f"--set={x}" for x in ("n_texts=40", "training.steps=4", "training.warmup=1", "training.batch_size=2")]
    code, _, err = run(capsys, *words)
    said = re.search(r"max_tokens is 128, but .* can read 16 tokens.* On the command line: (--set \S+=16)\.", err)
    assert code == 2 and said[1] == "--set training.max_tokens=16"
    code, out, _ = run(capsys, *words, *said[1].split())
    note = re.search(r"texts longer than max_tokens \(16\), which lost their end: agreement (\d+) of 40", out)
    assert code == 0 and 0 < int(note[1]) <= 40
    assert int(note[1]) == read_json(tmp_path / "e" / "summary.json")["experts"]["agreement"]["n_cut"]


def test_a_setting_without_effect_is_told_once_and_in_no_help(done, text, capsys, monkeypatch):
    monkeypatch.setattr(core, "_inert", set())
    again = ["demo", "--corpus", text, "--out", done, "--arms", "connectome,random,dense"]
    err = run(capsys, *again, *small())[2]  # small() sets development.n_bootstrap=100
    assert err.count("n_bootstrap of DevelopmentConfig is 100, but has no effect") == 1
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert "n_bootstrap" not in capsys.readouterr().out


def command(*words, **env):
    "The installed command, in a process of its own."
    return dict(args=[EVONB, *map(str, words)], env={**os.environ, **env}, text=True)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_a_terminal_of_few_letters_gets_the_table(done, encoding):
    out = subprocess.run(**command("show", done, PYTHONIOENCODING=encoding, PYTHONUTF8="0"), capture_output=True,
                         encoding=encoding)  # fmt: skip
    assert out.returncode == 0 and "connectome" in out.stdout and not out.stderr


@pytest.mark.parametrize("words", [["show"], ["show", "--json"], ["report"]])
def test_a_pipe_that_was_closed_is_no_error(done, words):
    (done / "report.html").unlink()
    p = subprocess.Popen(**command(words[0], done, *words[1:]), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.close()
    assert (p.stderr.read(), p.wait()) == ("", 0)
    assert words[0] != "report" or (done / "report.html").exists()
    main(["report", str(done)])


def test_the_page_is_written_before_anything_is_printed(done, text):
    "Whoever prints the table may find no terminal any more."
    (done / "report.html").unlink()
    again = ["demo", "--corpus", text, "--out", done, "--arms", "connectome,random,dense", *small()]
    p = subprocess.Popen(**command(*again), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.close()
    assert "rror" not in p.stderr.read() and p.wait() == 0 and (done / "report.html").exists()


@pytest.mark.parametrize("words, way", [
    ("demo", "The same command goes on."), ("run --preset laptop", "The same command goes on."),
    ("evolve", "The same command with --resume goes on."), ("develop RUN", "The same command goes on."),
    ("develop --connectome FILE", "The same command with --resume goes on."),
    ("align RUN --data X", "The same command goes on."), ("experts", "The same command with --resume goes on."),
    ("population", "The same command with --resume goes on."), ("show RUN", ""), ("report RUN", ""),
    ("explore RUN", ""), ("plan", ""),
])  # fmt: skip
def test_resume_is_advised_only_where_there_is_such_a_thing(words, way, monkeypatch, capsys):
    def stopped(args):
        raise Stopped("Stopped by the test.")

    name = words.split()[0]
    monkeypatch.setitem(COMMANDS.known, name, replace(COMMANDS.entry(name), target=stopped))
    assert main(words.split()) == 130
    assert capsys.readouterr().err == "evonb: Stopped by the test." + (f"\n{way}\n" if way else "\n")


LOADING = """
import signal, sys
sys.argv = ["evonb", "--version"]
from evonb import main
class Interrupted:
    def find_spec(self, name, *_):
        if name == "evonb.cli": raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
sys.exit(main())
"""


def test_an_interrupt_while_the_command_is_loaded_is_one_line():
    out = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True)
    assert (out.returncode, out.stdout, out.stderr) == (130, "", "evonb: interrupted\n")


def test_show_as_text_and_json(done, capsys):
    code, out, _ = run(capsys, "show", done)
    assert code == 0 and "complete" in out and "sign" not in out
    code, out, _ = run(capsys, "show", done, "--json")
    shown = json.loads(out)
    assert set(shown["arms"]) == {"connectome", "random", "dense"}
    loss = shown["arms"]["random"]["val_loss"]
    assert set(loss) >= {"mean", "sd", "n"} and loss["n"] == 2
    assert [set(g) >= {"generation", "density", "val_loss"} for g in shown["generations"]] == [True, True]
    assert shown["state"]["status"] == "complete"


def test_evolve_then_develop_then_report(tmp_path, text, capsys):
    path = tmp_path / "run"
    evolved = run(capsys, "evolve", "--preset", "demo", "--corpus", text, "--out", path, "--seed", 3, *small())
    assert evolved[0] == 0 and "left density" in evolved[1]
    assert json.loads(run(capsys, "show", path, "--json")[1])["arms"] == {}
    code, out, _ = run(capsys, "develop", path, "--arms", "connectome,sign_shuffled", "--seeds", 2)
    assert code == 0 and re.search("^sign_shuffled", out, re.M)
    (path / "report.html").unlink()
    code, out, _ = run(capsys, "report", path)
    assert code == 0 and (path / "report.html").exists() and out.strip().endswith("report.html")


def test_other_lifetimes_follow_the_same_evolutions_in_a_run_of_their_own(done, tmp_path, capsys):
    out, before = tmp_path / "deprived", sorted((p, p.stat().st_mtime_ns) for p in done.rglob("*") if p.is_file())
    asked = ["develop", str(done), "--out", str(out), "--arms", "connectome", "--seeds", "1"]
    assert main([*asked, "--set", "development.lifetime.curriculum.deprived=[[0,0.5]]"]) == 0
    assert json.loads((out / "run.json").read_text())["config"]["development"]["lifetime"]["curriculum"]["deprived"]
    for p in (done / "evolution").rglob("connectome.safetensors"):
        assert (out / p.relative_to(done)).read_bytes() == p.read_bytes()
    assert [p.name for p in (out / "development").iterdir() if p.is_dir()] == ["connectome"]
    assert sorted((p, p.stat().st_mtime_ns) for p in done.rglob("*") if p.is_file()) == before
    assert main([*asked, "--set", "evolution.prune_fraction=0.1"]) != 0
    assert "Only development may differ" in capsys.readouterr().err
    asked[3] = str(done)
    assert main(asked) != 0 and "itself" in capsys.readouterr().err


def test_a_given_connectome_is_developed_with(done, tmp_path, text, capsys):
    given = done / "evolution" / "gen-01" / "connectome.safetensors"
    where = ["--preset", "demo", "--corpus", text, "--out", tmp_path / "run"]
    code, out, _ = run(capsys, "develop", "--connectome", given, *where, "--arms", "connectome,random", *small())
    assert code == 0 and re.search("^random", out, re.M)


def helps():
    "command -> its parser"
    return next(a for a in parser()._actions if a.dest == "command").choices


def test_every_command_has_a_help_with_an_example():
    for name, command in helps().items():
        shown = command.format_help()
        assert f"example:\n  evonb {name}" in shown and "--plugin FILE.py" in shown
        example = re.search(r"example:\n  evonb (.*)", shown)[1]
        assert parser().parse_args(example.split()).command == name
    out = subprocess.run([EVONB, "show", "--help"], capture_output=True, text=True)
    assert out.returncode == 0 and out.stdout.split() == helps()["show"].format_help().split()


def test_help_lists_what_there_is_in_registries():
    listed = dict(run=(ARMS, CORPORA), develop=(ARMS, CORPORA), evolve=(CORPORA,), plan=(CORPORA,), experts=(BASES,),
                  population=(METHODS, TASKS), serve=(BASES,), align=(BASES, DATA), explore=(EXPLORERS,))  # fmt: skip
    for name, registries in listed.items():
        shown = " ".join(helps()[name].format_help().split())  # long lines are folded
        for entry in (things.entry(n) for things in registries for n in things):
            assert f" {entry.spelled} {' '.join(entry.line.split())}" in shown, (name, entry)


def test_bare_evonb_helps_and_tells_its_version_without_importing_much():
    code = "import sys; from evonb.cli import main; print(main([]), sorted({'torch', 'plotly'} & {*sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.endswith("0 []\n") and all(f"\n    {name}" in out.stdout for name in COMMANDS)
    out = subprocess.run([EVONB, "--version"], capture_output=True, text=True)
    assert out.stdout == "evonb 0.1.0\n" and out.returncode == 0


def test_run_is_what_demo_is_short_for():
    of = lambda *words: {**vars(parser().parse_args(list(words))), "command": ""}
    assert of("demo", "--seed", "3") == of("run", "--preset", "demo", "--seed", "3")


PLUGIN = """
from evonb.alignment.data import DATA
from evonb.cli import COMMANDS
from evonb.connectomes.arms import ARMS
from evonb.kinds import RUN_KINDS, RunKind
from evonb.report import Page
from evonb.widgets.explorers import EXPLORERS

ARMS.add("mine", "evonb.connectomes.controls:random_control", "an arm of my own")
page = Page()
page.section("My page", needs=("mine.json",))(lambda found: f"<p>mine is {found['x']}</p>")
RUN_KINDS.add("mine", RunKind("mine", "evonb mine", page=page, table=lambda summary: f"mine came to {summary['x']}"))
EXPLORERS.add("letters", "builtins:sorted", "an explorer of my own", kinds=("mine",))

@COMMANDS.register("mine", "a command of my own", example="evonb mine")
def mine(args): print("mine works")
"""


def test_a_file_of_one_s_own_brings_a_command_an_arm_and_a_kind_of_run(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    with create_run(tmp_path / "run", {}, kind="mine") as run_:
        write_json(run_.file("summary.json"), dict(kind="mine", x=7))
        write_json(run_.file("mine.json"), dict(x=8))

    def evonb(*words):
        out = subprocess.run([EVONB, *map(str, words)], capture_output=True, text=True)
        return out.stdout + out.stderr

    plugin = ["--plugin", tmp_path / "mine.py"]
    assert "a command of my own" in evonb(*plugin, "--help") and evonb("mine", *plugin) == "mine works\n"
    assert "an arm of my own" in evonb("run", "--help", *plugin)
    assert "an explorer of my own" in evonb("explore", "--help", *plugin)
    assert "mine came to 7" in evonb("show", tmp_path / "run", *plugin)
    assert not re.search(r"\bmine\b", evonb("--help")) and "command is 'mine'" in evonb("mine")
    evonb("report", tmp_path / "run", *plugin)
    assert "<p>mine is 8</p>" in (tmp_path / "run" / "report.html").read_text()


def bad_files(folder):
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(b"text \x00\xff\xfe more")
    (folder / "short.txt").write_text("One sentence.\n")
    deep = GPTConfig(vocab_size=320, n_layer=3, n_head=2, n_embd=16)
    prune(new_gpt(deep, Seeds(0)), 0.5).save(folder / "deep.safetensors")


@pytest.mark.parametrize("arguments, says", [
    (["demo", "--corpus", "{tmp}/missing.txt"], "missing.txt"),
    (["demo", "--corpus", "{tmp}/empty.txt"], "empty.txt"),
    (["demo", "--corpus", "{tmp}/binary.txt"], "binary.txt"),
    (["demo", "--corpus", "{tmp}/short.txt"], "short"),
    (["demo", "--corpus", "{text}", "--set", "corpus.vocab_size=60000"], "60,?000"),
    (["demo", "--corpus", "{text}", "--set", "evolution.prune_fraction=1.5"], "prune_fraction is 1.5"),
    (["demo", "--corpus", "{text}", "--set", "evolution.prune_fraction=0"], "between 0 and 1"),
    (["demo", "--corpus", "{text}", "--set", "evolution.lifetime.context=50000"], "one window takes 50001"),
    (["demo", "--corpus", "{text}", "--set", "evolution.scope=global", "--set", "evolution.prune_fraction=0.9999"],
     "leaves .* empty"),
    (["demo", "--corpus", "{text}", "--set", "evolution.lifetime.lr=0.9", "--set", "evolution.lifetime.grad_clip=0",
      "--set", "evolution.magnitude=1e30"], "norm (nan|inf).*Lower the learning rate"),
    (["demo", "--corpus", "{text}", "--set", "nonsense=1"], "nonsense"),
    (["run", "--corpus", "{text}", "--set", "evolution.generations=6"], "Did you mean evolution.n_generations[?]"),
    (["run", "--corpus", "{text}", "--set", "evolution.n_generations"],
     "gives no value. Write it like evolution.n_generations=2;"),
    (["run", "--corpus", "{text}", "--set", "vocab_size=9"], "mean corpus.vocab_size[?] Write it like corpus.vocab"),
    (["run", "--corpus", "chldes"], "chldes doesn't exist. Did you mean childes[?] Known corpora are: "),
    (["run", "--corpus", "{text}", "--set", "lr=6"], "mean evolution.lifetime.lr or development.lifetime.lr[?]"),
    (["devlop", "{tmp}"], "command is 'devlop', but must be one of: .*run.* Did you mean develop[?]"),
    (["show", "{tmp}", "--plugin", "{tmp}/mine.txt"], "mine.txt is no plugin"),
    (["demo", "--corpus", "{text}", "--preset", "huge"], "demo, laptop, paper"),
    (["demo", "--corpus", "{text}", "--arms", "conectome"], "degree_preserving"),
    (["develop", "--connectome", "{tmp}/deep.safetensors", "--corpus", "{text}", "--preset", "demo"],
     "another architecture"),
    (["develop"], "Name either a run"),
    (["develop", "{tmp}"], "not a run folder"),
    (["show", "{tmp}/nothing"], "not a run folder"),
    (["report", "{tmp}/nothing"], "run"),
])  # fmt: skip
def test_bad_input_is_one_clear_line_and_leaves_nothing_half_written(arguments, says, tmp_path, text, capsys):
    bad_files(tmp_path)
    arguments = [a.format(tmp=tmp_path, text=text) for a in arguments]
    experiment = arguments[0] in ("run", "demo", "develop") and "--corpus" in arguments
    settings = small() if experiment else []
    command, *rest = arguments
    code, _, err = run(capsys, command, *settings, *rest, *(["--out", tmp_path / "run"] if experiment else []))
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("evonb: error: ") and re.search(says, last), err
    assert not list(tmp_path.rglob("*.tmp")) and "Traceback" not in err


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "evonb.cli", "devlop"], capture_output=True, text=True)
    assert done.returncode == 2 and "Did you mean develop?" in done.stderr


def test_an_option_that_is_not_there_is_refused_with_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit, match="2"): main(["explore", "runs/demo", "--max-bm=3"])
    err = capsys.readouterr().err
    assert err.startswith("usage: evonb explore")
    assert "unrecognized arguments: --max-bm=3. Did you mean --max-mb?" in err


def test_a_folder_that_holds_another_run_is_refused(done, text, capsys):
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file()}
    code, _, err = run(capsys, "demo", "--corpus", text, "--out", done, "--seed", 9, *small())
    assert code == 2 and "seed: 0 there, 9 asked" in err
    code, _, err = run(capsys, "evolve", "--corpus", text, "--preset", "demo", "--out", done, *small())
    assert code == 2 and "development" in err
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file()} == before


def test_a_damaged_checkpoint_is_named_on_resume(tmp_path, text):
    command = [EVONB, "demo", "--corpus", str(text), "--out", str(tmp_path / "run"),
               *small("evolution.lifetime.steps=4000")]  # fmt: skip
    p = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "run" / "evolution" / "gen-00"
    while len(list(folder.glob("checkpoint-*.safetensors"))) < 2 and p.poll() is None:
        time.sleep(0.01)
    p.send_signal(signal.SIGTERM)
    err = p.communicate()[1]
    assert p.returncode == 130 and "Stopped by SIGTERM" in err and "The same command goes on" in err, err
    newest = sorted(folder.glob("checkpoint-*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 2 and newest.name in out.stderr and "go on from" in out.stderr
    assert "Traceback" not in out.stderr


def test_settings_by_name():
    config = with_settings(preset("demo"), ["evolution.lifetime.lr=0.01", "corpus.source=my file.txt"])
    assert config.evolution.lifetime.lr == 0.01 and config.corpus.source == "my file.txt"
    for text in ("evolution=3", "evolution.lifetime.lr", "evolution.n_generations=two", "model.n_embd=1.5"):
        with pytest.raises(InputError):
            with_settings(preset("demo"), [text])


def test_names_of_folders_and_tables():
    assert str(default_out("demo", "../data/*.txt")) == os.path.join("runs", "demo")
    assert str(default_out("demo", "hf:owner/name")) == os.path.join("runs", "demo-name")
    x = dict(mean=1.0, sd=None, n=1, low=0.9, high=1.1)
    arm = dict(val_loss=x, test_loss=x, lr=1e-3, n_live=10, density=1.0, difference=None)
    assert "1.000 [0.900, 1.100]" in results_text(dict(generations=[], arms=dict(dense=arm), statement="S"))
    gap = dict(mean=0.25, low=None, high=None, p=None, p_adjusted=None, one="seed", units=dict(seed=1, window=40))
    alone = dict(arm, test_loss=dict(x, low=None, high=None), test_difference=gap)
    said = results_text(dict(generations=[], arms=dict(random=alone), statement="S"))
    assert "+0.250 one seed" in said and "1 seed, 40 windows" in said and said.startswith("S\n")


# the second system


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "The folder of a tiny base."
    life = LifetimeConfig(steps=20, batch_size=8, context=32, warmup=5, eval_windows=8)
    config = ToyConfig(n_documents=300, vocab_size=400, model=ModelConfig(1, 2, 32), lifetime=life)
    return toy_base(tmp_path_factory.mktemp("bases"), config, device="cpu", show=False).name


TRAINING = ["n_texts=60", "training.steps=10", "training.warmup=2", "training.rank=2", "training.batch_size=6"]


def experts_command(toy, out, *more):
    sources = ["--expert", "skill:agreement", "--expert", "counting=skill:count_up", "--replay", "neutral"]
    return [
        "experts",
        "--base",
        toy,
        *sources,
        "--out",
        out,
        "--device",
        "cpu",
        *[f"--set={x}" for x in TRAINING],
        *more,
    ]


@pytest.fixture(scope="module")
def two_experts(tmp_path_factory, toy):
    path = tmp_path_factory.mktemp("cli") / "experts"
    assert main([str(a) for a in experts_command(toy, path)]) == 0
    return path


TINY = ["n_validation=12", "n_test=16", "n_individuals=4", "n_bootstrap=100", "ensemble_size=2"]


def population_command(experts, out, *more):
    return ["population", experts, "--methods", "genome,coarse-to-fine", "--budget", 8, "--seeds", 2, "--held-out",
            "skill:echo", "--out", out, "--device", "cpu", *[f"--set={x}" for x in TINY], *more]  # fmt: skip


@pytest.fixture(scope="module")
def bred(tmp_path_factory, two_experts):
    path = tmp_path_factory.mktemp("cli") / "population"
    assert main([str(a) for a in population_command(two_experts, path)]) == 0
    return path


def test_experts_are_trained_shown_and_not_trained_again(two_experts, toy, capsys):
    run_ = open_run(two_experts)
    assert run_.kind == "experts" and run_.config["training"]["steps"] == 10 and (two_experts / "report.html").exists()
    code, out, _ = run(capsys, "show", two_experts)
    facts = read_json(two_experts / "summary.json")["experts"]
    assert code == 0 and list(facts) == ["agreement", "counting"]
    for name, e in facts.items():
        row = next(line for line in out.splitlines() if line.startswith(name))
        assert e["source"] in row and f"{e['loss_before']:.3f}" in row and f"{e['loss']:.3f}" in row
    shown = json.loads(run(capsys, "show", two_experts, "--json")[1])
    assert shown["kind"] == "experts" and shown["state"]["status"] == "complete" and set(shown["experts"]) == set(facts)
    before = {p: p.stat().st_mtime_ns for p in two_experts.rglob("*.safetensors")}
    assert run(capsys, *experts_command(toy, two_experts, "--resume"))[0] == 0
    assert {p: p.stat().st_mtime_ns for p in two_experts.rglob("*.safetensors")} == before
    code, _, err = run(capsys, *experts_command(toy, two_experts, "--resume", "--seed", 1))
    assert code == 2 and "seed: 0 there, 1 asked" in err


def test_a_population_is_bred_and_shown(bred, capsys):
    summary, settings = read_json(bred / "summary.json"), open_run(bred).config
    assert settings["tasks"] == ["skill:agreement,count_up"] and settings["n_test"] == 16  # what the experts learned
    assert set(summary["methods"]) == {*BASELINES, "genome", "coarse-to-fine"}
    code, out, _ = run(capsys, "show", bred)
    assert code == 0 and summary["statement"] in out and "skill:echo" in out and "8 evaluations each" in out
    table, carried = out.split("Tasks that nothing was selected on")
    for name, m in summary["methods"].items():
        row = next(line for line in table.splitlines() if line.startswith(f"{name} "))
        assert f"{m['test']['mean']:.3f} ± {m['test']['se']:.3f}" in row and f"{m['validation']['mean']:.3f}" in row
        row = next(line for line in carried.splitlines() if line.startswith(f"{name} "))
        assert f"{m['by_task']['skill:echo']['mean']:.3f}" in row
    shown = json.loads(run(capsys, "show", bred, "--json")[1])
    assert shown["kind"] == "population" and shown["methods"] == summary["methods"]


def test_the_page_of_a_population_tells_what_the_table_tells(bred, two_experts, capsys):
    summary, page = read_json(bred / "summary.json"), (bred / "report.html").read_text()
    assert len(page) > 1e6 and "coarse-to-fine" in page and "skill:echo" in page
    assert f"{summary['methods']['genome']['test']['mean']:.3f}" in page
    (bred / "report.html").unlink()
    code, out, _ = run(capsys, "report", bred)
    assert code == 0 and out.strip() == str((bred / "report.html").resolve()) and (bred / "report.html").exists()
    assert "counting" in (two_experts / "report.html").read_text()


def test_inheritance_and_neighbourhood_of_a_population_are_told_and_kept(bred, two_experts, capsys):
    asked = (bred / "sealed.jsonl").read_text()
    code, out, err = run(capsys, "genetics", bred, "--draws", 10, "--around", "--device", "cpu")
    assert code == 0 and "hill to coarse-to-fine" in out and "linear CKA" in out, err
    assert open_run(bred).state()["status"] == "complete" and (bred / "sealed.jsonl").read_text() == asked
    found = read_dataset(bred / "neighbourhood.zarr.zip")
    assert found.sizes["individual"] == 2 and found.likeness.values[0, 0] == 1 and (found.barrier.values[0, 1] >= 0)
    page = Path(run(capsys, "report", bred)[1].strip()).read_text()
    assert "Between individuals" in page
    assert run(capsys, "genetics", two_experts)[0] == 2  # experts aren't bred


def test_a_complete_population_is_not_worked_on_again(bred, two_experts, capsys):
    before = (bred / "sealed.jsonl").read_bytes(), (bred / "summary.json").stat().st_mtime_ns
    code, out, _ = run(capsys, *population_command(two_experts, bred, "--resume"))
    assert code == 0 and "sealed test" in out
    assert ((bred / "sealed.jsonl").read_bytes(), (bred / "summary.json").stat().st_mtime_ns) == before


@pytest.mark.parametrize("arguments, says", [
    (["experts", "--base", "{tmp}/nothing", "--expert", "skill:echo"], "is no base model"),
    (["experts", "--base", "{toy}", "--expert", "skill:echo", "--set=training.steps=0"], "steps"),
    (["experts", "--base", "{toy}"], "no expert to train"),
    (["experts", "--base", "{toy}", "--expert", "skill:flying"], "flying.*agreement"),
    (["experts", "--base", "{toy}", "--expert", "a/b=skill:echo"], "a/b"),
    (["population", "{tmp}/nothing"], "There is no folder .*nothing"),
    (["population", "{tmp}/nothing", "--task", "skill:echo"], "There is no folder .*nothing"),
    (["population", "{tmp}"], "tasks is empty"),
    (["population", "{tmp}", "--task", "skill:echo"], "holds no adapters"),
    (["population", "{experts}", "--methods", "annealing"], "annealing.*coarse-to-fine"),
    (["population", "{experts}", "--task", "chess:e4"], "must be one of.*hellaswag"),
    (["population", "{experts}", "--task", "skill:echo", "--held-out", "skill:echo"], "held out at once"),
    (["population", "{experts}", "--space", "delta", "--methods", "cma"], "vectors of coefficients"),
    (["population", "{experts}", "--by", "head"], "expert, layer, module"),
    (["population", "{experts}", "--base", "{tmp}/nothing"], "is no base model"),
    (["population", "{experts}", "--set", "n_individuals=1"], "n_individuals"),
    (["population", "{experts}", "--set", "individuals=4"], "names no setting. Did you mean n_individuals[?]"),
    (["population", "{experts}", "--task", "choice:{tmp}/bad.jsonl"], "bad.jsonl, line 1"),
])  # fmt: skip
def test_bad_input_to_experts_and_population_is_one_clear_line(arguments, says, toy, two_experts, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "options": ["b", "c"], "answer": 7}\n')
    arguments = [a.format(tmp=tmp_path, toy=toy, experts=two_experts) for a in arguments]
    code, _, err = run(capsys, *arguments, "--out", tmp_path / "run", "--device", "cpu")
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("evonb: error: ") and re.search(says, last), err
    assert "Traceback" not in err and not list(tmp_path.rglob("*.tmp"))


def test_the_suite_leaves_torch_as_it_was():
    assert torch.get_default_dtype() == torch.float32


COMMAND_PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/pages/{p}.md" for p in (
    "claims", "findings", "formats", "guide", "howlong", "index", "recipes", "reproducible", "troubleshooting"))]


def commands_in(text):
    "The evonb commands of a page, in blocks and in lines, that stand there whole."
    blocks = "\n".join(re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.S)).replace("\\\n", " ").split("\n")
    for line in [*blocks, *re.findall(r"`(evonb [a-z][^`]*)`", text)]:
        words = shlex.split(line.partition("  #")[0], comments=True) if line.startswith("evonb ") else []
        if len(words) > 2 and not any(w in ("...", "…") or "$" in w for w in words):
            yield words[1:]


@pytest.mark.parametrize("page", COMMAND_PAGES)
def test_every_command_in_a_page_parses(page, capsys):
    root = Path(__file__).resolve().parents[1]
    known = parser()
    for words in commands_in((root / page).read_text(encoding="utf-8")):
        try:
            known.parse_args(words)
        except SystemExit as e:
            if e.code:
                pytest.fail(f"{page}: evonb {' '.join(words)}: {capsys.readouterr().err}")


def test_a_command_that_has_changed_would_be_found(capsys):
    assert list(commands_in("`evonb run --no-such x`")) == [["run", "--no-such", "x"]]
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "--no-such", "x"])
    guide = (Path(__file__).resolve().parents[1] / "docs" / "pages" / "guide.md").read_text(encoding="utf-8")
    assert len(list(commands_in(guide))) > 40
