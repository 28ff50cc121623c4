"""Keccak: the 256-bit hash with its first padding, the 512-bit one, and Ravencoin's KawPow.

The hashes of the SHA-3 standard pad the message with another byte, so hashlib's are not these.

Pure; any thread may run them.  A hash takes about half a millisecond.
"""

from struct import Struct
from typing import Final

from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import double_sha256

# The linear-feedback register's output as 64-bit words, one for each round.
_ROUND_CONSTANTS: Final = (
    0x0000000000000001, 0x0000000000008082, 0x800000000000808A, 0x8000000080008000,
    0x000000000000808B, 0x0000000080000001, 0x8000000080008081, 0x8000000000008009,
    0x000000000000008A, 0x0000000000000088, 0x0000000080008009, 0x000000008000000A,
    0x000000008000808B, 0x800000000000008B, 0x8000000000008089, 0x8000000000008003,
    0x8000000000008002, 0x8000000000000080, 0x000000000000800A, 0x800000008000000A,
    0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008,
)  # fmt: skip
# From lane 1 on, the lane that each moves to and by how many bits it rotates left.
_MOVES: Final = (
    (10, 1), (7, 3), (11, 6), (17, 10), (18, 15), (3, 21), (5, 28), (16, 36),
    (8, 45), (21, 55), (24, 2), (4, 14), (15, 27), (23, 41), (19, 56), (13, 8),
    (12, 25), (2, 43), (20, 62), (14, 18), (22, 39), (9, 61), (6, 20), (1, 44),
)  # fmt: skip


def permute(lanes: list[int], width: int, rounds: int) -> None:
    """Apply Keccak-f to 25 lanes of width bits, in place."""
    mask = (1 << width) - 1
    moves = [(target, count % width) for target, count in _MOVES]
    for constant in _ROUND_CONSTANTS[:rounds]:
        columns = [
            lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20]
            for x in range(5)
        ]
        for x in range(5):
            right = columns[(x + 1) % 5]
            mixed = columns[x - 1] ^ (right << 1 & mask | right >> (width - 1))
            for n in range(x, 25, 5):
                lanes[n] ^= mixed
        moving = lanes[1]
        for target, count in moves:
            rotated = moving << count & mask | moving >> (width - count)
            moving, lanes[target] = lanes[target], rotated
        for n in range(0, 25, 5):
            a, b, c, d, e = lanes[n : n + 5]
            lanes[n : n + 5] = (
                a ^ (~b & c), b ^ (~c & d), c ^ (~d & e), d ^ (~e & a), e ^ (~a & b)
            )  # fmt: skip
        lanes[0] ^= constant & mask


def keccak(data: bytes, digest_size: int) -> bytes:
    """Return the Keccak digest of data, with the padding that preceded SHA-3."""
    rate = 200 - 2 * digest_size
    padded = bytearray(data) + b"\1" + bytes(-(len(data) + 1) % rate)
    padded[-1] |= 0x80
    unpack = Struct(f"<{rate // 8}Q").unpack_from
    lanes = [0] * 25
    for start in range(0, len(padded), rate):
        for n, word in enumerate(unpack(padded, start)):
            lanes[n] ^= word
        permute(lanes, 64, 24)
    return b"".join([lane.to_bytes(8, "little") for lane in lanes[: digest_size // 8]])


def keccak256(data: bytes) -> bytes:
    """Return the 32-byte Keccak hash of data, with Keccak's own padding."""
    return keccak(data, 32)


def keccak512(data: bytes) -> bytes:
    """Return the 64-byte Keccak hash of data, with Keccak's own padding."""
    return keccak(data, 64)


_words8 = Struct("<8I")
_KAWPOW_HEADER_SIZE: Final = 120
_KAWPOW_PADDING: Final = tuple(b"rAVENCOINKAWPOW")


def kawpow(header: bytes) -> bytes:
    """Return the hash of Ravencoin's 120-byte header, natural order.

    Computed from the mix hash that the header states, unverified: verifying takes gigabytes.
    DeserializeError if the header is shorter: its time chose this hash, its height its length, and
    a node may send any of both.
    """
    if len(header) < _KAWPOW_HEADER_SIZE:
        raise DeserializeError(f"a header of {len(header)} bytes is too short for KawPow")
    seed = _words8.unpack(double_sha256(header[:80])[::-1])
    nonce = (int.from_bytes(header[80:84], "little"), int.from_bytes(header[84:88], "little"))
    mix = _words8.unpack(header[88:120][::-1])
    lanes = [*seed, *nonce, *_KAWPOW_PADDING]
    permute(lanes, 32, 22)
    lanes = [*lanes[:8], *mix, *_KAWPOW_PADDING[:9]]
    permute(lanes, 32, 22)
    return _words8.pack(*lanes[:8])[::-1]
