"""The hub's real client against a hub on this machine, which serves the documented API: names become checked files."""

import base64
import filecmp
import hashlib
import json
import socket
import sys
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch

from evonb.cli import main
from evonb.core import CorpusError, DamagedFileError, InputError, MissingExtraError, Remark, Seeds
from evonb.datasets import MissingCorpusError
from evonb.hub import from_hub, hub_name
from evonb.store import open_run
from evonb.text.corpora import load_corpus
from evonb.text.tokens import CorpusConfig, prepare, train_tokenizer
from evonb.training.base import open_base, save_base
from evonb.training.gpt import GPTConfig, new_gpt
from evonb.training.stock import farthest_apart, to_stock
from evonb.travel.publish import import_run, imported_from, publish_run, verify_folder
from evonb.travel.upload import check_terms, held, terms_of, upload_folder

REPO = "someone/newborn"


class Hub:
    "Repositories with commits, files in git or (where large) behind a redirect, as on the hub."

    def __init__(self):
        self.files, self.refs, self.asked, self.gated, self.break_after, self.spoil = {}, {}, [], set(), None, None
        self.there, self.private, self.stored, self.most = False, False, {}, None  # most: objects, then it hangs up
        self.shelf, self.storing = "models", threading.Lock()  # or datasets

    def push(self, files, branch="main"):
        "A commit: path -> bytes."
        commit = hashlib.sha1(json.dumps([branch, sorted((n, hashlib.sha1(b).hexdigest()) for n, b in files.items())])
                              .encode()).hexdigest()  # fmt: skip
        self.files[commit], self.refs[branch], self.there = dict(files), commit, True
        return commit

    def commit(self, revision):
        return revision if revision in self.files else self.refs.get(unquote(revision))


