"""Every method in every version of the protocol: served or unknown, its answer, errors and cost."""

import pytest

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.session import ElectrumX, NameElectrumX
from electrumx.server.session.engine.method_registry import handler_names
from electrumx.server.session.shared.serving_stage import WITHOUT_INDEX
from tests.fakes.session_world import FakeCoin, make_tx_hash, script_hash, session_world, sha256

VERSIONS = ["1.4", "1.4.2", "1.4.3", "1.6", "1.7"]
ALL = frozenset(VERSIONS)
OLD, FROM_1_6, ONLY_1_7 = ALL - {"1.6", "1.7"}, frozenset({"1.6", "1.7"}), frozenset({"1.7"})
BELOW_1_7 = ALL - ONLY_1_7
SH, NAME = script_hash("alice")[0], script_hash("name")[0]
SCRIPT = "0014" + "ab" * 20
TXID = hash_to_hex_str(make_tx_hash("some"))
BLOCK_TX = hash_to_hex_str(make_tx_hash(5, 1))
HASH_ERROR = "x should be a transaction hash"
INT_ERROR = "x should be a non-negative integer"
HEX_ERROR = "x should be a hex string"
FEES = {"mempoolminfee": 2e-5, "minrelaytxfee": 1e-5, "incrementalrelayfee": 1e-5}
ANY = object()


class NameCoin(FakeCoin):
    SESSIONCLS = NameElectrumX
    NAME_EXPIRY_BLOCKS = None
    TRUNCATED_HEADER_SIZE = 80


def scripts(prefix, param, bad, versions, *, in_object):
    """The methods of scripts, by hash or not."""
    bad_error = "x is not a valid script hash" if prefix.endswith("hash") else HEX_ERROR
    history, utxos = ({"history": []}, {"utxos": []}) if in_object else ([], [])
    balance = {"confirmed": 0, "unconfirmed": 0}
    for verb, answer, cost in (
        ("get_balance", balance, 1.0),
        ("get_history", history, 0.5),
        ("get_mempool", history, 0.25),
        ("listunspent", utxos, 1.0),
        ("subscribe", None, ANY),
        ("unsubscribe", True, 0.1),
    ):
        yield f"{prefix}.{verb}", [param], versions, answer, [bad], bad_error, cost


# method, good arguments, versions, answer, bad arguments, their error, cost
ROWS = [
    ("blockchain.block.header", [3], ALL, ANY, ["x"], INT_ERROR, 0.25),
    ("blockchain.block.headers", [3, 2], ALL, ANY, [3, "x"], INT_ERROR, ANY),
    ("blockchain.estimatefee", [2], ALL, 0.0002, ["x"], INT_ERROR, 2.1),
    ("blockchain.headers.subscribe", [], ALL, ANY, None, None, 0.25),
    ("blockchain.name.get_value_proof", [NAME], ALL - {"1.4", "1.4.2"}, {NAME: []}, [NAME, "x"],
     INT_ERROR, ANY),
    *((*row[:2], ONLY_1_7, *row[3:]) for row in (
        ("blockchain.outpoint.get_status", [TXID, 2**40, ""], 0, {}, ["x", 0, ""], HASH_ERROR, 0.2),
        ("blockchain.outpoint.subscribe", [TXID, 2**40, ""], 0, {}, [TXID, "x", ""], INT_ERROR,
         0.2),
        ("blockchain.outpoint.unsubscribe", [TXID, 2**40], 0, True, ["x", 0], HASH_ERROR, 0.1),
    )),
    ("blockchain.relayfee", [], OLD, 1e-5, None, None, 1.0),
    *scripts("blockchain.scripthash", SH, "x", BELOW_1_7, in_object=False),
    *scripts("blockchain.scriptpubkey", SCRIPT, "x", ONLY_1_7, in_object=True),
    ("blockchain.transaction.broadcast", ["beef"], ALL, ANY, ["x"], HEX_ERROR, 0.25 + 4 / 5000),
    ("blockchain.transaction.broadcast_package", [["be", "ef"]], FROM_1_6, {"success": True},
     ["x"], "x should be a list", 0.25 + 4 / 5000),
    ("blockchain.transaction.get", [TXID], ALL, "beef" * 4, ["x"], HASH_ERROR, 1.0),
    ("blockchain.transaction.get_merkle", [BLOCK_TX, 5], ALL, ANY, ["x", 5], HASH_ERROR, ANY),
    ("blockchain.transaction.id_from_pos", [5, 1], ALL, BLOCK_TX, [5, "x"], INT_ERROR, ANY),
    ("blockchain.transaction.testmempoolaccept", [["be", "ef"]], ONLY_1_7, [], ["x"],
     "x should be a list", 0.25 + 4 / 5000),
    ("mempool.get_fee_histogram", [], ALL, ANY, None, None, 1.0),
    ("mempool.get_info", [], FROM_1_6, FEES, None, None, 1.0),
    ("mempool.recent", [], ONLY_1_7, [], None, None, 1.0),
    ("server.add_peer", [{}], ALL, True, None, None, 100.0),
    ("server.banner", [], ALL, ANY, None, None, 0.5),
    ("server.donation_address", [], ALL, "donate-here", None, None, 0.1),
    ("server.features", [], ALL, ANY, None, None, 0.2),
    ("server.peers.subscribe", [], ALL, ANY, None, None, 1.0),
    ("server.ping", [], ALL, ANY, None, None, 0.1),
]  # fmt: skip


