"""The cached queries of scripts: read once, extended by blocks, dropped by a reorg."""

import asyncio
from array import array

import pytest
from aiorpcx import RPCError

from electrumx.lib.hash import hash_to_hex_str, sha256
from electrumx.server.db import wire_rows as packed
from electrumx.server.db.queries import Balance, PackedHistory, PackedUTXOs
from electrumx.server.session.shared import script_cache as scripts
from electrumx.server.session.shared import script_history
from electrumx.server.session.shared.script_cache import ScriptCache
from tests.fakes.session_world import Summary, make_tx_hash

HASHX = b"x" * 11
MAX_SEND = 350_000
LIMIT = (MAX_SEND - 100) // 99


class Database:
    """Histories that tests set; a transaction's number is its place. Notes what is read."""

    def __init__(self):
        self.backup_count = 0
        self.history = []
        self.balances = (0, 0)
        self.reads = []
        self.gate = None

    def later(self, make):
        async def read():
            found = make()
            if self.gate is not None:
                await self.gate.wait()
            return found

        return asyncio.ensure_future(read())

    def history_entries(self, hashX, *, limit, after, only_below):
        assert only_below
        self.reads.append((limit, after))

        def make():
            found = self.history[after + 1 :][:limit]
            if len(found) == limit:
                return PackedHistory(b"", after + len(found), self.backup_count, only_counted=True)
            entries = b"".join(packed.pack_entry(*entry) for entry in found)
            return PackedHistory(entries, after + len(found), self.backup_count)

        return self.later(make)

    def balance(self, hashX):
        self.reads.append("balance")
        return self.later(lambda: Balance(*self.balances, self.backup_count))

    def packed_utxos(self, hashX):
        self.reads.append("coins")
        return self.later(lambda: PackedUTXOs(b"", self.backup_count))


def entries(count, first=0):
    return [(make_tx_hash("script", n), n) for n in range(first, first + count)]


def expected_status(history, summaries=()):
    text = "".join(f"{hash_to_hex_str(tx_hash)}:{height}:" for tx_hash, height in history)
    text += "".join(f"{hash_to_hex_str(tx.hash)}:0:" for tx in summaries)
    return sha256(text.encode()).hex(), len(text)


@pytest.mark.parametrize("count", [1, 150, 1000, 3000])
async def test_a_block_adds_to_a_history_and_its_status(count):
    db = Database()
    db.history = entries(count)
    cache = ScriptCache(db, MAX_SEND)
    summaries = [Summary(make_tx_hash("pending"), 1, False)]
    histories = cache.histories
    for extra in (0, 1, 2):
        db.history += entries(extra, first=len(db.history))
        known = len(db.history) - extra
        cache.drop([HASHX])
        history, _cost = await histories.hashes.read(HASHX)
        await histories.hashes.hash_history(HASHX, history)
        assert history.status([]) == expected_status(db.history)
        assert history.status(summaries) == expected_status(db.history, summaries)
        assert packed.entries_of(history.entries) == db.history
        if extra:
            assert db.reads[-1] == (LIMIT - known, known - 1)
    assert len(db.reads) == 3
    assert histories.now(HASHX).status([]) == expected_status(db.history)


def added(hashXs_by_tx, first, height):
    """Return the additions of one block with these scripts' transactions."""
    hashes = b"".join(make_tx_hash("script", first + n) for n in range(len(hashXs_by_tx)))
    records = b"".join(sorted(packed.make_records(hashXs_by_tx, first)))
    ends = array("Q", [first + len(hashXs_by_tx)])
    return packed.Addition(records, hashes, first, ends, height)


@pytest.mark.parametrize("count", [0, 1, 150, 199, 1000])
async def test_additions_of_a_block_are_not_read(count):
    db = Database()
    db.history = entries(count)
    cache = ScriptCache(db, MAX_SEND)
    histories = cache.histories
    await cache.refresh([HASHX])
    # Hashed, as for a subscription
    histories.now(HASHX).status([])
    for _ in range(3):
        first = len(db.history)
        db.history += [(make_tx_hash("script", n), 7_000) for n in (first, first + 1)]
        cache.drop([HASHX], added([[HASHX], [b"y" * 11, HASHX]], first, 7_000))
        assert histories.now(HASHX) is None
        await cache.refresh([HASHX])
        status, text_len = expected_status(db.history)
        assert histories.hashes.known_statuses([HASHX]) == ([status], text_len)
        assert packed.entries_of(histories.now(HASHX).entries) == db.history
        assert histories.now(HASHX).status([]) == (status, text_len)
    assert len(db.reads) == 1


async def test_a_history_that_missed_a_block_is_read():
    db = Database()
    db.history = entries(3)
    cache = ScriptCache(db, MAX_SEND)
    await cache.refresh([HASHX])
    db.history += entries(1, first=3)
    # It is not refreshed at this block.
    cache.drop([HASHX], added([[HASHX]], 3, 3))
    db.history += entries(1, first=4)
    cache.drop([HASHX], added([[HASHX]], 4, 4))
    await cache.refresh([HASHX])
    assert packed.entries_of(cache.histories.now(HASHX).entries) == db.history
    assert db.reads[1:] == [(LIMIT - 3, 2)]


async def test_a_history_that_was_read_with_the_block_in_it_is_not_extended_twice():
    db = Database()
    db.history = entries(3)
    cache = ScriptCache(db, MAX_SEND)
    # The block was committed before clients are notified of it.
    await cache.refresh([HASHX])
    cache.drop([HASHX], added([[HASHX]], 2, 2))
    await cache.refresh([HASHX])
    assert packed.entries_of(cache.histories.now(HASHX).entries) == db.history
    assert len(db.reads) == 1


