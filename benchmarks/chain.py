"""Generate a chain for benchmarks: Bitcoin's regtest, of any length, the same on every machine.

    python -m benchmarks.chain FOLDER 400k [--seed 1] [--mempool 300000]

A server that trusts its node cannot distinguish it from a real chain: headers link and have
their little proof of work, merkle roots and witness commitments are right, coinbases name their
height and mature, and every UTXO is spent once.  Prints what was made as one JSON object.
"""

import argparse
import gc
import hashlib
import json
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.chain_files import BUSY, FORK, MAIN, ORDINARY, ChainWriter
from benchmarks.draws import PopulationDraws, UTXOSet
from benchmarks.population import Population
from benchmarks.shape import Shape
from benchmarks.targets import Sampler
from benchmarks.transactions import SignedFormat
from tests.fakes.chain import ChainMaker

#: the share of the rest of the mempool that an ordinary block confirms, if it is not too much
CONFIRMED_SHARE = 0.1


class BlocksOnDisk:
    """The store of a long chain, which does not fit into memory: writes the blocks, and counts.

    Only the UTXOs of blocks are kept that will be extended.
    part: the one that blocks are added to; branch: the block that will be extended twice
    """

    def __init__(self, writer, population, sampler, draw):
        self._writer, self._population, self._sampler = writer, population, sampler
        self._draw = draw
        self._tips = {}
        self.part, self.branch = MAIN, None
        self.totals = {"txs": 0, "inputs": 0, "outputs": 0, "bytes": 0, "coins": 0}
        self.digest = hashlib.sha256()

    def new_utxos(self):
        return UTXOSet(self._draw)

    def after(self, block_hash, _void=False):
        """Return a block's height, and the UTXOs after it, which become those of the next block."""
        height, utxos = self._tips[block_hash]
        return height, utxos.copy() if block_hash == self.branch else utxos

    def __setitem__(self, block_hash, block):
        self._tips[block_hash] = block.height, block.unspent
        if block.prev_hash != self.branch:
            self._tips.pop(block.prev_hash, None)
        self._writer.add_block(self.part, block_hash, block)
        self.digest.update(block_hash)
        if self.part == MAIN:
            txs, totals = block.txs, self.totals
            totals["txs"] += len(txs)
            totals["bytes"] += len(block.raw)
            totals["inputs"] += sum(len(tx.spent) or 1 for tx in txs)
            totals["outputs"] += sum(len(tx.utxos) for tx in txs)
            totals["coins"] = len(block.unspent)
            for tx in txs:
                self._population.count(tx.members)
            self._sampler.see(block.height, txs)

    def add_unconfirmed(self, tx):
        self.digest.update(tx.tx_hash)
        self._writer.add_unconfirmed(tx)


def write_chain(shape, writer):
    """Make one long chain: all parts, in the order in which they are on disk; the facts."""
    source = random.Random(shape.seed)
    population = Population(source, shape.txs, shape.crowd)
    form = SignedFormat(source)
    sampler = Sampler(shape)
    blocks = BlocksOnDisk(writer, population, sampler, source.random)
    maker = ChainMaker(format=form, draws=PopulationDraws(source, population, shape), blocks=blocks)
    tip = fork = maker.genesis_hash
    for height in range(1, shape.blocks + 1):
        if shape.fork and height == shape.blocks - shape.fork + 1:
            fork = blocks.branch = tip
        tip = maker.extend(tip, spends=shape.spends(height))
    # Of the main chain only: no branch is counted
    touched = list(population.touched)
    if shape.fork:
        blocks.part = FORK
        for height in range(shape.blocks - shape.fork + 1, shape.blocks + 2):
            count = shape.spends(min(height, shape.blocks))
            fork = maker.extend(fork, spends=count, part=FORK)
    pending = maker.unconfirmed(tip, shape.mempool)
    for tx in pending:
        blocks.add_unconfirmed(tx)
    blocks.part = ORDINARY
    for _ in range(shape.ordinary):
        count = min(shape.mean_spends, int(len(pending) * CONFIRMED_SHARE))
        confirmed, pending = pending[:count], pending[count:]
        tip = maker.extend(tip, confirmed, spends=shape.mean_spends, part=ORDINARY)
    blocks.part = BUSY
    for _ in range(shape.busy):
        tip = maker.extend(tip, spends=None, part=BUSY)
    facts = {"shape": asdict(shape), "digest": blocks.digest.hexdigest()} | blocks.totals
    writer.finish(facts, sampler.targets(population, touched))
    return facts


def make_chain(folder, shape):
    """Generate a chain in a folder, unless it is there already; the facts of it."""
    facts_file = folder / "chain.json"
    if facts_file.exists():
        facts = json.loads(facts_file.read_text())
        if facts["shape"] == asdict(shape):
            return facts
    gc.disable()  # millions of objects without a circle among them
    try:
        with ChainWriter(folder) as writer:
            return write_chain(shape, writer)
    finally:
        gc.enable()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("size", help="transactions of the main chain: 100k, 4m")
    for name in ("blocks", "seed", "mempool", "ordinary", "busy", "busy-txs", "crowd", "fork"):
        parser.add_argument(f"--{name}", type=int)
    args = vars(parser.parse_args())
    folder, size = args.pop("folder"), args.pop("size")
    changes = {key: value for key, value in args.items() if value is not None}
    start = time.monotonic()
    facts = make_chain(folder, Shape.sized(size, **changes))
    facts["seconds"] = round(time.monotonic() - start, 1)
    print(json.dumps(facts, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
