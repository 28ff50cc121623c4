"""Which tips are reported, and when; time is simulated."""

import asyncio
from types import SimpleNamespace

from electrumx.server.block_processor.tip_reporter import (
    CHECK_SECS,
    KEPT_STEPS,
    REORG_SECS,
    TipReporter,
)
from electrumx.server.notifications import Confirmed
from tests.fakes.virtual_time import run_in_virtual_time


class State:
    """A chain state whose tip a test moves, its database and the daemon's height."""

    def __init__(self):
        self.height, self.tip = 10, b"10"
        self.touched = set()
        self.lock = asyncio.Lock()
        self.daemon_height = 10
        self.db = SimpleNamespace(raw_header=self.raw_header)
        self.commit()

    async def raw_header(self, height):
        await asyncio.sleep(0.001)
        return b"header %d" % height

    def move(self, height, tip, *touched):
        self.height, self.tip = height, tip
        self.touched |= set(touched)

    def take_touched(self):
        touched, self.touched = self.touched, set()
        return touched

    def commit(self):
        self.db.db_height, self.db.db_tip = self.height, self.tip


class Listener:
    def __init__(self):
        self.heard = []

    async def on_block(self, touched, height):
        self.heard.append((height, touched))


def simulate(scenario):
    async def main():
        state, listener = State(), Listener()
        reporter = TipReporter(state, state.db, lambda: state.daemon_height, listener)
        await reporter.check()
        assert listener.heard == [(10, set())]
        listener.heard.clear()
        running = asyncio.ensure_future(reporter.run())
        try:
            await scenario(state, reporter, listener.heard)
        finally:
            running.cancel()
            await asyncio.wait([running])

    run_in_virtual_time(main())


def test_a_tip_is_reported_once_when_it_is_committed():
    async def scenario(state, reporter, heard):
        state.move(11, b"11", b"a")
        await asyncio.sleep(60)
        assert heard == []
        state.commit()
        reporter.blocks_advanced(b"its header")
        await asyncio.gather(reporter.check(), reporter.check())
        assert heard == [(11, {b"a"})]
        assert reporter.reported.header == b"its header"
        await asyncio.sleep(60)
        assert len(heard) == 1

    simulate(scenario)


def test_a_tip_is_reported_without_a_request():
    async def scenario(state, reporter, heard):
        state.move(11, b"11", b"a")
        state.commit()
        await asyncio.sleep(2 * CHECK_SECS)
        assert heard == [(11, {b"a"})]
        assert reporter.reported.header == b"header 11"

    simulate(scenario)


def test_undone_blocks_wait_for_those_that_replace_them():
    async def scenario(state, reporter, heard):
        state.daemon_height = 12
        reporter.reorg_begins(9)
        state.move(9, b"9", b"undone")
        state.commit()
        reporter.blocks_undone(b"10")
        await asyncio.sleep(REORG_SECS - 1)
        assert heard == []
        assert reporter.forks_reported == 0
        state.move(12, b"12'", b"new")
        state.commit()
        reporter.blocks_advanced(b"h")
        await reporter.check()
        assert heard == [(12, {b"undone", b"new"})]
        assert reporter.forks_reported == 1

    simulate(scenario)


def test_undone_blocks_are_reported_if_no_others_come_in_time():
    async def scenario(state, reporter, heard):
        state.daemon_height = 12
        reporter.reorg_begins(9)
        state.move(9, b"9", b"undone")
        state.commit()
        await asyncio.sleep(REORG_SECS + 1)
        assert heard == [(9, {b"undone"})]
        assert reporter.forks_reported == 1

    simulate(scenario)


def test_undone_blocks_are_reported_at_once_if_the_node_has_no_others():
    async def scenario(state, reporter, heard):
        state.daemon_height = 9
        reporter.reorg_begins(9)
        state.move(9, b"9", b"undone")
        state.commit()
        await reporter.check()
        assert heard == [(9, {b"undone"})]

    simulate(scenario)


def test_the_same_blocks_undone_and_indexed_again_are_a_report():
    async def scenario(state, reporter, heard):
        before = reporter.reported
        reporter.reorg_begins(9)
        state.touched = {b"a"}
        reporter.blocks_advanced(b"h")
        await reporter.check()
        assert heard == [(10, {b"a"})]
        assert reporter.reported is not before
        assert reporter.reported.tip == before.tip

    simulate(scenario)


def test_steps_lead_from_any_recent_tip_to_the_present_one():
    async def scenario(state, reporter, _heard):
        tips = [b"10"]
        for height in range(11, 11 + KEPT_STEPS + 2):
            step = Confirmed(height, b"%d" % height, b"", b"")
            reporter.add_step(tips[-1], step)
            tips.append(step.tip)
        assert reporter.step_from(tips[0]) is None
        # Down by two, and up to a block that was there before
        state.move(state.height, tips[-3])
        reporter.blocks_undone(tips[-1])
        reporter.add_step(tips[-3], Confirmed(1, tips[-2], b"", b""))
        for tip in tips[3:]:
            seen = set()
            while (step := reporter.step_from(tip)) is not None:
                assert tip not in seen
                seen.add(tip)
                tip = step.tip
            assert tip == tips[-2]

    simulate(scenario)
