"""Which proxies to believe, and which clients and services to trust, by the settings.  Pure."""

from aiorpcx import Service

from electrumx.server.env import Env
from electrumx.server.services import contains
from electrumx.server.session.engine.origin import Host


class Trust:
    """The settings about proxies and trusted clients, of all services."""

    def __init__(self, env: Env) -> None:
        self._proxied = frozenset(env.proxy_protocol)
        self._proxies = tuple(env.proxy_trusted)
        self._depth: int = env.proxy_depth
        self._clients = tuple(env.trusted_clients)
        self._services = frozenset(env.trusted_services)
        #: whether there may be clients that connect beyond the limit of connections
        self.may_exceed = bool(self._clients or self._services)
        #: whether there are services behind proxies
        self.has_proxies = bool(self._proxied)

    def header_count(self, service: Service) -> int:
        """Return how many PROXY headers the connections of a service begin with."""
        return self._depth if service in self._proxied else 0

    def is_proxy(self, address: Host | None) -> bool:
        """Return whether to believe the headers that an address sends."""
        return address is not None and contains(self._proxies, address)

    def is_trusted_service(self, service: Service) -> bool:
        """Return whether to trust all clients of a service."""
        return service in self._services

    def is_trusted_client(self, address: Host | None) -> bool:
        """Return whether to trust a client of an address, by the PROXY header if there is one."""
        return bool(self._clients) and address is not None and contains(self._clients, address)

    def stays_open(self, service: Service) -> bool:
        """Return whether a full server listens on a service."""
        return bool(self._clients) or service in self._services
