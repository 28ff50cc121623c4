"""The maximum of the served protocol: the highest whose methods the node in use can answer.

The server asks the node before it serves wallets, and again whenever another one is in use.  A session
keeps the version that it has negotiated.  Runs on the event loop.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from electrumx.lib.protocol_versions import NAMES, OUTPOINTS, PACKAGES, PLAIN, ProtocolVersion
from electrumx.lib.util import version_string
from electrumx.server.daemon.client import DaemonError

# How long wallets wait at the start for the answers of the node, in seconds, and the pause after a
# try without an answer.
PROBE_SECS = 10.0
RETRY_SECS = 60.0
# Bitcoin Core has had submitpackage before, for networks of one's own.
CORE_NAME = "/Satoshi:"
CORE_WITH_PACKAGES = 280_000


class ProbedNode(Protocol):
    """The calls of ``Daemon`` in use here."""

    @property
    def url_changed(self) -> asyncio.Event:
        """Set and cleared at once when another node is in use."""

    async def knows_method(self, method: str) -> bool:
        """Return whether the node has a method, and lets us call it. Raises DaemonError."""

    async def getnetworkinfo(self) -> dict[str, Any]:
        """Return the node's version and subversion, among others. Raises DaemonError."""

    async def getindexinfo(self) -> dict[str, Any]:
        """Return the indexes that the node keeps. Raises DaemonError."""


class ServedProtocol:
    """The highest protocol to serve, by the methods of the node."""

    def __init__(
        self,
        daemon: ProbedNode,
        implemented: ProtocolVersion,
        *,
        has_names: bool = False,
        setting: ProtocolVersion | None = None,
        on_change: Callable[[ProtocolVersion], object] = lambda _maximum: None,
        logger: logging.Logger,
    ) -> None:
        """Serve at most ``implemented``, the highest of the session class.

        Call ``on_change(maximum)`` when the maximum has changed.

        ``has_names`` is whether its coin has names.  ``setting`` is the operator's maximum: requests
        that the node cannot serve then get errors.
        """
        self._daemon = daemon
        self._implemented = implemented
        self._plain = min(implemented, NAMES if has_names else PLAIN)
        self._setting = setting
        self._logger = logger
        # The reason not to serve the next protocol, or an empty text
        self._lacks = ""
        self._has_answered = False
        # Whether the node in use has not answered yet
        self._is_unknown = True
        # Waits for another node to be in use, from the first probe on
        self._changed: asyncio.Future[Any] | None = None
        #: whether the node has an index of the spender of each output, complete or not
        self.has_spender_index = False
        self._on_change = on_change
        self._of_node = self._plain
        self.maximum: ProtocolVersion = self._chosen()

    def _chosen(self) -> ProtocolVersion:
        if self._setting is None:
            return self._of_node
        chosen = min(self._setting, self._implemented)
        # 1.4.3 differs for name coins only.
        return min(chosen, self._plain) if chosen < PACKAGES else chosen

    async def start(self) -> None:
        """Ask the node, but do not wait long for it.  :meth:`run` goes on."""
        self._await_change()
        await self._probe_or_later()

    def _await_change(self) -> asyncio.Future[Any]:
        self._changed = asyncio.ensure_future(self._daemon.url_changed.wait())
        return self._changed

    async def run(self) -> None:
        """Ask again whenever another node is in use, until cancelled."""
        changed = self._changed or self._await_change()
        try:
            while True:
                await asyncio.wait([changed], timeout=RETRY_SECS if self._is_unknown else None)
                if changed.done():
                    # Before the requests: their answers may come from two nodes.
                    changed = self._await_change()
                await self._probe_or_later()
        finally:
            changed.cancel()

    async def _probe_or_later(self) -> None:
        """Ask the node; if it does not answer, its known abilities stay."""
        probe = asyncio.ensure_future(self.probe())
        try:
            done, _pending = await asyncio.wait([probe], timeout=PROBE_SECS)
        finally:
            probe.cancel()
        self._is_unknown = not done
        try:
            if done:
                probe.result()
                self._has_answered = True
                return
            reason = "no answer"
        except DaemonError as e:
            self._is_unknown = True
            reason = str(e)[:200]
        if self._has_answered and not done:
            # The daemon logs its outages, and lost nodes fail over to each other every few seconds.
            return
        self._logger.warning(
            f"serving protocols 1.4 to {version_string(self.maximum)}: could not find out what the "
            f"daemon can do, trying again in {RETRY_SECS:.0f}s: {reason}"
        )

    async def probe(self) -> None:
        """Find out what the node in use can do, and log the served protocol. Raises DaemonError."""
        of_node, lacks = self._plain, await self._missing_for_packages()
        if not lacks:
            of_node, lacks = min(self._implemented, PACKAGES), await self._missing_for_outpoints()
            if not lacks:
                of_node = self._implemented
        self.has_spender_index = await self._has_index("txospenderindex")
        self._of_node, self._lacks = of_node, lacks
        before, self.maximum = self.maximum, self._chosen()
        self._log()
        if self.maximum != before:
            self._on_change(self.maximum)

    def _log(self) -> None:
        reason = f" ({self._lacks})" if self._lacks else ""
        if self._setting is not None:
            reason = f" (PROTOCOL_MAX; {self._lacks})" if self._lacks else " (PROTOCOL_MAX)"
        self._logger.info(f"serving protocols 1.4 to {version_string(self.maximum)}{reason}")

    async def _missing_for_packages(self) -> str:
        """Return the reason why the node cannot serve 1.6, empty text if it can."""
        if not await self._daemon.knows_method("submitpackage"):
            return "the daemon has no submitpackage"
        info = await self._daemon.getnetworkinfo()
        version = info.get("version")
        is_core = str(info.get("subversion", "")).startswith(CORE_NAME)
        if is_core and isinstance(version, int) and version < CORE_WITH_PACKAGES:
            return "Bitcoin Core has a working submitpackage since version 28"
        return ""

    async def _missing_for_outpoints(self) -> str:
        """Return the reason why the node cannot serve 1.7, empty text if it can."""
        if self._implemented < OUTPOINTS:
            return ""
        if not await self._daemon.knows_method("testmempoolaccept"):
            return "the daemon has no testmempoolaccept"
        return ""

    async def _has_index(self, name: str) -> bool:
        try:
            return name in await self._daemon.getindexinfo()
        except DaemonError:
            # Many nodes have no such method.
            return False
