"""The log on standard output, whatever reads it."""

import os
import subprocess
import sys

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
