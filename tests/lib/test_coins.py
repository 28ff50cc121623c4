import subprocess
import sys
from decimal import Decimal

import pytest

from electrumx.lib import coins
from electrumx.lib.coins import Coin, CoinError, ServerClass
from electrumx.lib.coins import base as coins_base
from electrumx.lib.errors import DeserializeError, OperatorError
from electrumx.lib.hash import double_sha256, hash_to_hex_str
from electrumx.lib.tx import (
    Deserializer,
    DeserializerLitecoin,
    DeserializerSegWit,
    TxInput,
    TxOutput,
    TxSegWit,
)

# Bitcoin's first block: header, one transaction.
GENESIS_HEADER = bytes.fromhex(
    "01000000" + "00" * 32 + "3ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a"
    "29ab5f49ffff001d1dac2b7c"
)
COINBASE = bytes.fromhex(
    "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d"
    "0104455468652054696d65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66"
    "207365636f6e64206261696c6f757420666f722062616e6b73ffffffff0100f2052a01000000434104678afdb0fe55"
    "48271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba"
    "0b8d578a4c702b6bf11d5fac00000000"
)
GENESIS_BLOCK = GENESIS_HEADER + b"\1" + COINBASE

BITCOIN_NETS = {
    "mainnet": "BitcoinSegwit",
    "testnet": "BitcoinSegwitTestnet",
    "testnet4": "BitcoinSegwitTestnet4",
    "signet": "BitcoinSegwitSignet",
    "regtest": "BitcoinSegwitRegtest",
    "mutinynet": "BitcoinSegwitMutinynet",
}
CASH_NETS = {
    "mainnet": "BitcoinCash",
    "testnet": "BitcoinCashTestnet",
    "regtest": "BitcoinCashRegtest",
    "nolnet": "BitcoinNolnet",
}


def coin_of(name, net="mainnet"):
    return Coin.lookup_coin_class(name, net)


@pytest.fixture
def bitcoin():
    return coin_of("Bitcoin")


# Look-up


@pytest.mark.parametrize("name", ["Bitcoin", "BitcoinSegwit", "BITCOIN", "bitcoinsegwit"])
@pytest.mark.parametrize("net", BITCOIN_NETS)
def test_bitcoin_is_found_by_both_names_and_any_case(name, net):
    expected = getattr(coins, BITCOIN_NETS[net])
    assert expected is coin_of(name, net)
    assert expected is coin_of(name, net.upper())


@pytest.mark.parametrize("name", ["BitcoinCash", "BitcoinCashABC", "bitcoincashabc"])
@pytest.mark.parametrize("net", CASH_NETS)
def test_bitcoin_cash_is_found_by_both_names(name, net):
    assert getattr(coins, CASH_NETS[net]) is coin_of(name, net)


def test_an_unknown_pair_is_an_operators_error():
    for name, net in (("Bitcoin", "nolnet"), ("Nocoin", "mainnet"), ("", "")):
        text = f"unknown coin {name} and network {net} combination"
        with pytest.raises(CoinError, match=text) as info:
            coin_of(name, net)
        assert isinstance(info.value, OperatorError)


def test_a_coin_of_a_third_party_is_found_even_below_a_leaf_and_named_like_an_alias():
    class LocalLitecoin(coins.Litecoin):
        NAME = "BitcoinCash"
        NET = "third party"

    try:
        assert LocalLitecoin is coin_of("bitcoincash", "Third Party")
    finally:
        # Or the class would stay among Coin's subclasses for the other tests.
        LocalLitecoin.NET = "gone"


def test_a_coin_without_its_figures_is_refused():
    class Bare(Coin):
        NAME = "Bare"
        NET = "mainnet"
        TX_COUNT = 1
        TX_PER_BLOCK = 1

    with pytest.raises(CoinError, match=r"Bare lacks TX_COUNT_HEIGHT$"):
        coin_of("bare")
    Bare.TX_COUNT_HEIGHT = 1
    assert Bare is coin_of("bare")


