"""Check a container image: python -m tests.check_image ENGINE IMAGE [--architecture arm64].

ENGINE is docker, podman or buildah; the last, as root, needs neither a service nor namespaces (chroot
isolation).  An image of another architecture runs by qemu-user, registered with binfmt_misc and the flag F.

The image starts as an application starts it: with the environment of Umbrel's, an empty volume, on this
machine's network, beside a fake node with a small chain.  It then serves its default ports, is healthy, and
stops with status 0; a second start keeps the database and the certificate.  Ends with an error otherwise.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import ssl
import subprocess
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration.client import ElectrumClient
from tests.integration.processes import Child

REPOSITORY = Path(__file__).resolve().parent.parent
HEIGHT = 30
TCP, SSL, WSS, RPC, METRICS = 50001, 50002, 50004, 8000, 4224
CERTIFICATE = "/data/electrumx.crt"
# An emulated server needs most of a minute for its imports alone.
START_SECS = STOP_SECS = COMMAND_SECS = 600
#: Python's name of a machine: the name in an image's configuration
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def run(*command, **options):
    """The output of a command, which has to succeed."""
    options = {"text": True, "stdout": subprocess.PIPE, "timeout": COMMAND_SECS, **options}
    return subprocess.run([str(word) for word in command], check=True, **options).stdout


def settings(environment):
    """The command line's words for them, the same in all engines."""
    return [word for pair in environment.items() for word in ("--env", "=".join(pair))]


class DockerEngine:
    """`docker` or `podman`; the volume is one that the engine makes, with the image's owner."""

    def __init__(self, program, image, stopping):
        self.program, self.image = program, image
        self.name = f"electrumx-check-{os.getpid()}"
        stopping.callback(partial(run, program, "volume", "rm", "--force", self.name))
        stopping.callback(partial(run, program, "rm", "--force", self.name))
        run(program, "volume", "create", self.name)

    def configuration(self):
        """Architecture and configuration of the image."""
        (found,) = json.loads(run(self.program, "image", "inspect", self.image))
        # Podman has the health check beside the configuration.
        health = {"Healthcheck": found["Healthcheck"]} if "Healthcheck" in found else {}
        return found["Architecture"], {**found["Config"], **health}

    def output(self, *command, **options):
        """The output of a command in a container of its own."""
        return run(self.program, "run", "--rm", "--interactive", self.image, *command, **options)

    def server(self, environment):
        """The words that start the image's own command, in the foreground."""
        volume = f"{self.name}:/data"
        words = ["--rm", "--name", self.name, "--network", "host", "--volume", volume]
        return [self.program, "run", *words, *settings(environment), self.image]

    def inside(self, environment, *command):
        """The output of a command in the server's container."""
        return run(self.program, "exec", self.name, *command)

    def stop(self, server):
        """Its status after the signal, which the engine's program passes on."""
        return server.interrupt(signal.SIGTERM, STOP_SECS)


class BuildahEngine:
    """`buildah` with chroot isolation; the volume is a folder that belongs to user 1000."""

    def __init__(self, program, image, stopping):
        self.program, self.image = program, image
        self.container = run(program, "from", "--pull-never", image).strip()
        stopping.callback(partial(run, program, "rm", self.container))
        self.volume = Path(stopping.enter_context(tempfile.TemporaryDirectory()))
        os.chown(self.volume, 1000, 1000)

    def configuration(self):
        """Architecture and configuration of the image."""
        found = json.loads(run(self.program, "inspect", "--type", "image", self.image))
        return found["Docker"]["architecture"], found["Docker"]["config"]

    def _run(self, *words):
        return [self.program, "run", "--isolation", "chroot", *words]

    def output(self, *command, **options):
        """The output of a command in the container."""
        return run(*self._run(self.container, "--", *command), **options)

    def _beside(self, environment, command):
        volume = f"{self.volume}:/data"
        words = ["--volume", volume, *settings(environment), self.container, "--", *command]
        return self._run(*words)

    def server(self, environment):
        """The words that start the image's own command, in the foreground."""
        config = self.configuration()[1]
        return self._beside(environment, [*config["Entrypoint"], *config["Cmd"]])

    def inside(self, environment, *command):
        """The output of a command with the server's environment and volume."""
        return run(*self._beside(environment, command))

    def stop(self, server):
        """Its status after the signal, which buildah would not pass on: it would kill the server."""
        pid = server.pid
        while Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"buildah"):
            # Go's threads, each with the processes that it has started
            lists = Path(f"/proc/{pid}/task").glob("*/children")
            (pid,) = [child for text in lists for child in text.read_text().split()]
        os.kill(int(pid), signal.SIGTERM)
        return server.popen.wait(STOP_SECS)


