"""The token prefix of Bitcoin Cash's outputs (CashTokens, CHIP-2022-02, since May 2023).

An output that holds tokens has them in front of its locking script, in the same field: ``ef``, a
category of 32 bytes, a bit field, a commitment if its bit is set (a compact size and as many bytes,
at least one), and an amount if its bit is set (a compact size, 1 to 2^63 - 1).  Wallets know only
the locking script, so the hash covers that alone.  A field with a malformed prefix is a locking
script as a whole, which no transaction can spend.

The node decides on the longest commitment: the limit was 40 bytes in 2023, and has grown since.

Pure; runs in whatever thread parses.
"""

from struct import error as struct_error
from typing import Final

from electrumx.lib.tx.reader import read_varint

TOKEN_PREFIX: Final = 0xEF
# Bits of the bit field; its lower half is the capability of a non-fungible token.
RESERVED: Final = 0x80
HAS_COMMITMENT: Final = 0x40
HAS_NFT: Final = 0x20
HAS_AMOUNT: Final = 0x10
CAPABILITIES: Final = 0x0F
# none, mutable, minting
MAX_CAPABILITY: Final = 2
MAX_AMOUNT: Final = 2**63 - 1

_BIT_FIELD_AT: Final = 1 + 32
# The smallest number that a compact size of so many bytes may hold.
_LEAST: Final = {1: 0, 3: 253, 5: 0x1_0000, 9: 0x1_0000_0000}


def token_prefix_len(field: bytes) -> int:
    """Return the bytes of an output's field that are a token prefix; 0 if it begins with none."""
    if len(field) <= _BIT_FIELD_AT or field[0] != TOKEN_PREFIX:
        return 0
    bits = field[_BIT_FIELD_AT]
    if not _is_valid(bits):
        return 0
    at = _BIT_FIELD_AT + 1
    try:
        if bits & HAS_COMMITMENT:
            length, at = _read_minimal(field, at)
            at += length
            if not length or at > len(field):
                return 0
        if bits & HAS_AMOUNT:
            amount, at = _read_minimal(field, at)
            if not amount or amount > MAX_AMOUNT:
                return 0
    except (IndexError, struct_error, ValueError):
        return 0
    return at


def locking_script(field: bytes) -> bytes:
    """Return an output's field without its token prefix."""
    # Nearly all fields have none.
    if field[:1] != b"\xef":
        return field
    return field[token_prefix_len(field) :]


def _is_valid(bits: int) -> bool:
    if bits & RESERVED or bits & CAPABILITIES > MAX_CAPABILITY:
        return False
    if bits & HAS_NFT:
        return True
    return bits == HAS_AMOUNT


def _read_minimal(field: bytes, at: int) -> tuple[int, int]:
    """Return a compact size and the offset behind it.  Raise ValueError if it is not minimal."""
    value, end = read_varint(field, at)
    if value < _LEAST[end - at]:
        raise ValueError("a compact size is longer than it need be")
    return value, end
