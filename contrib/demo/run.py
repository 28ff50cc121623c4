"""`make run`: the server in the foreground, by default on a private Litecoin test network.

Without DAEMON_URL it keeps a litecoind (regtest) of its own under .run/demo, with a first chain
of a few payments, and stops it again; where there is no litecoind, the Bitcoin SV node that
`python -m tests.integration.parts` fetches.  With DAEMON_URL it serves the operator's node. Either way
it makes a self-signed certificate, fills in the settings that are not given, prints the addresses
and passes on a request to stop. Standard library only; one thread.

The driver is the only parent: node and server run in sessions of their own, so that Ctrl-C
reaches the driver alone, which stops the server first and the node after it.
"""

import argparse
import base64
import ctypes
import fcntl
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SERVICES = (
    "tcp://127.0.0.1:50001,ssl://127.0.0.1:50002,ws://127.0.0.1:50003,wss://127.0.0.1:50004,"
    "rpc://127.0.0.1:8000"
)
SERVICE = re.compile(r"(?P<protocol>\w+)://(?P<host>\[[^]]*\]|[^:,]*)(:(?P<port>\d+))?$")
NODE_START_SECS = 60
NODE_STOP_SECS = 60
SERVER_START_SECS = 150
SERVER_STOP_SECS = 60
PR_SET_PDEATHSIG = 1


class DemoError(Exception):
    """An error that the user can correct; str() is the remedy."""


def say(text=""):
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def die_with_parent():
    """Runs in the child before exec: end it if the driver is killed and cannot stop it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Stop:
    """Remembers a request to stop."""

    def __init__(self):
        self.requested = False
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._on_signal)

    def _on_signal(self, _signum, _frame):
        if not self.requested:
            say("\nStopping ...")
        self.requested = True

    def check(self):
        """Raise KeyboardInterrupt if a stop was requested."""
        if self.requested:
            raise KeyboardInterrupt


def start(command, **kwargs):
    """A child process in a session of its own."""
    return subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_parent, **kwargs)


def end(process, name, patience_secs):
    """Ask a child to stop, wait, and kill it if it does not. Returns its exit status."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(patience_secs)
    except subprocess.TimeoutExpired:
        say(f"{name} did not stop within {patience_secs} s; killing it")
        process.kill()
        return process.wait()


# --- the node -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A node that the demonstration can run on, and how it differs from others."""

    coin: str
    path: str
    #: of its files in the data folder
    config_name: str
    pid_name: str
    options: str
    #: wallets have names, and addresses have kinds
    named_wallets: bool
    #: the section of the configuration that options of the test network must be in
    section: str
    #: the command that mines a block, without the data folder
    mine: tuple[str, ...]

    @property
    def name(self):
        """The name of the program."""
        return Path(self.path).name


def find_program():
    """Return the program of an installed node.  Raise DemoError if no node is installed."""
    litecoind = shutil.which("litecoind")
    if litecoind:
        return Program(
            coin="Litecoin",
            path=litecoind,
            config_name="litecoin.conf",
            pid_name="litecoind.pid",
            # MWEB stays off: with it the miner stops at height 431 for want of a peg-in.
            options="fallbackfee=0.0001\nvbparams=mweb:4000000000:4000000001\n",
            named_wallets=True,
            section="[regtest]\n",
            mine=("litecoin-cli", "-rpcwallet=demo", "-generate", "1"),
        )
    sys.path.insert(0, str(TOP))
    from tests.integration.parts import bitcoin_sv

    path = bitcoin_sv()
    if not path:
        raise DemoError(
            "there is no node to run on: neither litecoind nor the Bitcoin SV node of PyPI can be "
            "installed here. Serve your own instead: make run DAEMON_URL=http://user:password@host:port/ "
            "COIN=... NET=... DB_DIRECTORY=..."
        )
    return Program(
        coin="BitcoinSV",
        path=path,
        config_name="bitcoin.conf",
        pid_name="bitcoind.pid",
        options=(
            "excessiveblocksize=1000000000\nmaxstackmemoryusageconsensus=100000000\n"
            "minminingtxfee=0.00000500\n"
        ),
        named_wallets=False,
        section="",
        mine=(str(Path(path).with_name("bitcoin-cli")), "generate", "1"),
    )


