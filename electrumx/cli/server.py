"""The server's command: logging, settings, then the controller until it ends.

Runs before and around the event loop.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from electrumx.cli.db_directory import enter_db_directory
from electrumx.cli.logs import logging_to_stdout, make_formatter
from electrumx.cli.options import SETTINGS_HELP, add_common_options, parsed
from electrumx.lib.env_base import LoopPolicy, reading_from, shown
from electrumx.lib.errors import OperatorError
from electrumx.lib.signals import EarlySignals, stop_signals
from electrumx.server.settings import Settings


async def _ignore_signals_after(main_coro: Coroutine[Any, Any, None]) -> None:
    """Await a coroutine, and ignore stop signals after it.

    Closing the loop restores the signals' default action: a second signal would kill the process
    after an orderly shutdown, with the exit status of a failure.
    """
    try:
        await main_coro
    finally:
        if os.name != "nt":
            loop = asyncio.get_running_loop()
            for signum in stop_signals():
                loop.remove_signal_handler(signum)
                signal.signal(signum, signal.SIG_IGN)


def _run(main_coro: Coroutine[Any, Any, None], policy: LoopPolicy | None) -> None:
    """Run a coroutine to its end in a new event loop of the policy."""
    if policy is None:
        asyncio.run(main_coro)
    elif sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=policy.new_event_loop) as runner:
            runner.run(main_coro)
    else:
        # Python 3.10 has no way to give asyncio.run a loop but a policy.
        new_event_loop = policy.new_event_loop

        class Policy(asyncio.DefaultEventLoopPolicy):
            def new_event_loop(self) -> asyncio.AbstractEventLoop:
                return new_event_loop()

        asyncio.set_event_loop_policy(Policy())
        try:
            asyncio.run(main_coro)
        finally:
            asyncio.set_event_loop_policy(None)


def _serve(
    settings: Settings, logger: logging.Logger, handler: logging.Handler, early: EarlySignals
) -> None:
    """Build everything and run it until it ends; raises what ended it, if not a request."""
    with reading_from(settings.variables):
        handler.setFormatter(make_formatter(sys.stdout))
        logger.info("ElectrumX server starting")
        # Imported here, to log an error in importing, too; and settings come first, as
        # their errors are the likely ones.
        from electrumx.lib.trusted_certificates import import_aiohttp
        from electrumx.server.env import Env
        from electrumx.server.runtime.malloc_tuning import (
            keep_freed_memory,
            keep_little_freed_memory,
        )

        keep_little_freed_memory(os.environ)
        env = Env()
        import_aiohttp(os.environ)
    logger.setLevel(env.log_level)
    for warning in settings.warnings:
        logger.warning(warning)
    from electrumx.server.controller import Controller

    # The start switched it off while loading modules, whose objects are never garbage.
    gc.freeze()
    gc.enable()
    enter_db_directory(env.db_dir)
    # With a settings file SIGHUP asks to read it again, and that has just happened.
    if early.received and not (early.received == "SIGHUP" and settings.path):
        logger.warning(f"received {early.received} signal before the start; nothing was done")
        return
    controller = Controller(
        env,
        early_signal=lambda: early.received,
        when_caught_up=lambda: keep_freed_memory(os.environ),
        settings=settings,
    )
    _run(_ignore_signals_after(controller.run()), env.loop_policy)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "electrumx_server",
        description="Index the chain of a full node, and serve wallets. Settings are variables of "
        "the environment or of a file; COIN, DAEMON_URL and DB_DIRECTORY are required.",
        allow_abbrev=False,
    )
    add_common_options(parser, config_help=SETTINGS_HELP)
    parser.add_argument(
        "--check",
        action="store_true",
        help="check settings, certificates, ports, the database and the node, print a line for "
        "each problem, and exit: 0 without any, 1 otherwise; nothing is changed",
    )
    return parser


def main(argv: list[str] | None = None, *, early: EarlySignals | None = None) -> int:
    """Run the server; return the process's exit status, 0 or 1.

    ``early`` has noted signals since the process began, if it existed by then.  Arguments that are
    not options of ``make_parser`` raise SystemExit.  An error of the configuration is one line of
    the log; any other comes with its traceback.
    """
    early = early or EarlySignals().install()
    args = parsed(make_parser(), argv)
    if args is None:
        return 0
    if args.check:
        from electrumx.cli.check import main as check

        return check(args.config, os.environ)
    with logging_to_stdout() as (logger, handler):
        try:
            _serve(Settings.read(args.config, os.environ), logger, handler, early)
        except OperatorError as e:
            logger.critical(f"ElectrumX server terminated abnormally: {shown(str(e))}")
            return 1
        except KeyboardInterrupt:
            # Only where loops cannot handle signals; by now the server has shut down in order.
            pass
        except Exception:
            logger.exception("ElectrumX server terminated abnormally")
            return 1
        logger.info("ElectrumX server terminated normally")
    return 0


if __name__ == "__main__":
    sys.exit(main())
