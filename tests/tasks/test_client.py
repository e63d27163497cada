"""What a server can do is tried first and told; what it can't is refused before any work: recorded real servers."""

import json
import math
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from evonb.cli import main
from evonb.core import InputError, Seeds
from evonb.tasks.client import ServerBackend, served_by, texts_apart
from evonb.tasks.fitness import Fitness
from evonb.tasks.grading import Choice, Item, Prompt
from evonb.tasks.protocol import ServerError, check_echo
from evonb.tasks.tasks import Task, skill_task
from evonb.text.tokens import train_tokenizer
from evonb.training.adapters import Adapter, linear_shapes, random_adapter, write_adapter
from evonb.training.base import find_smollm2, open_base, save_base
from evonb.training.gpt import GPTConfig, new_gpt

HERE = Path(__file__).parent
LLAMA, VLLM = (json.loads((HERE / f"{name}.json").read_text()) for name in ("llama_cpp", "vllm"))
SKILL = skill_task(["agreement", "count_up"], Seeds(0), n_validation=8, n_test=8)
TOKENIZER = train_tokenizer([i.prompt + " " + o for i in SKILL.items("validation") for o in i.options], 300)
BASE = Adapter({}, {}, {}, {})
CAPITALS = Task("capitals", "exact", dict(validation=[Item("The capital of France is", (), "Paris"),
                                                      Item("The capital of Italy is", (), "Rome")]))  # fmt: skip


class Recorded(ThreadingHTTPServer):
    "Answers as a real server did: `answer` gives status and JSON, or bytes that go out as they are."

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), RecordedHandler)
        self.url, self.answer, self.log = f"http://127.0.0.1:{self.server_address[1]}", answer, []

    def handle_error(self, request, address):
        pass  # a client that left

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class RecordedHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        self.server.log.append((self.path, body, dict(self.headers)))
        found = self.server.answer(self.path, body)
        if callable(found):
            self.close_connection = True
            return found(self.wfile)
        data = json.dumps(found[1]).encode()
        self.send_response(found[0])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def choices_for(recorded, prompts):
    "A recorded reply, its choices dealt to as many prompts as were sent."
    known = recorded["reply"]["choices"]
    choices = [known[i % len(known)] | dict(index=i) for i in range(len(prompts))]
    return recorded["status"], recorded["reply"] | dict(choices=choices)


def llama(path, body):
    "llama.cpp's server."
    if path == "/v1/completions":
        texts = isinstance(body["prompt"][0], str)
        return choices_for(LLAMA["echo" if body.get("echo") else "texts" if texts else "ids"], body["prompt"])
    routes = {"/v1/models": "models", "/v1/chat/completions": "chat"}
    found = LLAMA[routes.get(path, "unload")]
    return found["status"], found["reply"]


def vllm(path, body):
    "vLLM's, with the LoRA endpoints and without LoRA."
    if path == "/v1/completions":
        return choices_for(VLLM["echo" if body.get("echo") else "ids"], body["prompt"])
    found = VLLM[dict([("/v1/models", "models"), ("/v1/load_lora_adapter", "load")]).get(path, "unload")]
    return found["status"], found["reply"]


def client(server, tmp_path, tokenizer=TOKENIZER, **options):
    options = dict(retries=0, backoff=0.01, timeout=20.0) | options
    return ServerBackend(server.url, tokenizer, adapters_folder=tmp_path / "adapters", **options)


# Servers that can do a part


def test_what_a_server_can_do_is_told_in_one_line(tmp_path, capsys):
    with Recorded(llama) as server:
        client(server, tmp_path).known()
        [line] = capsys.readouterr().out.splitlines()
    assert "serves 'smollm2' with a context of 512 tokens: it continues texts by completions." in line
    assert "ignores echo" in line and "adds or drops" not in line  # it counts the first prompt only: not the reason
    assert "can't load adapters (404: File Not Found)" in line


@pytest.mark.parametrize(
    "tokenizer, chat, path, texts",
    [
        (TOKENIZER, None, "/v1/completions", "ids"),
        (None, None, "/v1/completions", "texts"),
        (None, True, "/v1/chat/completions", "chat"),
        (TOKENIZER, True, "/v1/chat/completions", "chat"),
    ],
)
def test_generated_answers_are_graded_where_nothing_can_be_scored(tmp_path, tokenizer, chat, path, texts):
    with Recorded(llama) as server:
        b = client(server, tmp_path, tokenizer, chat=chat)
        [found] = Fitness(b, [CAPITALS])([BASE])
        sent = [body for p, body, _ in server.log if p == path][-1]
    recorded = LLAMA[texts]["reply"]["choices"]
    said = [(recorded[i % len(recorded)].get("message") or {}).get("content", recorded[i % len(recorded)].get("text"))
            for i in range(2)]  # fmt: skip
    assert found.scores["capitals"].texts == [t.split("\n")[0] for t in said]
    assert sent["temperature"] == 0 and sent["stop"] == ["\n"] and sent["max_tokens"] == 32
    if texts == "texts":
        assert found.value == 1 and sent["prompt"] == [i.prompt for i in CAPITALS.items()]
    if texts == "chat":
        assert sent["messages"] in [[dict(role="user", content=i.prompt)] for i in CAPITALS.items()]  # the last


