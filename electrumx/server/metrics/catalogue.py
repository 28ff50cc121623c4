"""Every metric of the server: its name, kind, labels, meaning and source.

``values_of`` reads all of them on the event loop, as plain numbers, so that a thread can write them
as text.  Values of labels are bounded: no address, no name of a client.
"""

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import electrumx
from electrumx.lib.lru import LRUCache
from electrumx.server.metrics.sources import Reading
from electrumx.server.runtime.histogram import Histogram
from electrumx.server.runtime.server_state import State
from electrumx.server.session.engine.method_registry import INVALID_METHOD

COUNTER, GAUGE, HISTOGRAM, INFO = "counter", "gauge", "histogram", "info"
# Lines of the log for refused or dropped connections, with their labels
REFUSALS = {
    "refused: banned": "banned",
    "refused: too many of one address": "address",
    "refused: too many of one subnet": "subnet",
    "refused: too many of one subnet in a minute": "rate",
    "refused: the cost of their subnet is at the limit": "cost",
    "refused: the server is full": "full",
    "dropped in the handshake, for others": "handshake",
    "dropped: silent for too long": "silent",
    "evicted: idle, and the server is full": "evicted_idle",
    "evicted: silent, and the server is full": "evicted_silent",
    "evicted: of a crowd, and the server is full": "evicted_crowd",
    "refused: not in PROXY_TRUSTED": "proxy",
    "closed: no valid PROXY header": "proxy",
    "dropped: no PROXY header in time": "proxy",
}


class HistogramValue(NamedTuple):
    """A copy of a histogram."""

    bounds: tuple[float, ...]
    #: of each bucket, not cumulative
    counts: tuple[int, ...]
    total: float


Value = float | HistogramValue
#: (values of the labels, value)
Sample = tuple[tuple[str, ...], Value]


class Metric(NamedTuple):
    """A metric without its values."""

    #: without ``_total``, which counters get in the text
    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    read: Callable[[Reading], Iterable[Sample]]


class Family(NamedTuple):
    """A metric with its values at one moment."""

    metric: Metric
    samples: list[Sample]


def copy_of(histogram: Histogram) -> HistogramValue:
    """Return a copy that no other thread changes."""
    return HistogramValue(histogram.bounds, tuple(histogram.counts), histogram.total)


def _one(read: Callable[[Reading], float | None]) -> Callable[[Reading], Iterator[Sample]]:
    """Return a reader of a single value; None is no sample."""

    def samples(reading: Reading) -> Iterator[Sample]:
        value = read(reading)
        if value is not None:
            yield (), value

    return samples


def _histogram(read: Callable[[Reading], Histogram]) -> Callable[[Reading], Iterator[Sample]]:
    return lambda reading: iter([((), copy_of(read(reading)))])


def _counts(
    read: Callable[[Reading], Mapping[Any, float]],
) -> Callable[[Reading], Iterator[Sample]]:
    """Return a reader of a mapping from the value of a label, or a tuple of them, to a number."""

    def samples(reading: Reading) -> Iterator[Sample]:
        for key, value in read(reading).items():
            yield (key if isinstance(key, tuple) else (key,)), value

    return samples


def _histograms(
    read: Callable[[Reading], Mapping[str, Histogram]],
) -> Callable[[Reading], Iterator[Sample]]:
    def samples(reading: Reading) -> Iterator[Sample]:
        for key, value in read(reading).items():
            yield (key,), copy_of(value)

    return samples


# -- readers


def _info(reading: Reading) -> Iterator[Sample]:
    env = reading.parts.env
    values = (
        electrumx.version_short,
        env.coin.NAME,
        env.coin.NET,
        env.db_engine.lower(),
        env.indexer,
        platform.python_version(),
    )
    yield values, 1


def _states(reading: Reading) -> dict[str, float]:
    return {state.value: float(reading.status.state is state) for state in State}


def _last_reply(reading: Reading) -> float | None:
    age = reading.status.node_age_secs
    return None if age is None else time.time() - age


def _node_failing(reading: Reading) -> float:
    return float(reading.status.node_failing)


def _refusals(reading: Reading) -> dict[str, float]:
    counts: dict[str, float] = dict.fromkeys(REFUSALS.values(), 0)
    for text, count in reading.parts.manager.admission.totals.items():
        label = REFUSALS.get(text, "other")
        counts[label] = counts.get(label, 0) + count
    return counts


def _caches(reading: Reading) -> dict[str, LRUCache[Any, Any]]:
    shared = reading.parts.manager.shared
    return {
        "histories": shared.scripts.histories.cache,
        "balances": shared.scripts.balances.cache,
        "utxos": shared.scripts.utxos.cache,
        "tx_hashes": shared.blocks.tx_hashes,
        "merkle": shared.blocks.levels,
        "raw_txs": shared.raw_txs.cache,
        "fees": shared.fees.cache,
    }


def _peers(reading: Reading) -> dict[str, float]:
    counts = reading.parts.manager.shared.peers.info()
    return {state: count for state, count in counts.items() if state != "total"}


