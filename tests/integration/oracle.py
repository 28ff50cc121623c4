"""The results of a correct server, from the node's own blocks, in plain slow code.

Shares nothing with the server: it parses bytes by itself. Synchronous, in memory.
"""

import functools
import hashlib
from collections import defaultdict
from functools import cached_property
from typing import NamedTuple


def sha256d(data):
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def scripthash_of(script):
    """A script's hash as the protocol writes it: SHA-256, reversed, in hex."""
    return hashlib.sha256(script).digest()[::-1].hex()


class Spend(NamedTuple):
    """An input: the output that it spends."""

    txid: str
    index: int


class Output(NamedTuple):
    """An output: satoshis and script."""

    value: int
    script: bytes


class ParsedTx(NamedTuple):
    """A transaction as far as an index needs it; a coinbase has no spends."""

    txid: str
    spends: list
    outputs: list


class Reader:
    """Walks over bytes."""

    def __init__(self, data):
        self.data = data
        self.position = 0

    def take(self, count):
        part = self.data[self.position : self.position + count]
        assert len(part) == count
        self.position += count
        return part

    def number(self, size):
        return int.from_bytes(self.take(size), "little")

    def compact(self):
        first = self.number(1)
        return first if first < 253 else self.number({253: 2, 254: 4, 255: 8}[first])

    def transaction(self):
        version = self.take(4)
        flag = 0
        if self.data[self.position] == 0:
            self.take(1)
            flag = self.number(1)
        body_start = self.position
        spends = []
        for _ in range(self.compact()):
            prev, index = self.take(32), self.number(4)
            self.take(self.compact())
            self.take(4)
            if any(prev):
                spends.append(Spend(prev[::-1].hex(), index))
        count_of_inputs = self._count_at(body_start)
        outputs = [Output(self.number(8), self.take(self.compact())) for _ in range(self.compact())]
        body = self.data[body_start : self.position]
        if flag & 1:
            for _ in range(count_of_inputs):
                for _ in range(self.compact()):
                    self.take(self.compact())
        if flag & 8:
            # In a block, the MWEB part of the integration transaction is one empty marker.
            assert self.number(1) == 0
        locktime = self.take(4)
        txid = sha256d(version + body + locktime)[::-1].hex()
        return ParsedTx(txid, spends, outputs)

    def _count_at(self, position):
        return Reader(self.data[position : position + 9]).compact()


@functools.lru_cache(maxsize=2**15)
def parse_block(raw):
    """Transactions of a raw block, without the bytes behind them (an MWEB extension block)."""
    reader = Reader(raw)
    reader.take(80)
    return [reader.transaction() for _ in range(reader.compact())]


