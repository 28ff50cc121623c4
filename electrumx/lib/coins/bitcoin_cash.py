"""Bitcoin Cash and its test networks.

Their NAME is that of ElectrumX 1.15; base.NAME_ALIASES has "BitcoinCash" too.
"""

from electrumx.lib.coins.base import ServerClass
from electrumx.lib.coins.mixins import BitcoinMixin, BitcoinTestnetMixin, CashTokensMixin

# Since November 2018 transactions stand in the order of their hashes, so that one may spend what
# a later one of the same block creates.
LTOR = ServerClass("electrumx.server.block_processor:LTORBlockProcessor")


class BitcoinCash(BitcoinMixin, CashTokensMixin):
    NAME = "BitcoinCashABC"
    SHORTNAME = "BCH"
    CASH_ADDRESS_PREFIX = "bitcoincash"
    # The upgrade of May 2023; the block before is the first with a median time after 12:00 UTC.
    TOKENS_ACTIVATION = 792_773
    TX_COUNT = 265_479_628
    TX_COUNT_HEIGHT = 556_592
    TX_PER_BLOCK = 400
    PEERS = [
        "bch.imaginary.cash s t",
        "electroncash.dk s t",
        "wallet.satoshiscoffeehouse.com s t",
    ]
    BLOCK_PROCESSOR = LTOR
    SAFE_CLIENT_VER = (3, 3, 4)
    CLIENT_UPGRADE_URL = "https://electroncash.org/"


class BitcoinCashTestnet(BitcoinTestnetMixin, CashTokensMixin):
    NAME = "BitcoinCashABC"
    CASH_ADDRESS_PREFIX = "bchtest"
    # Before the activation such an output could not be spent, so the exact height is of no use.
    TOKENS_ACTIVATION = 0
    PEERS = [
        "bch0.kister.net t s",
        "testnet.imaginary.cash t50001 s50002",
        "blackie.c3-soft.com t60001 s60002",
    ]
    BLOCK_PROCESSOR = LTOR
    SAFE_CLIENT_VER = (3, 3, 4)
    CLIENT_UPGRADE_URL = "https://electroncash.org/"


class BitcoinNolnet(BitcoinCash):
    NET = "nolnet"
    CASH_ADDRESS_PREFIX = ""
    GENESIS_HASH = "0000000057e31bd2066c939a63b7b8623bd0f10d8c001304bdfc1a7902ae6d35"
    REORG_LIMIT = 8000
    TX_COUNT = 583_589
    TX_COUNT_HEIGHT = 8617
    TX_PER_BLOCK = 50
    RPC_PORT = 28332
    PEER_DEFAULT_PORTS = {"t": "52001", "s": "52002"}
    PEERS = []


class BitcoinCashRegtest(BitcoinTestnetMixin, CashTokensMixin):
    NAME = "BitcoinCashABC"
    NET = "regtest"
    CASH_ADDRESS_PREFIX = "bchreg"
    TOKENS_ACTIVATION = 0
    GENESIS_HASH = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 21
    PEERS = []
    BLOCK_PROCESSOR = LTOR
