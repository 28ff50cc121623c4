"""A coin's class body is data, complete, and agrees with the facts."""

import ast
import importlib
import inspect
import pkgutil
from collections import Counter

import pytest

from electrumx.lib import coins, header_hashes
from electrumx.lib import hash as hash_module
from electrumx.lib.coins import Coin
from electrumx.lib.header_hashes import HeaderHashError
from electrumx.lib.tx import Deserializer
from tests import facts

# Modules that are no family of leaf classes.
FRAMES = {"base", "mixins", "name_scripts"}
# Coins whose node has no known usual port.
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
    assert len(LEAVES) == 155 + 3 + 13
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
# Attributes of all nets in the newer records of one.
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


# Facts of 1.15 that are not kept, with the corrected values.
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


def test_corrections_differ_from_the_facts():
    for (name, attr), value in CORRECTED.items():
        assert (name, attr, value) == (name, attr, getattr(getattr(coins, name), attr))


# Newer facts that differ from 1.15.
CORRECTED_CLASSES = {
    # Merged mining's headers, and their parser, where they were forgotten or came later.
    ("Defcoin", "DESERIALIZER"): "DeserializerAuxPowSegWit",
    ("Defcoin", "SESSIONCLS"): "AuxPoWElectrumX",
    ("Dogecoin", "DESERIALIZER"): "DeserializerAuxPowSegWit",
    ("DogecoinTestnet", "DESERIALIZER"): "DeserializerAuxPowSegWit",
    ("Emercoin", "SESSIONCLS"): "AuxPoWElectrumX",
    ("ViacoinTestnetSegWit", "DESERIALIZER"): "DeserializerAuxPowSegWit",
    # Proofs of names' values.
    **{
        (name, "SESSIONCLS"): "NameElectrumX"
        for name in ("Namecoin", "NamecoinTestnet", "NamecoinRegtest")
    },
    **{(name, "SESSIONCLS"): "NameElectrumX" for name in ("Xaya", "XayaTestnet", "XayaRegtest")},
    # Transactions without a time; raw blocks.
    ("Peercoin", "DESERIALIZER"): "DeserializerPeercoin",
    ("PeercoinTestnet", "DESERIALIZER"): "DeserializerPeercoin",
    ("Blackcoin", "DESERIALIZER"): "DeserializerBlackcoin",
    ("Blackcoin", "DAEMON"): "Daemon",
    # Extension blocks; shielded transactions.
    **{
        (name, "DESERIALIZER"): "DeserializerLitecoin"
        for name in ("Litecoin", "LitecoinRegtest", "LitecoinTestnet")
    },
    **{(name, "DESERIALIZER"): "DeserializerPIVX" for name in ("Pivx", "PivxTestnet")},
    # Inputs with other fields are indexed by it.
    ("TokenPay", "BLOCK_PROCESSOR"): "ConvertingBlockProcessor",
}
CLASSES = ("DESERIALIZER", "SESSIONCLS", "DAEMON", "BLOCK_PROCESSOR")
HEIGHTS = {"HDR_V4_HEIGHT", "HDR_V5_HEIGHT", "ZEROCOIN_START_HEIGHT", "KAWPOW_ACTIVATION_HEIGHT"}
HEADER_LENGTHS = {"HDR_V4_SIZE", "HDR_V5_SIZE", "ZEROCOIN_HEADER", "KAWPOW_HEADER_SIZE"}
SAME = {"FORK_HEIGHT", "HEADER_SIZE_NO_SOLUTION", "HEADER_SIZE_POST_FORK", "BLOCK_PROOF_OF_STAKE"}
SAME |= {"TRUNCATED_HEADER_SIZE"}
OP_NAMES = {f"OP_NAME_{kind}" for kind in ("NEW", "FIRSTUPDATE", "UPDATE", "DELETE", "REGISTER")}
FEES = {"ESTIMATE_FEE", "RELAY_FEE"}
# Fields of a record that are not compared with an attribute, and the reason.
NOT_COMPARED = {
    "P2SH_VERBYTE": "misspelt: in CORRECTED",
    "ALLOW_ADVANCING_ERRORS": "nothing read it",
    "IRC_PREFIX": "peers have not been found by IRC for long",
    "BLOCK_PROOF_OF_STAKE_FLAGS": "compared as bytes below",
    "TX_VERSION": "the parser's",
    "XEVAN_TIMESTAMP": "in the rule of the header's hash",
    "ZEROCOIN_BLOCK_VERSION": "in the rule of the header's hash",
    "X16RV2_ACTIVATION_TIME": "in the rule of the header's hash",
    "KAWPOW_ACTIVATION_TIME": "in the rule of the header's hash",
    "HDR_V4_START_OFFSET": "follows from height and size",
    "HDR_V5_START_OFFSET": "follows from height and size",
    "MTP_HEADER_EXTRA_SIZE": "the parser's",
    "MTP_HEADER_DATA_SIZE": "the daemon class's",
    "MTP_HEADER_DATA_START": "the daemon class's",
    "MTP_HEADER_DATA_END": "the daemon class's",
}


