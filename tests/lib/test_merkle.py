"""Tests of Merkle trees and of the level cache."""

import asyncio
import threading

import pytest

from electrumx.lib.hash import double_sha256, hex_str_to_hash
from electrumx.lib.merkle import THREAD_LEAF_COUNT, Merkle, MerkleCache

merkle = Merkle()
HASHES = [double_sha256(bytes([n])) for n in range(16)]
A, B, C, D, E = HASHES[:5]


def pair(left, right):
    return double_sha256(left + right)


@pytest.mark.parametrize(
    ("count", "length"),
    [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (2**53, 53), (2**53 + 1, 54)],
)
def test_the_branch_length_is_the_logarithm_rounded_up(count, length):
    assert merkle.branch_length(count) == length
    assert merkle.tree_depth(count) == length + 1


def test_a_branch_length_needs_a_positive_integer():
    with pytest.raises(TypeError):
        merkle.branch_length(1.0)
    for bad in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            merkle.branch_length(bad)


def test_small_trees_have_the_roots_of_the_definition():
    assert merkle.root([A]) == A
    assert merkle.root([A, B]) == pair(A, B)
    assert merkle.root([A, B, C]) == pair(pair(A, B), pair(C, C))
    five = pair(pair(pair(A, B), pair(C, D)), pair(pair(E, E), pair(E, E)))
    assert merkle.root([A, B, C, D, E]) == five


def test_a_branch_lists_the_siblings_from_the_leaf_up():
    branch, root = merkle.branch_and_root([A, B, C], 2)

    assert branch == [C, pair(A, B)]
    assert root == merkle.root([A, B, C])


def test_the_root_of_block_100000_of_bitcoin_is_right():
    txids = [
        "8c14f0db3df150123e6f3dbbf30f8b955a8249b62ac1d1ff16284aefa3d06d87",
        "fff2525b8931402dd09222c50775608f75787bd2b87e56995a7bdd30f79702c4",
        "6359f0868171b1d194cbee1af2f16ea598ae8fad666d9b012c8ed2b79a236ec4",
        "e9a66845e05d5abc0ad04ec80f774a7e585c6e8db975962d069a522137b80c1d",
    ]
    root = hex_str_to_hash("f3e94742aca4b5ef85488dc37c06c3282295ffec960994b2c0d5ac2a25a95766")

    assert merkle.root([hex_str_to_hash(txid) for txid in txids]) == root


def test_a_longer_branch_pairs_the_top_with_itself():
    branch, root = merkle.branch_and_root([A, B], 1, length=3)
    top = pair(A, B)

    assert branch == [A, top, pair(top, top)]
    assert root == merkle.root([A, B], length=3)
    assert root == merkle.root_from_proof(B, branch, 1)


def test_the_arguments_are_not_changed():
    hashes = [A, B, C]
    merkle.branch_and_root(hashes, 1)
    merkle.root(hashes)

    assert hashes == [A, B, C]


def test_bad_branch_arguments_are_refused():
    with pytest.raises(TypeError):
        merkle.branch_and_root([A], 0.0)
    with pytest.raises(TypeError):
        merkle.branch_and_root([A], 0, length=1.0)
    with pytest.raises(TypeError):
        merkle.branch_and_root(5, 0)
    for hashes, index, length in (([A], 1, None), ([A], -1, None), ([], 0, None), ([A, B], 0, 0)):
        with pytest.raises(ValueError):
            merkle.branch_and_root(hashes, index, length)
    with pytest.raises(ValueError):
        merkle.root([])


def test_an_index_too_big_for_the_branch_proves_nothing():
    for branch, index in (([], 1), ([B], 2), ([B], -1)):
        with pytest.raises(ValueError, match="index out of range"):
            merkle.root_from_proof(A, branch, index)


def test_levels_need_lists_and_agreeing_leaves():
    level = merkle.level(HASHES[:8], 1)
    with pytest.raises(TypeError):
        merkle.branch_and_root_from_level(tuple(level), [A, B], 0, 1)
    with pytest.raises(TypeError):
        merkle.branch_and_root_from_level(level, (A, B), 0, 1)
    with pytest.raises(ValueError, match="inconsistent"):
        merkle.branch_and_root_from_level(level, [A, C], 0, 1)
    with pytest.raises(ValueError, match="range"):
        merkle.branch_and_root_from_level(level, [A, B], 8, 1)


