"""The cost of one session, and how many requests it may therefore run at once.

``prices`` has the prices, ``session_groups`` the groups of sessions that share costs; this is the
arithmetic of one session.  Runs on the event loop.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import TypeVar

from electrumx.server.session.engine.owner import ENDED, AccountOwner
from electrumx.server.session.engine.params import ServerFault
from electrumx.server.session.engine.session_limits import MAX_DEBT, SessionLimits, decay_per_sec

T = TypeVar("T")

# How much the cost has to change before the account computes concurrency again.
RECALC_COST = 100
# Of a second of processor time, where no price is known beforehand: two seconds cost the default
# hard limit.
CPU_SEC_COST = 5_000.0
# Of an error, in addition to the cost of its processing.
ERROR_COST = 100.0


class CostAccount:
    """A cost that grows with use and decays with time.

    Above the soft limit requests sleep, for ``cost_sleep`` seconds times ``cost_fraction``, and
    fewer run at once; at the hard limit none does, and the session ends.
    """

    # Small, for there may be many thousands.
    __slots__ = (
        "_cost_last",
        "_cost_time",
        "_owner",
        "bw_cost_per_byte",
        "concurrency_target",
        "cost",
        "cost_decay_per_sec",
        "cost_fraction",
        "errors",
        "leniency",
        "limited",
        "limits",
        "start_time",
    )

    def __init__(self, owner: AccountOwner, limits: SessionLimits) -> None:
        self._owner = owner
        self.limits = limits
        #: whether it throttles
        self.limited = limits.limited
        self.bw_cost_per_byte = limits.bw_cost_per_byte
        self.cost_decay_per_sec = decay_per_sec(limits.cost_hard_limit)
        #: how many requests may run at once
        self.concurrency_target = limits.initial_concurrent
        #: by the monotonic clock, as that of the day may jump at any time
        self.start_time = time.monotonic()
        self.errors = 0
        self.cost = 0.0
        #: how far the cost is from the soft to the hard limit: 0 to 1, and above
        self.cost_fraction = 0.0
        #: the divisor of its costs
        self.leniency = 1.0
        # The cost when concurrency was last computed, and when that was
        self._cost_last = 0.0
        self._cost_time = self.start_time

    def set_limits(self, limits: SessionLimits) -> None:
        """Change the limits; the cost stays."""
        self.limits = limits
        self.bw_cost_per_byte = limits.bw_cost_per_byte
        # Where no session has limits, nothing computes the target.
        self.concurrency_target = limits.initial_concurrent
        self._set_fraction(0.0)
        self.recalc_concurrency()

    def on_lost(self) -> None:
        """End: the session has."""
        self._owner = ENDED

    def bump_cost(self, delta: float) -> None:
        """Charge ``delta``, or refund it if it is negative."""
        cost = self.cost + delta
        self.cost = cost if cost > 0 else 0.0
        if not -RECALC_COST <= cost - self._cost_last <= RECALC_COST:
            self.recalc_concurrency()

    def bump_errors(self, error: BaseException | None = None) -> None:
        """Count an error; charge for it and for its ``cost``, unless the fault is ours."""
        self.errors += 1
        price = 0.0 if isinstance(error, ServerFault) else ERROR_COST
        self.bump_cost(price + getattr(error, "cost", 0.0))

    async def in_thread(self, covered: float, function: Callable[..., T], *args: object) -> T:
        """Return ``function(*args)``, run in a thread, and charge for the processor time it took.

        ``covered`` is the cost already charged for it.
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
        """Return the cost that the limits apply to: its own, plus the share of its groups."""
        return self.cost / self.leniency + self._owner.extra_cost()

    def is_over_limit(self) -> bool:
        """Return whether the session, with its groups, has reached the hard limit."""
        return self.limited and self.concurrency_target <= 0

    def recalc_concurrency(self) -> None:
        """Decay the cost, and set how many requests may run and how long they sleep."""
        now = time.monotonic()
        decay = self.cost_decay_per_sec * self.leniency
        self.cost = max(0.0, self.cost - (now - self._cost_time) * decay)
        self._cost_time = now
        limits = self.limits
        cost_range = limits.cost_hard_limit - limits.cost_soft_limit
        if cost_range <= 0:
            self._cost_last = self.cost
            return  # no session has limits
        self.cost = min(self.cost, MAX_DEBT * limits.cost_hard_limit * self.leniency)
        self._cost_last = self.cost
        before = self.concurrency_target
        cost = self.effective_cost()
        self._set_fraction(max(0.0, (cost - limits.cost_soft_limit) / cost_range))
        target = max(0, math.ceil((1.0 - self.cost_fraction) * limits.initial_concurrent))
        if abs(target - before) > 1:
            text = f"changing task concurrency from {before} to {target}"
            self._owner.log_limited("changing task concurrency", text)
        self.concurrency_target = target
        if self.is_over_limit():
            self._owner.on_hard_limit()

    def _set_fraction(self, fraction: float) -> None:
        was_throttled, self.cost_fraction = self.cost_fraction > 0, fraction
        if (fraction > 0) != was_throttled:
            self._owner.on_throttled(throttled=fraction > 0)


class FreeAccount(CostAccount):
    """An account without charges, which counts errors."""

    __slots__ = ()

    def bump_cost(self, delta: float) -> None:
        """Charge nothing."""
