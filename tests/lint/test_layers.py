"""Imports point downward, without a cycle, and each module can be imported alone.

Counts as an import, wherever it stands in a module (in a function and in a module's ``__getattr__``
too): each import statement, and each string that names a module of ours, as ``import_module`` and
``ServerClass`` take them.
"""

import ast
import re
import subprocess
import sys
from functools import cache

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "electrumx"

# From the bottom up; a row may import from itself and from rows above it in this list. A name
# stands for the module and, if it is a package, for all that is in it.
ROWS = [
    ["lib.errors", "lib.compat"],
    ["lib.util", "lib.enum", "lib.lru", "lib.tasks", "lib.signals", "lib.trusted_certificates"],
    ["lib.log_limit", "lib.log_text", "lib.bounded_match", "lib.protocol_versions"],
    ["lib.hash", "lib.script", "lib.peer", "lib.text", "lib.bech32", "lib.cash_address"],
    ["lib.header_hashes"],
    ["lib.tx", "lib.tx_axe", "lib.tx_dash", "lib.merkle"],
    ["lib.coins", "lib.env_base", "lib.server_base", "lib.settings_file"],
    ["server.memory_limits"],
    ["server.engine_choice", "server.origins", "server.services", "server.setting_hints"],
    ["server.settings"],
    ["server.env", "server.runtime"],
    ["server.storage"],
    ["server.runs"],
    ["server.history"],
    ["server.db"],
    ["server.daemon"],
    ["server.notifications"],
    ["server.maintenance"],
    ["server.sync_estimate"],
    ["server.bulk_sync"],
    ["server.block_processor"],
    ["server.mempool"],
    ["server.peers", "server.session"],
    ["server.reload", "server.metrics"],
    ["server.controller"],
    ["cli"],
]
# Exception: the version, and Controller and Env on first use.  Any module may import it.
ROOT = "electrumx"
# Exception: coins name the classes of the server that serve them; ``ServerClass`` imports them on
# first use, when all modules are loaded.
NAMES_THE_SERVER = "electrumx.lib.coins"
MODULE_IN_TEXT = re.compile(r"(electrumx(?:\.\w+)+)(?::\w+)?")


