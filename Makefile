# A fresh machine needs only Python >= 3.11: each target sets itself up in .venv/ first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A process for each core, but no more than four; each takes whole files, which share what they set up.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
INPUT ?=
OUT ?= demo-out

.PHONY: help venv demo test lint unit interop benchmark clean
.DEFAULT_GOAL := help

help:
	@echo "make demo               start a node and a fake PACS, send a head, leave the results in $(OUT)/"
	@echo "make demo INPUT=folder  the same with your DICOM files"
	@echo "make test               lint and every test, real peers included where they are installed"
	@echo "make unit               the fast tests      make interop    DCMTK, Orthanc and dicom3tools"
	@echo "make lint               ruff and mypy       make benchmark  figures, into benchmarks/"
	@echo "make venv               only set up .venv/  make clean      remove .venv/ and what tools left"

venv: $(READY)

# The pinned torch goes first, so that no dependency chooses another build.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version)'
	@echo "[1/3] creating $(VENV)/ with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed (on Debian: apt-get install python3-venv)"; exit 1; }
	@echo "[2/3] installing torch (the largest part: about half a minute, more on a slow network)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	@echo "[3/3] installing dicom-node and its other dependencies (about a minute)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "$(VENV)/ is ready"

demo: $(READY)
	@$(BIN)/dicom-node demo $(if $(INPUT),--input "$(INPUT)") --out "$(OUT)"

test: lint
	$(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY)
	$(PYTEST) tests/unit

interop: $(READY)
	$(PYTEST) tests/interop tests/contract

benchmark: $(READY)
	@for script in benchmarks/*.py; do \
		[ -e "$$script" ] || { echo "there is no benchmark yet"; exit 1; }; \
		echo "$$script"; $(BIN)/python "$$script" || exit 1; \
	done

clean:
	rm -rf $(VENV) demo-out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
