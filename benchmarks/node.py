"""A node that serves a generated chain, fast enough not to be what a benchmark measures.

    python -m benchmarks.node FOLDER [--port 0] [--mempool 3000]

It answers as a node does: JSON-RPC over HTTP, single or batched, and blocks over REST.  Passwords
are not looked at.  What a benchmark does to it are JSON-RPC methods, too:

* ``bench.extend [part, count]``: let the next blocks of a part be found, see chain_files.py;
  confirmed transactions leave the mempool.  ``"busy"`` goes on from wherever the chain is;
* ``bench.mempool [count]``: let as many unconfirmed transactions be known as there are, all of them
  without a count;
* ``bench.reorganise []``: switch to the other branch; the mempool is emptied;
* ``bench.state []``: where it is; when its tip was found, when a server was first notified of it,
  and when its block was first fetched.

When it listens, it prints its port.  Times are those of CLOCK_MONOTONIC, which all processes share.
One thread, the event loop, in a process of its own.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.chain_files import BUSY, FORK, MAIN, ORDINARY, ChainFiles
from tests.fakes.fake_node import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    METHOD_NOT_FOUND,
    MISC_ERROR,
    RPCFault,
    parse_block_txs,
    to_hex,
)

PARTS = {"ordinary": ORDINARY, "busy": BUSY}
RELAY_FEE = 0.00001
#: the peer insists on the second one, and does not use it in these measurements
INDEXES = ("txindex", "txospenderindex")
MOST_HEADERS = 2_000
#: the call that is answered later, which is never one of a batch, and where its name is
WAIT, WAIT_WITHIN = "waitfornewblock", 120
COIN = 10**8


class Encoded(bytes):
    """A result that is JSON already."""

    __slots__ = ()


class Node:
    """The chain as it is at the moment."""

    def __init__(self, files, mempool=0):
        self.files = files
        self._number = {record.block_hash: n for n, record in enumerate(files.blocks)}
        self._main = files.numbers(MAIN)
        #: numbers of the blocks of the active chain, by height
        self.active = list(self._main)
        self._heights = {number: height for height, number in enumerate(self.active)}
        self._ahead = files.numbers(ORDINARY) + files.numbers(BUSY)
        #: txid -> number, of the known unconfirmed transactions
        self.mempool = {}
        self._mempool_text = None
        self._next_unconfirmed = 0
        self._confirmed = set()
        #: calls that wait for another tip -> when they end without one
        self._waiting = {}
        self.calls = Counter()
        #: when the tip changed, when a server was first notified, and when its block was fetched
        self.found_at = self.told_at = self.fetched_at = time.monotonic()
        #: when a server first got all of the mempool
        self.mempool_told_at = None
        self.methods = {
            "getblockcount": self.block_count,
            "getbestblockhash": lambda: self._hash_at(-1),
            "getblockhash": self.block_hash,
            "getblock": self.block,
            "getblockheader": self.block_header,
            "getblockchaininfo": self.chain_info,
            "getnetworkinfo": network_info,
            "getindexinfo": self.index_info,
            "getmempoolinfo": self.mempool_info,
            "getrawmempool": self.raw_mempool,
            "getrawtransaction": self.raw_transaction,
            "estimatesmartfee": lambda blocks, *_mode: {"feerate": 2e-4, "blocks": blocks},
            "getzmqnotifications": list,
            "bench.extend": self.extend,
            "bench.mempool": self.reveal,
            "bench.reorganise": self.reorganise,
            "bench.state": self.state,
        }
        self.reveal(mempool)

    # --- what benchmarks do

    def extend(self, part="ordinary", count=1):
        """Find blocks; those of parts before this one, too, all at once."""
        wanted = PARTS[part]
        ahead = self._ahead
        while ahead and self.files.blocks[ahead[0]].part != wanted:
            self._connect(ahead.pop(0))
        for _ in range(count):
            if not ahead:
                raise RPCFault(INVALID_PARAMETER, "no block is left")
            self._connect(ahead.pop(0))
        return self._tip_changed()

    def _connect(self, number):
        self._heights[number] = len(self.active)
        self.active.append(number)
        if self.files.unconfirmed:
            for tx in parse_block_txs(self.files.raw_block(number)):
                self._confirmed.add(tx.tx_hash)
                self.mempool.pop(to_hex(tx.tx_hash), None)
            self._mempool_text = None

    def reorganise(self):
        """Switch to the branch."""
        fork = self.files.numbers(FORK)
        base = self.files.blocks[fork[0]].height
        self.active[base:] = fork
        self._heights = {number: height for height, number in enumerate(self.active)}
        self._ahead = []
        self.mempool.clear()
        self._mempool_text = None
        self._next_unconfirmed = len(self.files.unconfirmed)
        return self._tip_changed()

    def _tip_changed(self):
        self.found_at, self.told_at, self.fetched_at = time.monotonic(), None, None
        for tell in list(self._waiting):
            tell()
        return self.state()

    def wait_for_block(self, request, respond):
        """``waitfornewblock``: respond with the tip when it is another, or after milliseconds."""
        loop = asyncio.get_running_loop()
        self.calls[WAIT] += 1
        msecs = (request.get("params") or [0])[0]

        def tell():
            timer = self._waiting.pop(tell)
            if timer:
                timer.cancel()
            tip = {"hash": self._hash_at(-1), "height": self.block_count()}
            reply = {"result": tip, "error": None, "id": request.get("id")}
            respond(json.dumps(reply).encode())

        self._waiting[tell] = loop.call_later(msecs / 1e3, tell) if msecs else None

    def reveal(self, count=None):
        """Let so many unconfirmed transactions be known, those that blocks confirmed not counted."""
        end = len(self.files.unconfirmed)
        if count is not None:
            end = min(end, max(count, self._next_unconfirmed))
        for number in range(self._next_unconfirmed, end):
            tx_hash = self.files.unconfirmed[number].tx_hash
            if tx_hash not in self._confirmed:
                self.mempool[to_hex(tx_hash)] = number
        self._next_unconfirmed = end
        self._mempool_text = self.mempool_told_at = None
        return self.state()

    def state(self):
        """The node's state, for the measurements."""
        return {
            "height": len(self.active) - 1,
            "tip": self._hash_at(-1),
            "mempool": len(self.mempool),
            "found_at": self.found_at,
            "told_at": self.told_at,
            "fetched_at": self.fetched_at,
            "mempool_told_at": self.mempool_told_at,
            "calls": dict(self.calls),
        }

    # --- look-ups

    def _hash_at(self, height):
        return to_hex(self.files.blocks[self.active[height]].block_hash)

    def _fetched(self, number):
        if self.fetched_at is None and number == self.active[-1]:
            self.fetched_at = time.monotonic()
        return self.files.raw_block(number)

    def _find(self, hex_hash):
        try:
            return self._number[bytes.fromhex(hex_hash)[::-1]]
        except (KeyError, ValueError, TypeError):
            raise RPCFault(INVALID_ADDRESS_OR_KEY, "Block not found") from None

    def raw_tx(self, txid):
        """A transaction, and the number of the active block that holds it or None."""
        number = self.mempool.get(txid)
        if number is not None:
            return self.files.raw_unconfirmed(number), None
        for block, raw in self.files.find_tx(bytes.fromhex(txid)[::-1]):
            if block in self._heights:
                return raw, block
        raise RPCFault(INVALID_ADDRESS_OR_KEY, "No such mempool or blockchain transaction")

    def _about_block(self, number):
        header, record = self.files.header(number), self.files.blocks[number]
        height, stamp = record.height, int.from_bytes(header[68:72], "little")
        active = number in self._heights
        about = {
            "hash": to_hex(record.block_hash),
            "height": height,
            "confirmations": len(self.active) - height if active else -1,
            "version": int.from_bytes(header[:4], "little"),
            "merkleroot": to_hex(header[36:68]),
            "time": stamp,
            "mediantime": stamp,
            "nonce": int.from_bytes(header[76:], "little"),
            "bits": to_hex(header[72:76]),
            "nTx": record.tx_count,
        }
        if height:
            about["previousblockhash"] = to_hex(header[4:36])
        return about

    # --- what nodes answer

    def block_count(self):
        if self.told_at is None:
            self.told_at = time.monotonic()
        return len(self.active) - 1

    def block_hash(self, height):
        if not 0 <= height < len(self.active):
            raise RPCFault(INVALID_PARAMETER, "Block height out of range")
        return self._hash_at(height)

    def block(self, hex_hash, verbosity=1):
        number = self._find(hex_hash)
        raw = self._fetched(number)
        if not verbosity:
            return Encoded(b'"%b"' % raw.hex().encode())
        txids = [to_hex(tx.tx_hash) for tx in parse_block_txs(raw)]
        return self._about_block(number) | {"size": len(raw), "tx": txids}

    def block_header(self, hex_hash, verbose=True):
        number = self._find(hex_hash)
        return self._about_block(number) if verbose else self.files.header(number).hex()

    def chain_info(self):
        tip = self._about_block(self.active[-1])
        return {
            "chain": "regtest",
            "blocks": tip["height"],
            "headers": tip["height"],
            "bestblockhash": tip["hash"],
            "mediantime": tip["mediantime"],
            "verificationprogress": 1.0,
            "initialblockdownload": False,
            "pruned": False,
        }

    def index_info(self, wanted=None):
        built = {"synced": True, "best_block_height": len(self.active) - 1}
        return {name: built for name in INDEXES if wanted in (None, name)}

    def mempool_info(self):
        return {
            "loaded": True,
            "size": len(self.mempool),
            "mempoolminfee": RELAY_FEE,
            "minrelaytxfee": RELAY_FEE,
            "incrementalrelayfee": RELAY_FEE,
        }

    def raw_mempool(self, verbose=False):
        if verbose:
            return {txid: self._about_unconfirmed(n) for txid, n in self.mempool.items()}
        if self.mempool_told_at is None:
            self.mempool_told_at = time.monotonic()
        if self._mempool_text is None:
            self._mempool_text = Encoded(json.dumps(list(self.mempool)).encode())
        return self._mempool_text

    def _about_unconfirmed(self, number):
        record = self.files.unconfirmed[number]
        vsize = -(-record.weight // 4)
        return {"vsize": vsize, "weight": record.weight, "fees": {"base": record.fee / COIN}}

    def raw_transaction(self, txid, verbosity=0):
        try:
            raw, number = self.raw_tx(txid)
        except (ValueError, TypeError):
            raise RPCFault(INVALID_PARAMETER, "txid must be hexadecimal") from None
        if not verbosity:
            return Encoded(b'"%b"' % raw.hex().encode())
        about = {"txid": txid, "hex": raw.hex(), "size": len(raw)}
        if number is not None:
            block = self._about_block(number)
            about |= {"blockhash": block["hash"], "confirmations": block["confirmations"]}
            about |= {"time": block["time"], "blocktime": block["time"]}
        return about

    def rest(self, path):
        """Status and body of a path below /rest/: blocks, headers and chaininfo."""
        what, _, rest = path.partition("/")
        self.calls[f"rest {what}"] += 1
        name, _, form = rest.rpartition(".")
        try:
            if what == "chaininfo.json":
                return 200, json.dumps(self.chain_info()).encode()
            if what == "block" and form == "bin":
                return 200, self._fetched(self._find(name))
            if what == "headers" and form == "bin":
                count, _, hex_hash = name.partition("/")
                height = self._heights[self._find(hex_hash)]
                numbers = self.active[height : height + min(int(count), MOST_HEADERS)]
                return 200, b"".join(map(self.files.header, numbers))
        except (RPCFault, ValueError, KeyError):
            pass  # as for a missing resource
        return 404, b"not found"

    # --- JSON-RPC

    def answer(self, body):
        """The body of an answer."""
        try:
            request = json.loads(body)
        except ValueError:
            return b'{"result":null,"error":{"code":-32700,"message":"Parse error"},"id":null}'
        if isinstance(request, list):
            return b"[%b]" % b",".join([self._answer(item) for item in request])
        return self._answer(request)

    def _answer(self, request):
        method, params = request["method"], request.get("params") or []
        request_id = json.dumps(request.get("id")).encode()
        self.calls[method] += 1
        error = None
        try:
            if method not in self.methods:
                raise RPCFault(METHOD_NOT_FOUND, "Method not found")
            result = self.methods[method](*params)
        except RPCFault as e:
            error = {"code": e.code, "message": e.message}
        except TypeError as e:
            error = {"code": MISC_ERROR, "message": str(e)}
        if error:
            return b'{"result":null,"error":%b,"id":%b}' % (json.dumps(error).encode(), request_id)
        text = result if isinstance(result, Encoded) else json.dumps(result).encode()
        return b'{"result":%b,"error":null,"id":%b}' % (text, request_id)


def network_info():
    return {
        "version": 310000,
        "subversion": "/Bench:31.0.0/",
        "relayfee": RELAY_FEE,
        "incrementalfee": RELAY_FEE,
        "networkactive": True,
        "connections": 8,
        "warnings": [],
    }


class Http(asyncio.Protocol):
    """A connection: requests one after the other, each with a Content-Length or without a body."""

    def __init__(self, node):
        self._node = node
        self._buffer = bytearray()

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
            length = 0
            for line in lines:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            start, end = end + 4, end + 4 + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[start:end])
            del self._buffer[:end]
            self._respond(first, body)

    def _respond(self, first, body):
        method, target = first.decode("latin-1").split(" ")[:2]
        status, reply = 405, b"only POST, and GET below /rest/"
        if target.startswith("/rest/"):
            status, reply = self._node.rest(target[6:])
        elif method == "POST" and WAIT.encode() in body[:WAIT_WITHIN]:
            self._node.wait_for_block(json.loads(body), lambda text: self._send("POST", 200, text))
            return
        elif method == "POST":
            status, reply = 200, self._node.answer(body)
        self._send(method, status, reply)

    def _send(self, method, status, reply):
        head = (
            f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\n"
            f"Content-Type: {'application/json' if method == 'POST' else 'application/octet-stream'}"
            f"\r\nContent-Length: {len(reply)}\r\n\r\n"
        )
        self._transport.writelines((head.encode(), reply))


async def serve(node, port):
    """Listen until a signal to end (SIGTERM, SIGINT)."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ended.set)
    server = await loop.create_server(lambda: Http(node), "127.0.0.1", port)
    print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
    await ended.wait()
    server.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--mempool", type=int, default=0)
    args = parser.parse_args()
    asyncio.run(serve(Node(ChainFiles(args.folder), args.mempool), args.port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
