"""The stopped server's tool: merges the rows of the history, so that flush ids are free again.

Runs in a process of its own, with the server's settings; no node is needed.  A running server
does the same by itself, so this is for an operator who wants it done at once, or who goes back to
ElectrumX.  An interrupt may come at any time: the next start goes on from there.
"""

import argparse
import asyncio
import logging
import sys
import time

from electrumx.cli.options import SETTINGS_HELP, add_common_options, parsed
from electrumx.cli.stopped import find_database, run_tool
from electrumx.server.db import DB, DBError
from electrumx.server.history.row_compaction import PREFIXES, compact_prefixes

#: bytes of rows written in one batch, about
BATCH_BYTES = 8_000_000
PROGRESS_LOG_SECS = 10.0


def compact(db: DB, logger: logging.Logger) -> None:
    """Compact the history of a database opened for that.  Raise DBError if it is not to be."""
    history = db.history
    if db.first_sync:
        raise DBError(
            "the first synchronisation is not finished: let the server finish it, which compacts "
            "the history itself if it must"
        )
    if history.flush_count < 2:
        logger.info("there is nothing to compact")
        return
    before = history.flush_count
    if history.comp_cursor == -1:
        history.comp_cursor = 0
    else:
        done = 100 * history.comp_cursor / PREFIXES
        logger.info(f"going on with a compaction that was interrupted at {done:.1f}%")
    history.comp_flush_count = max(history.comp_flush_count, 1)
    written = 0
    next_log = time.monotonic()
    while history.comp_cursor != -1:
        if time.monotonic() >= next_log:
            next_log = time.monotonic() + PROGRESS_LOG_SECS
            done = 100 * history.comp_cursor / PREFIXES
            logger.info(f"history compaction: {done:.1f}% done, {written:,d} bytes written")
        written += compact_prefixes(history, BATCH_BYTES)
    logger.info(
        f"history compaction complete: {written:,d} bytes written, flush count {before:,d} is now "
        f"{history.flush_count:,d}"
    )


def _run(logger: logging.Logger) -> bool:
    _env, db = find_database(logger)
    asyncio.run(db.open_for_compacting())
    try:
        # Outside of an event loop, so that an interrupt takes effect at once.
        compact(db, logger)
    finally:
        db.close_dbs()
    return True


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "electrumx_compact_history",
        description="Compact the history in the database of a stopped ElectrumX server. The "
        "settings are the server's: COIN, NET, DB_DIRECTORY, DB_ENGINE.",
    )
    add_common_options(parser, config_help=SETTINGS_HELP)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return the exit status, 0 or 1."""
    args = parsed(make_parser(), argv)
    if args is None:
        return 0
    return run_tool(
        "history compaction",
        _run,
        config=args.config,
        # Nothing here asks a node.
        daemon_url="",
        interrupted="the next run goes on from here",
    )


if __name__ == "__main__":
    sys.exit(main())
