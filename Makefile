# Everything a developer types. `make demo` and `make test` need only Python 3.11 and make.
PYTHON ?= python3.11
ENV := .venv
BIN := $(ENV)/bin
READY := $(ENV)/.ready
DEMO_HOME ?= .demo
WORKERS ?= 2

.PHONY: help env demo test test-slow bench check fix ci-packages clean
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml requirements/constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	@# An installation of ours that was killed half-way holds packages that pip cannot read.
	@[ ! -e $(ENV)/.begun ] || rm -rf $(ENV)
	$(PYTHON) -m venv $(ENV)
	@touch $(ENV)/.begun
	$(BIN)/pip install --quiet --progress-bar off -c requirements/constraints.txt -e '.[train,synthetic,schedule,serve,collect,kubernetes,dev]'
	@rm $(ENV)/.begun
	@touch $@

env: $(READY) ## the virtual environment
demo: $(READY) ## the main job on a synthetic hospital, below $(DEMO_HOME)
	@$(BIN)/spira --home $(DEMO_HOME) demo

test: $(READY) ## the test suite
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m 'not slow'

test-slow: $(READY) ## the slower proofs, summary in benchmarks/RESULTS.md
	$(BIN)/pytest -m slow --timeout 7200 -s

bench: $(READY) ## benchmarks: ratios, side by side
	$(BIN)/python -m benchmarks

check: $(READY) ## format, lint, types, import contracts, dead code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src benchmarks
	$(BIN)/lint-imports
	@# Fields are read by templates and by pydantic; what nobody calls or imports is dead.
	@$(BIN)/vulture > $(ENV)/unused.txt; [ $$? -le 3 ] && ! grep -E "unused (function|method|class|property)|unreachable" $(ENV)/unused.txt

fix: $(READY) ## mend format and lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ci-packages: # what tests use beside Python, from Debian
	@command -v chromium >/dev/null && command -v strace >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium strace >/dev/null; }

clean: ## remove the environment and caches
	rm -rf $(ENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
