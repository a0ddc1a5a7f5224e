PYTHON ?= python3
BIN := .venv/bin
HH ?= ../shared/data/hh-harmless/harmless-base-test.jsonl.gz
.DEFAULT_GOAL := help

.PHONY: help demo test check docs bench-dpo bench-smoke clean

help:  ## Show what each target does.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

.venv/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: .venv/.core  ## The whole loop on the care desk: teach, sample, label, tune, prove. Under five minutes.
	$(BIN)/preftune demo

check: .venv/.dev  ## Format, lint, types, imports.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/.openai-1: .venv/.dev
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv/openai-1 \
		openai==1.109.1 httpx==0.28.1 httpcore==1.0.9 distro==1.9.0
	@touch $@

test: .venv/.openai-1  ## Every test, two at a time, one thread each.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

docs: .venv/.core  ## Write docs/cli.md and docs/api anew from the code.
	$(BIN)/python -m preftune.cli.reference docs/cli.md
	$(BIN)/python -m preftune.serving.api.reference docs/api

.venv/.bench: .venv/.core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	@touch $@

bench-dpo: .venv/.bench  ## Preftune beside TRL, every figure of docs/performance.md. Hours; leave the machine alone.
	$(BIN)/python -m benchmarks.bench_dpo --data $(HH)
	$(BIN)/python -m benchmarks.bench_levers --data $(HH)
	$(BIN)/python -m benchmarks.bench_length --data $(HH)
	$(BIN)/python -m benchmarks.bench_prepare --data $(HH)

bench-smoke: .venv/.bench  ## The same in small, to see that both sides run; nothing of it counts.
	$(BIN)/python -m benchmarks.bench_dpo --quick --only fp32 --data $(HH)
	$(BIN)/python -m benchmarks.bench_levers --quick --data $(HH)
	$(BIN)/python -m benchmarks.bench_length --quick --data $(HH)
	$(BIN)/python -m benchmarks.bench_prepare --quick --data $(HH)

clean:  ## Remove the environment and caches.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
