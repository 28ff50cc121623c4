"""The peer set, and one task for each peer that verifies it again and again.

`PeerSet` owns every peer but the copies that a session has just received. A peer enters by
`note_peers`, which starts its monitoring task, and leaves when that task gives it up or a
better-known name replaces it.
"""

import asyncio
import dataclasses
import random
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from aiorpcx import ProtocolError, RPCError, SOCKSError, TaskTimeout

from electrumx.lib.peer import Peer
from electrumx.lib.tasks import wait_for_event
from electrumx.lib.util import class_logger
from electrumx.server.env import Env
from electrumx.server.peers.admission import AddPeerRules
from electrumx.server.peers.blacklist import BlacklistTask
from electrumx.server.peers.peer_set import STALE_SECS, PeerSet, is_public_peer, wake
from electrumx.server.peers.proxy import ProxyFinder
from electrumx.server.peers.session import (
    BadPeerError,
    PeerConnectionLostError,
    PeerSession,
    connect_to_first,
    few_of_family,
    quoted,
    run_bounded,
)
from electrumx.server.peers.sources import PeerProxy, Resolver, ThreadResolver
from electrumx.server.peers.verify import ChainDB, Ourselves, check_peer

# The unit of pauses between attempts; also the pause while a peer must wait for a proxy.
WAKEUP_SECS = 300
REMINDER_SECS = 3600

# Failures in a row after which a peer is forgotten: one that was good once, and others.
MAX_TRIES_ONCE_GOOD = 10
MAX_TRIES = 3
# An honest session takes at most four requests in a row, and connecting.
REQUESTS_PER_SESSION = 5


