"""A disk that forgets: the states that a power cut may leave of a database at any instant.

`LossyDisk.install` replaces the file layer under the database by one that writes as usual and
keeps a journal of the operations; `LossyStore` is a key-value engine whose batches are atomic and
durable once they return, while single puts may be lost.  `LossyDisk.image` then makes the folder
that a power cut after any entry of the journal may have left:

* what was written to a file since its last fsync is there in part, in any order, or not at all;
* a file or folder made since the last fsync of the folder above it may not exist, whatever was
  written into it; a file removed since then may exist again;
* of a store's unsynced puts, the first few are there;
* a file that was renamed may have its old name, and the replaced one be there, until the folder is
  synced; the last few of the stores that were moved or removed may be where they were.
"""

import os
import random
import shutil
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from electrumx.lib import util
from electrumx.server.db.flat_files import FlatFiles
from electrumx.server.storage.base import Storage


class LossyStore(Storage):
    """An engine in memory, for DB_ENGINE=lossy."""

    ENGINE = "lossy"
    #: content of a store's file CURRENT -> its rows
    stores: dict[str, dict[bytes, bytes]] = {}
    numbers = count()
    #: the disk that is notified of every write, if any
    disk = None

    @classmethod
    def import_module(cls):
        pass

    def _refuse_other_engine(self, name):
        pass

    def open(self, name):
        self.name = name
        os.makedirs(name, exist_ok=True)
        current = Path(name, "CURRENT")
        if not current.exists():
            # A folder may be renamed, and another one made in its place.
            current.write_text(f"{name} {next(self.numbers)}")
        self.rows = self.stores.setdefault(current.read_text(), {})
        if self.is_new:
            self._record("mkdir", name)

    def _record(self, *entry):
        if self.disk:
            self.disk.record(*entry)

    def close(self):
        pass

    def get(self, key):
        return self.rows.get(key)

    def put(self, key, value):
        self._record("put", self.name, key, value)
        self.rows[key] = value

    @contextmanager
    def write_batch(self):
        batch = _Batch()
        yield batch
        self._record("batch", self.name, batch.changes)
        apply_changes(self.rows, batch.changes)

    def iterator(self, prefix=b"", reverse=False, start=b""):
        rows = [
            row
            for row in sorted(self.rows.items())
            if row[0].startswith(prefix) and row[0] >= start
        ]
        return iter(rows[::-1] if reverse else rows)


class _Batch:
    def __init__(self):
        self.changes = []

    def put(self, key, value):
        self.changes.append((key, value))

    def delete(self, key):
        self.changes.append((key, None))


def apply_changes(rows, changes):
    """Set and remove rows of a dictionary."""
    for key, value in changes:
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


class _File:
    """A file object that reports the writes through it."""

    def __init__(self, disk, raw, path):
        self._disk, self._raw, self._path = disk, raw, path

    def write(self, data):
        self._disk.record("write", self._path, self._raw.tell(), bytes(data))
        return self._raw.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_exc_info):
        self._raw.close()

    def __getattr__(self, name):
        return getattr(self._raw, name)


