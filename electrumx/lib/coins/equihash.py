"""Zcash, and coins with its transactions or with Equihash in their headers."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import EquihashMixin, KomodoMixin, MinexcoinMixin
from electrumx.lib.header_hashes import verushash
from electrumx.lib.tx import DeserializerZcash


class BitcoinPrivate(EquihashMixin, Coin):
    NAME = "BitcoinPrivate"
    SHORTNAME = "BTCP"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1325")
    P2SH_VERBYTES = [bytes.fromhex("13af")]
    GENESIS_HASH = "0007104ccda289427919efc39dc9e4d499804b7bebc22df55f8b834301260602"
    DESERIALIZER = DeserializerZcash
    REORG_LIMIT = 5000
    TX_COUNT = 329_196
    TX_COUNT_HEIGHT = 68_379
    TX_PER_BLOCK = 5
    RPC_PORT = 9335


class BitcoinZ(EquihashMixin, Coin):
    NAME = "BitcoinZ"
    SHORTNAME = "BTCZ"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1cb8")
    P2SH_VERBYTES = [bytes.fromhex("1cbd")]
    GENESIS_HASH = "f499ee3d498b4298ac6a64205b8addb7c43197e2a660229be65db8a4534d75c1"
    DESERIALIZER = DeserializerZcash
    REORG_LIMIT = 800
    TX_COUNT = 171_976
    TX_COUNT_HEIGHT = 81_323
    TX_PER_BLOCK = 3
    RPC_PORT = 1979


class Hush(KomodoMixin, EquihashMixin, Coin):
    NAME = "Hush"
    SHORTNAME = "HUSH"
    NET = "mainnet"
    REORG_LIMIT = 800
    TX_COUNT = 111_317
    TX_COUNT_HEIGHT = 169_280
    TX_PER_BLOCK = 2
    RPC_PORT = 18031


class Komodo(KomodoMixin, EquihashMixin, Coin):
    NAME = "Komodo"
    SHORTNAME = "KMD"
    NET = "mainnet"
    REORG_LIMIT = 800
    TX_COUNT = 693_629
    TX_COUNT_HEIGHT = 491_777
    TX_PER_BLOCK = 2
    RPC_PORT = 7771


class Koto(Coin):
    NAME = "Koto"
    SHORTNAME = "KOTO"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1836")
    P2SH_VERBYTES = [bytes.fromhex("183b")]
    GENESIS_HASH = "6d424c350729ae633275d51dc3496e16cd1b1d195c164da00f39c499a2e9959e"
    DESERIALIZER = DeserializerZcash
    REORG_LIMIT = 800
    TX_COUNT = 158_914
    TX_COUNT_HEIGHT = 67_574
    TX_PER_BLOCK = 3
    RPC_PORT = 8432
    PEERS = [
        "fr.kotocoin.info s t",
        "electrum.kotocoin.info s t",
    ]


class KotoTestnet(Koto):
    SHORTNAME = "TOKO"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("18a4")
    P2SH_VERBYTES = [bytes.fromhex("1839")]
    WIF_BYTE = bytes.fromhex("ef")
    GENESIS_HASH = "bf84afbde20c2d213b68b231ddb585ab616ef7567226820f00d9b397d774d2f0"
    TX_COUNT = 91_144
    TX_COUNT_HEIGHT = 89_662
    TX_PER_BLOCK = 1
    RPC_PORT = 18432
    PEER_DEFAULT_PORTS = {"t": "51001", "s": "51002"}
    PEERS = [
        "testnet.kotocoin.info s t",
    ]


class Minexcoin(MinexcoinMixin, Coin):
    NAME = "Minexcoin"
    SHORTNAME = "MNX"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("4b")
    GENESIS_HASH = "490a36d9451a55ed197e34aca7414b35d775baa4a8e896f1c577f65ce2d214cb"
    CHUNK_SIZE = 960
    TX_COUNT = 327_963
    TX_COUNT_HEIGHT = 74_495
    TX_PER_BLOCK = 5
    RPC_PORT = 8022
    PEERS = [
        "electrumx.xpresit.net s t",
        "elex01-ams.turinex.eu s t",
        "eu.minexpool.nl s t",
    ]


class Monaize(KomodoMixin, EquihashMixin, Coin):
    NAME = "Monaize"
    SHORTNAME = "MNZ"
    NET = "mainnet"
    REORG_LIMIT = 800
    TX_COUNT = 256
    TX_COUNT_HEIGHT = 128
    TX_PER_BLOCK = 2
    RPC_PORT = 14337


class SnowGem(EquihashMixin, Coin):
    NAME = "SnowGem"
    SHORTNAME = "XSG"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1c28")
    P2SH_VERBYTES = [bytes.fromhex("1c2d")]
    GENESIS_HASH = "00068b35729d9d2b0c294ff1fe9af0094740524311a131de40e7f705e4c29a5b"
    CHUNK_SIZE = 200
    DESERIALIZER = DeserializerZcash
    REORG_LIMIT = 800
    TX_COUNT = 1_680_878
    TX_COUNT_HEIGHT = 627_250
    TX_PER_BLOCK = 2
    RPC_PORT = 16112


class Verus(KomodoMixin, EquihashMixin, Coin):
    NAME = "Verus"
    SHORTNAME = "VRSC"
    NET = "mainnet"
    HEADER_HASH = verushash
    REORG_LIMIT = 800
    TX_COUNT = 55_000
    TX_COUNT_HEIGHT = 42_000
    TX_PER_BLOCK = 2
    RPC_PORT = 27486


class Zcash(EquihashMixin, Coin):
    NAME = "Zcash"
    SHORTNAME = "ZEC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1cb8")
    P2SH_VERBYTES = [bytes.fromhex("1cbd")]
    GENESIS_HASH = "00040fe8ec8471911baa1db1266ea15dd06b4a8a5c453883c000b031973dce08"
    DESERIALIZER = DeserializerZcash
    REORG_LIMIT = 800
    TX_COUNT = 329_196
    TX_COUNT_HEIGHT = 68_379
    TX_PER_BLOCK = 5
    RPC_PORT = 8232


class ZcashTestnet(Zcash):
    SHORTNAME = "TAZ"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("1d25")
    P2SH_VERBYTES = [bytes.fromhex("1cba")]
    WIF_BYTE = bytes.fromhex("ef")
    GENESIS_HASH = "05a60a92d99d85997cce3b87616c089f6124d7342af37106edc76126334a2c38"
    TX_COUNT = 242_312
    TX_COUNT_HEIGHT = 321_685
    TX_PER_BLOCK = 2
    RPC_PORT = 18232


class Zclassic(EquihashMixin, Coin):
    NAME = "Zclassic"
    SHORTNAME = "ZCL"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1cb8")
    P2SH_VERBYTES = [bytes.fromhex("1cbd")]
    GENESIS_HASH = "0007104ccda289427919efc39dc9e4d499804b7bebc22df55f8b834301260602"
    DESERIALIZER = DeserializerZcash
    REORG_LIMIT = 800
    TX_COUNT = 329_196
    TX_COUNT_HEIGHT = 68_379
    TX_PER_BLOCK = 5
    RPC_PORT = 8023


class ZelCash(EquihashMixin, Coin):
    NAME = "ZelCash"
    SHORTNAME = "ZEL"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1cb8")
    P2SH_VERBYTES = [bytes.fromhex("1cbd")]
    GENESIS_HASH = "00052461a5006c2e3b74ce48992a08695607912d5604c3eb8da25749b0900444"
    DESERIALIZER = DeserializerZcash
    REORG_LIMIT = 800
    TX_COUNT = 450_539
    TX_COUNT_HEIGHT = 167_114
    TX_PER_BLOCK = 3
    RPC_PORT = 16124


class Zero(EquihashMixin, Coin):
    NAME = "Zero"
    SHORTNAME = "ZER"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1cb8")
    P2SH_VERBYTES = [bytes.fromhex("1cbd")]
    GENESIS_HASH = "068cbb5db6bc11be5b93479ea4df41fa7e012e92ca8603c315f9b1a2202205c6"
    DESERIALIZER = DeserializerZcash
    REORG_LIMIT = 800
    TX_COUNT = 329_998
    TX_COUNT_HEIGHT = 847_425
    TX_PER_BLOCK = 2
    RPC_PORT = 23811
