"""Several servers behind a real HAProxy, and wallets that check every answer they get.

The balancer runs the configuration of contrib/cluster, with the addresses of this machine.  A wallet
has a script of its own and one coin, which it sends to itself again and again: with one unconfirmed
transaction at a time, each status that a right server can report is known.
"""

import asyncio
import functools
import hashlib
import re
import socket
import ssl
import time
from dataclasses import dataclass, field

from tests.conftest import REPOSITORY, require
from tests.integration import parts
from tests.integration.chains import COIN, with_length
from tests.integration.client import (
    MAX_LINE,
    ElectrumClient,
    ElectrumError,
    trusting_context,
)
from tests.integration.oracle import scripthash_of, sha256d
from tests.integration.processes import Child
from tests.integration.server import wait_until
from tests.ports import free_ports

CLUSTER = REPOSITORY / "contrib" / "cluster"
PORTS = {"4224": "metrics", "50001": "tcp", "50002": "ssl", "50004": "wss"}
FEE = 1_000
#: how long a notification may take while the machine is busy
NOTIFY_SECS = 60
#: between two looks at the event loop
LAG_SECS = 0.02
#: between two pings of a wallet, for each wallet: more would keep the test's own process busy
PING_SECS = 0.008


def balancer_text(servers, binds, admin):
    """The configuration of contrib/cluster with other addresses.

    servers: {name: {service: port}}, on loopback; binds: {service: port}; admin: path of the socket.
    """
    lines = []
    # The lines of a server are repeated for each of ours.
    for line in (CLUSTER / "haproxy.cfg").read_text().splitlines():
        found = re.fullmatch(r"    server e(\d)(-behind)? [\d.]+:(\d+)(.*)", line)
        if found:
            number, behind, port, rest = found.groups()
            for name, ports in servers.items() if number == "1" else ():
                track = rest.replace("/e1", f"/{name}")
                address = f"127.0.0.1:{ports[PORTS[port]]}"
                lines.append(f"    server {name}{behind or ''} {address}{track}")
        elif found := re.fullmatch(r"    bind :(\d+)", line):
            lines.append(f"    bind 127.0.0.1:{binds[PORTS[found[1]]]}")
        elif found := re.fullmatch(r"    stats socket \S+ (.*)", line):
            lines.append(f"    stats socket {admin} {found[1]}")
        elif line.startswith("    maxconn "):
            lines.append("    maxconn 2000")
        elif not re.match(r"    (user|group|log /dev/log) ", line):
            lines.append(line)
    return "\n".join(lines) + "\n"


