"""A long Litecoin chain with extension blocks: branches, restarts and a deep mempool.

The tests share a node. Its chain goes on from test to test; each makes a new oracle.
"""

import random

import pytest

from tests.integration.audit import CHEAP, QUERIES, all_follow, assert_same_blocks
from tests.integration.chains import ChainBuilder, build_mweb
from tests.integration.nodes import Litecoind
from tests.integration.oracle import Oracle
from tests.integration.server import ServerProcess
from tests.integration.turmoil import Turmoil, free_coins

pytestmark = [
    pytest.mark.daemon,
    pytest.mark.slow,
    pytest.mark.xdist_group("litecoin-turmoil"),
    pytest.mark.timeout(600),
]

BLOCKS = 300
TXS = 2_100
ENGINES = ("leveldb", "rocksdb")
REORGS = 20
DEEPEST = 9
# Below it a branch would undo the activation of extension blocks, for which the miner then waits.
LOWEST_TIP = Litecoind.MWEB_HEIGHT + DEEPEST + 2
UNCONFIRMED = 320
PROTOCOLS = ("tcp", "rpc")


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A node with a chain of hundreds of blocks and thousands of transactions; its Turmoil."""
    with Litecoind(tmp_path_factory.mktemp("litecoind"), mweb=True) as node:
        builder = ChainBuilder(node).build(blocks=BLOCKS, txs=TXS)
        build_mweb(node)
        # The builder's outputs are split, so that there are many beginnings of chains.
        for coin in sorted(free_coins(Oracle(node)), key=lambda c: -c.value)[:5]:
            builder.fan_out(coin, 60)
        node.mine(max(1, LOWEST_TIP - node.height()))
        yield Turmoil(node, builder.pool)


def start_servers(node, folder, stopping):
    """One server of each engine over the node."""
    servers = []
    for engine in ENGINES:
        settings = {"DB_ENGINE": engine, "MAX_SEND": 8_000_000}
        server = ServerProcess(folder / engine, node.env, protocols=PROTOCOLS, **settings)
        servers.append(stopping.enter_context(server))
    return servers


async def test_every_script_of_the_whole_chain_is_indexed_by_both_engines(
    chain, tmp_path, stopping
):
    servers = start_servers(chain.node, tmp_path, stopping)
    oracle = Oracle(chain.node)
    assert oracle.height >= BLOCKS
    assert sum(len(txids) - 1 for txids in oracle.txids) >= 2_000

    heights = random.Random(2).sample(range(1, oracle.height + 1), 60)
    # The biggest blocks, those with extension blocks, and the tip.
    heights += sorted(range(oracle.height), key=lambda h: -len(oracle.txids[h]))[:5]
    heights += [Litecoind.MWEB_HEIGHT, Litecoind.MWEB_HEIGHT + 1, oracle.height]
    await all_follow(servers, oracle)
    for server in servers:
        await assert_same_blocks(server, oracle, sample=heights)
        assert server.terminate() == 0
        server.start()
    await all_follow(servers, oracle)


async def test_hundreds_of_unconfirmed_payments_in_chains_are_followed(chain, tmp_path, stopping):
    node = chain.node
    servers = start_servers(node, tmp_path, stopping)
    coins = free_coins(Oracle(node))
    assert chain.pay(coins, UNCONFIRMED) == UNCONFIRMED
    node.pay(node.rpc("getnewaddress", "", "mweb"), 1)
    oracle = Oracle(node)
    assert len(oracle.mempool) > 300
    # Far more than half of them spend another one; some stand at the end of long chains.
    entries = node.rpc("getrawmempool", True).values()
    assert sum(entry["ancestorcount"] > 1 for entry in entries) > len(entries) // 2
    assert max(entry["ancestorcount"] for entry in entries) > 20
    await all_follow(servers, oracle)

    # Others take the place of some; a server that starts now sees the rest at once.
    assert chain.replace(oracle, 10) > 0
    servers[0].restart()
    oracle = Oracle(node)
    await all_follow(servers, oracle)

    # Part of them is mined, the rest waits; then the rest, too.
    chain.branch(1, 2, held_back=0.5)
    oracle = Oracle(node)
    assert oracle.mempool
    await all_follow(servers, oracle)
    node.mine(1)
    oracle = Oracle(node)
    assert not oracle.mempool
    await all_follow(servers, oracle)


class Life:
    """Rounds of payments and branches, each audited on every server."""

    def __init__(self, chain, servers):
        self.chain, self.node, self.servers = chain, chain.node, servers
        self.random = random.Random(20)
        self.seen = set()  # every scripthash of any branch
        self.oracle = Oracle(self.node)

    async def audit(self, queries=CHEAP):
        """Both servers follow; scripts of blocks that are gone included."""
        self.oracle = Oracle(self.node)
        self.seen.update(self.oracle.scripthashes())
        await all_follow(self.servers, self.oracle, queries=queries, also=self.seen)

    def prepare(self, number):
        """Something new in the topmost blocks and in the mempool."""
        self.chain.replace(self.oracle)
        coins = free_coins(Oracle(self.node))
        self.chain.pay(coins, 20)
        if number % 4 == 0:
            self.node.pay(self.node.rpc("getnewaddress", "", "mweb"), 1)
        self.node.mine(self.random.randint(1, 3))
        self.chain.pay(free_coins(Oracle(self.node)), 8)

    def choose_branch(self, *, from_one=False):
        """Depth and length of the next branch: longer, equal or shorter than the replaced one."""
        depth = self.random.randint(1, DEEPEST)
        length = depth + self.random.choice((-depth, -2, -1, 0, 0, 1, 1, 2, 3))
        length = max(int(from_one), length)
        if self.node.height() - depth + length < LOWEST_TIP:
            length = depth + 1
        return depth, length

    async def round(self, number, *, restart=None):
        """One branch, and sometimes back to the old one. restart: how the servers end before."""
        self.prepare(number)
        # They have the node's tip before it goes elsewhere.
        await self.audit(())
        for server in self.servers:
            if restart:
                restart(server)
        depth, length = self.choose_branch(from_one=bool(restart))
        undone = self.chain.branch(
            depth,
            length,
            held_back=self.random.choice((0, 0.5, 1)),
            pay=self.random.choice((0, 10)),
            coins=free_coins(self.oracle),
        )
        for server in self.servers:
            if restart:
                server.start()
        await self.audit(QUERIES if number % 5 == 0 else CHEAP)
        if length < depth and self.random.random() < 0.5:
            # The branch that was left is the longer one: the node goes back to it.
            self.node.rpc("reconsiderblock", undone)
            await self.audit()
        return depth, length


async def test_twenty_random_reorganisations_are_followed_by_both_engines(
    chain, tmp_path, stopping
):
    servers = start_servers(chain.node, tmp_path, stopping)
    life = Life(chain, servers)
    await life.audit(QUERIES)
    branches = []
    for number in range(REORGS):
        restart = {6: ServerProcess.terminate, 13: ServerProcess.kill}.get(number)
        branches.append(await life.round(number, restart=restart))
        print(f"round {number}: {branches[-1][0]} undone, {branches[-1][1]} new")
    differences = [length - depth for depth, length in branches]
    assert min(differences) < 0 < max(differences)
    assert 0 in differences
    tip = range(life.oracle.height - DEEPEST, life.oracle.height + 1)
    for server in servers:
        await assert_same_blocks(server, life.oracle, sample=tip)
        assert server.terminate() == 0
        server.start()
    await life.audit(QUERIES)
