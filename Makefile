# Needs Python 3.11 or newer, make and a package index; everything else is installed into .venv with the pins of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
# more than two cores have: tests wait for disks, servers and processes, too
WORKERS ?= 3
RUN := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python
PINS := -c constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help venv demo test lint format bench docs spec picture gpu soak clean

help:  ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet $(PINS) pip
	$(PIP) install $(PINS) torch
	$(PIP) install $(PINS) --group dev --group docs -e '.[peft,plot,postgres,ray,s3,serve,signing,ui]'
	$(PIP) install --no-deps $(PINS) --group servers
	touch $@

venv: .venv/installed  ## create .venv

demo: .venv/installed  ## commit, trace, export and verify the adapters that ship with the project
	$(RUN) -m share_registry.cli.main demo

test: lint  ## lint, then every test but the soak and GPU ones, in WORKERS processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: .venv/installed  ## formatting, rules, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/installed  ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed  ## measure bytes, errors and times on this machine
	$(RUN) -m benchmarks

docs: .venv/installed  ## build the pages as a site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

spec: .venv/installed  ## write schemas and vectors again and check them with both readers
	$(RUN) -m spec.build
	$(RUN) -m pytest tests/spec

picture: .venv/installed  ## draw the pictures of the documentation again
	$(RUN) -m docs.pictures

gpu: .venv/installed  ## the GPU tests and benchmark, where there is a GPU
	$(RUN) -m pytest -m gpu
	$(RUN) -m benchmarks --device cuda

soak: .venv/installed  ## long random runs
	$(RUN) -m pytest -m soak --timeout 0

clean:  ## remove what the tools left, .venv included
	rm -rf .venv build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.*
