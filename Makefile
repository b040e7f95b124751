# Everything runs in $(VENV), which is made on first use and made up to date when pyproject.toml changes.
# A fresh machine needs Python >= 3.11 and make; as root on Debian, what Python's venv lacks is installed by apt.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := tests/constraints.txt
TORCH := $(shell grep '^torch==' $(CONSTRAINTS))
EXTRAS := s3,gcs,fsspec,agent,sign,zstd
ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# The first of these that is 3.11 or newer; `make PYTHON=/path/to/python` takes another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(ENOUGH)' >/dev/null 2>&1 && echo "$$python" && break; done)

WORKERS ?= $(shell $(or $(PYTHON),false) -c 'import os; print(min(4, len(os.sched_getaffinity(0))))' 2>/dev/null || echo 2)
PYTEST := $(BIN)/python -m pytest
PYTEST_ARGS ?=
BENCH_ARGS ?=

# A stamp per set of packages, named after what the set depends on: reruns cost nothing, a changed requirement installs anew.
INPUTS := $(shell cat pyproject.toml $(CONSTRAINTS) | cksum | cut -d ' ' -f 1)
DEMO_STAMP := $(VENV)/.installed-demo-$(INPUTS)
DEV_STAMP := $(VENV)/.installed-dev-$(INPUTS)

.PHONY: help
help: ## Show this list
	@echo "make TARGET [PYTHON=python3.12] [VENV=.venv] [PYTEST_ARGS=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(DEMO_STAMP) ## Train a small model, kill it mid-run, resume it, compare the weights bit for bit
	@$(BIN)/python docs/examples/demo.py

.PHONY: test
test: $(DEV_STAMP) ## Run the tests: unit, conformance on loopback servers, integration, docs
	$(PYTEST) -n $(WORKERS) --dist loadgroup -m "not slow" $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(DEV_STAMP) ## Run the slow tests; SHORT=1 runs the short form that CI runs
	$(if $(SHORT),CKPTSYNC_TEST_SHORT=1 )$(PYTEST) -m slow $(PYTEST_ARGS)

.PHONY: test-page
test-page: $(DEV_STAMP) build/prometheus/usr/bin/promtool ## Test the status page in Chromium, which it installs as root on Debian, and the alert rules; pictures in build/page; SHORT=1 some
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || { echo "install chromium and its driver" >&2; exit 1; }; \
		apt-get update -q; \
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium chromium-driver fonts-dejavu-core; }
	$(PIP) install -qq -c $(CONSTRAINTS) --group page
	PATH="$(CURDIR)/build/prometheus/usr/bin:$$PATH" $(PYTEST) $(if $(SHORT),-m "not slow") \
		tests/page tests/unit/agent/status/test_monitoring.py $(PYTEST_ARGS)

.PHONY: test-manifests
test-manifests: $(DEV_STAMP) ## Check the examples for Kubernetes against the schemas of several of its versions; SHORT=1 one version
	$(PIP) install -qq -c $(CONSTRAINTS) --group manifests
	$(if $(SHORT),CKPTSYNC_TEST_SHORT=1 )$(PYTEST) tests/manifests $(PYTEST_ARGS)

.PHONY: test-container
test-container: $(DEV_STAMP) ## Build the image and play the life of pods, with buildah and podman, which it installs as root on Debian; SHORT=1 some
	$(if $(SHORT),CKPTSYNC_TEST_SHORT=1 )CKPTSYNC_TEST_CONTAINERS=$(abspath $(VENV)s/containers) $(PYTEST) $(if $(SHORT),-m "not slow") \
		tests/container $(PYTEST_ARGS)

# apt-get is run as root only; whoever is not root must have installed the packages.
define installed
	@for program in $(1); do command -v "$$program" >/dev/null && continue; \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || { echo "$$program is not there; install $(2)" >&2; exit 1; }; \
		apt-get update -q; \
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(2); \
		command -v "$$program" >/dev/null; \
	done
