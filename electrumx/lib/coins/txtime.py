"""Proof of stake in Peercoin's way: transactions have, or had, a time."""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import (
    FAKE_FEE_DAEMON,
    FAKE_FEE_LEGACY_DAEMON,
    LEGACY_DAEMON,
    PRE_LEGACY_DAEMON,
    TOKENPAY_PROCESSOR,
    ExosMixin,
    ScryptMixin,
)
from electrumx.lib.hash import double_sha256
from electrumx.lib.header_hashes import (
    by_version,
    nist5,
    quark,
    scrypt,
    trezar_blake2s,
    tribus,
    x13,
)
from electrumx.lib.tx import (
    DeserializerBlackcoin,
    DeserializerECCoin,
    DeserializerElectra,
    DeserializerPeercoin,
    DeserializerReddcoin,
    DeserializerSimplicity,
    DeserializerTokenPay,
    DeserializerTrezarcoin,
    DeserializerTxTime,
    DeserializerTxTimeSegWitNavCoin,
)


class Bitbay(ScryptMixin, Coin):
    NAME = "Bitbay"
    SHORTNAME = "BAY"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("19")
    P2SH_VERBYTES = [bytes.fromhex("55")]
    WIF_BYTE = bytes.fromhex("99")
    GENESIS_HASH = "0000075685d3be1f253ce777174b1594354e79954d2a32a6f77fe9cba00e6467"
    REORG_LIMIT = 5000
    TX_COUNT = 4_594_999
    TX_COUNT_HEIGHT = 1_667_070
    TX_PER_BLOCK = 3
    RPC_PORT = 19914


class BitcoinPlus(Coin):
    NAME = "BitcoinPlus"
    SHORTNAME = "XBC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("19")
    P2SH_VERBYTES = [bytes.fromhex("55")]
    WIF_BYTE = bytes.fromhex("99")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "0000005f6a28e686f641c616e56182d1b43afbe08a223f23bda23cdf9d55b882"
    HEADER_HASH = x13
    DESERIALIZER = DeserializerTxTime
    DAEMON = LEGACY_DAEMON
    REORG_LIMIT = 2000
    TX_COUNT = 1_479_247
    TX_COUNT_HEIGHT = 749_740
    TX_PER_BLOCK = 2
    RPC_PORT = 8885


class Blackcoin(ScryptMixin, Coin):
    NAME = "Blackcoin"
    SHORTNAME = "BLK"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("19")
    P2SH_VERBYTES = [bytes.fromhex("55")]
    WIF_BYTE = bytes.fromhex("99")
    GENESIS_HASH = "000001faef25dec4fbcf906e6242621df2c183bf232f263d0ba5b101911e4563"
    DESERIALIZER = DeserializerBlackcoin
    REORG_LIMIT = 5000
    TX_COUNT = 4_594_999
    TX_COUNT_HEIGHT = 1_667_070
    TX_PER_BLOCK = 3
    RPC_PORT = 15715


class BlackcoinTestnet(Blackcoin):
    NAME = "BlackcoinTestnet"
    SHORTNAME = "tBLK"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    GENESIS_HASH = "0000724595fb3b9609d441cbfb9577615c292abf07d996d3edabc48de843642d"
    DAEMON = FAKE_FEE_DAEMON
    ESTIMATE_FEE = 0.001
    RELAY_FEE = 0.001
    REORG_LIMIT = 500
    TX_COUNT = 1_401_229
    TX_COUNT_HEIGHT = 698_611
    TX_PER_BLOCK = 2
    RPC_PORT = 25715
    PEERS = [
        "electrum1.blackcoin.nl t10011 s10012",
        "electrum2.blackcoin.nl t20011 s20012",
        "electrum3.blackcoin.nl t30011 s30012",
    ]


class Cannacoin(Coin):
    NAME = "cannacoin"
    SHORTNAME = "CCN"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1c")
    WIF_BYTE = bytes.fromhex("bd")
    GENESIS_HASH = "f1b4cdf03c86099a0758f1c018d1a10bf05afab436c92b93b42bb88970de9821"
    DESERIALIZER = DeserializerReddcoin
    REORG_LIMIT = 5000
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 1
    RPC_PORT = 1234


