# make demo | make test | make help        (each sets everything up by itself)

SHELL := /bin/sh
# Passed as variables of the shell, so that blanks and quotes in them are safe.
export PYTHON TORCH_INDEX DATA LOSS
BIN := .venv/bin
# The number of processes that tests run in.
JOBS ?= 2

.PHONY: help setup demo test lint docs doctor clean
.DEFAULT_GOAL := help

help:
	@echo 'make setup                       make .venv with everything in it (the others call it)'
	@echo 'make demo                        train, evaluate, export, verify two voices'
	@echo 'make demo DATA=folder LOSS=ham   the same on folder/speaker/.../audio, with another loss'
	@echo 'make test                        tests, and the examples in docstrings'
	@echo 'make lint                        ruff and mypy'
	@echo 'make docs                        the documents and the API reference, in docs/_build/html'
	@echo 'make doctor                      what is installed here, and remedies'
	@echo 'make clean                       remove .venv and caches; keeps data/ and results/'
	@echo
	@echo 'PYTHON=python3.12 names the Python to set up with; TORCH_INDEX=URL the package index to'
	@echo 'take PyTorch from; JOBS=8 runs tests in 8 processes; ARGS="..." adds flags to demo and test.'

setup:
	@sh tools/setup.sh

demo: setup
	@set -- demo; \
	[ -z "$$DATA" ] || set -- "$$@" --data-folder "$$DATA"; \
	[ -z "$$LOSS" ] || set -- "$$@" --loss "$$LOSS"; \
	$(BIN)/sb-margins "$$@" $(ARGS)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy sb_margins

docs: setup
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

doctor: setup
	@$(BIN)/sb-margins doctor

clean:
	rm -rf .venv build dist docs/_build *.egg-info
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis
	rm -f .coverage .coverage.* coverage.xml
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
