# make demo, make test: both install what they need into .venv, on a bare machine with Python 3.10 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
WORKERS ?= $(shell nproc)
export MPLBACKEND := Agg

.PHONY: install demo test test-long bench lint clean

install: $(VENV)/installed

$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "counterpose needs Python 3.10 or newer, $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: install
	$(BIN)/python -m data make configs/data/people_body_easy.yaml out=$(RUN)/people_body clips=1000 workers=$(WORKERS)
	$(BIN)/python -m data preview $(RUN)/people_body out=$(RUN)/people_body.png
	$(BIN)/python -m pretrain configs/pretrain/demo_body.yaml run=$(RUN)/pretrain_body data.shards=$(RUN)/people_body
	@echo
	@echo "pairs of made people:   $(RUN)/people_body.png"
	@echo "completions over time:  $(RUN)/pretrain_body/pictures/"
	@echo "losses and speed:       $(RUN)/pretrain_body/log.jsonl"
	@echo "the encoder:            $(BIN)/python -m pretrain export $(RUN)/pretrain_body out=encoder.safetensors"

test: install
	$(BIN)/python -m pytest -q -m "not long"

test-long: install
	$(BIN)/python -m pytest -q

bench: install
	$(BIN)/python -m benchmarks.people

lint: install
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info
