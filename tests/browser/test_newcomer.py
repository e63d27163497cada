"""A newcomer's path: `make lab` opens a page that says where to start, and the first stories end in an explorer."""

import json

import numpy as np
import pytest

from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.text.tokens import CorpusConfig
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig
from evonb.widgets.connectome import ConnectomeExplorer

from .notebook import outputs, printed
from .server import ROOT, Server
from .waiting import RUN_SECONDS, waiting

TUTORIALS = ROOT / "nbs" / "tutorials"
START, FIRST = "0_start_here.ipynb", "1_evolve_a_connectome.ipynb"


@pytest.fixture(scope="module")
def demo(lab):
    "A run such as `make demo` makes, at runs/demo of the lab's folder, but smaller."
    life = LifetimeConfig(steps=12, batch_size=8, context=32, lr=4e-3, warmup=2, eval_every=6, eval_windows=8)
    config = ExperimentConfig("demo", corpus=CorpusConfig("toy-english", n_bytes=60_000, vocab_size=320),
                              model=ModelConfig(2, 2, 32),
                              evolution=EvolutionConfig(n_generations=2, prune_fraction=.3, lifetime=life),
                              development=DevelopmentConfig(("connectome", "random"), 1, (4e-3,), lifetime=life))
    experiment(lab.root / "runs" / "demo", config, show=False)
    return lab.root / "runs" / "demo"


def cells(name: str) -> list[str]:
    "The code of a tutorial."
    found = json.loads((TUTORIALS / name).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def all_drawn(seen):
    "Every view has drawn; of layers, which the demo prunes alike, there is only a sentence."
    for view in seen.names():
        seen.ready(view, "empty" if view == "layers" else "ready")


def check_connectome(seen, demo):
    "The explorer is over this run; when a generation is chosen, the page tells that generation's live weights."
    assert demo.name in seen.root.locator(".evonb-title").inner_text()
    all_drawn(seen)
    stored, told = ConnectomeExplorer(demo), []
    for generation in (0, 1):
        all_drawn(seen.set("generation", generation))
        head, row, *_ = seen.table("differences")
        told.append(int(row[head.index("live")].replace(",", "")))
        assert told[-1] == np.count_nonzero(stored.signs(generation, row[head.index("matrix")]))
    assert told[1] < told[0]  # it was pruned meanwhile


def test_the_start_page_explores_the_demo(notebook_page, explorer, demo, assert_accessible):
    page = notebook_page(cells(START), name=f"nbs/tutorials/{START}")
    said = "\n".join(printed(cell) for cell in outputs(page))
    assert "There is a run of make demo" in said
    assert json.loads((demo / "summary.json").read_text())["statement"] in said
    check_connectome(explorer(page), demo)
    assert_accessible(page)


def test_the_first_story_ends_in_an_explorer_of_the_demo(notebook_page, explorer, demo):
    code = cells(FIRST)
    imports = [cell for cell in code if cell.lstrip().startswith(("from ", "import "))]
    page = notebook_page([*imports, code[-1]], name=f"nbs/tutorials/{FIRST}")  # what lies between trains for minutes
    assert "This is the run of make demo" in printed(outputs(page)[-1])
    check_connectome(explorer(page), demo)


@pytest.fixture
def make_lab(tmp_path, chromium):
    "`make lab` as a newcomer types it, but for settings, token and port of its own."
    if not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("no .venv: make lab would install it first")
    server = Server(tmp_path, "make lab")
    server.start(lambda port: ["make", "-C", str(ROOT), "lab", f"ARGS=--no-browser --port={port} "
                               f"--ServerApp.port_retries=0 --IdentityProvider.token={server.token}"], "/api/status")
    yield server
    server.stop()


def test_make_lab_opens_where_to_start(make_lab, watched):
    page, _ = watched(make_lab.url, allowed=("Comm not found for comm id",))
    with waiting(page, "make lab to show its first page"):
        page.goto(f"{make_lab.url}/?token={make_lab.token}", timeout=RUN_SECONDS * 1000)
        page.locator(".jp-Notebook h1").first.wait_for()
    assert page.url.split("?")[0].endswith(f"/lab/tree/nbs/tutorials/{START}")
    title = next(line for line in json.loads((TUTORIALS / START).read_text())["cells"][0]["source"])
    assert page.locator(".jp-Notebook h1").first.inner_text().rstrip("¶").strip() == title.lstrip("# ").strip()
