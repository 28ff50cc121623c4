"""Where the daemon's chain and ours diverge, and which blocks are to be undone."""

import asyncio
import logging

import pytest

from electrumx.lib.errors import OperatorError
from electrumx.lib.hash import double_sha256
from electrumx.server.block_processor.reorg import ReorgFinder
from electrumx.server.daemon.client import DaemonError
from tests.fakes.chain import COIN, GENESIS, ChainMaker
from tests.fakes.world import ScriptedDaemon

REORG_LIMIT = 6


class Ours:
    """A chain state and its database in one."""

    def __init__(self, raws):
        self.raws = raws
        self.lock = asyncio.Lock()
        self.height = self.db_height = len(raws) - 1
        self.tip = double_sha256(raws[-1][:80])
        self.kept = dict(enumerate(raws))

    async def fs_block_hashes(self, height, count):
        return [double_sha256(raw[:80]) for raw in self.raws[height : height + count]]

    def read_raw_block(self, height):
        if height not in self.kept:
            raise FileNotFoundError
        return self.kept[height]


def finder_of(ours, daemon, margin=0):
    logger = logging.getLogger("reorg")
    return ReorgFinder(COIN, ours, ours, daemon, REORG_LIMIT, margin, logger)


def branches(fork_height, ours=12, theirs=12, seed=3):
    """Return two chains that diverge above a height, each up to a height."""
    maker = ChainMaker(seed=seed)
    fork = maker.grow(maker.genesis_hash, fork_height)
    return [
        maker.chain(maker.grow(fork, height - fork_height) if height > fork_height else fork)
        for height in (ours, theirs)
    ]


@pytest.mark.parametrize("fork_height", range(12))
@pytest.mark.parametrize("theirs", [11, 12, 14])
async def test_the_blocks_above_the_fork_are_replaced(fork_height, theirs):
    our_chain, their_chain = branches(fork_height, theirs=max(theirs, fork_height))
    finder = finder_of(Ours(our_chain), ScriptedDaemon(their_chain))

    assert await finder.reorg_range(None) == (fork_height + 1, 12 - fork_height)


@pytest.mark.parametrize("theirs", [12, 15])
async def test_a_chain_that_has_all_our_blocks_replaces_none(theirs):
    our_chain, their_chain = branches(12, theirs=theirs)
    assert (await finder_of(Ours(our_chain), ScriptedDaemon(their_chain)).reorg_range(None))[1] == 0


async def test_a_daemon_with_fewer_blocks_replaces_those_above_its_height():
    our_chain, their_chain = branches(9, theirs=9)
    finder = finder_of(Ours(our_chain), ScriptedDaemon(their_chain))

    assert await finder.reorg_range(None) == (10, 3)


@pytest.mark.parametrize(
    ("count", "margin", "expected"),
    [
        (0, 0, (13, 0)),
        (3, 0, (10, 3)),
        (50, 0, (1, 12)),
        (0, 1, (13, 0)),
        (3, 1, (9, 4)),
        (12, 1, (1, 12)),
    ],
)
async def test_the_operator_may_name_the_number(count, margin, expected):
    our_chain, _ = branches(12)
    finder = finder_of(Ours(our_chain), ScriptedDaemon(our_chain), margin)

    assert await finder.reorg_range(count) == expected


async def test_a_margin_undoes_blocks_below_the_first_that_differs():
    our_chain, their_chain = branches(9)
    finder = finder_of(Ours(our_chain), ScriptedDaemon(their_chain), margin=1)

    assert await finder.reorg_range(None) == (9, 4)


async def test_another_genesis_block_is_the_operators_mistake():
    our_chain, _ = branches(3)
    other = [GENESIS[:76] + b"\1\0\0\0\0"]
    with pytest.raises(OperatorError, match="check DAEMON_URL, COIN and NET"):
        await finder_of(Ours(our_chain), ScriptedDaemon(other)).reorg_range(None)


async def test_a_daemon_at_our_tip_has_not_left_our_chain():
    our_chain, _ = branches(12)
    finder = finder_of(Ours(our_chain), ScriptedDaemon(our_chain))
    assert not await finder.daemon_left_our_chain()
    assert finder.followed_url == "http://node-1/"


@pytest.mark.parametrize("theirs", [11, 12])
async def test_another_block_at_our_height_or_below_shows_at_once(theirs):
    our_chain, their_chain = branches(8, theirs=theirs)
    assert await finder_of(Ours(our_chain), ScriptedDaemon(their_chain)).daemon_left_our_chain()


async def test_blocks_above_our_height_are_left_to_the_prefetcher():
    our_chain, their_chain = branches(8, theirs=13)
    finder = finder_of(Ours(our_chain), ScriptedDaemon(their_chain))
    assert not await finder.daemon_left_our_chain()


async def test_nothing_is_compared_while_the_state_changes():
    our_chain, their_chain = branches(8)
    ours = Ours(our_chain)
    async with ours.lock:
        assert not await finder_of(ours, ScriptedDaemon(their_chain)).daemon_left_our_chain()


async def test_a_daemon_that_had_our_tip_and_lacks_it_twice_has_undone_blocks():
    our_chain, their_chain = branches(9, theirs=9)
    daemon = ScriptedDaemon(their_chain)
    finder = finder_of(Ours(our_chain), daemon)
    finder.note_followed()
    assert not await finder.daemon_left_our_chain()
    assert await finder.daemon_left_our_chain()


async def test_a_daemon_that_never_had_our_tip_is_only_behind():
    our_chain, their_chain = branches(9, theirs=9)
    daemon = ScriptedDaemon(their_chain)
    finder = finder_of(Ours(our_chain), daemon)
    finder.note_followed()
    daemon.url = "http://node-2/"
    for _ in range(5):
        assert not await finder.daemon_left_our_chain()


async def test_a_daemon_that_lost_more_than_can_be_undone_is_waited_for(caplog):
    our_chain, their_chain = branches(4, theirs=4)
    finder = finder_of(Ours(our_chain), ScriptedDaemon(their_chain))
    finder.note_followed()
    for _ in range(5):
        assert not await finder.daemon_left_our_chain()
    assert caplog.text.count("8 blocks fewer than before; waiting for them") == 1


async def test_blocks_to_undo_come_from_disk_the_newest_first():
    our_chain, _ = branches(12)
    finder = finder_of(Ours(our_chain), ScriptedDaemon())
    blocks = await finder.blocks_to_undo(9, 12)
    assert [block.raw for block in blocks] == our_chain[:8:-1]


@pytest.mark.parametrize("kept", [None, b"damaged", "another"])
async def test_blocks_that_are_missing_or_damaged_come_from_the_daemon(kept):
    our_chain, their_chain = branches(8)
    ours = Ours(our_chain)
    ours.kept[10] = their_chain[10] if kept == "another" else kept
    if kept is None:
        del ours.kept[10]
    blocks = await finder_of(ours, ScriptedDaemon(our_chain)).blocks_to_undo(9, 12)
    assert [block.raw for block in blocks] == our_chain[:8:-1]


async def test_other_blocks_from_the_daemon_are_refused():
    our_chain, their_chain = branches(8)
    ours = Ours(our_chain)
    ours.kept.clear()
    daemon = ScriptedDaemon(our_chain)
    daemon.by_hash |= dict(zip(daemon.hashes, their_chain, strict=True))
    with pytest.raises(DaemonError, match="other blocks than those asked for"):
        await finder_of(ours, daemon).blocks_to_undo(9, 12)
