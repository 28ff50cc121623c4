"""Learns of the node's new blocks the moment they come, instead of at the next poll.

Two ways, both optional.  ``waitfornewblock`` is a call that the node answers when it has another
tip; it has a connection of its own, not one of the slots for requests.  The node holds it for
HOLD_SECS at most, and it occupies one of the node's RPC threads.  In that time a task also calls
``getblockcount``, at first during a short hold: a node that answers that only when the hold is over
has no thread left for others, and polling has to suffice.  Nodes that do not know the call return an
error.  Both get another try after ten minutes, or when another node comes into use.  ZMQ is a socket
on which the node publishes the hash of each new tip; the operator configures its address.  While ZMQ
delivers, there is no such call.

An announcement is only a hint: a request for the height of the node in use follows, as by polling,
which continues.  So a lost, late or invented announcement costs time, and nothing else.

Runs in: the event loop.  Reaches the node through Daemon only.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from aiorpcx import JSONRPC

from electrumx.lib.tasks import run_together
from electrumx.lib.util import class_logger
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.jsonrpc import pulse
from electrumx.server.daemon.zmq_subscription import close_subscription, open_subscription

# How long the node may hold a call, and how much longer its answer may take.  Bitcoin Core holds it
# so long even if we have closed the connection.
HOLD_SECS = 5.0
ANSWER_SECS = 15.0
# How long it may hold the first call, which shows whether it has threads to spare.
PROBE_SECS = 1.0
# So many holds in a row without an answer to another call, and polling has to suffice.
MAX_STARVED = 2
# Between two announcements of one source: a node that lies cannot keep us busy.
MIN_NOTIFICATION_SECS = 0.05
# After sending a call, request the height as well: neither of two calls announces a block that
# comes between them.
CONCURRENT_CALL_SECS = 0.2
# After another height appears, how long ZMQ may take to announce it, and how long before it may
# have done so.
ZMQ_LATE_SECS = 3.0
# Least time that a call without a new tip takes.
MIN_WAIT_SECS = 1.0
# A node that does not know the call, or refuses it, gets it again after this time.
RECHECK_SECS = 600.0
# Longest pause after a failure of the connection.
MAX_RETRY_SECS = 16.0
# Another ZMQ socket replaces one that was silent for so long: libzmq gives up a connection for good when
# something else than a publisher answered there, or when a message was too long.
RENEW_SECS = 3600.0
# Bytes of a message that we read: hashes are 32.
MAX_MESSAGE_BYTES = 1024
METHOD = "waitfornewblock"
TOPIC = b"hashblock"


class TipWatcher:
    """Notifies the Daemon when its node has another tip.

    zmq_addresses: where nodes publish ``hashblock``; none unless the operator sets them.  Raises
    OperatorError if there are some and pyzmq is missing, or if it refuses one.
    hold_calls:    whether ``waitfornewblock`` may be used
    """

    def __init__(
        self, daemon: Daemon, zmq_addresses: Sequence[str] = (), *, hold_calls: bool = True
    ) -> None:
        self.logger = class_logger(__name__, self.__class__.__name__)
        self._daemon = daemon
        self._zmq_addresses = list(zmq_addresses)
        self._hold_calls = hold_calls
        #: URL -> monotonic time before which it is not asked to hold a call
        self._ask_again: dict[str, float] = {}
        #: the URL that has answered others while it holds a call
        self._proven_url: str | None = None
        #: monotonic time of the answer to another call during the present hold
        self._answered_at = float("inf")
        self._starved = 0  # holds in a row without an answer to another call
        self._in_use: str | None = None
        #: monotonic time of the last message; whether ZMQ announces the blocks that come
        self._zmq_time = float("-inf")
        self._zmq_delivers = False
        self._zmq_changed = asyncio.Event()
        if self._zmq_addresses:
            # Without a topic: a publisher would take it for that of the socket that follows.
            close_subscription(*self._open_zmq(topics=()))

    async def run(self) -> None:
        """Watch until cancelled."""
        watchers = []
        if self._hold_calls:
            watchers.append(self._watch_calls())
        if self._zmq_addresses:
            watchers += [self._watch_zmq(), self._check_zmq()]
        await run_together(*watchers)

    # -- waitfornewblock

    async def _watch_calls(self) -> None:
        tip: str | None = None
        retry_secs = MIN_WAIT_SECS
        while True:
            url = self._daemon.current_url()
            if self._zmq_delivers:
                await self._zmq_changed.wait()
                continue
            patience = self._ask_again.get(url, 0.0) - time.monotonic()
            if patience > 0:
                await self._unless_changed(url, asyncio.sleep(patience))
                continue
            start = time.monotonic()
            try:
                answer = await self._unless_changed(url, self._hold(url))
            except DaemonError as e:
                self._refused(url, e)
                continue
            except ConnectionError as e:
                # The polling task logs it, and moves to another node when it is time.
                self.logger.debug(f"{METHOD}: {e}")
                await self._unless_changed(url, asyncio.sleep(retry_secs))
                retry_secs = min(retry_secs * 2, MAX_RETRY_SECS)
                continue
            retry_secs = MIN_WAIT_SECS
            if self._starved >= MAX_STARVED:
                self._is_starved(url)
            elif answer is not None and answer != tip:
                tip = answer
                self._note_use(url)
                await self._daemon.notify_tip()
                await asyncio.sleep(MIN_NOTIFICATION_SECS)
            elif answer is not None:
                await asyncio.sleep(max(0.0, start + MIN_WAIT_SECS - time.monotonic()))

    async def _hold(self, url: str) -> str:
        """Return the hash of the node's tip when it has another one, or when the hold is over."""
        secs = HOLD_SECS if url == self._proven_url else PROBE_SECS
        start = time.monotonic()
        timeout = secs + ANSWER_SECS
        call = asyncio.ensure_future(
            self._daemon.call_aside(url, METHOD, (int(secs * 1000),), timeout)
        )
        concurrent = asyncio.ensure_future(self._ask_concurrently(url, timeout))
        self._answered_at = float("inf")
        try:
            answer = await call
        finally:
            # Closes the connections, so that the node may notice.
            for task in (call, concurrent):
                task.cancel()
            await asyncio.wait([call, concurrent])
        # A node without other threads answers when the hold is over, which is at the same time.
        nearly_over = start + 0.9 * secs
        if self._answered_at < nearly_over:
            self._proven_url, self._starved = url, 0
        elif time.monotonic() >= nearly_over:
            self._proven_url, self._starved = None, self._starved + 1
        block_hash = answer.get("hash") if isinstance(answer, dict) else None
        if not isinstance(block_hash, str):
            raise DaemonError({"code": JSONRPC.INTERNAL_ERROR, "message": "makes no sense"})
        return block_hash[:64]

    async def _ask_concurrently(self, url: str, timeout_secs: float) -> None:
        """Ask for the height while the node holds a call, and note that it answered."""
        await asyncio.sleep(CONCURRENT_CALL_SECS)
        try:
            height = await self._daemon.call_aside(url, "getblockcount", (), timeout_secs)
        except (DaemonError, ConnectionError):
            return
        self._answered_at = time.monotonic()
        if height != self._daemon.cached_height():
            await self._daemon.notify_tip()

    async def _unless_changed(self, url: str, waiting: Awaitable[Any]) -> Any:
        """Return the awaited result; None, and cancel it, if it is not needed any more.

        That is if another URL than ``url`` comes into use, or if ZMQ begins to deliver.
        """
        task = asyncio.ensure_future(waiting)
        changes = [
            asyncio.ensure_future(event.wait())
            for event in (self._daemon.url_changed, self._zmq_changed)
        ]
        try:
            # Events are pulses: no task sees one from before it has begun to wait for it.
            await asyncio.sleep(0)
            if url == self._daemon.current_url() and not self._zmq_delivers:
                await asyncio.wait([task, *changes], return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for each in (task, *changes):
                each.cancel()
            await asyncio.wait([task, *changes])

    def _is_starved(self, url: str) -> None:
        """Poll a node that has no RPC thread to spare."""
        self._ask_again[url] = time.monotonic() + RECHECK_SECS
        self._starved, self._in_use = 0, None
        self.logger.warning(
            f"the daemon at {self._daemon.logged_url(url)} answers nothing else while it holds "
            f"{METHOD}: polling it. Give it more RPC threads (rpcthreads), or set "
            "DAEMON_WAIT_FOR_BLOCKS= (empty)"
        )

    def _refused(self, url: str, error: DaemonError) -> None:
        """Poll a node that does not hold the call."""
        self._ask_again[url] = time.monotonic() + RECHECK_SECS
        self._in_use = None
        code = error.args[0].get("code")
        why = "does not know" if code == JSONRPC.METHOD_NOT_FOUND else "refuses"
        self.logger.info(f"the daemon at {self._daemon.logged_url(url)} {why} {METHOD}: polling it")

    def _note_use(self, url: str) -> None:
        if url != self._in_use:
            self._in_use = url
            where = self._daemon.logged_url(url)
            self.logger.info(f"the daemon at {where} announces blocks by {METHOD}")

    # -- ZMQ

    def _open_zmq(self, topics: Sequence[bytes] = (TOPIC,)) -> tuple[Any, Any]:
        """Return a context and a socket that is, or will be, connected to the addresses."""
        return open_subscription(
            "ZMQ_BLOCK_ADDRESS",
            self._zmq_addresses,
            topics,
            max_messages=100,
            max_bytes=MAX_MESSAGE_BYTES,
        )

    async def _watch_zmq(self) -> None:
        heard = False
        while True:
            heard = await self._watch_socket(heard)

    async def _check_zmq(self) -> None:
        """Notice when blocks come that ZMQ does not announce."""
        while True:
            await self._daemon.height_changed.wait()
            if not self._zmq_delivers:
                continue
            since = time.monotonic() - ZMQ_LATE_SECS
            await asyncio.sleep(ZMQ_LATE_SECS)
            if self._zmq_time < since:
                self._set_zmq_delivers(False)

    def _set_zmq_delivers(self, delivers: bool) -> None:
        if delivers is not self._zmq_delivers:
            self._zmq_delivers = delivers
            pulse(self._zmq_changed)

    async def _watch_socket(self, heard: bool) -> bool:
        """Watch until there is silence; ``heard`` and the result: whether a message ever came."""
        context, socket = self._open_zmq()
        try:
            while await socket.poll(RENEW_SECS * 1000):
                message = await socket.recv_multipart()
                if message[0] != TOPIC:
                    continue
                if not heard:
                    heard = True
                    self.logger.info("a daemon announces blocks by ZMQ")
                self._zmq_time = time.monotonic()
                self._set_zmq_delivers(True)
                await self._daemon.notify_tip()
                await asyncio.sleep(MIN_NOTIFICATION_SECS)
            return heard
        finally:
            close_subscription(context, socket)
