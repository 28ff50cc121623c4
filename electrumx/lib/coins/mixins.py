"""Parameters that several coins share.  Each mixin stands before Coin among a coin's bases."""

from collections.abc import Sequence
from typing import ClassVar, Optional

from electrumx.lib.tx import Deserializer, DeserializerSegWit


class BitcoinMixin:
    """What main networks kept of Bitcoin's when they split off."""

    SHORTNAME: ClassVar[str] = "BTC"
    NET: ClassVar[str] = "mainnet"
    XPUB_VERBYTES: ClassVar[bytes] = bytes.fromhex("0488b21e")
    XPRV_VERBYTES: ClassVar[bytes] = bytes.fromhex("0488ade4")
    RPC_PORT: ClassVar[int] = 8332


class BitcoinTestnetMixin:
    """Bitcoin's third test network, and what others kept of it."""

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
    RPC_PORT: ClassVar[int] = 18332
    PEER_DEFAULT_PORTS: ClassVar[dict[str, str]] = {"t": "51001", "s": "51002"}


class BitcoinCoreMixin:
    """The networks of Bitcoin Core's nodes."""

    DESERIALIZER: ClassVar[type[Deserializer]] = DeserializerSegWit
    # A transaction that fills a block, 4 MB, in hex, with a margin.
    DEFAULT_MAX_SEND: ClassVar[int] = 8_100_000
    MEMPOOL_HISTOGRAM_REFRESH_SECS: ClassVar[int] = 120
    CRASH_CLIENT_VER: ClassVar[Optional[tuple[int, ...]]] = (3, 2, 3)
    SAFE_CLIENT_VER: ClassVar[Optional[tuple[int, ...]]] = (3, 3, 3)
    CLIENT_UPGRADE_URL: ClassVar[Optional[str]] = "https://electrum.org/"

    @classmethod
    def bucket_estimatefee_block_target(cls, n: int) -> int:
        """Return the confirmation target, in blocks, whose estimate is given out for that of n.

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
