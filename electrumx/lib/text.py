"""Tables for people: sessions, session groups, peers and bans, from the rows that LocalRPC returns.

Pure; runs in the RPC client, and in the event loop for the periodic session log. This module makes
text from clients or peers printable, so that it cannot steer a terminal.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from electrumx.lib.util import formatted_time

_SESSIONS_FORMAT = (
    "{:<6} {:<5} {:>17} {:>5} {:>7} {:>7} {:>5} {:>5} {:>7} {:>7} {:>7} {:>7} {:>7} {:>9} {:>21}"
)
# There is no space between Subs and Recv: scripts that read the table count on its columns.
_SESSIONS_COLUMNS = 15
_GROUPS_FORMAT = "{:<14} {:>9} {:>8} {:>8} {:>6} {:>6} {:>8}{:>7} {:>9} {:>7} {:>9}"
# An onion name of version 3 has 62 characters.
_HOST_WIDTH = 62
_SOURCE_WIDTH = 20
_CLIENT_WIDTH = 17
_PEERS_FORMAT = (
    f"{{:<{_HOST_WIDTH}}} {{:<6}} {{:>5}} {{:>5}} {{:<17}} {{:>4}} {{:>4}} {{:>8}} {{:>11}} "
    f"{{:>11}} {{:>5}} {{:>{_SOURCE_WIDTH}}} {{:<15}}"
)

_BANS_FORMAT = "{:<43} {:>13} {:>13}"


def _printable(value: Any) -> str:
    """Return value as text without control characters."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text)


def _number(value: float) -> str:
    """Return a number truncated to an integer, with thousands commas."""
    return f"{int(value):,d}"


def _kilobytes(size: int) -> str:
    return f"{size // 1024:,d}"


def sessions_lines(data: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield the lines of the sessions table.

    A row is id, flags, address, client, protocol, cost, extra cost, pending requests, txs sent,
    subscriptions, messages received, bytes received, messages sent, bytes sent, seconds; of a client
    behind a proxy also the proxy's address, which is not shown.
    """
    fmt = _SESSIONS_FORMAT
    yield fmt.format(
        *("ID", "Flags", "Client", "Proto", "Cost", "XCost", "Reqs", "Txs", "Subs"),
        *("Recv", "Recv KB", "Sent", "Sent KB", "Time", "Peer"),
    )
    for row in data:
        (session_id, flags, address, client, protocol, *counts) = row[:_SESSIONS_COLUMNS]
        *numbers, recv_count, recv_size, sent_count, sent_size, seconds = counts
        yield fmt.format(
            session_id,
            flags,
            _printable(client)[:_CLIENT_WIDTH],
            _printable(protocol),
            *(_number(number) for number in numbers),
            _number(recv_count),
            _kilobytes(recv_size),
            _number(sent_count),
            _kilobytes(sent_size),
            formatted_time(seconds, sep=""),
            address,
        )


def groups_lines(data: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield the lines of the groups table.

    A row is name, sessions, summed cost, retained cost, pending requests, txs sent, subscriptions,
    messages received, bytes received, messages sent, bytes sent.
    """
    fmt = _GROUPS_FORMAT
    yield fmt.format(
        *("Name", "Sessions", "Cost", "Retained", "Reqs", "Txs", "Subs"),
        *("Recv", "Recv KB", "Sent", "Sent KB"),
    )
    for name, *numbers, recv_count, recv_size, sent_count, sent_size in data:
        yield fmt.format(
            name,
            *(_number(number) for number in numbers),
            _number(recv_count),
            _kilobytes(recv_size),
            _number(sent_count),
            _kilobytes(sent_size),
        )


def _peer_cells(item: Mapping[str, Any], now: float) -> Iterator[Any]:
    def age(t: float) -> str:
        return formatted_time(now - t) if t else "Never"

    features = item["features"]
    hosts = features.get("hosts")
    ports = hosts.get(item["host"]) if isinstance(hosts, dict) else None
    if not isinstance(ports, dict):
        ports = {}
    yield item["host"][:_HOST_WIDTH]
    yield item["status"]
    yield ports.get("tcp_port") or ""
    yield ports.get("ssl_port") or ""
    yield features.get("server_version") or "unknown"
    yield features.get("protocol_min") or ""
    yield features.get("protocol_max") or ""
    yield features.get("pruning") or ""
    yield age(item["last_good"])
    yield age(item["last_try"])
    yield item["try_count"]
    yield item["source"][:_SOURCE_WIDTH]
    yield item["ip_addr"] or ""


def peers_lines(data: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the peers table; ages count from now.

    A row has the keys host, status, features, source, ip_addr, last_good, last_try (seconds since
    the epoch, 0 for never) and try_count.
    """
    fmt = _PEERS_FORMAT
    yield fmt.format(
        *("Host", "Status", "TCP", "SSL", "Server", "Min", "Max", "Pruning"),
        *("Last Good", "Last Try", "Tries", "Source", "IP Address"),
    )
    now = time.time()
    for item in data:
        yield fmt.format(*(_printable(cell) for cell in _peer_cells(item, now)))


def bans_lines(data: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield the lines of the table of bans; times count from now.

    A row is the network, and when its ban began and ends (seconds since the epoch; None: no end).
    """
    yield _BANS_FORMAT.format("Network", "Banned for", "Time left")
    now = time.time()
    for network, since, until in data:
        left = "no end" if until is None else formatted_time(max(0.0, until - now))
        yield _BANS_FORMAT.format(_printable(network), formatted_time(now - since), left)
