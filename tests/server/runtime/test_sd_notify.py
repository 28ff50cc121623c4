"""The notifications to systemd, on a datagram socket of our own."""

import asyncio
import os
import socket
import time

import pytest

from electrumx.lib.env_base import EnvError
from electrumx.server.runtime import sd_notify as readiness
from electrumx.server.runtime.sd_notify import Notifier, Readiness, watchdog_secs

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def waiting():
    """Describe a server that is starting."""
    return "waiting for the node"


class Manager:
    """The other end: a socket that records the messages."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def messages(self):
        """The messages since the last call, each a list of lines."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found

    def lines(self):
        return [line for message in self.messages() for line in message]

    async def line(self, wanted):
        """Wait for a line; all that came up to its message."""
        found = []
        while wanted not in found:
            await asyncio.sleep(0.005)
            found += self.lines()
        return found


@pytest.fixture
def manager(short_tmp):
    manager = Manager(str(short_tmp / "notify"))
    yield manager
    manager.socket.close()


@pytest.fixture
def address(manager):
    return manager.socket.getsockname()


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(readiness, "REPORT_SECS", 0.02)


def test_nothing_is_sent_without_a_service_manager():
    notifier = Notifier("")

    assert not notifier
    assert notifier.send("READY=1") is False


def test_the_lines_of_a_call_are_one_message(manager, address):
    assert Notifier(address).send("READY=1", "STATUS=serving") is True

    assert manager.messages() == [["READY=1", "STATUS=serving"]]


def test_an_abstract_address_begins_with_an_at_sign():
    name = f"electrumx-test-{os.getpid()}"
    manager = Manager(f"\0{name}")

    Notifier(f"@{name}").send("READY=1")

    assert manager.lines() == ["READY=1"]
    manager.socket.close()


@pytest.mark.parametrize("address", ["/nowhere/notify", "x" * 200, "vsock:2:1234"])
def test_an_address_that_cannot_be_used_is_one_line_of_the_log(address, caplog):
    notifier = Notifier(address)

    assert [notifier.send("READY=1") for _ in range(3)] == [False] * 3

    assert len(caplog.records) == 1
    assert "cannot notify the service manager" in caplog.text


