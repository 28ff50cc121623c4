"""Lines out of bytes, however they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.server.session.caches import LRUCache
from electrumx.server.session.framing import BoundedNewlineFramer


def drain(framer):
    """Return what has been received: messages, and None for each that was dropped."""
    result = []
    while not framer._queue.empty():
        item = framer._queue.get_nowait()
        result.append(None if isinstance(item, MemoryError) else item)
    return result


@given(
    lines=st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"x")), max_size=8),
    cuts=st.lists(st.integers(0, 100), max_size=10),
    max_size=st.integers(0, 12),
)
def test_framing_survives_any_cut_of_the_bytes(lines, cuts, max_size):
    framer = BoundedNewlineFramer(max_size)
    data = b"".join(framer.frame(line) for line in lines)
    start = 0
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        framer.received_bytes(data[start:cut])
        start = cut
    expected = [None if len(line) > max_size > 0 else line for line in lines]
    assert expected == drain(framer)


async def test_a_dropped_message_is_reported_before_its_end():
    framer = BoundedNewlineFramer(10)
    framer.received_bytes(b"x" * 11)
    with pytest.raises(MemoryError, match="dropping message over 10 bytes and re-synchronizing"):
        await framer.receive_message()
    framer.received_bytes(b"x" * 100 + b"\nabc\n")
    assert b"abc" == await framer.receive_message()


async def test_a_lost_connection_ends_reception():
    framer = BoundedNewlineFramer(10)
    framer.received_bytes(b"abc\n")
    framer.fail(ConnectionResetError())
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            await framer.receive_message()
        framer.fail(ConnectionResetError())


def test_a_cache_forgets_the_least_recently_used():
    cache = LRUCache(2)
    for key in (1, 2):
        cache.put(key, str(key), 0)
    assert "1" == cache.get(1)
    cache.put(3, "3", 0)
    assert ("1", None, "3") == (cache.get(1), cache.get(2), cache.get(3))
    assert "4 lookups 3 hits 2 entries" == cache.summary()


def test_a_cache_refuses_what_was_read_before_an_invalidation():
    cache = LRUCache(2)
    generation = cache.generation
    cache.drop([1])
    cache.put(1, "stale", generation)
    assert 1 not in cache
    cache.put(1, "fresh", cache.generation)
    cache.clear()
    assert 0 == len(cache)
