"""The notifier takes over each reported tip once, with its header and its caches."""

from types import SimpleNamespace

import pytest

from electrumx.server.mempool.outpoint_watch import OutpointWatch
from electrumx.server.notifications import Confirmed, ReportedTip
from electrumx.server.session.engine.jsonrpc import V2
from electrumx.server.session.notifier import Notifier
from electrumx.server.session.notify.announced_header import AnnouncedHeader
from electrumx.server.session.notify.noise import Noise
from electrumx.server.session.notify.outpoints import OutpointSubscriptions
from electrumx.server.session.shared.outpoint_cache import OnChain, OutpointCache
from electrumx.server.session.shared.outpoint_status import OutpointStatuses
from electrumx.server.session.shared.tip_consistency import TipConsistency


class Parts:
    """A notifier, and stubs that record its calls in order."""

    def __init__(self):
        self.calls = []
        self.steps = {}
        self.reported = None
        self.forks = []
        self.height, self.tip = 0, b""
        self.consistency = TipConsistency(self, self)
        self.header = AnnouncedHeader()
        watch = OutpointWatch()
        cache = OutpointCache(watch)
        self.statuses = OutpointStatuses(self, None, None, cache, None, lambda: False)
        self.utxo_height = 3
        outpoints = OutpointSubscriptions(watch, self.statuses, self.consistency)
        self.notifier = Notifier(
            self, self.consistency, self, self.header, self, outpoints, cache, Noise(set())
        )

    # As the block processor and the database

    @property
    def state(self):
        return self

    def confirmed_after(self, tip):
        return self.steps.get(tip)

    async def utxo_heights(self, outpoints):
        return [self.utxo_height] * len(outpoints)

    # As the script cache

    def drop(self, touched, addition):
        self.calls.append(("drop", touched, addition))

    # As the fan-out

    async def notify(self, touched, height_changed):
        self.calls.append(("notify", touched, height_changed, self.consistency.notified_height))
        return ()

    def report(self, height, tip, header=b"header"):
        self.reported = ReportedTip(height, tip, header, len(self.forks))


@pytest.fixture
def parts():
    return Parts()


async def test_before_the_first_report_there_is_no_tip(parts):
    await parts.notifier.notify(0, {b"x"})
    assert parts.calls == [("notify", {b"x"}, False, None)]
    assert parts.header.result == {}


async def test_a_new_tip_is_taken_over_before_sessions_are_notified(parts):
    parts.report(5, b"tip")
    assert not parts.notifier.is_tip_known()
    await parts.notifier.notify(5, {b"x"})
    assert parts.notifier.is_tip_known()
    assert parts.calls == [("drop", {b"x"}, None), ("notify", {b"x"}, True, 5)]
    assert parts.header.result == {"hex": b"header".hex(), "height": 5}


async def test_the_same_tip_again_drops_nothing(parts):
    parts.report(5, b"tip")
    await parts.notifier.notify(5, set())
    del parts.calls[:]
    await parts.notifier.notify(5, {b"x"})
    assert parts.calls == [("notify", {b"x"}, False, 5)]


async def test_one_step_has_an_addition_and_several_have_none(parts):
    addition = SimpleNamespace()
    parts.steps[b"a"] = Confirmed(6, b"b", b"", b"", addition)
    parts.steps[b"b"] = Confirmed(7, b"c", b"", b"", SimpleNamespace())
    for height, tip in ((5, b"a"), (6, b"b"), (8, b"d")):
        parts.report(height, tip)
        await parts.notifier.notify(height, set())
    additions = [call[2] for call in parts.calls if call[0] == "drop"]
    assert additions == [None, addition, None]


async def test_blocks_undone_and_indexed_again_are_no_new_height(parts):
    parts.report(5, b"tip")
    await parts.notifier.notify(5, set())
    parts.forks.append(4)
    assert not parts.consistency.is_block_known(5)
    parts.report(5, b"tip")
    await parts.notifier.notify(5, set())
    assert parts.calls[-1] == ("notify", set(), False, 5)
    assert parts.consistency.is_block_known(5)


async def test_what_was_read_while_blocks_were_undone_is_not_kept(parts):
    parts.report(5, b"tip")
    await parts.notifier.notify(5, set())
    parts.forks.append(4)
    await parts.statuses.load([(b"a" * 32, 0)])
    assert parts.statuses.cached((b"a" * 32, 0)) == OnChain(3)
    parts.report(5, b"tip")
    await parts.notifier.notify(5, set())
    assert parts.statuses.cached((b"a" * 32, 0)) is None
    # Of an unchanged chain it is.
    await parts.statuses.load([(b"a" * 32, 0)])
    await parts.notifier.notify(5, {b"x"})
    assert parts.statuses.cached((b"a" * 32, 0)) == OnChain(3)


def test_the_notification_of_a_header_is_encoded_once_for_each_version():
    header = AnnouncedHeader()
    assert header.set(5, b"\1")
    message = header.message(V2)
    assert message is header.message(V2)
    assert b'"hex":"01"' in message.replace(b" ", b"")
    assert not header.set(5, b"\1")
    assert header.set(6, b"\1")
    assert header.message(V2) != message
