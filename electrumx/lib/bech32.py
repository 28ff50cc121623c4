"""Bech32, Bech32m and the segregated-witness addresses in them (BIP173, BIP350).

Text to output script only: the server shows no addresses.  Pure functions over text of at most 90
characters; ``cash_address`` has the related form of Bitcoin Cash.
"""

from collections.abc import Sequence

from electrumx.lib.errors import ElectrumXError

CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
VALUE_OF = {char: value for value, char in enumerate(CHARSET)}

MAX_LENGTH = 90
CHECKSUM_CHARS = 6
# The residue of a valid checksum: the two forms differ in nothing else.
BECH32_RESIDUE = 1
BECH32M_RESIDUE = 0x2BC830A3
GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)

MAX_WITNESS_VERSION = 16
# Bytes of a witness program, and of one of version 0: a hash of a key, or of a script.
PROGRAM_BYTES = range(2, 41)
PROGRAM_BYTES_V0 = (20, 32)
OP_1 = 0x51


class AddressError(ElectrumXError):
    """A text is no valid address of the form that its prefix names."""


def single_case(text: str) -> str:
    """Return text in lower case; AddressError if it has letters of both cases."""
    lower = text.lower()
    if text not in (lower, text.upper()):
        raise AddressError("letters of both cases")
    return lower


def has_prefix(text: str, hrp: str) -> bool:
    """Return whether a text has the form of an address with a human-readable part.

    It may have faults, but no letters of both cases: Base58 may begin with the same letters.
    """
    lower = text.lower()
    return text in (lower, text.upper()) and lower.startswith(f"{hrp}1")


def digits(text: str) -> list[int]:
    """Return the values (0 to 31) of lower-case characters; AddressError if one has none."""
    values = [VALUE_OF.get(char, -1) for char in text]
    if -1 in values:
        raise AddressError(f"invalid character {text[values.index(-1)]!r}")
    return values


def to_bytes(values: Sequence[int]) -> bytes:
    """Return the bytes that 5-bit values spell, the highest bit first.

    Raises AddressError unless the bits left over are padding: fewer than 5, all of them zero.
    """
    bits = 5 * len(values)
    number = 0
    for value in values:
        number = number << 5 | value
    padding = bits % 8
    if padding >= 5 or number & ((1 << padding) - 1):
        raise AddressError("invalid padding")
    return (number >> padding).to_bytes(bits // 8, "big")


def remainder(values: Sequence[int], generator: Sequence[int] = GENERATOR, bits: int = 25) -> int:
    """Return the remainder of a checksum's polynomial over values of 5 bits.

    ``bits`` is the length of the remainder less 5: 25 for Bech32's ``generator``.
    """
    check = 1
    for value in values:
        top = check >> bits
        check = (check & ((1 << bits) - 1)) << 5 ^ value
        for bit, term in enumerate(generator):
            if top >> bit & 1:
                check ^= term
    return check


def decode(text: str) -> tuple[str, list[int], int]:
    """Return (human-readable part, values, residue) of a Bech32 or Bech32m text.

    The residue is ``BECH32_RESIDUE`` or ``BECH32M_RESIDUE``.  The values are without the checksum.
    Raises AddressError.
    """
    if len(text) > MAX_LENGTH:
        raise AddressError(f"longer than {MAX_LENGTH} characters")
    if not all("!" <= char <= "~" for char in text):
        raise AddressError("invalid character")
    text = single_case(text)
    hrp, separator, data = text.rpartition("1")
    if not separator or not hrp:
        raise AddressError("no prefix")
    if len(data) < CHECKSUM_CHARS:
        raise AddressError("too short")
    values = digits(data)
    codes = hrp.encode("ascii")
    expanded = [code >> 5 for code in codes] + [0] + [code & 31 for code in codes]
    residue = remainder(expanded + values)
    if residue not in (BECH32_RESIDUE, BECH32M_RESIDUE):
        raise AddressError("wrong checksum")
    return hrp, values[:-CHECKSUM_CHARS], residue


def witness_program(address: str, hrp: str) -> tuple[int, bytes]:
    """Return (version, program) of a segregated-witness address with a human-readable part.

    Raises AddressError.
    """
    found, values, residue = decode(address)
    if found != hrp:
        raise AddressError(f"its prefix is {found!r}, not {hrp!r}")
    if not values or values[0] > MAX_WITNESS_VERSION:
        raise AddressError("invalid witness version")
    version, program = values[0], to_bytes(values[1:])
    if len(program) not in (PROGRAM_BYTES if version else PROGRAM_BYTES_V0):
        raise AddressError(f"a witness program of {len(program)} bytes")
    # Version 0 has the older checksum, all others the newer one.
    if residue != (BECH32M_RESIDUE if version else BECH32_RESIDUE):
        raise AddressError("the checksum of another witness version")
    return version, program


def witness_script(address: str, hrp: str) -> bytes:
    """Return the output script that pays to a segregated-witness address; AddressError."""
    version, program = witness_program(address, hrp)
    return bytes([OP_1 - 1 + version if version else 0, len(program)]) + program
