"""BLAKE-256 and BLAKE-512, finalists of the SHA-3 competition; BLAKE2 is another algorithm.

Pure; any thread may run them.  A block of the message takes about a quarter of a millisecond.
"""

from struct import Struct
from typing import Final, NamedTuple

# The first digits of pi; the first half serves BLAKE-256 as constants as it is.
_PI: Final = (
    "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89"
    "452821e638d01377be5466cf34e90c6cc0ac29b7c97c50dd3f84d5b5b5470917"
    "9216d5d98979fb1bd1310ba698dfb5ac2ffd72dbd01adfb7b8e1afed6a267e96"
    "ba7c9045f12c7f9924a19947b3916cf70801f2e2858efc16636920d871574e69"
)
_PERMUTATIONS: Final = tuple(
    bytes.fromhex("".join(f"0{digit}" for digit in row))
    for row in (
        "0123456789abcdef",
        "ea489fd61c02b753",
        "b8c052fdae367194",
        "7931dcbe265a40f8",
        "905724afe1bc683d",
        "2c6a0b834d75fe19",
        "c51fed4a0763928b",
        "db7ec13950f4862a",
        "6fe9b308c2d714a5",
        "a2847615fb9e3cd0",
    )
)
# Which of the 16 words each of a round's eight steps works on: columns, then diagonals.
_STEPS: Final = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip


class _Variant(NamedTuple):
    """The parameters in which the two sizes differ."""

    bits: int  # of a word
    rounds: int
    rotations: tuple[int, int, int, int]
    start: tuple[int, ...]
    constants: tuple[int, ...]
    words: Struct  # the 16 words of a block
    state: Struct  # the 8 words of the result


def _constants(digits: int) -> tuple[int, ...]:
    return tuple(int(_PI[n * digits : (n + 1) * digits], 16) for n in range(16))


_BLAKE256: Final = _Variant(
    32,
    14,
    (16, 12, 8, 7),
    (
        0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
        0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
    ),
    _constants(8),
    Struct(">16I"),
    Struct(">8I"),
)  # fmt: skip
_BLAKE512: Final = _Variant(
    64,
    16,
    (32, 25, 16, 11),
    (
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    ),
    _constants(16),
    Struct(">16Q"),
    Struct(">8Q"),
)  # fmt: skip


def _compress(
    variant: _Variant, chain: list[int], message: tuple[int, ...], counter: int
) -> list[int]:
    """Return the chain value behind a block; counter is how many bits of message are in so far."""
    bits, constants = variant.bits, variant.constants
    mask = (1 << bits) - 1
    r1, r2, r3, r4 = variant.rotations
    l1, l2, l3, l4 = bits - r1, bits - r2, bits - r3, bits - r4
    low, high = counter & mask, counter >> bits
    v = chain + list(constants[:8])
    v[12] ^= low
    v[13] ^= low
    v[14] ^= high
    v[15] ^= high
    for n in range(variant.rounds):
        order = _PERMUTATIONS[n % 10]
        for step, (ia, ib, ic, id_) in enumerate(_STEPS):
            first, second = order[2 * step], order[2 * step + 1]
            a, b, c, d = v[ia], v[ib], v[ic], v[id_]
            a = (a + b + (message[first] ^ constants[second])) & mask
            d ^= a
            d = (d >> r1 | d << l1) & mask
            c = (c + d) & mask
            b ^= c
            b = (b >> r2 | b << l2) & mask
            a = (a + b + (message[second] ^ constants[first])) & mask
            d ^= a
            d = (d >> r3 | d << l3) & mask
            c = (c + d) & mask
            b ^= c
            v[ia], v[ib], v[ic], v[id_] = a, (b >> r4 | b << l4) & mask, c, d
    return [chain[n] ^ v[n] ^ v[n + 8] for n in range(8)]


def _blake(variant: _Variant, data: bytes) -> bytes:
    block_size = variant.words.size
    length_size = variant.bits // 4  # the length in bits is two words
    padded = bytearray(data) + b"\x80"
    padded += bytes((block_size - length_size - len(padded)) % block_size)
    padded[-1] |= 1
    padded += (8 * len(data)).to_bytes(length_size, "big")
    chain = list(variant.start)
    for start in range(0, len(padded), block_size):
        # A block without a bit of the message counts none.
        counter = 8 * min(start + block_size, len(data)) if start < len(data) else 0
        chain = _compress(variant, chain, variant.words.unpack_from(padded, start), counter)
    return variant.state.pack(*chain)


def blake256(x: bytes) -> bytes:
    """Return the 32-byte BLAKE-256 hash of x (14 rounds)."""
    return _blake(_BLAKE256, x)


def blake512(data: bytes) -> bytes:
    """Return the 64-byte BLAKE-512 hash of data (16 rounds)."""
    return _blake(_BLAKE512, data)
