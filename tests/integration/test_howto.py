"""The commands of the HOWTO and the README run, and print the output that these show.

A block is run as it is but for the values of the reader's machine: paths, ports, the node.
The sections on supervision are tried in test_deployment.
"""

import getpass
import json
import os
import re
import shutil
import ssl
import subprocess
import sys

import pytest

from electrumx.lib.hash import double_sha256
from tests.conftest import REPOSITORY, require
from tests.fakes.chain import COIN
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration import client as electrum
from tests.integration import nodes, parts, test_deployment
from tests.integration.howto import Shell, block, literal_blocks, page_blocks
from tests.integration.processes import Child
from tests.integration.server import _accepts, wait_until
from tests.integration.test_deployment import certificate_shown
from tests.lint.test_sourcecode import tracked_files
from tests.ports import free_port, free_ports

HEIGHT = 30
START_SECS = 150
INSTALL_SECS = 250

# The beginning of each block that is typed, and the test that does.
TYPED = {
    "HOWTO": {
        "server=1": "test_a_node_with_these_settings_has_what_the_server_needs",
        "python3 -m venv ~": "test_the_server_is_installed",
        "pip install .": "test_the_server_is_installed",
        "pip install '.": "test_the_server_is_installed",
        "make run": "test_make_knows_its_targets",
        "mkdir /srv": "test_the_server_runs_logs_answers_and_stops",
        "export COIN=Bitcoin\n": "test_the_server_runs_logs_answers_and_stops",
        "export COIN=Bitcoin NET": "test_a_small_experiment_needs_only_a_node",
        "mkdir -p ~/scripts": "test_daemontools_starts_restarts_and_stops_the_server",
        "cd ~/scripts": "test_daemontools_starts_restarts_and_stops_the_server",
        "ln -s": "test_daemontools_starts_restarts_and_stops_the_server",
        "svstat": "test_daemontools_starts_restarts_and_stops_the_server",
        "tail -F": "test_daemontools_starts_restarts_and_stops_the_server",
        "useradd": "test_the_unit_and_its_settings_are_put_in_place",
        "contrib/raspberrypi3/install": "test_the_pi_s_installer_requests_its_packages",
        "contrib/raspberrypi3/run": "test_the_pi_s_other_script_runs_the_server",
        "openssl req": "test_a_certificate_is_made_used_and_renewed",
        "openssl pkey": "test_a_certificate_is_made_used_and_renewed",
        "export SSL_CERTFILE": "test_a_certificate_is_made_used_and_renewed",
        "#!/bin/sh\ninstall": "test_a_certificate_is_made_used_and_renewed",
        "electrumx_rpc stop": "test_the_server_runs_logs_answers_and_stops",
        "electrumx_rpc query": "test_the_server_runs_logs_answers_and_stops",
        "electrumx_rpc backup": "test_the_server_runs_logs_answers_and_stops",
        "electrumx_rpc verify": "test_the_server_runs_logs_answers_and_stops",
        "electrumx_verify": "test_the_server_runs_logs_answers_and_stops",
        "electrumx_compact_history": "test_the_server_runs_logs_answers_and_stops",
        "COIN=Bitcoin DB_DIRECTORY": "test_the_server_runs_logs_answers_and_stops",
    },
    "README": {
        "make run": "test_make_knows_its_targets",
        "sudo apt-get": "test_the_server_runs_by_the_readme",
    },
}
NOT_TYPED = {
    "iptables": "it would change this machine's firewall",
    "systemctl daemon-reload": "this machine is not run by systemd",
    "systemctl status": "this machine is not run by systemd",
    "systemctl stop": "this machine is not run by systemd",
    "[Service]\nType=notify-reload": "this machine is not run by systemd",
    "runuser": "there is no such user on this machine; test_cli_check checks settings",
    "electrumx_rpc reload": "these settings are variables; test_reload has a file of them",
    "rpcwhitelist": "a setting of the node; test_node_settings gives one to a node",
    "zmqpubhashblock": "a setting of the node; test_announcements gives it to one",
    "zmqpubrawtx": "a setting of the node; tests/server/mempool/test_feed reads its messages",
    "docker build": "there is no container engine; test_deployment tries what the file says",
    "apt-get install": "it would install packages on this machine",
    "stream {": "the configuration of another program",
    "frontend electrum": "the configuration of another program",
    "HiddenServiceDir": "the configuration of another program",
    "HiddenServicePort": "the configuration of another program",
    "export SERVICES=tcp://127.0.0.1:50011": "it belongs to that configuration; test_proxies has such",
    "seconds =": "a formula",
    "REPORT_SERVICES=tcp": "it belongs to an onion address that does not exist",
}
# Lines of the log that appear only after errors, or after half a minute, and their tests.
NOT_SEEN_AT_ONCE = {
    "ERROR:Daemon:connection problem": "tests/server/daemon/test_client.py",
    "ERROR:Prefetcher:block 900,001": "tests/server/block_processor/test_prefetcher.py",
    "INFO:TipWatcher:the daemon at": "tests/integration/test_announcements.py",
    "WARNING:TipWatcher:the daemon at": "tests/server/daemon/test_tip_watcher.py",
    "WARNING:Prefetcher:the database is": "tests/server/test_strange_nodes.py",
    "INFO:BlockProcessor:sync 38.2%": "test_the_progress_line_is_as_shown",
}