@pytest.mark.parametrize("tokenizer", [TOKENIZER, None])
def test_scores_are_refused_before_work_with_the_reason_and_the_way_forward(tmp_path, tokenizer):
    reason = "ignores echo" if tokenizer else "without tokenizer="
    with Recorded(llama) as server:
        b = client(server, tmp_path, tokenizer)
        b.known()
        n = len(server.log)
        with pytest.raises(ServerError, match=f"can't score a text.*{reason}.*evonb serve.*exact and numeric"):
            Fitness(b, [SKILL])([BASE])
        with pytest.raises(ServerError, match="LoRA adapters: it can't load adapters.*evonb serve, or with vLLM.*base"):
            Fitness(b, [CAPITALS])([random_adapter({"m": (4, 4)}, 2, Seeds(0))])
        assert len(server.log) == n and not (tmp_path / "adapters" / "x").exists()


def test_a_population_is_refused_before_its_first_evaluation(tmp_path, capsys):
    model = new_gpt(GPTConfig(vocab_size=300, n_layer=1, n_head=1, n_embd=16, block_size=64), Seeds(0)).eval()
    save_base(model, TOKENIZER, tmp_path / "base")
    for i in range(2):
        write_adapter(random_adapter(linear_shapes(model), 2, Seeds(i)), tmp_path / "experts" / f"e{i}")
    with Recorded(llama) as server:
        with pytest.raises(InputError, match="A population can't be scored by .*LoRA adapters.*404"):
            served_by(server.url)(str(tmp_path / "base"), "cpu")
        command = ["population", str(tmp_path / "experts"), "--base", str(tmp_path / "base"), "--device", "cpu"]
        command += ["--task", "skill:agreement", "--server", server.url, "--out", str(tmp_path / "run")]
        n = len(server.log)
        assert main(command) != 0
        told = capsys.readouterr()
        assert "A population can't be scored by" in told.err and "it continues texts by completions" in told.out
        assert len(server.log) - n == 5  # models, two ways to score, a continuation, the LoRA endpoint


def test_the_command_line_says_clear_text(tmp_path, capsys, monkeypatch):
    "Plain http with a token is refused; who knows the network says so by a switch, which goes with --server."
    given = []
    monkeypatch.setenv("EVONB_SERVER_TOKEN", "a-secret-of-this-server")
    command = ["population", str(tmp_path / "experts"), "--out", str(tmp_path / "run"), "--task", "skill:agreement"]
    assert main([*command, "--server-clear-text"]) != 0
    assert "go with --server URL" in capsys.readouterr().err
    monkeypatch.setattr("evonb.tasks.client.served_by", lambda *args, **options: given.append((args, options)))
    for more in ([], ["--server-clear-text"]):
        main([*command, "--server", "http://10.0.0.7:8000", *more])
    assert [o for _, o in given] == [dict(clear_text=False), dict(clear_text=True)]
    with pytest.raises(InputError, match="plain http.*--server-clear-text"):
        ServerBackend("http://10.0.0.7:8000", None)
    assert ServerBackend("http://10.0.0.7:8000", None, clear_text=True)._token == "a-secret-of-this-server"


def test_a_held_out_task_that_can_not_be_asked_is_refused_at_once(tmp_path):
    with Recorded(llama) as server:
        b = client(server, tmp_path)
        b.can_ask(False, True)
        with pytest.raises(ServerError, match="can't score a text"):
            b.can_ask(True, True)


def test_endpoints_of_a_server_that_was_started_without_lora_take_nobody_in(tmp_path):
    "vLLM has the endpoints with VLLM_ALLOW_RUNTIME_LORA_UPDATING, but takes no adapter without --enable-lora."
    with Recorded(vllm) as server:
        b = client(server, tmp_path)
        assert "LoRA is not enabled" in b.known()["no_lora"] and b.known()["way"] == "ids" and b.known()["room"] == 256
        with pytest.raises(ServerError, match="--enable-lora"):
            b.answers([random_adapter({"m": (4, 4)}, 2, Seeds(0))], [], [Prompt("a", 3)])


def test_the_probe_tells_one_server_from_another_by_what_it_continues(tmp_path):
    def other(path, body):
        status, reply = llama(path, body)
        for c in reply.get("choices", []) if path == "/v1/completions" else []:
            c["text"] += " and so on"
        return status, json.loads(json.dumps(reply))

    with Recorded(llama) as server:
        first, again = (client(server, tmp_path).digest() for _ in range(2))
        server.answer = other
        assert first == again != client(server, tmp_path).digest()
    assert texts_apart(["a", "b"], ["a", "c"]) == 0 and texts_apart(["a", "b"], ["a"]) == math.inf


