"""Coins with Bitcoin's transactions, those with witness included."""

from struct import Struct

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import BitcoinMixin, SpendableGenesisMixin
from electrumx.lib.header_hashes import (
    by_time,
    cpupower,
    x11,
    x21s,
    xevan,
    yespower_bell,
    yespower_zny,
)
from electrumx.lib.tx import DeserializerSegWit


class Aryacoin(Coin):
    NAME = "aryacoin"
    SHORTNAME = "AYA"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("17")
    P2SH_VERBYTES = [bytes.fromhex("6f")]
    WIF_BYTE = bytes.fromhex("b0")
    XPUB_VERBYTES = bytes.fromhex("019d9cfe")
    XPRV_VERBYTES = bytes.fromhex("019da462")
    GENESIS_HASH = "b553727635006d7faade229d152482dfb9da7822d41cf0cad9ffa82a54f67803"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 800
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 10
    RPC_PORT = 9151


class Batacoin(Coin):
    NAME = "bata"
    SHORTNAME = "BTA"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("19")
    WIF_BYTE = bytes.fromhex("99")
    GENESIS_HASH = "b4bee36fd54a6176fd832f462641415c142d50e4b378f71c041870c2b1186bc8"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9412


class Bellcoin(Coin):
    NAME = "Bellcoin"
    SHORTNAME = "BELL"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("19")
    P2SH_VERBYTES = [bytes.fromhex("55")]
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "000008f3b6bd10c2d03b06674a006b8d9731f6cb58179ef1eee008cee2209603"
    HEADER_HASH = yespower_bell
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 1000
    TX_COUNT = 264_129
    TX_COUNT_HEIGHT = 219_574
    TX_PER_BLOCK = 5
    RPC_PORT = 25252
    PEERS = [
        "bell.electrumx.japanesecoin-pool.work s t",
        "bell.streetcrypto7.com s t",
    ]


class Beyondcoin(Coin):
    NAME = "Beyondcoin"
    SHORTNAME = "BYND"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("19")
    P2SH_VERBYTES = [bytes.fromhex("1a"), bytes.fromhex("05")]
    GENESIS_HASH = "0a9e3b5fce3aee6e04f06dfd6ad380a6c0f9d8420f53a4ca97845756ee5d56e7"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 5000
    TX_COUNT = 287_000
    TX_COUNT_HEIGHT = 133_700
    TX_PER_BLOCK = 2
    RPC_PORT = 10332


class Bitcore(BitcoinMixin, Coin):
    NAME = "Bitcore"
    SHORTNAME = "BTX"
    SEGWIT_HRP = "btx"
    P2PKH_VERBYTE = bytes.fromhex("03")
    P2SH_VERBYTES = [bytes.fromhex("7d")]
    GENESIS_HASH = "604148281e5c4b7f2487e5d03cd60d8e6f69411d613f6448034508cea52e9574"
    DESERIALIZER = DeserializerSegWit
    TX_COUNT = 126_979
    TX_COUNT_HEIGHT = 126_946
    TX_PER_BLOCK = 2
    RPC_PORT = 8556
    PEERS = [
        "ele1.bitcore.cc s t",
        "ele2.bitcore.cc s t",
        "ele3.bitcore.cc s t",
        "ele4.bitcore.cc s t",
    ]


class Bitsend(Coin):
    NAME = "Bitsend"
    SHORTNAME = "BSD"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("66")
    WIF_BYTE = bytes.fromhex("cc")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "0000012e1b8843ac9ce8c18603658eaf8895f99d3f5e7e1b7b1686f35e3c087a"
    HEADER_HASH = by_time((0, x11), (1_477_958_401, xevan))
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 1000
    TX_COUNT = 974_672
    TX_COUNT_HEIGHT = 586_022
    TX_PER_BLOCK = 2
    RPC_PORT = 8800
    PEERS = [
        "ele1.bitsend.cc s t",
        "51.15.121.233 s t",
    ]