def test_extended_key_versions_give_the_first_coin_by_class_name():
    assert (True, coins.Bellcoin) == Coin.lookup_xverbytes(bytes.fromhex("0488b21e"))
    assert (False, coins.Bellcoin) == Coin.lookup_xverbytes(bytes.fromhex("0488ade4"))
    assert (True, coins.BitcoinCashRegtest) == Coin.lookup_xverbytes(bytes.fromhex("043587cf"))
    assert (False, coins.BitcoinCashRegtest) == Coin.lookup_xverbytes(bytes.fromhex("04358394"))
    with pytest.raises(CoinError, match="deadbeef"):
        Coin.lookup_xverbytes(bytes.fromhex("deadbeef"))


# Daemon URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (" u:p@127.0.0.1:8332/ ", "http://u:p@127.0.0.1:8332/"),
        ("u:p@h", "http://u:p@h:8332/"),
        ("u:p@h//", "http://u:p@h:8332/"),
        ("https://u:p@[::1]", "https://u:p@[::1]:8332/"),
        ("http://u:p@[fe80::1]:1", "http://u:p@[fe80::1]:1/"),
        ("u:p/with@all:sorts@h:65535", "http://u:p/with@all:sorts@h:65535/"),
        ("HTTP://u:p@h", "http://u:p@h:8332/"),
        ("Https://u:p@h:1", "https://u:p@h:1/"),
        ("u:a://b@h", "http://u:a://b@h:8332/"),
        ("http:secret@h", "http://http:secret@h:8332/"),
    ],
)
def test_daemon_urls_are_completed(bitcoin, url, expected):
    assert expected == bitcoin.sanitize_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        ("h", "h"),
        ("h:8332", "h:8332"),
        ("user:secret", "user:…"),
        ("http://user:secret", "http://user:…"),
        ("user@", "…@"),
        ("@h", "@h"),
        ("user:secret@h/wallet", "…@h/wallet"),
        ("http://user:sec@ret://@h:port", "http://…@h:port"),
        ("user:secret@h:0", "…@h:0"),
        ("user:secret@h:65536", "…@h:65536"),
        ("user:secret@h:80:80", "…@h:80:80"),
        ("user:secret@[::1", "…@[::1"),
        ("user:secret@h\nx", "…@h\nx"),
        ("ftp://user:secret@h", "…@h"),
        ("unix+http://user:secret@h:1", "…@h:1"),
        ("https//user:secret@h:1", "…@h:1"),
        ("HTTP//user:secret@h", "…@h"),
        ("http:/user:secret@h", "…@h"),
    ],
)
def test_bad_daemon_urls_are_refused_without_showing_the_login(bitcoin, url, shown):
    with pytest.raises(CoinError) as info:
        bitcoin.sanitize_url(url)
    start, _, reason = str(info.value).rpartition('": ')
    assert f'invalid daemon URL: "{shown}' == start
    assert reason.endswith("; DAEMON_URL takes http://user:password@host:port/")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:8332", "user:password@ is missing"),
        ("user:secret", "user:password@ is missing"),
        ("https//u:p@h", "the scheme is misspelt"),
        ("ftp://u:p@h", "the scheme is neither http nor https"),
        ("u:p@h:x", "user, password, host or port is missing or wrong"),
    ],
)
def test_the_error_of_a_daemon_url_has_the_reason(bitcoin, url, reason):
    with pytest.raises(CoinError, match=f'": {reason}; DAEMON_URL takes'):
        bitcoin.sanitize_url(url)


# Blocks


def test_the_genesis_block_is_indexed_without_its_transaction(bitcoin):
    assert bitcoin.genesis_block(GENESIS_BLOCK) == GENESIS_HEADER + b"\0"


def test_a_foreign_genesis_block_is_refused_naming_both_hashes(bitcoin):
    with pytest.raises(CoinError) as info:
        coin_of("Bitcoin", "testnet").genesis_block(GENESIS_BLOCK)
    assert bitcoin.GENESIS_HASH in str(info.value)
    assert coin_of("Bitcoin", "testnet").GENESIS_HASH in str(info.value)


