"""The merge of a bulk sync: from runs to the rows of both stores, each written once, in key order.

Owns its three phases and the progress within them.  Ranges of a bounded size divide the key space.
Where there are very many sections, because CACHE_MB is small for the chain, the merge first merges
groups of them into larger ones, as often as it takes.  Worker threads read, sort and join ranges
without the GIL; one thread writes the results, in order, and after ranges of :data:`COMMIT_BYTES`
notes in the manifest where the next one begins.

Order of writes

1. for each range: rows to the store; utxos and history that the join found, appended to their
   run files;
2. after some ranges: a commit makes the rows durable, then a sync does so for the run files;
3. the manifest, with the beginning of the next range;
4. freeing the space of the input.

A stop after 1 or 2 repeats the records since the manifest, in other ranges perhaps, which writes the same
rows again, and overwrites the appended bytes.  Only the rows of a history depend on where ranges end, so
the merge first removes those since the manifest.  A stop after 3 leaves room until the end of the phase
frees it, with the file.

Runs in: a worker thread, and those that it starts.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from electrumx.server.bulk_sync.kernels import Kernels
from electrumx.server.bulk_sync.stores import Put, StoreFiller
from electrumx.server.runs import manifest as manifests
from electrumx.server.runs.manifest import JOIN, SCAN, SWAP, Manifest, Section
from electrumx.server.runs.records import (
    HISTORY,
    HISTORY_LEN,
    KEY_LEN,
    LATE,
    OUTPOINT_ROW_LEN,
    OUTPUTS,
    OVERWRITTEN_LEN,
    SPENDS,
    UNDO,
    UTXO_LEN,
    UTXOS,
    Joined,
    Kind,
)
from electrumx.server.runs.run_files import Part, Range, Sorted, ranges
from electrumx.server.runs.workspace import Workspace
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.schema import hist_key, undo_key

#: bytes of merged records after which a manifest counts them: each one waits several times for the disk,
#: and the ranges of a small cache are small
COMMIT_BYTES = 64_000_000

T = TypeVar("T")


#: phase -> the kind whose keys bound its ranges
KINDS_OF_RANGES = {
    JOIN: OUTPUTS,
    manifests.UTXOS: UTXOS,
    manifests.UNDO: UNDO,
    manifests.HISTORY: HISTORY,
}


def part_done(manifest: Manifest) -> float:
    """Return the completed part of its phase, from 0 to 1; 0 for one that is no part of a merge."""
    kind = KINDS_OF_RANGES.get(manifest.phase)
    return 0.0 if kind is None else manifest.cursor / (1 << 8 * kind.bound_len)


class MergeStopped(Exception):
    """The server stops; the merge goes on from its last range after the next start."""


class BufferRows:
    """The rows of a buffer, made by a function of the kernels."""

    def __init__(self, put_rows: Callable[[Put, bytes, int, int], int], buffer: bytes, length: int):
        self._put_rows = put_rows
        self._buffer = buffer
        self._count = len(buffer) // length
        self._next = 0

    @property
    def is_empty(self) -> bool:
        """Whether it is empty."""
        return not self._count

    def put_rows(self, put: Put, max_bytes: int) -> bool:
        """Call ``put(key, value)`` for the next rows, for about ``max_bytes``; False at the end."""
        if self._count:
            self._next = self._put_rows(put, self._buffer, self._next, max_bytes)
        return self._next < self._count


class UndoRows:
    """The undo rows of some heights."""

    def __init__(self, rows: list[tuple[int, bytes]]):
        self._rows = rows
        self._next = 0

    @property
    def is_empty(self) -> bool:
        """Whether it is empty."""
        return not self._rows

    def put_rows(self, put: Put, max_bytes: int) -> bool:
        """Call ``put(key, value)`` for the next rows, for about ``max_bytes``; False at the end."""
        size = 0
        while self._next < len(self._rows) and size < max_bytes:
            height, items = self._rows[self._next]
            put(undo_key(height), items)
            size += len(items) + 5
            self._next += 1
        return self._next < len(self._rows)


class UndoBlocks(NamedTuple):
    """The blocks whose undo rows the merge writes."""

    first: int
    last: int
    #: number of the first one's first transaction
    first_tx_num: int
    #: returns undo items for the outputs that a block's coinbase overwrote: height, {txout_idx: item}
    overwritten_items: Callable[[int, dict[int, bytes]], bytes]
    #: returns the height of a transaction
    height_of: Callable[[int], int]


class Merge:
    """Merges what a workspace holds into two stores."""

    #: sections to merge at once, at least, and bytes of each that a range has then
    LEAST_SECTIONS = 16
    PART_BYTES = 1 << 16
    #: memory of a range, in units of the bytes read: the input, sorted copies, results of the join
    COPIES = 3

    def __init__(
        self,
        workspace: Workspace,
        kernels: Kernels,
        memory: int,
        threads: int,
        row_entries: int,
        undo: UndoBlocks,
        report: Callable[[str, float], None],
    ):
        """``threads`` together use ``memory`` bytes; ``report(phase, part done)``."""
        self.workspace = workspace
        self.kernels = kernels
        self.threads = threads
        self.row_entries = row_entries
        self.undo = undo
        self.report = report
        self.range_bytes = max(4096, memory // (self.COPIES * (threads + 1)))
        #: ends the merge after the range in progress
        self.stop = threading.Event()
        #: sections merged since the manifest on the disk: of each one the end, as the number of a
        #: record; and its bytes
        self._merged: dict[tuple[Kind, Section], int] = {}
        self._merged_bytes = 0

    def run(self, utxo_store: StoreFiller, hist_store: StoreFiller) -> None:
        """Go on from the phase that the manifest names to the end of the last one.

        Raise UnmatchedSpendError if the blocks do not fit each other, MergeStopped if asked to end.
        """
        manifest = self.workspace.manifest
        if manifest.phase == SCAN:
            self._enter(JOIN)
        if manifest.phase == JOIN:
            self._join(utxo_store)
            self._commit(utxo_store)
            self._enter(manifests.UTXOS)
        if manifest.phase == manifests.UTXOS:
            for kind in (OUTPUTS, SPENDS, LATE):
                self.workspace.files[kind].delete()
            self._write_utxos(utxo_store)
            self._commit(utxo_store)
            self._enter(manifests.UNDO)
        if manifest.phase == manifests.UNDO:
            self.workspace.files[UTXOS].delete()
            self._write_undo(utxo_store)
            self._commit(utxo_store)
            self._enter(manifests.HISTORY)
        if manifest.phase == manifests.HISTORY:
            self.workspace.files[UNDO].delete()
            self._write_history(hist_store)
            self._commit(hist_store)
        assert manifest.phase != SWAP

    def _enter(self, phase: str) -> None:
        self.workspace.manifest.enter(phase)
        self.workspace.save()
        fault_point("bulk: phase entered")

    # -- phases

    def _join(self, store: StoreFiller) -> None:
        kernels = self.kernels
        kinds = (OUTPUTS, SPENDS, LATE)

        def work(part: Range) -> Joined:
            buffers = [
                self._read(kind, sections) for kind, sections in zip(kinds, part.parts, strict=True)
            ]
            joined: Joined = kernels.join(*buffers)
            return joined

        for part, joined in self._each_range(kinds, work):
            store.write(BufferRows(kernels.put_outpoint_rows, joined.rows, OUTPOINT_ROW_LEN))
            fault_point("bulk: rows written")
            manifest = self.workspace.manifest
            manifest.utxos += self._appended(UTXOS, joined.utxos)
            manifest.joined_history += self._appended(HISTORY, joined.history)
            manifest.joined_undo += self._appended(UNDO, joined.undo)
            manifest.overwritten += self._late_ones(joined.overwritten)
            self._done(store, part, kinds)

    def _late_ones(self, overwritten: bytes) -> list[str]:
        """Return those overwritten outputs whose blocks may be undone."""
        raw = bytes(overwritten)
        records = [raw[n : n + OVERWRITTEN_LEN] for n in range(0, len(raw), OVERWRITTEN_LEN)]
        first = self.undo.first_tx_num
        return [record.hex() for record in records if int.from_bytes(record[:5], "big") >= first]

    def _write_utxos(self, store: StoreFiller) -> None:
        kernels = self.kernels

        def work(part: Range) -> bytes:
            merged: bytes = kernels.merge_utxos(self._read(UTXOS, part.parts[0]))
            return merged

        for part, utxos in self._each_range((UTXOS,), work):
            store.write(BufferRows(kernels.put_utxo_rows, utxos, UTXO_LEN))
            fault_point("bulk: rows written")
            self._done(store, part, (UTXOS,))

    def _write_undo(self, store: StoreFiller) -> None:
        kernels, blocks = self.kernels, self.undo
        overwritten = self._overwritten_by_height()

        def work(part: Range) -> list[tuple[int, bytes]]:
            first, last = max(part.first, blocks.first), min(part.end - 1, blocks.last)
            rows: list[tuple[int, bytes]] = []

            def put(height: int, items: bytes) -> None:
                if height in overwritten:
                    items = blocks.overwritten_items(height, overwritten[height]) + items
                rows.append((height, items))

            if first <= last:
                sources = self._read(UNDO, part.parts[0])
                records = kernels.merge_undo(sources)
                kernels.put_undo_rows(put, records, first, last)
            return rows

        for part, rows in self._each_range((UNDO,), work):
            store.write(UndoRows(rows))
            fault_point("bulk: rows written")
            self._done(store, part, (UNDO,))

    def _overwritten_by_height(self) -> dict[int, dict[int, bytes]]:
        """Return the undo items of overwritten outputs, by height and output of the coinbase."""
        found: dict[int, dict[int, bytes]] = {}
        for record in map(bytes.fromhex, self.workspace.manifest.overwritten):
            height = self.undo.height_of(int.from_bytes(record[:5], "big"))
            output = record[5:]
            idx = int.from_bytes(output[4:8], "little")
            tx_num, rest = output[KEY_LEN : KEY_LEN + 5], output[KEY_LEN + 5 :]
            found.setdefault(height, {})[idx] = rest[:-8] + tx_num[::-1] + rest[-8:]
        return found

    def _write_history(self, store: StoreFiller) -> None:
        kernels = self.kernels
        manifest = self.workspace.manifest
        last_hashX = bytes.fromhex(manifest.last_hashX)
        # A stop may have left more rows of a script than this writes.
        store.remove_from(hist_key(last_hashX, manifest.last_flush_id + 1) if last_hashX else b"")
        maker = kernels.HistoryRows(self.row_entries, last_hashX, manifest.last_flush_id)

        def work(part: Range) -> bytes:
            merged: bytes = kernels.merge_history(self._read(HISTORY, part.parts[0]))
            return merged

        for part, history in self._each_range((HISTORY,), work):
            store.write(BufferRows(maker.put_rows, history, HISTORY_LEN))
            fault_point("bulk: rows written")
            manifest.last_hashX, manifest.last_flush_id = maker.hashX.hex(), maker.flush_id
            manifest.max_flush_id = max(manifest.max_flush_id, maker.max_flush_id)
            self._done(store, part, (HISTORY,))

    # -- ranges

    def _read(self, kind: Kind, parts: Iterable[Part]) -> list[bytes]:
        file = self.workspace.files[kind]
        return [file.read(part) for part in parts if part.records]

    def _appended(self, kind: Kind, records: bytes) -> list[Section]:
        if not len(records):
            return []
        section = self.workspace.files[kind].append(self.workspace.last(kind), records)
        fault_point("bulk: joined records written")
        return [section]

    def _done(self, store: StoreFiller, part: Range, kinds: tuple[Kind, ...]) -> None:
        """Note the end of a range, in the manifest on the disk too when it is time."""
        manifest = self.workspace.manifest
        manifest.cursor = part.end
        for kind, parts in zip(kinds, part.parts, strict=True):
            self._merged.update(((kind, part.section), part.end) for part in parts)
            self._merged_bytes += sum(part.records for part in parts) * kind.length
        stopping = self.stop.is_set()
        if stopping or self._merged_bytes >= COMMIT_BYTES:
            self._commit(store)
        self.report(manifest.phase, part_done(manifest))
        if stopping:
            raise MergeStopped

    def _commit(self, store: StoreFiller) -> None:
        """Make merged rows durable, and free their source records.

        Free a section from its beginning: the blocks that parts share would stay, and files of
        thousands of small pieces take seconds to remove.
        """
        # Also without merged records: blocks without spends have undo rows, too.
        store.commit()
        fault_point("bulk: rows durable")
        self.workspace.save()
        for (kind, section), end in self._merged.items():
            self.workspace.free(kind, [Part(section.first, end - section.first, section)])
        self._merged.clear()
        self._merged_bytes = 0

    def _each_range(
        self, kinds: tuple[Kind, ...], work: Callable[[Range], T]
    ) -> Iterator[tuple[Range, T]]:
        """Yield each range that is left and its result of ``work``, in order."""
        manifest = self.workspace.manifest
        if not manifest.cursor:
            for kind in kinds:
                self._merge_sections(kind)
        sources = [
            Sorted(self.workspace.files[kind], list(manifest.sections(kind))) for kind in kinds
        ]
        top = 1 << 8 * kinds[0].bound_len
        if manifest.cursor >= top:
            return
        yield from self._in_threads(ranges(sources, manifest.cursor, self.range_bytes), work)

    def _merge_sections(self, kind: Kind) -> None:
        """Merge sections of a kind into larger ones until they are few.

        With a small cache there are thousands, of which each range would read some bytes each.  A
        stop costs the section in progress.
        """
        manifest = self.workspace.manifest
        file = self.workspace.files[kind]
        most = max(self.LEAST_SECTIONS, self.range_bytes // self.PART_BYTES)
        sections = manifest.sections(kind)

        def work(part: Range) -> bytes:
            merged: bytes = self.kernels.merge_records(self._read(kind, part.parts[0]), kind.length)
            return merged

        while len(sections) > most:
            # No more than necessary: the last ones are large, and lie on the disk twice for a time.
            size = min(most, len(sections) - most + 1)
            group, sections = sections[:size], sections[size:]
            with file.writer(self.workspace.last(kind)) as writer:
                parts = ranges([Sorted(file, group)], 0, self.range_bytes)
                for _part, records in self._in_threads(parts, work):
                    writer.write(records)
                    if self.stop.is_set():
                        raise MergeStopped
            fault_point("bulk: sections merged")
            sections.append(writer.section)
            manifest.merged[kind.name] = list(sections)
            self.workspace.save()
            self.workspace.free(kind, map(Part.whole, group))
            self.report(manifest.phase, part_done(manifest))

    def _in_threads(
        self, todo: Iterator[Range], work: Callable[[Range], T]
    ) -> Iterator[tuple[Range, T]]:
        """Yield each range and its result of ``work``, in order."""
        with ThreadPoolExecutor(self.threads, "bulk-merge") as pool:
            under_way: deque[tuple[Range, Future[Any]]] = deque()

            def begin(parts: Iterable[Range]) -> None:
                under_way.extend((part, pool.submit(work, part)) for part in parts)

            begin(islice(todo, self.threads))
            try:
                while under_way:
                    part, future = under_way.popleft()
                    begin(islice(todo, 1))
                    result = future.result()
                    del future
                    yield part, result
                    del result
            finally:
                for _part, future in under_way:
                    future.cancel()
