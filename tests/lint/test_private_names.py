"""Tests use the objects that they test as a caller does, not by private names.

A name that a test must reach is public, with a docstring, or is replaced by a parameter.
"""

import ast

import pytest

from tests.conftest import REPOSITORY

# Lower these when you remove some. They include methods of NamedTuple, as ``_replace``, which are
# public though they look private, and names that ElectrumX 1.15 has.
MOST_TOUCHES = 27
MOST_IN_STRINGS = 15
ATTRIBUTE_FUNCTIONS = {"getattr", "setattr", "delattr", "hasattr"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def is_own(node):
    """Return whether an expression is the object itself: ``self``, ``cls`` or ``super()``."""
    if isinstance(node, ast.Name):
        return node.id in ("self", "cls")
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "super"


def touches(tree):
    """Yield (line, name) of each private attribute of another object."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            yield node.lineno, node.attr


def names_in_strings(tree):
    """Yield (line, name) of private names given to ``setattr`` and the like, and by ``"a.b._c"``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if getattr(node.func, "id", getattr(node.func, "attr", "")) not in ATTRIBUTE_FUNCTIONS:
            continue
        for argument in node.args[:2]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                name = argument.value.rpartition(".")[2]
                if is_private(name):
                    yield node.lineno, name


def places(search):
    """Return the findings of a search in all tests, each as "file:line: name"."""
    return [
        f"{path.relative_to(REPOSITORY)}:{line}: {name}"
        for path in sorted((REPOSITORY / "tests").rglob("*.py"))
        for line, name in search(ast.parse(path.read_text()))
    ]


@pytest.mark.parametrize(
    ("search", "most"), [(touches, MOST_TOUCHES), (names_in_strings, MOST_IN_STRINGS)]
)
def test_no_more_private_names_are_used_than_before(search, most):
    found = places(search)

    assert len(found) <= most, "\n".join([f"{len(found)} instead of {most}:", *found])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x._a", ["_a"]),
        ("x._a._b = y", ["_b", "_a"]),
        ("self.x._a()", ["_a"]),
        ("self._a, cls._b, super()._c()", []),
        ("x.__class__, x.a_", []),
    ],
)
def test_the_search_finds_private_attributes_of_others(source, expected):
    assert [name for _line, name in touches(ast.parse(source))] == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('getattr(x, "_a")', ["_a"]),
        ('monkeypatch.setattr(x, "_a", None)', ["_a"]),
        ('monkeypatch.setattr("a.b._c", None)', ["_c"]),
        ('patch.setattr(x, "a", "_b")', []),
        ('getattr(x, "__doc__"), getattr(x, name)', []),
    ],
)
def test_the_search_finds_private_names_in_strings(source, expected):
    assert [name for _line, name in names_in_strings(ast.parse(source))] == expected
