"""A server of sessions, with default settings, and a client of it."""

import pytest

from tests.fakes.session_world import session_world

# The node's methods that decide about the protocol
NODE_METHODS = ("submitpackage", "testmempoolaccept")


@pytest.fixture
async def world():
    """The server."""
    async with session_world(node=NODE_METHODS) as world:
        yield world


@pytest.fixture
async def client(world):
    """A wallet that is connected to it over TCP."""
    return await world.connect()


@pytest.fixture
async def client_16(client):
    """A wallet that has negotiated protocol 1.6."""
    await client.request("server.version", "x", "1.6")
    return client
