"""A server's insides in memory, and clients of its real sockets, for session tests."""

import asyncio
import contextlib
import json
import ssl
from array import array
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from ipaddress import ip_network
from types import SimpleNamespace

from websockets.asyncio.client import connect as websocket_connect

from electrumx.lib.errors import OperatorError
from electrumx.lib.hash import HASHX_LEN, Base58Error, double_sha256, hash_to_hex_str, sha256
from electrumx.lib.merkle import Merkle
from electrumx.server.daemon.client import DaemonError
from electrumx.server.daemon.responses import ReplyTooLargeError
from electrumx.server.db import DBError
from electrumx.server.db import wire_rows as packed
from electrumx.server.db.queries import Balance, PackedHistory, PackedUTXOs
from electrumx.server.mempool.outpoint_watch import OutpointWatch
from electrumx.server.notifications import Confirmed, Notifications, ReportedTip
from electrumx.server.session import ElectrumX, SessionManager
from electrumx.server.storage.schema import UTXO

# For operations that take no time: only a fault makes a test wait so long, on any machine
WAIT_SECS = 120


class FakeCoin:
    NAME = "Fakecoin"
    NET = "mainnet"
    SHORTNAME = "FAKE"
    GENESIS_HASH = "00" * 32
    CRASH_CLIENT_VER = (3, 2, 3)
    STATIC_BLOCK_HEADERS = True
    SESSIONCLS = ElectrumX

    @staticmethod
    def header_hash(header):
        return double_sha256(header)

    @staticmethod
    def bucket_estimatefee_block_target(number):
        return min(number, 1008)

    @staticmethod
    def hashX_from_script(script):
        return sha256(script)[:HASHX_LEN]

    @classmethod
    def address_to_hashX(cls, address):
        if address == "foreign":
            raise RuntimeError("invalid address: foreign")
        if not address.startswith("addr"):
            raise Base58Error("not an address")
        return cls.hashX_from_script(address.encode())

    @staticmethod
    def decimal_value(value):
        return Decimal(value) / 10**8

    @staticmethod
    def warn_old_client_on_tx_broadcast(client_ver):
        return "<br/>upgrade" if client_ver < (3, 3, 3) else False


@dataclass(frozen=True)
class FakeAddress:
    host: str
    port: int

    def __str__(self):
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class FakeService:
    """Like aiorpcX's Service, but port 0 is allowed: the system chooses."""

    protocol: str
    host: str = "127.0.0.1"
    port: int = 0

    @property
    def address(self):
        return FakeAddress(self.host, self.port)

    def __str__(self):
        return f"{self.protocol}://{self.address}"


def fake_env(**settings):
    env = SimpleNamespace(
        coin=FakeCoin,
        services=[FakeService("tcp"), FakeService("rpc")],
        report_services=[],
        rpc_allow=[],
        proxy_protocol=[],
        proxy_trusted=[ip_network("127.0.0.0/8"), ip_network("::1")],
        proxy_depth=1,
        trusted_clients=[],
        trusted_services=[],
        tor_group_weight=0.1,
        ssl_certfile=None,
        ssl_keyfile=None,
        wss_certfile=None,
        wss_keyfile=None,
        ws_origins=None,
        max_send=1_000_000,
        max_recv=1_000_000,
        max_sessions=1000,
        max_sessions_per_subnet=100,
        max_sessions_per_address=100,
        max_connects_per_minute=0,
        session_timeout=600,
        session_group_by_subnet_ipv4=24,
        session_group_by_subnet_ipv6=48,
        cost_soft_limit=1000,
        cost_hard_limit=10000,
        bw_unit_cost=5000,
        padded_protocols=frozenset(),
        initial_concurrent=10,
        request_sleep=2500,
        request_timeout=30,
        log_sessions=0,
        anon_logs=False,
        drop_client=None,
        donation_address="donate-here",
        protocol_max=None,
        banner_file=None,
        tor_banner_file=None,
        daemon_url="http://user:pass@env-host:8332/",
        daemon_cookie_file="",
        daemon_password_file="",
        # Nothing is kept there unless a test sets a folder that exists.
        db_dir="/nonexistent",
        serve_always=False,
    )
    for name, value in settings.items():
        assert hasattr(env, name), name
        setattr(env, name, value)
    # By default that of the others, as in Env
    env.wss_certfile = env.wss_certfile or env.ssl_certfile
    env.wss_keyfile = env.wss_keyfile or env.ssl_keyfile
    return env


