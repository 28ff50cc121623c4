"""JSON-RPC without I/O: a message's bytes to requests, and results to the bytes of replies.

``parser`` reads messages, ``requests`` holds requests and assembles their replies, ``versions``
knows how versions 1.0 and 2.0, and a message without a version, differ.
"""

from electrumx.server.session.engine.jsonrpc.parser import (
    MAX_BATCH_MEMBERS,
    MAX_MALFORMED_MEMBERS,
    MalformedMessageError,
    ParsedMessage,
    parse_message,
)
from electrumx.server.session.engine.jsonrpc.requests import Notification, Request
from electrumx.server.session.engine.jsonrpc.value_bound import check_values
from electrumx.server.session.engine.jsonrpc.versions import (
    AUTO,
    LOOSE,
    V1,
    V2,
    Version,
    notification_parts,
)

__all__ = [
    "AUTO",
    "LOOSE",
    "MAX_BATCH_MEMBERS",
    "MAX_MALFORMED_MEMBERS",
    "V1",
    "V2",
    "MalformedMessageError",
    "Notification",
    "ParsedMessage",
    "Request",
    "Version",
    "check_values",
    "notification_parts",
    "parse_message",
]
