"""The special transactions of Axe by their public names; lib.tx.dip2 defines them."""

from electrumx.lib.tx.dip2 import CbTx as AxeCbTx
from electrumx.lib.tx.dip2 import DeserializerDIP2, TxOutPoint
from electrumx.lib.tx.dip2 import ProRegTx as AxeProRegTx
from electrumx.lib.tx.dip2 import ProUpRegTx as AxeProUpRegTx
from electrumx.lib.tx.dip2 import ProUpRevTx as AxeProUpRevTx
from electrumx.lib.tx.dip2 import ProUpServTx as AxeProUpServTx
from electrumx.lib.tx.dip2 import SpecialTx as AxeTx
from electrumx.lib.tx.dip2 import SubTxCloseAccount as AxeSubTxCloseAccount
from electrumx.lib.tx.dip2 import SubTxRegister as AxeSubTxRegister
from electrumx.lib.tx.dip2 import SubTxResetKey as AxeSubTxResetKey
from electrumx.lib.tx.dip2 import SubTxTopup as AxeSubTxTopup

__all__ = [
    "AxeCbTx",
    "AxeProRegTx",
    "AxeProUpRegTx",
    "AxeProUpRevTx",
    "AxeProUpServTx",
    "AxeSubTxCloseAccount",
    "AxeSubTxRegister",
    "AxeSubTxResetKey",
    "AxeSubTxTopup",
    "AxeTx",
    "DeserializerAxe",
    "TxOutPoint",
]


class DeserializerAxe(DeserializerDIP2):
    """Reads Axe's transactions."""
