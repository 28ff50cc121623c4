"""A conversation with a stranger: bounds, quoted texts, and unsolicited messages."""

import asyncio
import json

import pytest

from electrumx.lib.tasks import run_together
from electrumx.server.peers import BadPeerError, assert_good
from electrumx.server.peers.session import PeerConnectionLostError, quoted, run_bounded
from tests.fakes.peer_world import LAN_HOST, Script, add, raw_server, until


async def test_header_notifications_are_ignored_and_requests_rejected(make_manager):
    def answer(line):
        request = json.loads(line)
        replies = [
            {"jsonrpc": "2.0", "method": "blockchain.headers.subscribe", "params": [{}]},
            {"jsonrpc": "2.0", "method": "server.banner", "id": 99},
        ]
        if "method" in request:
            result = Script(LAN_HOST, 1).answers[request["method"]]
            if callable(result):
                result = result(*request["params"])
            replies.append({"jsonrpc": "2.0", "id": request["id"], "result": result})
        else:
            rejections.append(request["error"]["code"])
            replies = []
        return b"".join(json.dumps(reply).encode() + b"\n" for reply in replies)

    rejections = []
    async with raw_server(answer) as port:
        peer = await add(make_manager(), f"{LAN_HOST} t{port}")

        assert peer.last_good
        assert set(rejections) == {-32601}


@pytest.mark.parametrize(
    ("result", "instance", "is_good"),
    [([], list, True), ({}, list, False), (1, int, True), (True, int, False), (None, str, False)],
)
def test_assert_good_is_about_types(result, instance, is_good):
    if is_good:
        assert_good("x", result, instance)
    else:
        with pytest.raises(BadPeerError, match=r"^method returned bad result type"):
            assert_good("method", result, instance)


def test_quoted_texts_are_short_printable_ascii():
    assert quoted("plain") == "plain"
    assert quoted("a\nb\x1b[31mé\ud800") == "a\\nb\\x1b[31m\\xe9\\ud800"
    assert quoted("x" * 10**6) == "x" * 100 + "..."
    assert quoted(["x" * 10**6]) == "a large list"
    assert quoted({"a": 1}) == "{'a': 1}"


async def test_a_task_that_cancels_itself_is_a_lost_connection():
    async def cancelled():
        raise asyncio.CancelledError

    with pytest.raises(PeerConnectionLostError):
        await run_bounded(cancelled(), 5)


async def test_a_bounded_task_is_over_when_its_time_is():
    events = []

    async def slow():
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("ended")

    with pytest.raises(asyncio.TimeoutError):
        await run_bounded(slow(), 0.01)
    assert events == ["ended"]


async def test_cancelling_a_bounded_task_cancels_what_it_runs():
    events = []

    async def slow():
        events.append("started")
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("ended")

    task = asyncio.ensure_future(run_bounded(slow(), None))
    await until(lambda: events)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events == ["started", "ended"]


async def test_the_first_failure_ends_the_others():
    events = []

    async def slow():
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("ended")

    async def fail():
        await asyncio.sleep(0)
        raise BadPeerError("liar")

    with pytest.raises(BadPeerError, match="liar"):
        await run_together(slow(), fail(), slow())
    assert events == ["ended", "ended"]
