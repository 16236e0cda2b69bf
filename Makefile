# Each line makes its own virtual environment where there is none: make train ARGS="model=lstm optimizer=adamw"
PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=

.PHONY: train test test-all test-slurm test-newest test-lowest lint bench coverage-of-the-textbook doctor clean

train: .venv/installed
	$(PY) -m src.train $(ARGS)

test: .venv/tested
	$(PY) -m pytest -n auto $(ARGS)

test-all: .venv/tested
	$(PY) -m pytest -m "slow or not slow" $(ARGS)

test-slurm: .venv/tested
	.venv/bin/pip install --quiet -c constraints.txt -e ".[slurm]"
	tests/slurm/with_slurm.sh $(PY) -m pytest -n 0 -m slurm tests/slurm $(ARGS)

# The tests with the newest and with the lowest versions that pyproject.toml allows; torch is the pinned CPU build in both.
test-newest:
	$(PYTHON) -m venv .venv-newest
	grep '^torch==' constraints.txt > .venv-newest/constraints.txt
	.venv-newest/bin/pip install --quiet -U --upgrade-strategy eager -c .venv-newest/constraints.txt -e ".[test]"
	.venv-newest/bin/python -m pytest -n auto $(ARGS)

test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) tools/lowest_versions.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/pip install --quiet -c .venv-lowest/constraints.txt -e ".[test]"
	.venv-lowest/bin/python -m pytest -n auto $(ARGS)

lint: .venv/tested
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && .venv/bin/lint-imports --no-cache && $(PY) tools/check_vocabulary.py

bench: .venv/tested
	$(PY) -m benchmarks $(ARGS)

coverage-of-the-textbook: .venv/tested
	$(PY) -m docs.coverage

doctor: .venv/installed
	$(PY) -m src.doctor

clean:
	rm -rf .venv .venv-newest .venv-lowest

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/tested: .venv/installed
	.venv/bin/pip install --quiet -c constraints.txt -e ".[test]"
	touch $@