endef

.PHONY: test-startup
test-startup: $(DEV_STAMP) ## Check the start-up examples with cloud-init, systemd and shellcheck, and rehearse them; SHORT=1 the short form
	$(call installed,cloud-init shellcheck systemd-analyze ip,cloud-init shellcheck systemd iproute2)
	$(if $(SHORT),CKPTSYNC_TEST_SHORT=1 )$(PYTEST) tests/startup $(PYTEST_ARGS)

.PHONY: test-link-local
test-link-local: $(DEV_STAMP) ## Find the metadata services at 169.254.169.254, in a network of its own, for which root is needed
	$(call installed,ip,iproute2)
	@unshare --net true || { echo "no right to make a network namespace" >&2; exit 1; }
	$(PYTEST) tests/integration/test_link_local.py $(PYTEST_ARGS)

.PHONY: test-terraform
test-terraform: $(DEV_STAMP) ## Check the Terraform modules, mocked and applied on loopback, and judge their policies; needs terraform, its AWS provider, npm; SHORT=1 some
	$(PYTEST) -n $(WORKERS) --dist loadfile $(if $(SHORT),-m "not slow") tests/terraform $(PYTEST_ARGS)

# Debian's package would start a service: of it the program that checks rules is enough. Without it those tests are skipped.
build/prometheus/usr/bin/promtool:
	@mkdir -p build/prometheus
	@{ cd build/prometheus && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb . ; } || echo "no promtool: the alert rules are checked less"

.PHONY: test-big
test-big: $(DEV_STAMP) ## Run the round trips at full size: 2 GiB, ten kills each way, on every kind of store
	CKPTSYNC_TEST_GIB=2 CKPTSYNC_S3_CHECKSUM=none $(PYTEST) -s --timeout 3600 tests/integration/test_round_trip.py $(PYTEST_ARGS)

# The frameworks have environments of their own: what one of them wants must not decide what everything else is tested with.
FRAMEWORKS := lightning transformers tensorflow orbax ray

.PHONY: test-frameworks
test-frameworks: $(FRAMEWORKS:%=test-framework-%) ## Run the tests of the integrations, each with its framework; SHORT=1 the short form

.PHONY: $(FRAMEWORKS:%=test-framework-%)
$(FRAMEWORKS:%=test-framework-%): test-framework-%: $(VENV)s/%/.installed-$(INPUTS)
	$(if $(SHORT),CKPTSYNC_TEST_SHORT=1 )$(VENV)s/$*/bin/python -m pytest tests/frameworks/$* $(PYTEST_ARGS)

$(VENV)s/%/.installed-$(INPUTS): $(DEMO_STAMP)
	$(BIN)/python -m venv --clear $(@D)
	$(@D)/bin/python -m pip install -qq 'pip>=25.1'
	$(@D)/bin/python -m pip install -qq -c $(CONSTRAINTS) '$(TORCH)' numpy
	$(@D)/bin/python -m pip install -qq -c $(CONSTRAINTS) --editable '.[$(EXTRAS)]' --group test --group $*
	@touch $@

FUZZ_S ?= $(if $(SHORT),5,120)

.PHONY: fuzz
fuzz: $(DEV_STAMP) ## Fuzz every parser of what strangers may send, guided by coverage; SHORT=1 a few seconds each, FUZZ_S=600 longer
	$(PIP) install -qq --group fuzz
	@mkdir -p build/fuzz
	@for target in $$($(BIN)/python tests/fuzz/names.py); do \
		echo "fuzz $$target for $(FUZZ_S) s"; \
		$(BIN)/python tests/fuzz/harness.py $$target -max_total_time=$(FUZZ_S) -max_len=8192 -timeout=20 -rss_limit_mb=2048 \
			-verbosity=0 -artifact_prefix=build/fuzz/$$target- || exit 1; \
	done

