"""The command that makes a database directory of a snapshot."""

import asyncio
import os
import random
import re
import ssl
import sys

import pytest

from electrumx.cli.restore import main
from tests.conftest import REPOSITORY
from tests.fakes.file_server import FileServer
from tests.integration.server import certificate
from tests.server.maintenance.test_restore import TABLE, contents, write_snapshot


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """None of the caller's own configuration."""
    for name in ("COIN", "NET", "DB_ENGINE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def snapshot(tmp_path):
    """A folder with a snapshot."""
    write_snapshot(tmp_path / "snapshot")
    return tmp_path / "snapshot"


def run(capsys, *words):
    """The exit status and the lines of the log."""
    status = main([str(word) for word in words])
    return status, capsys.readouterr().out.splitlines()


def test_a_folder_is_restored_and_the_next_command_is_shown(tmp_path, snapshot, capsys):
    status, lines = run(capsys, snapshot, tmp_path / "db")

    assert status == 0
    assert contents(tmp_path / "db") == contents(snapshot)
    assert "has height 9 of Bitcoin regtest, for leveldb: 7 files, 52,860 bytes" in lines[0]
    assert "is a database of height 9, tip 0000" in lines[1]
    assert "now run electrumx_verify with COIN=Bitcoin NET=regtest DB_ENGINE=leveldb" in lines[2]


def test_each_fault_is_a_line_and_the_status_is_1(tmp_path, snapshot, capsys):
    (snapshot / "COIN").unlink()
    (snapshot / TABLE).write_bytes(bytes(50_000))

    status, lines = run(capsys, snapshot, tmp_path / "db")

    assert status == 1
    assert sorted(lines[1:]) == [
        "CRITICAL:electrumx:restore: COIN: it cannot be opened: No such file or directory",
        f"CRITICAL:electrumx:restore: {TABLE}: its SHA-256 is not that of the manifest",
    ]
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"COIN": "Litecoin", "NET": "regtest"}, "is of the coin Bitcoin, but COIN is Litecoin"),
        ({"DB_ENGINE": "rocksdb"}, "is of the engine leveldb, but DB_ENGINE is rocksdb"),
        ({"COIN": "Nonsense"}, "unknown coin Nonsense"),
    ],
)
def test_settings_that_do_not_fit_are_a_line(
    tmp_path, snapshot, capsys, no_settings, variables, reason
):
    for name, value in variables.items():
        no_settings.setenv(name, value)

    status, lines = run(capsys, snapshot, tmp_path / "db")

    assert status == 1
    assert len(lines) == 1
    assert reason in lines[0]


@pytest.mark.parametrize("source", ["http://host/x?y", "gopher://host/", "nowhere"])
def test_a_source_that_cannot_be_used_is_a_line(tmp_path, capsys, source):
    status, lines = run(capsys, source, tmp_path / "db")

    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("CRITICAL:electrumx:restore ended: ")


def test_the_root_directory_is_refused_in_a_line(snapshot, capsys):
    status, lines = run(capsys, snapshot, "/")

    assert status == 1
    assert lines == [
        "CRITICAL:electrumx:restore ended: / cannot be replaced: give a directory in it"
    ]


@pytest.mark.parametrize("words", [("", "db"), ("snapshot", "")])
def test_an_unset_variable_is_not_the_current_directory(tmp_path, capsys, monkeypatch, words):
    # Empty, so a restore to it would replace it.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(list(words))

    assert ended.value.code == 2
    assert "must not be empty" in capsys.readouterr().err


async def start(url, target, **variables):
    env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR")}
    env |= variables
    return await asyncio.create_subprocess_exec(
        sys.executable,
        REPOSITORY / "electrumx_restore",
        url,
        target,
        env=env | {"PYTHONPATH": str(REPOSITORY)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_a_restore_that_is_killed_ten_times_is_complete_in_the_end(tmp_path):
    folder, target = tmp_path / "snapshot", tmp_path / "db"
    sizes = {TABLE: 8_000_000, **{f"hist/{n:06d}.ldb": 500_000 for n in range(16)}}
    total = write_snapshot(folder, sizes=sizes).total_bytes
    rng = random.Random(11)
    async with FileServer(folder, chunk=1 << 14, pause=0.001) as server:
        for _ in range(10):
            end = server.sent + rng.randrange(total // 12)
            process = await start(server.url, target)
            while server.sent <= end:
                assert process.returncode is None
                await asyncio.sleep(0.002)
            process.kill()
            await process.communicate()
            assert not target.exists()
        server.pause = 0
        process = await start(server.url, target)
        output, _none = await process.communicate()
        assert process.returncode == 0, output
        resumed = [range_ for _path, range_ in server.requests if range_]
    assert contents(target) == contents(folder)
    assert os.listdir(tmp_path).count("db.restoring") == 0
    assert resumed
    assert all(re.fullmatch(r"bytes=\d+-", range_) for range_ in resumed)


async def test_over_https_the_certificate_is_verified(tmp_path, snapshot):
    cert, key = certificate()
    target = tmp_path / "db"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)

    async def run_from(host, **variables):
        async with FileServer(snapshot, host=host, tls=tls) as server:
            process = await start(server.url, target, **variables)
            output, _none = await process.communicate()
        return process.returncode, output.decode(), server.requests

    # No authority that this machine trusts has signed it; it is for another address.
    for host, variables, reason in (
        ("127.0.0.1", {}, "self-signed certificate"),
        ("127.0.0.2", {"SSL_CERT_FILE": str(cert)}, "not valid for '127.0.0.2'"),
    ):
        status, output, requests = await run_from(host, **variables)
        assert (status, requests) == (1, [])
        assert output.count("\n") == 1
        assert reason in output
        assert not target.exists()

    status, output, _requests = await run_from("127.0.0.1", SSL_CERT_FILE=str(cert))
    assert (status, contents(target)) == (0, contents(snapshot)), output
