"""Files that were made to harm: each is refused by name, soon, in little memory, and nothing of it is run."""

import ast
import base64
import builtins
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from evonb import core, store
from evonb.alignment import features, images
from evonb.alignment import volumes as brainmaps
from evonb.alignment.features import open_reading
from evonb.alignment.sources import futrell2018 as behavior
from evonb.alignment.sources import reading_tables
from evonb.core import DamagedFileError, EvonbError, InputError
from evonb.populations import experts
from evonb.tasks import tasks
from evonb.text import corpora, tokens
from evonb.training import adapters as genome
from evonb.training import base as training_base
from evonb.training import gpt
from evonb.training.connectome import Connectome
from evonb.widgets import connectome as connectome_explorer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "faults"))
import fuzz  # noqa: E402
import mutate  # noqa: E402

OTHERS = (None, True, 7, 1.5, "text", [], ["x"], {}, {"x": 1})


@pytest.fixture(autouse=True)
def little_memory():
    "No test of this file may take more than 300 MB at its peak beyond what was there."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 300e6


def refused(error, match, f, *args, **more):
    with pytest.raises(error, match=match):
        f(*args, **more)


# --- pickles --------------------------------------------------------------------------------------------------------


class Payload:
    "Pickled, it writes a file when it is unpickled."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').write('ran')",)


@pytest.mark.parametrize("how", ["torch", "legacy", "bare"])
def test_a_pickled_pt_is_refused_and_not_run(tmp_path, how):
    ran, file = tmp_path / "ran", tmp_path / "model.pt"
    if how == "bare":
        file.write_bytes(pickle.dumps(Payload(ran)))
    else:
        torch.save(dict(w=torch.ones(2), x=Payload(ran)), file, _use_new_zipfile_serialization=how == "torch")
    refused(EvonbError, "model.pt", gpt.load_published, file)
    assert not ran.exists()
    pickle.loads(pickle.dumps(Payload(ran)))  # it would have run
    assert ran.exists()


def test_a_pickled_adapter_is_refused_and_not_run(tmp_path):
    torch.save(dict(x=Payload(tmp_path / "ran")), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(InputError, "a pickle, which can run code", genome.read_adapter, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_base_with_code_or_pickled_weights_is_refused_and_not_run(tmp_path):
    "transformers' auto_map names a module of the folder; trust_remote_code stays off."
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('ran')")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps(dict(
        model_type="evil", auto_map=dict(AutoConfig="evil.C", AutoModelForCausalLM="evil.M",
                                         AutoTokenizer=["evil.T", None]))))
    torch.save(dict(x=Payload(tmp_path / "ran")), tmp_path / "pytorch_model.bin")
    refused(InputError, "has no weights", training_base.open_base, tmp_path, "cpu")
    from safetensors.torch import save_file

    save_file(dict(w=torch.ones(2)), tmp_path / "model.safetensors")
    refused(InputError, "can't be opened as a causal language model", training_base.open_base, tmp_path, "cpu")
    assert not (tmp_path / "ran").exists()


def unsafe_calls(folder):
    "Calls of pickle, eval, exec, numpy.load, yaml or pandas' pickles; torch.load with other than weights_only=True."
    banned = {"eval", "exec", "pickle.load", "pickle.loads", "np.load", "numpy.load", "pd.read_pickle", "joblib.load",
              "yaml.load", "os.system", "shelve.open", "marshal.loads", "dill.load", "cloudpickle.load"}
    last = {n.split(".")[-1] for n in (*banned, "torch.load")}
    found = []
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if getattr(node.func, "id", getattr(node.func, "attr", "")) not in last and not node.keywords:
                continue
            name = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords
                       if k.arg in ("weights_only", "allow_pickle", "trust_remote_code")}
            if options.get("allow_pickle") == "False" and name in ("np.load", "numpy.load"):
                continue
            if name in banned or name == "torch.load" and options.get("weights_only") != "True" or "True" in (
                    options.get("allow_pickle"), options.get("trust_remote_code")):
                found.append(f"{file.relative_to(folder).as_posix()}:{node.lineno} calls {name}")
    return found


