"""The error of requests that need an index which is being built."""

from types import SimpleNamespace

import pytest

from electrumx.server.runtime.server_state import IndexProgress, ServerStatus, State
from electrumx.server.session.engine.cost_account import ERROR_COST
from electrumx.server.session.engine.prices import READ_COST
from electrumx.server.session.shared import serving_stage
from electrumx.server.session.shared.serving_stage import (
    NOT_INDEXED,
    REFUSAL_COST,
    WITHOUT_INDEX,
    ServingStage,
)
from tests.conftest import REPOSITORY
from tests.fakes.session_world import session_world


def status(progress, node_height=930_120):
    return ServerStatus(State.SYNCING, False, "", progress, node_height, 0.0, None, False)


def progress(height=412_000, phase=None, eta_secs=10_620.4):
    return IndexProgress(height, -1, 10**9, 44.3, phase, eta_secs, True)


def test_the_error_states_the_progress_in_words_and_numbers():
    error = ServingStage(lambda: status(progress())).refusal()
    assert error.code == NOT_INDEXED == 4
    assert error.message == (
        "the server is still indexing: height 412,000 of 930,120 (44 %), about 3 h to go"
    )
    assert error.data == {"height": 412_000, "node_height": 930_120, "eta_s": 10_620}
    assert error.cost == REFUSAL_COST == 0.5


def test_the_error_of_a_bulk_sync_names_its_phase():
    error = ServingStage(lambda: status(progress(phase="join"))).refusal()
    assert "(join 44 %)" in error.message


def test_an_unknown_time_or_height_is_null():
    error = ServingStage(lambda: status(progress(eta_secs=None), None)).refusal()
    assert error.data == {"height": 412_000, "node_height": None, "eta_s": None}
    assert "to go" not in error.message


def test_the_error_can_be_made_before_there_is_progress():
    for stage in (ServingStage(), ServingStage(lambda: status(None))):
        error = stage.refusal()
        assert (error.message, error.data) == ("the server is still indexing", {})


def test_the_text_is_made_once_in_a_second(monkeypatch):
    made = []

    def count():
        made.append(None)
        return status(progress())

    now = [100.0]
    monkeypatch.setattr(serving_stage.time, "monotonic", lambda: now[0])
    stage = ServingStage(count)
    errors = {id(stage.refusal()) for _ in range(3)}
    assert len(made) == 1
    assert errors
    now[0] += 1.0
    stage.refusal()
    assert len(made) == 2


async def test_fee_estimates_are_renewed_though_the_tip_stays(monkeypatch):
    async with session_world() as world:
        client = await world.connect()
        now = [6_000.0]
        # Only there: the event loop's clock goes on.
        monkeypatch.setattr(serving_stage, "time", SimpleNamespace(monotonic=lambda: now[0]))
        stage = world.manager.shared.stage

        async def requests():
            world.daemon.calls.clear()
            for _ in range(3):
                assert await client.request("blockchain.estimatefee", 2) == 0.0002
            return sum(call[0] == "estimatefee" for call in world.daemon.calls)

        assert await requests() == 1
        now[0] += 61
        assert await requests() == 0
        stage.is_complete = False
        assert await requests() == 1
        now[0] += 30
        assert await requests() == 0
        now[0] += 31
        assert await requests() == 1


async def test_refusals_are_cheap_and_the_connection_stays():
    async with session_world() as world:
        world.manager.shared.stage.is_indexing = True
        client = await world.connect()
        await client.request("server.version", "x", "1.4.2")
        account = world.session().account
        before = account.cost
        for _ in range(100):
            await client.error("blockchain.scripthash.get_balance", "00" * 32)
        # Each message is read by itself, and bytes cost a little.
        assert 50 <= account.cost - before - 100 * READ_COST < 60 < ERROR_COST
        assert account.errors == 100
        # Members of a batch, too; they are read at once.
        before = account.cost
        batch = [
            {"jsonrpc": "2.0", "id": n, "method": "blockchain.scripthash.subscribe", "params": [n]}
            for n in range(100)
        ]
        await client.send(batch)
        replies = await client.recv()
        assert [reply["error"]["code"] for reply in replies] == [NOT_INDEXED] * 100
        assert 50 <= account.cost - before < 60
        assert account.errors == 200
        reply = await client.ask("blockchain.scripthash.subscribe", "00" * 32)
        assert reply["error"] == {
            "code": 4,
            "message": "the server is still indexing",
            "data": {},
        }


async def test_the_administrator_is_not_refused():
    async with session_world() as world:
        world.manager.shared.stage.is_indexing = True
        admin = await world.connect("rpc")
        assert (await admin.request("getinfo"))["db height"] == 10
        assert await admin.request("sessions")


async def test_peers_are_those_of_the_coin_until_the_server_is_complete():
    async with session_world() as world:
        client = await world.connect()
        found = await client.request("server.peers.subscribe")
        world.manager.shared.stage.is_complete = False
        assert await client.request("server.peers.subscribe") != found
        assert world.manager.shared.peers.coin_peers() == await client.request(
            "server.peers.subscribe"
        )


async def test_the_features_are_the_same_from_the_start_on():
    async with session_world() as world:
        stage = world.manager.shared.stage
        client = await world.connect()
        serving = await client.request("server.features")
        stage.is_complete, stage.is_indexing = False, True
        assert await client.request("server.features") == serving


def test_the_manual_lists_the_methods_that_are_served():
    text = (REPOSITORY / "docs/protocol-basics.rst").read_text()
    start = text.index("Error 4 is given by a server")
    section = text[start : text.index("Parameters are checked", start)]
    named = {part.partition("`")[0] for part in section.split(":func:`")[1:]}
    assert named == WITHOUT_INDEX


@pytest.mark.parametrize("method", sorted(WITHOUT_INDEX))
async def test_a_served_method_exists(method):
    from electrumx.server.session import ElectrumX
    from electrumx.server.session.engine.method_registry import handler_names

    groups = ElectrumX.handler_groups
    assert any(method in handler_names(groups, version) for version in ((1, 4), (1, 6), (1, 7)))
