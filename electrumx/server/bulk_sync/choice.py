"""Decides whether the bulk sync or the ordinary sync fills a database.

Owns the choice.  Runs in: a worker thread.
"""

import logging

from electrumx.server.bulk_sync.space import space_needed
from electrumx.server.db.database import DB
from electrumx.server.env import Env
from electrumx.server.runs import FOLDER
from electrumx.server.sync_estimate import txs_in_chain

#: blocks to index, at least: fewer take no time in the ordinary way
MIN_BLOCKS = 1_000
#: its temporary files would take this share of CACHE_MB at least: a smaller chain fits the cache several
#: times, and the ordinary way looks nothing up either.  Measured with the default cache: 405,711
#: transactions (124 MB of files) take 1.4 s in the ordinary way and 2.2 s in bulk, 1,345,075 (594 MB)
#: take 10.8 and 8.4 s
MIN_SHARE_OF_CACHE = 1 / 8
#: and this much.  Measured with CACHE_MB=20: 100,000 transactions (24 MB) take 0.76 s in the ordinary
#: way and 0.81 s in bulk, 400,000 (96 MB) take 2.7 and 1.6 s
MIN_BYTES = 40_000_000


def use_bulk_sync(
    env: Env, db: DB, daemon_height: int, block_bytes: int, logger: logging.Logger
) -> bool:
    """Return whether a bulk sync should fill the database, which is open.

    If not, remove the files of an earlier bulk sync.  ``block_bytes``: the size of the daemon's
    blocks on its disk, 0 if unknown.
    """
    folder = db.db_dir / FOLDER
    begun = folder.exists()
    reason = _reason_against(env, db, daemon_height, block_bytes, begun, logger)
    if reason is None:
        return True
    if begun:
        # Rarely needed, and a start takes long enough.
        from electrumx.server.runs.workspace import Workspace

        logger.warning(f"removing the unfinished bulk sync in {folder}: {reason}")
        Workspace(db.db_dir, logger).remove()
    return False


def _reason_against(
    env: Env,
    db: DB,
    daemon_height: int,
    block_bytes: int,
    begun: bool,
    logger: logging.Logger,
) -> str | None:
    if db.db_height >= 0:
        return "the database has blocks"
    if env.bulk_sync == "off":
        return "BULK_SYNC is off"
    if begun:
        return None
    if daemon_height - env.reorg_limit < MIN_BLOCKS:
        return "the daemon's chain is short"
    txs = txs_in_chain(env.coin, daemon_height)
    # Many coins' figures are old, or placeholders; the node knows better, unless it is pruned.
    largest = space_needed(db.db_dir, txs, block_bytes)
    if largest.peak < max(MIN_BYTES, env.cache_MB * 1_000_000 * MIN_SHARE_OF_CACHE):
        return "the daemon's chain fits the cache"
    # Each regtest chain is another one: the coin has no figures of it.
    space = largest if env.coin.NET == "regtest" else space_needed(db.db_dir, txs)
    logger.info(f"the bulk sync needs {space}")
    if not space.is_there:
        logger.warning(
            "the disk has too little room for the bulk sync: synchronising in the ordinary way, "
            "which takes longer"
        )
        return "the disk has too little room"
    return None
