"""Whatever a node answers, a call returns its promised result or raises DaemonError."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import electrumx
from electrumx.lib.coins import Coin
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.mempool_listing import Listing
from electrumx.server.daemon.variants import DecredDaemon, LegacyRPCDaemon
from tests.conftest import REPOSITORY

COIN = Coin.lookup_coin_class("Bitcoin", "regtest")
HASH = "ab" * 32

texts = st.sampled_from(["", "00", HASH, "zz", "é", "x\ny"]) | st.text(max_size=8)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
names = st.sampled_from(
    [
        *("feerate", "relayfee", "version", "hash", "height", "tx", "stx", "votebits", "txindex"),
        *("nextblockhash", "previousblockhash", "merkleroot", "time", "bits", "nonce", "code"),
    ]
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | texts, inner, max_size=4),
    max_leaves=8,
)


class Response:
    """An answer in place of aiohttp's."""

    status = 200
    reason = "OK"

    def __init__(self, value):
        self.headers = {"Content-Type": "application/json"}
        self.value = value

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_exc_info):
        pass

    async def json(self):
        return self.value


class Session:
    """Gives the set answers at first, and then an error, so that each call ends."""

    def __init__(self, answers, shape):
        self.answers = list(answers)
        self.shape = shape

    def post(self, _url, data="", **_options):
        request = json.loads(data)
        if not self.answers:
            return Response({"error": {"code": -1, "message": "no more"}})
        answer = self.answers.pop(0)
        if self.shape == "anything":
            return Response(answer)
        key = "error" if self.shape == "error" else "result"
        if isinstance(request, list):
            return Response([{key: answer, "id": item["id"]} for item in request])
        return Response({key: answer, "id": request["id"]})


def is_texts(value):
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_dicts(value):
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def is_fee(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


CALLS = {
    "height": (Daemon.height, lambda v: type(v) is int and 0 <= v < 1 << 32),
    "hashes": (lambda d: d.block_hex_hashes(0, 2), is_texts),
    "block": (lambda d: d.deserialised_block(HASH), lambda v: isinstance(v, dict)),
    "raw blocks": (
        lambda d: d.raw_blocks([HASH, HASH]),
        lambda v: len(v) == 2 and all(isinstance(raw, bytes) for raw in v),
    ),
    "mempool": (Daemon.mempool_hashes, is_texts),
    "listing": (Daemon.mempool_listing, lambda v: isinstance(v, Listing)),
    "estimatefee": (lambda d: d.estimatefee(2), is_fee),
    "network": (Daemon.getnetworkinfo, lambda v: isinstance(v, dict)),
    "mempool info": (Daemon.getmempoolinfo, lambda v: isinstance(v, dict)),
    "relayfee": (Daemon.relayfee, is_fee),
    "transaction": (lambda d: d.getrawtransaction(HASH), lambda v: isinstance(v, str)),
    "transactions": (
        lambda d: d.getrawtransactions([HASH, HASH]),
        lambda v: len(v) == 2 and all(raw is None or isinstance(raw, bytes) for raw in v),
    ),
    "broadcast": (lambda d: d.broadcast_transaction("00"), lambda v: isinstance(v, str)),
    "package": (lambda d: d.submitpackage(["00"]), lambda v: isinstance(v, dict)),
    "accept": (lambda d: d.testmempoolaccept(["00"]), is_dicts),
    "spender": (lambda d: d.gettxspendingprevout(HASH, 0), lambda v: isinstance(v, dict)),
    "header": (lambda d: d.getblockheader(HASH), lambda v: isinstance(v, dict)),
    "outputs": (Daemon.gettxoutsetinfo, lambda v: isinstance(v, dict)),
    "target": (Daemon.sync_target, lambda v: v is None or isinstance(v, int)),
    "size": (Daemon.size_on_disk, lambda v: v is None or (isinstance(v, int) and v >= 0)),
    "indexes": (Daemon.getindexinfo, lambda v: isinstance(v, dict)),
    "aside": (
        lambda d: d.call_aside(d.current_url(), "waitfornewblock", (1,), 1),
        lambda _value: True,
    ),
    "legacy blocks": (lambda d: d.raw_blocks([HASH]), is_raw := lambda v: type(v[0]) is bytes),
    "decred blocks": (lambda d: d.raw_blocks([HASH]), is_raw),
    "decred mempool": (DecredDaemon.mempool_hashes, is_texts),
}
CLASSES = {
    "legacy blocks": LegacyRPCDaemon,
    "decred blocks": DecredDaemon,
    "decred mempool": DecredDaemon,
}


@pytest.mark.parametrize("name", sorted(CALLS))
@settings(max_examples=25, deadline=None)
@given(
    answers=st.lists(values, min_size=1, max_size=3),
    shape=st.sampled_from(["result", "result", "error", "anything"]),
)
def test_a_call_returns_its_promised_result_or_raises_a_daemon_error(name, answers, shape):
    call, is_promised = CALLS[name]

    async def run():
        cls = CLASSES.get(name, Daemon)
        daemon = cls(COIN, "http://u:p@127.0.0.1:8332/", init_retry=0.0, max_retry=0.0)
        daemon.session = Session(answers, shape)
        try:
            return True, await asyncio.wait_for(call(daemon), 120)
        except DaemonError:
            return False, None
        except ConnectionError:
            # call_aside() raises it for everything that is no answer.
            assert name == "aside"
            return False, None

    answered, value = asyncio.run(run())
    assert not answered or is_promised(value)


CALL = re.compile(r'[_.](?:send\w*|hex_batch|info\.get\(lambda: self\._send_for_dict)\(\s*"(\w+)"')


def test_the_manual_lists_every_call_in_its_whitelist():
    server = Path(electrumx.__file__).parent / "server"
    client, fees, checks, tip_watcher = [
        (server / f"daemon/{name}.py").read_text()
        for name in ("client", "fees", "start_checks", "tip_watcher")
    ]
    made = {call for source in (client, fees, checks) for call in CALL.findall(source)}
    made |= set(re.findall(r'^METHOD = "(\w+)"', tip_watcher, re.MULTILINE))
    [line] = re.findall(
        r"rpcwhitelist=electrumx:(\S+)", (REPOSITORY / "docs/HOWTO.rst").read_text()
    )

    assert made <= set(line.split(","))
    assert len(made) > 12
