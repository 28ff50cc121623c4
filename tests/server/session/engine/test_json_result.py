"""Handlers are coroutines or plain functions, and answer with JSON values or JSON text."""

import asyncio
import json

import pytest

from electrumx.server.session import ElectrumX
from electrumx.server.session.engine.json_result import EncodedJSON, encode_result
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import bad_request
from tests.fakes.session_world import FakeCoin, session_world, until

VALUE = {"a": [1, 2.5, None, "null", "ü\u2028"], "b": {}}


class Handlers(ElectrumX):
    gate = None

    @rpc_method("at.once")
    def at_once(self, value=VALUE):
        self.bump_cost(7)
        return value

    @rpc_method("later")
    def later(self, wait):
        if not wait:
            return "at once"
        return self._waited()

    async def _waited(self):
        await asyncio.sleep(0)
        return "later"

    @rpc_method("encoded")
    def encoded(self, size=0):
        return EncodedJSON(b'"' + b"x" * size + b'"') if size else encode_result(VALUE)

    @rpc_method("encoded.coroutine")
    async def encoded_coroutine(self):
        return encode_result(VALUE)

    @rpc_method("refuses")
    def refuses(self):
        raise bad_request("no", cost=50)

    @rpc_method("fails")
    def fails(self):
        raise KeyError("oops")


class Coin(FakeCoin):
    SESSIONCLS = Handlers


@pytest.fixture
async def world():
    async with session_world(coin=Coin, cost_hard_limit=0, bw_unit_cost=10**15) as world:
        yield world


async def test_a_plain_function_answers(world, client):
    assert VALUE == await client.request("at.once")
    assert pytest.approx(12, abs=0.3) == world.session().cost
    assert world.manager.method_counts["at.once"] == 1
    assert 5 == await client.request("at.once", value=5)
    assert (-32602, "2 arguments passed to method at.once taking at most 1") == await client.error(
        "at.once", 1, 2
    )


async def test_a_plain_function_may_return_a_coroutine_when_it_has_to_wait(client):
    assert "at once" == await client.request("later", False)
    assert "later" == await client.request("later", True)


async def test_the_errors_of_plain_functions_are_the_clients(world, client, caplog):
    assert (1, "no") == await client.error("refuses")
    await until(lambda: world.session().errors == 1)
    assert pytest.approx(155, abs=0.3) == world.session().cost
    assert (-32603, "internal server error") == await client.error("fails")
    assert "KeyError" in caplog.text


@pytest.mark.parametrize("version", ["2.0", "1.0", None])
@pytest.mark.parametrize("method", ["encoded", "encoded.coroutine"])
async def test_an_encoded_result_reads_like_its_value(client, version, method):
    request = {"method": method, "params": [], "id": "null"}
    if version:
        request["jsonrpc"] = version
    await client.send(request)
    encoded = await client.recv()
    await client.send({**request, "method": "at.once"})
    assert await client.recv() == encoded
    assert VALUE == encoded["result"]


async def test_an_encoded_result_stands_in_a_batch(client):
    names = ["encoded", "at.once", "encoded.coroutine", "nonsense"]
    await client.send([{"method": name, "id": n} for n, name in enumerate(names)])
    replies = {reply["id"]: reply for reply in await client.recv()}
    assert [VALUE] * 3 == [replies[n]["result"] for n in range(3)]
    assert "error" in replies[3]


async def test_an_encoded_result_is_bound_in_size_like_others(client):
    expected = (-32600, "response too large (over 1,000,000 bytes")
    assert expected == await client.error("encoded", 1_000_000)
    request = {"jsonrpc": "2.0", "method": "encoded", "params": [400_000]}
    await client.send([{**request, "id": n} for n in range(4)])
    reply = await client.recv()
    assert ["result", "result", "error", "error"] == [
        "result" if "result" in item else "error" for item in reply
    ]


def test_a_value_without_a_form_in_json_is_not_encoded():
    with pytest.raises(TypeError):
        encode_result({"a": b"bytes"})
    assert VALUE == json.loads(encode_result(VALUE))