def module_name(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
# Cython modules import no Python module of ours.
COMPILED = {module_name(path) for path in PACKAGE.rglob("*.pyi")}
EMPTY_PACKAGES = {"electrumx.lib", "electrumx.server"}


def row_of(module):
    for number, row in enumerate(ROWS):
        for name in row:
            full = f"electrumx.{name}"
            if module == full or module.startswith(full + "."):
                return number
    return None


def imported_modules(text):
    """Return the modules of ours that the import statements of a source text name."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in SOURCES or name in COMPILED else node.module)
    return found & SOURCES.keys()


def modules_in_strings(text):
    """Return the modules of ours that strings name, whole or before a colon."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    named = [MODULE_IN_TEXT.fullmatch(string) for string in strings]
    return {match[1] for match in named if match} & SOURCES.keys()


@cache
def imports_of(module):
    """Return the modules of ours that a module imports, or names in a string."""
    text = SOURCES[module].read_text()
    found = imported_modules(text)
    if not module.startswith(NAMES_THE_SERVER):
        found |= modules_in_strings(text)
    return found - {module, ROOT}


def test_imports_in_functions_and_in_strings_are_found():
    text = """
def __getattr__(name):
    from electrumx.server.daemon import client
    return getattr(import_module("electrumx.server.env"), name)
DAEMON = ServerClass("electrumx.server.daemon:Daemon")
"electrumx.server.env is named in a sentence"
"""

    assert imported_modules(text) == {"electrumx.server.daemon.client"}
    assert modules_in_strings(text) == {"electrumx.server.env", "electrumx.server.daemon"}


def test_strings_of_coins_name_packages_of_the_server_only():
    named = {
        other
        for module in SOURCES
        if module.startswith(NAMES_THE_SERVER)
        for other in modules_in_strings(SOURCES[module].read_text())
    }

    assert named == {
        f"electrumx.server.{name}" for name in ("block_processor", "daemon", "session")
    }


def test_every_module_has_its_place_in_the_layers():
    homeless = [m for m in SOURCES if m not in {ROOT, *EMPTY_PACKAGES} and row_of(m) is None]

    assert homeless == []


def test_packages_that_only_hold_others_import_nothing():
    assert {name: imports_of(name) for name in EMPTY_PACKAGES} == {
        name: set() for name in EMPTY_PACKAGES
    }


@pytest.mark.parametrize("module", [m for m in SOURCES if row_of(m) is not None])
def test_imports_point_downward(module):
    upward = [
        other
        for other in imports_of(module) - EMPTY_PACKAGES
        # A module without a place fails a test of its own.
        if (row_of(other) or 0) > row_of(module)
    ]

    assert upward == []


def test_the_library_never_imports_the_server():
    guilty = [
        (module, other)
        for module in SOURCES
        if module.startswith("electrumx.lib")
        for other in imports_of(module)
        if not other.startswith("electrumx.lib")
    ]

    assert guilty == []


def cycle_through(graph):
    """A list of modules that import each other, or None."""
    state = {}
    path = []

    def visit(module):
        state[module] = "open"
        path.append(module)
        for other in sorted(graph[module]):
            if state.get(other) == "open":
                return path[path.index(other) :]
            if other not in state:
                cycle = visit(other)
                if cycle:
                    return cycle
        state[module] = "done"
        path.pop()
        return None

    for module in graph:
        if module not in state:
            cycle = visit(module)
            if cycle:
                return cycle
    return None


def test_a_cycle_is_found():
    assert cycle_through({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert cycle_through({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_no_modules_import_each_other():
    assert cycle_through({module: imports_of(module) for module in SOURCES}) is None


def with_packages(modules, importer):
    """Return modules and the packages whose ``__init__`` runs when they are first imported."""
    found = set(modules)
    for module in modules:
        parts = module.split(".")
        found |= {".".join(parts[:n]) for n in range(2, len(parts))}
    own = {importer.rpartition(".")[0], importer, ROOT}
    return {m for m in found - own if m in SOURCES and not importer.startswith(m + ".")}


def test_no_modules_import_each_other_by_way_of_a_package():
    graph = {module: with_packages(imports_of(module), module) for module in SOURCES}

    assert cycle_through(graph) is None


def children_graph(package):
    """Return {child: the other children it imports} of a package's modules and sub-packages."""
    graph = {}
    for module in SOURCES:
        if module.startswith(package + "."):
            graph.setdefault(child_of(package, module), set()).update(
                child_of(package, other)
                for other in imports_of(module)
                if other.startswith(package + ".")
            )
    return {child: others - {child} for child, others in graph.items()}


def child_of(package, module):
    return module[len(package) + 1 :].partition(".")[0]


PACKAGES = sorted(name for name, path in SOURCES.items() if path.name == "__init__.py")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_parts_of_a_package_import_each_other_one_way(package):
    assert cycle_through(children_graph(package)) is None


# Forks before each import: as clean as a new process, and fast because the packages of others are
# loaded before.
IMPORT_EACH = """
import os, sys, warnings
warnings.simplefilter("error")
for name in sys.argv[1].split(","):
    try:
        __import__(name)
    except ImportError:
        pass
for name in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        try:
            __import__(name)
            above = [m for m in sys.modules if m.startswith("electrumx.server")]
            if name.startswith("electrumx.lib") and above:
                raise ImportError(f"it loads {above}")
        except BaseException as e:
            print(f"{name}: {e!r}", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def packages_of_others():
    """Return the names of all modules that ours import and that are not ours."""
    nodes = [node for path in SOURCES.values() for node in ast.walk(ast.parse(path.read_text()))]
    names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return sorted(name for name in names if name.partition(".")[0] != ROOT)


def test_each_module_imports_alone_in_a_fresh_process():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, ",".join(packages_of_others()), *SOURCES],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=500,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