class DeepOnion(Coin):
    NAME = "DeepOnion"
    SHORTNAME = "ONION"
    NET = "mainnet"
    SEGWIT_HRP = "dpn"
    P2PKH_VERBYTE = bytes.fromhex("1f")
    P2SH_VERBYTES = [bytes.fromhex("4e")]
    WIF_BYTE = bytes.fromhex("9f")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "000004e29458ef4f2e0abab544737b07344e6ff13718f7c2d12926166db07b5e"
    HEADER_HASH = x13
    DESERIALIZER = DeserializerTxTime
    DAEMON = LEGACY_DAEMON
    TX_COUNT = 1_194_707
    TX_COUNT_HEIGHT = 530_000
    TX_PER_BLOCK = 2
    RPC_PORT = 18580


class Denarius(Coin):
    NAME = "Denarius"
    SHORTNAME = "D"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1e")
    P2SH_VERBYTES = [bytes.fromhex("5a")]
    WIF_BYTE = bytes.fromhex("9e")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000d5dbbda01621cfc16bbc1f9bf3264d641a5dbf0de89fd0182c2c4828fcd"
    HEADER_HASH = tribus
    DESERIALIZER = DeserializerTxTime
    DAEMON = FAKE_FEE_DAEMON
    ESTIMATE_FEE = 0.000_01
    RELAY_FEE = 0.000_01
    TX_COUNT = 4230
    TX_COUNT_HEIGHT = 306_187
    TX_PER_BLOCK = 4000
    RPC_PORT = 32339


class DenariusTestnet(Denarius):
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("12")
    P2SH_VERBYTES = [bytes.fromhex("74")]
    WIF_BYTE = bytes.fromhex("ef")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "000086bfe8264d241f7f8e5393f747784b8ca2aa98bdd066278d590462a4fdb4"
    REORG_LIMIT = 2000
    RPC_PORT = 32338


class ECCoin(Coin):
    NAME = "ECCoin"
    SHORTNAME = "ECC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("21")
    P2SH_VERBYTES = [bytes.fromhex("08")]
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "a60ac43c88dbc44b826cf315352a8a7b373d2af8b6e1c4c4a0638859c5e9ecd1"
    VALUE_PER_COIN = 1_000_000
    HEADER_HASH = scrypt
    DESERIALIZER = DeserializerECCoin
    TX_COUNT = 4_661_197
    TX_COUNT_HEIGHT = 2_114_846
    TX_PER_BLOCK = 10
    RPC_PORT = 19119


class EXOS(ExosMixin, Coin):
    NAME = "EXOS"
    SHORTNAME = "EXOS"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("1c")
    # The first was in force for long and is still written, the second is the network's own.
    P2SH_VERBYTES = [bytes.fromhex("05"), bytes.fromhex("57")]
    WIF_BYTE = bytes.fromhex("9c")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000036090a68c523471da7a4f0f958c1b4403fef74a003be7f71877699cab7"
    DESERIALIZER = DeserializerTxTime
    # Its nodes give no raw blocks.
    DAEMON = PRE_LEGACY_DAEMON
    TX_COUNT = 1000
    TX_COUNT_HEIGHT = 10_000
    TX_PER_BLOCK = 4
    RPC_PORT = 4561


class EXOSTestnet(EXOS):
    SHORTNAME = "tEXOS"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("4b")
    # The first was in force for long and is still written, the second is the network's own.
    P2SH_VERBYTES = [bytes.fromhex("05"), bytes.fromhex("ce")]
    WIF_BYTE = bytes.fromhex("cb")
    XPUB_VERBYTES = bytes.fromhex("043587cf")
    XPRV_VERBYTES = bytes.fromhex("04358394")
    GENESIS_HASH = "0000059bb2c2048493efcb0f1a034972b3ce4089d54c93b69aaab212fb369887"
    RPC_PORT = 14561


class Electra(Coin):
    NAME = "Electra"
    SHORTNAME = "ECA"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("21")
    P2SH_VERBYTES = [bytes.fromhex("28")]
    WIF_BYTE = bytes.fromhex("a1")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00000f98da995de0ef1665c7d3338687923c1199230a44ecbdb5cec9306e4f4e"
    HEADER_HASH = by_version((0, nist5), (8, double_sha256), (9, nist5))
    DESERIALIZER = DeserializerElectra
    REORG_LIMIT = 100
    TX_COUNT = 615_729
    TX_COUNT_HEIGHT = 205_243
    TX_PER_BLOCK = 3
    RPC_PORT = 5788


