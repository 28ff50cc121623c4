"""Batching of the requests for single transactions.

A request to the node costs some 300 µs of processor time here, and as much there, whatever it asks
for; wallets ask for one transaction at a time, many wallets concurrently.

Runs on the event loop.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from electrumx.lib.tasks import Batcher

#: transactions in a batch at most: each may have megabytes
BATCH_TXS = 25
#: batches in flight while the node is quick, and at most: the node may be slow with one of them
BATCHES = 2
MAX_BATCHES = 6
#: after which a batch counts as slow, in seconds
LATE_SECS = 0.05

#: a transaction's hex hash, and how many bytes of its reply are read if it is requested alone
WantedTx = tuple[str, int]
#: Request transactions; return, in order, the result of each, or its exception.
Send = Callable[[Sequence[WantedTx]], Awaitable[list[Any]]]


def tx_batcher(send: Send) -> Batcher[WantedTx, Any]:
    """Return the queue of transactions that are requested from the node."""
    return Batcher(
        send,
        batch_size=BATCH_TXS,
        batches=BATCHES,
        max_batches=MAX_BATCHES,
        late_secs=LATE_SECS,
    )
