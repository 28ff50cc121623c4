"""How other coins than Bitcoin write their headers and transactions.

A `CoinFormat` makes one coin's, of any content, and knows the parts of them that are hashed; it parses
nothing, so that it can be the oracle of a parser.  `ChainMaker` makes chains with it.
"""

import hashlib
import importlib

from electrumx.lib.coins import Coin
from electrumx.lib.hash import double_sha256, hash_to_hex_str
from electrumx.lib.header_hashes import blake256, groestl, kawpow, keccak256
from electrumx.lib.tx import (
    MINUS_1,
    ZERO,
    Tx,
    TxBitcoinDiamond,
    TxBitcoinDiamondSegWit,
    TxDcr,
    TxInput,
    TxInputDcr,
    TxInWitnessDcr,
    TxJoinSplit,
    TxMWEB,
    TxOutputDcr,
    TxSegWit,
    TxTime,
    TxTimeSegWit,
    TxZcashV5,
    TxZcashV6,
)
from electrumx.lib.tx_dash import DashCbTx, DashTx
from electrumx.lib.util import pack_le_uint16, pack_le_uint32, pack_varbytes, pack_varint
from tests.fakes.block_format import Format, header_of, lexical_order

NAMES = [b"d/one", b"d/two", b"d/" + b"three" * 20]


class CoinFormat(Format):
    """Bitcoin's own format, with witnesses now and then."""

    name, net = "BitcoinSegwit", "mainnet"
    overrides: dict = {}
    # The module of an optional package that hashes the headers, if one is needed.
    package = None
    # Whether the first block's coinbase can be spent.
    spendable_genesis = False
    # Whether some transactions have witnesses.
    witnesses = True

    @classmethod
    def made_coin(cls):
        """A coin like the real one, but for its net and for the parameters of its chain's start."""
        real = Coin.lookup_coin_class(cls.name, cls.net)
        attrs = {"NET": "made up", "__module__": __name__, **cls.overrides}
        return type(f"Made{real.__name__}", (real,), attrs)

    def __init__(self, seed=0):
        super().__init__(seed)
        self.coin = self.made_coin()
        genesis_tx = self.reward(self.extra(), [(50, b"\x51")], 0, [])
        self.genesis_header, self.whole_genesis = self.block(bytes(32), [genesis_tx], 0)
        self.coin.GENESIS_HASH = hash_to_hex_str(self.header_hash(self.genesis_header))
        self.indexed_genesis = self.coin.genesis_block(self.whole_genesis)
        self.genesis_txs = [genesis_tx] if self.spendable_genesis else []

    def genesis(self):
        return self.indexed_genesis, self.genesis_header, self.genesis_txs

    def owner_of(self, script):
        """The script of an output's owner."""
        return script

    def name_in(self, script):
        """The name that an output carries and that can be looked up, or None."""
        return

    def inputs(self, outpoints):
        return [TxInput(h, n, b"sig", self.random.randint(0, MINUS_1)) for h, n in outpoints]

    def witness(self, inputs):
        return [[b"w" * self.random.randint(0, 80)] for _ in inputs]

    def tx(self, inputs, outputs):
        if not self.witnesses or self.random.random() < 0.5:
            return Tx(1, inputs, outputs, 0)
        return TxSegWit(2, 0, 1, inputs, outputs, self.witness(inputs), 0)

    def header(self, prev_hash, root, height):
        return self.plain_header(prev_hash, root, 1)

    def plain_header(self, prev_hash, root, version):
        nonce = self.random.randint(0, MINUS_1)
        return header_of(prev_hash, root, version=version, time=1_400_000_000, nonce=nonce)

    def hashed(self, tx):
        """Those bytes of a transaction that its hash covers: without marker, flag and witness."""
        if isinstance(tx, TxSegWit):
            return Tx(tx.version, tx.inputs, tx.outputs, tx.locktime).serialize()
        if isinstance(tx, TxTimeSegWit):
            return TxTime(tx.version, tx.time, tx.inputs, tx.outputs, tx.locktime).serialize()
        return tx.serialize()

    def tx_hash(self, tx, _raw):
        if isinstance(tx, TxZcashV5):
            return tx.tx_hash()  # the tests have librustzcash's
        return double_sha256(self.hashed(tx))

    def on_wire(self, raw):
        """The bytes that a node sends for a block, before the server removes some."""
        return raw


