"""The session of a wallet: the handlers of all its requests, and its notifications."""

from collections.abc import Awaitable, Sequence
from typing import Any

import electrumx
from electrumx.lib import util
from electrumx.lib.protocol_versions import OUTPOINTS, defined_version
from electrumx.server.env import Env
from electrumx.server.session.base import HandlerGroups, SessionBase
from electrumx.server.session.engine.method_registry import ProtocolTuple
from electrumx.server.session.engine.prices import CONNECT_COST
from electrumx.server.session.methods.acceptance import AcceptanceMethods
from electrumx.server.session.methods.headers import HeaderMethods
from electrumx.server.session.methods.mempool import MempoolMethods
from electrumx.server.session.methods.outpoint import OutpointMethods
from electrumx.server.session.methods.scriptpubkey import ScriptpubkeyMethods
from electrumx.server.session.methods.server import ServerMethods
from electrumx.server.session.notify.outpoint_news import OutpointNews
from electrumx.server.session.shared.serving_stage import WITHOUT_INDEX, refuse


class ElectrumX(SessionBase):
    """A client that speaks the Electrum protocol, 1.4 until it negotiates another version."""

    __slots__ = ("headers", "outpoints", "scripts", "subscriptions")

    PROTOCOL_MIN: ProtocolTuple = (1, 4)
    #: the highest version that a session may serve; the served one depends on the node
    PROTOCOL_MAX: ProtocolTuple = OUTPOINTS
    #: whether the coin has names, which protocol 1.4.3 is about
    HAS_NAMES = False

    @classmethod
    def protocol_min_max_strings(cls, newest: ProtocolTuple | None = None) -> list[str]:
        """Return the range of protocols spoken, up to ``newest`` if given."""
        newest = newest or cls.PROTOCOL_MAX
        return [util.version_string(ver) for ver in (cls.PROTOCOL_MIN, newest)]

    @classmethod
    def server_version_args(cls, newest: ProtocolTuple | None = None) -> list[str | list[str]]:
        """Return the arguments of server.version when we are the client."""
        return [electrumx.version, cls.protocol_min_max_strings(newest)]

    @classmethod
    def server_features(cls, env: Env, newest: ProtocolTuple | None = None) -> dict[str, Any]:
        """Return the features object that describes this server."""
        hosts: dict[str, dict[str, int]] = {}
        for service in env.report_services:
            hosts.setdefault(str(service.host), {})[f"{service.protocol}_port"] = service.port
        min_str, max_str = cls.protocol_min_max_strings(newest)
        return {
            "hosts": hosts,
            "pruning": None,
            "server_version": electrumx.version,
            "protocol_min": min_str,
            "protocol_max": max_str,
            "genesis_hash": env.coin.GENESIS_HASH,
            "hash_function": "sha256",
            "services": [str(service) for service in env.report_services],
        }

    handler_groups: HandlerGroups = (
        HeaderMethods,
        ScriptpubkeyMethods,
        OutpointMethods,
        AcceptanceMethods,
        MempoolMethods,
        ServerMethods,
    )

    def set_up(self) -> None:
        """Find the parts that this kind of session uses by name."""
        super().set_up()
        self.headers = self.methods.find(HeaderMethods)
        self.subscriptions = self.methods.find(ScriptpubkeyMethods).subscriptions
        self.outpoints = self.methods.find(OutpointMethods)
        self.scripts = self.subscriptions.scripts
        self.set_request_handlers(self.PROTOCOL_MIN)
        self.account.bump_cost(CONNECT_COST)
        self.account.recalc_concurrency()

    def set_request_handlers(self, ptuple: ProtocolTuple) -> None:
        """Serve the requests of a protocol version, or those of them that need no index."""
        super().set_request_handlers(ptuple)
        if self.shared.stage.is_indexing:
            self.methods.restrict(defined_version(ptuple), WITHOUT_INDEX, refuse)

    def max_reply_bytes(self) -> int:
        """Return the bound on replies."""
        return self.shared.max_send

    def sub_count(self) -> int:
        """Return the number of subscribed scripts and outpoints."""
        return len(self.scripts) + self.outpoint_count()

    def outpoint_count(self) -> int:
        """Return the number of subscribed outpoints."""
        return 0 if self.queue.ended else len(self.outpoints)

    def notify_outpoints(self, news: Sequence[OutpointNews]) -> None:
        """Queue those statuses that are not the ones that the client got last."""
        if not self.queue.ended:
            self.outpoints.notify(news)

    def takes_noise(self) -> bool:
        """Return whether the client understands pings, and gets padded messages."""
        padded = self.shared.env.padded_protocols
        return self.kind in padded and self.protocol_tuple >= (1, 7)

    def post_noise(self, count: int) -> None:
        """Queue so many pings."""
        super().post_noise(count)
        self.shared.notified["noise"] += count

    def is_concerned(self) -> bool:
        """Return whether ``notify`` may have work at another height, even without touched scripts."""
        return not self.queue.ended and bool(self.subscriptions.mempool_statuses)

    def notify_height(self) -> None:
        """Notify the client of the new header, if it has subscribed."""
        if self.headers.is_subscribed:
            self.shared.notified["headers"] += 1
            self.queue.send_message(self.shared.header.message(self.queue.rpc_version))

    def post_height(self) -> None:
        """Queue the same notification: see ``flush``."""
        if self.headers.is_subscribed:
            self.shared.notified["headers"] += 1
            self.queue.post_lines(self.shared.header.message(self.queue.rpc_version), 1)

    def notify(self, touched: set[bytes], height_changed: bool) -> Awaitable[None] | None:
        """Notify the client of its touched scripts, and of those with another status."""
        return self.subscriptions.notify(touched, height_changed)

    def on_lost(self) -> None:
        """End; the client gets no more notifications."""
        super().on_lost()
        self.shared.fan_out.forget(self)
        self.headers.end()
        self.scripts.end()
        self.outpoints.end()
        # Handlers that still run have the session, and it must not have them.
        del self.headers, self.outpoints, self.subscriptions