def test_the_watchdog_is_off_by_default():
    assert watchdog_secs() is None


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("30000000", None, 30.0),
        pytest.param("30000000", str(os.getpid()), 30.0, id="this process"),
        ("30000000", "1", None),
        ("0", None, None),
    ],
)
def test_the_watchdog_s_period_is_for_the_process_named(usec, pid, expected, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", pid)

    assert watchdog_secs() == expected


def test_a_period_that_is_no_number_is_reported_by_name(monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "often")

    with pytest.raises(EnvError, match="WATCHDOG_USEC"):
        watchdog_secs()


async def test_without_systemd_there_is_nothing_to_run():
    tasks = asyncio.all_tasks()

    async with Readiness.from_environment(asyncio.Event(), waiting):
        assert asyncio.all_tasks() == tasks


async def test_the_states_of_a_server_are_notified_in_order(manager, address, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "60000")
    shutdown, serving = asyncio.Event(), asyncio.Event()
    height = None

    def describe():
        return waiting() if height is None else f"height {height}"

    before = asyncio.all_tasks()
    async with Readiness.from_environment(shutdown, describe) as reports:
        announcing = asyncio.create_task(reports.announce(serving))
        starting = await manager.line("STATUS=waiting for the node")
        height = 5
        starting += await manager.line("STATUS=height 5")
        serving.set()
        ready = await manager.line("READY=1")
        ready += await manager.line("STATUS=height 5")
        await announcing
        manager.messages()
        shutdown.set()
        stopping = await manager.line("EXTEND_TIMEOUT_USEC=120000000")
        stopping += await manager.line("EXTEND_TIMEOUT_USEC=120000000")
    after = manager.lines()

    assert "WATCHDOG=1" in starting
    assert not {"READY=1", "STOPPING=1"} & set(starting)
    assert ready.count("READY=1") == 1
    assert "STOPPING=1" not in ready
    assert stopping.count("STOPPING=1") == 1
    assert "WATCHDOG=1" in stopping
    assert "STOPPING=1" not in after
    # The server has stopped: no task is left to send anything.
    assert asyncio.all_tasks() == before
    assert manager.lines() == []


async def test_without_a_watchdog_there_is_no_heartbeat(manager, address, quickly):
    async with Readiness(Notifier(address), None, asyncio.Event(), waiting):
        lines = await manager.line("STATUS=waiting for the node")
        lines += await manager.line("STATUS=waiting for the node")

    assert "WATCHDOG=1" not in lines


@pytest.mark.parametrize(
    ("watchdog", "expected"), [(None, 10.0), (300.0, 10.0), (30.0, 10.0), (3.0, 1.0)]
)
def test_three_reports_fit_in_a_period_of_the_watchdog(watchdog, expected):
    assert expected == Readiness(Notifier("@x"), watchdog, asyncio.Event(), waiting).interval


async def test_a_loop_that_hangs_is_silent(manager, address):
    async with Readiness(Notifier(address), 0.03, asyncio.Event(), waiting):
        await manager.line("WATCHDOG=1")
        manager.messages()
        # As a part of the server would that never returns to the loop.
        time.sleep(0.1)
        assert manager.messages() == []


async def test_a_stop_right_after_the_start_is_notified(manager, address):
    shutdown = asyncio.Event()
    async with Readiness(Notifier(address), None, shutdown, waiting):
        await manager.line("STATUS=waiting for the node")
        shutdown.set()

    assert manager.lines()[0] == "STOPPING=1"


async def test_the_end_by_a_failure_is_notified(manager, address):
    async def fail():
        async with Readiness(Notifier(address), None, asyncio.Event(), waiting):
            raise ValueError("a part failed")

    with pytest.raises(ValueError, match="a part failed"):
        await fail()

    assert manager.lines()[-1] == "STOPPING=1"


async def test_what_did_not_get_through_is_sent_again(short_tmp, quickly):
    path = str(short_tmp / "late")
    serving = asyncio.Event()
    serving.set()
    async with Readiness(Notifier(path), None, asyncio.Event(), waiting) as reports:
        await reports.announce(serving)
        late = Manager(path)
        lines = await late.line("READY=1")
        lines += await late.line("STATUS=waiting for the node")
    late.socket.close()

    assert lines.count("READY=1") == 1


async def test_a_stop_that_never_ends_is_not_extended_indefinitely(manager, address, monkeypatch):
    monkeypatch.setattr(readiness, "MAX_STOPPING_SECS", 0.1)
    shutdown = asyncio.Event()
    shutdown.set()
    before = asyncio.all_tasks()
    async with Readiness(Notifier(address), 0.03, shutdown, waiting):
        (reporting,) = asyncio.all_tasks() - before
        await asyncio.wait_for(reporting, 120)

        assert "STOPPING=1" in manager.lines()


async def test_a_reload_is_notified_as_systemd_has_it(manager, address):
    """RELOADING=1 with the time, in one message, later than the signal; at the end READY=1."""
    serving = asyncio.Event()
    async with Readiness(Notifier(address), None, asyncio.Event(), waiting) as reports:
        await manager.line("STATUS=waiting for the node")
        with reports.reloading():
            pass
        # It has not started yet: systemd asks for no reload before.
        assert manager.messages() == []
        serving.set()
        await reports.announce(serving)
        await manager.line("READY=1")
        manager.messages()

        signal = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        with reports.reloading():
            (message,) = manager.messages()
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        ended = manager.messages()

    assert message[0] == "RELOADING=1"
    name, _, usec = message[1].partition("=")
    assert name == "MONOTONIC_USEC"
    assert signal <= int(usec) <= now
    assert "READY=1" not in message
    assert ended == [["READY=1", "STATUS=waiting for the node"]]


async def test_a_reload_that_is_refused_ends_for_systemd_as_well(manager, address):
    serving = asyncio.Event()
    serving.set()
    async with Readiness(Notifier(address), None, asyncio.Event(), waiting) as reports:
        await reports.announce(serving)
        await manager.line("READY=1")
        manager.messages()
        with pytest.raises(ValueError, match="wrong"), reports.reloading():
            raise ValueError("wrong")

        assert [message[0] for message in manager.messages()] == ["RELOADING=1", "READY=1"]
