"""Litecoin and its test networks."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.tx import DeserializerLitecoin


class Litecoin(Coin):
    NAME = "Litecoin"
    SHORTNAME = "LTC"
    NET = "mainnet"
    SEGWIT_HRP = "ltc"
    P2PKH_VERBYTE = bytes.fromhex("30")
    P2SH_VERBYTES = [bytes.fromhex("32"), bytes.fromhex("05")]
    WIF_BYTE = bytes.fromhex("b0")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "12a765e31ffd4059bada1e25190f6e98c99d9714d334efa41a195a7e7e04bfe2"
    RPC_PORT = 9332
    REORG_LIMIT = 800
    TX_COUNT = 8_908_766
    TX_COUNT_HEIGHT = 1_105_256
    TX_PER_BLOCK = 10
    PEERS = [
        "ex.lug.gs s444",
        "electrum-ltc.bysh.me s t",
        "electrum-ltc.ddns.net s t",
        "electrum-ltc.wilv.in s t",
        "electrum.cryptomachine.com p1000 s t",
        "electrum.ltc.xurious.com s t",
        "eywr5eubdbbe2laq.onion s50008 t50007",
    ]
    DESERIALIZER = DeserializerLitecoin


class LitecoinTestnet(Litecoin):
    SHORTNAME = "XLT"
    NET = "testnet"
    SEGWIT_HRP = "tltc"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("3a"), bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "4966625a4b2851d9fdee139e56211a0d88575f59ed816ff5e6a63deb4e3e29a0"
    RPC_PORT = 19332
    REORG_LIMIT = 4000
    TX_COUNT = 21_772
    TX_COUNT_HEIGHT = 20_800
    TX_PER_BLOCK = 2
    PEER_DEFAULT_PORTS = {"t": "51001", "s": "51002"}
    PEERS = [
        "electrum-ltc.bysh.me s t",
        "electrum.ltc.xurious.com s t",
    ]


class LitecoinRegtest(LitecoinTestnet):
    NET = "regtest"
    SEGWIT_HRP = "rltc"
    GENESIS_HASH = "530827f38f93b43ed12af0b3ad25a288dc02ed74d6d7857862df51fc56c416f9"
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 2
    PEERS = []
