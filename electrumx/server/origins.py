"""Origins of web pages: scheme, host and port, as browsers send them; names of hosts.  Pure.

Source: RFC 6454 and the HTML standard; origins compare as text.
"""

import re

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")
# Browsers leave out the default port.
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def parse_origins(text: str) -> list[str] | None:
    """Return the origins of a list with commas, as browsers write them; None of an empty text.

    Raise ValueError if one is no origin.
    """
    origins = [_parse_origin(item.strip().lower()) for item in text.split(",") if item.strip()]
    return origins or None


def _parse_origin(text: str) -> str:
    if text == "null":
        # Of pages without an origin, such as files
        return text
    origin = text.removesuffix("/")
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(f"{text} is no origin: write https://HOST or https://HOST:PORT")
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], "none"))


def host_name(host: str) -> str:
    """Return the name or address of a Host header or of a setting, without port, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def parse_hosts(text: str) -> list[str]:
    """Return the host names of a list with commas.  Raise ValueError if one has a port or a path."""
    names = [item.strip() for item in text.split(",") if item.strip()]
    for name in names:
        if not name.isprintable() or any(c in name for c in ":/[]*@ "):
            raise ValueError(f"{name} is no host name: write it without port and path")
    return [host_name(name) for name in names]