class Bitzeny(Coin):
    NAME = "Bitzeny"
    SHORTNAME = "ZNY"
    NET = "mainnet"
    SEGWIT_HRP = "bz"
    P2PKH_VERBYTE = bytes.fromhex("51")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "000009f7e55e9e3b4781e22bd87a7cfa4acada9e4340d43ca738bf4e9fb8f5ce"
    HEADER_HASH = yespower_zny
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 1000
    TX_COUNT = 1_408_733
    TX_COUNT_HEIGHT = 1_015_115
    TX_PER_BLOCK = 1
    RPC_PORT = 9252


class CPUchain(Coin):
    NAME = "CPUchain"
    SHORTNAME = "CPU"
    NET = "mainnet"
    SEGWIT_HRP = "cpu"
    P2PKH_VERBYTE = bytes.fromhex("1c")
    P2SH_VERBYTES = [bytes.fromhex("1e")]
    GENESIS_HASH = "000024d8766043ea0e1c9ad42e7ea4b5fdb459887bd80b8f9756f3d87e128f12"
    HEADER_HASH = cpupower
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 1000
    TX_COUNT = 4471
    TX_COUNT_HEIGHT = 3491
    TX_PER_BLOCK = 2
    RPC_PORT = 19707
    PEERS = [
        "electrumx.cpuchain.org s t",
    ]


class Chips(Coin):
    NAME = "Chips"
    SHORTNAME = "CHIPS"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("3c")
    P2SH_VERBYTES = [bytes.fromhex("55")]
    WIF_BYTE = bytes.fromhex("bc")
    GENESIS_HASH = "0000006e75f6aa0efdbf7db03132aa4e4d0c84951537a6f5a7c39a0a9d30e1e7"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 800
    TX_COUNT = 145_290
    TX_COUNT_HEIGHT = 318_637
    TX_PER_BLOCK = 2
    RPC_PORT = 57776


class DigiByte(Coin):
    NAME = "DigiByte"
    SHORTNAME = "DGB"
    NET = "mainnet"
    SEGWIT_HRP = "dgb"
    P2PKH_VERBYTE = bytes.fromhex("1e")
    GENESIS_HASH = "7497ea1b465eb39f1c8f507bc877078fe016d6fcb6dfad3a64c98dcc6e1e8496"
    DESERIALIZER = DeserializerSegWit
    TX_COUNT = 1_046_018
    TX_COUNT_HEIGHT = 1_435_000
    TX_PER_BLOCK = 1000
    RPC_PORT = 12022


class DigiByteTestnet(DigiByte):
    NET = "testnet"
    SEGWIT_HRP = ""
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    GENESIS_HASH = "b5dca8039e300198e5fe7cd23bdd1728e2a444af34c447dbd0916fa3430a68c2"
    REORG_LIMIT = 2000
    RPC_PORT = 15022


class Donu(Coin):
    NAME = "donu"
    SHORTNAME = "DONU"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("35")
    WIF_BYTE = bytes.fromhex("b1")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "5f7f26e24291f5be2351e1dcdab18bf94cee718940e6b9f2fbb46227434c3f12"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 800
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 10
    RPC_PORT = 26381


class Einsteinium(Coin):
    NAME = "Einsteinium"
    SHORTNAME = "EMC2"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("21")
    WIF_BYTE = bytes.fromhex("b0")
    GENESIS_HASH = "4e56204bb7b8ac06f860ff1c845f03f984303b5b97eb7b42868f714611aed94b"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 2000
    TX_COUNT = 2_087_559
    TX_COUNT_HEIGHT = 1_358_517
    TX_PER_BLOCK = 2
    RPC_PORT = 41879


