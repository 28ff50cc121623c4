"""The bulk sync leaves the database that the ordinary sync leaves, whatever the coin and engine."""

import asyncio
import errno
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from electrumx.lib.coins import BitcoinCashRegtest
from electrumx.lib.hash import double_sha256
from electrumx.server.block_processor.bulk_sync_task import BulkSyncTask
from electrumx.server.block_processor.variants import LTORBlockProcessor
from electrumx.server.bulk_sync import choice, kernels, space
from electrumx.server.bulk_sync.driver import BulkSync
from electrumx.server.bulk_sync.merge import Merge
from electrumx.server.bulk_sync.progress import Progress
from electrumx.server.bulk_sync.scan import Scan
from electrumx.server.bulk_sync.space import SpaceNeeded
from electrumx.server.bulk_sync.stores import StoreFiller
from electrumx.server.daemon.client import Daemon
from electrumx.server.daemon.rest_connection import RestConnection
from electrumx.server.daemon.spool import Spool
from electrumx.server.db.database import DB
from electrumx.server.db.flat_files import FlatFiles
from electrumx.server.db.stores import Stores
from electrumx.server.history import store as history_module
from electrumx.server.runs import run_files
from electrumx.server.runs.manifest import Manifest, Section, load
from electrumx.server.runs.records import HISTORY, KINDS, OUTPUTS
from electrumx.server.runs.run_files import DamagedRunError, Part, RunFile, Sorted, ranges
from electrumx.server.runs.workspace import Workspace
from electrumx.server.storage.schema import DBError
from tests.conftest import require
from tests.fakes.bulk import contents, make_limits_small, sync
from tests.fakes.chain import COIN, ChainMaker, Model, hashX_of
from tests.fakes.fake_node import FakeNode
from tests.fakes.format_chain import FORMATS, FormatDaemon
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env

ENGINES = ["leveldb", "rocksdb"]


def require_engine(engine):
    if engine == "rocksdb":
        pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch):
    make_limits_small(monkeypatch)


@pytest.fixture
def short_rows(monkeypatch):
    """Have scripts with many transactions get several history rows."""
    init = history_module.History.__init__

    def limited(self, *args):
        init(self, *args)
        self.max_hist_row_entries = 7

    monkeypatch.setattr(history_module.History, "__init__", limited)


def count_runs(monkeypatch):
    """Return a list that has the height of each run, once a scan has ended it."""
    heights = []
    end_run = Scan.end_run

    def counted(self, spill):
        end_run(self, spill)
        heights.append(self.workspace.manifest.height)

    monkeypatch.setattr(Scan, "end_run", counted)
    return heights


async def both(tmp_path, make_daemon, **settings):
    """Return the stores of the bulk sync and the ordinary sync of the same chain."""
    processor_class = settings.pop("processor_class", None)
    found = []
    for choose in ("auto", "off"):
        folder = tmp_path / choose
        folder.mkdir()
        env = make_env(folder, bulk_sync=choose, **settings)
        await sync(env, make_daemon(), processor_class or env.coin.BLOCK_PROCESSOR)
        assert not (folder / "bulk_sync").exists()
        found.append(await contents(env))
    return found