class AuxPow(CoinFormat):
    name = "Viacoin"

    def auxpow(self):
        parent = self.tx(self.coinbase_inputs(b"parent"), self.outputs([(1, b"\x51")]))
        branches = [bytes([n]) * 32 for n in range(self.random.randint(0, 3))]
        branch = pack_varint(len(branches)) + b"".join(branches) + pack_le_uint32(0)
        return parent.serialize() + bytes(32) + branch + branch + b"p" * 80

    def header(self, prev_hash, root, height):
        if self.random.random() < 0.5:
            return self.plain_header(prev_hash, root, 1)
        return self.plain_header(prev_hash, root, 0x620102) + self.auxpow()

    def header_hash(self, header):
        return double_sha256(header[:80])


class PlainAuxPow(AuxPow):
    """Merged mining without witnesses."""

    name = "Unobtanium"
    witnesses = False


def pushed(data):
    """A script that pushes up to 255 bytes."""
    return (b"" if len(data) < 76 else b"\x4c") + bytes([len(data)]) + data


class NameScripts:
    """Outputs of some of which a name is the beginning."""

    # The first opcode of an update; it also begins the script that a name is looked up by.
    op_update = b""

    def prefixes(self, name):
        """The beginnings of outputs that register and update a name."""
        raise NotImplementedError

    def scripts(self, count):
        plain = super().scripts(count)
        self.names, self.owners = {}, {}
        for name in NAMES:
            for number, prefix in enumerate(self.prefixes(name)):
                self.owners[prefix + plain[number]] = plain[number]
                self.names[prefix + plain[number]] = name
        return plain + list(self.owners)

    def owner_of(self, script):
        return self.owners.get(script, script)

    def name_in(self, script):
        return self.names.get(script)

    def name_script(self, name):
        """The script that stands for a name."""
        return self.op_update + pushed(name) + b"\0" + b"\x6d\x75\x6a"


class Names(NameScripts, AuxPow):
    name = "Namecoin"
    op_update = b"\x53"

    def prefixes(self, name):
        first = b"\x52" + pushed(name) + pushed(bytes(8)) + pushed(b"data") + b"\x6d\x6d"
        return [first, b"\x53" + pushed(name) + pushed(b"data") + b"\x6d\x75"]


class XayaNames(NameScripts, AuxPow):
    name = "Xaya"
    op_update = b"\x52"
    spendable_genesis = True

    def prefixes(self, name):
        rest = pushed(name) + pushed(b"data") + b"\x6d\x75"
        return [b"\x51" + rest, b"\x52" + rest]

    def header(self, prev_hash, root, height):
        plain = self.plain_header(prev_hash, root, 0x100)
        if self.random.random() < 0.5:
            return plain + b"\x02" + bytes(4) + b"f" * 80
        return plain + b"\x81" + bytes(4) + self.auxpow()


class Emercoin(NameScripts, AuxPow):
    """Names are no part of addresses, and cannot be looked up."""

    name = "Emercoin"

    def prefixes(self, name):
        rest = b"\x75" + pushed(name) + b"\x01\x09\x6d" + pushed(b"a") + pushed(b"b") + b"\x6d"
        return [b"\x51" + rest, b"\x52" + rest, b"\x53\x75" + pushed(name) + b"\x75"]

    def name_in(self, script):
        return None

    def tx(self, inputs, outputs):
        if self.random.random() < 0.5:
            return TxTime(1, 1_500_000_000, inputs, outputs, 0)
        return TxTimeSegWit(1, 1_500_000_000, 0, 1, inputs, outputs, self.witness(inputs), 0)


