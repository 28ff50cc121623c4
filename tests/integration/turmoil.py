"""A random life of a chain: payments in chains, replacements, branches of any length.

The same seed makes the same choices; txids differ between runs, since coinbases do.
"""

import random

from tests.integration.audit import all_follow
from tests.integration.chains import FEE, SCRIPTS, FreeCoin, make_tx, with_length
from tests.integration.nodes import RPCFailure
from tests.integration.oracle import Oracle, Spend, sha256d

KIND_OF = {script: kind for kind, script in SCRIPTS.items()}
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MATURITY = 100
# Least value that is worth spending; satoshis.
DUST = 20_000
# So much is added to or taken from a transaction's fee when the miner looks at it; satoshis.
NUDGE = 10**9
TOO_LONG_CHAIN = "too-long-mempool-chain"


def free_coins(oracle):
    """Outputs without a key, confirmed or not, as the oracle sees them."""
    spent = {spend for tx in oracle.mempool.values() for spend in tx.spends}
    found = []
    for key, height in oracle.unspent.items():
        immature = oracle.position[key.txid][1] == 0 and height > oracle.height + 1 - MATURITY
        if key not in spent and not immature:
            found.append((key, oracle.outputs[key]))
    for txid, tx in oracle.mempool.items():
        for index, output in enumerate(tx.outputs):
            if Spend(txid, index) not in spent:
                found.append((Spend(txid, index), output))
    return [
        FreeCoin(key.txid, key.index, output.value, KIND_OF[output.script])
        for key, output in found
        if output.script in KIND_OF and output.value >= DUST
    ]


