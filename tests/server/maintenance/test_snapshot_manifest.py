"""A manifest lists the files of a snapshot; one from elsewhere cannot name other files."""

import hashlib
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.lib.coins import Coin
from electrumx.server.maintenance import snapshot_manifest
from electrumx.server.maintenance.snapshot_manifest import (
    MANIFEST,
    REQUIRED,
    ManifestError,
    SnapshotFile,
    SnapshotManifest,
    file_digest,
    parse_manifest,
    write_manifest,
)
from tests.lint.test_docs import coin_classes

FILES = tuple(SnapshotFile(name, 5, "ab" * 32) for name in (*REQUIRED, "COIN"))
SAMPLE = SnapshotManifest("Bitcoin", "regtest", "leveldb", 8, 100, "00" * 32, 250, FILES)


def altered(**values):
    return json.dumps({**json.loads(SAMPLE.encode()), **values}).encode()


def with_file(**values):
    file = {"name": "utxo/000005.ldb", "size": 1, "sha256": "00" * 32, **values}
    return altered(files=[*json.loads(SAMPLE.encode())["files"], file])


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    size = write_manifest(SAMPLE, tmp_path)

    raw = (tmp_path / MANIFEST).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
    assert len(raw) == size
    assert parse_manifest(raw) == SAMPLE
    assert SAMPLE.total_bytes == 25


def test_every_coin_can_be_named_in_a_manifest():
    for coin in coin_classes() | {Coin.lookup_coin_class("Bitcoin", "mainnet")}:
        assert parse_manifest(altered(coin=coin.NAME, net=coin.NET)).coin == coin.NAME


@pytest.mark.parametrize(
    "name",
    [
        "../CURRENT",
        "utxo/../CURRENT",
        "utxo/..",
        "/etc/passwd",
        "utxo//x",
        "utxo/sub/x",
        "utxo/.hidden",
        "utxo\\x",
        "utxo/x\n",
        "utxo/x y",
        "utxo/",
        "UTXO/x",
        "bulk_sync/manifest",
        "manifest.json",
        "utxo/" + "x" * 101,
        "utxo/000005.ldb.part",
        "hist/%2e%2e",
        "meta/é",
        "",
        7,
        None,
        ["utxo/x"],
    ],
)
def test_a_name_that_no_snapshot_has_is_refused(name):
    with pytest.raises(ManifestError) as info:
        parse_manifest(with_file(name=name))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("size", [-1, 1.5, True, "5", None, 1 << 42, 10**30])
def test_a_size_that_no_file_has_is_refused(size):
    with pytest.raises(ManifestError, match="its size"):
        parse_manifest(with_file(size=size))


@pytest.mark.parametrize("sha256", ["", "AB" * 32, "ab" * 31, "ab" * 33, "zz" * 32, 5, None])
def test_a_hash_that_is_none_is_refused(sha256):
    with pytest.raises(ManifestError, match="its sha256"):
        parse_manifest(with_file(sha256=sha256))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b"[" * 5000, "it is not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "its format is not 1"),
        (altered(format=2), "its format is not 1: use the version"),
        (altered(files=[]), "no list of 1 to"),
        (altered(files={}), "no list of 1 to"),
        (altered(files=[5]), "a file in it is not a JSON object"),
        (with_file(name="COIN"), "it names a file twice"),
        (with_file(name="utxo/Current"), "it names a file twice"),
        (altered(files=json.loads(SAMPLE.encode())["files"][1:]), "it has no file utxo/CURRENT"),
        (altered(height=-1), "its height '-1'"),
        (altered(height=1 << 32), "its height"),
        (altered(tip="00"), "its tip"),
        (altered(tx_count="5"), "its tx_count"),
        (altered(coin="a\nb"), r"its coin 'a\\nb'"),
        (altered(net=None), "its net"),
        (altered(engine="x" * 300), "its engine"),
        (altered(db_version=8.0), "its db_version"),
    ],
)
def test_a_manifest_that_is_none_is_refused_with_its_reason(raw, reason):
    with pytest.raises(ManifestError, match=reason) as info:
        parse_manifest(raw)
    assert len(str(info.value)) < 300
    assert "\n" not in str(info.value)


def test_a_manifest_of_very_many_files_is_refused(monkeypatch):
    monkeypatch.setattr(snapshot_manifest, "MAX_FILES", 4)
    with pytest.raises(ManifestError, match="no list of 1 to 4 files"):
        parse_manifest(SAMPLE.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.sampled_from([*json.loads(SAMPLE.encode())]), JSON)
def test_any_value_of_a_manifest_is_read_or_refused(key, value):
    try:
        found = parse_manifest(altered(**{key: value}))
    except ManifestError:
        return
    assert getattr(found, key) == (SAMPLE.files if key == "files" else value)


def test_a_digest_is_of_the_whole_file_and_can_be_stopped_on_the_way(tmp_path):
    path = tmp_path / "file"
    data = b"0123456789" * 250_000
    path.write_bytes(data)
    looks = []

    assert file_digest(path, lambda: looks.append(threading.get_ident())) == (
        len(data),
        hashlib.sha256(data).hexdigest(),
    )
    assert len(looks) == 4

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file_digest(path, stop)
