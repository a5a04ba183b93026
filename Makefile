# `make demo` and `make test` are all that a newcomer needs; both install what they use into $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/pip --disable-pip-version-check install --quiet
SOURCES = $(shell git ls-files redraft server client recipe benchmarks csrc proto CMakeLists.txt setup.py pyproject.toml MANIFEST.in)
CXX_FILES = $(shell git ls-files 'csrc/*.cc' 'csrc/*.h' 'tests/cpp/*.cc' 'tests/cpp/*.h')
PYTEST_ARGS ?=

.PHONY: demo test test-exact test-native bench verify verify-compat fix develop clean

## demo: train a small model with GRPO and watch acceptance climb (MODEL=smollm2, SMALL=1)
demo: $(VENV)/.installed
	$(BIN)/redraft demo

# Tests run from inside $(VENV), where no folder of the checkout can be imported in place of the installed wheel.
## test: everything that runs without a GPU, against the wheel built from the source distribution
test: $(VENV)/.installed test-native
	cd $(VENV) && $(abspath $(BIN))/pytest -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) $(CURDIR)/tests $(PYTEST_ARGS)

## test-exact: the exactness suite at length, 10^6 draws a case (doc/exactness.md): about an hour and a half of CPU time
test-exact: $(VENV)/.installed
	cd $(VENV) && EXACT_DRAWS=1048576 $(abspath $(BIN))/pytest -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) \
		$(CURDIR)/tests/exact $(PYTEST_ARGS)

## test-native: the C++ tests under AddressSanitizer + UBSan, then ThreadSanitizer
test-native: $(VENV)/.dependencies
	BIN=$(abspath $(BIN)) tests/cpp/run.sh

## bench: the index benchmark; the others: `redraft bench --help`
bench: $(VENV)/.installed
	$(BIN)/redraft bench index

## verify: formatting, lint and types
verify: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p redraft

# Downloads a wheel for each listed version of vLLM and verl, 1.7 GB the first time, of which it keeps the source.
## verify-compat: every listed vLLM and verl still has what redraft relies on (COMPAT_ARGS="--version 0.33.0 --json")
verify-compat: $(VENV)/.installed
	cd $(VENV) && bin/python -m redraft.recipe.compatibility.verify --folder ../.cache/wheels $(COMPAT_ARGS)

## fix: format and repair what can be repaired by a tool
fix: $(VENV)/.dependencies
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

## develop: install in editable mode instead of from the wheel
develop: $(VENV)/.dependencies
	$(PIP) --no-deps --editable .

$(VENV)/.dependencies: requirements/torch.txt requirements/cpu.txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) -r requirements/torch.txt
	$(PIP) --no-deps -r requirements/cpu.txt
	$(PIP) -r requirements/dev.txt
	touch $@

# The wheel is built from the source distribution, so that a file missing from either is noticed here.
$(VENV)/.installed: $(VENV)/.dependencies $(SOURCES)
	rm -rf $(VENV)/dist
	$(BIN)/python -m build --outdir $(VENV)/dist . > $(VENV)/build.log 2>&1 || { tail -n 50 $(VENV)/build.log; exit 1; }
	$(PIP) --no-deps --force-reinstall $(VENV)/dist/redraft-*.whl
	touch $@

clean:
	rm -rf build dist out $(VENV)
