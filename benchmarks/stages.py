"""The stages that a block and a request go through, each timed by itself, in one process.

Microseconds of CPU for each unit, the best of some rounds.  Blocks are the last of a generated
chain; databases are in a folder of their own.  sync.py and serving.py measure the whole;
this finds out which stage has changed.
"""

import shutil
import time

from benchmarks import parts
from benchmarks.chain_files import MAIN
from benchmarks.index import compiled as index_compiled
from benchmarks.index import readable as index_readable
from benchmarks.scenarios import SCRIPT
from benchmarks.wire import body, line
from electrumx.lib.hash import HASHX_LEN, double_sha256
from electrumx.lib.merkle import Merkle
from electrumx.lib.util import chunks, pack_be_uint32
from electrumx.server.block_processor import compiled_indexer as fast_index
from electrumx.server.history.store import History
from electrumx.server.session.engine.json_result import encode
from electrumx.server.session.transport.framing import LineFramer
from electrumx.server.storage.base import db_class
from tests.fakes.chain import COIN

ROUNDS = 3
REQUESTS = 5_000
ROWS = 50_000
HASHXS = 20_000
ENGINES = ("leveldb", "rocksdb")


def best(func, *args):
    """CPU seconds of the fastest round, and its result."""
    times, result = [], None
    for _ in range(ROUNDS):
        start = time.process_time()
        result = func(*args)
        times.append(time.process_time() - start)
    return min(times), result


def _parse(raws):
    return sum(len(COIN.block(raw, 1).transactions) for raw in raws)


def _hash(items):
    return len([double_sha256(item) for item in items])


def _hashXs(scripts):
    return len([COIN.hashX_from_script(script) for script in scripts])


def _root(hashes):
    return len(hashes) if Merkle().root(hashes) else 0


def _split(data):
    """Take requests off the network, in pieces as they arrive."""
    framer = LineFramer(1_000_000)
    return sum(len(framer.split(piece)) for piece in chunks(data, 4096))


def _encode(replies):
    return len([encode(reply) for reply in replies])


def _write(store, rows):
    with store.write_batch() as batch:
        for key, value in rows:
            batch.put(key, value)
    return len(rows)


def _read(store, rows):
    return len([store.get(key) for key, _value in rows])


class _Flushes:
    """A history that scripts are added to, one transaction each, and written."""

    def __init__(self, engine, folder):
        self._history = History()
        self._history.open_db(engine, True, 0, False, name=str(folder))
        self._tx_count = 0

    def __call__(self, hashXs):
        self._history.add_unflushed([[hashX] for hashX in hashXs], self._tx_count)
        self._tx_count += len(hashXs)
        self._history.flush()
        return len(hashXs)

    def close(self):
        self._history.close_db()


def measure(files, folder, say):
    """Stage -> microseconds of CPU for a unit, named with it."""
    numbers = files.numbers(MAIN)[-60:]
    raws = [files.raw_block(number) for number in numbers]
    parsed = [tx for raw in raws for tx in COIN.block(raw, 1).transactions]
    scripts = [output.pk_script for tx, _hash in parsed for output in tx.outputs]
    requests = b"".join(
        line(number, body(SCRIPT + "subscribe", f"{number:064x}"))
        for number in range(1, REQUESTS + 1)
    )
    history = [{"tx_hash": "00" * 32, "height": number} for number in range(20)]
    units = [
        ("parse and hash a transaction", _parse, raws),
        ("hash 250 bytes twice", _hash, [raws[0][:250]] * len(parsed)),
        ("hash a script", _hashXs, scripts),
        ("merkle root, a transaction", _root, [tx_hash for _tx, tx_hash in parsed]),
        ("frame a request", _split, requests),
        ("encode a history of twenty", _encode, [history] * 1_000),
    ]
    figures = {}
    for name, func, argument in units:
        secs, count = best(func, argument)
        figures[name] = secs / count * 1e6
    figures |= _index(files, folder) | _databases(folder)
    for name, value in figures.items():
        say(f"stage {name}: {value:.2f} us")
    return figures


def _index(files, folder):
    """Indexing from genesis, for which there is no part of a chain: no UTXO may be missing."""
    raws = [files.raw_block(number) for number in files.numbers(MAIN)]
    raws[0] = raws[0][:80] + b"\0"  # as it is indexed
    total, end = 0, 0
    while end < len(raws) and total < 20_000_000:
        total += len(raws[end])
        end += 1
    forms = {"index a transaction, readable": index_readable}
    if fast_index.compiled is not None:
        forms["index a transaction, compiled"] = index_compiled
    result = _parts(raws[:end], folder)
    for name, form in forms.items():
        secs, (tx_count, _coins) = best(form, raws[:end])
        result[name] = secs / tx_count * 1e6
    return result


def _parts(raws, folder):
    """The parts of indexing and flushing, with each engine, of the Cython implementation."""
    if fast_index.compiled is None:
        return {}
    return {
        f"{engine}, a transaction: {part}": microseconds
        for engine in ENGINES
        for part, microseconds in parts.measure(raws, engine, folder)[0].items()
    }


def _databases(folder):
    result = {}
    rows = [(pack_be_uint32(n) * 6, bytes(20)) for n in range(ROWS)]
    hashXs = [double_sha256(pack_be_uint32(n))[:HASHX_LEN] for n in range(HASHXS)]
    for engine in ENGINES:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        store = db_class(engine)(str(folder / "rows"), False)
        try:
            secs, count = best(_write, store, rows)
            result[f"{engine}: write a row, synchronised"] = secs / count * 1e6
            secs, count = best(_read, store, rows[::5])
            result[f"{engine}: get a row"] = secs / count * 1e6
        finally:
            store.close()
        flush = _Flushes(db_class(engine), folder / "hist")
        secs, count = best(flush, hashXs)
        flush.close()
        result[f"{engine}: flush a history row"] = secs / count * 1e6
    shutil.rmtree(folder)
    return result
