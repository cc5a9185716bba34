# Two commands on a machine with Python, git and make: `make quickstart` and `make test`.
# Both make .venv on their first run; PYTHON=... chooses the interpreter that it is made with.

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help quickstart test recipes lint format

help: ## Show this list
	@awk -F ': .*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

quickstart: $(INSTALLED) ## Train teacher, lone student and student with attention transfer on a small data set
	$(BIN)/attention-transfer quickstart

# One thread per worker: processes that each take every core slow each other down.
test: $(INSTALLED) ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

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
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed and '$(PYTHON)' is not: install it, or name one with" \
			"'make PYTHON=/path/to/python3.11 ...'." >&2; exit 1; }
	@echo "Installing into $(VENV): a few minutes and, with torch's CUDA libraries, about 6 GB; only this once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
