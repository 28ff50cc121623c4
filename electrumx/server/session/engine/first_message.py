"""The required first bytes of a connection, so that no other protocol carries commands.

A web page can have a browser connect to any port of this machine and send lines of its choice: as
the body of an HTTP request, in an address, in a TLS or TURN handshake.  Each of these begins with
bytes that the page cannot choose, and none of them is the beginning of a JSON-RPC message.

Pure functions; a session calls them once, on the event loop.
"""

import re

# A request line, METHOD SP TARGET SP HTTP/VERSION, or a field, NAME ":": that is the first line
# that remains where the request line was over-long and dropped.  No known method or name is longer.
_HTTP = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} [^ ]+ HTTP/[0-9]|[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}:"
)
_JSON_SPACE = b" \t\r\n"

#: the reply to a refused first message
INVALID_JSON = b'{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}'


def is_http(line: bytes) -> bool:
    """Return whether a line is a request line or field of HTTP/1, or the preface of HTTP/2."""
    return _HTTP.match(line) is not None


def may_be_json_rpc(message: bytes) -> bool:
    """Return whether a message begins as a JSON object or array does."""
    return message.lstrip(_JSON_SPACE)[:1] in (b"{", b"[")
