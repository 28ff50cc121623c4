"""Coins with Bitcoin's transactions without witness; a few have longer headers."""

from struct import Struct

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import EmptyGenesisMixin
from electrumx.lib.header_hashes import xuez


class Adcoin(Coin):
    NAME = "Adcoin"
    SHORTNAME = "ACC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1e")
    P2SH_VERBYTES = [bytes.fromhex("0d")]
    WIF_BYTE = bytes.fromhex("97")
    GENESIS_HASH = "000000fc5276647fd959f718c9526f87f4858c4ef62f2e29d3772e4e37040a25"
    BASIC_HEADER_SIZE = 112
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9416


class Auroracoin(Coin):
    NAME = "Auroracoin"
    SHORTNAME = "AUR"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("17")
    GENESIS_HASH = "2a8e100939494904af825b488596ddd536b3a96226ad02e0f7ab7ae472b27a8e"
    REORG_LIMIT = 5000
    TX_COUNT = 2_800_000
    TX_COUNT_HEIGHT = 2_778_987
    TX_PER_BLOCK = 1
    RPC_PORT = 12341


class Bitcoinzero(Coin):
    NAME = "Bitcoinzero"
    SHORTNAME = "BZX"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("4b")
    P2SH_VERBYTES = [bytes.fromhex("22")]
    WIF_BYTE = bytes.fromhex("d2")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "322bad477efb4b33fa4b1f0b2861eaf543c61068da9898a95062fdb02ada486f"
    REORG_LIMIT = 5000
    TX_COUNT = 43_798
    TX_COUNT_HEIGHT = 44
    TX_PER_BLOCK = 576
    RPC_PORT = 29202


class Digitalcoin(Coin):
    NAME = "digitalcoin"
    SHORTNAME = "DGC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1e")
    WIF_BYTE = bytes.fromhex("9e")
    GENESIS_HASH = "5e039e1ca1dbf128973bf6cff98169e40a1b194c3b91463ab74956f413b2f9c8"
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9413


class Egulden(Coin):
    NAME = "Egulden"
    SHORTNAME = "EFL"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("30")
    WIF_BYTE = bytes.fromhex("b0")
    GENESIS_HASH = "6d39f28ad01a7edd3e2374b355cf8c7f8dbc1c5e4596ad3642fa6d10c2599217"
    REORG_LIMIT = 5000
    TX_COUNT = 13_336_629
    TX_COUNT_HEIGHT = 1_268_206
    TX_PER_BLOCK = 10
    RPC_PORT = 9402


class Europecoin(Coin):
    NAME = "europecoin"
    SHORTNAME = "ERC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("21")
    WIF_BYTE = bytes.fromhex("a8")
    GENESIS_HASH = "000d0da26987ead011c5d568e627f7e3d4a4f83a0b280b1134d8e7e366377f9a"
    BASIC_HEADER_SIZE = 88
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9412


class FairCoin(EmptyGenesisMixin, Coin):
    """Nodes make blocks in turn, without mining: the headers name their creator."""

    NAME = "FairCoin"
    SHORTNAME = "FAIR"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("5f")
    P2SH_VERBYTES = [bytes.fromhex("24")]
    WIF_BYTE = bytes.fromhex("df")
    GENESIS_HASH = "beed44fa5e96150d95d56ebd5d2625781825a9407a5215dd7eda723373a0a1d7"
    BASIC_HEADER_SIZE = 108
    HEADER_VALUES = [
        "version",
        "prev_block_hash",
        "merkle_root",
        "payload_hash",
        "timestamp",
        "creatorId",
    ]
    HEADER_UNPACK = Struct("<I32s32s32sII").unpack_from
    TX_COUNT = 505
    TX_COUNT_HEIGHT = 470
    TX_PER_BLOCK = 1
    RPC_PORT = 40405
    PEER_DEFAULT_PORTS = {"t": "51811", "s": "51812"}
    PEERS = [
        "electrum.faircoin.world s",
        "electrumfair.punto0.org s",
    ]


class Flashcoin(Coin):
    NAME = "Flashcoin"
    SHORTNAME = "FLASH"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("44")
    P2SH_VERBYTES = [bytes.fromhex("82")]
    WIF_BYTE = bytes.fromhex("c4")
    GENESIS_HASH = "aa0cf4f5ce0a3c550ce5674c1e808c417cf5077b4e95bda1d6fbaeaf4258972b"
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9385


class GravityCoin(Coin):
    NAME = "GravityCoin"
    SHORTNAME = "GXX"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("28")
    P2SH_VERBYTES = [bytes.fromhex("0a")]
    WIF_BYTE = bytes.fromhex("d2")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "322bad477efb4b33fa4b1f0b2861eaf543c61068da9898a95062fdb02ada486f"
    REORG_LIMIT = 5000
    TX_COUNT = 446_050
    TX_COUNT_HEIGHT = 547_346
    TX_PER_BLOCK = 2
    RPC_PORT = 29200


class Linx(Coin):
    NAME = "Linx"
    SHORTNAME = "LINX"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("4b")
    WIF_BYTE = bytes.fromhex("cb")
    GENESIS_HASH = "3bafea350a70f75e7a1cd279999faed71a51852aae88fed3c38553cecc810a92"
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9381


class Noir(Coin):
    NAME = "Noir"
    SHORTNAME = "NOR"
    NET = "mainnet"
    P2SH_VERBYTES = [bytes.fromhex("07")]
    WIF_BYTE = bytes.fromhex("d0")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "23911212a525e3d149fcad6c559c8b17f1e8326a272a75ff9bb315c8d96433ef"
    TX_COUNT = 586_369
    TX_COUNT_HEIGHT = 379_290
    TX_PER_BLOCK = 5
    RPC_PORT = 8825


class Smileycoin(Coin):
    NAME = "Smileycoin"
    SHORTNAME = "SMLY"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("19")
    WIF_BYTE = bytes.fromhex("b0")
    GENESIS_HASH = "660f734cf6c6d16111bde201bbd2122873f2f2c078b969779b9d4c99732354fd"
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9388


class Xuez(Coin):
    NAME = "Xuez"
    SHORTNAME = "XUEZ"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("48")
    P2SH_VERBYTES = [bytes.fromhex("12")]
    WIF_BYTE = bytes.fromhex("d4")
    XPUB_VERBYTES = bytes.fromhex("022d2533")
    XPRV_VERBYTES = bytes.fromhex("0221312b")
    GENESIS_HASH = "000000e1febc39965b055e8e0117179a4d18e24e7aaa0c69864c4054b4f29445"
    BASIC_HEADER_SIZE = 112
    # Of the first 80 bytes in version 1, which only the first block has.
    HEADER_HASH = xuez
    REORG_LIMIT = 1000
    TX_COUNT = 30_000
    TX_COUNT_HEIGHT = 15_000
    TX_PER_BLOCK = 1
    RPC_PORT = 41799
