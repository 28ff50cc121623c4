"""Results: one table for people, and JSON with everything in it.

A ratio is a server's figure divided by that of another version of ours with the same engine and
settings; in a run without one, by the peer's.
"""

import json
import math
import time

from benchmarks.scenarios import SERIAL
from benchmarks.servers import BEFORE_NAME

PEER = "e-x-leveldb"


def number(value):
    """A figure, with three digits that mean something."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(digits, 4)}f}"


def geometric_mean(values):
    """The geometric mean; None of nothing."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def ratio(mine, other):
    """How a figure compares; None if one is missing or nothing."""
    return mine / other if mine and other else None


def columns(heads, rows):
    """Lines of a table, the first column to the left, the others to the right."""
    table = [heads, *rows]
    widths = [max(len(row[n]) for row in table) for n in range(len(heads))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def compared_with(name, names):
    """Of these servers, the one that a server is compared with; a name that may be none of theirs."""
    program, _, settings = name.partition(":")
    before = BEFORE_NAME + program[program.rfind("-") :]
    found = [f"{server}:{settings}" if settings else server for server in (before, PEER)]
    return found[0] if found[0] in names else found[1]


def sync_table(results, figures):
    """Servers by figures, each with its ratio to the one that it is compared with."""
    heads, rows = ["sync from nothing", *figures, *(f"x {name}" for name in figures)], []
    for name, mine in results.items():
        other = results.get(compared_with(name, results), {})
        row = [name, *(number(mine[key]) for key in figures)]
        rows.append([*row, *(number(ratio(mine[key], other.get(key))) for key in figures)])
    return columns(heads, rows)


LOADED = ("CPU us", "/s", "p99 ms")


def serving_tables(results, servers):
    """The cost of requests, and everything else, as lines of two tables.

    results: scenario -> server -> figures; the ratio is that of the first server
    """
    loaded = {
        name: of_all for name, of_all in results.items() if "/s" in next(iter(of_all.values()))
    }
    others = {name: of_all for name, of_all in results.items() if name not in loaded}
    return [*_loaded_table(loaded, servers), "", *_others_table(others, servers)]


def _compared(of_all, servers, key):
    mine, other = servers[0], compared_with(servers[0], servers)
    return (
        ratio(of_all.get(mine, {}).get(key), of_all.get(other, {}).get(key))
        if mine != other
        else None
    )


def _loaded_table(results, servers):
    heads = ["requests", *(f"{name} {key}" for key in LOADED for name in servers), "x CPU"]
    rows, ratios = [], []
    for scenario, of_all in results.items():
        row = [number(of_all.get(name, {}).get(key)) for key in LOADED for name in servers]
        compared = _compared(of_all, servers, "CPU us")
        # Of few requests, which the peer answers late, most CPU is its constant use.
        ratios += [compared] if compared and scenario != SERIAL else []
        rows.append([scenario, *row, number(compared)])
    mean = number(geometric_mean(ratios))
    rows.append(["geometric mean", *[""] * (len(heads) - 2), mean])
    return columns(heads, rows)


def _others_table(results, servers):
    rows = []
    for scenario, of_all in results.items():
        for key in next(iter(of_all.values())):
            row = [number(of_all.get(name, {}).get(key)) for name in servers]
            rows.append([f"{scenario}: {key}", *row, number(_compared(of_all, servers, key))])
    return columns(["arrivals and memory", *servers, "ratio"], rows)


def stage_table(results):
    """Microseconds of each stage."""
    rows = [[name, number(value)] for name, value in results.items()]
    return columns(["stage", "CPU us"], rows)


def lookup_table(results):
    """Microseconds of each kind of look-up."""
    rows = [[name, number(value)] for name, value in results.items()]
    return columns(["look-up of an unspent output", "us"], rows)


def save(folder, results):
    """Write the JSON beside earlier ones; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("results-%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path
