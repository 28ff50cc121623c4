"""The servers that are measured, each in a process of its own over a node of its own.

A server is named by its program and by the engine of its database, and may be given settings:
``ours-leveldb``, ``ours-rocksdb``, ``ours-python`` (LevelDB, indexing in Python), ``e-x-leveldb``,
``e-x-rocksdb``, ``ours-leveldb:CACHE_MB=20,REORG_LIMIT=10``.

Ours is started by this interpreter.  The peer is e-x 2.0.0 in an environment of its own,
``.run/peers/e-x-2.0.0`` (tests/crash/peer_env.sh makes it), or in the one that the variable
BENCH_PEER names; it is no part of the project, which never imports it.

``before-leveldb``, ``before-rocksdb`` and ``before-python`` are another version of ours: the checkout
that the variable BENCH_BEFORE names, whose compiled modules have been built there
(``setup.py build_ext --inplace``).  So both versions meet the same client and node in one run.
"""

import contextlib
import json
import os
import socket
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks.measuring import ended_children_cpu
from tests.conftest import REPOSITORY
from tests.integration.processes import Child, ChildDied
from tests.ports import free_ports

PEER = REPOSITORY / ".run" / "peers" / "e-x-2.0.0"
PEER_NAME = "e-x"
BEFORE_NAME = "before"
#: name of a server -> its settings
ENGINES = {
    "leveldb": {"DB_ENGINE": "leveldb"},
    "rocksdb": {"DB_ENGINE": "rocksdb"},
    "python": {"DB_ENGINE": "leveldb", "INDEXER": "python"},
}
SETTINGS = {
    "COIN": "Bitcoin",
    "NET": "regtest",
    # As on the main network: regtest's own would keep undo information of the whole chain
    "REORG_LIMIT": "200",
    "ALLOW_ROOT": "1",
    "PEER_DISCOVERY": "off",
    "PEER_ANNOUNCE": "",
    "COST_SOFT_LIMIT": "0",
    "COST_HARD_LIMIT": "0",
    "MAX_SEND": "60000000",
    "MAX_SESSIONS": "17000",
    "REQUEST_TIMEOUT": "120",
    "SESSION_TIMEOUT": "3600",
    "LOG_SESSIONS": "0",
    "BLACKLIST_URL": "",
}
NODE_SECS = 60
STOP_SECS = 120


