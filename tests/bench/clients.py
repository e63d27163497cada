"""Scoring through `evonb serve` against scoring in this process: 10,000 prompts, 64 clients, a server of its own.

CPU seconds of both processes count, as on one core: on two, a client computes beside its server, and on a shared
machine two processes get more of it than one, so seconds waited say less.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scoring import blimp, generated, small
from timing import paired, threads

from evonb.tasks.backends import InProcess
from evonb.tasks.client import ServerBackend
from evonb.tasks.engine import Engine, encode_choices
from evonb.tasks.grading import Choice
from evonb.training.adapters import Adapter
from evonb.training.base import save_base

N_PROMPTS, N_CLIENTS, TOKEN = 10_000, 64, "a-token-for-benchmarks"
BASE = Adapter({}, {}, {}, {})


@contextmanager
def served(model, tokenizer):
    "A server in a process of its own, with one thread: (address, its process id)."
    with tempfile.TemporaryDirectory() as folder:
        save_base(model, tokenizer, Path(folder) / "base")
        env = os.environ | {"EVONB_SERVER_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "evonb.cli", "serve", "--base", f"{folder}/base", "--name", "small"]
        command += ["--adapters", f"{folder}/adapters", "--device", "cpu"]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        try:
            yield process.stdout.readline().split()[1], process.pid
        finally:
            process.terminate()
            process.wait()


def cpu_seconds(pid):
    "What a process has computed for."
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def one_each(url, tokenizer, choices, sequences):
    "64 clients, each with one connection, that ask for one prompt at a time by the plain protocol."
    port, todo, lock, found = int(url.rpartition(":")[2]), iter(enumerate(sequences)), threading.Lock(), {}
    head = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while True:
            with lock:
                i, ids = next(todo, (None, None))
            if ids is None:
                return connection.close()
            body = dict(model="small", prompt=ids, max_tokens=0, echo=True, logprobs=1, temperature=0)
            connection.request("POST", "/v1/completions", json.dumps(body), head)
            told = json.loads(connection.getresponse().read())
            found[i] = sum(told["choices"][0]["logprobs"]["token_logprobs"][1:])

    clients = [threading.Thread(target=client) for _ in range(N_CLIENTS)]
    for c in clients:
        c.start()
    for c in clients:
        c.join()
    return [found[i] for i in range(len(sequences))]


def against_server(pairs, ask):
    "CPU seconds in this process over those of client and server together; `wall_ratio` is that of the seconds waited."
    model, tokenizer = small()
    real = blimp(N_PROMPTS // 2)
    texts = [o for c in real or generated(N_PROMPTS // 2) for o in c.options]
    choices = [Choice("", (t,), True) for t in texts]
    sequences = [list(s.ids) for [s] in encode_choices(tokenizer, choices)]
    engine, spent = Engine(model, tokenizer), dict(here=[], client=[], server=[])

    def here():
        engine._plans.clear()  # tokenising and packing count
        began = time.process_time()
        found = InProcess(engine).answers([BASE], choices, [])[0][0]
        spent["here"].append(time.process_time() - began)
        return [float(x[0]) for x, _ in found]

    with threads(1), served(model, tokenizer) as (url, pid):

        def there():
            began, server = time.process_time(), cpu_seconds(pid)
            found = ask(url, tokenizer, choices, sequences)
            spent["client"].append(time.process_time() - began)
            spent["server"].append(cpu_seconds(pid) - server)
            return found

        apart = float(np.abs(np.subtract(here(), there())).max())
        row = paired(here, there, pairs, warm=0)
    cpu = {f"{k}_cpu_s": float(np.median(v[1:])) for k, v in spent.items()}
    waited, (low, mid, high) = row["ratio"], np.quantile(
        np.array(spent["here"][1:]) / np.add(spent["client"], spent["server"])[1:], [0.25, 0.5, 0.75])  # fmt: skip
    took = dict(ratio=float(mid), low=float(low), high=float(high), wall_ratio=waited, first_s=cpu["here_cpu_s"],
                second_s=cpu["client_cpu_s"] + cpu["server_cpu_s"])  # fmt: skip
    source = "BLiMP" if real else "generated skills"
    return row | took | cpu | dict(prompts=len(choices), source=source, apart_nats=apart)


def by_backend(url, tokenizer, choices, sequences):
    b = ServerBackend(url, tokenizer, token=TOKEN, concurrency=N_CLIENTS, show=False)
    return [float(x[0]) for x, _ in b.answers([BASE], choices, [])[0][0]]


def serving_backend(pairs, n=1):
    "In this process over `ServerBackend` with 64 connections, client and server: 10,000 prompts, GPT of 4 layers."
    return against_server(min(pairs, 5), by_backend) | dict(aim="at least 0.8")


def serving_one_each(pairs, n=1):
    "The same by 64 clients that ask for one prompt a request, in the plain protocol of completions."
    return against_server(min(pairs, 5), one_each) | dict(aim="at least 0.8")


ROWS = {f.__name__: f for f in (serving_backend, serving_one_each)}