class Oracle:
    """The index of a whole chain, and the mempool as it is at that moment.

    op_return_limit: height from which an output is unspendable only as OP_FALSE OP_RETURN, as on
    Bitcoin SV; before it a script that starts with OP_RETURN is unspendable too.
    """

    spendable_genesis = False

    def __init__(self, node, *, with_mempool=True, op_return_limit=10**9):
        self.node = node
        self.op_return_limit = op_return_limit
        self.height = self._tip_height()
        self.headers = []
        self.txids = []  # by height
        self.outputs = {}  # (txid, index) -> Output, indexed ones only
        self.position = {}  # txid -> (height, position in its block)
        self.confirmed = defaultdict(list)  # scripthash -> [(txid, height)]
        self.unspent = {}  # (txid, index) -> height
        self.scripts = {}  # scripthash -> script
        self.mempool = {}  # txid -> ParsedTx
        self._index_chain()
        if with_mempool:
            self._index_mempool()

    # --- building

    def _tip_height(self):
        return self.node.height()

    def _indexed(self, script, height):
        if script.startswith(b"\x00\x6a"):
            return False
        return not script.startswith(b"\x6a") or height >= self.op_return_limit

    def _index_chain(self):
        for start in range(0, self.height + 1, 50):
            raws = self.node.raw_blocks(start, min(50, self.height + 1 - start))
            for height, raw in enumerate(raws, start=start):
                self._index_block(height, raw)

    def _index_block(self, height, raw):
        self.headers.append(raw[:80].hex())
        self._index_txs(height, parse_block(raw))

    def _index_txs(self, height, txs):
        self.txids.append([tx.txid for tx in txs])
        if height == 0 and not self.spendable_genesis:
            return  # the genesis coinbase cannot be spent and is not indexed
        for position, tx in enumerate(txs):
            self.position[tx.txid] = (height, position)
            for index, output in enumerate(tx.outputs):
                if self._indexed(output.script, height):
                    self.outputs[Spend(tx.txid, index)] = output
                    self.unspent[Spend(tx.txid, index)] = height
        # Some coins' blocks spend what a later transaction makes.
        for tx in txs:
            touched = dict.fromkeys(self._looked_up_by(tx))  # ordered set
            for spend in tx.spends:
                del self.unspent[spend]
                touched[self._own(self.outputs[spend].script)] = None
            for output in tx.outputs:
                if self._indexed(output.script, height):
                    touched[self._own(output.script)] = None
            for scripthash in touched:
                self.confirmed[scripthash].append((tx.txid, height))

    def _looked_up_by(self, tx):
        """Scripthashes of no output under which a transaction is also found."""
        return ()

    def _own(self, script):
        scripthash = scripthash_of(script)
        self.scripts[scripthash] = script
        return scripthash

    def _index_mempool(self):
        txids = self.node.rpc("getrawmempool")
        for answer in self.node.rpc_batch([("getrawtransaction", t, True) for t in txids]):
            spends = [Spend(i["txid"], i["vout"]) for i in answer["vin"] if "txid" in i]
            outputs = [
                Output(int(o["value"] * 10**8), bytes.fromhex(o["scriptPubKey"]["hex"]))
                for o in answer["vout"]
                if "scriptPubKey" in o
            ]
            if spends or outputs:
                self.mempool[answer["txid"]] = ParsedTx(answer["txid"], spends, outputs)

    # --- asking

    def output(self, spend):
        """The output that a Spend names, confirmed or not."""
        if spend in self.outputs:
            return self.outputs[spend]
        return self.mempool[spend.txid].outputs[spend.index]

    def fee(self, txid):
        """Satoshis that an unconfirmed transaction leaves to the miner."""
        tx = self.mempool[txid]
        paid_in = sum(self.output(s).value for s in tx.spends)
        return paid_in - sum(o.value for o in tx.outputs)

    def mempool_scripthashes(self, txid):
        """The scripthashes that an unconfirmed transaction touches."""
        tx = self.mempool[txid]
        scripts = [self.output(s).script for s in tx.spends] + [o.script for o in tx.outputs]
        return {scripthash_of(script) for script in scripts}

    @cached_property
    def _unconfirmed(self):
        """Scripthash -> txids of the mempool that touch it."""
        table = defaultdict(list)
        for txid in self.mempool:
            for scripthash in self.mempool_scripthashes(txid):
                table[scripthash].append(txid)
        return table

    def scripthashes(self):
        """Every scripthash that has a history, confirmed or not."""
        return sorted(set(self.confirmed) | set(self._unconfirmed))

    def get_mempool(self, scripthash):
        """Entries of get_mempool, in the status's order: height 0 before -1, then by txid."""
        entries = []
        for txid in self._unconfirmed.get(scripthash, ()):
            chained = any(s.txid in self.mempool for s in self.mempool[txid].spends)
            entry = {"tx_hash": txid, "height": -1 if chained else 0, "fee": self.fee(txid)}
            entries.append(entry)
        return sorted(entries, key=lambda e: (-e["height"], e["tx_hash"]))

    def get_history(self, scripthash):
        """Entries of get_history in order."""
        confirmed = [{"tx_hash": t, "height": h} for t, h in self.confirmed.get(scripthash, ())]
        return confirmed + self.get_mempool(scripthash)

    def status(self, scripthash):
        """The status that a subscription reports."""
        entries = self.get_history(scripthash)
        text = "".join(f"{e['tx_hash']}:{e['height']}:" for e in entries)
        return hashlib.sha256(text.encode()).hexdigest() if text else None

    @cached_property
    def _spent_in_mempool(self):
        return {spend for tx in self.mempool.values() for spend in tx.spends}

    def _received_in_mempool(self, scripthash):
        for txid in self._unconfirmed.get(scripthash, ()):
            for index, output in enumerate(self.mempool[txid].outputs):
                if scripthash_of(output.script) == scripthash:
                    yield Spend(txid, index), output

    def get_balance(self, scripthash):
        """Confirmed and unconfirmed satoshis."""
        confirmed = unconfirmed = 0
        spent = self._spent_in_mempool
        for key in self._own_unspent.get(scripthash, ()):
            value = self.outputs[key].value
            confirmed += value
            unconfirmed -= value if key in spent else 0
        for key, output in self._received_in_mempool(scripthash):
            unconfirmed += 0 if key in spent else output.value
        return {"confirmed": confirmed, "unconfirmed": unconfirmed}

    def listunspent(self, scripthash):
        """Unspent outputs, confirmed ones in block order; unspent ones of the mempool by txid."""
        spent = self._spent_in_mempool
        utxos = []
        for key in self._own_unspent.get(scripthash, ()):
            if key not in spent:
                order = (0, *self.position[key.txid], key.index)
                utxos.append((order, key, self.unspent[key], self.outputs[key].value))
        for key, output in self._received_in_mempool(scripthash):
            if key not in spent:
                utxos.append(((1, key.txid, key.index), key, 0, output.value))
        return [
            {"tx_hash": key.txid, "tx_pos": key.index, "height": height, "value": value}
            for _order, key, height, value in sorted(utxos)
        ]

    @cached_property
    def _own_unspent(self):
        """Scripthash -> its unspent confirmed outputs."""
        table = defaultdict(list)
        for key in self.unspent:
            table[scripthash_of(self.outputs[key].script)].append(key)
        return table

    def merkle_branch(self, height, position):
        """Hashes that lead from a transaction to its block's root, as the protocol writes them."""
        level = [bytes.fromhex(txid)[::-1] for txid in self.txids[height]]
        branch = []
        while len(level) > 1:
            if len(level) % 2:
                level.append(level[-1])
            branch.append(level[position ^ 1][::-1].hex())
            level = [sha256d(level[n] + level[n + 1]) for n in range(0, len(level), 2)]
            position //= 2
        return branch
