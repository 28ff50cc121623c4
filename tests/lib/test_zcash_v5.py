"""Transactions of Zcash's version 5, whose hashes librustzcash gave."""

import hashlib

import pytest

from electrumx.lib.coins import Koto, Zcash
from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.tx import DeserializerZcash, TxInput, TxJoinSplit, TxOutput, TxZcashV5
from electrumx.lib.util import pack_varint

# Points of the curves, and a number that is in both fields: librustzcash looks at them.
JUBJUB = bytes.fromhex("9e12036101e53ee558afcb8c43e8fc497cd7abdcaf7047e3ae40686f510fc9b0")
PALLAS = bytes.fromhex("3129903ac1d45597a242fdf11f8f2b1a39f3c3e693114351dcbed4077173db02")
NU5 = bytes.fromhex("b4d0d6c2")


def number(n):
    return n.to_bytes(32, "little")


def filler(size, label):
    """Bytes that differ from place to place."""
    return hashlib.shake_256(label.encode()).digest(size)


def made(n_inputs, n_outputs, n_spends, n_sapling, n_actions):
    """A transaction of so many parts, always the same one."""
    inputs = [
        TxInput(filler(32, f"in {n}"), n, filler(70 + n, f"sig {n}"), 2**32 - 1 - n)
        for n in range(n_inputs)
    ]
    outputs = [TxOutput(1000 + n, filler(25 + n, f"out {n}")) for n in range(n_outputs)]
    tail = pack_varint(n_spends)
    for n in range(n_spends):
        tail += JUBJUB + filler(32, f"nullifier {n}") + JUBJUB
    tail += pack_varint(n_sapling)
    for n in range(n_sapling):
        tail += JUBJUB + number(n + 5) + filler(32 + 580 + 80, f"note {n}")
    if n_spends or n_sapling:
        tail += (-7).to_bytes(8, "little", signed=True)
        tail += number(99) if n_spends else b""
        tail += filler((192 + 64) * n_spends + 192 * n_sapling + 64, "sapling's proofs")
    tail += pack_varint(n_actions)
    for n in range(n_actions):
        tail += PALLAS + number(n + 7) + PALLAS + number(n + 8)
        tail += filler(32 + 580 + 80, f"action {n}")
    if n_actions:
        tail += b"\3" + (8).to_bytes(8, "little") + number(98)
        proofs = 2720 + 2272 * n_actions
        tail += pack_varint(proofs) + filler(proofs + 64 * n_actions + 64, "orchard's proofs")
    return TxZcashV5(5, inputs, outputs, 17, NU5, 1_700_000, tail)


# Parsed by librustzcash: numbers of inputs, outputs, spends, outputs and actions; txid.
VECTORS = [
    ((0, 0, 0, 0, 0), "1db91e97f372428786aa1f13a7131425ca06d32e194682d5f4d980877789543e"),
    ((1, 1, 0, 0, 0), "e121358dbf240e61bfaef49fb921c43cde4f6c9a65a38fc5aa44a869e756fc48"),
    ((2, 3, 0, 0, 0), "d6e8fee3ea6c49158489c0f0bff5d6eb76ddf0b2fb3f1bd3f17448907cf3f068"),
    ((1, 1, 2, 0, 0), "d7f9b3e6d7589ac2f8cd65a7f1f236e77f22d98700528c3175df3c3be4cf36bd"),
    ((0, 1, 0, 2, 0), "76a38dece4bc59bf17e3517cfc591b8c505d8d86a5102b22cf47bb36884df22c"),
    ((1, 0, 0, 0, 2), "b08875526bee33ad45252a138db6ccec7ccdac3f01aeeab869c42aed0e782ec2"),
    ((2, 2, 1, 3, 2), "857157307420c9cf829f1c362b40c1406afccece5eb8168f3b357dc52bebdb74"),
    ((0, 0, 3, 0, 1), "c082033b25b7cae04de8236b4d1da830b96b5fa4ef74963e286c84cda1e869d4"),
    ((0, 0, 0, 2, 0), "afe6f549d1475b19882fcfc1e757d553fca3b1ee5ea61e648e94b0aadc6cac8f"),
]


@pytest.mark.parametrize(("shape", "txid"), VECTORS)
def test_a_hash_is_that_of_librustzcash(shape, txid):
    tx = made(*shape)
    found, tx_hash = DeserializerZcash(b"xx" + tx.serialize() + b"behind", 2).read_tx_and_hash()
    assert tx == found
    assert txid == hash_to_hex_str(tx_hash)


def test_signatures_and_proofs_are_no_part_of_the_hash():
    tx = made(2, 2, 1, 3, 2)
    resigned = tx._replace(
        inputs=[txin._replace(script=b"another") for txin in tx.inputs],
        tail=tx.tail[:-64] + bytes(64),
    )
    assert resigned != tx
    assert tx.tx_hash() == resigned.tx_hash()


@pytest.mark.parametrize("shape", [shape for shape, _txid in VECTORS])
def test_a_transaction_cut_anywhere_is_a_deserialize_error(shape):
    raw = made(*shape).serialize()
    for end in {*range(120), *range(0, len(raw), max(1, len(raw) // 200)), len(raw) - 1}:
        if end < len(raw):
            for method in ("read_tx", "read_tx_and_hash", "read_tx_and_vsize"):
                with pytest.raises(DeserializeError):
                    getattr(DeserializerZcash(raw[:end]), method)()


def test_its_size_is_the_bytes_that_were_read():
    raw = made(2, 2, 1, 3, 2).serialize()
    assert len(raw) == DeserializerZcash(raw + b"behind").read_tx_and_vsize()[1]


def test_a_block_may_hold_all_versions():
    old = TxJoinSplit(1, [TxInput(bytes(32), 1, b"", 2)], [], 3, b"\1\0\0\0")
    txs = [made(1, 1, 0, 0, 0), old, made(0, 0, 3, 0, 1)]
    raw = pack_varint(3) + b"".join(tx.serialize() for tx in txs)
    for coin in (Zcash, Koto):
        found = coin.DESERIALIZER(raw).read_tx_block()
        assert txs == [tx for tx, _hash in found]
        assert txs[2].tx_hash() == found[2][1]


def test_version_5_of_another_group_is_read_as_the_older_ones_are():
    raw = made(1, 1, 0, 0, 0).serialize()
    other = raw[:4] + b"grp!" + bytes(200)
    tx = DeserializerZcash(other).read_tx()
    assert (5, b"grp!") == (tx.version, tx.head[4:])
