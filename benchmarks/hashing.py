"""SHA-256 of the Cython modules beside the standard library's.

    python -m benchmarks.hashing

Compiles ``tests/lib/sha256_forms.c`` and times each form that this processor has: nanoseconds of
processor time for a message of a script's, a Merkle pair's, a transaction's and a block's size; in the
second row of a form two messages are hashed side by side, as those of a block are.  The standard
library's include its Python call.  Each figure is the least of some runs.
"""

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import REPOSITORY

SIZES = (25, 64, 250, 1_000_000)
FORMS = ("shani", "armv8", "portable")
RUNS = 5
#: bytes hashed in a run, about; a call counts as a block
RUN_BYTES = 40_000_000
MISSING_FORM = 3


def build(folder):
    """The program that hashes with one form."""
    program = Path(folder) / "forms"
    source = REPOSITORY / "tests" / "lib" / "sha256_forms.c"
    include = f"-I{REPOSITORY / 'electrumx' / 'lib'}"
    subprocess.run(["cc", "-O3", include, source, "-o", program], check=True)
    return program


def time_form(program, form, size, count):
    """Nanoseconds for one message, or None if the processor does not have the form."""
    form, *two = form.split()
    command = [program, form, str(size), str(count), *two]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == MISSING_FORM:
        return None
    done.check_returncode()
    return float(done.stdout)


def time_hashlib(size, count):
    """Nanoseconds for one message through hashlib."""
    message, sha256 = bytes(size), hashlib.sha256
    start = time.process_time_ns()
    for _ in range(count):
        sha256(message).digest()
    return (time.process_time_ns() - start) / count


def main():
    print(f"{'bytes':<14}" + "".join(f"{size:>12,}" for size in SIZES))
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder)
        forms = [name for form in FORMS for name in (form, f"{form} two")]
        for form in (*forms, "hashlib"):
            row = []
            for size in SIZES:
                count = RUN_BYTES // (size + 64)
                times = [
                    time_hashlib(size, count)
                    if form == "hashlib"
                    else time_form(program, form, size, count)
                    for _ in range(RUNS)
                ]
                if None in times:
                    break
                row.append(min(times))
            if row:
                print(f"{form:<14}" + "".join(f"{ns:>12,.0f}" for ns in row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
