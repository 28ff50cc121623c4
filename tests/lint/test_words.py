"""Comments, docstrings, log messages, names of tests and the manual use the terms of the field."""

import ast
import re

import pytest

from tests.conftest import REPOSITORY
from tests.lint.banned_words import find_banned
from tests.lint.test_sourcecode import tracked_files

CODE = ("electrumx/", "tests/", "benchmarks/", "contrib/", ".ci/", "Makefile", "setup.py")
# Programs of contrib, shell scripts among them, have no suffix.
CODE_SUFFIXES = {".py", ".pyx", ".pyi", ".pxd", ".sh", ".yml", ".service", ".conf", ""}
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# The list itself, and its test.
HOLDS_THE_WORDS = {"tests/lint/banned_words.py", "tests/lint/test_words.py"}
# Documented texts, and log lines of version 1.15 that operators search for: (file, words).
FIXED = {
    ("docs/HOWTO.rst", "backed up"),
    ("electrumx/server/block_processor/chain_state.py", "backed up"),
    ("electrumx/server/db/flusher.py", "backing up"),
    ("electrumx/server/history/store.py", "excess history"),
    ("docs/HOWTO.rst", "Backing up"),
    ("docs/rpc-interface.rst", "held up"),
}
# A string that opens a line is a docstring.
TRIPLE_QUOTED = re.compile(r'(?P<indent>^[ \t]*r?)?(?P<text>"""(?:.*?)""")', re.M | re.S)
# Comment lines that follow each other, or the comment that ends a line of code.
COMMENT = re.compile(r"(?P<text>^[ \t]*#.*(?:\n[ \t]*#.*)*|(?<=  )#[: ].*)", re.M)


def comments_and_docstrings(source):
    """Yield (line, text); the lines of a comment are one text, so that phrases may span them."""
    for match in TRIPLE_QUOTED.finditer(source):
        if match["indent"] is not None:
            yield line_of(source, match.start("text")), match["text"]
    code = TRIPLE_QUOTED.sub(lambda match: "\n" * match[0].count("\n"), source)
    for match in COMMENT.finditer(code):
        # Later lines begin with white space only, so that a phrase may span lines.
        text = re.sub(r"(?<=\n)[ \t]*#:?", lambda mark: " " * len(mark[0]), match["text"])
        yield line_of(code, match.start("text")), text


def line_of(source, position):
    return source.count("\n", 0, position) + 1


def log_messages(source):
    """Yield (line, text) of the strings that the calls of loggers hold."""
    if not any(f".{method}(" in source for method in LOG_METHODS):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in LOG_METHODS:
            yield from string_parts(node.args)


def names_of_tests(source):
    """Yield (line, name) of each test, as words."""
    for match in re.finditer(r"def (test_\w+)", source):
        yield line_of(source, match.start()), match[1].replace("_", " ")


def string_parts(arguments):
    for argument in arguments:
        for part in ast.walk(argument):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


def texts_of(name, source):
    if name.endswith(".rst"):
        yield 1, source
        return
    yield from comments_and_docstrings(source)
    if name.endswith(".py"):
        yield from log_messages(source)
        yield from names_of_tests(source)


def banned_words_in(name, source):
    """Return "file:line: words (use: ...)" for each banned word, in the order of the lines."""
    found = []
    for line, text in texts_of(name, source):
        for position, words, use in find_banned(text):
            if (name, words) not in FIXED:
                found.append((line + text.count("\n", 0, position), words, use))
    return [f"{name}:{line}: {words} (use: {use})" for line, words, use in sorted(found)]


def checked_files():
    for path in tracked_files():
        name = str(path.relative_to(REPOSITORY))
        is_code = name.startswith(CODE) and path.suffix in CODE_SUFFIXES
        if (is_code or path.suffix == ".rst" or name in CODE) and name not in HOLDS_THE_WORDS:
            yield name, path


def test_no_banned_word_is_used():
    found = [banned_words_in(name, path.read_text()) for name, path in checked_files()]
    assert [line for lines in found for line in lines] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Return what the node sent.", "Return what"),
        ("the coins that are on disk", "coins that are on disk"),
        ("a coin's row", "coin's row"),
        ("rows that nobody\nreads", "nobody"),
        ("it is told of\n  new tips", "told"),
        ("blocks are backed up", "backed up"),
    ],
)
def test_a_banned_word_is_found_in_its_context(text, words):
    assert words in [found for _, found, _ in find_banned(text)]


@pytest.mark.parametrize(
    "text",
    [
        "in coins per kilobyte",
        "Coins name these classes.",
        "see what happened",
        "operators who run several servers",
        "``told`` is a name",
        "the room that is left",
    ],
)
def test_an_ordinary_meaning_is_not_banned(text):
    assert list(find_banned(text)) == []


def test_every_kind_of_text_is_searched():
    source = '''
"""Rows that nobody
reads."""
value = 1  # for ever
# one that is
# told
def test_it_is_told(self): self.logger.info(f"{value} is told")
'''

    assert [line.partition(" (")[0] for line in banned_words_in("x.py", source)] == [
        "x.py:2: nobody",
        "x.py:4: for ever",
        "x.py:6: told",
        "x.py:7: told",
        "x.py:7: told",
    ]
