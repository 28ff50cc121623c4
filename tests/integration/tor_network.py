"""A private Tor network on loopback: directory authorities, relays, an onion service and a client.

It has directories and keys of its own and never reaches the public network.  Needs Debian's tor,
installed or fetched (``parts``).
"""

import asyncio
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from tests.conftest import require
from tests.integration import parts
from tests.integration.client import MAX_LINE
from tests.integration.processes import Child
from tests.ports import free_ports

AUTHORITIES = 3
# Authorities relay too.  A circuit to an onion service has six hops.
RELAYS = 4
# Authorities agree on the list of relays in rounds.  A relay that misses one takes part in the next.
ROUND_SECS = 20
START_SECS = 240
COMMAND_SECS = 60
ONION_PORT = 50001

EVERY_NODE = """\
TestingTorNetwork 1
DataDirectory {folder}
Log notice stdout
SocksPort {socks_port}
ControlPort {control_port}
CookieAuthentication 0
# It needs more relays than there are.
VanguardsLiteEnabled 0
"""
RELAY = """\
Nickname {name}
Address 127.0.0.1
ORPort 127.0.0.1:{relay_port}
DirPort 127.0.0.1:{directory_port}
AssumeReachable 1
ExitPolicy reject *:*
"""
AUTHORITY = f"""\
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
ContactInfo nobody@example.org
TestingV3AuthInitialVotingInterval {ROUND_SECS}
TestingV3AuthInitialVoteDelay 4
TestingV3AuthInitialDistDelay 4
V3AuthVotingInterval {ROUND_SECS}
V3AuthVoteDelay 4
V3AuthDistDelay 4
V3AuthNIntervalsValid 4
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
TestingMinExitFlagThreshold 0
"""
SERVICE = f"""\
HiddenServiceDir {{folder}}/onion
HiddenServicePort {ONION_PORT} 127.0.0.1:{{target_port}}
HiddenServiceExportCircuitID haproxy
"""


class SocksError(ConnectionError):
    """Tor's client has refused a connection or does not get one."""


def _program(name):
    """The path of one of tor's programs, and the environment that it needs."""
    found = parts.proxies(f"usr/bin/{name}")
    require(found, f"Debian's tor is neither installed nor fetched (python -m {parts.__name__})")
    path, variables = found
    return path, {**os.environ, **variables}


class _Node:
    """A tor process with a folder of its own."""

    def __init__(self, folder, name, **values):
        self.folder = folder / name
        self.folder.mkdir(mode=0o700, parents=True)
        self.relay_port, self.directory_port = free_ports(2)
        self._values = {"name": name, "folder": self.folder, "socks_port": 0, "control_port": 0}
        self._values |= {"relay_port": self.relay_port, "directory_port": self.directory_port}
        self._values |= values
        self.name = name
        self.child = None

    def command(self, *texts):
        """The words that start it with these settings, and its environment."""
        torrc = self.folder / "torrc"
        torrc.write_text("".join(text.format(**self._values) for text in texts))
        program, environment = _program("tor")
        return [program, "-f", torrc, "--defaults-torrc", "/dev/null"], environment

    def start(self, *texts):
        words, environment = self.command(EVERY_NODE, *texts)
        self.child = Child(self.name, words, folder=self.folder, env=environment)

    def stop(self):
        if self.child:
            self.child.kill()

    def wait_bootstrapped(self):
        self.child.wait_log("Bootstrapped 100%", timeout=START_SECS)


class _Authority(_Node):
    """One that takes part in the list of relays, and is a relay itself."""

    def make_keys(self):
        """Make its keys; return its line in the settings of every node."""
        keys = self.folder / "keys"
        keys.mkdir(mode=0o700)
        program, environment = _program("tor-gencert")
        words = [program, "--create-identity-key", "-m", "12", "--passphrase-fd", "0"]
        _run([*words, "-a", f"127.0.0.1:{self.directory_port}"], keys, environment, "passphrase\n")
        certificate = (keys / "authority_certificate").read_text()
        identity = re.search(r"^fingerprint (\w+)$", certificate, re.MULTILINE)[1]
        # A test network needs an authority, also for this.
        some = f"DirAuthority some 127.0.0.1:{self.directory_port} {'0' * 40}\n"
        words, environment = self.command(EVERY_NODE, RELAY, some)
        output = _run([*words, "--list-fingerprint"], keys, environment)
        fingerprint = output.splitlines()[-1].removeprefix(self.name).replace(" ", "")
        return (
            f"DirAuthority {self.name} orport={self.relay_port} v3ident={identity} "
            f"127.0.0.1:{self.directory_port} {fingerprint}\n"
        )

    def relay_count(self):
        """How many relays, fit for onion services, are in the list that was agreed upon last."""
        place = f"http://127.0.0.1:{self.directory_port}"
        try:
            url = f"{place}/tor/status-vote/current/consensus-microdesc"
            with urllib.request.urlopen(url, timeout=COMMAND_SECS) as response:
                consensus = response.read().decode()
        except urllib.error.HTTPError as e:
            # It has a body, which Python 3.14 wants closed.
            e.close()
            return 0
        except OSError:
            return 0
        return len(re.findall(r"^s .*\bGuard\b.*\bHSDir\b.*\bRunning\b", consensus, re.MULTILINE))


