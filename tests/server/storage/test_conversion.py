"""Rows are converted once each, prefix by prefix, also when a kill interrupts the conversion."""

import logging

import pytest

from electrumx.server.history.upgrade import upgrade_history
from electrumx.server.storage import conversion, db_class
from electrumx.server.storage.conversion import PREFIXES, Progress, convert_by_prefix
from electrumx.server.storage.schema import HIST_STATE_KEY, HistState

LOGGER = logging.getLogger("conversion")
LAST_PREFIX = PREFIXES - 1


@pytest.fixture
def store(tmp_path, engine):
    store = db_class(engine)(str(tmp_path / "store"), False)
    yield store
    store.close()


def converted(store, prefixes, size=1):
    """Return the prefixes converted, and the cursors noted in the batches."""
    calls, cursors = [], []

    def convert(_batch, prefix):
        calls.append(int.from_bytes(prefix, "big"))
        return size

    progress = Progress(LOGGER, "converting")
    batches = convert_by_prefix(
        iter(prefixes), store, convert, progress, lambda _batch, cursor: cursors.append(cursor)
    )
    assert list(batches) == cursors
    return calls, cursors


def test_each_prefix_is_converted_once(store):
    assert converted(store, [3, 700, LAST_PREFIX]) == ([3, 700, LAST_PREFIX], [LAST_PREFIX])


def test_large_prefixes_have_batches_of_their_own(store):
    calls, cursors = converted(store, [3, 700], size=conversion.BATCH_BYTES)

    assert calls == [3, 700]
    assert cursors == [3, 700, LAST_PREFIX]


def test_no_prefix_is_converted_that_has_no_rows(store):
    assert converted(store, []) == ([], [LAST_PREFIX])


def test_a_history_upgrade_killed_after_its_last_rows_keeps_them_at_the_next_start(store):
    key = b"\xff" * 11 + b"\0\1"
    store.put(key, bytes(4))
    state = HistState(flush_count=1, db_version=0)

    class Killed(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:

        def kill(_name):
            raise Killed

        patch.setattr("electrumx.server.history.upgrade.fault_point", kill)
        with pytest.raises(Killed):
            upgrade_history(store, state, LOGGER)
    assert store.get(key) == bytes(5)
    state = HistState.parse(store.get(HIST_STATE_KEY))
    assert state.db_version == 0

    upgrade_history(store, state, LOGGER)
    assert store.get(key) == bytes(5)
    assert HistState.parse(store.get(HIST_STATE_KEY)).db_version == 1
