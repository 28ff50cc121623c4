"""An onion service of a real, private Tor network: each circuit is a client of its own.

Tor names the circuits in PROXY headers.  An identity of the network's client has a circuit of its own.
"""

import re
from contextlib import AsyncExitStack, ExitStack

import pytest

from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration.client import ElectrumClient, ElectrumError
from tests.integration.server import ServerProcess, wait_until
from tests.integration.tor_network import TorNetwork

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    # One network for all of them.
    pytest.mark.xdist_group("tor"),
]

HARD_LIMIT = 10_000
WEIGHT = 0.25
# Columns of the table of sessions
FLAGS, ADDRESS, EXTRA_COST = 1, 2, 6
COST_ERRORS = 300


@pytest.fixture(scope="module")
def onion(tmp_path_factory):
    """(the network, the server that its service leads to, which does not run yet)"""
    folder = tmp_path_factory.mktemp("onion")
    (folder / "banner").write_text("through tor")
    maker, tip = small_chain(3)
    with ExitStack() as stack:
        node = stack.enter_context(NodeThread(maker.chain(tip)))
        server = ServerProcess(
            folder / "server",
            node.env,
            protocols=("tcp", "rpc"),
            COST_SOFT_LIMIT=1_000,
            COST_HARD_LIMIT=HARD_LIMIT,
            TOR_GROUP_WEIGHT=WEIGHT,
            REQUEST_SLEEP=0,
            TOR_BANNER_FILE=folder / "banner",
        )
        server.env["PROXY_PROTOCOL"] = f"tcp://127.0.0.1:{server.ports['tcp']}"
        yield stack.enter_context(TorNetwork(folder, server.ports["tcp"])), server


@pytest.fixture
def network(onion):
    """The network, in front of a server without a past."""
    network, server = onion
    with server:
        yield network
        assert "Traceback" not in server.log()


@pytest.fixture
def server(onion):
    """That server."""
    return onion[1]


@pytest.fixture
async def connect(network):
    """Function: a client through Tor that has been answered, by its identity."""
    async with AsyncExitStack() as stack:

        async def connect(identity):
            client = ElectrumClient.from_streams(*await network.connect(identity))
            stack.push_async_callback(client.close)
            await client.hello()
            return client

        yield connect


def group_sizes(server):
    """{name: number of sessions} of the groups of clients."""
    rows = [row[:2] for row in server.rpc("groups")]
    return {name: count for name, count in rows if name != "loopback" and count}


def circuit_numbers(server):
    """The circuits that have sessions."""
    found = (re.fullmatch(r"tor:(\d+)", name) for name in group_sizes(server))
    return {int(match[1]) for match in found if match}


def wallet_rows(server):
    """Rows of the sessions of wallets, oldest first."""
    return [row for row in server.rpc("sessions") if "R" not in row[FLAGS]]


async def abuse(client):
    """Cause errors until the server ends the connection; the last of them."""
    for _ in range(COST_ERRORS):
        with pytest.raises(ElectrumError) as info:
            await client.call("no.such.method")
        if info.value.code == -101:
            await client.wait_closed()
            return info.value
    raise AssertionError("nothing limits the errors of a client")


async def test_two_circuits_are_two_groups(network, server, connect):
    first = await connect("first")
    (number,) = circuit_numbers(server)
    second = await connect("second")
    again = await connect("first")

    (other,) = circuit_numbers(server) - {number}
    assert group_sizes(server) == {f"tor:{number}": 2, f"tor:{other}": 1, "tor": 3}
    for client in (first, second, again):
        assert await client.call("server.banner") == "through tor"
    # The numbers are those that Tor itself has for the circuits.
    assert {number, other} <= await network.circuits()
    addresses = [row[ADDRESS] for row in wallet_rows(server)]
    assert len(addresses) == 3
    assert all(address.startswith("[fc00:dead:beef:4dad::") for address in addresses)


async def test_an_abusers_circuit_is_cut_and_the_others_are_not(network, server, connect):
    abuser, other = await connect("abuser"), await connect("other")
    before = circuit_numbers(server)

    error = await abuse(abuser)
    assert error.data.keys() == {"cost", "limit", "retry_after"}
    assert error.data["limit"] == HARD_LIMIT
    assert await other.call("server.ping") is None
    # A new connection through that circuit is closed, as soon as its header has come.
    reader, writer = await network.connect("abuser")
    assert await reader.read() == b""
    writer.close()
    assert len(circuit_numbers(server)) == 1
    assert circuit_numbers(server) < before

    # All of Tor bears a part of it, and is throttled, not excluded.
    newcomer = await connect("newcomer")
    assert await newcomer.call("server.ping") is None
    retained = next(row[3] for row in server.rpc("groups") if row[0] == "tor")
    assert retained > 0.9 * HARD_LIMIT
    for row in wallet_rows(server):
        assert row[EXTRA_COST] == pytest.approx(WEIGHT * retained, rel=0.1)


async def test_the_operator_ends_a_client_by_its_circuit(network, server, connect):
    first = await connect("third")
    (number,) = circuit_numbers(server)
    second = await connect("fourth")

    await network.close_circuit(number)
    await first.wait_closed()
    assert await second.call("server.ping") is None
    wait_until(lambda: number not in circuit_numbers(server), what="end of a group")