def test_the_error_of_a_foreign_genesis_block_names_the_networks(bitcoin):
    with pytest.raises(CoinError, match=r"\(of [^)]*BitcoinSegwit mainnet") as info:
        coin_of("Litecoin", "testnet").genesis_block(GENESIS_BLOCK)
    assert "that of Litecoin testnet is " in str(info.value)
    with pytest.raises(CoinError, match="of no known network"):
        bitcoin.genesis_block(GENESIS_BLOCK[:4] + b"\1" + GENESIS_BLOCK[5:])


def test_a_block_is_its_bytes_its_header_and_its_transactions(bitcoin):
    block = bitcoin.block(GENESIS_BLOCK, 5)
    assert block[:2] == (GENESIS_BLOCK, GENESIS_HEADER)
    [(tx, tx_hash)] = block.transactions
    assert tx.serialize() == COINBASE
    assert double_sha256(COINBASE) == tx_hash == bitcoin.header_hash(COINBASE)
    assert block.header[36:68] == tx_hash
    assert hash_to_hex_str(bitcoin.header_hash(block.header)) == bitcoin.GENESIS_HASH
    assert bytes(32) == bitcoin.header_prevhash(block.header)


@pytest.mark.parametrize("name", ["Bitcoin", "BitcoinSV", "Litecoin"])
def test_a_truncated_block_is_a_deserialize_error(name):
    for end in (0, 1, 79, 80, 81, 100, len(GENESIS_BLOCK) - 1):
        with pytest.raises(DeserializeError):
            coin_of(name).block(GENESIS_BLOCK[:end], 0)
    for end in (0, 1, 79):
        with pytest.raises(DeserializeError):
            coin_of(name).genesis_block(GENESIS_BLOCK[:end])


def test_headers_stand_one_behind_the_other(bitcoin):
    assert [bitcoin.static_header_offset(height) for height in range(3)] == [0, 80, 160]
    assert bitcoin.static_header_len(700_000) == 80
    fields = dict(zip(bitcoin.HEADER_VALUES, bitcoin.HEADER_UNPACK(GENESIS_HEADER), strict=True))
    assert {
        "version": 1,
        "prev_block_hash": bytes(32),
        "merkle_root": double_sha256(COINBASE),
        "timestamp": 1_231_006_505,
        "bits": 0x1D00FFFF,
        "nonce": 2_083_236_893,
    } == fields


@pytest.mark.parametrize(
    ("name", "net", "steps"),
    [
        ("Bitcoin", "mainnet", {0: 1000, 129_999: 1000, 130_000: 100, 10**7: 100}),
        ("BitcoinSV", "testnet", {0: 1000, 130_000: 100}),
        ("BitcoinSV", "scalingtest", {-1: 100, 0: 100, 10: 100, 11: 3, 10**6: 3}),
    ],
)
def test_late_blocks_are_fetched_fewer_at_once(name, net, steps):
    coin = coin_of(name, net)
    assert steps == {height: coin.max_fetch_blocks(height) for height in steps}


# Values, fees, clients


def test_values_are_shown_as_exact_decimals(bitcoin):
    assert Decimal("20999999.97690001") == bitcoin.decimal_value(2_099_999_997_690_001)
    assert Decimal("0.00000001") == bitcoin.decimal_value(1)


def test_fee_targets_of_bitcoin_are_bucketed(bitcoin):
    expected = {
        -5: 1, 0: 1, 1: 1, 2: 2, 11: 11, 12: 12, 13: 12, 14: 14, 24: 24, 25: 25, 26: 26, 27: 26,
        47: 46, 48: 48, 49: 48, 71: 48, 72: 72, 144: 144, 1007: 984, 1008: 1008, 1009: 1008,
        10**9: 1008,
    }  # fmt: skip
    assert expected == {n: bitcoin.bucket_estimatefee_block_target(n) for n in expected}


def test_fee_targets_of_other_coins_stay():
    for name in ("BitcoinCash", "BitcoinSV", "Litecoin"):
        assert [coin_of(name).bucket_estimatefee_block_target(n) for n in (1, 13, 5000)] == [
            1,
            13,
            5000,
        ]


