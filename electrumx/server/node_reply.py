"""Answers of the node, which may be of any length and say anything: how they are read and judged.

Owns nothing.  A body is read up to a limit; a long one is parsed in a worker thread, and so is long
hex.  What is no JSON-RPC reply is a MalformedReplyError, for which a request is repeated; a reply
that is an error, or not what its method promises, is a DaemonError.

Runs in: the event loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiorpcx import JSONRPC

from electrumx.lib.errors import ElectrumXError
from electrumx.lib.hash import hex_str_to_hash
from electrumx.server.outage import MalformedReplyError, printable

# Work on less than this many bytes (characters of hex) is done on the loop: a thread's hand-over
# costs about as much.
THREAD_THRESHOLD = 200_000


class DaemonError(ElectrumXError):
    """The node answered with an error.

    args[0] is the JSON-RPC error object (a dict with "code" and "message") of a single request,
    or a list of them for a batch.
    """


class ReplyTooLargeError(DaemonError):
    """The node's answer exceeds the limit."""


class ResponseTooLargeError(Exception):
    """Internal: the body exceeds the limit."""


class BoundedResponse(aiohttp.ClientResponse):
    """A response that is never read beyond a limit, and whose big bodies are parsed in a thread."""

    # Limit of a JSON body in bytes; a batch of raw blocks is tens of megabytes.
    max_bytes = 1 << 30
    # Other bodies only serve to tell the operator why we were refused; the rest is cut off.
    max_text_bytes = 16_384

    async def json(self, **_kwargs: Any) -> Any:
        """Return the parsed body. Raises ResponseTooLargeError, MalformedReplyError."""
        return await self.parsed(parse_json, self.max_bytes)

    async def parsed(self, parse: Callable[[bytearray], Any], max_bytes: int) -> Any:
        """Return what parse makes of the body. Raises ResponseTooLargeError, and what parse does."""
        max_bytes = min(max_bytes, self.max_bytes)
        chunks, length = [], 0
        async for chunk in self.content.iter_any():
            chunks.append(chunk)
            length += len(chunk)
            if length > max_bytes:
                raise ResponseTooLargeError(f"response is larger than {max_bytes:,d} bytes")

        def parse_all() -> Any:
            # Not joined on the way: an array of 20 MB takes 10 ms each time that it grows.
            return parse(bytearray().join(chunks))

        if length < THREAD_THRESHOLD:
            return parse_all()
        return await asyncio.to_thread(parse_all)

    async def text(self, *_args: Any, **_kwargs: Any) -> str:
        """Return the beginning of the body."""
        body = bytearray()
        async for chunk in self.content.iter_any():
            body += chunk
            if len(body) > self.max_text_bytes:
                break
        return body[: self.max_text_bytes].decode("utf-8", "replace")


@dataclass(slots=True, frozen=True)
class Reading:
    """How the body of an answer is read: by which function, and how many bytes of it."""

    parse: Callable[[bytearray], Any]
    max_bytes: int = BoundedResponse.max_bytes


def parse_json(body: bytearray) -> Any:
    """Return the value of a body; MalformedReplyError if it is no JSON."""
    try:
        return orjson.loads(body)
    except (ValueError, RecursionError) as e:
        raise MalformedReplyError(f"not JSON: {printable(e)}") from None


AS_JSON = Reading(parse_json)


def in_order(reply: list[dict[str, Any]], ids: list[object]) -> list[dict[str, Any]]:
    """Put responses in the order of their requests, which JSON-RPC does not promise."""
    by_id = {item.get("id"): item for item in reply if isinstance(item.get("id"), int)}
    if len(by_id) == len(ids) and all(request_id in by_id for request_id in ids):
        return [by_id[request_id] for request_id in ids]
    # Nodes that do not echo our ids answer in order.
    return reply


def unexpected(method: str) -> DaemonError:
    """Return the error to raise for a result that is not what the method promises."""
    return DaemonError(
        {"code": JSONRPC.INTERNAL_ERROR, "message": f"daemon's answer to {method} makes no sense"}
    )


def block_hash(hex_hash: str) -> bytes:
    """Return the hash, as in serialised blocks, that the node gave in hex; DaemonError if none."""
    try:
        result = hex_str_to_hash(hex_hash)
    except ValueError:
        result = b""
    if len(result) != 32:
        raise unexpected("getblockhash")
    return result


def is_int(value: object) -> bool:
    """Return whether a JSON value is an integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _unhex_or_none(value: object) -> bytes | None:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        return None


async def unhex_list(values: Sequence[object]) -> list[bytes | None]:
    """Convert hex texts to bytes, in a thread if they are long; None for what is not hex."""
    length = sum(len(value) for value in values if isinstance(value, str))
    if length < THREAD_THRESHOLD:
        return [_unhex_or_none(value) for value in values]
    return await asyncio.to_thread(lambda: [_unhex_or_none(value) for value in values])
