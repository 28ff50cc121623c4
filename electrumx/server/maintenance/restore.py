"""Restores a snapshot into a directory, which becomes a database only when it is complete.

Owns the folder DIR.restoring beside the directory.  It receives files there as NAME.part, hashes
them as they come, compares them with the manifest, syncs and renames them; when all are there it
renames the folder DIR.  A restore interrupted at any instant leaves that folder.  The next one
continues: it reads and hashes complete files again, and requests the rest of others.  At the end it
removes files that its own manifest does not have, so an older snapshot helps to restore a newer one.

Runs on the event loop; whatever touches the disk runs in worker threads.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from logging import Logger
from pathlib import Path

from electrumx.lib import util
from electrumx.lib.errors import OperatorError
from electrumx.lib.tasks import run_together
from electrumx.server.maintenance.snapshot_manifest import (
    FOLDERS,
    MANIFEST,
    PART,
    ManifestError,
    SnapshotFile,
    SnapshotManifest,
    file_digest,
    parse_manifest,
)
from electrumx.server.maintenance.snapshot_source import (
    RangeIgnored,
    SnapshotSource,
    SourceFault,
    SourceInterrupted,
)
from electrumx.server.storage.schema import DB_VERSION

#: suffix of the folder that receives files
RESTORING = ".restoring"
#: faults of files after which the others are no longer tried
MAX_FAULTS = 20
#: share of the files' size that must be free in addition, and bytes of it at least: for folders, and
#: for files that the engine creates when it opens the database
SPARE_SHARE = 0.01
SPARE_BYTES = 64 << 20
_WRITE_BYTES = 1 << 18


class RestoreError(OperatorError):
    """The restore failed; the received files stay for the next attempt."""


class FaultyFiles(RestoreError):
    """Files of the source are not those of the manifest; ``lines`` has one line for each."""

    def __init__(self, lines: list[str]):
        super().__init__("; ".join(lines))
        self.lines = lines


@dataclass(slots=True)
class Limits:
    """How patient a restore is."""

    #: files received at a time
    connections: int = 4
    #: requests one after the other that bring less than ``progress_bytes`` and no end of a file
    attempts: int = 6
    progress_bytes: int = 1 << 20
    #: seconds before the second attempt; they double each time
    first_pause_secs: float = 1.0
    log_secs: float = 10.0


@dataclass(slots=True)
class Progress:
    """How far a restore is."""

    total_bytes: int = 0
    #: received or found, in bytes
    done_bytes: int = 0
    #: of these, received by this process
    received_bytes: int = 0
    faults: list[str] = field(default_factory=list)


class _Received:
    """A file during its transfer; its methods block and run in worker threads.

    A thread may still be writing when the task that waits for it is cancelled; hence the lock.
    """

    def __init__(self, path: Path, file: SnapshotFile):
        self._path = path
        self._part = path.with_name(path.name + PART)
        self._file = file
        self._fd: int | None = None
        self._lock = threading.Lock()
        self._digest = hashlib.sha256()
        self.length = 0

    def is_complete(self) -> bool:
        """Return whether the file is there and right; remove it if it is wrong."""
        try:
            if _size_of(self._path) == self._file.size:
                _size, sha256 = file_digest(self._path, lambda: None)
                if sha256 == self._file.sha256:
                    return True
        except FileNotFoundError:
            return False
        self._path.unlink()
        return False

    def open(self) -> None:
        """Continue with the part that is there, if any."""
        with self._lock:
            fd = self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if os.fstat(fd).st_size > self._file.size:
                os.ftruncate(fd, 0)
            while chunk := os.pread(fd, 1 << 20, self.length):
                self._digest.update(chunk)
                self.length += len(chunk)

    def restart(self) -> None:
        """Begin again."""
        with self._lock:
            os.ftruncate(self._opened, 0)
            self._digest = hashlib.sha256()
            self.length = 0

    def write(self, chunks: list[bytes]) -> None:
        """Append chunks, which together do not exceed the file's size."""
        with self._lock:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    written = os.pwrite(self._opened, view, self.length)
                    self._digest.update(view[:written])
                    self.length += written
                    view = view[written:]

    def finish(self) -> bool:
        """Return whether the content is right; then it is durable and has its name."""
        with self._lock:
            if self._digest.hexdigest() != self._file.sha256:
                return False
            os.fsync(self._opened)
            self._part.rename(self._path)
            return True

    def discard(self) -> None:
        """Remove the received part."""
        self._part.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, which stays."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    @property
    def _opened(self) -> int:
        assert self._fd is not None, "a file that is closed"
        return self._fd


