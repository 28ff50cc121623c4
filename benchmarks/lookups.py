"""Look-ups of unspent outputs in a large store, as blocks and the mempool make them.

Microseconds for each outpoint, in batches of the size of a block's, which are sorted: with all tables in
the system's cache, and *cold*, after they were dropped from it.  The store has as many UTXOs as are
asked for; mainnet's has 170 million.
"""

import contextlib
import os
import random
import shutil
import time
from types import SimpleNamespace

from electrumx.server.db.utxo_lookup import UTXOLookup, row_order
from electrumx.server.storage.base import db_class
from electrumx.server.storage.schema import UTXO_LOOKUP_LEN
from electrumx.server.storage.tuning import Tuning

BATCH = 5_000
BATCHES = 4
ROWS_AT_ONCE = 100_000
ENGINES = ("leveldb", "rocksdb")


def measure(utxos, cache_mb, folder, say):
    """Return figures by their names, of both engines as far as they are installed."""
    figures = {}
    for engine in ENGINES:
        try:
            klass = db_class(engine)
        except ImportError as e:
            say(f"without {engine}: {e}")
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        figures |= _measure_engine(klass, utxos, Tuning.of_machine(cache_mb), folder, say)
    shutil.rmtree(folder, ignore_errors=True)
    return figures


def _measure_engine(klass, utxos, tuning, folder, say):
    name = str(folder / "utxo")
    store = klass(name, True, prefix_len=UTXO_LOOKUP_LEN, tuning=tuning)
    start = time.monotonic()
    _fill(store, utxos)
    store.end_bulk_load(compact=True)
    store.close()
    megabytes = sum(path.stat().st_size for path in (folder / "utxo").iterdir()) / 1e6
    say(
        f"{klass.ENGINE}: {utxos:,d} UTXOs, {megabytes:,.0f} MB in {time.monotonic() - start:.0f} s"
    )
    figures = {}
    for cold, one_thread in ((False, True), (True, True), (True, False)):
        store = klass(name, False, prefix_len=UTXO_LOOKUP_LEN, tuning=tuning)
        lookup = UTXOLookup(_stores(store, tuning))
        # Several threads are used by themselves where rows are slow to come.
        lookup.COLD_SECS = float("inf") if one_thread else 0.0
        if not cold:
            _look_up(lookup, utxos, seed=1)
        else:
            drop_caches(folder / "utxo")
        secs = _look_up(lookup, utxos, seed=1)
        lookup.close()
        store.close()
        words = (
            f"{'cold' if cold else 'hot'}, {'1' if one_thread else tuning.lookup_threads} threads"
        )
        figures[f"look-up, {klass.ENGINE}, {words}"] = secs * 1e6
        say(f"{klass.ENGINE}, {words}: {secs * 1e6:,.1f} us")
    return figures


def _tx_hash(number):
    """The hash of the transaction of a UTXO: random, but the same each time."""
    return random.Random(number).randbytes(32)


def _fill(store, utxos):
    for first in range(0, utxos, ROWS_AT_ONCE):
        with store.write_batch() as batch:
            for number in range(first, min(first + ROWS_AT_ONCE, utxos)):
                source = random.Random(number)
                prefix, hashX = source.randbytes(32)[:4], source.randbytes(11)
                suffix = bytes(4) + number.to_bytes(5, "little")
                batch.put(b"h" + prefix + suffix, hashX)
                batch.put(b"u" + hashX + suffix, number.to_bytes(8, "little"))


def _look_up(lookup, utxos, seed):
    """Return the seconds of a look-up."""
    choose = random.Random(seed)
    secs = 0.0
    for _ in range(BATCHES):
        numbers = [choose.randrange(utxos) for _ in range(min(BATCH, utxos))]
        outpoints = sorted({_tx_hash(number) + bytes(4) for number in numbers}, key=row_order)
        start = time.monotonic()
        rows = lookup.rows(outpoints)
        secs += (time.monotonic() - start) / len(outpoints)
        assert None not in rows
    return secs / BATCHES


def _stores(store, tuning):
    """Return as much of a database's stores as a look-up uses."""

    def no_hashes(_numbers):
        # Where two transactions agree in four bytes, the full hash decides.
        return [_tx_hash(number) for number in _numbers]

    return SimpleNamespace(
        utxo_db=store,
        tuning=tuning,
        patience=SimpleNamespace(run=lambda func, _what: func()),
        tx_counts=[1 << 40],
        state=SimpleNamespace(height=1),
        files=SimpleNamespace(tx_hashes=no_hashes),
    )


def drop_caches(folder):
    """Have the system drop a folder's files from its cache, as far as it can be asked to."""
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError, AttributeError):
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
