"""The index over the Bitcoin SV node, whose blocks serve for Bitcoin Cash's processing as well."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.integration.audit import all_follow, assert_follows, assert_same_blocks
from tests.integration.chains import FEE, SCRIPT_SIGS, SCRIPTS, FreeCoin, make_tx, script_pool
from tests.integration.nodes import BitcoinSVNode
from tests.integration.oracle import Oracle, scripthash_of
from tests.integration.server import ServerProcess
from tests.integration.turmoil import Turmoil, address_of, follow_branches, free_coins

pytestmark = [pytest.mark.daemon, pytest.mark.slow, pytest.mark.xdist_group("bitcoin-sv")]

# Its key is in no wallet, which would have to look at every block.
NOBODY = "mfWxJ45yp2SFn7UciZyNpvDKrzbhyfKrY8"
# From this height an output is unspendable only if OP_RETURN follows on OP_FALSE.
ACTIVATION = 10_000
REORGS = 10
DEEPEST = 9
PUSH_5 = b"\x01\x05"
RETURN = b"\x6a"
FALSE_RETURN = b"\x00\x6a"


def free_up(node, count=3, parts=40):
    """Outputs without a key, made of rewards by the node's wallet, and mined."""
    address = node.mining_address()
    hashes = node.mine(count, address)
    while node.height() < count + 100:
        node.mine(min(100, count + 100 - node.height()), NOBODY)
    coins = []
    for block_hash in hashes:
        reward = node.rpc("getblock", block_hash, 2)["tx"][0]
        value = int(reward["vout"][0]["value"] * 10**8)
        # Not yet signed: the input script of a bare output's spender is empty.
        unsigned = FreeCoin(reward["txid"], 0, value, "bare")
        part = (value - 10 * FEE) // parts
        _txid, raw = make_tx([unsigned], [(part, SCRIPTS["bare"])] * parts)
        signed = node.rpc("signrawtransaction", raw)
        assert signed["complete"]
        txid = node.rpc("sendrawtransaction", signed["hex"])
        coins += [FreeCoin(txid, n, part, "bare") for n in range(parts)]
    node.mine(1, NOBODY)
    return coins


class Chain(Turmoil):
    """A Turmoil on a node that refuses outputs to script hashes."""

    def __init__(self, node):
        pool = [script for script in script_pool(60) if not script.startswith(b"\xa9")]
        pool += [RETURN + PUSH_5, FALSE_RETURN + PUSH_5, RETURN]
        super().__init__(node, pool, kinds=("bare",), new_addresses=True)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A node with some hundred payments in its blocks; its Turmoil."""
    with BitcoinSVNode(tmp_path_factory.mktemp("bitcoin-sv")) as node:
        free_up(node)
        chain = Chain(node)
        for _ in range(20):
            assert chain.pay(free_coins(Oracle(node)), 15) == 15
            node.mine(1, NOBODY)
        yield chain


@pytest.fixture
def servers(chain, tmp_path, stopping):
    """Over the node, a server for Bitcoin SV, and one that takes transactions in any order."""
    return [
        stopping.enter_context(
            ServerProcess(
                tmp_path / coin,
                chain.node.env,
                protocols=("tcp", "rpc"),
                COIN=coin,
                DB_ENGINE=engine,
            )
        )
        for coin, engine in (("BitcoinSV", "leveldb"), ("BitcoinCash", "rocksdb"))
    ]


async def test_blocks_and_mempool_are_indexed(chain, servers):
    oracle = Oracle(chain.node)
    await all_follow(servers, oracle)
    for server in servers:
        await assert_same_blocks(server, oracle, sample=range(100, oracle.height + 1))

    assert chain.pay(free_coins(oracle), 60) == 60
    oracle = Oracle(chain.node)
    assert len(oracle.mempool) == 60
    await all_follow(servers, oracle)
    chain.node.mine(1, NOBODY)
    await all_follow(servers, Oracle(chain.node))


async def test_random_branches_are_followed(chain, servers):
    def grow(blocks):
        for _ in range(blocks):
            chain.pay(free_coins(Oracle(chain.node)), 6)
            chain.node.mine(1, NOBODY)
        chain.pay(free_coins(Oracle(chain.node)), 3)

    await follow_branches(
        chain, servers, grow, rounds=REORGS, deepest=DEEPEST, held_back=(0, 0.5, 1)
    )


def electrumx_rpc(server, *words):
    """The output of the administrator's command."""
    command = [sys.executable, REPOSITORY / "electrumx_rpc", "-p", server.ports["rpc"], *words]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


