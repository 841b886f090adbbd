# make install | demo | check | test | test-long | test-sanitized | bench | clean
# PYTHON chooses the interpreter that the virtual environment is made from.
PYTHON ?= /usr/bin/python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# how many of the two halves of the tests run at once
TEST_JOBS ?= 2
GO := $(shell command -v go)

.PHONY: install demo check test test-system test-others test-long test-sanitized bench clean

install: .venv/.installed

# a marker, so that nothing is installed twice; a changed pyproject.toml or compiled module installs again
COMPILED := $(wildcard ts4nsnet/uring/*.pyx ts4nsnet/uring/*.pxd)
.venv/.installed: pyproject.toml setup.py build_backend/ts4nsnet_build.py requirements-dev.txt $(COMPILED)
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo "make: $(PYTHON) cannot make virtual environments: apt-get install -y python3-venv" >&2; exit 1; }
	@echo "installing into .venv, once"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable . --requirement requirements-dev.txt
	touch $@

# a tailnet and two containers on this machine; it keeps nothing (ts4nsnet/lab/demo.py)
demo: install
	@$(BIN)/python -m ts4nsnet.lab.demo

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tailscale's own code as the other side in tests/interop; unoptimised and without debug information it is built in
# two thirds of the time. GOTOOLCHAIN: a Go since 1.21 that is too old fetches a newer one, as a module
build/tsnet: $(wildcard tests/interop/tsnet/*)
	mkdir -p $(@D)
	cd tests/interop/tsnet && CGO_ENABLED=0 GOTOOLCHAIN=auto go build -trimpath \
		-gcflags='all=-N -l -dwarf=false' -ldflags='-s -w' -o ../../../$@ .
	touch $@

# unit and fuzz tests need nothing; system and interop tests re-execute themselves in namespaces of their own;
# host tests start from the host's namespaces, as a container tool does. System tests mostly wait, for timers and
# kernels, so the others run beside them, in two lanes of the same length; each prints what it has to say at its end
test: check $(if $(GO),build/tsnet)
	$(MAKE) --no-print-directory --jobs=$(TEST_JOBS) --output-sync=target test-system test-others

test-system:
	$(PYTEST) tests/system

test-others:
	$(PYTEST) tests/unit tests/fuzz
	$(PYTEST) tests/interop
	$(PYTEST) tests/host

test-long: check $(if $(GO),build/tsnet)
	HYPOTHESIS_PROFILE=long $(PYTEST) tests/unit tests/fuzz
	HYPOTHESIS_PROFILE=long $(PYTEST) tests/system tests/interop
	HYPOTHESIS_PROFILE=long $(PYTEST) tests/host

# the compiled modules under gcc's AddressSanitizer and UBSan, in a folder of their own; TESTS chooses among the tests.
# The sanitizers' libraries come first of all, as Python is built without them; its objects are made by malloc, which
# they watch; what it leaks at its end is none of ours. What they report goes past pytest (--capture=sys), which would
# keep it to itself, as the process ends with it
SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined
TESTS ?= tests/unit/uring
sanitizer = $(shell $(or $(CC),gcc) -print-file-name=$(1).so)

$(SANITIZED)/.built: .venv/.installed
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)/source
	tar -c --exclude='*.so' --exclude='*.c' ts4nsnet build_backend setup.py pyproject.toml README.md LICENSE | \
		tar -x -C $(SANITIZED)/source
	CFLAGS='$(SANITIZERS) -fno-sanitize-recover=undefined -fno-omit-frame-pointer' LDFLAGS='$(SANITIZERS)' \
		$(BIN)/python -m pip install --quiet --no-deps --target $(SANITIZED)/lib $(SANITIZED)/source
	touch $@

test-sanitized: $(SANITIZED)/.built
	tar -c --exclude='*.so' ts4nsnet tests pyproject.toml | tar -x -C $(SANITIZED)/lib
	cd $(SANITIZED)/lib && LD_PRELOAD='$(call sanitizer,libasan) $(call sanitizer,libubsan)' PYTHONMALLOC=malloc \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		$(CURDIR)/$(PYTEST) --capture=sys -o faulthandler_timeout=600 $(TESTS)

# few tunnels and scenarios, once; perf/README.md says what else there is
bench: install
	@$(BIN)/python -m perf --quick

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
