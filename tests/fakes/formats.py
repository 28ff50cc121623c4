"""Chains in the formats of other coins than Bitcoin's, and a model of their index.

A `Maker` knows how one coin writes a header and a transaction; `FormatChain` makes blocks with it
that spend each other's outputs.  Nothing is mined or signed, for nobody checks.
"""

import random
from collections import defaultdict

from electrumx.lib.coins import Coin
from electrumx.lib.hash import double_sha256, hash_to_hex_str
from electrumx.lib.merkle import Merkle
from electrumx.lib.tx import (
    MINUS_1,
    ZERO,
    Tx,
    TxDcr,
    TxInput,
    TxInputDcr,
    TxInputTokenPayStealth,
    TxInWitnessDcr,
    TxJoinSplit,
    TxOutput,
    TxOutputDcr,
    TxSegWit,
    TxTime,
    TxTimeSegWit,
)
from electrumx.lib.tx_dash import DashCbTx, DashTx
from electrumx.lib.util import pack_le_uint32, pack_varbytes, pack_varint
from tests.fakes.chain import is_unspendable
from tests.fakes.world import ScriptedDaemon

NAMES = [b"d/one", b"d/two", b"d/" + b"three" * 20]


class Maker:
    """Bitcoin's own format, with witnesses now and then."""

    name, net = "BitcoinSegwit", "mainnet"
    overrides: dict = {}

    def __init__(self, seed=0):
        self.random = random.Random(seed)
        real = Coin.lookup_coin_class(self.name, self.net)
        self.coin = type(
            f"Made{real.__name__}",
            (real,),
            {"NET": "made up", "__module__": __name__, **self.overrides},
        )
        genesis = self.block(bytes(32), [self.tx([(ZERO, MINUS_1)], [(50, b"\x51")])], 0)
        header = self.coin.block_header(genesis, 0)
        self.coin.GENESIS_HASH = hash_to_hex_str(self.coin.header_hash(header))
        self.genesis = self.coin.genesis_block(genesis)

    def scripts(self):
        return [b"\x76\xa9\x14" + bytes([n]) * 20 + b"\x88\xac" for n in range(8)] + [b"\x51", b""]

    def inputs(self, outpoints):
        return [TxInput(h, n, b"sig", self.random.randint(0, MINUS_1)) for h, n in outpoints]

    def outputs(self, outputs):
        return [TxOutput(value, script) for value, script in outputs]

    def witness(self, inputs):
        return [[b"w" * self.random.randint(0, 80)] for _ in inputs]

    def tx(self, outpoints, outputs):
        ins, outs = self.inputs(outpoints), self.outputs(outputs)
        if self.random.random() < 0.5:
            return Tx(1, ins, outs, 0)
        return TxSegWit(2, 0, 1, ins, outs, self.witness(ins), 0)

    def header(self, prev_hash, root, height):
        return self.plain_header(prev_hash, root, 1)

    def plain_header(self, prev_hash, root, version):
        nonce = self.random.randint(0, MINUS_1)
        return b"".join(
            (
                pack_le_uint32(version),
                prev_hash,
                root,
                pack_le_uint32(1_400_000_000),
                bytes.fromhex("ffff7f20"),
                pack_le_uint32(nonce),
            )
        )

    def tx_hash(self, tx):
        return self.coin.DESERIALIZER(tx.serialize()).read_tx_and_hash()[1]

    def txs_bytes(self, txs):
        return pack_varint(len(txs)) + b"".join(tx.serialize() for tx in txs)

    def block(self, prev_hash, txs, height):
        root = Merkle().root([self.tx_hash(tx) for tx in txs])
        return self.header(prev_hash, root, height) + self.txs_bytes(txs)


class AuxPow(Maker):
    name = "Viacoin"

    def auxpow(self):
        parent = self.tx([(ZERO, MINUS_1)], [(1, b"\x51")])
        branches = [bytes([n]) * 32 for n in range(self.random.randint(0, 3))]
        branch = pack_varint(len(branches)) + b"".join(branches) + pack_le_uint32(0)
        return parent.serialize() + bytes(32) + branch + branch + b"p" * 80

    def header(self, prev_hash, root, height):
        if self.random.random() < 0.5:
            return self.plain_header(prev_hash, root, 1)
        return self.plain_header(prev_hash, root, 0x620102) + self.auxpow()


