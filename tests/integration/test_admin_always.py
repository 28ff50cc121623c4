"""The administrator is answered whatever the node does: absent, starting, busy, half-synced."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.conftest import REPOSITORY
from tests.fakes.chain import COIN
from tests.fakes.fake_node import Fault
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration.server import ServerProcess
from tests.ports import free_port

HEIGHT = 60
# An answer at once, on a machine that is busy with other tests
AT_ONCE_SECS = 25


@pytest.fixture
def node(stopping):
    maker, tip = small_chain(HEIGHT)
    return stopping.enter_context(NodeThread(maker.chain(tip)))


@pytest.fixture
def launch(tmp_path, stopping):
    """Function: start a server whose administration port alone will open; the ServerProcess."""

    def start(node_env, **settings):
        server = ServerProcess(tmp_path, node_env, protocols=("rpc",), **settings).launch()
        stopping.callback(server.kill)
        server.wait_log("RPC server listening on ")
        return server

    return start


def run(server, *words, status=0):
    """The output of electrumx_rpc."""
    env = {"PATH": os.environ["PATH"], "RPC_PORT": str(server.ports["rpc"])}
    command = [sys.executable, str(REPOSITORY / "electrumx_rpc"), *words]
    start = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert time.monotonic() - start < AT_ONCE_SECS
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    return done.stdout


def assert_every_command_is_answered(server, daemon_url):
    """Those that need a chain are refused; no command hangs or fails otherwise."""
    info = json.loads(run(server, "getinfo"))
    assert info["db height"] == -1
    assert info["coin"] == COIN.__name__
    assert run(server, "sessions").count("\n") == 2
    # The heading, and the group of this machine's clients
    assert run(server, "groups").count("\n") == 2
    assert run(server, "peers").count("\n") == 1
    assert json.loads(run(server, "log", "new")) == ["logging new sessions"]
    assert json.loads(run(server, "disconnect", "99999")) == ["unknown: 99999"]
    assert "still catching up" in run(server, "reorg", status=1)
    assert "still catching up" in run(server, "query", "6a", status=1)
    assert "now using daemon at" in run(server, "daemon_url", daemon_url)
    return info


def test_before_the_node_answers_every_command_is_answered(launch):
    url = f"http://user:password@127.0.0.1:{free_port()}/"
    server = launch({"COIN": "Bitcoin", "NET": "regtest", "DAEMON_URL": url})
    info = assert_every_command_is_answered(server, url)
    assert info["daemon height"] is None
    assert run(server, "stop") == '"stopping"\n'
    assert server.wait_exit(20) == 0
    assert "Traceback" not in server.log()


def test_a_server_is_pointed_to_another_node_while_the_first_is_away(launch, node):
    url = f"http://user:password@127.0.0.1:{free_port()}/"
    server = launch({"COIN": "Bitcoin", "NET": "regtest", "DAEMON_URL": url})
    assert "now using daemon at" in run(server, "daemon_url", node.env["DAEMON_URL"])
    server.wait_log(f"caught up to height {HEIGHT}", timeout=120)


def test_a_node_that_hangs_delays_no_command(launch, node):
    node.do(lambda node: node.fail_next(*[Fault.HANG] * 50))
    server = launch(node.env)
    assert_every_command_is_answered(server, node.env["DAEMON_URL"])


def test_a_node_that_is_starting_delays_no_command(launch, node):
    node.do(lambda node: node.fail_next(*[Fault.WARMING_UP] * 1000))
    server = launch(node.env)
    server.wait_log("starting up")
    assert_every_command_is_answered(server, node.env["DAEMON_URL"])
