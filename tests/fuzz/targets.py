"""The fuzz targets: for each family of formats a function of any bytes, and laws that it checks.

A target takes bytes and returns nothing; whatever it raises is a finding.  The parsers may raise
the one documented error, DeserializeError, and nothing else.  What they do accept has to obey:

- a reader's cursor stays within the buffer, and the result has no more items than bytes;
- a transaction that was read, written and read again is the same;
- a block's loop gives the same as reading one transaction after the other;
- the verdict and content of the Cython parser are the pure-Python one's.

The first byte of the input chooses the coin and the parsed part, so that one run covers a
family.  Needs nothing that is not installed with the server.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from electrumx.lib.coins import Coin, CoinError
from electrumx.lib.errors import DeserializeError, SkipTxDeserialize
from electrumx.lib.hash import Base58, Base58Error
from electrumx.lib.header_hashes import HeaderHashError
from electrumx.lib.script import (
    Script,
    ScriptError,
    ScriptPubKey,
    is_unspendable_genesis,
    is_unspendable_legacy,
)
from electrumx.lib.tx.cash_tokens import locking_script
from tests.fuzz import connections

# Longest input in bytes: a header of Equihash and two transactions with proofs fit.
MAX_LEN = 8192

BLOCK, TRANSACTION = "block", "transaction"

Run = Callable[[bytes], None]


class Entry(NamedTuple):
    """One way to read an input."""

    coin: type[Coin]
    what: str
    height: int  # of a block


def all_coins() -> list[type[Coin]]:
    """Return this program's coins in the order of their names."""
    found, todo = set(), [Coin]
    while todo:
        for coin in todo.pop().__subclasses__():
            todo.append(coin)
            if hasattr(coin, "NAME") and coin.__module__.startswith("electrumx."):
                found.add(coin)
    return sorted(found, key=lambda coin: coin.__name__)


def family_of(coin: type[Coin]) -> str:
    """Return the name of the module that reads the coin's transactions."""
    module = coin.DESERIALIZER.__module__.rpartition(".")[2]
    return "dip2" if module in ("tx_axe", "tx_dash") else module


def _heights(coin: type[Coin]) -> list[int]:
    """Return heights at which the coin's headers are read in different ways."""
    heights = [0, 1]
    heights += [first for first, _size in getattr(coin, "HEADER_SIZES", ())[1:]]
    heights += [getattr(coin.DESERIALIZER, "FORK_BLOCK_HEIGHT", 1)]
    return list(dict.fromkeys(heights))


def _format_of(coin: type[Coin]) -> tuple[Any, ...]:
    """Return the properties in which coins' wire formats differ."""
    methods = tuple(getattr(coin, name).__func__ for name in ("block", "block_header"))
    sizes = tuple(getattr(coin, "HEADER_SIZES", ()))
    return coin.DESERIALIZER, *methods, coin.STATIC_BLOCK_HEADERS, coin.BASIC_HEADER_SIZE, sizes


def _families() -> dict[str, list[Entry]]:
    """Return by the module of its readers what a family is asked to read."""
    families: dict[str, list[Entry]] = {}
    seen: set[Any] = set()
    for coin in all_coins():
        entries = families.setdefault(family_of(coin), [])
        if _format_of(coin) not in seen:
            entries += [Entry(coin, BLOCK, height) for height in _heights(coin)]
        if coin.DESERIALIZER not in seen:
            entries.append(Entry(coin, TRANSACTION, 0))
        seen |= {_format_of(coin), coin.DESERIALIZER}
    return families


FAMILIES = _families()


def _count_items(tx: Any) -> int:
    return len(tx.inputs) + len(tx.outputs) + sum(map(len, getattr(tx, "witness", None) or ()))


