"""The Cython implementation of indexing computes the same as the pure-Python one."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.lib.coins import BitcoinCashRegtest, BitcoinSegwitRegtest, LitecoinRegtest
from electrumx.lib.errors import DeserializeError, SkipTxDeserialize
from electrumx.lib.script import is_unspendable_genesis, is_unspendable_legacy
from electrumx.lib.tx import Tx, TxInput, TxOutput, TxSegWit
from electrumx.lib.tx.cash_tokens import locking_script
from electrumx.lib.util import pack_varint
from electrumx.server.block_processor import compiled_indexer, indexer
from electrumx.server.block_processor.block_parser import spent_outpoints_of
from electrumx.server.block_processor.compiled_indexer import CompiledIndex
from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.utxo_cache import UTXOCache
from electrumx.server.db import wire_rows as packed
from electrumx.server.history.store import History
from electrumx.server.storage.schema import UTXORow
from tests.conftest import require
from tests.fakes.chain import ChainMaker, Model, hashX_of
from tests.property import strategies

COINS = [BitcoinCashRegtest, BitcoinSegwitRegtest, LitecoinRegtest]


@pytest.fixture(scope="module", autouse=True)
def _built():
    require(compiled_indexer.compiled, "the Cython modules were not built")


def no_disk(_tx_hash, _idx, _spent, exact=False):
    return None


def both(coin, any_order=False, lookup=no_disk):
    def lookup_all(outpoints, spent, exact=False):
        places = [(outpoint[:4], outpoint[32:]) for outpoint in outpoints]
        assert places == sorted(places)
        return [
            lookup(outpoint[:32], int.from_bytes(outpoint[32:], "little"), spent, exact=exact)
            for outpoint in outpoints
        ]

    return CompiledIndex.for_coin(coin, any_order, lookup_all), UTXOCache(lookup)


def verdict(parse, raw):
    """A block's content in one form, or the kind of its error."""
    try:
        return parse(raw, 0)
    except SkipTxDeserialize:
        return "skip"
    except DeserializeError:
        return "malformed"


def content(coin, block):
    """The fields that Cython keeps of a block that the pure-Python implementation parsed."""
    has_tokens = coin.TOKENS_ACTIVATION == 0
    return [
        (
            [
                (txin.prev_hash, txin.prev_idx)
                for txin in tx.inputs
                if txin.prev_hash != bytes(32) or txin.prev_idx != 0xFFFFFFFF
            ],
            [
                (
                    hashX_of(script) if flags else bytes(11),
                    txout.value % 2**64,
                    flags,
                )
                for txout in tx.outputs
                for script in [locking_script(txout.pk_script) if has_tokens else txout.pk_script]
                for flags in [
                    (not is_unspendable_legacy(script)) + 2 * (not is_unspendable_genesis(script))
                ]
            ],
        )
        for tx, _hash in block.transactions
    ]


def assert_same_parse(coin, raw):
    index, _cache = both(coin)
    readable, compiled = verdict(coin.block, raw), verdict(index.parse, raw)
    if isinstance(readable, str):
        assert readable == compiled
        return
    assert readable.header == compiled.header
    assert b"".join(tx_hash for _tx, tx_hash in readable.transactions) == compiled.tx_hashes
    assert spent_outpoints_of(readable) == compiled.spent_outpoints
    assert len(readable.transactions) == compiled.tx_count
    assert content(coin, readable) == compiled.transactions()


any_tx = st.one_of(strategies.bitcoin_txs, strategies.litecoin_txs)


def tx_of_length(choose, length, has_witness):
    """A transaction whose hashed bytes are that many, 64 or more; its scripts share them at random."""
    spare = length - 60
    # A script of more than 252 bytes has a length of three.
    script = choose.randbytes(spare - 2 if spare >= 255 else min(spare, 252))
    second = [TxOutput(1, choose.randbytes(choose.randrange(90)))] if choose.random() < 0.5 else []
    inputs = [TxInput(choose.randbytes(32), 0, b"", 0)]
    outputs = [TxOutput(choose.randrange(2**63), script), *second]
    if has_witness:
        return TxSegWit(2, 0, 1, inputs, outputs, [[b"signature"]], 0)
    return Tx(1, inputs, outputs, 0)


