"""The benchmarks' own tools, at a size for every day: their chain is a chain, their node a node.

Nothing here is timed. What the tools measure has to be right before it is fast.
"""

import argparse
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from operator import ne

import pytest

from benchmarks import __main__ as command
from benchmarks import arrivals, lookups, report, stages, wire
from benchmarks.chain import make_chain
from benchmarks.chain_files import BUSY, FORK, MAIN, ORDINARY, ChainFiles
from benchmarks.pressure import run_scenario
from benchmarks.scenarios import scenarios
from benchmarks.servers import NodeProcess, Spec, running
from benchmarks.serving import Serving
from benchmarks.shape import Shape
from benchmarks.sync import FIGURES, sync_all
from electrumx.lib.hash import double_sha256
from electrumx.lib.merkle import Merkle
from tests.fakes.chain import COIN
from tests.integration.audit import assert_follows, assert_same_blocks
from tests.integration.oracle import Oracle, Reader, parse_block
from tests.integration.server import ServerProcess, wait_until

SHAPE = Shape(
    txs=700, blocks=140, mempool=60, ordinary=3, busy=2, busy_txs=40, crowd=50, fork=4, seed=5
)
POLLING = ("DAEMON_POLL_INTERVAL_BLOCKS", "DAEMON_POLL_INTERVAL_MEMPOOL")
# Of the hashes of all that is in that chain: a change to the generator changes every figure that
# was measured with it.
DIGEST = "6ed85afa197883551768d46b1720eecdce0666184c1a24074de95117fe920d32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "chain"
    make_chain(folder, SHAPE)
    return folder


@pytest.fixture(scope="module")
def files(folder):
    return ChainFiles(folder)


@pytest.fixture
def node_and_server(folder, tmp_path, stopping):
    node = stopping.enter_context(NodeProcess(folder, tmp_path / "node", mempool=20))
    environment = {
        "COIN": "Bitcoin",
        "NET": "regtest",
        "DAEMON_URL": f"http://user:secret@127.0.0.1:{node.port}/",
    }
    server = ServerProcess(tmp_path, environment, protocols=("tcp", "rpc"))
    return node, stopping.enter_context(server)


class BenchNode:
    """The fake node, asked as the oracle asks a node."""

    def __init__(self, node):
        self._node = node

    def height(self):
        return self._node.call("getblockcount")

    def raw_blocks(self, start, count):
        hashes = [self._node.call("getblockhash", n) for n in range(start, start + count)]
        return [bytes.fromhex(self._node.call("getblock", hash_, 0)) for hash_ in hashes]

    def raw_mempool(self):
        txids = self._node.call("getrawmempool")
        return {txid: bytes.fromhex(self._node.call("getrawtransaction", txid)) for txid in txids}


class BenchOracle(Oracle):
    def _index_mempool(self):
        for txid, raw in self.node.raw_mempool().items():
            self.mempool[txid] = Reader(raw).transaction()
            assert self.mempool[txid].txid == txid


def chain_of(files, *parts):
    """Raw blocks of the main chain and of other parts, in order."""
    return [files.raw_block(number) for part in parts for number in files.numbers(part)]


def witness_commitment(block):
    outputs = block.transactions[0][0].outputs
    return next(o.pk_script[6:] for o in outputs if o.pk_script[:6] == b"\x6a\x24\xaa\x21\xa9\xed")


def test_a_shape_always_gives_the_same_chain_and_another_seed_another_one(tmp_path, folder, files):
    again, other = tmp_path / "again", tmp_path / "other"
    make_chain(again, SHAPE)
    make_chain(other, Shape(**files.facts["shape"] | {"seed": 6}))
    names = sorted(path.name for path in folder.iterdir())

    assert len(names) == 7
    assert [(folder / name).read_bytes() for name in names] == [
        (again / name).read_bytes() for name in names
    ]
    assert DIGEST == files.facts["digest"]
    assert DIGEST != ChainFiles(other).facts["digest"]


@pytest.mark.parametrize("text", ["20k", "100k", "400k", "4m", "1234"])
def test_a_chain_has_exactly_the_transactions_of_its_size(text):
    shape = Shape.sized(text)
    per_block = [shape.spends(height) for height in range(shape.blocks + 1)]

    assert shape.txs == sum(per_block) + shape.blocks + 1
    assert all(count == 0 for count in per_block[:101])
    assert all(count > 0 for count in per_block[101:])


