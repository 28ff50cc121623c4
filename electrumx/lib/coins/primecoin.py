"""Primecoin: headers with the multiplier of a chain of primes."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import FAKE_FEE_DAEMON, PrimeChainPowMixin


class Primecoin(PrimeChainPowMixin, Coin):
    NAME = "Primecoin"
    SHORTNAME = "XPM"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("17")
    P2SH_VERBYTES = [bytes.fromhex("53")]
    WIF_BYTE = bytes.fromhex("97")
    GENESIS_HASH = "963d17ba4dc753138078a2f56afb3af9674e2546822badff26837db9a0152106"
    DAEMON = FAKE_FEE_DAEMON
    ESTIMATE_FEE = 1.024
    # Nodes relay a fee that is certain to confirm.
    RELAY_FEE = 1.024
    REORG_LIMIT = 5000
    TX_COUNT = 7_138_730
    TX_COUNT_HEIGHT = 3_639_500
    TX_PER_BLOCK = 2
    RPC_PORT = 9912
    PEERS = [
        "electrumx.primecoin.org s t",
    ]


class PrimecoinTestnet(Primecoin):
    NAME = "PrimecoinTestnet"
    SHORTNAME = "tXPM"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    GENESIS_HASH = "221156cf301bc3585e72de34fe1efdb6fbd703bc27cfc468faa1cdd889d0efa0"
    RPC_PORT = 9914
    PEERS = [
        "electrumx.testnet.primecoin.org t",
    ]
