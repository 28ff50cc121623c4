"""Every setting of the server, read from the environment or the settings file, and checked.

The order of evaluation is fixed, so that the first of several faults reported is always the same.
Nothing here touches the network or the database; the daemon's URL is parsed where it is used,
and never shown, as it holds a password.  Runs at the start, and at a reload.
"""

import importlib
import logging
import os
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from aiorpcx import Service, ServicePart

from electrumx.lib.coins import Coin
from electrumx.lib.env_base import EnvBase, shown
from electrumx.lib.errors import OperatorError
from electrumx.lib.protocol_versions import ProtocolVersion, maximum_of
from electrumx.lib.util import class_logger
from electrumx.server.engine_choice import ENGINE_MODULES, default_engine
from electrumx.server.memory_limits import default_cache_mb, memory_mb, physical_memory_mb
from electrumx.server.origins import parse_hosts, parse_origins
from electrumx.server.services import (
    OPERATOR_PORTS,
    Network,
    UnixService,
    is_local,
    parse_networks,
    parse_unix_service,
)
from electrumx.server.setting_hints import OBSOLETE, setting_hints


def _resource_module() -> Any:
    """Return the standard library's resource module; None on Windows, which has none."""
    try:
        return importlib.import_module("resource")
    except ImportError:
        return None


resource = _resource_module()

# Open files that are not sessions: database tables, listeners, the daemon, peers.
RESERVED_FILES = 350
# The longest READY_DRAIN_SECS: supervisors kill a server that takes much longer to stop.
MAX_DRAIN_SECS = 3600
# Open files that count as left where the system sets no limit.
UNLIMITED_FILES = 1 << 20
# The limit of Windows, which has no call to read it.
MAX_SESSIONS_WITHOUT_RESOURCE = 512

# Proxies in a row between a client and the server.
MAX_PROXY_DEPTH = 4
# Of MAX_SESSIONS: so many more are for trusted clients, and for connections whose PROXY header
# has not arrived.
EXTRA_SESSIONS_PART = 10
# Networks whose PROXY headers to believe by default.
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1"))

INDEXERS = ("auto", "compiled", "python")
#: values of BULK_SYNC
BULK_SYNC_CHOICES = ("auto", "off")
SERVE_CHOICES = ("caught-up", "always")

# Where a node publishes: over TCP, or through a socket in the file system.
ZMQ_ADDRESS = re.compile(
    r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(?P<port>[0-9]{1,5})|ipc://\S+"
)


