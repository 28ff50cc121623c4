import pytest

from electrumx.lib.errors import DeserializeError, SkipTxDeserialize
from electrumx.lib.hash import double_sha256, hash_to_hex_str, sha256
from electrumx.lib.tx import (
    MINUS_1,
    ZERO,
    Deserializer,
    DeserializerLitecoin,
    DeserializerPeercoin,
    DeserializerSegWit,
    Tx,
    TxInput,
    TxMWEB,
    TxOutput,
    TxSegWit,
    TxTime,
)

# The first transaction of Bitcoin.
GENESIS_COINBASE = bytes.fromhex(
    "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d"
    "0104455468652054696d65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66"
    "207365636f6e64206261696c6f757420666f722062616e6b73ffffffff0100f2052a01000000434104678afdb0fe55"
    "48271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba"
    "0b8d578a4c702b6bf11d5fac00000000"
)
# The signed P2WPKH example of BIP143.
BIP143_TX = bytes.fromhex(
    "01000000000102fff7f7881a8099afa6940d42d1e7f6362bec38171ea3edf433541db4e4ad969f00000000494830"
    "450221008b9d1dc26ba6a9cb62127b02742fa9d754cd3bebf337f7a55d114c8e5cdd30be022040529b194ba3f928"
    "1a99f2b1c0a19c0489bc22ede944ccf4ecbab4cc618ef3ed01eeffffffef51e1b804cc89d182d279655c3aa89e81"
    "5b1b309fe287d9b2b55d57b90ec68a0100000000ffffffff02202cb206000000001976a9148280b37df378db99f6"
    "6f85c95a783a76ac7a6d5988ac9093510d000000001976a9143bde42dbee7e4dbe6a21b2d50ce2f0167faa815988"
    "ac000247304402203609e17b84f6a7d30c80bfa610b5b4542f32a8a0d5447a12fb1366d7f01cc44a0220573a954c"
    "4518331561406f90300e8f3358f51928d43c212a8caed02de67eebee0121025476c2e83188368da1ff3e292e7aca"
    "fcdb3566bb0ad253f62fc70f07aeee635711000000"
)


class PartReader(DeserializerSegWit):
    """Reads a part of a transaction, by the readers that the deserializer of a coin is made of."""

    def varint(self):
        return self._read_varint()

    def nbytes(self, count):
        return self._read_nbytes(count)

    def varbytes(self):
        return self._read_varbytes()

    def integer(self, kind):
        return {
            "byte": self._read_byte,
            "le_uint16": self._read_le_uint16,
            "be_uint16": self._read_be_uint16,
            "le_int32": self._read_le_int32,
            "le_uint32": self._read_le_uint32,
            "be_uint32": self._read_be_uint32,
            "le_int64": self._read_le_int64,
            "le_uint64": self._read_le_uint64,
        }[kind]()

    def txin(self):
        return self._read_input()

    def txout(self):
        return self._read_output()

    def inputs(self):
        return self._read_inputs()

    def outputs(self):
        return self._read_outputs()

    def witness(self, count):
        return self._read_witness(count)


def hogex(flag=b"\x08", witness=b"", extension=b"\0"):
    """A Litecoin integration transaction, byte by byte, and its txid."""
    version = b"\2\0\0\0"
    body = (
        b"\1" + bytes(range(32)) + b"\1\0\0\0" + b"\0" + b"\xff\xff\xff\xff"
        b"\1" + (123_456_789).to_bytes(8, "little") + b"\x22" + b"\x59\x20" + bytes(32)
    )
    locktime = b"\0\0\0\0"
    raw = version + b"\0" + flag + body + witness + extension + locktime
    return raw, double_sha256(version + body + locktime)


def test_the_first_transaction_of_bitcoin():
    tx, tx_hash = Deserializer(GENESIS_COINBASE).read_tx_and_hash()

    expected = "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
    assert expected == hash_to_hex_str(tx_hash)
    assert tx.inputs[0].is_generation()
    assert tx.inputs[0].prev_hash == ZERO
    assert tx.inputs[0].prev_idx == MINUS_1
    assert tx.outputs[0].value == 5_000_000_000
    assert tx.serialize() == GENESIS_COINBASE


