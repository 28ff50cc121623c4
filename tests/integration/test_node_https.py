"""A node over https: its certificate is verified, for JSON-RPC and for REST."""

import os
import ssl

import pytest

from tests.fakes.chain import ChainMaker
from tests.fakes.fake_node import FakeNode
from tests.fakes.node_thread import NodeThread
from tests.integration.server import ServerProcess, certificate, wait_until

HEIGHT = 30


@pytest.fixture
def node():
    maker = ChainMaker(seed=3)
    blocks = maker.chain(maker.grow(maker.genesis_hash, HEIGHT))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate())
    node = FakeNode(blocks)
    node.tls = tls
    node.rest = HEIGHT * 2
    with NodeThread(node=node) as thread:
        yield thread


@pytest.mark.parametrize("is_relative", [False, True], ids=["absolute", "relative"])
def test_blocks_of_a_node_whose_certificate_is_trusted_are_indexed(tmp_path, node, is_relative):
    cert, _key = certificate()
    # The server changes its directory before it asks the node.
    path = os.path.relpath(cert, tmp_path) if is_relative else cert
    variables = {"SSL_CERT_FILE": path, "SSL_CERT_DIR": os.devnull}
    with ServerProcess(tmp_path, node.env, **variables) as server:
        server.wait_height(HEIGHT)
    paths = node.do(lambda node: list(node.rest_paths))
    assert sum(path.startswith("/rest/block/") for path in paths) > 1


def test_a_node_whose_certificate_is_not_trusted_is_asked_nothing(tmp_path, node):
    server = ServerProcess(tmp_path, node.env)
    server.launch()
    try:
        server.wait_log("connection problem .*TLS: its certificate is not trusted, self")
        wait_until(
            lambda: node.do(lambda node: node.connections == set()), what="end of connections"
        )
        assert node.do(lambda node: node.bodies) == []
    finally:
        server.kill()
