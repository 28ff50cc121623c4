"""Fuzzes all targets, a few at a time: ``python -m tests.fuzz FOLDER [TARGET ...]``.

FOLDER keeps a corpus for every target, which grows from run to run, the inputs that failed
(``findings``) and a log.  FUZZ_SECONDS is how long each target runs, FUZZ_JOBS how many do at
once.  Ends with status 1 if there were findings.
"""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz import targets

SECONDS = int(os.environ.get("FUZZ_SECONDS", "600"))
JOBS = int(os.environ.get("FUZZ_JOBS", "2"))
# A finding ends libFuzzer; the target is started again for the rest of its time, so many times.
MAX_FINDINGS = 10
LIMITS = ["-timeout=5", "-rss_limit_mb=1024", "-malloc_limit_mb=256", "-print_final_stats=1"]


def fuzz(folder: Path, target: str) -> str:
    """Fuzz one target for its time; return a line with the result."""
    corpus, findings = folder / "corpus" / target, folder / "findings" / target
    for path in (corpus, findings, folder / "logs"):
        path.mkdir(parents=True, exist_ok=True)
    log_path = folder / "logs" / f"{target}.log"
    started = time.monotonic()
    runs, features, found = 0, "0", 0
    while found <= MAX_FINDINGS:
        left = SECONDS - int(time.monotonic() - started)
        if left <= 0:
            break
        command = [
            *("nice", "-n", "19", sys.executable, "-m", "tests.fuzz.drive", target),
            *(str(corpus), str(folder / "seeds" / target)),
            *LIMITS,
            f"-max_total_time={left}",
            f"-artifact_prefix={findings}/",
        ]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        with log_path.open("a") as log:
            log.write(done.stdout + done.stderr)
        runs += sum(map(int, re.findall(r"number_of_executed_units: +(\d+)", done.stderr)))
        features = ([features, *re.findall(r" ft: (\d+)", done.stderr)])[-1]
        if done.returncode:
            found += 1
    seconds = time.monotonic() - started
    return f"{target}: {runs:,d} inputs in {seconds:.0f} s, {features} features, {found} findings"


def main() -> None:
    """Fuzz what the command line names, or everything."""
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(targets.TARGETS)
    with ThreadPoolExecutor(JOBS) as pool, (folder / "results.txt").open("a") as results:
        failed = False
        for line in pool.map(lambda target: fuzz(folder, target), names):
            print(line, flush=True)
            print(line, file=results, flush=True)
            failed |= not line.endswith(" 0 findings")
    sys.exit(failed)


if __name__ == "__main__":
    main()
