"""The rows and summaries that administrators read, in the log or through LocalRPC. Pure."""

import os
import time
from typing import Any

import electrumx
from electrumx.lib import util
from electrumx.server.runtime.server_state import ServerStatus
from electrumx.server.session.shared.session_table import SessionTable, TableSession
from electrumx.server.session.shared.state import SharedState


def session_rows(table: SessionTable, *, for_log: bool) -> list[list[Any]]:
    """Return a row for each session, oldest first; see ``lib.text`` for the columns.

    Rows of clients behind a proxy end with its address, but in the log.
    """
    now = time.monotonic()
    return [
        [
            session.session_id,
            session.flags(),
            session.remote_address_string(for_log=for_log),
            session.client_text(),
            session.protocol_version_string(),
            session.cost,
            session.extra_cost(),
            session.unanswered_request_count(),
            session.txs_sent,
            session.sub_count(),
            session.recv_count,
            session.recv_size,
            session.send_count,
            session.send_size,
            now - session.start_time,
            *([] if for_log or (proxy := session.proxy_string()) is None else [proxy]),
        ]
        for session in sorted(table.sessions, key=lambda s: (s.start_time, s.session_id))
    ]


def group_rows(table: SessionTable) -> list[list[Any]]:
    """Return a row for each group of sessions; see ``lib.text`` for the columns."""
    return [
        [
            group.name,
            len(group.sessions),
            group.session_cost(),
            group.retained_cost,
            sum(session.unanswered_request_count() for session in group.sessions),
            sum(session.txs_sent for session in group.sessions),
            sum(session.sub_count() for session in group.sessions),
            sum(session.recv_count for session in group.sessions),
            sum(session.recv_size for session in group.sessions),
            sum(session.send_count for session in group.sessions),
            sum(session.send_size for session in group.sessions),
        ]
        for group in table.groups.values()
    ]


def session_details(session: TableSession) -> dict[str, Any]:
    """Return the details of one session."""
    outpoints = session.outpoint_count()
    return {
        "client_name": session.client_text(),
        "conn_time": util.formatted_time(time.monotonic() - session.start_time),
        "errors": session.errors,
        "is_logged": bool(session.log_me),
        "pending requests": session.unanswered_request_count(),
        "protocol": session.protocol_version_string(),
        "request counts": session.request_counts(),
        "request total": session.recv_count,
        "subs_sh": session.sub_count() - outpoints,
        "subs_txo": outpoints,
        "txs sent": session.txs_sent,
    }


def summary(shared: SharedState, *, loop_lag: dict[str, float], uptime: float) -> dict[str, Any]:
    """Return a summary of the server's state; ``loop_lag`` is of LoopLag, ``uptime`` in seconds."""
    sessions = shared.table.sessions
    subs = [session.sub_count() for session in sessions]
    counts = shared.requests.started()
    return {
        "coin": shared.env.coin.__name__,
        "daemon": shared.daemon.logged_url(),
        "daemon height": shared.daemon.cached_height(),
        "db height": shared.db.db_height,
        "db_flush_count": shared.db.history.flush_count,
        "groups": len(shared.table.groups.by_name),
        "history cache": shared.scripts.histories.cache.summary(),
        "loop lag": loop_lag,
        "mempool": shared.mempool.info(),
        "merkle cache": shared.blocks.levels.summary(),
        "peers": shared.peers.info(),
        "pid": os.getpid(),
        "request counts": counts,
        "request total": sum(counts.values()),
        "sessions": {
            "count": len(sessions),
            "count with subs": sum(count > 0 for count in subs),
            "errors": sum(session.errors for session in sessions),
            "logged": sum(bool(session.log_me) for session in sessions),
            "pending requests": sum(s.unanswered_request_count() for s in sessions),
            "subs": sum(subs),
            "subs_txo": sum(session.outpoint_count() for session in sessions),
        },
        "tx hashes cache": shared.blocks.tx_hashes.summary(),
        "txs sent": shared.node.txs_sent,
        "uptime": util.formatted_time(uptime),
        "version": electrumx.version,
    }


def readiness(status: ServerStatus) -> dict[str, Any]:
    """Return whether the server is ready, and why not: the answer of ``/readyz``."""
    return {
        "ready": status.ready,
        "state": status.state.value,
        "height": status.height,
        "node_height": status.node_height,
        "lag": status.lag,
        "node_age_s": _rounded(status.node_age_secs),
        "reason": status.reason,
    }


def state_summary(status: ServerStatus) -> dict[str, Any]:
    """Return the members of getinfo about the server's state."""
    progress, failure = status.progress, status.node_failure
    found: dict[str, Any] = {
        "state": status.state.value,
        "ready": status.ready,
        "reason": status.reason,
        "status": status.text(),
        "lag": status.lag,
        "processed height": progress.processed_height if progress else None,
        "progress": None,
        "node": {
            "last reply secs": _rounded(status.node_age_secs),
            "failing": status.node_failing,
            "last failure": None,
        },
    }
    if progress is not None:
        found["progress"] = {
            "phase": progress.phase,
            "percent": round(progress.percent, 1),
            "eta": None if progress.eta_secs is None else util.formatted_time(progress.eta_secs),
            "eta secs": _rounded(progress.eta_secs),
        }
    if failure is not None:
        found["node"]["last failure"] = {
            "cause": failure.cause.value,
            "method": failure.method,
            "text": failure.text,
            "secs ago": round(time.monotonic() - failure.time, 1),
        }
    return found


def _rounded(secs: float | None) -> float | None:
    return None if secs is None else round(secs, 1)
