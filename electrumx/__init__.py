"""An Electrum server: indexes a full node's chain and serves light wallets.

``Controller`` and ``Env`` are loaded on first use, so that importing ``electrumx.lib`` stays
light.  The server's command imports this before it notes signals: ``typing`` alone would double
the time that it takes.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

version_short = "3.0.0"
version = f"ElectrumX {version_short}"


def __getattr__(name: str) -> "Any":
    if name == "Controller":
        from electrumx.server.controller import Controller

        return Controller
    if name == "Env":
        from electrumx.server.env import Env

        return Env
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
