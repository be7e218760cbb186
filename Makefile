# The two commands a newcomer needs: `make serve` and `make test`. uv is used where it is installed, pip otherwise.
#
# Paths are relative and quoted, so the checkout may lie under any path, spaces included.

PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8000
MODELS ?= examples/models
ARGS ?=
VERSIONS := 3.11 3.12 3.13

BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help serve test test-all test-openvino test-nightly lint format typecheck bench bench-http bench-layouts bench-execution bench-gpu
.PHONY: soak soak-unload scheduling observe dashboards clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

serve: $(VENV)/.serve ## Serve the example models on 127.0.0.1:8000
	"$(BIN)/batchserve" serve "$(MODELS)" --host "$(HOST)" --port "$(PORT)" $(ARGS)

test: $(VENV)/.test ## Run all tests, the linter and the type checker
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/python" -m pytest $(ARGS)

test-all: ## Run the tests on each supported Python that is installed
	@found=0; for version in $(VERSIONS); do \
		if python$$version --version >/dev/null 2>&1; then \
			found=1; echo "== Python $$version"; \
			$(MAKE) --no-print-directory test PYTHON=python$$version VENV=.venv-$$version || exit 1; \
		else echo "== Python $$version is not installed: skipped"; fi; \
	done; test $$found = 1

test-openvino: ## Run the tests that need a second provider, in an environment of their own with OpenVINO's runtime
	$(MAKE) --no-print-directory VENV=.venv-openvino .venv-openvino/.openvino
	TESTS_REQUIRE=openvino .venv-openvino/bin/python -m pytest tests/openvino $(ARGS)

test-nightly: $(VENV)/.test ## Explore the rules for longer (minutes)
	HYPOTHESIS_PROFILE=nightly "$(BIN)/python" -m pytest tests/property tests/simulation --timeout 1800 $(ARGS)

bench: $(VENV)/.test ## Measure batching against max_batch_size = 1 (minutes)
	"$(BIN)/python" loadtest/batching.py $(ARGS)

scheduling: $(VENV)/.test ## Simulate what the scheduler's rules are worth, for docs/scheduling.md (half an hour)
	"$(BIN)/python" loadtest/scheduling.py --anew $(ARGS)

bench-http: $(VENV)/.test ## Measure the HTTP frontend against echo, aiohttp and mosec (minutes; needs wrk)
	"$(BIN)/python" loadtest/hotpath.py $(ARGS)

bench-layouts: $(VENV)/.test ## Measure the choice of instances and threads at load (minutes)
	"$(BIN)/python" loadtest/layouts.py $(ARGS)
	"$(BIN)/python" loadtest/layouts.py --http --seconds 5 $(ARGS)

bench-execution: $(VENV)/.test ## Measure what the engine, a worker process and a swap cost (minutes)
	for what in path isolation swap swap-computing; do "$(BIN)/python" loadtest/execution.py $$what $(ARGS) || exit 1; done

bench-gpu: ## Check and measure on an NVIDIA GPU, with what is installed in VENV
	"$(BIN)/python" -m pytest tests/gpu
	"$(BIN)/python" loadtest/gpu.py $(ARGS)

soak: $(VENV)/.test ## Ten minutes of mixed traffic, after which nothing may be left (needs wrk)
	"$(BIN)/python" loadtest/hotpath.py --only soak --minutes 10 $(ARGS)

observe: $(VENV)/.observe ## Serve, load and scrape for half a minute; say which panel and rule has data (needs prometheus)
	"$(BIN)/python" loadtest/observe.py $(ARGS)

dashboards: $(VENV)/.observe ## Write the dashboards' JSON from their code
	"$(BIN)/python" -m grafana.build $(ARGS)

soak-unload: $(VENV)/.test ## Load and unload a model 200 times, after which memory may not have grown
	"$(BIN)/python" loadtest/unloading.py $(ARGS)

lint: $(VENV)/.test ## Check style
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

format: $(VENV)/.test ## Put the code into shape
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

typecheck: $(VENV)/.test ## Check types
	"$(BIN)/mypy"

clean: ## Remove virtual environments and caches
	rm -rf .venv .venv-openvino .venv-3.11 .venv-3.12 .venv-3.13 .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

# --- virtual environment: one marker for each set of extras, remade when the project file changes -------------------

$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
		f"batchserve needs Python 3.11 to 3.13, and $(PYTHON) is {v[0]}.{v[1]}: name another one, as in make PYTHON=python3.12")'
	@if command -v uv >/dev/null 2>&1; then uv venv --python "$(PYTHON)" "$(VENV)"; else "$(PYTHON)" -m venv "$(VENV)"; fi

define install
	@if command -v uv >/dev/null 2>&1; then uv pip install --python "$(BIN)/python" --quiet -e '.[$(1)]'; \
	else "$(BIN)/python" -m pip install --quiet --disable-pip-version-check -e '.[$(1)]'; fi
	@touch "$@"
endef

$(VENV)/.serve: $(VENV)/bin/python pyproject.toml
	$(call install,cpu)

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(call install,cpu$(comma)examples$(comma)test$(comma)dev)

$(VENV)/.observe: $(VENV)/bin/python pyproject.toml
	$(call install,cpu$(comma)examples$(comma)observe)

$(VENV)/.openvino: $(VENV)/bin/python pyproject.toml
	$(call install,openvino$(comma)test)

comma := ,
