"""Groestlcoin and SmartCash: transactions are hashed once, and addresses otherwise."""

from functools import partial

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import SMARTCASH_DAEMON, SMARTCASH_SESSION
from electrumx.lib.hash import Base58
from electrumx.lib.header_hashes import groestl, keccak256
from electrumx.lib.tx import DeserializerGroestlcoin, DeserializerSmartCash


class Groestlcoin(Coin):
    NAME = "Groestlcoin"
    SHORTNAME = "GRS"
    NET = "mainnet"
    SEGWIT_HRP = "grs"
    P2PKH_VERBYTE = bytes.fromhex("24")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    ENCODE_CHECK = staticmethod(partial(Base58.encode_check, hash_fn=groestl))
    DECODE_CHECK = staticmethod(partial(Base58.decode_check, hash_fn=groestl))
    GENESIS_HASH = "00000ac5927c594d49cc0bdb81759d0da8297eb614683d3acb62f0703b639023"
    HEADER_HASH = groestl
    DESERIALIZER = DeserializerGroestlcoin
    BLACKLIST_URL = "https://groestlcoin.org/blacklist.json"
    TX_COUNT = 115_900
    TX_COUNT_HEIGHT = 1_601_528
    TX_PER_BLOCK = 5
    RPC_PORT = 1441
    PEERS = [
        "electrum1.groestlcoin.org s t",
        "electrum2.groestlcoin.org s t",
        "6brsrbiinpc32tfc.onion t",
        "xkj42efxrcy6vbfw.onion t",
    ]


class GroestlcoinTestnet(Groestlcoin):
    SHORTNAME = "TGRS"
    NET = "testnet"
    SEGWIT_HRP = "tgrs"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    ENCODE_CHECK = staticmethod(partial(Base58.encode_check, hash_fn=groestl))
    DECODE_CHECK = staticmethod(partial(Base58.decode_check, hash_fn=groestl))
    GENESIS_HASH = "000000ffbb50fc9898cdd36ec163e6ba23230164c0052a28876255b7dcf2cd36"
    RPC_PORT = 17766
    PEERS = [
        "electrum-test1.groestlcoin.org s t",
        "electrum-test2.groestlcoin.org s t",
        "7frvhgofuf522b5i.onion t",
        "aocojvqcybdoxekv.onion t",
    ]


class GroestlcoinRegtest(GroestlcoinTestnet):
    SHORTNAME = "GRSRT"
    NET = "regtest"
    SEGWIT_HRP = "grsrt"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    GENESIS_HASH = "000000ffbb50fc9898cdd36ec163e6ba23230164c0052a28876255b7dcf2cd36"
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 5
    RPC_PORT = 18443
    PEERS = []


class GroestlcoinSignet(GroestlcoinTestnet):
    SHORTNAME = "SGRS"
    NET = "signet"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    GENESIS_HASH = "0000007fcaa2a27993c6cde9e7818c254357af517b876ceba2f23592bb14ab31"
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 5
    RPC_PORT = 31441
    PEERS = []


class SmartCash(Coin):
    NAME = "SmartCash"
    SHORTNAME = "SMART"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("3f")
    P2SH_VERBYTES = [bytes.fromhex("12")]
    WIF_BYTE = bytes.fromhex("bf")
    ENCODE_CHECK = staticmethod(partial(Base58.encode_check, hash_fn=keccak256))
    DECODE_CHECK = staticmethod(partial(Base58.decode_check, hash_fn=keccak256))
    GENESIS_HASH = "000007acc6970b812948d14ea5a0a13db0fdd07d5047c7e69101fa8b361e05a4"
    HEADER_HASH = keccak256
    DESERIALIZER = DeserializerSmartCash
    SESSIONCLS = SMARTCASH_SESSION
    DAEMON = SMARTCASH_DAEMON
    REORG_LIMIT = 5000
    TX_COUNT = 1_115_016
    TX_COUNT_HEIGHT = 541_656
    TX_PER_BLOCK = 1
    RPC_PORT = 9679
