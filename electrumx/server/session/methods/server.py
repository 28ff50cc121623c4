"""server.*: the server's identity, its peers, and the negotiation of the protocol."""

import asyncio
import logging
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from aiorpcx import ReplyAndDisconnect, RPCError

import electrumx
from electrumx.lib import util
from electrumx.lib.bounded_match import MatchTimeoutError
from electrumx.server.env import Env
from electrumx.server.session.base import SessionBase
from electrumx.server.session.engine.method_registry import (
    ProtocolTuple,
    rpc_method,
    rpc_notification,
)
from electrumx.server.session.engine.params import (
    BAD_REQUEST,
    assert_digits,
    bad_request,
    non_negative_integer,
    printed,
)
from electrumx.server.session.engine.prices import ADD_PEER_COST, FEATURES_COST, REQUEST_COST
from electrumx.server.session.methods.handler_group import HandlerGroup
from electrumx.server.session.shared.state import SharedState

T = TypeVar("T", bound=Hashable)

# As much of a client's name as the session keeps.
CLIENT_NAME_CHARS = 100
# Clients that stop at the crash notifications spoke at most this.
CRASH_MAX_PROTOCOL = (1, 2)
# Bytes that the reply to a ping takes beside its digits, with room for an ordinary id
PONG_MARGIN = 100


def daemon_version_text(version: object) -> str:
    """Return 290100 as 29.1.0."""
    if not isinstance(version, int):
        return "unknown"
    return f"{version // 10_000:d}.{version % 10_000 // 100:d}.{version % 100:d}"


@lru_cache(maxsize=256)
def _shared(value: T) -> T:
    """Return the same object for equal ones that came lately: many clients are the same wallet."""
    return value


class ServedProtocol(Protocol):
    """The protocol versions that a session class serves."""

    @property
    def PROTOCOL_MIN(self) -> ProtocolTuple:
        """The lowest."""

    def server_features(self, env: Env, newest: ProtocolTuple | None = None) -> dict[str, Any]:
        """Return the features object that describes this server."""