class PeerManager:
    """Discovers and verifies peers, and returns those that clients may use.

    `resolver` resolves the names of hosts that ask to be added, `names` those to connect to;
    `is_public` returns whether a peer is worth connecting to, `is_banned` whether the operator banned
    an address. The times are in seconds. `db` gives our height and headers.
    """

    def __init__(
        self,
        env: Env,
        db: ChainDB,
        *,
        resolver: Resolver | None = None,
        names: Resolver | None = None,
        is_public: Callable[[Peer], bool] = is_public_peer,
        is_banned: Callable[[IPv4Address | IPv6Address], bool] = lambda _address: False,
        request_timeout: float = 30.0,
        tor_request_timeout: float = 120.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.logger = class_logger(__name__, self.__class__.__name__)
        self.env = env
        #: whether addresses of clients are kept out of the log; changed by a reload
        self.anon_logs: bool = env.anon_logs
        self.db = db
        self._is_banned = is_banned
        #: seconds that a peer's reply may take, unless it is behind a proxy
        self.request_timeout = request_timeout
        self._tor_request_timeout = tor_request_timeout
        self._clock = clock

        coin, session_class = env.coin, env.coin.SESSIONCLS
        self._ours = Ourselves(
            db=db,
            genesis_hash=coin.GENESIS_HASH,
            server_version_args=session_class.server_version_args(),
            default_ports=coin.PEER_DEFAULT_PORTS,
        )
        self.myselves = [
            Peer(str(service.host), session_class.server_features(env), "env")
            for service in env.report_services
        ]
        #: those of the coin, where discovery begins
        self.hard_coded_peers = [
            Peer.from_real_name(real_name, "coins.py", coin.PEER_DEFAULT_PORTS)
            for real_name in coin.PEERS
        ]
        # Certificates of peers are self-signed as a rule; a peer's answers are checked instead.
        self._ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ssl_context.check_hostname = False
        self._ssl_context.verify_mode = ssl.CERT_NONE

        #: the peers that are known
        self.peer_set = PeerSet(clock, is_public)
        self.peers = self.peer_set.peers
        self._blacklist = BlacklistTask(env.blacklist_url, self.peer_set, self.logger)
        self._proxies = ProxyFinder(env, self.logger)
        self.add_peer_rules = AddPeerRules(resolver or ThreadResolver(), clock)
        # A separate one: requests to be added must not delay our own connections.
        self._names = names or ThreadResolver()
        #: those that monitor a peer
        self.tasks: set[asyncio.Task[None]] = set()
        #: the peers that wait for their next attempt
        self.pausing: set[Peer] = set()

    def set_protocol_max(self, newest: tuple[int, ...]) -> None:
        """Announce another protocol as the highest that we serve from now on."""
        session_class = self.env.coin.SESSIONCLS
        args = session_class.server_version_args(newest)
        self._ours = dataclasses.replace(self._ours, server_version_args=args)
        features = session_class.server_features(self.env, newest)
        for peer in self.myselves:
            peer.update_features(features)

    # --- Queries

    def info(self) -> dict[str, int]:
        """Return the number of peers of each status, and in total."""
        return self.peer_set.counts()

    async def rpc_data(self) -> list[dict[str, Any]]:
        """Return a row for each peer for LocalRPC: the bad last, then the latest good first."""
        return self.peer_set.rows()

    @property
    def proxy(self) -> PeerProxy | None:
        """The proxy for the peers that need one, None while none is known."""
        return self._proxies.proxy

    def proxy_address(self) -> str | None:
        """Return the IP address that connections through the proxy come from, as text.

        None while no proxy is known.
        """
        return self._proxies.ip_address

    def on_peers_subscribe(self, is_tor: bool) -> list[tuple[str, str, list[str]]]:
        """Return the peers to report to a client, which is itself on Tor or not.

        With discovery off that is the coin's list; with "self", ourselves.
        """
        if self.env.peer_discovery == self.env.PD_OFF:
            return self.coin_peers()
        if self.env.peer_discovery == self.env.PD_SELF:
            by_host = {peer.host.lower(): peer for peer in self.myselves}
            return [peer.to_tuple() for peer in by_host.values()]

        return [peer.to_tuple() for peer in self.peer_set.choose(self.myselves, is_tor)]

    def coin_peers(self) -> list[tuple[str, str, list[str]]]:
        """Return the peers of the coin's list, to report to a client."""
        return [peer.to_tuple() for peer in self.hard_coded_peers]

    async def add_localRPC_peer(self, real_name: str) -> None:
        """Add the peer that the operator wrote as a real name."""
        peer = Peer.from_real_name(real_name, "RPC", self._ours.default_ports)
        self.note_peers([peer], check_ports=True)

    async def on_add_peer(self, features: Any, source_addr: str | None) -> bool:
        """Handle a client's wish to be known; True if it is accepted for checking.

        `features` is any JSON value, `source_addr` the client's IP address as text or None if
        it is gone. Never raises.
        """
        if self.env.peer_discovery != self.env.PD_ON:
            return False
        if not source_addr:
            self.logger.info("ignored add_peer request: no source info")
            return False
        source = "xx.xx.xx.xx" if self.anon_logs else source_addr
        peers = Peer.peers_from_features(features, source_addr)
        if not peers or not peers[0].is_valid:
            self.logger.info(f"ignored add_peer request from {source}: no usable host")
            return False

        # One request, one host: the others are a stranger's word for other machines.
        peer = peers[0]
        if self.add_peer_rules.is_rate_limited(peer):
            return False
        refusal = await self.add_peer_rules.refusal(peer, source_addr)
        if refusal:
            self.logger.warning(
                f"rejected add_peer request from {source} for {peer.host} ({refusal})"
            )
            return False
        self.add_peer_rules.note_accepted(peer)
        self.logger.info(f"accepted add_peer request from {source} for {peer.host}")
        self.note_peers([peer], check_ports=True, source=source)
        return True

    def retry_banned(self) -> None:
        """Try the peers at banned addresses at once, which marks them as bad."""
        wake(
            peer
            for peer in self.peers
            if any(self._is_banned_text(text) for text in (peer.host, peer.ip_addr) if text)
        )

    def _is_banned_text(self, address: str) -> bool:
        """Return whether a text is a banned IP address."""
        try:
            return self._is_banned(ip_address(address))
        except ValueError:
            return False

    # --- The set

    def note_peers(
        self,
        peers: Iterable[Peer],
        *,
        limit: int | None = 2,
        check_ports: bool = False,
        source: str | None = None,
    ) -> None:
        """Add those of `peers` that are new and usable, at most `limit`, and monitor them.

        With `check_ports`, a known peer whose ports differ is tried at once.
        """
        known = set(self.peers)
        new_peers: list[Peer] = []
        for peer in peers:
            if not self.peer_set.is_public(peer) or (peer.is_tor and not self.proxy):
                continue
            matches = peer.matches(known)
            if not matches:
                new_peers.append(peer)
                # So that the list's own duplicates are found.
                known.add(peer)
            elif check_ports:
                self._retry_if_ports_changed(peer, matches)
        if limit is not None:
            random.shuffle(new_peers)
            new_peers = new_peers[:limit]
        for peer in new_peers:
            self.logger.info(f"accepted new peer {peer} from {source or peer.source}")
            peer.retry_event = asyncio.Event()
            self.peers.add(peer)
            self._spawn(self.monitor_peer(peer))

    def _retry_if_ports_changed(self, peer: Peer, matches: list[Peer]) -> None:
        for match in matches:
            if match.check_ports(peer):
                self.logger.info(f"ports changed for {peer}")
                wake([match])

    # --- Tasks

    def _spawn(self, coro: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(coro)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def discover_peers(self) -> None:
        """Look for peers and verify them until cancelled; return at once if that is disabled.

        Never raises: the server is of use without its peers.
        """
        env = self.env
        self.logger.info(f"peer discovery: {env.peer_discovery}")
        if env.peer_discovery != env.PD_ON:
            self.logger.info("peer discovery is disabled")
            return
        self.logger.info(f"announce ourself: {env.peer_announce}")
        self.logger.info(f"my clearnet self: {self._clearnet_self()}")
        self.logger.info(f"force use of proxy: {env.force_proxy}")
        try:
            await asyncio.gather(
                self._outlive("blacklist refresh", self._blacklist.run()),
                self._outlive("proxy detection", self._use_proxy()),
                self._outlive("peer import", self._import_peers()),
            )
            # Monitoring goes on in its own tasks.
            await asyncio.Event().wait()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End the monitoring of all peers."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _outlive(self, what: str, coro: Coroutine[object, object, None]) -> None:
        """Run `coro`; if it fails, log that now and every hour instead of ending the server."""
        try:
            await coro
            return
        except Exception:
            self.logger.exception(f"{what} failed; the server goes on without it")
        while True:
            await asyncio.sleep(REMINDER_SECS)
            self.logger.warning(f"{what} is not running since it failed")

    async def _import_peers(self) -> None:
        self.note_peers([*self.myselves, *self.hard_coded_peers], limit=None)

    async def _use_proxy(self) -> None:
        """Look for a proxy; then try the peers that need one."""
        await self._proxies.find()
        # Peers that had to wait for the proxy, and onion peers that were passed over.
        wake(peer for peer in self.peers if self._proxies.is_needed_for(peer))
        await self._import_peers()

    # --- Monitoring one peer

    async def monitor_peer(self, peer: Peer) -> None:
        """Verify a peer of the set again and again, until it is forgotten."""
        while peer in self.peers:
            try:
                pause_secs = await self._attempt(peer)
            except Exception:
                self.logger.exception(f"[{peer}] unexpected error")
                pause_secs = self._pause_after_failure(peer)
            if pause_secs is None:
                self.peers.discard(peer)
                return
            await self._pause(peer, pause_secs)

    async def _pause(self, peer: Peer, secs: float) -> None:
        """Return after `secs`, or as soon as the peer's retry event is set."""
        self.pausing.add(peer)
        try:
            await wait_for_event(peer.retry_event, secs)
        finally:
            self.pausing.discard(peer)
        peer.retry_event.clear()

    async def _attempt(self, peer: Peer) -> float | None:
        """Try to verify `peer` once; return the seconds to the next attempt, None to forget."""
        if self._proxies.is_needed_for(peer) and not self.proxy:
            # Not the peer's fault, so it does not count as a try.
            return WAKEUP_SECS
        peer.try_count += 1
        start = time.monotonic()
        if await self._is_verified(peer):
            self.logger.info(f"[{peer}] verified in {time.monotonic() - start:.1f}s")
            self._on_verified(peer)
            return STALE_SECS - 2 * WAKEUP_SECS
        return self._pause_after_failure(peer)

    def _pause_after_failure(self, peer: Peer) -> float | None:
        once_good = peer.last_good and not peer.bad
        if peer.try_count >= (MAX_TRIES_ONCE_GOOD if once_good else MAX_TRIES):
            kind = "bad" if peer.bad else "unreachable"
            self.logger.info(f"forgetting {kind} peer: {peer}")
            return None
        return float(WAKEUP_SECS * 2**peer.try_count)

    async def _is_verified(self, peer: Peer) -> bool:
        """Try the ways to connect in turn; return True as soon as one convinces us."""
        timeout = self._tor_request_timeout if peer.is_tor else self.request_timeout
        addresses: list[str] | None = None
        for kind, port, family in peer.connection_tuples():
            if peer.is_tor and family != socket.AF_INET:
                # The proxy resolves the name: there is only one way.
                continue
            peer.last_try = self._clock()
            text = f"[{peer.host}:{port} {kind}]"
            try:
                if addresses is None:
                    addresses = await run_bounded(self._addresses(peer), timeout)
                candidates = few_of_family(addresses, family)
                await run_bounded(
                    self._converse(peer, candidates, kind, port, family, timeout),
                    timeout * REQUESTS_PER_SESSION,
                )
                # Others may have been verified in the meantime; nothing runs between this check
                # and marking this peer as good.
                self.peer_set.check_bucket(peer)
            except BadPeerError as e:
                self.logger.error(f"{text} marking bad: ({e})")
                peer.mark_bad()
                return False
            except (RPCError, ProtocolError) as e:
                self.logger.error(f"{text} RPC error: {quoted(e.message)} ({quoted(e.code)})")
            except (OSError, SOCKSError, TaskTimeout, asyncio.TimeoutError) as e:
                self.logger.info(f"{text} {quoted(str(e) or type(e).__name__)}")
                if addresses is None:
                    # The name has no others by another port.
                    return False
            else:
                return True
        return False

    async def _addresses(self, peer: Peer) -> list[str]:
        """Return the hosts to connect to: the peer's own, or those that its name resolves to.

        Raises OSError for a name that leads nowhere, and BadPeerError for a stranger's that leads
        to no public address.
        """
        if peer.is_tor:
            return [peer.host]
        found = [peer.host] if peer.ip_address is not None else await self._names(peer.host)
        allowed = [address for address in found if not self._is_banned_text(address)]
        if found and not allowed:
            raise BadPeerError(f"address {found[0]} is banned")
        if peer.ip_address is not None:
            return allowed
        found = allowed
        public = [address for address in found if self._may_be_at(peer, address)]
        if found and not public:
            raise BadPeerError(f"address {found[0]} is not public")
        return public

    def _connection_args(self, peer: Peer, kind: str, family: int) -> dict[str, object]:
        args: dict[str, object] = {}
        if kind == "SSL":
            args["ssl"] = self._ssl_context
            args["server_hostname"] = peer.host
        if self._proxies.is_needed_for(peer):
            args["proxy"] = self.proxy
        else:
            local_host = self.local_host_for(peer, family)
            if local_host:
                args["local_addr"] = (local_host, 0)
        return args

    def local_host_for(self, peer: Peer, family: int) -> str | None:
        """Return the address of ours to connect from, so that the peer sees the one we serve on.

        It must be of the connection's family. A loopback address reaches only loopback.
        """
        address_type = IPv4Address if family == socket.AF_INET else IPv6Address
        for service in self.env.services:
            host = service.host
            if service.protocol == "rpc" or not isinstance(host, address_type):
                continue
            to_loopback = peer.ip_address is not None and peer.ip_address.is_loopback
            if not host.is_unspecified and (to_loopback or not host.is_loopback):
                return str(host)
        return None

    async def _converse(
        self,
        peer: Peer,
        addresses: Iterable[str],
        kind: str,
        port: int,
        family: int,
        timeout: float,
    ) -> None:
        """Connect, check `peer` against ourselves and other peers, and add the peers it reports."""
        args = self._connection_args(peer, kind, family)
        async with AsyncExitStack() as stack:
            session = await connect_to_first(stack, addresses, port, args)
            session.sent_request_timeout = timeout
            address = session.remote_address()
            if not peer.is_tor and address is not None:
                peer.ip_addr = str(address.host)
                self._check_address(peer)
            if self.peer_set.is_blacklisted(peer):
                raise BadPeerError("blacklisted")
            self.peer_set.check_bucket(peer)
            reported = await check_peer(session, peer, self._ours)
            self.note_peers(reported)
            features = self._features_to_register(peer, reported)
            if features is not None:
                await self._register(session, peer, features)

    def _check_address(self, peer: Peer) -> None:
        """Raise BadPeerError if a stranger's name led us to an address that is not public.

        No other server could reach it, and a program that listens there may trust us. Our own
        name may lead to such an address, inside our network.
        """
        if peer.ip_addr is not None and self._is_banned_text(peer.ip_addr):
            raise BadPeerError(f"address {peer.ip_addr} is banned")
        if peer.ip_addr is not None and not self._may_be_at(peer, peer.ip_addr):
            raise BadPeerError(f"address {peer.ip_addr} is not public")

    def _may_be_at(self, peer: Peer, address: str) -> bool:
        """Return whether a peer may have this IP address."""
        if peer in self.myselves:
            return True
        return self.peer_set.is_public(Peer(address, {"hosts": {address: {}}}, peer.source))

    def _on_verified(self, peer: Peer) -> None:
        """Mark `peer` as good, and end the monitoring of those that it makes superfluous."""
        wake(self.peer_set.mark_verified(peer))
        self.add_peer_rules.trim()

    # --- Registration with peers

    def _clearnet_self(self) -> Peer | None:
        return next((peer for peer in self.myselves if not peer.is_tor), None)

    def _features_to_register(self, peer: Peer, reported: list[Peer]) -> dict[str, Any] | None:
        """Return the features to send to `peer`, None if it needs or deserves none."""
        ourself = self._clearnet_self()
        if not self.env.peer_announce or peer in self.myselves:
            return None
        if ourself is None or not self.peer_set.is_public(ourself):
            return None
        for match in ourself.matches(reported):
            if (match.tcp_port, match.ssl_port) == (ourself.tcp_port, ourself.ssl_port):
                return None
        return ourself.features

    async def _register(self, session: PeerSession, peer: Peer, features: dict[str, Any]) -> None:
        self.logger.info(f"[{peer}] registering ourself with it")
        try:
            await session.send_request("server.add_peer", [features])
        except PeerConnectionLostError:
            raise BadPeerError("terminated before server.add_peer response") from None
        except (RPCError, ProtocolError) as e:
            # Whatever it answers here, it may serve its clients well.
            self.logger.info(f"[{peer}] refused to add us: {quoted(e.message)}")
