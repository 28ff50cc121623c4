"""The versions of the Electrum protocol: the defined ones, and a setting that names one.

Versions compare number by number, and a longer one with an equal beginning is greater: (1, 6)
< (1, 6, 0) < (1, 7).  From 1.6 on a server's maximum has three numbers, so that it serves clients
which only speak "1.6.0" as well as those which speak "1.6".  Pure.
"""

from electrumx.lib.util import protocol_tuple

ProtocolVersion = tuple[int, ...]

PLAIN: ProtocolVersion = (1, 4, 2)
NAMES: ProtocolVersion = (1, 4, 3)
PACKAGES: ProtocolVersion = (1, 6, 0)
OUTPOINTS: ProtocolVersion = (1, 7, 0)

# The maxima that a server may announce, ascending
MAXIMA: tuple[ProtocolVersion, ...] = ((1, 4), (1, 4, 1), PLAIN, NAMES, PACKAGES, OUTPOINTS)
# Those whose methods differ, ascending: there is no 1.5
DEFINED: tuple[ProtocolVersion, ...] = ((1, 4), (1, 4, 1), PLAIN, NAMES, (1, 6), (1, 7))


def defined_version(version: ProtocolVersion) -> ProtocolVersion:
    """Return the highest defined version that is not above one; the version itself below all."""
    return max((known for known in DEFINED if known <= version), default=version)


def maximum_of(text: str) -> ProtocolVersion | None:
    """Return the maximum that a setting means: "1.6" is (1, 6, 0); None of empty text.

    An undefined version means the highest one below it.  Raises ValueError for other
    texts, and versions below 1.4.
    """
    if not text.strip():
        return None
    version = protocol_tuple(text)
    if version < MAXIMA[0] or min(version) < 0:
        raise ValueError("it is no version of the protocol, or below 1.4")
    padded = (*version, 0, 0)[: max(3, len(version))]
    return max(known for known in MAXIMA if known <= padded)
