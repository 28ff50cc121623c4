"""The pure-Python implementation of the bulk sync's hot loops: the reference of ``_fastbulk``.

Both compute the same from the same blocks; the tests compare them.  It serves where the Cython
module is missing, or where INDEXER is ``python``.

Buffers are ``bytes`` here, and any object with the buffer protocol in ``_fastbulk``.  No function
does I/O.  Runs in: worker threads; a chunk in one at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from struct import Struct

from electrumx.lib.hash import HASHX_LEN
from electrumx.server.bulk_sync.contents import BlockContents
from electrumx.server.runs.records import (
    HISTORY_LEN,
    KEY_LEN,
    LATE_LEN,
    OUTPOINT_ROW_KEY_LEN,
    OUTPOINT_ROW_LEN,
    OUTPUT_LEN,
    SPEND_LEN,
    UNDO_KEY_LEN,
    UNDO_LEN,
    UTXO_LEN,
    outpoint_key,
)
from electrumx.server.storage.schema import HIST_KEY_LEN, OUTPOINT_PREFIX, TXNUM_LEN, UTXO_PREFIX

Put = Callable[[bytes, bytes], None]

_LE4 = Struct("<I").pack
_LE8 = Struct("<Q").pack
_BE2 = Struct(">H").pack
_BE4 = Struct(">I").pack
#: flags of an output that can be spent before the genesis upgrade, and after it
_LEGACY, _GENESIS = 1, 2


def _undo_item(output: bytes) -> bytes:
    """Return the undo item of an output, from its number on."""
    return output[TXNUM_LEN:-8] + output[:TXNUM_LEN][::-1] + output[-8:]


def _be5(tx_num: int) -> bytes:
    return tx_num.to_bytes(TXNUM_LEN, "big")


class Chunk:
    """The result of consecutive blocks: unspent outputs, spends of older ones, and history.

    The join alone decides on outputs of coinbase transactions, as a duplicate overwrites the first.
    """

    #: measured with 64-bit CPython 3.11: bytes of an output in the table, and of the other records
    BYTES_PER_OUTPUT = 230
    BYTES_PER_RECORD = 80

    def __init__(self) -> None:
        #: outpoint key -> tx_num BE5, hashX, value LE8
        self._recent: dict[bytes, bytes] = {}
        self._coinbase: list[bytes] = []
        self._spends: list[bytes] = []
        self._history: list[bytes] = []
        self._late: list[bytes] = []
        self._undo: list[bytes] = []

    @property
    def memsize(self) -> int:
        """Bytes taken by outputs and spends, about."""
        records = len(self._coinbase) + len(self._spends) + len(self._late)
        return len(self._recent) * self.BYTES_PER_OUTPUT + records * self.BYTES_PER_RECORD

    @property
    def history_memsize(self) -> int:
        """Bytes taken by the history and the undo records not taken yet, about."""
        return (len(self._history) + len(self._undo)) * self.BYTES_PER_RECORD

    def add(
        self,
        block: BlockContents,
        first_tx_num: int,
        after_genesis: bool,
        any_order: bool,
        undo_height: int = -1,
    ) -> None:
        """Add a block, whose first transaction has a number.

        ``after_genesis`` selects the rule for spendable outputs; with ``any_order`` a transaction
        may spend an output of a later one of the block.  ``undo_height`` is the block's height, or
        -1 to make no undo records.
        """
        self._undo_height, self._undo_number = undo_height, 0
        rule = _GENESIS if after_genesis else _LEGACY
        txs = block.transactions()
        hashes = block.tx_hashes
        first_is_coinbase = bool(txs) and not txs[0][0]
        if any_order:
            for n, (_spends, outputs) in enumerate(txs):
                tx_hash = hashes[32 * n : 32 * n + 32]
                self._add_outputs(
                    tx_hash, outputs, first_tx_num + n, rule, not n and first_is_coinbase
                )
        for n, (spends, outputs) in enumerate(txs):
            self._spend(spends, first_tx_num + n)
            if not any_order:
                tx_hash = hashes[32 * n : 32 * n + 32]
                self._add_outputs(
                    tx_hash, outputs, first_tx_num + n, rule, not n and first_is_coinbase
                )

    def _spend(self, spends: Iterable[tuple[bytes, int]], tx_num: int) -> None:
        for tx_hash, idx in spends:
            key = outpoint_key(tx_hash, _LE4(idx))
            output = self._recent.pop(key, None)
            if output is None:
                self._spends.append(key + _be5(tx_num))
                if self._undo_height >= 0:
                    self._late.append(key + _be5(tx_num) + self._next_place())
            else:
                self.add_history(output[TXNUM_LEN : TXNUM_LEN + HASHX_LEN], tx_num)
                if self._undo_height >= 0:
                    self._undo.append(self._next_place() + _undo_item(output))

    def _next_place(self) -> bytes:
        """Return the height of the block and the number of a spend in it."""
        place = _BE4(self._undo_height) + _BE4(self._undo_number)
        self._undo_number += 1
        return place

    def _add_outputs(
        self,
        tx_hash: bytes,
        outputs: Iterable[tuple[bytes, int, int]],
        tx_num: int,
        rule: int,
        coinbase: bool,
    ) -> None:
        for idx, (hashX, value, flags) in enumerate(outputs):
            if not flags & rule:
                continue
            key = outpoint_key(tx_hash, _LE4(idx))
            output = _be5(tx_num) + hashX + _LE8(value)
            if coinbase:
                self._coinbase.append(key + output)
            else:
                self._recent[key] = output
            self.add_history(hashX, tx_num)

    def add_history(self, hashX: bytes, tx_num: int) -> None:
        """Note that a transaction touches a script."""
        self._history.append(hashX + _be5(tx_num))

    def take_history(self) -> list[bytes]:
        """Take the history noted so far, for :func:`sort_history`."""
        history, self._history = self._history, []
        return history

    def take_undo(self) -> bytes:
        """Take the undo records made so far, in sorted order."""
        undo, self._undo = self._undo, []
        return b"".join(undo)

    def late(self) -> bytes:
        """Return those of the spends that need undo records, sorted."""
        return b"".join(sorted(self._late))

    def outputs(self) -> bytes:
        """Return the unspent outputs, sorted.  Empties the table; call it last."""
        recent, self._recent = self._recent, {}
        records = [key + output for key, output in recent.items()]
        return b"".join(sorted(records + self._coinbase))

    def spends(self) -> bytes:
        """Return the spends of outputs that older chunks have, or that coinbases made, sorted."""
        return b"".join(sorted(self._spends))


def sort_history(taken: list[bytes]) -> bytes:
    """Return history taken from a chunk, sorted, each record once."""
    return b"".join(sorted(set(taken)))


def _records(buffers: Iterable[bytes], length: int) -> list[bytes]:
    return [
        bytes(buffer[n : n + length]) for buffer in buffers for n in range(0, len(buffer), length)
    ]


def merge_history(buffers: Sequence[bytes]) -> bytes:
    """Return the history of several buffers, sorted, each record once."""
    return b"".join(sorted(set(_records(buffers, HISTORY_LEN))))


def merge_utxos(buffers: Sequence[bytes]) -> bytes:
    """Return the utxos of several buffers, sorted."""
    return b"".join(sorted(_records(buffers, UTXO_LEN)))


def merge_records(buffers: Sequence[bytes], length: int) -> bytes:
    """Return the records of several buffers, sorted by all their bytes."""
    return b"".join(sorted(_records(buffers, length)))


def merge_undo(buffers: Sequence[bytes]) -> bytes:
    """Return the undo records of several buffers, sorted."""
    return b"".join(sorted(_records(buffers, UNDO_LEN)))


def join(
    outputs: Sequence[bytes], spends: Sequence[bytes], late: Sequence[bytes] = ()
) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Match spends with the outputs of the same outpoints; ``late`` has some of them again.

    A repeated output overwrites the one before; a spend is of the last output before it.  Raise
    KeyError with the outpoint's key and the spender's number if that is missing.  Return the fields
    of ``records.Joined``.
    """
    # Of equal numbers the output comes first.
    events = sorted(_records(outputs, OUTPUT_LEN) + _records(spends, SPEND_LEN), key=_event_order)
    rows: list[bytes] = []
    utxos: list[bytes] = []
    history: set[bytes] = set()
    undo: list[bytes] = []
    overwritten: list[bytes] = []
    places = {record[:SPEND_LEN]: record[SPEND_LEN:] for record in _records(late, LATE_LEN)}
    unspent: bytes | None = None
    for n, event in enumerate(events):
        key, tx_num = event[:KEY_LEN], event[KEY_LEN:SPEND_LEN]
        if len(event) == OUTPUT_LEN:
            if unspent is not None:
                overwritten.append(tx_num + unspent)
            unspent = event
        elif unspent is None:
            raise KeyError(key, int.from_bytes(tx_num, "big"))
        else:
            history.add(unspent[SPEND_LEN : SPEND_LEN + HASHX_LEN] + tx_num)
            if event in places:
                undo.append(places[event] + _undo_item(unspent[KEY_LEN:]))
            unspent = None
        if n + 1 == len(events) or events[n + 1][:KEY_LEN] != key:
            if unspent is not None:
                hashX, value = unspent[SPEND_LEN:-8], unspent[-8:]
                suffix = key[4:8] + unspent[KEY_LEN:SPEND_LEN][::-1]
                rows.append(key[:4] + suffix + hashX)
                utxos.append(hashX + suffix + value)
            unspent = None
    rows.sort()
    return (
        b"".join(rows),
        b"".join(sorted(utxos)),
        b"".join(sorted(history)),
        b"".join(sorted(undo)),
        b"".join(overwritten),
    )


