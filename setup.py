"""Packaging: the builds and the requirements of `pip install .`."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).resolve().parent


def read_version():
    """Return the version that electrumx/__init__.py states, without importing anything."""
    text = (HERE / "electrumx" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^version_short = "([^"]+)"$', text, re.MULTILINE).group(1)


# LevelDB: plyvel has no wheels for the newest Pythons; plyvel-next is the same binding, built
# for them, and reads and writes the same databases.
LEVELDB = [
    "plyvel>=1.5.1,<2; python_version<'3.12'",
    "plyvel-next>=2.1.2,<3; python_version>='3.12'",
]

# Header hashes that the standard library lacks: one extra per algorithm, and only packages that
# a plain `pip install` makes work on every supported Python.
HASHES = {
    "x11": ["dash-hash>=1.5.1,<2"],
    "groestl": ["groestlcoin-hash"],
    "x16rt": ["avian-x16rt-hash>=1.1.0,<2"],
}

EXTRAS = {
    "rocksdb": ["rocksdict>=0.3.29,<0.4"],
    "uvloop": ["uvloop>=0.21,<1"],
    # Always installed now; the name stays for existing commands.
    "orjson": [],
    # Wheels for every supported Python.
    "zmq": ["pyzmq>=26,<28"],
    **HASHES,
    "test": [
        "atheris>=3,<4; python_version>='3.11' and python_version<'3.14'",
        "bdkpython==3.1.1",
        "cython>=3.0,<4",
        "hypothesis>=6.100,<7",
        "mypy>=1.10,<3",
        "proxy-protocol==0.11.3",
        "pytest>=8,<10",
        "pytest-asyncio>=0.24,<2",
        "pytest-timeout>=2.3,<3",
        "pytest-xdist>=3.6,<4",
        "pyzmq>=26,<28",
        "ruff==0.17.6",
    ],
    # The tests that run on every supported Python, for `make test-all`.
    "test-unit": [
        "hypothesis>=6.100,<7",
        "proxy-protocol==0.11.3",
        "pytest>=8,<10",
        "pytest-asyncio>=0.24,<2",
        "pytest-timeout>=2.3,<3",
        "pytest-xdist>=3.6,<4",
        "pyzmq>=26,<28",
    ],
    "docs": ["sphinx>=7,<10"],
}

# The Cython modules of indexing, and of answering (from packed rows to JSON).  Where one cannot
# be built (no compiler, no headers of Python or OpenSSL) pip warns, and the server uses the
# pure-Python implementation, more slowly.
EXTENSIONS = [
    Extension(
        f"electrumx.server.{name}",
        [f"electrumx/server/{name.replace('.', '/')}.pyx"],
        libraries=["crypto"],
        extra_compile_args=["-O3"],
        optional=True,
    )
    for name in (
        "block_processor._fastblock",
        "block_processor._fasthistory",
        "block_processor._fastindex",
        "bulk_sync._fastbulk",
        "db._fastquery",
    )
]

setup(
    name="electrumx",
    version=read_version(),
    description="An Electrum server: indexes a full node's chain and serves light wallets",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    author="the ElectrumX developers",
    license="MIT",
    license_files=["LICENCE"],
    packages=find_packages(include=["electrumx", "electrumx.*"]),
    package_data={
        "electrumx.lib": ["*.pxd"],
        "electrumx.server.block_processor": ["*.pyx", "*.pxd", "*.pyi"],
        "electrumx.server.bulk_sync": ["*.pyx"],
        "electrumx.server.db": ["*.pyx", "*.pxd", "*.pyi"],
        "electrumx.server.storage": ["*.pxd"],
    },
    ext_modules=EXTENSIONS,
    python_requires=">=3.10",
    install_requires=[
        "aiorpcX[ws]>=0.25,<0.26",
        # Older ones have known faults in reading HTTP, which the node's side could use.
        "aiohttp>=3.14.3,<4",
        "orjson>=3.11,<4",
        # The last with wheels for Python 3.10 are 16.1.
        "websockets>=16.0,<18",
        "yarl>=1.20,<2",
        *LEVELDB,
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "electrumx_server = electrumx.cli.start:main",
            "electrumx_rpc = electrumx.cli.rpc:main",
            "electrumx_compact_history = electrumx.cli.compact_history:main",
            "electrumx_verify = electrumx.cli.verify:main",
        ],
    },
    keywords="electrum server bitcoin light-wallet",
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Environment :: No Input/Output (Daemon)",
        "Framework :: AsyncIO",
        "Operating System :: Unix",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Database",
        "Topic :: Internet",
    ],
)
