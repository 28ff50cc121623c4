"""The server's command: logging, settings, then the controller until it ends.

Runs before and around the event loop. The only change of working directory is here: relative
paths in settings and in the database count from DB_DIRECTORY.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import electrumx
from electrumx.cli.logs import DEFAULT_LOG_FORMAT, logging_to_stdout
from electrumx.lib.env_base import EnvBase, LoopPolicy, shown
from electrumx.lib.errors import OperatorError
from electrumx.lib.signals import EarlySignals, stop_signals
from electrumx.lib.util import CompactFormatter


def _make_formatter() -> logging.Formatter:
    """Return the formatter that LOG_FORMAT asks for; EnvBase.Error if it is no format."""
    text = EnvBase.default("LOG_FORMAT", DEFAULT_LOG_FORMAT)
    try:
        formatter = CompactFormatter(text)
        # A wrong field name shows only when something is logged.
        formatter.format(logging.makeLogRecord({"name": "electrumx", "msg": "", "args": None}))
    except (ValueError, KeyError, TypeError) as e:
        raise EnvBase.Error(
            f"envvar LOG_FORMAT value {shown(text)} is not a log format ({shown(str(e))}): "
            f"set one like {DEFAULT_LOG_FORMAT}"
        ) from e
    return formatter


def _enter_db_directory(db_dir: str) -> None:
    """Make the database directory the working directory.

    Raises EnvBase.Error if it is missing, no directory, or not ours to write in.
    """
    name = f"envvar DB_DIRECTORY value {shown(db_dir)}"
    if not os.path.exists(db_dir):
        raise EnvBase.Error(f"{name} does not exist: create the directory, or set another")
    if not os.path.isdir(db_dir):
        raise EnvBase.Error(f"{name} is not a directory: set one")
    if not os.access(db_dir, os.R_OK | os.W_OK | os.X_OK):
        raise EnvBase.Error(f"{name} is not writable: let the user who runs the server write in it")
    try:
        os.chdir(db_dir)
    except OSError as e:
        raise EnvBase.Error(f"{name} cannot be entered: {e.strerror}") from e


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


def _serve(logger: logging.Logger, handler: logging.Handler, early: EarlySignals) -> None:
    """Build everything and run it until it ends; raises what ended it, if not a request."""
    handler.setFormatter(_make_formatter())
    logger.info("ElectrumX server starting")
    # Imported here, so that an error in importing is logged, too; and settings come first, as
    # their errors are the likely ones.
    from electrumx.server.env import Env
    from electrumx.server.runtime.malloc_tuning import keep_freed_memory, keep_little_freed_memory

    keep_little_freed_memory(os.environ)
    env = Env()
    logger.setLevel(env.log_level)
    from electrumx.server.controller import Controller

    _enter_db_directory(env.db_dir)
    if early.received:
        logger.warning(f"received {early.received} signal before the start; nothing was done")
        return
    controller = Controller(
        env,
        early_signal=lambda: early.received,
        when_caught_up=lambda: keep_freed_memory(os.environ),
    )
    _run(_ignore_signals_after(controller.run()), env.loop_policy)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of a command line that takes only ``--help`` and ``--version``."""
    parser = argparse.ArgumentParser(
        "electrumx_server",
        description="Index the chain of a full node, and serve wallets. All settings are "
        "environment variables, of which COIN, DAEMON_URL and DB_DIRECTORY are required: see "
        "docs/environment.rst.",
    )
    parser.add_argument("--version", action="version", version=electrumx.version)
    return parser


def main(argv: list[str] | None = None, *, early: EarlySignals | None = None) -> int:
    """Run the server; return the process's exit status, 0 or 1.

    ``early`` has noted signals since the process began, if it was made by then.  Arguments are
    refused, but for ``--help`` and ``--version``: SystemExit.  An error of the
    configuration is one line of the log; any other comes with its traceback.
    """
    early = early or EarlySignals().install()
    make_parser().parse_args(argv)
    with logging_to_stdout() as (logger, handler):
        try:
            _serve(logger, handler, early)
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
