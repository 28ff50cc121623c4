"""The facts in ``tests/data``: real blocks and transactions, coin parameters, vectors.

``tests/data/README.rst`` describes the files and their fields.  Every function here reads its file
once and returns rows that are not to be changed.

``python -m tests.facts add-block COIN NET BLOCK.json BLOCK.hex`` adds a block.
"""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from electrumx.lib.coins import Coin, CoinError

FOLDER = Path(__file__).resolve().parent / "data"
BLOCKS = "blocks"


class FactsError(Exception):
    """The block to add is invalid."""


class Block(NamedTuple):
    """A real block; hashes are hexadecimal, in display order."""

    coin: type[Coin]
    height: int
    hash: str
    prev_hash: str
    merkle_root: str
    txids: list[str]
    raw: bytes

    @property
    def name(self) -> str:
        """The block's name in the list of tests."""
        return f"{self.coin.NAME}-{self.coin.NET}-{self.height}"


class Output(NamedTuple):
    """An output of a real transaction; value in the smallest unit of the coin."""

    value: int
    script: bytes
    address: str | None
    name: str | None


class Transaction(NamedTuple):
    """A real transaction; inputs are pairs of a txid and the index of an output."""

    coin: type[Coin]
    txid: str
    inputs: list[list[Any]]
    outputs: list[Output]
    raw: bytes


class SyntheticTransaction(NamedTuple):
    """A transaction with random contents, and the fields that a parser finds.

    more: the fields that only its format has, by the name of the parsed transaction's attribute.
    """

    coin: type[Coin]
    format: str
    what: str
    txid: str
    version: int
    locktime: int
    inputs: list[dict[str, Any]]
    outputs: list[list[Any]]
    old_vsize: int
    more: dict[str, Any]
    raw: bytes


class CoinFacts(NamedTuple):
    """The parameters of a coin's class, by attribute; byte strings are hexadecimal."""

    class_name: str
    origin: str
    header_hash: dict[str, Any] | None
    values: dict[str, Any]


def _lines(name: str) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    text = (FOLDER / f"{name}.jsonl").read_text(encoding="ascii")
    return [json.loads(line) for line in text.splitlines()]


@functools.cache
def rows(name: str) -> tuple[dict[str, Any], ...]:
    """Return the rows of a file, as they are."""
    return tuple(_lines(name))


def _with_coin(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the class of its coin and its raw bytes."""
    coin = Coin.lookup_coin_class(row.pop("coin"), row.pop("net"))
    return {**row, "coin": coin, "raw": bytes.fromhex(row["raw"])}


@functools.cache
def blocks() -> tuple[Block, ...]:
    """Return all blocks, by coin, network and height."""
    return tuple(Block(**_with_coin(row)) for row in _lines(BLOCKS))


def block(coin: str, net: str, height: int) -> Block:
    """Return one block; KeyError if it is missing."""
    for item in blocks():
        if (item.coin.NAME, item.coin.NET, item.height) == (coin, net, height):
            return item
    raise KeyError((coin, net, height))


@functools.cache
def transactions() -> tuple[Transaction, ...]:
    """Return all real transactions that are there without their block."""
    found = [_with_coin(row) for row in _lines("transactions")]
    for row in found:
        row["outputs"] = [
            Output(**{**output, "script": bytes.fromhex(output["script"])})
            for output in row["outputs"]
        ]
    return tuple(Transaction(**row) for row in found)


@functools.cache
def synthetic_transactions() -> tuple[SyntheticTransaction, ...]:
    """Return made-up transactions of every format."""
    found = _lines("synthetic-transactions")
    return tuple(SyntheticTransaction(**_with_coin(row)) for row in found)


@functools.cache
def coins(origin: str) -> tuple[CoinFacts, ...]:
    """Return the parameters of coins: those of "1.15", "later" ones or the nets of "bitcoin"."""
    found = []
    for row in _lines("coins"):
        if row["origin"] == origin:
            name, rule = row.pop("class"), row.pop("header_hash", None)
            found.append(CoinFacts(name, row.pop("origin"), rule, row))
    return tuple(found)


def as_line(row: dict[str, Any]) -> str:
    """Return a row as it stands in a file of rows."""
    return json.dumps(row, separators=(",", ":")) + "\n"


def by_height(row: dict[str, Any]) -> tuple[str, str, int]:
    """Return the sort key of a block."""
    return row["coin"].lower(), row["net"], row["height"]


def _row_of(coin: type[Coin], of_node: dict[str, Any], raw: str) -> dict[str, Any]:
    """Return the row of a block that a node describes."""
    # A node of Decred lists the transactions of its second tree apart.
    txids = of_node["tx"] + of_node.get("stx", [])
    if not all(isinstance(txid, str) for txid in txids):
        raise FactsError("tx must be a list of txids, as getblock lists them at verbosity 1")
    return {
        "coin": coin.NAME,
        "net": coin.NET,
        "height": of_node["height"],
        "hash": of_node["hash"],
        "prev_hash": of_node["previousblockhash"],
        "merkle_root": of_node["merkleroot"],
        "txids": txids,
        "raw": bytes.fromhex("".join(raw.split())).hex(),
    }


def add_block(coin: str, net: str, described: str, raw: str) -> str:
    """Add a block to the file of blocks, or replace it, and return its name.

    described: the JSON object that a node's "getblock HASH 1" returns.  raw: the hexadecimal text
    that "getblock HASH 0" returns.  What a block must parse to is thus the node's word, never that
    of the parser under test.  Raises FactsError.
    """
    try:
        row = _row_of(Coin.lookup_coin_class(coin, net), json.loads(described), raw)
    except CoinError as e:
        raise FactsError(str(e)) from None
    except KeyError as e:
        raise FactsError(f"the description of the block lacks {e}") from None
    except (AttributeError, TypeError, ValueError) as e:
        raise FactsError(f"this is not what getblock returns: {e}") from None
    found = {by_height(known): known for known in _lines(BLOCKS)}
    found[by_height(row)] = row
    text = "".join(as_line(found[key]) for key in sorted(found))
    (FOLDER / f"{BLOCKS}.jsonl").write_text(text, encoding="ascii")
    return f"{row['coin']}-{row['net']}-{row['height']}"


def main(arguments: list[str]) -> str:
    """Run the command that the module's docstring names; return its output."""
    parser = argparse.ArgumentParser(prog="python -m tests.facts", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("add-block", help="add a block, or replace it")
    command.add_argument("coin", metavar="COIN")
    command.add_argument("net", metavar="NET")
    command.add_argument("described", metavar="BLOCK.json", type=Path, help="getblock HASH 1")
    command.add_argument("raw", metavar="BLOCK.hex", type=Path, help="getblock HASH 0")
    given = parser.parse_args(arguments)
    name = add_block(given.coin, given.net, given.described.read_text(), given.raw.read_text())
    return f"{name} is in tests/data; test it with: pytest tests/lib/test_fixtures.py -k {name}"


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except (FactsError, OSError) as e:
        sys.exit(f"Error: {e}")
