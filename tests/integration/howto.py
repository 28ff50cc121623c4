"""The blocks of text that a manual page wants typed or shows, and a shell to type them into."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from tests.conftest import REPOSITORY
from tests.integration.processes import Child

COMMAND_SECS = 150


def indentation(line):
    return len(line) - len(line.lstrip())


def literal_blocks(text):
    """The literal blocks of a reStructuredText page (introduced by ``::``), in order."""
    lines = text.split("\n")
    blocks = []
    number = 0
    while number < len(lines):
        opening = lines[number]
        number += 1
        if not opening.rstrip().endswith("::") or opening.lstrip().startswith(".. "):
            continue
        block = []
        while number < len(lines):
            line = lines[number]
            if line.strip() and indentation(line) <= indentation(opening):
                break
            block.append(line)
            number += 1
        # A paragraph that is nothing but "::" stands at the block's own level or left of it.
        blocks.append(dedent("\n".join(block)).strip())
    return blocks


def page_blocks(name):
    """The literal blocks of docs/HOWTO.rst or README.rst, by name."""
    path = REPOSITORY / ("README.rst" if name == "README" else f"docs/{name}.rst")
    return literal_blocks(path.read_text(encoding="utf-8"))


def block(start, *, page="HOWTO", replacing=()):
    """The one block that begins so, with the values of the reader's machine replaced by ours.

    replacing: pairs of a text of the manual, which must be there, and its replacement.
    """
    (found,) = [text for text in page_blocks(page) if text.startswith(start)]
    for old, new in replacing:
        assert old in found, (old, found)
        found = found.replace(old, str(new))
    return found


class Shell:
    """A reader's shell: with a home, the commands of our virtual environment, and little else."""

    def __init__(self, home, **variables):
        self.home = home
        self.env = {
            "HOME": str(home),
            # The top of the tree has the commands too, should they not be installed.
            "PATH": ":".join(
                (
                    str(Path(sys.executable).parent),
                    str(REPOSITORY),
                    os.environ.get("PATH", os.defpath),
                )
            ),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            # A reader would make a user for the server; the tests of a build may run as root.
            "ALLOW_ROOT": "1",
            **{name: str(value) for name, value in variables.items()},
        }

    def run(self, script, *, cwd=REPOSITORY, status=0, timeout=COMMAND_SECS):
        """Type a script; its output, of which errors are a part."""
        done = subprocess.run(
            ["sh", "-euc", script],
            cwd=cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == status, f"{script}\n{done.stdout}"
        return done.stdout

    def start(self, name, script, *, cwd=None):
        """Type a script that stays in the foreground; the Child."""
        place = f"cd {cwd}\n" if cwd else ""
        command = ["sh", "-euc", place + script]
        return Child(name, command, folder=self.home / "logs", env=self.env)
