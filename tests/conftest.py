"""Fixtures for every test: a free port, a short temporary folder, a bare environment.

A test that lacks something outside the tree (a node, a wallet, an optional package) calls
`require`: it is skipped with a printed reason on a developer's machine and fails where the
environment variable CI is set, so that nothing is left out of a build unseen.
"""

import logging
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest

from tests.ports import free_port

# No deadline, and slow draws are no failure: a loaded machine is no fault of the code's.  A build
# judges a change, not luck, so it tries the same examples each time; everywhere else each run looks
# for new ones.
hypothesis.settings.register_profile(
    "repository",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repository")

if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # Below nohup servers would ignore the signal, too.  What is handled is not inherited.
    signal.signal(signal.SIGHUP, lambda _signum, _frame: None)

REPOSITORY = Path(__file__).resolve().parent.parent


def require(condition, reason):
    """Go on if condition is true; else skip, or fail when CI is set, with reason."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must not leave this out: {reason}", pytrace=False)
    pytest.skip(reason)


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


@pytest.fixture
def bare_environment(monkeypatch):
    """No setting is in the environment; returns a MonkeyPatch to set some during the test."""
    for name in list(os.environ):
        if re.fullmatch(r"[A-Z][A-Z_0-9]*", name) and name not in ("PATH", "HOME"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture(autouse=True)
def _logger_as_it_was():
    """Undo what a test did to the server's logger: others read its lines through caplog."""
    logger = logging.getLogger("electrumx")
    before = logger.level, logger.propagate, logger.handlers[:]
    yield
    level, logger.propagate, logger.handlers[:] = before
    # Levels are remembered by each logger below, until one is set.
    logger.setLevel(level)
