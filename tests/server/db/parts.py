"""Stores and the flusher alone, and blocks of one transaction each, made without a processor."""

import logging
from hashlib import sha256

from electrumx.lib.merkle import Merkle, MerkleCache
from electrumx.server.db.flush_data import FlushData
from electrumx.server.db.flusher import Flusher
from electrumx.server.db.read_pool import ReadPool
from electrumx.server.db.stores import Stores
from electrumx.server.storage import db_class
from electrumx.server.storage.schema import OUTPOINT_PREFIX, UTXO_PREFIX, pack_tx_num
from tests.fakes.chain import COIN

LOGGER = logging.getLogger("parts")
#: each block pays its number in satoshis to this script
HASHX = b"\xaa" * 11
REORG_LIMIT = 10


def stores_in(folder, engine="leveldb"):
    return Stores(folder, db_class(engine), COIN, REORG_LIMIT, LOGGER)


def flusher_of(stores):
    async def no_hashes(_start, _count):
        raise AssertionError("no header hash is needed")

    return Flusher(stores, MerkleCache(Merkle(), no_hashes), LOGGER)


def read_pool_of(stores):
    return ReadPool(LOGGER, stores.gate, stores.explain_read)


def header(height):
    return height.to_bytes(80, "little")


def tx_hash(height):
    return sha256(b"tx %d" % height).digest()


def tip_hash(height):
    return sha256(b"tip %d" % height).digest() if height >= 0 else bytes(32)


def value(height):
    return height + 1


class Added(dict):
    """Rows that wait to be written; each UTXO has two."""

    def __len__(self):
        return super().__len__() // 2

    def put_rows(self, put):
        for key, row in self.items():
            put(key, row)


class Deleted(list):
    def delete_rows(self, delete):
        for key in self:
            delete(key)


def utxo_rows(height):
    """The ``h`` and the ``u`` row of the output of the block at a height."""
    suffix = bytes(4) + pack_tx_num(height)
    return {
        OUTPOINT_PREFIX + tx_hash(height)[:4] + suffix: HASHX,
        UTXO_PREFIX + HASHX + suffix: value(height).to_bytes(8, "little"),
    }


def blocks(first, last):
    """The flush data of the blocks of these heights."""
    heights = range(first, last + 1)
    adds = Added()
    for height in heights:
        adds.update(utxo_rows(height))
    return FlushData(
        height=last,
        tx_count=last + 1,
        headers=[header(height) for height in heights],
        block_tx_hashes=[tx_hash(height) for height in heights],
        undo_infos=[([bytes(24)], height) for height in heights],
        adds=adds,
        deletes=Deleted(),
        tip=tip_hash(last),
    )


def add_blocks(stores, first, last, *, utxos=True):
    """Flush the blocks of these heights."""
    stores.history.add_unflushed([[HASHX]] * (last + 1 - first), first)
    flusher_of(stores).flush_dbs(blocks(first, last), utxos, lambda: 0.0)


def undo_blocks(stores, first, last):
    """Flush that the blocks of these heights were undone."""
    deletes = Deleted(key for height in range(first, last + 1) for key in utxo_rows(height))
    data = FlushData(first - 1, first, [], [], [], Added(), deletes, tip_hash(first - 1))
    flusher_of(stores).flush_backup(data, {HASHX})
