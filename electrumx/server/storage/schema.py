"""Every row and flat-file record of the database (version 8), each described once.

Owns names, widths and byte orders; does no I/O.  ``docs/storage.rst`` shows the same as tables.

Two key-value stores.  ``utxo`` holds

    ``u`` hashX(11) txout_idx LE4 tx_num LE5  ->  value LE8         21 + 8 bytes a UTXO
    ``h`` tx_hash[:4] txout_idx LE4 tx_num LE5 ->  hashX(11)        14 + 11 bytes a UTXO
    ``U`` height BE4                           ->  undo items       24 bytes a spent UTXO
    ``state``                                  ->  repr of a dict

and ``hist`` holds

    hashX(11) flush_id BE2                     ->  tx_num LE5 ...   5 bytes a (script, tx) pair
    ``state`` 00 00                            ->  repr of a dict

The nine bytes *txout_idx LE4 tx_num LE5* that end both UTXO keys are the UTXO's *suffix*.
``h`` keys carry only four bytes of the transaction hash: a look-up distinguishes collisions by the
tx_num, whose full hash is in the flat file ``meta/hashes``.  Heights of undo rows are big-endian
so that rows sort by height and pruning is one short scan.  A tx_num of five bytes lasts for 10^12
transactions.

The two NULs in the history's state key make its last two bytes read as flush id 0, which no flush
ever has, so a scan by flush id never selects it.
"""

import ast
from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple

from electrumx.lib.errors import OperatorError
from electrumx.lib.hash import HASHX_LEN

DB_VERSION = 8
HIST_VERSION = 1

# Widths, in bytes.  ``_layout.pxd`` repeats them for the Cython modules; a test compares both.
HASH_LEN = 32
TXNUM_LEN = 5
#: index of an output in its transaction
TXOUT_IDX_LEN = 4
#: satoshis
VALUE_LEN = 8
HEIGHT_LEN = 4
#: flush id in a history key
FLUSH_ID_LEN = 2
#: of the transaction hash in an ``h`` key
TX_HASH_PREFIX_LEN = 4
#: tx_hash, txout_idx LE4: how an input of a transaction names the output that it spends
OUTPOINT_LEN = HASH_LEN + TXOUT_IDX_LEN
#: txout_idx LE4, tx_num LE5
SUFFIX_LEN = TXOUT_IDX_LEN + TXNUM_LEN
UTXO_KEY_LEN = 1 + HASHX_LEN + SUFFIX_LEN
OUTPOINT_KEY_LEN = 1 + TX_HASH_PREFIX_LEN + SUFFIX_LEN
HIST_KEY_LEN = HASHX_LEN + FLUSH_ID_LEN
#: first bytes of a key by which look-ups find rows: of an outpoint, and of a script
UTXO_LOOKUP_LEN = 1 + TX_HASH_PREFIX_LEN + TXOUT_IDX_LEN
HIST_LOOKUP_LEN = HASHX_LEN
#: hashX, tx_num LE5, value LE8: one spent UTXO, also the value of a cached UTXO
UNDO_ITEM_LEN = HASHX_LEN + TXNUM_LEN + VALUE_LEN
#: hashX, tx_num BE5: that a transaction touches a script; in memory only
TOUCH_RECORD_LEN = HASHX_LEN + TXNUM_LEN
#: tx_hash, height LE4: an entry of packed history, as in the caches
HISTORY_ENTRY_LEN = HASH_LEN + HEIGHT_LEN
#: tx_hash, height LE4, txout_idx LE4, value LE8: a packed UTXO
PACKED_UTXO_LEN = HISTORY_ENTRY_LEN + TXOUT_IDX_LEN + VALUE_LEN

#: the last usable flush id, which has two bytes in a history key
MAX_FLUSH_ID = 0xFFFF

UTXO_PREFIX = b"u"
OUTPOINT_PREFIX = b"h"
UNDO_PREFIX = b"U"
STATE_KEY = b"state"
HIST_STATE_KEY = b"state\0\0"

_BE4 = Struct(">I")
_BE2 = Struct(">H")