.PHONY: faults
faults: $(DEV_STAMP) ## Strike every request of every verb, remove every protection, write docs/reference/fault-matrix.md; SHORT=1 a sample
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python tests/faults/run.py $(if $(SHORT),--short )$(FAULTS_ARGS)

SOAK_MINUTES ?= $(if $(SHORT),1,30)

.PHONY: soak
soak: $(DEV_STAMP) ## Let writers, readers and collectors work for half an hour behind a proxy that fails on purpose; SHORT=1 a minute
	$(BIN)/python tests/faults/soak.py --minutes $(SOAK_MINUTES) $(SOAK_ARGS)

.PHONY: check
check: style types layers docstrings site docs-tests ## Check style, types, layers, docstrings and documentation (make -k check: all of them)

.PHONY: style types layers docstrings site docs-tests
style: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP)
	$(BIN)/mypy

layers: $(DEV_STAMP)
	$(BIN)/lint-imports --no-cache --no-logo

docstrings: $(DEV_STAMP)
	$(BIN)/flake8 ckptsync

site: $(DEV_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs --quiet build --strict --config-file .mkdocs.yml --site-dir $(CURDIR)/build/site

docs-tests: $(DEV_STAMP)
	$(PYTEST) -q tests/docs $(PYTEST_ARGS)

BENCH := PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m

.PHONY: bench
bench: $(DEV_STAMP) ## Measure ourselves beside every peer, write docs/reference/benchmarks.md; BENCH_ARGS="--peers boto3,s5cmd --size 256MiB"
	$(BENCH) bench.run $(BENCH_ARGS)

.PHONY: bench-quick
bench-quick: $(DEV_STAMP) ## Compare our processor time with boto3's in one run of half a minute; fails when we got worse
	$(BENCH) bench.quick

.PHONY: bench-training
bench-training: $(DEV_STAMP) ## Measure what saving costs a training loop, write docs/reference/training-benchmarks.md; SHORT=1 prints a small run
	$(BENCH) bench.training $(if $(SHORT),--short,--write) $(BENCH_ARGS)

.PHONY: growth
growth: $(DEV_STAMP) ## Measure what verbs cost as a run and a snapshot grow, write docs/reference/growth.md; SHORT=1 prints a few sizes
	$(BIN)/python tests/bench/growth.py $(if $(SHORT),--short,--write) $(GROWTH_ARGS)

.PHONY: docs
docs: reference site ## Bring the generated reference up to date and build the site into build/site
	@echo "open build/site/index.html"

.PHONY: reference
reference: $(DEV_STAMP)
	$(BIN)/python tests/docs/generate_api.py
	$(BIN)/python tests/docs/generate_cli.py
	$(BIN)/python tests/docs/generate_configuration.py
	$(BIN)/python tests/docs/generate_requirements.py

.PHONY: format
format: $(DEV_STAMP) ## Format the code and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: clean
clean: ## Remove caches and outputs; environments stay
	rm -rf build dist site demo-run .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find ckptsync tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

# pip 25.1 is the first that knows dependency groups. PyTorch comes first, so that nothing else can
# choose its build, and NumPy with it, without which it warns.
$(DEMO_STAMP): | $(BIN)/python
	$(PIP) install -qq 'pip>=25.1'
	$(PIP) install -qq -c $(CONSTRAINTS) '$(TORCH)' numpy
	$(PIP) install -qq -c $(CONSTRAINTS) --editable .
	@rm -f $(VENV)/.installed-demo-*
	@touch $@

$(DEV_STAMP): | $(DEMO_STAMP)
	$(PIP) install -qq -c $(CONSTRAINTS) --editable '.[$(EXTRAS)]' --group dev
	@rm -f $(VENV)/.installed-dev-*
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c '$(ENOUGH)' || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { \
		rm -rf $(VENV); \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; } \
			|| { echo "$(PYTHON) cannot make virtual environments; install its venv module (Debian: python3-venv)" >&2; exit 1; }; \
		apt-get update -q; \
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3-venv; \
		"$(PYTHON)" -m venv $(VENV); }
