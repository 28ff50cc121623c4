"""The account of one session: what it cost, and how many requests it may therefore run at once.

``limits`` says what things cost and who shares in it; this is the arithmetic.  On the event loop.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from electrumx.server.session.engine.params import ServerFault

T = TypeVar("T")

# The cost is looked at again, with all that follows, when it has moved by so much.
RECALC_COST = 100
# Of a second of processor time, where no price is known beforehand: two seconds cost the default
# hard limit.
CPU_SEC_COST = 5_000.0
# Whatever a session or a group has cost, no more hard limits than this are remembered.
MAX_DEBT = 1.2


class CostAccount:
    """Costs that grow with use and are forgiven with time.

    Above the soft limit requests sleep, for ``cost_sleep`` seconds times ``_cost_fraction``, and
    fewer run at once; at the hard limit none does, and the session ends.
    """

    # Small, for there may be many thousands: subclasses keep the rest in their dictionaries.
    __slots__ = (
        "_cost_fraction",
        "_cost_last",
        "_cost_time",
        "bw_cost_per_byte",
        "concurrency_target",
        "cost",
        "cost_decay_per_sec",
        "cost_hard_limit",
        "cost_sleep",
        "cost_soft_limit",
        "errors",
        "initial_concurrent",
        "leniency",
        "processing_timeout",
        "start_time",
    )

    # An error costs this, and whatever it took to find out.
    ERROR_COST = 100.0

    logger: Any
    # Set from the limits of the server, before anything is charged
    cost_soft_limit: float
    cost_hard_limit: float
    cost_decay_per_sec: float
    bw_cost_per_byte: float
    cost_sleep: float
    initial_concurrent: int
    processing_timeout: float
    #: how many requests may run at once
    concurrency_target: int

    def __init__(self) -> None:
        # Only durations are made of it: the clock of the day may be set at any time.
        self.start_time = time.monotonic()
        self.errors = 0
        self.cost = 0.0
        self._cost_last = 0.0
        self._cost_time = self.start_time
        self._cost_fraction = 0.0
        # Its costs count for so many times less.
        self.leniency = 1.0

    def log_limited(self, kind: str, text: str, level: int = logging.INFO) -> None:
        """Log what a client can cause as often as it likes; ``kind`` is what such lines share."""
        self.logger.log(level, text)

    def extra_cost(self) -> float:
        """Return what others add to this session's cost."""
        return 0.0

    def bump_cost(self, delta: float) -> None:
        """Charge, or refund what is negative."""
        cost = self.cost + delta
        self.cost = cost if cost > 0 else 0.0
        if not -RECALC_COST <= cost - self._cost_last <= RECALC_COST:
            self.recalc_concurrency()

    def bump_errors(self, error: BaseException | None = None) -> None:
        """Count an error; charge for it, and what it says it cost, unless the fault is ours."""
        self.errors += 1
        price = 0.0 if isinstance(error, ServerFault) else self.ERROR_COST
        self.bump_cost(price + getattr(error, "cost", 0.0))

    async def in_thread(self, covered: float, function: Callable[..., T], *args: Any) -> T:
        """Return ``function(*args)``, run in a thread, and charge for the processor time it took.

        ``covered`` is what was charged for that already.
        """
        spent = 0.0

        def call() -> T:
            nonlocal spent
            began = time.thread_time()
            try:
                return function(*args)
            finally:
                spent = time.thread_time() - began

        try:
            return await asyncio.to_thread(call)
        finally:
            self.bump_cost(max(0.0, spent * CPU_SEC_COST - covered))

    def effective_cost(self) -> float:
        """Return what is held against the limits: the own cost, and what groups add."""
        return self.cost / self.leniency + self.extra_cost()

    def retry_secs(self) -> int:
        """Return after how many seconds a client over the limit is served again."""
        return 1

    def recalc_concurrency(self) -> None:
        """Forgive what is due, and set how many requests may run and how long they sleep."""
        now = time.monotonic()
        decay = self.cost_decay_per_sec * self.leniency
        self.cost = max(0.0, self.cost - (now - self._cost_time) * decay)
        self._cost_time = now
        cost_range = self.cost_hard_limit - self.cost_soft_limit
        if cost_range <= 0:
            self._cost_last = self.cost
            return  # nobody is limited
        self.cost = min(self.cost, MAX_DEBT * self.cost_hard_limit * self.leniency)
        self._cost_last = self.cost
        before = self.concurrency_target
        cost = self.effective_cost()
        self._cost_fraction = max(0.0, (cost - self.cost_soft_limit) / cost_range)
        target = max(0, math.ceil((1.0 - self._cost_fraction) * self.initial_concurrent))
        if abs(target - before) > 1:
            text = f"changing task concurrency from {before} to {target}"
            self.log_limited("changing task concurrency", text)
        self.concurrency_target = target
