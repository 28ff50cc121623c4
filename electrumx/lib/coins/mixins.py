"""Parameters that several coins share.  Each mixin stands before Coin among a coin's bases."""

from collections.abc import Sequence
from struct import Struct
from typing import Any, ClassVar, Optional

from electrumx.lib.coins.base import Block, Coin, OutputRule, ServerClass
from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import double_sha256, hex_str_to_hash
from electrumx.lib.header_hashes import HeaderHash, by_version, scrypt
from electrumx.lib.tx import (
    Deserializer,
    DeserializerAuxPow,
    DeserializerBitcoinAtom,
    DeserializerEquihash,
    DeserializerPrimecoin,
    DeserializerSegWit,
    DeserializerTxTime,
    DeserializerZcash,
)
from electrumx.lib.tx.cash_tokens import locking_script
from electrumx.lib.util import unpack_le_uint32_from

# Classes of the server for the families that need their own.
DASH_SESSION = ServerClass("electrumx.server.session:DashElectrumX")
SMARTCASH_SESSION = ServerClass("electrumx.server.session:SmartCashElectrumX")
NAME_SESSION = ServerClass("electrumx.server.session:NameElectrumX")
AUXPOW_SESSION = ServerClass("electrumx.server.session:AuxPoWElectrumX")
PLAIN_DAEMON = ServerClass("electrumx.server.daemon:Daemon")
DASH_DAEMON = ServerClass("electrumx.server.daemon:DashDaemon")
SMARTCASH_DAEMON = ServerClass("electrumx.server.daemon:SmartCashDaemon")
ZCOIN_DAEMON = ServerClass("electrumx.server.daemon:ZcoinMtpDaemon")
DECRED_DAEMON = ServerClass("electrumx.server.daemon:DecredDaemon")
FAKE_FEE_DAEMON = ServerClass("electrumx.server.daemon:FakeEstimateFeeDaemon")
LEGACY_DAEMON = ServerClass("electrumx.server.daemon:LegacyRPCDaemon")
PRE_LEGACY_DAEMON = ServerClass("electrumx.server.daemon:PreLegacyRPCDaemon")
FAKE_FEE_LEGACY_DAEMON = ServerClass("electrumx.server.daemon:FakeEstimateLegacyRPCDaemon")
NAME_INDEX_PROCESSOR = ServerClass("electrumx.server.block_processor:NameIndexBlockProcessor")
DECRED_PROCESSOR = ServerClass("electrumx.server.block_processor:DecredBlockProcessor")
TOKENPAY_PROCESSOR = ServerClass("electrumx.server.block_processor:ConvertingBlockProcessor")


class BitcoinMixin:
    """The parameters that main networks kept of Bitcoin's when they split off."""

    SHORTNAME: ClassVar[str] = "BTC"
    NET: ClassVar[str] = "mainnet"
    XPUB_VERBYTES: ClassVar[bytes] = bytes.fromhex("0488b21e")
    XPRV_VERBYTES: ClassVar[bytes] = bytes.fromhex("0488ade4")
    RPC_PORT: ClassVar[Optional[int]] = 8332


class BitcoinTestnetMixin:
    """Bitcoin's third test network, and the parameters that others kept of it."""

    SHORTNAME: ClassVar[str] = "XTN"
    NET: ClassVar[str] = "testnet"
    P2PKH_VERBYTE: ClassVar[bytes] = bytes.fromhex("6f")
    P2SH_VERBYTES: ClassVar[Sequence[bytes]] = [bytes.fromhex("c4")]
    WIF_BYTE: ClassVar[bytes] = bytes.fromhex("ef")
    XPUB_VERBYTES: ClassVar[bytes] = bytes.fromhex("043587cf")
    XPRV_VERBYTES: ClassVar[bytes] = bytes.fromhex("04358394")
    GENESIS_HASH: ClassVar[str] = "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943"
    # Blocks at the lowest difficulty make long reorganisations easy.
    REORG_LIMIT: ClassVar[int] = 8000
    TX_COUNT: ClassVar[int] = 12_242_438
    TX_COUNT_HEIGHT: ClassVar[int] = 1_035_428
    TX_PER_BLOCK: ClassVar[int] = 21
    RPC_PORT: ClassVar[Optional[int]] = 18332
    PEER_DEFAULT_PORTS: ClassVar[dict[str, str]] = {"t": "51001", "s": "51002"}