def _check_transaction(coin: type[Coin], raw: bytes) -> None:
    reader = coin.DESERIALIZER
    outcomes = []
    for method in ("read_tx", "read_tx_and_hash", "read_tx_and_vsize"):
        found = reader(raw)
        try:
            read = getattr(found, method)()
        except DeserializeError as e:
            outcomes.append((type(e),))
            continue
        assert found.cursor <= len(raw), "read past the end"
        outcomes.append((read if method == "read_tx" else read[0], found.cursor))
        if method == "read_tx_and_hash":
            assert len(read[1]) == 32, "no hash"
        if method == "read_tx_and_vsize":
            assert 0 < read[1] <= found.cursor, "a size that cannot be"
    assert outcomes[0] == outcomes[1] == outcomes[2], "three ways to read, and results"
    if len(outcomes[0]) == 2:
        _check_written(coin, *outcomes[0])


def _check_written(coin: type[Coin], tx: Any, size: int) -> None:
    assert _count_items(tx) <= size, "more items than bytes"
    written = tx.serialize()
    # Counts and lengths may have been longer than need be.
    assert len(written) <= size, "written longer than read"
    if tx.inputs:
        # Without inputs what was written begins like a transaction with witness.
        assert coin.DESERIALIZER(written).read_tx() == tx, "read otherwise when written"


def _check_block(coin: type[Coin], raw: bytes, height: int) -> None:
    try:
        header = coin.block_header(raw, height)
    except DeserializeError:
        header = None
    else:
        assert raw.startswith(header), "a header that is not the block's beginning"
        assert header, "no header"
        coin.header_prevhash(header)
        try:
            assert len(coin.header_hash(header)) == 32, "no hash"
        except (DeserializeError, HeaderHashError):
            pass  # a header that cannot be hashed; an optional package
    try:
        block = coin.block(raw, height)
    except DeserializeError:
        block = None
    if block is None:
        return
    assert block.header == header, "two headers of one block"
    assert sum(_count_items(tx) + 1 for tx, _hash in block.transactions) <= len(raw)
    reader = coin.DESERIALIZER(b"".join(tx.serialize() for tx, _hash in block.transactions))
    for tx, tx_hash in block.transactions:
        assert len(tx_hash) == 32, "no hash"
        if not tx.inputs:
            break
        assert reader.read_tx() == tx, "read otherwise when written"


def _family(entries: list[Entry]) -> Run:
    def run(data: bytes) -> None:
        if not data:
            return
        entry, raw = entries[data[0] % len(entries)], data[1:]
        if entry.what == BLOCK:
            _check_block(entry.coin, raw, entry.height)
        else:
            _check_transaction(entry.coin, raw)

    return run


# -- the compiled parser

# A coin for each of its three formats.
COMPILED_COINS = [
    Coin.lookup_coin_class(name, "regtest")
    for name in ("BitcoinCashABC", "BitcoinSegwit", "Litecoin")
]


def _pure_content(coin: type[Coin], block: Any) -> Iterator[Any]:
    """Yield the fields of each transaction that the Cython parser keeps."""
    for tx, _hash in block.transactions:
        spent = [(txin.prev_hash, txin.prev_idx) for txin in tx.inputs if not txin.is_generation()]
        made = []
        for value, field in tx.outputs:
            script = locking_script(field) if coin.TOKENS_ACTIVATION == 0 else field
            flags = 1 * (not is_unspendable_legacy(script)) + 2 * (
                not is_unspendable_genesis(script)
            )
            hashX = coin.hashX_from_script(script) if flags else bytes(11)
            made.append((hashX, value % 2**64, flags))
        yield spent, made


