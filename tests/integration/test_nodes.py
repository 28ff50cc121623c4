"""Each real node starts, mines, reorganises and stops; chains made on them are as planned."""

import pytest

from tests.integration.chains import SCRIPTS, ChainBuilder, FreeCoin, build_mweb, make_tx
from tests.integration.nodes import Bcash, Bcoin, BitcoinSVNode, Litecoind, RPCFailure
from tests.integration.oracle import Oracle, parse_block

pytestmark = pytest.mark.daemon

GENESIS = {
    Litecoind: "530827f38f93b43ed12af0b3ad25a288dc02ed74d6d7857862df51fc56c416f9",
    BitcoinSVNode: "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
    Bcoin: "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
    Bcash: "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
}
every_node = pytest.mark.parametrize("node_class", list(GENESIS), ids=lambda c: c.NAME)


@every_node
def test_a_node_starts_mines_and_stops(node_class, tmp_path):
    node = node_class(tmp_path)
    with node:
        assert node.rpc("getblockhash", 0) == GENESIS[node_class]
        hashes = node.mine(3)
        assert node.height() == 3
        assert hashes[-1] == node.rpc("getbestblockhash")
        child = node.child
    assert not child.running()


@every_node
def test_raw_blocks_parse_and_link_up(node_class, tmp_path):
    with node_class(tmp_path) as node:
        node.mine(3)
        raws = node.raw_blocks(0, 4)
        txids = [parse_block(raw)[0].txid for raw in raws]
        for height in (1, 2, 3):
            block_hash = node.rpc("getblockhash", height)
            assert node.rpc("getblock", block_hash)["tx"] == [txids[height]]


@every_node
def test_a_reorganisation_replaces_the_tip(node_class, tmp_path):
    with node_class(tmp_path) as node:
        old = node.mine(5)
        node.reorganise(2)
        assert node.height() == 6
        assert node.rpc("getblockhash", 3) == old[2]
        assert node.rpc("getblockhash", 4) != old[3]


def test_an_error_of_a_node_is_raised_with_its_code(tmp_path):
    with Litecoind(tmp_path) as node:
        with pytest.raises(RPCFailure) as failure:
            node.rpc("getblockhash", 1)
        assert failure.value.code == -8


def test_litecoind_keeps_its_chain_over_a_restart_and_a_kill(tmp_path):
    with Litecoind(tmp_path) as node:
        node.mine(3)
        node.restart()
        assert node.height() == 3
        node.kill()
        node.start()
        assert node.height() <= 3


def test_litecoind_without_mweb_mines_past_its_activation(tmp_path):
    with Litecoind(tmp_path) as node:
        node.mine(Litecoind.MWEB_HEIGHT + 1)
        (raw,) = node.raw_blocks(Litecoind.MWEB_HEIGHT, 1)
        assert len(parse_block(raw)) == 1


def test_mweb_blocks_carry_an_integration_transaction_and_more(tmp_path):
    with Litecoind(tmp_path, mweb=True) as node:
        build_mweb(node)
        tip = node.height()
        raws = node.raw_blocks(Litecoind.MWEB_HEIGHT, tip - Litecoind.MWEB_HEIGHT + 1)
        for height, raw in enumerate(raws, start=Litecoind.MWEB_HEIGHT):
            txids = node.rpc("getblock", node.rpc("getblockhash", height))["tx"]
            assert [tx.txid for tx in parse_block(raw)] == txids
        oracle = Oracle(node)
        assert oracle.height == tip


def test_the_big_chain_is_as_promised_and_the_oracle_agrees_with_the_node(tmp_path):
    with Litecoind(tmp_path) as node:
        builder = ChainBuilder(node).build()
        builder.send_random(30)
        oracle = Oracle(node)

        assert oracle.height >= 300
        assert sum(len(txids) - 1 for txids in oracle.txids) >= 2_000
        kinds = {(script[:2], len(script)) for script in oracle.scripts.values()}
        for kind in ((b"\x76\xa9", 25), (b"\xa9\x14", 23), (b"\x00\x14", 22), (b"\x51\x20", 34)):
            assert kind in kinds
        assert any(len(oracle.get_history(s)) > 20 for s in oracle.scripthashes())

        # The node's own count of its unspent outputs is taken another way.
        told = node.rpc("gettxoutsetinfo")
        assert told["txouts"] == len(oracle.unspent)
        total = sum(oracle.outputs[key].value for key in oracle.unspent)
        assert told["total_amount"] * 10**8 == total

        assert len(oracle.mempool) == 30
        for txid, entry in node.rpc("getrawmempool", True).items():
            assert oracle.fee(txid) == int(entry["fee"] * 10**8)


def test_a_hand_made_transaction_of_each_kind_is_accepted(tmp_path):
    with Litecoind(tmp_path) as node:
        builder = ChainBuilder(node)
        coin = builder.mine_free(1)[0]
        node.mine(100)
        for kind in ("bare", "p2sh", "p2wsh"):
            value = coin.value - 3_000
            # A second output, since nodes refuse transactions under 82 bytes.
            outputs = [(value, SCRIPTS[kind]), (1_000, SCRIPTS["p2wsh"])]
            txid, raw = make_tx([coin], outputs)
            assert node.rpc("sendrawtransaction", raw) == txid
            coin = FreeCoin(txid, 0, value, kind)
        assert len(node.rpc("getrawmempool")) == 3