def test_nothing_in_evonb_reads_pickles_or_runs_text():
    assert unsafe_calls(Path(core.__file__).parent) == []


@pytest.mark.parametrize("text", ["eval('1')", "pickle.load(f)", "torch.load(f)", "torch.load(f, weights_only=False)",
                                  "np.load(f)", "load(f, allow_pickle=True)", "AutoModel.f(trust_remote_code=True)"])
def test_an_unsafe_call_is_found_in_folders_too(tmp_path, text):
    (tmp_path / "evolution" / "methods").mkdir(parents=True)
    (tmp_path / "evolution" / "methods" / "cma.py").write_text(f"def f():\n    {text}\n")
    assert unsafe_calls(tmp_path) == [f"evolution/methods/cma.py:2 calls {text.partition('(')[0]}"]


def test_a_pt_that_claims_more_than_it_holds_or_is_compressed_is_refused(tmp_path):
    state = {"transformer.wte.weight": torch.zeros(1, 1).expand(2**40, 768),  # one number, a terabyte by its shape
             "transformer.h.0.x": torch.zeros(1)}
    torch.save(state, tmp_path / "wide.pt")
    refused(DamagedFileError, "wide.pt is damaged: its tensors claim", gpt.load_published, tmp_path / "wide.pt")
    torch.save({"transformer.wte.weight": torch.zeros(8, 768), "transformer.h.99999999.x": torch.zeros(1)},
               tmp_path / "deep.pt")
    refused(InputError, "claim 708T", gpt.load_published, tmp_path / "deep.pt")
    torch.save(dict(w=torch.zeros(10**6)), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as a:
        with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as b:
            for i in a.infolist():
                b.writestr(i.filename, a.read(i))
    refused(DamagedFileError, "packed.pt is compressed", gpt.load_published, tmp_path / "packed.pt")


# --- safetensors ----------------------------------------------------------------------------------------------------


def lying(header, data=b"\0" * 16, size=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(shape, offsets, dtype="F32"):
    return dict(dtype=dtype, shape=shape, data_offsets=offsets)


LIES = {
    "offsets beyond the file": lying(dict(w=tensor([4], [0, 16]), v=tensor([2**30], [16, 16 + 2**32]))),
    "overlapping": lying(dict(w=tensor([4], [0, 16]), v=tensor([4], [0, 16]))),
    "negative": lying(dict(w=tensor([4], [-16, 0]))),
    "negative shape": lying(dict(w=tensor([-4], [0, 16]))),
    "a shape of terabytes": lying(dict(w=tensor([2**40, 4], [0, 16]))),
    "a shape that overflows": lying(dict(w=tensor([2**63, 2**63, 2**63], [0, 16]))),
    "a header of 2^60 bytes": lying(dict(w=tensor([4], [0, 16])), size=2**60),
    "a header of 2^64 - 1 bytes": lying(dict(w=tensor([4], [0, 16])), size=2**64 - 1),
    "unknown type": lying(dict(w=tensor([4], [0, 16], "X32"))),
    "no header": b"",
    "nested deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies_is_refused(tmp_path, lie):
    for name in ("a.safetensors", "adapter_model.safetensors", "model.safetensors"):
        (tmp_path / name).write_bytes(LIES[lie])
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(DamagedFileError, "a.safetensors is damaged", store.read_tensors, tmp_path / "a.safetensors")
    refused(DamagedFileError, "adapter_model.safetensors is damaged", genome.read_adapter, tmp_path)
    refused(DamagedFileError, "model.safetensors is truncated", gpt.load_published, tmp_path)


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.fixture()
def run(tmp_path):
    return fuzz._run(tmp_path)


@pytest.mark.parametrize("field", ["format", "kind", "config", "versions", "created"])
def test_a_field_of_run_json_of_another_type_is_named(run, field):
    about = store.read_json(run / "run.json")
    for other in OTHERS:
        if type(other) is type(about[field]):
            continue
        store.write_json(run / "run.json", about | {field: other})
        refused(DamagedFileError, rf"run\.json is damaged: {field} is", store.open_run, run)
    store.write_json(run / "run.json", {k: v for k, v in about.items() if k != field})
    refused(DamagedFileError, rf"run\.json is damaged: it lacks '{field}'", store.open_run, run)


@pytest.mark.parametrize("field", ["status", "stage", "message", "updated"])
def test_a_wrong_state_only_loses_the_status(run, field):
    state = store.read_json(run / "state.json")
    for other in OTHERS:
        if not isinstance(other, str):
            store.write_json(run / "state.json", state | {field: other})
            assert store.open_run(run).state()["status"] == "interrupted"


def test_a_setting_of_another_type_is_named():
    "Every field of every configuration that a run stores, swapped by every other JSON type."
    from evonb.alignment.run import AlignConfig
    from evonb.connectomes.settings import ExperimentConfig
    from evonb.populations.breeding import BreedConfig

    n = 0
    for kind in (ExperimentConfig, BreedConfig, AlignConfig, experts.ExpertsConfig):
        values = core.to_dict(kind())
        for path in [p for p in mutate.places(values) if p and isinstance(p[-1], str)]:
            now = mutate.at(values, path)
            for other in OTHERS:
                if "experts" in path[:-1] or type(other) is type(now) or now is None:
                    continue
                if isinstance(now, float) and type(other) is int or isinstance(now, list) and other == []:
                    continue
                changed = mutate.changed(values, path, lambda _, other=other: other)
                try:
                    core.from_dict(kind, changed)
                except InputError as e:
                    assert path[-1] in str(e), (path, other, e)
                    n += 1
                else:
                    assert (path, type(other)) in ALLOWED, (kind, path, other)
    assert n > 1000


ALLOWED = {(("ridge", "inner_folds"), str), (("ridge", "inner_folds"), int)}  # int | str
ALLOWED |= {(("begin",), type(None)), (("training", "begin"), type(None))}  # of runs of before
ALLOWED |= {(("evolution", "n_evolutions"), type(None))}
ALLOWED |= {(("behavior", "spillover"), str), (("behavior", "spillover"), int)}  # int | str
ALLOWED |= {(("behavior", "outcome"), type(None))}  # of runs of before
ALLOWED |= {(("drifts",), type(None))}  # of runs of before


def test_json_nested_too_deep_or_of_endless_numbers_is_refused(tmp_path):
    for text in ("[" * 10**5, '{"a":' * 10**5, '{"text": ' + "9" * 10**5 + "}"):
        for name in ("a.json", "a.jsonl", "config.json", "adapter_config.json", "corpus.json", "run.json"):
            (tmp_path / name).write_text(text)
        refused(DamagedFileError, "a.json is damaged", store.read_json, tmp_path / "a.json")
        refused(core.CorpusError, "a.jsonl, line 1", corpora.load_corpus, str(tmp_path / "a.jsonl"))
        refused(tasks.TaskFileError, "a.jsonl, line 1", tasks.read_rows, tmp_path / "a.jsonl")
        refused(DamagedFileError, "config.json", gpt._read_json, tmp_path / "config.json")
        refused(DamagedFileError, "adapter_config.json", genome._read_config, tmp_path / "adapter_config.json")
        refused(DamagedFileError, "corpus.json", tokens.open_prepared, tmp_path)
        refused(DamagedFileError, "run.json", store.open_run, tmp_path)


def test_an_expression_in_a_pattern_that_would_take_forever_is_refused(tmp_path):
    for pattern in ("(a+)+b", "(a|a)*b", "a*a*a*a*b", "[", "(x){9999}", "(?:a?){30}a{30}"):
        config = dict(peft_type="LORA", r=2, rank_pattern={pattern: 4})
        refused(InputError, "isn't a plain regular expression", genome.config_rank_scale, config, "a" * 60)
    assert genome.config_rank_scale(dict(r=2, rank_pattern={r"h\.\d+\.q": 4}), "x.h.3.q")[0] == 4


def test_an_answer_of_endless_digits_is_no_number(tmp_path):
    "Neither a model's answer nor a file's can stop the grading."
    for text in ("9" * 5000, "1/" + "9" * 5000, "it is 1" + ",000" * 2000):
        assert tasks.parse_number(text) is None
    item = dict(prompt="q", answer="9" * 5000)
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(item)] * 3))
    refused(InputError, "holds no number", tasks.Task.from_jsonl, tmp_path / "a.jsonl", "numeric", n_validation=2)
    for label in ("²", "9" * 5000, -1, 3, None, True, "1.0"):
        row = dict(endings=["a", "b"], label=label, ctx="c")
        refused(tasks.TaskFileError, "label is", tasks.hellaswag_item, row, "connectome", "line 1")


