"""The files of facts: their form, their description, and how a block is added."""

import json
import re
import shutil

import pytest

from tests import facts

ROWS = sorted(facts.FOLDER.glob("*.jsonl"))
README = facts.FOLDER / "README.rst"
BLOCKS = facts.FOLDER / f"{facts.BLOCKS}.jsonl"
# The bytes that a clone may spend on them.
MAX_BYTES = 8_000_000
# Fields whose own fields have the names of attributes of the code.
NAMED_ELSEWHERE = {"extra_payload", "PEER_DEFAULT_PORTS"}
IN_ALL_FILES = {"coin", "net"}


def keys_in(value):
    """Return the names of all fields in a value from JSON."""
    if isinstance(value, list):
        return set().union(*map(keys_in, value))
    if not isinstance(value, dict):
        return set()
    inside = [item for key, item in value.items() if key not in NAMED_ELSEWHERE]
    return set(value) | keys_in(inside)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The file of blocks in a folder of its own, which the functions of facts use."""
    monkeypatch.setattr(facts, "FOLDER", tmp_path)
    return shutil.copy(BLOCKS, tmp_path / BLOCKS.name)


def assert_same(before, path):
    """Compare without the difference of texts that pytest would compute for minutes."""
    same = path.read_text() == before
    assert same, path


def described(block, **changes):
    """Return a block as a node's getblock describes it."""
    of_node = {
        "hash": block.hash,
        "confirmations": 5,
        "height": block.height,
        "merkleroot": block.merkle_root,
        "tx": block.txids,
        "previousblockhash": block.prev_hash,
    }
    return json.dumps({**of_node, **changes})


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.name)
def test_every_row_is_a_line_in_the_one_form(path):
    text = path.read_text(encoding="ascii")
    assert text == "".join(facts.as_line(json.loads(line)) for line in text.splitlines())


def test_blocks_are_sorted_and_each_is_there_once():
    keys = [facts.by_height(row) for row in facts.rows(facts.BLOCKS)]
    assert keys == sorted(set(keys))


def test_nothing_else_is_there_and_all_is_small():
    files = list(facts.FOLDER.iterdir())
    assert sorted(files) == sorted([*ROWS, README])
    assert sum(path.stat().st_size for path in files) < MAX_BYTES


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.name)
def test_every_field_is_described(path):
    rows = list(facts.rows(path.stem))
    sections = re.split(r"^``([\w.-]+)``\n=+$", README.read_text(), flags=re.MULTILINE)
    section = dict(zip(sections[1::2], sections[2::2], strict=True))[path.name]
    fields = {key for key in keys_in(rows) - IN_ALL_FILES if not key.isupper()}
    assert {key for key in fields if f"``{key}``" not in section} == set()


def test_a_block_that_is_not_there_is_a_key_error():
    with pytest.raises(KeyError, match="Litecoin"):
        facts.block("Litecoin", "mainnet", 1)


def test_a_block_is_added_where_it_belongs(copied, tmp_path):
    before = copied.read_text()
    block = facts.block("Namecoin", "mainnet", 19_200)
    rest = [line for line in before.splitlines(keepends=True) if block.hash not in line]
    copied.write_text("".join(rest))
    (tmp_path / "block.json").write_text(described(block))
    (tmp_path / "block.hex").write_text(block.raw.hex().upper() + "\n")
    files = [str(tmp_path / "block.json"), str(tmp_path / "block.hex")]

    said = facts.main(["add-block", "namecoin", "MainNet", *files])

    assert said.startswith("Namecoin-mainnet-19200 is in tests/data")
    assert_same(before, copied)


def test_a_block_that_is_there_is_replaced(copied):
    block = facts.block("Namecoin", "mainnet", 19_200)

    facts.add_block("Namecoin", "mainnet", described(block, hash="ab" * 32), block.raw.hex())

    lines = copied.read_text().splitlines()
    assert len(lines) == len(facts.blocks())
    assert [json.loads(line)["coin"] for line in lines if "ab" * 32 in line] == ["Namecoin"]


def test_transactions_of_a_second_tree_follow_those_of_the_first(copied):
    block = facts.block("Decred", "mainnet", 120_000)
    before = copied.read_text()

    apart = described(block, tx=block.txids[:2], stx=block.txids[2:])
    facts.add_block("Decred", "mainnet", apart, block.raw.hex())

    assert_same(before, copied)


@pytest.mark.parametrize(
    ("coin", "text", "raw", "message"),
    [
        ("Nocoin", "{}", "00", "Nocoin"),
        ("Namecoin", "{}", "00", "lacks 'tx'"),
        ("Namecoin", '{"tx": []}', "00", "lacks 'height'"),
        ("Namecoin", '{"tx": [{"txid": "ab"}]}', "00", "verbosity 1"),
        ("Namecoin", '"00ff"', "00", "not what getblock returns"),
        ("Namecoin", "no JSON", "00", "not what getblock returns"),
        ("Namecoin", None, "no hex", "not what getblock returns"),
    ],
)
def test_a_description_that_no_node_gives_is_refused_and_changes_nothing(
    copied, coin, text, raw, message
):
    before = copied.read_text()
    if text is None:
        text = described(facts.block("Namecoin", "mainnet", 19_200))

    with pytest.raises(facts.FactsError, match=message):
        facts.add_block(coin, "mainnet", text, raw)

    assert_same(before, copied)
