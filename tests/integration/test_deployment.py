"""The files of contrib, tried as far as a machine without systemd and containers allows."""

import asyncio
import getpass
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile

import pytest

from electrumx.cli.rpc import DEFAULT_SOCKET
from tests import check_image
from tests.conftest import REPOSITORY, require
from tests.fakes.chain import COIN, Model
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration import client as electrum
from tests.integration.howto import Shell, block
from tests.integration.processes import Child
from tests.integration.server import ServerProcess, _accepts, wait_until
from tests.lint.test_docs import directives
from tests.ports import free_ports

CONTRIB = REPOSITORY / "contrib"
HEIGHT = 30
# A server that starts, on a machine that is busy with other tests
START_SECS = 150


@pytest.fixture
def node(stopping):
    """A fake node with a small chain."""
    maker, tip = small_chain(HEIGHT)
    return stopping.enter_context(NodeThread(maker.chain(tip)))


def documented_variables():
    return set(directives("environment", "envvar"))


def assert_serves(port):
    assert electrum.call(port, "blockchain.headers.subscribe")["height"] == HEIGHT


# --- daemontools


class Service:
    """The daemontools service of the manual, made by its steps."""

    def __init__(self, home, node, stopping):
        require(shutil.which("svscan"), "daemontools is not installed")
        self.tcp, self.rpc = free_ports(2)
        self.shell = Shell(home)
        # Not a variable that the server could see by chance instead of its folder of settings
        del self.shell.env["ALLOW_ROOT"]
        self.link = home / "service" / "electrumx"
        self.settings = home / "scripts" / "electrumx" / "env"
        self.log = home / "scripts" / "electrumx" / "log" / "main" / "current"
        database = home / "db"
        database.mkdir()
        self.shell.run(block("mkdir -p ~/scripts"))
        here = [
            ("http://user:password@127.0.0.1:8332/", node.node.url),
            ("/srv/electrumx", database),
        ]
        self.shell.run(block("cd ~/scripts/electrumx/env", replacing=here))
        ours = {
            "NET": "regtest",
            "SERVICES": f"tcp://127.0.0.1:{self.tcp},rpc://127.0.0.1:{self.rpc}",
            "USERNAME": getpass.getuser(),
            "ALLOW_ROOT": "1",
            "PEER_DISCOVERY": "off",
        }
        for name, value in ours.items():
            (self.settings / name).write_text(value + "\n")
        link, scan = block("ln -s").splitlines()
        self.shell.run(link)
        self.scanner = self.shell.start("svscan", f"exec {scan.removesuffix('&')}")
        stopping.callback(self.scanner.kill)
        stopping.callback(self.end)

    def end(self):
        """Stop the server and the logger, and their supervisors."""
        self.svc("-dx", self.link, self.link / "log")

    def svc(self, *words):
        self.shell.run(shlex.join(["svc", *map(str, words)]))

    def pid(self):
        """The server's process, 0 if it is down, None if there is no supervisor."""
        told = self.shell.run(block("svstat").splitlines()[0])
        found = re.search(r"electrumx: (?:up \(pid (\d+)\)|(down) )", told)
        return found and int(found[1] or 0)

    def wait_serving(self, *, other_than=()):
        """Wait for a process that serves; its pid."""

        def serving():
            pid = self.pid()
            return pid not in (None, 0, *other_than) and _accepts(self.tcp) and pid

        pid = wait_until(serving, what="server", timeout=START_SECS)
        assert_serves(self.tcp)
        return pid


