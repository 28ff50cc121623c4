"""A coin's class body is data, complete, and agrees with the facts."""

import ast
import importlib
import inspect
import json
import pkgutil
from collections import Counter

import pytest

from electrumx.lib import coins
from electrumx.lib.coins import Coin
from electrumx.lib.tx import Deserializer

# Modules that are no family of leaf classes.
FRAMES = {"base", "mixins", "name_scripts"}
# Coins for which nobody has said what the usual port of their node is.
WITHOUT_PORT = {"HOdlcoin", "Newyorkcoin"}
UNKNOWN_VERBYTES = b"????"


def family_modules():
    return [
        importlib.import_module(f"{coins.__name__}.{module.name}")
        for module in pkgutil.iter_modules(coins.__path__)
        if module.name not in FRAMES
    ]


LEAVES = [
    coin
    for module in family_modules()
    for coin in vars(module).values()
    if inspect.isclass(coin) and issubclass(coin, Coin) and coin.__module__ == module.__name__
]


def name_of(coin):
    return coin.__name__


def test_there_are_coins_and_all_are_importable_from_the_package():
    assert len(LEAVES) == 155 + 3
    for coin in LEAVES:
        assert coin is getattr(coins, coin.__name__)
        assert coin.__name__ in coins.__all__
        assert coin is Coin.lookup_coin_class(coin.NAME, coin.NET)


def test_name_and_net_are_unique():
    pairs = Counter((coin.NAME.lower(), coin.NET.lower()) for coin in LEAVES)
    assert [pair for pair, count in pairs.items() if count > 1] == []
    assert [name for name, count in Counter(map(name_of, LEAVES)).items() if count > 1] == []


@pytest.mark.parametrize("module", family_modules(), ids=lambda module: module.__name__)
def test_the_bodies_of_coins_are_data(module):
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                docstring = isinstance(statement, ast.Expr) and isinstance(
                    statement.value, ast.Constant
                )
                assert docstring or isinstance(statement, ast.Assign), (
                    node.name,
                    ast.dump(statement),
                )
        assert not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.If, ast.For)), module.__name__


@pytest.mark.parametrize("coin", LEAVES, ids=name_of)
def test_every_parameter_has_its_type_and_length(coin):
    for attr in ("NAME", "SHORTNAME", "NET"):
        value = getattr(coin, attr)
        assert isinstance(value, str)
        assert value
    assert coin.NET.lower() == coin.NET
    assert len(bytes.fromhex(coin.GENESIS_HASH)) == 32
    assert len(coin.P2PKH_VERBYTE) in (1, 2)
    assert isinstance(coin.P2SH_VERBYTES, list)
    assert coin.P2SH_VERBYTES
    for verbyte in coin.P2SH_VERBYTES:
        assert isinstance(verbyte, bytes)
        assert len(verbyte) == len(coin.P2PKH_VERBYTE)
        assert verbyte != coin.P2PKH_VERBYTE
    assert len(coin.WIF_BYTE) in (1, 2)
    assert len(coin.XPUB_VERBYTES) == len(coin.XPRV_VERBYTES) == 4
    if coin.XPUB_VERBYTES == coin.XPRV_VERBYTES:
        assert coin.XPUB_VERBYTES == UNKNOWN_VERBYTES
    if coin.NAME in WITHOUT_PORT:
        assert coin.RPC_PORT is None
    else:
        assert 0 < coin.RPC_PORT < 65536
    assert coin.TX_COUNT >= 0
    assert coin.TX_COUNT_HEIGHT >= 1
    assert coin.TX_PER_BLOCK >= 1
    assert coin.REORG_LIMIT > 0
    assert coin.DEFAULT_MAX_SEND >= 1_000_000
    assert issubclass(coin.DESERIALIZER, Deserializer)
    heights = [height for height, _ in coin.FETCH_STEPS]
    assert heights == sorted(heights)
    assert heights[0] == 0
    assert all(count > 0 for _, count in coin.FETCH_STEPS)
    assert (coin.SAFE_CLIENT_VER is None) == (coin.CLIENT_UPGRADE_URL is None)


@pytest.mark.parametrize("coin", LEAVES, ids=name_of)
def test_ports_and_peers_are_well_formed(coin):
    assert {"t", "s"} == set(coin.PEER_DEFAULT_PORTS)
    assert all(0 < int(port) < 65536 for port in coin.PEER_DEFAULT_PORTS.values())
    for peer in coin.PEERS:
        host, *services = peer.split(" ")
        assert host
        for service in services:
            assert service[0] in "stp"
            assert not service[1:] or 0 < int(service[1:]) < 65536
    hosts = [peer.split()[0] for peer in coin.PEERS]
    assert len(hosts) == len(set(hosts))


