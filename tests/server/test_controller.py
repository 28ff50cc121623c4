"""When SIGHUP has the settings file read again."""

import asyncio
from types import SimpleNamespace

import pytest

from electrumx.lib.errors import OperatorError
from electrumx.server.controller import Controller
from electrumx.server.settings import Settings


class Reloads:
    """Takes the place of the reloader: one reload at a time, each until it is let go on."""

    def __init__(self):
        self.begun = self.running = 0
        self.go_on = asyncio.Event()
        self._lock = asyncio.Lock()

    async def __call__(self):
        async with self._lock:
            self.begun += 1
            self.running += 1
            await self.go_on.wait()
            self.running -= 1
        raise OperatorError("logged by the reloader")


@pytest.fixture
async def reloads():
    return Reloads()


@pytest.fixture
def controller(tmp_path):
    env = SimpleNamespace(allow_root=True)
    return Controller(env, settings=Settings({}, str(tmp_path / "settings")))


async def turns(count=10):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_burst_of_hangups_reads_the_file_once_more_after_the_last(controller, reloads):
    controller.use_reload(reloads)
    for _ in range(1_000):
        assert controller.on_hangup()
        await turns(1)
    assert (reloads.begun, reloads.running) == (1, 1)
    reloads.go_on.set()
    await turns()
    assert (reloads.begun, reloads.running) == (2, 0)
    # The next one is not lost.
    assert controller.on_hangup()
    await turns()
    assert reloads.begun == 3


async def test_a_hangup_before_the_server_is_built_reads_the_file_afterwards(controller, reloads):
    reloads.go_on.set()
    assert controller.on_hangup()
    await turns()
    controller.use_reload(reloads)
    await turns()
    assert reloads.begun == 1


async def test_without_a_settings_file_a_hangup_stops_the_server():
    env = SimpleNamespace(allow_root=True)
    assert not Controller(env).on_hangup()
    assert not Controller(env, settings=Settings({})).on_hangup()
