"""A restore makes a directory a database only when every file is that of the manifest."""

import asyncio
import hashlib
import logging
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from electrumx.server.maintenance import restore as restore_module
from electrumx.server.maintenance import snapshot_source
from electrumx.server.maintenance.restore import (
    FaultyFiles,
    Limits,
    Restore,
    RestoreError,
    check_directory,
)
from electrumx.server.maintenance.snapshot_manifest import (
    MANIFEST,
    REQUIRED,
    SnapshotFile,
    SnapshotManifest,
    write_manifest,
)
from electrumx.server.maintenance.snapshot_source import FolderSource, HttpSource, SourceFault
from tests.fakes.file_server import (
    FileServer,
    answer,
    cut_after,
    endless,
    redirect,
    serve,
    silent,
)

LOGGER = logging.getLogger("test")
# Without waiting between attempts, and with an attempt for each kilobyte
PAUSED = "the server paused for 1 seconds"
LIMITS = Limits(attempts=4, progress_bytes=1000, first_pause_secs=0.0)
TABLE = "utxo/000005.ldb"


def write_snapshot(folder, *, seed=1, sizes=()):
    """Write files of random content, and their manifest; return it."""
    rng = random.Random(seed)
    wanted = dict.fromkeys(REQUIRED, 700) | {TABLE: 50_000, "COIN": 60, "hist/000007.ldb": 0}
    wanted |= dict(sizes)
    files = []
    for name, size in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = rng.randbytes(size)
        path.write_bytes(data)
        files.append(SnapshotFile(name, size, hashlib.sha256(data).hexdigest()))
    manifest = SnapshotManifest("Bitcoin", "regtest", "leveldb", 8, 9, "0" * 64, 20, tuple(files))
    (folder / MANIFEST).unlink(missing_ok=True)
    write_manifest(manifest, folder)
    return manifest


def rewrite_manifest(folder, manifest, **values):
    (folder / MANIFEST).unlink()
    write_manifest(replace(manifest, **values), folder)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


@pytest.fixture
def manifest(tmp_path):
    """The manifest of the snapshot in the folder ``snapshot``."""
    return write_snapshot(tmp_path / "snapshot")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "db"


@pytest.fixture(autouse=True)
def _nothing_held_back(monkeypatch):
    """Whatever arrives is written at once."""
    monkeypatch.setattr(restore_module, "_WRITE_BYTES", 1)


@pytest.fixture
def patience(monkeypatch, reason):
    """A server that is silent has a moment to answer; others have all the time they need."""
    if reason == PAUSED:
        monkeypatch.setattr(HttpSource, "PAUSE_SECS", 1.0)


async def restore(source, target, **wanted):
    return await Restore(source, target, LOGGER, LIMITS).run(wanted)


async def restore_from(server, target, **wanted):
    async with HttpSource(server.url, LIMITS.connections) as source:
        return await restore(source, target, **wanted)


async def faults_from(server, target):
    """The lines about a restore that fails, which leaves no database."""
    with pytest.raises(RestoreError) as info:
        await restore_from(server, target)
    assert not target.exists()
    lines = getattr(info.value, "lines", [str(info.value)])
    assert all("\n" not in line and len(line) < 500 for line in lines)
    return lines


@pytest.mark.parametrize("kind", ["folder", "http", "http without ranges"])
async def test_a_restored_directory_has_the_files_of_the_snapshot(manifest, tmp_path, target, kind):
    folder = tmp_path / "snapshot"
    if kind == "folder":
        assert await restore(FolderSource(folder), target) == manifest
    else:
        async with FileServer(folder, ranges=kind == "http") as server:
            assert await restore_from(server, target) == manifest
    assert contents(target) == contents(folder)
    assert sorted(os.listdir(tmp_path)) == ["db", "snapshot"]
    assert target.stat().st_mode & 0o777 == 0o700


async def test_a_url_with_a_path_and_a_password_is_used_and_the_password_is_not_shown(
    manifest, tmp_path, target
):
    async with FileServer(tmp_path) as server:
        url = f"http://user:pa%20ss@127.0.0.1:{server.port}/snapshot/"
        async with HttpSource(url, 2) as source:
            assert "ss" not in source.name
            await restore(source, target)
        # user:pa ss
        assert {h.get("authorization") for h in server.headers} == {"Basic dXNlcjpwYSBzcw=="}
    assert contents(target) == contents(tmp_path / "snapshot")


