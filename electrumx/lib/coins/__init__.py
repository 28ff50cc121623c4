"""The coins: parameters only, one module per family of leaf classes.

Importing this package imports all of them, so that ``Coin.lookup_coin_class`` knows them.
"""

from electrumx.lib.coins.base import Block, Coin, CoinError, ServerClass
from electrumx.lib.coins.bitcoin import (
    BitcoinSegwit,
    BitcoinSegwitMutinynet,
    BitcoinSegwitRegtest,
    BitcoinSegwitSignet,
    BitcoinSegwitTestnet,
    BitcoinSegwitTestnet4,
)
from electrumx.lib.coins.bitcoin_cash import (
    BitcoinCash,
    BitcoinCashRegtest,
    BitcoinCashTestnet,
    BitcoinNolnet,
)
from electrumx.lib.coins.bitcoin_sv import (
    BitcoinSV,
    BitcoinSVRegtest,
    BitcoinSVScalingTestnet,
    BitcoinSVTestnet,
)
from electrumx.lib.coins.litecoin import Litecoin, LitecoinRegtest, LitecoinTestnet
from electrumx.lib.coins.mixins import BitcoinCoreMixin, BitcoinMixin, BitcoinTestnetMixin

__all__ = [
    "BitcoinCash",
    "BitcoinCashRegtest",
    "BitcoinCashTestnet",
    "BitcoinCoreMixin",
    "BitcoinMixin",
    "BitcoinNolnet",
    "BitcoinSV",
    "BitcoinSVRegtest",
    "BitcoinSVScalingTestnet",
    "BitcoinSVTestnet",
    "BitcoinSegwit",
    "BitcoinSegwitMutinynet",
    "BitcoinSegwitRegtest",
    "BitcoinSegwitSignet",
    "BitcoinSegwitTestnet",
    "BitcoinSegwitTestnet4",
    "BitcoinTestnetMixin",
    "Block",
    "Coin",
    "CoinError",
    "Litecoin",
    "LitecoinRegtest",
    "LitecoinTestnet",
    "ServerClass",
]
