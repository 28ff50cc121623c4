"""Audits and backups of a server over a real node, as an operator types them."""

import os
import re
import subprocess
import sys
import time

import pytest

from electrumx.lib.coins import LitecoinRegtest
from electrumx.server.storage.base import db_class
from electrumx.server.storage.schema import OUTPOINT_PREFIX, UTXO_PREFIX
from tests.conftest import REPOSITORY
from tests.integration import client as electrum
from tests.integration.chains import COIN, ChainBuilder, make_tx
from tests.integration.oracle import Oracle, scripthash_of
from tests.integration.server import ServerProcess

pytestmark = [pytest.mark.daemon]

# Those that begin with 00 6a are in the node's set alone, that of 10,001 bytes in ours alone, that
# of 10,000 in both, and scripts that begin with 6a in neither.
ODD_SCRIPTS = (
    b"\x00\x6a",
    b"\x00\x6a\x04none",
    b"\x51" * 10_001,
    b"\x51" * 10_000,
    b"\x00\x6a" + b"\x51" * 9_998,
    b"\x6a\x01\x01",
)


@pytest.fixture(params=["leveldb", "rocksdb"])
def engine(request):
    return request.param


def type_in(program, *words, env, status=0):
    """Run one of the programs; its output."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **env}
    command = [sys.executable, str(REPOSITORY / program), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == status, done
    return done.stdout


def rpc(server, *words, status=0):
    port = str(server.ports["rpc"])
    return type_in("electrumx_rpc", *words, env={"RPC_PORT": port}, status=status)


def verify_stopped(server, *words, status=0, **settings):
    env = {k: v for k, v in {**server.env, **settings}.items() if v is not None}
    return type_in("electrumx_verify", *words, env=env, status=status)


def build_odd(node):
    """A chain with outputs that only one side counts."""
    builder = ChainBuilder(node, scripts=40).build(blocks=130, txs=150)
    [coin] = builder.mine_free(1)
    node.mine(100)
    value = 10_000
    outputs = [(value + n, script) for n, script in enumerate(ODD_SCRIPTS)]
    outputs.append((coin.value - 7 * value - 1_000_000, b"\x51"))
    _txid, raw = make_tx([coin], outputs)
    # No node relays such scripts.
    node.rpc("generateblock", node.rpc("getnewaddress"), [raw])
    return builder


def test_every_output_of_the_node_is_accounted_for(litecoind, server_for):
    builder = build_odd(litecoind)
    server = server_for(litecoind, protocols=("tcp", "rpc"))
    server.wait_height(litecoind.height())
    stats = litecoind.rpc("gettxoutsetinfo")

    # There are so few outputs that a difference of two is not taken on trust.
    shallow = rpc(server, "verify", status=1)
    amount = 10_000 + 10_001 + 10_004 - 10_002
    assert f"unaccounted for: +2 outputs and {amount:+,d} satoshis" in shallow
    assert "verdict: undecided" in shallow
    lines = rpc(server, "verify", "--deep").splitlines()
    [line] = [line for line in lines if line.startswith("node: ")]
    assert f"the node has {stats['txouts']:,d} outputs, we {stats['txouts'] - 2:,d} UTXOs" in line
    assert "3 are the node's alone (00 6a), 1 ours (over 10,000 bytes)" in line
    assert line.endswith(": all accounted for")
    assert re.fullmatch(r"verdict: sound \(deep audit, [\d.]+s\)", lines[-1])
    total = round(stats["total_amount"] * COIN) - amount
    assert f" UTXOs of {LitecoinRegtest.decimal_value(total):,f} " in lines[0]
    server.wait_log("verdict: sound")

    # The same of the stopped server, with the node and without.
    assert server.terminate() == 0
    assert "all accounted for" in verify_stopped(server, "--deep")
    assert "node:" not in verify_stopped(server, "--deep", DAEMON_URL=None)
    # Coins that were stolen from both stores show only in the node's count.
    folder = server.folder / "db" / "utxo"
    store = db_class("leveldb")(str(folder), True)
    key, hashX = next(store.iterator(prefix=OUTPOINT_PREFIX))
    with store.write_batch() as batch:
        batch.delete(key)
        batch.delete(UTXO_PREFIX + hashX + key[-9:])
    store.close()
    assert "verdict: sound" in verify_stopped(server, "--deep", DAEMON_URL=None)
    out = verify_stopped(server, "--deep", status=1)
    assert "unaccounted for: +1 outputs" in out
    assert "verdict: DAMAGED" in out
    # A node that has gone on is not compared with.
    builder.send_random(5)
    litecoind.mine(1)
    assert "not compared, for it is at height" in verify_stopped(server)


def test_a_backup_made_while_blocks_arrive_serves_elsewhere(
    litecoind, server_for, engine, tmp_path, stopping
):
    builder = ChainBuilder(litecoind, scripts=40).build(blocks=130, txs=150)
    server = server_for(litecoind, protocols=("tcp", "rpc"), DB_ENGINE=engine)
    server.wait_height(litecoind.height())
    target = tmp_path / "elsewhere" / "db"
    target.parent.mkdir()

    command = [sys.executable, str(REPOSITORY / "electrumx_rpc"), "backup", "db"]
    env = {"PATH": os.environ["PATH"], "RPC_PORT": str(server.ports["rpc"])}
    with subprocess.Popen(
        # A path that is relative to where the operator is.
        command,
        env=env,
        cwd=target.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        while child.poll() is None:
            builder.send_random(3)
            litecoind.mine(1)
            time.sleep(0.02)
        answer = child.stdout.read()
    assert child.returncode == 0
    height, pause = re.search(
        rf"height ([\d,]+) is in {target}: .* held up for ([\d.]+)s", answer
    ).groups()
    assert 130 <= int(height.replace(",", "")) <= litecoind.height()
    assert float(pause) < 5
    assert sorted(os.listdir(target)) == ["COIN", "hist", "manifest.json", "meta", "utxo"]
    server.wait_log("backup: height")

    refusal = rpc(server, "backup", str(target), status=1)
    assert re.search(rf"error making request: {target} exists: give a path", refusal)

    copy = ServerProcess(target.parent, litecoind.env, protocols=("tcp", "rpc"), DB_ENGINE=engine)
    offline = verify_stopped(copy, "--deep", DAEMON_URL=None)
    assert f"verify: height {height}, " in offline
    stopping.enter_context(copy)
    litecoind.mine(1)
    top = litecoind.height()
    oracle = Oracle(litecoind)
    scripthashes = [scripthash_of(script) for script in builder.pool]
    for one in (server, copy):
        one.wait_height(top)
        for scripthash in scripthashes:
            port = one.ports["tcp"]
            history = electrum.call(port, "blockchain.scripthash.get_history", scripthash)
            assert history == oracle.get_history(scripthash)
            unspent = electrum.call(port, "blockchain.scripthash.listunspent", scripthash)
            assert unspent == oracle.listunspent(scripthash)
        assert "all accounted for" in rpc(one, "verify", "--deep")
