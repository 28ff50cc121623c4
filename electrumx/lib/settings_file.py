r"""The syntax of a settings file: that of systemd's EnvironmentFile (systemd.exec(5)).

Lines are ``NAME=value``; the parser skips empty ones, and comments that begin with ``#`` or ``;``.
A value may have parts in single quotes, where nothing is special, or in double quotes, where a
backslash escapes ``"``, ``\``, ``$`` and a back-tick.  Outside of quotes a backslash escapes any
character, and at the end of a line continues it.  There is no expansion.

Where systemd accepts a text, the result here is the same, or an error: systemd ignores lines that
are no assignment, invalid names and an open quote at the end, which are hardly meant so.  Pure.
"""

import re
from typing import NamedTuple

from electrumx.lib.errors import OperatorError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPACE = " \t"
_LINE_ENDS = "\n\r"
# In double quotes a backslash before one of these disappears, before another one it stays.
_ESCAPED_IN_QUOTES = '"\\`$'


class SettingsFileError(OperatorError):
    """A settings file cannot be read."""


class Assignment(NamedTuple):
    """A setting of a file, and the line that it begins in, from 1 on."""

    name: str
    value: str
    line: int


class _Reader:
    """Reads a text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line = 1

    def assignments(self) -> list[Assignment]:
        """Return all assignments, in order.  Raise SettingsFileError."""
        found = []
        while self._skip_to_item():
            if self._text[self._position] in "#;":
                self._skip_comment()
            else:
                found.append(self._assignment())
        return found

    def _error(self, line: int, reason: str) -> SettingsFileError:
        # No text of the file: it may be a password.
        return SettingsFileError(f"line {line:,d}: {reason}")

    def _next(self) -> str:
        """Return the next character and go past it; empty at the end."""
        char = self._text[self._position : self._position + 1]
        self._position += 1
        self._line += char == "\n"
        return char

    def _skip_to_item(self) -> bool:
        while self._position < len(self._text):
            if self._text[self._position] not in _SPACE + _LINE_ENDS:
                return True
            self._next()
        return False

    def _skip_comment(self) -> None:
        line, before = self._line, ""
        while (char := self._next()) and char not in _LINE_ENDS:
            before = char
        if before == "\\" and char:
            raise self._error(
                line,
                "a comment ends in a backslash, with which systemd before version 254 takes the "
                "next line for a part of it: remove the backslash",
            )

    def _assignment(self) -> Assignment:
        line, chars = self._line, []
        while (char := self._next()) != "=":
            if not char or char in _LINE_ENDS:
                raise self._error(line, "this is no NAME=value")
            chars.append(char)
        name = "".join(chars).rstrip(_SPACE)
        if not _NAME.fullmatch(name):
            raise self._error(line, "the text before = is no name of a setting")
        return Assignment(name, self._value(line), line)

    def _value(self, line: int) -> str:
        chars: list[str] = []
        # So many characters stay after the removal of white space at the end.
        kept = 0
        is_started = False
        while (char := self._next()) and char not in _LINE_ENDS:
            if not is_started and char == "'":
                self._single_quoted(chars, line)
            elif not is_started and char == '"':
                self._double_quoted(chars, line)
            elif char == "\\":
                # At the end of a line it continues the value.
                escaped = self._next()
                if escaped not in _LINE_ENDS:
                    chars.append(escaped)
                is_started = True
            elif is_started or char not in _SPACE:
                is_started = True
                chars.append(char)
                if char in _SPACE:
                    continue
            kept = len(chars)
        return "".join(chars[:kept])

    def _single_quoted(self, chars: list[str], line: int) -> None:
        while (char := self._next()) != "'":
            if not char:
                raise self._error(line, "the quotation mark ' is never closed")
            chars.append(char)

    def _double_quoted(self, chars: list[str], line: int) -> None:
        while (char := self._next()) != '"':
            if not char:
                raise self._error(line, 'the quotation mark " is never closed')
            if char == "\\":
                escaped = self._next()
                if escaped in _ESCAPED_IN_QUOTES:
                    char = escaped
                elif escaped == "\n":
                    continue
                else:
                    char += escaped
            chars.append(char)


def parse_settings(text: str) -> list[Assignment]:
    """Return the assignments of a text, in order; of two for one name systemd takes the last.

    Raise SettingsFileError, with the line, if the text cannot be read.  The error shows no value.
    """
    if "\0" in text:
        raise SettingsFileError(
            f"line {text[: text.index(chr(0))].count(chr(10)) + 1:,d}: a NUL byte"
        )
    return _Reader(text).assignments()
