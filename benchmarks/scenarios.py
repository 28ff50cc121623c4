"""The requests to a server, scenario by scenario, about the targets of a chain."""

import random
from dataclasses import dataclass

from benchmarks.wire import body

SCRIPT = "blockchain.scripthash."
#: scripts that were paid to once: the first are left to probes, see arrivals.py
PROBED = 6_000
SUBSCRIPTIONS = 10_000
#: as a wallet that waits for each answer
SERIAL = "header, one at a time"
HOT = 20


@dataclass(frozen=True)
class Scenario:
    """Requests, which connections send in turn.

    bodies:      see wire.body; one after the other, and from the start again
    connections: how many there are; depth: requests of each that are under way
    once:        each request is sent once, instead of as many as there is time for
    """

    name: str
    bodies: list
    connections: int = 4
    depth: int = 32
    once: bool = False


def scenarios(targets):
    """All scenarios that a chain has targets for, in the order in which they are run."""
    mixed = random.Random(1)

    def scripts(group, count=None):
        names = [item[0] if isinstance(item, list) else item for item in targets[group]]
        mixed.shuffle(names)
        return names[:count]

    def about(method, names):
        return [body(SCRIPT + method, name) for name in names]

    # The first has the longest history; no shuffling
    huge = [targets["huge"][0][0]]
    small, medium = scripts("small"), scripts("medium")
    fresh = [*targets["single"][PROBED:], *targets["crowd"]][:SUBSCRIPTIONS]
    mixed.shuffle(fresh)
    txs = list(targets["txs"])
    mixed.shuffle(txs)
    height = targets["height"]
    header = [body("blockchain.block.header", mixed.randrange(height)) for _ in range(5_000)]
    headers = [body("blockchain.block.headers", start, 2016) for start in range(300)]
    merkle = "blockchain.transaction.get_merkle"
    few = {"connections": 2, "depth": 2}
    made = [
        Scenario("ping", [body("server.ping")]),
        Scenario("header", header),
        Scenario(SERIAL, header, connections=1, depth=1),
        Scenario("2016 headers", headers, depth=4),
        Scenario("history, small", about("get_history", small)),
        # Each once: nothing is remembered of it; then some again and again
        Scenario("history, medium, cold", about("get_history", medium), depth=8, once=True),
        Scenario("history, medium, hot", about("get_history", medium[:HOT]), depth=8),
        Scenario("history, huge", about("get_history", huge), **few),
        Scenario("balance, small", about("get_balance", small)),
        Scenario("balance, huge", about("get_balance", huge), **few),
        Scenario("unspent, small", about("listunspent", small)),
        Scenario("unspent, huge", about("listunspent", huge), **few),
        Scenario("transaction", [body("blockchain.transaction.get", txid) for txid, _ in txs]),
        Scenario("merkle branch", [body(merkle, *pair) for pair in txs]),
        Scenario("subscribe", about("subscribe", fresh), once=True),
    ]
    return [scenario for scenario in made if scenario.bodies]
