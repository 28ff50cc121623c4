"""The outpoints that clients subscribe to, and which of them may have another status.

The mempool marks the outpoints of each transaction that it adds or removes, and the notifier those
of blocks.  They mark too many rather than too few: the notifier
computes the status of each again, and compares it.  On the event loop.
"""

from collections.abc import Iterable

#: (hash of the transaction in natural byte order, index of the output)
Outpoint = tuple[bytes, int]


class OutpointWatch:
    """Watched outpoints, and the touched ones among them."""

    def __init__(self) -> None:
        #: tx hash -> the index of its watched output, or a set of several: a set takes 216 bytes.
        #: Only this class changes it.
        self.by_tx: dict[bytes, int | set[int]] = {}
        #: watched outpoints touched since they were last taken
        self.touched: set[Outpoint] = set()
        self._are_all_touched = False

    def __bool__(self) -> bool:
        """Return whether there are watched outpoints."""
        return bool(self.by_tx)

    def __contains__(self, outpoint: Outpoint) -> bool:
        """Return whether an outpoint is watched."""
        found = self.by_tx.get(outpoint[0])
        return outpoint[1] in found if isinstance(found, set) else found == outpoint[1]

    def add(self, outpoint: Outpoint) -> None:
        """Watch an outpoint, which may exist or not."""
        tx_hash, index = outpoint
        found = self.by_tx.setdefault(tx_hash, index)
        if isinstance(found, set):
            found.add(index)
        elif found != index:
            self.by_tx[tx_hash] = {found, index}

    def discard(self, outpoint: Outpoint) -> None:
        """Watch an outpoint no more."""
        tx_hash, index = outpoint
        found = self.by_tx.get(tx_hash)
        if isinstance(found, set):
            found.discard(index)
            if len(found) == 1:
                self.by_tx[tx_hash] = found.pop()
        elif found == index:
            del self.by_tx[tx_hash]
        self.touched.discard(outpoint)

    def of_tx(self, tx_hash: bytes) -> list[Outpoint]:
        """Return the watched outpoints of a transaction."""
        found = self.by_tx.get(tx_hash, ())
        return [(tx_hash, index) for index in ((found,) if isinstance(found, int) else found)]

    def touch_tx(self, tx_hash: bytes, prevouts: Iterable[Outpoint]) -> None:
        """Mark what a transaction that came, went or changed its height funds and spends."""
        by_tx = self.by_tx
        if tx_hash in by_tx:
            self.touched.update(self.of_tx(tx_hash))
        for prevout in prevouts:
            if prevout[0] in by_tx and prevout in self:
                self.touched.add(prevout)

    def touch_all(self) -> None:
        """Mark all watched outpoints: 200,000 one by one would take half a second."""
        self._are_all_touched = True

    def take(self) -> tuple[set[Outpoint], bool]:
        """Return the touched outpoints and whether all were touched, and clear both."""
        touched, self.touched = self.touched, set()
        are_all, self._are_all_touched = self._are_all_touched, False
        return touched, are_all
