"""Many sessions that subscribe and wait, in processes of their own, with a stopwatch each.

A process has no more sessions than its limit of open files bears; every session comes from one of
many loopback addresses, as if from elsewhere.  When something arrives, a session only notes the time
and the bytes: these are parsed when it is over.
"""

import asyncio
import multiprocessing
import resource
import time
from dataclasses import dataclass

from benchmarks.wire import HELLO, Lines, body, id_of, line

SESSIONS_PER_PROCESS = 4_000
#: sessions of a process that subscribe at a time; the peer may take a second to answer the last
#: request of each
WAVE = 500
START_SECS = 900
HEADERS = b'"blockchain.headers.subscribe"'
SCRIPTS = b'"blockchain.scripthash.subscribe"'


@dataclass
class Heard:
    """A session's notifications: when the header came, when the last status, and how many."""

    header_at: float
    last_at: float
    statuses: int
    headers: int


class Session(asyncio.Protocol):
    """One of the audience."""

    __slots__ = ("_arrived", "_lines", "_missing", "ready", "transport")

    def __init__(self, scripthashes):
        self._lines = Lines()
        self._arrived = []
        requests = [body("blockchain.headers.subscribe")]
        requests += [body("blockchain.scripthash.subscribe", name) for name in scripthashes]
        self._missing = len(requests) + 1
        self.ready = asyncio.get_running_loop().create_future()
        self.transport = requests

    def connection_made(self, transport):
        requests, self.transport = self.transport, transport
        numbered = [line(n, request) for n, request in enumerate(requests, start=1)]
        transport.writelines((HELLO, *numbered))

    def data_received(self, data):
        if self._missing:
            self._missing -= sum(id_of(reply) is not None for reply in self._lines.feed(data))
            if not self._missing:
                self.ready.set_result(None)
        else:
            self._arrived.append((time.monotonic(), data))

    def connection_lost(self, exc):
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(f"the server hung up: {exc}"))

    def count(self):
        """Notifications that have arrived."""
        return sum(data.count(b'"method"') for _at, data in self._arrived)

    def clear(self):
        """Forget all arrivals."""
        self._arrived = []

    def heard(self):
        """The arrivals; times of CLOCK_MONOTONIC, 0 if nothing did."""
        result = Heard(0.0, 0.0, 0, 0)
        lines = Lines()
        for at, data in self._arrived:
            for text in lines.feed(data):
                if HEADERS in text:
                    result.headers += 1
                    result.header_at = at
                elif SCRIPTS in text:
                    result.statuses += 1
                    result.last_at = at
        return result


async def _listen(port, first, subscriptions, pipe):
    """The life of a process: connect all clients, then obey the pipe."""
    loop = asyncio.get_running_loop()
    sessions = []
    for start in range(0, len(subscriptions), WAVE):
        wave = []
        for number, names in enumerate(subscriptions[start : start + WAVE], start=first + start):
            source = (f"127.{1 + number // 200 % 200}.{1 + number % 200}.1", 0)
            _transport, session = await loop.create_connection(
                lambda names=names: Session(names), "127.0.0.1", port, local_addr=source
            )
            wave.append(session)
        await asyncio.gather(*(session.ready for session in wave))
        sessions += wave
    actions = {
        "count": lambda: sum(session.count() for session in sessions),
        "clear": lambda: [session.clear() for session in sessions] and None,
        "heard": lambda: [session.heard() for session in sessions],
    }
    pipe.send("ready")
    asked = asyncio.Event()
    loop.add_reader(pipe.fileno(), asked.set)
    while True:
        await asked.wait()
        asked.clear()
        while pipe.poll():
            what = pipe.recv()
            if what == "end":
                return
            pipe.send(actions[what]())


def _process(port, first, subscriptions, pipe):
    raise_file_limit()
    asyncio.run(_listen(port, first, subscriptions, pipe))


