"""The parts of an initial sync, each timed by itself: CPU for a transaction.

All of a chain's blocks are indexed from the first to the last, and flushed once to an engine in a
folder of its own.  A part's time is that of the thread it runs in; the work of the engine's own
threads is a part too.  Fetching is none: it waits for the node.
"""

import shutil
import time

from electrumx.lib.util import LogicalFile
from electrumx.server.block_processor.compiled_indexer import CompiledIndex
from electrumx.server.history.store import History
from electrumx.server.storage.base import db_class
from tests.fakes.chain import COIN

#: bytes of blocks that are parsed, and then indexed, at a time
PARSE_BYTES = 1_000_000


def none_on_disk(outpoints, _spent, exact=False):
    """Find no UTXO: all that is spent is in memory."""
    return [None] * len(outpoints)


class Clock:
    """CPU seconds by part."""

    def __init__(self):
        self.parts = {}

    def time(self, part, func, *args):
        """Call a function; its time is the part's."""
        start = time.thread_time()
        result = func(*args)
        self.parts[part] = self.parts.get(part, 0.0) + time.thread_time() - start
        return result


def _megabytes(raws):
    part, size = [], 0
    for raw in raws:
        part.append(raw)
        size += len(raw)
        if size >= PARSE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _index(clock, index, raws):
    """Index blocks; return the number of transactions and their hashes, for each block."""
    tx_count, hashes = 0, []
    for part in _megabytes(raws):
        blocks = clock.time(
            "parse and hash", lambda raws: [index.parse(raw, len(hashes)) for raw in raws], part
        )
        clock.time("find spends that are not in memory", index.prepare, blocks)
        for block in blocks:
            clock.time("UTXOs and history of blocks", index.advance, block, tx_count, len(hashes))
            tx_count += block.tx_count
            hashes.append(clock.time("take tx hashes", lambda block: block.tx_hashes, block))
    return tx_count, hashes


def _write_history(clock, index, engine, folder):
    history = History()
    history.open_db(engine, True, 0, False, name=str(folder / "hist"))
    clock.time("sort history by script", index.sort_history)
    index.sort_history = lambda: None
    clock.time("rows of history to the engine", history.flush, index)
    clock.time("closing", history.close_db)


def _write_coins(clock, index, engine, folder):
    store = engine(str(folder / "utxo"), True)
    store.end_bulk_load()
    with store.write_batch() as batch:
        clock.time("rows of UTXOs to the batch", index.adds.put_rows, batch.put)
        start = time.thread_time()
    clock.parts["the batch of UTXOs to the engine"] = time.thread_time() - start
    index.adds.clear()
    clock.time("closing", store.close)


def measure(raws, engine, folder):
    """Part -> CPU microseconds for a transaction; the number of transactions."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    clock = Clock()
    try:
        index = CompiledIndex.for_coin(COIN, False, none_on_disk)
        tx_count, hashes = _index(clock, index, raws)
        file = LogicalFile(folder / "hashes", 4, 16_000_000)
        clock.time("write tx hashes", lambda: file.write(0, b"".join(hashes), sync=True))
        process, thread = time.process_time(), time.thread_time()
        clock.time("freeze the batch to be flushed", index.freeze, True)
        _write_history(clock, index, db_class(engine), folder)
        _write_coins(clock, index, db_class(engine), folder)
        own = time.thread_time() - thread
        clock.parts["the engine's own threads"] = time.process_time() - process - own
    finally:
        shutil.rmtree(folder)
    return {part: secs / tx_count * 1e6 for part, secs in clock.parts.items()}, tx_count
