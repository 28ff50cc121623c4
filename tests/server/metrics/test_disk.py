"""The measured sizes of the stores."""

import os

from electrumx.server.metrics.disk import DiskUse, directory_bytes


def test_directories_are_measured_with_all_that_is_below_them(tmp_path):
    (tmp_path / "utxo" / "deeper").mkdir(parents=True)
    (tmp_path / "utxo" / "a").write_bytes(bytes(100))
    (tmp_path / "utxo" / "deeper" / "b").write_bytes(bytes(20))
    os.symlink(tmp_path / "utxo", tmp_path / "utxo" / "deeper" / "loop")
    (tmp_path / "meta").mkdir()
    disk = DiskUse(str(tmp_path))
    disk.measure()

    link = os.lstat(tmp_path / "utxo" / "deeper" / "loop").st_size
    assert disk.stores == {"utxo": 120 + link, "hist": 0, "meta": 0}
    assert disk.free > 0


def test_missing_directory_has_no_bytes(tmp_path):
    assert directory_bytes(tmp_path / "missing") == 0
    disk = DiskUse(str(tmp_path / "missing"))
    disk.measure()
    assert disk.free is None
