"""The vectors of the specification of CashAddr and of CashTokens, and faults."""

import random

import pytest

from electrumx.lib.bech32 import CHARSET, AddressError
from electrumx.lib.cash_address import cash_script, payload
from electrumx.lib.coins import Coin, CoinError
from electrumx.lib.hash import Base58Error

# The specification's translations from the older form.
LEGACY = {
    "1BpEi6DfDAUFd7GtittLSdBeYJvcoaVggu": "qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a",
    "1KXrWXciRDZUpQwQmuM1DbwsKDLYAYsVLR": "qr95sy3j9xwd2ap32xkykttr4cvcu7as4y0qverfuy",
    "16w1D5WRVKJuZUsSRzdLp9w3YGcgoxDXb": "qqq3728yw0y47sqn6l2na30mcw6zm78dzqre909m2r",
    "3CWFddi6m4ndiGyKqzYvsFYagqDLPVMTzC": "ppm2qsznhks23z7629mms6s4cwef74vcwvn0h829pq",
    "3LDsS579y7sruadqu11beEJoTjdFiFCdX4": "pr95sy3j9xwd2ap32xkykttr4cvcu7as4yc93ky28e",
    "31nwvkZwyPdgzjBJZXfDmSWsC4ZLKpYyUw": "pqq3728yw0y47sqn6l2na30mcw6zm78dzq5ucqzc37",
}
HASH = bytes.fromhex("f5bf48b397dae70be82b3cca4793f8eb2b6cdac9")
MAINNET = Coin.lookup_coin_class("BitcoinCash", "mainnet")


def written(prefix, version, digest):
    """Return an address without its prefix, written by the text of the specification."""
    bits = "".join(f"{byte:08b}" for byte in bytes([version]) + digest)
    bits += "0" * (-len(bits) % 5)
    values = [int(bits[n : n + 5], 2) for n in range(0, len(bits), 5)]
    check = 1
    terms = (0x98F2BC8E61, 0x79B76D99E2, 0xF33E5FB3C4, 0xAE2EABE2A8, 0x1E4F43E470)
    for value in [ord(c) & 31 for c in prefix] + [0] + values + [0] * 8:
        top = check >> 35
        check = (check & 0x07FFFFFFFF) << 5 ^ value
        for bit, term in enumerate(terms):
            check ^= term if top >> bit & 1 else 0
    check ^= 1
    values += [check >> 5 * (7 - n) & 31 for n in range(8)]
    return "".join(CHARSET[value] for value in values)


@pytest.mark.parametrize("legacy", LEGACY)
def test_both_forms_of_an_address_are_one_script(legacy):
    expected = MAINNET.pay_to_address_script(legacy)
    address = LEGACY[legacy]
    for text in (address, f"bitcoincash:{address}", f"BITCOINCASH:{address.upper()}"):
        assert MAINNET.pay_to_address_script(text) == expected


@pytest.mark.parametrize(
    ("address", "prefix", "kind"),
    [
        ("bitcoincash:qr6m7j9njldwwzlg9v7v53unlr4jkmx6eylep8ekg2", "bitcoincash", 0),
        ("bchtest:pr6m7j9njldwwzlg9v7v53unlr4jkmx6eyvwc0uz5t", "bchtest", 1),
        ("pref:pr6m7j9njldwwzlg9v7v53unlr4jkmx6ey65nvtks5", "pref", 1),
        ("bitcoincash:zr6m7j9njldwwzlg9v7v53unlr4jkmx6eycnjehshe", "bitcoincash", 2),
    ],
)
def test_the_vectors_of_the_specifications_have_their_type_and_hash(address, prefix, kind):
    assert payload(address, prefix) == (kind, HASH)


def test_all_types_and_lengths_that_have_a_script_are_understood():
    rng = random.Random(3)
    for net, prefix in (("mainnet", "bitcoincash"), ("testnet", "bchtest"), ("regtest", "bchreg")):
        coin = Coin.lookup_coin_class("BitcoinCash", net)
        for kind, size_bits, length, before, after in (
            (0, 0, 20, "76a914", "88ac"),
            (1, 0, 20, "a914", "87"),
            (1, 3, 32, "aa20", "87"),
            (2, 0, 20, "76a914", "88ac"),
            (3, 0, 20, "a914", "87"),
            (3, 3, 32, "aa20", "87"),
        ):
            digest = rng.randbytes(length)
            address = written(prefix, kind << 3 | size_bits, digest)
            script = bytes.fromhex(before) + digest + bytes.fromhex(after)
            assert coin.pay_to_address_script(address) == script
            assert coin.pay_to_address_script(f"{prefix}:{address}") == script


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6q", "wrong checksum"),
        ("bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6", "wrong checksum"),
        ("bchtest:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a", "its prefix is 'bchtest'"),
        ("bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6A", "letters of both cases"),
        ("qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdxba", "invalid character 'b'"),
        ("bitcoincash:", "too short"),
        ("q" * 129, "longer than 128 characters"),
        # Two bytes less than the version byte names; 24 bytes have no script; the reserved bit
        (written("bitcoincash", 0, bytes(18)), "another length"),
        (written("bitcoincash", 1, bytes(24)), "type 0 with 24 bytes"),
        (written("bitcoincash", 3, bytes(32)), "type 0 with 32 bytes"),
        (written("bitcoincash", 4 << 3, bytes(20)), "type 4 with 20 bytes"),
        (written("bitcoincash", 0x80, bytes(20)), "another length"),
    ],
)
def test_faults_are_named(address, reason):
    with pytest.raises(AddressError, match=reason):
        cash_script(address, "bitcoincash")


def test_other_coins_have_no_such_addresses():
    address = "qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a"
    for name, net in (("Bitcoin", "mainnet"), ("BitcoinSV", "mainnet"), ("BitcoinCash", "nolnet")):
        with pytest.raises((Base58Error, CoinError)):
            Coin.lookup_coin_class(name, net).pay_to_address_script(address)


def test_a_bech32_address_is_none_of_bitcoin_cash():
    with pytest.raises(CoinError, match="begins with bc1"):
        MAINNET.pay_to_address_script("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4")
