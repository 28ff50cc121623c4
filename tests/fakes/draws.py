"""The policy by which a ``ChainMaker`` draws small blocks: the outputs they spend and the payments.

A policy yields drafts, one a transaction: a ``Reward``, or a pair of the UTXOs that are spent and of the
payees, if those are drawn at once.  The maker makes each before it asks for the next one, which may spend
its outputs.  ``benchmarks.draws`` has the policy of long chains.
"""

from typing import NamedTuple

from tests.fakes.block_format import SUBSIDY

#: prefixes of outputs that hold tokens (Bitcoin Cash): an amount, a token with a commitment, both
TOKEN_PREFIXES = [
    b"\xef" + b"\xc1" * 32 + b"\x10\x64",
    b"\xef" + b"\xc2" * 32 + b"\x61\x03abc",
    b"\xef" + b"\xc3" * 32 + b"\x32\xfd\xfd\x00",
]
#: and malformed ones: no token at all, an amount of zero
NO_TOKEN_PREFIXES = [b"\xef" + b"\xc1" * 32 + b"\x00", b"\xef" + b"\xc1" * 32 + b"\x10\x00"]
DATA = [b"\x6a\x01\x02", b"\x00\x6a", b"\x6a"]
#: how many of the newest UTXOs most transactions choose from
NEWEST = 8


def without_tokens(script):
    """Return an output's script without one of our token prefixes."""
    for prefix in TOKEN_PREFIXES:
        if script.startswith(prefix):
            return script[len(prefix) :]
    return script


def is_unspendable(script):
    return script[:1] == b"\x6a" or script[:2] == b"\x00\x6a"


class Reward(NamedTuple):
    """The draft of a coinbase: bytes that distinguish it, and its outputs (value, script)."""

    extra: bytes
    outputs: list


class SmallDraws:
    """Draws transactions of any shape that the index must bear.

    They have several outputs to one script, unspendable outputs, outputs without value, and spend outputs of
    the same block; some blocks are empty.

    scripts:    how many P2PKH scripts are paid to, as well as two odd ones
    tokens:     whether outputs may hold tokens
    duplicates: how often a block's coinbase is one that there was before
    """

    def __init__(self, format, scripts=12, tokens=False, duplicates=0.0):
        self._format = format
        self._random = format.random
        self.scripts = format.scripts(scripts)
        #: the prefixes that an output's script may begin with
        self.prefixes = [b"", *TOKEN_PREFIXES, *NO_TOKEN_PREFIXES] if tokens else []
        self._duplicates = duplicates
        self._rewards = []

    def block(self, utxos, _height, _txs, *, max_txs=6):
        """Yield the drafts of a block."""
        choose = self._random
        reward = Reward(self._format.extra(), self._payments(SUBSIDY))
        if self._rewards and choose.random() < self._duplicates:
            reward = choose.choice(self._rewards[-4:])
        self._rewards.append(reward)
        yield reward
        yield from self.unconfirmed(utxos, utxos, choose.randint(0, max_txs))

    def unconfirmed(self, utxos, _made, count):
        """Yield the drafts of transactions, while there is anything to spend."""
        choose = self._random
        for _ in range(count):
            if not utxos:
                break
            count = min(len(utxos), choose.randint(1, 3))
            # The newest UTXOs are favoured, so that spends within a block are common.
            pool = list(utxos)
            if choose.random() < 0.6:
                pool = pool[-NEWEST:]
            spent = choose.sample(pool, min(count, len(pool)))
            yield {outpoint: utxos.pop(outpoint) for outpoint in spent}, None

    def outputs(self, spent, _payees):
        """Draw the outputs of a transaction: pairs of value and script."""
        return self._payments(sum(spent.values()))

    def _payments(self, total):
        choose = self._random
        count = choose.randint(1, 4)
        outputs = []
        for n in range(count):
            value = total if n == count - 1 else choose.randint(0, total)
            total -= value
            outputs.append((value, choose.choice(self.scripts)))
        if choose.random() < 0.2:
            data = choose.choice(DATA)
            outputs.insert(choose.randint(0, len(outputs)), (0, data))
        if self.prefixes:
            outputs = [(value, choose.choice(self.prefixes) + script) for value, script in outputs]
        return outputs
