"""The transactions that came last, as ``mempool.recent`` has them."""

from electrumx.server.mempool.index import MemPoolIndex, MemPoolTx

HASHES = [bytes([n]) * 32 for n in range(1, 13)]


def index_of(hashes):
    """A mempool to which transactions came in an order; their fees are that order."""
    index = MemPoolIndex()
    for number, tx_hash in enumerate(hashes):
        index.add_tx(tx_hash, MemPoolTx((), (), ((bytes(11), 1),), 1_400 + number, 141), set())
    return index


def test_the_newest_come_first_and_no_more_than_asked_for():
    index = index_of(HASHES)
    assert [(HASHES[11], 1_411, 141), (HASHES[10], 1_410, 141)] == index.recent(2)
    assert HASHES[:1:-1] == [tx_hash for tx_hash, _fee, _vsize in index.recent(10)]
    assert [] == index_of([]).recent(10)


def test_one_that_went_and_came_again_is_new():
    index = index_of(HASHES[:3])
    tx = index.txs[HASHES[0]]
    index.remove_tx(HASHES[0], set())
    assert [HASHES[2], HASHES[1]] == [found[0] for found in index.recent(10)]
    index.add_tx(HASHES[0], tx, set())
    assert [HASHES[0], HASHES[2], HASHES[1]] == [found[0] for found in index.recent(10)]


def test_what_a_block_is_removing_is_not_among_them():
    index = index_of(HASHES)
    index.leaving = dict.fromkeys(HASHES[5:])
    assert HASHES[4::-1] == [found[0] for found in index.recent(10)]