class Source:
    """A list of hashes; may pause, and note the ranges of its calls."""

    def __init__(self, count):
        self.hashes = [double_sha256(b"%d" % n) for n in range(count)]
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.calls = []

    async def read(self, start, count):
        self.calls.append((start, count))
        found = self.hashes[start : start + count]
        self.asked.set()
        await self.gate.wait()
        if len(found) != count:
            raise IndexError("no such hashes")
        return found

    def pause(self):
        self.gate.clear()
        self.asked.clear()

    def reorganise(self, first):
        """Replace the hashes from first on by others."""
        self.hashes[first:] = [double_sha256(h) for h in self.hashes[first:]]


async def ready_cache(count, length):
    source = Source(count)
    cache = MerkleCache(merkle, source.read)
    await cache.initialize(length)
    return source, cache


async def assert_right(cache, source, length, index):
    expected = merkle.branch_and_root(source.hashes[:length], index)
    assert await cache.branch_and_root(length, index) == expected


async def test_a_cache_answers_for_every_length_and_index():
    source, cache = await ready_cache(40, 10)
    for length in [*range(1, 41), 23, 5]:
        for index in range(length):
            await assert_right(cache, source, length, index)
    assert cache.length == 40


async def test_a_cache_keeps_the_middle_level():
    source, cache = await ready_cache(100, 64)

    assert cache.depth_higher == 3
    assert cache.level == merkle.level(source.hashes[:64], 3)
    assert cache.initialized.is_set()
    source.calls.clear()
    await assert_right(cache, source, 64, 17)
    # Only the segment of the leaf, and for a shorter tree the leaves of its last one.
    assert source.calls == [(16, 8)]
    await assert_right(cache, source, 20, 17)
    assert source.calls[1:] == [(16, 4)] * 2
    await cache.branch_and_root(70, 0)
    assert cache.level == merkle.level(source.hashes[:70], 3)


async def test_an_extension_reads_only_from_its_segment():
    source, cache = await ready_cache(100, 64)
    await cache.branch_and_root(64, 0)
    source.calls.clear()
    for length in (70, 75, 60):
        # Of a segment that is cached
        await cache.branch_and_root(length, 0)

    # The last are the leaves after the level of a shorter tree.
    assert source.calls == [(64, 6), (64, 11), (56, 4)]
    assert cache.length == 75


async def test_queries_wait_for_initialisation():
    source = Source(10)
    cache = MerkleCache(merkle, source.read)
    query = asyncio.ensure_future(cache.branch_and_root(4, 1))
    await asyncio.sleep(0)
    assert not query.done()
    await cache.initialize(8)

    assert await query == merkle.branch_and_root(source.hashes[:4], 1)


async def test_bad_queries_are_refused():
    _, cache = await ready_cache(10, 8)
    for length, index in (("1", 0), (1, "0"), (1.0, 0)):
        with pytest.raises(TypeError):
            await cache.branch_and_root(length, index)
    for length, index in ((0, 0), (-1, 0), (3, 3), (3, -1)):
        with pytest.raises(ValueError):
            await cache.branch_and_root(length, index)
    with pytest.raises(IndexError):
        await cache.branch_and_root(11, 0)
    assert cache.length == 8


async def test_a_source_that_gives_too_few_is_refused():
    async def one(start, count):
        return [A]

    with pytest.raises(ValueError, match="gave 1 of 4"):
        await MerkleCache(merkle, one).initialize(4)


async def test_bad_truncations_are_refused():
    _, cache = await ready_cache(10, 8)
    with pytest.raises(TypeError):
        cache.truncate(1.0)
    for bad in (0, -1):
        with pytest.raises(ValueError, match="positive"):
            cache.truncate(bad)


async def test_a_truncation_cuts_to_whole_segments():
    source, cache = await ready_cache(100, 64)
    cache.truncate(70)
    assert (cache.length, len(cache.level)) == (64, 8)
    cache.truncate(30)
    assert (cache.length, len(cache.level)) == (24, 3)
    cache.truncate(3)
    assert (cache.length, cache.level) == (0, [])
    source.reorganise(3)
    await assert_right(cache, source, 80, 50)


async def test_a_truncation_during_an_extension_keeps_stale_leaves_out():
    source, cache = await ready_cache(100, 64)
    source.pause()
    query = asyncio.ensure_future(cache.branch_and_root(90, 80))
    await source.asked.wait()
    source.reorganise(70)
    cache.truncate(70)
    source.gate.set()

    assert await query == merkle.branch_and_root(source.hashes[:90], 80)
    assert cache.level == merkle.level(source.hashes[:90], 3)


