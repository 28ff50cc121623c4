"""A fake node with a scripted chain in memory, and with faults on demand.

async with FakeNode(blocks) as node:
    daemon = Daemon(coin, node.url)
    node.append(raw_block); node.fork(5, raw_blocks); node.mempool[tx_hash] = raw_tx
    node.fail_next(Fault.WARMING_UP, Fault.DISCONNECT)
"""

import asyncio
import base64
import json
import socket
import struct
from collections import Counter, deque
from enum import Enum, auto

from tests.fakes.node import (
    INVALID_ADDRESS_OR_KEY,
    METHOD_NOT_FOUND,
    Node,
    ParsedTx,
    RPCFault,
    double_sha256,
    encoded,
    parse_block_txs,
    to_hex,
)

USER, PASSWORD = "user", "secret-password"


class Fault(Enum):
    """A fault that one HTTP request meets instead of a reply."""

    WARMING_UP = auto()  # error -28, for each item of a batch
    PARSE_ERROR = auto()  # error -32700, one object even for a batch
    ITEM_PARSE_ERROR = auto()  # error -32700 in the first item of a batch
    WORK_QUEUE = auto()  # text "Work queue depth exceeded"
    UNAUTHORIZED = auto()  # 401 with an empty body
    DISCONNECT = auto()  # the connection closes without a reply
    RESET = auto()  # the same, abruptly
    DISCONNECT_MID_REPLY = auto()  # half of the announced body, then the connection closes
    GARBAGE = auto()  # claims to be JSON and is not
    NOT_HTTP = auto()  # not even HTTP
    WRONG_SHAPE = auto()  # JSON, but neither an object nor a list
    OTHER_SHAPE = auto()  # an object for a batch, a list for a single request
    ERROR_IS_TEXT = auto()  # a response whose error is no object
    SHORT_BATCH = auto()  # a batch with its last response missing
    NULL_RESULT = auto()  # result null without an error
    HANG = auto()  # no answer until the node is stopped


