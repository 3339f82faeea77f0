# `make` prints what can be done here. Everything runs in .venv, which is built from requirements.lock
# on first use and brought up to date only when the lock or pyproject.toml has changed.

SHELL := /bin/sh
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Options for pytest: make test PYTEST="tests/unit -x"
PYTEST ?=
# The tests of one room: make test ROOM=pacing
ROOM ?=
# Test processes side by side: many tests wait more than they work. Each starts a Redis and a PostgreSQL of its own,
# when a test asks for them.
JOBS ?= 4

.DEFAULT_GOAL := help
.PHONY: help demo run test explore fuzz house lint format lock audit bench bench-list chaos clients pictures clean

help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.ready ## the whole service with a simulated upstream: 200 prompts, callbacks, Flower; free of charge
	@$(BIN)/penstock demo

run: .venv/.ready ## start the service and stay (a real upstream when a key is configured, else simulated)
	@$(BIN)/penstock up --simulate-without-key

test: $(if $(ROOM),.venv/.ready,lint) ## lint, then every test; ROOM=pacing runs the tests of one room alone
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(if $(ROOM),tests/$(ROOM)) $(PYTEST)

explore: .venv/.ready ## the property tests with examples of their own, and many more of them
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --hypothesis-profile explore -m "not api and not chaos and not cli and not dashboard and not e2e and not openai_client" $(PYTEST)

lint: .venv/.ready ## ruff, mypy, import contracts, bandit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet -ll --recursive app simulator workers migrations deploy

fuzz: .venv/.ready ## raw bytes at every entrance of the API, for ten minutes
	@FUZZ_SECONDS=$(or $(SECONDS),600) $(BIN)/python -m pytest tests/api/test_fuzz.py --timeout 3600 $(PYTEST)

house: .venv/.ready ## how large the code is: modules, lines, longest functions, files on the main path
	@$(BIN)/python .ci/house.py --path

audit: .venv/.ready ## known vulnerabilities of what requirements.lock names (asks pypi.org's advisories)
	@$(BIN)/python deploy/audit.py

format: .venv/.ready ## put the code into its agreed form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/.ready ## resolve pyproject.toml again into requirements.lock and deploy/requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev -o requirements.lock $(LOCK) $(UPGRADE)
	$(BIN)/uv pip compile pyproject.toml --extra build --extra files -c requirements.lock -o deploy/requirements.lock $(LOCK)

# One lock for Linux (x86-64, ARM) and macOS and every Python from 3.11; no index is named in it.
# make lock UPGRADE=--upgrade takes the newest versions that the ranges allow.
LOCK := --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock" --quiet
UPGRADE ?=

# make bench QUICK=1 takes small sizes; make bench-drain runs one of them, make bench-list names them.
QUICK ?=

bench: .venv/.ready ## every benchmark, and docs/performance.md from it (make bench-list names them, bench-NAME runs one)
	@$(BIN)/python -m benchmarks.run $(if $(QUICK),--quick)

bench-%: .venv/.ready
	@$(BIN)/python -m benchmarks.run $(if $(QUICK),--quick) $*

bench-list: .venv/.ready
	@$(BIN)/python -m benchmarks.run --list

# make chaos TASKS=700 FAULTS=redis,postgres-frozen does some of them.
TASKS ?= 5000
FAULTS ?= $(CHAOS_FAULTS)

chaos: .venv/.ready ## 5,000 tasks under every fault in turn, then at random (about half an hour)
	@CHAOS_TASKS=$(TASKS) CHAOS_FAULTS=$(FAULTS) $(BIN)/python -m pytest tests/chaos $(PYTEST)

# make clients ONLY=ai_sdk runs one of them.
ONLY ?=

clients: .venv/.ready ## other people's clients (Python, Node) against a simulated service; installs them into .clients
	@$(BIN)/python clients/run.py --only "$(ONLY)"

providers: .venv/.ready ## write docs/providers.md from the profiles (app/settings/profiles)
	@$(BIN)/python -m tests.settings.providers_page

pictures: .venv/.ready ## take the pictures of docs/img again (needs chromium)
	@$(BIN)/python -m tests.dashboard.pictures

clean: ## remove .venv and every cache; data folders stay
	rm -rf .venv .clients .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready: .venv/.locked pyproject.toml
	@$(BIN)/python -m pip install --quiet --editable . --no-deps --no-build-isolation
	@touch $@

.venv/.locked: requirements.lock
	@python=$$(sh .ci/python) || exit 1; \
	if ! [ -x $(BIN)/python ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "making .venv with $$python"; rm -rf .venv; \
		$$python -m venv .venv || { echo "make: $$python has no working venv (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }; \
	fi
	@echo "installing what requirements.lock names"
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	@touch $@
