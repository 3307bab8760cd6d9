# Two commands on a fresh clone: `make demo` and `make test`. `make` alone lists the others.
#
# All is done in .venv, with pip as you have configured it, and only when pyproject.toml or constraints.txt has changed.
# Paths here are relative and never pass through make's own functions, so that the clone may lie under any path.

SHELL := /bin/sh

# The Python to make .venv with: make PYTHON=/path/to/python3.12 setup
PYTHON ?=
# What `make bench` measures on: cpu or cuda.
DEVICE ?= cpu
# What `make sweep` runs, and its options: make sweep SWEEP=sweeps/demo.yaml SWEEP_ARGS="--local --workers 2"
SWEEP ?= sweeps/encoder_x_decoder.yaml
SWEEP_ARGS ?=
# How pytest spreads the suite: make test PYTEST_ARGS="-x tests/test_text.py" is one process.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup dev demo test lint format sweep compare bench docs clean distclean

help: ## this list
	@echo "make TARGET, with one of:"
	@awk -F ':[^#]*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo "PYTHON=/path/to/python names the Python that a new .venv is made with."

setup: ## make .venv and install capbench in it (the other targets do it by themselves)
	@$(call install,core,.,capbench)

dev:
	@$(call install,dev,.[dev],capbench and the tools for its tests)

demo: setup ## train on drawn scenes, score, show captions: 3 minutes on 2 CPU cores
	@.venv/bin/python -m capbench fit --config configs/demo.yaml
	@.venv/bin/python -m capbench test --config configs/demo.yaml --ckpt_path best

test: dev ## run the test suite
	@OMP_NUM_THREADS="$${OMP_NUM_THREADS:-1}" .venv/bin/python -m pytest $(PYTEST_ARGS)

lint: dev ## check style and types
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

format: dev ## write the style that lint asks for
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

sweep: setup ## run SWEEP (3 encoders x 5 decoders x 3 seeds), on W&B with a key, else here (make sweep SWEEP=sweeps/demo.yaml)
	@.venv/bin/python -m capbench sweep "$(SWEEP)" $(SWEEP_ARGS)

compare: setup ## the table and the page of SWEEP's runs again (make compare RUNS=runs/mine for others)
	@runs="$(RUNS)"; runs="$${runs:-runs/$$(basename "$(SWEEP)" .yaml)}"; \
	.venv/bin/python -m capbench compare "$$runs" --html "$$runs/report.html"

bench: dev ## measure speed against what others do, on this machine: 15 minutes (make bench DEVICE=cuda for a GPU)
	@.venv/bin/python benchmarks/bench.py --device $(DEVICE)

docs: ## list the documentation (plain Markdown, nothing to build)
	@for page in README.md CONTRIBUTING.md docs/*.md; do \
	  if [ -f "$$page" ]; then printf '%-28s %s\n' "$$page" "$$(sed -n 's/^# //p' "$$page" | head -n 1)"; fi; \
	done

clean: ## remove caches and build outputs; keep .venv, runs/ and computed features
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	@find capbench tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## clean, and remove .venv
	@rm -rf .venv

# What follows is shell, in pieces.

supported := import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13)

# Can .venv be used? It runs, its Python is supported, and pip is whole: the last file that installing pip writes is RECORD.
ready := .venv/bin/python -c '$(supported); from importlib.metadata import files; assert files("pip")' >/dev/null 2>&1

# Sets $python to a supported Python that can make a .venv, or says what to install.
define find_python
python=; bare=; \
for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python); do \
  "$$candidate" -c '$(supported)' >/dev/null 2>&1 || continue; \
  if "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then python=$$candidate; break; fi; \
  bare=$${bare:-$$candidate}; \
done; \
if [ -z "$$python" ] && [ -n "$$bare" ]; then \
  version=$$("$$bare" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
  echo "capbench: $$bare lacks the venv module that .venv is made with: install it (Debian, Ubuntu: sudo apt install python$$version-venv) and run make again." >&2; \
  exit 1; \
fi; \
if [ -z "$$python" ]; then \
  echo "capbench: $(if $(PYTHON),$(PYTHON) is not,found no) Python 3.11, 3.12 or 3.13: install one, or name it with make PYTHON=/path/to/python." >&2; \
  exit 1; \
fi
endef

# $(1) names the stamp, $(2) is what pip installs, $(3) says it in words. The stamp is written last, and holds what was installed and where.
define install
set -e; why=; \
wanted() { pwd; cat pyproject.toml constraints.txt; }; \
done_for() { wanted | cmp -s - ".venv/.capbench-$$1"; }; \
if ! $(ready); then \
  if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m ensurepip >/dev/null 2>&1 || ! $(ready); then \
    $(find_python); \
    if [ -e .venv ]; then why=" anew, because the one here is broken or of another Python"; fi; \
    echo "Making .venv with $$python$$why." >&2; \
    "$$python" -m venv --clear .venv; \
  fi; \
fi; \
if ! done_for $(1) && ! { [ $(1) = core ] && done_for dev; }; then \
  if [ -e .venv/.capbench-core ] || [ -e .venv/.capbench-dev ]; then note="a minute or less"; \
  else note="torch comes along: about 6 GB, 2 to 5 minutes"; fi; \
  echo "Installing $(3) into .venv ($$note) ..." >&2; \
  .venv/bin/python -m pip install --quiet --no-input --no-user --disable-pip-version-check -c constraints.txt -e '$(2)' || { \
    echo "capbench: the installation did not finish (pip says why above). Once that is mended, run make again: it goes on from here." >&2; \
    exit 1; \
  }; \
  wanted > .venv/.capbench-new && mv .venv/.capbench-new .venv/.capbench-$(1); \
  echo "Installed." >&2; \
fi
endef
