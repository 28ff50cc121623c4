"""Typed readers of environment variables, or of others in their place.

The only place, with the command line, that reads the process environment.  What each variable
means is for subclasses to define.  Runs at start-up, and when the server reads settings again.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar, overload

from electrumx.lib.errors import OperatorError

T = TypeVar("T")

# In place of the process's environment, while ``reading_from`` is in effect.
_variables: ContextVar[Mapping[str, str] | None] = ContextVar("variables", default=None)


@contextmanager
def reading_from(variables: Mapping[str, str]) -> Iterator[None]:
    """Let readers take these variables in place of the process's environment."""
    token = _variables.set(variables)
    try:
        yield
    finally:
        _variables.reset(token)


def _current() -> Mapping[str, str]:
    variables = _variables.get()
    return os.environ if variables is None else variables


class EnvError(OperatorError):
    """An environment variable is missing, or its value is unusable."""


class LoopPolicy(NamedTuple):
    """A named way to make event loops, for runners that take a loop factory.

    Not one of asyncio's policies: Python deprecates those from 3.14 on.
    """

    name: str
    new_event_loop: Callable[[], asyncio.AbstractEventLoop]

    def __str__(self) -> str:
        return self.name


def shown(value: str) -> str:
    """Return a value as it may stand in a one-line message, with control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)


class EnvBase:
    """Reads the settings of every server; subclasses read others with the same class methods."""

    Error = EnvError

    def __init__(self) -> None:
        self.allow_root: bool = self.boolean("ALLOW_ROOT", False)
        self.loop_policy: LoopPolicy | None = self.event_loop_policy()

    @overload
    @classmethod
    def default(cls, envvar: str, default: str) -> str: ...
    @overload
    @classmethod
    def default(cls, envvar: str, default: T) -> str | T: ...
    @classmethod
    def default(cls, envvar: str, default: Any) -> Any:
        """Return the text of a variable as it is, or the default if unset."""
        return _current().get(envvar, default)

    @classmethod
    def variables(cls) -> Mapping[str, str]:
        """Return all variables."""
        return _current()

    @classmethod
    def boolean(cls, envvar: str, default: bool) -> bool:
        """Return whether a variable holds more than white space; the default if not set.

        So "0" and "no" are true: unset a variable, or leave it empty, to say no.
        """
        value = _current().get(envvar)
        return default if value is None else bool(value.strip())

    @classmethod
    def required(cls, envvar: str, hint: str = "") -> str:
        """Return the text of a variable; if unset raise Error, with the hint."""
        value = _current().get(envvar)
        if value is None:
            raise cls.Error(f"required envvar {envvar} not set" + (f": {hint}" if hint else ""))
        return value

    @overload
    @classmethod
    def integer(
        cls, envvar: str, default: int, *, minimum: int | None = None, maximum: int | None = None
    ) -> int: ...
    @overload
    @classmethod
    def integer(
        cls, envvar: str, default: None, *, minimum: int | None = None, maximum: int | None = None
    ) -> int | None: ...
    @classmethod
    def integer(
        cls,
        envvar: str,
        default: int | None,
        *,
        minimum: int | None = None,
        maximum: int | None = None,
    ) -> int | None:
        """Return a variable as an integer, or the default if unset.

        Raises Error if it is set but not an integer (empty is not), or is out of bounds.
        """
        text = _current().get(envvar)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            raise cls.Error(
                f"cannot convert envvar {envvar} value {shown(text)} to an integer: "
                "set a whole number, or unset it for the default"
            ) from None
        if minimum is not None and value < minimum:
            raise cls.Error(f"envvar {envvar} value {value} is too small: set {minimum} or more")
        if maximum is not None and value > maximum:
            raise cls.Error(f"envvar {envvar} value {value} is too big: set {maximum} or less")
        return value

    @classmethod
    def custom(cls, envvar: str, default: T, parse: Callable[[str], T]) -> T:
        """Return a variable's value as ``parse`` converts it, or the default if unset.

        Raises Error if parse raises.
        """
        text = _current().get(envvar)
        if text is None:
            return default
        try:
            return parse(text)
        except Exception as e:
            raise cls.Error(
                f"cannot parse envvar {envvar} value {shown(text)}: {shown(str(e))}"
            ) from e

    @classmethod
    def obsolete(cls, envvars: Iterable[str]) -> None:
        """Raise Error, naming them, if any of these variables is set and not empty."""
        found = [envvar for envvar in envvars if _current().get(envvar)]
        if found:
            raise cls.Error(
                f"remove obsolete environment variables {found}: "
                "the documentation names what replaced them"
            )

    @classmethod
    def event_loop_policy(cls) -> LoopPolicy | None:
        """Return the event loops to run on, None for asyncio's own.

        EVENT_LOOP_POLICY names them; without it they are uvloop's if that is installed, which
        take half the time of asyncio's for a small request.
        """
        name = _current().get("EVENT_LOOP_POLICY")
        if name not in (None, "uvloop", "asyncio"):
            raise cls.Error(
                f'unknown event loop policy "{shown(name)}": '
                "set EVENT_LOOP_POLICY to uvloop or asyncio, or unset it"
            )
        if name == "asyncio":
            return None
        try:
            import uvloop
        except ImportError as e:
            if name is None:
                return None
            raise cls.Error(
                "EVENT_LOOP_POLICY is uvloop, which is not installed: "
                "install the uvloop package, or unset the variable"
            ) from e
        return LoopPolicy("uvloop", uvloop.new_event_loop)
