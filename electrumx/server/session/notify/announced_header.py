"""The header that clients were last notified of, as a result and as a notification."""

from typing import Any

from electrumx.server.session.engine.jsonrpc import Version

METHOD = "blockchain.headers.subscribe"


class AnnouncedHeader:
    """The result of ``blockchain.headers.subscribe``, and its notification, encoded once."""

    def __init__(self) -> None:
        #: {"hex": raw header, "height": its height}; empty until the first notification
        self.result: dict[str, Any] = {}
        # JSON-RPC version -> notification
        self._messages: dict[Version, bytes] = {}

    def set(self, height: int, header: bytes) -> bool:
        """Announce a raw header from now on; return whether it is another one."""
        result = {"hex": header.hex(), "height": height}
        if result == self.result:
            return False
        self.result = result
        self._messages = {}
        return True

    def message(self, version: Version) -> bytes:
        """Return the notification of the header in a JSON-RPC version."""
        message = self._messages.get(version)
        if message is None:
            message = version.notification(METHOD, (self.result,))
            self._messages[version] = message
        return message
