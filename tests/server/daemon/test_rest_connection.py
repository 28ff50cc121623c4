"""A connection for blocks takes answers of any size in any pieces, and nothing that it did not ask."""

import asyncio
import errno
import mmap
import os
import random
import tempfile
import threading
import tracemalloc
from contextlib import asynccontextmanager

import pytest

from electrumx.server.daemon.rest_connection import (
    Disconnected,
    RestConnection,
    RestError,
    RestTooLargeError,
)
from electrumx.server.daemon.spool import MappedBody, NoRoomError, Spool

MAX_BYTES = 50_000_000


def admit(length):
    """Allow what is no longer than MAX_BYTES."""
    if length > MAX_BYTES:
        raise RestTooLargeError(MAX_BYTES)


def answer(body, *, status="200 OK", version="1.1", kind="application/octet-stream", more=()):
    lines = [f"HTTP/{version} {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *more, "", ""]).encode() + body


@asynccontextmanager
async def peer(*answers, pieces=None, end=False, timeout=5.0, spool=None):
    """A connection to a peer that sends these replies, in order, and the requests that it gets."""
    requests = []
    waiting = list(answers)

    async def serve(reader, writer):
        try:
            while waiting:
                requests.append(await reader.readuntil(b"\r\n\r\n"))
                reply = waiting.pop(0)
                for at in range(0, len(reply), pieces or max(1, len(reply))):
                    writer.write(reply[at : at + (pieces or len(reply))])
                    await writer.drain()
                    await asyncio.sleep(0)
            if not end:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    connection = await RestConnection.open(address, None, "node:8332", timeout, spool)
    connection.requests = requests
    try:
        yield connection
    finally:
        connection.close()
        server.close()


@pytest.mark.parametrize("pieces", [None, 1, 7])
async def test_bodies_come_whole_however_they_are_cut(pieces):
    bodies = [b"", b"x", bytes(range(256)) * 3, b"\r\n\r\n" * 4]
    async with peer(*map(answer, bodies), pieces=pieces) as connection:
        assert bodies == [await connection.get(f"/rest/block/{n}.bin", admit) for n in range(4)]
        first = b"GET /rest/block/0.bin HTTP/1.1\r\nHost: node:8332\r\nAccept: */*\r\n\r\n"
        assert connection.requests[0] == first
        assert connection.is_open


async def test_a_body_larger_than_the_first_allocation_comes_whole(monkeypatch):
    monkeypatch.setattr(RestConnection, "FIRST_ROOM", 1000)
    body = bytes(range(251)) * 1000
    async with peer(answer(body)) as connection:
        assert body == await connection.get("/", admit)


@pytest.mark.parametrize("pieces", [None, 1, 700])
async def test_bodies_of_any_sizes_follow_each_other_whole(monkeypatch, pieces):
    """They are received in the same memory, of which a large one gets more for itself."""
    monkeypatch.setattr(RestConnection, "FIRST_ROOM", 1_000)
    sizes = [10, 5_000, 3, 1_000, 999, 1_001, 7_000, 0, 1, 6_999]
    bodies = [random.Random(size).randbytes(size) for size in sizes]
    async with peer(*map(answer, bodies), pieces=pieces) as connection:
        assert bodies == [await connection.get("/", admit) for _ in sizes]


async def test_a_connection_that_the_node_has_closed_keeps_no_memory():
    """It may wait among idle ones until blocks are fetched again."""
    body = bytes(RestConnection.FIRST_ROOM)
    tracemalloc.start()
    try:
        async with peer(answer(body), end=True) as connection:
            before, _ = tracemalloc.get_traced_memory()
            assert await connection.get("/", admit) == body
            while connection.is_open:
                await asyncio.sleep(0.001)
            after, _ = tracemalloc.get_traced_memory()
            assert after - before < 500_000
    finally:
        tracemalloc.stop()


@pytest.fixture
def small_spools(monkeypatch):
    monkeypatch.setattr(RestConnection, "SPOOL_BYTES", 1_000)
    monkeypatch.setattr(RestConnection, "PIECE_BYTES", 5_000)
    monkeypatch.setattr(RestConnection, "MAX_HEAD", 500)


@pytest.mark.parametrize("pieces", [None, 7, 1_003])
async def test_large_bodies_are_received_into_files_without_names(tmp_path, small_spools, pieces):
    bodies = [bytes(range(251)) * 100, b"small", b"a" * 1_001, bytes(5_000), bytes(10_000)]
    async with peer(*map(answer, bodies), pieces=pieces, spool=tmp_path) as connection:
        for body in bodies:
            received = await connection.get("/", admit)
            assert isinstance(received, mmap.mmap) == (len(body) > 1_000)
            assert received[:] == body
        assert connection.is_open
    assert list(tmp_path.iterdir()) == []


class FileWork:
    """Records in which threads files are made, written and closed."""

    def __init__(self, monkeypatch):
        self.threads = {}
        make, pwrite = tempfile.TemporaryFile, os.pwrite
        record = self._record

        class File:
            def __init__(self, **kwargs):
                record("make")
                self._file = make(**kwargs)
                self.fileno = self._file.fileno

            def close(self):
                self._file.close()
                record("close")

        def write(*args):
            record("write")
            return pwrite(*args)

        def unmap(body):
            mmap.mmap.close(body)
            record("unmap")

        monkeypatch.setattr(tempfile, "TemporaryFile", File)
        monkeypatch.setattr(os, "pwrite", write)
        monkeypatch.setattr(MappedBody, "close", unmap)

    def _record(self, action):
        self.threads.setdefault(action, set()).add(threading.get_ident())

    async def until(self, actions):
        while self.threads.keys() != actions:
            await asyncio.sleep(0.001)
        assert threading.get_ident() not in set().union(*self.threads.values())


async def test_the_event_loop_neither_makes_nor_writes_nor_frees_a_file(
    tmp_path, small_spools, monkeypatch
):
    work = FileWork(monkeypatch)
    async with peer(answer(bytes(9_000)), spool=tmp_path) as connection:
        received = await connection.get("/", admit)
        await work.until({"make", "write", "close"})
        part = memoryview(received)[4_000:]
        del received
        assert part[0] == 0
        del part
        await work.until({"make", "write", "close", "unmap"})


async def test_the_file_of_a_body_that_is_cut_off_is_closed_in_a_thread(
    tmp_path, small_spools, monkeypatch
):
    work = FileWork(monkeypatch)
    async with peer(answer(bytes(9_000))[:-1], end=True, spool=tmp_path) as connection:
        with pytest.raises(RestError):
            await connection.get("/", admit)
        await work.until({"make", "write", "close"})


async def test_only_the_head_must_come_within_the_time_for_the_head():
    body_due = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        reply = answer(b"body")
        writer.write(reply[:-4])
        await body_due.wait()
        writer.write(reply[-4:])
        writer.close()

    def admit_and_wait(_length):
        asyncio.get_running_loop().call_later(1.5, body_due.set)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    connection = await RestConnection.open(address, None, "node", 60.0)
    try:
        assert await connection.get("/", admit_and_wait, head_secs=1.0) == b"body"
    finally:
        connection.close()
        server.close()


async def test_a_head_that_does_not_come_in_time_ends_the_connection():
    async with peer(b"", timeout=60.0) as connection:
        with pytest.raises(RestError, match="timeout"):
            await connection.get("/", admit, head_secs=0.05)
        assert not connection.is_open


async def test_the_time_of_each_request_is_its_own():
    """Whatever the times of the requests before were: one timer serves them all."""
    body = answer(b"body")
    async with peer(body, body, timeout=60.0) as connection:
        assert await connection.get("/", admit) == b"body"
        assert await connection.get("/", admit, head_secs=30.0) == b"body"
        with pytest.raises(RestError, match="timeout"):
            await connection.get("/", admit, head_secs=0.05)
        assert not connection.is_open


async def test_an_answer_in_time_leaves_a_connection_that_is_not_timed_out_while_idle_or_later():
    body_due = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"first"))
        await reader.readuntil(b"\r\n\r\n")
        await body_due.wait()
        writer.write(answer(b"second"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    connection = await RestConnection.open(address, None, "node", 60.0)
    try:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 0.3
        assert await connection.get("/", admit, head_secs=0.3) == b"first"
        # Beyond the time that the first answer had
        loop.call_at(deadline + 0.1, body_due.set)
        assert await connection.get("/", admit) == b"second"
    finally:
        connection.close()
        server.close()


async def test_a_large_body_for_which_the_disk_has_no_room_is_not_read(
    tmp_path, small_spools, monkeypatch
):
    monkeypatch.setattr(Spool, "LEFT_FREE", 1 << 60)
    async with peer(answer(bytes(9_000)), spool=tmp_path) as connection:
        with pytest.raises(NoRoomError, match="has no room for 9,000 bytes"):
            await connection.get("/", admit)
        assert not connection.is_open


async def test_a_disk_that_becomes_full_ends_a_large_body(tmp_path, small_spools, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    async with peer(answer(bytes(9_000)), spool=tmp_path) as connection:
        with pytest.raises(NoRoomError, match="No space left"):
            await connection.get("/", admit)
        assert not connection.is_open


async def test_a_large_body_that_is_cut_off_is_an_error(tmp_path, small_spools):
    for cut in (1, 4_500, 8_999):
        async with peer(answer(bytes(9_000))[:-cut], end=True, spool=tmp_path) as connection:
            with pytest.raises(RestError):
                await connection.get("/", admit)


async def test_a_cancelled_large_body_ends_the_connection(tmp_path, small_spools):
    async with peer(answer(bytes(9_000))[:-10], spool=tmp_path) as connection:
        getting = asyncio.ensure_future(connection.get("/", admit))
        while not connection.requests:
            await asyncio.sleep(0.001)
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        assert not connection.is_open


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"220 mail.example ESMTP\r\n\r\n", "no HTTP"),
        (answer(b"", status="404 Not Found"), "HTTP status '404'"),
        (answer(b"<html>", kind="text/html"), "no binary answer"),
        (answer(b"", more=["Transfer-Encoding: chunked"]), "no Content-Length"),
        (answer(b"").replace(b"Content-Length: 0", b"Content-Length: -1"), "no Content-Length"),
        (answer(b"").replace(b"Content-Length: 0", b"Content-Length: 1_0"), "no Content-Length"),
        (answer(b"").replace(b"Length: 0", b"Length: " + b"9" * 5000), "impossible"),
        (answer(b"ab") + b"c", "more than the answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000, "headers are too large"),
    ],
)
async def test_an_answer_that_is_not_as_it_should_be_ends_the_connection(reply, reason):
    async with peer(reply) as connection:
        with pytest.raises(RestError, match=reason):
            await connection.get("/", admit)
        assert not connection.is_open
        with pytest.raises(Disconnected):
            await connection.get("/", admit)


async def test_a_body_that_is_not_admitted_is_not_read():
    async with peer(answer(b"").replace(b"Length: 0", b"Length: 50000001")) as connection:
        with pytest.raises(RestTooLargeError, match="50000000"):
            await connection.get("/", admit)
        assert not connection.is_open


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(b"", Disconnected), (b"HTTP/1.1 2", RestError), (answer(b"abc")[:-1], RestError)],
)
async def test_a_disconnect_before_a_reply_differs_from_one_within_it(reply, kind):
    async with peer(reply, end=True) as connection:
        with pytest.raises(RestError) as info:
            await connection.get("/", admit)
        assert type(info.value) is kind


async def test_a_silent_peer_is_disconnected_at_the_time_out():
    async with peer(b"", timeout=0.05) as connection:
        with pytest.raises(RestError, match="timeout"):
            await connection.get("/", admit)
        assert not connection.is_open


@pytest.mark.parametrize(
    "reply", [answer(b"ab", version="1.0"), answer(b"ab", more=["Connection: close"])]
)
async def test_a_connection_that_will_not_be_kept_is_closed_after_the_answer(reply):
    async with peer(reply) as connection:
        assert await connection.get("/", admit) == b"ab"
        assert not connection.is_open


async def test_a_request_that_is_given_up_takes_its_connection_along():
    async with peer(b"") as connection:
        asking = asyncio.ensure_future(connection.get("/", admit))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not connection.is_open


async def test_a_port_without_a_listener_is_an_error():
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    server.close()
    await server.wait_closed()
    with pytest.raises(RestError):
        await RestConnection.open(address, None, "node", 5.0)
