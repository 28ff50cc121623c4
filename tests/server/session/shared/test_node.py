"""Requests that the node answers: its errors, and the transactions that it accepts."""

import pytest
from aiorpcx import RPCError

from electrumx.server.daemon.client import DaemonError
from electrumx.server.session.engine.params import DAEMON_ERROR
from electrumx.server.session.shared.node import Node

TXID = "ab" * 32


class Daemon:
    """Returns the reply that a test sets, or raises it."""

    reply: object = None

    async def _answer(self, *_args, **_options):
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    broadcast_transaction = submitpackage = relayfee = _answer


class Mempool:
    def __init__(self):
        self.accepted = []

    def entered(self, tx_hash):
        self.accepted.append(tx_hash)


class Parts:
    """A node over a daemon and a mempool."""

    def __init__(self):
        self.daemon, self.mempool = Daemon(), Mempool()
        node = Node(self.daemon, self.mempool)
        self.request, self.node = node.request, node
        self.broadcast_transaction = node.broadcast_transaction
        self.broadcast_package = node.broadcast_package

    @property
    def txs_sent(self):
        return self.node.txs_sent


@pytest.fixture
def node():
    return Parts()


async def test_an_error_of_the_node_is_one_of_the_client(node):
    node.daemon.reply = DaemonError({"code": -5, "message": "no"})
    with pytest.raises(RPCError) as raised:
        await node.request("relayfee")
    assert raised.value.code == DAEMON_ERROR
    assert "daemon error" in raised.value.message


async def test_an_accepted_transaction_is_counted_and_reported_to_the_mempool(node):
    node.daemon.reply = TXID
    assert await node.broadcast_transaction("00") == TXID
    assert (node.txs_sent, node.mempool.accepted) == (1, [bytes.fromhex(TXID)[::-1]])


async def test_a_rejected_transaction_is_neither(node):
    node.daemon.reply = DaemonError({"code": -26, "message": "no"})
    with pytest.raises(DaemonError):
        await node.broadcast_transaction("00")
    assert (node.txs_sent, node.mempool.accepted) == (0, [])


async def test_only_the_accepted_transactions_of_a_package_are_reported(node):
    results = {"w1": {"txid": TXID}, "w2": {"txid": "cd" * 32, "error": "no"}, "w3": {"txid": 7}}
    node.daemon.reply = {"package_msg": "failed", "tx-results": results}
    assert await node.broadcast_package(["00", "01"]) == node.daemon.reply
    assert (node.txs_sent, node.mempool.accepted) == (2, [bytes.fromhex(TXID)[::-1]])