def make_header(height, fork=0):
    return height.to_bytes(4, "little") + bytes([fork]) * 76


def make_tx_hash(*parts):
    return sha256(repr(parts).encode())


class FakeDB:
    """A chain of blocks, each with some txs, and scripts' histories set by the test."""

    def __init__(self, height=10, txs_per_block=3):
        self.headers = [make_header(h) for h in range(height + 1)]
        self.block_txs = [
            [make_tx_hash(h, n) for n in range(txs_per_block)] for h in range(height + 1)
        ]
        self.histories = {}
        self.utxos = {}
        self.history = SimpleNamespace(flush_count=7)
        self.history_reads = 0
        self.utxo_db = object()  # open
        self.before_history_returns = None
        self.backup_count = 0
        self.utxo_rows = {}  # outpoint -> height at which it was created, of unspent ones

    @property
    def queries(self):
        """The reads of scripts."""
        return self

    @property
    def stores(self):
        """The committed state."""
        return self

    @property
    def db_height(self):
        return len(self.headers) - 1

    @property
    def db_tip(self):
        return double_sha256(self.headers[-1])

    @property
    def state(self):
        """The committed tip."""
        return SimpleNamespace(height=self.db_height, tip=self.db_tip)

    def add_block(self, fork=0, txs=3):
        height = len(self.headers)
        self.headers.append(make_header(height, fork))
        self.block_txs.append([make_tx_hash(height, n, fork) for n in range(txs)])

    async def populate_header_merkle_cache(self):
        """There is nothing to read."""

    def pop_block(self):
        self.headers.pop()
        self.block_txs.pop()
        self.backup_count += 1

    # Cached values: none, so that each test goes the whole way.
    def cached_header(self, height):
        return None

    async def raw_header(self, height):
        if not 0 <= height <= self.db_height:
            raise IndexError(f"height {height} out of range")
        return self.headers[height]

    async def read_headers(self, start, count):
        headers = self.headers[start : start + count]
        return b"".join(headers), len(headers)

    def split_headers(self, start, headers):
        assert b"".join(self.headers[start:]).startswith(headers)
        result = []
        while headers:
            size = len(self.headers[start + len(result)])
            result.append(headers[:size])
            headers = headers[size:]
        return result

    async def header_branch_and_root(self, length, height):
        hashes = [double_sha256(header) for header in self.headers[:length]]
        return Merkle().branch_and_root(hashes, height)

    def header_proof_hashes(self, length, height):
        return 0

    async def tx_hashes_at_blockheight(self, height):
        if height > self.db_height:
            raise DBError(f"block {height:,d} not on disk (>{self.db_height:,d})")
        return self.block_txs[height]

    def block_tx_hashes(self, height):
        async def read():
            return b"".join(await self.tx_hashes_at_blockheight(height))

        return asyncio.ensure_future(read())

    async def limited_history(self, hashX, *, limit=1000):
        self.history_reads += 1
        result = list(self.histories.get(hashX, []))[:limit]
        if self.before_history_returns is not None:
            await self.before_history_returns()
        return result

    def history_entries(self, hashX, *, limit=None, after=-1, only_below=False):
        """A transaction's number is its place in the history."""

        async def read():
            backups = self.backup_count
            whole = None if limit is None else limit + after + 1
            found = (await self.limited_history(hashX, limit=whole))[after + 1 :]
            if only_below and len(found) == limit:
                return PackedHistory(b"", after + len(found), backups, only_counted=True)
            entries = b"".join(packed.pack_entry(*entry) for entry in found)
            return PackedHistory(entries, after + len(found), backups)

        return asyncio.ensure_future(read())

    async def utxo_heights(self, outpoints):
        return [self.utxo_rows.get(outpoint) for outpoint in outpoints]

    async def all_utxos(self, hashX):
        return list(self.utxos.get(hashX, []))

    def packed_utxos(self, hashX):
        async def read():
            backups = self.backup_count
            utxos = sorted(await self.all_utxos(hashX))
            coins = [packed.pack_utxo(u.tx_hash, u.height, u.tx_pos, u.value) for u in utxos]
            return PackedUTXOs(b"".join(coins), backups)

        return asyncio.ensure_future(read())

    def balance(self, hashX):
        async def read():
            backups = self.backup_count
            utxos = await self.all_utxos(hashX)
            return Balance(len(utxos), sum(utxo.value for utxo in utxos), backups)

        return asyncio.ensure_future(read())


