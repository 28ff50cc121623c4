"""Origins of web pages: scheme, host and port, as browsers send them.  Pure; runs at start-up.

Source: RFC 6454 and the HTML standard; an origin is compared as text.
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
