# Everything runs in .venv, which the first target makes: only Python (>= 3.11) and pip are needed.
#
#   make demo     the embedded model, from loading to report
#   make pretrained  the study of a pretrained model
#   make test     the test suite, offline
#   make help     the other targets
#
# Variables: PYTHON=python3.12 picks the interpreter, PIP_FLAGS=... is handed to `pip install` (for instance
# the index of PyTorch's CPU builds, where the default build would bring CUDA along), DEMO_ARGS=... to
# `xmi demo` and PYTEST_ARGS=... to pytest; JOBS=1 runs the tests in one process (default: one per core).

PYTHON ?= python3
JOBS ?= auto
VENV := .venv
BIN := $(VENV)/bin
PINS := .venv-pins

extras_run :=
extras_test := [test]
extras_dev := [test,dev]
extras_docs := [docs]
extras_pretrained := [pretrained]
# What an installation brings along.
covers_test := run
covers_dev := run test
covers_docs := run
covers_pretrained := run

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PRECIOUS: $(VENV)/.ready-%
.PHONY: help demo pretrained test lint format types docs build constraints clean

help: ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.ready-run ## run the embedded model and write the report
	$(BIN)/xmi demo $(DEMO_ARGS)

pretrained: $(VENV)/.ready-pretrained ## study the pretrained model, made out of packages (100 MB)
	$(BIN)/xmi run --plan analyses/pretrained/study.yaml $(PRETRAINED_ARGS)

test: $(VENV)/.ready-test ## run the test suite, offline
	HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

lint: $(VENV)/.ready-dev ## check style, the direction of imports and the declared dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry .

format: $(VENV)/.ready-dev ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.ready-dev ## check the types of xmi/
	$(BIN)/mypy

docs: $(VENV)/.ready-docs ## build the documentation into site/, its notebooks executed
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 PLOTLY_RENDERER=notebook PYTHONWARNINGS="ignore:IProgress" $(BIN)/mkdocs build --strict

build: $(VENV)/.ready-run ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

constraints: ## renew the pins in constraints.txt from the ranges in pyproject.toml
	rm -rf $(PINS)
	$(PYTHON) -m venv $(PINS)
	$(PINS)/bin/python -m pip install --quiet $(PIP_FLAGS) -e ".[test,dev,docs]"
	sed -n '/^#/p' constraints.txt > $(PINS)/new
	$(PINS)/bin/python -m pip freeze --all --exclude-editable | \
	  sed -E '/^#|^(pip|wheel)==|^(cuda|nvidia)-|^triton=/d; s/\+[^ ]+$$//' | LC_ALL=C sort -f >> $(PINS)/new
	mv $(PINS)/new constraints.txt
	rm -rf $(PINS)

clean: ## remove what was built and cached, and .venv; runs/ is kept
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "xmi needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name another interpreter: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "Could not make $(VENV): Python's venv module is needed (on Debian: apt-get install python3-venv)." >&2; \
	  exit 1; }
	@touch $@

$(VENV)/.ready-%: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing xmi$(extras_$*) into $(VENV) under constraints.txt (PyTorch is large: this takes minutes)"
	@$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e ".$(extras_$*)"
	@touch $(foreach set,$* $(covers_$*),$(VENV)/.ready-$(set))