class FakeBP:
    def __init__(self, db):
        self.db = db
        self.lagging = False
        self.backed_up_event = asyncio.Event()
        self.opened_event = asyncio.Event()
        self.opened_event.set()
        self.bulk_sync = SimpleNamespace(progress=None)
        self.forced = []
        self.caught_up = True
        self.forks = []
        self.forks_ended = 0
        self.confirmed = {}
        self.reported_height = None  # if not that of the database
        self._reported = None

    def undo(self, count):
        """Begin a reorganisation, which ends with end_reorg()."""
        self.forks.append(self.db.db_height - count)
        for _ in range(count):
            self.db.pop_block()

    def end_reorg(self):
        self.forks_ended = len(self.forks)

    @property
    def reported(self):
        """The tip last reported: that of the database, unless a test sets another."""
        height = self.db.db_height if self.reported_height is None else self.reported_height
        header = self.db.headers[height]
        found = ReportedTip(height, double_sha256(header), header, self.forks_ended)
        if found != self._reported:
            self._reported = found
        return self._reported

    @property
    def height(self):
        return self.db.db_height + self.lagging

    @property
    def tip(self):
        return b"ahead" if self.lagging else self.db.db_tip

    @property
    def state(self):
        """The tip that is indexed."""
        return self

    def confirmed_after(self, tip):
        return self.confirmed.get(tip)

    async def force_chain_reorg(self, count):
        if count > 100:
            raise ValueError(f"cannot reorg {count:,d} blocks: undo information goes back 100")
        if self.caught_up:
            self.forced.append(count)
        return self.caught_up


class FakeDaemon:
    def __init__(self):
        self.url = "http://user:pass@fake-host:8332/"
        self.sent = []
        self.errors = {}
        self.calls = []
        self.stall = None  # an Event that getrawtransaction waits for
        self.network_info = {"version": 290100, "subversion": "/Satoshi:29.1.0/"}
        self.txs = {}
        self.package = {"package_msg": "success", "tx-results": {}}
        self.acceptances = []
        self.blocks = {}  # hex hash of a transaction -> that of its block
        self.heights = {}  # hex hash of a block -> its height
        self.unconfirmed = set()  # hex hashes of transactions that are in no block
        self.methods = set()  # that decide which protocol can be served
        self.indexes = {"txindex": {"synced": True}}
        self.url_changed = asyncio.Event()
        self.db = None  # whose chain it has
        self.branch = {}  # height -> hex hash of another block than that of the database

    def note_call(self, name, *args):
        """Note a call in ``calls``; raise the error that was set for it, if any."""
        self.calls.append((name, *args))
        if name in self.errors:
            raise DaemonError(self.errors[name])

    async def knows_method(self, method):
        return method in self.methods

    async def getindexinfo(self):
        return self.indexes

    def logged_url(self, url=None):
        return self.url.rpartition("@")[2]

    def set_url(self, url, login_files=None):
        if "@" not in url and not (login_files and login_files.cookies):
            raise OperatorError("invalid daemon URL")
        self.url, self.login_files = url, login_files

    def cached_height(self):
        return 10

    async def broadcast_transaction(self, raw_tx):
        self.note_call("sendrawtransaction", raw_tx)
        self.sent.append(raw_tx)
        return hash_to_hex_str(double_sha256(bytes.fromhex(raw_tx)))

    async def testmempoolaccept(self, raw_txs):
        self.note_call("testmempoolaccept", raw_txs)
        return self.acceptances

    async def submitpackage(self, raw_txs):
        self.note_call("submitpackage", raw_txs)
        return self.package

    async def mempool_fees(self):
        self.note_call("mempool_fees")
        return {"mempoolminfee": 2e-5, "minrelaytxfee": 1e-5, "incrementalrelayfee": 1e-5}

    async def getrawtransaction(self, hex_hash, verbose=False, *, max_bytes=None):
        self.note_call("getrawtransaction", hex_hash, verbose)
        if self.stall is not None:
            await self.stall.wait()
        result = self.txs.get(hex_hash, "beef" * 4)
        if verbose and not isinstance(result, dict):
            result = {"txid": hex_hash, "hex": result}
            if hex_hash not in self.unconfirmed:
                result["confirmations"] = 1
            if hex_hash in self.blocks:
                result["blockhash"] = self.blocks[hex_hash]
        if max_bytes is not None and len(json.dumps(result)) > max_bytes:
            raise ReplyTooLargeError({"code": -32603, "message": "too large"})
        return result

    def raw_tx(self, hex_hash, max_bytes=None):
        return asyncio.ensure_future(
            self.getrawtransaction(hex_hash, verbose=False, max_bytes=max_bytes)
        )

    async def getrawtransactions(self, hex_hashes):
        self.note_call("getrawtransactions", *hex_hashes)
        found = [self.txs.get(hex_hash) for hex_hash in hex_hashes]
        return [None if raw is None else bytes.fromhex(raw) for raw in found]

    async def block_hex_hashes(self, first, count):
        self.note_call("block_hex_hashes", first, count)
        hashes = [hash_to_hex_str(double_sha256(header)) for header in self.db.headers]
        heights = range(first, first + count)
        return [self.branch.get(height, hashes[height]) for height in heights]

    async def getblockheader(self, hex_hash):
        self.note_call("getblockheader", hex_hash)
        return {"height": self.heights[hex_hash]}

    async def relayfee(self):
        self.note_call("relayfee")
        return 0.00001

    async def estimatefee(self, number, mode=None):
        self.note_call("estimatefee", number, mode)
        return 0.0002

    async def getnetworkinfo(self):
        self.note_call("getnetworkinfo")
        return self.network_info


