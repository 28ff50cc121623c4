"""Nodes of other coins, each against a scripted node that behaves as they do."""

import pytest

from electrumx.lib.coins import Coin
from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server import daemon as daemon_package
from electrumx.server.daemon import variants as daemon_variants
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.variants import (
    DashDaemon,
    DecredDaemon,
    FakeEstimateFeeDaemon,
    FakeEstimateLegacyRPCDaemon,
    LegacyRPCDaemon,
    PreLegacyRPCDaemon,
    SmartCashDaemon,
    ZcoinMtpDaemon,
)
from tests.fakes.chain import ChainMaker
from tests.fakes.fake_node import FakeNode, RPCFault
from tests.fakes.formats import Decred
from tests.fakes.time_formats import ProofOfStake

COIN = Coin.lookup_coin_class("Bitcoin", "regtest")


@pytest.fixture
async def node():
    async with FakeNode(parse_txs=False) as fake_node:
        yield fake_node


def make(cls, node, coin=COIN):
    return cls(coin, node.url, init_retry=0.002, max_retry=0.01)


def test_the_package_exports_the_daemons_by_their_public_names():
    for name in daemon_variants.__all__:
        assert getattr(daemon_package, name) is getattr(daemon_variants, name)


def test_coins_name_their_nodes():
    expected = {
        "Dash": DashDaemon,
        "SmartCash": SmartCashDaemon,
        "Zcoin": ZcoinMtpDaemon,
        "Peercoin": FakeEstimateFeeDaemon,
        "Primecoin": FakeEstimateFeeDaemon,
        "TokenPay": LegacyRPCDaemon,
        "EXOS": PreLegacyRPCDaemon,
        "GravityZeroCoin": FakeEstimateLegacyRPCDaemon,
        "Decred": DecredDaemon,
        "Neblio": Daemon,
    }
    for name, daemon in expected.items():
        assert daemon is Coin.lookup_coin_class(name, "mainnet").DAEMON


@pytest.mark.parametrize(
    ("cls", "broadcast", "listing"),
    [
        (DashDaemon, "masternodebroadcast", "masternodelist"),
        (SmartCashDaemon, "smartnodebroadcast", "smartnodelist"),
        (ZcoinMtpDaemon, "znodebroadcast", "znodelist"),
    ],
)
async def test_masternode_calls_have_the_coins_names(node, cls, broadcast, listing):
    for method in (broadcast, listing, "protx", "smartrewards"):
        node.overrides[method] = lambda *params: list(params)
    async with make(cls, node) as daemon:
        assert ["relay", "x"] == await daemon.masternode_broadcast(["relay", "x"])
        assert ["full"] == await daemon.masternode_list(["full"])
        assert ["diff", 1, 2] == await daemon.protx(("diff", 1, 2))
    assert [broadcast, listing, "protx"] == [method for method, _params in node.calls]
    if cls is SmartCashDaemon:
        async with make(cls, node) as daemon:
            assert ["current"] == await daemon.smartrewards(["current"])


@pytest.mark.parametrize("cls", [FakeEstimateFeeDaemon, FakeEstimateLegacyRPCDaemon])
async def test_fees_are_the_coins_constants_in_any_mode(node, cls):
    class Constant(COIN):
        NET = "gone"
        ESTIMATE_FEE = 0.5
        RELAY_FEE = 0.25

    async with make(cls, node, Constant) as daemon:
        assert 0.5 == await daemon.estimatefee(5)
        assert 0.5 == await daemon.estimatefee(5, "CONSERVATIVE")
        assert 0.25 == await daemon.relayfee()
    assert [] == node.calls


@pytest.mark.parametrize(
    "name", ["Peercoin", "Denarius", "CanadaeCoin", "Primecoin", "GravityZeroCoin"]
)
def test_coins_with_constant_fees_have_both(name):
    coin = Coin.lookup_coin_class(name, "mainnet")
    assert coin.ESTIMATE_FEE > 0
    assert coin.RELAY_FEE > 0


# -- Zcoin


async def test_proofs_of_merkle_trees_are_cut_out(node):
    head = (0x20001000).to_bytes(4, "little") + b"h" * 176
    plain = (2).to_bytes(4, "little") + b"h" * 76 + b"\0"
    blocks = [plain, head + bytes(198_864) + b"\1rest", b"\0\0"]
    node.overrides["getblock"] = lambda n, _verbose: blocks[int(n)].hex()
    async with make(ZcoinMtpDaemon, node) as daemon:
        assert [plain, head + b"\1rest", b"\0\0"] == await daemon.raw_blocks(["0", "1", "2"])


