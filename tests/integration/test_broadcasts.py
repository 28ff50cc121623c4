"""Transactions that are broadcast through us, or published, are in our mempool before any poll."""

import asyncio
from decimal import Decimal

import pytest

from electrumx.lib.hash import double_sha256
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import fan_block, fan_spends, small_chain
from tests.integration.client import ElectrumError
from tests.integration.nodes import PublishingNode
from tests.integration.oracle import scripthash_of
from tests.integration.server import ServerProcess

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("litecoind")]

# Of polls, which these tests would wait for in vain.
HOUR = dict.fromkeys(("DAEMON_POLL_INTERVAL_BLOCKS", "DAEMON_POLL_INTERVAL_MEMPOOL"), 3_600_000)
# The time that a slow machine may take
LIMIT_SECS = 120
SUBSCRIBE = "blockchain.scripthash.subscribe"


class Payer:
    """Makes transactions of litecoind's wallet that are not sent."""

    def __init__(self, node):
        self.node = node
        node.mine(101)

    def script(self):
        """A new script of the wallet: its address and its script hash."""
        address = self.node.rpc("getnewaddress")
        script = self.node.rpc("getaddressinfo", address)["scriptPubKey"]
        return address, scripthash_of(bytes.fromhex(script))

    def coin(self):
        """An unspent output of the wallet with confirmations."""
        return self.node.rpc("listunspent", 1)[0]

    def pay(self, coin, address, fee):
        """The hex of a signed transaction that may be replaced, and its txid."""
        inputs = [{"txid": coin["txid"], "vout": coin["vout"], "sequence": 0}]
        amount = {address: coin["amount"] - Decimal(fee)}
        raw = self.node.rpc("createrawtransaction", inputs, amount)
        signed = self.node.rpc("signrawtransactionwithwallet", raw)["hex"]
        return signed, self.node.rpc("decoderawtransaction", signed)["txid"]


async def statuses(client, count):
    """The next notifications of scripts: {script hash: status}."""
    found = {}
    while len(found) < count:
        script_hash, status = await client.notification(SUBSCRIBE, timeout=LIMIT_SECS)
        found[script_hash] = status
    return found


async def test_a_broadcast_and_its_replacement_are_notified_at_once(litecoind, server_for):
    payer = await asyncio.to_thread(Payer, litecoind)
    server = server_for(litecoind, protocols=("tcp",), **HOUR)
    async with server.connect() as sender, server.connect() as receiver:
        (one, first), (other, second), (_, unrelated) = (payer.script() for _ in range(3))
        for script_hash in (first, second, unrelated):
            assert await receiver.call(SUBSCRIBE, script_hash) is None
        coin = payer.coin()
        raw, txid = payer.pay(coin, one, "0.001")
        assert await sender.call("blockchain.transaction.broadcast", raw) == txid
        found = await statuses(receiver, 1)
        assert list(found) == [first]
        assert found[first] is not None
        (item,) = await receiver.call("blockchain.scripthash.get_history", first)
        assert item == {"tx_hash": txid, "height": 0, "fee": 100_000}
        for client in (sender, receiver):
            assert await client.call("blockchain.transaction.get", txid) == raw

        better, new_txid = payer.pay(coin, other, "0.01")
        assert await sender.call("blockchain.transaction.broadcast", better) == new_txid
        found = await statuses(receiver, 2)
        assert set(found) == {first, second}
        assert found[first] is None
        assert await receiver.call("blockchain.scripthash.get_mempool", first) == []
        (item,) = await receiver.call("blockchain.scripthash.get_mempool", second)
        assert item["tx_hash"] == new_txid
        # The replaced one is served no more, neither from memory nor by the node.
        for verbose in (False, True):
            with pytest.raises(ElectrumError, match="No such mempool or blockchain transaction"):
                await receiver.call("blockchain.transaction.get", txid, verbose)
        assert await receiver.call("blockchain.transaction.get", new_txid) == better

        await asyncio.to_thread(litecoind.mine)
        found = await statuses(receiver, 1)
        assert list(found) == [second]
        (item,) = await receiver.call("blockchain.scripthash.get_history", second)
        assert item == {"tx_hash": new_txid, "height": 102}


async def test_a_raw_transaction_fetched_before_our_mempool_has_it_is_not_served_when_replaced(
    litecoind, server_for
):
    payer = await asyncio.to_thread(Payer, litecoind)
    server = server_for(litecoind, protocols=("tcp",), **HOUR)
    async with server.connect() as client:
        coin = payer.coin()
        raw, txid = payer.pay(coin, payer.script()[0], "0.001")
        # Not through us: our mempool does not know it.
        await asyncio.to_thread(litecoind.rpc, "sendrawtransaction", raw)
        for _ in range(3):
            assert await client.call("blockchain.transaction.get", txid) == raw
        better, _txid = payer.pay(coin, payer.script()[0], "0.01")
        await asyncio.to_thread(litecoind.rpc, "sendrawtransaction", better)
        for verbose in (False, True):
            with pytest.raises(ElectrumError, match="No such mempool or blockchain transaction"):
                await client.call("blockchain.transaction.get", txid, verbose)


