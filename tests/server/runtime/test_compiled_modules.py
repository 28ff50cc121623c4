"""A compiled module that was not built is named at start, with the way to get it."""

import sys

import pytest

from electrumx.server.controller import Controller
from electrumx.server.env import Env
from electrumx.server.runtime.compiled_modules import (
    COMPILED_MODULES,
    missing_modules,
    missing_modules_warning,
)
from tests.conftest import REPOSITORY


@pytest.fixture
def env(bare_environment, tmp_path):
    for name, value in {
        "DB_DIRECTORY": str(tmp_path),
        "COIN": "Bitcoin",
        "NET": "regtest",
        "DAEMON_URL": "http://u:p@127.0.0.1:1/",
        "ALLOW_ROOT": "1",
        "SERVICES": "rpc://",
    }.items():
        bare_environment.setenv(name, value)
    return Env()


def hide(monkeypatch, *names):
    for name in names:
        # Python's mark of an import that failed
        monkeypatch.setitem(sys.modules, f"electrumx.server.{name}", None)


def start_warnings(env, caplog):
    Controller(env).log_start(env)
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_the_list_of_modules_is_that_of_the_sources():
    server = REPOSITORY / "electrumx" / "server"
    sources = [path.relative_to(server).with_suffix("") for path in server.rglob("*.pyx")]

    assert sorted(COMPILED_MODULES) == sorted(".".join(path.parts) for path in sources)


@pytest.mark.parametrize("name", COMPILED_MODULES)
def test_a_module_that_cannot_be_imported_is_missing(name, monkeypatch):
    before = missing_modules()
    hide(monkeypatch, name)

    assert missing_modules() == sorted({*before, name})


def test_a_missing_module_is_a_warning_that_names_module_cost_and_packages(
    env, monkeypatch, caplog
):
    hide(monkeypatch, "db._fastquery")

    (warning,) = start_warnings(env, caplog)

    assert "_fastquery" in warning
    assert "answering clients" in warning
    for package in ("gcc", "libc6-dev", "python3-dev"):
        assert package in warning


def test_modules_with_one_cost_name_it_once():
    warning = missing_modules_warning(
        ["block_processor._fasthistory", "block_processor._fastindex"]
    )

    assert warning.count("indexing") == 1


def test_an_operator_who_asked_for_pure_python_is_not_warned(env, monkeypatch, caplog):
    hide(monkeypatch, *COMPILED_MODULES)
    env.indexer = "python"

    assert start_warnings(env, caplog) == []
