"""The settings of a process: a file below the environment, and the texts that are refused."""

import os

import pytest

from electrumx.lib.env_base import EnvBase, reading_from
from electrumx.lib.settings_file import SettingsFileError
from electrumx.server.settings import MAX_FILE_BYTES, Settings


@pytest.fixture
def path(tmp_path):
    result = tmp_path / "electrumx.conf"
    result.write_text("COIN=Bitcoin\nMAX_SESSIONS=5\n")
    result.chmod(0o640)
    return result


def test_the_environment_wins_over_the_file(path):
    settings = Settings.read(str(path), {"MAX_SESSIONS": "7", "HOME": "/"})

    assert settings.variables == {"COIN": "Bitcoin", "MAX_SESSIONS": "7", "HOME": "/"}
    assert settings.warnings == ()


def test_the_environment_names_the_file_unless_the_option_does(path, tmp_path):
    other = tmp_path / "other"
    other.write_text("COIN=Litecoin")
    environ = {"ELECTRUMX_CONFIG": str(path)}

    assert Settings.read(None, environ).variables["COIN"] == "Bitcoin"
    assert Settings.read(str(other), environ).variables["COIN"] == "Litecoin"


def test_without_a_file_the_settings_are_the_environment():
    for environ in ({}, {"ELECTRUMX_CONFIG": ""}, {"COIN": "x"}):
        settings = Settings.read(None, environ)
        assert (settings.path, settings.variables) == (None, environ)


def test_the_file_is_found_again_after_a_change_of_directory(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    settings = Settings.read(path.name, {})
    monkeypatch.chdir("/")
    path.write_text("COIN=Litecoin")

    assert settings.read_again().variables == {"COIN": "Litecoin"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "\n\nMAX_SESSION=5",
            "line 3: there is no setting MAX_SESSION; the nearest one is MAX_SESSIONS",
        ),
        ("COST_SOFTLIMIT=5", "the nearest one is COST_SOFT_LIMIT"),
        ("CACHE=5", "the nearest one is CACHE_MB"),
        ("services=", "the nearest one is SERVICES"),
        ("DAEMON_URLS=http://u:secret@h", "the nearest one is DAEMON_URL"),
        ("COIN=x\nNOTIFY_SOCKET=/x", "line 2: NOTIFY_SOCKET can only be set in the environment"),
        ("ELECTRUMX_CONFIG=/x", "can only be set in the environment"),
        ("DAEMON_URL='secret", "line 1: the quotation mark ' is never closed"),
    ],
)
def test_a_file_that_is_hardly_meant_so_is_refused(path, text, reason):
    path.write_text(text)

    with pytest.raises(SettingsFileError) as error:
        Settings.read(str(path), {})

    assert str(error.value).startswith(f"settings file {path}: ")
    assert reason in str(error.value)
    assert "secret" not in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(path, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for bad, reason in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "pipe", "no regular file"),
    ):
        with pytest.raises(SettingsFileError, match=reason):
            Settings.read(str(bad), {})
    path.write_bytes(b"COIN=x\nNET=\xff")
    with pytest.raises(SettingsFileError, match="line 2: this is no valid UTF-8"):
        Settings.read(str(path), {})
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(SettingsFileError, match="more than 1,000,000 bytes"):
        Settings.read(str(path), {})

    def refuse(*_args, **_named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(SettingsFileError, match="Permission denied; let the server's user read it"):
        Settings.read(str(path), {})


@pytest.mark.parametrize(
    ("url", "mode", "is_warned"),
    [
        ("http://u:p@h:1/", 0o644, True),
        ("h:1,u:p@h:2", 0o604, True),
        ("http://u:p@h:1/", 0o640, False),
        ("http://u@h:1/", 0o644, False),
        ("http://127.0.0.1:8332/", 0o644, False),
    ],
)
def test_a_password_that_every_user_can_read_is_warned_of(path, url, mode, is_warned):
    path.write_text(f"DAEMON_URL={url}")
    path.chmod(mode)

    warnings = Settings.read(str(path), {}).warnings

    assert len(warnings) == is_warned
    assert not is_warned or f"`chmod 640 {path}`" in warnings[0]


def test_readers_take_the_settings_in_place_of_the_environment(monkeypatch):
    monkeypatch.setenv("MAX_SEND", "1")
    with reading_from({"MAX_SEND": "2"}):
        assert EnvBase.integer("MAX_SEND", 0) == 2
        assert EnvBase.default("HOME", "none") == "none"
        assert EnvBase.variables() == {"MAX_SEND": "2"}
    assert EnvBase.integer("MAX_SEND", 0) == 1
