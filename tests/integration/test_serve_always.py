"""SERVE=always: clients from the first second on, while the index is built and while it is behind.

Each answer is right as of the tip that clients know, or the error that states how far the index is.
The node holds blocks above a limit back, so that the tests decide how far the server can be.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import re
from decimal import Decimal
from functools import cache
from http.client import HTTPConnection

import pytest

from electrumx.lib.coins import Coin
from electrumx.lib.hash import double_sha256, hash_to_hex_str
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.server.session import ElectrumX
from electrumx.server.session.engine.method_registry import handler_names
from electrumx.server.session.shared.serving_stage import WITHOUT_INDEX
from tests.fakes.chain import MINUS_1, ChainMaker, Model, hashX_of
from tests.fakes.fake_node import FakeNode, ParsedTx, to_hex
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import coinbase
from tests.integration.client import ElectrumClient
from tests.integration.launcher import InjectedServer
from tests.integration.server import wait_until

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("serve_always")]

FIRST, LAST = 60, 100
CLIENTS = 4
PROTOCOLS = ("1.4.2", "1.7")
STILL_INDEXING = re.compile(
    r"the server is still indexing: (height [\d,]+ of [\d,]+|no block of [\d,]+ yet) "
    r"\(([a-z]+ )?\d+ %\)"
    r"(, about \d+ (s|min|h|d) to go)?"
)


class HoldingNode(FakeNode):
    """A node that sends no block above a height, though it has more."""

    def __init__(self, blocks=()):
        super().__init__(blocks)
        self.limit = 0
        self._heights = {}

    async def _respond(self, connection, body, fault):
        if b'"getblock"' in body:
            request = json.loads(body)
            hashes = [item["params"][0] for item in request if item["method"] == "getblock"]
            while any(self._height_of(hex_hash) > self.limit for hex_hash in hashes):
                await asyncio.sleep(0.005)
        await super()._respond(connection, body, fault)

    def rpc_sendrawtransaction(self, raw_hex):
        """The tests send transactions of blocks, which are not unconfirmed again."""
        return to_hex(ParsedTx(bytes.fromhex(raw_hex)).tx_hash)

    def _height_of(self, hex_hash):
        for raw in self.blocks[len(self._heights) :]:
            self._heights[to_hex(self.block_hash(raw))] = len(self._heights)
        return self._heights.get(hex_hash, 0)


class Chain:
    """A chain of random blocks, its model at each height, and the right answers."""

    def __init__(self, length=LAST, seed=11, scripts=12, fork=None):
        """``fork``: above this height the blocks are others."""
        maker = ChainMaker(seed=seed, scripts=scripts)
        tip = maker.grow(maker.genesis_hash, length)
        if fork is not None:
            tip = maker.grow(double_sha256(maker.chain(tip)[fork][:80]), length - fork)
        self.blocks = maker.chain(tip)
        self.scripts = maker.draws.scripts
        self.model = cache(self._model)
        # A transaction for clients to send; the first of a block would be refused.
        self.sent = next(self.txids(n)[1] for n in range(FIRST) if len(self.txids(n)) > 1)

    def _model(self, height):
        return Model(self.blocks[: height + 1])

    def header(self, height):
        return self.blocks[height][:80].hex()

    def history(self, script, height):
        return [
            {"tx_hash": hash_to_hex_str(tx_hash), "height": tx_height}
            for tx_hash, tx_height in self.model(height).history.get(hashX_of(script), [])
        ]

    def status(self, script, height):
        history = self.history(script, height)
        if not history:
            return None
        text = "".join(f"{item['tx_hash']}:{item['height']}:" for item in history)
        return hashlib.sha256(text.encode()).hexdigest()

    def balance(self, script, height):
        utxos = self.model(height).utxos(hashX_of(script))
        return {"confirmed": sum(utxo[-1] for utxo in utxos), "unconfirmed": 0}

    def utxos(self, script, height):
        return {
            (hash_to_hex_str(tx_hash), index, tx_height, value)
            for _num, index, tx_hash, tx_height, value in self.model(height).utxos(hashX_of(script))
        }

    def txids(self, height):
        model = self.model(min(FIRST, len(self.blocks) - 1))
        return [hash_to_hex_str(tx_hash) for tx_hash in model.tx_hashes[height]]


@pytest.fixture(scope="module")
def chain():
    return Chain()


def script_hash(script):
    return hashlib.sha256(script).digest()[::-1].hex()


def make_server(folder, node, protocols=("tcp", "rpc"), **settings):
    plan = {
        "constants": {
            "electrumx.server.block_processor.processor:COMMIT_SECS": 0.05,
            "electrumx.server.session.early_service:CHECK_SECS": 0.05,
            "electrumx.server.bulk_sync.choice:MIN_BLOCKS": 10,
            "electrumx.server.bulk_sync.choice:MIN_SHARE_OF_CACHE": 0,
            "electrumx.server.bulk_sync.choice:MIN_BYTES": 0,
            "electrumx.lib.coins.base:Coin.FETCH_STEPS": [[0, 2]],
        }
    }
    settings = {"SERVE": "always", "REORG_LIMIT": 10, **settings}
    return InjectedServer(folder, node.env, plan, protocols=protocols, **settings)


@contextlib.contextmanager
def holding_node(blocks):
    with NodeThread(node=HoldingNode(blocks)) as node:
        yield node


def set_limit(node, limit):
    node.do(lambda fake: setattr(fake, "limit", limit))


def open_port(server):
    server.launch()
    server.wait_serving()


async def until(condition, *, secs=150):
    deadline = asyncio.get_running_loop().time() + secs
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


async def connect(stack, server, protocol):
    client = await stack.enter_async_context(ElectrumClient.connect("tcp", server.ports["tcp"]))
    await client.hello("early", protocol)
    return client


# --- while the index is built


def refused_methods(protocol):
    version = tuple(map(int, protocol.split(".")))
    return sorted(handler_names(ElectrumX.handler_groups, version).keys() - WITHOUT_INDEX)


def served_methods(protocol):
    version = tuple(map(int, protocol.split(".")))
    return sorted(handler_names(ElectrumX.handler_groups, version).keys() & WITHOUT_INDEX)


async def check_refused(client, protocol):
    """Each other method gets the error, whatever its arguments; of a batch each member does."""
    calls = [(method, "00" * 32) for method in refused_methods(protocol)]
    replies = await client.batch([*calls, ("server.ping",)])
    assert "result" in replies.pop()
    if any("result" in reply for reply in replies):
        # The index was completed in the meantime.
        return False
    for reply in replies:
        error = reply["error"]
        if error["code"] != 4:
            return False
        assert STILL_INDEXING.fullmatch(error["message"]), error
        assert {"height", "node_height", "eta_s"} == error["data"].keys()
        assert -1 <= error["data"]["height"] <= error["data"]["node_height"]
    return True


async def check_served(client, chain, protocol):
    """Each method that needs no index is answered, as of the tip that is announced."""
    checked = {"server.version"}

    async def call(method, *params):
        checked.add(method)
        return await client.call(method, *params)

    tip = await call("blockchain.headers.subscribe")
    height = tip["height"]
    assert tip["hex"] == chain.header(height)
    assert await call("blockchain.block.header", height) == chain.header(height)
    first = max(0, height - 3)
    count = height - first + 1
    found = await call("blockchain.block.headers", first, count)
    headers = [chain.header(n) for n in range(first, height + 1)]
    assert found["count"] == count
    assert (found["headers"] if protocol == "1.7" else [found["hex"]]) == (
        headers if protocol == "1.7" else ["".join(headers)]
    )
    if height:
        proof = await call("blockchain.block.header", height - 1, height)
        root = double_sha256(bytes.fromhex(proof["header"]))
        for depth, item in enumerate(proof["branch"]):
            other = bytes.fromhex(item)[::-1]
            pair = (other + root) if (height - 1) >> depth & 1 else (root + other)
            root = double_sha256(pair)
        assert hash_to_hex_str(root) == proof["root"]
    txid = chain.sent
    raw = await call("blockchain.transaction.get", txid)
    assert hash_to_hex_str(double_sha256(bytes.fromhex(raw))) == txid
    assert await call("blockchain.transaction.broadcast", raw) == txid
    assert await call("blockchain.estimatefee", 2) == 0.0001
    assert (await call("server.features"))["protocol_min"] == "1.4"
    assert isinstance(await call("server.banner"), str)
    assert await call("server.donation_address") == ""
    assert await call("server.peers.subscribe") == []
    assert await call("mempool.get_fee_histogram") == []
    await call("server.ping")
    if protocol == "1.7":
        assert (await call("mempool.get_info"))["minrelaytxfee"] == 0.00001
        (accepted,) = await call("blockchain.transaction.testmempoolaccept", [raw])
        assert accepted["allowed"]
        package = await call("blockchain.transaction.broadcast_package", [raw])
        assert package["success"]
    else:
        assert await call("blockchain.relayfee") == 0.00001
    assert sorted(checked) == served_methods(protocol)
    return height


async def connect_all(stack, server):
    """Return CLIENTS pairs of a client and its protocol, and another client that watches."""
    clients = [
        (await connect(stack, server, protocol), protocol)
        for _, protocol in zip(range(CLIENTS), itertools.cycle(PROTOCOLS))
    ]
    return clients, await connect(stack, server, "1.4.2")


async def follow_first_sync(server, node, chain, *, crash_at=None):
    """Poll while the index is built up to FIRST; return the heights that were announced."""
    heights = set()
    async with contextlib.AsyncExitStack() as stack:
        clients, watcher = await connect_all(stack, server)
        tip = await watcher.call("blockchain.headers.subscribe")
        assert tip == {"height": 0, "hex": chain.header(0)}
        refused = 0
        for limit in range(0, FIRST + 1, 4):
            if crash_at is not None and limit >= crash_at:
                server.kill()
                with pytest.raises(ConnectionError):
                    await watcher.call("server.ping")
                return heights
            set_limit(node, limit)
            for client, protocol in clients:
                heights.add(await check_served(client, chain, protocol))
                refused += await check_refused(client, protocol)
        assert refused >= CLIENTS
        # The connections of the first second are right at the end, without another start.
        notified = []

        async def is_notified():
            notified.extend(params[0] for _method, params in drain(watcher))
            return notified[-1:] == [{"height": FIRST, "hex": chain.header(FIRST)}]

        await until(is_notified)
        assert all(item["hex"] == chain.header(item["height"]) for item in notified)
        for client, protocol in clients:
            await until(lambda client=client: is_served(client))
            await check_scripts(client, chain, protocol)
    return heights


async def is_served(client):
    reply = await client.request("blockchain.transaction.id_from_pos", [1, 0])
    return "result" in reply


async def has_tip(client, height):
    return (await client.call("blockchain.headers.subscribe"))["height"] == height


def drain(client):
    found = []
    while not client.notifications.empty():
        found.append(client.notifications.get_nowait())
    return found


# --- while it is behind


async def ask_script(client, protocol, verb, script):
    if protocol == "1.7":
        found = await client.call(f"blockchain.scriptpubkey.{verb}", script.hex())
        return found.get("history", found.get("utxos", found)) if isinstance(found, dict) else found
    return await client.call(f"blockchain.scripthash.{verb}", script_hash(script))


async def check_scripts(client, chain, protocol):
    """Each answer about a script is that of a height that was the tip during the request."""
    for script in random.sample(chain.scripts, 3):
        for verb in ("get_history", "get_balance", "listunspent", "get_mempool", "subscribe"):
            before = (await client.call("blockchain.headers.subscribe"))["height"]
            found = await ask_script(client, protocol, verb, script)
            after = (await client.call("blockchain.headers.subscribe"))["height"]
            expected = [
                expected_answer(chain, verb, script, height) for height in range(before, after + 1)
            ]
            if verb == "listunspent":
                found = {
                    (item["tx_hash"], item["tx_pos"], item["height"], item["value"])
                    for item in found
                }
            assert found in expected, (verb, before, after)
    height = (await client.call("blockchain.headers.subscribe"))["height"]
    some = random.randrange(1, FIRST + 1)
    txids = chain.txids(some)
    assert await client.call("blockchain.transaction.id_from_pos", some, 0) == txids[0]
    proof = await client.call("blockchain.transaction.get_merkle", txids[-1], some)
    assert (proof["block_height"], proof["pos"]) == (some, len(txids) - 1)
    assert await client.call("blockchain.block.header", height) == chain.header(height)


def expected_answer(chain, verb, script, height):
    if verb == "get_history":
        return chain.history(script, height)
    if verb == "get_balance":
        return chain.balance(script, height)
    if verb == "listunspent":
        return chain.utxos(script, height)
    if verb == "get_mempool":
        return []
    return chain.status(script, height)


async def follow_catching_up(server, node, chain, *, crash_at=None):
    """Poll while the server goes from FIRST to LAST; return the heights that were announced."""
    heights = set()
    async with contextlib.AsyncExitStack() as stack:
        clients, watcher = await connect_all(stack, server)
        statuses = {}
        for script in chain.scripts:
            shown = script_hash(script)
            statuses[shown] = await watcher.call("blockchain.scripthash.subscribe", shown)
        start = await watcher.call("blockchain.headers.subscribe")
        assert start["hex"] == chain.header(start["height"])
        for limit in range(FIRST, LAST + 1, 4):
            if crash_at is not None and limit >= crash_at:
                server.kill()
                return heights
            set_limit(node, limit)
            for client, protocol in clients:
                tip = await client.call("blockchain.headers.subscribe")
                assert tip["hex"] == chain.header(tip["height"])
                heights.add(tip["height"])
                await check_scripts(client, chain, protocol)
        await until(lambda: has_tip(watcher, LAST))
        await until(lambda: has_statuses(watcher, statuses, chain))
    return heights


async def has_statuses(client, statuses, chain):
    """Take over notified statuses; return whether all are those at the end of a chain."""
    for method, params in drain(client):
        if method == "blockchain.scripthash.subscribe":
            statuses[params[0]] = params[1]
    return statuses == {script_hash(script): chain.status(script, LAST) for script in chain.scripts}


def state_of(server):
    return server.rpc("getinfo")["state"]


async def test_clients_are_served_during_the_first_sync_and_while_catching_up(tmp_path, chain):
    with holding_node(chain.blocks[: FIRST + 1]) as node:
        server = make_server(tmp_path, node, BULK_SYNC="off")
        try:
            open_port(server)
            assert state_of(server) == "syncing"
            await follow_first_sync(server, node, chain)
            wait_until(lambda: state_of(server) == "serving", what="service")
            assert server.terminate() == 0
            # Blocks came while it was stopped.
            node.do(lambda fake: fake.append(*chain.blocks[FIRST + 1 :]))
            set_limit(node, FIRST)
            open_port(server)
            assert state_of(server) == "catching up"
            heights = await follow_catching_up(server, node, chain)
            # It is committed, and announced, on the way.
            assert len(heights) >= 3
            wait_until(lambda: state_of(server) == "serving", what="service")
            assert server.terminate() == 0
        finally:
            server.kill()
        log = (tmp_path / "server.log").read_text()
        assert "Traceback" not in log


async def test_blocks_that_the_node_left_in_the_meantime_are_replaced_while_clients_watch(
    tmp_path, chain
):
    fork = FIRST - 5
    other = Chain(fork=fork)
    assert other.blocks[: fork + 1] == chain.blocks[: fork + 1]
    assert other.blocks[fork + 1] != chain.blocks[fork + 1]
    with holding_node(chain.blocks[: FIRST + 1]) as node:
        set_limit(node, FIRST)
        server = make_server(tmp_path, node)
        try:
            server.start()
            # Once it has recorded that the index is complete
            wait_until(lambda: state_of(server) == "serving", what="service")
            assert server.terminate() == 0
            node.do(lambda fake: fake.fork(fork + 1, other.blocks[fork + 1 :]))
            set_limit(node, fork)
            open_port(server)
            async with contextlib.AsyncExitStack() as stack:
                watcher = await connect(stack, server, "1.4.2")
                tip = await watcher.call("blockchain.headers.subscribe")
                assert tip == {"height": FIRST, "hex": chain.header(FIRST)}
                statuses = {}
                for script in chain.scripts:
                    shown = script_hash(script)
                    statuses[shown] = await watcher.call("blockchain.scripthash.subscribe", shown)
                    assert statuses[shown] == chain.status(script, FIRST)
                for limit in range(fork, LAST + 1, 3):
                    set_limit(node, limit)
                    tip = await watcher.call("blockchain.headers.subscribe")
                    assert tip["hex"] in (
                        chain.header(tip["height"]),
                        other.header(tip["height"]),
                    )
                await until(lambda: has_tip(watcher, LAST))
                await until(lambda: has_statuses(watcher, statuses, other))
                await check_scripts(watcher, other, "1.4.2")
            assert "Traceback" not in server.log()
        finally:
            server.kill()


async def test_the_mempool_reaches_subscriptions_made_before_it_was_read(tmp_path, chain):
    """A subscription from the time of catching up: a script that is paid, one that pays, an output."""
    lasting = {
        (tx_hash, index): (script, value)
        for script in chain.scripts
        for _num, index, tx_hash, height, value in chain.model(LAST).utxos(hashX_of(script))
        if height <= FIRST - 10 and value
    }
    (tx_hash, index), (payer, value) = min(lasting.items())
    payee = b"\x51\x75\x6a\x51"
    spend = TxInput(tx_hash, index, b"", MINUS_1)
    payment = Tx(2, [spend], [TxOutput(value - 1, payee)], 0)
    raw = payment.serialize()
    payment_hash = double_sha256(raw)
    txid = hash_to_hex_str(payment_hash)
    line = f"{txid}:0:"
    history = "".join(f"{item['tx_hash']}:{item['height']}:" for item in chain.history(payer, LAST))
    wanted = {
        script_hash(payer): hashlib.sha256((history + line).encode()).hexdigest(),
        script_hash(payee): hashlib.sha256(line.encode()).hexdigest(),
    }
    with holding_node(chain.blocks[: FIRST + 1]) as node:
        set_limit(node, FIRST)
        server = make_server(tmp_path, node)
        try:
            server.start()
            # Once it has recorded that the index is complete
            wait_until(lambda: state_of(server) == "serving", what="service")
            assert server.terminate() == 0
            node.do(lambda fake: fake.append(*chain.blocks[FIRST + 1 :]))
            node.do(lambda fake: fake.mempool.update({payment_hash: raw}))
            open_port(server)
            assert state_of(server) == "catching up"
            async with contextlib.AsyncExitStack() as stack:
                watcher = await connect(stack, server, "1.4.2")
                modern = await connect(stack, server, "1.7")
                statuses = {}
                for script in (payer, payee):
                    shown = script_hash(script)
                    statuses[shown] = await watcher.call("blockchain.scripthash.subscribe", shown)
                    assert statuses[shown] == chain.status(script, FIRST)
                output = (hash_to_hex_str(tx_hash), index, payer.hex())
                found = await modern.call("blockchain.outpoint.subscribe", *output)
                assert "spender_txhash" not in found
                set_limit(node, LAST)

                async def has_all():
                    for method, params in drain(watcher):
                        if method == "blockchain.scripthash.subscribe":
                            statuses[params[0]] = params[1]
                    for method, params in drain(modern):
                        if method == "blockchain.outpoint.subscribe":
                            found.update(params[-1])
                    # Notifications are received with replies.
                    for client in (watcher, modern):
                        await client.call("blockchain.headers.subscribe")
                    return statuses == wanted and found.get("spender_txhash") == txid

                await until(has_all, secs=40)
                shown = script_hash(payee)
                assert await watcher.call("blockchain.scripthash.get_balance", shown) == {
                    "confirmed": 0,
                    "unconfirmed": value - 1,
                }
            assert "Traceback" not in server.log()
        finally:
            server.kill()


async def test_clients_are_served_during_a_bulk_sync(tmp_path, chain):
    with holding_node(chain.blocks[: FIRST + 1]) as node:
        server = make_server(tmp_path, node)
        try:
            open_port(server)
            heights = await follow_first_sync(server, node, chain)
            # Nothing is committed before its end.
            assert min(heights) == 0
            assert "bulk sync to height" in server.log()
            assert "Traceback" not in server.log()
            assert server.terminate() == 0
        finally:
            server.kill()


async def test_a_kill_with_clients_leaves_a_database_that_goes_on(tmp_path, chain):
    with holding_node(chain.blocks[: FIRST + 1]) as node:
        server = make_server(tmp_path, node, BULK_SYNC="off", CACHE_MB=1)
        try:
            for crash_at in (FIRST // 3, 2 * FIRST // 3, None):
                set_limit(node, 0)
                open_port(server)
                await follow_first_sync(server, node, chain, crash_at=crash_at)
            server.kill()
            node.do(lambda fake: fake.append(*chain.blocks[FIRST + 1 :]))
            for crash_at in (FIRST + 8, FIRST + 20, None):
                set_limit(node, FIRST)
                open_port(server)
                await follow_catching_up(server, node, chain, crash_at=crash_at)
            assert server.terminate() == 0
        finally:
            server.kill()
        assert "Traceback" not in (tmp_path / "server.log").read_text()


async def test_without_it_clients_are_refused_until_the_chain_is_caught_up_with(tmp_path, chain):
    with holding_node(chain.blocks[: FIRST + 1]) as node:
        server = make_server(tmp_path, node, BULK_SYNC="off", SERVE=None)
        try:
            server.launch()
            wait_until(lambda: rpc_state(server) == "syncing", what="sync")
            with pytest.raises(OSError, match=r"."):
                await ElectrumClient.open("tcp", server.ports["tcp"])
            set_limit(node, FIRST)
            server.wait_height(FIRST)
            assert server.terminate() == 0
        finally:
            server.kill()


def rpc_state(server):
    with contextlib.suppress(OSError):
        return state_of(server)
    return None


# --- a real wallet


@pytest.mark.wallet
@pytest.mark.slow
def test_electrum_connects_before_the_first_block_and_is_right_at_the_end(tmp_path, electrum_for):
    maker = ChainMaker(seed=12)
    tip = maker.grow(maker.genesis_hash, FIRST)
    with holding_node(maker.chain(tip)) as node:
        server = make_server(tmp_path, node, BULK_SYNC="off")
        try:
            open_port(server)
            wallet = electrum_for(server)
            # With a wallet it disconnects when its subscriptions are refused, and tries again.
            wallet.command("close_wallet")
            wallet.wait_connected()
            wallet.command("load_wallet")
            script = Coin.lookup_coin_class("Bitcoin", "regtest").pay_to_address_script(
                wallet.new_address()
            )
            (tx_hash, index), value = next(iter(maker.blocks[tip][2].items()))
            spend = TxInput(tx_hash, index, b"", MINUS_1)
            payment = Tx(2, [spend], [TxOutput(value, script)], 0)
            tip = maker.add_block(tip, [coinbase(maker, b"\x51"), payment])
            node.do(lambda fake: fake.append(maker.blocks[tip][0]))
            set_limit(node, FIRST // 2)
            assert state_of(server) == "syncing"
            set_limit(node, FIRST + 1)
            wallet.wait_connected(FIRST + 1)
            wallet.wait_balance(confirmed=Decimal(value) / 10**8)
            wallet.wait_proven()
            assert "Traceback" not in server.log()
        finally:
            server.kill()


@pytest.mark.wallet
def test_bdk_reports_the_text_of_the_error_and_scans_later(tmp_path, bdk_for, chain):
    with holding_node(chain.blocks[: FIRST + 1]) as node:
        server = make_server(tmp_path, node, BULK_SYNC="off")
        try:
            open_port(server)
            wallet = bdk_for(server)
            with pytest.raises(Exception, match=r"still indexing: (height|no block)"):
                wallet.full_scan()
            set_limit(node, FIRST)
            wait_until(lambda: state_of(server) == "serving", what="service")
            wallet.full_scan()
        finally:
            server.kill()


def test_balancers_send_clients_only_once_the_server_is_complete(tmp_path, chain):
    with holding_node(chain.blocks[: FIRST + 1]) as node:
        server = make_server(tmp_path, node, protocols=("tcp", "rpc", "metrics"))
        try:
            open_port(server)

            def status():
                connection = HTTPConnection("127.0.0.1", server.ports["metrics"], timeout=120)
                try:
                    connection.request("GET", "/readyz")
                    response = connection.getresponse()
                    return response.status, json.loads(response.read())["state"]
                finally:
                    connection.close()

            assert status() == (503, "syncing")
            set_limit(node, FIRST)
            wait_until(lambda: status() == (200, "serving"), what="readiness")
        finally:
            server.kill()


# --- a crowd, for minutes


@pytest.mark.soak
@pytest.mark.timeout(1_200)
async def test_a_crowd_is_answered_rightly_through_every_kind_of_start(tmp_path):
    """200 clients through a first sync, a bulk sync, and restarts while the server is behind."""
    rng = random.Random(21)
    chain = Chain(seed=21, scripts=40)
    for bulk in ("off", "auto"):
        folder = tmp_path / bulk
        folder.mkdir()
        with holding_node(chain.blocks[: FIRST + 1]) as node:
            server = make_server(folder, node, BULK_SYNC=bulk)
            try:
                open_port(server)
                await crowd(server, node, chain, range(0, FIRST + 1, 4), check_any)
                wait_until(lambda server=server: state_of(server) == "serving", what="service")
                assert server.terminate() == 0
                node.do(lambda fake: fake.append(*chain.blocks[FIRST + 1 :]))
                for _ in range(4):
                    set_limit(node, FIRST)
                    open_port(server)
                    limits = range(FIRST, rng.randrange(FIRST + 8, LAST), 4)
                    await crowd(server, node, chain, limits, check_scripts)
                    server.kill()
                open_port(server)
                await crowd(server, node, chain, [LAST], check_scripts)
                assert server.terminate() == 0
            finally:
                server.kill()
            assert "Traceback" not in (folder / "server.log").read_text()


async def check_any(client, chain, protocol):
    await check_served(client, chain, protocol)
    await check_refused(client, protocol)


async def crowd(server, node, chain, limits, check, *, count=200):
    """Have many clients check answers, each all the time, while the limit rises."""
    done = asyncio.Event()
    checked = [0] * count

    async def run(number):
        async with contextlib.AsyncExitStack() as stack:
            protocol = PROTOCOLS[number % 2]
            client = await connect(stack, server, protocol)
            while not done.is_set():
                await check(client, chain, protocol)
                checked[number] += 1
                await asyncio.sleep(0.05)

    async def raise_limit():
        for limit in limits:
            set_limit(node, limit)
            await asyncio.sleep(0.5)
        await until(is_all_checked)
        done.set()

    async def is_all_checked():
        return min(checked) > 0

    await asyncio.gather(raise_limit(), *(run(number) for number in range(count)))
