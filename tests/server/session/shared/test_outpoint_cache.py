"""The cache of outpoints, against a model that looks at all blocks of the chain."""

import random
from array import array

import pytest

from electrumx.lib.hash import sha256
from electrumx.server.mempool.outpoint_watch import OutpointWatch
from electrumx.server.notifications import Confirmed
from electrumx.server.session.shared import outpoint_cache
from electrumx.server.session.shared.outpoint_cache import (
    NO_CLUE,
    NOWHERE,
    BlockChanges,
    Clue,
    OnChain,
    OutpointCache,
)

F, S = sha256(b"F"), sha256(b"S")


@pytest.fixture
def watch():
    return OutpointWatch()


@pytest.fixture
def cache(watch):
    return OutpointCache(watch)


def subscribe(cache, watch, outpoint):
    watch.add(outpoint)
    cache.keep(outpoint)


def unsubscribe(cache, watch, outpoint):
    watch.discard(outpoint)
    cache.let_go(outpoint)


def spends(height, outpoint, spender):
    """A block in which a transaction spends an outpoint."""
    return BlockChanges({S: height}, {outpoint: spender})


def test_watched_outpoints_stay_however_many_others_are_cached(cache, watch, monkeypatch):
    monkeypatch.setattr(outpoint_cache, "CACHE_ENTRIES", 3)
    subscribe(cache, watch, (F, 0))
    cache.put((F, 0), OnChain(1), 0)
    cache.put((F, 1), OnChain(1), 0)
    subscribe(cache, watch, (F, 1))
    others = [(sha256(bytes([number])), 0) for number in range(10)]
    for outpoint in others:
        cache.put(outpoint, OnChain(2), 0)
    assert OnChain(1) == cache.get((F, 0)) == cache.get((F, 1))
    assert others[-3:] == [outpoint for outpoint in others if cache.get(outpoint) is not None]


def test_nothing_is_kept_of_a_subscription_that_ended(cache, watch):
    subscribe(cache, watch, (F, 0))
    cache.put((F, 0), OnChain(1), 0)
    unsubscribe(cache, watch, (F, 0))
    assert None is cache.get((F, 0))
    assert not cache


async def test_a_block_names_the_spender_of_a_watched_outpoint_of_which_nothing_is_known(
    cache, watch
):
    subscribe(cache, watch, (F, 0))
    await cache.add_blocks(spends(7, (F, 0), S))
    assert (None, Clue(S, -1)) == (cache.get((F, 0)), cache.clue((F, 0)))
    cache.put((F, 0), OnChain(3, S, 7), cache.generation)
    assert (OnChain(3, S, 7), NO_CLUE) == (cache.get((F, 0)), cache.clue((F, 0)))
    # Without that block it is unspent.
    await cache.undo_blocks(6)
    assert OnChain(3) == cache.get((F, 0))
    await cache.undo_blocks(2)
    assert None is cache.get((F, 0))


async def test_a_block_names_the_spender_of_an_outpoint_that_becomes_watched(cache, watch):
    """A thread reads the block, while the event loop takes on subscriptions."""
    cache.put((F, 0), OnChain(3), 0)

    class Watched:
        def __contains__(self, tx_hash):
            found = tx_hash in watch.by_tx
            subscribe(cache, watch, (F, 0))
            return found

    class Others:
        def __contains__(self, tx_hash):
            found = tx_hash in cache.other_txs
            subscribe(cache, watch, (F, 0))
            return found

    step = Confirmed(7, b"", S, F + bytes(4), spend_counts=array("I", [1]))
    changes = BlockChanges.of_step(step, Watched(), Others())
    await cache.add_blocks(changes)
    assert OnChain(3, S, 7) == cache.get((F, 0))


async def test_the_spender_that_an_undone_block_named_is_none(cache, watch):
    subscribe(cache, watch, (F, 0))
    await cache.add_blocks(spends(7, (F, 0), S))
    await cache.undo_blocks(6)
    assert NO_CLUE == cache.clue((F, 0))


