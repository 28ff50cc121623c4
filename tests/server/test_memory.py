"""Memory stays within CACHE_MB and the stated overhead, during a whole sync.

Each measurement is a process of its own, so that nothing of the others counts; it reads the chain
from a file, as a server reads it from a node.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from electrumx.lib.hash import double_sha256
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.lib.util import pack_le_uint32
from electrumx.server.block_processor import compiled_indexer as fast_index
from tests.conftest import REPOSITORY
from tests.fakes.chain import GENESIS, GENESIS_HEADER, MINUS_1, NULL, make_block

BLOCKS = 250
TXS_PER_BLOCK = 160

#: the memory of a process that waits for its first block is not counted
MEASURE = """
import asyncio, sys
from pathlib import Path
from electrumx.lib.hash import double_sha256, hash_to_hex_str
from tests.fakes.world import ScriptedDaemon, World, make_env

def status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024 / 1e6

class FileDaemon(ScriptedDaemon):
    def __init__(self, folder):
        lengths = [int(n) for n in (folder / "lengths").read_text().split()]
        self.file = open(folder / "blocks", "rb")
        self.at = {}
        hashes = []
        start = 0
        for length in lengths:
            self.file.seek(start)
            hashes.append(hash_to_hex_str(double_sha256(self.file.read(80))))
            self.at[hashes[-1]] = (start, length)
            start += length
        super().__init__([])
        self.raw = range(len(hashes))
        self.hashes = hashes

    async def raw_blocks(self, hex_hashes):
        result = []
        for hex_hash in hex_hashes:
            start, length = self.at[hex_hash]
            self.file.seek(start)
            result.append(self.file.read(length))
        return result

async def main(folder, db_dir, engine, indexer, cache_MB):
    env = make_env(db_dir, engine=engine, cache_MB=cache_MB)
    env.indexer = indexer
    daemon = FileDaemon(folder)
    world = World(env, daemon)
    before = status("VmRSS")
    flushes = 0
    async with world:
        await world.until(lambda: world.caught_up.is_set(), timeout=250)
        flushes = world.db.history.flush_count
        assert world.db.db_height == len(daemon.hashes) - 1
    daemon.file.close()
    print(before, status("VmHWM"), flushes)

folder, db_dir, engine, indexer, cache_MB = sys.argv[1:]
asyncio.run(main(Path(folder), db_dir, engine, indexer, int(cache_MB)))
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The folder of a chain whose UTXOs and scripts are nearly all different."""
    folder = tmp_path_factory.mktemp("chain")
    choose = random.Random(61)
    prev_hash = double_sha256(GENESIS_HEADER)
    lengths = [len(GENESIS)]
    coins = []
    with (folder / "blocks").open("wb") as f:
        f.write(GENESIS)
        for height in range(1, BLOCKS + 1):
            coinbase_in = TxInput(NULL, MINUS_1, pack_le_uint32(height), MINUS_1)
            txs = [Tx(1, [coinbase_in], [TxOutput(9, b"\x51" + choose.randbytes(21))], 0)]
            for _ in range(min(len(coins), TXS_PER_BLOCK)):
                spent = coins.pop(choose.randrange(len(coins)))
                outputs = [TxOutput(4, b"\x51" + choose.randbytes(21)) for _ in range(2)]
                txs.append(Tx(1, [TxInput(*spent, choose.randbytes(100), 0)], outputs, 0))
            for tx in txs:
                tx_hash = double_sha256(tx.serialize())
                coins += [(tx_hash, n) for n in range(len(tx.outputs))]
            raw = make_block(prev_hash, txs, height)
            prev_hash = double_sha256(raw[:80])
            lengths.append(len(raw))
            f.write(raw)
    (folder / "lengths").write_text(" ".join(map(str, lengths)))
    return folder


#: megabytes beside the cache: prefetched and parsed blocks, the engine, and Python's own
CONSTANT_MB = {"leveldb": 45, "rocksdb": 60}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("cache_MB", [4])
@pytest.mark.parametrize("indexer", ["python", "compiled"])
@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
def test_a_sync_stays_within_its_cache(chain, tmp_path, engine, indexer, cache_MB):
    if engine == "rocksdb":
        pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")
    if indexer == "compiled" and fast_index.compiled is None:
        pytest.skip("the compiled form is not built")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, chain, tmp_path, engine, indexer, str(cache_MB)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    before, peak, flushes = map(float, done.stdout.split())
    print(f"{engine} {indexer} {cache_MB}: {peak - before:.1f} MB, {flushes:.0f} flushes")
    assert peak - before <= 1.25 * cache_MB + CONSTANT_MB[engine]
    # The chain is large enough to matter.
    assert flushes > 3