class NodeProcess:
    """The fake node; a context manager."""

    def __init__(self, chain, folder, *, mempool=0):
        (folder / "node.log").unlink(missing_ok=True)  # it would name an earlier port
        command = [sys.executable, "-m", "benchmarks.node", chain.absolute()]
        command += ["--mempool", mempool]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self.child = Child("node", command, folder=folder, env=environment)
        match = self.child.wait_log(r"port (\d+)\n", timeout=NODE_SECS)
        self.port = int(match[1])

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.child.terminate()

    def call(self, method, *params):
        """The result of one of its methods."""
        body = json.dumps({"id": 0, "method": method, "params": params}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", data=body)
        with urllib.request.urlopen(request, timeout=60) as response:
            reply = json.load(response)
        if reply["error"]:
            raise RuntimeError(f"the node refuses {method}: {reply['error']}")
        return reply["result"]


class Spec:
    """A server as it is called on the command line."""

    def __init__(self, text):
        self.text = text
        name, _, settings = text.partition(":")
        self.program, _, engine = name.rpartition("-")
        if self.program not in ("ours", PEER_NAME, BEFORE_NAME) or engine not in ENGINES:
            raise ValueError(f"{text!r} is no server: ours-leveldb, e-x-rocksdb:CACHE_MB=20")
        self.settings = dict(ENGINES[engine])
        for word in filter(None, settings.split(",")):
            key, equals, value = word.partition("=")
            if not equals:
                raise ValueError(f"{word!r} is no setting: CACHE_MB=20")
            self.settings[key] = value

    def __str__(self):
        return self.text

    @property
    def is_peer(self):
        return self.program == PEER_NAME

    @property
    def folder_name(self):
        """Its own for each server, and checkout."""
        name = self.text.replace(":", "_").replace("/", "_")
        checkout = before_folder() if self.program == BEFORE_NAME else None
        return f"{name}@{checkout.name}" if checkout else name

    def command(self):
        """What to run."""
        if self.is_peer:
            folder = peer_folder()
            return [folder / "bin" / "python", folder / "bin" / "electrumx_server"]
        checkout = before_folder() if self.program == BEFORE_NAME else REPOSITORY
        return [sys.executable, checkout / "electrumx_server"]

    def missing(self):
        """Why it cannot run on this machine, or None."""
        if self.program == BEFORE_NAME:
            checkout = before_folder()
            if checkout is None or not (checkout / "electrumx_server").exists():
                return f"BENCH_BEFORE names no checkout of the project: {checkout}"
            if not any((checkout / "electrumx").rglob("_fastindex*.so")):
                return f"no compiled modules are in {checkout} (setup.py build_ext --inplace)"
        folder = peer_folder()
        if not self.is_peer:
            return None
        if not (folder / "bin" / "electrumx_server").exists():
            return f"e-x 2.0.0 is not in {folder} (tests/crash/peer_env.sh)"
        if self.settings["DB_ENGINE"] == "rocksdb" and not list(
            folder.glob("lib/python3*/site-packages/rocksdb*")
        ):
            return f"rocksdb-ng is not in {folder} (needs librocksdb-dev)"
        return None


def peer_folder():
    """The peer's environment."""
    return Path(os.environ.get("BENCH_PEER") or PEER)


def before_folder():
    """The checkout of another version of ours; None without one."""
    folder = os.environ.get("BENCH_BEFORE")
    return Path(folder).resolve() if folder else None


class Server:
    """A server on a database folder, over a node; a context manager, which starts it."""

    def __init__(self, spec, node, folder, **settings):
        self.spec, self.node, self.folder = spec, node, folder
        self.port, self.rpc_port = free_ports(2)
        self.database = folder / "db"
        self.child = None
        self._settings = settings

    def _environment(self):
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")}
        places = {
            "DB_DIRECTORY": str(self.database),
            "DAEMON_URL": f"http://user:secret@127.0.0.1:{self.node.port}/",
            "SERVICES": f"tcp://127.0.0.1:{self.port},rpc://127.0.0.1:{self.rpc_port}",
        }
        return kept | SETTINGS | self.spec.settings | places | self._settings

    def __enter__(self):
        self.database.mkdir(parents=True, exist_ok=True)
        self.child = Child(
            "server", self.spec.command(), folder=self.folder, env=self._environment()
        )
        return self

    def __exit__(self, *_exc):
        self.stop()

    @property
    def pid(self):
        return self.child.pid

    def stop(self):
        """Let it shut down; complains if it does not do so cleanly.  Its CPU seconds in total."""
        child, self.child = self.child, None
        if child is None:
            return 0.0
        # Of all children that have ended: this is the only one that does during this time.
        before = ended_children_cpu()
        status = child.terminate(STOP_SECS)
        if status:
            raise ChildDied(f"{self.spec} ended with {status}:\n{child.log_tail()}")
        return ended_children_cpu() - before

    def wait_height(self, height, *, timeout, pause=0.05):
        """Wait until it serves a height."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if tip_height(self.port) == height:
                return
            if not self.child.running():
                raise ChildDied(f"{self.spec} ended:\n{self.child.log_tail()}")
            time.sleep(pause)
        raise TimeoutError(f"{self.spec} is not at height {height} after {timeout} s")


@contextlib.contextmanager
def running(spec, chain, folder, height, *, mempool=0, timeout=900, **settings):
    """A server that has caught up with a node of its own; `server.node` is that."""
    with (
        NodeProcess(chain, folder, mempool=mempool) as node,
        Server(spec, node, folder, **settings) as server,
    ):
        server.wait_height(height, timeout=timeout)
        yield server


GREETING = b"".join(
    json.dumps({"jsonrpc": "2.0", "id": n, "method": method, "params": params}).encode() + b"\n"
    for n, (method, params) in enumerate(
        [
            ("server.version", ["bench", ["1.4", "1.6"]]),
            ("blockchain.headers.subscribe", []),
        ]
    )
)


def tip_height(port):
    """The height that a server sends its clients; None while it does not listen.

    Servers listen when they have caught up with their node and written everything to disk.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(GREETING)
            with sock.makefile("rb") as lines:
                for line in lines:
                    reply = json.loads(line)
                    if reply.get("id") == 1:
                        return reply["result"]["height"]
    except OSError:
        pass  # not yet
    return None
