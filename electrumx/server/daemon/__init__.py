"""The connection to the full node."""

from electrumx.server.daemon.client import Daemon
from electrumx.server.daemon.responses import DaemonError
from electrumx.server.daemon.retry import ServiceRefusedError, WarmingUpError
from electrumx.server.daemon.variants import (
    DashDaemon,
    DecredDaemon,
    FakeEstimateFeeDaemon,
    FakeEstimateLegacyRPCDaemon,
    LegacyRPCDaemon,
    PreLegacyRPCDaemon,
    SmartCashDaemon,
    ZcoinMtpDaemon,
)

__all__ = [
    "Daemon",
    "DaemonError",
    "DashDaemon",
    "DecredDaemon",
    "FakeEstimateFeeDaemon",
    "FakeEstimateLegacyRPCDaemon",
    "LegacyRPCDaemon",
    "PreLegacyRPCDaemon",
    "ServiceRefusedError",
    "SmartCashDaemon",
    "WarmingUpError",
    "ZcoinMtpDaemon",
]