class ElectraProtocol(SpendableGenesisMixin):
    NAME = "ElectraProtocol"
    SHORTNAME = "XEP"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("37")
    P2SH_VERBYTES = [bytes.fromhex("89")]
    GENESIS_HASH = "000000954c02f260a6db02c712557adcb5a7a8a0a9acfd3d3c2b3a427376c56f"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 1080
    TX_COUNT = 264_299
    TX_COUNT_HEIGHT = 130_000
    TX_PER_BLOCK = 5
    RPC_PORT = 16816
    PEERS = [
        "electrumx1.electraprotocol.eu s t",
        "electrumx2.electraprotocol.eu s t",
        "electrumx3.electraprotocol.eu s t",
        "electrumx4.electraprotocol.eu s t",
        "electrumx5.electraprotocol.eu s t",
    ]


class Feathercoin(Coin):
    NAME = "Feathercoin"
    SHORTNAME = "FTC"
    NET = "mainnet"
    SEGWIT_HRP = "fc"
    P2PKH_VERBYTE = bytes.fromhex("0e")
    WIF_BYTE = bytes.fromhex("8e")
    XPUB_VERBYTES = bytes.fromhex("0488bc26")
    XPRV_VERBYTES = bytes.fromhex("0488daee")
    GENESIS_HASH = "12a765e31ffd4059bada1e25190f6e98c99d9714d334efa41a195a7e7e04bfe2"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 2000
    TX_COUNT = 3_170_843
    TX_COUNT_HEIGHT = 1_981_777
    TX_PER_BLOCK = 2
    RPC_PORT = 9337
    PEERS = [
        "electrumx-gb-1.feathercoin.network s t",
        "electrumx-gb-2.feathercoin.network s t",
        "electrumx-de-1.feathercoin.network s t",
    ]


class Ferrite(Coin):
    NAME = "Ferrite"
    SHORTNAME = "FEC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("24")
    P2SH_VERBYTES = [bytes.fromhex("23"), bytes.fromhex("05")]
    GENESIS_HASH = "46ca17415c18e43f5292034ebf9bbd10de80a61fc6dc17180e6609f33d3b48f3"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 800
    TX_COUNT = 164_010
    TX_COUNT_HEIGHT = 150_251
    TX_PER_BLOCK = 2
    RPC_PORT = 9573
    PEERS = [
        "enode1.ferritecoin.org s t",
        "enode2.ferritecoin.org s t",
        "enode3.ferritecoin.org s t",
    ]


class FerriteTestnet(Ferrite):
    SHORTNAME = "TFE"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("23"), bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    GENESIS_HASH = "7a9f43d6e86eefa66e2b79918b2235c9362106f3d9f11f37f7a33450ceae73c1"
    REORG_LIMIT = 4000
    TX_COUNT = 12_445
    TX_COUNT_HEIGHT = 6290
    TX_PER_BLOCK = 2
    RPC_PORT = 19573
    PEERS = [
        "enode1.ferritecoin.org s t",
        "enode2.ferritecoin.org s t",
        "enode3.ferritecoin.org s t",
    ]


class Fujicoin(Coin):
    NAME = "Fujicoin"
    SHORTNAME = "FJC"
    NET = "mainnet"
    SEGWIT_HRP = "fc"
    P2PKH_VERBYTE = bytes.fromhex("24")
    P2SH_VERBYTES = [bytes.fromhex("10")]
    WIF_BYTE = bytes.fromhex("a4")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "adb6d9cfd74075e7f91608add4bd2a2ea636f70856183086842667a1597714a0"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 1000
    TX_COUNT = 170_478
    TX_COUNT_HEIGHT = 1_521_676
    TX_PER_BLOCK = 1
    RPC_PORT = 3776


class GameCredits(Coin):
    NAME = "GameCredits"
    SHORTNAME = "GAME"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("26")
    WIF_BYTE = bytes.fromhex("a6")
    GENESIS_HASH = "91ec5f25ee9a0ffa1af7d4da4db9a552228dd2dc77cdb15b738be4e1f55f30ee"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 1000
    TX_COUNT = 316_796
    TX_COUNT_HEIGHT = 2_040_250
    TX_PER_BLOCK = 2
    RPC_PORT = 40001