class PlainAuxPow(AuxPow):
    """Merged mining without witnesses."""

    name = "Unobtanium"

    def tx(self, outpoints, outputs):
        return Tx(1, self.inputs(outpoints), self.outputs(outputs), 0)


class Names(AuxPow):
    name = "Namecoin"

    def scripts(self):
        plain = super().scripts()
        value = b"\x04data"
        for name in NAMES:
            pushed = (
                bytes([len(name)]) + name if len(name) < 76 else b"\x4c" + bytes([len(name)]) + name
            )
            plain += [
                b"\x52" + pushed + b"\x08" + bytes(8) + value + b"\x6d\x6d" + plain[0],
                b"\x53" + pushed + value + b"\x6d\x75" + plain[1],
            ]
        return plain


class XayaNames(Names):
    name = "Xaya"

    def scripts(self):
        plain = Maker.scripts(self)
        for name in NAMES[:2]:
            pushed = bytes([len(name)]) + name + b"\x04data\x6d\x75"
            plain += [b"\x51" + pushed + plain[0], b"\x52" + pushed + plain[1]]
        return plain

    def header(self, prev_hash, root, height):
        plain = self.plain_header(prev_hash, root, 0x100)
        if self.random.random() < 0.5:
            return plain + b"\x02" + bytes(4) + b"f" * 80
        return plain + b"\x81" + bytes(4) + self.auxpow()


class Emercoin(AuxPow):
    name = "Emercoin"

    def tx(self, outpoints, outputs):
        ins, outs = self.inputs(outpoints), self.outputs(outputs)
        if self.random.random() < 0.5:
            return TxTime(1, 1_500_000_000, ins, outs, 0)
        return TxTimeSegWit(1, 1_500_000_000, 0, 1, ins, outs, self.witness(ins), 0)


class Zcash(Maker):
    name = "Zcash"

    def header(self, prev_hash, root, height):
        head = pack_le_uint32(4) + prev_hash + root + bytes(32)
        nonce = self.random.randbytes(32)
        solution = b"s" * self.random.choice([1344, 400, 36])
        return head + pack_le_uint32(1_500_000_000) + bytes(4) + nonce + pack_varbytes(solution)

    def tx(self, outpoints, outputs):
        ins, outs = self.inputs(outpoints), self.outputs(outputs)
        kind = self.random.randint(1, 4)
        if kind == 1:
            return TxJoinSplit(1, ins, outs, 0)
        if kind == 2:
            return TxJoinSplit(2, ins, outs, 0, b"", b"\1" + bytes(1802 + 96))
        head = pack_le_uint32(0x80000000 | kind) + b"grp!"
        tail = bytes(4) + b"\0"
        if kind == 4:
            tail = bytes(12) + b"\1" + bytes(384) + b"\2" + bytes(2 * 948) + b"\0" + bytes(64)
        return TxJoinSplit(kind, ins, outs, 0, head, tail)


class BitcoinGold(Maker):
    name = "BitcoinGold"
    overrides = {"FORK_HEIGHT": 6}

    def header(self, prev_hash, root, height):
        head = pack_le_uint32(4) + prev_hash + root + pack_le_uint32(height) + bytes(28)
        nonce = self.random.randbytes(32)
        solution = b"s" * 1344 if height >= 6 else b""
        return head + pack_le_uint32(1_500_000_000) + bytes(4) + nonce + pack_varbytes(solution)


class ProofOfStake(Maker):
    name = "Neblio"

    def tx(self, outpoints, outputs):
        ins, outs = self.inputs(outpoints), self.outputs(outputs)
        return TxTime(1, self.random.randint(0, MINUS_1), ins, outs, 0)

    def block(self, prev_hash, txs, height):
        return super().block(prev_hash, txs, height) + pack_varbytes(b"signature" * 8)


class TokenPay(ProofOfStake):
    name = "TokenPay"

    def inputs(self, outpoints):
        ins = super().inputs(outpoints)
        if self.random.random() < 0.5 and outpoints[0][0] != ZERO:
            script = b"\x6a\xb9" + bytes(97)
            ins.insert(0, TxInputTokenPayStealth(self.random.randbytes(33), b"\3\0\0", script, 1))
        return ins


