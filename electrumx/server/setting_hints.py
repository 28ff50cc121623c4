"""Warnings about accepted but probably unintended settings, in one line each.

The server ignores variables with a misspelt name, and booleans are true whatever their text: rules
that cannot change, so the log warns of their effects.  Pure but for ``memory_mb``; runs at start-up.
"""

from collections.abc import Iterable, Mapping

from electrumx.lib.env_base import shown
from electrumx.server.memory_limits import memory_mb, needed_mb

#: the variables of the manual, which a test compares
KNOWN = (
    *(
        "ALLOW_ROOT",
        "ANON_LOGS",
        "BANDWIDTH_UNIT_COST",
        "BANNER_FILE",
        "BLACKLIST_URL",
        "BULK_SYNC",
    ),
    *("CACHE_MB", "COIN", "COST_HARD_LIMIT", "COST_SOFT_LIMIT", "DAEMON_POLL_INTERVAL_BLOCKS"),
    *("DAEMON_POLL_INTERVAL_MEMPOOL", "DAEMON_URL", "DB_DIRECTORY", "DB_ENGINE"),
    *("DONATION_ADDRESS", "DROP_CLIENT", "EVENT_LOOP_POLICY", "FORCE_PROXY", "INDEXER"),
    *("INITIAL_CONCURRENT", "LOG_FORMAT", "LOG_LEVEL", "LOG_SESSIONS", "MAX_RECV", "MAX_SEND"),
    *("MAX_SESSIONS", "NET", "NOTIFY_SOCKET", "PEER_ANNOUNCE", "PEER_DISCOVERY", "REORG_LIMIT"),
    *("REPORT_SERVICES", "REQUEST_SLEEP", "REQUEST_TIMEOUT", "RPC_ALLOW", "RPC_SOCKET"),
    *("SERVE", "SERVICES", "SESSION_GROUP_BY_SUBNET_IPV4", "SESSION_GROUP_BY_SUBNET_IPV6"),
    *("SESSION_TIMEOUT", "SSL_CERTFILE", "SSL_KEYFILE", "TOR_BANNER_FILE", "TOR_PROXY_HOST"),
    *("TOR_PROXY_PORT", "PROTOCOL_MAX", "WATCHDOG_PID", "WATCHDOG_USEC", "ZMQ_BLOCK_ADDRESS"),
    *("DAEMON_COOKIE_FILE", "DAEMON_PASSWORD_FILE", "ELECTRUMX_CONFIG", "JOURNAL_STREAM"),
    *("PROXY_DEPTH", "PROXY_PROTOCOL", "PROXY_TRUSTED", "TOR_GROUP_WEIGHT", "TRUSTED_CLIENTS"),
    *("WSS_CERTFILE", "WSS_KEYFILE", "WS_ORIGINS"),
    *("TRUSTED_SERVICES", "MAX_SESSIONS_PER_ADDRESS", "MAX_CONNECTS_PER_MINUTE"),
    *("DAEMON_WAIT_FOR_BLOCKS", "MAX_SESSIONS_PER_SUBNET", "ZMQ_MEMPOOL_ADDRESS"),
    *("METRICS_HOSTS", "PAD_MESSAGES"),
    *("READY_DRAIN_SECS", "READY_MAX_LAG", "READY_NODE_SECS"),
)
#: variables of old versions, which stop the server unless they are empty
OBSOLETE = (
    "MAX_SUBSCRIPTIONS",
    "MAX_SUBS",
    "MAX_SESSION_SUBS",
    "BANDWIDTH_LIMIT",
    "HOST",
    "TCP_PORT",
    "SSL_PORT",
    "RPC_HOST",
    "RPC_PORT",
    "REPORT_HOST",
    "REPORT_TCP_PORT",
    "REPORT_SSL_PORT",
    "REPORT_HOST_TOR",
    "REPORT_TCP_PORT_TOR",
    "REPORT_SSL_PORT_TOR",
)
#: those that are true unless they are empty, which a test compares
BOOLEANS = (
    *("ALLOW_ROOT", "ANON_LOGS", "DAEMON_WAIT_FOR_BLOCKS", "FORCE_PROXY", "PAD_MESSAGES"),
    "PEER_ANNOUNCE",
)
_MEANT_AS_FALSE = frozenset({"0", "no", "n", "false", "f", "off", "none"})
# Names that other servers have, or had, too far from ours for a match.
_RELATED = {"CACHE": "CACHE_MB", "DROP_CLIENT_UNKNOWN": "DROP_CLIENT"}
# Variables of other software that are close to ours.
_OTHERS = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE"})
# Of all characters of two names, so many agree if one is the other misspelt.
_SIMILARITY = 0.85
_LEAST_LENGTH = 6
_MOST_NAMED = 10


