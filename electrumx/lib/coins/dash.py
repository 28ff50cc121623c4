"""Dash, and the coins with its special transactions (DIP2)."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import MasternodeMixin
from electrumx.lib.header_hashes import x11, x11_gost
from electrumx.lib.tx_axe import DeserializerAxe
from electrumx.lib.tx_dash import DeserializerDash


class Axe(MasternodeMixin, Coin):
    NAME = "Axe"
    SHORTNAME = "AXE"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("37")
    P2SH_VERBYTES = [bytes.fromhex("10")]
    WIF_BYTE = bytes.fromhex("cc")
    XPUB_VERBYTES = bytes.fromhex("02fe52cc")
    XPRV_VERBYTES = bytes.fromhex("02fe52f8")
    GENESIS_HASH = "00000c33631ca6f2f61368991ce2dc03306b5bb50bf7cede5cfbba6db38e52e6"
    HEADER_HASH = x11
    DESERIALIZER = DeserializerAxe
    REORG_LIMIT = 1000
    TX_COUNT = 18_405
    TX_COUNT_HEIGHT = 30_237
    TX_PER_BLOCK = 1
    RPC_PORT = 9337


class AxeTestnet(Axe):
    SHORTNAME = "tAxe"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("8c")
    P2SH_VERBYTES = [bytes.fromhex("13")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("3a805837")
    XPRV_VERBYTES = bytes.fromhex("3a8061a0")
    GENESIS_HASH = "000005b709662e7bc5e89c71d3aba6c9d4623b4bbf44ac205caec55f4cefb483"
    TX_COUNT = 132_681
    TX_COUNT_HEIGHT = 101_619
    RPC_PORT = 19937
    PEER_DEFAULT_PORTS = {"t": "51001", "s": "51002"}


class AxeRegtest(AxeTestnet):
    NET = "regtest"
    GENESIS_HASH = "2026b8850f3774a0536152ba868c4dcbde9aef5ffc28a5d23f76f80e9b46e565"
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    RPC_PORT = 19869


class Dash(MasternodeMixin, Coin):
    NAME = "Dash"
    SHORTNAME = "DASH"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("4c")
    P2SH_VERBYTES = [bytes.fromhex("10")]
    WIF_BYTE = bytes.fromhex("cc")
    XPUB_VERBYTES = bytes.fromhex("02fe52cc")
    XPRV_VERBYTES = bytes.fromhex("02fe52f8")
    GENESIS_HASH = "00000ffd590b1485b3caadc19b22e6379c733355108f107a430458cdf3407ab6"
    HEADER_HASH = x11
    DESERIALIZER = DeserializerDash
    TX_COUNT = 2_157_510
    TX_COUNT_HEIGHT = 569_399
    TX_PER_BLOCK = 4
    RPC_PORT = 9998
    PEERS = [
        "electrum.dash.org s t",
        "electrum.masternode.io s t",
        "electrum-drk.club s t",
        "dashcrypto.space s t",
        "electrum.dash.siampm.com s t",
        "wl4sfwq2hwxnodof.onion s t",
    ]


class DashTestnet(Dash):
    SHORTNAME = "tDASH"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("8c")
    P2SH_VERBYTES = [bytes.fromhex("13")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("3a805837")
    XPRV_VERBYTES = bytes.fromhex("3a8061a0")
    GENESIS_HASH = "00000bafbc94add76cb75e2ec92894837288a481e5c005f6563d91623bf8bc2c"
    TX_COUNT = 132_681
    TX_COUNT_HEIGHT = 101_619
    TX_PER_BLOCK = 1
    RPC_PORT = 19998
    PEER_DEFAULT_PORTS = {"t": "51001", "s": "51002"}
    PEERS = [
        "electrum.dash.siampm.com s t",
        "dasht.random.re s54002 t54001",
    ]


class DashRegtest(DashTestnet):
    NET = "regtest"
    GENESIS_HASH = "000008ca1832a4baf228eb1553c03d3a2c8e02399550dd6ea8d65cec3ef23d2e"
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    PEERS = []


class Sibcoin(Dash):
    NAME = "Sibcoin"
    SHORTNAME = "SIB"
    P2PKH_VERBYTE = bytes.fromhex("3f")
    P2SH_VERBYTES = [bytes.fromhex("28")]
    WIF_BYTE = bytes.fromhex("80")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000c492bf73490420868bc577680bfc4c60116e7e85343bc624787c21efa4c"
    HEADER_HASH = x11_gost
    REORG_LIMIT = 1000
    TX_COUNT = 1000
    TX_COUNT_HEIGHT = 10_000
    TX_PER_BLOCK = 1
    RPC_PORT = 1944
    PEERS = []


class SibcoinTestnet(Sibcoin):
    SHORTNAME = "tSIB"
    NET = "testnet"
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "00000617791d0e19f524387f67e558b2a928b670b9a3b387ae003ad7f9093017"
    RPC_PORT = 11944
