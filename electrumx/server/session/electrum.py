"""The session of a wallet: the methods of all chapters, and its notifications."""

from collections.abc import Awaitable
from typing import Any

from electrumx.server.session.engine.limits import CONNECT_COST
from electrumx.server.session.methods.headers import HeaderMethods
from electrumx.server.session.methods.mempool import MempoolMethods
from electrumx.server.session.methods.scripthash import ScripthashMethods
from electrumx.server.session.methods.server import ServerMethods
from electrumx.server.session.methods.transaction import TransactionMethods


class ElectrumX(
    HeaderMethods, ScripthashMethods, TransactionMethods, MempoolMethods, ServerMethods
):
    """A client that speaks the Electrum protocol, 1.4 until it negotiates something else."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.max_response_size = self.shared.max_send
        self.set_request_handlers(self.PROTOCOL_MIN)
        self.bump_cost(CONNECT_COST)
        self.recalc_concurrency()

    def is_concerned(self) -> bool:
        """Say if ``notify`` might have to do at another height, whatever was touched."""
        return bool(self.subscriptions.mempool_statuses)

    def notify_height(self) -> None:
        """Tell the client of the new header, if it wants to hear."""
        if self.subscribe_headers:
            self.send_message(self.shared.header.message(self.rpc_version))

    def post_height(self) -> None:
        """Put the same behind what is to be sent: see ``flush``."""
        if self.subscribe_headers:
            self.post_lines(self.shared.header.message(self.rpc_version), 1)

    def notify(self, touched: set[bytes], height_changed: bool) -> Awaitable[None] | None:
        """Send the statuses of own scripts that were touched or have changed."""
        return self.subscriptions.notify(touched, height_changed)

    def on_lost(self) -> None:
        """End; nobody is told of anything any more."""
        super().on_lost()
        self.shared.fan_out.forget(self)
        self.subscriptions.scripts.end()
