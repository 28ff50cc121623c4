"""Servers that have caught up, and their replies: all scenarios, server beside server.

Each server runs on a copy of its database, for blocks are added to it, over a node of its own.  All
of them run at the same time, and a scenario is put to one right after the other, so that both meet
the machine in the same mood; while one is asked, the others idle.  They have ended the work that
follows a start, which is not that of requests.
"""

import contextlib
import shutil
import time

from benchmarks import arrivals
from benchmarks.chain_files import ChainFiles
from benchmarks.pressure import run_scenario
from benchmarks.scenarios import PROBED, scenarios
from benchmarks.servers import running
from benchmarks.sync import COMPLETE, sync_once
from tests.integration.processes import ChildDied

#: a few sessions with many subscriptions each, to all kinds of scripts; and many sessions, whose
#: subscriptions are touched all at once
FEW_SESSIONS, FEW_SUBSCRIPTIONS = 200, 20
MANY_SESSIONS, MANY_SUBSCRIPTIONS = 1_000, 10
#: after a start: a minute after it ours reads recent blocks
SETTLE_SECS = 65
STOPPED = (ChildDied, ConnectionError, TimeoutError, OSError, EOFError)


class Serving:
    """One run.

    chain: its folder; folder: for databases and logs; options: secs of a scenario, blocks of each
    kind, sessions and subscriptions of the measurement of memory, and only: parts of the names of
    the wanted scenarios, or nothing for all
    """

    def __init__(self, chain, facts, folder, options, say):
        self._chain, self._facts, self._folder = chain, facts, folder
        self._options, self._say = options, say
        self._targets = ChainFiles(chain).targets()
        #: scenario -> server -> figures
        self.results = {}

    def run(self, specs, databases):
        """Measure all; databases: the folder in which synchronisations left theirs."""
        for spec in specs:
            self._prepare(spec, databases / spec.folder_name)
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(self._running(spec)) for spec in specs]
            time.sleep(SETTLE_SECS)
            for name, measure in self._measurements():
                if not self._wanted(name):
                    continue
                for server in servers:
                    self._measure(name, measure, server)
        for spec in specs:
            shutil.rmtree(self._folder / spec.folder_name)
        return self.results

    def _running(self, spec):
        height = self._facts["shape"]["blocks"]
        return running(spec, self._chain, self._folder / spec.folder_name, height)

    def _prepare(self, spec, source):
        if not (source / COMPLETE).exists():
            self._say(f"synchronising {spec}")
            sync_once(spec, self._chain, self._facts, source)
        target = self._folder / spec.folder_name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source / "db", target / "db")

    def _wanted(self, name):
        only = self._options.only
        return not only or any(part in name for part in only)

    def _measure(self, name, measure, server):
        try:
            figures = measure(server)
        except STOPPED as e:
            self._say(f"{name}: {server.spec} FAILED: {e}")
            return
        self.results.setdefault(name, {})[str(server.spec)] = figures
        self._say(f"{name}: {server.spec}: {brief(figures)}")

    def _measurements(self):
        """Pairs of a name and a function of the server."""
        options, targets = self._options, self._targets
        for scenario in scenarios(targets):
            yield (
                scenario.name,
                lambda server, s=scenario: run_scenario(
                    server.port, server.pid, s, options.seconds
                ),
            )
        names = [name for group in ("huge", "medium", "small") for name, _ in targets[group]]
        few = _dealt(names, FEW_SESSIONS, FEW_SUBSCRIPTIONS)
        yield (
            f"block to {FEW_SESSIONS} x {FEW_SUBSCRIPTIONS}",
            lambda server: arrivals.announce(server, "ordinary", few, options.blocks),
        )
        probed = targets["single"][:PROBED]
        crowd = targets["crowd"]
        sessions = min(MANY_SESSIONS, len(crowd) // MANY_SUBSCRIPTIONS)
        many = _dealt(crowd, sessions, MANY_SUBSCRIPTIONS)
        touched = sessions * MANY_SUBSCRIPTIONS
        yield (
            f"busy block to {sessions:,d} x {MANY_SUBSCRIPTIONS}",
            lambda server: arrivals.announce(
                server, "busy", many, options.blocks, expected=touched
            ),
        )
        yield (
            "while a busy block comes in",
            lambda server: arrivals.busy_block(server, probed[:1_500]),
        )
        yield (
            "while the mempool comes in",
            lambda server: arrivals.mempool(server, targets, probed[1_500:]),
        )
        yield (
            f"memory of {options.sessions:,d} x {options.subscriptions}",
            lambda server: arrivals.memory(
                server, targets["crowd"], options.sessions, options.subscriptions
            ),
        )


def _dealt(names, sessions, each):
    """Lists of so many names, dealt in turn."""
    return [
        [names[(number * each + n) % len(names)] for n in range(each)] for number in range(sessions)
    ]


def brief(figures):
    """A line of figures for people."""
    return ", ".join(
        f"{key} {value:,.1f}" if isinstance(value, float) else f"{key} {value}"
        for key, value in figures.items()
    )
