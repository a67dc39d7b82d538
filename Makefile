# Everything runs in .venv, which `make install` creates where it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install parity pairs example devices mutate-pairs test check docs format mutate release-check test-lowest clean
.DEFAULT_GOAL := parity

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $@

# The main job: attend_jax against attend_torch on this machine.
parity: install
	$(BIN)/parity run

# Users' pairs, the published layer among them; would their inputs notice a fault? One of them asks, `mutate-pairs` all.
PAIRS := --pair examples

pairs: install
	$(BIN)/parity run $(PAIRS)
	$(BIN)/parity mutate --pair examples/parity_blocks.py:mlp
	$(BIN)/parity trace --pair examples/parity_published.py --quiet

mutate-pairs: install
	$(BIN)/parity mutate $(PAIRS) --json docs/evidence/cpu/mutate-pairs.json

# The video model trained in both frameworks: results/video/curves-right.png; docs/video.md.
example: install
	$(BIN)/python -m examples.video.train

# The same training on eight devices, which the CPU is made into, against the loss of one.
devices: install
	$(BIN)/python -m examples.video.devices --mesh data=2,heads=4

test: install
	$(BIN)/python -m pytest -n auto

# Format, lint, types, import arrows.
check: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in build/site: open index.html. Warnings are errors, dead links and anchors among them.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Judge the judge.
mutate: install
	$(BIN)/parity mutate

# Wheel and sdist, in environments that are empty but for what they ask for: JAX alone, torch alone, all.
release-check: install
	release/check.sh

# The lowest versions that pyproject.toml admits of everything that a user installs. Downloads a CUDA build of torch: 6 GB.
test-lowest:
	release/lowest.sh

format: install
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
