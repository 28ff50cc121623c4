"""Coins with masternodes in Dash's way, but without its special transactions."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import HeaderSizesMixin, MasternodeMixin
from electrumx.lib.hash import double_sha256
from electrumx.lib.header_hashes import (
    by_time,
    by_version,
    lyra2z,
    neoscrypt,
    quark,
    x11,
    x16r,
    x16rt,
)
from electrumx.lib.tx import DeserializerSegWit


class Bitg(MasternodeMixin, Coin):
    NAME = "BitcoinGreen"
    SHORTNAME = "BITG"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("26")
    P2SH_VERBYTES = [bytes.fromhex("06")]
    WIF_BYTE = bytes.fromhex("2e")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "000008467c3a9c587533dea06ad9380cded3ed32f9742a6c0c1aebc21bf2bc9b"
    HEADER_HASH = quark
    REORG_LIMIT = 1000
    TX_COUNT = 1000
    TX_COUNT_HEIGHT = 10_000
    TX_PER_BLOCK = 1
    RPC_PORT = 9332


class Bolivarcoin(MasternodeMixin, Coin):
    NAME = "Bolivarcoin"
    SHORTNAME = "BOLI"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("55")
    WIF_BYTE = bytes.fromhex("d5")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000e4fc293a1912b9d73cbb8d8f7270007a7d84382f1370661e65d5d57b1f6"
    HEADER_HASH = x11
    REORG_LIMIT = 800
    TX_COUNT = 1_082_515
    TX_COUNT_HEIGHT = 540_410
    TX_PER_BLOCK = 10
    RPC_PORT = 3563


class ColossusXT(HeaderSizesMixin, MasternodeMixin, Coin):
    NAME = "ColossusXT"
    SHORTNAME = "COLX"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1e")
    P2SH_VERBYTES = [bytes.fromhex("0d")]
    WIF_BYTE = bytes.fromhex("d4")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "a0ce8206c908357008c1b9a8ba2813aff0989ca7f72d62b14e652c55f02b4f5c"
    HEADER_SIZES = [(0, 80), (500_000, 112)]
    HEADER_HASH = by_version((0, quark), (5, double_sha256))
    TX_COUNT = 761_041
    TX_COUNT_HEIGHT = 356_500
    TX_PER_BLOCK = 4
    RPC_PORT = 51473
    PEERS = [
        "electrum.polispay.com",
    ]


class GINCoin(MasternodeMixin, Coin):
    NAME = "GINCoin"
    SHORTNAME = "GIN"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("37")
    P2SH_VERBYTES = [bytes.fromhex("38")]
    WIF_BYTE = bytes.fromhex("3c")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000cd6bde619b2c3b23ad2e384328a450a37fa28731debf748c3b17f91f97d"
    HEADER_HASH = by_time((0, neoscrypt), (1_525_651_201, lyra2z), (1_550_246_401, x16rt))
    TX_COUNT = 470_784
    TX_COUNT_HEIGHT = 225_000
    TX_PER_BLOCK = 4
    RPC_PORT = 10211
    PEERS = [
        "electrum.polispay.com",
    ]


class MNPCoin(MasternodeMixin, Coin):
    NAME = "MNPCoin"
    SHORTNAME = "MNP"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("32")
    P2SH_VERBYTES = [bytes.fromhex("35")]
    WIF_BYTE = bytes.fromhex("37")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000924036c67d803ce606ded8143127e62fa2111dd3b063880a1067c69ccb1"
    HEADER_HASH = quark
    TX_COUNT = 506_447
    TX_COUNT_HEIGHT = 248_000
    TX_PER_BLOCK = 4
    RPC_PORT = 13373
    PEERS = [
        "electrum.polispay.com",
    ]


class Motion(MasternodeMixin, Coin):
    NAME = "Motion"
    SHORTNAME = "XMN"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("32")
    P2SH_VERBYTES = [bytes.fromhex("12")]
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "000001e9dc60dd2618e91f7b9014134922c374496b61c1a272519b1c39979d78"
    HEADER_HASH = x16r
    TX_COUNT = 92_701
    TX_COUNT_HEIGHT = 54_353
    TX_PER_BLOCK = 4
    RPC_PORT = 3385


class Odin(HeaderSizesMixin, MasternodeMixin, Coin):
    NAME = "ODIN"
    SHORTNAME = "ODIN"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("73")
    P2SH_VERBYTES = [bytes.fromhex("39")]
    WIF_BYTE = bytes.fromhex("8a")
    XPUB_VERBYTES = bytes.fromhex("27561872")
    XPRV_VERBYTES = bytes.fromhex("27256746")
    GENESIS_HASH = "31ca29566549e444cf227a0e2e067aed847c2acc541d3bbf9ca1ae89f4fd57d7"
    HEADER_SIZES = [(0, 80), (143_447, 112)]
    HEADER_HASH = by_version((0, quark), (4, double_sha256))
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 100
    TX_COUNT = 340_000
    TX_COUNT_HEIGHT = 340_000
    TX_PER_BLOCK = 2
    RPC_PORT = 22101


class Onixcoin(MasternodeMixin, Coin):
    NAME = "Onixcoin"
    SHORTNAME = "ONX"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("4b")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "000007140b7a6ca0b64965824f5731f6e86daadf19eb299033530b1e61236e43"
    HEADER_HASH = x11
    REORG_LIMIT = 800
    TX_COUNT = 431_808
    TX_COUNT_HEIGHT = 321_132
    TX_PER_BLOCK = 10
    RPC_PORT = 41019


class Pac(MasternodeMixin, Coin):
    NAME = "PAC"
    SHORTNAME = "PAC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("37")
    P2SH_VERBYTES = [bytes.fromhex("0a")]
    WIF_BYTE = bytes.fromhex("cc")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000354655ff039a51273fe61d3b493bd2897fe6c16f732dbc4ae19f04b789e"
    HEADER_HASH = x11
    TX_COUNT = 23_708
    TX_COUNT_HEIGHT = 14_939
    TX_PER_BLOCK = 2
    RPC_PORT = 7111
    PEERS = [
        "electrum.paccoin.io s t",
        "electro-pac.paccoin.io s t",
    ]


class PacTestnet(Pac):
    SHORTNAME = "tPAC"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("78")
    P2SH_VERBYTES = [bytes.fromhex("0e")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "00000da63bd9478b655ef6bf1bf76cd9af05202ab68643f9091e049b2b5280ed"
    TX_COUNT = 16_275
    TX_COUNT_HEIGHT = 16_275
    TX_PER_BLOCK = 1
    RPC_PORT = 17111


class Polis(MasternodeMixin, Coin):
    NAME = "Polis"
    SHORTNAME = "POLIS"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("37")
    P2SH_VERBYTES = [bytes.fromhex("38")]
    WIF_BYTE = bytes.fromhex("3c")
    XPUB_VERBYTES = bytes.fromhex("03e25d7e")
    XPRV_VERBYTES = bytes.fromhex("03e25945")
    GENESIS_HASH = "000009701eb781a8113b1af1d814e2f060f6408a2c990db291bc5108a1345c1e"
    HEADER_HASH = x11
    TX_COUNT = 635_415
    TX_COUNT_HEIGHT = 280_600
    TX_PER_BLOCK = 4
    RPC_PORT = 24127
    PEERS = [
        "electrum.polispay.com",
    ]


class Sparks(MasternodeMixin, Coin):
    NAME = "Sparks"
    SHORTNAME = "SPK"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("26")
    P2SH_VERBYTES = [bytes.fromhex("0a")]
    WIF_BYTE = bytes.fromhex("c6")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000a5c6ddfaac5097218560d5b92d416931cfeba1abf10c81d1d6a232fc8ea"
    HEADER_HASH = neoscrypt
    TX_COUNT = 162_310
    TX_COUNT_HEIGHT = 117_400
    TX_PER_BLOCK = 4
    RPC_PORT = 8818


class tBitg(Bitg):  # noqa: N801 - its public name
    SHORTNAME = "tBITG"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("62")
    P2SH_VERBYTES = [bytes.fromhex("0c")]
    WIF_BYTE = bytes.fromhex("6c")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    RPC_PORT = 19332