def _plain(name: str) -> str:
    return name.upper().replace("_", "")


_BY_PLAIN = {_plain(name): name for name in KNOWN}


def _meant(name: str) -> str | None:
    """Return the variable of ours that an unknown name was probably meant for."""
    if name in _OTHERS:
        return None
    if name.upper() in _RELATED:
        return _RELATED[name.upper()]
    plain = _plain(name)
    if plain in _BY_PLAIN:
        return _BY_PLAIN[plain]
    if len(plain) < _LEAST_LENGTH:
        return None
    # Only for mistakes
    import difflib

    close = difflib.get_close_matches(plain, _BY_PLAIN, n=1, cutoff=_SIMILARITY)
    return _BY_PLAIN[close[0]] if close else None


def ignored_names(names: Iterable[str], obsolete: Iterable[str] = ()) -> str:
    """Return a warning about variables with names like ours; empty without any."""
    found = []
    for name in sorted(set(names).difference(KNOWN, obsolete)):
        meant = _meant(name)
        if meant is not None:
            found.append(f"{shown(name)} (is {meant} meant?)")
    if not found:
        return ""
    more = f" and {len(found) - _MOST_NAMED:,d} more" if len(found) > _MOST_NAMED else ""
    return (
        f"environment variables that are not known are ignored: {', '.join(found[:_MOST_NAMED])}"
        + more
    )


def setting_hints(
    environ: Mapping[str, str], *, cache_mb: int, obsolete: Iterable[str] = ()
) -> list[str]:
    """Return warnings about settings, one line each."""
    hints = []
    if not environ.get("SERVICES", "").strip(","):
        hints.append(
            "SERVICES is not set: the server synchronises and serves nobody, not even "
            "electrumx_rpc; set it, for example to tcp://:50001,rpc://"
        )
    hints.append(ignored_names(list(environ), obsolete))
    for name in BOOLEANS:
        value = environ.get(name, "")
        if value.strip().lower() in _MEANT_AS_FALSE:
            hints.append(f"{name}={shown(value)} means true: set it to nothing to say false")
    value = environ.get("PEER_DISCOVERY", "on")
    if value.strip().lower() not in ("on", "off", "self", ""):
        hints.append(f"PEER_DISCOVERY={shown(value)} means on: set it to off or self to say so")
    if any(text.strip().endswith("/0") for text in environ.get("PROXY_TRUSTED", "").split(",")):
        hints.append(
            "PROXY_TRUSTED has every address: any client can pretend to be any other; set it to "
            "the addresses of your proxies"
        )
    hints.append(_cache_hint(cache_mb, memory_mb()))
    return [hint for hint in hints if hint]


def _cache_hint(cache_mb: int, memory: int | None) -> str:
    needed = needed_mb(cache_mb)
    if memory is None or needed <= memory:
        return ""
    return (
        f"CACHE_MB is {cache_mb:,d}, with which the server takes up to {needed:,d} MB, and there "
        f"are {memory:,d} MB of memory: it may be killed during the initial sync; set a lower value"
    )
