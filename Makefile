# histobook. `make help` lists the targets; each is one readable line on top of the console script.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PROFILE ?= phantom
DATA    ?=
CORES   ?= 2
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
DATA_OPTION := $(if $(DATA),--data "$(DATA)")

.PHONY: help install book site lab test lint bench validate gallery lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo; echo "Options: PROFILE=$(PROFILE) (a file of config/)  DATA=<raw cohort folder>  CORES=$(CORES)"

install: $(STAMP)  ## make .venv and install the locked versions into it

$(STAMP): requirements.lock pyproject.toml notebooks/labconfig/default_setting_overrides.json
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --compile-bytecode -r requirements.lock
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet -e . --no-deps
	$(BIN)/python -m ipykernel install --sys-prefix --name python3
	install -D -m 644 notebooks/labconfig/default_setting_overrides.json $(VENV)/etc/jupyter/labconfig/default_setting_overrides.json
	touch $@

book: $(STAMP)  ## run the chapters of PROFILE, its scoreboard and its site
	$(BIN)/histobook book --profile $(PROFILE) --cores $(CORES) $(DATA_OPTION)

site: $(STAMP)  ## build the site of PROFILE from the chapters it ran
	$(BIN)/histobook site --profile $(PROFILE)

lab: $(STAMP)  ## open JupyterLab; a double click opens a chapter as a notebook
	$(BIN)/jupyter lab --notebook-dir=.

test: $(STAMP)  ## all tests that this machine can run
	$(BIN)/python -m pytest -n $(CORES) --dist loadgroup

lint: $(STAMP)  ## ruff, mypy, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet src
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml

bench: $(STAMP)  ## measure speed: results/bench/bench.json
	$(BIN)/histobook bench

validate: $(STAMP)  ## planted truth against estimates over ten or more seeds (long)
	$(BIN)/histobook validate

gallery: $(STAMP)  ## copy the figures of PROFILE that README shows into docs/_static/gallery
	$(BIN)/histobook gallery --profile $(PROFILE)

lock: $(STAMP)  ## compile requirements.lock from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --quiet \
	  --custom-compile-command "make lock" --output-file requirements.lock

clean:  ## remove results and caches, keep cohorts and .venv
	rm -rf results docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .snakemake
