"""The policy by which long chains are drawn: the UTXOs that are spent, and who is paid.

It is one of ``ChainMaker``'s policies; see ``tests.fakes.draws``.  One thread; no I/O.
"""

from benchmarks.chain_files import MAIN
from benchmarks.population import P2PKH, P2TR, P2WPKH
from benchmarks.transactions import MOST_OUTPUTS, VALUE
from tests.fakes.block_format import SUBSIDY
from tests.fakes.draws import Reward

MATURITY = 100
HALVING = 150
MOST_WEIGHT = 3_990_000
#: satoshis for an input, an output
FEE_IN, FEE_OUT = 150, 60
#: UTXOs that are young, and the share of inputs that spend one of those
YOUNG, YOUNG_SHARE = 10_000, 0.55
#: the outputs that a busy block spends: 6,000 of these and 12,000 new ones just fill it
ONE_KEY = {P2PKH, P2WPKH, P2TR}
#: a transaction fans out while there are fewer UTXOs than this times those of a block
COINS_PER_SPEND = 20
FAN = 30
#: share of unconfirmed transactions that spend another one's output
CHAINED_SHARE = 0.25
#: UTXOs that the mempool leaves to blocks
RESERVE = 5_000


class UTXOSet:
    """The UTXOs, in two heaps: young ones, and the rest; and coinbases that are not yet mature.

    About half of the inputs spend a young one, often of the same block, and the others any
    at all, so that an index finds some in its cache and must look for others.
    """

    def __init__(self, draw, young=(), old=(), immature=()):
        self._draw = draw
        self._young, self._old, self._immature = list(young), list(old), list(immature)

    def copy(self):
        return UTXOSet(self._draw, self._young, self._old, self._immature)

    def __len__(self):
        return len(self._young) + len(self._old)

    def add(self, tx):
        """Add the outputs of a transaction; as many young ones grow old when there are too many."""
        self.put(tx.utxos)

    def put(self, utxos):
        """Add UTXOs."""
        draw, young = self._draw, self._young
        young += utxos
        while len(young) > YOUNG:
            self._old.append(_take(young, int(draw() * len(young))))

    def add_reward(self, tx):
        """Add the output of a block's coinbase, for when it is mature."""
        self._immature.append(tx.utxos)

    def mature(self):
        """Let the output be spent of the coinbase that the next block may spend."""
        if len(self._immature) >= MATURITY:
            self.put(self._immature.pop(0))

    def take(self):
        """Remove a UTXO and return it."""
        draw, young, old = self._draw, self._young, self._old
        if young and (not old or draw() < YOUNG_SHARE):
            count = len(young)
            # the square: a quarter of them among the last sixteenth
            return _take(young, count - 1 - int(draw() ** 2 * count))
        return _take(old, int(draw() * len(old)))

    def unconfirmed(self):
        """Return where the outputs of unconfirmed transactions are added: no block spends them."""
        return Unconfirmed(self._draw)


class Unconfirmed:
    """The outputs of unconfirmed transactions."""

    def __init__(self, draw):
        self._draw, self._utxos = draw, []

    def __len__(self):
        return len(self._utxos)

    def add(self, tx):
        """Add the outputs of a transaction."""
        self._utxos += tx.utxos

    def take(self):
        """Remove any one, and return it."""
        return _take(self._utxos, int(self._draw() * len(self._utxos)))


def _take(heap, place):
    last = heap.pop()
    if place == len(heap):
        return last
    heap[place], taken = last, heap[place]
    return taken


class PopulationDraws:
    """Draws payments to a population, from UTXOs of any age; the numbers of both are heavy-tailed.

    random: a random.Random; population: the payees; shape: how many UTXOs there should be
    """

    def __init__(self, random, population, shape):
        self._draw = random.random
        self._bytes = random.randbytes
        self._population = population
        self._shape = shape

    def block(self, utxos, height, txs, *, spends=0, part=MAIN):
        """Yield the drafts of a block: so many spends, or, without a number, as many as fill it."""
        utxos.mature()
        yield from self._busy(utxos, txs) if spends is None else self._spends(utxos, height, spends)
        extra = bytes((part,)) + self._bytes(8)
        value = (SUBSIDY >> height // HALVING) + sum(tx.fee for tx in txs)
        yield Reward(extra, [(value, *self._population.choose())])

    def _spends(self, utxos, height, count):
        draw, choose = self._draw, self._population.choose
        enough = max(COINS_PER_SPEND * max(count, 20), self._shape.enough_utxos(height))
        for _ in range(count):
            if len(utxos) < enough and draw() < 0.3:
                payees = [choose() for _ in range(FAN)]
                yield [utxos.take()], payees
            else:
                inputs = min(self._input_count(), 1 + len(utxos) // 4)
                spent = [utxos.take() for _ in range(inputs)]
                yield spent, self._payees()

    def _busy(self, utxos, txs):
        """Yield spends that pay to each of the crowd once, until the block is full."""
        choose = self._population.choose
        crowd = [(o.script, o.kind, o.number) for o in self._population.crowd]
        weight = 0
        while len(txs) < self._shape.busy_txs and weight < MOST_WEIGHT:
            payees = [crowd.pop() for _ in range(min(2, len(crowd)))]
            payees = payees or [choose(), choose()]
            yield [_small_coin(utxos)], payees
            weight += txs[-1].weight
        assert not crowd

    def unconfirmed(self, utxos, made, count):
        """Yield the drafts of a mempool, parents first."""
        draw = self._draw
        for number in range(count):
            spare = max(0, len(utxos) - RESERVE)
            # UTXOs are made to last; then what is unconfirmed is spent.
            scarce = 1 - spare / (2 * (count - number))
            if made and draw() < max(scarce, CHAINED_SHARE):
                spent = [made.take()]
            elif len(utxos):
                inputs = min(self._input_count(), max(1, spare))
                spent = [utxos.take() for _ in range(min(inputs, len(utxos)))]
            else:
                break  # nothing can be spent
            yield spent, self._payees()

    def outputs(self, spent, payees):
        """Draw the values of a transaction's outputs: (value, script, kind, number) of each."""
        draw, more = self._draw, len(payees)
        left = sum(map(VALUE, spent))
        left -= min(left // 50, FEE_IN * len(spent) + FEE_OUT * more)
        outputs = []
        for script, kind, number in payees:
            more -= 1
            value = int(left * draw() ** more) if more else left
            left -= value
            outputs.append((value, script, kind, number))
        return outputs

    def _input_count(self):
        """How many UTXOs a transaction spends: mostly one or two, now and then a great many."""
        return _heavy_tailed(self._draw, 0.64, 200)

    def _payees(self):
        """The payees of a transaction: mostly two, now and then a great many."""
        draw, choose = self._draw, self._population.choose
        count = 1 + _heavy_tailed(draw, 0.80, MOST_OUTPUTS - 1) if draw() < 0.82 else 1
        return [choose() for _ in range(count)]


def _small_coin(utxos):
    """A UTXO that one key unlocks, which takes few bytes; any one, if none is found."""
    passed = []
    utxo = utxos.take()
    while utxo.kind not in ONE_KEY and len(utxos) and len(passed) < 20:
        passed.append(utxo)
        utxo = utxos.take()
    utxos.put(passed)
    return utxo


def _heavy_tailed(draw, alone, most):
    """1 in a share of the cases, else 2 and more, numbers above n about every n ** 1.6th time."""
    share = draw()
    if share < alone:
        return 1
    return min(most, 1 + int(((1 - alone) / (1 - share)) ** 0.625))
