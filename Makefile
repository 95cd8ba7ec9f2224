# Everything that a person or CI runs. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRITON := .venv-triton
export CARGO_TARGET_DIR := $(CURDIR)/target
RUST := $(shell find rust proto bench/rust -name '*.rs' -o -name '*.toml' -o -name '*.proto' 2>/dev/null) Cargo.toml Cargo.lock

.PHONY: help build triton demo up test test-rust test-python check fmt lint types imports deny bench bench-batch bench-build bench-seam proto prices clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "forebay needs Python 3.10 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check 'maturin==1.16.0'

$(VENV)/.built: $(BIN)/python pyproject.toml $(RUST)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/maturin develop -q --release --extras dev
	touch $@

build: $(VENV)/.built ## build the extension into .venv, with everything that tests need

triton: $(VENV)/.built ## install a real Triton into .venv-triton (about 160 MB from the package registry, once)
	@$(BIN)/python -m forebay.lab.triton install --venv $(TRITON)

demo: build triton ## send realistic requests through Envoy, gateway, fleets and Triton, and print what happened
	@$(BIN)/forebay demo $(ARGS)

up: build triton ## the same, left running; prints what to try
	@$(BIN)/forebay up

test: test-rust test-python ## run every test, with the real Envoy and the real Triton

test-rust: ## the tests of the Rust crates
	cargo test -q --locked -p forebay-core -p forebay-serve -p forebay-bench

test-python: build triton ## the tests in Python, with the real servers
	$(BIN)/python -m pytest -q

check: fmt lint types imports deny ## format, lints, types, import rules, licences

fmt:
	cargo fmt --all --check
	$(BIN)/ruff format --check python tests bench proto prices

lint: build
	cargo clippy -q --locked --workspace --all-targets -- -D warnings
	$(BIN)/ruff check python tests bench proto prices

types: build
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest forebay._core --mypy-config-file pyproject.toml --allowlist tests/seam/stubtest-allowlist.txt

imports: build
	$(BIN)/lint-imports
	@! cargo tree -q --locked -p forebay-core -e normal | grep -E 'pyo3|tonic|tokio|forebay-(serve|py)' || (echo 'forebay-core must stay pure'; exit 1)
	@! cargo tree -q --locked -p forebay-serve -e normal | grep -E 'pyo3|forebay-py' || (echo 'forebay-serve must not know Python'; exit 1)

deny:
	@command -v cargo-deny >/dev/null || cargo install -q --locked cargo-deny@0.20.2
	cargo deny -L error check licenses bans sources

bench-build: build
	cargo build -q --locked --release -p forebay-bench

bench: bench-build triton ## measure against controls in one run; ARGS='--quick' for a short one
	$(BIN)/python -m bench.load --out bench/results/latest.json $(ARGS)

bench-batch: bench-build triton ## measure batching in front of Triton beside Triton's own; ARGS='--quick' for a short one
	$(BIN)/python -m bench.batch --out bench/results/latest-batch.json $(ARGS)

proto: $(BIN)/python ## generate the Python form of the messages
	$(BIN)/python proto/generate.py

prices: build ## write the packaged price list anew, out of the pinned genai-prices
	$(BIN)/python prices/build.py

clean: ## remove what was built
	rm -rf target $(VENV) $(TRITON) python/forebay/_core.abi3.so

bench-seam: build ## what one call over the seam costs, by pytest-benchmark
	$(BIN)/python -m pytest -q --benchmark-only --benchmark-columns=median,iqr,ops bench/seam
