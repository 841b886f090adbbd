# make install | check | test | test-long | bench | clean
# PYTHON chooses the interpreter that the virtual environment is made from.
PYTHON ?= /usr/bin/python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: install check test test-long bench clean

install: .venv/.installed

# a marker, so that nothing is installed twice; a changed pyproject.toml installs again
.venv/.installed: pyproject.toml setup.py build_backend/ts4nsnet_build.py requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable . --requirement requirements-dev.txt
	touch $@

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

# unit and fuzz tests need nothing; system and interop tests re-execute themselves in namespaces of their own;
# host tests start from the host's namespaces, as a container tool does
test: check
	$(PYTEST) tests/unit tests/fuzz
	$(PYTEST) tests/system tests/interop
	$(PYTEST) tests/host

test-long: check
	HYPOTHESIS_PROFILE=long $(PYTEST) tests/unit tests/fuzz
	HYPOTHESIS_PROFILE=long $(PYTEST) tests/system tests/interop
	HYPOTHESIS_PROFILE=long $(PYTEST) tests/host

bench: install
	$(BIN)/python -m perf

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