class Dash(Maker):
    name = "Dash"
    # The chain is about payloads; its own hash is an optional package.
    overrides = {"HEADER_HASH": staticmethod(double_sha256)}

    def tx(self, outpoints, outputs):
        ins, outs = self.inputs(outpoints), self.outputs(outputs)
        if outpoints[0][0] == ZERO:
            return DashTx(3, ins, outs, 0, 5, DashCbTx(2, 7, b"m" * 32, b"q" * 32))
        if self.random.random() < 0.3:
            return DashTx(3, ins, outs, 0, 1, b"a payload of a later version")
        return DashTx(2, ins, outs, 0, 0, b"")


class Groestlcoin(Maker):
    name = "Groestlcoin"


class Pivx(Maker):
    name = "PIVX"
    overrides = {"HEADER_SIZES": [(0, 80), (5, 112), (9, 80)]}

    def tx(self, outpoints, outputs):
        ins, outs = self.inputs(outpoints), self.outputs(outputs)
        if self.random.random() < 0.5:
            return TxJoinSplit(1, ins, outs, 0)
        tail = b"\1" + bytes(8) + b"\1" + bytes(384) + b"\1" + bytes(948) + bytes(64)
        return TxJoinSplit(3, ins, outs, 0, b"", tail)

    def header(self, prev_hash, root, height):
        checkpoint = b"c" * 32 if 5 <= height < 9 else b""
        return self.plain_header(prev_hash, root, 4) + checkpoint


class Odin(Maker):
    """Growing headers at places that follow from the height."""

    name = "ODIN"
    overrides = {"HEADER_SIZES": [(0, 80), (5, 112)]}

    def header(self, prev_hash, root, height):
        return self.plain_header(prev_hash, root, 4) + (b"c" * 32 if height >= 5 else b"")


class Primecoin(Maker):
    name = "Primecoin"

    def tx(self, outpoints, outputs):
        return Tx(1, self.inputs(outpoints), self.outputs(outputs), 0)

    def header(self, prev_hash, root, height):
        multiplier = self.random.randbytes(self.random.randint(0, 12))
        return self.plain_header(prev_hash, root, 2) + pack_varbytes(multiplier)


class Decred(Maker):
    name = "Decred"

    def header(self, prev_hash, root, height):
        rest = self.random.randbytes(180 - 68)
        return pack_le_uint32(5) + prev_hash + root + rest

    def tx(self, outpoints, outputs):
        ins = [TxInputDcr(h, n, 0, MINUS_1) for h, n in outpoints]
        outs = [TxOutputDcr(value, 0, script) for value, script in outputs]
        witness = [TxInWitnessDcr(1, 2, 3, b"sig") for _ in ins]
        return TxDcr(1, ins, outs, 0, 0, witness)

    def txs_bytes(self, txs):
        regular = self.random.randint(1, len(txs))
        return super().txs_bytes(txs[:regular]) + super().txs_bytes(txs[regular:])


class Zcoin(Maker):
    name = "Zcoin"

    def tx(self, outpoints, outputs):
        ins = self.inputs(outpoints)
        if self.random.random() < 0.3 and outpoints[0][0] != ZERO:
            ins.insert(0, TxInput(b"\x77" * 32, 1, b"\xc4" + bytes(300), 1))
        return Tx(1, ins, self.outputs(outputs), 0)

    def header(self, prev_hash, root, height):
        if height < 5:
            return self.plain_header(prev_hash, root, 2)
        return self.plain_header(prev_hash, root, 0x20001000) + self.random.randbytes(100)


MAKERS = [
    AuxPow, PlainAuxPow, Names, XayaNames, Emercoin, Zcash, BitcoinGold, ProofOfStake, TokenPay,
    Dash, Groestlcoin, Pivx, Odin, Primecoin, Decred, Zcoin,
]  # fmt: skip


