"""The node's announcements of new blocks: waitfornewblock and ZMQ, and nodes that have neither."""

import asyncio
import logging
import sys

import pytest

from electrumx.lib.coins import Coin
from electrumx.lib.errors import OperatorError
from electrumx.server import tip_watcher
from electrumx.server.daemon import Daemon, DaemonError
from electrumx.server.tip_watcher import TipWatcher
from tests.conftest import free_port
from tests.fakes.chain import GENESIS
from tests.fakes.fake_node import METHOD_NOT_FOUND, FakeNode, Fault

COIN = Coin.lookup_coin_class("Bitcoin", "regtest")
BLOCKS = [GENESIS] + [n.to_bytes(4, "little") + bytes([n]) * 76 + b"\x00" for n in range(1, 8)]
WAIT_SECS = 30


@pytest.fixture
async def node():
    async with FakeNode(BLOCKS[:2]) as fake_node:
        fake_node.waits_for_blocks = True
        yield fake_node


@pytest.fixture
async def daemon(node):
    async with Daemon(COIN, node.url, init_retry=0.002, max_retry=0.01) as result:
        await result.height()
        yield result


@pytest.fixture
def fast(monkeypatch):
    """Pauses that a test can wait for."""
    monkeypatch.setattr(tip_watcher, "MIN_WAIT_SECS", 0.01)
    monkeypatch.setattr(tip_watcher, "MAX_RETRY_SECS", 0.05)
    monkeypatch.setattr(tip_watcher, "MIN_NEWS_SECS", 0.005)
    monkeypatch.setattr(tip_watcher, "AGAIN_SECS", 0.02)


class Watching:
    """A watcher at work for as long as its block lasts."""

    def __init__(self, daemon, addresses=()):
        self.watcher = TipWatcher(daemon, addresses)

    async def __aenter__(self):
        self.task = asyncio.create_task(self.watcher.run())
        return self

    async def __aexit__(self, *_exc):
        assert not self.task.done()
        self.task.cancel()
        await asyncio.wait([self.task])


async def eventually(condition):
    async def poll():
        while not condition():
            await asyncio.sleep(0.002)

    await asyncio.wait_for(poll(), WAIT_SECS)


def calls_held(node):
    return node.counts()["waitfornewblock"]


# -- waitfornewblock


async def test_a_block_is_heard_of_at_once(node, daemon):
    async with Watching(daemon):
        await eventually(lambda: calls_held(node))
        for block in BLOCKS[2:4]:
            news = asyncio.ensure_future(daemon.height_changed.wait())
            await asyncio.sleep(0)
            node.append(block)
            await asyncio.wait_for(news, WAIT_SECS)
            assert daemon.cached_height() == node.height


async def test_a_tip_of_the_same_height_is_heard_of(node, daemon):
    async with Watching(daemon):
        await eventually(lambda: calls_held(node))
        news = asyncio.ensure_future(daemon.tip_changed.wait())
        await asyncio.sleep(0)
        node.fork(1, [BLOCKS[5]])
        await asyncio.wait_for(news, WAIT_SECS)
        assert daemon.cached_height() == 1


async def test_the_call_that_waits_takes_none_of_the_slots(node):
    async with Daemon(COIN, node.url, max_workqueue=1) as daemon, Watching(daemon):
        await eventually(lambda: calls_held(node))
        assert await asyncio.wait_for(daemon.height(), WAIT_SECS) == 1
        assert daemon.workqueue_semaphore._value == 1


async def test_a_block_between_two_calls_is_not_missed(node, daemon, fast):
    def two_at_once(method, _params):
        # After the first block, before the next call arrives.
        if method == "getblockcount" and node.height == 2:
            # Once: the height may be asked for twice before the block comes.
            node.on_request = None
            node.waits_for_blocks = False
            node.overrides["waitfornewblock"] = lambda _msec: {"hash": "same", "height": 2}
            asyncio.get_running_loop().call_later(0.005, node.append, BLOCKS[3])

    async with Watching(daemon):
        await eventually(lambda: calls_held(node))
        node.on_request = two_at_once
        node.append(BLOCKS[2])
        await eventually(lambda: daemon.cached_height() == 3)


