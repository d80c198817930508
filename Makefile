# Every target sets itself up: `make demo` and `make test` work in a fresh checkout.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# one thread a process: the tests run in parallel processes
TEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo test slow lint gate
demo: $(VENV)/.installed
	$(BIN)/birnn-forecast demo

test: $(VENV)/.installed-test
	$(TEST) -n 2

slow: $(VENV)/.installed-test
	$(TEST) -n 2 -m slow

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# accuracy through gaps against the same model without gaps and against Darts' BlockRNNModel
gate: $(VENV)/.installed
	$(BIN)/python -m benchmarks.gate_gaps --data-dir $(DATA)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@