class DBError(OperatorError):
    """The database on disk does not fit this program, coin or engine, or is damaged."""


class DBReadError(DBError):
    """The data of a request is unreadable; the reason is in the log."""


class DBDamagedError(DBReadError):
    """A row or a file is damaged; ``fault`` names it, and its fault."""

    def __init__(self, fault: str) -> None:
        super().__init__(
            f"the database is damaged: {fault}; run electrumx_rpc verify, then restore a backup of "
            "the whole database directory, or empty it to synchronise again"
        )


class DBClosedError(DBReadError):
    """The stores are closed, or closing: the server starts or stops."""

    def __init__(self, text: str = "the database is closed: the server is starting or stopping"):
        super().__init__(text)


def undo_key(height: int) -> bytes:
    """Return the key of the undo row of a height."""
    return UNDO_PREFIX + _BE4.pack(height)


def undo_key_height(key: bytes) -> int:
    """Return the height in an undo row's key."""
    return int(_BE4.unpack_from(key, 1)[0])


def hist_key(hashX: bytes, flush_id: int) -> bytes:
    """Return the key of the history row that a flush wrote for a script."""
    return hashX + _BE2.pack(flush_id)


def hist_key_flush_id(key: bytes) -> int:
    """Return the flush id in a history row's key."""
    return int(_BE2.unpack_from(key, len(key) - 2)[0])


def pack_tx_num(tx_num: int) -> bytes:
    """Return a transaction number as LE5."""
    return tx_num.to_bytes(TXNUM_LEN, "little")


def unpack_tx_nums(row: bytes) -> list[int]:
    """Return the transaction numbers of a history row, in their order."""
    from_bytes = int.from_bytes
    return [from_bytes(row[n : n + TXNUM_LEN], "little") for n in range(0, len(row), TXNUM_LEN)]


def cut_row(row: bytes, tx_count: int) -> int:
    """Return how many bytes of a history row belong to transactions below ``tx_count``."""
    low, high = 0, len(row) // TXNUM_LEN
    while low < high:
        middle = (low + high) // 2
        start = middle * TXNUM_LEN
        if int.from_bytes(row[start : start + TXNUM_LEN], "little") < tx_count:
            low = middle + 1
        else:
            high = middle
    return low * TXNUM_LEN


def _parse_dict(raw: bytes, what: str) -> dict[str, Any]:
    try:
        state = ast.literal_eval(raw.decode())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise DBError(
            f"failed reading state from DB: the {what} state row is damaged; restore a backup "
            "of the database directory, or remove it to synchronise again"
        )
    return state


def _refuse_ex_2(state: dict[str, Any]) -> None:
    """Raise DBError for a state row of e-x 2.0, whose stores have no flush counts.

    It has versions 11 (``utxo``) and 4 (``hist``); more may follow.
    """
    version = state.get("db_version")
    newer = isinstance(version, int) and version > DB_VERSION
    if "hist_db_tx_count" in state or (newer and "utxo_flush_count" not in state):
        raise DBError(
            "the database was written by e-x 2.0, which has a format of its own; name another "
            "DB_DIRECTORY"
        )


def _integer(state: dict[str, Any], key: str, what: str, default: int | None = None) -> int:
    value = state.get(key, default)
    if not isinstance(value, int):
        raise DBError(
            f"failed reading state from DB: {key} is missing from or not a number in the {what} "
            "state row; restore a backup of the database directory, or remove it"
        )
    return value


