"""NIST5: five finalists of the SHA-3 competition in a row, and of these JH-512 and Skein-512.

Pure; any thread may run it.  A header takes about ten milliseconds.
"""

from functools import lru_cache
from struct import Struct
from typing import Final

from electrumx.lib.header_hashes.blake import blake512
from electrumx.lib.header_hashes.groestl import groestl512
from electrumx.lib.header_hashes.keccak import keccak512

# --- JH: 256 elements of four bits, held as 128 bytes of two elements each.

_JH_ROUNDS: Final = 42
_JH_BLOCK: Final = 64
_JH_BOXES: Final = (bytes.fromhex("0900040b0d0c030f010a02060705080e"),
                    bytes.fromhex("030c060d050701090f0200040b0a0e08"))  # fmt: skip
# The first digits of the square root of two, without its integer part.
_JH_CONSTANT: Final = "6a09e667f3bcc908b2fb1366ea957d3e3adec17512775099da2f590b0667322a"


def _jh_linear(a: int, b: int) -> int:
    """Return the pair of elements that a pair is mixed to."""
    b ^= (a << 1 ^ a >> 3 ^ a >> 2 & 2) & 15
    a ^= (b << 1 ^ b >> 3 ^ b >> 2 & 2) & 15
    return a << 4 | b


def _jh_tables(swap: bool) -> list[list[int]]:
    """Return for each two bits of a round constant the result of a pair; swapped if it is odd."""
    tables = []
    for bits in range(4):
        first, second = _JH_BOXES[bits >> 1], _JH_BOXES[bits & 1]
        table = [_jh_linear(first[pair >> 4], second[pair & 15]) for pair in range(256)]
        tables.append([pair >> 4 | (pair & 15) << 4 for pair in table] if swap else table)
    return tables


def _jh_permuted(pairs: list[int]) -> list[int]:
    """Return the pairs after the elements have changed places."""
    return [a & 0xF0 | b >> 4 for a, b in zip(pairs[::2], pairs[1::2], strict=True)] + [
        (b & 15) << 4 | a & 15 for a, b in zip(pairs[::2], pairs[1::2], strict=True)
    ]


@lru_cache(maxsize=1)
def _jh_rounds() -> list[list[list[int]]]:
    """Return, for each round and each pair, the table that the pair goes through."""
    even, odd = _jh_tables(False), _jh_tables(True)
    constant = list(bytes.fromhex(_JH_CONSTANT))
    rounds = []
    for _ in range(_JH_ROUNDS):
        bits = [byte >> shift & 3 for byte in constant for shift in (6, 4, 2, 0)]
        rounds.append([(odd if n & 1 else even)[two] for n, two in enumerate(bits)])
        # A small JH of their own, whose constant is zero, makes the constants.
        constant = _jh_permuted(
            [(odd if n & 1 else even)[0][pair] for n, pair in enumerate(constant)]
        )
    return rounds


def _jh_compress(state: int, block: int) -> int:
    """Return the 1024-bit state behind a block of 512 bits."""
    state ^= block << 512
    bits = f"{state:01024b}"
    quarters = [bits[n : n + 256] for n in range(0, 1024, 256)]
    elements = [int(a + b + c + d, 2) for a, b, c, d in zip(*quarters, strict=True)]
    pairs = [a << 4 | b for a, b in zip(elements[:128], elements[128:], strict=True)]
    for tables in _jh_rounds():
        pairs = _jh_permuted([table[pair] for table, pair in zip(tables, pairs, strict=True)])
    elements = [pair >> 4 for pair in pairs] + [pair & 15 for pair in pairs]
    texts = [f"{element:04b}" for element in elements]
    return int("".join(text[n] for n in range(4) for text in texts), 2) ^ block


@lru_cache(maxsize=1)
def _jh_start() -> int:
    return _jh_compress(512 << 1008, 0)


def jh512(data: bytes) -> bytes:
    """Return the 64-byte JH hash of data."""
    padded = bytes(data) + b"\x80" + bytes(-(len(data) + 1) % _JH_BLOCK)
    if len(data) % _JH_BLOCK:
        padded += bytes(_JH_BLOCK)
    padded = padded[:-16] + (8 * len(data)).to_bytes(16, "big")
    state = _jh_start()
    for start in range(0, len(padded), _JH_BLOCK):
        state = _jh_compress(state, int.from_bytes(padded[start : start + _JH_BLOCK], "big"))
    return state.to_bytes(128, "big")[64:]


