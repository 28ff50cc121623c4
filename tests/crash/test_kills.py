"""SIGKILL at every named instant and at random ones: nothing that was committed is lost."""

import os
import random
import shutil

import pytest

from electrumx.server.runtime import fault_points as faults
from tests.crash.harness import Campaign, Kill, Stats, Zygote
from tests.crash.stories import REORG_LIMIT

ENGINES = ["leveldb", "rocksdb"]
#: seconds that an undisturbed run takes, about; random kills fall in here
RUN_SECS = 0.35
#: how often the nightly run repeats what the short one does, with other seeds
SOAK_ROUNDS = int(os.environ.get("SOAK_ROUNDS", "18"))
#: kills at random instants of bulk syncs in the nightly run, for each engine
BULK_KILLS = int(os.environ.get("BULK_KILLS", "300"))

#: instants of an opening that only another kill, or other settings, bring about
NEEDS = {
    "open: excess history deleted": Kill("flush: history written", 2),
    "open: flush count lowered": Kill("reorg: state announces staging"),
    "open: undo rows pruned": Kill("caught up: flushed", reorg_limit=2 * REORG_LIMIT),
}
#: instants that only coins with headers of different lengths have
VARIABLE_HEADERS = {"flush: header offsets written"}
#: instants of opening a database that another server left, and its state
LEFT = {
    "open: cut history restored": "cut_history",
    "open: compaction forgotten": "compaction_under_way",
    "open: flush count raised": "compaction_above_the_count",
    "open: flush count raised over a compaction's rows": "compaction_without_its_last_write",
}
OFFLINE = "compaction: batch of prefixes written"


def group(name):
    return name.split(":")[0]


COMPACTION = [name for name in faults.NAMES if group(name) == "compaction"]
BULK = [name for name in faults.NAMES if group(name) == "bulk"]
#: how often a bulk sync of a story passes those of its instants that it passes more than once
BULK_PASSINGS = {
    "bulk: run files synced": 10,
    "bulk: manifest written": 10,
    "bulk: manifest renamed": 10,
    "bulk: history written": 3,
    "bulk: outputs or spends written": 6,
    "bulk: run ended": 2,
    "bulk: phase entered": 4,
    "bulk: rows written": 7,
    "bulk: joined records written": 4,
    "bulk: rows durable": 4,
}
UPGRADE = [name for name in faults.NAMES if group(name) == "upgrade"]
#: instants that an undisturbed server passes
ORDINARY = [
    name
    for name in faults.NAMES
    if name not in {*VARIABLE_HEADERS, *LEFT, *COMPACTION, *BULK, *UPGRADE}
]


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as zygote:
        yield zygote


def kills_at_named_instants(choose):
    """One kill at each instant, in random order, at an early or a late passing."""
    kills = []
    for name in ORDINARY:
        if name in NEEDS:
            kills.append(Kill(name, after_kill=NEEDS[name]))
        elif group(name) in ("open", "caught up"):
            kills.append(Kill(name))
        else:
            kills.append(Kill(name, choose.choice([1, 1, 2, 3])))
    choose.shuffle(kills)
    return kills


def random_kills(choose, count, run_secs=RUN_SECS):
    return [Kill(after=choose.uniform(0, run_secs)) for _ in range(count)]


def one_round(zygote, folder, engine, seed, count_random):
    """Kills at every named instant and at random, a few on each database; the statistics."""
    choose = random.Random(f"{engine} {seed}")
    kills = kills_at_named_instants(choose) + random_kills(choose, count_random)
    total = Stats()
    for number in range(0, len(kills), 5):
        place = folder / f"{seed}-{number}"
        place.mkdir()
        campaign = Campaign(zygote, place, engine=engine, seed=seed + number)
        stats = campaign.run(kills[number : number + 5])
        total.kills += stats.kills
        total.kills_in_recovery += stats.kills_in_recovery
        total.audits += stats.audits
        total.by_point.update(stats.by_point)
    return total