class GravityZeroCoin(ScryptMixin, Coin):
    NAME = "GravityZeroCoin"
    SHORTNAME = "GZRO"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("26")
    WIF_BYTE = bytes.fromhex("26")
    GENESIS_HASH = "0000028bfbf9ccaed8f28b3ca6b3ffe6b65e29490ab0e4430679bf41cc7c164f"
    DAEMON = FAKE_FEE_LEGACY_DAEMON
    ESTIMATE_FEE = 0.01
    RELAY_FEE = 0.01
    TX_COUNT = 100
    TX_COUNT_HEIGHT = 747_635
    TX_PER_BLOCK = 2
    RPC_PORT = 36442


class Myce(Coin):
    NAME = "Myce"
    SHORTNAME = "YCE"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("32")
    # The first was in force for long and is still written, the second is the network's own.
    P2SH_VERBYTES = [bytes.fromhex("05"), bytes.fromhex("55")]
    WIF_BYTE = bytes.fromhex("99")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "0000c74cc66c72cb1a327c5c1d4893ae5276aa50be49fb23cec21df1a2f20d87"
    HEADER_HASH = by_version((0, scrypt), (7, double_sha256))
    DESERIALIZER = DeserializerSimplicity
    REORG_LIMIT = 100
    TX_COUNT = 1_568_977
    TX_COUNT_HEIGHT = 774_450
    TX_PER_BLOCK = 3
    RPC_PORT = 23512


class Navcoin(Coin):
    NAME = "Navcoin"
    SHORTNAME = "NAV"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("35")
    P2SH_VERBYTES = [bytes.fromhex("55")]
    WIF_BYTE = bytes.fromhex("96")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "00006a4e3e18c71c6d48ad6c261e2254fa764cf29607a4357c99b712dfbb8e6a"
    HEADER_HASH = by_version((0, x13), (7, double_sha256))
    DESERIALIZER = DeserializerTxTimeSegWitNavCoin
    REORG_LIMIT = 1000
    TX_COUNT = 137_641
    TX_COUNT_HEIGHT = 3_649_662
    TX_PER_BLOCK = 2
    RPC_PORT = 44444


class Neblio(ScryptMixin, Coin):
    NAME = "Neblio"
    SHORTNAME = "NEBL"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("35")
    P2SH_VERBYTES = [bytes.fromhex("70")]
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "7286972be4dbc1463d256049b7471c252e6557e222cab9be73181d359cd28bcc"
    REORG_LIMIT = 1000
    TX_COUNT = 23_675
    TX_COUNT_HEIGHT = 22_785
    TX_PER_BLOCK = 1
    RPC_PORT = 6326


class Peercoin(Coin):
    NAME = "Peercoin"
    SHORTNAME = "PPC"
    NET = "mainnet"
    SEGWIT_HRP = "pc"
    P2PKH_VERBYTE = bytes.fromhex("37")
    P2SH_VERBYTES = [bytes.fromhex("75")]
    WIF_BYTE = bytes.fromhex("b7")
    GENESIS_HASH = "0000000032fe677166d54963b62a4677d8957e87c508eaa4fd7eb1c880cd27e3"
    VALUE_PER_COIN = 1_000_000
    DESERIALIZER = DeserializerPeercoin
    DAEMON = FAKE_FEE_DAEMON
    ESTIMATE_FEE = 0.001
    RELAY_FEE = 0.01
    REORG_LIMIT = 5000
    TX_COUNT = 1_691_771
    TX_COUNT_HEIGHT = 455_409
    TX_PER_BLOCK = 4
    RPC_PORT = 9902
    PEERS = [
        "electrum.peercoinexplorer.net s",
    ]


class PeercoinTestnet(Peercoin):
    NAME = "PeercoinTestnet"
    SHORTNAME = "tPPC"
    NET = "testnet"
    SEGWIT_HRP = "tpc"
    P2PKH_VERBYTE = bytes.fromhex("6f")
    P2SH_VERBYTES = [bytes.fromhex("c4")]
    WIF_BYTE = bytes.fromhex("ef")
    GENESIS_HASH = "00000001f757bb737f6596503e17cd17b0658ce630cc727c0cca81aec47c9f06"


