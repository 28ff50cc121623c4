"""Client connections: everything between a listening socket and the database."""

from electrumx.server.session.admin.local_rpc import LocalRPC
from electrumx.server.session.admin.selectors import SessionReferences
from electrumx.server.session.base import SessionBase
from electrumx.server.session.coin_sessions import (
    AuxPoWElectrumX,
    DashElectrumX,
    NameElectrumX,
    SmartCashElectrumX,
)
from electrumx.server.session.electrum import ElectrumX
from electrumx.server.session.engine.params import (
    BAD_REQUEST,
    DAEMON_ERROR,
    assert_boolean,
    assert_tx_hash,
    non_negative_integer,
    scripthash_to_hashX,
)
from electrumx.server.session.engine.session_groups import SessionGroup
from electrumx.server.session.manager import SessionManager

__all__ = [
    "BAD_REQUEST",
    "DAEMON_ERROR",
    "AuxPoWElectrumX",
    "DashElectrumX",
    "ElectrumX",
    "LocalRPC",
    "NameElectrumX",
    "SessionBase",
    "SessionGroup",
    "SessionManager",
    "SessionReferences",
    "SmartCashElectrumX",
    "assert_boolean",
    "assert_tx_hash",
    "non_negative_integer",
    "scripthash_to_hashX",
]
