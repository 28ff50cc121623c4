"""Kills a server again and again on one database and checks it after each kill.

    with Zygote() as zygote:
        campaign = Campaign(zygote, folder, engine="leveldb", seed=1)
        campaign.run([Kill("flush: history written", 2), Kill(after=0.05)])

After a kill the database is opened, sometimes killed while it recovers, opened again and audited:
it must be at the last state that the dead process had committed, or the one it was committing,
and there equal an undisturbed server's, row by row.  The node may have gone back to the
branch that was being undone.  At the end the whole story is indexed and audited.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.stories import REORG_LIMIT, story

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT = 150
SIGKILL = -9


class Discrepancy(AssertionError):
    """The database differs from that of an undisturbed server."""


@dataclass(frozen=True)
class Kill:
    """When to kill: at the ``at``-th passing of a named instant, or ``after`` seconds."""

    point: str | None = None
    at: int = 1
    after: float | None = None
    reorg_limit: int = REORG_LIMIT
    #: a kill that must have come right before, for the instant to be passed at all
    after_kill: "Kill | None" = None

    def __str__(self):
        if self.point:
            return f"passing {self.at} of “{self.point}”"
        return f"{self.after:.3f} s after the start"


@dataclass
class Stats:
    """Counts of a campaign."""

    kills: int = 0
    #: kills of a process that was opening after a kill
    kills_in_recovery: int = 0
    #: kills at random instants of a bulk sync
    random_in_bulk: int = 0
    audits: int = 0
    by_point: Counter[str] = field(default_factory=Counter)


class Zygote:
    """The process that forks those to be killed."""

    def __enter__(self):
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        return self

    def __exit__(self, *_exc_info):
        self._popen.stdin.close()
        self._popen.wait(TIMEOUT)
        self._popen.stdout.close()

    def run(self, job, spec, kill_after=None):
        """Run a job in a process of its own; its answer."""
        request = {"job": job, "spec": spec, "kill_after": kill_after, "timeout": TIMEOUT}
        self._popen.stdin.write(json.dumps(request) + "\n")
        self._popen.stdin.flush()
        line = self._popen.stdout.readline()
        assert line, "the zygote died"
        return json.loads(line)


class Campaign:
    """One database, and the kills that it has to bear."""

    def __init__(self, zygote, folder, *, engine, seed, **more):
        """``more`` goes into every spec: mutation, variable_headers, compact, bulk."""
        self.zygote = zygote
        self.folder = Path(folder)
        self.engine = engine
        self.seed = seed
        self.more = more
        self.random = random.Random(f"{engine} {seed}")
        self.stats = Stats()
        self.story = story(seed)
        self.databases = 0
        self.history = []
        self._new_database()

    def _new_database(self):
        self.databases += 1
        self.dir = self.folder / f"db{self.databases}"
        self.dir.mkdir()
        #: index of the target that the node was last at, and of the last that it ever was at
        self.reached = self.furthest = 0
        self.history = []

    def spec(self, **more):
        """Return the parameters of a child's next run; ``more`` overrides some."""
        spec = {
            "dir": str(self.dir),
            "engine": self.engine,
            "seed": self.seed,
            **self.more,
            "reorg_limit": REORG_LIMIT,
            "flush_seed": self.random.randrange(1 << 30),
        }
        return spec | more

    def _journal(self):
        path = Path(f"{self.dir}.journal")
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split(" ", 1) for line in lines]

    def _fail(self, what, answer):
        story_so_far = "; ".join(self.history)
        raise Discrepancy(
            f"{what}\n{self.engine}, seed {self.seed}, killed at: {story_so_far}\n"
            f"{answer['output'][-2000:]}\n{answer['errors'][-4000:]}"
        )

    # -- one step

    def _path(self):
        """Indices of the targets from here on, perhaps with the branch left behind first."""
        start = self.reached
        self.furthest = max(self.furthest, start)
        # Going back twice would lead to an ancestor of where the database may be: a node that only
        # is behind, which undoes nothing.
        back = self.story.may_go_back(start) and start == self.furthest
        if back and self.random.random() < 0.7:
            start -= 1
        return list(range(start, len(self.story.targets)))

    def _run_until(self, kill):
        """Run until killed; False if the kill never came because the story ended first."""
        spec = self.spec(
            path=self._path(),
            kill_point=kill.point,
            kill_at=kill.at,
            reorg_limit=kill.reorg_limit,
        )
        before = len(self._journal())
        answer = self.zygote.run("follow", spec, kill.after)
        for word, *rest in self._journal():
            if word == "target":
                self.reached = int(rest[0])
        if answer["status"] == SIGKILL:
            if kill.point is None and answer["seconds"] > TIMEOUT:
                self._fail("the server did not get to the node's tip", answer)
            # Other threads may have written something yet.
            if kill.point and ["killed", kill.point] not in self._journal()[before:]:
                self._fail("the server did not get to the node's tip", answer)
            self._count(kill)
            return True
        if answer["status"] != 0:
            self._fail("the server failed", answer)
        return False

    def _count(self, kill):
        self.history.append(str(kill))
        self.stats.kills += 1
        self.stats.by_point[kill.point or "random"] += 1
        if kill.point is None and (self.dir / "bulk_sync").exists():
            self.stats.random_in_bulk += 1

    def job(self, name, kill=None, **more):
        """Run a job; return whether it was killed, as ``kill`` demands."""
        if kill:
            more |= {"kill_point": kill.point, "kill_at": kill.at}
        before = len(self._journal())
        answer = self.zygote.run(name, self.spec(**more))
        killed = answer["status"] == SIGKILL
        if kill and killed and ["killed", kill.point] in self._journal()[before:]:
            self._count(kill)
            return True
        if answer["status"] != 0:
            self._fail(f"the job {name} failed", answer)
        return False

    def sync(self, last):
        """Index the story up to a target, without kills."""
        self.job("follow", path=list(range(self.reached, last + 1)))
        self.reached = last

    def kill_once(self, kill):
        """Let one kill happen, on a new database if this one's story ends before it."""
        for _attempt in range(4):
            if kill.after_kill:
                self.kill_once(kill.after_kill)
            if self._run_until(kill):
                return
            self.inspect(final=True)
            self._new_database()
        if kill.point:
            raise Discrepancy(f"the server never came to {kill}")

    def inspect(self, final=False):
        """Open the database and audit it."""
        answer = self.zygote.run("inspect", self.spec())
        self.stats.audits += 1
        if answer["status"] != 0:
            self._fail("the database does not open", answer)
        result = json.loads(answer["output"])
        if result["problems"]:
            self._fail("\n".join(result["problems"][:10]), answer)
        # The journal has the tips at which this and every earlier opening found the database.
        self._allowed_tips()
        if final and result["tip"] != self.story.targets[-1].hex():
            self._fail(f"ended at height {result['height']}", answer)
        if final and result["first_sync"]:
            self._fail("the first synchronisation, or merging after it, has no end", answer)

    def _allowed_tips(self):
        """The tips of the last state committed and of those that were being committed.

        Each opening is checked on the way.
        """
        tips = ["-"]
        for word, *rest in self._journal():
            if word == "begin":
                tips += rest
            elif word == "done":
                tips = rest
            elif word == "opened":
                if rest[0] not in tips:
                    raise Discrepancy(f"opened at {rest[0]}, which is none of {tips}")
                tips = rest
        return set(tips)

    def bulk_secs(self):
        """Seconds from the start of a process to the end of its bulk sync, on a database of its own."""
        spec = self.spec(path=self._path(), kill_point="bulk: database opened", kill_at=1)
        answer = self.zygote.run("follow", spec)
        if answer["status"] != SIGKILL:
            self._fail("the bulk sync has no end", answer)
        self._new_database()
        return answer["seconds"]

    # -- all

    def run(self, kills):
        """Bear these kills and end the story; returns the statistics."""
        for kill in kills:
            self.kill_once(kill)
            if self.random.random() < 0.3:
                self._kill_recovery()
            if self.random.random() < 0.8:
                self.inspect()
        self.finish()
        return self.stats

    def _kill_recovery(self):
        """Kill the next start within its first milliseconds, while it opens."""
        if self._run_until(Kill(after=self.random.uniform(0.0, 0.05))):
            self.stats.kills_in_recovery += 1

    def finish(self):
        """Let the server end the story without kills and compare everything."""
        answer = self.zygote.run("follow", self.spec(path=self._path()))
        if answer["status"] != 0:
            self._fail("the server failed", answer)
        self.inspect(final=True)
        return json.loads(answer["output"])