class Balancer:
    """HAProxy with the configuration of contrib/cluster; a context manager."""

    def __init__(self, folder, servers):
        self.folder = folder
        self.admin = folder / "admin.sock"
        binds = ("tcp", "ssl", "wss")
        self.ports = dict(zip(binds, free_ports(len(binds)), strict=True))
        self.file = folder / "haproxy.cfg"
        self.text = balancer_text(servers, self.ports, self.admin)

    def command(self, *words):
        found = parts.haproxy()
        require(found, "HAProxy is not installed, nor in .run/cache (make parts)")
        program, variables = found
        return [program, *words, "-f", self.file], variables

    def __enter__(self):
        self.file.write_text(self.text)
        command, variables = self.command("-db")
        self.child = Child("haproxy", command, folder=self.folder, env=variables)
        self.child.wait_for(self.admin.exists, what="socket")
        return self

    def __exit__(self, *_exc):
        self.child.kill()

    def ask(self, command):
        """The answer of its socket to a command."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.admin))
            sock.sendall(command.encode() + b"\n")
            with sock.makefile() as answer:
                return answer.read()

    def stat(self):
        """{(proxy, server): {column: value}}"""
        header, *rows = self.ask("show stat").lstrip("# ").strip().splitlines()
        keys = header.split(",")
        found = [dict(zip(keys, row.split(","), strict=False)) for row in rows]
        return {(row["pxname"], row["svname"]): row for row in found}

    def status(self, name, backend="ready"):
        """UP, DOWN, DRAIN, MAINT ..., also with how many checks are wanting."""
        return self.stat()[backend, name]["status"]

    def sessions(self, name):
        """The connections that a server has by all services."""
        return sum(int(row["scur"]) for (_, server), row in self.stat().items() if server == name)

    def wait_status(self, name, status, *, timeout=120):
        wait_until(lambda: self.status(name) == status, what=f"{status} {name}", timeout=timeout)

    def set_state(self, name, state):
        assert self.ask(f"set server ready/{name} state {state}").strip() == ""


@dataclass
class World:
    """The truth, and the findings of all wallets."""

    node: object
    #: txid -> height, of the transactions of blocks
    heights: dict = field(default_factory=dict)
    #: by height: header in hex, and when the block was found
    headers: dict = field(default_factory=dict)
    found_at: dict = field(default_factory=dict)
    tip: int = 0
    ending: bool = False
    #: faults, as lines
    wrong: list = field(default_factory=list)
    #: (seconds, what happened last) of each time that a wallet had no connection
    gaps: list = field(default_factory=list)
    #: the longest wait for an answer on a connection that lives, in seconds
    longest_wait: float = 0.0
    #: the longest time by which the wallets' own event loop was delayed, in seconds
    longest_lag: float = 0.0
    event: str = "start"
    answers: int = 0
    notifications: int = 0
    broadcasts: int = 0
    proofs: int = 0

    def learn_block(self, height):
        """Take a block of the node over."""
        block = self.node.rpc("getblock", self.node.rpc("getblockhash", height), 1)
        self.headers[height] = self.node.rpc("getblockheader", block["hash"], False)
        for txid in block["tx"]:
            self.heights[txid] = height

    def mine(self):
        """Find a block; runs in a thread."""
        self.node.mine(1)
        height = self.node.height()
        self.learn_block(height)
        self.found_at[height] = time.monotonic()
        self.tip = height

    async def watch_lag(self):
        """Note how late the wallets' event loop is, until this is cancelled."""
        while True:
            due = time.monotonic() + LAG_SECS
            await asyncio.sleep(LAG_SECS)
            self.longest_lag = max(self.longest_lag, time.monotonic() - due)

    def longest_gaps(self):
        """{event: the longest gap after it, in seconds}"""
        found = {}
        for secs, event in self.gaps:
            found[event] = max(secs, found.get(event, 0.0))
        return found


@functools.cache
def _tls():
    """The TLS context of all wallets: to make one takes as long as many requests."""
    return trusting_context()


def redeem_script(number):
    """A script without a signature, another for each number."""
    return b"\x04" + number.to_bytes(4, "little") + b"\x75\x51"


def p2sh(redeem):
    digest = hashlib.new("ripemd160", hashlib.sha256(redeem).digest()).digest()
    return b"\xa9\x14" + digest + b"\x87"


def spend(txid, index, redeem, outputs):
    """A transaction of one input; (txid, hex)."""
    raw = (2).to_bytes(4, "little") + b"\x01" + bytes.fromhex(txid)[::-1]
    raw += index.to_bytes(4, "little") + with_length(with_length(redeem)) + b"\xfe\xff\xff\xff"
    raw += (
        bytes([len(outputs)])
        if len(outputs) < 253
        else b"\xfd" + len(outputs).to_bytes(2, "little")
    )
    for value, script in outputs:
        raw += value.to_bytes(8, "little") + with_length(script)
    raw += bytes(4)
    return sha256d(raw)[::-1].hex(), raw.hex()


def fund(node, count):
    """A coin for each of so many wallets, all in one transaction of a block; (txid, value)."""
    purse = redeem_script(0)
    block = node.rpc("generatetodescriptor", 1, f"raw({p2sh(purse).hex()})")[0]
    coinbase = node.rpc("getblock", block, 2)["tx"][0]
    node.mine(100)
    value = (int(coinbase["vout"][0]["value"] * COIN) - 200 * count) // count
    outputs = [(value, p2sh(redeem_script(n + 1))) for n in range(count)]
    txid, raw = spend(coinbase["txid"], 0, purse, outputs)
    node.rpc("sendrawtransaction", raw, 0)
    node.mine(1)
    return txid, value


def status_of(history):
    """The status of a history of (txid, height)."""
    if not history:
        return None
    text = "".join(f"{txid}:{height}:" for txid, height in history)
    return hashlib.sha256(text.encode()).hexdigest()