ENGINES = {"docker": DockerEngine, "podman": DockerEngine, "buildah": BuildahEngine}


def done(text):
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


STARTED = time.monotonic()


def check_configuration(engine, architecture):
    """Architecture, first program, ports, volume, labels and health check."""
    found, config = engine.configuration()
    assert found == architecture, found
    assert not config.get("User"), "the image's first program chooses the user"
    assert config["StopSignal"] == "SIGTERM", config["StopSignal"]
    assert config["WorkingDir"] == "/data"
    assert "/data" in config["Volumes"]
    ports = {f"{port}/tcp" for port in (TCP, SSL, WSS, RPC, METRICS)}
    assert ports <= set(config["ExposedPorts"]), config["ExposedPorts"]
    named = {"title", "description", "licenses", "version", "revision", "created", "source"}
    missing = {f"org.opencontainers.image.{name}" for name in named} - set(config["Labels"])
    assert not missing, missing
    assert config.get("Healthcheck"), "no health check: was it built with --format docker?"
    kind, *health = config["Healthcheck"]["Test"]
    assert kind == "CMD", kind
    done(f"{architecture}, {len(config['Labels'])} labels, health check {' '.join(health)}")
    return health


def check_installation(engine):
    """Cython modules, database engine and commands, as of a wheel."""
    for line in engine.output("electrumx_server", "--version", "-v").splitlines():
        done(line)
    script = (REPOSITORY / "tests" / "check_installation.py").read_text()
    done(engine.output("python", "-I", "-", input=script).strip())


async def ask(protocol, port):
    """The server's name, and the height that a subscriber gets."""
    async with ElectrumClient.connect(protocol, port) as client:
        software, _protocol = await client.hello()
        header = await client.call("blockchain.headers.subscribe")
        return software, header["height"]


def certificate_shown(port):
    return ssl.get_server_certificate(("127.0.0.1", port))


def serves(server):
    """True once the server has the whole chain, if it is still running."""
    try:
        return asyncio.run(ask("tcp", TCP))[1] == HEIGHT
    except OSError:
        return False


def check_start(engine, environment, folder, health):
    """One start and one stop; the certificate."""
    start = time.monotonic()
    server = Child("server", engine.server(environment), folder=folder)
    try:
        server.wait_for(lambda: serves(server), what="whole chain", timeout=START_SECS)
        done(f"serves the chain {time.monotonic() - start:.1f} s after the start")
        for protocol, port in (("tcp", TCP), ("ssl", SSL), ("wss", WSS)):
            software, height = asyncio.run(ask(protocol, port))
            assert height == HEIGHT, height
            done(f"{protocol} {port}: {software}, height {height}")
        certificate = engine.inside(environment, "cat", CERTIFICATE)
        assert ssl.PEM_cert_to_DER_cert(certificate) == ssl.PEM_cert_to_DER_cert(
            certificate_shown(SSL)
        )
        info = json.loads(engine.inside(environment, *health))
        assert info["db height"] == HEIGHT, info
        done("the health check succeeds")
        owner = engine.inside(environment, "stat", "-c", "%u", "/data/utxo").strip()
        assert owner == "1000", owner
        start = time.monotonic()
        status = engine.stop(server)
        assert status == 0, f"status {status}:\n{server.log_tail()}"
        assert "ElectrumX server terminated normally" in server.log_tail(), server.log_tail()
        done(f"stopped with status 0 after {time.monotonic() - start:.1f} s")
    except BaseException:
        print(server.log_tail(200), flush=True)
        raise
    finally:
        server.kill()
    return certificate, server.log_text()


def check(program, image, architecture):
    with ExitStack() as stopping:
        folder = Path(stopping.enter_context(tempfile.TemporaryDirectory()))
        engine = ENGINES[program](program, image, stopping)
        health = check_configuration(engine, architecture)
        check_installation(engine)
        maker, tip = small_chain(HEIGHT)
        node = stopping.enter_context(NodeThread(maker.chain(tip)))
        environment = {**node.env, "COIN": "BitcoinSegwit"}
        first, log = check_start(engine, environment, folder / "first", health)
        assert "made a self-signed certificate" in log, log
        second, log = check_start(engine, environment, folder / "second", health)
        assert second == first, "the second start has another certificate"
        assert "made a self-signed certificate" not in log, log


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("image")
    parser.add_argument("--architecture", default=ARCHITECTURES.get(platform.machine()))
    args = parser.parse_args()
    check(args.engine, args.image, args.architecture)
    done("the image passes")


if __name__ == "__main__":
    main()