async def test_a_chain_of_broadcasts_is_shown_as_it_is_sent(litecoind, server_for):
    payer = await asyncio.to_thread(Payer, litecoind)
    server = server_for(litecoind, protocols=("tcp",), **HOUR)
    async with server.connect() as client:
        address, script_hash = payer.script()
        assert await client.call(SUBSCRIBE, script_hash) is None
        coin, txids = payer.coin(), []
        for _ in range(5):
            raw, txid = payer.pay(coin, address, "0.001")
            assert await client.call("blockchain.transaction.broadcast", raw) == txid
            txids.append(txid)
            await statuses(client, 1)
            mempool = await client.call("blockchain.scripthash.get_mempool", script_hash)
            assert {item["tx_hash"] for item in mempool} == set(txids)
            heights = {item["tx_hash"]: item["height"] for item in mempool}
            assert [heights[txid] for txid in txids] == [0] + [-1] * (len(txids) - 1)
            (output,) = litecoind.rpc("decoderawtransaction", raw)["vout"]
            coin = {"txid": txid, "vout": 0, "amount": output["value"]}
        # The list of the node agrees.
        balance = await client.call("blockchain.scripthash.get_balance", script_hash)
        assert balance == {"confirmed": 0, "unconfirmed": int(output["value"] * 10**8)}


async def test_a_node_without_packages_serves_1_6_only_where_the_operator_wants_it(
    litecoind, server_for
):
    await asyncio.to_thread(litecoind.mine, 2)
    server = server_for(litecoind, protocols=("tcp",), **HOUR)
    async with server.connect() as client:
        assert (await client.hello(protocol=["1.4", "1.6"]))[1] in ("1.4.2", "1.4.3")
        assert await client.call("blockchain.relayfee") == 0.00001
        for method in ("blockchain.transaction.broadcast_package", "mempool.get_info"):
            with pytest.raises(ElectrumError, match="unknown method"):
                await client.call(method)


async def test_a_node_without_packages_is_reported_as_such(litecoind, server_for):
    await asyncio.to_thread(litecoind.mine, 2)
    server = server_for(litecoind, protocols=("tcp",), PROTOCOL_MAX="1.6", **HOUR)
    async with server.connect() as client:
        assert (await client.hello(protocol="1.6"))[1] == "1.6"
        with pytest.raises(ElectrumError, match="daemon has no submitpackage") as error:
            await client.call("blockchain.transaction.broadcast_package", ["00"])
        assert error.value.code == 1
        # It states two of the three, and the increment elsewhere.
        info = await client.call("mempool.get_info")
        assert info == dict.fromkeys(
            ("mempoolminfee", "minrelaytxfee", "incrementalrelayfee"), 0.00001
        )


# -- By ZMQ


async def test_published_transactions_of_others_are_notified_before_any_poll(tmp_path, stopping):
    zmq = pytest.importorskip("zmq")
    maker, tip = small_chain(5)
    tip, fan = fan_block(maker, tip, 10)
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    context = stopping.enter_context(zmq.Context())
    publisher = stopping.enter_context(context.socket(zmq.XPUB))
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    address = f"tcp://127.0.0.1:{port}"
    server = await asyncio.to_thread(
        stopping.enter_context,
        ServerProcess(tmp_path, node.env, protocols=("tcp",), ZMQ_MEMPOOL_ADDRESS=address, **HOUR),
    )
    for _topic in ("rawtx", "sequence"):
        assert await asyncio.to_thread(publisher.poll, LIMIT_SECS * 1000)
        publisher.recv()
    async with server.connect() as client:
        for number, tx in enumerate(fan_spends(fan)[:6]):
            script_hash = scripthash_of(tx.outputs[0].pk_script)
            assert await client.call(SUBSCRIBE, script_hash) is None
            raw = tx.serialize()
            tx_hash = double_sha256(raw)
            node.do(lambda n, tx_hash=tx_hash, raw=raw: n.mempool.update({tx_hash: raw}))
            if number % 2:
                parts = [b"sequence", tx_hash[::-1] + b"A" + bytes(8)]
            else:
                parts = [b"rawtx", raw]
            publisher.send_multipart([*parts, (number // 2).to_bytes(4, "little")])
            found = await statuses(client, 1)
            assert list(found) == [script_hash]
            (item,) = await client.call("blockchain.scripthash.get_mempool", script_hash)
            assert item["tx_hash"] == tx_hash[::-1].hex()
    assert "a daemon publishes its mempool by ZMQ" in server.log()


@pytest.mark.xdist_group("bitcoin-sv")
async def test_a_real_node_publishes_its_transactions_by_zmq(tmp_path, stopping, server_for):
    pytest.importorskip("zmq")
    node = stopping.enter_context(PublishingNode(tmp_path / "bitcoin-sv", "rawtx"))
    await asyncio.to_thread(node.mine, 102)
    server = server_for(node, protocols=("tcp",), ZMQ_MEMPOOL_ADDRESS=node.address, **HOUR)
    async with server.connect() as client:
        for _ in range(3):
            address = node.rpc("getnewaddress")
            script = node.rpc("validateaddress", address)["scriptPubKey"]
            script_hash = scripthash_of(bytes.fromhex(script))
            assert await client.call(SUBSCRIBE, script_hash) is None
            txid = await asyncio.to_thread(node.pay, address, 1)
            # The wallet may spend what it was paid before.
            while script_hash not in await statuses(client, 1):
                pass
            (item,) = await client.call("blockchain.scripthash.get_mempool", script_hash)
            assert item["tx_hash"] == txid
        await asyncio.to_thread(node.mine)
        params = await client.notification(SUBSCRIBE, timeout=LIMIT_SECS)
        assert params[1] is not None
    assert "a daemon publishes its mempool by ZMQ" in server.log()