def is_log(text):
    return re.match(r"(INFO|WARNING|ERROR):\w+:", text) is not None


@pytest.mark.parametrize("page", ["HOWTO", "README"])
def test_every_block_is_typed_or_has_a_reason_why_not(page):
    blocks = [text for text in page_blocks(page) if not is_log(text)]
    starts = [*TYPED[page], *(NOT_TYPED if page == "HOWTO" else [])]

    found = {start: [text for text in blocks if text.startswith(start)] for start in starts}

    assert dict.fromkeys(starts, 1) == {s: len(texts) for s, texts in found.items()}
    assert sorted(blocks) == sorted(text for texts in found.values() for text in texts)


@pytest.mark.parametrize("name", sorted({n for tests in TYPED.values() for n in tests.values()}))
def test_the_tests_that_type_exist(name):
    assert callable(globals().get(name) or getattr(test_deployment, name, None))


def test_blocks_are_found_by_their_indentation():
    page = (
        "Text::\n\n   one\n     more\n\n   two\n\nText.\n\n.. note::\n\n   Thus::\n\n      three\n"
    )

    assert ["one\n  more\n\ntwo", "three"] == literal_blocks(page)


# --- installing


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_the_server_is_installed(tmp_path):
    source = tmp_path / "electrumx"
    for path in tracked_files():
        target = source / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    # Without a compiler, as some readers are; tests/lint/test_packaging has one.
    shell = Shell(tmp_path, PIP_DISABLE_PIP_VERSION_CHECK=1, PIP_NO_COMPILE=1, CC="false")
    for name in ("PIP_CACHE_DIR", "PIP_INDEX_URL", "HTTPS_PROXY", "SSL_CERT_FILE"):
        if name in os.environ:
            shell.env[name] = os.environ[name]
    # A new home would mean to download everything again.
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
    )
    shell.env["PIP_CACHE_DIR"] = cache.stdout.strip()

    into = block("python3 -m venv ~")
    shell.run(
        "\n".join([into, block("pip install ."), block("pip install '.")]),
        cwd=source,
        timeout=INSTALL_SECS,
    )

    commands = tmp_path / "electrumx-venv" / "bin"
    assert "getinfo" in shell.run(f"{commands}/electrumx_rpc --help", cwd=tmp_path)
    told = shell.run(f"{commands}/electrumx_server", cwd=tmp_path, status=1)
    assert "required envvar DB_DIRECTORY not set" in told
    leveldb = "plyvel_next" if sys.version_info >= (3, 12) else "plyvel"
    imports = f"import electrumx, {leveldb}, rocksdict, uvloop; print(electrumx.__file__)"
    place = shell.run(f"{commands}/python -c '{imports}'", cwd=tmp_path)
    assert place.startswith(str(tmp_path / "electrumx-venv"))


