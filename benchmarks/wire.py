"""Requests and replies as lines of bytes, at little cost: a reply is looked at for its id only."""

import json
import re

#: negotiates a version that both servers know
HELLO = b'{"jsonrpc":"2.0","id":0,"method":"server.version","params":["bench",["1.4","1.6"]]}\n'
#: with the next byte, because an end of a line may hold the beginning of a number only
_ID = re.compile(rb'"id": ?(\d+)[,} ]')
#: where an id is looked for, and an error: at either end of a line
EDGE = 160


def body(method, *params):
    """A request without its id, which `line` puts in."""
    return json.dumps({"method": method, "params": params}, separators=(",", ":"))[1:].encode()


def line(number, request):
    """A request as it is sent; number: its id, from 1 on."""
    return b'{"jsonrpc":"2.0","id":%d,%b\n' % (number, request)


def id_of(reply):
    """The id of a reply; None for a notification."""
    head = reply[:EDGE]
    if b'"method"' in head:
        return None
    match = _ID.search(head) or _ID.search(_tail(reply))
    return int(match[1]) if match else None


def _tail(reply):
    # The peer fills its messages up with spaces, so that their lengths reveal nothing.
    return reply.rstrip(b" }")[-EDGE:] + b"}"


def is_error(reply):
    """True if a reply refuses."""
    return any(
        b'"error"' in edge and b'"error":null' not in edge.replace(b" ", b"")
        for edge in (reply[:EDGE], _tail(reply))
    )


class Lines:
    """Assembles lines from the bytes that arrive."""

    __slots__ = ("_parts",)

    def __init__(self):
        self._parts = []

    def feed(self, data):
        """The lines that data completes, without their ends."""
        end = data.rfind(b"\n")
        if end < 0:
            self._parts.append(data)
            return []
        whole = b"".join((*self._parts, data[:end]))
        rest = data[end + 1 :]
        self._parts = [rest] if rest else []
        return whole.split(b"\n")