def raise_file_limit():
    """Let this process open as many files as it may at all."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Audience:
    """Sessions with these subscriptions, a list of scripthashes each; a context manager."""

    def __init__(self, port, subscriptions, *, processes=1):
        context = multiprocessing.get_context("spawn")
        size = min(SESSIONS_PER_PROCESS, -(-len(subscriptions) // processes))
        self.size = len(subscriptions)
        self._members = []
        for first in range(0, self.size, size):
            ours, theirs = context.Pipe()
            part = subscriptions[first : first + size]
            process = context.Process(
                target=_process, args=(port, first, part, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._members.append((process, ours))

    def __enter__(self):
        try:
            for process, pipe in self._members:
                if not pipe.poll(START_SECS):
                    raise TimeoutError(f"process {process.pid}: sessions are not subscribed")
                pipe.recv()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc):
        for process, pipe in self._members:
            try:
                pipe.send("end")
            except OSError:
                pass  # it has ended
            process.join(30)
            pipe.close()

    def _ask(self, what):
        for _process, pipe in self._members:
            pipe.send(what)
        return [pipe.recv() for _process, pipe in self._members]

    def count(self):
        """Notifications since the last `clear`, of all sessions."""
        return sum(self._ask("count"))

    def clear(self):
        """Forget all arrivals."""
        self._ask("clear")

    def heard(self):
        """The notifications of each session since the last `clear`."""
        return [heard for part in self._ask("heard") for heard in part]


class Prober(asyncio.Protocol):
    """Asks at a steady pace, whether the last answer has come or not, and times the answers."""

    def __init__(self, bodies):
        self._bodies = iter(bodies)
        self._lines = Lines()
        self._under_way = {}
        self._number = 0
        self.ready = asyncio.get_running_loop().create_future()
        #: when each was asked, and how long it took
        self.waits = []

    def connection_made(self, transport):
        self.transport = transport
        transport.write(HELLO)

    def data_received(self, data):
        now = time.monotonic()
        for reply in self._lines.feed(data):
            number = id_of(reply)
            if number == 0:
                self.ready.set_result(None)
            elif number in self._under_way:
                at = self._under_way.pop(number)
                self.waits.append((at, now - at))

    def ask(self):
        """Send the next request; False after the last."""
        request = next(self._bodies, None)
        if request is None:
            return False
        self._number += 1
        self._under_way[self._number] = time.monotonic()
        self.transport.write(line(self._number, request))
        return True

    @property
    def unanswered(self):
        return len(self._under_way)


async def probe(port, bodies, pause, stop, pipe):
    """Ask at a steady pace until stopped; send "ready", and at the end (waits, how many unanswered)."""
    loop = asyncio.get_running_loop()
    _transport, prober = await loop.create_connection(
        lambda: Prober(bodies), "127.0.0.1", port, local_addr=("127.250.0.1", 0)
    )
    await prober.ready
    pipe.send("ready")
    due = loop.time()
    while not stop.is_set():
        if not prober.ask():
            break
        due += pause
        await asyncio.sleep(max(0, due - loop.time()))
    end = loop.time() + 60
    while prober.unanswered and loop.time() < end:  # noqa: ASYNC110  not worth an event
        await asyncio.sleep(0.05)
    pipe.send((prober.waits, prober.unanswered))


def _probe_process(*args):
    asyncio.run(probe(*args))


class Probe:
    """A process that asks at a steady pace while the block lasts; a context manager.

    waits: seconds that each answer took, of those sent from the time given to `mark` on, until the
    one given to `mark_end`
    """

    def __init__(self, port, bodies, pause):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._stop = context.Event()
        self._process = context.Process(
            target=_probe_process, args=(port, bodies, pause, self._stop, theirs), daemon=True
        )
        self._mark, self._end = 0.0, float("inf")
        self.waits = []
        self.unanswered = 0

    def __enter__(self):
        self._process.start()
        if not self._pipe.poll(60):
            raise TimeoutError("the server does not greet")
        self._pipe.recv()
        return self

    def mark(self, at):
        """From then on it counts; a time of CLOCK_MONOTONIC."""
        self._mark = at

    def mark_end(self, at):
        """Until then it counts."""
        self._end = at

    def __exit__(self, *_exc):
        self._stop.set()
        waits, self.unanswered = self._pipe.recv() if self._pipe.poll(90) else ([], -1)
        self._process.join(30)
        self.waits = [wait for at, wait in waits if self._mark <= at <= self._end]
