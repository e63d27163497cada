"""Notebooks are run from top to bottom in a kernel of their own, and what they show is kept."""

import os
import platform
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from .faces import Names
from .reach import cache_key, module_graph
from .sources import BuildError, Project, is_run, notebook_paths, read_notebook, test_flags

KEPT = 3  # executions kept per notebook
MISSING = "not executed yet"
ENVIRONMENT = dict(EVONB_STATIC="1", PLOTLY_RENDERER="plotly_mimetype", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1",
                   OPENBLAS_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", IN_TEST="1",
                   PYDEVD_DISABLE_FILE_VALIDATION="1", NO_COLOR="1")


@dataclass
class Ran:
    "How it went with one notebook."
    path: Path
    seconds: float = 0.
    cached: bool = False
    failure: str = ""


@dataclass
class Cache:
    "Executed notebooks by name and key; only whole ones are kept."
    project: Project
    graph: dict = field(default_factory=dict)
    names: Names | None = None
    skipped: tuple = ()
    stale: bool = False  # take the newest execution, whatever it rests on: only for work on the site's looks

    @classmethod
    def of(cls, project: Project, stale: bool = False):
        names = Names.of(project)
        return cls(project, module_graph(project, names), names, test_flags(project), stale)

    @property
    def folder(self) -> Path: return self.project.out / "cache"

    def stem(self, path: Path) -> str:
        return path.relative_to(self.project.notebooks).with_suffix("").as_posix().replace("/", "--")

    def place(self, path: Path, nb) -> Path:
        return self.folder / f"{self.stem(path)}@{self.key(nb)}.ipynb"

    def key(self, nb) -> str: return cache_key(self.project, nb, self.graph, self.skipped, self.names)


def kept(cache: Cache, path: Path, nb):
    "The notebook as it was executed with the same code, or None."
    place = cache.place(path, nb)
    if cache.stale and (earlier := earlier_places(cache, path)):
        place = earlier[0]
    if not place.is_file():
        return None
    try:
        done = nbformat.read(place, as_version=4)
    except Exception:
        place.unlink()
        return None
    os.utime(place)
    return done


def keep(cache: Cache, path: Path, nb, done):
    "Store an execution, whole or not at all, and forget the oldest of the same notebook."
    place = cache.place(path, nb)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    nbformat.write(done, part)
    os.replace(part, place)
    for old in earlier_places(cache, path)[KEPT:]:
        old.unlink()


def earlier_places(cache: Cache, path: Path) -> list[Path]:
    "The kept executions of a notebook, the newest first."
    return sorted(cache.folder.glob(f"{cache.stem(path)}@*.ipynb"), key=lambda p: -p.stat().st_mtime)


def kernel_environment(project: Project) -> dict[str, str]:
    "The environment of a kernel: offline, one thread, nothing of the user's Jupyter or IPython."
    settings = project.out / "jupyter"
    settings.mkdir(parents=True, exist_ok=True)
    own = dict(IPYTHONDIR=settings, JUPYTER_CONFIG_DIR=settings, JUPYTER_PREFER_ENV_PATH=1)
    return {**os.environ, **ENVIRONMENT, **{k: str(v) for k, v in own.items()}}


@contextmanager
def client_of(path: Path, nb, timeout: int):
    "What runs the notebook's cells, from the notebook's own folder; its kernel is reached through sockets, not ports."
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory(prefix="evonb-") as folder:
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", connection_file=f"{folder}/k.json")
        yield NotebookClient(nb, km=manager, timeout=timeout, startup_timeout=120, store_widget_state=False,
                             resources={"metadata": {"path": str(path.parent)}}, skip_cells_with_tag="evonb-skip",
                             extra_arguments=["--HistoryManager.enabled=False"])


def processor() -> str:
    "What the processor calls itself."
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", file.read_text(), re.M) if file.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def work_of(client) -> float:
    "Seconds that the processors worked for the notebook's kernel, and for the processes that it began and saw end."
    import psutil

    return sum(psutil.Process(client.km.provisioner.pid).cpu_times()[:4])


