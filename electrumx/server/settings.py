"""The settings of a process: variables of its environment, and below them those of a file.

``--config`` or ELECTRUMX_CONFIG names the file.  The environment wins.  Unlike in the
environment, which other programs share, a name that is not a setting is an error in the file.  Reads
the file system; runs at start-up and at a reload.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from electrumx.lib.env_base import shown
from electrumx.lib.settings_file import SettingsFileError, parse_settings
from electrumx.lib.util import open_regular
from electrumx.server.setting_hints import KNOWN, OBSOLETE

#: variables that only the environment can have: the service manager's, and the name of the file
ENVIRONMENT_ONLY = frozenset(
    {"ELECTRUMX_CONFIG", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}
)
MAX_FILE_BYTES = 1_000_000

_PASSWORD_IN_URL = re.compile(r"[^,/@]*:[^,@]*@")


@dataclass(frozen=True)
class Settings:
    """The settings from both sources."""

    #: of the process, as they were at its start
    environment: Mapping[str, str]
    #: absolute; None without a file
    path: str | None = None
    #: the settings of the file
    of_file: Mapping[str, str] = field(default_factory=dict)
    #: for the log, one line each
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | None, environ: Mapping[str, str]) -> "Settings":
        """Return the settings; ``path`` is the file, None for that of ELECTRUMX_CONFIG, if any.

        Raise SettingsFileError.
        """
        path = path or environ.get("ELECTRUMX_CONFIG") or None
        # A copy: a reload reads the file again, not the environment.
        environ = dict(environ)
        if path is None:
            return cls(environ)
        path = os.path.abspath(path)
        try:
            text, mode = _content(path)
            of_file = _checked(text)
        except SettingsFileError as e:
            raise SettingsFileError(f"settings file {shown(path)}: {e}") from None
        warnings = []
        if mode & stat.S_IROTH and _has_password(of_file):
            warnings.append(
                f"every user can read the settings file {shown(path)}, which has a password: "
                f"`chmod 640 {shown(path)}`"
            )
        return cls(environ, path, of_file, tuple(warnings))

    def read_again(self) -> "Settings":
        """Return the settings with the present content of the file.  Raise SettingsFileError."""
        return Settings.read(self.path, self.environment)

    @property
    def variables(self) -> dict[str, str]:
        """All settings, and the other variables of the environment."""
        return {**self.of_file, **self.environment}


def _content(path: str) -> tuple[str, int]:
    """Return the text of the file, and its mode."""
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            content = file.read(MAX_FILE_BYTES + 1)
    except PermissionError as e:
        raise SettingsFileError(
            f"{e.strerror}; let the server's user read it: as root, `chown root:electrumx FILE` "
            "and `chmod 640 FILE`, if that is the name of its group"
        ) from None
    except OSError as e:
        raise SettingsFileError(e.strerror or str(e)) from None
    if len(content) > MAX_FILE_BYTES:
        raise SettingsFileError(f"it has more than {MAX_FILE_BYTES:,d} bytes")
    try:
        return content.decode(), status.st_mode
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise SettingsFileError(f"line {line:,d}: this is no valid UTF-8") from None


def _checked(text: str) -> dict[str, str]:
    found = {}
    for name, value, line in parse_settings(text):
        if name in ENVIRONMENT_ONLY:
            raise SettingsFileError(f"line {line:,d}: {name} can only be set in the environment")
        if name not in KNOWN and name not in OBSOLETE:
            # Only for mistakes
            import difflib

            close = difflib.get_close_matches(name.upper(), KNOWN, n=1, cutoff=0.0)
            raise SettingsFileError(
                f"line {line:,d}: there is no setting {name}; the nearest one is {close[0]}"
            )
        found[name] = value
    return found


def _has_password(settings: Mapping[str, str]) -> bool:
    return bool(_PASSWORD_IN_URL.search(settings.get("DAEMON_URL", "").replace("://", "//")))