class ServerMethods(HandlerGroup):
    """Requests about the server itself."""

    __slots__ = ("_protocol", "_sv_seen")

    def __init__(self, session: SessionBase, shared: SharedState) -> None:
        super().__init__(session, shared)
        self._protocol = cast("ServedProtocol", session)
        # Whether the client has negotiated
        self._sv_seen = False

    def is_tor(self) -> bool:
        """Return whether the client connects through Tor: by its circuit, or the Tor proxy."""
        if self.session.origin().circuit() is not None:
            return True
        proxy = self.shared.peers.proxy_address()
        remote = self.session.remote_address()
        if not proxy or remote is None:
            return False
        return bool(proxy == str(remote.host))

    @rpc_method("server.add_peer")
    async def add_peer(self, features: object) -> bool:
        """Consider the client's server as a peer; return whether a check will follow."""
        self.account.bump_cost(ADD_PEER_COST)
        remote = self.session.remote_address()
        source_addr = None if remote is None else str(remote.host)
        return await self.shared.peers.on_add_peer(features, source_addr)

    @rpc_method("server.peers.subscribe")
    def peers_subscribe(self) -> list[tuple[str, str, list[str]]]:
        """Return the peers as (ip, host, details)."""
        self.account.bump_cost(REQUEST_COST)
        if not self.shared.stage.is_complete:
            return self.shared.peers.coin_peers()
        return self.shared.peers.on_peers_subscribe(self.is_tor())

    @rpc_method("server.features")
    def server_features_request(self) -> dict[str, Any]:
        """Return the features of this server."""
        self.account.bump_cost(FEATURES_COST)
        features = self._protocol.server_features(self.shared.env, self.shared.protocol.maximum)
        if self.session.protocol_tuple >= (1, 7):
            del features["hash_function"]
        return features

    @rpc_method("server.donation_address")
    def donation_address(self) -> str:
        """Return the operator's donation address."""
        self.account.bump_cost(0.1)
        return self.shared.env.donation_address

    @rpc_method("server.ping", until=(1, 7))
    def ping(self) -> None:
        """Keep the connection alive."""
        self.account.bump_cost(0.1)

    @rpc_method("server.ping", since=(1, 7))
    def sized_ping(self, pong_len: object = 0, data: object = "") -> dict[str, str]:
        """Return as many digits as the client wants, whatever it has sent: lengths leak nothing."""
        self.account.bump_cost(0.1)
        assert_digits(data)
        pong_len = non_negative_integer(pong_len)
        if pong_len > self.shared.max_send - PONG_MARGIN:
            raise bad_request("pong_len value too high")
        return {"data": "0" * pong_len}

    @rpc_notification("server.ping", since=(1, 7))
    def ping_notification(self, data: object = "") -> None:
        """Ignore a message that only has a length."""
        self.account.bump_cost(0.1)
        assert_digits(data)

    @rpc_method("server.banner")
    async def banner(self) -> str:
        """Return the operator's greeting."""
        self.account.bump_cost(0.5)
        file = self.shared.env.tor_banner_file if self.is_tor() else self.shared.env.banner_file
        default = f"You are connected to an {electrumx.version} server."
        if not file:
            return default
        try:
            text = (await asyncio.to_thread(Path(file).read_bytes)).decode()
        except (OSError, ValueError) as e:
            self.session.logger.error(f"reading banner file {file}: {e!r}")
            return default
        return await self._with_variables(text)

    async def _with_variables(self, text: str) -> str:
        """Return a banner with its placeholders replaced."""
        info = await self.shared.node.request("getnetworkinfo")
        if not isinstance(info, dict):
            info = {}
        for placeholder, value in (
            ("$SERVER_VERSION", electrumx.version_short),
            ("$SERVER_SUBVERSION", electrumx.version),
            ("$DAEMON_VERSION", daemon_version_text(info.get("version"))),
            ("$DAEMON_SUBVERSION", str(info.get("subversion", "unknown"))),
            ("$DONATION_ADDRESS", self.shared.env.donation_address),
        ):
            text = text.replace(placeholder, value)
        return text

    # -- negotiation

    @rpc_method("server.version")
    def server_version(
        self,
        /,
        client_name: object = "",
        protocol_version: object = None,
        *_surplus: object,
        **_named: object,
    ) -> list[str]:
        """Negotiate the protocol; return our version and the protocol from now on.

        Ignore further arguments, of whatever protocol they are.
        Answer at once, so that later requests of the same packet get answers in that version.
        """
        self.account.bump_cost(0.5)
        if self._sv_seen:
            raise bad_request("server.version already sent")
        self._sv_seen = True
        if client_name:
            self._note_client_name(printed(client_name))
        chosen, client_min = util.protocol_version(
            protocol_version, self._protocol.PROTOCOL_MIN, self.shared.protocol.maximum
        )
        self._crash_old_client(chosen)
        if chosen is None:
            if client_min > self._protocol.PROTOCOL_MIN:
                self.session.logger.info(
                    "client requested future protocol version "
                    f"{util.version_string(client_min)} - is your software out of date?"
                )
            raise ReplyAndDisconnect(
                RPCError(BAD_REQUEST, f"unsupported protocol version: {printed(protocol_version)}")
            )
        self.session.set_request_handlers(_shared(chosen))
        return [electrumx.version, self.session.protocol_version_string()]

    def _note_client_name(self, name: str) -> None:
        # Cut first: matching takes time.
        name = name[:CLIENT_NAME_CHARS]
        drop = self.shared.drop_client
        try:
            is_dropped = drop is not None and bool(drop.match(name))
        except MatchTimeoutError:
            self.session.log_limited(
                "DROP_CLIENT",
                f"DROP_CLIENT takes too long to match a client's name, which is refused: {name!a}",
                logging.WARNING,
            )
            is_dropped = True
        if is_dropped:
            raise ReplyAndDisconnect(RPCError(BAD_REQUEST, f"unsupported client: {name}"))
        self.session.client = _shared(name)

    def _crash_old_client(self, chosen: ProtocolTuple | None) -> None:
        """Crash clients with a known theft bug by notifications that they do not survive."""
        last_bad = self.shared.env.coin.CRASH_CLIENT_VER
        version = util.protocol_tuple(self.session.client)
        if not last_bad or version == (0,) or version > tuple(last_bad):
            return
        if chosen is None or chosen <= CRASH_MAX_PROTOCOL:
            self.session.logger.info(
                f"attempting to crash old client with version {self.session.client}"
            )
            self.session.queue.post_notification("blockchain.relayfee", ())
            self.session.queue.post_notification("blockchain.estimatefee", ())
