"""Which scripts a compaction has to read again."""

from electrumx.server.history.change_log import ChangeLog


def test_nothing_is_noted_while_no_compaction_runs():
    changes = ChangeLog()
    changes.note_flush([b"a"])
    changes.note_cut([b"b"])
    assert not changes.active
    assert changes.dirty == changes.cut == set()


def test_flushed_and_cut_scripts_are_dirty_and_only_cut_ones_are_cut():
    changes = ChangeLog()
    changes.start()
    changes.note_flush({b"a": b""})
    changes.note_cut(iter([b"b"]))
    assert changes.active
    assert changes.dirty == {b"a", b"b"}
    assert changes.cut == {b"b"}


def test_a_new_start_forgets_earlier_changes_but_leaves_the_sets_handed_out():
    changes = ChangeLog()
    changes.start()
    changes.note_cut([b"a"])
    dirty = changes.dirty
    changes.start()
    assert dirty == {b"a"}
    assert changes.dirty == changes.cut == set()


def test_after_a_stop_nothing_is_noted():
    changes = ChangeLog()
    changes.start()
    changes.note_cut([b"a"])
    changes.stop()
    changes.note_flush([b"b"])
    assert not changes.active
    assert changes.dirty == changes.cut == set()
