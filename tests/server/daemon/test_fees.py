"""FeeQueries: estimates, the relay fee, and the fees that the mempool demands."""

import pytest

from electrumx.server.daemon.fees import FeeQueries
from electrumx.server.daemon.method_calls import MethodCalls
from electrumx.server.daemon.responses import DaemonError, ForbiddenCallError
from tests.server.daemon.scripted_rpc import METHOD_NOT_FOUND, ScriptedRPC, error


def fees_of(rpc=None, *, network=None, mempool=None):
    """FeeQueries over answers: a dict, or an exception."""

    def giving(answer):
        async def give():
            if isinstance(answer, Exception):
                raise answer
            return answer or {}

        return give

    calls = MethodCalls(rpc or ScriptedRPC())
    return FeeQueries(calls, network_info=giving(network), mempool_info=giving(mempool))


async def constant():
    return 7e-6


async def test_the_smart_estimate_is_used_where_the_node_has_it():
    rpc = ScriptedRPC(estimatesmartfee=lambda *params: {"feerate": len(params) / 10})
    fees = fees_of(rpc)

    assert await fees.estimate(2) == 0.1
    assert await fees.estimate(2, "ECONOMICAL") == 0.2
    assert rpc.asked[1:] == [("estimatesmartfee", (2,)), ("estimatesmartfee", (2, "ECONOMICAL"))]


async def test_the_old_estimate_is_used_else():
    rpc = ScriptedRPC(estimatefee=lambda *_params: 0.5)
    assert await fees_of(rpc).estimate(2) == 0.5


@pytest.mark.parametrize(
    "answer", [METHOD_NOT_FOUND, ForbiddenCallError({"code": 403, "message": "no"})]
)
async def test_a_node_without_any_estimate_has_none(answer):
    assert await fees_of(ScriptedRPC(estimatefee=answer)).estimate(2) == -1


async def test_an_estimate_without_a_rate_is_none():
    assert await fees_of(ScriptedRPC(estimatesmartfee={"errors": ["too little data"]})).estimate(
        2
    ) == (-1)


@pytest.mark.parametrize("rate", ["1", None, True, [], 1e16])
async def test_a_fee_that_is_no_number_is_an_error(rate):
    for rpc in (ScriptedRPC(estimatesmartfee={"feerate": rate}), ScriptedRPC(estimatefee=rate)):
        with pytest.raises(DaemonError, match="makes no sense"):
            await fees_of(rpc).estimate(2)
    with pytest.raises(DaemonError, match="getnetworkinfo makes no sense"):
        await fees_of(network={"relayfee": rate}).relay()


async def test_the_relay_fee_is_that_of_the_network_info():
    assert await fees_of(network={"relayfee": 3e-6}).relay() == 3e-6


async def test_the_fees_of_the_mempool_are_as_stated():
    stated = {"mempoolminfee": 3e-6, "minrelaytxfee": 2e-6, "incrementalrelayfee": 1e-6}
    assert await fees_of(mempool=stated | {"size": 5}).of_mempool(constant) == stated


async def test_fees_that_are_not_stated_follow_from_the_relay_fee_that_is_given():
    same = {"mempoolminfee": 7e-6, "minrelaytxfee": 7e-6, "incrementalrelayfee": 7e-6}
    for mempool in (METHOD_NOT_FOUND, {}, {"minrelaytxfee": -1, "mempoolminfee": True}):
        assert await fees_of(mempool=mempool).of_mempool(constant) == same
    increment = await fees_of(network={"incrementalfee": 2e-6}).of_mempool(constant)
    assert increment == same | {"incrementalrelayfee": 2e-6}


async def test_another_error_of_the_mempool_info_is_raised():
    with pytest.raises(DaemonError, match="broken"):
        await fees_of(mempool=error(-1, "broken")).of_mempool(constant)
