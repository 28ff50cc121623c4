"""Servers behind HAProxy, by contrib/cluster: they are lost, added and restarted under load.

The short form has a few wallets; the long one, `make soak`, has 300.
"""

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from itertools import chain

import pytest

from electrumx.cli.restore import make_parser
from tests.conftest import REPOSITORY, require
from tests.integration.client import ElectrumClient
from tests.integration.howto import Shell, block, literal_blocks
from tests.integration.nodes import Litecoind
from tests.integration.replicas import (
    CLUSTER,
    Balancer,
    Wallet,
    World,
    balancer_text,
    fund,
    status_of,
)
from tests.integration.server import ServerProcess, wait_until
from tests.integration.test_deployment import assert_settings_are_valid, documented_variables
from tests.integration.test_restore import served
from tests.integration.test_verify_node import rpc, type_in

#: until every wallet has what it waits for, after the last block
END_SECS = 150
SERVICES = ("tcp", "ssl", "ws", "wss", "rpc", "metrics")
DROP_IN = CLUSTER / "electrumx@.service.d" / "instance.conf"
BEHIND = ("tcp", "ssl", "wss")


class Replica(ServerProcess):
    """A server of the cluster; its service ws is not behind the balancer."""

    def __init__(self, folder, node, **settings):
        super().__init__(folder, node.env, protocols=SERVICES, DB_ENGINE="leveldb", **settings)
        behind = [f"{name}://127.0.0.1:{self.ports[name]}" for name in BEHIND]
        self.env["PROXY_PROTOCOL"] = ",".join(behind)

    def is_ready(self):
        """Whether /readyz has status 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["metrics"], timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def wait_ready(self):
        self.child.wait_for(self.is_ready, what="readiness", timeout=120)
        return self


class Cluster:
    """Three servers that run and a fourth that does not, behind a balancer, over one node."""

    def __init__(self, folder, node):
        self.node = node
        self.replicas = {
            name: Replica(folder / name, node, READY_DRAIN_SECS=1)
            for name in ("e1", "e2", "e3", "e4")
        }
        ports = {name: replica.ports for name, replica in self.replicas.items()}
        (folder / "haproxy").mkdir()
        self.balancer = Balancer(folder / "haproxy", ports)
        self.folder = folder

    def __enter__(self):
        for name in ("e1", "e2", "e3"):
            self.replicas[name].launch()
        self.balancer.__enter__()
        for name in ("e1", "e2", "e3"):
            self.replicas[name].wait_ready()
            self.balancer.wait_status(name, "UP")
        return self

    def __exit__(self, *_exc):
        self.balancer.__exit__()
        for replica in self.replicas.values():
            if replica.child:
                replica.kill()

    def sources(self, name):
        """The addresses of a server's clients, as the server knows them; not the balancer's."""
        found = re.findall(r"127\.[\d.]+(?=:\d)", json.dumps(self.replicas[name].rpc("sessions")))
        return [address for address in found if address != "127.0.0.1"]

    # The events; each runs in a thread.

    def lose(self, name):
        """A machine is lost."""
        self.replicas[name].kill()
        wait_until(lambda: self.balancer.status(name).startswith("DOWN"), what="loss")

    def hang(self, name):
        """A machine does not answer at all for a while."""
        os.kill(self.replicas[name].child.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: self.balancer.status(name).startswith("DOWN"), what="loss")
            wait_until(lambda: self.balancer.sessions(name) == 0, what="end of sessions")
        finally:
            os.kill(self.replicas[name].child.pid, signal.SIGCONT)
        self.balancer.wait_status(name, "UP")

    def return_(self, name):
        """It is there again."""
        self.replicas[name].launch().wait_ready()
        self.balancer.wait_status(name, "UP")

    def drain(self, name):
        """A server is taken out by hand, and comes back."""
        self.balancer.set_state(name, "drain")
        before = {key: int(row["stot"]) for key, row in self.balancer.stat().items() if name in key}
        time.sleep(1)
        after = {key: int(row["stot"]) for key, row in self.balancer.stat().items() if name in key}
        self.balancer.set_state(name, "maint")
        wait_until(lambda: self.balancer.sessions(name) == 0, what="end of sessions")
        self.balancer.set_state(name, "ready")
        self.balancer.wait_status(name, "UP")
        assert before == after, "wallets were sent to a server that drains"

    def upgrade(self, name):
        """A server is restarted by the script of contrib/cluster."""
        asked, done = self.folder / f"restart-{name}", self.folder / f"restarted-{name}"
        # The script's command is one of another machine, where this process stands.
        command = f"sh -c 'touch {asked}; until [ -f {done} ]; do sleep 0.05; done'"
        words = [CLUSTER / "rolling-restart", "--socket", self.balancer.admin]
        words += ["--drain-secs", "1", "--ready-secs", "120", "--restart", command, name]
        with subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, text=True
        ) as script:
            while not asked.exists():
                assert script.poll() is None
                time.sleep(0.02)
            self.replicas[name].terminate()
            self.replicas[name].launch()
            done.touch()
            out = script.communicate(timeout=200)[0]
        assert script.returncode == 0
        assert [line.partition(",")[0] for line in out.splitlines()] == [
            f"{name}: draining",
            f"{name}: restarting",
            f"{name}: ready",
        ]
        self.balancer.wait_status(name, "UP")

    def add(self, name, source):
        """A server begins with the snapshot of another."""
        snapshot = self.folder / "snapshot"
        rpc(self.replicas[source], "backup", str(snapshot))
        database = self.replicas[name].folder / "db"
        settings = {"COIN": "Litecoin", "NET": "regtest", "DB_ENGINE": "leveldb"}
        with served(snapshot) as url:
            type_in("electrumx_restore", url, str(database), env=settings)
        self.replicas[name].launch().wait_ready()
        self.balancer.wait_status(name, "UP")


async def mine(world, secs):
    """Find blocks until this is cancelled."""
    while True:
        await asyncio.sleep(secs)
        await asyncio.to_thread(world.mine)


async def tips_and_statuses(replica, wallets):
    """A server's tip, and the status of each wallet, not through the balancer."""
    async with replica.connect("ws") as client:
        await client.hello()
        tip = (await client.call("blockchain.headers.subscribe"))["hex"]
        calls = [("blockchain.scripthash.subscribe", wallet.scripthash) for wallet in wallets]
        return tip, await client.call_many(calls)