class FormatChain:
    """Makes blocks on top of blocks; keeps for each block what is unspent after it."""

    def __init__(self, maker):
        self.maker = maker
        self.coin = maker.coin
        self.random = maker.random
        self.scripts = maker.scripts()
        self.genesis_hash = self.hash_of(maker.genesis, 0)
        self.blocks = {self.genesis_hash: (maker.genesis, None, {}, 0)}

    def hash_of(self, raw, height):
        return self.coin.header_hash(self.coin.block_header(raw, height))

    def _outputs(self, total):
        count = self.random.randint(1, 3)
        outputs = [(total // count, self.random.choice(self.scripts)) for _ in range(count)]
        if self.random.random() < 0.2:
            outputs.append((0, b"\x6a\x01\x02"))
        return outputs

    def extend(self, prev_hash):
        _raw, _prev, unspent, prev_height = self.blocks[prev_hash]
        unspent, height = dict(unspent), prev_height + 1
        txs = []
        for n in range(self.random.randint(1, 5)):
            if n and not unspent:
                break
            if n:
                count = min(len(unspent), self.random.randint(1, 3))
                spent = self.random.sample(list(unspent)[-9:], min(count, 9))
                total = sum(unspent.pop(outpoint) for outpoint in spent)
            else:
                spent, total = [(ZERO, MINUS_1)], 10**9
            tx = self.maker.tx(spent, self._outputs(total))
            tx_hash = self.maker.tx_hash(tx)
            for idx, txout in enumerate(tx.outputs):
                if not is_unspendable(txout.pk_script):
                    unspent[tx_hash, idx] = txout.value
            txs.append(tx)
        raw = self.maker.block(prev_hash, txs, height)
        block_hash = self.hash_of(raw, height)
        self.blocks[block_hash] = (raw, prev_hash, unspent, height)
        return block_hash

    def grow(self, prev_hash, count):
        for _ in range(count):
            prev_hash = self.extend(prev_hash)
        return prev_hash

    def chain(self, tip):
        raws = []
        while tip is not None:
            raw, tip = self.blocks[tip][:2]
            raws.append(raw)
        return raws[::-1]


class FormatDaemon(ScriptedDaemon):
    """The scripted node, for headers of any length and hash."""

    def __init__(self, chain, raw_blocks):
        self.of_chain = chain
        super().__init__(raw_blocks)

    def set_chain(self, raw_blocks):
        self.raw = list(raw_blocks)
        self.hashes = [
            hash_to_hex_str(self.of_chain.hash_of(raw, height))
            for height, raw in enumerate(self.raw)
        ]
        known = getattr(self, "by_hash", {})
        self.by_hash = known | dict(zip(self.hashes, self.raw, strict=True))
        self.height_changed.set()
        self.height_changed.clear()


class FormatModel:
    """The index of a chain, names included, computed slowly from its raw blocks."""

    def __init__(self, raw_blocks, coin):
        self.history = defaultdict(list)  # hashX -> [(tx_hash, height)]
        self.coins = {}  # (tx_hash, idx) -> (hashX, value, height, tx_num)
        self.tx_hashes = []
        self.headers = []
        name_of = getattr(coin, "name_hashX_from_script", lambda script: None)
        tx_num = 0
        for height, raw in enumerate(raw_blocks):
            block = coin.block(raw, height)
            self.headers.append(block.header)
            self.tx_hashes.append([tx_hash for _tx, tx_hash in block.transactions])
            for tx, tx_hash in block.transactions:
                touched = {name_of(txout.pk_script) for txout in tx.outputs} - {None}
                for txin in tx.inputs:
                    if not txin.is_generation():
                        touched.add(self.coins.pop((txin.prev_hash, txin.prev_idx))[0])
                for idx, txout in enumerate(tx.outputs):
                    if not is_unspendable(txout.pk_script):
                        hashX = coin.hashX_from_script(txout.pk_script)
                        self.coins[tx_hash, idx] = (hashX, txout.value, height, tx_num)
                        touched.add(hashX)
                for hashX in touched:
                    self.history[hashX].append((tx_hash, height))
                tx_num += 1

    def utxos(self, hashX):
        """Return the set of (tx_num, idx, tx_hash, height, value) of a script."""
        return {
            (tx_num, idx, tx_hash, height, value)
            for (tx_hash, idx), (owner, value, height, tx_num) in self.coins.items()
            if owner == hashX
        }
