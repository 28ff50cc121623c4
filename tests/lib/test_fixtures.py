"""Real blocks and transactions of every coin, and made-up ones of every format."""

import pytest

from electrumx.lib.coins import Coin
from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import hash_to_hex_str, hex_str_to_hash
from electrumx.lib.header_hashes import HeaderHashError
from electrumx.lib.merkle import Merkle
from electrumx.lib.tx import DeserializerSegWit
from electrumx.lib.tx.types import serialize_witness
from electrumx.lib.util import pack_varint
from tests import facts
from tests.conftest import require

BLOCKS = pytest.mark.parametrize("block", facts.blocks(), ids=lambda block: block.name)
# Hashes that no package offers, and that are too large to be written here.
WITHOUT_HASH = {"Ritocoin-mainnet-296039": "x21s", "Verus-mainnet-100000": "verushash"}
# The hash of its headers is that of the proof of work, too.
HASH_IS_PROOF = {"Verge-mainnet-30000"}


@BLOCKS
def test_a_block_parses_to_its_transactions(block):
    coin = block.coin
    parsed = coin.block(block.raw, block.height)
    assert block.raw == parsed.raw
    assert parsed.header == coin.block_header(block.raw, block.height)
    assert block.raw.startswith(parsed.header)
    if coin.STATIC_BLOCK_HEADERS:
        assert len(parsed.header) == coin.static_header_len(block.height)
    assert block.prev_hash == hash_to_hex_str(coin.header_prevhash(parsed.header))
    assert block.merkle_root == hash_to_hex_str(parsed.header[36:68])
    tx_hashes = [tx_hash for _, tx_hash in parsed.transactions]
    assert block.txids == [hash_to_hex_str(tx_hash) for tx_hash in tx_hashes]
    if coin.NAME != "Decred":
        assert parsed.header[36:68] == Merkle().root(tx_hashes)


@BLOCKS
def test_a_block_has_its_hash(block):
    header = block.coin.block_header(block.raw, block.height)
    if block.name in WITHOUT_HASH:
        with pytest.raises(HeaderHashError, match=WITHOUT_HASH[block.name]):
            block.coin.header_hash(header)
        return
    try:
        header_hash = block.coin.header_hash(header)
    except HeaderHashError as e:
        require(False, str(e))
    assert block.hash == hash_to_hex_str(header_hash)
    if block.name in HASH_IS_PROOF:
        bits = int.from_bytes(header[72:76], "little")
        target = (bits & 0xFFFFFF) << 8 * ((bits >> 24) - 3)
        assert int.from_bytes(header_hash, "little") < target


def test_the_blocks_of_which_more_is_known_are_there():
    assert WITHOUT_HASH.keys() | HASH_IS_PROOF <= {block.name for block in facts.blocks()}