class Garlicoin(Coin):
    NAME = "Garlicoin"
    SHORTNAME = "GRLC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("26")
    P2SH_VERBYTES = [bytes.fromhex("32"), bytes.fromhex("05")]
    GENESIS_HASH = "2ada80bf415a89358d697569c96eb98cdbf4c3b8878ac5722c01284492e27228"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 800
    TX_COUNT = 1_031_869
    TX_COUNT_HEIGHT = 2_343_659
    TX_PER_BLOCK = 2
    RPC_PORT = 42068
    PEERS = [
        "us.node.garlico.in s",
        "ca.node.garlico.in s t",
        "sg.node.garlico.in s",
        "de.node.garlico.in s",
        "fr.garlium.crapules.org s",
        "uk.garlium.crapules.org s",
        "pl.garlium.crapules.org s",
        "ca.garlium.crapules.org s",
        "au.garlium.crapules.org s",
        "electrum.hotgrlc.com s t",
        "electrum.maxpuig.com s t",
    ]


class HOdlcoin(Coin):
    NAME = "HOdlcoin"
    SHORTNAME = "HODLC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("28")
    WIF_BYTE = bytes.fromhex("a8")
    GENESIS_HASH = "008872e5582924544e5c707ee4b839bb82c28a9e94e917c94b40538d5658c04b"
    BASIC_HEADER_SIZE = 88
    DESERIALIZER = DeserializerSegWit
    TX_COUNT = 258_858
    TX_COUNT_HEIGHT = 382_138
    TX_PER_BLOCK = 5


class Iop(Coin):
    NAME = "Iop"
    SHORTNAME = "IOP"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("75")
    P2SH_VERBYTES = [bytes.fromhex("ae")]
    WIF_BYTE = bytes.fromhex("31")
    GENESIS_HASH = "00000000bf5f2ee556cb9be8be64e0776af14933438dbb1af72c41bfb6c82db3"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 8337


class Lbry(Coin):
    # The root of the claims' tree is behind the merkle root.
    NAME = "Lbry"
    SHORTNAME = "LBC"
    NET = "mainnet"
    SEGWIT_HRP = "lbc"
    P2PKH_VERBYTE = bytes.fromhex("55")
    P2SH_VERBYTES = [bytes.fromhex("7a")]
    GENESIS_HASH = "9c89283ba0f3227f6c03b70216b9f665f0118d5e0fa729cedf4fb34d6a34f463"
    BASIC_HEADER_SIZE = 112
    HEADER_VALUES = [
        "version",
        "prev_block_hash",
        "merkle_root",
        "claim_trie_root",
        "timestamp",
        "bits",
        "nonce",
    ]
    HEADER_UNPACK = Struct("<I32s32s32sIII").unpack_from
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 5000
    TX_COUNT = 50_792_939
    TX_COUNT_HEIGHT = 1_178_612
    TX_PER_BLOCK = 43
    RPC_PORT = 9245


class LitecoinCash(Coin):
    NAME = "LitecoinCash"
    SHORTNAME = "LCC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1c")
    P2SH_VERBYTES = [bytes.fromhex("32"), bytes.fromhex("05")]
    WIF_BYTE = bytes.fromhex("b0")
    GENESIS_HASH = "12a765e31ffd4059bada1e25190f6e98c99d9714d334efa41a195a7e7e04bfe2"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9140


class Lynx(Coin):
    NAME = "Lynx"
    SHORTNAME = "LYNX"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("2d")
    P2SH_VERBYTES = [bytes.fromhex("16")]
    WIF_BYTE = bytes.fromhex("ad")
    GENESIS_HASH = "984b30fc9bb5e5ff424ad7f4ec1930538a7b14a2d93e58ad7976c23154ea4a76"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 9139


