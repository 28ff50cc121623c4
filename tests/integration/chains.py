"""Chains worth indexing, made on litecoind in seconds and the same in every run.

Outputs without a key (OP_TRUE, bare or behind a hash) make thousands of transactions
without a signature; a wallet adds some that are signed.
"""

import hashlib
import random
from decimal import Decimal
from typing import NamedTuple

OP_TRUE = b"\x51"
HASH160_OP_TRUE = bytes.fromhex("da1745e9b549bd0bfa1a569971c77eba30cd5a4b")
COIN = 10**8
FEE = 2_000

# How an OP_TRUE output of each kind is paid to, and the spender's input script.
SCRIPTS = {
    "bare": OP_TRUE,
    "p2sh": b"\xa9\x14" + HASH160_OP_TRUE + b"\x87",
    "p2wsh": b"\x00\x20" + hashlib.sha256(OP_TRUE).digest(),
}
SCRIPT_SIGS = {"bare": b"", "p2sh": b"\x01" + OP_TRUE, "p2wsh": b""}


class FreeCoin(NamedTuple):
    """An output without a key. txid as displayed, value in satoshis."""

    txid: str
    index: int
    value: int
    kind: str


def compact(number):
    """Bitcoin's variable-length integer."""
    if number < 253:
        return bytes([number])
    return b"\xfd" + number.to_bytes(2, "little")


def with_length(data):
    return compact(len(data)) + data


def make_tx(coins, outputs, *, sequence=0xFFFFFFFD):
    """A transaction that spends FreeCoins; (txid, hex). outputs: list of (satoshis, script).

    By the sequence it may be replaced by one that pays more.
    """
    inputs = compact(len(coins))
    for coin in coins:
        inputs += bytes.fromhex(coin.txid)[::-1] + coin.index.to_bytes(4, "little")
        inputs += with_length(SCRIPT_SIGS[coin.kind]) + sequence.to_bytes(4, "little")
    body = inputs + compact(len(outputs))
    for value, script in outputs:
        body += value.to_bytes(8, "little") + with_length(script)
    version, locktime = (2).to_bytes(4, "little"), bytes(4)
    once = hashlib.sha256(version + body + locktime).digest()
    txid = hashlib.sha256(once).digest()[::-1].hex()
    if all(coin.kind != "p2wsh" for coin in coins):
        return txid, (version + body + locktime).hex()
    witness = b"".join(
        b"\x01" + with_length(OP_TRUE) if coin.kind == "p2wsh" else b"\x00" for coin in coins
    )
    return txid, (version + b"\x00\x01" + body + witness + locktime).hex()


def script_pool(count, seed=1):
    """Scripts of every common kind, to pay to again and again."""
    pool = []
    for number in range(count):
        digest = hashlib.sha256(b"%d %d" % (seed, number)).digest()
        pool.append(
            (
                b"\x76\xa9\x14" + digest[:20] + b"\x88\xac",  # P2PKH
                b"\xa9\x14" + digest[:20] + b"\x87",  # P2SH
                b"\x00\x14" + digest[:20],  # P2WPKH
                b"\x51\x20" + digest,  # P2TR
                b"\x21\x02" + digest + b"\xac",  # P2PK
            )[number % 5]
        )
    return pool


class ChainBuilder:
    """Makes transactions and blocks on a litecoind, always the same ones for the same seed.

    (Their txids differ between runs, since coinbases do.)
    """

    def __init__(self, node, *, seed=1, scripts=200):
        self.node = node
        self.random = random.Random(seed)
        self.pool = script_pool(scripts, seed)
        self.coins = []
        self.tx_count = 0

    def mine_free(self, count):
        """Mine blocks whose rewards need no key; the outputs, not yet mature."""
        kind = self.random.choice(list(SCRIPTS))
        hashes = self.node.rpc("generatetodescriptor", count, f"raw({SCRIPTS[kind].hex()})")
        blocks = self.node.rpc_batch([("getblock", block_hash, 2) for block_hash in hashes])
        coins = []
        for block in blocks:
            coinbase = block["tx"][0]
            value = int(coinbase["vout"][0]["value"] * COIN)
            coins.append(FreeCoin(coinbase["txid"], 0, value, kind))
        return coins

    def fan_out(self, coin, count=40):
        """Split a coin into many; not sent when it fails."""
        kinds = [self.random.choice(list(SCRIPTS)) for _ in range(count)]
        value = (coin.value - 10 * FEE) // count
        txid, raw = make_tx([coin], [(value, SCRIPTS[kind]) for kind in kinds])
        self.node.rpc("sendrawtransaction", raw)
        self.tx_count += 1
        self.coins += [FreeCoin(txid, n, value, kind) for n, kind in enumerate(kinds)]

    def random_tx(self):
        """A transaction of some coins to some scripts, with change; hex. Sends nothing."""
        count = min(len(self.coins), self.random.choice((1, 1, 1, 2, 3)))
        coins = [self.coins.pop(self.random.randrange(len(self.coins))) for _ in range(count)]
        outputs = [
            (self.random.randrange(600, 5_000), self.random.choice(self.pool))
            for _ in range(self.random.choice((1, 1, 2, 3, 6)))
        ]
        if self.random.random() < 0.15:
            note = self.random.randbytes(self.random.randrange(1, 76))
            outputs.insert(self.random.randrange(len(outputs)), (0, b"\x6a" + with_length(note)))
        kind = self.random.choice(list(SCRIPTS))
        change = sum(c.value for c in coins) - sum(value for value, _ in outputs) - FEE
        outputs.append((change, SCRIPTS[kind]))
        txid, raw = make_tx(coins, outputs)
        self.coins.append(FreeCoin(txid, len(outputs) - 1, change, kind))
        return raw

    def send_random(self, count):
        """Put random transactions into the node's mempool; some spend each other."""
        raws = [self.random_tx() for _ in range(count)]
        self.node.rpc_batch([("sendrawtransaction", raw) for raw in raws])
        self.tx_count += count

    def build(self, *, blocks=300, txs=2_100):
        """A chain of at least so many blocks and transactions, without coinbases."""
        self.node.mine(5)
        first = self.mine_free(20)
        self.node.mine(100)
        for coin in first[:12]:
            self.fan_out(coin)
        self.node.mine(1)
        rest = blocks - self.node.height()
        for number in range(rest):
            if number % 10 == 0:
                self.pay_signed()
            wanted = (txs - self.tx_count + rest - number - 1) // (rest - number)
            self.send_random(max(0, wanted))
            self.node.mine(1)
        return self

    def pay_signed(self):
        """Payments that the node's wallet signs, from and to each kind of address."""
        amounts = {}
        for kind in ("legacy", "p2sh-segwit", "bech32"):
            amounts[self.node.rpc("getnewaddress", "", kind)] = Decimal("0.5")
        self.node.rpc("sendmany", "", amounts)
        self.tx_count += 1


def build_mweb(node, rounds=3):
    """Blocks with real extension blocks: coins pegged in, moved inside, and pegged out."""
    node.activate_mweb(amount=20)
    for _ in range(rounds):
        node.pay(node.rpc("getnewaddress", "", "mweb"), 3)
        node.mine(1)
        # Inside the extension block only; the wallet picks MWEB coins for an MWEB address.
        node.pay(node.rpc("getnewaddress", "", "mweb"), 1)
        node.pay(node.rpc("getnewaddress"), 1)
        node.mine(1)