def require_engine(engine):
    if engine == "rocksdb":
        pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")


@pytest.mark.parametrize("engine", ENGINES)
def test_kills_at_every_instant_and_at_random_lose_nothing(zygote, tmp_path, engine):
    require_engine(engine)
    total = one_round(zygote, tmp_path, engine, seed=100, count_random=10)
    assert set(ORDINARY) - set(total.by_point) == set()
    assert total.kills >= 30


def test_kills_while_header_offsets_are_written_lose_nothing(zygote, tmp_path):
    campaign = Campaign(zygote, tmp_path, engine="leveldb", seed=7, variable_headers=True)
    kills = [
        Kill("flush: header offsets written"),
        Kill("flush: header offsets written", 3),
        Kill("flush: headers written", 2),
    ]
    stats = campaign.run(kills)
    assert stats.by_point["flush: header offsets written"] == 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("point", [name for name in faults.NAMES if group(name) == "reorg"])
def test_a_kill_while_undoing_blocks_and_the_node_back_on_its_old_branch_loses_nothing(
    zygote, tmp_path, engine, point
):
    require_engine(engine)
    for chunk in (1, 2):
        place = tmp_path / str(chunk)
        place.mkdir()
        campaign = Campaign(zygote, place, engine=engine, seed=40)
        campaign.kill_once(Kill(point, chunk))
        assert campaign.reached == campaign.story.before_reorg + 1
        campaign.reached = campaign.story.before_reorg
        campaign.inspect()
        campaign.finish()


def kills_in_a_bulk_sync(choose, rounds):
    """Kills at each of its instants, at early and late passings, in random order."""
    kills = []
    for name in BULK:
        most = BULK_PASSINGS.get(name, 1)
        kills += [Kill(name, choose.randint(1, most)) for _ in range(rounds)]
    choose.shuffle(kills)
    return kills


def bulk_round(zygote, folder, engine, seed, rounds, count_random):
    """Kill bulk syncs, a few times each; the statistics."""
    choose = random.Random(f"bulk {engine} {seed}")
    kills = kills_in_a_bulk_sync(choose, rounds) + random_kills(choose, count_random)
    total = Stats()
    for number in range(0, len(kills), 4):
        place = folder / f"bulk-{seed}-{number}"
        place.mkdir()
        campaign = Campaign(zygote, place, engine=engine, seed=seed + number, bulk=True)
        stats = campaign.run(kills[number : number + 4])
        total.kills += stats.kills
        total.kills_in_recovery += stats.kills_in_recovery
        total.by_point.update(stats.by_point)
    return total


@pytest.mark.parametrize("engine", ENGINES)
def test_kills_during_a_bulk_sync_lose_nothing_that_is_complete(zygote, tmp_path, engine):
    require_engine(engine)
    total = bulk_round(zygote, tmp_path, engine, seed=200, rounds=1, count_random=4)
    assert set(BULK) - set(total.by_point) == set()


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_hundreds_of_kills_during_bulk_syncs_lose_nothing(zygote, tmp_path, engine, capsys):
    require_engine(engine)
    total = bulk_round(zygote, tmp_path, engine, seed=3000, rounds=10, count_random=40)
    with capsys.disabled():
        print(f"\nbulk sync, {engine}: {total.kills} kills, {dict(total.by_point)}")
    assert total.kills >= 150


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_hundreds_of_kills_at_random_instants_of_bulk_syncs_lose_nothing(
    zygote, tmp_path, engine, capsys
):
    require_engine(engine)
    choose = random.Random(f"random instants {engine}")
    kills = in_bulk = in_recovery = campaigns = 0
    while in_bulk < BULK_KILLS:
        place = tmp_path / str(campaigns)
        place.mkdir()
        more = {"bulk": True, "commit": choose.choice([0, 6_000])}
        campaign = Campaign(zygote, place, engine=engine, seed=5000 + campaigns, **more)
        # Measured each time, as the machine is not equally fast all the time.
        stats = campaign.run(random_kills(choose, 5, campaign.bulk_secs()))
        kills += stats.kills
        in_bulk += stats.random_in_bulk
        in_recovery += stats.kills_in_recovery
        campaigns += 1
        assert campaigns <= BULK_KILLS
        shutil.rmtree(place)
    with capsys.disabled():
        print(
            f"\nbulk sync, {engine}: {in_bulk} random kills in it ({kills} in all, {in_recovery} of"
        )
        print(f"them while opening after a kill) in {campaigns} databases")


