"""The node that tests and benchmarks share, at its connections."""

import asyncio
import json
from contextlib import suppress

import pytest

from tests.fakes.chain import ChainMaker
from tests.fakes.node import (
    INVALID_ADDRESS_OR_KEY,
    METHOD_NOT_FOUND,
    Node,
    RPCFault,
    double_sha256,
    encoded,
    to_hex,
)


class ListNode(Node):
    """A node that replies at once, over a list of blocks."""

    def __init__(self, raws):
        super().__init__()
        self.raws = raws
        self.mempool = {}
        self.noted = []

    @property
    def height(self):
        return len(self.raws) - 1

    def note_call(self, method, _params):
        self.noted.append(method)

    def _hash_at(self, height):
        return hash_of(self.raws[height])

    def find_block(self, hex_hash):
        for height, raw in enumerate(self.raws):
            if to_hex(hash_of(raw)) == hex_hash:
                return height, raw
        raise RPCFault(INVALID_ADDRESS_OR_KEY, "Block not found")

    def _raw(self, raw):
        return raw

    def _header(self, raw):
        return raw[:80]


def hash_of(raw):
    return double_sha256(raw[:80])


def chain(length=5):
    maker = ChainMaker(seed=2)
    return maker.chain(maker.grow(maker.genesis_hash, length))


@pytest.fixture
async def node():
    async with ListNode(chain()) as result:
        yield result


@pytest.fixture
async def connect(node):
    """A function that returns a new Client of the node."""
    writers = []

    async def connect():
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writers.append(writer)
        return Client(reader, writer)

    yield connect
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


class Client:
    """One connection to a node."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer

    def send(self, data):
        self._writer.write(data)

    def post(self, *requests):
        for request in requests:
            body = json.dumps(request).encode()
            self.send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def reply(self):
        """Return the status and the body of the next reply."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
        return int(head.split()[1]), await self._reader.readexactly(length)

    async def result(self):
        status, body = await self.reply()
        assert status == 200
        return json.loads(body)


def call(method, *params, id_=0):
    return {"id": id_, "method": method, "params": params}


async def test_requests_of_a_connection_are_answered_in_order_however_they_arrive(node, connect):
    client = await connect()
    client.post(call("getblockcount", id_=1), call("nothing", id_=2))
    client.send(b"GET /rest/nothing HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: ")
    client.send(b"4\r\n\r\n{nu")
    assert await client.result() == {"result": 5, "error": None, "id": 1}
    unknown = await client.result()
    assert (unknown["id"], unknown["error"]["code"]) == (2, METHOD_NOT_FOUND)
    assert (await client.reply())[0] == 404
    client.send(b"l")
    assert (await client.result())["error"]["code"] == -32700


async def test_a_batch_has_its_responses_in_order(node, connect):
    client = await connect()
    client.post([call("getblockhash", height, id_=height) for height in (3, 9, 0)])
    replies = await client.result()
    assert [reply["id"] for reply in replies] == [3, 9, 0]
    assert [reply["error"] is None for reply in replies] == [True, False, True]
    assert node.noted == ["getblockhash"] * 3


async def test_a_call_that_waits_is_answered_at_the_next_tip_or_after_its_time(node, connect):
    client, other = await connect(), await connect()
    client.post(call("waitfornewblock", 1))
    assert (await client.result())["result"]["height"] == 5
    other.post(call("waitfornewblock", 0))
    while not node.waiting:
        await asyncio.sleep(0)
    node.raws.append(chain(6)[-1])
    node.tip_changed()
    tip = {"hash": to_hex(hash_of(node.raws[6])), "height": 6}
    assert (await other.result())["result"] == tip
    assert node.waiting == 0


async def test_rest_has_blocks_and_headers(node, connect):
    client = await connect()
    hex_hash = to_hex(hash_of(node.raws[3]))
    for path, expected in (
        (f"block/{hex_hash}.bin", node.raws[3]),
        (f"headers/2/{hex_hash}.bin", node.raws[3][:80] + node.raws[4][:80]),
        (f"headers/9/{hex_hash}.bin", b"".join(raw[:80] for raw in node.raws[3:])),
    ):
        client.send(b"GET /rest/%b HTTP/1.1\r\n\r\n" % path.encode())
        assert await client.reply() == (200, expected)
    for path in (f"block/{'0' * 64}.bin", "block/x.bin", f"headers/x/{hex_hash}.bin", "tx/1"):
        client.send(b"GET /rest/%b HTTP/1.1\r\n\r\n" % path.encode())
        assert (await client.reply())[0] == 404


async def test_a_node_that_stopped_listens_again_at_its_port(node, connect):
    client, port = await connect(), node.port
    await node.stop()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.reply()
    with pytest.raises(ConnectionRefusedError):
        await connect()
    await node.start()
    assert node.port == port
    again = await connect()
    again.post(call("getblockcount"))
    assert (await again.result())["result"] == 5


def test_a_result_is_encoded_as_json_unless_it_is_already():
    assert encoded({"a": None}) == b'{"a": null}'
    assert encoded(b"[1]") == b"[1]"
