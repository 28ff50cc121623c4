"""The manifest of the bulk sync: the complete files on disk, and the next step.

Owns the file ``manifest`` in the bulk sync's folder.  It names every part of a run file that is
valid; whatever else lies in the folder is left over, to overwrite or remove.  Each save replaces it
as a whole: written to a second file, synced, renamed, and the folder synced, so that a stop at any
instant leaves the old one or the new one.

Runs in: a worker thread.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from electrumx.lib import util
from electrumx.server.runs.records import Kind
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.schema import DBError

#: of the manifest and of the records that it names
FORMAT = 2
NAME = "manifest"

#: phases, in their order
SCAN, JOIN, UTXOS, UNDO, HISTORY, SWAP = "scan", "join", "utxos", "undo", "history", "swap"
PHASES = (SCAN, JOIN, UTXOS, UNDO, HISTORY, SWAP)


class Section(NamedTuple):
    """Consecutive sorted records in a run file: number of the first, and how many.

    ``sums`` is the number of the first of its checksums.
    """

    first: int
    records: int
    sums: int = 0

    @property
    def end(self) -> int:
        """The number of the record after the last."""
        return self.first + self.records


@dataclass(slots=True)
class Run:
    """The files of a chunk of blocks, and the block that it ends with."""

    height: int
    #: hash of that block, natural order, as hex
    tip: str
    #: transactions up to and including that height
    tx_count: int
    outputs: Section
    spends: Section
    late: Section
    history: list[Section]
    undo: list[Section]


@dataclass(slots=True)
class Manifest:
    """The state of a bulk sync."""

    genesis: str
    engine: str
    runs: list[Run] = field(default_factory=list)
    phase: str = SCAN
    #: where the phase's next part of the key space begins, as a number
    cursor: int = 0
    #: made by the join
    utxos: list[Section] = field(default_factory=list)
    joined_history: list[Section] = field(default_factory=list)
    joined_undo: list[Section] = field(default_factory=list)
    #: kind -> its sections, after the merge of many small ones into these
    merged: dict[str, list[Section]] = field(default_factory=dict)
    #: records of outputs that a coinbase among the last blocks overwrote, as hex
    overwritten: list[str] = field(default_factory=list)
    #: height from which on, up to the last run's, all spends have undo records; None if none do
    undo_from: int | None = None
    #: of the last history row written, and the highest flush id of all
    last_hashX: str = ""
    last_flush_id: int = 0
    max_flush_id: int = 0
    #: seconds spent so far
    wall_time: float = 0.0
    format: int = FORMAT

    @property
    def height(self) -> int:
        """The height up to which blocks are in runs, -1 without runs."""
        return self.runs[-1].height if self.runs else -1

    @property
    def tx_count(self) -> int:
        """Transactions up to that height."""
        return self.runs[-1].tx_count if self.runs else 0

    @property
    def tip(self) -> bytes:
        """The hash of that block, natural order; zeros if there are no runs."""
        return bytes.fromhex(self.runs[-1].tip) if self.runs else bytes(32)

    def sections(self, kind: Kind) -> list[Section]:
        """Return the valid sections of a kind's file, in the order that they have there."""
        if kind.name in self.merged:
            return list(self.merged[kind.name])
        found: list[Section] = []
        for run in self.runs:
            part: Section | list[Section] = getattr(run, kind.name, [])
            found += part if isinstance(part, list) else [part]
        if kind.name == "history":
            found += self.joined_history
        if kind.name == "undo":
            found += self.joined_undo
        if kind.name == "utxos":
            found += self.utxos
        return found

    def enter(self, phase: str) -> None:
        """Begin a phase."""
        self.phase, self.cursor = phase, 0

    def save(self, folder: Path) -> None:
        """Replace the file, durably."""
        path = folder / NAME
        draft = folder / f"{NAME}.new"
        draft.unlink(missing_ok=True)
        with util.open_file(draft, create=True) as file:
            file.write(json.dumps(asdict(self)).encode())
            file.flush()
            os.fsync(file.fileno())
        fault_point("bulk: manifest written")
        os.replace(draft, path)
        util.sync_directory(folder)
        fault_point("bulk: manifest renamed")


def load(folder: Path) -> Manifest | None:
    """Return the manifest of a folder, None if it is missing.  Raise DBError for a damaged one."""
    try:
        raw = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return _parsed(json.loads(raw))
    except (ValueError, TypeError, KeyError) as e:
        raise DBError(
            f"the manifest {folder / NAME} of the initial sync is damaged or of another version "
            f"({e}): remove the folder {folder} to begin again"
        ) from e


def _parsed(values: dict[str, Any]) -> Manifest:
    """Return a manifest.  Raise ValueError, TypeError or KeyError where it is none."""
    if values["format"] != FORMAT or values["phase"] not in PHASES:
        raise ValueError(f"format {values['format']}, phase {values['phase']}")

    def sections(items: Any) -> list[Section]:
        return [Section(*item) for item in items]

    values["runs"] = [
        Run(
            run["height"],
            run["tip"],
            run["tx_count"],
            Section(*run["outputs"]),
            Section(*run["spends"]),
            Section(*run["late"]),
            sections(run["history"]),
            sections(run["undo"]),
        )
        for run in values["runs"]
    ]
    values["merged"] = {str(kind): sections(items) for kind, items in values["merged"].items()}
    values["utxos"] = sections(values["utxos"])
    values["joined_undo"] = sections(values["joined_undo"])
    values["joined_history"] = sections(values["joined_history"])
    return Manifest(**values)