async def live_through(cluster, world, wallets, *, block_secs, pause_secs, hangs):
    """All that happens to the cluster, while wallets use it."""
    tasks = [asyncio.ensure_future(wallet.run()) for wallet in wallets]
    miner = asyncio.ensure_future(mine(world, block_secs))
    lag = asyncio.ensure_future(world.watch_lag())
    events = [
        ("a server is killed", cluster.lose, "e1"),
        ("one is added", cluster.add, "e4", "e2"),
        ("one is drained", cluster.drain, "e2"),
        ("one is upgraded", cluster.upgrade, "e3"),
        ("the killed one is back", cluster.return_, "e1"),
    ]
    if hangs:
        events.append(("one hangs", cluster.hang, "e3"))
    try:
        wait_secs = 0.0
        while any(wallet.status is None for wallet in wallets):
            await asyncio.sleep(0.1)
            wait_secs += 0.1
            assert wait_secs < END_SECS
        sources = [await asyncio.to_thread(cluster.sources, name) for name in ("e1", "e2", "e3")]
        assert sorted(chain(*sources)) == sorted(wallet.source for wallet in wallets)
        for event, act, *names in events:
            await asyncio.sleep(pause_secs)
            world.event = event
            await asyncio.to_thread(act, *names)
        await asyncio.sleep(pause_secs)
        miner.cancel()
        await asyncio.gather(miner, return_exceptions=True)
        world.event = "the end"
        # Unconfirmed transactions go into one block, and the wallets begin nothing more.
        world.ending = True
        while any(wallet.raw for wallet in wallets):
            await asyncio.sleep(0.1)
        await asyncio.to_thread(world.mine)
        _done, late = await asyncio.wait(tasks, timeout=END_SECS)
        assert not late, [
            *world.wrong,
            *(wallet.state() for wallet in wallets if not wallet.is_done()),
        ]
        await asyncio.gather(*tasks)
    finally:
        await end_all([*tasks, miner, lag])