def test_daemontools_starts_restarts_and_stops_the_server(short_tmp, node, stopping):
    service = Service(short_tmp, node, stopping)
    first = service.wait_serving()
    password_file = service.settings / "DAEMON_URL"
    assert password_file.stat().st_mode & 0o077 == 0

    os.kill(first, signal.SIGKILL)
    second = service.wait_serving(other_than=[first])

    stop, start = block("svstat").splitlines()[1:]
    service.shell.run(stop)
    wait_until(lambda: service.pid() == 0, what="end", timeout=START_SECS)
    with pytest.raises(OSError):
        os.kill(second, 0)
    assert not _accepts(service.tcp)

    follow, _pipe, with_times = block("tail -F").partition("|")
    log = service.shell.run(f"{follow.replace('tail -F', 'cat')} | {with_times}")
    lines = log.splitlines()
    # Two starts, of which only the second ended in order
    assert sum(line.endswith("ElectrumX server starting") for line in lines) == 2
    assert lines[-1].endswith("INFO:electrumx:ElectrumX server terminated normally")
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ ", line) for line in lines)
    assert "Traceback" not in log

    service.shell.run(start)
    third = service.wait_serving(other_than=[first, second])
    assert third


def test_the_sample_settings_are_documented_and_understood():
    folder = CONTRIB / "daemontools" / "env"
    values = {path.name: path.read_text().splitlines()[0] for path in folder.iterdir()}
    scripts_own = {"USERNAME", "ELECTRUMX"}

    assert set(values) - scripts_own <= documented_variables()
    assert scripts_own <= set(values)
    del values["USERNAME"], values["ELECTRUMX"]
    assert_settings_are_valid(values)


def assert_settings_are_valid(values):
    done = subprocess.run(
        [sys.executable, "-c", "from electrumx.server.env import Env; Env()"],
        env={"PYTHONPATH": str(REPOSITORY), **values},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "script",
    [*sorted(CONTRIB.glob("raspberrypi3/*.sh")), *sorted(CONTRIB.glob("daemontools/**/run"))],
    ids=lambda path: str(path.relative_to(CONTRIB)),
)
def test_scripts_are_executable_and_parse(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)


def test_a_run_script_without_its_settings_names_them(short_tmp):
    require(shutil.which("envdir"), "daemontools is not installed")
    shutil.copytree(CONTRIB / "daemontools", short_tmp / "service")
    (short_tmp / "service" / "env" / "ELECTRUMX").unlink()
    # supervise would try again every second: the script waits longer.
    script = (short_tmp / "service" / "run").read_text().replace("sleep 10", "sleep 0")

    told = Shell(short_tmp).run(script, cwd=short_tmp / "service", status=1)

    assert told == "run: env/ELECTRUMX is missing\n"


# --- systemd


def unit_settings():
    """{setting: value} of the unit; those that are given more than once have their last."""
    text = (CONTRIB / "systemd" / "electrumx.service").read_text()
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def conf_settings():
    """{variable: value} of the environment file as it is, without what is commented out."""
    text = (CONTRIB / "systemd" / "electrumx.conf").read_text()
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|min|h)", text).groups()
    return int(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def test_the_unit_leaves_the_server_time_and_files():
    unit = unit_settings()

    assert unit["Type"] == "notify"
    assert unit["TimeoutStartSec"] == "infinity"
    assert seconds(unit["TimeoutStopSec"]) >= 600
    assert seconds(unit["WatchdogSec"]) >= 60
    assert int(unit["LimitNOFILE"]) >= 2500
    assert conf_settings()["DB_DIRECTORY"] == f"/var/lib/{unit['StateDirectory']}"


def test_the_unit_has_a_directory_for_the_socket_and_one_for_backups():
    unit = unit_settings()

    assert os.path.dirname(DEFAULT_SOCKET) == f"/run/{unit['RuntimeDirectory']}"
    assert conf_settings()["SERVICES"].split(",")[-1] == f"rpc://{DEFAULT_SOCKET}"
    assert "AF_UNIX" in unit["RestrictAddressFamilies"].split()
    backup = block("electrumx_rpc backup").split()[-1]
    assert unit["ReadWritePaths"] == f"-{os.path.dirname(backup)}"


def test_the_environment_file_is_documented_and_understood():
    text = (CONTRIB / "systemd" / "electrumx.conf").read_text()
    offered = set(re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE))

    assert offered <= documented_variables()
    assert_settings_are_valid(conf_settings())


