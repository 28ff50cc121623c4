"""Readers of block headers whose length is only found by reading them.

Each has ``read_header``, which returns the whole header from the cursor on.  ``size`` is the
length in bytes of the part that every header of the coin has; the rest is up to the
reader.  All are mixins for a deserializer of the coin's transactions.

Pure; runs in whatever thread parses.
"""

from typing import Final

from electrumx.lib.tx.bitcoin import Deserializer, DeserializerSegWit
from electrumx.lib.util import unpack_le_uint32_from

# The header of a block of the parent chain, in merged mining.
PARENT_HEADER_SIZE: Final = 80
HASH_SIZE: Final = 32


class DeserializerAuxPow(Deserializer):
    """Reads headers that may hold a proof of merged mining (AuxPoW), and plain transactions."""

    VERSION_AUXPOW = 0x100

    def read_auxpow(self) -> bytes:
        """Return the bytes of a proof of merged mining, which begins here."""
        start = self.cursor
        # The parent's coinbase transaction is in this coin's format.
        self.read_tx()
        self._skip(HASH_SIZE)
        for _branch in ("coinbase", "chain"):
            self._skip_items(HASH_SIZE)
            self._skip(4)
        self._skip(PARENT_HEADER_SIZE)
        return self.binary[start : self.cursor]

    def read_header(self, size: int) -> bytes:
        """Return the header, with the proof if its version announces one."""
        start = self.cursor
        header = self._read_nbytes(size)
        (version,) = unpack_le_uint32_from(header)
        if version & self.VERSION_AUXPOW:
            self.read_auxpow()
        return self.binary[start : self.cursor]


class DeserializerAuxPowSegWit(DeserializerSegWit, DeserializerAuxPow):
    """As DeserializerAuxPow, with the transactions of BIP144, the parent's coinbase included."""


class DeserializerXaya(DeserializerAuxPowSegWit):
    """Reads Xaya's headers: every one has a proof of work behind its 80 bytes.

    A byte holds the algorithm, and in its highest bit whether the block is merged-mined; four
    bytes the difficulty.  Then comes a proof of merged mining, or an 80-byte header that only
    carries the work.
    """

    MERGE_MINED = 0x80

    def read_header(self, size: int) -> bytes:
        """Return the header with its proof of work."""
        start = self.cursor
        self._skip(size)
        algorithm = self._read_byte()
        self._skip(4)
        if algorithm & self.MERGE_MINED:
            self.read_auxpow()
        else:
            self._skip(PARENT_HEADER_SIZE)
        return self.binary[start : self.cursor]


class DeserializerEquihash(Deserializer):
    """Reads headers that end with a solution of Equihash, and plain transactions."""

    def read_header(self, size: int) -> bytes:
        """Return the header: its first size bytes, and the solution that follows."""
        start = self.cursor
        self._skip(size)
        self._read_varbytes()
        return self.binary[start : self.cursor]


class DeserializerEquihashSegWit(DeserializerSegWit, DeserializerEquihash):
    """As DeserializerEquihash, with the transactions of BIP144."""


class DeserializerPrimecoin(Deserializer):
    """Reads headers that end with the multiplier of a chain of primes."""

    def read_header(self, size: int) -> bytes:
        """Return the header: its first size bytes, and the multiplier that follows."""
        start = self.cursor
        self._skip(size)
        self._read_varbytes()
        return self.binary[start : self.cursor]


class DeserializerBitcoinAtom(DeserializerSegWit):
    """Reads headers that got four bytes of flags when the chain split off."""

    FORK_BLOCK_HEIGHT = 505_888

    def read_header(self, height: int, size: int) -> bytes:
        """Return the header of the block at a height."""
        return self._read_nbytes(size + 4 if height >= self.FORK_BLOCK_HEIGHT else size)