class Reddcoin(Coin):
    NAME = "Reddcoin"
    SHORTNAME = "RDD"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("3d")
    WIF_BYTE = bytes.fromhex("bd")
    GENESIS_HASH = "b868e0d95a3c3c0e0dadc67ee587aaf9dc8acbf99e3b4b3110fad4eb74c1decc"
    DESERIALIZER = DeserializerReddcoin
    TX_COUNT = 5_413_508
    TX_COUNT_HEIGHT = 1_717_382
    TX_PER_BLOCK = 3
    RPC_PORT = 45443


class Simplicity(Coin):
    NAME = "Simplicity"
    SHORTNAME = "SPL"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("12")
    # The first was in force for long and is still written, the second is the network's own.
    P2SH_VERBYTES = [bytes.fromhex("05"), bytes.fromhex("3b")]
    WIF_BYTE = bytes.fromhex("5d")
    XPUB_VERBYTES = bytes.fromhex("0444d5bc")
    XPRV_VERBYTES = bytes.fromhex("0444f0a3")
    GENESIS_HASH = "f4bbfc518aa3622dbeb8d2818a606b82c2b8b1ac2f28553ebdb6fc04d7abaccf"
    HEADER_HASH = by_version((0, quark), (2, double_sha256))
    DESERIALIZER = DeserializerSimplicity
    REORG_LIMIT = 100
    TX_COUNT = 1_726_548
    TX_COUNT_HEIGHT = 1_040_000
    TX_PER_BLOCK = 5
    RPC_PORT = 11958


class TokenPay(ScryptMixin, Coin):
    NAME = "TokenPay"
    SHORTNAME = "TPAY"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("41")
    P2SH_VERBYTES = [bytes.fromhex("7e")]
    WIF_BYTE = bytes.fromhex("b3")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "000008b71ab32e585a23f0de642dc113740144e94c0ece047751e9781f953ae9"
    DESERIALIZER = DeserializerTokenPay
    DAEMON = LEGACY_DAEMON
    # Anonymous inputs spend no indexed output.
    BLOCK_PROCESSOR = TOKENPAY_PROCESSOR
    REORG_LIMIT = 500
    TX_COUNT = 147_934
    TX_COUNT_HEIGHT = 73_967
    TX_PER_BLOCK = 100
    RPC_PORT = 8800
    PEERS = [
        "electrum-us.tpay.ai s",
        "electrum-eu.tpay.ai s",
    ]


class Trezarcoin(Coin):
    NAME = "Trezarcoin"
    SHORTNAME = "TZC"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("42")
    P2SH_VERBYTES = [bytes.fromhex("08")]
    WIF_BYTE = bytes.fromhex("c2")
    XPUB_VERBYTES = bytes.fromhex("0488b21e")
    XPRV_VERBYTES = bytes.fromhex("0488ade4")
    GENESIS_HASH = "24502ba55d673d2ee9170d83dae2d1adb3bfb4718e4f200db9951382cc4f6ee6"
    VALUE_PER_COIN = 1_000_000
    HEADER_HASH = trezar_blake2s
    DESERIALIZER = DeserializerTrezarcoin
    REORG_LIMIT = 2000
    TX_COUNT = 742_886
    TX_COUNT_HEIGHT = 643_128
    TX_PER_BLOCK = 2
    RPC_PORT = 17299
    PEERS = [
        "electrumx1.trezarcoin.com s t",
    ]


class Verge(Coin):
    NAME = "Verge"
    SHORTNAME = "XVG"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("30")
    P2SH_VERBYTES = [bytes.fromhex("33")]
    GENESIS_HASH = "00000fc63692467faeb20cdb3b53200dc601d75bdfa1001463304cc790d77278"
    HEADER_HASH = scrypt
    DESERIALIZER = DeserializerTxTime
    TX_COUNT = 500_000
    TX_COUNT_HEIGHT = 3_082_138
    TX_PER_BLOCK = 1
    RPC_PORT = 20102
    PEERS = [
        "electrumx-verge.cloud s50002 t50001",
        "electrum-verge.cloud s50002 t50001",
    ]
