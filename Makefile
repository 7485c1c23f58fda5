# Everything from a fresh clone: each target makes the venv it needs. `make` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# A venv with what runs (make demo), and one with the development tools besides.
RUN    := $(VENV)/.run
READY  := $(VENV)/.ready
comma  := ,
# Bytecode is written once, not compiled again by every process of a test.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-system test-deep lint bench engines settings explore storm fuzz soak cover mutants deb release hooks pictures clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

$(RUN): pyproject.toml
	@tests/tools/install-venv $(PYTHON) $(VENV) kube$(comma)cli$(comma)demo
	@touch $@

$(READY): pyproject.toml
	@tests/tools/install-venv $(PYTHON) $(VENV) kube$(comma)cli$(comma)dev
	@touch $(RUN) $@

demo: $(RUN) ## a virtual switch shows every step, on any Linux machine with Python 3.11 or newer
	@$(BIN)/python -m tests.lab.demo $(DEMO_ARGS)

# The tiers: tests/README.md. TEST_ARGS chooses some tests of one: make test TEST_ARGS='tests/unit/core/test_protocol.py -x'
WORKERS        ?= 4
SYSTEM_WORKERS ?= 5
# A worker that dies fails the run, and is not replaced in silence.
NO_NEW         := --max-worker-restart=0
test: $(READY) ## after each change: no engine needed, minutes
	@$(BIN)/python -m pytest -q -m fast -n $(WORKERS) --dist worksteal $(NO_NEW) $(TEST_ARGS)

test-system: $(READY) ## before a change lands: real engines and installed switches, as root
	@$(BIN)/python -m pytest -q -m system -n $(SYSTEM_WORKERS) --dist loadgroup --no-loadscope-reorder $(NO_NEW) $(TEST_ARGS)

# All of it takes hours. SAMPLE_S: begin no test after so many seconds; SAMPLE_OF: a word that chooses which.
test-deep: $(READY) ## before a release: storms, crash points, regression corpus, fuzz, mutants
	@$(BIN)/python -m pytest -m deep -n $(WORKERS) --dist load $(NO_NEW) $(if $(SAMPLE_S),--sample-s $(SAMPLE_S) --sample-of '$(SAMPLE_OF)',-v) $(TEST_ARGS)
	@$(if $(SAMPLE_S)$(TEST_ARGS),,$(MAKE) --no-print-directory mutants)

lint: $(READY) ## style, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

settings: $(READY) ## write docs/settings.md and the shipped settings file from kubesyncd/settings.py
	@$(BIN)/python -m tests.tools.settings_pages

engines: ## bring the real engines to a Debian 12 machine, as root
	@tests/system/install-engines

bench: $(READY) ## figures of docs/performance.md; BENCH_ARGS chooses
	$(BIN)/python -m tests.tools.bench $(BENCH_ARGS)

explore: $(READY) ## every interleaving of the actors of one feature and of two, as far as --states reaches
	$(BIN)/python -m tests.sim.explore $(EXPLORE_ARGS)

SEEDS ?= 1000
SEED_FROM ?= 1
storm: $(READY) ## storms over the real daemon in virtual time, by SEEDS and SEED_FROM
	$(BIN)/python -m tests.sim.storm --seeds $(SEEDS) --from $(SEED_FROM)

# By a mutator, then for FUZZ_S seconds each by a fuzzer that sees which code it reaches.
INPUTS ?= 10000000
FUZZ_S ?= 60
fuzz: $(READY) ## every reader of foreign bytes, INPUTS times
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[kube,cli,dev,fuzz]'
	$(BIN)/python -m tests.tools.fuzz --inputs $(INPUTS)
	$(BIN)/python -m tests.tools.fuzz_guided --seconds $(FUZZ_S)

HOURS ?= 1
soak: $(READY) ## HOURS of operation and faults on real engines; fails if memory grows or a feature does not settle
	$(BIN)/python -m tests.tools.soak --hours $(HOURS) $(SOAK_ARGS)

# pyproject.toml says what the core is.
cover: $(READY) ## every branch of the core by the core's own tests
	$(BIN)/coverage run -m pytest -q tests/unit/core $(patsubst %,tests/unit/%.py,test_settings adapters/test_db_schema images/test_policy images/test_store features/test_table_restorer)
	$(BIN)/coverage report

mutants: $(READY) ## change the core's code; its tests must notice each change; an hour; MUTANT_ARGS='--module protocol' for one module
	$(BIN)/python -m tests.tools.mutate $(MUTANT_ARGS)

# SUITE=trixie for Debian 13. DEB_ARCH=arm64 and CHROOT: packaging/build-deb.
SUITE ?= bookworm
deb: $(READY) ## the Debian packages, into dist/: Debian 12, or make deb SUITE=trixie for Debian 13
	SUITE=$(SUITE) PYTHON=$(BIN)/python packaging/build-deb

pictures: $(READY) ## draw the pictures of docs/ again: the states, and the figures of docs/performance.json
	@$(BIN)/kubesync diagram --svg docs/states.svg
	@$(BIN)/python -m tests.tools.bench.plot

# RELEASE_ARGS: --dry-run changes nothing, --ci checks with .ci/run. CONTRIBUTING.md has the recipe.
release: $(READY) ## checks, version, packages, commit and tag of a release: make release VERSION=0.2.0
	@$(BIN)/python packaging/release.py $(if $(VERSION),$(VERSION),$(error give the version: make release VERSION=0.2.0)) $(RELEASE_ARGS)

hooks: $(READY) ## check style, types and import rules before each commit
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pre-commit
	@$(BIN)/pre-commit install

clean: ## remove what the other targets have made in this folder
	rm -rf $(VENV) build dist *.egg-info bench.json soak.json soak.log .coverage
