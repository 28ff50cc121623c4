"""A batch whose write failed is written again, as it was."""

import pytest

from electrumx.server.storage.repeatable_batch import RepeatableBatch

ROWS = [("put", b"a", b"1"), ("delete", b"b"), ("put", b"a", b"2")]


class Batch(list):
    """rocksdict's batch, which can be written once."""

    def put(self, key, value):
        self.append(("put", key, value))

    def delete(self, key):
        self.append(("delete", key))


class Engine:
    """An engine of which some writes fail."""

    def __init__(self, failures):
        self.failures = failures
        self.used, self.written = [], []

    def write(self, batch, options):
        assert options == "options"
        assert not any(batch is other for other in self.used), "already consumed"
        self.used.append(batch)
        if self.failures:
            self.failures -= 1
            raise OSError("Too many open files")
        self.written += batch


def filled(**settings):
    batch = RepeatableBatch(Batch, **settings)
    for name, *row in ROWS:
        getattr(batch, name)(*row)
    return batch


def write_until_done(batch, engine):
    for _ in range(engine.failures):
        with pytest.raises(OSError, match="Too many open files"):
            batch.write(engine, "options")
    batch.write(engine, "options")


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_rows_are_written_once_in_order_however_often_it_fails(failures):
    engine = Engine(failures)

    write_until_done(filled(), engine)

    assert engine.written == ROWS


@pytest.mark.parametrize("kept_bytes", [0, 4])
def test_a_batch_too_large_to_keep_fails_with_the_engines_error_again(kept_bytes):
    engine = Engine(1)
    batch = filled(kept_bytes=kept_bytes)

    for _ in range(2):
        with pytest.raises(OSError, match="Too many open files"):
            batch.write(engine, "options")

    assert engine.written == []


@pytest.mark.parametrize("kept_bytes", [0, 4])
def test_a_batch_too_large_to_keep_is_written_whole(kept_bytes):
    engine = Engine(0)

    filled(kept_bytes=kept_bytes).write(engine, "options")

    assert engine.written == ROWS