def _run(words, folder, environment, text=""):
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class TorNetwork:
    """The network, whose onion service leads to a port of ours; a context manager.

    The service's tor writes the header of the PROXY protocol that names the circuit.
    """

    def __init__(self, folder, target_port):
        self._socks_port, self._control_port = free_ports(2)
        self._authorities = [_Authority(folder, f"authority{n}") for n in range(AUTHORITIES)]
        self._relays = [_Node(folder, f"relay{n}") for n in range(RELAYS)]
        self._service = _Node(
            folder, "service", target_port=target_port, control_port=self._control_port
        )
        self._client = _Node(folder, "client", socks_port=self._socks_port)
        self._onion = None

    def __enter__(self):
        with ThreadPoolExecutor() as pool:
            directories = "".join(pool.map(_Authority.make_keys, self._authorities))
        try:
            self._start(directories)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, directories):
        for authority in self._authorities:
            authority.start(RELAY, AUTHORITY, directories)
        for relay in self._relays:
            relay.start(RELAY, directories)
        # Who takes a list without all relays has it for a minute, and finds no path.
        for authority in self._authorities:
            authority.child.wait_for(
                lambda authority=authority: authority.relay_count() == AUTHORITIES + RELAYS,
                what="list of all relays",
                timeout=START_SECS,
            )
        self._service.start(SERVICE, directories)
        self._client.start(directories)
        for node in (self._service, self._client):
            node.wait_bootstrapped()
        self._onion = (self._service.folder / "onion" / "hostname").read_text().strip()

    def __exit__(self, *_exc):
        for node in (*self._authorities, *self._relays, self._service, self._client):
            node.stop()

    async def connect(self, identity):
        """The streams of a connection to the service.  Each identity has circuits of its own."""
        failures = []
        deadline = time.monotonic() + START_SECS
        # The service may not have announced itself yet, and circuits fail now and then.
        while time.monotonic() < deadline:
            try:
                return await asyncio.wait_for(self._connect(identity), START_SECS)
            except (SocksError, asyncio.IncompleteReadError) as e:
                failures.append(repr(e))
                await asyncio.sleep(1)
        raise AssertionError(f"no circuit to the service: {failures}")

    async def _connect(self, identity):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._socks_port, limit=MAX_LINE
        )
        try:
            name, host = identity.encode(), self._onion.encode()
            # Version 5 of SOCKS: a name and a password, then the host and the port
            writer.write(b"\x05\x01\x02")
            assert await reader.readexactly(2) == b"\x05\x02"
            writer.write(b"\x01" + bytes([len(name)]) + name + b"\x01-")
            assert await reader.readexactly(2) == b"\x01\x00"
            port = ONION_PORT.to_bytes(2, "big")
            writer.write(b"\x05\x01\x00\x03" + bytes([len(host)]) + host + port)
            _version, status, *_rest = await reader.readexactly(10)
            if status:
                raise SocksError(f"status {status}")
        except BaseException:
            writer.close()
            raise
        return reader, writer

    # -- the service's tor, by its control port

    async def circuits(self):
        """The numbers of the circuits by which clients are connected to the service."""
        lines = await self._control("GETINFO circuit-status")
        return {
            int(number)
            for number in re.findall(r"^(\d+) .*HS_STATE=HSSR_JOINED", lines, re.MULTILINE)
        }

    async def close_circuit(self, number):
        await self._control(f"CLOSECIRCUIT {number}")

    async def _control(self, command):
        reader, writer = await asyncio.open_connection("127.0.0.1", self._control_port)
        try:
            writer.write(f"AUTHENTICATE\r\n{command}\r\nQUIT\r\n".encode())
            answer = (await asyncio.wait_for(reader.read(), COMMAND_SECS)).decode()
        finally:
            writer.close()
        assert not re.search(r"^[45]\d\d ", answer, re.MULTILINE), answer
        return answer.replace("\r\n", "\n")