@BLOCKS
def test_a_truncated_block_raises_a_deserialize_error(block):
    raw = block.raw
    parsed = block.coin.block(raw, block.height)
    used = len(parsed.header) + len(pack_varint(len(parsed.transactions)))
    used += sum(len(tx.serialize()) for tx, _ in parsed.transactions)
    ends = {*range(200), *range(used - 20, used), *range(0, used, used // 50)}
    for end in ends:
        if end < used:
            with pytest.raises(DeserializeError):
                block.coin.block(raw[:end], block.height)


def test_every_transaction_of_a_block_is_written_as_it_was_read():
    for block in facts.blocks():
        parsed = block.coin.block(block.raw, block.height)
        written = b"".join(tx.serialize() for tx, _ in parsed.transactions)
        if block.coin.NAME == "Decred":
            # The count of the second tree stands between.
            assert all(tx.serialize() in block.raw for tx, _ in parsed.transactions)
        else:
            start = len(parsed.header) + len(pack_varint(len(parsed.transactions)))
            assert (block.name, True) == (block.name, block.raw.startswith(written, start))


def test_the_genesis_hash_of_every_coin_is_known_to_its_blocks():
    """No block here is a genesis block; those at height 1 follow it."""
    for block in facts.blocks():
        if block.height == 1:
            assert block.prev_hash == block.coin.GENESIS_HASH


def check_transaction(expected):
    tx, tx_hash = expected.coin.DESERIALIZER(expected.raw).read_tx_and_hash()
    assert expected.txid == hash_to_hex_str(tx_hash)
    prevouts = [(hex_str_to_hash(txid), index) for txid, index in expected.inputs]
    assert prevouts == [(txin.prev_hash, txin.prev_idx) for txin in tx.inputs]
    outputs = [(output.value, output.script) for output in expected.outputs]
    assert outputs == [(txout.value, txout.pk_script) for txout in tx.outputs]


def test_transactions_parse_to_their_parts_addresses_and_names():
    assert len(facts.transactions()) == 10
    for expected in facts.transactions():
        coin = expected.coin
        check_transaction(expected)
        for output in expected.outputs:
            if output.address:
                hashX = coin.hashX_from_script(output.script)
                assert hashX == coin.address_to_hashX(output.address)
            if hasattr(coin, "name_hashX_from_script"):
                name_hashX = None
                if output.name is not None:
                    index_script = coin.build_name_index_script(output.name.encode())
                    name_hashX = Coin.hashX_from_script(index_script)
                assert name_hashX == coin.name_hashX_from_script(output.script)


def as_json(value):
    """A parsed input or payload as the vectors write it."""
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "_asdict"):
        return {key: as_json(item) for key, item in value._asdict().items()}
    return value


def input_as_json(txin):
    if hasattr(txin, "keyimage"):
        parts = {"keyimage": txin.keyimage.hex(), "ringsize": txin.ringsize.hex()}
    else:
        parts = {"prev_hash": hash_to_hex_str(txin.prev_hash), "prev_idx": txin.prev_idx}
    return {**parts, "is_generation": txin.is_generation()}


def test_synthetic_transactions_parse_to_the_facts():
    assert len(facts.synthetic_transactions()) == 64
    for made in facts.synthetic_transactions():
        tx, tx_hash = made.coin.DESERIALIZER(made.raw).read_tx_and_hash()
        assert made.txid == hash_to_hex_str(tx_hash)
        assert (made.version, made.locktime) == (tx.version, tx.locktime)
        assert made.inputs == [input_as_json(txin) for txin in tx.inputs]
        assert made.outputs == [[out.value, out.pk_script.hex()] for out in tx.outputs]
        for key, value in made.more.items():
            assert (made.what, value) == (made.what, as_json(getattr(tx, key)))
        if made.what != "sigma spend":
            assert made.raw == tx.serialize()


def test_synthetic_transactions_cut_anywhere_are_deserialize_errors():
    for made in facts.synthetic_transactions():
        raw = made.raw
        for end in range(0, len(raw), max(1, len(raw) // 300)):
            for method in ("read_tx", "read_tx_and_hash", "read_tx_and_vsize"):
                with pytest.raises(DeserializeError):
                    getattr(made.coin.DESERIALIZER(raw[:end]), method)()


def test_sizes_of_synthetic_transactions_without_witness_are_their_lengths():
    for made in facts.synthetic_transactions():
        length = len(made.raw)
        tx, vsize = made.coin.DESERIALIZER(made.raw + b"behind").read_tx_and_vsize()
        if hasattr(tx, "marker"):
            witness = len(serialize_witness(tx.witness)) + 2
            assert -((4 * (length - witness) + witness) // -4) == vsize
        else:
            assert made.old_vsize == vsize == length


def test_the_size_of_synthetic_bitcoin_transactions_is_bip141s():
    """The sizes of the facts are those of 1.15, which left out 8 bytes and rounded down."""
    plain = witness = 0
    for made in facts.synthetic_transactions():
        raw = made.raw
        if made.format == "plain" or (made.format == "segwit" and raw[4]):
            assert made.old_vsize == DeserializerSegWit(raw).read_tx_and_vsize()[1]
            plain += 1
        elif made.format == "segwit":
            tx, vsize = DeserializerSegWit(raw).read_tx_and_vsize()
            base = 10 + sum(len(item.serialize()) for item in [*tx.inputs, *tx.outputs])
            assert len(tx.inputs) < 253
            assert len(tx.outputs) < 253
            assert -((3 * base + len(raw)) // -4) == vsize
            assert (3 * (base - 8) + len(raw)) // 4 == made.old_vsize
            witness += 1
    assert plain
    assert witness