def records_of_1_15():
    """(coin, all that the facts say of it) for every coin."""
    for record in facts.coins("1.15"):
        yield getattr(coins, record.class_name), record


def test_every_field_of_a_record_is_compared_or_has_a_reason():
    compared = {*BYTES, "P2SH_VERBYTES", *PLAIN.split(), "CRASH_CLIENT_VER"}
    compared |= HEIGHTS | HEADER_LENGTHS | SAME | OP_NAMES | FEES | {*CLASSES}
    for coin, record in records_of_1_15():
        unknown = set(record.values) - compared - NOT_COMPARED.keys()
        assert (coin.__name__, set()) == (coin.__name__, unknown)


def test_readers_and_classes_of_the_server_agree_with_the_facts():
    for coin, record in records_of_1_15():
        for attr in CLASSES:
            expected = CORRECTED_CLASSES.get((coin.__name__, attr), record.values[attr])
            found = getattr(coin, attr).__name__
            assert (coin.__name__, attr, expected) == (coin.__name__, attr, found)


# As in the newer facts, where they differ.
NEWER_HEIGHTS = {"PivxTestnet": 201}


def test_what_few_coins_have_agrees_with_the_facts():
    for coin, facts_of_coin in records_of_1_15():
        record = facts_of_coin.values
        for attr in record.keys() & SAME:
            assert (coin.__name__, attr, record[attr]) == (coin.__name__, attr, getattr(coin, attr))
        for attr in record.keys() & HEIGHTS:
            height = NEWER_HEIGHTS.get(coin.__name__, record[attr])
            assert (coin.__name__, height) == (coin.__name__, coin.HEADER_SIZES[1][0])
        for attr in record.keys() & HEADER_LENGTHS:
            assert (coin.__name__, record[attr]) == (coin.__name__, coin.HEADER_SIZES[1][1])
        for attr in record.keys() & OP_NAMES:
            assert record[attr] in {shape[0] for shape in coin.NAME_SHAPES}, coin.__name__
        if "Estimate" in coin.DAEMON.__name__:
            fees = [coin.ESTIMATE_FEE, coin.RELAY_FEE]
            assert [record.get("ESTIMATE_FEE"), record.get("RELAY_FEE", fees[1])] == fees
    assert bytes.fromhex("01000000") == coins.BitcoinAtom.BLOCK_PROOF_OF_STAKE_FLAGS


def version_of(header):
    return int.from_bytes(header[:4], "little")


def time_of(header):
    return int.from_bytes(header[68:72], "little")


FIELDS = {"version": version_of, "time": time_of}


def hashed_by(rule, header):
    """Return the name of the algorithm, and the bytes that it hashes, by a record's rule."""
    if "steps" not in rule:
        return rule["algorithm"], header[: rule.get("length")]
    value = FIELDS[rule["field"]](header)
    return [algorithm for least, algorithm in rule["steps"] if value >= least][-1], header


# Merged mining, as the newer facts have it.
NEWER_HASHES = {"Defcoin": {"algorithm": "double_sha256", "length": 80}}
# Rules about more than version and time, which tests/lib tests.
RULES_BESIDE = ("Verus", "Xuez", "BitcoinAtom", "BitcoinGold", "EXOS")
TIMES = {1_400_000_000, 2**32 - 1}
for rule_time in (1_569_945_600, 1_588_788_000, 1_567_533_600, 1_585_159_200, 1_477_958_400):
    TIMES |= {rule_time - 1, rule_time, rule_time + 1}
for rule_time in (1_525_651_200, 1_550_246_400):
    TIMES |= {rule_time, rule_time + 1}


def outcome(function, header):
    """A hash, or the error that names the package."""
    try:
        return function(header)
    except HeaderHashError as e:
        return str(e)


