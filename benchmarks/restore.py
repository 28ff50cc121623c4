"""A second server: by a first sync of its own, or from the first one's snapshot over HTTP.

    python -m benchmarks.restore [--chain 400k] [--engines leveldb rocksdb]

* ``first sync``: from an empty folder until wallets are served;
* ``backup``: the command of the running server, and how long pings of a client take in that time;
* ``restore``: ``electrumx_restore`` from ``python -m http.server`` on loopback, which has no ranges;
* ``killed``: the same, with SIGKILL ten times after random parts of it; all files are compared;
* ``flipped``: the lines about a snapshot in which one random byte is another;
* ``start``: of a server on the restored database, until wallets are served;
* ``verify``: ``electrumx_verify`` of the restored database, without a node.

The network is none, so ``MB a second`` is a bound by hashing and writing, not by a line.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks import sync
from benchmarks.__main__ import FOLDER, say
from benchmarks.chain import make_chain
from benchmarks.measuring import cpu_secs, ended_children_cpu, machine
from benchmarks.servers import SETTINGS, Server, Spec, running
from benchmarks.shape import Shape
from tests.conftest import REPOSITORY
from tests.integration.client import call
from tests.integration.processes import Child
from tests.ports import free_port

BACKUP_SECS = 3600
KILLS = 10


class Pings:
    """Pings a server all the time, in a thread; a context manager."""

    def __init__(self, port):
        self.waits = []
        self._port = port
        self._ending = False
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        message = b'{"jsonrpc":"2.0","id":0,"method":"server.ping","params":[]}\n'
        with socket.create_connection(("127.0.0.1", self._port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not self._ending:
                start = time.perf_counter()
                sock.sendall(message)
                sock.recv(4096)
                self.waits.append(1e3 * (time.perf_counter() - start))
                time.sleep(0.001)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._ending = True
        self._thread.join()

    def figures(self):
        """Median, 99th percentile and longest, in ms."""
        waits = sorted(self.waits)
        return [round(waits[int(len(waits) * part)], 1) for part in (0.5, 0.99)] + [
            round(waits[-1], 1)
        ]


@contextlib.contextmanager
def static_server(folder, logs):
    """A web server of the standard library; its URL."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"]
    child = Child("http", [*command, "--directory", folder], folder=logs)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.kill()


def run(program, *words, **env):
    """Seconds and CPU seconds of one of the commands."""
    before, start = ended_children_cpu(), time.monotonic()
    subprocess.run(
        [sys.executable, REPOSITORY / program, *words],
        env={**os.environ, **env, "PYTHONPATH": str(REPOSITORY)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return round(time.monotonic() - start, 2), round(ended_children_cpu() - before, 2)


def start_restore(url, target):
    """An ``electrumx_restore`` that runs."""
    return subprocess.Popen(
        [sys.executable, REPOSITORY / "electrumx_restore", url, target],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def contents(folder):
    """{name: content} of the files of a database."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def received_bytes(target):
    """The bytes that a restore has received so far."""
    folder, total = target.with_name(f"{target.name}.restoring"), 0
    for path in folder.rglob("*"):
        # A part is renamed when it is complete.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def restore_with_kills(url, snapshot, target, total, rng):
    """The figures of a restore that is killed ``KILLS`` times."""
    start, kills = time.monotonic(), []
    for number in range(KILLS):
        # Within the number's share of the bytes.
        end = total * (number + rng.random()) / (KILLS + 1)
        process = start_restore(url, target)
        while process.poll() is None and received_bytes(target) < end:
            time.sleep(0.001)
        kills.append(round(received_bytes(target) / 1e6, 1))
        process.kill()
        process.communicate()
        if target.exists():
            raise AssertionError("a restore that was killed has made a database")
    process = start_restore(url, target)
    output = process.communicate()[0]
    if process.returncode or contents(target) != contents(snapshot):
        raise AssertionError(f"the restored files are not those of the snapshot: {output}")
    return {
        "killed at MB": kills,
        "wall of all": round(time.monotonic() - start, 2),
        "files compared": len(contents(target)),
    }


def restore_flipped(url, snapshot, target, rng):
    """Where a byte was changed, and the lines of the restore."""
    path = rng.choice(sorted(p for p in contents(snapshot).items() if p[1]))[0]
    data = bytearray((snapshot / path).read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    # The database of the running server has links to the same files.
    (snapshot / path).unlink()
    (snapshot / path).write_bytes(data)
    process = start_restore(url, target)
    lines = process.communicate()[0].splitlines()
    if process.returncode != 1 or target.exists():
        raise AssertionError(f"a flipped byte was not found: {lines}")
    return {"file": path, "byte": at, "line": lines[-1]}


def measure(engine, chain, facts, folder):
    """The figures of one engine."""
    shutil.rmtree(folder, ignore_errors=True)
    spec, height = Spec(f"ours-{engine}"), facts["shape"]["blocks"]
    figures = sync.sync_once(spec, chain, facts, folder / "first")
    found = {
        "first sync": {
            "wall": round(figures["wall"], 2),
            "CPU": round(figures["CPU/Mtx"] * facts["txs"] / 1e6, 2),
        }
    }
    snapshot, restored = folder / "snapshot", folder / "second" / "db"
    restored.parent.mkdir(parents=True)
    with running(spec, chain, folder / "first", height) as server:
        cpu, start = cpu_secs(server.pid), time.monotonic()
        with Pings(server.port) as pings:
            line = call(server.rpc_port, "backup", str(snapshot.absolute()), timeout=BACKUP_SECS)
        found["backup"] = {
            "wall": round(time.monotonic() - start, 2),
            "CPU": round(cpu_secs(server.pid) - cpu, 2),
            "ping ms: median, p99, longest": pings.figures(),
            "answer": line,
        }
        size = sum(path.stat().st_size for path in snapshot.rglob("*") if path.is_file())
        with static_server(snapshot, folder) as url:
            wall, cpu = run("electrumx_restore", url, str(restored))
            found["restore"] = {"wall": wall, "CPU": cpu, "MB": round(size / 1e6, 1)}
            rng = random.Random(1)
            killed, flipped = (folder / name / "db" for name in ("killed", "flipped"))
            killed.parent.mkdir()
            flipped.parent.mkdir()
            found["killed"] = restore_with_kills(url, snapshot, killed, size, rng)
            found["flipped"] = restore_flipped(url, snapshot, flipped, rng)
        found["restore"]["MB a second"] = round(size / 1e6 / wall)
        where = {**SETTINGS, **spec.settings, "DB_DIRECTORY": str(restored.absolute())}
        wall, cpu = run("electrumx_verify", **where, DAEMON_URL="")
        found["verify"] = {"wall": wall, "CPU": cpu}
        start = time.monotonic()
        with Server(spec, server.node, folder / "second") as second:
            second.wait_height(height, timeout=600)
            found["start"] = {"wall": round(time.monotonic() - start, 2)}
    return found


def main():
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks.restore", description=__doc__.split("\n")[0])
    parser.add_argument("--chain", default="400k")
    parser.add_argument("--engines", nargs="+", default=["leveldb", "rocksdb"])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    shape = Shape.sized(args.chain, mempool=0, seed=1)
    chain = args.folder / "chains" / shape.name
    facts = make_chain(chain, shape)
    say(f"{facts['txs']:,d} transactions; {json.dumps(machine())}")
    for engine in args.engines:
        figures = measure(engine, chain, facts, args.folder / "restore" / engine)
        for step, values in figures.items():
            say(f"{engine} {step}: {json.dumps(values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