class Zcash(CoinFormat):
    name = "Zcash"
    solution_sizes = [1344, 400, 36]

    def header(self, prev_hash, root, height):
        head = pack_le_uint32(4) + prev_hash + root + bytes(32)
        nonce = self.random.randbytes(32)
        solution = b"s" * self.random.choice(self.solution_sizes)
        return head + pack_le_uint32(1_500_000_000) + bytes(4) + nonce + pack_varbytes(solution)

    def tx(self, inputs, outputs):
        kind = self.random.randint(1, 6)
        if kind == 1:
            return TxJoinSplit(1, inputs, outputs, 0)
        if kind == 2:
            return TxJoinSplit(2, inputs, outputs, 0, b"", b"\1" + bytes(1802 + 96))
        if kind == 5:
            return TxZcashV5(5, inputs, outputs, 0, b"rule", 9, bytes(3))
        if kind == 6:
            return TxZcashV6(6, inputs, outputs, 0, b"rule", 9, bytes(4))
        head = pack_le_uint32(0x80000000 | kind) + b"grp!"
        tail = bytes(4) + b"\0"
        if kind == 4:
            tail = bytes(12) + b"\1" + bytes(384) + b"\2" + bytes(2 * 948) + b"\0" + bytes(64)
        return TxJoinSplit(kind, inputs, outputs, 0, head, tail)


class BitcoinGold(CoinFormat):
    name = "BitcoinGold"
    overrides = {"FORK_HEIGHT": 6}

    def header(self, prev_hash, root, height):
        head = pack_le_uint32(4) + prev_hash + root + pack_le_uint32(height) + bytes(28)
        nonce = self.random.randbytes(32)
        solution = b"s" * 1344 if height >= 6 else b""
        return head + pack_le_uint32(1_500_000_000) + bytes(4) + nonce + pack_varbytes(solution)

    def header_hash(self, header):
        if len(header) > 141:
            return double_sha256(header)
        return double_sha256(header[:68] + header[100:112])


class Dash(CoinFormat):
    name = "Dash"
    # The chain is about payloads; its own hash is an optional package.
    overrides = {"HEADER_HASH": staticmethod(double_sha256)}

    def tx(self, inputs, outputs):
        if inputs[0].is_generation():
            return DashTx(3, inputs, outputs, 0, 5, DashCbTx(2, 7, b"m" * 32, b"q" * 32))
        if self.random.random() < 0.3:
            return DashTx(3, inputs, outputs, 0, 1, b"a payload of a later version")
        return DashTx(2, inputs, outputs, 0, 0, b"")


class DashItself(Dash):
    """With the coin's own hash."""

    overrides: dict = {}
    package = "dash_hash"

    def header_hash(self, header):
        return importlib.import_module(self.package).getPoWHash(header)


class Axe(DashItself):
    name = "Axe"


class Groestlcoin(CoinFormat):
    name = "Groestlcoin"

    def tx_hash(self, tx, _raw):
        return hashlib.sha256(self.hashed(tx)).digest()

    def header_hash(self, header):
        return groestl(header)


class SmartCash(CoinFormat):
    name = "SmartCash"
    witnesses = False

    def tx_hash(self, tx, _raw):
        return hashlib.sha256(self.hashed(tx)).digest()

    def header_hash(self, header):
        return keccak256(header)


class Pivx(CoinFormat):
    name = "PIVX"
    overrides = {"HEADER_SIZES": [(0, 80), (5, 112), (9, 80)]}

    def tx(self, inputs, outputs):
        if self.random.random() < 0.5:
            return TxJoinSplit(1, inputs, outputs, 0)
        tail = b"\1" + bytes(8) + b"\1" + bytes(384) + b"\1" + bytes(948) + bytes(64)
        return TxJoinSplit(3, inputs, outputs, 0, b"", tail)

    def header(self, prev_hash, root, height):
        checkpoint = b"c" * 32 if 5 <= height < 9 else b""
        return self.plain_header(prev_hash, root, 4) + checkpoint


