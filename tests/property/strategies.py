"""Generators of the values that the laws are about; a new feature joins them here."""

from hypothesis import strategies as st

from electrumx.lib.tx import Tx, TxInput, TxMWEB, TxOutput, TxSegWit
from electrumx.lib.util import pack_varint

# Lengths around those where a length takes more bytes on the wire come up often.
LENGTHS = st.one_of(st.integers(0, 40), st.sampled_from([252, 253, 254, 300, 0x10000]))

hashes = st.binary(min_size=32, max_size=32)
uint32s = st.integers(0, 0xFFFFFFFF)
int32s = st.integers(-(2**31), 2**31 - 1)
values = st.integers(-(2**63), 2**63 - 1)


@st.composite
def byte_strings(draw):
    """Bytes of a length on either side of a length's length, repetitive to be fast."""
    length = draw(LENGTHS)
    seed = draw(st.binary(min_size=1, max_size=8))
    return (seed * (length // len(seed) + 1))[:length]


compact_sizes = st.one_of(
    st.integers(0, 2**64 - 1).map(pack_varint),
    # Not all are minimal, or whole.
    st.binary(min_size=1, max_size=9),
)


@st.composite
def token_outputs(draw):
    """The script field of an output with tokens, or nearly so."""
    bits = draw(st.one_of(st.sampled_from([0x10, 0x20, 0x32, 0x60, 0x71]), st.integers(0, 255)))
    commitment = draw(byte_strings())
    return b"".join(
        (
            b"\xef",
            draw(hashes),
            bytes([bits]),
            pack_varint(len(commitment)) + commitment if bits & 0x40 else b"",
            draw(compact_sizes) if bits & 0x10 else b"",
            draw(st.sampled_from([b"", b"\x51", b"\x6a", b"\x00\x6a", b"\xef"])),
        )
    )


scripts = st.one_of(byte_strings(), token_outputs())
inputs = st.builds(TxInput, hashes, uint32s, scripts, uint32s)
outputs = st.builds(TxOutput, values, scripts)
input_lists = st.lists(inputs, min_size=1, max_size=4)
output_lists = st.lists(outputs, max_size=4)
stacks = st.lists(byte_strings(), max_size=3)

plain_txs = st.builds(Tx, int32s, input_lists, output_lists, uint32s)


@st.composite
def segwit_txs(draw):
    """A transaction with a witness stack for every input."""
    ins = draw(input_lists)
    witness = draw(st.lists(stacks, min_size=len(ins), max_size=len(ins)))
    return TxSegWit(draw(int32s), 0, 1, ins, draw(output_lists), witness, draw(uint32s))


@st.composite
def hogex_txs(draw):
    """A Litecoin integration transaction, with witness or not."""
    flag = draw(st.sampled_from([8, 9]))
    ins = draw(input_lists)
    witness = draw(st.lists(stacks, min_size=len(ins), max_size=len(ins))) if flag & 1 else []
    return TxMWEB(draw(int32s), 0, flag, ins, draw(output_lists), witness, draw(uint32s))


@st.composite
def raw_peg_ins(draw):
    """A Litecoin transaction as a mempool has it, with data of the extension before its end."""
    raw = draw(hogex_txs()).serialize()
    return raw[:-5] + draw(st.binary(min_size=1, max_size=40)) + raw[-4:]


bitcoin_txs = st.one_of(plain_txs, segwit_txs())
litecoin_txs = st.one_of(plain_txs, segwit_txs(), hogex_txs())
