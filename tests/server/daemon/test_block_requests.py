"""BlockRequests: blocks over REST or as hex, their limits, and the form of a verbosity."""

import pytest

from electrumx.server.daemon.block_requests import BlockRequests
from electrumx.server.daemon.method_calls import MethodCalls
from electrumx.server.daemon.responses import BLOCK_BATCH_BYTES, DaemonError, ReplyTooLargeError
from electrumx.server.daemon.rest_connection import RestTooLargeError
from electrumx.server.daemon.spool import NoRoomError
from tests.server.daemon.scripted_rpc import METHOD_NOT_FOUND, ScriptedRPC, error

URL, OTHER_URL = "http://node-1/", "http://node-2/"
INVALID_PARAMS = error(-32602, "Invalid type provided")
BLOCKS = {"aa": b"\1\2\3", "bb": b"\4\5"}


class ScriptedRest:
    """Takes the place of RestBlocks: returns the answer, or raises it."""

    def __init__(self, answer=None, *, known=()):
        self.answer = answer
        self.known = known
        self.asked = []
        self.closed = False

    async def raw_blocks(self, url, hex_hashes, max_bytes):
        self.asked.append((url, hex_hashes, max_bytes))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def is_known(self, url):
        return url in self.known

    def close(self):
        self.closed = True


def requests_of(rpc, rest=None):
    return BlockRequests(rpc, MethodCalls(rpc), rest or ScriptedRest())


def getblock(hex_hash, verbosity):
    return {"tx": [], "verbosity": verbosity} if verbosity else BLOCKS[hex_hash].hex()


def getblock_by_number(hex_hash, verbosity):
    """As zebrad has it."""
    if isinstance(verbosity, bool):
        raise INVALID_PARAMS
    return getblock(hex_hash, verbosity)


# -- Hashes


async def test_hashes_are_requested_by_height_in_one_request():
    rpc = ScriptedRPC(getblockhash=lambda height: f"hash{height}")

    assert await requests_of(rpc).block_hex_hashes(7, 3) == ["hash7", "hash8", "hash9"]
    assert rpc.request_sizes == [3]
    assert await requests_of(rpc).block_hex_hashes(7, 0) == []


@pytest.mark.parametrize("answer", [7, None, ["aa"]])
async def test_a_hash_that_is_no_text_is_an_error(answer):
    with pytest.raises(DaemonError, match="getblockhash makes no sense"):
        await requests_of(ScriptedRPC(getblockhash=answer)).block_hex_hashes(0, 1)


# -- REST or JSON-RPC


@pytest.mark.parametrize(
    ("hex_hashes", "max_bytes"),
    [(["aa"], BlockRequests.MAX_REST_BLOCK), (["aa", "bb"], BLOCK_BATCH_BYTES)],
)
async def test_blocks_come_over_rest_from_a_node_that_has_it(hex_hashes, max_bytes):
    rpc, rest = ScriptedRPC(rest=True), ScriptedRest([b"block"])

    assert await requests_of(rpc, rest).raw_blocks(iter(hex_hashes)) == [b"block"]
    assert rest.asked == [(URL, hex_hashes, max_bytes)]
    assert rpc.asked == []


async def test_blocks_come_as_hex_where_rest_does_not_have_them():
    rpc, rest = ScriptedRPC(rest=True, getblock=getblock), ScriptedRest(None)

    assert await requests_of(rpc, rest).raw_blocks(["bb", "aa"]) == [BLOCKS["bb"], BLOCKS["aa"]]
    assert len(rest.asked) == 1
    assert rpc.request_sizes == [2]


async def test_a_session_that_was_replaced_is_asked_for_hex_only():
    rpc, rest = ScriptedRPC(rest=False, getblock=getblock), ScriptedRest([b"block"])
    requests = requests_of(rpc, rest)

    assert await requests.raw_blocks(["aa"]) == [BLOCKS["aa"]]
    await requests.try_rest("aa")
    assert rest.asked == []


async def test_no_block_takes_no_request():
    rpc, rest = ScriptedRPC(rest=True), ScriptedRest([b"block"])

    assert await requests_of(rpc, rest).raw_blocks([]) == []
    assert rpc.asked == rest.asked == []


async def test_a_node_has_rest_if_its_url_has_shown_it():
    rpc = ScriptedRPC(urls=[URL, OTHER_URL], rest=True)
    requests = requests_of(rpc, ScriptedRest(known={OTHER_URL}))

    assert not requests.has_rest()
    rpc.urls.remove(URL)
    assert requests.has_rest()


