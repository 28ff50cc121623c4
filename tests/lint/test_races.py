"""The plugin of ``make races`` disturbs tests, and those that do not race pass under it."""

import subprocess
import sys

from tests.conftest import REPOSITORY

TESTS = ("tests/server/block_processor/test_reorg.py", "tests/server/db/test_read_pool.py")


def test_tests_pass_while_threads_sockets_and_files_are_delayed():
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "tests.races", *TESTS]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
    assert "RACES_SEED=1: " in done.stdout
    for kind in ("late start", "late end", "sockets", "pauses", "locks", "files", "node", "turns"):
        assert kind in done.stdout