def executed(project: Project, path: Path, nb, skipped: tuple = (), timeout: int = 900):
    "A copy of the notebook with its outputs, and what it took; a failing cell is named with its traceback."
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    done, start = nbformat.from_dict(nb), time.monotonic()
    for cell in done.cells:
        cell.metadata.tags = [] if is_run(cell.source, skipped) else ["evonb-skip"]
    took = dict(processor=processor(), cores=os.cpu_count(), load=round(os.getloadavg()[0], 1))
    try:
        with client_of(path, done, timeout) as client:
            client.on_cell_executed = lambda **_: took.update(
                seconds=round(time.monotonic() - start, 1), work=round(work_of(client), 1))
            client.execute(env=kernel_environment(project), cleanup_kc=True)
        done.metadata.evonb = took
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
        raise BuildError(failure_text(project, path, done, e)) from e
    return done


def failure_text(project: Project, path: Path, done, error: Exception) -> str:
    "The notebook, the cell and the traceback of what failed."
    name = path.relative_to(project.root)
    number, cell = failed_cell(done)
    traces = [o.traceback for o in cell.get("outputs", []) if o.output_type == "error"]
    trace = "\n".join(traces[0]) if traces else f"{type(error).__name__}: {error}"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", trace)
    return f"{name}: cell {number} ({cell.get('id')}) fails:\n\n{indented(cell.source)}\n\n{indented(plain)}"


def failed_cell(done) -> tuple[int, dict]:
    "The first cell with an error, else the last one that was begun."
    for number, cell in enumerate(done.cells):
        if any(o.output_type == "error" for o in cell.get("outputs", [])):
            return number, cell
    begun = [i for i, c in enumerate(done.cells) if "iopub.status.busy" in c.metadata.get("execution", {})]
    return (begun or [0])[-1], done.cells[(begun or [0])[-1]]


def indented(text: str) -> str:
    "Four spaces before each line."
    return "\n".join(f"    {line}" for line in text.splitlines())


def run_one(cache: Cache, path: Path, fresh: bool = False) -> Ran:
    "Execute a notebook unless it was executed with the same code before."
    start, nb = time.monotonic(), read_notebook(path)
    if not fresh and kept(cache, path, nb) is not None:
        return Ran(path, cached=True)
    if cache.stale:
        return Ran(path, failure=MISSING)
    try:
        keep(cache, path, nb, executed(cache.project, path, nb, cache.skipped))
    except BuildError as e:
        return Ran(path, time.monotonic() - start, failure=str(e))
    return Ran(path, time.monotonic() - start)


def told(ran: Ran, project: Project) -> str:
    "A line on one notebook."
    what = "FAILS" if ran.failure else "executed before" if ran.cached else "ok"
    what = "left out" if ran.failure == MISSING else what
    seconds = "" if ran.cached else f"{ran.seconds:6.1f} s"
    return f"  {ran.path.relative_to(project.notebooks).as_posix():<44} {seconds:>8}  {what}"


def execute(project: Project, only=(), workers: int = 2, fresh: bool = False, stale: bool = False) -> list[Ran]:
    "Execute the notebooks, a few at once, the last (which are the longest) first; raises with every failure."
    cache, paths = Cache.of(project, stale), notebook_paths(project, only)
    pool, results = ThreadPoolExecutor(workers), []
    jobs = [pool.submit(run_one, cache, p, fresh) for p in reversed(paths)]
    try:
        for job in as_completed(jobs):
            results.append(job.result())
            print(told(results[-1], project), flush=True)
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        os._exit(130)  # the kernels end when their parent is gone
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    failed = sorted((r for r in results if r.failure), key=lambda r: r.path)
    if failed and not stale:
        names = ", ".join(r.path.name for r in failed)
        raise BuildError("\n\n".join(r.failure for r in failed) + f"\n\n{len(failed)} of {len(paths)} fail: {names}")
    return [r for r in results if not r.failure]


def with_outputs(nb, done):
    "The notebook as it stands now, prose and all, with the outputs of its execution."
    waiting = [c for c in done.cells if c.cell_type == "code"]
    shown = nbformat.from_dict(nb)
    for cell in shown.cells:
        ran = next((c for c in waiting if cell.cell_type == "code" and c.source == cell.source), None)
        if ran is not None:
            del waiting[:waiting.index(ran) + 1]
            cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    return shown