# Log-probabilities of what was sent


def test_the_recorded_echo_is_of_the_tokens_that_were_sent():
    words = ["<|endoftext|>", "The", " capital", " of", " France", " is"]
    [first, *_] = VLLM["echo"]["reply"]["choices"]
    check_echo(first, words)
    for wrong in (words[1:] + ["x"], [*words[:4], " Spain", " is"]):
        with pytest.raises(ServerError, match="other tokens"):
            check_echo(first, wrong)
    with pytest.raises(ServerError, match="text_offset doesn't fit"):
        check_echo(dict(logprobs=first["logprobs"] | dict(text_offset=[0, 13, 17, 24, 27, 34])), words)


def test_a_server_with_another_tokenizer_scores_nothing_here(tmp_path):
    with Recorded(vllm) as server:
        why = client(server, tmp_path).known()["no_score"]
    assert "other tokens" in why or "log-probabilities of" in why or "adds or drops" in why


# Servers that break


def raw(*parts, pause=0.0):
    "A reply as bytes, perhaps slowly."

    def send(out):
        for p in parts:
            out.write(p)
            out.flush()
            time.sleep(pause)

    return send


def chunks(data, size=7):
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (data[i : i + size] for i in range(0, len(data), size)))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
PAGE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 24\r\n\r\n<html>Bad gateway</html>"
WELCOME = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>welcome</html>"


@pytest.mark.parametrize(
    "reply, message",
    [
        (raw(PAGE), "answered 502: <html>Bad gateway"),
        (raw(WELCOME), "has no list of choices: <html>welcome"),
        (raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), "answered 302"),
        (raw(HEAD + b"Content-Length: 500\r\n\r\n{\"choi"), "no answer"),
        (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(b'{"choices": []}')), "no answer"),  # it never ends
        (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nrubbish\r\n"), "no answer"),
        (raw(b""), "no answer"),
        (raw(b"\0\1\2 rubbish\r\n\r\n"), "no answer"),
        (raw(HEAD + b"Content-Length: 400\r\n\r\n", *[b" "] * 40, pause=0.05), "no answer within 0.4 s"),
        (raw(HEAD + b"Content-Length: 15\r\n\r\n{\"choices\": {}}"), "has no list of choices"),
    ],
)  # fmt: skip
def test_a_reply_that_breaks_off_or_is_no_reply_is_an_error_that_names_it(tmp_path, reply, message):
    with Recorded(llama) as server:
        b = client(server, tmp_path, timeout=0.4)
        b.timeout = 20.0
        b.known()
        b.timeout, server.answer = 0.4, lambda path, body: reply
        with pytest.raises(ServerError, match=message) as e:
            b.answers([BASE], [], [Prompt("a", 3)])
        assert server.url in str(e.value) and "\n" not in str(e.value)


def test_a_chunked_reply_is_read(tmp_path):
    def chunked(path, body):
        status, reply = llama(path, body)
        data = json.dumps(reply).encode()
        head = b"HTTP/1.1 %d X\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" % status
        return raw(head + chunks(data) + b"0\r\n\r\n")

    with Recorded(chunked) as server:
        [found] = client(server, tmp_path).answers([BASE], [], [Prompt("a", 3, ())])
    assert found[1] == [LLAMA["ids"]["reply"]["choices"][0]["text"]]


def test_a_redirect_takes_no_token_elsewhere(tmp_path):
    with Recorded(llama) as elsewhere, Recorded(llama) as server:
        head = f"HTTP/1.1 307 X\r\nLocation: {elsewhere.url}/v1/models\r\nContent-Length: 0\r\n\r\n"
        server.answer = lambda path, body: raw(head.encode())
        with pytest.raises(ServerError, match="answered 307"):
            client(server, tmp_path, token="a-secret-of-this-server").known()
        assert not elsewhere.log and server.log[0][2]["Authorization"] == "Bearer a-secret-of-this-server"


# The real one


def test_llama_cpps_real_server(tmp_path):
    pytest.importorskip("xllamacpp", reason="llama.cpp's server isn't installed (wheel xllamacpp)")
    if not (gguf := find_smollm2()):
        pytest.skip("SmolLM2 isn't here: make models")
    script = """
import sys, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.port, p.cpuparams.n_threads = sys.argv[1], 1024, 2, int(sys.argv[2]), 1
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", script, str(gguf), str(port)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    try:
        url, base = process.stdout.readline().strip(), open_base("smollm2-135m-instruct", "cpu")
        b = ServerBackend(url, base.tokenizer, adapters_folder=tmp_path)
        assert "ignores echo" in b.told() and "can't load adapters" in b.told()
        [found] = Fitness(b, [CAPITALS])([BASE])
        assert found.value == 1
        with pytest.raises(ServerError, match="can't score a text"):
            b.check([Choice("a", ("b", "c"))], [])
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
    finally:
        process.kill()