@dataclass(slots=True)
class CommittedState:
    """The ``state`` row of the ``utxo`` store: the committed tip, and counts."""

    #: display hex of the genesis block's hash
    genesis: str
    #: height of the last committed block, -1 if none
    height: int
    #: transactions up to and including that height
    tx_count: int
    #: hash of that block, natural order
    tip: bytes
    #: history flushes that this store has seen committed
    utxo_flush_count: int
    #: seconds spent synchronising so far
    wall_time: float
    #: until the chain was first caught up with
    first_sync: bool
    db_version: int = DB_VERSION
    #: height from which on token prefixes were cut off, for coins that have tokens.  A server that
    #: does not know the key writes the state without it: its blocks then have no valid prefixes.
    tokens_from: int | None = None

    @classmethod
    def new(cls, genesis: str) -> "CommittedState":
        """Return the state of an empty database."""
        return cls(genesis, -1, 0, bytes(HASH_LEN), 0, 0, True)

    @classmethod
    def parse(cls, raw: bytes) -> "CommittedState":
        """Read a state row.  Raise DBError where it is damaged."""
        state = _parse_dict(raw, "utxo")
        _refuse_ex_2(state)
        genesis = state.get("genesis")
        if isinstance(genesis, bytes):  # so in very old databases
            genesis = genesis.decode(errors="replace")
        tip = state.get("tip")
        if not isinstance(tip, bytes) or len(tip) != HASH_LEN:
            raise DBError(
                "failed reading state from DB: the tip is not a block hash; restore a backup of "
                "the database directory, or remove it"
            )
        return cls(
            genesis=str(genesis),
            height=_integer(state, "height", "utxo"),
            tx_count=_integer(state, "tx_count", "utxo"),
            tip=tip,
            utxo_flush_count=_integer(state, "utxo_flush_count", "utxo"),
            wall_time=float(state.get("wall_time", 0)),
            first_sync=bool(state.get("first_sync", True)),
            db_version=_integer(state, "db_version", "utxo", 0),
            tokens_from=_integer(state, "tokens_from", "utxo") if "tokens_from" in state else None,
        )

    def pack(self) -> bytes:
        """Return the row's value.  The order of the keys is ElectrumX's."""
        state: dict[str, object] = {
            "genesis": self.genesis,
            "height": self.height,
            "tx_count": self.tx_count,
            "tip": self.tip,
            "utxo_flush_count": self.utxo_flush_count,
            "wall_time": self.wall_time,
            "first_sync": self.first_sync,
            "db_version": self.db_version,
        }
        if self.tokens_from is not None:
            state["tokens_from"] = self.tokens_from
        return repr(state).encode()


@dataclass(slots=True)
class HistState:
    """The ``state`` row of the ``hist`` store."""

    #: id of the last flush
    flush_count: int = 0
    #: highest flush id that a running compaction has written, -1 if none runs
    comp_flush_count: int = -1
    #: first two-byte key prefix that a running compaction has not done, -1 if none runs
    comp_cursor: int = -1
    db_version: int = HIST_VERSION
    #: last two-byte key prefix that an interrupted upgrade finished, -1 if none
    upgrade_cursor: int = -1

    @classmethod
    def parse(cls, raw: bytes) -> "HistState":
        """Read a state row.  Raise DBError where it is damaged."""
        state = _parse_dict(raw, "hist")
        _refuse_ex_2(state)
        return cls(
            flush_count=_integer(state, "flush_count", "hist"),
            comp_flush_count=_integer(state, "comp_flush_count", "hist", -1),
            comp_cursor=_integer(state, "comp_cursor", "hist", -1),
            db_version=_integer(state, "db_version", "hist", 0),
            upgrade_cursor=_integer(state, "upgrade_cursor", "hist", -1),
        )

    def pack(self) -> bytes:
        """Return the row's value.  The order of the keys is ElectrumX's."""
        return repr(
            {
                "flush_count": self.flush_count,
                "comp_flush_count": self.comp_flush_count,
                "comp_cursor": self.comp_cursor,
                "db_version": self.db_version,
                "upgrade_cursor": self.upgrade_cursor,
            }
        ).encode()


class UTXO(NamedTuple):
    """An unspent output; sorts in chain order."""

    tx_num: int
    #: index of the output in its transaction
    tx_pos: int
    tx_hash: bytes
    height: int
    #: in satoshis
    value: int


class UTXORow(NamedTuple):
    """An unspent output as it stands in the ``utxo`` store."""

    #: key of its ``h`` row
    outpoint_key: bytes
    #: key of its ``u`` row
    utxo_key: bytes
    #: hashX, tx_num LE5, value LE8: the undo item of the block that spends it
    item: bytes