def _compacting(reading: Reading) -> float:
    processor = reading.parts.processor
    return float(processor.row_compaction.running or processor.engine_compaction.running)


def _method_label(method: str) -> str:
    """Return the label of a method: one for all commands of the administrator."""
    if method == INVALID_METHOD:
        return "invalid"
    # All methods of the protocol have a dot.
    return method if "." in method else "rpc"


def _requests(reading: Reading) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for method, stats in reading.parts.manager.shared.requests.items():
        for outcome, count in stats.outcomes().items():
            counts[_method_label(method), outcome] += count
    return counts


def _request_secs(reading: Reading) -> dict[str, Histogram]:
    found: dict[str, Histogram] = {}
    for method, stats in reading.parts.manager.shared.requests.items():
        histogram, label = stats.histogram(), _method_label(method)
        # They do the same work, and would be another hundred series.
        label = label.replace(".scriptpubkey.", ".scripthash.")
        if label in found:
            found[label].add(histogram)
        else:
            found[label] = histogram
    return found


def _progress(name: str) -> Callable[[Reading], float | None]:
    def read(reading: Reading) -> float | None:
        progress = reading.status.progress
        return None if progress is None else getattr(progress, name)

    return read


def _sync_ratio(reading: Reading) -> float | None:
    progress = reading.status.progress
    return None if progress is None else progress.percent / 100


