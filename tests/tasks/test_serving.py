"""Scoring through a server: a real one on loopback against the engine in this process, and servers that misbehave."""

import asyncio
import errno
import http.client
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evonb.cli import main
from evonb.core import DamagedFileError, InputError, NoSpaceError, Seeds, StopRequest
from evonb.evolution.methods.evollm import TooLong, open_writer
from evonb.populations.breeding import BreedConfig, breed
from evonb.store import read_dataset, read_json, write_json
from evonb.tasks.backends import InProcess
from evonb.tasks.client import ServerBackend, servable, served_by
from evonb.tasks.engine import Engine
from evonb.tasks.fitness import Fitness
from evonb.tasks.protocol import LONGEST_PAUSE, ServerError, asked, retry_pause
from evonb.tasks.serving import Batches, Job, ModelServer, continuations, draw_token, serve, token_logprobs
from evonb.tasks.tasks import Choice, Prompt, skill_task
from evonb.tasks.writers import backend_writer
from evonb.text.tokens import train_tokenizer
from evonb.training.adapters import Adapter, linear_shapes, random_adapter, read_adapter, write_adapter
from evonb.training.base import save_base
from evonb.training.gpt import GPTConfig, new_gpt

EVONB = str(Path(sys.executable).with_name("evonb"))  # the installed command
TOKEN = "a-token-for-tests-only"
BASE = Adapter({}, {}, {}, {})
TASK = skill_task(["agreement", "count_up"], Seeds(0), n_validation=20, n_test=20)
TEXTS = [i.prompt + " " + o for i in TASK.items("validation") for o in i.options]
TOKENIZER = train_tokenizer(TEXTS, 300)
CHOICES = [Choice(i.prompt, tuple(" " + o for o in i.options), True) for i in TASK.items("validation")[:8]]
CHOICES += [Choice("", ("The cat sees", "the cats see it"), True), Choice("The dog  ", ("is", "are not"), False)]
PROMPTS = [Prompt(TEXTS[0][:12], 6), Prompt(TEXTS[1], 5, (" ", "e")), Prompt("", 4, ()), Prompt(TEXTS[2], 6)]
pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("one_thread")]


def tiny(seed=0):
    config = GPTConfig(vocab_size=300, n_layer=2, n_head=2, n_embd=32, block_size=64, initializer_range=0.3)
    return new_gpt(config, Seeds(seed)).eval()


def individuals(model, n=4):
    "Of several ranks and scales, so that PEFT's patterns would be needed."
    found = []
    for i in range(n):
        a = random_adapter(linear_shapes(model), 2 + i, Seeds(i), size=1.0)
        first, second = a.modules[:2]
        low = replace(a, A=a.A | {first: a.A[first][:1]}, B=a.B | {first: a.B[first][:, :1]})
        found.append(replace(low, scale=a.scale | {second: 0.3 + i}))
    return found


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny(), TOKENIZER)


@pytest.fixture(scope="module")
def served(tmp_path_factory, engine):
    "A server process, as a user starts it: (address, adapters' folder, the base's folder)."
    tmp = tmp_path_factory.mktemp("served")
    save_base(engine.model, TOKENIZER, tmp / "base")
    env = os.environ | {"EVONB_SERVER_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    command = [EVONB, "serve", "--base", str(tmp / "base"), "--name", "tiny", "--adapters", str(tmp / "adapters")]
    with (tmp / "stderr").open("w") as stderr:
        process = subprocess.Popen([*command, "--device", "cpu", "--max-loaded", "4"], env=env, text=True,
                                   stdout=subprocess.PIPE, stderr=stderr)  # fmt: skip
    try:
        said = [process.stdout.readline() for _ in range(4)]
        assert said[0].startswith("server: "), (said, (tmp / "stderr").read_text())
        assert TOKEN not in "".join(said)
        yield said[0].split()[1], tmp / "adapters", tmp / "base"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0 and "stopped:" in process.stdout.read()
        assert (tmp / "stderr").read_text() == ""  # no traceback, whatever the tests below sent
    finally:
        process.kill()


def backend(served, **options):
    return ServerBackend(served[0], TOKENIZER, token=TOKEN, adapters_folder=served[1], **options)


def web(served, token=TOKEN, **headers):
    key = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=served[0], headers=key | headers, trust_env=False, timeout=20)


def models_of(served):
    with web(served) as w:
        return [m["id"] for m in w.get("/v1/models").json()["data"]]


# A real server


@pytest.mark.parametrize("n_new", [0, 1])
def test_answers_are_those_of_the_engine_in_this_process(served, engine, n_new):
    adapters = [BASE, *individuals(engine.model)]
    b = backend(served, batch=3, max_loaded=2)
    b.known()["n_new"] = n_new  # both ways of scoring
    wanted = InProcess(engine).answers(adapters, CHOICES, PROMPTS)
    for (choices, texts), (choices_here, texts_here) in zip(b.answers(adapters, CHOICES, PROMPTS), wanted):
        assert texts == texts_here
        for c, (x, n), (x_here, n_here) in zip(CHOICES, choices, choices_here):
            assert n.tolist() == n_here.tolist()
            shift = 0 if c.absolute else x[0] - x_here[0]  # a constant per item may be missing
            np.testing.assert_allclose(x, x_here + shift, atol=1e-4)
    assert models_of(served) == ["tiny"]  # all were taken away
    assert not [p for p in served[1].iterdir() if p.is_dir()]


def test_scores_are_those_of_the_engine_in_this_process(served, engine):
    population = individuals(engine.model)
    here, there = (Fitness(b, [TASK])(population) for b in (InProcess(engine), backend(served)))
    assert [e.value for e in there] == [e.value for e in here]
    assert len({e.value for e in here}) > 1


