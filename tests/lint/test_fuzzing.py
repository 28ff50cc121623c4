"""Each fuzz target runs some thousand inputs with a fixed seed; ``make fuzz`` runs them for long."""

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, require
from tests.fuzz import seeds, targets

# Atheris has wheels for these only.
SUPPORTED = (3, 11) <= sys.version_info[:2] <= (3, 13)
RUNS = 1_500
# A target that hangs ends by libFuzzer's own time-out, with a report of the input.
LIMITS = ["-timeout=60", "-rss_limit_mb=1024", "-malloc_limit_mb=256"]


@pytest.fixture(scope="module")
def seed_folder(tmp_path_factory):
    """A folder for each target with the inputs that the fuzzer begins with."""
    folder = tmp_path_factory.mktemp("fuzz")
    seeds.write(folder)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("fuzzing")
@pytest.mark.parametrize("target", targets.TARGETS)
def test_fuzzing_a_target_finds_nothing(target, seed_folder, tmp_path):
    if not SUPPORTED:
        pytest.skip("Atheris has no wheels for this Python")
    done = subprocess.run([sys.executable, "-c", "import atheris"], capture_output=True)
    require(done.returncode == 0, "atheris is not installed (the extra test has it)")
    corpus, start = tmp_path / "corpus", seed_folder / target
    corpus.mkdir()
    assert list(start.iterdir())

    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.drive", target, str(corpus), str(start)),
            *(*LIMITS, f"-runs={RUNS}", "-seed=1", "-print_final_stats=1"),
            f"-artifact_prefix={tmp_path}/",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        errors="replace",
    )

    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-10_000:]
    (executed,) = re.findall(r"number_of_executed_units: +(\d+)", done.stderr)
    assert int(executed) >= RUNS
