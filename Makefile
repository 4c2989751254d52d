# Everything a person does here, each target with one line of help: `make help`.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench bench-all peers lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## Install everything into .venv, from the lock with hashes

# Two steps: what is locked, with hashes; then the project itself, without dependencies.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11 or newer is missing (set PYTHON=/path/to/python3.11)."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "The venv module of $(PYTHON) is missing (Debian: apt install python3-venv)."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about a minute the first time) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## Show the product: no key, no network, under 20 s
	@$(BIN)/python examples/demo.py

test: setup ## Run every test
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal

check: setup ## Format, lint, import rules, strict types
	@$(BIN)/ruff format --check -q src tests examples benchmarks
	@$(BIN)/ruff check -q src tests examples benchmarks
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

bench: setup peers ## Run the quick benchmarks (under ten minutes)
	@$(BIN)/python benchmarks/run.py

bench-all: setup peers ## Run every benchmark at full size (about two hours)
	@$(BIN)/python benchmarks/run.py --all

peers: $(PEERS)/.installed ## Install what the benchmarks compare with into .venv-peers

$(PEERS)/.installed: benchmarks/peers-requirements.txt
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r $<
	@touch $@

lock: ## Make requirements.lock anew from pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check uv
	@$(BIN)/uv pip compile -q --generate-hashes --universal --no-header --no-annotate \
	  --python-version 3.11 --extra tables --group dev pyproject.toml -o requirements.lock

clean: ## Remove what was made
	@rm -rf $(VENV) $(PEERS) .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
