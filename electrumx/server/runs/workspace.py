"""The folder of a bulk sync: its run files, its manifest, and the stores that it fills.

Owns finding it, checking it at a start, going back in it, and removing it.  It lies in the database
directory, so that it is on the same disk as the stores, for renaming them into their places.

Runs in: a worker thread.
"""

import logging
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from electrumx.lib import util
from electrumx.server.runs import FOLDER
from electrumx.server.runs import manifest as manifests
from electrumx.server.runs.manifest import JOIN, SCAN, SWAP, Manifest, Run, Section
from electrumx.server.runs.records import (
    HISTORY,
    KINDS,
    LATE,
    OUTPUTS,
    SPENDS,
    UNDO,
    UTXOS,
    Kind,
)
from electrumx.server.runs.run_files import Part, RunFile
from electrumx.server.runs.store_locks import StoreLocks
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.schema import DBError

#: stores, the one that decides what is true last
STORES = ("hist", "utxo")


class Workspace:
    """The folder; it exists from :meth:`open` on."""

    def __init__(self, db_dir: Path, logger: logging.Logger):
        self.db_dir = db_dir
        self.folder = db_dir / FOLDER
        self.logger = logger
        self.files = {kind: RunFile(self.folder, kind) for kind in KINDS}
        self.manifest = Manifest("", "")

    def open(self, genesis: str, engine: str, has_files_of: Callable[[Run], bool]) -> None:
        """Go on with the files there, or begin; remove one of another chain, engine or format.

        Remove one with runs for which ``has_files_of`` is false, too: the flat files lack the blocks.
        """
        found = None
        try:
            found = manifests.load(self.folder)
        except DBError as e:
            self.logger.warning(f"beginning the bulk sync again: {e}")
        if found is not None and (found.genesis, found.engine) != (genesis, engine):
            self.logger.warning("beginning the bulk sync again: coin, net or DB engine changed")
            found = None
        if found is not None and not self.is_complete(found):
            self.logger.warning("beginning the bulk sync again: files are missing or too short")
            found = None
        if found is not None and not all(map(has_files_of, found.runs)):
            self.logger.warning(
                "beginning the bulk sync again: the flat files do not have its blocks"
            )
            found = None
        if found is None:
            self.remove()
            self.folder.mkdir(exist_ok=True)
            util.sync_directory(self.db_dir)
            self.manifest = Manifest(genesis, engine)
            self.save()
        else:
            self.manifest = found

    def is_complete(self, found: Manifest) -> bool:
        """Return whether the files have what the present phase still reads."""
        needed: dict[str, tuple[Kind, ...]] = {
            SCAN: (OUTPUTS, SPENDS, LATE, HISTORY, UNDO),
            JOIN: (OUTPUTS, SPENDS, LATE, HISTORY, UTXOS, UNDO),
            manifests.UTXOS: (HISTORY, UTXOS, UNDO),
            manifests.UNDO: (HISTORY, UNDO),
            manifests.HISTORY: (HISTORY,),
            SWAP: (),
        }
        kinds = needed[found.phase]
        return all(self.files[kind].holds(found.sections(kind)) for kind in kinds)

    def save(self) -> None:
        """Make the run files durable, then the manifest that names their sections."""
        for file in self.files.values():
            file.sync()
        fault_point("bulk: run files synced")
        self.manifest.save(self.folder)

    def last(self, kind: Kind) -> Section:
        """Return the valid section of a kind that lies behind all others; an empty one without any.

        The next one goes behind it.
        """
        sections = self.manifest.sections(kind)
        return max(sections, key=lambda section: (section.end, section.sums), default=Section(0, 0))

    def intact_runs(self, kind: Kind, section: Section) -> int:
        """Return how many runs are still usable when a section of a kind is damaged.

        It is 0 once the merge has begun, as that frees the room of merged records.
        """
        manifest = self.manifest
        if manifest.phase not in (SCAN, JOIN) or manifest.cursor or manifest.merged:
            return 0
        for number, run in enumerate(manifest.runs):
            part: Section | list[Section] = getattr(run, kind.name)
            if section in (part if isinstance(part, list) else [part]):
                return number
        return 0

    def go_back(self, runs: int) -> None:
        """Keep the first ``runs`` runs only, or none; this loses merged rows."""
        if self.manifest.phase == JOIN and not self.manifest.cursor and not self.manifest.merged:
            # The merge has freed nothing, and writes rows that are in the stores again.
            self.remove_stores()
            self.manifest.enter(SCAN)
        if self.manifest.phase != SCAN:
            runs = 0
        if not runs:
            genesis, engine = self.manifest.genesis, self.manifest.engine
            self.remove()
            self.folder.mkdir(exist_ok=True)
            self.manifest = Manifest(genesis, engine)
        else:
            del self.manifest.runs[runs:]
            if (self.manifest.undo_from or 0) > self.manifest.height:
                self.manifest.undo_from = None
        self.save()

    def free(self, kind: Kind, parts: Iterable[Part]) -> None:
        """Give room of merged records back."""
        for part in parts:
            self.files[kind].free(part)

    def remove_stores(self) -> None:
        """Remove the stores that the bulk sync fills."""
        for name in STORES:
            self._remove_store(self.folder / name)

    def _remove_store(self, path: Path) -> None:
        """Remove a store, if it exists.  A stop at any instant leaves all of it in its place, or nothing.

        An engine refuses a store that lacks some of its files.
        """
        rest = self.folder / f"{path.name}.removed"
        shutil.rmtree(rest, ignore_errors=True)
        with suppress(FileNotFoundError):
            path.rename(rest)
        fault_point("bulk: store put aside")
        shutil.rmtree(rest, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder; the manifest first, so that nothing half-removed is gone on with."""
        self.close()
        if not self.folder.exists():
            return
        (self.folder / manifests.NAME).unlink(missing_ok=True)
        util.sync_directory(self.folder)
        self.files_done()
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder)

    def files_done(self) -> None:
        """Remove all run files, after the merge or when giving up."""
        for file in self.files.values():
            file.delete()

    def close(self) -> None:
        """Close all files."""
        for file in self.files.values():
            file.close()

    @property
    def temporary_bytes(self) -> int:
        """The disk taken by run files now."""
        total = 0
        for kind in KINDS:
            with suppress(FileNotFoundError):
                total += (self.folder / kind.name).stat().st_blocks * 512
        return total

    # -- the stores

    def move_stores(self) -> None:
        """Put the filled stores in the places of the database's, which are empty.

        No task may have them open, and no other process can open them until the end of this.  May
        be repeated after a stop at any instant.
        """
        with StoreLocks() as locks:
            # Every server opens the utxo store first.
            for name in reversed(STORES):
                locks.take(self.db_dir / name)
                locks.take(self.folder / name)
            for name in STORES:
                made, place = self.folder / name, self.db_dir / name
                if made.exists():
                    self._remove_store(place)
                    fault_point("bulk: empty store removed")
                    made.rename(place)
                    util.sync_directory(self.db_dir)
                    fault_point("bulk: store moved")


def finish_move(
    db_dir: Path,
    logger: logging.Logger,
    has_blocks: Callable[[], bool],
    flush_count: Callable[[], int],
) -> None:
    """Complete the last step of a bulk sync that stopped in it.  Call it before opening stores.

    If the database in their place ``has_blocks``, which another server has indexed since, it stays;
    so it does if that server cleared the moved ``hist`` store, by its ``flush_count``.
    """
    workspace = Workspace(db_dir, logger)
    try:
        found = manifests.load(workspace.folder)
    except DBError:
        return
    if found is None or found.phase != SWAP:
        return
    hist, utxo = (workspace.folder / name for name in STORES)
    if utxo.exists() and (
        has_blocks() or (not hist.exists() and flush_count() != max(1, found.max_flush_id))
    ):
        logger.warning(
            f"removing the unfinished bulk sync in {workspace.folder}: another server has changed "
            "the database"
        )
    else:
        workspace.manifest = found
        workspace.move_stores()
    workspace.remove()
