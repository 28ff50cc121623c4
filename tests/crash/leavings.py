"""Databases as others leave them: of an older version, or with something interrupted.

Each function changes a closed database, written by us, into one that another server left.
The layouts are repeated here, so that the code under test does not check itself.
"""

import ast
from pathlib import Path

from electrumx.server.storage.base import db_class

UTXO_STATE, HIST_STATE = b"state", b"state\0\0"


class Stores:
    """Both stores of a closed database, with their states as dictionaries."""

    def __init__(self, db_dir, engine):
        self.dir = Path(db_dir)
        self.utxo = db_class(engine)(str(self.dir / "utxo"), False)
        self.hist = db_class(engine)(str(self.dir / "hist"), False)
        self.state = ast.literal_eval(self.utxo.get(UTXO_STATE).decode())
        self.hist_state = ast.literal_eval(self.hist.get(HIST_STATE).decode())

    def replace_rows(self, store, new_rows):
        """Let a store hold these rows and no other."""
        with store.write_batch() as batch:
            for key, _value in store.iterator():
                batch.delete(key)
            for key, value in new_rows.items():
                batch.put(key, value)

    def write_states(self):
        with self.utxo.write_batch() as batch:
            batch.put(UTXO_STATE, repr(self.state).encode())
        with self.hist.write_batch() as batch:
            batch.put(HIST_STATE, repr(self.hist_state).encode())

    def close(self):
        self.utxo.close()
        self.hist.close()


def _older_utxo_row(key, value, version):
    """A row of the utxo store in version 6 or 7."""
    if key[:1] == b"U":
        items = [value[n : n + 24] for n in range(0, len(value), 24)]
        # hashX, tx_num of four bytes, value
        return key, b"".join(item[:15] + item[16:] for item in items)
    if key[:1] in (b"u", b"h"):
        assert key[-1:] == b"\0"
        body, index, tx_num = key[:-9], key[-9:-5], key[-5:-1]
        return body + (index[:2] if version == 6 else index) + tx_num, value
    return key, value


def older_version(stores, version):
    """The database of ElectrumX before 1.15, version 6 or 7."""
    stores.replace_rows(
        stores.utxo, dict(_older_utxo_row(k, v, version) for k, v in stores.utxo.iterator())
    )
    rows = {}
    for key, row in stores.hist.iterator():
        if key == HIST_STATE:
            continue
        entries = [row[n : n + 5] for n in range(0, len(row), 5)]
        rows[key] = b"".join(entry[:4] for entry in entries)
    stores.replace_rows(stores.hist, rows)
    stores.state["db_version"] = version
    stores.hist_state["db_version"] = 0
    del stores.hist_state["upgrade_cursor"]
    path = stores.dir / "meta" / "txcounts00"
    raw = path.read_bytes()
    path.write_bytes(b"".join(raw[n : n + 4] for n in range(0, len(raw), 8)))


def version_6(stores):
    older_version(stores, 6)


def version_7(stores):
    older_version(stores, 7)


def cut_history(stores):
    """Leave the state of an ElectrumX that was killed between history and UTXOs of a reorg."""
    raw = (stores.dir / "meta" / "txcounts00").read_bytes()
    height = stores.state["height"] - 3
    tx_count = int.from_bytes(raw[8 * height : 8 * height + 8], "little")
    rows = {}
    for key, row in stores.hist.iterator():
        if key != HIST_STATE:
            entries = [row[n : n + 5] for n in range(0, len(row), 5)]
            kept = [e for e in entries if int.from_bytes(e, "little") < tx_count]
            if kept:
                rows[key] = b"".join(kept)
    stores.replace_rows(stores.hist, rows)
    stores.hist_state["flush_count"] += 1


def _row_above(stores):
    """Move the end of a script's last row to a higher flush id, as a compaction of 1.15 does."""
    new_id = stores.hist_state["flush_count"] + 1
    rows = dict(stores.hist.iterator())
    rows.pop(HIST_STATE)
    key = next(k for k in sorted(rows) if len(rows[k]) > 5 and max_key(rows, k[:11]) == k)
    rows[key], moved = rows[key][:-5], rows[key][-5:]
    rows[key[:11] + new_id.to_bytes(2, "big")] = moved
    stores.replace_rows(stores.hist, rows)
    return new_id


def max_key(rows, hashX):
    """The last key of a script."""
    return max(key for key in rows if key[:11] == hashX)


def compaction_under_way(stores):
    """An interrupted compaction that has made no id above the flush count."""
    stores.hist_state["comp_cursor"] = 17
    stores.hist_state["comp_flush_count"] = 1


def compaction_above_the_count(stores):
    """An interrupted compaction that has made ids above the flush count."""
    stores.hist_state["comp_flush_count"] = _row_above(stores)
    stores.hist_state["comp_cursor"] = 17


def compaction_without_its_last_write(stores):
    """A compaction stopped between its last batch and the utxo store's state."""
    stores.hist_state["flush_count"] = _row_above(stores)


LEFT = {
    function.__name__: function
    for function in (
        version_6,
        version_7,
        cut_history,
        compaction_under_way,
        compaction_above_the_count,
        compaction_without_its_last_write,
    )
}


def leave(name, db_dir, engine):
    """Change a closed database into one that another server left."""
    stores = Stores(db_dir, engine)
    LEFT[name](stores)
    stores.write_states()
    stores.close()
