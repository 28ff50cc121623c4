"""The operator's commands about the database: their arguments, replies and refusals."""

import asyncio
import json
import os

import pytest

from electrumx.cli import rpc
from electrumx.server.db import DBError
from electrumx.server.maintenance.snapshot import BackupError, BackupReport
from electrumx.server.maintenance.verify import Verdict
from electrumx.server.session.admin import commands as admin
from tests.fakes.session_world import session_world


@pytest.fixture
async def world():
    async with session_world() as world:
        world.bp.caught_up = True
        world.bp.state_lock = asyncio.Lock()
        world.db.logger = world.manager.logger
        yield world


async def run(world, capsys, *args):
    """Run electrumx_rpc in a thread; return (exit status, its output)."""
    argv = ["-p", str(world.port("rpc")), *args]
    status = await asyncio.to_thread(rpc.main, argv)
    return status, capsys.readouterr().out


@pytest.mark.parametrize(("sound", "status"), [(True, 0), (False, 1)])
async def test_the_verdict_is_printed_and_decides_on_the_exit_status(
    world, capsys, monkeypatch, sound, status
):
    asked = []

    async def verdict(db, *, deep, lock, daemon, logger, rest):
        asked.append((db, deep, lock, daemon, rest))
        return Verdict(sound, ["one", "verdict: two"])

    monkeypatch.setattr(admin, "verify", verdict)
    assert await run(world, capsys, "verify") == (status, "one\nverdict: two\n")
    assert await run(world, capsys, "verify", "--deep") == (status, "one\nverdict: two\n")
    found = await run(world, capsys, "--json", "verify")
    assert (found[0], json.loads(found[1])["sound"]) == (status, sound)
    [shallow, deep, _json] = asked
    assert shallow == (world.db, False, world.bp.state_lock, world.daemon, 1.0)
    assert deep[1] is True


async def test_a_backup_goes_to_a_path_of_the_operators(world, capsys, monkeypatch, tmp_path):
    paths = []

    async def backed_up(_db, _lock, path):
        paths.append(path)
        return BackupReport(path, 1234, 5, 6_000_000, 1.25, 0.0125)

    monkeypatch.setattr(admin, "back_up", backed_up)
    monkeypatch.chdir(tmp_path)
    status, out = await run(world, capsys, "backup", "copy")
    assert paths == [os.path.join(tmp_path, "copy")]
    assert (status, json.loads(out)) == (
        0,
        f"height 1,234 is in {paths[0]}: 5 files, 6,000,000 bytes, in 1.2s, "
        "blocks held up for 0.013s",
    )


@pytest.mark.parametrize("fails", [False, True])
async def test_the_log_shows_a_backups_path_in_one_line(world, caplog, monkeypatch, fails):
    async def back_up(_db, _lock, path):
        if fails:
            raise BackupError(f"{path} exists: give a path that does not, or remove it")
        return BackupReport(path, 1, 2, 3, 4.0, 5.0)

    caplog.set_level("INFO")
    monkeypatch.setattr(admin, "back_up", back_up)
    session = await world.connect("rpc")
    await session.ask("backup", "/x\nINFO:electrumx:forged\x1b[2J")
    said = [record.getMessage() for record in caplog.records if "/x" in record.getMessage()]
    assert len(said) == 2
    assert all(text.isprintable() for text in said)


async def test_an_operator_who_waits_for_an_answer_is_not_silent(world, monkeypatch):
    goes_on, began = asyncio.Event(), asyncio.Event()

    async def verdict(*_args, **_kwargs):
        began.set()
        await goes_on.wait()
        return Verdict(True, [])

    monkeypatch.setattr(admin, "verify", verdict)
    session = await world.connect("rpc")
    asking = asyncio.ensure_future(session.request("verify"))
    await began.wait()
    [admins] = [item for item in world.manager.sessions if item.kind == "rpc"]
    admins.last_recv -= world.env.session_timeout + 1
    await world.manager.housekeeping.close_stale_sessions()
    goes_on.set()
    assert await asking == {"sound": True, "lines": []}
    # As long again to read it, and then the end
    await world.manager.housekeeping.close_stale_sessions()
    assert await session.request("getinfo")
    admins.last_recv -= world.env.session_timeout + 1
    await world.manager.housekeeping.close_stale_sessions()
    assert await session.recv() is None


async def test_what_goes_wrong_is_a_line_and_the_exit_status_1(world, capsys, monkeypatch):
    async def fail_to_back_up(*_args):
        raise BackupError("no room")

    async def fail_to_verify(*_args, **_kwargs):
        raise DBError("closed")

    monkeypatch.setattr(admin, "back_up", fail_to_back_up)
    monkeypatch.setattr(admin, "verify", fail_to_verify)
    assert await run(world, capsys, "backup", "x") == (1, "error making request: no room\n")
    assert await run(world, capsys, "verify") == (1, "error making request: closed\n")


async def test_both_are_refused_until_the_server_has_caught_up(world, capsys):
    world.bp.caught_up = False
    refusal = (1, "error making request: still catching up with daemon\n")
    assert await run(world, capsys, "verify") == refusal
    assert await run(world, capsys, "backup", "x") == refusal


async def test_arguments_of_other_types_are_refused(world):
    session = await world.connect("rpc")
    assert await session.error("verify", 1) == (1, "deep should be true or false")
    for path in (None, 3, "", "a\0b"):
        assert await session.error("backup", path) == (1, "expected a path")


def test_the_long_commands_are_waited_for_longer(monkeypatch):
    asked = []

    async def request(_port, secs, command, _params):
        asked.append((command, secs))
        return {"sound": True, "lines": []}

    monkeypatch.setattr(rpc, "request", request)
    for words in (["verify"], ["backup", "x"], ["getinfo"], ["--timeout", "5", "verify"]):
        assert rpc.main(words) == 0
    assert asked == [("verify", 604_800), ("backup", 86_400), ("getinfo", 30), ("verify", 5)]
