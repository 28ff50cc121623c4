"""The administrator's commands without a connection, and the query of scripts."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from electrumx.lib.coins import Coin
from electrumx.lib.errors import OperatorError
from electrumx.server.maintenance.snapshot import BackupReport
from electrumx.server.maintenance.verify import Verdict
from electrumx.server.runtime.node_contact import Cause, NodeContact
from electrumx.server.runtime.server_state import IndexProgress, ReadyLimits, ServerState
from electrumx.server.session.admin import commands as commands_module
from electrumx.server.session.admin import tables
from electrumx.server.session.admin.commands import AdminCommands, NotCaughtUpError
from electrumx.server.session.admin.script_query import ScriptQuery
from tests.fakes.session_world import FakeBP, FakeCoin, FakeDB, make_tx_hash, utxo


class Server:
    """The commands over fakes."""

    def __init__(self):
        self.db = FakeDB()
        self.db.logger = logging.getLogger("db")
        self.processor = FakeBP(self.db)
        self.processor.state_lock = asyncio.Lock()
        self.stop_event = asyncio.Event()
        self.daemon = object()
        shared = SimpleNamespace(db=self.db, daemon=self.daemon)
        self.commands = AdminCommands(shared, self.processor, self.stop_event, None)


@pytest.fixture
async def server():
    return Server()


async def test_stop_asks_for_shutdown(server):
    server.commands.stop()
    assert server.stop_event.is_set()


async def test_a_reorg_is_scheduled_or_refused_with_its_reason(server):
    await server.commands.reorg(3)
    assert server.processor.forced == [3]
    with pytest.raises(OperatorError, match="undo information goes back 100"):
        await server.commands.reorg(101)
    server.processor.caught_up = False
    with pytest.raises(NotCaughtUpError, match="still catching up with daemon"):
        await server.commands.reorg(3)


async def test_an_audit_needs_a_database_that_has_caught_up(server, monkeypatch):
    asked = []

    async def verify(db, **options):
        asked.append((db, options["deep"], options["lock"], options["daemon"]))
        return Verdict(True, ["verdict"])

    monkeypatch.setattr(commands_module, "verify", verify)
    assert (await server.commands.verify(deep=True)).lines == ["verdict"]
    assert asked == [(server.db, True, server.processor.state_lock, server.daemon)]
    server.processor.caught_up = False
    with pytest.raises(NotCaughtUpError):
        await server.commands.verify(deep=True)


async def test_a_snapshot_is_reported_in_one_line(server, monkeypatch):
    async def back_up(db, lock, path):
        assert (db, lock) == (server.db, server.processor.state_lock)
        return BackupReport(path, 1234, 5, 6_000, 1.25, 0.5)

    monkeypatch.setattr(commands_module, "back_up", back_up)
    assert await server.commands.back_up("/copy") == (
        "height 1,234 is in /copy: 5 files, 6,000 bytes, in 1.2s, blocks held up for 0.500s"
    )


async def query(db, *items, limit=10):
    return await ScriptQuery(db, FakeCoin, logging.getLogger("query")).lines(list(items), limit)


async def test_a_query_lists_history_utxos_and_balance_up_to_a_limit():
    db = FakeDB()
    hashX = FakeCoin.hashX_from_script(b"\x51")
    db.histories[hashX] = [(make_tx_hash(str(n)), n) for n in range(3)]
    db.utxos[hashX] = [utxo("a", 10**8), utxo("b", 3 * 10**7), utxo("c", 2 * 10**7)]
    lines = await query(db, "51", limit=2)
    assert lines[0] == "Script: 51"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "History #1",
        "History #2",
        "UTXO #1",
        "UTXO #2",
        "Balance",
    ]
    assert lines[-1] == "Balance: 1.5 FAKE"


@pytest.mark.parametrize(
    ("address", "script"),
    [
        # The examples of BIP 173 and of BIP 350
        (
            "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
            "0014751e76e8199196d454941c45d1b3a323f1433bd6",
        ),
        (
            "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4",
            "0014751e76e8199196d454941c45d1b3a323f1433bd6",
        ),
        (
            "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
            "512079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
        ),
    ],
)
async def test_a_query_takes_addresses_in_bech32_and_bech32m(address, script):
    db, coin = FakeDB(), Coin.lookup_coin_class("Bitcoin", "mainnet")
    hashX = coin.hashX_from_script(bytes.fromhex(script))
    db.utxos[hashX] = [utxo("a", 10**8)]
    found = ScriptQuery(db, coin, logging.getLogger("query"))
    lines = await found.lines([address], 10)
    assert (lines[0], lines[-1]) == (f"Address: {address}", "Balance: 1 BTC")
    wrong = address[:-1] + ("q" if address[-1] != "q" else "p")
    (line,) = await found.lines([wrong], 10)
    assert line.startswith(f"unknown: {wrong}: ")


async def test_a_query_goes_on_after_items_that_are_not_ours(caplog):
    caplog.set_level("INFO")
    lines = await query(FakeDB(), "foreign", "nonsense", "addr-1")
    assert [line.partition(":")[0] for line in lines] == [
        "unknown",
        "unknown",
        "Address",
        "No history found",
        "No UTXOs found",
        "Balance",
    ]
    assert "query: foreign is not an address of ours" in caplog.text


def status_of(progress, contact, node_height=930_120):
    state = ServerState(
        contact, lambda: node_height, lambda: progress, lambda: False, ReadyLimits()
    )
    return tables.state_summary(state.status())


def test_getinfo_shows_the_progress_of_the_initial_sync():
    contact = NodeContact()
    contact.replied()
    progress = IndexProgress(412_000, -1, 5_000_000, 44.44, None, 10_800.0, first_sync=True)
    info = status_of(progress, contact)

    assert (info["state"], info["ready"], info["processed height"]) == ("syncing", False, 412_000)
    assert info["status"] == "syncing: height 412,000 of 930,120 (44 %), about 3 h to go"
    assert info["lag"] == 930_121
    assert info["progress"] == {
        "phase": None,
        "percent": 44.4,
        "eta": "03h 00m 00s",
        "eta secs": 10_800.0,
    }


async def test_readiness_is_that_of_the_state(server):
    contact = NodeContact()
    contact.replied()
    progress = IndexProgress(100, 97, 10, 99.0, None, 1.0, first_sync=False)
    state = ServerState(contact, lambda: 100, lambda: progress, lambda: False, ReadyLimits())
    shared = SimpleNamespace(db=server.db, daemon=server.daemon)
    commands = AdminCommands(shared, server.processor, server.stop_event, None, state)

    reply = commands.ready()
    assert reply.pop("node_age_s") == 0
    assert reply == {
        "ready": False,
        "state": "catching up",
        "height": 97,
        "node_height": 100,
        "lag": 3,
        "reason": "3 blocks behind the node",
    }
    with pytest.raises(OperatorError, match="not known"):
        server.commands.ready()


def test_getinfo_shows_why_the_node_does_not_answer():
    contact = NodeContact()
    contact.asked()
    contact.failed(Cause.UNKNOWN_HOST, "getblockcount", "unknown host")
    info = status_of(None, contact, node_height=None)

    assert info["status"] == "starting: waiting for the node: unknown host (getblockcount)"
    assert info["node"].pop("last failure") == {
        "cause": "unknown host",
        "method": "getblockcount",
        "text": "unknown host",
        "secs ago": 0.0,
    }
    assert info["node"] == {"last reply secs": None, "failing": True}
    assert (info["progress"], info["processed height"], info["lag"]) == (None, None, None)
