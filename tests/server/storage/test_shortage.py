"""A shortage of descriptors or memory is outlasted: writes are repeated, and nothing is lost."""

import errno
import logging
import os
import resource
import subprocess
import sys

import pytest

from electrumx.server.db.flat_files import HeldLogicalFile
from electrumx.server.storage import shortage
from electrumx.server.storage.errors import explained
from electrumx.server.storage.leveldb import LevelDB
from electrumx.server.storage.shortage import Patience, Reserve, is_shortage
from tests.conftest import REPOSITORY

NO_FILES = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.fixture
def patience(monkeypatch):
    monkeypatch.setattr(shortage, "FIRST_PAUSE_SECS", 0.001)
    monkeypatch.setattr(shortage, "MAX_PAUSE_SECS", 0.001)
    patience = Patience(logging.getLogger("patience"))
    yield patience
    patience.reserve.release()


def failing(times, error=NO_FILES):
    left = [error] * times

    def work(*_args):
        if left:
            raise left.pop()
        return "done"

    return work


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NO_FILES, True),
        (OSError(errno.ENFILE, "x"), True),
        (OSError(errno.ENOMEM, "x"), True),
        (MemoryError(), True),
        (OSError("IO error: db/000003.log: Too many open files"), True),
        (Exception("IO error: While open a file: db/000004.sst: Too many open files"), True),
        (OSError(errno.ENOSPC, "x"), False),
        (OSError(errno.EIO, "x"), False),
        (ValueError("x"), False),
    ],
)
def test_a_shortage_is_distinguished_from_an_error_of_the_disk(error, expected):
    assert is_shortage(error) is expected


def test_what_a_shortage_made_fail_is_repeated_with_two_lines_of_the_log(patience, caplog):
    caplog.set_level(logging.INFO)
    patience.reserve.fill()
    assert patience.run(failing(20), "writing") == "done"
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "Too many open files; trying again for up to 60s." in lines[0]
    assert "raise the limit of open files (LimitNOFILE, ulimit -n)" in lines[0]
    assert lines[1].startswith("writing: done after ")
    assert len(patience.reserve) == shortage.RESERVE_FILES


def test_the_reserve_is_given_up_before_the_first_repetition(patience):
    patience.reserve.fill()
    sizes = []

    def work():
        sizes.append(len(patience.reserve))
        if len(sizes) < 2:
            raise NO_FILES

    patience.run(work, "writing")
    assert sizes == [shortage.RESERVE_FILES, 0]


def test_a_shortage_that_lasts_is_an_error_in_the_end(patience, monkeypatch):
    monkeypatch.setattr(shortage, "PATIENCE_SECS", 0.05)
    with pytest.raises(OSError, match="Too many open files") as info:
        patience.run(failing(10**6), "writing")
    LevelDB.import_module()
    text = str(explained(info.value, "folder", LevelDB))
    assert "raise the limit of open files" in text
    assert "\n" not in text


def test_other_errors_are_not_repeated(patience, caplog):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        patience.run(failing(1, full), "writing")
    assert not caplog.records


def test_a_reserve_is_filled_as_far_as_that_goes(monkeypatch):
    reserve = Reserve(3)
    reserve.fill()
    assert len(reserve) == 3
    reserve.release()

    def refuse(*_args):
        raise NO_FILES

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        reserve.fill()
    assert len(reserve) == 0


def test_files_that_are_open_are_read_and_written_without_a_descriptor(tmp_path, monkeypatch):
    file = HeldLogicalFile(tmp_path / "headers", 2, 100, max_held=2)
    file.write(0, bytes(range(150)), sync=True)
    assert file.read(0) == bytes(range(150))

    def refuse(*_args, **_kwargs):
        raise NO_FILES

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        patch.setattr("builtins.open", refuse)
        file.write(150, b"more", sync=True)
        assert file.read(140) == bytes(range(140, 150)) + b"more"
    file.close()
    assert file.read(150, 4) == b"more"