# --- paths ----------------------------------------------------------------------------------------------------------

CLIMBING = ("../secret", "/etc/passwd", "a/../../secret", "link/secret", "x\0y", "x" * 5000)


@pytest.mark.parametrize("name", CLIMBING)
def test_paths_that_climb_out_of_a_run_are_refused(run, name):
    (run.parent / "secret").write_text("secret")
    (run / "link").symlink_to(run.parent)
    if len(name) < 100:
        refused(EvonbError, "outside|can't be read", store.open_run(run).file, name)
    with store.writing_folder(run / "model") as t:
        (t / "w").write_text("w")
    (run / "model" / "link").symlink_to(run.parent)
    store.write_json(run / "model" / "files.json", {name: core.file_sha256(run.parent / "secret")})
    why = "outside|can't be read" if len(name) < 100 else "it is missing"
    refused(EvonbError, why, store.check_folder, run / "model")


def test_paths_of_other_files_that_climb_out_are_refused(tmp_path):
    folder = fuzz._published(tmp_path, sharded=True)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for name in ("../a.safetensors", "/etc/passwd", "", ".", "\ud800", 7, None, ["a"], "a\0", "a" * 999):
        index["weight_map"]["lm_head.weight"] = name
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        refused(InputError, "must lie in the same folder", gpt.load_published, folder)
    path = fuzz.READERS["corpus.json"].make(tmp_path)
    record = json.loads(path.read_text())
    record["files"]["../s.bin"] = core.file_sha256(tmp_path / "s.bin")
    path.write_text(json.dumps(record | dict(seal=tokens._seal(record))))
    refused(DamagedFileError, r"names a file outside of its folder: '\.\./s\.bin'", tokens.open_prepared, path.parent)
    record["files"].pop("../s.bin")
    record["splits"]["../../s"] = record["splits"].pop("test")
    path.write_text(json.dumps(record | dict(seal=tokens._seal(record))))
    refused(InputError, "split is '../../s'", tokens.open_prepared, path.parent)


