"""Copies the database of a running server, so that the copy starts as a server elsewhere.

Owns the staging folder in the database directory, and the files beside the backup's path.
:func:`back_up` runs on the event loop, and does its work in worker threads.

1. Without the state lock: RocksDB writes its memtables; the backup links LevelDB's tables, so that
   only those are left that the engine creates from now on.
2. *With it*, so that no flush happens: the backup makes hard links and small copies in the staging
   folder, which is on the database's own disk.  RocksDB makes a checkpoint.  Of LevelDB the backup
   links the tables, which never change once written, and copies ``CURRENT``, the manifest and the
   logs; if the manifest grew during it, because LevelDB compacted tables in the background, it
   repeats the copy.  Of the flat files it links those that lie wholly below what can be
   reorganised, and copies the last ones up to the committed height.
3. Without it again: the backup copies raw blocks, which need not agree with the rest, since readers
   check their hashes and ask the daemon; it moves the staging folder, or copies it if the path
   is on another disk, to PATH.partial; it syncs everything, and renames PATH.partial PATH.

A kill before the rename leaves PATH.partial, which is never mistaken for a backup, and the staging
folder, which the next start of the server and the next backup remove.
"""

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from electrumx.lib import util
from electrumx.lib.errors import OperatorError
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.db import DB
from electrumx.server.db.flat_files import STAGING
from electrumx.server.maintenance.snapshot_manifest import (
    SnapshotFile,
    SnapshotManifest,
    file_digest,
    write_manifest,
)
from electrumx.server.runtime.mounts import is_read_only, is_removed_at_stop
from electrumx.server.storage.base import Storage
from electrumx.server.storage.rocksdb import RocksDB
from electrumx.server.storage.schema import CommittedState

#: suffix of an unfinished backup
PARTIAL = ".partial"
#: suffixes of the engines' immutable files
TABLES = (".ldb", ".sst", ".blob")
#: attempts to copy a store while it compacts tables, and seconds between them
COPY_TRIES = 50
COPY_RETRY_SECS = 0.02
_CHUNK = 1 << 20


class BackupError(OperatorError):
    """The backup failed; nothing of it is left."""


class BackupStopped(Exception):
    """The backup was cancelled.  Methods of ``Backup`` raise it after ``stop``."""


class BackupReport(NamedTuple):
    """Size and duration of a backup."""

    path: str
    #: of the chain in the copy
    height: int
    #: files and bytes in it
    files: int
    bytes: int
    #: how long it took, and for how much of that block processing paused
    secs: float
    pause_secs: float


