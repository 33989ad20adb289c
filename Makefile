# Everything sets itself up: a clean clone needs Python 3.11 or later and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-slow test-long check
install: .venv/installed

# With a GPU: take torch's build for it first (pip install torch into .venv), or leave out -c constraints.txt.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/fromnoise train digits

test: install
	$(BIN)/python -m pytest -q -n auto -m "not slow and not long and not gpu"

test-slow: install
	$(BIN)/python -m pytest -q -n auto --durations=10 -m "slow and not long and not gpu"

test-long: install
	$(BIN)/python -m pytest -q --durations=10 -m "long and not gpu"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
