# Everything sets itself up: a clean clone needs Python 3.11 or later and make.
PYTHON ?= python3
BIN := .venv/bin

COMPARED := denoising-diffusion-pytorch smalldiffusion k-diffusion azula torchsde trampoline torchcfm pot torchdiffeq torch-ema

.PHONY: install demo test test-slow test-both test-long test-faults test-faults-long check docs bench-gpu
install: .venv/installed

# --no-compile: Python compiles the modules that are imported, which are few of those that are installed.
# With a GPU: take torch's build for it first (pip install torch into .venv), or leave out -c constraints.txt.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	# tests compare with them; what they require besides (torchvision and others) is not needed for that
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt --no-deps $(COMPARED)
	touch $@

demo: install
	$(BIN)/fromnoise train digits

test: install
	$(BIN)/python -m pytest -q -n auto -m "not slow and not long and not gpu and not campaign"

test-slow: install
	$(BIN)/python -m pytest -q -n auto --dist loadgroup --durations=10 -m "slow and not long and not gpu"

# What test and test-slow do, in one session: tests are collected once, and no process waits for the last slow one.
test-both: install
	$(BIN)/python -m pytest -q -n auto --dist loadgroup --no-loadscope-reorder --durations=30 -m "not long and not gpu and not campaign"

test-long: install
	$(BIN)/python -m pytest -q --durations=10 -m "long and not gpu and not campaign"

# FROMNOISE_FAULT_SEED and FROMNOISE_FAULT_COUNT choose other cases and their number: docs/results/faults.md.
test-faults: install
	$(BIN)/python -m pytest -q -n 2 -m "campaign and not long" tests/faults

test-faults-long: install
	$(BIN)/python -m pytest -q --timeout=0 -m "campaign and long" tests/faults

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The site is build/site/index.html; it is read from disk and needs no network. Any warning fails.
.venv/docs-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[docs]'
	touch $@

docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Under nine minutes on a GPU; trains on CIFAR-10 where FROMNOISE_DATA has it. Without a GPU, to try the commands:
# make bench-gpu DEVICE=cpu BATCH=4 SIDES=16 SETS=1000 MINUTES=1
DEVICE ?= cuda
BATCH ?= 256
SIDES ?= 32,64,128
SETS ?= 1000,1000000
MINUTES ?= 3
BENCH := runs/bench-$(DEVICE)
bench-gpu: install
	mkdir -p $(BENCH)
	$(BIN)/python benchmarks/step.py --device $(DEVICE) --batch $(BATCH) --precisions fp32,bf16 --json $(BENCH)/step.json
	$(BIN)/python benchmarks/step.py --device $(DEVICE) --batch $(BATCH) --precisions bf16 --compile --json $(BENCH)/compiled.json
	$(BIN)/python benchmarks/scale.py --device $(DEVICE) --sides $(SIDES) --sets $(SETS) --processes 1 --json $(BENCH)/scale.json
	test ! -e "$(FROMNOISE_DATA)/cifar10" || $(BIN)/python benchmarks/training_time.py --device $(DEVICE) --data cifar10 --minutes $(MINUTES) --folder $(BENCH)/training-time --json $(BENCH)/training-time.json