# --- Skein

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_SKEIN_PARITY: Final = 0x1BD11BDAA9FC1A22
_SKEIN_ROTATIONS: Final = (
    (46, 36, 19, 37), (33, 27, 14, 42), (17, 49, 36, 39), (44, 9, 54, 56),
    (39, 30, 34, 24), (13, 50, 10, 17), (25, 29, 39, 43), (8, 35, 56, 22),
)  # fmt: skip
_SKEIN_ORDER: Final = (2, 1, 4, 7, 6, 5, 0, 3)
_SKEIN_BLOCK: Final = 64
# Types of block, in the highest bits of the tweak; and its flags.
_SKEIN_CONFIG, _SKEIN_MESSAGE, _SKEIN_OUTPUT = 4 << 56, 48 << 56, 63 << 56
_SKEIN_FIRST, _SKEIN_FINAL = 1 << 62, 1 << 63
# "SHA3", version 1, and an output of 512 bits.
_SKEIN_PARAMETERS: Final = bytes.fromhex("5348413301000000") + (512).to_bytes(8, "little")
_words8 = Struct("<8Q")


def _threefish(key: tuple[int, ...], tweak: tuple[int, int], words: tuple[int, ...]) -> list[int]:
    """Encrypt eight words."""
    last = _SKEIN_PARITY
    for word in key:
        last ^= word
    keys = [*key, last]
    tweaks = (*tweak, tweak[0] ^ tweak[1])
    v = list(words)
    for n in range(72):
        if n % 4 == 0:
            s = n // 4
            v = [(v[i] + keys[(s + i) % 9]) & _MASK for i in range(8)]
            v[5] = (v[5] + tweaks[s % 3]) & _MASK
            v[6] = (v[6] + tweaks[(s + 1) % 3]) & _MASK
            v[7] = (v[7] + s) & _MASK
        for i, count in enumerate(_SKEIN_ROTATIONS[n % 8]):
            a, b = v[2 * i], v[2 * i + 1]
            a = (a + b) & _MASK
            v[2 * i], v[2 * i + 1] = a, ((b << count | b >> (64 - count)) & _MASK) ^ a
        v = [v[i] for i in _SKEIN_ORDER]
    v = [(v[i] + keys[(18 + i) % 9]) & _MASK for i in range(8)]
    v[5] = (v[5] + tweaks[0]) & _MASK
    v[6] = (v[6] + tweaks[1]) & _MASK
    v[7] = (v[7] + 18) & _MASK
    return v


def _skein_chain(chain: tuple[int, ...], kind: int, data: bytes) -> tuple[int, ...]:
    """Return the chain value behind all blocks of data."""
    starts = range(0, max(len(data), 1), _SKEIN_BLOCK)
    for start in starts:
        block = data[start : start + _SKEIN_BLOCK]
        flags = kind
        if start == 0:
            flags |= _SKEIN_FIRST
        if start == starts[-1]:
            flags |= _SKEIN_FINAL
        words = _words8.unpack(block.ljust(_SKEIN_BLOCK, b"\0"))
        encrypted = _threefish(chain, (start + len(block), flags), words)
        chain = tuple(a ^ b for a, b in zip(encrypted, words, strict=True))
    return chain


def skein512(data: bytes) -> bytes:
    """Return the 64-byte Skein-512 hash of data."""
    chain = _skein_chain((0,) * 8, _SKEIN_CONFIG, _SKEIN_PARAMETERS.ljust(32, b"\0"))
    chain = _skein_chain(chain, _SKEIN_MESSAGE, data)
    return _words8.pack(*_skein_chain(chain, _SKEIN_OUTPUT, bytes(8)))


def nist5(header: bytes) -> bytes:
    """Return BLAKE, Groestl, JH, Keccak and Skein in a row, cut to 32 bytes."""
    return skein512(keccak512(jh512(groestl512(blake512(header)))))[:32]
