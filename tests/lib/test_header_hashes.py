import hashlib
import subprocess
import sys

import pytest

from electrumx.lib import header_hashes
from electrumx.lib.coins import Coin, Ravencoin
from electrumx.lib.errors import DeserializeError
from electrumx.lib.header_hashes import (
    OPTIONAL_MODULES,
    HeaderHashError,
    by_time,
    by_version,
    groestl,
)
from electrumx.lib.header_hashes.blake import blake256, blake512
from electrumx.lib.header_hashes.groestl import groestl512
from electrumx.lib.header_hashes.keccak import keccak, keccak256, keccak512, permute
from electrumx.lib.header_hashes.nist5 import jh512, skein512
from tests import facts

# Of the algorithms' own documents: message, digest.
VECTORS = [
    (blake256, b"", "716f6e863f744b9ac22c97ec7b76ea5f5908bc5b2f67c61510bfc4751384ea7a"),
    (blake256, bytes(1), "0ce8d4ef4dd7cd8d62dfded9d4edb0a774ae6a41929a74da23109e8f11139c87"),
    (blake256, bytes(72), "d419bad32d504fb7d44d460c42c5593fe544fa4c135dec31e21bd9abdcc22d41"),
    (keccak256, b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
    (
        blake512,
        b"",
        "a8cfbbd73726062df0c6864dda65defe58ef0cc52a5625090fa17601e1eecd1b"
        "628e94f396ae402a00acc9eab77b4d4c2e852aaaa25a636d80af3fc7913ef5b8",
    ),
    (
        keccak512,
        b"",
        "0eab42de4c3ceb9235fc91acffe746b29c29a8c366b7c60e4e67c466f36a4304"
        "c00fa9caf9d87976ba469bcbe06713b435f091ef2769fb160cdab33d3670680e",
    ),
    (
        groestl512,
        b"",
        "6d3ad29d279110eef3adbd66de2a0345a77baede1557f5d099fce0c03d6dc2ba"
        "8e6d4a6633dfbd66053c20faa87d1a11f39a7fbe4a6c2f009801370308fc4ad8",
    ),
    (
        jh512,
        b"",
        "90ecf2f76f9d2c8017d979ad5ab96b87d58fc8fc4b83060f3f900774faa2c8fa"
        "be69c5f4ff1ec2b61d6b316941cedee117fb04b1f4c5bc1b919ae841c50eec4f",
    ),
    (
        skein512,
        b"",
        "bc5b4c50925519c290cc634277ae3d6257212395cba733bbad37a4af0fa06af4"
        "1fca7903d06564fea7a2d3730dbdb80c1f85562dfcc070334ea4d1d9e72cba7a",
    ),
]
# The modules that hashes come from, or could come from where we have our own.
OPTIONAL = sorted({*OPTIONAL_MODULES, "blake256", "Cryptodome", "kawpow"})


@pytest.mark.parametrize(("function", "data", "digest"), VECTORS)
def test_own_hashes_give_their_published_digests(function, data, digest):
    assert digest == function(data).hex()


@pytest.mark.parametrize("length", [0, 1, 54, 55, 56, 63, 64, 65, 71, 72, 111, 112, 127, 128, 136])
def test_messages_of_lengths_around_a_block_hash_to_different_digests(length):
    for function in (blake256, blake512, keccak256, keccak512, groestl512, jh512, skein512):
        digests = {function(bytes(n)) for n in (length, length + 1)}
        assert len(digests) == 2


@pytest.mark.parametrize("length", [0, 1, 71, 72, 135, 136, 137, 272, 300])
def test_keccak_differs_from_sha3_only_in_its_padding(length):
    data = bytes(range(256)) * 2
    padded = data[:length]
    # SHA-3 puts the bits 01 behind the message; as whole bytes that is 06 in place of 01.
    assert keccak256(padded) != hashlib.sha3_256(padded).digest()
    assert len(keccak(padded, 32)) == 32
    lanes = [0] * 25
    message = bytearray(padded) + b"\6" + bytes(-(length + 1) % 136)
    message[-1] |= 0x80
    for start in range(0, len(message), 136):
        for n in range(17):
            at = start + 8 * n
            lanes[n] ^= int.from_bytes(message[at : at + 8], "little")
        permute(lanes, 64, 24)
    assert hashlib.sha3_256(padded).digest() == b"".join(
        lane.to_bytes(8, "little") for lane in lanes[:4]
    )


def test_own_groestl_gives_the_addresses_that_the_package_would(monkeypatch):
    monkeypatch.setattr(header_hashes, "_groestl_package", lambda: None)
    block = facts.block("Groestlcoin", "mainnet", 2_000_000)
    assert block.hash == groestl(block.raw[:80])[::-1].hex()


def test_a_header_too_short_for_kawpow_is_a_deserialize_error():
    """A late time in a block below the height at which headers grew asks for that hash."""
    late = bytes(68) + (1_588_788_000).to_bytes(4, "little")
    for length in (80, 119):
        header = late + bytes(length - len(late))
        with pytest.raises(DeserializeError, match=f"{length} bytes"):
            Ravencoin.header_hash(header)
    assert len(Ravencoin.header_hash(late + bytes(48))) == 32


def test_a_compiled_groestl_is_preferred_and_given_bytes(monkeypatch):
    monkeypatch.setattr(
        header_hashes, "_groestl_package", lambda: lambda data, size: (type(data), size)
    )
    assert (bytes, 3) == groestl(bytearray(3))


def test_rules_choose_by_the_field_of_the_header():
    def named(name):
        return lambda header: name

    rule = by_version((0, named("a")), (7, named("b")), (9, named("c")))
    assert ["a", "a", "b", "b", "c", "c"] == [
        rule(version.to_bytes(4, "little") + bytes(76)) for version in (0, 6, 7, 8, 9, 2**32 - 1)
    ]
    rule = by_time((0, named("a")), (1000, named("b")))
    assert ["a", "b"] == [
        rule(bytes(68) + time.to_bytes(4, "little") + bytes(8)) for time in (999, 1000)
    ]


def test_a_hash_whose_package_is_missing_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "no_such_hash", None)
    function = header_hashes.packaged("fancy", "no_such_hash", package="fancy-hash")
    with pytest.raises(HeaderHashError, match=r"fancy needs the package fancy-hash: CFLAGS="):
        function(bytes(80))
    function = header_hashes.packaged("fancy", "no_such_hash")
    with pytest.raises(HeaderHashError, match="no_such_hash, which no package"):
        function(bytes(80))


