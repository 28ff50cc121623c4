"""Bitcoin SV and its test networks."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import BitcoinMixin, BitcoinTestnetMixin


class BitcoinSV(BitcoinMixin, Coin):
    NAME = "BitcoinSV"
    SHORTNAME = "BSV"
    GENESIS_ACTIVATION = 620_538
    WHOLE_BLOCKS = True
    TX_COUNT = 267_318_795
    TX_COUNT_HEIGHT = 557_037
    TX_PER_BLOCK = 400
    PEERS = [
        "electrumx.bitcoinsv.io s",
        "satoshi.vision.cash s",
        "sv.usebsv.com s t",
        "sv.jochen-hoenicke.de s t",
        "sv.satoshi.io s t",
    ]


class BitcoinSVTestnet(BitcoinTestnetMixin, Coin):
    NAME = "BitcoinSV"
    GENESIS_ACTIVATION = 1_344_302
    WHOLE_BLOCKS = True
    PEERS = [
        "electrontest.cascharia.com t51001 s51002",
    ]


class BitcoinSVScalingTestnet(BitcoinSVTestnet):
    NET = "scalingtest"
    GENESIS_ACTIVATION = 14_896
    TX_COUNT = 2015
    TX_COUNT_HEIGHT = 5711
    TX_PER_BLOCK = 5000
    PEERS = [
        "stn-server.electrumsv.io t51001 s51002",
    ]
    # Blocks of many megabytes.
    FETCH_STEPS = [(0, 100), (11, 3)]


class BitcoinSVRegtest(BitcoinSVTestnet):
    NET = "regtest"
    GENESIS_HASH = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    GENESIS_ACTIVATION = 10_000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 21
    PEERS = []
