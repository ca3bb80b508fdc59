# Thin: every line here stands in README.md without make. GNU make 3.81 or later.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
SNAKE = build/snakemake

.PHONY: help figures test test-long browser-test snakemake coverage cuda lab book notebooks lock clean

help:
	@echo "make figures    run all notebooks headless and write figures/"
	@echo "make test       all tests but the long ones, the tour included"
	@echo "make test-long  types, and the long tests: every notebook, fuzzing, kills, full disks, a table of model families"
	@echo "make browser-test  the book and JupyterLab in chromium; part of test-long"
	@echo "make snakemake  Snakemake for grsd workflow, in an environment of its own, in build/snakemake; part of test-long"
	@echo "make coverage   which lines no test runs"
	@echo "make cuda       tables of the CUDA device; no lock: make cuda PYTHON=one that has torch and grsd's needs"
	@echo "make lab        JupyterLab on copies of the notebooks, in build/lab (loopback, token)"
	@echo "make book       notebooks, verdicts and reference as pages, in build/book/index.html; asks no other machine"
	@echo "make notebooks  refresh the outputs stored in notebooks/, and figures/"
	@echo "make lock       resolve requirements.lock anew"
	@echo "make clean      remove build/ and the virtual environment"

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install "`grep '^torch==' requirements.lock`"
	$(BIN)/python -m pip install -c requirements.lock -e ".[test]"
	touch $@

figures: $(READY)
	$(BIN)/grsd reproduce

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -n 2

test-long: $(READY)
	-$(MAKE) snakemake
	$(BIN)/basedpyright
	$(BIN)/pytest -n 2 -m long

browser-test: $(READY)
	$(BIN)/pytest -m browser tests/browser

snakemake: $(SNAKE)/.ready

# Apart from the lock, which asks for other versions of packaging and SQLAlchemy.
$(SNAKE)/.ready: grsd/workflow/snakemake.lock
	rm -rf $(SNAKE)
	$(PYTHON) -m venv $(SNAKE)
	$(SNAKE)/bin/python -m pip install -q -c grsd/workflow/snakemake.lock snakemake snakemake-executor-plugin-slurm
	touch $@

coverage: $(READY)
	$(BIN)/pytest -n 2 --cov grsd --cov-report term:skip-covered tests

cuda:
	$(PYTHON) -m grsd.bench.cuda

lab: $(READY)
	$(BIN)/grsd lab

book: $(READY)
	$(BIN)/python -m sphinx -q -E -W --keep-going -c notebooks/book -d build/book-state notebooks build/book

notebooks: $(READY)
	$(BIN)/grsd reproduce --refresh

# torch first and by exact version; its build tag (+cpu, +cu130) differs from machine to machine and is left out.
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install "`grep '^torch==' requirements.lock`"
	build/lock/bin/python -m pip install ".[test]"
	(echo "# Versions tested together; made by 'make lock'."; \
	 build/lock/bin/python -m pip freeze --exclude grsd | sed 's/^\(torch==[^+]*\)+.*/\1/') > build/lock/requirements.lock
	mv build/lock/requirements.lock requirements.lock

clean:
	rm -rf build $(VENV)