@pytest.fixture
def unit_here(tmp_path):
    """The unit as it would be on this machine."""
    require(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    text = (CONTRIB / "systemd" / "electrumx.service").read_text()
    command = unit_settings()["ExecStart"].split()[0]
    path = tmp_path / "electrumx.service"
    path.write_text(text.replace(command, sys.executable))
    return path


def analyze(*words):
    # A version without a bus or a manual page has the same words and another result.
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=120)


def test_systemd_finds_no_fault_in_the_unit(unit_here):
    done = analyze("verify", "--man=no", str(unit_here))

    assert done.returncode == 0, done.stderr
    assert "electrumx.service" not in done.stderr


def test_systemd_finds_the_unit_little_exposed(unit_here):
    """The scale goes from 0 to 10; a unit without any of it has 9.6."""
    done = analyze("security", "--offline=true", "--threshold=20", str(unit_here))
    require("unrecognized option" not in done.stderr, "systemd-analyze cannot look at a file")

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "Overall exposure level" in done.stdout


# Forbids memory that is written and executed, as MemoryDenyWriteExecute of the unit does; kernels
# before 6.3 cannot, and then only the rest is tried.
DENY_WRITE_EXECUTE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0);"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class ServiceManager:
    """systemd's side of the notification socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(START_SECS)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.socket.close()

    def message(self):
        return self.socket.recv(4096).decode().split("\n")

    def until(self, line):
        """All lines up to the end of the message that has this one."""
        lines = []
        while line not in lines:
            lines += self.message()
        return lines

    def rest(self):
        """All that has come and was not read."""
        self.socket.settimeout(0)
        lines = []
        while True:
            try:
                lines += self.message()
            except BlockingIOError:
                return lines


def test_systemd_is_notified_of_start_life_and_stop(short_tmp, node, stopping):
    manager = stopping.enter_context(ServiceManager(short_tmp / "notify"))
    node.node.delay = 0.02
    server = ServerProcess(
        short_tmp,
        node.env,
        protocols=("tcp", "rpc"),
        NOTIFY_SOCKET=short_tmp / "notify",
        WATCHDOG_USEC=300_000,
    )
    program = ["-c", DENY_WRITE_EXECUTE, REPOSITORY / "electrumx_server"]
    server.child = Child("server", [sys.executable, *program], folder=short_tmp, env=server.env)
    stopping.callback(server.kill)

    starting = manager.until("READY=1")
    # READY is not sent before wallets are served.
    assert_serves(server.ports["tcp"])
    serving = manager.until(f"STATUS=serving: height {HEIGHT}, 0 sessions")
    serving += manager.until("WATCHDOG=1")
    with socket.create_connection(("127.0.0.1", server.ports["tcp"])):
        serving += manager.until(f"STATUS=serving: height {HEIGHT}, 1 sessions")
    os.kill(server.child.pid, signal.SIGTERM)
    stopping_lines = manager.until("STOPPING=1")
    assert server.wait_exit() == 0
    last = manager.rest()

    assert "STATUS=starting: waiting for the node" in starting
    assert any(re.match(r"STATUS=syncing: (height \d+ of|no block of) \d+", s) for s in starting)
    assert "STOPPING=1" not in starting + serving
    assert starting.count("READY=1") == 1
    assert "READY=1" not in serving + stopping_lines + last
    assert serving.count("WATCHDOG=1") >= 3
    assert "EXTEND_TIMEOUT_USEC=120000000" in stopping_lines
    assert last.count("STOPPING=1") == 0
    assert "service manager" not in server.log()


def test_a_server_that_hangs_sends_systemd_nothing(short_tmp, node, stopping):
    manager = stopping.enter_context(ServiceManager(short_tmp / "notify"))
    server = ServerProcess(
        short_tmp,
        node.env,
        protocols=("tcp", "rpc"),
        NOTIFY_SOCKET=short_tmp / "notify",
        WATCHDOG_USEC=150_000,
    )
    stopping.enter_context(server)
    manager.until("READY=1")
    os.kill(server.child.pid, signal.SIGSTOP)
    wait_until(lambda: process_state(server.child.pid) == "T", what="standstill")
    manager.rest()

    manager.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        manager.message()

    os.kill(server.child.pid, signal.SIGCONT)
    manager.socket.settimeout(START_SECS)
    assert "WATCHDOG=1" in manager.message()


def process_state(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


# --- certificates and banners


def make_certificate(folder, name):
    """A certificate whose subject is name, made at once; the DER form."""
    require(shutil.which("openssl"), "openssl is not installed")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += f" -subj /CN={name} -keyout new.key -out new.crt"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    der = ssl.PEM_cert_to_DER_cert((folder / "new.crt").read_text())
    os.rename(folder / "new.key", folder / "server.key")
    os.rename(folder / "new.crt", folder / "server.crt")
    return der


def certificate_shown(port):
    """The certificate, DER, that a new connection gets."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=START_SECS)
    with sock, electrum.trusting_context().wrap_socket(sock) as tls:
        return tls.getpeercert(binary_form=True)