@pytest.mark.parametrize("text", ["", "k", "4g", "-1", "100", "200"])
def test_a_size_that_makes_no_chain_is_refused(text):
    with pytest.raises(ValueError, match="transactions"):
        Shape.sized(text)


@pytest.mark.parametrize("parts", [(MAIN, ORDINARY, BUSY), (MAIN, FORK)])
def test_headers_link_and_roots_and_commitments_are_those_of_the_transactions(files, parts):
    raws = chain_of(files, *parts)
    if FORK in parts:
        del raws[SHAPE.blocks - SHAPE.fork + 1 : SHAPE.blocks + 1]
    merkle = Merkle()
    prev_hash, with_witness = bytes(32), 0
    for height, raw in enumerate(raws):
        block = COIN.block(raw, height)
        header = block.header
        assert header[4:36] == prev_hash
        prev_hash = double_sha256(header)
        assert int.from_bytes(prev_hash, "little") <= 0x7FFFFF << 232
        hashes = [tx_hash for _tx, tx_hash in block.transactions]
        assert header[36:68] == merkle.root(hashes)
        found = [dict(files.find_tx(tx_hash)) for tx_hash in hashes]
        number = next(n for n in found[0] if files.raw_block(n) == raw)
        whole = [double_sha256(raw_txs[number]) for raw_txs in found]
        assert raw[-len(found[-1][number]) :] == found[-1][number]
        if height:
            root = merkle.root([bytes(32), *whole[1:]])
            assert witness_commitment(block) == double_sha256(root + bytes(32))
        with_witness += sum(map(ne, hashes, whole))
    assert 0 < with_witness - len(raws) < SHAPE.txs


