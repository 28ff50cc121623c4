"""The fuzz targets run here once, over the fuzzer's first inputs; and they would notice faults."""

import functools

import pytest

from electrumx.lib.coins import Zcash
from electrumx.lib.tx import DeserializerSegWit, TxJoinSplit, TxOutput
from electrumx.server.block_processor import compiled_indexer as fast_index
from tests.conftest import require
from tests.fuzz import seeds, targets


@functools.cache
def seeds_by_target():
    found = {target: [] for target in targets.TARGETS}
    for target, seed in seeds.seeds():
        if len(seed) <= targets.MAX_LEN:
            found[target].append(seed)
    return found


def require_what_it_needs(target):
    require(target != "compiled" or fast_index.compiled, "the compiled form was not built")


@pytest.mark.parametrize("target", targets.TARGETS)
def test_a_target_has_seeds_and_nothing_against_them_or_their_beginnings(target):
    require_what_it_needs(target)
    run, found = targets.TARGETS[target], seeds_by_target()[target]
    assert found
    run(b"")
    for seed in found:
        run(seed)
        run(seed[: len(seed) // 2])
        run(seed[:-1])


@pytest.mark.parametrize("family", targets.FAMILIES)
def test_every_reader_of_a_family_is_reached_by_a_seed(family):
    entries = targets.FAMILIES[family]
    chosen = [entries[seed[0] % len(entries)] for seed in seeds_by_target()[family]]
    for what in (targets.BLOCK, targets.TRANSACTION):
        readers = {entry.coin.DESERIALIZER for entry in entries if entry.what == what}
        assert readers == {entry.coin.DESERIALIZER for entry in chosen if entry.what == what}


def run_all(target):
    for seed in seeds_by_target()[target]:
        targets.TARGETS[target](seed)


def run_those_of(target, coin, what):
    """Run a target's seeds that it reads as one coin's."""
    (number, *_rest) = targets.selectors(coin, what)
    for seed in seeds_by_target()[target]:
        if seed[0] == number:
            targets.TARGETS[target](seed)


def test_another_error_than_the_documented_one_is_noticed(monkeypatch):
    def read_tx(self):
        raise IndexError

    monkeypatch.setattr(Zcash.DESERIALIZER, "read_tx", read_tx)
    with pytest.raises(IndexError):
        run_those_of("zcash", Zcash, targets.BLOCK)


def test_a_transaction_that_reads_otherwise_when_written_is_noticed(monkeypatch):
    monkeypatch.setattr(TxOutput, "serialize", lambda self: bytes(9))
    with pytest.raises(AssertionError, match="read otherwise when written"):
        run_those_of("zcash", Zcash, targets.TRANSACTION)


def test_a_cursor_behind_the_end_is_noticed(monkeypatch):
    def read_tx(self):
        self.cursor = len(self.binary) + 1
        return TxJoinSplit(1, [], [], 0)

    monkeypatch.setattr(Zcash.DESERIALIZER, "read_tx", read_tx)
    with pytest.raises(AssertionError, match="past the end"):
        run_those_of("zcash", Zcash, targets.TRANSACTION)


def test_another_verdict_of_the_compiled_parser_is_noticed(monkeypatch):
    require_what_it_needs("compiled")
    original = DeserializerSegWit.read_tx_block
    monkeypatch.setattr(DeserializerSegWit, "read_tx_block", lambda self: original(self)[:-1])
    with pytest.raises(AssertionError, match="two counts"):
        run_all("compiled")
