"""The state of the server: one word, its progress, and whether balancers may send wallets here.

Everything that reports the state (getinfo, /readyz, the metrics, systemd's STATUS, the replies while
the index is built) takes it from ``ServerState.status()``, so that all use the same words.

Owns whether the server serves wallets, and whether it stops.  Gets heights and progress when
it needs them; the node's part is in ``node_contact``.  Runs in: the event loop.
"""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from electrumx.lib.util import formatted_time
from electrumx.server.runtime.node_contact import NodeContact, NodeFailure

# After a request, the node has so long to answer before its earlier silence counts: with
# long pauses between two requests, the last reply is old without any fault.
ANSWER_SECS = 5.0


class State(str, Enum):
    """The states; the value is the word that people and programs read."""

    #: the node has not answered yet, or the database is not open
    STARTING = "starting"
    #: the index is built for the first time
    SYNCING = "syncing"
    #: the index is complete, but more than READY_MAX_LAG blocks behind, or wallets wait for the mempool
    CATCHING_UP = "catching up"
    SERVING = "serving"
    #: the node has not answered for READY_NODE_SECS
    NODE_LOST = "node lost"
    STOPPING = "stopping"

    def __str__(self) -> str:
        return self.value


class IndexProgress(NamedTuple):
    """How far the index is."""

    #: of the last block processed, and of the last on disk; -1 before the first
    processed_height: int
    flushed_height: int
    #: transactions in the blocks processed
    tx_count: int
    #: of the phase if there is one, else of the chain's transactions, 0 to 100
    percent: float
    #: of a bulk sync; None without one
    phase: str | None
    #: seconds until the index, or its phase, is complete; None if unknown
    eta_secs: float | None
    #: whether the index was never complete: there is nothing to answer from
    first_sync: bool


class ReadyLimits(NamedTuple):
    """When the server is not ready although it serves."""

    #: blocks behind the node
    max_lag: int = 2
    #: seconds since the node's last reply
    node_secs: float = 120.0


class ServerStatus(NamedTuple):
    """The state of the server at one moment."""

    state: State
    ready: bool
    #: why it is not ready, in one line; empty if it is
    reason: str
    #: None while the database is not open
    progress: IndexProgress | None
    #: None before the node's first answer
    node_height: int | None
    #: seconds since the node's last reply, None before the first
    node_age_secs: float | None
    #: the last failure of a request to the node; None if there was no failure
    node_failure: NodeFailure | None
    #: whether that failure is more recent than the last reply
    node_failing: bool

    @property
    def height(self) -> int:
        """The height that clients see; -1 if there is no index yet."""
        return self.progress.flushed_height if self.progress else -1

    @property
    def lag(self) -> int | None:
        """Blocks that the node has and clients do not see; None if unknown."""
        return None if self.node_height is None else max(0, self.node_height - self.height)

    @property
    def first_sync(self) -> bool:
        """Whether the index was never complete: scripts have no history to answer with."""
        return self.progress is None or self.progress.first_sync

    def progress_text(self) -> str:
        """Return for people how far the index is: heights, percent and the time that is left."""
        progress = self.progress
        if progress is None:
            return "the database is not open yet"
        node = "an unknown height" if self.node_height is None else f"{self.node_height:,d}"
        percent = f"{progress.percent:.0f} %"
        if progress.phase is not None:
            percent = f"{progress.phase} {percent}"
        if progress.processed_height < 0:
            text = f"no block of {node} yet ({percent})"
        else:
            text = f"height {progress.processed_height:,d} of {node} ({percent})"
        if progress.eta_secs:
            text += f", about {rough_time(progress.eta_secs)} to go"
        return text

    def text(self) -> str:
        """Return one line for people: the state, and the reason or the progress."""
        if self.state is State.SERVING:
            return f"{self.state}: height {self.height:,d}"
        behind = self.state is State.CATCHING_UP and bool(self.lag)
        if self.state is State.SYNCING or behind:
            return f"{self.state}: {self.progress_text()}"
        return f"{self.state}: {self.reason}"


def rough_time(secs: float) -> str:
    """Return a duration with one unit, for an estimate: ``3 h``, ``40 min``."""
    for unit_secs, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if secs >= 1.5 * unit_secs:
            return f"{secs / unit_secs:.0f} {unit}"
    return f"{max(secs, 1.0):.0f} s"


class ServerState:
    """Knows the state; each part that changes it notes that here."""

    def __init__(
        self,
        contact: NodeContact,
        node_height: Callable[[], int | None],
        progress: Callable[[], IndexProgress | None],
        is_stopping: Callable[[], bool],
        limits: ReadyLimits,
    ) -> None:
        """``progress()`` returns None while the database is not open.

        ``node_height()`` returns the height that the node answered last.
        """
        self._contact = contact
        self._node_height = node_height
        self._progress = progress
        self._is_stopping = is_stopping
        self._limits = limits
        self._serving = False

    def set_serving(self) -> None:
        """Note that the server serves wallets, with everything that the protocol has."""
        self._serving = True

    @property
    def state(self) -> State:
        """The state now."""
        return self.status().state

    def status(self) -> ServerStatus:
        """Return the state and all that belongs to it, of one moment."""
        progress, node_height = self._progress(), self._node_height()
        state, reason = self._judge(progress, node_height)
        contact = self._contact
        return ServerStatus(
            state,
            state is State.SERVING,
            reason,
            progress,
            node_height,
            contact.reply_age(),
            contact.last_failure,
            contact.is_failing,
        )

    def _judge(self, progress: IndexProgress | None, node_height: int | None) -> tuple[State, str]:
        """Return the state, and why wallets should go elsewhere (empty: they need not)."""
        if self._is_stopping():
            return State.STOPPING, "the server is stopping"
        if self._is_node_lost():
            return State.NODE_LOST, self._silence_text()
        if node_height is None:
            return State.STARTING, self._waiting_text()
        if progress is None:
            return State.STARTING, "opening the database"
        if progress.first_sync:
            return State.SYNCING, "the index is not complete yet"
        lag = node_height - progress.flushed_height
        if lag > self._limits.max_lag:
            return State.CATCHING_UP, f"{lag:,d} blocks behind the node"
        if not self._serving and lag < 0:
            return State.CATCHING_UP, (
                f"the node is at height {node_height:,d}, below ours, {progress.flushed_height:,d}"
            )
        if not self._serving:
            return State.CATCHING_UP, "reading the mempool"
        return State.SERVING, ""

    def _is_node_lost(self) -> bool:
        """Return whether the node owes an answer, and gave no other for too long."""
        contact, limit = self._contact, self._limits.node_secs
        waiting, age = contact.waiting_secs(), contact.reply_age()
        if age is None:
            return waiting > limit
        return age > limit and waiting >= min(ANSWER_SECS, limit)

    def _silence_text(self) -> str:
        age = self._contact.reply_age()
        if age is None:
            return self._waiting_text()
        return f"no reply of the node for {formatted_time(age)}{self._failure_text()}"

    def _waiting_text(self) -> str:
        return f"waiting for the node{self._failure_text()}"

    def _failure_text(self) -> str:
        failure = self._contact.last_failure
        if failure is None or not self._contact.is_failing:
            return ""
        return f": {failure.text} ({failure.method})"
