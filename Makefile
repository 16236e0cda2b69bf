# Each line makes its own virtual environment where there is none: make train ARGS="model=lstm optimizer=adamw"
PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=

.PHONY: train test test-all test-slurm lint bench coverage-of-the-textbook doctor clean

train: .venv/installed
	$(PY) -m src.train $(ARGS)

test: .venv/tested
	$(PY) -m pytest -n auto $(ARGS)

test-all: .venv/tested
	$(PY) -m pytest -m "slow or not slow" $(ARGS)

test-slurm: .venv/tested
	.venv/bin/pip install --quiet -c constraints.txt -e ".[slurm]"
	tests/slurm/with_slurm.sh $(PY) -m pytest -n 0 -m slurm tests/slurm $(ARGS)

lint: .venv/tested
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && .venv/bin/lint-imports --no-cache

bench: .venv/tested
	$(PY) -m benchmarks $(ARGS)

coverage-of-the-textbook: .venv/tested
	$(PY) -m docs.coverage

doctor: .venv/installed
	$(PY) -m src.doctor

clean:
	rm -rf .venv

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/tested: .venv/installed
	.venv/bin/pip install --quiet -c constraints.txt -e ".[test]"
	touch $@
