"""Coins whose outputs carry names: Namecoin and Xaya, which index them, and Emercoin."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import AuxPowMixin, SpendableGenesisMixin
from electrumx.lib.coins.name_scripts import (
    DATA_PUSH,
    DATA_PUSH_MULTIPLE,
    NameIndexMixin,
    NameMixin,
)
from electrumx.lib.script import OpCodes
from electrumx.lib.tx import DeserializerAuxPowSegWit, DeserializerEmercoin, DeserializerXaya


class Emercoin(NameMixin, AuxPowMixin, Coin):
    NAME = "Emercoin"
    SHORTNAME = "EMC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("21")
    P2SH_VERBYTES = [bytes.fromhex("5c")]
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000000bcccd459d036a588d1008fce8da3754b205736f32ddfd35350e84c2d"
    VALUE_PER_COIN = 1_000_000
    DESERIALIZER = DeserializerEmercoin
    NAME_SHAPES = [
        [OpCodes.OP_1, OpCodes.OP_DROP, "name", "days", OpCodes.OP_2DROP, DATA_PUSH_MULTIPLE],
        [OpCodes.OP_2, OpCodes.OP_DROP, "name", "days", OpCodes.OP_2DROP, DATA_PUSH_MULTIPLE],
        [OpCodes.OP_3, OpCodes.OP_DROP, "name", OpCodes.OP_DROP],
    ]
    TX_COUNT = 217_380_620
    TX_COUNT_HEIGHT = 464_000
    TX_PER_BLOCK = 1700
    RPC_PORT = 6662


class Namecoin(NameIndexMixin, AuxPowMixin, Coin):
    NAME = "Namecoin"
    SHORTNAME = "NMC"
    NET = "mainnet"
    SEGWIT_HRP = "nc"
    P2PKH_VERBYTE = bytes.fromhex("34")
    P2SH_VERBYTES = [bytes.fromhex("0d")]
    WIF_BYTE = bytes.fromhex("e4")
    XPUB_VERBYTES = bytes.fromhex("d7dd6370")
    XPRV_VERBYTES = bytes.fromhex("d7dc6e31")
    GENESIS_HASH = "000000000062b72c5e2ceb45fbc8587e807c155b0da735e6483dfba2f0a9c770"
    DESERIALIZER = DeserializerAuxPowSegWit
    OP_NAME_UPDATE = OpCodes.OP_3
    NAME_EXPIRY_BLOCKS = 36_000
    NAME_SHAPES = [
        [OpCodes.OP_1, DATA_PUSH, OpCodes.OP_2DROP],
        [OpCodes.OP_2, "name", DATA_PUSH, DATA_PUSH, OpCodes.OP_2DROP, OpCodes.OP_2DROP],
        [OpCodes.OP_3, "name", DATA_PUSH, OpCodes.OP_2DROP, OpCodes.OP_DROP],
    ]
    TX_COUNT = 4_415_768
    TX_COUNT_HEIGHT = 329_065
    TX_PER_BLOCK = 10
    RPC_PORT = 8336
    PEERS = [
        "electrum-nmc.le-space.de s50002",
        "ex.lug.gs s446",
        "luggscoqbymhvnkp.onion t82",
        "nmc.bitcoins.sk s50002",
        "ulrichard.ch s50006 t50005",
    ]


class NamecoinTestnet(Namecoin):
    SHORTNAME = "XNM"
    NET = "testnet"
    SEGWIT_HRP = ""
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    GENESIS_HASH = "00000007199508e34a9ff81e6ec0c477a4cccff2a4767a8eee39c11db367b008"


class NamecoinRegtest(NamecoinTestnet):
    NET = "regtest"
    SEGWIT_HRP = ""
    NAME_EXPIRY_BLOCKS = 30
    GENESIS_HASH = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    PEERS = []


class Xaya(SpendableGenesisMixin, NameIndexMixin, AuxPowMixin, Coin):
    NAME = "Xaya"
    SHORTNAME = "CHI"
    NET = "mainnet"
    SEGWIT_HRP = "chi"
    P2PKH_VERBYTE = bytes.fromhex("1c")
    P2SH_VERBYTES = [bytes.fromhex("1e")]
    WIF_BYTE = bytes.fromhex("82")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "e5062d76e5f50c42f493826ac9920b63a8def2626fd70a5cec707ec47a4c4651"
    # The algorithm and the difficulty stay.
    TRUNCATED_HEADER_SIZE = 85
    DESERIALIZER = DeserializerXaya
    OP_NAME_UPDATE = OpCodes.OP_2
    NAME_SHAPES = [
        [OpCodes.OP_1, "name", DATA_PUSH, OpCodes.OP_2DROP, OpCodes.OP_DROP],
        [OpCodes.OP_2, "name", DATA_PUSH, OpCodes.OP_2DROP, OpCodes.OP_DROP],
    ]
    TX_COUNT = 1_147_749
    TX_COUNT_HEIGHT = 1_030_000
    TX_PER_BLOCK = 2
    RPC_PORT = 8396
    PEERS = [
        "seeder.xaya.io s50002",
        "xaya.domob.eu s50002",
    ]


class XayaTestnet(Xaya):
    SHORTNAME = "XCH"
    NET = "testnet"
    SEGWIT_HRP = ""
    P2PKH_VERBYTE = bytes.fromhex("58")
    P2SH_VERBYTES = [bytes.fromhex("5a")]
    WIF_BYTE = bytes.fromhex("e6")
    GENESIS_HASH = "5195fc01d0e23d70d1f929f21ec55f47e1c6ea1e66fae98ee44cbbc994509bba"
    TX_COUNT = 51_557
    TX_COUNT_HEIGHT = 49_000
    TX_PER_BLOCK = 1
    RPC_PORT = 18396
    PEERS = []


class XayaRegtest(XayaTestnet):
    NET = "regtest"
    SEGWIT_HRP = ""
    GENESIS_HASH = "6f750b36d22f1dc3d0a6e483af45301022646dfc3b3ba2187865f5a7d6d83ab1"
    RPC_PORT = 18493
