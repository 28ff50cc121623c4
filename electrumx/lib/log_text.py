"""Text of others in log lines: on one line, bounded, printable, without credentials."""

from electrumx.lib.util import without_logins

# The length at which a text in a log line is cut, in characters.
MAX_LOGGED_TEXT = 300


def printable(text: object) -> str:
    """Put text on one line, cut it, and take the credentials of any URL out of it."""
    line = without_logins(" ".join(str(text).split()))
    if len(line) > MAX_LOGGED_TEXT:
        line = line[:MAX_LOGGED_TEXT] + "…"
    return "".join(c if c.isprintable() else "?" for c in line)