class Backup:
    """One backup; its methods block and run in threads."""

    def __init__(self, db: DB, path: str):
        self.db = db
        self.path = Path(path)
        self.partial = Path(path + PARTIAL)
        self.staging = db.db_dir.resolve() / STAGING
        #: committed state of the copy, None before there is one
        self.state: CommittedState | None = None
        self._made_partial = False
        self._stopped = False

    def stop(self) -> None:
        """Make the thread at work end soon."""
        self._stopped = True

    def _check_stopped(self) -> None:
        if self._stopped:
            raise BackupStopped

    # -- before

    def prepare(self) -> None:
        """Refuse an unusable path, and make the engines' share of the pause small."""
        self._check_path()
        shutil.rmtree(self.staging, ignore_errors=True)
        for name in ("utxo", "hist", "meta"):
            (self.staging / name).mkdir(parents=True)
        for name, store in self._stores().items():
            if isinstance(store, RocksDB):
                with self.db.gate.reading():
                    store.db.flush()
            else:
                link_ahead(self.db.db_dir / name, self.staging / name)

    def _check_path(self) -> None:
        path, partial = self.path, self.partial
        if not path.is_absolute():
            raise BackupError(f"{path} is not an absolute path: give one")
        if os.path.lexists(path):
            raise BackupError(f"{path} exists: give a path that does not, or remove it")
        parent = path.parent
        if not parent.is_dir():
            raise BackupError(f"{parent} is not a directory: create it, or give another path")
        within = parent.resolve()
        db_dir = self.db.db_dir.resolve()
        if within == db_dir or db_dir in within.parents:
            raise BackupError(f"{path} is in the database directory: give a path outside of it")
        if is_removed_at_stop(within):
            raise BackupError(
                f"{path} is in a temporary directory of the server's own (PrivateTmp of its unit), "
                "which is removed when the server stops: give a path that others see, in a "
                "directory that ReadWritePaths of the unit names"
            )
        if is_read_only(within):
            raise BackupError(_read_only(str(path)))
        if not os.access(within, os.W_OK | os.X_OK):
            raise BackupError(
                f"{parent} is not writable: let the user who runs the server write in it, or give "
                "another path"
            )
        if os.path.lexists(partial):
            raise BackupError(
                f"{partial} exists: another backup to this path is being made, or was "
                "interrupted; if so, remove it"
            )

    def _stores(self) -> dict[str, Storage]:
        utxo, hist = self.db.utxo_db, self.db.history.db
        if utxo is None or hist is None:
            raise BackupError("the database is not open: try again when the server has started")
        return {"utxo": utxo, "hist": hist}

    # -- with the state lock

    def capture(self) -> None:
        """Make a consistent copy in the staging folder, mostly of hard links."""
        for name, store in self._stores().items():
            if isinstance(store, RocksDB):
                (self.staging / name).rmdir()
                store.checkpoint(str(self.staging / name))
            else:
                copy_store(self.db.db_dir / name, self.staging / name)
        self.state = self.db.state
        self._capture_flat_files(self.state)

    def _capture_flat_files(self, state: CommittedState) -> None:
        files, height = self.db.files, state.height
        # Do not share files that a reorganisation can rewrite.
        floor = max(-1, self.db.min_undo_height(height) - 1)
        fixed = files.lengths(floor, self.db.tx_counts[floor] if floor >= 0 else 0)
        committed = files.lengths(height, state.tx_count)
        for (logical, length), (_logical, fixed_length) in zip(committed, fixed, strict=True):
            end = 0
            for name, size in logical.physical_sizes(length):
                target = self.staging / "meta" / Path(name).name
                end += logical.file_size
                if end <= fixed_length:
                    link_file(Path(name), target)
                else:
                    _copy(Path(name), target, size)

    # -- after

    def finish(self) -> tuple[int, int]:
        """Bring the copy to its place; return (files, bytes)."""
        marker = self.db.db_dir / "COIN"
        if marker.exists():
            _copy(marker, self.staging / "COIN")
        self._copy_raw_blocks()
        self._move()
        found = []
        for path in _files_below(self.partial):
            util.sync_path(path)
            size, sha256 = file_digest(path, self._check_stopped)
            name = path.relative_to(self.partial).as_posix()
            found.append(SnapshotFile(name, size, sha256))
        for folder in (*(self.partial / name for name in ("utxo", "hist", "meta")), self.partial):
            util.sync_directory(folder)
        manifest = self._manifest(found)
        total = manifest.total_bytes + write_manifest(manifest, self.partial)
        if os.path.lexists(self.path):
            raise BackupError(f"{self.path} exists by now: give a path that does not")
        self.partial.rename(self.path)
        util.sync_directory(self.path.parent)
        return len(found) + 1, total

    def _manifest(self, files: list[SnapshotFile]) -> SnapshotManifest:
        state, coin = self.state, self.db.coin
        assert state
        return SnapshotManifest(
            coin=coin.NAME,
            net=coin.NET,
            engine=self.db.env.db_engine.lower(),
            db_version=state.db_version,
            height=state.height,
            tip=hash_to_hex_str(state.tip),
            tx_count=state.tx_count,
            files=tuple(files),
        )

    def _copy_raw_blocks(self) -> None:
        files = self.db.files
        for height in files.raw_block_heights():
            self._check_stopped()
            source = files.raw_block_path(height)
            try:
                _copy(source, self.staging / "meta" / source.name)
            except FileNotFoundError:
                pass  # it fell out of the window just now

    def _move(self) -> None:
        """Make PATH.partial of the staging folder."""
        self.partial.mkdir()
        self._made_partial = True
        try:
            self.staging.rename(self.partial)
            return
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
        for source in _files_below(self.staging):
            target = self.partial / source.relative_to(self.staging)
            target.parent.mkdir(exist_ok=True)
            with source.open("rb") as reader, target.open("xb") as writer:
                while chunk := reader.read(_CHUNK):
                    self._check_stopped()
                    writer.write(chunk)
        for name in ("utxo", "hist", "meta"):
            (self.partial / name).mkdir(exist_ok=True)

    def clean_up(self, failed: bool) -> None:
        """Remove the staging folder, and the rest of a backup that failed."""
        shutil.rmtree(self.staging, ignore_errors=True)
        if failed and self._made_partial:
            shutil.rmtree(self.partial, ignore_errors=True)


