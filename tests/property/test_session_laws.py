"""The fast path answers as the slow path does, and bytes may be cut anywhere."""

import asyncio
import json

import pytest
from aiorpcx import ReplyAndDisconnect, RPCError
from hypothesis import example, given
from hypothesis import strategies as st

from electrumx.server.session.engine import dispatch as work
from electrumx.server.session.engine import receive as requests
from electrumx.server.session.engine.cost_account import CostAccount
from electrumx.server.session.engine.dispatch import Dispatcher
from electrumx.server.session.engine.first_message import is_http
from electrumx.server.session.engine.json_result import encode_result
from electrumx.server.session.engine.method_registry import (
    SessionMethods,
    handler_names,
    rpc_method,
)
from electrumx.server.session.engine.receive import FAST_MESSAGE_BYTES, Receiver
from electrumx.server.session.engine.request_stats import RequestStats
from electrumx.server.session.engine.send_queue import SendQueue
from electrumx.server.session.engine.session_counts import SessionCounts
from electrumx.server.session.engine.session_limits import SessionLimits
from electrumx.server.session.transport.line_transport import RawTransport
from tests.fakes.connections import FakeSocketTransport, connection_context


class Sent:
    """A transport that keeps the messages it is given."""

    is_writable = True
    is_held = False

    def __init__(self):
        self.messages = []
        self.ended = False

    def send(self, messages):
        self.messages += messages

    def note_unanswered(self):
        """Count nothing."""

    def hold(self, *, held):
        self.is_held = held

    def is_closing(self):
        return self.ended

    def end(self, force_after):
        self.ended = True
        asyncio.get_running_loop().call_soon(self.session.on_lost)


LIMITS = SessionLimits(
    cost_soft_limit=0,
    cost_hard_limit=0,
    bw_cost_per_byte=0.001,
    cost_sleep=0,
    initial_concurrent=3,
    processing_timeout=30,
)


class Handlers:
    """Handlers of every kind."""

    def __init__(self, account):
        self.account = account

    @rpc_method("none")
    def none(self):
        self.account.bump_cost(1)

    @rpc_method("echo")
    def echo(self, value, other=None):
        return [value, other]

    @rpc_method("text")
    def text(self, *, value=""):
        return str(value)

    @rpc_method("show")
    def show(self, value):
        return f"{value}"

    @rpc_method("encoded")
    def encoded(self, value=None):
        return encode_result({"value": value})

    @rpc_method("waits")
    async def waits(self, value=1):
        return value

    @rpc_method("may.wait")
    def may_wait(self, value):
        return self.waits(value) if value else {"value": value}

    @rpc_method("refuses")
    def refuses(self, value="no"):
        raise RPCError(7, f"{value}", cost=3.0)

    @rpc_method("fails")
    def fails(self):
        raise KeyError("oops")

    @rpc_method("ends")
    def ends(self, value=0):
        raise ReplyAndDisconnect(value)


class Session:
    """The engine of a session without anything else."""

    def __init__(
        self,
        transport,
        *,
        handlers=Handlers,
        receiver=Receiver,
        limits=LIMITS,
        max_reply_bytes=0,
    ):
        transport.session = self
        self.transport = transport
        self.logged = []
        self.account = CostAccount(self, limits)
        self.queue = SendQueue(transport, self.account, self, SessionCounts())
        self.methods = SessionMethods((handlers(self.account),), RequestStats())
        self.methods.set_version((1, 4))
        self.dispatcher = Dispatcher(self, self.account, self.queue, self.methods)
        self.receiver = receiver(
            self,
            self.account,
            self.queue,
            self.dispatcher,
            self.methods,
            parsing_lock=asyncio.Lock(),
            max_reply_bytes=max_reply_bytes,
        )
        self.on_slot_free, self.on_flushed = self.receiver.resume, self.receiver.on_flushed
        self.on_hard_limit = self.receiver.on_hard_limit
        self.received_bytes, self.receive = self.receiver.received_bytes, self.receiver.receive
        self.on_eof, self.bump_cost = self.receiver.on_eof, self.account.bump_cost

    @property
    def logger(self):
        return self

    def exception(self, text):
        self.logged.append(text)

    def note_end(self, reason):
        pass

    def log_limited(self, kind, text, level=0):
        self.logged.append(text)

    def extra_cost(self):
        return 0.0

    def on_throttled(self, *, throttled):
        """Nothing is counted."""

    def retry_secs(self):
        return 1

    def accepts_first(self, message):
        return not is_http(message)

    def max_message_size(self):
        return 0

    def on_malformed(self):
        """Nothing else is done."""

    def on_lost(self):
        self.queue.on_lost()
        self.dispatcher.on_lost()
        self.receiver.on_lost()

    def is_busy(self):
        """Return whether anything is left to process or to send."""
        return (
            self.receiver.is_busy()
            or self.dispatcher.running
            or self.dispatcher.flush_due
            or self.queue.has_messages()
        )


