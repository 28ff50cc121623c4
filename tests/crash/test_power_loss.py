"""A power cut between any two operations of the file layer leaves a database that opens and is right."""

import logging
import os
import random
import shutil

import pytest

from electrumx.lib import util
from electrumx.server.block_processor.flush_scheduler import FlushScheduler
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.db import DB
from electrumx.server.history.store import History
from electrumx.server.runs import FOLDER
from electrumx.server.runs import manifest as manifests
from electrumx.server.runs.run_files import RunFile
from electrumx.server.runs.workspace import Workspace
from electrumx.server.storage.schema import STATE_KEY, CommittedState, DBError
from tests.crash import audit
from tests.crash.stories import REORG_LIMIT, UNDO_CHUNK, story
from tests.fakes.bulk import make_limits_small
from tests.fakes.chain import COIN
from tests.fakes.lossy_files import LossyDisk, LossyStore
from tests.fakes.world import ScriptedDaemon, World, make_env

SEED = 11
#: images of every cut point in the nightly run, in addition to the one that loses most
SOAK_IMAGES = int(os.environ.get("SOAK_IMAGES", "8"))


def env_of(folder):
    return make_env(folder, engine="lossy", reorg_limit=REORG_LIMIT, indexer="python")


def knows_all_blocks():
    """A node that knows every branch of the story."""
    daemon = ScriptedDaemon()
    for tip in story(SEED).targets:
        daemon.set_chain(story(SEED).chain(tip))
    return daemon


