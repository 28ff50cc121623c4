"""Digests, hash display order, and Base58.

Pure functions that any thread may call.  A hash is 32 bytes in natural order, as it stands on
the wire; its display form is the hex text of the reversed bytes.
"""

import hashlib
import struct
from collections.abc import Callable
from typing import ClassVar, Final

from electrumx.lib.compat import hmac_sha512  # noqa: F401 - a name of 1.15
from electrumx.lib.errors import ElectrumXError

_sha256 = hashlib.sha256

# Bytes of a script's SHA-256 that make its index key.
HASHX_LEN: Final = 11


def sha256(x: bytes) -> bytes:
    """Return the 32-byte SHA-256 digest of x."""
    return _sha256(x).digest()


def double_sha256(x: bytes) -> bytes:
    """Return SHA-256 applied twice to x, 32 bytes: Bitcoin's hash of blocks and transactions."""
    return _sha256(_sha256(x).digest()).digest()


# RIPEMD-160 runs two lines of 80 steps over each 64-byte block.  For each line, one hex digit a
# step: which of the 16 message words it adds, and by how many bits it rotates the sum left.
_RMD_LEFT_WORDS = "0123456789abcdef74d1a6f3c0952eb83ae49f812706db5c19ba08c4d37fe56240597c2ae138b6fd"
_RMD_LEFT_SHIFTS = (
    "befc5879bdef6798768db97f7cf9b7dcbd67e9dfe8d65c75bcefef989e56865c9f5b68dc5cdeb856"
)
_RMD_RIGHT_WORDS = (
    "5e7092b4d6f81a3c6b370d5aef8c4912f5137e69b8c2a04d86413bf05c2d97aecfa4158762de039b"
)
_RMD_RIGHT_SHIFTS = (
    "899bdff5778beec69df7c89b77c76fdb97fb866ecd5edd75f58bee6e69c9c5f885c9c5e68d65fdbb"
)
_RMD_LEFT_CONSTANTS = (0x00000000, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E)
_RMD_RIGHT_CONSTANTS = (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0x00000000)
_RMD_FUNCTIONS: tuple[Callable[[int, int, int], int], ...] = (
    lambda x, y, z: x ^ y ^ z,
    lambda x, y, z: (x & y) | (~x & z),
    lambda x, y, z: (x | ~y) ^ z,
    lambda x, y, z: (x & z) | (y & ~z),
    lambda x, y, z: x ^ (y | ~z),
)
_RMD_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)


def _rotate_left(value: int, bits: int) -> int:
    value &= 0xFFFFFFFF
    return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF


def _ripemd160_line(
    state: tuple[int, ...],
    block: tuple[int, ...],
    schedule: tuple[str, str],
    functions: tuple[Callable[[int, int, int], int], ...],
    constants: tuple[int, ...],
) -> tuple[int, ...]:
    a, b, c, d, e = state
    for step, (word, shift) in enumerate(zip(*schedule, strict=True)):
        turn = step // 16
        mixed = a + functions[turn](b, c, d) + block[int(word, 16)] + constants[turn]
        a, b, c, d, e = e, _rotate_left(mixed, int(shift, 16)) + e, b, _rotate_left(c, 10), d
        b &= 0xFFFFFFFF
    return a, b, c, d, e


def ripemd160_python(x: bytes) -> bytes:
    """Return the 20-byte RIPEMD-160 digest of x, slowly and with no library.

    Distributions that build OpenSSL 3 without its legacy provider take RIPEMD-160 out of
    hashlib; without it this program cannot compute addresses.
    """
    padded = x + b"\x80" + bytes(-(len(x) + 9) % 64) + struct.pack("<Q", 8 * len(x))
    state: tuple[int, ...] = _RMD_START
    for offset in range(0, len(padded), 64):
        block = struct.unpack_from("<16I", padded, offset)
        left = _ripemd160_line(
            state, block, (_RMD_LEFT_WORDS, _RMD_LEFT_SHIFTS), _RMD_FUNCTIONS, _RMD_LEFT_CONSTANTS
        )
        right = _ripemd160_line(
            state,
            block,
            (_RMD_RIGHT_WORDS, _RMD_RIGHT_SHIFTS),
            _RMD_FUNCTIONS[::-1],
            _RMD_RIGHT_CONSTANTS,
        )
        state = tuple(
            (state[(n + 1) % 5] + left[(n + 2) % 5] + right[(n + 3) % 5]) & 0xFFFFFFFF
            for n in range(5)
        )
    return struct.pack("<5I", *state)


