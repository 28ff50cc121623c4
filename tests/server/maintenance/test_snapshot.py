"""A backup of a running server is a database of its own, whatever the server does during it."""

import asyncio
import errno
import gc
import hashlib
import logging
import os
import threading
from pathlib import Path

import pytest

from electrumx.lib.hash import double_sha256
from electrumx.server.db import DB
from electrumx.server.db.flat_files import STAGING
from electrumx.server.maintenance import snapshot as backup
from electrumx.server.maintenance.restore import Restore
from electrumx.server.maintenance.snapshot import BackupError, back_up
from electrumx.server.maintenance.snapshot_manifest import MANIFEST, parse_manifest
from electrumx.server.maintenance.snapshot_source import FolderSource
from electrumx.server.storage.leveldb import LevelDB
from tests.fakes.chain import ChainMaker, Model, hashX_of
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env

MAKER = ChainMaker(seed=71)
FORK = MAKER.grow(MAKER.genesis_hash, 80)
CHAIN = MAKER.chain(MAKER.grow(FORK, 120))
OTHER = MAKER.chain(MAKER.grow(FORK, 40))
HASHXS = [hashX_of(script) for script in MAKER.draws.scripts]


@pytest.fixture
def env(tmp_path, engine):
    (tmp_path / "db").mkdir()
    return make_env(tmp_path / "db", engine=engine, reorg_limit=100)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "copy"


def elsewhere(env, path):
    return make_env(path, engine=env.db_engine, reorg_limit=env.reorg_limit)


async def assert_serves(env, path, chain):
    """Open a backup, compare every answer, and let it follow the chain and a reorganisation."""
    db = DB(elsewhere(env, path))
    await db.open_for_serving()
    try:
        assert db.db_height == len(chain) - 1
        await assert_equals_model(db, Model(chain), HASHXS)
    finally:
        db.close_dbs()


async def test_a_backup_opens_elsewhere_with_the_same_answers_and_goes_on(env, target):
    start = CHAIN[:100]
    async with World(env, ScriptedDaemon(start)) as world:
        await world.until_at(start)
        # Addresses of clients are not for everyone who gets the snapshot.
        (Path(env.db_dir) / "bans.json").write_text("{}")
        done = await back_up(world.db, world.bp.state_lock, str(target))
        assert (done.path, done.height) == (str(target), 99)
        assert 0 < done.pause_secs < done.secs
        files = [path for path in target.rglob("*") if path.is_file()]
        assert done.files == len(files)
        assert done.bytes == sum(path.stat().st_size for path in files)
        assert sorted(os.listdir(target)) == ["COIN", "hist", "manifest.json", "meta", "utxo"]
        assert not (Path(env.db_dir) / STAGING).exists()
        assert not Path(f"{target}.partial").exists()
    await assert_serves(env, target, start)
    # Forward, and over a fork below the copy's height.
    daemon = ScriptedDaemon(CHAIN[:150])
    async with World(elsewhere(env, target), daemon) as copy:
        await copy.until_at(CHAIN[:150])
        daemon.set_chain(OTHER[:90])
        await copy.until_at(OTHER[:90])
        await assert_equals_model(copy.db, Model(OTHER[:90]), HASHXS)


async def test_a_backup_has_a_manifest_until_it_is_opened(env, target):
    start = CHAIN[:100]
    async with World(env, ScriptedDaemon(start)) as world:
        await world.until_at(start)
        await back_up(world.db, world.bp.state_lock, str(target))
        tx_count = world.db.db_tx_count
    manifest = parse_manifest((target / MANIFEST).read_bytes())
    assert (manifest.coin, manifest.net, manifest.engine) == (
        env.coin.NAME,
        "regtest",
        env.db_engine,
    )
    assert (manifest.height, manifest.tx_count, manifest.db_version) == (99, tx_count, 8)
    assert manifest.tip == double_sha256(start[-1][:80])[::-1].hex()
    found = {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }
    assert {file.name: (file.size, file.sha256) for file in manifest.files} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in found.items()
    }
    # An engine may change its files when it opens them.
    await assert_serves(env, target, start)
    assert not (target / MANIFEST).exists()