@dataclass
class Summary:
    hash: bytes
    fee: int
    has_unconfirmed_inputs: bool


class FakeMempool:
    def __init__(self):
        self.summaries = {}
        self.deltas = {}
        self.spends = {}
        self.utxos = {}
        self.histogram = [[12.5, 1000], [1.0, 50000]]
        self.failure = None
        self.tx_hashes = set()
        self.large = SimpleNamespace(is_large=lambda _hashX: False)
        self.watch = OutpointWatch()
        self.outpoints = {}  # outpoint -> what the mempool has of it
        self.newest = []
        self.reported = []

    def entered(self, tx_hash, raw=None):
        self.reported.append(tx_hash)

    def has_tx(self, tx_hash):
        return tx_hash in self.tx_hashes

    def outpoint(self, outpoint):
        return self.outpoints.get(outpoint, (None, None, None))

    def recent(self, count):
        return self.newest[:count]

    def info(self):
        return {"behind": False, "height": 10, "txs": 0}

    def has(self, hashX):
        known = self.sync_summaries(hashX), self.deltas, self.spends, self.utxos
        return bool(known[0]) or any(hashX in part for part in known[1:])

    def sync_summaries(self, hashX):
        if self.failure is not None:
            raise self.failure
        return list(self.summaries.get(hashX, []))

    def sync_balance_delta(self, hashX):
        return self.deltas.get(hashX, 0)

    def sync_spends(self, hashX):
        return set(self.spends.get(hashX, ()))

    def sync_unspent(self, hashX):
        return list(self.utxos.get(hashX, []))

    @property
    def index(self):
        return self

    async def balance_delta(self, hashX):
        return self.sync_balance_delta(hashX)

    async def compact_fee_histogram(self):
        return self.histogram


class FakePeers:
    def __init__(self, env, db):
        self.proxy = None
        self.protocol_max = None
        self.anon_logs = env.anon_logs
        self.added = []
        self.asked_by_tor = []
        self.bans_retried = 0
        self.is_discovering = False

    def retry_banned(self):
        self.bans_retried += 1

    async def discover_peers(self):
        self.is_discovering = True
        await asyncio.Event().wait()

    def info(self):
        return {"bad": 0, "good": 1, "never": 0, "stale": 0, "total": 1}

    def set_protocol_max(self, newest):
        self.protocol_max = newest

    async def add_localRPC_peer(self, real_name):
        self.added.append(real_name)

    async def on_add_peer(self, features, source_addr):
        self.added.append((features, source_addr))
        return True

    def on_peers_subscribe(self, is_tor):
        self.asked_by_tor.append(is_tor)
        return [["1.2.3.4", "example.com", ["v1.4.2", "s50002"]]]

    def coin_peers(self):
        return [["coin.example", "coin.example", ["v1.4", "s50002"]]]

    def proxy_address(self):
        return self.proxy

    async def rpc_data(self):
        return [
            {
                "host": "example.com",
                "features": {"hosts": {"example.com": {"ssl_port": 50002}}},
                "source": "peer",
                "ip_addr": "1.2.3.4",
                "last_good": 0,
                "last_try": 0,
                "try_count": 0,
                "status": "good",
            }
        ]