def _read_only(path: str) -> str:
    return (
        f"{path} is on a file system that is read-only for the server: if systemd runs it, name "
        "the directory in ReadWritePaths of the unit (systemctl edit) and restart; else give "
        "another path"
    )


def _files_below(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def link_file(source: Path, target: Path) -> None:
    """Link an immutable file, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EXDEV):
            raise
        _copy(source, target)


def _copy(source: Path, target: Path, size: int | None = None) -> None:
    """Copy a file, or its first ``size`` bytes, all of which must be there."""
    with source.open("rb") as reader, target.open("wb") as writer:
        if size is None:
            shutil.copyfileobj(reader, writer, _CHUNK)
            return
        while size > 0:
            chunk = reader.read(min(_CHUNK, size))
            if not chunk:
                raise BackupError(f"{source} is truncated: run electrumx_rpc verify")
            writer.write(chunk)
            size -= len(chunk)


def copy_store(source: Path, target: Path) -> None:
    """Copy a store that is open but not written to.

    The engine may compact tables during it.  That shows in its manifest, which names the live files;
    as long as it has not grown, the engine removed none of them, so then the copy is whole.  Copies
    of unfinished tables are in vain.
    """
    for attempt in range(COPY_TRIES):
        if attempt:
            time.sleep(COPY_RETRY_SECS)
        before = _manifest(source)
        inodes = _inodes(source)
        linked = _inodes(target)
        for name, inode in linked.items():
            # Copies replace links where hard links are impossible; make them again.
            if not name.endswith(TABLES) or inodes.get(name) != inode:
                os.unlink(target / name)
        try:
            for name, inode in inodes.items():
                if name.endswith(TABLES):
                    if linked.get(name) != inode:
                        link_file(source / name, target / name)
                elif name.endswith(".log") or name.startswith(("OPTIONS-", "IDENTITY")):
                    _copy(source / name, target / name)
            for name in ("CURRENT", before[0]):
                _copy(source / name, target / name)
        except FileNotFoundError:
            continue
        if _manifest(source) == before:
            return
    raise BackupError(f"the engine is busy with {source}: try again")


def link_ahead(source: Path, target: Path) -> None:
    """Link the tables of a store in use, as far as that goes."""
    for name in _inodes(source):
        if name.endswith(TABLES):
            try:
                os.link(source / name, target / name)
            except OSError:
                pass  # a compaction removed it, or there are no links


def _inodes(folder: Path) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.inode() for entry in entries}


def _manifest(folder: Path) -> tuple[str, int]:
    """Return (name, size) of a store's manifest."""
    name = (folder / "CURRENT").read_text().strip()
    return name, (folder / name).stat().st_size


async def back_up(db: DB, lock: asyncio.Lock, path: str) -> BackupReport:
    """Copy an open database to a path that must not exist; flushes hold ``lock``.

    Raise BackupError if that fails; then nothing is left.  On cancellation the step in hand ends first.
    """
    backup = Backup(db, path)
    task = asyncio.ensure_future(_back_up(backup, lock))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        backup.stop()
        # Ignore its result.
        await asyncio.gather(task, return_exceptions=True)
        raise


#: paths of staging folders in use
_in_use: set[Path] = set()


async def _back_up(backup: Backup, lock: asyncio.Lock) -> BackupReport:
    if backup.staging in _in_use:
        raise BackupError("another backup is being made: wait until it is done")
    _in_use.add(backup.staging)
    start = time.monotonic()
    failed = True
    try:
        await asyncio.to_thread(backup.prepare)
        async with lock:
            paused = time.monotonic()
            await asyncio.to_thread(backup.capture)
            pause_secs = time.monotonic() - paused
        count, total = await asyncio.to_thread(backup.finish)
        failed = False
        assert backup.state
        height = backup.state.height
        return BackupReport(
            str(backup.path), height, count, total, time.monotonic() - start, pause_secs
        )
    except BackupStopped:
        raise BackupError("the backup was stopped: nothing of it is left") from None
    except OperatorError:
        raise
    except Exception as e:  # rocksdict raises bare Exceptions
        if isinstance(e, OSError) and e.errno == errno.EROFS:
            raise BackupError(_read_only(str(e.filename or backup.path))) from e
        reason = " ".join(str(e).split())
        raise BackupError(
            f"the backup failed and nothing of it is left: {reason}; check the path's permissions "
            "and the free space on both disks"
        ) from e
    finally:
        await asyncio.to_thread(backup.clean_up, failed)
        _in_use.discard(backup.staging)
