"""A database goes back and forth between e-x (1.16 to 1.20) and this server, and stays right.

Both servers write the version 8 layout of ElectrumX 1.15.  Each opens what the other wrote, goes
on, reorganises and hands back; every row and flat file is compared where both indexed the same
chain.  Also: the leavings of each when it is killed at a bad instant.
"""

import ast
from collections import defaultdict

import pytest

from electrumx.server.db import DB
from electrumx.server.db import foreign_reorg_repair as recovery
from electrumx.server.runs.workspace import Workspace
from electrumx.server.storage.base import db_class
from electrumx.server.storage.schema import HIST_STATE_KEY, STATE_KEY
from tests.conftest import REPOSITORY
from tests.crash.harness import Zygote
from tests.crash.peer import CASES, NEWEST, REORG_LIMIT, Peer, assert_answers
from tests.crash.stories import anchor, story
from tests.fakes.bulk import make_limits_small
from tests.fakes.chain import ChainMaker, Model, hashX_of
from tests.fakes.fake_node import FakeNode
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env

pytestmark = pytest.mark.timeout(600)


def peer_of(version, engine):
    if engine == "rocksdb":
        pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")
    return Peer(version, engine)


@pytest.fixture(params=CASES, ids="-".join)
def peer(request):
    return peer_of(*request.param)


@pytest.fixture(params=[case for case in CASES if case[0] == NEWEST], ids="-".join)
def newest_peer(request):
    return peer_of(*request.param)


class Chains:
    """A chain, its continuation, and a branch that replaces its end."""

    def __init__(self, seed=5):
        maker = ChainMaker(seed=seed)
        self.maker = maker
        fork = maker.grow(anchor(maker), 29)
        self.fork = fork
        self.old = maker.grow(fork, 5)
        self.new = maker.grow(fork, 7)
        self.newer = maker.grow(self.new, 3)
        self.old_again = maker.grow(self.old, 8)
        self.hashXs = [hashX_of(script) for script in maker.draws.scripts]

    def raw(self, tip):
        return self.maker.chain(tip)

    def model(self, tip):
        return Model(self.raw(tip))


@pytest.fixture
def chains():
    return Chains()


@pytest.fixture
async def node():
    async with FakeNode() as node:
        yield node


def set_chain(node, raw_blocks):
    """Make the node's chain this one; its former blocks stay known by hash."""
    same = 0
    for old, new in zip(node.blocks, raw_blocks, strict=False):
        if old != new:
            break
        same += 1
    node.fork(same, raw_blocks[same:])


def env_of(db_dir, engine):
    return make_env(db_dir, engine=engine, reorg_limit=REORG_LIMIT)


async def run_ours(db_dir, engine, chains, *tips):
    """Index the chains of some tips, one after another, and compare the answers of each."""
    daemon = ScriptedDaemon()
    for tip in (chains.old, chains.new, tips[0]):
        daemon.set_chain(chains.raw(tip))
    async with World(env_of(db_dir, engine), daemon) as world:
        for tip in tips:
            daemon.set_chain(chains.raw(tip))
            await world.until_at(chains.raw(tip))
            await assert_equals_model(world.db, chains.model(tip), chains.hashXs)


async def run_peer(peer, db_dir, node, chains, tip):
    """The same by the peer."""
    set_chain(node, chains.raw(tip))
    answers = await peer.run(db_dir, node, tip, chains.hashXs)
    assert_answers(answers, chains.model(tip), chains.hashXs)


