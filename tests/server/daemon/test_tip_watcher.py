"""The node's announcements of new blocks: waitfornewblock and ZMQ, and nodes that have neither."""

import asyncio
import logging
import sys

import pytest

from electrumx.lib.coins import Coin
from electrumx.lib.errors import OperatorError
from electrumx.server.daemon import tip_watcher
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.tip_watcher import TipWatcher
from tests.conftest import free_port
from tests.fakes.chain import GENESIS
from tests.fakes.fake_node import METHOD_NOT_FOUND, FakeNode, Fault

COIN = Coin.lookup_coin_class("Bitcoin", "regtest")
BLOCKS = [GENESIS] + [n.to_bytes(4, "little") + bytes([n]) * 76 + b"\x00" for n in range(1, 8)]
WAIT_SECS = 120


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
    monkeypatch.setattr(tip_watcher, "MIN_NOTIFICATION_SECS", 0.005)
    monkeypatch.setattr(tip_watcher, "CONCURRENT_CALL_SECS", 0.02)
    monkeypatch.setattr(tip_watcher, "ZMQ_LATE_SECS", 0.05)


class Watching:
    """A watcher at work for as long as its block lasts."""

    def __init__(self, daemon, addresses=(), **options):
        self.watcher = TipWatcher(daemon, addresses, **options)

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


async def let_run():
    """Give all tasks that are ready their turns."""
    for _ in range(20):
        await asyncio.sleep(0)


def calls_held(node):
    return node.counts()["waitfornewblock"]


def holds(node):
    """The milliseconds of each call that the node has held to its end."""
    found = [params[0] for method, params in node.calls if method == "waitfornewblock"]
    # The node notes it when it comes, and when it is answered.
    return found[1::2]


# -- waitfornewblock


async def test_a_new_block_is_notified_at_once(node, daemon):
    async with Watching(daemon):
        await eventually(lambda: calls_held(node))
        for block in BLOCKS[2:4]:
            news = asyncio.ensure_future(daemon.height_changed.wait())
            await asyncio.sleep(0)
            node.append(block)
            await asyncio.wait_for(news, WAIT_SECS)
            assert daemon.cached_height() == node.height


async def test_a_new_tip_of_the_same_height_is_notified(node, daemon):
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
        assert not daemon.rpc.workqueue_semaphore.locked()


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


async def test_a_node_without_the_call_is_polled_and_not_asked_again(node, daemon, caplog):
    caplog.set_level(logging.INFO)
    node.waits_for_blocks = False
    async with Watching(daemon):
        await eventually(lambda: "does not know waitfornewblock" in caplog.text)
        # It is not asked again for ten minutes, but when another URL comes into use.
        await let_run()
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


async def test_another_node_that_comes_into_use_as_a_call_begins_is_not_overlooked(
    node, fast, monkeypatch
):
    monkeypatch.setattr(tip_watcher, "PROBE_SECS", 3600)
    async with FakeNode(BLOCKS[:3]) as other:
        other.waits_for_blocks = True
        async with Daemon(COIN, f"{node.url},{other.url}") as daemon:
            asked, current_url = [], daemon.current_url

            def then_fail_over():
                if not asked:
                    asyncio.get_running_loop().call_soon(daemon.failover)
                asked.append(current_url())
                return asked[-1]

            monkeypatch.setattr(daemon, "current_url", then_fail_over)
            async with Watching(daemon):
                await eventually(lambda: other.waiting)


@pytest.mark.parametrize(
    "fault", [Fault.DISCONNECT, Fault.WARMING_UP, Fault.GARBAGE, Fault.UNAUTHORIZED, Fault.RESET]
)
async def test_a_failure_is_retried_without_a_warning(node, daemon, fast, caplog, fault):
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
        start = asyncio.get_running_loop().time()
        await eventually(lambda: calls_held(node) >= 3)
        # The first reports a tip; between the others there is a second.
        assert asyncio.get_running_loop().time() - start >= tip_watcher.MIN_WAIT_SECS - 0.1


async def test_a_node_that_invents_tips_is_asked_twenty_times_a_second(node, daemon):
    node.waits_for_blocks = False
    numbers = iter(range(10**6))
    node.overrides["waitfornewblock"] = lambda _msec: {"hash": f"{next(numbers):x}", "height": 1}
    async with Watching(daemon):
        start = asyncio.get_running_loop().time()
        await eventually(lambda: calls_held(node) >= 9)
        assert asyncio.get_running_loop().time() - start >= 8 * tip_watcher.MIN_NOTIFICATION_SECS


