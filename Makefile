# Everything from a fresh clone: each target makes the venv it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint bench engines explore storm crashpoints fuzz soak cover mutants deb clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[kube,cli,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python -m tests.lab.demo $(DEMO_ARGS)

# Whole searches only think, and everything else mostly waits: they take turns on a small machine.
SEARCHES := tests/test_explore.py tests/test_museum.py tests/test_storm.py
test: $(READY)
ifdef TEST_ARGS
	$(BIN)/python -m pytest $(TEST_ARGS)
else
	@said=$$(mktemp) && trap 'kill $$searches 2>/dev/null; rm -f $$said' EXIT && trap 'exit 130' INT TERM; \
	nice -n 19 $(BIN)/python -m pytest $(SEARCHES) >$$said 2>&1 & searches=$$!; \
	$(BIN)/python -m pytest $(SEARCHES:%=--ignore=%); waits=$$?; \
	wait $$searches; thinks=$$?; cat $$said; exit $$((waits || thinks))
endif

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

# Real engines for the real tiers: Debian's packages, and Kubernetes built once into the user's cache.
engines:
	tests/real/install-engines

# Every interleaving of the actors of one feature and of two, as far as --states reaches.
explore: $(READY)
	$(BIN)/python -m tests.world.explore $(EXPLORE_ARGS)

SEEDS ?= 1000
SEED_FROM ?= 1
storm: $(READY)
	$(BIN)/python -m tests.world.storm --seeds $(SEEDS) --from $(SEED_FROM)

# The daemon is killed after each effect of a long story; `make test` plays every ninth.
crashpoints: $(READY)
	KUBESYNCD_CRASH_POINTS=1 $(BIN)/python -m pytest tests/real/test_crash_points.py

# Every reader of foreign bytes: by a mutator, then for FUZZ_S seconds each by a fuzzer that sees which code it reaches.
INPUTS ?= 10000000
FUZZ_S ?= 60
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[kube,cli,dev,fuzz]'
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS)
	$(BIN)/python -m tests.fuzz_guided --seconds $(FUZZ_S)

# Hours of operation and faults on real engines; what grows, stays or does not settle is a failure.
HOURS ?= 1
soak: $(READY)
	$(BIN)/python -m tests.soak --hours $(HOURS) $(SOAK_ARGS)

# Every branch of the core by the core's own tests, or it fails; pyproject.toml says what the core is.
cover: $(READY)
	$(BIN)/coverage run -m pytest -q $(patsubst %,tests/test_%.py,model schema state health record decide foresee verbs labels wire)
	$(BIN)/coverage report

# Would these tests notice a wrong core? Takes an hour; MUTANT_ARGS='--module wire' for one room.
mutants: $(READY)
	$(BIN)/python -m tests.mutate $(MUTANT_ARGS)

deb: $(READY)
	PYTHON=$(BIN)/python packaging/build-deb

clean:
	rm -rf $(VENV) build dist *.egg-info bench.json soak.json soak.log .coverage