@pytest.mark.parametrize("policy", ["asyncio", "uvloop"])
async def test_a_renewed_certificate_needs_no_restart(policy, tmp_path, node, stopping):
    if policy == "uvloop":
        pytest.importorskip("uvloop")
    old = make_certificate(tmp_path, "old.example.org")
    server = ServerProcess(
        tmp_path,
        node.env,
        protocols=("ssl", "wss", "rpc"),
        SSL_CERTFILE=tmp_path / "server.crt",
        SSL_KEYFILE=tmp_path / "server.key",
        EVENT_LOOP_POLICY=policy,
    )
    await asyncio.to_thread(stopping.enter_context, server)
    ports = [server.ports["ssl"], server.ports["wss"]]

    async def shown():
        return [await asyncio.to_thread(certificate_shown, port) for port in ports]

    assert await shown() == [old, old]
    async with server.connect("ssl") as tls, server.connect("wss") as websocket:
        (tmp_path / "server.crt").write_text("half a certif")
        assert await shown() == [old, old]
        new = make_certificate(tmp_path, "new.example.org")
        assert await shown() == [new, new]
        # Connected clients notice nothing.
        for client in (tls, websocket):
            assert await client.call("server.ping") is None
    log = server.log()
    assert log.count("keeping the old one") == 1
    assert log.count("new connections use the renewed certificate") == 1


def test_the_banner_file_is_read_for_each_request(tmp_path, node, stopping):
    banner = tmp_path / "banner"
    banner.write_text("Good morning")
    server = ServerProcess(tmp_path, node.env, protocols=("tcp", "rpc"), BANNER_FILE=banner)
    stopping.enter_context(server)

    def shown():
        return electrum.call(server.ports["tcp"], "server.banner")

    assert shown() == "Good morning"
    banner.write_text("Good evening")
    assert shown() == "Good evening"
    banner.unlink()
    assert shown().startswith("You are connected to an ElectrumX")
    banner.write_text("Good night")
    assert shown() == "Good night"


# --- the container


