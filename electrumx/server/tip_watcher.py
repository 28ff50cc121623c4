"""Hears of the node's new blocks in the moment they come, instead of at the next poll.

Two ways, both optional.  ``waitfornewblock`` is a call that the node answers when it has another
tip; it waits on a connection of its own, beside the slots for requests, for half a minute at most.
Nodes that do not know it say so, and are asked again after ten minutes, or when another one is in
use.  ZMQ is a socket on which the node publishes the hash of each new tip; the operator tells its
address.

Whatever is heard is only a hint: the node in use is then asked for its height, as by polling, which
goes on all the same.  So an announcement that is lost, late or invented costs time, and nothing else.

Runs in: the event loop.  Reaches the node through Daemon only.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from aiorpcx import JSONRPC

from electrumx.lib.errors import OperatorError
from electrumx.lib.tasks import run_together
from electrumx.lib.util import class_logger
from electrumx.server.daemon import Daemon, DaemonError

# How long the node may hold a call, and how much longer its answer may take.
WAIT_SECS = 30
ANSWER_SECS = 15
# Between two announcements of one source: a node that lies cannot keep us busy.
MIN_NEWS_SECS = 0.05
# After an announcement the height is asked for once more: a block that comes between two calls of
# waitfornewblock is announced by neither.
AGAIN_SECS = 0.2
# Least time that a call without news takes.
MIN_WAIT_SECS = 1.0
# A node that does not know the call, or refuses it, is asked again after this time.
RECHECK_SECS = 600.0
# Longest pause after trouble with the connection.
MAX_RETRY_SECS = 16.0
# A ZMQ socket that was silent for so long is made anew: libzmq gives up a connection for good when
# something else than a publisher answered there, or when a message was too long.
RENEW_SECS = 3600.0
# Bytes of a message that we read: hashes are 32.
MAX_MESSAGE_BYTES = 1024
METHOD = "waitfornewblock"
TOPIC = b"hashblock"


class TipWatcher:
    """Tells the Daemon when its node has another tip.

    zmq_addresses: where nodes publish ``hashblock``; none unless the operator says so.  Raises
    OperatorError if there are some and pyzmq is not installed, or if it refuses one.
    """

    def __init__(self, daemon: Daemon, zmq_addresses: Sequence[str] = ()) -> None:
        self.logger = class_logger(__name__, self.__class__.__name__)
        self._daemon = daemon
        self._zmq_addresses = list(zmq_addresses)
        #: URL -> monotonic time before which it is not asked to hold a call
        self._ask_again: dict[str, float] = {}
        self._in_use: str | None = None
        if self._zmq_addresses:
            self._close_zmq(*self._open_zmq())

    async def run(self) -> None:
        """Watch until cancelled."""
        watchers = [self._watch_calls()]
        if self._zmq_addresses:
            watchers.append(self._watch_zmq())
        await run_together(*watchers)

    # -- waitfornewblock

    async def _watch_calls(self) -> None:
        tip: str | None = None
        retry_secs = MIN_WAIT_SECS
        # Whatever came while no call waited
        ask_height = True
        while True:
            url = self._daemon.current_url()
            patience = self._ask_again.get(url, 0.0) - time.monotonic()
            if patience > 0:
                await self._unless_url_changes(asyncio.sleep(patience))
                continue
            start = time.monotonic()
            try:
                answer = await self._unless_url_changes(self._wait_at(url, ask_height))
            except DaemonError as e:
                self._refused(url, e)
                continue
            except ConnectionError as e:
                # Whoever polls says so, and moves to another node when it is time.
                self.logger.debug(f"{METHOD}: {e}")
                await self._unless_url_changes(asyncio.sleep(retry_secs))
                retry_secs = min(retry_secs * 2, MAX_RETRY_SECS)
                ask_height = True
                continue
            retry_secs = MIN_WAIT_SECS
            ask_height = answer != tip
            if answer is not None and answer != tip:
                tip = answer
                self._note_use(url)
                await self._daemon.tip_news()
                await asyncio.sleep(MIN_NEWS_SECS)
            elif answer is not None:
                await asyncio.sleep(max(0.0, start + MIN_WAIT_SECS - time.monotonic()))

    async def _wait_at(self, url: str, ask_height: bool) -> str:
        """Return the hash of the node's tip when it has another one, or after WAIT_SECS."""
        params = (WAIT_SECS * 1000,)
        call = asyncio.ensure_future(
            self._daemon.call_aside(url, METHOD, params, WAIT_SECS + ANSWER_SECS)
        )
        try:
            if ask_height:
                await asyncio.wait([call], timeout=AGAIN_SECS)
                if not call.done():
                    await self._daemon.tip_news()
            answer = await call
        finally:
            call.cancel()
            await asyncio.wait([call])
        block_hash = answer.get("hash") if isinstance(answer, dict) else None
        if not isinstance(block_hash, str):
            raise DaemonError({"code": JSONRPC.INTERNAL_ERROR, "message": "makes no sense"})
        return block_hash[:64]

    async def _unless_url_changes(self, waiting: Awaitable[Any]) -> Any:
        """Return what is awaited; None, and cancel it, if another URL comes into use before."""
        task = asyncio.ensure_future(waiting)
        change = asyncio.ensure_future(self._daemon.url_changed.wait())
        try:
            await asyncio.wait([task, change], return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for either in (task, change):
                either.cancel()
            await asyncio.wait([task, change])

    def _refused(self, url: str, error: DaemonError) -> None:
        """Leave the node in peace for a while, polling it."""
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

    def _open_zmq(self) -> tuple[Any, Any]:
        """Return a context and a socket that is, or will be, connected to the addresses."""
        try:
            import zmq
            import zmq.asyncio
        except ImportError as e:
            raise OperatorError(
                f"ZMQ_BLOCK_ADDRESS is set, but pyzmq cannot be imported ({e}): "
                "install electrumx[zmq]"
            ) from e
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.RCVHWM, 100)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 10_000)  # milliseconds
        # Notices a node that vanished without closing the connection.
        socket.setsockopt(zmq.HEARTBEAT_IVL, 30_000)
        socket.setsockopt(zmq.SUBSCRIBE, TOPIC)
        for address in self._zmq_addresses:
            try:
                socket.connect(address)
            except zmq.ZMQError as e:
                self._close_zmq(context, socket)
                raise OperatorError(f"cannot use ZMQ_BLOCK_ADDRESS {address}: {e}") from e
        return context, socket

    @staticmethod
    def _close_zmq(context: Any, socket: Any) -> None:
        socket.close(0)
        context.term()

    async def _watch_zmq(self) -> None:
        heard = False
        while True:
            heard = await self._watch_socket(heard)

    async def _watch_socket(self, heard: bool) -> bool:
        """Watch until there is silence; ``heard`` and the result say if ever there was none."""
        context, socket = self._open_zmq()
        try:
            while await socket.poll(RENEW_SECS * 1000):
                message = await socket.recv_multipart()
                if message[0] != TOPIC:
                    continue
                if not heard:
                    heard = True
                    self.logger.info("a daemon announces blocks by ZMQ")
                await self._daemon.tip_news()
                await asyncio.sleep(MIN_NEWS_SECS)
            return heard
        finally:
            self._close_zmq(context, socket)