def test_a_package_that_works_as_it_is_has_a_plain_command():
    """Dash's operator needs no compiler flags, and the extra names the same package."""
    assert header_hashes.install_command("dash-hash") == "pip install dash-hash"


def test_the_error_for_a_wrongly_built_package_has_the_build_command(monkeypatch):
    class Module:
        @staticmethod
        def getPoWHash(header):
            raise SystemError("PY_SSIZE_T_CLEAN macro must be defined for '#' formats")

    monkeypatch.setitem(sys.modules, "old_hash", Module)
    function = header_hashes.packaged("old", "old_hash", package="old-hash")
    with pytest.raises(HeaderHashError, match=r'CFLAGS="-DPY_SSIZE_T_CLEAN .* old-hash'):
        function(bytes(80))


def test_a_module_that_works_is_found_behind_one_that_does_not(monkeypatch):
    class Broken:
        @staticmethod
        def getPoWHash(header):
            raise SystemError("PY_SSIZE_T_CLEAN macro must be defined for '#' formats")

    class Sound:
        getPoWHash = staticmethod(lambda header: b"sound")

    monkeypatch.setitem(sys.modules, "broken_hash", Broken)
    monkeypatch.setitem(sys.modules, "sound_hash", Sound)
    modules = ("no_such_hash", "broken_hash", "sound_hash")
    assert b"sound" == header_hashes.packaged("two", *modules, package="two-hash")(bytes(80))


def test_verushash_warns_of_the_package_of_that_name_and_needs_none_for_the_first_block():
    header = bytes(140) + b"\0"
    expected = hashlib.sha256(hashlib.sha256(header).digest()).digest()
    assert expected == header_hashes.verushash(header)
    with pytest.raises(HeaderHashError, match="do not install the package of that name from PyPI"):
        header_hashes.verushash(bytes(4) + b"\1" * 136)


def test_verushash_uses_the_version_of_the_header(monkeypatch):
    class Module:
        verushash = staticmethod(lambda header: "v1")
        verushash_v2b = staticmethod(lambda header: "v2b")
        verushash_v2b1 = staticmethod(lambda header: "v2b1")

    monkeypatch.setitem(sys.modules, "verushash", Module)

    def header(version, solution_version, size=200):
        raw = bytearray(version + b"\1" * 32 + bytes(200))
        raw[143] = solution_version
        return bytes(raw[:size])

    v4 = bytes.fromhex("04000100")
    assert "v1" == header_hashes.verushash(header(bytes.fromhex("04000000"), 3))
    assert "v2b" == header_hashes.verushash(header(v4, 2))
    assert "v2b1" == header_hashes.verushash(header(v4, 3))
    assert "v2b" == header_hashes.verushash(header(v4, 3, size=143))


@pytest.mark.parametrize("module", ["electrumx.lib.coins", "electrumx.server.controller"])
def test_importing_loads_no_optional_package(module):
    code = f"import sys, {module}\nprint(sorted(set({OPTIONAL!r}) & sys.modules.keys()))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "[]\n" == result.stdout


def test_looking_up_every_coin_loads_no_optional_package():
    code = (
        "import sys\nfrom electrumx.lib.coins import Coin\n"
        "for name in ('Ravencoin', 'Dash', 'Electra', 'Verus', 'Groestlcoin', 'Decred'):\n"
        "    Coin.lookup_coin_class(name, 'mainnet')\n"
        f"print(sorted(set({OPTIONAL!r}) & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "[]\n" == result.stdout


def test_exos_has_one_hash_for_all_headers_of_old_versions():
    for net in ("mainnet", "testnet"):
        coin = Coin.lookup_coin_class("EXOS", net)
        assert coin.GENESIS_HASH == coin.header_hash(b"\2" + bytes(79))[::-1].hex()
        assert coin.GENESIS_HASH != coin.header_hash(b"\3" + bytes(79))[::-1].hex()
