"""Zcoin: spends of shielded coins, and headers with the data of Merkle tree proofs."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import DASH_SESSION, ZCOIN_DAEMON
from electrumx.lib.tx import DeserializerZcoin


class Zcoin(Coin):
    NAME = "Zcoin"
    SHORTNAME = "XZC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("52")
    P2SH_VERBYTES = [bytes.fromhex("07")]
    WIF_BYTE = bytes.fromhex("d2")
    GENESIS_HASH = "4381deb85b1b2c9843c222944b616d997516dcbd6a964e1eaf0def0830695233"
    STATIC_BLOCK_HEADERS = False
    DESERIALIZER = DeserializerZcoin
    SESSIONCLS = DASH_SESSION
    DAEMON = ZCOIN_DAEMON
    REORG_LIMIT = 5000
    TX_COUNT = 667_154
    TX_COUNT_HEIGHT = 100_266
    TX_PER_BLOCK = 4000
    RPC_PORT = 8888
    PEERS = [
        "electrum.polispay.com",
    ]


class ZcoinTestnet(Zcoin):
    SHORTNAME = "tXZC"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("41")
    P2SH_VERBYTES = [bytes.fromhex("b2")]
    WIF_BYTE = bytes.fromhex("b9")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "1e3487fdb1a7d46dac3e8f3e58339c6eff54abf6aef353485f3ed64250a35e89"
    REORG_LIMIT = 8000
    RPC_PORT = 18888
