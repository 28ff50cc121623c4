"""The session of a wallet: the methods of all chapters, and its notifications."""

from typing import Any

from electrumx.server.session.limits import CONNECT_COST
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
        self.max_response_size = self.session_mgr.max_send
        self.set_request_handlers(self.PROTOCOL_MIN)
        self.bump_cost(CONNECT_COST)
        self.recalc_concurrency()

    def is_concerned(self, touched: set[bytes], height_changed: bool) -> bool:
        """Say if ``notify`` would have anything to do: most often it would not."""
        if height_changed:
            return self.subscribe_headers or bool(self.hashX_subs)
        return not self.hashX_subs.keys().isdisjoint(touched)

    async def notify(self, touched: set[bytes], height_changed: bool) -> None:
        """Send a new header first, then the statuses of touched scripts."""
        if height_changed and self.subscribe_headers:
            args = (self.session_mgr.hsub_results,)
            await self.send_notification("blockchain.headers.subscribe", args)
        await self.notify_scripts(touched, height_changed)