class SlowReceiver(Receiver):
    def answer_fast(self, message):
        return None


METHODS = [*handler_names((Handlers,), (1, 4)), "unknown", "", 5, None, ["none"]]
INTEGERS = st.integers(-5, 5) | st.sampled_from(
    [2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30]
)
SCALARS = (
    st.none()
    | st.booleans()
    | INTEGERS
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["ü", "\ud800", "\u2028", "\0", "a" * 400])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
PARAMS = st.lists(VALUES, max_size=3) | st.dictionaries(
    st.sampled_from(["value", "other", "x"]), VALUES, max_size=2
)
REQUESTS = st.fixed_dictionaries(
    {"method": st.sampled_from(METHODS)},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "2.0", "2.0", "1.0", 2.0, None]),
        "id": VALUES | st.integers(0, 9),
        "params": PARAMS | VALUES,
        "result": VALUES,
        "error": VALUES,
        "x": VALUES,
    },
)
PLAIN = st.fixed_dictionaries(
    {
        "jsonrpc": st.just("2.0"),
        "id": st.integers(0, 9) | st.text(max_size=3),
        "method": st.sampled_from(METHODS[:-4]),
    },
    optional={"params": st.lists(SCALARS, max_size=2)},
)


def as_text(ascii_only, separators):
    return lambda value: json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode(
        errors="surrogatepass"
    )