class Node:
    """A node on regtest that keeps its chain in a folder."""

    def __init__(self, program, folder):
        self.program = program
        self.folder = folder
        self.process = None
        self.port = 0
        self.password = secrets.token_hex(16)

    @property
    def url(self):
        """The value of DAEMON_URL."""
        return f"http://demo:{self.password}@127.0.0.1:{self.port}/"

    def rpc(self, method, *params, wallet=False):
        """Result of an RPC call; RuntimeError with the node's words if it refuses."""
        url = f"http://127.0.0.1:{self.port}/" + (
            "wallet/demo" if wallet and self.program.named_wallets else ""
        )
        body = json.dumps({"id": 0, "method": method, "params": params}).encode()
        token = base64.b64encode(f"demo:{self.password}".encode()).decode()
        request = urllib.request.Request(url, body, {"Authorization": f"Basic {token}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)["result"]
        except urllib.error.HTTPError as e:
            raise RuntimeError(f"{method}: {e.read().decode(errors='replace')}") from None

    def start(self, stop):
        """Start it and wait until it answers."""
        self.end_leftover()
        self.folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        # In a file, so that the password is not on a command line for all to read.
        config = self.folder / self.program.config_name
        config.touch(mode=0o600)
        config.write_text(
            "regtest=1\nserver=1\ntxindex=1\nlisten=0\ndnsseed=0\nprinttoconsole=0\n"
            f"rpcuser=demo\nrpcworkqueue=64\nrpcpassword={self.password}\n"
            f"{self.program.options}{self.program.section}"
            f"rpcport={self.port}\nrpcbind=127.0.0.1\nrpcallowip=127.0.0.1\n"
        )
        command = [self.program.path, f"-datadir={self.folder}"]
        self.process = start(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + NODE_START_SECS
        while True:
            stop.check()
            if self.process.poll() is not None:
                raise DemoError(
                    f"{self.program.name} ended at once; see {self.folder}/regtest/debug.log"
                )
            try:
                self.rpc("getblockcount")
                return
            except (OSError, RuntimeError):  # not yet listening, or still warming up
                if time.monotonic() > deadline:
                    raise DemoError(f"{self.program.name} does not answer") from None
            time.sleep(0.1)

    def end_leftover(self):
        """Stop a node on the same folder that outlived its driver."""
        try:
            pid = int((self.folder / "regtest" / self.program.pid_name).read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return
        if f"-datadir={self.folder}".encode() not in words:
            return
        say("Stopping the node that an earlier run left behind")
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + NODE_STOP_SECS
        while Path(f"/proc/{pid}").exists():
            if time.monotonic() > deadline:
                raise DemoError(f"the node of an earlier run, process {pid}, does not stop")
            time.sleep(0.1)

    def populate(self):
        """A first chain with payments to each kind of address; later one block a start."""
        if self.program.named_wallets and "demo" not in self.rpc("listwallets"):
            known = [w["name"] for w in self.rpc("listwalletdir")["wallets"]]
            self.rpc("loadwallet" if "demo" in known else "createwallet", "demo")
        miner = self.rpc("getnewaddress", wallet=True)
        if self.rpc("getblockcount") >= 110:
            # A tip of today: after a day's rest a node believes that it is still catching up.
            self.rpc("generatetoaddress", 1, miner)
            return
        self.rpc("generatetoaddress", 110 - self.rpc("getblockcount"), miner)
        for number, kind in enumerate(("legacy", "p2sh-segwit", "bech32") * 2, start=1):
            kinds = ("", kind) if self.program.named_wallets else ()
            address = self.rpc("getnewaddress", *kinds, wallet=True)
            self.rpc("sendtoaddress", address, number, wallet=True)
            if number % 2 == 0:
                self.rpc("generatetoaddress", 1, miner)
        # One stays unconfirmed, to be seen in the mempool.
        self.rpc("sendtoaddress", miner, 7, wallet=True)


# --- settings -------------------------------------------------------------------------------


def certificate(folder):
    """Paths of a certificate for localhost and its key, made if missing or about to expire."""
    cert, key = folder / "server.crt", folder / "server.key"
    if not shutil.which("openssl"):
        raise DemoError("openssl is missing: apt-get install openssl")
    check = ["openssl", "x509", "-checkend", "86400", "-noout", "-in", cert]
    if (
        key.exists()
        and cert.exists()
        and subprocess.run(check, capture_output=True).returncode == 0
    ):
        return cert, key
    folder.mkdir(parents=True, exist_ok=True)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "825"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = subprocess.run(
        [*command, "-keyout", key, "-out", cert], capture_output=True, text=True, umask=0o077
    )
    if made.returncode:
        raise DemoError(f"openssl cannot make a certificate: {made.stderr.strip()}")
    return cert, key


def parsed_services(text):
    """List of (protocol, host, port) of a SERVICES text, without parts of another form."""
    services = []
    for word in filter(None, text.split(",")):
        match = SERVICE.match(word)
        if match:
            protocol = match["protocol"].lower()
            port = match["port"] or ("8000" if protocol == "rpc" else "")
            host = match["host"].strip("[]") or "127.0.0.1"
            if port:
                services.append((protocol, host, int(port)))
    return services


def check_ports(services):
    """Raise DemoError naming every port that another program listens on."""
    taken = []
    for protocol, host, port in services:
        try:
            family = socket.getaddrinfo(host, port)[0][0]
        except OSError:
            continue  # the server judges names
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
            except OSError as e:
                taken.append(f"{protocol} {host}:{port} ({e.strerror})")
    if taken:
        raise DemoError(
            f"cannot listen on {', '.join(taken)}. Stop the program that does, or choose other "
            "ports: make run SERVICES=tcp://127.0.0.1:PORT,rpc://127.0.0.1:PORT"
        )


def server_environment(run_folder, node):
    """The environment of the server: given settings stay, others are filled in."""
    env = dict(os.environ)
    env.setdefault("SERVICES", SERVICES)
    protocols = {protocol for protocol, *_ in parsed_services(env["SERVICES"])}
    if protocols & {"ssl", "wss"} and not {"SSL_CERTFILE", "SSL_KEYFILE"} <= env.keys():
        cert, key = certificate(run_folder / "tls")
        env["SSL_CERTFILE"], env["SSL_KEYFILE"] = str(cert), str(key)
    if os.geteuid() == 0:
        env.setdefault("ALLOW_ROOT", "1")
    if node is None:
        missing = [name for name in ("COIN", "DB_DIRECTORY") if not env.get(name)]
        if missing:
            raise DemoError(f"DAEMON_URL is set, so {' and '.join(missing)} must be set too")
        Path(env["DB_DIRECTORY"]).mkdir(parents=True, exist_ok=True)
        return env
    db_directory = run_folder / ("db" if node.program.named_wallets else "db-sv")
    db_directory.mkdir(parents=True, exist_ok=True)
    env.pop("HOST", None)  # some shells set it, and the server refuses it as obsolete
    env.update(
        COIN=node.program.coin,
        NET="regtest",
        DAEMON_URL=node.url,
        DB_DIRECTORY=str(db_directory),
        PEER_DISCOVERY="off",
        PEER_ANNOUNCE="",
    )
    env.setdefault("COST_SOFT_LIMIT", "0")  # a demo on loopback need not throttle a client
    env.setdefault("COST_HARD_LIMIT", "0")
    return env


# --- running --------------------------------------------------------------------------------


def describe(services, node, command_folder):
    """Print the services, and how to watch and stop the server."""
    say("\n" + "=" * 72)
    say("The server is up. It serves:")
    for protocol, host, port in services:
        use = "administration" if protocol == "rpc" else "wallets"
        say(f"  {protocol + '://' + host + ':' + str(port):32} {use}")
    for protocol, _host, port in services:
        if protocol == "rpc":
            rpc = [str(command_folder / "electrumx_rpc")]
            rpc += [] if port == 8000 else ["-p", str(port)]
            say("\nWatch it, from another terminal:")
            say("  " + shlex.join([*rpc, "getinfo"]))
            say("  " + shlex.join([*rpc, "sessions"]))
            break
    if node:
        client, *words = node.program.mine
        mine = [client, f"-datadir={node.folder}", *words]
        say("Mine a block:")
        say("  " + shlex.join(mine))
    say("\nStop it: press Ctrl-C here" + (f", or:  kill {os.getpid()}" if node else ""))
    say("=" * 72 + "\n")


def answers(host, port):
    """True if something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def serve(env, node, command_folder, stop):
    """Run the server until it ends or is asked to; returns the exit status for the shell."""
    services = parsed_services(env["SERVICES"])
    check_ports(services)
    stop.check()
    server = start([str(command_folder / "electrumx_server")], env=env)
    waiting = list(services)
    # A big chain of the operator's own takes hours to index before the ports open.
    deadline = time.monotonic() + SERVER_START_SECS if node else float("inf")
    try:
        while not stop.requested and server.poll() is None:
            if waiting:
                waiting = [s for s in waiting if not answers(*s[1:])]
                if not waiting:
                    describe(services, node, command_folder)
                elif time.monotonic() > deadline:
                    raise DemoError(f"nothing listens yet on {waiting}; giving up")
            time.sleep(0.2)
    finally:
        status = end(server, "the server", SERVER_STOP_SECS)
    if stop.requested:
        return 0 if status == 0 else 1
    say(f"The server ended by itself with status {status}")
    return status if status > 0 else 1


def lock(run_folder):
    """Hold the folder for this driver; DemoError if another one has it."""
    run_folder.mkdir(parents=True, exist_ok=True)
    handle = (run_folder / "lock").open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        pid = handle.read().strip()
        raise DemoError(f"`make run` already runs here, as process {pid}") from None
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def run(run_folder, command_folder, stop):
    """Everything between the command line and the exit status."""
    handle = lock(run_folder)
    node = None
    try:
        if not os.environ.get("DAEMON_URL"):
            check_ports(parsed_services(os.environ.get("SERVICES", SERVICES)))
            program = find_program()
            say(f"Starting {program.name}, a node of {program.coin}, on a private test network")
            node = Node(program, run_folder / ("node" if program.named_wallets else "node-sv"))
            node.start(stop)
            node.populate()
            say(f"The node is at height {node.rpc('getblockcount')}")
        return serve(server_environment(run_folder, node), node, command_folder, stop)
    finally:
        if node and node.process:
            end(node.process, node.program.name, NODE_STOP_SECS)
        handle.close()
        say("Stopped. `make run` goes on from here." if node else "Stopped.")


def main():
    """Exit status: 0 after a requested stop, 1 after an error, which has been printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=TOP / ".run" / "demo")
    parser.add_argument("--commands", type=Path, default=Path(sys.executable).parent)
    args = parser.parse_args()
    stop = Stop()
    try:
        return run(args.folder.resolve(), args.commands.absolute(), stop)
    except KeyboardInterrupt:
        return 0
    except (DemoError, RuntimeError) as e:
        say(f"make run: {e}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
