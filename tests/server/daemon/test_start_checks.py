"""StartChecks: which node is used, and the reason why one is not."""

import logging

import pytest

from electrumx.lib.coins import Coin
from electrumx.lib.errors import OperatorError
from electrumx.server.daemon.responses import DaemonError, ForbiddenCallError
from electrumx.server.daemon.start_checks import StartChecks
from tests.server.daemon.scripted_rpc import METHOD_NOT_FOUND, ScriptedRPC, error

COIN = Coin.lookup_coin_class("Bitcoin", "regtest")
FIRST, SECOND = "http://node-1/", "http://node-2/"
GOOD = {
    "getblockcount": 0,
    "getblockhash": COIN.GENESIS_HASH,
    "getnetworkinfo": {"version": 310000},
    "getindexinfo": {"txindex": {"synced": True}},
}


class Demanding(COIN):
    MIN_REQUIRED_DAEMON_VERSION = "28.0"


class Calls:
    """The calls to the node in use, as the class of a coin has them."""

    def __init__(self, rpc):
        self._rpc = rpc

    async def height(self):
        return await self._rpc.send_single("getblockcount")

    async def block_hex_hashes(self, first, _count):
        return [await self._rpc.send_single("getblockhash", (first,))]

    async def getnetworkinfo(self):
        return await self._rpc.send_single("getnetworkinfo")

    async def getindexinfo(self):
        return await self._rpc.send_single("getindexinfo")


def checks_of(rpc, coin=COIN):
    return StartChecks(coin, rpc, Calls(rpc), logging.getLogger("test"))


async def test_a_node_that_fits_is_used():
    rpc = ScriptedRPC(**GOOD)
    await checks_of(rpc).find_node()

    assert rpc.started
    assert [method for method, _params in rpc.asked] == [
        "getblockcount",
        "getblockhash",
        "getindexinfo",
    ]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"getblockcount": METHOD_NOT_FOUND}, "does not answer as a node should"),
        ({"getblockhash": "ab" * 32}, "follows another chain"),
        ({"getnetworkinfo": {"version": 270_000}}, "at least 28.0 is needed"),
        ({"getnetworkinfo": {}}, "getnetworkinfo makes no sense"),
        ({"getindexinfo": {}}, "txindex=1"),
        ({"getindexinfo": error(-1, "broken")}, "broken"),
    ],
)
async def test_the_only_node_that_does_not_fit_ends_the_start_with_the_reason(answers, reason):
    rpc = ScriptedRPC(**GOOD | answers)
    with pytest.raises(OperatorError, match=reason):
        await checks_of(rpc, Demanding).find_node()

    assert not rpc.started
    assert list(rpc.left_out) == [FIRST]


async def test_the_next_node_is_tried_where_there_are_several():
    rpc = ScriptedRPC(urls=[FIRST, SECOND], **GOOD)
    rpc.answers["getblockhash"] = lambda _n: "ab" * 32 if len(rpc.urls) > 1 else COIN.GENESIS_HASH
    await checks_of(rpc).find_node()

    assert rpc.started
    assert rpc.current_url() == SECOND
    assert "node-1/ follows another chain" in rpc.left_out[FIRST]


async def test_another_node_is_checked_by_its_url():
    rpc = ScriptedRPC(**GOOD)
    await checks_of(rpc, Demanding).check_node(SECOND)
    assert rpc.asked_at == [SECOND] * 3

    rpc.answers["getblockhash"] = "ab" * 32
    with pytest.raises(OperatorError, match="node-2/ follows another chain"):
        await checks_of(rpc).check_node(SECOND)
    rpc.answers["getblockhash"] = error(-1, "no such block")
    with pytest.raises(OperatorError, match=r"node-2/ does not answer .* \(.*no such block"):
        await checks_of(rpc).check_node(SECOND)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (METHOD_NOT_FOUND, "cannot list its indexes"),
        (ForbiddenCallError({"code": 403, "message": "no"}), "does not let us list its indexes"),
        ({"txindex": {"synced": False}}, "txindex is not complete"),
    ],
)
async def test_indexes_that_are_unknown_or_unfinished_are_logged(caplog, answer, text):
    caplog.set_level(logging.INFO)
    await checks_of(ScriptedRPC(getindexinfo=answer)).check_indexes()
    assert text in caplog.text


async def test_another_error_of_the_indexes_is_raised():
    with pytest.raises(DaemonError, match="broken"):
        await checks_of(ScriptedRPC(getindexinfo=error(-1, "broken"))).check_indexes()
