"""``electrumx_server --check``: a line for each problem, and nothing is changed."""

import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from electrumx.cli import check as check_module
from electrumx.cli.server import main
from tests.fakes.chain import GENESIS
from tests.fakes.node_thread import NodeThread


@pytest.fixture
def node():
    with NodeThread([GENESIS]) as thread:
        yield thread


@pytest.fixture
def base(bare_environment, tmp_path, node):
    (tmp_path / "db").mkdir()
    for name, value in node.env.items():
        bare_environment.setenv(name, value)
    bare_environment.setenv("DB_DIRECTORY", str(tmp_path / "db"))
    bare_environment.setenv("SERVICES", f"rpc://{tmp_path}/rpc.sock")
    bare_environment.setenv("ALLOW_ROOT", "1")
    # So that it is restored
    bare_environment.chdir(os.getcwd())
    level = logging.getLogger("electrumx").level
    yield bare_environment
    logging.getLogger("electrumx").setLevel(level)


def check(capsys):
    """Return (exit status, problems, warnings)."""
    status = main(["--check"])
    lines = capsys.readouterr().out.splitlines()
    problems = [line[9:] for line in lines if line.startswith("problem: ")]
    warnings = [line[9:] for line in lines if line.startswith("warning: ")]
    assert lines[-1] == f"problems found: {len(problems)}"
    assert len(lines) == len(problems) + len(warnings) + 1
    return status, problems, warnings


def files(folder):
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")
    }


def test_a_usable_configuration_has_no_problem_and_changes_nothing(base, capsys, tmp_path):
    before = files(tmp_path)

    assert check(capsys) == (0, [], [])
    assert files(tmp_path) == before


