"""URLs of nodes: the login in them, and the address that requests are sent to.

Pure.  No error that is raised here shows a login.
"""

import base64
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import yarl


class Endpoint(NamedTuple):
    """Where requests for a URL of the list go, and the header that has the login."""

    url: str
    authorization: str


def _login_bytes(text: str, what: str) -> bytes:
    """Return a part of a login, decoded.  Raises ValueError, which does not show it."""
    try:
        decoded = unquote_to_bytes(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the {what} is no valid UTF-8") from None
    try:
        decoded.decode()
    except UnicodeDecodeError:
        raise ValueError(
            f"the {what} has percent escapes that are no UTF-8 (% itself is written %25)"
        ) from None
    if any(byte < 32 or byte == 127 for byte in decoded):
        raise ValueError(f"the {what} has a control character")
    return decoded


def endpoint_of(url: str) -> Endpoint:
    """Separate a URL from its login.  Raises ValueError, which does not show the login."""
    scheme, _, rest = url.partition("://")
    login, _, host = rest.rpartition("@")
    user, _, password = login.partition(":")
    user_bytes = _login_bytes(user, "user name")
    if b":" in user_bytes:
        raise ValueError("the user name has a colon")
    # Nodes expect the bytes of their configuration file, which is UTF-8 by custom.
    credentials = user_bytes + b":" + _login_bytes(password, "password")
    bare = f"{scheme}://{host}"
    try:
        good = bool(yarl.URL(bare).host)
    except ValueError:
        good = False
    if not good:
        raise ValueError("that is no valid host")
    return Endpoint(bare, f"Basic {base64.b64encode(credentials).decode()}")


def with_encoded_login(url: str) -> str:
    """Encode characters that would end the user's name or password before the last @ of a URL."""
    scheme, _, rest = url.partition("://")
    login, _, host = rest.rpartition("@")
    login = re.sub(r"[/?#\[\]\\ \t]", lambda match: f"%{ord(match[0]):02X}", login)
    return f"{scheme}://{login}@{host}"
