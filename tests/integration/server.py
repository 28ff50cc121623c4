"""Our server as its own process, on free ports, over a node of nodes.py."""

import atexit
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import REPOSITORY, require
from tests.integration import client
from tests.integration.processes import Child
from tests.ports import free_ports

PROTOCOLS = ("tcp", "ssl", "ws", "wss", "rpc")
START_SECS = 150


@functools.cache
def certificate():
    """Paths of a self-signed certificate for localhost and of its key."""
    require(shutil.which("openssl"), "openssl is not installed")
    folder = Path(tempfile.mkdtemp(prefix="ex-tls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


class ServerProcess:
    """`electrumx_server` with a database in folder/db; the ports stay over restarts.

    Further settings are given by their environment names: CACHE_MB=20 and so on; None unsets one.
    """

    def __init__(self, folder, node_env, *, protocols=PROTOCOLS, **settings):
        self.folder = folder
        self.ports = dict(zip(protocols, free_ports(len(protocols)), strict=True))
        self.child = None
        (folder / "db").mkdir(parents=True, exist_ok=True)
        self.env = self._environment(node_env, settings)
        self._log_start = 0

    def _environment(self, node_env, settings):
        # Nothing of the caller's own configuration leaks in.
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")}
        env.update(
            DB_DIRECTORY=str(self.folder / "db"),
            SERVICES=",".join(f"{p}://127.0.0.1:{port}" for p, port in self.ports.items()),
            ALLOW_ROOT="1",
            PEER_DISCOVERY="off",
            PEER_ANNOUNCE="",
            COST_SOFT_LIMIT="0",
            COST_HARD_LIMIT="0",
            DAEMON_POLL_INTERVAL_BLOCKS="200",
            DAEMON_POLL_INTERVAL_MEMPOOL="200",
            PYTHONUNBUFFERED="1",
            PYTHONPATH=str(REPOSITORY),
        )
        if set(self.ports) & {"ssl", "wss"}:
            cert, key = certificate()
            env.update(SSL_CERTFILE=str(cert), SSL_KEYFILE=str(key))
        env.update(node_env)
        env.update({k: str(v) for k, v in settings.items() if v is not None})
        for name in [name for name, value in settings.items() if value is None]:
            env.pop(name, None)
        return env

    # --- life

    def launch(self):
        """Start the process and do not wait; returns self."""
        log = self.folder / "server.log"
        self._log_start = len(log.read_text(errors="replace")) if log.exists() else 0
        command = [sys.executable, REPOSITORY / "electrumx_server"]
        self.child = Child("server", command, folder=self.folder, env=self.env)
        return self

    def start(self, *, timeout=START_SECS):
        """Start and wait until every port accepts connections; returns self."""
        self.launch()
        try:
            return self.wait_serving(timeout=timeout)
        except BaseException:
            self.kill()
            raise

    def wait_serving(self, *, timeout=START_SECS):
        """Wait until every port accepts connections; returns self."""
        for protocol, port in self.ports.items():
            self.child.wait_for(
                lambda port=port: _accepts(port), what=f"{protocol} port", timeout=timeout
            )
        return self

    def terminate(self, timeout=120):
        """Ask it to stop; its exit status."""
        child, self.child = self.child, None
        return child.terminate(timeout) if child else None

    def kill(self):
        """End it at once, as a power cut would; its exit status."""
        child, self.child = self.child, None
        return child.kill() if child else None

    def wait_exit(self, timeout=120):
        """Wait until it ends by itself; its exit status."""
        status = self.child.popen.wait(timeout)
        self.child.kill()
        return status

    def restart(self):
        """Stop it and start it again on the same database."""
        self.terminate()
        return self.start()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_exc):
        if self.child:
            self.terminate()

    # --- watching

    def log(self):
        """Its output since its last start."""
        log = self.folder / "server.log"
        return log.read_text(errors="replace")[self._log_start :]

    def wait_log(self, pattern, *, timeout=120):
        """Wait until its log since the last start matches; the match."""
        return self.child.wait_log(pattern, timeout=timeout, start=self._log_start)

    def connect(self, protocol="tcp"):
        """A context manager: an ElectrumClient on one of its ports."""
        return client.ElectrumClient.connect(protocol, self.ports[protocol])

    def rpc(self, method, *params):
        """The result of an administration command."""
        return client.call(self.ports["rpc"], method, *params)

    def wait_height(self, height, *, timeout=120):
        """Wait until it serves a height."""

        def served():
            try:
                info = client.call(self.ports["tcp"], "blockchain.headers.subscribe")
            except OSError:
                return False
            return info["height"] == height

        self.child.wait_for(served, what=f"height {height}", timeout=timeout)


def _accepts(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def wait_until(condition, *, what, timeout=120):
    """Poll until condition() is true; its value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        time.sleep(0.05)
    return value