async def test_an_empty_directory_is_replaced_and_keeps_its_mode(manifest, tmp_path, target):
    target.mkdir(mode=0o750)
    target.chmod(0o750)
    await restore(FolderSource(tmp_path / "snapshot"), target)
    assert target.stat().st_mode & 0o777 == 0o750
    assert contents(target) == contents(tmp_path / "snapshot")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_root_leaves_the_files_to_the_owner_of_the_empty_directory(
    manifest, tmp_path, target
):
    target.mkdir()
    os.chown(target, 1234, 5678)
    await restore(FolderSource(tmp_path / "snapshot"), target)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (target, *target.rglob("*"))}
    assert owners == {(1234, 5678)}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: (path.mkdir(), (path / "utxo").mkdir()), "is not empty"),
        (lambda path: path.write_text(""), "is not a directory"),
        (lambda path: path.symlink_to("/"), "is a symbolic link"),
    ],
)
async def test_a_directory_that_is_in_use_is_refused_before_anything_is_read(
    tmp_path, target, make, reason
):
    make(target)
    with pytest.raises(RestoreError, match=reason):
        await restore(FolderSource(tmp_path / "nowhere"), target)
    assert os.listdir(tmp_path) == ["db"]


def test_a_directory_without_a_parent_and_a_mount_point_are_refused(tmp_path, monkeypatch):
    with pytest.raises(RestoreError, match="no is not a directory: create it"):
        check_directory(tmp_path / "no" / "db")
    monkeypatch.setattr(os.path, "ismount", lambda _path: True)
    with pytest.raises(RestoreError, match="where a disk is mounted: give a directory in it"):
        check_directory(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"coin": "Litecoin"}, "is of the coin Bitcoin, but COIN is Litecoin"),
        ({"net": "mainnet"}, "is of the net regtest, but NET is mainnet"),
        ({"engine": "rocksdb"}, "is of the engine leveldb, but DB_ENGINE is rocksdb"),
    ],
)
async def test_a_snapshot_for_other_settings_is_refused(manifest, tmp_path, target, wanted, reason):
    with pytest.raises(RestoreError, match=reason):
        await restore(FolderSource(tmp_path / "snapshot"), target, **wanted)
    assert not target.exists()
    same = {"coin": "bitcoin", "net": "RegTest", "engine": "LevelDB"}
    await restore(FolderSource(tmp_path / "snapshot"), target, **same)


async def test_a_snapshot_of_a_newer_version_is_refused(manifest, tmp_path, target):
    rewrite_manifest(tmp_path / "snapshot", manifest, db_version=9)
    with pytest.raises(RestoreError, match="database version 9, newer than 8"):
        await restore(FolderSource(tmp_path / "snapshot"), target)


async def test_a_snapshot_larger_than_the_disk_is_refused_before_it_is_read(
    manifest, tmp_path, target
):
    huge = replace(manifest.files[-2], size=1 << 41)
    files = tuple(huge if file.name == huge.name else file for file in manifest.files)
    rewrite_manifest(tmp_path / "snapshot", manifest, files=files)
    async with FileServer(tmp_path / "snapshot") as server:
        (line,) = await faults_from(server, target)
        assert "bytes free" in line
        assert "are needed: make room" in line
        assert server.requests == [(MANIFEST, None)]


# --- interruptions


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_connection_that_breaks_is_continued_where_it_broke(
    manifest, tmp_path, target, ranges
):
    part = tmp_path / "db.restoring" / f"{TABLE}.part"

    def received(count):
        return lambda: part.stat().st_size == count

    async with FileServer(tmp_path / "snapshot", ranges=ranges) as server:
        again = [] if ranges else [serve]
        end = 49_000 if ranges else 29_000
        server.script[TABLE] = [
            cut_after(20_000, when=received(20_000)),
            answer("503 Busy"),
            *again,
            cut_after(29_000, when=received(end)),
            *again,
            serve,
        ]
        server.script["COIN"] = [cut_after(0), cut_after(1), serve]
        await restore_from(server, target)
        found = [range_ for path, range_ in server.requests if path == TABLE]
    first = [None, "bytes=20000-", "bytes=20000-"]
    # Without ranges the file is received from its beginning, by another request.
    rest = ["bytes=49000-"] if ranges else [None, "bytes=29000-", None]
    assert found == first + rest
    assert contents(target) == contents(tmp_path / "snapshot")


async def test_a_server_that_always_breaks_off_ends_the_restore(manifest, tmp_path, target):
    for ranges in (True, False):
        async with FileServer(tmp_path / "snapshot", ranges=ranges) as server:
            server.script[TABLE] = [cut_after(100)]
            lines = await faults_from(server, target)
            assert f"{TABLE} of {server.url} cannot be read: " in lines[-1]
            assert sum(path == TABLE for path, _range in server.requests) <= 2 * LIMITS.attempts


