#!/usr/bin/env python3
"""Draws docs/_static/performance.svg from figures.json, which has the latest measurements.

    python -m benchmarks.plot

The figures are those of docs/performance.rst: after a run of ``make bench`` enter them there and
here.  A test compares the picture with the data.
"""

import json
from html import escape
from pathlib import Path

from tests.conftest import REPOSITORY

DATA = Path(__file__).parent / "figures.json"
PICTURE = REPOSITORY / "docs" / "_static" / "performance.svg"
WIDTH, BAR_LEFT, BAR_WIDTH, ROW = 640, 180, 360, 26
STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1b1f24}.t{font-weight:600}.q{fill:#57606a;"
    "font-size:12px}rect{fill:#8a94a3}.us{fill:#2463c4}@media (prefers-color-scheme:dark)"
    "{text{fill:#e8ebef}.q{fill:#a3adb9}.us{fill:#79adff}}"
)


def drawing(charts):
    """Return the picture of charts: bars in proportion, with their figures."""
    parts, y = [], 24
    for chart in charts.values():
        parts.append(f'<text class="t" x="8" y="{y}">{escape(chart["title"])}</text>')
        note = f"{chart['note']}; {chart['better']} is better"
        parts.append(f'<text class="q" x="8" y="{y + 18}">{escape(note)}</text>')
        y += 30
        most = max(value for _name, value in chart["rows"])
        for name, value in chart["rows"]:
            width = max(1.0, value / most * BAR_WIDTH)
            own = ' class="us"' if name.startswith("this server") else ""
            parts.append(f'<text x="8" y="{y + 16}">{escape(name)}</text>')
            parts.append(
                f'<rect{own} x="{BAR_LEFT}" y="{y + 3}" width="{width:.1f}" height="{ROW - 8}"/>'
            )
            parts.append(f'<text x="{BAR_LEFT + width + 8:.1f}" y="{y + 16}">{value:,}</text>')
            y += ROW
        y += 28
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - 10}" role="img">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


def main():
    """Draw the picture."""
    PICTURE.write_text(drawing(json.loads(DATA.read_text())))


if __name__ == "__main__":
    main()
