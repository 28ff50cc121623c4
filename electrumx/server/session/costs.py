"""The account of one session: what it cost, and how many requests it may therefore run at once.

``limits`` says what things cost and who shares in it; this is the arithmetic.  On the event loop.
"""

import math
import time
from typing import Any

# The cost is looked at again, with all that follows, when it has moved by so much.
RECALC_COST = 100


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
        """Charge for an error of the client's, and what the error says it cost."""
        self.errors += 1
        self.bump_cost(self.ERROR_COST + getattr(error, "cost", 0.0))

    def recalc_concurrency(self) -> None:
        """Forgive what is due, and set how many requests may run and how long they sleep."""
        now = time.monotonic()
        self.cost = max(0.0, self.cost - (now - self._cost_time) * self.cost_decay_per_sec)
        self._cost_time = now
        self._cost_last = self.cost
        cost_range = self.cost_hard_limit - self.cost_soft_limit
        if cost_range <= 0:
            return  # nobody is limited
        before = self.concurrency_target
        cost = self.cost + self.extra_cost()
        self._cost_fraction = max(0.0, (cost - self.cost_soft_limit) / cost_range)
        target = max(0, math.ceil((1.0 - self._cost_fraction) * self.initial_concurrent))
        if abs(target - before) > 1:
            self.logger.info(f"changing task concurrency from {before} to {target}")
        self.concurrency_target = target
