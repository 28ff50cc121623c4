"""A node made of an HTTP server on loopback and a scripted chain, with faults on demand.

    async with FakeNode(blocks) as node:
        daemon = Daemon(coin, node.url)
        node.append(raw_block); node.fork(5, raw_blocks); node.mempool[tx_hash] = raw_tx
        node.fail_next(Fault.WARMING_UP, Fault.DISCONNECT)

Blocks and transactions are raw bytes. Hashes are 32 bytes as on the wire; the RPC side shows
them reversed in hex, as a node does. Parses transactions by itself (legacy and segwit), so that
it does not share mistakes with the code under test.
"""

import asyncio
import base64
import hashlib
import json
import socket
import struct
from collections import Counter, deque
from enum import Enum, auto

from tests.ports import free_port

USER, PASSWORD = "user", "secret-password"
ZERO_HASH = bytes(32)


def double_sha256(data):
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def to_hex(hash_):
    return hash_[::-1].hex()


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


class RPCFault(Exception):
    """A JSON-RPC error to answer with."""

    def __init__(self, code, message):
        super().__init__(code, message)
        self.code = code
        self.message = message


METHOD_NOT_FOUND = -32601
INVALID_ADDRESS_OR_KEY = -5
INVALID_PARAMETER = -8
MISC_ERROR = -1


class ParsedTx:
    """txid, raw, prevouts [(hash, idx)], n_outputs of one serialised transaction."""

    def __init__(self, data, start=0):
        self._data = data
        self._pos = start
        self._int(4)
        segwit = data[self._pos] == 0
        if segwit:
            self._pos += 2
        body_start = self._pos
        self.prevouts = []
        for _ in range(self._varint()):
            self.prevouts.append((self._bytes(32), self._int(4)))
            self._bytes(self._varint())
            self._int(4)
        self.n_outputs = self._varint()
        for _ in range(self.n_outputs):
            self._int(8)
            self._bytes(self._varint())
        body = data[body_start : self._pos]
        if segwit:
            for _ in self.prevouts:
                for _ in range(self._varint()):
                    self._bytes(self._varint())
        self._int(4)
        self.end = self._pos
        self.raw = data[start : self.end]
        stripped = self.raw[:4] + body + self.raw[-4:] if segwit else self.raw
        self.tx_hash = double_sha256(stripped)

    def _bytes(self, n):
        result = self._data[self._pos : self._pos + n]
        assert len(result) == n, "truncated transaction given to the fake node"
        self._pos += n
        return result

    def _int(self, n):
        return int.from_bytes(self._bytes(n), "little")

    def _varint(self):
        n = self._int(1)
        return n if n < 0xFD else self._int({0xFD: 2, 0xFE: 4, 0xFF: 8}[n])


def parse_block_txs(raw_block, header_size=80):
    """ParsedTx for each transaction of a raw block with a fixed-size header."""
    if len(raw_block) <= header_size:
        return []
    n = raw_block[header_size]
    pos = header_size + 1
    if n >= 0xFD:
        size = {0xFD: 2, 0xFE: 4, 0xFF: 8}[n]
        n = int.from_bytes(raw_block[pos : pos + size], "little")
        pos += size
    txs = []
    for _ in range(n):
        tx = ParsedTx(raw_block, pos)
        txs.append(tx)
        pos = tx.end
    return txs