@pytest.mark.parametrize("seed", range(40))
def test_transactions_and_scripts_of_all_lengths_are_hashed_alike(seed):
    """The Cython implementation hashes two at a time, those of as many blocks of SHA-256 together."""
    choose = random.Random(seed)
    count = choose.choice([1, 2, 3, 40])
    # From one block on to more than are hashed together, mostly those that many have
    lengths = [
        choose.choice([choose.randrange(64, 330), choose.randrange(64, 2_600)])
        for _ in range(count)
    ]
    lengths += choose.sample([119, 120, 183, 184, 2_039, 2_040, 2_103, 2_104, 70_000], 5)
    txs = [tx_of_length(choose, length, choose.random() < 0.5) for length in lengths]
    raw = bytes(80) + pack_varint(len(txs)) + b"".join(tx.serialize() for tx in txs)
    assert_same_parse(BitcoinSegwitRegtest, raw)


@given(st.sampled_from(COINS), st.lists(any_tx, max_size=4), st.binary(max_size=9))
def test_blocks_of_all_formats_are_parsed_alike(coin, txs, trailing):
    raw = bytes(80) + pack_varint(len(txs)) + b"".join(tx.serialize() for tx in txs) + trailing
    assert_same_parse(coin, raw)


@given(st.sampled_from(COINS), st.lists(any_tx, min_size=1, max_size=2), st.data())
def test_damaged_blocks_cause_the_same_error(coin, txs, data):
    raw = bytes(80) + pack_varint(len(txs)) + b"".join(tx.serialize() for tx in txs)
    at = data.draw(st.integers(80, len(raw) - 1))
    byte = data.draw(st.integers(0, 255))
    assert_same_parse(coin, raw[:at] + bytes([byte]) + raw[at + 1 :])
    assert_same_parse(coin, raw[:at])


@given(st.sampled_from(COINS), st.binary(max_size=200))
def test_arbitrary_bytes_cause_the_same_error(coin, raw):
    assert_same_parse(coin, raw)
    assert_same_parse(coin, bytes(80) + raw)


class Disk:
    """The rows that a flush leaves, as the database would look them up."""

    def __init__(self, tx_hashes):
        self.rows = {}
        self.tx_hashes = tx_hashes

    def lookup(self, tx_hash, idx, spent=(), exact=False):
        prefix = b"h" + tx_hash[:4] + idx.to_bytes(4, "little")
        for key in sorted(key for key in self.rows if key.startswith(prefix)):
            tx_num = int.from_bytes(key[9:], "little")
            if key in spent or (exact and self.tx_hashes[tx_num] != tx_hash):
                continue
            u_key = b"u" + self.rows[key] + key[5:]
            return UTXORow(key, u_key, self.rows[key] + key[9:] + self.rows[u_key])
        return None

    def flush(self, adds, deletes):
        deletes.delete_rows(self.rows.__delitem__)
        adds.put_rows(self.rows.__setitem__)
        adds.clear()
        deletes.clear()


def rows_of(model):
    """The rows of all that is unspent, as they are on disk."""
    rows = {}
    for (tx_hash, idx), (hashX, value, _height, tx_num) in model.unspent.items():
        suffix = idx.to_bytes(4, "little") + tx_num.to_bytes(5, "little")
        rows[b"h" + tx_hash[:4] + suffix] = hashX
        rows[b"u" + hashX + suffix] = value.to_bytes(8, "little")
    return rows