class Wallet:
    """Sends its coin to itself, and checks every answer."""

    def __init__(self, world, balancer, number, count, txid, value):
        self.world, self.number = world, number
        self.service = "ssl" if number % 4 == 3 else "tcp"
        self.port = balancer.ports[self.service]
        self.source = f"127.{10 + number // 200}.{number % 200 + 1}.1"
        self.ping_secs = PING_SECS * count
        self.redeem = redeem_script(number + 1)
        self.script = p2sh(self.redeem)
        self.scripthash = scripthash_of(self.script)
        self.coin = (txid, number, value)
        self.txids = [txid]
        #: statuses that were reported, with the tips before and after if they were read
        self.seen = []
        self.status, self.height = None, -1  # as last reported
        self.lost_by = None  # the last error of a connection
        self.raw = None  # of the last transaction, while it is not known to be with the node
        self.changed_at = time.monotonic()
        self.proven = set()

    # --- the truth

    def expected(self, tip=None):
        """The history at a height, with or without the transaction that is unconfirmed."""
        heights = self.world.heights
        confirmed = [
            (txid, heights[txid])
            for txid in self.txids
            if txid in heights and (tip is None or heights[txid] <= tip)
        ]
        rest = self.txids[len(confirmed) :]
        return confirmed, [*confirmed, (rest[0], 0)] if rest else confirmed

    def right_status(self):
        """The status of all that is known now."""
        confirmed, all_ = self.expected()
        return status_of(confirmed if self.raw else all_)

    def possible(self):
        """Every status that some right server may have reported at some time."""
        found = set()
        for tip in {self.world.heights[t] for t in self.txids if t in self.world.heights}:
            found |= {status_of(history) for history in self.expected(tip)}
        return found | {status_of(history) for history in self.expected()}

    def check(self):
        """Yield a line for each wrong answer, when all has ended."""
        possible = self.possible()
        for status, before, after in self.seen:
            if status not in possible:
                yield f"wallet {self.number}: status {status} never was"
            elif before is not None and before == after:
                allowed = {status_of(history) for history in self.expected(before)}
                if status not in allowed:
                    yield f"wallet {self.number}: the status at {before} is not that of its block"
        if self.status != status_of(self.expected()[0]) or len(self.expected()[0]) != len(
            self.txids
        ):
            yield f"wallet {self.number}: it does not end with the right status"

    # --- life

    async def run(self):
        """Connect again and again, until everything is confirmed and notified."""
        lost_at = None
        while not self.is_done():
            client = None
            try:
                client = await asyncio.wait_for(self._connect(), NOTIFY_SECS)
                await self._subscribe(client)
                if lost_at is not None:
                    self.world.gaps.append((time.monotonic() - lost_at, self.world.event))
                    lost_at = None
                await self._use(client)
            except (OSError, ssl.SSLError, asyncio.TimeoutError) as e:
                self.lost_by = e
                if lost_at is None:
                    lost_at = time.monotonic()
                await asyncio.sleep(0.05)
            finally:
                if client:
                    await client.close()

    async def _connect(self):
        context = _tls() if self.service == "ssl" else None
        streams = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(self.source, 0), ssl=context, limit=MAX_LINE
        )
        return ElectrumClient.from_streams(*streams)

    async def _ask(self, client, method, *params):
        start = time.monotonic()
        try:
            return await client.call(method, *params, timeout=NOTIFY_SECS)
        except ElectrumError as e:
            if e.code == -32603 or "server busy" in str(e):
                self.world.wrong.append(f"wallet {self.number}: {method}: {e}")
            raise
        finally:
            self.world.answers += 1
            waited = time.monotonic() - start
            self.world.longest_wait = max(self.world.longest_wait, waited)

    async def _subscribe(self, client):
        await self._ask(client, "server.version", "wallet", "1.4.2")
        before = await self._ask(client, "blockchain.headers.subscribe")
        self.status = await self._ask(client, "blockchain.scripthash.subscribe", self.scripthash)
        after = await self._ask(client, "blockchain.headers.subscribe")
        self.seen.append((self.status, before["height"], after["height"]))
        self._check_header(before)
        self._check_header(after)
        self.height = after["height"]
        self.subscribed_at = time.monotonic()

    def _check_header(self, header):
        right = self.world.headers.get(header["height"])
        if right is not None and right != header["hex"]:
            self.world.wrong.append(f"wallet {self.number}: wrong header {header['height']}")

    async def _use(self, client):
        while not self.is_done():
            if self.is_right():
                await self._prove(client)
            if self.raw or (self.is_right() and not self.world.ending):
                await self._send(client)
            try:
                got = client.notifications.get()
                method, params = await asyncio.wait_for(got, self.ping_secs)
            except asyncio.TimeoutError:
                await self._ask(client, "server.ping")
                self._check_in_time()
                continue
            self.world.notifications += 1
            if method == "blockchain.headers.subscribe":
                self._check_header(params[0])
                if params[0]["height"] < self.height:
                    self.world.wrong.append(f"wallet {self.number}: a header of an older block")
                self.height = params[0]["height"]
            else:
                self.status = params[1]
                self.seen.append((self.status, None, None))
                await self._check_history(client)

    def is_right(self):
        """Whether all is confirmed and the status is that."""
        confirmed, _all = self.expected()
        return len(confirmed) == len(self.txids) and self.status == status_of(confirmed)

    def is_done(self):
        """Whether there is nothing more to wait for."""
        return (
            self.world.ending
            and self.status is not None
            and self.raw is None
            and self.is_right()
            and self.height == self.world.tip
            and self.txids[-1] in self.proven
        )

    def state(self):
        """A line about a wallet that is not done."""
        return (
            f"wallet {self.number}: {len(self.txids)} transactions, the last "
            f"{self.txids[-1]} at {self.world.heights.get(self.txids[-1])}, tip {self.height} of "
            f"{self.world.tip}, right {self.is_right()}, unsent {self.raw is not None}, proven "
            f"{self.txids[-1] in self.proven}, lost by {self.lost_by!r}"
        )

    async def _send(self, client):
        if self.raw is None:
            txid, index, value = self.coin
            txid, self.raw = spend(txid, index, self.redeem, [(value - FEE, self.script)])
            self.coin = (txid, 0, value - FEE)
            self.txids.append(txid)
        try:
            answer = await self._ask(client, "blockchain.transaction.broadcast", self.raw)
            if answer != self.txids[-1]:
                self.world.wrong.append(f"wallet {self.number}: broadcast returned {answer}")
        except ElectrumError as e:
            # It was sent before the connection broke.
            if "already" not in str(e) and self.txids[-1] not in self.world.heights:
                self.world.wrong.append(f"wallet {self.number}: broadcast: {e}")
        self.raw = None
        self.world.broadcasts += 1
        self.changed_at = time.monotonic()

    def _check_in_time(self):
        """Note notifications that are lost: a connection is there, and nothing came for long."""
        world, now = self.world, time.monotonic()
        height = world.heights.get(self.txids[-1], -1)
        changed_at = max(self.changed_at, world.found_at.get(height, 0), self.subscribed_at)
        if self.status != self.right_status() and now - changed_at > NOTIFY_SECS:
            world.wrong.append(f"wallet {self.number}: no notification of {self.txids[-1]}")
            self.subscribed_at = now
            raise ConnectionError
        tip_at = max(world.found_at.get(world.tip, 0), self.subscribed_at)
        if self.height < world.tip and now - tip_at > NOTIFY_SECS:
            world.wrong.append(f"wallet {self.number}: no notification of block {world.tip}")
            self.subscribed_at = now
            raise ConnectionError

    async def _check_history(self, client):
        history = await self._ask(client, "blockchain.scripthash.get_history", self.scripthash)
        entries = [(entry["tx_hash"], entry["height"]) for entry in history]
        self.seen.append((status_of(entries), None, None))

    async def _prove(self, client):
        """Check the proof of the last transaction against the header of its block."""
        txid = self.txids[-1]
        if txid in self.proven:
            return
        height = self.world.heights[txid]
        proof = await self._ask(client, "blockchain.transaction.get_merkle", txid, height)
        header = await self._ask(client, "blockchain.block.header", height)
        root = bytes.fromhex(txid)[::-1]
        for number, branch in enumerate(proof["merkle"]):
            other = bytes.fromhex(branch)[::-1]
            right = proof["pos"] >> number & 1
            root = sha256d(other + root if right else root + other)
        if header != self.world.headers[height] or root != bytes.fromhex(header)[36:68]:
            self.world.wrong.append(f"wallet {self.number}: the proof of {txid} does not fit")
        self.proven.add(txid)
        self.world.proofs += 1
