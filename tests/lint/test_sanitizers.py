"""The Cython modules run their property tests under address and undefined-behaviour sanitizers."""

import subprocess
import sys

import pytest

from tests import sanitize
from tests.conftest import require


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("sanitizers")
def test_the_compiled_modules_are_clean_under_sanitizers():
    require(sanitize.runtime_libraries(), "GCC's sanitizer libraries are not installed")

    done = sanitize.run(short=True)

    assert done.returncode == 0, done.stdout[-20_000:]
    # The modules are those with sanitizers: without the runtime they cannot be loaded.
    bare = subprocess.run(
        [sys.executable, "-c", "from electrumx.server.block_processor import _fastblock"],
        cwd=sanitize.FOLDER / "source",
        capture_output=True,
        text=True,
    )
    assert bare.returncode != 0
    assert "asan" in bare.stderr.lower()