async def test_an_extended_history_is_not_cached_if_another_block_or_reorganisation_came():
    for undone in (False, True):
        db = Database()
        db.history = entries(3)
        cache = ScriptCache(db, MAX_SEND)
        await cache.refresh([HASHX])
        cache.drop([HASHX], added([[HASHX]], 3, 3))
        refreshing = asyncio.ensure_future(cache.refresh([HASHX]))
        await asyncio.sleep(0)
        if undone:
            db.backup_count += 1
        else:
            cache.drop([HASHX])
        await refreshing
        assert cache.histories.now(HASHX) is None
        assert cache.histories.hashes.known_statuses([HASHX]) is None


async def test_of_a_very_long_history_only_the_hash_stays_cached_and_is_continued(monkeypatch):
    monkeypatch.setattr(scripts, "KEPT_HISTORY_BYTES", 1_000)
    monkeypatch.setattr(script_history, "INLINE_ITEMS", 10)
    db = Database()
    db.history = entries(500)
    cache = ScriptCache(db, MAX_SEND)
    histories = cache.histories
    history, _cost = await histories.hashes.read(HASHX)
    await asyncio.gather(*(histories.hashes.hash_history(HASHX, history) for _ in range(3)))
    assert histories.now(HASHX) is None
    db.history += entries(1, first=500)
    cache.drop([HASHX])
    history, _cost = await histories.hashes.read(HASHX)
    assert db.reads[-1] == (LIMIT - 500, 499)
    assert history.status([]) == expected_status(db.history)
    whole, _cost = await histories.read(HASHX)
    assert packed.entries_of(whole.entries) == db.history
    assert packed.entries_of((await histories.fetch(HASHX)).entries) == db.history


async def test_a_request_for_entries_does_not_share_a_read_without_them(monkeypatch):
    monkeypatch.setattr(scripts, "KEPT_HISTORY_BYTES", 1_000)
    monkeypatch.setattr(script_history, "INLINE_ITEMS", 10)
    db = Database()
    db.history = entries(500)
    cache = ScriptCache(db, MAX_SEND)
    hashes = cache.histories.hashes
    history, _cost = await hashes.read(HASHX)
    await hashes.hash_history(HASHX, history)
    cache.drop([HASHX])
    extension = hashes.fetch(HASHX)
    hashes.cache.drop([HASHX])
    hashes.cache.generation = extension.generation
    whole = cache.histories.fetch(HASHX)
    assert (await extension).entries is None
    assert packed.entries_of((await whole).entries) == db.history


async def test_a_history_that_is_too_large_stays_so_until_the_chain_is_undone():
    db = Database()
    db.history = entries(LIMIT)
    cache = ScriptCache(db, MAX_SEND)
    for _ in range(3):
        with pytest.raises(RPCError, match="history too large"):
            await cache.histories.read(HASHX)
        cache.drop([HASHX])
    assert len(db.reads) == 1
    db.history.pop()
    db.backup_count += 1
    history, _cost = await cache.histories.read(HASHX)
    assert history.count == LIMIT - 1


async def test_an_undone_block_takes_its_transactions_along():
    db = Database()
    db.history = entries(5)
    cache = ScriptCache(db, MAX_SEND)
    await cache.histories.read(HASHX)
    cache.drop([HASHX])
    # The chain is undone while what follows is being read.
    db.gate = asyncio.Event()
    reading = asyncio.ensure_future(cache.histories.read(HASHX))
    await asyncio.sleep(0)
    db.history = entries(3)
    db.backup_count += 1
    db.gate.set()
    # That read ended in the old state, and its result must not be cached.
    await reading
    history, _cost = await cache.histories.read(HASHX)
    assert packed.entries_of(history.entries) == db.history
    assert history.status([]) == expected_status(db.history)


async def test_concurrent_requests_share_one_read():
    db = Database()
    db.balances = (2, 70)
    cache = ScriptCache(db, MAX_SEND)
    found = await asyncio.gather(*(cache.balances.read(HASHX) for _ in range(5)))
    assert {value for value, _cost in found} == {(2, 70)}
    assert db.reads == ["balance"]
    assert cache.balances.now(HASHX) == (2, 70)


async def test_a_value_read_before_a_block_is_returned_but_not_cached():
    db = Database()
    db.balances = (1, 5)
    cache = ScriptCache(db, MAX_SEND)
    db.gate = asyncio.Event()
    early = asyncio.ensure_future(cache.balances.read(HASHX))
    for _ in range(3):
        await asyncio.sleep(0)
    cache.drop([HASHX])
    db.balances = (2, 6)
    late = asyncio.ensure_future(cache.balances.read(HASHX))
    for _ in range(3):
        await asyncio.sleep(0)
    db.gate.set()
    assert ((1, 5), (2, 6)) == ((await early)[0], (await late)[0])
    assert cache.balances.now(HASHX) == (2, 6)


async def test_a_read_that_fails_fails_for_all_its_requests_and_is_not_cached():
    db = Database()
    cache = ScriptCache(db, MAX_SEND)

    def fail():
        raise OSError("disk")

    db.balance = lambda hashX: db.later(fail)
    found = await asyncio.gather(
        *(cache.balances.read(HASHX) for _ in range(2)), return_exceptions=True
    )
    assert ["disk", "disk"] == [str(error) for error in found]
    del db.balance
    assert ((0, 0), 0.0) == await cache.balances.read(HASHX)


async def test_histories_of_touched_scripts_are_refreshed_together():
    db = Database()
    db.history = entries(2)
    cache = ScriptCache(db, MAX_SEND)
    await cache.refresh([HASHX, b"y" * 11])
    assert cache.histories.now(HASHX).count == 2
    await cache.refresh([HASHX])
    assert len(db.reads) == 2