async def test_files_are_hashed_in_a_worker_thread_and_no_longer_after_a_stop(
    env, target, monkeypatch
):
    threads = []
    whole = backup.file_digest

    def digest(path, go_on):
        threads.append(threading.get_ident())
        return whole(path, go_on)

    monkeypatch.setattr(backup, "file_digest", digest)
    async with World(env, ScriptedDaemon(CHAIN[:30])) as world:
        await world.until_at(CHAIN[:30])
        await back_up(world.db, world.bp.state_lock, str(target))
        assert threads
        assert threading.get_ident() not in threads
        one = backup.Backup(world.db, f"{target}-2")
        one.prepare()
        one.capture()
        one.stop()
        with pytest.raises(backup.BackupStopped):
            one.finish()
        one.clean_up(True)


async def test_a_backup_is_restored_and_serves(env, target, tmp_path):
    start = CHAIN[:100]
    async with World(env, ScriptedDaemon(start)) as world:
        await world.until_at(start)
        await back_up(world.db, world.bp.state_lock, str(target))
    restored = tmp_path / "restored"
    await Restore(FolderSource(target), restored, logging.getLogger("test")).run(
        {"coin": env.coin.NAME, "engine": env.db_engine}
    )
    assert sorted(os.listdir(restored)) == ["COIN", "hist", "meta", "utxo"]
    await assert_serves(env, restored, start)


async def test_backups_made_while_blocks_arrive_and_go_are_each_one_state(env, tmp_path):
    daemon = ScriptedDaemon(CHAIN[:90])
    chains = {}
    async with World(env, daemon) as world:
        await world.until_at(CHAIN[:90])

        async def turmoil():
            for length in range(91, 111):
                daemon.set_chain(CHAIN[:length])
                await world.until_at(CHAIN[:length])
            daemon.set_chain(OTHER[:115])
            await world.until_at(OTHER[:115])
            # Until there are some copies, however slow it is to make one
            while number < 3:
                for chain in (CHAIN[:115], OTHER[:115]):
                    daemon.set_chain(chain)
                    await world.until_at(chain)

        number = 0
        busy = asyncio.ensure_future(turmoil())
        while not busy.done():
            path = tmp_path / f"copy-{number}"
            done = await back_up(world.db, world.bp.state_lock, str(path))
            chains[path] = done.height
            number += 1
        await busy
        # The originals are unharmed.
        await assert_equals_model(world.db, Model(OTHER[:115]), HASHXS)
    assert number >= 3
    for path, height in list(chains.items())[:8]:
        db = DB(elsewhere(env, path))
        await db.open_for_serving()
        tip = db.db_tip
        db.close_dbs()
        chain = MAKER.chain(tip)
        assert len(chain) == height + 1
        await assert_serves(env, path, chain)


async def test_a_reorganisation_of_the_original_does_not_reach_the_copy(env, target):
    daemon = ScriptedDaemon(CHAIN[:100])
    async with World(env, daemon) as world:
        await world.until_at(CHAIN[:100])
        await back_up(world.db, world.bp.state_lock, str(target))
        daemon.set_chain(OTHER[:110])
        await world.until_at(OTHER[:110])
    await assert_serves(env, target, CHAIN[:100])


@pytest.mark.parametrize("linked", [True, False])
async def test_only_flat_files_below_what_can_be_reorganised_are_shared(
    env, target, monkeypatch, linked
):
    if not linked:

        def refuse(_source, _target):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", refuse)
    env.reorg_limit = 30
    async with World(env, ScriptedDaemon(CHAIN[:100])) as world:
        files = world.db.files
        files.headers.file_size = 800
        await world.until_at(CHAIN[:100])
        await back_up(world.db, world.bp.state_lock, str(target))
        shared = [
            name
            for name in sorted(os.listdir(target / "meta"))
            if name.startswith("headers")
            and os.path.samefile(target / "meta" / name, files.folder / name)
        ]
    # Heights 70 to 99 can be undone.
    assert shared == ([f"headers0{n}" for n in range(7)] if linked else [])
    headers = b"".join((target / "meta" / f"headers0{n}").read_bytes() for n in range(10))
    assert headers == b"".join(raw[:80] for raw in CHAIN[:100])


