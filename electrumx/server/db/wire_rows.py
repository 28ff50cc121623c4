"""Rows of the database as clients see them: entries, UTXOs, texts, proofs.  Pure.

*Packed history* is a string of 36 bytes an entry: tx hash, height LE4; in chain order.  *Packed
UTXOs* are 48 bytes each: tx hash, height LE4, txout_idx LE4, value LE8; in chain order.  One step
makes both from the rows of the stores, the caches keep them, and one step converts them to JSON, with
no Python object for an entry in between: an address can have half a million.

*Touch records* name the scripts that the transactions of a block touch, in 16 bytes each: hashX,
tx_num BE5; ascending, each once.  They extend cached histories without the stores.

The functions of this module are the reference implementation, in pure Python, of those with the
same names in ``_fastquery.pyx``, which replace them where they are built.  ``tests/property``
compares both.  Runs in: any thread; functions that read hashes block.
"""

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import NamedTuple, Protocol

from electrumx.lib.hash import HASHX_LEN, hash_to_hex_str, sha256
from electrumx.lib.merkle import Merkle
from electrumx.server.storage.schema import (
    HASH_LEN,
    HISTORY_ENTRY_LEN,
    PACKED_UTXO_LEN,
    SUFFIX_LEN,
    TOUCH_RECORD_LEN,
    TXNUM_LEN,
    cut_row,
    unpack_tx_nums,
)

__all__ = [
    "COMPILED",
    "HISTORY_ENTRY_LEN",
    "PACKED_UTXO_LEN",
    "entries_of",
    "extend_histories",
    "hashXs_of",
    "hexlify",
    "history_json",
    "merkle_levels",
    "pack_histories",
    "pack_utxos",
    "render_statuses",
    "status_of",
    "status_text",
    "sum_utxos",
    "utxos_json",
]

_ENTRY = Struct("<32sI")
_UTXO = Struct("<32sIIQ")
_SUFFIX_IDX = Struct("<I")
_VALUE = Struct("<Q")
assert (_ENTRY.size, _UTXO.size) == (HISTORY_ENTRY_LEN, PACKED_UTXO_LEN)


class OpenFile(Protocol):
    """An open file; it closes with the last reference to the object."""

    fd: int


# Return the physical file of hashes with a number, None if it is missing.
OpenHashes = Callable[[int], OpenFile | None]
# key and value of a ``u`` row
UTXORows = list[tuple[bytes, bytes]]


def _hashes(tx_nums: list[int], open_file: OpenHashes, per_file: int) -> Iterator[bytes]:
    for tx_num in tx_nums:
        number, index = divmod(tx_num, per_file)
        file = open_file(number)
        yield b"" if file is None else os.pread(file.fd, HASH_LEN, index * HASH_LEN)


def pack_histories(
    rows: list[bytes],
    tx_count: int,
    tx_counts: "array[int]",
    open_file: OpenHashes,
    per_file: int,
) -> list[tuple[bytes, int] | None]:
    """Return (packed history, last number) of each row of ascending transaction numbers, LE5 each.

    Numbers from ``tx_count`` on are left out; where none is left, -1 stands for the last.
    ``tx_counts`` has the cumulative count of each height; ``per_file`` is the number of hashes in
    a physical file.  None in place of a row of which a hash is missing from the files.
    """
    return [
        _pack_history(row[: cut_row(row, tx_count)], tx_counts, open_file, per_file) for row in rows
    ]


def _pack_history(
    row: bytes, tx_counts: "array[int]", open_file: OpenHashes, per_file: int
) -> tuple[bytes, int] | None:
    tx_nums = unpack_tx_nums(row)
    parts = []
    for tx_num, tx_hash in zip(tx_nums, _hashes(tx_nums, open_file, per_file), strict=True):
        if len(tx_hash) != HASH_LEN:
            return None
        parts.append(_ENTRY.pack(tx_hash, bisect_right(tx_counts, tx_num)))
    return b"".join(parts), tx_nums[-1] if tx_nums else -1


