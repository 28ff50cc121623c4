"""A client's connection, of a wallet or of the administrator's tool: its identity and its parts.

A session has no task: its transport calls it, which passes messages to the ``Receiver``.
"""

import itertools
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import cache
from typing import Any, Protocol, TypeAlias

from aiorpcx import NetAddress

from electrumx.lib import util
from electrumx.lib.coins import Coin
from electrumx.lib.protocol_versions import defined_version
from electrumx.server.db import DB
from electrumx.server.env import Env
from electrumx.server.mempool.sync import MemPool
from electrumx.server.peers import PeerManager
from electrumx.server.session.engine.cost_account import CostAccount, FreeAccount
from electrumx.server.session.engine.dispatch import Dispatcher, is_large
from electrumx.server.session.engine.first_message import is_http
from electrumx.server.session.engine.json_result import encode_result
from electrumx.server.session.engine.method_registry import ProtocolTuple, SessionMethods
from electrumx.server.session.engine.origin import Origin
from electrumx.server.session.engine.receive import Receiver
from electrumx.server.session.engine.send_queue import CLOSE_SECS, MessageTransport, SendQueue
from electrumx.server.session.engine.session_limits import SessionLimits
from electrumx.server.session.shared.state import SharedState

MASKED_ADDRESS = "xx.xx.xx.xx:xx"
# A session that sent so many bytes is worth a line when it ends.
MUCH_SENT = 1_000_000
# The data of a ping that only has to be visible.
NOISE = "0" * 128

_session_ids = itertools.count()


@cache
def _logger_of(class_name: str) -> logging.Logger:
    return util.class_logger(__name__, class_name)


class HasSharedState(Protocol):
    """The interface of the session manager that a session uses."""

    shared: SharedState


HandlerGroups: TypeAlias = "tuple[Callable[[SessionBase, SharedState], object], ...]"


