"""Real blocks and transactions, of every coin that we have."""

import json

from electrumx.lib.coins import Coin, CoinError
from electrumx.lib.hash import hash_to_hex_str, hex_str_to_hash
from electrumx.lib.merkle import Merkle
from electrumx.lib.tx import Deserializer, DeserializerSegWit

# Formats of the facts that are read by our two plainest parsers, whosever coins they are.
PARSERS = {"T1": Deserializer, "T2": DeserializerSegWit}


def load(folder):
    """Yield (name and net of the coin, the fixture) of each file."""
    for path in sorted(folder.iterdir()):
        name, net, _ = path.stem.split("_", 2)
        yield name, net, json.loads(path.read_text())


def raw_bytes(text):
    return bytes.fromhex("".join(text.split()))


def with_coins(folder):
    for name, net, fixture in load(folder):
        try:
            coin = Coin.lookup_coin_class(name, net)
        except CoinError:
            continue
        yield coin, fixture


def test_blocks_parse_to_their_hashes_and_transactions(facts):
    cases = list(with_coins(facts / "fixtures" / "blocks"))
    assert cases
    for coin, fixture in cases:
        raw = raw_bytes(fixture["block"])
        block = coin.block(raw, fixture["height"])
        assert raw == block.raw
        assert block.header == coin.block_header(raw, fixture["height"])
        assert fixture["hash"] == hash_to_hex_str(coin.header_hash(block.header))
        assert fixture["previousblockhash"] == hash_to_hex_str(coin.header_prevhash(block.header))
        assert fixture["merkleroot"] == hash_to_hex_str(block.header[36:68])
        assert fixture["tx"] == [hash_to_hex_str(tx_hash) for _, tx_hash in block.transactions]


def formats(facts):
    """Map (NAME in lower case, NET) to the coin's header and transaction formats."""
    coins = json.loads((facts / "coins.json").read_text())
    return {
        (coin["NAME"].lower(), coin["NET"]): coins["families"][coin["family"]]["formats"].split(
            " + "
        )
        for coin in coins["coins"]
    }


def test_blocks_of_the_two_plainest_formats_parse_to_their_transactions(facts):
    formats_by_coin = formats(facts)
    cases = 0
    for name, net, fixture in load(facts / "fixtures" / "blocks"):
        header_format, tx_format = formats_by_coin[name, net]
        if header_format != "B1" or tx_format not in PARSERS:
            continue
        raw = raw_bytes(fixture["block"])
        tx_hashes = [tx_hash for _, tx_hash in PARSERS[tx_format](raw, start=80).read_tx_block()]
        assert fixture["tx"] == [hash_to_hex_str(tx_hash) for tx_hash in tx_hashes]
        assert raw[36:68] == Merkle().root(tx_hashes)
        cases += 1
    assert cases > 10


def check_transaction(reader, fixture):
    tx, tx_hash = reader(raw_bytes(fixture["hex"])).read_tx_and_hash()
    assert fixture["txid"] == hash_to_hex_str(tx_hash)
    prevouts = [(hex_str_to_hash(vin["txid"]), vin["vout"]) for vin in fixture["vin"]]
    assert prevouts == [(txin.prev_hash, txin.prev_idx) for txin in tx.inputs]
    outputs = [(vout["value"], vout["scriptPubKey"]["hex"]) for vout in fixture["vout"]]
    assert outputs == [(txout.value, txout.pk_script.hex()) for txout in tx.outputs]


def test_transactions_of_the_two_plainest_formats_parse_to_their_parts(facts):
    formats_by_coin = formats(facts)
    cases = 0
    for name, net, fixture in load(facts / "fixtures" / "transactions"):
        parser = PARSERS.get(formats_by_coin[name, net][1])
        if parser:
            check_transaction(parser, fixture)
            cases += 1
    assert cases


def test_transactions_of_our_coins_parse_to_their_parts_and_addresses(facts):
    """None of the first coins has such a fixture; the test is for those that join them."""
    for coin, fixture in with_coins(facts / "fixtures" / "transactions"):
        check_transaction(coin.DESERIALIZER, fixture)
        for vout in fixture["vout"]:
            script = vout["scriptPubKey"]
            address = script.get("address") or script.get("addresses", [None])[0]
            if address:
                hashX = coin.hashX_from_script(bytes.fromhex(script["hex"]))
                assert hashX == coin.address_to_hashX(address)


def test_synthetic_transactions_parse_to_what_the_facts_say(facts):
    vectors = json.loads((facts / "synthetic-transactions.json").read_text())["transactions"]
    cases = 0
    for vector in vectors:
        try:
            coin = Coin.lookup_coin_class(vector["coin"], vector["net"])
        except CoinError:
            continue
        raw = bytes.fromhex(vector["hex"])
        tx, tx_hash = coin.DESERIALIZER(raw).read_tx_and_hash()
        assert vector["txid"] == hash_to_hex_str(tx_hash)
        assert (vector["version"], vector["locktime"]) == (tx.version, tx.locktime)
        assert vector["inputs"] == [
            {
                "prev_hash": hash_to_hex_str(txin.prev_hash),
                "prev_idx": txin.prev_idx,
                "is_generation": txin.is_generation(),
            }
            for txin in tx.inputs
        ]
        assert vector["outputs"] == [[out.value, out.pk_script.hex()] for out in tx.outputs]
        cases += 1
    assert cases >= 5


def test_the_size_of_synthetic_bitcoin_transactions_is_bip141s(facts):
    """The figures of the facts are those of 1.15, which left out 8 bytes and rounded down."""
    vectors = json.loads((facts / "synthetic-transactions.json").read_text())["transactions"]
    plain = witness = 0
    for vector in vectors:
        raw = bytes.fromhex(vector["hex"])
        if vector["format"] == "T1" or (vector["format"] == "T2" and raw[4]):
            assert vector["vsize_1_15"] == DeserializerSegWit(raw).read_tx_and_vsize()[1]
            plain += 1
        elif vector["format"] == "T2":
            tx, vsize = DeserializerSegWit(raw).read_tx_and_vsize()
            base = 10 + sum(len(item.serialize()) for item in [*tx.inputs, *tx.outputs])
            assert len(tx.inputs) < 253
            assert len(tx.outputs) < 253
            assert -((3 * base + len(raw)) // -4) == vsize
            assert (3 * (base - 8) + len(raw)) // 4 == vector["vsize_1_15"]
            witness += 1
    assert plain
    assert witness