async def end_all(tasks):
    """Cancel tasks until they end: wait_for of Python 3.11 may lose a cancellation."""
    while tasks:
        for task in tasks:
            task.cancel()
        _done, tasks = await asyncio.wait(tasks, timeout=1)


def report(world, wallets):
    """A line about the figures of the wallets."""
    gaps = ", ".join(f"{event} {secs:.2f} s" for event, secs in world.longest_gaps().items())
    return (
        f"{len(wallets)} wallets: {world.answers:,d} answers, {world.notifications:,d} notifications, "
        f"{world.broadcasts:,d} broadcasts, {world.proofs:,d} proofs; {len(world.gaps):,d} gaps, the "
        f"longest: {gaps}; the longest wait for an answer {world.longest_wait:.2f} s; the wallets' "
        f"own loop was late by {world.longest_lag:.2f} s at most"
    )


async def assert_served_while_none_is_ready(cluster):
    """Wallets get to servers that run, though the balancer finds none ready."""
    for name in cluster.replicas:
        cluster.balancer.set_state(name, "maint")
    async with ElectrumClient.connect("tcp", cluster.balancer.ports["tcp"]) as client:
        await client.hello()
        tip = await client.call("blockchain.headers.subscribe")
    assert tip["height"] == cluster.node.height()
    stat = cluster.balancer.stat()
    for name in cluster.replicas:
        assert stat["servers_tcp", name]["status"].startswith("MAINT")


async def scenario(folder, count, **how):
    """Run it, and check all."""
    with Litecoind(folder / "litecoind") as node:
        txid, value = fund(node, count)
        world = World(node)
        for height in range(node.height() - 1, node.height() + 1):
            world.learn_block(height)
        world.tip = node.height()
        with Cluster(folder, node) as cluster:
            wallets = [Wallet(world, cluster.balancer, n, count, txid, value) for n in range(count)]
            await live_through(cluster, world, wallets, **how)
            print(report(world, wallets))
            assert world.wrong == []
            assert [line for wallet in wallets for line in wallet.check()] == []
            replicas = cluster.replicas.values()
            found = [await tips_and_statuses(replica, wallets) for replica in replicas]
            assert found[0][1] == [wallet.status for wallet in wallets]
            assert found[1:] == found[:-1]
            await assert_served_while_none_is_ready(cluster)
            for replica in replicas:
                assert "Traceback" not in replica.log()
    return world


@pytest.mark.daemon
@pytest.mark.slow
async def test_wallets_get_every_answer_while_servers_come_and_go(short_tmp):
    world = await scenario(short_tmp, 30, block_secs=1.0, pause_secs=0.5, hangs=False)
    assert world.broadcasts > 60
    assert world.proofs > 60


@pytest.mark.daemon
@pytest.mark.soak
async def test_300_wallets_get_every_answer_while_servers_come_and_go(short_tmp):
    world = await scenario(short_tmp, 300, block_secs=6.0, pause_secs=15.0, hangs=True)
    assert world.broadcasts > 3_000


