"""The figures of the process that every program has, under the names of ``prometheus_client``.

The collector of that library lists all open files, one by one: with 5,000 sessions 8 ms, most of the
cost of a scrape.  Linux 6.2 and later state their number as the size of the directory; elsewhere a
listing counts them, and the number serves for ``OPEN_FDS_SECS``.  A system without ``/proc`` has no
such figures.

Runs in: a thread.
"""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

OPEN_FDS_SECS = 10.0
# Positions among the words after the program's name in /proc/self/stat
USER_TICKS, SYSTEM_TICKS, START_TICKS, VIRTUAL_BYTES, RESIDENT_PAGES = 11, 12, 19, 20, 21


class ProcessFigures(Collector):
    """CPU time, memory, start time and open files of this process."""

    def __init__(self, registry: CollectorRegistry, proc: Path = Path("/proc")) -> None:
        """``proc`` is where the kernel's figures are."""
        self._self = proc / "self"
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._boot_time: float | None = None
        self._fds = 0
        self._fds_counted_at = float("-inf")
        with suppress(OSError):
            for line in (proc / "stat").read_text().splitlines():
                if line.startswith("btime "):
                    self._boot_time = float(line.split()[1])
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield each figure that the system has."""
        boot_time = self._boot_time
        if boot_time is None:
            return
        words = (self._self / "stat").read_bytes().rpartition(b")")[2].split()
        yield GaugeMetricFamily(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            float(words[VIRTUAL_BYTES]),
        )
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            float(words[RESIDENT_PAGES]) * resource.getpagesize(),
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            boot_time + float(words[START_TICKS]) / self._ticks,
        )
        yield CounterMetricFamily(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            (float(words[USER_TICKS]) + float(words[SYSTEM_TICKS])) / self._ticks,
        )
        yield GaugeMetricFamily(
            "process_open_fds", "Number of open file descriptors.", self._open_fds()
        )
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield GaugeMetricFamily(
            "process_max_fds", "Maximum number of open file descriptors.", float(limit)
        )

    def _open_fds(self) -> float:
        folder = self._self / "fd"
        size = folder.stat().st_size
        if size:
            return size
        now = time.monotonic()
        if now - self._fds_counted_at >= OPEN_FDS_SECS:
            self._fds_counted_at = now
            self._fds = len(os.listdir(folder))
        return self._fds