def address_of(key_hash):
    """The address, on any test network of Bitcoin's kind, of a key's hash."""
    payload = b"\x6f" + key_hash
    number = int.from_bytes(payload + sha256d(payload)[:4], "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = BASE58[digit] + text
    return text


class Turmoil:
    """Acts on a node. pool: scripts to pay to; kinds: of outputs without a key to make as well.

    most_ancestors: how many unconfirmed transactions may precede one, if the node does not
    refuse more. new_addresses: whether to mine to addresses made here.
    """

    def __init__(
        self, node, pool, *, kinds=tuple(SCRIPTS), most_ancestors=None, new_addresses=False, seed=1
    ):
        self.node = node
        self.kinds = kinds
        self.most_ancestors = most_ancestors
        self.new_addresses = new_addresses
        self._ancestors = {}  # unconfirmed txid -> set of txids
        self.pool = pool
        self.random = random.Random(seed)

    # --- payments

    def _outputs(self, value, fee):
        """Some small payments, sometimes a note, and the change last."""
        # At least one beside the change, since nodes refuse transactions under 82 bytes.
        outputs = [
            (self.random.randrange(600, 2_000), self.random.choice(self.pool))
            for _ in range(self.random.choice((1, 1, 1, 2, 4)))
        ]
        if self.random.random() < 0.15:
            note = self.random.randbytes(self.random.randrange(1, 76))
            place = self.random.randrange(len(outputs) + 1)
            outputs.insert(place, (0, b"\x6a" + with_length(note)))
        change = value - sum(amount for amount, _script in outputs) - fee
        kind = self.random.choice(self.kinds)
        # A fork in the chain of payments now and then, if there is enough for both.
        if self.random.random() < 0.3 and change > 4 * DUST:
            outputs.append((change // 2, SCRIPTS[self.random.choice(self.kinds)]))
            change -= change // 2
        return [*outputs, (change, SCRIPTS[kind])]

    def _ancestors_of(self, coins):
        found = set()
        for txid in {coin.txid for coin in coins} & set(self._ancestors):
            found |= {txid} | self._ancestors[txid]
        return found

    def _pick(self, coins):
        """Take one to three coins out of the list, in which those of recent change come last."""
        # Recent change is favoured, so that chains grow; but rarely joined to other change, since
        # a node limits the size of a family.
        recent = range(max(0, len(coins) - 12), len(coins))
        chosen = {self.random.choice(recent if self.random.random() < 0.6 else range(len(coins)))}
        for _ in range(self.random.choice((0, 0, 0, 0, 1, 2))):
            old = range((len(coins) + 1) // 2)
            chosen.add(self.random.choice(recent if self.random.random() < 0.1 else old))
        return [coins.pop(n) for n in sorted(chosen, reverse=True)]

    def _send(self, raw):
        """Give the node a transaction; False if its chain in the mempool is long enough."""
        try:
            self.node.rpc("sendrawtransaction", raw)
        except RPCFailure as e:
            if TOO_LONG_CHAIN in e.message:
                return False
            raise
        return True

    def pay(self, coins, count):
        """Send payments with some of the coins, each perhaps spending earlier ones' change.

        The number sent: fewer than count if the coins are used up.
        """
        coins = [coin for coin in coins if coin.value >= DUST]
        waiting = set(self.node.rpc("getrawmempool"))
        self._ancestors = {t: a & waiting for t, a in self._ancestors.items() if t in waiting}
        sent = 0
        while sent < count and coins:
            picked = self._pick(coins)
            ancestors = self._ancestors_of(picked)
            if self.most_ancestors and len(ancestors) > self.most_ancestors:
                continue
            outputs = self._outputs(sum(coin.value for coin in picked), FEE)
            txid, raw = make_tx(picked, outputs)
            if not self._send(raw):
                continue
            self._ancestors[txid] = ancestors
            sent += 1
            for index, (value, script) in enumerate(outputs):
                if script in KIND_OF and value >= DUST:
                    coins.append(FreeCoin(txid, index, value, KIND_OF[script]))
        return sent

    def replace(self, oracle, count=3):
        """Let others take the place of some unconfirmed payments and of all that spend them."""
        replaced = 0
        txids = sorted(oracle.mempool)
        self.random.shuffle(txids)
        spent = {spend: txid for txid, tx in oracle.mempool.items() for spend in tx.spends}
        for txid in txids:
            if replaced == count:
                break
            spends = oracle.mempool[txid].spends
            outputs = [oracle.output(spend) for spend in spends]
            if any(s.txid in oracle.mempool for s in spends):
                continue
            if not all(output.script in KIND_OF for output in outputs):
                continue
            coins = [
                FreeCoin(spend.txid, spend.index, output.value, KIND_OF[output.script])
                for spend, output in zip(spends, outputs, strict=True)
            ]
            gone = _with_descendants(oracle, spent, txid)
            fee = sum(oracle.fee(t) for t in gone) + 20 * FEE
            value = sum(coin.value for coin in coins)
            # A node replaces at most a hundred at once.
            if value < fee + DUST or len(gone) > 90:
                continue
            _txid, raw = make_tx(coins, self._outputs(value, fee))
            try:
                self.node.rpc("sendrawtransaction", raw)
            except RPCFailure as e:
                if e.code in (-25, -26):
                    continue  # another spender of the same coins was replaced just now
                raise
            replaced += 1
        return replaced

    # --- blocks

    def branch(self, depth, length, *, held_back=0.0, pay=0, coins=()):
        """Replace depth blocks by length new ones; the hash of the first undone.

        held_back: the share of unconfirmed transactions that the new blocks do not take up.
        pay: payments made with the outputs in between.
        """
        undone = self.node.rpc("getblockhash", self.node.height() - depth + 1)
        self.node.rpc("invalidateblock", undone)
        waiting = self.node.rpc("getrawmempool")
        held = [txid for txid in waiting if self.random.random() < held_back]
        self._nudge(held, -NUDGE)
        first_part = self.random.randrange(length + 1)
        self._mine(first_part)
        if pay:
            self.pay([coin for coin in coins if self._exists(coin)], pay)
        self._mine(length - first_part)
        self._nudge(held, NUDGE)
        return undone

    def _exists(self, coin):
        return self.node.rpc("gettxout", coin.txid, coin.index, True) is not None

    def _mine(self, count):
        if count and self.new_addresses:
            # Two blocks of one second would be the same if they paid to the same address.
            self.node.mine(count, address_of(self.random.randbytes(20)))
        elif count:
            self.node.mine(count)

    def _nudge(self, txids, amount):
        self.node.rpc_batch([("prioritisetransaction", txid, 0, amount) for txid in txids])


def _with_descendants(oracle, spent, txid):
    """A transaction of the mempool and all that spend it, and so on; spent: Spend -> txid."""
    family, queue = {txid}, [txid]
    while queue:
        parent = queue.pop()
        for index in range(len(oracle.mempool[parent].outputs)):
            child = spent.get(Spend(parent, index))
            if child and child not in family:
                family.add(child)
                queue.append(child)
    return family


async def follow_branches(chain, servers, grow, *, rounds, deepest, held_back=(0,)):
    """Servers follow branches of random depths, shorter and longer ones, and know them after a stop.

    grow(blocks): mine so many, with payments in them and others that wait.
    held_back: the shares, of which one is chosen, that a branch leaves unconfirmed.
    """
    choose = random.Random(8)
    seen = set()

    async def audit(**kwargs):
        oracle = Oracle(chain.node)
        seen.update(oracle.scripthashes())
        await all_follow(servers, oracle, also=seen, **kwargs)
        return oracle

    for number in range(rounds):
        grow(choose.randint(1, 3))
        oracle = await audit(queries=())
        depth = choose.randint(1, deepest)
        chain.branch(
            depth,
            max(0, depth + (-2, -1, 0, 1, 2)[number % 5]),
            held_back=choose.choice(held_back),
            pay=choose.choice((0, 5)),
            coins=free_coins(oracle),
        )
        await audit()
    for server in servers:
        assert server.terminate() == 0
        server.start()
    await audit()
