"""Fixtures of the mempool's tests: the node and the database, and the state on top of them."""

import asyncio

import pytest

from electrumx.server.mempool.acceptance import CandidateParser
from electrumx.server.mempool.fetcher import CandidateFetcher
from electrumx.server.mempool.state import MempoolState
from tests.fakes.chain import COIN
from tests.fakes.fake_mempool import FakeAPI


@pytest.fixture
def api():
    """The node and the database, which do not know their tips."""
    return FakeAPI()


@pytest.fixture
def with_tips():
    """The API, of a database that knows its tip and the confirmed transactions."""
    return FakeAPI(tip=bytes(32))


@pytest.fixture
def held_listings(with_tips):
    """An event; until it is set the node does not list its transactions again."""
    gate, listing = asyncio.Event(), with_tips.mempool_hashes
    gate.set()

    async def held():
        await gate.wait()
        return await listing()

    with_tips.mempool_hashes = held
    return gate


@pytest.fixture
def state(with_tips):
    """Empty maps at the tip of the database."""
    result = MempoolState(with_tips)
    result.move_to_database()
    yield result
    result.shut_down()


@pytest.fixture
def fetcher(state):
    """A fetcher that parses in the state's thread."""
    return CandidateFetcher(state.api, CandidateParser(COIN), state.in_thread)
