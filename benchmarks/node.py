"""The fake node over a generated chain, fast enough not to be what a benchmark measures.

    python -m benchmarks.node FOLDER [--port 0] [--mempool 3000]

It answers as ``tests.fakes.node`` does: JSON-RPC over HTTP, single or batched, and blocks over REST.
Passwords are not looked at.  What a benchmark does to it are JSON-RPC methods, too:

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
from tests.fakes.node import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    RELAY_FEE,
    Node,
    RPCFault,
    parse_block_txs,
    to_hex,
)

PARTS = {"ordinary": ORDINARY, "busy": BUSY}
#: the peer insists on the second one, and does not use it in these measurements
INDEXES = ("txindex", "txospenderindex")
COIN = 10**8


class BenchNode(Node):
    """The chain of a folder as it is at the moment: a block is its number there."""

    def __init__(self, files, mempool=0):
        super().__init__()
        self.network_info |= {
            "subversion": "/Bench:31.0.0/",
            "incrementalfee": RELAY_FEE,
            "networkactive": True,
            "connections": 8,
            "warnings": [],
        }
        self.files = files
        self._number = {record.block_hash: n for n, record in enumerate(files.blocks)}
        self._main = files.numbers(MAIN)
        self._bytes = sum(len(files.raw_block(number)) for number in self._main)
        #: numbers of the blocks of the active chain, by height
        self.active = list(self._main)
        self._heights = {number: height for height, number in enumerate(self.active)}
        self._ahead = files.numbers(ORDINARY) + files.numbers(BUSY)
        #: txid -> number, of the known unconfirmed transactions
        self.mempool = {}
        self._mempool_text = None
        self._next_unconfirmed = 0
        self._confirmed = set()
        self.calls = Counter()
        #: when the tip changed, when a server was first notified, and when its block was fetched
        self.found_at = self.told_at = self.fetched_at = time.monotonic()
        #: when a server first got all of the mempool
        self.mempool_told_at = None
        self.rpc_bench_mempool(mempool)

    # --- what benchmarks do

    def rpc_bench_extend(self, part="ordinary", count=1):
        """Find blocks; those of parts before this one, too, all at once."""
        wanted = PARTS[part]
        ahead = self._ahead
        while ahead and self.files.blocks[ahead[0]].part != wanted:
            self._connect(ahead.pop(0))
        for _ in range(count):
            if not ahead:
                raise RPCFault(INVALID_PARAMETER, "no block is left")
            self._connect(ahead.pop(0))
        return self._found()

    def _connect(self, number):
        self._heights[number] = len(self.active)
        self.active.append(number)
        if self.files.unconfirmed:
            for tx in parse_block_txs(self.files.raw_block(number)):
                self._confirmed.add(tx.tx_hash)
                self.mempool.pop(to_hex(tx.tx_hash), None)
            self._mempool_text = None

    def rpc_bench_reorganise(self):
        """Switch to the branch."""
        fork = self.files.numbers(FORK)
        base = self.files.blocks[fork[0]].height
        self.active[base:] = fork
        self._heights = {number: height for height, number in enumerate(self.active)}
        self._ahead = []
        self.mempool.clear()
        self._mempool_text = None
        self._next_unconfirmed = len(self.files.unconfirmed)
        return self._found()

    def _found(self):
        self.found_at, self.told_at, self.fetched_at = time.monotonic(), None, None
        self.tip_changed()
        return self.rpc_bench_state()

    def rpc_bench_mempool(self, count=None):
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
        return self.rpc_bench_state()

    def rpc_bench_state(self):
        """The node's state, for the measurements."""
        return {
            "height": self.height,
            "tip": self.rpc_getbestblockhash(),
            "mempool": len(self.mempool),
            "found_at": self.found_at,
            "told_at": self.told_at,
            "fetched_at": self.fetched_at,
            "mempool_told_at": self.mempool_told_at,
            "calls": dict(self.calls),
        }

    # --- look-ups

    @property
    def height(self):
        return len(self.active) - 1

    def _hash_at(self, height):
        return self.files.blocks[self.active[height]].block_hash

    def find_block(self, hex_hash):
        try:
            number = self._number[bytes.fromhex(hex_hash)[::-1]]
        except (KeyError, ValueError, TypeError):
            raise RPCFault(INVALID_ADDRESS_OR_KEY, "Block not found") from None
        return self._heights.get(number), number

    def _raw(self, number):
        if self.fetched_at is None and number == self.active[-1]:
            self.fetched_at = time.monotonic()
        return self.files.raw_block(number)

    def _header(self, number):
        return self.files.header(number)

    def block_txs(self, number):
        return parse_block_txs(self.files.raw_block(number))

    def find_tx(self, txid):
        number = self.mempool.get(txid)
        if number is not None:
            return self.files.raw_unconfirmed(number), None
        for block, raw in self.files.find_tx(bytes.fromhex(txid)[::-1]):
            if block in self._heights:
                return raw, self._heights[block]
        raise RPCFault(INVALID_ADDRESS_OR_KEY, "No such mempool or blockchain transaction")

    def _header_info(self, hex_hash):
        _height, number = self.find_block(hex_hash)
        return super()._header_info(hex_hash) | {"nTx": self.files.blocks[number].tx_count}

    # --- how nodes answer

    def note_call(self, method, _params):
        self.calls[method] += 1

    def _handler(self, method):
        return super()._handler(method.replace(".", "_"))

    def _told(self):
        if self.told_at is None:
            self.told_at = time.monotonic()

    def rpc_getblockcount(self):
        self._told()
        return super().rpc_getblockcount()

    def rpc_waitfornewblock(self, _msec=0):
        self._told()
        return super().rpc_waitfornewblock()

    def rpc_getblockchaininfo(self):
        tip = self._header_info(self.rpc_getbestblockhash())
        return {
            "chain": "regtest",
            "blocks": tip["height"],
            "headers": tip["height"],
            "bestblockhash": tip["hash"],
            "mediantime": tip["mediantime"],
            "verificationprogress": 1.0,
            "initialblockdownload": False,
            "pruned": False,
            "size_on_disk": self._bytes,
        }

    def rpc_getindexinfo(self, wanted=None):
        built = {"synced": True, "best_block_height": self.height}
        return {name: built for name in INDEXES if wanted in (None, name)}

    def rpc_getzmqnotifications(self):
        return []

    def rpc_getrawmempool(self, verbose=False):
        if verbose:
            return {txid: self._about_unconfirmed(n) for txid, n in self.mempool.items()}
        if self.mempool_told_at is None:
            self.mempool_told_at = time.monotonic()
        if self._mempool_text is None:
            self._mempool_text = json.dumps(list(self.mempool)).encode()
        return self._mempool_text

    def _about_unconfirmed(self, number):
        record = self.files.unconfirmed[number]
        vsize = -(-record.weight // 4)
        return {"vsize": vsize, "weight": record.weight, "fees": {"base": record.fee / COIN}}

    def rest_reply(self, path):
        """Status and body of a path below /rest/: blocks, headers and chaininfo."""
        self.calls[f"rest {path.split('/')[2]}"] += 1
        if path == "/rest/chaininfo.json":
            return 200, json.dumps(self.rpc_getblockchaininfo()).encode()
        return super().rest_reply(path)


async def serve(node, port):
    """Listen until a signal to end (SIGTERM, SIGINT)."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ended.set)
    await node.start(port)
    print(f"listening on port {node.port}", flush=True)
    await ended.wait()
    await node.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--mempool", type=int, default=0)
    args = parser.parse_args()
    asyncio.run(serve(BenchNode(ChainFiles(args.folder), args.mempool), args.port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
