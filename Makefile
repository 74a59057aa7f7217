# make demo, make test: both install what they need into .venv, on a bare machine with Python 3.10 or newer.
# make demo DEMO="videos=DIR calibration=FILE" shows a real take beside the synthetic humans; `python -m finetune demo --help` lists all.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
DEMO ?=
# How tests are run: two files at a time; PYTEST="-n 0" is one after the other.
PYTEST ?= -n 2 --dist loadfile --no-loadscope-reorder
export MPLBACKEND := Agg

.PHONY: install demo test test-long bench docs lint clean

install: $(VENV)/installed

$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "counterpose needs Python 3.10 or newer, $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: install
	$(BIN)/python -m finetune demo $(RUN) $(DEMO)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -m "not long" $(PYTEST)

test-long: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

# 4 min 17 s on 2 idle cores (docs/log.md); a minute more where the body models' files are not built yet.
bench: install
	$(BIN)/python -m benchmarks.people
	$(BIN)/python -m benchmarks.order
	$(BIN)/python -m benchmarks.loader seconds=2
	$(BIN)/python -m benchmarks.step rounds=3
	$(BIN)/python -m benchmarks.runs
	$(BIN)/python -m benchmarks.checkpoint rounds=2 steps=2 batch=2
	$(BIN)/python -m benchmarks.cache megabytes=500

# build/site/index.html
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

clean:
	rm -rf $(VENV) build *.egg-info
