"""Laws of notifications: all touched hashXs are notified, not before both sides agree."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from electrumx.server.notifications import Notifications

STEPS = st.lists(
    st.tuples(st.sampled_from(["block", "mempool"]), st.integers(1, 8), st.integers(0, 3)),
    max_size=30,
)


def play(start, steps, final_height):
    """Play the steps and then both sides at final_height; return the hashXs touched and notified.

    Each hashX is touched once: (time, hashX) pairs, and (time, height, set) of notifications.
    """
    touches, told = [], []

    async def scenario():
        now = 0

        async def notify(height, touched):
            told.append((now, height, touched))

        notifications = Notifications()
        await notifications.start(start, notify)
        told.clear()
        final = [("block", final_height, 1), ("mempool", final_height, 1)]
        for now, (side, height, count) in enumerate([*steps, *final]):
            touched = {b"%d.%d" % (now, n) for n in range(count)}
            touches.extend((now, hashX) for hashX in touched)
            call = notifications.on_block if side == "block" else notifications.on_mempool
            await call(touched, height)

    asyncio.run(scenario())
    return touches, told


@given(st.integers(0, 8), STEPS, st.integers(1, 8))
def test_every_touched_hashX_is_notified_once_after_it_was_touched(start, steps, final_height):
    touches, told = play(start, steps, final_height)
    times = {}
    for time, _, touched in told:
        for hashX in touched:
            times.setdefault(hashX, []).append(time)

    assert set(times) == {hashX for _, hashX in touches}
    for time, hashX in touches:
        assert len(times[hashX]) == 1
        assert times[hashX][0] >= time


@given(st.integers(0, 8), STEPS, st.integers(1, 8))
def test_a_notified_height_has_been_reported_by_the_mempool_and_reached_by_blocks(
    start, steps, final_height
):
    _, told = play(start, steps, final_height)
    calls = [*steps, ("block", final_height, 1), ("mempool", final_height, 1)]
    for time, height, _ in told:
        so_far = {(side, reported) for side, reported, _ in calls[: time + 1]}
        assert ("mempool", height) in so_far
        assert height == start or ("block", height) in so_far
