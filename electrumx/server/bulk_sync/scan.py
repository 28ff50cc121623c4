"""The scan of a bulk sync: from blocks to runs.

Owns the block last added, the chunk in memory, and its writing.  A chunk grows by blocks until its
outputs and spends take their share of memory; its history, and its part of the flat files, *spill*
to disk more often.  A chunk ends with a block, and its remainder becomes a run.

Order of writes, for each spill

1. flat files: headers, tx counts and tx hashes, synced.  *A stop after this* leaves bytes beyond
   the height of the manifest, which later spills overwrite;
2. a section of history;
3. at the end of a chunk its outputs and spends;
4. when runs of :data:`COMMIT_BYTES` have come together, and when the scan ends or stops: a sync of
   all run files, then a new manifest, which names the runs with all sections of their history.

A stop before the last step loses the chunks since the manifest: the next scan requests blocks again
from its last run on.

Runs in: worker threads; one adds, and one other may write a finished chunk.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from electrumx.server.bulk_sync.contents import BlockContents, PackedBlock
from electrumx.server.bulk_sync.kernels import Kernels
from electrumx.server.db.flat_files import FlatFiles
from electrumx.server.runs.manifest import Run, Section
from electrumx.server.runs.records import HISTORY, LATE, OUTPUTS, SPENDS, UNDO, Kind
from electrumx.server.runs.workspace import Workspace
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.schema import HASH_LEN

#: bytes of run files after which a manifest names them: each one waits several times for the disk, and
#: the chunks of a small cache are small
COMMIT_BYTES = 64_000_000

_LE8 = Struct("<Q")


@dataclass(slots=True)
class ParsedPart:
    """Consecutive blocks, parsed."""

    blocks: list[BlockContents]
    #: for each of them: (number of the transaction, hashX) of additionally touched scripts
    extras: list[list[tuple[int, bytes]]]
    #: hashes of the blocks, and of their predecessors by their headers, natural order
    hashes: list[bytes]
    prev_hashes: list[bytes]
    #: bytes of the raw blocks
    size: int


@dataclass(slots=True)
class Spill:
    """Data taken from memory to write, up to a block."""

    height: int
    tip: bytes
    tx_count: int
    first_height: int
    first_tx_num: int
    headers: list[bytes] = field(default_factory=list)
    #: LE8 cumulative counts, one a block
    tx_counts: list[bytes] = field(default_factory=list)
    #: for each block its hashes, joined
    tx_hashes: list[bytes] = field(default_factory=list)
    history: Any = None
    undo: Any = None
    undo_from: int | None = None
    #: the chunk, if it ends here
    chunk: Any = None


class Scan:
    """Blocks in memory on top of the last run."""

    #: parts of the memory: a chunk's outputs and spends, of which two may be there, and history,
    #: likewise
    CHUNK_SHARE = 0.33
    HISTORY_SHARE = 0.14
    #: bytes of tx hashes before a write of the flat files
    HASH_BYTES = 4_000_000

    def __init__(
        self,
        workspace: Workspace,
        kernels: Kernels,
        files: FlatFiles,
        memory: int,
        *,
        genesis_activation: int,
        any_order: bool,
    ):
        self.workspace = workspace
        self.kernels = kernels
        self.files = files
        self.chunk_bytes = int(memory * self.CHUNK_SHARE)
        self.history_bytes = int(memory * self.HISTORY_SHARE)
        self.genesis_activation = genesis_activation
        self.any_order = any_order
        self.reset()

    def reset(self) -> None:
        """Clear the memory and go on from the manifest's last run."""
        manifest = self.workspace.manifest
        #: of the block last added
        self.height = manifest.height
        self.tip = manifest.tip
        self.tx_count = manifest.tx_count
        self.chunk = self.kernels.Chunk()
        self._unspilled = self._new_spill()
        self._hash_bytes = 0
        #: of the writing thread: sections of history since the last run, and where the next goes
        self._sections: dict[Kind, list[Section]] = {HISTORY: [], UNDO: []}
        self._last = {kind: self.workspace.last(kind) for kind in self._sections}
        #: height from which on there are undo records without a gap
        self._undo_from = manifest.undo_from
        self._mark = time.monotonic()
        #: of the writing thread: bytes in run files since the manifest on the disk
        self._uncommitted = 0

    def _new_spill(self) -> Spill:
        return Spill(
            self.height, self.tip, self.tx_count, self.height + 1, first_tx_num=self.tx_count
        )

    # -- adding

    def add(self, part: ParsedPart, min_undo_height: int) -> None:
        """Add blocks that follow on the tip, as the caller has checked.

        Those from ``min_undo_height`` on may be undone later: they get undo records, and their raw
        blocks go to disk.
        """
        chunk, spill = self.chunk, self._unspilled
        for block, extras in zip(part.blocks, part.extras, strict=True):
            height = self.height + 1
            undo_height = -1
            if height < min_undo_height:
                self._undo_from = None
            else:
                undo_height = height
                self._undo_from = height if self._undo_from is None else self._undo_from
                self.files.write_raw_block(block.raw, height)
            after_genesis = height >= self.genesis_activation
            chunk.add(block, self.tx_count, after_genesis, self.any_order, undo_height)
            for number, hashX in extras:
                chunk.add_history(hashX, self.tx_count + number)
            hashes = block.tx_hashes
            self.tx_count += len(hashes) // HASH_LEN
            self.height += 1
            spill.headers.append(block.header)
            spill.tx_hashes.append(hashes)
            spill.tx_counts.append(_LE8.pack(self.tx_count))
            self._hash_bytes += len(hashes) + len(block.header)
        self.tip = part.hashes[-1]

    @property
    def chunk_is_full(self) -> bool:
        """Whether the chunk is to end here."""
        return bool(self.chunk.memsize >= self.chunk_bytes)

    @property
    def spill_due(self) -> bool:
        """Whether a write is due."""
        return (
            self.chunk_is_full
            or self._hash_bytes >= self.HASH_BYTES
            or bool(self.chunk.history_memsize >= self.history_bytes)
        )

    @property
    def has_news(self) -> bool:
        """Whether there are blocks above the last run."""
        return self.height > self.workspace.manifest.height

    def take_spill(self, end_chunk: bool) -> Spill:
        """Take the data to write; with ``end_chunk`` the chunk, too."""
        spill = self._unspilled
        spill.height, spill.tip, spill.tx_count = self.height, self.tip, self.tx_count
        if end_chunk or self.chunk.history_memsize >= self.history_bytes:
            spill.history = self.chunk.take_history()
            spill.undo = self.chunk.take_undo()
            spill.undo_from = self._undo_from
        if end_chunk:
            spill.chunk, self.chunk = self.chunk, self.kernels.Chunk()
        self._unspilled = self._new_spill()
        self._hash_bytes = 0
        return spill

    # -- writing

    def write(self, spill: Spill) -> None:
        """Write taken data; the calls are in the order of the taking, one at a time."""
        self.files.append(
            spill.first_height,
            spill.headers,
            spill.first_tx_num,
            b"".join(spill.tx_counts),
            spill.tx_hashes,
        )
        if spill.history is not None:
            self._write_section(HISTORY, self.kernels.sort_history(spill.history))
            self._write_section(UNDO, spill.undo)
            spill.history = spill.undo = None
            fault_point("bulk: history written")
        if spill.chunk is not None:
            self.end_run(spill)

    def _write_section(self, kind: Kind, records: bytes) -> None:
        """Write sorted records that are part of the next run."""
        if len(records):
            section = self.workspace.files[kind].append(self._last[kind], records)
            self._last[kind] = section
            self._sections[kind].append(section)
            self._uncommitted += section.records * kind.length

    def end_run(self, spill: Spill) -> None:
        """Write the blocks gathered so far as a run, and add it to the manifest."""
        workspace = self.workspace
        chunk, spill.chunk = spill.chunk, None
        sections = []
        taken = ((SPENDS, chunk.spends), (LATE, chunk.late), (OUTPUTS, chunk.outputs))
        for kind, records in taken:
            section = workspace.files[kind].append(workspace.last(kind), records())
            sections.append(section)
            self._uncommitted += section.records * kind.length
            fault_point("bulk: outputs or spends written")
        spends, late, outputs = sections
        self.count_time()
        manifest = workspace.manifest
        manifest.runs.append(
            Run(
                spill.height,
                spill.tip.hex(),
                spill.tx_count,
                outputs,
                spends,
                late,
                self._sections[HISTORY],
                self._sections[UNDO],
            )
        )
        manifest.undo_from = spill.undo_from
        self._sections = {HISTORY: [], UNDO: []}
        if self._uncommitted >= COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Make the runs durable."""
        self.workspace.save()
        self._uncommitted = 0
        fault_point("bulk: run ended")

    def count_time(self) -> None:
        """Add the time since the last call to the manifest's time."""
        now = time.monotonic()
        self.workspace.manifest.wall_time += now - self._mark
        self._mark = now


def part_of(
    kernels: Kernels,
    blocks: Sequence[Any],
    hashes: list[bytes],
    prev_hashes: list[bytes],
    size: int,
) -> ParsedPart:
    """Return parsed blocks, compiled ones or packed ones, as a scan takes them."""
    contents: list[BlockContents] = []
    extras: list[list[tuple[int, bytes]]] = []
    for block in blocks:
        packed = isinstance(block, PackedBlock)
        extras.append(block.extras if packed else [])
        contents.append(kernels.ready(block) if packed else block)
    return ParsedPart(contents, extras, hashes, prev_hashes, size)
