"""Results: one table for people, and JSON with everything in it.

A ratio is ours to the peer's, so that less is better for what is spent, and more is better for what
is named ``.../s``.
"""

import json
import math
import time

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


def sync_table(results, figures):
    """Servers by figures, each with its ratio to the peer with the same settings."""
    heads, rows = ["sync from nothing", *figures, *(f"x {name}" for name in figures)], []
    for name, mine in results.items():
        other = results.get(PEER + name[name.find(":") :] if ":" in name else PEER, {})
        row = [name, *(number(mine[key]) for key in figures)]
        rows.append([*row, *(number(ratio(mine[key], other.get(key))) for key in figures)])
    return columns(heads, rows)


def serving_table(results, servers):
    """Scenarios by servers: CPU and rate or time of each, the first's ratio to the second.

    results: scenario -> server -> (figures, the name of the one that is compared first)
    """
    heads, rows, ratios = ["serving", *servers, "ratio"], [], []
    for scenario, by_server in results.items():
        for key in next(iter(by_server.values())):
            if key.startswith("_"):
                continue
            row = [f"{scenario}: {key}"]
            row += [number(by_server.get(name, {}).get(key)) for name in servers]
            compared = None
            if len(servers) > 1:
                values = [by_server.get(name, {}).get(key) for name in servers[:2]]
                compared = ratio(*values)
            if compared and key == "CPU us":
                ratios.append(compared)
            rows.append([*row, number(compared)])
    mean = geometric_mean(ratios)
    if mean:
        label = f"geometric mean of {len(ratios)} CPU ratios"
        rows.append([label, *([""] * len(servers)), number(mean)])
    return columns(heads, rows)


def save(folder, results):
    """Write the JSON beside earlier ones; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("results-%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path
