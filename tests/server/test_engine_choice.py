"""Without DB_ENGINE the server opens an existing database, and otherwise uses what is installed."""

import sys

import pytest

from electrumx.server import engine_choice
from electrumx.server.engine_choice import ENGINE_MODULES, default_engine, engine_of_store
from electrumx.server.env import Env
from electrumx.server.storage import db_class


@pytest.fixture
def environment(bare_environment, tmp_path):
    settings = {"DB_DIRECTORY": str(tmp_path), "COIN": "Bitcoin", "NET": "regtest"}
    for name, value in {**settings, "DAEMON_URL": "http://u:p@127.0.0.1:1/"}.items():
        bare_environment.setenv(name, value)
    return bare_environment


def hide(monkeypatch, *engines):
    for engine in engines:
        for module in ENGINE_MODULES[engine]:
            # Python's mark of an import that failed
            monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("store", engine_choice.STORES)
def test_the_engine_of_an_existing_database_is_the_default(engine, store, environment, tmp_path):
    db_class(engine)(str(tmp_path / store), False).close()

    assert engine_of_store(str(tmp_path / store)) == engine
    assert Env().db_engine == engine


def test_the_engine_of_a_database_stays_its_own_where_its_binding_is_missing(
    engine, environment, tmp_path
):
    db_class(engine)(str(tmp_path / "utxo"), False).close()
    hide(environment, engine)

    assert Env().db_engine == engine


def test_a_new_database_is_leveldb_where_it_can_be_imported(environment):
    assert Env().db_engine == "leveldb"


def test_a_new_database_is_rocksdb_where_leveldb_cannot_be_imported(environment):
    hide(environment, "leveldb")

    assert Env().db_engine == "rocksdb"


def test_a_setting_wins_over_the_database(environment, tmp_path):
    db_class("leveldb")(str(tmp_path / "utxo"), False).close()
    environment.setenv("DB_ENGINE", "rocksdb")

    assert Env().db_engine == "rocksdb"


def test_a_folder_without_a_store_has_no_engine(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    for name in ("file", "folder", "missing"):
        assert engine_of_store(str(tmp_path / name)) is None


def test_a_store_that_cannot_be_read_is_left_to_its_opening(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(engine_choice.os, "listdir", refuse)

    assert default_engine(str(tmp_path)) == "leveldb"
