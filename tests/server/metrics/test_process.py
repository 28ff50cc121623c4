"""The figures of the process, beside those that the library collects."""

import contextlib
import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from electrumx.server.metrics import process
from electrumx.server.metrics.process import ProcessFigures
from tests.conftest import require

CHANGING = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def figures(registry):
    """Return {name: (kind, help, value)} of all single samples."""
    return {
        family.samples[0].name: (family.type, family.documentation, family.samples[0].value)
        for family in registry.collect()
    }


def both():
    """Return our figures, and those of the library."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    ProcessFigures(ours)
    ProcessCollector(registry=theirs)
    return figures(ours), figures(theirs)


def test_the_figures_are_those_of_the_library():
    require(Path("/proc/self/stat").exists(), "this system has no /proc")
    ours, theirs = both()

    assert {name: found[:2] for name, found in ours.items()} == {
        name: found[:2] for name, found in theirs.items()
    }
    for name in set(theirs) - CHANGING - {"process_open_fds", "process_virtual_memory_bytes"}:
        assert ours[name] == theirs[name]
    for name in CHANGING:
        assert ours[name][2] == pytest.approx(theirs[name][2], rel=0.5, abs=1)
    # The library has the directory open while it counts.
    assert theirs["process_open_fds"][2] - ours["process_open_fds"][2] in (0, 1)


class Kernel:
    """A folder as /proc is, of a kernel before 6.2: the size of a folder states nothing."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        fds = folder / "self" / "fd"
        fds.mkdir(parents=True)
        (folder / "stat").write_text("cpu 1 2\nbtime 1000\n")
        words = ["0"] * 22
        words[11:13], words[19:22] = ["150", "50"], ["500", "4096", "3"]
        (folder / "self" / "stat").write_text(f"1 (a) program) {' '.join(words)}\n")
        self.fds = fds
        self.listed = 0
        listdir = os.listdir

        def counted(path):
            self.listed += 1
            return listdir(path)

        monkeypatch.setattr(process.os, "listdir", counted)
        monkeypatch.setattr(process.Path, "stat", lambda _path: os.stat_result([0] * 10))

    def open(self, count):
        """Let the process have so many open files."""
        for number in range(count):
            (self.fds / str(number)).touch()


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    with contextlib.suppress(AttributeError):
        monkeypatch.setattr(process.os, "sysconf", lambda _name: 100)
    return Kernel(tmp_path, monkeypatch)


def test_a_kernel_that_does_not_count_open_files_is_asked_rarely(kernel, monkeypatch):
    now = 50.0
    monkeypatch.setattr(process.time, "monotonic", lambda: now)
    registry = CollectorRegistry()
    ProcessFigures(registry, kernel.folder)
    kernel.open(3)
    first = figures(registry)
    kernel.open(7)
    second = figures(registry)
    now += process.OPEN_FDS_SECS
    third = figures(registry)

    found = [values["process_open_fds"][2] for values in (first, second, third)]
    assert found == [3, 3, 7]
    assert kernel.listed == 2
    assert first["process_cpu_seconds_total"][2] == 2.0
    assert first["process_start_time_seconds"][2] == 1005.0
    assert first["process_virtual_memory_bytes"][2] == 4096.0


def test_a_system_without_proc_has_no_figures(tmp_path):
    registry = CollectorRegistry()
    ProcessFigures(registry, tmp_path)

    assert figures(registry) == {}
