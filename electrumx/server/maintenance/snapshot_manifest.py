"""The manifest of a snapshot: its chain and height, and its files with their sizes and SHA-256.

Owns the format of the file ``manifest.json`` in a snapshot's folder; a backup writes it last, so that
a folder with a manifest is complete.  :func:`write_manifest` and :func:`file_digest` block and run in
worker threads.

A manifest may come from anywhere: :func:`parse_manifest` accepts only names of files
that a database has, each once, and bounds their number and their sizes.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from electrumx.lib import util
from electrumx.lib.errors import OperatorError
from electrumx.server.db.flat_files import MANIFEST

__all__ = [
    "MANIFEST",
    "ManifestError",
    "SnapshotFile",
    "SnapshotManifest",
    "file_digest",
    "parse_manifest",
    "write_manifest",
]

#: version of the format
FORMAT = 1
#: bounds on incoming manifests: bytes, files, bytes of one file
MAX_MANIFEST_BYTES = 64 << 20
MAX_FILES = 400_000
MAX_FILE_BYTES = 1 << 42
#: the folders of a database, and files without which none opens
FOLDERS = ("utxo", "hist", "meta")
REQUIRED = ("utxo/CURRENT", "hist/CURRENT", "meta/headers00", "meta/txcounts00")
#: suffix of a partly received file; no file of a snapshot has it
PART = ".part"
_NAME = re.compile(rf"COIN|(?:{'|'.join(FOLDERS)})/[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}")
_HEX_HASH = re.compile(r"[0-9a-f]{64}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}")
_CHUNK = 1 << 20


class ManifestError(OperatorError):
    """A manifest is none, or names something that no snapshot has."""


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A file of a snapshot."""

    #: path in the snapshot's folder, with ``/``
    name: str
    #: in bytes
    size: int
    #: of its content, 64 hexadecimal digits
    sha256: str


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """The chain and the height of a snapshot, and its files."""

    coin: str
    net: str
    #: as DB_ENGINE names it
    engine: str
    #: version of the layout on disk
    db_version: int
    #: of the last block in it: height, and hash as displayed
    height: int
    tip: str
    #: transactions up to and including that block
    tx_count: int
    files: tuple[SnapshotFile, ...]
    format: int = FORMAT

    @property
    def total_bytes(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        """Return the manifest as JSON."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def parse_manifest(raw: bytes) -> SnapshotManifest:
    """Return a manifest that may come from anywhere.  Raise ManifestError where it is none."""
    try:
        values = orjson.loads(raw)
    except ValueError:
        raise ManifestError("it is not JSON") from None
    if not isinstance(values, dict):
        raise ManifestError("it is not a JSON object")
    if values.get("format") != FORMAT:
        raise ManifestError(f"its format is not {FORMAT}: use the version that wrote it")
    files = values.get("files")
    if not isinstance(files, list) or not 0 < len(files) <= MAX_FILES:
        raise ManifestError(f"it has no list of 1 to {MAX_FILES:,d} files")
    found = tuple(_parse_file(file) for file in files)
    # Some file systems do not distinguish upper and lower case.
    names = {file.name.casefold() for file in found}
    if len(names) != len(found):
        raise ManifestError("it names a file twice")
    missing = [name for name in REQUIRED if name.casefold() not in names]
    if missing:
        raise ManifestError(f"it has no file {missing[0]}, without which there is no database")
    return SnapshotManifest(
        coin=_matching(values, "coin", _LABEL),
        net=_matching(values, "net", _LABEL),
        engine=_matching(values, "engine", _LABEL),
        db_version=_integer(values, "db_version", 1 << 16),
        height=_integer(values, "height", 1 << 32),
        tip=_matching(values, "tip", _HEX_HASH),
        tx_count=_integer(values, "tx_count", 1 << 40),
        files=found,
    )


def _parse_file(values: Any) -> SnapshotFile:
    if not isinstance(values, dict):
        raise ManifestError("a file in it is not a JSON object")
    name = _matching(values, "name", _NAME)
    if name.endswith(PART):
        raise ManifestError(f"the name {name} ends in {PART}")
    return SnapshotFile(
        name, _integer(values, "size", MAX_FILE_BYTES), _matching(values, "sha256", _HEX_HASH)
    )


def _matching(values: dict[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ManifestError(f"its {key} {str(value)[:100]!a} is not valid")
    return value


def _integer(values: dict[str, Any], key: str, end: int) -> int:
    value = values.get(key)
    if type(value) is not int or not 0 <= value < end:
        raise ManifestError(f"its {key} {str(value)[:100]!a} is not valid")
    return value


def file_digest(path: Path, go_on: Callable[[], None]) -> tuple[int, str]:
    """Return (bytes, SHA-256 in hexadecimal) of a file's content.

    One MiB at a time is in memory, during which other threads run; ``go_on`` runs before each
    and may raise to stop.
    """
    digest, size = hashlib.sha256(), 0
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while True:
            go_on()
            count = file.readinto(buffer)
            if not count:
                return size, digest.hexdigest()
            digest.update(memoryview(buffer)[:count])
            size += count


def write_manifest(manifest: SnapshotManifest, folder: Path) -> int:
    """Write the manifest of a folder durably, and whole or not at all; return its bytes."""
    raw = manifest.encode()
    draft = folder / f"{MANIFEST}.new"
    with draft.open("xb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / MANIFEST)
    util.sync_directory(folder)
    return len(raw)
