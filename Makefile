# What a person types. ARGS goes to the rehearsal: make rehearse ARGS="life --from update"
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup lock checkers lint format test test-all coverage rehearse rehearse-sabotage rehearse-slot rehearse-all docs site screenshots clean

PYTHON ?= python3
VENV := .venv
# The stamp names everything the environment was made from, its folder too: a moved clone sets itself up again.
STAMP := $(VENV)/.made-from-$(shell (cat requirements.lock; pwd) | sha256sum | cut -c1-16)
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check install

help:
	@echo "make setup          .venv with the veilor command"
	@echo "make test           linters and tests, no machine booted (ARGS=\"tests/core -k words\": some of them)"
	@echo "make test-all       the same, after fetching what some tests need besides: Chromium, a desktop, bluebuild"
	@echo "make lint           formatter, linter, types: the quick part of make test"
	@echo "make format         every Python file as ruff formats it, imports in order"
	@echo "make coverage       the tests again, and how much of core and device they run, by module"
	@echo "make checkers       what veilor check needs besides (ARGS=--all: bluebuild as well, some minutes)"
	@echo "make rehearse       a machine's whole life in QEMU; report in build/report/index.html"
	@echo "make rehearse-sabotage  a cheap sabotage after it, to see that the rehearsal can fail"
	@echo "make rehearse-slot  what else is rehearsed; slots rotate, one per commit"
	@echo "make rehearse-all   every scenario"
	@echo "make docs           the generated pages under docs/ anew"
	@echo "make site           docs/ as a site with search, in build/site/index.html"
	@echo "make screenshots    docs/report.png and docs/site.png anew, of the last report (needs a Chromium)"
	@echo "make lock           requirements.lock anew from pyproject.toml (needs uv)"

# Under a lock, so that two commands started together don't make the environment twice.
setup:
	@if test -e $(STAMP) && $(VENV)/bin/python -c '' 2>/dev/null; then exit 0; fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "setup: $(PYTHON) is missing or older than 3.11; install python3 (apt-get install python3 python3-venv), or name one: make PYTHON=..." >&2; exit 1; }; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "setup: this Python cannot make virtual environments; install them: apt-get install python3-venv" >&2; exit 1; }; \
	trap 'test $$? = 0 || echo "setup: $(VENV) could not be made; is there a network and a package index? then run it again" >&2' EXIT; \
	exec 9<Makefile; ! command -v flock >/dev/null || flock 9; \
	if test -e $(STAMP); then exit 0; fi; \
	echo "setup: making $(VENV) from requirements.lock"; \
	$(PYTHON) -m venv --clear $(VENV); \
	awk '/^setuptools==/ {on=1} on {print} on && !/\\$$/ {exit}' requirements.lock >$(VENV)/setuptools.lock; \
	$(PIP) --require-hashes -r $(VENV)/setuptools.lock; \
	$(PIP) --require-hashes --no-build-isolation -r requirements.lock; \
	$(PIP) --no-deps --no-build-isolation -e .; \
	touch $(STAMP)

lock:
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --extra dev --extra docs \
	  --custom-compile-command "make lock" -o requirements.lock pyproject.toml

checkers: setup
	@$(VENV)/bin/python -m veilor.build.check.programs $(ARGS)

# Bytecode is kept whatever the environment says: without it each of the many programs that the tests start is compiled
# anew. A process for each processor; one that is done takes tests over from another.
PYTEST := PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest --quiet --numprocesses auto --dist worksteal

lint: setup
	@$(VENV)/bin/ruff format --no-cache --quiet --check . \
	  || { echo "lint: the files above are not as ruff formats them; run make format" >&2; exit 1; }
	@$(VENV)/bin/ruff check --no-cache --quiet . \
	  || { echo "lint: ruff found what stands above; make format fixes some of it, the rest is by hand" >&2; exit 1; }
	@$(VENV)/bin/mypy --no-error-summary && $(VENV)/bin/mypy --no-error-summary scenarios/*.py \
	  || { echo "lint: the types above do not fit; again by $(VENV)/bin/mypy alone" >&2; exit 1; }

format: setup
	@$(VENV)/bin/ruff check --no-cache --quiet --fix-only .
	@$(VENV)/bin/ruff format --no-cache .

# Without the tools tree, or the checkers, the tests that need them say NOT RUN.
test: lint
	@$(VENV)/bin/python -m veilor.build.check.programs || true
	@$(VENV)/bin/veilor lab tools >/dev/null || echo "make test: goes on without the tools tree; what needs it will say NOT RUN" >&2
	@$(PYTEST) $(ARGS) || { echo "make test: one test alone: $(VENV)/bin/python -m pytest FILE::NAME" >&2; exit 1; }

# What a clean machine lacks comes first: a Chromium, bluebuild, the desktop tree; the first time that takes 5 to 10 minutes.
test-all: lint
	@$(VENV)/bin/python -m veilor.build.check.programs --browser || true
	@$(VENV)/bin/veilor lab tools >/dev/null || true
	@$(VENV)/bin/python -m veilor.build.check.programs --all || true & \
	$(VENV)/bin/veilor pictures --tree >/dev/null || echo "make test-all: goes on without the desktop tree" >&2; \
	wait
	@$(MAKE) --no-print-directory test ARGS='$(ARGS)'

# What runs in the tests' own processes counts; programs that a test starts beside them do not.
coverage: setup
	@$(PYTEST) --cov=src/veilor/core --cov=src/veilor/device --cov-report=term $(ARGS)

docs: setup
	@$(VENV)/bin/python -c 'from pathlib import Path; from veilor.build.docs import write_pages; write_pages(Path("."))'
	@$(VENV)/bin/python docs/commands.py
	@$(VENV)/bin/python -c 'from pathlib import Path; from veilor.build.image_builder import write; write(Path("."))'

# -W: a link that leads nowhere fails it. Nothing is fetched, and the site needs no server.
site: setup
	@rm -rf build/site build/site-cache
	@$(VENV)/bin/sphinx-build -W --keep-going -q -b html -d build/site-cache docs build/site
	@echo "$(CURDIR)/build/site/index.html"

screenshots: site
	@$(VENV)/bin/python docs/screenshots.py $(ARGS)

rehearse: setup
	@$(VENV)/bin/veilor rehearse $(ARGS)

# From the checkpoint that a rehearsal has left: half of the machine's disk is cut away, and that has to be noticed.
rehearse-sabotage: setup
	@$(VENV)/bin/veilor rehearse life --sabotage disk-truncated --prove --report build/report-sabotage

rehearse-slot: setup
	@$(VENV)/bin/veilor lab slot $(ARGS)

rehearse-all: setup
	@$(VENV)/bin/veilor rehearse all $(ARGS)
	@$(VENV)/bin/veilor lab slot all

clean:
	rm -rf build $(VENV)