def parse_weight(text: str) -> float:
    """Return a number from 0 to 1.  Raise ValueError if it is none."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("set a number from 0 to 1")
    return value


class ServiceError(OperatorError):
    """SERVICES or REPORT_SERVICES is unusable."""


class Env(EnvBase):
    """The settings, as attributes. A coin class, if given, stands for COIN and NET.

    Raises Env.Error, ServiceError or CoinError, each an OperatorError of one line.
    """

    PD_OFF, PD_SELF, PD_ON = ("OFF", "SELF", "ON")
    SSL_PROTOCOLS = frozenset({"ssl", "wss"})
    KNOWN_PROTOCOLS = frozenset({"ssl", "tcp", "ws", "wss", *OPERATOR_PORTS})

    def __init__(self, coin: type[Coin] | None = None) -> None:
        super().__init__()
        self.logger = class_logger(__name__, self.__class__.__name__)
        self.obsolete(OBSOLETE)
        self.db_dir: str = self._db_dir()  # absolute
        self.daemon_url: str = self.required(
            "DAEMON_URL", "set it to http://user:password@host:port/ of your node"
        )
        #: lists with commas: files with the logins of nodes whose URLs have none
        self.daemon_cookie_file: str = self.default("DAEMON_COOKIE_FILE", "")
        self.daemon_password_file: str = self.default("DAEMON_PASSWORD_FILE", "")
        self.coin: type[Coin] = coin or self._coin()
        self._read_peer_settings()
        self._read_settings()
        self._read_limits()
        self._read_ready_limits()
        self._read_cost_limits()
        self._read_services()
        #: warnings about settings that probably do not mean what the operator thinks
        self.hints: list[str] = setting_hints(
            self.variables(), cache_mb=self.cache_MB, obsolete=OBSOLETE
        )

    # The parts, in the order of evaluation

    def _db_dir(self) -> str:
        path = self.required("DB_DIRECTORY", "set it to the directory that holds the database")
        if not path:
            raise self.Error(
                "envvar DB_DIRECTORY value is empty: set it to the directory of the database"
            )
        return os.path.abspath(path)

    def _coin(self) -> type[Coin]:
        name = self.required("COIN", "set it to the name of a coin, such as Bitcoin").strip()
        network = self.default("NET", "mainnet").strip()
        return Coin.lookup_coin_class(name, network)

    def _read_peer_settings(self) -> None:
        self.peer_discovery: str = self.peer_discovery_enum()
        self.peer_announce: bool = self.boolean("PEER_ANNOUNCE", True)
        self.force_proxy: bool = self.boolean("FORCE_PROXY", False)
        self.tor_proxy_host: str = self.default("TOR_PROXY_HOST", "localhost")
        #: None: try the usual ports in turn.
        self.tor_proxy_port: int | None = self.integer(
            "TOR_PROXY_PORT", None, minimum=1, maximum=65535
        )

    def _read_settings(self) -> None:
        self.db_engine: str = self._db_engine()
        self.indexer: str = self._indexer()
        self.bulk_sync: str = self._bulk_sync()
        #: whether to serve clients before the chain is caught up with
        self.serve_always: bool = self._serve_always()
        self.banner_file: str | None = self.default("BANNER_FILE", None)
        self.tor_banner_file: str | None = self.default("TOR_BANNER_FILE", self.banner_file)
        self.anon_logs: bool = self.boolean("ANON_LOGS", False)
        self.log_sessions: int = self.integer("LOG_SESSIONS", 3600, minimum=0)  # seconds; 0: never
        self.log_level: str = self._log_level()
        #: None: the highest that the node allows
        self.protocol_max: ProtocolVersion | None = self.custom("PROTOCOL_MAX", None, maximum_of)
        self.donation_address: str = self.default("DONATION_ADDRESS", "")
        #: Matched at the start of a client's name. Empty would match all of them: that is unset.
        self.drop_client: re.Pattern[str] | None = self.custom(
            "DROP_CLIENT", None, lambda text: re.compile(text) if text else None
        )
        self.blacklist_url: str | None = self.default("BLACKLIST_URL", self.coin.BLACKLIST_URL)

    def _read_limits(self) -> None:
        self.cache_MB: int = self._cache_mb()
        self.reorg_limit: int = self.integer(
            "REORG_LIMIT", self.coin.REORG_LIMIT, minimum=1
        )  # blocks
        self.max_send: int = self.integer(
            "MAX_SEND", self.coin.DEFAULT_MAX_SEND, minimum=0
        )  # bytes; the session manager has a floor
        self.max_recv: int = self.integer("MAX_RECV", 1_000_000, minimum=1)  # bytes
        self.daemon_poll_interval_blocks_msec: int = self.integer(
            "DAEMON_POLL_INTERVAL_BLOCKS", 5000, minimum=1
        )
        self.daemon_poll_interval_mempool_msec: int = self.integer(
            "DAEMON_POLL_INTERVAL_MEMPOOL", 5000, minimum=1
        )
        #: where nodes publish the hashes of new blocks
        self.zmq_block_addresses: list[str] = self._zmq_addresses(
            "ZMQ_BLOCK_ADDRESS", "zmqpubhashblock"
        )
        self.zmq_mempool_addresses: list[str] = self._zmq_addresses(
            "ZMQ_MEMPOOL_ADDRESS", "zmqpubrawtx or zmqpubsequence"
        )
        self.daemon_wait_for_blocks: bool = self.boolean("DAEMON_WAIT_FOR_BLOCKS", True)
        #: networks whose clients have no cost, and may connect beyond MAX_SESSIONS
        self.trusted_clients: list[Network] = self.custom("TRUSTED_CLIENTS", [], parse_networks)
        #: open files that neither sessions nor RESERVED_FILES need; the database may have some
        self.spare_files: int = 0
        self.max_sessions: int = self.sane_max_sessions()
        #: Connections of one subnet, as cost groups have them.
        self.max_sessions_per_subnet: int = self.integer("MAX_SESSIONS_PER_SUBNET", 100, minimum=1)
        #: Those of one address, of IPv6 a network of 64 bits.
        self.max_sessions_per_address: int = self.integer(
            "MAX_SESSIONS_PER_ADDRESS", self.max_sessions_per_subnet, minimum=1
        )

    def _read_ready_limits(self) -> None:
        #: when /readyz and getinfo report that wallets are better served elsewhere
        self.ready_max_lag: int = self.integer("READY_MAX_LAG", 2, minimum=0)  # blocks
        self.ready_node_secs: int = self.integer("READY_NODE_SECS", 120, minimum=1)
        #: between reporting that the server stops, and stopping
        self.ready_drain_secs: int = self.integer(
            "READY_DRAIN_SECS", 0, minimum=0, maximum=MAX_DRAIN_SECS
        )

    def _padded_protocols(self) -> frozenset[str]:
        """Return the raw protocols that pad their messages: by default the encrypted ones."""
        padded = {
            "tcp": self.boolean("PAD_MESSAGES", False),
            "ssl": self.boolean("PAD_MESSAGES", True),
        }
        return frozenset(protocol for protocol, is_padded in padded.items() if is_padded)

    def _read_cost_limits(self) -> None:
        #: New connections of one subnet; 0: no limit but that of costs.
        self.max_connects_per_minute: int = self.integer("MAX_CONNECTS_PER_MINUTE", 0, minimum=0)
        self.cost_soft_limit: int = self.integer("COST_SOFT_LIMIT", 1000, minimum=0)
        self.cost_hard_limit: int = self.integer("COST_HARD_LIMIT", 10000, minimum=0)
        self._check_cost_limits()
        #: protocols of services that pad their messages
        self.padded_protocols: frozenset[str] = self._padded_protocols()
        self.bw_unit_cost: int = self.integer("BANDWIDTH_UNIT_COST", 5000, minimum=1)  # bytes
        self.initial_concurrent: int = self.integer("INITIAL_CONCURRENT", 10, minimum=1)
        self.request_sleep: int = self.integer("REQUEST_SLEEP", 2500, minimum=0)  # milliseconds
        self.request_timeout: int = self.integer("REQUEST_TIMEOUT", 30, minimum=1)  # seconds
        self.session_timeout: int = self.integer("SESSION_TIMEOUT", 600, minimum=1)  # seconds
        #: Bits of an address that sessions of one cost group share.
        self.session_group_by_subnet_ipv4: int = self.integer(
            "SESSION_GROUP_BY_SUBNET_IPV4", 24, minimum=0, maximum=32
        )
        self.session_group_by_subnet_ipv6: int = self.integer(
            "SESSION_GROUP_BY_SUBNET_IPV6", 48, minimum=0, maximum=128
        )

    def _read_services(self) -> None:
        self.services: list[Service] = self.services_to_run()
        self._read_certificates()
        #: web pages that may connect to ws and wss services, by their origins; None: all
        self.ws_origins: list[str] | None = self.custom("WS_ORIGINS", None, parse_origins)
        #: names of the metrics service in the public DNS
        self.metrics_hosts: list[str] = self.custom("METRICS_HOSTS", [], parse_hosts)
        self.report_services: list[Service] = self.services_to_report()
        #: networks that may reach rpc services, in addition to this machine
        self.rpc_allow: list[Network] = self.custom("RPC_ALLOW", [], parse_networks)
        self._check_rpc_services()
        self._read_proxy_settings()

    def _read_certificates(self) -> None:
        """Read the files of certificates and their keys; they are empty unless a service needs them."""
        self.ssl_certfile: str = ""
        self.ssl_keyfile: str = ""
        self.wss_certfile: str = ""
        self.wss_keyfile: str = ""
        protocols = {service.protocol for service in self.services} & self.SSL_PROTOCOLS
        own = [name for name in ("WSS_CERTFILE", "WSS_KEYFILE") if self.default(name, "")]
        if "wss" in protocols and own:
            hint = f"{own[0]} is set, which needs the path of "
            self.wss_certfile = self._path("WSS_CERTFILE", hint + "a certificate")
            self.wss_keyfile = self._path("WSS_KEYFILE", hint + "the certificate's key")
            protocols.discard("wss")
        if protocols:
            hint = "SERVICES has an ssl or wss service, which needs the path of "
            self.ssl_certfile = self._path("SSL_CERTFILE", hint + "a certificate")
            self.ssl_keyfile = self._path("SSL_KEYFILE", hint + "the certificate's key")
        if "wss" in protocols:
            self.wss_certfile, self.wss_keyfile = self.ssl_certfile, self.ssl_keyfile

    def _read_proxy_settings(self) -> None:
        #: services whose connections begin with a PROXY header
        self.proxy_protocol: list[Service] = self._listed_services("PROXY_PROTOCOL")
        #: networks whose PROXY headers to believe
        self.proxy_trusted: list[Network] = self.custom(
            "PROXY_TRUSTED", list(LOOPBACK), parse_networks
        )
        #: PROXY headers of a connection, one for each proxy in a row
        self.proxy_depth: int = self.integer("PROXY_DEPTH", 1, minimum=1, maximum=MAX_PROXY_DEPTH)
        #: services whose clients are all trusted
        self.trusted_services: list[Service] = self._listed_services("TRUSTED_SERVICES")
        #: the part of each other's cost that clients of different Tor circuits bear
        self.tor_group_weight: float = self.custom("TOR_GROUP_WEIGHT", 0.1, parse_weight)

    # Single settings

    def peer_discovery_enum(self) -> str:
        """Return which of PD_OFF, PD_SELF and PD_ON PEER_DISCOVERY asks for."""
        text = self.default("PEER_DISCOVERY", "on").strip().lower()
        if text in ("off", ""):
            return self.PD_OFF
        if text == "self":
            return self.PD_SELF
        return self.PD_ON

    def _db_engine(self) -> str:
        engine = self.default("DB_ENGINE", None)
        if engine is None:
            return default_engine(self.db_dir)
        if engine.lower() not in ENGINE_MODULES:
            raise self.Error(
                f'unrecognised DB engine "{shown(engine)}": set DB_ENGINE to leveldb or rocksdb'
            )
        return engine

    def _cache_mb(self) -> int:
        value = self.integer("CACHE_MB", default_cache_mb(memory_mb()), minimum=1)
        memory = physical_memory_mb()
        if self.default("CACHE_MB", None) is not None and memory is not None and value > memory:
            raise self.Error(
                f"envvar CACHE_MB value {value} is too big: the machine has {memory:,d} MB of "
                "memory, set at most half of that"
            )
        return value

    def _path(self, envvar: str, hint: str) -> str:
        path = self.required(envvar, hint)
        if not path:
            raise self.Error(f"envvar {envvar} value is empty: {hint}")
        return path

    def _indexer(self) -> str:
        text = self.default("INDEXER", "auto")
        if text.lower() not in INDEXERS:
            raise self.Error(
                f'unrecognised indexer "{shown(text)}": set INDEXER to {", ".join(INDEXERS[:-1])} '
                f"or {INDEXERS[-1]}"
            )
        return text.lower()

    def _bulk_sync(self) -> str:
        text = self.default("BULK_SYNC", "auto")
        if text.lower() not in BULK_SYNC_CHOICES:
            raise self.Error(f'unrecognised BULK_SYNC "{shown(text)}": set it to auto or off')
        return text.lower()

    def _serve_always(self) -> bool:
        text = self.default("SERVE", SERVE_CHOICES[0])
        if text.lower() not in SERVE_CHOICES:
            raise self.Error(f'unrecognised SERVE "{shown(text)}": set it to caught-up or always')
        return text.lower() == SERVE_CHOICES[1]

    def _zmq_addresses(self, envvar: str, setting: str) -> list[str]:
        """Return where nodes publish; ``setting`` is the name of the node's option."""
        addresses = self.default(envvar, "").split(",")
        addresses = [address.strip() for address in addresses if address.strip()]
        for address in addresses:
            match = ZMQ_ADDRESS.fullmatch(address)
            if not match or (match["port"] and not 0 < int(match["port"]) < 65536):
                raise self.Error(
                    f"envvar {envvar} value {shown(address)} is no address: "
                    f"set tcp://HOST:PORT or ipc://PATH, as the daemon's {setting} has it"
                )
        return addresses

    def _log_level(self) -> str:
        text = self.default("LOG_LEVEL", "info")
        # For a name of a level getLevelName returns its number, else a text.
        if not isinstance(logging.getLevelName(text.upper()), int):
            raise self.Error(
                f"envvar LOG_LEVEL value {shown(text)} is not a level: "
                "set debug, info, warning, error or critical"
            )
        return text.upper()

    def _check_cost_limits(self) -> None:
        """Refuse a hard limit below the soft one; separate them if equal. A hard limit of 0 is off."""
        hard, soft = self.cost_hard_limit, self.cost_soft_limit
        if hard == 0:
            return
        if hard < soft:
            raise self.Error(
                "COST_HARD_LIMIT must be >= COST_SOFT_LIMIT. "
                f"got (COST_HARD_LIMIT={hard:d} and COST_SOFT_LIMIT={soft:d})"
            )
        if hard == soft:
            self.cost_hard_limit = soft + 1
            self.logger.info(
                f"COST_HARD_LIMIT equals COST_SOFT_LIMIT; using {self.cost_hard_limit:,d} for it"
            )

    def _raise_open_file_limit(self) -> int | None:
        """Raise the soft limit of open files to the hard one; return it, None if unlimited."""
        soft, hard = map(int, resource.getrlimit(resource.RLIMIT_NOFILE))
        unlimited: int = resource.RLIM_INFINITY
        if soft == unlimited:
            self.logger.info("open file limit is unlimited")
            return None
        if soft == hard:
            self.logger.info(f"open file limit is {soft:,d}")
            return soft
        hard_text = "unlimited" if hard == unlimited else f"{hard:,d}"
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as e:
            # macOS, for one, refuses an unlimited number.
            self.logger.warning(
                f"could not raise open file limit from {soft:,d} to {hard_text}: {e}"
            )
            return soft
        self.logger.info(f"raised open file limit from {soft:,d} to {hard_text}")
        return None if hard == unlimited else hard

    def sane_max_sessions(self) -> int:
        """Return MAX_SESSIONS, lowered if need be to fit the open file limit."""
        wanted = self.integer("MAX_SESSIONS", 1000, minimum=0)
        if resource is None:
            return MAX_SESSIONS_WITHOUT_RESOURCE
        file_limit = self._raise_open_file_limit()
        if file_limit is None:
            self.spare_files = UNLIMITED_FILES
            return wanted
        room = max(0, file_limit - RESERVED_FILES)
        if self._may_exceed():
            room = room * EXTRA_SESSIONS_PART // (EXTRA_SESSIONS_PART + 1)
        allowed = min(wanted, room)
        self.spare_files = room - allowed
        if allowed < wanted:
            self.logger.warning(
                f"lowered maximum sessions from {wanted:,d} to {allowed:,d} "
                f"because your open file limit is {file_limit:,d}"
            )
        return allowed

    def _may_exceed(self) -> bool:
        """Return whether connections beyond MAX_SESSIONS are possible."""
        variables = ("PROXY_PROTOCOL", "TRUSTED_CLIENTS", "TRUSTED_SERVICES")
        return any(self.default(name, "").strip() for name in variables)

    # Services

    def _parse_services(
        self,
        envvar: str,
        default_func: Callable[[str | None, ServicePart], Any] | None,
    ) -> list[Service]:
        """Return the services that a variable lists, in its order.

        Raises ServiceError if one does not parse, is of no known protocol, or if two have the
        same address.
        """
        services = []
        seen = set()
        for entry in self.default(envvar, "").split(","):
            if not entry:
                continue
            try:
                service = parse_unix_service(entry) or Service.from_string(
                    entry, default_func=default_func
                )
            except ValueError as e:
                raise ServiceError(
                    f'"{shown(entry)}" invalid: {shown(str(e))}; '
                    f"{envvar} is a list of PROTOCOL://HOST:PORT with commas, without spaces"
                ) from e
            if service.protocol not in self.KNOWN_PROTOCOLS:
                raise ServiceError(
                    f'"{shown(entry)}" invalid: unknown protocol; '
                    f"{envvar} may have {', '.join(sorted(self.KNOWN_PROTOCOLS))}"
                )
            services.append(service)
        for service in services:
            if service.address in seen:
                raise ServiceError(
                    f"address {service.address} has multiple services; "
                    f"give each entry of {envvar} a host or port of its own"
                )
            seen.add(service.address)
        return services

    @classmethod
    def _default_part(cls, protocol: str | None, part: ServicePart) -> Any:
        """Return the part of a service that its entry in SERVICES leaves out; None without one."""
        if protocol in OPERATOR_PORTS:
            port = OPERATOR_PORTS[protocol]
            return {ServicePart.HOST: "localhost", ServicePart.PORT: port}.get(part)
        if protocol in cls.KNOWN_PROTOCOLS and part is ServicePart.HOST:
            return "all_interfaces"
        return None

    def _listed_services(self, envvar: str) -> list[Service]:
        """Return the services of SERVICES that another variable lists, for clients only."""
        services = self._parse_services(envvar, self._default_part)
        for service in services:
            if service.protocol in OPERATOR_PORTS:
                raise ServiceError(
                    f"bad protocol for {envvar}: {service.protocol}; "
                    "it is for services of clients only"
                )
            if service not in self.services:
                raise ServiceError(
                    f"{envvar} has {service}, which is not in SERVICES: write entries as there"
                )
        return services

    def services_to_run(self) -> list[Service]:
        """Return the services of SERVICES, defaults filled in."""
        services = self._parse_services("SERVICES", self._default_part)
        for service in services:
            if isinstance(service, UnixService):
                continue
            if str(service.host).lower().rstrip(".").endswith(".onion"):
                raise ServiceError(
                    f"bad host for SERVICES: {service}; "
                    "serve an onion name's local address, and put the name in REPORT_SERVICES"
                )
        return services

    def _check_rpc_services(self) -> None:
        """Refuse rpc services that others could reach, unless RPC_ALLOW names who may."""
        for service in self.services:
            if service.protocol == "rpc" and not self.rpc_allow and not is_local(service):
                raise ServiceError(
                    f"bad host for SERVICES: {service}; whoever reaches an rpc service controls "
                    "the server: use rpc:// or rpc:///PATH, or set RPC_ALLOW to the networks that "
                    "may connect"
                )

    def services_to_report(self) -> list[Service]:
        """Return the services of REPORT_SERVICES, which clients and peers get."""
        services = self._parse_services("REPORT_SERVICES", None)
        for service in services:
            self._check_report_service(service)
        return services

    def _check_report_service(self, service: Service) -> None:
        if service.protocol in OPERATOR_PORTS:
            raise ServiceError(
                f"bad protocol for REPORT_SERVICES: {service.protocol}; "
                "it is for this machine's administrator only"
            )
        host = service.host
        if isinstance(host, (IPv4Address, IPv6Address)):
            private = host.is_private and self.peer_announce
            if host.is_multicast or host.is_unspecified or private:
                raise ServiceError(
                    f"bad IP address for REPORT_SERVICES: {host}; give one that others can reach"
                )
        elif host.lower() == "localhost":
            raise ServiceError(
                f"bad host for REPORT_SERVICES: {host}; give a name that others can reach"
            )
