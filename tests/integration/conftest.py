"""Fixtures of the integration tests: nodes, our server and wallets, all stopped afterwards."""

from contextlib import ExitStack

import pytest

from tests.integration.nodes import Bcoin, BitcoinSVNode, Litecoind
from tests.integration.server import ServerProcess
from tests.integration.wallets import BDKWallet, ElectrumWallet


@pytest.fixture
def stopping():
    """An ExitStack that ends with the test: for whatever a test starts itself."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def litecoind(tmp_path, stopping):
    """A running litecoind without MWEB, its chain empty."""
    return stopping.enter_context(Litecoind(tmp_path / "litecoind"))


@pytest.fixture
def mweb_litecoind(tmp_path, stopping):
    """A running litecoind whose extension blocks start at height 432, its chain empty."""
    return stopping.enter_context(Litecoind(tmp_path / "litecoind", mweb=True))


@pytest.fixture
def bitcoin_sv(tmp_path, stopping):
    """A running Bitcoin SV node, its chain empty."""
    return stopping.enter_context(BitcoinSVNode(tmp_path / "bitcoin-sv"))


@pytest.fixture
def bcoin(tmp_path, stopping):
    """A running bcoin, its chain empty."""
    return stopping.enter_context(Bcoin(tmp_path / "bcoin"))


@pytest.fixture
def server_for(tmp_path, stopping):
    """Function: start our server over a node, with further settings; the ServerProcess."""

    def start(node, name="server", **kwargs):
        return stopping.enter_context(ServerProcess(tmp_path / name, node.env, **kwargs))

    return start


@pytest.fixture
def electrum_for(tmp_path, stopping):
    """Function: start Electrum on a ServerProcess by tcp ("t") or TLS ("s")."""

    def start(server, *, transport="t", litecoin=False, name="electrum"):
        port = server.ports["ssl" if transport == "s" else "tcp"]
        address = f"127.0.0.1:{port}:{transport}"
        wallet = ElectrumWallet(tmp_path / name, address, litecoin=litecoin)
        return stopping.enter_context(wallet)

    return start


@pytest.fixture
def bdk_for():
    """Function: a BDK wallet on a ServerProcess."""

    def start(server, **kwargs):
        return BDKWallet(f"tcp://127.0.0.1:{server.ports['tcp']}", **kwargs)

    return start
