"""The cache that forgets the least recently used entry."""

from electrumx.lib.lru import LRUCache


def test_a_cache_forgets_the_least_recently_used():
    cache = LRUCache(2)
    for key in (1, 2):
        cache.put(key, str(key), 0)
    assert "1" == cache.get(1)
    cache.put(3, "3", 0)
    assert ("1", None, "3") == (cache.get(1), cache.get(2), cache.get(3))
    assert "4 lookups 3 hits 2 entries" == cache.summary()


def test_a_cache_counts_no_use_that_finds_nothing():
    cache = LRUCache(2)
    for key in (1, 2):
        cache.put(key, str(key), 0)
    assert ("1", None) == (cache.use(1), cache.use(3))
    cache.put(3, "3", 0)
    assert ("1", None) == (cache.use(1), cache.use(2))
    assert "2 lookups 2 hits 2 entries" == cache.summary()


def test_a_cache_refuses_what_was_read_before_an_invalidation():
    cache = LRUCache(2)
    generation = cache.generation
    cache.drop([1])
    cache.put(1, "stale", generation)
    assert 1 not in cache
    cache.put(1, "fresh", cache.generation)
    cache.clear()
    assert 0 == len(cache)
