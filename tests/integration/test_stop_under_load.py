"""A server that is stopped while it reads as much as it can ends in order, each time."""

import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import socket
import threading
import time

import pytest

from electrumx.lib.tx import TxOutput
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import coinbase, script_of, small_chain
from tests.integration import client as electrum
from tests.integration.forked_server import ForkedServers
from tests.integration.server import ServerProcess, wait_until

#: unspent outputs of each of the scripts that are asked for
UTXOS = 40_000
SCRIPTS = 5
#: after the first answer, so long at most until the server is stopped, in seconds
LATEST_SECS = 0.3
TRIALS = 3
SOAK_TRIALS = int(os.environ.get("SOAK_TRIALS", "200"))


def send_term(server):
    os.kill(server.pid, signal.SIGTERM)


def send_hup(server):
    os.kill(server.pid, signal.SIGHUP)


def send_stop(server):
    assert electrum.call(server.ports["rpc"], "stop") == "stopping"


WAYS = (send_term, send_hup, send_stop)


def rich_chain():
    """A chain in which each of some scripts has very many unspent outputs."""
    maker, tip = small_chain(20)
    for number in range(SCRIPTS):
        tx = coinbase(maker, script_of(0))
        outputs = [TxOutput(1, script_of(number + 1))] * UTXOS
        tip = maker.add_block(tip, [tx._replace(outputs=outputs)])
    return maker.chain(tip)


def shown(number):
    return hashlib.sha256(script_of(number)).digest()[::-1].hex()


class Load(contextlib.ExitStack):
    """Clients that ask for long reads as fast as they are answered, until they are cut off."""

    REQUESTS = (
        ("tcp", "blockchain.scripthash.get_balance", lambda n: [shown(n)]),
        ("tcp", "blockchain.scripthash.listunspent", lambda n: [shown(n)]),
        ("tcp", "blockchain.scripthash.get_history", lambda n: [shown(n)]),
        ("rpc", "query", lambda n: [[script_of(n).hex()], 1]),
    )

    def __init__(self, ports):
        super().__init__()
        self.ports = ports
        self.answered = threading.Event()
        self.answers = 0
        self._stop = threading.Event()

    def __enter__(self):
        for request in self.REQUESTS * 2:
            thread = threading.Thread(target=self._ask, args=request)
            thread.start()
            self.callback(thread.join)
        self.callback(self._stop.set)
        return self

    def _ask(self, protocol, method, params):
        with contextlib.suppress(OSError):
            address = ("127.0.0.1", self.ports[protocol])
            with socket.create_connection(address, timeout=120) as sock:
                reader = sock.makefile("rb")
                for number in itertools.count():
                    # Several at once, so that some always wait.
                    for n in range(4 if number == 0 else 1):
                        message = {
                            "id": n,
                            "method": method,
                            "params": params((number + n) % SCRIPTS + 1),
                        }
                        sock.sendall(json.dumps(message).encode() + b"\n")
                    if not reader.readline() or self._stop.is_set():
                        return
                    self.answers += 1
                    self.answered.set()


class LoadedServer:
    """A server over a rich chain, to be started and ended again and again."""

    def __init__(self, folder, engine, stopping):
        node = stopping.enter_context(NodeThread(rich_chain()))
        # For the settings only: it is started by forking.
        process = ServerProcess(folder, node.env, protocols=("tcp", "rpc"), DB_ENGINE=engine)
        self.ports = process.ports
        self.servers = stopping.enter_context(
            ForkedServers(process.env, folder / "forked-server.log")
        )
        self.pid = None
        self.random = random.Random(engine)

    def start(self):
        """Start it and wait until it serves the whole chain."""
        self.pid = self.servers.start()
        wait_until(self._serves, what="server", timeout=120)

    def _serves(self):
        with contextlib.suppress(OSError):
            found = electrum.call(self.ports["tcp"], "blockchain.headers.subscribe")
            return found["height"] == 20 + SCRIPTS

    def trial(self, way):
        """Load it and end it at a random instant; the seconds that the end took."""
        with Load(self.ports) as load:
            assert load.answered.wait(60)
            time.sleep(self.random.random() * LATEST_SECS)
            start = time.monotonic()
            way(self)
            status = self.servers.wait()
            elapsed = time.monotonic() - start
        assert status == 0, f"{status} after {way.__name__}:\n{self.servers.log()[-5000:]}"
        return elapsed

    def assert_is_intact(self):
        """Start it again, and compare its index with the right one."""
        self.start()
        found = electrum.call(self.ports["rpc"], "verify", True)
        assert found["sound"], found["lines"]
        for number in range(1, SCRIPTS + 1):
            balance = electrum.call(
                self.ports["tcp"], "blockchain.scripthash.get_balance", shown(number)
            )
            assert balance == {"confirmed": UTXOS, "unconfirmed": 0}
        send_term(self)
        assert self.servers.wait() == 0


def run_trials(folder, engine, stopping, trials):
    if engine == "rocksdb":
        pytest.importorskip("rocksdict")
    server = LoadedServer(folder, engine, stopping)
    times = []
    for _number, way in zip(range(trials), itertools.cycle(WAYS), strict=False):
        server.start()
        times.append(server.trial(way))
    server.assert_is_intact()
    log = server.servers.log()
    assert "Traceback" not in log
    assert log.count("INFO:electrumx:ElectrumX server terminated normally\n") == trials + 1
    times.sort()
    print(
        f"{engine}: {trials} ends under load, all with status 0; seconds to end: median "
        f"{times[len(times) // 2]:.2f}, longest {times[-1]:.2f}"
    )


@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
def test_an_end_under_full_read_load_is_in_order(tmp_path, engine, stopping):
    run_trials(tmp_path, engine, stopping, TRIALS)


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
def test_hundreds_of_ends_under_full_read_load_are_in_order(tmp_path, engine, stopping):
    run_trials(tmp_path, engine, stopping, SOAK_TRIALS)
