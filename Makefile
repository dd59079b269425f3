# `make demo` runs the main job on built-in data, `make test` the tests; both set up by themselves, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Packages are installed without bytecode: Python keeps that of what it imports, or every process compiles it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check check-static format docs docs-site clean

demo: $(VENV)/.ready
	$(BIN)/python scripts/demo.py

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n auto --dist worksteal

check: check-static
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

check-static: $(VENV)/.ready
	$(BIN)/ruff check refined_bsrnn benchmarks scripts tests
	$(BIN)/ruff format --check refined_bsrnn benchmarks scripts tests
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix refined_bsrnn benchmarks scripts tests
	$(BIN)/ruff format refined_bsrnn benchmarks scripts tests

# The generated tables of README and docs/, the glossary among them.
docs: $(VENV)/.ready
	$(BIN)/python -m benchmarks.docs
	$(BIN)/python scripts/glossary.py

# The documents and the API as a site, in build/site; a broken link is an error.
docs-site: $(VENV)/.docs
	$(BIN)/python -m mkdocs build --strict

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	touch $@

# Installed again only where what is installed has changed.
$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup.sh
	PYTHON=$(PYTHON) sh scripts/setup.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
