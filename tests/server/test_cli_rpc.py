"""The administrator's tool against a real LocalRPC port."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiorpcx import RPCError

import electrumx
from electrumx.cli import rpc
from electrumx.server.services import UnixService
from tests.fakes.session_world import FakeCoin, session_world, until, utxo
from tests.ports import free_port

SCRIPT = Path(__file__).parents[2] / "electrumx_rpc"


async def run(world, capsys, *args):
    """Run the tool in a thread; return (exit status, its output)."""
    argv = ["-p", str(world.port("rpc")), *args]
    status = await asyncio.to_thread(rpc.main, argv)
    return status, capsys.readouterr().out


@pytest.fixture
async def world():
    async with session_world() as world:
        yield world


async def test_objects_are_printed_as_sorted_json(world, capsys):
    status, out = await run(world, capsys, "getinfo")
    info = json.loads(out)
    assert (0, "FakeCoin") == (status, info["coin"])
    assert json.dumps(info, indent=4, sort_keys=True) + "\n" == out


async def test_texts_are_printed_as_json(world, capsys):
    assert (0, "\"peer 'a b' added\"\n") == await run(world, capsys, "add_peer", "a b")
    assert (0, '"stopping"\n') == await run(world, capsys, "stop")
    assert (0, '"now using daemon at env-host:8332/"\n') == await run(world, capsys, "daemon_url")
    expected = (0, '"now using daemon at h:1/"\n')
    assert expected == await run(world, capsys, "daemon_url", "http://u:p@h:1/")


async def test_tables_are_printed_as_such_unless_json_is_asked_for(world, capsys):
    for command, heading in (("sessions", "ID "), ("groups", "Name "), ("peers", "Host ")):
        status, out = await run(world, capsys, command)
        assert (0, True) == (status, out.startswith(heading))
        status, out = await run(world, capsys, "--json", command)
        assert isinstance(json.loads(out), list)


async def test_a_query_prints_its_lines(world, capsys):
    world.db.utxos[FakeCoin.hashX_from_script(b"\xaa")] = [utxo("a", 5), utxo("b", 6)]
    status, out = await run(world, capsys, "query", "-l", "1", "aa", "addr")
    assert 0 == status
    assert ["Script: aa", "No history found"] == out.splitlines()[:2]
    assert "UTXO #2" not in out
    assert "Address: addr" in out


async def test_a_query_of_an_unknown_item_prints_the_reason_and_exits_with_1(world, capsys):
    status, out = await run(world, capsys, "query", "addr", "nonsense")
    assert 1 == status
    assert "Address: addr" in out
    assert "unknown: nonsense: neither a script in hex nor an address of Fakecoin mainnet" in out


async def test_bans_are_made_listed_and_lifted(capsys, tmp_path):
    async with session_world(db_dir=str(tmp_path)) as world:
        status, out = await run(world, capsys, "ban", "--time", "7d", "203.0.113.0/24")
        assert (status, out) == (0, "banned 203.0.113.0/24 for 7d 00h 00m\n")
        status, out = await run(world, capsys, "ban", "127.0.0.1", "--time", "forever")
        assert status == 1
        assert out.startswith("refused: 127.0.0.1: ")
        status, out = await run(world, capsys, "ban", "2001:db8::7", "--time", "forever")
        status, out = await run(world, capsys, "bans")
        assert status == 0
        heading, first, second = out.splitlines()
        assert heading.split() == ["Network", "Banned", "for", "Time", "left"]
        assert first.split()[:2] == ["203.0.113.0/24", "00s"]
        assert second.endswith("no end")
        assert await run(world, capsys, "unban", "203.0.113.0/24") == (
            0,
            "lifted the ban of 203.0.113.0/24\n",
        )
        status, out = await run(world, capsys, "unban", "203.0.113.0/24")
        assert (status, out) == (1, "unknown: 203.0.113.0/24: it is not banned\n")


@pytest.mark.parametrize(
    ("text", "secs"),
    [("30s", 30), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("2w", 1_209_600)],
)
def test_the_time_of_a_ban_has_a_unit(text, secs):
    assert rpc.duration(text) == secs
    assert rpc.duration("forever") is None


@pytest.mark.parametrize("text", ["", "24", "h", "0h", "-1h", "1.5h", "1y", "9999999999d", "²h"])
def test_other_times_are_a_usage_error(text, capsys):
    with pytest.raises(SystemExit) as caught:
        rpc.main(["ban", f"--time={text}", "1.2.3.4"])
    assert caught.value.code == 2
    assert "--time" in capsys.readouterr().err


async def test_sessions_are_disconnected_and_logged(world, capsys):
    client = await world.connect()
    await client.request("server.ping")
    number = str(world.session().session_id)
    status, out = await run(world, capsys, "log", number, "x")
    assert [f"logging session {number}", "unknown: x"] == json.loads(out)
    status, out = await run(world, capsys, "disconnect", number, "y")
    assert [f"disconnecting session {number}", "unknown: y"] == json.loads(out)
    status, out = await run(world, capsys, "disconnect", "all")
    assert (0, ["disconnecting all sessions"]) == (status, json.loads(out))
    await until(lambda: world.manager.session_count() == 0)


async def test_a_reorg_is_of_three_blocks_by_default(world, capsys):
    assert (0, '"scheduled a reorg of 3 blocks"\n') == await run(world, capsys, "reorg")
    assert (0, '"scheduled a reorg of 5 blocks"\n') == await run(world, capsys, "reorg", "5")


async def test_an_error_of_the_server_is_exit_status_1(world, capsys):
    world.bp.caught_up = False
    expected = (1, "error making request: still catching up with daemon\n")
    assert expected == await run(world, capsys, "reorg")


async def test_a_silent_server_is_given_up_on(capsys):
    async def ignore(reader, _writer):
        await reader.read()
        _writer.close()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    argv = ["-p", str(port), "--timeout", "0.2", "getinfo"]
    assert 1 == await asyncio.to_thread(rpc.main, argv)
    assert "error making request: no reply within 0.2 seconds\n" == capsys.readouterr().out
    server.close()
    await server.wait_closed()


async def test_a_dropped_connection_is_an_error(capsys):
    async def drop(_reader, writer):
        writer.close()

    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert 1 == await asyncio.to_thread(rpc.main, ["-p", str(port), "getinfo"])
    assert capsys.readouterr().out.startswith("error making request: ")
    server.close()
    await server.wait_closed()


def test_no_server_is_exit_status_1(capsys, monkeypatch):
    port = str(free_port())
    monkeypatch.setenv("RPC_PORT", port)
    assert 1 == rpc.main(["getinfo"])
    assert (
        "cannot connect - is ElectrumX catching up, not running, or "
        f"is {port} the wrong RPC port?\n"
    ) == capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "environ", "exists", "expected"),
    [
        ((None, None, None), {}, False, rpc.Server(None, "127.0.0.1", "8000")),
        ((None, None, None), {}, True, rpc.Server("{default}")),
        ((None, None, None), {"RPC_PORT": "1"}, True, rpc.Server(None, "127.0.0.1", "1")),
        ((None, None, None), {"RPC_PORT": "1", "RPC_SOCKET": "/s"}, True, rpc.Server("/s")),
        ((None, None, None), {"RPC_SOCKET": ""}, False, rpc.Server()),
        ((None, None, "2"), {"RPC_PORT": "1", "RPC_SOCKET": "/s"}, True, rpc.Server(port="2")),
        (
            (None, "h", None),
            {"RPC_PORT": "1", "RPC_SOCKET": "/s"},
            True,
            rpc.Server(None, "h", "1"),
        ),
        (("/t", None, None), {"RPC_PORT": "1", "RPC_SOCKET": "/s"}, True, rpc.Server("/t")),
    ],
)
def test_options_precede_the_environment_which_precedes_existing_sockets(
    options, environ, exists, expected, tmp_path, monkeypatch
):
    default = tmp_path / "rpc.sock"
    if exists:
        default.touch()
    monkeypatch.setattr(rpc, "DEFAULT_SOCKET", str(default))
    if expected.path == "{default}":
        expected = rpc.Server(str(default))
    assert rpc.Server.chosen(*options, environ) == expected


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_a_port_that_is_none_is_exit_status_1(port, capsys):
    assert rpc.main(["-p", port, "getinfo"]) == 1
    assert f"is {port} the wrong RPC port?" in capsys.readouterr().out


def test_a_socket_and_a_port_cannot_both_be_given(capsys):
    for other in (["-p", "1"], ["--host", "h"]):
        with pytest.raises(SystemExit) as info:
            rpc.main(["--socket", "/s", *other, "getinfo"])
        assert info.value.code == 2
        assert "--socket cannot be combined" in capsys.readouterr().err


async def test_commands_go_through_a_unix_socket(short_tmp, capsys, monkeypatch):
    path = str(short_tmp / "rpc.sock")
    async with session_world(services=[UnixService(path)]):
        status = await asyncio.to_thread(rpc.main, ["--socket", path, "getinfo"])
        assert (status, json.loads(capsys.readouterr().out)["coin"]) == (0, "FakeCoin")
        monkeypatch.setenv("RPC_SOCKET", path)
        status = await asyncio.to_thread(rpc.main, ["sessions"])
        assert (status, "unknown" in capsys.readouterr().out) == (0, True)


def test_a_socket_that_cannot_be_reached_is_named(short_tmp, capsys):
    path = str(short_tmp / "rpc.sock")
    assert rpc.main(["--socket", path, "getinfo"]) == 1
    assert (
        f"cannot connect - is ElectrumX not running, or is {path} the wrong RPC socket?\n"
    ) == capsys.readouterr().out
    assert "run this as that user, or as root" in rpc.Server(path).failure(PermissionError(13, "x"))


async def test_a_password_is_not_sent_to_another_address_of_the_same_name(world, capsys):
    """Another program listens on ::1 at the port; the server only on 127.0.0.1."""
    heard = []

    async def listen(reader, writer):
        heard.append(await reader.read(1000))
        writer.close()

    port = world.port("rpc")
    try:
        other = await asyncio.start_server(listen, "::1", port)
    except OSError as e:
        pytest.skip(f"no IPv6: {e}")
    async with other:
        status, out = await run(world, capsys, "daemon_url", "http://u:secret@h:1/")
        assert (status, out) == (0, '"now using daemon at h:1/"\n')
    assert heard == []


def test_a_reader_that_stops_reading_is_no_error(capfd):
    code = (
        "import sys; from electrumx.cli import rpc\n"
        "async def answer(*_args): return {str(n): 'x' * 1000 for n in range(1000)}\n"
        "rpc.request = answer; sys.exit(rpc.main(['getinfo']))"
    )
    tool = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert tool.stdout.readline() == b"{\n"
    tool.stdout.close()
    assert (tool.stderr.read(), tool.wait()) == (b"", 0)
    tool.stderr.close()


def test_what_the_terminal_cannot_show_is_escaped():
    code = (
        "import sys; from electrumx.cli import rpc\n"
        "async def answer(*_args): return ['Name: \\u0436']\n"
        "rpc.request = answer; sys.exit(rpc.main(['query', 'x']))"
    )
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environ)
    assert (done.returncode, done.stdout) == (0, b"Name: \\u0436\n")


async def test_an_error_is_printed_without_control_characters(world, capsys):
    error = RPCError(1, "two\nlines \x1b[2J")

    async def refuse(*_args):
        raise error

    world.manager.shared.peers.add_localRPC_peer = refuse
    status, out = await run(world, capsys, "add_peer", "x")
    assert (status, out) == (1, "error making request: two\\nlines \\x1b[2J\n")


def test_the_version_can_be_asked_for(capsys):
    assert (rpc.main(["--version"]), capsys.readouterr().out) == (0, f"{electrumx.version}\n")


def test_without_a_command_the_usage_is_shown(capsys):
    assert 2 == rpc.main([])
    assert capsys.readouterr().err.startswith("usage: electrumx_rpc")


@pytest.mark.parametrize("args", [["nonsense"], ["add_peer"], ["disconnect"], ["reorg", "x"]])
def test_a_wrong_command_line_is_exit_status_2(args, capsys):
    with pytest.raises(SystemExit) as info:
        rpc.main(args)
    assert 2 == info.value.code
    assert "usage: electrumx_rpc" in capsys.readouterr().err


def test_the_script_is_executable_and_has_help_for_each_command():
    for args in (["--help"], ["reorg", "--help"]):
        result = subprocess.run(
            [sys.executable, str(SCRIPT), *args], capture_output=True, text=True, check=True
        )
        assert "usage: electrumx_rpc" in result.stdout
    assert SCRIPT.stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("SERVICES=tcp://:1,rpc:///run/x.sock", {}, "/run/x.sock"),
        ("RPC_SOCKET=/run/y.sock\nSERVICES=rpc:///run/x.sock", {}, "/run/y.sock"),
        ("SERVICES=rpc:///run/x.sock", {"RPC_SOCKET": "/run/z.sock"}, "/run/z.sock"),
        ("SERVICES=rpc:///run/x.sock", {"RPC_PORT": "9"}, None),
        ("SERVICES=rpc://", {}, None),
    ],
)
def test_the_settings_file_names_the_socket(bare_environment, tmp_path, text, environ, expected):
    path = tmp_path / "conf"
    path.write_text(text)
    for name, value in environ.items():
        bare_environment.setenv(name, value)

    found = rpc.server_environment(str(path))

    assert found.get("RPC_SOCKET") == expected


def ready_reply(**changes):
    return {
        "ready": True,
        "state": "serving",
        "height": 870_001,
        "node_height": 870_001,
        "lag": 0,
        "node_age_s": 1.0,
        "reason": "",
    } | changes


def answering(monkeypatch, reply):
    """Let the tool receive a reply without a server."""

    async def request(_server, _secs, _command, params):
        assert params == {}
        return reply

    monkeypatch.setattr(rpc, "request", request)


def test_ready_is_one_line_and_an_exit_status(monkeypatch, capsys):
    answering(monkeypatch, ready_reply())
    assert rpc.main(["ready"]) == 0
    assert capsys.readouterr().out == "ready: height 870,001\n"

    reason = "41 blocks behind the node"
    answering(monkeypatch, ready_reply(ready=False, state="catching up", reason=reason))
    assert rpc.main(["ready"]) == 1
    assert capsys.readouterr().out == f"not ready: catching up, {reason}\n"
    assert rpc.main(["--json", "ready"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "catching up"


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("starting", 0),
        ("syncing", 0),
        ("catching up", 0),
        ("serving", 0),
        ("node lost", 1),
        ("stopping", 1),
    ],
)
def test_check_fails_where_the_operator_has_to_act(monkeypatch, capsys, state, status):
    answering(monkeypatch, {"state": state})

    assert rpc.main(["getinfo", "--check"]) == status
    assert json.loads(capsys.readouterr().out) == {"state": state}
    assert rpc.main(["getinfo"]) == 0
