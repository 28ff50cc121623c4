"""A server's snapshot becomes another server's database, over HTTP, and agrees with the node."""

import asyncio
import threading
from contextlib import contextmanager

import pytest

from tests.fakes.file_server import FileServer
from tests.integration.chains import ChainBuilder
from tests.integration.compare import assert_same_index
from tests.integration.oracle import Oracle
from tests.integration.test_verify_node import rpc, type_in, verify_stopped

pytestmark = [pytest.mark.daemon]


@contextmanager
def served(folder):
    """The URL at which the files of a folder are served, from a thread."""
    loop, server = asyncio.new_event_loop(), FileServer(folder)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def do(coro):
        return asyncio.run_coroutine_threadsafe(coro, loop).result(120)

    do(server.__aenter__())
    try:
        yield server.url
    finally:
        do(server.__aexit__())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
async def test_a_second_server_begins_with_the_snapshot_of_the_first(
    litecoind, server_for, tmp_path, engine
):
    ChainBuilder(litecoind, scripts=40).build(blocks=110, txs=60)
    first = server_for(litecoind, protocols=("tcp", "rpc"), DB_ENGINE=engine)
    first.wait_height(litecoind.height())
    snapshot = tmp_path / "snapshot"
    rpc(first, "backup", str(snapshot))
    litecoind.mine(3)

    second = tmp_path / "second" / "db"
    second.parent.mkdir()
    settings = {"COIN": "Litecoin", "NET": "regtest", "DB_ENGINE": engine}
    with served(snapshot) as url:
        out = await asyncio.to_thread(type_in, "electrumx_restore", url, str(second), env=settings)
    assert f"is a database of height {litecoind.height() - 3}" in out
    verdict = verify_stopped(first, "--deep", DB_DIRECTORY=str(second))
    assert "verdict: sound (deep audit" in verdict

    restored = server_for(litecoind, "second", protocols=("tcp",), DB_ENGINE=engine)
    await assert_same_index(restored, Oracle(litecoind))