def test_an_adapter_opens_nothing_but_its_two_files(tmp_path):
    "Its configuration may name any base and any folder: these are only told."
    folder = fuzz._adapter(tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    names = dict(base_model_name_or_path="../../etc/passwd", revision="/etc", auto_mapping=dict(x="os.system"))
    (folder / "adapter_config.json").write_text(json.dumps(config | names))
    opened = []
    with pytest.MonkeyPatch.context() as m:
        real = open
        for module in (builtins, io):
            m.setattr(module, "open", lambda file, *a, **k: opened.append(Path(file)) or real(file, *a, **k))
        genome.read_adapter(folder)
    assert folder / "adapter_config.json" in opened
    assert set(opened) <= {folder / "adapter_config.json", folder / "adapter_model.safetensors"}


# --- data sets ------------------------------------------------------------------------------------------------------


def dataset(path, x):
    import xarray as xr

    store.write_dataset(path, xr.Dataset({"x": x}))
    with zipfile.ZipFile(path) as z:
        return {n: z.read(n) for n in z.namelist()}


def zeros(n):
    "A zstd frame of n zeros: blocks that repeat one byte (RFC 8878)."
    sizes = [2**17] * (n // 2**17) + [n % 2**17]
    heads = [size << 3 | 1 << 1 | (i == len(sizes) - 1) for i, size in enumerate(sizes)]
    blocks = [h.to_bytes(3, "little") + b"\0" for h in heads]
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", n) + b"".join(blocks)


def test_the_bomb_is_one():
    from numcodecs.zstd import Zstd

    assert bytes(Zstd().decode(zeros(10**6))) == bytes(10**6) and len(zeros(10**9)) < 40_000
    assert store._inflated(zeros(10**9)) == 10**9
    assert [store._inflated(mutate.zstd(b"a" * n)) for n in (1, 255, 256, 65791, 65792, 10**6)] == [
        1, 255, 256, 65791, 65792, 10**6]


def zarr_with(files, name="x", **fields):
    meta = json.loads(files[f"{name}/zarr.json"])
    return files | {f"{name}/zarr.json": json.dumps(meta | fields).encode()}


def test_a_data_set_that_claims_or_inflates_to_gigabytes_is_refused(tmp_path):
    path = tmp_path / "d.zarr.zip"
    files = dataset(path, ("i", np.zeros(1000)))
    grid = lambda n: dict(name="regular", configuration=dict(chunk_shape=[n]))  # noqa: E731
    chunk = next(n for n in files if n.startswith("x/c/"))
    text = dataset(path, ("i", np.array(["a", "b"], object)))
    letters = next(n for n in text if n.startswith("x/c/"))
    bombs = {
        "more than max_bytes": zarr_with(files, shape=[10**12]),
        "a chunk": zarr_with(files, chunk_grid=grid(10**12)),
        "claims 100,000,000 chunks": zarr_with(files, shape=[10**8], chunk_grid=grid(1)),
        "inflates to 1000000000 bytes": files | {chunk: zeros(10**9)},
        "inflates to 1099511627776 bytes": files | {
            chunk: b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**40) + b"\1\0\0"},
        "inflates to None bytes": files | {chunk: b"\x28\xb5\x2f\xfd\x00\x58" + b"\1\0\0" * 9},
        "says that it holds 4,294,967,295 texts": text | {letters: mutate.zstd(struct.pack("<I", 2**32 - 1))},
        "packed by 'gzip'": zarr_with(files, codecs=[dict(name="bytes", configuration=dict(endian="little")),
                                                     dict(name="gzip", configuration=dict(level=5))]),
        "outside of itself": files | {"../../evil": b"x"},
        "its checksum": None,
    }
    for why, made in bombs.items():
        path.write_bytes(mutate.archive(made or files, sealed=made is not None))
        assert path.stat().st_size < 200_000
        refused(EvonbError, why, store.read_dataset, path)
    packed = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)  # the zip's own compression, 1000 to 1
    with packed as z:
        for n, data in (files | {chunk: bytes(10**7)}).items():
            z.writestr(n, data)
        z.comment = b"0" * 64
    data = path.read_bytes()[:-64]
    path.write_bytes(data + hashlib.sha256(data).hexdigest().encode())
    refused(DamagedFileError, "it is compressed", store.read_dataset, path)
    assert not (tmp_path.parent / "evil").exists()


