"""The whole server over a fake node with a made chain, compared with the model of the index.

No real node mines such blocks: transactions in the order of their hashes, outputs of any form,
branches from anywhere.
"""

import asyncio
from functools import cached_property

import pytest

from electrumx.lib.hash import double_sha256, hash_to_hex_str
from tests.fakes.chain import ChainMaker, Model, hashX_of
from tests.fakes.node_thread import NodeThread
from tests.integration.audit import assert_follows, assert_same_blocks
from tests.integration.oracle import Oracle, scripthash_of
from tests.integration.server import ServerProcess

pytestmark = [pytest.mark.slow]

BLOCKS = 450
MOST_TXS = 16
SCRIPTS = 250
# Coin and engine, by whether blocks hold their transactions in the order of their hashes.
SETUPS = {
    False: (("Bitcoin", "leveldb"), ("Bitcoin", "rocksdb")),
    True: (("BitcoinCash", "leveldb"), ("BitcoinCash", "rocksdb")),
}


class ModelOracle(Oracle):
    """The model of a chain, asked as an oracle is; without a mempool."""

    def __init__(self, maker, tip):
        raw_blocks = maker.chain(tip)
        self.maker, self.model = maker, Model(raw_blocks)
        self.height = len(raw_blocks) - 1
        self.headers = [header.hex() for header in self.model.headers]
        self.txids = [[hash_to_hex_str(h) for h in hashes] for hashes in self.model.tx_hashes]
        self._hashXs = {scripthash_of(script): hashX_of(script) for script in maker.draws.scripts}

    def scripthashes(self):
        return sorted(self._hashXs)

    def get_mempool(self, scripthash):
        return []

    def get_history(self, scripthash):
        history = self.model.history.get(self._hashXs.get(scripthash), ())
        return [{"tx_hash": hash_to_hex_str(h), "height": height} for h, height in history]

    @cached_property
    def _utxos(self):
        table = {}
        for (tx_hash, index), (hashX, value, height, tx_num) in self.model.unspent.items():
            table.setdefault(hashX, []).append((tx_num, index, tx_hash, height, value))
        return table

    def listunspent(self, scripthash):
        return [
            {"tx_hash": hash_to_hex_str(h), "tx_pos": index, "height": height, "value": value}
            for _num, index, h, height, value in sorted(
                self._utxos.get(self._hashXs.get(scripthash), ())
            )
        ]

    def get_balance(self, scripthash):
        total = sum(utxo["value"] for utxo in self.listunspent(scripthash))
        return {"confirmed": total, "unconfirmed": 0}


@pytest.fixture(scope="module", params=[False, True], ids=["topological", "by-hash"])
def made_chain(request):
    """A maker with a chain of thousands of transactions, and its tip."""
    maker = ChainMaker(seed=11, scripts=SCRIPTS, ltor=request.param)
    tip = maker.genesis_hash
    for _ in range(BLOCKS):
        tip = maker.extend(tip, max_txs=MOST_TXS)
    return maker, tip


async def test_every_script_of_a_made_chain_and_of_its_branches_agrees_with_the_model(
    made_chain, tmp_path, stopping
):
    maker, tip = made_chain
    oracle = ModelOracle(maker, tip)
    assert sum(map(len, oracle.txids)) > 3_000
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    servers = []
    for coin, engine in SETUPS[maker.format.ltor]:
        settings = {"COIN": coin, "DB_ENGINE": engine, "REORG_LIMIT": 500}
        folder = tmp_path / f"{coin}-{engine}"
        server = ServerProcess(folder, node.env, protocols=("tcp", "rpc"), **settings)
        servers.append(stopping.enter_context(server))

    async def audit(sample):
        await asyncio.gather(*(assert_follows(server, oracle) for server in servers))
        for server in servers:
            await assert_same_blocks(server, oracle, sample=sample)

    await audit(range(0, BLOCKS, 9))
    # From near the tip, from the middle, to a lower height, and from the lowest block but one.
    for undone, new in ((1, 2), (7, 7), (120, 121), (9, 4), (None, 150)):
        fork = oracle.height - undone if undone else 1
        parent = double_sha256(bytes.fromhex(oracle.headers[fork]))
        tip = maker.grow(parent, new)
        node.do(lambda n, tip=tip, fork=fork: n.fork(fork + 1, maker.chain(tip)[fork + 1 :]))
        oracle = ModelOracle(maker, tip)
        await audit(range(max(0, fork - 3), oracle.height + 1, 5))

    for server in servers:
        assert server.terminate() == 0
        server.start()
    await audit(range(0, oracle.height, 50))
