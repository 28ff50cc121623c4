"""The hashes of block headers, by name, and rules that choose one by a header's fields.

Every function takes the header's bytes and returns 32 bytes in natural order.  This package has
those that the standard library lacks and that are small, one module each.  The others come from
optional packages, imported for the first header to hash with them and not before; a missing
package, or one whose build makes its calls fail, raises HeaderHashError, which names it.  The
packages are extras of pyproject.toml.

Pure functions; any thread may run them.  The compiled ones may hold the interpreter's lock.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from importlib import import_module

from electrumx.lib.errors import OperatorError
from electrumx.lib.hash import double_sha256
from electrumx.lib.header_hashes.blake import blake256
from electrumx.lib.header_hashes.groestl import groestl512
from electrumx.lib.header_hashes.keccak import kawpow, keccak256
from electrumx.lib.header_hashes.nist5 import nist5
from electrumx.lib.util import unpack_le_uint32_from

HeaderHash = Callable[[bytes], bytes]

VERSION_AT = 0
TIME_AT = 68

#: packages that plain pip makes work; the others define too little for Python 3.10 and later
WORKING_PACKAGES = {"dash-hash", "groestlcoin-hash"}
#: flags for the others: the macro, and no error, since GCC 14, for an undeclared function
BUILD_FLAGS = "-DPY_SSIZE_T_CLEAN -Wno-error=implicit-function-declaration"
#: the modules that header hashes may come from, none of them imported before its first use
OPTIONAL_MODULES = {"groestlcoin_hash", "verushash"}


def install_command(package: str) -> str:
    """Return the one command that installs a package so that its calls work."""
    if package in WORKING_PACKAGES:
        return f"pip install {package}"
    # From source, with these flags, and not from a cache without them.
    return (
        f'CFLAGS="{BUILD_FLAGS}" pip install --no-cache-dir --no-binary {package} '
        f"--force-reinstall {package}"
    )


class HeaderHashError(OperatorError):
    """A header hash needs a package that is not installed, or does not work as it was built."""


@cache
def _imported(algorithm: str, modules: tuple[str, ...], package: str) -> list[HeaderHash]:
    """Return getPoWHash of those of the modules that can be imported; at least one."""
    functions: list[HeaderHash] = []
    for module in modules:
        try:
            functions.append(import_module(module).getPoWHash)
        except (ImportError, AttributeError):
            continue
    if functions:
        return functions
    if not package:
        raise HeaderHashError(
            f"the header hash {algorithm} needs a module {modules[0]}, "
            "which no package that is known provides"
        )
    raise HeaderHashError(
        f"the header hash {algorithm} needs the package {package}: {install_command(package)}"
    )


def packaged(algorithm: str, *modules: str, package: str = "") -> HeaderHash:
    """Return the hash of that name; its first call tries its modules in order.

    package is the one to name to an operator who has none of them; empty if no package exists.
    """
    OPTIONAL_MODULES.update(modules)

    def header_hash(header: bytes) -> bytes:
        for function in _imported(algorithm, modules, package):
            try:
                return function(header)
            except SystemError:
                # The old packages build on new Pythons, and then fail like this.
                continue
        raise HeaderHashError(
            f"the package of the header hash {algorithm} must be built otherwise: "
            f"{install_command(package)}"
        )

    header_hash.__name__ = header_hash.__qualname__ = algorithm
    header_hash.__doc__ = f"Return the {algorithm} hash of a header, by an optional package."
    return header_hash


x11 = packaged("x11", "x11_hash", "dash_hash", package="dash-hash")
x11_gost = packaged("x11_gost", "x11_gost_hash")
x13 = packaged("x13", "x13_hash", "deeponion_x13_hash", package="deeponion-x13-hash")
quark = packaged("quark", "quark_hash", "pivx_quark_hash", package="quark-hash")
xevan = packaged("xevan", "xevan_hash", package="xevan-hash")
x16r = packaged("x16r", "x16r_hash", package="x16r-hash")
x16rv2 = packaged("x16rv2", "x16rv2_hash", package="x16rv2-hash")
x16rt = packaged("x16rt", "x16rt_hash", package="x16rt-hash")
x21s = packaged("x21s", "x21s_hash")
lyra2z = packaged("lyra2z", "lyra2z_hash")
neoscrypt = packaged("neoscrypt", "neoscrypt", package="neoscrypt")
tribus = packaged("tribus", "tribushashm", package="tribushashm")
yespower_zny = packaged("yespower_zny", "zny_yespower_0_5", package="zny-yespower-0-5")
yespower_bell = packaged("yespower_bell", "bell_yespower", package="bell-yespower")
cpupower = packaged("cpupower", "cpupower", package="cpupower")


def scrypt(header: bytes) -> bytes:
    """Return scrypt with N 1024, r 1 and p 1, the header being password and salt."""
    return hashlib.scrypt(header, salt=header, n=1024, r=1, p=1, dklen=32)


def trezar_blake2s(header: bytes) -> bytes:
    """Return Trezarcoin's hash: BLAKE2s keyed with parts of the 80-byte header.

    The key is most of the end of the header and the beginning of its Merkle root; the message
    repeats the root behind the header.
    """
    key = header[58:80] + header[36:46]
    message = header[:80] + header[36:68]
    return hashlib.blake2s(message, digest_size=32, key=key).digest()


@cache
def _groestl_package() -> Callable[[bytes, int], bytes] | None:
    try:
        function: Callable[[bytes, int], bytes] = import_module("groestlcoin_hash").getHash
    except ImportError:
        return None
    return function


def groestl(data: bytes) -> bytes:
    """Return Groestl-512 applied twice, cut to 32 bytes.

    The package groestlcoin-hash does it much faster, and is used if it is there.
    """
    compiled = _groestl_package()
    if compiled is not None:
        # It takes nothing but bytes.
        return compiled(bytes(data), len(data))
    return groestl512(groestl512(data))[:32]


def verushash(header: bytes) -> bytes:
    """Return VerusHash: of version 1, 2.1 or 2.2, by the header's version.

    The first block's is sha256d.  The module has no package: the project on PyPI with its name is
    no hash at all but a program: do not install it.
    """
    if not any(header[4:36]):
        return double_sha256(header)
    try:
        module = import_module("verushash")
        if header[0] == 4 and header[2] >= 1:
            solution_version = header[143] if len(header) >= 144 else 0
            name = "verushash_v2b1" if solution_version >= 3 else "verushash_v2b"
        else:
            name = "verushash"
        function: HeaderHash = getattr(module, name)
    except (ImportError, AttributeError):
        raise HeaderHashError(
            "the header hash verushash needs a module verushash, built from Verus' own sources; "
            "do not install the package of that name from PyPI, which is something else"
        ) from None
    return function(header)


def _by_field(offset: int, steps: tuple[tuple[int, HeaderHash], ...]) -> HeaderHash:
    def header_hash(header: bytes) -> bytes:
        (value,) = unpack_le_uint32_from(header, offset)
        chosen = steps[0][1]
        for least, function in steps:
            if value >= least:
                chosen = function
        return chosen(header)

    return header_hash


def by_version(*steps: tuple[int, HeaderHash]) -> HeaderHash:
    """Return the hash that depends on a header's version: (least version, hash) ascending."""
    return _by_field(VERSION_AT, steps)


def by_time(*steps: tuple[int, HeaderHash]) -> HeaderHash:
    """Return the hash that depends on a header's time: (least time, hash) ascending."""
    return _by_field(TIME_AT, steps)


def xuez(header: bytes) -> bytes:
    """Return xevan of a header, of its first 80 bytes if the version is 1."""
    (version,) = unpack_le_uint32_from(header)
    return xevan(header[:80] if version == 1 else header)


__all__ = [
    "HeaderHash",
    "HeaderHashError",
    "blake256",
    "by_time",
    "by_version",
    "cpupower",
    "groestl",
    "groestl512",
    "kawpow",
    "keccak256",
    "lyra2z",
    "neoscrypt",
    "nist5",
    "quark",
    "scrypt",
    "trezar_blake2s",
    "tribus",
    "verushash",
    "x11",
    "x11_gost",
    "x13",
    "x16r",
    "x16rt",
    "x16rv2",
    "x21s",
    "xevan",
    "xuez",
    "yespower_bell",
    "yespower_zny",
]