@given(
    seed=st.integers(0, 10**9),
    ltor=st.booleans(),
    flush_odds=st.sampled_from([0.0, 0.3, 1.0]),
    batch=st.integers(1, 5),
    keep=st.sampled_from([0, 500, 1 << 30]),
    beside=st.booleans(),
    duplicates=st.sampled_from([0.0, 0.4]),
)
def test_chains_are_indexed_alike_whatever_the_flushes(
    seed, ltor, flush_odds, batch, keep, beside, duplicates
):
    """``beside``: frozen arrays are written after the next blocks were indexed."""
    coin = BitcoinCashRegtest if ltor else BitcoinSegwitRegtest
    choose = random.Random(seed)
    maker = ChainMaker(seed=seed, scripts=5, ltor=ltor, tokens=ltor, duplicates=duplicates)
    chain = maker.chain(maker.grow(maker.genesis_hash, 12))
    model = Model(chain, coin)
    tx_hashes = [tx_hash for hashes in model.tx_hashes for tx_hash in hashes]
    disks = Disk(tx_hashes), Disk(tx_hashes)
    index, _ = both(coin, ltor, disks[0].lookup)
    cache = UTXOCache(disks[1].lookup)
    history = History()
    advance = indexer.advance_txs_any_order if ltor else indexer.advance_txs
    tx_num = 0
    written = {}
    for first in range(0, len(chain), batch):
        raws = chain[first : first + batch]
        fast_blocks = [index.parse(raw, 0) for raw in raws]
        index.prepare(fast_blocks)
        records = []
        for raw, fast_block in zip(raws, fast_blocks, strict=True):
            txs = coin.block(raw, 0).transactions
            rule = coin.output_rule(0)
            undo, hashXs = advance(txs, tx_num, cache, rule.hashX_from_script, rule.is_unspendable)
            assert b"".join(undo) == index.advance(fast_block, tx_num, 0)
            history.add_unflushed(hashXs, tx_num)
            records += packed.make_records(hashXs, tx_num)
            tx_num += len(txs)
        assert index.new_records() == b"".join(sorted(records))
        if index.index.utxos_frozen:
            disks[0].flush(index.adds, index.deletes)
            assert disks[0].rows == written
        if choose.random() < flush_odds:
            disks[1].flush(cache.adds, cache.deletes)
            written = dict(disks[1].rows)
            index.evict_written(keep)
            if beside:
                index.index.freeze_utxos()
                continue
            disks[0].flush(index.adds, index.deletes)
            assert disks[0].rows == written
    if index.index.utxos_frozen:
        disks[0].flush(index.adds, index.deletes)
    for disk, (adds, deletes) in zip(
        disks, [(index.adds, index.deletes), (cache.adds, cache.deletes)], strict=True
    ):
        disk.flush(adds, deletes)
    assert disks[0].rows == disks[1].rows == rows_of(model)
    assert set(history.unflushed) == index.history_hashXs()
    rows = []
    index.sort_history()
    while index.put_history(lambda key, row: rows.append((key, row)), b"\0\7", 40):
        pass
    expected = {hashX + b"\0\7": bytes(row) for hashX, row in history.unflushed.items()}
    assert sorted(expected.items()) == rows
    index.clear_history()
    assert not index.has_history()


@pytest.mark.parametrize("entries", [1, 4095, 4096, 30_000])
def test_history_is_written_in_the_order_of_keys_also_of_hashes_that_begin_alike(entries):
    choose = random.Random(entries)
    # Beginnings of 0 to 10 shared bytes, among which are many of four and more.
    hashXs = [bytes(n) + choose.randbytes(11 - n) for n in range(11) for _ in range(40)]
    history = compiled_indexer.compiled.FastIndex().history
    model = {}
    for tx_num in range(entries):
        hashX = choose.choice(hashXs)
        for _ in range(choose.randint(1, 2)):  # noted twice by one transaction is once
            history.note(hashX, tx_num)
        model.setdefault(hashX, []).append(tx_num.to_bytes(5, "little"))
    rows = []
    history.sort()
    for most in (1, 7, 1 << 30):
        pieces = [
            history.packed_hashXs(first, most) for first in range(0, history.frozen_count, most)
        ]
        assert b"".join(pieces) == b"".join(sorted(model))
    while history.put_rows(lambda key, row: rows.append((key, row)), b"\1\2", 1000):
        pass
    assert sorted((hashX + b"\1\2", b"".join(row)) for hashX, row in model.items()) == rows


def test_spending_what_does_not_exist_is_a_chain_error():
    maker = ChainMaker(seed=3)
    chain = maker.chain(maker.grow(maker.genesis_hash, 12))
    index, _cache = both(BitcoinSegwitRegtest)
    blocks = [index.parse(raw, 0) for raw in chain]
    spending = next(block for block in blocks if index.index.missing([block]))
    index.prepare([spending])
    with pytest.raises(ChainError, match='not found in "h" table'):
        index.advance(spending, 0, 0)


def test_a_utxo_on_disk_that_is_spent_is_not_spent_again():
    maker = ChainMaker(seed=4, scripts=3)
    tip = maker.grow(maker.genesis_hash, 12)
    chain = maker.chain(tip)
    disk = Disk([tx_hash for hashes in Model(chain).tx_hashes for tx_hash in hashes])
    index, _cache = both(BitcoinSegwitRegtest, lookup=disk.lookup)
    blocks = [index.parse(raw, 0) for raw in chain]
    at = next(n for n, block in enumerate(blocks) if index.index.missing([block]))
    tx_num = 0
    for block in blocks[:at]:
        index.advance(block, tx_num, 0)
        tx_num += block.tx_count
    disk.flush(index.adds, index.deletes)
    index.prepare([blocks[at]])
    index.advance(blocks[at], tx_num, 0)
    assert len(index.deletes)
    index.prepare([blocks[at]])
    with pytest.raises(ChainError):
        index.advance(blocks[at], tx_num, 0)