class Machinecoin(Coin):
    NAME = "Machinecoin"
    SHORTNAME = "MAC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("32")
    P2SH_VERBYTES = [bytes.fromhex("26"), bytes.fromhex("05")]
    WIF_BYTE = bytes.fromhex("b2")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "6a1f879bcea5471cbfdee1fd0cb2ddcc4fed569a500e352d41de967703e83172"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 800
    TX_COUNT = 137_641
    TX_COUNT_HEIGHT = 513_020
    TX_PER_BLOCK = 2
    RPC_PORT = 40332


class Monacoin(Coin):
    NAME = "Monacoin"
    SHORTNAME = "MONA"
    NET = "mainnet"
    SEGWIT_HRP = "mona"
    P2PKH_VERBYTE = bytes.fromhex("32")
    P2SH_VERBYTES = [bytes.fromhex("37"), bytes.fromhex("05")]
    WIF_BYTE = bytes.fromhex("b0")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "ff9f1c0116d19de7c9963845e129f9ed1bfc0b376eb54fd7afa42e0d418c8bb6"
    DESERIALIZER = DeserializerSegWit
    BLACKLIST_URL = "https://electrum-mona.org/blacklist.json"
    REORG_LIMIT = 1000
    TX_COUNT = 2_568_580
    TX_COUNT_HEIGHT = 1_029_766
    TX_PER_BLOCK = 2
    RPC_PORT = 9402
    PEERS = [
        "electrumx.tamami-foundation.org s t",
        "electrumx3.monacoin.nl s t",
        "electrumx1.monacoin.ninja s t",
        "electrumx2.movsign.info s t",
        "electrum-mona.bitbank.cc s t",
        "ri7rzlmdaf4eqbza.onion s t",
    ]


class MonacoinTestnet(Monacoin):
    SHORTNAME = "XMN"
    NET = "testnet"
    SEGWIT_HRP = "tmona"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("75"), bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "a2b106ceba3be0c6d097b2a6a6aacf9d638ba8258ae478158f449c321061e0b2"
    TX_COUNT = 83_602
    TX_COUNT_HEIGHT = 83_252
    TX_PER_BLOCK = 1
    RPC_PORT = 19402
    PEER_DEFAULT_PORTS = {"t": "51001", "s": "51002"}
    PEERS = [
        "electrumx1.testnet.monacoin.ninja s t",
        "electrumx1.testnet.monacoin.nl s t",
    ]


class MonacoinRegtest(MonacoinTestnet):
    NET = "regtest"
    SEGWIT_HRP = ""
    GENESIS_HASH = "7543a69d7c2fcdb29a5ebec2fc064c074a35253b6f3072c8a749473aa590a29c"
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    PEERS = []


class NIX(Coin):
    NAME = "NIX"
    SHORTNAME = "NIX"
    NET = "mainnet"
    SEGWIT_HRP = "nix"
    P2PKH_VERBYTE = bytes.fromhex("26")
    P2SH_VERBYTES = [bytes.fromhex("35")]
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "dd28ad86def767c3cfc34267a950d871fc7462bc57ea4a929fc3596d9b598e41"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 1000
    TX_COUNT = 114_240
    TX_COUNT_HEIGHT = 87_846
    TX_PER_BLOCK = 3
    RPC_PORT = 6215


class NIXTestnet(NIX):
    SHORTNAME = "tNIX"
    NET = "testnet"
    SEGWIT_HRP = ""
    P2PKH_VERBYTE = bytes.fromhex("01")
    # The first was in force for long and is still written, the second is the network's own.
    P2SH_VERBYTES = [bytes.fromhex("35"), bytes.fromhex("03")]
    RPC_PORT = 16215


