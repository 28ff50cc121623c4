"""The limits that the operator sets for one client session, and how fast its cost decays."""

from dataclasses import dataclass
from functools import lru_cache

from electrumx.server.env import Env

# A session without subscriptions decays by a hard limit in this many seconds.
SESSION_FORGET_SECS = 10_000
# How many seconds longer that takes for each subscription it holds.
FORGET_SECS_PER_SUB = 5
# Whatever a session or a group has cost, it retains at most this many hard limits.
MAX_DEBT = 1.2


@lru_cache(maxsize=64)
def decay_per_sec(hard_limit: float, subscriptions: int = 0) -> float:
    """Return the cost that a session decays by each second."""
    return hard_limit / (SESSION_FORGET_SECS + FORGET_SECS_PER_SUB * subscriptions)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits of a session; costs are in the unit of ``CostAccount``."""

    #: above it the server throttles requests
    cost_soft_limit: float
    #: the session ends at it
    cost_hard_limit: float
    #: cost of a byte sent or received
    bw_cost_per_byte: float
    #: seconds that a request sleeps at the hard limit
    cost_sleep: float
    #: requests that run at once without throttling
    initial_concurrent: int
    #: seconds that a request has for its answer
    processing_timeout: float
    #: whether throttling and time-outs apply to the session
    limited: bool = True

    @classmethod
    def from_env(cls, env: Env) -> "SessionLimits":
        """Return the limits of wallets, as the environment sets them."""
        return cls(
            cost_soft_limit=env.cost_soft_limit,
            cost_hard_limit=env.cost_hard_limit,
            bw_cost_per_byte=1 / env.bw_unit_cost,
            cost_sleep=env.request_sleep / 1000,
            initial_concurrent=env.initial_concurrent,
            processing_timeout=env.request_timeout,
        )


#: of the administrator: shown in tables, but not enforced
UNLIMITED = SessionLimits(0, 0, 0.0, 0.0, 20, 30.0, limited=False)
