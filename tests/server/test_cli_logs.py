"""The log on standard output, whatever reads it."""

import io
import json
import logging
import os
import re
import subprocess
import sys

import pytest

from electrumx.cli.logs import make_formatter
from tests.lint.test_docs import manual

CODE = """
import sys
from electrumx.cli.logs import logging_to_stdout
with logging_to_stdout() as (logger, _handler):
    logger.info("first")
    sys.stdin.readline()
    for n in range(2000):
        logger.info("caf\\u00e9 %d", n)
"""


def start(**environ):
    return subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environ},
    )


def test_a_reader_that_goes_away_ends_nothing_in_a_traceback():
    process = start()
    assert process.stdout.readline() == b"INFO:electrumx:first\n"
    process.stdout.close()
    _, errors = process.communicate(b"go on\n")
    assert (process.returncode, errors) == (0, b"")


def test_an_ascii_locale_loses_no_line():
    process = start(PYTHONIOENCODING="ascii")
    out, errors = process.communicate(b"go on\n")
    lines = out.splitlines()
    assert errors == b""
    assert (len(lines), lines[1]) == (2001, b"INFO:electrumx:caf\\xe9 0")


# -- formats


def record(level=logging.INFO, name="electrumx.server.daemon.Daemon", msg="hi", **fields):
    return logging.makeLogRecord(
        {"levelno": level, "levelname": logging.getLevelName(level), "name": name, "msg": msg}
        | {"created": 1795000000.1239, **fields}
    )


@pytest.fixture
def stream(tmp_path):
    with (tmp_path / "log").open("w") as file:
        yield file


def journal_stream(stream):
    status = os.fstat(stream.fileno())
    return f"{status.st_dev}:{status.st_ino}"


def test_a_file_gets_times_and_a_pipe_does_not(bare_environment, stream):
    assert make_formatter(stream).format(record()) == "2026-11-18T11:06:40.123Z INFO:Daemon:hi"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        assert make_formatter(pipe).format(record()) == "INFO:Daemon:hi"
    assert make_formatter(io.StringIO()).format(record()) == "INFO:Daemon:hi"


def test_each_line_has_its_own_time_to_the_millisecond(bare_environment, stream):
    formatter = make_formatter(stream)
    times = {
        1795000000.0: "2026-11-18T11:06:40.000Z",
        1795000000.9999: "2026-11-18T11:06:40.999Z",
        1795000000.9999999: "2026-11-18T11:06:41.000Z",
        1795000019.5: "2026-11-18T11:06:59.500Z",
        1795000020.0009: "2026-11-18T11:07:00.000Z",
        1794999999.25: "2026-11-18T11:06:39.250Z",
    }
    lines = [formatter.format(record(created=created)) for created in times]
    assert lines == [f"{time} INFO:Daemon:hi" for time in times.values()]


def test_a_terminal_gets_times(bare_environment):
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        assert make_formatter(stream).format(record()).endswith("Z INFO:Daemon:hi")
    os.close(controller)


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
    ],
)
def test_each_line_for_the_journal_has_its_priority(bare_environment, stream, level, priority):
    bare_environment.setenv("JOURNAL_STREAM", journal_stream(stream))
    lines = make_formatter(stream).format(record(level, msg="a\nb")).split("\n")

    assert lines == [f"<{priority}>{logging.getLevelName(level)}:Daemon:a", f"<{priority}>b"]


def test_a_journal_that_another_stream_goes_to_is_not_written_for(bare_environment, stream):
    bare_environment.setenv("JOURNAL_STREAM", "1:1")
    assert "<" not in make_formatter(stream).format(record())


def test_a_format_that_is_set_has_no_time_of_ours(bare_environment, stream):
    bare_environment.setenv("LOG_FORMAT", "%(name)s %(message)s")
    assert make_formatter(stream).format(record()) == "Daemon hi"
    bare_environment.setenv("JOURNAL_STREAM", journal_stream(stream))
    assert make_formatter(stream).format(record()) == "<6>Daemon hi"


def test_json_has_the_documented_keys_in_one_line(bare_environment, stream):
    bare_environment.setenv("LOG_FORMAT", "JSON")
    formatter = make_formatter(stream)
    entry = manual("environment").split("``json`` makes each line")[1].split(".. envvar::")[0]
    documented = re.findall(r"^   ``(\w+)``", entry, re.MULTILINE)
    try:
        raise ValueError("x\ny")
    except ValueError:
        failed = record(msg='[7] "é\n', exc_info=sys.exc_info())

    line = formatter.format(failed)

    assert "\n" not in line
    assert line.isascii()
    found = json.loads(line)
    assert sorted(found) == sorted(documented)
    exception = found.pop("exception")
    assert exception.startswith("Traceback")
    assert found == {
        "time": "2026-11-18T11:06:40.123Z",
        "level": "info",
        "logger": "Daemon",
        "session": 7,
        "message": '"é\n',
    }
    assert json.loads(formatter.format(record())).keys() == set(documented) - {
        "session",
        "exception",
    }
