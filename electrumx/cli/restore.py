"""Restores a snapshot that ``electrumx_rpc backup`` made, from a folder or from a web server.

Runs in a process of its own, without a node, before the server starts on the directory.  An
interrupt may come at any time: the next start continues.
"""

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from electrumx.cli.options import SETTINGS_HELP, add_common_options, parsed
from electrumx.cli.stopped import run_tool
from electrumx.lib.coins import Coin
from electrumx.lib.env_base import EnvBase, shown
from electrumx.server.maintenance.restore import FaultyFiles, Limits, Restore
from electrumx.server.maintenance.snapshot_manifest import SnapshotManifest
from electrumx.server.maintenance.snapshot_source import FolderSource, HttpSource, SnapshotSource


async def restore(
    source_name: str, directory: Path, wanted: Mapping[str, str], logger: logging.Logger
) -> SnapshotManifest:
    """Restore a snapshot from an absolute path or a URL; return its manifest."""
    limits = Limits()
    async with AsyncExitStack() as stack:
        source: SnapshotSource
        if is_url(source_name):
            source = await stack.enter_async_context(HttpSource(source_name, limits.connections))
        else:
            source = FolderSource(Path(source_name))
        return await Restore(source, directory, logger, limits).run(wanted)


def is_url(source: str) -> bool:
    """Return whether a source is a URL, not a path."""
    return "://" in source


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the values that the manifest must have, by its names, as far as variables set them.

    Raise CoinError for a coin that does not exist.
    """
    found = {}
    if name := environment.get("COIN"):
        coin = Coin.lookup_coin_class(name, environment.get("NET") or "mainnet")
        found = {"coin": coin.NAME, "net": coin.NET}
    if engine := environment.get("DB_ENGINE"):
        found["engine"] = engine
    return found


def _run(source_name: str, directory: Path, logger: logging.Logger) -> bool:
    start = time.monotonic()
    try:
        manifest = asyncio.run(
            restore(source_name, directory, settings(EnvBase.variables()), logger)
        )
    except FaultyFiles as e:
        for line in e.lines:
            logger.critical(f"restore: {shown(line)}")
        return False
    logger.info(
        f"restore: {directory} is a database of height {manifest.height:,d}, tip {manifest.tip}, "
        f"after {time.monotonic() - start:.1f}s"
    )
    logger.info(
        f"restore: now run electrumx_verify with COIN={manifest.coin} NET={manifest.net} "
        f"DB_ENGINE={manifest.engine} DB_DIRECTORY={directory} and DAEMON_URL"
    )
    return True


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "electrumx_restore",
        description="Restore a snapshot that electrumx_rpc backup made. Every file is compared "
        "with the snapshot's manifest; the directory becomes a database when all are there. After "
        "an interruption the same command continues.",
    )
    add_common_options(parser, config_help=SETTINGS_HELP)
    parser.add_argument(
        "source", help="folder of the snapshot, or http(s) URL at which a web server serves it"
    )
    parser.add_argument(
        "directory", help="database directory to make: a path that does not exist, or is empty"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return the exit status: 0 if the directory is a database, else 1."""
    parser = make_parser()
    args = parsed(parser, argv)
    if args is None:
        return 0
    if not args.source or not args.directory:
        # An unset variable of a script would be the current directory.
        parser.error("the source and the directory must not be empty")
    source = args.source if is_url(args.source) else os.path.abspath(args.source)
    directory = Path(os.path.abspath(args.directory))
    return run_tool(
        "restore",
        lambda logger: _run(source, directory, logger),
        config=args.config,
        interrupted="the next run continues from here",
    )


if __name__ == "__main__":
    sys.exit(main())