def _event_order(event: bytes) -> tuple[bytes, bool]:
    return event[:SPEND_LEN], len(event) == SPEND_LEN


def put_outpoint_rows(put: Put, rows: bytes, first: int, max_bytes: int) -> int:
    """Call ``put(key, value)`` for ``h`` rows from the ``first`` on, for ``max_bytes`` or more.

    Return the number of the next row; the number of rows at the end.
    """
    size = 0
    for row in _records([rows[first * OUTPOINT_ROW_LEN :]], OUTPOINT_ROW_LEN):
        if size >= max_bytes:
            break
        put(OUTPOINT_PREFIX + row[:OUTPOINT_ROW_KEY_LEN], row[OUTPOINT_ROW_KEY_LEN:])
        size += OUTPOINT_ROW_LEN + 1
        first += 1
    return first


def put_utxo_rows(put: Put, utxos: bytes, first: int, max_bytes: int) -> int:
    """Do the same for the ``u`` rows of sorted utxos."""
    size = 0
    for utxo in _records([utxos[first * UTXO_LEN :]], UTXO_LEN):
        if size >= max_bytes:
            break
        put(UTXO_PREFIX + utxo[:-8], utxo[-8:])
        size += UTXO_LEN + 1
        first += 1
    return first


def put_undo_rows(
    put: Callable[[int, bytes], None], undo: bytes, first_height: int, last_height: int
) -> None:
    """Call ``put(height, items)`` for each height of a range with the items of its records.

    The records are sorted; those of other heights are left out.
    """
    items: dict[int, list[bytes]] = {height: [] for height in range(first_height, last_height + 1)}
    for record in _records([undo], UNDO_LEN):
        height = int.from_bytes(record[:4], "big")
        if height in items:
            items[height].append(record[UNDO_KEY_LEN:])
    for height, found in items.items():
        put(height, b"".join(found))


