"""Generators of the values that the laws are about; a new feature joins them here."""

from hypothesis import strategies as st

from electrumx.lib.tx import Tx, TxInput, TxMWEB, TxOutput, TxSegWit

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


scripts = byte_strings()
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


bitcoin_txs = st.one_of(plain_txs, segwit_txs())
litecoin_txs = st.one_of(plain_txs, segwit_txs(), hogex_txs())
