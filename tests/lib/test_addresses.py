import pytest

from electrumx.lib.coins import Coin, CoinError
from electrumx.lib.hash import Base58, Base58Error, hash160
from tests import facts

ERRORS = {"Base58Error": Base58Error, "CoinError": CoinError}
# The key hash of the addresses and exports in one-key.jsonl.
HASH160 = bytes.fromhex("659ec6ff24e8a76e3f99ac8e3227e089b5a1556e")
PRIVATE_KEY = bytes.fromhex("48098c9acd6407a004e7415824fda455a79e552ee24ffd08c5702ab454b5d80e")
P2PKH_SCRIPT, P2PKH_HASHX = (
    "76a914659ec6ff24e8a76e3f99ac8e3227e089b5a1556e88ac",
    "4a8a98838db8de71453b42",
)
P2SH_SCRIPT, P2SH_HASHX = "a914659ec6ff24e8a76e3f99ac8e3227e089b5a1556e87", "4c4803da13479a9a765d9b"


def with_coins(vectors):
    return [(Coin.lookup_coin_class(v["coin"], v["net"]), v) for v in vectors]


def test_known_addresses_have_their_hash160_and_hashx():
    for coin, vector in with_coins(facts.rows("addresses")):
        address = vector["address"]
        hash160_ = bytes.fromhex(vector["hash160"])
        assert vector["hashX"] == coin.address_to_hashX(address).hex()
        if vector["type"] == "P2PKH":
            assert address == coin.P2PKH_address_from_hash160(hash160_)
            assert vector["hashX"] == coin.hash160_to_P2PKH_hashX(hash160_).hex()
        else:
            assert hash160_ == coin.DECODE_CHECK(address)[-20:]


def test_generated_addresses_of_every_coin_are_written_and_read():
    vectors = facts.rows("one-key")
    assert len(vectors) == 155
    for coin, vector in with_coins(vectors):
        assert vector["p2pkh"] == coin.P2PKH_address_from_hash160(HASH160)
        assert P2PKH_HASHX == coin.address_to_hashX(vector["p2pkh"]).hex()
        assert P2PKH_SCRIPT == coin.pay_to_address_script(vector["p2pkh"]).hex()
        assert vector["p2sh"][0] == coin.P2SH_address_from_hash160(HASH160)
        # Some coins understand more than 1.15 did.
        assert len(vector["p2sh"]) <= len(coin.P2SH_VERBYTES)
        for address in vector["p2sh"]:
            assert P2SH_HASHX == coin.address_to_hashX(address).hex()
            assert P2SH_SCRIPT == coin.pay_to_address_script(address).hex()


def test_generated_private_keys_of_every_coin_are_written():
    for coin, vector in with_coins(facts.rows("one-key")):
        assert vector["wif"] == coin.privkey_WIF(PRIVATE_KEY, False)
        assert vector["wif_compressed"] == coin.privkey_WIF(PRIVATE_KEY, True)


def test_invalid_addresses_raise_the_errors_of_the_facts():
    for coin, vector in with_coins(facts.rows("invalid-addresses")):
        with pytest.raises(ERRORS[vector["error"]]):
            coin.address_to_hashX(vector["address"])


@pytest.mark.parametrize("payload", [b"", bytes(19), bytes(20), bytes(22), b"\x99" + bytes(20)])
def test_a_payload_of_another_length_or_version_is_a_coin_error(payload):
    coin = Coin.lookup_coin_class("Bitcoin", "mainnet")
    with pytest.raises(CoinError):
        coin.pay_to_address_script(Base58.encode_check(payload))


def test_an_address_that_is_no_text_is_a_type_error():
    with pytest.raises(TypeError):
        Coin.lookup_coin_class("Bitcoin", "mainnet").address_to_hashX(b"1")


def test_the_address_of_a_public_key_is_that_of_its_hash():
    coin = Coin.lookup_coin_class("Bitcoin", "mainnet")
    pubkey = b"\2" + bytes(range(32))
    assert coin.P2PKH_address_from_hash160(hash160(pubkey)) == coin.P2PKH_address_from_pubkey(
        pubkey
    )


def test_name_scripts_are_split_as_the_facts_say():
    vectors = facts.rows("name-scripts")
    assert len(vectors) == 14
    for coin, vector in with_coins(vectors):
        script = bytes.fromhex(vector["script"])
        fields, rest = coin.split_name_script(script)
        assert vector["is_name_script"] == (fields is not None)
        assert vector["fields"] == {
            key: data.hex() for key, (_opcode, data) in (fields or {}).items()
        }
        assert vector["address_script"] == rest.hex()
        assert vector["hashX"] == coin.hashX_from_script(script).hex()
        if "name_hashX" in vector:
            hashX = coin.name_hashX_from_script(script)
            assert vector["name_hashX"] == (hashX and hashX.hex())
        if "name_index_script" in vector:
            index_script = coin.build_name_index_script(fields["name"][1])
            assert vector["name_index_script"] == index_script.hex()


def test_both_versions_of_p2sh_addresses_are_understood_where_one_was_misspelt():
    coin = Coin.lookup_coin_class("PIVX", "mainnet")
    scripts = {
        coin.pay_to_address_script(Base58.encode_check(version + bytes(20)))
        for version in (b"\x05", b"\x0d")
    }
    assert len(scripts) == 1
