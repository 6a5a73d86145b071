# `make demo` and `make test` install what they need into .venv and are all the set-up there is.
PYTHON ?= python3
VENV := .venv
# The pins are in the environment so that what pip builds is built with them too: --constraint does not reach there, nor
# does PIP_CONSTRAINT from pip 25.3 on.
PINS := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
# Without --no-compile pip compiles every module of torch and transformers, most of which nothing imports.
PIP := $(PINS) $(VENV)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check
PYTEST := JAX_PLATFORMS=cpu $(VENV)/bin/python -m pytest

.PHONY: venv venv-test demo test test-all coverage soak lint types clean

# What a user installs: no torch.
venv: $(VENV)/.installed
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

# What the tests need as well: pytest, ruff, and torch to compare with.
venv-test: $(VENV)/.installed-test
$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) torch==$(shell sed -n 's/^torch==//p' constraints.txt)
	$(PIP) --editable .[test,torch]
	touch $@

demo: venv
	$(VENV)/bin/pic-jax demo --workdir=demo_run

test: venv-test
	$(PYTEST) -n 2 -m 'not slow'

test-all: venv-test
	$(PYTEST) -n 2

# Which lines of the package the tests run, those of the programs that they start included.
coverage: venv-test
	rm -rf build/coverage
	mkdir -p build/coverage
	COVERAGE_FILE=build/coverage/data $(PYTEST) -n 2 --cov --cov-report=json:build/coverage/report.json
	$(VENV)/bin/python benchmarks/coverage_rows.py build/coverage/report.json

# The long rest; every part writes its rows as JSON under benchmarks/results.
soak: venv-test
	$(VENV)/bin/python benchmarks/load_memory.py
	JAX_PLATFORMS=cpu $(VENV)/bin/python benchmarks/faults.py
	JAX_PLATFORMS=cpu $(VENV)/bin/python benchmarks/fuzz.py
	JAX_PLATFORMS=cpu $(VENV)/bin/python benchmarks/many_documents.py
	JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(VENV)/bin/python benchmarks/golden_spread.py
	$(VENV)/bin/python benchmarks/jax_versions.py
	JAX_PLATFORMS=cpu $(VENV)/bin/python benchmarks/long_run.py

lint: venv-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The whole package; a minute the first time, seconds with .mypy_cache.
types: venv-test
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) demo_run build *.egg-info