def test_fee_modes_are_those_of_core(bitcoin):
    assert list(bitcoin.ESTIMATEFEE_MODES) == [None, "CONSERVATIVE", "ECONOMICAL"]


@pytest.mark.parametrize("net", BITCOIN_NETS)
def test_bitcoin_asks_wallets_before_3_3_3_to_upgrade(net):
    coin = coin_of("Bitcoin", net)
    assert "https://electrum.org/" in coin.warn_old_client_on_tx_broadcast((3, 3, 2))
    assert "https://electrum.org/" in coin.warn_old_client_on_tx_broadcast((3,))
    assert coin.warn_old_client_on_tx_broadcast((3, 3, 3)) is False
    assert coin.warn_old_client_on_tx_broadcast((4,)) is False


@pytest.mark.parametrize("net", ["mainnet", "testnet", "nolnet"])
def test_bitcoin_cash_asks_wallets_before_3_3_4_to_upgrade(net):
    coin = coin_of("BitcoinCash", net)
    assert "https://electroncash.org/" in coin.warn_old_client_on_tx_broadcast((3, 3, 3))
    assert coin.warn_old_client_on_tx_broadcast((3, 3, 4)) is False


@pytest.mark.parametrize(
    ("name", "net"), [("BitcoinCash", "regtest"), ("BitcoinSV", "mainnet"), ("Litecoin", "mainnet")]
)
def test_other_coins_ask_no_wallet_to_upgrade(name, net):
    assert coin_of(name, net).warn_old_client_on_tx_broadcast((1, 0)) is False


@pytest.mark.parametrize("net", BITCOIN_NETS)
def test_bitcoins_old_clients_are_crashed_and_others_not(net):
    assert coin_of("Bitcoin", net).CRASH_CLIENT_VER == (3, 2, 3)
    assert coin_of("BitcoinSV").CRASH_CLIENT_VER is None


# Parsers and the server's classes


def test_each_family_has_its_parser():
    parsers = {
        "Bitcoin": DeserializerSegWit,
        "BitcoinCash": Deserializer,
        "BitcoinSV": Deserializer,
        "Litecoin": DeserializerLitecoin,
    }
    for name, parser in parsers.items():
        assert parser is coin_of(name).DESERIALIZER
        assert parser is coin_of(name, "regtest").DESERIALIZER


def test_server_classes_are_resolved_when_asked_for():
    class Odd(Coin):
        SESSIONCLS = ServerClass("decimal:Decimal")

    class Odder(Odd):
        SESSIONCLS = int

    assert Odd.SESSIONCLS is Decimal
    assert Odder.SESSIONCLS is int


def test_server_classes_are_those_of_the_family():
    processors = {
        "Bitcoin": "BlockProcessor",
        "BitcoinCash": "LTORBlockProcessor",
        "BitcoinSV": "BlockProcessor",
        "Litecoin": "BlockProcessor",
    }
    for name, class_name in processors.items():
        for net in ("mainnet", "testnet", "regtest"):
            declared = dict(attr_of(coin_of(name, net)))
            assert {
                "SESSIONCLS": "electrumx.server.session:ElectrumX",
                "DAEMON": "electrumx.server.daemon:Daemon",
                "BLOCK_PROCESSOR": f"electrumx.server.block_processor:{class_name}",
            } == declared


def attr_of(coin):
    """Yield the server classes of a coin as they are written, without importing them."""
    for attr in ("SESSIONCLS", "DAEMON", "BLOCK_PROCESSOR"):
        declared = next(vars(cls)[attr] for cls in coin.__mro__ if attr in vars(cls))
        yield attr, declared.dotted_name


