"""The fake node: JSON-RPC and REST over HTTP on loopback, for tests and benchmarks.

``Node`` answers as a node does.  It leaves open where its blocks and transactions are: subclasses
look them up, ``FakeNode`` in lists that a test changes, and that of ``benchmarks.node`` in the files of a
generated chain.  It replies at once, in the event loop, and costs little beside the server that a benchmark
measures; ``FakeNode`` has faults and delays.

Blocks and transactions are raw bytes.  Hashes are 32 bytes as on the wire; the RPC side shows
them reversed in hex, as a node does.  Parses transactions by itself (legacy and segwit), so that
it does not share mistakes with the code under test.
"""

import asyncio
import hashlib
import json

from tests.ports import free_port

METHOD_NOT_FOUND = -32601
INVALID_ADDRESS_OR_KEY = -5
INVALID_PARAMETER = -8
MISC_ERROR = -1
RELAY_FEE = 0.00001
MOST_HEADERS = 2_000
#: the call that is answered later, which is never one of a batch, and where its name is
WAIT, WAIT_WITHIN = "waitfornewblock", 120
PARSE_ERROR = b'{"result":null,"error":{"code":-32700,"message":"Parse error"},"id":null}'


def double_sha256(data):
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def to_hex(hash_):
    return hash_[::-1].hex()


class RPCFault(Exception):
    """A JSON-RPC error to answer with."""

    def __init__(self, code, message):
        super().__init__(code, message)
        self.code = code
        self.message = message


class Hex(str):
    """A result that needs no escape in JSON: looking for one in a block takes milliseconds."""

    __slots__ = ()


def encoded(result):
    """The JSON of a result, in bytes; bytes are JSON already."""
    if isinstance(result, bytes):
        return result
    if isinstance(result, Hex):
        return b'"%b"' % result.encode()
    return json.dumps(result).encode()


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


class HTTPConnection(asyncio.Protocol):
    """A connection: requests one after the other, each with a Content-Length or without a body."""

    def __init__(self, node):
        self._node = node
        self._buffer = bytearray()
        #: a request waits for its reply; the next one is read after it
        self._is_busy = False

    def connection_made(self, transport):
        self.transport = transport
        self._node.connections.add(self)

    def connection_lost(self, _error):
        self._node.connections.discard(self)

    def data_received(self, data):
        self._buffer += data
        self._next_request()

    def _next_request(self):
        while not self._is_busy and (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
            headers = {}
            for line in lines:
                name, _, value = line.partition(b":")
                headers[name.strip().lower()] = value.strip()
            start, end = end + 4, end + 4 + int(headers.get(b"content-length", 0))
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[start:end])
            del self._buffer[:end]
            method, target = first.decode("latin-1").split(" ")[:2]
            self._is_busy = True
            self._node.receive(self, method, target, headers, body)

    def send(self, status, reason, content_type, reply, *, most=None):
        """Reply to the request; only with the first ``most`` bytes, if that is given."""
        head = (
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(reply)}\r\n\r\n"
        )
        self.transport.writelines((head.encode(), reply[:most]))
        if self._is_busy:
            self._is_busy = False
            # Not from within: the loop above may have called.
            if self._buffer:
                asyncio.get_running_loop().call_soon(self._next_request)


