"""Caches the confirmed parts of the statuses of outpoints, and applies blocks to them.

The entries of watched outpoints, those with subscribers, stay: the subscriptions bound their memory.  Of
all others the cache drops the oldest when there are too many.  A block names the outputs that it spends
and the transactions that spend them.  After blocks whose changes are unknown, because there were too
many or an error came, a search for a spender begins above the last known height.

Runs on the event loop.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Container, Sequence
from typing import NamedTuple

from electrumx.server.mempool.outpoint_watch import Outpoint, OutpointWatch
from electrumx.server.notifications import Confirmed

HASH_LEN = 32
MAX_INDEX = 2**32 - 1
#: cached outpoints at most, without those that have subscribers
CACHE_ENTRIES = 100_000
#: entries of the cache to examine in one go: about a millisecond
AT_ONCE = 1_000


class OnChain(NamedTuple):
    """The confirmed part of a status; None for transactions that do not exist."""

    funder_height: int | None
    spender: bytes | None = None
    spender_height: int | None = None

    def at(self, height: int) -> "OnChain | None":
        """Return the part without the blocks above a height; None if its transaction is in one."""
        funder_height, _spender, spender_height = self
        if funder_height is not None and funder_height > height:
            return None
        if spender_height is not None and spender_height > height:
            return OnChain(funder_height)
        return self


NOWHERE = OnChain(None)


class Clue(NamedTuple):
    """Facts about the transaction that spends an output, from which a search for it begins."""

    #: its hash
    spender: bytes | None
    #: the height of a block such that neither it nor one before it spends the output
    after: int


NO_CLUE = Clue(None, -1)


class BlockChanges(NamedTuple):
    """The outputs that blocks created and spent, as far as a session or the cache holds their transactions."""

    #: tx hash -> height, of all transactions
    heights: dict[bytes, int]
    #: outpoint -> the transaction that spends it, None if unknown
    spenders: dict[Outpoint, bytes | None]

    @classmethod
    def of_step(
        cls, step: Confirmed, watched: Container[bytes], cached: Container[bytes]
    ) -> "BlockChanges":
        """Return the changes of a step that adds blocks.  Runs in: a thread.

        Of spent outputs, only those of transactions in one of the containers.
        """
        hashes = [
            step.tx_hashes[at : at + HASH_LEN] for at in range(0, len(step.tx_hashes), HASH_LEN)
        ]
        addition = step.addition
        heights = dict.fromkeys(hashes, step.height)
        if addition is not None and len(addition.ends) > 1:
            heights = {
                tx_hash: addition.height + bisect_right(addition.ends, tx_num)
                for tx_num, tx_hash in enumerate(hashes, start=addition.first_tx_num)
            }
        size = HASH_LEN + 4
        spent = step.spent_outpoints
        counts: Sequence[int] = step.spend_counts
        by: Sequence[bytes | None] = hashes
        if sum(counts) * size != len(spent) or len(counts) != len(hashes):
            counts, by = [len(spent) // size], [None]
        spenders: dict[Outpoint, bytes | None] = {}
        start = 0
        for spender, count in zip(by, counts, strict=True):
            end = start + count * size
            for at in range(start, end, size):
                tx_hash = spent[at : at + HASH_LEN]
                # In this order: an outpoint that clients subscribe to now moves from the cached to
                # the watched ones.
                if tx_hash in cached or tx_hash in watched:
                    index = int.from_bytes(spent[at + HASH_LEN : at + size], "little")
                    spenders[tx_hash, index] = spender
            start = end
        return cls(heights, spenders)


class OutpointCache:
    """The confirmed parts of statuses: of watched outpoints, and of others that clients requested."""

    def __init__(self, watch: OutpointWatch) -> None:
        self._watch = watch
        # tx hash -> index -> confirmed part; the oldest first, without watched outpoints
        self._others: dict[bytes, dict[int, OnChain]] = {}
        self._other_count = 0
        # The rest is of watched outpoints.
        self._watched: dict[Outpoint, OnChain] = {}
        # Those of which the cache has nothing else -> the transaction that spends them, and its height
        self._spenders: dict[Outpoint, tuple[bytes, int]] = {}
        # The entries at the time of a loss of changes; they are true up to a height.
        self._former: dict[Outpoint, OnChain] = {}
        self._former_height = -1
        #: counts the tips: no read that began at another one enters the cache
        self.generation = 0
        # Whether the tip has changed, and the changes of its blocks are yet to come
        self._held = False

    def __bool__(self) -> bool:
        """Return whether the cache has entries."""
        return bool(self._others or self._watched)

    @property
    def other_txs(self) -> Container[bytes]:
        """The transactions of unwatched cached outputs."""
        return self._others

    def get(self, outpoint: Outpoint) -> OnChain | None:
        """Return the cached confirmed part of a status, or None."""
        tx_hash, index = outpoint
        if index > MAX_INDEX:
            return NOWHERE
        if self._held:
            return None
        found = self._watched.get(outpoint)
        if found is None and tx_hash in self._others:
            return self._others[tx_hash].get(index)
        return found

    def put(self, outpoint: Outpoint, on_chain: OnChain, generation: int) -> None:
        """Cache a confirmed part, unless blocks have come since the generation of its read."""
        if self._held or generation != self.generation or outpoint[1] > MAX_INDEX:
            return
        if outpoint in self._watch:
            self._put_watched(outpoint, on_chain)
            return
        found = self._others.setdefault(outpoint[0], {})
        self._other_count += outpoint[1] not in found
        found[outpoint[1]] = on_chain
        while self._other_count > CACHE_ENTRIES:
            self._drop_others(next(iter(self._others)))

    def _put_watched(self, outpoint: Outpoint, on_chain: OnChain) -> None:
        self._watched[outpoint] = on_chain
        self._spenders.pop(outpoint, None)
        self._former.pop(outpoint, None)

    def _drop_others(self, tx_hash: bytes) -> None:
        self._other_count -= len(self._others.pop(tx_hash, ()))

    def clue(self, outpoint: Outpoint) -> Clue:
        """Return the clue to the transaction that spends a watched outpoint."""
        if outpoint in self._spenders:
            return Clue(self._spenders[outpoint][0], -1)
        former = self._former.get(outpoint)
        if former is None:
            return NO_CLUE
        still = former.at(self._former_height)
        if still is not None and still.spender is not None:
            return Clue(still.spender, -1)
        return Clue(None, self._former_height)

    # -- subscriptions

    def keep(self, outpoint: Outpoint) -> None:
        """Keep the entry of a newly watched outpoint."""
        found = self._others.get(outpoint[0])
        if found is None or outpoint[1] not in found:
            return
        self._put_watched(outpoint, found.pop(outpoint[1]))
        self._other_count -= 1
        if not found:
            del self._others[outpoint[0]]

    def let_go(self, outpoint: Outpoint) -> None:
        """Drop the entries of an outpoint that has lost its last subscriber."""
        self._forget(outpoint)

    def _forget(self, outpoint: Outpoint) -> None:
        self._watched.pop(outpoint, None)
        self._spenders.pop(outpoint, None)
        self._former.pop(outpoint, None)

    # -- blocks

    def hold(self) -> None:
        """Use no entry until ``release``: the tip changes now, the entries later."""
        self.generation += 1
        self._held = True

    def release(self) -> None:
        """Use the entries again."""
        self._held = False

    def lose(self, height: int) -> None:
        """Note that changes of blocks are unknown; none of them is at or below a height."""
        self.generation += 1
        self._others.clear()
        self._other_count = 0
        if self._former:
            self._former_height = min(self._former_height, height)
            self._former |= self._watched
        else:
            self._former_height, self._former = height, self._watched
        for outpoint, (spender, spender_height) in self._spenders.items():
            self._former[outpoint] = OnChain(0, spender, spender_height)
        self._watched = {}
        self._spenders = {}

    async def add_blocks(self, changes: BlockChanges) -> None:
        """Apply the changes of blocks; call ``hold`` before."""
        self.generation += 1
        for tx_hash in self._others.keys() & changes.heights.keys():
            self._drop_others(tx_hash)
        for tx_hash in self._watch.by_tx.keys() & changes.heights.keys():
            for outpoint in self._watch.of_tx(tx_hash):
                self._forget(outpoint)
        for number, (outpoint, spender) in enumerate(changes.spenders.items(), start=1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            self._spend(outpoint, spender, changes)

    def _spend(self, outpoint: Outpoint, spender: bytes | None, changes: BlockChanges) -> None:
        tx_hash, index = outpoint
        by_index = self._others.get(tx_hash, {})
        known = by_index.get(index, self._watched.get(outpoint))
        if spender is not None and known is not None and known.funder_height is not None:
            on_chain = OnChain(known.funder_height, spender, changes.heights[spender])
            if index in by_index:
                by_index[index] = on_chain
            else:
                self._watched[outpoint] = on_chain
            return
        if index in by_index:
            self._drop_others(tx_hash)
        self._watched.pop(outpoint, None)
        if spender is not None and outpoint in self._watch:
            self._spenders[outpoint] = spender, changes.heights[spender]

    async def undo_blocks(self, height: int) -> None:
        """Undo the blocks above a height; call ``hold`` before."""
        self.generation += 1
        for number, (tx_hash, found) in enumerate(list(self._others.items()), start=1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if any(on_chain.at(height) is not on_chain for on_chain in found.values()):
                self._drop_others(tx_hash)
        for number, (outpoint, on_chain) in enumerate(list(self._watched.items()), start=1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            still = on_chain.at(height)
            if still is on_chain or self._watched.get(outpoint) is not on_chain:
                continue
            if still is None:
                del self._watched[outpoint]
            else:
                self._watched[outpoint] = still
        for outpoint, (_spender, spender_height) in list(self._spenders.items()):
            if spender_height > height:
                del self._spenders[outpoint]
        self._former_height = min(self._former_height, height)
