"""Synchronisation from nothing: its time, and its cost in CPU, memory and disk.

Servers run one at a time, each against a fresh node and an empty folder, and take turns over the
rounds, the order reversed every other one, so that no server has the machine's good moments for
itself.  What is reported is the median of the rounds.

* ``wall``: seconds from the start of the process until its port answers with the node's height;
* ``tx/s``: transactions in a wall second;
* ``CPU/Mtx``: CPU seconds for a million transactions, all threads, also those of the shutdown;
* ``MB/CPU s``: megabytes of blocks in each of these CPU seconds;
* ``peak MB``: the most memory that it ever had resident; ``disk MB``: the database afterwards;
* ``temp MB``: the disk that files and stores of a bulk sync take at their most, sampled.

Of a bulk sync also the seconds of each phase, and how many scripts and rows of history it made, are
noted in the results.
"""

import shutil
import statistics
import time

from benchmarks import bulk
from benchmarks.measuring import cpu_secs, folder_mb, memory_mb
from benchmarks.servers import NodeProcess, Server
from tests.integration.processes import ChildDied

#: a file that marks the database beside it as whole
COMPLETE = "complete"
#: seconds between two looks whether a server serves
LOOK_PAUSE = 0.01
FIGURES = ("wall", "tx/s", "CPU/Mtx", "MB/CPU s", "peak MB", "disk MB", "temp MB")


def sync_once(spec, chain, facts, folder, *, timeout=3600):
    """The figures of one synchronisation; the database stays in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    txs = facts["txs"]
    with NodeProcess(chain, folder) as node, bulk.DiskWatch(folder / "db") as disk:
        start = time.monotonic()
        with Server(spec, node, folder) as server:
            server.wait_height(facts["shape"]["blocks"], timeout=timeout, pause=LOOK_PAUSE)
            wall = time.monotonic() - start
            peak = memory_mb(server.pid, "VmHWM")
            log = server.child.log_text()
            cpu = server.stop()
        node_cpu = cpu_secs(node.child.pid)
    (folder / COMPLETE).touch()
    figures = {
        "wall": wall,
        "tx/s": txs / wall,
        "CPU/Mtx": cpu / txs * 1e6,
        "MB/CPU s": facts["bytes"] / 1e6 / cpu,
        "peak MB": peak,
        "disk MB": folder_mb(folder / "db"),
        "temp MB": disk.temporary_mb,
        "peak disk MB": disk.peak_mb,
        "node CPU": node_cpu,
    }
    secs = bulk.phases(log)
    if secs:
        figures |= {f"{phase} s": value for phase, value in secs.items()}
        figures |= bulk.history_rows(folder / "db", spec.settings["DB_ENGINE"])
    return figures


def sync_all(specs, chain, facts, folder, rounds, say):
    """Medians for each server by its name; databases stay in a folder each.

    A server that fails is named and has no figures.
    """
    runs = {str(spec): [] for spec in specs}
    for number in range(rounds):
        for spec in specs if number % 2 == 0 else reversed(specs):
            try:
                figures = sync_once(spec, chain, facts, folder / spec.folder_name)
            except (ChildDied, TimeoutError) as e:
                say(f"sync {number + 1}/{rounds} {spec} FAILED: {e}")
                continue
            runs[str(spec)].append(figures)
            shown = ", ".join(f"{name} {value:,.1f}" for name, value in figures.items())
            say(f"sync {number + 1}/{rounds} {spec}: {shown}")
    return {
        name: {key: statistics.median(run[key] for run in of_one) for key in of_one[0]}
        for name, of_one in runs.items()
        if of_one
    }
