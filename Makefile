# Two commands on a machine with Python, git and make: `make quickstart` and `make test`.
# Both make .venv on their first run; PYTHON=... chooses the interpreter that it is made with.

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOWEST := .venv-lowest

# Tests that share something started once go to one worker. FLAGS are more of pytest's own.
TWO_AT_A_TIME := -n $(WORKERS) --dist loadgroup
FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-lowest test-more docs recipes lint format

help: ## Show this list
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

quickstart: $(INSTALLED) ## Train teacher, lone student and student with attention transfer on a small data set
	$(BIN)/attention-transfer quickstart

# One thread per worker: processes that each take every core slow each other down.
test: $(INSTALLED) ## Run the tests, on the versions of constraints.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO_AT_A_TIME) $(FLAGS)

test-lowest: $(LOWEST)/.installed ## Run the same tests on the lowest versions that pyproject.toml declares
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest $(TWO_AT_A_TIME) $(FLAGS)

test-more: $(VENV)/.loops ## Run the tests that take longer or need more: kills, whole commands, extras
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO_AT_A_TIME) -m more $(FLAGS)

docs: $(INSTALLED) ## Build the documentation with the API reference into build/docs
	$(BIN)/python -m sphinx -q -n -W -c docs . build/docs
	@echo "Open build/docs/docs/index.html"

recipes: $(INSTALLED) ## Run the tiny form of every recipe and say which fail or take more than 10 s on two cores
	$(BIN)/python benchmarks/recipes.py

lint: $(INSTALLED) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(INSTALLED) ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamp is written last, so that a broken installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt)
	@touch $@

$(LOWEST)/.installed: pyproject.toml tests/lowest_versions.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || { \
		echo "The lowest versions are installed with Python 3.11 or 3.12, the last that NumPy 1.26 has wheels for: name" \
			"one with 'make PYTHON=/path/to/python3.12 test-lowest'." >&2; exit 1; }
	@mkdir -p $(LOWEST)
	$(PYTHON) tests/lowest_versions.py > $(LOWEST)/constraints.txt
	$(call install,$(LOWEST),$(LOWEST)/constraints.txt)
	@touch $@

# Other people's training loops, which only their examples need.
$(VENV)/.loops: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[loops]'
	@touch $@

# Into a virtual environment (1), with the versions of a file (2).
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed and '$(PYTHON)' is not: install it, or name one with" \
			"'make PYTHON=/path/to/python3.11 ...'." >&2; exit 1; }
	@echo "Installing into $(1): a few minutes and, with torch's CUDA libraries, about 6 GB; only this once."
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --disable-pip-version-check -c $(2) -e '.[dev]'
endef