BYTES = ("P2PKH_VERBYTE", "WIF_BYTE", "XPUB_VERBYTES", "XPRV_VERBYTES")
PLAIN = (
    "NAME NET SHORTNAME GENESIS_HASH GENESIS_ACTIVATION PEER_DEFAULT_PORTS PEERS REORG_LIMIT "
    "VALUE_PER_COIN CHUNK_SIZE BASIC_HEADER_SIZE STATIC_BLOCK_HEADERS DEFAULT_MAX_SEND "
    "BLACKLIST_URL MEMPOOL_HISTOGRAM_REFRESH_SECS HEADER_VALUES RPC_PORT TX_COUNT TX_COUNT_HEIGHT "
    "TX_PER_BLOCK"
)
# What the newer records of a net say of all nets.
COMMON_SINCE = {
    "MEMPOOL_HISTOGRAM_REFRESH_SECS": 120,
    "DEFAULT_MAX_SEND": 8_100_000,
    "CRASH_CLIENT_VER": (3, 2, 3),
    "MEMPOOL_COMPACT_HISTOGRAM_BINSIZE": 30_000,
    "DEFAULT_MAX_RECV": 1_000_000,
    # Later figures that this server does without: no minimum version, no second index.
    "REQUIRED_DAEMON_INDEXES": ["txindex"],
    "MIN_REQUIRED_DAEMON_VERSION": None,
}


# What the facts say of 1.15 and is not kept, with what is so instead.
CORRECTED = {
    # Versions that were written where nothing read them are accepted, too.
    ("EXOS", "P2SH_VERBYTES"): [b"\x05", b"\x57"],
    ("EXOSTestnet", "P2SH_VERBYTES"): [b"\x05", b"\xce"],
    ("Myce", "P2SH_VERBYTES"): [b"\x05", b"\x55"],
    ("NIXTestnet", "P2SH_VERBYTES"): [b"\x35", b"\x03"],
    ("Pivx", "P2SH_VERBYTES"): [b"\x05", b"\x0d"],
    ("PivxTestnet", "P2SH_VERBYTES"): [b"\x05", b"\x13"],
    ("Simplicity", "P2SH_VERBYTES"): [b"\x05", b"\x3b"],
    # The version stood there without a list.
    ("Defcoin", "P2SH_VERBYTES"): [b"\x05"],
    ("Smileycoin", "P2SH_VERBYTES"): [b"\x05"],
    # Headers with a proof of merged mining are longer than 80 bytes.
    ("Emercoin", "STATIC_BLOCK_HEADERS"): False,
    ("Emercoin", "DEFAULT_MAX_SEND"): 10_000_000,
    ("Defcoin", "STATIC_BLOCK_HEADERS"): False,
    ("Defcoin", "DEFAULT_MAX_SEND"): 10_000_000,
    # As on the chain that it split off from.
    ("BitcoinDiamond", "DEFAULT_MAX_SEND"): 8_100_000,
}


def test_corrections_are_what_they_are_said_to_be():
    for (name, attr), value in CORRECTED.items():
        assert (name, attr, value) == (name, attr, getattr(getattr(coins, name), attr))


def assert_agrees(coin, record, attrs):
    for attr in attrs:
        if attr not in record or (coin.__name__, attr) in CORRECTED:
            continue
        found = getattr(coin, attr)
        if attr in BYTES:
            found = found.hex()
        elif attr == "P2SH_VERBYTES":
            found = [verbyte.hex() for verbyte in found]
        assert (coin.__name__, attr, record[attr]) == (coin.__name__, attr, found)


def test_coins_agree_with_the_facts(facts):
    records = json.loads((facts / "coins.json").read_text())
    updated = {net["NET"] for net in records["nets_added_since"]["nets"]}
    checked = 0
    for coin in LEAVES:
        record = [item for item in records["coins"] if item["class"] == coin.__name__]
        if coin.NAME == "BitcoinSegwit" and coin.NET in updated:
            continue
        assert len(record) == 1
        family = records["families"][record[0]["family"]]["overrides"]
        merged = {**records["base"], **family, **record[0]}
        assert_agrees(coin, merged, [*BYTES, "P2SH_VERBYTES", *PLAIN.split()])
        assert merged["CRASH_CLIENT_VER"] == (coin.CRASH_CLIENT_VER and [*coin.CRASH_CLIENT_VER])
        checked += 1
    assert checked == 155 - 3


def test_bitcoins_nets_agree_with_their_newer_records(facts):
    records = json.loads((facts / "coins.json").read_text())["nets_added_since"]["nets"]
    assert records
    for record in records:
        coin = Coin.lookup_coin_class(record["NAME"], record["NET"])
        attrs = set(record) - {"NAME"}
        assert_agrees(coin, record, attrs)
        for attr, value in COMMON_SINCE.items():
            assert (attr, value) == (attr, getattr(coin, attr))


def test_bitcoins_three_old_nets_keep_the_names_of_1_15(facts):
    records = json.loads((facts / "coins.json").read_text())["coins"]
    old = [record for record in records if record["NAME"] == "BitcoinSegwit"]
    assert len(old) == 3
    for record in old:
        coin = getattr(coins, record["class"])
        assert_agrees(coin, record, ["NAME", "NET", "SHORTNAME", "GENESIS_HASH", *BYTES])
