"""The special transactions of Dash by their public names; lib.tx.dip2 defines them."""

from electrumx.lib.tx.dip2 import CbTx as DashCbTx
from electrumx.lib.tx.dip2 import DeserializerDIP2, TxOutPoint
from electrumx.lib.tx.dip2 import ProRegTx as DashProRegTx
from electrumx.lib.tx.dip2 import ProUpRegTx as DashProUpRegTx
from electrumx.lib.tx.dip2 import ProUpRevTx as DashProUpRevTx
from electrumx.lib.tx.dip2 import ProUpServTx as DashProUpServTx
from electrumx.lib.tx.dip2 import SpecialTx as DashTx
from electrumx.lib.tx.dip2 import SubTxCloseAccount as DashSubTxCloseAccount
from electrumx.lib.tx.dip2 import SubTxRegister as DashSubTxRegister
from electrumx.lib.tx.dip2 import SubTxResetKey as DashSubTxResetKey
from electrumx.lib.tx.dip2 import SubTxTopup as DashSubTxTopup

__all__ = [
    "DashCbTx",
    "DashProRegTx",
    "DashProUpRegTx",
    "DashProUpRevTx",
    "DashProUpServTx",
    "DashSubTxCloseAccount",
    "DashSubTxRegister",
    "DashSubTxResetKey",
    "DashSubTxTopup",
    "DashTx",
    "DeserializerDash",
    "TxOutPoint",
]


class DeserializerDash(DeserializerDIP2):
    """Reads Dash's transactions."""