def test_a_population_run_through_a_server_gives_the_same_table(served, engine, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVONB_SERVER_TOKEN", TOKEN)
    monkeypatch.setattr("evonb.cli.finish", lambda run: None)  # without the page
    for i, a in enumerate(individuals(engine.model, 3)):
        write_adapter(a, tmp_path / "experts" / f"e{i}")
    config = BreedConfig(
        experts=str(tmp_path / "experts"), base=str(served[2]), tasks=("skill:agreement",), methods=("genome",),
        budget=6, n_individuals=3, n_seeds=1, n_validation=16, n_test=16, n_bootstrap=50, ensemble_size=2,
    )  # fmt: skip
    here = breed(tmp_path / "here", config, show=False, device="cpu")
    sizes = [f"--set={k}={getattr(config, k)}" for k in ("n_individuals", "n_validation", "n_test", "n_bootstrap",
                                                         "ensemble_size")]  # fmt: skip
    command = ["population", config.experts, "--base", config.base, "--task", "skill:agreement", "--methods", "genome"]
    where = ["--server", served[0], "--server-model", "tiny", "--server-adapters", str(served[1])]
    command += [*where, "--budget", "6", "--seeds", "1", "--device", "cpu", "--out", str(tmp_path / "there"), *sizes]
    assert main(command) == 0, capsys.readouterr().err
    a, b = (read_dataset(p / "population.zarr.zip") for p in (here.path, tmp_path / "there"))
    for name in a.data_vars:
        if np.issubdtype(a[name].dtype, np.number):
            np.testing.assert_allclose(a[name], b[name], atol=1e-4, err_msg=name)
    assert (a.coefficients == b.coefficients).all()
    assert read_json(here.file("summary.json"))["statement"] == read_json(tmp_path / "there/summary.json")["statement"]


def test_evollm_is_written_by_a_server_as_by_the_base_here(served, engine, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVONB_SERVER_TOKEN", TOKEN)
    url, here = f"server:{served[0]}#tiny", backend_writer(InProcess(engine))
    write = open_writer(url)
    assert [write(t, 6) for t in TEXTS[:4]] == [here(t, 6) for t in TEXTS[:4]] and write(TEXTS[0], 6)
    for one in (write, here):
        with pytest.raises(TooLong, match="context"):
            one("12, " * 40, 6)
    for i, a in enumerate(individuals(engine.model, 2)):
        write_adapter(a, tmp_path / "experts" / f"e{i}")
    command = ["population", str(tmp_path / "experts"), "--base", str(served[2]), "--task", "skill:agreement"]
    command += ["--budget", "4", "--seeds", "1", "--device", "cpu", "--set=n_individuals=2", "--set=n_validation=16"]
    command += ["--set=n_test=16", "--set=ensemble_size=1", "--methods"]
    monkeypatch.setattr("evonb.cli.finish", lambda run: None)  # without the page
    assert main([*command, "genome", "--writer", url]) != 0 and "Name evollm among them" in capsys.readouterr().err
    lost = f"server:{served[0].rpartition(':')[0]}:1"
    monkeypatch.setattr("evonb.tasks.client.retry_pause", lambda *_: 0)
    bad = {lost: "no answer", f"{url}x": "tinyx", "servr:x": "Did you mean server", "server": "URL"}
    for wrong, said in bad.items():
        assert main([*command, "evollm", "--writer", wrong, "--out", str(tmp_path / "wrong")]) != 0
        assert said in capsys.readouterr().err and not (tmp_path / "wrong").exists()  # nothing was begun
    assert main([*command, "evollm", "--writer", url, "--out", str(tmp_path / "r")]) != 0
    assert "Not even 2 individuals have room in the context of server:" in capsys.readouterr().err  # of 64 tokens
    assert read_json(tmp_path / "r/run.json")["config"]["options"] == {"evollm": {"model": url}}
    assert main([*command, "evollm", "--writer", "mean", "--out", str(tmp_path / "mean")]) == 0, capsys.readouterr().err
    assert read_json(tmp_path / "mean/summary.json")["methods"]["evollm"]["note"] == (
        "mean was asked 1 times; 0 answers couldn't be read"
    )


def test_a_server_of_another_model_is_refused(served, tmp_path):
    save_base(tiny(1), TOKENIZER, tmp_path / "other")
    options = dict(adapters_folder=served[1], token=TOKEN)
    assert served_by(served[0], **options)(str(served[2]), "cpu").digest()
    with pytest.raises(InputError, match="isn't .*other: their log-probabilities differ by"):
        served_by(served[0], **options)(str(tmp_path / "other"), "cpu")


@pytest.mark.parametrize(
    "host, token, status",
    [(None, "", 401), (None, "a-wrong-token-here", 401), ("evil.example", TOKEN, 403), ("127.0.0.1:1", TOKEN, 403)],
)
def test_only_who_has_the_token_and_names_this_machine_is_answered(served, host, token, status):
    with web(served, token, **({"Host": host} if host else {})) as w:
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/no/such/path")):
            answer = w.request(method, path, json=dict(model="tiny", prompt="a", temperature=0))
            assert answer.status_code == status and answer.json()["error"]["code"] == status
        assert w.get("/health").status_code == (403 if status == 403 else 200)


def test_the_server_listens_on_loopback_only(served):
    port = int(served[0].rpartition(":")[2])
    hexport = f"{port:04X}"
    lines = [line.split() for f in ("/proc/net/tcp", "/proc/net/tcp6") if Path(f).exists()
             for line in Path(f).read_text().splitlines()[1:]]  # fmt: skip
    listening = [x[1] for x in lines if x[3] == "0A" and x[1].endswith(f":{hexport}")]
    assert listening == [f"0100007F:{hexport}"]


def test_adapters_are_loaded_from_their_folder_only(served, engine, tmp_path):
    adapter, folder = individuals(engine.model, 1)[0], served[1]
    write_adapter(adapter, tmp_path / "outside")
    write_adapter(adapter, folder / "inside")
    (folder / "link").symlink_to(tmp_path / "outside")
    try:
        with web(served) as w:
            out = [tmp_path / "outside", folder / "../outside", folder / "link", folder, "inside", "\0", "", None, 3]
            for path in out:
                path = str(path) if isinstance(path, Path) else path
                answer = w.post("/v1/load_lora_adapter", json=dict(lora_name="x", lora_path=path))
                wanted = 404 if path and isinstance(path, str) and path != "\0" else 400
                assert answer.status_code == wanted and "lora_path" in answer.json()["error"]["message"], path
            for name in ("tiny", "a/b", "../x", "", "x" * 200, None, "é", ["x"]):
                answer = w.post("/v1/load_lora_adapter", json=dict(lora_name=name, lora_path=str(folder / "inside")))
                assert answer.status_code == 400 and "lora_name" in answer.json()["error"]["message"], name
        assert models_of(served) == ["tiny"]
    finally:
        (folder / "link").unlink()
        for p in (folder / "inside").iterdir():
            p.unlink()
        (folder / "inside").rmdir()


def test_an_adapters_life_on_the_server(served, engine):
    adapter, path = individuals(engine.model, 1)[0], served[1] / "mine"
    write_adapter(adapter, path)
    ask = dict(model="one", prompt="The cat", temperature=0, max_tokens=3)
    with web(served) as w:
        post = lambda what, **body: w.post(f"/v1/{what}", json=body)
        assert post("completions", **ask).status_code == 404
        assert post("load_lora_adapter", lora_name="one", lora_path=str(path)).status_code == 200
        assert "already been loaded" in post("load_lora_adapter", lora_name="one", lora_path=str(path)).text
        assert w.get("/v1/models").json()["data"][1]["parent"] == "tiny"
        text = post("completions", **ask).json()["choices"][0]["text"]
        assert text == engine.generate([adapter], [Prompt("The cat", 3, ())])[0][0]
        for i in range(3):
            assert post("load_lora_adapter", lora_name=f"more{i}", lora_path=str(path)).status_code == 200
        full = post("load_lora_adapter", lora_name="more3", lora_path=str(path))
        assert full.status_code == 429 and "4 adapters are loaded" in full.text and full.headers["retry-after"] == "1"
        for name in ("one", "more0", "more1", "more2"):
            assert post("unload_lora_adapter", lora_name=name).status_code == 200
        assert post("unload_lora_adapter", lora_name="one").status_code == 404
        (path / "adapter_model.safetensors").unlink()
        (path / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
        (path / "files.json").unlink()
        refused = post("load_lora_adapter", lora_name="one", lora_path=str(path))
        assert refused.status_code == 400 and "pickle" in refused.text


@pytest.mark.parametrize(
    "error, status",
    [
        (InputError("not plain LoRA"), 400),
        (FileNotFoundError("no adapter_model.safetensors"), 404),
        (DamagedFileError("a file that was cut off"), 503),
        (NoSpaceError("the disk is full"), 503),
        (OSError(errno.EIO, "Input/output error"), 503),
        (OSError(errno.EMFILE, "Too many open files"), 503),
        (PermissionError(errno.EACCES, "Permission denied"), 503),
        (MemoryError("can't allocate memory"), 503),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 500),
    ],
)
def test_only_a_misfit_is_the_adapters_own_failure(engine, tmp_path, monkeypatch, error, status, capfd):
    "A client notes 400 as the individual's failure, so a machine's failure is never told as 400."

    def fails(folder):
        raise error

    monkeypatch.setattr("evonb.tasks.serving.read_adapter", fails)
    with ModelServer(engine, "tiny", tmp_path, TOKEN) as server:
        with web((server.url,)) as w:
            body = dict(lora_name="one", lora_path=str(tmp_path / "one"))
            assert w.post("/v1/load_lora_adapter", json=body).status_code == status
        b = ServerBackend(server.url, TOKENIZER, token=TOKEN, adapters_folder=tmp_path, retries=0)
        if status == 400:
            assert "not plain LoRA" in b.answers(individuals(engine.model, 1), CHOICES[:1], [])[0]
        else:
            with pytest.raises(ServerError, match=f"answered {status}"):
                b.answers(individuals(engine.model, 1), CHOICES[:1], [])


def test_an_adapter_that_was_cut_off_is_no_misfit(served, engine):
    path = served[1] / "cut"
    write_adapter(individuals(engine.model, 1)[0], path)
    weights = path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with web(served) as w:
        answer = w.post("/v1/load_lora_adapter", json=dict(lora_name="cut", lora_path=str(path)))
    shutil.rmtree(path)
    assert answer.status_code == 503 and "damaged" in answer.json()["error"]["message"]


def test_an_individual_that_does_not_fit_fails_alone_with_the_servers_message(served, engine):
    good = individuals(engine.model, 2)
    shapes = {"transformer.h.0.no_such": (32, 32)}
    odd, nan = random_adapter(shapes, 2, Seeds(0)), replace(good[0], A={m: t * math.nan for m, t in good[0].A.items()})
    found = backend(served).answers([good[0], odd, nan, good[1]], CHOICES[:2], [])
    assert "answered 400" in found[1] and "lacks the adapter's modules transformer.h.0.no_such" in found[1]
    assert "NaN or infinite" in found[2]
    assert len(found[0]) == len(found[3]) == 2 and models_of(served) == ["tiny"]


def test_the_protocol_of_completions(served, engine):
    ids = TOKENIZER(TEXTS[0], add_special_tokens=False)["input_ids"]
    with web(served) as w:
        ask = lambda **body: w.post("/v1/completions", json=dict(model="tiny", temperature=0) | body)
        both = ask(prompt=[TEXTS[0], TEXTS[1]], max_tokens=2, echo=True, logprobs=3).json()
        first = both["choices"][0]
        assert [c["index"] for c in both["choices"]] == [0, 1] and first["text"].startswith(TEXTS[0])
        told = first["logprobs"]
        assert told["token_logprobs"][0] is None and len(told["token_logprobs"]) == len(ids) + 2
        assert "".join(told["tokens"]) == first["text"] and {len(t) for t in told["top_logprobs"][1:]} == {3}
        assert all(first["text"][o:].startswith(t) for o, t in zip(told["text_offset"], told["tokens"]))
        assert told["token_logprobs"][-1] == max(told["top_logprobs"][-1].values())  # greedy: the likeliest
        same = ask(prompt=ids, max_tokens=0, echo=True, logprobs=0).json()
        np.testing.assert_allclose(same["choices"][0]["logprobs"]["token_logprobs"][1:],
                                   told["token_logprobs"][1:len(ids)], atol=1e-4)  # fmt: skip
        assert same["usage"] == dict(prompt_tokens=len(ids), completion_tokens=0, total_tokens=len(ids))
        only_new = ask(prompt=ids, max_tokens=2, logprobs=1).json()["choices"][0]
        assert only_new["text"] == first["text"][len(TEXTS[0]) :] and len(only_new["logprobs"]["tokens"]) == 2


@pytest.mark.parametrize(
    "body, message",
    [
        (dict(temperature=2.5), "temperature is 2.5"),
        (dict(temperature=-1), "temperature is -1"),
        (dict(temperature=True), "temperature is True"),
        (dict(temperature="hot"), "temperature is 'hot'"),
        (dict(top_p=0), "top_p is 0"),
        (dict(seed=0.5), "seed is 0.5"),
        (dict(best_of=3), "best_of is 3"),
        (dict(logit_bias={"5": 1}), "logit_bias is"),
        (dict(n=2), "n is 2"),
        (dict(stream="yes"), "stream must be"),
        (dict(stream_options=dict(include_usage=True)), "with stream=true"),
        (dict(stream=True, stream_options=dict(other=1)), "stream_options is"),
        (dict(top_k=3), "'top_k' isn't known"),
        (dict(max_tokens=65), "from 0 to 64"),
        (dict(max_tokens=0), "nothing is asked"),
        (dict(prompt="the " * 70), "context"),
        (dict(prompt=[300]), "token ids that aren't"),
        (dict(prompt=[True]), "token ids that aren't"),
        (dict(prompt=None), "prompt must be"),
        (dict(prompt=[[]]), "prompt must be"),
        (dict(prompt=["a"] * 257), "257 prompts"),
        (dict(prompt="x" * 20_000), "20000 characters"),
        (dict(stop=[""]), "stop must be"),
        (dict(logprobs=6), "logprobs is 6"),
        (dict(echo=1), "echo must be"),
    ],
)
def test_what_the_server_does_not_do_is_refused_by_name(served, body, message):
    with web(served) as w:
        answer = w.post("/v1/completions", json=dict(model="tiny", temperature=0, prompt="a", max_tokens=3) | body)
        assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_a_request_of_openais_client_by_default_is_answered(served):
    "It sends model and prompt alone; whatever it leaves out has the protocol's default."
    with web(served) as w:
        answer = w.post("/v1/completions", json=dict(model="tiny", prompt="The cat"))
        [choice] = answer.json()["choices"]
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] <= 16
        assert choice["logprobs"] is None and choice["finish_reason"] in ("stop", "length")
        ask = lambda **more: w.post("/v1/completions", json=dict(model="tiny", prompt="The cat", n=1) | more).json()
        text = lambda **more: ask(**more)["choices"][0]["text"]
        assert text(seed=1) == text(seed=1, temperature=1) == text(seed=1, top_p=1.0, user="me")
        assert len({text(seed=k) for k in range(8)}) > 4 and text(seed=1, temperature=None) == text(seed=1)
        greedy = text(temperature=0)
        assert {text(seed=k, top_p=1e-6) for k in range(3)} == {greedy} == {text(seed=3, temperature=1e-4)}
        assert text(prompt=["a b", "The cat"], seed=1) != "" and len(ask(prompt=["a", "b"], seed=1)["choices"]) == 2


def test_what_is_drawn_has_the_models_probabilities(engine):
    [ids] = [TOKENIZER("The cat", add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        p = (engine.model(torch.tensor([ids])).logits[0, -1].double() / 0.7).softmax(-1).numpy()
    logits, rng = engine.model(torch.tensor([ids])).logits[0, -1].detach(), Seeds(0).numpy()
    counts = np.bincount([draw_token(logits, 0.7, 1.0, rng) for _ in range(4000)], minlength=300) / 4000
    assert np.abs(counts - p).max() < 0.03
    kept = {draw_token(logits, 0.7, 0.5, rng) for _ in range(300)}
    order = np.argsort(-p)
    assert kept == set(order[: int(np.searchsorted(np.cumsum(p[order]), 0.5)) + 1].tolist())


def test_a_stream_holds_the_same_as_the_whole_answer(served):
    body = dict(model="tiny", prompt=["The cat", "a dog"], temperature=0, max_tokens=4, logprobs=1)
    with web(served) as w:
        whole = w.post("/v1/completions", json=body).json()
        for options in ({}, dict(stream_options=dict(include_usage=True))):
            answer = w.post("/v1/completions", json=body | dict(stream=True) | options)
            assert answer.headers["content-type"] == "text/event-stream" and answer.text.endswith("\n\n")
            *events, last = [e.removeprefix("data: ") for e in answer.text.strip().split("\n\n")]
            events = [json.loads(e) for e in events]
            assert last == "[DONE]" and [c for e in events for c in e["choices"]] == whole["choices"]
            assert {e["object"] for e in events} == {"text_completion"} and len({e["id"] for e in events}) == 1
            assert [e.get("usage") for e in events] == [None, None] + [whole["usage"]] * bool(options)


def test_one_model_is_told_by_its_name(served):
    with web(served) as w:
        card = w.get("/v1/models/tiny").json()
        assert card == w.get("/v1/models").json()["data"][0] and card["object"] == "model" and card["id"] == "tiny"
        for name in ("other", "", "a%2Fb", "tiny/x"):
            missing = w.get(f"/v1/models/{name}")
            assert missing.status_code == 404 and missing.json()["error"]["code"] == 404
    with web(served, token="") as w:
        assert w.get("/v1/models/tiny").status_code == 401


def raw(served, head, body=b""):
    "Bytes as they are; what comes back."
    host, port = served[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as s:
        s.sendall(head.replace("HOST", f"{host}:{port}").encode() + body)
        s.shutdown(socket.SHUT_WR)
        reply = b""
        while part := s.recv(65536):
            reply += part
    return reply


def test_bodies_are_bounded_and_broken_requests_get_json(served):
    key = f"POST /v1/completions HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer {TOKEN}\r\n"
    cases = [
        (key + f"Content-Length: {9 << 20}\r\n\r\n", b"", b" 413 "),
        (key + "\r\n", b"", b" 411 "),
        (key + "Content-Length: -5\r\n\r\n", b"", b" 411 "),
        (key + "Transfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n", b" 411 "),
        (key + "Content-Length: 50\r\n\r\n", b"{}", b" 400 "),
        (key + "Content-Length: 40000\r\n\r\n", b"[" * 40_000, b" 400 "),
        ("POST /v1/completions HTTP/1.1\r\nHost: HOST\r\nContent-Length: 2\r\n\r\n", b"{}", b" 401 "),
        ("GET /v1/models HTTP/1.1\r\n\r\n", b"", b" 403 "),
        ("rubbish\r\n\r\n", b"", b"Bad"),
        ("DELETE /v1/models HTTP/1.1\r\nHost: HOST\r\n\r\n", b"", b" 501 "),
        ("GET / HTTP/1.1\r\n" + "A: b\r\n" * 200 + "\r\n", b"", b" 431 "),
    ]
    for head, body, status in cases:
        reply = raw(served, head, body)
        assert status in reply and b"Traceback" not in reply, (head[:60], reply[:200])
        assert json.loads(reply[reply.index(b"{") :])["error"]["message"]
    with web(served) as w:
        assert w.get("/v1/completions").status_code == 405 and w.get("/v2").status_code == 404
        assert w.post("/v1/completions", content=b" " * (9 << 20)).status_code == 413
        assert w.request("GET", "/health", content=b"GET /v1/models HTTP/1.1").headers["connection"] == "close"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=8), x, max_size=4),
    max_leaves=12,
)
FIELDS = ("model", "prompt", "max_tokens", "temperature", "stop", "echo", "logprobs", "lora_name", "lora_path", "n")
SENSIBLE = st.sampled_from(["tiny", 0, 1, True, [1, 2], [[1], [2, 3]], "a b", ["a"], 2, 63, "\ud800"])
PATHS = ["completions", "load_lora_adapter", "unload_lora_adapter"]
BODIES = st.dictionaries(st.sampled_from(FIELDS), SENSIBLE | JSON, max_size=10)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PATHS), BODIES.map(json.dumps) | st.binary())
def test_rubbish_is_answered_with_json_and_never_with_500(served, path, body):
    host, port = served[0].removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    body = body.encode() if isinstance(body, str) else body
    connection.request("POST", f"/v1/{path}", body, {"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    assert answer.status in (200, 400, 404) and (answer.status == 200) == ("error" not in content)
    connection.close()


def test_connections_are_bounded_and_a_failure_inside_is_told_without_a_traceback(engine, tmp_path, capfd, monkeypatch):
    with ModelServer(engine, "tiny", tmp_path, TOKEN, max_connections=2) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        deadline = time.monotonic() + 20
        while server._http.places._value and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(httpx.TransportError), web((server.url,)) as w:
            w.get("/health")  # the third
        for s in idle:
            s.close()
        monkeypatch.setattr(ModelServer, "models", None)
        monkeypatch.setattr("evonb.tasks.serving._ROUTES", {("GET", "/v1/models"): lambda *_: 1 / 0})
        with web((server.url,)) as w:
            while (answer := ask_again(w)) is None:
                assert time.monotonic() < deadline
        assert answer.status_code == 500 and "ZeroDivisionError" in answer.text and "line" not in answer.text
    assert "Traceback" in capfd.readouterr().err


def ask_again(w):
    "None while the server's places are still taken."
    try:
        return w.get("/v1/models")
    except httpx.TransportError:
        return None


def test_serving_by_name_ends_on_request_and_prints_a_random_token(tmp_path, served, capsys, monkeypatch):
    monkeypatch.delenv("EVONB_SERVER_TOKEN", raising=False)
    request = StopRequest()
    request.set("by the test")
    serve(served[2], adapters_folder=tmp_path, device="cpu", stop=request)
    said = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert len(said["token"].strip()) == 32 and said["stopped"].strip() == "by the test"
    with pytest.raises(InputError, match="16 to 200 printable"):
        serve(served[2], token="short", adapters_folder=tmp_path, device="cpu", stop=request)
    taken = int(served[0].rpartition(":")[2])
    with pytest.raises(InputError, match=f"Port {taken} can't be used"):
        serve(served[2], port=taken, adapters_folder=tmp_path, device="cpu", stop=request)


# Many clients, a full queue, and the end


def test_64_clients_lose_nothing_and_get_what_one_gets(engine, tmp_path, monkeypatch):
    "So little may wait that most are told to come back; work begins once one was."
    full, compute = threading.Event(), Batches._compute
    monkeypatch.setattr(Batches, "_compute", lambda *a: (full.wait(60), compute(*a))[1])
    adapters = dict(zip("abc", individuals(engine.model, 3)))
    sequences = [TOKENIZER(t, add_special_tokens=False)["input_ids"] for t in TEXTS]
    asks = [(i % 64, "tiny" if i % 4 == 3 else "abc"[i % 4], sequences[i % len(sequences)]) for i in range(600)]
    refused, found = [], [None] * len(asks)

    async def client(k, url):
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False,
                                     timeout=None) as w:  # fmt: skip
            for i, (who, model, ids) in enumerate(asks):
                body = dict(model=model, prompt=ids, max_tokens=0, echo=True, logprobs=1, temperature=0)
                while who == k and found[i] is None:
                    answer = await w.post("/v1/completions", json=body)
                    if answer.status_code == 429:
                        refused.append(int(answer.headers["retry-after"]))
                        full.set()
                        await asyncio.sleep(0.02)
                    else:
                        found[i] = answer.json()["choices"][0]["logprobs"]["token_logprobs"]

    async def everyone(url):
        await asyncio.gather(*(client(k, url) for k in range(64)))

    with ModelServer(engine, "tiny", tmp_path, TOKEN, max_waiting=20) as server:
        server.loaded.update(adapters)
        asyncio.run(everyone(server.url))
    assert refused and min(refused) >= 1
    for model, adapter in dict(adapters, tiny=BASE).items():
        mine = [i for i, a in enumerate(asks) if a[1] == model]
        for _ in engine.groups([adapter], 1000, 64):
            wanted = token_logprobs(engine, [asks[i][2] for i in mine], 1)
        for i, w in zip(mine, wanted):
            np.testing.assert_allclose(found[i][1:], [t[0] for t in w[1:]], atol=1e-4)


def test_the_client_counts_no_queue_as_a_failure(engine, tmp_path, monkeypatch):
    "All of it takes longer than the client's time limit; nothing may be retried away."
    compute = Batches._compute

    def slow(self, batch):
        time.sleep(0.4)
        compute(self, batch)

    monkeypatch.setattr(Batches, "_compute", slow)
    few = Engine(engine.model, TOKENIZER, max_tokens=1)  # one or two prompts in a pass
    with ModelServer(few, "tiny", tmp_path, TOKEN, max_waiting=4) as server:
        b = ServerBackend(server.url, TOKENIZER, token=TOKEN, adapters_folder=tmp_path, batch=1, timeout=3.0, retries=0)
        [(choices, _)] = b.answers([BASE], CHOICES, [])
    for (x, _), (x_here, _) in zip(choices, InProcess(engine).answers([BASE], CHOICES, [])[0][0]):
        np.testing.assert_allclose(x - x[0], x_here - x_here[0], atol=1e-4)


def job(engine, text="the cat", connection=None, adapter=BASE, **more):
    body = dict(prompt=text, max_tokens=0, temperature=0, echo=True, logprobs=1) | more
    return Job(adapter, asked(body, TOKENIZER, 64, 300), connection)


def test_what_waits_for_one_individual_is_one_pass(engine, monkeypatch):
    calls = []
    monkeypatch.setattr("evonb.tasks.serving.answered", lambda e, a, wanted: calls.append(len(wanted)) or wanted)
    other, batches = individuals(engine.model, 1)[0], Batches(engine)
    jobs = [job(engine), job(engine, adapter=other), job(engine, ["a b", "the dog"]), job(engine, max_tokens=3)]
    batches.jobs += jobs
    batches.step()
    assert calls == [4] and [j.done.is_set() for j in jobs] == [True, False, True, True]
    batches.step()
    assert calls == [4, 1] and not batches.jobs


def test_a_small_request_comes_before_large_ones_and_a_large_one_is_shared_out(engine):
    batches = Batches(engine)
    batches.speed, engine_room = 1.0, engine.max_tokens
    large = [job(engine, [TEXTS[0] * 5] * 200) for _ in range(3)]
    small = job(engine)
    for k, j in enumerate([*large, small]):
        j.due = k + sum(j.sizes()) / batches.speed
    batches.jobs += [*large, small]
    batch = batches.next_batch()
    assert batch[0][0] is small and {j for j, _ in batch} == {small, large[0]}
    assert sum(len(j.asked.ids[i]) for j, i in batch) <= engine_room


def test_who_has_left_costs_nothing(engine, monkeypatch):
    ours, theirs = socket.socketpair()
    stays, stays_theirs = socket.socketpair()
    gone, here = job(engine, connection=ours), job(engine, connection=stays)
    theirs.close()
    batches = Batches(engine)
    batches.jobs += [gone, here]
    batches.step()
    assert isinstance(gone.error, ConnectionError) and not gone.found and here.found
    for s in (ours, stays, stays_theirs):
        s.close()


def test_a_client_that_leaves_a_server_is_dropped_before_it_is_computed(engine, tmp_path, monkeypatch):
    computed, gate, compute = [], threading.Event(), Batches._compute

    def gated(self, batch):
        computed.append([j.asked.max_tokens for j, _ in batch])
        gate.wait(20)
        compute(self, batch)

    monkeypatch.setattr(Batches, "_compute", gated)
    with ModelServer(engine, "tiny", tmp_path, TOKEN) as server:
        first = threading.Thread(target=lambda: post_completion(server.url, max_tokens=1))
        first.start()
        until(lambda: computed)
        with pytest.raises(httpx.ReadTimeout):
            post_completion(server.url, timeout=0.3, max_tokens=7)
        gate.set()
        first.join()
        until(lambda: not server.batches.jobs)
        assert post_completion(server.url, max_tokens=2).status_code == 200
    assert computed == [[1], [2]]


def post_completion(url, timeout=20, **body):
    with web((url,)) as w:
        return w.post("/v1/completions", timeout=timeout, json=dict(model="tiny", prompt="a b", temperature=0) | body)


def until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_cannot_be_computed_takes_no_other_with_it(engine, monkeypatch):
    def fails_for_long(engine, adapter, wanted):
        if any(a.max_tokens > 5 for _, a in wanted):
            raise RuntimeError("can't allocate memory")
        return wanted

    monkeypatch.setattr("evonb.tasks.serving.answered", fails_for_long)
    batches, jobs = Batches(engine), [job(engine), job(engine, max_tokens=9), job(engine, max_tokens=2)]
    batches.jobs += jobs
    batches.step()
    assert [bool(j.error) for j in jobs] == [False, True, False] and all(j.done.is_set() for j in jobs)


def test_stopping_refuses_what_waits_and_finishes_what_is_computed(engine, tmp_path, monkeypatch):
    computing, gate, compute, said = threading.Event(), threading.Event(), Batches._compute, {}

    def gated(self, batch):
        computing.set()
        gate.wait(20)
        compute(self, batch)

    def ask(k):
        said[k] = post_completion(server.url, max_tokens=k)

    monkeypatch.setattr(Batches, "_compute", gated)
    before = set(threading.enumerate())
    with ModelServer(engine, "tiny", tmp_path, TOKEN) as server:
        clients = [threading.Thread(target=ask, args=(k,)) for k in (1, 2, 3)]
        clients[0].start()
        computing.wait(20)
        for c in clients[1:]:
            c.start()
        until(lambda: len(server.batches.jobs) == 3)
        idle = socket.create_connection(("127.0.0.1", server.port))
        threading.Timer(0.5, gate.set).start()
    for c in clients:
        c.join(20)
    idle.close()
    assert {k: a.status_code for k, a in said.items()} == {1: 200, 2: 503, 3: 503}
    assert "stopped" in said[2].json()["error"]["message"]
    until(lambda: set(threading.enumerate()) <= before)  # no thread is left to abort the interpreter
    with pytest.raises(httpx.ConnectError):
        post_completion(server.url)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_under_load_ends_well(tmp_path, served, number):
    env = os.environ | {"EVONB_SERVER_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([EVONB, "serve", "--base", str(served[2]), "--name", "tiny", "--device", "cpu"], env=env,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        url, statuses = process.stdout.readline().split()[1], []

        def client():
            while True:
                try:
                    answer = post_completion(url, prompt=TEXTS[:64], max_tokens=20)
                except httpx.TransportError:  # nobody listens any more
                    return
                statuses.append(answer.status_code)

        clients = [threading.Thread(target=client) for _ in range(6)]
        for c in clients:
            c.start()
        until(lambda: statuses)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        for c in clients:
            c.join(20)
        assert process.returncode == 0 and err == "" and "stopped:" in out
        assert set(statuses) <= {200, 503} and 200 in statuses
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_client_whose_server_ends_under_load_says_so_and_scores_nobody(tmp_path, served, number):
    "Whether it is killed in mid-request or stops in order: the work ends with the server's error, at once."
    env = os.environ | {"EVONB_SERVER_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([EVONB, "serve", "--base", str(served[2]), "--name", "tiny", "--device", "cpu",
                                "--adapters", str(tmp_path)], env=env, text=True, stdout=subprocess.PIPE)  # fmt: skip
    try:
        url, found = process.stdout.readline().split()[1], []
        b = ServerBackend(url, TOKENIZER, token=TOKEN, adapters_folder=tmp_path, retries=1, backoff=0.01, batch=1)
        b.known()
        choices = [Choice(t, (f" {i}", " b"), True) for i in range(400) for t in TEXTS[:4]]
        sent, send = [], b._send

        async def counted(path, body):
            answer = await send(path, body)
            sent.append(path)
            return answer

        b._send = counted

        def work():
            try:
                found.append(b.answers([BASE], choices, []))
            except ServerError as e:
                found.append(e)

        client = threading.Thread(target=work)
        client.start()
        until(lambda: len(sent) > 20)
        process.send_signal(number)
        client.join(60)
        assert not client.is_alive() and process.wait(60) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        assert isinstance(found[0], ServerError) and ("no answer" in str(found[0]) or "503" in str(found[0])), found
    finally:
        process.kill()


def test_429_with_retry_after_is_no_try_and_patience_ends(fake, tmp_path):
    b = of_fake(fake, tmp_path, retries=0)
    b.known()
    left = [429] * 5
    full = 429, dict(error=dict(message="5 prompts wait already")), {"Retry-After": "0"}
    fake.twist = lambda path, body: full if path == "completions" and left and left.pop() else None
    assert isinstance(b.answers([BASE], CHOICES[:1], [])[0], tuple) and not left
    b.patience, fake.twist = 0.1, lambda path, body: full if path == "completions" else None
    with pytest.raises(ServerError, match="answered 429: 5 prompts wait"):
        b.answers([BASE], CHOICES[:1], [])
    b.patience, fake.twist = 60, lambda path, body: (429, b"quota", {}) if path == "completions" else None
    with pytest.raises(ServerError, match="answered 429: quota"):  # it doesn't say that it passes
        b.answers([BASE], CHOICES[:1], [])


# A server that misbehaves


class Fake(ThreadingHTTPServer):
    "OpenAI's protocol over made-up log-probabilities; `twist` changes an answer, `log` and the counts say what came."

    daemon_threads = True

    def handle_error(self, request, address):
        pass  # a client that left

    def __init__(self):
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.twist, self.delay, self.log, self.lock = None, 0.0, [], threading.Lock()
        self.now = self.most = 0
        self.loaded, self.most_loaded = set(), 0

    def answer(self, path, body):
        name = body.get("lora_name")
        if path.endswith("/load_lora_adapter"):
            self.loaded.add(name)
            self.most_loaded = max(self.most_loaded, len(self.loaded))
            return 200, f"Success: {name}", {}
        if path.endswith("/unload_lora_adapter"):
            self.loaded.discard(name)
            return 200, f"Success: {name}", {}
        if path.endswith("/models"):
            return 200, dict(data=[dict(id="fake", root="/fake", max_model_len=64, parent=None)]), {}
        return 200, completion(body), {}


def completion(body):
    choices = []
    for i, ids in enumerate(body["prompt"]):
        echoed = [None, *(-(t % 7) / 8 - 0.125 for t in ids[1:])] if body.get("echo") else []
        values = echoed + [-1.0] * (body["max_tokens"] > 0)
        choices.append(dict(index=i, text="word\nmore", logprobs=dict(token_logprobs=values)))
    return dict(choices=choices, usage=dict(prompt_tokens=sum(map(len, body["prompt"]))))


class FakeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        s = self.server
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        with s.lock:
            s.now += 1
            s.most = max(s.most, s.now)
            s.log.append((self.path.rpartition("/")[2], body))
        time.sleep(s.delay)
        found = s.twist(self.path.rpartition("/")[2], body) if s.twist else None
        with s.lock:
            status, content, headers = found or s.answer(self.path, body)
            s.now -= 1
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for k, v in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(k, v)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def fake():
    server = Fake()
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def of_fake(fake, tmp_path, **options):
    options = dict(backoff=0.01, retries=2, timeout=20.0) | options
    return ServerBackend(fake.url, TOKENIZER, adapters_folder=tmp_path, **options)


def population(n=3):
    return [random_adapter({"m": (4, 4)}, 2, Seeds(i)) for i in range(n)]


def test_sums_are_over_the_options_tokens(fake, tmp_path):
    choice = Choice("The cat ", ("sees", "sees it"))
    [(choices, texts)] = of_fake(fake, tmp_path).answers([BASE], [choice], [Prompt("a", 3)])
    ids = lambda t: TOKENIZER(t, add_special_tokens=False)["input_ids"]
    for option, x, n in zip((" sees", " sees it"), *choices[0]):
        own = ids("The cat" + option)[len(ids("The cat")) :]
        assert n == len(own) and x == sum(-(t % 7) / 8 - 0.125 for t in own)
    assert texts == ["word"]  # cut at the stop string, though the server didn't


def test_no_more_requests_are_under_way_than_allowed(fake, tmp_path):
    fake.delay = 0.01
    found = of_fake(fake, tmp_path, concurrency=3, max_loaded=2, batch=1).answers(population(5), CHOICES, PROMPTS)
    assert len(found) == 5 and fake.most == 3 and fake.most_loaded == 2 and not fake.loaded


def test_an_individual_is_loaded_scored_and_taken_away(fake, tmp_path):
    seen = []

    def twist(path, body):
        if path == "load_lora_adapter":
            folder = Path(body["lora_path"])
            seen.append((folder, read_adapter(folder).delta("m")))

    fake.twist, [a] = twist, population(1)
    odd = replace(a, scale={"m": 0.7})
    of_fake(fake, tmp_path).answers([odd], CHOICES[:1], [])
    (folder, delta) = seen[0]
    assert folder.parent == tmp_path and folder.name.startswith(odd.digest()[:32]) and not folder.exists()
    torch.testing.assert_close(delta, odd.delta("m"))
    calls = [p for p, _ in fake.log][-3:]
    assert calls == ["load_lora_adapter", "completions", "unload_lora_adapter"]
    name = fake.log[-3][1]["lora_name"]
    assert fake.log[-2][1]["model"] == name == fake.log[-1][1]["lora_name"]


def test_where_the_server_sees_the_folder_under_another_path(fake, tmp_path):
    of_fake(fake, tmp_path, adapters_at="/mnt/shared", keep=True).answers(population(1), CHOICES[:1], [])
    digest = population(1)[0].digest()[:32]
    assert [b["lora_path"] for p, b in fake.log if p == "load_lora_adapter"] == [f"/mnt/shared/{digest}"]
    assert (tmp_path / digest / "adapter_config.json").exists()  # kept


def test_an_individuals_failure_leaves_the_others_alone(fake, tmp_path):
    bad = population()[1].digest()[:32]

    def twist(path, body):
        if path == "load_lora_adapter" and bad in body["lora_name"]:
            return 400, dict(error=dict(message="LoRA rank 128 is greater than max_lora_rank 64.")), {}

    fake.twist = twist
    found = of_fake(fake, tmp_path).answers(population(), CHOICES[:2], PROMPTS[:1])
    assert "max_lora_rank 64" in found[1] and "answered 400" in found[1] and isinstance(found[0], tuple)
    assert isinstance(found[2], tuple) and not fake.loaded and not [p for p in tmp_path.iterdir() if p.is_dir()]


@pytest.mark.parametrize("path, status", [("load_lora", 500), ("completions", 500), ("completions", 400)])
def test_a_servers_own_failure_is_no_individuals_fitness(fake, tmp_path, path, status):
    "It comes for one individual only, as when memory runs out in passing; that is still no score of it."
    bad = population()[1].digest()[:32]
    told = []

    def twist(where, body):
        if where.startswith(path) and bad in (body.get("lora_name") or body["model"]):
            told.append(where)
            return status, dict(error=dict(message="can't allocate memory")), {}

    b = of_fake(fake, tmp_path, retries=0)
    b.known()
    fake.twist = twist
    with pytest.raises(ServerError, match=f"answered {status}: can't allocate memory"):
        b.answers(population(), CHOICES[:2], [])
    assert told and not fake.loaded and not [p for p in tmp_path.iterdir() if p.is_dir()]


@pytest.mark.parametrize("value", [None, math.nan, -math.inf])
def test_nan_is_the_individuals_failure(fake, tmp_path, value):
    def twist(path, body):
        if path == "completions" and body["model"] != "fake":
            made = completion(body)
            made["choices"][0]["logprobs"]["token_logprobs"][-1] = value
            return 200, made, {}

    fake.twist = twist
    found = of_fake(fake, tmp_path).answers([BASE, *population(1)], CHOICES[:2], [])
    assert isinstance(found[0], tuple) and found[1] == "ScoreError: the server's log-probabilities are NaN or infinite"
    assert not fake.loaded


def test_a_server_that_restarted_is_given_the_individual_again(fake, tmp_path):
    lost = []

    def twist(path, body):
        if path == "completions" and body["model"] != "fake" and not lost:
            lost.append(1)
            return 404, dict(error=dict(message="The model does not exist")), {}

    fake.twist = twist
    [found] = of_fake(fake, tmp_path).answers(population(1), CHOICES[:1], [])
    assert isinstance(found, tuple) and [p for p, _ in fake.log].count("load_lora_adapter") == 2


def test_tries_are_bounded_and_their_end_is_an_error(fake, tmp_path):
    fake.twist = lambda path, body: (503, b"busy", {})
    with pytest.raises(ServerError, match=r"/v1/models answered 503: busy \(3 tries\)"):
        of_fake(fake, tmp_path).digest()
    assert len(fake.log) == 3


def test_what_passes_is_asked_again_and_retry_after_is_honoured(fake, tmp_path):
    left = [429, 500, 502, 503, 504]

    def twist(path, body):
        if path == "completions" and body["model"] == "fake" and known and left:
            return left.pop(0), b"later", {"Retry-After": "0"}

    known, b = [], of_fake(fake, tmp_path, retries=5, backoff=50.0)  # without Retry-After this test would take minutes
    b.known()
    known.append(1)
    fake.twist = twist
    assert isinstance(b.answers([BASE], CHOICES[:1], [])[0], tuple) and not left


def test_pauses_double_with_seeded_jitter():
    draw = lambda: [retry_pause(k, None, Seeds(1).numpy(), 1.0) for k in range(12)]
    assert draw() == draw() and all(0.5 * 2**k <= p <= 1.5 * 2**k for k, p in enumerate(draw()[:5]))
    assert draw()[-1] == LONGEST_PAUSE == retry_pause(0, "999999", Seeds(0).numpy())
    assert retry_pause(0, "soon", Seeds(0).numpy(), 1.0) <= 1.5


def replied(change):
    "A twist that changes the completion."

    def twist(path, body):
        if path == "completions":
            made = completion(body)
            change(made)
            return 200, made, {}

    return twist


def always(status, content, path=""):
    return lambda p, body: (status, content, {}) if p.startswith(path) else None


def without_logprobs(made):
    made["choices"][0].pop("logprobs")


def generated_only(made):
    made["choices"][0]["logprobs"]["token_logprobs"] = [-1.0]


def another_count(made):
    made["usage"]["prompt_tokens"] += 1


def positive(made):
    made["choices"][0]["logprobs"]["token_logprobs"][:2] = [None, 3.0]


def no_float(made):
    made["choices"][0]["logprobs"]["token_logprobs"][:2] = [None, -10**400]


@pytest.mark.parametrize(
    "twist, message",
    [
        (always(401, dict(error="no")), "answered 401: no.* EVONB_SERVER_TOKEN"),
        (always(403, dict(detail="who are you")), "answered 403: who are you"),
        (always(404, dict(detail="Not Found")), "answered 404: Not Found.* OpenAI-compatible"),
        (always(302, b""), "answered 302"),
        (always(200, b"<html>welcome</html>"), "no list of models: <html>welcome"),
        (always(200, dict(data=[1])), "no list of models"),
        (always(200, dict(data=[dict(id="a"), dict(id="b")]), "models"), "no model was named. It serves: a, b"),
        (always(200, b"{", "completions"), "has no list of choices"),
        (always(200, dict(choices=[]), "completions"), "has 0 choices"),
        (always(400, dict(error=dict(message="no echo")), "completions"), "can't score a text.*no echo"),
        (replied(without_logprobs), "no logprobs.token_logprobs"),
        (replied(generated_only), "log-probabilities of 1 tokens, but the prompt has"),
        (replied(another_count), "adds or drops"),
        (replied(positive), "3.0 as a log-probability"),
        (replied(no_float), "-1000+ as a log-probability"),
        (always(200, b"\x1f\x8b rubbish", "completions"), "has no list of choices"),
    ],
)
def test_each_error_of_a_server_is_named(fake, tmp_path, twist, message):
    fake.twist = twist
    with pytest.raises(ServerError, match=message) as e:
        of_fake(fake, tmp_path, retries=0).check(CHOICES[:1], [])
    assert fake.url in str(e.value) and "\n" not in str(e.value)


def test_an_unknown_model_and_a_dead_server_are_named(fake, tmp_path):
    with pytest.raises(ServerError, match="'gpt-9' isn't served. It serves: fake"):
        of_fake(fake, tmp_path, model="gpt-9").digest()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"  # nobody listens there
        with pytest.raises(ServerError, match=r"no answer \(ConnectError.*3 tries.*Is the server running"):
            ServerBackend(url, TOKENIZER, adapters_folder=tmp_path, backoff=0.01, retries=2).digest()


def test_a_server_without_lora_endpoints_is_an_error_that_says_how_to_start_it(fake, tmp_path):
    fake.twist = always(404, dict(detail="Not Found"), "load_lora")
    with pytest.raises(ServerError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        of_fake(fake, tmp_path).answers(population(), CHOICES[:1], [])


def test_a_server_that_dies_in_between_is_no_individuals_failure(fake, tmp_path):
    b = of_fake(fake, tmp_path, retries=0)
    b.known()
    fake.twist = always(503, b"going down", "completions")
    with pytest.raises(ServerError, match="going down"):
        b.answers(population(), CHOICES[:1], [])
    assert not fake.loaded and not [p for p in tmp_path.iterdir() if p.is_dir()]  # still cleaned up


@pytest.mark.parametrize("slow", ["unload_lora_adapter", "load_lora_adapter"])
def test_individuals_that_fail_together_are_all_taken_away(slow, fake, tmp_path):
    together, early = threading.Barrier(3), iter([0.0, 0.1, 0.1])  # one fails first, while two are lent or taken away

    def twist(path, body):
        if path == slow:
            time.sleep(next(early, 0.1))
        if path == "completions":
            if slow.startswith("unload"):
                together.wait(20)
            return 503, b"going down", {}

    b = of_fake(fake, tmp_path, retries=0)
    b.known()
    fake.twist = twist
    with pytest.raises(ServerError, match="going down"):
        b.answers(population(), CHOICES[:1], [])
    assert not fake.loaded and not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_lost_reply_to_load_is_no_failure(fake, tmp_path):
    def twist(path, body):
        if path == "load_lora_adapter":
            return 400, dict(error=dict(message=f"The lora adapter '{body['lora_name']}' has already been loaded.")), {}

    fake.twist = twist
    assert isinstance(of_fake(fake, tmp_path).answers(population(1), CHOICES[:1], [])[0], tuple)


def test_an_individual_that_cannot_be_taken_away_is_warned_about(fake, tmp_path):
    fake.twist = always(400, dict(error="in use"), "unload")
    with pytest.warns(UserWarning, match="may still be loaded.*in use"):
        assert isinstance(of_fake(fake, tmp_path).answers(population(1), CHOICES[:1], [])[0], tuple)


@pytest.mark.parametrize("drip", [False, True])
def test_a_server_that_hangs_or_drips_is_left_after_the_timeout(drip, tmp_path):
    listener, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def hang():
        held = []
        while not stop.is_set():
            try:
                s, _ = listener.accept()
            except OSError:
                return
            held.append(s)
            if drip:
                threading.Thread(target=dripping, args=(s, stop), daemon=True).start()

    threading.Thread(target=hang, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with pytest.raises(ServerError, match=r"no answer within 0.3 s \(2 tries\)|ReadTimeout.*\(2 tries\)"):
            ServerBackend(url, TOKENIZER, adapters_folder=tmp_path, timeout=0.3, retries=1, backoff=0.01).digest()
    finally:
        stop.set()
        listener.close()


def dripping(s, stop):
    try:
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.05):
            s.sendall(b" ")
    except OSError:
        pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here")
def test_an_interrupt_cancels_what_is_under_way_and_individuals_are_taken_away(fake, tmp_path):
    b = of_fake(fake, tmp_path, concurrency=2)
    b.known()
    gate = threading.Event()

    def twist(path, body):
        if path == "completions":
            gate.wait(20)

    def interrupt(*_):
        raise KeyboardInterrupt

    fake.twist, before = twist, signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            b.answers(population(1), CHOICES[:1], [])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gate.set()
    assert not fake.loaded and [p for p, _ in fake.log][-1] == "unload_lora_adapter"


def test_a_bases_digest_follows_what_it_answers(fake, tmp_path):
    first = of_fake(fake, tmp_path).digest()
    assert of_fake(fake, tmp_path).digest() == first

    def shifted(by):
        def change(made):
            for c in made["choices"]:
                c["logprobs"]["token_logprobs"][1:] = [x - by for x in c["logprobs"]["token_logprobs"][1:]]

        return replied(change)

    fake.twist = shifted(0.01)  # another GPU, another batch
    assert of_fake(fake, tmp_path).digest() == first
    fake.twist = shifted(0.2)
    second = of_fake(fake, tmp_path).digest()
    assert second != first and of_fake(fake, tmp_path).digest() == second
    fake.twist = None
    assert of_fake(fake, tmp_path).digest() == first  # both are remembered
    assert len({of_fake(fake, tmp_path).digest(), first}) == 1


def test_what_was_known_of_servers_and_is_damaged_is_named(fake, tmp_path):
    known = of_fake(fake, tmp_path)._known_probe
    seen = of_fake(fake, tmp_path).known()
    known(seen)
    for wrong in (7, [], dict(a=7), dict(a=[7])):
        write_json(tmp_path / "probes.json", {k: wrong for k in read_json(tmp_path / "probes.json")})
        with pytest.raises(DamagedFileError, match="probes.json is damaged.* Delete it"):
            known(seen)


def test_requests_that_no_individual_could_answer_are_refused_before(fake, tmp_path):
    b = of_fake(fake, tmp_path)
    b.check(CHOICES, PROMPTS)
    n = len(fake.log)
    with pytest.raises(InputError, match=r"Item 0 .* max_model_len is 64"):
        b.check([Choice("the cat " * 60, (" a", " b"))], [])
    with pytest.raises(InputError, match=r"Prompt 0 .* max_model_len is 64"):
        b.check([], [Prompt("the cat", 64)])
    with pytest.raises(InputError, match="no token of its own"):
        b.check([Choice("the cat", ("", " b"))], [])
    assert len(fake.log) == n


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(url="127.0.0.1:80"), "no address of a server"),
        (dict(url="ftp://127.0.0.1"), "no address of a server"),
        (dict(url="http://me:secret@host"), "EVONB_SERVER_TOKEN"),
        (dict(concurrency=0), "concurrency is 0"),
        (dict(retries=-1), "retries is -1"),
        (dict(timeout=0), "timeout is 0"),
        (dict(max_loaded=1.5), "max_loaded is 1.5"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message) as e:
        ServerBackend(**dict(url="http://127.0.0.1:1", tokenizer=TOKENIZER, adapters_folder=tmp_path) | options)
    assert "secret" not in str(e.value)


def sent_key(url, **options):
    return ServerBackend(url, TOKENIZER, **options)._token


def test_no_key_goes_where_it_was_not_named_for(fake, tmp_path, monkeypatch):
    monkeypatch.delenv("EVONB_SERVER_TOKEN", raising=False)
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-somebody-elses")
    seen = []
    monkeypatch.setattr(FakeHandler, "parse_request", lambda self: parsed(self, seen))
    of_fake(fake, tmp_path).digest()
    assert seen and not any(seen)
    monkeypatch.setenv("EVONB_SERVER_TOKEN", "named-for-this-one")
    of_fake(fake, tmp_path).digest()
    assert seen[-1] == "Bearer named-for-this-one"
    of_fake(fake, tmp_path, token="an-argument").digest()
    assert seen[-1] == "Bearer an-argument"
    of_fake(fake, tmp_path, token="").digest()
    assert seen[-1] is None


def parsed(handler, seen):
    good = BaseHTTPRequestHandler.parse_request(handler)
    seen.append(handler.headers.get("Authorization") if good else None)
    return good


@pytest.mark.parametrize("host", ["example.org", "10.0.0.7", "192.168.1.2:8000", "localhost.example.org",
                                  "[2001:db8::1]:80", "0x7f.1.example", "127.0.0.1.nip.io"])  # fmt: skip
def test_a_token_is_not_sent_in_clear_text_to_another_machine(host, monkeypatch):
    monkeypatch.setenv("EVONB_SERVER_TOKEN", "secret-token")
    with pytest.raises(InputError, match="over plain http.*https.*ssh -L") as e:
        sent_key(f"http://{host}")
    assert "secret" not in str(e.value)
    assert sent_key(f"https://{host}") == sent_key(f"http://{host}", clear_text=True) == "secret-token"
    assert sent_key(f"http://{host}", token="") == ""


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LocalHost", "[::1]:8000", "127.1.2.3"])
def test_loopback_may_have_the_token(host):
    assert sent_key(f"http://{host}", token="secret-token\n") == "secret-token"


@pytest.mark.parametrize("token", ["two words", "a\nb", "schlüssel", "a\0b"])
def test_a_token_that_no_header_can_hold_is_refused_unseen(token):
    with pytest.raises(InputError, match="printable ASCII") as e:
        sent_key("http://127.0.0.1:1", token=token)
    assert token not in str(e.value)


@pytest.mark.parametrize("more", [[], ["--ray", "local"]])
def test_the_command_line_needs_an_address(more, capsys):
    assert main(["population", "no/experts", "--server-model", "x", "--task", "skill:agreement", *more]) == 2
    assert "go with --server URL" in capsys.readouterr().err


# The parts


def test_servable_is_the_same_change_without_patterns(tmp_path):
    for a in individuals(tiny(), 3):
        plain = servable(a)
        assert len({plain.rank(m) for m in plain.modules}) == 1 and set(plain.scale.values()) == {1.0}
        for m in a.modules:
            torch.testing.assert_close(plain.delta(m), a.delta(m), atol=1e-6, rtol=1e-5)
        write_adapter(plain, tmp_path / "a")
        config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
        assert config["r"] == config["lora_alpha"] and not config["rank_pattern"] and not config["alpha_pattern"]


@pytest.mark.parametrize("packing", ["tree", "padded"])
def test_token_logprobs_are_those_of_a_plain_forward_pass(packing):
    engine = Engine(tiny(), TOKENIZER, packing=packing, max_tokens=64, head_rows=5)
    sequences = [TOKENIZER(t, add_special_tokens=False)["input_ids"] for t in TEXTS[:6]] + [[5]]
    for ids, found in zip(sequences, token_logprobs(engine, sequences, 2)):
        with torch.no_grad():
            logp = engine.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        assert found[0] is None and len(found) == len(ids)
        for j in range(1, len(ids)):
            assert abs(found[j][0] - logp[j - 1, ids[j]]) < 1e-4
            assert [t for t, _ in found[j][1]] == logp[j - 1].topk(2).indices.tolist()


def test_continuations_are_those_of_the_engine(engine):
    ids = [TOKENIZER(p.text, add_special_tokens=False)["input_ids"] for p in PROMPTS if p.text]
    texts = engine.generate([BASE], [Prompt(p.text, 5, (" ",)) for p in PROMPTS if p.text])[0]
    found = continuations(engine, ids, 5, (" ",))
    assert [t for _, t, _ in found] == texts
    assert all(len(n) == 5 for n, _, reason in found if reason == "length")