def open_files(folder):
    """Return how many descriptors of the process are of files in a folder."""
    names = [os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
    # The one by which the listing was made is gone.
    targets = [os.readlink(name) for name in names if os.path.lexists(name)]
    return sum(os.path.dirname(target) == str(folder) for target in targets)


def test_no_more_files_are_held_than_allowed(tmp_path):
    file = HeldLogicalFile(tmp_path / "hashes", 4, 10, max_held=3)
    file.write(0, bytes(100))
    for _ in range(2):
        assert len(file.read(0)) == 100
        # One more is that last written to.
        assert open_files(tmp_path) == 3 + 1


def test_our_own_read_files_are_given_up_for_one_that_is_needed(tmp_path, monkeypatch):
    file = HeldLogicalFile(tmp_path / "hashes", 4, 10, max_held=8)
    file.write(0, bytes(50))
    file.close()
    file.read(0, 40)
    really_open = os.open

    def open_if_room(*args):
        if open_files(tmp_path):
            raise NO_FILES
        return really_open(*args)

    monkeypatch.setattr(os, "open", open_if_room)
    assert len(file.read(40, 10)) == 10


def test_a_write_that_failed_leaves_nothing_in_a_buffer(tmp_path, monkeypatch):
    file = HeldLogicalFile(tmp_path / "headers", 2, 100, max_held=2)
    file.write(0, b"good", sync=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(1))
        with pytest.raises(OSError, match="Too many"):
            file.write(4, b"bad!", sync=True)
    file.write(4, b"next", sync=True)
    assert file.read(0) == b"goodnext"


PROGRAM = """
import asyncio, logging, os, resource, sys, threading, time

LIMIT = 128
resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))

from electrumx.server.storage import RocksDB, db_class
from tests.fakes.chain import ChainMaker, Model, hashX_of
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env

engine, folder, reorg_limit = sys.argv[1:]
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
# So that the engine has to open files all the time.
klass = db_class(engine)
if engine == "leveldb":
    make = klass.module.DB
    klass.module.DB = lambda *args, **kwargs: make(*args, **kwargs, write_buffer_size=65_536)
else:
    RocksDB.WRITE_BUFFER = 65_536
klass.MAX_OPEN_FILES_SYNC = klass.MAX_OPEN_FILES_SERVING = 20

maker = ChainMaker(seed=83, scripts=200)
chain = maker.chain(maker.grow(maker.genesis_hash, 400))
first = chain[:50]
hogged, hogging, stop = [], threading.Event(), threading.Event()

def hog():
    hogging.wait()
    while not stop.is_set():
        try:
            hogged.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            time.sleep(0.001)
    for fd in hogged:
        os.close(fd)

async def main():
    env = make_env(folder, engine=engine, reorg_limit=int(reorg_limit))
    daemon = ScriptedDaemon(first)
    async with World(env, daemon) as world:
        await world.until_at(first)
        thread = threading.Thread(target=hog)
        thread.start()
        hogging.set()
        while len(hogged) < 20:
            await asyncio.sleep(0.01)
        end = time.monotonic() + 3
        height = 50
        while time.monotonic() < end:
            height = min(height + 5, 300)
            daemon.set_chain(chain[:height])
            await asyncio.sleep(0.02)
        stop.set()
        await asyncio.to_thread(thread.join)
        daemon.set_chain(chain)
        await world.until_at(chain)
        hashXs = [hashX_of(script) for script in maker.draws.scripts]
        await assert_equals_model(world.db, Model(chain), hashXs)
    async with World(env, daemon) as world:
        await world.until_at(chain)
        await assert_equals_model(world.db, Model(chain), hashXs)

asyncio.run(main())
print("all is there")
"""


# Without raw blocks to keep it is the engine that opens files.
@pytest.mark.parametrize("reorg_limit", [400, 0])
@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
def test_blocks_that_come_while_no_descriptor_is_left_are_written_later(
    engine, reorg_limit, tmp_path
):
    if engine == "rocksdb":
        pytest.importorskip("rocksdict")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, engine, str(tmp_path), str(reorg_limit)],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert done.stdout.endswith("all is there\n")
    assert "Too many open files" in done.stdout
    assert "trying again for up to 60s" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_limit_of_this_process_is_left_as_it_was():
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 200