async def test_a_search_begins_above_the_height_up_to_which_changes_are_known(cache, watch):
    outpoints = [(F, number) for number in range(5)]
    for outpoint in outpoints:
        subscribe(cache, watch, outpoint)
    known = [OnChain(3), OnChain(3, S, 5), OnChain(3, S, 9), NOWHERE]
    for outpoint, on_chain in zip(outpoints, known, strict=False):
        cache.put(outpoint, on_chain, 0)
    await cache.add_blocks(spends(10, (F, 4), S))
    cache.lose(8)
    assert [None] * 5 == [cache.get(outpoint) for outpoint in outpoints]
    unspent = Clue(None, 8)
    expected = [unspent, Clue(S, -1), unspent, unspent, unspent]
    assert expected == [cache.clue(outpoint) for outpoint in outpoints]
    # Lost again, at a lower height
    cache.put((F, 0), OnChain(3), cache.generation)
    cache.lose(4)
    assert [Clue(None, 4)] * 5 == [cache.clue(outpoint) for outpoint in outpoints]


def test_an_entry_that_was_read_at_another_tip_is_not_cached(cache):
    cache.put((F, 0), OnChain(3), -1)
    assert None is cache.get((F, 0))
    cache.hold()
    cache.put((F, 0), OnChain(3), cache.generation)
    cache.release()
    assert None is cache.get((F, 0))
    assert NOWHERE == cache.get((F, 2**32))


class Chain:
    """Blocks that create and spend outputs at random, and the entries that they lead to."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.blocks = []  # of each: tx hash -> the outpoints that it spends
        self.count = 0

    @property
    def height(self):
        return len(self.blocks) - 1

    def extend(self):
        """Add a block; return its changes."""
        height = len(self.blocks)
        found = self.unspent()
        txs = {}
        for _ in range(3):
            self.count += 1
            tx_hash = sha256(self.count.to_bytes(4, "little"))
            self.random.shuffle(found)
            txs[tx_hash] = [found.pop() for _ in range(min(len(found), self.random.randrange(3)))]
            found += [(tx_hash, 0), (tx_hash, 1)]
        self.blocks.append(txs)
        changes = BlockChanges(dict.fromkeys(txs, height), {})
        for tx_hash, prevouts in txs.items():
            changes.spenders.update(dict.fromkeys(prevouts, tx_hash))
        return changes

    def unspent(self):
        created = [(h, n) for block in self.blocks for h in block for n in range(2)]
        spent = {prevout for block in self.blocks for found in block.values() for prevout in found}
        return [outpoint for outpoint in created if outpoint not in spent]

    def truth(self, outpoint):
        funder = spender = spender_height = None
        for height, block in enumerate(self.blocks):
            if outpoint[0] in block:
                funder = height
            for tx_hash, prevouts in block.items():
                if outpoint in prevouts:
                    spender, spender_height = tx_hash, height
        return OnChain(funder, spender, spender_height)


@pytest.mark.parametrize("seed", range(30))
async def test_entries_are_true_and_clues_lead_to_the_spender(cache, watch, monkeypatch, seed):
    """Through blocks added, undone and unknown, and outpoints read, watched and forgotten."""
    monkeypatch.setattr(outpoint_cache, "CACHE_ENTRIES", 8)
    chain = Chain(seed)
    choose = chain.random
    outpoints = []
    for _ in range(150):
        event = choose.choice(["add", "add", "read", "watch", "watch", "undo", "lose", "forget"])
        if event == "add":
            changes = chain.extend()
            outpoints += [(tx_hash, index) for tx_hash in chain.blocks[-1] for index in range(2)]
            await cache.add_blocks(changes)
        elif event == "undo" and chain.blocks:
            del chain.blocks[-choose.randrange(1, 4) :]
            await cache.undo_blocks(chain.height)
        elif event == "lose":
            fork = max(-1, chain.height - choose.randrange(3))
            del chain.blocks[fork + 1 :]
            for _ in range(choose.randrange(3)):
                chain.extend()
                outpoints += [
                    (tx_hash, index) for tx_hash in chain.blocks[-1] for index in range(2)
                ]
            cache.lose(fork)
        elif outpoints:
            for outpoint in choose.choices(outpoints, k=5):
                if event == "read":
                    cache.put(outpoint, chain.truth(outpoint), cache.generation)
                elif event == "watch":
                    subscribe(cache, watch, outpoint)
                    cache.put(outpoint, chain.truth(outpoint), cache.generation)
                elif outpoint in watch:
                    unsubscribe(cache, watch, outpoint)
        for outpoint in outpoints:
            truth, found, clue = chain.truth(outpoint), cache.get(outpoint), cache.clue(outpoint)
            assert found in (None, truth)
            assert clue.spender in (None, truth.spender)
            assert truth.spender is None or clue.after < truth.spender_height