class SessionBase:
    """A connection of a client.

    It has an account of its costs, a queue of messages to the client, the handlers of its requests,
    a dispatcher of requests that wait, and a receiver of messages.  ``kind`` is the protocol of the
    service it came through.
    """

    __slots__ = (
        "account",
        "client",
        "dispatcher",
        "end_reason",
        "kind",
        "methods",
        "protocol_tuple",
        "queue",
        "receiver",
        "session_id",
        "session_mgr",
        "shared",
        "txs_sent",
    )

    #: classes of objects whose marked methods answer requests, each constructed for a session
    handler_groups: HandlerGroups = ()

    def __init__(
        self,
        session_mgr: HasSharedState,
        db: DB,
        mempool: MemPool,
        peer_mgr: PeerManager,
        kind: str,
        transport: MessageTransport,
    ) -> None:
        """``db``, ``mempool`` and ``peer_mgr`` are those of the manager's shared state."""
        shared = session_mgr.shared
        self.session_mgr = session_mgr
        self.shared = shared
        self.kind = kind
        self.client = "unknown"
        self.txs_sent = 0
        #: why it ends, for the metrics
        self.end_reason = "client"
        self.protocol_tuple: ProtocolTuple = (0,)
        self.session_id = next(_session_ids)
        origin = transport.origin()
        account = self.account = (
            FreeAccount(self, shared.limits) if origin.is_trusted else self.make_account()
        )
        queue = self.queue = SendQueue(transport, account, self, shared.table.counts)
        groups = tuple(group(self, shared) for group in self.handler_groups)
        # A subclass may itself have handlers.
        self.methods = SessionMethods((*groups, self), shared.requests)
        self.dispatcher = Dispatcher(self, account, queue, self.methods)
        self.receiver = Receiver(
            self,
            account,
            queue,
            self.dispatcher,
            self.methods,
            parsing_lock=shared.parsing_lock,
            max_reply_bytes=self.max_reply_bytes(),
            log_me=shared.table.log_new,
        )
        address = self.remote_address_string()
        # A health check of the administrator's comes every minute.
        level = logging.INFO if self.limited else logging.DEBUG
        text = f"{kind.upper()} {address}, {len(shared.table):,d} total"
        self.log_limited("new connection", text, level)
        shared.table.add(self)
        if self.limited:
            account.leniency = shared.table.leniency(origin)
        self.set_up()

    def set_up(self) -> None:
        """Construct the parts of a kind of session.  Called once, at the end of the construction."""

    def make_account(self) -> CostAccount:
        """Return the account of this session, in its construction."""
        return CostAccount(self, self.shared.limits)

    def max_reply_bytes(self) -> int:
        """Return the bound on replies in bytes; 0 without one."""
        return 0

    # -- identity

    @property
    def env(self) -> Env:
        """The settings of the server."""
        return self.shared.env

    @property
    def coin(self) -> type[Coin]:
        """The currency that the server indexes."""
        return self.shared.env.coin

    @property
    def logger(self) -> "logging.LoggerAdapter[logging.Logger]":
        """The logger that names the session, constructed for each use: most sessions log little."""
        logger = _logger_of(type(self).__name__)
        return util.ConnectionLogger(logger, {"conn_id": str(self.session_id)})

    def log_limited(self, kind: str, text: str, level: int = logging.INFO) -> None:
        """Log what a client can cause any number of times; ``kind`` is common to such lines."""
        self.shared.log_limit.log(self.logger, kind, text, level)

    @property
    def transport(self) -> MessageTransport:
        """The connection."""
        return self.queue.transport

    def origin(self) -> Origin:
        """Return the client's address, and who vouches for it."""
        return self.queue.transport.origin()

    def remote_address(self) -> NetAddress | None:
        """Return the client's address; None if unknown."""
        return self.queue.transport.remote_address()

    def remote_address_string(self, *, for_log: bool = True) -> str:
        """Return the client's address; masked in logs if the operator wants that."""
        if for_log and self.env.anon_logs:
            return MASKED_ADDRESS
        address = self.remote_address()
        return "unknown" if address is None else str(address)

    def proxy_string(self) -> str | None:
        """Return the address of the proxy that named the client, None without one."""
        address = self.queue.transport.proxy_address()
        return None if address is None else str(address)

    def flags(self) -> str:
        """Return the status column of the sessions table."""
        status = self.kind[0].upper()
        if self.queue.transport.had_tls:
            status += "S"
        if self.is_closing():
            status += "C"
        if self.log_me:
            status += "L"
        return status + str(self.account.concurrency_target)

    def client_text(self) -> str:
        """Return the client's name, short enough for a table."""
        return self.client[:17]

    def protocol_version_string(self) -> str:
        """Return the negotiated protocol."""
        return util.version_string(self.protocol_tuple)

    # -- what the session table shows

    @property
    def limited(self) -> bool:
        """Whether throttling and time-outs apply: to wallets, not to the administrator."""
        return self.account.limited

    @property
    def cost(self) -> float:
        """The session's own cost, without that of its groups."""
        return self.account.cost

    @property
    def errors(self) -> int:
        """How many errors it got."""
        return self.account.errors

    @property
    def start_time(self) -> float:
        """When it began, by the monotonic clock."""
        return self.account.start_time

    @property
    def recv_count(self) -> int:
        """Messages received and processed."""
        return self.receiver.recv_count

    @property
    def recv_size(self) -> int:
        """Bytes received."""
        return self.receiver.recv_size

    @property
    def send_count(self) -> int:
        """Messages sent."""
        return self.queue.send_count

    @property
    def send_size(self) -> int:
        """Bytes of those."""
        return self.queue.send_size

    @property
    def last_recv(self) -> float:
        """When a message was last received, by the monotonic clock."""
        return self.receiver.last_recv

    @last_recv.setter
    def last_recv(self, when: float) -> None:
        self.receiver.last_recv = when

    @property
    def log_me(self) -> bool:
        """Whether to log its messages."""
        return self.receiver.log_me

    @log_me.setter
    def log_me(self, value: bool) -> None:
        self.receiver.log_me = value

    def request_counts(self) -> dict[str, int]:
        """Return how many requests of each method it has sent."""
        return dict(sorted(self.methods.counts.items()))

    def unanswered_request_count(self) -> int:
        """Return the number of requests in progress."""
        return self.dispatcher.unanswered_request_count()

    def sub_count(self) -> int:
        """Return the number of subscriptions held."""
        return 0

    def outpoint_count(self) -> int:
        """Return the number of subscriptions to outpoints, which are among them."""
        return 0

    @property
    def throttled(self) -> bool:
        """Whether its requests sleep because of its cost."""
        return self.account.cost_fraction > 0

    # -- costs

    def set_limits(self, limits: SessionLimits) -> None:
        """Change the limits of the session."""
        self.account.set_limits(limits)

    def bump_cost(self, delta: float) -> None:
        """Charge ``delta``."""
        self.account.bump_cost(delta)

    def recalc_concurrency(self) -> None:
        """Decay the cost, and set how many requests may run at once."""
        self.account.recalc_concurrency()

    def set_cost_decay(self, per_sec: float) -> None:
        """Set how fast the cost decays."""
        self.account.cost_decay_per_sec = per_sec

    def extra_cost(self) -> float:
        """Return the cost that the sessions of the same groups add to this one's."""
        return self.shared.table.groups.extra_cost(self) if self.limited else 0.0

    def retry_secs(self) -> int:
        """Return the seconds until the server serves a client over the limit again."""
        return self.shared.table.groups.retry_secs(self, self.account.limits.cost_hard_limit)

    def is_over_limit(self) -> bool:
        """Return whether the session, with its groups, has reached the hard limit."""
        return self.account.is_over_limit()

    def log_excessive_cost(self) -> None:
        """Log which session the server closes for its cost."""
        address = self.remote_address()
        ip = None if address is None else str(address.host)
        groups = [group.name for group in self.shared.table.groups.of(self)]
        if self.env.anon_logs:
            ip, groups = "xx.xx.xx.xx", ["xx" for _group in groups]
        self.note_end("cost")
        text = f"closing session over res usage. ip: {ip}. groups: {groups}"
        self.log_limited("closing session over res usage", text)

    # -- called by the transport

    def dropped_messages(self, count: int) -> None:
        """Note that so many messages were too long."""
        self.receiver.dropped_messages(count)

    def unanswered_bytes(self) -> int:
        """Return the memory that received requests without a reply take."""
        return self.receiver.unanswered_bytes()

    def on_unwritable(self) -> None:
        """Note that the client does not read."""
        self.receiver.on_unwritable()

    def on_writable(self) -> None:
        """Note that the client reads again."""
        self.receiver.on_writable()

    def on_eof(self) -> bool:
        """Note that the client will ask no more; return whether replies are still due."""
        return self.receiver.on_eof()

    def on_lost(self) -> None:
        """End: the connection has.  Leave the session table, and log if there is a reason."""
        self.queue.on_lost()
        self.dispatcher.on_lost()
        self.receiver.on_lost()
        self.methods.on_lost()
        self.shared.table.remove(self)
        self.account.on_lost()
        message = ""
        if self.account.concurrency_target < self.account.limits.initial_concurrent * 0.8:
            message += " whilst throttled"
        if self.send_size >= MUCH_SENT:
            message += f".  Sent {self.send_size:,d} bytes in {self.send_count:,d} messages"
        if message:
            self.log_limited("disconnected", "disconnected" + message)

    # -- called by the engine

    def on_hard_limit(self) -> None:
        """Note that no more requests may run."""
        self.receiver.on_hard_limit()

    def on_throttled(self, *, throttled: bool) -> None:
        """Count the throttled sessions."""
        self.shared.table.counts.throttled += 1 if throttled else -1

    def on_slot_free(self) -> None:
        """Note that there is room for more requests than before."""
        self.receiver.resume()

    def on_flushed(self) -> None:
        """Note the sending of replies."""
        self.receiver.on_flushed()

    def accepts_first(self, message: bytes) -> bool:
        """Return whether the connection may begin with a message; else no request runs."""
        return not is_http(message)

    def logged_text(self, message: bytes) -> str:
        """Return the text that the log shows for a message, if the operator logs messages."""
        return repr(message)

    def max_message_size(self) -> int:
        """Return the bound on messages that the transport keeps, in bytes."""
        return int(self.env.max_recv)

    def on_malformed(self) -> None:
        """Note that a message as a whole was malformed."""

    # -- notifications

    def is_concerned(self) -> bool:
        """Return whether ``notify`` may have work at another height, even without touched scripts."""
        return False

    def notify_height(self) -> None:
        """Notify the client of the new header, if it has subscribed."""

    def post_height(self) -> None:
        """Queue the same notification: see ``flush``."""

    def notify(self, touched: set[bytes], height_changed: bool) -> Awaitable[None] | None:
        """Notify the client of its touched scripts; return an awaitable if that waits."""
        return None

    def takes_noise(self) -> bool:
        """Return whether the client understands pings, and gets padded messages."""
        return False

    def post_noise(self, count: int) -> None:
        """Queue so many pings."""
        noise = self.queue.rpc_version.notification("server.ping", (NOISE,))
        self.queue.post_lines(b"\n".join([noise] * count), count)

    def log_notified(self, count: int) -> None:
        """Log of how many scripts the client got notifications."""
        self.logger.info(f"notified of {count:,d} address{'' if count == 1 else 'es'}")

    def flush(self) -> None:
        """Send the queued messages."""
        self.queue.flush()

    async def send_notification(self, method: str, args: Sequence[object] = ()) -> None:
        """Send a notification; returns at once, whether the client reads or not."""
        self.queue.post_notification(method, args)
        self.queue.flush()

    # -- the end

    def note_end(self, reason: str) -> None:
        """Note why the server ends the session; the first reason counts."""
        if self.end_reason == "client":
            self.end_reason = reason

    def is_closing(self) -> bool:
        """Return whether the connection has ended or is closing."""
        return self.queue.is_closing()

    def end(self, force_after: float) -> None:
        """Close after sending all, or after so many seconds; return at once."""
        self.queue.end(force_after)

    async def close(self, *, force_after: float = CLOSE_SECS) -> None:
        """Close the connection; return when it has closed, at the latest after so many seconds."""
        await self.queue.close(force_after=force_after)

    def abort(self) -> None:
        """Close the connection at once."""
        self.queue.abort()

    # -- requests

    async def bounded_json(self, key: Hashable, result: object) -> Any:
        """Return a result, encoded if it is large; raise RPCError if it is too large to send.

        ``key`` identifies the query: at the same tip the server refuses it from then on.
        """
        if not is_large(result):
            return result
        encoded = await self.account.in_thread(0.0, encode_result, result)
        self.shared.oversized.check_size(key, len(encoded), self.account.bw_cost_per_byte)
        return encoded

    def set_request_handlers(self, ptuple: ProtocolTuple) -> None:
        """Serve the requests of a protocol version from now on."""
        self.shared.table.negotiated(self, ptuple)
        self.protocol_tuple = ptuple
        self.methods.set_version(defined_version(ptuple))
