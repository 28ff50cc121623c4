"""Logins in files: rotation, permissions, and that no text shows one."""

import asyncio
import contextlib
import gc
import logging
import os
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electrumx.lib.errors import OperatorError
from electrumx.server.daemon import logins
from electrumx.server.daemon.client import Daemon
from electrumx.server.daemon.endpoint import endpoints_of
from electrumx.server.daemon.logins import MAX_FILE_BYTES, FileLogin, LoginFiles
from electrumx.server.daemon.retry import LoginFileError
from tests.fakes.fake_node import FakeNode
from tests.server.daemon.test_client import BLOCKS, COIN, messages

# Distinct enough to be found in any text.
SECRET = "5ecre7"


def write(path, login):
    """Write as a node does: a new file takes the place of the old one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(login)
    os.replace(temporary, path)


@pytest.fixture
async def node():
    async with FakeNode(BLOCKS) as fake_node:
        yield fake_node


@pytest.fixture
def cookie(tmp_path, node):
    """A cookie file with the login that the node demands."""
    path = tmp_path / ".cookie"
    rotate(node, path, 0)
    return path


def rotate(node, path, number):
    node.login = f"__cookie__:{SECRET}{number:060d}".encode()
    write(path, node.login)


def make_daemon(node, **files):
    url = f"http://{files.pop('user', '')}127.0.0.1:{node.port}/"
    files = LoginFiles.parse(**{name: str(path) for name, path in files.items()})
    return Daemon(COIN, url, init_retry=0.002, max_retry=0.01, login_files=files)


async def test_the_login_in_a_cookie_file_is_sent(node, cookie):
    async with make_daemon(node, cookies=cookie) as daemon:
        assert await daemon.height() == 5
        assert daemon.logged_url() == f"127.0.0.1:{node.port}/"
        blocks = await daemon.raw_blocks(await daemon.block_hex_hashes(0, 2))

    assert blocks == BLOCKS[:2]
    assert set(node.authorizations) == {node.login.decode()}


async def test_a_password_file_has_the_password_of_the_user_in_the_url(node, tmp_path):
    path = tmp_path / "password"
    path.write_bytes("päss:w@rd\n".encode())
    node.login = "wallets:päss:w@rd".encode()

    async with make_daemon(node, user="wallets@", passwords=path) as daemon:
        assert await daemon.height() == 5


async def test_twenty_restarts_with_a_new_cookie_each_lose_no_request(node, cookie, caplog):
    """The node goes away and returns with another cookie, while requests are made all the time."""
    caplog.set_level(logging.DEBUG)
    answered, restarts = 0, 0

    async def ask(daemon):
        nonlocal answered
        while restarts < 20:
            assert await daemon.height() == 5
            answered += 1

    async def restart():
        nonlocal restarts
        while restarts < 20:
            seen = answered
            await node.stop()
            cookie.unlink()
            await asyncio.sleep(0.005)
            rotate(node, cookie, restarts + 1)
            await node.start()
            # Each cookie is used by some request.
            while answered < seen + 8:
                await asyncio.sleep(0.001)
            restarts += 1

    async with make_daemon(node, cookies=cookie) as daemon:
        await asyncio.wait_for(asyncio.gather(restart(), *(ask(daemon) for _ in range(8))), 250)

    assert answered >= 160
    assert SECRET not in caplog.text


async def test_a_new_cookie_of_the_same_time_size_and_inode_is_read_after_a_401(
    node, cookie, caplog
):
    async with make_daemon(node, cookies=cookie) as daemon:
        await daemon.height()
        before = cookie.stat()
        node.login = node.login[:-1] + b"9"
        cookie.write_bytes(node.login)
        os.utime(cookie, ns=(before.st_atime_ns, before.st_mtime_ns))
        requests = len(node.authorizations)

        assert await daemon.height() == 5

    assert len(node.authorizations) == requests + 2
    assert not messages(caplog, "Retrying")


async def test_a_refused_cookie_is_reported_once_and_tried_again(node, cookie, caplog):
    async with make_daemon(node, cookies=cookie) as daemon:
        right, node.login = node.login, b"__cookie__:other"
        request = asyncio.create_task(daemon.height())
        while len(node.authorizations) < 5:
            await asyncio.sleep(0.001)
        assert not request.done()
        node.login = right
        assert await request == 5

    (line,) = messages(caplog, "Retrying")
    assert f"the daemon refuses the login in the cookie file {cookie}" in line
    assert SECRET not in caplog.text


async def test_a_missing_cookie_file_is_a_node_that_does_not_run(node, cookie, caplog):
    caplog.set_level(logging.INFO)
    cookie.unlink()
    async with make_daemon(node, cookies=cookie) as daemon:
        request = asyncio.create_task(daemon.height())
        await asyncio.sleep(0.05)
        assert not request.done()
        assert node.authorizations == []
        write(cookie, node.login)
        assert await request == 5

    (line,) = messages(caplog, "Retrying")
    assert f"the cookie file {cookie} is missing - check your daemon is running" in line
    assert "connection restored" in caplog.messages


async def test_an_unreadable_cookie_names_the_remedy_and_the_group(node, cookie, monkeypatch):
    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(LoginFileError) as error:
        await FileLogin(str(cookie), "cookie file").authorization()
    monkeypatch.undo()

    assert "-rpccookieperms=group" in str(error.value)
    assert str(error.value).endswith(f"the group {cookie.group()}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        SECRET.encode(),
        b"user:",
        b"a:b\nc:d\n",
        b"a:\x00b",
        b"a:" + b"b" * MAX_FILE_BYTES,
    ],
)
async def test_a_file_without_a_login_is_refused_without_its_content(tmp_path, content):
    path = tmp_path / "cookie"
    path.write_bytes(content)

    with pytest.raises(LoginFileError) as error:
        await FileLogin(str(path), "cookie file").authorization()

    assert str(error.value) == f"the cookie file {path} does not hold user:password in one line"


class HangingFiles:
    """``os.stat`` of a network that hangs while ``hang`` is set."""

    def __init__(self, monkeypatch):
        self.released = threading.Event()
        self.released.set()
        self.threads = set()
        self.waiting = 0
        self._stat = os.stat
        monkeypatch.setattr(logins.os, "stat", self.stat)

    def stat(self, *args, **kwargs):
        self.threads.add(threading.current_thread())
        self.waiting += 1
        self.released.wait()
        self.waiting -= 1
        return self._stat(*args, **kwargs)


@pytest.fixture
def files(monkeypatch):
    hanging = HangingFiles(monkeypatch)
    monkeypatch.setattr(logins, "LOOK_EVERY_SECS", 0.0)
    monkeypatch.setattr(logins, "PATIENCE_SECS", 0.05)
    yield hanging
    hanging.released.set()


async def test_a_file_system_that_hangs_delays_neither_the_loop_nor_a_known_login(
    node, cookie, files
):
    async with make_daemon(node, cookies=cookie) as daemon:
        assert await daemon.height() == 5
        files.released.clear()
        assert [await daemon.height() for _ in range(20)] == [5] * 20
        assert files.waiting == 1

        rotate(node, cookie, 1)
        files.released.set()
        assert await daemon.height() == 5
    assert threading.main_thread() not in files.threads


async def test_a_file_that_was_never_read_and_hangs_is_reported_and_read_later(
    node, cookie, files, caplog
):
    files.released.clear()
    async with make_daemon(node, cookies=cookie) as daemon:
        request = asyncio.create_task(daemon.height())
        while not messages(caplog, "Retrying"):
            await asyncio.sleep(0.001)
        assert files.waiting == 1
        assert not request.done()
        files.released.set()
        assert await request == 5

    (line,) = messages(caplog, "Retrying")
    assert f"the cookie file {cookie} cannot be read: its file system does not answer" in line


async def test_a_directory_or_a_pipe_is_no_login_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(LoginFileError, match="is no regular file"):
            await FileLogin(str(path), "password file", b"user").authorization()


@given(content=st.binary(max_size=60))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=50,
)
def test_any_content_gives_a_header_or_an_error_that_does_not_show_it(tmp_path, content):
    path = tmp_path / "cookie"
    path.write_bytes(b"1" * 8 + content)
    login = FileLogin(str(path), "cookie file")
    try:
        shown = asyncio.run(login.authorization())
    except LoginFileError as e:
        shown = f"{e!r} {e}"

    assert "11111111" not in shown
    assert "11111111" not in repr(login)


@pytest.mark.parametrize(
    ("urls", "files", "reason"),
    [
        ("u:p@h:1", ("c",), "DAEMON_URL 1 has a password and a cookie file"),
        ("u:p@h:1,http://u:p@h:2", ("", "c"), "DAEMON_URL 2 has a password and a cookie file"),
        ("u@h:1", ("c",), "DAEMON_URL 1 has a user name and a cookie file"),
        ("http://h:1", ((), ("p",)), "DAEMON_URL 1 has a password file and no user name"),
        ("u:x@h:1", ((), ("p",)), "DAEMON_URL 1 has a password and a password file"),
        ("h:1", (("c",), ("p",)), "DAEMON_URL 1 has a cookie file and a password file"),
        ("h:1", (("c", "d"), ()), "DAEMON_COOKIE_FILE has 2 entries and DAEMON_URL 1"),
        ("h:1", ((), ()), "invalid daemon URL: .*user:password@ is missing"),
        ("h:1,h:2", (("c",), ()), "invalid daemon URL: .*user:password@ is missing"),
        ("https//h", (("c",), ()), "invalid daemon URL"),
        ("ftp://h", (("c",), ()), "neither http nor https"),
        ("h:99999", (("c",), ()), "port is missing or wrong"),
        ("h:1,h:1/", (("c", "d"), ()), "DAEMON_URL 2 is a node that is named before"),
    ],
)
def test_urls_and_files_that_do_not_agree_are_refused(urls, files, reason):
    if isinstance(files[0], str):
        files = (files, ())

    with pytest.raises(OperatorError, match=reason):
        endpoints_of(COIN, urls, LoginFiles(*files))


def test_each_url_has_its_own_login():
    found = endpoints_of(COIN, "h1, http://u:p@h2:5/,https://h3", LoginFiles.parse("/a,,/b"))

    assert list(found) == [
        f"http://@h1:{COIN.RPC_PORT}/",
        "http://u:p@h2:5/",
        f"https://@h3:{COIN.RPC_PORT}/",
    ]
    assert [endpoint.url.partition("//")[2] for endpoint in found.values()] == [
        f"h1:{COIN.RPC_PORT}/",
        "h2:5/",
        f"h3:{COIN.RPC_PORT}/",
    ]


async def test_the_list_of_nodes_can_be_replaced_by_one_with_a_cookie(node, cookie):
    async with Daemon(COIN, "http://u:p@localhost:1/", init_retry=0.002) as daemon:
        daemon.set_url(f"127.0.0.1:{node.port}", LoginFiles.parse(str(cookie)))
        assert await daemon.height() == 5


async def test_no_exception_of_a_request_shows_the_login(node, cookie):
    """Whatever the node does, repr and arguments of all that is raised are free of it."""
    node.login = None
    async with make_daemon(node, cookies=cookie) as daemon:
        await daemon.height()
        await node.stop()
        with contextlib.suppress(Exception):
            await daemon.call_aside(daemon.current_url(), "getblockcount", (), 0.2)
        raised = [item for item in gc.get_objects() if isinstance(item, BaseException)]
        assert not [item for item in raised if SECRET in f"{item!r} {item} {item.args}"]
        assert SECRET not in repr(vars(daemon.rpc))
