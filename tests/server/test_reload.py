"""A reload is prepared by all parts before any of them changes; a failure undoes the preparation."""

import asyncio
import logging
from contextlib import contextmanager

import pytest

from electrumx.lib.errors import OperatorError
from electrumx.server.env import Env
from electrumx.server.reload import RELOADABLE, LogLevel, NodeList, Reloader
from electrumx.server.setting_hints import KNOWN
from electrumx.server.settings import Settings


class Part:
    """A part that records its calls; ``fails`` is the reason to refuse a change."""

    def __init__(self, log, name, fails=None):
        self.log, self.name, self.fails = log, name, fails

    async def prepare(self, env):
        self.log.append(("prepare", self.name))
        if self.fails:
            raise OperatorError(self.fails)
        self.env = env
        return self

    def commit(self):
        self.log.append(("commit", self.name, self.env.donation_address))

    def abandon(self):
        self.log.append(("abandon", self.name))


@pytest.fixture
def path(bare_environment, tmp_path):
    result = tmp_path / "electrumx.conf"
    write(result)
    return result


def write(path, **settings):
    values = {"COIN": "Bitcoin", "DAEMON_URL": "u:p@h:1", "DB_DIRECTORY": "/db", "CACHE_MB": "20"}
    draft = path.with_suffix(".new")
    draft.write_text("".join(f"{name}={value}\n" for name, value in (values | settings).items()))
    draft.chmod(0o640)
    # A reload may be reading it.
    draft.replace(path)


@pytest.fixture
def events():
    return []


@pytest.fixture
def reloader(path, events):
    parts = [Part(events, "a"), Part(events, "b")]
    return Reloader(Settings.read(str(path), {"MAX_SEND": "400000"}), parts)


def test_the_settings_that_can_be_reloaded_exist():
    assert set(KNOWN) > RELOADABLE


async def test_all_parts_prepare_before_one_commits(reloader, path, events):
    write(path, DONATION_ADDRESS="x")

    assert await reloader.reload() == [f"reloaded {path}: changed DONATION_ADDRESS"]
    assert events == [
        ("prepare", "a"),
        ("prepare", "b"),
        ("commit", "a", "x"),
        ("commit", "b", "x"),
    ]


async def test_a_part_that_refuses_leaves_all_as_they_were(reloader, path, events, caplog):
    reloader.parts[1].fails = "the port is taken"
    write(path, DONATION_ADDRESS="x")

    with pytest.raises(OperatorError, match="the port is taken"):
        await reloader.reload()

    assert events == [("prepare", "a"), ("prepare", "b"), ("abandon", "a")]
    assert "reload refused, nothing was changed: the port is taken" in caplog.messages
    # The change is still to be made.
    reloader.parts[1].fails = None
    assert await reloader.reload() == [f"reloaded {path}: changed DONATION_ADDRESS"]


@pytest.mark.parametrize("bad", [{"MAX_RECV": "x"}, {"COIN": "Nocoin"}, {"CACHE_MB": "-1"}])
async def test_a_wrong_file_reaches_no_part(reloader, path, events, bad):
    write(path, DONATION_ADDRESS="x", **bad)

    with pytest.raises(OperatorError):
        await reloader.reload()
    assert events == []


async def test_a_setting_that_needs_a_restart_keeps_its_value_and_is_named_until_then(
    reloader, path
):
    for _ in range(2):
        write(path, CACHE_MB="30", REORG_LIMIT="7", DONATION_ADDRESS="x")
        lines = await reloader.reload()
        assert lines[1:] == ["changed only by a restart: CACHE_MB, REORG_LIMIT"]
        env = reloader.parts[0].env
        assert (env.cache_MB, env.reorg_limit) == (20, 200)
    write(path, DONATION_ADDRESS="x")
    assert await reloader.reload() == [f"reloaded {path}: no change"]


async def test_a_removed_setting_has_its_default_again(reloader, path):
    write(path, SESSION_TIMEOUT="5")
    await reloader.reload()
    assert reloader.parts[0].env.session_timeout == 5
    write(path)
    await reloader.reload()
    assert reloader.parts[0].env.session_timeout == 600


async def test_the_environment_is_not_read_again_and_wins(reloader, path, monkeypatch):
    monkeypatch.setenv("DONATION_ADDRESS", "of the environment")
    write(path, MAX_SEND="500000")

    assert await reloader.reload() == [f"reloaded {path}: no change"]
    assert reloader.parts[0].env.max_send == 400_000


async def test_the_log_level_changes(reloader, path):
    reloader.parts = [LogLevel()]
    write(path, LOG_LEVEL="error")
    await reloader.reload()
    assert logging.getLogger("electrumx").level == logging.ERROR


class FakeDaemon:
    """Records the lists of nodes it is given."""

    def __init__(self):
        self.lists = []

    def set_url(self, url, login_files):
        self.lists.append((url, login_files.cookies))


async def test_nodes_are_replaced_only_if_they_change(reloader, path, bare_environment):
    daemon = FakeDaemon()
    for name, value in Settings.read(str(path), {}).variables.items():
        bare_environment.setenv(name, value)
    reloader.parts = [NodeList(daemon, Env())]
    write(path, DONATION_ADDRESS="x")
    await reloader.reload()
    assert daemon.lists == []
    write(path, DAEMON_URL="h:2", DAEMON_COOKIE_FILE="/c")
    await reloader.reload()
    assert daemon.lists == [("h:2", ["/c"])]
    write(path, DAEMON_URL="h:2")
    with pytest.raises(OperatorError, match="user:password@ is missing"):
        await reloader.reload()
    assert len(daemon.lists) == 1


async def test_reloads_one_after_the_other_are_reported_as_such(path, events):
    """systemd takes a report for the answer to a signal if it is later than the signal."""

    @contextmanager
    def reloading():
        events.append("reloading")
        yield
        events.append("ready")

    settings = Settings.read(str(path), {"MAX_SEND": "400000"})
    reloader = Reloader(settings, [Part(events, "a")], reloading)
    first = asyncio.create_task(reloader.reload())
    while not events:
        await asyncio.sleep(0)
    write(path, DONATION_ADDRESS="x")
    second = asyncio.create_task(reloader.reload())
    await asyncio.gather(first, second)

    reports = [event for event in events if isinstance(event, str)]
    assert reports == ["reloading", "ready"] * 2
    assert events[-1] == "ready"