def instructions():
    """(instruction, argument) of the container file, in order."""
    text = (CONTRIB / "container" / "Containerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def arguments_of(name):
    return [argument.strip() for instruction, argument in instructions() if instruction == name]


def copied_files():
    """The sources of the container file that come from the tree."""
    copied = set()
    for argument in arguments_of("COPY"):
        *sources, _target = argument.split()
        if not sources[0].startswith("--from"):
            copied |= set(sources)
    return copied


def test_the_container_file_copies_what_is_there_and_needed():
    copied = copied_files()
    assert all((REPOSITORY / source).exists() for source in copied)
    # The files that the build reads, the code itself, versions and hashes of its packages, and
    # the image's first program
    read = {"setup.py", "pyproject.toml", "README.rst", "LICENCE", "electrumx"}
    read |= {"contrib/constraints.txt", "contrib/container/requirements.txt"}
    assert copied == read | {"contrib/container/entrypoint"}


def test_the_builder_receives_the_copied_files_and_no_others():
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied_files()
    assert "**/*.so" in rules


def test_the_container_s_stages_and_extras_are_ours():
    from_lines = arguments_of("FROM")
    project = (REPOSITORY / "pyproject.toml").read_text()
    (extras,) = [line for line in arguments_of("ARG") if line.startswith("EXTRAS=")]

    assert from_lines == ["${BASE} AS build", "${BASE}"]
    assert "/opt/electrumx" in "".join(arguments_of("COPY"))
    named = [extra for extra in extras.partition("=")[2].split(",") if extra]
    assert all(f"\n{extra} = [" in project for extra in named)
    assert any("--require-hashes -r requirements.txt" in script for script in arguments_of("RUN"))
    known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "EXPOSE", "LABEL"}
    known |= {"HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {instruction for instruction, _argument in instructions()} <= known


def test_a_cython_module_that_cannot_be_compiled_ends_the_build_of_the_image():
    """Otherwise the image is several times slower, and only the server's log has the reason."""
    (build,) = [script for script in arguments_of("RUN") if "--no-build-isolation" in script]
    (installs,) = [part for part in build.split("&&") if "--no-build-isolation" in part]

    assert installs.strip().startswith("ELECTRUMX_REQUIRE_COMPILED=1 ")
    assert 'os.environ.get("ELECTRUMX_REQUIRE_COMPILED")' in (REPOSITORY / "setup.py").read_text()


def test_the_container_s_shell_commands_parse():
    for script in arguments_of("RUN"):
        subprocess.run(["sh", "-nc", script], check=True)


def test_the_container_s_packages_exist():
    require(shutil.which("apt-cache"), "this system has no apt-cache")
    packages = {
        word
        for script in arguments_of("RUN")
        for part in re.findall(r"apt-get install (.*?)(?:&&|$)", script)
        for word in part.split()
        if not word.startswith("-")
    }
    require(os.path.exists("/etc/debian_version"), "this system is not Debian")
    done = subprocess.run(["apt-cache", "show", *packages], capture_output=True, text=True)

    assert packages
    assert packages == set(re.findall(r"^Package: (.*)$", done.stdout, re.MULTILINE))


def image_environment():
    return dict(
        pair.split("=", 1) for argument in arguments_of("ENV") for pair in shlex.split(argument)
    )


def test_the_image_replaces_the_one_that_applications_use():
    """The environment, ports and paths of lukechilds/electrumx."""
    environment = image_environment()
    expected = {
        "ALLOW_ROOT": "1",
        "COIN": "Bitcoin",
        "EVENT_LOOP_POLICY": "uvloop",
        "DB_DIRECTORY": "/data",
        "SERVICES": "tcp://:50001,ssl://:50002,wss://:50004,rpc://0.0.0.0:8000",
        "SSL_CERTFILE": "/data/electrumx.crt",
        "SSL_KEYFILE": "/data/electrumx.key",
        "HOST": "",
        "HOME": "/data",
    }
    assert expected.items() <= environment.items()
    assert set(environment) - {"PATH", "PYTHONUNBUFFERED", "HOME", "HOST"} <= documented_variables()
    assert arguments_of("VOLUME") == ["/data"]
    assert arguments_of("WORKDIR")[-1] == "/data"
    assert arguments_of("EXPOSE")[0].split() == ["50001", "50002", "50004", "8000", "4224"]
    assert arguments_of("STOPSIGNAL") == ["SIGTERM"]
    (labels,) = arguments_of("LABEL")
    wanted = "title description licenses version revision created source documentation"
    for name in [*wanted.split(), "base.name", "base.digest"]:
        assert f"org.opencontainers.image.{name}=" in labels


def test_the_check_of_a_built_image_uses_the_container_file_s_ports_and_certificate():
    environment = image_environment()
    services = re.findall(r"(\w+)://[^,]*:(\d+)", environment["SERVICES"])
    expected = {"tcp": check_image.TCP, "ssl": check_image.SSL, "wss": check_image.WSS}
    expected["rpc"] = check_image.RPC

    assert {name: int(port) for name, port in services} == expected
    assert environment["SSL_CERTFILE"] == check_image.CERTIFICATE


ENTRYPOINT = CONTRIB / "container" / "entrypoint"


def test_the_image_s_first_program_parses_and_runs_other_commands(tmp_path):
    subprocess.run(["sh", "-n", ENTRYPOINT], check=True)
    shell = Shell(tmp_path, DB_DIRECTORY=tmp_path, HOST="set by the platform")
    assert shell.run(f"{ENTRYPOINT} sh -c 'echo ${{HOST-unset}}'") == "unset\n"


def test_a_pair_of_certificate_and_key_is_made_only_if_there_is_neither(tmp_path):
    require(shutil.which("openssl"), "this system has no openssl")
    certificate, key = tmp_path / "electrumx.crt", tmp_path / "electrumx.key"
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "electrumx_server").write_text("#!/bin/sh\necho started\n")
    (commands / "electrumx_server").chmod(0o755)
    shell = Shell(
        tmp_path,
        DB_DIRECTORY=tmp_path,
        SSL_CERTFILE=certificate,
        SSL_KEYFILE=key,
        SERVICES="tcp://:50001,ssl://:50002",
    )
    shell.env["PATH"] = f"{commands}:{shell.env['PATH']}"
    start = f"{ENTRYPOINT} electrumx_server"

    shell.env["SERVICES"] = "tcp://:50001"
    assert shell.run(start) == "started\n"
    assert not certificate.exists()
    shell.env["SERVICES"] = "tcp://:50001,ssl://:50002"
    assert shell.run(start) == f"made a self-signed certificate: {certificate}\nstarted\n"
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    assert key.stat().st_mode & 0o777 == 0o600
    made = certificate.read_bytes()
    assert shell.run(start) == "started\n"
    key.unlink()
    # Half a pair is not replaced; the server reports what is wrong with it.
    assert shell.run(start) == "started\n"
    assert certificate.read_bytes() == made
    assert not key.exists()


