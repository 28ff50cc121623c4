import pytest

from electrumx.lib.errors import ElectrumXError
from electrumx.lib.hash import HASHX_LEN, sha256
from electrumx.lib.script import (
    OpCodes,
    Script,
    ScriptError,
    ScriptPubKey,
    _match_ops,
    is_unspendable_genesis,
    is_unspendable_legacy,
)
from tests import facts

HANDLERS = ScriptPubKey.PayToHandlers(
    address=lambda data: ("address", data),
    script_hash=lambda data: ("script_hash", data),
    pubkey=lambda data: ("pubkey", data),
    unspendable=lambda: ("unspendable", None),
    strange=lambda script: ("strange", script),
)
HASH160 = bytes(range(20))


def test_every_script_vector_is_classified_as_the_facts_say():
    vectors = facts.rows("scripts")
    assert vectors
    for vector in vectors:
        script = bytes.fromhex(vector["script"])
        kind, data = ScriptPubKey.pay_to(HANDLERS, script)
        assert (vector["what"], vector["kind"]) == (vector["what"], kind)
        if vector["data"] is not None:
            assert vector["data"] == data.hex()
        if kind == "strange":
            assert script == data
        assert vector["unspendable_legacy"] == bool(is_unspendable_legacy(script))
        assert vector["unspendable_genesis"] == bool(is_unspendable_genesis(script))
        assert vector["hashX"] == sha256(script)[:HASHX_LEN].hex()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("OP_0", 0),
        ("OP_PUSHDATA1", 76),
        ("OP_PUSHDATA4", 78),
        ("OP_1NEGATE", 79),
        ("OP_1", 81),
        ("OP_16", 96),
        ("OP_VERIFY", 0x69),
        ("OP_RETURN", 0x6A),
        ("OP_2DROP", 0x6D),
        ("OP_DROP", 0x75),
        ("OP_DUP", 0x76),
        ("OP_CAT", 0x7E),
        ("OP_EQUAL", 0x87),
        ("OP_EQUALVERIFY", 0x88),
        ("OP_WITHIN", 0xA5),
        ("OP_HASH160", 0xA9),
        ("OP_CHECKSIG", 0xAC),
        ("OP_CHECKMULTISIG", 0xAE),
        ("OP_CHECKLOCKTIMEVERIFY", 0xB1),
        ("OP_CHECKSEQUENCEVERIFY", 0xB2),
    ],
)
def test_opcodes_have_bitcoins_numbers(name, number):
    assert number == getattr(OpCodes, name)


def test_opcodes_have_no_gap_after_the_pushes():
    assert {0, *range(76, 0xB3)} == set(OpCodes.reverseLookup)


def test_pushes_are_pairs_and_other_opcodes_numbers():
    script = b"\x00\x51\x02ab\x4c\x01c\x4d\x01\x00d\x4e\x01\x00\x00\x00e\x4f\xff"
    expected = [(0, b""), 81, (2, b"ab"), (76, b"c"), (77, b"d"), (78, b"e"), 79, 255]
    assert expected == Script.get_ops(script)


@pytest.mark.parametrize(
    "script", ["01", "4b01", "4c", "4c01", "4d01", "4d0100", "4e010000", "51 4eff"]
)
def test_a_push_past_the_end_is_a_script_error(script):
    with pytest.raises(ScriptError):
        Script.get_ops(bytes.fromhex(script))


def test_a_huge_push_length_is_a_script_error():
    with pytest.raises(ScriptError):
        Script.get_ops(b"\x4e\xff\xff\xff\xffabc")


def test_script_errors_are_ours():
    assert issubclass(ScriptError, ElectrumXError)


@pytest.mark.parametrize(
    ("length", "prefix"),
    [
        (0, "00"),
        (1, "01"),
        (75, "4b"),
        (76, "4c4c"),
        (255, "4cff"),
        (256, "4d0001"),
        (65535, "4dffff"),
        (65536, "4e00000100"),
    ],
)
def test_push_data_takes_the_shortest_form_and_reads_back(length, prefix):
    data = b"x" * length
    script = Script.push_data(data)
    assert bytes.fromhex(prefix) + data == script
    [(_, pushed)] = Script.get_ops(script)
    assert data == pushed


def test_matching_wants_equal_length_and_elements():
    assert _match_ops([(1, b"a"), 0xAC], [-1, 0xAC])
    assert _match_ops([], [])
    assert not _match_ops([0xAB, 0xAC], [-1, 0xAC])
    assert not _match_ops([(1, b"a")], [-1, 0xAC])
    assert not _match_ops([(1, b"a"), 0xAC, 0xAC], [-1, 0xAC])
    assert not _match_ops([(76, b"a")], [76])


def test_the_scripts_it_writes_are_those_it_recognises():
    p2pkh = ScriptPubKey.P2PKH_script(HASH160)
    p2sh = ScriptPubKey.P2SH_script(HASH160)
    assert "76a914" + HASH160.hex() + "88ac" == p2pkh.hex()
    assert "a914" + HASH160.hex() + "87" == p2sh.hex()
    assert ScriptPubKey.pay_to(HANDLERS, p2pkh) == ("address", HASH160)
    assert ScriptPubKey.pay_to(HANDLERS, p2sh) == ("script_hash", HASH160)


@pytest.mark.parametrize(
    ("opcode", "name"),
    [
        (0, "OP_0"),
        (20, "OP_PUSHBYTES_20"),
        (77, "OP_PUSHDATA2"),
        (172, "OP_CHECKSIG"),
        (254, "OP_UNKNOWN_254"),
    ],
)
def test_every_opcode_has_a_name(opcode, name):
    assert name == Script.opcode_name(opcode)


def test_dump_shows_names_and_data():
    script = ScriptPubKey.P2PKH_script(HASH160) + b"\0"
    expected = f"OP_DUP OP_HASH160 {HASH160.hex()} OP_EQUALVERIFY OP_CHECKSIG OP_0"
    assert expected == Script.dump(script)
