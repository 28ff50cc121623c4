"""No two test processes are given the same port, nor one that an outgoing connection may have."""

import json
import socket
import subprocess
import sys

import pytest

from tests import ports
from tests.conftest import REPOSITORY

COUNT = 300
ASK = f"""
import json, sys
from tests.ports import free_ports
print(json.dumps(free_ports({COUNT})), flush=True)
sys.stdin.read()
"""


def test_processes_at_the_same_time_are_given_different_ports():
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", ASK],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        given = [port for process in asking for port in json.loads(process.stdout.readline())]
    finally:
        for process in asking:
            process.communicate()
    assert len(set(given)) == len(given) == 3 * COUNT
    assert not set(given) & set(ports.outgoing_range())


@pytest.fixture
def claims(monkeypatch):
    """As if the process had just begun."""
    claims = ports.Claims()
    monkeypatch.setattr(ports, "claims", claims)
    yield claims
    for made in {claims, ports.claims}:
        made.close()


def test_a_fork_is_given_other_ports_than_its_parent(claims):
    ours = ports.free_ports(ports.BLOCK)
    claims.pid = 0
    assert not set(ours) & set(ports.free_ports(ports.BLOCK))


def test_a_port_in_use_is_passed_over(claims, monkeypatch):
    monkeypatch.setattr(ports, "MAX_BLOCKS", 1)
    port = ports.free_port()
    with socket.create_server((ports.HOST, port)):
        # The block comes round again.
        assert port not in ports.free_ports(2 * ports.BLOCK)
    assert port in ports.free_ports(ports.BLOCK)


def test_ports_are_given_even_where_outgoing_connections_may_have_any(
    claims, monkeypatch, tmp_path
):
    everything = tmp_path / "range"
    everything.write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "RANGE_FILE", everything)
    assert ports.free_port() in range(10_000, 65_535)


def test_without_the_systems_range_the_customary_one_is_avoided(claims, monkeypatch, tmp_path):
    monkeypatch.setattr(ports, "RANGE_FILE", tmp_path / "missing")
    assert ports.free_port() < 49_152