@pytest.mark.parametrize("parts", [(MAIN, ORDINARY, BUSY), (MAIN, FORK)])
def test_every_utxo_is_spent_once_and_when_mature(files, parts):
    raws = chain_of(files, *parts)
    if FORK in parts:
        del raws[SHAPE.blocks - SHAPE.fork + 1 : SHAPE.blocks + 1]
    values, coinbases = {}, {}
    for height, raw in enumerate(raws):
        fees = 0
        for tx in parse_block(raw)[1:]:
            paid_in = 0
            for spend in tx.spends:
                paid_in += values.pop(spend)
                assert height - coinbases.get(spend.txid, -100) >= 100
            paid_out = sum(output.value for output in tx.outputs)
            assert paid_in >= paid_out
            fees += paid_in - paid_out
            values.update({(tx.txid, n): o.value for n, o in enumerate(tx.outputs)})
        reward = parse_block(raw)[0]
        coinbases[reward.txid] = height
        assert sum(o.value for o in reward.outputs) == (50_0000_0000 >> height // 150) + fees
        if height:
            values.update({(reward.txid, n): o.value for n, o in enumerate(reward.outputs)})


def test_the_mempool_spends_what_the_chain_left_parents_first(files):
    unspent = set()
    for raw in chain_of(files, MAIN):
        for tx in parse_block(raw):
            unspent.difference_update(tx.spends)
            unspent.update((tx.txid, n) for n in range(len(tx.outputs)))
    chained, known = 0, set()
    for number, record in enumerate(files.unconfirmed):
        tx = Reader(files.raw_unconfirmed(number)).transaction()
        assert tx.txid == record.tx_hash[::-1].hex()
        for spend in tx.spends:
            unspent.remove(spend)
            chained += spend.txid in known
        unspent.update((tx.txid, n) for n in range(len(tx.outputs)))
        known.add(tx.txid)

    assert SHAPE.mempool == len(known)
    assert 0 < chained < SHAPE.mempool


def test_a_busy_block_pays_to_each_of_the_crowd(files):
    crowd = set(files.targets()["crowd"])
    blocks = chain_of(files, BUSY)

    assert (SHAPE.busy, SHAPE.crowd) == (len(blocks), len(crowd))
    for raw in blocks:
        scripts = {o.script for tx in parse_block(raw) for o in tx.outputs}
        assert crowd <= {hashlib.sha256(script).digest()[::-1].hex() for script in scripts}


def test_targets_have_the_stated_histories(folder, files):
    with NodeProcess(folder, folder.parent / "node-of-targets") as node:
        oracle = BenchOracle(BenchNode(node))
    targets = files.targets()

    assert targets["height"] == oracle.height
    for group in ("huge", "medium", "small"):
        assert targets[group] or group == "medium"
        for scripthash, count in targets[group]:
            assert len(oracle.get_history(scripthash)) == count
    for scripthash in targets["single"]:
        assert 1 <= len(oracle.get_history(scripthash)) <= 2
    for txid, height in targets["txs"]:
        assert oracle.position[txid][0] == height


def test_the_fake_node_notifies_calls_that_wait_for_a_block_at_once(folder, tmp_path):
    with NodeProcess(folder, tmp_path) as node, ThreadPoolExecutor() as pool:
        tip = {"height": SHAPE.blocks, "hash": node.call("getbestblockhash")}
        assert node.call("waitfornewblock", 1) == tip
        waiting = pool.submit(node.call, "waitfornewblock", 50_000)
        wait_until(
            lambda: node.call("bench.state")["calls"]["waitfornewblock"] == 2, what="a second call"
        )
        state = node.call("bench.extend")

        assert waiting.result(120) == {"height": SHAPE.blocks + 1, "hash": state["tip"]}
        assert node.call("bench.state")["told_at"] >= state["found_at"]


@pytest.mark.slow
async def test_a_server_over_the_fake_node_answers_as_the_oracle(node_and_server):
    node, server = node_and_server

    async def agree(*, mempool):
        oracle = BenchOracle(BenchNode(node))
        assert len(oracle.mempool) == mempool
        await assert_follows(server, oracle)
        return oracle

    await agree(mempool=20)
    assert node.call("bench.mempool")["mempool"] == SHAPE.mempool
    await agree(mempool=SHAPE.mempool)
    state = node.call("bench.extend")
    assert state["height"] == SHAPE.blocks + 1
    assert state["mempool"] < SHAPE.mempool
    await agree(mempool=state["mempool"])
    assert node.call("bench.state")["told_at"] > state["found_at"]
    # The ordinary blocks that are left come with it
    state = node.call("bench.extend", "busy", 1)
    assert state["height"] == SHAPE.blocks + SHAPE.ordinary + 1
    oracle = await agree(mempool=state["mempool"])
    await assert_same_blocks(server, oracle, sample=range(SHAPE.blocks - 5, oracle.height + 1))


@pytest.mark.slow
async def test_a_reorganisation_of_the_fake_node_is_followed(node_and_server):
    node, server = node_and_server
    before = BenchOracle(BenchNode(node))
    assert node.call("bench.reorganise")["mempool"] == 0
    oracle = BenchOracle(BenchNode(node))

    assert oracle.height == before.height + 1
    assert oracle.headers[SHAPE.blocks] != before.headers[SHAPE.blocks]
    await assert_follows(server, oracle, also=before.scripthashes())


@pytest.mark.slow
def test_a_synchronisation_has_all_its_figures(folder, files, tmp_path):
    said = []
    specs = [Spec("ours-leveldb"), Spec("ours-python:CACHE_MB=20")]
    results = sync_all(specs, folder, files.facts, tmp_path, 1, said.append)

    assert [spec.text for spec in specs] == list(results)
    assert len(said) == 2
    for figures in results.values():
        assert set(FIGURES) <= set(figures)
        # The temporary files of so small a chain may be gone before they are measured.
        assert figures.pop("temp MB") >= 0
        assert all(value > 0 for value in figures.values())


ANSWERS = {
    "history": "get_history",
    "balance": "get_balance",
    "unspent": "listunspent",
    "subscribe": "status",
}


@pytest.mark.slow
def test_requests_of_scenarios_have_the_oracles_results(folder, files, node_and_server):
    node, server = node_and_server
    oracle = BenchOracle(BenchNode(node))
    seen = set()
    for scenario in scenarios(files.targets()):
        kept = []
        port, pid = server.ports["tcp"], server.child.pid
        figures = run_scenario(port, pid, scenario, 0.05, kept=kept)
        assert figures["requests"] == len(kept) > 0
        assert "errors" not in figures
        assert figures["CPU us"] > 0
        for request, reply in kept[:20]:
            params = json.loads(b"{" + request)["params"]
            result = json.loads(reply)["result"]
            kind = scenario.name.partition(",")[0]
            if kind in ANSWERS:
                assert result == getattr(oracle, ANSWERS[kind])(*params)
            elif kind == "header":
                assert result == oracle.headers[params[0]]
            elif kind == "merkle branch":
                txid, height = params
                position = oracle.txids[height].index(txid)
                assert result["merkle"] == oracle.merkle_branch(height, position)
            elif kind == "transaction":
                assert Reader(bytes.fromhex(result)).transaction().txid == params[0]
            else:
                assert kind in ("ping", "2016 headers")
            seen.add(kind)
    assert seen == {*ANSWERS, "header", "merkle branch", "transaction", "ping", "2016 headers"}


@pytest.mark.slow
def test_arrivals_are_notified_to_all_and_memory_is_measured(folder, files, tmp_path, stopping):
    spec, targets = Spec("ours-leveldb"), files.targets()
    settings = dict.fromkeys(POLLING, "100")
    server = stopping.enter_context(running(spec, folder, tmp_path, SHAPE.blocks, **settings))
    crowd = [targets["crowd"][start : start + 5] for start in range(0, SHAPE.crowd, 5)]
    figures = arrivals.announce(server, "busy", crowd, 1, expected=SHAPE.crowd, processes=2)

    assert figures["statuses"] == SHAPE.crowd
    assert 0 < figures["first ms"] <= figures["last ms"]
    assert figures["CPU ms"] > 0
    figures = arrivals.busy_block(server, targets["single"][:100])
    assert 0 < figures["ping p50 ms"] <= figures["ping max ms"]
    assert "ping unanswered" not in figures
    figures = arrivals.mempool(server, targets, targets["single"][100:200])
    assert SHAPE.mempool // 2 < figures["transactions"] <= SHAPE.mempool
    assert figures["CPU us a tx"] > 0
    figures = arrivals.memory(server, targets["crowd"], 20, 10)
    assert figures["MB with all"] >= figures["MB before"] > 0


@pytest.mark.slow
def test_serving_measures_server_beside_server(folder, files, tmp_path, monkeypatch):
    said = []
    options = argparse.Namespace(
        seconds=0.05, only=["ping", "balance"], blocks=1, sessions=5, subscriptions=5
    )
    monkeypatch.setattr("benchmarks.serving.SETTLE_SECS", 0)
    serving = Serving(folder, files.facts, tmp_path / "serving", options, said.append)
    specs = [Spec("ours-leveldb"), Spec("ours-rocksdb")]
    results = serving.run(specs, tmp_path / "sync")
    lines = report.serving_tables(results, [spec.text for spec in specs])

    assert list(results) == ["ping", "balance, small", "balance, huge"]
    assert all(set(of_all) == {spec.text for spec in specs} for of_all in results.values())
    assert not any("FAILED" in line for line in said)
    assert sum(line.startswith(("ping ", "balance, ")) for line in lines) == 3


def test_a_reply_is_known_by_its_id_wherever_that_is_and_however_it_is_filled_up():
    padded = b'{"jsonrpc":"2.0","result":"' + bytes(b"a" * 500) + b'","id":71%b}'

    for spaces in (0, 100, 150, 155, 160, 5_000):
        assert wire.id_of(padded % (b" " * spaces)) == 71
    for length in range(400):
        text = b'{"jsonrpc":"2.0","result":"%b","id":%d}' % (b"a" * length, 10**6 + length)
        assert wire.id_of(text) == 10**6 + length
    assert wire.id_of(b'{"id": 5, "result": [' + b"1," * 500 + b"1]}") == 5
    assert wire.id_of(b'{"jsonrpc":"2.0","method":"x","params":[{"id":5}]}') is None
    assert wire.is_error(b'{"jsonrpc":"2.0","error":{"code":1,"message":"no"},"id":5}')
    assert not wire.is_error(padded % b"")
    assert not wire.is_error(b'{"result":1,"error": null,"id":5}')


@pytest.mark.parametrize("cut", range(0, 12, 3))
def test_lines_are_assembled_however_they_arrive(cut):
    lines = wire.Lines()
    data = b"one\ntwo\n\nthree\n"

    assert [*lines.feed(data[:cut]), *lines.feed(data[cut:])] == [b"one", b"two", b"", b"three"]
    assert lines.feed(b"rest") == []
    assert lines.feed(b"\n") == [b"rest"]


def test_a_table_compares_with_the_peer_that_has_the_same_settings():
    figures = {"wall": 2.0, "tx/s": 300.0}
    results = {
        "ours-leveldb": figures,
        "e-x-leveldb": {"wall": 8.0, "tx/s": 100.0},
        "ours-leveldb:CACHE_MB=20": figures,
        "e-x-leveldb:CACHE_MB=20": {"wall": 4.0, "tx/s": 150.0},
    }
    table = report.sync_table(results, ["wall", "tx/s"])

    assert table[2].split() == ["ours-leveldb", "2.00", "300", "0.250", "3.00"]
    assert table[4].split() == ["ours-leveldb:CACHE_MB=20", "2.00", "300", "0.500", "2.00"]
    assert report.geometric_mean([2, 8]) == pytest.approx(4)


def test_a_hard_chain_has_as_many_utxos_as_asked_for(tmp_path):
    plain = Shape(txs=1_500, blocks=160, mempool=0, ordinary=0, busy=0, crowd=100)
    hard = Shape(**asdict(plain) | {"utxos": 4_000})
    assert plain.name != hard.name
    found = [make_chain(tmp_path / shape.name, shape)["coins"] for shape in (plain, hard)]
    assert found[0] < 2_500
    assert 3_500 < found[1] < 6_000


def test_lookups_of_a_store_are_measured_hot_and_cold(tmp_path, monkeypatch):
    monkeypatch.setattr(lookups, "BATCH", 100)
    monkeypatch.setattr(lookups, "ENGINES", ("leveldb",))
    said = []
    figures = lookups.measure(3_000, 30, tmp_path / "lookups", said.append)
    assert len(figures) == 3
    assert all(0 < value < 1e6 for value in figures.values())
    assert len(report.lookup_table(figures)) >= 4
    assert not (tmp_path / "lookups").exists()


@pytest.mark.slow
def test_every_stage_is_measured(files, tmp_path):
    said = []
    figures = stages.measure(files, tmp_path / "stages", said.append)

    assert len(said) == len(figures) > 10
    assert all(value > 0 for value in figures.values())


@pytest.mark.parametrize("text", ["ours", "theirs-leveldb", "ours-sqlite", "ours-leveldb:CACHE_MB"])
def test_a_server_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="is no"):
        Spec(text)