# -- Nodes with few threads


@pytest.fixture
def short_holds(fast, monkeypatch):
    monkeypatch.setattr(tip_watcher, "PROBE_SECS", 0.2)
    monkeypatch.setattr(tip_watcher, "HOLD_SECS", 0.4)


async def test_a_node_that_answers_one_call_at_a_time_is_polled(node, daemon, caplog, short_holds):
    caplog.set_level(logging.INFO)
    node.threads = asyncio.Semaphore(1)
    async with Watching(daemon):
        await eventually(lambda: "answers nothing else while it holds" in caplog.text)
        # From now on others are answered at once.
        await let_run()
        assert not node.waiting
    assert holds(node) == [200] * tip_watcher.MAX_STARVED


@pytest.fixture
def ample_holds(fast, monkeypatch):
    """During which another call is answered, however slow the machine is."""
    monkeypatch.setattr(tip_watcher, "PROBE_SECS", 1.0)
    monkeypatch.setattr(tip_watcher, "HOLD_SECS", 1.5)


async def test_a_node_that_answers_others_is_asked_to_hold_longer(node, daemon, ample_holds):
    node.threads = asyncio.Semaphore(2)
    async with Watching(daemon):
        await eventually(lambda: 1500 in holds(node))
    assert holds(node)[0] == 1000


async def test_a_node_whose_threads_become_scarce_is_polled(node, daemon, caplog, ample_holds):
    node.threads = asyncio.Semaphore(2)
    async with Watching(daemon):
        await eventually(lambda: 1500 in holds(node))
        # Another server, say
        await node.threads.acquire()
        await eventually(lambda: "answers nothing else while it holds" in caplog.text)


async def test_no_call_is_held_if_the_operator_forbids_it(node, daemon):
    watcher = TipWatcher(daemon, hold_calls=False)
    await asyncio.wait_for(watcher.run(), WAIT_SECS)
    assert not calls_held(node)


async def test_the_connection_of_a_held_call_is_closed_at_the_end():
    asked, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader, writer):
        try:
            await reader.readuntil(b"}")
            asked.set()
            await reader.read()
        finally:
            closed.set()
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Daemon(COIN, f"http://u:p@127.0.0.1:{port}/") as daemon:
            async with Watching(daemon):
                await asyncio.wait_for(asked.wait(), WAIT_SECS)
            # Before the pool of connections is
            await asyncio.wait_for(closed.wait(), WAIT_SECS)


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
            """Wait for a subscriber; the topic that it subscribes to."""
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


async def test_no_call_is_held_while_zmq_delivers(node, daemon, publisher, fast, monkeypatch):
    # The height is asked for within that time after a message.
    monkeypatch.setattr(tip_watcher, "ZMQ_LATE_SECS", 1.0)
    publisher.bind()
    async with Watching(daemon, [publisher.address]):
        await eventually(lambda: node.waiting)
        assert await publisher.subscribed() == b"\x01hashblock"
        node.append(BLOCKS[2])
        publisher.send(b"hashblock", bytes(32), bytes(4))
        await eventually(lambda: not node.waiting and daemon.cached_height() == 2)
        held = calls_held(node)
        node.append(BLOCKS[3])
        publisher.send(b"hashblock", bytes(32), bytes(4))
        await eventually(lambda: daemon.cached_height() == 3)
        assert calls_held(node) == held
        # Blocks that ZMQ does not announce
        for number in range(4, 200):
            if node.waiting:
                break
            node.append(BLOCKS[4] + bytes([number]))
            await daemon.height()
            await asyncio.sleep(2 * tip_watcher.ZMQ_LATE_SECS)
        assert node.waiting


async def test_a_publisher_may_start_later_and_send_nonsense(node, daemon, publisher, caplog):
    caplog.set_level(logging.INFO)
    async with Watching(daemon, ["ipc:///nonexistent/socket", publisher.address]):
        # The call waits at the node, thus the watcher has connected its socket as well.
        await eventually(lambda: node.waiting)
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


def test_the_error_without_pyzmq_names_the_package(monkeypatch, daemon_without_session):
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(OperatorError, match=r"install electrumx\[zmq\]"):
        TipWatcher(daemon_without_session, ["tcp://127.0.0.1:1"])


@pytest.fixture
def daemon_without_session():
    return Daemon(COIN, "http://u:p@127.0.0.1:1/")
