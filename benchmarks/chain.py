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
from benchmarks.population import P2PKH, P2TR, P2WPKH, Population
from benchmarks.shape import Shape
from benchmarks.targets import Sampler
from benchmarks.transactions import MadeTx, TxMaker, UTXOSet, varint
from tests.fakes.chain import GENESIS_HEADER, GENESIS_TIME, SUBSIDY, header_of, merkle_root
from tests.fakes.node import double_sha256

BLOCK_SECS = 600
#: the last byte of a hash that regtest's target allows is no greater
MOST_LAST_BYTE = 0x7F
HALVING = 150
VERSION = 0x20000000
MATURITY = 100
MOST_WEIGHT = 3_990_000
#: the outputs that a busy block spends: 6,000 of these and 12,000 new ones just fill it
ONE_KEY = {P2PKH, P2WPKH, P2TR}
#: a transaction fans out while there are fewer UTXOs than this times those of a block
COINS_PER_SPEND = 20
FAN = 30
#: share of unconfirmed transactions that spend another one's output
CHAINED_SHARE = 0.25
#: UTXOs that the mempool leaves to blocks
RESERVE = 5_000
#: the share of the rest of the mempool that an ordinary block confirms, if it is not too much
CONFIRMED_SHARE = 0.1
GENESIS_TX = bytes.fromhex(
    "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d"
    "0104455468652054696d65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66"
    "207365636f6e64206261696c6f757420666f722062616e6b73ffffffff0100f2052a01000000434104678afdb0fe55"
    "48271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba"
    "0b8d578a4c702b6bf11d5fac00000000"
)


class Tip:
    """The base of the next block: height, hash, UTXOs, and coinbases that are not yet mature."""

    def __init__(self, height, block_hash, utxos, immature):
        self.height, self.block_hash = height, block_hash
        self.utxos, self.immature = utxos, immature

    def copy(self):
        return Tip(self.height, self.block_hash, self.utxos.copy(), list(self.immature))

    def mature(self, draw):
        """Let coinbases be spent that the next block may spend."""
        while self.immature and self.immature[0][0] + MATURITY <= self.height + 1:
            self.utxos.add(self.immature.pop(0)[1], draw)


