"""The calls that the manual lists for rpcwhitelist are those that the code makes."""

import ast
import re

from tests.conftest import REPOSITORY
from tests.lint.test_docs import manual

# Methods of the classes of the node that take the name of a call as their first or second argument.
CALLERS = {
    "_send_single": 0,
    "_send_vector": 0,
    "send_each": 0,
    "_send_for_dict": 0,
    "send_single": 0,
    "send_vector": 0,
    "send_for_dict": 0,
    "hex_batch": 0,
    "is_available": 0,
    "knows_method": 0,
    "call_once": 1,
    "call_aside": 1,
}
SERVER = REPOSITORY / "electrumx" / "server"
# Calls of the nodes of other coins: a paragraph of the manual has these.
VARIANTS = SERVER / "daemon" / "variants.py"


def constants(tree):
    """{name: text} of the assignments of texts in a module and its classes."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = node.value.value
    return found


def calls_in(text):
    """Return the names of calls in a source text, and the number of arguments that are no names."""
    tree = ast.parse(text)
    named = constants(tree)
    found, unknown = set(), 0
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or getattr(node.func, "attr", "") not in CALLERS:
            continue
        position = CALLERS[node.func.attr]
        argument = node.args[position]
        name = getattr(argument, "attr", getattr(argument, "id", ""))
        value = argument.value if isinstance(argument, ast.Constant) else named.get(name)
        if value is None:
            unknown += 1
        else:
            found.add(value)
    return found, unknown


def made_calls():
    found, passed_on = set(), 0
    for path in SERVER.rglob("*.py"):
        if path != VARIANTS:
            names, unknown = calls_in(path.read_text())
            found |= names
            passed_on += unknown
    return found, passed_on


def listed_calls():
    (line,) = re.findall(r"rpcwhitelist=electrumx:(\S+)", manual("HOWTO"))
    return line.split(",")


def test_the_names_of_calls_are_found_in_the_source():
    source = 'METHOD = "a"\nx._send_single(METHOD)\ny.call_once(url, "b")\nz._send_vector(name, [])'
    assert calls_in(source) == ({"a", "b"}, 1)


def test_the_whitelist_of_the_manual_has_the_calls_of_the_code():
    found, passed_on = made_calls()

    listed = listed_calls()
    assert len(listed) == len(set(listed))
    assert found == set(listed)
    # Functions of the daemon's classes that are given the name; their callers are found.
    assert passed_on <= 12


def test_the_manual_names_the_calls_of_masternode_coins():
    text = manual("HOWTO").split("Other coins use more:")[1].split("\n\n")[0]
    names, _ = calls_in(VARIANTS.read_text().partition("class SmartCash")[0])

    assert names == set(re.findall(r"``(\w+)``", text))