def script_hash(name):
    """Return (script hash as clients write it, hashX) of a made-up script."""
    digest = sha256(name.encode())
    return hash_to_hex_str(digest), digest[:HASHX_LEN]


def utxo(name, value, *, tx_num=1, tx_pos=0, height=5):
    return UTXO(tx_num, tx_pos, make_tx_hash(name), height, value)


class Client:
    """A client that sends the given bytes, and sorts the replies."""

    def __init__(self, send, recv, close, transport, at_end=lambda: False):
        self._send = send
        self._recv = recv
        self.close = close
        self.transport = transport
        self.has_ended = lambda: at_end() or transport.is_closing()
        self.stop_reading = transport.pause_reading
        self.abort = transport.abort
        self.notifications = []
        self._next_id = 0

    async def send(self, message):
        if not isinstance(message, bytes):
            message = json.dumps(message).encode()
        await self._send(message)

    async def recv_raw(self):
        return await asyncio.wait_for(self._recv(), WAIT_SECS)

    async def recv(self):
        """Return the next message as an object; None once the connection has ended."""
        raw = await self.recv_raw()
        return json.loads(raw) if raw else None

    async def ask(self, method, *params, **named):
        """Return the whole reply to a request; notifications before it are set aside."""
        self._next_id += 1
        await self.send(
            {
                "jsonrpc": "2.0",
                "method": method,
                "params": named or list(params),
                "id": self._next_id,
            }
        )
        while True:
            reply = await self.recv()
            assert reply is not None, "connection lost"
            if isinstance(reply, dict) and "id" not in reply:
                self.notifications.append(reply)
                continue
            return reply

    async def request(self, method, *params, **named):
        reply = await self.ask(method, *params, **named)
        assert "result" in reply, reply
        return reply["result"]

    async def error(self, method, *params, **named):
        """Return (code, message) of the error that a request meets."""
        reply = await self.ask(method, *params, **named)
        assert "error" in reply, reply
        return reply["error"]["code"], reply["error"]["message"]

    async def notification(self):
        """Return (method, params) of the next notification."""
        item = self.notifications.pop(0) if self.notifications else await self.recv()
        assert item is not None, "connection lost"
        return item["method"], item.get("params")

    async def no_notification(self):
        """Check that nothing has been sent: the reply to a ping comes next."""
        await self.request("server.ping")
        assert self.notifications == []


