# bigbrotr: everything that a person types. Each target sets up what it needs by itself.

VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
ARGS   ?=
# One more than there are cores: many tests wait for something.
JOBS   ?= $(shell echo $$(($$(nproc) + 1)))

# Clients of Nostr for the tests, in JavaScript: a stamp of npm's own.
CLIENTS := tests/node/node_modules/.package-lock.json

# Where `make install` puts things.
PREFIX ?= /opt/bigbrotr
ETC    ?= /etc/bigbrotr
UNITS  ?= /usr/local/lib/systemd/system
BINDIR ?= /usr/local/bin
SHARE  ?= /usr/local/share
SYSUSERS ?= systemd-sysusers

# Builds native/ by a command of pip's; goes on in any case, with a sentence.
define native
set -- $${CC:-cc}; if ! command -v "$$1" >/dev/null; then \
	echo "no C compiler: events are read and verified one by one, which takes longer"; false; \
elif ! said=$$($(1) --disable-pip-version-check --no-deps --no-build-isolation ./native 2>&1); then \
	echo "native/ cannot be compiled: events are read and verified one by one, which takes longer"; \
	echo "$$said" | tail -n 5 | sed 's/^/    /'; false; \
fi
endef

# What Python compiles is kept, whatever a container's settings say: tests start it some thousand times.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run demo test quick check format lint types bench docs lock wheel install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run $(VENV)/.native ## archive the Nostr network (lite profile, embedded PostgreSQL); ARGS="--data-dir D" …
	@$(BIN)/bigbrotr run --profile lite $(ARGS)

demo: $(VENV)/.run $(VENV)/.native ## see it at work on a small network of its own, without the internet
	@$(BIN)/bigbrotr demo $(ARGS)

test: $(VENV)/.dev $(CLIENTS) ## run all tests, some at once (JOBS=0: one after the other); ARGS="-k name" …
	@$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

quick: $(VENV)/.dev $(CLIENTS) ## run the tests that are quick: a minute and a half
	@$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal -m "not slow" $(ARGS)

check: format lint types test ## everything that must pass before a commit

format: $(VENV)/.dev
	@$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	@$(BIN)/ruff check .

types: $(VENV)/.dev
	@$(BIN)/mypy

bench: $(VENV)/.dev ## run the benchmarks; ARGS="ingest" …
	@$(BIN)/python -m tests.bench $(ARGS)

docs: $(VENV)/.dev ## write what the documentation takes from the code, and build it as a site in dist/site
	@$(BIN)/python -m docs.generate
	@$(BIN)/python -m docs.generate_schema
	@$(BIN)/zensical build --strict

wheel: $(VENV)/.dev ## build the wheels into dist/
	@$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@$(call native,$(BIN)/pip wheel --quiet --wheel-dir dist) || true

install: ## install or upgrade bigbrotr as a service of systemd (as root)
	@case "$$($(PYTHON) -c 'import os, sys; print(os.path.realpath(sys.base_prefix))')" in \
		/home/*|/root/*) echo "the service may not look into /home: make install PYTHON=/usr/bin/python3" >&2; exit 1;; \
	esac
	@test -x $(PREFIX)/bin/python || $(PYTHON) -m venv $(PREFIX)
	@echo "installing bigbrotr in $(PREFIX)"
	@$(PREFIX)/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/run.txt
	@$(PREFIX)/bin/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation \
		--force-reinstall .
	@$(call native,$(PREFIX)/bin/pip install -qq --force-reinstall) || true
	@install -D -m 644 -t $(PREFIX)/share/doc/bigbrotr README.md CHANGELOG.md
	@install -d $(ETC) && test -e $(ETC)/bigbrotr.toml || $(PREFIX)/bin/bigbrotr config init \
		| sed 's|^# listen = ""|listen = "127.0.0.1:9464"|' > $(ETC)/bigbrotr.toml
	@install -d $(SHARE)/man/man1 $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions \
		$(SHARE)/fish/vendor_completions.d
	@$(PREFIX)/bin/bigbrotr manual > $(SHARE)/man/man1/bigbrotr.1
	@$(PREFIX)/bin/bigbrotr completion bash > $(SHARE)/bash-completion/completions/bigbrotr
	@$(PREFIX)/bin/bigbrotr completion zsh > $(SHARE)/zsh/site-functions/_bigbrotr
	@$(PREFIX)/bin/bigbrotr completion fish > $(SHARE)/fish/vendor_completions.d/bigbrotr.fish
	@install -D -m 644 -t $(UNITS) configs/systemd/bigbrotr.service
	@install -D -m 755 configs/systemd/bigbrotr.sh $(BINDIR)/bigbrotr
	@sed -i 's|/opt/bigbrotr/|$(PREFIX)/|g; s|/etc/bigbrotr/|$(ETC)/|g' $(UNITS)/bigbrotr.service $(BINDIR)/bigbrotr
	@$(SYSUSERS) $(CURDIR)/configs/systemd/bigbrotr.sysusers  # it does not look here by itself
	@if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@echo "start it with: systemctl enable --now bigbrotr (restart, after an upgrade)"

lock: $(VENV)/bin/python ## renew requirements/ from pyproject.toml (needs uv), and see that all of it has wheels
	uv pip compile --quiet --no-config --universal --generate-hashes --no-header --no-emit-index-url \
		--python-version 3.11 pyproject.toml --group build -o requirements/run.txt
	uv pip compile --quiet --no-config --universal --generate-hashes --no-header --no-emit-index-url \
		--python-version 3.11 pyproject.toml --group build --extra parquet -o requirements/parquet.txt
	uv pip compile --quiet --no-config --universal --generate-hashes --no-header --no-emit-index-url \
		--python-version 3.11 pyproject.toml --group build --extra rank -o requirements/rank.txt
	uv pip compile --quiet --no-config --universal --generate-hashes --no-header --no-emit-index-url \
		--python-version 3.11 pyproject.toml --group build --group dev --extra parquet --extra rank -o requirements/dev.txt
	@$(BIN)/python tests/image/wheels.py

clean: ## remove what the targets have made (never any data)
	rm -rf $(VENV) tests/node/node_modules dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: a second run finds nothing to do. The package itself is installed in place.

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "bigbrotr needs Python 3.11 or newer: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "python3 -m venv failed: is the venv module installed?" >&2; exit 1; }

$(VENV)/.run: requirements/run.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing what bigbrotr needs"
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements/run.txt
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# What reads events and verifies signatures many at once is optional. Where it cannot be compiled, that is tried again.
$(VENV)/.native: $(wildcard native/*.py native/*.toml native/*/*.py native/c/*) | $(VENV)/.run
	@$(call native,$(BIN)/pip install -qq --force-reinstall) && touch $@ || true

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run | $(VENV)/.native
	@echo "installing what its developers need"
	@# Most of it is never imported: what is, is compiled then.
	@$(BIN)/pip install -qq --no-compile --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

# Where they cannot be installed, the tests that need them are skipped, and that is tried again.
$(CLIENTS): tests/node/package.json tests/node/package-lock.json
	@if ! command -v node >/dev/null || ! command -v npm >/dev/null; then \
		echo "no node, or no npm: tests with clients in JavaScript are skipped"; \
	elif ! said=$$(cd tests/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error 2>&1); then \
		echo "npm cannot install clients: tests with them are skipped"; \
		echo "$$said" | tail -n 5 | sed 's/^/    /'; \
	else touch $@; fi