@pytest.mark.parametrize("keep", [0, 100, 5_000, 100_000])
def test_the_youngest_utxos_on_disk_stay_cached(keep):
    index = compiled_indexer.compiled.FastIndex()
    outpoints = [bytes([n % 251]) + n.to_bytes(31, "big") + bytes(4) for n in range(20_000)]
    order = random.Random(6).sample(range(20_000), 20_000)
    for n in order:
        index.provide(outpoints[n], bytes(11) + n.to_bytes(5, "little") + bytes(8))
    # An entry and its slot take 72 bytes.
    index.evict_written(keep * 72)
    assert index.utxo_count <= keep
    # Ages are distinguished in some thousands of steps.
    assert index.utxo_count >= min(keep, 20_000) - 20
    assert index.memsize < 72 * index.utxo_count * 2 + 100_000
    before = index.utxo_count
    for n in range(20_000 - before, 20_000):
        index.provide(outpoints[n], bytes(24))
    assert index.utxo_count == before


def test_the_table_grows_and_keeps_one_entry_for_an_outpoint():

    index = compiled_indexer.compiled.FastIndex()
    choose = random.Random(5)
    model = {}
    for n in range(60_000):
        outpoint = choose.randbytes(32) + n.to_bytes(4, "little")
        model[outpoint] = choose.randbytes(24)
        index.provide(outpoint, model[outpoint])
    assert index.utxo_count == len(model)
    for outpoint in choose.sample(list(model), 100):
        index.provide(outpoint, b"\1" * 24)
    assert index.utxo_count == len(model)


def test_coins_with_rules_of_their_own_are_indexed_in_pure_python():
    class OwnScript(BitcoinSegwitRegtest):
        NET = "own script"

        @classmethod
        def hashX_from_script(cls, script):
            return super().hashX_from_script(script[1:])

    class OwnFormat(BitcoinSegwitRegtest):
        NET = "own format"

        class DESERIALIZER(BitcoinSegwitRegtest.DESERIALIZER):
            pass

    assert CompiledIndex.for_coin(BitcoinSegwitRegtest, False, no_disk)
    assert CompiledIndex.for_coin(OwnScript, False, no_disk) is None
    assert CompiledIndex.for_coin(OwnFormat, False, no_disk) is None