def test_a_wallet_notices_statuses_that_no_right_server_reports(tmp_path):
    world = World(node=None, heights={"aa": 5, "bb": 7}, tip=7)
    balancer = Balancer(tmp_path, {})
    wallet = Wallet(world, balancer, 0, 1, "aa", 1_000)
    wallet.txids = ["aa", "bb"]
    first, both = status_of([("aa", 5)]), status_of([("aa", 5), ("bb", 7)])
    waiting = status_of([("aa", 5), ("bb", 0)])
    wallet.status, wallet.seen = both, [(s, None, None) for s in (first, waiting, both)]
    assert list(wallet.check()) == []

    wallet.seen = [(first, 6, 6), (waiting, 6, 6), (both, 7, 7), (first, 6, 7)]
    assert list(wallet.check()) == []
    wallet.seen = [(first, 7, 7), (both, 6, 6), (status_of([("bb", 7)]), None, None), (None, 7, 7)]
    assert len(list(wallet.check())) == 4
    wallet.seen, wallet.status = [], waiting
    assert len(list(wallet.check())) == 1


# --- the files of contrib/cluster


def test_haproxy_accepts_the_configuration(tmp_path):
    balancer = Balancer(tmp_path, {"e1": dict.fromkeys(SERVICES, 1)})
    words, variables = balancer.command("-c")
    text = (CLUSTER / "haproxy.cfg").read_text()
    # This machine may have no such user.
    for line in ("    user haproxy\n", "    group haproxy\n"):
        assert line in text
        text = text.replace(line, "")
    balancer.file.write_text(text)
    done = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=120)
    # Version 3 prints nothing for a valid one.
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout in ("", "Configuration file is valid\n")
    assert "[WARNING]" not in done.stderr


def test_the_configuration_with_other_addresses_has_every_server_of_every_service():
    servers = {name: {"tcp": 1, "ssl": 2, "wss": 3, "metrics": 4} for name in ("e1", "e9")}
    text = balancer_text(servers, {"tcp": 5, "ssl": 6, "wss": 7}, "/x/admin.sock")

    assert not re.search(r"^ .*10\.0\.0\.", text, re.MULTILINE)
    assert text.count("track ready/e9\n") == text.count("track alive/e9 backup\n") == 3
    assert text.count("server e9 127.0.0.1:4\n") == 2


def merged(*files):
    """{setting: value} of a unit and its drop-ins; an empty value clears a setting."""
    found = {}
    for file in files:
        for key, value in re.findall(r"^(\w+)=(.*)$", file.read_text(), re.MULTILINE):
            found[key] = [*found.get(key, []), value] if value else []
    return found


def settings_of(*files):
    """{variable: value} of files of the environment."""
    return {key: values[-1] for key, values in merged(*files).items()}


def test_each_server_of_a_machine_has_files_of_its_own():
    unit = merged(CLUSTER.parent / "systemd" / "electrumx.service", DROP_IN)
    settings = settings_of(CLUSTER / "1.conf")

    assert "EnvironmentFile" not in unit
    (command,) = unit["ExecStart"]
    assert command.endswith("/electrumx_server --config /etc/electrumx/%i.conf")
    for directory, setting in (("State", "DB_DIRECTORY"), ("Runtime", "SERVICES")):
        (name,) = unit[f"{directory}Directory"]
        place = {"State": "/var/lib", "Runtime": "rpc:///run"}[directory]
        assert f"{place}/{name.replace('%i', '1')}" in settings[setting]
    assert unit["PartOf"] == ["electrumx.target"]
    target = merged(CLUSTER / "electrumx.target")
    assert target["Wants"] == ["electrumx@1.service electrumx@2.service"]


def test_the_settings_of_the_cluster_are_documented_and_valid():
    settings = settings_of(CLUSTER / "1.conf")

    assert set(settings) <= documented_variables()
    assert_settings_are_valid(settings)


