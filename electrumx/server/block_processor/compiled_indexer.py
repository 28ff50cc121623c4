"""The Cython implementation of indexing, and which coins it serves.

Its modules are ``_fastblock``, which parses, ``_fastindex``, which has the UTXOs, and
``_fasthistory``, which has the history.  Installing the package builds them where a compiler,
Python's and OpenSSL's headers are.  Without them, or for a coin with formats of its own,
the pure-Python implementation indexes (``indexer`` and ``utxo_cache``); it is also the reference in
the tests.

Runs in: the block processor's worker thread, with the state lock held; parsing alone in any thread.
"""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from electrumx.lib.coins import Coin
from electrumx.lib.coins.base import NEVER
from electrumx.lib.coins.mixins import CashTokensMixin
from electrumx.lib.tx import Deserializer, DeserializerLitecoin, DeserializerSegWit
from electrumx.lib.util import chunks
from electrumx.server.block_processor.errors import utxo_not_found
from electrumx.server.db.utxo_lookup import row_order
from electrumx.server.storage.schema import UTXORow

if TYPE_CHECKING:
    from electrumx.server.block_processor._fastblock import FastBlock

#: the Cython modules; the one indexes what the other has parsed
parser: ModuleType | None
compiled: ModuleType | None
try:
    from electrumx.server.block_processor import _fastblock as parser
    from electrumx.server.block_processor import _fastindex as compiled
except ImportError:
    parser = compiled = None

#: finds many UTXOs on disk, as :meth:`DB.find_utxo_rows` does
Lookup = Callable[..., list[UTXORow | None]]


def _tx_format(coin: type[Coin]) -> int | None:
    """Return the number of a coin's transaction format, or None if Cython does not parse it."""
    if parser is None or not coin.STATIC_BLOCK_HEADERS:
        return None
    if any(_overrides(coin, name) for name in ("hashX_from_script", "output_rule")):
        return None
    if any(_overrides(coin, name) for name in ("block", "block_header")):
        return None
    formats: dict[type, int] = {
        Deserializer: parser.PLAIN,
        DeserializerSegWit: parser.SEGWIT,
        DeserializerLitecoin: parser.LITECOIN,
    }
    return formats.get(coin.DESERIALIZER)


def _overrides(coin: type[Coin], name: str) -> bool:
    """Return whether a coin replaces a method that the Cython implementation has built in."""
    owner = next(klass for klass in coin.__mro__ if name in klass.__dict__)
    return owner not in (Coin, CashTokensMixin)


#: the indexed fields of an unconfirmed transaction: prevouts, (hashX, value) of its outputs, virtual size
Unconfirmed = tuple[tuple[tuple[bytes, int], ...], tuple[tuple[bytes, int], ...], int]


def unconfirmed_parser(coin: type[Coin]) -> Callable[[bytes], Unconfirmed | None] | None:
    """Return the Cython parser of unconfirmed transactions, or None if it does not serve the coin.

    The parser returns None for invalid bytes.
    """
    tx_format = _tx_format(coin)
    if tx_format is None:
        return None
    assert parser
    parse = parser.parse_unconfirmed
    tokens = coin.TOKENS_ACTIVATION != NEVER
    return lambda raw: parse(raw, tx_format, tokens)


class CompiledAdds:
    """UTXOs to write, as :class:`UTXOAdds` of the pure-Python implementation."""

    def __init__(self, index: "CompiledIndex"):
        self._index = index.index

    def __len__(self) -> int:
        return int(self._index.new_utxos)

    def put_rows(self, put: Callable[[bytes, bytes], None]) -> None:
        """Call ``put`` with the rows of every UTXO."""
        if not self._index.utxos_frozen:
            self._index.freeze_utxos()
        self._index.put_utxos(put)

    def clear(self) -> None:
        """Note that UTXOs and deletes are on disk."""
        self._index.clear_utxos()


class CompiledDeletes:
    """Rows to delete, as :class:`UTXODeletes` of the pure-Python implementation."""

    def __init__(self, index: "CompiledIndex"):
        self._index = index.index

    def __len__(self) -> int:
        return 2 * int(self._index.delete_count)

    def delete_rows(self, delete: Callable[[bytes], None]) -> None:
        """Call ``delete`` with the key of every row."""
        if not self._index.utxos_frozen:
            self._index.freeze_utxos()
        self._index.delete_utxos(delete)

    def clear(self) -> None:
        """Note that UTXOs and deletes are on disk."""
        self._index.clear_utxos()


