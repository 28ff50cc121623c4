"""Wire formats of transactions: types, the bounded reader, and one module per family.

Nothing here knows a coin's parameters; a coin names its deserializer.
"""

from electrumx.lib.errors import DeserializeError, SkipTxDeserialize
from electrumx.lib.tx.bitcoin import Deserializer, DeserializerSegWit
from electrumx.lib.tx.litecoin import DeserializerLitecoin, TxMWEB
from electrumx.lib.tx.reader import Reader
from electrumx.lib.tx.types import MINUS_1, ZERO, AnyTx, Tx, TxInput, TxOutput, TxSegWit

__all__ = [
    "MINUS_1",
    "ZERO",
    "AnyTx",
    "DeserializeError",
    "Deserializer",
    "DeserializerLitecoin",
    "DeserializerSegWit",
    "Reader",
    "SkipTxDeserialize",
    "Tx",
    "TxInput",
    "TxMWEB",
    "TxOutput",
    "TxSegWit",
]
