"""The peers for clients and the operator, and one task for each peer that visits it again and again.

`PeerSet` owns every peer but the copies that a session has just received. A peer enters by
`note_peers`, which starts its monitoring task, and leaves when that task gives it up or a
better-known name replaces it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from electrumx.lib.peer import Peer
from electrumx.lib.tasks import wait_for_event
from electrumx.lib.util import class_logger
from electrumx.server.env import Env
from electrumx.server.peers.admission import AddPeerRules
from electrumx.server.peers.blacklist import BlacklistTask
from electrumx.server.peers.peer_set import PeerSet, is_public_peer, wake
from electrumx.server.peers.proxy import ProxyFinder
from electrumx.server.peers.registration import Registration
from electrumx.server.peers.routes import PeerRoutes
from electrumx.server.peers.sources import PeerProxy, Resolver, ThreadResolver
from electrumx.server.peers.verify import ChainDB, Ourselves
from electrumx.server.peers.visits import PeerVisits

REMINDER_SECS = 3600


class PeerManager:
    """Discovers and verifies peers, and returns those that clients may use.

    `resolver` resolves the names of hosts that ask us to add them, `names` those to connect to;
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
        #: whether addresses of clients stay out of the log; a reload changes it
        self.anon_logs: bool = env.anon_logs
        self.db = db

        coin, session_class = env.coin, env.coin.SESSIONCLS
        self.myselves = [
            Peer(str(service.host), session_class.server_features(env), "env")
            for service in env.report_services
        ]
        #: those of the coin, where discovery begins
        self.hard_coded_peers = [
            Peer.from_real_name(real_name, "coins.py", coin.PEER_DEFAULT_PORTS)
            for real_name in coin.PEERS
        ]
        #: the known peers
        self.peer_set = PeerSet(clock, is_public)
        self.peers = self.peer_set.peers
        self._blacklist = BlacklistTask(env.blacklist_url, self.peer_set, self.logger)
        self._proxies = ProxyFinder(env, self.logger)
        self.add_peer_rules = AddPeerRules(resolver or ThreadResolver(), clock)
        self._routes = PeerRoutes(
            env,
            self._proxies,
            self.myselves,
            # A separate one: add_peer requests must not delay our own connections.
            names=names or ThreadResolver(),
            is_public=is_public,
            is_banned=is_banned,
        )
        self._registration = Registration(env, self.myselves, is_public, self.logger)
        #: makes the visits of the tasks that monitor peers
        self.visits = PeerVisits(
            self.peer_set,
            Ourselves(
                db=db,
                genesis_hash=coin.GENESIS_HASH,
                server_version_args=session_class.server_version_args(),
                default_ports=coin.PEER_DEFAULT_PORTS,
            ),
            self._routes,
            self._registration,
            note_peers=self.note_peers,
            on_verified=self.add_peer_rules.trim,
            request_timeout=request_timeout,
            tor_request_timeout=tor_request_timeout,
            clock=clock,
            logger=self.logger,
        )
        #: those that monitor a peer
        self.tasks: set[asyncio.Task[None]] = set()
        #: the peers that wait for their next attempt
        self.pausing: set[Peer] = set()

    def set_protocol_max(self, newest: tuple[int, ...]) -> None:
        """Announce another protocol as the highest that we serve from now on."""
        session_class = self.env.coin.SESSIONCLS
        self.visits.announce(session_class.server_version_args(newest))
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

        None while no proxy is known, or if it did not answer when asked for that.
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
        peer = Peer.from_real_name(real_name, "RPC", self.env.coin.PEER_DEFAULT_PORTS)
        self.note_peers([peer], check_ports=True)

    async def on_add_peer(self, features: Any, source_addr: str | None) -> bool:
        """Handle a client's add_peer request; True if accepted for checking.

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
            if any(self._routes.is_banned(text) for text in (peer.host, peer.ip_addr) if text)
        )

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

        With `check_ports`, try at once a known peer whose ports differ.
        """
        known = set(self.peers)
        new_peers: list[Peer] = []
        for peer in peers:
            if not self.peer_set.is_public(peer) or (peer.is_tor and not self.proxy):
                continue
            matches = peer.matches(known)
            if not matches:
                new_peers.append(peer)
                # Finds the list's own duplicates.
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
        """Look for peers and verify them until cancelled; return at once if disabled.

        Never raises: the server is of use without its peers.
        """
        env = self.env
        self.logger.info(f"peer discovery: {env.peer_discovery}")
        if env.peer_discovery != env.PD_ON:
            self.logger.info("peer discovery is disabled")
            return
        self.logger.info(f"announce ourself: {env.peer_announce}")
        self.logger.info(f"my clearnet self: {self._registration.clearnet_self()}")
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
        # Peers that had to wait for the proxy, and skipped onion peers.
        wake(peer for peer in self.peers if self._proxies.is_needed_for(peer))
        await self._import_peers()

    # --- Monitoring one peer

    async def monitor_peer(self, peer: Peer) -> None:
        """Verify a peer of the set again and again, until the task gives it up."""
        while peer in self.peers:
            pause_secs = await self.visits.visit(peer)
            if pause_secs is None:
                self.peers.discard(peer)
                return
            await self._pause(peer, pause_secs)

    async def _pause(self, peer: Peer, secs: float) -> None:
        """Return after `secs`, or at once on the peer's retry event."""
        self.pausing.add(peer)
        try:
            await wait_for_event(peer.retry_event, secs)
        finally:
            self.pausing.discard(peer)
        peer.retry_event.clear()
