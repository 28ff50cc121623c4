"""A scripted node and database for the mempool, and a naive model to compare it with.

Transactions are described by ModelTx, which knows its inputs' and outputs' values by itself;
hashes, sizes and hashXs are computed here from the wire format, not by the code under test.
"""

import asyncio
import struct
from contextlib import asynccontextmanager

from electrumx.server.mempool.sync import MemPool, MemPoolAPI, MemPoolTx
from electrumx.server.notifications import Confirmed
from tests.fakes.chain import hashX_of
from tests.fakes.node import double_sha256

WAIT_SECS = 120
# Output scripts
ALICE, BOB = b"\x51", b"\x52\x52"


class ModelTx:
    """One transaction: inputs are (prev hash, index, hashX, value), outputs (script, value)."""

    #: a counter that makes each transaction and output different
    serial = 0

    def __init__(self, inputs, outputs, witness_bytes=0):
        ModelTx.serial += 1
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        body = bytes([len(self.inputs)])
        for prev_hash, idx, _hashX, _value in self.inputs:
            body += prev_hash + struct.pack("<I", idx) + b"\x00" + b"\xff" * 4
        assert len(self.inputs) < 253
        assert len(self.outputs) < 253
        body += bytes([len(self.outputs)])
        for script, value in self.outputs:
            body += struct.pack("<q", value) + bytes([len(script)]) + script
        version, locktime = struct.pack("<i", 2), struct.pack("<I", ModelTx.serial)
        stripped = version + body + locktime
        self.hash = double_sha256(stripped)
        self.raw = stripped
        self.size = len(stripped)
        if witness_bytes:
            witness = (b"\x01" + bytes([witness_bytes]) + b"w" * witness_bytes) * len(self.inputs)
            self.raw = version + b"\x00\x01" + body + witness + locktime
            weight = 4 * len(stripped) + 2 + len(witness)
            self.size = -(-weight // 4)

    @property
    def hex_hash(self):
        return self.hash[::-1].hex()

    @property
    def fee(self):
        paid = sum(value for *_, value in self.inputs)
        return max(0, paid - sum(value for _script, value in self.outputs))

    def hashXs(self):
        return {item[2] for item in self.inputs} | {hashX_of(out[0]) for out in self.outputs}

    def spendables(self):
        """Its outputs in the form of inputs."""
        return [(self.hash, n, hashX_of(s), value) for n, (s, value) in enumerate(self.outputs)]

    def indexed(self):
        """Return it as the index has it."""
        prevouts = tuple(i[:2] for i in self.inputs)
        in_pairs = tuple(i[2:] for i in self.inputs)
        out_pairs = tuple((hashX_of(script), value) for script, value in self.outputs)
        return MemPoolTx(prevouts, in_pairs, out_pairs, self.fee, self.size)


def by_hash(*txs):
    return {tx.hash: tx for tx in txs}


class FakeAPI(MemPoolAPI):
    """The node's mempool and the database, to be changed at will.

    txs:     tx hash -> ModelTx that the node lists
    missing: hashes that it lists but has no raw transaction for
    garbled: tx hash -> bytes that it sends instead
    utxos:   the database: (tx hash, index) -> (hashX, value)
    tip:     at first that of the node and of the database, None if it is not known
    """

    def __init__(self, tip=None):
        self.txs = {}
        self.missing = set()
        self.garbled = {}
        self.utxos = {}
        self.node_height = self.heard_height = self.database_height = 100
        self.node_tip = self.database_tip = tip
        self.partial_heights = []  # of reports that are not complete
        self.refreshes = asyncio.Queue()  # (touched, height) of each successful one
        self.listings = 0
        self.fetches = 0
        self.confirmed = {}  # tip -> what was confirmed on top of it
        self.node_changed = asyncio.Event()
        self.db_changed = asyncio.Event()
        self.processed = asyncio.Event()

    @staticmethod
    def pulse(event):
        """Wake the tasks that wait for the event now."""
        event.set()
        event.clear()

    def trigger(self):
        """Have the mempool refresh now."""
        self.pulse(self.node_changed)

    def set_height(self, height):
        self.node_height = self.heard_height = self.database_height = height

    def confirm(self, hashes):
        """Put transactions into the database and take them from the node's mempool."""
        self.set_height(self.node_height + 1)
        txs = [self.txs.pop(tx_hash) for tx_hash in hashes]
        for tx in txs:
            for tx_hash, idx, hashX, value in tx.spendables():
                self.utxos[tx_hash, idx] = (hashX, value)
        # Only now, since a block may spend what it creates.
        for tx in txs:
            for prev_hash, idx, _hashX, _value in tx.inputs:
                self.utxos.pop((prev_hash, idx), None)

    def index_block(self, hashes=(), others=()):
        """Confirm transactions of the mempool, and others, in a block that the database reports.

        The node evicts those that the others made impossible. Return the hashXs of all of them.
        """
        previous = self.database_tip or bytes(32)
        mined = [*map(self.txs.get, hashes), *others]
        hashXs = set().union(*(tx.hashXs() for tx in mined))
        self.txs.update({tx.hash: tx for tx in others})
        self.confirm([tx.hash for tx in mined])
        spent = {i[:2] for tx in others for i in tx.inputs}
        while impossible := [
            tx
            for tx in self.txs.values()
            if any(
                i[:2] in spent or (i[:2] not in self.utxos and i[0] not in self.txs)
                for i in tx.inputs
            )
        ]:
            for tx in impossible:
                del self.txs[tx.hash]
        self.node_tip = self.database_tip = double_sha256(previous)
        # As of one that was undone: there is no step from the present tip.
        self.confirmed.pop(self.node_tip, None)
        tx_hashes = b"".join(tx.hash for tx in mined)
        outpoints = b"".join(i[0] + struct.pack("<I", i[1]) for tx in mined for i in tx.inputs)
        self.confirmed[previous] = Confirmed(self.node_height, self.node_tip, tx_hashes, outpoints)
        return hashXs

    def undo_block(self, previous):
        """Undo the last block, whose transactions are nowhere then, down to the tip before it."""
        self.set_height(self.node_height - 1)
        self.confirmed.pop(previous, None)
        self.confirmed[self.database_tip] = Confirmed(
            self.node_height, previous, b"", b"", undone=True
        )
        self.node_tip = self.database_tip = previous

    def process_block(self):
        """Notify the mempool that the database will move next."""
        self.pulse(self.processed)

    def announce_block(self):
        """Notify the mempool that the database moved."""
        self.pulse(self.db_changed)

    def add_utxo(self, script, value, tx_hash=None, idx=0):
        """Put an output into the database; return it in the form of an input."""
        ModelTx.serial += 1
        tx_hash = tx_hash or double_sha256(str(ModelTx.serial).encode())
        self.utxos[tx_hash, idx] = (hashX_of(script), value)
        return tx_hash, idx, hashX_of(script), value

    def add(self, *txs):
        for tx in txs:
            self.txs[tx.hash] = tx

    # -- What the mempool asks

    async def height(self):
        self.heard_height = self.node_height
        return self.node_height

    def cached_height(self):
        return self.heard_height

    def db_height(self):
        return self.database_height

    async def mempool_hashes(self):
        self.listings += 1
        return [tx.hex_hash for tx in self.txs.values()]

    def processed_after(self, tip):
        return self.confirmed.get(tip)

    async def wait_for_processed_block(self):
        await self.processed.wait()

    async def raw_transactions(self, hex_hashes):
        self.fetches += 1
        await asyncio.sleep(0)
        hashes = [bytes.fromhex(hex_hash)[::-1] for hex_hash in hex_hashes]
        return [self.raw_tx(tx_hash) for tx_hash in hashes]

    def raw_tx(self, tx_hash):
        """Return a raw transaction of the node, or None. A test may replace it."""
        if tx_hash in self.missing or tx_hash not in self.txs:
            return None
        return self.garbled.get(tx_hash, self.txs[tx_hash].raw)

    async def lookup_utxos(self, prevouts):
        await asyncio.sleep(0)
        return [self.utxos.get(prevout) for prevout in prevouts]

    async def on_mempool(self, touched, height):
        self.refreshes.put_nowait((touched, height))

    async def on_mempool_partial(self, touched, height):
        self.partial_heights.append(height)
        await self.on_mempool(touched, height)

    async def daemon_tip_hash(self):
        return self.node_tip

    def db_tip(self):
        return self.database_tip

    def confirmed_after(self, tip):
        return self.confirmed.get(tip)

    async def wait_for_daemon_height_change(self):
        await self.node_changed.wait()

    async def wait_for_db_height_change(self):
        await self.db_changed.wait()


def pay(api, source=None, script=BOB, *, value=None, fee=100, witness_bytes=0):
    """Add a transaction to the node that spends source, or a new confirmed output of Alice."""
    source = source or api.add_utxo(ALICE, 10_000)
    outputs = [(script, source[3] - fee if value is None else value)]
    tx = ModelTx([source], outputs, witness_bytes)
    api.add(tx)
    return tx


def hold(state, *txs):
    """Put ModelTxs into the maps of a MempoolState, as if they had been reported."""
    for tx in txs:
        state.index.add_tx(tx.hash, tx.indexed(), set())


@asynccontextmanager
async def running(coro):
    """A task that has begun, for as long as the block lasts; its failure is raised at the end."""
    task = asyncio.ensure_future(coro)
    try:
        await asyncio.sleep(0)
        yield task
    finally:
        failure = task.exception() if task.done() else None
        task.cancel()
        await asyncio.wait([task])
        if failure:
            raise failure


@asynccontextmanager
async def synchronizing(coin, api, **kwargs):
    """A MemPool that is kept synchronised, refreshing only when triggered unless set otherwise.

    So it does not ask the node by itself some time after a block either.

    Its event (attribute `event` of the mempool, for tests) is the synchronised event.
    """
    settings = {"refresh_secs": 3600, "log_status_secs": 3600, "settle_secs": 3600, **kwargs}
    mempool = MemPool(coin, api, **settings)
    mempool.event = asyncio.Event()
    async with running(mempool.keep_synchronized(mempool.event)):
        yield mempool


async def first_refresh(api):
    """Wait for the next report, which at first is that of a refresh; return (touched, height)."""
    return await asyncio.wait_for(api.refreshes.get(), WAIT_SECS)


async def refreshed(api):
    """Trigger a refresh and wait for it; return (touched, height)."""
    api.trigger()
    return await first_refresh(api)


async def told_of_block(api):
    """Announce a block and wait for its report; return (touched, height)."""
    api.announce_block()
    return await first_refresh(api)


async def notified(api):
    """Return the hashXs of the next report, which is of the database's height."""
    touched, height = await first_refresh(api)
    assert height == api.database_height
    return touched


async def eventually(condition):
    """Wait until condition() is true."""

    async def poll():
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), WAIT_SECS)