def test_another_version_of_ours_is_measured_beside_this_one_and_compared_with(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("BENCH_BEFORE", raising=False)
    names = ["ours-leveldb", "e-x-leveldb", "ours-rocksdb:CACHE_MB=20"]
    assert command.with_before(names) == names
    assert "names no checkout" in Spec("before-leveldb").missing()
    (tmp_path / "electrumx_server").touch()
    monkeypatch.setenv("BENCH_BEFORE", str(tmp_path))
    assert "no compiled modules" in Spec("before-leveldb").missing()
    (tmp_path / "electrumx").mkdir()
    (tmp_path / "electrumx" / "_fastindex.abi3.so").touch()
    assert Spec("before-leveldb").folder_name == f"before-leveldb@{tmp_path.name}"
    assert Spec("before-leveldb").missing() is None
    assert Spec("before-leveldb").command()[1] == tmp_path / "electrumx_server"
    both = command.with_before(names)
    assert both == [
        "ours-leveldb",
        "before-leveldb",
        "e-x-leveldb",
        "ours-rocksdb:CACHE_MB=20",
        "before-rocksdb:CACHE_MB=20",
    ]
    assert [report.compared_with(name, both) for name in names] == [
        "before-leveldb",
        "before-leveldb",
        "before-rocksdb:CACHE_MB=20",
    ]
    assert report.compared_with("ours-rocksdb", names) == "e-x-leveldb"
    assert report.compared_with("ours-leveldb:CACHE_MB=20", names) == "e-x-leveldb:CACHE_MB=20"
