"""The tip that clients see while the index is built for the first time."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from electrumx.lib.coins import Coin, CoinError
from electrumx.server.daemon.client import DaemonError
from electrumx.server.session import early_service
from electrumx.server.session.early_service import CommittedTip, HeaderService
from electrumx.server.session.notify.announced_header import AnnouncedHeader
from electrumx.server.session.shared.serving_stage import ServingStage
from electrumx.server.session.shared.tip_consistency import TipConsistency
from electrumx.server.storage.schema import DBError
from tests.fakes.chain import GENESIS, GENESIS_HEADER, ChainMaker

COIN = Coin.lookup_coin_class("Bitcoin", "regtest")


def committed(height, tip=b""):
    return SimpleNamespace(height=height, tip=tip or bytes([height + 1]) * 32)


class ChainDB:
    """The committed state and headers of a chain, and a fault of reading them."""

    def __init__(self):
        self.state = committed(-1, bytes(32))
        self.fault = None
        self.before_read = lambda: None

    @property
    def db_height(self):
        return self.state.height

    async def raw_header(self, height):
        self.before_read()
        if self.fault:
            raise self.fault
        return b"header %d" % height


class Node:
    def __init__(self, block=GENESIS, failures=0):
        self.block = block
        self.failures = failures

    async def block_hex_hashes(self, first, count):
        assert (first, count) == (0, 1)
        if self.failures:
            self.failures -= 1
            raise DaemonError({"code": -28, "message": "Loading block index"})
        return ["00" * 32]

    async def raw_blocks(self, hex_hashes):
        return [self.block]


class FanOut:
    def __init__(self):
        self.rounds = []

    async def notify(self, touched, height_changed):
        self.rounds.append((touched, height_changed))


def make(node=None):
    db = ChainDB()
    processor = SimpleNamespace(state=committed(-1), forks=[])
    shared = SimpleNamespace(
        db=db,
        daemon=node or Node(),
        env=SimpleNamespace(coin=COIN),
        stage=ServingStage(),
        tip=TipConsistency(processor, db),
        header=AnnouncedHeader(),
        fan_out=FanOut(),
        processor=processor,
    )
    return HeaderService(shared, logging.getLogger("early")), shared


async def test_without_a_committed_block_the_tip_is_the_first_of_the_chain():
    service, shared = make()
    await service.begin()
    assert shared.header.result == {"height": 0, "hex": GENESIS_HEADER.hex()}
    assert shared.stage.genesis_header == GENESIS_HEADER
    # No height is known to clients: none is in the database.
    assert shared.tip.notified_height == -1
    assert not shared.tip.is_height_known(0)


async def test_the_node_is_asked_again_for_the_first_block(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(early_service, "RETRY_SECS", 0)
    service, shared = make(Node(failures=2))
    await service.begin()
    assert shared.header.result["height"] == 0
    assert caplog.text.count("Loading block index") == 2


async def test_the_first_block_of_another_network_ends_the_server():
    maker = ChainMaker()
    other = maker.blocks[maker.extend(maker.genesis_hash)][0]
    service, _shared = make(Node(other))
    with pytest.raises(CoinError, match="genesis"):
        await service.begin()


async def test_each_committed_tip_is_announced_once(monkeypatch):
    monkeypatch.setattr(early_service, "CHECK_SECS", 0.001)
    service, shared = make()
    await service.begin()
    caught_up = asyncio.Event()
    running = asyncio.ensure_future(service.run(caught_up))
    for height in (3, 7):
        shared.db.state = committed(height)
        shared.processor.forks.append(1)
        while shared.header.result["height"] != height:
            await asyncio.sleep(0.001)
        assert shared.header.result["hex"] == (b"header %d" % height).hex()
        assert shared.tip.is_tip_known()
        assert shared.tip.is_block_known(10**6)
        assert shared.stage.genesis_header is None
    await asyncio.sleep(0.01)
    assert shared.fan_out.rounds == [(set(), True)] * 3
    # The last one is announced before the end, too.
    shared.db.state = committed(9)
    caught_up.set()
    await running
    assert shared.header.result["height"] == 9


@pytest.mark.parametrize("fault", [DBError("closed"), IndexError("out of range")])
async def test_a_header_that_cannot_be_read_is_read_again(fault):
    service, shared = make()
    await service.begin()
    shared.db.state, shared.db.fault = committed(5), fault
    caught_up = asyncio.Event()
    caught_up.set()
    await service.announce()
    assert shared.header.result["height"] == 0
    shared.db.fault = None
    await service.announce()
    assert shared.header.result == {"height": 5, "hex": b"header 5".hex()}


async def test_a_tip_that_moves_while_its_header_is_read_is_not_announced():
    service, shared = make()
    await service.begin()
    shared.db.state = committed(5)

    def move():
        shared.db.before_read = lambda: None
        shared.db.state = committed(4)

    shared.db.before_read = move
    await service.announce()
    assert shared.header.result["height"] == 0
    await service.announce()
    assert shared.header.result["height"] == 4


def test_the_committed_tip_takes_the_place_of_the_processors():
    _service, shared = make()
    shared.db.state = committed(5)
    shared.tip.notified(5, shared.db.state.tip)
    shared.processor.state = committed(8)
    assert not shared.tip.is_tip_stable()
    shared.tip.compare_with(CommittedTip(shared.db, shared.processor.forks))
    assert shared.tip.is_tip_stable()
    shared.processor.forks.append(3)
    assert shared.tip.reorgs() == 1
    assert not shared.tip.is_block_known(4)
    shared.db.state = committed(6)
    assert not shared.tip.is_tip_stable()
    shared.tip.compare_with(shared.processor)
    assert not shared.tip.is_tip_stable()