def _unpack(rows: UTXORows) -> list[tuple[int, int, int]]:
    """Return (tx number, txout_idx, value) of each row."""
    result = []
    for key, value in rows:
        suffix = key[-SUFFIX_LEN:]
        tx_num = int.from_bytes(suffix[-TXNUM_LEN:], "little")
        result.append((tx_num, _SUFFIX_IDX.unpack_from(suffix)[0], _VALUE.unpack(value)[0]))
    return result


def sum_utxos(rows: UTXORows, tx_count: int) -> int | None:
    """Return the sum of the values of UTXOs; None if one is of transaction ``tx_count`` or later."""
    utxos = _unpack(rows)
    if any(tx_num >= tx_count for tx_num, _idx, _value in utxos):
        return None
    return sum(value for _num, _idx, value in utxos)


def pack_utxos(
    rows: UTXORows,
    tx_count: int,
    tx_counts: "array[int]",
    open_file: OpenHashes,
    per_file: int,
) -> bytes | None:
    """Return packed UTXOs, sorted; None if one is of transaction ``tx_count`` or later.

    The other arguments, and the other reason for None, are those of :func:`pack_histories`.
    """
    utxos = sorted(_unpack(rows))
    tx_nums = [tx_num for tx_num, _idx, _value in utxos]
    if tx_nums and tx_nums[-1] >= tx_count:
        return None
    parts = []
    hashes = _hashes(tx_nums, open_file, per_file)
    for (tx_num, txout_idx, value), tx_hash in zip(utxos, hashes, strict=True):
        if len(tx_hash) != HASH_LEN:
            return None
        parts.append(_UTXO.pack(tx_hash, bisect_right(tx_counts, tx_num), txout_idx, value))
    return b"".join(parts)


def entries_of(packed: bytes) -> list[tuple[bytes, int]]:
    """Return (tx hash, height) of each entry of packed history."""
    return list(_ENTRY.iter_unpack(packed))


def utxos_of(packed: bytes) -> list[tuple[bytes, int, int, int]]:
    """Return (tx hash, height, txout_idx, value) of each packed UTXO."""
    return list(_UTXO.iter_unpack(packed))


def pack_entry(tx_hash: bytes, height: int) -> bytes:
    """Return one entry of packed history."""
    return _ENTRY.pack(tx_hash, height)


def pack_utxo(tx_hash: bytes, height: int, txout_idx: int, value: int) -> bytes:
    """Return one packed UTXO."""
    return _UTXO.pack(tx_hash, height, txout_idx, value)


def history_json(packed: bytes) -> bytes:
    """Return packed history as JSON objects joined by commas, without the list's brackets."""
    return ",".join(
        f'{{"tx_hash":"{hash_to_hex_str(tx_hash)}","height":{height}}}'
        for tx_hash, height in _ENTRY.iter_unpack(packed)
    ).encode()


def utxos_json(packed: bytes) -> bytes:
    """Return packed UTXOs as JSON objects joined by commas, without the list's brackets."""
    return ",".join(
        f'{{"tx_hash":"{hash_to_hex_str(tx_hash)}","tx_pos":{txout_idx},'
        f'"height":{height},"value":{value}}}'
        for tx_hash, height, txout_idx, value in _UTXO.iter_unpack(packed)
    ).encode()


def status_text(packed: bytes) -> bytes:
    """Return the text whose SHA-256 is the status of a script with this confirmed history."""
    return "".join(
        f"{hash_to_hex_str(tx_hash)}:{height}:" for tx_hash, height in _ENTRY.iter_unpack(packed)
    ).encode()


def status_of(packed: bytes) -> tuple[str | None, int]:
    """Return (status of a script with this confirmed history, in hex; length of its text)."""
    text = status_text(packed)
    return sha256(text).hex() if text else None, len(text)


class Addition(NamedTuple):
    """The touch records of consecutive blocks, which extend the history of every script."""

    #: see the module's docstring
    records: bytes
    #: of the blocks' transactions, joined
    tx_hashes: bytes
    #: number of the first of them
    first_tx_num: int
    #: number of the transaction after the last, of each block
    ends: "array[int]"
    #: height of the first block
    height: int


#: the packed history, the last transaction's number, status in hex, and length of its text
Extended = tuple[bytes, int, str | None, int]


