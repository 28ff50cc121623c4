"""Lines out of bytes, however they are cut."""

from hypothesis import given
from hypothesis import strategies as st

from electrumx.server.session.shared.caches import LRUCache
from electrumx.server.session.transport.framing import LineFramer


@given(
    lines=st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"x")), max_size=8),
    cuts=st.lists(st.integers(0, 100), max_size=10),
    max_size=st.integers(0, 12),
)
def test_framing_survives_any_cut_of_the_bytes(lines, cuts, max_size):
    framer = LineFramer(max_size)
    data = b"".join(line + b"\n" for line in lines)
    start, received = 0, []
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        received += framer.split(data[start:cut])
        start = cut
    kept = [line for line in lines if not len(line) > max_size > 0]
    assert (kept, len(lines) - len(kept)) == (received, framer.dropped)


def test_a_dropped_message_is_reported_before_its_end():
    framer = LineFramer(10)
    assert framer.split(b"x" * 11) == []
    assert (1, True) == (framer.dropped, framer.is_dropping)
    assert framer.split(b"x" * 100 + b"\nabc\n") == [b"abc"]
    assert (1, False) == (framer.dropped, framer.is_dropping)


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
