"""A status of an outpoint that its subscribers are to have, and the notification of it.

Runs on the event loop.
"""

from typing import Any

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.mempool.outpoint_watch import Outpoint
from electrumx.server.session.engine.jsonrpc import Version

METHOD = "blockchain.outpoint.subscribe"


class OutpointNews:
    """An outpoint's status, encoded once for all subscribers of the same JSON-RPC version."""

    __slots__ = ("_message", "_version", "outpoint", "status")

    def __init__(self, outpoint: Outpoint, status: Any) -> None:
        self.outpoint = outpoint
        self.status = status
        # The version of its last encoding
        self._version: Version | None = None
        self._message = b""

    def message(self, version: Version) -> bytes:
        """Return the notification in a JSON-RPC version."""
        if version is not self._version:
            tx_hash, index = self.outpoint
            params = hash_to_hex_str(tx_hash), index, self.status.answer()
            self._version, self._message = version, version.notification(METHOD, params)
        return self._message
