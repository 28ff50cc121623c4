"""The source text: clean by its own tools, and free of foreign content."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, require

PACKAGE = REPOSITORY / "electrumx"
# Folders of single machines, spelled so that this file does not match.
MACHINE_PATH = re.compile(
    r"(^|[^\w.])/(" + "|".join(["wo" + "rk", "ro" + "ot", "fa" + "rm"]) + ")/"
)
# Generic in the stubs, and in Python from 3.11 or 3.12 on
NOT_SUBSCRIPTED = ("LoggerAdapter", "StreamHandler", "array.array")
READS_ENVIRONMENT = {"electrumx/lib/env_base.py"}


def tool(name):
    """Path of a program of the virtual environment."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    require(path, f"{name} is not installed (the extra test has it)")
    return path


def tracked_files():
    """Every file that a clone has."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    require(listing.returncode == 0, "this is not a git work tree")
    return [
        REPOSITORY / name for name in listing.stdout.split("\0") if (REPOSITORY / name).is_file()
    ]


def run(*command):
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
    run(tool("ruff"), "check", ".")


def test_everything_is_formatted():
    run(tool("ruff"), "format", "--check", ".")


def test_mypy_finds_nothing():
    run(tool("mypy"))


def test_no_file_names_a_folder_of_one_machine():
    guilty = []
    for path in tracked_files():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                guilty.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}")

    assert guilty == []


@pytest.mark.parametrize("path", ["/home/me", "see /" + "work/x", '"/' + 'root/y"'])
def test_the_search_for_machine_paths_finds_them(path):
    assert bool(MACHINE_PATH.search(path)) is not path.startswith("/home")


def test_only_the_environment_reader_and_the_commands_read_the_environment():
    guilty = []
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(REPOSITORY))
        if name in READS_ENVIRONMENT or name.startswith("electrumx/cli/"):
            continue
        guilty += [
            f"{name}:{node.lineno}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        ]

    assert guilty == []


class RuntimeSubscripts(ast.NodeVisitor):
    """The names that are subscripted when a module is imported or run."""

    def __init__(self):
        self.found = set()

    def visit_Subscript(self, node):
        self.found.add(ast.unparse(node.value))
        self.generic_visit(node)

    def visit_If(self, node):
        for child in node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else [node]:
            self.generic_visit(child)


def runtime_subscripts(source):
    visitor = RuntimeSubscripts()
    visitor.visit(ast.parse(source))
    return visitor.found


def test_no_class_is_subscripted_that_the_oldest_python_cannot_subscript():
    """Python 3.10 stops at the import; mypy knows the classes of its stubs, where they are generic."""
    subscripted = {
        f"{path}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in runtime_subscripts(path.read_text())
    }

    assert [text for text in subscripted if text.endswith(NOT_SUBSCRIPTED)] == []


def test_the_search_for_subscripts_finds_those_of_the_run_and_no_others():
    before = "if TYPE_CHECKING:\n    Log = logging.LoggerAdapter[int]\n"

    assert runtime_subscripts(before + "def log(to: 'logging.LoggerAdapter[int]'): ...") == set()
    assert runtime_subscripts(before + "def log(to: logging.LoggerAdapter[int]): ...") == {
        "logging.LoggerAdapter"
    }


def test_nothing_is_tracked_that_a_tool_makes():
    made = re.compile(r"(\.py[co]|\.so|\.egg-info/.*|\.log|~)$")

    assert [str(path) for path in tracked_files() if made.search(str(path))] == []
