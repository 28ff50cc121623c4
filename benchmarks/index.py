"""Time parsing and indexing: the pure-Python and the Cython implementation on the same blocks.

    python -m benchmarks.index [--blocks 400] [--rounds 3]

Blocks are generated (tests.fakes.chain), about 40 transactions each; nothing is read from or written
to a disk.  Prints one line for each form: microseconds of CPU a transaction, the best of the rounds,
and the ratio.
"""

import argparse
import time

from electrumx.lib.script import is_unspendable_legacy
from electrumx.server.block_processor import compiled_indexer as fast_index
from electrumx.server.block_processor import indexer
from electrumx.server.block_processor.compiled_indexer import CompiledIndex
from electrumx.server.block_processor.utxo_cache import UTXOCache
from electrumx.server.history.store import History
from tests.fakes.chain import COIN, ChainMaker


def no_coin_on_disk(_tx_hash, _idx, _spent, exact=False):
    return None


def readable(raws):
    cache, history, tx_num = UTXOCache(no_coin_on_disk), History(), 0
    for height, raw in enumerate(raws):
        txs = COIN.block(raw, height).transactions
        _undo, hashXs = indexer.advance_txs(
            txs, tx_num, cache, COIN.hashX_from_script, is_unspendable_legacy
        )
        history.add_unflushed(hashXs, tx_num)
        tx_num += len(txs)
    return tx_num, len(cache.adds)


def compiled(raws):
    none_on_disk = lambda outpoints, _spent, exact: [None] * len(outpoints)  # noqa: E731
    index, tx_num = CompiledIndex.for_coin(COIN, False, none_on_disk), 0
    for height, raw in enumerate(raws):
        block = index.parse(raw, height)
        index.prepare([block])
        index.advance(block, tx_num, height)
        tx_num += block.tx_count
    return tx_num, len(index.adds)


def best(form, raws, rounds):
    times = []
    for _ in range(rounds):
        start = time.process_time()
        result = form(raws)
        times.append(time.process_time() - start)
    return min(times), result


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    maker = ChainMaker(seed=1, scripts=250)
    tip = maker.genesis_hash
    for _ in range(args.blocks):
        tip = maker.extend(tip, max_txs=80)
    raws = maker.chain(tip)
    slow, expected = best(readable, raws, args.rounds)
    txs = expected[0]
    print(f"{txs:,d} transactions in {len(raws):,d} blocks of {sum(map(len, raws)):,d} bytes")
    print(f"readable  {slow / txs * 1e6:6.2f} us a transaction")
    if fast_index.compiled is None:
        print("compiled  not built")
        return
    fast, result = best(compiled, raws, args.rounds)
    assert result == expected
    print(f"compiled  {fast / txs * 1e6:6.2f} us a transaction, {slow / fast:.1f} times as fast")


if __name__ == "__main__":
    main()
