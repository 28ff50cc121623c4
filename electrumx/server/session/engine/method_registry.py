"""Which method of a session class answers which request, by protocol version.

Handlers are marked where they stand; the table of a version is collected once per session class.
"""

import sys
from collections.abc import Callable
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any, TypeVar

from aiorpcx import handler_invocation

ProtocolTuple = tuple[int, ...]
# Request name -> (function, fewest arguments, most arguments), the session apart
HandlerTable = dict[str, tuple[Callable[..., Any], int, int]]
Handler = TypeVar("Handler", bound=Callable[..., Any])

_MARK = "_rpc_marks"
# Surplus arguments, which a few methods tolerate
_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def rpc_method(
    name: str, *, since: ProtocolTuple = (0,), until: ProtocolTuple | None = None
) -> Callable[[Handler], Handler]:
    """Mark a method of a session class as the handler of request ``name``.

    It is a coroutine function, or a plain one, which answers at once or returns an awaitable when
    it has to wait.  A plain function runs on the event loop without a task of its own, so it must
    not take milliseconds.  Its result is plain JSON values, or ``EncodedJSON``.

    It is served to clients that negotiated at least ``since`` and less than ``until``. One
    function may carry several marks. A subclass that overrides the function need not repeat them.
    """

    def mark(func: Handler) -> Handler:
        marks = [*getattr(func, _MARK, ()), (name, since, until)]
        setattr(func, _MARK, marks)
        return func

    return mark


@lru_cache(maxsize=64)
def handler_names(cls: Any, ptuple: ProtocolTuple) -> dict[str, str]:
    """Return {request name: attribute name} of a session class at a protocol version.

    The dictionary is shared: callers must not change it.
    """
    result: dict[str, str] = {}
    for klass in reversed(cls.__mro__):
        for attribute, value in vars(klass).items():
            for name, since, until in getattr(value, _MARK, ()):
                if ptuple >= since and (until is None or ptuple < until):
                    result[name] = attribute
    return result


@lru_cache(maxsize=64)
def handler_table(cls: Any, ptuple: ProtocolTuple) -> HandlerTable:
    """Return the handlers of a session class at a protocol version; not to be changed."""
    table: HandlerTable = {}
    for name, attribute in handler_names(cls, ptuple).items():
        function = getattr(cls, attribute)
        counts = _positional_range(function)
        table[name] = (function, counts.start, counts.stop - 1)
    return table


@lru_cache(maxsize=1024)
def _positional_range(func: Callable[..., Any]) -> range:
    """Return how many arguments a handler takes, besides its session."""
    params = list(signature(func).parameters.values())[1:]
    by_position = [param for param in params if param.kind not in _VARIABLE]
    required = sum(param.default is param.empty for param in by_position)
    if any(param.kind is param.VAR_POSITIONAL for param in params):
        return range(required, sys.maxsize)
    return range(required, len(by_position) + 1)


def invoke(handler: Any, request: Any) -> Any:
    """Call a handler (a bound method, or None) with a request's arguments.

    Returns its result, or an awaitable of it.  Raises RPCError if the arguments do not fit. The library would inspect the signature each time.
    """
    args = request.args
    fits = (
        handler is not None
        and isinstance(args, list)
        and len(args) in _positional_range(handler.__func__)
    )
    if fits:
        return handler(*args)
    return handler_invocation(handler, request)()
