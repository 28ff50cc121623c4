"""Short chains and single blocks made to measure, such as no regtest miner would make."""

from electrumx.lib.hash import double_sha256
from electrumx.lib.tx import Tx, TxInput, TxOutput
from tests.fakes.chain import MINUS_1, SUBSIDY, ChainMaker

P2PKH = b"\x76\xa9\x14%b\x88\xac"


def script_of(number):
    """A P2PKH script of its own for each number."""
    return P2PKH % number.to_bytes(20, "big")


def coinbase(maker, script):
    """A reward to one script, unlike all others of the maker."""
    return maker.coinbase([TxOutput(SUBSIDY, script)])


def chained_block(maker, prev_hash, count, *, script=None, sig_size=300):
    """A block of count transactions and the coinbase, each spending the one before.

    Each has an input with a signature of sig_size bytes and two outputs: one to a script of its
    own, or to the one given, and the change to another. Its hash.
    """
    txs = [coinbase(maker, script_of(0))]
    total = txs[0].outputs[0].value
    spent = double_sha256(txs[0].serialize())
    change = script_of(maker.format.nonce << 32)
    for number in range(count):
        index = 0 if number == 0 else 1
        total -= 1000
        own = script or script_of((maker.format.nonce << 32) + number + 1)
        outputs = [TxOutput(1000, own), TxOutput(total, change)]
        tx = Tx(2, [TxInput(spent, index, bytes(sig_size), MINUS_1)], outputs, 0)
        txs.append(tx)
        spent = double_sha256(tx.serialize())
    return maker.add_block(prev_hash, txs)


def small_chain(length=120):
    """A maker and the tip of a chain of random blocks."""
    maker = ChainMaker(seed=7)
    return maker, maker.grow(maker.genesis_hash, length)


def fan_block(maker, prev_hash, count):
    """A block whose coinbase has count outputs, for fan_spends. Its hash and the transaction."""
    tx = coinbase(maker, script_of(0))
    value = tx.outputs[0].value // count
    tx = tx._replace(outputs=[TxOutput(value, script_of(n + 1)) for n in range(count)])
    return maker.add_block(prev_hash, [tx]), tx


def fan_spends(tx, *, sig_size=380, first=0):
    """Transactions that each spend one output of tx, to a script of their own and one they share.

    About 150 bytes and sig_size long; the scripts of their own are numbered from ``first``.
    """
    tx_hash = double_sha256(tx.serialize())
    spends = []
    for index, txout in enumerate(tx.outputs):
        outputs = [
            TxOutput(txout.value // 2, script_of((1 << 40) + first + index)),
            TxOutput(txout.value // 2, script_of((1 << 41) + index % 100)),
        ]
        spends.append(Tx(2, [TxInput(tx_hash, index, bytes(sig_size), MINUS_1)], outputs, 0))
    return spends
