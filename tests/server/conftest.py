"""Fixtures of several tests of the server's parts."""

import pytest

from electrumx.lib.coins import BitcoinCashRegtest
from electrumx.server.block_processor import compiled_indexer
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.block_processor.variants import LTORBlockProcessor
from tests.conftest import require
from tests.fakes.chain import COIN


@pytest.fixture(params=["leveldb", "rocksdb"])
def engine(request):
    """The name of a database engine, each in its turn."""
    if request.param == "rocksdb":
        pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")
    return request.param


@pytest.fixture(params=["python", "compiled"])
def indexer(request):
    """The form of indexing, each in its turn."""
    if request.param == "compiled":
        require(compiled_indexer.compiled, "the Cython modules were not built")
    return request.param


@pytest.fixture(params=[False, True], ids=["topological", "any order"])
def order(request):
    """(processor class, coin, whether blocks are sorted by transaction hash)"""
    if request.param:
        return LTORBlockProcessor, BitcoinCashRegtest, True
    return BlockProcessor, COIN, False


@pytest.fixture
def tool_environment(bare_environment, tmp_path, engine):
    """All but COIN that a tool for a stopped server's database needs, in the environment."""
    bare_environment.setenv("DB_DIRECTORY", str(tmp_path))
    bare_environment.setenv("DB_ENGINE", engine)
    bare_environment.setenv("NET", "regtest")
    # The tools set it for themselves, for good: so it is undone after the test.
    bare_environment.setenv("DAEMON_URL", "")
    return bare_environment