METRICS: tuple[Metric, ...] = (
    Metric(
        "electrumx", INFO, ("version", "coin", "net", "db_engine", "indexer", "python"),
        "The server's version and settings.", _info,
    ),
    # state
    Metric(
        "electrumx_state", GAUGE, ("state",), "1 for the state that the server is in, else 0.",
        _counts(_states),
    ),
    Metric(
        "electrumx_ready", GAUGE, (), "Whether the server is ready: 1 or 0.",
        _one(lambda r: float(r.status.ready)),
    ),
    Metric(
        "electrumx_height", GAUGE, (), "Height of the last block in the database, -1 without any.",
        _one(lambda r: r.status.height),
    ),
    Metric(
        "electrumx_processed_height", GAUGE, (),
        "Height of the last block processed; in a sync most are not in the database yet.",
        _one(_progress("processed_height")),
    ),
    Metric(
        "electrumx_node_height", GAUGE, (), "Height of the node's last block.",
        _one(lambda r: r.status.node_height),
    ),
    Metric(
        "electrumx_sync_progress_ratio", GAUGE, (),
        "Part of the chain, or of the phase of a bulk sync, that is processed, 0 to 1.",
        _one(_sync_ratio),
    ),
    Metric(
        "electrumx_sync_remaining_seconds", GAUGE, (),
        "Estimated time until the index, or the phase of a bulk sync, is complete.",
        _one(_progress("eta_secs")),
    ),
    # index
    Metric(
        "electrumx_transactions_indexed", GAUGE, (), "Transactions in the blocks processed.",
        _one(_progress("tx_count")),
    ),
    Metric(
        "electrumx_blocks_indexed", COUNTER, (), "Blocks indexed since the start.",
        _one(lambda r: r.parts.processor.stats.blocks),
    ),
    Metric(
        "electrumx_block_process_seconds", HISTOGRAM, (),
        "Time per block, from parsing to the database; of several together, their mean.",
        _histogram(lambda r: r.parts.processor.stats.block_secs),
    ),
    Metric(
        "electrumx_reorgs", COUNTER, (), "Reorgs since the start.",
        _one(lambda r: r.parts.processor.stats.reorgs),
    ),
    Metric(
        "electrumx_reorg_blocks", COUNTER, (), "Blocks undone by them.",
        _one(lambda r: r.parts.processor.stats.reorg_blocks),
    ),
    Metric(
        "electrumx_flushes", COUNTER, (), "Flushes to the database since the start.",
        _one(lambda r: r.parts.db.flusher.stats.count),
    ),
    Metric(
        "electrumx_flush_seconds", HISTOGRAM, ("phase",), "Time of each phase of a flush.",
        _histograms(lambda r: r.parts.db.flusher.stats.phase_secs),
    ),
    Metric(
        "electrumx_db_bytes", GAUGE, ("store",), "Bytes on disk, measured once a minute.",
        _counts(lambda r: r.parts.disk.stores),
    ),
    Metric(
        "electrumx_compaction_running", GAUGE, (),
        "Whether the history or the engine's tables are being compacted: 1 or 0.",
        _one(_compacting),
    ),
    # sessions
    Metric(
        "electrumx_sessions", GAUGE, ("service", "protocol"), "Sessions connected.",
        _counts(lambda r: r.sessions.by_protocol),
    ),
    Metric(
        "electrumx_sessions_opened", COUNTER, ("service",), "Sessions that began.",
        _counts(lambda r: r.sessions.opened),
    ),
    Metric(
        "electrumx_sessions_closed", COUNTER, ("reason",), "Sessions that ended.",
        _counts(lambda r: r.sessions.closed),
    ),
    Metric(
        "electrumx_connections_refused", COUNTER, ("reason",),
        "Connections refused, or closed by the admission control.", _counts(_refusals),
    ),
    Metric(
        "electrumx_subscriptions", GAUGE, ("kind",), "Subscriptions of all sessions.",
        _counts(lambda r: r.subscriptions()),
    ),
    Metric(
        "electrumx_subscribed_scripts", GAUGE, (), "Different scripts among them.",
        _one(lambda r: len(r.parts.manager.shared.fan_out.scripts)),
    ),
    Metric(
        "electrumx_groups", GAUGE, (), "Cost groups.",
        _one(lambda r: len(r.parts.manager.groups.by_name)),
    ),
    Metric(
        "electrumx_cost_throttled_sessions", GAUGE, (), "Sessions above the soft limit of costs.",
        _one(lambda r: r.sessions.throttled),
    ),
    Metric(
        "electrumx_received_bytes", COUNTER, (), "Bytes received from clients.",
        _one(lambda r: r.sessions.received),
    ),
    Metric(
        "electrumx_sent_bytes", COUNTER, (), "Bytes sent to clients.",
        _one(lambda r: r.sessions.sent),
    ),
    # requests
    Metric(
        "electrumx_requests", COUNTER, ("method", "outcome"), "Requests answered.",
        _counts(_requests),
    ),
    Metric(
        "electrumx_request_seconds", HISTOGRAM, ("method",),
        "Time from receiving a request to its reply.", _histograms(_request_secs),
    ),
    Metric(
        "electrumx_notifications", COUNTER, ("kind",), "Notifications sent.",
        _counts(lambda r: r.parts.manager.shared.notified),
    ),
    Metric(
        "electrumx_txs_broadcast", COUNTER, ("outcome",), "Transactions that clients broadcast.",
        _counts(lambda r: r.parts.manager.shared.node.broadcasts),
    ),
    Metric(
        "electrumx_event_loop_lag_seconds", HISTOGRAM, (),
        "How much later than scheduled the event loop ran.",
        _histogram(lambda r: r.parts.loop_lag.histogram),
    ),
    Metric(
        "electrumx_worker_queue", GAUGE, (), "Reads of the database that wait for a thread.",
        _one(lambda r: r.parts.db.read_pool.queued),
    ),
    Metric(
        "electrumx_cache_lookups", COUNTER, ("cache",), "Look-ups in a cache.",
        _counts(lambda r: {name: cache.lookups for name, cache in _caches(r).items()}),
    ),
    Metric(
        "electrumx_cache_hits", COUNTER, ("cache",), "Look-ups that found something.",
        _counts(lambda r: {name: cache.hits for name, cache in _caches(r).items()}),
    ),
    Metric(
        "electrumx_cache_bytes", GAUGE, ("cache",), "Memory of a cache.",
        _counts(lambda r: {name: cache.bytes for name, cache in _caches(r).items()}),
    ),
    # mempool
    Metric(
        "electrumx_mempool_transactions", GAUGE, (), "Unconfirmed transactions.",
        _one(lambda r: len(r.parts.mempool.index.txs)),
    ),
    Metric(
        "electrumx_mempool_bytes", GAUGE, (), "Their virtual bytes.",
        _one(lambda r: r.parts.mempool.index.total_size),
    ),
    Metric(
        "electrumx_mempool_refresh_seconds", HISTOGRAM, (), "Time of a refresh of the mempool.",
        _histogram(lambda r: r.parts.mempool.refresher.histogram),
    ),
    # the node
    Metric(
        "electrumx_node_last_reply_timestamp_seconds", GAUGE, (),
        "When the node last answered, in seconds since the epoch.", _one(_last_reply),
    ),
    Metric(
        "electrumx_node_failing", GAUGE, (),
        "Whether the last request to the node failed: 1 or 0.", _one(_node_failing),
    ),
    Metric(
        "electrumx_node_requests", COUNTER, ("method", "outcome"),
        "HTTP requests to the node; a batch is one.", _counts(lambda r: r.parts.daemon.calls.counts),
    ),
    Metric(
        "electrumx_node_request_seconds", HISTOGRAM, ("method",),
        "Time of requests that the node answered.",
        _histograms(lambda r: r.parts.daemon.calls.durations),
    ),
    Metric(
        "electrumx_node_url_switches", COUNTER, (), "How often another node came into use.",
        _one(lambda r: r.parts.daemon.calls.url_switches),
    ),
    # others
    Metric("electrumx_peers", GAUGE, ("state",), "Peer servers.", _counts(_peers)),
    Metric(
        "electrumx_certificate_expiry_timestamp_seconds", GAUGE, (),
        "When the certificate of ssl and wss ends, in seconds since the epoch.",
        _one(lambda r: r.parts.certificate_expiry),
    ),
)  # fmt: skip


def values_of(reading: Reading) -> list[Family]:
    """Return all metrics with their values.  Runs in: the event loop."""
    return [Family(metric, list(metric.read(reading))) for metric in METRICS]
