# The two commands are `make demo` and `make test`. Each makes .venv where there is none, installs
# by constraints.txt and runs; a second run skips what is done.

# libgomp's spinning threads make a forward pass ten times slower when a core is busy elsewhere.
export OMP_WAIT_POLICY = PASSIVE
# Relative, since pip splits it at spaces; it also pins what builds the package.
export PIP_CONSTRAINT = constraints.txt

PYTHON := $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check clean

## Find the vehicles of the sample scene, draw them and write them as map features.
demo: .venv/.installed
	$(BIN)/rstinynet demo

## Lint, types, the import contract and the tests; CI also opens pages in a browser (.ci/run).
test: check
	scripts/test -m "not browser"

## Lint, types and the import contract.
check: .venv/.installed-dev
	scripts/check

clean:
	rm -rf .venv dist demo-output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing rs-tinynet into .venv (a few minutes the first time)"
	$(INSTALL) -e '.[torch]'
	@touch $@

# What develops also runs: the default install is part of this one.
.venv/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing rs-tinynet and its development tools into .venv (a few minutes the first time)"
	$(INSTALL) -e '.[dev]'
	@touch .venv/.installed $@
