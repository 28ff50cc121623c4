"""The binding that an operator who comes from e-x has serves as well as rocksdict does."""

import asyncio
import os

import pytest

from electrumx.server.storage.base import db_class
from tests.conftest import REPOSITORY
from tests.crash.peer import NEWEST, Peer


async def test_the_other_binding_keeps_the_promises_and_shares_files(tmp_path):
    pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")
    python = Peer(NEWEST, "rocksdb").folder / "bin" / "python"
    theirs = db_class("rocksdb")(str(tmp_path / "theirs"), False)
    with theirs.write_batch() as batch:
        for n in range(10):
            batch.put(b"k%d" % n, b"v" * n)
    theirs.close()
    # Opened again, it moves the log into a table, whose format matters.
    db_class("rocksdb")(str(tmp_path / "theirs"), False).close()
    assert list((tmp_path / "theirs").glob("*.sst"))
    process = await asyncio.create_subprocess_exec(
        str(python),
        str(REPOSITORY / "tests" / "crash" / "rocksdb_ng_check.py"),
        str(tmp_path),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert (process.returncode, out.decode().strip()) == (0, "fine"), err.decode()
    ours = db_class("rocksdb")(str(tmp_path / "ours"), False)
    assert dict(ours.iterator()) == {key: key for key in (b"a", b"b1", b"b3", b"c", b"d")}
    ours.close()
