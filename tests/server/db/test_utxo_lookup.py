"""Look-ups of many outpoints: in one thread or several, sorted or not, the result is the same."""

import asyncio
import random
import threading

import pytest

from electrumx.server.db import DB
from electrumx.server.db.utxo_lookup import UTXOLookup, row_order
from electrumx.server.storage.base import db_class
from electrumx.server.storage.schema import OUTPOINT_PREFIX
from tests.fakes.chain import ChainMaker, Model
from tests.fakes.world import ScriptedDaemon, World, make_env


@pytest.fixture
async def filled(tmp_path, engine):
    """An open database, and the model of its chain."""
    maker = ChainMaker(seed=21, scripts=9)
    raws = maker.chain(maker.grow(maker.genesis_hash, 60))
    env = make_env(tmp_path, engine=engine)
    async with World(env, ScriptedDaemon(raws)) as world:
        await world.until_at(raws)
    db = DB(env)
    await db.open_for_serving()
    yield db, Model(raws)
    db.close_dbs()


def outpoints_of(model):
    """Every unspent output, and others, in the order of their rows."""
    found = [tx_hash + idx.to_bytes(4, "little") for tx_hash, idx in model.unspent]
    others = [outpoint[:32] + (77).to_bytes(4, "little") for outpoint in found[:9]]
    return sorted({*found, *others, b"\xff" * 36}, key=row_order)


async def test_nothing_is_looked_up_before_the_first_flush(tmp_path, engine, monkeypatch):
    maker = ChainMaker(seed=22, scripts=9)
    daemon = ScriptedDaemon(maker.chain(maker.grow(maker.genesis_hash, 60)))
    asked, rows = [], UTXOLookup.rows

    def noted(self, outpoints, *args, **kwargs):
        asked.extend(outpoints)
        return rows(self, outpoints, *args, **kwargs)

    monkeypatch.setattr(UTXOLookup, "rows", noted)
    async with World(make_env(tmp_path, engine=engine), daemon) as world:
        await world.until_at(daemon.raw)
        # Whether its coinbase overwrites an output is asked of each block.
        assert len(asked) >= 60
        assert world.db.utxo_lookup.count == 0


async def test_several_threads_find_the_rows_that_one_finds(filled, monkeypatch):
    db, model = filled
    outpoints = outpoints_of(model)
    assert len(outpoints) > 60
    expected = db.find_utxo_rows(outpoints)
    assert expected.count(None) >= 5
    monkeypatch.setattr(UTXOLookup, "COLD_SECS", 0.0)
    monkeypatch.setattr(UTXOLookup, "SAMPLE", 5)
    threads = set()
    rows = UTXOLookup.read_rows

    def noted(self, *args):
        threads.add(threading.current_thread().name.partition("_")[0])
        return rows(self, *args)

    monkeypatch.setattr(UTXOLookup, "read_rows", noted)
    before = db.utxo_lookup.count
    assert db.find_utxo_rows(outpoints) == expected
    assert db.utxo_lookup.count == before + len(outpoints)
    assert "utxo-lookup" in threads
    for count in range(12):
        assert db.find_utxo_rows(outpoints[:count]) == expected[:count]
    # Again after the threads have ended
    db.utxo_lookup.close()
    assert db.find_utxo_rows(outpoints) == expected
    spent = {row.outpoint_key for row in expected[::3] if row}
    found = db.find_utxo_rows(outpoints, spent)
    assert [row for row in found if row] == [
        row for row in expected if row and row.outpoint_key not in spent
    ]


async def test_an_error_in_a_thread_is_raised_when_all_have_ended(filled, monkeypatch, engine):
    db, model = filled
    monkeypatch.setattr(UTXOLookup, "COLD_SECS", 0.0)
    monkeypatch.setattr(UTXOLookup, "SAMPLE", 5)
    klass = db_class(engine)
    rows_of = klass.rows_of
    calls = []

    def fail_third(self, prefixes, *args):
        calls.append(prefixes)
        if len(calls) == 3:
            raise ZeroDivisionError
        return rows_of(self, prefixes, *args)

    monkeypatch.setattr(klass, "rows_of", fail_third)
    with pytest.raises(ZeroDivisionError):
        db.find_utxo_rows(outpoints_of(model))
    # The first part, and one for each of the threads
    assert len(calls) == 1 + db.stores.tuning.lookup_threads


async def test_prevouts_of_the_mempool_come_in_any_order(filled):
    db, model = filled
    expected = [(tx_hash, idx) for tx_hash, idx in model.unspent] + [(b"\xff" * 32, 0)]
    choose = random.Random(4)
    prevouts = [*expected, *expected[:7]]
    choose.shuffle(prevouts)
    found = await db.utxo_lookup.hashXs_and_values(prevouts)
    alone = {prevout: db.find_utxo_row(*prevout, exact=True) for prevout in expected}
    assert found == [
        None if row is None else (row.item[:11], int.from_bytes(row.item[-8:], "little"))
        for row in map(alone.__getitem__, prevouts)
    ]
    assert found.count(None) == prevouts.count((b"\xff" * 32, 0))


async def test_a_damaged_row_costs_the_mempool_that_prevout_only(filled):
    db, model = filled
    prevouts = list(model.unspent)
    whole = await db.utxo_lookup.hashXs_and_values(prevouts)
    tx_hash, idx = prevouts[3]
    prefix = OUTPOINT_PREFIX + tx_hash[:4] + idx.to_bytes(4, "little")
    [(key, _hashX)] = list(db.utxo_db.iterator(prefix))
    db.utxo_db.put(key, b"short")
    found = await db.utxo_lookup.hashXs_and_values(prevouts)
    assert found[3] is None
    assert found[:3] + found[4:] == whole[:3] + whole[4:]


async def test_stores_are_exchanged_when_no_look_up_is_under_way(filled, monkeypatch):
    db, model = filled
    closed, moved = threading.Event(), threading.Event()
    close = UTXOLookup.close

    def noting_close(lookup):
        closed.set()
        close(lookup)

    monkeypatch.setattr(UTXOLookup, "close", noting_close)
    with db.gate.reading():
        exchange = asyncio.ensure_future(db.exchange_stores(moved.set))
        while not db.gate.waiting:
            await asyncio.sleep(0)
        assert not closed.is_set()
        assert not moved.is_set()
    await exchange
    assert closed.is_set()
    assert moved.is_set()
    assert any(db.find_utxo_rows(outpoints_of(model)))