class Odin(CoinFormat):
    """Growing headers at places that follow from the height."""

    name = "ODIN"
    overrides = {"HEADER_SIZES": [(0, 80), (5, 112)]}

    def header(self, prev_hash, root, height):
        return self.plain_header(prev_hash, root, 4) + (b"c" * 32 if height >= 5 else b"")


class Primecoin(CoinFormat):
    name = "Primecoin"
    witnesses = False

    def header(self, prev_hash, root, height):
        multiplier = self.random.randbytes(self.random.randint(0, 12))
        return self.plain_header(prev_hash, root, 2) + pack_varbytes(multiplier)


class Decred(CoinFormat):
    """Blocks of two trees, of which the next block's vote can make the first one void.

    disapproval is the odds of such a vote; if there are any, no block spends its own outputs.
    """

    name = "Decred"
    votes = 1

    def __init__(self, seed=0, disapproval=0.0):
        self.disapproval = disapproval
        self.spends_own = not disapproval
        super().__init__(seed)

    def votes_void(self):
        void = self.random.random() < self.disapproval
        self.votes = int(not void)
        return void

    def header(self, prev_hash, root, height):
        votes = self.random.randrange(2**16) & ~1 | self.votes
        head = pack_le_uint32(5) + prev_hash + root + self.random.randbytes(32)
        return head + pack_le_uint16(votes) + self.random.randbytes(180 - 102)

    def hashed(self, tx):
        body = tx.serialize()
        witness = pack_varint(len(tx.witness)) + b"".join(item.serialize() for item in tx.witness)
        return pack_le_uint32(0x10000 | tx.version & 0xFFFF) + body[4 : len(body) - len(witness)]

    def tx_hash(self, tx, _raw):
        return blake256(self.hashed(tx))

    def header_hash(self, header):
        return blake256(header)

    def inputs(self, outpoints):
        return [TxInputDcr(h, n, 0, MINUS_1) for h, n in outpoints]

    def coinbase_inputs(self, _extra):
        return self.inputs([(ZERO, MINUS_1)])

    def outputs(self, outputs):
        return [TxOutputDcr(value, 0, script) for value, script in outputs]

    def tx(self, inputs, outputs):
        witness = [TxInWitnessDcr(1, 2, 3, b"sig") for _ in inputs]
        # Nothing else distinguishes two coinbases.
        return TxDcr(1, inputs, outputs, 0, self.random.randint(0, MINUS_1), witness)

    def body(self, txs):
        self.regular = self.random.randint(1, len(txs))
        return super().body(txs[: self.regular]) + super().body(txs[self.regular :])


class Zcoin(CoinFormat):
    name = "Zcoin"

    def tx(self, inputs, outputs):
        if self.random.random() < 0.3 and not inputs[0].is_generation():
            inputs.insert(0, TxInput(b"\x77" * 32, 1, b"\xc4" + bytes(300), 1))
        return Tx(1, inputs, outputs, 0)

    def header(self, prev_hash, root, height):
        if height < 5:
            return self.plain_header(prev_hash, root, 2)
        return self.plain_header(prev_hash, root, 0x20001000) + self.random.randbytes(100)

    def on_wire(self, raw):
        """With the proof that the daemon class takes out."""
        return raw[:180] + bytes(198_864) + raw[180:] if raw[1] & 0x10 else raw