class Restore:
    """The restore of one snapshot from a source to a directory."""

    def __init__(
        self, source: SnapshotSource, directory: Path, logger: Logger, limits: Limits | None = None
    ):
        """Raise RestoreError if the directory has no name, and so none beside it."""
        if not directory.name:
            raise RestoreError(f"{directory} cannot be replaced: give a directory in it")
        self.source = source
        self.directory = directory
        self.staging = directory.with_name(directory.name + RESTORING)
        self.progress = Progress()
        self._logger = logger
        self._limits = limits or Limits()

    async def run(self, wanted: Mapping[str, str]) -> SnapshotManifest:
        """Restore the snapshot; return its manifest.

        ``wanted`` has the known values of ``coin``, ``net`` and ``engine``, which the manifest must
        have.  Raise RestoreError.
        """
        try:
            await asyncio.to_thread(check_directory, self.directory)
            manifest = await self._manifest(wanted)
            with _locked(self.staging):
                await self._receive_all(manifest)
                await asyncio.to_thread(self._put_in_place, manifest)
        except OSError as e:
            place = e.filename or self.staging
            raise RestoreError(f"cannot write to {place}: {e.strerror or e}") from e
        return manifest

    async def _manifest(self, wanted: Mapping[str, str]) -> SnapshotManifest:
        try:
            raw = await self.source.read_manifest()
            manifest = await asyncio.to_thread(parse_manifest, raw)
        except (ManifestError, SourceFault, SourceInterrupted) as e:
            raise RestoreError(
                f"the manifest {MANIFEST} of {self.source.name} cannot be used: {e}"
            ) from e
        for name, value in wanted.items():
            there = getattr(manifest, name)
            if there.casefold() != value.casefold():
                variable = {"coin": "COIN", "net": "NET", "engine": "DB_ENGINE"}[name]
                raise RestoreError(
                    f"{self.source.name} is of the {name} {there}, but {variable} is {value}"
                )
        if manifest.db_version > DB_VERSION:
            raise RestoreError(
                f"{self.source.name} has database version {manifest.db_version}, newer than "
                f"{DB_VERSION}: use the version that wrote it"
            )
        self._logger.info(
            f"restore: {self.source.name} has height {manifest.height:,d} of {manifest.coin} "
            f"{manifest.net}, for {manifest.engine}: {len(manifest.files):,d} files, "
            f"{manifest.total_bytes:,d} bytes"
        )
        return manifest

    # -- receiving

    async def _receive_all(self, manifest: SnapshotManifest) -> None:
        await asyncio.to_thread(self._prepare, manifest)
        files = iter(manifest.files)
        reports = asyncio.ensure_future(self._report())
        try:
            await run_together(
                *(self._receive_some(files) for _ in range(self._limits.connections))
            )
        except RestoreError as e:
            raise FaultyFiles([*self.progress.faults, str(e)]) from e
        finally:
            reports.cancel()
            await asyncio.gather(reports, return_exceptions=True)
        if self.progress.faults:
            raise FaultyFiles(self.progress.faults)

    def _prepare(self, manifest: SnapshotManifest) -> None:
        """Make the folders, and raise RestoreError if there is not enough space."""
        self.progress.total_bytes = manifest.total_bytes
        missing = 0
        for name in FOLDERS:
            folder = self.staging / name
            if folder.is_symlink():
                raise RestoreError(f"{folder} is a symbolic link: remove it")
            folder.mkdir(mode=0o700, exist_ok=True)
        for file in manifest.files:
            path = self.staging / file.name
            there = max(_size_or_0(path), _size_or_0(path.with_name(path.name + PART)))
            missing += max(0, file.size - there)
        needed = missing + max(SPARE_BYTES, int(manifest.total_bytes * SPARE_SHARE))
        found = os.statvfs(self.staging)
        free = found.f_bavail * found.f_frsize
        if needed > free:
            raise RestoreError(
                f"the disk of {self.directory} has {free:,d} bytes free, {needed:,d} are needed: "
                "make room, or give a directory on another disk"
            )
        if found.f_files and found.f_favail < len(manifest.files):
            raise RestoreError(
                f"the file system of {self.directory} has room for {found.f_favail:,d} files, "
                f"{len(manifest.files):,d} are needed"
            )

    async def _receive_some(self, files: Iterator[SnapshotFile]) -> None:
        """Receive files until the iterator, which others take from too, ends."""
        for file in files:
            received = _Received(self.staging / file.name, file)
            if await asyncio.to_thread(received.is_complete):
                self.progress.done_bytes += file.size
                continue
            try:
                await self._receive(file, received)
            except SourceFault as e:
                await asyncio.to_thread(received.discard)
                self._add_fault(f"{file.name}: {e}")
            finally:
                await asyncio.to_thread(received.close)

    def _add_fault(self, line: str) -> None:
        faults = self.progress.faults
        if len(faults) < MAX_FAULTS:
            faults.append(line)
        if len(faults) >= MAX_FAULTS:
            raise RestoreError("too many faults: the other files were not tried")

    async def _receive(self, file: SnapshotFile, received: _Received) -> None:
        """Receive one file.  Raise SourceFault if it is wrong, RestoreError if it does not come."""
        await asyncio.to_thread(received.open)
        self.progress.done_bytes += received.length
        resumed = received.length > 0
        # Progress counts from the farthest byte so far: without ranges each attempt begins at 0.
        attempt, mark = 0, received.length
        while True:
            try:
                await self._receive_rest(file, received)
            except RangeIgnored:
                await self._restart(received)
                continue
            except SourceInterrupted as e:
                if received.length - mark >= self._limits.progress_bytes:
                    attempt, mark = 0, received.length
                attempt += 1
                if attempt >= self._limits.attempts:
                    raise RestoreError(
                        f"{file.name} of {self.source.name} cannot be read: {e}; the next run "
                        "continues from here"
                    ) from e
                self._logger.warning(f"restore: {file.name}: {e}; trying again")
                await asyncio.sleep(self._limits.first_pause_secs * 2 ** (attempt - 1))
                continue
            if await asyncio.to_thread(received.finish):
                return
            await self._restart(received)
            if not resumed:
                raise SourceFault("its SHA-256 is not that of the manifest")
            # The part that was there may be of another snapshot.
            resumed, attempt, mark = False, 0, 0

    async def _restart(self, received: _Received) -> None:
        self.progress.done_bytes -= received.length
        await asyncio.to_thread(received.restart)

    async def _receive_rest(self, file: SnapshotFile, received: _Received) -> None:
        if received.length == file.size:
            return
        chunks: list[bytes] = []
        pending = 0
        reading = self.source.read(file.name, file.size, received.length)
        async with aclosing(reading) as incoming:
            try:
                async for chunk in incoming:
                    chunks.append(chunk)
                    pending += len(chunk)
                    if pending >= _WRITE_BYTES:
                        full, chunks, pending = chunks, [], 0
                        await self._write(received, full)
            except SourceInterrupted:
                # The next attempt requests the rest.
                await self._write(received, chunks)
                raise
        await self._write(received, chunks)

    async def _write(self, received: _Received, chunks: list[bytes]) -> None:
        await asyncio.to_thread(received.write, chunks)
        count = sum(map(len, chunks))
        self.progress.done_bytes += count
        self.progress.received_bytes += count

    async def _report(self) -> None:
        progress, start = self.progress, time.monotonic()
        while True:
            await asyncio.sleep(self._limits.log_secs)
            speed = progress.received_bytes / (time.monotonic() - start)
            done = 100 * progress.done_bytes / max(1, progress.total_bytes)
            self._logger.info(
                f"restore: {done:.1f}% of {progress.total_bytes:,d} bytes, "
                f"{speed / 1e6:,.1f} MB received a second"
            )

    # -- the end

    def _put_in_place(self, manifest: SnapshotManifest) -> None:
        """Make the directory of the complete folder."""
        wanted = {file.name for file in manifest.files}
        for path in sorted(self.staging.rglob("*")):
            if not path.is_dir() or path.is_symlink():
                name = path.relative_to(self.staging).as_posix()
                if name not in wanted:
                    path.unlink()
                wanted.discard(name)
        if wanted:
            raise RestoreError(f"the file {min(wanted)} was removed from {self.staging}")
        check_directory(self.directory)
        if self.directory.exists():
            _take_over_owner(self.staging, os.stat(self.directory))
        for folder in (*(self.staging / name for name in FOLDERS), self.staging):
            util.sync_directory(folder)
        # Replaces an empty directory.
        self.staging.rename(self.directory)
        util.sync_directory(self.directory.parent)


