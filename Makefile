# make quickstart, make test: each sets up what it needs. PYTHON names an interpreter, 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test test-all browser postgresql hosts lint audit benchmarks docs clean

quickstart: $(VENV)/.installed
	$(BIN)/stillhouse launch experiments/quickstart.yaml

# Tests that start Ray have the machine to themselves.
test: lint
	$(PYTEST) -n 2 --dist loadfile -m "not slow and not ray"
	$(PYTEST) -m "not slow and ray"

test-all: lint browser postgresql hosts
	$(PYTEST) -n 2 --dist loadfile -m "not ray"
	$(PYTEST) -m ray

# For the tests that look at MLflow's pages; without it they are skipped and say so.
browser:
	@{ command -v chromium && command -v chromedriver; } > /dev/null \
	  || ! command -v apt-get > /dev/null \
	  || apt-get install -y -qq chromium chromium-driver > /dev/null \
	  || echo "no browser: tests of MLflow's pages are skipped (apt-get install chromium chromium-driver)"

# Without it, and without apt-get, the tests that need it are skipped and say so.
postgresql:
	@if [ -z "$$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" ] && ! command -v initdb >/dev/null \
		&& command -v apt-get >/dev/null; then \
		sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$sudo apt-get -qq update && $$sudo apt-get -qq -y install postgresql \
		|| echo "PostgreSQL could not be installed; its tests are skipped"; \
	fi

# For the tests on several hosts, which are namespaces and need root. Without it, and without
# apt-get, they are skipped and say so.
hosts:
	@if ! { command -v ip && command -v tc; } >/dev/null && command -v apt-get >/dev/null; then \
		sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$sudo apt-get -qq update && $$sudo apt-get -qq -y install iproute2 \
		|| echo "iproute2 could not be installed; the tests on several hosts are skipped"; \
	fi

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Everything installed, by the advisories that the package index knows. --strict: a package that
# cannot be looked up is no package without advisories. AUDIT names another service, as in
# `make audit AUDIT="-s osv"`.
audit: $(VENV)/.installed-dev
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/installed.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps $(AUDIT) -r $(VENV)/installed.txt

# The page of the experiment file, from the settings classes. A test fails if it is out of date.
docs: $(VENV)/.installed
	$(BIN)/python docs/experiment_file.py

# All of them, also after one that fell short. scale.py alone takes a quarter of an hour.
benchmarks: $(VENV)/.installed
	@status=0; for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || status=1; done; exit $$status

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Stillhouse needs Python 3.11 or newer, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV); the first time takes some minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