def test_the_table_has_every_method():
    served = set()
    for version in ((1, 4), (1, 4, 2), (1, 4, 3), (1, 6), (1, 7)):
        served |= set(handler_names(NameElectrumX.handler_groups, version))

    assert served - {row[0] for row in ROWS} == {"server.version"}
    assert {row[0] for row in ROWS} <= served
    assert "blockchain.name.get_value_proof" not in handler_names(ElectrumX.handler_groups, (1, 7))


@pytest.mark.usefixtures("free_way")
@pytest.mark.parametrize("version", VERSIONS)
async def test_each_version_serves_its_methods_and_no_other(version):
    async with session_world(
        coin=NameCoin, protocol_max=(1, 7, 0), bw_unit_cost=10**15, cost_hard_limit=0
    ) as world:
        client = await world.connect()
        await client.request("server.version", "x", version)
        account = world.session().account
        for method, params, versions, answer, bad, error, cost in ROWS:
            account.cost = 0.0
            reply = await client.ask(method, *params)
            charged = account.cost
            if version not in versions:
                unknown = {"code": -32601, "message": f'unknown method "{method}"'}
                assert reply["error"] == unknown, method
                continue
            assert "result" in reply, (method, reply)
            assert answer is ANY or reply["result"] == answer, method
            if bad is not None:
                assert (await client.error(method, *bad)) == (1, error), method
            if cost is not ANY:
                assert charged == pytest.approx(cost, abs=0.0001), method


@pytest.mark.usefixtures("free_way")
@pytest.mark.parametrize("version", VERSIONS)
async def test_while_the_index_is_built_each_version_serves_the_methods_that_do_not_need_it(
    version,
):
    async with session_world(
        coin=NameCoin, protocol_max=(1, 7, 0), bw_unit_cost=10**15, cost_hard_limit=0
    ) as world:
        stage = world.manager.shared.stage
        stage.is_indexing = True
        client = await world.connect()
        await client.request("server.version", "x", version)
        account = world.session().account
        for method, params, versions, answer, bad, error, cost in ROWS:
            account.cost = 0.0
            reply = await client.ask(method, *params)
            charged = account.cost
            if version not in versions:
                assert reply["error"]["code"] == -32601, method
            elif method in WITHOUT_INDEX:
                assert answer is ANY or reply["result"] == answer, method
                assert cost is ANY or charged == pytest.approx(cost, abs=0.0001), method
                if bad is not None:
                    assert (await client.error(method, *bad)) == (1, error), method
            else:
                assert reply["error"]["code"] == 4, method
                assert charged == pytest.approx(0.5, abs=0.0001), method
                # Whatever the arguments are
                assert (await client.error(method))[0] == 4
                assert (await client.error(method, nonsense=1))[0] == 4
        stage.is_indexing = False
        world.manager.shared.table.renew_handlers()
        for method, params, versions, *_others in ROWS:
            reply = await client.ask(method, *params)
            assert ("result" in reply) == (version in versions), method


@pytest.mark.parametrize(
    ("version", "kind"), [("1.4", str), ("1.4.3", str), ("1.6", list), ("1.7", list)]
)
async def test_the_form_of_headers_goes_by_the_version(version, kind):
    async with session_world(protocol_max=(1, 7, 0)) as world:
        client = await world.connect()
        await client.request("server.version", "x", version)
        answer = await client.request("blockchain.block.headers", 3, 2)
        member = {str: "hex", list: "headers"}[kind]
        assert {member, "count", "max"} == set(answer)
        assert type(answer[member]) is kind


@pytest.mark.usefixtures("free_way")
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_history_that_is_too_large_has_one_code_in_every_version(version):
    async with session_world(protocol_max=(1, 7, 0), max_send=350_000) as world:
        client = await world.connect()
        await client.request("server.version", "x", version)
        digest = sha256(bytes.fromhex(SCRIPT))
        world.db.histories[digest[:11]] = [(make_tx_hash(n), 3) for n in range(20_000)]
        method, param = "blockchain.scripthash.get_history", hash_to_hex_str(digest)
        if version == "1.7":
            method, param = "blockchain.scriptpubkey.get_history", SCRIPT
        assert (10001, "history too large") == await client.error(method, param)