def test_one_long_text_among_many_is_refused(tmp_path):
    "NumPy gives each text the room of the longest: 100,000 of 100,000 letters would take 40 GB."
    texts = np.array(["a"] * 10**5, object)
    texts[7] = "b" * 10**5
    dataset(tmp_path / "d.zarr.zip", ("i", texts))
    refused(InputError, "the texts of x may take 40 GB", store.read_dataset, tmp_path / "d.zarr.zip")


def test_a_stored_reading_that_claims_a_huge_shape_is_refused(tmp_path):
    path = fuzz._reading(tmp_path)
    meta = json.loads((path / "hidden" / "zarr.json").read_text())
    (path / "hidden" / "zarr.json").write_text(json.dumps(meta | dict(shape=[2, 10**15, 4])))
    features.seal_store(path)
    refused(EvonbError, "more than max_bytes|chunks", open_reading, path)


def hdf5(path):
    import h5py

    return h5py.File(path, "w")


def test_netcdf_that_points_elsewhere_or_claims_gigabytes_is_refused(tmp_path):
    import h5py

    def links(f):
        f["data"] = h5py.ExternalLink("/etc/other.h5", "/x")

    def external(f):
        f.create_dataset("data", (10,), "u1", external=[("/etc/passwd", 0, 10)])

    def virtual(f):
        layout = h5py.VirtualLayout((10,), "f8")
        layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (10,))
        f.create_virtual_dataset("data", layout)

    def huge(f):
        f.create_dataset("data", (2**20, 2**20), "f8", chunks=(2**12, 2**12), compression="gzip")

    def chunk(f):
        f.create_dataset("data", (10,), "f8", maxshape=(None,), chunks=(2**28,), compression="gzip")

    def other(f):
        f.create_dataset("data", data=np.zeros(100), compression="lzf")

    cases = dict(links=(links, "points to another file"), external=(external, "lies in another file"),
                 virtual=(virtual, "lies in another file"), huge=(huge, "more than max_bytes"),
                 chunk=(chunk, "more than max_bytes"), other=(other, "filters other than"))
    for name, (make, why) in cases.items():
        with hdf5(tmp_path / f"{name}.nc") as f:
            make(f)
        assert (tmp_path / f"{name}.nc").stat().st_size < 100_000
        refused(InputError, why, behavior._load_assembly, tmp_path / f"{name}.nc", 1e9)


