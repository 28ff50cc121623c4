"""The script subscriptions of one session: statuses, and their notifications.

The status of a script is the hash of its history as text.  The session keeps the last status of
a subscription only while it depends on the mempool: such a status also changes when a block confirms
*other* transactions, without touching the script itself.

Runs on the event loop.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

from aiorpcx import RPCError

from electrumx.server.session.engine.cost_account import CostAccount
from electrumx.server.session.engine.jsonrpc import notification_parts
from electrumx.server.session.engine.prices import COST_CACHED, STATUS_CHAR_COST, STATUS_COST
from electrumx.server.session.engine.send_queue import SendQueue
from electrumx.server.session.notify.subscriber import ScriptSubscriber
from electrumx.server.session.notify.subscriptions import SessionScripts
from electrumx.server.session.shared.pending_reply import PendingReply
from electrumx.server.session.shared.script_history import ScriptHistory
from electrumx.server.session.shared.state import SharedState

R = TypeVar("R")

SUBSCRIBE = "blockchain.scripthash.subscribe"
# From protocol 1.7 on
SUBSCRIBE_SCRIPT = "blockchain.scriptpubkey.subscribe"
# Statuses computed before yielding to the event loop: about a millisecond.
STATUSES_AT_ONCE = 100


class Client(ScriptSubscriber, Protocol):
    """The session, as its subscriptions use it."""

    account: CostAccount
    protocol_tuple: tuple[int, ...]
    queue: SendQueue

    @property
    def logger(self) -> "logging.LoggerAdapter[Any]":
        """The logger that names the session."""


async def _yield_sometimes(count: int) -> None:
    """Yield to the event loop once in STATUSES_AT_ONCE calls: cached values need no waiting."""
    if count % STATUSES_AT_ONCE == 0:
        await asyncio.sleep(0)


class ScriptSubscriptions:
    """The subscribed scripts of a session, and the statuses that its client has."""

    __slots__ = ("_client", "_shared", "_unanswered", "_unconfirmed", "mempool_statuses", "scripts")

    def __init__(self, client: Client, shared: SharedState) -> None:
        self._client = client
        self._shared = shared
        self._unconfirmed = shared.unconfirmed
        self.scripts = SessionScripts(shared.fan_out.scripts, client)
        #: hashX -> last status, of subscriptions with mempool transactions
        self.mempool_statuses: dict[bytes, str | None] = {}
        # hashX of each new subscription whose reply is pending -> whether a notification follows it
        self._unanswered: dict[bytes, bool] | None = None

    def _method(self) -> str:
        """Return the method that notifications name."""
        return SUBSCRIBE if self._client.protocol_tuple < (1, 7) else SUBSCRIBE_SCRIPT

    def remove(self, hashX: bytes) -> str | None:
        """Remove a subscription; return its script hash, None if it did not exist."""
        self.mempool_statuses.pop(hashX, None)
        return self.scripts.discard(hashX)

    # -- statuses

    def status(
        self, hashX: bytes, history: ScriptHistory, cost: float
    ) -> str | Awaitable[str | None] | None:
        """Return the status of a script, or an awaitable; note it if it depends on the mempool.

        ``cost`` is of reading the history, which must belong to the tip that clients know.
        """
        if history.is_hashed and not self._unconfirmed.has(hashX):
            # As _noted does
            status, text_len = history.status(())
            self._client.account.bump_cost(cost + STATUS_COST + STATUS_CHAR_COST * text_len)
            if self.mempool_statuses:
                self.mempool_statuses.pop(hashX, None)
            return status
        if self._is_ready(hashX, history):
            return self._ready_status(hashX, history, cost)
        return self.at_known_tip(
            lambda: self._status_in_thread(hashX, history, cost),
            lambda: self._read_status(hashX),
        )

    def _is_ready(self, hashX: bytes, history: ScriptHistory) -> bool:
        """Return whether the status of a script needs no computation in a thread."""
        if not history.is_hashed:
            return False
        if not self._unconfirmed.has(hashX) or not self._unconfirmed.large.is_large(hashX):
            return True
        view = self._unconfirmed.large.histories.ready(hashX)
        return view is not None and view.status_of(history) is not None

    def _ready_status(self, hashX: bytes, history: ScriptHistory, cost: float) -> str | None:
        """Return a status that is ready, with its charge."""
        status: str | None
        if not self._unconfirmed.has(hashX):
            status, text_len = history.status([])
            return self._noted(hashX, status, cost, text_len, unconfirmed=False)
        if self._unconfirmed.large.is_large(hashX):
            view = self._unconfirmed.large.histories.ready(hashX)
            assert view is not None
            status = view.status_of(history)
            text_len = history.text_len + len(view.status_text)
            return self._noted(hashX, status, cost, text_len, unconfirmed=True)
        summaries = self._unconfirmed.sync_summaries(hashX)
        status, text_len = history.status(summaries)
        return self._noted(hashX, status, cost, text_len, unconfirmed=bool(summaries))

    def _noted(
        self, hashX: bytes, status: str | None, cost: float, text_len: int, *, unconfirmed: bool
    ) -> str | None:
        """Charge for a status, and note it if it depends on the mempool."""
        self._client.account.bump_cost(cost + STATUS_COST + STATUS_CHAR_COST * text_len)
        if unconfirmed and hashX in self.scripts:
            self.mempool_statuses[hashX] = status
        elif self.mempool_statuses:
            self.mempool_statuses.pop(hashX, None)
        return status

    async def _status_in_thread(
        self, hashX: bytes, history: ScriptHistory, cost: float
    ) -> str | None:
        """Return the status of a script after the computations in threads."""
        await self._shared.scripts.histories.hashes.hash_history(hashX, history)
        if self._unconfirmed.large.is_large(hashX):
            status, text_len = await self._unconfirmed.large.status(hashX, history)
            return self._noted(hashX, status, cost, text_len, unconfirmed=True)
        return self._ready_status(hashX, history, cost)

    async def at_known_tip(
        self, make: Callable[[], Awaitable[R]], make_again: Callable[[], Awaitable[R]]
    ) -> R:
        """Return ``await make()``; ``await make_again()`` if the tip that clients know has changed.

        The input of ``make`` must belong to the tip that clients know.
        """
        tip = self._shared.tip
        before = tip.notified_tip, tip.reorg_count
        result = await make()
        if tip.is_tip_known() and (tip.notified_tip, tip.reorg_count) == before:
            return result
        return await tip.retry_at_stable_tip(make_again, self._client.account.bump_cost)

    async def _read_status(self, hashX: bytes) -> str | None:
        """Return the status of a script, after a read of its history if necessary."""
        history, cost = await self._shared.scripts.histories.hashes.read(hashX)
        return await self._status_in_thread(hashX, history, cost)

    def _has_cached_status(self, hashX: bytes) -> bool:
        """Return whether the status of a script needs no waiting."""
        try:
            history = self._shared.scripts.histories.hashes.now(hashX)
        except RPCError:
            return True
        return history is not None and self._is_ready(hashX, history)

    def _cached_status(self, hashX: bytes) -> str | None:
        """Return a status that needs no waiting; end the subscription if its history is too large."""
        try:
            history = self._shared.scripts.histories.hashes.now(hashX)
            assert history is not None
            return self._ready_status(hashX, history, COST_CACHED)
        except RPCError:
            self.remove(hashX)
            return None

    async def _status_or_remove(self, hashX: bytes) -> str | None:
        """Return a status for a notification; end the subscription if its history is too large."""
        try:
            return await self._read_status(hashX)
        except RPCError:
            self.remove(hashX)
            return None

    # -- replies to new subscriptions

    def await_reply(
        self, hashX: bytes, reply: Awaitable[str | None]
    ) -> "PendingReply | asyncio.Future[str | None]":
        """Return a reply to a new subscription whose end removes the subscription if it failed.

        Defer notifications of the script until then.
        """
        if self._unanswered is None:
            self._unanswered = {}
        self._unanswered[hashX] = False
        # A future reports even a cancellation before the first step.
        future = reply if isinstance(reply, PendingReply) else asyncio.ensure_future(reply)
        future.add_done_callback(partial(self._on_reply, hashX))
        return future

    def _on_reply(self, hashX: bytes, reply: "PendingReply | asyncio.Future[str | None]") -> None:
        """End the wait for a reply: nothing else runs before it goes out."""
        unanswered = self._unanswered
        is_deferred = unanswered.pop(hashX, False) if unanswered else False
        if not unanswered:
            # An idle session takes no memory for it.
            self._unanswered = None
        if type(reply) is PendingReply:
            has_failed = reply.failed()
        else:
            has_failed = reply.cancelled() or reply.exception() is not None
        if has_failed:
            self.remove(hashX)
        elif is_deferred:
            asyncio.get_running_loop().call_soon(self._notify_deferred, hashX)

    def _notify_deferred(self, hashX: bytes) -> None:
        if not self._client.is_closing() and hashX in self.scripts:
            self._shared.fan_out.notify_deferred(self._client, hashX)

    def _defer(self, touched: set[bytes], unanswered: dict[bytes, bool]) -> set[bytes]:
        """Return the scripts without a pending reply; defer notifications of the others.

        Electrum closes a connection on a notification of a script before the reply.
        """
        for hashX in unanswered:
            if hashX in touched or self.mempool_statuses.pop(hashX, None) is not None:
                unanswered[hashX] = True
        return touched - unanswered.keys()

    # -- notifications

    def notify(self, touched: set[bytes], height_changed: bool) -> Awaitable[None] | None:
        """Send a notification for each touched or changed subscription.

        Return an awaitable if that has to wait.  Compute all statuses before sending any.
        """
        scripts, noted = self.scripts, self.mempool_statuses
        if self._unanswered:
            touched = self._defer(touched, self._unanswered)
        own = list(filter(scripts.__contains__, touched))
        if not own and not (height_changed and noted):
            return None
        if own and self._notify_confirmed(own):
            return None
        wanted = [*own, *noted]
        if len(wanted) > STATUSES_AT_ONCE or not all(map(self._has_cached_status, wanted)):
            return self._notify_after_wait(own)
        changed = {scripts.get(hashX): self._cached_status(hashX) for hashX in own}
        changed.update(self._changed_statuses(list(noted)))
        self._send_statuses(changed)
        return None

    def _changed_statuses(self, hashXs: Iterable[bytes]) -> dict[str | None, str | None]:
        """Return {script hash: status} of noted statuses that have changed; all must be cached."""
        changed: dict[str | None, str | None] = {}
        for hashX in hashXs:
            if hashX not in self.mempool_statuses:
                continue
            old_status, alias = self.mempool_statuses[hashX], self.scripts.get(hashX)
            status = self._cached_status(hashX)
            if status != old_status:
                changed[alias] = status
        return changed

    def _notify_confirmed(self, own: list[bytes]) -> bool:
        """Notify if all statuses are confirmed and cached; return whether they are."""
        client, noted = self._client, self.mempool_statuses
        if len(own) + len(noted) > STATUSES_AT_ONCE or any(map(self._unconfirmed.has, own)):
            return False
        known = self._shared.scripts.histories.hashes.known_statuses(own)
        if known is None:
            return False
        others = noted.keys() - own if noted else set()
        if not all(map(self._has_cached_status, others)):
            return False
        statuses, text_len = known
        parts = notification_parts(client.queue.rpc_version, self._method())
        lines = self.scripts.render(parts, own, statuses)
        if lines is None:
            return False
        client.account.bump_cost(
            len(own) * (COST_CACHED + STATUS_COST) + STATUS_CHAR_COST * text_len
        )
        if noted:
            for hashX in own:
                noted.pop(hashX, None)
        changed = self._changed_statuses(others)
        client.queue.post_lines(lines, len(own))
        self._shared.notified["script"] += len(own)
        self._post_statuses(changed)
        client.flush()
        self._shared.fan_out.notified.append((client, len(own) + len(changed)))
        return True

    async def _notify_after_wait(self, own: list[bytes]) -> None:
        scripts = self.scripts
        found: dict[bytes, tuple[str, str | None]] = {}
        for hashX in own:
            alias = scripts.get(hashX)
            if alias is not None:
                found[hashX] = alias, await self._status_or_remove(hashX)
                await _yield_sometimes(len(found))
        for number, (hashX, old_status) in enumerate(list(self.mempool_statuses.items())):
            alias = scripts.get(hashX)
            if alias is not None:
                await _yield_sometimes(number)
                status = await self._status_or_remove(hashX)
                if status != old_status:
                    found[hashX] = alias, status
        # Not of scripts that the client has unsubscribed from in the meantime; null where the
        # server ended the subscription.
        changed: dict[str | None, str | None] = {
            alias: status
            for hashX, (alias, status) in found.items()
            if status is None or hashX in scripts
        }
        self._send_statuses(changed)

    def _post_statuses(self, changed: dict[str | None, str | None]) -> None:
        for alias, status in changed.items():
            if alias is not None:
                self._shared.notified["script"] += 1
                self._client.queue.post_notification(self._method(), (alias, status))

    def _send_statuses(self, changed: dict[str | None, str | None]) -> None:
        changed.pop(None, None)
        self._post_statuses(changed)
        self._client.flush()
        if changed:
            self._client.log_notified(len(changed))
