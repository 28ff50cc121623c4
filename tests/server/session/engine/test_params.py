"""Checks of untrusted values, and the tables of handlers by version."""

import time

import pytest
from aiorpcx import RPCError

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server import session
from electrumx.server.session.engine.method_registry import handler_names, rpc_method
from electrumx.server.session.engine.params import (
    assert_digits,
    assert_hex,
    estimate_mode,
)


def message_of(func, *args):
    with pytest.raises(RPCError) as info:
        func(*args)
    assert session.BAD_REQUEST == info.value.code
    return info.value.message


def test_a_script_hash_becomes_the_first_bytes_of_its_reverse():
    raw = bytes(range(32))
    assert raw[:11] == session.scripthash_to_hashX(hash_to_hex_str(raw))


def test_a_tx_hash_is_returned_in_natural_order():
    raw = bytes(range(32))
    assert raw == session.assert_tx_hash(hash_to_hex_str(raw))
    assert "ab should be a transaction hash" == message_of(session.assert_tx_hash, "ab")


@pytest.mark.parametrize(("value", "number"), [(7, 7), ("7", 7), (1.9, 1), (True, 1), (-0.5, 0)])
def test_what_python_converts_is_an_integer(value, number):
    assert number == session.non_negative_integer(value)


@pytest.mark.parametrize("value", [True, False, 1, 0, 1.0])
def test_what_equals_a_boolean_is_one(value):
    assert bool(value) is session.assert_boolean(value)


@pytest.mark.parametrize("value", [None, "true", 2, [], 0.5])
def test_anything_else_is_no_boolean(value):
    assert f"{value} should be a boolean value" == message_of(session.assert_boolean, value)


def test_hex_is_even_and_without_spaces():
    for value in ("", "ab", "ABcd09"):
        assert value == assert_hex(value)
    for value in ("a", "a b ", "0x", "é1", None, 12, b"ab"):
        assert f"{value} should be a hex string" == message_of(assert_hex, value)


def test_a_mode_is_upper_cased_and_non_text_is_none():
    assert "ECONOMICAL" == estimate_mode("Economical")
    assert [None, None, None] == [estimate_mode(value) for value in (None, 5, ["x"])]


class Base:
    @rpc_method("always")
    @rpc_method("also")
    async def one(self):
        return "base"

    @rpc_method("old", until=(1, 6))
    async def two(self):
        return "old"


class Derived(Base):
    async def one(self):
        return "derived"

    @rpc_method("new", since=(1, 4, 2))
    async def three(self):
        return "new"


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ((1, 4), {"always", "also", "old"}),
        ((1, 4, 2), {"always", "also", "old", "new"}),
        ((1, 6), {"always", "also", "new"}),
    ],
)
async def test_a_table_holds_the_handlers_of_a_version(version, names):
    table = handler_names((Derived,), version)
    assert names == set(table)
    assert "derived" == await getattr(Derived(), table["always"][0])()


def test_wallets_are_served_exactly_the_methods_of_their_protocol():
    old = set(handler_names(session.ElectrumX.handler_groups, (1, 4)))
    assert old == set(handler_names(session.ElectrumX.handler_groups, (1, 4, 2)))
    chapters = {
        "blockchain.block": "header headers",
        "blockchain.headers": "subscribe",
        "blockchain": "estimatefee relayfee",
        "blockchain.scripthash": "get_balance get_history get_mempool listunspent subscribe unsubscribe",
        "blockchain.transaction": "broadcast get get_merkle id_from_pos",
        "mempool": "get_fee_histogram",
        "server": "add_peer banner donation_address features peers.subscribe ping version",
    }
    expected = {f"{name}.{verb}" for name, verbs in chapters.items() for verb in verbs.split()}
    assert expected == old
    new = set(handler_names(session.ElectrumX.handler_groups, (1, 6)))
    assert new - old == {"blockchain.transaction.broadcast_package", "mempool.get_info"}
    assert old - new == {"blockchain.relayfee"}


@pytest.mark.parametrize("check", [assert_hex, assert_digits])
@pytest.mark.parametrize("spoilt", ["", "g", " ", "\n\n", "é", "\udc80", "\0"])
def test_long_hex_is_checked_without_looking_at_each_digit(check, spoilt):
    """One by one the digits of a request of the largest size take 11 ms, during which all wait."""
    text = "aB" * 500_000 + spoilt
    took = []
    for _ in range(10):
        started = time.thread_time()
        if spoilt:
            with pytest.raises(RPCError):
                check(text)
        else:
            assert text == check(text)
        took.append(time.thread_time() - started)
    # Of the quickest: other work of the machine makes some slower.
    assert min(took) < 0.006
