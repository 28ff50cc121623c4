"""TxRequests: single transactions share batches; of many each has its result, or none."""

import asyncio

import pytest

from electrumx.server.daemon import tx_requests
from electrumx.server.daemon.method_calls import MethodCalls
from electrumx.server.daemon.responses import DaemonError, Reading, ReplyTooLargeError, parse_json
from electrumx.server.daemon.tx_requests import BATCH_TXS, TX_LIMIT, TxRequests
from tests.server.daemon.scripted_rpc import ScriptedRPC, error

TXS = {"aa": "0a0b", "bb": "0c", "cc": "0d"}


def getrawtransaction(hex_hash, verbose):
    if hex_hash not in TXS:
        raise error(-5, f"No such transaction: {hex_hash}")
    return {"hex": TXS[hex_hash]} if verbose else TXS[hex_hash]


class Node(ScriptedRPC):
    """Has three transactions, and notes how many bytes of each answer may be read."""

    def __init__(self, answer=getrawtransaction):
        super().__init__(getrawtransaction=answer)
        self.limits = []

    async def send_single(self, method, params=(), reading=None):
        self.limits.append(reading.max_bytes)
        return await super().send_single(method, params, reading)


class NodeWithoutBatches(Node):
    async def send_each(self, *_args):
        raise DaemonError([{"code": -32600, "message": "no batches"}])


def requests_of(rpc):
    return TxRequests(rpc, MethodCalls(rpc))


async def together(requests, *wanted):
    """Request transactions in one iteration of the loop, by hash or by (hash, limit)."""
    futures = [requests.raw_tx(*([one] if isinstance(one, str) else one)) for one in wanted]
    return await asyncio.gather(*futures, return_exceptions=True)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(tx_requests, "AS_TX_BATCH", Reading(parse_json, max_bytes=5))


# -- Single ones


async def test_transactions_requested_together_share_a_batch_and_each_has_its_answer():
    rpc = Node()
    found = await together(requests_of(rpc), "aa", "unknown", "bb")

    assert [found[0], found[2]] == ["0a0b", "0c"]
    assert found[1].args[0] == {"code": -5, "message": "No such transaction: unknown"}
    assert rpc.request_sizes == [3]


async def test_a_batch_has_so_many_transactions_at_most():
    rpc = Node(lambda *_params: "00")
    await together(requests_of(rpc), *map(str, range(BATCH_TXS + 3)))

    assert rpc.request_sizes == [BATCH_TXS, 3]


@pytest.mark.parametrize(
    ("limit", "used"), [((), TX_LIMIT), ((11_000,), 11_000), ((1 << 40,), TX_LIMIT)]
)
async def test_one_alone_is_read_up_to_the_callers_limit(limit, used):
    rpc = Node()
    assert await requests_of(rpc).raw_tx("aa", *limit) == "0a0b"
    await requests_of(rpc).verbose_tx("aa", *limit)

    assert rpc.limits == [used, used]


async def test_one_alone_that_is_longer_is_an_error():
    with pytest.raises(ReplyTooLargeError, match="larger than 3"):
        await requests_of(Node()).raw_tx("aa", 3)


async def test_where_batches_are_refused_they_are_requested_singly():
    rpc = NodeWithoutBatches()
    found = await together(requests_of(rpc), "aa", "unknown", "bb")

    assert [found[0], found[2]] == ["0a0b", "0c"]
    assert found[1].args[0]["code"] == -5
    assert rpc.request_sizes == [1, 1, 1]


async def test_too_long_for_a_batch_each_is_read_up_to_its_callers_limit(small_batches):
    rpc = Node()
    found = await together(requests_of(rpc), ("aa", 3), ("bb", 10))

    assert isinstance(found[0], ReplyTooLargeError)
    assert found[1] == "0c"
    assert rpc.limits == [3, 10]


@pytest.mark.parametrize("answer", [None, 5, {"hex": "00"}])
async def test_a_transaction_that_is_no_text_is_an_error(answer):
    requests = requests_of(Node(lambda hex_hash, _verbose: answer if hex_hash == "aa" else "00"))

    with pytest.raises(DaemonError, match="getrawtransaction makes no sense"):
        await requests.raw_tx("aa")
    found = await together(requests, "aa", "bb")
    assert "makes no sense" in str(found[0])
    assert found[1] == "00"


async def test_the_nodes_json_form_is_requested_by_an_integer():
    rpc = Node()
    assert await requests_of(rpc).verbose_tx("aa") == {"hex": "0a0b"}
    await requests_of(rpc).raw_tx("aa")

    assert [params for _method, params in rpc.asked] == [("aa", 1), ("aa", 0)]
    assert all(type(params[1]) is int for _method, params in rpc.asked)


# -- Many at a time


async def test_many_come_in_the_order_of_their_hashes():
    rpc = Node()
    requests = requests_of(rpc)

    assert await requests.raw_txs(iter(["bb", "aa"])) == [b"\x0c", b"\x0a\x0b"]
    assert await requests.raw_txs_or_none(iter(["bb", "aa"])) == [b"\x0c", b"\x0a\x0b"]
    assert rpc.request_sizes == [2, 2]


async def test_none_of_them_takes_no_request():
    rpc = Node()
    assert await requests_of(rpc).raw_txs([]) == []
    assert await requests_of(rpc).raw_txs_or_none([]) == []
    assert rpc.request_sizes == []


async def test_one_that_is_unknown_is_an_error_or_none():
    requests = requests_of(Node())

    assert await requests.raw_txs_or_none(["aa", "unknown"]) == [b"\x0a\x0b", None]
    with pytest.raises(DaemonError) as info:
        await requests.raw_txs(["aa", "unknown"])
    assert [item["code"] for item in info.value.args[0]] == [-5]


@pytest.mark.parametrize("answer", ["no hex", 5, None])
async def test_one_that_is_no_hex_is_an_error_or_none(answer):
    requests = requests_of(Node(lambda *_params: answer))

    assert await requests.raw_txs_or_none(["aa"]) == [None]
    with pytest.raises(DaemonError, match="makes no sense"):
        await requests.raw_txs(["aa"])


async def test_a_transaction_without_bytes_is_none():
    assert await requests_of(Node(lambda *_params: "")).raw_txs_or_none(["aa"]) == [None]


async def test_too_long_for_one_answer_they_are_requested_in_halves(small_batches):
    expected = [b"\x0a\x0b", b"\x0c", b"\x0d"]
    for ask in (TxRequests.raw_txs, TxRequests.raw_txs_or_none):
        rpc = Node()
        assert await ask(requests_of(rpc), TXS) == expected
        assert rpc.request_sizes == [3, 1, 2]


async def test_one_that_is_too_long_alone_is_named_once_and_the_others_come():
    class Strict(Node):
        async def send_vector(self, method, params, replace_errs=False, reading=None):
            self._check_length(Reading(parse_json, max_bytes=3), [TXS[item[0]] for item in params])
            return await super().send_vector(method, params, replace_errs, reading)

    rpc = Strict()
    requests = requests_of(rpc)
    for _ in range(2):
        assert await requests.raw_txs_or_none(["aa", "bb"]) == [None, b"\x0c"]
    assert rpc.logged == ["transaction aa: the answer is larger than 3 bytes"]
    with pytest.raises(ReplyTooLargeError, match="larger than 3"):
        await requests.raw_txs(["aa", "bb"])