def test_netcdf_that_hangs_or_crashes_its_library_is_refused(tmp_path, monkeypatch):
    "Such a file is read elsewhere first; a process that is too slow or ends by a signal says enough."
    with hdf5(tmp_path / "a.nc") as f:
        f["x"] = np.zeros(3)
    real = subprocess.run
    said = behavior._run_apart(tmp_path / "a.nc", 1e9)
    assert said == ""  # it can be read, there as here
    for code in ("import time; time.sleep(60)", "import os; os.kill(os.getpid(), 11)"):
        monkeypatch.setattr(behavior.subprocess, "run", lambda words, code=code, **k: real(
            [sys.executable, "-c", code], **k | dict(timeout=0.5)))
        refused(DamagedFileError, "hangs or crashes", behavior.futrell2018, tmp_path / "a.nc")


# --- brains ---------------------------------------------------------------------------------------------------------


def test_a_nifti_of_absurd_dimensions_is_refused(tmp_path):
    data = fuzz._volume(tmp_path, "a.nii").read_bytes()
    absurd = data[:40] + struct.pack("<8h", 4, *[32767] * 4, 1, 1, 1) + data[56:]
    for name, content in (("b.nii", absurd), ("b.nii.gz", gzip.compress(absurd))):
        (tmp_path / name).write_bytes(content)
        for read in (brainmaps.read_volume, images.measured_mask):
            refused(EvonbError, "is damaged: its header gives the shape|more than max_bytes", read, tmp_path / name)
    negative = data[:40] + struct.pack("<8h", 3, -3, 4, 5, 1, 1, 1, 1) + data[56:]
    (tmp_path / "c.nii").write_bytes(negative)
    refused(EvonbError, "c.nii", brainmaps.read_volume, tmp_path / "c.nii")


def test_a_nifti_extension_that_inflates_is_refused(tmp_path):
    "2 GB behind the header, in 2 MB: what nibabel would read before any check."
    head = bytearray(fuzz._volume(tmp_path, "a.nii").read_bytes()[:352])
    head[348] = 1
    for data_at, size in ((2.0**31, 2**31 - 512), (1e6, 2**31 - 16), (1e6, -8), (1e6, 0)):
        head[108:112] = struct.pack("<f", data_at)
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(head) + struct.pack("<2i", size, 6) + b"\0" * 2000))
        refused(DamagedFileError, "doesn't fit before|begin at byte", brainmaps.read_volume, tmp_path / "b.nii.gz")


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij")) + "]>"


