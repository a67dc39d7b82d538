# Everything runs in .venv, which `make install` creates where it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install parity test check format mutate clean
.DEFAULT_GOAL := parity

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $@

# The main job: attend_jax against attend_torch on this machine.
parity: install
	$(BIN)/parity run

test: install
	$(BIN)/python -m pytest -n auto

# Format, lint, types, import arrows.
check: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Judge the judge.
mutate: install
	$(BIN)/parity mutate

format: install
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
