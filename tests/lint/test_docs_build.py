"""The manual builds without a warning, every reference resolved."""

import subprocess
import sys

from tests.conftest import REPOSITORY, require

DOCS = REPOSITORY / "docs"


def test_the_manual_builds_without_a_warning(tmp_path):
    require((DOCS / "conf.py").exists(), "there is no manual to build: docs/conf.py is missing")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-b", "html"]
    command += ["-d", tmp_path / "doctrees", DOCS, tmp_path / "html"]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "html" / "index.html").exists()
