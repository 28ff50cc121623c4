"""The confirmed history of one script, and its status.

The status is the SHA-256 of the history as text (docs/protocol-basics.rst).  When a block adds
entries, hashing continues from a copy, so a new transaction costs a script with half a million of
them no more than any other.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.db import wire_rows
from electrumx.server.mempool.index import MemPoolTxSummary

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

# A thread hashes longer histories, and encodes more items: about a millisecond.
INLINE_ITEMS = 5_000 if wire_rows.COMPILED else 500
# The running hash takes 400 bytes; hashing a shorter history again is as fast.
KEPT_HASH_ENTRIES = 200


class ScriptHistory:
    """The confirmed history of a script, and the hash of its status text so far.

    Immutable but for the cached hash and the marks of its cache: a later history is a new object.
    """

    __slots__ = (
        "_hash",
        "_status",
        "count",
        "entries",
        "hashing",
        "last_tx_num",
        "stale",
        "stale_since",
        "text_len",
    )

    def __init__(self, entries: bytes | None, count: int, last_tx_num: int) -> None:
        #: packed, see ``wire_rows``; None if only the hash is cached
        self.entries = entries
        self.count = count
        self.last_tx_num = last_tx_num
        #: characters of the status text; known with the hash
        self.text_len = 0
        self._hash: Hash | None = None
        self._status: str | None = None
        #: whether a block has touched the script, and in which generation of the cache
        self.stale = False
        self.stale_since = 0
        #: the hashing of a long history, while it runs in a thread
        self.hashing: asyncio.Future[Hash] | None = None

    def followed_by(self, entries: bytes, last_tx_num: int) -> "ScriptHistory":
        """Return this history with more entries."""
        whole = None if self.entries is None else self.entries + entries
        result = ScriptHistory(
            whole, self.count + len(entries) // wire_rows.HISTORY_ENTRY_LEN, last_tx_num
        )
        if not entries:
            result._status = self._status
            result._hash = self._hash
            result.text_len = self.text_len
        elif self._hash is not None:
            text = wire_rows.status_text(entries)
            result._hash = self._hash.copy()
            result._hash.update(text)
            result.text_len = self.text_len + len(text)
        return result

    @property
    def entries_for_status(self) -> bytes | None:
        """The entries from which ``wire_rows.extend_histories`` computes the status, if few."""
        return self.entries if self.count <= KEPT_HASH_ENTRIES else None

    def extended(self, found: wire_rows.Extended) -> "ScriptHistory":
        """Return this history with the result of ``wire_rows.extend_histories``.

        Runs in: a thread.
        """
        entries, last_tx_num, status, text_len = found
        if status is None:
            result = self.followed_by(entries, last_tx_num)
            if self.has_status and not result.has_status:
                # It has just become long enough to cache its hash.
                result.hash_all()
            return result
        result = ScriptHistory(entries, len(entries) // wire_rows.HISTORY_ENTRY_LEN, last_tx_num)
        result._status, result.text_len = status, text_len
        return result

    def without_entries(self) -> "ScriptHistory":
        """Return a copy with the hash only."""
        result = ScriptHistory(None, self.count, self.last_tx_num)
        result._hash, result.text_len = self._hash, self.text_len
        return result

    @property
    def is_hashed(self) -> bool:
        """Whether the hash is cached, or takes less than a millisecond."""
        return self._hash is not None or self._status is not None or self.count <= INLINE_ITEMS

    @property
    def has_status(self) -> bool:
        """Whether the status without the mempool is cached."""
        return self._status is not None or self._hash is not None or not self.count

    def hash_all(self) -> "Hash":
        """Return the hash of the status text; callers must not change it.  Runs in: any thread."""
        if self._hash is not None:
            return self._hash
        assert self.entries is not None
        text = wire_rows.status_text(self.entries)
        text_hash = hashlib.sha256(text)
        self.text_len = len(text)
        if self.count > KEPT_HASH_ENTRIES:
            self._hash = text_hash
        return text_hash

    def status(self, summaries: Sequence[MemPoolTxSummary]) -> tuple[str | None, int]:
        """Return (status in hex, or None without history; length of the text hashed).

        ``summaries`` are the mempool's transactions.  Takes less than a millisecond if ``is_hashed``.
        """
        if not summaries:
            if self._status is None and self.count:
                if self._hash is None and self.count <= KEPT_HASH_ENTRIES and self.entries:
                    self._status, self.text_len = wire_rows.status_of(self.entries)
                else:
                    self._status = self.hash_all().hexdigest()
            return self._status, self.text_len
        text = "".join(
            [f"{hash_to_hex_str(tx.hash)}:{-tx.has_unconfirmed_inputs:d}:" for tx in summaries]
        )
        whole = self.hash_all().copy()
        whole.update(text.encode())
        return whole.hexdigest(), self.text_len + len(text)

    @property
    def memsize(self) -> int:
        """Return about how many bytes it takes."""
        return 700 + (0 if self.entries is None else len(self.entries))
