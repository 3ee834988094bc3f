# make demo, make test: nothing but python3 (with venv) and make is needed; everything else goes into .venv.
# ARGS="..." is handed on: make demo ARGS=--once, make test ARGS="-k spool".

# The distribution's Python comes first: other users may execute it, and the tests start the daemon as one of them.
PYTHON ?= $(firstword $(shell for python in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python; done))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
ARGS ?=
WORKERS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DELETE_ON_ERROR:
.PHONY: demo test faults bench lint servers lock clean

demo: $(INSTALLED)  ## the whole loop on embedded servers
	@$(BIN)/mailrelayd demo $(ARGS)

test: lint servers  ## everything; as root it also installs and uses real servers
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

faults: $(INSTALLED)  ## every campaign at full size, and a table: about an hour; ARGS="--row 7 --seed 2" for a part
	$(BIN)/python -m tests.faults $(ARGS)

bench: $(INSTALLED) servers  ## beside its peers, as root; ARGS="--scale full" on a quiet machine: some hours
	@sh bench/install.sh $(VENV)/bench-peers
	$(BIN)/python -m bench $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

servers:
	@sh tests/servers/install.sh

$(INSTALLED): pyproject.toml requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed: apt-get install python3 python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --use-pep517 --requirement requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# One file per purpose: what runs in production, that with logins by token, and that with demo, tests and build.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-config

lock: $(INSTALLED)  ## after a change of pyproject.toml's dependencies; ARGS=--upgrade takes newer versions
	$(BIN)/python -m pip install --quiet 'uv>=0.9'
	$(COMPILE) $(ARGS) pyproject.toml --output-file requirements.txt
	$(COMPILE) $(ARGS) pyproject.toml --extra oauth --constraints requirements.txt --output-file requirements-oauth.txt
	$(COMPILE) $(ARGS) pyproject.toml --extra uvloop --constraints requirements.txt --output-file requirements-uvloop.txt
	printf '%s\n' '-e .' hatchling editables | $(COMPILE) $(ARGS) - --group dev --constraints requirements-oauth.txt \
		--no-emit-package mailrelayd --output-file requirements-dev.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
