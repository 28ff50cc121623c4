"""Every fault of the disk is one line with a remedy, and nothing gets worse."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from electrumx.lib.errors import OperatorError
from electrumx.lib.util import LogicalFile
from electrumx.server import controller
from electrumx.server.db import DB, DBError
from electrumx.server.db.flusher import Flusher
from electrumx.server.storage.errors import explained
from electrumx.server.storage.leveldb import LevelDB
from electrumx.server.storage.rocksdb import RocksDB
from electrumx.server.storage.schema import DBClosedError
from tests.conftest import REPOSITORY
from tests.fakes.chain import ChainMaker, Model, hashX_of
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env

MAKER = ChainMaker(seed=81)
CHAIN = MAKER.chain(MAKER.grow(MAKER.genesis_hash, 200))
CHAIN_GENESIS = MAKER.genesis_hash[::-1].hex()
HASHXS = [hashX_of(script) for script in MAKER.draws.scripts]
ENGINES = {"leveldb": LevelDB, "rocksdb": RocksDB}


@pytest.fixture
def env(tmp_path, engine):
    return make_env(tmp_path, engine=engine, reorg_limit=10)


@pytest.fixture
def small_disk(tmp_path):
    """Function: mount a file system of so many bytes; its folder."""
    mounted = []

    def mount(size, options=""):
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "none", str(folder)]
        if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("mounting a file system is not permitted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def one_line(error):
    text = str(error)
    assert "\n" not in text
    return text


def contents(folder):
    """The contents of the files below a folder, apart from the engines' own logs and locks."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name not in ("LOCK", "LOG", "LOG.old")
    }


async def make_database(env, chain=CHAIN):
    async with World(env, ScriptedDaemon(chain)) as world:
        await world.until_at(chain)


async def assert_is_at(env, chain):
    db = DB(env)
    await db.open_for_serving()
    await assert_equals_model(db, Model(chain), HASHXS)
    db.close_dbs()