class BitcoinCoreMixin:
    """The networks of Bitcoin Core's nodes."""

    WHOLE_BLOCKS: ClassVar[bool] = True
    DESERIALIZER: ClassVar[type[Deserializer]] = DeserializerSegWit
    # A transaction that fills a block, 4 MB, in hex, with a margin.
    DEFAULT_MAX_SEND: ClassVar[int] = 8_100_000
    MEMPOOL_HISTOGRAM_REFRESH_SECS: ClassVar[int] = 120
    CRASH_CLIENT_VER: ClassVar[Optional[tuple[int, ...]]] = (3, 2, 3)
    SAFE_CLIENT_VER: ClassVar[Optional[tuple[int, ...]]] = (3, 3, 3)
    CLIENT_UPGRADE_URL: ClassVar[Optional[str]] = "https://electrum.org/"

    @classmethod
    def bucket_estimatefee_block_target(cls, n: int) -> int:
        """Return the confirmation target, in blocks, whose estimate stands for that of n.

        Core's estimates get coarser with the target in the same way, and fewer targets make for
        more answers from the cache.  25 stays because wallets ask for it.
        """
        if n <= 1:
            return 1
        if n <= 12 or n == 25:
            return n
        if n <= 48:
            return n - n % 2
        if n <= 1008:
            return n - n % 24
        return 1008


class MasternodeMixin:
    """Coins whose nodes know of masternodes, in Dash's way."""

    SESSIONCLS: ClassVar[Any] = DASH_SESSION
    DAEMON: ClassVar[Any] = DASH_DAEMON


class AuxPowMixin:
    """Merged mining: the proof of work of a parent block may follow a header."""

    STATIC_BLOCK_HEADERS: ClassVar[bool] = False
    DESERIALIZER: ClassVar[type[Deserializer]] = DeserializerAuxPow
    SESSIONCLS: ClassVar[Any] = AUXPOW_SESSION
    # Bytes of a header that clients with a checkpoint get.
    TRUNCATED_HEADER_SIZE: ClassVar[int] = 80
    # A request's worth of headers with their proofs is long.
    DEFAULT_MAX_SEND: ClassVar[int] = 10_000_000
    HASHED_HEADER_SIZE: ClassVar[int] = 80

    @classmethod
    def header_hash(cls, header: bytes) -> bytes:
        """Return the hash of a header, which leaves the proof out."""
        return double_sha256(header[: cls.HASHED_HEADER_SIZE])


class EquihashMixin:
    """Headers with a solution of Equihash at their end; the hash covers all of it."""

    STATIC_BLOCK_HEADERS: ClassVar[bool] = False
    BASIC_HEADER_SIZE: ClassVar[int] = 140  # without the solution
    DESERIALIZER: ClassVar[type[Deserializer]] = DeserializerEquihash
    HEADER_VALUES: ClassVar[Sequence[str]] = [
        "version",
        "prev_block_hash",
        "merkle_root",
        "reserved",
        "timestamp",
        "bits",
        "nonce",
    ]
    HEADER_UNPACK: ClassVar[Any] = Struct("<I32s32s32sII32s").unpack_from


class KomodoMixin:
    """The parameters that Komodo's chains share."""

    P2PKH_VERBYTE: ClassVar[bytes] = bytes.fromhex("3c")
    P2SH_VERBYTES: ClassVar[Sequence[bytes]] = [bytes.fromhex("55")]
    WIF_BYTE: ClassVar[bytes] = bytes.fromhex("bc")
    GENESIS_HASH: ClassVar[str] = "027e3758c3a65b12aa1046462b486d0a63bfa1beae327897f56c5cfb7daaae71"
    DESERIALIZER: ClassVar[type[Deserializer]] = DeserializerZcash


class BitcoinGoldMixin:
    """Headers of Equihash whose hash is Bitcoin's before the split."""

    FORK_HEIGHT: ClassVar[int]  # first block with a solution

    @classmethod
    def header_hash(cls, header: bytes) -> bytes:
        """Return the hash of a header; before the split, of Bitcoin's 80 bytes."""
        (height,) = unpack_le_uint32_from(header, 68)
        if height >= cls.FORK_HEIGHT:
            return double_sha256(header)
        return double_sha256(header[:68] + header[100:112])


class MinexcoinMixin(EquihashMixin):
    """Equihash with solutions so short, and of one length, that all headers are equally long."""

    STATIC_BLOCK_HEADERS: ClassVar[bool] = True
    BASIC_HEADER_SIZE: ClassVar[int] = 209
    HEADER_SIZE_NO_SOLUTION: ClassVar[int] = 140

    @classmethod
    def block_header(cls, block: bytes, height: int) -> bytes:
        """Return the header of a raw block."""
        header = DeserializerEquihash(block).read_header(cls.HEADER_SIZE_NO_SOLUTION)
        if len(header) != cls.BASIC_HEADER_SIZE:
            raise DeserializeError(f"a header of {len(header):,d} bytes at height {height:,d}")
        return header


