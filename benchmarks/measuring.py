"""The cost of a process: its CPU, memory and disk, as the kernel counts them; and the machine."""

import os
import platform
import resource
import time
from pathlib import Path


def cpu_secs(pid):
    """CPU seconds, user and system, of all threads of a process, to the nanosecond.

    Linux makes the number of another process's CPU clock from its id like this.
    """
    return time.clock_gettime((~pid << 3) | 2)


def pin(pid, cpu):
    """Pin all threads of a process to one processor, and this process to the others."""
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), {cpu})
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {cpu})


def ended_children_cpu():
    """CPU seconds of all child processes that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def memory_kb(pid, field="VmRSS"):
    """Memory in use, in units of 1,024 bytes; "VmHWM": the most that ever was."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0])


def memory_mb(pid, field="VmRSS"):
    """The same in MB of a million bytes."""
    return memory_kb(pid, field) * 1024 / 1e6


def folder_mb(folder):
    """Disk space below a folder, in MB."""
    blocks = 0
    # Passes over folders that vanish, too
    for path, _folders, names in os.walk(folder):
        for name in names:
            try:
                blocks += os.lstat(os.path.join(path, name)).st_blocks
            except FileNotFoundError:
                pass  # the engine was deleting it
    return blocks * 512 / 1e6


def machine():
    """Where and when figures are from; the load is the one before they were taken."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "processor": model,
        "processors": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


class Spent:
    """CPU and wall time of a process within a block."""

    def __init__(self, pid):
        self._pid = pid
        self.cpu = self.wall = 0.0

    def __enter__(self):
        self._cpu, self._start = cpu_secs(self._pid), time.monotonic()
        return self

    def __exit__(self, *_exc):
        self.cpu = cpu_secs(self._pid) - self._cpu
        self.wall = time.monotonic() - self._start