def test_a_transaction_with_witness():
    tx, tx_hash = DeserializerSegWit(BIP143_TX).read_tx_and_hash()

    assert isinstance(tx, TxSegWit)
    assert [tx.witness[0], len(tx.witness[1])] == [[], 2]
    assert (tx.version, tx.marker, tx.flag, tx.locktime) == (1, 0, 1, 17)
    assert tx.serialize() == BIP143_TX
    stripped = Tx(tx.version, tx.inputs, tx.outputs, tx.locktime).serialize()
    assert double_sha256(stripped) == tx_hash


@pytest.mark.parametrize(
    ("prev_hash", "prev_idx", "expected"),
    [(ZERO, MINUS_1, True), (ZERO, 0, False), (b"\1" * 32, MINUS_1, False)],
)
def test_only_an_input_that_spends_nothing_is_generation(prev_hash, prev_idx, expected):
    assert expected == TxInput(prev_hash, prev_idx, b"", 0).is_generation()


def test_the_hash_covers_the_bytes_that_were_read_even_if_a_count_was_not_minimal():
    minimal = GENESIS_COINBASE
    odd = minimal[:4] + b"\xfd\x01\x00" + minimal[5:]
    tx, tx_hash = Deserializer(odd).read_tx_and_hash()
    assert double_sha256(odd) == tx_hash
    assert minimal == tx.serialize()
    assert [(tx, tx_hash)] == Deserializer(b"\1" + odd).read_tx_block()
    assert [(tx, tx_hash)] == DeserializerSegWit(b"\1" + odd).read_tx_block()


@pytest.mark.parametrize("reader", [Deserializer, DeserializerSegWit])
def test_a_subclass_may_hash_otherwise(reader):
    class Single(reader):
        TX_HASH_FN = staticmethod(sha256)

    assert sha256(GENESIS_COINBASE) == Single(GENESIS_COINBASE).read_tx_and_hash()[1]
    [(_, tx_hash)] = Single(b"\1" + GENESIS_COINBASE).read_tx_block()
    assert sha256(GENESIS_COINBASE) == tx_hash


@pytest.mark.parametrize("reader", [Deserializer, DeserializerSegWit])
@pytest.mark.parametrize("method", ["_read_input", "_read_output"])
def test_a_subclass_may_read_one_part_otherwise(reader, method):
    calls = []

    def own(self):
        calls.append(method)
        return getattr(reader, method)(self)

    subclass = type("Own", (reader,), {method: own})
    expected = reader(b"\1" + GENESIS_COINBASE).read_tx_block()
    assert expected == subclass(b"\1" + GENESIS_COINBASE).read_tx_block()
    assert [method] == calls


def test_only_bytes_are_read():
    with pytest.raises(AssertionError):
        Deserializer(bytearray(b"abc"))
    with pytest.raises(AssertionError):
        Deserializer("abc")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("00", 0),
        ("fc", 252),
        ("fdfd00", 253),
        ("fd0100", 1),
        ("feffffffff", 0xFFFFFFFF),
        ("ffffffffffffffffff", 0xFFFFFFFFFFFFFFFF),
    ],
)
def test_varints_are_read_whether_minimal_or_not(raw, expected):
    deserializer = PartReader(bytes.fromhex(raw))
    assert expected == deserializer.varint()
    assert deserializer.binary_length == deserializer.cursor


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("byte", 0xF1),
        ("le_uint16", 0xF2F1),
        ("be_uint16", 0xF1F2),
        ("le_int32", 0xF4F3F2F1 - 2**32),
        ("le_uint32", 0xF4F3F2F1),
        ("be_uint32", 0xF1F2F3F4),
        ("le_int64", 0xF8F7F6F5F4F3F2F1 - 2**64),
        ("le_uint64", 0xF8F7F6F5F4F3F2F1),
    ],
)
def test_integers_are_read_in_their_byte_order(kind, expected):
    raw = bytes.fromhex("f1f2f3f4f5f6f7f8")
    assert expected == PartReader(b"x" + raw, start=1).integer(kind)
    with pytest.raises(DeserializeError):
        PartReader(b"").integer(kind)
    with pytest.raises(DeserializeError):
        PartReader(raw, start=8).integer(kind)
    with pytest.raises(DeserializeError):
        PartReader(raw, start=100).integer(kind)


