"""Groestl-512, a finalist of the SHA-3 competition.

Pure; any thread may run it.  A block of the message takes about two milliseconds.
"""

from functools import lru_cache
from typing import Final

_ROUNDS: Final = 14
_COLUMNS: Final = 16
# How far each of the eight rows shifts to the left, in the two permutations.
_SHIFTS_P: Final = (0, 1, 2, 3, 4, 5, 6, 11)
_SHIFTS_Q: Final = (1, 3, 5, 11, 0, 2, 4, 6)
# First row of the circulant matrix that mixes a column.
_MIX: Final = (2, 2, 3, 4, 5, 3, 5, 7)
_BLOCK: Final = 128


def _times(a: int, b: int) -> int:
    """Multiply in the field of AES."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= 0x11B
        b >>= 1
    return product


def _substitution() -> list[int]:
    """Return the S-box of AES."""
    exponents, value = [], 1
    for _ in range(255):
        exponents.append(value)
        value = _times(value, 3)
    box = [0x63]
    logs = {value: n for n, value in enumerate(exponents)}
    for value in range(1, 256):
        inverse = exponents[-logs[value] % 255]
        spread = 0
        for n in range(5):
            spread ^= (inverse << n | inverse >> (8 - n)) & 0xFF
        box.append(spread ^ 0x63)
    return box


@lru_cache(maxsize=1)
def _tables() -> list[list[int]]:
    """Return for each row the result of a byte there: the mixed column, first row on top."""
    box = _substitution()
    return [
        [
            int.from_bytes([_times(box[byte], _MIX[(row - n) % 8]) for n in range(8)], "big")
            for byte in range(256)
        ]
        for row in range(8)
    ]


def _permute(columns: list[int], q: bool) -> list[int]:
    """Apply P, or Q, to 16 columns of 64 bits, the first row in the highest byte."""
    t0, t1, t2, t3, t4, t5, t6, t7 = _tables()
    s0, s1, s2, s3, s4, s5, s6, s7 = _SHIFTS_Q if q else _SHIFTS_P
    for n in range(_ROUNDS):
        if q:
            c = [column ^ 0xFFFFFFFFFFFFFFFF ^ (j << 4 ^ n) for j, column in enumerate(columns)]
        else:
            c = [column ^ (j << 4 ^ n) << 56 for j, column in enumerate(columns)]
        columns = [
            t0[c[(j + s0) & 15] >> 56]
            ^ t1[c[(j + s1) & 15] >> 48 & 0xFF]
            ^ t2[c[(j + s2) & 15] >> 40 & 0xFF]
            ^ t3[c[(j + s3) & 15] >> 32 & 0xFF]
            ^ t4[c[(j + s4) & 15] >> 24 & 0xFF]
            ^ t5[c[(j + s5) & 15] >> 16 & 0xFF]
            ^ t6[c[(j + s6) & 15] >> 8 & 0xFF]
            ^ t7[c[(j + s7) & 15] & 0xFF]
            for j in range(_COLUMNS)
        ]
    return columns


def groestl512(data: bytes) -> bytes:
    """Return the 64-byte Groestl hash of data."""
    padded = bytes(data) + b"\x80" + bytes(-(len(data) + 9) % _BLOCK)
    blocks = (len(padded) + 8) // _BLOCK
    padded += blocks.to_bytes(8, "big")
    chain = [0] * 15 + [512]
    for start in range(0, len(padded), _BLOCK):
        message = [
            int.from_bytes(padded[n : n + 8], "big") for n in range(start, start + _BLOCK, 8)
        ]
        mixed = [a ^ b for a, b in zip(chain, message, strict=True)]
        p, q = _permute(mixed, False), _permute(message, True)
        chain = [a ^ b ^ c for a, b, c in zip(chain, p, q, strict=True)]
    last = _permute(chain, False)
    final = [a ^ b for a, b in zip(chain, last, strict=True)]
    return b"".join([column.to_bytes(8, "big") for column in final[8:]])