def test_the_image_runs_as_the_owner_of_its_volume(tmp_path):
    require(os.getuid() == 0, "only root can be another user")
    require(shutil.which("setpriv"), "this system has no setpriv")
    # A path that this user may search
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = shutil.copy(ENTRYPOINT, folder)
        volume = os.path.join(folder, "data")
        os.mkdir(volume)
        shell = Shell(tmp_path, DB_DIRECTORY=volume)
        assert shell.run(f"{program} id -u") == "0\n"
        os.chown(volume, 1000, 1000)
        assert shell.run(f"{program} sh -c 'id -u; id -g; id -G'") == "1000\n1000\n1000\n"


def test_the_container_s_command_serves_and_is_healthy(short_tmp, node, stopping):
    tcp, tls, rpc = free_ports(3)
    volume = short_tmp / "data"
    volume.mkdir()
    ours = {"DB_DIRECTORY", "SSL_CERTFILE", "SSL_KEYFILE", "SERVICES"}
    environment = {k: v for k, v in image_environment().items() if k not in {"PATH", "HOME", *ours}}
    shell = Shell(
        short_tmp,
        **{
            **environment,
            "SERVICES": f"tcp://127.0.0.1:{tcp},ssl://127.0.0.1:{tls},rpc://0.0.0.0:{rpc}",
            "DB_DIRECTORY": volume,
            "SSL_CERTFILE": volume / "electrumx.crt",
            "SSL_KEYFILE": volume / "electrumx.key",
            "PEER_DISCOVERY": "off",
            **node.env,
        },
    )
    shell.env["PATH"] = f"{short_tmp}/bin:{shell.env['PATH']}"
    (short_tmp / "bin").mkdir()
    (short_tmp / "bin" / "electrumx-container").symlink_to(ENTRYPOINT)
    command = json.loads(arguments_of("ENTRYPOINT")[0]) + json.loads(arguments_of("CMD")[0])

    server = shell.start("server", f"exec {shlex.join(command)}")
    stopping.callback(server.kill)
    server.wait_for(lambda: _accepts(tcp), what="tcp port", timeout=START_SECS)
    assert_serves(tcp)
    made = ssl.PEM_cert_to_DER_cert((volume / "electrumx.crt").read_text())
    assert certificate_shown(tls) == made
    check = json.loads(arguments_of("HEALTHCHECK")[0].partition("CMD")[2])
    shell.env["RPC_PORT"] = str(rpc)
    assert json.loads(shell.run(shlex.join(check)))["db height"] == HEIGHT

    stop = getattr(signal, arguments_of("STOPSIGNAL")[0])
    assert server.interrupt(stop) == 0


