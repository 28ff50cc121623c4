"""Starts the server with a made-up world around it, as no setting of a real one could.

Run as ``python -m tests.integration.launcher PLAN`` where PLAN is a JSON file of these members, all
of which may be missing:

* names: host name -> IP address, which the process resolves in addition to real names.
* peers: the coin's hard-coded peers, as real names.
* public_but: peers on loopback count as public, except for these addresses, and are connected to
  from the address of our own first service, as they would be from a public one.
* loopback_has_groups: clients from loopback share costs by subnet, as those from elsewhere do.
* constants: "module:NAME", or "module:Class.NAME" -> value.
* format: "module:Class", a coin's format, whose made-up coin COIN and NET find.
* genesis_hash: that coin's.
"""

import importlib
import json
import socket
import sys
from functools import partial
from pathlib import Path

from tests.integration.processes import Child
from tests.integration.server import ServerProcess


def _inject_names(names):
    real = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        text = host.decode() if isinstance(host, bytes) else host
        return real(names.get(text, host), *args, **kwargs)

    socket.getaddrinfo = getaddrinfo


def _inject_public_loopback(private):
    from electrumx.server.peers import manager as peer_manager
    from electrumx.server.peers.routes import PeerRoutes
    from electrumx.server.session import manager

    class LoopbackRoutes(PeerRoutes):
        def local_host_for(self, _peer, family):
            hosts = [s.host for s in self.env.services if s.protocol != "rpc"]
            return str(hosts[0]) if family == socket.AF_INET else None

    peer_manager.PeerRoutes = LoopbackRoutes
    manager.PeerManager = partial(
        peer_manager.PeerManager,
        is_public=lambda peer: peer.is_valid and peer.host not in private,
        request_timeout=30.0,
    )


def _inject_groups():
    from electrumx.server.session.engine import session_groups

    session_groups.is_exempt = lambda host: host.is_private and not host.is_loopback


def _inject_peers(peers):
    from electrumx.lib.coins import Coin
    from electrumx.server.env import Env

    coin = Coin.lookup_coin_class(Env.required("COIN"), Env.default("NET", "mainnet"))
    coin.PEERS = peers


# A class is collected when only its parent refers to it.
_made_coins = []


def _inject_coin(path, genesis_hash):
    module_name, _colon, class_name = path.partition(":")
    coin = getattr(importlib.import_module(module_name), class_name).made_coin()
    coin.GENESIS_HASH = genesis_hash
    _made_coins.append(coin)


def inject(plan):
    """Change the process by the plan."""
    if "names" in plan:
        _inject_names(plan["names"])
    if "public_but" in plan:
        _inject_public_loopback(plan["public_but"])
    if plan.get("loopback_has_groups"):
        _inject_groups()
    if "format" in plan:
        _inject_coin(plan["format"], plan["genesis_hash"])
    if "peers" in plan:
        _inject_peers(plan["peers"])
    for name, value in plan.get("constants", {}).items():
        module_name, _colon, attribute = name.partition(":")
        class_name, _dot, attribute = attribute.rpartition(".")
        owner = importlib.import_module(module_name)
        owner = getattr(owner, class_name) if class_name else owner
        assert hasattr(owner, attribute), name
        setattr(owner, attribute, value)


class InjectedServer(ServerProcess):
    """A ServerProcess that starts by a plan."""

    def __init__(self, folder, node_env, plan, **kwargs):
        super().__init__(folder, node_env, **kwargs)
        self._plan_file = folder / "plan.json"
        self._plan_file.write_text(json.dumps(plan))

    def launch(self):
        log = self.folder / "server.log"
        self._log_start = len(log.read_text(errors="replace")) if log.exists() else 0
        command = [sys.executable, "-m", __name__, self._plan_file]
        self.child = Child("server", command, folder=self.folder, env=self.env)
        return self


def main():
    """Run the server by the plan that the command line names."""
    inject(json.loads(Path(sys.argv[1]).read_text()))
    from electrumx.cli.server import main as server_main

    return server_main([])


if __name__ == "__main__":
    sys.exit(main())
