"""How much of a chain is still to index, estimated from the coin's figures.

Pure; any thread may run it.
"""

from electrumx.lib.coins import Coin


def txs_in_chain(coin: type[Coin], height: int) -> float:
    """Return a rough number of transactions in a chain of that height."""
    if height >= coin.TX_COUNT_HEIGHT:
        return float(coin.TX_COUNT + (height - coin.TX_COUNT_HEIGHT) * coin.TX_PER_BLOCK)
    return coin.TX_COUNT * (height + 1) / (coin.TX_COUNT_HEIGHT + 1)


def txs_remaining(coin: type[Coin], height: int, tx_count: int, daemon_height: int) -> float:
    """Return a rough number of transactions above ``height``, up to which there are ``tx_count``."""
    tail = max(0, daemon_height - max(height, coin.TX_COUNT_HEIGHT))
    estimate = tail * coin.TX_PER_BLOCK + max(coin.TX_COUNT - tx_count, 0)
    # Early blocks are emptier than the average; the figure shrinks as height grows.
    optimism = max(2.0 - 0.9 * height / max(coin.TX_COUNT_HEIGHT, 1), 1.0)
    return float(estimate * optimism) if daemon_height > height else 0.0
