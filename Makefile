# make demo | make test | make help        (each sets everything up by itself)

SHELL := /bin/sh
# Handed over as variables of the shell, so that spaces and quotes in them are safe.
export PYTHON DATA LOSS
BIN := .venv/bin
# Tests run side by side in so many processes.
JOBS ?= 2

.PHONY: help setup demo test lint doctor clean
.DEFAULT_GOAL := help

help:
	@echo 'make setup                       makes .venv with everything in it (the others call it)'
	@echo 'make demo                        trains, evaluates, exports, verifies two voices'
	@echo 'make demo DATA=folder LOSS=ham   the same on folder/speaker/.../audio, with another loss'
	@echo 'make test                        tests, examples in the docs, lint, types'
	@echo 'make lint                        ruff and mypy alone'
	@echo 'make doctor                      what was found here, and remedies'
	@echo 'make clean                       takes away .venv and caches; keeps data/ and results/'
	@echo
	@echo 'PYTHON=python3.12 names the Python to set up with; JOBS=8 runs tests in 8 processes;'
	@echo 'ARGS="..." adds flags to demo and test.'

setup:
	@python=$$(sh tools/find_python.sh "$$PYTHON") && "$$python" tools/setup_env.py

demo: setup
	@set -- demo; \
	[ -z "$$DATA" ] || set -- "$$@" --data "$$DATA"; \
	[ -z "$$LOSS" ] || set -- "$$@" --loss "$$LOSS"; \
	$(BIN)/sb-margins "$$@" $(ARGS)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sb_margins

doctor: setup
	@$(BIN)/sb-margins doctor

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	rm -f .coverage .coverage.* coverage.xml
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