def test_the_directory_that_systemd_makes_at_the_start_is_no_problem(
    base, capsys, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr(check_module, "RUN", str(run))
    for folder in (f"{run}/electrumx", f"{run}/electrumx/1"):
        base.setenv("SERVICES", f"rpc://{folder}/rpc.sock")
        status, problems, (warning,) = check(capsys)
        assert (status, problems) == (0, [])
        assert warning.startswith(f"the directory {folder} is missing: the server's service")
    # Another one has to be there.
    path = f"{tmp_path}/electrumx/rpc.sock"
    base.setenv("SERVICES", f"rpc://{path}")
    status, (problem,), warnings = check(capsys)
    assert (status, warnings) == (1, [])
    assert f"failed to listen on {path}: No such file or directory" in problem
    # Nothing is made.
    assert not list(run.iterdir())


def test_all_wrong_settings_are_reported_together(base, capsys):
    base.setenv("MAX_SEND", "abc")
    base.setenv("COST_SOFT_LIMIT", "20000")
    base.setenv("SERVICES", "tcp://:x")
    base.setenv("LOG_FORMAT", "plain")
    base.setenv("COIN", "Nocoin")
    base.setenv("HOST", "h")
    base.setenv("TCP_PORT", "1")

    status, problems, _warnings = check(capsys)

    assert status == 1
    for text in ("MAX_SEND", "COST_HARD_LIMIT", "SERVICES", "LOG_FORMAT", "COIN", "obsolete"):
        assert len([problem for problem in problems if text in problem]) == 1, text
    assert len(problems) == 6


def test_without_any_setting_the_required_ones_are_named(base, capsys):
    for name in ("COIN", "NET", "DAEMON_URL", "DB_DIRECTORY"):
        base.delenv(name)

    status, problems, _warnings = check(capsys)

    assert status == 1
    assert sorted(problem.split()[2] for problem in problems) == [
        "COIN",
        "DAEMON_URL",
        "DB_DIRECTORY",
    ]


def test_a_port_in_use_and_a_bad_certificate_are_problems(base, capsys, tmp_path):
    (tmp_path / "key").write_text("no key")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        base.setenv("SERVICES", f"tcp://127.0.0.1:{port},ssl://localhost:{port}")
        base.setenv("SSL_CERTFILE", str(tmp_path / "missing"))
        base.setenv("SSL_KEYFILE", str(tmp_path / "key"))
        status, problems, _warnings = check(capsys)

    assert status == 1
    assert [problem for problem in problems if f"SSL_CERTFILE value {tmp_path}/missing" in problem]
    assert [problem for problem in problems if "TCP server failed to listen on" in problem]


def test_the_port_of_the_server_that_runs_is_no_problem(base, capsys, tmp_path):
    """It holds the lock of the database, as its engine does."""
    store = tmp_path / "db" / "utxo"
    store.mkdir()
    holder = (
        "import fcntl, sys; file = open(sys.argv[1], 'wb'); "
        "fcntl.lockf(file, fcntl.LOCK_EX); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(store / "LOCK")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        base.setenv("SERVICES", f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout.readline() == "locked\n"
            assert check(capsys) == (0, [], [])
            server.stdin.close()
        # It has ended: the port is another program's.
        status, (problem,), _warnings = check(capsys)

    assert status == 1
    assert "Address already in use" in problem


def test_a_node_that_is_away_or_silent_or_wrong_is_a_problem(base, capsys, node, monkeypatch):
    monkeypatch.setattr("electrumx.cli.check.NODE_SECS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://u:secret@127.0.0.1:{silent.getsockname()[1]}/"
        base.setenv("DAEMON_URL", f"http://u:secret@127.0.0.1:1/,{url},{node.node.url}")
        base.setenv("NET", "testnet")
        status, problems, _warnings = check(capsys)

    assert status == 1
    assert [problem.partition(": ")[2] or problem for problem in problems[:1]] == [
        "connection problem - check your daemon is running (connection refused)"
    ]
    assert problems[1].endswith("did not answer within 2 seconds")
    assert "follows the chain of" in problems[2]
    assert "secret" not in "".join(problems)


def test_a_name_server_that_hangs_delays_the_outcome_by_no_more_than_its_time(
    base, capsys, monkeypatch
):
    """Of a service, and of a node; the thread that asks it cannot be ended, and nothing waits for it."""
    released, resolve = threading.Event(), socket.getaddrinfo
    asked = []

    def getaddrinfo(host, *args, **kwargs):
        if host != "slow.example":
            return resolve(host, *args, **kwargs)
        asked.append(host)
        assert released.wait(120)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(check_module, "NAME_SECS", 0.5)
    monkeypatch.setattr(check_module, "NODE_SECS", 0.5)
    base.setenv("SERVICES", "tcp://slow.example:1,tcp://slow.example:2")
    base.setenv("DAEMON_URL", "http://u:secret@slow.example:1/")
    timer = threading.Timer(20, released.set)
    timer.start()
    try:
        status, problems, _warnings = check(capsys)
        assert not released.is_set()
    finally:
        timer.cancel()
        released.set()

    assert status == 1
    assert problems == [
        "TCP server failed to listen on slow.example:1: its name was not found within 0.5 seconds",
        "TCP server failed to listen on slow.example:2: its name was not found within 0.5 seconds",
        "the daemon at slow.example:1/ did not answer within 0.5 seconds",
    ]
    assert len(asked) == 3


def test_a_cookie_that_is_missing_is_a_problem(base, capsys, node, tmp_path):
    base.setenv("DAEMON_URL", f"127.0.0.1:{node.node.port}")
    base.setenv("DAEMON_COOKIE_FILE", str(tmp_path / "cookie"))
    assert "is missing - check your daemon is running" in check(capsys)[1][0]

    (tmp_path / "cookie").write_text("a:b")
    node.node.login = b"a:c"
    assert "refuses the login in the cookie file" in check(capsys)[1][0]

    node.node.login = b"a:b"
    assert check(capsys)[0] == 0


def test_an_unknown_name_in_a_file_is_the_problem(base, capsys, tmp_path):
    path = tmp_path / "conf"
    path.write_text("MAX_SESSION=1")

    assert main(["--check", "--config", str(path)]) == 1
    assert "the nearest one is MAX_SESSIONS" in capsys.readouterr().out


def test_suspicious_settings_are_warnings(base, capsys):
    base.setenv("PEER_DISCOVERY", "no")
    base.setenv("MAX_SESSION", "1")

    status, problems, warnings = check(capsys)

    assert (status, problems) == (0, [])
    assert len(warnings) == 2


@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
def test_the_database_is_read_without_changing_it(base, capsys, tmp_path, engine):
    from electrumx.server.db.closed_state import check_closed_database
    from electrumx.server.env import Env
    from electrumx.server.storage.base import db_class
    from electrumx.server.storage.schema import STATE_KEY

    base.setenv("DB_ENGINE", engine)
    store = db_class(engine)(str(tmp_path / "db" / "utxo"), False)
    store.put(
        STATE_KEY, repr({"genesis": "00" * 32, "db_version": 5, "first_sync": False}).encode()
    )
    store.close()
    before = files(tmp_path)
    leftovers = set(Path("/tmp").glob("electrumx-check-*"))

    status, problems, _warnings = check(capsys)

    assert status == 1
    assert problems
    assert files(tmp_path) == before
    assert set(Path("/tmp").glob("electrumx-check-*")) == leftovers
    base.setenv("DB_ENGINE", "rocksdb" if engine == "leveldb" else "leveldb")
    with pytest.raises(Exception, match=f"is of {engine}: set DB_ENGINE"):
        check_closed_database(Env())
