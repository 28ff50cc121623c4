"""In the sessions ``Any`` is the type of an argument only where JSON enters, or a library decides.

Values of clients are ``object`` until ``params`` has made typed arguments of them, so that mypy finds
a handler that uses one unchecked.
"""

import ast
from collections import Counter

from tests.conftest import REPOSITORY

SESSION = REPOSITORY / "electrumx" / "server" / "session"

#: module -> arguments with ``Any`` in their type
ALLOWED = {
    # JSON of the node
    "shared/masternodes.py": 3,
    "shared/packages.py": 3,
    # JSON of a file
    "transport/ban_file.py": 1,
    # overridden methods of ssl and asyncio
    "transport/tls.py": 2,
    "transport/transport.py": 1,
    # a value of whatever kind the query has
    "shared/pending_reply.py": 1,
    # the statuses of a package that this one does not import
    "notify/outpoint_news.py": 1,
    # a future of asyncio or an ``EagerFuture``, with any result
    "engine/dispatch.py": 1,
}


def annotations(function):
    """Return the types of a function's arguments."""
    args = function.args
    all_args = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    return [arg.annotation for arg in all_args if arg is not None and arg.annotation is not None]


def mentions_any(annotation):
    """Return whether a type has ``Any`` in it, also in a type that is written as text."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval")
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(annotation))


def any_arguments(source):
    """Return how many arguments of a module have ``Any`` in their type."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return sum(
        mentions_any(annotation)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, functions)
        for annotation in annotations(node)
    )


def test_arguments_of_any_type_are_found():
    source = (
        'def f(a: Any, b: "list[Any]", c: int, *d: Any, e: dict[str, Any] = {}, **g: object): ...'
    )
    assert any_arguments(source) == 4


def test_arguments_of_any_type_are_where_json_enters():
    found = Counter(
        {
            path.relative_to(SESSION).as_posix(): any_arguments(path.read_text())
            for path in SESSION.rglob("*.py")
        }
    )
    assert +found == ALLOWED