def test_gifti_with_entities_other_files_or_a_bomb_is_refused(tmp_path):
    text = fuzz.READERS["GIFTI"].make(tmp_path).read_text()
    body = text[text.index("<GIFTI"):]
    head = '<?xml version="1.0"?>'
    outside = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    bomb = base64.b64encode(zlib.compress(b"\0" * 10**8)).decode()
    data = body[body.index("<Data>") + 6: body.index("</Data>")]
    other = body.replace("GZipBase64Binary", "ExternalFileBinary")
    other = other.replace('ExternalFileName=""', 'ExternalFileName="/etc/passwd"')
    cases = [(head + LAUGHS + body.replace("score", "&j;", 1), "declares entities"),
             (head + outside + body.replace("score", "&a;", 1), "declares entities"),
             (head + body.replace(data, bomb), "inflate to more than max_bytes"), (head + other, "in another file")]
    cases.append((head + body.replace('Dimensionality="1"', f'Dimensionality="{2**60}"'), "dimensions, not 1 to 6"))
    for content, why in cases:
        (tmp_path / "b.gii").write_text(content)
        refused(InputError, why, brainmaps.open_image, tmp_path / "b.gii", 1e7)
    for name in ("a.mgz", "a.img", "a.PAR", "a.mnc"):  # formats of nibabel that evonb doesn't read
        (tmp_path / name).write_bytes(b"x")
        refused(InputError, "an image's name ends in", brainmaps.read_volume, tmp_path / name)


# --- tables, arrays, models -----------------------------------------------------------------------------------------


def test_a_table_of_a_million_columns_is_refused(tmp_path):
    from evonb.alignment.sources.tuckute2024 import tuckute2024

    for name, sep in (("a.csv", ","), ("a.tsv", "\t")):
        (tmp_path / name).write_text(sep * 10**6 + "\n1\n")
        for read in (reading_tables.reading_table, tuckute2024 if sep == "," else images.read_tsv):
            refused(InputError, "columns or more in its first line", read, tmp_path / name)
    (tmp_path / "b.csv").write_text("word," + "x" * 10**7 + "\n" + "y" * 10**7)
    refused(EvonbError, "b.csv", reading_tables.reading_table, tmp_path / "b.csv")
    (tmp_path / "x_test.csv").write_text('"' + "q" * 10**6 + '",a,b,c,d,A\n')  # beyond csv's field limit
    refused(DamagedFileError, "field larger than field limit", tasks.read_mmlu, tmp_path / "x_test.csv", "lm-eval")


def test_a_shard_and_a_connectome_that_lie_about_their_size_are_refused(tmp_path):
    header = np.zeros(256, "<i4")
    for n in (2**31 - 1, -1, 0, 5):
        header[:3] = 20240520, 1, n
        (tmp_path / "a.bin").write_bytes(header.tobytes() + b"\0\0")
        refused(corpora.ShardError, "a.bin", tokens.read_shard, tmp_path / "a.bin")
    tensors, about = store.read_tensors(fuzz._connectome(tmp_path))
    for shape in ([2**40, 2**40], [-3, -4], [0, 4], [3.0, 4], ["3", 4], [[3], 4], [3], None, "ab", [True, 12]):
        bad = about | dict(shapes=about["shapes"] | dict(a=shape))
        store.write_tensors(tmp_path / "b.safetensors", tensors, bad)
        refused(EvonbError, "b.safetensors is damaged", Connectome.load, tmp_path / "b.safetensors")
        refused(EvonbError, "b.safetensors is damaged", connectome_explorer.read_wiring, tmp_path / "b.safetensors")
    for field, value in (("shapes", []), ("wired", "a"), ("wired", []), ("n_live", "9"), ("info", None),
                         ("magnitude", "x")):
        store.write_tensors(tmp_path / "b.safetensors", tensors, about | {field: value})
        for read in (Connectome.load, connectome_explorer.read_wiring):
            refused(EvonbError, "b.safetensors", read, tmp_path / "b.safetensors")