# --- the Raspberry Pi


def test_the_pi_s_installer_requests_its_packages(short_tmp):
    """With fakes of programs that would change this machine, which record their calls."""
    programs = short_tmp / "programs"
    programs.mkdir()
    calls = short_tmp / "calls"
    for name in ("sudo", "python3"):
        (programs / name).write_text(
            "#!/bin/sh\n"
            f'echo {name} "$@" >> {calls}\n'
            f'[ "$1 $2" != "-m venv" ] || {{ mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; }}\n'
        )
        (programs / name).chmod(0o755)
    shell = Shell(short_tmp)
    shell.env["PATH"] = f"{programs}:{os.defpath}"

    told = shell.run(block("contrib/raspberrypi3/install_electrumx.sh"))

    update, install, _check, venv, pip, electrumx = calls.read_text().splitlines()
    assert update == "sudo apt-get update"
    assert {"python3-venv", "python3-dev", "build-essential"} <= set(install.split())
    assert venv == f"python3 -m venv {short_tmp}/electrumx-venv"
    assert pip.endswith("pip install --upgrade pip")
    assert electrumx.endswith(f"pip install {REPOSITORY}[uvloop]")
    assert told.startswith("Installed.")


def test_the_pi_s_other_script_runs_the_server(short_tmp, node, stopping):
    tcp, rpc = free_ports(2)
    commands = short_tmp / "electrumx-venv" / "bin"
    commands.mkdir(parents=True)
    (commands / "electrumx_server").symlink_to(shutil.which("electrumx_server", path=venv_path()))
    shell = Shell(
        short_tmp,
        SERVICES=f"tcp://127.0.0.1:{tcp},rpc://127.0.0.1:{rpc}",
        HOST="raspberrypi",
        PEER_DISCOVERY="off",
        **node.env,
    )

    script = block("contrib/raspberrypi3/run_electrumx.sh")
    server = shell.start("server", f"exec {script}", cwd=REPOSITORY)
    stopping.callback(server.kill)

    server.wait_for(lambda: _accepts(tcp), what="tcp port", timeout=START_SECS)
    assert_serves(tcp)
    assert server.interrupt(signal.SIGINT) == 0
    assert (short_tmp / "electrumx-db" / "utxo" / "CURRENT").exists()


def venv_path():
    return os.path.dirname(sys.executable)


# --- the query tool


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """(folder, blocks) of a database that no server uses."""
    maker, tip = small_chain(HEIGHT)
    blocks = maker.chain(tip)
    folder = tmp_path_factory.mktemp("query")
    with (
        NodeThread(blocks) as node,
        ServerProcess(folder, node.env, protocols=("tcp", "rpc")) as server,
    ):
        server.wait_height(HEIGHT)
    return folder / "db", blocks


