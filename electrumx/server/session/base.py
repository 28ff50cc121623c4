"""What wallet and admin sessions have in common: identity, life, logging.

How a session answers is in ``requests``.  It has no task: the connection calls it.
"""

import itertools
import logging
from collections.abc import Hashable
from functools import cache
from typing import Any

from electrumx.lib import util
from electrumx.server.session.engine.dispatch import is_large
from electrumx.server.session.engine.json_result import encode_result
from electrumx.server.session.engine.limits import SessionLimits
from electrumx.server.session.engine.method_registry import (
    ProtocolTuple,
    handler_names,
    handler_table,
)
from electrumx.server.session.engine.receive import RequestSession
from electrumx.server.session.shared.state import SharedState

MASKED_ADDRESS = "xx.xx.xx.xx:xx"
# A session that sent so many bytes is worth a line when it ends.
MUCH_SENT = 1_000_000

_session_ids = itertools.count()


@cache
def _logger_of(class_name: str) -> logging.Logger:
    return util.class_logger(__name__, class_name)


class SessionBase(RequestSession):
    """A connection of a client: a wallet, or the administrator's tool.

    ``kind`` is the protocol of the service it came through; ``transport`` is of ``transport``.
    """

    def __init__(
        self,
        session_mgr: Any,
        db: Any,
        mempool: Any,
        peer_mgr: Any,
        kind: str,
        transport: Any,
    ) -> None:
        shared: SharedState = session_mgr.shared
        super().__init__(transport, shared.method_counts)
        self.session_mgr = session_mgr
        self.shared = shared
        self.env = shared.env
        if self.limited:
            SessionLimits.from_env(self.env).apply(self)
        self.concurrency_target = self.initial_concurrent
        self.parsing_lock = shared.parsing_lock
        self.db = db
        self.mempool = mempool
        self.peer_mgr = peer_mgr
        self.kind = kind
        # Subclasses use what only their coins have.
        self.coin: Any = self.env.coin
        self.client = "unknown"
        self.txs_sent = 0
        self.log_me = shared.table.log_new
        self.protocol_tuple: ProtocolTuple = (0,)
        self.request_handlers = {}
        self.session_id = next(_session_ids)
        address = self.remote_address_string()
        # A health check of the administrator's comes every minute.
        level = logging.INFO if self.limited else logging.DEBUG
        text = f"{kind.upper()} {address}, {len(shared.table):,d} total"
        self.log_limited("new connection", text, level)
        shared.table.add(self)
        if self.limited and (remote := self.remote_address()) is not None:
            self.leniency = shared.table.leniency(remote.host)

    # -- identity

    @property
    def logger(self) -> Any:
        """The logger that names the session; made anew, as most sessions have little to say."""
        logger = _logger_of(type(self).__name__)
        return util.ConnectionLogger(logger, {"conn_id": str(self.session_id)})

    def log_limited(self, kind: str, text: str, level: int = logging.INFO) -> None:
        """Log what a client can cause as often as it likes; ``kind`` is what such lines share."""
        self.shared.log_limit.log(self.logger, kind, text, level)

    def remote_address(self) -> Any:
        """Return the peer's address (a NetAddress), or None."""
        return self.transport.remote_address()

    def remote_address_string(self, *, for_log: bool = True) -> str:
        """Return the peer's address; masked in logs if the operator wants that."""
        if for_log and self.env.anon_logs:
            return MASKED_ADDRESS
        address = self.remote_address()
        return "unknown" if address is None else str(address)

    def flags(self) -> str:
        """Return the status column of the sessions table."""
        status = self.kind[0].upper()
        if self.is_closing():
            status += "C"
        if self.log_me:
            status += "L"
        return status + str(self.concurrency_target)

    def client_text(self) -> str:
        """Return how the client calls itself, short enough for a table."""
        return self.client[:17]

    def protocol_version_string(self) -> str:
        """Return the negotiated protocol."""
        return util.version_string(self.protocol_tuple)

    def sub_count(self) -> int:
        """Return the number of subscriptions held."""
        return 0

    def is_concerned(self) -> bool:
        """Say if ``notify`` might have to do at another height, whatever was touched."""
        return False

    def notify_height(self) -> None:
        """Tell the client of the new header, if it wants to hear."""

    def post_height(self) -> None:
        """Put the same behind what is to be sent: see ``flush``."""

    def notify(self, touched: set[bytes], height_changed: bool) -> Any:
        """Tell the client of its scripts that were touched; return an awaitable if that waits."""
        return None

    # -- life

    def max_message_size(self) -> int:
        """Return the bound on messages that the transport keeps, in bytes."""
        return int(self.env.max_recv)

    def on_lost(self) -> None:
        """Leave the session table, with a line in the log if there is something to say."""
        super().on_lost()
        self.shared.table.remove(self)
        message = ""
        if self.concurrency_target < self.initial_concurrent * 0.8:
            message += " whilst throttled"
        if self.send_size >= MUCH_SENT:
            message += f".  Sent {self.send_size:,d} bytes in {self.send_count:,d} messages"
        if message:
            self.log_limited("disconnected", "disconnected" + message)

    def extra_cost(self) -> float:
        """Return what the sessions of the same groups add to this one's cost."""
        return self.shared.table.groups.extra_cost(self) if self.limited else 0.0

    def retry_secs(self) -> int:
        """Return after how many seconds a client over the limit is served again."""
        return self.shared.table.groups.retry_secs(self, self.cost_hard_limit)

    def on_disconnect_due_to_excessive_session_cost(self) -> None:
        """Log who is being thrown out."""
        address = self.remote_address()
        ip = None if address is None else str(address.host)
        groups = [group.name for group in self.shared.table.groups.of(self)]
        if self.env.anon_logs:
            ip, groups = "xx.xx.xx.xx", ["xx" for _group in groups]
        text = f"closing session over res usage. ip: {ip}. groups: {groups}"
        self.log_limited("closing session over res usage", text)

    # -- requests

    async def bounded_json(self, key: Hashable, result: Any) -> Any:
        """Return a result, encoded if it is large; RPCError, from then on, if it is too large.

        ``key`` says what was asked for; see ``OversizedResults``.
        """
        if not is_large(result):
            return result
        encoded = await self.in_thread(0.0, encode_result, result)
        self.shared.oversized.check_size(key, len(encoded), self.bw_cost_per_byte)
        return encoded

    def set_request_handlers(self, ptuple: ProtocolTuple) -> None:
        """Serve the requests of a protocol version from now on."""
        self.protocol_tuple = ptuple
        self.request_handlers = handler_names(type(self), ptuple)  # type: ignore[arg-type] # hashable
        self._handlers = handler_table(type(self), ptuple)  # type: ignore[arg-type] # hashable
