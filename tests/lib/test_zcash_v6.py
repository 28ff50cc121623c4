"""Transactions of Zcash's version 6: a third shielded part, and blocks that check their hashes."""

from hashlib import blake2b

import pytest

from electrumx.lib.coins import Koto, Zcash
from electrumx.lib.errors import DeserializeError
from electrumx.lib.merkle import Merkle
from electrumx.lib.tx import DeserializerZcash, TxInput, TxOutput, TxZcashV5, TxZcashV6
from electrumx.lib.util import pack_varint

HEAD = bytes.fromhex("0600008098b684d85b16a537")
OUTPOINT = bytes(range(32)) + b"\7\0\0\0"
OUTPUT = (5000).to_bytes(8, "little") + b"\x03\x51\x52\x53"
#: lock time, expiry, one input, one output, and four empty lists
RAW = (
    HEAD
    + (17).to_bytes(4, "little")
    + (3_500_000).to_bytes(4, "little")
    + b"\1"
    + OUTPOINT
    + b"\2si\xfe\xff\xff\xff"
    + b"\1"
    + OUTPUT
    + bytes(4)
)
TX = TxZcashV6(
    6,
    [TxInput(bytes(range(32)), 7, b"si", 2**32 - 2)],
    [TxOutput(5000, b"\x51\x52\x53")],
    17,
    HEAD[8:],
    3_500_000,
    bytes(4),
)


def tree_hash(name, *parts):
    return blake2b(b"".join(parts), digest_size=32, person=name).digest()


def actions(count, label):
    """A part with so many actions, and the other bytes that its hash covers."""
    if not count:
        return b"\0"
    return b"".join(
        (
            pack_varint(count) + (label * 820)[: 820 * count].ljust(820 * count, label),
            b"\3" + bytes(8) + b"\x63" * 32,
            pack_varint(100) + bytes(100 + 64 * count + 64),
        )
    )


def sapling(spends, outputs):
    tail = pack_varint(spends) + b"\5" * 96 * spends + pack_varint(outputs) + b"\6" * 756 * outputs
    if spends or outputs:
        tail += bytes(8) + b"\x62" * 32 * bool(spends) + bytes(256 * spends + 192 * outputs + 64)
    return tail


def made(spends, outputs, in_orchard, in_ironwood):
    tail = sapling(spends, outputs) + actions(in_orchard, b"o") + actions(in_ironwood, b"i")
    return TX._replace(tail=tail)


SHAPES = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 2, 0, 0), (0, 0, 1, 0), (0, 0, 0, 2), (1, 1, 1, 1)]


def test_a_transaction_without_shielded_parts_is_read_and_written():
    tx, tx_hash = DeserializerZcash(b"xx" + RAW + b"behind", 2).read_tx_and_hash()
    assert tx == TX
    assert isinstance(tx, TxZcashV6)
    assert RAW == tx.serialize()
    expected = tree_hash(
        b"ZcashTxHash_" + HEAD[8:],
        tree_hash(b"ZTxIdHeadersHash", RAW[:20]),
        tree_hash(
            b"ZTxIdTranspaHash",
            tree_hash(b"ZTxIdPrevoutHash", OUTPOINT),
            tree_hash(b"ZTxIdSequencHash", b"\xfe\xff\xff\xff"),
            tree_hash(b"ZTxIdOutputsHash", OUTPUT),
        ),
        tree_hash(b"ZTxIdSaplingHash"),
        tree_hash(b"ZTxIdOrchardH_v6"),
        tree_hash(b"ZTxIdIronwd_H_v6"),
    )
    assert expected == tx_hash


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shielded_parts_are_gone_over(shape):
    tx = made(*shape)
    raw = tx.serialize()
    reader = DeserializerZcash(raw + b"behind")
    found, tx_hash = reader.read_tx_and_hash()
    assert tx == found
    assert len(raw) == reader.cursor
    assert tx_hash == tx.tx_hash()
    assert len(raw) == DeserializerZcash(raw).read_tx_and_vsize()[1]
    for end in {*range(100), *range(0, len(raw), max(1, len(raw) // 100)), len(raw) - 1}:
        if end < len(raw):
            with pytest.raises(DeserializeError):
                DeserializerZcash(raw[:end]).read_tx_and_hash()


def test_anchors_proofs_and_signatures_are_no_part_of_the_hash():
    tx = made(1, 1, 1, 1)
    other = tx._replace(
        tail=tx.tail.replace(b"\x62" * 32, b"\x72" * 32).replace(b"\x63" * 32, b"\x73" * 32)[:-64]
        + b"\1" * 64
    )
    assert other != tx
    assert other.tx_hash() == tx.tx_hash()


def test_each_part_has_its_place_in_the_hash():
    hashes = {made(*shape).tx_hash() for shape in SHAPES}
    assert len(hashes) == len(SHAPES)
    swapped = made(0, 0, 1, 0).tail, made(0, 0, 0, 1).tail
    assert TX._replace(tail=swapped[0]).tx_hash() != TX._replace(tail=swapped[1]).tx_hash()


def block_of(coin, txs, root=None):
    root = root or Merkle().root([tx.tx_hash() for tx in txs])
    header = bytes(36) + root + bytes(12 if coin is Koto else 72)
    header += b"" if coin is Koto else b"\2ab"
    return header + pack_varint(len(txs)) + b"".join(tx.serialize() for tx in txs)


@pytest.mark.parametrize("coin", [Zcash, Koto], ids=lambda coin: coin.NAME)
def test_a_block_whose_hashes_do_not_give_its_merkle_root_is_refused(coin):
    old = TxZcashV5(5, TX.inputs, TX.outputs, 1, b"rule", 2, bytes(3))
    txs = [old, TX, made(1, 1, 1, 1)]
    assert txs == [tx for tx, _hash in coin.block(block_of(coin, txs), 1).transactions]
    with pytest.raises(DeserializeError, match="version 6 do not give its merkle root"):
        coin.block(block_of(coin, txs, root=bytes(32)), 1)
    # The hashes of older versions are known.
    assert len(coin.block(block_of(coin, [old], root=bytes(32)), 1).transactions) == 1


def test_version_6_of_another_group_is_read_as_the_older_ones_are():
    other = RAW[:4] + b"grp!" + bytes(200)
    assert DeserializerZcash(other).read_tx().head[4:] == b"grp!"
