"""Reads and judges answers of the node, which may be of any length and say anything.

Owns the limits of answers by method.  Reading a body ends at its limit; a worker thread parses
a long one, and long hex.  A text that is no JSON-RPC reply is a MalformedReplyError, for
which a request repeats; an error, or a result without the documented form, is a DaemonError.

Runs in: the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, TypeGuard, TypeVar

import aiohttp
import orjson
from aiorpcx import JSONRPC

from electrumx.lib.errors import ElectrumXError
from electrumx.lib.hash import hex_str_to_hash
from electrumx.lib.log_text import printable
from electrumx.server.daemon.byte_budget import ByteBudget
from electrumx.server.daemon.retry import MalformedReplyError

# Work on less than this many bytes (characters of hex) happens on the loop: a thread's hand-over
# costs about as much.
THREAD_THRESHOLD = 200_000

_MIB = 1 << 20
# Bytes of an answer at most, for methods that are not in the table.
SMALL_REPLY = 1_000_000
# Bytes of an answer at most. A block is twice as long in hex.
REPLY_LIMITS = {
    "getblock": 1024 * _MIB,
    # Four million transactions.
    "getrawmempool": 256 * _MIB,
    "getrawtransaction": 128 * _MIB,
    "masternodelist": 64 * _MIB,
    "smartnodelist": 64 * _MIB,
    "znodelist": 64 * _MIB,
    "protx": 64 * _MIB,
    "smartrewards": 64 * _MIB,
}
# An answer to a batch may be longer by this, in bytes, for each request in it.
BATCH_ITEM = 1_000
# Of several blocks requested together, in bytes of blocks; as hex they take twice that.
BLOCK_BATCH_BYTES = 32 * _MIB
# Bytes of answers read at the same time, over all requests. Small ones do not count.
TOTAL_REPLY_BYTES = 1024 * _MIB

_T = TypeVar("_T")
_R = TypeVar("_R")


class DaemonError(ElectrumXError):
    """The node answered with an error.

    args[0] is the JSON-RPC error object (a dict with "code" and "message") of a single request,
    or a list of them for a batch.
    """

    def __repr__(self) -> str:
        # Clients are shown this.
        return f"DaemonError({', '.join(map(repr, self.args))})"

    def has_code(self, code: int) -> bool:
        """Return whether the node answered with an error code, to each failed request of a batch."""
        errors = self.args[0] if isinstance(self.args[0], list) else [self.args[0]]
        return all(isinstance(item, dict) and item.get("code") == code for item in errors)


class ForbiddenCallError(DaemonError):
    """The node answers others, but does not allow this call (``rpcwhitelist``)."""

    CODE = 403


class ReplyTooLargeError(DaemonError):
    """The node's answer exceeds the limit of its method."""


class ResponseTooLargeError(Exception):
    """Internal: the body exceeds the limit, which is args[0] in bytes."""


class BoundedResponse(aiohttp.ClientResponse):
    """A response read up to a limit at most, whose big bodies a thread parses."""

    # No JSON body is longer, in bytes, whatever the limit of its method is.
    max_bytes = 1024 * _MIB
    # Other bodies, truncated, only serve to show the operator why the node refused us.
    max_text_bytes = 16_384

    async def json(self, **_kwargs: Any) -> Any:
        """Return the parsed body. Raises ResponseTooLargeError, MalformedReplyError."""
        return await self.parsed(parse_json, self.max_bytes)

    def _announced_bytes(self) -> int | None:
        """Return the length of the body as the headers announce it, None if they do not."""
        return None if "Content-Encoding" in self.headers else self.content_length

    async def parsed(
        self,
        parse: Callable[[bytearray], Any],
        max_bytes: int,
        budget: ByteBudget | None = None,
    ) -> Any:
        """Return ``parse(body)``.  Raises ResponseTooLargeError, and the exceptions of ``parse``.

        Reading a reply longer than SMALL_REPLY waits until ``budget`` has room for it.
        """
        max_bytes = min(max_bytes, self.max_bytes)
        announced = self._announced_bytes()
        if announced is not None and announced > max_bytes:
            raise ResponseTooLargeError(max_bytes)
        chunks: list[bytes] = []
        length, reserved = 0, False

        def parse_all() -> Any:
            # Not joined on the way: an array of 20 MB takes 10 ms each time that it grows.
            body = bytearray().join(chunks)
            chunks.clear()
            return parse(body)

        async with AsyncExitStack() as stack:
            async for chunk in self.content.iter_any():
                chunks.append(chunk)
                length += len(chunk)
                if length > max_bytes:
                    raise ResponseTooLargeError(max_bytes)
                if length > SMALL_REPLY and budget is not None and not reserved:
                    reserved = True
                    wanted = max_bytes if announced is None else announced
                    await stack.enter_async_context(budget.reserve(wanted))
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


