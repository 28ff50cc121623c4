"""Tests of the hand-over between blocks and mempool."""

import asyncio

import pytest

from electrumx.server.notifications import PAIR_SECS, Notifications
from tests.fakes.virtual_time import run_in_virtual_time


class Listener:
    def __init__(self):
        self.received = []

    async def notify(self, height, touched):
        self.received.append((height, touched))


async def started(height):
    notifications, listener = Notifications(), Listener()
    await notifications.start(height, listener.notify)
    assert listener.received == [(height, set())]
    listener.received.clear()
    return notifications, listener.received


async def play(notifications, steps):
    for side, touched, height in steps:
        call = notifications.on_mempool if side == "mempool" else notifications.on_block
        await call(set(touched), height)


@pytest.mark.parametrize(
    ("start", "steps", "expected"),
    [
        pytest.param(
            5, [("mempool", "ab", 6), ("block", "bc", 6)], [(6, "abc")], id="mempool first"
        ),
        pytest.param(5, [("block", "bc", 6), ("mempool", "ab", 6)], [(6, "abc")], id="block first"),
        pytest.param(5, [("mempool", "a", 5)], [(5, "a")], id="mempool at the block height"),
        pytest.param(5, [("mempool", "a", 6)], [], id="block still awaited"),
        pytest.param(5, [("block", "a", 6)], [], id="mempool still awaited"),
        pytest.param(
            5,
            [
                ("mempool", "a", 5),
                ("mempool", "a", 6),
                ("block", "ab", 7),
                ("block", "c", 8),
                ("mempool", "", 8),
            ],
            [(5, "a"), (8, "abc")],
            id="blocks outrun the mempool",
        ),
        pytest.param(
            101,
            [("block", "", 102), ("mempool", "m", 101), ("mempool", "", 102)],
            [(102, "m")],
            id="an older mempool set is not lost",
        ),
        pytest.param(
            100,
            [("mempool", "x", 101), ("mempool", "y", 101), ("block", "b", 101)],
            [(101, "bxy")],
            id="a height reported twice by the mempool",
        ),
        pytest.param(
            100,
            [("block", "x", 101), ("block", "y", 101), ("mempool", "b", 101)],
            [(101, "bxy")],
            id="a height reported twice by blocks",
        ),
        pytest.param(
            100,
            [("mempool", "x", 103), ("block", "y", 102), ("block", "z", 101), ("mempool", "", 101)],
            [(101, "xyz")],
            id="a reorganisation carries what is above it",
        ),
        pytest.param(
            100,
            [("block", "y", 102), ("mempool", "x", 103), ("mempool", "", 102)],
            [(102, "xy")],
            id="the node's chain became shorter",
        ),
        pytest.param(
            100,
            [
                ("block", "y", 103),
                ("block", "z", 101),
                ("mempool", "", 101),
                ("block", "w", 103),
                ("mempool", "", 103),
            ],
            [(101, "yz"), (103, "w")],
            id="nothing stale is left for the height's next block",
        ),
    ],
)
async def test_traces(start, steps, expected):
    notifications, received = await started(start)
    await play(notifications, steps)

    assert received == [(height, set(touched)) for height, touched in expected]


async def test_no_client_is_notified_before_start():
    notifications = Notifications()
    await play(notifications, [("mempool", "a", 5), ("block", "b", 5)])
    listener = Listener()
    await notifications.start(5, listener.notify)

    assert listener.received == [(5, set())]
    assert notifications.notify == listener.notify


async def test_the_callers_sets_stay_theirs():
    notifications, received = await started(5)
    mine, blocks = {b"a"}, {b"b"}
    await notifications.on_block(blocks, 6)
    await notifications.on_mempool(mine, 6)
    received[0][1].add(b"z")

    assert (mine, blocks) == ({b"a"}, {b"b"})


# -- Time, which is simulated


def in_virtual_time(scenario):
    """Run scenario(notifications, received) with notifications that are started at height 5."""

    async def main():
        loop = asyncio.get_running_loop()
        notifications, received = Notifications(), []
        notifications.unknown = False

        async def notify(height, touched):
            received.append((round(loop.time(), 3), height, touched))

        await notifications.start(5, notify, lambda: not notifications.unknown)
        received.clear()
        running = asyncio.ensure_future(notifications.run())
        try:
            await scenario(notifications, received)
        finally:
            running.cancel()
            await asyncio.wait([running])

    run_in_virtual_time(main())


def test_a_block_waits_one_second_for_the_mempool():
    async def scenario(notifications, received):
        await notifications.on_block({b"a"}, 6)
        await asyncio.sleep(PAIR_SECS - 0.01)
        assert received == []
        await notifications.on_block({b"b"}, 7)
        await asyncio.sleep(0.02)
        # That of the first block began
        assert received == [(PAIR_SECS, 7, {b"a", b"b"})]
        assert notifications.mempool_late

    in_virtual_time(scenario)


def test_a_mempool_that_missed_its_deadline_is_not_waited_for_until_it_is_complete():
    async def scenario(notifications, received):
        await notifications.on_block({b"a"}, 6)
        await notifications.on_mempool({b"m"}, 6, complete=False)
        assert received == []
        await asyncio.sleep(2)
        await notifications.on_block({b"b"}, 7)
        assert len(received) == 1
        await notifications.on_mempool(set(), 7, complete=False)
        assert [(height, touched) for _time, height, touched in received] == [
            (6, {b"a", b"m"}),
            (7, {b"b"}),
        ]
        await notifications.on_mempool({b"n"}, 7)
        assert not notifications.mempool_late
        await notifications.on_block({b"c"}, 8)
        await notifications.on_mempool(set(), 8, complete=False)
        assert len(received) == 3
        await notifications.on_mempool({b"o"}, 8)
        assert received[-1] == (2, 8, {b"c", b"o"})

    in_virtual_time(scenario)


def test_what_enters_the_mempool_at_a_known_tip_is_notified_at_once():
    async def scenario(notifications, received):
        for name in (b"a", b"b", b"c"):
            await notifications.on_mempool({name}, 5)
            await notifications.on_mempool({name + b"2"}, 5, complete=False)
        assert received == [
            (0, 5, {touched}) for name in (b"a", b"b", b"c") for touched in (name, name + b"2")
        ]

    in_virtual_time(scenario)


def test_one_notification_is_in_progress_at_a_time_and_the_next_has_later_reports():
    async def scenario(notifications, received):
        notify, gate = notifications.notify, asyncio.Event()

        async def slow(height, touched):
            await notify(height, touched)
            await gate.wait()

        notifications.notify = slow
        first = asyncio.ensure_future(notifications.on_mempool({b"a"}, 5))
        await asyncio.sleep(0)
        await notifications.on_block({b"b"}, 6)
        await notifications.on_mempool({b"c"}, 6)
        await notifications.on_block({b"d"}, 7)
        await asyncio.sleep(30)
        assert [(5, {b"a"})] == [item[1:] for item in received]
        gate.set()
        await first
        await asyncio.sleep(1)
        assert [(5, {b"a"}), (7, {b"b", b"c", b"d"})] == [item[1:] for item in received]

    in_virtual_time(scenario)


def test_a_tip_that_clients_do_not_know_is_notified_without_a_report():
    async def scenario(notifications, received):
        notifications.unknown = True

        async def notify(height, touched):
            notifications.unknown = False
            received.append((height, touched))

        notifications.notify = notify
        await asyncio.sleep(60)
        assert received == [(5, set())]

    in_virtual_time(scenario)