async def applied(mempool):
    """Wait until all reports have been applied."""
    await eventually(lambda: not mempool.arrivals.event.is_set())
    # The next batch is taken only when this one is done.
    mempool.left(bytes(32))
    await eventually(lambda: not mempool.arrivals.event.is_set())


async def check_answers(mempool, accepted):
    """Compare the replies with those of the accepted ModelTxs; hash -> tx."""
    index = mempool.index
    by_hashX = {hashX: [] for hashX in list(mempool.hashXs)}
    for tx in accepted.values():
        for hashX in tx.hashXs():
            by_hashX.setdefault(hashX, []).append(tx)
    for tx_hash in list(mempool.txs):
        assert index.has_tx(tx_hash) == (tx_hash in accepted)
    for hashX, txs in by_hashX.items():
        assert index.has(hashX) == bool(txs)
        delta = 0
        spends = set()
        summaries = []
        utxos = set()
        for tx in txs:
            delta += sum(v for script, v in tx.outputs if hashX_of(script) == hashX)
            delta -= sum(v for _hash, _idx, h, v in tx.inputs if h == hashX)
            spends |= {(prev_hash, idx) for prev_hash, idx, *_ in tx.inputs}
            unconfirmed = any(prev_hash in accepted for prev_hash, *_ in tx.inputs)
            summaries.append((unconfirmed, tx.hex_hash, tx.hash, tx.fee))
            for n, (script, value) in enumerate(tx.outputs):
                if hashX_of(script) == hashX:
                    utxos.add((-1, n, tx.hash, 0, value))
        assert await mempool.balance_delta(hashX) == delta
        assert await mempool.potential_spends(hashX) == spends
        got = await mempool.transaction_summaries(hashX)
        assert [(s.hash, s.fee, s.has_unconfirmed_inputs) for s in got] == [
            (tx_hash, fee, unconfirmed) for unconfirmed, _hex, tx_hash, fee in sorted(summaries)
        ]
        got_utxos = await mempool.unordered_UTXOs(hashX)
        assert len(got_utxos) == len(utxos)
        assert {tuple(utxo) for utxo in got_utxos} == utxos


async def check_against_model(mempool, accepted):
    """Compare all queries with those of the accepted ModelTxs; hash -> tx.

    What a block made go is no answer any more, but may still have to be removed from the maps.
    """
    await check_answers(mempool, accepted)
    while mempool.index.leaving:
        await asyncio.sleep(0)
    assert set(mempool.txs) == set(accepted)
    by_hashX = {}
    for tx in accepted.values():
        for hashX in tx.hashXs():
            by_hashX.setdefault(hashX, []).append(tx)
    assert {hashX: {tx.hash for tx in txs} for hashX, txs in by_hashX.items()} == mempool.hashXs

    await check_answers(mempool, accepted)
    spenders = {i[:2]: tx.hash for tx in accepted.values() for i in tx.inputs}
    assert mempool.index.spenders == spenders
    for tx_hash, tx in accepted.items():
        assert mempool.txs[tx_hash].size == tx.size
        assert mempool.txs[tx_hash].fee == tx.fee
