"""The log survives any locale."""

import os
import subprocess
import sys


def test_an_ascii_locale_loses_no_line():
    code = (
        "from electrumx.cli.logs import logging_to_stdout\n"
        "with logging_to_stdout() as (logger, _): logger.info('caf\\u00e9 \\u2026'); logger.info('next')"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == [
        b"INFO:electrumx:caf\\xe9 \\u2026",
        b"INFO:electrumx:next",
    ]
    assert done.stderr == b""