@pytest.mark.parametrize("page", ["HOWTO", "README"])
def test_make_knows_its_targets(page):
    """Run dry: they take minutes, and other tests try them."""
    require(shutil.which("make"), "make is not installed")
    for line in block("make run", page=page).splitlines():
        command = line.partition("#")[0].strip()
        assert command.startswith("make ")
        Shell(REPOSITORY).run(command.replace("make", "make -n"))


# --- running


class Reader:
    """A reader who follows the manual, with a node, on ports and in folders of their own."""

    def __init__(self, folder, node):
        self.node = node
        self.folder = folder
        self.database = folder / "srv"
        self.tcp, self.tls, self.rpc = free_ports(3)
        self.shell = Shell(
            folder,
            PEER_DISCOVERY="off",
            DAEMON_POLL_INTERVAL_BLOCKS=100,
            DAEMON_POLL_INTERVAL_MEMPOOL=100,
        )
        # The server refuses RPC_PORT.
        self.client = Shell(folder, RPC_PORT=self.rpc)
        self.here = [
            ("/srv/electrumx", self.database),
            ("http://user:password@127.0.0.1:8332/", node.node.url),
            ("mainnet", "regtest"),
            ("tcp://:50001,rpc://", f"tcp://127.0.0.1:{self.tcp},rpc://127.0.0.1:{self.rpc}"),
        ]

    def start(self, script):
        """Type what starts the server; its Child, once wallets are served."""
        child = self.shell.start("server", script)
        child.wait_for(lambda: _accepts(self.tcp), what="tcp port", timeout=START_SECS)
        assert electrum.call(self.tcp, "blockchain.headers.subscribe")["height"] == HEIGHT
        return child


@pytest.fixture
def chain():
    """(maker, hash of the tip) of a chain of HEIGHT blocks."""
    return small_chain(HEIGHT)


@pytest.fixture
def reader(short_tmp, chain, stopping):
    maker, tip = chain
    return Reader(short_tmp, stopping.enter_context(NodeThread(maker.chain(tip))))


def line_pattern(line):
    """A pattern of a line of the log whose numbers and addresses may be others."""
    line = line.replace("all_interfaces", "127.0.0.1")
    line = re.sub(r"\d\dh \d\dm \d\ds", "DURATION", line)
    pattern = re.sub(r"[\d,.]*\d", r"[\\d,.]*\\d", re.escape(line).replace(r"\.", "."))
    pattern = pattern.replace("[\\d,.]*\\d...", "[0-9a-f]+")
    return pattern.replace("DURATION", "[0-9dhms ]+") + "$"


def logged_lines():
    """The lines of the log that the manual shows."""
    return [line for text in page_blocks("HOWTO") if is_log(text) for line in text.splitlines()]


def test_the_server_runs_logs_answers_and_stops(reader, chain, stopping):
    maker, tip = chain
    here = reader.here
    reader.shell.run(block("mkdir /srv", replacing=here[:1]))
    server = reader.start(block("export COIN=Bitcoin\n", replacing=here))
    stopping.callback(server.kill)
    address = COIN.P2PKH_address_from_hash160(bytes([2]) * 20)
    other_address = [("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", address)]
    answer = reader.client.run(block("electrumx_rpc query", replacing=other_address))

    assert answer.startswith(f"Address: {address}\nHistory #")
    longer = maker.chain(maker.grow(tip, 1))
    reader.node.do(lambda n: n.append(longer[-1]))
    server.wait_log("processed 1 block size", timeout=START_SECS)
    fork = maker.chain(maker.grow(double_sha256(longer[HEIGHT - 1][:80]), 3))
    reader.node.do(lambda n: n.fork(HEIGHT, fork[HEIGHT:]))
    wait_until(
        lambda: json.loads(reader.client.run("electrumx_rpc getinfo"))["db height"] == HEIGHT + 2,
        what="height",
    )
    copy = [("/srv/backups/electrumx-1", reader.folder / "backup")]
    reader.client.run(block("electrumx_rpc backup", replacing=copy))
    assert (reader.folder / "backup" / "COIN").is_file()
    assert "sound" in reader.client.run(block("electrumx_rpc verify"))
    reader.client.run(block("electrumx_rpc stop"))
    assert server.popen.wait(START_SECS) == 0
    # In a file each line begins with the time.
    log = re.sub(r"^\S+Z ", "", server.log_text(), flags=re.MULTILINE).splitlines()
    assert log[-1] == "INFO:electrumx:ElectrumX server terminated normally"

    not_seen = [
        line
        for line in logged_lines()
        if not any(re.match(line_pattern(line), logged) for logged in log)
    ]
    assert [start for start in not_seen if not start.startswith(tuple(NOT_SEEN_AT_ONCE))] == []

    settings = block("export COIN=Bitcoin\n", replacing=here).rpartition("\n")[0]
    compaction = block("electrumx_compact_history")
    assert "compact" in reader.shell.run(f"{settings}\n{compaction}")
    audit = block("electrumx_verify")
    assert "sound" in reader.shell.run(f"{settings}\nunset DAEMON_URL\n{audit}")
    offline = block("COIN=Bitcoin DB_DIRECTORY", replacing=here[:1] + other_address)
    assert "History #1: " in Shell(reader.folder, NET="regtest").run(offline)


