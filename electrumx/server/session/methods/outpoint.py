"""blockchain.outpoint.*: whether an output exists, and which transaction spends it.

``shared.outpoint_status`` computes the status; ``notify.outpoints`` sends notifications.  A
session keeps the status that it last sent of each outpoint.
"""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, cast

from electrumx.server.mempool.outpoint_watch import Outpoint
from electrumx.server.session.base import SessionBase
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import (
    assert_hex,
    assert_tx_hash,
    non_negative_integer,
)
from electrumx.server.session.engine.prices import COST_CACHED
from electrumx.server.session.methods.handler_group import HandlerGroup
from electrumx.server.session.notify.outpoint_news import OutpointNews
from electrumx.server.session.notify.outpoints import OutpointSubscriber, OutpointSubscriptions
from electrumx.server.session.shared.outpoint_status import Status
from electrumx.server.session.shared.state import SharedState

# Subscriptions ended before yielding to the event loop: about a millisecond.
AT_ONCE = 1_000


def _checked(tx_hash: object, txout_idx: object, spk_hint: object) -> Outpoint:
    """Return an outpoint; check the hint, but do not use it."""
    outpoint = assert_tx_hash(tx_hash), non_negative_integer(txout_idx)
    assert_hex(spk_hint)
    return outpoint


class OutpointMethods(HandlerGroup):
    """Requests about outpoints, and their notifications."""

    __slots__ = ("_outpoints",)

    def __init__(self, session: SessionBase, shared: SharedState) -> None:
        super().__init__(session, shared)
        # Outpoint -> the status last sent; None without subscriptions
        self._outpoints: dict[Outpoint, Status] | None = None

    @property
    def _subscriber(self) -> OutpointSubscriber:
        return cast("OutpointSubscriber", self.session)

    def __len__(self) -> int:
        """Return the number of subscribed outpoints."""
        return 0 if self._outpoints is None else len(self._outpoints)

    def _status_now(self, outpoint: Outpoint) -> Status | None:
        """Return the status if that needs no waiting, and charge for it."""
        self.account.bump_cost(COST_CACHED)
        if not self.shared.tip.is_tip_known():
            return None
        status = self.shared.outpoint_statuses.now(outpoint)
        if status is not None:
            self.account.bump_cost(COST_CACHED)
        return status

    async def _outpoint_status(self, outpoint: Outpoint) -> Status:
        """Return the status at the tip that clients know."""
        shared = self.shared
        compute = partial(shared.outpoint_statuses.answer, outpoint, self.account.bump_cost)
        return await shared.tip.retry_at_stable_tip(compute, self.account.bump_cost)

    @rpc_method("blockchain.outpoint.get_status", since=(1, 7))
    def outpoint_get_status(self, tx_hash: object, txout_idx: object, spk_hint: object) -> Any:
        """Return whether an output exists, and which transaction spends it."""
        outpoint = _checked(tx_hash, txout_idx, spk_hint)
        status = self._status_now(outpoint)
        return self._answer_later(outpoint) if status is None else status.answer()

    async def _answer_later(self, outpoint: Outpoint) -> dict[str, Any]:
        return (await self._outpoint_status(outpoint)).answer()

    @rpc_method("blockchain.outpoint.subscribe", since=(1, 7))
    def outpoint_subscribe(self, tx_hash: object, txout_idx: object, spk_hint: object) -> Any:
        """Return the same, and notify of each other status."""
        outpoint = _checked(tx_hash, txout_idx, spk_hint)
        status = self._status_now(outpoint)
        if status is not None:
            self.note_subscribed(outpoint, status)
            return status.answer()
        answer: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(self._outpoint_status(outpoint))
        task.add_done_callback(partial(self._end_subscribing, outpoint, answer))
        answer.add_done_callback(lambda done: task.cancel() if done.cancelled() else None)
        return answer

    def _end_subscribing(
        self,
        outpoint: Outpoint,
        answer: "asyncio.Future[dict[str, object]]",
        task: "asyncio.Future[Status]",
    ) -> None:
        """Answer with the status of a new subscription, which there is only if that is known.

        No notification precedes the answer: clients close a connection that sends one for an
        outpoint without a subscription.
        """
        if task.cancelled():
            answer.cancel()
        elif (error := task.exception()) is not None:
            if not answer.done():
                answer.set_exception(error)
        elif not answer.done():
            # The session notes it when the answer goes out: see below.
            status = task.result()
            answer.set_result(status.answer())
            if not self.session.is_closing():
                asyncio.get_running_loop().call_soon(self.note_subscribed, outpoint, status)

    def note_subscribed(self, outpoint: Outpoint, status: Status) -> None:
        """Subscribe to an outpoint, whose status the client gets now."""
        if self.session.is_closing():
            return
        if self._outpoints is None:
            self._outpoints = {}
        self._outpoints[outpoint] = status
        self.shared.outpoints.add(outpoint, self._subscriber)

    @rpc_method("blockchain.outpoint.unsubscribe", since=(1, 7))
    def outpoint_unsubscribe(self, tx_hash: object, txout_idx: object) -> bool:
        """End a subscription; return whether there was one."""
        self.account.bump_cost(COST_CACHED)
        outpoint = assert_tx_hash(tx_hash), non_negative_integer(txout_idx)
        if self._outpoints is None or self._outpoints.pop(outpoint, None) is None:
            return False
        self.shared.outpoints.discard(outpoint, self._subscriber)
        return True

    def notify(self, news: Sequence[OutpointNews]) -> None:
        """Queue those statuses that are not the ones last sent."""
        last_sent = self._outpoints
        if last_sent is None:
            return
        queue = self.session.queue
        version = queue.rpc_version
        messages: list[bytes] = []
        for item in news:
            last = last_sent.get(item.outpoint)
            if last is not None and last != item.status:
                last_sent[item.outpoint] = item.status
                messages.append(item.message(version))
        if messages:
            self.account.bump_cost(COST_CACHED * len(messages))
            self.shared.notified["outpoint"] += len(messages)
            queue.post_lines(b"\n".join(messages), len(messages))

    def end(self) -> None:
        """End all subscriptions: the session has ended."""
        outpoints, self._outpoints = self._outpoints, None
        if outpoints:
            _forget(self.shared.outpoints, self._subscriber, iter(outpoints))


def _forget(
    subscriptions: OutpointSubscriptions,
    subscriber: OutpointSubscriber,
    outpoints: Iterator[Outpoint],
) -> None:
    """End subscriptions of a session that has ended, in time slices if there are many."""
    part = list(islice(outpoints, AT_ONCE))
    for outpoint in part:
        subscriptions.discard(outpoint, subscriber)
    if len(part) == AT_ONCE:
        loop = asyncio.get_running_loop()
        loop.call_soon(_forget, subscriptions, subscriber, outpoints)
