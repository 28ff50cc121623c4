"""The HTTP of the metrics service: methods, versions, bounds."""

import asyncio
import logging

import pytest
from aiorpcx import Service

from electrumx.server.metrics import http_service
from electrumx.server.metrics.http_service import (
    MAX_CONNECTIONS,
    MAX_HEAD_BYTES,
    HttpService,
    Reply,
)
from tests.fakes.session_world import until
from tests.ports import free_port


async def respond(path, accept):
    if path == "/fails":
        raise ValueError("oops")
    if path == "/slow":
        await asyncio.sleep(3600)
    if path == "/large":
        # More than the buffers of sockets hold
        return Reply(bytes(30_000_000))
    return Reply(f"{path} {accept}".encode(), status=503 if path == "/busy" else 200)


@pytest.fixture
async def named_service():
    address = Service.from_string(f"metrics://127.0.0.1:{free_port()}")
    async with HttpService([address], respond, ["status.example.org"]) as service:
        yield service


@pytest.fixture
async def service():
    address = Service.from_string(f"metrics://127.0.0.1:{free_port()}")
    async with HttpService([address], respond) as service:
        yield service


class Client:
    """A connection to the service."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, service, **options):
        return cls(*await asyncio.open_connection("127.0.0.1", service.ports[0], **options))

    def send(self, text):
        self.writer.write(text.replace("\n", "\r\n").encode())

    async def rest(self):
        """Return all that comes until the server closes."""
        try:
            data = await asyncio.wait_for(self.reader.read(), 120)
        except ConnectionResetError:
            data = b""
        self.writer.close()
        return data

    async def head(self):
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 120)).decode()


async def ask(service, text):
    """Return (status line, headers in lower case, body) of an answer after which it is closed."""
    client = await Client.of(service)
    client.send(text)
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return first, headers, body


async def test_old_request_without_a_host_is_answered(service):
    first, headers, body = await ask(service, "GET /readyz HTTP/1.0\n\n")

    assert first == "HTTP/1.0 200 OK"
    assert body == b"/readyz "
    assert headers["content-type"] == "text/plain; charset=utf-8"


async def test_answers_forbid_foreign_resources_and_caching(service):
    _first, headers, _body = await ask(service, "GET / HTTP/1.0\n\n")

    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["server"] == "ElectrumX"


async def test_head_has_the_headers_of_get_and_no_body(service):
    _first, with_body, body = await ask(service, "GET /abc HTTP/1.0\n\n")
    first, headers, nothing = await ask(service, "HEAD /abc HTTP/1.0\n\n")

    assert first == "HTTP/1.0 200 OK"
    assert headers["content-length"] == with_body["content-length"] == str(len(body))
    assert nothing == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_are_refused(service, method):
    first, headers, _body = await ask(service, f"{method} /readyz HTTP/1.1\nHost: h\n\n")

    assert first == "HTTP/1.1 405 Method Not Allowed"
    assert headers["allow"] == "GET, HEAD"
    assert headers["connection"] == "close"


async def test_request_with_a_body_is_refused(service):
    text = "GET / HTTP/1.1\nHost: h\nContent-Length: 3\n\nabc"
    first, _headers, _body = await ask(service, text)

    assert first == "HTTP/1.1 400 Bad Request"


@pytest.mark.parametrize(
    "text", ["garbage\n\n", "GET\n\n", "GET / HTTP/9.9\n\n", "\x16\x03\x01\x02", "GET / X\n\n"]
)
async def test_invalid_request_is_answered_with_400_and_not_logged(service, text, caplog):
    caplog.set_level(logging.INFO)
    first, _headers, _body = await ask(service, text)

    assert " 400 " in first
    assert caplog.messages == []


async def test_error_of_a_page_is_logged_and_not_shown(service, caplog):
    first, _headers, body = await ask(service, "GET /fails HTTP/1.0\n\n")

    assert first == "HTTP/1.0 500 Internal Server Error"
    assert body == b"internal server error\n"
    assert "could not answer '/fails'" in caplog.text


async def test_connection_is_kept_for_further_requests(service):
    client = await Client.of(service)
    for path in ("/a", "/busy", "/b"):
        client.send(f"GET {path} HTTP/1.1\nHost: h\n\n")
        head = await client.head()
        length = int(head.partition("Content-Length: ")[2].partition("\r\n")[0])
        assert (await client.reader.readexactly(length)).decode() == f"{path} "
    client.writer.close()


async def test_accept_header_reaches_the_page(service):
    text = "GET /m HTTP/1.0\nAccept: text/plain\n\n"
    assert (await ask(service, text))[2] == b"/m text/plain"


@pytest.mark.parametrize(
    "text",
    [
        "GET /" + "a" * MAX_HEAD_BYTES + " HTTP/1.1\n\n",
        "GET / HTTP/1.1\nX: " + "a" * MAX_HEAD_BYTES + "\n\n",
        "GET / HTTP/1.1\n" + "".join(f"X{n}: {n}\n" for n in range(1500)) + "\n",
        "GET / HTTP/1.1\n" + "a" * (MAX_HEAD_BYTES + 1),
    ],
)
async def test_large_head_ends_the_connection(service, text):
    client = await Client.of(service)
    client.send(text)

    assert b"200" not in await client.rest()


async def test_head_of_the_allowed_size_is_read(service):
    filling = "a" * (MAX_HEAD_BYTES - 200)
    first, _headers, _body = await ask(service, f"GET / HTTP/1.0\nX: {filling}\n\n")

    assert first == "HTTP/1.0 200 OK"


async def test_the_bound_is_for_each_head(service):
    client = await Client.of(service)
    for _ in range(20):
        client.send("GET / HTTP/1.1\nHost: h\nX: " + "a" * 1_000 + "\n\n")
        assert "200 OK" in await client.head()
        await client.reader.readexactly(2)
    client.writer.close()


@pytest.mark.parametrize("text", ["", "GET / HTTP/1.1\n", "GET /slow HTTP/1.1\nHost: h\n\n"])
async def test_silence_ends_the_connection(service, text, monkeypatch):
    monkeypatch.setattr(http_service, "IDLE_SECS", 0.05)
    client = await Client.of(service)
    client.send(text)

    assert await client.rest() == b""


async def test_trickling_head_gets_no_more_time(service, monkeypatch):
    monkeypatch.setattr(http_service, "IDLE_SECS", 0.2)
    client = await Client.of(service)

    async def trickle():
        while True:
            client.send("X")
            await asyncio.sleep(0.02)

    task = asyncio.ensure_future(trickle())
    await client.rest()
    task.cancel()
    await asyncio.wait([task])


async def test_idle_connection_gives_way_to_a_new_one(service):
    clients = []
    for _ in range(MAX_CONNECTIONS):
        client = await Client.of(service)
        client.send("GET / HTTP/1.1\nHost: h\n\n")
        await client.head()
        clients.append(client)
    first, _headers, _body = await ask(service, "GET / HTTP/1.0\n\n")

    assert first == "HTTP/1.0 200 OK"
    await clients[0].rest()
    for client in clients[1:]:
        client.send("GET / HTTP/1.1\nHost: h\n\n")
        assert "200 OK" in await client.head()
        client.writer.close()


async def test_slow_readers_give_way_to_a_new_connection(service):
    readers = []
    for _ in range(MAX_CONNECTIONS):
        client = await Client.of(service, limit=1_000)
        client.send("GET /large HTTP/1.1\nHost: h\n\n")
        await client.reader.readexactly(1)
        readers.append(client)
    await until(lambda: not service.busy_count())

    first, _headers, _body = await ask(service, "GET / HTTP/1.0\n\n")

    assert first == "HTTP/1.0 200 OK"
    for client in readers:
        client.writer.transport.abort()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:4224", 200),
        ("[::1]:4224", 200),
        ("localhost:4224", 200),
        ("electrumx:4224", 200),
        ("node.lan.home.arpa", 200),
        ("Status.Example.ORG:80", 200),
        ("status.example.org.", 200),
        ("rebinding.example", 421),
        ("status.example.org.evil.example", 421),
        ("127.0.0.1.evil.example:4224", 421),
        ("localhost.evil.example", 421),
    ],
)
async def test_only_names_of_the_service_are_answered(named_service, host, status):
    first, headers, body = await ask(
        named_service, f"GET /x HTTP/1.1\nHost: {host}\nConnection: close\n\n"
    )
    assert first.split()[1] == str(status)
    assert (b"METRICS_HOSTS" in body) == (status == 421)
    assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_two_names_are_refused(service):
    first, _headers, _body = await ask(service, "GET / HTTP/1.1\nHost: a\nHost: b\n\n")
    assert first.split()[1] in ("400", "421")


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "no-cors", 403),
        ("cross-site", "cors", 403),
        ("same-site", "no-cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ],
)
async def test_pages_of_other_origins_are_refused_but_for_links(service, site, mode, status):
    fetch = f"Sec-Fetch-Site: {site}\nSec-Fetch-Mode: {mode}\n"
    first, _headers, _body = await ask(
        service, f"GET /x HTTP/1.1\nHost: h\n{fetch}Connection: close\n\n"
    )
    assert first.split()[1] == str(status)


async def test_new_connection_is_closed_if_all_are_busy(service):
    busy = []
    for _ in range(MAX_CONNECTIONS):
        client = await Client.of(service)
        client.send("GET /slow HTTP/1.1\nHost: h\n\n")
        busy.append(client)
    await until(lambda: service.busy_count() == MAX_CONNECTIONS)
    client = await Client.of(service)

    assert await client.rest() == b""
    for client in busy:
        client.writer.close()


async def test_address_in_use_is_logged_and_the_rest_goes_on(caplog):
    caplog.set_level(logging.INFO)
    address = Service.from_string(f"metrics://127.0.0.1:{free_port()}")
    async with HttpService([address], respond) as first, HttpService([address], respond) as second:
        assert second.ports == []
        assert (await ask(first, "GET / HTTP/1.0\n\n"))[0] == "HTTP/1.0 200 OK"
    assert f"METRICS server failed to listen on {address.address}" in caplog.text
