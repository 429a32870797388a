# `make demo` trains the molecule example; `make test` runs the tests. Each sets itself up.
PYTHON ?= python3
TORCH ?= 2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint test-scatter clean

demo: $(VENV)/examples-$(TORCH)
	$(BIN)/python examples/molecules.py

test: $(VENV)/test-$(TORCH)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

lint: $(VENV)/test-$(TORCH)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The suite once more beside torch-scatter, which is built from source (needs a C++ compiler).
test-scatter: $(VENV)/scatter-$(TORCH)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

# torch first: a range in another package's requirements would take the newest build.
$(VENV)/torch-$(TORCH):
	$(PYTHON) -m venv $(VENV) || \
	    { $(PYTHON) -m pip install --user virtualenv && $(PYTHON) -m virtualenv $(VENV); }
	$(PIP) --upgrade "pip>=23"
	$(PIP) torch==$(TORCH)
	touch $@

$(VENV)/examples-$(TORCH): $(VENV)/torch-$(TORCH) pyproject.toml
	$(PIP) torch==$(TORCH) -e ".[examples]"
	touch $@

$(VENV)/test-$(TORCH): $(VENV)/torch-$(TORCH) pyproject.toml
	$(PIP) torch==$(TORCH) -e ".[examples,test]"
	touch $@

$(VENV)/scatter-$(TORCH): $(VENV)/test-$(TORCH)
	$(PIP) setuptools wheel ninja
	$(PIP) --no-build-isolation torch==$(TORCH) -e ".[examples,test,scatter]"
	touch $@

clean:
	rm -rf $(VENV)