class BitcoinDiamond(CoinFormat):
    """Transactions that name a block, with witnesses now and then."""

    name = "BitcoinDiamond"

    def tx(self, inputs, outputs):
        tx = super().tx(inputs, outputs)
        if self.random.random() < 0.3:
            return tx
        named = "ab" * 32
        if isinstance(tx, Tx):
            return TxBitcoinDiamond(12, named, *tx[1:])
        return TxBitcoinDiamondSegWit(12, named, *tx[1:])

    def hashed(self, tx):
        if isinstance(tx, TxBitcoinDiamondSegWit):
            tx = TxBitcoinDiamond(12, tx.preblockhash, tx.inputs, tx.outputs, tx.locktime)
        return super().hashed(tx)


class BitcoinAtom(CoinFormat):
    """Headers that get flags, of which one is hashed: here at height 6."""

    name = "BitcoinAtom"

    @classmethod
    def made_coin(cls):
        coin = super().made_coin()
        first = coin.DESERIALIZER.FORK_BLOCK_HEIGHT - 6

        def block_header(block, height):
            return super(coin, coin).block_header(block, height + first)

        coin.block_header = staticmethod(block_header)
        return coin

    def header(self, prev_hash, root, height):
        flags = pack_le_uint32(0xFE | self.random.randint(0, 1)) if height >= 6 else b""
        return super().header(prev_hash, root, height) + flags

    def header_hash(self, header):
        stake = len(header) == 84 and header[80] & 1
        return double_sha256(header[:80] + (b"\1\0\0\0" if stake else b""))


class Koto(Zcash):
    """Zcash's transactions behind Bitcoin's header."""

    name = "Koto"

    def header(self, prev_hash, root, height):
        return self.plain_header(prev_hash, root, 4)


class Minexcoin(Zcash):
    """Headers of Equihash that are all equally long."""

    name = "Minexcoin"
    solution_sizes = [68]

    def tx(self, inputs, outputs):
        return Tx(1, inputs, outputs, 0)


class FairCoin(CoinFormat):
    name = "FairCoin"
    witnesses = False

    def header(self, prev_hash, root, height):
        head = pack_le_uint32(1) + prev_hash + root + self.random.randbytes(32)
        return head + pack_le_uint32(1_500_000_000) + pack_le_uint32(7)


class LongHeader(CoinFormat):
    """Bytes behind Bitcoin's header, in all blocks."""

    name, more = "Adcoin", 32
    witnesses = False

    def header(self, prev_hash, root, height):
        return super().header(prev_hash, root, height) + self.random.randbytes(self.more)


class LongHeaderSegWit(LongHeader):
    name, more = "HOdlcoin", 8
    witnesses = True


class Ravencoin(CoinFormat):
    """KawPow from height 6 on; before it X16Rv2, by a package."""

    name = "Ravencoin"
    overrides = {"HEADER_SIZES": [(0, 80), (6, 120)]}
    package = "x16rv2_hash"

    def header(self, prev_hash, root, height):
        head = self.plain_header(prev_hash, root, 0x30000000)[:68]
        if height < 6:
            return head + pack_le_uint32(1_580_000_000) + self.random.randbytes(8)
        return head + pack_le_uint32(1_600_000_000) + self.random.randbytes(48)

    def header_hash(self, header):
        if len(header) == 120:
            return kawpow(header)
        return importlib.import_module(self.package).getPoWHash(header)


class Litecoin(CoinFormat):
    """The last transaction of some blocks integrates an extension block, which is behind it."""

    name = "Litecoin"

    def tx(self, inputs, outputs):
        if not inputs[0].is_generation() and self.random.random() < 0.3:
            return TxMWEB(2, 0, 8, inputs, outputs, [], 0)
        return super().tx(inputs, outputs)

    def body(self, txs):
        return super().body(txs) + b"\1" + self.random.randbytes(200)


class BitcoinCash(CoinFormat):
    """Transactions in the order of their hashes."""

    name = "BitcoinCashABC"
    witnesses = False

    def order(self, txs):
        return lexical_order(txs)


class Dogecoin(AuxPow):
    """Merged mining, and constants for fees."""

    name = "Dogecoin"