def run_query(folder, *words, **settings):
    env = {"COIN": "Bitcoin", "NET": "regtest", "DB_DIRECTORY": str(folder), **settings}
    return subprocess.run(
        [sys.executable, CONTRIB / "query", *words],
        env={"PATH": os.defpath, "LANG": "C.UTF-8", **env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def scripts_of(blocks):
    """The scripts that were ever paid, the busiest first."""
    parsed = [COIN.block(raw, height) for height, raw in enumerate(blocks)]
    paid = [txout.pk_script for b in parsed for tx, _hash in b.transactions for txout in tx.outputs]
    return sorted(set(paid), key=paid.count, reverse=True)


def expected_lines(model, hashX):
    lines = [
        f"History #{n}: height {height} tx_hash {tx_hash[::-1].hex()}"
        for n, (tx_hash, height) in enumerate(model.history[hashX], start=1)
    ]
    utxos = sorted(model.utxos(hashX))
    lines += [
        f"UTXO #{n}: tx_hash {tx_hash[::-1].hex()} tx_pos {index} height {height} value {value:,d}"
        for n, (_num, index, tx_hash, height, value) in enumerate(utxos, start=1)
    ]
    return lines, sum(utxo[-1] for utxo in utxos)


@pytest.mark.xdist_group("query")
def test_the_query_tool_prints_history_and_outputs_of_any_form_of_a_script(database):
    folder, blocks = database
    model = Model(blocks)
    script = next(script for script in scripts_of(blocks) if len(script) == 25)
    hashX = COIN.hashX_from_script(script)
    address = COIN.P2PKH_address_from_hash160(script[3:23])
    scripthash = hashlib.sha256(script).digest()[::-1].hex()
    lines, balance = expected_lines(model, hashX)

    for item in (address, script.hex(), scripthash, hashX.hex()):
        done = run_query(folder, item)
        told = done.stdout.splitlines()
        assert (done.returncode, done.stderr) == (0, "")
        assert told[:2] == [
            f"{COIN.NAME} {COIN.NET} at height {HEIGHT}",
            f"{item}: hashX {hashX.hex()}",
        ]
        assert told[2:-1] == lines
        amount = float(told[-1].removeprefix("Balance: ").split()[0].replace(",", ""))
        assert round(amount * 10**8) == balance


@pytest.mark.xdist_group("query")
def test_the_query_tool_obeys_its_limit_and_takes_several_items(database):
    folder, blocks = database
    busy, other = [s.hex() for s in scripts_of(blocks) if len(s) == 25][:2]

    done = run_query(folder, "-l", "1", busy, other, "00" * 11)

    assert len(re.findall("^History #", done.stdout, re.MULTILINE)) == 2
    nothing = "0" * 22
    assert done.stdout.endswith(
        f"{nothing}: hashX {nothing}\nNo history found\nNo UTXOs found\n"
        f"Balance: 0 {COIN.SHORTNAME}\n"
    )


@pytest.mark.parametrize(
    ("word", "settings", "complaint"),
    [
        ("nonsense", {}, "nonsense is neither hex nor an address of Bitcoin"),
        ("00", {"NET": "mainnet"}, "does not match coin"),
        ("00", {"DB_DIRECTORY": "/"}, "there is no database in /: check DB_DIRECTORY"),
        ("00", {"COIN": "Fools gold"}, "unknown coin"),
        ("00", {"DB_ENGINE": "rocksdb"}, "was written by leveldb, not rocksdb"),
    ],
)
@pytest.mark.xdist_group("query")
def test_an_error_of_the_query_tool_is_one_line(word, settings, complaint, database):
    done = run_query(database[0], word, **settings)

    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_query_tool_leaves_a_database_in_use_alone(tmp_path, node, stopping):
    server = stopping.enter_context(ServerProcess(tmp_path, node.env, protocols=("tcp", "rpc")))

    done = run_query(tmp_path / "db", "00")

    assert done.returncode == 1
    assert done.stderr.startswith("query: ")
    assert "Traceback" not in done.stderr
    assert_serves(server.ports["tcp"])
