"""How much of the protocol the server serves: little during the first build of the index.

With ``SERVE=always`` clients connect before the index is complete.  Until then the server answers
the methods of ``WITHOUT_INDEX``; all others get the error ``NOT_INDEXED``, which states how far
the index is.  The server never sends an empty history, or a wrong balance.

Owns the stage.  Runs on the event loop.
"""

import time
from collections.abc import Callable
from typing import Protocol

from electrumx.server.runtime.server_state import ServerStatus
from electrumx.server.session.engine.params import ServerFault

# The code of the error; 1 and 2 are those of ``params``.
NOT_INDEXED = 4
# Its cost: wallets retry, and it is no fault of theirs.
REFUSAL_COST = 0.5
# How long fee estimates stay in use while the tip does not follow the node's.
ESTIMATE_SECS = 60.0
# How long the text of the error stays in use.
TEXT_SECS = 1.0

#: methods that need no index, or that of headers only
WITHOUT_INDEX = frozenset(
    {
        "blockchain.block.header",
        "blockchain.block.headers",
        "blockchain.estimatefee",
        "blockchain.headers.subscribe",
        "blockchain.relayfee",
        "blockchain.transaction.broadcast",
        "blockchain.transaction.broadcast_package",
        "blockchain.transaction.get",
        "blockchain.transaction.testmempoolaccept",
        # Empty: no transaction is known yet.  Electrum asks whenever it connects, and disconnects on
        # an error.
        "mempool.get_fee_histogram",
        "mempool.get_info",
        "server.banner",
        "server.donation_address",
        "server.features",
        "server.peers.subscribe",
        "server.ping",
        "server.version",
    }
)


class NotIndexedError(ServerFault):
    """The error of a request that needs the index."""

    def __init__(self, message: str, data: dict[str, int | None]) -> None:
        super().__init__(NOT_INDEXED, message, cost=REFUSAL_COST)
        #: sent as the error's member ``data``
        self.data = data


class ServingStage:
    """Whether the first build of the index goes on, and whether the server is announced."""

    def __init__(self, status: Callable[[], ServerStatus] | None = None) -> None:
        """``status`` returns the state of the server, for the text of the error."""
        self._status = status
        #: whether to serve only the methods of ``WITHOUT_INDEX``
        self.is_indexing = False
        #: whether the chain and the mempool were caught up with; always, unless SERVE is ``always``
        self.is_complete = True
        #: the header of the first block, for as long as no block is committed
        self.genesis_header: bytes | None = None
        self._error: tuple[str, dict[str, int | None]] | None = None
        self._error_until = float("-inf")

    def estimates_tip(self, tip: bytes) -> bytes:
        """Return the key of cached fee estimates: a tip of ours, or another each minute.

        In a first sync ours stays the same for hours.
        """
        if self.is_complete:
            return bytes(tip)
        return b"%d" % (time.monotonic() // ESTIMATE_SECS)

    def refusal(self) -> NotIndexedError:
        """Return the error of a request that needs the index."""
        now = time.monotonic()
        if self._error is None or now >= self._error_until:
            self._error = self._describe()
            self._error_until = now + TEXT_SECS
        return NotIndexedError(*self._error)

    def _describe(self) -> tuple[str, dict[str, int | None]]:
        status = self._status() if self._status is not None else None
        progress = None if status is None else status.progress
        if status is None or progress is None:
            return "the server is still indexing", {}
        eta = progress.eta_secs
        data = {
            "height": progress.processed_height,
            "node_height": status.node_height,
            "eta_s": None if eta is None else round(eta),
        }
        return f"the server is still indexing: {status.progress_text()}", data


class HasStage(Protocol):
    """The part of the shared state that has the stage."""

    @property
    def stage(self) -> ServingStage:
        """How much of the protocol the server serves."""


class HasShared(Protocol):
    """An object with handlers."""

    @property
    def shared(self) -> HasStage:
        """The state that its session shares with the others."""


def refuse(handler: HasShared, *_args: object, **_named: object) -> None:
    """Answer a request that needs the index, in place of its handler."""
    raise handler.shared.stage.refusal()
