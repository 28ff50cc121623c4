"""``electrumx_server --check``: finds what would keep the server from working, and changes nothing.

Each problem is a line.  The check replaces settings with an error, to check the others too.
Runs in: a process of its own, while a server with these settings may be running.
"""

import asyncio
import fcntl
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from electrumx.cli.db_directory import enter_db_directory
from electrumx.cli.logs import make_formatter, print_lines
from electrumx.lib.env_base import reading_from, shown
from electrumx.lib.errors import OperatorError
from electrumx.lib.tasks import run_in_own_thread
from electrumx.server.daemon.logins import LoginFiles
from electrumx.server.daemon.retry import RETRIED, failure_texts
from electrumx.server.db.closed_state import check_closed_database
from electrumx.server.env import Env
from electrumx.server.services import UnixService
from electrumx.server.session.transport.preflight import (
    ListenError,
    check_certificates,
    check_service,
)
from electrumx.server.setting_hints import KNOWN, OBSOLETE
from electrumx.server.settings import Settings

NODE_SECS = 5.0
#: how long the look-up of a service's host may take
NAME_SECS = 5.0
# The directory of sockets, empty after each start of the machine
RUN = "/run"
# In place of missing or wrong required settings, to check the others.
_SUBSTITUTES = {
    "COIN": "Bitcoin",
    "DAEMON_URL": "http://user:password@localhost:1/",
    "DB_DIRECTORY": "/",
    "SSL_CERTFILE": "missing",
    "SSL_KEYFILE": "missing",
}
_NAME = re.compile(r"\b[A-Z][A-Z0-9_]+\b")

P = ParamSpec("P")
T = TypeVar("T")


class _ThreadForEachCall(ThreadPoolExecutor):
    """Runs each call in a thread of its own, which no one waits for at the end.

    A name server, or the file system of a database, can hang; nothing ends a thread that asks it.
    """

    def submit(  # type: ignore[override]  # run_in_executor() takes an asyncio.Future as well
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[T]":
        """Start a thread; return the future of its result, to await in this loop."""
        return run_in_own_thread(partial(fn, *args, **kwargs), "check")


def main(config: str | None, environ: Mapping[str, str]) -> int:
    """Check everything and print the outcome; return the exit status, 0 without a problem."""
    # Print nothing but the outcome.
    logging.getLogger("electrumx").setLevel(logging.CRITICAL + 1)
    try:
        settings = Settings.read(config, environ)
    except OperatorError as e:
        print_lines([f"problem: {shown(str(e))}"])
        return 1
    with reading_from(settings.variables):
        env, problems, wrong = read_settings(settings.variables)
    hints = [hint for hint in env.hints if not wrong & set(_NAME.findall(hint))]
    warnings = [*settings.warnings, *hints, *map(_missing_text, _made_at_start(env))]
    if os.name != "nt" and os.geteuid() == 0 and not env.allow_root:
        warnings.append(
            "checked as root: permissions are known only if the server's user runs this"
        )
    problems += asyncio.run(_all_problems(env, wrong))
    outcome = f"problems found: {len(problems):,d}"
    print_lines(
        [
            *(f"problem: {shown(problem)}" for problem in problems),
            *(f"warning: {shown(warning)}" for warning in warnings),
            outcome,
        ]
    )
    return 1 if problems else 0


def read_settings(variables: Mapping[str, str]) -> tuple[Env, list[str], set[str]]:
    """Return (settings, problems, the names of the replaced settings)."""
    current = dict(variables)
    problems: list[str] = []
    wrong: set[str] = set()
    while True:
        try:
            with reading_from(current):
                make_formatter(sys.stdout)
                return Env(), problems, wrong
        except OperatorError as e:
            if str(e) not in problems:
                problems.append(str(e))
            # Each of these errors names its variables, the one to change first.
            named = [name for name in _NAME.findall(str(e)) if name in KNOWN or name in OBSOLETE]
            names = [name for name in named if name not in wrong]
            if named and named[0] not in OBSOLETE:
                names = names[:1]
            if not names:
                raise
            for name in names:
                wrong.add(name)
                current.pop(name, None)
                if name in _SUBSTITUTES:
                    current[name] = _SUBSTITUTES[name]


async def _all_problems(env: Env, wrong: set[str]) -> list[str]:
    asyncio.get_running_loop().set_default_executor(_ThreadForEachCall())
    problems = []
    is_served = False
    if "DB_DIRECTORY" not in wrong:
        try:
            # Relative paths count from there.
            enter_db_directory(env.db_dir)
            is_served = is_in_use(env.db_dir)
            if not is_served and not wrong & {"COIN", "NET", "DB_ENGINE"}:
                await asyncio.to_thread(check_closed_database, env)
        except OperatorError as e:
            problems.append(str(e))
    problems += _certificate_problems(env, wrong)
    async for problem in _listen_problems(env, is_served):
        problems.append(problem)
    if not wrong & {"DAEMON_URL", "COIN", "NET"}:
        problems += await _node_problems(env)
    return problems


def is_in_use(db_dir: str) -> bool:
    """Return whether a process, most likely the server, has the database open."""
    try:
        with open(os.path.join(db_dir, "utxo", "LOCK"), "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _certificate_problems(env: Env, wrong: set[str]) -> Iterator[str]:
    if wrong & {"SSL_CERTFILE", "SSL_KEYFILE", "WSS_CERTFILE", "WSS_KEYFILE"}:
        return
    try:
        check_certificates(env)
    except OperatorError as e:
        yield str(e)


def _made_at_start(env: Env) -> set[str]:
    """Return the directories of sockets that are missing, and below /run.

    A service manager makes these when it starts the server, and removes them when it stops.
    """
    folders = {os.path.dirname(item.path) for item in env.services if isinstance(item, UnixService)}
    return {item for item in folders if item.startswith(f"{RUN}/") and not os.path.exists(item)}


def _missing_text(folder: str) -> str:
    return (
        f"the directory {folder} is missing: the server's service manager has to make it, as "
        "RuntimeDirectory of a systemd unit does"
    )


async def _listen_problems(env: Env, is_served: bool) -> AsyncIterator[str]:
    later = _made_at_start(env)
    for service in env.services:
        if isinstance(service, UnixService) and os.path.dirname(service.path) in later:
            continue
        try:
            await asyncio.wait_for(check_service(service, leave_files=True), NAME_SECS)
        except asyncio.TimeoutError:
            yield (
                f"{service.protocol.upper()} server failed to listen on {service.address}: "
                f"its name was not found within {NAME_SECS:g} seconds"
            )
        except ListenError as e:
            # The running server is there; it has the port that is in use.
            if not (is_served and e.is_in_use):
                yield str(e)


async def _node_problems(env: Env) -> list[str]:
    """Ask all nodes at the same time; return their problems."""
    daemon_class = env.coin.DAEMON
    try:
        daemon = daemon_class(env.coin, env.daemon_url, login_files=LoginFiles.of(env))
    except OperatorError as e:
        return [str(e)]
    async with daemon:

        async def check(url: str) -> str | None:
            where = f"the daemon at {daemon.logged_url(url)}"
            try:
                await asyncio.wait_for(daemon.check_node(url), NODE_SECS)
            except OperatorError as e:
                return str(e)
            except asyncio.TimeoutError:
                return f"{where} did not answer within {NODE_SECS:g} seconds"
            except RETRIED as e:
                return f"{where}: {failure_texts(e)[0]}"
            return None

        found = await asyncio.gather(*map(check, daemon.urls))
    return [problem for problem in found if problem]
