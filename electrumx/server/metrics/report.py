"""The report of ``/status.json``: all that a page for people needs, and nothing of single clients.

Pure: it is made of a reading.  Members never change their meaning; new ones may be added.
Heights are -1 without any block, times are in seconds, dates in seconds since the epoch.
"""

import time
from typing import Any

import electrumx
from electrumx.server.metrics.rates import RequestRates
from electrumx.server.metrics.sources import Reading
from electrumx.server.runtime.server_state import ServerStatus
from electrumx.server.session.admin.tables import readiness


def report(reading: Reading, rates: RequestRates, *, uptime_secs: float) -> dict[str, Any]:
    """Return the report."""
    parts, status = reading.parts, reading.status
    env, shared = parts.env, parts.manager.shared
    return {
        **readiness(status),
        "status": status.text(),
        "time": time.time(),
        "uptime_s": round(uptime_secs),
        "server": {
            "version": electrumx.version,
            "coin": env.coin.NAME,
            "net": env.coin.NET,
            "db_engine": env.db_engine.lower(),
            "services": [
                {"protocol": service.protocol, "listening": service in parts.manager.listeners.open}
                for service in shared.env.services
                if service.protocol != "metrics"
            ],
        },
        "progress": _progress(status),
        "node": _node(reading),
        "sessions": _sessions(reading),
        "requests": [
            {
                "method": rate.method,
                "per_s": round(rate.per_sec, 2),
                "median_s": rate.median_secs,
                "p99_s": rate.p99_secs,
            }
            for rate in rates.now()
        ],
        "loop_lag": parts.loop_lag.summary(),
        "mempool": {
            "transactions": len(parts.mempool.index.txs),
            "bytes": parts.mempool.index.total_size,
            "behind": parts.mempool.info()["behind"],
            "fee_histogram": parts.mempool.cached_compact_histogram,
        },
        "peers": shared.peers.info(),
        "reorgs": [
            {"time": reorg.time, "first_height": reorg.first_height, "blocks": reorg.blocks}
            for reorg in parts.processor.stats.recent_reorgs
        ],
        "flushes": [
            {"time": flush.time, "height": flush.height, "secs": round(flush.secs, 3)}
            for flush in parts.db.flusher.stats.recent
        ],
        "disk": {"stores": parts.disk.stores, "free": parts.disk.free},
        "certificate_expiry": parts.certificate_expiry,
    }


def _progress(status: ServerStatus) -> dict[str, Any] | None:
    progress = status.progress
    if progress is None:
        return None
    return {
        "processed_height": progress.processed_height,
        "transactions": progress.tx_count,
        "percent": round(progress.percent, 2),
        "phase": progress.phase,
        "eta_s": _rounded(progress.eta_secs),
        "first_sync": progress.first_sync,
        "text": status.progress_text(),
    }


def _node(reading: Reading) -> dict[str, Any]:
    status, calls = reading.status, reading.parts.daemon.calls
    failure = status.node_failure
    found: dict[str, Any] = {
        "address": reading.parts.daemon.logged_url(),
        "failing": status.node_failing,
        "last_failure": None,
        "url_switches": calls.url_switches,
    }
    if failure is not None:
        found["last_failure"] = {
            "cause": failure.cause.value,
            "method": failure.method,
            "text": failure.text,
            "age_s": round(time.monotonic() - failure.time, 1),
        }
    return found


def _sessions(reading: Reading) -> dict[str, Any]:
    sessions, manager = reading.sessions, reading.parts.manager
    return {
        "count": sessions.by_protocol.total(),
        "maximum": manager.shared.env.max_sessions,
        "by_service": [
            {"service": service, "protocol": protocol, "count": count}
            for (service, protocol), count in sorted(sessions.by_protocol.items())
        ],
        "opened": dict(sessions.opened),
        "closed": dict(sessions.closed),
        "subscriptions": reading.subscriptions(),
        "throttled": sessions.throttled,
        "received_bytes": sessions.received,
        "sent_bytes": sessions.sent,
        "notifications": dict(manager.shared.notified),
        "broadcasts": dict(manager.shared.node.broadcasts),
    }


def _rounded(secs: float | None) -> float | None:
    return None if secs is None else round(secs, 1)
