# All tasks of this project: `make help` lists them. Each target first installs what it needs (scripts/setup).
BIN := .venv/bin
export PYTHONDONTWRITEBYTECODE := # an empty value: without bytecode each process compiles all that it imports, again

.DEFAULT_GOAL := help
.PHONY: help setup check lint test test-busy programs demo bus bench bench-quick statistics soak day-one fuzz fresh-machine reference docs deb release clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing: system packages (as root or with sudo), .venv
	@scripts/setup

check: lint ## before a commit: format, lint, types, import contracts, sizes, unit tests; under a minute
	$(BIN)/pytest -q -n auto --dist loadfile --hypothesis-profile quick tests/unit

lint: setup ## format, lint, types, import contracts, sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/house.py

test: lint ## what check does, and all other tests, two files on each core at a time, the longest first
	@scripts/programs python ansible fence node
	$(BIN)/pytest -q -n auto --dist loadfile tests/unit
	$(BIN)/pytest -q -n auto --dist loadfile --no-loadscope-reorder -rs tests --ignore tests/unit

test-busy: setup ## make test beside two busy loops, RUNS=1 times: a test that depends on speed fails here
	for run in $$(seq $(or $(RUNS),1)); do scripts/busy make --no-print-directory test || exit; done

programs: setup ## whole scenarios of programs that people run: Xen Orchestra's library, Ansible, fence agents, XenAPI ...
	@scripts/programs
	$(BIN)/pytest -v -rs tests/interop/test_programs.py

demo: setup ## the whole product: bus, sample toolstack, xenstore, gateway, third-party clients
	@scripts/programs python ansible
	$(BIN)/xcp-gateway demo

bus: setup ## run a private bus with the sample toolstack until Ctrl-C
	@eval "exec $$($(BIN)/python docker/bus/render.py --dir .state/bus | tail -n 1)"

bench: setup ## measure the goals for speed beside bridges written by hand, and the rest; build/bench.json
	$(BIN)/python -m tests.bench.run

bench-quick: setup ## the goals alone, in short turns, under two minutes
	$(BIN)/python -m tests.bench.run --quick

statistics: setup ## show how rollouts decide: 2000 simulated plans for each row, minutes (RUNS=2000, SEED=17, ROW=, JOBS=)
	$(BIN)/python -m tests.simulation

soak: setup ## five minutes of load while brokers and services are killed (SOAK_SECONDS=300, SEED=, NUISANCES=)
	$(BIN)/python -m tests.soak

day-one: ## an empty mapping between clients and servers of others: 4 GiB out and in, a console of ten minutes (SIZE=, TUNNEL=)
	@scripts/setup --others
	@scripts/programs node
	DAY_ONE_SIZE=$(or $(SIZE),4GiB) DAY_ONE_TUNNEL=$(or $(TUNNEL),600s) \
		$(BIN)/pytest -rs -s -o timeout=1800 tests/interop/test_day_one.py tests/interop/test_other_servers.py

fuzz: setup ## one minute of damaged input for every parser (FUZZ_SECONDS=60, FUZZ_SEED=)
	$(BIN)/python -m tests.fuzz.run

fresh-machine: ## prove `make demo` and `make test` in a minimal Debian (root; SUITE=bookworm or trixie)
	scripts/fresh-machine

reference: setup ## write docs/reference.md from the code
	$(BIN)/python scripts/reference.py

docs: setup ## the docs site, links checked; build/site
	@scripts/docs

deb: setup ## build the Debian package for this release of Debian; dist/
	packaging/build-deb

release: setup ## wheel, sdist, Debian package, SBOM and checksums; dist/
	packaging/release

clean: ## remove what the other targets created
	rm -rf .venv .state .*_cache .hypothesis dist build
	find . -name __pycache__ -prune -exec rm -rf {} +