def _verdict(parse: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return parse(raw)
    except SkipTxDeserialize:
        return "skip"
    except DeserializeError:
        return "malformed"


def compiled(data: bytes) -> None:
    """Compare the Cython parser with the pure-Python one."""
    from electrumx.server.block_processor import _fastblock

    if not data:
        return
    number, raw = data[0] % len(COMPILED_COINS), data[1:]
    coin = COMPILED_COINS[number]
    tx_format = (_fastblock.PLAIN, _fastblock.SEGWIT, _fastblock.LITECOIN)[number]
    readable = _verdict(lambda raw: coin.block(raw, 0), raw)
    tokens = coin.TOKENS_ACTIVATION == 0
    fast = _verdict(
        lambda raw: _fastblock.parse_block(raw, 80, tx_format, tokens, coin.WHOLE_BLOCKS), raw
    )
    if isinstance(readable, str) or isinstance(fast, str):
        assert readable == fast, "two verdicts"
        return
    assert readable.header == fast.header, "two headers"
    assert len(readable.transactions) == fast.tx_count, "two counts"
    hashes = b"".join(tx_hash for _tx, tx_hash in readable.transactions)
    assert hashes == fast.tx_hashes, "two hashes"
    assert list(_pure_content(coin, readable)) == fast.transactions(), "two contents"


# -- scripts and addresses

NAME_COINS = [coin for coin in all_coins() if getattr(coin, "NAME_SHAPES", None)]
HANDLERS = ScriptPubKey.PayToHandlers(
    *[lambda data, kind=kind: (kind, data) for kind in ("address", "script_hash", "pubkey")],
    unspendable=lambda: ("unspendable",),
    strange=lambda script: ("strange", script),
)


def scripts(data: bytes) -> None:
    """Read any bytes as a script: its operations, its kind, its name."""
    try:
        ops = Script.get_ops(data)
    except ScriptError:
        ops = None
    if ops is not None:
        assert len(ops) <= len(data), "more operations than bytes"
        assert len(Script.dump(data)) <= 25 * len(data), "a long text"
        pushed = sum(len(op[1]) for op in ops if isinstance(op, tuple))
        assert pushed + len(ops) <= len(data), "more data than bytes"
    kind = ScriptPubKey.pay_to(HANDLERS, data)
    assert ops is not None or kind == ("unspendable",), "a kind without operations"
    assert is_unspendable_legacy(data) >= is_unspendable_genesis(data)
    for coin in NAME_COINS:
        assert len(coin.hashX_from_script(data)) == 11, "no hashX"
        fields, rest = coin.split_name_script(data)
        assert data.endswith(rest), "an address that is not the script's end"
        assert fields is not None or rest == data, "an address that is cut"
        name_hashX = getattr(coin, "name_hashX_from_script", lambda script: None)(data)
        assert name_hashX is None or (len(name_hashX) == 11 and fields["name"][1] in data)


ADDRESS_COINS = sorted(
    {coin.DECODE_CHECK: coin for coin in all_coins()}.values(), key=lambda coin: coin.__name__
)


def addresses(data: bytes) -> None:
    """Read any text as an address, and any payload with the right checksum."""
    if not data:
        return
    coin, raw = ADDRESS_COINS[data[0] // 2 % len(ADDRESS_COINS)], data[1:200]
    if data[0] % 2:
        text = coin.ENCODE_CHECK(raw)
        assert coin.DECODE_CHECK(text) == raw, "decoded otherwise"
        assert Base58.encode(Base58.decode(text)) == text, "encoded otherwise"
    else:
        text = raw.decode("utf-8", "replace")
    try:
        script = coin.pay_to_address_script(text)
    except (Base58Error, CoinError):
        return
    assert len(script) in (23, 25), "a strange script"
    assert len(coin.address_to_hashX(text)) == 11, "no hashX"


TARGETS: dict[str, Run] = {
    **{family: _family(entries) for family, entries in sorted(FAMILIES.items())},
    "compiled": compiled,
    "scripts": scripts,
    "addresses": addresses,
    **connections.TARGETS,
}


def selectors(coin: type[Coin], what: str) -> Iterator[int]:
    """Yield the first bytes of inputs that the coin's family reads in the coin's ways."""
    for number, entry in enumerate(FAMILIES[family_of(coin)]):
        if entry.what != what:
            continue
        if what == BLOCK and _format_of(entry.coin) == _format_of(coin):
            yield number
        if what == TRANSACTION and entry.coin.DESERIALIZER is coin.DESERIALIZER:
            yield number
