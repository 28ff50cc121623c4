"""Freed memory is kept for the next large block, unless the operator has decided otherwise."""

import os
import platform
import subprocess
import sys

import pytest

# Large blocks made and freed repeatedly: the page faults.
FAULTS = """
import os, resource, sys
from electrumx.server.runtime.malloc_tuning import keep_freed_memory, keep_little_freed_memory
kept = sys.argv[1] != "as it is" and keep_little_freed_memory(os.environ)
if sys.argv[1] == "kept":
    kept = keep_freed_memory(os.environ)
def blocks():
    return [bytes(1) * int(sys.argv[2]) for _ in range(20)]

for _ in range(10):
    blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    blocks()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(mode, size=300_000, **env):
    environ = {k: v for k, v in os.environ.items() if "MALLOC" not in k and k != "GLIBC_TUNABLES"}
    output = subprocess.run(
        [sys.executable, "-c", FAULTS, mode, str(size)],
        env={**environ, **env},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split()
    return output[0] == "True", int(output[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_blocks_are_made_of_memory_that_was_freed():
    kept, faults = run("kept")
    assert kept
    _, before = run("as it is")
    assert faults < before / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_while_catching_up_only_small_blocks_are_made_of_memory_that_was_freed():
    size = 6_000_000
    pages_each_time = 20 * 20 * size // os.sysconf("SC_PAGE_SIZE")
    set_, faults = run("little", size)
    assert set_
    assert faults > pages_each_time * 0.9
    assert run("kept", 1_500_000)[1] < pages_each_time / 100


@pytest.mark.parametrize("mode", ["kept", "little"])
def test_what_the_operator_has_set_stays(mode):
    assert not run(mode, MALLOC_TRIM_THRESHOLD_="131072")[0]


HOLES = """
import os, sys
from pathlib import Path
from electrumx.server.runtime.malloc_tuning import give_back_freed_memory, keep_little_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

keep_little_freed_memory(os.environ)
before = resident()
blocks, kept = [], []
for number in range(400):
    blocks.append(bytes([number % 256]) * 100_000)
    kept.append(bytes([number % 256]) * 1_000)
full = resident()
blocks.clear()
if sys.argv[1] == "given back":
    give_back_freed_memory()
print((resident() - before) / (full - before), len(kept))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_holes_of_blocks_that_were_freed_go_back_to_the_kernel_when_asked_for():
    environ = {k: v for k, v in os.environ.items() if "MALLOC" not in k and k != "GLIBC_TUNABLES"}

    def share_left(mode, **env):
        command = [sys.executable, "-c", HOLES, mode]
        output = subprocess.run(
            command, env=environ | env, check=True, capture_output=True, text=True, timeout=60
        )
        return float(output.stdout.split()[0])

    assert share_left("as it is") > 0.9
    assert share_left("given back") < 0.2
    assert share_left("given back", MALLOC_TRIM_THRESHOLD_="1000000000") > 0.9