class HistoryRows:
    """Makes rows of sorted history; its state goes on from one buffer to the next.

    A row has at most ``row_entries`` numbers; a script that has more gets several rows with ids
    from 1 on.  ``hashX`` and ``flush_id`` are those of the last row made, if there is one.
    """

    def __init__(self, row_entries: int, hashX: bytes = b"", flush_id: int = 0):
        self.row_entries = row_entries
        self.hashX = hashX
        self.flush_id = flush_id
        #: the highest id made
        self.max_flush_id = flush_id

    def put_rows(self, put: Put, history: bytes, first: int, max_bytes: int) -> int:
        """Call ``put(key, row)`` for records from the ``first`` on, for ``max_bytes`` or more.

        Return the number of the next record; the number of records at the end.
        """
        size = 0
        count = len(history) // HISTORY_LEN
        while first < count and size < max_bytes:
            hashX = bytes(history[first * HISTORY_LEN : first * HISTORY_LEN + HASHX_LEN])
            numbers: list[bytes] = []
            while first < count and len(numbers) < self.row_entries:
                record = bytes(history[first * HISTORY_LEN : (first + 1) * HISTORY_LEN])
                if record[:HASHX_LEN] != hashX:
                    break
                numbers.append(record[HASHX_LEN:][::-1])
                first += 1
            self.flush_id = self.flush_id + 1 if hashX == self.hashX else 1
            self.hashX = hashX
            self.max_flush_id = max(self.max_flush_id, self.flush_id)
            row = b"".join(numbers)
            put(hashX + _BE2(self.flush_id), row)
            size += len(row) + HIST_KEY_LEN
        return first