async def assert_goes_on(env, chain=CHAIN):
    """Let a server continue with the files, to the end of the chain."""
    async with World(env, ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
        await assert_equals_model(world.db, Model(chain), HASHXS)


async def stops_with(env, daemon, text):
    """Run a server until it stops with one clear error; that line."""
    world = World(env, daemon)
    async with world:
        with pytest.raises(DBError, match=text) as info:
            await world.until_at(daemon.raw)
    return one_line(info.value)


# -- a full disk


async def test_a_disk_that_fills_stops_the_server_which_goes_on_when_there_is_room(
    small_disk, engine
):
    disk = small_disk("64m")
    ballast = disk / "ballast"
    (disk / "db").mkdir()
    env = make_env(disk / "db", engine=engine, reorg_limit=10)
    daemon = ScriptedDaemon(CHAIN[:50])
    async with World(env, daemon) as world:
        await world.until_at(CHAIN[:50])
        free = shutil.disk_usage(disk).free
        with ballast.open("wb") as f:
            f.write(bytes(free))
        daemon.set_chain(CHAIN)
        with pytest.raises(DBError, match="the disk is full: make room and start") as info:
            await world.until_at(CHAIN)
        assert "No space left on device" in one_line(info.value)
    # Still full: it does not start, and nothing is lost.
    with pytest.raises(DBError, match=r"free space|the disk is full") as info:
        await DB(env).open_for_sync()
    one_line(info.value)
    ballast.unlink()
    await assert_is_at(env, CHAIN[:50])
    await assert_goes_on(env)


async def test_a_disk_that_fills_during_the_initial_sync_loses_no_flush(
    small_disk, engine, monkeypatch
):
    disk = small_disk("64m")
    ballast = disk / "ballast"
    (disk / "db").mkdir()
    env = make_env(disk / "db", engine=engine, reorg_limit=10)
    flushes = 0
    write_files = Flusher.write_files

    def fill_later(flusher, flush_data):
        nonlocal flushes
        flushes += 1
        if flushes == 3:
            ballast.write_bytes(bytes(shutil.disk_usage(disk).free))
        write_files(flusher, flush_data)

    monkeypatch.setattr(Flusher, "write_files", fill_later)
    monkeypatch.setattr(
        "electrumx.server.block_processor.block_parser.BlockParser.PARSE_BYTES", 20_000
    )
    monkeypatch.setattr(
        "electrumx.server.block_processor.flush_scheduler.FlushScheduler.due",
        lambda _bp: True,
    )
    await stops_with(env, ScriptedDaemon(CHAIN), "the disk is full")
    ballast.unlink()
    db = DB(env)
    await db.open_for_sync()
    height = db.db_height
    db.close_dbs()
    assert 0 < height < len(CHAIN) - 1
    await assert_is_at(env, CHAIN[: height + 1])
    await assert_goes_on(env)


def full(*_args, **_kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("part", ["headers", "txcounts", "hashes", "raw block"])
async def test_a_flat_file_that_cannot_be_written_stops_the_server_in_order(env, monkeypatch, part):
    await make_database(env, CHAIN[:50])
    write = LogicalFile.write

    def write_or_fail(self, start, b, **kwargs):
        if Path(self._prefix).name == part:
            # Some of it was written.
            write(self, start, b[: len(b) // 2], **kwargs)
            full()
        write(self, start, b, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LogicalFile, "write", write_or_fail)
        if part == "raw block":
            patch.setattr("electrumx.server.db.flat_files.FlatFiles.write_raw_block", full)
        line = await stops_with(env, ScriptedDaemon(CHAIN), "the disk is full: make room")
    assert f"cannot read or write the database in {env.db_dir}: " in line
    await assert_is_at(env, CHAIN[:50])
    await assert_goes_on(env)


@pytest.mark.parametrize("store", ["utxo", "hist"])
async def test_a_store_that_cannot_be_written_stops_the_server_in_order(env, monkeypatch, store):
    await make_database(env, CHAIN[:50])
    klass = ENGINES[env.db_engine]
    klass.import_module()
    # Errors of the bindings.
    error = (
        klass.module.Error(b"IO error: 000003.log: No space left on device")
        if env.db_engine == "leveldb"
        else Exception("IO error: No space left on device: While appending to file: 000003.log")
    )
    write_batch = klass.write_batch
    daemon = ScriptedDaemon(CHAIN[:50])

    def fail(self):
        if (
            len(daemon.raw) > 50
            and self
            is {
                "utxo": world.db.utxo_db,
                "hist": world.db.history.db,
            }[store]
        ):
            raise error
        return write_batch(self)

    with monkeypatch.context() as patch:
        patch.setattr(klass, "write_batch", fail)
        world = World(env, daemon)
        async with world:
            await world.until_at(CHAIN[:50])
            daemon.set_chain(CHAIN)
            with pytest.raises(DBError, match="the disk is full: make room") as info:
                await world.until_at(CHAIN)
            one_line(info.value)
    await assert_is_at(env, CHAIN[:50])
    await assert_goes_on(env)


async def test_a_last_flush_that_fails_is_an_error_and_the_stores_are_closed(env, monkeypatch):
    await make_database(env, CHAIN[:50])
    flush = DB.flush_dbs
    with monkeypatch.context() as patch:
        world = World(env, ScriptedDaemon(CHAIN[:50]))
        await world.__aenter__()
        await world.until_at(CHAIN[:50])
        patch.setattr(DB, "flush_dbs", full)
        world.task.cancel()
        with pytest.raises(DBError, match="the disk is full"):
            await world.task
        assert world.db.utxo_db is None
        patch.setattr(DB, "flush_dbs", flush)
    await assert_goes_on(env)


async def test_a_shutdown_that_could_not_write_is_not_a_clean_one():
    started = asyncio.Event()

    async def fails_at_the_end():
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            raise DBError("the disk is full")

    task = asyncio.ensure_future(controller.run_parts([fails_at_the_end()]))
    await started.wait()
    task.cancel()
    with pytest.raises(OperatorError, match="the disk is full"):
        await task


async def test_reads_cut_off_by_a_shutdown_leave_it_a_clean_one(caplog):
    started = asyncio.Event()

    async def reads_at_the_end():
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            raise DBClosedError

    task = asyncio.ensure_future(controller.run_parts([reads_at_the_end()]))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not caplog.records


def test_other_errors_are_not_blamed_on_the_disk():
    error = ValueError("x")
    assert explained(error, "f", LevelDB) is error
    LevelDB.import_module()
    damaged = explained(LevelDB.module.CorruptionError(b"Corruption: bad\nblock"), "f", LevelDB)
    assert "restore a backup" in one_line(damaged)


# -- folders and files


async def test_a_read_only_disk_is_one_clear_error(small_disk, tmp_path, engine):
    disk = small_disk("64m")
    env = make_env(disk, engine=engine, reorg_limit=10)
    await make_database(env, CHAIN[:30])
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        with pytest.raises(DBError, match="check DB_DIRECTORY, its permissions") as info:
            await DB(env).open_for_sync()
        assert "another process" not in one_line(info.value)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    await assert_goes_on(env)


async def test_a_new_database_on_a_read_only_disk_is_one_clear_error(small_disk, engine):
    disk = small_disk("4m", ",ro")
    with pytest.raises(DBError, match="check DB_DIRECTORY, its permissions") as info:
        await DB(make_env(disk, engine=engine)).open_for_sync()
    one_line(info.value)
    assert os.listdir(disk) == []


@pytest.mark.parametrize("harm", ["missing", "truncated"])
@pytest.mark.parametrize("name", ["headers00", "txcounts00", "hashes0000"])
async def test_a_flat_file_that_is_not_whole_is_named(env, tmp_path, name, harm):
    await make_database(env, CHAIN[:50])
    path = tmp_path / "meta" / name
    whole = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:-1])
    with pytest.raises(DBError, match=f"{name} is {harm}") as info:
        await DB(env).open_for_sync()
    assert "restore a backup of the whole database directory" in one_line(info.value)
    # The operator finds the file, and all is well.
    path.write_bytes(whole)
    await assert_is_at(env, CHAIN[:50])
    await assert_goes_on(env)


async def test_a_missing_part_of_a_long_file_is_named(env, tmp_path):
    await make_database(env, CHAIN[:50])
    db = DB(env)
    db.files.headers.file_size = 800
    (tmp_path / "meta" / "headers00").write_bytes(b"".join(raw[:80] for raw in CHAIN[:10]))
    with pytest.raises(DBError, match="headers01 is missing where 800 bytes are needed"):
        await db.open_for_sync()


@pytest.mark.parametrize("store", ["utxo", "hist"])
async def test_a_missing_store_is_refused_and_the_other_one_unchanged(env, tmp_path, store):
    await make_database(env, CHAIN[:50])
    (tmp_path / store).rename(tmp_path / "moved")
    with pytest.raises(DBError, match=f"{store} is missing") as info:
        await DB(env).open_for_sync()
    assert "restore a backup" in one_line(info.value)
    assert not (tmp_path / store).exists()
    (tmp_path / "moved").rename(tmp_path / store)
    await assert_is_at(env, CHAIN[:50])


async def test_a_damaged_manifest_is_one_clear_error(env, tmp_path):
    await make_database(env, CHAIN[:50])
    folder = tmp_path / "utxo"
    manifest = folder / (folder / "CURRENT").read_text().strip()
    manifest.write_bytes(b"\xff" * manifest.stat().st_size)
    with pytest.raises(DBError, match=r"restore a backup|check DB_DIRECTORY") as info:
        await DB(env).open_for_sync()
    one_line(info.value)


async def test_a_missing_table_is_one_clear_error(env, tmp_path):
    await make_database(env, CHAIN[:50])
    db = DB(env)
    await db.open_for_sync()
    store = db.utxo_db.db
    if env.db_engine == "leveldb":
        store.compact_range()
    else:
        store.flush()
    db.close_dbs()
    tables = [path for path in (tmp_path / "utxo").iterdir() if path.suffix in (".ldb", ".sst")]
    assert tables
    for path in tables:
        path.unlink()
    with pytest.raises(DBError, match=r"restore a backup|check DB_DIRECTORY") as info:
        await DB(env).open_for_sync()
    one_line(info.value)


@pytest.mark.parametrize("trouble", ["engine", "genesis", "state row"])
async def test_a_refused_database_is_not_changed(env, tmp_path, trouble):
    await make_database(env, CHAIN[:50])
    other = env
    if trouble == "engine":
        other = make_env(
            tmp_path, engine={"leveldb": "rocksdb", "rocksdb": "leveldb"}[env.db_engine]
        )
    db = DB(env)
    await db.open_for_sync()
    before = db.utxo_db.get(b"state")
    rows = dict(db.utxo_db.iterator())
    hist_rows = dict(db.history.db.iterator())
    if trouble == "genesis":
        db.utxo_db.put(b"state", before.replace(b"'genesis': '", b"'genesis': 'f"))
    elif trouble == "state row":
        db.utxo_db.put(b"state", b"{'height': ")
    db.close_dbs()
    files = contents(tmp_path / "meta")
    with pytest.raises(DBError) as info:
        await DB(other).open_for_sync()
    one_line(info.value)
    assert contents(tmp_path / "meta") == files
    # After the repair the database is as it was.
    store = ENGINES[env.db_engine](str(tmp_path / "utxo"), True)
    store.put(b"state", before)
    assert dict(store.iterator()) == rows
    store.close()
    store = ENGINES[env.db_engine](str(tmp_path / "hist"), True)
    assert dict(store.iterator()) == hist_rows
    store.close()
    await assert_is_at(env, CHAIN[:50])


# Written by e-x 2.0.0.
EX_2_UTXO_STATE = {
    "genesis": CHAIN_GENESIS,
    "height": 50,
    "tx_count": 200,
    "tip": bytes(32),
    "wall_time": 12.5,
    "first_sync": False,
    "db_version": 11,
}
EX_2_HIST_STATE = {"hist_db_tx_count": 200, "db_version": 4, "upgrade_cursor": -1}


# It writes the history first, and may be killed before it writes the other one.
@pytest.mark.parametrize("states", ["both", "history only"])
async def test_a_database_of_ex_2_is_named_as_such(env, tmp_path, states):
    klass = ENGINES[env.db_engine]
    for name, key, state in (
        ("utxo", b"state", EX_2_UTXO_STATE if states == "both" else None),
        ("hist", b"state\0\0", EX_2_HIST_STATE),
    ):
        store = klass(str(tmp_path / name), True)
        if state:
            store.put(key, repr(state).encode())
        store.close()
    with pytest.raises(DBError, match=r"written by e-x 2\.0") as info:
        await DB(env).open_for_sync()
    assert one_line(info.value) == (
        "the database was written by e-x 2.0, which has a format of its own; name another "
        "DB_DIRECTORY"
    )


# -- the process


def run_server(db_dir, engine):
    """Run electrumx_server until it ends; (exit status, its log)."""
    env = {
        "PATH": os.environ["PATH"],
        "COIN": "Bitcoin",
        "NET": "regtest",
        "DB_DIRECTORY": str(db_dir),
        "DB_ENGINE": engine,
        "SERVICES": "",
        "PEER_DISCOVERY": "off",
        "ALLOW_ROOT": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    # The database is opened once the node has answered.
    program = (
        "import asyncio, os, sys, threading\n"
        "from tests.fakes.chain import ChainMaker\n"
        "from tests.fakes.fake_node import FakeNode\n"
        "loop = asyncio.new_event_loop()\n"
        "maker = ChainMaker(seed=81)\n"
        "node = FakeNode(maker.chain(maker.grow(maker.genesis_hash, 200)))\n"
        "threading.Thread(target=loop.run_forever, daemon=True).start()\n"
        "asyncio.run_coroutine_threadsafe(node.start(), loop).result()\n"
        "os.environ['DAEMON_URL'] = node.url\n"
        "from electrumx.cli.server import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_process_ends_with_1_and_one_line(env, tmp_path):
    asyncio.run(make_database(env, CHAIN[:50]))
    (tmp_path / "meta" / "hashes0000").unlink()
    status, log = run_server(tmp_path, env.db_engine)
    assert status == 1
    assert "Traceback" not in log
    last = log.strip().splitlines()[-1]
    assert last.startswith("CRITICAL:electrumx:ElectrumX server terminated abnormally: ")
    assert "hashes0000 is missing" in last


def test_a_process_whose_disk_fills_ends_with_1_and_one_line(small_disk, engine):
    disk = small_disk("64m")
    (disk / "db").mkdir()
    env = make_env(disk / "db", engine=engine, reorg_limit=200)
    asyncio.run(make_database(env, CHAIN[:50]))
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 150_000))
    status, log = run_server(disk / "db", engine)
    assert status == 1
    assert "Traceback" not in log
    last = log.strip().splitlines()[-1]
    assert last.startswith("CRITICAL:electrumx:ElectrumX server terminated abnormally: ")
    assert "disk" in last
    (disk / "ballast").unlink()
    asyncio.run(assert_goes_on(env))
