"""Chains that split off Bitcoin's and changed its formats."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.bitcoin import BitcoinSegwit
from electrumx.lib.coins.mixins import (
    BitcoinAtomMixin,
    BitcoinGoldMixin,
    BitcoinMixin,
    EquihashMixin,
)
from electrumx.lib.tx import DeserializerBitcoinDiamondSegWit, DeserializerEquihashSegWit


class BitcoinAtom(BitcoinAtomMixin, Coin):
    NAME = "BitcoinAtom"
    SHORTNAME = "BCA"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("17")
    P2SH_VERBYTES = [bytes.fromhex("0a")]
    REORG_LIMIT = 5000
    TX_COUNT = 295_158_744
    TX_COUNT_HEIGHT = 589_197
    TX_PER_BLOCK = 10
    RPC_PORT = 9136


class BitcoinDiamond(BitcoinSegwit):
    NAME = "BitcoinDiamond"
    SHORTNAME = "BCD"
    SEGWIT_HRP = ""
    VALUE_PER_COIN = 10_000_000
    # Version 12 names a block.
    DESERIALIZER = DeserializerBitcoinDiamondSegWit
    REORG_LIMIT = 1000
    TX_COUNT = 274_277_819
    TX_COUNT_HEIGHT = 498_678
    TX_PER_BLOCK = 50
    PEERS = []


class BitcoinGold(BitcoinGoldMixin, EquihashMixin, BitcoinMixin, Coin):
    NAME = "BitcoinGold"
    SHORTNAME = "BTG"
    SEGWIT_HRP = "btg"
    P2PKH_VERBYTE = bytes.fromhex("26")
    P2SH_VERBYTES = [bytes.fromhex("17")]
    FORK_HEIGHT = 491_407
    CHUNK_SIZE = 252
    DESERIALIZER = DeserializerEquihashSegWit
    REORG_LIMIT = 1000
    TX_COUNT = 265_026_255
    TX_COUNT_HEIGHT = 499_923
    TX_PER_BLOCK = 50
    PEERS = [
        "electrumx-eu.bitcoingold.org s50002 t50001",
        "electrumx-us.bitcoingold.org s50002 t50001",
    ]


class BitcoinGoldRegtest(BitcoinGold):
    SHORTNAME = "TBTG"
    NET = "regtest"
    SEGWIT_HRP = ""
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    FORK_HEIGHT = 2000
    TX_COUNT = 0
    TX_COUNT_HEIGHT = 1
    RPC_PORT = 18444
    PEERS = []


class BitcoinGoldTestnet(BitcoinGold):
    SHORTNAME = "TBTG"
    NET = "testnet"
    SEGWIT_HRP = "tbtg"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "00000000e0781ebe24b91eedc293adfea2f557b53ec379e78959de3853e6f9f6"
    FORK_HEIGHT = 1
    TX_COUNT = 0
    TX_COUNT_HEIGHT = 1
    RPC_PORT = 18332
    PEERS = [
        "test-node1.bitcoingold.org s50002",
        "test-node2.bitcoingold.org s50002",
        "test-node3.bitcoingold.org s50002",
    ]
