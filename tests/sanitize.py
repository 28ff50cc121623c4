"""Runs the tests of the Cython modules under sanitizers: ``python -m tests.sanitize [--short]``.

Copies the source to a folder under ``.run``, builds the Cython modules there with address and
undefined-behaviour sanitizers, and runs their property tests and the fuzzer's seeds on them.  The
short form runs the tests that reach the modules most directly.  Needs GCC with its sanitizer
libraries.  Ends with pytest's exit status; a sanitizer's report ends the run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / ".run" / "sanitize"
SHORT = [
    "tests/property/test_fast_index_laws.py",
    "tests/property/test_packed_laws.py",
]
LONG = [
    *SHORT,
    "tests/property",
    "tests/server/block_processor/test_processor.py",
    "tests/server/mempool/test_acceptance.py",
    "tests/server/mempool/test_block_steps.py",
    "tests/server/mempool/test_fetcher.py",
    "tests/server/mempool/test_refresher.py",
    "tests/server/mempool/test_sync.py",
    "tests/server/db/test_flusher.py",
    "tests/server/session/shared/test_script_cache.py",
]
SANITIZE = "-fsanitize=address,undefined"
FLAGS = f"{SANITIZE} -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
RUNTIME = ("libasan.so", "libubsan.so")


def runtime_libraries() -> list[str]:
    """Return the paths of GCC's sanitizer libraries; empty if there is no GCC that has them."""
    if not shutil.which("gcc"):
        return []
    found = []
    for name in RUNTIME:
        done = subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        path = done.stdout.strip()
        if not Path(path).is_absolute():
            return []
        found.append(path)
    return found


def copy_source(target: Path) -> None:
    """Copy what git knows of into ``target``; files that did not change keep their times."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        source, copy = REPOSITORY / name, target / name
        if not source.is_file():
            copy.unlink(missing_ok=True)
        elif not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
            copy.touch()


def build(source: Path) -> None:
    """Build the Cython modules of a source tree, in it, with the sanitizers."""
    environment = {**os.environ, "CFLAGS": FLAGS, "LDFLAGS": SANITIZE}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
    )
    built = list((source / "electrumx" / "server").rglob("_fast*.so"))
    modules = list((source / "electrumx" / "server").rglob("_fast*.pyx"))
    if done.returncode or len(built) < len(modules):
        raise SystemExit(f"cannot build with sanitizers:\n{done.stdout}{done.stderr}")


def sanitized_environment(source: Path) -> dict[str, str]:
    """Return the environment in which the built modules can be loaded."""
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(runtime_libraries()),
        # CPython itself leaks at exit; memory that a test asks too much of is refused, not fatal.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        # Each object is an allocation of its own, which the sanitizer then guards.
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(source),
    }


def run(*, short: bool) -> "subprocess.CompletedProcess[str]":
    """Build, run the tests, and return the finished process with its output."""
    source = FOLDER / "source"
    source.mkdir(parents=True, exist_ok=True)
    copy_source(source)
    build(source)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--timeout=0",
            "-x",
            "--capture=sys",
        ]
        + (SHORT if short else LONG),
        cwd=source,
        env=sanitized_environment(source),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def main() -> int:
    """Run the long form, or with ``--short`` the short one; print what pytest printed."""
    if not runtime_libraries():
        print("GCC's sanitizer libraries are not installed")
        return 1
    done = run(short="--short" in sys.argv[1:])
    print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