class BitcoinAtomMixin:
    """Headers that have flags since the split."""

    STATIC_BLOCK_HEADERS: ClassVar[bool] = False
    BASIC_HEADER_SIZE: ClassVar[int]
    HEADER_SIZE_POST_FORK: ClassVar[int] = 84
    BLOCK_PROOF_OF_STAKE: ClassVar[int] = 0x01  # bit of the flags
    BLOCK_PROOF_OF_STAKE_FLAGS: ClassVar[bytes] = bytes.fromhex("01000000")
    DESERIALIZER: ClassVar[type[Deserializer]] = DeserializerBitcoinAtom

    @classmethod
    def header_hash(cls, header: bytes) -> bytes:
        """Return the hash of a header: of the flags, only that for proof of stake counts."""
        hashed = header[: cls.BASIC_HEADER_SIZE]
        if len(header) == cls.HEADER_SIZE_POST_FORK:
            (flags,) = unpack_le_uint32_from(header, cls.BASIC_HEADER_SIZE)
            if flags & cls.BLOCK_PROOF_OF_STAKE:
                hashed += cls.BLOCK_PROOF_OF_STAKE_FLAGS
        return double_sha256(hashed)

    @classmethod
    def block_header(cls, block: bytes, height: int) -> bytes:
        """Return the header of a raw block."""
        return DeserializerBitcoinAtom(block).read_header(height, cls.BASIC_HEADER_SIZE)


class PrimeChainPowMixin:
    """Headers with the multiplier of a chain of primes at their end; the hash covers all of it."""

    STATIC_BLOCK_HEADERS: ClassVar[bool] = False
    DESERIALIZER: ClassVar[type[Deserializer]] = DeserializerPrimecoin


class HeaderSizesMixin(Coin):
    """Headers whose length depends on the height."""

    # (height, bytes) ascending: from that height on headers have so many bytes.
    HEADER_SIZES: ClassVar[Sequence[tuple[int, int]]]

    @classmethod
    def block_header(cls, block: bytes, height: int) -> bytes:
        """Return the header of a raw block; DeserializeError if the block is shorter."""
        size = next(size for first, size in reversed(cls.HEADER_SIZES) if height >= first)
        return cls.cut_header(block, size)

    @classmethod
    def static_header_offset(cls, height: int) -> int:
        """Return the offset in bytes of a header among all headers, one behind the other."""
        offset = 0
        ends = [first for first, _ in cls.HEADER_SIZES[1:]]
        for (first, size), end in zip(cls.HEADER_SIZES, [*ends, height], strict=True):
            if height > first:
                offset += (min(height, end) - first) * size
        return offset


class ScryptMixin:
    """Proof of stake: transactions with a time, and scrypt as the hash of old headers."""

    DESERIALIZER: ClassVar[type[Deserializer]] = DeserializerTxTime
    HEADER_HASH: ClassVar[HeaderHash] = by_version((0, scrypt), (7, double_sha256))


class ExosMixin:
    """Headers of version 2 and before have no hash of their own: only the first block has one."""

    GENESIS_HASH: ClassVar[str]

    @classmethod
    def header_hash(cls, header: bytes) -> bytes:
        """Return the hash of a header."""
        (version,) = unpack_le_uint32_from(header)
        return double_sha256(header) if version > 2 else hex_str_to_hash(cls.GENESIS_HASH)


class EmptyGenesisMixin(Coin):
    """Ignores the bytes after the first header: they are no list of transactions."""

    @classmethod
    def block(cls, raw_block: bytes, height: int) -> Block:
        """Return a raw block parsed; DeserializeError if it is malformed."""
        if height > 0:
            return super().block(raw_block, height)
        return Block(raw_block, cls.block_header(raw_block, height), [])


class CashTokensMixin(Coin):
    """Outputs whose script field may begin with a token prefix, which wallets do not hash."""

    WHOLE_BLOCKS: ClassVar[bool] = True

    @classmethod
    def hashX_from_script(cls, script: bytes) -> bytes:
        """Return the 11-byte key of an output with this script field in the index."""
        return super().hashX_from_script(locking_script(script))

    @classmethod
    def output_rule(cls, height: int, tokens_from: int = 0) -> OutputRule:
        """Return how to index outputs of the block at height.

        Blocks below tokens_from were indexed as if there were no tokens.
        """
        rule = super().output_rule(height)
        if height < max(cls.TOKENS_ACTIVATION, tokens_from):
            return OutputRule(rule.is_unspendable, super().hashX_from_script)
        return OutputRule(
            lambda script: rule.is_unspendable(locking_script(script)), cls.hashX_from_script
        )


class SpendableGenesisMixin(Coin):
    """Transactions can spend the first block's coinbase, so the index includes the whole block."""

    @classmethod
    def genesis_block(cls, block: bytes) -> bytes:
        """Return the raw genesis block; CoinError if its hash is not GENESIS_HASH."""
        super().genesis_block(block)
        return block
