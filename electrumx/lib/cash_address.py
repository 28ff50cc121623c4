"""The addresses of Bitcoin Cash (CashAddr), with and without their prefix, token-aware ones too.

Text to output script only.  Pure functions over text of at most 128 characters.
Specified in the upgrades of Bitcoin Cash ("cashaddr.md"; the types 2 and 3 in CHIP-2022-02
CashTokens, the 32-byte script hashes in CHIP-2022-05 P2SH32).
"""

from electrumx.lib.bech32 import AddressError, digits, remainder, single_case, to_bytes
from electrumx.lib.script import ScriptPubKey

MAX_LENGTH = 128
CHECKSUM_CHARS = 8
GENERATOR = (0x98F2BC8E61, 0x79B76D99E2, 0xF33E5FB3C4, 0xAE2EABE2A8, 0x1E4F43E470)

# The version byte of an address: its type in bits 3 to 6, its length in bits 0 to 2.
KEY_HASH_TYPES = (0, 2)
SCRIPT_HASH_TYPES = (1, 3)
LENGTHS = (20, 24, 28, 32, 40, 48, 56, 64)
# The first character of an address without a prefix is of the version byte: types 0, 1, 2, 3.
FIRST_CHARS = "qpzr"


def is_alike(text: str, prefix: str) -> bool:
    """Return whether a text has the form of an address, though it may have faults."""
    lower = text.lower()
    if ":" in lower:
        return lower.startswith(f"{prefix}:")
    # Base58 has letters of both cases, and begins otherwise.
    return text in (lower, text.upper()) and lower[:1] in tuple(FIRST_CHARS)


def payload(address: str, prefix: str) -> tuple[int, bytes]:
    """Return (type, hash) of an address; the prefix may be missing.  Raises AddressError."""
    if len(address) > MAX_LENGTH:
        raise AddressError(f"longer than {MAX_LENGTH} characters")
    found, colon, data = single_case(address).rpartition(":")
    if colon and found != prefix:
        raise AddressError(f"its prefix is {found!r}, not {prefix!r}")
    values = digits(data)
    if len(values) <= CHECKSUM_CHARS:
        raise AddressError("too short")
    # A right checksum leaves 1.
    if remainder([ord(char) & 31 for char in prefix] + [0] + values, GENERATOR, 35) != 1:
        raise AddressError("wrong checksum")
    raw = to_bytes(values[:-CHECKSUM_CHARS])
    if not raw or raw[0] & 0x80 or len(raw) - 1 != LENGTHS[raw[0] & 7]:
        raise AddressError("a hash of another length than the address names")
    return raw[0] >> 3, raw[1:]


def cash_script(address: str, prefix: str) -> bytes:
    """Return the output script that pays to an address; AddressError."""
    kind, digest = payload(address, prefix)
    if kind in KEY_HASH_TYPES and len(digest) == 20:
        return ScriptPubKey.P2PKH_script(digest)
    if kind in SCRIPT_HASH_TYPES and len(digest) == 20:
        return ScriptPubKey.P2SH_script(digest)
    if kind in SCRIPT_HASH_TYPES and len(digest) == 32:
        # OP_HASH256 in place of OP_HASH160
        return b"\xaa\x20" + digest + b"\x87"
    raise AddressError(f"an address of type {kind} with {len(digest)} bytes")
