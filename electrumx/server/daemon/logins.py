"""Logins of nodes: in the URL, or in a file that the node, or the operator, may write again.

A node with cookie authentication writes a new ``user:password`` to its cookie file at each start.
``FileLogin`` reads such a file at first use, when its modification time, size or inode has changed,
and after the node has refused the login.  A password file holds only the password.

The file may be on a network, which can hang: a thread of its own does each look, one at a time,
``LOOK_EVERY_SECS`` after the last look at the earliest.  After ``PATIENCE_SECS`` requests go on with
the known login.  The end of the server does not wait for that thread.

No error, representation or log line shows a login.  Runs in: the event loop, but for ``_load``.
"""

import asyncio
import base64
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from electrumx.lib.env_base import shown
from electrumx.lib.errors import OperatorError
from electrumx.lib.tasks import run_in_own_thread
from electrumx.lib.util import open_regular
from electrumx.server.daemon.retry import LoginFileError
from electrumx.server.env import Env

# A cookie has some 75 bytes.
MAX_FILE_BYTES = 4096
LOOK_EVERY_SECS = 0.5
PATIENCE_SECS = 2.0

_Signature = tuple[int, int, int]


class Login(Protocol):
    """Authorizes requests to a node."""

    async def authorization(self) -> str:
        """Return the value of the Authorization header.  Raise LoginFileError without a login."""

    async def renewed(self, refused: str) -> str | None:
        """Return a header that differs from one that the node refused; None without a new one."""

    def refusal(self) -> str | None:
        """Return the reason to log when the node refuses the login; None for the node's own."""


def basic_authorization(user: bytes, password: bytes) -> str:
    """Return the header's value for HTTP basic authentication."""
    return f"Basic {base64.b64encode(user + b':' + password).decode()}"


class FixedLogin:
    """A login that does not change."""

    def __init__(self, user: bytes, password: bytes) -> None:
        self._header = basic_authorization(user, password)

    async def authorization(self) -> str:
        """Return the value of the Authorization header."""
        return self._header

    async def renewed(self, refused: str) -> str | None:
        """Return None: there is no other."""
        return None

    def refusal(self) -> str | None:
        """Return None."""
        return None


