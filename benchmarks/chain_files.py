"""A generated chain on disk: its blocks, where each block and transaction is, and its mempool.

A folder holds

* ``blocks.dat``: raw blocks, one after the other, and ``mempool.dat``: raw transactions;
* ``blocks.idx``: a record for each block, in that order;
* ``txs.idx``: a record for each transaction in a block, sorted by the beginning of its hash;
* ``mempool.idx``: a record for each unconfirmed transaction, parents first;
* ``chain.json``: the shape and totals, and ``targets.json``: the subjects of requests to a server.

Little-endian; hashes as on the wire.  A folder without ``chain.json`` is incomplete.
"""

import contextlib
import json
import mmap
import struct
from typing import NamedTuple

MAIN, FORK, ORDINARY, BUSY = range(4)
#: offset, bytes, transactions, height, part (one of the four above), hash
BLOCK = struct.Struct("<QIIIB32s")
#: the first bytes of the hash, which is all of it that is needed, block number, offset, bytes
TX_KEY = 16
TX = struct.Struct("<16sIQI")
#: offset, bytes, fee in satoshis, weight, hash
UNCONFIRMED = struct.Struct("<QIQI32s")


class BlockRecord(NamedTuple):
    """The place and the contents of a block: see BLOCK."""

    offset: int
    size: int
    tx_count: int
    height: int
    part: int
    block_hash: bytes


class UnconfirmedRecord(NamedTuple):
    """The place and the contents of an unconfirmed transaction: see UNCONFIRMED."""

    offset: int
    size: int
    fee: int
    weight: int
    tx_hash: bytes


class ChainWriter:
    """Writes a folder; a context manager.  `finish` makes it complete."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "chain.json").unlink(missing_ok=True)
        self.folder = folder
        self._blocks = []
        self._txs = []
        self._unconfirmed = []
        self._block_offset = self._tx_offset = 0
        with contextlib.ExitStack() as stack:
            self._dat = stack.enter_context((folder / "blocks.dat").open("wb"))
            self._mempool = stack.enter_context((folder / "mempool.dat").open("wb"))
            self._stack = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self._stack.close()

    def add_block(self, part, block_hash, block):
        """A block of a part (MadeBlock)."""
        number, start = len(self._blocks), self._block_offset
        self._block_offset = end = start + len(block.raw)
        offset = end - sum(len(tx.raw) for tx in block.txs)
        for tx in block.txs:
            self._txs.append(TX.pack(tx.tx_hash[:TX_KEY], number, offset, len(tx.raw)))
            offset += len(tx.raw)
        self._dat.write(block.raw)
        record = (start, end - start, len(block.txs), block.height, part, block_hash)
        self._blocks.append(BLOCK.pack(*record))

    def add_unconfirmed(self, tx):
        """A transaction of the mempool."""
        record = (self._tx_offset, len(tx.raw), tx.fee, tx.weight, tx.tx_hash)
        self._unconfirmed.append(UNCONFIRMED.pack(*record))
        self._mempool.write(tx.raw)
        self._tx_offset += len(tx.raw)

    def finish(self, facts, targets):
        """Write the indexes, then the two JSON files."""
        self._stack.close()
        self._txs.sort()
        for name, records in (
            ("blocks", self._blocks),
            ("txs", self._txs),
            ("mempool", self._unconfirmed),
        ):
            (self.folder / f"{name}.idx").write_bytes(b"".join(records))
        (self.folder / "targets.json").write_text(json.dumps(targets))
        (self.folder / "chain.json").write_text(json.dumps(facts, indent=1) + "\n")


class ChainFiles:
    """Reads a folder.

    facts: the contents of chain.json; blocks: BlockRecords; unconfirmed: UnconfirmedRecords
    """

    def __init__(self, folder):
        self.folder = folder
        self.facts = json.loads((folder / "chain.json").read_text())
        self.blocks = [
            BlockRecord(*record)
            for record in BLOCK.iter_unpack((folder / "blocks.idx").read_bytes())
        ]
        self.unconfirmed = [
            UnconfirmedRecord(*record)
            for record in UNCONFIRMED.iter_unpack((folder / "mempool.idx").read_bytes())
        ]
        self._dat = _mapped(folder / "blocks.dat")
        self._mempool = _mapped(folder / "mempool.dat")
        self._txs = _mapped(folder / "txs.idx")

    def targets(self):
        """What to ask about; see targets.py."""
        return json.loads((self.folder / "targets.json").read_text())

    def numbers(self, part):
        """The numbers of the blocks of a part, by height."""
        return [number for number, record in enumerate(self.blocks) if record.part == part]

    def raw_block(self, number):
        """A whole block."""
        record = self.blocks[number]
        return self._dat[record.offset : record.offset + record.size]

    def header(self, number):
        """The 80 bytes of a block's header."""
        offset = self.blocks[number].offset
        return self._dat[offset : offset + 80]

    def raw_unconfirmed(self, number):
        """A transaction of the mempool."""
        record = self.unconfirmed[number]
        return self._mempool[record.offset : record.offset + record.size]

    def find_tx(self, tx_hash):
        """Pairs of block number and raw transaction: several, if branches share it."""
        key = tx_hash[:TX_KEY]
        low, high = 0, len(self._txs) // TX.size
        while low < high:
            middle = (low + high) // 2
            start = middle * TX.size
            if self._txs[start : start + TX_KEY] < key:
                low = middle + 1
            else:
                high = middle
        found = []
        for start in range(low * TX.size, len(self._txs), TX.size):
            got, number, offset, size = TX.unpack_from(self._txs, start)
            if got != key:
                break
            found.append((number, self._dat[offset : offset + size]))
        return found


def _mapped(path):
    """A file's bytes, read when they are needed."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
