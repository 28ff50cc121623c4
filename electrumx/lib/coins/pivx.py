"""PIVX: headers whose length changed three times, and shielded parts of transactions."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import HeaderSizesMixin
from electrumx.lib.hash import double_sha256
from electrumx.lib.header_hashes import by_version, quark
from electrumx.lib.tx import DeserializerPIVX


class Pivx(HeaderSizesMixin, Coin):
    NAME = "PIVX"
    SHORTNAME = "PIVX"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1e")
    # The first was in force for long and is still written, the second is the network's own.
    P2SH_VERBYTES = [bytes.fromhex("05"), bytes.fromhex("0d")]
    WIF_BYTE = bytes.fromhex("d4")
    XPUB_VERBYTES = bytes.fromhex("022d2533")
    XPRV_VERBYTES = bytes.fromhex("0221312b")
    GENESIS_HASH = "0000041e482b9b9691d98eefb48473405c0b8ec31b76df3797c74a78680ef818"
    # With and without a checkpoint of Zerocoin's accumulators.
    HEADER_SIZES = [(0, 80), (863_787, 112), (2_153_200, 80), (2_700_500, 112)]
    STATIC_BLOCK_HEADERS = False
    HEADER_HASH = by_version((0, quark), (4, double_sha256))
    DESERIALIZER = DeserializerPIVX
    TX_COUNT = 2_157_510
    TX_COUNT_HEIGHT = 569_399
    TX_PER_BLOCK = 1
    RPC_PORT = 51470


class PivxTestnet(Pivx):
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("8b")
    # The first was in force for long and is still written, the second is the network's own.
    P2SH_VERBYTES = [bytes.fromhex("05"), bytes.fromhex("13")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("3a8061a0")
    XPRV_VERBYTES = bytes.fromhex("3a805837")
    # With and without a checkpoint of Zerocoin's accumulators.
    HEADER_SIZES = [(0, 80), (201, 112)]
    HEADER_HASH = by_version((0, quark), (4, double_sha256))
    TX_PER_BLOCK = 4
    RPC_PORT = 51472
