"""A real node with cookie authentication: started after the server, and restarted under load."""

import asyncio
import json
import os
import random
import urllib.request

import pytest

from tests.integration.nodes import Litecoind
from tests.integration.server import ServerProcess

pytestmark = [pytest.mark.daemon, pytest.mark.slow]

RESTARTS = 2
SOAK_RESTARTS = 20
# A node on a busy machine takes half a minute to stop and start again.
RESTART_SECS = 120


class CookieLitecoind(Litecoind):
    """Litecoin Core without a password; it writes a new cookie at each start."""

    WALLET = None

    def command(self):
        command = [
            word for word in super().command() if not word.startswith(("-rpcuser", "-rpcpassword"))
        ]
        return [*command, f"-rpccookiefile={self.cookie}", "-disablewallet"]

    @property
    def cookie(self):
        return self.folder / "cookie"

    @property
    def env(self):
        return {
            "COIN": self.COIN,
            "NET": self.NET,
            "DAEMON_URL": f"127.0.0.1:{self.port}",
            "DAEMON_COOKIE_FILE": str(self.cookie),
        }

    def login(self):
        return tuple(self.cookie.read_text().split(":"))


@pytest.fixture
def node(tmp_path, stopping):
    return stopping.enter_context(CookieLitecoind(tmp_path / "node"))


@pytest.mark.parametrize(
    "restarts", [RESTARTS, pytest.param(SOAK_RESTARTS, marks=pytest.mark.soak)]
)
async def test_restarts_of_the_node_under_load_lose_no_request(tmp_path, node, stopping, restarts):
    secrets = {node.login()[1]}
    server = ServerProcess(
        tmp_path / "server",
        node.env,
        protocols=("tcp", "rpc", "metrics"),
        REQUEST_TIMEOUT=RESTART_SECS,
    )
    node.stop()
    server.launch()
    stopping.callback(server.kill)
    await asyncio.to_thread(server.wait_log, "cookie file .* is missing", timeout=120)
    await asyncio.to_thread(node.start, port=node.port)
    await asyncio.to_thread(server.wait_serving)
    is_over = False
    answered = 0

    async def client_of_the_node(seed):
        nonlocal answered
        rng = random.Random(seed)
        async with server.connect() as client:
            while not is_over:
                # Each asks the node: the answer is not cached.
                blocks = rng.randrange(2, 1000)
                fee = await client.call("blockchain.estimatefee", blocks, timeout=RESTART_SECS)
                assert isinstance(fee, (int, float))
                answered += 1

    clients = [asyncio.create_task(client_of_the_node(seed)) for seed in range(4)]
    for _ in range(restarts):
        before = answered
        secrets.add(node.login()[1])
        await asyncio.to_thread(node.restart)
        while answered < before + 20:
            await asyncio.sleep(0.05)
            for task in clients:
                assert not task.done() or task.result()
    secrets.add(node.login()[1])
    info = server.rpc("getinfo")
    is_over = True
    await asyncio.gather(*clients)

    assert len(secrets) == restarts + 2
    seen = server.log() + json.dumps(info)
    for path in ("metrics", "status.json"):
        url = f"http://127.0.0.1:{server.ports['metrics']}/{path}"
        with urllib.request.urlopen(url, timeout=RESTART_SECS) as reply:
            seen += reply.read().decode()
    assert f"127.0.0.1:{node.port}" in seen
    assert not [secret for secret in secrets if secret in seen]
    assert "Traceback" not in seen
    assert "Unauthorized" not in seen
    assert server.terminate() == 0
    assert os.path.exists(node.cookie)