class Rows:
    """All that a closed database holds, apart from when it was flushed."""

    def __init__(self, db_dir, engine):
        utxo = db_class(engine)(str(db_dir / "utxo"), False)
        self.utxo = dict(utxo.iterator())
        utxo.close()
        hist = db_class(engine)(str(db_dir / "hist"), False)
        rows = dict(hist.iterator())
        hist.close()
        self.state = ast.literal_eval(self.utxo.pop(STATE_KEY).decode())
        self.hist_state = ast.literal_eval(rows.pop(HIST_STATE_KEY).decode())
        self.history = defaultdict(bytes)
        for key, row in rows.items():
            self.history[key[:-2]] += row
        self.undo = {key: row for key, row in self.utxo.items() if key[:1] == b"U"}
        self.coins = {key: row for key, row in self.utxo.items() if key[:1] in (b"u", b"h")}
        meta = db_dir / "meta"
        self.files = {path.name: path.read_bytes() for path in meta.iterdir()}

    def committed_files(self):
        """The flat files up to the committed height, and the raw blocks of the undo window."""
        height, txs = self.state["height"], self.state["tx_count"]
        sizes = {"headers00": 80 * (height + 1), "txcounts00": 8 * (height + 1)}
        sizes["hashes0000"] = 32 * txs
        first = height - REORG_LIMIT + 1
        wanted = {f"block{h}": None for h in range(max(0, first), height + 1)}
        return {name: self.files[name][:size] for name, size in {**sizes, **wanted}.items()}

    def window(self):
        """The undo rows of the window."""
        height = self.state["height"]
        first = max(0, height - REORG_LIMIT + 1)
        heights = range(first, height + 1)
        return {h: self.undo[b"U" + h.to_bytes(4, "big")] for h in heights}


def assert_same_database(ours, theirs):
    """Compare two databases over one chain, row by row and file by file."""
    assert len(ours.coins) > 50
    assert len(ours.utxo) == len(ours.coins) + len(ours.undo)
    assert ours.coins == theirs.coins
    assert ours.window() == theirs.window()
    assert ours.history == theirs.history
    assert ours.committed_files() == theirs.committed_files()
    assert list(ours.state) == list(theirs.state)
    for key in ("genesis", "height", "tx_count", "tip", "first_sync", "db_version"):
        assert ours.state[key] == theirs.state[key]
    assert list(ours.hist_state) == list(theirs.hist_state)
    for rows in (ours, theirs):
        assert rows.state["utxo_flush_count"] == rows.hist_state["flush_count"]


async def test_both_servers_write_the_same_database(peer, tmp_path, chains, node):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    await run_ours(ours, peer.engine, chains, chains.old)
    await run_peer(peer, theirs, node, chains, chains.old)
    assert_same_database(Rows(ours, peer.engine), Rows(theirs, peer.engine))
    await run_ours(ours, peer.engine, chains, chains.newer)
    await run_peer(peer, theirs, node, chains, chains.newer)
    assert_same_database(Rows(ours, peer.engine), Rows(theirs, peer.engine))


async def test_their_database_is_taken_over_reorganised_and_handed_back(
    peer, tmp_path, chains, node
):
    shared, fresh = tmp_path / "shared", tmp_path / "fresh"
    shared.mkdir()
    fresh.mkdir()
    await run_peer(peer, shared, node, chains, chains.fork)
    await run_ours(shared, peer.engine, chains, chains.old, chains.new)
    await run_peer(peer, shared, node, chains, chains.newer)
    await run_peer(peer, shared, node, chains, chains.old_again)
    await run_ours(shared, peer.engine, chains, chains.old_again)
    await run_ours(fresh, peer.engine, chains, chains.old_again)
    assert_same_database(Rows(fresh, peer.engine), Rows(shared, peer.engine))


async def test_our_database_is_taken_over_reorganised_and_handed_back(peer, tmp_path, chains, node):
    shared, fresh = tmp_path / "shared", tmp_path / "fresh"
    shared.mkdir()
    fresh.mkdir()
    await run_ours(shared, peer.engine, chains, chains.old)
    if peer.engine == "rocksdb":
        # Their library is older than ours: it must read not only the log but tables, too.
        for store in ("utxo", "hist"):
            assert list((shared / store).glob("*.sst"))
    await run_peer(peer, shared, node, chains, chains.new)
    await run_ours(shared, peer.engine, chains, chains.newer, chains.old_again)
    await run_peer(peer, shared, node, chains, chains.old_again)
    await run_peer(peer, fresh, node, chains, chains.old_again)
    assert_same_database(Rows(shared, peer.engine), Rows(fresh, peer.engine))


async def test_what_a_bulk_sync_made_is_the_same_and_is_taken_over(
    peer, tmp_path, chains, node, monkeypatch
):
    make_limits_small(monkeypatch)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    exchanged = []
    move_stores = Workspace.move_stores
    monkeypatch.setattr(
        Workspace, "move_stores", lambda self: (exchanged.append(self), move_stores(self))
    )
    await run_ours(ours, peer.engine, chains, chains.old)
    assert exchanged
    await run_peer(peer, theirs, node, chains, chains.old)
    assert_same_database(Rows(ours, peer.engine), Rows(theirs, peer.engine))
    # The first thing to come is a reorganisation, of blocks that the bulk sync indexed.
    await run_peer(peer, ours, node, chains, chains.newer)
    await run_ours(ours, peer.engine, chains, chains.old_again)
    await run_peer(peer, ours, node, chains, chains.old_again)
    await run_peer(peer, theirs, node, chains, chains.old_again)
    assert_same_database(Rows(ours, peer.engine), Rows(theirs, peer.engine))