MESSAGES = st.one_of(
    PLAIN.map(as_text(True, None)),
    PLAIN.map(as_text(False, (",", ":"))),
    REQUESTS.map(as_text(True, None)),
    REQUESTS.map(as_text(False, None)),
    st.lists(REQUESTS | PLAIN, max_size=3).map(as_text(True, None)),
    VALUES.map(as_text(True, None)),
    st.binary(max_size=8).map(lambda raw: raw.replace(b"\n", b" ")),
    st.sampled_from(
        [
            b'{"id":1,"id":2,"method":"none","method":"show","params":[3],"jsonrpc":"2.0"}',
            b'{"jsonrpc":"2.0","id":-0,"method":"show","params":[-0]}',
            b'{"jsonrpc":"2.0","id":1e0,"method":"show","params":[1e2]}',
            b'{"jsonrpc":"2.0","id":1,"method":"show","params":[1E400]}',
            b'{"jsonrpc":"2.0","id":1,"method":"show","params":[NaN]}',
            b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"none"}',
            b' \t{"jsonrpc":"2.0" ,"id":1,"method":"none"}\r',
            b'{"jsonrpc":"2.0","id":1,"method":"none"}}',
            b'{"jsonrpc":"2.0","id":01,"method":"none"}',
            b'{"jsonrpc":"2.0","id":1,"method":"show","params":["\x01"]}',
            b'{"jsonrpc":"2.0","id":1,"method":"none","x":' + b"9" * 5000 + b"}",
            b'{"jsonrpc":"2.0","id":1,"method":"show","params":["' + b"y" * 4100 + b'"]}',
        ]
    ),
)


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module", autouse=True)
def _slices_end_by_count():
    """Keep the clock from putting the replies to a batch in another order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "SLICE_SECS", 3600)
        patch.setattr(work, "SLICE_SECS", 3600)
        yield


async def _settled(session):
    while session.is_busy():
        await asyncio.sleep(0)
    # Callbacks that are only scheduled
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def _conversation(loop, receiver_class, messages, **settings):
    """Return all observable effects of messages, received one after the other."""

    async def converse():
        session = Session(Sent(), receiver=receiver_class, **settings)
        replies = []
        for message in messages:
            session.received_bytes(len(message) + 1)
            session.receive([message])
            await _settled(session)
            replies.append([json.loads(reply) for reply in session.transport.messages])
            session.transport.messages.clear()
        queue, account = session.queue, session.account
        sizes = (session.receiver.recv_count, session.receiver.recv_size, queue.send_count)
        counts = session.methods.stats.started()
        state = (queue.rpc_version.name, session.transport.ended, account.errors, session.logged)
        # Texts that are escaped in one form only may differ in length.
        return replies, sizes, counts, state, round(account.cost - 0.001 * queue.send_size, 6)

    return loop.run_until_complete(converse())


def _comparable(value):
    """NaN is not equal to itself."""
    return repr(value)


@given(messages=st.lists(MESSAGES, min_size=1, max_size=4), max_size=st.sampled_from([0, 90, 400]))
@example(
    messages=[b'{"jsonrpc":"2.0","id":1,"method":"show","params":[18446744073709551616]}'],
    max_size=0,
)
@example(
    messages=[b'{"jsonrpc":"2.0","id":1,"method":"none"}', b'{"id":2,"method":"none"}'], max_size=0
)
@example(messages=[b'{"id":1,"method":"none"}', b'{"id":2,"method":"none"}'], max_size=0)
def test_the_fast_path_answers_as_the_slow_path_does(loop, messages, max_size):
    expected = _conversation(loop, SlowReceiver, messages, max_reply_bytes=max_size)
    assert _comparable(expected) == _comparable(
        _conversation(loop, Receiver, messages, max_reply_bytes=max_size)
    )


def test_both_paths_are_taken(loop):
    async def taken(message):
        return Session(Sent()).receiver.answer_fast(message)

    def is_fast(message):
        return loop.run_until_complete(taken(message))

    assert is_fast(b'{"jsonrpc":"2.0","id":1,"method":"none","params":[]}')
    assert is_fast(b'{"jsonrpc":"2.0","id":"x","method":"echo","params":[1,null]}')
    assert not is_fast(b'{"jsonrpc":"2.0","method":"none"}')
    padding = b" " * FAST_MESSAGE_BYTES
    assert not is_fast(b'{"jsonrpc":"2.0","id":1,"method":"none"}' + padding)


SYNCHRONOUS = [
    b'{"jsonrpc":"2.0","id":%d,"method":"%s","params":[%d]}' % (n, method, n)
    for n, method in enumerate([b"show", b"encoded", b"echo", b"refuses", b"unknown"])
] + [b"junk", b"", b'{"jsonrpc":"2.0","method":"none"}']


@given(
    lines=st.lists(st.sampled_from(SYNCHRONOUS), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 300), max_size=10),
)
def test_replies_do_not_depend_on_where_the_bytes_are_cut(loop, lines, cuts):
    data = b"".join(line + b"\n" for line in lines)

    async def replies(cuts):
        protocol = RawTransport(connection_context(Session, 1000))
        protocol.connection_made(socket := FakeSocketTransport())
        start = 0
        for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
            protocol.data_received(data[start:cut])
            start = cut
        await _settled(protocol.session)
        protocol.connection_lost(None)
        return socket.sent

    whole = loop.run_until_complete(replies([]))
    assert whole == loop.run_until_complete(replies(cuts))
    answered = [line for line in lines if b"none" not in line]
    assert whole.count(b"\n") == len(answered)