def test_a_gguf_that_lies_is_refused(tmp_path):
    pytest.importorskip("gguf")
    text = b"general.architecture"
    for name, content in dict(
            tensors=b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), keys=b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
            text=b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60) + text, short=b"GGUF", empty=b"",
            version=b"GGUF" + struct.pack("<IQQ", 2**31, 0, 0),
            array=b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(text)) + text + struct.pack("<IIQ", 9, 4, 2**60)).items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        refused(DamagedFileError, f"{name}.gguf is damaged", training_base.load_gguf, tmp_path / f"{name}.gguf")


def test_a_configuration_of_more_weights_than_the_file_holds_makes_no_model(tmp_path):
    folder = fuzz._published(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for name, value in (("n_layer", 10**9), ("vocab_size", 2**62), ("n_embd", 2**31)):
        (folder / "config.json").write_text(json.dumps(config | {name: value}))
        refused(InputError, r"names claim|2\^31|head", gpt.load_published, folder)
    for name in ("vocab_size", "n_layer", "n_head", "n_embd"):
        for other in OTHERS:
            if type(other) is not int:
                (folder / "config.json").write_text(json.dumps(config | {name: other}))
                refused(InputError, f"{name} in ", gpt.load_published, folder)


# --- fuzzing --------------------------------------------------------------------------------------------------------


def test_every_reader_survives_changed_files(tmp_path):
    "A short run of what `make faults` does with 10,000 inputs each."
    done = subprocess.run([sys.executable, HERE / "faults" / "fuzz.py", "-n", "20", "--out", tmp_path / "fuzz.json"],
                          capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS="1"))
    assert not done.returncode, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "fuzz.json").read_text())["readers"]
    wanted = {name: n for name, n in fuzz.inputs_of(20, fuzz.READERS).items() if n}
    assert {name: f["inputs"] for name, f in found.items()} == wanted
    assert not {name: f["first"] for name, f in found.items() if f["faults"]}
    families = {str(r.family) for r in fuzz.READERS.values() if r.family}
    assert {str(fuzz.READERS[n].family) for n in found if fuzz.READERS[n].family} == families and len(families) >= 11
    assert sum(f["read"] for f in found.values()) > 250  # what is changed without harm is still read


def test_every_kind_of_file_of_every_kind_of_run_is_reached():
    "By construction: what no rule names is a kind of file, too, unless its name differs in numbers or a folder only."
    import zipfile

    import reachable

    for kind in reachable.KINDS:
        found = reachable.kinds_of_files(reachable.RUNS / f"{kind}.zip")
        packed = zipfile.ZipFile(reachable.RUNS / f"{kind}.zip").namelist()
        names = [n for n in packed if not n.endswith(("/", ".lock"))]
        told = {(n.split("/")[0], re.sub(r"\d+", "#", n.split("/")[-1])) for n in found.values()}
        for name in names:
            last = re.sub(r"\d+", "#", name.split("/")[-1])
            assert (name.split("/")[0], last) in told or last.endswith(".bin"), name
        for label in found:
            assert f"evonb show: {kind}'s {label}" in fuzz.READERS and f"evonb report: {kind}'s {label}" in fuzz.READERS
    assert "evonb align: connectome's development/…/model.safetensors" in fuzz.READERS


def test_the_same_seed_makes_the_same_input():
    data = b'{"a": [1, 2.5, "x"], "b": {"c": null}}'
    made = [mutate.make((mutate.json_file, mutate.some_bytes), data, "x", s) for s in range(50)]
    assert made == [mutate.make((mutate.json_file, mutate.some_bytes), data, "x", s) for s in range(50)]
    assert len(set(made)) > 40
