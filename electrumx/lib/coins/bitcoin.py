"""Bitcoin, and the test networks of Bitcoin Core.

Their NAME is that of ElectrumX 1.15; base.NAME_ALIASES has "Bitcoin" too.
"""

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import BitcoinCoreMixin, BitcoinMixin, BitcoinTestnetMixin


class BitcoinSegwit(BitcoinCoreMixin, BitcoinMixin, Coin):
    NAME = "BitcoinSegwit"
    SEGWIT_HRP = "bc"
    TX_COUNT = 1_368_093_517
    TX_COUNT_HEIGHT = 951_801
    TX_PER_BLOCK = 3000
    BLACKLIST_URL = "https://electrum.org/blacklist.json"
    PEERS = [
        "electrum.vom-stausee.de s t",
        "electrum.hsmiths.com s t",
        "helicarrier.bauerj.eu s t",
        "electrum.hodlister.co s",
        "electrum3.hodlister.co s",
        "btc.usebsv.com s50006",
        "fortress.qtornado.com s443 t",
        "ecdsa.net s110 t",
        "e2.keff.org s t",
        "currentlane.lovebitco.in s t",
        "electrum.jochen-hoenicke.de s50005 t50003",
        "vps5.hsmiths.com s",
        "electrum.emzy.de s",
        "electrum1.cipig.net t10000 s20000",
        "ulrichard.ch s",
        "hodlers.beer s",
        "5.9.83.108 s",
        "v7gtzf7nua6hdmb2wtqaqioqmesdb4xrlly4zwr7bvayxv2bpg665pqd.onion t",
        "qeqgdlw2ezf3uabook2ny3lztjxxzeyyoqw2k7cempzvqpknbmevhmyd.onion t",
        "kciybn4d4vuqvobdl2kdp3r2rudqbqvsymqwg4jomzft6m6gaibaf6yd.onion t",
        "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion t110",
        "v7o2hkemnt677k3jxcbosmjjxw3p5khjyu7jwv7orfy6rwtkizbshwqd.onion t57001",
        "nf365b5sbzk5j4jreimskffwnfpka7qtamyni5doohoom3g63o5tldad.onion t",
    ]


class BitcoinSegwitTestnet(BitcoinCoreMixin, BitcoinTestnetMixin, Coin):
    NAME = "BitcoinSegwit"
    NET = "testnet"
    SEGWIT_HRP = "tb"
    TX_COUNT = 536_377_099
    TX_COUNT_HEIGHT = 4_966_614
    TX_PER_BLOCK = 100
    PEERS = [
        "testnet.qtornado.com s t",
        "blackie.c3-soft.com s57006 t57005",
        "electrum.blockstream.info t60001 s60002",
        "testnet.aranguren.org s t",
        "v22019051929289916.bestsrv.de s50002 t50001",
        "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion t143",
        "gsw6sn27quwf6u3swgra6o7lrp5qau6kt3ymuyoxgkth6wntzm2bjwyd.onion s51002 t51001",
        "3tc6nefii2fwoc66dqvrwcyj64dd3r35ihgxvp4u37itsopns5fjtead.onion s50002 t50001",
    ]


class BitcoinSegwitTestnet4(BitcoinSegwitTestnet):
    NAME = "BitcoinSegwit"
    NET = "testnet4"
    GENESIS_HASH = "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043"
    RPC_PORT = 48332
    TX_COUNT = 14_410_912
    TX_COUNT_HEIGHT = 137_121
    TX_PER_BLOCK = 100
    PEERS = [
        "blackie.c3-soft.com s57010 t57009",
        "testnet4-electrumx.wakiyamap.dev",
        "13.212.194.61 s60002 t50001",
        "v22019051929289916.bestsrv.de s60002 t60001",
        "fulcrum.theuplink.net s60002",
        "134.199.227.217 s50002 t50001",
        "bitcoin.stagemole.eu s5010 t5000",
        "testnet4.qtornado.com s51012 t51011",
        "gsw6sn27quwf6u3swgra6o7lrp5qau6kt3ymuyoxgkth6wntzm2bjwyd.onion s52002 t52001",
    ]


class BitcoinSegwitSignet(BitcoinSegwitTestnet):
    NAME = "BitcoinSegwit"
    NET = "signet"
    GENESIS_HASH = "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"
    RPC_PORT = 38332
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 21
    PEERS = []


class BitcoinSegwitMutinynet(BitcoinSegwitSignet):
    """A signet with other signers: the genesis block is the same."""

    NAME = "BitcoinSegwit"
    NET = "mutinynet"
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 21
    PEERS = [
        "electrum.mutinynet.com t50001",
        "5.9.83.108 s51234",
    ]


class BitcoinSegwitRegtest(BitcoinSegwitTestnet):
    NAME = "BitcoinSegwit"
    NET = "regtest"
    SEGWIT_HRP = "bcrt"
    GENESIS_HASH = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    RPC_PORT = 18443
    TX_COUNT = 1
    TX_COUNT_HEIGHT = 1
    TX_PER_BLOCK = 21
    PEERS = []