def reply_limit(method: str, count: int = 1) -> int:
    """Return the most bytes of an answer to ``count`` requests for a method, sent together."""
    return REPLY_LIMITS.get(method, SMALL_REPLY) + BATCH_ITEM * (count - 1)


class Reading(NamedTuple):
    """How to read the body of an answer: by which function, and how many bytes of it."""

    parse: Callable[[bytearray], Any]
    max_bytes: int = SMALL_REPLY


def parse_json(body: bytearray) -> Any:
    """Return the value of a body; MalformedReplyError if it is no JSON."""
    try:
        return orjson.loads(body)
    except (ValueError, RecursionError) as e:
        raise MalformedReplyError(f"not JSON: {printable(e)}") from None


async def in_parts(
    ask: Callable[[Sequence[_T]], Awaitable[Sequence[_R]]], items: Sequence[_T]
) -> list[_R]:
    """Return the results of ``ask`` for all items, in order.

    If the answer is too large, request the items in halves, until it fits.  Raises
    ReplyTooLargeError if that of a single one is too large.
    """
    try:
        return list(await ask(items))
    except ReplyTooLargeError:
        if len(items) <= 1:
            raise
    half = len(items) // 2
    first = await in_parts(ask, items[:half])
    return first + await in_parts(ask, items[half:])


def in_order(reply: list[dict[str, Any]], ids: list[object]) -> list[dict[str, Any]]:
    """Put responses in the order of their requests, which JSON-RPC does not promise."""
    by_id = {item.get("id"): item for item in reply if isinstance(item.get("id"), int)}
    if len(by_id) == len(ids) and all(request_id in by_id for request_id in ids):
        return [by_id[request_id] for request_id in ids]
    # Nodes that do not echo our ids answer in order.
    return reply


def unexpected(method: str) -> DaemonError:
    """Return the error to raise for a result without the documented form."""
    return DaemonError(
        {"code": JSONRPC.INTERNAL_ERROR, "message": f"daemon's answer to {method} makes no sense"}
    )


def is_unknown_method(error: DaemonError) -> bool:
    """Return whether the error of a single request means that the node has no such method."""
    return bool(error.args[0].get("code") == JSONRPC.METHOD_NOT_FOUND)


def block_hash(hex_hash: str) -> bytes:
    """Return the hash, as in serialised blocks, that the node gave in hex; DaemonError if none."""
    try:
        result = hex_str_to_hash(hex_hash)
    except ValueError:
        result = b""
    if len(result) != 32:
        raise unexpected("getblockhash")
    return result


def checked_hashes(method: str, hashes: object) -> list[str]:
    """Return the hex hashes that are the result of a method; DaemonError if it is no list of texts."""
    if not isinstance(hashes, list) or not all(isinstance(item, str) for item in hashes):
        raise unexpected(method)
    return hashes


def is_int(value: object) -> TypeGuard[int]:
    """Return whether a JSON value is an integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _unhex_or_none(value: object) -> bytes | None:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        return None


async def unhex_list(values: Sequence[object]) -> list[bytes | None]:
    """Convert hex texts to bytes, in a thread if they are long; None for a text that is not hex."""
    length = sum(len(value) for value in values if isinstance(value, str))
    if length < THREAD_THRESHOLD:
        return [_unhex_or_none(value) for value in values]
    return await asyncio.to_thread(lambda: [_unhex_or_none(value) for value in values])
