"""What several tests of the server's parts ask for."""

import pytest


@pytest.fixture(params=["leveldb", "rocksdb"])
def engine(request):
    """The name of a database engine, each in its turn."""
    if request.param == "rocksdb":
        pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")
    return request.param
