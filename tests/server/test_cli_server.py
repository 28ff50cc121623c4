"""Tests of the server's command, with a controller that ends in the way under test."""

import asyncio
import gc
import json
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
from electrumx.server.runtime.compiled_modules import COMPILED_MODULES, missing_modules

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


def test_garbage_is_collected_once_everything_is_loaded(controlled):
    seen = []
    controlled(lambda env: seen.append(gc.isenabled()))
    gc.disable()
    try:
        assert main() == 0
    finally:
        gc.enable()
    assert seen == [True]


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


def test_next_to_nothing_is_loaded_before_signals_are_noted():
    """Until then a signal kills the process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import electrumx.cli.start; "
        "print(*(name for name in sys.modules if name.startswith('electrumx'))); "
        "print(*({'argparse', 'asyncio', 'logging', 're', 'typing'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    ours, others = done.stdout.split("\n")[:2]

    assert set(ours.split()) == {
        *("electrumx", "electrumx.cli", "electrumx.cli.start"),
        *("electrumx.lib", "electrumx.lib.signals"),
    }
    assert others == ""


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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_hang_up_while_a_server_with_a_settings_file_is_being_loaded_ends_nothing(base, tmp_path):
    """The file is read a moment later anyway; the server goes on to its next error."""
    base.setenv("ALLOW_ROOT", "1")
    (tmp_path / "conf").write_text("SERVICES=tcp://203.0.113.1:1\n")
    server = subprocess.Popen(
        [sys.executable, ROOT / "electrumx_server", "--config", tmp_path / "conf"],
        stdout=subprocess.PIPE,
        text=True,
    )
    while server.poll() is None and not catches(server.pid, signal.SIGHUP):
        time.sleep(0.001)
    server.send_signal(signal.SIGHUP)
    out, _err = server.communicate(timeout=60)

    assert server.returncode == 1, out
    assert "nothing was done" not in out
    assert "TCP server failed to listen on 203.0.113.1:1" in out


# -- options


def test_the_settings_may_be_in_a_file(base, controlled, capsys, tmp_path):
    seen = []
    controlled(lambda env: seen.append((env.coin.NAME, env.max_send)))
    base.delenv("COIN")
    (tmp_path / "conf").write_text("COIN=Litecoin\nMAX_SEND=400000\nLOG_FORMAT=json\n")
    base.setenv("MAX_SEND", "500000")

    assert main(["--config", str(tmp_path / "conf")]) == 0
    assert seen == [("Litecoin", 500_000)]
    lines = capsys.readouterr().out.splitlines()
    assert all(json.loads(line)["level"] for line in lines)


def test_an_error_in_the_file_is_one_line_and_status_1(base, controlled, capsys, tmp_path):
    controlled(lambda env: None)
    (tmp_path / "conf").write_text("COIN=Bitcoin\nMAX_SESSION=1\n")

    assert main(["--config", str(tmp_path / "conf")]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "CRITICAL:electrumx:ElectrumX server terminated abnormally: settings file "
        f"{tmp_path}/conf: line 2: there is no setting MAX_SESSION; the nearest one is MAX_SESSIONS"
    )


@pytest.mark.parametrize(
    "words", [["--version", "-v"], ["-v", "--version"], ["--version", "--verbose"]]
)
def test_the_versions_of_the_parts_are_printed(capsys, words):
    assert main(words) == 0
    first, *lines = capsys.readouterr().out.splitlines()

    assert first == electrumx.version
    names = [line.partition(":")[0] for line in lines]
    assert "engine leveldb" in names
    assert "engine rocksdb" in names
    for module in COMPILED_MODULES:
        assert (
            f"compiled module {module}: {'no' if module in missing_modules() else 'yes'}" in lines
        )


@pytest.mark.parametrize("words", [["--config"], ["--check", "x"], ["--vers"], ["-x"]])
def test_a_wrong_command_line_is_exit_status_2(capsys, words):
    with pytest.raises(SystemExit) as info:
        main(words)
    assert info.value.code == 2
    assert capsys.readouterr().err.startswith("usage: electrumx_server ")
