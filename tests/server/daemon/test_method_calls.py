"""MethodCalls: the form of replies, and which methods a node has."""

import pytest

from electrumx.server.daemon.method_calls import MethodCalls
from electrumx.server.daemon.responses import DaemonError, ForbiddenCallError
from tests.server.daemon.scripted_rpc import METHOD_NOT_FOUND, ScriptedRPC, error

FORBIDDEN = ForbiddenCallError({"code": 403, "message": "forbidden"})
HELP = error(-1, "help text")


async def test_an_object_is_demanded_where_one_is_documented():
    calls = MethodCalls(ScriptedRPC(getinfo={"a": 1}, getlist=[1], getnull=None))

    assert await calls.send_for_dict("getinfo") == {"a": 1}
    for method in ("getlist", "getnull"):
        with pytest.raises(DaemonError, match=f"{method} makes no sense"):
            await calls.send_for_dict(method)


async def test_every_result_of_a_batch_of_hex_must_be_hex():
    rpc = ScriptedRPC(get=lambda text: text)
    calls = MethodCalls(rpc)

    assert await calls.hex_batch("get", [("00ff",), ("",)]) == [b"\0\xff", b""]
    for bad in ("x", 5, None):
        with pytest.raises(DaemonError, match="get makes no sense"):
            await calls.hex_batch("get", [("00",), (bad,)])


@pytest.mark.parametrize(
    ("answer", "known"), [({"a": 1}, True), (HELP, True), (METHOD_NOT_FOUND, False)]
)
async def test_whether_a_node_has_a_method_is_asked_once_or_each_time(answer, known):
    rpc = ScriptedRPC(method=answer)
    calls = MethodCalls(rpc)

    assert [await calls.is_available("method") for _ in range(3)] == [known] * 3
    assert rpc.asked == [("method", ())]
    assert [await calls.knows("method") for _ in range(2)] == [known] * 2
    assert len(rpc.asked) == 3


async def test_a_method_that_is_not_allowed_may_be_allowed_later():
    rpc = ScriptedRPC(method=FORBIDDEN)
    calls = MethodCalls(rpc)
    assert not await calls.is_available("method")
    assert not await calls.knows("method")

    rpc.answers["method"] = HELP
    assert await calls.is_available("method")
    assert await calls.knows("method")


async def test_an_error_of_a_call_is_raised():
    calls = MethodCalls(ScriptedRPC(method=HELP))
    for call in (calls.send_single, calls.send_for_dict):
        with pytest.raises(DaemonError, match="help text"):
            await call("method")