def test_the_progress_line_is_as_shown(reader, stopping):
    (line,) = [line for line in logged_lines() if ":sync 38" in line]
    at_once = (
        "from electrumx.server.block_processor.sync_progress import SyncProgress;"
        "SyncProgress.PROGRESS_LOG_SECS = 0;"
        "from electrumx.cli.server import main; main()"
    )
    reader.database.mkdir()
    script = block("export COIN=Bitcoin\n", replacing=reader.here)
    server = reader.start(script.replace("electrumx_server", f"exec python -c '{at_once}'"))
    stopping.callback(server.kill)

    assert re.search(line_pattern(line), server.log_text(), re.MULTILINE)


def test_a_small_experiment_needs_only_a_node(reader, stopping):
    here = [
        ("/tmp/electrumx-regtest", reader.database),
        ("http://user:password@127.0.0.1/", reader.node.node.url),
        ("localhost:50001,rpc://", f"localhost:{reader.tcp},rpc://localhost:{reader.rpc}"),
    ]
    server = reader.start(block("export COIN=Bitcoin NET", replacing=here))
    stopping.callback(server.kill)

    reader.client.run("electrumx_rpc stop")
    assert server.popen.wait(START_SECS) == 0


def test_the_server_runs_by_the_readme(reader, stopping):
    """After an installation by the HOWTO, with the same commands."""
    database, node, _net, services = reader.here
    database = ("~/electrumx-db", reader.database)
    script = block("sudo apt-get", page="README", replacing=[database, node, services])
    packages, rest = script.split("\n", 1)
    for package in packages.partition("--no-install-recommends ")[2].split():
        # The HOWTO, which gives their purpose, has them too.
        assert package in block("apt-get install").split()
    venv, install_and_run = rest.split("\n\n", 1)
    assert venv == block("python3 -m venv ~")
    install = block("pip install .")
    assert install_and_run.startswith(f"{install}\n")
    reader.shell.env["NET"] = "regtest"

    server = reader.start(install_and_run.removeprefix(install).strip())
    stopping.callback(server.kill)

    info = json.loads(reader.client.run("electrumx_rpc getinfo"))
    assert info["db height"] == HEIGHT
    reader.client.run("electrumx_rpc stop")
    assert server.popen.wait(START_SECS) == 0