def test_importing_all_coins_loads_few_modules():
    """The coins are data: their modules, the library's, and small parts of Python's."""
    code = (
        "import sys; before = set(sys.modules); import electrumx.lib.coins\n"
        "print(*(set(sys.modules) - before))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    ours = {name for name in loaded if name.startswith("electrumx")}

    assert len(ours) < 60
    assert len(loaded) - len(ours) < 100
    assert not {"asyncio", "ssl", "aiohttp", "aiorpcx"}.intersection(loaded)


def test_the_daemon_url_of_a_coin_without_a_usual_port_needs_one():
    coin = coin_of("HOdlcoin")
    assert "http://u:p@h:1989/" == coin.sanitize_url("u:p@h:1989")
    with pytest.raises(CoinError, match="without a port: HOdlcoin mainnet has no usual one"):
        coin.sanitize_url("u:p@h")


@pytest.mark.parametrize(
    ("name", "net", "offsets"),
    [
        ("ODIN", "mainnet", {0: 0, 1: 80, 143_447: 11_475_760, 143_448: 11_475_872}),
        ("ColossusXT", "mainnet", {500_000: 40_000_000, 500_001: 40_000_112}),
        ("Ravencoin", "mainnet", {1_219_736: 97_578_880, 1_219_738: 97_579_120}),
        ("Ravencoin", "testnet", {231_544: 18_523_520, 231_545: 18_523_640}),
        ("Minexcoin", "mainnet", {3: 627}),
        ("Decred", "mainnet", {3: 540}),
        ("HOdlcoin", "mainnet", {3: 264}),
        ("FairCoin", "mainnet", {3: 324}),
        ("Xuez", "mainnet", {3: 336}),
    ],
)
def test_headers_that_grew_have_their_places(name, net, offsets):
    coin = coin_of(name, net)
    assert offsets == {height: coin.static_header_offset(height) for height in offsets}


def test_header_fields_of_longer_headers_are_unpacked():
    for name in ("Zcash", "BitcoinGold", "FairCoin", "Decred", "Minexcoin"):
        coin = coin_of(name)
        fields = coin.HEADER_UNPACK(bytes(range(256)))
        assert len(coin.HEADER_VALUES) == len(fields)
        named = dict(zip(coin.HEADER_VALUES, fields, strict=True))
        assert bytes(range(4, 36)) == named["prev_block_hash"]
        assert bytes(range(36, 68)) == named["merkle_root"]


def test_importing_the_coins_imports_nothing_of_the_server():
    code = (
        "import sys, electrumx.lib.coins\n"
        "print([m for m in sys.modules if m.startswith(('electrumx.server', 'asyncio', 'aiorpcx'))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_aliases_lead_to_names_that_exist():
    names = {coin.NAME for coin in coins_base.coin_classes()}
    assert set(coins_base.NAME_ALIASES.values()) <= names


def test_a_block_of_bitcoins_family_ends_with_its_last_transaction():
    for name in ("BitcoinSegwit", "BitcoinCashABC", "BitcoinSV"):
        for net in ("mainnet", "testnet", "regtest"):
            coin = coin_of(name, net)
            assert len(coin.block(GENESIS_BLOCK, 0).transactions) == 1
            with pytest.raises(DeserializeError, match="3 bytes behind the last transaction"):
                coin.block(GENESIS_BLOCK + b"sig", 0)


@pytest.mark.parametrize("name", ["BitcoinCashABC", "BitcoinSV"])
def test_a_block_of_core_with_witness_is_no_block_of_a_coin_without(name):
    coinbase_in = TxInput(bytes(32), 0xFFFFFFFF, b"\x51\x01", 0xFFFFFFFF)
    outputs = [TxOutput(50, b"\x51"), TxOutput(0, b"\x6a\x24\xaa\x21\xa9\xed" + bytes(32))]
    coinbase = TxSegWit(1, 0, 1, [coinbase_in], outputs, [[bytes(32)]], 0)
    raw = bytes(80) + b"\1" + coinbase.serialize()
    assert len(coin_of("Bitcoin", "regtest").block(raw, 1).transactions) == 1
    with pytest.raises(DeserializeError):
        coin_of(name, "regtest").block(raw, 1)


def test_what_follows_the_transactions_of_other_coins_is_left_to_them():
    for name in ("Litecoin", "PIVX", "Blackcoin"):
        coin = coin_of(name)
        assert not coin.WHOLE_BLOCKS
    assert len(coin_of("Litecoin").block(GENESIS_BLOCK + b"\1 extension", 0).transactions) == 1