async def test_a_restore_that_is_cancelled_at_random_continues_with_the_rest(
    manifest, tmp_path, target
):
    sizes = {TABLE: 6_000_000, "meta/hashes0000": 6_000_000}
    total = write_snapshot(tmp_path / "snapshot", sizes=sizes).total_bytes
    rng = random.Random(5)
    received = 0
    # Slowly, so that no write has more than a small part of it.
    async with FileServer(tmp_path / "snapshot", chunk=1 << 13, pause=0.002) as server:
        for _ in range(10):
            async with HttpSource(server.url, 4) as source:
                one = Restore(source, target, LOGGER, LIMITS)
                task = asyncio.ensure_future(one.run({}))
                share = rng.randrange(total // 20)
                while one.progress.received_bytes < share:
                    assert not task.done()
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            assert task.cancelled()
            assert not target.exists()
            received += one.progress.received_bytes
        server.pause = 0
        async with HttpSource(server.url, 4) as source:
            one = Restore(source, target, LOGGER, LIMITS)
            await one.run({})
        # Nothing that was written is received again.
        assert received + one.progress.received_bytes <= total
    assert contents(target) == contents(tmp_path / "snapshot")


async def test_only_the_rest_is_requested_after_an_interruption(manifest, tmp_path, target):
    staging = tmp_path / "db.restoring"
    (staging / "utxo").mkdir(parents=True)
    data = (tmp_path / "snapshot" / TABLE).read_bytes()
    (staging / f"{TABLE}.part").write_bytes(data[:30_000])
    (staging / "COIN").write_bytes((tmp_path / "snapshot" / "COIN").read_bytes())
    async with FileServer(tmp_path / "snapshot") as server:
        await restore_from(server, target)
        asked = dict(server.requests)
    assert asked[TABLE] == "bytes=30000-"
    assert "COIN" not in asked
    assert contents(target) == contents(tmp_path / "snapshot")


async def test_the_rest_of_another_snapshot_is_replaced(manifest, tmp_path, target):
    staging = tmp_path / "db.restoring"
    write_snapshot(staging, seed=2)
    (staging / MANIFEST).unlink()
    (staging / "utxo" / "000001.ldb").write_bytes(b"of the other one")
    (staging / TABLE).rename(staging / f"{TABLE}.part")
    os.truncate(staging / f"{TABLE}.part", 10_000)
    (staging / "hist" / "CURRENT").unlink()
    (staging / "hist" / "CURRENT.part").write_bytes(bytes(5000))
    async with FileServer(tmp_path / "snapshot") as server:
        await restore_from(server, target)
        found = [range_ for path, range_ in server.requests if path == TABLE]
    assert found == ["bytes=10000-", None]
    assert contents(target) == contents(tmp_path / "snapshot")


async def test_two_restores_to_one_directory_do_not_mix(manifest, tmp_path, target):
    async with FileServer(tmp_path / "snapshot") as server:
        server.script[TABLE] = [silent(), serve]
        first = asyncio.ensure_future(restore_from(server, target))
        while (TABLE, None) not in server.requests:
            await asyncio.sleep(0.01)
        with pytest.raises(RestoreError, match="is in use by another restore"):
            await restore_from(server, target)
        await first
    assert contents(target) == contents(tmp_path / "snapshot")


# --- sources that are wrong


@pytest.mark.parametrize("kind", ["folder", "http"])
async def test_a_flipped_byte_is_found_wherever_it_is(manifest, tmp_path, target, kind):
    rng = random.Random(3)
    folder = tmp_path / "snapshot"
    for number, file in enumerate(file for file in manifest.files if file.size):
        target = tmp_path / f"db{number}"
        path = folder / file.name
        data = path.read_bytes()
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        expected = [f"{file.name}: its SHA-256 is not that of the manifest"]
        if kind == "http":
            async with FileServer(folder) as server:
                assert await faults_from(server, target) == expected
        else:
            with pytest.raises(FaultyFiles) as info:
                await restore(FolderSource(folder), target)
            assert info.value.lines == expected
        assert not target.exists()
        path.write_bytes(data)
        await restore(FolderSource(folder), target)


async def test_every_faulty_file_has_a_line_and_the_next_run_receives_only_these(
    manifest, tmp_path, target
):
    folder = tmp_path / "snapshot"
    async with FileServer(folder) as server:
        server.script["COIN"] = [answer("404 Not Found")]
        server.script[TABLE] = [answer("200 OK", bytes(50_000))]
        server.script["meta/headers00"] = [answer("200 OK", b"short")]
        server.script["hist/CURRENT"] = [answer("200 OK", bytes(700), length=False)]
        assert sorted(await faults_from(server, target)) == [
            "COIN: the server answers 404 Not Found",
            "hist/CURRENT: its SHA-256 is not that of the manifest",
            "meta/headers00: it has 5 bytes, 700 in the manifest",
            f"{TABLE}: its SHA-256 is not that of the manifest",
        ]
        server.script.clear()
        server.requests.clear()
        await restore_from(server, target)
        assert {path for path, _range in server.requests} == {
            MANIFEST,
            "COIN",
            "hist/CURRENT",
            "meta/headers00",
            TABLE,
        }
    assert contents(target) == contents(folder)


async def test_after_many_faults_the_other_files_are_not_tried(manifest, tmp_path, target):
    names = [f"meta/hashes{n:04d}" for n in range(100)]
    write_snapshot(tmp_path / "snapshot", sizes=dict.fromkeys(names, 10))
    async with FileServer(tmp_path / "snapshot") as server:
        for name in names:
            server.script[name] = [answer("403 Forbidden")]
        lines = await faults_from(server, target)
    assert len(lines) == restore_module.MAX_FAULTS + 1
    assert lines[-1] == "too many faults: the other files were not tried"


@pytest.mark.parametrize(
    ("behaviours", "reason"),
    [
        ([endless()], "sends more than the 50,000 bytes of it"),
        ([answer("200 OK", bytes(50_001))], "it has 50,001 bytes, 50,000 in the manifest"),
        ([answer("200 OK", bytes(50_001), length=False)], "sends more than the 50,000 bytes"),
        ([answer("200 OK", bytes(49_999))], "it has 49,999 bytes, 50,000 in the manifest"),
        ([answer("204 No Content")], "the server answers 204"),
        ([answer("206 Partial Content", bytes(50_000))], "the server answers 206"),
        ([redirect("/" + TABLE)], "redirects more than 5 times"),
        ([redirect("file:///etc/passwd")], "redirects to an invalid URL"),
        ([redirect("http://[")], "redirects to an invalid URL"),
        ([answer("302 Found")], "redirects to an invalid URL"),
        (
            [answer("200 OK", bytes(50_000), headers="Content-Encoding: gzip\r\n")],
            "the server encodes it",
        ),
        ([silent()], PAUSED),
        ([answer("500 Wrong")], "the server answers 500 Wrong"),
        ([answer("200 OK", headers="X: y\r\n" * 5000)], "cannot be read"),
        ([answer("200 OK", headers="X: " + "y" * 100_000 + "\r\n")], "cannot be read"),
        ([answer("\x01\x02")], "cannot be read"),
    ],
)
async def test_a_server_that_misbehaves_about_a_file_ends_in_a_line(
    manifest, tmp_path, target, patience, behaviours, reason
):
    async with FileServer(tmp_path / "snapshot") as server:
        server.script[TABLE] = behaviours
        lines = await faults_from(server, target)
        assert len(lines) == 1
        assert TABLE in lines[0]
        assert reason in lines[0]
        # Buffers of the kernel, and attempts
        assert server.sent < 20_000_000
    received = tmp_path / "db.restoring"
    assert sum(map(len, contents(received).values())) <= manifest.total_bytes


@pytest.mark.parametrize(
    "headers", ["", "Content-Range: bytes 0-39999/50000\r\n", "Content-Range: bytes x\r\n"]
)
async def test_a_server_that_sends_another_range_is_refused(manifest, tmp_path, target, headers):
    part = tmp_path / "db.restoring" / f"{TABLE}.part"
    async with FileServer(tmp_path / "snapshot") as server:
        server.script[TABLE] = [
            cut_after(10_000, when=lambda: part.stat().st_size == 10_000),
            answer("206 Partial Content", bytes(40_000), headers=headers),
        ]
        (line,) = await faults_from(server, target)
    assert line == f"{TABLE}: the server answers with another range than 10,000 to 49,999"


async def test_a_slow_server_ends_the_restore(manifest, tmp_path, target, monkeypatch):
    monkeypatch.setattr(HttpSource, "SPEED_SECS", 0.5)
    async with FileServer(tmp_path / "snapshot", chunk=10, pause=0.1) as server:
        server.script[MANIFEST] = [
            answer("200 OK", (tmp_path / "snapshot" / MANIFEST).read_bytes())
        ]
        server.chunk, server.pause = 100_000, 0

        async def slowly(server, path, headers, writer):
            server.chunk, server.pause = 10, 0.05
            await serve(server, path, headers, writer)

        server.script[TABLE] = [slowly]
        (line,) = (await faults_from(server, target))[-1:]
        assert "bytes a second" in line


async def test_a_server_that_redirects_to_another_is_followed_without_the_password(
    manifest, tmp_path, target
):
    async with FileServer(tmp_path / "snapshot") as other, FileServer(tmp_path) as server:
        for name in (MANIFEST, *(file.name for file in manifest.files)):
            server.script[f"s/{name}"] = [redirect(f"{other.url}/{name}")]
        async with HttpSource(f"http://u:p@127.0.0.1:{server.port}/s", 2) as source:
            await restore(source, target)
        assert all("authorization" in headers for headers in server.headers)
        assert not any("authorization" in headers for headers in other.headers)
    assert contents(target) == contents(tmp_path / "snapshot")


def test_a_redirect_from_https_to_http_is_refused():
    class Response:
        headers = {"Location": "http://elsewhere/x"}

    with pytest.raises(SourceFault, match="from https to http"):
        snapshot_source.redirected(snapshot_source.URL("https://here/x"), Response())


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (answer("404 Not Found"), "the server answers 404 Not Found"),
        (answer("200 OK", b"<html>"), "it is not JSON"),
        (endless(), "it has more than 100,000 bytes"),
        (silent(), PAUSED),
        (redirect(f"/{MANIFEST}"), "redirects more than 5 times"),
    ],
)
async def test_a_source_without_a_manifest_is_refused(
    manifest, tmp_path, target, monkeypatch, patience, behaviour, reason
):
    monkeypatch.setattr(snapshot_source, "MAX_MANIFEST_BYTES", 100_000)
    async with FileServer(tmp_path / "snapshot") as server:
        server.script[MANIFEST] = [behaviour]
        (line,) = await faults_from(server, target)
    assert line.startswith(f"the manifest manifest.json of {server.url} cannot be used: ")
    assert reason in line
    assert os.listdir(tmp_path) == ["snapshot"]