class FileLogin:
    """A login in a file: ``user:password`` in one line, or the password of a given user.

    ``kind`` names the file in messages: ``cookie file`` or ``password file``.
    """

    def __init__(self, path: str, kind: str, user: bytes | None = None) -> None:
        self._path = path
        self._kind = kind
        self._user = user
        self._header: str | None = None
        self._seen: _Signature | None = None
        #: the last look at the file: its signature and the header if it was read
        self._look: asyncio.Future[tuple[_Signature, str] | None] | None = None
        self._patient_until = self._look_due_at = float("-inf")

    async def authorization(self) -> str:
        """Return the header for the file's current login.  Raise LoginFileError if it has none."""
        if self._header is None or asyncio.get_running_loop().time() >= self._look_due_at:
            await self._look_at(self._seen)
        if self._header is None:
            raise LoginFileError(
                f"the {self._kind} {shown(self._path)} cannot be read: "
                "its file system does not answer"
            )
        return self._header

    async def renewed(self, refused: str) -> str | None:
        """Read the file again; return its login if it is another one."""
        if self._look is not None and not self._look.done():
            # It may have begun before the file was written.
            await self._look_at(None)
        if self._header == refused:
            await self._look_at(None)
        return self._header if self._header != refused else None

    async def _look_at(self, seen: _Signature | None) -> None:
        """Read the file if its signature is not ``seen``, or wait for the look that goes on.

        Gives up, and changes nothing, if that takes too long.
        """
        look, now = self._look, asyncio.get_running_loop().time()
        if look is None or look.done():
            look = self._look = run_in_own_thread(lambda: self._load(seen), "login file")
            self._patient_until = now + PATIENCE_SECS
        await asyncio.wait([look], timeout=max(0.0, self._patient_until - now))
        if look.done():
            found = look.result()
            if found is not None:
                self._seen, self._header = found
            self._look_due_at = asyncio.get_running_loop().time() + LOOK_EVERY_SECS

    def refusal(self) -> str | None:
        """Return the reason to log when the node refuses the login."""
        return (
            f"the daemon refuses the login in the {self._kind} {shown(self._path)}: "
            "does the file belong to this node?"
        )

    def _signature(self) -> _Signature:
        """Return values that differ after another write of the file, or its replacement."""
        try:
            status = os.stat(self._path)
        except OSError as e:
            raise self._error(e) from None
        if not stat.S_ISREG(status.st_mode):
            raise LoginFileError(f"the {self._kind} {shown(self._path)} is no regular file")
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _load(self, seen: _Signature | None) -> tuple[_Signature, str] | None:
        """Return the signature and the header of a file written again, else None."""
        # Before reading, to notice a change in between.
        signature = self._signature()
        return None if signature == seen else (signature, self._parsed(self._content()))

    def _content(self) -> bytes:
        try:
            # Another file may have replaced it since the look at it.
            with open_regular(self._path) as file:
                return file.read(MAX_FILE_BYTES + 1)
        except OSError as e:
            raise self._error(e) from None

    def _parsed(self, content: bytes) -> str:
        line = content.removesuffix(b"\n").removesuffix(b"\r")
        has_control = any(byte < 32 or byte == 127 for byte in line)
        user, colon, password = line.partition(b":")
        if self._user is not None:
            user, password = self._user, line
        elif not colon:
            password = b""
        if has_control or not password or len(content) > MAX_FILE_BYTES:
            form = "user:password" if self._user is None else "a password"
            raise LoginFileError(
                f"the {self._kind} {shown(self._path)} does not hold {form} in one line"
            )
        return basic_authorization(user, password)

    def _error(self, error: OSError) -> LoginFileError:
        name = f"the {self._kind} {shown(self._path)}"
        if isinstance(error, FileNotFoundError):
            return LoginFileError(f"{name} is missing - check your daemon is running")
        if not isinstance(error, PermissionError):
            return LoginFileError(f"{name} cannot be read: {error.strerror}")
        group = _group_of(self._path)
        if self._user is not None:
            remedy = "let the server's user read it"
        else:
            remedy = (
                "let the node share it with its group (-rpccookieperms=group, and a data directory "
                f"that the group may enter), and put the server's user into the group {group}"
            )
        return LoginFileError(f"{name} cannot be read: {error.strerror}; {remedy}")


def _group_of(path: str) -> str:
    """Return the group of a file, or of the closest directory above it that can be looked at."""
    parents = Path(path).absolute().parents
    for candidate in (Path(path), *parents):
        try:
            return candidate.group()
        except (OSError, KeyError, NotImplementedError):
            continue
    return "of the node"


class LoginFiles(NamedTuple):
    """The files of DAEMON_COOKIE_FILE and DAEMON_PASSWORD_FILE, by position; empty: none."""

    cookies: Sequence[str] = ()
    passwords: Sequence[str] = ()

    @classmethod
    def parse(cls, cookies: str = "", passwords: str = "") -> "LoginFiles":
        """Return the files of two lists with commas."""
        return cls(_items(cookies), _items(passwords))

    @classmethod
    def of(cls, env: Env) -> "LoginFiles":
        """Return the files that the settings name."""
        return cls.parse(env.daemon_cookie_file, env.daemon_password_file)

    def at(self, position: int) -> tuple[str, str]:
        """Return the cookie file and the password file of a URL; empty: none."""
        cookies, passwords = self.cookies[position:], self.passwords[position:]
        return cookies[0] if cookies else "", passwords[0] if passwords else ""

    def check_count(self, urls: int) -> None:
        """Raise OperatorError if there are more files than URLs."""
        named = (("COOKIE", self.cookies), ("PASSWORD", self.passwords))
        for name, files in named:
            if len(files) > urls:
                raise OperatorError(
                    f"DAEMON_{name}_FILE has {len(files):,d} entries and DAEMON_URL {urls:,d}: "
                    "name one file for each URL, and nothing between the commas for none"
                )


def _items(text: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    return items if any(items) else []
