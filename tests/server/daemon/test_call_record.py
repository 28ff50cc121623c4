"""The record of calls to the node: outcomes, durations, and the causes of failures."""

import asyncio
import errno
import socket
import ssl
from types import SimpleNamespace

import aiohttp
import pytest

from electrumx.lib.coins import Coin
from electrumx.server.daemon.call_record import MAX_METHODS, CallForbiddenError, CallRecord
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.retry import (
    MalformedReplyError,
    ParseErrorReply,
    ServiceRefusedError,
    WarmingUpError,
    WrongNodeError,
    cause_of,
)
from electrumx.server.runtime.node_contact import Cause
from tests.fakes.chain import GENESIS
from tests.fakes.fake_node import FakeNode

COIN = Coin.lookup_coin_class("Bitcoin", "regtest")
KEY = SimpleNamespace(ssl=True, host="node", port=8332, is_ssl=True)


def refused(status):
    error = ServiceRefusedError("no")
    error.status = status
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (asyncio.TimeoutError(), Cause.TIMEOUT),
        (aiohttp.ServerTimeoutError(), Cause.TIMEOUT),
        (refused(401), Cause.UNAUTHORIZED),
        (refused(503), Cause.OTHER),
        (WarmingUpError(), Cause.STARTING_UP),
        (MalformedReplyError("x"), Cause.MALFORMED),
        (ParseErrorReply("x"), Cause.MALFORMED),
        (WrongNodeError("x"), Cause.WRONG_NODE),
        (ssl.SSLError(1, "wrong version"), Cause.TLS),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "x")), Cause.TLS),
        (aiohttp.ClientConnectorError(KEY, socket.gaierror(-2, "unknown")), Cause.UNKNOWN_HOST),
        (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "x")), Cause.REFUSED),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.EHOSTUNREACH, "x")), Cause.UNREACHABLE),
        (aiohttp.ServerDisconnectedError(), Cause.DISCONNECTED),
        (ConnectionResetError(), Cause.DISCONNECTED),
        (aiohttp.ClientPayloadError("x"), Cause.OTHER),
    ],
)
def test_failure_has_a_cause(error, cause):
    assert cause_of(error) is cause


def test_outcomes_are_counted_and_answers_timed():
    record = CallRecord()
    with record.call("getblock"):
        pass
    with pytest.raises(DaemonError), record.call("getblock"):
        raise DaemonError({"code": -5})
    with pytest.raises(ConnectionRefusedError), record.call("getblock"):
        raise ConnectionRefusedError(111, "refused")

    assert record.counts == {
        ("getblock", "ok"): 1,
        ("getblock", "error"): 1,
        ("getblock", "failed"): 1,
    }
    assert record.durations["getblock"].count == 2
    failure = record.contact.last_failure
    assert (failure.cause, failure.method) == (Cause.REFUSED, "getblock")
    assert record.contact.is_failing


def test_call_that_is_not_allowed_is_an_answer_and_a_failure():
    record = CallRecord()
    with pytest.raises(CallForbiddenError), record.call("getindexinfo"):
        raise CallForbiddenError("Forbidden")

    failure = record.contact.last_failure
    assert (failure.cause, failure.method, failure.text) == (
        Cause.FORBIDDEN,
        "getindexinfo",
        "Forbidden",
    )
    assert not record.contact.is_failing
    assert record.contact.reply_age() < 60


async def test_cancelled_call_is_no_outcome():
    record = CallRecord()
    with pytest.raises(asyncio.CancelledError), record.call("getblock"):
        raise asyncio.CancelledError

    assert not record.counts
    assert record.contact.reply_age() is None


def test_many_methods_share_a_last_name():
    record = CallRecord()
    for n in range(MAX_METHODS + 10):
        with record.call(f"method{n}"):
            pass

    assert len(record.durations) == MAX_METHODS + 1
    assert record.counts["other", "ok"] == 10


async def test_daemon_records_its_calls():
    async with FakeNode([GENESIS]) as node, Daemon(COIN, node.url, init_retry=0.01) as daemon:
        await daemon.height()
        node.overrides["getindexinfo"] = None
        with pytest.raises(DaemonError):
            await daemon.getindexinfo()
        calls = daemon.calls

    assert calls.counts == {("getblockcount", "ok"): 1, ("getindexinfo", "error"): 1}
    assert calls.contact.reply_age() < 60
    assert calls.contact.last_failure is None