class Ritocoin(Coin):
    NAME = "Ritocoin"
    SHORTNAME = "RITO"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("19")
    P2SH_VERBYTES = [bytes.fromhex("69")]
    XPUB_VERBYTES = bytes.fromhex("0534e7ca")
    XPRV_VERBYTES = bytes.fromhex("05347eac")
    GENESIS_HASH = "00000075e344bdf1c0e433f453764b1830a7aa19b2a5213e707502a22b779c1b"
    HEADER_HASH = x21s
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 55
    TX_COUNT = 1_188_090
    TX_COUNT_HEIGHT = 296_030
    TX_PER_BLOCK = 3
    RPC_PORT = 8766
    PEERS = [
        "electrum-rito.minermore.com s t",
    ]


class Sumcoin(Coin):
    NAME = "Sumcoin"
    SHORTNAME = "SUM"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("3f")
    P2SH_VERBYTES = [bytes.fromhex("c8"), bytes.fromhex("05")]
    WIF_BYTE = bytes.fromhex("bf")
    XPUB_VERBYTES = bytes.fromhex("0488b41c")
    XPRV_VERBYTES = bytes.fromhex("0488abe6")
    GENESIS_HASH = "37d4696c5072cd012f3b7c651e5ce56a1383577e4edacc2d289ec9b25eebfd5e"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 800
    TX_COUNT = 976_394
    TX_COUNT_HEIGHT = 659_520
    TX_PER_BLOCK = 2
    RPC_PORT = 3332
    PEER_DEFAULT_PORTS = {"t": "53332", "s": "53333"}


class UFO(Coin):
    NAME = "UniformFiscalObject"
    SHORTNAME = "UFO"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1b")
    P2SH_VERBYTES = [bytes.fromhex("44")]
    WIF_BYTE = bytes.fromhex("9b")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "ba1d39b4928ab03d813d952daf65fb7797fcf538a9c1b8274f4edc8557722d13"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 2000
    TX_COUNT = 1_608_926
    TX_COUNT_HEIGHT = 1_300_154
    TX_PER_BLOCK = 2
    RPC_PORT = 9888
    PEERS = [
        "electrumx1.ufobject.com s t",
    ]


class Unitus(Coin):
    NAME = "Unitus"
    SHORTNAME = "UIS"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("44")
    P2SH_VERBYTES = [bytes.fromhex("0a")]
    WIF_BYTE = bytes.fromhex("84")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "d8a2b2439d013a59f3bfc626a33487a3d7d27e42a3c9e0b81af814cd8e592f31"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 2000
    TX_COUNT = 3_484_561
    TX_COUNT_HEIGHT = 1_697_605
    TX_PER_BLOCK = 3
    RPC_PORT = 50604
    PEERS = [
        "electrumx.unituscurrency.com s t",
    ]


class Vertcoin(Coin):
    NAME = "Vertcoin"
    SHORTNAME = "VTC"
    NET = "mainnet"
    SEGWIT_HRP = "vtc"
    P2PKH_VERBYTE = bytes.fromhex("47")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "4d96a915f49d40b1e5c2844d1ee2dccb90013a990ccea12c492d22110489f0c4"
    DESERIALIZER = DeserializerSegWit
    REORG_LIMIT = 1000
    TX_COUNT = 2_383_423
    TX_COUNT_HEIGHT = 759_076
    TX_PER_BLOCK = 3
    RPC_PORT = 5888


class VertcoinTestnet(Vertcoin):
    SHORTNAME = "TVTC"
    NET = "testnet"
    SEGWIT_HRP = "tvtc"
    P2PKH_VERBYTE = bytes.fromhex("4a")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "cee8f24feb7a64c8f07916976aa4855decac79b6741a8ec2e32e2747497ad2c9"
    TX_COUNT = 2_383_423
    TX_COUNT_HEIGHT = 759_076
    TX_PER_BLOCK = 3
    RPC_PORT = 15888
    PEERS = [
        "electrumx-tvtc.javerity.com t15885 s15886",
    ]
