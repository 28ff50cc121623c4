"""The result of a call is cached for some seconds."""

import asyncio

import pytest

from electrumx.server.daemon import info_cache
from electrumx.server.daemon.info_cache import InfoCache


class Node:
    """Counts calls; fails while ``error`` is set."""

    def __init__(self):
        self.calls = 0
        self.error = None

    async def fetch(self):
        self.calls += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return {"call": self.calls}


@pytest.fixture
def now(monkeypatch):
    """The time, as a list of one number."""
    result = [100.0]

    class Clock:
        @staticmethod
        def monotonic():
            return result[0]

    monkeypatch.setattr(info_cache, "time", Clock)
    return result


async def test_a_result_is_cached_until_it_is_too_old(now):
    node, cache = Node(), InfoCache(5.0)
    assert {"call": 1} == await cache.get(node.fetch)
    now[0] += 4.9
    assert {"call": 1} == await cache.get(node.fetch)
    now[0] += 0.2
    assert {"call": 2} == await cache.get(node.fetch)


async def test_concurrent_requests_share_one_call(now):
    node, cache = Node(), InfoCache(5.0)
    results = await asyncio.gather(*(cache.get(node.fetch) for _ in range(5)))
    assert [{"call": 1}] * 5 == results


async def test_a_caller_that_changes_its_copy_changes_no_other(now):
    node, cache = Node(), InfoCache(5.0)
    (await cache.get(node.fetch)).clear()
    assert {"call": 1} == await cache.get(node.fetch)


async def test_an_error_is_not_cached(now):
    node, cache = Node(), InfoCache(5.0)
    node.error = RuntimeError("gone")
    with pytest.raises(RuntimeError, match="gone"):
        await cache.get(node.fetch)
    node.error = None
    assert {"call": 2} == await cache.get(node.fetch)
