"""UTXOs that are not on disk yet, over a disk that is a dictionary."""

import pytest

from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.utxo_cache import UTXOCache
from electrumx.server.storage.schema import UTXORow

TX_HASH = bytes(range(32))
HASHX = b"hashX of 11"
TX_NUM, VALUE = b"\1\2\3\4\5", b"\0\0\0\0\0\0\0\7"
UTXO = HASHX + TX_NUM + VALUE
IDX = b"\6\0\0\0"
H_KEY = b"h" + TX_HASH[:4] + IDX + TX_NUM
U_KEY = b"u" + HASHX + IDX + TX_NUM


class Disk:
    """Has one UTXO; another transaction's row has the same key unless the look-up is exact."""

    def __init__(self):
        self.lookups = []
        self.collides = False

    def lookup(self, tx_hash, idx, spent, exact=False):
        self.lookups.append((tx_hash, idx, exact))
        if H_KEY in spent or (exact and self.collides) or idx != 6:
            return None
        return UTXORow(H_KEY, U_KEY, UTXO)


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def cache(disk):
    return UTXOCache(disk.lookup)


def test_a_utxo_is_written_as_two_rows(cache):
    rows = {}
    cache.adds[TX_HASH + IDX] = UTXO
    cache.adds.put_rows(rows.__setitem__)
    assert rows == {H_KEY: HASHX, U_KEY: VALUE}


def test_a_utxo_that_is_created_and_spent_never_reaches_the_disk(cache, disk):
    cache.adds[TX_HASH + IDX] = UTXO
    assert cache.spend(TX_HASH, 6) == UTXO
    assert (cache.adds, cache.deletes, disk.lookups) == ({}, set(), [])


def test_spending_a_utxo_on_disk_deletes_both_its_rows_in_key_order(cache):
    assert cache.spend(TX_HASH, 6) == UTXO
    deleted = []
    cache.deletes.delete_rows(deleted.append)
    assert deleted == [H_KEY, U_KEY]


def test_a_utxo_on_disk_is_spent_once(cache):
    cache.spend(TX_HASH, 6)
    with pytest.raises(ChainError, match='not found in "h" table'):
        cache.spend(TX_HASH, 6)


def test_overwriting_removes_a_utxo_wherever_it_is(cache):
    cache.adds[TX_HASH + IDX] = UTXO
    assert cache.overwrite(TX_HASH, 6) == UTXO
    assert cache.deletes == set()
    assert cache.overwrite(TX_HASH, 6) == UTXO
    assert cache.deletes == {H_KEY, U_KEY}


def test_overwriting_compares_whole_hashes_and_may_find_nothing(cache, disk):
    disk.collides = True
    assert cache.overwrite(TX_HASH, 6) is None
    assert cache.overwrite(TX_HASH, 7) is None
    assert [exact for _hash, _idx, exact in disk.lookups] == [True, True]
    assert cache.deletes == set()


def test_the_memory_taken_is_estimated_by_entries(cache):
    assert cache.memsize() == 0
    cache.spend(TX_HASH, 6)
    cache.adds[TX_HASH + IDX] = UTXO
    assert cache.memsize() == 205 + 2 * 90
