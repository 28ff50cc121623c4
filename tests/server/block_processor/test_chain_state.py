"""The state of the index in memory, over a stub of the database."""

import logging

import pytest

from electrumx.lib.errors import OperatorError
from electrumx.server.block_processor.block_parser import spent_outpoints_of
from electrumx.server.block_processor.chain_state import ChainState
from electrumx.server.block_processor.compiled_indexer import CompiledIndex
from electrumx.server.block_processor.errors import ChainError, UndoMissingError
from electrumx.server.block_processor.strategies import InOrderStrategy
from electrumx.server.db import wire_rows
from electrumx.server.history.store import History
from tests.conftest import require
from tests.fakes.chain import COIN, ChainMaker, Model

REORG_LIMIT = 4


class StubDB:
    """Keeps raw blocks and undone steps in memory."""

    db_height, db_tip, db_tx_count = -1, bytes(32), 0

    def __init__(self):
        self.history = History()
        self.raw_blocks = {}
        self.undo_rows = {}
        self.undone = []

    def find_utxo_row(self, *_args, exact=False):
        return None

    def find_utxo_rows(self, outpoints, *_args, exact=False):
        return [None] * len(outpoints)

    def min_undo_height(self, max_height):
        return max_height - REORG_LIMIT + 1

    def write_raw_block(self, raw, height):
        self.raw_blocks[height] = raw

    def output_rule(self, height):
        return COIN.output_rule(height)

    def read_undo_info(self, height):
        return self.undo_rows.get(height)

    def flush_backup(self, flush_data, touched):
        self.undone.append((flush_data, touched))


class World:
    def __init__(self, indexer="python", steps=None, blocks=8):
        self.maker = ChainMaker(seed=4, scripts=4)
        self.raws = self.maker.chain(self.maker.grow(self.maker.genesis_hash, blocks))
        self.model = Model(self.raws)
        self.db = StubDB()
        compiled = None
        if indexer == "cython":
            compiled = CompiledIndex.for_coin(COIN, False, self.db.find_utxo_rows)
            require(compiled is not None, "the Cython implementation is not built")
        parse = compiled.parse if compiled else COIN.block
        self.state = ChainState(
            COIN,
            self.db,
            REORG_LIMIT,
            InOrderStrategy(),
            compiled,
            lambda: len(self.raws) - 1,
            logging.getLogger("state"),
            steps=steps,
        )
        self.blocks = [parse(raw, height) for height, raw in enumerate(self.raws)]

    def fill_undo_rows(self):
        self.db.undo_rows = {h: b"".join(items) for items, h in self.state.undo_infos}


indexers = pytest.mark.parametrize("indexer", ["python", "cython"])


@indexers
def test_advancing_moves_height_tip_and_count_and_keeps_the_unflushed_data(indexer):
    world = World(indexer)
    state = world.state

    state.advance_blocks(world.blocks)

    assert (state.height, state.tip) == (
        8,
        world.blocks[8] and COIN.header_hash(world.raws[8][:80]),
    )
    assert state.tx_count == sum(map(len, world.model.tx_hashes))
    data = state.flush_data()
    assert (data.height, data.tip, data.tx_count) == (state.height, state.tip, state.tx_count)
    assert data.headers == [raw[:80] for raw in world.raws]
    assert data.block_tx_hashes == [b"".join(hashes) for hashes in world.model.tx_hashes]
    assert len(data.adds) == len(world.model.unspent)
    assert len(data.deletes) == 0


@indexers
def test_undo_items_and_raw_blocks_are_kept_of_the_last_blocks_only(indexer):
    world = World(indexer)

    world.state.advance_blocks(world.blocks)

    assert [height for _items, height in world.state.undo_infos] == [5, 6, 7, 8]
    assert world.db.raw_blocks == {height: world.raws[height] for height in (5, 6, 7, 8)}
    assert world.state.undo_bytes > 0


@indexers
def test_what_blocks_touch_is_recorded_only_once_the_chain_is_caught_up_with(indexer):
    world = World(indexer)
    state = world.state
    state.advance_blocks(world.blocks[:7])
    assert (state.records, state.touched) == (b"", set())
    if state.compiled:
        state.compiled.new_records()
    state.set_caught_up()

    state.advance_blocks(world.blocks[7:])

    assert state.touched == set(wire_rows.hashXs_of(state.records)) != set()
    touched = state.take_touched()
    assert touched
    assert state.take_touched() == set()


