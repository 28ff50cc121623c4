"""The vectors of BIP173 and BIP350, and the addresses of each coin that has such."""

import random

import pytest

from electrumx.lib.bech32 import (
    BECH32_RESIDUE,
    BECH32M_RESIDUE,
    CHARSET,
    AddressError,
    decode,
    witness_program,
    witness_script,
)
from electrumx.lib.coins import Coin, CoinError
from electrumx.lib.hash import Base58Error

# BIP173: valid Bech32; BIP350: valid Bech32m.
BECH32 = [
    "A12UEL5L",
    "a12uel5l",
    "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs",
    "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw",
    "11" + 82 * "q" + "c8247j",
    "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
    "?1ezyfcl",
]
BECH32M = [
    "A1LQFN3A",
    "a1lqfn3a",
    "an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
    "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
    "11" + 82 * "l" + "ludsr8",
    "split1checkupstagehandshakeupstreamerranterredcaperredlc445v",
    "?1v759aa",
]
NO_BECH32 = {
    "\x201nwldj5": "invalid character",
    "\x7f1axkwrx": "invalid character",
    "\x801eym55h": "invalid character",
    "an84characterslonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio"
    "1569pvx": "longer than 90 characters",
    "pzry9x0s0muk": "no prefix",
    "1pzry9x0s0muk": "no prefix",
    "x1b4n0q5v": "invalid character 'b'",
    "li1dgmt3": "too short",
    "de1lg7wt\xff": "invalid character",
    "A1G7SGD8": "wrong checksum",
    "10a06t8": "no prefix",
    "1qzzfhee": "no prefix",
    "A12uEL5L": "letters of both cases",
}
# BIP350: the script of valid addresses, and why others are invalid.
SCRIPTS = {
    "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4": "0014751e76e8199196d454941c45d1b3a323f1433bd6",
    "tb1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3q0sl5k7": (
        "00201863143c14c5166804bd19203356da136c985678cd4d27a1b8c6329604903262"
    ),
    "bc1pw508d6qejxtdg4y5r3zarvary0c5xw7kw508d6qejxtdg4y5r3zarvary0c5xw7kt5nd6y": (
        "5128751e76e8199196d454941c45d1b3a323f1433bd6751e76e8199196d454941c45d1b3a323f1433bd6"
    ),
    "BC1SW50QGDZ25J": "6002751e",
    "bc1zw508d6qejxtdg4y5r3zarvaryvaxxpcs": "5210751e76e8199196d454941c45d1b3a323",
    "tb1qqqqqp399et2xygdj5xreqhjjvcmzhxw4aywxecjdzew6hylgvsesrxh6hy": (
        "0020000000c4a5cad46221b2a187905e5266362b99d5e91c6ce24d165dab93e86433"
    ),
    "tb1pqqqqp399et2xygdj5xreqhjjvcmzhxw4aywxecjdzew6hylgvsesf3hn0c": (
        "5120000000c4a5cad46221b2a187905e5266362b99d5e91c6ce24d165dab93e86433"
    ),
    "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0": (
        "512079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    ),
}
INVALID = {
    "tc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq5zuyut": "its prefix is 'tc'",
    "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqh2y7hd": "another witness version",
    "tb1z0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqglt7rf": "another witness version",
    "BC1S0XLXVLHEMJA6C4DQV22UAPCTQUPFHLXM9H8Z3K2E72Q4K9HCZ7VQ54WELL": "another witness version",
    "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kemeawh": "another witness version",
    "tb1q0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq24jc47": "another witness version",
    "bc1p38j9r5y49hruaue7wxjce0updqjuyyx0kh56v8s25huc6995vvpql3jow4": "invalid character 'o'",
    "BC130XLXVLHEMJA6C4DQV22UAPCTQUPFHLXM9H8Z3K2E72Q4K9HCZ7VQ7ZWS8R": "invalid witness version",
    "bc1pw5dgrnzv": "a witness program of 1 bytes",
    "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v8n0nx0muaewav253zgeav": "of 41 bytes",
    "BC1QR508D6QEJXTDG4Y5R3ZARVARYV98GJ9P": "a witness program of 16 bytes",
    "tb1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq47Zagq": "letters of both cases",
    "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v07qwwzcrf": "invalid padding",
    "tb1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vpggkg4j": "invalid padding",
    "bc1gmk9yu": "invalid witness version",
}


def written(hrp, version, program):
    """Return an address, written by the text of the BIPs."""
    bits = "".join(f"{byte:08b}" for byte in program)
    bits += "0" * (-len(bits) % 5)
    values = [version] + [int(bits[n : n + 5], 2) for n in range(0, len(bits), 5)]
    constant = 0x2BC830A3 if version else 1
    check = 1
    expanded = [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]
    for value in expanded + values + [0] * 6:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, term in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= term if top >> bit & 1 else 0
    check ^= constant
    values += [check >> 5 * (5 - n) & 31 for n in range(6)]
    return hrp + "1" + "".join(CHARSET[value] for value in values)


@pytest.mark.parametrize("text", BECH32)
def test_the_valid_bech32_texts_of_bip173_are_decoded(text):
    hrp, _values, residue = decode(text)
    assert residue == BECH32_RESIDUE
    assert text.lower().startswith(hrp + "1")


@pytest.mark.parametrize("text", BECH32M)
def test_the_valid_bech32m_texts_of_bip350_are_decoded(text):
    assert decode(text)[2] == BECH32M_RESIDUE


@pytest.mark.parametrize("text", NO_BECH32)
def test_the_invalid_texts_of_bip173_are_refused_for_their_reason(text):
    with pytest.raises(AddressError, match=NO_BECH32[text]):
        decode(text)


@pytest.mark.parametrize("address", SCRIPTS)
def test_the_valid_addresses_of_bip350_have_their_scripts(address):
    assert witness_script(address, address[:2].lower()).hex() == SCRIPTS[address]


@pytest.mark.parametrize("address", INVALID)
def test_the_invalid_addresses_of_bip350_are_refused_for_their_reason(address):
    hrp = "tb" if address.startswith("tb") else "bc"
    with pytest.raises(AddressError, match=INVALID[address]):
        witness_script(address, hrp)


def all_coins():
    found, todo = [], [Coin]
    while todo:
        coin = todo.pop()
        todo += coin.__subclasses__()
        if hasattr(coin, "NET") and coin.__module__.startswith("electrumx."):
            found.append(coin)
    return sorted(set(found), key=lambda coin: coin.__name__)


def test_the_networks_that_share_a_prefix_are_known():
    shared = {}
    for coin in all_coins():
        if coin.SEGWIT_HRP:
            shared.setdefault(coin.SEGWIT_HRP, set()).add(coin.NAME)
    assert {hrp: names for hrp, names in shared.items() if len(names) > 1} == {
        # The two chose the same one.
        "fc": {"Feathercoin", "Fujicoin"}
    }
    assert len(shared) >= 29


def test_addresses_of_every_coin_with_a_prefix_have_their_scripts():
    rng = random.Random(1)
    coins = [coin for coin in all_coins() if coin.SEGWIT_HRP]
    assert len(coins) >= 31
    for coin in coins:
        assert coin.SEGWIT_HRP == coin.SEGWIT_HRP.lower()
        for version, length in ((0, 20), (0, 32), (1, 32), (16, 40)):
            program = rng.randbytes(length)
            address = written(coin.SEGWIT_HRP, version, program)
            assert witness_program(address.upper(), coin.SEGWIT_HRP) == (version, program)
            script = bytes([0x50 + version if version else 0, length]) + program
            assert coin.pay_to_address_script(address) == script
            assert coin.address_to_hashX(address) == coin.hashX_from_script(script)


# Of the test networks only these are used: other software, or the node itself, confirms them.
TEST_NETWORKS = {
    "BitcoinGoldTestnet": "tbtg",
    "BitcoinSegwitRegtest": "bcrt",
    "BitcoinSegwitTestnet": "tb",
    "GroestlcoinRegtest": "grsrt",
    "GroestlcoinSignet": "tgrs",
    "GroestlcoinTestnet": "tgrs",
    "LitecoinRegtest": "rltc",
    "LitecoinTestnet": "tltc",
    "MonacoinTestnet": "tmona",
    "PeercoinTestnet": "tpc",
    "VertcoinTestnet": "tvtc",
    "ViacoinTestnet": "tvia",
    "ViacoinTestnetSegWit": "tvia",
}


def test_a_test_network_has_its_own_prefix_or_none():
    tests = [coin for coin in all_coins() if coin.SEGWIT_HRP and coin.NET != "mainnet"]
    # Further test networks of Bitcoin have its addresses.
    found = {
        coin.__name__: coin.SEGWIT_HRP
        for coin in tests
        if coin.SEGWIT_HRP != "tb" or coin.__name__ in TEST_NETWORKS
    }
    assert found == TEST_NETWORKS


def test_each_wrong_character_of_an_address_is_found():
    address = written("bcrt", 1, bytes(range(32)))
    coin = Coin.lookup_coin_class("Bitcoin", "regtest")
    rng = random.Random(2)
    for place in range(5, len(address)):
        for other in rng.sample(CHARSET.replace(address[place], ""), 4):
            with pytest.raises(AddressError):
                coin.address_to_hashX(address[:place] + other + address[place + 1 :])


def test_an_address_of_another_coin_is_refused_with_both_prefixes():
    litecoin = Coin.lookup_coin_class("Litecoin", "mainnet")
    with pytest.raises(CoinError, match=r"begins with bc1: .* begin with ltc1"):
        litecoin.address_to_hashX(next(iter(SCRIPTS)))
    # The coin has the addresses, but its prefix is not known.
    lynx = Coin.lookup_coin_class("Lynx", "mainnet")
    with pytest.raises(CoinError, match="Lynx mainnet have no known prefix"):
        lynx.address_to_hashX(next(iter(SCRIPTS)))


def test_a_text_with_letters_of_both_cases_is_read_as_base58():
    coin = Coin.lookup_coin_class("Peercoin", "mainnet")
    with pytest.raises(Base58Error):
        coin.address_to_hashX("Pc1234567890abc")
