"""Imports point downward, nothing goes round in circles, and each module can be imported alone."""

import ast
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "electrumx"

# From the bottom up; a row may import from itself and from rows above it in this list. A name
# stands for the module and, if it is a package, for all that is in it.
ROWS = [
    ["lib.errors"],
    ["lib.util", "lib.enum", "lib.lru", "lib.tasks", "lib.signals"],
    ["lib.log_limit", "lib.log_text", "lib.bounded_match"],
    ["lib.hash", "lib.script", "lib.peer", "lib.text"],
    ["lib.header_hashes"],
    ["lib.tx", "lib.tx_axe", "lib.tx_dash", "lib.merkle"],
    ["lib.coins", "lib.env_base", "lib.server_base"],
    ["server.services", "server.setting_hints"],
    ["server.env", "server.runtime"],
    ["server.storage"],
    [
        # What opening a database needs to know of a bulk sync that was stopped in its last step.
        *("server.bulk_sync.records", "server.bulk_sync.manifest", "server.bulk_sync.run_files"),
        "server.bulk_sync.workspace",
    ],
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
    ["server.controller"],
    ["cli"],
]
# The version and two lazy names: any module may import it, and it is no part of a circle.
ROOT = "electrumx"


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


def imports_of(module):
    """Our modules that a module imports anywhere in its text, functions included."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in SOURCES or name in COMPILED else node.module)
    return {name for name in found if name in SOURCES} - {module, ROOT}


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


def circle_through(graph):
    """A list of modules that import each other in a circle, or None."""
    state = {}
    path = []

    def visit(module):
        state[module] = "open"
        path.append(module)
        for other in sorted(graph[module]):
            if state.get(other) == "open":
                return path[path.index(other) :]
            if other not in state:
                circle = visit(other)
                if circle:
                    return circle
        state[module] = "done"
        path.pop()
        return None

    for module in graph:
        if module not in state:
            circle = visit(module)
            if circle:
                return circle
    return None


def test_a_circle_is_found():
    assert circle_through({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle_through({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_no_modules_import_each_other_in_a_circle():
    assert circle_through({module: imports_of(module) for module in SOURCES}) is None


# Forks before each import: as clean as a new process, and a tenth of its time.
IMPORT_EACH = """
import os, sys, warnings
warnings.simplefilter("error")
for name in sys.argv[1:]:
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


def test_each_module_imports_alone_in_a_fresh_process():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(IMPORT_EACH), *SOURCES],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
