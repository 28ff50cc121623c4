"""What every test may ask for: the facts folder, a free port, a short temporary folder.

A test that lacks something outside the tree (facts, a node, a wallet) calls `require`: it is
skipped with a printed reason on a developer's machine and fails where the environment variable
CI is set, so that nothing is left out of a build unseen.
"""

import logging
import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

import hypothesis
import pytest

# No deadline: a loaded machine is no fault of the code's.
hypothesis.settings.register_profile("repository", deadline=None)
hypothesis.settings.load_profile("repository")

FACTS_VARIABLE = "ELECTRUMX_FACTS"
REPOSITORY = Path(__file__).resolve().parent.parent


def require(condition, reason):
    """Go on if condition is true; else skip, or fail when CI is set, with reason."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must not leave this out: {reason}", pytrace=False)
    pytest.skip(reason)


def facts_folder():
    """The folder of wire formats, coin parameters and vectors; skips or fails without it."""
    name = os.environ.get(FACTS_VARIABLE, "")
    require(name, f"{FACTS_VARIABLE} does not name the facts folder")
    folder = Path(name)
    require(folder.is_dir(), f"{FACTS_VARIABLE} names {name}, which is not a folder")
    return folder


def free_port():
    """A TCP port on 127.0.0.1 that nobody listens on at this moment.

    Nothing reserves it: a caller that can bind port 0 itself should do that instead.
    """
    return free_ports(1)[0]


def _bind(sock):
    """Bind to a free port below those that the system gives to outgoing connections.

    One of the latter could take the port again before its user listens there.
    """
    while True:
        try:
            sock.bind(("127.0.0.1", random.randrange(15_000, 32_000)))
            return
        except OSError:
            continue


def free_ports(count):
    """As free_port, but count different ones."""
    socks = [socket.socket() for _ in range(count)]
    try:
        for sock in socks:
            _bind(sock)
        return [sock.getsockname()[1] for sock in socks]
    finally:
        for sock in socks:
            sock.close()


@pytest.fixture(scope="session")
def facts():
    """Path of the facts folder."""
    return facts_folder()


@pytest.fixture(name="free_port")
def free_port_fixture():
    """The function free_port, for tests that prefer a fixture to an import."""
    return free_port


@pytest.fixture
def repository():
    """Path of the top of the source tree."""
    return REPOSITORY


@pytest.fixture
def short_tmp():
    """A temporary folder with a short path, as Unix sockets and old programs need."""
    folder = Path(tempfile.mkdtemp(prefix="ex-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def in_tmp_dir(tmp_path, monkeypatch):
    """The test's temporary folder, which is also the current directory while the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _logger_as_it_was():
    """Undo what a test did to the server's logger: others read its lines through caplog."""
    logger = logging.getLogger("electrumx")
    before = logger.level, logger.propagate, logger.handlers[:]
    yield
    logger.level, logger.propagate, logger.handlers[:] = before
    # Levels are remembered by each logger below.
    logger.manager._clear_cache()
