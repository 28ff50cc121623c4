"""The index over bcoin, with Bitcoin's own rules: witnesses, branches, a mempool that forgets."""

import pytest

from tests.integration.audit import all_follow, assert_same_blocks
from tests.integration.chains import script_pool
from tests.integration.nodes import Bcoin
from tests.integration.oracle import Oracle
from tests.integration.server import ServerProcess, wait_until
from tests.integration.turmoil import Turmoil, follow_branches, free_coins

pytestmark = [pytest.mark.daemon, pytest.mark.slow, pytest.mark.xdist_group("bcoin")]

# The script hash of OP_TRUE: rewards to it need no key.
FREE_ADDRESS = "2ND8PB9RrfCaAcjfjP1Y6nAgFd9zWHYX4DN"
REORGS = 8
DEEPEST = 9


def pay(chain, count):
    """Payments that have arrived in the mempool; bcoin answers before it has looked at them."""
    waiting = len(chain.node.rpc("getrawmempool"))
    assert chain.pay(free_coins(Oracle(chain.node)), count) == count
    wait_until(
        lambda: len(chain.node.rpc("getrawmempool")) == waiting + count, what="payments in mempool"
    )


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A node past the start of segwit with some hundred payments; its Turmoil."""
    with Bcoin(tmp_path_factory.mktemp("bcoin")) as node:
        node.mine(20, FREE_ADDRESS)
        node.activate_segwit()
        chain = Turmoil(node, script_pool(60), most_ancestors=20, new_addresses=True)
        for _ in range(15):
            pay(chain, 20)
            node.mine(1)
        yield chain


@pytest.fixture
def servers(chain, tmp_path, stopping):
    """A server of each engine over the node."""
    return [
        stopping.enter_context(
            ServerProcess(
                tmp_path / engine, chain.node.env, protocols=("tcp", "rpc"), DB_ENGINE=engine
            )
        )
        for engine in ("leveldb", "rocksdb")
    ]


async def test_blocks_and_mempool_with_witnesses_are_indexed(chain, servers):
    oracle = Oracle(chain.node)
    assert oracle.height >= 440
    await all_follow(servers, oracle)
    for server in servers:
        await assert_same_blocks(server, oracle, sample=range(430, oracle.height + 1))

    pay(chain, 40)
    oracle = Oracle(chain.node)
    assert len(oracle.mempool) == 40
    chained = [
        tx for tx in oracle.mempool.values() if {s.txid for s in tx.spends} & {*oracle.mempool}
    ]
    assert len(chained) > 10
    await all_follow(servers, oracle)
    chain.node.mine(1)
    await all_follow(servers, Oracle(chain.node))


async def test_random_branches_are_followed(chain, servers):
    def grow(blocks):
        for _ in range(blocks):
            pay(chain, 6)
            chain.node.mine(1)
        pay(chain, 3)

    await follow_branches(chain, servers, grow, rounds=REORGS, deepest=DEEPEST)


async def test_blocks_that_the_operator_has_replaced_are_indexed_again(chain, servers):
    oracle = Oracle(chain.node)
    await all_follow(servers, oracle)
    for count in (1, 7):
        for server in servers:
            assert server.rpc("reorg", count) == f"scheduled a reorg of {count:,d} blocks"
            # The last line of undoing, then of committing the same blocks again, in any parts.
            server.wait_log(
                rf"backed up to height {oracle.height - count:,d}(?s:.*)"
                rf"flush #[\d,]+ took [^\n]*Height {oracle.height:,d} "
            )
        await all_follow(servers, oracle)
    assert [server.terminate() for server in servers] == [0, 0]