class Answer(BaseHTTPRequestHandler):
    hub: Hub  # whose
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def say(self, status, body=b"", **headers):
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), str(v))
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, what, status=200, **headers):
        self.say(status, json.dumps(what).encode(), Content_Type="application/json", **headers)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if not self.hub.there:
            return self.json(dict(error="Repository not found"), 404, X_Error_Code="RepoNotFound")
        if path.startswith("/cdn/"):
            return self.content(self.hub.files[path.split("/")[2]][unquote("/".join(path.split("/")[3:]))])
        if ("datasets/" in path[:14]) != (self.hub.shelf == "datasets"):
            return self.json(dict(error="Repository not found"), 404, X_Error_Code="RepoNotFound")
        path = path.replace("/api/datasets/", "/api/models/").replace("/datasets/", "/")
        if not path.startswith((f"/api/models/{REPO}/", f"/{REPO}/")) and path != f"/api/models/{REPO}":
            return self.json(dict(error="Repository not found"), 404, X_Error_Code="RepoNotFound")
        if REPO in self.hub.gated:
            return self.json(dict(error="gated"), 403, X_Error_Code="GatedRepo")
        what = path.removeprefix("/api/models/").removeprefix("/").removeprefix(REPO).strip("/").split("/")
        revision = "main" if what == [""] else what[1]
        if (commit := self.hub.commit(revision)) is None:
            return self.json(dict(error="Revision Not Found"), 404, X_Error_Code="RevisionNotFound")
        files = self.hub.files[commit]
        if what[0] in ("", "revision"):
            return self.json(dict(id=REPO, sha=commit, private=self.hub.private,
                                  siblings=[dict(rfilename=n) for n in files]))
        if what[0] == "tree":
            return self.json([self.entry(n, b) for n, b in sorted(files.items())])
        name = unquote("/".join(what[2:]))
        if name not in files:
            return self.json(dict(error="Entry not found"), 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        body = files[name]
        if not self.large(name):
            return self.content(body, X_Repo_Commit=commit, ETag=f'"{hashlib.sha1(body).hexdigest()}"')
        there = f"http://localhost:{self.server.server_port}/cdn/{commit}/{name}"  # another host, as a store is
        self.say(302, Location=there, X_Repo_Commit=commit, X_Linked_Size=len(body),
                 X_Linked_Etag=f'"{hashlib.sha256(body).hexdigest()}"')  # fmt: skip

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.asked.append(("PUT", self.path, len(body)))
        assert (digest := hashlib.sha256(body).hexdigest()) == self.path.split("/")[2]
        with self.hub.storing:  # several arrive at once
            full = self.hub.most is not None and len(self.hub.stored) >= self.hub.most
            if not full:
                self.hub.stored[digest] = body
        if full:
            self.close_connection = True  # it hangs up without a word
            return self.connection.shutdown(socket.SHUT_RDWR)
        self.json({})

    def do_POST(self):
        path, data = urlsplit(self.path).path, self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.asked.append(("POST", path, None))
        if self.headers.get("Authorization") != "Bearer hf_mine":
            return self.json(dict(error="Invalid credentials"), 401)
        said = [json.loads(line) for line in data.splitlines()]
        what = path.removeprefix("/api/").removeprefix(f"models/{REPO}/").removeprefix(f"/{REPO}.git/").split("/")
        getattr(self, f"post_{what[0].replace('-', '_')}")(said, unquote(what[-1]))

    def post_repos(self, said, _):
        if self.hub.there:
            return self.json(dict(error="exists already", url=f"https://huggingface.co/{REPO}"), 409)
        self.hub.private = said[0].get("visibility") == "private"
        self.hub.push({".gitattributes": b"*.safetensors filter=lfs\n"})
        self.json(dict(url=f"https://huggingface.co/{REPO}", id=REPO))

    def post_validate_yaml(self, said, _):
        self.json(dict(errors=[], warnings=[]))

    def post_branch(self, said, name):
        if name in self.hub.refs:
            return self.json(dict(error="Reference already exists"), 409)
        self.hub.refs[name] = self.hub.refs["main"]
        self.json({})

    def post_preupload(self, said, _):
        modes = {f["path"]: "lfs" if self.large(f["path"]) else "regular" for f in said[0]["files"]}
        self.json(dict(files=[dict(path=p, uploadMode=m, shouldIgnore=False) for p, m in modes.items()]))

    def post_info(self, said, _):  # of LFS
        at = f"http://127.0.0.1:{self.server.server_port}"
        upload = lambda oid: {} if oid in self.hub.stored else dict(actions=dict(upload=dict(href=f"{at}/lfs/{oid}")))
        self.json(dict(transfer="basic", objects=[o | upload(o["oid"]) for o in said[0]["objects"]]))

    def post_commit(self, said, branch):
        files = dict(self.hub.files[self.hub.refs[branch]])
        for one in said:
            match one["key"], one["value"]:
                case "file", v: files[v["path"]] = base64.b64decode(v["content"])  # fmt: skip
                case "lfsFile", v: files[v["path"]] = self.hub.stored[v["oid"]]  # fmt: skip
                case "deletedFile", v: del files[v["path"]]  # fmt: skip
        oid = self.hub.push(files, branch)
        self.json(dict(commitUrl=f"https://huggingface.co/{REPO}/commit/{oid}", commitOid=oid, success=True))

    def large(self, name):
        return name.endswith((".safetensors", ".jsonl"))

    def entry(self, name, body):
        made = dict(type="file", path=name, size=len(body), oid=hashlib.sha1(body).hexdigest())
        lfs = dict(oid=hashlib.sha256(body).hexdigest(), size=len(body), pointerSize=130)
        return made | (dict(lfs=lfs) if self.large(name) else {})

    def content(self, body, **headers):
        if self.hub.spoil and self.path.endswith(self.hub.spoil):
            body = body[:-1] + bytes([body[-1] ^ 1])
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        part, kept = body[begin:], dict(Content_Range=f"bytes {begin}-{len(body) - 1}/{len(body)}") if begin else {}
        if self.hub.break_after and self.command == "GET" and self.path.startswith("/cdn/"):
            some, self.hub.break_after = part[: self.hub.break_after], None
            self.send_response(200)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(some)
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.say(206 if begin else 200, part, Content_Length=len(part), **headers, **kept)


class Clock:
    "The time, to a client that waits between two tries: here it doesn't."
    def __getattr__(self, name): return getattr(time, name)

    def sleep(self, seconds): pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http, "time", Clock())
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (Answer,), dict(hub=made)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    for name, value in dict(
        DOWNLOAD_CHUNK_SIZE=4096, ENDPOINT=at, HF_HUB_CACHE=str(tmp_path / "cache"), HF_HUB_OFFLINE=False,
        HF_HUB_DISABLE_XET=True, HUGGINGFACE_CO_URL_TEMPLATE=at + "/{repo_id}/resolve/{revision}/{filename}",
    ).items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def newborn(tmp_path_factory):
    "A small model in a folder, and the bytes of its files."
    folder = tmp_path_factory.mktemp("newborn") / "model"
    tokenizer = train_tokenizer(["the dog runs and the cats run. " * 20], 262)
    model = new_gpt(GPTConfig(vocab_size=262, n_layer=1, n_head=2, n_embd=16, block_size=32), Seeds(0)).eval()
    save_base(to_stock(model), tokenizer, folder)
    return model, {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_model_comes_whole_with_its_commit(hub, newborn, capsys):
    model, files = newborn
    commit = hub.push(files | {"train.py": b"raise SystemExit", "pytorch_model.bin": b"\x80pickled"})
    base = open_base(f"hf:{REPO}", "cpu")
    assert base.name == f"hf:{REPO}@{commit}"
    ids = torch.randint(262, (2, 16), generator=torch.Generator().manual_seed(0))
    assert farthest_apart(base.model, model, ids) < 1e-4
    place, _ = from_hub(f"hf:{REPO}")
    assert not {"train.py", "pytorch_model.bin"} & {p.name for p in place.iterdir()}, "nothing that could run code"
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evonb: ")]
    assert len(said) == 1 and commit in said[0] and "kB" in said[0], "its size is told once, before it is fetched"


def test_a_tag_and_a_commit_stay_what_they_were(hub, newborn):
    _, files = newborn
    old = hub.push(files, "v1.0")
    new = hub.push(files | {"README.md": b"# another\n"})
    assert from_hub(f"hf:{REPO}@v1.0", False)[1].endswith(old) and from_hub(f"hf:{REPO}", False)[1].endswith(new)
    assert from_hub(f"hf:{REPO}@{old}", False)[0] == from_hub(f"hf:{REPO}@v1.0", False)[0]
    assert (from_hub(f"hf:{REPO}@{new}:README.md", False)[0]).read_bytes() == b"# another\n"


def test_what_is_here_is_not_fetched_again_and_is_found_offline(hub, newborn, monkeypatch):
    from huggingface_hub import constants

    hub.push(newborn[1])
    place, name = from_hub(f"hf:{REPO}", False)
    hub.asked.clear()
    assert from_hub(f"hf:{REPO}", False) == (place, name)
    assert not [p for _, p, _ in hub.asked if p.startswith("/cdn/")]
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert from_hub(f"hf:{REPO}", False) == (place, name) and not hub.asked
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        from_hub("hf:someone/else", False)


def test_a_broken_transfer_goes_on_where_it_stopped(hub, newborn):
    body = newborn[1]["model.safetensors"]
    hub.push(newborn[1])
    hub.break_after = 10_000
    try:
        place, _ = from_hub(f"hf:{REPO}", False)
    except InputError:  # the client gave up: a second call goes on
        place, _ = from_hub(f"hf:{REPO}", False)
    assert (place / "model.safetensors").read_bytes() == body
    ranges = [r for _, p, r in hub.asked if p.startswith("/cdn/") and r]
    assert ranges and int(ranges[0].removeprefix("bytes=").partition("-")[0]) > 0, "it asked for the rest"


def test_bytes_that_the_hub_does_not_vouch_for_are_refused_and_gone(hub, newborn):
    hub.push(newborn[1])
    hub.spoil = "model.safetensors"
    for _ in range(2):  # it isn't taken from the cache the second time either
        with pytest.raises(DamagedFileError, match="model.safetensors isn't what the hub says"):
            from_hub(f"hf:{REPO}", False)
    hub.spoil = None
    assert (from_hub(f"hf:{REPO}", False)[0] / "model.safetensors").read_bytes() == newborn[1]["model.safetensors"]


@pytest.mark.parametrize("name, said", [
    ("hf:someone/nobody", "There is no hf:someone/nobody, or it is private"),
    (f"hf:{REPO}@v9", "has no revision 'v9'"),
    (f"hf:{REPO}:modle.safetensors", "Did you mean model.safetensors"),
    ("hf:alone", "isn't a name on the hub"),
    (f"hf:{REPO}:../x", "isn't a name on the hub"),
    *((name, "isn't a name on the hub") for name in (
        "hf:", "hf://a/b", "hf:a/b/c", "hf:a b/c", "hf:ä/b", "hf:a/-b", "hf:a/b--c", "hf:a/b.git", "hf:a/" + "x" * 97,
        "hf:./.", "hf:a/b@", "hf:a/b@ ", "hf:a/b@/etc/passwd", "hf:a/b@x/", "hf:a/b@x//y", "hf:a/b@x@y", "hf:a/b@m\nn",
        "hf:a/b@m\0n", "hf:a/b\n", "hf:a/b:", "hf:a/b:/etc/passwd", "hf:a/b:x\0y", "hf:a/b@~1", "hf:a/b:run\n")),
])  # fmt: skip
def test_what_is_not_there_is_told(hub, newborn, name, said):
    hub.push(newborn[1])
    with pytest.raises(InputError, match=said):
        from_hub(name, False)


def test_a_revision_is_no_file_of_this_machine(hub, tmp_path, monkeypatch):
    "Which commit a branch meant is read from a file of the cache that is called by it, and from no other."
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "secret").write_text("mine")
    for name in (f"hf:{REPO}@{tmp_path / 'secret'}", f"hf:{REPO}@../../../secret"):
        with pytest.raises(InputError, match="isn't a name on the hub") as told:
            from_hub(name, False)
        assert "mine" not in str(told.value)


