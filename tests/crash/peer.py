"""The peer servers, e-x in environments of their own: where they are, and how to run one."""

import asyncio
import json
import os
from pathlib import Path

from tests.conftest import REPOSITORY, require

DRIVER = Path(__file__).with_name("peer_driver.py")
PEERS = REPOSITORY / ".run" / "peers"
#: version -> engines that it is tried with
VERSIONS = {"1.20.0": ("leveldb", "rocksdb"), "1.16.0": ("leveldb",)}
NEWEST = "1.20.0"
CASES = [(version, engine) for version, engines in VERSIONS.items() for engine in engines]
REORG_LIMIT = 20
TIMEOUT = 150


class PeerFailed(AssertionError):
    """The peer ended otherwise than it was to."""


class Peer:
    """One version of e-x with one engine."""

    def __init__(self, version, engine):
        self.engine = engine
        self.folder = PEERS / f"e-x-{version}"
        require(
            (self.folder / ".complete").exists(),
            f"e-x {version} is not in .run/peers (tests/crash/peer_env.sh)",
        )
        if engine == "rocksdb":
            require(
                (self.folder / ".rocksdb").exists(),
                "rocksdb-ng is not in .run/peers (tests/crash/peer_env.sh, needs librocksdb-dev)",
            )

    def _environment(self, db_dir, node_url):
        return {
            "PATH": os.environ["PATH"],
            "DB_DIRECTORY": str(db_dir),
            "DB_ENGINE": self.engine,
            "DAEMON_URL": node_url,
            "COIN": "Bitcoin",
            "NET": "regtest",
            "REORG_LIMIT": str(REORG_LIMIT),
            "DAEMON_POLL_INTERVAL_BLOCKS": "20",
            "PEER_DISCOVERY": "off",
            "ALLOW_ROOT": "1",
        }

    async def run(self, db_dir, node, tip, hashXs=(), *, kill_in_backup=False):
        """Index up to a tip and shut down; the peer's answers, None if it was to be killed."""
        spec = {
            "tip": tip[::-1].hex(),
            "hashXs": [hashX.hex() for hashX in hashXs],
            "kill_in_backup": kill_in_backup,
        }
        process = await asyncio.create_subprocess_exec(
            str(self.folder / "bin" / "python"),
            str(DRIVER),
            json.dumps(spec),
            env=self._environment(db_dir, node.url),
            cwd=db_dir,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), TIMEOUT)
        except asyncio.TimeoutError:
            process.kill()
            out, err = await process.communicate()
            raise PeerFailed(f"the peer did not get there:\n{err.decode()[-4000:]}") from None
        if process.returncode != (-9 if kill_in_backup else 0):
            raise PeerFailed(f"status {process.returncode}:\n{err.decode()[-4000:]}")
        return None if kill_in_backup else json.loads(out)


def assert_answers(answers, model, hashXs):
    """Compare the peer's answers with the model of a chain."""
    assert answers["height"] == len(model.headers) - 1
    for hashX in hashXs:
        history = [[tx_hash.hex(), height] for tx_hash, height in model.history.get(hashX, [])]
        assert answers["history"][hashX.hex()] == history
        utxos = sorted(
            [tx_num, idx, tx_hash.hex(), height, value]
            for tx_num, idx, tx_hash, height, value in model.utxos(hashX)
        )
        assert answers["utxos"][hashX.hex()] == utxos