async def test_a_truncation_in_another_thread_is_heeded():
    source, cache = await ready_cache(100, 64)
    source.pause()
    query = asyncio.ensure_future(cache.branch_and_root(90, 20))
    await source.asked.wait()
    source.reorganise(10)
    await asyncio.to_thread(cache.truncate, 10)
    assert (cache.length, len(cache.level)) == (8, 1)
    source.gate.set()

    assert await query == merkle.branch_and_root(source.hashes[:90], 20)
    assert cache.level == merkle.level(source.hashes[:90], 3)


async def test_a_truncation_during_the_reading_of_leaves_starts_the_query_again():
    source, cache = await ready_cache(100, 100)
    source.pause()
    query = asyncio.ensure_future(cache.branch_and_root(100, 98))
    await source.asked.wait()
    source.reorganise(95)
    cache.truncate(95)
    source.gate.set()

    assert await query == merkle.branch_and_root(source.hashes[:100], 98)


async def test_a_truncation_during_initialisation_starts_it_again_shorter():
    source = Source(64)
    cache = MerkleCache(merkle, source.read)
    source.pause()
    task = asyncio.ensure_future(cache.initialize(64))
    await source.asked.wait()
    source.reorganise(30)
    del source.hashes[40:]
    cache.truncate(30)
    source.gate.set()
    await task

    assert cache.length == 30
    assert cache.level == merkle.level(source.hashes[:30], cache.depth_higher)


async def test_simultaneous_extensions_read_the_source_once():
    source, cache = await ready_cache(100, 64)
    source.calls.clear()
    source.pause()
    queries = [asyncio.ensure_future(cache.branch_and_root(90, 80)) for _ in range(5)]
    await source.asked.wait()
    # All of them wait for leaves, or for the query that reads them.
    await asyncio.sleep(0)
    source.gate.set()
    await asyncio.gather(*queries)

    assert source.calls.count((64, 26)) == 1
    assert {(64, 26), (80, 8)} == set(source.calls)


async def test_a_cancelled_extension_leaves_the_cache_usable():
    source, cache = await ready_cache(100, 64)
    source.pause()
    task = asyncio.ensure_future(cache.branch_and_root(90, 80))
    await source.asked.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    source.gate.set()
    await assert_right(cache, source, 95, 90)


async def test_a_long_level_is_hashed_in_another_thread():
    threads = set()

    def noting_hash(data):
        threads.add(threading.current_thread())
        return double_sha256(data)

    source = Source(THREAD_LEAF_COUNT + 1)
    await MerkleCache(Merkle(noting_hash), source.read).initialize(THREAD_LEAF_COUNT + 1)

    assert threading.current_thread() not in threads
    assert len(threads) == 1


async def test_a_cache_reads_the_leaves_of_a_segment_once_for_several_proofs():
    hashes = [double_sha256(bytes([n])) for n in range(40)]
    asked = []

    async def source(start, count):
        asked.append((start, count))
        return hashes[start : start + count]

    cache = MerkleCache(Merkle(), source)
    await cache.initialize(40)
    asked.clear()
    size = 1 << cache.depth_higher
    for _ in range(2):
        for index in range(size):
            branch, root = await cache.branch_and_root(40, index)
            assert Merkle().branch_and_root(hashes[:40], index) == (branch, root)
    assert asked == [(0, size)]
    # Not after they may have changed
    cache.truncate(40)
    await cache.branch_and_root(40, 0)
    assert asked == [(0, size)] * 2


async def test_the_hashes_that_a_proof_takes_are_known_beforehand():
    made = []

    def counting_hash(data):
        made.append(data)
        return double_sha256(data)

    source = Source(1_000)
    cache = MerkleCache(Merkle(counting_hash), source.read)
    assert cache.hashes_needed(1_000, 5) == 0
    await cache.initialize(1_000)
    for length, index in ((900, 5), (900, 6), (900, 700), (910, 5), (910, 905)):
        needed = cache.hashes_needed(length, index)
        made.clear()
        await cache.branch_and_root(length, index)
        # Leaves are hashed by the source.
        assert len(made) <= needed <= 2 * len(made) + 100
        assert cache.hashes_needed(length, index) == 0