def make_records(hashXs_by_tx: Iterable[Iterable[bytes]], first_tx_num: int) -> list[bytes]:
    """Return the records, unsorted, of consecutive transactions and the scripts they touch."""
    return [
        hashX + tx_num.to_bytes(TXNUM_LEN, "big")
        for tx_num, hashXs in enumerate(hashXs_by_tx, start=first_tx_num)
        for hashX in hashXs
    ]


def hashXs_of(records: bytes) -> set[bytes]:
    """Return the scripts that records name."""
    return {records[n : n + HASHX_LEN] for n in range(0, len(records), TOUCH_RECORD_LEN)}


def extend_histories(
    hashXs: list[bytes], known: list[bytes | None], last_tx_nums: list[int], addition: Addition
) -> list[Extended]:
    """Return the histories of scripts, extended beyond their last transactions.

    ``known`` has the packed history so far, and the result then has the whole, and its status; or
    None, and the result has the new entries, and None and 0 in place of the status.
    """
    records = addition.records
    lines = [records[n : n + TOUCH_RECORD_LEN] for n in range(0, len(records), TOUCH_RECORD_LEN)]
    result: list[Extended] = []
    for hashX, so_far, tx_num in zip(hashXs, known, last_tx_nums, strict=True):
        at = bisect_left(lines, hashX + (tx_num + 1).to_bytes(TXNUM_LEN, "big"))
        parts = [] if so_far is None else [so_far]
        while at < len(lines) and lines[at].startswith(hashX):
            tx_num = int.from_bytes(lines[at][HASHX_LEN:], "big")
            place = (tx_num - addition.first_tx_num) * HASH_LEN
            height = addition.height + bisect_right(addition.ends, tx_num)
            parts.append(_ENTRY.pack(addition.tx_hashes[place : place + HASH_LEN], height))
            at += 1
        entries = b"".join(parts)
        status, text_len = (None, 0) if so_far is None else status_of(entries)
        result.append((entries, tx_num, status, text_len))
    return result


def render_statuses(
    parts: tuple[bytes, bytes, bytes],
    records: bytearray,
    places: list[int],
    statuses: list[str | None],
) -> bytes:
    """Return a line for each status, joined: parts of a message, with script hash and status between.

    The hash, to be displayed reversed, is at its place in ``records``; the status is a JSON text, or
    null.
    """
    first, middle, last = parts
    lines = []
    for place, status in zip(places, statuses, strict=True):
        script_hash = records[place : place + HASH_LEN][::-1].hex().encode()
        text = b"null" if status is None else b'"%b"' % status.encode()
        lines.append(first + script_hash + middle + text + last)
    return b"\n".join(lines)


def merkle_levels(hashes: bytes) -> bytes:
    """Return the levels of a merkle tree above its leaves, joined, the root last.

    Each is half as long as the one below, rounded up.
    """
    count = len(hashes) // HASH_LEN
    if not count:
        return b""
    leaves = [hashes[n : n + HASH_LEN] for n in range(0, len(hashes), HASH_LEN)]
    above = []
    for level in Merkle().levels(leaves)[1:]:
        # Without the copy of its last hash that an odd level ends with.
        count = (count + 1) // 2
        above += level[:count]
    return b"".join(above)


def hexlify(data: bytes) -> bytes:
    """Return bytes as lower-case hex digits."""
    return data.hex().encode()


#: the pure-Python implementation by name, for tests
READABLE = {
    name: globals()[name]
    for name in (
        "utxos_json",
        "extend_histories",
        "hashXs_of",
        "hexlify",
        "history_json",
        "merkle_levels",
        "pack_utxos",
        "pack_histories",
        "render_statuses",
        "status_of",
        "status_text",
        "sum_utxos",
    )
}

try:
    from electrumx.server.db._fastquery import (  # type: ignore[assignment]
        extend_histories,
        hashXs_of,
        hexlify,
        history_json,
        merkle_levels,
        pack_histories,
        pack_utxos,
        render_statuses,
        status_of,
        status_text,
        sum_utxos,
        utxos_json,
    )

    #: whether the Cython implementation is in use
    COMPILED = True
except ImportError:
    COMPILED = False
