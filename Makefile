# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lower check lint types docs bench format clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: the first time takes some minutes, torch is large"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	@touch $(STAMP)

demo: $(STAMP)  ## render scenes, train a CLIP model on them in minutes, write demo/report.html
	@$(BIN)/lightning-clip fit --config recipes/demo.yaml

test: $(STAMP)  ## run the tests, as many at a time as there are cores, at most four
	@$(BIN)/python -m pytest -n auto --maxprocesses 4

lower:  ## run the tests with the oldest versions that pyproject.toml admits, in .venv-lower
	@test -x .venv-lower/bin/uv || ($(PYTHON) -m venv .venv-lower && .venv-lower/bin/python -m pip install --quiet uv)
	@.venv-lower/bin/uv pip install --quiet --python .venv-lower/bin/python --resolution lowest-direct -e ".[dev]"
	@.venv-lower/bin/python -m pytest -n auto --maxprocesses 4

check: $(STAMP) lint types test docs  ## all that must pass: lint, types, tests, docs, the README's commands

lint: $(STAMP)  ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict
	@$(BIN)/mypy

docs: $(STAMP)  ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP)  ## run the benchmarks
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

format: $(STAMP)  ## put the code into shape
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean:  ## remove what commands wrote, but not .venv
	@rm -rf demo runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
