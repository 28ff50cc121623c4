## make run       a demonstration: on a private test network, or on DAEMON_URL's node
## make test      every check, with real nodes and wallets
## make test-all  the unit tests, on every supported Python that is installed
## make lint      ruff and mypy
## make docs      builds the manual in docs/_build/html
## make man      builds man pages in docs/_build/man, and completion scripts beside it
## make bench     benchmarks against e-x: minutes; BENCH="sync --chain 4m" for a part
## make soak      hours of random events
## make races     the tests with threads, sockets and files delayed at random: RACES_SEED=2 for others
## make fuzz      fuzzes the parsers, for minutes each
## make sanitize  runs the Cython modules under address and undefined-behaviour sanitizers
## make clean     removes all that these make

VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 3
PYTEST := $(BIN)/python -m pytest
SUPPORTED := 3.10 3.11 3.12 3.13 3.14
COMPILED := $(wildcard electrumx/server/*/*.pyx electrumx/server/*/*.pxd electrumx/lib/*.pxd electrumx/lib/*.h)
UNIT_TESTS := $(wildcard tests/lib tests/server tests/property)

# The first Python that is new enough and can make a virtual environment.
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3.10 python3; do \
	$$p -c '$(USABLE)' 2>/dev/null && { echo $$p; break; }; done)

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test test-all lint docs man bench soak races fuzz sanitize clean help venv
.PHONY: parts part-hashes part-nodes part-peers

help:
	@sed -n 's/^## //p' Makefile

# Where Debian has no litecoind, the demonstration runs on a node from PyPI.
run: $(VENV)/.installed
	@contrib/demo/debian-install "openssl:openssl:makes a certificate"
	@[ -n "$$DAEMON_URL" ] || contrib/demo/debian-install "litecoind:litecoind:a node to index" || \
		$(BIN)/python -m tests.integration.parts bitcoin-sv
	@exec $(BIN)/python contrib/demo/run.py

# Missing parts do not stop the tests: tests that need them skip with a reason, or fail under CI.
parts: venv
	@contrib/demo/debian-install $(BUILD_PACKAGES) $(TEST_PACKAGES) || true
	@$(MAKE) --no-print-directory -j 3 part-hashes part-nodes part-peers

part-hashes: $(VENV)/.installed-test
	@contrib/demo/step "Installing the header hashes of the fixtures" \
		sh tests/install_hash_packages.sh $(VENV)

part-nodes: venv
	@$(BIN)/python -m tests.integration.parts

part-peers: venv
	@sh tests/crash/peer_env.sh $(BIN)/python || true

# Ruff, mypy and the manual are among the tests (tests/lint), so that one run shows all faults.
test: parts
	$(PYTEST) -n $(JOBS) --dist loadgroup tests

test-all:
	@VERSIONS="$(SUPPORTED)" TESTS="$(UNIT_TESTS)" JOBS="$(JOBS)" sh contrib/test-all

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-test
	$(BIN)/sphinx-build -W -n -q -b html docs docs/_build/html

man: $(VENV)/.installed-test
	$(BIN)/sphinx-build -W -n -q -b man docs docs/_build/man
	for shell in bash zsh fish; do \
		$(BIN)/python -m electrumx.cli.completion $$shell > docs/_build/completion.$$shell || exit; \
	done

# The peer is measured in an environment of its own; without it there are no ratios.
bench: $(VENV)/.installed-test
	@sh tests/crash/peer_env.sh $(BIN)/python bench || true
	@$(BIN)/python -m benchmarks $(BENCH)

soak: parts
	$(PYTEST) -m soak --timeout=0 tests

races: $(VENV)/.installed-test
	$(PYTEST) -p tests.races -n $(JOBS) --dist loadgroup tests/server tests/property

# Atheris has wheels for 3.11 to 3.13 only.  Inputs that are worth keeping stay in .run/fuzz, where
# the next run begins.
fuzz: $(VENV)/.installed-test
	$(BIN)/python -m tests.fuzz.seeds .run/fuzz/seeds
	$(BIN)/python -m tests.fuzz .run/fuzz $(TARGETS)

sanitize: $(VENV)/.installed-test
	$(BIN)/python -m tests.sanitize

clean:
	rm -rf $(VENV) $(SUPPORTED:%=.venv-%) .run build *.egg-info docs/_build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Without pip it is one whose making was interrupted.
venv:
	@$(BIN)/python -c 'import pip' 2>/dev/null || { \
		[ -n "$(PYTHON)" ] || contrib/demo/debian-install "-:python3-venv:virtual environments"; \
		echo "Making the virtual environment $(VENV)"; \
		$(or $(PYTHON),python3) -m venv --clear $(VENV); }

# A build of the Cython modules needs these; without them pip warns and continues.
HEADER = $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
BUILD_PACKAGES = "cc:gcc:builds the Cython modules" \
	"/usr/include/stdlib.h:libc6-dev:builds the Cython modules" \
	"$(HEADER):python3-dev:builds the Cython modules"
# Nodes, wallets and peers that the tests run the server with.
TEST_PACKAGES = "openssl:openssl:makes certificates" "litecoind:litecoind:a node" \
	"electrum:electrum:a wallet" "node:nodejs:runs bcoin and bcash, nodes from npm" \
	"npm:npm:fetches them" "svscan:daemontools:supervises the server" \
	"chromium:chromium:shows the status page" \
	"c++:g++:builds a peer server's binding" \
	"pkg-config:pkgconf:builds a peer server's binding" \
	"/usr/include/rocksdb/version.h:librocksdb-dev:builds a peer server's binding"

PIP_INSTALL = $(BIN)/python -m pip install -q -c contrib/constraints.txt

# The name of the distribution was another one; left installed, it would own the same commands.
$(VENV)/.installed: setup.py pyproject.toml contrib/constraints.txt $(COMPILED) | venv
	@contrib/demo/debian-install $(BUILD_PACKAGES) || true
	@contrib/demo/step "Installing the server into $(VENV), with its Cython modules" sh -c \
		'$(BIN)/python -m pip uninstall -q -y electrumx; $(PIP_INSTALL) -e .'
	@touch $@

# By its name, the server is there already, and its modules are not compiled again.
$(VENV)/.installed-test: $(VENV)/.installed
	@contrib/demo/step "Installing the tools of the tests into $(VENV)" \
		$(PIP_INSTALL) "electrumx-server[test,docs,rocksdb,uvloop]"
	@touch $@
