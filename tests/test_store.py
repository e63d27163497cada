"""The run store: whole or not at all, checked when read, one writer, nothing of another run touched."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import reduce

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from evonb.core import (
    DamagedFileError,
    InputError,
    MachineError,
    NoSpaceError,
    RunBusyError,
    RunExistsError,
    StoreError,
)
from evonb.store import (
    _sweep,
    check_folder,
    create_run,
    differences,
    files_below,
    folder_size,
    known_stat,
    open_run,
    own_mark,
    place_and_part,
    process_began,
    read_dataset,
    read_json,
    read_tensors,
    reopen_run,
    replacing,
    write_dataset,
    write_json,
    write_netcdf,
    write_tensors,
    writing_folder,
)

NOBODY = 4_194_305  # above every process number that Linux gives
DATASET = xr.Dataset({"loss": (("arm", "step"), np.arange(6.0).reshape(2, 3))}, {"arm": ["a", "b"]})


def write_each(folder, scale=1):
    "One file of each kind, in two versions."
    write_json(folder / "x.json", dict(seed=scale, names=["a", "b"]))
    write_tensors(folder / "x.safetensors", {"w": torch.arange(40.0) * scale}, dict(step=scale))
    write_dataset(folder / "x.zarr.zip", DATASET * scale)


READERS = {"x.json": read_json, "x.safetensors": read_tensors, "x.zarr.zip": read_dataset}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_flipped_bit_or_cut_is_named(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("damage")
    write_each(folder)
    whole = (folder / name).read_bytes()
    if data.draw(st.booleans()):
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
        broken = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
    (folder / name).write_bytes(broken)
    try:
        value = READERS[name](folder / name)
    except DamagedFileError as e:
        assert name in str(e)
    else:  # the layout of JSON (white space, the case of an escape) may change unseen; what it says may not
        if name == "x.json":
            assert value == dict(seed=1, names=["a", "b"])
        else:
            assert name == "x.safetensors" and value[1] == dict(step=1)
            assert torch.equal(value[0]["w"], torch.arange(40.0))


def test_a_folder_is_checked_file_by_file(tmp_path):
    with writing_folder(tmp_path / "model") as t:
        (t / "config.json").write_text("{}")
        (t / "weights.bin").write_bytes(b"\0" * 100)
    check_folder(tmp_path / "model")
    (tmp_path / "model" / "weights.bin").write_bytes(b"\0" * 99)
    with pytest.raises(DamagedFileError, match="weights.bin"):
        check_folder(tmp_path / "model")
    (tmp_path / "model" / "weights.bin").unlink()
    with pytest.raises(DamagedFileError, match="weights.bin.*missing"):
        check_folder(tmp_path / "model")


KILLED = """
import sys, torch
from pathlib import Path
from evonb.store import write_json, write_tensors
folder = Path(sys.argv[1])
for i in range(10**9):
    write_tensors(folder/"w.safetensors", {"w": torch.full((20000,), float(i))}, dict(step=i))
    write_json(folder/"x.json", dict(step=i, text="x" * 20000))
    if i == 0: print("ready", flush=True)
