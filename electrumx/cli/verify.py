"""The stopped server's tool: audits the database, and compares it with the node if there is one.

Runs in a process of its own, with the server's settings.  DAEMON_URL may be missing.  Opening the
database recovers from an unclean stop, as the server's next start would; the tool writes nothing
else.
"""

import argparse
import asyncio
import logging
import sys

from electrumx.cli.options import SETTINGS_HELP, add_common_options, parsed
from electrumx.cli.stopped import find_database, run_tool
from electrumx.server.daemon.logins import LoginFiles
from electrumx.server.db import DB
from electrumx.server.env import Env
from electrumx.server.maintenance.verify import Verdict, verify


async def _verify(db: DB, env: Env, deep: bool, logger: logging.Logger) -> Verdict:
    await db.open_for_compacting()
    try:
        lock = asyncio.Lock()
        if not env.daemon_url:
            return await verify(db, deep=deep, lock=lock, daemon=None, logger=logger)
        files = LoginFiles.of(env)
        async with env.coin.DAEMON(env.coin, env.daemon_url, login_files=files) as daemon:
            return await verify(db, deep=deep, lock=lock, daemon=daemon, logger=logger)
    finally:
        db.close_dbs()


def _run(deep: bool, logger: logging.Logger) -> bool:
    env, db = find_database(logger)
    return asyncio.run(_verify(db, env, deep, logger)).sound


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "electrumx_verify",
        description="Audit the database of a stopped ElectrumX server. The settings are the "
        "server's: COIN, NET, DB_DIRECTORY, DB_ENGINE, REORG_LIMIT, and DAEMON_URL to compare with "
        "the node.",
    )
    add_common_options(parser, config_help=SETTINGS_HELP)
    parser.add_argument(
        "--deep",
        action="store_true",
        help="check transaction hashes and raw blocks, and account for every output of the node",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return the exit status: 0 if the database is intact, else 1."""
    args = parsed(make_parser(), argv)
    if args is None:
        return 0
    return run_tool(
        "verify",
        lambda logger: _run(args.deep, logger),
        config=args.config,
        interrupted="there is no verdict",
    )


if __name__ == "__main__":
    sys.exit(main())
