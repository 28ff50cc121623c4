"""Ways to break the code on purpose, in a process under test: the harness must notice each.

A harness that kills and finds nothing proves little: a server that did not
delete orphaned rows survived twenty random kills, since a new sync writes the same rows.
"""

from dataclasses import replace

from electrumx.lib import util
from electrumx.server.db import DB
from electrumx.server.db.flusher import Flusher
from electrumx.server.history.store import History
from electrumx.server.runtime import fault_points as faults
from electrumx.server.storage.schema import STATE_KEY


def no_excess_clearing():
    """Opening believes the history store, whatever the utxo store has seen."""

    def clear_excess(self, utxo_flush_count, *_tx_count):
        self.state.flush_count = min(self.state.flush_count, utxo_flush_count)

    History.clear_excess = clear_excess


def old_reorg_order():
    """ElectrumX 1.15's order: history is cut for good before the UTXOs are at the lower height."""
    prior = DB.flush_backup

    def stage(self, hashXs, tx_count):
        self.flush_count += 1
        removed = 0
        with self.db.write_batch() as batch:
            for hashX in sorted(hashXs):
                for key, row in self.db.iterator(prefix=hashX, reverse=True):
                    keep = sum(
                        int.from_bytes(row[n : n + 5], "little") < tx_count
                        for n in range(0, len(row), 5)
                    )
                    removed += len(row) // 5 - keep
                    if keep:
                        batch.put(key, row[: 5 * keep])
                        break
                    batch.delete(key)
            batch.put(b"state\0\0", self.state.pack())
        return removed

    History.stage = stage
    History.drop_staged = lambda self, hashXs: setattr(
        self.state, "flush_count", self.state.flush_count - 1
    )
    assert prior is DB.flush_backup


def state_before_utxos():
    """The state row is committed in a batch of its own, before the UTXOs that it promises."""
    write_utxos = Flusher.write_utxos

    def mutated(self, flush_data, with_utxos):
        if with_utxos:
            state = replace(
                self._stores.state,
                height=flush_data.height,
                tx_count=flush_data.tx_count,
                tip=flush_data.tip,
                utxo_flush_count=self._history.flush_count,
            )
            with self._stores.utxo_db.write_batch() as batch:
                batch.put(STATE_KEY, state.pack())
            faults.fault_point("flush: UTXOs written")
        write_utxos(self, flush_data, with_utxos)

    Flusher.write_utxos = mutated


def utxos_before_history():
    """A forward flush commits the UTXOs before the history."""
    write_history, write_utxos = Flusher.write_history, Flusher.write_utxos
    Flusher.write_history = lambda self, _flush_data: setattr(
        self._history, "flush_count", self._history.flush_count + 1
    )

    def mutated(self, flush_data, with_utxos):
        write_utxos(self, flush_data, with_utxos)
        self._history.flush_count -= 1
        write_history(self, flush_data)

    Flusher.write_utxos = mutated


def no_fsync():
    """Flat files are written and not synced, as in ElectrumX 1.15."""
    write = util.LogicalFile.write

    def mutated(self, start, b, *, sync=False):
        write(self, start, b, sync=False)

    util.LogicalFile.write = mutated


def no_folder_sync():
    """New files are synced, their folder is not."""
    util.sync_directory = lambda path: None


def apply(name):
    """Break the code of this process, for good."""
    if name:
        globals()[name]()
