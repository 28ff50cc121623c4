import hashlib

import pytest

from electrumx.lib import hash as hash_module
from electrumx.lib.errors import ElectrumXError
from electrumx.lib.hash import (
    HASHX_LEN,
    Base58,
    Base58Error,
    double_sha256,
    hash160,
    hash_to_hex_str,
    hex_str_to_hash,
    hmac_sha512,
    ripemd160,
    sha256,
)

GENESIS_COINBASE_PUBKEY = bytes.fromhex(
    "04678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb6"
    "49f6bc3f4cef38c4f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5f"
)

# From the authors of RIPEMD-160.
RIPEMD160_VECTORS = {
    b"": "9c1185a5c5e9fc54612808977ee8f548b2258d31",
    b"a": "0bdc9d2d256b3ee9daae347be6f4dc835a467ffe",
    b"abc": "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc",
    b"message digest": "5d0689ef49d2fae572b881b123a85ffa21595f36",
    b"1234567890" * 8: "9b752e45573d4b39f4dbd3323cab82bf63326bfb",
}


def test_a_hashx_has_eleven_bytes():
    assert HASHX_LEN == 11


def test_sha256_of_abc():
    assert (
        sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_double_sha256_of_hello():
    assert (
        double_sha256(b"hello").hex()
        == "9595c9df90075148eb06860365df33584b75bff782a510c6cd4883a419833d50"
    )


def test_hmac_sha512_gives_the_second_vector_of_rfc_4231():
    expected = (
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
    )
    assert expected == hmac_sha512(b"Jefe", b"what do ya want for nothing?").hex()


@pytest.mark.parametrize("message", RIPEMD160_VECTORS)
def test_ripemd160_gives_its_authors_vectors(message):
    assert RIPEMD160_VECTORS[message] == ripemd160(message).hex()
    assert RIPEMD160_VECTORS[message] == hash_module.ripemd160_python(message).hex()


def test_ripemd160_is_written_in_python_where_hashlib_lacks_it(monkeypatch):
    real_new = hashlib.new

    def new(name, *args, **kwargs):
        if name == "ripemd160":
            raise ValueError("unsupported hash type ripemd160")
        return real_new(name, *args, **kwargs)

    monkeypatch.setattr(hashlib, "new", new)
    assert hash_module.choose_ripemd160() is hash_module.ripemd160_python


def test_ripemd160_in_python_pads_every_length():
    if hash_module.choose_ripemd160() is hash_module.ripemd160_python:
        pytest.skip("hashlib has no RIPEMD-160 to compare with")
    for length in range(130):
        message = bytes(range(length))
        expected = hashlib.new("ripemd160", message).digest()
        assert expected == hash_module.ripemd160_python(message)


def test_hash160_of_the_genesis_coinbase_key():
    expected = "62e907b15cbf27d5425399ebf6f0fb50ebb88f18"
    assert expected == hash160(GENESIS_COINBASE_PUBKEY).hex()


def test_display_form_is_reversed_hex_both_ways():
    natural = bytes(range(32))
    shown = "1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100"
    assert shown == hash_to_hex_str(natural)
    assert natural == hex_str_to_hash(shown)
    with pytest.raises(ValueError):
        hex_str_to_hash("xy")


def test_base58_characters_have_their_positions_as_values():
    assert list(range(58)) == [Base58.char_value(char) for char in Base58.chars]
    assert len(set(Base58.chars)) == 58


@pytest.mark.parametrize("char", ["0", "O", "I", "l", "", " ", "é", "11"])
def test_other_characters_are_a_base58_error(char):
    with pytest.raises(Base58Error):
        Base58.char_value(char)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("", ""),
        ("00", "1"),
        ("0000", "11"),
        ("61", "2g"),
        ("00ff", "15Q"),
        ("73696d706c792061206c6f6e6720737472696e67", "2cFupjhnEsSn59qHXstmK2ffpLv2"),
        (
            "00eb15231dfceb60925886b67d065299925915aeb172c06647",
            "1NS17iag9jJgTHD1VXjvLCEnZuQ3rJDE9L",
        ),
    ],
)
def test_base58_texts_and_bytes_correspond(raw, text):
    assert text == Base58.encode(bytes.fromhex(raw))
    if text:
        assert raw == Base58.decode(text).hex()


@pytest.mark.parametrize("bad", [b"2g", None, 58])
def test_decoding_anything_but_a_str_is_a_type_error(bad):
    with pytest.raises(TypeError):
        Base58.decode(bad)


@pytest.mark.parametrize("bad", ["", "0", "2 g", "2gl"])
def test_decoding_a_text_that_is_no_base58_is_a_base58_error(bad):
    with pytest.raises(Base58Error):
        Base58.decode(bad)


def test_base58_errors_are_ours():
    assert issubclass(Base58Error, ElectrumXError)


@pytest.mark.parametrize("hash_fn", [double_sha256, sha256])
@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\0abc", bytes(range(21))])
def test_what_encode_check_writes_decode_check_reads(payload, hash_fn):
    text = Base58.encode_check(payload, hash_fn=hash_fn)
    assert payload == Base58.decode_check(text, hash_fn=hash_fn)


def test_any_changed_character_fails_the_checksum():
    text = Base58.encode_check(bytes(range(21)))
    for n, char in enumerate(text):
        other = "2" if char != "2" else "3"
        with pytest.raises(Base58Error):
            Base58.decode_check(text[:n] + other + text[n + 1 :])


@pytest.mark.parametrize("short", ["1", "111", "2g"])
def test_a_text_too_short_for_a_checksum_is_a_base58_error(short):
    with pytest.raises(Base58Error):
        Base58.decode_check(short)


def test_the_checksum_is_that_of_the_hash_given():
    text = Base58.encode_check(b"payload", hash_fn=sha256)
    with pytest.raises(Base58Error):
        Base58.decode_check(text)
