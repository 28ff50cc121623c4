"""A real node that allows few calls, to a user whose password is not ASCII."""

import hashlib
import hmac

import pytest

from tests.integration.client import ElectrumError
from tests.integration.nodes import Litecoind
from tests.integration.server import ServerProcess

pytestmark = [pytest.mark.daemon, pytest.mark.slow]

LOGIN = ("wallets", "pässwörd-密码")
# Of version 1.15's calls all but getnetworkinfo, for which a client asks below.
ALLOWED = (
    "getblockcount,getblockhash,getblock,getrawmempool,getrawtransaction,sendrawtransaction,"
    "estimatesmartfee,estimatefee"
)


class CautiousLitecoind(Litecoind):
    """Litecoin Core with a second user with a whitelist of few calls."""

    def command(self):
        user, password = LOGIN
        digest = hmac.new(b"00ff", password.encode(), hashlib.sha256).hexdigest()
        return [
            *super().command(),
            f"-rpcauth={user}:00ff${digest}",
            f"-rpcwhitelist={user}:{ALLOWED}",
            "-rpcwhitelistdefault=0",
        ]


async def test_a_node_that_allows_only_the_calls_of_1_15_is_enough(tmp_path, stopping):
    node = stopping.enter_context(CautiousLitecoind(tmp_path / "node"))
    node.mine(5)
    url = f"http://{LOGIN[0]}:{LOGIN[1]}@127.0.0.1:{node.port}/"
    env = {**node.env, "DAEMON_URL": url}
    server = stopping.enter_context(
        ServerProcess(tmp_path / "server", env, protocols=("tcp", "rpc"))
    )
    async with server.connect() as client:
        assert (await client.call("blockchain.headers.subscribe"))["height"] == 5
        node.mine(1)
        assert (await client.notification("blockchain.headers.subscribe"))[0]["height"] == 6
        # Refused at once, not repeated until the request's time is up.
        with pytest.raises(ElectrumError, match="does not allow getnetworkinfo"):
            await client.call("blockchain.relayfee")
    log = server.log()
    assert log.count("does not let us list its indexes") == 1
    assert log.count("does not allow getnetworkinfo") == 1
    assert "Retrying" not in log
    assert "Traceback" not in log
    assert LOGIN[1] not in log