class Node:
    """A node.  Subclasses have the attributes ``height`` and ``mempool``, and the look-ups."""

    content_type = "application/json"

    def __init__(self):
        self.network_info = {
            "version": 310000,
            "subversion": "/Fake:31.0.0/",
            "relayfee": RELAY_FEE,
        }
        self.indexes = {"txindex": {"synced": True, "best_block_height": 0}}
        self.connections = set()
        self.port = None
        #: an SSLContext of a node that is asked over https
        self.tls = None
        self._server = None
        #: calls that wait for another tip -> when they end without one
        self._waiting = {}

    # -- life

    async def start(self, port=None):
        """Listen; again on the same port after stop()."""
        self.port = self.port or (free_port() if port is None else port)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: HTTPConnection(self), "127.0.0.1", self.port, ssl=self.tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self):
        """Close everything; connections are refused until start()."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in list(self.connections):
            connection.transport.abort()
        for stop_waiting in list(self._waiting):
            stop_waiting()

    async def __aenter__(self):
        return await self.start()

    async def __aexit__(self, *_exc_info):
        await self.stop()

    # -- look-ups

    def _hash_at(self, height):
        """The hash of an active block; -1 is the tip's height."""
        raise NotImplementedError

    def find_block(self, hex_hash):
        """The height, None in a branch, and a block, of whatever type the others take."""
        raise NotImplementedError

    def _raw(self, block):
        """A block's bytes."""
        raise NotImplementedError

    def _header(self, block):
        """The bytes of a block's header."""
        raise NotImplementedError

    def block_txs(self, block):
        """Transactions of a block, each with a tx_hash."""
        raise NotImplementedError

    def find_tx(self, hex_hash):
        """A raw transaction, and the height of its block, None if that is the mempool."""
        raise NotImplementedError

    def _mempool_txids(self):
        raise NotImplementedError

    def _header_info(self, hex_hash):
        height, block = self.find_block(hex_hash)
        header = self._header(block)
        stamp = int.from_bytes(header[68:72], "little")
        info = {
            "hash": hex_hash,
            "height": height,
            "confirmations": -1,
            "version": int.from_bytes(header[:4], "little"),
            "merkleroot": to_hex(header[36:68]),
            "time": stamp,
            "mediantime": stamp,
            "nonce": int.from_bytes(header[76:80], "little"),
            "bits": to_hex(header[72:76]),
            "previousblockhash": to_hex(header[4:36]),
        }
        if height is not None:
            info["confirmations"] = self.height + 1 - height
            if height < self.height:
                info["nextblockhash"] = to_hex(self._hash_at(height + 1))
        return info

    # -- the tip

    def tip_changed(self):
        """Answer the calls that wait for it."""
        for stop_waiting, then in list(self._waiting.items()):
            stop_waiting()
            then()

    def when_tip_changes(self, msecs, then):
        """Call ``then`` at the next tip, or after ``msecs`` if that is not 0; return how to stop it."""

        def stop_waiting():
            self._waiting.pop(stop_waiting, None)
            if timer:
                timer.cancel()

        def end():
            stop_waiting()
            then()

        loop = asyncio.get_running_loop()
        timer = loop.call_later(msecs / 1e3, end) if msecs else None
        self._waiting[stop_waiting] = then
        return stop_waiting

    @property
    def waiting(self):
        """How many calls wait for another tip."""
        return len(self._waiting)

    # -- the calls

    def rpc_getblockcount(self):
        return self.height

    def rpc_getbestblockhash(self):
        return to_hex(self._hash_at(-1))

    def rpc_waitfornewblock(self, _msec=0):
        return {"hash": to_hex(self._hash_at(-1)), "height": self.height}

    def rpc_getblockhash(self, height):
        if not isinstance(height, int) or not 0 <= height <= self.height:
            raise RPCFault(INVALID_PARAMETER, "Block height out of range")
        return to_hex(self._hash_at(height))

    def rpc_getblock(self, hex_hash, verbose=True):
        _height, block = self.find_block(hex_hash)
        raw = self._raw(block)
        if not verbose:
            return Hex(raw.hex())
        tx_ids = [to_hex(tx.tx_hash) for tx in self.block_txs(block)]
        return {**self._header_info(hex_hash), "tx": tx_ids, "size": len(raw)}

    def rpc_getblockheader(self, hex_hash, verbose=True):
        if not verbose:
            return self._header(self.find_block(hex_hash)[1]).hex()
        return self._header_info(hex_hash)

    def rpc_getrawmempool(self):
        return list(self._mempool_txids())

    def rpc_getrawtransaction(self, hex_hash, verbose=0):
        try:
            raw, height = self.find_tx(hex_hash)
        except (ValueError, TypeError):
            raise RPCFault(INVALID_PARAMETER, "txid must be hexadecimal") from None
        if not verbose:
            return Hex(raw.hex())
        n_outputs = ParsedTx(raw).n_outputs
        info = {"txid": hex_hash, "hex": raw.hex(), "vout": [{"n": n} for n in range(n_outputs)]}
        if height is not None:
            block = self._header_info(to_hex(self._hash_at(height)))
            info |= {"blockhash": block["hash"], "confirmations": block["confirmations"]}
            info |= {"time": block["time"], "blocktime": block["time"]}
        return info

    def rpc_getnetworkinfo(self):
        return self.network_info

    def rpc_getmempoolinfo(self):
        return {
            "loaded": True,
            "size": len(self.mempool),
            "mempoolminfee": RELAY_FEE,
            "minrelaytxfee": RELAY_FEE,
            "incrementalrelayfee": RELAY_FEE,
        }

    def rpc_getindexinfo(self):
        return self.indexes

    def rpc_estimatesmartfee(self, blocks, _mode=None):
        return {"feerate": 0.0001, "blocks": blocks}

    # -- JSON-RPC

    def note_call(self, method, params):
        """Take note of a call before it is answered."""

    def _handler(self, method):
        """The function that answers a method, None for an unknown one."""
        return getattr(self, f"rpc_{method}", None)

    def _answer(self, request):
        """The JSON of the response to one request."""
        self.note_call(request["method"], request.get("params") or [])
        return self._response(request)

    def _response(self, request):
        method, params = request["method"], request.get("params") or []
        request_id = json.dumps(request.get("id")).encode()
        try:
            handler = self._handler(method)
            if handler is None:
                raise RPCFault(METHOD_NOT_FOUND, "Method not found")
            try:
                result = encoded(handler(*params))
            except TypeError as e:
                raise RPCFault(MISC_ERROR, f"{method} help: {e}") from None
        except RPCFault as e:
            error = json.dumps({"code": e.code, "message": e.message}).encode()
            return b'{"result":null,"error":%b,"id":%b}' % (error, request_id)
        return b'{"result":%b,"error":null,"id":%b}' % (result, request_id)

    def answer(self, body):
        """The JSON of the response to a body."""
        try:
            request = json.loads(body)
        except ValueError:
            return PARSE_ERROR
        if isinstance(request, list):
            return b"[%b]" % b",".join([self._answer(item) for item in request])
        return self._answer(request)

    # -- HTTP

    def rest_reply(self, path):
        """Status and body of a path below /rest/: blocks and headers."""
        what, _, name = path.removeprefix("/rest/").partition("/")
        name, _, form = name.rpartition(".")
        try:
            if what == "block" and form == "bin":
                return 200, self._raw(self.find_block(name)[1])
            if what == "headers" and form == "bin":
                count, _, hex_hash = name.partition("/")
                first = self.find_block(hex_hash)[0]
                end = min(first + min(int(count), MOST_HEADERS), self.height + 1)
                hashes = [to_hex(self._hash_at(height)) for height in range(first, end)]
                return 200, b"".join(self._header(self.find_block(h)[1]) for h in hashes)
        except (RPCFault, ValueError, TypeError):
            pass  # as for a missing resource
        return 404, b"not found"

    def receive(self, connection, method, target, _headers, body):
        """Reply to a request, at once or later."""
        if target.startswith("/rest/"):
            status, reply = self.rest_reply(target)
            reason = "OK" if status == 200 else "Error"
            connection.send(status, reason, "application/octet-stream", reply)
        elif method == "POST" and WAIT.encode() in body[:WAIT_WITHIN]:
            self._reply_at_tip(connection, json.loads(body))
        elif method == "POST":
            connection.send(200, "OK", self.content_type, self.answer(body))
        else:
            connection.send(405, "Error", "text/plain", b"only POST, and GET below /rest/")

    def _reply_at_tip(self, connection, request):
        params = request.get("params") or [0]
        self.note_call(WAIT, params)
        self.when_tip_changes(
            params[0],
            lambda: connection.send(200, "OK", self.content_type, self._response(request)),
        )
