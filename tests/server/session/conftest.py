"""A server of sessions, with default settings, and a client of it."""

import pytest

from tests.fakes.session_world import session_world


@pytest.fixture
async def world():
    """The server."""
    async with session_world() as world:
        yield world


@pytest.fixture
async def client(world):
    """A wallet that is connected to it over TCP."""
    return await world.connect()