async def test_garbage_beyond_the_committed_height_is_not_copied(env, target):
    async with World(env, ScriptedDaemon(CHAIN[:100])) as world:
        await world.until_at(CHAIN[:100])
        with open(world.db.files.folder / "headers00", "ab") as f:
            f.write(b"garbage")
        await back_up(world.db, world.bp.state_lock, str(target))
    assert (target / "meta" / "headers00").stat().st_size == 100 * 80
    await assert_serves(env, target, CHAIN[:100])


async def test_a_path_that_cannot_be_used_is_refused_and_nothing_is_made(env, tmp_path):
    taken, inside = tmp_path / "taken", Path(env.db_dir) / "copy"
    taken.mkdir()
    (tmp_path / "link").symlink_to(env.db_dir)
    (tmp_path / "half.partial").mkdir()
    async with World(env, ScriptedDaemon(CHAIN[:30])) as world:
        await world.until_at(CHAIN[:30])
        before = sorted(os.listdir(tmp_path)), sorted(os.listdir(env.db_dir))
        for path, text in (
            (taken, "taken exists: give a path that does not"),
            (inside, "copy is in the database directory"),
            (tmp_path / "link" / "copy", "is in the database directory"),
            (inside / "..", "exists: give a path|is not a directory"),
            (tmp_path / "no" / "copy", "no is not a directory: create it"),
            (tmp_path / "half", "half.partial exists: another backup"),
            ("copy", "copy is not an absolute path"),
        ):
            with pytest.raises(BackupError, match=text) as info:
                await back_up(world.db, world.bp.state_lock, str(path))
            assert "\n" not in str(info.value)
        assert before == (sorted(os.listdir(tmp_path)), sorted(os.listdir(env.db_dir)))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("is_read_only", "is on a file system that is read-only for the server: if systemd runs "),
        ("is_removed_at_stop", "is in a temporary directory of the server's own (PrivateTmp of "),
    ],
)
async def test_a_path_in_a_units_sandbox_is_refused_before_anything_is_copied(
    env, target, monkeypatch, function, reason
):
    asked = []
    monkeypatch.setattr(backup, function, lambda path: asked.append(path) or True)
    async with World(env, ScriptedDaemon(CHAIN[:30])) as world:
        await world.until_at(CHAIN[:30])
        with pytest.raises(BackupError) as info:
            await back_up(world.db, world.bp.state_lock, str(target))
    assert str(info.value).startswith(f"{target} {reason}")
    assert "ReadWritePaths" in str(info.value)
    assert asked == [target.parent.resolve()]
    assert not (Path(env.db_dir) / STAGING).exists()