class RecentUTXOs:
    """The UTXOs of recent blocks, all of which are on disk, in an index of its own.

    It takes blocks in their order; a :class:`CompiledIndex` adopts it once it has those up to the tip.
    """

    def __init__(self, owner: "CompiledIndex"):
        self._owner = owner
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        assert compiled
        self.index = compiled.FastIndex()

    def note(self, block: "FastBlock", first_tx_num: int, height: int, most_bytes: int) -> None:
        """Note a block; drop the oldest UTXOs where they take more than ``most_bytes``."""
        after_genesis = height >= self._owner.genesis_activation
        self.index.note_committed(block, first_tx_num, after_genesis, self._owner.any_order)
        if self.index.written_bytes > most_bytes:
            self.index.evict_written(most_bytes * 3 // 4)


class CompiledIndex:
    """Parses blocks and indexes them; has UTXOs and history until their flush."""

    #: outpoints, whose rows take 400 bytes each
    LOOKED_UP_AT_ONCE = 10_000
    #: records of history that each item of :meth:`packed_hashXs` covers
    RECORDS_AT_ONCE = 100_000
    #: an entry, its slot, and its copy during a flush
    BYTES_PER_UTXO = 72 + 48

    def __init__(
        self,
        coin: type[Coin],
        tx_format: int,
        any_order: bool,
        lookup: Lookup,
        tokens_from: Callable[[], int] = lambda: 0,
    ):
        """``tokens_from`` returns the height below which the index has no tokens."""
        assert parser
        assert compiled
        self.index = compiled.FastIndex()
        self.adds = CompiledAdds(self)
        self.deletes = CompiledDeletes(self)
        self._history = self.index.history
        self._parse_block = parser.parse_block
        self._coin = coin
        self._tx_format = tx_format
        self.any_order = any_order
        self.genesis_activation = coin.GENESIS_ACTIVATION
        #: reads UTXOs on disk
        self.lookup = lookup
        self._tokens_from = tokens_from

    @classmethod
    def for_coin(
        cls,
        coin: type[Coin],
        any_order: bool,
        lookup: Lookup,
        tokens_from: Callable[[], int] = lambda: 0,
    ) -> "CompiledIndex | None":
        """Return an index if the Cython modules are built and serve the coin."""
        tx_format = _tx_format(coin)
        return None if tx_format is None else cls(coin, tx_format, any_order, lookup, tokens_from)

    def parse(self, raw_block: bytes, height: int) -> "FastBlock":
        """Parse a raw block.  Raise DeserializeError if it is malformed."""
        coin = self._coin
        block: FastBlock = self._parse_block(
            raw_block,
            coin.static_header_len(height),
            self._tx_format,
            height >= max(coin.TOKENS_ACTIVATION, self._tokens_from()),
            coin.WHOLE_BLOCKS,
        )
        return block

    def prepare(self, blocks: Sequence["FastBlock"]) -> None:
        """Read the UTXOs on disk that consecutive blocks spend or overwrite."""
        self._fetch(self.index.missing(list(blocks)), exact=False)
        self._fetch(self.index.coinbase_outpoints(list(blocks)), exact=True)

    def _fetch(self, outpoints: list[bytes], *, exact: bool) -> None:
        """Read those UTXOs that are on disk, in the order of their keys."""
        index = self.index
        outpoints.sort(key=row_order)
        for part in chunks(outpoints, self.LOOKED_UP_AT_ONCE):
            rows = self.lookup(part, index, exact=exact)
            for outpoint, row in zip(part, rows, strict=True):
                # Spending one that is not on disk either fails later.
                if row is not None:
                    index.provide(outpoint, row.item)

    def advance(self, block: "FastBlock", first_tx_num: int, height: int) -> bytes:
        """Index a block passed to :meth:`prepare`; return its undo items, joined."""
        after_genesis = height >= self.genesis_activation
        try:
            undo: bytes = self.index.advance(block, first_tx_num, after_genesis, self.any_order)
        except KeyError as e:
            outpoint = e.args[0]
            raise utxo_not_found(outpoint[:32], int.from_bytes(outpoint[32:], "little")) from None
        return undo

    def memsize(self) -> int:
        """Return the bytes taken by UTXOs, deletes included."""
        return int(self.index.memsize)

    def pending_rows(self) -> tuple[int, int]:
        """Return the numbers of UTXOs to write, and of spent ones to delete."""
        utxos, deletes = self.index.pending_rows
        return utxos, deletes

    def freeze(self, utxos: bool) -> None:
        """Freeze the history and, with ``utxos``, UTXOs and deletes, for a flush.

        :meth:`advance` may run while another thread writes that.
        """
        self._history.freeze()
        if utxos:
            self.index.freeze_utxos()

    def evict_written(self, keep_bytes: int) -> None:
        """Drop the oldest UTXOs that are on disk, until they take ``keep_bytes`` at most.

        Not while a flush is in progress.
        """
        self.index.evict_written(keep_bytes)

    def keep_written(self, most_bytes: int) -> None:
        """Drop the oldest UTXOs that are on disk if they take more than ``most_bytes``.

        Then a quarter of them goes, so that this is seldom due.  Not while a flush is in progress.
        """
        full = self.index.written_bytes > most_bytes
        self.index.evict_written(most_bytes * 3 // 4 if full else most_bytes)

    def recent(self) -> "RecentUTXOs":
        """Return an empty index of the UTXOs of recent blocks."""
        return RecentUTXOs(self)

    def adopt(self, recent: "RecentUTXOs") -> None:
        """Take over the UTXOs of the blocks up to the tip, all of which are on disk."""
        self.index.adopt(recent.index)

    # The methods of PendingHistory.

    def history_memsize(self) -> int:
        """Return the bytes taken by history."""
        return int(self._history.memsize)

    def has_history(self) -> bool:
        """Return whether history waits for a flush."""
        return bool(self._history)

    def history_hashXs(self) -> set[bytes]:
        """Return the hashXs of scripts that have history here."""
        hashXs: set[bytes] = self._history.hashXs()
        return hashXs

    def sort_history(self) -> None:
        """Sort the history by script, before :meth:`put_history`."""
        self._history.sort()

    def packed_hashXs(self) -> Iterator[bytes]:
        """Yield the hashXs of the scripts that have history to flush, joined; :meth:`sort_history` first."""
        for first in range(0, self._history.frozen_count, self.RECORDS_AT_ONCE):
            yield self._history.packed_hashXs(first, self.RECORDS_AT_ONCE)

    def put_history(
        self, put: Callable[[bytes, bytes], None], flush_id: bytes, max_bytes: int
    ) -> int:
        """Call ``put(hashX + flush_id, row)`` for the next scripts; return how many, 0 at the end."""
        return int(self._history.put_rows(put, flush_id, max_bytes))

    def clear_history(self) -> None:
        """Note that the history is on disk."""
        self._history.clear()

    def new_records(self) -> bytes:
        """Return the hashXs touched since the last call, as records of ``wire_rows``."""
        records: bytes = self._history.new_records()
        return records
