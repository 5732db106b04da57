# Every target sets up .venv by itself, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-benchmarks test-chaos check bench-gpu

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.installed  ## train on the embedded stream, about four minutes on two cores
	$(BIN)/online-swav demo

test: .venv/.installed  ## the whole test suite
	$(BIN)/python -m pytest

test-benchmarks: .venv/.installed  ## every benchmark script runs, at toy size
	$(BIN)/python -m pytest -m 'benchmark and not chaos'

test-chaos: .venv/.installed  ## every process killed, frozen or out of disk, on a real Ray
	$(BIN)/python -m pytest -m chaos

check: .venv/.installed  ## format, lint, types, import law, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench-gpu: .venv/.installed  ## IMAGES=folder [OFFICIAL=checkout]: what needs a GPU; again after a 75
	@test -n "$(IMAGES)" || { echo "usage: make bench-gpu IMAGES=FOLDER [OFFICIAL=CHECKOUT]"; exit 2; }
	$(BIN)/python benchmarks/gpu.py --images "$(IMAGES)" $(if $(OFFICIAL),--official "$(OFFICIAL)") \
		--out benchmarks/results/gpu