@indexers
def test_the_step_to_the_tip_has_what_the_last_blocks_confirmed(indexer):
    world = World(indexer)
    state = world.state
    state.advance_blocks(world.blocks[:6])
    state.set_caught_up()
    state.advance_blocks(world.blocks[6:])

    step = state.step_of(world.blocks[6:])

    assert (step.height, step.tip, step.undone) == (8, state.tip, False)
    assert step.tx_hashes == b"".join(map(b"".join, world.model.tx_hashes[6:]))
    assert step.spent_outpoints == b"".join(map(spent_outpoints_of, world.blocks[6:]))
    assert step.header == world.raws[8][:80]
    assert step.addition.records == state.records


def test_undoing_restores_the_state_before_and_hands_it_to_the_database():
    world = World()
    state = world.state
    state.advance_blocks(world.blocks[:7])
    before = (state.height, state.tip, state.tx_count, dict(state.utxo_cache.adds))
    state.advance_blocks(world.blocks[7:])
    world.fill_undo_rows()

    state.undo_and_flush(world.blocks[:6:-1])

    assert (state.height, state.tip, state.tx_count, state.utxo_cache.adds) == before
    [(data, touched)] = world.db.undone
    assert (data.height, data.tip, data.tx_count) == before[:3]
    assert touched == state.touched != set()


def test_a_block_that_is_not_the_tip_is_not_undone():
    world = World()
    world.state.advance_blocks(world.blocks)
    world.fill_undo_rows()
    with pytest.raises(ChainError, match="not tip"):
        world.state.undo_and_flush([world.blocks[7]])
    assert world.db.undone == []


def test_missing_undo_information_is_found_before_anything_is_changed():
    world = World()
    state = world.state
    state.advance_blocks(world.blocks)
    world.fill_undo_rows()
    del world.db.undo_rows[7]
    with pytest.raises(UndoMissingError, match="2 blocks deep, and REORG_LIMIT was lower"):
        state.undo_and_flush(world.blocks[:5:-1])
    assert (state.height, world.db.undone) == (8, [])
    with pytest.raises(UndoMissingError, match=r"deeper than REORG_LIMIT \(4\)"):
        state.read_undo_items(3)


@indexers
def test_a_block_that_spends_what_does_not_exist_is_the_operators_problem(indexer):
    world = World(indexer)
    spending = next(n for n, block in enumerate(world.blocks) if spent_outpoints_of(block))
    with pytest.raises(OperatorError, match="the daemon's chain and the database do not fit"):
        world.state.advance_blocks(world.blocks[spending:])


def test_the_steps_given_replace_its_own():
    calls = []

    class Steps:
        def advance_txs(self, txs, is_unspendable):
            calls.append(len(txs))
            return world.state.advance_txs(txs, is_unspendable)

        def backup_txs(self, txs, undo_info, is_unspendable):
            calls.append(-len(txs))
            return world.state.backup_txs(txs, undo_info, is_unspendable)

    world = World(steps=Steps())
    world.state.advance_blocks(world.blocks)
    world.fill_undo_rows()
    world.state.undo_and_flush([world.blocks[-1]])
    counts = list(map(len, world.model.tx_hashes))
    assert calls == [*counts, -counts[-1]]


@pytest.mark.parametrize("flush_utxos", [False, True])
def test_frozen_data_stays_as_it_is_while_more_blocks_are_advanced(flush_utxos):
    world = World("cython")
    state = world.state
    state.advance_blocks(world.blocks[:7])
    utxos = len(state.compiled.adds)

    data = state.freeze(flush_utxos, 0)
    state.advance_blocks(world.blocks[7:])

    assert data.height == 6
    assert len(data.headers) == len(data.block_tx_hashes) == 7
    assert len(state.headers) == 2
    if flush_utxos:
        assert len(data.adds) == utxos
        assert [height for _items, height in data.undo_infos] == [5, 6]
        assert [height for _items, height in state.undo_infos] == [7, 8]
    else:
        assert data.undo_infos == []
        assert [height for _items, height in state.undo_infos] == [5, 6, 7, 8]


def test_it_continues_from_the_committed_block():
    world = World()
    world.db.db_height, world.db.db_tip, world.db.db_tx_count = 3, b"t" * 32, 17
    world.state.read_committed()
    assert (world.state.height, world.state.tip, world.state.tx_count) == (3, b"t" * 32, 17)
