"""Runs audits of a database, and reports their verdicts.

Owns no data.  :func:`verify` runs on the event loop, of a server or of the offline tool: it has the
snapshot taken at the block at which the node counted its outputs, reads the database through in a
worker thread (``audit`` lists the checks), compares it with the node (``audit_node``), and starts
again if blocks were undone during the audit.
"""

import asyncio
import logging
import time
from typing import NamedTuple

from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.db import DB
from electrumx.server.maintenance.audit import Audit, AuditStopped, Totals
from electrumx.server.maintenance.audit_node import NodeComparison, NodeSet, node_set

__all__ = [
    "Audit",
    "AuditStopped",
    "NodeComparison",
    "NodeSet",
    "Totals",
    "Verdict",
    "node_set",
    "verify",
]

#: tries to find node and database at the same block, and seconds between them
NODE_TRIES = 10
NODE_RETRY_SECS = 1.0
#: seconds in which a node that runs answers the first question
NODE_ANSWER_SECS = 60.0


class Verdict(NamedTuple):
    """The result of an audit."""

    sound: bool
    #: the findings, in lines for people; the last one is the verdict
    lines: list[str]


async def _snapshot_with_node(
    audit: Audit, daemon: Daemon, lock: asyncio.Lock
) -> NodeComparison | None:
    """Take the snapshot at the block at which the node counted; None if that cannot be."""
    db = audit.db
    reason = await _no_answer(daemon)
    for attempt in range(0 if reason else NODE_TRIES):
        if attempt:
            await asyncio.sleep(NODE_RETRY_SECS)
        try:
            node = await node_set(daemon, db.coin)
            if node.tip != db.db_tip and attempt == 0 and node.height > db.db_height:
                # The node may have an index of older blocks.
                try:
                    node = await node_set(daemon, db.coin, hash_to_hex_str(db.db_tip))
                except DaemonError:
                    pass
        except (DaemonError, asyncio.TimeoutError) as e:
            reason = f"it does not count its outputs: {str(e) or 'no answer in time'}"
            break
        async with lock:
            if node.tip == db.db_tip:
                await asyncio.to_thread(audit.take_snapshot)
                return NodeComparison(audit, daemon, node)
        reason = (
            f"it is at height {node.height:,d}, the database at {db.db_height:,d}; let the server "
            "catch up and use electrumx_rpc verify"
        )
    audit.notes.append(f"node: not compared, for {reason}")
    async with lock:
        await asyncio.to_thread(audit.take_snapshot)
    return None


async def _no_answer(daemon: Daemon) -> str:
    """Return why the node does not answer, which is empty if it does.  The daemon retries."""
    try:
        await asyncio.wait_for(daemon.height(), NODE_ANSWER_SECS)
    except asyncio.TimeoutError:
        return f"it did not answer within {NODE_ANSWER_SECS:g} seconds; check that it runs"
    except DaemonError as e:
        return f"it refuses to tell its height: {e}"
    return ""


async def _audit_once(audit: Audit, daemon: Daemon | None, lock: asyncio.Lock) -> None:
    comparison = None
    if daemon is None:
        async with lock:
            await asyncio.to_thread(audit.take_snapshot)
    elif audit.db.db_height >= audit.db.coin.GENESIS_ACTIVATION:
        audit.notes.append("node: not compared, as this coin's node has rules of its own")
        async with lock:
            await asyncio.to_thread(audit.take_snapshot)
    else:
        comparison = await _snapshot_with_node(audit, daemon, lock)
    await asyncio.to_thread(audit.run)
    if comparison:
        try:
            await comparison.conclude()
        except (DaemonError, DeserializeError, asyncio.TimeoutError) as e:
            reason = str(e) or "no answer in time"
            audit.notes.append(f"node: not compared to the end: {reason}")


async def verify(
    db: DB,
    *,
    deep: bool,
    lock: asyncio.Lock,
    daemon: Daemon | None,
    logger: logging.Logger,
    rest: float = 0.0,
) -> Verdict:
    """Audit an open database; flushes hold ``lock``.

    Raise DBError if reading the database fails, or the database closes during the audit.
    """
    start = time.monotonic()
    attempt = 0
    while True:
        if attempt:
            # The reorganisation rewrote flat files during the audit.
            logger.info("verify: blocks were reorganised; starting again")
        audit = Audit(db, deep=deep, logger=logger, rest=rest)
        try:
            await _audit_once(audit, daemon, lock)
        except BaseException as e:
            audit.stop()
            db.raise_explained(e)
        attempt += 1
        if not audit.findings or audit.backups == db.backup_count or attempt == 3:
            return _verdict(audit, time.monotonic() - start)


def _verdict(audit: Audit, secs: float) -> Verdict:
    faults = audit.fault_lines()
    kind = "deep audit" if audit.deep else "audit"
    lines = [audit.summary(), *audit.notes, *faults]
    if audit.undecided and len(faults) == 1:
        lines.append("verdict: undecided; a deep audit tells what only one of the two keeps")
    elif faults:
        lines.append(
            f"verdict: DAMAGED, {len(faults):,d} findings; restore a backup of the whole database "
            "directory, or empty it to synchronise again"
        )
    else:
        lines.append(f"verdict: sound ({kind}, {secs:.1f}s)")
    for line in lines:
        audit.logger.info(f"verify: {line}")
    return Verdict(not faults, lines)