def test_the_balancer_and_the_settings_agree():
    settings = settings_of(CLUSTER / "1.conf")
    services = settings["SERVICES"].split(",")
    text = (CLUSTER / "haproxy.cfg").read_text()

    behind = [name for name in services if not name.startswith(("metrics:", "rpc:"))]
    assert settings["PROXY_PROTOCOL"].split(",") == behind
    servers = set(re.findall(r"server e1(?:-behind)? (\S+)", text))
    assert servers == {name.partition("://")[2] for name in services if "rpc" not in name}
    reported = [name.rpartition(":")[2] for name in settings["REPORT_SERVICES"].split(",")]
    assert reported == re.findall(r"bind :(\d+)", text)
    # Two checks fail before the listeners close.
    assert int(settings["READY_DRAIN_SECS"]) >= 2 * 2


def test_a_rolling_restart_stops_when_wallets_would_have_no_server(tmp_path):
    servers = {name: dict.fromkeys(SERVICES, 1) for name in ("e1", "e2")}
    words = [sys.executable, CLUSTER / "rolling-restart", "--restart", "touch restarted"]
    with Balancer(tmp_path, servers) as balancer:
        balancer.wait_status("e1", "DOWN")
        for name, reason in (("e1", "no server but e1 is up"), ("e7", "has no server e7")):
            done = subprocess.run(
                [*words, "--socket", balancer.admin, name],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 1
            assert reason in done.stderr
            assert done.stderr.count("\n") == 1
    assert not (tmp_path / "restarted").exists()


def test_the_commands_of_the_manual_fit_the_files(tmp_path):
    blocks = literal_blocks((REPOSITORY / "docs" / "cluster.rst").read_text())
    backup, opened, restored, verified, checked, installed, rolled = blocks

    assert backup == block("electrumx_rpc backup")
    # As the systemd unit's umask makes it, and open to a web server afterwards.
    snapshot = tmp_path / "backups" / "electrumx-1"
    (snapshot / "utxo").mkdir(parents=True)
    (snapshot / "utxo" / "CURRENT").touch()
    Shell(tmp_path).run(f"chmod -R go= {snapshot.parent}")
    Shell(tmp_path).run(opened.replace("/srv/", f"{tmp_path}/"))
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (snapshot.parent, *snapshot.rglob("*"))]
    assert modes == [0o711, 0o755, 0o644]
    shutil.rmtree(snapshot.parent)
    assert make_parser().parse_args(restored.split()[1:]).directory == "/var/lib/electrumx/4"
    assert verified == "electrumx_verify --deep"
    assert checked == "haproxy -c -f /etc/haproxy/haproxy.cfg"
    assert rolled.split()[0] == str((CLUSTER / "rolling-restart").relative_to(REPOSITORY))
    put, reload, _enable = installed.partition("systemctl daemon-reload")
    assert reload
    (tmp_path / "etc" / "systemd" / "system").mkdir(parents=True)
    # There may be no such group.
    put = put.replace("-g electrumx ", "")
    Shell(tmp_path).run(re.sub(r" (?=/etc/)", f" {tmp_path}", put))
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        "etc/systemd/system/electrumx@.service",
        "etc/systemd/system/electrumx@.service.d/instance.conf",
        "etc/systemd/system/electrumx.target",
        "etc/electrumx/1.conf",
    }


def test_systemd_accepts_the_template(tmp_path):
    require(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    (tmp_path / "electrumx@.service.d").mkdir()
    for source, target in (
        (CLUSTER.parent / "systemd" / "electrumx.service", tmp_path / "electrumx@.service"),
        (DROP_IN, tmp_path / "electrumx@.service.d" / DROP_IN.name),
    ):
        # The program is not installed here.
        text = re.sub(
            r"^(ExecStart=)\S+", rf"\g<1>{sys.executable}", source.read_text(), flags=re.M
        )
        target.write_text(text)
    shutil.copy(CLUSTER / "electrumx.target", tmp_path)
    (tmp_path / "electrumx@1.service").symlink_to("electrumx@.service")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "electrumx@1.service"],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    ours = [line for line in done.stderr.splitlines() if "electrumx" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
