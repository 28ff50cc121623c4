"""Fixtures of several tests of the server's parts."""

import pytest


@pytest.fixture(params=["leveldb", "rocksdb"])
def engine(request):
    """The name of a database engine, each in its turn."""
    if request.param == "rocksdb":
        pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")
    return request.param


@pytest.fixture
def tool_environment(bare_environment, tmp_path, engine):
    """All but COIN that a tool for a stopped server's database needs, in the environment."""
    bare_environment.setenv("DB_DIRECTORY", str(tmp_path))
    bare_environment.setenv("DB_ENGINE", engine)
    bare_environment.setenv("NET", "regtest")
    # The tools set it for themselves, for good: so it is undone after the test.
    bare_environment.setenv("DAEMON_URL", "")
    return bare_environment