async def test_blocks_that_the_operator_has_replaced_are_indexed_again(chain, servers):
    chain.pay(free_coins(Oracle(chain.node)), 5)
    oracle = Oracle(chain.node)
    await all_follow(servers, oracle)
    for count in (1, 7):
        for server in servers:
            mark = len(server.log())
            assert f"scheduled a reorg of {count} blocks" in electrumx_rpc(server, "reorg", count)
            # Undone, and the same blocks committed again, in any parts.
            again = (
                rf"backed up to height {oracle.height - count:,d}(?s:.)*"
                rf"flush #[\d,]+ took [^\n]*Height {oracle.height:,d} "
            )
            server.wait_log(rf"(?s:.){{{mark}}}(?s:.)*{again}")
        await all_follow(servers, oracle)
    assert [server.terminate() for server in servers] == [0, 0]


async def test_what_follows_on_op_return_is_spendable_from_the_activation_on(tmp_path, server_for):
    with BitcoinSVNode(tmp_path / "node") as node:
        coins = free_up(node, count=1)
        while node.height() < ACTIVATION - 5:
            node.mine(min(1_000, ACTIVATION - 5 - node.height()), NOBODY)
        server = server_for(node, protocols=("tcp", "rpc"), MAX_SEND=8_000_000)

        def pay_to_both(number):
            """One block with outputs of both forms; the coin that is spendable or not."""
            coin = coins.pop()
            value = coin.value - 2_000 - FEE
            scripts = (RETURN + bytes([1, number]), FALSE_RETURN + bytes([1, number]))
            outputs = [(1_000, script) for script in scripts] + [(value, SCRIPTS["bare"])]
            txid, raw = make_tx([coin], outputs)
            node.rpc("sendrawtransaction", raw)
            node.mine(1, NOBODY)
            return FreeCoin(txid, 0, 1_000, "bare")

        for number in range(5):
            pay_to_both(number)
        assert node.height() == ACTIVATION
        spendable = pay_to_both(99)
        node.mine(1, NOBODY)
        oracle = Oracle(node, op_return_limit=ACTIVATION)
        of_form = {n: scripthash_of(RETURN + bytes([1, n])) for n in (0, 3, 4, 99)}
        # The last of the five was mined at the very height of the activation.
        known = [n for n, scripthash in of_form.items() if oracle.get_history(scripthash)]
        assert known == [4, 99]
        assert not oracle.get_history(scripthash_of(FALSE_RETURN + bytes([1, 99])))
        everything = list(of_form.values())
        await assert_follows(server, oracle, also=everything)

        # It is spent, which shows a coin that is gone, and not one that never was.
        other = coins.pop()
        # Any true value in front of OP_RETURN satisfies the script: that of P2SH outputs' spenders.
        spender = spendable._replace(kind="return")
        SCRIPT_SIGS["return"] = b"\x51"
        _txid, raw = make_tx([spender, other], [(other.value - FEE, SCRIPTS["bare"])])
        node.rpc("sendrawtransaction", raw)
        await assert_follows(server, Oracle(node, op_return_limit=ACTIVATION), also=everything)
        node.mine(1, NOBODY)
        await assert_follows(server, Oracle(node, op_return_limit=ACTIVATION), also=everything)

        # A branch from below the activation.
        node.rpc("invalidateblock", node.rpc("getblockhash", ACTIVATION - 2))
        node.mine(8, address_of(b"another" + bytes(13)))
        await assert_follows(server, Oracle(node, op_return_limit=ACTIVATION), also=everything)
