# make demo | test | test-slow | ui. Each sets up .venv first, from requirements.lock; nothing but Python 3.11+ and make is needed.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export DAGSTER_HOME := $(CURDIR)/.dagster

# uv, where there is one; else one in a small environment of its own.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)

.PHONY: help setup demo test test-slow ui pictures lint docs lock clean

help:
	@echo "make demo       the whole pipeline on the examples, through Dagster (5 minutes)"
	@echo "make ui         the Dagster UI on pipeline.yaml, at http://127.0.0.1:3000"
	@echo "make test       the test suite (under 15 minutes on two cores)"
	@echo "make test-slow  the tests that take longer"
	@echo "make pictures   the pictures of README.md, of what the demo left (needs chromium)"
	@echo "make lint       style, the arrows between the rooms, types"
	@echo "make docs       the documentation as a site, in site/"
	@echo "make lock       requirements.lock from pyproject.toml"

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv

setup: $(VENV)/.ready $(DAGSTER_HOME)/dagster.yaml

$(VENV)/.ready: requirements.lock pyproject.toml $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@# The extra has no wheels: it is tried, and never a reason to fail.
	@$(UV) pip install --quiet --python $(BIN)/python --editable '.[perceptual]' 2>.perceptual.log \
		&& rm -f .perceptual.log \
		|| echo "PESQ and F0 metrics are left out, for want of a C compiler (.perceptual.log says more); all else works."
	@touch $@

$(DAGSTER_HOME)/dagster.yaml: resources/dagster.yaml
	@mkdir -p $(@D) && cp $< $@

demo: setup
	$(BIN)/snac-pipeline demo

ui: export PYTHONWARNINGS := ignore:Function `dev_command` is superseded
ui: setup
	@$(BIN)/python -c "import socket; socket.create_connection(('127.0.0.1', 3000), 1)" 2>/dev/null \
		&& { echo "something answers on port 3000 already, perhaps another \`make ui\`: end that first"; exit 1; } || true
	$(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p 3000

test: setup
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow -n auto --maxprocesses 2 --dist loadfile

pictures: setup
	PICTURES=$(CURDIR)/docs/images $(BIN)/python -m pytest -m slow tests/orchestration/test_orchestration_ui.py -k picture

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site
	@echo "the site is site/index.html; with search: $(BIN)/python -m http.server -d site"
	@echo "the site is site/index.html"

lock: $(filter .uv/bin/uv,$(UV))
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --extra dev \
		pyproject.toml --output-file requirements.lock

clean:
	rm -rf work $(DAGSTER_HOME)
