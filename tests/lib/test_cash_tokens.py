"""Token prefixes of Bitcoin Cash's outputs, valid ones and malformed ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.lib.tx.cash_tokens import locking_script, token_prefix_len
from electrumx.lib.util import pack_varint

CATEGORY = bytes(range(32))
START = b"\xef" + CATEGORY
SCRIPT = bytes.fromhex("76a914") + b"\x07" * 20 + bytes.fromhex("88ac")

VALID = {
    "an amount": "1064",
    "a large amount": "10ffffffffffffffff7f",
    "an immutable token": "20",
    "a mutable token": "21",
    "a minting token": "22",
    "a token with a commitment": "6003616263",
    "a token with a commitment of 128 bytes": "6080" + "aa" * 128,
    "a token with a commitment of 300 bytes": "60fd2c01" + "aa" * 300,
    "a minting token with commitment and amount": "72016101",
    "a token with an amount": "30fdfd00",
}
MALFORMED = {
    "neither token nor amount": "00",
    "a reserved bit": "9001",
    "an unknown capability": "23",
    "a capability without a token": "1101",
    "a commitment without a token": "500161",
    "a commitment and an amount without a token": "50016101",
    "an empty commitment": "6000",
    "a commitment that is cut off": "60ff",
    "a commitment with a long length": "60fd0300616263",
    "no amount": "1000",
    "an amount that is not minimal": "10fd6400",
    "an amount that is not minimal in nine bytes": "10ff0100000000000000",
    "an amount above 2^63 - 1": "10ffffffffffffffffff",
}


@pytest.mark.parametrize("bits", VALID.values(), ids=VALID.keys())
def test_a_valid_prefix_is_cut_off(bits):
    prefix = START + bytes.fromhex(bits)
    for script in (SCRIPT, b"", b"\xef"):
        assert len(prefix) == token_prefix_len(prefix + script)
        assert script == locking_script(prefix + script)


@pytest.mark.parametrize("bits", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_field_with_a_malformed_prefix_is_left_as_it_is(bits):
    field = START + bytes.fromhex(bits) + SCRIPT
    assert field == locking_script(field)


@pytest.mark.parametrize("bits", VALID.values(), ids=VALID.keys())
def test_a_prefix_that_is_cut_short_is_none(bits):
    prefix = START + bytes.fromhex(bits)
    for end in range(len(prefix)):
        assert prefix[:end] == locking_script(prefix[:end])


def test_scripts_that_do_not_begin_with_the_prefix_are_left_as_they_are():
    for script in (b"", b"\x6a", SCRIPT, b"\xee" + CATEGORY + b"\x10\x64" + SCRIPT):
        assert script is locking_script(script)


@given(st.binary(max_size=60), st.binary(min_size=1, max_size=60), st.integers(1, 2**63 - 1))
def test_what_follows_a_prefix_is_the_locking_script(script, commitment, amount):
    prefix = START + b"\x71" + pack_varint(len(commitment)) + commitment + pack_varint(amount)
    assert script == locking_script(prefix + script)


@given(st.binary(max_size=90))
def test_any_bytes_have_a_locking_script_at_their_end(data):
    for field in (data, START + data):
        assert field.endswith(locking_script(field))
