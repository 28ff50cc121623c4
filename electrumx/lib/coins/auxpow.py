"""Merged mining: headers with a proof of work of a block of another chain (AuxPoW)."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import FAKE_FEE_DAEMON, AuxPowMixin
from electrumx.lib.tx import DeserializerAuxPowSegWit


class Argentum(AuxPowMixin, Coin):
    NAME = "Argentum"
    SHORTNAME = "ARG"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("17")
    WIF_BYTE = bytes.fromhex("97")
    GENESIS_HASH = "88c667bc63167685e4e4da058fffdfe8e007e5abffd6855de52ad59df7bb0bb2"
    TX_COUNT = 2_263_089
    TX_COUNT_HEIGHT = 2_050_260
    TX_PER_BLOCK = 2000
    RPC_PORT = 13581


class ArgentumTestnet(Argentum):
    SHORTNAME = "XRG"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    REORG_LIMIT = 2000


class CanadaeCoin(AuxPowMixin, Coin):
    NAME = "CanadaeCoin"
    SHORTNAME = "CDN"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1c")
    WIF_BYTE = bytes.fromhex("9c")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "863626dadaef221e2e2f30ff3dacae44cabdae9e0028058072181b3fb675d94a"
    DAEMON = FAKE_FEE_DAEMON
    ESTIMATE_FEE = 0.0001
    RELAY_FEE = 0.0001
    REORG_LIMIT = 1000
    TX_COUNT = 3_455_905
    TX_COUNT_HEIGHT = 3_645_419
    TX_PER_BLOCK = 1
    RPC_PORT = 34330


class Crown(AuxPowMixin, Coin):
    NAME = "Crown"
    SHORTNAME = "CRW"
    NET = "mainnet"
    P2SH_VERBYTES = [bytes.fromhex("1c")]
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "0000000085370d5e122f64f4ab19c68614ff3df78c8d13cb814fd7e69a1dc6da"
    REORG_LIMIT = 1000
    TX_COUNT = 13_336_629
    TX_COUNT_HEIGHT = 1_268_206
    TX_PER_BLOCK = 10
    RPC_PORT = 9341
    PEERS = [
        "sgp-crwseed.crowndns.info s t",
        "blr-crwseed.crowndns.info s t",
        "sfo-crwseed.crowndns.info s t",
        "nyc-crwseed.crowndns.info s t",
        "ams-crwseed.crowndns.info s t",
        "tor-crwseed.crowndns.info s t",
        "lon-crwseed.crowndns.info s t",
        "fra-crwseed.crowndns.info s t",
    ]


class Defcoin(AuxPowMixin, Coin):
    NAME = "Defcoin"
    SHORTNAME = "DEFC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1e")
    WIF_BYTE = bytes.fromhex("9e")
    GENESIS_HASH = "192047379f33ffd2bbbab3d53b9c4b9e9b72e48f888eadb3dcf57de95a6038ad"
    DESERIALIZER = DeserializerAuxPowSegWit
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9386


class Dogecoin(AuxPowMixin, Coin):
    NAME = "Dogecoin"
    SHORTNAME = "DOGE"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1e")
    P2SH_VERBYTES = [bytes.fromhex("16")]
    WIF_BYTE = bytes.fromhex("9e")
    XPUB_VERBYTES = bytes.fromhex("02facafd")
    XPRV_VERBYTES = bytes.fromhex("02fac398")
    GENESIS_HASH = "1a91e3dace36e2be3bf030a65679fe821aa1d6ef92e7c9902eb318182c355691"
    DESERIALIZER = DeserializerAuxPowSegWit
    REORG_LIMIT = 2000
    TX_COUNT = 27_583_427
    TX_COUNT_HEIGHT = 1_604_979
    TX_PER_BLOCK = 20
    RPC_PORT = 22555


class DogecoinTestnet(Dogecoin):
    SHORTNAME = "XDT"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("71")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("f1")
    GENESIS_HASH = "bb0a78264637406b6360aad926284d544d7049f45189db5664f3c4d07350559e"
    RPC_PORT = 44555


class Ixcoin(AuxPowMixin, Coin):
    NAME = "ixcoin"
    SHORTNAME = "IXC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("8a")
    GENESIS_HASH = "0000000001534ef8893b025b9c1da67250285e35c9f76cae36a4904fdf72c591"
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9406


class Myriadcoin(AuxPowMixin, Coin):
    NAME = "Myriadcoin"
    SHORTNAME = "XMY"
    NET = "mainnet"
    SEGWIT_HRP = "my"
    P2PKH_VERBYTE = bytes.fromhex("32")
    P2SH_VERBYTES = [bytes.fromhex("09")]
    WIF_BYTE = bytes.fromhex("b2")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000ffde4c020b5938441a0ea3d314bf619eff0b38f32f78f7583cffa1ea485"
    DESERIALIZER = DeserializerAuxPowSegWit
    REORG_LIMIT = 2000
    TX_COUNT = 1_976_629
    TX_COUNT_HEIGHT = 2_580_356
    TX_PER_BLOCK = 20
    RPC_PORT = 10889


class MyriadcoinTestnet(Myriadcoin):
    SHORTNAME = "XMT"
    NET = "testnet"
    SEGWIT_HRP = ""
    P2PKH_VERBYTE = bytes.fromhex("58")
    P2SH_VERBYTES = [bytes.fromhex("bc")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "0000017ce2a79c8bddafbbe47c004aa92b20678c354b34085f62b762084b9788"


class Newyorkcoin(AuxPowMixin, Coin):
    NAME = "Newyorkcoin"
    SHORTNAME = "NYC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("3c")
    P2SH_VERBYTES = [bytes.fromhex("16")]
    WIF_BYTE = bytes.fromhex("bc")
    GENESIS_HASH = "5597f25c062a3038c7fd815fe46c67dedfcb3c839fbc8e01ed4044540d08fe48"
    REORG_LIMIT = 2000
    TX_COUNT = 5_161_944
    TX_COUNT_HEIGHT = 3_948_743
    TX_PER_BLOCK = 2


class NewyorkcoinTestnet(Newyorkcoin):
    SHORTNAME = "tNYC"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("71")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("f1")
    GENESIS_HASH = "24463e4d3c625b0a9059f309044c2cf0d7e196cf2a6ecce901f24f681be33c8f"


class Quebecoin(AuxPowMixin, Coin):
    NAME = "Quebecoin"
    SHORTNAME = "QBC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("3a")
    WIF_BYTE = bytes.fromhex("ba")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "000008c2d57759af6462352ee9f4923d97401cb599a9318e6595a2a74c26ea74"
    DESERIALIZER = DeserializerAuxPowSegWit
    REORG_LIMIT = 2000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 20
    RPC_PORT = 10890


class Syscoin(AuxPowMixin, Coin):
    NAME = "Syscoin"
    SHORTNAME = "SYS"
    NET = "mainnet"
    SEGWIT_HRP = "sys"
    P2PKH_VERBYTE = bytes.fromhex("3f")
    GENESIS_HASH = "0000022642db0346b6e01c2a397471f4f12e65d4f4251ec96c1f85367a61a7ab"
    CHUNK_SIZE = 360
    DESERIALIZER = DeserializerAuxPowSegWit
    REORG_LIMIT = 2000
    TX_COUNT = 911_232
    TX_COUNT_HEIGHT = 954_572
    TX_PER_BLOCK = 1
    RPC_PORT = 8370


class Unobtanium(AuxPowMixin, Coin):
    NAME = "Unobtanium"
    SHORTNAME = "UNO"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("82")
    P2SH_VERBYTES = [bytes.fromhex("1e")]
    WIF_BYTE = bytes.fromhex("e0")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "000004c2fc5fffb810dccc197d603690099a68305232e552d96ccbe8e2c52b75"
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 65535


class Viacoin(AuxPowMixin, Coin):
    NAME = "Viacoin"
    SHORTNAME = "VIA"
    NET = "mainnet"
    SEGWIT_HRP = "via"
    P2PKH_VERBYTE = bytes.fromhex("47")
    P2SH_VERBYTES = [bytes.fromhex("21")]
    WIF_BYTE = bytes.fromhex("c7")
    GENESIS_HASH = "4e9b54001f9976049830128ec0331515eaabe35a70970d79971da1539a400ba1"
    DESERIALIZER = DeserializerAuxPowSegWit
    REORG_LIMIT = 5000
    TX_COUNT = 113_638
    TX_COUNT_HEIGHT = 3_473_674
    TX_PER_BLOCK = 30
    RPC_PORT = 5222
    PEERS = [
        "vialectrum.bitops.me s t",
        "server.vialectrum.org s t",
        "vialectrum.viacoin.net s t",
        "viax1.bitops.me s t",
    ]


class ViacoinTestnet(Viacoin):
    SHORTNAME = "TVI"
    NET = "testnet"
    SEGWIT_HRP = "tvia"
    P2PKH_VERBYTE = bytes.fromhex("7f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ff")
    GENESIS_HASH = "00000007199508e34a9ff81e6ec0c477a4cccff2a4767a8eee39c11db367b008"
    REORG_LIMIT = 2500
    RPC_PORT = 25222
    PEER_DEFAULT_PORTS = {"t": "51001", "s": "51002"}
    PEERS = [
        "vialectrum.bysh.me s t",
    ]


class ViacoinTestnetSegWit(ViacoinTestnet):
    """The test network after its nodes had learned of witnesses; the same chain."""

    NET = "testnet-segwit"
