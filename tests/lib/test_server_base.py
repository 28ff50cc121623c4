"""Tests of the life of a server process."""

import asyncio
import logging
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest

from electrumx.lib import server_base
from electrumx.lib.errors import OperatorError
from electrumx.lib.server_base import ServerBase

ENV = SimpleNamespace(allow_root=True)
posix = pytest.mark.skipif(os.name == "nt", reason="loops cannot handle signals on Windows")


class Server(ServerBase):
    """Serves until cancelled; subclasses of it end in other ways."""

    def __init__(self, env=ENV, **options):
        super().__init__(env, **options)
        self.started = asyncio.Event()
        self.events = []

    async def serve(self, shutdown_event):
        self.shutdown_event = shutdown_event
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            await self.flush()
            raise

    async def flush(self):
        await asyncio.sleep(0)
        self.events.append("flushed")


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


@posix
def test_root_is_refused_unless_allowed(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(OperatorError, match="ALLOW_ROOT") as caught:
        Server(SimpleNamespace(allow_root=False))

    assert isinstance(caught.value, RuntimeError)
    assert "\n" not in str(caught.value)
    assert Server(SimpleNamespace(allow_root=True)).env.allow_root


@posix
def test_another_user_needs_no_leave(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Server(SimpleNamespace(allow_root=False)).start_time == 0


def test_an_old_python_is_refused(monkeypatch):
    monkeypatch.setattr(ServerBase, "PYTHON_MIN_VERSION", (9, 9))
    with pytest.raises(OperatorError, match=r"9\.9"):
        Server()


async def test_serve_must_be_overridden():
    with pytest.raises(NotImplementedError):
        await ServerBase(ENV).run()


@posix
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_shuts_down_in_order(caplog, signum):
    caplog.set_level(logging.INFO)
    server = Server()
    before = time.time()
    run = asyncio.ensure_future(server.run())
    await server.started.wait()
    os.kill(os.getpid(), signum)
    await run

    assert server.events == ["cancelled", "flushed"]
    assert before <= server.start_time <= time.time()
    assert messages(caplog) == [
        f"received {signum.name} signal, initiating shutdown",
        "shutting down",
        "shutdown complete",
    ]


@posix
async def test_a_second_signal_does_not_disturb_the_flush():
    class Slow(Server):
        async def flush(self):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(20):
                await asyncio.sleep(0)
            self.events.append("flushed")

    server = Slow()
    run = asyncio.ensure_future(server.run())
    await server.started.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await run

    assert server.events == ["cancelled", "flushed"]


@posix
async def test_a_hangup_that_the_process_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = Server()
        run = asyncio.ensure_future(server.run())
        await server.started.wait()
        os.kill(os.getpid(), signal.SIGHUP)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not server.shutdown_event.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        await run
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_signal_that_came_before_the_loop_shuts_down(caplog):
    server = Server(early_signal=lambda: "SIGTERM")
    await server.run()

    assert "received SIGTERM signal, initiating shutdown" in messages(caplog)


async def test_the_shutdown_event_shuts_down():
    server = Server()
    run = asyncio.ensure_future(server.run())
    await server.started.wait()
    server.shutdown_event.set()
    await run

    assert server.events == ["cancelled", "flushed"]


async def test_the_end_of_serve_ends_the_run(caplog):
    class Short(Server):
        async def serve(self, shutdown_event):
            self.events.append("served")

    caplog.set_level(logging.INFO)
    server = Short()
    await server.run()

    assert server.events == ["served"]
    assert messages(caplog) == ["shutting down", "shutdown complete"]


async def test_what_serve_raises_leaves_the_run():
    class Failing(Server):
        async def serve(self, shutdown_event):
            raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        await Failing().run()


async def test_what_the_shutdown_raises_leaves_the_run():
    class Failing(Server):
        async def flush(self):
            raise OSError("disk full")

    server = Failing()
    run = asyncio.ensure_future(server.run())
    await server.started.wait()
    server.shutdown_event.set()
    with pytest.raises(OSError, match="disk full"):
        await run


async def test_cancelling_the_run_also_shuts_down_in_order():
    server = Server()
    run = asyncio.ensure_future(server.run())
    await server.started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert server.events == ["cancelled", "flushed"]


async def test_on_windows_no_signal_handler_is_installed(monkeypatch):
    loop = asyncio.get_running_loop()

    def refuse(*args):
        raise NotImplementedError

    monkeypatch.setattr(loop, "add_signal_handler", refuse)
    # Only the name as this module sees it: pathlib and others look at os.name, too.
    fake_os = SimpleNamespace(name="nt")
    monkeypatch.setattr(server_base, "os", fake_os)
    server = Server()
    run = asyncio.ensure_future(server.run())
    await server.started.wait()
    server.shutdown_event.set()
    await run

    assert server.events == ["cancelled", "flushed"]


class Loop:
    def __init__(self):
        self.reported = []

    def default_exception_handler(self, context):
        self.reported.append(context)


@pytest.mark.parametrize(
    ("message", "reported"),
    [
        ("SSL handshake failed", False),
        ("Fatal read error on socket transport", False),
        ("SSL error in data received", False),
        ("socket.send() raised exception.", False),
        ("socketXsend raised exception.", True),
        ("a fatal read error: SSL handshake", True),
        ("Task exception was never retrieved", True),
        (None, True),
    ],
)
def test_messages_that_begin_as_known_noise_are_dropped(message, reported):
    loop, context = Loop(), {} if message is None else {"message": message}
    Server().on_exception(loop, context)

    assert loop.reported == ([context] if reported else [])


async def test_the_tasks_that_accept_tls_connections_are_noise():
    async def _accept_connection2():
        pass

    async def other():
        pass

    loop = Loop()
    for coro in (_accept_connection2(), other()):
        task = asyncio.ensure_future(coro)
        Server().on_exception(loop, {"message": "Task exception", "task": task})
        await task

    assert [context["task"] for context in loop.reported] == [task]


async def test_the_exception_handler_is_the_servers():
    class Noting(Server):
        def on_exception(self, loop, context):
            self.events.append(context["message"])

    server = Noting()
    run = asyncio.ensure_future(server.run())
    await server.started.wait()
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "oops"})
    server.shutdown_event.set()
    await run
    loop.set_exception_handler(None)

    assert server.events[0] == "oops"
    assert sys.version_info >= ServerBase.PYTHON_MIN_VERSION