async def test_a_node_that_does_not_know_the_call_is_polled_and_left_in_peace(node, daemon, caplog):
    caplog.set_level(logging.INFO)
    node.waits_for_blocks = False
    async with Watching(daemon):
        await eventually(lambda: "does not know waitfornewblock" in caplog.text)
        await asyncio.sleep(0.05)
    assert calls_held(node) == 1
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []


async def test_a_node_that_does_not_know_it_is_asked_again_later(node, daemon, fast, monkeypatch):
    monkeypatch.setattr(tip_watcher, "RECHECK_SECS", 0.02)
    node.waits_for_blocks = False
    async with Watching(daemon):
        await eventually(lambda: calls_held(node) >= 2)
        node.waits_for_blocks = True
        await eventually(lambda: node.waiting)
        node.append(BLOCKS[2])
        await eventually(lambda: daemon.cached_height() == 2)


async def test_another_node_is_asked_at_once_when_it_comes_into_use(node, fast):
    async with FakeNode(BLOCKS[:3]) as other:
        urls = f"{other.url},{node.url}"
        async with Daemon(COIN, urls) as daemon, Watching(daemon):
            # It does not know the call; an hour would pass otherwise.
            await eventually(lambda: calls_held(other))
            daemon.failover()
            await eventually(lambda: calls_held(node))
            # And away from a call that is held.
            other.waits_for_blocks = True
            daemon.set_url(other.url)
            assert await asyncio.wait_for(daemon.height(), WAIT_SECS) == 2


async def test_a_held_call_is_dropped_when_another_node_comes_into_use(node, fast):
    async with FakeNode(BLOCKS[:3]) as other:
        other.waits_for_blocks = True
        async with Daemon(COIN, f"{node.url},{other.url}") as daemon, Watching(daemon):
            await eventually(lambda: node.waiting)
            daemon.failover()
            await eventually(lambda: other.waiting)
            other.append(BLOCKS[3])
            await eventually(lambda: daemon.cached_height() == 3)


@pytest.mark.parametrize(
    "fault", [Fault.DISCONNECT, Fault.WARMING_UP, Fault.GARBAGE, Fault.UNAUTHORIZED, Fault.RESET]
)
async def test_trouble_is_waited_out_without_a_word(node, daemon, fast, caplog, fault):
    caplog.set_level(logging.INFO)
    node.fail_next(fault)
    async with Watching(daemon):
        await eventually(lambda: node.waiting)
        node.append(BLOCKS[2])
        await eventually(lambda: daemon.cached_height() == 2)
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []


@pytest.mark.parametrize("answer", [None, 5, [], {}, {"hash": 5}], ids=repr)
async def test_an_answer_that_makes_no_sense_is_a_refusal(node, daemon, caplog, answer):
    caplog.set_level(logging.INFO)
    node.waits_for_blocks = False
    node.overrides["waitfornewblock"] = lambda _msec: answer
    async with Watching(daemon):
        await eventually(lambda: "refuses waitfornewblock" in caplog.text)
    assert calls_held(node) == 1


async def test_a_node_that_answers_without_waiting_is_not_asked_all_the_time(node, daemon):
    node.waits_for_blocks = False
    node.overrides["waitfornewblock"] = lambda _msec: {"hash": "00", "height": 1}
    async with Watching(daemon):
        await eventually(lambda: calls_held(node) >= 2)
        await asyncio.sleep(0.3)
    assert calls_held(node) <= 3


async def test_a_node_that_invents_tips_is_asked_twenty_times_a_second(node, daemon):
    node.waits_for_blocks = False
    numbers = iter(range(10**6))
    node.overrides["waitfornewblock"] = lambda _msec: {"hash": f"{next(numbers):x}", "height": 1}
    async with Watching(daemon):
        await asyncio.sleep(0.5)
    assert 2 <= calls_held(node) <= 11


