# make train   sets everything up and trains ME-QMIX on smax_5v5 (a few minutes on two CPU cores)
# make test    sets everything up and runs the tests
# make check   sets everything up and checks format, lint and types
# make setup   only sets up: .venv with the exact versions of constraints.txt, nothing else on the machine

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: train test check setup clean

VENV := .venv
EXTRAS := dev
STAMP := $(VENV)/.installed-$(EXTRAS)
TRAIN := $(VENV)/bin/python -m meigm_jax.train
# Interpreters to try, of the versions that constraints.txt is for: the caller's, those in PATH, pyenv's, newest first.
CANDIDATES = $(PYTHON) python3 python3.13 python3.12 $$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.*/bin/python3 2>/dev/null | sort -rV)

train: $(STAMP)
	$(TRAIN) +env=smax_5v5 +experiment=quick $(ARGS)
	@echo "Full-size run: $(TRAIN) +env=smax_5v5 seeds=4 total_env_steps=1e7"

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

setup: $(STAMP)

# pip of several ages: the older ones read constraints for build tools from the first variable, the newer from the second.
$(STAMP): pyproject.toml constraints.txt
	@found=; for python in $(CANDIDATES); do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then \
	    found="$$python"; break; fi; done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.12 or 3.13 found (looked in PATH and pyenv): install python3.13 with its venv module, or set PYTHON=PATH." >&2; \
	  exit 1; fi; \
	echo "Setting up $(VENV) with $$found"; \
	"$$found" -m venv --clear $(VENV)
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	  $(VENV)/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV)