def test_a_certificate_is_made_used_and_renewed(reader, stopping):
    require(shutil.which("openssl"), "openssl is not installed")
    folder = reader.folder / "etc"
    lineage = reader.folder / "lineage"
    for path in (folder, lineage, reader.database):
        path.mkdir()
    reader.shell.run(block("openssl req"), cwd=folder)
    reader.shell.run(block("openssl pkey"), cwd=folder)
    for name in ("server.key", "server-plain.key"):
        assert (folder / name).stat().st_mode & 0o077 == 0
    files = [("/etc/electrumx", folder)]
    ports = f"tcp://127.0.0.1:{reader.tcp},ssl://127.0.0.1:{reader.tls},"
    services = [("tcp://:50001,ssl://:50002,rpc://", f"{ports}rpc://127.0.0.1:{reader.rpc}")]
    settings, command = block("export COIN=Bitcoin\n", replacing=reader.here).rsplit("\n", 1)
    tls = block("export SSL_CERTFILE", replacing=files + services)
    server = reader.start(f"{settings}\n{tls}\n{command}")
    stopping.callback(server.kill)
    server.wait_for(lambda: _accepts(reader.tls), what="ssl port", timeout=START_SECS)
    assert certificate_shown(reader.tls) == der(folder / "server.crt")
    features = electrum.call(reader.tcp, "server.features")
    assert features["hosts"] == {"electrum.example.org": {"ssl_port": 50002}}

    names = [("server.key", "privkey.pem"), ("server.crt", "fullchain.pem")]
    reader.shell.run(block("openssl req", replacing=names), cwd=lineage)
    hook = block("#!/bin/sh\n", replacing=[("-o electrumx", f"-o {getpass.getuser()}"), *files])
    Shell(reader.folder, RENEWED_LINEAGE=lineage).run(hook)

    renewed = der(lineage / "fullchain.pem")
    assert certificate_shown(reader.tls) == renewed == der(folder / "server.crt")
    assert server.log_text().count("new connections use the renewed certificate") == 1
    reader.client.run("electrumx_rpc stop")
    assert server.popen.wait(START_SECS) == 0


def der(path):
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_the_unit_and_its_settings_are_put_in_place(tmp_path):
    """The commands before them make a user, and install as the installation's test does."""
    etc = tmp_path / "etc"
    (etc / "systemd" / "system").mkdir(parents=True)
    owner = [("-g electrumx", f"-g {os.getgid()}"), ("-o electrumx", f"-o {os.getuid()}")]
    places = [("/etc/", f"{etc}/"), ("/var/lib/", f"{tmp_path}/")]
    lines = block("useradd", replacing=[*places, *owner]).splitlines()
    install = [line for line in lines if line.startswith("install ")]
    assert len(install) == 3

    Shell(tmp_path).run("\n".join(install))

    # The check needs it before systemd has started the server once.
    assert (tmp_path / "electrumx").stat().st_mode & 0o777 == 0o700

    assert (etc / "electrumx.conf").stat().st_mode & 0o777 == 0o640
    assert (etc / "systemd" / "system" / "electrumx.service").stat().st_mode & 0o777 == 0o644
    unit = test_deployment.unit_settings()
    (venv,) = [line for line in lines if line.startswith("python3 -m venv")]
    assert unit["ExecStart"] == (
        f"{venv.split()[-1]}/bin/electrumx_server --config /etc/electrumx.conf"
    )
    (user,) = [line for line in lines if line.startswith("useradd")]
    assert unit["User"] == user.split()[-1]


@pytest.mark.daemon
def test_a_node_with_these_settings_has_what_the_server_needs(tmp_path, stopping):
    require(parts.litecoind(), "litecoind is not installed")
    port = free_port()
    (tmp_path / "litecoin.conf").write_text(
        f"regtest=1\n{block('server=1')}\nlisten=0\ndnsseed=0\n"
        f"[regtest]\nrpcport={port}\nrpcuser={nodes.USER}\nrpcpassword={nodes.PASSWORD}\n"
    )
    child = Child("litecoind", [parts.litecoind(), f"-datadir={tmp_path}"], folder=tmp_path)
    stopping.callback(child.terminate)

    def index():
        try:
            return ask(port, "getindexinfo").get("txindex")
        except (OSError, nodes.RPCFailure, ValueError):
            return None  # not listening, warming up, half an answer

    assert child.wait_for(index, what="txindex", timeout=nodes.START_SECS)["synced"] is True


def ask(port, method):
    node = nodes.Litecoind.__new__(nodes.Litecoind)
    nodes.Node.__init__(node, None)
    node.port = port
    return node.rpc(method)