@pytest.mark.parametrize("indexer", ["python", "compiled"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(3))
async def test_bulk_sync_leaves_the_stores_of_the_ordinary_sync(
    tmp_path, monkeypatch, engine, indexer, seed, short_rows
):
    require_engine(engine)
    if indexer == "compiled":
        require(kernels.compiled_module(), "the compiled modules were not built")
    runs = count_runs(monkeypatch)
    maker = ChainMaker(seed=seed, scripts=9, duplicates=0.15)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    bulk, ordinary = await both(
        tmp_path, lambda: ScriptedDaemon(chain), engine=engine, indexer=indexer, reorg_limit=12
    )
    assert bulk == ordinary
    # Nothing was proved if everything was in memory at once.
    assert len(runs) > 4
    assert runs[-1] == 60


def count_manifests(monkeypatch):
    """Return a list that gets the phase of each manifest that is written."""
    phases = []
    save = Workspace.save

    def counted(self):
        save(self)
        phases.append(self.manifest.phase)

    monkeypatch.setattr(Workspace, "save", counted)
    return phases


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_manifest_names_several_small_runs_and_ranges(tmp_path, monkeypatch, engine):
    require_engine(engine)
    maker = ChainMaker(seed=4, scripts=9, duplicates=0.15)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    manifests = count_manifests(monkeypatch)
    found = []
    for commit in (0, 9_000, 10**9):
        make_limits_small(monkeypatch, commit=commit)
        folder = tmp_path / str(commit)
        folder.mkdir()
        env = make_env(folder, engine=engine, reorg_limit=12)
        await sync(env, ScriptedDaemon(chain))
        found.append((Counter(manifests), await contents(env)))
        manifests.clear()
    (each, first), (some, second), (few, third) = found
    assert first == second == third
    for phase in ("scan", "join", "history"):
        assert each[phase] > some[phase] > few[phase]


@pytest.mark.parametrize("indexer", ["python", "compiled"])
async def test_bulk_sync_of_blocks_in_canonical_order_with_tokens(tmp_path, indexer):
    if indexer == "compiled":
        require(kernels.compiled_module(), "the compiled modules were not built")
    maker = ChainMaker(seed=5, scripts=9, ltor=True, tokens=True)
    chain = maker.chain(maker.grow(maker.genesis_hash, 50))
    bulk, ordinary = await both(
        tmp_path,
        lambda: ScriptedDaemon(chain),
        coin=BitcoinCashRegtest,
        indexer=indexer,
        reorg_limit=12,
        processor_class=LTORBlockProcessor,
    )
    assert bulk == ordinary


@pytest.mark.parametrize("format_class", FORMATS, ids=lambda cls: cls.__name__)
async def test_bulk_sync_of_every_format_leaves_the_stores_of_the_ordinary_sync(
    tmp_path, monkeypatch, format_class
):
    runs = count_runs(monkeypatch)
    made = ChainMaker(format=format_class(seed=3))
    chain = made.chain(made.grow(made.genesis_hash, 30))
    bulk, ordinary = await both(
        tmp_path, lambda: FormatDaemon(made, chain), coin=made.coin, reorg_limit=9
    )
    assert bulk == ordinary
    assert len(runs) > 1


@pytest.mark.parametrize("engine", ENGINES)
async def test_blocks_are_undone_after_a_bulk_sync(tmp_path, engine):
    require_engine(engine)
    maker = ChainMaker(seed=2, scripts=9)
    fork = maker.grow(maker.genesis_hash, 40)
    old, new = maker.grow(fork, 8), maker.grow(fork, 9)
    daemon = ScriptedDaemon(maker.chain(old))
    async with World(make_env(tmp_path, engine=engine, reorg_limit=10), daemon) as world:
        await world.until_at(maker.chain(old))
        daemon.set_chain(maker.chain(new))
        await world.until_at(maker.chain(new))
        scripts = [hashX_of(script) for script in maker.draws.scripts]
        await assert_equals_model(world.db, Model(maker.chain(new)), scripts)


@pytest.mark.parametrize("engine", ENGINES)
async def test_last_blocks_without_spends_can_be_undone_after_a_bulk_sync(tmp_path, engine):
    require_engine(engine)
    maker = ChainMaker(seed=2, scripts=9)
    tip = maker.grow(maker.genesis_hash, 40)
    for _ in range(12):
        tip = maker.extend(tip, max_txs=0)
    chain = maker.chain(tip)
    bulk, ordinary = await both(
        tmp_path, lambda: ScriptedDaemon(chain), engine=engine, reorg_limit=10
    )
    assert bulk == ordinary


class GatedDaemon(ScriptedDaemon):
    """A node that does not give a block of some height before the test allows it."""

    def __init__(self, chain, closed_from):
        super().__init__(chain)
        self.closed = set(chain[closed_from:])
        self.opened = asyncio.Event()

    async def raw_blocks(self, hex_hashes):
        raws = await super().raw_blocks(hex_hashes)
        if not self.closed.isdisjoint(raws):
            await self.opened.wait()
        return raws


def fetch_three_at_once(monkeypatch):
    monkeypatch.setattr(COIN, "max_fetch_blocks", classmethod(lambda cls, height: 3))


@pytest.mark.parametrize("commit", [0, 10**9])
@pytest.mark.parametrize("common", [0, 10, 25])
async def test_a_fork_below_the_last_run_goes_back_to_one_that_the_node_has(
    tmp_path, monkeypatch, caplog, common, commit
):
    make_limits_small(monkeypatch, commit=commit)
    fetch_three_at_once(monkeypatch)
    caplog.set_level(logging.WARNING)
    runs = count_runs(monkeypatch)
    maker = ChainMaker(seed=4, scripts=9)
    fork = maker.grow(maker.genesis_hash, common)
    old, new = maker.grow(fork, 40 - common), maker.grow(fork, 41 - common)
    chain, other = maker.chain(old), maker.chain(new)
    env = make_env(tmp_path, reorg_limit=5)
    daemon = GatedDaemon(chain, 35)
    async with World(env, daemon) as world:
        await world.until(
            lambda: world.bp.bulk_sync.progress and world.bp.bulk_sync.progress.height >= 30
        )
        daemon.set_chain(other)
        daemon.opened.set()
        await world.until_at(other)
        await world.until(lambda: world.bp.engine_compaction.done)
    # Up to the fork nothing is indexed twice.
    kept = max((height for height in runs if height <= common), default=-1)
    assert f"going back to height {kept:,d}" in caplog.text
    assert runs[-1] == 41
    folder = tmp_path / "ordinary"
    folder.mkdir()
    other_env = make_env(folder, reorg_limit=5, bulk_sync="off")
    await sync(other_env, ScriptedDaemon(other))
    assert await contents(env) == await contents(other_env)


@pytest.mark.parametrize("commit", [0, 10**9])
async def test_a_stopped_server_goes_on_from_its_last_chunk(tmp_path, monkeypatch, commit):
    make_limits_small(monkeypatch, commit=commit)
    runs = count_runs(monkeypatch)
    maker = ChainMaker(seed=6, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    fetch_three_at_once(monkeypatch)
    env = make_env(tmp_path, reorg_limit=5)
    asked = []

    class Daemon(ScriptedDaemon):
        async def block_hex_hashes(self, first, count):
            asked.append(first)
            return await super().block_hex_hashes(first, count)

    async with World(env, Daemon(chain)) as world:
        await world.until(
            lambda: world.bp.bulk_sync.progress and world.bp.bulk_sync.progress.height > 20
        )
    reached = runs[-1]
    assert 20 < reached <= 60
    asked.clear()
    await sync(env, Daemon(chain))
    assert [height for height in asked if height > 1] != []
    assert min(height for height in asked if height > 1) >= reached
    await _assert_is_chain(env, maker, chain)


async def test_a_server_stopped_between_scan_and_merge_has_saved_all_runs(tmp_path, monkeypatch):
    make_limits_small(monkeypatch, commit=10**9)
    runs = count_runs(monkeypatch)
    maker = ChainMaker(seed=6, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    asked = asyncio.Event()

    class Daemon(ScriptedDaemon):
        async def block_hex_hashes(self, first, count):
            if runs and runs[-1] == 60:
                # Whether the node has our tip.
                asked.set()
                await asyncio.Event().wait()
            return await super().block_hex_hashes(first, count)

    async with World(make_env(tmp_path, reorg_limit=5), Daemon(chain)) as world:
        await world.until(asked.is_set)
    assert load(tmp_path / "bulk_sync").height == 60


async def _assert_is_chain(env, maker, chain):
    async with World(env, ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
        scripts = [hashX_of(script) for script in maker.draws.scripts]
        await assert_equals_model(world.db, Model(chain), scripts)


async def test_a_short_chain_is_indexed_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "MIN_BLOCKS", 1000)
    runs = count_runs(monkeypatch)
    maker = ChainMaker(seed=1)
    chain = maker.chain(maker.grow(maker.genesis_hash, 20))
    await sync(make_env(tmp_path, reorg_limit=5), ScriptedDaemon(chain))
    assert runs == []


@pytest.mark.parametrize(("cache", "in_bulk"), [(100, False), (90, True)])
async def test_a_chain_that_fits_the_cache_several_times_is_indexed_block_by_block(
    tmp_path, monkeypatch, cache, in_bulk
):
    monkeypatch.setattr(choice, "MIN_SHARE_OF_CACHE", 1 / 8)
    monkeypatch.setattr(choice, "MIN_BYTES", 0)
    monkeypatch.setattr(choice, "txs_in_chain", lambda coin, height: 120_000)
    monkeypatch.setattr(space, "RUN_BYTES_PER_TX", 100)
    runs = count_runs(monkeypatch)
    maker = ChainMaker(seed=1)
    chain = maker.chain(maker.grow(maker.genesis_hash, 20))
    env = make_env(tmp_path, reorg_limit=5, cache_MB=cache)
    await sync(env, ScriptedDaemon(chain))
    assert (runs != []) is in_bulk


@pytest.mark.parametrize(("block_bytes", "in_bulk"), [(60_000_000, False), (70_000_000, True)])
def test_a_chain_whose_files_are_small_is_indexed_block_by_block_with_the_smallest_cache(
    tmp_path, monkeypatch, block_bytes, in_bulk
):
    monkeypatch.setattr(choice, "MIN_BYTES", 40_000_000)
    monkeypatch.setattr(COIN, "NET", "mainnet")
    env = make_env(tmp_path, reorg_limit=5, cache_MB=1)
    db = DB(env)
    assert choice.use_bulk_sync(env, db, 20, block_bytes, logging.getLogger()) is in_bulk


@pytest.mark.parametrize(("block_bytes", "in_bulk"), [(10_000_000, False), (30_000_000, True)])
def test_a_chain_that_is_larger_than_its_coins_figures_does_not_fit_the_cache(
    tmp_path, monkeypatch, block_bytes, in_bulk
):
    monkeypatch.setattr(choice, "MIN_SHARE_OF_CACHE", 1 / 8)
    monkeypatch.setattr(choice, "MIN_BYTES", 0)
    monkeypatch.setattr(COIN, "NET", "mainnet")
    env = make_env(tmp_path, reorg_limit=5, cache_MB=100)
    db = DB(env)
    assert choice.use_bulk_sync(env, db, 20, block_bytes, logging.getLogger()) is in_bulk


async def test_switching_the_bulk_sync_off_removes_an_unfinished_one(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    maker = ChainMaker(seed=6, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    fetch_three_at_once(monkeypatch)
    async with World(make_env(tmp_path), ScriptedDaemon(chain)) as world:
        await world.until(
            lambda: world.bp.bulk_sync.progress and world.bp.bulk_sync.progress.height > 20
        )
    assert (tmp_path / "bulk_sync" / "manifest").exists()
    env = make_env(tmp_path, bulk_sync="off")
    await sync(env, ScriptedDaemon(chain))
    assert not (tmp_path / "bulk_sync").exists()
    assert "removing the unfinished bulk sync" in caplog.text
    await _assert_is_chain(env, maker, chain)


async def test_a_disk_without_room_is_filled_in_the_ordinary_way(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    runs = count_runs(monkeypatch)
    maker = ChainMaker(seed=1)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    monkeypatch.setattr(choice, "space_needed", lambda *args: SpaceNeeded(2 * 10**9, 10**9, 10**9))
    await sync(make_env(tmp_path, reorg_limit=5), ScriptedDaemon(chain))
    assert runs == []
    assert (
        "2.0 GB of disk at its most, and leaves a database of 1.0 GB; 1.0 GB are free"
        in caplog.text
    )
    assert "too little room" in caplog.text


async def test_the_disk_needed_on_regtest_is_estimated_from_the_blocks_of_the_node(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    runs = count_runs(monkeypatch)
    maker = ChainMaker(seed=1)
    daemon = ScriptedDaemon(maker.chain(maker.grow(maker.genesis_hash, 40)))
    daemon.block_bytes = 980_000_000
    await sync(make_env(tmp_path, reorg_limit=5), daemon)
    assert runs != []
    assert (
        "the bulk sync needs about 588 MB of disk at its most, and leaves a database of 490 MB; "
        in caplog.text
    )


async def test_a_spend_of_no_output_is_refused_with_its_transaction(tmp_path):
    maker = ChainMaker(seed=8, scripts=9)
    tip = maker.grow(maker.genesis_hash, 30)
    maker.blocks[tip].unspent[b"\x77" * 32, 5] = 10
    # The newest are favoured, so soon one spends it.
    while b"\x77" * 32 not in maker.blocks[tip][0]:
        tip = maker.extend(tip)
    chain = maker.chain(tip)
    spender = next(
        tx_hash
        for tx, tx_hash in make_env(tmp_path).coin.block(chain[-1], 1).transactions
        if any(txin.prev_hash == b"\x77" * 32 for txin in tx.inputs)
    )
    with pytest.raises(Exception, match=f"{spender[::-1].hex()} spends output 5 of"):
        await sync(make_env(tmp_path, reorg_limit=5), ScriptedDaemon(chain))


def fail_write(monkeypatch, owner, name, number):
    """Have the ``number``-th call of a method fail as on a full disk, and those after it."""
    write = getattr(owner, name)
    calls = []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args, **kwargs)

    monkeypatch.setattr(owner, name, full)


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (RunFile, "append", 1),
        (RunFile, "append", 9),
        (Manifest, "save", 4),
        (FlatFiles, "append", 5),
        (StoreFiller, "write", 2),
        (StoreFiller, "write", 6),
    ],
)
async def test_a_full_disk_stops_the_server_with_one_line_and_it_goes_on_when_there_is_room(
    tmp_path, owner, name, number
):
    maker = ChainMaker(seed=6, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    env = make_env(tmp_path, reorg_limit=5)
    with pytest.MonkeyPatch.context() as patch:
        fail_write(patch, owner, name, number)
        with pytest.raises(DBError, match="the disk is full: make room") as caught:
            await sync(env, ScriptedDaemon(chain))
    assert "\n" not in str(caught.value)
    await sync(env, ScriptedDaemon(chain))
    await _assert_is_chain(env, maker, chain)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("spread", [1, 1 << 20, None])
@pytest.mark.parametrize("range_bytes", [1, 300, 10**9])
def test_ranges_of_sorted_sections_hold_each_record_once(tmp_path, kind, spread, range_bytes):
    """``spread``: how far keys are from each other at most; None for keys like hashes."""
    choose = random.Random(f"{kind.name} {spread}")
    file = RunFile(tmp_path, kind)
    sections, records = [], []
    for count in (0, 1, 40, 200):
        keys = [
            choose.randbytes(kind.bound_len)
            if spread is None
            else (choose.randrange(spread) + (1 << 20)).to_bytes(kind.bound_len, "big")
            for _ in range(count)
        ]
        found = sorted(key.ljust(kind.length, b"\7") for key in keys)
        last = sections[-1] if sections else Section(0, 0)
        sections.append(file.append(last, b"".join(found)))
        records += found
    start = choose.choice([0, int.from_bytes(choose.choice(records)[: kind.bound_len], "big")])
    seen, end = [], start
    for part in ranges([Sorted(file, sections)], start, range_bytes):
        assert part.first == end
        end = part.end
        inside = [raw for piece in part.parts[0] for raw in split(file.read(piece), kind)]
        bounds = [int.from_bytes(raw[: kind.bound_len], "big") for raw in inside]
        assert all(part.first <= bound < part.end for bound in bounds)
        assert len(inside) * kind.length <= 1.5 * range_bytes or len(set(bounds)) == 1
        seen += inside
    assert end == 1 << 8 * kind.bound_len
    expected = [raw for raw in records if int.from_bytes(raw[: kind.bound_len], "big") >= start]
    assert sorted(seen) == sorted(expected)
    file.close()


def split(raw, kind):
    return [raw[n : n + kind.length] for n in range(0, len(raw), kind.length)]


def test_a_freed_part_of_a_run_file_gives_its_room_back(tmp_path):
    file = RunFile(tmp_path, HISTORY)
    raw = os.urandom(16 * 100_000)
    section = file.append(Section(0, 0), raw)
    before = os.stat(file.path).st_blocks
    # The freed part ends within the records of one checksum, which are read with those that follow.
    for first in range(0, 50_001, 7_143):
        part = Part(first, 7_143, section)
        assert file.read(part) == raw[16 * first : 16 * part.end]
        file.free(part)
    if not file.can_punch:
        pytest.skip("the file system cannot punch holes")
    assert os.stat(file.path).st_blocks <= before * 0.6
    rest = Part(part.end, section.end - part.end, section)
    assert file.read(rest) == raw[16 * part.end :]
    file.close()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_flipped_bit_of_a_run_file_is_found(tmp_path, kind):
    choose = random.Random(kind.name)
    file = RunFile(tmp_path, kind)
    sections = [Section(0, 0)]
    raws = [b""]
    for pieces in (0.2, 1, 2.5, 0.01):
        records = max(1, int(pieces * kind.piece_records))
        raws.append(choose.randbytes(records * kind.length))
        with file.writer(sections[-1]) as writer:
            # In parts that do not end where a checksum does
            for start in range(0, records, 97):
                writer.write(raws[-1][start * kind.length : (start + 97) * kind.length])
        sections.append(writer.section)
    for path in (file.path, file.sums_path):
        whole = path.read_bytes()
        for _ in range(40):
            bit = choose.randrange(8 * len(whole))
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << bit % 8
            path.write_bytes(broken)
            damaged = 0
            for section, raw in zip(sections[1:], raws[1:], strict=True):
                middle = section.records // 2
                for part in (
                    Part(section.first, middle, section),
                    Part(section.first + middle, section.records - middle, section),
                ):
                    expected = raw[(part.first - section.first) * kind.length :]
                    expected = expected[: part.records * kind.length]
                    try:
                        assert file.read(part) == expected
                    except DamagedRunError as e:
                        damaged += e.section == section
            # A piece may be read for both halves.
            assert damaged in (1, 2)
        path.write_bytes(whole)
        with path.open("r+b") as f:
            f.truncate(len(whole) - 1)
        with pytest.raises(DamagedRunError, match="is damaged on disk"):
            file.read(Part.whole(sections[-1]))
        assert not file.holds(sections)
        path.write_bytes(whole)
    assert file.holds(sections)
    file.close()


@pytest.mark.parametrize("when", ["the first range", "later"])
async def test_a_flipped_bit_ends_the_merge_and_the_next_start_gets_there(
    tmp_path, monkeypatch, when
):
    maker = ChainMaker(seed=31, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    env = make_env(tmp_path / "db", reorg_limit=12)
    (tmp_path / "db").mkdir()
    runs = count_runs(monkeypatch)
    flipped = []
    read = RunFile.read
    # Ranges are read in threads: a bit that two of them flipped would be right again.
    lock = threading.Lock()

    def read_flipped(self, part):
        with lock:
            flip(self)
        return read(self, part)

    def flip(self):
        # The first record of the third run's outputs, read in the first range; or of its history.
        manifest = load(tmp_path / "db" / "bulk_sync")
        kind = OUTPUTS if when == "the first range" else HISTORY
        if self.kind == kind and not flipped and manifest.phase in ("join", "history"):
            section = manifest.runs[2].outputs if kind == OUTPUTS else manifest.runs[2].history[0]
            with self.path.open("r+b") as f:
                f.seek(section.first * kind.length)
                byte = f.read(1)
                f.seek(-1, os.SEEK_CUR)
                f.write(bytes([byte[0] ^ 1]))
            flipped.append(section)

    monkeypatch.setattr(RunFile, "read", read_flipped)
    monkeypatch.setattr(Merge, "LEAST_SECTIONS", 10**6)
    with pytest.raises(DBError, match="is damaged on disk: check the disk; after the") as caught:
        await sync(env, ScriptedDaemon(chain))
    assert "\n" not in str(caught.value)
    first_runs = list(runs)
    assert len(first_runs) > 4
    kept = [run.height for run in load(tmp_path / "db" / "bulk_sync").runs]
    assert kept == (first_runs[:2] if when == "the first range" else [])
    await sync(env, ScriptedDaemon(chain))
    # The runs that were kept were not scanned again.
    assert runs[len(first_runs)] > (kept[-1] if kept else 0)
    monkeypatch.undo()
    make_limits_small(monkeypatch)
    (tmp_path / "other").mkdir()
    other = make_env(tmp_path / "other", reorg_limit=12, bulk_sync="off")
    await sync(other, ScriptedDaemon(chain))
    assert await contents(env) == await contents(other)


async def test_a_flipped_bit_in_a_join_that_no_manifest_names_ends_it_with_one_line(
    tmp_path, monkeypatch
):
    make_limits_small(monkeypatch, commit=10**9)
    maker = ChainMaker(seed=31, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    env = make_env(tmp_path, reorg_limit=12)
    read = RunFile.read
    with pytest.MonkeyPatch.context() as patch:

        def damaged(self, part):
            if self.kind == OUTPUTS and (tmp_path / "bulk_sync" / "utxos").exists():
                raise DamagedRunError(self.path, self.kind, part.section)
            return read(self, part)

        patch.setattr(RunFile, "read", damaged)
        with pytest.raises(DBError, match="check the disk; after the next start the initial sync"):
            await sync(env, ScriptedDaemon(chain))
    await sync(env, ScriptedDaemon(chain))
    await _assert_is_chain(env, maker, chain)


@pytest.mark.parametrize("engine", ENGINES)
async def test_history_written_before_a_kill_does_not_stay_beside_that_written_after_it(
    tmp_path, monkeypatch, engine, short_rows
):
    """Where ranges end decides how a history is divided into rows, and after a start they end elsewhere."""
    require_engine(engine)
    maker = ChainMaker(seed=9, scripts=2)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    (tmp_path / "db").mkdir()
    env = make_env(tmp_path / "db", engine=engine, reorg_limit=12)
    save = Workspace.save
    saves_left = 0

    def killed(self):
        nonlocal saves_left
        if self.manifest.phase == "history" and self.manifest.cursor:
            saves_left -= 1
            if saves_left < 0:
                raise ZeroDivisionError
        save(self)

    for saves, commit in ((2, 0), (0, 10**9)):
        make_limits_small(monkeypatch, commit=commit, range_bytes=300)
        saves_left = saves
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Workspace, "save", killed)
            with pytest.raises(ZeroDivisionError):
                await sync(env, ScriptedDaemon(chain))
    make_limits_small(monkeypatch, range_bytes=10**6)
    await sync(env, ScriptedDaemon(chain))
    (tmp_path / "other").mkdir()
    other = make_env(tmp_path / "other", reorg_limit=12, bulk_sync="off")
    await sync(other, ScriptedDaemon(chain))
    assert await contents(env) == await contents(other)


@pytest.mark.parametrize("indexer", ["python", "compiled"])
@pytest.mark.parametrize("stop", [False, True])
async def test_many_small_sections_are_merged_into_few(tmp_path, monkeypatch, indexer, stop):
    if indexer == "compiled":
        require(kernels.compiled_module(), "the compiled modules were not built")
    make_limits_small(monkeypatch, chunk=1_500, history=500, range_bytes=6_000)
    monkeypatch.setattr(Merge, "LEAST_SECTIONS", 3)
    merged = []
    save = Workspace.save
    seen = []

    def saved(self):
        save(self)
        for name, sections in self.manifest.merged.items():
            merged.append((name, len(sections)))
            if stop and len(merged) in (2, 9):
                # As a kill: nothing is written after that.
                seen.append(name)
                raise ZeroDivisionError

    monkeypatch.setattr(Workspace, "save", saved)
    maker = ChainMaker(seed=9, scripts=9, duplicates=0.15)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    env = make_env(tmp_path / "db", reorg_limit=12, indexer=indexer)
    (tmp_path / "db").mkdir()
    for _ in range(3):
        with suppress(ZeroDivisionError):
            await sync(env, ScriptedDaemon(chain))
            break
    assert len(seen) == (2 if stop else 0)
    assert {"outputs", "spends", "history", "utxos"} <= {name for name, _count in merged}
    # No more than necessary: sections that are merged lie on the disk twice for a time.
    assert {name: min(n for other, n in merged if other == name) for name, _count in merged} == (
        dict.fromkeys((name for name, _count in merged), 3)
    )
    (tmp_path / "other").mkdir()
    other = make_env(tmp_path / "other", reorg_limit=12, bulk_sync="off")
    await sync(other, ScriptedDaemon(chain))
    assert await contents(env) == await contents(other)


async def test_the_time_of_each_phase_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    maker = ChainMaker(seed=6, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    await sync(make_env(tmp_path, reorg_limit=5), ScriptedDaemon(chain))
    times = re.findall(r"bulk sync: (\w+) took [\d.]+s", caplog.text)
    assert times == ["scan", "join", "utxos", "undo", "history"]


def test_progress_is_one_line_for_the_service_manager():
    progress = Progress("join", 12.345, 870_000, None)
    assert str(progress) == "join 12.3%, height 870,000"
    assert progress.summary()["eta"] is None


async def stop_in_the_scan(env, chain, height):
    """Run a server until a run has ended above a height, and stop it."""
    async with World(env, ScriptedDaemon(chain)) as world:
        await world.until(
            lambda: world.bp.bulk_sync.progress and world.bp.bulk_sync.progress.height > height
        )


def remove_flat_files(folder):
    shutil.rmtree(folder)


def empty_flat_files(folder):
    for path in folder.glob("*0*"):
        path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [remove_flat_files, empty_flat_files])
async def test_a_bulk_sync_whose_flat_files_are_lost_begins_again(
    tmp_path, monkeypatch, caplog, damage
):
    caplog.set_level(logging.WARNING)
    maker = ChainMaker(seed=6, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    fetch_three_at_once(monkeypatch)
    (tmp_path / "bulk").mkdir()
    env = make_env(tmp_path / "bulk", reorg_limit=5)
    await stop_in_the_scan(env, chain, 20)
    assert (tmp_path / "bulk" / "bulk_sync" / "manifest").exists()
    damage(tmp_path / "bulk" / "meta")
    await sync(env, ScriptedDaemon(chain))
    assert "beginning the bulk sync again: the flat files do not have its blocks" in caplog.text
    (tmp_path / "ordinary").mkdir()
    other_env = make_env(tmp_path / "ordinary", reorg_limit=5, bulk_sync="off")
    await sync(other_env, ScriptedDaemon(chain))
    assert await contents(env) == await contents(other_env)


async def test_blocks_that_do_not_follow_each_other_are_refused_from_the_first_part_on(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(BulkSync, "PARSE_BYTES", 1 << 20)
    maker = ChainMaker(seed=4, scripts=9)
    fork = maker.grow(maker.genesis_hash, 4)
    old, new = maker.chain(maker.grow(fork, 30)), maker.chain(maker.grow(fork, 31))

    class Torn(ScriptedDaemon):
        """Has the blocks of another branch where it is first asked."""

        torn = True

        async def raw_blocks(self, hex_hashes):
            raws = await super().raw_blocks(hex_hashes)
            if self.torn and len(raws) > 10:
                self.torn = False
                raws[6] = old[self.hashes.index(hex_hashes[6])]
            return raws

    daemon = Torn(new)
    env = make_env(tmp_path, reorg_limit=5)
    await sync(env, daemon)
    assert not daemon.torn
    headers = (await contents(env))["headers"]
    assert headers == b"".join(raw[:80] for raw in new)


def test_reading_in_threads_leaves_no_descriptor_open(tmp_path, monkeypatch):
    file = RunFile(tmp_path, HISTORY)
    section = Part.whole(file.append(Section(0, 0), bytes(16 * 10)))
    both_there = threading.Barrier(2)
    opened, open_file = [], os.open

    def slow_open(*args):
        # Both threads are here at once, unless one waits for the other.
        with suppress(threading.BrokenBarrierError):
            both_there.wait(0.2)
        opened.append(open_file(*args))
        return opened[-1]

    monkeypatch.setattr(run_files.os, "open", slow_open)
    threads = [threading.Thread(target=file.read, args=(section,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.delete()
    # One for the records, one for their checksums
    assert len(opened) == 2
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_holes_are_punched_with_offsets_of_64_bits(tmp_path, monkeypatch):
    """fallocate of a 32-bit glibc takes 32-bit offsets: it would clear other parts of the file."""
    path = tmp_path / "history"
    path.write_bytes(bytes(10))
    calls = []

    class Function:
        def __init__(self, name):
            self.name = name

        def __call__(self, fd, mode, start, length):
            calls.append((self.name, mode, start, length))
            return 0

    class Glibc:
        fallocate = Function("fallocate")
        fallocate64 = Function("fallocate64")

    class Musl:
        fallocate = Function("fallocate")

    for libc, name in ((Glibc, "fallocate64"), (Musl, "fallocate")):
        monkeypatch.setattr(run_files.ctypes, "CDLL", lambda *args, libc=libc, **kwargs: libc)
        assert run_files.punch_hole(path, 5 << 32, 4096)
        assert calls.pop() == (name, 3, 5 << 32, 4096)


async def test_a_stop_while_going_back_to_a_run_waits_for_it(tmp_path, monkeypatch):
    fetch_three_at_once(monkeypatch)
    maker = ChainMaker(seed=4, scripts=9)
    fork = maker.grow(maker.genesis_hash, 10)
    old, new = maker.chain(maker.grow(fork, 30)), maker.chain(maker.grow(fork, 31))
    going_back, may_go_back = threading.Event(), threading.Event()
    go_back = Workspace.go_back

    def slowly(self, runs):
        going_back.set()
        may_go_back.wait(120)
        go_back(self, runs)

    monkeypatch.setattr(Workspace, "go_back", slowly)
    env = make_env(tmp_path, reorg_limit=5)
    daemon = GatedDaemon(old, 35)
    async with World(env, daemon) as world:
        await world.until(
            lambda: world.bp.bulk_sync.progress and world.bp.bulk_sync.progress.height >= 30
        )
        daemon.set_chain(new)
        daemon.opened.set()
        await world.until(going_back.is_set)
        # While the server is being stopped.
        asyncio.get_running_loop().call_later(0.2, may_go_back.set)
    # The runs have blocks of the node's chain only: none was written on top of a run below it.
    found = load(tmp_path / "bulk_sync")
    assert found.height <= 10
    assert all(run.tip == double_sha256(new[run.height][:80]).hex() for run in found.runs)


async def test_a_stop_does_not_write_a_chunk_with_half_a_block(tmp_path, monkeypatch):
    maker = ChainMaker(seed=6, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    fetch_three_at_once(monkeypatch)
    adding, may_fail = threading.Event(), threading.Event()
    add = Scan.add

    def half(self, part, floor):
        if self.height < 20:
            return add(self, part, floor)
        # The first outputs of a block are there when there is no memory for others.
        adding.set()
        may_fail.wait(120)
        self.chunk.add_history(bytes(11), self.tx_count)
        raise MemoryError

    env = make_env(tmp_path, reorg_limit=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scan, "add", half)
        async with World(env, ScriptedDaemon(chain)) as world:
            await world.until(adding.is_set)
            # While the server is being stopped.
            asyncio.get_running_loop().call_later(0.2, may_fail.set)
    await sync(env, ScriptedDaemon(chain))
    assert bytes(11) not in (await contents(env))["history"]
    await _assert_is_chain(env, maker, chain)


async def test_a_disk_that_is_full_at_a_shutdown_ends_it_with_the_error(tmp_path, monkeypatch):
    maker = ChainMaker(seed=6, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    env = make_env(tmp_path, reorg_limit=5)
    # Blocks 33 to 35 come together, and wait in memory.
    daemon = GatedDaemon(chain, 36)
    fetch_three_at_once(monkeypatch)

    async def stop_when_the_disk_is_full(patch):
        async with World(env, daemon) as world:
            await world.until(
                lambda: world.bp.bulk_sync.progress and world.bp.bulk_sync.progress.height >= 33
            )
            fail_write(patch, RunFile, "append", 1)

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(DBError, match="the disk is full: make room"),
    ):
        await stop_when_the_disk_is_full(patch)
    await sync(env, ScriptedDaemon(chain))
    await _assert_is_chain(env, maker, chain)


@pytest.mark.parametrize("engine", ENGINES)
async def test_stores_do_not_replace_those_that_another_server_has_filled(tmp_path, caplog, engine):
    require_engine(engine)
    caplog.set_level(logging.WARNING)
    maker = ChainMaker(seed=6, scripts=9)
    tip = maker.grow(maker.genesis_hash, 40)
    chain, longer = maker.chain(tip), maker.chain(maker.grow(tip, 10))
    env = make_env(tmp_path, engine=engine, reorg_limit=5)

    def stop(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    # The server ends when the stores are complete, before it exchanges them.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "move_stores", stop)
        with pytest.raises(DBError, match="the disk is full: make room"):
            await sync(env, ScriptedDaemon(chain))
    assert load(tmp_path / "bulk_sync").phase == "swap"
    # A version that knows nothing of bulk syncs takes the database for empty, and fills it.
    folder = (tmp_path / "bulk_sync").rename(tmp_path / "unknown")
    other_env = make_env(tmp_path, engine=engine, reorg_limit=5, bulk_sync="off")
    await sync(other_env, ScriptedDaemon(longer))
    folder.rename(tmp_path / "bulk_sync")
    db = DB(env)
    await db.open_for_sync()
    height = db.db_height
    db.close_dbs()
    assert height == 50
    assert "removing the unfinished bulk sync" in caplog.text
    assert not (tmp_path / "bulk_sync").exists()
    await _assert_is_chain(env, maker, longer)


async def test_stores_are_not_exchanged_under_a_process_that_has_them_open(tmp_path):
    maker = ChainMaker(seed=6, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    env = make_env(tmp_path, reorg_limit=5)

    def stop(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "move_stores", stop)
        with pytest.raises(DBError, match="the disk is full: make room"):
            await sync(env, ScriptedDaemon(chain))
    db = DB(env)
    # The server that runs; a tool that is started beside it is refused before it moves anything.
    running = db.stores.engine(str(tmp_path / "utxo"), True)
    try:
        with pytest.raises(DBError):
            await db.open_for_compacting()
        assert (tmp_path / "bulk_sync" / "utxo").exists()
        assert (tmp_path / "bulk_sync" / "hist").exists()
    finally:
        running.close()
    await sync(env, ScriptedDaemon(chain))
    await _assert_is_chain(env, maker, chain)


async def test_history_that_another_server_has_cleared_is_not_joined_with_the_utxos(tmp_path):
    maker = ChainMaker(seed=6, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    env = make_env(tmp_path, reorg_limit=5)

    def stop(self):
        # As a kill between the two stores.
        shutil.rmtree(tmp_path / "hist")
        (tmp_path / "bulk_sync" / "hist").rename(tmp_path / "hist")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "move_stores", stop)
        with pytest.raises(DBError, match="the disk is full: make room"):
            await sync(env, ScriptedDaemon(chain))
    # To a version that knows nothing of bulk syncs it is history of flushes that were cut off.
    folder = (tmp_path / "bulk_sync").rename(tmp_path / "unknown")
    db = DB(env)
    await db.open_for_sync()
    db.close_dbs()
    folder.rename(tmp_path / "bulk_sync")
    await sync(env, ScriptedDaemon(chain))
    await _assert_is_chain(env, maker, chain)


async def test_a_node_in_its_own_download_is_followed_to_its_end(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(BulkSync, "TARGET_MARGIN", 3)
    runs = count_runs(monkeypatch)
    maker = ChainMaker(seed=41, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    # It has fewer blocks than a bulk sync is worth.
    daemon = ScriptedDaemon(chain[:4])
    daemon.target = 60
    (tmp_path / "db").mkdir()
    env = make_env(tmp_path / "db", reorg_limit=12)
    async with World(env, daemon) as world:
        for height in range(4, 61, 7):
            await world.until(
                lambda: world.bp.bulk_sync.progress and not world.bp.bulk_sync.progress.height < 0
            )
            daemon.set_chain(chain[: height + 1])
            await world.until(lambda end=height: world.bp.bulk_sync.progress.height == end)
            assert world.bp.bulk_sync.progress.phase == "scan"
            assert not world.caught_up.is_set()
        daemon.set_chain(chain)
        daemon.target = None
        await world.until_at(chain)
        await world.until(lambda: world.bp.engine_compaction.done)
        # All of the last blocks can be undone, and no others.
        undo = [world.db.read_undo_info(height) is not None for height in range(61)]
    assert undo == [False] * 49 + [True] * 12
    assert "the daemon itself is synchronising" in caplog.text
    assert runs[-1] == 60
    (tmp_path / "other").mkdir()
    other = make_env(tmp_path / "other", reorg_limit=12, bulk_sync="off")
    await sync(other, ScriptedDaemon(chain))
    assert await contents(env) == await contents(other)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["hist", "utxo"])
async def test_a_kill_while_an_empty_store_is_removed_leaves_one_that_opens(
    tmp_path, monkeypatch, engine, name
):
    require_engine(engine)
    maker = ChainMaker(seed=42, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 30))
    (tmp_path / "db").mkdir()
    env = make_env(tmp_path / "db", reorg_limit=12, engine=engine)
    rmtree = shutil.rmtree

    def killed_halfway(path, **kwargs):
        path = Path(path)
        if path.name.startswith(name) and any(path.glob("MANIFEST*")):
            # The engine's CURRENT still names it.
            next(path.glob("MANIFEST*")).unlink()
            raise Killed
        rmtree(path, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed_halfway)
        with pytest.raises(Killed):
            await sync(env, ScriptedDaemon(chain))
    await sync(env, ScriptedDaemon(chain))
    assert (await contents(env))["state"][0] == 30


OPEN_IT = """
import sys
from electrumx.server.storage.base import db_class
from electrumx.server.storage.schema import DBError
try:
    db_class(sys.argv[1])(sys.argv[2], True).close()
except DBError as e:
    assert "another process holds it" in str(e), e
else:
    sys.exit("opened")
"""


@pytest.mark.parametrize("engine", ENGINES)
async def test_no_other_server_can_open_stores_that_are_exchanged(tmp_path, monkeypatch, engine):
    require_engine(engine)
    maker = ChainMaker(seed=42, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 30))
    (tmp_path / "db").mkdir()
    env = make_env(tmp_path / "db", reorg_limit=12, engine=engine)
    tried = []

    def open_elsewhere(name):
        if name in ("bulk: empty store removed", "bulk: store moved"):
            store = str(tmp_path / "db" / "utxo")
            if os.path.exists(store):
                tried.append(name)
                subprocess.run([sys.executable, "-c", OPEN_IT, engine, store], check=True)

    monkeypatch.setattr("electrumx.server.runs.workspace.fault_point", open_elsewhere)
    await sync(env, ScriptedDaemon(chain))
    # Beside the first store's removal and its move, and when the second one is in its place
    assert len(tried) == 3
    monkeypatch.undo()
    assert (await contents(env))["state"][0] == 30


async def test_a_header_requested_while_the_stores_are_exchanged_is_read_afterwards(
    tmp_path, monkeypatch
):
    """Clients are served during an initial sync, and know the new height before the stores are open."""
    maker = ChainMaker(seed=42, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 30))
    (tmp_path / "db").mkdir()
    env = make_env(tmp_path / "db", reorg_limit=12)
    loop = asyncio.get_running_loop()
    requests, databases = [], []
    run, read_tx_counts = BulkSyncTask.run, Stores.read_tx_counts

    async def noting_run(self, *args):
        databases.append(self._db)
        await run(self, *args)

    def request_header(self):
        read_tx_counts(self)
        if databases and self.state.height == 30:
            (db,) = databases
            is_entered, enter = threading.Event(), db.gate.enter

            def noting_enter():
                is_entered.set()
                enter()

            monkeypatch.setattr(db.gate, "enter", noting_enter)
            requests.append(asyncio.run_coroutine_threadsafe(db.raw_header(30), loop))
            assert is_entered.wait(60)

    monkeypatch.setattr(BulkSyncTask, "run", noting_run)
    monkeypatch.setattr(Stores, "read_tx_counts", request_header)
    await sync(env, ScriptedDaemon(chain))
    (request,) = requests
    assert await asyncio.wrap_future(request) == chain[30][:80]


async def test_stores_that_another_process_holds_are_not_exchanged(tmp_path, monkeypatch):
    maker = ChainMaker(seed=42, scripts=9)
    chain = maker.chain(maker.grow(maker.genesis_hash, 30))
    (tmp_path / "db").mkdir()
    env = make_env(tmp_path / "db", reorg_limit=12)
    module = next((name for name in ("plyvel", "plyvel_next") if find_spec(name)), None)
    require(module, "LevelDB is not installed")
    holder = (
        f"import {module}, sys; db = {module}.DB(sys.argv[1]); print('held', flush=True); "
        "sys.stdin.read()"
    )
    held = []
    move_stores = Workspace.move_stores

    def hold_first(self):
        if not held:
            held.append(
                subprocess.Popen(
                    [sys.executable, "-c", holder, str(tmp_path / "db" / "utxo")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            assert held[0].stdout.readline() == b"held\n"
        move_stores(self)

    monkeypatch.setattr(Workspace, "move_stores", hold_first)
    with pytest.raises(DBError, match="another process holds it, which must be stopped first"):
        await sync(env, ScriptedDaemon(chain))
    held[0].communicate()
    # The next start completes it.
    await sync(env, ScriptedDaemon(chain))
    assert (await contents(env))["state"][0] == 30


@pytest.mark.parametrize("seed", range(2))
async def test_a_node_that_downloads_stalls_and_reorganises_is_followed(
    tmp_path, monkeypatch, seed
):
    make_limits_small(monkeypatch)
    choose = random.Random(seed)
    maker = ChainMaker(seed=seed, scripts=9)
    tip = maker.grow(maker.genesis_hash, 12)
    daemon = ScriptedDaemon(maker.chain(tip))
    daemon.target = 60
    env = make_env(tmp_path / "db", reorg_limit=12)
    (tmp_path / "db").mkdir()
    async with World(env, daemon) as world:
        while len(daemon.raw) <= 60:
            step = choose.choice(["grow", "grow", "fork", "stall", "fail", "target"])
            if step == "fork":
                for _ in range(choose.randint(1, 9)):
                    tip = maker.blocks[tip][1]
                tip = maker.grow(tip, choose.randint(1, 12))
            elif step == "grow":
                tip = maker.grow(tip, choose.randint(1, 9))
            elif step == "fail":
                daemon.fail = "warming up"
            elif step == "target":
                daemon.target = choose.choice([60, 63, 70])
            daemon.set_chain(maker.chain(tip))
            for _ in range(choose.randint(0, 9)):
                await asyncio.sleep(0.003)
                assert not world.task.done()
            daemon.fail = None
        daemon.target = None
        await world.until(world.caught_up.is_set)
        await world.until_at(daemon.raw)
        await world.until(lambda: world.bp.engine_compaction.done)
        # The blocks of its end can be undone.
        for _ in range(5):
            tip = maker.blocks[tip][1]
        tip = maker.grow(tip, 6)
        daemon.set_chain(maker.chain(tip))
        await world.until_at(daemon.raw)
        await assert_equals_model(
            world.db, Model(daemon.raw), [hashX_of(script) for script in maker.draws.scripts]
        )


@pytest.mark.parametrize("bulk_sync", ["auto", "off"])
@pytest.mark.parametrize("indexer", ["python", "compiled"])
async def test_blocks_that_are_received_into_files_are_indexed_and_undone(
    tmp_path, monkeypatch, indexer, bulk_sync
):
    if indexer == "compiled":
        require(kernels.compiled_module(), "the compiled modules were not built")
    monkeypatch.setattr(RestConnection, "SPOOL_BYTES", 200)
    monkeypatch.setattr(Spool, "LEFT_FREE", 0)
    mapped = []
    write = Spool.write

    def counted(self, piece):
        body = write(self, piece)
        if body is not None:
            mapped.append(len(body))
        return body

    monkeypatch.setattr(Spool, "write", counted)
    maker = ChainMaker(seed=43, scripts=9)
    fork = maker.grow(maker.genesis_hash, 40)
    old, new = maker.grow(fork, 4), maker.grow(fork, 6)
    env = make_env(tmp_path, indexer=indexer, bulk_sync=bulk_sync, reorg_limit=9)
    async with (
        FakeNode(maker.chain(old)) as node,
        Daemon(COIN, node.url, spool_folder=str(tmp_path)) as daemon,
    ):
        node.rest = 10_000
        async with World(env, daemon) as world:
            await world.until_at(maker.chain(old))
            assert len(mapped) > 20
            node.fork(41, maker.chain(new)[41:])
            await daemon.height()
            await world.until_at(maker.chain(new))
            scripts = [hashX_of(script) for script in maker.draws.scripts]
            await assert_equals_model(world.db, Model(maker.chain(new)), scripts)
