"""Reading the list of a node's transactions, in whatever form it comes."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electrumx.server.daemon import mempool_listing
from electrumx.server.daemon.mempool_listing import Listing, listing_of, parse_reply


def reply_text(hex_hashes, separator=",", head='{"result":', tail=',"error":null,"id":7}\n'):
    listing = separator.join(f'"{hex_hash}"' for hex_hash in hex_hashes)
    return bytearray(f"{head}[{listing}]{tail}".encode())


def some_hashes(count, seed=1):
    rng = random.Random(seed)
    return [rng.randbytes(32).hex() for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("separator", [",", ", ", ",\n  "])
def test_a_list_is_read_in_its_order(count, separator):
    hex_hashes = some_hashes(count)
    reply = parse_reply(reply_text(hex_hashes, separator), json.loads)
    assert (reply["error"], reply["id"]) == (None, 7)
    expected = [bytes.fromhex(hex_hash)[::-1] for hex_hash in hex_hashes]
    assert reply["result"].hashes == expected
    assert reply["result"].members == set(expected)


@pytest.mark.parametrize(
    "head", ['{"result": ', ' {\n"result":', '{"id":7,"result":', '{"jsonrpc":"2.0","result":']
)
def test_what_comes_before_the_list_may_vary(head):
    hex_hashes = some_hashes(3)
    result = parse_reply(reply_text(hex_hashes, head=head, tail=',"x":[1]}'), json.loads)["result"]
    assert isinstance(result, Listing)
    assert result.hashes == listing_of(hex_hashes).hashes


@pytest.mark.parametrize(
    "text",
    [
        '{"result":null,"error":{"code":-28,"message":"[wait]"},"id":7}',
        '{"result":{"txids":[]},"error":null}',
        '[{"result":[]}]',
        '{"result":["00"],"error":null}',
        '{"result":[["' + "0" * 64 + '"]],"error":null}',
        '{"result":[5],"error":null}',
        '{"result":["' + "g" * 64 + '"],"error":null}',
        '{"result":["' + "0" * 64 + '"],"result":5}',
        '{"result":["' + "0" * 64 + '", 5],"error":null}',
        '{"result":["' + "0" * 63 + '\\\\","' + "0" * 64 + '"],"error":null}',
        '{"result":["' + "0" * 62 + '"   ,"' + "0" * 66 + '"],"error":null}',
        "null",
        '"result"',
    ],
)
def test_other_texts_parse_as_json_does(text):
    assert parse_reply(bytearray(text.encode()), json.loads) == json.loads(text)


@pytest.mark.parametrize("text", ["", "{", '{"result":[', '{"result":["00"', '{"result":[]', "[}"])
def test_what_is_no_json_is_no_json(text):
    with pytest.raises(ValueError, match=r"Expecting|delimiter"):
        parse_reply(bytearray(text.encode()), json.loads)


def test_texts_that_are_no_hashes_are_left_out():
    good = some_hashes(1)[0]
    assert listing_of(["", "zz", "00", "é" * 64, good, 5]).hashes == [bytes.fromhex(good)[::-1]]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("slice_length", [1, 2, 4])
@pytest.mark.parametrize("separator", ['"', ",,", ', "', ", ,", "\n"])
def test_what_separates_hashes_is_read_as_json_does(monkeypatch, count, slice_length, separator):
    monkeypatch.setattr(mempool_listing, "SLICE", slice_length)
    for spoilt in range(count - 1):
        separators = [", " if len(separator) == 2 else ","] * (count - 1) + [""]
        separators[spoilt] = separator
        hashes = "".join(f'"{h}"{s}' for h, s in zip(some_hashes(count), separators, strict=True))
        with pytest.raises(ValueError):
            parse_reply(bytearray(f'{{"result":[{hashes}],"id":7}}'.encode()), json.loads)


def members_of(result):
    return (result if isinstance(result, Listing) else listing_of(result)).hashes


@settings(max_examples=300, deadline=None)
@given(data=st.data(), count=st.integers(0, 12), part=st.integers(1, 4))
def test_a_damaged_list_is_never_read_as_another(data, count, part):
    text = reply_text(some_hashes(count, data.draw(st.integers(0, 99))))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b'"', b",", b"]", b"[", b"a", b" ", b"\\", b"{"])
        )
    slice_length, mempool_listing.SLICE = mempool_listing.SLICE, part
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            parse_reply(text, json.loads)
        return
    finally:
        mempool_listing.SLICE = slice_length
    result = parse_reply(text, json.loads)
    if isinstance(result, dict) and isinstance(result.get("result"), Listing):
        assert result["result"].hashes == listing_of(expected.pop("result")).hashes
        del result["result"]
    assert result == expected