async def test_a_file_system_that_turns_read_only_is_named_as_such(env, target, monkeypatch):
    def mkdir(path, *_args, **_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    async with World(env, ScriptedDaemon(CHAIN[:30])) as world:
        await world.until_at(CHAIN[:30])
        monkeypatch.setattr(backup.Backup, "_move", lambda self: mkdir(self.partial))
        with pytest.raises(BackupError, match=r"read-only for the server: .* ReadWritePaths"):
            await back_up(world.db, world.bp.state_lock, str(target))
    assert not target.exists()


async def test_only_one_backup_is_made_at_a_time(env, target):
    async with World(env, ScriptedDaemon(CHAIN[:30])) as world:
        await world.until_at(CHAIN[:30])
        lock = world.bp.state_lock
        first = asyncio.ensure_future(back_up(world.db, lock, str(target)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(BackupError, match="another backup is being made"):
            await back_up(world.db, lock, f"{target}-2")
        await first
        await back_up(world.db, lock, f"{target}-2")
    await assert_serves(env, target, CHAIN[:30])
    await assert_serves(env, f"{target}-2", CHAIN[:30])


@pytest.mark.parametrize("step", ["prepare", "capture", "_copy_raw_blocks", "_move"])
async def test_a_backup_that_fails_leaves_nothing_and_the_server_goes_on(
    env, target, tmp_path, monkeypatch, step
):
    whole = getattr(backup.Backup, step)

    def full(self):
        whole(self)
        raise OSError(28, "No space left on device")

    daemon = ScriptedDaemon(CHAIN[:30])
    async with World(env, daemon) as world:
        await world.until_at(CHAIN[:30])
        monkeypatch.setattr(backup.Backup, step, full)
        with pytest.raises(BackupError, match=r"nothing of it is left: .*No space left") as info:
            await back_up(world.db, world.bp.state_lock, str(target))
        assert "\n" not in str(info.value)
        assert os.listdir(tmp_path) == ["db"]
        assert STAGING not in os.listdir(env.db_dir)
        daemon.set_chain(CHAIN[:50])
        await world.until_at(CHAIN[:50])
        await assert_equals_model(world.db, Model(CHAIN[:50]), HASHXS)


async def test_a_cancelled_backup_is_abandoned(env, target, tmp_path, monkeypatch, caplog):
    reached, go_on = threading.Event(), threading.Event()
    whole = backup.Backup.capture

    def slow(self):
        whole(self)
        reached.set()
        go_on.wait(120)

    monkeypatch.setattr(backup.Backup, "capture", slow)
    async with World(env, ScriptedDaemon(CHAIN[:30])) as world:
        await world.until_at(CHAIN[:30])
        task = asyncio.ensure_future(back_up(world.db, world.bp.state_lock, str(target)))
        await asyncio.to_thread(reached.wait, 120)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait([task])
        assert task.cancelled()
        del task
        gc.collect()
        # Its error is not logged: the backup was cancelled.
        assert "never retrieved" not in caplog.text
        assert os.listdir(tmp_path) == ["db"]
        assert STAGING not in os.listdir(env.db_dir)
        assert not world.bp.state_lock.locked()


async def test_to_another_disk_everything_is_copied(env, target, monkeypatch):
    rename = Path.rename

    def other_disk(self, new):
        if self.name == STAGING:
            raise OSError(18, "Invalid cross-device link")
        return rename(self, new)

    monkeypatch.setattr(Path, "rename", other_disk)
    async with World(env, ScriptedDaemon(CHAIN[:60])) as world:
        await world.until_at(CHAIN[:60])
        await back_up(world.db, world.bp.state_lock, str(target))
        originals = {path.stat().st_ino for path in Path(env.db_dir).rglob("*")}
        assert not originals & {path.stat().st_ino for path in target.rglob("*")}
    await assert_serves(env, target, CHAIN[:60])


async def test_what_a_killed_server_left_of_a_backup_goes_at_the_next_start(env):
    staging = Path(env.db_dir) / STAGING
    (staging / "utxo").mkdir(parents=True)
    (staging / "utxo" / "000005.ldb").write_bytes(b"x")
    async with World(env, ScriptedDaemon(CHAIN[:10])) as world:
        await world.until_at(CHAIN[:10])
        assert not staging.exists()


def test_a_store_that_merges_tables_while_it_is_copied_is_copied_again(tmp_path, monkeypatch):
    # LevelDB compacts in threads of its own, also without a write.
    store = LevelDB(str(tmp_path / "store"), True)
    rows = {n.to_bytes(4, "big"): os.urandom(300) for n in range(3000)}
    with store.write_batch() as batch:
        for key, value in rows.items():
            batch.put(key, value)
    copies = 0
    link = backup.link_file

    def link_while_merging(source, target):
        nonlocal copies
        if copies < 3:
            copies += 1
            store.put(b"late", b"x" * copies)
            store.db.compact_range()
        link(source, target)

    store.db.compact_range()
    monkeypatch.setattr(backup, "link_file", link_while_merging)
    (tmp_path / "copy").mkdir()
    backup.link_ahead(tmp_path / "store", tmp_path / "copy")
    ahead = set(os.listdir(tmp_path / "copy"))
    assert ahead
    # One that was linked ahead and has been merged since, and one that only was copied.
    (tmp_path / "copy" / "000999.ldb").write_bytes(b"")
    copied = next(iter(ahead))
    (tmp_path / "copy" / copied).unlink()
    (tmp_path / "copy" / copied).write_bytes(b"half")
    backup.copy_store(tmp_path / "store", tmp_path / "copy")
    assert set(os.listdir(tmp_path / "copy")) < set(os.listdir(tmp_path / "store"))
    store.close()
    assert copies == 3
    copy = LevelDB(str(tmp_path / "copy"), True)
    assert dict(copy.iterator()) == rows | {b"late": b"xxx"}
    copy.close()