# -- nodes without raw blocks


class LegacyNode:
    """Answers as an old node: blocks only as JSON."""

    def __init__(self, node, text_time=False):
        chain = ChainMaker(format=ProofOfStake(1))
        raws = chain.chain(chain.grow(chain.genesis_hash, 3))
        self.raws, self.blocks, self.txs = [], {}, {}
        for height, raw in enumerate(raws):
            block = chain.coin.block(raw, height)
            header = block.header
            number = [int.from_bytes(header[n : n + 4], "little") for n in (0, 68, 72, 76)]
            block_hash = hash_to_hex_str(chain.format.hash_of(raw, height))
            txids = [hash_to_hex_str(tx_hash) for _tx, tx_hash in block.transactions]
            self.txs.update(zip(txids, (tx for tx, _ in block.transactions), strict=True))
            self.blocks[block_hash] = {
                "height": height,
                "version": number[0],
                "previousblockhash": hash_to_hex_str(header[4:36]),
                "merkleroot": hash_to_hex_str(header[36:68]),
                "time": "2014-05-13 16:53:20 UTC" if text_time else number[1],
                "bits": f"{number[2]:08x}",
                "nonce": number[3],
                "tx": txids if height else ["a coinbase that is not asked for"],
            }
            # The signature behind the transactions cannot be had, and is of no use.
            size = len(header) + 1 + sum(len(tx.serialize()) for tx, _ in block.transactions)
            self.raws.append(raw[:size])
        del next(iter(self.blocks.values()))["previousblockhash"]
        node.overrides["getblock"] = self.getblock
        node.overrides["getrawtransaction"] = self.getrawtransaction

    def getblock(self, hex_hash, *_verbose):
        return self.blocks[hex_hash]

    def getrawtransaction(self, txid, _verbose):
        if txid not in self.txs:
            raise RPCFault(-5, "No information")
        return self.txs[txid].serialize().hex()


@pytest.mark.parametrize("text_time", [False, True])
async def test_raw_blocks_are_assembled_from_json(node, text_time):
    legacy = LegacyNode(node, text_time)
    async with make(LegacyRPCDaemon, node) as daemon:
        assert legacy.raws == await daemon.raw_blocks(list(legacy.blocks))
        assert [] == await daemon.raw_blocks([])
        block_hash = next(iter(legacy.blocks))
        assert 0 == (await daemon.deserialised_block(block_hash))["height"]


async def test_a_node_that_gives_blocks_as_json_is_not_asked_for_any_over_rest():
    chain = ChainMaker()
    async with FakeNode(chain.chain(chain.genesis_hash)) as node:
        node.rest = 1000
        async with make(LegacyRPCDaemon, node) as daemon:
            await daemon.check_at_start()
            assert node.rest_paths == []
            assert not daemon.has_rest()
        async with make(Daemon, node) as daemon:
            await daemon.check_at_start()
            assert len(node.rest_paths) == 1


async def test_a_missing_transaction_is_an_error(node):
    legacy = LegacyNode(node)
    legacy.txs.popitem()
    async with make(LegacyRPCDaemon, node) as daemon:
        with pytest.raises(DaemonError):
            await daemon.raw_blocks(list(legacy.blocks))


@pytest.mark.parametrize(
    "change",
    [
        {"time": "yesterday"},
        {"time": None},
        {"bits": "xyz"},
        {"nonce": 2**32},
        {"version": "1"},
        {"merkleroot": 5},
        {"merkleroot": None},
        {"height": None},
        {"tx": [5]},
        {"tx": None},
    ],
)
async def test_blocks_that_make_no_sense_are_daemon_errors(node, change):
    legacy = LegacyNode(node)
    block_hash, block = list(legacy.blocks.items())[1]
    block.update(change)
    async with make(LegacyRPCDaemon, node) as daemon:
        with pytest.raises(DaemonError):
            await daemon.raw_blocks([block_hash])


async def test_older_nodes_take_the_second_parameter_otherwise(node):
    seen = []
    node.overrides["getblock"] = lambda *params: seen.append(params) or {}
    async with make(PreLegacyRPCDaemon, node) as daemon:
        await daemon.deserialised_block("aa")
    assert [("aa", False)] == seen