class LossyDisk:
    """The journal of the operations below a folder."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.journal = []

    def record(self, kind, path, *rest):
        """Note an operation; paths are kept relative to the folder."""
        self.journal.append((kind, os.path.relpath(path, self.folder), *rest))

    def install(self, monkeypatch):
        """Replace what the database writes files with."""
        open_file, fsync, mkdir, unlink = util.open_file, os.fsync, Path.mkdir, Path.unlink
        replace, rename, rmtree = os.replace, Path.rename, shutil.rmtree

        def recording_open(filename, create=False):
            new = not os.path.exists(filename)
            raw = open_file(filename, create)
            if new:
                self.record("create", filename)
            return _File(self, raw, filename)

        def recording_fsync(fd):
            path = os.readlink(f"/proc/self/fd/{fd}")
            fsync(fd)
            self.record("fsync", path)

        def recording_mkdir(path, *args, **kwargs):
            new = not path.exists()
            mkdir(path, *args, **kwargs)
            if new and str(path).startswith(self.folder):
                self.record("mkdir", path)

        def recording_unlink(path, *args, **kwargs):
            there = path.exists()
            unlink(path, *args, **kwargs)
            if there and str(path).startswith(self.folder):
                self.record("unlink", path)

        def recording_replace(source, target):
            replace(source, target)
            self.record("replace", target, os.path.relpath(source, self.folder))

        def recording_rename(path, target):
            rename(path, target)
            self.record("move", target, os.path.relpath(path, self.folder))

        def recording_rmtree(path, **kwargs):
            there = os.path.exists(path)
            rmtree(path, **kwargs)
            if there and str(path).startswith(self.folder):
                self.record("rmtree", path)

        def write_raw_block(files, block, height):
            path = files.raw_block_path(height)
            if not path.exists():
                self.record("create", path)
            self.record("write", path, 0, block)
            path.write_bytes(block)

        monkeypatch.setattr(util, "open_file", recording_open)
        monkeypatch.setattr(os, "fsync", recording_fsync)
        monkeypatch.setattr(os, "replace", recording_replace)
        monkeypatch.setattr(Path, "rename", recording_rename)
        monkeypatch.setattr(shutil, "rmtree", recording_rmtree)
        monkeypatch.setattr(Path, "mkdir", recording_mkdir)
        monkeypatch.setattr(Path, "unlink", recording_unlink)
        monkeypatch.setattr(FlatFiles, "write_raw_block", write_raw_block)
        monkeypatch.setattr(LossyStore, "disk", self)

    def image(self, cut, place, seed=None):
        """Make in ``place`` what a power cut after ``cut`` entries may leave.

        Without a seed everything that is not synced is lost.
        """
        state = _State(random.Random(seed) if seed is not None else None)
        for kind, path, *rest in self.journal[:cut]:
            getattr(state, kind)(path, *rest)
        state.write_to(Path(place))


class _State:
    """A folder as it is on the platters and in the caches above them."""

    def __init__(self, choose):
        self.choose = choose
        self.durable = {}  # path -> synced content
        self.pending = {}  # path -> [(offset, data)] since the last fsync
        self.folders = set()
        self.stores = {}  # path -> rows
        self.puts = {}  # path -> [(key, value)] since the last batch
        self.new = set()  # paths whose entry in the folder above is not durable
        self.removed = {}  # path -> content, its removal not being durable
        self.replaced = {}  # path -> what was there before a rename that is not durable, or None
        self.moves = []  # functions that undo each move and removal of a folder that is not durable

    # -- the entries of the journal

    def create(self, path):
        self.removed.pop(path, None)
        self.durable[path] = b""
        self.pending[path] = []
        self.new.add(path)

    def mkdir(self, path):
        self.folders.add(path)
        self.new.add(path)

    def write(self, path, offset, data):
        self.pending.setdefault(path, []).append((offset, data))

    def fsync(self, path):
        if path in self.durable:
            for offset, data in self.pending.pop(path, []):
                self._apply(path, offset, data)
            self.pending[path] = []
            return
        inside = "" if path == "." else path
        self.new = {p for p in self.new if os.path.dirname(p) != inside}
        self.removed = {p: c for p, c in self.removed.items() if os.path.dirname(p) != inside}
        self.replaced = {p: c for p, c in self.replaced.items() if os.path.dirname(p) != inside}
        if not inside:
            self.moves = []

    def unlink(self, path):
        if path not in self.new:
            self.removed[path] = self.durable[path]
        self.durable.pop(path)
        self.pending.pop(path, None)
        self.new.discard(path)

    def replace(self, path, source):
        old = None if path in self.new else self.durable.get(path)
        self.replaced.setdefault(path, old)
        self.durable[path] = self.durable.pop(source)
        self.pending[path] = self.pending.pop(source, [])
        self.new -= {path, source}

    def move(self, path, source):
        rows, new = self.stores.pop(source, {}), source in self.new
        self.folders = self.folders - {source} | {path}
        self.new -= {source}
        self.stores[path] = rows

        def undo():
            self.folders = self.folders - {path} | {source}
            self.stores[source] = self.stores.pop(path)
            self.new |= {source} if new else set()

        self.moves.append(undo)

    def rmtree(self, path):
        inside = [p for p in self.durable if p.startswith(path + os.sep)]
        files = {p: (self.durable.pop(p), self.pending.pop(p, [])) for p in inside}
        gone = {p for p in self.folders if p == path or p.startswith(path + os.sep)}
        rows = {p: self.stores.pop(p) for p in gone if p in self.stores}
        new = self.new & (gone | set(inside))
        self.folders -= gone
        self.new -= new

        def undo():
            # Files whose removal is under way are gone or there.
            for p, (content, pending) in files.items():
                if self._chance():
                    self.durable[p], self.pending[p] = content, pending
            self.folders |= gone
            self.stores.update(rows)
            self.new |= new

        self.moves.append(undo)

    def batch(self, path, changes):
        rows = self.stores.setdefault(path, {})
        # One log: earlier puts are in it earlier.
        apply_changes(rows, self.puts.pop(path, []))
        apply_changes(rows, changes)

    def put(self, path, key, value):
        self.puts.setdefault(path, []).append((key, value))

    # -- the cut

    def _apply(self, path, offset, data):
        content = self.durable[path].ljust(offset, b"\0")
        self.durable[path] = content[:offset] + data + content[offset + len(data) :]

    def _chance(self):
        return self.choose is not None and self.choose.random() < 0.5

    def _lose(self):
        """Decide of everything that is not durable."""
        for path, writes in self.pending.items():
            if self.choose:
                self.choose.shuffle(writes)
            for offset, data in writes:
                if self._chance():
                    # A part of it, as sectors are.
                    size = len(data) if self._chance() else self.choose.randrange(len(data) + 1)
                    self._apply(path, offset, data[:size])
                elif self._chance():
                    self._apply(path, offset, self.choose.randbytes(len(data)))
        for path, changes in self.puts.items():
            count = self.choose.randint(0, len(changes)) if self.choose else 0
            apply_changes(self.stores.setdefault(path, {}), changes[:count])
        kept = self.choose.randint(0, len(self.moves)) if self.choose else 0
        for undo in self.moves[kept:][::-1]:
            undo()
        for path, content in self.removed.items():
            if self._chance():
                self.durable[path] = content
        for path, content in self.replaced.items():
            if path in self.durable and not self._chance():
                self.durable.pop(path)
                if content is not None:
                    self.durable[path] = content
        self.lost = {path for path in self.new if not self._chance()}

    def _is_lost(self, path):
        return bool(path) and (path in self.lost or self._is_lost(os.path.dirname(path)))

    def write_to(self, place):
        self._lose()
        place.mkdir()
        for path in list(LossyStore.stores):
            if path.startswith(f"{place}{os.sep}"):
                del LossyStore.stores[path]
        for path in sorted(self.folders):
            if not self._is_lost(path):
                (place / path).mkdir(exist_ok=True, parents=True)
                if os.path.basename(path) in ("utxo", "hist"):
                    name = f"{place / path} {next(LossyStore.numbers)}"
                    (place / path / "CURRENT").write_text(name)
                    LossyStore.stores[name] = dict(self.stores.get(path, {}))
        for path, content in self.durable.items():
            if not self._is_lost(path) and (place / path).parent.is_dir():
                (place / path).write_bytes(content)