def _ripemd160_hashlib(x: bytes) -> bytes:
    """Return the 20-byte RIPEMD-160 digest of x by OpenSSL."""
    return hashlib.new("ripemd160", x, usedforsecurity=False).digest()


def choose_ripemd160() -> Callable[[bytes], bytes]:
    """Return OpenSSL's implementation, or the pure-Python one where OpenSSL refuses."""
    # hashlib.algorithms_available may list it though OpenSSL refuses it: only a trial shows it.
    try:
        _ripemd160_hashlib(b"")
    except ValueError:
        return ripemd160_python
    return _ripemd160_hashlib


_ripemd160 = choose_ripemd160()


def ripemd160(x: bytes) -> bytes:
    """Return the 20-byte RIPEMD-160 digest of x."""
    return _ripemd160(x)


def hash160(x: bytes) -> bytes:
    """Return RIPEMD-160 of SHA-256 of x: 20 bytes, the hash in addresses."""
    return ripemd160(sha256(x))


def hash_to_hex_str(x: bytes) -> str:
    """Return the display form of a hash: hex of the reversed bytes."""
    return x[::-1].hex()


def hex_str_to_hash(x: str) -> bytes:
    """Return the natural-order bytes of a displayed hash; ValueError if it is not hex."""
    return bytes.fromhex(x)[::-1]


class Base58Error(ElectrumXError):
    """A text is not Base58, or its checksum is wrong."""


class Base58:
    """Base58 and Base58Check: the text form of addresses and private keys."""

    chars: ClassVar[str] = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    cmap: ClassVar[dict[str, int]] = {char: value for value, char in enumerate(chars)}

    @staticmethod
    def char_value(c: str) -> int:
        """Return the value, 0 to 57, of one character; Base58Error if it has none."""
        value = Base58.cmap.get(c)
        if value is None:
            raise Base58Error(f"invalid base 58 character {c!r}")
        return value

    @staticmethod
    def decode(txt: str) -> bytes:
        """Return the bytes that txt spells, a zero byte for each leading '1'.

        Raises TypeError if txt is not a str, Base58Error if it is empty or not Base58.
        """
        if not isinstance(txt, str):
            raise TypeError("a str is required")
        if not txt:
            raise Base58Error("a base 58 text cannot be empty")
        value = 0
        for char in txt:
            value = value * 58 + Base58.char_value(char)
        zeros = len(txt) - len(txt.lstrip("1"))
        return bytes(zeros) + value.to_bytes((value.bit_length() + 7) // 8, "big")

    @staticmethod
    def encode(be_bytes: bytes) -> str:
        """Return the Base58 text of a big-endian byte string."""
        value = int.from_bytes(be_bytes, "big")
        digits = []
        while value:
            value, digit = divmod(value, 58)
            digits.append(Base58.chars[digit])
        zeros = len(be_bytes) - len(be_bytes.lstrip(b"\0"))
        return "1" * zeros + "".join(reversed(digits))

    @staticmethod
    def decode_check(txt: str, *, hash_fn: Callable[[bytes], bytes] = double_sha256) -> bytes:
        """Return the payload of a Base58Check text, its version bytes included.

        Raises as decode does, and Base58Error if the 4-byte checksum is wrong or missing.
        """
        raw = Base58.decode(txt)
        payload, checksum = raw[:-4], raw[-4:]
        if len(raw) < 4 or checksum != hash_fn(payload)[:4]:
            raise Base58Error(f"invalid base 58 checksum for {txt!r}")
        return payload

    @staticmethod
    def encode_check(payload: bytes, *, hash_fn: Callable[[bytes], bytes] = double_sha256) -> str:
        """Return the Base58Check text of a payload that begins with its version bytes."""
        return Base58.encode(payload + hash_fn(payload)[:4])