class ChainOnDisk:
    """Makes one long chain and writes it, as it does not fit into memory."""

    def __init__(self, shape, writer):
        self.shape, self._writer = shape, writer
        source = random.Random(shape.seed)
        self._draw = source.random
        self._population = Population(source, shape.txs, shape.crowd)
        self._txs = TxMaker(source, self._population)
        self._sampler = Sampler(shape)
        self._totals = {"txs": 0, "inputs": 0, "outputs": 0, "bytes": 0, "coins": 0}
        self._digest = hashlib.sha256()

    def make(self):
        """All parts, in the order in which they are on disk; the facts."""
        shape = self.shape
        genesis = MadeTx(GENESIS_TX, double_sha256(GENESIS_TX), bytes(32), 0, 0, 1, [], [], set())
        tip = Tip(0, double_sha256(GENESIS_HEADER), UTXOSet(), [])
        self._write(tip, MAIN, GENESIS_HEADER, [genesis])
        forked = None
        for height in range(1, shape.blocks + 1):
            if height == shape.blocks - shape.fork + 1:
                forked = tip.copy()
            self._extend(tip, MAIN, lambda t=tip, h=height: self._spends(t, shape.spends(h)))
        self._totals["coins"] = len(tip.utxos)
        # Of the main chain only: no branch is counted
        touched = list(self._population.touched)
        if forked:
            for height in range(shape.blocks - shape.fork + 1, shape.blocks + 2):
                count = shape.spends(min(height, shape.blocks))
                self._extend(forked, FORK, lambda n=count: self._spends(forked, n))
        self._hold_back(tip, self._unconfirmed(tip))
        facts = {"shape": asdict(shape), "digest": self._digest.hexdigest()} | self._totals
        self._writer.finish(facts, self._sampler.targets(self._population, touched))
        return facts

    def _hold_back(self, tip, pending):
        for _ in range(self.shape.ordinary):
            mean = self.shape.mean_spends
            count = min(mean, int(len(pending) * CONFIRMED_SHARE))
            confirmed, pending = pending[:count], pending[count:]
            self._extend(tip, ORDINARY, lambda c=confirmed, n=mean: [*c, *self._spends(tip, n)])
        for _ in range(self.shape.busy):
            self._extend(tip, BUSY, lambda: self._busy_spends(tip))

    # --- transactions of a block

    def _spends(self, tip, count):
        """As many transactions as are wanted, the UTXOs of each there for the next."""
        draw, utxos, txs = self._draw, tip.utxos, self._txs
        enough = max(COINS_PER_SPEND * max(count, 20), self.shape.enough_utxos(tip.height + 1))
        made = []
        for _ in range(count):
            if len(utxos) < enough and draw() < 0.3:
                payees = [self._population.choose() for _ in range(FAN)]
                tx = txs.spend([utxos.take(draw)], payees)
            else:
                inputs = min(txs.input_count(), 1 + len(utxos) // 4)
                tx = txs.spend([utxos.take(draw) for _ in range(inputs)], txs.payees())
            utxos.add(tx.utxos, draw)
            made.append(tx)
        return made

    def _busy_spends(self, tip):
        """Transactions that pay to each of the crowd once, until the block is full."""
        crowd = [(o.script, o.kind, o.number) for o in self._population.crowd]
        made, weight = [], 0
        while len(made) < self.shape.busy_txs and weight < MOST_WEIGHT:
            payees = [crowd.pop() for _ in range(min(2, len(crowd)))]
            payees = payees or [self._population.choose(), self._population.choose()]
            tx = self._txs.spend([self._small_coin(tip)], payees)
            tip.utxos.add(tx.utxos, self._draw)
            weight += tx.weight
            made.append(tx)
        assert not crowd
        return made

    def _small_coin(self, tip):
        """A UTXO that one key unlocks, which takes few bytes; any one, if none is found."""
        passed = []
        utxo = tip.utxos.take(self._draw)
        while utxo.kind not in ONE_KEY and len(tip.utxos) and len(passed) < 20:
            passed.append(utxo)
            utxo = tip.utxos.take(self._draw)
        tip.utxos.add(passed, self._draw)
        return utxo

    def _unconfirmed(self, tip):
        """The mempool, parents first; its inputs are removed from the UTXOs."""
        draw, txs, utxos = self._draw, self._txs, tip.utxos
        made, chainable = [], []
        for number in range(self.shape.mempool):
            spare = max(0, len(utxos) - RESERVE)
            # UTXOs are made to last; then what is unconfirmed is spent.
            scarce = 1 - spare / (2 * (self.shape.mempool - number))
            if chainable and draw() < max(scarce, CHAINED_SHARE):
                place = int(draw() * len(chainable))
                chainable[place], chainable[-1] = chainable[-1], chainable[place]
                spent = [chainable.pop()]
            elif len(utxos):
                inputs = min(txs.input_count(), max(1, spare))
                spent = [utxos.take(draw) for _ in range(min(inputs, len(utxos)))]
            else:
                break  # nothing can be spent
            tx = txs.spend(spent, txs.payees())
            chainable += tx.utxos
            self._digest.update(tx.tx_hash)
            self._writer.add_unconfirmed(tx)
            made.append(tx)
        return made

    # --- blocks

    def _extend(self, tip, part, make_txs):
        """Put a block on a tip."""
        draw = self._draw
        tip.mature(draw)
        txs = make_txs()
        height = tip.height + 1
        reward = (SUBSIDY >> height // HALVING) + sum(tx.fee for tx in txs)
        hashes = [bytes(32), *(tx.witness_hash for tx in txs)]
        commitment = double_sha256(merkle_root(hashes) + bytes(32))
        coinbase = self._txs.coinbase(height, reward, commitment, part)
        txs.insert(0, coinbase)
        root = merkle_root([tx.tx_hash for tx in txs])
        stamp = GENESIS_TIME + BLOCK_SECS * height
        header, nonce = b"", 0
        while not header or double_sha256(header)[31] > MOST_LAST_BYTE:
            header = header_of(tip.block_hash, root, version=VERSION, time=stamp, nonce=nonce)
            nonce += 1
        tip.height, tip.block_hash = height, double_sha256(header)
        tip.immature.append((height, coinbase.utxos))
        self._write(tip, part, header, txs)

    def _write(self, tip, part, header, txs):
        head = header + varint(len(txs))
        self._writer.add_block(tip.height, part, tip.block_hash, head, txs)
        self._digest.update(tip.block_hash)
        if part == MAIN:
            self._totals["txs"] += len(txs)
            self._totals["bytes"] += len(head) + sum(len(tx.raw) for tx in txs)
            self._totals["inputs"] += sum(tx.inputs for tx in txs)
            self._totals["outputs"] += sum(len(tx.utxos) for tx in txs)
            for tx in txs:
                self._population.count(tx.members)
            self._sampler.see(tip.height, txs)


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
            return ChainOnDisk(shape, writer).make()
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