def test_runs_of_bytes_are_read_whole_or_not_at_all():
    deserializer = PartReader(b"\2abcd")
    assert deserializer.varbytes() == b"ab"
    assert deserializer.nbytes(1) == b"c"
    for bad in (2, -1, -100, 2**70):
        with pytest.raises(DeserializeError):
            deserializer.nbytes(bad)
    for bad in (b"", b"\2a", b"\xff", b"\xff" * 9):
        with pytest.raises(DeserializeError):
            PartReader(bad).varbytes()


def test_lists_of_inputs_and_outputs_are_read():
    tx = Deserializer(GENESIS_COINBASE).read_tx()
    deserializer = PartReader(GENESIS_COINBASE, start=4)
    assert tx.inputs == deserializer.inputs()
    assert tx.outputs == deserializer.outputs()
    assert deserializer.integer("le_uint32") == 0


def test_an_empty_block_has_no_transactions():
    for reader in (Deserializer, DeserializerSegWit, DeserializerLitecoin):
        assert reader(b"\0").read_tx_block() == []


def test_an_integration_transaction_is_read_and_written():
    raw, tx_hash = hogex()
    tx, found_hash = DeserializerLitecoin(raw).read_tx_and_hash()

    assert tx_hash == found_hash
    assert isinstance(tx, TxMWEB)
    assert [TxInput(bytes(range(32)), 1, b"", MINUS_1)] == tx.inputs
    assert [TxOutput(123_456_789, b"\x59\x20" + bytes(32))] == tx.outputs
    assert (tx.witness, tx.flag) == ([], 8)
    assert raw == tx.serialize()


def test_an_integration_transaction_may_have_witness():
    raw, tx_hash = hogex(flag=b"\x09", witness=b"\2\1a\0")
    tx, found_hash = DeserializerLitecoin(raw).read_tx_and_hash()
    assert tx_hash == found_hash
    assert tx.witness == [[b"a", b""]]
    assert raw == tx.serialize()


def test_an_integration_transaction_ends_a_block_before_the_extension_block():
    raw, tx_hash = hogex()
    block = b"\3" + GENESIS_COINBASE + BIP143_TX + raw + b"\1 the extension block"
    txs = DeserializerLitecoin(block).read_tx_block()
    assert [Tx, TxSegWit, TxMWEB] == [type(tx) for tx, _ in txs]
    assert tx_hash == txs[2][1]


@pytest.mark.parametrize(
    "raw",
    [
        hogex(flag=b"\0")[0],
        hogex(extension=b"\1")[0],
        hogex(flag=b"\x09", witness=b"\0", extension=b"\1")[0],
    ],
    ids=["stripped", "extension data", "extension data and witness"],
)
def test_a_transaction_within_the_extension_block_is_to_be_skipped(raw):
    for method in ("read_tx", "read_tx_and_hash", "read_tx_and_vsize"):
        with pytest.raises(SkipTxDeserialize):
            getattr(DeserializerLitecoin(raw), method)()


def test_an_unconfirmed_peg_in_is_read_without_the_data_of_the_extension():
    raw, _ = hogex(flag=b"\x09", witness=b"\2\1a\0", extension=b"\1" + bytes(range(200)))
    tx, size = DeserializerLitecoin(raw).read_unconfirmed()
    without, _ = hogex(flag=b"\x01", witness=b"\2\1a\0", extension=b"")
    expected, expected_size = DeserializerSegWit(without).read_tx_and_vsize()
    assert tx == expected
    assert size == expected_size
    assert raw[-4:] == tx.locktime.to_bytes(4, "little")