# -- Decred


class DecredNode:
    """A chain whose blocks approve of the one before, but for some."""

    def __init__(self, node, disapproved=()):
        decred = Decred(7)
        plain_header = decred.header

        def header(prev_hash, root, height):
            raw = bytearray(plain_header(prev_hash, root, height))
            raw[100] = 0 if height - 1 in disapproved else 1
            return bytes(raw)

        decred.header = header
        self.chain = ChainMaker(format=decred)
        self.raws = self.chain.chain(self.chain.grow(self.chain.genesis_hash, 8))
        self.hashes = [
            hash_to_hex_str(self.chain.format.hash_of(raw, height))
            for height, raw in enumerate(self.raws)
        ]
        node.overrides.update(
            getblockcount=lambda: len(self.raws) - 1,
            getblockhash=lambda height: self.hashes[height],
            getblock=self.getblock,
            getblockheader=self.getblockheader,
            getrawmempool=lambda: ["aa"],
        )

    def getblock(self, hex_hash, verbose):
        height = self.hashes.index(hex_hash)
        if not verbose:
            return self.raws[height].hex()
        block = self.chain.coin.block(self.raws[height], height)
        txids = [hash_to_hex_str(tx_hash) for _tx, tx_hash in block.transactions]
        return {"tx": txids[:-1], "stx": txids[-1:]} if len(txids) > 1 else {"tx": txids}

    def getblockheader(self, hex_hash, _verbose):
        height = self.hashes.index(hex_hash)
        votes = int.from_bytes(self.raws[height][100:102], "little")
        result = {"votebits": votes}
        if height + 1 < len(self.raws):
            result["nextblockhash"] = self.hashes[height + 1]
        return result


async def test_decreds_height_is_one_less(node):
    decred = DecredNode(node)
    async with make(DecredDaemon, node) as daemon:
        assert 7 == await daemon.height() == daemon.cached_height()
        del decred.raws[1:]
        assert 0 == await daemon.height()


async def test_transactions_of_disapproved_blocks_are_left_out(node):
    decred = DecredNode(node, disapproved=(3, 6))
    async with make(DecredDaemon, node) as daemon:
        for first, last in ((1, 8), (3, 4), (4, 7), (6, 7)):
            raws = await daemon.raw_blocks(decred.hashes[first:last])
            for height, raw in enumerate(raws, start=first):
                parsed = decred.chain.coin.block(raw, height)
                original = decred.chain.coin.block(decred.raws[height], height)
                assert original.header == parsed.header
                if height in (3, 6):
                    assert raw[180:181] == b"\0"
                    assert decred.raws[height].endswith(raw[181:])
                    kept = len(parsed.transactions)
                    assert kept < len(original.transactions)
                    assert parsed.transactions == original.transactions[-kept or len(raw) :]
                else:
                    assert raw == decred.raws[height]


async def test_the_last_block_has_no_votes_yet(node):
    decred = DecredNode(node)
    async with make(DecredDaemon, node) as daemon:
        with pytest.raises(DaemonError) as info:
            await daemon.raw_blocks(decred.hashes[-1:])
    assert info.value.args[0]["message"] == f"Could not find next block for {decred.hashes[-1]}"


async def test_transactions_of_the_last_block_count_as_unconfirmed(node):
    decred = DecredNode(node)
    tip = decred.chain.coin.block(decred.raws[-1], 8)
    txids = [hash_to_hex_str(tx_hash) for _tx, tx_hash in tip.transactions]
    async with make(DecredDaemon, node) as daemon:
        assert ["aa", *txids[1:]] == await daemon.mempool_hashes()


async def test_blocks_that_are_cut_short_are_daemon_errors(node):
    decred = DecredNode(node, disapproved=(3,))
    decred.raws[3] = decred.raws[3][:190]
    async with make(DecredDaemon, node) as daemon:
        with pytest.raises(DaemonError):
            await daemon.raw_blocks(decred.hashes[3:5])
        decred.raws[3] = decred.raws[3][:100]
        with pytest.raises(DaemonError):
            await daemon.raw_blocks(decred.hashes[3:5])
    with pytest.raises(DeserializeError):
        decred.chain.coin.block(decred.raws[3], 3)


async def test_decreds_certificates_are_not_verified(node):
    async with make(DecredDaemon, node) as daemon:
        connector = daemon.connector()
        assert connector._ssl is False
        await connector.close()