"""


@pytest.mark.parametrize("delay", [0.011, 0.057, 0.123, 0.2])
def test_a_killed_writer_leaves_whole_files(tmp_path, delay):
    p = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n"
    time.sleep(delay)
    p.send_signal(signal.SIGKILL)
    p.wait()
    tensors, meta = read_tensors(tmp_path / "w.safetensors")
    assert (tensors["w"] == meta["step"]).all() and abs(read_json(tmp_path / "x.json")["step"] - meta["step"]) <= 1


def test_no_room_leaves_what_was_there(tmp_path):
    "The kernel refuses to let a file grow beyond a limit, as a full disk does."
    write_each(tmp_path)
    code = """
    import resource, sys
    from pathlib import Path
    import torch
    from evonb.core import NoSpaceError
    from evonb.store import write_json, write_tensors
    folder = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    for write in (lambda: write_json(folder/"x.json", dict(text="x" * 9000)),
                  lambda: write_tensors(folder/"x.safetensors", {"w": torch.zeros(9000)}),
                  lambda: write_tensors(folder/"new.safetensors", {"w": torch.zeros(9000)})):
        try: write()
        except NoSpaceError as e: print(e)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    lines = out.stdout.splitlines()
    assert len(lines) == 3 and all("No room to write" in x and "untouched" in x for x in lines)
    assert read_json(tmp_path / "x.json")["seed"] == 1 and read_tensors(tmp_path / "x.safetensors")[1] == dict(step=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.safetensors", "x.zarr.zip"]


def test_a_full_disk_is_an_error_of_ours(tmp_path):
    "A real file system without room, where the machine allows mounting one."
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "evonb-test", str(tmp_path)], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a small file system isn't allowed here; the file-size limit above covers the same code")
    try:
        write_json(tmp_path / "x.json", dict(step=1))
        with pytest.raises(NoSpaceError, match="No room to write"):
            write_tensors(tmp_path / "w.safetensors", {"w": torch.zeros(100_000)})
        assert read_json(tmp_path / "x.json") == dict(step=1) and [p.name for p in tmp_path.iterdir()] == ["x.json"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_run_ends_as_what_happened(tmp_path):
    config = dict(seed=0, nested=dict(lr=1e-3))
    with create_run(tmp_path / "run", config):
        assert open_run(tmp_path / "run").state()["status"] == "running"
    assert open_run(tmp_path / "run").state()["status"] == "complete"
    with pytest.raises(ZeroDivisionError), reopen_run(tmp_path / "run"):
        1 / 0  # noqa: B018
    state = open_run(tmp_path / "run").state()
    assert state["status"] == "failed" and "ZeroDivisionError" in state["message"]
    with pytest.raises(KeyboardInterrupt), reopen_run(tmp_path / "run"):
        raise KeyboardInterrupt
    assert open_run(tmp_path / "run").state()["status"] == "stopped"
    events = [e["event"] for e in open_run(tmp_path / "run").events()]
    assert events == ["start", "complete", "start", "failed", "start", "stopped"]


def test_another_run_or_other_files_are_never_touched(tmp_path):
    with create_run(tmp_path / "run", dict(seed=0, nested=dict(lr=1e-3))) as run:
        write_json(run.file("result.json"), dict(x=1))
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(RunExistsError, match=r"nested.lr: 0.001 there, 0.002 asked"):
        with create_run(tmp_path / "run", dict(seed=0, nested=dict(lr=2e-3)), resume=True):
            pass
    with pytest.raises(RunExistsError, match="Resume it"):
        with create_run(tmp_path / "run", dict(seed=0, nested=dict(lr=1e-3))):
            pass
    with pytest.raises(RunExistsError, match="kind"):
        with create_run(tmp_path / "run", dict(seed=0, nested=dict(lr=1e-3)), kind="population", resume=True):
            pass
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    (tmp_path / "mine" / ".draft.tmp").mkdir(parents=True)
    (tmp_path / "mine" / ".draft.tmp" / "a").write_text("mine too")
    (tmp_path / "mine" / ".x.7.tmp").write_text("looks like ours")
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunExistsError, match="thesis.tex"):
        with create_run(tmp_path / "mine", {}):
            pass
    with pytest.raises(RunExistsError, match="is a file"):
        with create_run(tmp_path / "mine" / "thesis.tex", {}):
            pass
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {".draft.tmp", ".x.7.tmp", "thesis.tex"}


def test_a_start_that_failed_before_anything_was_made_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), create_run(tmp_path / "run", dict(seed=0)):
        1 / 0  # noqa: B018
    with create_run(tmp_path / "run", dict(seed=1)) as run:
        assert run.config == dict(seed=1)


def test_a_log_line_that_a_kill_cut_off_loses_only_itself(tmp_path):
    with create_run(tmp_path / "run", {}) as run:
        with open(run.path / "log.jsonl", "a") as f:
            f.write('{"event": "cut o')
        run.log("next")
        assert [e["event"] for e in run.events()] == ["start", "next"]
    (tmp_path / "run" / "state.json").write_text('{"status"')
    assert open_run(tmp_path / "run").state()["status"] == "interrupted"


