"""Wire formats of transactions: types, the bounded reader, and one module per family.

Nothing here knows a coin's parameters; a coin names its deserializer.
"""

from electrumx.lib.errors import DeserializeError, SkipTxDeserialize
from electrumx.lib.tx.bitcoin import (
    Deserializer,
    DeserializerSegWit,
)
from electrumx.lib.tx.bitcoin_diamond import (
    DeserializerBitcoinDiamond,
    DeserializerBitcoinDiamondSegWit,
    TxBitcoinDiamond,
    TxBitcoinDiamondSegWit,
)
from electrumx.lib.tx.decred import (
    DeserializerDecred,
    TxDcr,
    TxInputDcr,
    TxInWitnessDcr,
    TxOutputDcr,
)
from electrumx.lib.tx.headers import (
    DeserializerAuxPow,
    DeserializerAuxPowSegWit,
    DeserializerBitcoinAtom,
    DeserializerEquihash,
    DeserializerEquihashSegWit,
    DeserializerPrimecoin,
    DeserializerXaya,
)
from electrumx.lib.tx.litecoin import (
    DeserializerLitecoin,
    TxMWEB,
)
from electrumx.lib.tx.reader import (
    Reader,
)
from electrumx.lib.tx.single_sha256 import (
    DeserializerGroestlcoin,
    DeserializerSmartCash,
)
from electrumx.lib.tx.txtime import (
    DeserializerBlackcoin,
    DeserializerECCoin,
    DeserializerElectra,
    DeserializerEmercoin,
    DeserializerPeercoin,
    DeserializerReddcoin,
    DeserializerSimplicity,
    DeserializerTokenPay,
    DeserializerTrezarcoin,
    DeserializerTxTime,
    DeserializerTxTimeSegWit,
    DeserializerTxTimeSegWitNavCoin,
    TxECCoin,
    TxInputTokenPay,
    TxInputTokenPayStealth,
    TxNavCoin,
    TxNavCoinSegWit,
    TxTime,
    TxTimeLast,
    TxTimeSegWit,
    TxTrezarcoin,
)
from electrumx.lib.tx.types import (
    MINUS_1,
    ZERO,
    AnyTx,
    Tx,
    TxInput,
    TxOutput,
    TxSegWit,
)
from electrumx.lib.tx.zcash import (
    DeserializerPIVX,
    DeserializerZcash,
    TxJoinSplit,
)
from electrumx.lib.tx.zcash_v5 import (
    TxZcashV5,
    TxZcashV6,
)
from electrumx.lib.tx.zcoin import (
    DeserializerZcoin,
)

__all__ = [
    "MINUS_1",
    "ZERO",
    "AnyTx",
    "DeserializeError",
    "Deserializer",
    "DeserializerAuxPow",
    "DeserializerAuxPowSegWit",
    "DeserializerBitcoinAtom",
    "DeserializerBitcoinDiamond",
    "DeserializerBitcoinDiamondSegWit",
    "DeserializerBlackcoin",
    "DeserializerDecred",
    "DeserializerECCoin",
    "DeserializerElectra",
    "DeserializerEmercoin",
    "DeserializerEquihash",
    "DeserializerEquihashSegWit",
    "DeserializerGroestlcoin",
    "DeserializerLitecoin",
    "DeserializerPIVX",
    "DeserializerPeercoin",
    "DeserializerPrimecoin",
    "DeserializerReddcoin",
    "DeserializerSegWit",
    "DeserializerSimplicity",
    "DeserializerSmartCash",
    "DeserializerTokenPay",
    "DeserializerTrezarcoin",
    "DeserializerTxTime",
    "DeserializerTxTimeSegWit",
    "DeserializerTxTimeSegWitNavCoin",
    "DeserializerXaya",
    "DeserializerZcash",
    "DeserializerZcoin",
    "Reader",
    "SkipTxDeserialize",
    "Tx",
    "TxBitcoinDiamond",
    "TxBitcoinDiamondSegWit",
    "TxDcr",
    "TxECCoin",
    "TxInWitnessDcr",
    "TxInput",
    "TxInputDcr",
    "TxInputTokenPay",
    "TxInputTokenPayStealth",
    "TxJoinSplit",
    "TxMWEB",
    "TxNavCoin",
    "TxNavCoinSegWit",
    "TxOutput",
    "TxOutputDcr",
    "TxSegWit",
    "TxTime",
    "TxTimeLast",
    "TxTimeSegWit",
    "TxTrezarcoin",
    "TxZcashV5",
    "TxZcashV6",
]
