"""A server of sessions, with default settings, and a client of it."""

import pytest

from electrumx.server.session.engine import dispatch, receive
from electrumx.server.session.methods import transaction
from tests.fakes.session_world import session_world

# The node's methods that decide about the protocol
NODE_METHODS = ("submitpackage", "testmempoolaccept")


@pytest.fixture
def free_way(monkeypatch):
    """Charge nothing for reads and lone waits, so that a method's own cost remains."""
    monkeypatch.setattr(receive, "READ_COST", 0.0)
    monkeypatch.setattr(dispatch, "LONE_WAIT_COST", 0.0)
    monkeypatch.setattr(transaction, "LONE_NODE_COST", 0.0)


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