@pytest.mark.parametrize("answer", [[b"block"], None, RestTooLargeError(5)])
async def test_rest_is_tried_by_a_small_read_of_the_genesis_block(answer):
    rest = ScriptedRest(answer)
    await requests_of(ScriptedRPC(rest=True), rest).try_rest("aa")

    assert rest.asked == [(URL, ["aa"], BLOCK_BATCH_BYTES)]


def test_closing_closes_the_connections_of_rest():
    rest = ScriptedRest()
    requests_of(ScriptedRPC(), rest).close()

    assert rest.closed


# -- Blocks that are too large


@pytest.mark.parametrize(
    ("hex_hashes", "failure", "text"),
    [
        (["aa"], RestTooLargeError(5_000), "more than 5,000 bytes, the most that a block may"),
        (["aa", "bb"], RestTooLargeError(5_000), r"more than 5,000 bytes\"}"),
        (["aa"], NoRoomError("no room in /spool"), "no room in /spool"),
    ],
)
async def test_blocks_too_large_for_rest_are_not_requested_as_hex(hex_hashes, failure, text):
    rpc = ScriptedRPC(rest=True, getblock=getblock)
    with pytest.raises(ReplyTooLargeError, match=text):
        await requests_of(rpc, ScriptedRest(failure)).raw_blocks(hex_hashes)

    assert rpc.asked == []


async def test_hex_that_is_too_long_names_the_remedy_for_a_single_block():
    too_large = ReplyTooLargeError([{"code": -32603, "message": "the answer is too large"}])

    class Strict(ScriptedRPC):
        async def send_vector(self, *_args):
            raise too_large

    requests = requests_of(Strict())
    with pytest.raises(ReplyTooLargeError, match="is too large, hex of 536,870,912: set rest=1"):
        await requests.raw_blocks(["aa"])
    with pytest.raises(ReplyTooLargeError) as several:
        await requests.raw_blocks(["aa", "bb"])
    assert several.value is too_large


async def test_several_blocks_have_less_room_than_one(monkeypatch):
    monkeypatch.setattr("electrumx.server.daemon.block_requests.BLOCK_BATCH_BYTES", 10_000)
    rpc = ScriptedRPC(getblock=lambda *_params: "00" * 11_500)
    requests = requests_of(rpc)

    assert await requests.raw_blocks(["aa"]) == [bytes(11_500)]
    with pytest.raises(ReplyTooLargeError, match="larger than 22,000 bytes"):
        await requests.raw_blocks(["aa", "bb"])


@pytest.mark.parametrize("answer", [None, 5, "xyz", {"hex": "00"}])
async def test_a_block_that_is_no_hex_is_an_error(answer):
    with pytest.raises(DaemonError, match="getblock makes no sense"):
        await requests_of(ScriptedRPC(getblock=answer)).raw_blocks(["aa"])


# -- Verbosity


async def test_a_verbosity_is_a_truth_value_at_first():
    rpc = ScriptedRPC(getblock=getblock)
    requests = requests_of(rpc)

    assert (await requests.deserialised_block("aa"))["verbosity"] is True
    await requests.raw_blocks(["aa"])
    assert [params[1] for _method, params in rpc.asked] == [True, False]
    assert all(type(params[1]) is bool for _method, params in rpc.asked)


async def test_a_node_that_wants_a_number_gets_one_and_is_remembered_by_its_url():
    rpc = ScriptedRPC(urls=[URL, OTHER_URL], getblock=getblock_by_number)
    requests = requests_of(rpc)

    assert await requests.raw_blocks(["aa", "bb"]) == list(BLOCKS.values())
    assert (await requests.deserialised_block("aa"))["verbosity"] == 1
    assert rpc.request_sizes == [2, 2, 1]
    rpc.urls.remove(URL)
    await requests.deserialised_block("aa")
    assert rpc.request_sizes == [2, 2, 1, 1, 1]


async def test_a_number_that_is_refused_too_is_not_remembered():
    rpc = ScriptedRPC(getblock=INVALID_PARAMS)
    requests = requests_of(rpc)
    for _ in range(2):
        with pytest.raises(DaemonError, match="Invalid type"):
            await requests.deserialised_block("aa")

    assert [type(params[1]) for _method, params in rpc.asked] == [bool, int] * 2


async def test_another_error_is_raised_at_once():
    rpc = ScriptedRPC(getblock=METHOD_NOT_FOUND)
    for call in (requests_of(rpc).deserialised_block("aa"), requests_of(rpc).raw_blocks(["aa"])):
        with pytest.raises(DaemonError, match="Method not found"):
            await call

    assert rpc.request_sizes == [1, 1]
