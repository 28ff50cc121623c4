"""Ravencoin: three header hashes in turn, and longer headers with the last of them."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import HeaderSizesMixin
from electrumx.lib.header_hashes import by_time, kawpow, x16r, x16rv2
from electrumx.lib.tx import DeserializerSegWit


class Ravencoin(HeaderSizesMixin, Coin):
    NAME = "Ravencoin"
    SHORTNAME = "RVN"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("3c")
    P2SH_VERBYTES = [bytes.fromhex("7a")]
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "0000006b444bc2f2ffe627be9d9e7e7a0730000870ef6eb6da46c8eae389df90"
    # KawPow brought the height, a longer nonce and a mix hash.
    HEADER_SIZES = [(0, 80), (1_219_736, 120)]
    HEADER_HASH = by_time((0, x16r), (1_569_945_600, x16rv2), (1_588_788_000, kawpow))
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 100
    TX_COUNT = 5_626_682
    TX_COUNT_HEIGHT = 887_000
    TX_PER_BLOCK = 6
    RPC_PORT = 8766


class RavencoinTestnet(Ravencoin):
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "000000ecfc5e6324a079542221d00e10362bdc894d56500c414060eea8a3ad5a"
    HEADER_SIZES = [(0, 80), (231_544, 120)]
    HEADER_HASH = by_time((0, x16r), (1_567_533_600, x16rv2), (1_585_159_200, kawpow))
    TX_COUNT = 496_158
    TX_COUNT_HEIGHT = 420_500
    TX_PER_BLOCK = 1
    RPC_PORT = 18766
    PEER_DEFAULT_PORTS = {"t": "50003", "s": "50004"}
