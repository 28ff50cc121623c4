"""Tests of the server's command, with a controller that ends in the way under test."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

import electrumx
from electrumx.cli.server import main
from electrumx.lib.errors import OperatorError

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def base(bare_environment, tmp_path):
    bare_environment.setenv("DB_DIRECTORY", str(tmp_path))
    bare_environment.setenv("DAEMON_URL", "http://user:secret@host:321/")
    bare_environment.setenv("COIN", "Bitcoin")
    bare_environment.setattr(sys, "argv", ["electrumx_server"])
    bare_environment.chdir(os.getcwd())  # so that it is restored
    # The server is deaf to signals when it has ended.
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {signum: signal.getsignal(signum) for signum in signals}
    yield bare_environment
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture
def controlled(base):
    """Return a function that installs a controller with this run()."""

    def install(run):
        class Controller:
            def __init__(self, env, **_callbacks):
                self.env = env

            async def run(self):
                run(self.env)

        module = ModuleType("electrumx.server.controller")
        module.Controller = Controller
        base.setitem(sys.modules, "electrumx.server.controller", module)

    return install


def raiser(error):
    def run(env):
        raise error

    return run


@pytest.mark.parametrize(
    ("argument", "status", "start"),
    [
        ("--version", 0, f"{electrumx.version}\n"),
        ("--help", 0, "usage: electrumx_server "),
        ("--versoin", 2, "usage: electrumx_server "),
        ("start", 2, "usage: electrumx_server "),
    ],
)
def test_an_argument_starts_no_server(controlled, capsys, tmp_path, argument, status, start):
    controlled(raiser(AssertionError("started")))
    try:
        found = main([argument])
    except SystemExit as e:
        found = e.code
    told = capsys.readouterr()
    assert found == status
    assert (told.err if status else told.out).startswith(start)
    assert "ElectrumX server starting" not in told.out
    assert os.listdir(tmp_path) == []


def test_a_normal_end_is_logged_and_status_0(controlled, capsys, tmp_path):
    seen = []
    controlled(lambda env: seen.append((env.db_dir, os.getcwd())))

    assert main() == 0
    assert seen == [(str(tmp_path), str(tmp_path))]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "INFO:electrumx:ElectrumX server starting"
    assert lines[-1] == "INFO:electrumx:ElectrumX server terminated normally"


def test_an_operators_error_is_one_line_and_status_1(controlled, capsys):
    controlled(raiser(OperatorError("the database\nis another's")))

    assert main() == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == (
        "CRITICAL:electrumx:ElectrumX server terminated abnormally: the database\\nis another's"
    )
    assert "Traceback" not in out + err


def test_any_other_error_has_its_traceback_and_status_1(controlled, capsys):
    controlled(raiser(KeyError("oops")))

    assert main() == 1
    out = capsys.readouterr().out
    assert "ERROR:electrumx:ElectrumX server terminated abnormally\nTraceback" in out
    assert "KeyError: 'oops'" in out


def test_a_missing_setting_is_one_line_and_status_1(base, controlled, capsys):
    controlled(lambda env: None)
    base.delenv("DAEMON_URL")

    assert main() == 1
    out = capsys.readouterr().out
    assert "required envvar DAEMON_URL not set: " in out.splitlines()[-1]
    assert "Traceback" not in out


def test_the_log_format_and_level_are_the_settings(base, controlled, capsys):
    base.setenv("LOG_FORMAT", "<%(name)s> %(message)s")
    base.setenv("LOG_LEVEL", "warning")
    controlled(lambda env: logging.getLogger("electrumx.server.db.DB").warning("hi"))

    assert main() == 0
    assert "<DB> hi" in capsys.readouterr().out.splitlines()
    assert logging.getLogger("electrumx").level == logging.WARNING


@pytest.mark.parametrize("bad", ["plain text", "%(nosuchfield)s", "%(levelname)"])
def test_a_bad_log_format_is_refused(base, controlled, capsys, bad):
    base.setenv("LOG_FORMAT", bad)
    controlled(lambda env: None)

    assert main() == 1
    out = capsys.readouterr().out
    assert f"envvar LOG_FORMAT value {bad} is not a log format" in out.splitlines()[-1]
    assert "Traceback" not in out


@pytest.mark.parametrize("kind", ["missing", "file", "read-only"])
def test_an_unfit_database_directory_is_named(base, controlled, capsys, tmp_path, kind):
    path = tmp_path / "db"
    expected = {
        "missing": "does not exist: create the directory",
        "file": "is not a directory",
        "read-only": "is not writable",
    }[kind]
    if kind == "file":
        path.write_text("")
    elif kind == "read-only":
        path.mkdir()
        # Root may write anywhere, so the permission bits alone would not do.
        base.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)
    base.setenv("DB_DIRECTORY", str(path))
    controlled(lambda env: None)

    assert main() == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"envvar DB_DIRECTORY value {path} {expected}" in line


def test_the_event_loop_is_of_the_policy(base, controlled):
    uvloop = pytest.importorskip("uvloop")
    base.setenv("EVENT_LOOP_POLICY", "uvloop")
    seen = []
    controlled(lambda env: seen.append(type(asyncio.get_running_loop())))

    assert main() == 0
    assert seen == [uvloop.Loop]


def test_running_twice_does_not_log_twice(controlled, capsys):
    controlled(lambda env: None)
    main()
    capsys.readouterr()
    main()

    out = capsys.readouterr().out
    assert out.count("ElectrumX server starting") == 1


def test_the_script_reports_in_one_line_the_missing_part(tmp_path):
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "COIN": "Bitcoin"}
    result = subprocess.run(
        [sys.executable, str(ROOT / "electrumx_server")],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 1
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 2
    assert "required envvar DB_DIRECTORY not set" in result.stdout


# -- signals before the event loop runs


def catches(pid, signum):
    """Return whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return int(caught.split()[1], 16) >> (signum - 1) & 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_server_is_being_loaded_ends_it_with_status_0(base, tmp_path, signum):
    base.setenv("ALLOW_ROOT", "1")
    server = subprocess.Popen(
        [sys.executable, ROOT / "electrumx_server"], stdout=subprocess.PIPE, text=True
    )
    while server.poll() is None and not catches(server.pid, signum):
        time.sleep(0.001)
    server.send_signal(signum)
    out, _err = server.communicate(timeout=60)

    assert server.returncode == 0, out
    assert f"received {signum.name} signal before the start; nothing was done" in out
    assert out.endswith("INFO:electrumx:ElectrumX server terminated normally\n")
    assert list(tmp_path.iterdir()) == []