async def follow(folder, tips):
    """Index some chains, one after another."""
    daemon = knows_all_blocks()
    daemon.set_chain(story(SEED).chain(tips[0]))
    async with World(env_of(folder), daemon) as world:
        for tip in tips:
            daemon.set_chain(story(SEED).chain(tip))
            await daemon.height()
            await world.until_at(story(SEED).chain(tip))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Make small chains behave like great ones: several flushes, of coins and of history only."""
    choose = random.Random(1)
    monkeypatch.setattr(COIN, "max_fetch_blocks", classmethod(lambda cls, height: 4))
    monkeypatch.setattr(BlockProcessor, "UNDO_CHUNK", UNDO_CHUNK)
    monkeypatch.setattr(History, "BATCH_BYTES", 200)
    monkeypatch.setattr(FlushScheduler, "due", lambda self: choose.choice([None, False, True]))
    LossyStore.stores.clear()
    yield
    LossyStore.stores.clear()


async def record(folder):
    """Let a server live through the story on a disk that keeps a journal; the journal."""
    folder.mkdir()
    disk = LossyDisk(folder)
    with pytest.MonkeyPatch.context() as patch:
        disk.install(patch)
        await follow(folder, story(SEED).targets)
    return disk


def committed_tips(journal, cut):
    """The tips that may be found after a cut: the last one that was committed."""
    tip = None
    for kind, path, *rest in journal[:cut]:
        if kind == "batch" and path == "utxo":
            for key, value in rest[0]:
                if key == STATE_KEY:
                    state = CommittedState.parse(value)
                    tip = state.tip if state.height >= 0 else None
    return tip


async def wrong_in_the_end(place):
    """Follow the chain to its tip; return the faults of the final database."""
    await follow(place, story(SEED).targets[-1:])
    db = DB(env_of(place))
    await db.open_for_sync()
    found = await audit.problems(db, SEED)
    if db.db_tip != story(SEED).targets[-1]:
        found.append("the final tip was not reached")
    db.close_dbs()
    return found


async def wrong_after(disk, cut, place, seed, resync):
    """Return the differences that a power cut left; a list of sentences."""
    disk.image(cut, place, seed)
    try:
        db = DB(env_of(place))
        try:
            await db.open_for_sync()
        except DBError as e:
            return [f"cut {cut}: the database does not open: {e}"]
        found = await audit.problems(db, SEED)
        tip = db.db_tip if db.db_height >= 0 else None
        if tip != committed_tips(disk.journal, cut):
            found.append(f"height {db.db_height} is not what was committed")
        db.close_dbs()
        if resync and not found:
            found = await wrong_in_the_end(place)
        return [f"cut {cut}: {problem}" for problem in found]
    finally:
        shutil.rmtree(place)


async def test_every_cut_point_opens_at_the_committed_state(tmp_path):
    disk = await record(tmp_path / "db")
    assert len(disk.journal) > 150
    kinds = {kind for kind, *_rest in disk.journal}
    assert kinds == {"create", "mkdir", "write", "fsync", "unlink", "batch", "put"}
    for cut in range(len(disk.journal) + 1):
        for seed in (None, cut):
            resync = seed is not None and cut % 10 == 0
            found = await wrong_after(disk, cut, tmp_path / "image", seed, resync)
            assert found == []


@pytest.mark.soak
async def test_every_cut_point_ends_right_whatever_was_lost(tmp_path, capsys):
    disk = await record(tmp_path / "db")
    images = 0
    for cut in range(len(disk.journal) + 1):
        for seed in (None, *range(SOAK_IMAGES)):
            found = await wrong_after(disk, cut, tmp_path / "image", seed, True)
            assert found == []
            images += 1
    with capsys.disabled():
        print(f"\npower loss: {len(disk.journal) + 1} cut points, {images} images")


def no_fsync(patch):
    write = util.LogicalFile.write
    patch.setattr(
        util.LogicalFile, "write", lambda self, start, b, *, sync=False: write(self, start, b)
    )


def no_folder_sync(patch):
    patch.setattr(util, "sync_directory", lambda path: None)


def no_file_sync(patch):
    patch.setattr(RunFile, "sync", lambda self: None)


@pytest.mark.parametrize("mutation", [no_fsync, no_folder_sync])
async def test_a_missing_fsync_is_noticed(tmp_path, mutation):
    with pytest.MonkeyPatch.context() as patch:
        mutation(patch)
        disk = await record(tmp_path / "db")
    found = []
    for cut in range(0, len(disk.journal) + 1, 7):
        found += await wrong_after(disk, cut, tmp_path / "image", None, False)
    assert found != []


#: logged where a manifest names missing files
BEGUN_AGAIN = "beginning the bulk sync again"


@pytest.fixture(params=[0, 25_000], ids=["each run", "several runs"])
def bulk(monkeypatch, request):
    """Begin with a bulk sync, of chunks of few blocks; a manifest names one more, or several."""
    make_limits_small(
        monkeypatch, chunk=9_000, history=4_000, range_bytes=6_000, commit=request.param
    )


def committed_after_bulk(journal, cut):
    """The tips that may be found after a cut of a run that began with a bulk sync."""
    made = exchanged = None
    for number, (kind, path, *rest) in enumerate(journal):
        if kind == "batch" and path == "bulk_sync/utxo" and rest[0][0][0] == STATE_KEY:
            made = number, CommittedState.parse(rest[0][0][1]).tip
        if kind == "move" and path == "utxo":
            exchanged = number
            break
    before, after = committed_tips(journal, cut), made[1]
    if cut <= made[0] or before is not None:
        return {before}
    return {after} if cut > exchanged else {None, after}


async def wrong_after_bulk(disk, cut, place, seed):
    """Return the faults of the state after a power cut, and of the final database."""
    disk.image(cut, place, seed)
    try:
        db = DB(env_of(place))
        await db.open_for_sync()
        found = await audit.problems(db, SEED)
        tip = db.db_tip if db.db_height >= 0 else None
        if tip not in committed_after_bulk(disk.journal, cut):
            found.append(f"height {db.db_height} is not what was committed")
        db.close_dbs()
        if not found:
            found = await wrong_in_the_end(place)
        return [f"cut {cut}: {problem}" for problem in found]
    finally:
        shutil.rmtree(place)


def end_of_bulk(journal):
    """The number of the entry after the last of the bulk sync."""
    return 1 + max(n for n, (_kind, path, *_rest) in enumerate(journal) if "bulk_sync" in path)


async def test_a_bulk_sync_survives_a_power_cut(tmp_path, bulk, caplog):
    disk = await record(tmp_path / "db")
    end = end_of_bulk(disk.journal)
    assert {"replace", "move", "rmtree"} <= {kind for kind, *_rest in disk.journal}
    for cut in range(0, end + 1, 9):
        for seed in (None, cut):
            assert await wrong_after_bulk(disk, cut, tmp_path / "image", seed) == []
    assert BEGUN_AGAIN not in caplog.text


async def test_a_manifest_that_survives_a_power_cut_has_its_run_files(tmp_path, bulk):
    disk = await record(tmp_path / "db")
    manifest = f"{FOLDER}/{manifests.NAME}"
    cuts = [n for n, entry in enumerate(disk.journal, 1) if entry[:2] == ("replace", manifest)]
    assert len(cuts) > 8
    for cut in cuts:
        for seed in range(8):
            place = tmp_path / "image"
            disk.image(cut, place, seed)
            found = manifests.load(place / FOLDER)
            if found is not None:
                assert Workspace(place, logging.getLogger()).is_complete(found), f"cut {cut}"
            shutil.rmtree(place)


@pytest.mark.soak
async def test_a_bulk_sync_survives_a_power_cut_at_every_point(tmp_path, bulk, capsys):
    disk = await record(tmp_path / "db")
    end = end_of_bulk(disk.journal)
    for cut in range(end + 1):
        for seed in (None, *range(SOAK_IMAGES)):
            assert await wrong_after_bulk(disk, cut, tmp_path / "image", seed) == []
    with capsys.disabled():
        print(f"\npower loss in a bulk sync: {end + 1} cut points")


async def test_a_missing_fsync_of_run_files_is_noticed(tmp_path, bulk, caplog):
    with pytest.MonkeyPatch.context() as patch:
        no_file_sync(patch)
        disk = await record(tmp_path / "db")
    for cut in range(20, end_of_bulk(disk.journal), 20):
        assert await wrong_after_bulk(disk, cut, tmp_path / "image", None) == []
        if BEGUN_AGAIN in caplog.text:
            return
    raise AssertionError("no run was lost")