# -- their kill


@pytest.mark.parametrize("blocks", ["kept", "missing", "of another branch"])
async def test_history_that_they_cut_and_died_is_put_back(
    newest_peer, tmp_path, chains, node, blocks
):
    peer = newest_peer
    await run_peer(peer, tmp_path, node, chains, chains.old)
    whole = Rows(tmp_path, peer.engine)
    set_chain(node, chains.raw(chains.new))
    await peer.run(tmp_path, node, chains.new, kill_in_backup=True)
    cut = Rows(tmp_path, peer.engine)
    assert cut.state["height"] == 35
    assert cut.hist_state["flush_count"] == cut.state["utxo_flush_count"] + 1
    assert cut.history != whole.history
    for height in (33, 34):
        path = tmp_path / "meta" / f"block{height}"
        if blocks == "missing":
            path.unlink()
        elif blocks == "of another branch":
            path.write_bytes(chains.raw(chains.new)[height])
    # The node is back on its old branch: these blocks are not undone any more.
    await run_ours(tmp_path, peer.engine, chains, chains.old)
    assert Rows(tmp_path, peer.engine).history == whole.history
    await run_ours(tmp_path, peer.engine, chains, chains.new, chains.old_again)


async def test_history_that_they_cut_is_put_back_before_the_other_branch_is_taken(
    peer, tmp_path, chains, node
):
    await run_peer(peer, tmp_path, node, chains, chains.old)
    set_chain(node, chains.raw(chains.new))
    await peer.run(tmp_path, node, chains.new, kill_in_backup=True)
    await run_ours(tmp_path, peer.engine, chains, chains.new)
    await run_peer(peer, tmp_path, node, chains, chains.old_again)


async def test_without_our_repair_their_cut_would_stay(tmp_path, chains, node, monkeypatch):
    peer = Peer(NEWEST, "leveldb")
    await run_peer(peer, tmp_path, node, chains, chains.old)
    whole = Rows(tmp_path, peer.engine)
    set_chain(node, chains.raw(chains.new))
    await peer.run(tmp_path, node, chains.new, kill_in_backup=True)
    monkeypatch.setattr(recovery, "looks_cut", lambda *_args: False)
    db = DB(env_of(tmp_path, peer.engine))
    await db.open_for_sync()
    db.close_dbs()
    assert Rows(tmp_path, peer.engine).history != whole.history


# -- our kill


@pytest.fixture(scope="module")
def zygote():
    assert REPOSITORY.is_dir()
    with Zygote() as zygote:
        yield zygote


@pytest.mark.parametrize("branch", ["old", "new"])
@pytest.mark.parametrize(
    "point",
    [
        "reorg: state announces staging",
        "reorg: history staged",
        "reorg: UTXOs written",
        "reorg: staged history dropped",
    ],
)
async def test_they_open_what_our_kill_in_a_reorganisation_left(
    newest_peer, tmp_path, node, zygote, point, branch
):
    peer = newest_peer
    seed = 40
    the_story = story(seed)
    db_dir = tmp_path / "db"
    db_dir.mkdir()
    spec = {
        "dir": str(db_dir),
        "engine": peer.engine,
        "seed": seed,
        "path": list(range(the_story.before_reorg + 2)),
        "kill_point": point,
        "kill_at": 1,
        "reorg_limit": REORG_LIMIT,
    }
    answer = zygote.run("follow", spec)
    assert answer["status"] == -9, answer["errors"]
    index = the_story.before_reorg if branch == "old" else the_story.before_reorg + 1
    tip = the_story.targets[index]
    raws = the_story.chain(tip)
    set_chain(node, the_story.chain(the_story.targets[the_story.before_reorg]))
    set_chain(node, raws)
    answers = await peer.run(db_dir, node, tip, the_story.scripts)
    assert_answers(answers, Model(raws), the_story.scripts)