@pytest.mark.parametrize("name", ["../../../out.json", "/tmp/out.json", "a/../../out.json"])
def test_a_hub_that_lists_what_leads_out_is_not_followed(hub, newborn, name, tmp_path):
    hub.push(newborn[1] | {name: b"{}"})
    with pytest.raises(DamagedFileError, match="leads out of its folder"):
        from_hub(f"hf:{REPO}", False)
    assert not list(tmp_path.rglob("out.json")) and not list(tmp_path.rglob("*.safetensors"))


def test_names_with_letters_of_patterns_are_names(hub):
    files = {"a[1].json": b"{}", "a1.json": b"[]", "*.json": b"1", "ein name.json": b"2"}
    hub.push(files)
    for name, body in files.items():
        assert from_hub(f"hf:{REPO}:{name}", False)[0].read_bytes() == body


def test_gated_and_pickled_are_told(hub, newborn):
    hub.push({"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    with pytest.raises(InputError, match="pytorch_model.bin could run code"):
        from_hub(f"hf:{REPO}", False)
    hub.gated.add(REPO)
    with pytest.raises(InputError, match="is gated: .* HF_TOKEN"):
        from_hub(f"hf:{REPO}", False)


def test_experts_of_a_folder_there(hub, newborn, tmp_path):
    from evonb.populations.experts import load_experts
    from evonb.training.adapters import linear_shapes, random_adapter, write_adapter

    model, files = to_stock(newborn[0]), dict(newborn[1])
    for i, name in enumerate(("code", "math")):
        write_adapter(random_adapter(linear_shapes(model), 2, Seeds(i)), tmp_path / name)
        files |= {f"experts/{name}/{p.name}": p.read_bytes() for p in (tmp_path / name).iterdir()}
    hub.push(files)
    found = load_experts(f"hf:{REPO}:experts")
    assert sorted(found) == ["code", "math"] and list(load_experts(f"hf:{REPO}:experts::math")) == ["math"]
    own = random_adapter(linear_shapes(model), 2, Seeds(1))
    assert all(torch.equal(found["math"].A[m], own.A[m]) for m in own.modules)


def test_checkpoints_are_revisions_or_folders(hub, newborn):
    from evonb.development.submission import named_checkpoints

    model, files = newborn
    early = hub.push(files, "chck_1M")
    late = hub.push({f"models/{n}": b for n, b in files.items()})
    one = named_checkpoints([f"chck_1M=hf:{REPO}@chck_1M"])["chck_1M"]
    ids = torch.randint(262, (2, 16), generator=torch.Generator().manual_seed(0))
    for source, name in ((one, f"hf:{REPO}@{early}"), (f"hf:{REPO}:models", f"hf:{REPO}@{late}:models")):
        base = open_base(source, "cpu")
        assert base.name == name and farthest_apart(base.model, model, ids) < 1e-4
    hub.push({"model.pt": b"\x80", "config.json": files["config.json"]})
    for source, said in ((f"hf:{REPO}", "model.pt could run code"), (f"hf:{REPO}:config.json", "Give a folder")):
        with pytest.raises(InputError, match=said):
            open_base(source, "cpu")


# wirings


@pytest.fixture
def wired(hub, run):
    "A published run's last wiring there, and where it lies here."
    own = run / "evolution" / "gen-01" / "connectome.safetensors"
    hub.push({"run/evolution/gen-01/connectome.safetensors": own.read_bytes(), "model.safetensors": b"\0" * 9})
    return f"hf:{REPO}:run/evolution/gen-01/connectome.safetensors", own


def test_newborns_develop_with_a_wiring_of_the_hub(hub, wired, run, tmp_path):
    from evonb.connectomes.experiments import experiment
    from evonb.connectomes.generations import inherited_connectome
    from evonb.connectomes.planning import plan
    from evonb.connectomes.settings import ExperimentConfig
    from evonb.core import from_dict
    from evonb.store import open_run
    from evonb.training.connectome import Connectome

    (name, own), commit = wired, hub.refs["main"]
    known = {k: v for k, v in open_run(run).config.items() if k != "preset"}
    config = replace(from_dict(ExperimentConfig, known), connectome=name)
    assert plan(config).stages
    experiment(tmp_path / "grown", config, show=False, stages=())
    found = inherited_connectome(open_run(tmp_path / "grown"))
    assert found.digest() == Connectome.load(own).digest()
    assert found.info["hub"] == name.replace(f"hf:{REPO}", f"hf:{REPO}@{commit}"), "its commit is noted"
    assert not [p for _, p, _ in hub.asked if p.endswith("model.safetensors")], "only the wiring is fetched"
    with pytest.raises(InputError, match=f"hf:{REPO} names no file, .*hf:{REPO}:connectome.safetensors"):
        replace(config, connectome=f"hf:{REPO}").check()


def test_a_wiring_of_the_hub_is_measured_and_deals_the_rest(hub, wired, tmp_path, monkeypatch, capsys):
    from evonb.connectomes.attribution import given_connectome
    from evonb.connectomes.statistics import open_wiring
    from evonb.store import read_dataset

    (name, own), commit = wired, hub.refs["main"]
    assert given_connectome(name).digest() == open_wiring(str(own))[0].digest()
    monkeypatch.chdir(tmp_path)
    assert main(["wiring", name, "--nulls", "random", "--draws", "2"]) == 0
    assert "stored: connectome.wiring.zarr.zip" in capsys.readouterr().out
    assert commit in read_dataset(tmp_path / "connectome.wiring.zarr.zip").attrs["hub"]
    hub.push({"c.safetensors": (own.parents[1] / "gen-00" / own.name).read_bytes()})
    hub.spoil = "c.safetensors"
    with pytest.raises(DamagedFileError, match="isn't what the hub says"):
        open_wiring(f"hf:{REPO}:c.safetensors")
    hub.gated.add(REPO)
    with pytest.raises(InputError, match="is gated"):
        open_wiring(f"hf:{REPO}:c.safetensors")


def test_names():
    assert hub_name("runs/demo") is None and hub_name(Path("hf:a/b")) is None
    assert str(hub_name("hf:a/b@main:c/d")) == "hf:a/b@main:c/d"


# corpora

TEXTS = {f"train-{i}.jsonl": b"".join(b'{"text": "Row %d of part %d, a cat and a dog."}\n' % (k, i) for k in range(400))
         for i in range(3)}  # fmt: skip


@pytest.fixture
def shelf(hub):
    "A data set with the splits train and test, and what it means: the files of train."
    hub.shelf = "datasets"
    hub.push(TEXTS | {"README.md": b"# rows", "table.csv": b"text,n\na cat,1\n",
                      "test-0.jsonl": b'{"text": "held out"}\n'})
    return hub


def plain(tmp_path):
    "The same text from a folder."
    (tmp_path / "text").mkdir()
    for name, body in TEXTS.items():
        (tmp_path / "text" / name).write_bytes(body)
    return load_corpus(tmp_path / "text")


def test_a_corpus_of_the_hub_is_what_its_files_are(shelf, tmp_path, capsys, monkeypatch):
    from huggingface_hub import constants, scan_cache_dir

    own, commit = plain(tmp_path), shelf.refs["main"]
    corpus = load_corpus(f"hf:{REPO}")
    assert corpus.digest == own.digest and corpus.name == f"hf:{REPO}@{commit}" == corpus.info["hub"]
    assert corpus.info["taken"] == list(TEXTS) and corpus.sources[0] == f"hf:{REPO}@{commit}:train-0.jsonl"
    assert [(f["path"], f["sha256"]) for f in corpus.info["files"]] == [
        (f"hf:{REPO}@{commit}:{n}", hashlib.sha256(b).hexdigest()) for n, b in TEXTS.items()]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evonb: ")]
    assert len(said) == 1 and commit in said[0] and "kB" in said[0], "all of it is told once, before it is fetched"
    made = prepare(CorpusConfig(f"hf:{REPO}", None, 300, 256), Seeds(0))
    assert made.info["digest"] == own.digest and made.info["provenance"] == corpus.info
    assert made.info["name"] == corpus.name
    assert [r.repo_type for r in scan_cache_dir(constants.HF_HUB_CACHE).repos] == ["dataset"]
    shelf.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_corpus(f"hf:{REPO}").digest == own.digest and not shelf.asked


def test_no_file_of_a_corpus_is_fetched_that_is_not_needed(shelf, tmp_path, monkeypatch):
    from huggingface_hub import constants

    own = plain(tmp_path)
    some = load_corpus(f"hf:{REPO}", 20_000)
    assert some.documents == own.documents[: len(some.documents) - 1] + some.documents[-1:]
    assert 19_000 < some.n_bytes <= 20_000 and some.info["taken"] == list(TEXTS)[:2]
    made = prepare(CorpusConfig(f"hf:{REPO}", 20_000, 300, 256), Seeds(0))
    assert made.info["digest"] == some.digest and made.info["provenance"]["taken"] == list(TEXTS)[:2]
    assert {p.rpartition("/")[2] for _, p, _ in shelf.asked if p.startswith("/cdn/")} == set(list(TEXTS)[:2])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_corpus(f"hf:{REPO}", 20_000).digest == some.digest
    with pytest.raises(InputError, match="isn't whole in the cache"):
        load_corpus(f"hf:{REPO}")


def test_a_corpus_is_a_file_a_folder_or_a_pattern(shelf):
    assert load_corpus(f"hf:{REPO}:test-0.jsonl").documents == ["held out"]
    assert load_corpus(f"hf:{REPO}:*.csv").documents == ["a cat"]
    old, new = shelf.refs["main"], shelf.push({"de/train.txt": b"ein Hund\n" * 9, "en/train.txt": b"a dog\n" * 9})
    assert load_corpus(f"hf:{REPO}:de").documents == ["ein Hund\n" * 9]
    assert load_corpus(f"hf:{REPO}@{old}:test-0.jsonl").name == f"hf:{REPO}@{old}:test-0.jsonl"
    with pytest.raises(CorpusError, match="train in 2 folders: de, en. Name one, as in"):
        load_corpus(f"hf:{REPO}")
    with pytest.raises(MissingCorpusError, match=f"hf:{REPO}@{new}:dee has no files ending in"):
        load_corpus(f"hf:{REPO}:dee")


def test_a_corpus_that_is_not_to_be_had_is_told(shelf, monkeypatch):
    for name, said in (("hf:someone/nobody", "There is no hf:someone/nobody"),
                       (f"hf:{REPO}@v9", "has no revision 'v9'"),
                       ("hf:alone", "isn't a name on the hub")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            load_corpus(name)
    shelf.push({"train.parquet": b"PAR1"})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    shelf.asked.clear()
    with pytest.raises(MissingExtraError, match=r"evonb\[formats\]"):
        load_corpus(f"hf:{REPO}")
    assert not [p for _, p, _ in shelf.asked if "/resolve/" in p], "nothing was fetched that can't be read"
    shelf.gated.add(REPO)
    with pytest.raises(InputError, match="is gated: .* HF_TOKEN"):
        load_corpus(f"hf:{REPO}")


def test_a_corpus_is_fetched_whole_or_not_at_all(shelf, tmp_path):
    own, name = plain(tmp_path), f"hf:{REPO}"
    shelf.spoil = "train-1.jsonl"
    with pytest.raises(DamagedFileError, match="train-1.jsonl isn't what the hub says"):
        load_corpus(name)
    shelf.spoil, shelf.break_after = None, 9_000
    try:
        found = load_corpus(name)
    except InputError:  # the client gave up: a second call goes on
        found = load_corpus(name)
    assert found.digest == own.digest


# uploads


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run of before."
    place = tmp_path_factory.mktemp("run") / "connectome"
    with zipfile.ZipFile(Path(__file__).parent / "runs" / "connectome.zip") as z:
        z.extractall(place)
    return place


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    return publish_run(run, tmp_path_factory.mktemp("published") / "out", creators="Curie, Marie", show=False)


@pytest.fixture
def me(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")


def same_files(a, b):
    found = filecmp.dircmp(a, b, ignore=[], hide=[])
    assert not (found.left_only or found.right_only)
    assert filecmp.cmpfiles(a, b, found.common_files, shallow=False)[1:] == ([], [])
    for name in found.common_dirs:
        same_files(Path(a) / name, Path(b) / name)


def test_a_run_goes_up_and_comes_back_bit_for_bit(hub, me, run, tmp_path, capsys, monkeypatch):
    from huggingface_hub import constants

    words = ["--hub", REPO, "--out", str(tmp_path / "out"), "--creators", "Curie, Marie", "--private"]
    assert main(["publish", str(run), *words]) == 0
    said = capsys.readouterr().out
    assert f"hf:{REPO} (private)" in said and "it holds toy-english: Apache-2.0" in said and "models/" in said
    name = f"hf:{REPO}@{hub.refs['main']}"
    assert f"It is there: {name}." in said and hub.private
    assert main(["import", name, "--out", str(tmp_path / "back")]) == 0
    said = capsys.readouterr()
    assert f"It comes from {name}, taken up 20" in said.out and f"B of {name} go into" in said.err
    assert imported_from(open_run(tmp_path / "back")).startswith(f"{name}, taken up 20")
    (tmp_path / "back" / "imported.json").unlink()  # all else is equal
    same_files(tmp_path / "back", tmp_path / "out" / "run")
    for file in (tmp_path / "back").rglob("*"):
        assert file.is_dir() or file.read_bytes() == (run / file.relative_to(tmp_path / "back")).read_bytes()
        assert not file.is_symlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    import_run(name, tmp_path / "again", show=False)
    (tmp_path / "again" / "imported.json").unlink()
    same_files(tmp_path / "again", tmp_path / "out" / "run")
    assert main(["verify", name]) == 0 and "files are as they were" in capsys.readouterr().out
    for command in ("explore", "report", "show", "track"):
        assert main([command, name, *["--to", "csv"][:2 * (command == "track")]]) == 2
        assert f"evonb import {name} --out RUN" in capsys.readouterr().err


def test_an_interrupted_upload_goes_on(hub, me, published):
    hub.most = 1
    with pytest.raises(InputError, match="was interrupted .* The same command goes on"):
        upload_folder(published, REPO, show=False)
    sent = set(hub.stored)
    assert len(sent) == 1 and set(hub.files[hub.refs["main"]]) == {".gitattributes"}, "no half of a run is there"
    hub.most = None
    hub.asked.clear()
    name = upload_folder(published, REPO, show=False)
    assert not sent & {p.split("/")[2] for c, p, _ in hub.asked if c == "PUT"}, "what has arrived isn't sent again"
    own = {p.relative_to(published).as_posix(): p.read_bytes() for p in published.rglob("*") if p.is_file()}
    assert hub.files[name.partition("@")[2]] == own | {".gitattributes": b"*.safetensors filter=lfs\n"}
    hub.asked.clear()
    assert upload_folder(published, REPO, revision="v1", show=False) and "v1" in hub.refs
    assert not [c for c, *_ in hub.asked if c == "PUT"]


def test_a_changed_or_foreign_place_is_refused(hub, me, published, newborn, tmp_path, monkeypatch):
    import shutil

    hub.push(newborn[1])
    with pytest.raises(InputError, match=r"holds something else than a published run"):
        upload_folder(published, REPO, show=False)
    hub.push({"SHA256SUMS": b""})
    with pytest.raises(InputError, match="is there and public, but --private"):
        upload_folder(published, REPO, private=True, show=False)
    changed = shutil.copytree(published, tmp_path / "changed")
    (changed / "README.md").write_text("another")
    with pytest.raises(DamagedFileError, match="changed: README.md"):
        upload_folder(changed, REPO, show=False)
    monkeypatch.setenv("HF_TOKEN", "hf_theirs")
    with pytest.raises(InputError, match="doesn't let you write .* HF_TOKEN"):
        upload_folder(published, REPO, show=False)
    hub.push(newborn[1])
    with pytest.raises(InputError, match=f"hf:{REPO} isn't a published run: it has no SHA256SUMS. It holds"):
        import_run(f"hf:{REPO}", tmp_path / "back", show=False)
    with pytest.raises(InputError, match="names a part"):
        import_run(f"hf:{REPO}:run", tmp_path / "back", show=False)


def test_a_spoilt_file_comes_not_back(hub, me, published, tmp_path):
    name = upload_folder(published, REPO, show=False)
    hub.spoil = "run/summary.json"
    with pytest.raises(DamagedFileError):
        import_run(name, tmp_path / "back", show=False)
    assert not (tmp_path / "back").exists()


def test_an_import_goes_on_after_a_broken_transfer(hub, me, published, tmp_path):
    name = upload_folder(published, REPO, show=False)
    hub.break_after = 3_000
    try:
        import_run(name, tmp_path / "back", show=False)
    except InputError:  # the client gave up: a second call goes on
        assert not (tmp_path / "back").exists()
        import_run(name, tmp_path / "back", show=False)
    asked = [p for c, p, _ in hub.asked if c == "GET" and p.startswith("/cdn/")]
    assert len(asked) - len(set(asked)) <= 1, "what had arrived wasn't fetched again"
    assert verify_folder(name, show=False) and open_run(tmp_path / "back").summary()


def test_what_was_changed_on_the_hub_since_is_told_and_not_kept(hub, me, published, tmp_path):
    name = upload_folder(published, REPO, show=False)
    files = hub.files[hub.refs["main"]]
    hub.push(files | {"README.md": b"# edited on its page\n"})
    for _ in range(2):
        with pytest.raises(DamagedFileError, match="changed: README.md.* earlier commit"):
            import_run(f"hf:{REPO}", tmp_path / "back", show=False)
    import_run(name, tmp_path / "back", show=False)  # the commit that was published
    hub.push({n: b for n, b in files.items() if n != "run/summary.json"})
    with pytest.raises(InputError, match="has no 'run/summary.json', which it says that it holds"):
        import_run(f"hf:{REPO}", tmp_path / "other", show=False)
    hub.push(files | {"SHA256SUMS": files["SHA256SUMS"] + b"0" * 64 + b"  ../../out\n"})
    with pytest.raises(InputError, match="isn't a file of this folder"):
        import_run(f"hf:{REPO}", tmp_path / "other", show=False)


def test_a_file_that_was_spoilt_in_the_cache_is_fetched_again(hub, me, published, tmp_path):
    name = upload_folder(published, REPO, show=False)
    import_run(name, tmp_path / "back", show=False)
    (file,) = (tmp_path / "cache").glob("models--*/snapshots/*/run/summary.json")
    file.resolve().write_bytes(b"another")
    with pytest.raises(DamagedFileError, match="It was removed from the cache: fetch it again"):
        import_run(name, tmp_path / "other", show=False)
    assert import_run(name, tmp_path / "other", show=False).summary()


@pytest.mark.parametrize("repo, revision, said", [
    ("alone", None, "hub is 'alone'"), ("connectome-gpt", None, "must be OWNER/NAME"), ("a/b@v1", None, "OWNER/NAME"),
    ("a/b:run", None, "OWNER/NAME"), ("hf:a/b", None, "OWNER/NAME"), ("a/b", "", "revision is ''"),
    ("a/b", "/etc/passwd", "must be a branch"), ("a/b", "v1:x", "must be a branch"),
])  # fmt: skip
def test_a_place_that_is_none_is_refused_before_any_work(hub, me, run, tmp_path, repo, revision, said, capsys):
    with pytest.raises(InputError, match=said):
        upload_folder(tmp_path, repo, revision=revision, show=False)
    words = ["--hub", repo, *(["--revision", revision] if revision is not None else [])]
    assert main(["publish", str(run), *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err and hub.asked == [] and not (tmp_path / "out").exists()


def test_a_dry_run_tells_and_asks_nothing(hub, run, tmp_path, capsys):
    assert main(["publish", str(run), "--hub", REPO, "--dry-run", "--out", str(tmp_path / "out"), "--no-models"]) == 0
    said = capsys.readouterr().out
    assert "Nothing was sent" in said and "licence CC-BY-4.0" in said and "kB" in said
    assert hub.asked == [] and not (tmp_path / "out").exists()


def with_text(tmp_path, source, **more):
    from evonb.store import create_run

    with create_run(tmp_path / "of", dict(corpus=dict(source=source)) | more, kind="connectome") as made:
        return made


@pytest.mark.parametrize("source, licence, text, said", [
    ("mine.txt", "CC-BY-4.0", None, "'mine.txt', whose licence isn't known here .*--text-licence"),
    ("childes", "CC-BY-4.0", None, "CC BY-NC-SA 3.0, whose terms go on .* Give --licence CC-BY-NC-SA-3.0"),
    ("mine.txt", "CC-BY-4.0", "CC BY-ND 4.0", "which may not be handed on"),
])  # fmt: skip
def test_what_may_not_be_handed_on_is_refused(tmp_path, source, licence, text, said):
    with pytest.raises(InputError, match=said):
        check_terms(with_text(tmp_path, source), licence, text)


def test_what_may_be_handed_on_is_told(tmp_path):
    run = with_text(tmp_path, "childes")
    with pytest.warns(Remark, match="aren't commercial"):
        assert check_terms(run, "CC-BY-NC-SA-3.0") == ["childes: CC BY-NC-SA 3.0"]
    other = with_text(tmp_path / "b", "toy-english", seed=1)
    assert held(other) == {"toy-english": "Apache-2.0"} and check_terms(other, "CC-BY-4.0")
    assert check_terms(with_text(tmp_path / "c", "mine.txt"), "CC-BY-4.0", "CC0") == ["mine.txt: CC0"]


def test_terms_of_every_published_data_set_are_read():
    from evonb.datasets import published as known

    found = {k: terms_of(v["licence"]) for k, v in known().items() if "licence" in v}
    assert found["dundee"] == "closed" and found["childes"] == "same" and found["blimp"] == "named"
    assert found["lebel2023"] == "free" and found["provo"] == "unknown"
