"""Memory stays bounded at a node that answers without end; measured in a process of its own."""

import json
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import asyncio, json, logging, resource, sys
    from electrumx.lib.coins import Coin
    from electrumx.server.daemon import Daemon, DaemonError

    CHUNK = b"100000\\r\\n" + b" " * (1 << 20) + b"\\r\\n"

    async def endless(reader, writer):
        try:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            writer.write(
                b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\n"
                b"Transfer-Encoding: chunked\\r\\n\\r\\n"
            )
            while True:
                writer.write(CHUNK)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def peak_mb():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    async def main():
        server = await asyncio.start_server(endless, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        coin = Coin.lookup_coin_class("Bitcoin", "regtest")
        async with Daemon(coin, f"http://u:p@127.0.0.1:{port}/") as daemon:
            before = peak_mb()
            calls = [
                daemon.height,
                daemon.getnetworkinfo,
                daemon.getindexinfo,
                lambda: daemon.block_hex_hashes(0, 100),
                lambda: daemon.estimatefee(2),
                lambda: daemon.broadcast_transaction("00"),
                lambda: daemon.getrawtransaction("00", True, max_bytes=5_000_000),
            ]
            answers = await asyncio.gather(
                *(call() for call in calls for _ in range(3)), return_exceptions=True
            )
            print(json.dumps({
                "growth": peak_mb() - before,
                "answers": [f"{type(answer).__name__}: {answer}" for answer in answers],
            }))

    asyncio.run(main())
    """
)


@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
def test_answers_without_end_take_bounded_memory_and_are_named():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout)

    assert len(found["answers"]) == 21
    assert all("ReplyTooLargeError" in answer for answer in found["answers"])
    assert "the daemon's answer to getblockcount is larger than 1,000,000 bytes" in done.stdout
    # Ten requests are in flight, of up to 5 MB.
    assert found["growth"] < 150
