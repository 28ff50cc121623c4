"""TLS as a layer of our own transport: any split of the bytes, records that carry nothing, keys."""

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electrumx.server.session.engine.prices import EMPTY_RECORD_COST
from electrumx.server.session.transport import admission, tls
from electrumx.server.session.transport.line_transport import RawTransport
from electrumx.server.session.transport.tls import (
    PassphraseError,
    RecordCutter,
    RenewedContext,
    TLSLayer,
)
from tests.conftest import require
from tests.fakes.connections import FakeSocketTransport, connection_context
from tests.fakes.session_world import FakeService, session_world, until
from tests.integration.client import trusting_context


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return (certificate file, key file)."""
    require(shutil.which("openssl"), "openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    command += " -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return str(folder / "cert.pem"), str(folder / "key.pem")


def tls_world(certificate, *protocols, **kwargs):
    return session_world(
        services=[FakeService(protocol) for protocol in (*protocols, "rpc")],
        ssl_certfile=certificate[0],
        ssl_keyfile=certificate[1],
        tls_client=trusting_context(),
        **kwargs,
    )


# -- records


@given(
    sizes=st.lists(st.integers(0, 40), max_size=10),
    cuts=st.lists(st.integers(0, 200), max_size=10),
    max_records=st.integers(1, 3),
    max_bytes=st.integers(6, 50),
)
def test_records_are_counted_however_they_are_cut(sizes, cuts, max_records, max_bytes):
    data = b"".join(b"\x17\x03\x03" + size.to_bytes(2, "big") + b"x" * size for size in sizes)
    cutter = RecordCutter()
    count = start = 0
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        piece, position = data[start:cut], 0
        while position < len(piece):
            end, records = cutter.cut(piece, position, max_records, max_bytes)
            assert position < end <= len(piece)
            assert records <= max_records
            count += records
            position = end
        start = cut
    assert count == len(sizes)
    assert cutter.is_between_records


class EchoSession:
    """Sends each message back."""

    def __init__(self, transport):
        self.transport = transport
        self.messages = []
        self.cost = self.size = 0

    @property
    def receiver(self):
        return self

    def received_bytes(self, count, extra_cost=0.0):
        self.size += count
        self.cost += extra_cost

    def bump_cost(self, cost):
        self.cost += cost

    def receive(self, messages):
        self.messages += messages
        self.transport.send(list(messages))

    def is_over_limit(self):
        return False

    def on_eof(self):
        return False

    def on_lost(self):
        pass


class MemoryClient:
    """A TLS client of a protocol without a socket."""

    def __init__(self, connection):
        self.connection = connection
        self.socket = FakeSocketTransport()
        connection.connection_made(self.socket)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trusting_context().wrap_bio(self._incoming, self._outgoing)

    async def shake_hands(self, deliver):
        for _ in range(20):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                await deliver(self._outgoing.read())
                return
            await deliver(self._outgoing.read())
            self.take()
        raise AssertionError("no handshake")

    def take(self):
        sent, self.socket.sent = self.socket.sent, b""
        self._incoming.write(sent)

    def encrypt(self, *texts):
        for text in texts:
            self.tls.write(text)
        return self._outgoing.read()

    def read_all(self):
        self.take()
        received = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while piece := self.tls.read():
                received += piece
        return received


async def settle(connection):
    """Let the connection process what it has."""
    for _ in range(1_000):
        await asyncio.sleep(0)
        if not connection.has_input() and not connection.is_queued:
            return
    raise AssertionError("input is left")


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 3_000), max_size=12),
    texts=st.lists(st.integers(1, 300).map(lambda n: b"m" * n + b"\n"), min_size=1, max_size=5),
)
def test_messages_do_not_depend_on_where_tls_is_cut(certificate, cuts, texts):
    context = RenewedContext(*certificate)

    async def run():
        connection = RawTransport(connection_context(EchoSession, tls_context=context))
        client = MemoryClient(connection)

        async def deliver(data):
            start = 0
            for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
                if piece := data[start:cut]:
                    connection.data_received(piece)
                    start = cut
                    if cut % 2:
                        await settle(connection)
            await settle(connection)

        await client.shake_hands(deliver)
        await deliver(client.encrypt(*texts))
        assert client.read_all() == b"".join(texts)
        connection.connection_lost(None)

    asyncio.run(run())


@pytest.mark.parametrize("offset", [None, -20, -1, 0, 1, 3, 5, 100])
async def test_tls_begins_behind_the_proxy_header_wherever_they_are_cut(certificate, offset):
    """A balancer may send its header and the ClientHello in one segment, or in any others."""
    header = b"PROXY TCP4 198.51.100.7 203.0.113.9 5000 50002\r\n"
    context = connection_context(
        EchoSession, tls_context=RenewedContext(*certificate), header_count=1
    )
    connection = RawTransport(context)
    client = MemoryClient(connection)
    before = [header]

    async def deliver(data):
        start = before.pop() if before else b""
        cut = len(start) + offset if start and offset is not None else 0
        for piece in ((start + data)[:cut], (start + data)[cut:]):
            if piece:
                connection.data_received(piece)
                await settle(connection)

    await client.shake_hands(deliver)
    await deliver(client.encrypt(b"text\n"))
    assert client.read_all() == b"text\n"
    assert str(connection.remote_address()) == "198.51.100.7:5000"
    connection.connection_lost(None)


async def test_every_byte_of_tls_is_charged(certificate):
    context = connection_context(EchoSession, tls_context=RenewedContext(*certificate))
    connection = RawTransport(context)
    client = MemoryClient(connection)
    total = 0

    async def deliver(data):
        nonlocal total
        total += len(data)
        if data:
            connection.data_received(data)
        await settle(connection)

    await client.shake_hands(deliver)
    assert connection.session.size == total
    assert connection.session.cost > 0
    await deliver(client.encrypt(b"hello\n"))
    assert connection.session.size == total > 6


async def secured(certificate):
    """Return a connection and its client that have shaken hands."""
    context = connection_context(EchoSession, tls_context=RenewedContext(*certificate))
    connection = RawTransport(context)
    client = MemoryClient(connection)

    async def deliver(data):
        if data:
            connection.data_received(data)
        await settle(connection)

    await client.shake_hands(deliver)
    return connection, client


async def test_no_more_than_a_slice_is_processed_at_once(certificate):
    connection, client = await secured(certificate)
    connection.data_received(client.encrypt(*[b"x" * 100 + b"\n"] * 1_000))
    session = connection.session
    assert len(session.messages) == tls.SLICE_RECORDS
    assert not client.socket.is_reading
    await settle(connection)
    assert len(session.messages) == 1_000
    assert client.socket.is_reading
    # Each record of those that came together
    assert session.cost > 10


async def test_no_input_is_processed_while_the_client_does_not_read(certificate):
    connection, client = await secured(certificate)
    session = connection.session
    session.on_unwritable = session.on_writable = lambda: None
    connection.pause_writing()
    assert not client.socket.is_reading
    connection.data_received(client.encrypt(b"one\n"))
    assert session.messages == []
    connection.resume_writing()
    await settle(connection)
    assert session.messages == [b"one"]
    assert client.socket.is_reading


async def test_a_flood_of_key_updates_is_charged_and_ends_the_connection(certificate, monkeypatch):
    """``openssl s_client`` sends a KeyUpdate for each line of the letter K."""
    monkeypatch.setattr(tls, "MAX_EMPTY_RECORDS", 20)
    async with tls_world(certificate, "ssl") as world:
        other = await world.connect("ssl")
        await other.request("server.ping")
        flood = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{world.port('ssl')}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await until(lambda: world.manager.session_count() == 2)
            session = world.session(1)
            before = session.cost
            # Each read of its input returns one command.
            while session in world.manager.sessions:
                with contextlib.suppress(ConnectionError):
                    flood.stdin.write(b"K\n")
                    await flood.stdin.drain()
                await asyncio.sleep(0.002)
            assert session.cost > before + 20 * EMPTY_RECORD_COST
            await other.request("server.ping")
        finally:
            with contextlib.suppress(ProcessLookupError):
                flood.kill()
            await flood.wait()


# -- errors of clients


@pytest.mark.parametrize("protocol", ["ssl", "wss"])
@pytest.mark.parametrize(
    "data",
    [
        b'{"id": 1, "method": "server.ping"}\n',
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\x00" * 70_000,
        b"\x16\x03\x01\x00\x01\x01" * 20_000,
        b"\x00" * 1_000,
    ],
    # The name of a test is in the environment of its child processes, which is bounded.
    ids=["plain text", "HTTP", "too long a record", "short records", "zeros"],
)
async def test_invalid_tls_ends_the_connection_and_is_not_logged(
    certificate, protocol, data, caplog
):
    async with tls_world(certificate, protocol) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port(protocol))
        caplog.clear()
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await reader.read()
        writer.close()
        await until(lambda: world.manager.admission.count == 0)
        assert caplog.records == []
        client = await world.connect(protocol)
        await client.request("server.ping")


@pytest.mark.parametrize("protocol", ["ssl", "ws", "wss"])
async def test_a_handshake_that_takes_too_long_ends_the_connection(
    certificate, protocol, monkeypatch
):
    monkeypatch.setattr(admission, "HANDSHAKE_SECS", 0.05)
    monkeypatch.setattr(admission, "SWEEP_SECS", 0.05)
    async with tls_world(certificate, protocol) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port(protocol))
        assert await reader.read() == b""
        assert world.manager.admission.count == 0
        assert not world.manager.sessions
        writer.close()


# -- keys


def test_the_error_for_an_encrypted_key_has_a_remedy(certificate, tmp_path):
    encrypted = tmp_path / "encrypted.pem"
    command = f"openssl pkey -in {certificate[1]} -aes256 -passout pass:secret -out {encrypted}"
    subprocess.run(command.split(), check=True, capture_output=True)

    with pytest.raises(PassphraseError) as info:
        RenewedContext(certificate[0], str(encrypted))
    assert f"the private key {encrypted} needs a passphrase" in str(info.value)
    assert f"openssl pkey -in {encrypted} -out " in str(info.value)
    assert str(info.value).endswith("and set SSL_KEYFILE to it")


async def test_an_encrypted_key_of_wss_is_named_by_its_own_setting(certificate, tmp_path, caplog):
    encrypted = tmp_path / "encrypted.pem"
    command = f"openssl pkey -in {certificate[1]} -aes256 -passout pass:secret -out {encrypted}"
    subprocess.run(command.split(), check=True, capture_output=True)
    async with session_world(
        services=[FakeService("ssl"), FakeService("wss")],
        ssl_certfile=certificate[0],
        ssl_keyfile=certificate[1],
        wss_certfile=certificate[0],
        wss_keyfile=str(encrypted),
        ready=False,
    ) as world:
        world.mempool_event.set()
        await until(lambda: world.manager.listeners.open)
    assert "set WSS_KEYFILE to it" in caplog.text
    assert "SSL_KEYFILE" not in caplog.text


async def test_an_encrypted_key_stops_only_its_listener(certificate, tmp_path, caplog):
    encrypted = tmp_path / "encrypted.pem"
    command = f"openssl pkey -in {certificate[1]} -aes256 -passout pass:secret -out {encrypted}"
    subprocess.run(command.split(), check=True, capture_output=True)
    async with session_world(
        services=[FakeService("ssl"), FakeService("tcp")],
        ssl_certfile=certificate[0],
        ssl_keyfile=str(encrypted),
        ready=False,
    ) as world:
        world.mempool_event.set()
        await until(lambda: world.manager.listeners.open)
        client = await world.connect("tcp")
        await client.request("server.ping")
    assert "SSL server failed to listen on 127.0.0.1:0: the private key" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_unreadable_certificate_is_named(certificate, tmp_path, monkeypatch):
    with pytest.raises(IsADirectoryError) as info:
        RenewedContext(str(tmp_path), certificate[1])
    assert str(tmp_path) in str(info.value)


def shake_hands(context, layer, session=None):
    """Connect to a layer; return the client's side, and the server's last flight."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, session=session)
    flight = b""
    while not layer.is_open:
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        layer.receive(outgoing.read(), 0, [])
        flight = layer.to_send()
        incoming.write(flight)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.read()
    return client, flight


def test_a_client_gets_one_ticket_and_can_resume_its_session(certificate):
    context = RenewedContext(*certificate)
    trusting = trusting_context()
    client, flight = shake_hands(trusting, TLSLayer(context))
    assert client.version() == "TLSv1.3"
    assert RecordCutter().cut(flight, 0, 10, len(flight)) == (len(flight), 1)
    assert client.session.has_ticket
    # Each connection brings the ticket for the next one.
    again, flight = shake_hands(trusting, TLSLayer(context), client.session)
    assert again.session_reused
    assert RecordCutter().cut(flight, 0, 10, len(flight)) == (len(flight), 1)


async def test_a_large_reply_is_whole_over_tls(certificate):
    async with tls_world(certificate, "ssl", max_send=8_000_000) as world:
        txid = "ab" * 32
        world.daemon.txs[txid] = "cd" * 1_500_000
        client = await world.connect("ssl")
        await client.send({"id": 1, "method": "blockchain.transaction.get", "params": [txid]})
        reply = json.loads(await client.recv_raw())
        assert reply["result"] == "cd" * 1_500_000