async def test_a_server_that_is_not_there_is_named(tmp_path, target, free_port):
    async with HttpSource(f"http://127.0.0.1:{free_port()}", 1) as source:
        with pytest.raises(RestoreError, match="cannot be used: Cannot connect to host 127"):
            await restore(source, target)


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "http://", "http://[", "http://h/x?y=1", "http://h/x#y", "http://h:x/"]
)
def test_a_url_that_cannot_be_used_is_refused(url):
    with pytest.raises(SourceFault, match="the URL"):
        HttpSource(url, 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")), "symbolic link"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is not a regular file"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
        (lambda path: path.write_bytes(bytes(5)), "it has 5 bytes, 50,000 in the manifest"),
        (
            lambda path: (
                path.parent.rename(path.parent.with_name("y")),
                path.parent.symlink_to("y"),
            ),
            "cannot be opened",
        ),
    ],
)
async def test_a_folder_with_something_else_in_place_of_a_file_is_refused(
    manifest, tmp_path, target, make, reason
):
    make(tmp_path / "snapshot" / TABLE)
    with pytest.raises(FaultyFiles) as info:
        await restore(FolderSource(tmp_path / "snapshot"), target)
    assert any(line.startswith(f"{TABLE}: ") and reason in line for line in info.value.lines)
    assert not target.exists()


async def test_a_full_disk_is_one_line_and_the_next_run_continues(
    manifest, tmp_path, target, monkeypatch
):
    def full(_fd, _data, _place):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(restore_module.os, "pwrite", full)
        with pytest.raises(RestoreError, match=r"cannot write to .*: No space left on device"):
            await restore(FolderSource(tmp_path / "snapshot"), target)
    await restore(FolderSource(tmp_path / "snapshot"), target)
    assert contents(target) == contents(tmp_path / "snapshot")


async def test_the_folder_for_received_files_is_not_followed_elsewhere(manifest, tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    staging = tmp_path / "db.restoring"
    staging.symlink_to("elsewhere")
    with pytest.raises(RestoreError, match="is a symbolic link: remove it"):
        await restore(FolderSource(tmp_path / "snapshot"), target)
    staging.unlink()
    staging.mkdir()
    (staging / "utxo").symlink_to("../elsewhere")
    with pytest.raises(RestoreError, match="is a symbolic link: remove it"):
        await restore(FolderSource(tmp_path / "snapshot"), target)
    assert not list((tmp_path / "elsewhere").iterdir())