HOLDER = """
import sys, time
from evonb.store import create_run
with create_run(sys.argv[1], dict(seed=0)):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_cannot_write_one_run_and_a_killed_one_is_seen(tmp_path):
    p = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE)
    try:
        assert p.stdout.readline() == b"held\n"
        with pytest.raises(RunBusyError, match=f"pid {p.pid}"):
            with create_run(tmp_path / "run", dict(seed=0), resume=True):
                pass
        assert open_run(tmp_path / "run").state()["status"] == "running"
    finally:
        p.kill()
        p.wait()
    assert open_run(tmp_path / "run").state()["status"] == "interrupted"
    with create_run(tmp_path / "run", dict(seed=0), resume=True) as run:
        assert run.events()[-1]["after"] == "interrupted"


def test_leftovers_of_killed_writers_are_swept(tmp_path):
    with create_run(tmp_path / "run", {}) as run:
        with writing_folder(run.file("model")) as t:
            (t / "a").write_text("a")
    (tmp_path / "run" / f".x.json.{NOBODY}.tmp").write_text("{")
    (tmp_path / "run" / f".y.json.{NOBODY}@{own_mark().partition('@')[2]}.tmp").write_text("{")
    (tmp_path / "run" / f"..zarr.z.{NOBODY}.0.tmp").mkdir()  # as runs of before have it
    os.replace(tmp_path / "run" / "model", tmp_path / "run" / ".model.old.tmp")  # killed between the two renames
    with reopen_run(tmp_path / "run") as run:
        check_folder(run.file("model"))
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_what_a_living_process_writes_and_what_belongs_to_another_run_is_not_swept(tmp_path):
    "Reports and explorers write without the run's lock; and a run may lie inside of another."
    with create_run(tmp_path / "run", {}):
        pass
    with create_run(tmp_path / "run" / "alignment" / "inner", {}):
        pass
    host, p = own_mark().partition("@")[2], subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        alive = [f"run/.report.html.{own_mark()}.tmp", f"run/.page.html.{p.pid}@{host}.tmp", f"run/.old.{p.pid}.tmp",
                 f"run/.far.{NOBODY}@another-machine.tmp", f"run/alignment/inner/.x.json.{NOBODY}.tmp"]  # fmt: skip
        for name in alive:
            (tmp_path / name).write_text("half")
        late = tmp_path / "run" / f".late.{NOBODY}@another-machine.tmp"
        reused = tmp_path / "run" / f".reused.{p.pid}.tmp"  # by a process that had the number before
        for q in (late, reused):
            q.write_text("left")
            os.utime(q, (1e9, 1e9))
        with reopen_run(tmp_path / "run"):
            pass
        assert all((tmp_path / name).exists() for name in alive) and not late.exists()
        assert not reused.exists() or process_began(p.pid) == 0  # where the system doesn't tell when one began
    finally:
        p.kill()
        p.wait()
    with reopen_run(tmp_path / "run" / "alignment" / "inner"):
        pass
    assert not (tmp_path / alive[-1]).exists()
    with reopen_run(tmp_path / "run"):
        pass
    assert not (tmp_path / alive[1]).exists()


def test_a_dataset_that_is_being_written_survives_another_writers_sweep(tmp_path):
    with create_run(tmp_path / "run", {}) as run:
        with replacing(run.file("x.zarr.zip")) as t:
            beside = t.with_name(f".zarr{t.name}")
            t.write_text("half")
            beside.mkdir()
            _sweep(run.path)
            assert t.exists() and beside.exists()
            beside.rmdir()


def finished(path, config):
    with create_run(path, config) as run:
        write_json(run.file("result.json"), dict(x=1))
    return run


def test_a_path_in_the_settings_is_known_by_its_content(tmp_path, monkeypatch):
    "Spelled otherwise, moved, copied, behind a link: the same. Other content: not, whatever it is called."
    monkeypatch.chdir(tmp_path)
    for name in ("a/text.txt", "a/more/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    run = finished("inner", dict(seed=0))
    settings = dict(corpus=dict(source="a/text.txt"), runs=["inner", "inner::connectome/0"], folder="a",
                    task="exact:a/more/b.txt", files="a/*.txt", name="toy", texts=dict(one="a/text.txt"))  # fmt: skip
    finished("run", settings)
    (tmp_path / "elsewhere").mkdir()

    def again(change, name="run"):
        told = json.dumps(settings)
        with create_run(name, json.loads(change(told)), resume=True) as r:
            return r.config

    spelled = [lambda s: s, lambda s: s.replace('"a/', '"./a/').replace(":a/", ":a//").replace('"a"', '"./a/"')]
    spelled += [lambda s: s.replace('"a', f'"{tmp_path}/a').replace('"inner', f'"{tmp_path}/a/../inner')]
    for change in spelled:
        assert again(change) == settings  # noted as they were
    shutil.copytree("a", "elsewhere/b")
    shutil.copytree("inner", "elsewhere/inner")
    there = {'"a': '"elsewhere/b', ":a/": ":elsewhere/b/", '"inner': '"elsewhere/inner'}
    moved = lambda s: reduce(lambda text, pair: text.replace(*pair), there.items(), s)
    assert again(moved) == settings
    os.replace("a", "gone")
    os.replace("inner", "also gone")
    os.replace("run", "moved run")
    assert again(moved, "moved run") == settings
    (tmp_path / "elsewhere" / "b" / "text.txt").write_text("another text")
    with pytest.raises(RunExistsError, match="corpus.source: 'a/text.txt' there, 'elsewhere/b/text.txt' asked"):
        again(moved, "moved run")
    with pytest.raises(RunExistsError, match="name: 'toy' there, 'tob' asked"):
        again(lambda s: s.replace("toy", "tob"), "moved run")
    assert run.about["inputs"] == {}


def test_what_is_asked_of_a_finished_run_and_refused_leaves_it_finished(tmp_path):
    finished(tmp_path / "run", dict(seed=0))
    for error in (InputError("arms are nonsense"), RunExistsError("raised otherwise")):
        with pytest.raises(type(error)), reopen_run(tmp_path / "run"):
            raise error
        assert open_run(tmp_path / "run").state()["status"] == "complete"
        assert open_run(tmp_path / "run").events()[-1]["event"] == "refused"
    with pytest.raises(ZeroDivisionError), reopen_run(tmp_path / "run"):
        1 / 0  # noqa: B018
    assert open_run(tmp_path / "run").state()["status"] == "failed"
    with pytest.raises(InputError), reopen_run(tmp_path / "run"):
        raise InputError("of a run that isn't finished")
    assert open_run(tmp_path / "run").state()["status"] == "failed"


def test_paths_and_newer_formats_are_refused(tmp_path):
    with create_run(tmp_path / "run", {}) as run:
        with pytest.raises(InputError, match="outside"):
            run.file("..", "..", "etc")
    about = read_json(tmp_path / "run" / "run.json")
    write_json(tmp_path / "run" / "run.json", about | {"format": 99})
    with pytest.raises(StoreError, match="newer evonb"):
        open_run(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        open_run(tmp_path)


def test_json_stays_readable_for_people(tmp_path):
    write_json(tmp_path / "x.json", dict(b=1, a=[1, 2]))
    assert json.loads((tmp_path / "x.json").read_text())["b"] == 1
    assert differences(dict(a=1, b=dict(c=2)), dict(a=1, b=dict(c=3))) == ["b.c: 2 there, 3 asked"]


def test_limits_of_this_process_are_untouched():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 5000


@pytest.mark.parametrize("error, ours", [
    (MemoryError("Unable to allocate 9 GiB"), True), (RuntimeError("can't allocate memory: 40 bytes"), True),
    (RuntimeError("CUDA out of memory. Tried to allocate"), True), (RuntimeError("shapes differ"), False),
    (MachineError("out of memory elsewhere"), False)], ids=str)  # fmt: skip
def test_memory_that_runs_out_ends_a_run_with_an_error_of_ours_and_it_goes_on(tmp_path, error, ours):
    path = tmp_path / "run"
    with pytest.raises(MachineError if ours else type(error)) as told, create_run(path, dict(seed=0)) as run:
        write_json(run.file("part.json"), dict(done=1))
        raise error
    assert ("ran out of memory" in str(told.value)) == ours and (told.value is error) != ours
    assert open_run(tmp_path / "run").state()["status"] == "failed"
    with create_run(tmp_path / "run", dict(seed=0), resume=True) as run:
        assert read_json(run.file("part.json")) == dict(done=1)


@pytest.mark.parametrize("name", ["run.json", "state.json", "log.jsonl", "summary.json"])
def test_a_pipe_or_a_terabyte_where_a_file_belongs_is_never_waited_for(tmp_path, name):
    with create_run(tmp_path / "run", dict(seed=0)) as run:
        write_json(run.file("summary.json"), dict(done=1))
    path = run.path / name
    for spoil in (lambda: os.truncate(path, 1 << 40), lambda: (path.unlink(), os.mkfifo(path))):
        spoil()
        for look in (lambda: open_run(run.path).summary(), lambda: open_run(run.path).events(), lambda: open_run(
                run.path).state(), lambda: repr(open_run(run.path))):
            try:
                look()
            except (InputError, StoreError, FileNotFoundError) as e:
                assert name in str(e)
    assert name != "state.json" or open_run(run.path).state()["status"] == "interrupted"


def test_names_that_are_no_text_are_written_as_json_writes_them(tmp_path):
    "A file's name may be bytes that UTF-8 doesn't know; Python holds them as half characters."
    names, about = ["plain", "\udcff.txt"], dict(command="evonb run \udcff.txt")
    ds = xr.Dataset(dict(x=("run", [1.0, 2.0])), dict(run=names), about)
    write_netcdf(tmp_path / "a.nc", ds)
    with xr.open_dataset(tmp_path / "a.nc") as back:
        assert back.attrs["command"] == "evonb run \\udcff.txt" and back.run.values.tolist() == ["plain", "\\udcff.txt"]
    write_dataset(tmp_path / "a.zarr.zip", ds)
    assert read_dataset(tmp_path / "a.zarr.zip").run.values.tolist() == ["plain", "\\udcff.txt"]


def test_a_folder_at_work_is_measured_while_parts_of_it_go(tmp_path):
    "As zarr's folders do beside a file that is being written."
    (tmp_path / "stays.bin").write_bytes(b"12345")
    ended = threading.Event()

    def work():
        while not ended.is_set():
            for n in range(20):
                part = tmp_path / f".zarr{n}.tmp" / "deep"
                part.mkdir(parents=True)
                (part / "c").write_bytes(b"x" * 7)
            for n in range(20):
                shutil.rmtree(tmp_path / f".zarr{n}.tmp")

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for _ in range(300):
            assert folder_size(tmp_path) in {5 + 7 * n for n in range(21)}
            assert tmp_path / "stays.bin" in files_below(tmp_path)
    finally:
        ended.set()
        writer.join()
    assert folder_size(tmp_path) == 5 and known_stat(tmp_path / "gone") is None


@pytest.mark.parametrize("name, found", [
    ("run", ("run", "")), ("gone", ("gone", "")), ("run::a/0", ("run", "a/0")), ("gone::a/0", ("gone", "a/0")),
    ("gone::a::b", ("gone", "a::b")), ("run::a::b", ("run", "a::b")), ("odd::one", ("odd::one", "")),
    ("odd::one::a/0", ("odd::one", "a/0")), ("odd::two", ("odd", "two")), ("::", ("", "")), ("::a", ("", "a")),
    ("run::", ("run", "")), ("", ("", "")), ("x" * 300 + "::a", ("x" * 300, "a")), ("nul\0::a", ("nul\0", "a"))])
def test_what_stands_before_and_behind_the_mark_of_parts(name, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "odd", "odd::one"): (tmp_path / folder).mkdir()
    assert place_and_part(name) == found
