# Everything one does here: `make help`. Each target sets up what it needs first (scripts/setup, quick when all is there).
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup check test test-busy demo bus bench statistics soak fuzz fresh-machine clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing: system packages (as root or with sudo), .venv
	@scripts/setup

check: setup ## what must hold before a commit: format, lint, types, import contracts, unit tests; under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -q -n auto tests/unit

test: check ## check, then all other tests, a file of them on each core
	$(BIN)/pytest -q -n auto --dist loadfile -rs tests --ignore tests/unit

test-busy: setup ## the same beside two busy loops, RUNS=1 times: what depends on the machine's speed fails here
	for run in $$(seq $(or $(RUNS),1)); do scripts/busy make --no-print-directory test || exit; done

demo: setup ## the main job on real input: bus, sample toolstack, xenstore, gateway, clients that are not ours
	$(BIN)/xcp-gateway demo

bus: setup ## a private bus with the sample toolstack, until Ctrl-C
	@eval "exec $$($(BIN)/python docker/bus/render.py --dir .state/bus | tail -n 1)"

bench: setup ## how fast it is, beside a bridge written by hand
	$(BIN)/python tests/bench/run.py

statistics: setup ## how rollouts decide: 2000 simulated plans a row, minutes (RUNS=2000, SEED=17)
	$(BIN)/python -m tests.simulation

soak: setup ## five minutes among brokers and services that are killed (SOAK_SECONDS=300, SEED=, NUISANCES=)
	$(BIN)/python -m tests.soak

fuzz: setup ## one minute of damaged input for all that reads what strangers write (FUZZ_SECONDS=60, FUZZ_SEED=)
	$(BIN)/python -m tests.fuzz.run

fresh-machine: ## prove `make demo` and `make test` in a minimal Debian (root; SUITE=bookworm or trixie)
	scripts/fresh-machine

clean: ## remove what the other targets made
	rm -rf .venv .state .*_cache .hypothesis dist build
	find . -name __pycache__ -prune -exec rm -rf {} +
