"""The syntax of settings files, by examples and against systemd's own parser."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from electrumx.lib.settings_file import SettingsFileError, parse_settings
from tests.conftest import require

# systemd reads the environment.d files of users with the parser that EnvironmentFile= has; this
# program prints the result.
SYSTEMD_READER = Path(
    "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator"
)


def parsed(text):
    return {name: value for name, value, _line in parse_settings(text)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b c  ", "b c"),
        ("  A  =  b", "b"),
        ("A=", ""),
        ("A=  ", ""),
        ("A", None),
        ('A="b  c"', "b  c"),
        ('A=" b "', " b "),
        ("A='b\\n\"c'", 'b\\n"c'),
        ("A='b\nc'", "b\nc"),
        ("A=\"b\"  c 'd'", "bc 'd'"),
        ('A="b" \'c\'"d"', "bcd"),
        ('A=b"c"', 'b"c"'),
        ('A=b"c"d', 'b"c"d'),
        ("A=b\\\nc", "bc"),
        ("A=b\\ ", "b "),
        ("A=\\b\\\\", "b\\"),
        ('A="\\$\\`\\"\\\\\\n"', '$`"\\\\n'),
        ('A="b\\\nc"', "bc"),
        ("A=b # no comment", "b # no comment"),
        ("A=b;c", "b;c"),
        ("#A=1\n;A=2\nA=b", "b"),
        ("A=a\nA=b", "b"),
        ("A=b\r\n", "b"),
        ("A=$HOME ${HOME} `id`", "$HOME ${HOME} `id`"),
        ("A=p%ä€=", "p%ä€="),
    ],
)
def test_values_are_those_of_systemd(text, value):
    if value is None:
        with pytest.raises(SettingsFileError):
            parse_settings(text)
    else:
        assert parsed(text) == {"A": value}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("A=1\n\nhello\n", 3, "no NAME=value"),
        ("export A=1", 1, "no name of a setting"),
        ("A=1\n1A=secret", 2, "no name of a setting"),
        ("=secret", 1, "no name of a setting"),
        ("\ufeffA=1", 1, "no name of a setting"),
        ("A='b\nB=secret\n", 1, "is never closed"),
        ('\nA="secret', 2, "is never closed"),
        ("# comment \\\nA=1", 1, "a comment ends in a backslash"),
        ("A=1\nB=\0", 2, "a NUL byte"),
    ],
)
def test_a_text_that_is_hardly_meant_so_is_refused_with_its_line(text, line, reason):
    with pytest.raises(SettingsFileError, match=f"^line {line}: .*{reason}") as error:
        parse_settings(text)

    assert "secret" not in str(error.value)


def test_assignments_have_the_line_that_they_begin_in():
    text = "#\nA='b\nc'\nB=1\\\n2\nC=3"

    assert [line for _name, _value, line in parse_settings(text)] == [2, 4, 6]


@given(st.text())
def test_any_text_is_parsed_or_refused(text):
    try:
        names = [name for name, _value, _line in parse_settings(text)]
    except SettingsFileError:
        names = []

    assert all(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) for name in names)


# -- against systemd


def unescaped(text):
    """Return the value that systemd printed for a shell."""
    if text.startswith('"'):
        text = text[1:-1]
    simple = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}

    def plain(match):
        char = match[1]
        return chr(int(char[1:], 16)) if char.startswith("x") else simple.get(char, char)

    return re.sub(r"\\(x[0-9a-f]{2}|.)", plain, text, flags=re.DOTALL)


def systemd_values(folder, text):
    """Return the settings that systemd reads from a text."""
    path = folder / "environment.d" / "test.conf"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, newline="")
    done = subprocess.run(
        [SYSTEMD_READER],
        env={"XDG_CONFIG_HOME": str(folder), "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    lines = done.stdout.decode().removesuffix("\n").split("\n")
    return {
        name: unescaped(value)
        for name, _, value in (line.partition("=") for line in lines)
        if NAMES.fullmatch(name)
    }


# Those compared: the reader also prints the variables that other packages set.
NAMES = re.compile("T[A-Z]*")
# Without $, which only environment.d expands, and names that no package's file there has.
PIECES = st.sampled_from(
    [
        "TA",
        "TB",
        "=",
        "=",
        "\n",
        "\n",
        " ",
        "\t",
        "'",
        '"',
        "\\",
        "#",
        ";",
        "x",
        "y z",
        "`",
        "ä",
        "\r",
    ]
)
VALUE = st.text(st.characters(codec="utf-8", exclude_characters="$\0", exclude_categories=("C",)))


def quoted(value):
    return '"' + re.sub(r'([\\"`])', r"\\\1", value) + '"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    require(os.access(SYSTEMD_READER, os.X_OK), "systemd's reader of environment.d is not there")
    return tmp_path_factory.mktemp("settings")


def compare(folder, text):
    try:
        ours = parsed(text)
    except SettingsFileError:
        return False
    # environment.d, unlike EnvironmentFile, has no empty values.
    theirs = systemd_values(folder, text)
    ours = {name: value for name, value in ours.items() if value and NAMES.fullmatch(name)}
    assert ours == theirs
    return True


@settings(
    max_examples=250,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(PIECES, max_size=14).map("".join))
@example("TA=x\\")
@example("TA=x \\\n y")
@example("TA='x' \\ ")
@example("TA=\"x\"\\\n'y'")
def test_whatever_is_accepted_has_the_values_that_systemd_reads(folder, text):
    # The last of two assignments may be empty, which environment.d ignores.
    if text.count("TA") <= 1 and text.count("TB") <= 1:
        compare(folder, text)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.dictionaries(st.sampled_from(["TA", "TB", "TC"]), VALUE.filter(bool), min_size=1))
def test_a_quoted_value_is_read_as_it_was(folder, values):
    text = "".join(f"{name}={quoted(value)}\n" for name, value in values.items())

    assert parsed(text) == values
    assert compare(folder, text)
