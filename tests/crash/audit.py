"""Everything that must hold of a database that was just opened: rows, files, answers.

`problems` compares an open `DB` with the chain that its tip names and returns the differences as
sentences; an empty list means that the database is identical to that of an undisturbed server.
"""

from collections import defaultdict

from electrumx.server.db import DB
from electrumx.server.storage import schema
from tests.crash.stories import expected, story


async def problems(db: DB, seed: int) -> list[str]:
    """Return the differences between a database and a chain of the story."""
    the_story = story(seed)
    if db.db_height == -1:
        return _of_an_empty_database(db)
    if db.db_tip not in the_story.maker.blocks:
        return [f"the tip {db.db_tip[::-1].hex()} is no block of the story"]
    model, undo = expected(seed, db.db_tip)
    found = list(_counts(db, model))
    if found:
        return found
    found += _utxos(db, model)
    found += _history(db, model)
    found += _undo(db, undo)
    found += _files(db, model)
    if found:
        # A reader of such rows may wait indefinitely, for a reorg that does not come.
        return found
    found += await _answers(db, model, the_story.scripts)
    return found


def _of_an_empty_database(db):
    rows = [key for key, _value in db.utxo_db.iterator() if key != schema.STATE_KEY]
    rows += [key for key, _row in db.history.db.iterator() if key != schema.HIST_STATE_KEY]
    if rows:
        return [f"an empty database has {len(rows)} rows, the first is {rows[0].hex()}"]
    return []


def _counts(db, model):
    if db.db_height != len(model.headers) - 1:
        yield f"height {db.db_height} at the tip of height {len(model.headers) - 1}"
    tx_count = sum(map(len, model.tx_hashes))
    if db.db_tx_count != tx_count:
        yield f"{db.db_tx_count} transactions, {tx_count} expected"
    utxo = schema.CommittedState.parse(db.utxo_db.get(schema.STATE_KEY))
    raw = db.history.db.get(schema.HIST_STATE_KEY)
    if utxo.utxo_flush_count != db.history.flush_count:
        yield f"flush counts {utxo.utxo_flush_count} (utxo), {db.history.flush_count} (memory)"
    if raw is None:
        yield "there is no history state"
    elif schema.HistState.parse(raw).flush_count < utxo.utxo_flush_count:
        yield "the history store on disk has fewer flushes than the utxo store has seen"


def _utxos(db, model):
    """Every coin has its two rows, and no other row is there."""
    want = {}
    for (tx_hash, idx), (hashX, value, _height, tx_num) in model.unspent.items():
        suffix = idx.to_bytes(4, "little") + tx_num.to_bytes(5, "little")
        want[b"u" + hashX + suffix] = value.to_bytes(8, "little")
        want[b"h" + tx_hash[:4] + suffix] = hashX
    have = {k: v for k, v in db.utxo_db.iterator() if k[:1] in (b"u", b"h")}
    if have == want:
        return []
    missing, excess = want.keys() - have.keys(), have.keys() - want.keys()
    return [f"UTXOs: {len(missing)} rows are missing, {len(excess)} too many"]


def _history(db, model):
    """Each script's rows, joined, are its history; ids are in order and in range."""
    number = {}
    for hashes in model.tx_hashes:
        for tx_hash in hashes:
            number[tx_hash] = len(number)
    found = []
    rows = defaultdict(list)
    for key, row in db.history.db.iterator():
        if key == schema.HIST_STATE_KEY:
            continue
        if len(key) != schema.HIST_KEY_LEN or len(row) % 5 or not row:
            found.append(f"history row {key.hex()} of {len(row)} bytes")
            continue
        if schema.hist_key_flush_id(key) > db.history.flush_count:
            found.append(f"history row {key.hex()} is above flush {db.history.flush_count}")
        rows[key[:-2]] += schema.unpack_tx_nums(row)
    for hashX in rows.keys() | model.history.keys():
        want = [number[tx_hash] for tx_hash, _height in model.history.get(hashX, [])]
        if rows.get(hashX, []) != want:
            found.append(f"history of {hashX.hex()}: {rows.get(hashX)} is not {want}")
    return found


def _undo(db, undo):
    found = []
    for key, items in db.utxo_db.iterator(prefix=schema.UNDO_PREFIX):
        height = schema.undo_key_height(key)
        floor = db.min_undo_height(db.db_height)
        if floor <= height <= db.db_height and items != undo[height]:
            found.append(f"undo information of height {height} is of another block")
        if height < floor:
            found.append(f"undo information of height {height} was not pruned")
    if db.db_height > 0 and db.read_undo_info(db.db_height) is None:
        found.append(f"there is no undo information of the tip, height {db.db_height}")
    return found


def _files(db, model):
    found = []
    want = b"".join(h for hashes in model.tx_hashes for h in hashes)
    if db.files.read_tx_hashes(0, db.db_tx_count) != want:
        found.append("meta/hashes differs")
    if db.files.read_headers(0, db.db_height + 1) != b"".join(model.headers):
        found.append("meta/headers differs")
    counts, total = [], 0
    for hashes in model.tx_hashes:
        total += len(hashes)
        counts.append(total.to_bytes(8, "little"))
    if db.files.read_tx_counts(db.db_height + 1) != b"".join(counts):
        found.append("meta/txcounts differs")
    return found


async def _answers(db, model, scripts):
    found = []
    for hashX in scripts:
        if await db.limited_history(hashX, limit=None) != model.history.get(hashX, []):
            found.append(f"another history is told of {hashX.hex()}")
        if {tuple(utxo) for utxo in await db.all_utxos(hashX)} != model.utxos(hashX):
            found.append(f"other UTXOs are told of {hashX.hex()}")
    return found