def test_the_hash_of_every_coins_headers_is_as_the_facts_say():
    beside = set()
    for coin, record in records_of_1_15():
        if coin.__name__.startswith(RULES_BESIDE):
            assert record.header_hash is None
            beside.add(coin.__name__)
            continue
        rule = NEWER_HASHES.get(coin.__name__, record.header_hash)
        size = {180: 180, 140: 1487, 209: 209}.get(coin.BASIC_HEADER_SIZE, 120)
        probes = [(version, 1_400_000_000) for version in range(1, 10)]
        probes += [(1, time) for time in sorted(TIMES)]
        for version, time in probes if "steps" in rule else probes[:1]:
            fields = version.to_bytes(4, "little") + bytes(64) + time.to_bytes(4, "little")
            header = fields + bytes(size - len(fields))
            algorithm, hashed = hashed_by(rule, header)
            function = getattr(header_hashes, algorithm, None) or getattr(hash_module, algorithm)
            expected = outcome(function, hashed)
            assert (coin.__name__, version, time, expected) == (
                coin.__name__, version, time, outcome(coin.header_hash, header),
            )  # fmt: skip
    assert len(beside) == 8


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


def test_newer_coins_agree_with_their_facts():
    not_compared = {"DEFAULT_MAX_SEND": "a new default there for every coin", "PEERS": "below"}
    compared = {"P2PKH_VERBYTE", "P2SH_VERBYTES", *PLAIN.split(), *CLASSES, *SAME, *FEES}
    assert len(facts.coins("later")) == 13
    for facts_of_coin in facts.coins("later"):
        record = facts_of_coin.values
        coin = Coin.lookup_coin_class(record["NAME"], record["NET"])
        assert facts_of_coin.class_name == coin.__name__
        assert set(record) - compared - not_compared.keys() == set()
        attrs = {"P2SH_VERBYTES", *BYTES, *PLAIN.split(), "TRUNCATED_HEADER_SIZE"}
        assert_agrees(coin, record, (attrs | SAME) - not_compared.keys())
        assert record["PEERS"] == list(coin.PEERS)
        for attr in CLASSES:
            # Verge's own reader reads the same as that of all coins with a time.
            name = record[attr].replace("DeserializerVerge", "DeserializerTxTime")
            assert (coin.__name__, name) == (coin.__name__, getattr(coin, attr).__name__)
        if "Estimate" in coin.DAEMON.__name__:
            assert [record[fee] for fee in sorted(FEES)] == [coin.ESTIMATE_FEE, coin.RELAY_FEE]


def test_coins_agree_with_the_facts():
    updated = {record.values["NET"] for record in facts.coins("bitcoin")}
    newer = {(item.values["NAME"], item.values["NET"]) for item in facts.coins("later")}
    checked = 0
    for coin in LEAVES:
        found = [item.values for item in facts.coins("1.15") if item.class_name == coin.__name__]
        if coin.NAME == "BitcoinSegwit" and coin.NET in updated:
            continue
        if (coin.NAME, coin.NET) in newer:
            continue
        assert len(found) == 1
        (record,) = found
        assert_agrees(coin, record, [*BYTES, "P2SH_VERBYTES", *PLAIN.split()])
        assert record["CRASH_CLIENT_VER"] == (coin.CRASH_CLIENT_VER and [*coin.CRASH_CLIENT_VER])
        checked += 1
    assert checked == 155 - 3


def test_bitcoins_nets_agree_with_their_newer_records():
    assert facts.coins("bitcoin")
    for facts_of_net in facts.coins("bitcoin"):
        record = facts_of_net.values
        coin = Coin.lookup_coin_class(record["NAME"], record["NET"])
        assert facts_of_net.class_name == coin.__name__
        attrs = set(record) - {"NAME"}
        assert_agrees(coin, record, attrs)
        for attr, value in COMMON_SINCE.items():
            assert (attr, value) == (attr, getattr(coin, attr))


def test_bitcoins_three_old_nets_keep_the_names_of_1_15():
    old = [item for item in facts.coins("1.15") if item.values["NAME"] == "BitcoinSegwit"]
    assert len(old) == 3
    for record in old:
        coin = getattr(coins, record.class_name)
        attrs = ["NAME", "NET", "SHORTNAME", "GENESIS_HASH", *BYTES]
        assert_agrees(coin, record.values, attrs)