# -- One call beside the slots


async def test_a_call_aside_returns_the_result_and_raises_the_nodes_error(node, daemon):
    assert await daemon.call_aside(node.url, "getblockcount", (), 5) == 1
    with pytest.raises(DaemonError) as info:
        await daemon.call_aside(node.url, "nonsense", (), 5)
    assert info.value.args[0]["code"] == METHOD_NOT_FOUND


async def test_a_call_aside_is_bounded_in_time(node, daemon):
    node.fail_next(Fault.HANG)
    with pytest.raises(ConnectionError):
        await daemon.call_aside(node.url, "getblockcount", (), 0.05)


# -- ZMQ


@pytest.fixture
def publisher():
    """A node's ZMQ socket: send(topic, hash) and its address."""
    zmq = pytest.importorskip("zmq")
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.setsockopt(zmq.LINGER, 0)

    class Publisher:
        address = f"tcp://127.0.0.1:{free_port()}"

        def bind(self):
            socket.bind(self.address)

        def send(self, *parts):
            socket.send_multipart(parts)

        async def subscribed(self):
            """Wait until somebody listens; the topic asked for."""
            assert await asyncio.to_thread(socket.poll, WAIT_SECS * 1000)
            return socket.recv()

    yield Publisher()
    socket.close(0)
    context.term()


async def test_a_published_hash_is_news(node, daemon, publisher):
    node.waits_for_blocks = False
    publisher.bind()
    async with Watching(daemon, [publisher.address]):
        assert await publisher.subscribed() == b"\x01hashblock"
        node.append(BLOCKS[2])
        publisher.send(b"hashblock", bytes(32), bytes(4))
        await eventually(lambda: daemon.cached_height() == 2)


async def test_a_publisher_may_start_later_and_send_nonsense(node, daemon, publisher, caplog):
    caplog.set_level(logging.INFO)
    async with Watching(daemon, ["ipc:///nonexistent/socket", publisher.address]):
        await asyncio.sleep(0.05)
        publisher.bind()
        await publisher.subscribed()
        publisher.send(b"hashblockers")
        publisher.send(b"hashblock")
        await eventually(lambda: "a daemon announces blocks by ZMQ" in caplog.text)
        node.append(BLOCKS[2])
        publisher.send(b"hashblock", b"short", b"", b"more")
        await eventually(lambda: daemon.cached_height() == 2)


async def test_a_message_too_large_is_not_read_and_soon_forgotten(
    node, daemon, publisher, monkeypatch
):
    monkeypatch.setattr(tip_watcher, "RENEW_SECS", 1.0)
    publisher.bind()
    async with Watching(daemon, [publisher.address]):
        await publisher.subscribed()
        publisher.send(b"hashblock", bytes(10_000_000), bytes(4))
        # The connection was cut, and comes back.
        assert await publisher.subscribed() == b"\x00hashblock"
        assert await publisher.subscribed() == b"\x01hashblock"
        node.append(BLOCKS[2])
        publisher.send(b"hashblock", bytes(32), bytes(4))
        await eventually(lambda: daemon.cached_height() == 2)


def test_an_address_that_zmq_refuses_is_the_operators_error(daemon_without_session):
    pytest.importorskip("zmq")
    with pytest.raises(OperatorError, match=r"cannot use ZMQ_BLOCK_ADDRESS nonsense://x: "):
        TipWatcher(daemon_without_session, ["tcp://127.0.0.1:1", "nonsense://x"])


def test_without_pyzmq_the_operator_is_told_what_to_install(monkeypatch, daemon_without_session):
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(OperatorError, match=r"install electrumx\[zmq\]"):
        TipWatcher(daemon_without_session, ["tcp://127.0.0.1:1"])


@pytest.fixture
def daemon_without_session():
    return Daemon(COIN, "http://u:p@127.0.0.1:1/")
