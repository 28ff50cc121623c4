"""Reads of histories, UTXOs and blocks, over stores that a test fills."""

import asyncio

import pytest

from electrumx.server.db import wire_rows
from electrumx.server.db.queries import Queries
from electrumx.server.db.utxo_lookup import UTXOLookup
from electrumx.server.storage.schema import DBError
from tests.server.db.parts import (
    HASHX,
    add_blocks,
    read_pool_of,
    stores_in,
    tx_hash,
    undo_blocks,
    utxo_rows,
    value,
)


@pytest.fixture
def stores(tmp_path, engine):
    stores = stores_in(tmp_path, engine)
    stores.open_for_sync()
    add_blocks(stores, 0, 5)
    yield stores
    stores.close()


@pytest.fixture
def queries(stores):
    return Queries(stores, read_pool_of(stores))


async def test_a_history_is_in_chain_order_and_can_begin_and_end_anywhere(queries):
    whole = [(tx_hash(height), height) for height in range(6)]

    assert await queries.limited_history(HASHX) == whole
    assert await queries.limited_history(HASHX, limit=2) == whole[:2]
    found = await queries.history_entries(HASHX, after=3)
    assert wire_rows.entries_of(found.entries) == whole[4:]
    assert (found.last_tx_num, found.backup_count) == (5, 0)


async def test_a_history_without_entries_names_the_number_asked_from(queries):
    found = await queries.history_entries(b"\xbb" * 11, after=3)

    assert (found.entries, found.last_tx_num) == (b"", 3)


@pytest.mark.parametrize("bounded", [True, False])
async def test_a_history_that_is_too_long_is_only_counted(stores, queries, monkeypatch, bounded):
    if not bounded:
        monkeypatch.setattr("electrumx.server.db.queries.SMALL_HISTORY_BYTES", 2 * 5)
    read = []
    find = stores.files.hash_file
    monkeypatch.setattr(
        stores.files, "hash_file", lambda number: read.append(number) or find(number)
    )
    for after, limit in [(-1, 6), (-1, 5), (-1, 3), (2, 3), (4, 1)]:
        found = await queries.history_entries(HASHX, limit=limit, after=after, only_below=True)
        assert found == (b"", after + limit, 0, True)
    assert not read
    for after, limit in [(-1, 7), (2, 4), (5, 1)]:
        found = await queries.history_entries(HASHX, limit=limit, after=after, only_below=True)
        assert not found.only_counted
        assert [height for _hash, height in wire_rows.entries_of(found.entries)] == list(
            range(after + 1, 6)
        )
    assert read
    # Entries that are not committed do not count.
    add_blocks(stores, 6, 8, utxos=False)
    found = await queries.history_entries(HASHX, limit=7, only_below=True)
    assert (len(wire_rows.entries_of(found.entries)), found.only_counted) == (6, False)


async def test_history_whose_utxos_are_not_committed_is_left_out(stores, queries):
    add_blocks(stores, 6, 8, utxos=False)

    assert len(await queries.limited_history(HASHX)) == 6


async def test_utxos_and_balance_agree(queries):
    utxos = await queries.all_utxos(HASHX)
    balance = await queries.balance(HASHX)

    assert [(u.tx_hash, u.height, u.value) for u in utxos] == [
        (tx_hash(height), height, value(height)) for height in range(6)
    ]
    assert (balance.utxo_count, balance.value) == (6, sum(u.value for u in utxos))


async def test_a_read_that_a_reorganisation_races_is_repeated(stores, queries):
    calls = []

    def read(_bounded):
        calls.append(stores.state.height)
        if len(calls) == 1:
            undo_blocks(stores, 4, 5)
        return stores.state.height

    assert await asyncio.wait_for(queries.steady_read(read), 120) == 3
    assert calls == [5, 3]


async def test_the_transactions_of_a_block_are_those_that_were_flushed(queries):
    assert await queries.tx_hashes_at_blockheight(4) == [tx_hash(4)]
    with pytest.raises(DBError, match=r"block 6 not on disk \(>5\)"):
        await queries.block_tx_hashes(6)


async def test_an_output_is_found_by_its_full_hash_only(stores):
    lookup = UTXOLookup(stores)
    like = tx_hash(2)[:4] + bytes(28)

    row = lookup.row(tx_hash(2), 0)
    assert {row.outpoint_key: HASHX, row.utxo_key: row.item[-8:]} == utxo_rows(2)
    assert lookup.row(like, 0, exact=True) is None
    assert lookup.row(tx_hash(2), 1) is None
    assert await lookup.hashXs_and_values([(tx_hash(2), 0), (like, 0)]) == [
        (HASHX, value(2)),
        None,
    ]


def test_an_output_whose_rows_are_to_be_deleted_is_not_found(stores):
    lookup = UTXOLookup(stores)
    row = lookup.row(tx_hash(2), 0)

    assert lookup.row(tx_hash(2), 0, {row.outpoint_key}) is None


def test_a_transaction_number_beyond_the_committed_ones_has_no_hash(stores):
    lookup = UTXOLookup(stores)

    assert lookup.tx_hash(5) == (tx_hash(5), 5)
    assert lookup.tx_hash(6) == (None, 6)
