"""The hashes in a getrawmempool reply, read in time slices.

A node with 300,000 unconfirmed transactions lists 20 MB of hex at every poll.  A JSON parser makes
one text of each hash and, being one call into C, holds the interpreter all the while; here the list
comes apart some hundred kilobytes at a time, straight into binary hashes, and other tasks run in
between.  Replies of another form go through the JSON parser, with the same result.

Pure; runs in: a thread, or the loop for short replies.
"""

import re
from binascii import unhexlify
from collections.abc import Callable, Iterable
from typing import Any

from electrumx.lib.hash import hex_str_to_hash

HASH_LEN = 32
QUOTED_LEN = 2 * HASH_LEN + 2
# Hashes in a slice: half a millisecond's work.
SLICE = 4096
# The text that may precede the list, parsed as JSON in parts.
_HEAD = re.compile(rb'\s*\{(?:[^\[\]{}]{0,200},)?\s*"result"\s*:\s*\[')
_SEPARATOR = re.compile(rb",[ \r\n\t]{0,8}")


class Listing:
    """The transactions that a node lists, in its order.

    hashes may have duplicates, if the node does; members is the set of them.
    """

    __slots__ = ("hashes", "members")

    def __init__(self, hashes: list[bytes]) -> None:
        self.hashes = hashes
        self.members: set[bytes] = set()
        for n in range(0, len(hashes), SLICE):
            self.members.update(hashes[n : n + SLICE])


def listing_of(hex_hashes: Iterable[str]) -> Listing:
    """Convert hex hashes; leave out strings that are no hash."""
    hashes = []
    for hex_hash in hex_hashes:
        try:
            tx_hash = hex_str_to_hash(hex_hash)
        except (ValueError, TypeError):
            continue
        if len(tx_hash) == HASH_LEN:
            hashes.append(tx_hash)
    return Listing(hashes)


def parse_reply(body: bytearray, parse_json: Callable[[bytearray], Any]) -> Any:
    """Parse a reply as ``parse_json`` does, except that a list of hashes becomes a Listing.

    Raises the exceptions of ``parse_json``.
    """
    head = _HEAD.match(body)
    if head is None:
        return parse_json(body)
    start = head.end()
    end = body.find(b"]", start)
    hashes = None if end < 0 else _hashes(body, start, end)
    if hashes is None:
        return parse_json(body)
    reply = parse_json(body[:start] + body[end:])
    if not isinstance(reply, dict) or reply.get("result") != []:
        return parse_json(body)
    reply["result"] = Listing(hashes)
    return reply


def _hashes(body: bytearray, start: int, end: int) -> list[bytes] | None:
    """Return the hashes between two offsets, None if something else is there."""
    if start == end:
        return []
    separator = _SEPARATOR.match(body, start + QUOTED_LEN)
    gap = len(separator[0]) if separator else 0
    stride = QUOTED_LEN + gap
    count, rest = divmod(end - start + gap, stride)
    if rest or (count > 1 and not gap):
        return None
    for at in range(gap):
        # One place of all separators: a comma first, then blanks
        column = body[start + QUOTED_LEN + at : end : stride]
        wanted = b"," if at == 0 else b" \r\n\t"
        if column.translate(None, wanted):
            return None
    hashes: list[bytes] = []
    for first in range(0, count, SLICE):
        number = min(SLICE, count - first)
        at = start + first * stride
        found = _slice(body[at : at + number * stride - gap], number, stride)
        if found is None:
            return None
        hashes += found
    return hashes


def _slice(part: bytearray, number: int, stride: int) -> list[bytes] | None:
    """Return the hashes of a slice that begins and ends with a quotation mark."""
    # Reversing all of it reverses the bytes of each, as hashes are displayed, and their order.
    opening, closing = part[::stride], part[QUOTED_LEN - 1 :: stride]
    if opening.count(b'"') != number or closing.count(b'"') != number:
        return None
    try:
        joined = unhexlify(part.translate(None, b'", \r\n\t'))[::-1]
    except ValueError:
        return None
    if len(joined) != number * HASH_LEN:
        return None
    return [joined[n : n + HASH_LEN] for n in range(len(joined) - HASH_LEN, -1, -HASH_LEN)]
