"""Reads the settings file again, and applies the changes that a running server can take.

A check of the whole reload precedes the switch: each part of the server *prepares* the change,
which may fail (an unusable certificate, a port in use); only if all have, each *commits*, which
cannot.  If one fails, the others abandon what they prepared, and nothing has changed.

Runs in: the event loop; a worker thread reads the settings.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from electrumx.lib.env_base import reading_from, shown
from electrumx.lib.errors import OperatorError
from electrumx.lib.util import class_logger
from electrumx.server.daemon.client import Daemon
from electrumx.server.daemon.endpoint import endpoints_of
from electrumx.server.daemon.logins import LoginFiles
from electrumx.server.env import Env
from electrumx.server.settings import Settings

#: the settings that a reload applies; all others need a restart
RELOADABLE = frozenset(
    {
        # for clients
        *("BANNER_FILE", "TOR_BANNER_FILE", "DONATION_ADDRESS", "DROP_CLIENT"),
        # limits
        *("BANDWIDTH_UNIT_COST", "COST_HARD_LIMIT", "COST_SOFT_LIMIT", "INITIAL_CONCURRENT"),
        *("MAX_SESSIONS", "MAX_SESSIONS_PER_ADDRESS", "MAX_SESSIONS_PER_SUBNET"),
        *("MAX_CONNECTS_PER_MINUTE",),
        *("REQUEST_SLEEP", "REQUEST_TIMEOUT", "SESSION_TIMEOUT"),
        # the log
        *("ANON_LOGS", "LOG_LEVEL", "LOG_SESSIONS"),
        # the node
        *("DAEMON_COOKIE_FILE", "DAEMON_PASSWORD_FILE", "DAEMON_URL"),
        # listening
        *("SERVICES", "SSL_CERTFILE", "SSL_KEYFILE", "WSS_CERTFILE", "WSS_KEYFILE"),
        *("PAD_MESSAGES", "WS_ORIGINS"),
        # proxies and trusted clients
        *("PROXY_DEPTH", "PROXY_PROTOCOL", "PROXY_TRUSTED", "TOR_GROUP_WEIGHT"),
        *("TRUSTED_CLIENTS", "TRUSTED_SERVICES"),
    }
)


class Prepared(Protocol):
    """A change that has passed its check."""

    def commit(self) -> None:
        """Make the change; this cannot fail."""

    def abandon(self) -> None:
        """Release what was prepared, instead."""


class Part(Protocol):
    """A part of the server with settings that a reload can change."""

    async def prepare(self, env: Env) -> Prepared:
        """Check new settings.  Raise OperatorError if they are unusable."""


class _Change:
    """A change that only has to be made."""

    def __init__(self, *steps: object) -> None:
        self._steps = steps

    def commit(self) -> None:
        """Make the change."""
        for step in self._steps:
            assert callable(step)
            step()

    def abandon(self) -> None:
        """Do nothing."""


class LogLevel:
    """The level of the log."""

    async def prepare(self, env: Env) -> Prepared:
        """Return the change."""
        return _Change(lambda: logging.getLogger("electrumx").setLevel(env.log_level))


class NodeList:
    """The nodes and their logins; an administrator may have replaced them in the meantime."""

    def __init__(self, daemon: Daemon, env: Env) -> None:
        self._daemon = daemon
        self._current = self._settings_of(env)

    @staticmethod
    def _settings_of(env: Env) -> tuple[str, LoginFiles]:
        return env.daemon_url, LoginFiles.of(env)

    async def prepare(self, env: Env) -> Prepared:
        """Check the URLs; their nodes undergo a check when they come into use."""
        new = self._settings_of(env)
        endpoints_of(env.coin, *new)
        return _Change(lambda: self._use(new))

    def _use(self, new: tuple[str, LoginFiles]) -> None:
        if new != self._current:
            self._current = new
            self._daemon.set_url(*new)


class Reloader:
    """Reloads the settings of a running server."""

    def __init__(
        self,
        settings: Settings,
        parts: Sequence[Part],
        reloading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Each reload, but not its wait for another, runs in the context that ``reloading()`` returns."""
        self.logger = class_logger(__name__, self.__class__.__name__)
        self._settings = settings
        #: prepared, and committed, in this order
        self.parts = parts
        # Those in effect
        self._variables: Mapping[str, str] = settings.variables
        self._reloading = reloading
        self._lock = asyncio.Lock()

    async def reload(self) -> list[str]:
        """Read the file and apply it; return lines about it.

        Raise OperatorError, with one line, if it cannot be applied; then nothing has changed.
        """
        try:
            async with self._lock:
                with self._reloading():
                    lines = await self._reload()
        except OperatorError as e:
            self.logger.error(f"reload refused, nothing was changed: {shown(str(e))}")
            raise
        return lines

    async def _reload(self) -> list[str]:
        if self._settings.path is None:
            raise OperatorError(
                "there is no settings file to read again: name one by --config or ELECTRUMX_CONFIG"
            )
        new = await asyncio.to_thread(self._settings.read_again)
        wanted = new.variables
        changed = {
            name
            for name in wanted.keys() | self._variables.keys()
            if wanted.get(name) != self._variables.get(name)
        }
        later = changed - RELOADABLE
        # All of the file has to be right, also that which the next start uses.
        await asyncio.to_thread(_read, wanted)
        effective = {name: text for name, text in wanted.items() if name not in later}
        effective |= {name: self._variables[name] for name in later if name in self._variables}
        env = await asyncio.to_thread(_read, effective)
        await self._switch(env)
        self._variables = effective
        return self._report(sorted(changed & RELOADABLE), sorted(later), new.warnings)

    async def _switch(self, env: Env) -> None:
        prepared: list[Prepared] = []
        try:
            for part in self.parts:
                prepared.append(await part.prepare(env))  # noqa: PERF401 - those before a failure count
        except BaseException:
            for change in prepared:
                change.abandon()
            raise
        for change in prepared:
            change.commit()

    def _report(
        self, applied: Sequence[str], later: Sequence[str], warnings: Sequence[str]
    ) -> list[str]:
        path = shown(self._settings.path or "")
        lines = [
            f"reloaded {path}: " + (f"changed {', '.join(applied)}" if applied else "no change")
        ]
        self.logger.info(lines[0])
        notes = list(warnings)
        if later:
            notes.append(f"changed only by a restart: {', '.join(later)}")
        for note in notes:
            self.logger.warning(note)
        return lines + notes


def _read(variables: Mapping[str, str]) -> Env:
    with reading_from(variables):
        return Env()
