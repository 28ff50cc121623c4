"""Named instants between writes, at which a test may stop the process.

Owns the names.  In a running server :func:`fault_point` does nothing: no environment variable and
no command switches it on; only a program that imports this module and sets :data:`hook` before it
starts the server can (the crash tests' launcher does).
"""

from collections.abc import Callable

#: called with the name of each instant as it passes; None outside crash tests
hook: Callable[[str], None] | None = None

#: every name passed to :func:`fault_point`, in the order of the operations
NAMES = (
    # opening, also of a new database
    "open: utxo store opened",
    "open: folder prepared",
    "open: history store opened",
    "open: options for filling",
    "open: cut history restored",
    "open: excess history deleted",
    "open: flush count raised over a compaction's rows",
    "open: flush count raised",
    "open: compaction forgotten",
    "open: flush count lowered",
    "open: undo rows pruned",
    # a forward flush
    "flush: headers written",
    "flush: header offsets written",
    "flush: tx counts written",
    "flush: tx hashes written",
    "flush: history noted",
    "flush: history written",
    "flush: UTXOs written",
    "flush: state written again",
    # a reorg
    "reorg: state announces staging",
    "reorg: history staged",
    "reorg: UTXOs written",
    "reorg: staged history dropped",
    # being caught up
    "caught up: filled",
    "caught up: flushed",
    "caught up: state written",
    "caught up: merged",
    "caught up: merging recorded",
    "caught up: closed for re-opening",
    # the bulk sync
    "bulk: run files synced",
    "bulk: manifest written",
    "bulk: manifest renamed",
    "bulk: history written",
    "bulk: outputs or spends written",
    "bulk: run ended",
    "bulk: phase entered",
    "bulk: rows written",
    "bulk: joined records written",
    "bulk: rows durable",
    "bulk: sections merged",
    "bulk: state written",
    "bulk: store put aside",
    "bulk: empty store removed",
    "bulk: store moved",
    "bulk: database opened",
    # merging history rows: a running server's slices, the stopped one's batches, and the finish
    "compaction: slice written",
    "compaction: batch of prefixes written",
    "compaction: data written",
    "compaction: utxo flush count lowered",
    "compaction: flush count lowered",
    # the upgrade of an older version
    "upgrade: UTXO rows written",
    "upgrade: all UTXO rows of a kind written",
    "upgrade: new tx counts written",
    "upgrade: new tx counts announced",
    "upgrade: tx counts file renamed",
    "upgrade: tx counts converted",
    "upgrade: undo rows and state written",
    "upgrade: history rows written",
    "upgrade: history state written",
    # raw blocks
    "raw block: written",
    "raw block: old one deleted",
)


def fault_point(name: str) -> None:
    """Mark an instant; ``name`` is one of :data:`NAMES`."""
    if hook is not None:
        hook(name)
