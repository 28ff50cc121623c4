"""The picture of the figures is drawn from them, and they are those of the manual."""

import json
import re
from xml.etree import ElementTree

from benchmarks import plot
from tests.conftest import REPOSITORY


def test_the_picture_is_that_of_the_data():
    charts = json.loads(plot.DATA.read_text())
    assert plot.PICTURE.read_text() == plot.drawing(charts)
    ElementTree.fromstring(plot.PICTURE.read_text())


def test_every_figure_is_in_the_manual():
    page = (REPOSITORY / "docs" / "performance.rst").read_text()
    found = set(re.findall(r"[\d,.]+", page))
    for chart in json.loads(plot.DATA.read_text()).values():
        for _name, value in chart["rows"]:
            assert f"{value:,}" in found