class FakeNode:
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
        self.blocks = list(blocks)
        self.mempool = {}
        self.parse_txs = parse_txs
        self.block_hash = block_hash or (lambda raw: double_sha256(raw[:80]))
        self.overrides = {}
        self.network_info = {"version": 310000, "subversion": "/Fake:31.0.0/", "relayfee": 0.00001}
        self.indexes = {"txindex": {"synced": True, "best_block_height": 0}}
        self.content_type = "application/json"
        self.rest = 0  # blocks that the REST interface serves before it fails
        self.rest_paths = []
        self.delay = 0.0
        self.waits_for_blocks = False
        self.waiting = 0  # calls of it that are held now
        self._new_block = asyncio.Event()
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
        self._server = None
        self._port = None
        self._writers = set()
        self._tasks = set()

    # -- life

    @property
    def port(self):
        return self._port

    @property
    def url(self):
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{self._port}/"

    async def start(self):
        """Listen; again on the same port after stop()."""
        self._port = self._port or free_port()
        self._server = await asyncio.start_server(
            self._serve_connection, "127.0.0.1", self._port, limit=1 << 26
        )
        return self

    async def stop(self):
        """Close everything; connections are refused until start()."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        # A task that was cancelled beside the error of its connection would never look at the error,
        # and asyncio would log that in some later test.
        for _ in range(3):
            await asyncio.sleep(0)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self):
        return await self.start()

    async def __aexit__(self, *_exc_info):
        await self.stop()

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
            for tx in self._block_txs(raw_block):
                self.mempool.pop(tx.tx_hash, None)
        self._new_block.set()
        self._new_block.clear()

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

    def _block_txs(self, raw_block):
        if not self.parse_txs:
            return []
        key = self.block_hash(raw_block)
        if key not in self._tx_cache:
            self._tx_cache[key] = parse_block_txs(raw_block)
        return self._tx_cache[key]

    def _find_block(self, hex_hash):
        for height, raw_block in enumerate(self.blocks):
            if to_hex(self.block_hash(raw_block)) == hex_hash:
                return height, raw_block
        raw_block = self._stale.get(bytes.fromhex(hex_hash)[::-1])
        if raw_block is None:
            raise RPCFault(INVALID_ADDRESS_OR_KEY, "Block not found")
        return None, raw_block

    def _find_tx(self, hex_hash):
        tx_hash = bytes.fromhex(hex_hash)[::-1]
        if tx_hash in self.mempool:
            return self.mempool[tx_hash], None
        for height, raw_block in enumerate(self.blocks):
            for tx in self._block_txs(raw_block):
                if tx.tx_hash == tx_hash:
                    return tx.raw, height
        raise RPCFault(
            INVALID_ADDRESS_OR_KEY,
            "No such mempool or blockchain transaction. Use gettransaction for wallet transactions.",
        )

    def _header_info(self, hex_hash):
        height, raw_block = self._find_block(hex_hash)
        info = {"hash": hex_hash, "height": height, "confirmations": -1}
        info["previousblockhash"] = to_hex(raw_block[4:36])
        if height is not None:
            info["confirmations"] = len(self.blocks) - height
            if height < self.height:
                info["nextblockhash"] = to_hex(self.block_hash(self.blocks[height + 1]))
        return info

    # -- the calls

    def rpc_getblockcount(self):
        return self.height

    def rpc_getbestblockhash(self):
        return to_hex(self.block_hash(self.blocks[-1]))

    async def _wait_for_new_block(self, msec):
        """Hold a call of waitfornewblock; its answer is made afterwards."""
        self.waiting += 1
        try:
            await asyncio.wait_for(self._new_block.wait(), msec / 1000)
        except asyncio.TimeoutError:
            pass
        finally:
            self.waiting -= 1

    def rpc_waitfornewblock(self, _msec=0):
        if not self.waits_for_blocks:
            raise RPCFault(METHOD_NOT_FOUND, "Method not found")
        return {"hash": self.rpc_getbestblockhash(), "height": self.height}

    def rpc_getblockhash(self, height):
        if not isinstance(height, int) or not 0 <= height < len(self.blocks):
            raise RPCFault(INVALID_PARAMETER, "Block height out of range")
        return to_hex(self.block_hash(self.blocks[height]))

    def rpc_getblock(self, hex_hash, verbose=True):
        _height, raw_block = self._find_block(hex_hash)
        if not verbose:
            return raw_block.hex()
        tx_ids = [to_hex(tx.tx_hash) for tx in self._block_txs(raw_block)]
        return {**self._header_info(hex_hash), "tx": tx_ids, "size": len(raw_block)}

    def rpc_getblockheader(self, hex_hash, verbose=True):
        if not verbose:
            return self._find_block(hex_hash)[1][:80].hex()
        return self._header_info(hex_hash)

    def rpc_getrawmempool(self):
        return [to_hex(tx_hash) for tx_hash in self.mempool]

    def rpc_getrawtransaction(self, hex_hash, verbose=0):
        raw, height = self._find_tx(hex_hash)
        if not verbose:
            return raw.hex()
        n_outputs = ParsedTx(raw).n_outputs
        info = {"txid": hex_hash, "hex": raw.hex(), "vout": [{"n": n} for n in range(n_outputs)]}
        if height is not None:
            info["blockhash"] = to_hex(self.block_hash(self.blocks[height]))
            info["confirmations"] = len(self.blocks) - height
        return info

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
                for tx in self._block_txs(raw_block):
                    if prevout in tx.prevouts:
                        answer["spendingtxid"] = to_hex(tx.tx_hash)
                        answer["blockhash"] = to_hex(self.block_hash(raw_block))
            for tx_hash, raw in self.mempool.items():
                if prevout in ParsedTx(raw).prevouts:
                    answer["spendingtxid"] = to_hex(tx_hash)
            answers.append(answer)
        return answers

    def rpc_getnetworkinfo(self):
        return self.network_info

    def rpc_getmempoolinfo(self):
        return {
            "size": len(self.mempool),
            "mempoolminfee": 0.00001,
            "minrelaytxfee": 0.00001,
            "incrementalrelayfee": 0.00001,
        }

    def rpc_getindexinfo(self):
        return self.indexes

    def rpc_estimatesmartfee(self, blocks, _mode=None):
        return {"feerate": 0.0001, "blocks": blocks}

    # -- JSON-RPC

    def _answer(self, request):
        method, params = request["method"], request.get("params", [])
        self.calls.append((method, params))
        if self.on_request:
            self.on_request(method, params)
        reply = {"result": None, "error": None, "id": request["id"]}
        handler = getattr(self, f"rpc_{method}", None)
        if method in self.overrides:
            handler = self.overrides[method]
        try:
            if handler is None:
                raise RPCFault(METHOD_NOT_FOUND, "Method not found")
            try:
                reply["result"] = handler(*params)
            except TypeError as e:
                raise RPCFault(MISC_ERROR, f"{method} help: {e}") from None
        except RPCFault as e:
            reply["error"] = {"code": e.code, "message": e.message}
        return reply

    def _reply_to(self, body, fault):
        """(status, reason, content type, body) for a request body."""
        request = json.loads(body)
        self.bodies.append(request)
        is_batch = isinstance(request, list)
        items = request if is_batch else [request]

        def as_json(value):
            return 200, "OK", self.content_type, json.dumps(value).encode()

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
            replies[0] = error_items(-32700, "Parse error")[0]
        elif fault is Fault.ERROR_IS_TEXT:
            replies[-1] = {"result": None, "error": "no", "id": items[-1]["id"]}
        elif fault is Fault.NULL_RESULT:
            replies[-1] = {"result": None, "error": None, "id": items[-1]["id"]}
        elif fault is Fault.SHORT_BATCH:
            replies.pop()
        return as_json(replies if is_batch else replies[0] if replies else None)

    # -- HTTP

    async def _serve_connection(self, reader, writer):
        self._writers.add(writer)
        self._tasks.add(asyncio.current_task())
        try:
            while await self._serve_request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or stop() ends it
        finally:
            self._writers.discard(writer)
            self._tasks.discard(asyncio.current_task())
            writer.close()

    async def _serve_request(self, reader, writer):
        """Answer one request; False if the connection is to be closed."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if head[0].startswith("GET "):
            return await self._serve_rest(writer, head[0].split()[1])
        auth = headers.get("authorization", "").removeprefix("Basic ")
        self.authorizations.append(base64.b64decode(auth).decode())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            await self.gate.wait()
            fault = self._faults.popleft() if self._faults else self._lasting_fault
            if self.login is not None and base64.b64decode(auth) != self.login:
                fault = Fault.UNAUTHORIZED
            if self.threads is None:
                return await self._respond(writer, body, fault)
            async with self.threads:
                return await self._respond(writer, body, fault)
        finally:
            self.in_flight -= 1

    async def _serve_rest(self, writer, path):
        """Answer a GET; ``rest``: whether, and how many blocks before it fails."""
        self.rest_paths.append(path)
        reply, status = b"", 404
        if self.rest and path.startswith("/rest/block/"):
            self.rest -= 1
            try:
                reply = bytes.fromhex(self.rpc_getblock(path[12:-4], False))
                status = 200
            except RPCFault:
                pass
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: application/octet-stream\r\n"
            f"Content-Length: {len(reply)}\r\n\r\n".encode()
            + reply
        )
        await writer.drain()
        return True

    async def _respond(self, writer, body, fault):
        if fault is Fault.HANG:
            await asyncio.get_running_loop().create_future()
        if fault is Fault.DISCONNECT:
            return False
        if fault is Fault.RESET:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if fault is Fault.NOT_HTTP:
            writer.write(b"220 mail.example ESMTP\r\n\r\n")
            return False
        if self.waits_for_blocks and fault is None and b'"waitfornewblock"' in body:
            self.calls.append(("waitfornewblock", json.loads(body)["params"]))
            await self._wait_for_new_block(*json.loads(body)["params"])
        for method, secs in self.delays.items():
            if f'"{method}"'.encode() in body:
                await asyncio.sleep(secs)
        status, reason, content_type, reply = self._reply_to(body, fault)
        writer.write(
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(reply)}\r\n\r\n".encode()
        )
        if fault is Fault.DISCONNECT_MID_REPLY:
            writer.write(reply[: len(reply) // 2])
            await writer.drain()
            return False
        writer.write(reply)
        await writer.drain()
        return True
