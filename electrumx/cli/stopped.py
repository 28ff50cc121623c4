"""The common part of the tools for a stopped server's database: settings and exit status."""

import logging
import os
from collections.abc import Callable

from electrumx.cli.logs import logging_to_stdout
from electrumx.lib.env_base import reading_from, shown
from electrumx.lib.errors import OperatorError
from electrumx.server.db import DB, DBError
from electrumx.server.env import Env
from electrumx.server.settings import Settings


def run_tool(
    name: str,
    run: Callable[[logging.Logger], bool],
    *,
    config: str | None,
    daemon_url: str | None = None,
    interrupted: str,
) -> int:
    """Run a tool that logs to standard output; return the exit status, 0 if ``run`` returns True.

    An error that the operator can correct is one line of the log; ``interrupted`` is the line after
    an interrupt; any other error comes with its traceback.  ``config`` is the file of settings;
    ``daemon_url`` takes the place of DAEMON_URL unless it is None.
    """
    with logging_to_stdout() as (logger, _handler):
        try:
            settings = Settings.read(config, os.environ)
            variables = settings.variables
            if daemon_url is not None:
                variables["DAEMON_URL"] = daemon_url
            # Env requires it, and the node is optional here.
            variables.setdefault("DAEMON_URL", "")
            with reading_from(variables):
                return 0 if run(logger) else 1
        except OperatorError as e:
            logger.critical(f"{name} ended: {shown(str(e))}")
        except KeyboardInterrupt:
            logger.warning(f"interrupted: {interrupted}")
        except Exception:
            logger.exception(f"{name} ended abnormally")
    return 1


def find_database(logger: logging.Logger) -> tuple[Env, DB]:
    """Return the settings and their database, not yet opened.  Raise DBError without a database.

    Of the variables, DAEMON_URL must be set.
    """
    env = Env()
    logger.setLevel(env.log_level)
    db = DB(env)
    if not (db.db_dir / "utxo").exists():
        raise DBError(f"there is no database in {db.db_dir}: check DB_DIRECTORY")
    return env, db
