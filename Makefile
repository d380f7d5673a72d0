# All tasks of this project: `make help` lists them. Each target first installs what it needs (scripts/setup).
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup check test test-busy demo bus bench statistics soak fuzz fresh-machine clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing: system packages (as root or with sudo), .venv
	@scripts/setup

check: setup ## before a commit: format, lint, types, import contracts, sizes, unit tests; under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/house.py
	$(BIN)/pytest -q -n auto tests/unit

test: check ## check, then all other tests, one file on each core at a time
	$(BIN)/pytest -q -n auto --dist loadfile -rs tests --ignore tests/unit

test-busy: setup ## make test beside two busy loops, RUNS=1 times: a test that depends on speed fails here
	for run in $$(seq $(or $(RUNS),1)); do scripts/busy make --no-print-directory test || exit; done

demo: setup ## the whole product: bus, sample toolstack, xenstore, gateway, third-party clients
	$(BIN)/xcp-gateway demo

bus: setup ## run a private bus with the sample toolstack until Ctrl-C
	@eval "exec $$($(BIN)/python docker/bus/render.py --dir .state/bus | tail -n 1)"

bench: setup ## measure the gateway beside a bridge written by hand
	$(BIN)/python tests/bench/run.py

statistics: setup ## show how rollouts decide: 2000 simulated plans for each row, minutes (RUNS=2000, SEED=17)
	$(BIN)/python -m tests.simulation

soak: setup ## five minutes of load while brokers and services are killed (SOAK_SECONDS=300, SEED=, NUISANCES=)
	$(BIN)/python -m tests.soak

fuzz: setup ## one minute of damaged input for every parser (FUZZ_SECONDS=60, FUZZ_SEED=)
	$(BIN)/python -m tests.fuzz.run

fresh-machine: ## prove `make demo` and `make test` in a minimal Debian (root; SUITE=bookworm or trixie)
	scripts/fresh-machine

clean: ## remove what the other targets created
	rm -rf .venv .state .*_cache .hypothesis dist build
	find . -name __pycache__ -prune -exec rm -rf {} +
