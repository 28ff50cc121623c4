"""URLs of nodes: their logins, and the address that requests go to.

A URL in its normal form has an ``@``: before it are the user and password, the user of a password
file, or nothing if there is a cookie file.  Pure.  No error raised here shows a login.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import yarl

from electrumx.lib.coins import Coin
from electrumx.lib.errors import OperatorError
from electrumx.server.daemon.logins import FileLogin, FixedLogin, Login, LoginFiles


class Endpoint(NamedTuple):
    """Where requests for a URL of the list go, and their login."""

    url: str
    login: Login


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


def endpoint_of(url: str, cookie_file: str = "", password_file: str = "") -> Endpoint:
    """Separate a URL from its login.  Raises ValueError, which does not show the login.

    At most one of the two files is given.
    """
    scheme, _, rest = url.partition("://")
    login_text, _, host = rest.rpartition("@")
    bare = f"{scheme}://{host}"
    try:
        good = bool(yarl.URL(bare).host)
    except ValueError:
        good = False
    if not good:
        raise ValueError("that is no valid host")
    if cookie_file:
        return Endpoint(bare, FileLogin(cookie_file, "cookie file"))
    user_text, _, password = login_text.partition(":")
    user = _login_bytes(user_text, "user name")
    if b":" in user:
        raise ValueError("the user name has a colon")
    if password_file:
        return Endpoint(bare, FileLogin(password_file, "password file", user))
    # Nodes expect the bytes of their configuration file, which is UTF-8 by custom.
    return Endpoint(bare, FixedLogin(user, _login_bytes(password, "password")))


def with_encoded_login(url: str) -> str:
    """Encode characters that would end the user's name or password before the last @ of a URL."""
    scheme, _, rest = url.partition("://")
    login, _, host = rest.rpartition("@")
    login = re.sub(r"[/?#\[\]\\ \t]", lambda match: f"%{ord(match[0]):02X}", login)
    return f"{scheme}://{login}@{host}"


def endpoints_of(coin: type[Coin], urls: str, files: LoginFiles) -> dict[str, Endpoint]:
    """Return {normal form: endpoint} of a list of URLs with commas, and of the files' logins.

    Raises OperatorError (CoinError) if a URL is unusable, or has two logins.
    """
    texts = urls.split(",")
    files.check_count(len(texts))
    found: dict[str, Endpoint] = {}
    files_of: dict[str, tuple[str, str]] = {}
    for position, text in enumerate(texts):
        cookie_file, password_file = files.at(position)
        url = _normal_form(coin, text, position + 1, cookie_file, password_file)
        # The second login would replace the first.
        if files_of.setdefault(url, files.at(position)) != files.at(position):
            raise OperatorError(
                f"DAEMON_URL {position + 1} is a node that is named before, with another login "
                "file: name it once"
            )
        try:
            found[url] = endpoint_of(url, cookie_file, password_file)
        except ValueError as e:
            raise OperatorError(
                f"DAEMON_URL: cannot use daemon URL with host {url[url.rindex('@') + 1 :]}: {e}"
            ) from None
    return found


def _normal_form(
    coin: type[Coin], text: str, number: int, cookie_file: str, password_file: str
) -> str:
    if not cookie_file and not password_file:
        return with_encoded_login(coin.sanitize_url(text))
    scheme, separator, rest = text.strip().rpartition("://")
    login, at, host = rest.rpartition("@")
    user, colon, _password = login.partition(":")
    if cookie_file and password_file:
        raise OperatorError(f"DAEMON_URL {number} has a cookie file and a password file: name one")
    kind = "cookie" if cookie_file else "password"
    if colon:
        raise OperatorError(f"DAEMON_URL {number} has a password and a {kind} file: remove one")
    if cookie_file and at:
        raise OperatorError(f"DAEMON_URL {number} has a user name and a cookie file: remove one")
    if password_file and not user:
        raise OperatorError(
            f"DAEMON_URL {number} has a password file and no user name: write user@ before the host"
        )
    # The coin's rules are for a URL with a login.
    url = coin.sanitize_url(f"{scheme}{separator}user:password@{host}")
    return with_encoded_login(url.replace("user:password@", f"{user}@", 1))