def check_directory(directory: Path) -> None:
    """Raise RestoreError unless a rename can replace a directory with a database."""
    if directory.is_symlink():
        raise RestoreError(f"{directory} is a symbolic link: give the directory itself")
    if directory.exists():
        if not directory.is_dir():
            raise RestoreError(f"{directory} is not a directory: give a path that does not exist")
        if os.path.ismount(directory):
            raise RestoreError(
                f"{directory} is where a disk is mounted: give a directory in it, as DB_DIRECTORY too"
            )
        if any(directory.iterdir()):
            raise RestoreError(f"{directory} is not empty: give a path that does not exist")
    parent = directory.parent
    if not parent.is_dir():
        raise RestoreError(f"{parent} is not a directory: create it, or give another path")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RestoreError(
            f"{parent} is not writable, where {directory.name}{RESTORING} is made: run this as a "
            "user who may write there"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder if it is missing, and raise RestoreError while another process has it."""
    if folder.is_symlink():
        raise RestoreError(f"{folder} is a symbolic link: remove it")
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RestoreError(f"{folder} is in use by another restore: wait for it") from None
        yield
    finally:
        os.close(fd)


def _take_over_owner(folder: Path, place: os.stat_result) -> None:
    """Give a folder the mode of the directory that it replaces, and, as root, all of it its owner."""
    folder.chmod(stat.S_IMODE(place.st_mode))
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, place.st_uid, place.st_gid)


def _size_of(path: Path) -> int:
    """Return the bytes of a regular file, -1 of anything else.  Raise FileNotFoundError."""
    found = os.lstat(path)
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _size_or_0(path: Path) -> int:
    try:
        return max(0, _size_of(path))
    except FileNotFoundError:
        return 0
