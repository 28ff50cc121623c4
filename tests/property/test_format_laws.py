"""Laws of every transaction and header format but Bitcoin's own, which has its test beside."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electrumx.lib import tx as formats
from electrumx.lib.coins import Coin
from electrumx.lib.errors import DeserializeError
from electrumx.lib.tx import Deserializer, TxInput
from electrumx.lib.tx.dip2 import SPEC_TX_HANDLERS, TxOutPoint
from electrumx.lib.tx_axe import DeserializerAxe
from electrumx.lib.tx_dash import DashCbTx, DashTx, DeserializerDash
from electrumx.lib.util import pack_le_uint32, pack_varbytes, pack_varint
from tests.property.strategies import (
    byte_strings,
    hashes,
    input_lists,
    int32s,
    output_lists,
    plain_txs,
    segwit_txs,
    stacks,
    uint32s,
    values,
)

uint16s = st.integers(0, 0xFFFF)
COMMON = (input_lists, output_lists, uint32s)


def fixed(size):
    return st.binary(min_size=size, max_size=size)


@st.composite
def witnessed(draw, build):
    """Call build(inputs, outputs, witness, locktime) with a stack for every input."""
    ins = draw(input_lists)
    witness = draw(st.lists(stacks, min_size=len(ins), max_size=len(ins)))
    return build(draw, ins, draw(output_lists), witness, draw(uint32s))


def times(versions=int32s):
    return st.builds(formats.TxTime, versions, uint32s, *COMMON)


times_segwit = witnessed(
    lambda draw, ins, outs, witness, locktime: formats.TxTimeSegWit(
        draw(int32s), draw(uint32s), 0, draw(st.integers(0, 255)), ins, outs, witness, locktime
    )
)


@st.composite
def trezar_txs(draw):
    version = draw(int32s)
    comment = draw(byte_strings()) if version >= 2 else b""
    return formats.TxTrezarcoin(version, draw(uint32s), *[draw(part) for part in COMMON], comment)


@st.composite
def eccoin_txs(draw):
    version = draw(int32s)
    tail = draw(hashes) if version > 1 else b""
    return formats.TxECCoin(version, draw(uint32s), *[draw(part) for part in COMMON], tail)


@st.composite
def reddcoin_txs(draw):
    version = draw(int32s)
    time = draw(uint32s) if version > 1 else 0
    return formats.TxTimeLast(version, time, *[draw(part) for part in COMMON])


@st.composite
def navcoin_txs(draw):
    version, time = draw(int32s), draw(uint32s)
    text = draw(byte_strings()) if version >= 2 else b""
    ins, outs, locktime = [draw(part) for part in COMMON]
    if draw(st.booleans()):
        return formats.TxNavCoin(version, time, ins, outs, locktime, text)
    witness = [draw(stacks) for _ in ins]
    return formats.TxNavCoinSegWit(version, time, 0, 1, ins, outs, witness, locktime, text)


open_inputs = st.builds(formats.TxInputTokenPay, hashes, uint32s, byte_strings(), uint32s).filter(
    lambda txin: len(txin.script) < 99 or not txin.script.startswith(b"\x6a\xb9")
)
stealth_inputs = st.builds(
    formats.TxInputTokenPayStealth,
    fixed(33),
    fixed(3),
    byte_strings().map(lambda tail: b"\x6a\xb9" + bytes(97) + tail),
    uint32s,
)
tokenpay_txs = st.builds(
    formats.TxTime,
    int32s,
    uint32s,
    st.lists(st.one_of(open_inputs, stealth_inputs), max_size=4),
    output_lists,
    uint32s,
)


@st.composite
def zcash_txs(draw):
    version = draw(st.integers(1, 5))
    wire_version = version | (0x80000000 if draw(st.booleans()) else 0)
    head = pack_le_uint32(wire_version) + (b"grp!" if wire_version != version else b"")
    tail, shielded = b"", 0
    if version in (3, 4):
        tail += draw(fixed(4))
    if version == 4:
        spends, outs = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        shielded = spends + outs
        tail += bytes(8) + pack_varint(spends) + bytes(384 * spends)
        tail += pack_varint(outs) + bytes(948 * outs)
    if version >= 2:
        joins = draw(st.integers(0, 2))
        tail += pack_varint(joins) + bytes(joins * (1698 if version == 4 else 1802))
        tail += bytes(96 if joins else 0)
    tail += bytes(64 if shielded else 0)
    ins, outs, locktime = [draw(part) for part in COMMON]
    return formats.TxJoinSplit(version, ins, outs, locktime, head, tail)


@st.composite
def zcash_v5_txs(draw):
    version = draw(st.sampled_from([5, 6]))
    spends, outs, *parts = [draw(st.integers(0, 2)) for _ in range(2 + version - 4)]
    tail = pack_varint(spends) + bytes(96 * spends) + pack_varint(outs) + bytes(756 * outs)
    if spends or outs:
        tail += bytes(8 + 32 * bool(spends) + 256 * spends + 192 * outs + 64)
    for actions in parts:
        tail += pack_varint(actions) + bytes(820 * actions)
        if actions:
            tail += bytes(41) + pack_varbytes(draw(byte_strings())) + bytes(64 * actions + 64)
    ins, outputs, locktime = [draw(part) for part in COMMON]
    made = formats.TxZcashV5 if version == 5 else formats.TxZcashV6
    return made(version, ins, outputs, locktime, draw(fixed(4)), draw(uint32s), tail)


@st.composite
def pivx_txs(draw):
    version, tx_type = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    tx_type = tx_type if version >= 3 else 0
    tail = b""
    if version >= 3:
        spends, outs = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        tail = b"\1" + bytes(8) + pack_varint(spends) + bytes(384 * spends)
        tail += pack_varint(outs) + bytes(948 * outs + 64) + bytes(2 if tx_type else 0)
    ins, outs, locktime = [draw(part) for part in COMMON]
    head = pack_le_uint32(tx_type << 16 | version)
    return formats.TxJoinSplit(version, ins, outs, locktime, head, tail)


dcr_inputs = st.builds(formats.TxInputDcr, hashes, uint32s, st.integers(0, 255), uint32s)
# Their hash is slow: no long scripts.
short_strings = st.binary(max_size=300)
dcr_outputs = st.builds(formats.TxOutputDcr, values, uint16s, short_strings)
dcr_witness = st.builds(formats.TxInWitnessDcr, values, uint32s, uint32s, short_strings)


@st.composite
def dcr_txs(draw):
    ins = draw(st.lists(dcr_inputs, max_size=4))
    witness = [draw(dcr_witness) for _ in ins]
    outs = draw(st.lists(dcr_outputs, max_size=4))
    return formats.TxDcr(draw(int32s), ins, outs, draw(uint32s), draw(uint32s), witness)


block_names = hashes.map(lambda block_hash: block_hash.hex())
diamond_txs = st.one_of(
    st.builds(formats.TxBitcoinDiamond, st.just(12), block_names, *COMMON),
    witnessed(
        lambda draw, ins, outs, witness, locktime: formats.TxBitcoinDiamondSegWit(
            12, draw(block_names), 0, 1, ins, outs, witness, locktime
        )
    ),
    plain_txs.filter(lambda tx: tx.version != 12),
    segwit_txs().filter(lambda tx: tx.version != 12),
)

OUTPOINTS = st.builds(TxOutPoint, hashes, uint32s)
FIELD_STRATEGIES = {
    "collateralOutpoint": OUTPOINTS, "ipAddress": fixed(16), "KeyIdOwner": fixed(20),
    "PubKeyOperator": fixed(48), "KeyIdVoting": fixed(20), "scriptPayout": byte_strings(),
    "inputsHash": hashes, "proTxHash": hashes, "scriptOperatorPayout": byte_strings(),
    "height": uint32s, "merkleRootMNList": hashes, "merkleRootQuorums": hashes,
    "userName": byte_strings(), "pubKey": fixed(48), "regTxHash": hashes,
    "hashPrevSubTx": hashes, "creditFee": values, "newPubKey": fixed(48),
}  # fmt: skip
# The signature of some payloads has a length of its own.
VARIABLE_SIG = (1, 3)


@st.composite
def payloads(draw, tx_type):
    handler = SPEC_TX_HANDLERS[tx_type]
    fields = {}
    for name in handler._fields:
        if name == "payloadSig":
            fields[name] = draw(byte_strings() if tx_type in VARIABLE_SIG else fixed(96))
        else:
            fields[name] = draw(FIELD_STRATEGIES.get(name, uint16s))
    payload = handler(**fields)
    if isinstance(payload, DashCbTx) and payload.version < 2:
        payload = payload._replace(merkleRootQuorums=b"")
    return payload


@st.composite
def dash_txs(draw):
    ins, outs, locktime = [draw(part) for part in COMMON]
    tx_type = draw(st.sampled_from([0, 6, 300, *SPEC_TX_HANDLERS]))
    if not tx_type:
        version = draw(int32s.filter(lambda n: n & 0xFFFF < 3 or not n >> 16 & 0xFFFF))
        return DashTx(version, ins, outs, locktime, 0, b"")
    known = tx_type in SPEC_TX_HANDLERS
    payload = draw(payloads(tx_type) if known else byte_strings())
    return DashTx(draw(st.integers(3, 0xFFFF)), ins, outs, locktime, tx_type, payload)


bitcoin_txs = st.one_of(plain_txs, segwit_txs())
zcoin_txs = plain_txs.filter(lambda tx: not any(txin.script[:1] == b"\xc4" for txin in tx.inputs))

FORMATS = {
    formats.DeserializerAuxPow: plain_txs,
    formats.DeserializerAuxPowSegWit: bitcoin_txs,
    formats.DeserializerBitcoinAtom: bitcoin_txs,
    formats.DeserializerBitcoinDiamondSegWit: diamond_txs,
    formats.DeserializerBlackcoin: st.one_of(
        times(st.integers(-(2**31), 1)), plain_txs.filter(lambda tx: tx.version >= 2)
    ),
    formats.DeserializerDecred: dcr_txs(),
    formats.DeserializerECCoin: eccoin_txs(),
    formats.DeserializerElectra: st.one_of(
        times(int32s.filter(lambda n: n != 7)), plain_txs.map(lambda tx: tx._replace(version=7))
    ),
    formats.DeserializerEmercoin: st.one_of(times(), times_segwit),
    formats.DeserializerEquihash: plain_txs,
    formats.DeserializerEquihashSegWit: bitcoin_txs,
    formats.DeserializerGroestlcoin: bitcoin_txs,
    formats.DeserializerPIVX: pivx_txs(),
    formats.DeserializerPeercoin: st.one_of(
        times(st.integers(-(2**31), 2)),
        times_segwit.map(lambda tx: tx._replace(version=tx.version % 3)),
        bitcoin_txs.map(lambda tx: tx._replace(version=3 + tx.version % 2**30)),
    ),
    formats.DeserializerPrimecoin: plain_txs,
    formats.DeserializerReddcoin: reddcoin_txs(),
    formats.DeserializerSimplicity: st.one_of(
        times(st.integers(-(2**31), 2)), plain_txs.filter(lambda tx: tx.version >= 3)
    ),
    formats.DeserializerSmartCash: plain_txs,
    formats.DeserializerTokenPay: tokenpay_txs,
    formats.DeserializerTrezarcoin: trezar_txs(),
    formats.DeserializerTxTime: times(),
    formats.DeserializerTxTimeSegWit: st.one_of(times(), times_segwit),
    formats.DeserializerTxTimeSegWitNavCoin: navcoin_txs(),
    formats.DeserializerXaya: bitcoin_txs,
    formats.DeserializerZcash: st.one_of(zcash_txs(), zcash_v5_txs()),
    formats.DeserializerZcoin: zcoin_txs,
    DeserializerAxe: dash_txs(),
    DeserializerDash: dash_txs(),
}
TRANSACTION_METHODS = ("read_tx", "read_tx_and_hash", "read_tx_and_vsize", "read_tx_block")
# There are many formats, and some hashes are slow.
few = settings(max_examples=30, deadline=None)
every_format = pytest.mark.parametrize("reader", FORMATS, ids=lambda reader: reader.__name__)


def test_every_reader_of_a_coin_is_under_the_laws():
    used = {coin.DESERIALIZER for coin in all_coins()}
    beside = {Deserializer, formats.DeserializerSegWit, formats.DeserializerLitecoin}
    assert set() == used - FORMATS.keys() - beside


def all_coins():
    todo, coins = [Coin], []
    while todo:
        for coin in todo.pop().__subclasses__():
            todo.append(coin)
            if hasattr(coin, "NAME") and coin.__module__.startswith("electrumx."):
                coins.append(coin)
    return coins


@every_format
@few
@given(data=st.data())
def test_a_written_transaction_is_read_back(reader, data):
    tx = data.draw(FORMATS[reader])
    raw = tx.serialize()
    found = reader(b"xx" + raw + b"behind", start=2)
    assert tx == found.read_tx()
    assert len(raw) + 2 == found.cursor
    assert type(tx) is type(reader(raw).read_tx())
    assert tx.serialize() == reader(raw).read_tx().serialize()
    again, size = reader(raw + b"behind").read_tx_and_vsize()
    assert tx == again
    assert size <= len(raw)


@every_format
@few
@given(data=st.data())
def test_a_block_reads_like_its_transactions_one_by_one(reader, data):
    txs = data.draw(st.lists(FORMATS[reader], max_size=3))
    raw = pack_varint(len(txs)) + b"".join(tx.serialize() for tx in txs)
    block = reader(raw + b"\0 ignored").read_tx_block()
    assert [(tx, reader(tx.serialize()).read_tx_and_hash()[1]) for tx in txs] == block


@every_format
@few
@given(data=st.data())
def test_a_damaged_or_cut_transaction_raises_nothing_but_a_deserialize_error(reader, data):
    raw = bytearray(data.draw(FORMATS[reader]).serialize())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(
            st.sampled_from([0, 1, 3, 8, 253, 254, 255])
        )
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for method in TRANSACTION_METHODS:
        try:
            getattr(reader(cut), method)()
        except DeserializeError:
            pass


@every_format
@few
@given(raw=st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_a_deserialize_error(reader, raw):
    for method in TRANSACTION_METHODS:
        try:
            getattr(reader(raw), method)()
        except DeserializeError:
            pass


HEADER_COINS = sorted(
    {coin.DESERIALIZER: coin for coin in all_coins() if not coin.STATIC_BLOCK_HEADERS}.values(),
    key=lambda coin: coin.__name__,
)


@pytest.mark.parametrize("coin", HEADER_COINS, ids=lambda coin: coin.__name__)
@given(
    raw=st.binary(max_size=600),
    version=st.sampled_from([0x100, 0x620102, 0x1000, 1, 4]),
    size=st.sampled_from([80, 140]),
    height=st.sampled_from([0, 1, 505_888, 863_787, 2_700_500]),
)
def test_headers_of_arbitrary_bytes_raise_nothing_but_a_deserialize_error(
    coin, raw, version, size, height
):
    block = pack_le_uint32(version) + bytes(size - 4) + raw
    for candidate in (raw, block, block[:-1] + b"\xff" * 9):
        try:
            header = coin.block_header(candidate, height)
        except DeserializeError:
            continue
        assert candidate.startswith(header)


auxpow_branches = st.lists(hashes, max_size=5)


@given(segwit_txs(), auxpow_branches, auxpow_branches, fixed(80), st.binary(max_size=20))
def test_a_proof_of_merged_mining_is_read_to_its_end(parent, branch, chain, header, behind):
    proof = parent.serialize() + bytes(32)
    for part in (branch, chain):
        proof += pack_varint(len(part)) + b"".join(part) + pack_le_uint32(1)
    proof += header
    plain = pack_le_uint32(0x620102) + bytes(76)
    reader = formats.DeserializerAuxPowSegWit(plain + proof + behind)
    assert plain + proof == reader.read_header(80)
    without = pack_le_uint32(0x620002) + bytes(76)
    assert without == formats.DeserializerAuxPowSegWit(without + proof).read_header(80)
    for algorithm, tail in ((b"\x81", proof), (b"\x02", header)):
        whole = plain + algorithm + bytes(4) + tail
        assert whole == formats.DeserializerXaya(whole + behind).read_header(80)


@given(byte_strings(), st.binary(max_size=20))
def test_solutions_and_multipliers_are_read_to_their_end(solution, behind):
    for reader, size in ((formats.DeserializerEquihash, 140), (formats.DeserializerPrimecoin, 80)):
        header = bytes(size) + pack_varbytes(solution)
        assert header == reader(header + behind).read_header(size)


@given(st.sampled_from(sorted(SPEC_TX_HANDLERS)), st.data())
def test_a_payload_of_another_type_is_refused(tx_type, data):
    other = data.draw(st.sampled_from([n for n in SPEC_TX_HANDLERS if n != tx_type]))
    txin = TxInput(bytes(32), 0, b"", 0)
    tx = DashTx(3, [txin], [], 0, tx_type, data.draw(payloads(other)))
    with pytest.raises(ValueError, match="payload"):
        tx.serialize()


@given(st.sampled_from(sorted(SPEC_TX_HANDLERS)), st.data())
def test_a_payload_with_more_or_fewer_bytes_is_kept_as_it_is(tx_type, data):
    raw = data.draw(payloads(tx_type)).serialize()
    for payload in (raw + b"x", raw[:-1]):
        tx = DashTx(3, [], [], 0, tx_type, payload)
        found = DeserializerDash(tx.serialize()).read_tx()
        assert tx.serialize() == found.serialize()
        if isinstance(found.extra_payload, bytes):
            assert payload == found.extra_payload
