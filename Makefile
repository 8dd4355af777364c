# Every target is one command of the house; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pytest-xdist workers, and what to test: make test TESTS=tests/unit/cli. A file stays with one
# worker, so that what its fixtures start is started once.
JOBS ?= 2
TESTS ?= tests
FAST := tests/unit tests/integration tests/contract tests/conformance
PYTEST := $(BIN)/pytest -p no:cacheprovider -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup run test chaos check static fast isolation soak bench proto fmt lint types imports lock tools clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(VENV)/.dev ## install everything: server, tests, tools

run: $(VENV)/.server ## start the server; data in .ignite (ARGS="--data-dir …" for more)
	@exec $(BIN)/ignite serve $(ARGS)

test: $(VENV)/.dev ## run all tests but chaos (JOBS=2 TESTS=tests)
	$(PYTEST) -m "not chaos" $(TESTS)

chaos: $(VENV)/.dev ## load while things change and die (CHAOS_SECS=20 CHAOS_RATE=80)
	CHAOS_SECS=$(or $(CHAOS_SECS),20) $(BIN)/pytest -p no:cacheprovider -s tests/chaos

check: static $(if $(SKIP_FAST),,fast) ## format, lint, types, layers, generated code, fast tests

static: lint types imports ## everything of check but the tests
	$(BIN)/python tools/generate_protos.py --check
	$(BIN)/python tools/generate_protos.py --lint
	$(BIN)/python tools/generate_reference.py --check

fast: $(VENV)/.dev ## unit, integration, contract and conformance tests
	$(PYTEST) $(wildcard $(FAST))

isolation: $(VENV)/.dev ## what a tenant's code can see and do, every attack on every way of starting (JOBS=2)
	ISOLATION_LONG=1 $(PYTEST) tests/isolation

soak: $(VENV)/.dev ## memory of every process under rounds of all kinds of requests (ROUNDS=100)
	LIMITS_SOAK=$(or $(ROUNDS),100) LIMITS_EXAMPLES=5000 $(BIN)/pytest -p no:cacheprovider -s \
	  tests/limits/test_soak.py tests/limits/test_router.py

bench: $(VENV)/.dev ## measure (BENCH=fqdn ARGS="--json --secs 5")
	@$(BIN)/python -m benchmarks $(BENCH) $(ARGS)

proto: $(VENV)/.dev ## generate the stubs again
	$(BIN)/python tools/generate_protos.py

reference: $(VENV)/.dev ## write docs/reference anew from the code
	$(BIN)/python tools/generate_reference.py

fmt: $(VENV)/.dev ## format
	$(BIN)/ruff format && $(BIN)/ruff check --fix --quiet

lint: $(VENV)/.dev ## formatting and ruff
	$(BIN)/ruff format --check && $(BIN)/ruff check

types: $(VENV)/.dev ## mypy --strict, of everything
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases benchmarks tools tests

imports: $(VENV)/.dev ## the layers of the house
	$(BIN)/lint-imports

lock: $(VENV)/.dev ## write requirements/*.txt anew from pyproject.toml
	tools/lock.sh $(BIN)/uv

tools: ## install grpcurl beside the rest, where Go is there
	tools/grpcurl.sh $(BIN)

clean: ## remove what make made, but no data
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache

# Stamps: nothing happens while the locked requirements are the installed ones.
$(VENV)/.server: requirements/server.txt tools/setup.sh
	@tools/setup.sh server "$(PYTHON)" $(VENV)

$(VENV)/.dev: requirements/dev.txt requirements/server.txt tools/setup.sh
	@tools/setup.sh dev "$(PYTHON)" $(VENV)