@dataclass
class World:
    env: object
    db: FakeDB
    bp: FakeBP
    daemon: FakeDaemon
    mempool: FakeMempool
    manager: SessionManager
    notifications: Notifications
    shutdown_event: asyncio.Event
    serving: asyncio.Task
    tls_client: ssl.SSLContext | None = None
    clients: list = field(default_factory=list)

    def port(self, protocol):
        for service, listener in self.manager.listeners.open.items():
            if service.protocol == protocol:
                return listener.port
        raise AssertionError(f"not listening: {protocol}")

    async def connect(self, protocol="tcp"):
        """Return a client that the server has taken, or refused."""
        port = self.port(protocol)
        tls = self.tls_client if protocol in ("ssl", "wss") else None
        if protocol in ("ws", "wss"):
            client = await self._connect_websocket(f"{protocol}://127.0.0.1:{port}", tls)
        else:
            client = await self._connect_raw(port, tls)
        self.clients.append(client)
        own_port = client.transport.get_extra_info("sockname")[1]
        # The system answers a connection before the server sees it.
        await until(lambda: self._has_session(own_port) or client.has_ended())
        return client

    def _has_session(self, client_port):
        addresses = (session.remote_address() for session in self.manager.sessions)
        return any(address is not None and address.port == client_port for address in addresses)

    async def _connect_raw(self, port, tls):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, limit=100_000_000
        )

        async def send(message):
            writer.write(message + b"\n")
            await writer.drain()

        async def recv():
            try:
                return await reader.readline()
            except ConnectionError:
                return b""

        async def close():
            writer.close()
            try:
                await writer.wait_closed()
            except (ConnectionError, ssl.SSLError):
                pass

        return Client(send, recv, close, writer.transport, reader.at_eof)

    async def _connect_websocket(self, uri, tls):
        ws = await websocket_connect(uri, ssl=tls, max_size=None)

        async def recv():
            try:
                return await ws.recv()
            except Exception:
                return b""

        async def close():
            # Before Python 3.11.5 a TLS transport that was lost raises it in abort().
            with contextlib.suppress(AttributeError):
                await ws.close()
            ws.transport.close()

        return Client(lambda message: ws.send(message.decode()), recv, close, ws.transport)

    def session(self, client_number=-1):
        """Return the server's side of a wallet connection, in order of arrival."""
        wallets = [s for s in self.manager.sessions if s.kind != "rpc"]
        return sorted(wallets, key=lambda s: s.session_id)[client_number]

    async def new_block(self, touched=(), **kwargs):
        self.db.add_block(**kwargs)
        await self.manager.notifier.notify(self.db.db_height, set(touched))

    def add_confirmed_block(self, scripts):
        """Add a block whose news the processor has: each of these hashXs has one transaction in it.

        Their histories must be as long as the longest, or empty.
        """
        first = max((len(found) for found in self.db.histories.values()), default=0)
        before = self.db.db_tip
        self.db.add_block()
        height, header = self.db.db_height, self.db.headers[-1]
        hashes = [make_tx_hash("confirmed", height, n) for n in range(len(scripts))]
        ends = array("Q", [first + len(scripts)])
        records = b"".join(sorted(packed.make_records([[x] for x in scripts], first)))
        addition = packed.Addition(records, b"".join(hashes), first, ends, height)
        self.bp.confirmed[before] = Confirmed(
            height, self.db.db_tip, b"".join(hashes), b"", addition, header
        )
        for hashX, tx_hash in zip(scripts, hashes, strict=True):
            self.db.histories.setdefault(hashX, []).append((tx_hash, height))

    async def new_confirmed_block(self, scripts):
        """Add such a block and notify of it."""
        self.add_confirmed_block(scripts)
        await self.manager.notifier.notify(self.db.db_height, set(scripts))

    async def touch(self, *touched):
        await self.manager.notifier.notify(self.db.db_height, set(touched))


async def until(condition, secs=WAIT_SECS):
    """Wait for a condition that other tasks bring about."""
    deadline = asyncio.get_running_loop().time() + secs
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def session_world(
    *,
    tls_client=None,
    db=None,
    mempool=None,
    ready=True,
    caught_up=None,
    lenient=False,
    node=(),
    **settings,
):
    """Yield a World that serves until the end of the block.

    Its clients are charged as all are, unless it is to be lenient to its own machine.
    ``caught_up`` is the event of the chain, for ``serve_always``; ``ready`` is that of the mempool.
    ``node`` names the methods that the node has of those which decide about the protocol.
    """
    env = fake_env(**settings)
    db = db or FakeDB()
    bp, daemon, mempool = FakeBP(db), FakeDaemon(), mempool or FakeMempool()
    daemon.db = db
    daemon.methods.update(node)
    shutdown_event, mempool_event = asyncio.Event(), asyncio.Event()
    manager = SessionManager(env, db, bp, daemon, mempool, shutdown_event, peers=FakePeers(env, db))
    if not lenient:
        manager.shared.table.leniency = lambda host: 1.0
    if ready:
        mempool_event.set()
    notifications = Notifications()
    serving = asyncio.create_task(manager.serve(notifications, mempool_event, caught_up))
    world = World(
        env, db, bp, daemon, mempool, manager, notifications, shutdown_event, serving, tls_client
    )
    world.mempool_event = mempool_event
    try:
        if ready:
            await until(lambda: serving.done() or len(manager.listeners.open) == len(env.services))
        # The server's own requests
        daemon.calls.clear()
        yield world
    finally:
        for client in world.clients:
            await client.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
