"""Tests of the hand-over between blocks and mempool."""

import pytest

from electrumx.server.notifications import Notifications


class Listener:
    def __init__(self):
        self.heard = []

    async def notify(self, height, touched):
        self.heard.append((height, touched))


async def started(height):
    notifications, listener = Notifications(), Listener()
    await notifications.start(height, listener.notify)
    assert listener.heard == [(height, set())]
    listener.heard.clear()
    return notifications, listener.heard


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
    notifications, heard = await started(start)
    await play(notifications, steps)

    assert heard == [(height, set(touched)) for height, touched in expected]


async def test_nobody_is_notified_before_start():
    notifications = Notifications()
    await play(notifications, [("mempool", "a", 5), ("block", "b", 5)])
    listener = Listener()
    await notifications.start(5, listener.notify)

    assert listener.heard == [(5, set())]
    assert notifications.notify == listener.notify


async def test_the_callers_sets_stay_theirs():
    notifications, heard = await started(5)
    mine, blocks = {b"a"}, {b"b"}
    await notifications.on_block(blocks, 6)
    await notifications.on_mempool(mine, 6)
    heard[0][1].add(b"z")

    assert (mine, blocks) == ({b"a"}, {b"b"})