class KnownWorld:
    """A chain that is followed, undone and begun again at random; ``disk`` has the flushed rows."""

    def __init__(self, seed, *, ltor, duplicates):
        self.choose = random.Random(seed)
        self.coin = BitcoinCashRegtest if ltor else BitcoinSegwitRegtest
        self.ltor = ltor
        self.maker = ChainMaker(seed=seed, scripts=4, ltor=ltor, tokens=ltor, duplicates=duplicates)
        self.tip = self.maker.genesis_hash
        #: of each height
        self.raws, self.undo = [], []
        self.disk = Disk([])
        #: ends of the blocks, as numbers of transactions
        self.ends = [0]
        self.looked_up = 0
        #: blocks that were undone last, the newest first
        self.undone = []
        self.start()
        self.advance([self.maker.blocks[self.tip][0]])

    def start(self):
        """Begin as after a start, knowing nothing."""

        def lookup(*args, **kwargs):
            self.looked_up += 1
            return self.disk.lookup(*args, **kwargs)

        self.index, _ = both(self.coin, self.ltor, lookup)
        #: index of recent blocks, the next height that it notes
        self.recent = None

    def advance(self, raws):
        """Index blocks and flush them; the pure-Python implementation computes the same."""
        first = self.ends[-1]
        cache = UTXOCache(self.disk.lookup)
        advance = indexer.advance_txs_any_order if self.ltor else indexer.advance_txs
        blocks = [self.index.parse(raw, 0) for raw in raws]
        self.index.prepare(blocks)
        for raw, block in zip(raws, blocks, strict=True):
            txs = self.coin.block(raw, 0).transactions
            rule = self.coin.output_rule(0)
            hashes = [tx_hash for _tx, tx_hash in txs]
            # As on disk, where a row may be compared in full.
            self.disk.tx_hashes[self.ends[-1] :] = hashes
            undo, _hashXs = advance(
                txs, self.ends[-1], cache, rule.hashX_from_script, rule.is_unspendable
            )
            assert b"".join(undo) == self.index.advance(block, self.ends[-1], 0)
            self.raws.append(raw)
            self.undo.append(undo)
            self.ends.append(self.ends[-1] + len(txs))
        assert first < self.ends[-1] or not blocks[-1].tx_count
        self.index.freeze(True)
        self.index.clear_history()
        self.disk.flush(self.index.adds, self.index.deletes)
        self.index.keep_written(self.choose.choice([0, 72, 72 * 12, 1 << 30, 1 << 30]))

    def extend(self):
        raws = []
        for _ in range(self.choose.randint(1, 3)):
            if self.undone and self.choose.random() < 0.8:
                self.tip = self.mined_again(self.undone.pop())
            else:
                self.tip = self.maker.extend(self.tip)
                self.undone = []
            raws.append(self.maker.blocks[self.tip][0])
        self.advance(raws)

    def mined_again(self, undone):
        """Make a block of the same transactions on another one; return its hash."""
        self.maker.format.nonce += 1
        block = self.coin.block(self.maker.blocks[undone].raw, 0)
        return self.maker.add_block(self.tip, [tx for tx, _tx_hash in block.transactions])

    def undo_blocks(self):
        self.index.evict_written(0)
        self.recent = None
        self.undone = []
        undo_txs = indexer.undo_txs_any_order if self.ltor else indexer.undo_txs
        depth = min(self.choose.randint(1, 9), len(self.raws) - 1)
        cache = UTXOCache(self.disk.lookup)
        for _ in range(depth):
            txs = self.coin.block(self.raws.pop(), 0).transactions
            undo_txs(txs, self.undo.pop(), cache, self.coin.output_rule(0).is_unspendable)
            self.ends.pop()
            self.undone.append(self.tip)
            self.tip = self.maker.blocks[self.tip][1]
            if self.choose.random() < 0.3:
                self.disk.flush(cache.adds, cache.deletes)
        self.disk.flush(cache.adds, cache.deletes)
        del self.disk.tx_hashes[self.ends[-1] :]

    def warm_up(self):
        """Note some more recent blocks; take them over once they reach the tip."""
        if self.recent is None:
            self.recent = self.index.recent(), self.choose.randrange(len(self.raws))
        recent, at = self.recent
        end = min(len(self.raws), at + self.choose.randint(1, 8))
        for height in range(at, end):
            block = self.index.parse(self.raws[height], 0)
            if self.choose.random() < 0.03:
                # As a block whose file is damaged.
                recent.clear()
            else:
                recent.note(block, self.ends[height], height, 72 * self.choose.choice([9, 1 << 20]))
        self.recent = recent, end
        if end == len(self.raws):
            self.index.adopt(recent)
            self.recent = None


@given(
    seed=st.integers(0, 10**9),
    ltor=st.booleans(),
    duplicates=st.sampled_from([0.0, 0.3]),
    steps=st.lists(
        st.sampled_from(
            ["extend", "extend", "extend", "undo_blocks", "warm_up", "warm_up", "start"]
        ),
        min_size=5,
        max_size=25,
    ),
)
def test_known_utxos_change_nothing_whatever_is_undone(seed, ltor, duplicates, steps):
    world = KnownWorld(seed, ltor=ltor, duplicates=duplicates)
    for step in steps:
        getattr(world, step)()
        assert world.disk.rows == rows_of(Model(world.raws, world.coin))
    # A row that is on disk is not taken for spent.
    assert not any(key in world.index.index for key in world.disk.rows)


@pytest.mark.parametrize("ltor", [False, True])
def test_a_warm_up_saves_look_ups(ltor):
    world = KnownWorld(5, ltor=ltor, duplicates=0.0)
    for _ in range(20):
        world.extend()
    world.start()
    # From the first block on, all at once.
    world.recent = world.index.recent(), 0
    world.choose.randint = lambda _low, high: high
    world.choose.random = lambda: 1.0
    world.choose.choice = max
    while world.recent:
        world.warm_up()
    before = world.looked_up
    world.extend()
    # Only coinbases are: each could be a duplicate.
    assert world.looked_up - before <= 3 * 5
