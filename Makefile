# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# The slow tests fall into so many parts, of which `make check` runs one, another each day.
PARTS ?= 20
DAY := $(shell expr $$(date +%s) / 86400)
# A file's tests stay together, so that what they share is built once.
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test slow slow-share lower check lint types docs bench format clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: the first time takes some minutes, torch is large"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	@touch $(STAMP)

demo: $(STAMP)  ## render scenes, train a CLIP model on them in minutes, write demo/report.html
	@$(BIN)/lightning-clip fit --config recipes/demo.yaml

test: $(STAMP)  ## run the tests, as many at a time as there are cores, at most four
	@$(BIN)/python $(PYTEST)

slow: $(STAMP)  ## run the slow tests, all of them: more than an hour
	@$(BIN)/python $(PYTEST) -m slow

slow-share: $(STAMP)  ## run one of PARTS parts of the slow tests, another each day
	@$(BIN)/python $(PYTEST) -m slow --share $(DAY)/$(PARTS)

lower:  ## run the tests with the oldest versions that pyproject.toml admits, in .venv-lower
	@test -x .venv-lower/bin/uv || ($(PYTHON) -m venv .venv-lower && .venv-lower/bin/python -m pip install --quiet uv)
	@.venv-lower/bin/uv pip install --quiet --python .venv-lower/bin/python --resolution lowest-direct -e ".[dev]"
	@.venv-lower/bin/python $(PYTEST)

check: $(STAMP) lint types test slow-share docs  ## all that must pass: lint, types, tests, a part of the slow ones, docs

lint: $(STAMP)  ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict
	@$(BIN)/mypy

docs: $(STAMP)  ## build the documentation into site/ and check its links
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@$(BIN)/python docs_build/check_site.py site

bench: $(STAMP)  ## run the benchmarks
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

format: $(STAMP)  ## put the code into shape
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean:  ## remove what commands wrote, but not .venv
	@rm -rf demo runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