def test_an_unconfirmed_peg_in_may_have_no_witness():
    raw, _ = hogex(extension=b"\1" + bytes(100))
    tx, size = DeserializerLitecoin(raw).read_unconfirmed()
    assert isinstance(tx, Tx)
    assert size == len(tx.serialize())


def test_an_unconfirmed_transaction_without_inputs_outside_the_extension_is_to_be_skipped():
    for flag in (b"\0", b"\x08", b"\x09"):
        raw = b"\2\0\0\0\0" + flag + b"\0\0" + b"\1" + bytes(50)
        with pytest.raises(SkipTxDeserialize):
            DeserializerLitecoin(raw).read_unconfirmed()


def test_an_unconfirmed_peg_in_that_is_cut_short_is_an_error():
    raw, _ = hogex(flag=b"\x09", witness=b"\2\1a\0", extension=b"\1")
    for end in range(len(raw)):
        with pytest.raises(DeserializeError):
            DeserializerLitecoin(raw[:end]).read_unconfirmed()


def test_an_unknown_flag_of_litecoin_is_an_error_and_none_to_skip():
    with pytest.raises(DeserializeError) as info:
        DeserializerLitecoin(hogex(flag=b"\x10")[0]).read_tx()
    assert not isinstance(info.value, SkipTxDeserialize)


def test_an_integration_transaction_truncated_anywhere_is_an_error():
    for raw, _ in (hogex(), hogex(flag=b"\x09", witness=b"\2\1a\0")):
        for end in range(len(raw)):
            with pytest.raises(DeserializeError):
                DeserializerLitecoin(raw[:end]).read_tx()
            with pytest.raises(DeserializeError):
                DeserializerLitecoin(b"\1" + raw[:end]).read_tx_block()


def test_other_flags_are_read_as_witness_by_other_coins():
    raw = BIP143_TX[:5] + b"\2" + BIP143_TX[6:]
    tx, tx_hash = DeserializerSegWit(raw).read_tx_and_hash()
    assert tx._replace(flag=1) == DeserializerSegWit(BIP143_TX).read_tx()
    assert [(tx, tx_hash)] == DeserializerSegWit(b"\1" + raw).read_tx_block()


@pytest.mark.parametrize(
    "raw", [b"", b"\1", b"\1\5abcd", b"\2\0", b"\xfd\1", b"\1\xfe\5\0\0\0abcd"]
)
def test_witness_stacks_past_the_end_are_an_error(raw):
    with pytest.raises(DeserializeError):
        PartReader(raw).witness(1)


def test_a_long_script_cut_short_is_an_error_for_every_part_that_ends_with_it():
    script = b"\xfd\xfd\0" + bytes(253)
    txout = bytes(8) + script
    assert TxOutput(0, bytes(253)) == PartReader(b"abc" + txout, start=3).txout()
    for cut in range(1, len(txout)):
        with pytest.raises(DeserializeError):
            PartReader(b"abc" + txout[:-cut], start=3).txout()
    txin = bytes(36) + script + bytes(4)
    assert TxInput(ZERO, 0, bytes(253), 0) == PartReader(b"abc" + txin, start=3).txin()
    for cut in range(1, len(txin)):
        with pytest.raises(DeserializeError):
            PartReader(b"abc" + txin[:-cut], start=3).txin()


def test_peercoins_version_3_has_no_time_and_is_hashed_as_bitcoins():
    txin, txout = TxInput(b"p" * 32, 1, b"sig", 5), TxOutput(7, b"\x51")
    plain = Tx(3, [txin], [txout], 9)
    witness = TxSegWit(3, 0, 1, [txin], [txout], [[b"w" * 70]], 9)
    for tx in (plain, witness):
        found, tx_hash = DeserializerPeercoin(tx.serialize() + b"behind").read_tx_and_hash()
        assert tx == found
        assert double_sha256(plain.serialize()) == tx_hash
    before = TxTime(2, 1_600_000_000, [txin], [txout], 9)
    assert before == DeserializerPeercoin(before.serialize()).read_tx()