class FakeNode(Node):
    """A scripted node. Everything may be changed while it runs.

    blocks:   the active chain, raw, by height       mempool:  tx hash -> raw transaction
    overrides: method -> function of the parameters, instead of the built-in answer; it may raise
              RPCFault; None makes the method unknown
    gate:     requests wait for this asyncio.Event before they are answered (set by default)
    delay:    seconds to wait before each answer
    waits_for_blocks: whether it knows waitfornewblock
    login:    user:password that is demanded, in bytes; None accepts any
    parse_txs: set to False for blocks whose transactions are no transactions
    """

    def __init__(self, blocks=(), *, block_hash=None, parse_txs=True):
        super().__init__()
        self.blocks = list(blocks)
        self.mempool = {}
        self.parse_txs = parse_txs
        self.block_hash = block_hash or (lambda raw: double_sha256(raw[:80]))
        self.overrides = {}
        self.rest = 0  # blocks that the REST interface serves before it fails
        self.rest_paths = []
        self.delay = 0.0
        self.waits_for_blocks = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.login = None
        self.authorizations = []  # user:password of each HTTP request
        self.calls = []  # (method, params) in order of arrival
        self.bodies = []  # parsed JSON of each HTTP request
        self.in_flight = 0
        self.most_in_flight = 0
        self.delays = {}  # method -> seconds before a request that names it is answered
        self.threads = None  # a Semaphore: of requests that are answered at a time
        self.on_request = None  # called with (method, params) before each call is answered
        self._faults = deque()
        self._lasting_fault = None
        self._stale = {}  # hash -> raw block, of forks too
        self._tx_cache = {}  # block hash -> [ParsedTx]
        self._tasks = set()

    # -- life

    @property
    def url(self):
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{self.port}/"

    async def stop(self):
        """Close everything; connections are refused until start()."""
        await super().stop()
        # A task that was cancelled beside the error of its connection would never look at the error,
        # and asyncio would log that in some later test.
        for _ in range(3):
            await asyncio.sleep(0)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the script

    def fail_next(self, *faults):
        """Let the next HTTP requests meet these faults, one each."""
        self._faults.extend(faults)

    def fail_always(self, fault):
        """Let all requests meet fault; None ends it."""
        self._lasting_fault = fault

    def append(self, *raw_blocks):
        """Extend the chain; transactions of the new blocks leave the mempool."""
        for raw_block in raw_blocks:
            self.blocks.append(raw_block)
            for tx in self.block_txs(raw_block):
                self.mempool.pop(tx.tx_hash, None)
        self.tip_changed()

    def fork(self, height, raw_blocks):
        """Replace the blocks from height on; the old ones are still known by their hash."""
        for raw_block in self.blocks[height:]:
            self._stale[self.block_hash(raw_block)] = raw_block
        del self.blocks[height:]
        self.append(*raw_blocks)

    @property
    def height(self):
        return len(self.blocks) - 1

    def counts(self):
        """How often each method was called."""
        return Counter(method for method, _params in self.calls)

    # -- look-ups

    def _hash_at(self, height):
        return self.block_hash(self.blocks[height])

    def _raw(self, raw_block):
        return raw_block

    def _header(self, raw_block):
        return raw_block[:80]

    def _mempool_txids(self):
        return map(to_hex, self.mempool)

    def block_txs(self, raw_block):
        """Return the parsed transactions of a block; they are parsed once."""
        if not self.parse_txs:
            return []
        key = self.block_hash(raw_block)
        if key not in self._tx_cache:
            self._tx_cache[key] = parse_block_txs(raw_block)
        return self._tx_cache[key]

    def find_block(self, hex_hash):
        """Return (height, or None on a fork, raw block). A test may replace it."""
        for height, raw_block in enumerate(self.blocks):
            if to_hex(self.block_hash(raw_block)) == hex_hash:
                return height, raw_block
        raw_block = self._stale.get(bytes.fromhex(hex_hash)[::-1])
        if raw_block is None:
            raise RPCFault(INVALID_ADDRESS_OR_KEY, "Block not found")
        return None, raw_block

    def find_tx(self, hex_hash):
        tx_hash = bytes.fromhex(hex_hash)[::-1]
        if tx_hash in self.mempool:
            return self.mempool[tx_hash], None
        for height, raw_block in enumerate(self.blocks):
            for tx in self.block_txs(raw_block):
                if tx.tx_hash == tx_hash:
                    return tx.raw, height
        raise RPCFault(
            INVALID_ADDRESS_OR_KEY,
            "No such mempool or blockchain transaction. Use gettransaction for wallet transactions.",
        )

    # -- the calls

    def rpc_waitfornewblock(self, _msec=0):
        if not self.waits_for_blocks:
            raise RPCFault(METHOD_NOT_FOUND, "Method not found")
        return super().rpc_waitfornewblock()

    def rpc_sendrawtransaction(self, raw_hex):
        try:
            raw = bytes.fromhex(raw_hex)
            tx = ParsedTx(raw)
        except (ValueError, AssertionError, IndexError, KeyError):
            raise RPCFault(-22, "TX decode failed") from None
        self.mempool[tx.tx_hash] = raw
        return to_hex(tx.tx_hash)

    def rpc_submitpackage(self, raw_txs):
        for raw_tx in raw_txs:
            self.rpc_sendrawtransaction(raw_tx)
        return {"package_msg": "success", "tx-results": {}}

    def rpc_testmempoolaccept(self, raw_txs):
        txs = [ParsedTx(bytes.fromhex(raw_tx)) for raw_tx in raw_txs]
        return [{"txid": to_hex(tx.tx_hash), "allowed": True} for tx in txs]

    def rpc_gettxspendingprevout(self, outpoints, _options=None):
        answers = []
        for outpoint in outpoints:
            prevout = (bytes.fromhex(outpoint["txid"])[::-1], outpoint["vout"])
            answer = dict(outpoint)
            for raw_block in self.blocks:
                for tx in self.block_txs(raw_block):
                    if prevout in tx.prevouts:
                        answer["spendingtxid"] = to_hex(tx.tx_hash)
                        answer["blockhash"] = to_hex(self.block_hash(raw_block))
            for tx_hash, raw in self.mempool.items():
                if prevout in ParsedTx(raw).prevouts:
                    answer["spendingtxid"] = to_hex(tx_hash)
            answers.append(answer)
        return answers

    # -- JSON-RPC

    def note_call(self, method, params):
        self.calls.append((method, params))
        if self.on_request:
            self.on_request(method, params)

    def _handler(self, method):
        return self.overrides[method] if method in self.overrides else super()._handler(method)

    def reply_to(self, body, fault):
        """(status, reason, content type, body) for a request body. A test may replace it."""
        request = json.loads(body)
        self.bodies.append(request)
        is_batch = isinstance(request, list)
        items = request if is_batch else [request]

        def as_json(value):
            return 200, "OK", self.content_type, encoded(value)

        def error_items(code, message):
            error = {"code": code, "message": message}
            return [{"result": None, "error": error, "id": item["id"]} for item in items]

        if fault is Fault.WORK_QUEUE:
            return 500, "Internal", "text/html", b"Work queue depth exceeded\r\n"
        if fault is Fault.UNAUTHORIZED:
            return 401, "Unauthorized", "text/html", b""
        if fault is Fault.GARBAGE:
            return 200, "OK", self.content_type, b'{"result": [1, 2'
        if fault is Fault.WRONG_SHAPE:
            return as_json("what is this")
        if fault is Fault.OTHER_SHAPE:
            return as_json({"some": "object"} if is_batch else [{"result": 1, "error": None}])
        if fault is Fault.PARSE_ERROR:
            error = {"code": -32700, "message": "Parse error"}
            return as_json({"result": None, "error": error, "id": None})
        if fault is Fault.WARMING_UP:
            errors = error_items(-28, "Loading block index...")
            return as_json(errors if is_batch else errors[0])

        replies = [self._answer(item) for item in items]
        if fault is Fault.ITEM_PARSE_ERROR:
            replies[0] = encoded(error_items(-32700, "Parse error")[0])
        elif fault is Fault.ERROR_IS_TEXT:
            replies[-1] = encoded({"result": None, "error": "no", "id": items[-1]["id"]})
        elif fault is Fault.NULL_RESULT:
            replies[-1] = encoded({"result": None, "error": None, "id": items[-1]["id"]})
        elif fault is Fault.SHORT_BATCH:
            replies.pop()
        if is_batch:
            return as_json(b"[%b]" % b",".join(replies))
        return as_json(replies[0] if replies else None)

    # -- HTTP

    def rest_reply(self, path):
        """Status and body; ``rest``: whether there are any, and how many blocks before it fails."""
        self.rest_paths.append(path)
        if not self.rest or not path.startswith("/rest/block/"):
            return 404, b""
        self.rest -= 1
        return super().rest_reply(path)

    def receive(self, connection, method, target, headers, body):
        """Reply to a request in a task of its own, after faults and delays."""
        if method == "GET":
            super().receive(connection, method, target, headers, body)
            return
        task = asyncio.ensure_future(self._serve(connection, headers, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection, headers, body):
        auth = headers.get(b"authorization", b"").removeprefix(b"Basic ")
        login = base64.b64decode(auth)
        self.authorizations.append(login.decode())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            await self.gate.wait()
            fault = self._faults.popleft() if self._faults else self._lasting_fault
            if self.login is not None and login != self.login:
                fault = Fault.UNAUTHORIZED
            if self.threads is None:
                await self._respond(connection, body, fault)
            else:
                async with self.threads:
                    await self._respond(connection, body, fault)
        except BaseException:
            connection.transport.abort()
            raise
        finally:
            self.in_flight -= 1

    async def _respond(self, connection, body, fault):
        """Reply to one request, or meet it with a fault."""
        transport = connection.transport
        if fault is Fault.HANG:
            await asyncio.get_running_loop().create_future()
        if fault is Fault.DISCONNECT:
            transport.close()
            return
        if fault is Fault.RESET:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
            return
        if fault is Fault.NOT_HTTP:
            transport.write(b"220 mail.example ESMTP\r\n\r\n")
            transport.close()
            return
        if self.waits_for_blocks and fault is None and b'"waitfornewblock"' in body:
            params = json.loads(body)["params"]
            self.calls.append(("waitfornewblock", params))
            await self._wait_for_new_block(*params)
        for method, secs in self.delays.items():
            if f'"{method}"'.encode() in body:
                await asyncio.sleep(secs)
        status, reason, content_type, reply = self.reply_to(body, fault)
        half = len(reply) // 2 if fault is Fault.DISCONNECT_MID_REPLY else None
        connection.send(status, reason, content_type, reply, most=half)
        if half is not None:
            transport.close()

    async def _wait_for_new_block(self, msec):
        """Hold a call of waitfornewblock; its answer is made afterwards."""
        ended = asyncio.Event()
        stop_waiting = self.when_tip_changes(msec, ended.set)
        try:
            await ended.wait()
        finally:
            stop_waiting()
