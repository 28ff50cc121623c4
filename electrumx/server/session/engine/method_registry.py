"""Which handler answers which request, by protocol version.

Handlers are methods of handler objects, such as ``HeaderMethods``, marked at their definition.  There is
one table of a version for each tuple of handler classes; a session adds its objects.
"""

import sys
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any, TypeVar

from aiorpcx import handler_invocation

from electrumx.server.session.engine.jsonrpc import Notification, Request
from electrumx.server.session.engine.request_stats import MethodStats, RequestStats

ProtocolTuple = tuple[int, ...]
HandlerClasses = tuple[type[object], ...]
# Request name -> (function, fewest arguments, most arguments, position of its object)
HandlerTable = dict[str, tuple[Callable[..., Any], int, int, int]]
T = TypeVar("T")
Handler = TypeVar("Handler", bound=Callable[..., Any])

#: counts requests without a handler
INVALID_METHOD = "invalid method"

_MARK = "_rpc_marks"
_NOTIFICATION_MARK = "_rpc_notification_marks"
# Surplus arguments, which a few methods tolerate
_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def rpc_method(
    name: str, *, since: ProtocolTuple = (0,), until: ProtocolTuple | None = None
) -> Callable[[Handler], Handler]:
    """Mark a method of a handler class as the handler of request ``name``.

    It is a coroutine function, or a plain one, which returns the result, or an awaitable of it.  A
    plain function runs on the event loop without a task of its own, so it must not take milliseconds.
    The result is plain JSON values, or ``EncodedJSON``.

    It is for clients that negotiated at least ``since`` and less than ``until``.  One function
    may carry several marks.  A subclass that overrides the function need not repeat them.
    """

    def mark(func: Handler) -> Handler:
        marks = [*getattr(func, _MARK, ()), (name, since, until)]
        setattr(func, _MARK, marks)
        return func

    return mark


def rpc_notification(name: str, *, since: ProtocolTuple = (0,)) -> Callable[[Handler], Handler]:
    """Mark a plain function as the handler of notification ``name``: it has no answer."""

    def mark(func: Handler) -> Handler:
        setattr(func, _NOTIFICATION_MARK, [(name, since, None)])
        return func

    return mark


@lru_cache(maxsize=64)
def handler_names(
    classes: HandlerClasses, version: ProtocolTuple, mark: str = _MARK
) -> dict[str, tuple[str, int]]:
    """Return {request name: (attribute, position of its class)} at a protocol version.

    Where classes answer the same request, the last does.  The dictionary is shared: callers must not
    change it.
    """
    result: dict[str, tuple[str, int]] = {}
    for position, handler_class in enumerate(classes):
        for ancestor in reversed(handler_class.__mro__):
            for attribute, value in vars(ancestor).items():
                for name, since, until in getattr(value, mark, ()):
                    if version >= since and (until is None or version < until):
                        result[name] = attribute, position
    return result


@lru_cache(maxsize=64)
def handler_table(
    classes: HandlerClasses, version: ProtocolTuple, mark: str = _MARK
) -> HandlerTable:
    """Return the handlers of these classes at a protocol version; callers must not change it."""
    table: HandlerTable = {}
    for name, (attribute, position) in handler_names(classes, version, mark).items():
        function = getattr(classes[position], attribute)
        counts = _positional_range(function)
        table[name] = function, counts.start, counts.stop - 1, position
    return table


@lru_cache(maxsize=64)
def restricted_table(
    classes: HandlerClasses,
    version: ProtocolTuple,
    served: frozenset[str],
    refuse: Callable[..., object],
) -> HandlerTable:
    """Return the handlers at a protocol version, with ``refuse`` for requests not in ``served``.

    ``refuse`` takes the handler's object, and raises.  Callers must not change the table.
    """
    return {
        name: entry if name in served else (refuse, 0, sys.maxsize, entry[3])
        for name, entry in handler_table(classes, version).items()
    }


def _positional_range(func: Callable[..., object]) -> range:
    """Return how many arguments a handler takes, not counting its object."""
    params = list(signature(func).parameters.values())[1:]
    by_position = [param for param in params if param.kind not in _VARIABLE]
    required = sum(param.default is param.empty for param in by_position)
    if any(param.kind is param.VAR_POSITIONAL for param in params):
        return range(required, sys.maxsize)
    return range(required, len(by_position) + 1)


class SessionMethods:
    """The handlers of one session, in the protocol version that it has negotiated."""

    __slots__ = ("counts", "notifications", "objects", "stats", "table")

    def __init__(self, objects: tuple[object, ...], stats: RequestStats) -> None:
        """Take the handler objects; ``stats`` counts the requests of all sessions."""
        self.objects = objects
        self.stats = stats
        #: requests of this session by method
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.table: HandlerTable = {}
        self.notifications: HandlerTable = {}

    def find(self, group: type[T]) -> T:
        """Return the object of a class of handlers; raise KeyError if it is missing."""
        for item in self.objects:
            if isinstance(item, group):
                return item
        raise KeyError(group)

    def set_version(self, version: ProtocolTuple) -> None:
        """Serve the requests of a protocol version from now on."""
        classes = tuple(map(type, self.objects))
        self.table = handler_table(classes, version)
        self.notifications = handler_table(classes, version, _NOTIFICATION_MARK)

    def restrict(
        self, version: ProtocolTuple, served: frozenset[str], refuse: Callable[..., object]
    ) -> None:
        """Serve only some of the requests of a protocol version, until ``set_version``."""
        self.table = restricted_table(tuple(map(type, self.objects)), version, served, refuse)

    def stats_of(self, request: Request | Notification) -> MethodStats:
        """Return the figures that count a request."""
        table = self.table if request.expects_reply else self.notifications
        return self.stats[request.method if request.method in table else INVALID_METHOD]

    def on_lost(self) -> None:
        """Let go of the handlers: the session has ended."""
        self.objects, self.table, self.notifications = (), {}, {}

    def call(self, request: Request | Notification) -> Any:
        """Return the result of a request, or an awaitable of it; raise what its handler raises.

        Raises RPCError if there is no handler, or if the arguments do
        not fit.
        """
        table = self.table if request.expects_reply else self.notifications
        entry = table.get(request.method)
        name = INVALID_METHOD if entry is None else request.method
        stats = self.stats[name]
        stats.started += 1
        self.counts[stats.method] += 1
        if entry is None:
            return handler_invocation(None, request)()
        function, fewest, most, position = entry
        args = request.args
        if isinstance(args, list) and fewest <= len(args) <= most:
            return function(self.objects[position], *args)
        # aiorpcX inspects the signature each time.
        return handler_invocation(function.__get__(self.objects[position]), request)()