@pytest.mark.parametrize("engine", ENGINES)
def test_kills_while_compacting_in_the_background_lose_nothing(zygote, tmp_path, engine):
    require_engine(engine)
    campaign = Campaign(zygote, tmp_path, engine=engine, seed=50, compact=True)
    online = [name for name in COMPACTION if name != OFFLINE]
    slices = [Kill("compaction: slice written", at) for at in (1, 2, 4)]
    stats = campaign.run([*slices, *map(Kill, online)])
    assert set(online) <= set(stats.by_point)


@pytest.mark.parametrize("engine", ENGINES)
def test_kills_of_the_compaction_tool_lose_nothing(zygote, tmp_path, engine):
    require_engine(engine)
    offline = [name for name in COMPACTION if name != "compaction: slice written"]
    for resumed in (True, False):
        for number, name in enumerate(offline):
            place = tmp_path / f"{resumed}-{number}"
            place.mkdir()
            campaign = Campaign(zygote, place, engine=engine, seed=51)
            campaign.sync(campaign.story.before_reorg)
            assert campaign.job("compact", Kill(name, 2 if name == OFFLINE else 1))
            if resumed:
                campaign.job("compact")
            campaign.inspect()
            campaign.finish()


@pytest.mark.parametrize(
    ("version", "engine"),
    [("version_6", "leveldb"), ("version_7", "leveldb"), ("version_7", "rocksdb")],
)
def test_kills_while_upgrading_lose_nothing(zygote, tmp_path, version, engine):
    require_engine(engine)
    for number, name in enumerate(UPGRADE):
        place = tmp_path / str(number)
        place.mkdir()
        campaign = Campaign(zygote, place, engine=engine, seed=52)
        campaign.sync(campaign.story.before_reorg)
        campaign.job("leave", leaving=version)
        assert campaign.job("follow", Kill(name, 1), path=[campaign.reached])
        # Later steps, and the same ones again, may be cut short as well.
        campaign.job("follow", Kill("upgrade: history rows written"), path=[campaign.reached])
        campaign.inspect()
        # The first thing to come is a reorganisation, which needs the converted undo rows.
        campaign.finish()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("point", LEFT)
def test_kills_while_repairing_the_database_of_another_server_lose_nothing(
    zygote, tmp_path, engine, point
):
    require_engine(engine)
    campaign = Campaign(zygote, tmp_path, engine=engine, seed=53)
    campaign.sync(campaign.story.before_reorg)
    campaign.job("leave", leaving=LEFT[point])
    assert campaign.job("follow", Kill(point), path=[campaign.reached])
    campaign.inspect()
    campaign.finish()


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_a_night_of_kills_loses_nothing(zygote, tmp_path, engine, capsys):
    require_engine(engine)
    total = Stats()
    for number in range(SOAK_ROUNDS):
        stats = one_round(zygote, tmp_path, engine, 1000 * (number + 1), count_random=12)
        total.kills += stats.kills
        total.kills_in_recovery += stats.kills_in_recovery
        total.audits += stats.audits
        total.by_point.update(stats.by_point)
    with capsys.disabled():
        print(f"\n{engine}: {total.kills} kills ({total.kills_in_recovery} while opening after a")
        print(f"kill), {total.audits} audits; {dict(total.by_point)}")
    assert total.kills >= 500
