"""The rows and summaries that administrators read, in the log or through LocalRPC. Pure."""

import os
import time
from typing import Any

import electrumx
from electrumx.lib import util


def session_rows(session_mgr: Any, *, for_log: bool) -> list[list[Any]]:
    """Return a row for each session, oldest first; see ``lib.text`` for the columns."""
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
        ]
        for session in sorted(
            session_mgr.shared.table.sessions, key=lambda s: (s.start_time, s.session_id)
        )
    ]


def group_rows(session_mgr: Any) -> list[list[Any]]:
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
        for group in session_mgr.shared.table.groups.values()
    ]


def get_info(session_mgr: Any) -> dict[str, Any]:
    """Return a summary of the server's state."""
    sessions = session_mgr.shared.table.sessions
    subs = [session.sub_count() for session in sessions]
    return {
        "coin": session_mgr.shared.env.coin.__name__,
        "daemon": session_mgr.shared.daemon.logged_url(),
        "daemon height": session_mgr.shared.daemon.cached_height(),
        "db height": session_mgr.shared.db.db_height,
        "db_flush_count": session_mgr.shared.db.history.flush_count,
        "groups": len(session_mgr.shared.table.groups.by_name),
        "history cache": session_mgr.shared.scripts.histories.cache.summary(),
        "loop lag": session_mgr.loop_lag.summary(),
        "mempool": session_mgr.shared.mempool.info(),
        "merkle cache": session_mgr.shared.blocks.levels.summary(),
        "peers": session_mgr.shared.peers.info(),
        "pid": os.getpid(),
        "request counts": dict(session_mgr.shared.method_counts),
        "request total": sum(session_mgr.shared.method_counts.values()),
        "sessions": {
            "count": len(sessions),
            "count with subs": sum(count > 0 for count in subs),
            "errors": sum(session.errors for session in sessions),
            "logged": sum(bool(session.log_me) for session in sessions),
            "pending requests": sum(s.unanswered_request_count() for s in sessions),
            "subs": sum(subs),
        },
        "tx hashes cache": session_mgr.shared.blocks.tx_hashes.summary(),
        "txs sent": session_mgr.shared.node.txs_sent,
        "uptime": util.formatted_time(time.monotonic() - session_mgr.start_time),
        "version": electrumx.version,
    }
