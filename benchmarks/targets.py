"""The subjects of requests: scripts by the length of their history, and transactions.

``targets.json`` is an object:

* ``height`` of the main chain;
* ``huge``, ``medium``, ``small``: scripthashes with a history of thousands, of 100 to 1,000 and of
  2 to 50, each a pair with the number of confirmed transactions, the longest first;
* ``single``: scripthashes that were paid to once;
* ``crowd``: scripthashes that every busy block touches;
* ``txs``: pairs of txid and height.
"""

import hashlib

from benchmarks.population import NOBODY

MOST = 20_000
MEDIUM, SMALL = range(100, 1001), range(2, 51)
MOST_MEDIUM = 2_000


def scripthash(output_script):
    """A client's name of a script, given as in an output, with its length before it.

    The length is one byte, for no script of ours is longer.
    """
    return hashlib.sha256(output_script[1:]).digest()[::-1].hex()


class Sampler:
    """Picks transactions and scripts that were paid to once, while a chain is made."""

    def __init__(self, shape):
        self._height = shape.blocks
        self._every = max(1, shape.txs // MOST)
        self._seen = 0
        self._txs, self._singles = [], []

    def see(self, height, txs):
        """The transactions of a block of the main chain, the coinbase first."""
        if not height:
            return  # no server indexes the genesis block
        start = -self._seen % self._every
        self._seen += len(txs)
        for tx in txs[start :: self._every]:
            self._txs.append([tx.tx_hash[::-1].hex(), height])
            for _value, script, _kind, number in tx.outputs:
                if number == NOBODY:
                    self._singles.append(scripthash(script))

    def targets(self, population, touched):
        """The object; touched: the transactions of each member of the population."""
        longest = sorted(
            (member.number for member in population.members),
            key=lambda number: (-touched[number], number),
        )
        named = [[scripthash(population.members[n].script), touched[n]] for n in longest]
        hubs = {scripthash(owner.script) for owner in population.hubs}
        return {
            "height": self._height,
            "huge": [pair for pair in named if pair[0] in hubs],
            "medium": [pair for pair in named if pair[1] in MEDIUM][:MOST_MEDIUM],
            "small": [pair for pair in named if pair[1] in SMALL][:MOST],
            "single": self._singles[:MOST],
            "crowd": [scripthash(owner.script) for owner in population.crowd],
            "txs": self._txs[:MOST],
        }
